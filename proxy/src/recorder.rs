//! Lock-free counts of what came of requests, per weight epoch and arm.
//!
//! Line: outcome ► **recorder** ► (window, analysis, metrics). An [`Epoch`] is the span during which one route had one
//! weight; a request books under the epoch it was assigned in, whatever the weight is when it ends. The data path
//! only adds relaxed atomics on a shard of its own thread; the control path reads and takes differences ([`Ledger`]).

mod ledger;
mod pending;
mod recent_ids;
mod users;
mod waiting;

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use pointsman_config::{Share, VersionId};
use pointsman_rollout::Tally;
use pointsman_telemetry::buckets;

pub use ledger::{Ledger, Taken, Totals};
use pending::Pending;
pub use recent_ids::RecentIds;
pub(crate) use users::Met;
use users::User;
pub use users::Users;
use waiting::Waiting;

use crate::outcome::{ErrorPolicy, Outcome, Weighs};

/// Latency buckets, the last one without an upper edge.
pub const BUCKETS: usize = buckets::BUCKETS;
/// How many failing requests an epoch remembers per arm, for the explanation of a decision.
const FAILURES_KEPT: usize = 16;

/// Which side of the comparison a request was assigned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arm {
    /// The version in production.
    Stable,
    /// The version that is tried.
    Canary,
    /// A version that has no share, at this position of [`Terms::others`]; only who asks for it gets there.
    Other(usize),
}

/// Which version a request goes to, and how it came to it, which is what makes it evidence or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment {
    /// The version's side.
    pub arm: Arm,
    /// How it came to it.
    pub by: AssignedBy,
}

/// How a request came to its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssignedBy {
    /// A draw of its own.
    Chance,
    /// The draw of its user, known by this hash; the user is the unit of evidence.
    User(u64),
    /// Its own wish: no evidence.
    Override,
    /// A draw of its own, for what its client sent before: the first attempt is the evidence, this one is none.
    Repeat,
}

impl Assignment {
    /// By a draw of its own.
    pub fn by_chance(arm: Arm) -> Self {
        Self { arm, by: AssignedBy::Chance }
    }

    /// The same version for a request that its client sent before.
    #[must_use]
    pub fn as_repeat(self) -> Self {
        let by = match self.by {
            AssignedBy::Chance | AssignedBy::User(_) | AssignedBy::Repeat => AssignedBy::Repeat,
            AssignedBy::Override => AssignedBy::Override,
        };
        Self { by, ..self }
    }
}

/// A failing request, kept as a sample for people.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Failure {
    /// Its `x-request-id`.
    pub request_id: String,
    /// What came of it: a value of the metric label `outcome`.
    pub outcome: String,
    /// The status that the client got, or that a retry kept from it; none without an answer.
    pub status: Option<u16>,
    /// When it ended, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
}

/// What an [`Epoch`] needs to know of its route.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms {
    /// The canary's share.
    pub weight: Share,
    /// Which trial of the canary its requests are evidence in.
    pub trial: u64,
    /// Who takes the rest.
    pub stable: VersionId,
    /// Who takes the share.
    pub canary: Option<VersionId>,
    /// The route's other versions.
    pub others: Vec<VersionId>,
    /// Which outcomes count as errors.
    pub errors: ErrorPolicy,
    /// A version that takes longer counts as slow: from the whole request to the end of its answer where that is small, and
    /// else to its head. What a client adds, by sending slowly or by reading a large answer slowly, says nothing about the
    /// version.
    pub slow_after: Duration,
    /// A whole request without an answer's head by then is judged as a timeout, whatever comes of it later.
    pub unanswered_after: Duration,
    /// Whose first error is the unit of evidence, for as long as one trial of the canary lasts; none where every request
    /// is a unit of its own, and while nothing is compared.
    pub users: Option<Arc<Users>>,
}

/// One route under one weight: the counters of both arms.
#[derive(Debug)]
pub struct Epoch {
    terms: Terms,
    stable: ArmCounters,
    canary: ArmCounters,
    others: Box<[ArmCounters]>,
}

/// One request that has been assigned and not yet finished.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    assignment: Assignment,
    started: Instant,
    shard: usize,
    asked: Option<Asked>,
    /// How long the version took to answer.
    waited: Duration,
    in_time: bool,
    answered: bool,
}

/// A request that is whole, so that the version is what is waited for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Instant,
    ticket: Ticket,
}

/// Where a request without an answer is watched.
#[derive(Debug, Clone, Copy)]
enum Ticket {
    /// Nowhere: it is no evidence, or there is no room; it is booked when it ends.
    None,
    /// Among all of its moment.
    Moment(pending::Ticket),
    /// On its own, for its user.
    User(waiting::Place),
}

