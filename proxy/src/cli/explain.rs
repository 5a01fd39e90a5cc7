//! `explain`: one decision, as a doctor writes a letter: what was decided, what was seen, how sure it is, what to do.

use pointsman_config::VersionId;
use pointsman_rollout::{Cause, Change, Decision, GateSummary, Measure, Summary, Tally};

use super::CliError;
use super::args::ExplainArgs;
use super::client::Admin;
use super::history::style;
use super::print::Page;
use super::status::live_service_now;
use super::words::{
    BAD, BOLD, CAREFUL, DIM, GOOD, Say, alone, copies, factor, grouped, moment, odds, paint, paragraph, percent,
    percent_in_text, question, rates, ratio, signed_points, span, split, time_of_day,
};
use crate::asking::is_freeze;
use crate::recorder::Failure;
use crate::view::DecisionRow;

/// Decisions that are searched for the last one with evidence.
const SEARCHED: usize = 100;

/// Explains a decision, or the last one that rests on evidence.
pub(super) fn explain(admin: &Admin, args: &ExplainArgs) -> Result<(), CliError> {
    let (row, newer) = match args.decision {
        Some(id) => {
            let row = admin.decision(id).map_err(|error| in_terms_of_history(error, id, args))?;
            (of_route(row, args)?, Vec::new())
        }
        None => last_with_evidence(admin.decisions(&args.route, SEARCHED)?, args)?,
    };
    if args.json {
        return Ok(Page::appended().json(&row)?);
    }
    let now = live_service_now(admin, &args.route);
    Ok(Page::appended().text(&(letter(&row) + &since_then(&newer) + &now))?)
}

/// Who asks at the command line looks decisions up there too.
fn in_terms_of_history(mut error: CliError, id: u64, args: &ExplainArgs) -> CliError {
    if let CliError::Refused { problem } = &mut error
        && problem.code == "unknown_decision"
    {
        problem.detail = format!("there is no decision {id}; `pointsman history {}` lists them", args.route);
    }
    error
}

fn of_route(row: DecisionRow, args: &ExplainArgs) -> Result<DecisionRow, CliError> {
    if row.route == args.route {
        Ok(row)
    } else {
        Err(CliError::OtherRoute { id: row.id, actual: row.route.to_string() })
    }
}

/// The newest decision with evidence and those after it; the newest of all where none has evidence.
fn last_with_evidence(
    mut rows: Vec<DecisionRow>,
    args: &ExplainArgs,
) -> Result<(DecisionRow, Vec<DecisionRow>), CliError> {
    let place = rows.iter().position(|row| row.change.evidence.is_some()).unwrap_or_default();
    let rest = rows.split_off(place.min(rows.len()));
    let chosen = rest.into_iter().next().ok_or_else(|| CliError::NoDecision { route: args.route.to_string() })?;
    Ok((chosen, rows))
}

fn since_then(newer: &[DecisionRow]) -> String {
    if newer.is_empty() {
        return String::new();
    }
    let line = |row: &DecisionRow| paragraph(&format!("Decision {}, {}: {}", row.id, moment(&row.at), row.sentence), 2);
    format!("\n{}\n{}", paint(BOLD, "Since then"), newer.iter().rev().map(line).collect::<String>())
}

/// The letter about a decision.
pub(super) fn letter(row: &DecisionRow) -> String {
    let mut page = heading(row);
    if let Some(evidence) = &row.change.evidence {
        page.push_str(&seen(&row.change, evidence));
        page.push_str(&sure(&row.change, evidence));
    }
    page.push_str(&failing(&row.change, &row.failures));
    page.push_str(&advice(row));
    page
}

