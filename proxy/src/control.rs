//! The control path: one loop that owns everything that decides.
//!
//! Lines: recorder ► window ► analysis ► phase ► desired ► **control** ► publisher ► snapshot, and
//! file ► config ► **control** ► publisher. Ten times a second, and whenever an order, an edit or a health check comes
//! in: take what was counted, let the phase machine step, keep what it decided, put it in force, tell of it. The loop
//! waits for nothing but the home of its state, and for that 50 ms at most: a hung disk never delays a rollback, nor does
//! an API server that is lost. What a live Service is to select goes to [`actuator`], which carries it out beside the loop.
//!
//! Who decides nothing must not go on serving silently: if this loop panics, the process ends (see [`crate::app`]) and a
//! restart goes on from the state file.

pub(crate) mod actuator;
pub(crate) mod config_watch;
mod controlled;
pub(crate) mod discovery;
mod draining;
mod drift;
mod endpoints;
pub(crate) mod events;
pub(crate) mod gates;
pub mod handle;
pub(crate) mod health;
pub(crate) mod history;
pub(crate) mod home;
pub(crate) mod leader;
mod news;
mod picture;
pub mod publisher;
mod reload;
pub(crate) mod replicas;
pub(crate) mod resolver;
pub mod series;
mod standstill;
pub(crate) mod state;
mod way_back;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use nix::time::{ClockId, clock_gettime};
use pointsman_config::{Config, Route, RouteName, Split, VersionId};
use pointsman_rollout::{Change, Decision, Observed, Order, OrderKind, Role, Saved, Time};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior};
use tracing::{debug, info, warn};

pub(crate) use self::endpoints::{names as endpoint_names, services as endpoint_services};
pub(crate) use self::reload::running;

use self::actuator::{Aim, Mandate};
use self::config_watch::Reload;
use self::controlled::{Around, AroundWayBack, ControlledRoute};
use self::discovery::Discoveries;
use self::endpoints::Endpoints;
use self::events::Events;
use self::gates::Askers;
use self::handle::{Done, OrderError, OrderMessage};
use self::health::{HealthChecks, Turned};
use self::home::Home;
use self::news::Newsroom;
use self::publisher::{Live, Publisher, RoutePicture};
use self::replicas::{Message, Replication};
use self::resolver::{Resolved, Resolver};
use self::series::{Look, SeriesBook};
use self::standstill::{Moment, Row, Standstill, Teller, Watch, Word};
use self::state::Reopened;
use self::state::database::Batch;
use crate::asking::{Asking, Frozen};
use crate::mirror::books::MirrorCounts;
use crate::notify::Notifier;
use crate::observe::Observers;
use crate::recorder::{Failure, Taken, Totals};
use crate::retry::books::RetryCounts;
use crate::upgrade::LastWords;
use crate::view::{
    ConfigView, DecisionLine, DecisionRow, EdgeView, EndpointTurn, Event, RouteView, SharedJournal, View,
};

/// Between two looks at what was counted.
const TICK: Duration = Duration::from_millis(100);
/// Ticks in which every route is looked at once for people; the last of them makes the view.
const TICKS_PER_LOOK: usize = 10;
/// What the records of all trials together take in memory at most: those of some thirty rollouts at once of a quarter of an
/// hour each, or of five that go on for two.
const RECORDS_BYTES: usize = 64 << 20;
/// Up to so many routes are looked at in every tick.
const FEW_ROUTES: usize = 50;
/// Where the loop's clock begins. Far from zero, so that a phase that began long before this process has a moment too.
const CLOCK_BEGINS_AT: Duration = Duration::from_hours(24 * 365 * 100);
/// Longest that an edge which starts is not ready because nobody has said where its routes stand: by then whoever could
/// has not been reached for long, and an edge that serves as its file says is better than none.
const PLACED_WITHIN: Duration = Duration::from_secs(30);
/// Longest that the state file may take for its last words.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Longest that the last notifications may take.
pub(crate) const LAST_NEWS: Duration = Duration::from_secs(1);
/// Longest that the last lines and spans may take.
pub(crate) const LAST_RECORDS: Duration = Duration::from_millis(500);

/// What the rest of the process wants of the loop.
#[derive(Debug)]
pub(crate) enum Command {
    /// The listeners accept.
    Ready,
    /// SIGTERM: say that we are leaving.
    Drain,
    /// Keep what is to be kept, and end.
    Stop(oneshot::Sender<()>),
    /// Another process is to take over: keep what is to be kept and let go of the state file. Tells whether that is done;
    /// if not, nothing has changed.
    HandOver(oneshot::Sender<bool>),
    /// It did not take over.
    TakeBack,
    /// It did: decide nothing any more, and tell what was decided since.
    Retire(oneshot::Sender<LastWords>),
    /// What the process decided last that this one took over from.
    Inherit(LastWords),
}

/// Everything that comes in.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// From the admin API.
    pub(crate) orders: mpsc::Receiver<OrderMessage>,
    /// From the config file.
    pub(crate) reloads: mpsc::UnboundedReceiver<Reload>,
    /// From the health checks.
    pub(crate) turned: mpsc::UnboundedReceiver<Turned>,
    /// From the resolver and the discovery.
    pub(crate) resolved: mpsc::UnboundedReceiver<Resolved>,
    /// From the state file.
    pub(crate) reopened: mpsc::UnboundedReceiver<Reopened>,
    /// From other edges.
    pub(crate) replicas: mpsc::UnboundedReceiver<Message>,
    /// From the process.
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
}

/// What comes next.
#[derive(Debug)]
enum Input {
    Tick,
    Reload(Reload),
    Order(OrderMessage),
    Turned(Turned),
    Resolved(Resolved),
    Reopened(Reopened),
    Replica(Message),
    Command(Command),
}

impl Inputs {
    /// Waits for what comes next. A tick goes before everything but a command: no flood of orders or edits may keep the
    /// guard from looking.
    async fn next(&mut self, ticks: &mut Interval) -> Input {
        tokio::select! {
            biased;
            Some(command) = self.commands.recv() => Input::Command(command),
            _ = ticks.tick() => Input::Tick,
            Some(message) = self.replicas.recv() => Input::Replica(message),
            Some(reload) = self.reloads.recv() => Input::Reload(reload),
            Some(message) = self.orders.recv() => Input::Order(message),
            Some(turned) = self.turned.recv() => Input::Turned(turned),
            Some(resolved) = self.resolved.recv() => Input::Resolved(resolved),
            Some(reopened) = self.reopened.recv() => Input::Reopened(reopened),
        }
    }
}

