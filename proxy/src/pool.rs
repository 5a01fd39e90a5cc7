//! Every endpoint of a version, and which one takes the next request.
//!
//! Line: split ► **pool** ► endpoint.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;
use pointsman_config::VersionId;

use crate::endpoint::Endpoint;

/// How often an endpoint is drawn at random before the search goes through them in order.
const RANDOM_DRAWS: usize = 4;

/// The endpoints of one version.
#[derive(Debug)]
pub struct Pool {
    /// The version that they serve.
    pub version: VersionId,
    /// The value of `x-pointsman-version`, made once.
    pub version_header: HeaderValue,
    endpoints: Box<[Arc<Endpoint>]>,
}

impl Pool {
    /// A pool of `endpoints` that serve `version`.
    pub fn new(version: VersionId, endpoints: Vec<Arc<Endpoint>>) -> Self {
        // A version's name is made of letters, digits, `-`, `_` and `.`, all of which a header value can hold.
        let version_header = HeaderValue::from_str(version.as_str()).unwrap_or(HeaderValue::from_static("unnamed"));
        Self { version, version_header, endpoints: endpoints.into_boxed_slice() }
    }

    /// Every endpoint, up or not.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// The endpoint for the next attempt, as of `now`, and its position, which goes into `tried` if the attempt fails.
    ///
    /// Of two drawn at random, the one with less to do ([`Load`](crate::endpoint)): close to the best choice without
    /// looking at all of them, and without sending everybody to the one that was idle last (Mitzenmacher, "The Power of
    /// Two Choices in Randomized Load Balancing", 2001). One that came up a moment ago takes part in as many draws as its
    /// slow start allows. Endpoints that are down are left out, unless all are: then the checks may be what is wrong, and
    /// a try costs no more than the refusal would. None if all have been tried or there are none.
    pub fn pick(&self, tried: &[usize], now: Instant) -> Option<(usize, &Arc<Endpoint>)> {
        let fresh = |position: usize| !tried.contains(&position);
        // One throw for all. An endpoint that is starting has less to do than the others and wins whenever it is drawn,
        // which happens twice as often as its turn comes; so half of its part admits it.
        let throw = OnceCell::new();
        let admits = |endpoint: &Endpoint| {
            endpoint.is_warm() || endpoint.part(now) > 2.0 * throw.get_or_init(rand::random::<f64>)
        };
        self.lesser_of_two(now, |position, endpoint| fresh(position) && endpoint.is_up() && admits(endpoint))
            .or_else(|| self.lesser_of_two(now, |position, endpoint| fresh(position) && endpoint.is_up()))
            .or_else(|| self.lesser_of_two(now, |position, _| fresh(position)))
    }

    /// An endpoint that is up, as of `now`; none while all are down.
    pub(crate) fn pick_up(&self, now: Instant) -> Option<&Arc<Endpoint>> {
        self.lesser_of_two(now, |_, endpoint| endpoint.is_up()).map(|(_, endpoint)| endpoint)
    }

    fn lesser_of_two(&self, now: Instant, fits: impl Fn(usize, &Endpoint) -> bool) -> Option<(usize, &Arc<Endpoint>)> {
        let (one, other) = self.two(&fits)?;
        match other {
            Some(other) if other.1.load(now).compare(one.1.load(now)).is_lt() => Some(other),
            Some(_) | None => Some(one),
        }
    }

