//! What the world itself remembers of the live Service and of several edges, and what of it does not hold: nothing here is
//! asked of the code under test.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pointsman_config::{LiveService, Route, RouteName, Share, VersionId};
use pointsman_kubernetes::annotation::{Fence, State};
use pointsman_kubernetes::{Document, Observed, OnForeign};
use pointsman_rollout::{Decision, Identity, OrderKind, PhaseName};

use super::super::cluster::{Cluster, Landed};
use super::knowledge::Knowledge;
use super::member::Member;
use crate::invariant::Broken;
use crate::memory::{KEPT_ORDER, LastOrder};

/// A picture of endpoints is no older than this where its edge hears of the API server.
const LAG: Duration = Duration::from_millis(1_500);

/// A write on its way, and what was true when it was sent.
pub(super) struct Write {
    pub(super) document: Document,
    pub(super) fence: Fence,
    /// Who sent it: which edge, and which process of it.
    pub(super) edge: usize,
    pub(super) by: String,
    pub(super) lands: Duration,
    /// Whether somebody waits for the answer.
    pub(super) is_awaited: bool,
    /// Whether it claims the Service, and leaves what is written down there.
    pub(super) is_claim: bool,
    /// What its sender was to do about somebody else's change, where it saw one.
    pub(super) on_foreign: Option<OnForeign>,
    /// Who had the sender's requests.
    pub(super) main: VersionId,
    /// What the sender knew: of builds, and as versions of its file.
    pub(super) knew: Knowledge,
    pub(super) barred: Vec<VersionId>,
    /// Versions that had ready endpoints, as of the oldest picture that the sender could have.
    pub(super) had_ready: BTreeSet<VersionId>,
}

/// What the world remembers.
pub(super) struct Witness {
    route: RouteName,
    service: LiveService,
    stable: VersionId,
    /// The largest term that has landed.
    term: u64,
    /// Who knows what stands on the Service.
    on_service: Knowledge,
    /// How often the selector was moved forward, since somebody asked for a new beginning.
    flips: BTreeMap<VersionId, u64>,
    /// How far the rollout has come, as it stands there.
    reached: Option<(Identity, Progress)>,
    /// When each version had a ready endpoint last.
    last_ready: BTreeMap<VersionId, Duration>,
    /// How many rollouts, and decisions, stood behind the state of each process that ever ran.
    depths: BTreeMap<String, (u64, u64)>,
    last_order: LastOrder,
    broken: Vec<Broken>,
    told: BTreeSet<&'static str>,
}

/// How far a rollout has come: by phase, and within the steps by the canary's share.
type Progress = (u8, Share);

impl Witness {
    pub(super) fn new(route: &Route, service: &LiveService) -> Self {
        Self {
            route: route.name.clone(),
            service: service.clone(),
            stable: route.stable.clone(),
            term: 0,
            on_service: Knowledge::default(),
            flips: BTreeMap::new(),
            reached: None,
            last_ready: BTreeMap::new(),
            depths: BTreeMap::new(),
            last_order: LastOrder::default(),
            broken: Vec::new(),
            told: BTreeSet::new(),
        }
    }

    /// Something does not hold.
    pub(super) fn found(&mut self, rule: &'static str, at: Duration, what: &str) {
        if self.told.insert(rule) {
            let said = format!("at {:.1} s: {rule}: {what}", at.as_secs_f64());
            self.broken.push(Broken { rule, said });
        }
    }

