//! Several edges that decide as one: the leader judges the sum of what all of them counted, the others do what it says,
//! and each takes a canary back by itself that fails most of its own requests.
//!
//! Line: (other edges) ► **replicas** ► control. The leader puts one question to every edge, five times a second and at
//! once after a decision: it says where each route stands, and gets what was counted, what is applied and what was taken
//! back. Whoever is cut off goes on with the last word; whoever leads next goes on from it.

mod client;
pub(crate) mod members;
mod orders;
mod peers;
mod pull;
pub(crate) mod rows;
mod serve;
mod takeover;
#[cfg(test)]
mod tests;
mod token;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{Replicas as Settings, RouteName};
use pointsman_kubernetes::Cluster;
use pointsman_rollout::{Identity, Observed, Role, Saved, Time, Trip};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::info;

use self::client::Client;
use self::members::{Addresses, Members};
use self::pull::{LastWord, Pullers, ToOne, Word};
use self::rows::{Collected, RowLog};
use self::takeover::Takeover;
use self::token::SharedToken;
use self::wire::{Answer, Applied, Ask, Carried, Leader, PassedOn, Stale, Tripped};
use super::actuator::{Found, Mandate};
use super::controlled::{Around, ControlledRoute, Followed};
use super::home::Home;
use super::leader::Seat;
use super::{Control, Decided};
use crate::view::{DecisionLine, ReplicasView};

/// Between two words of the leader, where nothing was decided: every second tick.
const WORD_EVERY: Duration = Duration::from_millis(200);
/// A leader that has not asked for so long is not waited for with a trip.
const LEADER_IS_SILENT: Duration = Duration::from_millis(300);
/// A leader that has not asked for so long may be out of reach of this edge alone: what it wrote is read instead.
const LEADER_IS_OUT_OF_REACH: Duration = Duration::from_secs(1);
/// Between two times at which a trip is told to every edge.
const TELL_AGAIN: Duration = Duration::from_millis(500);

/// What comes in from other edges.
#[derive(Debug)]
pub(crate) enum Message {
    /// These edges there are.
    Members(Addresses),
    /// The leader asks.
    Asked {
        /// What.
        ask: Box<Ask>,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Answer, Stale>>,
    },
    /// An edge answered.
    Answered {
        /// Which.
        address: SocketAddr,
        /// How long it took to put in force what it was told, and to say so.
        took: Duration,
        /// What.
        answer: Box<Answer>,
    },
    /// An edge did not answer.
    Silent {
        /// Which.
        address: SocketAddr,
        /// Whether nobody listens there.
        refuses: bool,
    },
    /// An edge follows a later leader.
    Stale(Stale),
    /// An edge took canaries back by itself.
    Told {
        /// What.
        told: Tripped,
        /// Answered once it is in force here.
        done: oneshot::Sender<()>,
    },
    /// An order was passed on to the leader.
    Ordered {
        /// Which.
        passed: PassedOn,
        /// What became of it.
        answer: oneshot::Sender<Carried>,
    },
}

/// The way to other edges.
#[derive(Debug)]
struct Exchange {
    client: Client,
    word: watch::Sender<LastWord>,
    runtime: Handle,
}

/// Where this edge stands among the others.
#[derive(Debug)]
enum Standing {
    /// It does what another one says, or the last one said.
    Follows,
    /// It has the Lease, and asks what is known elsewhere before it decides.
    TakesOver(Takeover),
    /// It decides.
    Leads {
        /// Under this term of the Lease.
        term: u64,
    },
}

/// What this edge knows as one of several.
#[derive(Debug)]
pub(crate) struct Replication {
    seat: Seat,
    exchange: Exchange,
    standing: Standing,
    members: Members,
    log: RowLog,
    collected: Collected,
    /// What the others counted since the last tick.
    pulled: BTreeMap<RouteName, Vec<Observed>>,
    said_at: Option<Time>,
    following: Following,
}

/// What is known of the leader while this edge follows.
#[derive(Debug, Default)]
struct Following {
    leader: Option<Leader>,
    asked_at: Option<Time>,
    /// How many edges serve, as the leader counts.
    edges: usize,
    /// The newest decision of each route, as the leader says.
    newest: BTreeMap<RouteName, DecisionLine>,
    told_at: Option<Time>,
}

