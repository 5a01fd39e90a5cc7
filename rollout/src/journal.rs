//! What a trial was decided on, tick by tick, so that it can be decided again: by the same policy to the same end, by another
//! one to see where that would have gone another way.
//!
//! A journal is kept beside the phase machine and told what that is told. A record begins with a rollout, or with weights
//! that try a version, and ends when nothing is tried any more. It is bounded: the present one and the last, each up to a
//! number of ticks with counts and to as many bytes as whoever keeps many journals gives each
//! ([`Journal::keep_within`]); what comes after is not recorded, and the record says so. Weights may stand for months: of
//! those the beginning is recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::size_of;
use std::sync::Arc;

use pointsman_config::{ErrorKind, Guard, Share, Split, VersionId};
use serde::{Deserialize, Serialize, Serializer};

use crate::change::{Change, Decision};
use crate::comparison::KnownOfStable;
use crate::input::{Observed, Order, Ready};
use crate::phase::PhaseName;
use crate::recover::Saved;
use crate::rollout::Rollout;
use crate::tally::{Drawn, Requests, Row, Tally};
use crate::time::Time;

/// The form of records; grows when an older program could not read them.
pub const RECORD_VERSION: u32 = 2;
/// Ticks that a record holds at most, runs of idle ones counted once: two hours of ten a second, some 12 MB.
const MOST_TICKS: usize = 72_000;
/// The same while weights stay until somebody changes them: a quarter of an hour, some 1.5 MB.
const MOST_TICKS_OF_WEIGHTS: usize = 9_000;
/// Events that lie together, and are shared by every copy of their record.
const EVENTS_PER_CHUNK: usize = 256;
/// What an event with words takes beside them, roughly: names, a split, what holds them together.
const BYTES_BESIDE_WORDS: usize = 256;

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
    pub(crate) events: Events,
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
    Tick(u64, Box<[Counted]>),
    /// Ticks in which nothing became known: how many, the nanoseconds that passed until the last but one, and from that to
    /// the last. When the last two were is kept to the nanosecond, since what only waits for time happens in the last.
    #[serde(rename = "i")]
    Idle(u64, u64, u64),
    /// Other endpoints are ready from here on.
    Ready(BTreeMap<VersionId, Ready>),
    /// The edge does another split from here on.
    Applied(Box<Split>),
    /// An operator gave an order, so many nanoseconds after the tick or order before.
    Order(u64, Box<Order>),
    /// The route's part of the file changed.
    Edited,
    /// What was decided on what stands above.
    Decided(Box<Decided>),
}

impl Event {
    /// What it takes in memory, roughly.
    fn bytes(&self) -> usize {
        let beside = match self {
            Self::Tick(_, rows) => rows.iter().map(Counted::bytes).sum(),
            Self::Idle(..) | Self::Edited => 0,
            Self::Ready(ready) => ready.len() * BYTES_BESIDE_WORDS,
            Self::Applied(_) => BYTES_BESIDE_WORDS,
            Self::Order(_, order) => BYTES_BESIDE_WORDS + order.actor.len() + order.reason.len(),
            Self::Decided(decided) => BYTES_BESIDE_WORDS + decided.sentence.len(),
        };
        size_of::<Self>() + beside
    }
}

/// What happened, in order. Most of it lies in chunks that never change any more and that copies share, so that a record is
/// copied in no time, and written down while the next tick is noted.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(from = "Vec<Event>")]
pub(crate) struct Events {
    whole: Vec<Arc<[Event]>>,
    /// The last ones; not empty if there are any.
    open: Vec<Event>,
    /// What all of them take in memory, roughly.
    bytes: usize,
}