    fn hold(&mut self, rule: &'static str, at: Duration, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.found(rule, at, &what());
        }
    }

    pub(super) fn take_broken(&mut self) -> Vec<Broken> {
        std::mem::take(&mut self.broken)
    }

    /// An order was carried out, and could be kept or not.
    pub(super) fn obeyed(&mut self, kind: &OrderKind, is_kept: bool) {
        if is_kept {
            self.last_order.obeyed(kind);
        } else {
            self.last_order.forget();
        }
    }

    /// The last order that was kept, as far as it does not hold where the route rests in `phase`.
    pub(super) fn lost_order(&self, phase: PhaseName) -> Option<String> {
        self.last_order.lost(phase)
    }

    /// An edge decides something while `holder` has the Lease: nobody else goes forward.
    pub(super) fn decided(&mut self, by: &str, decision: Decision, holder: Option<&str>, now: Duration) {
        let goes_forward =
            matches!(decision, Decision::Step | Decision::Promote | Decision::Flip | Decision::Bake | Decision::Finish);
        self.hold("who decides has the Lease", now, !goes_forward || holder == Some(by), || {
            format!("{by} decided {decision:?}, and {} has the Lease", holder.unwrap_or("nobody"))
        });
        if let Some(what) = self.last_order.decided(decision) {
            self.found(KEPT_ORDER, now, &what);
        }
    }

    /// An edge stands somewhere at the end of a tick: never further back than before.
    pub(super) fn stands(&mut self, edge: &Member, now: Duration) {
        let depth = edge.rollout.depth();
        let before = self.depths.insert(edge.name.clone(), depth);
        self.hold("no edge goes back", now, before.is_none_or(|before| before <= depth), || {
            format!("{} stood at decision {before:?}, and stands at {depth:?}", edge.name)
        });
    }

    /// What whoever reads the live Service knows.
    pub(super) fn on_service(&self) -> &Knowledge {
        &self.on_service
    }

    /// Somebody asked for a new beginning: another flip is right, and the way starts anew.
    pub(super) fn begin_anew(&mut self, stable: &VersionId) {
        self.stable = stable.clone();
        self.flips.clear();
        self.reached = None;
    }

    /// The file was edited: what was ordered before is about something else.
    pub(super) fn edited(&mut self, stable: &VersionId) {
        self.begin_anew(stable);
        self.last_order.forget();
    }

    /// A tick has passed.
    pub(super) fn look(&mut self, cluster: &mut Cluster, versions: &[VersionId], now: Duration) {
        for version in versions.iter().filter(|version| cluster.has_ready(version)) {
            self.last_ready.insert(version.clone(), now);
        }
        for refused in cluster.take_refused() {
            self.found("the world itself", now, &refused);
        }
    }

    /// The versions that had a ready endpoint within the time that pictures lag behind.
    pub(super) fn had_ready_of_late(&self, now: Duration) -> BTreeSet<VersionId> {
        let is_late = |(_, at): &(&VersionId, &Duration)| now.saturating_sub(**at) <= LAG;
        self.last_ready.iter().filter(is_late).map(|(version, _)| version.clone()).collect()
    }

    /// An edge does as its leader says: it forgets of no build that it was taken back, unless it tells of that again.
    pub(super) fn heard(&mut self, edge: &Member, leader: &Knowledge, now: Duration) {
        let unheard = edge.knows.taken_back_unknown_to(leader).cloned();
        if let Some((version, _)) = unheard.filter(|_| edge.rollout.trip().is_none()) {
            self.found("nothing forgotten", now, &format!("{} forgot that {version} was taken back", edge.name));
        }
    }

    /// The leader decided to flip: every edge that serves sends everything to that version already.
    pub(super) fn flip_is_decided<'a>(
        &mut self,
        to: &VersionId,
        serving: impl Iterator<Item = &'a Member>,
        now: Duration,
    ) {
        for edge in serving {
            let applied = edge.applied();
            self.hold("traffic before the selector", now, applied.share_of(to) == Share::WHOLE, || {
                format!("{} had not moved at the flip: {applied:?}", edge.name)
            });
        }
    }

    /// A write has landed.
    pub(super) fn landed(&mut self, write: &Write, landed: &Landed, now: Duration) {
        let Write { fence, .. } = write;
        let term = self.term;
        self.hold("a stale write", now, fence.term >= term, || format!("{fence} wrote after term {term}"));
        self.term = self.term.max(fence.term);
        let is_first = landed.before.state.read().is_none();
        if is_first {
            self.on_service = Knowledge::default();
        }
        if is_first || !write.is_claim {
            self.on_service.learn(&write.knew);
        }
        self.hold_state(landed, now);
        self.hold_selection(write, landed, now);
    }

    /// What is written down never goes back behind what stood there.
    fn hold_state(&mut self, Landed { before, after }: &Landed, now: Duration) {
        let Some(state) = after.state.read() else {
            self.found("a state that can be read", now, "Pointsman wrote one that it cannot read");
            return;
        };
        let edition = |observed: &Observed| observed.state.read().map(|state| state.saved.depth().0);
        self.hold("no step backwards", now, edition(before) <= edition(after), || {
            "the state of an earlier rollout was written over that of a later one".to_owned()
        });
        let Some(progress) = progress(state) else {
            self.reached = None;
            return;
        };
        let identity = state.saved.identity().clone();
        let before = self.reached.replace((identity.clone(), progress)).filter(|(known, _)| *known == identity);
        let is_further = before.as_ref().is_none_or(|(_, before)| *before <= progress);
        self.hold("no step backwards", now, is_further, || {
            format!("it stood at {:?}, and stands at {progress:?}", before.map(|(_, before)| before))
        });
    }

    fn hold_selection(&mut self, write: &Write, Landed { before, after }: &Landed, now: Duration) {
        let left = |observed: &Observed| {
            let state = observed.state.read()?;
            state.selector.get(&self.service.selector_key).cloned()
        };
        let (from, to) = (left(before), left(after));
        let is_forward = from.as_deref() == Some(self.stable.as_str()) && to != from;
        if let Some(to) = to.filter(|_| is_forward).and_then(|to| to.parse::<VersionId>().ok()) {
            let flips = self.flips.entry(to.clone()).or_default();
            *flips += 1;
            let is_first = *flips <= 1;
            self.hold("one promotion", now, is_first, || format!("{to} was promoted a second time"));
        }
        if before.selector == after.selector {
            return;
        }
        let is_theirs = before.foreign(&self.route).is_some();
        let is_answered = matches!(write.on_foreign, Some(OnForeign::Adopt | OnForeign::Restore));
        self.hold("somebody else's change", now, is_answered || !is_theirs, || {
            "it was written over unasked".to_owned()
        });
        let Some(to) = after.selector.get(&self.service.selector_key) else { return };
        self.hold("traffic before the selector", now, write.main.as_str() == to, || {
            format!("{} selected {to} while it sent its requests to {}", write.by, write.main)
        });
        let had_ready = write.had_ready.iter().any(|version| version.as_str() == to);
        self.hold("a Service with endpoints", now, had_ready, || format!("{to} was selected without a ready endpoint"));
        let is_barred = write.barred.iter().any(|version| version.as_str() == to);
        self.hold("quarantine", now, !is_barred, || format!("{to} was taken back and is selected"));
    }
}

/// How far the rollout has come that a state tells of; none while it stands still or goes back.
fn progress(state: &State) -> Option<Progress> {
    let share = || {
        let change = state.decisions.last().map(|decided| &decided.change);
        change.and_then(|change| Some(change.after.share_of(change.canary.as_ref()?))).unwrap_or(Share::ZERO)
    };
    match state.saved.phase() {
        PhaseName::Warming => Some((0, Share::ZERO)),
        PhaseName::Shifting => Some((1, share())),
        PhaseName::Promoting => Some((2, Share::WHOLE)),
        PhaseName::Baking => Some((3, Share::WHOLE)),
        PhaseName::Steady => Some((4, Share::WHOLE)),
        PhaseName::Paused | PhaseName::RollingBack | PhaseName::RolledBack => None,
    }
}
