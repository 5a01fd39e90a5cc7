//! One edge as it is seen: what it answers when it is asked, and how it divided requests when.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use pointsman_config::{Share, Split, VersionId};
use pointsman_rollout::{Change, PhaseName, Ready};
use serde::Deserialize;

use crate::live::http::Caller;

#[derive(Debug, Clone, Deserialize)]
pub(super) struct RouteAnswer {
    pub(super) phase: PhaseName,
    pub(super) stable: VersionId,
    canary: Option<VersionId>,
    pub(super) weights: BTreeMap<VersionId, Weight>,
    pub(super) versions: BTreeMap<VersionId, Version>,
    quarantined: Vec<Quarantined>,
    pub(super) last_decision: Option<Line>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub(super) struct Weight {
    desired: f64,
    effective: f64,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Version {
    pub(super) endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Endpoint {
    pub(super) state: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Quarantined {
    version: VersionId,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Line {
    pub(super) id: u64,
    at: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct DecisionsAnswer {
    pub(super) decisions: Vec<Row>,
}

#[derive(Debug, Deserialize)]
pub(super) struct SeriesAnswer {
    pub(super) now_ms: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Row {
    pub(super) id: u64,
    pub(super) at: String,
    pub(super) sentence: String,
    pub(super) change: Change,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct ConfigAnswer {
    pub(super) last_error: Option<serde_json::Value>,
    pub(super) reloads_failed: u64,
    pub(super) state: State,
    pub(super) replicas: Option<Replicas>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct State {
    pub(super) problem: Option<String>,
    #[serde(default)]
    pub(super) note: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Replicas {
    role: String,
    #[serde(default)]
    replicas: Vec<Replica>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Replica {
    heard: bool,
}

impl Replicas {
    pub(super) fn leads(&self) -> bool {
        self.role == "leader"
    }

    /// How many others it hears, as the leader.
    pub(super) fn heard(&self) -> usize {
        self.replicas.iter().filter(|replica| replica.heard).count()
    }
}

/// How requests were divided for a while.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::live) struct Division {
    pub(in crate::live) from: Instant,
    /// When it was last seen.
    pub(in crate::live) until: Instant,
    /// Who got which share beside the other one; none while one got all, or the edge was not seen.
    pub(in crate::live) canary: Option<(VersionId, Share)>,
}

/// When an edge last showed that something is wrong with its files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::live) struct Shown {
    pub(in crate::live) config: Option<Instant>,
    pub(in crate::live) state: Option<Instant>,
    /// What happened to the state and is over.
    pub(in crate::live) note: Option<Instant>,
}

/// One edge as it is seen.
#[derive(Debug)]
pub(in crate::live) struct Eye {
    pub(in crate::live) clients: SocketAddr,
    pub(super) admin: SocketAddr,
    /// Nobody expects an answer.
    pub(in crate::live) is_down: bool,
    /// When it knew nothing of what the others decided, and a little longer.
    pub(in crate::live) apart: Vec<(Instant, Option<Instant>)>,
    pub(super) last: Option<RouteAnswer>,
    pub(super) replicas: Option<Replicas>,
    /// The newest decision when its log was last read.
    pub(super) read: Option<Line>,
    /// Edits of its file that it has refused.
    pub(super) refused: u64,
    /// When it last showed a problem of its file, or of its state, or said that something had happened to its state.
    pub(in crate::live) shown: Shown,
    /// Since when something does not hold.
    pub(super) doubtful_since: Option<Instant>,
    pub(in crate::live) divisions: Vec<Division>,
}

impl Eye {
    pub(super) fn new(clients: SocketAddr, admin: SocketAddr) -> Self {
        Self {
            clients,
            admin,
            is_down: false,
            apart: Vec::new(),
            last: None,
            replicas: None,
            read: None,
            refused: 0,
            shown: Shown::default(),
            doubtful_since: None,
            divisions: Vec::new(),
        }
    }

    /// It says how it stands with its files; what is wrong with them, in words.
    pub(super) fn hear(&mut self, answer: ConfigAnswer) -> Vec<String> {
        let now = Some(Instant::now());
        let ConfigAnswer { last_error, reloads_failed, state: State { problem, note }, replicas: _ } = answer;
        self.refused = reloads_failed;
        let Shown { config, state, note: noted } = self.shown;
        self.shown = Shown {
            config: if last_error.is_some() { now } else { config },
            state: if problem.is_some() { now } else { state },
            note: if note.is_some() { now } else { noted },
        };
        let config = last_error.map(|_| "a config that was refused".to_owned());
        config.into_iter().chain(problem.map(|problem| format!("state: {problem}"))).collect()
    }

    pub(super) fn is_apart(&self, at: Instant) -> bool {
        self.apart.iter().any(|(from, until)| *from <= at && until.is_none_or(|until| at <= until))
    }

    /// What it is asked to divide by, by version.
    pub(super) fn desired(&self) -> Option<BTreeMap<VersionId, u64>> {
        let ppm = |(version, weight): (&VersionId, &Weight)| (version.clone(), share(weight.desired).ppm().into());
        Some(self.last.as_ref()?.weights.iter().map(ppm).collect())
    }

    /// An endpoint that takes no requests, if one does not.
    pub(super) fn missing(&self) -> Option<String> {
        self.last.as_ref()?.versions.iter().find_map(|(version, own)| {
            let endpoint = own.endpoints.iter().find(|endpoint| endpoint.state != "up")?;
            Some(format!("an endpoint of {version} is {}", endpoint.state))
        })
    }

    /// Where the route stands, in all that every edge should say alike.
    pub(super) fn stands(&self) -> Option<impl PartialEq + std::fmt::Debug> {
        let answer = self.last.as_ref()?;
        let barred: BTreeSet<VersionId> = answer.quarantined.iter().map(|one| one.version.clone()).collect();
        Some((answer.phase, answer.stable.clone(), self.desired()?, barred))
    }

    pub(super) fn divide(&mut self, answer: &RouteAnswer, now: Instant) {
        let canary = match answer.split() {
            Split::Canary { canary, share, .. } => Some((canary, share)),
            Split::Whole(_) => None,
        };
        match self.divisions.last_mut() {
            Some(last) if last.canary == canary => last.until = now,
            Some(_) | None => self.divisions.push(Division { from: now, until: now, canary }),
        }
    }
}

impl RouteAnswer {
    /// What is in force.
    pub(super) fn split(&self) -> Split {
        let part =
            |version: &VersionId| self.weights.get(version).map_or(Share::ZERO, |weight| share(weight.effective));
        let other = |version: &&VersionId| **version != self.stable && part(version) > Share::ZERO;
        let canary = self.canary.iter().chain(self.weights.keys()).find(other);
        canary.map_or_else(
            || Split::Whole(self.stable.clone()),
            |canary| Split::canary(self.stable.clone(), canary.clone(), part(canary)),
        )
    }

    /// Which endpoints it thinks ready.
    pub(super) fn ready(&self) -> BTreeMap<VersionId, Ready> {
        let up = |endpoints: &[Endpoint]| endpoints.iter().filter(|endpoint| endpoint.state == "up").count();
        let of = |(version, own): (&VersionId, &Version)| {
            (version.clone(), Ready { up: up(&own.endpoints), total: own.endpoints.len() })
        };
        self.versions.iter().map(of).collect()
    }
}

fn share(percent: f64) -> Share {
    let ppm = format!("{:.0}", percent * 10_000.0).parse().unwrap_or(0);
    Share::from_ppm(ppm).unwrap_or(Share::ZERO)
}

/// What one edge answers now: of its route, and of itself where others are beside it.
pub(super) async fn ask(
    caller: Caller,
    admin: SocketAddr,
    route: String,
    is_one_of_many: bool,
) -> (Option<RouteAnswer>, Option<Replicas>) {
    let path = format!("/api/v1/routes/{route}");
    let answer = caller.get::<RouteAnswer>(admin, &path).await;
    if answer.is_none() || !is_one_of_many {
        return (answer, None);
    }
    let config = caller.get::<ConfigAnswer>(admin, "/api/v1/config").await;
    (answer, config.and_then(|config| config.replicas))
}
