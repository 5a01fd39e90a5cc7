//! Three edges of one installation: processes on loopback, one fake API server, and ways between them that can be cut.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pointsman_chaos::fakes::api_server::{Key, Resource, Selection, WatchEvent};
use pointsman_chaos::fakes::{FakeModel, Link};
use pointsman_chaos::load::{Load, Running};
use serde_json::{Value, json};

use crate::kube::{Cluster, LIVE, NAMESPACE};
use crate::process::{self, Edge, weight_of};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(40);
/// Where edges hear each other, each at an address of its own.
pub const PORT: u16 = 9901;
pub const TOKEN: &str = "open sesame";

/// How edges reach each other and the API server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ways {
    /// As they are listed, straight.
    Straight,
    /// As they are listed, by links.
    Links,
    /// Through a headless Service, straight.
    Service,
}

/// One of them, or where it was.
pub struct Place {
    edge: Option<Edge>,
    /// Where the others find it.
    pub address: SocketAddr,
    config: PathBuf,
    kubeconfig: PathBuf,
    /// To the API server.
    api: Option<Link>,
    /// To each edge, in their order.
    others: Vec<Link>,
}

pub struct Trio {
    pub cluster: Cluster,
    pub models: [FakeModel; 2],
    pub places: Vec<Place>,
}

/// An address for this edge that nobody else on the machine listens at.
pub fn own_address() -> SocketAddr {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let [low, high, ..] = std::process::id().to_le_bytes();
    let ip = Ipv4Addr::new(127, 64 | (high & 63), low, COUNT.fetch_add(1, Ordering::Relaxed));
    SocketAddr::from((ip, PORT))
}

/// Who shall be what in a trio.
pub const STEADY_LEASE: &str = "3s";

impl Trio {
    /// Three edges with a route `model` that ends with `rest`, once one of them leads and has heard both others.
    pub async fn start(ways: Ways, rest: &str) -> Self {
        let trio = Self::begin(ways, rest).await;
        trio.wait_for_all().await;
        trio
    }

    async fn begin(ways: Ways, rest: &str) -> Self {
        let cluster = Cluster::new().await;
        let models = [cluster.add_pod("one", "v1").await, cluster.add_pod("two", "v2").await];
        std::fs::write(cluster.folder.path().join("token"), TOKEN).unwrap();
        let addresses = [own_address(), own_address(), own_address()];
        if ways == Ways::Service {
            let spec = json!({ "clusterIP": "None", "selector": { "app": "edge" }, "ports": [{ "name": "replicas", "port": PORT }] });
            cluster.create(Resource::Service, json!({ "metadata": { "name": "edges" }, "spec": spec }));
        }
        let mut trio = Self { cluster, models, places: Vec::new() };
        for number in 0..3 {
            let place = trio.place(number, ways, &addresses, rest).await;
            trio.places.push(place);
            if ways == Ways::Service {
                trio.add_edge_pod(number);
            }
        }
        for number in 0..3 {
            trio.start_again(number).await;
        }
        trio
    }

    async fn place(&self, number: usize, ways: Ways, addresses: &[SocketAddr; 3], rest: &str) -> Place {
        let folder = self.cluster.folder.path();
        let (mut api, mut others) = (None, Vec::new());
        let mut kubeconfig = self.cluster.api.kubeconfig(&format!("edge-{number}"), NAMESPACE);
        if ways == Ways::Links {
            for address in addresses {
                others.push(Link::to(*address).await.unwrap());
            }
            let link = Link::to(self.cluster.api.addr()).await.unwrap();
            kubeconfig = kubeconfig.replace(&self.cluster.api.url(), &format!("http://{}", link.address()));
            api = Some(link);
        }
        let listed: Vec<String> = match ways {
            Ways::Links => others.iter().map(|link| link.address().to_string()).collect(),
            Ways::Straight | Ways::Service => addresses.iter().map(ToString::to_string).collect(),
        };
        let peers = match ways {
            Ways::Service => "service: edges".to_owned(),
            Ways::Straight | Ways::Links => format!("endpoints: [{}]", listed.join(", ")),
        };
        let address = addresses[number];
        let state = format!(
            "{{ kubernetes: {{ namespace: {NAMESPACE}, lease_duration: {STEADY_LEASE} }} }}
replicas: {{ address: {address}, {peers}, token_file: token }}"
        );
        let paths = [format!("edge-{number}.yaml"), format!("kubeconfig-{number}")].map(|name| folder.join(name));
        std::fs::write(&paths[0], Cluster::text(&state, rest)).unwrap();
        std::fs::write(&paths[1], kubeconfig).unwrap();
        let [config, kubeconfig] = paths;
        Place { edge: None, address, config, kubeconfig, api, others }
    }

