//! Plays the events of a scenario at their times, and ends those that end.

mod proof;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use hyper::Method;
use pointsman_config::VersionId;
use pointsman_rollout::{OrderKind, PhaseName, Resume};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::proof::Before;
use super::LiveError;
use super::clients::{Garbage, OddClients};
use super::cluster::Cluster;
use super::edge::Edge;
use super::edges::Edges;
use super::http::Caller;
use super::models::{Fleet, answers};
use super::process::Holdings;
use super::programs::Programs;
use super::record::Record;
use super::selector;
use super::traffic::Traffic;
use super::verdict::{self, Outage, Seen};
use super::watch::Watcher;
use crate::scenario::{Clients, ConfigFault, Down, EdgeFault, Edit, Event, Fault, Scenario, StateFault, What, Who};

/// Between two looks.
const TICK: Duration = Duration::from_millis(50);
/// Every so many looks files and processes are looked at as well.
const FILES_EVERY: u32 = 5;
/// How long a scenario goes on after its story is over.
const SETTLES_FOR: Duration = Duration::from_secs(2);
/// For the edge to take its first requests, and for what should come right by itself at the end.
const PATIENCE: Duration = Duration::from_secs(45);
/// An operator whose order nobody can carry out tries again after so long.
const TRIES_AGAIN: Duration = Duration::from_millis(500);
/// What is cut off by an edge that is killed may be known so long after it is back.
const AFTERMATH: Duration = Duration::from_secs(1);

/// An event that has begun and not ended.
struct Active {
    index: usize,
    since: Instant,
    until: Option<Instant>,
    /// To which edges it happens.
    edges: Vec<usize>,
    /// Of endpoints that come and go: whether they are gone, and until when.
    flap: Option<(bool, Instant)>,
    /// How things were before.
    before: Before,
    /// Endpoints that went, edges that were killed or replaced.
    struck: u64,
}

/// An order that nobody could carry out yet.
struct Given {
    kind: OrderKind,
    /// Whom the operator asks first.
    to: Vec<usize>,
    /// When he tries again, and until when.
    next: Instant,
    until: Instant,
}

/// The world on its way.
pub(super) struct Stage<'a> {
    scenario: &'a Scenario,
    began: Instant,
    fleet: Fleet,
    cluster: Option<Cluster>,
    edges: Edges,
    traffic: Traffic,
    watcher: Watcher,
    caller: Caller,
    begun: Vec<bool>,
    active: Vec<Active>,
    odd: Vec<(usize, OddClients)>,
    /// What became of clients that are done, by the number of their event.
    done: BTreeMap<usize, Garbage>,
    flapping: JoinSet<u64>,
    /// What the config file of each edge should hold.
    configs: Vec<String>,
    /// Edits that have not reached an edge yet: when they do, and which.
    late: Vec<(Instant, usize, String)>,
    /// Orders that nobody could carry out yet.
    orders: Vec<Given>,
    rate: f64,
    seen: Seen,
    looks: u32,
}

impl<'a> Stage<'a> {
    /// Starts everything, and waits until the edge takes requests.
    pub(super) async fn set(scenario: &'a Scenario, programs: &Programs, folder: &Path) -> Result<Self, LiveError> {
        let fleet = Fleet::start(scenario, programs, folder).await?;
        let cluster = if scenario.api_server { Some(Cluster::start(scenario, &fleet).await?) } else { None };
        let mut edges = Edges::new(scenario, programs, folder, cluster.as_ref()).await?;
        let configs = edges.configs(scenario, &scenario.route_keys, &fleet);
        edges.write_configs(&configs)?;
        edges.come().await?;
        let began = Instant::now();
        let seen_at: Vec<_> = edges.all.iter().map(|edge| (edge.clients, edge.admin)).collect();
        let mut stage = Self {
            traffic: Traffic::new(scenario, &edges.clients())?,
            watcher: Watcher::new(&seen_at, &scenario.route, began),
            seen: Seen::of(scenario, edges.all.len()),
            scenario,
            began,
            fleet,
            cluster,
            edges,
            caller: Caller::new(),
            begun: vec![false; scenario.events.len()],
            active: Vec::new(),
            odd: Vec::new(),
            done: BTreeMap::new(),
            flapping: JoinSet::new(),
            configs,
            late: Vec::new(),
            orders: Vec::new(),
            rate: 0.0,
            looks: 0,
        };
        stage.wait_until_ready().await;
        Ok(stage)
    }

