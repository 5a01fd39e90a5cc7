//! Three edges on one machine: real control loops, a real exchange over loopback that can be cut, and a Lease on the fake
//! API server. Only requests are made up: they are drawn and booked as the data path would.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use arc_swap::ArcSwap;
use pointsman_chaos::fakes::api_server::ApiServer;
use pointsman_chaos::fakes::{FakeModel, Link};
use pointsman_config::{Config, Endpoint, Peers, Share, VersionId};
use pointsman_kubernetes::annotation::Fence;
use pointsman_kubernetes::{Candidacy, Deadlines, Leadership, LeaseTimes};
use pointsman_rollout::{Cause, Decision, Drawn, Order, OrderKind, Resume, Row, Tally};
use tokio::sync::broadcast;

use super::*;
use crate::cluster::Connection;
use crate::control::discovery::Discoveries;
use crate::control::events::Events;
use crate::control::gates::Askers;
use crate::control::handle::{ControlHandle, Done, OrderError, OrderMessage};
use crate::control::health::{HealthChecks, Turned};
use crate::control::history::History;
use crate::control::home::Home;
use crate::control::publisher::Publisher;
use crate::control::resolver::{Resolved, Resolver};
use crate::control::series::SeriesBook;
use crate::control::state::StateFile;
use crate::control::{Command, Inputs, Parts};
use crate::outcome::Outcome;
use crate::recorder::{Arm, Assignment};
use crate::snapshot::Snapshots;
use crate::view::{ConfigView, DecisionRow, Event, View};

const PATIENCE: Duration = Duration::from_secs(30);

/// What an edge is asked for.
#[derive(Debug, Default)]
struct Traffic {
    /// Requests every 10 ms.
    requests: AtomicU64,
    /// How many of a thousand answers of v2 fail.
    fails: AtomicU32,
}

struct Edge {
    handle: ControlHandle,
    events: broadcast::Receiver<Event>,
    traffic: Arc<Traffic>,
    commands: mpsc::UnboundedSender<Command>,
    kill: Option<oneshot::Sender<()>>,
    /// From each edge, in their order.
    links: Vec<Link>,
}

impl Edge {
    fn view(&self) -> ReplicasView {
        self.handle.view().replicas.clone().unwrap_or_default()
    }

    /// Of v2, as people write it.
    fn weight(&self) -> String {
        let v2: VersionId = "v2".parse().unwrap();
        self.handle.view().routes.first().map_or(String::new(), |route| format!("{}%", route.weights[&v2].effective))
    }

    fn phase(&self) -> String {
        self.handle.view().routes.first().map_or(String::new(), |route| route.phase.clone())
    }

    async fn order(&self, kind: OrderKind) -> Result<Done, OrderError> {
        let order = Order { kind, actor: "ada".to_owned(), reason: "a test".to_owned() };
        self.handle.order("model".parse().unwrap(), order).await
    }

