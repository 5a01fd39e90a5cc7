//! When an endpoint sits out because its requests fail, and when it comes back.
//!
//! Line: endpoint ► **ejection** ► control ► pool. Pure: it is told what the endpoints of one version did, and gives who
//! goes out and who comes back; time is an argument. The rules are those of Envoy's outlier detection, with one change
//! for small pools, see [`below_the_others`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use pointsman_config::Ejection;
use pointsman_rollout::Time;

use crate::endpoint::{Answers, Endpoint};

/// So many endpoints must have had enough requests before their success rates are compared.
const RATES_AT_LEAST: usize = 3;
/// An endpoint whose success rate is nearer to the others' than this stays, however sure the difference is: among endpoints
/// that hardly fail, chance alone makes one the worst.
const MATERIAL: f64 = 0.05;
const PARTS_PER_MILLION: usize = 1_000_000;

/// One endpoint, as it is now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    pub(crate) address: SocketAddr,
    /// Whether it takes requests.
    pub(crate) is_up: bool,
    /// What became of its requests so far.
    pub(crate) answers: Answers,
}

/// An endpoint that sits out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SitsOut {
    /// In words.
    pub(crate) why: String,
    /// When it comes back.
    pub(crate) until: Time,
}

/// An endpoint went out, or came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It sits out from now on.
    Out { address: SocketAddr, why: String, lasts: Duration },
    /// It takes requests again.
    Back { address: SocketAddr, why: &'static str },
}

/// What is remembered of one endpoint.
#[derive(Debug, Default)]
struct Record {
    out: Option<SitsOut>,
    /// How often it went out lately; each time doubles the next, and each quiet interval takes one away.
    times: u32,
    /// Whether it sat out at any time in this interval.
    was_out: bool,
    /// What became of its requests before this interval.
    before: Answers,
}

/// The endpoints of one version: who sits out, and who did.
#[derive(Debug, Default)]
pub(crate) struct Outliers {
    records: BTreeMap<SocketAddr, Record>,
    interval_began: Option<Time>,
    somebody_is_out: bool,
    ejections: u64,
}

/// How an endpoint did in one interval.
#[derive(Debug, Clone, Copy)]
struct Rate {
    address: SocketAddr,
    requests: f64,
    successes: f64,
}

