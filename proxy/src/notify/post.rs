//! One try of one row: body, signature, and what the answer means.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use pointsman_config::{Webhook, WebhookFormat, WebhookUrl};
use serde::Serialize;

use super::news::News;
use super::schedule::Again;
use super::slack;
use crate::outgoing::{self, SIGNATURE_HEADER, Secret, TIMESTAMP_HEADER};

/// The same at every try of a row, and of no other row.
pub(super) const ID_HEADER: &str = "x-pointsman-id";
/// What is told, such as `rollback`.
pub(super) const EVENT_HEADER: &str = "x-pointsman-event";

/// Why a try failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// In words, without a secret.
    pub(super) problem: String,
    /// Whether another one may help.
    pub(super) again: Again,
}

impl Failure {
    fn for_now(problem: &dyn std::fmt::Display) -> Self {
        Self { problem: problem.to_string(), again: Again::Later(None) }
    }
}

/// Posts a row once; `missed` were lost before it. Blocks for as long as the hook's timeout says.
///
/// # Errors
/// If it was not taken.
pub(super) fn once(hook: &Webhook, news: &News, missed: u64) -> Result<(), Failure> {
    let url = match &hook.url {
        WebhookUrl::Plain(url) => url.clone(),
        WebhookUrl::Secret(source) => {
            Secret::read(source).map_err(|error| Failure::for_now(&error))?.reveal().to_owned()
        }
    };
    let body = body(hook.format, news, missed).map_err(|error| Failure::for_now(&error))?;
    let stamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut request = outgoing::agent(hook.timeout)
        .post(url)
        .header(CONTENT_TYPE, "application/json")
        .header(ID_HEADER, &news.id)
        .header(EVENT_HEADER, news.event)
        .header(TIMESTAMP_HEADER, stamp);
    if let Some(source) = &hook.secret {
        let signature = outgoing::signature(source, stamp, &body).map_err(|error| Failure::for_now(&error))?;
        request = request.header(SIGNATURE_HEADER, signature);
    }
    let answer = request.send(&body).map_err(|error| Failure::for_now(&outgoing::in_words(&error)))?;
    // Whatever its body says, nobody reads it.
    judged(answer.status(), answer.headers())
}

/// What an answer means.
fn judged(status: StatusCode, headers: &HeaderMap) -> Result<(), Failure> {
    if status.is_success() {
        return Ok(());
    }
    let asked = headers.get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.trim().parse().ok());
    let again = match status.as_u16() {
        408 | 425 | 429 | 500..=599 => Again::Later(asked.map(Duration::from_secs)),
        _ => Again::Never,
    };
    let aside = if status.is_redirection() { ", and redirects are not followed: name where it leads" } else { "" };
    Err(Failure { problem: format!("it answered {}{aside}", status.as_u16()), again })
}

/// A row, and how many were lost before it.
#[derive(Serialize)]
struct Posted<'a> {
    #[serde(flatten)]
    news: &'a News,
    missed: u64,
}

fn body(format: WebhookFormat, news: &News, missed: u64) -> serde_json::Result<Vec<u8>> {
    match format {
        WebhookFormat::Json => serde_json::to_vec(&Posted { news, missed }),
        WebhookFormat::Slack => serde_json::to_vec(&slack::message(news, missed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: u16, retry_after: Option<&str>, expected: Option<Again>) {
        let mut headers = HeaderMap::new();
        headers.extend(retry_after.map(|after| (RETRY_AFTER, after.parse().unwrap())));
        let judged = judged(StatusCode::from_u16(status).unwrap(), &headers);
        assert_eq!(judged.err().map(|failure| failure.again), expected, "{status}");
    }

    #[test]
    fn what_may_pass_is_tried_again_and_what_will_not_is_not() {
        check(200, None, None);
        check(204, None, None);
        for status in [408, 425, 500, 503, 599] {
            check(status, None, Some(Again::Later(None)));
        }
        check(429, Some("30"), Some(Again::Later(Some(Duration::from_secs(30)))));
        check(503, Some("Wed, 21 Oct 2026 07:28:00 GMT"), Some(Again::Later(None)));
        for status in [301, 307, 400, 401, 404, 410] {
            check(status, None, Some(Again::Never));
        }
    }
}
