//! What edges say to each other, as JSON over HTTP.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use pointsman_config::{RouteName, Split};
use pointsman_rollout::{Order, Saved, Trip, WayBack};
use serde::{Deserialize, Serialize};

use super::rows::{Batch, Instance, Taken};
use crate::control::handle::Done;
use crate::view::DecisionLine;

/// Where a leader asks.
pub(crate) const EXCHANGE: &str = "/replica/v1/exchange";
/// Where an edge tells of a canary that it took back by itself.
pub(crate) const TRIP: &str = "/replica/v1/trip";
/// Where orders are passed on to the leader.
pub(crate) const ORDER: &str = "/replica/v1/order";

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Leader {
    /// Its name, as in the Lease.
    pub(crate) name: String,
    /// Which process.
    pub(crate) instance: Instance,
    /// Counts up with every change of leader.
    pub(crate) term: u64,
    /// Where it listens for other edges; none if its own list of edges does not name it.
    pub(crate) address: Option<SocketAddr>,
}

/// What a leader says and asks.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ask {
    /// Who.
    pub(crate) leader: Leader,
    /// How many edges serve.
    pub(crate) edges: usize,
    /// What it has taken of the one it asks.
    pub(crate) taken: Option<Taken>,
    /// Where each route stands.
    pub(crate) routes: BTreeMap<RouteName, Saved>,
    /// Whether each that is under way could go back.
    pub(crate) ways_back: BTreeMap<RouteName, WayBack>,
    /// The newest decision of each, which whoever follows shows: an order says which one its giver had seen.
    #[serde(default)]
    pub(crate) newest: BTreeMap<RouteName, DecisionLine>,
    /// Trips of the one it asks that it has heard of; where the routes stand was written after that.
    pub(crate) heard: BTreeMap<RouteName, Trip>,
}

/// What the one that was asked answers, after it has put in force what it was told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Its name.
    pub(crate) name: String,
    /// Which process.
    pub(crate) instance: Instance,
    /// What it counted.
    pub(crate) batch: Batch,
    /// What it applies of what it was told; nothing of routes of which its file says something else.
    pub(crate) applied: BTreeMap<RouteName, Applied>,
    /// What it took back by itself and has not heard of since.
    pub(crate) trips: BTreeMap<RouteName, Trip>,
    /// Where routes stand of which it knows more than it was told: it goes back to no earlier state of the same rollout.
    #[serde(default)]
    pub(crate) later: BTreeMap<RouteName, Saved>,
}

/// What an edge applies of one route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Applied {
    /// Of which state: how many decisions stand behind it.
    pub(crate) serial: u64,
    /// How traffic is divided.
    pub(crate) split: Split,
}

/// What an edge says that does not lead.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Tripped {
    /// Who.
    pub(crate) by: String,
    /// What it took back.
    pub(crate) trips: BTreeMap<RouteName, Trip>,
}

/// An order that was given to an edge that follows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PassedOn {
    /// Of which route.
    pub(crate) route: RouteName,
    /// What.
    pub(crate) order: Order,
    /// The newest decision that its giver had seen; none if nobody says.
    #[serde(default)]
    pub(crate) seen: Option<u64>,
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Carried {
    /// It was carried out.
    Done(Box<Done>),
    /// It was refused.
    Refused {
        /// A fixed word for programs.
        code: String,
        /// Why, and the way out.
        why: String,
    },
}

/// Whoever asks has been replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stale {
    /// The term that counts.
    pub(crate) term: u64,
}