impl Outliers {
    /// Whether [`Outliers::look`] would find anything to do at `now`; most looks are at pools in which nothing happens.
    pub(crate) fn is_due<'a>(
        &self,
        rule: &Ejection,
        pool: impl ExactSizeIterator<Item = &'a Endpoint>,
        now: Time,
    ) -> bool {
        let is_over = self.interval_is_over(rule, now);
        let others = self.records.len() != pool.len();
        let limit = rule.consecutive_failures;
        is_over || others || self.somebody_is_out || (limit > 0 && pool.into_iter().any(|one| one.has_failed(limit)))
    }

    fn interval_is_over(&self, rule: &Ejection, now: Time) -> bool {
        self.interval_began.is_none_or(|began| now.since(began) >= rule.interval)
    }

    /// Looks at everybody at `now`: who goes out and who comes back, in this order of events.
    pub(crate) fn look(&mut self, rule: &Ejection, members: &[Member], now: Time) -> Vec<Turn> {
        let is_over = self.interval_is_over(rule, now);
        self.know(members);
        let mut turns = self.who_is_due(now);
        turns.extend(self.who_is_missed(members));
        turns.extend(self.failing_in_a_row(rule, members, now));
        if is_over {
            self.interval_began = Some(now);
            turns.extend(self.failing_too_often(rule, members, now));
            self.begin_interval(members);
        }
        self.somebody_is_out = self.records.values().any(|record| record.out.is_some());
        turns
    }

    /// Forgets those that are gone; those that are new begin here.
    fn know(&mut self, members: &[Member]) {
        let mut before = std::mem::take(&mut self.records);
        self.records = members
            .iter()
            .map(|member| {
                let fresh = || Record { before: member.answers, ..Record::default() };
                (member.address, before.remove(&member.address).unwrap_or_else(fresh))
            })
            .collect();
    }

    /// Why and how long an endpoint sits out; none if it does not.
    pub(crate) fn sits_out(&self, address: SocketAddr) -> Option<&SitsOut> {
        if self.somebody_is_out { self.records.get(&address)?.out.as_ref() } else { None }
    }

    /// How many ejections there were.
    pub(crate) fn ejections(&self) -> u64 {
        self.ejections
    }

    /// Those whose time is over.
    fn who_is_due(&mut self, now: Time) -> Vec<Turn> {
        let due = self.records.iter_mut().filter(|(_, record)| record.out.as_ref().is_some_and(|out| now >= out.until));
        due.map(|(address, record)| {
            record.out = None;
            Turn::Back { address: *address, why: "its time is over" }
        })
        .collect()
    }

    /// Everybody, if nobody else is left: a version without any endpoint helps less than one that fails at times.
    fn who_is_missed(&mut self, members: &[Member]) -> Vec<Turn> {
        if members.iter().any(|member| member.is_up) {
            return Vec::new();
        }
        let out = self.records.iter_mut().filter_map(|(address, record)| record.out.take().map(|_| *address));
        out.map(|address| Turn::Back { address, why: "no other endpoint is left" }).collect()
    }

    fn failing_in_a_row(&mut self, rule: &Ejection, members: &[Member], now: Time) -> Vec<Turn> {
        let mut failing: Vec<Member> = members.iter().filter(|member| fails(rule, member)).copied().collect();
        failing.sort_by_key(|member| std::cmp::Reverse(member.answers.failures_in_a_row));
        let why = |member: &Member| format!("{} failures in a row", member.answers.failures_in_a_row);
        failing.iter().filter_map(|member| self.eject(rule, members, (member.address, why(member)), now)).collect()
    }

    fn failing_too_often(&mut self, rule: &Ejection, members: &[Member], now: Time) -> Vec<Turn> {
        if rule.success_rate_deviations <= 0.0 {
            return Vec::new();
        }
        let rates: Vec<Rate> = members.iter().filter_map(|member| self.rate(rule, member)).collect();
        if rates.len() < RATES_AT_LEAST {
            return Vec::new();
        }
        let mut failing: Vec<(Rate, f64)> = rates
            .iter()
            .filter_map(|rate| Some((*rate, below_the_others(*rate, &rates, rule.success_rate_deviations)?)))
            .collect();
        failing.sort_by(|(one, _), (two, _)| one.success().total_cmp(&two.success()));
        let why = |rate: &Rate, others: f64| {
            format!("{:.1} % of its requests succeeded, {:.1} % of the others'", 100.0 * rate.success(), 100.0 * others)
        };
        failing
            .into_iter()
            .filter_map(|(rate, others)| self.eject(rule, members, (rate.address, why(&rate, others)), now))
            .collect()
    }

    /// How an endpoint that takes requests did in this interval; none if it had too few.
    fn rate(&self, rule: &Ejection, member: &Member) -> Option<Rate> {
        let before = self.records.get(&member.address).filter(|record| record.out.is_none())?.before;
        let requests = u32::try_from(member.answers.all.saturating_sub(before.all)).unwrap_or(u32::MAX);
        let failures = u32::try_from(member.answers.failures.saturating_sub(before.failures)).unwrap_or(u32::MAX);
        let enough = member.is_up && requests >= rule.success_rate_requests.max(1);
        let successes = f64::from(requests.saturating_sub(failures));
        enough.then_some(Rate { address: member.address, requests: f64::from(requests), successes })
    }

    /// Takes an endpoint out, unless too many would be missing then.
    fn eject(
        &mut self,
        rule: &Ejection,
        members: &[Member],
        (address, why): (SocketAddr, String),
        now: Time,
    ) -> Option<Turn> {
        if !self.can_spare_one_more(rule, members) {
            return None;
        }
        let record = self.records.get_mut(&address).filter(|record| record.out.is_none())?;
        let doubled = rule.base_time.saturating_mul(2_u32.saturating_pow(record.times));
        let lasts = doubled.min(rule.max_time);
        record.times = record.times.saturating_add(1);
        record.out = Some(SitsOut { why: why.clone(), until: now.plus(lasts) });
        record.was_out = true;
        self.ejections += 1;
        Some(Turn::Out { address, why, lasts })
    }

    /// Whether the pool can do with one less: never with none, and, beyond the first one, not if more than the allowed
    /// part would be out. When that many are bad, the cause is likely not theirs.
    fn can_spare_one_more(&self, rule: &Ejection, members: &[Member]) -> bool {
        let out = self.records.values().filter(|record| record.out.is_some()).count();
        let is_out = |address| self.records.get(&address).is_some_and(|record| record.out.is_some());
        let still_up = |member: &&Member| member.is_up && !is_out(member.address);
        let left = members.iter().filter(still_up).count();
        let allowed_ppm = usize::try_from(rule.max_ejected_ppm).unwrap_or(PARTS_PER_MILLION);
        let allowed = members.len().saturating_mul(allowed_ppm) / PARTS_PER_MILLION;
        allowed_ppm > 0 && left > 1 && out < allowed.max(1)
    }

    /// The next interval counts from here; whoever was in all through the last one is forgiven one ejection.
    fn begin_interval(&mut self, members: &[Member]) {
        for member in members {
            if let Some(record) = self.records.get_mut(&member.address) {
                record.before = member.answers;
                if !std::mem::replace(&mut record.was_out, record.out.is_some()) {
                    record.times = record.times.saturating_sub(1);
                }
            }
        }
    }
}

