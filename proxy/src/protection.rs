//! What protects the versions of one route from too many requests, and what came of it.
//!
//! Line: admission ► **protection** ► (`rate_limit`, concurrency). What has been used of a limit outlives the snapshot: a
//! reload that does not change a limit forgives nobody.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use pointsman_config::{Concurrency, Limits, Route, RouteName, VersionId};

use crate::admission::RequestHead;
use crate::answer::Refusal;
use crate::concurrency::{ConcurrencyLimit, Permit};
use crate::listen::Client;
use crate::rate_limit::RateLimiter;
use crate::recorder::{Arm, Terms};

/// How often the edge refused, by the position of the code in [`Refusal::CODES`].
#[derive(Debug, Default)]
pub struct Refusals([AtomicU64; Refusal::CODES.len()]);

impl Refusals {
    /// One more.
    pub(crate) fn count(&self, refusal: &Refusal) {
        let position = Refusal::CODES.iter().position(|code| *code == refusal.code());
        if let Some(count) = position.and_then(|position| self.0.get(position)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Every code that was told, and how often.
    pub(crate) fn told(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = Refusal::CODES.into_iter().zip(self.0.iter().map(|count| count.load(Relaxed)));
        counts.filter(|(_, count)| *count > 0)
    }
}

/// The limits of one route, as a snapshot holds them.
#[derive(Debug, Default)]
pub(crate) struct Protection {
    /// Those by key first: whom they refuse shall not use up what is there for all.
    rates: Box<[Arc<RateLimiter>]>,
    stable: Option<Arc<ConcurrencyLimit>>,
    canary: Option<Arc<ConcurrencyLimit>>,
    others: Box<[Option<Arc<ConcurrencyLimit>>]>,
    pub(crate) refusals: Arc<Refusals>,
}

impl Protection {
    /// Whether a request may come now.
    ///
    /// # Errors
    /// If it is one too many.
    pub(crate) fn admit(&self, head: &impl RequestHead, client: &Client, now: Instant) -> Result<(), Refusal> {
        for rate in &self.rates {
            rate.admit(head, client, now).map_err(|wait| {
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                Refusal::RateLimited(seconds.max(1))
            })?;
        }
        Ok(())
    }

    /// The right to be worked on by the version of `arm`; none where nothing limits that.
    ///
    /// # Errors
    /// If the version has all that it can take.
    pub(crate) fn enter(&self, arm: Arm, now: Instant) -> Result<Option<Permit>, Refusal> {
        let limit = match arm {
            Arm::Stable => self.stable.as_ref(),
            Arm::Canary => self.canary.as_ref(),
            Arm::Other(position) => self.others.get(position).and_then(Option::as_ref),
        };
        limit.map(|limit| limit.enter(now).ok_or(Refusal::Shed)).transpose()
    }
}

/// What outlives snapshots, by route.
#[derive(Debug, Default)]
pub(crate) struct Protections(HashMap<RouteName, Kept>);

#[derive(Debug, Default)]
struct Kept {
    rates: Vec<Arc<RateLimiter>>,
    concurrency: Concurrency,
    versions: BTreeMap<VersionId, Arc<ConcurrencyLimit>>,
    refusals: Arc<Refusals>,
}

impl Protections {
    /// What protects `route` while `terms` hold, with all that is used of limits that stay.
    pub(crate) fn serve(&mut self, route: &Route, terms: &Terms, now: Instant) -> Protection {
        let kept = self.0.entry(route.name.clone()).or_default();
        kept.keep_rates(&route.limits, now);
        kept.keep_versions(route, now);
        let version = |version: &VersionId| kept.versions.get(version).cloned();
        Protection {
            rates: kept.rates.iter().cloned().collect(),
            stable: version(&terms.stable),
            canary: terms.canary.as_ref().and_then(version),
            others: terms.others.iter().map(version).collect(),
            refusals: Arc::clone(&kept.refusals),
        }
    }

    /// Forgets the routes that are served no more.
    pub(crate) fn forget_all_but(&mut self, is_served: impl Fn(&RouteName) -> bool) {
        self.0.retain(|route, _| is_served(route));
    }

    /// How often each route refused, by code.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (&RouteName, &Refusals)> {
        self.0.iter().map(|(route, kept)| (route, kept.refusals.as_ref()))
    }
}

impl Kept {
    fn keep_rates(&mut self, limits: &Limits, now: Instant) {
        let mut before = std::mem::take(&mut self.rates);
        let rates = limits.rate.iter().map(|limit| match before.iter().position(|rate| rate.limit() == limit) {
            Some(position) => before.swap_remove(position),
            None => Arc::new(RateLimiter::new(limit, now)),
        });
        self.rates = rates.collect();
        self.rates.sort_by_key(|rate| !rate.is_by_key());
    }

    fn keep_versions(&mut self, route: &Route, now: Instant) {
        let concurrency = route.limits.concurrent_requests;
        if self.concurrency != concurrency {
            self.concurrency = concurrency;
            self.versions.clear();
        }
        self.versions.retain(|version, _| route.versions.contains_key(version));
        for version in route.versions.keys() {
            if !self.versions.contains_key(version)
                && let Some(limit) = ConcurrencyLimit::new(concurrency, now)
            {
                self.versions.insert(version.clone(), Arc::new(limit));
            }
        }
    }
}