/// Everything that the loop works with.
#[derive(Debug)]
pub(crate) struct Parts {
    /// What is in force.
    pub(crate) config: Config,
    /// What people see of it.
    pub(crate) config_view: ConfigView,
    /// What the state file knew of the routes.
    pub(crate) saved: BTreeMap<RouteName, Saved>,
    /// The first answers of the resolver and the discovery.
    pub(crate) resolved: Resolved,
    /// The one hand that writes snapshots.
    pub(crate) publisher: Publisher,
    /// Where state is kept.
    pub(crate) state: Home,
    /// Who is told.
    pub(crate) events: Events,
    /// Asks endpoints.
    pub(crate) checks: HealthChecks,
    /// Asks others about canaries.
    pub(crate) askers: Askers,
    /// Asks who is outside about canaries.
    pub(crate) asking: Asking,
    /// Asks for addresses of names.
    pub(crate) resolver: Resolver,
    /// Asks for addresses of Services.
    pub(crate) discoveries: Discoveries,
    /// Other edges, if this one is not alone.
    pub(crate) replication: Option<Replication>,
    /// Who outside is told.
    pub(crate) notifier: Notifier,
    /// What people see.
    pub(crate) view: Arc<ArcSwap<View>>,
    /// What people see of the last half hour.
    pub(crate) series: SeriesBook,
}

/// What was decided about the route at a position.
#[derive(Debug)]
struct Decided {
    position: usize,
    changes: Vec<Change>,
}

/// What was decided, and is in force.
#[derive(Debug)]
struct Settled {
    rows: Vec<Arc<DecisionRow>>,
    /// Whether the disk had it before.
    persisted: bool,
}

/// The loop.
#[derive(Debug)]
pub(crate) struct Control {
    started: Instant,
    /// The clock that decisions go by.
    watch: Watch,
    /// Tells of the time that it does not count.
    teller: Teller,
    config: Config,
    config_view: ConfigView,
    /// In the order of the file.
    routes: Vec<ControlledRoute>,
    /// What is known of routes that are not in the file, so that a quarantine survives their absence.
    parked: BTreeMap<RouteName, Saved>,
    endpoints: Endpoints,
    publisher: Publisher,
    state: Home,
    events: Events,
    checks: HealthChecks,
    askers: Askers,
    asking: Asking,
    resolver: Resolver,
    discoveries: Discoveries,
    replication: Option<Replication>,
    newsroom: Newsroom,
    view: Arc<ArcSwap<View>>,
    series: SeriesBook,
    observers: Observers,
    /// The last looks, by route.
    looks: BTreeMap<RouteName, RouteView>,
    counts: BTreeMap<RouteName, Totals>,
    ticks: usize,
    /// Something other than weights has to be published.
    republish: bool,
    /// Whether it was heard once where everything runs that serves: before that this edge is not ready. An edge that has
    /// served goes on, whatever is added.
    knows_endpoints: bool,
    /// Whether it was heard once where every route stands, or for too long not: the same.
    knows_state: bool,
    life: Life,
    /// Who waits until the state file is let go of, and until when it may take.
    releasing: Option<(oneshot::Sender<bool>, Instant)>,
}

/// How far the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// The listeners do not accept yet.
    Starting,
    Serving,
    /// It serves on while another process takes over.
    HandingOver,
    /// It was told to end.
    Draining,
}

impl Control {
    /// Takes over from the state file and puts the config in force.
    pub(crate) async fn begin(parts: Parts) -> Self {
        let mut control = Self {
            started: Instant::now(),
            watch: Watch::new(moment()),
            teller: Teller::default(),
            config: Config { routes: Vec::new(), ..parts.config.clone() },
            config_view: parts.config_view,
            routes: Vec::new(),
            parked: parts.saved,
            endpoints: Endpoints::default(),
            publisher: parts.publisher,
            state: parts.state,
            events: parts.events,
            checks: parts.checks,
            askers: parts.askers,
            asking: parts.asking,
            resolver: parts.resolver,
            discoveries: parts.discoveries,
            replication: parts.replication,
            newsroom: Newsroom::new(parts.notifier),
            view: parts.view,
            series: parts.series,
            observers: Observers::default(),
            looks: BTreeMap::new(),
            counts: BTreeMap::new(),
            ticks: 0,
            republish: true,
            knows_endpoints: false,
            knows_state: false,
            life: Life::Starting,
            releasing: None,
        };
        control.endpoints.learn(parts.resolved);
        let decided = control.take_up(parts.config);
        control.settle(decided).await;
        control.look_at_all();
        control
    }

