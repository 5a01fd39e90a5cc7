//! How often requests may come: one answer a request, yes or "in so long".
//!
//! Line: admission ► **`rate_limit`** ► concurrency. The generic cell rate algorithm (ITU-T I.371, annex A) in its form
//! with a theoretical arrival time: one number for each key says when the next request is expected, a request that comes
//! earlier than the burst allows is refused, and nothing has to be refilled by anybody.
//!
//! The keys are the clients' choice, so their number is bounded: keys that are quiet are dropped as others come, and when
//! there are still too many, the one not seen for longest goes, which then starts afresh. That forgives a few; the
//! reverse, two clients on one counter, would refuse one for what the other did.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use http::HeaderName;
use lru::LruCache;
use pointsman_config::{RateKey, RateLimit};

use crate::admission::RequestHead;
use crate::listen::Client;
use crate::ticket::key_of_address;

/// Locks among which keys are spread, so that workers seldom wait for each other.
const SHARDS: usize = 64;
/// The most keys that one limit remembers, in one shard; 65,536 in all, some 6 MiB.
const MOST_KEYS: usize = 1 << 10;
/// How many quiet keys one request clears away; more than the one it can add.
const CLEARED_AT_ONCE: usize = 2;

/// One limit, and what has been used of it. Shared by all workers, and kept through reloads that do not change it.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    limit: RateLimit,
    pace: Pace,
    origin: Instant,
    used: Used,
}

/// The limit in nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Between two requests, evenly spread.
    interval: u64,
    /// How much earlier than expected a request may come.
    tolerance: u64,
}

/// When the next request of each key is expected, in nanoseconds since the limiter's origin.
#[derive(Debug)]
enum Used {
    Together(CachePadded<AtomicU64>),
    ByKey { key: Key, hasher: RandomState, shards: Box<[Mutex<LruCache<u64, u64>>]> },
}

#[derive(Debug)]
enum Key {
    Address,
    Header(HeaderName),
}

impl Pace {
    fn of(limit: &RateLimit) -> Self {
        let interval = u64::try_from(limit.per.as_nanos() / u128::from(limit.requests.max(1))).unwrap_or(u64::MAX);
        let interval = interval.max(1);
        Self { interval, tolerance: interval.saturating_mul(u64::from(limit.burst.saturating_sub(1))) }
    }

    /// A request at `now` where the next one is `expected`: when the one after it is, or how long it is too early.
    fn next(self, expected: u64, now: u64) -> Result<u64, Duration> {
        let start = expected.max(now);
        match (start - now).checked_sub(self.tolerance) {
            None | Some(0) => Ok(start.saturating_add(self.interval)),
            Some(early) => Err(Duration::from_nanos(early)),
        }
    }
}

impl RateLimiter {
    /// Nothing of `limit` is used at `now`.
    pub(crate) fn new(limit: &RateLimit, now: Instant) -> Self {
        let key = match &limit.key {
            RateKey::Route => None,
            RateKey::ClientIp => Some(Key::Address),
            // A name that the config has checked; one that is none would be missing in every request.
            RateKey::Header(name) => HeaderName::from_bytes(name.as_bytes()).ok().map(Key::Header),
        };
        let used = key.map_or_else(Used::together, Used::by_key);
        Self { limit: limit.clone(), pace: Pace::of(limit), origin: now, used }
    }

    /// What the config file says of it.
    pub(crate) fn limit(&self) -> &RateLimit {
        &self.limit
    }

    /// Whether each key has a limit of its own.
    pub(crate) fn is_by_key(&self) -> bool {
        matches!(self.used, Used::ByKey { .. })
    }

    /// A request of `client` at `now`.
    ///
    /// # Errors
    /// If it is one too many: in how long the next one would pass.
    pub(crate) fn admit(&self, head: &impl RequestHead, client: &Client, now: Instant) -> Result<(), Duration> {
        let now = u64::try_from(now.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX);
        match &self.used {
            Used::Together(expected) => self.take_together(expected, now),
            Used::ByKey { key, hasher, shards } => self.take(shards, key.hash(hasher, head, client), now),
        }
    }

