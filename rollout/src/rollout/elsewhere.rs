//! A newer rollout than that of this edge's file: whoever leads without the newer file keeps it as it stands, and lets it
//! alone.
//!
//! Line: follow ► **elsewhere** ► desired. An edit reaches edges one after the other, and the Lease knows nothing of files. So
//! an edge may come to lead whose file is the old one, while the new rollout is under way or finished. It goes on dividing its
//! own requests as it did; what stands on the live Service is not its to move or to write over.

use std::time::Duration;

use pointsman_config::VersionId;

use super::Rollout;
use crate::change::{Cause, Change, Decision};
use crate::input::{Order, OrderKind, Refusal};
use crate::phase::PhaseName;
use crate::recover::Saved;
use crate::time::Time;
use crate::trip::{Role, Trip};

/// Longest that an edit takes to reach every edge. What a pod mounts of a `ConfigMap` is renewed by the kubelet within its sync
/// period, a minute, after its cache has heard of it, for which it may take another.
const EDIT_TRAVELS: Duration = Duration::from_mins(2);

/// A rollout that this edge's file does not know of.
#[derive(Debug, Clone)]
pub(super) struct Elsewhere {
    /// Where it stands.
    saved: Saved,
    /// Since when every edge that serves has had this edge's file.
    unopposed_since: Option<Time>,
}

impl Elsewhere {
    /// How many rollouts were begun before it.
    pub(super) fn edition(&self) -> u64 {
        self.saved.edition
    }

    /// The build that is tried there, or was promoted, and may be taken back.
    fn on_trial(&self) -> Option<(&VersionId, Option<&str>)> {
        let is_set_back = matches!(self.saved.phase(), PhaseName::RollingBack | PhaseName::RolledBack);
        let identity = &self.saved.identity;
        let canary = identity.canary.as_ref().filter(|_| !is_set_back)?;
        let revision = identity.revision.as_deref();
        self.saved.quarantine.held_build(canary, revision).is_none().then_some((canary, revision))
    }

    /// Writes into its own book that the build is barred, where it is the one that is tried there. To this edge's file the same
    /// build may be the version in production, which its own book trusts.
    fn bar(&mut self, trip: &Trip) -> bool {
        let is_it = self.on_trial() == Some((&trip.version, trip.revision.as_deref()));
        if is_it {
            self.saved.quarantine.bar_tripped(trip);
            self.saved.serial = self.saved.serial.max(trip.serial);
        }
        is_it
    }
}

impl Rollout {
    /// What is to be kept of the route: where it stands, or, without the file of a newer rollout, where that one stands, and
    /// what was taken back since.
    pub fn kept(&self, now: Time) -> Saved {
        let Some(newer) = &self.elsewhere else { return self.saved(now) };
        let mut kept = newer.saved.clone();
        kept.quarantine.merge_from_another(&self.quarantine, &self.route.stable);
        kept.serial = kept.serial.max(kept.quarantine.newest());
        kept
    }

    /// Lets alone what `kept` says, if that is about a rollout that was begun after this edge's. Of two that were begun
    /// without knowing of each other the one that was kept counts.
    pub(super) fn let_alone(&mut self, kept: Saved) {
        let known = self.elsewhere.as_ref().map_or(self.edition, Elsewhere::edition);
        if kept.edition >= known {
            let mut newer = Elsewhere { saved: kept, unopposed_since: None };
            if let Some(before) = self.elsewhere.take().filter(|before| before.saved.identity == newer.saved.identity) {
                // What was barred there may not be written yet.
                newer.saved.quarantine.merge(&before.saved.quarantine);
            }
            self.elsewhere = Some(newer);
        }
    }

    /// Whether this edge leads, and a newer rollout stands where it would write.
    pub(super) fn lets_alone(&self) -> bool {
        self.role == Role::Leader && self.elsewhere.is_some()
    }

    /// The file is another one now, that of the newer rollout or one that is newer still: a leader goes on from where that
    /// rollout stands.
    pub(super) fn go_on_elsewhere(&mut self, now: Time) -> Option<Vec<Change>> {
        let newer = self.elsewhere.take()?;
        self.edition = self.edition.max(newer.edition());
        if self.role == Role::Follower {
            return None;
        }
        let changes = self.go_on_from(newer.saved, now);
        Some(self.settle_as_leader(changes, now))
    }