    /// Runs until it is told to stop.
    pub(crate) async fn run(mut self, mut inputs: Inputs) {
        self.watch.begin(moment());
        let mut ticks = tokio::time::interval(TICK);
        // A late tick takes everything that was counted meanwhile; making it up would only make rows of nothing.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            match inputs.next(&mut ticks).await {
                Input::Tick => self.tick().await,
                Input::Reload(reload) => self.reload(reload).await,
                Input::Order(message) => self.obey(message).await,
                Input::Turned(turned) => self.take_turns(turned, &mut inputs.turned),
                Input::Resolved(resolved) => self.learn(resolved),
                Input::Reopened(reopened) => self.reconsider(reopened).await,
                Input::Replica(message) => self.hear(message).await,
                Input::Command(Command::Ready) => self.announce(|control| control.life = Life::Serving),
                Input::Command(Command::Drain) => self.announce(|control| control.life = Life::Draining),
                Input::Command(Command::Stop(stopped)) => return self.stop(stopped).await,
                Input::Command(Command::HandOver(done)) => self.hand_over(done),
                Input::Command(Command::TakeBack) => self.take_back(),
                // Whoever asked may be gone.
                Input::Command(Command::Retire(tell)) => return drop(tell.send(self.last_words())),
                Input::Command(Command::Inherit(words)) => self.inherit(words).await,
            }
        }
    }

    fn now(&self) -> Time {
        Time::after_start(CLOCK_BEGINS_AT + self.watch.shows(Instant::now()))
    }

    async fn stop(self, stopped: oneshot::Sender<()>) {
        let now = self.now();
        let Self { mut routes, mut state, observers, newsroom, .. } = self;
        let saved: Vec<_> = routes.iter_mut().map(|route| (route.route().name.clone(), route.save(now))).collect();
        state.put(saved, []);
        tokio::join!(observers.flush(LAST_RECORDS), newsroom.notifier.flush(LAST_NEWS));
        state.close(LAST_WORDS).await;
        // Whoever waited for the end may be gone.
        _ = stopped.send(());
    }

    /// The guard stays armed meanwhile; only orders have to wait, since they would be forgotten.
    fn hand_over(&mut self, done: oneshot::Sender<bool>) {
        if self.life != Life::Serving {
            // Whoever asked may have gone.
            _ = done.send(false);
            return;
        }
        let now = self.now();
        let saved: Vec<_> = self.routes.iter_mut().map(|route| (route.route().name.clone(), route.save(now))).collect();
        self.state.put(saved, []);
        self.state.release();
        self.life = Life::HandingOver;
        self.releasing = Some((done, Instant::now() + LAST_WORDS));
    }

    /// Tells who waits for it that the state file was let go of; takes it back if that takes too long. A disk that hangs
    /// holds up the takeover and no tick.
    fn look_at_release(&mut self, now: Instant) {
        let is_released = self.state.is_released();
        let is_over = |(_, until): &mut (oneshot::Sender<bool>, Instant)| is_released || now >= *until;
        let Some((done, _)) = self.releasing.take_if(is_over) else { return };
        if !is_released {
            self.take_back();
        }
        // Whoever asked may have gone, and then it says that it does not take over.
        _ = done.send(is_released);
    }

    /// What was decided since the state file was let go of, and is not in it.
    fn last_words(&self) -> LastWords {
        let Batch { mut routes, decisions } = self.state.take_waiting();
        // Elapsed times alone are no news: the successor counts on by itself.
        routes.retain(|route, _| decisions.iter().any(|row| row.route == *route));
        LastWords { routes, decisions: decisions.iter().map(|row| row.as_ref().clone()).collect() }
    }

    /// Goes on from what the process decided last that this one took over from; its decisions stand in the log as they were.
    async fn inherit(&mut self, words: LastWords) {
        let now = self.now();
        let rows: Vec<_> = words.decisions.into_iter().map(|row| self.events.adopt(row)).collect();
        self.state.put([], rows);
        let decided = self.weigh(words.routes, now);
        self.settle(decided).await;
    }

    fn take_back(&mut self) {
        self.releasing = None;
        if self.life == Life::HandingOver {
            self.life = Life::Serving;
        }
        self.state.reclaim();
    }

    fn announce(&mut self, change: impl FnOnce(&mut Self)) {
        change(self);
        self.show();
    }

    // ---- what is decided, in the order in which it happens ----

    async fn tick(&mut self) {
        let began = Instant::now();
        let stood_still = self.watch.look(Moment { now: began, ..moment() });
        if let Some(word) = self.teller.hear(stood_still, began) {
            tell_of_standstill(&word);
        }
        if let Some(standstill) = stood_still {
            self.wake(standstill);
        }
        let now = self.now();
        self.look_at_release(began);
        self.find_outliers(now);
        self.publisher.forget_drained(began);
        self.publisher.let_go();
        let clock = wall_clock();
        self.asking.listen();
        let mut decided = self.take_or_leave_the_lead(now);
        self.tell_of_lead();
        self.read_what_is_kept(now);
        for (position, route) in self.routes.iter_mut().enumerate() {
            let own = rows_of(&mut self.publisher, &route.route().name, began);
            let mirrored = self.publisher.take_mirrored(&route.route().name);
            let around = around_way_back(route, &self.endpoints, self.replication.as_ref(), now);
            route.hear(self.state.report(&route.route().name), &around, now);
            let (rows, around) = match &mut self.replication {
                Some(replication) => (replication.rows(&route.route().name, own), replication.around(route, now)),
                None => (own, Around::default()),
            };
            if route.role() == Role::Leader && route.trip().is_some() && self.state.is_kept(&route.route().name) {
                // Whoever leads next reads it; what is ordered after this is not to be undone by telling of it again.
                route.trip_was_heard();
            }
            self.askers.answer(route, (now, began));
            let is_asked = self.asking.is_about(&route.route().name);
            let subject = if is_asked { route.outside_subject(now) } else { None };
            route.set_outside(self.asking.gates(subject.as_ref(), (now, clock)));
            let changes = route.tick(&rows, mirrored.as_slice(), around, now);
            if !changes.is_empty() {
                decided.push(Decided { position, changes });
            }
        }
        if let Some(replication) = &mut self.replication {
            replication.forget_rows();
        }
        self.keep_elapsed(now);
        let news: Vec<_> = decided.iter().map(|decided| decided.position).collect();
        self.settle(decided).await;
        self.aim_all();
        self.ask_others();
        self.talk(false);
        self.look(&news);
        let spent = began.elapsed();
        if spent > TICK {
            debug!(spent_ms = spent.as_millis(), routes = self.routes.len(), "a tick took longer than its span");
        }
    }

    /// Nothing was looked at for a while. What was under way ended late because of that: it is no evidence, and no endpoint is
    /// slow for it. What others said is as old as it is, although the time does not count.
    fn wake(&mut self, standstill: Standstill) {
        self.publisher.forget_latencies();
        self.asking.grow_old(standstill.unseen());
        if let Some(replication) = &mut self.replication {
            replication.grow_old(standstill.unseen());
        }
        if standstill.disregards {
            self.publisher.disregard_what_is_under_way();
            self.republish = true;
            self.publish();
        }
    }

    /// Has others asked about the canaries that this edge decides about.
    fn ask_others(&self) {
        let questions = self.routes.iter().filter_map(|route| {
            let question = drift::question(route, &self.endpoints)?;
            Some((route.route().name.clone(), question))
        });
        self.askers.ask(questions.collect());
    }

    /// Tells what shall become of live Services, now that the weights are in force.
    fn aim_all(&mut self) {
        let mandate = self.replication.as_ref().map_or(Mandate::Alone, Replication::mandate);
        for route in &self.routes {
            if let Some(aim) = route.aim() {
                self.state.aim(&route.route().name, Aim { mandate, ..aim });
            }
        }
    }

    /// Keeps the elapsed times of routes that are moving.
    fn keep_elapsed(&mut self, now: Time) {
        let due = self.routes.iter_mut().filter(|route| route.is_save_due(now));
        let saved: Vec<_> = due.map(|route| (route.route().name.clone(), route.save(now))).collect();
        if !saved.is_empty() {
            self.state.put(saved, []);
        }
    }

    async fn obey(&mut self, message: OrderMessage) {
        self.leave_a_lead_that_ended();
        if let Some(message) = self.here_or_passed_on(message) {
            self.obey_here(message).await;
        }
    }

    /// Refuses an order whose giver had not seen the last decision. A rollback is never too late.
    fn overtaken(&self, message: &OrderMessage) -> Option<OrderError> {
        let seen = message.seen.filter(|_| message.order.kind != OrderKind::Rollback)?;
        let newest = self.newest_decision(&message.route).filter(|newest| newest.id != seen)?;
        info!(route = %message.route, actor = message.order.actor, seen, newest = newest.id, "order refused, overtaken");
        Some(OrderError::Overtaken { route: message.route.to_string(), newest: newest.id, what: newest.sentence })
    }

    /// The newest decision about a route, made here or by the edge that leads, or led before.
    fn newest_decision(&self, route: &RouteName) -> Option<DecisionLine> {
        let own = self.events.newest(route);
        let Some(replication) = &self.replication else { return own };
        let told = replication.newest(route).cloned();
        if replication.leads() {
            // Ids go on after those of whoever led before.
            return [told, own].into_iter().flatten().max_by_key(|newest| newest.id);
        }
        told.or(own)
    }

    async fn obey_here(&mut self, message: OrderMessage) {
        if let Some(overtaken) = self.overtaken(&message) {
            // Whoever asked may be gone.
            return drop(message.answer.send(Err(overtaken)));
        }
        let OrderMessage { route: name, order, answer, .. } = message;
        let now = self.now();
        let frozen = self.frozen_for(&name, &order);
        let known = self.routes.iter_mut().enumerate().find(|(_, route)| route.route().name == name);
        let obeyed = match known {
            None => Err(OrderError::NoRoute { route: name.to_string(), known: self.known_routes() }),
            Some(_) if answer.is_closed() => return,
            Some(_) if self.life == Life::HandingOver => Err(OrderError::HandingOver),
            Some(_) if frozen.is_some() => frozen.map_or(Err(OrderError::Stopping), Err),
            Some((position, route)) => {
                route.obey(&order, now).map(|changes| Decided { position, changes }).map_err(OrderError::from)
            }
        };
        let outcome = match obeyed {
            Ok(decided) => {
                let position = decided.position;
                let settled = self.settle(vec![decided]).await;
                self.done(position, &settled)
            }
            Err(refusal) => {
                info!(route = %name, actor = order.actor, %refusal, "order refused");
                Err(refusal)
            }
        };
        // Whoever asked may be gone; it happened all the same and stands in the log.
        drop(answer.send(outcome));
    }

    /// Why an order waits for the calendar; none if it does not.
    fn frozen_for(&mut self, route: &RouteName, order: &Order) -> Option<OrderError> {
        if order.kind != OrderKind::Promote {
            return None;
        }
        let Frozen { name, until_in_words, .. } = self.asking.frozen(route, wall_clock())?;
        Some(OrderError::Frozen { route: route.to_string(), name, until: until_in_words })
    }

    fn done(&mut self, position: usize, settled: &Settled) -> Result<Done, OrderError> {
        self.look_at(position);
        self.show();
        let route = self.routes.get(position).ok_or(OrderError::Stopping)?;
        let look = self.looks.get(&route.route().name).ok_or(OrderError::Stopping)?;
        let decisions = settled.rows.iter().map(|row| row.as_ref().clone()).collect();
        let effective = route.applied().clone();
        Ok(Done { decisions, route: look.clone(), effective, persisted: settled.persisted })
    }

    fn known_routes(&self) -> String {
        let names: Vec<_> = self.routes.iter().map(|route| route.route().name.as_str()).collect();
        names.join(", ")
    }

    /// Keeps what was decided, puts it in force and tells of it. The disk gets a moment first, so that a crash right
    /// after never resumes a canary that was taken back; but the weights do not wait for a disk that hangs.
    async fn settle(&mut self, decided: Vec<Decided>) -> Settled {
        let now = self.now();
        let mut rows = Vec::new();
        let mut saved = Vec::new();
        for Decided { position, changes } in decided {
            let Some(route) = self.routes.get_mut(position) else { continue };
            let name = route.route().name.clone();
            saved.push((name.clone(), route.save(now)));
            for change in changes {
                let failures = self.failures_behind(&name, &change);
                rows.push(self.events.row(&name, change, failures));
            }
        }
        let persisted = saved.is_empty() || {
            let put = self.state.put(saved, rows.iter().cloned());
            self.state.written(put).await
        };
        self.publish();
        if let Some(first) = rows.first().filter(|_| !persisted) {
            warn!(decision = first.id, "decided and in force before it was kept; a crash now would forget it");
        }
        if !rows.is_empty() {
            self.talk(true);
        }
        for row in &rows {
            self.events.tell(row);
            self.tell_of_decision(row);
        }
        Settled { rows, persisted }
    }

    /// Failing requests of the canary, as a sample, for decisions that failures may have led to.
    fn failures_behind(&self, route: &RouteName, change: &Change) -> Vec<Failure> {
        let explains = matches!(change.decision, Decision::Rollback | Decision::Alert | Decision::Pause);
        let ledger = self.publisher.ledger(route).filter(|_| explains);
        match (ledger, &change.canary) {
            (Some(ledger), Some(canary)) => ledger.failures(canary),
            (Some(_) | None, _) => Vec::new(),
        }
    }

    /// Puts in force what shall be, if it is not in force already.
    fn publish(&mut self) {
        let splits: Vec<Split> = self.routes.iter().map(ControlledRoute::effective).collect();
        let moved = self.routes.iter().zip(&splits).any(|(route, split)| !route.is_in_force(split));
        if !moved && !self.republish {
            return;
        }
        let pictures: Vec<_> = self.routes.iter().zip(&splits).map(|(route, split)| picture(route, split)).collect();
        let endpoints = &self.endpoints;
        let mark = |route: &RouteName, live: &Live| endpoints.mark(route, live, Instant::now());
        let generation = self.publisher.publish_marked(&pictures, mark);
        debug!(generation, "published");
        for (route, split) in self.routes.iter_mut().zip(splits) {
            route.set_applied(split);
        }
        if std::mem::take(&mut self.republish) {
            self.mark_all();
        }
    }

    // ---- endpoints ----

    /// Tells the data path which endpoints are up; new ones do not know it yet.
    fn mark_all(&self) {
        for route in &self.routes {
            self.mark(&route.route().name);
        }
    }

    fn mark(&self, route: &RouteName) {
        if let Some(live) = self.publisher.live(route) {
            self.endpoints.mark(route, live, Instant::now());
        }
    }

    /// Endpoints came up or went down; takes in all that wait, so that many at once are published once.
    fn take_turns(&mut self, first: Turned, waiting: &mut mpsc::UnboundedReceiver<Turned>) {
        let (mut next, mut moved) = (Some(first), false);
        while let Some(turned) = next {
            if let Some(noted) = self.endpoints.note(turned) {
                moved = true;
                self.endpoints_moved(&noted.route, noted.turn);
            }
            next = waiting.try_recv().ok();
        }
        // Most of what comes in is known already, and looking at every route for it would be dear.
        if moved {
            self.publish();
        }
    }

    /// Endpoints whose requests fail sit out, others come back; what that means for weights is published with the tick.
    fn find_outliers(&mut self, now: Time) {
        for position in 0..self.routes.len() {
            let Some(name) = self.routes.get(position).map(|route| route.route().name.clone()) else { continue };
            let Some(live) = self.publisher.live(&name) else { continue };
            let turns = self.endpoints.find_outliers(&name, live, now);
            if !turns.is_empty() {
                self.endpoints_moved(&name, turns);
            }
        }
    }

    /// Everybody learns which endpoints of a route take requests now.
    fn endpoints_moved(&mut self, name: &RouteName, turns: impl IntoIterator<Item = EndpointTurn>) {
        self.mark(name);
        let (ready, now) = (self.endpoints.ready(name), self.now());
        if let Some(route) = self.routes.iter_mut().find(|route| route.route().name == *name) {
            route.set_ready(ready, now);
        }
        if self.events.has_listeners() {
            turns.into_iter().for_each(|turn| self.events.send(Event::Endpoint(turn)));
        }
    }

    /// Names were looked up, or Services have moved.
    fn learn(&mut self, resolved: Resolved) {
        if self.endpoints.learn(resolved) {
            self.place_all();
            self.publish();
        }
    }

    /// Places the endpoints of every route anew and has them checked.
    fn place_all(&mut self) {
        let now = self.now();
        for route in &mut self.routes {
            self.endpoints.place(route.route(), &route.main());
            let name = route.route().name.clone();
            route.set_addresses(self.endpoints.addresses(&name));
            route.set_ready(self.endpoints.ready(&name), now);
        }
        self.checks.set(self.endpoints.checks());
        self.republish = true;
    }

    // ---- the state file ----

    /// The state file can be written again: what it holds that we did not know is weighed, and all is kept.
    async fn reconsider(&mut self, reopened: Reopened) {
        let now = self.now();
        self.events.go_on_after(reopened.last_id, reopened.renumbered);
        self.publisher.sign_with(reopened.cookie_secret);
        self.republish = true;
        for name in reopened.unknown.keys() {
            warn!(route = %name, "what was kept of this route was found late");
        }
        let decided = self.weigh(reopened.unknown, now);
        let all: Vec<_> = self.routes.iter_mut().map(|route| (route.route().name.clone(), route.save(now))).collect();
        self.state.put(all, []);
        self.settle(decided).await;
    }

    /// Weighs what somebody else knew of the routes against what this process knows.
    fn weigh(&mut self, theirs: BTreeMap<RouteName, Saved>, now: Time) -> Vec<Decided> {
        let mut decided = Vec::new();
        let is_shared = self.replication.is_some();
        for (name, saved) in theirs {
            match self.routes.iter_mut().enumerate().find(|(_, route)| route.route().name == name) {
                Some((position, route)) if is_shared => {
                    decided.push(Decided { position, changes: route.weigh(saved, now) });
                }
                Some((position, route)) => decided.push(Decided { position, changes: route.reconsider(saved, now) }),
                // What this process parked is newer.
                None => drop(self.parked.entry(name).or_insert(saved)),
            }
        }
        decided
    }

    // ---- what people see ----

    /// Looks at routes for people: at all of them in every tick while there are few, else at a tenth of them; and at
    /// those where something was decided.
    fn look(&mut self, news: &[usize]) {
        self.ticks = self.ticks.wrapping_add(1);
        let few = self.routes.len() <= FEW_ROUTES;
        let turn = self.ticks % TICKS_PER_LOOK;
        for position in 0..self.routes.len() {
            let due = position % TICKS_PER_LOOK == turn;
            if due {
                self.summarise(position);
            }
            if due || few || news.contains(&position) {
                self.look_at(position);
            }
            if due {
                self.send_sample(position);
                self.keep_second(position, (Instant::now(), events::unix_ms()));
                self.tell_of_hold(position);
            }
        }
        if few || !news.is_empty() || turn == 0 {
            self.show();
        }
        if turn == 0 {
            self.send_edge();
            self.share_room_for_records();
        }
    }

    /// Gives each record of a trial the same part of what all of them may take.
    fn share_room_for_records(&self) {
        let records: usize = self.routes.iter().map(ControlledRoute::records).sum();
        for route in &self.routes {
            route.keep_records_within(RECORDS_BYTES / records.max(1));
        }
    }

    fn summarise(&mut self, position: usize) {
        if let Some(route) = self.routes.get_mut(position) {
            route.summarise();
        }
    }

    fn send_sample(&self, position: usize) {
        let look = self.routes.get(position).and_then(|route| self.looks.get(&route.route().name));
        if let Some(look) = look.filter(|_| self.events.has_listeners()) {
            self.events.send(Event::Sample(look.clone()));
        }
    }

    /// Another second of a route for whoever looks back, by both clocks.
    fn keep_second(&self, position: usize, (now, unix_ms): (Instant, u64)) {
        let Some(route) = self.routes.get(position) else { return };
        let name = &route.route().name;
        let (Some(view), Some(totals)) = (self.looks.get(name), self.counts.get(name)) else { return };
        let now = Time::after_start(CLOCK_BEGINS_AT + self.watch.age(now));
        let second = self.series.record(&Look { now, unix_ms, policy: route.error_policy(), totals, view });
        if self.events.has_listeners() {
            self.events.send(Event::Second(second));
        }
    }

    fn send_edge(&self) {
        if !self.events.has_listeners() {
            return;
        }
        let view = self.view.load();
        self.events.send(Event::Edge(EdgeView {
            at: events::now_in_words(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: view.ready,
            draining: view.draining,
            state: view.state.clone(),
            replicas: view.replicas.clone(),
            notifications: view.notifications.clone(),
        }));
    }

    fn look_at_all(&mut self) {
        for position in 0..self.routes.len() {
            self.look_at(position);
        }
        self.show();
    }

    fn look_at(&mut self, position: usize) {
        let now = self.now();
        let Some(name) = self.routes.get(position).map(|route| route.route().name.clone()) else { return };
        let last_decision = self.newest_decision(&name);
        let Some(route) = self.routes.get_mut(position) else { return };
        let totals = totals_of(&mut self.publisher, route.route());
        route.record(totals.clone(), now);
        let endpoints = &self.endpoints;
        let versions = route.route().versions.keys();
        let seen = versions.map(|version| {
            let live = self.publisher.endpoints(&name, version);
            let mut views = endpoints.view((&name, version), &live, now);
            views.extend(self.publisher.draining((&name, version), Instant::now()));
            let seen = picture::Endpoints { views, ejections: endpoints.ejections(&name, version) };
            (version.clone(), seen)
        });
        let beside = picture::Beside {
            endpoints: seen.collect(),
            last_decision,
            mirror: self.publisher.mirror_view(&name),
            users_saturated: self.publisher.users_are_saturated(&name),
        };
        self.looks.insert(name.clone(), picture::of(route, beside, now));
        self.counts.insert(name, totals);
    }

    fn retries(&self) -> BTreeMap<RouteName, BTreeMap<VersionId, RetryCounts>> {
        let names = self.routes.iter().map(|route| &route.route().name);
        names.map(|name| (name.clone(), self.publisher.retries(name))).collect()
    }

    fn mirrors(&self) -> BTreeMap<RouteName, MirrorCounts> {
        let names = self.routes.iter().map(|route| &route.route().name);
        names.filter_map(|name| Some((name.clone(), self.publisher.mirror_counts(name)?))).collect()
    }

    /// Whether it is known where every route stands whose state is kept in a cluster, or was waited for long enough: a version
    /// that was promoted and whose predecessor is gone would get nothing from an edge that begins as its file says.
    fn hears_where_routes_stand(&self) -> bool {
        let is_placed = |route: &ControlledRoute| {
            self.state.report(&route.route().name).is_none_or(|report| route.is_placed(&report))
        };
        self.routes.iter().all(is_placed) || self.started.elapsed() >= PLACED_WITHIN
    }

    fn journals(&self) -> BTreeMap<RouteName, SharedJournal> {
        self.routes.iter().map(|route| (route.route().name.clone(), route.journal_handle())).collect()
    }

    /// Shows the last looks to everybody.
    fn show(&mut self) {
        let is_known = |route: &ControlledRoute| self.endpoints.is_known(&route.route().name, &route.main());
        self.knows_endpoints = self.knows_endpoints || self.routes.iter().all(is_known);
        self.knows_state = self.knows_state || self.hears_where_routes_stand();
        let looks = self.routes.iter().filter_map(|route| self.looks.get(&route.route().name));
        self.view.store(Arc::new(View {
            config: self.config_view.clone(),
            state: self.state.view(),
            routes: looks.cloned().collect(),
            counts: self.counts.clone(),
            retries: self.retries(),
            refusals: self.publisher.refusals(),
            mirrors: self.mirrors(),
            journals: self.journals(),
            decisions: self.events.counts().clone(),
            observed: self.observers.counts(),
            notifications: self.newsroom.notifier.views(),
            replicas: self.replication.as_ref().map(|replication| replication.view(self.now())),
            stood_still: self.watch.unseen(),
            ready: self.life != Life::Starting && self.knows_endpoints && self.knows_state,
            draining: self.life == Life::Draining,
        }));
    }
}

