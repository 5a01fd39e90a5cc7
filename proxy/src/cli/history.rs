//! `history`: the decision log of a route, newest first.

use super::CliError;
use super::args::HistoryArgs;
use super::client::Admin;
use super::print::Page;
use super::words::{BAD, BOLD, CAREFUL, DIM, GOOD, Say, counted, moment, paint, paragraph};
use crate::admin::DecisionsAnswer;
use crate::view::DecisionRow;
use pointsman_rollout::{Decision, Record};
use serde::{Deserialize, Serialize};

/// Decisions, and what the present or the last trial was decided on: what `replay` reads.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Recorded {
    /// Newest first.
    #[serde(default)]
    pub(super) decisions: Vec<DecisionRow>,
    /// None in what was written without `--counts`, or where nothing was tried since the edge began.
    #[serde(default)]
    pub(super) counts: Option<Record>,
}

/// Prints the newest decisions.
pub(super) fn history(admin: &Admin, args: &HistoryArgs) -> Result<(), CliError> {
    let decisions = admin.decisions(&args.route, usize::from(args.limit))?;
    if args.counts {
        let counts = admin.counts(&args.route)?;
        return Ok(Page::appended().json_line(&Recorded { decisions, counts })?);
    }
    if args.json {
        return Ok(Page::appended().json(&DecisionsAnswer { decisions })?);
    }
    Ok(Page::appended().text(&page(args.route.as_str(), &decisions, usize::from(args.limit)))?)
}

fn page(route: &str, decisions: &[DecisionRow], limit: usize) -> String {
    let telling = decisions.iter().find(|row| row.change.evidence.is_some()).or(decisions.first());
    let Some(telling) = telling else {
        return format!("{}: no decision yet\n", paint(BOLD, route));
    };
    let more = if decisions.len() == limit { "; --limit shows more" } else { "" };
    let mut page = format!("{}: {}, newest first{more}\n\n", paint(BOLD, route), counted(decisions.len(), "decision"));
    page.extend(decisions.iter().map(entry));
    page.say(format_args!("\n`pointsman explain {route} {}` shows the evidence behind it.\n", telling.id));
    page
}

fn entry(row: &DecisionRow) -> String {
    let decision = row.change.decision;
    let head =
        format!("{:>6}  {}  {}\n", row.id, paint(DIM, &moment(&row.at)), paint(style(decision), decision.as_str()));
    head + &paragraph(&row.sentence, 8)
}

/// Red for what took traffic away, yellow for what waits for somebody, green for what went well.
pub(super) const fn style(decision: Decision) -> anstyle::Style {
    match decision {
        Decision::Rollback => BAD,
        Decision::Alert | Decision::Pause | Decision::Hold => CAREFUL,
        Decision::Promote | Decision::Finish => GOOD,
        Decision::Start
        | Decision::Step
        | Decision::Resume
        | Decision::Flip
        | Decision::Bake
        | Decision::RollbackDone
        | Decision::SetWeights
        | Decision::Retry
        | Decision::Edit => BOLD,
    }
}
