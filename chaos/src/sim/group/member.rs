//! One of several edges: its rollout, what it sees of the cluster, and where it stands among the others.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pointsman_config::{Route, Split, VersionId};
use pointsman_kubernetes::{Observed as ServiceObserved, Picture, service_seen};
use pointsman_rollout::{
    Cause, Change, Decision, Observed, PhaseName, Ready, Rollout, Saved, ServiceSeen, Time, Trip, WayBack,
};

use super::super::cluster::Shown;
use super::super::policy::{ReadyMap, Told};
use super::Around;
use super::hand::Hand;
use super::knowledge::{Build, Knowledge, build_of};
use super::seat::Seat;
use super::takeover::Takeover;

/// Where the clock of every process begins: far from zero, as the edge's own does.
const CLOCK_BEGINS: Duration = Duration::from_hours(24 * 365);
/// The clock of no two processes shows the same.
const CLOCKS_APART: Duration = Duration::from_mins(61);
/// Who has answered so lately is heard.
pub(super) const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// An edge that does not know where its route stands takes requests all the same after so long.
const PLACED_WITHIN: Duration = Duration::from_secs(30);
/// A watch that is silent for so long is lost, and that is known.
const LOST_AFTER: Duration = Duration::from_secs(3);

/// Where an edge stands among the others.
pub(super) enum Standing {
    Follows,
    TakesOver(Box<Takeover>),
    Leads { term: u64 },
}

/// What an edge said last to the one that asked.
pub(super) struct Heard {
    pub(super) at: Duration,
    /// What it applies, out of the state with this number; none where it does not follow.
    pub(super) applied: Option<(u64, Split)>,
    /// What it took back by itself.
    pub(super) trip: Option<Trip>,
}

/// What is known of the leader while an edge follows.
#[derive(Default)]
pub(super) struct Following {
    pub(super) asked_at: Option<Duration>,
    pub(super) told_at: Option<Duration>,
    /// How many edges serve, as the leader counts.
    pub(super) edges: usize,
    pub(super) way_back: Option<(WayBack, Duration)>,
}

/// What watches have shown.
#[derive(Default)]
pub(super) struct Sight {
    pub(super) observed: Option<Arc<ServiceObserved>>,
    live: Option<Arc<Picture>>,
    members: Arc<BTreeMap<VersionId, Arc<Picture>>>,
    /// When they told last.
    heard_at: Duration,
}

impl Sight {
    pub(super) fn take_in(&mut self, shown: &Shown, now: Duration) {
        let is_news =
            self.observed.as_ref().is_none_or(|seen| seen.resource_version != shown.observed.resource_version);
        if is_news {
            let seen = ServiceObserved::clone(&shown.observed).after(self.observed.as_deref());
            self.observed = Some(Arc::new(seen));
        }
        (self.live, self.members) = (Some(Arc::clone(&shown.live)), Arc::clone(&shown.members));
        self.heard_at = now;
    }

    fn ready(&self, version: &VersionId) -> Ready {
        let of = |picture: &Arc<Picture>| Ready { up: picture.ready(), total: picture.endpoints.len() };
        self.members.get(version).map(of).unwrap_or_default()
    }
}

/// A clock that shows another time of day.
#[derive(Clone, Copy)]
pub(super) struct ClockOff {
    pub(super) is_behind: bool,
    pub(super) by: Duration,
    pub(super) until: Option<Duration>,
}

/// One edge.
pub(super) struct Member {
    pub(super) edge: usize,
    /// The name of its process, and of no other.
    pub(super) name: String,
    /// When its process began, and by how much its clock is ahead of the world's.
    pub(super) born: Duration,
    offset: Duration,
    /// How often its process has begun before.
    starts: u32,
    /// Since when it is down.
    pub(super) down_since: Option<Duration>,
    /// Whether its process stands still, and for how long it did in all.
    pub(super) is_frozen: bool,
    pub(super) stood_still: Duration,
    /// Until when nobody reaches it but clients, nor it anybody but endpoints.
    pub(super) cut_off_until: Option<Duration>,
    /// By how much the time of day is off here, ahead or behind, and until when; none where it is right.
    pub(super) clock_off: Option<ClockOff>,
    pub(super) route: Arc<Route>,
    pub(super) rollout: Rollout,
    pub(super) seat: Seat,
    pub(super) standing: Standing,
    pub(super) sight: Sight,
    pub(super) hand: Hand,
    /// Whether it is known where the route stands.
    pub(super) is_placed: bool,
    /// What it took for ready in its last tick.
    pub(super) ready: ReadyMap,
    /// What it counted, and the leader has not taken yet.
    pub(super) waiting: Vec<Observed>,
    /// What others counted since the last tick, as their leader.
    pub(super) pulled: Vec<Observed>,
    pub(super) said_at: Option<Duration>,
    pub(super) has_news: bool,
    pub(super) heard: BTreeMap<usize, Heard>,
    pub(super) following: Following,
    /// What the world knows that it knows.
    pub(super) knows: Knowledge,
}