    fn take_together(&self, expected: &AtomicU64, now: u64) -> Result<(), Duration> {
        let mut present = expected.load(Relaxed);
        loop {
            let next = self.pace.next(present, now)?;
            match expected.compare_exchange_weak(present, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(newer) => present = newer,
            }
        }
    }

    fn take(&self, shards: &[Mutex<LruCache<u64, u64>>], key: u64, now: u64) -> Result<(), Duration> {
        // The lowest bits choose the shard; there is one for each of their values.
        let shard = usize::try_from(key).unwrap_or_default() % SHARDS;
        let Some(shard) = shards.get(shard) else { return Ok(()) };
        let mut keys = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.pace.next(keys.get(&key).copied().unwrap_or_default(), now)?;
        keys.push(key, next);
        clear(&mut keys, now);
        Ok(())
    }
}

/// Drops keys that nothing is held against any more, and the oldest one if there are too many.
fn clear(keys: &mut LruCache<u64, u64>, now: u64) {
    for _ in 0..CLEARED_AT_ONCE {
        match keys.peek_lru() {
            Some((_, expected)) if *expected <= now || keys.len() > MOST_KEYS => drop(keys.pop_lru()),
            Some(_) | None => return,
        }
    }
}

impl Used {
    fn together() -> Self {
        Self::Together(CachePadded::new(AtomicU64::new(0)))
    }

    fn by_key(key: Key) -> Self {
        let shards = std::iter::repeat_with(|| Mutex::new(LruCache::unbounded())).take(SHARDS).collect();
        Self::ByKey { key, hasher: RandomState::new(), shards }
    }
}

impl Key {
    /// The key of a request. The hash is salted anew for each limit, so that nobody can aim at another's key.
    fn hash(&self, hasher: &RandomState, head: &impl RequestHead, client: &Client) -> u64 {
        let mut hasher = hasher.build_hasher();
        match self {
            Self::Address => key_of_address(client.ip).hash(&mut hasher),
            Self::Header(name) => head.values(name).for_each(|value| value.hash(&mut hasher)),
        }
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;
    use proptest::prelude::*;

    use super::*;

    fn limit(requests: u32, per: Duration, burst: u32, key: RateKey) -> RateLimit {
        RateLimit { requests, per, burst, key }
    }

    fn client(ip: &str) -> Client {
        Client::new(ip.parse().unwrap(), false)
    }

    fn head(api_key: Option<&str>) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        if let Some(value) = api_key {
            head.insert_header("x-api-key", value).unwrap();
        }
        head
    }

    /// Asks at a time in milliseconds.
    struct Story {
        limiter: RateLimiter,
        start: Instant,
    }

    impl Story {
        fn new(limit: &RateLimit) -> Self {
            let start = Instant::now();
            Self { limiter: RateLimiter::new(limit, start), start }
        }

        fn ask(&self, ms: u64, api_key: Option<&str>, ip: &str) -> Result<(), u128> {
            let at = self.start + Duration::from_millis(ms);
            self.limiter.admit(&head(api_key), &client(ip), at).map_err(|wait| wait.as_millis())
        }

        fn keys(&self) -> usize {
            match &self.limiter.used {
                Used::Together(_) => 1,
                Used::ByKey { shards, .. } => shards.iter().map(|shard| shard.lock().unwrap().len()).sum(),
            }
        }
    }

    #[test]
    fn a_burst_passes_and_then_one_request_an_interval() {
        let story = Story::new(&limit(10, Duration::from_secs(1), 3, RateKey::Route));
        let ask = |ms| story.ask(ms, None, "10.0.0.1");
        assert_eq!([ask(0), ask(0), ask(0)], [Ok(()); 3]);
        assert_eq!(ask(0), Err(100));
        assert_eq!(ask(40), Err(60), "what was refused uses nothing up");
        assert_eq!(ask(100), Ok(()));
        assert_eq!(ask(100), Err(100));
        assert_eq!(
            [ask(10_000), ask(10_000), ask(10_000)],
            [Ok(()); 3],
            "a quiet time gives the burst back, and no more"
        );
        assert!(ask(10_000).is_err());
    }

