//! What may happen to a route: time passes, the file is edited, an operator gives an order.

use std::collections::BTreeMap;
use std::sync::Arc;

use pointsman_config::{Route, Split, VersionId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::findings::Gate;
use crate::phase::PhaseName;
use crate::service::{NOBODY_LOOKED, ServiceSeen, WayBack};
use crate::tally::{Drawn, MirrorTally, Requests, Row};

/// One thing that happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A tick of 100 ms has passed.
    Tick(&'a Seen<'a>),
    /// The route's part of the config file has changed.
    Edit(Arc<Route>),
    /// An operator's order.
    Order(&'a Order),
}

/// What was seen during one tick.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Outcomes that became known.
    pub rows: &'a [Observed],
    /// Which endpoints are ready, by version.
    pub ready: &'a BTreeMap<VersionId, Ready>,
    /// The split that the edge applies.
    pub applied: &'a Split,
    /// What became known of copied requests.
    pub mirrored: &'a [Mirrored],
    /// The live Service, for a route that has one; none while nothing was seen of it.
    pub service: Option<&'a ServiceSeen>,
    /// Whether every edge that serves the route applies what is granted, this one included.
    pub acknowledged: bool,
    /// Whether the way back is proven; asked only where there is a live Service.
    pub way_back: &'a WayBack,
    /// How many edges serve the route, this one included: what each may trip on alone is shared among them.
    pub edges: usize,
    /// Every question that the route's guard has others answer about the canary, and the last answers.
    pub gates: &'a [Gate],
}

impl<'a> Seen<'a> {
    /// What the only edge of a route without a live Service and without gates sees.
    pub fn alone(
        rows: &'a [Observed],
        ready: &'a BTreeMap<VersionId, Ready>,
        applied: &'a Split,
        mirrored: &'a [Mirrored],
    ) -> Self {
        Self {
            rows,
            ready,
            applied,
            mirrored,
            service: None,
            acknowledged: true,
            way_back: &NOBODY_LOOKED,
            edges: 1,
            gates: &[],
        }
    }
}

/// A row, and the versions that its two sides stand for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Who took the rest.
    pub stable: VersionId,
    /// Who took the row's weight.
    pub canary: Option<VersionId>,
    /// The trial ([`Rollout::trial`](crate::Rollout::trial)) in which these requests were assigned: what a former build
    /// of the canary still owes says nothing about the present one.
    pub trial: u64,
    /// The counts.
    pub row: Row,
    /// The same by request, where the units of the row are users; none where they are requests.
    pub requests: Option<Requests>,
    /// Whom chance gave to which side meanwhile, under the same weight; their outcomes come later.
    pub drawn: Drawn,
}

/// Copies of stable's requests whose answers became known, and who gave them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrored {
    /// Whose requests were copied.
    pub stable: VersionId,
    /// Who got the copies.
    pub version: VersionId,
    /// What was found.
    pub tally: MirrorTally,
}

/// How many endpoints of a version are ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Those that answered their last checks.
    pub up: usize,
    /// All of them.
    pub total: usize,
}

/// What an operator wants, who, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What.
    pub kind: OrderKind,
    /// Who.
    pub actor: String,
    /// Why; may be empty.
    pub reason: String,
}

/// What an operator can order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderKind {
    /// Give the canary all traffic now.
    Promote,
    /// The same, although the calendar says that nothing goes forward now.
    ForcePromotion,
    /// Take the canary back now.
    Rollback,
    /// Stop where the rollout stands.
    Pause,
    /// Go on.
    Resume(Resume),
    /// Lift the quarantine of a version.
    Retry(VersionId),
    /// Set the weights by hand, until the next change of the route in the file.
    SetWeights(Split),
}

/// What counts when a rollout goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resume {
    /// Where it stood; nobody else has changed the live Service.
    #[default]
    GoOn,
    /// What somebody else made of the live Service.
    Adopt,
    /// What it was before somebody else changed it.
    Restore,
}