impl Events {
    /// Every event, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Event> {
        self.whole.iter().flat_map(|chunk| chunk.iter()).chain(&self.open)
    }

    fn push(&mut self, event: Event) {
        if self.open.len() >= EVENTS_PER_CHUNK {
            self.whole.push(std::mem::take(&mut self.open).into());
        }
        self.bytes += event.bytes();
        self.open.push(event);
    }

    /// Whether nothing became known in the last tick, and nothing else happened since.
    fn ends_idle(&self) -> bool {
        match self.open.last() {
            Some(Event::Tick(_, rows)) => rows.is_empty(),
            Some(Event::Idle(..)) => true,
            Some(Event::Ready(_) | Event::Applied(_) | Event::Order(..) | Event::Edited | Event::Decided(_)) | None => {
                false
            }
        }
    }

    /// One more tick in which nothing became known; true if it took no place of its own.
    fn go_on_idle(&mut self, since_ns: u64) -> bool {
        let Some(Event::Idle(ticks, before_ns, last_ns)) = self.open.last_mut() else { return false };
        *ticks += 1;
        *before_ns = before_ns.saturating_add(*last_ns);
        *last_ns = since_ns;
        true
    }

    /// Drops the last ones, some hundred at a time, until the others take no more than `most_bytes`.
    fn cut_to(&mut self, most_bytes: usize) {
        while self.bytes > most_bytes {
            let gone: usize = self.open.iter().map(Event::bytes).sum();
            self.bytes = self.bytes.saturating_sub(gone);
            self.open = self.whole.pop().map(|chunk| chunk.to_vec()).unwrap_or_default();
            if self.open.is_empty() {
                self.bytes = 0;
            }
        }
        self.whole.shrink_to_fit();
    }
}

impl From<Vec<Event>> for Events {
    fn from(events: Vec<Event>) -> Self {
        let mut all = Self::default();
        for event in events {
            all.push(event);
        }
        all
    }
}

impl Serialize for Events {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
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
    /// What it takes in memory.
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.requests.as_ref().map_or(0, |_| size_of::<Requests>())
    }

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
#[derive(Debug, Clone)]
pub struct Journal {
    present: Option<Present>,
    last: Option<Record>,
    /// What each of both may take in memory.
    most_bytes: usize,
}

impl Default for Journal {
    /// Empty, and alone: only the number of ticks bounds it.
    fn default() -> Self {
        Self { present: None, last: None, most_bytes: usize::MAX }
    }
}

#[derive(Debug, Clone)]
struct Present {
    record: Record,
    at_ns: u64,
    ready: BTreeMap<VersionId, Ready>,
    applied: Split,
    /// Ticks that took a place of their own.
    ticks: usize,
    room: Room,
}

/// How much a record may hold.
#[derive(Debug, Clone, Copy)]
struct Room {
    /// Ticks that take a place of their own.
    ticks: usize,
    bytes: usize,
}

impl Journal {
    /// The present record, or the last one if nothing is tried at the moment. A copy of it shares what it holds.
    pub fn record(&self) -> Option<&Record> {
        self.present.as_ref().map(|present| &present.record).or(self.last.as_ref())
    }

    /// How many records it keeps.
    pub fn records(&self) -> usize {
        usize::from(self.present.is_some()) + usize::from(self.last.is_some())
    }

    /// What its records take in memory, in bytes, roughly.
    pub fn bytes(&self) -> usize {
        self.present.iter().map(|present| &present.record).chain(&self.last).map(|record| record.events.bytes).sum()
    }

    /// Each of its records takes no more than `most_bytes` from here on; of one that takes more, the end is dropped.
    pub fn keep_within(&mut self, most_bytes: usize) {
        self.most_bytes = most_bytes;
        let present = self.present.iter_mut().map(|present| &mut present.record);
        for record in present.chain(self.last.iter_mut()).filter(|record| record.events.bytes > most_bytes) {
            record.events.cut_to(most_bytes);
            record.complete = false;
        }
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
        let most_ticks = if rollout.phase() == PhaseName::Steady { MOST_TICKS_OF_WEIGHTS } else { MOST_TICKS };
        present.room = Room { ticks: most_ticks, bytes: self.most_bytes };
        if present.ready != *ready {
            present.ready.clone_from(ready);
            present.note(Event::Ready(ready.clone()));
        }
        if present.applied != *applied {
            present.applied.clone_from(applied);
            present.note(Event::Applied(Box::new(applied.clone())));
        }
        present.tick(rows, rollout.trial(), now);
    }

