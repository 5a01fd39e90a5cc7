//! A route that several edges serve: what leading and following mean for it.

use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{Route, Split};
use pointsman_rollout::{Change, Role, Rollout, Saved, Time, Trip, WayBack};

use super::ControlledRoute;
use crate::control::endpoints::Checked;
use crate::control::replicas::members::HEARD_WITHIN;

/// What a tick shows beside what was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Around {
    /// Whether every edge that serves the route applies what is granted.
    pub(crate) acknowledged: bool,
    /// How many edges serve it.
    pub(crate) edges: usize,
    /// How many of them apply what is granted, this one among them; only the leader of several knows.
    pub(crate) applied: Option<usize>,
}

impl Default for Around {
    /// Of the only edge.
    fn default() -> Self {
        Self { acknowledged: true, edges: 1, applied: None }
    }
}

/// What is known of the way back beside the live Service.
#[derive(Debug)]
pub(crate) struct AroundWayBack {
    /// What was last found out about the endpoints to which it leads.
    pub(crate) checked: Vec<Checked>,
    /// How long the slowest of the other edges takes to put in force what it is told, or why one does not.
    pub(crate) pushed: Result<Duration, String>,
}

impl Default for AroundWayBack {
    /// Of a route that has none.
    fn default() -> Self {
        Self { checked: Vec::new(), pushed: Ok(Duration::ZERO) }
    }
}

/// What became of what the leader said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Followed {
    /// It is in force here.
    Applied,
    /// This edge's file is about another rollout.
    OfAnother,
    /// This edge stands further on in the same rollout, and stays there.
    Later(Box<Saved>),
}

impl ControlledRoute {
    /// Takes a route over to follow whoever leads, from where it stood as far as that is known.
    pub(crate) fn begin_following(route: Arc<Route>, saved: Option<Saved>, now: Time) -> Self {
        let is_placed = saved.is_some();
        let rollout = Rollout::follower(Arc::clone(&route), saved, now);
        Self { is_placed, ..Self::of(route, rollout, now) }
    }

    /// Decides from now on; `kept` is what was kept elsewhere, if it is known.
    pub(crate) fn lead(&mut self, kept: Option<Saved>, now: Time) -> Vec<Change> {
        self.is_placed |= kept.is_some();
        self.journal().leave();
        let changes = self.rollout.lead(kept, now);
        self.note(&changes, now);
        changes
    }

    /// Does what the leader says, unless this edge knows of later decisions about the same rollout.
    pub(crate) fn follow(&mut self, saved: Saved, now: Time) -> Followed {
        if self.depth() > saved.depth() {
            let own = self.saved(now);
            if own.identity() == saved.identity() {
                return Followed::Later(Box::new(own));
            }
        }
        if !self.rollout.follow(saved, now) {
            return Followed::OfAnother;
        }
        self.is_placed = true;
        Followed::Applied
    }

    /// Decides no longer.
    pub(crate) fn step_down(&mut self) {
        self.journal().leave();
        self.rollout.step_down();
    }

    /// The leader hears of decisions that it did not know.
    pub(crate) fn go_on_from(&mut self, later: Saved, now: Time) -> Vec<Change> {
        self.rollout.step_down();
        self.lead(Some(later), now)
    }

    /// What stands on the live Service was found late: it counts if it is later, and what it bars is barred either way.
    pub(crate) fn weigh(&mut self, found: Saved, now: Time) -> Vec<Change> {
        self.is_placed = true;
        match (self.role(), found.depth() > self.depth()) {
            (Role::Leader, _) => {
                self.journal().leave();
                let changes = self.rollout.weigh(Some(found), now);
                self.note(&changes, now);
                changes
            }
            (Role::Follower, true) => {
                self.rollout.follow(found, now);
                Vec::new()
            }
            (Role::Follower, false) => {
                self.rollout.adopt_quarantine(&found);
                Vec::new()
            }
        }
    }

    /// What the leader says of the way back; a follower does not try it itself.
    pub(crate) fn tell_way_back(&mut self, way_back: Option<WayBack>, now: Time) {
        self.told_way_back = way_back.map(|way_back| (way_back, now));
    }

    pub(super) fn told_way_back(&self, now: Time) -> WayBack {
        let told = self.told_way_back.as_ref().filter(|(_, at)| now.since(*at) < HEARD_WITHIN);
        told.map_or_else(
            || WayBack::Unproven { why: "the edge that leads tries it, and has not been heard of late".to_owned() },
            |(way_back, _)| way_back.clone(),
        )
    }

    /// Whether this edge decides.
    pub(crate) fn role(&self) -> Role {
        self.rollout.role()
    }

    /// What this edge took back by itself, as long as the leader has not answered that.
    pub(crate) fn trip(&self) -> Option<&Trip> {
        self.rollout.trip()
    }

    /// The leader has heard of it.
    pub(crate) fn trip_was_heard(&mut self) {
        self.rollout.trip_was_heard();
    }

    /// Another edge, `by`, took a canary back. What the leader decides of it is the end of the record; a trip that it knows of,
    /// or that is about another build, ends nothing.
    pub(crate) fn take_trip(&mut self, trip: &Trip, by: &str, now: Time) -> Vec<Change> {
        let changes = self.rollout.take_trip(trip, by, now);
        if !changes.is_empty() && self.role() == Role::Leader {
            self.record_changes(&changes, now);
            self.journal().leave();
        }
        self.note(&changes, now);
        changes
    }

    /// What the last tick showed of other edges.
    pub(crate) fn around(&self) -> Around {
        self.around
    }

    /// How many decisions stand behind its state.
    pub(crate) fn serial(&self) -> u64 {
        self.rollout.serial()
    }

    /// How many rollouts, and how many decisions, stand behind it.
    pub(crate) fn depth(&self) -> (u64, u64) {
        self.rollout.depth()
    }

    /// What shall be applied, before readiness cuts it.
    pub(crate) fn granted(&self) -> Split {
        self.rollout.desired().granted
    }

    /// Where it stands, to be told to others.
    pub(crate) fn saved(&self, now: Time) -> Saved {
        self.rollout.saved(now)
    }
}