/// What was decided, when, and what it did to traffic.
fn heading(row: &DecisionRow) -> String {
    let change = &row.change;
    let decision = paint(style(change.decision), &change.decision.as_str().replace('_', " "));
    let phase = |name: pointsman_rollout::PhaseName| name.as_str().replace('_', " ");
    let mut page = format!("{}, decision {}: {decision}\n", paint(BOLD, row.route.as_str()), row.id);
    page.push_str(&paragraph(&format!("{}. {}.", moment(&row.at), row.sentence), 0));
    let moved = if change.before == change.after {
        format!("Traffic stayed at {}.", in_words(&change.after))
    } else {
        format!("Traffic went from {} to {}.", in_words(&change.before), in_words(&change.after))
    };
    let phases = if change.from == change.to {
        format!("The route stayed {}.", phase(change.from))
    } else {
        format!("The route went from {} to {}.", phase(change.from), phase(change.to))
    };
    page.push_str(&paragraph(&format!("{moved} {phases}"), 0));
    page
}

fn in_words(split: &pointsman_config::Split) -> String {
    match split {
        pointsman_config::Split::Whole(version) => format!("{version} 100%"),
        pointsman_config::Split::Canary { stable, canary, share } => {
            format!("{stable} {} and {canary} {share}", share.rest())
        }
    }
}

fn canary_of(change: &Change) -> &str {
    change.canary.as_ref().map_or("the canary", VersionId::as_str)
}

/// Counts, shares and the interval.
fn seen(change: &Change, evidence: &Summary) -> String {
    let (stable, canary) = (change.stable.as_str(), canary_of(change));
    let title = format!("What was seen, over {}", span(evidence.elapsed_seconds));
    let names = stable.chars().count().max(canary.chars().count()) + " stable".len();
    let head = format!(
        "  {:<names$} {:>12} {:>8} {:>10} {:>8} {:>12} {:>8}",
        "", "requests", "share", "errors", "share", "error rate", "slow"
    );
    let all = evidence.canary + evidence.stable;
    let mut page = format!("\n{}\n{}\n", paint(BOLD, &title), paint(DIM, head.trim_end()));
    page.push_str(&side(&format!("{:<names$}", format!("{stable} stable")), evidence.stable, all));
    page.push_str(&side(&format!("{:<names$}", format!("{canary} canary")), evidence.canary, all));
    page.push_str(&paragraph(&compared(stable, canary, evidence), 2));
    page.extend(evidence.split.and_then(|seen| split(canary, &seen)).map(|line| paragraph(&line, 2)));
    page.extend(evidence.alone.as_ref().map(|seen| paragraph(&alone(canary, seen), 2)));
    page.extend(evidence.mirror.as_ref().map(|seen| paragraph(&copies(stable, seen), 2)));
    page.extend(evidence.gates.iter().map(|seen| paragraph(&gate(seen), 2)));
    page
}

/// What somebody else said.
fn gate(seen: &GateSummary) -> String {
    let held = span(seen.for_seconds);
    format!("The gate `{}` had stood at {} for {held}: {}.", seen.gate, seen.outcome.as_str(), seen.words)
}

fn side(name: &str, tally: Tally, all: Tally) -> String {
    let share = |part: u64, whole: u64| ratio(part, whole).map_or_else(|| "-".to_owned(), percent);
    format!(
        "  {} {:>12} {:>8} {:>10} {:>8} {:>12} {:>8}\n",
        paint(BOLD, name),
        grouped(tally.requests),
        share(tally.requests, all.requests),
        grouped(tally.errors),
        share(tally.errors, all.errors),
        share(tally.errors, tally.requests),
        share(tally.slow, tally.requests)
    )
}