    /// Gives the order again for as long as the edge does not know yet where to pass it on to.
    async fn order_having_seen(&self, kind: OrderKind, seen: Option<u64>) -> Result<Done, OrderError> {
        loop {
            let order = Order { kind: kind.clone(), actor: "ada".to_owned(), reason: "a test".to_owned() };
            match self.handle.order_having_seen("model".parse().unwrap(), order, seen).await {
                Err(OrderError::NotLeader { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                outcome => return outcome,
            }
        }
    }

    /// The number of the newest decision that people see there.
    fn newest(&self) -> Option<u64> {
        self.handle.view().routes.first()?.last_decision.as_ref().map(|newest| newest.id)
    }

    /// What it decided so far and was not asked for before.
    fn decisions(&mut self) -> Vec<DecisionRow> {
        let mut rows = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            if let Event::Decision(row) = event {
                rows.push(row);
            }
        }
        rows
    }

    fn kill(&mut self) {
        drop(self.kill.take());
    }

    fn is_alive(&self) -> bool {
        self.kill.is_some()
    }
}

struct Trio {
    edges: Vec<Edge>,
    _api: ApiServer,
    _models: [FakeModel; 2],
    _folder: tempfile::TempDir,
}

impl Trio {
    /// Three edges whose route ends with `rest`, once one of them leads and has heard the others.
    async fn start(rest: &str) -> Self {
        let api = ApiServer::start().await.unwrap();
        let models = [FakeModel::start("v1").await.unwrap(), FakeModel::start("v2").await.unwrap()];
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "open sesame\n").unwrap();
        let text = format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]\nroutes: [{{ name: model, stable: v1, versions: {{ v1: {{ endpoints: [{}] }}, v2: {{ \
             endpoints: [{}] }} }}, health_check: {{ path: /ready, interval: 50ms, timeout: 1s }}, {rest} }}]\n",
            models[0].addr(),
            models[1].addr()
        );
        let config = Config::parse(&text, "test").unwrap().config;
        let mut listeners = Vec::new();
        for _ in 0..3 {
            listeners.push(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        }
        let mut links: [Vec<Link>; 3] = [Vec::new(), Vec::new(), Vec::new()];
        for links in &mut links {
            for listener in &listeners {
                links.push(Link::to(listener.local_addr().unwrap()).await.unwrap());
            }
        }
        let edges = listeners.into_iter().zip(links).enumerate();
        let edges = edges.map(|(number, (listener, links))| {
            edge(number, config.clone(), (listener, links), (folder.path().to_owned(), api.url()))
        });
        let trio = Self { edges: edges.collect(), _api: api, _models: models, _folder: folder };
        trio.wait("all are heard", |trio| {
            let leader = trio.leader()?;
            let view = trio.edges[leader].view();
            (view.replicas.len() == 2 && view.replicas.iter().all(|replica| replica.heard)).then_some(())
        })
        .await;
        trio
    }

    fn leader(&self) -> Option<usize> {
        let leads = |edge: &Edge| {
            edge.is_alive() && edge.handle.view().replicas.as_ref().is_some_and(|view| view.role == "leader")
        };
        self.edges.iter().position(leads)
    }

    fn followers(&self) -> Vec<usize> {
        let leader = self.leader();
        (0..self.edges.len()).filter(|number| Some(*number) != leader && self.edges[*number].is_alive()).collect()
    }

    async fn wait<T>(&self, what: &str, condition: impl Fn(&Self) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = condition(self) {
                return found;
            }
            let now: Vec<_> =
                self.edges.iter().map(|edge| (edge.is_alive(), edge.weight(), edge.phase(), edge.view())).collect();
            assert!(began.elapsed() < PATIENCE, "not {what}: {now:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The number of the leader's newest decision, once every edge shows it.
    async fn shown_by_all(&self) -> u64 {
        self.wait("the same decision everywhere", |trio| {
            let newest = trio.edges[trio.leader()?].newest()?;
            trio.edges.iter().all(|edge| edge.newest() == Some(newest)).then_some(newest)
        })
        .await
    }

    /// Waits until all edges that live give v2 so much.
    async fn wait_for_weight(&self, percent: &str) {
        let alive = |trio: &Self| trio.edges.iter().filter(|edge| edge.is_alive()).all(|edge| edge.weight() == percent);
        self.wait(&format!("{percent} everywhere"), |trio| alive(trio).then_some(())).await;
    }

    async fn wait_for_phase(&self, phase: &str) {
        let alive = |trio: &Self| trio.edges.iter().filter(|edge| edge.is_alive()).all(|edge| edge.phase() == phase);
        self.wait(phase, |trio| alive(trio).then_some(())).await;
    }

    fn send(&self, number: usize, requests: u64, fails: u32) {
        self.edges[number].traffic.requests.store(requests, Relaxed);
        self.edges[number].traffic.fails.store(fails, Relaxed);
    }

    /// Cuts an edge off from every other one, or lets it in again.
    fn cut(&self, number: usize, is_cut: bool) {
        for (from, edge) in self.edges.iter().enumerate() {
            for (to, link) in edge.links.iter().enumerate() {
                if (from == number) != (to == number) {
                    link.cut(is_cut);
                }
            }
        }
    }
}

/// A control loop on a thread of its own, as a process would be: killed, everything of it is gone.
fn edge(
    number: usize,
    config: Config,
    (listener, links): (std::net::TcpListener, Vec<Link>),
    (folder, api): (std::path::PathBuf, String),
) -> Edge {
    let (order, orders) = mpsc::channel(4);
    let (event, events) = broadcast::channel(1_024);
    let view = Arc::new(ArcSwap::from_pointee(View::default()));
    let handle = ControlHandle::new(order, Arc::clone(&view), event.clone());
    let (commands, told) = mpsc::unbounded_channel();
    let (kill, killed) = oneshot::channel::<()>();
    let traffic = Arc::<Traffic>::default();
    let asked = Arc::clone(&traffic);
    let peers =
        links.iter().map(|link| Endpoint { host: "127.0.0.1".to_owned(), port: link.address().port() }).collect();
    let settings = Settings {
        address: listener.local_addr().unwrap(),
        peers: Peers::Endpoints(peers),
        token_file: folder.join("token"),
    };
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let user = format!("edge-{number}");
            let cluster = Cluster::at(api.parse().unwrap(), "default", Some(&user), Deadlines::default()).unwrap();
            let times = LeaseTimes::new(Duration::from_secs(1), Duration::from_millis(800), Duration::from_millis(200));
            let name = format!("{user}-{}", rand::random::<u32>());
            let candidacy = Candidacy::start(&cluster, "default", "pointsman", &name, times.unwrap());
            let seat = Seat::new(&name, candidacy.leadership());
            let (tell, replicas) = mpsc::unbounded_channel();
            listener.set_nonblocking(true).unwrap();
            let others = (&settings, TcpListener::from_std(listener).unwrap());
            let snapshots = Arc::<Snapshots>::default();
            let replication = Replication::start(seat, others, (&cluster, "default"), &tell);
            let state = folder.join(format!("state-{number}.db"));
            let (turn, turned) = mpsc::unbounded_channel();
            let events = Events::new(0, History::of_file(state.clone()), event);
            let parts = parts((config, replication), (state, events), turn, (&snapshots, view));
            let inputs = Inputs {
                orders,
                reloads: mpsc::unbounded_channel().1,
                turned,
                resolved: mpsc::unbounded_channel().1,
                reopened: mpsc::unbounded_channel().1,
                replicas,
                commands: told,
            };
            let control = Control::begin(parts).await;
            tokio::select! {
                () = control.run(inputs) => candidacy.resign().await,
                () = book(&snapshots, &asked) => {}
                _ = killed => {}
            }
        });
        runtime.shutdown_background();
    });
    Edge { handle, events, traffic, commands, kill: Some(kill), links }
}

