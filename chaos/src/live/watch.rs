//! What is seen of the edge while a scenario is played, held against the invariants of both worlds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pointsman_config::{Share, Split, VersionId};
use pointsman_rollout::{Change, Decision, PhaseName, Ready};
use serde::Deserialize;

use super::http::Caller;
use crate::invariant::{Invariants, Moment};

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

#[derive(Debug, Clone, Deserialize)]
struct RouteAnswer {
    phase: PhaseName,
    stable: VersionId,
    canary: Option<VersionId>,
    weights: BTreeMap<VersionId, Weight>,
    versions: BTreeMap<VersionId, Version>,
    quarantined: Vec<Quarantined>,
    last_decision: Option<Line>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
struct Weight {
    desired: f64,
    effective: f64,
}

#[derive(Debug, Clone, Deserialize)]
struct Version {
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, Deserialize)]
struct Endpoint {
    state: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Quarantined {
    version: VersionId,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Line {
    id: u64,
}

#[derive(Debug, Deserialize)]
struct DecisionsAnswer {
    decisions: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    id: u64,
    sentence: String,
    change: Change,
}

#[derive(Debug, Deserialize)]
struct ConfigAnswer {
    last_error: Option<serde_json::Value>,
    state: State,
}

#[derive(Debug, Deserialize)]
struct State {
    problem: Option<String>,
}

/// How requests were divided for a while.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Division {
    pub(super) from: Instant,
    /// When it was last seen.
    pub(super) until: Instant,
    /// Who got which share beside the other one; none while one got all, or the edge was not seen.
    pub(super) canary: Option<(VersionId, f64)>,
}

/// What is seen of the edge.
#[derive(Debug)]
pub(super) struct Watcher {
    caller: Caller,
    admin: SocketAddr,
    route: String,
    began: Instant,
    pub(super) invariants: Invariants,
    /// Since when something does not hold.
    doubtful_since: Option<Instant>,
    last: Option<RouteAnswer>,
    /// When it was last seen as it was meant to be until then.
    looked: Instant,
    last_decision: u64,
    /// Rollouts that began: each may be promoted once.
    trial: u64,
    pub(super) trace: Vec<String>,
    pub(super) taken_back: Option<Instant>,
    pub(super) promoted: Option<Instant>,
    /// When something out of the plan was first seen.
    pub(super) noticed: Option<Instant>,
    /// Since when a version gets nothing, until when.
    pub(super) banned: Vec<(VersionId, Instant, Option<Instant>)>,
    pub(super) divisions: Vec<Division>,
    pub(super) problems: BTreeSet<String>,
}

impl Watcher {
    pub(super) fn new(admin: SocketAddr, route: &str, began: Instant) -> Self {
        Self {
            caller: Caller::new(),
            admin,
            route: route.to_owned(),
            began,
            invariants: Invariants::default(),
            doubtful_since: None,
            last: None,
            looked: began,
            last_decision: 0,
            trial: 0,
            trace: Vec::new(),
            taken_back: None,
            promoted: None,
            noticed: None,
            banned: Vec::new(),
            divisions: Vec::new(),
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

    pub(super) fn phase(&self) -> Option<PhaseName> {
        self.last.as_ref().map(|answer| answer.phase)
    }

    /// What the edge is asked to divide by, and its newest decision.
    pub(super) fn standing(&self) -> Option<(BTreeMap<VersionId, u64>, u64)> {
        let answer = self.last.as_ref()?;
        let ppm = |(version, weight): (&VersionId, &Weight)| (version.clone(), share(weight.desired).ppm().into());
        Some((answer.weights.iter().map(ppm).collect(), answer.last_decision.map_or(0, |line| line.id)))
    }

    /// Its state file is another one from now on: what was decided is not known any more.
    pub(super) fn forget(&mut self) {
        self.last_decision = 0;
        self.last = None;
        self.invariants.begin_anew();
        self.lift(&BTreeSet::new());
    }

    /// An endpoint that takes no requests, if one does not.
    pub(super) fn missing(&self) -> Option<String> {
        let answer = self.last.as_ref()?;
        answer.versions.iter().find_map(|(version, own)| {
            let endpoint = own.endpoints.iter().find(|endpoint| endpoint.state != "up")?;
            Some(format!("an endpoint of {version} is {}", endpoint.state))
        })
    }

    /// One look; nothing of an edge that does not answer. Something is noticed only from `harm` on.
    pub(super) async fn look(&mut self, harm: Option<Instant>) -> bool {
        let path = format!("/api/v1/routes/{}", self.route);
        let now = Instant::now();
        let Some(answer) = self.caller.get::<RouteAnswer>(self.admin, &path).await else { return false };
        if answer.last_decision.is_some_and(|line| line.id > self.last_decision) {
            self.read_decisions(harm).await;
        }
        if harm.is_some() && answer.versions.values().flat_map(|own| &own.endpoints).any(|one| one.state != "up") {
            self.notice("an endpoint is not up");
        }
        self.ban(&answer, now);
        self.divide(&answer, now);
        self.hold_up(&answer, now);
        self.last = Some(answer);
        self.looked = now;
        true
    }

    /// What is wrong with config or state, for as long as it is.
    pub(super) async fn look_at_files(&mut self, harm: Option<Instant>) -> Vec<String> {
        let Some(answer) = self.caller.get::<ConfigAnswer>(self.admin, "/api/v1/config").await else {
            return Vec::new();
        };
        let mut wrong = Vec::new();
        wrong.extend(answer.last_error.map(|_| "a config that was refused".to_owned()));
        wrong.extend(answer.state.problem.map(|problem| format!("state: {problem}")));
        if let (Some(_), Some(first)) = (harm, wrong.first()) {
            let first = first.clone();
            self.notice(&first);
        }
        self.problems.extend(wrong.iter().cloned());
        wrong
    }

    /// Requests that the edge has counted: those of versions, and those that it answered itself.
    pub(super) async fn counted(&self) -> Option<u64> {
        let text = self.caller.text(self.admin, "/metrics").await?;
        let is_early = |line: &str| BEFORE_A_VERSION.iter().any(|code| line.contains(&format!("code=\"{code}\"")));
        let is_count = |line: &&str| {
            line.starts_with("pointsman_requests_total{")
                || (line.starts_with("pointsman_refusals_total{") && is_early(line))
        };
        let value = |line: &str| line.rsplit(' ').next().and_then(|number| number.parse::<f64>().ok());
        let sum: f64 = text.lines().filter(is_count).filter_map(value).sum();
        format!("{sum:.0}").parse().ok()
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

    pub(super) fn broke(&mut self, what: &str) {
        self.invariants.found(self.began.elapsed(), what);
    }

    async fn read_decisions(&mut self, harm: Option<Instant>) {
        let path = format!("/api/v1/routes/{}/decisions?limit=200", self.route);
        let Some(DecisionsAnswer { mut decisions }) = self.caller.get(self.admin, &path).await else { return };
        decisions.retain(|row| row.id > self.last_decision);
        decisions.sort_by_key(|row| row.id);
        for row in decisions {
            self.last_decision = row.id;
            self.take_in(&row, harm);
        }
    }

    fn take_in(&mut self, Row { sentence, change, .. }: &Row, harm: Option<Instant>) {
        self.tell(sentence);
        let now = Instant::now();
        match change.decision {
            Decision::Rollback => self.taken_back = self.taken_back.or(Some(now)),
            Decision::Promote => self.promoted = self.promoted.or(Some(now)),
            Decision::Start | Decision::Retry | Decision::Edit | Decision::SetWeights => self.trial += 1,
            Decision::Step
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
        self.invariants.changed(self.began.elapsed(), change, self.trial);
    }

    fn ban(&mut self, answer: &RouteAnswer, now: Instant) {
        let banned: BTreeSet<VersionId> = answer.quarantined.iter().map(|one| one.version.clone()).collect();
        self.lift(&banned);
        let open: BTreeSet<VersionId> =
            self.banned.iter().filter(|(.., until)| until.is_none()).map(|(version, ..)| version.clone()).collect();
        self.banned.extend(banned.difference(&open).map(|version| (version.clone(), now, None)));
        self.invariants.quarantine(banned.into_iter().collect());
    }

    /// Those that are banned no longer.
    fn lift(&mut self, still: &BTreeSet<VersionId>) {
        // It may have been lifted any time since the look before.
        let until = self.looked;
        for (version, _, end) in &mut self.banned {
            if end.is_none() && !still.contains(version) {
                *end = Some(until);
            }
        }
    }

    fn divide(&mut self, answer: &RouteAnswer, now: Instant) {
        let canary = match split(answer) {
            Split::Canary { canary, share, .. } => Some((canary, share.ratio())),
            Split::Whole(_) => None,
        };
        match self.divisions.last_mut() {
            Some(last) if last.canary == canary => last.until = now,
            Some(_) | None => self.divisions.push(Division { from: now, until: now, canary }),
        }
    }

    /// Holds one moment against the invariants.
    fn hold_up(&mut self, answer: &RouteAnswer, now: Instant) {
        let up = |endpoints: &[Endpoint]| endpoints.iter().filter(|endpoint| endpoint.state == "up").count();
        let of = |(version, own): (&VersionId, &Version)| {
            (version.clone(), Ready { up: up(&own.endpoints), total: own.endpoints.len() })
        };
        let ready = answer.versions.iter().map(of).collect();
        let moment = Moment { at: self.began.elapsed(), split: &split(answer), ready: &ready, stable: &answer.stable };
        if self.invariants.holds_at(&moment) {
            self.doubtful_since = None;
        } else if now.duration_since(*self.doubtful_since.get_or_insert(now)) >= STANDS_FOR {
            self.invariants.look(&moment);
        }
    }
}

/// What is in force.
fn split(answer: &RouteAnswer) -> Split {
    let part = |version: &VersionId| answer.weights.get(version).map_or(Share::ZERO, |weight| share(weight.effective));
    let other = |version: &&VersionId| **version != answer.stable && part(version) > Share::ZERO;
    let canary = answer.canary.iter().chain(answer.weights.keys()).find(other);
    canary.map_or_else(
        || Split::Whole(answer.stable.clone()),
        |canary| Split::canary(answer.stable.clone(), canary.clone(), part(canary)),
    )
}

fn share(percent: f64) -> Share {
    let ppm = format!("{:.0}", percent * 10_000.0).parse().unwrap_or(0);
    Share::from_ppm(ppm).unwrap_or(Share::ZERO)
}
