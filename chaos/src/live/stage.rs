//! Plays the events of a scenario at their times, and ends those that end.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use hyper::Method;
use pointsman_config::VersionId;
use pointsman_rollout::{OrderKind, PhaseName};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::LiveError;
use super::clients::OddClients;
use super::edge::Edge;
use super::http::Caller;
use super::models::{Fleet, answers};
use super::names::Names;
use super::process::Holdings;
use super::programs::Programs;
use super::record::Record;
use super::traffic::Traffic;
use super::verdict::{self, Seen};
use super::watch::Watcher;
use crate::scenario::{Clients, ConfigFault, Down, EdgeFault, Event, Fault, Scenario, StateFault, What};

/// Between two looks.
const TICK: Duration = Duration::from_millis(50);
/// Every so many looks files and processes are looked at as well.
const FILES_EVERY: u32 = 5;
/// How long a scenario goes on after its story is over.
const SETTLES_FOR: Duration = Duration::from_secs(2);
/// For the edge to take its first requests, and for what should come right by itself at the end.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is cut off by an edge that is killed may be known so long after it is back.
const AFTERMATH: Duration = Duration::from_secs(1);

/// An event that has begun and not ended.
struct Active {
    index: usize,
    since: Instant,
    until: Option<Instant>,
    /// Of endpoints that come and go: whether they are gone, and until when.
    flap: Option<(bool, Instant)>,
}

/// The world on its way.
pub(super) struct Stage<'a> {
    scenario: &'a Scenario,
    began: Instant,
    fleet: Fleet,
    edge: Edge,
    traffic: Traffic,
    watcher: Watcher,
    caller: Caller,
    begun: Vec<bool>,
    active: Vec<Active>,
    odd: Vec<(usize, OddClients)>,
    flapping: Option<JoinHandle<u64>>,
    /// What the config file should hold.
    config: String,
    rate: f64,
    seen: Seen,
    looks: u32,
}

impl<'a> Stage<'a> {
    /// Starts everything, and waits until the edge takes requests.
    pub(super) async fn set(scenario: &'a Scenario, programs: &Programs, folder: &Path) -> Result<Self, LiveError> {
        let fleet = Fleet::start(scenario, programs, folder).await?;
        let mut edge = Edge::new(scenario, programs, folder)?;
        if scenario.events.iter().any(|event| event.what == What::Names) {
            edge = edge.with_names(Names::new(folder)?);
        }
        let config = edge.config(scenario, &scenario.route_keys, &fleet);
        edge.write_config(&config)?;
        edge.come().await?;
        let began = Instant::now();
        let mut stage = Self {
            traffic: Traffic::new(scenario, edge.clients)?,
            watcher: Watcher::new(edge.admin, scenario.route.name.as_str(), began),
            scenario,
            began,
            fleet,
            edge,
            caller: Caller::new(),
            begun: vec![false; scenario.events.len()],
            active: Vec::new(),
            odd: Vec::new(),
            flapping: None,
            config,
            rate: 0.0,
            seen: Seen::default(),
            looks: 0,
        };
        stage.wait_until_ready().await;
        Ok(stage)
    }