/// The difference in words; equal versions would have equal shares.
fn compared(stable: &str, canary: &str, evidence: &Summary) -> String {
    let Some(difference) = evidence.error_rate_difference else {
        return "There is nothing to compare yet: one of the two had no request.".to_owned();
    };
    let mut text = format!(
        "Were both alike, each would have the same share of the errors as of the requests. {}; \
         with {} confidence, however often it is looked at, the difference is between {} and {} points",
        rates(canary, stable, [difference.low, difference.estimate, difference.high]),
        percent_in_text(evidence.confidence),
        signed_points(difference.low),
        signed_points(difference.high)
    );
    match evidence.error_rate_ratio.map(|ratio| (factor(ratio.low), ratio.high.map(factor))) {
        Some((low, Some(high))) => text.say(format_args!(", the factor between {low} and {high}")),
        Some((low, None)) => text.say(format_args!(", the factor {low} or more")),
        None => {}
    }
    text.push('.');
    if evidence.hold {
        text.say(format_args!(
            " {stable} itself was failing at that moment, so {canary} could not be blamed for what both suffered."
        ));
    }
    text
}

/// Every test: its odds, and the odds at which it decides.
fn sure(change: &Change, evidence: &Summary) -> String {
    let (stable, canary) = (change.stable.as_str(), canary_of(change));
    let rows: Vec<_> = evidence.tests().into_iter().map(|(test, measure)| (question(test, stable), measure)).collect();
    let width = rows.iter().map(|(what, _)| what.chars().count()).max().unwrap_or_default();
    let head = format!("  {:<width$} {:>17} {:>17}", format!("{canary}:"), "odds", "decides at");
    let mut page = format!("\n{}\n{}\n", paint(BOLD, "How sure it was"), paint(DIM, &head));
    page.extend(rows.iter().map(|(what, test)| test_line(&format!("{what:<width$}"), test)));
    if evidence.burst_discount > 0.0 {
        let discount = format!(
            "Since errors can come in bursts, {:.1} nats were taken off the last second's evidence.",
            evidence.burst_discount
        );
        page.push_str(&paragraph(&discount, 2));
    }
    page
}

fn test_line(what: &str, test: &Measure) -> String {
    let held = test.log_e.map_or_else(|| "none".to_owned(), odds);
    let mark = if test.is_proven() { format!("  {}", paint(BOLD, "proven")) } else { String::new() };
    format!("  {what} {held:>17} {:>17}{mark}\n", odds(test.limit))
}

/// Requests to look for in the version's own log.
fn failing(change: &Change, failures: &[Failure]) -> String {
    if failures.is_empty() {
        return String::new();
    }
    let title = format!("Failing requests of {}, newest last", canary_of(change));
    let mut page = format!("\n{}\n", paint(BOLD, &title));
    for failure in failures {
        let status = failure.status.map_or_else(|| "  -".to_owned(), |status| status.to_string());
        let outcome = paint(BAD, &format!("{:<8}", failure.outcome));
        page.say(format_args!(
            "  {}  {status}  {outcome}  {}\n",
            paint(DIM, &time_of_day(failure.at_unix_ms)),
            failure.request_id
        ));
    }
    page
}

/// What to do now.
fn advice(row: &DecisionRow) -> String {
    let route = row.route.as_str();
    let lines = match row.change.decision {
        Decision::Rollback | Decision::RollbackDone => after_rollback(row),
        Decision::Pause | Decision::Alert if matches!(row.change.cause, Cause::SplitMismatch { .. }) => {
            after_mismatch(row)
        }
        Decision::Pause | Decision::Alert if matches!(row.change.cause, Cause::ForeignChange { .. }) => vec![
            "Traffic was left as it is, and nobody fights over the live Service.".to_owned(),
            "Find out who else writes to it: the rollout goes on once it is settled what counts.".to_owned(),
            format!("`pointsman status {route}` shows the way on."),
        ],
        Decision::Alert if matches!(row.change.cause, Cause::MirrorDisagreement { .. }) => vec![
            "Traffic was left as it is, and no further step is taken.".to_owned(),
            format!("Look at what {} answers to the same requests as {}.", canary_of(&row.change), row.change.stable),
            format!("`pointsman promote {route}` promotes it all the same; `pointsman rollback {route}` gives up."),
        ],
        Decision::Hold => after_hold(row),
        Decision::Pause => vec![
            format!("`pointsman resume {route}` goes on; `pointsman rollback {route}` gives up."),
            "While it is paused, a proven regression still takes the canary back.".to_owned(),
        ],
        Decision::Alert => vec![
            format!(
                "Traffic was left as it is. `pointsman rollback {route}` takes {} back at once.",
                canary_of(&row.change)
            ),
            format!("`pointsman status {route}` shows whether it goes on."),
        ],
        Decision::Promote | Decision::Flip | Decision::Bake => vec![format!(
            "Nothing; {} stays warm, and `pointsman rollback {route}` is one move as long as it does.",
            row.change.stable
        )],
        Decision::Start
        | Decision::Step
        | Decision::Resume
        | Decision::Finish
        | Decision::SetWeights
        | Decision::Retry
        | Decision::Edit => {
            vec![format!("Nothing; `pointsman status {route}` shows what happens next.")]
        }
    };
    let style =
        if matches!(row.change.decision, Decision::Alert | Decision::Pause | Decision::Hold) { CAREFUL } else { GOOD };
    let listed: String = lines.iter().map(|line| paragraph(line, 2)).collect();
    format!("\n{}\n{listed}", paint(style, "What to do"))
}