    async fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.watcher.look(None).await && self.watcher.is_gathered() && self.are_ready().await {
                return;
            }
            sleep(TICK).await;
        }
    }

    async fn are_ready(&self) -> bool {
        for edge in &self.edges.all {
            if self.caller.text(edge.admin, "/readyz").await.is_none() {
                return false;
            }
        }
        true
    }

    /// From the first request to the verdict.
    pub(super) async fn play(mut self, mut record: Record) -> Result<Record, LiveError> {
        self.began = Instant::now();
        self.watcher.begin(self.began);
        self.seen.began = Some(self.began);
        let mut story = Ok(());
        while story.is_ok() && !self.is_over() {
            let next = Instant::now() + TICK;
            story = self.go_on().await;
            sleep(next.saturating_duration_since(Instant::now())).await;
        }
        record.seconds = self.began.elapsed().as_secs_f64();
        if story.is_ok() {
            story = self.mend().await;
        }
        match story {
            Ok(()) => self.close(&mut record).await,
            // The edge is at fault, and not the world: that is what the scenario has shown.
            Err(error @ LiveError::EdgeEnded { .. }) => self.give_up(&mut record, &error).await,
            Err(error) => return Err(error),
        }
        Ok(record)
    }

    async fn go_on(&mut self) -> Result<(), LiveError> {
        self.end_events().await?;
        self.begin_events().await?;
        self.deliver_late(Instant::now())?;
        self.order_again().await;
        self.worsen().await?;
        self.flap().await?;
        self.load();
        self.look().await;
        Ok(())
    }

    /// Without its edge nothing else can be asked.
    async fn give_up(&mut self, record: &mut Record, error: &LiveError) {
        self.watcher.broke("it comes back", &error.to_string());
        self.odd.clear();
        self.flapping.shutdown().await;
        let sums = self.traffic.end().await;
        for edge in &mut self.edges.all {
            edge.kill().await;
        }
        self.seen.edge.starts = self.edges.starts();
        verdict::set_down(record, &mut self.watcher, &self.traffic.requests, (&self.seen, &sums));
    }

    /// Seconds of the scenario.
    fn now(&self) -> Duration {
        self.began.elapsed().mul_f64(self.scenario.live.speed)
    }

    fn real(&self, span: Duration) -> Duration {
        span.div_f64(self.scenario.live.speed)
    }

    /// At its end, or when the story is over before: everything has happened, and the route is where it should end and stays
    /// there.
    fn is_over(&self) -> bool {
        if self.now() >= self.scenario.end {
            return true;
        }
        let is_settled = self.seen.settled_since.is_some_and(|since| since.elapsed() >= SETTLES_FOR);
        is_settled
            && self.odd.is_empty()
            && self.late.is_empty()
            && self.orders.is_empty()
            && self.begun.iter().all(|begun| *begun)
            && self.active.iter().all(|active| active.until.is_none())
    }

    async fn begin_events(&mut self) -> Result<(), LiveError> {
        let now = self.now();
        let scenario = self.scenario;
        for (index, event) in scenario.events.iter().enumerate() {
            let is_due = event.at <= now && event.phase.is_none_or(|phase| self.watcher.phase() == Some(phase));
            if is_due
                && self.begun.get(index) == Some(&false)
                && let Some(edges) = self.chosen(event)
            {
                if let Some(begun) = self.begun.get_mut(index) {
                    *begun = true;
                }
                self.watcher.tell(&format!("event: {}", event.text));
                self.seen.count(&event.what);
                self.begin(index, event, edges).await?;
            }
        }
        Ok(())
    }

    /// To which edges an event happens; none while there is no such edge yet.
    fn chosen(&self, event: &Event) -> Option<Vec<usize>> {
        match &event.what {
            What::Edge { who, .. } | What::Edit(Edit { late: Some((who, _)), .. }) => {
                self.edges.chosen(*who, self.watcher.leader())
            }
            What::Order(_, who) => self.edges.asked(*who, self.watcher.leader()),
            What::Fault(_)
            | What::Down(_)
            | What::Traffic(_)
            | What::State(_)
            | What::Config(_)
            | What::Clients(_)
            | What::Names
            | What::Api(_)
            | What::Edit(_) => Some(Vec::new()),
        }
    }

    async fn begin(&mut self, index: usize, event: &Event, edges: Vec<usize>) -> Result<(), LiveError> {
        let since = Instant::now();
        let planned = event.lasts().map_or(Duration::ZERO, |lasts| self.real(lasts));
        let until = event.lasts().map(|_| since + planned);
        let before = self.before(event, &edges).await;
        let mut active = Active { index, since, until, edges, flap: None, before, struck: 0 };
        match &event.what {
            What::Fault(fault) => self.seen.fault_begins(fault, since),
            What::Down(down) => (active.flap, active.struck) = self.send_away(down, since).await?,
            What::Edge { fault, state, .. } => {
                active.struck = self.hit(*fault, &active.edges, (*state, planned)).await?;
            }
            What::State(fault) => self.spoil_state(*fault)?,
            What::Config(fault) => self.spoil_config(*fault)?,
            What::Clients(clients) => self.invite(index, *clients),
            What::Names => self.edges.names().try_for_each(|names| names.fail(true))?,
            What::Api(fault) => self.cluster.as_mut().map_or(Ok(()), |cluster| cluster.begin(index, *fault))?,
            What::Order(kind, who) => {
                self.check_asked(*who, &active.edges);
                let (to, until) = (active.edges.clone(), since + PATIENCE);
                self.order(Given { kind: kind.clone(), to, next: since, until }).await;
            }
            What::Edit(edit) => {
                self.edit(edit, &active.edges)?;
                self.seen.edited.push(Instant::now());
            }
            What::Traffic(_) => {}
        }
        if is_harm(&event.what) {
            self.seen.harm.get_or_insert(since);
            self.seen.harms.push(since);
        }
        self.seen.stirred(&event.what, since, active.until);
        self.active.push(active);
        Ok(())
    }

    /// Something happens to edges; how many of them were killed or replaced.
    async fn hit(
        &mut self,
        fault: EdgeFault,
        edges: &[usize],
        (state, planned): (Option<StateFault>, Duration),
    ) -> Result<u64, LiveError> {
        match fault {
            EdgeFault::Killed => self.kill(edges, state, planned).await,
            EdgeFault::Frozen => self.freeze(edges, planned).map(|()| 0),
            EdgeFault::Upgraded => self.upgrade().await,
            EdgeFault::CutOff => {
                self.cut_off(edges, true);
                Ok(0)
            }
            EdgeFault::Clock { is_behind, by } => self.set_clocks(edges, is_behind, by).map(|()| 0),
        }
    }

    fn cut_off(&mut self, edges: &[usize], is_cut: bool) {
        for number in edges {
            self.edges.cut_off(*number, is_cut);
            self.watcher.set_apart(*number, is_cut);
        }
    }

    /// Nobody asks it anything while it stands still; what it then knows is old until the others have told it.
    fn freeze(&mut self, edges: &[usize], planned: Duration) -> Result<(), LiveError> {
        for number in edges {
            let Some(edge) = self.edges.all.get_mut(*number).filter(|edge| !edge.is_down) else { continue };
            edge.freeze(true)?;
            let since = Instant::now();
            self.seen.frozen.push(Outage { edge: edge.clients, since, gone: since, planned, until: None });
            self.watcher.expect(*number, true);
            self.watcher.set_apart(*number, true);
        }
        Ok(())
    }

    fn thaw(&mut self, edges: &[usize]) -> Result<(), LiveError> {
        for number in edges {
            let Some(edge) = self.edges.all.get_mut(*number) else { continue };
            edge.freeze(false)?;
            self.seen.goes_on(edge.clients);
            self.watcher.expect(*number, false);
            self.watcher.set_apart(*number, false);
        }
        Ok(())
    }

    fn set_clocks(&self, edges: &[usize], is_behind: bool, by: Duration) -> Result<(), LiveError> {
        let chosen = edges.iter().filter_map(|number| self.edges.all.get(*number)?.clock.as_ref());
        chosen.into_iter().try_for_each(|clock| clock.set(is_behind, by))
    }

    fn spoil_state(&self, fault: StateFault) -> Result<(), LiveError> {
        self.edges.all.iter().try_for_each(|edge| edge.spoil_state(fault).map(drop))
    }

    fn mend_state(&self) -> Result<(), LiveError> {
        self.edges.all.iter().try_for_each(Edge::mend_state)
    }

    /// What is told of pods follows what became of their processes.
    fn tell_cluster(&mut self) -> Result<(), LiveError> {
        self.cluster.as_mut().map_or(Ok(()), |cluster| cluster.hear_of(&self.fleet))
    }

    /// How many endpoints went, and whether they come and go.
    async fn send_away(&mut self, down: &Down, since: Instant) -> Result<(Option<(bool, Instant)>, u64), LiveError> {
        let gone = self.fleet.go(&down.version, down.endpoints, down.by).await?;
        self.seen.endpoints_go(since);
        self.tell_cluster()?;
        Ok((down.every.map(|every| (true, since + self.real(every))), gone))
    }

    async fn let_come_back(&mut self, down: &Down) -> Result<(), LiveError> {
        for wrong in self.fleet.come_back(&down.version, down.endpoints, down.cold).await? {
            self.watcher.broke("every fault strikes", &wrong);
        }
        self.tell_cluster()
    }

    async fn end_events(&mut self) -> Result<(), LiveError> {
        let now = Instant::now();
        let scenario = self.scenario;
        let (over, rest): (Vec<Active>, Vec<Active>) = std::mem::take(&mut self.active)
            .into_iter()
            .partition(|active| active.until.is_some_and(|until| until <= now));
        self.active = rest;
        for active in over {
            if let Some(event) = scenario.events.get(active.index) {
                self.finish(&active, event).await?;
            }
        }
        Ok(())
    }

    /// Ends an event, once it is known that it struck.
    async fn finish(&mut self, active: &Active, event: &Event) -> Result<(), LiveError> {
        let is_seen_after = Self::is_seen_after(event);
        if !is_seen_after {
            self.prove(active, event).await;
        }
        self.end(active, event).await?;
        // Later than planned where an edge took its time, or the stage did.
        self.seen.settles(Instant::now());
        if is_seen_after {
            self.prove(active, event).await;
        }
        Ok(())
    }

    async fn end(&mut self, active: &Active, event: &Event) -> Result<(), LiveError> {
        match &event.what {
            What::Fault(fault) => self.seen.fault_ends(fault),
            What::Down(down) => {
                if active.flap.is_none_or(|(is_gone, _)| is_gone) {
                    self.let_come_back(down).await?;
                }
                self.seen.endpoints_are_back();
            }
            What::Edge { fault: EdgeFault::Killed, state: Some(StateFault::ReadOnly), .. } | What::State(_) => {
                self.mend_state()?;
            }
            What::Edge { fault: EdgeFault::Killed, state, .. } => {
                self.come_back(&active.edges, state.is_some()).await?;
            }
            What::Edge { fault: EdgeFault::Frozen, .. } => self.thaw(&active.edges)?,
            What::Edge { fault: EdgeFault::CutOff, .. } => self.cut_off(&active.edges, false),
            What::Edge { fault: EdgeFault::Clock { .. }, .. } => {
                self.set_clocks(&active.edges, false, Duration::ZERO)?;
            }
            What::Config(_) => self.mend_config().await?,
            What::Clients(_) => self.send_home(active.index),
            What::Names => self.edges.names().try_for_each(|names| names.fail(false))?,
            What::Api(_) => self.cluster.iter_mut().for_each(|cluster| cluster.end(active.index)),
            What::Edge { .. } | What::Traffic(_) | What::Order(..) | What::Edit(_) => {}
        }
        Ok(())
    }

    /// With a state that cannot be written it starts again at once: how it does with that is what is asked.
    async fn kill(&mut self, edges: &[usize], state: Option<StateFault>, planned: Duration) -> Result<u64, LiveError> {
        self.seen.standing = if state.is_none() { self.watcher.standing() } else { None };
        let mut killed = 0;
        for number in edges {
            let Some(edge) = self.edges.all.get_mut(*number) else { continue };
            let since = Instant::now();
            killed += u64::from(edge.kill().await);
            let gone = Instant::now();
            self.seen.down.push(Outage { edge: edge.clients, since, gone, planned, until: None });
            self.watcher.expect(*number, true);
            if let Some(fault) = state {
                let was_there = edge.spoil_state(fault)?;
                if !was_there {
                    self.watcher.broke("every fault strikes", "there was no state file to be spoiled");
                }
            }
        }
        if state == Some(StateFault::ReadOnly) {
            self.come_back(edges, false).await?;
        }
        Ok(killed)
    }

    async fn come_back(&mut self, edges: &[usize], is_spoiled: bool) -> Result<(), LiveError> {
        if is_spoiled {
            self.watcher.forget();
        }
        for number in edges {
            let Some(edge) = self.edges.all.get_mut(*number) else { continue };
            edge.come().await?;
            self.watcher.expect(*number, false);
            self.seen.is_back(edge.clients, Instant::now() + AFTERMATH);
        }
        let deadline = Instant::now() + PATIENCE;
        while !self.watcher.look(self.seen.harm).await {
            if Instant::now() > deadline {
                self.watcher.broke("it comes back", "the edge does not answer after its restart");
                return Ok(());
            }
            sleep(TICK).await;
        }
        self.watcher.look_at_files(self.seen.harm).await;
        if let Some((before, after)) = self.seen.standing.take().zip(self.watcher.standing())
            && before.1 >= after.1
            && before.0 != after.0
        {
            let said = format!("a restart divides traffic otherwise: {:?} before, {:?} after", before.0, after.0);
            self.watcher.broke("the split after a restart", &said);
        }
        Ok(())
    }

    /// How many were.
    async fn upgrade(&mut self) -> Result<u64, LiveError> {
        self.seen.was_upgraded = true;
        let mut upgraded = 0;
        for edge in &mut self.edges.all {
            edge.upgrade().await?;
            upgraded += 1;
        }
        Ok(upgraded)
    }

    fn invite(&mut self, index: usize, clients: Clients) {
        // Who says nothing is not counted.
        self.seen.had_odd_clients |= !matches!(clients, Clients::Idle(_));
        if let Some(edge) = self.edges.all.first() {
            self.odd.push((index, OddClients::start(clients, edge.clients)));
        }
    }

    fn send_home(&mut self, index: usize) {
        let bad: u64 = self.odd.iter().filter(|(of, _)| *of == index).map(|(_, odd)| odd.bad_inputs()).sum();
        self.seen.bad_inputs += bad;
        self.odd.retain(|(of, _)| *of != index);
    }

    /// The file of every edge is edited, that of some of them later.
    fn edit(&mut self, edit: &Edit, late: &[usize]) -> Result<(), LiveError> {
        let now = Instant::now();
        // Whatever was on its way to an edge is overtaken.
        self.late.clear();
        let by = edit.late.map_or(Duration::ZERO, |(_, by)| self.real(by));
        for (number, text) in self.edges.configs(self.scenario, &edit.keys, &self.fleet).into_iter().enumerate() {
            self.late.push((if late.contains(&number) { now + by } else { now }, number, text));
        }
        self.watcher.edited(&edit.route, now);
        self.deliver_late(now)
    }

    /// Edits reach the edges whose turn it is.
    fn deliver_late(&mut self, now: Instant) -> Result<(), LiveError> {
        for (_, number, text) in self.late.extract_if(.., |(at, ..)| *at <= now) {
            if let (Some(edge), Some(config)) = (self.edges.all.get(number), self.configs.get_mut(number)) {
                edge.write_config(&text)?;
                *config = text;
            }
        }
        Ok(())
    }

    /// While a leader is cut off, an order for the leader is for that one; later another one leads.
    fn check_asked(&mut self, who: Who, asked: &[usize]) {
        let is_cut = |active: &Active| {
            let what = self.scenario.events.get(active.index).map(|event| &event.what);
            matches!(what, Some(What::Edge { fault: EdgeFault::CutOff, who: Who::Leader, .. }))
        };
        let leads_apart = self.active.iter().find(|active| is_cut(active)).map(|active| active.edges.clone());
        if let (Who::Leader, Some(cut)) = (who, leads_apart)
            && asked != cut
        {
            let said = format!("an order was to reach edge {cut:?}, which led and is cut off, and went to {asked:?}");
            self.watcher.broke("every fault strikes", &said);
        }
    }

    async fn order_again(&mut self) {
        let now = Instant::now();
        let due: Vec<Given> = self.orders.extract_if(.., |given| given.next <= now).collect();
        for given in due {
            self.order(given).await;
        }
    }

    /// Given to one edge after the other, as an operator would, until one of them carries it out; and again after a moment
    /// where nobody leads.
    async fn order(&mut self, given: Given) {
        let Some((verb, body)) = written(&given.kind) else { return };
        let path = format!("/api/v1/routes/{}/{verb}", self.scenario.route.name);
        let mut refused = None;
        let others = (0..self.edges.all.len()).filter(|number| !given.to.contains(number));
        for number in given.to.iter().copied().chain(others) {
            let Some(edge) = self.edges.all.get(number).filter(|edge| !edge.is_down) else { continue };
            let began = Instant::now();
            match self.caller.ask(Method::POST, edge.admin, &path, body.to_string()).await {
                Some((status, answer)) if status.is_success() => {
                    let place = if self.edges.is_cut(number) { ", which is cut off," } else { "" };
                    self.watcher.tell(&format!("edge {number}{place} carried out the order {verb}"));
                    return self.watcher.obeyed(&given.kind, (began, is_persisted(&answer)));
                }
                Some((status, _)) => refused = Some(status),
                None => {}
            }
        }
        let now = Instant::now();
        let may_be_tried = refused.is_none_or(|status| status.is_server_error()) && self.edges.all.len() > 1;
        if may_be_tried && now < given.until {
            self.orders.push(Given { next: now + TRIES_AGAIN, ..given });
            return;
        }
        match refused {
            // A refused order changes nothing, in both worlds.
            Some(status) => self.watcher.tell(&format!("the order {verb} was refused with {status}")),
            None => self.watcher.broke("orders are answered", &format!("the order {verb} was not answered")),
        }
    }

    fn spoil_config(&mut self, fault: ConfigFault) -> Result<(), LiveError> {
        self.seen.bad_inputs += 1;
        let half = |text: &str| text.get(..text.len() / 2).unwrap_or_default().to_owned();
        for (edge, whole) in self.edges.all.iter().zip(&self.configs) {
            let file = edge.config_file();
            match fault {
                ConfigFault::HalfWritten => fs::write(&file, half(whole)),
                ConfigFault::Garbage => fs::write(&file, b"\x00\xff\xfe: [}{ \x80 & *anchor"),
                ConfigFault::Deleted => fs::remove_file(&file),
                // Rights do not keep root away; a folder does.
                ConfigFault::Unreadable => fs::remove_file(&file).and_then(|()| fs::create_dir(&file)),
                ConfigFault::Flapping => {
                    self.flapping.spawn(flap_config(file, whole.clone(), half(whole)));
                    Ok(())
                }
            }
            .map_err(LiveError::Folder)?;
        }
        Ok(())
    }

    async fn mend_config(&mut self) -> Result<(), LiveError> {
        self.flapping.shutdown().await;
        for (edge, whole) in self.edges.all.iter().zip(&self.configs) {
            let file = edge.config_file();
            if file.is_dir() {
                fs::remove_dir(&file).map_err(LiveError::Folder)?;
            }
            edge.write_config(whole)?;
        }
        Ok(())
    }

    /// Versions answer as the faults in force say.
    async fn worsen(&mut self) -> Result<(), LiveError> {
        let scenario = self.scenario;
        for (version, own) in &scenario.versions {
            let faults: Vec<(&Fault, f64)> =
                self.active.iter().filter_map(|active| self.part(active, version)).collect();
            let faults = answers(own, &faults, scenario.route.guard.latency_threshold).map_err(LiveError::Faults)?;
            for untold in self.fleet.answer(version, faults).await {
                self.watcher.broke("every fault strikes", &untold);
            }
        }
        if self.fleet.is_told() {
            self.seen.endpoints_are_told();
        }
        Ok(())
    }

    /// How much of an event is in force against a version.
    fn part(&self, active: &Active, version: &VersionId) -> Option<(&'a Fault, f64)> {
        let fault = self.scenario.events.get(active.index)?.what.fault_of(version)?;
        // Steps of a fiftieth: each change is told to every endpoint.
        let lasted = active.since.elapsed().mul_f64(self.scenario.live.speed);
        Some((fault, (fault.part_after(lasted) * 50.0).floor() / 50.0))
    }

    async fn flap(&mut self) -> Result<(), LiveError> {
        let now = Instant::now();
        let mut active = std::mem::take(&mut self.active);
        for one in &mut active {
            let (Some((is_gone, until)), Some(Event { what: What::Down(down), .. })) =
                (one.flap, self.scenario.events.get(one.index))
            else {
                continue;
            };
            let Some(every) = down.every.filter(|_| until <= now) else { continue };
            if is_gone {
                self.let_come_back(down).await?;
            } else {
                one.struck += self.fleet.go(&down.version, down.endpoints, down.by).await?;
                self.tell_cluster()?;
            }
            one.flap = Some((!is_gone, now + self.real(every)));
        }
        self.active = active;
        Ok(())
    }

    fn load(&mut self) {
        let times = |active: &Active| {
            let swell = self.scenario.events.get(active.index)?.what.swell()?;
            Some(swell.after(active.since.elapsed().mul_f64(self.scenario.live.speed)))
        };
        let times: f64 = self.active.iter().filter_map(times).product();
        // To whole requests a second, as the load is.
        let rate = (self.scenario.rate * self.scenario.live.speed * times).round();
        if (rate - self.rate).abs() > f64::EPSILON {
            self.rate = rate;
            self.traffic.set(rate);
        }
    }

    async fn look(&mut self) {
        self.looks += 1;
        self.traffic.look();
        self.see_who_died().await;
        if self.edges.all.iter().any(|edge| !edge.is_down) {
            self.watcher.look(self.seen.harm).await;
            if self.looks.is_multiple_of(FILES_EVERY) {
                self.watcher.look_at_files(self.seen.harm).await;
                self.measure();
            }
        }
        self.odd.retain_mut(|(index, odd)| {
            let is_done = odd.are_done();
            if is_done {
                self.seen.bad_inputs += odd.bad_inputs();
                self.seen.settles(Instant::now());
                self.done.insert(*index, odd.garbage());
            }
            !is_done
        });
        let is_where_it_ends = self.scenario.holds.ends.is_some() && self.watcher.phase() == self.scenario.holds.ends;
        let is_final = self.watcher.phase() != Some(PhaseName::Steady) || self.is_finished();
        if is_where_it_ends && is_final {
            self.seen.settled_since.get_or_insert_with(Instant::now);
        } else {
            self.seen.settled_since = None;
        }
    }

    async fn see_who_died(&mut self) {
        for (number, edge) in self.edges.all.iter_mut().enumerate() {
            let Some(status) = edge.died() else { continue };
            let words = edge.last_words();
            self.watcher.broke("it stays", &format!("the edge ended by itself with {status}: {words}"));
            edge.kill().await;
            self.watcher.expect(number, true);
        }
    }

    /// A route that begins steady is not at its end for that.
    fn is_finished(&self) -> bool {
        let has_plan = matches!(self.scenario.route.plan, pointsman_config::Plan::Rollout(_));
        !has_plan || self.watcher.promoted.is_some()
    }

    /// What the edge holds: at most before anything has happened, and now.
    fn measure(&mut self) {
        let has_begun = self.begun.iter().any(|begun| *begun);
        let Some(Holdings { resident_bytes, descriptors, threads }) = self.edges.holdings() else { return };
        let edge = &mut self.seen.edge;
        edge.peak_resident_bytes = edge.peak_resident_bytes.max(resident_bytes);
        edge.peak_descriptors = edge.peak_descriptors.max(descriptors);
        if !has_begun {
            edge.early_resident_bytes = edge.peak_resident_bytes;
            edge.early_descriptors = edge.peak_descriptors;
            edge.early_threads = edge.early_threads.max(threads);
        }
        (edge.end_resident_bytes, edge.end_descriptors, edge.end_threads) = (resident_bytes, descriptors, threads);
    }

    /// Everything ends.
    async fn mend(&mut self) -> Result<(), LiveError> {
        let scenario = self.scenario;
        for (event, _) in scenario.events.iter().zip(&self.begun).filter(|(_, begun)| !**begun) {
            self.watcher.broke("everything happens", &format!("never happened: {}", event.text));
        }
        for given in &self.orders {
            self.watcher.broke("orders are answered", &format!("nobody carried out {:?}", given.kind));
        }
        for (at, ..) in &mut self.late {
            *at = self.began;
        }
        self.deliver_late(Instant::now())?;
        for active in std::mem::take(&mut self.active) {
            if let Some(event) = scenario.events.get(active.index) {
                self.finish(&active, event).await?;
            }
        }
        self.odd.clear();
        Ok(())
    }

    /// Everything comes right, and the books are compared.
    async fn close(&mut self, record: &mut Record) {
        let scenario = self.scenario;
        let sums = self.traffic.end().await;
        self.come_right(sums.sent).await;
        self.measure();
        self.seen.edge.starts = self.edges.starts();
        for broken in self.edges.end().await {
            self.watcher.broke("it ends in order", &broken);
        }
        if let Some(cluster) = &self.cluster {
            let of = (&self.traffic.requests[..], &self.seen.frozen[..]);
            selector::check(scenario, cluster, &mut self.watcher, of);
        }
        verdict::reach(scenario, record, &mut self.watcher, &self.traffic.requests, (&self.seen, &sums));
    }

    /// What was broken works again, all edges agree, and both sides have counted the same.
    async fn come_right(&mut self, sent: u64) {
        let deadline = Instant::now() + PATIENCE;
        let mut wrong = vec!["nothing was seen".to_owned()];
        while Instant::now() < deadline {
            if self.watcher.look(self.seen.harm).await {
                wrong = self.watcher.look_at_files(self.seen.harm).await;
                wrong.extend(self.watcher.missing());
                wrong.extend(self.watcher.disagreements());
                wrong.extend(self.selects_another());
                wrong.extend(self.watcher.lost_order());
                self.seen.counted = self.watcher.counted().await;
                let is_counted = !self.seen.is_countable() || self.seen.counted == Some(sent);
                if wrong.is_empty() && is_counted {
                    return;
                }
            }
            sleep(TICK * 4).await;
        }
        for problem in wrong {
            self.watcher.broke("it comes right", &format!("it did not come right: {problem}"));
        }
    }

    /// Where nothing is under way, the live Service selects the version in production.
    fn selects_another(&self) -> Option<String> {
        let is_at_rest = matches!(self.watcher.phase(), Some(PhaseName::Steady | PhaseName::RolledBack));
        let (selected, stable) = (self.cluster.as_ref()?.selected(), self.watcher.stable()?);
        (is_at_rest && selected != stable.as_str())
            .then(|| format!("the live Service selects {selected}, and {stable} is in production"))
    }
}

