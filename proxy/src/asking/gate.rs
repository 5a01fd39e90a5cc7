//! Somebody outside is asked whether a rollout may go on: the decision is posted, yes or no comes back.

use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use pointsman_config::{Before, Otherwise, OutsideGate, WebhookUrl};
use pointsman_rollout::Outcome;
use serde::{Deserialize, Serialize};

use super::Subject;
use super::prometheus::authorization;
use crate::outgoing::{self, SIGNATURE_HEADER, Secret, TIMESTAMP_HEADER};

/// Largest answer that is read, in bytes.
const ANSWER_BYTES: u64 = 64 << 10;

/// What is posted.
#[derive(Debug, Serialize)]
struct Question<'a> {
    /// Which gate is asked.
    gate: &'a str,
    #[serde(flatten)]
    subject: &'a Subject,
}

/// What is answered.
#[derive(Debug, Deserialize)]
struct Answer {
    allow: bool,
    #[serde(default)]
    reason: String,
}

/// Asks once; blocks. What comes of it, in an outcome and words.
pub(super) fn ask(gate: &OutsideGate, subject: &Subject) -> (Outcome, String) {
    judged(gate, subject.next, post(gate, subject))
}

fn judged(gate: &OutsideGate, next: Before, answered: Result<Answer, String>) -> (Outcome, String) {
    let next = match next {
        Before::Step => "step",
        Before::Promotion => "promotion",
    };
    let because = |reason: &str| {
        let reason = outgoing::shortened(reason);
        if reason.is_empty() { String::new() } else { format!(": {reason}") }
    };
    match (answered, gate.otherwise) {
        (Ok(Answer { allow: true, reason }), _) => {
            (Outcome::Passes, format!("it allows the {next}{}", because(&reason)))
        }
        (Ok(Answer { allow: false, reason }), _) => {
            (Outcome::Holds, format!("it does not allow the {next}{}", because(&reason)))
        }
        (Err(why), Otherwise::Hold) => (Outcome::Holds, format!("it gives no clear answer: {why}")),
        (Err(why), Otherwise::Allow) => {
            (Outcome::Passes, format!("it gives no clear answer, which counts as a yes: {why}"))
        }
    }
}

fn post(gate: &OutsideGate, subject: &Subject) -> Result<Answer, String> {
    let url = match &gate.url {
        WebhookUrl::Plain(url) => url.clone(),
        WebhookUrl::Secret(source) => Secret::read(source).map_err(|error| error.to_string())?.reveal().to_owned(),
    };
    let question = Question { gate: gate.name.as_str(), subject };
    let body = serde_json::to_vec(&question).map_err(|error| error.to_string())?;
    let mut request = outgoing::agent(gate.timeout).post(url).header(CONTENT_TYPE, "application/json");
    if let Some(authorization) = authorization(gate.authorization.as_ref())? {
        request = request.header(AUTHORIZATION, authorization.reveal());
    }
    if let Some(source) = &gate.secret {
        let stamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let signature = outgoing::signature(source, stamp, &body)?;
        request = request.header(TIMESTAMP_HEADER, stamp).header(SIGNATURE_HEADER, signature);
    }
    let answer = request.send(&body).map_err(|error| outgoing::in_words(&error))?;
    let status = answer.status();
    if !status.is_success() {
        return Err(format!("it answered {}", status.as_u16()));
    }
    understood(&outgoing::body(answer, ANSWER_BYTES)?)
}

/// An answer is an object; a list would be taken for one, field by field.
fn understood(body: &[u8]) -> Result<Answer, String> {
    let object: Option<serde_json::Map<String, serde_json::Value>> = serde_json::from_slice(body).ok();
    object
        .and_then(|object| serde_json::from_value(object.into()).ok())
        .ok_or_else(|| "its answer is not `{\"allow\": true}` or `{\"allow\": false, \"reason\": \"…\"}`".to_owned())
}

#[cfg(test)]
mod tests {
    use pointsman_config::Config;

    use super::*;

    fn gate(otherwise: &str) -> OutsideGate {
        let text = format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]
routes:
  - name: r
    stable: v1
    versions: {{ v1: {{ endpoints: [127.0.0.1:1] }} }}
    guard: {{ gates: [{{ name: board, url_env: BOARD, default: {otherwise} }}] }}"
        );
        Config::parse(&text, "test").unwrap_or_else(|error| panic!("{error}")).config.routes[0].guard.gates.remove(0)
    }

    #[test]
    fn a_gate_holds_or_passes_and_never_fails() {
        let yes = |reason: &str| Ok(Answer { allow: true, reason: reason.to_owned() });
        let no = Answer { allow: false, reason: "not before\nnine".to_owned() };
        let hold = gate("hold");
        assert_eq!(judged(&hold, Before::Step, yes("")), (Outcome::Passes, "it allows the step".to_owned()));
        let (outcome, words) = judged(&hold, Before::Promotion, Ok(no));
        assert_eq!((outcome, words.as_str()), (Outcome::Holds, "it does not allow the promotion: not before nine"));
        let away = || Err("it answered 503".to_owned());
        assert_eq!(judged(&hold, Before::Step, away()).0, Outcome::Holds);
        assert_eq!(judged(&gate("allow"), Before::Step, away()).0, Outcome::Passes);
    }

    #[test]
    fn only_a_yes_or_a_no_is_an_answer() {
        for text in ["{}", "true", "{\"allow\": \"yes\"}", "[true]", "{\"allow\": 1}", ""] {
            assert!(understood(text.as_bytes()).is_err(), "{text}");
        }
        assert!(understood(b"{\"allow\": false, \"ticket\": 7}").is_ok_and(|answer| !answer.allow));
    }
}
