//! How many requests of a version are worked on at a time: shed what is too much before queues grow.
//!
//! Line: `rate_limit` ► **concurrency** ► pool. A queue in front of a model server helps nobody: who waits in it longer than
//! its client does is worked on for nothing. So what a version cannot take at once is refused at once, while there is
//! still time to ask elsewhere.
//!
//! `adaptive` finds the number out by the gradient of latency, as TCP Vegas does for a network (Brakmo, O'Malley and
//! Peterson, "TCP Vegas", 1994), and as Netflix' concurrency-limits (`Gradient2Limit`) and Envoy's adaptive concurrency
//! filter do for servers: as long as answers take no longer than they did when there was no queue, allow more; as soon as
//! they do, allow less. [`Gradient`] decides, on values alone; [`ConcurrencyLimit`] counts.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use pointsman_config::Concurrency;

/// Answers that are looked at together: as many as are allowed at a time, within these.
const ANSWERS: RangeInclusive<u32> = 5..=10;
/// And for how long at least.
const LEAST_WINDOW: Duration = Duration::from_millis(100);

/// The limit of one version, what is under way, and how answers come.
#[derive(Debug)]
pub(crate) struct ConcurrencyLimit {
    most: AtomicU32,
    in_flight: CachePadded<AtomicU32>,
    /// None where the operator says the number.
    adaptive: Option<Adaptive>,
}

/// What is seen of the answers to requests that were let in under the present limit.
#[derive(Debug)]
struct Adaptive {
    origin: Instant,
    /// Counts up with every limit.
    round: AtomicU32,
    answers: AtomicU32,
    /// Sum of [`log2`] of their latencies.
    latency: AtomicU64,
    /// The most requests that wanted to be worked on at a time.
    peak: AtomicU32,
    /// When the round began, in microseconds since `origin`.
    began: AtomicU64,
    gradient: Mutex<Gradient>,
}

/// The right to be worked on; dropped, it is given back, whatever became of the request.
#[derive(Debug)]
pub(crate) struct Permit {
    limit: Arc<ConcurrencyLimit>,
    since: Instant,
    round: u32,
    is_answered: bool,
}

impl ConcurrencyLimit {
    /// A limit as the config says; none if there shall be none.
    pub(crate) fn new(concurrency: Concurrency, now: Instant) -> Option<Self> {
        let (most, adaptive) = match concurrency {
            Concurrency::Unlimited => return None,
            Concurrency::Fixed(most) => (most, None),
            Concurrency::Adaptive => {
                let gradient = Gradient::default();
                (gradient.allowed(), Some(Adaptive::new(gradient, now)))
            }
        };
        Some(Self { most: AtomicU32::new(most), in_flight: CachePadded::new(AtomicU32::new(0)), adaptive })
    }

    /// Lets a request in at `now`; none if it is one too many.
    pub(crate) fn enter(self: &Arc<Self>, now: Instant) -> Option<Permit> {
        let wanted = self.in_flight.fetch_add(1, Relaxed) + 1;
        if let Some(adaptive) = &self.adaptive {
            adaptive.peak.fetch_max(wanted, Relaxed);
        }
        if wanted > self.most.load(Relaxed) {
            self.in_flight.fetch_sub(1, Relaxed);
            return None;
        }
        let round = self.adaptive.as_ref().map_or(0, |adaptive| adaptive.round.load(Relaxed));
        Some(Permit { limit: Arc::clone(self), since: now, round, is_answered: false })
    }

    /// A request that was let in at `round` took `latency` to be answered, as of `now`.
    fn saw(&self, round: u32, latency: Duration, now: Instant) {
        if let Some(most) = self.adaptive.as_ref().and_then(|adaptive| adaptive.saw(round, latency, now, &self.most)) {
            self.most.store(most, Relaxed);
        }
    }
}

impl Adaptive {
    fn new(gradient: Gradient, now: Instant) -> Self {
        Self {
            origin: now,
            round: AtomicU32::new(0),
            answers: AtomicU32::new(0),
            latency: AtomicU64::new(0),
            peak: AtomicU32::new(0),
            began: AtomicU64::new(0),
            gradient: Mutex::new(gradient),
        }
    }

