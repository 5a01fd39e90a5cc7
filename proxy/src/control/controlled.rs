//! One route under control: its phase machine, what is applied, and what its versions did of late.
//!
//! Line: recorder ► window ► analysis ► **phase** ► desired ► publisher.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{Plan, Route, Share, Split, VersionId};
use pointsman_rollout::{
    Change, Input, Observed, Order, PhaseName, Ready, Refusal, Rollout, Saved, Seen, Status, Summary, Time,
};

use super::endpoints::Addresses;
use super::window::Window;
use crate::outcome::ErrorPolicy;
use crate::recorder::Totals;

/// How often the elapsed times of a route that is moving are kept.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// One route, as the control loop drives it.
#[derive(Debug)]
pub(crate) struct ControlledRoute {
    route: Arc<Route>,
    rollout: Rollout,
    /// What the published snapshot does.
    applied: Split,
    ready: BTreeMap<VersionId, Ready>,
    addresses: Addresses,
    windows: BTreeMap<VersionId, Window>,
    summary: Option<Summary>,
    saved_at: Time,
}

impl ControlledRoute {
    /// Takes a route over, as it was saved or from its beginning. Nothing is applied before the first publication.
    pub(crate) fn begin(route: Arc<Route>, saved: Option<Saved>, now: Time) -> (Self, Vec<Change>) {
        let (rollout, changes) = match saved {
            Some(saved) => Rollout::resume(Arc::clone(&route), saved, now),
            None => Rollout::start(Arc::clone(&route), now),
        };
        let applied = Split::Whole(route.stable.clone());
        let (ready, addresses, windows) = (BTreeMap::new(), Addresses::new(), BTreeMap::new());
        (Self { route, rollout, applied, ready, addresses, windows, summary: None, saved_at: now }, changes)
    }

    /// The route as the file has it.
    pub(crate) fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// What the published snapshot does.
    pub(crate) fn applied(&self) -> &Split {
        &self.applied
    }

    /// Who serves now; after a promotion the former canary.
    pub(crate) fn serving(&self) -> &VersionId {
        self.rollout.serving()
    }

    /// The version that has all traffic that is not the canary's.
    pub(crate) fn main(&self) -> VersionId {
        match self.rollout.desired().granted {
            Split::Whole(version) | Split::Canary { stable: version, .. } => version,
        }
    }

    /// Where its versions run.
    pub(crate) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Its endpoints moved.
    pub(crate) fn set_addresses(&mut self, addresses: Addresses) {
        self.addresses = addresses;
    }

    /// Some of its endpoints came up or went down.
    pub(crate) fn set_ready(&mut self, ready: BTreeMap<VersionId, Ready>) {
        self.ready = ready;
    }

    /// What shall be applied now.
    pub(crate) fn effective(&self) -> Split {
        self.rollout.desired().effective(&self.ready)
    }

    /// The present snapshot does `split`.
    pub(crate) fn set_applied(&mut self, split: Split) {
        self.applied = split;
    }

    /// Versions that the file gives traffic, now or step by step, and that were taken back.
    pub(crate) fn held_back(&self, now: Time) -> Vec<VersionId> {
        let named = |version: &VersionId| match &self.route.plan {
            Plan::Weights(split) => split.share_of(version) > Share::ZERO,
            Plan::Rollout(plan) => plan.canary == *version,
        };
        let quarantined = self.rollout.status(now).quarantined.into_iter();
        quarantined.map(|held| held.version).filter(named).collect()
    }

    /// What the file, the plan or an operator asks.
    pub(crate) fn asked(&self) -> Split {
        self.rollout.desired().asked
    }

    /// A tick passed.
    pub(crate) fn tick(&mut self, rows: &[Observed], now: Time) -> Vec<Change> {
        let seen = Seen { rows, ready: &self.ready, applied: &self.applied };
        // Only an order can be refused.
        let changes = self.rollout.step(Input::Tick(&seen), now).unwrap_or_default();
        self.note(&changes);
        changes
    }

    /// The route's part of the file changed.
    pub(crate) fn edit(&mut self, route: Arc<Route>, now: Time) -> Vec<Change> {
        self.route = Arc::clone(&route);
        // Only an order can be refused.
        let changes = self.rollout.step(Input::Edit(route), now).unwrap_or_default();
        self.note(&changes);
        changes
    }

    /// An operator wants something.
    ///
    /// # Errors
    /// If the route's state forbids it.
    pub(crate) fn obey(&mut self, order: &Order, now: Time) -> Result<Vec<Change>, Refusal> {
        let changes = self.rollout.step(Input::Order(order), now)?;
        self.note(&changes);
        Ok(changes)
    }

    /// Goes on from what the state file turned out to hold, unless that could give traffic to a version that was taken
    /// back since.
    pub(crate) fn reconsider(&mut self, saved: Saved, now: Time) -> Vec<Change> {
        let status = self.rollout.status(now);
        let set_back =
            matches!(status.phase, PhaseName::RollingBack | PhaseName::RolledBack) || !status.quarantined.is_empty();
        if set_back {
            return Vec::new();
        }
        let (rollout, changes) = Rollout::resume(Arc::clone(&self.route), saved, now);
        self.rollout = rollout;
        changes
    }

    fn note(&mut self, changes: &[Change]) {
        if let Some(change) = changes.last() {
            self.summary.clone_from(&change.evidence);
        }
    }

    /// What outlives the process; to be kept now.
    pub(crate) fn save(&mut self, now: Time) -> Saved {
        self.saved_at = now;
        self.rollout.saved(now)
    }

    /// Whether the elapsed times of a route that is moving were kept long ago.
    pub(crate) fn is_save_due(&self, now: Time) -> bool {
        now.since(self.saved_at) >= SAVE_EVERY && self.rollout.phase() != PhaseName::Steady
    }

    /// What was counted so far, for the sliding windows.
    pub(crate) fn record(&mut self, totals: Totals, now: Time) {
        let versions: Vec<_> = self.route.versions.keys().cloned().collect();
        for version in versions {
            self.windows.entry(version).or_insert_with(|| Window::new(now, crate::recorder::Counts::default()));
        }
        for (version, counts) in totals {
            let window =
                self.windows.entry(version).or_insert_with(|| Window::new(now, crate::recorder::Counts::default()));
            window.record(now, counts);
        }
    }

    /// Judges the comparison for people; costs some bisections, so once a second is enough.
    pub(crate) fn summarise(&mut self) {
        self.summary = Some(self.rollout.summary());
    }

    /// The last judgement.
    pub(crate) fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }

    /// Where it stands.
    pub(crate) fn status(&self, now: Time) -> Status {
        self.rollout.status(now)
    }

    /// What one of its versions did of late.
    pub(crate) fn window(&self, version: &VersionId) -> Option<&Window> {
        self.windows.get(version)
    }

    /// Which outcomes count as errors.
    pub(crate) fn error_policy(&self) -> ErrorPolicy {
        ErrorPolicy::new(&self.route.guard.count_as_error)
    }
}