impl Member {
    /// A process that knows nothing yet, or what it read on the live Service.
    pub(super) fn start(edge: usize, starts: u32, route: &Arc<Route>, now: Duration) -> Self {
        let name = if starts == 0 { format!("edge-{}", edge + 1) } else { format!("edge-{}.{starts}", edge + 1) };
        let nth = u32::try_from(edge).unwrap_or_default() + 10 * starts;
        let offset = CLOCK_BEGINS + CLOCKS_APART * nth;
        // Processes do not look at the Lease at the same moments.
        let first_round = now + Duration::from_millis(300) * (nth % 7);
        Self {
            edge,
            born: now,
            offset,
            starts,
            down_since: None,
            is_frozen: false,
            stood_still: Duration::ZERO,
            cut_off_until: None,
            clock_off: None,
            route: Arc::clone(route),
            rollout: Rollout::follower(Arc::clone(route), None, Time::after_start(offset + now)),
            seat: Seat::new(&name, first_round),
            name,
            standing: Standing::Follows,
            sight: Sight::default(),
            hand: Hand::default(),
            is_placed: false,
            ready: ReadyMap::new(),
            waiting: Vec::new(),
            pulled: Vec::new(),
            said_at: None,
            has_news: false,
            heard: BTreeMap::new(),
            following: Following::default(),
            knows: Knowledge::default(),
        }
    }

    /// The process that comes after this one, with the file as it is now.
    pub(super) fn successor(&self, route: &Arc<Route>, now: Duration) -> Self {
        let (cut_off_until, clock_off) = (self.cut_off_until, self.clock_off);
        Self { cut_off_until, clock_off, ..Self::start(self.edge, self.starts + 1, route, now) }
    }

    /// The clock that its decisions go by: time in which it stood still does not count.
    pub(super) fn clock(&self, now: Duration) -> Time {
        Time::after_start(self.offset + now.saturating_sub(self.stood_still))
    }

    /// The clock of its machine, which the Lease goes by: it goes on whatever becomes of the process.
    pub(super) fn lease_clock(&self, now: Duration) -> Time {
        Time::after_start(self.offset + now)
    }

    /// The time of day as it is shown here.
    pub(super) fn time_of_day(&self, right: SystemTime, now: Duration) -> SystemTime {
        let is_off = |off: &&ClockOff| off.until.is_none_or(|until| now < until);
        match self.clock_off.as_ref().filter(is_off) {
            Some(ClockOff { is_behind: true, by, .. }) => right - *by,
            Some(ClockOff { is_behind: false, by, .. }) => right + *by,
            None => right,
        }
    }

    /// Whether its process is there and does not stand still.
    pub(super) fn is_up(&self) -> bool {
        self.down_since.is_none() && !self.is_frozen
    }

    /// Whether others reach it.
    pub(super) fn is_reached(&self, now: Duration) -> bool {
        self.is_up() && self.cut_off_until.is_none_or(|until| until <= now)
    }

    pub(super) fn leads(&self) -> bool {
        matches!(self.standing, Standing::Leads { .. })
    }

    /// Whether it asks others: as their leader, or as the next one.
    pub(super) fn asks(&self) -> bool {
        !matches!(self.standing, Standing::Follows)
    }

    /// Whether clients are sent here.
    pub(super) fn takes_requests(&self, now: Duration) -> bool {
        self.is_placed || now.saturating_sub(self.born) >= PLACED_WITHIN
    }

    pub(super) fn phase(&self) -> PhaseName {
        self.rollout.phase()
    }

