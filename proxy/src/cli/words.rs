//! Numbers, spans and moments as people read them.

use std::fmt::{self, Write as _};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use pointsman_rollout::{AloneSummary, MirrorSummary, SplitSummary};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Width that everything printed keeps to, in columns.
pub(crate) const COLUMNS: usize = 80;

pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const CAREFUL: Style = AnsiColor::Yellow.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();

/// A page that grows by formatted text.
pub(crate) trait Say {
    /// Adds `words` at the end.
    fn say(&mut self, words: fmt::Arguments<'_>);
}

impl Say for String {
    fn say(&mut self, words: fmt::Arguments<'_>) {
        let written = self.write_fmt(words);
        debug_assert!(written.is_ok(), "a String takes every text");
    }
}

/// `text` in `style`; taken off again where the output is no terminal.
pub(crate) fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// `12345` as `12,345`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A measured ratio as a percentage: `0.12%`, `12.3%`, `100%`.
pub(crate) fn percent(ratio: f64) -> String {
    format!("{}%", significant(100.0 * ratio))
}

/// `part / whole`; none of nothing.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "counts stay far below 2^53; std has no lossless conversion"
)]
pub(crate) fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// A weight in percent, which is exact to 0.0001: `95%`, `0.0001%`.
pub(crate) fn weight(percent: f64) -> String {
    let text = format!("{percent:.4}");
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// The same without zeros at the end, for running text: `0.1%`, `5.2%`, `99%`.
pub(crate) fn percent_in_text(ratio: f64) -> String {
    let text = significant(100.0 * ratio);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}%")
}

/// An interval of this width around 0, in ratios, tells nothing: 20 points up or down.
const TELLS_NOTHING: f64 = 0.4;

/// How the canary's error rate stands to that of stable, as far as `low` to `high` lets anybody say.
pub(crate) fn rates(canary: &str, stable: &str, [low, estimate, high]: [f64; 3]) -> String {
    if (low..=high).contains(&0.0) && high - low > TELLS_NOTHING {
        return format!("{canary}'s error rate beside {stable}'s is not known yet");
    }
    format!("{canary}'s error rate is {} {stable}'s", beside(estimate))
}

/// A difference of ratios, as it stands before the name of the other: `0.02 points above`, `the same as`.
fn beside(difference: f64) -> String {
    match signed_points(difference).split_at_checked(1) {
        Some(("+", points)) => format!("{points} points above"),
        Some(("-", points)) => format!("{points} points below"),
        Some(_) | None => "the same as".to_owned(),
    }
}

/// A difference of ratios in percentage points, with its sign.
pub(crate) fn signed_points(difference: f64) -> String {
    let text = significant(100.0 * difference.abs());
    let sign = if text == "0" || difference == 0.0 {
        ""
    } else if difference < 0.0 {
        "-"
    } else {
        "+"
    };
    format!("{sign}{text}")
}