    /// Begins what this edge's file says once it is the only one that counts: for as long as an edit may take to come,
    /// every edge that serves has said that it has this file. It was put back, then, to what it had been before.
    pub(super) fn begin_unopposed(&mut self, acknowledged: bool, now: Time) -> Option<Change> {
        let newer = self.elsewhere.as_mut()?;
        if acknowledged {
            newer.unopposed_since.get_or_insert(now);
        }
        let is_over = newer.unopposed_since.is_some_and(|since| now.since(since) >= EDIT_TRAVELS);
        let newer = self.elsewhere.take_if(|_| is_over)?;
        let (before, from) = (self.desired().granted, self.phase.name());
        let served = Some(self.serving().clone()).filter(|served| *served != self.route.stable);
        let began = self.go_on_from(newer.saved, now).pop();
        self.formerly = self.formerly.take().or(served);
        // From here on the live Service is this edge's again: that is told, and kept, even where no request goes another way.
        began.or_else(|| Some(self.change((Decision::Edit, Cause::File), from, before)))
    }

    /// An edge that does not say what this one says may have the newer file: the time begins anew.
    pub(super) fn note_opposition(&mut self) {
        if let Some(newer) = &mut self.elsewhere {
            newer.unopposed_since = None;
        }
    }

    /// Refuses to move what only the newer file says how to move. Going back is never refused for it.
    pub(super) fn refuse_without_the_file(&self, order: &Order) -> Result<(), Refusal> {
        if self.lets_alone() && order.kind != OrderKind::Rollback {
            return Err(Refusal::OlderFile { route: self.route.name.to_string() });
        }
        Ok(())
    }

    /// Takes back what the newer rollout tries: whoever orders a rollback means that. Every edge that has its file does so
    /// once it hears of it. None if there is no newer one; refused if that has nothing to take back, for what this edge's own
    /// file tried may be in production there.
    pub(super) fn take_back_elsewhere(&mut self, cause: &Cause) -> Option<Result<Change, Refusal>> {
        let newer = self.elsewhere.as_ref().filter(|_| self.role == Role::Leader)?;
        let (route, stable) = (self.route.name.to_string(), newer.saved.identity.stable.clone());
        let is_free =
            |(version, revision): &(&VersionId, Option<&str>)| self.quarantine.held_build(version, *revision).is_none();
        let Some((version, revision)) = newer.on_trial().filter(is_free) else {
            return Some(Err(Refusal::NothingToTakeBack { route, stable }));
        };
        if self.readiness(&stable).up == 0 {
            return Some(Err(Refusal::NoWayBack { route, stable }));
        }
        let (version, revision) = (version.clone(), revision.map(str::to_owned));
        let serial = self.next_serial().max(newer.saved.serial + 1);
        let trip = Trip { version: version.clone(), revision, why: cause.to_string(), serial };
        self.bar_there(&trip);
        self.quarantine.bar_tripped(&trip);
        self.tripped = Some(trip);
        let told = (Decision::Rollback, cause.clone());
        let change = self.change(told, self.phase.name(), self.desired().granted);
        Some(Ok(Change { canary: Some(version), ..change }))
    }

    /// Bars the build in the book of the newer rollout; false if that does not try it.
    pub(super) fn bar_there(&mut self, trip: &Trip) -> bool {
        self.elsewhere.as_mut().is_some_and(|newer| newer.bar(trip))
    }

    /// What an edge waits for that lets a newer rollout alone.
    pub(super) fn elsewhere_in_words(&self) -> Option<String> {
        let newer = &self.elsewhere.as_ref().filter(|_| self.role == Role::Leader)?.saved;
        let canary = newer.identity.canary.as_ref().unwrap_or(&newer.identity.stable);
        Some(format!(
            "waits for its file: another edge has a newer one and began the rollout of {canary} ({}), which stays as it is until \
             this edge has that file, or every edge has had this one for {} min",
            newer.phase(),
            EDIT_TRAVELS.as_secs() / 60
        ))
    }
}
