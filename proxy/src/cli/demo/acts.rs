//! The three acts.

use std::time::{Duration, Instant};

use pointsman_rollout::{Decision, PhaseName};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::sleep;

use super::figures::{ActFigures, EditFigures};
use super::stage::{Stage, unix_us};
use super::{Act, DemoError};
use crate::cli::CliError;
use crate::cli::explain::letter;
use crate::view::DecisionRow;

/// Steady traffic before the first act, so that stable has a history.
const BEFORE: Duration = Duration::from_secs(3);
/// Traffic watched after each edit of weights.
const WATCH_EDIT: Duration = Duration::from_secs(3);
/// What an operator writes into the file in the last act: the share of v2, in percent.
const EDITS: [u32; 3] = [20, 50, 0];
/// After so long without a decision the edge is asked what it waits for.
const QUIET: Duration = Duration::from_secs(6);
/// How many standard deviations of chance are allowed between asked and observed.
const SIGMAS: f64 = 4.0;

/// Plays `only`, or all acts in their order.
pub(super) async fn play(stage: &mut Stage, only: Option<Act>) -> Result<(), CliError> {
    stage
        .wait_for("the first answers", 10, || {
            Ok(stage.books().seconds.iter().any(|second| second.answered > 0).then_some(()))
        })
        .await?;
    sleep(BEFORE).await;
    for act in [Act::Healthy, Act::Failing, Act::Edit] {
        if only.is_none_or(|only| only == act) {
            play_one(stage, act).await?;
        }
    }
    Ok(())
}

async fn play_one(stage: &mut Stage, act: Act) -> Result<(), CliError> {
    let start = Start { unix_us: unix_us(), at: Instant::now(), last_decision: last_decision(stage)? };
    let special = match act {
        Act::Healthy => healthy(stage, &start).await?,
        Act::Failing => failing(stage, &start).await?,
        Act::Edit => edit(stage).await?,
    };
    let figures = measure(stage, act, &start, special).await?;
    stage.say(&format!(
        "{} requests, {} errors seen by clients, {} of them on stable",
        figures.requests, figures.errors, figures.errors_on_stable
    ))?;
    let verdict = check(&figures);
    stage.keep(figures);
    verdict
}

/// Where an act began.
struct Start {
    unix_us: u64,
    at: Instant,
    last_decision: u64,
}

/// What only some acts measure.
#[derive(Default)]
struct Special {
    first_bad_answer_to_weight_0_ms: Option<f64>,
    edits: Vec<EditFigures>,
}

fn last_decision(stage: &Stage) -> Result<u64, CliError> {
    Ok(stage.decisions_after(0)?.last().map_or(0, |row| row.id))
}

async fn healthy(stage: &Stage, start: &Start) -> Result<Special, CliError> {
    stage.title("Act 1: a healthy canary. The file now asks for a rollout of v2: 5%, 25%, 50%, then all.")?;
    stage.write_config(&stage.places().rollout("r1")).await?;
    follow(stage, start, Decision::Finish).await?;
    let route = stage.route()?;
    if route.phase != PhaseName::Steady.as_str() || route.stable.as_str() != "v2" {
        return Err(failed(format!(
            "v2 should be stable now, but {} is, and the route is {}",
            route.stable, route.phase
        )));
    }
    Ok(Special::default())
}