impl Entry {
    /// When the request began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Whether it is whole, so that the version is what is waited for.
    pub fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Which side it was assigned to.
    pub fn arm(&self) -> Arm {
        self.assignment.arm
    }

    /// How it came to its side.
    pub fn assigned_by(&self) -> AssignedBy {
        self.assignment.by
    }
}

impl Epoch {
    /// An epoch without requests, with counters for `threads` writing threads.
    pub fn new(terms: Terms, threads: usize) -> Self {
        let arm = || ArmCounters::new(threads, &terms);
        Self { stable: arm(), canary: arm(), others: terms.others.iter().map(|_| arm()).collect(), terms }
    }

    /// The canary's share in this epoch.
    pub fn weight(&self) -> Share {
        self.terms.weight
    }

    /// What the epoch was opened with.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    fn arm(&self, arm: Arm) -> &ArmCounters {
        match arm {
            Arm::Stable => &self.stable,
            Arm::Canary => &self.canary,
            // Positions come from the terms of this epoch.
            Arm::Other(position) => self.others.get(position).unwrap_or(&self.stable),
        }
    }

    /// A request that began at `started` is assigned.
    pub fn begin(&self, assignment: Assignment, started: Instant) -> Entry {
        let shard = thread_number() % self.arm(assignment.arm).shards.len();
        self.count_draw(assignment, shard);
        Entry { assignment, started, shard, asked: None, waited: Duration::ZERO, in_time: true, answered: false }
    }

    /// Counts whom chance gave to which side; a user is given once.
    fn count_draw(&self, assignment: Assignment, shard: usize) {
        let shard = self.arm(assignment.arm).shard(shard);
        match assignment.by {
            AssignedBy::Chance => shard.drawn.fetch_add(1, Relaxed),
            AssignedBy::User(_) if self.user(assignment.by).is_none_or(KnownUser::is_first_seen) => {
                shard.drawn.fetch_add(1, Relaxed)
            }
            AssignedBy::User(_) => shard.returned.fetch_add(1, Relaxed),
            AssignedBy::Override | AssignedBy::Repeat => return,
        };
    }

    /// The user behind an assignment, where users are the unit.
    fn user(&self, by: AssignedBy) -> Option<KnownUser<'_>> {
        match (by, self.terms.users.as_deref()) {
            (AssignedBy::User(hash), Some(users)) => Some(KnownUser { user: User::of_hash(hash), users }),
            (AssignedBy::Chance | AssignedBy::User(_) | AssignedBy::Override | AssignedBy::Repeat, _) => None,
        }
    }

    /// The request was whole at `now`: from here on the version is waited for, and judged if it does not answer.
    pub fn asked(&self, entry: &mut Entry, now: Instant) {
        if entry.asked.is_none() && !entry.answered {
            entry.asked = Some(Asked { at: now, ticket: self.watch(entry, now) });
        }
    }

    fn watch(&self, entry: &Entry, now: Instant) -> Ticket {
        let shard = self.arm(entry.arm()).shard(entry.shard);
        match (self.user(entry.assignment.by), &shard.waiting) {
            (Some(known), Some(waiting)) => waiting.enter(known.user, now).map_or(Ticket::None, Ticket::User),
            (Some(_) | None, _) if entry.assignment.by.is_evidence() => Ticket::Moment(shard.pending.enter(now)),
            (Some(_) | None, _) => Ticket::None,
        }
    }

    /// The head of the version's answer arrived at `now`: from here on the request is no longer unanswered.
    pub fn answered(&self, entry: &mut Entry, now: Instant) {
        if entry.answered {
            return;
        }
        entry.answered = true;
        if let Some(asked) = entry.asked {
            entry.waited = now.saturating_duration_since(asked.at);
            let shard = self.arm(entry.arm()).shard(entry.shard);
            entry.in_time = match (asked.ticket, &shard.waiting) {
                (Ticket::Moment(ticket), _) => shard.pending.leave(ticket),
                (Ticket::User(place), Some(waiting)) => waiting.leave(place),
                (Ticket::User(_) | Ticket::None, _) => true,
            };
        }
    }

    /// The version's answer was whole at `now`, and its client cannot have been what took time: all of it counts.
    pub fn whole(&self, entry: &mut Entry, now: Instant) {
        if let Some(asked) = entry.asked {
            entry.waited = now.saturating_duration_since(asked.at);
        }
    }

    /// The request ended with `outcome` after `latency`; to be called exactly once per entry.
    pub fn finish(&self, mut entry: Entry, outcome: Outcome, latency: Duration) {
        let ended = entry.started + latency;
        self.answered(&mut entry, ended);
        let shard = self.arm(entry.arm()).shard(entry.shard);
        shard.count(outcome, latency);
        if entry.in_time && entry.assignment.by.is_evidence() {
            let slow = entry.waited > self.terms.slow_after;
            shard.judge(self.terms.errors.weigh(outcome), slow, self.user(entry.assignment.by));
        }
    }

    /// Remembers a failing request of `arm`; dropped when another thread is writing one, since it is only a sample.
    pub fn remember(&self, arm: Arm, failure: Failure) {
        if let Ok(mut kept) = self.arm(arm).failures.try_lock() {
            if kept.len() == FAILURES_KEPT {
                kept.pop_front();
            }
            kept.push_back(failure);
        }
    }

    /// The last failing requests of `arm`, oldest first.
    pub fn failures(&self, arm: Arm) -> Vec<Failure> {
        self.arm(arm).failures.lock().map(|kept| kept.iter().cloned().collect()).unwrap_or_default()
    }

    /// Books every request that has been without an answer for too long as of `now`; called by the control loop.
    pub fn close_unanswered(&self, now: Instant) {
        let weighs = self.terms.errors.weigh(Outcome::Timeout);
        for shard in [&self.stable, &self.canary].into_iter().flat_map(|arm| &arm.shards) {
            shard.judge_unanswered(shard.pending.close_until(now), weighs);
            if let (Some(waiting), Some(users)) = (&shard.waiting, self.terms.users.as_deref()) {
                waiting.close_until(now, |user| shard.judge(weighs, true, Some(KnownUser { user, users })));
            }
        }
    }

    /// Everything counted so far for `arm`.
    pub fn read(&self, arm: Arm) -> Counts {
        self.arm(arm).read()
    }
}

