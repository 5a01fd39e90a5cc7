//! What a trial was decided on, tick by tick, so that it can be decided again: by the same policy to the same end, by another
//! one to see where that would have gone another way.
//!
//! A journal is kept beside the phase machine and told what that is told. A record begins with a rollout, or with weights
//! that try a version, and ends when nothing is tried any more. It is bounded: the present one and the last, each up to a
//! number of ticks; what comes after is not recorded, and the record says so.

use std::collections::{BTreeMap, BTreeSet};

use pointsman_config::{ErrorKind, Guard, Share, Split, VersionId};
use serde::{Deserialize, Serialize};

use crate::change::{Change, Decision};
use crate::comparison::KnownOfStable;
use crate::input::{Observed, Order, Ready};
use crate::phase::PhaseName;
use crate::recover::Saved;
use crate::rollout::Rollout;
use crate::tally::{Drawn, Requests, Row, Tally};
use crate::time::Time;

/// The form of records; grows when an older program could not read them.
pub const RECORD_VERSION: u32 = 1;
/// Ticks that a record holds at most: two hours of ten a second, some 12 MB.
const MOST_TICKS: usize = 72_000;

/// The recorded trial of one route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The form of this record.
    pub version: u32,
    /// The name of the route.
    pub route: String,
    /// When it began, as whoever keeps it tells time (RFC 3339); empty if nobody told.
    #[serde(default)]
    pub began_at: String,
    /// Whether everything since the beginning is here.
    pub complete: bool,
    /// Which outcomes were counted as errors.
    pub(crate) count_as_error: BTreeSet<ErrorKind>,
    /// Which answers were counted as slow: those that took longer, in milliseconds.
    pub(crate) slow_after_ms: u64,
    /// Where the route stood at the beginning.
    pub(crate) start: Start,
    /// What happened since, in order.
    pub(crate) events: Vec<Event>,
    /// Ticks among the events.
    ticks: usize,
}

/// Where a route stood when its record began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Start {
    /// The moment, in nanoseconds of the process's clock.
    pub(crate) at_ns: u64,
    pub(crate) saved: Saved,
    pub(crate) known: KnownOfStable,
    pub(crate) been_up: Vec<VersionId>,
    pub(crate) ready: BTreeMap<VersionId, Ready>,
    pub(crate) applied: Split,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    /// A tick, so many nanoseconds after the one before.
    #[serde(rename = "t")]
    Tick(u64, Vec<Counted>),
    /// Other endpoints are ready from here on.
    Ready(BTreeMap<VersionId, Ready>),
    /// The edge does another split from here on.
    Applied(Split),
    /// An operator gave an order, so many nanoseconds after the tick or order before.
    Order(u64, Order),
    /// The route's part of the file changed.
    Edited,
    /// What was decided on what stands above.
    Decided(Decided),
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// What.
    pub decision: Decision,
    /// The phase after it.
    pub to: PhaseName,
    /// The split after it.
    pub after: Split,
    /// One sentence.
    pub sentence: String,
}

impl Decided {
    pub(crate) fn of(change: &Change) -> Self {
        Self { decision: change.decision, to: change.to, after: change.after.clone(), sentence: change.sentence() }
    }
}

/// A row of a tick, with what it takes to judge it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counted {
    #[serde(rename = "s")]
    stable: VersionId,
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    canary: Option<VersionId>,
    /// Whether it belongs to the trial that was judged when it became known.
    #[serde(rename = "f")]
    fresh: bool,
    /// Weight in ppm, then requests, errors and slow ones of the canary, the same of stable, and the draws of both.
    #[serde(rename = "n")]
    numbers: [u64; 9],
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    requests: Option<Box<Requests>>,
}

impl Counted {
    fn of(seen: &Observed, trial: u64) -> Self {
        let (canary, stable, drawn) = (seen.row.canary, seen.row.stable, seen.drawn);
        let numbers = [
            u64::from(seen.row.weight.ppm()),
            canary.requests,
            canary.errors,
            canary.slow,
            stable.requests,
            stable.errors,
            stable.slow,
            drawn.canary,
            drawn.stable,
        ];
        Self {
            stable: seen.stable.clone(),
            canary: seen.canary.clone(),
            fresh: seen.trial == trial,
            numbers,
            requests: seen.requests.map(Box::new),
        }
    }

    /// As it was seen, in trial number `trial` if it belonged to the one that was judged.
    pub(crate) fn observed(&self, trial: u64) -> Observed {
        let [weight, requests, errors, slow, stable_requests, stable_errors, stable_slow, drawn, stable_drawn] =
            self.numbers;
        let weight = u32::try_from(weight).ok().and_then(|ppm| Share::from_ppm(ppm).ok()).unwrap_or(Share::ZERO);
        let row = Row {
            weight,
            canary: Tally { requests, errors, slow },
            stable: Tally { requests: stable_requests, errors: stable_errors, slow: stable_slow },
        };
        Observed {
            stable: self.stable.clone(),
            canary: self.canary.clone(),
            trial: if self.fresh { trial } else { u64::MAX },
            row,
            requests: self.requests.as_deref().copied(),
            drawn: Drawn { canary: drawn, stable: stable_drawn },
        }
    }
}

/// The present record of a route and the one before.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    present: Option<Present>,
    last: Option<Record>,
}

#[derive(Debug, Clone)]
struct Present {
    record: Record,
    at_ns: u64,
    ready: BTreeMap<VersionId, Ready>,
    applied: Split,
}