/// Who asks why a step takes longer than it is to last finds it in the log.
fn tell_of_standstill(word: &Word) {
    match word {
        Word::Of(one @ Standstill { suspended, disregards: true, .. }) => warn!(
            uncounted_ms = one.unseen().as_millis(),
            suspended_ms = suspended.as_millis(),
            "this process stood still, as it does when it is stopped or its machine is paused or suspended; requests that were under way \
             are no evidence, and the time counts for no step and no bake"
        ),
        Word::Of(one @ Standstill { suspended, disregards: false, .. }) => warn!(
            uncounted_ms = one.unseen().as_millis(),
            suspended_ms = suspended.as_millis(),
            "this process stood still again a moment later; the time counts for no step and no bake, but requests that were \
             under way are evidence, or a guard that is always late would see no failure"
        ),
        Word::OfRow(row @ Row { standstills, disregarded, unseen, .. }) => warn!(
            standstills,
            disregarded,
            uncounted_ms = unseen.as_millis(),
            within_ms = row.lasts().as_millis(),
            "this process stands still again and again: this machine is too slow or is paused again and again. Steps and bakes \
             take so much longer, and requests that were under way are evidence but for once in ten seconds; give it more \
             processor time, or see what pauses it"
        ),
    }
}

/// Now, by the clock that a suspended machine stops and by the one that it does not.
fn moment() -> Moment {
    let read = |clock| clock_gettime(clock).map(Duration::from);
    let both = [ClockId::CLOCK_BOOTTIME, ClockId::CLOCK_MONOTONIC].map(read);
    let suspended = if let [Ok(goes_on), Ok(stops)] = both { goes_on.saturating_sub(stops) } else { Duration::ZERO };
    Moment { now: Instant::now(), suspended }
}

