//! What is seen of the edges while a scenario is played, held against the invariants of both worlds.
//!
//! Each edge is looked at for itself; decisions of all of them make one story. Who was taken back, and who may be promoted
//! again, is what the world itself remembers of that story.

mod eye;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use pointsman_config::{Route, VersionId};
use pointsman_rollout::{Change, Decision, OrderKind, PhaseName};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinSet;

use super::http::Caller;
use crate::invariant::{Invariants, Moment};
use crate::memory::{KEPT_ORDER, LastOrder, Memory};
use eye::{ConfigAnswer, DecisionsAnswer, Line, Replicas, RouteAnswer, Row, SeriesAnswer, ask};
pub(super) use eye::{Division, Eye, Shown};

/// What the edge answers before any version is chosen; every other refusal is counted with its version as well.
const BEFORE_A_VERSION: [&str; 9] = [
    "bad_request",
    "no_route",
    "method_not_allowed",
    "request_timeout",
    "body_too_large",
    "uri_too_long",
    "headers_too_large",
    "http_version_not_supported",
    "rate_limited",
];

/// What does not hold at one moment may be a request that is under way; what does not hold for so long is broken.
const STANDS_FOR: Duration = Duration::from_secs(1);
/// An edit is in force after so long, whether or not anything is decided for it.
const EDITED_WITHIN: Duration = Duration::from_secs(3);
/// An edge that was cut off does as the others do within so long after it can be reached again, on a machine that others use.
const CATCHES_UP_WITHIN: Duration = Duration::from_secs(3);

/// What is seen of the edges.
#[derive(Debug)]
pub(super) struct Watcher {
    caller: Caller,
    route: String,
    began: Instant,
    pub(super) eyes: Vec<Eye>,
    /// Who leads, as far as is known.
    leader: Option<usize>,
    /// Since when more than one says that it leads.
    two_lead_since: Option<Instant>,
    pub(super) invariants: Invariants,
    memory: Memory,
    /// An edit that no decision has followed yet, and when it was made: what is decided before that is about the former build.
    pending: Option<(Arc<Route>, Instant)>,
    /// Decisions that were read, by when they were made and what they were: an edge that takes over tells of them again.
    known: BTreeSet<(String, String)>,
    /// What edges took back that the others do not hear at present: nobody else is held to it until they can.
    unheard: Vec<(usize, Change)>,
    /// The last order that was kept, and when it was carried out: what was decided before that says nothing against it.
    last_order: LastOrder,
    obeyed_at: Option<SystemTime>,
    /// Whose decision was read last.
    told_by: Option<usize>,
    pub(super) trace: Vec<String>,
    pub(super) taken_back: Option<Instant>,
    /// When anything was taken back, each time.
    pub(super) rollbacks: Vec<Instant>,
    pub(super) promoted: Option<Instant>,
    /// When something out of the plan was first seen.
    pub(super) noticed: Option<Instant>,
    /// Since when a version gets nothing, until when.
    pub(super) banned: Vec<(VersionId, Instant, Option<Instant>)>,
    pub(super) problems: BTreeSet<String>,
}

impl Watcher {
    /// Of edges where clients reach them, and operators.
    pub(super) fn new(edges: &[(SocketAddr, SocketAddr)], route: &Arc<Route>, began: Instant) -> Self {
        Self {
            caller: Caller::new(),
            route: route.name.to_string(),
            began,
            eyes: edges.iter().map(|(clients, admin)| Eye::new(*clients, *admin)).collect(),
            leader: None,
            two_lead_since: None,
            invariants: Invariants::default(),
            memory: Memory::new(route),
            pending: None,
            known: BTreeSet::new(),
            unheard: Vec::new(),
            last_order: LastOrder::default(),
            obeyed_at: None,
            told_by: None,
            trace: Vec::new(),
            taken_back: None,
            rollbacks: Vec::new(),
            promoted: None,
            noticed: None,
            banned: Vec::new(),
            problems: BTreeSet::new(),
        }
    }