    /// Counts an answer; a new limit if the round is over. Answers to requests of an earlier round waited in the queue of
    /// that round's limit, and say nothing about this one's.
    fn saw(&self, round: u32, latency: Duration, now: Instant, most: &AtomicU32) -> Option<u32> {
        if round != self.round.load(Relaxed) {
            return None;
        }
        self.latency.fetch_add(u64::from(log2(latency)), Relaxed);
        let answers = self.answers.fetch_add(1, Relaxed) + 1;
        let since_origin = now.saturating_duration_since(self.origin);
        let lasted = since_origin.saturating_sub(Duration::from_micros(self.began.load(Relaxed)));
        let enough = most.load(Relaxed).clamp(*ANSWERS.start(), *ANSWERS.end());
        if answers < enough || lasted < LEAST_WINDOW {
            return None;
        }
        // Whoever comes while the round is being closed need not wait for it.
        let mut gradient = self.gradient.try_lock().ok().filter(|_| round == self.round.load(Relaxed))?;
        let (answers, latency) = (self.answers.swap(0, Relaxed), self.latency.swap(0, Relaxed));
        let latency = u32::try_from(latency / u64::from(answers.max(1))).unwrap_or(u32::MAX);
        gradient.close(Window { latency, peak: self.peak.swap(0, Relaxed) }, since_origin);
        self.began.store(u64::try_from(since_origin.as_micros()).unwrap_or(u64::MAX), Relaxed);
        self.round.fetch_add(1, Relaxed);
        Some(gradient.allowed())
    }
}

impl Permit {
    /// The request is whole at `now`: what its client took to send it is nothing that its version can do about.
    pub(crate) fn asked(&mut self, now: Instant) {
        self.since = now;
    }

    /// The head of the version's answer came at `now`. An answer that tells of a failure is none of the version's work, so
    /// that its speed says nothing.
    pub(crate) fn answered(&mut self, status: u16, now: Instant) {
        if !self.is_answered {
            self.is_answered = true;
            if (200..400).contains(&status) {
                self.limit.saw(self.round, now.saturating_duration_since(self.since), now);
            }
        }
    }

    /// No answer came until `now`, and the version was waited for: it takes at least so long.
    pub(crate) fn timed_out(&mut self, now: Instant) {
        if !self.is_answered {
            self.is_answered = true;
            self.limit.saw(self.round, now.saturating_duration_since(self.since), now);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.in_flight.fetch_sub(1, Relaxed);
    }
}

/// Binary logarithm of a duration in nanoseconds, in units of 1/65536; between powers of two on a straight line, which is
/// never off by more than 0.09. A mean of logarithms lets no single slow answer speak for all.
fn log2(duration: Duration) -> u32 {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1);
    let whole = nanos.ilog2();
    // The highest bit is cut off; the 16 bits behind it are the fraction.
    let fraction = (u128::from(nanos) << 16 >> whole) & 0xffff;
    (whole << 16) + u32::try_from(fraction).unwrap_or_default()
}

/// One round of answers.
#[derive(Debug, Clone, Copy)]
struct Window {
    /// Mean of [`log2`] of the latencies.
    latency: u32,
    /// The most requests that wanted to be worked on at a time, refused ones included.
    peak: u32,
}

/// Twice, in units of [`log2`].
const OCTAVE: u32 = 1 << 16;
/// How much slower than without a queue is no queue yet: half as slow again (log2 of 1.5).
const TOLERANCE: u32 = 38_336;
/// Latency that falls by less than this (log2 of 1.4) while the limit falls to a quarter did not come of the limit.
const LITTLE: u32 = 31_803;
/// The first limit; it doubles with every round until there is a queue.
const FIRST: u32 = 16;
/// The least limit; some versions take one request at a time.
const LEAST: u32 = 1;
/// The largest limit: of that many requests none is refused for want of room.
const LARGEST: u32 = 1 << 16;
/// What is known of latency without a queue is forgotten after one to two spans of so long and so many rounds.
const SPAN: Duration = Duration::from_secs(15);
const SPAN_ROUNDS: u32 = 30;
/// A limit that was reached is cut to this part for some rounds before that, to see latency without a queue again.
const PROBE_PART: u32 = 4;
const PROBE_ROUNDS: u32 = 2;
/// A probe that found answers to be much faster than was known may not have seen the end of it: so many rounds later there
/// is another one. At a start under load these take the limit down to what is right.
const SETTLE_ROUNDS: u32 = 4;