    /// Two different endpoints that fit, drawn at random; the second one only if there are two.
    fn two(&self, fits: impl Fn(usize, &Endpoint) -> bool) -> Option<Two<'_>> {
        // Nearly always everybody fits, and one random number is enough.
        let (first, second) = two_of(self.endpoints.len());
        let drawn = |position: usize| {
            let endpoint = self.endpoints.get(position).filter(|endpoint| fits(position, endpoint))?;
            Some((position, endpoint))
        };
        if let (Some(one), Some(other)) = (drawn(first), drawn(second)) {
            return Some((one, Some(other)));
        }
        let one = self.draw(&fits)?;
        Some((one, self.draw(|position, endpoint| position != one.0 && fits(position, endpoint))))
    }

    fn draw(&self, fits: impl Fn(usize, &Endpoint) -> bool) -> Option<(usize, &Arc<Endpoint>)> {
        let count = self.endpoints.len();
        if count < 2 {
            return self.endpoints.first().filter(|endpoint| fits(0, endpoint)).map(|endpoint| (0, endpoint));
        }
        let start = rand::random_range(0..count);
        let random = std::iter::once(start).chain((1..RANDOM_DRAWS).map(|_| rand::random_range(0..count)));
        let in_order = (1..count).map(|step| (start + step) % count);
        random.chain(in_order).find_map(|position| {
            let endpoint = self.endpoints.get(position)?;
            fits(position, endpoint).then_some((position, endpoint))
        })
    }
}

