//! What an edge counted and the leader has not taken yet, and how it is taken exactly once.
//!
//! Line: recorder ► **rows** ► (leader's) analysis. Pure. What was counted is given in batches with growing numbers. A
//! batch stays as it is until the leader asks for what comes after it, so asking twice gives the same; what is counted
//! meanwhile waits, summed by weight, and is the next batch. A leader takes each number once. So an answer that is lost,
//! late or repeated neither loses a count nor doubles one, however long nobody asks.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use pointsman_config::{RouteName, Share, VersionId};
use pointsman_rollout::Observed;
use serde::{Deserialize, Serialize};

/// Different sums that wait at most: routes times the weights that were in force while nobody asked.
const MOST_WAITING: usize = 4_096;
/// Processes whose last batch a leader remembers at most: many times what runs beside it, and those that ended are many.
const MOST_PROCESSES: usize = 4_096;

/// Which process counted: drawn by chance when it starts. Numbers of batches mean nothing in another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Instance(pub(crate) u64);

/// What was counted of one route under one weight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counted {
    /// Which route.
    pub(crate) route: RouteName,
    /// The sums.
    pub(crate) observed: Observed,
}

/// What is taken in one go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Batch {
    /// Grows by one with every batch that holds something, from 1; one that holds nothing has the number before it.
    pub(crate) number: u64,
    /// What was counted.
    pub(crate) rows: Vec<Counted>,
}

/// The last batch that a leader has taken of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Taken {
    /// Of which process.
    pub(crate) instance: Instance,
    /// Its number.
    pub(crate) number: u64,
}

/// Only sums over the same terms may be made: under another weight the same labels mean something else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Terms {
    route: RouteName,
    stable: VersionId,
    canary: Option<VersionId>,
    weight: Share,
    trial: u64,
    is_by_user: bool,
}

impl Terms {
    fn of(route: &RouteName, row: &Observed) -> Self {
        Self {
            route: route.clone(),
            stable: row.stable.clone(),
            canary: row.canary.clone(),
            weight: row.row.weight,
            trial: row.trial,
            is_by_user: row.requests.is_some(),
        }
    }
}

/// What several edges counted of one route, as one of them would have: a row for each of the terms.
pub(crate) fn summed(route: &RouteName, rows: Vec<Observed>) -> Vec<Observed> {
    let mut sums: BTreeMap<Terms, Observed> = BTreeMap::new();
    for row in rows {
        match sums.entry(Terms::of(route, &row)) {
            Entry::Occupied(mut sum) => add(sum.get_mut(), &row),
            Entry::Vacant(place) => {
                place.insert(row);
            }
        }
    }
    sums.into_values().collect()
}

/// What one edge keeps for the leader.
#[derive(Debug)]
pub(crate) struct RowLog {
    instance: Instance,
    /// The number of the last batch that was made.
    number: u64,
    /// The last batch, as long as it is not known to be taken.
    given: Option<Batch>,
    /// What comes after it, and since which push.
    waiting: BTreeMap<Terms, (u64, Observed)>,
    pushes: u64,
    lost: u64,
}

impl RowLog {
    /// An empty log of the process `instance`.
    pub(crate) fn new(instance: Instance) -> Self {
        Self { instance, number: 0, given: None, waiting: BTreeMap::new(), pushes: 0, lost: 0 }
    }

    /// Adds what was counted.
    pub(crate) fn push(&mut self, route: &RouteName, rows: &[Observed]) {
        for row in rows {
            self.pushes += 1;
            let terms = Terms::of(route, row);
            if let Some((_, sum)) = self.waiting.get_mut(&terms) {
                add(sum, row);
            } else {
                self.make_room();
                self.waiting.insert(terms, (self.pushes, row.clone()));
            }
        }
    }

    /// Sums over different weights cannot be summed any further; after hours of changing weights that nobody asked for, the
    /// oldest go. That depends on no outcome, so it makes evidence weaker and never wrong.
    fn make_room(&mut self) {
        if self.waiting.len() < MOST_WAITING {
            return;
        }
        let oldest = self.waiting.iter().min_by_key(|(_, (since, _))| *since).map(|(terms, _)| terms.clone());
        if let Some((_, gone)) = oldest.and_then(|terms| self.waiting.remove(&terms)) {
            self.lost += gone.row.canary.requests + gone.row.stable.requests;
        }
    }

