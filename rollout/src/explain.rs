//! The doctor's letter: a summary in plain words, for whoever is asked why traffic moved.

use crate::summary::{Difference, Measure, Summary};
use crate::tally::{Tally, to_f64};
use crate::verdict::{Regression, Verdict, Waiting};

/// Says what was compared, what came out and what it rests on; several lines, without a final line break.
pub fn explain(summary: &Summary) -> String {
    let mut lines = vec![headline(summary), compared(summary), shares(summary)];
    lines.extend(slow_answers(summary));
    lines.extend(interval(summary));
    lines.push(tests(summary));
    lines.extend(caution(summary));
    lines.extend(outlook(summary));
    lines.join("\n")
}

/// The verdict, why, and when.
fn headline(summary: &Summary) -> String {
    let after = span(summary.elapsed_seconds);
    let words = match summary.verdict {
        Verdict::Rollback(regression) => {
            return format!("Regression proven {after} after the comparison began: {}.", blame(regression));
        }
        Verdict::Promote => "the canary is proven no worse than the promotion margin allows",
        Verdict::Inconclusive => "time is up, and neither a regression nor the promotion margin is proven",
        Verdict::Continue(Waiting::Collecting) => "undecided, collecting evidence",
        Verdict::Continue(Waiting::Suspect) => "undecided, and something looks wrong with the canary",
        Verdict::Continue(Waiting::CommonCauseHold) => {
            "on hold, because both versions are failing and neither can be blamed"
        }
        Verdict::Continue(Waiting::BaselineFailingHold) => "on hold, because stable is failing and the canary is not",
        Verdict::Continue(Waiting::NoCanaryTraffic) => "undecided, the canary has had no request",
    };
    format!("After {after}: {words} ({}).", summary.verdict.reason())
}

fn blame(regression: Regression) -> String {
    let what = match regression {
        Regression::Catastrophic => "the canary fails most of its requests",
        Regression::ErrorRegression => "the canary fails more of its requests than stable does",
        Regression::LatencyRegression => "more of the canary's answers are slow than of stable's",
        Regression::AbsoluteLimit => "the version fails more of its requests than is ever allowed",
    };
    format!("{what} ({})", regression.as_str())
}

/// The counts of both.
fn compared(summary: &Summary) -> String {
    let side = |tally: Tally, rate: Option<f64>| {
        let rate = rate.map_or_else(String::new, |rate| format!(" ({})", percent(rate)));
        format!("{} of {} requests{rate}", grouped(tally.errors), grouped(tally.requests))
    };
    format!(
        "Compared over the same moments: the canary failed {}, stable {}.",
        side(summary.canary, summary.canary_error_rate),
        side(summary.stable, summary.stable_error_rate)
    )
}

/// Who had which share of requests and of errors: if both were alike, the shares would be.
fn shares(summary: &Summary) -> String {
    let (canary, all) = (summary.canary, summary.canary + summary.stable);
    let share = |part: u64, whole: u64| if whole > 0 { Some(percent(to_f64(part) / to_f64(whole))) } else { None };
    match (share(canary.requests, all.requests), share(canary.errors, all.errors)) {
        (Some(requests), Some(errors)) => {
            format!("The canary had {requests} of the requests and {errors} of the errors.")
        }
        (Some(requests), None) => format!("The canary had {requests} of the requests; there was no error."),
        (None, _) => "There was no request.".to_owned(),
    }
}

/// Slow answers, where there were any.
fn slow_answers(summary: &Summary) -> Option<String> {
    let share = |tally: Tally| percent(to_f64(tally.slow) / to_f64(tally.requests.max(1)));
    (summary.canary.slow + summary.stable.slow > 0).then(|| {
        format!("Slow answers: {} of the canary's, {} of stable's.", share(summary.canary), share(summary.stable))
    })
}

/// Difference and ratio with their intervals.
fn interval(summary: &Summary) -> Option<String> {
    let Difference { low, estimate, high } = summary.error_rate_difference?;
    let factor = summary.error_rate_ratio.map_or_else(String::new, |ratio| {
        let high = ratio.high.map_or_else(|| "any number".to_owned(), times);
        format!("; as a factor between {} and {high}", times(ratio.low))
    });
    Some(format!(
        "The canary's error rate less stable's: {} points, between {} and {}{factor} ({} confidence, however often it is \
         looked at).",
        points(estimate),
        points(low),
        points(high),
        percent(summary.confidence)
    ))
}

/// The odds of every test against its limit.
fn tests(summary: &Summary) -> String {
    let tests = &summary.evidence;
    format!(
        "Odds: {} that it fails more than tolerated, {} that it fails most requests, {} that it is slower than tolerated; \
         {} and {} that its errors and its latency are within the promotion margin.",
        against(&tests.slow),
        against(&tests.fast),
        against(&tests.latency),
        against(&tests.promotion),
        against(&tests.promotion_latency)
    )
}

/// What weighed against deciding sooner.
fn caution(summary: &Summary) -> Option<String> {
    (summary.burst_discount > 0.0).then(|| {
        format!(
            "Stable's errors come in bursts: {:.1} nats were taken off the last second's evidence.",
            summary.burst_discount
        )
    })
}

/// How far promotion is.
fn outlook(summary: &Summary) -> Option<String> {
    let forecast = summary.forecast?;
    Some(format!(
        "If things stay as they are, promotion takes {} more canary requests, and {}.",
        grouped(forecast.requests),
        span(forecast.seconds)
    ))
}

/// `1,200 to 1 (limit 1,667)`.
fn against(measure: &Measure) -> String {
    let held = measure.log_e.filter(|&log_e| log_e >= 0.0);
    let held = held.map_or_else(|| "less than 1 to 1".to_owned(), |log_e| format!("{} to 1", odds(log_e)));
    format!("{held} (limit {})", odds(measure.limit))
}

/// `e^log` as people read it: `37`, `1,667`, `10^12`.
fn odds(log: f64) -> String {
    let decades = log / std::f64::consts::LN_10;
    if decades >= 7.0 { format!("10^{:.0}", decades.floor()) } else { times(log.exp()) }
}

/// A factor: three digits below ten, whole above a hundred.
fn times(factor: f64) -> String {
    if factor < 100.0 {
        return significant(factor);
    }
    let whole = format!("{factor:.0}");
    whole.parse().map_or(whole, grouped)
}

/// `12345` as `12,345`.
fn grouped(count: u64) -> String {
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

/// A ratio as a percentage with three digits that mean something.
fn percent(ratio: f64) -> String {
    format!("{} %", significant(100.0 * ratio))
}

/// A difference of ratios in percentage points, signed.
fn points(difference: f64) -> String {
    let text = significant(100.0 * difference.abs());
    if difference < 0.0 { format!("-{text}") } else { format!("+{text}") }
}

/// About three significant digits; 0 for less than a thousandth.
fn significant(value: f64) -> String {
    let decimals = match value {
        tiny if tiny < 0.0005 => 0,
        small if small < 1.0 => 3,
        units if units < 10.0 => 2,
        tens if tens < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

/// Seconds as `3.0 s`, `2 min 5 s`, `1 h 4 min`.
fn span(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let rounded: u64 = format!("{seconds:.0}").parse().unwrap_or(u64::MAX);
    match (rounded / 3600, rounded % 3600 / 60, rounded % 60) {
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}