fn after_hold(row: &DecisionRow) -> Vec<String> {
    let route = row.route.as_str();
    let is_frozen = matches!(&row.change.cause, Cause::GateHolds { gate, .. } if is_freeze(gate));
    let (until, order) = if is_frozen {
        ("the freeze is over", format!("`pointsman promote {route} --force --reason TEXT` goes past it"))
    } else {
        ("the gate passes", format!("`pointsman promote {route}` does not wait for it"))
    };
    vec![
        format!("Traffic was left as it is; the rollout goes on by itself as soon as {until}."),
        format!("{order}; `pointsman rollback {route}` gives up."),
    ]
}

fn after_mismatch(row: &DecisionRow) -> Vec<String> {
    let (route, canary) = (row.route.as_str(), canary_of(&row.change));
    vec![
        format!(
            "{canary} and {} did not get the same kind of requests, so comparing them says nothing.",
            row.change.stable
        ),
        "Where users are drawn (`sticky`), clients may choose their keys so that they get one version, or something \
         before this edge that divides users as well sends only some of them here. Where each request draws by itself, \
         it is a defect of the edge."
            .to_owned(),
        format!(
            "When that is put right, `pointsman resume {route}` compares anew; where weights are set by hand, any edit of \
             the route or `pointsman weights` does."
        ),
        format!(
            "Until then {canary} is only taken back for what it does itself: most requests failing, or more than is ever allowed."
        ),
    ]
}

fn after_rollback(row: &DecisionRow) -> Vec<String> {
    let (route, canary) = (row.route.as_str(), canary_of(&row.change));
    let mut lines = vec![format!("Users no longer see {canary}: its requests went back to {}.", row.change.stable)];
    if !row.failures.is_empty() {
        lines.push(format!("Look for the request ids above in the log of {canary}."));
    }
    lines.push(format!(
        "Give the repaired build a new `revision` of {canary} in the config file; its rollout starts anew by itself."
    ));
    let elsewhere = match &row.change.cause {
        Cause::Operator { .. } => "To try the same build again",
        Cause::Plan { .. }
        | Cause::Evidence { .. }
        | Cause::NotReady { .. }
        | Cause::EmptyService { .. }
        | Cause::ForeignChange { .. }
        | Cause::Tripped { .. }
        | Cause::Remembered { .. }
        | Cause::Deadline { .. }
        | Cause::SplitMismatch { .. }
        | Cause::MirrorDisagreement { .. }
        | Cause::GateFails { .. }
        | Cause::GateHolds { .. }
        | Cause::File => "If the cause lay elsewhere",
    };
    lines.push(format!("{elsewhere}: `pointsman retry {route} {canary} --reason TEXT`."));
    lines
}