/// About three digits that mean something.
fn significant(value: f64) -> String {
    if !(0.00005..99.995).contains(&value) {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else if value >= 0.1 {
        format!("{value:.2}")
    } else {
        format!("{value:.4}").trim_end_matches('0').to_owned()
    }
}

/// A factor: `1.18`, `250`.
pub(crate) fn factor(ratio: f64) -> String {
    if ratio >= 100.0 {
        format!("{ratio:.0}")
    } else if ratio >= 10.0 {
        format!("{ratio:.1}")
    } else {
        format!("{ratio:.2}")
    }
}

/// `e^log` to 1 as people read it: `37 to 1`, `1,667 to 1`, `over 10^12 to 1`; evidence for the opposite is `none`.
pub(crate) fn odds(log: f64) -> String {
    let decades = log / std::f64::consts::LN_10;
    if log < 0.0 {
        return "none".to_owned();
    }
    if decades >= 7.0 {
        return format!("over 10^{:.0} to 1", decades.floor());
    }
    let rounded = format!("{:.0}", log.exp());
    format!("{} to 1", rounded.parse().map_or(rounded, grouped))
}

/// What a test of the canary asks, by the name that the API gives it.
pub(crate) fn question(test: &str, stable: &str) -> String {
    match test {
        "slow" => format!("fails more than {stable}"),
        "fast" => "fails most requests".to_owned(),
        "latency" => format!("slower than {stable}"),
        "promotion" => "errors within margin".to_owned(),
        "promotion_latency" => "latency within margin".to_owned(),
        "absolute" => "fails more than allowed".to_owned(),
        "split" => "split not as configured".to_owned(),
        "mirror" => format!("answers unlike {stable}"),
        "promotion_mirror" => format!("answers like {stable}"),
        other => other.replace('_', " "),
    }
}

/// How the draws went beside what was configured; none before the first.
pub(crate) fn split(canary: &str, seen: &SplitSummary) -> Option<String> {
    let (observed, configured) = (seen.observed?, seen.configured?);
    Some(format!(
        "{canary} got {} of {} draws; {} was configured.",
        percent_in_text(observed),
        grouped(seen.drawn.canary + seen.drawn.stable),
        percent_in_text(configured)
    ))
}

/// What a version did by itself, beside what it is allowed.
pub(crate) fn alone(canary: &str, seen: &AloneSummary) -> String {
    let rate = seen.tally.error_rate().map_or_else(String::new, |rate| format!(" ({})", percent_in_text(rate)));
    format!(
        "By itself: {} of {} requests to {canary} failed{rate} in {}; at most {} may.",
        grouped(seen.tally.errors),
        grouped(seen.tally.requests),
        span(seen.elapsed_seconds),
        percent_in_text(seen.limit)
    )
}

/// What copies of requests showed.
pub(crate) fn copies(stable: &str, seen: &MirrorSummary) -> String {
    let part = |disagreed: u64, compared: u64, share: Option<f64>| {
        format!(
            "{} of {} copies ({})",
            grouped(disagreed),
            grouped(compared),
            percent_in_text(share.unwrap_or_default())
        )
    };
    let tally = seen.tally;
    let mut text = format!(
        "{} answered {} unlike {stable}",
        seen.version,
        part(tally.disagreed, tally.compared, seen.disagreement)
    );
    if seen.noise.is_some() {
        let noise = part(tally.noise_disagreed, tally.noise_compared, seen.noise);
        text.say(format_args!(", which answered {noise} unlike itself"));
    }
    match seen.gate {
        Some(gate) => text.say(format_args!("; {} points more are let pass.", significant(100.0 * gate))),
        None => text.push_str("; no gate is set."),
    }
    text
}

/// A latency in milliseconds: `0.8 ms`, `12 ms`, `1.25 s`.
pub(crate) fn latency(milliseconds: f64) -> String {
    if milliseconds >= 1_000.0 {
        format!("{:.2} s", milliseconds / 1_000.0)
    } else if milliseconds >= 10.0 {
        format!("{milliseconds:.0} ms")
    } else {
        format!("{milliseconds:.1} ms")
    }
}

/// `3 s`, `2 min 5 s`, `1 h 4 min`, `3 days`.
pub(crate) fn span(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX).as_secs();
    match (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60, whole % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, 0) => format!("{minutes} min"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, ..) if days < 3 => format!("{days} d {hours} h"),
        (days, ..) => format!("{days} days"),
    }
}

/// A moment as the API writes it, for people: `2026-01-31 03:04:05 UTC`.
pub(crate) fn moment(rfc3339: &str) -> String {
    let Ok(at) = OffsetDateTime::parse(rfc3339, &Rfc3339) else { return rfc3339.to_owned() };
    let at = at.to_offset(time::UtcOffset::UTC);
    format!("{} {} UTC", at.date(), clock(at))
}

/// The time of day in UTC: `03:04:05`.
pub(crate) fn clock(at: OffsetDateTime) -> String {
    format!("{:02}:{:02}:{:02}", at.hour(), at.minute(), at.second())
}

/// ` (4 min ago)` for a moment of the last day, else nothing.
pub(crate) fn ago(rfc3339: &str, now: OffsetDateTime) -> String {
    let Ok(at) = OffsetDateTime::parse(rfc3339, &Rfc3339) else { return String::new() };
    let seconds = (now - at).as_seconds_f64();
    if (0.0..86_400.0).contains(&seconds) { format!(" ({} ago)", span(seconds)) } else { String::new() }
}

/// The time of day of a moment in milliseconds since the Unix epoch: `03:04:05.678`.
pub(crate) fn time_of_day(unix_ms: u64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000);
    at.map_or_else(|_| "?".to_owned(), |at| format!("{}.{:03}", clock(at), at.millisecond()))
}

/// `text` broken at spaces into lines that, behind `indent` spaces, keep to [`COLUMNS`]. A longer word stays whole.
pub(crate) fn wrapped(text: &str, indent: usize) -> Vec<String> {
    wrapped_to(text, COLUMNS.saturating_sub(indent).max(20))
}