/// What a calendar goes by.
fn wall_clock() -> DateTime<Utc> {
    DateTime::from(SystemTime::now())
}

/// What became known about one route since the last tick.
fn rows_of(publisher: &mut Publisher, route: &RouteName, now: Instant) -> Vec<Observed> {
    let observed = publisher.take(route, now).into_iter().map(|Taken { epoch, row, requests, drawn }| {
        let terms = epoch.terms();
        let (stable, canary) = (terms.stable.clone(), terms.canary.clone());
        Observed { stable, canary, trial: terms.trial, row, requests, drawn }
    });
    observed.collect()
}

/// What was counted of a route's versions; of one that left the file until the last of its requests has ended.
fn totals_of(publisher: &mut Publisher, route: &Route) -> Totals {
    let Some(ledger) = publisher.ledger_mut(&route.name) else { return Totals::new() };
    ledger.forget_all_but(|version| route.versions.contains_key(version));
    ledger.totals()
}

/// What is known of a route's way back beside its live Service. Whoever leads has golden answers asked for, as long as there
/// is something to go back from.
fn around_way_back(
    route: &ControlledRoute,
    endpoints: &Endpoints,
    replication: Option<&Replication>,
    now: Time,
) -> AroundWayBack {
    if route.route().live_service.is_none() {
        return AroundWayBack::default();
    }
    let (name, leads) = (&route.route().name, replication.is_none_or(Replication::leads));
    AroundWayBack {
        checked: endpoints.proven(name, route.goes_back_to().filter(|_| leads)),
        pushed: replication.filter(|_| leads).map_or(Ok(Duration::ZERO), |all| all.pushed(name, now)),
    }
}