impl Replication {
    /// Takes part from now on, in what `seat` says. Other edges are served on `listener`, which is theirs.
    /// Must run on a tokio runtime, which serves them.
    pub(crate) fn start(
        seat: Seat,
        (settings, listener): (&Settings, TcpListener),
        (cluster, namespace): (&Cluster, &str),
        messages: &mpsc::UnboundedSender<Message>,
    ) -> Self {
        let token = SharedToken::new(settings.token_file.clone());
        let client = Client::new(token.clone());
        let (word, heard) = watch::channel(None);
        let pullers = Pullers { client: client.clone(), word: heard, messages: messages.clone() };
        let addresses = peers::start(settings.peers.clone(), settings.address.port(), cluster, namespace);
        tokio::spawn(pullers.follow(addresses));
        tokio::spawn(serve::serve(listener, messages.clone(), token));
        let exchange = Exchange { client, word, runtime: Handle::current() };
        let instance = seat.instance();
        Self {
            exchange,
            standing: Standing::Follows,
            members: Members::new(instance),
            log: RowLog::new(instance),
            collected: Collected::default(),
            pulled: BTreeMap::new(),
            said_at: None,
            following: Following::default(),
            seat,
        }
    }

    /// Whether this edge decides.
    pub(crate) fn leads(&self) -> bool {
        matches!(self.standing, Standing::Leads { .. })
    }

    /// The name of this edge, as it stands in the Lease.
    pub(super) fn name(&self) -> &str {
        self.seat.name()
    }

    /// Whether it asks the others: as their leader, or as the next one.
    fn asks(&self) -> bool {
        !matches!(self.standing, Standing::Follows)
    }

    /// Under which term this edge decides.
    pub(super) fn mandate(&self) -> Mandate {
        match self.standing {
            Standing::Leads { term } => Mandate::Under(term),
            Standing::Follows | Standing::TakesOver(_) => Mandate::None,
        }
    }

    /// What there is to judge of a route: of the leader, what all edges counted; of a follower, what it counted itself, which
    /// the leader will ask for.
    pub(super) fn rows(&mut self, route: &RouteName, own: Vec<Observed>) -> Vec<Observed> {
        if self.leads() {
            let Some(pulled) = self.pulled.remove(route) else { return own };
            return rows::summed(route, own.into_iter().chain(pulled).collect());
        }
        self.log.push(route, &own);
        own
    }

    /// Every route that this edge has was judged: what others counted of one that is not in its file is not kept for it.
    pub(super) fn forget_rows(&mut self) {
        if self.leads() {
            self.pulled.clear();
        }
    }

    /// What is known of the other edges that serve a route.
    pub(super) fn around(&self, route: &ControlledRoute, now: Time) -> Around {
        if !self.leads() {
            let edges = self.following.edges.max(self.members.edges(now));
            return Around { acknowledged: false, edges, applied: None };
        }
        let (name, serial, granted) = (&route.route().name, route.serial(), route.granted());
        Around {
            acknowledged: self.members.have_applied(name, serial, &granted, now),
            edges: self.members.edges(now),
            applied: Some(1 + self.members.count_applied(name, serial, &granted, now)),
        }
    }

    /// How long the slowest of the other edges took to put in force what it was told last of a route; of a leader.
    ///
    /// # Errors
    /// Why one did not, as the end of a sentence.
    pub(super) fn pushed(&self, route: &RouteName, now: Time) -> Result<Duration, String> {
        self.members.pushed(route, now)
    }

    /// So much time has passed that the clock did not count: what was heard before is so much older.
    pub(super) fn grow_old(&mut self, uncounted: Duration) {
        self.members.grow_old(uncounted);
        let Following { asked_at, told_at, .. } = &mut self.following;
        for at in [asked_at, told_at] {
            *at = at.map(|at| at.minus(uncounted));
        }
    }

    /// For people.
    pub(super) fn view(&self, now: Time) -> ReplicasView {
        let asked_at = self.following.asked_at.filter(|_| !self.leads());
        let leader = if self.leads() { Some(self.seat.name()) } else { self.leader_name() };
        ReplicasView {
            name: self.seat.name().to_owned(),
            role: if self.leads() { "leader" } else { "follower" }.to_owned(),
            leader: leader.map(str::to_owned),
            leader_age_s: asked_at.map(|asked_at| now.since(asked_at).as_secs_f64()),
            replicas: if self.leads() { self.members.views(now) } else { Vec::new() },
            uncounted: self.log.lost(),
        }
    }