impl AssignedBy {
    /// Whether what comes of the request says something about its version.
    fn is_evidence(self) -> bool {
        match self {
            Self::Chance | Self::User(_) => true,
            Self::Override | Self::Repeat => false,
        }
    }
}

/// A user, and what is known of the users of the trial.
#[derive(Debug, Clone, Copy)]
struct KnownUser<'a> {
    user: User,
    users: &'a Users,
}

impl KnownUser<'_> {
    fn is_first_seen(self) -> bool {
        self.users.is_first_seen(self.user)
    }

    fn is_first_error(self) -> bool {
        self.users.is_first_error(self.user)
    }

    fn is_first_slow(self) -> bool {
        self.users.is_first_slow(self.user)
    }
}

/// Everything counted about some requests; counts add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// By [`Outcome::index`].
    pub outcomes: [u64; Outcome::ALL.len()],
    /// By latency bucket.
    pub histogram: [u64; BUCKETS],
    /// Sum of latencies, in microseconds.
    pub sum_us: u64,
    /// What the analysis judges.
    pub judged: Tally,
    /// The same request by request, where what is judged are users; nothing elsewhere.
    pub by_request: Tally,
    /// Units that the draw gave to this side: requests, or users at their first request.
    pub drawn: u64,
    /// Requests that the split sent here, by a draw of their own or of their user; overrides and repeats are not among
    /// them.
    pub split: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            outcomes: [0; Outcome::ALL.len()],
            histogram: [0; BUCKETS],
            sum_us: 0,
            judged: Tally::default(),
            by_request: Tally::default(),
            drawn: 0,
            split: 0,
        }
    }
}

impl Counts {
    /// Adds `other` to these counts.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.outcomes.iter_mut().zip(other.outcomes) {
            *mine += theirs;
        }
        for (mine, theirs) in self.histogram.iter_mut().zip(other.histogram) {
            *mine += theirs;
        }
        self.sum_us += other.sum_us;
        self.judged += other.judged;
        self.by_request += other.by_request;
        self.drawn += other.drawn;
        self.split += other.split;
    }
}

/// The counters of one arm, one shard for each writing thread.
#[derive(Debug)]
struct ArmCounters {
    shards: Box<[CachePadded<Shard>]>,
    failures: Mutex<VecDeque<Failure>>,
}

impl ArmCounters {
    fn new(threads: usize, terms: &Terms) -> Self {
        let shards = (0..threads.max(1)).map(|_| CachePadded::new(Shard::new(terms))).collect();
        Self { shards, failures: Mutex::new(VecDeque::new()) }
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "a shard number is taken modulo the number of shards, of which there is at least one"
    )]
    fn shard(&self, number: usize) -> &Shard {
        &self.shards[number % self.shards.len()]
    }

    fn read(&self) -> Counts {
        let mut sum = Counts::default();
        for shard in &self.shards {
            sum.add(&shard.read());
        }
        sum
    }
}