fn picture<'a>(route: &'a ControlledRoute, split: &Split) -> RoutePicture<'a> {
    RoutePicture {
        route: Arc::clone(route.route()),
        stable: route.serving().clone(),
        split: split.clone(),
        trial: route.trial(),
        endpoints: route.addresses(),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use tokio::sync::broadcast;

    use super::*;
    use crate::cluster::Connection;
    use crate::control::history::History;
    use crate::control::state::{COMMIT_PATIENCE, StateFile};
    use crate::endpoint::Endpoint;
    use crate::pool::Pool;
    use crate::snapshot::Snapshots;

    const ROUTES: usize = 1_000;

    /// Routes with ten endpoints each; nobody listens there, and nobody is asked.
    fn config(routes: usize, v2_percent: u32) -> Config {
        let mut text = "listeners: [{ address: 127.0.0.1:0 }]\nroutes:\n".to_owned();
        for number in 0..routes {
            let at =
                |from: u16| (from..from + 5).map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(", ");
            writeln!(
                text,
                "  - {{ name: r{number}, match: {{ path_prefix: /r{number} }}, stable: v1, versions: {{ v1: {{ endpoints: [{}] }}, \
                 v2: {{ endpoints: [{}] }} }}, weights: {{ v1: {}%, v2: {v2_percent}% }}, health_check: {{ interval: 1h, timeout: 1s }} }}",
                at(1),
                at(11),
                100 - v2_percent
            )
            .unwrap();
        }
        Config::parse(&text, "test").unwrap().config
    }

    async fn control(folder: &tempfile::TempDir, config: Config) -> Control {
        control_over(folder, config, &Arc::default()).await
    }

    async fn control_over(folder: &tempfile::TempDir, config: Config, snapshots: &Arc<Snapshots>) -> Control {
        let state = folder.path().join("state.db");
        let (event, _) = broadcast::channel(1);
        let runtime = tokio::runtime::Handle::current();
        let parts = Parts {
            config,
            config_view: ConfigView::default(),
            saved: BTreeMap::new(),
            resolved: Resolved::new(),
            publisher: Publisher::new(Arc::clone(snapshots), 2),
            state: Home::File(StateFile::open(state.clone(), mpsc::unbounded_channel().0).unwrap().0),
            events: Events::new(0, History::of_file(state), event),
            checks: HealthChecks::start(&runtime, mpsc::unbounded_channel().0),
            askers: Askers::start(&runtime),
            asking: Asking::start(&runtime),
            resolver: Resolver::start(&runtime, mpsc::unbounded_channel().0),
            discoveries: Discoveries::start(&runtime, Connection::default(), mpsc::unbounded_channel().0),
            replication: None,
            notifier: Notifier::default(),
            view: Arc::new(ArcSwap::from_pointee(View::default())),
            series: SeriesBook::default(),
        };
        Control::begin(parts).await
    }

    /// What this thread has computed so far, so that other tests on the machine do not count.
    fn spent() -> Duration {
        let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD).unwrap();
        [usage.user_time(), usage.system_time()]
            .map(|time| {
                let (seconds, micros) = (time.tv_sec().unsigned_abs(), time.tv_usec().unsigned_abs());
                Duration::from_secs(seconds) + Duration::from_micros(micros)
            })
            .iter()
            .sum()
    }

    #[tokio::test]
    async fn a_tick_over_a_thousand_idle_routes_is_short() {
        let folder = tempfile::tempdir().unwrap();
        let mut control = control(&folder, config(ROUTES, 10)).await;
        let began = spent();
        // Every tenth tick makes the whole view.
        for _ in 0..3 * TICKS_PER_LOOK {
            control.tick().await;
        }
        let mean = spent().saturating_sub(began) / 30;
        // Built without optimisation, as this test is by default; half a tick is left even so.
        assert!(mean < TICK / 2, "{mean:?}");
        assert_eq!(control.view.load().routes.len(), ROUTES);
    }

    #[tokio::test]
    async fn an_edit_of_a_thousand_routes_is_in_force_in_a_part_of_its_half_second() {
        let folder = tempfile::tempdir().unwrap();
        let mut control = control(&folder, config(ROUTES, 10)).await;
        let mut quickest = Duration::MAX;
        for percent in [20, 30, 40] {
            let edited = config(ROUTES, percent);
            let began = spent();
            let decided = control.take_up(edited);
            assert_eq!(decided.len(), ROUTES);
            control.settle(decided).await;
            // The quickest of several, and by what it computed, since other tests keep the machine busy.
            quickest = quickest.min(spent().saturating_sub(began));
        }
        // Built without optimisation; a release build takes a fraction of it.
        assert!(quickest < Duration::from_millis(500), "{quickest:?}");
    }

    #[tokio::test]
    async fn a_rollback_does_not_wait_for_a_disk_that_hangs() {
        let folder = tempfile::tempdir().unwrap();
        let mut control = control(&folder, config(1, 10)).await;
        bring_up(&mut control, "r0").await;
        // One endpoint of five carries 28 % of what is asked for its version, 10 %.
        assert_eq!(control.routes[0].applied().share_of(&"v2".parse().unwrap()).ppm(), 28_000);
        let hung = rusqlite::Connection::open(folder.path().join("state.db")).unwrap();
        hung.busy_timeout(Duration::from_secs(5)).unwrap();
        hung.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let order = order(OrderKind::Rollback);
        let (answer, answered) = oneshot::channel();
        let began = Instant::now();
        control.obey(OrderMessage { route: "r0".parse().unwrap(), order, seen: None, answer }).await;
        assert!(began.elapsed() < 2 * COMMIT_PATIENCE, "{:?}", began.elapsed());
        let done = answered.await.unwrap().unwrap();
        assert_eq!(done.effective, Split::Whole("v1".parse().unwrap()));
        assert_eq!(done.decisions.len(), 1);
        assert!(!done.persisted, "nobody may be told that it is on disk");
    }

    async fn ordered(control: &mut Control, kind: OrderKind, seen: Option<u64>) -> Result<u64, &'static str> {
        let (answer, answered) = oneshot::channel();
        control.obey(OrderMessage { route: "r0".parse().unwrap(), order: order(kind), seen, answer }).await;
        let done = answered.await.unwrap();
        done.map(|done| done.decisions[0].id)
            .map_err(|error| if error.code() == "overtaken" { "overtaken" } else { "" })
    }

    #[tokio::test]
    async fn an_order_is_refused_whose_giver_had_not_seen_the_last_decision_and_a_rollback_never() {
        let folder = tempfile::tempdir().unwrap();
        let mut control = control(&folder, config(1, 10)).await;
        bring_up(&mut control, "r0").await;
        let weights = |percent: &str| {
            let share = percent.parse().unwrap();
            OrderKind::SetWeights(Split::canary("v1".parse().unwrap(), "v2".parse().unwrap(), share))
        };
        let first = ordered(&mut control, weights("20%"), None).await.unwrap();
        let before = control.routes[0].asked();
        assert_eq!(ordered(&mut control, weights("30%"), Some(first - 1)).await, Err("overtaken"));
        assert_eq!(control.routes[0].asked(), before, "nothing has changed");
        let second = ordered(&mut control, weights("30%"), Some(first)).await.unwrap();
        assert!(second > first);
        assert!(ordered(&mut control, OrderKind::Rollback, Some(first)).await.is_ok());
    }

    #[tokio::test]
    async fn every_second_of_a_route_is_kept_and_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut control = control(&folder, config(2, 10)).await;
        bring_up(&mut control, "r0").await;
        for _ in 0..2 * TICKS_PER_LOOK {
            control.tick().await;
        }
        let name: RouteName = "r1".parse().unwrap();
        assert!(control.series.of(&name).now_ms > 0);
        let decided = control.take_up(config(1, 10));
        control.settle(decided).await;
        assert_eq!(control.series.of(&name).now_ms, 0);
    }

    #[tokio::test]
    async fn a_second_before_a_standstill_lies_as_far_back_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut control = control(&folder, config(1, 10)).await;
        let (name, v2): (RouteName, VersionId) = ("r0".parse().unwrap(), "v2".parse().unwrap());
        let start = Instant::now();
        control.watch.begin(Moment { now: start, ..moment() });
        let mut served = 0;
        for second in [0, 1, 600] {
            let now = start + Duration::from_secs(second);
            control.watch.look(Moment { now, ..moment() });
            served += 10;
            let totals = control.counts.get_mut(&name).unwrap().entry(v2.clone()).or_default();
            (totals.outcomes[0], totals.histogram[0]) = (served, served);
            control.keep_second(0, (now, 1_000_000 + 1_000 * second));
        }
        assert_eq!(control.series.of(&name).versions[&v2].at_ms, [1_001_000, 1_600_000]);
    }

    #[tokio::test]
    async fn at_waking_latencies_are_forgotten_and_what_was_under_way_is_disregarded_where_it_is_its_turn() {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = Arc::<Snapshots>::default();
        let mut control = control_over(&folder, config(1, 10), &snapshots).await;
        let (name, v1): (RouteName, VersionId) = ("r0".parse().unwrap(), "v1".parse().unwrap());
        let epoch = || Arc::clone(&snapshots.load().routes.find(None, "/r0").unwrap().epoch);
        for disregards in [true, false] {
            let two = control.publisher.endpoints(&name, &v1).into_iter().take(2).collect();
            let (pool, before, now) = (Pool::new(v1.clone(), two), epoch(), Instant::now());
            let answers = |endpoint: &Arc<Endpoint>, took| {
                let mut request = endpoint.enter();
                request.sets_out(now);
                request.answered(true, now + took);
            };
            answers(&pool.endpoints()[0], Duration::from_secs(6));
            let uncounted = Duration::from_secs(5);
            control.wake(Standstill { uncounted, suspended: Duration::ZERO, disregards });
            assert_eq!(!Arc::ptr_eq(&before, &epoch()), disregards, "what comes now has books of its own");
            for endpoint in pool.endpoints() {
                answers(endpoint, Duration::from_millis(5));
            }
            let held: Vec<_> = (0..100).map(|_| pool.pick(&[], now).unwrap().1.enter()).collect();
            let [one, other] = [0, 1].map(|position: usize| pool.endpoints()[position].in_flight());
            assert!(one.abs_diff(other) < 20, "{one} and {other} of {}", held.len());
        }
    }

    /// A thousand routes with weights that stand for months take no more than a few do.
    #[tokio::test]
    async fn the_records_of_all_routes_share_what_they_may_take() {
        let folder = tempfile::tempdir().unwrap();
        let mut control = control(&folder, config(40, 10)).await;
        for number in 0..40 {
            bring_up(&mut control, &format!("r{number}")).await;
        }
        let bytes = |control: &Control| -> usize {
            let journals = control.routes.iter().map(ControlledRoute::journal_handle);
            journals.map(|journal| journal.lock().unwrap().bytes()).sum()
        };
        let counted = |route: &ControlledRoute| Observed {
            stable: "v1".parse().unwrap(),
            canary: Some("v2".parse().unwrap()),
            trial: route.trial(),
            row: pointsman_rollout::Row {
                weight: pointsman_config::Share::from_ppm(20_000).unwrap(),
                canary: pointsman_rollout::Tally { requests: 1, errors: 0, slow: 0 },
                stable: pointsman_rollout::Tally::default(),
            },
            requests: None,
            drawn: pointsman_rollout::Drawn::default(),
        };
        // Five thousand rows in each tick, in place of so many ticks.
        for _ in 0..5 {
            let now = control.now();
            for route in &mut control.routes {
                let rows = vec![counted(route); 5_000];
                route.tick(&rows, &[], Around::default(), now);
            }
            for _ in 0..TICKS_PER_LOOK {
                control.look(&[]);
            }
        }
        let all = bytes(&control);
        assert!((1 << 20..=RECORDS_BYTES).contains(&all), "{all}");
    }

    /// One endpoint of v2 passed its check.
    async fn bring_up(control: &mut Control, route: &str) {
        let (route, version) = (route.parse().unwrap(), "v2".parse().unwrap());
        let target = health::Target { route, version, address: ([127, 0, 0, 1], 11).into() };
        let number = control.endpoints.checks()[&target].number;
        let (_tell, mut none) = mpsc::unbounded_channel();
        control.take_turns(Turned { target, number, up: true, problem: None }, &mut none);
        control.tick().await;
    }

    fn order(kind: OrderKind) -> Order {
        Order { kind, actor: "test".to_owned(), reason: String::new() }
    }

    #[tokio::test]
    async fn what_is_decided_during_a_takeover_is_told_to_the_successor() {
        let folder = tempfile::tempdir().unwrap();
        let mut old = control(&folder, config(1, 10)).await;
        bring_up(&mut old, "r0").await;
        old.life = Life::Serving;
        let (done, mut released) = oneshot::channel();
        old.hand_over(done);
        let is_released = loop {
            old.tick().await;
            match released.try_recv() {
                Ok(is_released) => break is_released,
                Err(_not_yet) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        assert!(is_released);
        // As the guard would, which stays armed; an operator's order is refused meanwhile.
        let now = old.now();
        let changes = old.routes[0].obey(&order(OrderKind::Rollback), now).unwrap();
        old.settle(vec![Decided { position: 0, changes }]).await;
        let words = serde_json::to_string(&old.last_words()).unwrap();
        assert!(!words.contains('\n'), "it is one line");

        let mut new = control(&folder, config(1, 10)).await;
        bring_up(&mut new, "r0").await;
        let v2: VersionId = "v2".parse().unwrap();
        assert!(new.routes[0].applied().share_of(&v2) > pointsman_config::Share::ZERO);
        new.inherit(serde_json::from_str(&words).unwrap()).await;
        assert_eq!(*new.routes[0].applied(), Split::Whole("v1".parse().unwrap()));
        assert_eq!(new.routes[0].held_back(new.now()), [v2]);
        let newest = new.events.newest(&"r0".parse().unwrap()).unwrap();
        assert!(newest.decision.contains("rollback") || newest.sentence.contains("v2"), "{newest:?}");
    }

    #[tokio::test]
    async fn what_is_counted_of_a_route_goes_with_it_and_of_a_version_with_its_last_request() {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = Arc::<Snapshots>::default();
        let mut control = control_over(&folder, config(2, 10), &snapshots).await;
        bring_up(&mut control, "r0").await;
        bring_up(&mut control, "r1").await;
        let (answer, answered) = oneshot::channel();
        let name: RouteName = "r1".parse().unwrap();
        let message = OrderMessage { route: name.clone(), order: order(OrderKind::Rollback), seen: None, answer };
        control.obey(message).await;
        answered.await.unwrap().unwrap();
        assert!(control.events.counts().keys().any(|(route, _)| *route == name));
        let decided = control.take_up(config(1, 10));
        control.settle(decided).await;
        control.look_at_all();
        assert!(control.events.counts().keys().all(|(route, _)| *route != name));
        assert!(!control.counts.contains_key(&name) && !control.looks.contains_key(&name));

        let v2: VersionId = "v2".parse().unwrap();
        let mut without = config(1, 0);
        let route = without.routes.first_mut().unwrap();
        route.plan = pointsman_config::Plan::Weights(Split::Whole(route.stable.clone()));
        route.versions.remove(&v2);
        let busy = Arc::clone(&snapshots.load().routes.find(None, "/r0").unwrap().epoch);
        let decided = control.take_up(without);
        control.settle(decided).await;
        control.tick().await;
        let counted = |control: &Control| control.view.load().counts.values().any(|totals| totals.contains_key(&v2));
        assert!(counted(&control), "a request of it is still under way");
        drop(busy);
        control.tick().await;
        control.tick().await;
        assert!(!counted(&control));
    }
}