/// Everything that a control loop works with.
fn parts(
    (config, replication): (Config, Replication),
    (state, events): (std::path::PathBuf, Events),
    turn: mpsc::UnboundedSender<Turned>,
    (snapshots, view): (&Arc<Snapshots>, Arc<ArcSwap<View>>),
) -> Parts {
    let here = Handle::current();
    Parts {
        notifier: crate::notify::Notifier::default(),
        config,
        config_view: ConfigView::default(),
        saved: BTreeMap::new(),
        resolved: Resolved::new(),
        publisher: Publisher::new(Arc::clone(snapshots), 2),
        state: Home::File(StateFile::open(state, mpsc::unbounded_channel().0).unwrap().0),
        events,
        checks: HealthChecks::start(&here, turn),
        askers: Askers::start(&here),
        asking: crate::asking::Asking::start(&here),
        resolver: Resolver::start(&here, mpsc::unbounded_channel().0),
        discoveries: Discoveries::start(&here, Connection::default(), mpsc::unbounded_channel().0),
        replication: Some(replication),
        view,
        series: SeriesBook::default(),
    }
}

/// Draws and books requests as the data path does.
async fn book(snapshots: &Snapshots, traffic: &Traffic) {
    let mut every = tokio::time::interval(Duration::from_millis(10));
    loop {
        every.tick().await;
        let snapshot = snapshots.load();
        let Some(route) = snapshot.routes.find(None, "/") else { continue };
        let terms = route.epoch.terms();
        for _ in 0..traffic.requests.load(Relaxed) {
            let draw: f64 = rand::random();
            let arm = if draw * 1e6 < f64::from(terms.weight.ppm()) { Arm::Canary } else { Arm::Stable };
            let version = if arm == Arm::Canary { terms.canary.as_ref() } else { Some(&terms.stable) };
            let is_v2 = version.is_some_and(|version| version.as_str() == "v2");
            let fails = is_v2 && rand::random::<f64>() * 1e3 < f64::from(traffic.fails.load(Relaxed));
            let began = Instant::now();
            let mut entry = route.epoch.begin(Assignment::by_chance(arm), began);
            route.epoch.asked(&mut entry, began);
            let outcome = if fails { Outcome::Error } else { Outcome::Success };
            route.epoch.finish(entry, outcome, Duration::from_micros(100));
        }
    }
}