    /// Time runs from now on.
    pub(super) fn begin(&mut self, began: Instant) {
        self.began = began;
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Who leads; the only one, where there is one.
    pub(super) fn leader(&self) -> Option<usize> {
        self.leader
    }

    /// As the leader says, else as somebody says who is there.
    pub(super) fn phase(&self) -> Option<PhaseName> {
        let of = |eye: &Eye| eye.last.as_ref().map(|answer| answer.phase);
        let leader = self.leader.and_then(|leader| self.eyes.get(leader));
        leader.or_else(|| self.eyes.iter().find(|eye| !eye.is_down)).or(self.eyes.first()).and_then(of)
    }

    /// The version in production, in the same way.
    pub(super) fn stable(&self) -> Option<VersionId> {
        let eye = self.leader.and_then(|leader| self.eyes.get(leader)).or(self.eyes.first())?;
        eye.last.as_ref().map(|answer| answer.stable.clone())
    }

    /// What an edge that is alone is asked to divide by, and its newest decision.
    pub(super) fn standing(&self) -> Option<(BTreeMap<VersionId, u64>, u64)> {
        let [eye] = self.eyes.as_slice() else { return None };
        let newest = eye.last.as_ref()?.last_decision.as_ref().map_or(0, |line| line.id);
        Some((eye.desired()?, newest))
    }

    /// What an edge kept is another thing from now on: the next decision may start anywhere, and promote once more.
    pub(super) fn forget(&mut self) {
        for eye in &mut self.eyes {
            (eye.last, eye.read) = (None, None);
        }
        self.invariants.begin_anew();
        self.invariants.quarantine(self.memory.barred());
    }

    /// An edge is meant to be down, or is to be there again.
    pub(super) fn expect(&mut self, number: usize, is_down: bool) {
        if let Some(eye) = self.eyes.get_mut(number) {
            eye.is_down = is_down;
            eye.replicas = None;
        }
        self.leader = self.leader.filter(|leader| *leader != number || !is_down);
    }

    /// An edge hears nothing of the others, or can be reached again.
    pub(super) fn set_apart(&mut self, number: usize, is_apart: bool) {
        let Some(eye) = self.eyes.get_mut(number) else { return };
        let now = Instant::now();
        if is_apart {
            eye.apart.push((now, None));
        } else if let Some((_, until)) = eye.apart.last_mut() {
            *until = Some(now + CATCHES_UP_WITHIN);
        }
    }

    /// What an edge took back alone the others hear as soon as it can be reached.
    fn hear_of_rollbacks(&mut self) {
        let now = Instant::now();
        let eyes = &self.eyes;
        let is_heard = |(number, _): &mut (usize, Change)| !eyes.get(*number).is_some_and(|eye| eye.is_apart(now));
        let heard: Vec<_> = self.unheard.extract_if(.., is_heard).collect();
        for (_, change) in &heard {
            self.memory.decided(change);
        }
        if !heard.is_empty() {
            self.bar(now);
        }
    }

    /// An operator's order was carried out, that was given at this moment, and kept or not.
    pub(super) fn obeyed(&mut self, kind: &OrderKind, (given, is_kept): (Instant, bool)) {
        self.memory.obeyed(kind);
        self.bar(given);
        self.obeyed_at = Some(SystemTime::now());
        if is_kept {
            self.last_order.obeyed(kind);
        } else {
            self.last_order.forget();
        }
    }

    /// The last order that was kept, as far as it does not hold.
    pub(super) fn lost_order(&self) -> Option<String> {
        self.last_order.lost(self.phase()?)
    }

    /// The file was edited.
    pub(super) fn edited(&mut self, route: &Arc<Route>, at: Instant) {
        self.take_in_edit();
        self.pending = Some((Arc::clone(route), at));
        self.last_order.forget();
    }

    /// The edit is in force.
    fn take_in_edit(&mut self) {
        if let Some((route, at)) = self.pending.take() {
            self.memory.edited(&route);
            self.bar(at);
        }
    }

    /// An endpoint that takes no requests, if one does not.
    pub(super) fn missing(&self) -> Option<String> {
        self.eyes.iter().find_map(Eye::missing)
    }

    /// Whether one leads and hears all the others.
    pub(super) fn is_gathered(&self) -> bool {
        let Some(leader) = self.leader.and_then(|leader| self.eyes.get(leader)) else { return false };
        let heard = leader.replicas.as_ref().map_or(0, Replicas::heard);
        heard + 1 == self.eyes.len()
    }

    /// What edges that are there do not agree on.
    pub(super) fn disagreements(&self) -> Vec<String> {
        if self.eyes.len() == 1 {
            return Vec::new();
        }
        let Some(leader) = self.leader.and_then(|leader| self.eyes.get(leader)) else {
            return vec!["nobody leads".to_owned()];
        };
        let mut wrong: Vec<String> = self
            .eyes
            .iter()
            .filter(|eye| eye.stands() != leader.stands())
            .map(|eye| format!("one edge stands at {:?}, and the leader at {:?}", eye.stands(), leader.stands()))
            .collect();
        if !self.is_gathered() {
            wrong.push("the leader does not hear every edge".to_owned());
        }
        wrong
    }

    /// One look; false where an edge does not answer that should. Something is noticed only from `harm` on.
    pub(super) async fn look(&mut self, harm: Option<Instant>) -> bool {
        if self.pending.as_ref().is_some_and(|(_, at)| at.elapsed() > EDITED_WITHIN) {
            self.take_in_edit();
        }
        self.hear_of_rollbacks();
        let mut asked = JoinSet::new();
        let is_one_of_many = self.eyes.len() > 1;
        for (number, eye) in self.eyes.iter().enumerate().filter(|(_, eye)| !eye.is_down) {
            let asking = ask(self.caller.clone(), eye.admin, self.route.clone(), is_one_of_many);
            asked.spawn(async move { (number, asking.await) });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(number, _)| *number);
        let mut have_all_answered = true;
        for (number, (answer, replicas)) in answers {
            if let Some(eye) = self.eyes.get_mut(number) {
                eye.replicas = replicas;
            }
            match answer {
                Some(answer) => self.take(number, answer, harm).await,
                None => have_all_answered = false,
            }
        }
        self.see_who_leads(harm);
        have_all_answered
    }

    async fn take(&mut self, number: usize, answer: RouteAnswer, harm: Option<Instant>) {
        let now = Instant::now();
        let read = self.eyes.get(number).and_then(|eye| eye.read.as_ref());
        let newest = |line: Option<&Line>| line.map_or(0, |line| line.id);
        let has_forgotten = newest(answer.last_decision.as_ref()) < newest(read);
        if answer.last_decision.is_some() && answer.last_decision.as_ref() != read {
            self.read_decisions(number, harm).await;
        }
        if self.eyes.len() == 1 && has_forgotten {
            let said = "the newest decision is older than the one before: the state was lost";
            self.broke("what was decided is kept", said);
        }
        if harm.is_some() && answer.versions.values().flat_map(|own| &own.endpoints).any(|one| one.state != "up") {
            self.notice("an endpoint is not up");
        }
        let is_apart = self.eyes.get(number).is_some_and(|eye| eye.is_apart(now));
        if !is_apart {
            self.hold_up(number, &answer, now);
        }
        if let Some(eye) = self.eyes.get_mut(number) {
            eye.divide(&answer, now);
            eye.read.clone_from(&answer.last_decision);
            eye.last = Some(answer);
        }
    }

    fn see_who_leads(&mut self, harm: Option<Instant>) {
        if self.eyes.len() == 1 {
            self.leader = Some(0);
            return;
        }
        let leads = |eye: &Eye| !eye.is_down && eye.replicas.as_ref().is_some_and(Replicas::leads);
        let leaders: Vec<usize> =
            self.eyes.iter().enumerate().filter(|(_, eye)| leads(eye)).map(|(number, _)| number).collect();
        let now = Instant::now();
        if leaders.len() > 1 {
            if now.duration_since(*self.two_lead_since.get_or_insert(now)) >= STANDS_FOR {
                self.invariants.led_by(self.began.elapsed(), &leaders);
            }
            return;
        }
        self.two_lead_since = None;
        let leader = leaders.first().copied();
        if leader != self.leader {
            match leader {
                Some(leader) => self.tell(&format!("edge {leader} leads")),
                None => self.tell("nobody leads"),
            }
            if harm.is_some() {
                self.notice("another edge leads, or none");
            }
        }
        self.leader = leader;
    }

    /// What is wrong with config or state, for as long as it is.
    pub(super) async fn look_at_files(&mut self, harm: Option<Instant>) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.eyes.len() > 1 {
            // What an edge decides alone is not the newest decision that it shows, which is the leader's.
            for number in 0..self.eyes.len() {
                self.read_decisions(number, harm).await;
            }
        }
        for eye in self.eyes.iter_mut().filter(|eye| !eye.is_down) {
            match self.caller.get::<ConfigAnswer>(eye.admin, "/api/v1/config").await {
                Some(answer) => wrong.extend(eye.hear(answer)),
                None => wrong.push("an edge that does not say how it stands".to_owned()),
            }
        }
        if let (Some(_), Some(first)) = (harm, wrong.first()) {
            let first = first.clone();
            self.notice(&first);
        }
        self.problems.extend(wrong.iter().cloned());
        wrong
    }

