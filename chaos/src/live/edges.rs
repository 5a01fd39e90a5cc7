//! All edges of a live world, and the ways between them: one with a state file, or as many as the scenario has over one API
//! server.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use super::LiveError;
use super::clock::{self, Clock};
use super::cluster::Cluster;
use super::edge::{Edge, Place};
use super::models::Fleet;
use super::names::Names;
use super::process::Holdings;
use super::programs::{Programs, free_address};
use crate::fakes::Link;
use crate::scenario::{EdgeFault, Event, Scenario, What, Who};

/// What edges show each other.
const TOKEN: &str = "open sesame";

/// All edges.
#[derive(Debug)]
pub(super) struct Edges {
    pub(super) all: Vec<Edge>,
    ways: Vec<Ways>,
}

/// How one edge reaches the rest.
#[derive(Debug)]
struct Ways {
    to_api: Link,
    /// To each edge, in their order; itself among them.
    to_edges: Vec<Link>,
    is_cut: bool,
}

/// Whether an event sets a clock.
pub(super) fn sets_clock(event: &Event) -> bool {
    matches!(event.what, What::Edge { fault: EdgeFault::Clock { .. }, .. })
}

impl Edges {
    /// Those of a scenario; none runs yet.
    pub(super) async fn new(
        scenario: &Scenario,
        programs: &Programs,
        folder: &Path,
        cluster: Option<&Cluster>,
    ) -> Result<Self, LiveError> {
        let mut edges = Self { all: Vec::new(), ways: Vec::new() };
        match cluster {
            None => edges.all.push(Edge::new(scenario, programs, folder)?),
            Some(cluster) => edges.gather(scenario, programs, folder, cluster).await?,
        }
        for edge in std::mem::take(&mut edges.all) {
            edges.all.push(equipped(scenario, edge)?);
        }
        Ok(edges)
    }

    async fn gather(
        &mut self,
        scenario: &Scenario,
        programs: &Programs,
        folder: &Path,
        cluster: &Cluster,
    ) -> Result<(), LiveError> {
        let token = folder.join("token");
        fs::write(&token, TOKEN).map_err(LiveError::Folder)?;
        let heard_at: Vec<SocketAddr> = (0..scenario.edges).map(|_| free_address()).collect::<Result<_, _>>()?;
        for (number, address) in heard_at.iter().enumerate() {
            let ways = Ways::open(cluster.address(), &heard_at).await?;
            let edge = Edge::new(scenario, programs, &folder.join(format!("edge-{number}")))?;
            let kubeconfig = edge.folder.join("kubeconfig");
            let text = cluster.kubeconfig(&format!("edge-{number}"), ways.to_api.address());
            fs::write(&kubeconfig, text).map_err(LiveError::Folder)?;
            let place = Place {
                number,
                kubeconfig,
                hears_at: (scenario.edges > 1).then_some(*address),
                ways: ways.to_edges.iter().map(Link::address).collect(),
                token: token.clone(),
            };
            self.all.push(edge.at(place));
            self.ways.push(ways);
        }
        Ok(())
    }

    /// Where clients reach them.
    pub(super) fn clients(&self) -> Vec<SocketAddr> {
        self.all.iter().map(|edge| edge.clients).collect()
    }

    /// What each edge's config file holds where the route is as these keys say.
    pub(super) fn configs(
        &self,
        scenario: &Scenario,
        keys: &serde_json::Map<String, serde_json::Value>,
        fleet: &Fleet,
    ) -> Vec<String> {
        self.all.iter().map(|edge| edge.config(scenario, keys, fleet)).collect()
    }

    /// Each edge's config file holds its text.
    pub(super) fn write_configs(&self, texts: &[String]) -> Result<(), LiveError> {
        self.all.iter().zip(texts).try_for_each(|(edge, text)| edge.write_config(text))
    }

    /// Every edge starts.
    pub(super) async fn come(&mut self) -> Result<(), LiveError> {
        for edge in &mut self.all {
            edge.come().await?;
        }
        Ok(())
    }

    /// Which edges an event is about, while this one leads; none as long as there is no such edge.
    pub(super) fn chosen(&self, who: Who, leader: Option<usize>) -> Option<Vec<usize>> {
        match who {
            Who::All => Some((0..self.all.len()).collect()),
            Who::Leader | Who::Follower => self.one(who, leader?, |number| !self.is_cut(number)),
        }
    }