    fn add_edge_pod(&self, number: usize) {
        self.cluster.add_labelled_pod(
            &format!("edge-{number}"),
            &json!({ "app": "edge" }),
            self.places[number].address,
        );
    }

    /// Starts the edge of a place, anew perhaps.
    pub async fn start_again(&mut self, number: usize) {
        let place = &mut self.places[number];
        let mut command = process::command(&place.config);
        command.env("KUBECONFIG", &place.kubeconfig).env("HOSTNAME", format!("edge-{number}"));
        command.args(["--drain-delay", "0s"]);
        place.edge = Some(Edge::started_by(command, &place.config).await);
    }

    pub fn edge(&self, number: usize) -> &Edge {
        self.places[number].edge.as_ref().unwrap()
    }

    pub fn alive(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|number| self.places[*number].edge.is_some()).collect()
    }

    /// As a power cut would.
    pub fn kill(&mut self, number: usize) {
        self.places[number].edge.take().unwrap().kill_9();
    }

    /// As Kubernetes does it.
    pub async fn terminate(&mut self, number: usize) {
        let mut edge = self.places[number].edge.take().unwrap();
        edge.signal(Signal::SIGTERM);
        assert!(edge.ended().await.success(), "{}", edge.log());
    }

    /// Cuts an edge off from the API server and from every other edge, or lets it in again.
    pub fn cut_off(&self, number: usize, is_cut: bool) {
        self.places[number].api.as_ref().unwrap().cut(is_cut);
        for (from, place) in self.places.iter().enumerate() {
            for (to, link) in place.others.iter().enumerate() {
                if (from == number) != (to == number) {
                    link.cut(is_cut);
                }
            }
        }
    }

    /// Cuts an edge off from the API server alone.
    pub fn cut_api(&self, number: usize, is_cut: bool) {
        self.places[number].api.as_ref().unwrap().cut(is_cut);
    }

    /// Cuts the way by which one edge asks another.
    pub fn cut_way(&self, from: usize, to: usize, is_cut: bool) {
        self.places[from].others[to].cut(is_cut);
    }

    /// Where an edge asks each of them.
    pub fn ways_of(&self, from: usize) -> Vec<SocketAddr> {
        self.places[from].others.iter().map(Link::address).collect()
    }

    /// What an edge says of itself and the others.
    pub async fn replicas(&self, number: usize) -> Value {
        self.edge(number).config().await["replicas"].clone()
    }

    pub async fn leads(&self, number: usize) -> bool {
        self.edge(number).text("/metrics").await.lines().any(|line| line == "pointsman_leader 1")
    }

    /// Those that say that they lead.
    pub async fn leaders(&self) -> Vec<usize> {
        let mut leaders = Vec::new();
        for number in self.alive() {
            if self.leads(number).await {
                leaders.push(number);
            }
        }
        leaders
    }

    /// Waits until just one of the living leads, and not one of `others`; gives it and how long that took.
    pub async fn led_by_another_than(&self, others: &[usize]) -> usize {
        let began = Instant::now();
        loop {
            if let [leader] = self.leaders().await[..]
                && !others.contains(&leader)
            {
                return leader;
            }
            assert!(began.elapsed() < PATIENCE, "nobody leads: {:?}\n{}", self.leaders().await, self.logs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn leader(&self) -> usize {
        self.led_by_another_than(&[]).await
    }

    pub fn followers_of(&self, leader: usize) -> Vec<usize> {
        self.alive().into_iter().filter(|number| *number != leader).collect()
    }

    /// Waits until one leads, has heard all the others, and every edge knows every endpoint.
    pub async fn wait_for_all(&self) -> usize {
        let leader = self.leader().await;
        let others = self.alive().len() - 1;
        self.edge(leader)
            .wait_for_config("all heard", |config| {
                let heard = config["replicas"]["replicas"].as_array().into_iter().flatten();
                heard.filter(|replica| replica["heard"] == true).count() == others
            })
            .await;
        for number in self.alive() {
            self.edge(number)
                .wait_for_route("both versions up", |route| {
                    ["v1", "v2"].iter().all(|version| route["versions"][version]["endpoints"][0]["state"] == "up")
                })
                .await;
        }
        leader
    }

    /// Waits until a condition holds of the route at every living edge.
    pub async fn everywhere(&self, what: &str, condition: impl Fn(&Value) -> bool) {
        for number in self.alive() {
            self.edge(number).wait_for_route(what, &condition).await;
        }
    }

    pub async fn wait_for_phase(&self, phase: &str) {
        self.everywhere(phase, |route| route["phase"] == phase).await;
    }

    pub async fn wait_for_weight(&self, percent: f64) {
        self.everywhere(&format!("v2 at {percent} %"), |route| weight_of(route) == percent).await;
    }

    /// Waits until promoting would not be refused.
    pub async fn wait_for_way_back(&self, leader: usize) {
        self.edge(leader).wait_for_route("a proven way back", |route| route["rollback_ready"]["ready"] == true).await;
    }

    /// So many requests per second to one edge, until stopped.
    pub fn load(&self, number: usize, rate: u32) -> Running {
        let mut load = Load::new(&format!("http://{}/v1/predict", self.edge(number).address)).unwrap();
        load.rate = rate;
        load.bodies = vec![bytes::Bytes::from_static(b"12345")];
        load.start().unwrap()
    }

    /// What stands on the live Service.
    pub fn kept(&self) -> Value {
        let live = self.cluster.live();
        let text = live["metadata"]["annotations"]["pointsman.dev/state"].as_str().unwrap_or("null").to_owned();
        serde_json::from_str(&text).unwrap()
    }

    pub fn fence(&self) -> String {
        self.cluster.live()["metadata"]["annotations"]["pointsman.dev/fence"].as_str().unwrap_or_default().to_owned()
    }

    /// The versions that the live Service has selected, one after the other.
    pub fn selections(&self) -> Vec<String> {
        let all = Selection::all(Resource::Service, Some(NAMESPACE));
        let events = self.cluster.api.store().changes(&all, 0).unwrap();
        let services = events.into_iter().filter_map(|event| match event {
            WatchEvent::Added(service) | WatchEvent::Modified(service) => Some(service),
            WatchEvent::Deleted(_) | WatchEvent::Bookmark { .. } | WatchEvent::Error(_) => None,
        });
        let live = services.filter(|service| service["metadata"]["name"] == LIVE);
        let mut versions: Vec<String> =
            live.map(|service| service["spec"]["selector"]["version"].as_str().unwrap().to_owned()).collect();
        versions.dedup();
        versions
    }

    /// How often an Event tells of a decision of this kind.
    pub fn told(&self, reason: &str) -> u64 {
        let events = self.cluster.api.store().all(&Selection::all(Resource::Event, Some(NAMESPACE)));
        let of_kind = events.iter().filter(|event| event["reason"] == reason);
        of_kind.map(|event| event["count"].as_u64().or(event["series"]["count"].as_u64()).unwrap_or(1)).sum()
    }

    /// Who holds the Lease.
    pub fn holder(&self) -> String {
        let lease = self.cluster.api.store().get(&Key::new(Resource::Lease, NAMESPACE, "pointsman")).unwrap();
        lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    }

    fn logs(&self) -> String {
        let log = |number: usize| format!("--- {number}\n{}", self.edge(number).log());
        self.alive().into_iter().map(log).collect()
    }
}

/// Ends a load and expects that nobody missed an answer; gives how many came from v1 and from v2.
pub async fn all_answered(load: Running) -> [u64; 2] {
    load.stop();
    let total = load.finish().await.unwrap().figures;
    assert_eq!((total.failed, total.errors.sum()), (0, 0), "{total:?}");
    ["v1", "v2"].map(|version| total.versions.get(version).map_or(0, |classes| classes.success))
}
