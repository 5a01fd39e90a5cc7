//! Every endpoint of a version, and which one takes the next request.
//!
//! Line: split ► **pool** ► endpoint.

use std::sync::Arc;

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

    /// The endpoint for the next attempt, and its position, which goes into `tried` if the attempt fails.
    ///
    /// Of two drawn at random, the one with fewer requests in flight: close to the best choice without looking at all
    /// of them, and without sending everybody to the one that was idle last (Mitzenmacher, "The Power of Two Choices in
    /// Randomized Load Balancing", 2001). Endpoints that are down are left out, unless all are: then the checks may be
    /// what is wrong, and a try costs no more than the refusal would. None if all have been tried or there are none.
    pub fn pick(&self, tried: &[usize]) -> Option<(usize, &Arc<Endpoint>)> {
        let fresh = |position: usize| !tried.contains(&position);
        self.lesser_of_two(|position, endpoint| fresh(position) && endpoint.is_up())
            .or_else(|| self.lesser_of_two(|position, _| fresh(position)))
    }

    fn lesser_of_two(&self, fits: impl Fn(usize, &Endpoint) -> bool) -> Option<(usize, &Arc<Endpoint>)> {
        let (first, one) = self.draw(&fits)?;
        let other = self.draw(|position, endpoint| position != first && fits(position, endpoint));
        match other {
            Some((second, two)) if two.in_flight() < one.in_flight() => Some((second, two)),
            Some(_) | None => Some((first, one)),
        }
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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;

    fn pool(size: u16) -> Pool {
        let endpoint = |port| Arc::new(Endpoint::new(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        Pool::new("v1".parse().unwrap(), (1..=size).map(endpoint).collect())
    }

    /// How often each endpoint is picked in `rounds`.
    fn picks(pool: &Pool, tried: &[usize], rounds: u32) -> Vec<u32> {
        let mut counts = vec![0; pool.endpoints().len()];
        for _ in 0..rounds {
            counts[pool.pick(tried).unwrap().0] += 1;
        }
        counts
    }

    #[test]
    fn an_empty_pool_and_one_that_was_tried_wholly_give_nothing() {
        assert!(pool(0).pick(&[]).is_none());
        assert!(pool(1).pick(&[0]).is_none());
        assert!(pool(3).pick(&[2, 0, 1]).is_none());
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
        pool.endpoints()[0].set_up(false);
        let counts = picks(&pool, &[3], 2_000);
        assert_eq!((counts[0], counts[3]), (0, 0));
        assert!(counts[1] > 0 && counts[2] > 0);
    }

    #[test]
    fn when_all_are_down_all_are_tried_rather_than_none() {
        let pool = pool(3);
        for endpoint in pool.endpoints() {
            endpoint.set_up(false);
        }
        assert!(picks(&pool, &[], 1_000).iter().all(|count| *count > 0));
        assert_eq!(picks(&pool, &[0, 2], 10), [0, 10, 0]);
    }

    #[test]
    fn load_spreads_when_requests_stay() {
        let pool = pool(10);
        let _held: Vec<_> = (0..1_000).map(|_| pool.pick(&[]).unwrap().1.enter()).collect();
        for endpoint in pool.endpoints() {
            assert!((95..=105).contains(&endpoint.in_flight()), "{}", endpoint.in_flight());
        }
    }
}
