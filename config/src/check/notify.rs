//! Who outside is told of changes: each receiver once, at one place, and no secret where everybody reads it.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Findings, Spot, quoted};
use crate::file::{File, List, WebhookFile};
use crate::read::Written;
use crate::scalar::{EnvName, Text, Value, WebUrl};
use crate::split::Name;
use crate::{NewsKind, SecretSource, Webhook, WebhookFormat, WebhookUrl};

use super::range::{at_most, between};
use super::{items, required};

/// Each has a thread of its own.
const MOST_WEBHOOKS: usize = 16;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_GIVE_UP_AFTER: Duration = Duration::from_mins(15);
const TIMEOUTS: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(10);
const AGES: std::ops::RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(24);
const WHERE: &str = "write one of `url`, `url_file` and `url_env`, such as `url: https://hooks.example.com/pointsman`";

/// The good webhooks.
pub(super) fn webhooks(file: &File, findings: &Findings) -> Vec<Webhook> {
    let way_out = "write one such as `{ name: on-call, url_file: on-call-url }`, or remove `notifications`";
    let given = items(file.notifications.good(), way_out, findings);
    at_most(&given, MOST_WEBHOOKS, "webhooks", findings);
    refuse_double_names(given.iter().map(|(_, webhook)| &webhook.name), "webhook", findings);
    given.into_iter().take(MOST_WEBHOOKS).filter_map(|(spot, written)| webhook(spot, written, findings)).collect()
}

/// Reports names that stand twice.
pub(super) fn refuse_double_names<'a>(names: impl Iterator<Item = &'a Value<Name>>, thing: &str, findings: &Findings) {
    let mut lines = HashMap::new();
    for (spot, name) in names.filter_map(Written::good) {
        if let Some(line) = lines.insert(&name.0, spot.line) {
            let what = format!("another {thing} is named {} as well, on line {line}", quoted(name.0.as_str()));
            findings.error(spot, what, format!("give each {thing} its own name"));
        }
    }
}

fn webhook(spot: &Spot, file: &WebhookFile, findings: &Findings) -> Option<Webhook> {
    let name = required(&file.name, "name", spot, "name it, such as `name: on-call`", findings);
    let format = file.format.value().copied().unwrap_or(WebhookFormat::Json);
    let url = where_it_is((spot, "webhook"), &file.url, (&file.url_file, &file.url_env), findings);
    let secret = secret(("secret_file", &file.secret_file), ("secret_env", &file.secret_env), findings);
    warn_of_secrets(spot, (file, format), (url.as_ref(), secret.as_ref()), findings);
    Some(Webhook {
        name: name?.1.0.clone(),
        url: url?,
        format,
        secret,
        events: events(&file.events, findings),
        timeout: between(&file.timeout, DEFAULT_TIMEOUT, &TIMEOUTS, findings),
        give_up_after: between(&file.give_up_after, DEFAULT_GIVE_UP_AFTER, &AGES, findings),
    })
}

/// Where something outside is: in the open, or where a secret stands.
pub(super) fn where_it_is(
    (spot, thing): (&Spot, &str),
    url: &Value<WebUrl>,
    (url_file, url_env): (&Value<PathBuf>, &Value<EnvName>),
    findings: &Findings,
) -> Option<WebhookUrl> {
    let hidden = secret(("url_file", url_file), ("url_env", url_env), findings);
    match (url, hidden) {
        (Written::Absent, Some(source)) => Some(WebhookUrl::Secret(source)),
        (Written::Good(_, Text(WebUrl(url))), None) => Some(WebhookUrl::Plain(url.clone())),
        (Written::Bad(spot) | Written::Good(spot, _), Some(_)) => {
            findings.error(spot, "`url` cannot stand beside `url_file` or `url_env`", "keep one of them");
            None
        }
        (Written::Bad(_), None) => None,
        (Written::Absent, None) => {
            let says_where = url_file.spot().is_some() || url_env.spot().is_some();
            if !says_where {
                findings.error(spot, format!("nothing says where this {thing} is"), WHERE);
            }
            None
        }
    }
}

/// A secret in a file or in the environment, if there is one; both are too many.
pub(super) fn secret(
    (file_key, file): (&str, &Value<PathBuf>),
    (env_key, env): (&str, &Value<EnvName>),
    findings: &Findings,
) -> Option<SecretSource> {
    if let (Some(_), Some(spot)) = (file.spot(), env.spot()) {
        findings.error(spot, format!("`{env_key}` cannot stand beside `{file_key}`"), "keep one of them");
    }
    let in_env = || env.scalar().map(|EnvName(name)| SecretSource::Env(name.clone()));
    file.scalar().cloned().map(SecretSource::File).or_else(in_env)
}

fn warn_of_secrets(
    spot: &Spot,
    (file, format): (&WebhookFile, WebhookFormat),
    (url, secret): (Option<&WebhookUrl>, Option<&SecretSource>),
    findings: &Findings,
) {
    let (Some(WebhookUrl::Plain(_)), Some(place)) = (url, file.url.spot()) else { return };
    match format {
        WebhookFormat::Slack => findings.error(
            place,
            "the URL of a chat's webhook is a secret, since whoever knows it can post, and this file shows it",
            "write the URL into a file and name that with `url_file`, or use `url_env`",
        ),
        WebhookFormat::Json if secret.is_none() => findings.warning(
            spot,
            "these rows are not signed, so the receiver cannot tell them from anybody else's",
            "add `secret_file` or `secret_env`, and have the receiver check the signature",
        ),
        WebhookFormat::Json => {}
    }
}

fn events(list: &List<NewsKind>, findings: &Findings) -> BTreeSet<NewsKind> {
    if matches!(list, Written::Absent) {
        return NewsKind::ALL.into();
    }
    let mut events = BTreeSet::new();
    for (spot, kind) in
        items(list.good(), "name at least one, such as rollback, or leave `events` out for all", findings)
    {
        if !events.insert(*kind) {
            findings.warning(spot, format!("{} is listed already", quoted(kind.as_str())), "remove one of them");
        }
    }
    events
}