    /// What a leader gets that has taken `taken` so far; the same until it has taken that.
    pub(crate) fn ask(&mut self, taken: Option<Taken>) -> Batch {
        let taken = taken.filter(|taken| taken.instance == self.instance).map(|taken| taken.number);
        if let Some(given) = self.given.as_ref().filter(|given| taken != Some(given.number)) {
            return given.clone();
        }
        self.given = None;
        if self.waiting.is_empty() {
            return Batch { number: self.number, rows: Vec::new() };
        }
        self.number += 1;
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let rows = waiting.map(|(terms, (_, observed))| Counted { route: terms.route, observed }).collect();
        let batch = Batch { number: self.number, rows };
        self.given = Some(batch.clone());
        batch
    }

    /// This edge leads: what it counted it has judged itself, and nobody asks.
    pub(crate) fn clear(&mut self) {
        self.given = None;
        self.waiting.clear();
    }

    /// Requests that had to go uncounted since the process started.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }
}

fn add(sum: &mut Observed, more: &Observed) {
    sum.row.canary += more.row.canary;
    sum.row.stable += more.row.stable;
    sum.drawn += more.drawn;
    if let (Some(sum), Some(more)) = (&mut sum.requests, more.requests) {
        *sum += more;
    }
}

/// What this edge has taken of the others while it led. Who is out of sight is not gone: it gives its last batch again once
/// it is back, so only those are forgotten that have not been heard for the longest time, to make room.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    last: BTreeMap<Instance, Last>,
    taken: u64,
}

/// The last batch that was taken of a process.
#[derive(Debug, Clone, Copy, Default)]
struct Last {
    number: u64,
    /// When it was heard last: grows with every batch.
    heard: u64,
}

impl Collected {
    /// What to tell the process `instance` that was taken of it.
    pub(crate) fn of(&self, instance: Instance) -> Option<Taken> {
        self.last.get(&instance).map(|last| Taken { instance, number: last.number })
    }

    /// The rows of a batch that is new; nothing of one that was taken already.
    pub(crate) fn take(&mut self, instance: Instance, batch: Batch) -> Vec<Counted> {
        self.taken += 1;
        self.make_room_for(instance);
        let last = self.last.entry(instance).or_default();
        last.heard = self.taken;
        if batch.number <= last.number {
            return Vec::new();
        }
        last.number = batch.number;
        batch.rows
    }