    /// What takes requests, as far as checks and slices both say so.
    pub(super) fn ready_among<'a>(&self, checks: &'a ReadyMap) -> Cow<'a, ReadyMap> {
        let both = |(version, by_checks): (&VersionId, &Ready)| {
            let by_slices = self.sight.ready(version);
            (version.clone(), Ready { up: by_checks.up.min(by_slices.up), total: by_slices.total })
        };
        Cow::Owned(checks.iter().map(both).collect())
    }

    /// The version with all traffic that is not the canary's.
    pub(super) fn main_version(&self) -> VersionId {
        match self.applied() {
            Split::Whole(version) | Split::Canary { stable: version, .. } => version,
        }
    }

    /// What it does with requests.
    pub(super) fn applied(&self) -> Split {
        self.rollout.desired().effective(&self.ready)
    }

    /// What it knows of the live Service.
    pub(super) fn service_seen(&self, now: Duration) -> Option<ServiceSeen> {
        let sight = &self.sight;
        let seen = service_seen(&self.route, sight.observed.as_ref()?, sight.live.as_deref(), &sight.members)?;
        let heard = seen.heard && now.saturating_sub(sight.heard_at) < LOST_AFTER;
        Some(ServiceSeen { heard, ..seen })
    }

    /// What stands on the live Service, and under which term; nothing where somebody has edited that.
    pub(super) fn kept(&self) -> Option<(u64, &Saved)> {
        let observed = self.sight.observed.as_ref()?;
        if observed.foreign(&self.route.name).is_some_and(|foreign| !foreign.is_of_selector) {
            return None;
        }
        let state = observed.state.read().filter(|state| state.route == self.route.name)?;
        Some((observed.fence.read()?.term, &state.saved))
    }

    /// Does what a leader says, or wrote down, unless this edge stands further on in the same rollout; then it says so.
    pub(super) fn follow(&mut self, saved: Saved, clock: Time) -> Followed {
        if self.rollout.depth() > saved.depth() {
            let own = self.rollout.saved(clock);
            if own.identity() == saved.identity() {
                return Followed::Later(Box::new(own));
            }
        }
        if !self.rollout.follow(saved, clock) {
            return Followed::OfAnother;
        }
        self.is_placed = true;
        Followed::Applied
    }

    /// Decides no longer.
    pub(super) fn leave_the_lead(&mut self) {
        self.rollout.step_down();
        self.standing = Standing::Follows;
        self.waiting.clear();
        self.pulled.clear();
    }

    /// Something was decided here.
    pub(super) fn note(&mut self, changes: &[Change], around: &mut Around) {
        if changes.is_empty() {
            return;
        }
        let clock = self.clock(around.now);
        self.has_news = true;
        for change in changes {
            let sentence = format!("{}: {}", self.name, change.sentence());
            around.told.push(Told { decision: Some(change.decision), sentence, change: None });
            let holder = around.cluster.lease().map(|lease| lease.holder.clone());
            around.witness.decided(&self.name, change.decision, holder.as_deref(), around.now);
            self.remember(change, clock);
        }
        let at = self.time_of_day(around.cluster.clock(), around.now);
        self.hand.decided(changes, at, around.now);
        self.hand.put(self.rollout.kept(clock), around.now);
    }

    /// What the world remembers that this edge knows.
    fn remember(&mut self, change: &Change, clock: Time) {
        let Some(canary) = &change.canary else { return };
        let build = build_of(&self.route, canary);
        match change.decision {
            Decision::Rollback => {
                let is_own = change.from != PhaseName::RollingBack && change.to == PhaseName::RollingBack;
                let kept = || (canary.clone(), self.rollout.kept(clock).identity().revision.clone());
                let build = if is_own { build } else { kept() };
                self.knows.take_back(build);
            }
            Decision::Retry => self.knows.try_anew(build),
            // What has come through its bake stays, and where stable has no endpoint there is nowhere to go back to.
            Decision::Alert if matches!(change.cause, Cause::Tripped { .. } | Cause::Remembered { .. }) => {
                self.knows.try_anew(build);
            }
            Decision::Start
            | Decision::Step
            | Decision::Pause
            | Decision::Hold
            | Decision::Resume
            | Decision::Promote
            | Decision::Flip
            | Decision::Bake
            | Decision::Finish
            | Decision::RollbackDone
            | Decision::Alert
            | Decision::SetWeights
            | Decision::Edit => {}
        }
    }

    /// Its file is another one: naming a version as stable is trusting it.
    pub(super) fn trust_stable(&mut self) {
        let build: Build = build_of(&self.route, &self.route.stable);
        if self.knows.bars(&build) {
            self.knows.try_anew(build);
        }
    }

    /// The versions of its file whose build it knows to be taken back.
    pub(super) fn barred(&self) -> Vec<VersionId> {
        let versions = self.route.versions.keys();
        versions.filter(|version| self.knows.bars(&build_of(&self.route, version))).cloned().collect()
    }
}

/// What became of what a leader said.
pub(super) enum Followed {
    Applied,
    /// This edge's file is about another rollout.
    OfAnother,
    /// This edge stands further on in the same rollout.
    Later(Box<Saved>),
}