    async fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && !(self.watcher.look(None).await && self.is_ready().await) {
            sleep(TICK).await;
        }
    }

    async fn is_ready(&self) -> bool {
        self.caller.text(self.edge.admin, "/readyz").await.is_some()
    }

    /// From the first request to the verdict.
    pub(super) async fn play(mut self, mut record: Record) -> Result<Record, LiveError> {
        self.began = Instant::now();
        self.watcher.begin(self.began);
        self.seen.began = Some(self.began);
        while !self.is_over() {
            let next = Instant::now() + TICK;
            self.end_events().await?;
            self.begin_events().await?;
            self.worsen().await?;
            self.flap().await?;
            self.load();
            self.look().await;
            sleep(next.saturating_duration_since(Instant::now())).await;
        }
        record.seconds = self.began.elapsed().as_secs_f64();
        self.close(&mut record).await?;
        Ok(record)
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
            && self.begun.iter().all(|begun| *begun)
            && self.active.iter().all(|active| active.until.is_none())
    }

    async fn begin_events(&mut self) -> Result<(), LiveError> {
        let now = self.now();
        let scenario = self.scenario;
        for (index, event) in scenario.events.iter().enumerate() {
            let is_due = event.at <= now && event.phase.is_none_or(|phase| self.watcher.phase() == Some(phase));
            if is_due && self.begun.get(index) == Some(&false) {
                if let Some(begun) = self.begun.get_mut(index) {
                    *begun = true;
                }
                self.watcher.tell(&format!("event: {}", event.text));
                self.seen.count(&event.what);
                self.begin(index, event).await?;
            }
        }
        Ok(())
    }

    async fn begin(&mut self, index: usize, event: &Event) -> Result<(), LiveError> {
        let since = Instant::now();
        let until = event.lasts().map(|lasts| since + self.real(lasts));
        let mut active = Active { index, since, until, flap: None };
        match &event.what {
            What::Fault(fault) => self.seen.fault_begins(fault, since),
            What::Down(down) => active.flap = self.send_away(down, since).await?,
            What::Edge { fault: EdgeFault::Upgraded, .. } => self.upgrade().await?,
            What::Edge { state, .. } => self.kill(*state, since).await?,
            What::State(fault) => self.edge.spoil_state(*fault)?,
            What::Config(fault) => self.spoil_config(*fault)?,
            What::Clients(clients) => self.invite(index, *clients),
            What::Names => self.edge.names().map_or(Ok(()), |names| names.fail(true))?,
            What::Order(kind) => self.order(kind).await,
            What::Edit(edit) => {
                self.config = self.edge.config(self.scenario, &edit.keys, &self.fleet);
                self.edge.write_config(&self.config)?;
            }
            What::Traffic(_) | What::Api(_) => {}
        }
        if is_harm(&event.what) {
            self.seen.harm.get_or_insert(since);
            self.seen.harms.push(since);
        }
        self.active.push(active);
        Ok(())
    }

    async fn send_away(&mut self, down: &Down, since: Instant) -> Result<Option<(bool, Instant)>, LiveError> {
        self.fleet.go(&down.version, down.endpoints, down.by).await?;
        Ok(down.every.map(|every| (true, since + self.real(every))))
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
                self.end(&active, event).await?;
            }
        }
        Ok(())
    }

    async fn end(&mut self, active: &Active, event: &Event) -> Result<(), LiveError> {
        match &event.what {
            What::Fault(fault) => self.seen.fault_ends(fault),
            What::Down(down) if active.flap.is_none_or(|(is_gone, _)| is_gone) => {
                self.fleet.come_back(&down.version, down.endpoints, down.cold).await?;
            }
            What::Edge { fault: EdgeFault::Killed, state: Some(StateFault::ReadOnly), .. } | What::State(_) => {
                self.edge.mend_state()?;
            }
            What::Edge { fault: EdgeFault::Killed, state, .. } => self.come_back(state.is_some()).await?,
            What::Config(_) => self.mend_config().await?,
            What::Clients(_) => self.send_home(active.index),
            What::Names => self.edge.names().map_or(Ok(()), |names| names.fail(false))?,
            What::Down(_) | What::Edge { .. } | What::Traffic(_) | What::Api(_) | What::Order(_) | What::Edit(_) => {}
        }
        Ok(())
    }

    /// With a state that cannot be written it starts again at once: how it does with that is what is asked.
    async fn kill(&mut self, state: Option<StateFault>, since: Instant) -> Result<(), LiveError> {
        self.seen.standing = if state.is_none() { self.watcher.standing() } else { None };
        self.edge.kill().await;
        self.seen.down.push((since, None));
        if let Some(fault) = state {
            self.edge.spoil_state(fault)?;
        }
        if state == Some(StateFault::ReadOnly) { self.come_back(false).await } else { Ok(()) }
    }

    async fn come_back(&mut self, is_spoiled: bool) -> Result<(), LiveError> {
        if is_spoiled {
            self.watcher.forget();
        }
        self.edge.come().await?;
        if let Some((_, until)) = self.seen.down.last_mut() {
            *until = Some(Instant::now() + AFTERMATH);
        }
        let deadline = Instant::now() + PATIENCE;
        while !self.watcher.look(self.seen.harm).await {
            if Instant::now() > deadline {
                self.watcher.broke("the edge does not answer after its restart");
                return Ok(());
            }
            sleep(TICK).await;
        }
        if let Some((before, after)) = self.seen.standing.take().zip(self.watcher.standing())
            && before.1 == after.1
            && before.0 != after.0
        {
            self.watcher
                .broke(&format!("a restart divides traffic otherwise: {:?} before, {:?} after", before.0, after.0));
        }
        Ok(())
    }

    async fn upgrade(&mut self) -> Result<(), LiveError> {
        self.seen.was_upgraded = true;
        self.edge.upgrade().await
    }

    fn invite(&mut self, index: usize, clients: Clients) {
        // Who says nothing is not counted.
        self.seen.had_odd_clients |= !matches!(clients, Clients::Idle(_));
        self.odd.push((index, OddClients::start(clients, self.edge.clients)));
    }

    fn send_home(&mut self, index: usize) {
        let bad: u64 = self.odd.iter().filter(|(of, _)| *of == index).map(|(_, odd)| odd.bad_inputs()).sum();
        self.seen.bad_inputs += bad;
        self.odd.retain(|(of, _)| *of != index);
    }

    async fn order(&mut self, kind: &OrderKind) {
        let (verb, body) = match kind {
            OrderKind::Promote => ("promote", json!({})),
            OrderKind::Rollback => ("rollback", json!({})),
            OrderKind::Pause => ("pause", json!({})),
            OrderKind::Resume(_) => ("resume", json!({})),
            OrderKind::Retry(version) => ("retry", json!({ "version": version })),
            OrderKind::ForcePromotion | OrderKind::SetWeights(_) => return,
        };
        let mut body = body;
        if let Some(keys) = body.as_object_mut() {
            keys.insert("reason".to_owned(), json!("the scenario"));
        }
        let path = format!("/api/v1/routes/{}/{verb}", self.scenario.route.name);
        match self.caller.ask(Method::POST, self.edge.admin, &path, body.to_string()).await {
            Some((status, _)) if status.is_success() => {}
            // A refused order changes nothing, in both worlds.
            Some((status, _)) => self.watcher.tell(&format!("the order {verb} was refused with {status}")),
            None => self.watcher.broke(&format!("the order {verb} was not answered")),
        }
    }

    fn spoil_config(&mut self, fault: ConfigFault) -> Result<(), LiveError> {
        let file = self.edge.config_file();
        let half = || self.config.get(..self.config.len() / 2).unwrap_or_default().to_owned();
        self.seen.bad_inputs += 1;
        let done = match fault {
            ConfigFault::HalfWritten => fs::write(&file, half()),
            ConfigFault::Garbage => fs::write(&file, b"\x00\xff\xfe: [}{ \x80 & *anchor"),
            ConfigFault::Deleted => fs::remove_file(&file),
            // Rights do not keep root away; a folder does.
            ConfigFault::Unreadable => fs::remove_file(&file).and_then(|()| fs::create_dir(&file)),
            ConfigFault::Flapping => {
                self.flapping = Some(tokio::spawn(flap_config(file, self.config.clone(), half())));
                Ok(())
            }
        };
        done.map_err(LiveError::Folder)
    }

    async fn mend_config(&mut self) -> Result<(), LiveError> {
        if let Some(flapping) = self.flapping.take() {
            flapping.abort();
            flapping.await.ok();
        }
        let file = self.edge.config_file();
        if file.is_dir() {
            fs::remove_dir(&file).map_err(LiveError::Folder)?;
        }
        self.edge.write_config(&self.config)
    }

    /// Versions answer as the faults in force say.
    async fn worsen(&mut self) -> Result<(), LiveError> {
        let scenario = self.scenario;
        for (version, own) in &scenario.versions {
            let faults: Vec<(&Fault, f64)> =
                self.active.iter().filter_map(|active| self.part(active, version)).collect();
            let faults = answers(own, &faults, scenario.route.guard.latency_threshold).map_err(LiveError::Faults)?;
            self.fleet.answer(version, faults).await;
        }
        self.seen.endpoints_are_told();
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
                self.fleet.come_back(&down.version, down.endpoints, down.cold).await?;
            } else {
                self.fleet.go(&down.version, down.endpoints, down.by).await?;
            }
            one.flap = Some((!is_gone, now + self.real(every)));
        }
        self.active = active;
        Ok(())
    }

    fn load(&mut self) {
        let times: f64 =
            self.active.iter().filter_map(|active| self.scenario.events.get(active.index)?.what.times()).product();
        let rate = self.scenario.rate * self.scenario.live.speed * times;
        if (rate - self.rate).abs() > f64::EPSILON {
            self.rate = rate;
            self.traffic.set(rate);
        }
    }

    async fn look(&mut self) {
        self.looks += 1;
        self.traffic.look();
        if let Some(status) = self.edge.died() {
            let words = self.edge.last_words();
            self.watcher.broke(&format!("the edge ended by itself with {status}: {words}"));
            self.edge.kill().await;
        }
        if !self.edge.is_down {
            self.watcher.look(self.seen.harm).await;
            if self.looks.is_multiple_of(FILES_EVERY) {
                self.watcher.look_at_files(self.seen.harm).await;
                self.measure();
            }
        }
        self.odd.retain_mut(|(_, odd)| {
            let is_done = odd.are_done();
            self.seen.bad_inputs += if is_done { odd.bad_inputs() } else { 0 };
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

    /// A route that begins steady is not at its end for that.
    fn is_finished(&self) -> bool {
        let has_plan = matches!(self.scenario.route.plan, pointsman_config::Plan::Rollout(_));
        !has_plan || self.watcher.promoted.is_some()
    }

    fn measure(&mut self) {
        let is_early = self.now() * 4 < self.scenario.end;
        if let Some(Holdings { resident_bytes, descriptors, threads }) = self.edge.holdings() {
            let edge = &mut self.seen.edge;
            edge.peak_resident_bytes = edge.peak_resident_bytes.max(resident_bytes);
            edge.peak_descriptors = edge.peak_descriptors.max(descriptors);
            (edge.end_resident_bytes, edge.end_descriptors, edge.end_threads) = (resident_bytes, descriptors, threads);
            if is_early {
                edge.early_resident_bytes = edge.peak_resident_bytes;
                edge.early_descriptors = edge.peak_descriptors;
                edge.early_threads = edge.early_threads.max(threads);
            }
        }
    }

    /// Everything ends and comes right, and the books are compared.
    async fn close(&mut self, record: &mut Record) -> Result<(), LiveError> {
        let scenario = self.scenario;
        for active in std::mem::take(&mut self.active) {
            if let Some(event) = scenario.events.get(active.index) {
                self.end(&active, event).await?;
            }
        }
        self.odd.clear();
        let sums = self.traffic.end().await;
        self.come_right(sums.sent).await;
        self.measure();
        self.seen.edge.starts = self.edge.starts;
        for broken in self.edge.end().await.into_iter().chain(self.edge.panics()) {
            self.watcher.broke(&broken);
        }
        verdict::reach(scenario, record, &mut self.watcher, &self.traffic.requests, (&self.seen, sums));
        Ok(())
    }

    /// What was broken works again, and both sides have counted the same.
    async fn come_right(&mut self, sent: u64) {
        let deadline = Instant::now() + PATIENCE;
        let mut wrong = vec!["nothing was seen".to_owned()];
        while Instant::now() < deadline {
            if self.watcher.look(self.seen.harm).await {
                wrong = self.watcher.look_at_files(self.seen.harm).await;
                wrong.extend(self.watcher.missing());
                self.seen.counted = self.watcher.counted().await;
                let is_counted = !self.seen.is_countable() || self.seen.counted == Some(sent);
                if wrong.is_empty() && is_counted {
                    return;
                }
            }
            sleep(TICK * 4).await;
        }
        for problem in wrong {
            self.watcher.broke(&format!("it did not come right: {problem}"));
        }
    }
}

fn is_harm(what: &What) -> bool {
    match what {
        What::Traffic(_) | What::Order(_) | What::Edit(_) => false,
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