/// `text` broken at spaces into lines of at most `room` columns. A longer word stays whole.
pub(crate) fn wrapped_to(text: &str, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

/// `text` wrapped, every line behind `indent` spaces and with a line break.
pub(crate) fn paragraph(text: &str, indent: usize) -> String {
    let mut page = String::new();
    for line in wrapped(text, indent) {
        page.say(format_args!("{:indent$}{line}\n", ""));
    }
    page
}

/// `1 error`, `2 errors`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use pointsman_rollout::{Measure, Tally};

    use super::*;

    #[test]
    fn numbers_keep_the_digits_that_mean_something() {
        let seen: Vec<String> = [0.0, 0.000_001, 0.000_12, 0.0012, 0.0231, 0.123_4, 0.999, 1.0].map(percent).to_vec();
        assert_eq!(seen, ["0%", "0.0001%", "0.012%", "0.12%", "2.31%", "12.3%", "99.9%", "100%"]);
        assert_eq!([0.99, 0.052, 0.001].map(percent_in_text), ["99%", "5.2%", "0.1%"]);
        assert_eq!([95.0, 0.0001, 99.9999, 12.5].map(weight), ["95%", "0.0001%", "99.9999%", "12.5%"]);
        assert_eq!([-0.0011, 0.0, 0.149].map(signed_points), ["-0.11", "0", "+14.9"]);
        assert_eq!([-0.0011, 0.0, 0.149].map(beside), ["0.11 points below", "the same as", "14.9 points above"]);
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn rates_that_could_be_anything_are_not_called_the_same() {
        let told = |interval| rates("v2", "v1", interval);
        for unknown in [[-0.3, 0.0, 0.9], [-0.2, 0.1, 0.3], [-1.0, 0.0, 1.0]] {
            assert_eq!(told(unknown), "v2's error rate beside v1's is not known yet", "{unknown:?}");
        }
        assert_eq!(told([-0.01, 0.0, 0.02]), "v2's error rate is the same as v1's");
        assert_eq!(told([0.1, 0.5, 0.9]), "v2's error rate is 50.0 points above v1's");
        assert_eq!(told([-0.9, -0.5, -0.1]), "v2's error rate is 50.0 points below v1's");
    }

    #[test]
    fn draws_and_copies_are_told_with_their_counts() {
        let measure = Measure { log_e: None, limit: 1.0 };
        let drawn = pointsman_rollout::Drawn { canary: 710, stable: 9_290 };
        let seen = SplitSummary { drawn, configured: Some(0.05), observed: Some(0.071), evidence: measure };
        assert_eq!(split("v2", &seen).unwrap(), "v2 got 7.1% of 10,000 draws; 5% was configured.");
        assert_eq!(split("v2", &SplitSummary { observed: None, ..seen }), None);
        let tally =
            pointsman_rollout::MirrorTally { compared: 1_000, disagreed: 42, noise_compared: 100, noise_disagreed: 1 };
        let mut seen = MirrorSummary {
            version: "v2".parse().unwrap(),
            tally,
            disagreement: Some(0.042),
            noise: Some(0.01),
            gate: Some(0.01),
            disagrees: measure,
            agrees: measure,
        };
        assert_eq!(
            copies("v1", &seen),
            "v2 answered 42 of 1,000 copies (4.2%) unlike v1, which answered 1 of 100 copies (1%) unlike itself; 1.00 points \
             more are let pass."
        );
        (seen.noise, seen.gate) = (None, None);
        assert_eq!(copies("v1", &seen), "v2 answered 42 of 1,000 copies (4.2%) unlike v1; no gate is set.");
    }

    #[test]
    fn odds_are_told_as_odds() {
        assert_eq!([-1.0, 0.0, 7.418_6, 40.0].map(odds), ["none", "1 to 1", "1,667 to 1", "over 10^17 to 1"]);
    }

    #[test]
    fn what_a_version_did_by_itself_stands_beside_what_it_may() {
        let seen = AloneSummary {
            tally: Tally { requests: 1_000, errors: 37, slow: 0 },
            elapsed_seconds: 12.0,
            limit: 0.02,
            evidence: Measure { log_e: Some(9.0), limit: 7.1 },
        };
        let said = alone("v2", &seen);
        assert!(said.contains("37 of 1,000 requests to v2 failed") && said.contains("12 s"), "{said}");
        assert!(said.contains("3.7") && said.ends_with("may."), "{said}");
    }

    #[test]
    fn spans_and_latencies_read_like_speech() {
        assert_eq!(
            [0.2, 59.9, 60.0, 125.0, 3_840.0, 90_000.0, 400_000.0].map(span),
            ["0 s", "59 s", "1 min", "2 min 5 s", "1 h 4 min", "1 d 1 h", "4 days"]
        );
        assert_eq!([0.84, 12.3, 1_254.0].map(latency), ["0.8 ms", "12 ms", "1.25 s"]);
    }

    #[test]
    fn a_moment_is_utc_and_an_old_one_has_no_age() {
        assert_eq!(moment("2026-01-31T04:04:05.678+01:00"), "2026-01-31 03:04:05 UTC");
        assert_eq!(moment("yesterday"), "yesterday");
        let now = OffsetDateTime::parse("2026-01-31T03:08:06Z", &Rfc3339).unwrap();
        assert_eq!(ago("2026-01-31T03:04:05Z", now), " (4 min 1 s ago)");
        assert_eq!(ago("2026-01-30T03:04:05Z", now), "");
        assert_eq!(time_of_day(1_769_828_645_678), "03:04:05.678");
    }

    #[test]
    fn paragraphs_keep_to_the_width_and_break_no_word() {
        let text = "word ".repeat(40);
        let page = paragraph(&text, 12);
        assert!(
            page.lines().all(|line| line.chars().count() <= COLUMNS && line.starts_with("            word")),
            "{page}"
        );
        assert_eq!(wrapped(&"x".repeat(100), 2), ["x".repeat(100)]);
    }
}