const BY_HAND: &str = "weights: { v1: 80%, v2: 20% }";
const BY_PLAN: &str =
    "rollout: { canary: v2, steps: [{ weight: 20%, hold: 1h }], promotion: manual, bake: 1h, step_deadline: 9h }";

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_decides_on_the_sum_of_what_all_edges_counted() {
    let mut trio = Trio::start(BY_HAND).await;
    trio.wait_for_weight("20%").await;
    let leader = trio.leader().unwrap();
    for follower in trio.followers() {
        // Too few for a catastrophe, and nothing at all at the leader itself.
        trio.send(follower, 4, 100);
    }
    trio.wait_for_weight("0%").await;
    let decided = trio.edges[leader].decisions();
    let rollback = decided.iter().find(|row| row.change.decision == Decision::Rollback).unwrap();
    assert!(matches!(rollback.change.cause, Cause::Evidence { .. }), "{rollback:?}");
    let counted = rollback.change.evidence.as_ref().unwrap();
    assert!(counted.canary.errors > 0 && counted.stable.requests > counted.canary.requests, "{counted:?}");
    for follower in trio.followers() {
        assert_eq!(trio.edges[follower].decisions(), [], "followers decide nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trip_of_one_edge_is_in_force_on_all() {
    let mut trio = Trio::start(BY_HAND).await;
    trio.wait_for_weight("20%").await;
    let (leader, follower) = (trio.leader().unwrap(), trio.followers()[0]);
    // The leader cannot ask: only what the follower tells by itself can reach the others.
    trio.edges[leader].kill();
    let other = trio.followers().into_iter().find(|number| *number != follower).unwrap();
    trio.send(follower, 10, 1_000);
    let tripped = trio.wait("tripped", |trio| (trio.edges[follower].weight() == "0%").then(Instant::now)).await;
    trio.wait_for_weight("0%").await;
    println!("in force on all {:?} after it tripped", tripped.elapsed());
    let told = trio.edges[other].decisions();
    assert!(told.iter().any(|row| row.change.decision == Decision::Rollback), "{told:?}");
    trio.wait("led again", Trio::leader).await;
    trio.wait_for_phase("rolled_back").await;
    trio.wait_for_weight("0%").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_cut_off_serves_on_and_trips_alone_and_is_heard_once_it_is_back() {
    let mut trio = Trio::start(BY_PLAN).await;
    trio.wait_for_weight("20%").await;
    let (leader, follower) = (trio.leader().unwrap(), trio.followers()[0]);
    trio.cut(follower, true);
    trio.wait("missed", |trio| {
        let heard = trio.edges[leader].view().replicas.iter().filter(|replica| replica.heard).count();
        (heard == 1).then_some(())
    })
    .await;
    assert_eq!((trio.edges[follower].weight().as_str(), trio.edges[follower].phase().as_str()), ("20%", "shifting"));
    trio.edges[leader].order(OrderKind::Pause).await.unwrap();
    trio.send(follower, 10, 1_000);
    trio.wait("tripped alone", |trio| (trio.edges[follower].weight() == "0%").then_some(())).await;
    assert_eq!(trio.edges[leader].weight(), "20%", "nobody else can know");
    trio.cut(follower, false);
    trio.wait_for_phase("rolled_back").await;
    trio.wait_for_weight("0%").await;
    let decided = trio.edges[leader].decisions();
    let tripped = decided.iter().find(|row| row.change.decision == Decision::Rollback).unwrap();
    assert!(matches!(tripped.change.cause, Cause::Tripped { .. }), "{tripped:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_dies_another_one_goes_on_in_every_phase_without_a_step_back_or_a_second_promotion() {
    for (phase, percent) in [("shifting", "20%"), ("paused", "20%"), ("baking", "100%"), ("rolled_back", "0%")] {
        let mut trio = Trio::start(BY_PLAN).await;
        trio.wait_for_weight("20%").await;
        let leader = trio.leader().unwrap();
        let order = match phase {
            "paused" => Some(OrderKind::Pause),
            "baking" => Some(OrderKind::Promote),
            "rolled_back" => Some(OrderKind::Rollback),
            _ => None,
        };
        if let Some(order) = order {
            trio.edges[leader].order(order).await.unwrap();
        }
        trio.wait_for_phase(phase).await;
        trio.wait_for_weight(percent).await;
        trio.edges[leader].kill();
        let next = trio.wait("led again", |trio| trio.leader().filter(|next| *next != leader)).await;
        trio.wait("the other one is asked", |trio| {
            let view = trio.edges[*trio.followers().first()?].view();
            (view.leader == Some(trio.edges[next].view().name)).then_some(())
        })
        .await;
        for number in [next, trio.followers()[0]] {
            assert_eq!((trio.edges[number].phase().as_str(), trio.edges[number].weight().as_str()), (phase, percent));
            assert_eq!(trio.edges[number].decisions(), [], "{phase}: to lead is to decide nothing");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_to_any_edge_is_carried_out_by_the_leader_and_a_rollback_by_the_edge_itself() {
    let mut trio = Trio::start(BY_PLAN).await;
    trio.wait_for_weight("20%").await;
    let (leader, followers) = (trio.leader().unwrap(), trio.followers());
    // Its address is in the list of edges, which it has to find out itself.
    let done = loop {
        match trio.edges[followers[0]].order(OrderKind::Pause).await {
            Err(OrderError::NotLeader { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            done => break done.unwrap(),
        }
    };
    assert_eq!((done.route.phase.as_str(), done.decisions[0].change.decision), ("paused", Decision::Pause));
    trio.wait_for_phase("paused").await;
    let refused = trio.edges[followers[1]].order(OrderKind::Pause).await.unwrap_err();
    assert_eq!(refused.code(), "wrong_phase");
    assert!(refused.to_string().contains(&trio.edges[leader].view().name), "{refused}");
    trio.cut(followers[1], true);
    // By this one the leader asks itself, and knows where others find it.
    trio.edges[leader].links[leader].cut(true);
    let refused = trio.edges[followers[1]].order(OrderKind::Promote).await.unwrap_err();
    assert_eq!(refused.code(), "leader_unreachable", "{refused}");
    trio.edges[followers[1]].order(OrderKind::Rollback).await.unwrap();
    assert_eq!(trio.edges[followers[1]].weight(), "0%");
    trio.cut(followers[1], false);
    trio.wait_for_phase("rolled_back").await;
    let told = trio.edges[leader].decisions();
    assert!(told.iter().any(|row| row.sentence.contains("ada")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_giver_of_an_order_had_seen_counts_where_it_is_carried_out_and_every_edge_shows_it() {
    let trio = Trio::start(BY_PLAN).await;
    trio.wait_for_weight("20%").await;
    let (leader, follower) = (trio.leader().unwrap(), trio.followers()[0]);
    let first = trio.shown_by_all().await;
    trio.edges[leader].order(OrderKind::Pause).await.unwrap();
    let second = trio.shown_by_all().await;
    assert!(second > first);
    let resume = OrderKind::Resume(Resume::GoOn);
    for edge in [follower, leader] {
        let refused = trio.edges[edge].order_having_seen(resume.clone(), Some(first)).await.unwrap_err();
        assert_eq!(refused.code(), "overtaken", "{refused}");
    }
    trio.edges[follower].order_having_seen(resume, Some(second)).await.unwrap();
    trio.wait_for_phase("shifting").await;
    let third = trio.shown_by_all().await;
    trio.edges[leader].order_having_seen(OrderKind::Pause, Some(third)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_told_to_end_lets_another_one_lead_at_once() {
    let trio = Trio::start(BY_HAND).await;
    let leader = trio.leader().unwrap();
    let (stopped, stop) = oneshot::channel();
    trio.edges[leader].commands.send(Command::Stop(stopped)).unwrap();
    stop.await.unwrap();
    trio.wait("led by another", |trio| {
        trio.edges.iter().enumerate().position(|(number, edge)| number != leader && edge.view().role == "leader")
    })
    .await;
}

/// A control loop that nothing drives but the test, on one route that ends with `rest`; it follows, until the test says
/// otherwise. Gives the address at which it would be asked as well.
async fn by_hand(
    leadership: watch::Receiver<Leadership>,
    folder: &tempfile::TempDir,
    (api, rest): (&ApiServer, &str),
) -> (Control, SocketAddr) {
    let config = format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\nroutes: [{{ name: model, stable: v1, versions: {{ v1: {{ endpoints: [127.0.0.1:1] }}, \
         v2: {{ endpoints: [127.0.0.1:2] }} }}, {rest} }}]\n"
    );
    let config = Config::parse(&config, "test").unwrap().config;
    let cluster = Cluster::at(api.url().parse().unwrap(), "default", Some("edge"), Deadlines::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let settings = Settings { address, peers: Peers::Endpoints(Vec::new()), token_file: folder.path().join("token") };
    let (messages, _heard) = mpsc::unbounded_channel();
    let seat = Seat::new("edge", leadership);
    let replication = Replication::start(seat, (&settings, listener), (&cluster, "default"), &messages);
    let state = folder.path().join("state.db");
    let events = Events::new(0, History::of_file(state.clone()), broadcast::channel(1).0);
    let view = Arc::new(ArcSwap::from_pointee(View::default()));
    let parts = parts(
        (config, replication),
        (state, events),
        mpsc::unbounded_channel().0,
        (&Arc::<Snapshots>::default(), view),
    );
    (Control::begin(parts).await, address)
}

/// The Lease says that this edge leads with term 1, until the test says otherwise.
fn leading() -> (watch::Sender<Leadership>, watch::Receiver<Leadership>) {
    let until = tokio::time::Instant::now() + Duration::from_hours(1);
    let fence = Fence { term: 1, holder: "edge".to_owned() };
    watch::channel(Leadership::Leading { fence, until })
}

#[tokio::test]
async fn an_order_between_the_end_of_the_lease_and_the_next_tick_is_not_decided_here() {
    let (api, folder) = (ApiServer::start().await.unwrap(), tempfile::tempdir().unwrap());
    let (lease, leadership) = leading();
    let (mut control, _) = by_hand(leadership, &folder, (&api, BY_PLAN)).await;
    let now = control.now();
    control.replication.as_mut().unwrap().standing = Standing::Leads { term: 1 };
    for route in &mut control.routes {
        route.lead(None, now);
    }
    lease.send(Leadership::Following { leader: Some("another".to_owned()) }).unwrap();
    let order = Order { kind: OrderKind::Pause, actor: "ada".to_owned(), reason: String::new() };
    let (answer, answered) = oneshot::channel();
    control.obey(OrderMessage { route: "model".parse().unwrap(), order, seen: None, answer }).await;
    assert_eq!(answered.await.unwrap().unwrap_err().code(), "not_leader");
    assert_eq!(control.routes[0].role(), Role::Follower);
}

#[tokio::test]
async fn what_others_counted_of_a_route_that_the_leader_does_not_have_goes_with_the_tick() {
    let (api, folder) = (ApiServer::start().await.unwrap(), tempfile::tempdir().unwrap());
    let (_lease, leadership) = leading();
    let (mut control, address) = by_hand(leadership, &folder, (&api, BY_HAND)).await;
    let now = control.now();
    let leader = control.replication.as_mut().unwrap();
    leader.standing = Standing::Leads { term: 1 };
    let counted = |route: &str| rows::Counted {
        route: route.parse().unwrap(),
        observed: Observed {
            stable: "v1".parse().unwrap(),
            canary: None,
            trial: 0,
            row: Row { weight: Share::ZERO, canary: Tally::default(), stable: Tally::default() },
            requests: None,
            drawn: Drawn::default(),
        },
    };
    let answer = Answer {
        name: "another".to_owned(),
        instance: rows::Instance(1),
        batch: rows::Batch { number: 1, rows: vec![counted("model"), counted("other")] },
        applied: BTreeMap::new(),
        trips: BTreeMap::new(),
        later: BTreeMap::new(),
    };
    leader.take_answer((address, Duration::ZERO), answer, now);
    assert_eq!(leader.pulled.len(), 2);
    control.tick().await;
    assert!(control.replication.unwrap().pulled.is_empty());
}

#[tokio::test]
async fn a_leader_that_asked_before_a_standstill_is_not_waited_for_after_it() {
    let (api, folder) = (ApiServer::start().await.unwrap(), tempfile::tempdir().unwrap());
    let (_lease, leadership) = leading();
    let (mut control, _) = by_hand(leadership, &folder, (&api, BY_HAND)).await;
    let now = control.now();
    let follower = control.replication.as_mut().unwrap();
    follower.standing = Standing::Follows;
    follower.following.asked_at = Some(now);
    assert!(!follower.is_left_alone(now) && !follower.must_tell(now));
    follower.grow_old(Duration::from_secs(5));
    assert!(follower.is_left_alone(now) && follower.must_tell(now));
    assert!(!follower.must_tell(now), "it was told just now");
    follower.grow_old(Duration::from_secs(5));
    assert!(follower.must_tell(now), "it was told five seconds ago");
}
