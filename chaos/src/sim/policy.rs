//! Who decides: what the world asks of it and what it is told.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use pointsman_config::{Split, VersionId};
use pointsman_rollout::{Change, Decision, Observed, OrderKind, PhaseName, Ready, Time};

use super::fleet::Fleet;
use crate::invariant::Broken;
use crate::scenario::{Edit, Event, StateFault, Who};

/// Who decides in a simulated world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Chosen {
    /// The edge's own code.
    Pointsman,
    /// The same with the default of what is proven before a promotion.
    PointsmanDefault,
    /// Argo Rollouts with the analysis of its documentation: success rate of 5 minutes, every 5 minutes, at least 95 %, three
    /// failures allowed, on the scenario's plan.
    Argo,
    /// The same on the plan of that documentation: 20, 40, 60 and 80 % for 10 minutes each, judged from 40 % on, by the rate between
    /// the last two readings.
    ArgoPlan,
    /// The same as a team in a hurry would set it: of 1 minute, every 30 seconds, at least 99 %, no failure allowed.
    ArgoQuick,
    /// Flagger with the analysis of its documentation: every minute 10 % more up to 50 %, success rate of 1 minute at least
    /// 99 % and 99 % of the answers in time, five failures.
    Flagger,
}

impl Chosen {
    /// Everyone, Pointsman first.
    pub const ALL: [Self; 6] =
        [Self::Pointsman, Self::PointsmanDefault, Self::Argo, Self::ArgoPlan, Self::ArgoQuick, Self::Flagger];

    /// Whether Pointsman decides.
    pub fn is_pointsman(self) -> bool {
        matches!(self, Self::Pointsman | Self::PointsmanDefault)
    }
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pointsman => "Pointsman",
            Self::PointsmanDefault => "Pointsman, default proof",
            Self::Argo => "Argo-like",
            Self::ArgoPlan => "Argo-like, own plan",
            Self::ArgoQuick => "Argo-like, quick",
            Self::Flagger => "Flagger-like",
        })
    }
}

/// Something that is told of.
pub(crate) struct Told {
    /// What was decided, if that is what it is.
    pub(crate) decision: Option<Decision>,
    /// For people.
    pub(crate) sentence: String,
    /// As the only edge records it; none for a peer, and for one of several edges, each of which is held against what it knows.
    pub(crate) change: Option<Change>,
}

impl Told {
    /// A line of the story that is no decision.
    pub(crate) fn line(sentence: String) -> Self {
        Self { decision: None, sentence, change: None }
    }
}

/// How many endpoints of each version are thought ready.
pub(crate) type ReadyMap = BTreeMap<VersionId, Ready>;

/// What one edge that runs sees in one tick.
pub(crate) struct Seen<'a> {
    /// Outcomes that became known there.
    pub(crate) rows: &'a [Observed],
    /// How it divides requests.
    pub(crate) applied: &'a Split,
    /// What it takes for ready.
    pub(crate) ready: &'a ReadyMap,
}

/// Who decides, at one edge or at several. What a peer cannot be told (orders, edits, restarts) it is never told: such
/// scenarios are not compared.
pub(super) trait Policy {
    /// How many edges divide requests.
    fn edges(&self) -> usize {
        1
    }
    /// Time passes for what is around the edges.
    fn move_on(&mut self, _fleet: &Fleet, _now: Duration) {}
    /// What an edge takes for ready whose health checks say this.
    fn ready<'a>(&self, _edge: usize, checks: &'a ReadyMap) -> Cow<'a, ReadyMap> {
        Cow::Borrowed(checks)
    }
    /// Whether an edge that is up is sent requests.
    fn takes_requests(&self, _edge: usize) -> bool {
        true
    }
    /// How an edge divides requests now that takes this for ready.
    fn split(&self, edge: usize, ready: &ReadyMap) -> Split;
    /// One tick has passed; what was seen at each edge, and nothing at one that is down.
    fn tick(&mut self, seen: &[Option<Seen<'_>>], now: Time) -> Vec<Told>;
    /// The number of an edge's present trial, which outcomes are marked with.
    fn trial(&self, _edge: usize) -> u64 {
        0
    }
    fn phase(&self) -> Option<PhaseName> {
        None
    }
    fn order(&mut self, _kind: &OrderKind, _who: Who, _now: Time) -> Vec<Told> {
        Vec::new()
    }
    fn edit(&mut self, _edit: &Edit, _now: Time) -> Vec<Told> {
        Vec::new()
    }
    /// Something goes wrong with the API server, or between edges.
    fn trouble(&mut self, _event: &Event) {}
    /// Which edges are meant.
    fn who(&self, _who: Who) -> Vec<usize> {
        (0..self.edges()).collect()
    }
    /// An edge is killed, and something may become of its state file.
    fn kill(&mut self, _edge: usize, _state: Option<StateFault>, _now: Time) {}
    /// An edge stands still from now on.
    fn freeze(&mut self, _edge: usize) {}
    /// It goes on, after so long.
    fn go_on(&mut self, _edge: usize, _stood_still: Duration, _now: Time) -> Vec<Told> {
        Vec::new()
    }
    fn start_again(&mut self, _edge: usize, _now: Time) -> Vec<Told> {
        Vec::new()
    }
    /// What the last restart lost, in words.
    fn lost_at_restart(&mut self) -> Option<String> {
        None
    }
    /// The versions of which one of several edges knows, as the world remembers it, that they were taken back; none where the
    /// world has one memory for all.
    fn barred(&self, _edge: usize) -> Option<Vec<VersionId>> {
        None
    }
    /// What did not hold of all that only several edges and an API server have.
    fn at_end(&mut self) -> Vec<Broken> {
        Vec::new()
    }
}