    /// To be told of an order that was obeyed.
    pub fn order(&mut self, order: &Order, now: Time) {
        if let Some(present) = &mut self.present {
            let since_ns = present.pass(now);
            present.note(Event::Order(since_ns, Box::new(order.clone())));
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
                present.note(Event::Decided(Box::new(Decided::of(change))));
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
        if self.present.is_none() && rollout.begins_to_try() {
            let start = rollout.start_of_record(applied, (nanoseconds(now), now));
            self.present = start.map(|start| Present::of(rollout, start, (began_at(), self.most_bytes)));
        }
    }
}

impl Present {
    fn of(rollout: &Rollout, start: Start, (began_at, most_bytes): (String, usize)) -> Self {
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
            events: Events::default(),
        };
        Self { record, at_ns, ready, applied, ticks: 0, room: Room { ticks: MOST_TICKS, bytes: most_bytes } }
    }

    fn tick(&mut self, rows: &[Observed], trial: u64, now: Time) {
        let since_ns = self.pass(now);
        let was_idle = self.record.events.ends_idle();
        if !rows.is_empty() || !was_idle {
            // Spans run from the first tick that saw something new, so that one keeps its moment.
            self.note(Event::Tick(since_ns, rows.iter().map(|row| Counted::of(row, trial)).collect()));
        } else if self.record.complete && !self.record.events.go_on_idle(since_ns) {
            self.note(Event::Idle(1, 0, since_ns));
        }
    }

    /// Nanoseconds since the last moment that was noted.
    fn pass(&mut self, now: Time) -> u64 {
        let now_ns = nanoseconds(now);
        let since_ns = now_ns.saturating_sub(self.at_ns);
        self.at_ns = now_ns;
        since_ns
    }

    /// Once there is no room, nothing more is noted: a record with a gap could not be decided again.
    fn note(&mut self, event: Event) {
        let ticks = self.ticks + usize::from(matches!(event, Event::Tick(..) | Event::Idle(..)));
        let events = &mut self.record.events;
        self.record.complete &= ticks <= self.room.ticks && events.bytes + event.bytes() <= self.room.bytes;
        if self.record.complete {
            self.ticks = ticks;
            events.push(event);
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
    /// The same, and it is not on its way back already.
    fn begins_to_try(&self) -> bool {
        self.phase() != PhaseName::RollingBack && self.tries_a_version()
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever copies a record holds up the loop that notes the next tick in it.
    #[test]
    fn a_copy_shares_all_but_the_last_events() {
        let events = Events::from(vec![Event::Edited; 10 * EVENTS_PER_CHUNK + 3]);
        let copy = events.clone();
        assert_eq!((copy.whole.len(), copy.open.len()), (10, 3));
        assert!(copy.whole.iter().zip(&events.whole).all(|(copy, chunk)| Arc::ptr_eq(copy, chunk)));
        assert_eq!(copy.iter().count(), 10 * EVENTS_PER_CHUNK + 3);
        let text = serde_json::to_string(&copy).unwrap();
        assert_eq!(serde_json::from_str::<Events>(&text).unwrap(), events);
    }

    #[test]
    fn what_is_dropped_to_make_room_is_the_end() {
        let mut events = Events::from(vec![Event::Idle(1, 0, 7); 1_000]);
        let (all, each) = (events.bytes, events.bytes / 1_000);
        events.cut_to(all - 1);
        assert_eq!(events.bytes, each * events.iter().count());
        assert!((1_000 - EVENTS_PER_CHUNK..1_000).contains(&events.iter().count()));
        events.push(Event::Edited);
        assert_eq!(events.iter().last(), Some(&Event::Edited));
        events.cut_to(0);
        assert_eq!((events.iter().count(), events.bytes), (0, 0));
    }
}