/// Whether it takes requests and failed as many in a row as it may not.
fn fails(rule: &Ejection, member: &Member) -> bool {
    let limit = rule.consecutive_failures;
    limit > 0 && member.is_up && member.answers.failures_in_a_row >= limit
}

impl Rate {
    fn success(&self) -> f64 {
        self.successes / self.requests
    }
}

/// The success rate of the others, if `rate` lies so many standard deviations, and [`MATERIAL`] as well, below it.
///
/// Envoy measures an endpoint against the mean and deviation of all, itself included. In a pool of `n` nobody can be more
/// than `√(n − 1)` such deviations away from such a mean (Samuelson's inequality), so that with the usual 1.9 no pool of
/// fewer than five would ever miss anybody. Here an endpoint is measured against the others alone, and the deviation is
/// theirs together with that of its own rate by chance, `√(p(1 − p) / n)`.
fn below_the_others(rate: Rate, all: &[Rate], deviations: f64) -> Option<f64> {
    let others: Vec<&Rate> = all.iter().filter(|other| other.address != rate.address).collect();
    let count: f64 = others.iter().map(|_| 1.0).sum();
    let mean = others.iter().map(|other| other.success()).sum::<f64>() / count;
    let spread = others.iter().map(|other| (other.success() - mean).powi(2)).sum::<f64>() / count;
    let (requests, successes) = others
        .iter()
        .fold((0.0, 0.0), |(requests, successes), other| (requests + other.requests, successes + other.successes));
    // Laplace's rule of succession: without a failure so far, the next one is still no miracle.
    let expected = (successes + 1.0) / (requests + 2.0);
    let chance = expected * (1.0 - expected) / rate.requests;
    let below = mean - rate.success();
    (below > deviations * (spread + chance).sqrt() && below >= MATERIAL).then_some(mean)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Time {
        Time::after_start(Duration::from_secs(1_000 + seconds))
    }

    fn address(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], number))
    }

    /// A pool of `size` whose counters the test moves.
    struct World {
        rule: Ejection,
        outliers: Outliers,
        members: Vec<Member>,
    }

    impl World {
        fn new(size: u16) -> Self {
            let member = |number| Member { address: address(number), is_up: true, answers: Answers::default() };
            let mut world = Self {
                rule: Ejection::default(),
                outliers: Outliers::default(),
                members: (0..size).map(member).collect(),
            };
            assert_eq!(world.look(0), []);
            world
        }

        /// So many requests of one endpoint, the failures last.
        fn serve(&mut self, number: usize, requests: u64, failures: u64) {
            let answers = &mut self.members[number].answers;
            answers.all += requests;
            answers.failures += failures;
            if requests > failures {
                answers.failures_in_a_row = 0;
            }
            answers.failures_in_a_row += u32::try_from(failures).unwrap();
        }

        /// The same, with the failures spread, so that no two follow each other.
        fn serve_spread(&mut self, number: usize, requests: u64, failures: u64) {
            self.serve(number, requests, failures);
            self.members[number].answers.failures_in_a_row = 0;
        }

        /// One look; the pool does what it says, as the control loop would.
        fn look(&mut self, seconds: u64) -> Vec<(u16, bool)> {
            let turns = self.outliers.look(&self.rule, &self.members, at(seconds));
            let done = turns.into_iter().map(|turn| {
                let (address, is_up) = match turn {
                    Turn::Out { address, .. } => (address, false),
                    Turn::Back { address, .. } => (address, true),
                };
                let member = self.members.iter_mut().find(|member| member.address == address).unwrap();
                member.is_up = is_up;
                if is_up {
                    member.answers.failures_in_a_row = 0;
                }
                (address.port(), is_up)
            });
            done.collect()
        }

        fn out(&self) -> usize {
            self.members.iter().filter(|member| self.outliers.sits_out(member.address).is_some()).count()
        }
    }

    #[test]
    fn five_failures_in_a_row_take_out_and_four_do_not() {
        let mut world = World::new(3);
        world.serve(1, 4, 4);
        assert_eq!(world.look(1), []);
        world.serve(1, 1, 0);
        world.serve(1, 4, 4);
        assert_eq!(world.look(1), []);
        world.serve(1, 1, 1);
        assert_eq!(world.look(1), [(1, false)]);
        assert_eq!(world.outliers.sits_out(address(1)).unwrap().why, "5 failures in a row");
        assert_eq!(world.outliers.ejections(), 1);
        assert_eq!(world.look(2), [], "once is enough");
    }

    #[test]
    fn it_comes_back_by_itself_and_sits_out_twice_as_long_each_time_up_to_a_limit() {
        let mut world = World::new(2);
        world.rule.max_time = Duration::from_secs(35);
        let mut now = 0;
        for lasts in [10, 20, 35, 35] {
            world.serve(0, 5, 5);
            assert_eq!(world.look(now), [(0, false)], "{lasts}");
            assert_eq!(world.look(now + lasts - 1), [], "{lasts}");
            assert_eq!(world.look(now + lasts), [(0, true)], "{lasts}");
            now += lasts;
        }
    }

    #[test]
    fn every_quiet_interval_takes_one_doubling_away() {
        let mut world = World::new(2);
        world.serve(0, 5, 5);
        world.look(0);
        assert_eq!(world.look(10), [(0, true)]);
        world.look(20);
        world.serve(0, 5, 5);
        assert_eq!(world.look(21), [(0, false)]);
        assert_eq!(world.look(31), [(0, true)], "10 s again");
    }

    #[test]
    fn the_only_endpoint_never_sits_out_nor_does_the_last_one_that_is_up() {
        let mut alone = World::new(1);
        alone.serve(0, 50, 50);
        assert_eq!(alone.look(1), []);
        let mut two = World::new(2);
        two.members[1].is_up = false;
        two.serve(0, 50, 50);
        assert_eq!(two.look(1), []);
    }

    #[test]
    fn not_more_than_the_allowed_part_sits_out_and_the_worst_go_first() {
        let mut world = World::new(5);
        for number in 0..5 {
            world.serve(number, 5 + u64::try_from(number).unwrap(), 5 + u64::try_from(number).unwrap());
        }
        assert_eq!(world.look(1), [(4, false), (3, false)]);
        assert_eq!(world.look(2), []);
        let mut strict = World::new(5);
        strict.rule.max_ejected_ppm = 100_000;
        strict.serve(0, 5, 5);
        strict.serve(1, 5, 5);
        assert_eq!(strict.look(1), [(0, false)], "one at least");
        let mut off = World::new(5);
        off.rule.max_ejected_ppm = 0;
        off.serve(0, 5, 5);
        assert_eq!(off.look(1), []);
    }

    #[test]
    fn when_the_checks_take_everybody_else_out_those_that_sit_out_come_back_at_once() {
        let mut world = World::new(3);
        world.serve(0, 5, 5);
        assert_eq!(world.look(1), [(0, false)]);
        world.members[1].is_up = false;
        assert_eq!(world.look(2), []);
        world.members[2].is_up = false;
        assert_eq!(world.look(3), [(0, true)]);
    }

    #[test]
    fn an_endpoint_that_fails_more_often_than_the_others_sits_out_in_a_pool_of_three_and_of_ten() {
        for size in [3, 10] {
            let mut world = World::new(size);
            for number in 0..usize::from(size) {
                world.serve_spread(number, 200, if number == 1 { 60 } else { 1 });
            }
            assert_eq!(world.look(9), [], "the interval is not over");
            assert_eq!(world.look(10), [(1, false)], "of {size}");
            let why = &world.outliers.sits_out(address(1)).unwrap().why;
            assert_eq!(why, "70.0 % of its requests succeeded, 99.5 % of the others'");
        }
    }

    #[test]
    fn success_rates_need_three_endpoints_with_enough_requests_and_a_rule() {
        let mut two = World::new(2);
        two.serve_spread(0, 200, 150);
        two.serve_spread(1, 200, 0);
        assert_eq!(two.look(10), []);
        let mut few = World::new(3);
        for number in 0..3 {
            few.serve_spread(number, 99, if number == 0 { 90 } else { 0 });
        }
        assert_eq!(few.look(10), []);
        let mut off = World::new(3);
        off.rule.success_rate_deviations = 0.0;
        for number in 0..3 {
            off.serve_spread(number, 200, if number == 0 { 90 } else { 0 });
        }
        assert_eq!(off.look(10), []);
    }

    #[test]
    fn a_version_that_fails_as_a_whole_loses_nobody_to_success_rates() {
        let mut world = World::new(4);
        for (number, failures) in [55, 60, 65, 62].into_iter().enumerate() {
            world.serve_spread(number, 200, failures);
        }
        assert_eq!(world.look(10), []);
    }

    #[test]
    fn what_is_gone_is_forgotten_and_what_is_new_brings_no_past() {
        let mut world = World::new(3);
        world.serve(2, 5, 5);
        assert_eq!(world.look(1), [(2, false)]);
        let gone = world.members.pop().unwrap();
        assert_eq!(world.look(2), []);
        world.members.push(Member {
            is_up: true,
            answers: Answers { all: 900, failures: 900, failures_in_a_row: 0 },
            ..gone
        });
        for number in 0..3 {
            world.serve_spread(number, 200, 0);
        }
        assert_eq!(world.look(11), []);
        assert_eq!(world.out(), 0);
    }

    proptest! {
        #[test]
        fn nobody_is_ever_missed_beyond_the_limit_and_everybody_comes_back(
            size in 1..8_u16,
            ppm in 0..1_000_001_u32,
            events in proptest::collection::vec((0..8_usize, 0..12_u64, 0..12_u64, any::<bool>()), 1..60),
        ) {
            let mut world = World::new(size);
            world.rule.max_ejected_ppm = ppm;
            let mut now = 1;
            for (number, requests, failures, passes) in events {
                let number = number % usize::from(size);
                world.serve(number, requests.max(failures), failures);
                now += u64::from(passes) * 3;
                world.look(now);
                let allowed = usize::try_from(u64::from(size) * u64::from(ppm) / 1_000_000).unwrap().max(1);
                prop_assert!(world.out() <= allowed);
                prop_assert!(world.members.iter().any(|member| member.is_up), "somebody is left");
                for member in &world.members {
                    prop_assert_eq!(member.is_up, world.outliers.sits_out(member.address).is_none());
                }
            }
            for member in &mut world.members {
                member.answers.failures_in_a_row = 0;
            }
            world.look(now + 300);
            prop_assert_eq!(world.out(), 0);
        }
    }
}