    fn leader_name(&self) -> Option<&str> {
        self.following.leader.as_ref().map(|leader| leader.name.as_str())
    }

    /// Whoever asks leads, unless somebody else has led since.
    fn heed(&mut self, leader: &Leader, now: Time) -> Result<(), Stale> {
        let own = self.seat.fence().map_or(0, |fence| fence.term);
        let term = own.max(self.seat.latest());
        if leader.term < term || (self.asks() && leader.term == own) {
            return Err(Stale { term });
        }
        self.seat.heard_of(leader.term);
        self.following.leader = Some(leader.clone());
        self.following.asked_at = Some(now);
        Ok(())
    }

    /// Whether this edge follows, and nobody has asked it for a while.
    fn is_left_alone(&self, now: Time) -> bool {
        let is_asked = self.following.asked_at.is_some_and(|at| now.since(at) < LEADER_IS_OUT_OF_REACH);
        matches!(self.standing, Standing::Follows) && !is_asked
    }

    /// Whether trips cannot wait for the leader, and were not told a moment ago.
    fn must_tell(&mut self, now: Time) -> bool {
        let is_within = |at: Option<Time>, span| at.is_some_and(|at| now.since(at) < span);
        let waits =
            is_within(self.following.asked_at, LEADER_IS_SILENT) || is_within(self.following.told_at, TELL_AGAIN);
        if !waits {
            self.following.told_at = Some(now);
        }
        !waits
    }

    fn take_answer(
        &mut self,
        (address, took): (SocketAddr, Duration),
        answer: Answer,
        now: Time,
    ) -> BTreeMap<RouteName, Trip> {
        let (instance, trips) = (answer.instance, answer.trips.clone());
        let batch = answer.batch.clone();
        if let Standing::TakesOver(takeover) = &mut self.standing {
            takeover.has_asked(address);
            answer.later.iter().for_each(|(route, saved)| takeover.learn(route.clone(), saved.clone()));
        }
        self.members.take((address, took), answer, now);
        if instance == self.seat.instance() {
            return BTreeMap::new();
        }
        for counted in self.collected.take(instance, batch) {
            self.pulled.entry(counted.route).or_default().push(counted.observed);
        }
        trips
    }

    /// The edge at `address` does not answer.
    fn take_silence(&mut self, address: SocketAddr, refuses: bool, now: Time) {
        if let Standing::TakesOver(takeover) = &mut self.standing {
            takeover.has_asked(address);
        }
        if self.asks() {
            self.members.is_silent(address, refuses, now);
        }
    }

    fn stand(&mut self, standing: Standing) {
        if !self.asks() {
            // Whoever led before does so no more.
            self.following.leader = None;
            self.log.clear();
            self.pulled.clear();
            self.said_at = None;
            self.following.asked_at = None;
            self.members.forget_silence();
        }
        self.standing = standing;
    }

    /// What the others know, once all have been asked that can be reached; `is_read` says whether what stands on the live
    /// Services was read.
    fn end_takeover(&mut self, is_read: bool, now: Time) -> Option<BTreeMap<RouteName, Saved>> {
        let Standing::TakesOver(takeover) = &self.standing else { return None };
        if !takeover.is_over(self.members.others_if_known().as_ref(), is_read, now) {
            return None;
        }
        let term = takeover.term();
        match std::mem::replace(&mut self.standing, Standing::Leads { term }) {
            Standing::TakesOver(takeover) => Some(takeover.into_later()),
            Standing::Follows | Standing::Leads { .. } => None,
        }
    }

    /// The newest decision of a route that a leader told of.
    pub(super) fn newest(&self, route: &RouteName) -> Option<&DecisionLine> {
        self.following.newest.get(route)
    }

    fn word(
        &self,
        routes: &[ControlledRoute],
        newest: impl Fn(&RouteName) -> Option<DecisionLine>,
        now: Time,
    ) -> Option<Word> {
        let fence = self.seat.fence()?;
        let leader = Leader {
            name: self.seat.name().to_owned(),
            instance: self.seat.instance(),
            term: fence.term,
            address: self.members.own_address(),
        };
        let to_one = |address| ToOne {
            taken: self.members.instance(address).and_then(|instance| self.collected.of(instance)),
            heard: self.members.trips_heard(address),
        };
        Some(Word {
            leader,
            edges: self.members.edges(now),
            routes: routes.iter().map(|route| (route.route().name.clone(), route.saved(now))).collect(),
            ways_back: routes
                .iter()
                .filter_map(|route| Some((route.route().name.clone(), route.way_back()?.clone())))
                .collect(),
            newest: routes
                .iter()
                .filter_map(|route| Some((route.route().name.clone(), newest(&route.route().name)?)))
                .collect(),
            to: self.members.elsewhere().map(|address| (address, to_one(address))).collect(),
        })
    }
}