async fn failing(stage: &Stage, start: &Start) -> Result<Special, CliError> {
    stage.title("Act 2: a new build of v2 starts well and then fails half of its answers. v1 is stable.")?;
    stage.write_config(&stage.places().rollout("r2")).await?;
    let share = follow(stage, start, Decision::Step).await?;
    stage.say("it serves well for two seconds ...")?;
    sleep(Duration::from_secs(2)).await;
    stage.break_v2(r#"{"fail":{"share":0.5,"status":500}}"#)?;
    stage.say("... and now half of its answers are errors")?;
    let start = Start { last_decision: share.id, ..*start };
    let row = follow(stage, &start, Decision::Rollback).await?;
    let first_bad =
        stage.first_bad_answer_us()?.ok_or_else(|| failed("the fault layer gave no bad answer".to_owned()))?;
    let milliseconds = millis_between(first_bad, &row)?;
    stage.say(&format!("weight 0 was in force {milliseconds:.0} ms after the first bad answer"))?;
    stage.title(&letter(&row))?;
    stage.break_v2("{}")?;
    Ok(Special { first_bad_answer_to_weight_0_ms: Some(milliseconds), edits: Vec::new() })
}

async fn edit(stage: &Stage) -> Result<Special, CliError> {
    stage.title("Act 3: an operator edits the weights in the file, and traffic follows.")?;
    let mut edits = Vec::new();
    for percent in EDITS {
        let in_force_ms = stage.write_config(&stage.places().weights("r3", percent)).await?;
        let from = unix_us();
        sleep(WATCH_EDIT + Duration::from_millis(1200)).await;
        let edit = observed(stage, percent, from, in_force_ms);
        stage.say(&format!(
            "file says {percent}% for v2: in force after {in_force_ms:.0} ms, {:.2}% of {} answers came from v2",
            edit.observed_percent, edit.answers
        ))?;
        edits.push(edit);
    }
    Ok(Special { first_bad_answer_to_weight_0_ms: None, edits })
}

/// The canary's share of the answers in the whole seconds since `from`.
fn observed(stage: &Stage, percent: u32, from: u64, in_force_ms: f64) -> EditFigures {
    let books = stage.books();
    let (mut answers, mut of_v2) = (0, 0);
    for second in books.between(from, u64::MAX) {
        answers += second.answers_of("v1") + second.answers_of("v2");
        of_v2 += second.answers_of("v2");
    }
    let share = f64::from(percent) / 100.0;
    let total = to_f64(answers.max(1));
    EditFigures {
        asked_percent: f64::from(percent),
        observed_percent: 100.0 * to_f64(of_v2) / total,
        sampling_error_points: 100.0 * SIGMAS * (share * (1.0 - share) / total).sqrt(),
        answers,
        in_force_ms,
    }
}

/// Tells of every decision of the act until one is `last`; gives that one.
async fn follow(stage: &Stage, start: &Start, last: Decision) -> Result<DecisionRow, CliError> {
    let (mut told, mut quiet_since) = (start.last_decision, Instant::now());
    let look = || {
        for row in stage.decisions_after(told)? {
            (told, quiet_since) = (row.id, Instant::now());
            stage.say(&row.sentence)?;
            if row.change.decision == last {
                return Ok(Some(row));
            }
        }
        if quiet_since.elapsed() >= QUIET {
            quiet_since = Instant::now();
            stage.say(&format!("next: {}", stage.route()?.next))?;
        }
        Ok(None)
    };
    stage.wait_for(&format!("the decision `{}`", last.as_str()), 60, look).await
}

/// From a moment in microseconds since 1970 to a decision, in milliseconds.
fn millis_between(from_us: u64, row: &DecisionRow) -> Result<f64, CliError> {
    let strange = |source| DemoError::Strange { what: "the time of a decision", source: Box::new(source) };
    let decided = OffsetDateTime::parse(&row.at, &Rfc3339).map_err(strange)?;
    let decided_us = decided.unix_timestamp_nanos() / 1000;
    let micros = i64::try_from(decided_us - i128::from(from_us)).unwrap_or(i64::MAX);
    Ok(Duration::from_micros(micros.unsigned_abs()).as_secs_f64() * 1000.0)
}

/// What the load counted in the whole seconds of the act.
async fn measure(stage: &Stage, act: Act, start: &Start, special: Special) -> Result<ActFigures, CliError> {
    let end = unix_us();
    stage
        .wait_for("the load's books of the act", 10, || {
            Ok(stage.books().seconds.iter().any(|second| second.unix_us >= end).then_some(()))
        })
        .await?;
    let books = stage.books();
    let rollbacks = stage
        .decisions_after(start.last_decision)?
        .iter()
        .filter(|row| row.change.decision == Decision::Rollback)
        .count();
    let mut figures = ActFigures {
        act,
        ok: false,
        seconds: start.at.elapsed().as_secs_f64(),
        requests: 0,
        errors: 0,
        errors_on_stable: 0,
        rollbacks: u64::try_from(rollbacks).unwrap_or(u64::MAX),
        first_bad_answer_to_weight_0_ms: special.first_bad_answer_to_weight_0_ms,
        edits: special.edits,
    };
    for second in books.between(start.unix_us, u64::MAX) {
        figures.requests += second.requests();
        figures.errors += second.failed;
        figures.errors_on_stable += second.errors_of("v1");
    }
    figures.ok = check(&figures).is_ok();
    Ok(figures)
}

/// Whether an act ended as it should.
fn check(figures: &ActFigures) -> Result<(), CliError> {
    let quiet = figures.errors == 0 && figures.rollbacks == 0;
    match figures.act {
        Act::Healthy | Act::Edit if !quiet => Err(failed(format!(
            "{} errors and {} rollbacks although nothing was broken",
            figures.errors, figures.rollbacks
        ))),
        Act::Failing if figures.errors_on_stable > 0 => {
            Err(failed(format!("{} errors on stable traffic", figures.errors_on_stable)))
        }
        Act::Edit => figures.edits.iter().try_for_each(check_edit),
        Act::Healthy | Act::Failing => Ok(()),
    }
}

fn check_edit(edit: &EditFigures) -> Result<(), CliError> {
    let apart = (edit.observed_percent - edit.asked_percent).abs();
    if edit.answers > 0 && apart <= edit.sampling_error_points {
        return Ok(());
    }
    Err(failed(format!(
        "the file asked for {}% and traffic gave {:.2}% over {} answers",
        edit.asked_percent, edit.observed_percent, edit.answers
    )))
}

fn failed(what: String) -> CliError {
    DemoError::Failed { what }.into()
}

/// A count as a float; far below 2^53.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "counts of a demo stay far below 2^53")]
fn to_f64(count: u64) -> f64 {
    count as f64
}