    /// Requests that the edges have counted: those of versions, and those that they answered themselves.
    pub(super) async fn counted(&self) -> Option<u64> {
        let mut sum = 0.0;
        for eye in &self.eyes {
            sum += counted_in(&self.caller.text(eye.admin, "/metrics").await?);
        }
        format!("{sum:.0}").parse().ok()
    }

    /// How many edits of their files the edges have refused since they were started.
    pub(super) fn refused(&self) -> u64 {
        self.eyes.iter().map(|eye| eye.refused).sum()
    }

    /// What clock an edge has.
    pub(super) async fn clock(&self, number: usize) -> Option<SystemTime> {
        let path = format!("/api/v1/routes/{}/series", self.route);
        let SeriesAnswer { now_ms } = self.caller.get(self.eyes.get(number)?.admin, &path).await?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(now_ms))
    }

    fn notice(&mut self, what: &str) {
        if self.noticed.is_none() {
            self.noticed = Some(Instant::now());
            self.tell(&format!("noticed: {what}"));
        }
    }

    pub(super) fn tell(&mut self, what: &str) {
        self.trace.push(format!("{:>8.2} s  {what}", self.began.elapsed().as_secs_f64()));
    }

    pub(super) fn broke(&mut self, rule: &'static str, what: &str) {
        self.invariants.found_as(rule, self.began.elapsed(), what);
    }

    async fn read_decisions(&mut self, number: usize, harm: Option<Instant>) {
        let Some(admin) = self.eyes.get(number).filter(|eye| !eye.is_down).map(|eye| eye.admin) else { return };
        let path = format!("/api/v1/routes/{}/decisions?limit=200", self.route);
        let Some(DecisionsAnswer { mut decisions }) = self.caller.get(admin, &path).await else { return };
        decisions.sort_by_key(|row| row.id);
        for row in decisions {
            let key = (row.at.clone(), format!("{:?} {} {}", row.change.decision, row.change.from, row.change.to));
            if self.known.insert(key) {
                self.take_in(number, &row, harm);
            }
        }
    }

    fn take_in(&mut self, number: usize, Row { sentence, change, at, .. }: &Row, harm: Option<Instant>) {
        self.hold_order(change.decision, at);
        let who = if self.eyes.len() > 1 { format!("edge {number}: ") } else { String::new() };
        self.tell(&format!("{who}{sentence}"));
        let now = Instant::now();
        match change.decision {
            Decision::Rollback => {
                self.taken_back = self.taken_back.or(Some(now));
                self.rollbacks.push(now);
            }
            Decision::Promote => self.promoted = self.promoted.or(Some(now)),
            Decision::Start
            | Decision::Retry
            | Decision::Edit
            | Decision::SetWeights
            | Decision::Step
            | Decision::Pause
            | Decision::Hold
            | Decision::Resume
            | Decision::Flip
            | Decision::Bake
            | Decision::Finish
            | Decision::RollbackDone
            | Decision::Alert => {}
        }
        if harm.is_some()
            && matches!(change.decision, Decision::Rollback | Decision::Alert | Decision::Hold | Decision::Pause)
        {
            self.notice("a decision against the canary");
        }
        self.remember(number, change, now);
    }

    /// What was decided after the last order does not go against it.
    fn hold_order(&mut self, decision: Decision, at: &str) {
        let at = OffsetDateTime::parse(at, &Rfc3339).ok().map(SystemTime::from);
        let is_later = self.obeyed_at.zip(at).is_some_and(|(obeyed, at)| at > obeyed);
        if let Some(what) = is_later.then(|| self.last_order.decided(decision)).flatten() {
            self.broke(KEPT_ORDER, &what);
        }
    }

    fn remember(&mut self, number: usize, change: &Change, now: Instant) {
        if matches!(change.decision, Decision::Start | Decision::Edit) {
            self.take_in_edit();
        }
        if change.decision == Decision::Rollback && self.eyes.get(number).is_some_and(|eye| eye.is_apart(now)) {
            self.unheard.push((number, change.clone()));
        } else {
            self.memory.decided(change);
            self.bar(now);
        }
        if self.told_by.replace(number).is_some_and(|former| former != number) {
            // An edge goes on from what it has heard, which may be less than what another one decided last.
            self.invariants.told_by_another();
        }
        self.invariants.changed(self.began.elapsed(), change, self.memory.beginnings());
    }

    /// Who must get nothing from now on, and who may get something again since `lifted`.
    fn bar(&mut self, lifted: Instant) {
        let now = Instant::now();
        let barred: BTreeSet<VersionId> = self.memory.barred().into_iter().collect();
        for (version, _, end) in &mut self.banned {
            if end.is_none() && !barred.contains(version) {
                *end = Some(lifted);
            }
        }
        let open: BTreeSet<VersionId> =
            self.banned.iter().filter(|(.., until)| until.is_none()).map(|(version, ..)| version.clone()).collect();
        self.banned.extend(barred.difference(&open).map(|version| (version.clone(), now, None)));
        self.invariants.quarantine(barred.into_iter().collect());
    }

    /// Holds one moment against the invariants.
    fn hold_up(&mut self, number: usize, answer: &RouteAnswer, now: Instant) {
        let (split, ready) = (answer.split(), answer.ready());
        let moment = Moment { at: self.began.elapsed(), split: &split, ready: &ready, stable: &answer.stable };
        let holds = self.invariants.holds_at(&moment);
        let Some(eye) = self.eyes.get_mut(number) else { return };
        if holds {
            eye.doubtful_since = None;
        } else if now.duration_since(*eye.doubtful_since.get_or_insert(now)) >= STANDS_FOR {
            self.invariants.look(&moment);
        }
    }
}

/// What an exposition counts of requests.
fn counted_in(text: &str) -> f64 {
    let is_early = |line: &str| BEFORE_A_VERSION.iter().any(|code| line.contains(&format!("code=\"{code}\"")));
    let is_count = |line: &&str| {
        line.starts_with("pointsman_requests_total{")
            || (line.starts_with("pointsman_refusals_total{") && is_early(line))
    };
    let value = |line: &str| line.rsplit(' ').next().and_then(|number| number.parse::<f64>().ok());
    text.lines().filter(is_count).filter_map(value).sum()
}