impl Control {
    /// Something came from another edge.
    pub(super) async fn hear(&mut self, message: Message) {
        self.leave_a_lead_that_ended();
        match message {
            Message::Members(addresses) => {
                if let Some(replication) = &mut self.replication {
                    replication.members.set(&addresses);
                }
            }
            Message::Asked { ask, answer } => {
                let answered = self.follow_and_answer(*ask);
                // Whoever asked may have given up; what it said is in force all the same.
                drop(answer.send(answered));
            }
            Message::Answered { address, took, answer } => self.collect((address, took), *answer).await,
            Message::Silent { address, refuses } => {
                let now = self.now();
                if let Some(replication) = &mut self.replication {
                    replication.take_silence(address, refuses, now);
                }
            }
            Message::Stale(stale) => {
                if let Some(replication) = &mut self.replication {
                    replication.seat.heard_of(stale.term);
                }
            }
            Message::Told { told, done } => {
                self.take_trips(&told.by, told.trips).await;
                // The same.
                _ = done.send(());
            }
            Message::Ordered { passed, answer } => self.carry_out_for_another(passed, answer).await,
        }
    }

    /// Leads or follows, as the Lease says. Whoever has it asks first, and decides once it knows what the others know.
    pub(super) fn take_or_leave_the_lead(&mut self, now: Time) -> Vec<Decided> {
        let Some(replication) = &mut self.replication else { return Vec::new() };
        if let Some(term) = replication.seat.is_outrun() {
            self.state.raise_above(term);
        }
        let fence = replication.seat.fence();
        match (&replication.standing, fence.map(|fence| fence.term)) {
            (Standing::Follows, None) => {}
            (Standing::Follows, Some(term)) => {
                info!(name = replication.seat.name(), term, "this edge takes the lead; it asks what the others know");
                replication.stand(Standing::TakesOver(Takeover::new(term, now)));
            }
            (Standing::Leads { term: led }, Some(term)) if *led == term => {}
            (Standing::TakesOver(takeover), Some(term)) if takeover.term() == term => {
                return self.lead_once_all_is_known(term, now);
            }
            // Somebody else has led since, or may.
            (Standing::Leads { .. } | Standing::TakesOver(_), Some(_) | None) => self.leave_the_lead(),
        }
        Vec::new()
    }

    fn lead_once_all_is_known(&mut self, term: u64, now: Time) -> Vec<Decided> {
        let found: Vec<_> = self.routes.iter().map(|route| self.state.found_under(term, &route.route().name)).collect();
        let is_read = found.iter().all(Option::is_some);
        let Some(mut later) = self.replication.as_mut().and_then(|replication| replication.end_takeover(is_read, now))
        else {
            return Vec::new();
        };
        info!(term, is_read, "this edge decides from now on");
        let mut decided = Vec::new();
        for ((position, route), found) in self.routes.iter_mut().enumerate().zip(found) {
            let Found { last_id, saved } = found.unwrap_or_default();
            self.events.go_on_after(last_id, false);
            let known = later.remove(&route.route().name);
            let (counts, other) = by_weight(&Identity::of(route.route()), known, saved);
            let is_news =
                other.as_ref().is_some_and(|other| counts.as_ref().is_none_or(|counts| is_other(counts, other)));
            let mut changes = route.lead(counts, now);
            // What only the other one knows to be taken back stays back.
            if let Some(other) = other.filter(|_| is_news) {
                changes.extend(route.weigh(other, now));
            }
            if !changes.is_empty() {
                decided.push(Decided { position, changes });
            }
        }
        // What is kept from now on is what is known now, whatever this edge wanted kept while it followed.
        self.keep_all(now);
        self.aim_all();
        decided
    }

    /// Decides no longer from the moment at which the Lease says so: what comes in between that and the next tick is not to be
    /// decided, and answered as done, by an edge that leads nobody.
    pub(super) fn leave_a_lead_that_ended(&mut self) {
        let Some(replication) = &self.replication else { return };
        let term = replication.seat.fence().map(|fence| fence.term);
        match replication.standing {
            Standing::Leads { term: led } if term != Some(led) => self.leave_the_lead(),
            Standing::Leads { .. } | Standing::TakesOver(_) | Standing::Follows => {}
        }
    }