/// Decides how many requests are allowed, from one round of answers to the next.
#[derive(Debug)]
struct Gradient {
    limit: u32,
    /// Whether there has been no queue yet.
    is_starting: bool,
    /// Latency without a queue: the least of the present span and of the one before.
    fastest: Fastest,
    /// Whether the limit was reached in the present span.
    was_reached: bool,
    /// Rounds for which the limit stays cut.
    probes: u32,
    /// What was the least latency before the probe.
    known: u32,
    /// Rounds to the next probe, where one more is needed soon.
    settles: u32,
    /// Limit and latency when it began to fall.
    fall: Option<(u32, u32)>,
}

#[derive(Debug, Default)]
struct Fastest {
    before: Option<u32>,
    present: Option<u32>,
    since: Duration,
    rounds: u32,
}

impl Default for Gradient {
    fn default() -> Self {
        Self {
            limit: FIRST,
            is_starting: true,
            fastest: Fastest::default(),
            was_reached: false,
            probes: 0,
            known: 0,
            settles: 0,
            fall: None,
        }
    }
}

impl Gradient {
    /// How many requests are allowed now.
    fn allowed(&self) -> u32 {
        if self.probes > 0 { (self.limit / PROBE_PART).max(LEAST) } else { self.limit }
    }

    /// A round is over at `now`.
    fn close(&mut self, seen: Window, now: Duration) {
        self.was_reached |= seen.peak >= self.limit;
        self.fastest.note(seen.latency);
        if self.probes > 0 {
            self.probe_goes_on();
        } else if self.fastest.is_old(now) {
            self.fastest.turn(now);
            if self.was_reached {
                self.probe();
            }
            self.was_reached = false;
        } else {
            self.adjust(seen);
            self.settle();
        }
    }

    fn probe(&mut self) {
        self.known = self.fastest.get().unwrap_or_default();
        self.probes = PROBE_ROUNDS;
        self.settles = 0;
    }

    fn probe_goes_on(&mut self) {
        self.probes -= 1;
        let found = self.known.saturating_sub(self.fastest.get().unwrap_or(self.known));
        if self.probes == 0 && found >= LITTLE {
            self.settles = SETTLE_ROUNDS;
        }
    }

    fn settle(&mut self) {
        if self.settles > 0 {
            self.settles -= 1;
            if self.settles == 0 {
                self.probe();
            }
        }
    }

    fn adjust(&mut self, seen: Window) {
        let without_queue = self.fastest.get().unwrap_or(seen.latency);
        let slower = seen.latency.saturating_sub(without_queue).saturating_sub(TOLERANCE).min(OCTAVE);
        if slower > 0 {
            self.fall(seen.latency, slower);
        } else {
            self.fall = None;
            // What was not asked for proves nothing.
            if seen.peak >= self.limit / 2 {
                let more = if self.is_starting { self.limit } else { self.limit.isqrt() };
                self.limit = self.limit.saturating_add(more).min(LARGEST);
            }
        }
    }

    /// Answers are slower than without a queue: allow less, to half at most, plus a short queue (half its root; Netflix
    /// has all of it) that keeps the version from going idle between two requests.
    fn fall(&mut self, latency: u32, slower: u32) {
        if std::mem::take(&mut self.is_starting) {
            self.settles = 1;
        }
        let (from, latency_then) = *self.fall.get_or_insert((self.limit, latency));
        if self.limit <= from / PROBE_PART {
            if latency_then.saturating_sub(latency) < LITTLE {
                return self.believe(latency);
            }
            self.fall = Some((self.limit, latency));
        }
        let less = (u64::from(self.limit) * u64::from(slower)).div_ceil(u64::from(2 * OCTAVE));
        let less = u32::try_from(less).unwrap_or(self.limit);
        self.limit = (self.limit - less + self.limit.isqrt() / 2).min(self.limit).max(LEAST);
        if self.limit == LEAST {
            // Nothing can be slower for want of room when there is hardly anything.
            self.fastest.replace(latency);
            self.fall = None;
        }
    }