impl Journal {
    /// The present record, or the last one if nothing is tried at the moment.
    pub fn record(&self) -> Option<&Record> {
        self.present.as_ref().map(|present| &present.record).or(self.last.as_ref())
    }

    /// To be told of a tick, before the rollout is; `began_at` is the wall clock's time, in case a record begins.
    pub fn tick(
        &mut self,
        rollout: &Rollout,
        rows: &[Observed],
        around: (&BTreeMap<VersionId, Ready>, &Split),
        (now, began_at): (Time, impl FnOnce() -> String),
    ) {
        let (ready, applied) = around;
        self.begin(rollout, applied, (now, began_at));
        let Some(present) = &mut self.present else { return };
        if present.ready != *ready {
            present.ready.clone_from(ready);
            present.note(Event::Ready(ready.clone()));
        }
        if present.applied != *applied {
            present.applied.clone_from(applied);
            present.note(Event::Applied(applied.clone()));
        }
        let since_ns = present.pass(now);
        let trial = rollout.trial();
        present.note(Event::Tick(since_ns, rows.iter().map(|row| Counted::of(row, trial)).collect()));
    }

    /// To be told of an order that was obeyed.
    pub fn order(&mut self, order: &Order, now: Time) {
        if let Some(present) = &mut self.present {
            let since_ns = present.pass(now);
            present.note(Event::Order(since_ns, order.clone()));
        }
    }

    /// Nothing more is recorded of this trial: somebody else decides from here on.
    pub fn leave(&mut self) {
        if let Some(mut present) = self.present.take() {
            present.record.complete = false;
            self.last = Some(present.record);
        }
    }

    /// To be told of an edit.
    pub fn edit(&mut self) {
        if let Some(present) = &mut self.present {
            present.note(Event::Edited);
        }
    }

    /// To be told what came of it, when the rollout was told; `began_at` is the wall clock's time, in case a record begins.
    pub fn decided(
        &mut self,
        rollout: &Rollout,
        changes: &[Change],
        applied: &Split,
        (now, began_at): (Time, impl FnOnce() -> String),
    ) {
        if let Some(present) = &mut self.present {
            for change in changes {
                present.note(Event::Decided(Decided::of(change)));
            }
        }
        if changes.iter().any(|change| change.decision == Decision::Start) {
            // Another rollout, or the same anew: its evidence begins from nothing.
            self.last = self.present.take().map(|present| present.record).or(self.last.take());
        }
        if rollout.tries_a_version() {
            self.begin(rollout, applied, (now, began_at));
        } else if let Some(present) = self.present.take() {
            self.last = Some(present.record);
        }
    }

    /// Begins a record where something is tried, none is under way and no evidence has been seen.
    fn begin(&mut self, rollout: &Rollout, applied: &Split, (now, began_at): (Time, impl FnOnce() -> String)) {
        if self.present.is_none() && rollout.tries_a_version() {
            let start = rollout.start_of_record(applied, (nanoseconds(now), now));
            self.present = start.map(|start| Present::of(rollout, start, began_at()));
        }
    }
}

impl Present {
    fn of(rollout: &Rollout, start: Start, began_at: String) -> Self {
        let (ready, applied, at_ns) = (start.ready.clone(), start.applied.clone(), start.at_ns);
        let guard = &rollout.route().guard;
        let record = Record {
            version: RECORD_VERSION,
            route: rollout.route().name.to_string(),
            began_at,
            complete: true,
            count_as_error: guard.count_as_error.clone(),
            slow_after_ms: milliseconds(guard),
            start,
            events: Vec::new(),
            ticks: 0,
        };
        Self { record, at_ns, ready, applied }
    }

    /// Nanoseconds since the last moment that was noted.
    fn pass(&mut self, now: Time) -> u64 {
        let now_ns = nanoseconds(now);
        let since_ns = now_ns.saturating_sub(self.at_ns);
        self.at_ns = now_ns;
        since_ns
    }

    fn note(&mut self, event: Event) {
        let record = &mut self.record;
        record.ticks += usize::from(matches!(event, Event::Tick(..)));
        if record.ticks > MOST_TICKS {
            record.complete = false;
        } else {
            record.events.push(event);
        }
    }
}

/// Nanoseconds of the process's clock; more than five hundred years are its end.
fn nanoseconds(time: Time) -> u64 {
    u64::try_from(time.since(Time::default()).as_nanos()).unwrap_or(u64::MAX)
}

/// The latency threshold of a guard.
fn milliseconds(guard: &Guard) -> u64 {
    u64::try_from(guard.latency_threshold.as_millis()).unwrap_or(u64::MAX)
}

impl Record {
    /// Whether `guard` would have counted other errors or other slow answers than are in the record.
    pub(crate) fn counts_otherwise(&self, guard: &Guard) -> bool {
        self.count_as_error != guard.count_as_error || self.slow_after_ms != milliseconds(guard)
    }
}

impl Rollout {
    /// Whether a version is on trial, so that what is seen may decide something.
    fn tries_a_version(&self) -> bool {
        match self.phase() {
            PhaseName::Steady => matches!(&self.desired().granted, Split::Canary { share, .. } if *share > Share::ZERO),
            PhaseName::RolledBack => false,
            PhaseName::Warming
            | PhaseName::Shifting
            | PhaseName::Paused
            | PhaseName::Promoting
            | PhaseName::Baking
            | PhaseName::RollingBack => true,
        }
    }
}
