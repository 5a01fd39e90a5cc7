//! An operator's orders, and what came of them.

use std::collections::BTreeMap;

use pointsman_config::{Share, VersionId};

use super::CliError;
use super::args::{OrderArgs, PromoteArgs, ResumeArgs, RetryArgs, WeightsArgs};
use super::client::Admin;
use super::print::Page;
use super::words::{BOLD, CAREFUL, Say, paint, paragraph};
use crate::admin::{ForeignBody, OrderAnswer, PromoteBody, ReasonBody, ResumeBody, RetryBody, WeightsBody};

/// Gives the canary all traffic.
pub(super) fn promote(admin: &Admin, args: &PromoteArgs) -> Result<(), CliError> {
    let body = PromoteBody { reason: args.reason.clone(), force: args.force };
    report(&admin.order(&args.route, "promote", &body)?, args.json)
}

/// `rollback` or `pause`.
pub(super) fn simple(admin: &Admin, verb: &str, args: &OrderArgs) -> Result<(), CliError> {
    report(&admin.order(&args.route, verb, &ReasonBody { reason: args.reason.clone() })?, args.json)
}

/// Goes on.
pub(super) fn resume(admin: &Admin, args: &ResumeArgs) -> Result<(), CliError> {
    let foreign = match (args.adopt, args.restore) {
        (true, _) => Some(ForeignBody::Adopt),
        (false, true) => Some(ForeignBody::Restore),
        (false, false) => None,
    };
    report(&admin.order(&args.route, "resume", &ResumeBody { reason: args.reason.clone(), foreign })?, args.json)
}

/// Lifts a quarantine.
pub(super) fn retry(admin: &Admin, args: &RetryArgs) -> Result<(), CliError> {
    let body = RetryBody { version: args.version.clone(), reason: args.reason.clone() };
    report(&admin.order(&args.route, "retry", &body)?, args.json)
}

/// Sets weights by hand.
pub(super) fn weights(admin: &Admin, args: &WeightsArgs) -> Result<(), CliError> {
    let body = WeightsBody { weights: each_once(&args.weights)?, reason: args.reason.clone() };
    report(&admin.weights(&args.route, &body)?, args.json)
}

fn each_once(written: &[(VersionId, Share)]) -> Result<BTreeMap<VersionId, Share>, CliError> {
    let mut weights = BTreeMap::new();
    for (version, share) in written {
        if weights.insert(version.clone(), *share).is_some() {
            return Err(CliError::Weights { what: format!("`{version}` is given twice; write each version once") });
        }
    }
    Ok(weights)
}

/// What was done, and what happens next.
fn report(answer: &OrderAnswer, json: bool) -> Result<(), CliError> {
    if json {
        return Ok(Page::appended().json(answer)?);
    }
    Ok(Page::appended().text(&in_words(answer))?)
}

fn in_words(answer: &OrderAnswer) -> String {
    let name = paint(BOLD, answer.route.name.as_str());
    let mut page = String::new();
    if answer.decisions.is_empty() {
        page.say(format_args!("{name}: nothing changed; it stood as asked already\n"));
    }
    let stands = if answer.persisted { "kept and in force" } else { "in force" };
    for row in &answer.decisions {
        page.say(format_args!("{name}: decision {}, {stands}\n{}", row.id, paragraph(&row.sentence, 2)));
    }
    if !answer.persisted {
        let warning = "Not kept yet: if the edge is killed now it forgets this. `pointsman status` says where it is to be kept and what is wrong there.";
        page.push_str(&paint(CAREFUL, &paragraph(warning, 2)));
    }
    if !answer.route.next.is_empty() {
        page.push_str(&paragraph(&format!("Next: {}", answer.route.next), 2));
    }
    page
}