    /// With a quarter of the requests answers are no faster: it is the version that became slower, or what it is asked.
    fn believe(&mut self, latency: u32) {
        self.fastest.replace(latency);
        self.fall = None;
        self.is_starting = true;
    }
}

impl Fastest {
    fn get(&self) -> Option<u32> {
        [self.before, self.present].into_iter().flatten().min()
    }

    fn note(&mut self, latency: u32) {
        self.rounds += 1;
        self.present = Some(self.present.map_or(latency, |least| least.min(latency)));
    }

    /// Whether the present span is over.
    fn is_old(&self, now: Duration) -> bool {
        now.saturating_sub(self.since) >= SPAN && self.rounds >= SPAN_ROUNDS
    }

    fn turn(&mut self, now: Duration) {
        self.rounds = 0;
        self.before = self.present.take();
        self.since = now;
    }

    fn replace(&mut self, latency: u32) {
        self.before = None;
        self.present = Some(latency);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A version that works on `slots` requests at a time for `service` each, under a load that always wants more.
    struct Server {
        slots: u32,
        service: Duration,
    }

    impl Server {
        /// How long a request takes while `in_flight` of them share the slots.
        fn latency(&self, in_flight: u32) -> Duration {
            self.service.mul_f64((f64::from(in_flight) / f64::from(self.slots)).max(1.0))
        }
    }

    /// Rounds of answers until `until`; what was allowed in each, and how long one took.
    fn run(gradient: &mut Gradient, server: &Server, from: Duration, until: Duration) -> Vec<(u32, Duration)> {
        let (mut now, mut rounds) = (from, Vec::new());
        while now < until {
            let allowed = gradient.allowed();
            let latency = server.latency(allowed);
            now += latency.max(LEAST_WINDOW);
            gradient.close(Window { latency: log2(latency), peak: allowed + 1 }, now);
            rounds.push((allowed, latency));
        }
        rounds
    }

    #[track_caller]
    fn check_settled(server: &Server, rounds: &[(u32, Duration)]) {
        let late = &rounds[rounds.len() / 2..];
        let mut ratios: Vec<f64> =
            late.iter().map(|(_, latency)| latency.as_secs_f64() / server.service.as_secs_f64()).collect();
        ratios.sort_by(f64::total_cmp);
        let (median, worst) = (ratios[ratios.len() / 2], ratios[ratios.len() - 1]);
        // One slot is the worst case: two at a time already take twice as long.
        assert!(median <= 3.0 && worst <= 6.0, "{} slots: median {median}, worst {worst}", server.slots);
        let full = late.iter().filter(|(allowed, _)| *allowed >= server.slots).count();
        assert!(full * 10 >= late.len() * 8, "{} slots: full in {full} of {} rounds", server.slots, late.len());
    }

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn a_log2_is_within_a_tenth_and_never_falls() {
        let mut before = 0;
        for nanos in [1, 2, 3, 1_000, 1_500, 65_535, 65_536, 1_000_000_007, u32::MAX] {
            let exact = f64::from(nanos).log2();
            let given = log2(Duration::from_nanos(nanos.into()));
            assert!((f64::from(given) / 65_536.0 - exact).abs() < 0.09, "{nanos}");
            assert!(given >= before);
            before = given;
        }
        assert_eq!(log2(Duration::ZERO), 0);
        assert!(log2(Duration::MAX) >= before);
    }

    #[test]
    fn a_version_of_any_size_is_kept_busy_without_a_queue_for_as_long_as_it_takes() {
        for slots in [1, 2, 4, 8, 32, 100, 400] {
            for service_ms in [1, 20, 300, 2_000] {
                let server = Server { slots, service: Duration::from_millis(service_ms) };
                let mut gradient = Gradient::default();
                let until = (20 * MINUTE).max(server.service * 4_000);
                check_settled(&server, &run(&mut gradient, &server, Duration::ZERO, until));
            }
        }
    }

    #[test]
    fn a_start_under_load_finds_the_limit_within_seconds() {
        for slots in [1, 4, 16] {
            let server = Server { slots, service: Duration::from_millis(20) };
            let mut gradient = Gradient::default();
            let rounds = run(&mut gradient, &server, Duration::ZERO, Duration::from_secs(8));
            let (allowed, latency) = rounds[rounds.len() - 1];
            assert!(latency <= server.service * 5, "{slots} slots: {allowed} at a time, {latency:?} each");
        }
    }

    #[test]
    fn a_version_that_becomes_slower_keeps_its_share_of_work() {
        let mut gradient = Gradient::default();
        let fast = Server { slots: 64, service: Duration::from_millis(50) };
        run(&mut gradient, &fast, Duration::ZERO, MINUTE);
        let slow = Server { slots: 64, service: Duration::from_millis(200) };
        let rounds = run(&mut gradient, &slow, MINUTE, MINUTE * 2);
        check_settled(&slow, &rounds);
        let starved = rounds.iter().filter(|(allowed, _)| *allowed < 32).count();
        assert!(starved < 30, "{starved} of {} rounds", rounds.len());
        check_settled(&fast, &run(&mut gradient, &fast, MINUTE * 2, MINUTE * 4));
    }

    #[test]
    fn a_quiet_version_keeps_room_for_a_burst() {
        let mut gradient = Gradient::default();
        for second in 0..600 {
            gradient.close(Window { latency: log2(Duration::from_millis(50)), peak: 2 }, Duration::from_secs(second));
        }
        assert_eq!(gradient.allowed(), FIRST, "what was not asked for proves nothing");
    }

    proptest! {
        #[test]
        fn the_limit_stays_within_its_bounds(rounds in proptest::collection::vec((0..u64::MAX, 0..100_000_u32, 0..30_000_u64), 1..300)) {
            let (mut gradient, mut now) = (Gradient::default(), Duration::ZERO);
            for (nanos, peak, gap) in rounds {
                now += Duration::from_millis(gap);
                let before = gradient.limit;
                gradient.close(Window { latency: log2(Duration::from_nanos(nanos)), peak }, now);
                prop_assert!((LEAST..=LARGEST).contains(&gradient.allowed()) && gradient.allowed() <= gradient.limit);
                prop_assert!(gradient.limit <= before * 2 && gradient.limit >= before / 2);
            }
        }

        /// Permits are given back, whatever becomes of them.
        #[test]
        fn never_more_than_the_limit_are_under_way(most in 1..20_u32, moves in proptest::collection::vec(any::<bool>(), 1..200)) {
            let now = Instant::now();
            let limit = Arc::new(ConcurrencyLimit::new(Concurrency::Fixed(most), now).unwrap());
            let mut permits = Vec::new();
            let most = usize::try_from(most).unwrap();
            for enters in moves {
                if enters {
                    let permit = limit.enter(now);
                    prop_assert_eq!(permit.is_some(), permits.len() < most);
                    permits.extend(permit);
                } else {
                    permits.pop();
                }
                prop_assert_eq!(usize::try_from(limit.in_flight.load(Relaxed)).unwrap(), permits.len());
            }
        }
    }

    #[test]
    fn answers_of_an_earlier_round_and_failures_teach_nothing() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let limit = Arc::new(ConcurrencyLimit::new(Concurrency::Adaptive, start).unwrap());
        let round = || limit.adaptive.as_ref().unwrap().round.load(Relaxed);
        let mut early = limit.enter(start).unwrap();
        let ask = |status: u16| {
            let mut permits: Vec<Permit> = (0..FIRST - 1).map(|_| limit.enter(start).unwrap()).collect();
            for permit in &mut permits {
                permit.answered(status, at(200));
            }
        };
        ask(500);
        assert_eq!((round(), limit.most.load(Relaxed)), (0, FIRST));
        ask(200);
        assert_eq!((round(), limit.most.load(Relaxed)), (1, FIRST * 2), "no queue yet: twice as many");
        early.answered(200, at(10_000));
        assert_eq!(limit.adaptive.as_ref().unwrap().answers.load(Relaxed), 0);
    }
}