    /// To which edge an order is given, also where it is cut off; none as long as there is no such edge.
    pub(super) fn asked(&self, who: Who, leader: Option<usize>) -> Option<Vec<usize>> {
        match who {
            Who::All => Some(Vec::new()),
            Who::Leader | Who::Follower => self.one(who, leader?, |_| true),
        }
    }

    fn one(&self, who: Who, leader: usize, may_be: impl Fn(usize) -> bool) -> Option<Vec<usize>> {
        let is_it = |number: &usize| {
            (*number == leader) == (who == Who::Leader)
                && self.all.get(*number).is_some_and(|edge| !edge.is_down)
                && may_be(*number)
        };
        (0..self.all.len()).find(is_it).map(|number| vec![number])
    }

    /// Whether the others and the API server do not reach an edge.
    pub(super) fn is_cut(&self, number: usize) -> bool {
        self.ways.get(number).is_some_and(|ways| ways.is_cut)
    }

    /// Cuts an edge off from the API server and from every other edge, or lets it in again.
    pub(super) fn cut_off(&mut self, number: usize, is_cut: bool) {
        if let Some(own) = self.ways.get_mut(number) {
            own.is_cut = is_cut;
            own.to_api.cut(is_cut);
        }
        for (from, ways) in self.ways.iter().enumerate() {
            for (to, link) in ways.to_edges.iter().enumerate() {
                // A way has two ends, and stays cut as long as one of them is.
                if from != to {
                    link.cut(self.is_cut(from) || self.is_cut(to));
                }
            }
        }
    }

    /// How many connections from and to an edge cuts have ended so far.
    pub(super) fn severed(&self, number: usize) -> u64 {
        let own = self.ways.get(number).into_iter().flat_map(|ways| ways.to_edges.iter().chain([&ways.to_api]));
        let others = self.ways.iter().enumerate().filter(|(from, _)| *from != number);
        let to_it = others.filter_map(|(_, ways)| ways.to_edges.get(number));
        own.chain(to_it).map(Link::severed).sum()
    }

    /// The names of endpoints, where they have names.
    pub(super) fn names(&self) -> impl Iterator<Item = &Names> {
        self.all.iter().filter_map(Edge::names)
    }

    /// How many processes were started.
    pub(super) fn starts(&self) -> u32 {
        self.all.iter().map(|edge| edge.starts).sum()
    }

    /// What the one holds that holds most, of each.
    pub(super) fn holdings(&self) -> Option<Holdings> {
        let held = self.all.iter().filter_map(Edge::holdings);
        held.reduce(|one, other| Holdings {
            resident_bytes: one.resident_bytes.max(other.resident_bytes),
            descriptors: one.descriptors.max(other.descriptors),
            threads: one.threads.max(other.threads),
        })
    }

    /// Asks all of them to end, and waits until they have: what did not end well, in words, and what logs say of panics.
    pub(super) async fn end(&mut self) -> Vec<String> {
        let mut broken: Vec<String> = self.all.iter().filter_map(Edge::ask_to_end).collect();
        for edge in &mut self.all {
            broken.extend(edge.end().await);
            broken.extend(edge.panics());
        }
        broken
    }
}

impl Ways {
    async fn open(api: SocketAddr, edges: &[SocketAddr]) -> Result<Self, LiveError> {
        let broken = |source| LiveError::Start { what: "a way between edges", source };
        let to_api = Link::to(api).await.map_err(broken)?;
        let mut to_edges = Vec::new();
        for edge in edges {
            to_edges.push(Link::to(*edge).await.map_err(broken)?);
        }
        Ok(Self { to_api, to_edges, is_cut: false })
    }
}

/// With names that can fail and a clock that can be set, where the scenario wants them.
fn equipped(scenario: &Scenario, edge: Edge) -> Result<Edge, LiveError> {
    let mut edge = edge;
    if scenario.events.iter().any(|event| event.what == What::Names) {
        let names = Names::new(&edge.folder)?;
        edge = edge.with_names(names);
    }
    if scenario.events.iter().any(sets_clock) {
        let clock = Clock::new(clock::library().ok_or_else(clock::missing)?, &edge.folder)?;
        edge = edge.with_clock(clock);
    }
    Ok(edge)
}