/// Why an order was refused, and the way out. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// There is nothing to promote, pause or resume.
    #[error(
        "`{route}` has no rollout that can {verb}; it is {phase}. Weights by hand are changed in the config file or with `pointsman weights`"
    )]
    NoRollout {
        /// The route.
        route: String,
        /// What was asked.
        verb: &'static str,
        /// Its phase.
        phase: PhaseName,
    },
    /// The phase does not allow it.
    #[error("`{route}` is {phase} and cannot {verb}; {way_out}")]
    WrongPhase {
        /// The route.
        route: String,
        /// What was asked.
        verb: &'static str,
        /// Its phase.
        phase: PhaseName,
        /// What to do instead.
        way_out: String,
    },
    /// No version but stable has traffic.
    #[error("all traffic of `{route}` is on `{stable}` already; there is nothing to take back")]
    NothingToTakeBack {
        /// The route.
        route: String,
        /// Who serves.
        stable: VersionId,
    },
    /// The version was taken back.
    #[error(
        "`{version}` was taken back ({why}); lift its quarantine first: `pointsman retry {route} {version}`, or give it a new revision"
    )]
    Quarantined {
        /// The route.
        route: String,
        /// The version.
        version: VersionId,
        /// Why.
        why: String,
    },
    /// The version is not in quarantine.
    #[error("`{version}` is not in quarantine on `{route}`; `pointsman status {route}` shows what is")]
    NotQuarantined {
        /// The route.
        route: String,
        /// The version.
        version: VersionId,
    },
    /// The route does not know the version.
    #[error("`{route}` has no version `{version}`; it has {known}")]
    UnknownVersion {
        /// The route.
        route: String,
        /// The version.
        version: VersionId,
        /// Those it has.
        known: String,
    },
    /// The version that would take all traffic cannot.
    #[error(
        "`{version}` has no ready endpoint, so it cannot take the traffic of `{route}`; start one, or look at `pointsman status {route}`"
    )]
    NotReady {
        /// The route.
        route: String,
        /// The version.
        version: VersionId,
    },
    /// There is no version to go back to.
    #[error(
        "`{stable}` has no ready endpoint, so going back would be an outage; start it, or insist with `pointsman weights {route} {stable}=100%`"
    )]
    NoWayBack {
        /// The route.
        route: String,
        /// The version that traffic would go back to.
        stable: VersionId,
    },
    /// The way back is not proven.
    #[error(
        "`{route}` is not promoted, since its way back is not proven: {why}; `pointsman status {route}` shows when it is"
    )]
    NoProvenWayBack {
        /// The route.
        route: String,
        /// What is missing.
        why: String,
    },
    /// Somebody else changed the live Service.
    #[error(
        "{by} changed the live Service of `{route}` ({what}); say what counts: `pointsman resume {route} --adopt` or `--restore`"
    )]
    ForeignChange {
        /// The route.
        route: String,
        /// Who.
        by: String,
        /// What.
        what: String,
    },
    /// Nobody else changed the live Service.
    #[error(
        "nobody else has changed the live Service of `{route}`; `pointsman resume {route}` goes on without `--adopt` or `--restore`"
    )]
    NothingForeign {
        /// The route.
        route: String,
    },
    /// What somebody else made of the live Service is none of the states of this rollout.
    #[error(
        "the live Service of `{route}` cannot stay as it is: {why}; `pointsman resume {route} --restore` puts it back"
    )]
    NotAdoptable {
        /// The route.
        route: String,
        /// Why.
        why: String,
    },
    /// Another edge decides.
    #[error(
        "this edge follows another one, which decides for `{route}`; give the order to the leader, `pointsman status` names it. A rollback is obeyed by every edge"
    )]
    Follows {
        /// The route.
        route: String,
    },
    /// This edge leads without the newest file.
    #[error(
        "the live Service of `{route}` stands as a newer config file has it than that of this edge, which leads; bring the newer file here, or the older one to every edge, and order again"
    )]
    OlderFile {
        /// The route.
        route: String,
    },
    /// The weights do not name the file's stable version.
    #[error(
        "one of the two versions must be the file's stable one, `{stable}`, with which the other is compared; to compare others, name another `stable` in the file first"
    )]
    WithoutStable {
        /// The version in production.
        stable: VersionId,
    },
}

impl Refusal {
    /// A fixed word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoRollout { .. } => "no_rollout",
            Self::WrongPhase { .. } => "wrong_phase",
            Self::NothingToTakeBack { .. } => "nothing_to_take_back",
            Self::Quarantined { .. } => "quarantined",
            Self::NotQuarantined { .. } => "not_quarantined",
            Self::UnknownVersion { .. } => "unknown_version",
            Self::NotReady { .. } => "not_ready",
            Self::NoWayBack { .. } => "no_way_back",
            Self::NoProvenWayBack { .. } => "no_proven_way_back",
            Self::ForeignChange { .. } => "foreign_change",
            Self::NothingForeign { .. } => "nothing_foreign",
            Self::NotAdoptable { .. } => "not_adoptable",
            Self::Follows { .. } => "not_leader",
            Self::OlderFile { .. } => "older_file",
            Self::WithoutStable { .. } => "without_stable",
        }
    }
}
