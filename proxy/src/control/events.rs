//! Every decision becomes a row of the log, an event, a count and one log line.
//!
//! Line: phase ► **events** ► (state, history, admin API, metrics).

use std::collections::BTreeMap;
use std::sync::Arc;

use pointsman_config::{RouteName, Share, VersionId};
use pointsman_rollout::{Cause, Change, Decision};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio::sync::broadcast;
use tracing::{info, warn};

use super::history::History;
use crate::recorder::Failure;
use crate::view::{DecisionLine, DecisionRow, Event};

/// RFC 3339 with milliseconds, in UTC.
const AT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Decisions since the process started, by route and decision.
pub(crate) type DecisionCounts = BTreeMap<(RouteName, &'static str), u64>;

/// The present moment in words.
pub(crate) fn now_in_words() -> String {
    // Formatting fails only for years beyond 9999.
    OffsetDateTime::now_utc().format(AT).unwrap_or_default()
}

/// The present moment in milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    u64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or_default()
}

/// Numbers decisions and tells of them.
#[derive(Debug)]
pub(crate) struct Events {
    last_id: u64,
    history: History,
    counts: DecisionCounts,
    sender: broadcast::Sender<Event>,
}

impl Events {
    /// Goes on after the row with `last_id`.
    pub(crate) fn new(last_id: u64, history: History, sender: broadcast::Sender<Event>) -> Self {
        Self { last_id, history, counts: DecisionCounts::new(), sender }
    }

    /// The row for `change`; told of later, once it is in force.
    pub(crate) fn row(&mut self, route: &RouteName, change: Change, failures: Vec<Failure>) -> Arc<DecisionRow> {
        self.last_id += 1;
        Arc::new(DecisionRow {
            id: self.last_id,
            at: now_in_words(),
            route: route.clone(),
            sentence: change.sentence(),
            change,
            failures,
        })
    }

    /// A decision of the process that this one took over from: told of like our own, but not counted, since that process
    /// has. It keeps its id if that is free.
    pub(crate) fn adopt(&mut self, row: DecisionRow) -> Arc<DecisionRow> {
        self.last_id = row.id.max(self.last_id + 1);
        let row = Arc::new(DecisionRow { id: self.last_id, ..row });
        self.history.remember(Arc::clone(&row));
        self.send(Event::Decision(row.as_ref().clone()));
        row
    }

    /// Ids go on after `last_id`, which the state file knows of; if it gave rows other ids, it alone knows them.
    pub(crate) fn go_on_after(&mut self, last_id: u64, renumbered: bool) {
        self.last_id = self.last_id.max(last_id);
        if renumbered {
            self.history.forget();
        }
    }

    /// Tells everybody of a decision that is in force.
    pub(crate) fn tell(&mut self, row: &Arc<DecisionRow>) {
        log(row);
        *self.counts.entry((row.route.clone(), row.change.decision.as_str())).or_default() += 1;
        self.history.remember(Arc::clone(row));
        if self.has_listeners() {
            self.send(Event::Decision(row.as_ref().clone()));
        }
    }

    /// Whether anybody listens; events are not made otherwise.
    pub(crate) fn has_listeners(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// Sends an event to whoever listens.
    pub(crate) fn send(&self, event: Event) {
        // It fails only if nobody listens.
        drop(self.sender.send(event));
    }

    /// Decisions since the process started.
    pub(crate) fn counts(&self) -> &DecisionCounts {
        &self.counts
    }

    /// Stops counting for a route that is gone.
    pub(crate) fn forget(&mut self, route: &RouteName) {
        self.counts.retain(|(of, _), _| of != route);
    }

    /// The newest decision of `route`, without its evidence.
    pub(crate) fn newest(&self, route: &RouteName) -> Option<DecisionLine> {
        self.history.newest(route).map(|row| line_of(&row))
    }
}

fn line_of(row: &DecisionRow) -> DecisionLine {
    DecisionLine {
        id: row.id,
        at: row.at.clone(),
        decision: row.change.decision.as_str().to_owned(),
        sentence: row.sentence.clone(),
    }
}

/// One line for each decision: `warn` where someone should look today.
fn log(row: &DecisionRow) {
    let change = &row.change;
    let canary = change.canary.as_ref().map(VersionId::as_str);
    let share = |split: &pointsman_config::Split| {
        change.canary.as_ref().map_or(Share::ZERO, |canary| split.share_of(canary)).ppm()
    };
    let counted = change.evidence.as_ref().map(|evidence| (evidence.canary, evidence.stable));
    macro_rules! line {
        ($level:ident) => {
            $level!(
                route = %row.route,
                decision = row.id,
                stable = %change.stable,
                canary,
                phase = change.to.as_str(),
                before_ppm = share(&change.before),
                after_ppm = share(&change.after),
                cause = %change.cause,
                canary_requests = counted.map(|(canary, _)| canary.requests),
                canary_errors = counted.map(|(canary, _)| canary.errors),
                stable_requests = counted.map(|(_, stable)| stable.requests),
                stable_errors = counted.map(|(_, stable)| stable.errors),
                "{}",
                message(change.decision)
            )
        };
    }
    if needs_a_look(change) { line!(warn) } else { line!(info) }
}

/// What an operator did is known to somebody already.
fn needs_a_look(change: &Change) -> bool {
    match change.decision {
        Decision::Rollback | Decision::Alert | Decision::Pause => {
            !matches!(change.cause, Cause::Operator { .. } | Cause::File)
        }
        Decision::Start
        | Decision::Step
        | Decision::Hold
        | Decision::Resume
        | Decision::Promote
        | Decision::Flip
        | Decision::Bake
        | Decision::Finish
        | Decision::RollbackDone
        | Decision::SetWeights
        | Decision::Retry
        | Decision::Edit => false,
    }
}

const fn message(decision: Decision) -> &'static str {
    match decision {
        Decision::Start => "rollout started",
        Decision::Step => "canary moved to its next weight",
        Decision::Pause => "rollout paused",
        Decision::Hold => "rollout held",
        Decision::Resume => "rollout resumed",
        Decision::Promote => "canary promoted",
        Decision::Flip => "live Service follows the traffic",
        Decision::Bake => "all traffic on the canary, old version stays warm",
        Decision::Finish => "rollout finished",
        Decision::Rollback => "canary taken back",
        Decision::RollbackDone => "no new request goes to the canary",
        Decision::Alert => "someone should look at the canary",
        Decision::SetWeights => "weights set by hand",
        Decision::Retry => "quarantine lifted",
        Decision::Edit => "weights changed by the file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_rfc_3339_in_utc_with_milliseconds() {
        let words = now_in_words();
        let read = OffsetDateTime::parse(&words, &time::format_description::well_known::Rfc3339).unwrap();
        assert!(words.len() == 24 && words.ends_with('Z'), "{words}");
        assert!((OffsetDateTime::now_utc() - read).abs() < time::Duration::seconds(5));
    }

    #[test]
    fn every_decision_has_words_of_its_own() {
        let words: std::collections::BTreeSet<_> = Decision::ALL.into_iter().map(message).collect();
        assert_eq!(words.len(), Decision::ALL.len());
    }
}