/// The counters that one thread writes.
#[derive(Debug)]
struct Shard {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    histogram: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
    requests: AtomicU64,
    errors: AtomicU64,
    slow: AtomicU64,
    drawn: AtomicU64,
    /// Requests that went where their user had been sent before.
    returned: AtomicU64,
    pending: Pending,
    /// Only where users are the unit.
    waiting: Option<Waiting>,
    every: Option<EveryRequest>,
}

/// Evidence request by request, where users are the unit: what their later errors say about the version is not lost.
#[derive(Debug, Default)]
struct EveryRequest {
    requests: AtomicU64,
    errors: AtomicU64,
}

impl EveryRequest {
    fn count(&self, requests: u64, weighs: Weighs) {
        match weighs {
            Weighs::Nothing => return,
            Weighs::Bad => self.errors.fetch_add(requests, Relaxed),
            Weighs::Good => 0,
        };
        self.requests.fetch_add(requests, Relaxed);
    }

    fn read(&self) -> Tally {
        let errors = self.errors.load(Relaxed);
        Tally { requests: self.requests.load(Relaxed).max(errors), errors, slow: 0 }
    }
}

impl Shard {
    fn new(terms: &Terms) -> Self {
        Self {
            outcomes: [const { AtomicU64::new(0) }; Outcome::ALL.len()],
            histogram: [const { AtomicU64::new(0) }; BUCKETS],
            sum_us: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            drawn: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            pending: Pending::new(terms.unanswered_after),
            waiting: terms.users.as_ref().map(|_| Waiting::new(terms.unanswered_after)),
            every: terms.users.as_ref().map(|_| EveryRequest::default()),
        }
    }

    fn count(&self, outcome: Outcome, latency: Duration) {
        add_at(&self.outcomes, outcome.index());
        add_at(&self.histogram, buckets::bucket_index(latency));
        self.sum_us.fetch_add(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Judges one request. A user's repeated error counts neither as an error nor as a request; a repeated slow answer
    /// counts as a request that was not slow, since it still says whether the user got an error.
    fn judge(&self, weighs: Weighs, slow: bool, user: Option<KnownUser<'_>>) {
        if let Some(every) = &self.every {
            every.count(1, weighs);
        }
        match weighs {
            Weighs::Nothing => return,
            Weighs::Bad if user.is_some_and(|user| !user.is_first_error()) => return,
            Weighs::Bad => self.errors.fetch_add(1, Relaxed),
            Weighs::Good => 0,
        };
        if slow && user.is_none_or(KnownUser::is_first_slow) {
            self.slow.fetch_add(1, Relaxed);
        }
        self.requests.fetch_add(1, Relaxed);
    }

    /// Judges requests as timeouts; slow they are whether that is an error on this route or not.
    fn judge_unanswered(&self, requests: u64, weighs: Weighs) {
        if requests > 0 {
            // Slow it is in any case, so it says something even where a timeout is no error.
            if let Some(every) = &self.every {
                every.count(requests, if weighs == Weighs::Bad { Weighs::Bad } else { Weighs::Good });
            }
            match weighs {
                Weighs::Bad => self.errors.fetch_add(requests, Relaxed),
                Weighs::Good | Weighs::Nothing => 0,
            };
            self.slow.fetch_add(requests, Relaxed);
            self.requests.fetch_add(requests, Relaxed);
        }
    }

    /// Reads requests first and last-written parts first, so that errors never exceed requests by a torn read.
    fn read(&self) -> Counts {
        let errors = self.errors.load(Relaxed);
        let slow = self.slow.load(Relaxed);
        let requests = self.requests.load(Relaxed).max(errors).max(slow);
        let drawn = self.drawn.load(Relaxed);
        Counts {
            outcomes: std::array::from_fn(|i| self.outcomes.get(i).map_or(0, |cell| cell.load(Relaxed))),
            histogram: std::array::from_fn(|i| self.histogram.get(i).map_or(0, |cell| cell.load(Relaxed))),
            sum_us: self.sum_us.load(Relaxed),
            judged: Tally { requests, errors, slow },
            by_request: self.every.as_ref().map(EveryRequest::read).unwrap_or_default(),
            drawn,
            split: drawn + self.returned.load(Relaxed),
        }
    }
}

/// Adds one to the cell at `index`, which every caller takes from a bounded index.
fn add_at(cells: &[AtomicU64], index: usize) {
    if let Some(cell) = cells.get(index) {
        cell.fetch_add(1, Relaxed);
    }
}

/// A small number for the present thread, the same for its whole life.
pub(crate) fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<Option<usize>> = const { Cell::new(None) };
    }
    MINE.with(|mine| {
        mine.get().unwrap_or_else(|| {
            let number = NEXT.fetch_add(1, Relaxed);
            mine.set(Some(number));
            number
        })
    })
}