/// Whether what an order changed is kept, as its answer says.
fn is_persisted(answer: &[u8]) -> bool {
    let said: Option<Value> = serde_json::from_slice(answer).ok();
    said.and_then(|said| said.get("persisted")?.as_bool()).unwrap_or(false)
}

/// An order as it is posted.
fn written(kind: &OrderKind) -> Option<(&'static str, Value)> {
    let why = "the scenario";
    let foreign = |what: &str| json!({ "foreign": what, "reason": why });
    Some(match kind {
        OrderKind::Promote => ("promote", json!({ "reason": why })),
        OrderKind::Rollback => ("rollback", json!({ "reason": why })),
        OrderKind::Pause => ("pause", json!({ "reason": why })),
        OrderKind::Resume(Resume::GoOn) => ("resume", json!({ "reason": why })),
        OrderKind::Resume(Resume::Adopt) => ("resume", foreign("adopt")),
        OrderKind::Resume(Resume::Restore) => ("resume", foreign("restore")),
        OrderKind::Retry(version) => ("retry", json!({ "version": version, "reason": why })),
        OrderKind::ForcePromotion | OrderKind::SetWeights(_) => return None,
    })
}

fn is_harm(what: &What) -> bool {
    match what {
        What::Traffic(_) | What::Order(..) | What::Edit(_) => false,
        What::Fault(_)
        | What::Down(_)
        | What::Edge { .. }
        | What::State(_)
        | What::Config(_)
        | What::Clients(_)
        | What::Names
        | What::Api(_) => true,
    }
}

/// A hundred times a second another text, until aborted.
async fn flap_config(file: std::path::PathBuf, whole: String, half: String) -> u64 {
    let mut times: u64 = 0;
    let mut each = tokio::time::interval(Duration::from_millis(10));
    loop {
        each.tick().await;
        let text = if times.is_multiple_of(2) { &half } else { &whole };
        if fs::write(&file, text).is_err() {
            return times;
        }
        times += 1;
    }
}