    #[test]
    fn each_key_has_a_limit_of_its_own_and_those_without_share_one() {
        let story = Story::new(&limit(1, Duration::from_secs(1), 1, RateKey::Header("x-api-key".to_owned())));
        let ask = |key| story.ask(0, key, "10.0.0.1");
        assert_eq!([ask(Some("a")), ask(Some("b")), ask(None)], [Ok(()); 3]);
        assert_eq!([ask(Some("a")), ask(Some("b")), ask(None)], [Err(1000); 3]);
        let story = Story::new(&limit(1, Duration::from_secs(1), 1, RateKey::ClientIp));
        assert_eq!(story.ask(0, None, "2001:db8::1"), Ok(()));
        assert!(story.ask(0, None, "2001:db8::2").is_err(), "one /64 is one client");
        assert_eq!(story.ask(0, None, "2001:db8:0:1::1"), Ok(()));
        assert_eq!(story.ask(0, None, "10.0.0.1"), Ok(()));
        assert!(story.ask(0, None, "::ffff:10.0.0.1").is_err());
    }

    #[test]
    fn quiet_keys_are_dropped_and_no_number_of_keys_fills_the_memory() {
        let story = Story::new(&limit(1, Duration::from_secs(1), 1, RateKey::Header("x-api-key".to_owned())));
        let most = SHARDS * MOST_KEYS;
        for key in 0..most + most / 2 {
            assert_eq!(story.ask(0, Some(&key.to_string()), "10.0.0.1"), Ok(()));
        }
        assert!(story.keys() <= most + SHARDS, "{}", story.keys());
        for key in 0..131_072 {
            assert_eq!(story.ask(5_000 + key, Some(&format!("later{key}")), "10.0.0.1"), Ok(()));
        }
        assert!(story.keys() < 10_000, "{}", story.keys());
    }

    #[test]
    fn limits_that_no_clock_can_hold_break_nothing() {
        let year = Duration::from_hours(365 * 24);
        for (requests, per, burst) in
            [(1, year, u32::MAX), (u32::MAX, Duration::from_nanos(1), 1), (u32::MAX, year, u32::MAX)]
        {
            let story = Story::new(&limit(requests, per, burst, RateKey::Route));
            assert_eq!(story.ask(0, None, "10.0.0.1"), Ok(()));
        }
    }

    proptest! {
        /// Over any history: never more than the burst and what has flowed in since, and whoever waits as told passes.
        #[test]
        fn no_span_has_more_than_its_share(
            requests in 1..50_u32, per_ms in 1..2_000_u64, burst in 1..20_u32, gaps in proptest::collection::vec(0..100_u64, 1..200),
        ) {
            let limit = limit(requests, Duration::from_millis(per_ms), burst, RateKey::Route);
            let (story, pace) = (Story::new(&limit), Pace::of(&limit));
            let (mut at, mut passed) = (0, Vec::new());
            for gap in gaps {
                at += gap;
                if let Err(wait) = story.ask(at, None, "10.0.0.1") {
                    // Rounded down to milliseconds above.
                    at += u64::try_from(wait).unwrap() + 1;
                    prop_assert_eq!(story.ask(at, None, "10.0.0.1"), Ok(()));
                }
                passed.push(at);
            }
            for (index, from) in passed.iter().enumerate() {
                for (later, to) in (0_u64..).zip(&passed[index..]) {
                    let beyond_burst = later.saturating_sub(u64::from(burst) - 1);
                    prop_assert!(beyond_burst * pace.interval <= (to - from) * 1_000_000, "{later} more from {from} to {to}");
                }
            }
        }
    }
}