    fn keep_all(&mut self, now: Time) {
        let saved: Vec<_> = self.routes.iter_mut().map(|route| (route.route().name.clone(), route.save(now))).collect();
        self.state.put(saved, []);
    }

    fn leave_the_lead(&mut self) {
        info!("this edge decides no longer; it goes on with what was decided");
        self.routes.iter_mut().for_each(ControlledRoute::step_down);
        if let Some(replication) = &mut self.replication {
            replication.standing = Standing::Follows;
            replication.log.clear();
            replication.pulled.clear();
            replication.exchange.word.send_replace(None);
        }
    }

    /// Puts in force what the leader says, and answers what it asks.
    fn follow_and_answer(&mut self, ask: Ask) -> Result<Answer, Stale> {
        let now = self.now();
        let Ask { leader, edges, taken, mut routes, mut ways_back, newest, heard } = ask;
        let Some(replication) = &mut self.replication else { return Err(Stale { term: u64::MAX }) };
        let (name, instance) = (replication.seat.name().to_owned(), replication.seat.instance());
        if leader.instance == instance {
            let batch = rows::Batch::default();
            let (applied, trips, later) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
            return Ok(Answer { name, instance, batch, applied, trips, later });
        }
        replication.heed(&leader, now)?;
        (replication.following.edges, replication.following.newest) = (edges, newest);
        if let Some(address) = leader.address {
            replication.members.has_asked(address);
        }
        if replication.asks() {
            self.leave_the_lead();
        }
        let (mut followed, mut later, mut has_news) = (Vec::new(), BTreeMap::new(), false);
        for (position, route) in self.routes.iter_mut().enumerate() {
            let name = &route.route().name;
            let Some(saved) = routes.remove(name) else { continue };
            let way_back = ways_back.remove(name);
            if route.trip().is_some_and(|trip| heard.get(name) == Some(trip)) {
                route.trip_was_heard();
            }
            let before = route.depth();
            match route.follow(saved, now) {
                Followed::Applied => {
                    followed.push(position);
                    route.tell_way_back(way_back, now);
                }
                Followed::Later(own) => drop(later.insert(route.route().name.clone(), *own)),
                Followed::OfAnother => read_what_is_kept_of(route, (&self.state, leader.term), now),
            }
            has_news |= route.depth() != before;
        }
        if has_news {
            self.keep_all(now);
        }
        self.publish();
        let applied = followed.into_iter().filter_map(|position| self.routes.get(position));
        let applied = applied.map(|route| {
            let applied = Applied { serial: route.serial(), split: route.applied().clone() };
            (route.route().name.clone(), applied)
        });
        let (applied, trips) = (applied.collect(), trips_of(&self.routes));
        let Some(replication) = &mut self.replication else { return Err(Stale { term: u64::MAX }) };
        Ok(Answer { name, instance, batch: replication.log.ask(taken), applied, trips, later })
    }

    /// Takes from the live Services what a leader that does not ask has decided since: it may be out of reach of this edge
    /// alone.
    pub(super) fn read_what_is_kept(&mut self, now: Time) {
        let Some(replication) = self.replication.as_ref().filter(|replication| replication.is_left_alone(now)) else {
            return;
        };
        let latest = replication.seat.latest();
        let mut has_news = false;
        for route in &mut self.routes {
            let kept = self.state.report(&route.route().name).and_then(|report| report.kept);
            let Some((term, saved)) = kept.filter(|(term, saved)| *term >= latest && saved.depth() > route.depth())
            else {
                continue;
            };
            let is_applied = route.follow(Saved::clone(&saved), now) == Followed::Applied;
            if is_applied {
                info!(route = %route.route().name, term, "nobody asks; this edge goes on as the live Service says");
            }
            has_news |= is_applied;
        }
        if has_news {
            self.keep_all(now);
            self.publish();
        }
    }

    /// Takes what another edge counted, and what it took back.
    async fn collect(&mut self, from: (SocketAddr, Duration), answer: Answer) {
        let now = self.now();
        let Some(replication) = self.replication.as_mut().filter(|replication| replication.asks()) else { return };
        let by = answer.name.clone();
        let later = if replication.leads() { answer.later.clone() } else { BTreeMap::new() };
        let trips = replication.take_answer(from, answer, now);
        self.go_on_from(later, now).await;
        self.take_trips(&by, trips).await;
    }

