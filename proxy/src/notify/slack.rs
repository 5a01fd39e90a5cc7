//! A row as a message for people, in the form of Slack's incoming webhooks (Block Kit), which like chats take as well.
//!
//! Written for somebody whose telephone just rang: what happened stands first, then what it rests on, then what to type.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::news::{News, Severity};
use crate::recorder::Failure;

/// Longest text of a section, in characters (Slack takes 3,000).
const SECTION: usize = 2_900;
/// Longest line in a list of chats (`text`), in characters.
const LINE: usize = 500;
/// Ids of failing requests that are shown.
const IDS: usize = 3;

/// The message for a row; `missed` were lost before it.
pub(super) fn message(news: &News, missed: u64) -> Value {
    let mut blocks = vec![section(&headline(news))];
    blocks.extend(counted(news).map(|counted| section(&counted)));
    if !news.problems.is_empty() {
        blocks.push(section(&listed(&news.problems)));
    }
    if missed > 0 {
        let lost = format!("{missed} earlier messages could not be delivered; `pointsman history` has the decisions.");
        blocks.push(section(&lost));
    }
    blocks.push(json!({ "type": "context", "elements": [{ "type": "mrkdwn", "text": footer(news) }] }));
    json!({ "text": one_line(news), "blocks": blocks })
}

fn section(text: &str) -> Value {
    json!({ "type": "section", "text": { "type": "mrkdwn", "text": text } })
}

const fn sign(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => ":information_source:",
        Severity::Warning => ":warning:",
        Severity::Critical => ":rotating_light:",
    }
}

/// What stands in lists of chats and on locked screens.
fn one_line(news: &News) -> String {
    let route = news.route.as_ref().map(|route| format!("{route}: ")).unwrap_or_default();
    escaped(&format!("{route}{}", news.text), LINE)
}

fn headline(news: &News) -> String {
    let route = news.route.as_ref().map(|route| format!("*{}*: ", escaped(route.as_str(), LINE))).unwrap_or_default();
    format!("{} {route}{}", sign(news.severity), escaped(&news.text, SECTION))
}

/// What both versions did, and which requests failed.
fn counted(news: &News) -> Option<String> {
    let row = news.decision.as_ref()?;
    let mut lines = Vec::new();
    if let (Some(evidence), Some(canary)) = (&row.change.evidence, &row.change.canary) {
        let side = |name: &str, requests: u64, errors: u64, rate: Option<f64>| {
            let rate = rate.map(|rate| format!(" ({:.2}%)", 100.0 * rate)).unwrap_or_default();
            format!("*{}*: {errors} of {requests} requests failed{rate}", escaped(name, LINE))
        };
        let (tried, beside) = (evidence.canary, evidence.stable);
        lines.push(side(canary.as_str(), tried.requests, tried.errors, evidence.canary_error_rate));
        lines.push(side(row.change.stable.as_str(), beside.requests, beside.errors, evidence.stable_error_rate));
    }
    lines.extend(failing(&row.failures));
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// The newest failing requests.
fn failing(failures: &[Failure]) -> Option<String> {
    if failures.is_empty() {
        return None;
    }
    let ids: Vec<_> = failures.iter().rev().take(IDS).map(|failure| code(&failure.request_id)).collect();
    Some(format!("failing requests: {}", ids.join(", ")))
}

fn listed(problems: &[String]) -> String {
    let mut text = String::new();
    for problem in problems {
        let line = format!("• {}\n", escaped(problem, LINE));
        if text.chars().count() + line.chars().count() > SECTION {
            break;
        }
        text.push_str(&line);
    }
    text
}

fn footer(news: &News) -> String {
    // `2026-01-31T03:12:09.123Z`
    let moment = news.at.get(..19).unwrap_or(&news.at).replacen('T', " ", 1);
    let mut text = format!("{moment} UTC");
    if !news.edge().is_empty() {
        // Writing to a string cannot fail.
        _ = write!(text, " · edge {}", escaped(news.edge(), LINE));
    }
    _ = write!(text, " · {}", code(&news.next));
    text
}

/// What stands as it is, in letters of one width.
fn code(text: &str) -> String {
    format!("`{}`", escaped(text, LINE).replace('`', "'"))
}

/// `text` with the three characters escaped that mean something to Slack, on one line, and `most` characters long at most.
fn escaped(text: &str, most: usize) -> String {
    let (mut shown, mut length) = (String::new(), 0);
    for character in text.chars() {
        let mut plain = [0; 4];
        let piece: &str = match character {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            control if control.is_control() => " ",
            other => other.encode_utf8(&mut plain),
        };
        length += piece.chars().count();
        if length >= most {
            shown.push('…');
            return shown;
        }
        shown.push_str(piece);
    }
    shown
}

#[cfg(test)]
mod tests {
    use pointsman_config::NewsKind;
    use pointsman_rollout::{Cause, Decision, Regression};

    use super::super::news::tests::row;
    use super::*;

    /// What Slack refuses: more or fewer than 1 to 50 blocks, texts that are empty or too long, another type of text.
    fn check_shape(message: &Value) {
        let text = message["text"].as_str().unwrap();
        assert!((1..=40_000).contains(&text.chars().count()), "{message:#}");
        let blocks = message["blocks"].as_array().unwrap();
        assert!((1..=50).contains(&blocks.len()));
        for block in blocks {
            let texts = match block["type"].as_str().unwrap() {
                "section" => vec![&block["text"]],
                "context" => block["elements"].as_array().unwrap().iter().collect(),
                other => panic!("{other}"),
            };
            assert!((1..=10).contains(&texts.len()));
            for text in texts {
                assert_eq!(text["type"], "mrkdwn");
                assert!((1..=3_000).contains(&text["text"].as_str().unwrap().chars().count()), "{block:#}");
            }
        }
    }

    fn all_text(message: &Value) -> String {
        let of = |block: &Value| match block["elements"].as_array() {
            Some(elements) => elements[0]["text"].as_str().unwrap().to_owned(),
            None => block["text"]["text"].as_str().unwrap().to_owned(),
        };
        message["blocks"].as_array().unwrap().iter().map(of).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_rollback_reads_well_at_three_in_the_morning() {
        let cause = Cause::Evidence { regression: Regression::ErrorRegression };
        let news = News::of_decision(&row(Decision::Rollback, cause)).said_by("edge-1");
        let message = message(&news, 0);
        check_shape(&message);
        let sentence = &news.text;
        assert_eq!(message["text"], format!("delivery-time: {sentence}"));
        assert_eq!(
            all_text(&message),
            format!(
                ":rotating_light: *delivery-time*: {sentence}\nfailing requests: `id-1`\n2026-01-31 03:12:09 UTC · edge edge-1 · `pointsman explain delivery-time 43`"
            )
        );
    }

    #[test]
    fn nothing_that_others_write_becomes_a_link_a_call_or_too_long() {
        let long = format!("<!channel> <https://evil|click> & {}", "<".repeat(5_000));
        let mut news = News::of(NewsKind::Hold, long.clone());
        news.problems = vec![long; 20];
        let message = message(&news, 3);
        check_shape(&message);
        let text = all_text(&message);
        assert!(!text.contains('<') && !text.contains('>'), "{text}");
        assert!(text.contains("&lt;!channel&gt;") && text.contains("3 earlier messages"));
    }
}