/// An endpoint at its position, and another one.
type Two<'a> = ((usize, &'a Arc<Endpoint>), Option<(usize, &'a Arc<Endpoint>)>);

/// Two different positions below `count`, at random, from one random number; out of range where there are not two.
fn two_of(count: usize) -> (usize, usize) {
    let Some(others) = u32::try_from(count).ok().and_then(|count| count.checked_sub(1)).filter(|others| *others > 0)
    else {
        return (count, count);
    };
    let random: u64 = rand::random();
    // Lemire's multiplication without its rejection: off by less than a count in four thousand million.
    let below = |random: u64, limit: u32| usize::try_from((random * u64::from(limit)) >> 32).unwrap_or(0);
    let first = below(random >> 32, others + 1);
    let second = below(random & u64::from(u32::MAX), others);
    (first, second + usize::from(second >= first))
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::endpoint::InFlight;
    use crate::outcome::Weighs;

    fn pool(size: u16) -> Pool {
        let endpoint = |port| Arc::new(Endpoint::new(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        Pool::new("v1".parse().unwrap(), (1..=size).map(endpoint).collect())
    }

    /// How often each endpoint is picked in `rounds`.
    fn picks(pool: &Pool, tried: &[usize], rounds: u32) -> Vec<u32> {
        let mut counts = vec![0; pool.endpoints().len()];
        for _ in 0..rounds {
            counts[pool.pick(tried, Instant::now()).unwrap().0] += 1;
        }
        counts
    }

    /// A pool under a steady stream of requests, in virtual time: endpoint `i` answers each after `latencies[i]`.
    struct Served {
        pool: Pool,
        latencies: Vec<Duration>,
        now: Instant,
        under_way: BinaryHeap<Reverse<(Instant, usize)>>,
        requests: Vec<Vec<InFlight>>,
    }

    impl Served {
        fn new(latencies_ms: &[u64]) -> Self {
            let pool = pool(u16::try_from(latencies_ms.len()).unwrap());
            let latencies = latencies_ms.iter().map(|ms| Duration::from_millis(*ms)).collect();
            let requests = latencies_ms.iter().map(|_| Vec::new()).collect();
            Self { pool, latencies, now: Instant::now(), under_way: BinaryHeap::new(), requests }
        }

        /// A request every `pause` for `span`: how many each endpoint got.
        fn run(&mut self, span: Duration, pause: Duration) -> Vec<u32> {
            let mut counts = vec![0; self.latencies.len()];
            let end = self.now + span;
            while self.now < end {
                self.now += pause;
                self.answer_until_now();
                let (position, endpoint) = self.pool.pick(&[], self.now).unwrap();
                let mut request = endpoint.enter();
                request.sets_out(self.now);
                counts[position] += 1;
                self.requests[position].push(request);
                self.under_way.push(Reverse((self.now + self.latencies[position], position)));
            }
            counts
        }

        fn answer_until_now(&mut self) {
            while let Some(Reverse((at, position))) = self.under_way.peek().copied().filter(|due| due.0.0 <= self.now) {
                self.under_way.pop();
                // Every request of one endpoint takes as long, so the first is the oldest.
                let mut request = self.requests[position].remove(0);
                request.answered(true, at);
                request.ends(Weighs::Good, at);
            }
        }
    }

    #[test]
    fn who_must_be_up_is_never_one_that_is_down() {
        let pool = pool(3);
        for down in [0, 1] {
            pool.endpoints()[down].goes_down();
        }
        assert!((0..50).all(|_| pool.pick_up(Instant::now()).unwrap().address().port() == 3));
        pool.endpoints()[2].goes_down();
        assert!(pool.pick_up(Instant::now()).is_none());
    }

    #[test]
    fn two_positions_differ_and_all_pairs_are_as_likely() {
        assert_eq!((two_of(0), two_of(1)), ((0, 0), (1, 1)));
        let mut pairs = [[0_u32; 4]; 4];
        for _ in 0..120_000 {
            let (first, second) = two_of(4);
            pairs[first][second] += 1;
        }
        for (first, row) in pairs.iter().enumerate() {
            for (second, count) in row.iter().enumerate() {
                let fair = if first == second { 0..1 } else { 9_000..11_000 };
                assert!(fair.contains(count), "{pairs:?}");
            }
        }
    }

    #[test]
    fn an_empty_pool_and_one_that_was_tried_wholly_give_nothing() {
        let now = Instant::now();
        assert!(pool(0).pick(&[], now).is_none());
        assert!(pool(1).pick(&[0], now).is_none());
        assert!(pool(3).pick(&[2, 0, 1], now).is_none());
    }

    #[test]
    fn equal_endpoints_share_equally() {
        for count in picks(&pool(4), &[], 40_000) {
            assert!((9_000..11_000).contains(&count), "{count}");
        }
    }

    #[test]
    fn the_most_loaded_endpoint_is_picked_only_against_itself() {
        let pool = pool(3);
        let _load: Vec<_> = (0..5).map(|_| pool.endpoints()[1].enter()).collect();
        assert_eq!(picks(&pool, &[], 3_000)[1], 0);
    }

    #[test]
    fn endpoints_that_are_down_or_tried_are_left_out() {
        let pool = pool(4);
        pool.endpoints()[0].goes_down();
        let counts = picks(&pool, &[3], 2_000);
        assert_eq!((counts[0], counts[3]), (0, 0));
        assert!(counts[1] > 0 && counts[2] > 0);
    }

    #[test]
    fn when_all_are_down_all_are_tried_rather_than_none() {
        let pool = pool(3);
        for endpoint in pool.endpoints() {
            endpoint.goes_down();
        }
        assert!(picks(&pool, &[], 1_000).iter().all(|count| *count > 0));
        assert_eq!(picks(&pool, &[0, 2], 10), [0, 10, 0]);
    }

    #[test]
    fn load_spreads_when_requests_stay() {
        let pool = pool(10);
        let _held: Vec<_> = (0..1_000).map(|_| pool.pick(&[], Instant::now()).unwrap().1.enter()).collect();
        for endpoint in pool.endpoints() {
            assert!((95..=105).contains(&endpoint.in_flight()), "{}", endpoint.in_flight());
        }
    }

    /// A fast 500 must attract nobody, and neither must a refused connection.
    #[test]
    fn an_endpoint_that_fails_at_once_is_left_to_itself() {
        let served = Served::new(&[20, 20, 20]);
        for (position, is_good) in [(0, true), (1, false), (2, true)] {
            let mut request = served.pool.endpoints()[position].enter();
            request.sets_out(served.now);
            let took = Duration::from_millis(if is_good { 20 } else { 1 });
            request.answered(is_good, served.now + took);
            request.ends(if is_good { Weighs::Good } else { Weighs::Bad }, served.now + took);
        }
        let later = served.now + Duration::from_secs(1);
        let failing = (0..1_000).filter(|_| served.pool.pick(&[], later).unwrap().0 == 1).count();
        assert_eq!(failing, 0);
    }

    /// It has not answered yet, and everybody else has: what it may hold is what the others hold, not the whole stream.
    #[test]
    fn a_new_endpoint_gets_no_herd_before_its_first_answer() {
        let mut served = Served::new(&[20, 20, 20, 20]);
        served.pool.endpoints()[3].goes_down();
        served.run(Duration::from_secs(2), Duration::from_millis(1));
        let before = served.pool.endpoints()[0].in_flight();
        served.pool.endpoints()[3].comes_up(Duration::ZERO, served.now);
        served.run(Duration::from_millis(19), Duration::from_millis(1));
        let held = served.pool.endpoints()[3].in_flight();
        assert!((1..=before + 3).contains(&held), "{held}, others had {before}");
    }

    #[test]
    fn a_slow_start_does_not_concern_a_pool_of_one_nor_one_in_which_all_start() {
        let (alone, all) = (pool(1), pool(3));
        for endpoint in alone.endpoints().iter().chain(all.endpoints()) {
            endpoint.comes_up(Duration::from_hours(1), Instant::now());
        }
        assert_eq!(picks(&alone, &[], 100), [100]);
        for count in picks(&all, &[], 9_000) {
            assert!((2_500..3_500).contains(&count), "{count}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn endpoints_of_one_speed_share_equally_under_any_load(size in 2..8_usize, latency in 1..80_u64, pause_ms in 1..20_u64) {
            let mut served = Served::new(&vec![latency; size]);
            let counts = served.run(Duration::from_secs(20), Duration::from_millis(pause_ms));
            let fair = counts.iter().sum::<u32>() / u32::try_from(size).unwrap();
            for count in &counts {
                prop_assert!((fair * 8 / 10..=fair * 12 / 10).contains(count), "{:?}", counts);
            }
        }

        #[test]
        fn one_ten_times_slower_gets_few_and_is_tried_again(size in 2..6_usize, slow in 0..6_usize, pause_ms in 1..10_u64) {
            let slow = slow % size;
            let mut latencies = vec![10; size];
            latencies[slow] = 100;
            let mut served = Served::new(&latencies);
            served.run(Duration::from_secs(2), Duration::from_millis(pause_ms));
            let counts = served.run(Duration::from_mins(2), Duration::from_millis(pause_ms));
            let fair = counts.iter().sum::<u32>() / u32::try_from(size).unwrap();
            prop_assert!(counts[slow] <= fair / 5, "{:?}", counts);
            prop_assert!(counts[slow] > 0, "it is tried again: {:?}", counts);
            // Once it is as fast as the others, it has its part again after a while.
            served.latencies[slow] = Duration::from_millis(10);
            served.run(Duration::from_mins(1), Duration::from_millis(pause_ms));
            let counts = served.run(Duration::from_mins(1), Duration::from_millis(pause_ms));
            let fair = counts.iter().sum::<u32>() / u32::try_from(size).unwrap();
            prop_assert!(counts[slow] >= fair / 2, "{:?}", counts);
        }

        #[test]
        fn the_part_of_one_that_came_up_grows_in_a_line(size in 2..6_usize, lasts_s in 10..60_u64) {
            let mut served = Served::new(&vec![2; size]);
            served.pool.endpoints()[0].goes_down();
            served.run(Duration::from_secs(2), Duration::from_millis(5));
            served.pool.endpoints()[0].comes_up(Duration::from_secs(lasts_s), served.now);
            let fifth = Duration::from_secs(lasts_s) / 5;
            let pause = fifth / 4_000;
            for number in 0..5_u32 {
                let counts = served.run(fifth, pause.max(Duration::from_millis(1)));
                let all = f64::from(counts.iter().sum::<u32>());
                let part = f64::from(counts[0]) * f64::from(u32::try_from(size).unwrap()) / all;
                let middle = 0.1 + 0.9 * (f64::from(number) + 0.5) / 5.0;
                prop_assert!((0.6 * middle..=1.5 * middle).contains(&part), "fifth {}: {} of its part, {} expected", number, part, middle);
            }
            let counts = served.run(Duration::from_secs(20), Duration::from_millis(2));
            let fair = counts.iter().sum::<u32>() / u32::try_from(size).unwrap();
            prop_assert!((fair * 8 / 10..=fair * 12 / 10).contains(&counts[0]), "{:?}", counts);
        }
    }
}
