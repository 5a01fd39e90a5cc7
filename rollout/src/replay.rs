//! A recorded trial, decided again under a policy: by the very phase machine, on the counts as they were.
//!
//! What cannot be known: traffic is what it was. From the first decision that differs from the recorded one, the canary would
//! have had other requests, so everything after it only says what the policy makes of the recorded ones. Copies of requests,
//! gates, the live Service and other edges are not recorded: what they held or moved is left out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{Route, Split, VersionId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::change::Decision;
use crate::input::{Input, Observed, Ready, Seen};
use crate::journal::{Decided, Event, RECORD_VERSION, Record};
use crate::rollout::Rollout;
use crate::time::Time;

/// A decision, and when it was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct At {
    /// Seconds since the record began, to the millisecond.
    pub after_ms: u64,
    /// What was decided.
    #[serde(flatten)]
    pub decided: Decided,
}

/// What was decided then, and what the policy decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// What was decided then.
    pub recorded: Vec<At>,
    /// What the policy decides.
    pub replayed: Vec<At>,
    /// Place, in both lists, of the first decision that differs; none if the policy decides the same.
    pub differs_at: Option<usize>,
    /// Whether the policy was edited while the record was made; the replay has one policy throughout.
    pub edited: bool,
    /// Whether the policy counts other errors or other slow answers than were counted, which a replay cannot do.
    pub counts_otherwise: bool,
    /// Whether the record holds everything.
    pub complete: bool,
}

/// Why a record cannot be replayed, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReplayError {
    /// It was written by a newer program.
    #[error(
        "the record has form {version}, and this program reads {RECORD_VERSION}; take the program that made it, or a newer one"
    )]
    Form {
        /// Its form.
        version: u32,
    },
}

/// Decides `record` again as `route` says.
///
/// # Errors
/// If the record cannot be read.
pub fn replay(route: &Route, record: &Record) -> Result<Replayed, ReplayError> {
    if record.version > RECORD_VERSION {
        return Err(ReplayError::Form { version: record.version });
    }
    let mut machine = Machine::of(route, record);
    for event in record.events.iter() {
        machine.go_on(event);
    }
    let differs_at = first_difference(&machine.recorded, &machine.replayed);
    Ok(Replayed {
        recorded: machine.recorded,
        replayed: machine.replayed,
        differs_at,
        counts_otherwise: record.counts_otherwise(&route.guard),
        edited: record.events.iter().any(|event| *event == Event::Edited),
        complete: record.complete,
    })
}

/// The phase machine, and where the record stands.
struct Machine {
    rollout: Rollout,
    began: Time,
    now: Time,
    ready: BTreeMap<VersionId, Ready>,
    /// What the edge did then, and, once the machine has gone another way, what it would have done.
    applied: Split,
    recorded: Vec<At>,
    replayed: Vec<At>,
}

impl Machine {
    fn of(route: &Route, record: &Record) -> Self {
        // Nothing of these is in the record.
        let route = Arc::new(Route { live_service: None, mirror: None, ..route.clone() });
        let start = &record.start;
        let began = Time::after_start(Duration::from_nanos(start.at_ns));
        Self {
            rollout: Rollout::as_recorded(route, start, began),
            began,
            now: began,
            ready: start.ready.clone(),
            applied: start.applied.clone(),
            recorded: Vec::new(),
            replayed: Vec::new(),
        }
    }

    fn go_on(&mut self, event: &Event) {
        match event {
            Event::Tick(since_ns, rows) => {
                let trial = self.rollout.trial();
                let rows: Vec<_> = rows.iter().map(|row| row.observed(trial)).collect();
                self.tick(*since_ns, &rows);
            }
            Event::Idle(ticks, before_ns, last_ns) => {
                let before = ticks.saturating_sub(1);
                for number in 0..before {
                    // The last of these at the very moment.
                    let rest = if number + 1 == before { before_ns % before } else { 0 };
                    self.tick(before_ns / before + rest, &[]);
                }
                self.tick(*last_ns, &[]);
            }
            Event::Order(since_ns, order) => {
                self.now = self.now.plus(Duration::from_nanos(*since_ns));
                // One that was obeyed then may be refused now: the route may stand elsewhere.
                let changes = self.rollout.step(Input::Order(order), self.now).unwrap_or_default();
                self.note(changes.iter().map(Decided::of));
            }
            Event::Ready(ready) => self.ready.clone_from(ready),
            Event::Applied(applied) => self.applied.clone_from(applied.as_ref()),
            Event::Edited => {}
            Event::Decided(decided) => {
                let at = self.at(decided.as_ref().clone());
                self.recorded.extend(at);
            }
        }
    }

    fn tick(&mut self, since_ns: u64, rows: &[Observed]) {
        self.now = self.now.plus(Duration::from_nanos(since_ns));
        let has_left = first_difference(&self.recorded, &self.replayed).is_some();
        let own = has_left.then(|| self.rollout.desired().effective(&self.ready));
        let applied = own.unwrap_or_else(|| self.applied.clone());
        let seen = Seen::alone(rows, &self.ready, &applied, &[]);
        // Only an order can be refused.
        let changes = self.rollout.step(Input::Tick(&seen), self.now).unwrap_or_default();
        self.note(changes.iter().map(Decided::of));
    }

    fn note(&mut self, decided: impl Iterator<Item = Decided>) {
        let told: Vec<At> = decided.filter_map(|decided| self.at(decided)).collect();
        self.replayed.extend(told);
    }

    /// None for what only says that the live Service, the file or a gate was followed.
    fn at(&self, decided: Decided) -> Option<At> {
        let after_ms = u64::try_from(self.now.since(self.began).as_millis()).unwrap_or(u64::MAX);
        let is_judged = !matches!(decided.decision, Decision::Flip | Decision::Edit | Decision::Start | Decision::Hold);
        is_judged.then_some(At { after_ms, decided })
    }
}

/// Where the lists part: another decision, another split, or another moment. A recorded end without its counterpart is
/// one as well.
fn first_difference(recorded: &[At], replayed: &[At]) -> Option<usize> {
    let same = |(then, now): &(&At, &At)| {
        then.after_ms == now.after_ms
            && then.decided.decision == now.decided.decision
            && then.decided.after == now.decided.after
    };
    let alike = recorded.iter().zip(replayed).take_while(same).count();
    (alike < recorded.len().max(replayed.len())).then_some(alike)
}