    fn make_room_for(&mut self, instance: Instance) {
        if self.last.len() < MOST_PROCESSES || self.last.contains_key(&instance) {
            return;
        }
        let longest_silent = self.last.iter().min_by_key(|(_, last)| last.heard).map(|(instance, _)| *instance);
        if let Some(gone) = longest_silent {
            self.last.remove(&gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use pointsman_rollout::{Drawn, Row, Tally};
    use proptest::prelude::*;

    use super::*;

    fn name() -> RouteName {
        "r".parse().unwrap()
    }

    fn counted(percent: u32, requests: u64) -> Observed {
        let tally = Tally { requests, errors: requests / 2, slow: 0 };
        Observed {
            stable: "v1".parse().unwrap(),
            canary: Some("v2".parse().unwrap()),
            trial: 0,
            requests: None,
            row: Row { weight: Share::from_ppm(percent * 10_000).unwrap(), canary: tally, stable: Tally::default() },
            drawn: Drawn { canary: requests, stable: 0 },
        }
    }

    fn sum(rows: &[Counted]) -> u64 {
        rows.iter().map(|counted| counted.observed.row.canary.requests).sum()
    }

    #[test]
    fn asking_twice_gives_the_same_and_what_comes_meanwhile_is_the_next_batch() {
        let mut log = RowLog::new(Instance(7));
        log.push(&name(), &[counted(5, 10), counted(5, 4)]);
        let first = log.ask(None);
        assert_eq!((first.number, first.rows.len(), sum(&first.rows)), (1, 1, 14));
        log.push(&name(), &[counted(5, 1)]);
        assert_eq!(log.ask(None), first);
        assert_eq!(log.ask(Some(Taken { instance: Instance(8), number: 1 })), first, "another process's numbers");
        let second = log.ask(Some(Taken { instance: Instance(7), number: 1 }));
        assert_eq!((second.number, sum(&second.rows)), (2, 1));
        let none = log.ask(Some(Taken { instance: Instance(7), number: 2 }));
        assert_eq!((none.number, none.rows.len()), (2, 0));
    }

    #[test]
    fn what_several_edges_counted_under_the_same_terms_is_one_row() {
        let of_trial = |trial| Observed { trial, ..counted(5, 1) };
        let rows = vec![counted(5, 10), counted(25, 3), counted(5, 4), of_trial(1), of_trial(1)];
        let sums = summed(&name(), rows);
        let told: Vec<_> = sums
            .iter()
            .map(|sum| (sum.row.weight.ppm(), sum.trial, sum.row.canary.requests, sum.drawn.canary))
            .collect();
        assert_eq!(told, [(50_000, 0, 14, 14), (50_000, 1, 2, 2), (250_000, 0, 3, 3)]);
    }

    #[test]
    fn different_weights_are_never_summed_and_few_rows_hold_an_hour() {
        let mut log = RowLog::new(Instance(1));
        for tick in 0..36_000 {
            log.push(&name(), &[counted(if tick < 18_000 { 5 } else { 25 }, 2)]);
        }
        let batch = log.ask(None);
        assert_eq!((batch.rows.len(), sum(&batch.rows)), (2, 72_000));
        assert_eq!(batch.rows[0].observed.row.canary.errors, 18_000);
        assert_eq!(batch.rows[0].observed.drawn.canary, 36_000);
    }

    #[test]
    fn a_log_that_nobody_asks_for_stays_small_and_tells_what_it_lost() {
        let mut log = RowLog::new(Instance(1));
        for ppm in 0..u32::try_from(MOST_WAITING).unwrap() + 5 {
            let mut row = counted(1, 1);
            row.row.weight = Share::from_ppm(ppm).unwrap();
            log.push(&name(), &[row]);
        }
        assert_eq!((log.ask(None).rows.len(), log.lost()), (MOST_WAITING, 5));
    }

    #[test]
    fn what_was_taken_is_remembered_of_the_processes_that_were_heard_last() {
        let mut collected = Collected::default();
        let batch = |number| Batch { number, rows: vec![Counted { route: name(), observed: counted(5, 1) }] };
        for process in 0..u64::try_from(MOST_PROCESSES).unwrap() {
            assert_eq!(collected.take(Instance(process), batch(3)).len(), 1);
        }
        assert_eq!(collected.take(Instance(0), batch(3)).len(), 0);
        collected.take(Instance(u64::MAX), batch(1));
        assert_eq!(collected.last.len(), MOST_PROCESSES);
        let number = |process| collected.of(Instance(process)).map(|taken| taken.number);
        assert_eq!((number(0), number(1), number(2)), (Some(3), None, Some(3)));
    }

    /// What may happen between two leaders and one edge whose answers get lost.
    #[derive(Debug, Clone)]
    enum Happening {
        Count(u32),
        Ask { leader: usize, arrives: bool, twice: bool },
        Restart,
    }

    fn happening() -> impl Strategy<Value = Happening> {
        prop_oneof![
            4 => (0_u32..4).prop_map(Happening::Count),
            6 => (0_usize..2, any::<bool>(), any::<bool>())
                .prop_map(|(leader, arrives, twice)| Happening::Ask { leader, arrives, twice }),
            1 => Just(Happening::Restart),
        ]
    }

    proptest! {
        /// Every request is a bit of its own, so that a leader that counts one twice is seen.
        #[test]
        fn no_leader_counts_a_request_twice_and_one_alone_loses_none(happenings in proptest::collection::vec(happening(), 1..60), alone: bool) {
            let mut log = RowLog::new(Instance(0));
            let mut leaders = [(Collected::default(), 0_u64), (Collected::default(), 0)];
            let (mut instance, mut bit, mut counted_since_start) = (0, 0, 0_u64);
            let mut lost_with_processes = 0_u64;
            for happening in happenings {
                match happening {
                    Happening::Count(percent) if bit < 60 => {
                        log.push(&name(), &[counted(percent, 1 << bit)]);
                        counted_since_start |= 1 << bit;
                        bit += 1;
                    }
                    Happening::Count(_) => {}
                    Happening::Ask { leader, arrives, twice } => {
                        let (collected, total) = &mut leaders[if alone { 0 } else { leader }];
                        let batch = log.ask(collected.of(Instance(instance)));
                        let answers = usize::from(arrives) * (1 + usize::from(twice));
                        for _ in 0..answers {
                            for row in collected.take(Instance(instance), batch.clone()) {
                                prop_assert_eq!(*total & row.observed.row.canary.requests, 0, "twice");
                                *total |= row.observed.row.canary.requests;
                            }
                        }
                    }
                    Happening::Restart => {
                        instance += 1;
                        lost_with_processes |= counted_since_start & !(leaders[0].1 | leaders[1].1);
                        counted_since_start = 0;
                        log = RowLog::new(Instance(instance));
                    }
                }
            }
            // Two more asks that arrive: the batch that is open, and what waits behind it.
            let (collected, total) = &mut leaders[0];
            for _ in 0..2 {
                for row in collected.take(Instance(instance), log.ask(collected.of(Instance(instance)))) {
                    prop_assert_eq!(*total & row.observed.row.canary.requests, 0, "twice at the end");
                    *total |= row.observed.row.canary.requests;
                }
            }
            let all = (1_u64 << bit) - 1;
            prop_assert_eq!((leaders[0].1 | leaders[1].1) | lost_with_processes, all);
        }
    }
}