    /// An edge that could not be asked when this one began to lead knows of decisions that this one does not.
    async fn go_on_from(&mut self, mut later: BTreeMap<RouteName, Saved>, now: Time) {
        if later.is_empty() {
            return;
        }
        let routes = self.routes.iter_mut().enumerate();
        let decided = routes.filter_map(|(position, route)| {
            let saved = later.remove(&route.route().name).filter(|saved| saved.depth() > route.depth())?;
            let changes = route.go_on_from(saved, now);
            Some(Decided { position, changes })
        });
        let decided: Vec<_> = decided.collect();
        self.settle(decided).await;
    }

    async fn take_trips(&mut self, by: &str, mut trips: BTreeMap<RouteName, Trip>) {
        if trips.is_empty() {
            return;
        }
        let now = self.now();
        let routes = self.routes.iter_mut().enumerate();
        let decided = routes.filter_map(|(position, route)| {
            let trip = trips.remove(&route.route().name)?;
            let changes = route.take_trip(&trip, by, now);
            (!changes.is_empty()).then_some(Decided { position, changes })
        });
        let decided: Vec<_> = decided.collect();
        // A build that is on trial elsewhere may be barred now without a word, and nobody else writes that down.
        self.keep_all(now);
        self.settle(decided).await;
    }

    /// As the leader, says where every route stands, if that is due or has changed; as a follower, tells of what it took back
    /// if the leader is silent.
    pub(super) fn talk(&mut self, has_news: bool) {
        let now = self.now();
        let Some(replication) = &mut self.replication else { return };
        if !replication.asks() {
            self.tell_of_trips(now);
            return;
        }
        let is_due = replication.said_at.is_none_or(|said_at| now.since(said_at) >= WORD_EVERY);
        if !is_due && !has_news {
            return;
        }
        replication.said_at = Some(now);
        let Some(replication) = &self.replication else { return };
        let word = replication.word(&self.routes, |route| self.newest_decision(route), now);
        replication.exchange.word.send_replace(word.map(Arc::new));
    }

    fn tell_of_trips(&mut self, now: Time) {
        let trips = trips_of(&self.routes);
        let Some(replication) = self.replication.as_mut().filter(|_| !trips.is_empty()) else { return };
        if !replication.must_tell(now) {
            return;
        }
        let exchange = &replication.exchange;
        let told = Tripped { by: replication.seat.name().to_owned(), trips };
        let addresses = replication.members.elsewhere().collect();
        exchange.runtime.spawn(pull::tell_all(exchange.client.clone(), addresses, wire::TRIP, told));
    }
}

/// Goes on as the live Service says, where a leader of this `term` or a later one keeps the rollout of this edge's file there
/// and does not have that file itself.
fn read_what_is_kept_of(route: &mut ControlledRoute, (home, term): (&Home, u64), now: Time) {
    let kept = home.report(&route.route().name).and_then(|report| report.kept);
    let kept = kept.filter(|(kept, saved)| *kept >= term && saved.depth() > route.depth());
    if let Some((_, saved)) = kept.filter(|(_, saved)| *saved.identity() == Identity::of(route.route())) {
        route.follow(Saved::clone(&saved), now);
    }
}

/// The one to go on from first: the one about the rollout of this edge's file; of two of these, or of none, the one with more
/// decisions behind it; at a tie the one that was `kept`.
fn by_weight(own: &Identity, known: Option<Saved>, kept: Option<Saved>) -> (Option<Saved>, Option<Saved>) {
    let weight = |saved: &Option<Saved>| saved.as_ref().map(|saved| (saved.identity() == own, saved.serial()));
    if weight(&known) > weight(&kept) { (known, kept) } else { (kept, known) }
}

/// Whether `other` may know what `counts` does not: at a tie of two states of one rollout that one counts which was kept.
fn is_other(counts: &Saved, other: &Saved) -> bool {
    other.identity() != counts.identity() || other.serial() < counts.serial()
}

/// What was taken back here and the leader has not answered.
fn trips_of(routes: &[ControlledRoute]) -> BTreeMap<RouteName, Trip> {
    let tripped = routes.iter().filter(|route| route.role() == Role::Follower);
    tripped.filter_map(|route| Some((route.route().name.clone(), route.trip()?.clone()))).collect()
}
