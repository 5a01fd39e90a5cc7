//! One edge: its rollout, its candidacy, what it knows of the cluster, and what the test knows that it knows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use pointsman_chaos::fakes::api_server::{Key, LabelSelector, Resource, Selection, Store};
use pointsman_config::{
    LiveService, Plan, Promotion, Retire, Rollout as RolloutPlan, Route, RouteName, Share, Split, Strategy, Version,
    VersionId,
};
use pointsman_kubernetes::annotation::Fence;
use pointsman_kubernetes::{
    Election, LeaseTimes, Observed, OnForeign, Picture, PortChoice, Selected, Wanted, service_seen,
};
use pointsman_rollout::{Drawn, Observed as Rows, Ready, Rollout, Row, Saved, ServiceSeen, Tally, Time};

pub const NAMESPACE: &str = "default";
/// Requests of one edge in a tick.
const REQUESTS: u64 = 40;

pub fn version(name: &str) -> VersionId {
    name.parse().unwrap()
}

pub fn route_name() -> RouteName {
    "shop".parse().unwrap()
}

/// From v1 to v2 at once, when every endpoint of v2 is ready.
pub fn route() -> Route {
    let versions = ["v1", "v2"].map(|name| (version(name), Version::at(Vec::new())));
    let plan = RolloutPlan {
        canary: version("v2"),
        strategy: Strategy::BlueGreen,
        promotion: Promotion::Automatic,
        bake: Duration::from_secs(6),
        step_deadline: Duration::from_mins(2),
    };
    let live = LiveService {
        namespace: None,
        service: "live".to_owned(),
        selector_key: "version".to_owned(),
        retire: Retire::None,
    };
    let route = Route::new(route_name(), version("v1"), versions.into());
    Route { plan: Plan::Rollout(plan), live_service: Some(live), ..route }
}

pub fn lease_times() -> LeaseTimes {
    LeaseTimes::new(Duration::from_secs(3), Duration::from_secs(2), Duration::from_millis(500)).unwrap()
}

/// What watches show of the store as it is.
pub struct Shown {
    pub revision: u64,
    pub observed: Arc<Observed>,
    pub pictures: BTreeMap<&'static str, Arc<Picture>>,
}

impl Shown {
    pub fn of(store: &Store) -> Self {
        let service = store.get(&Key::new(Resource::Service, NAMESPACE, "live")).unwrap();
        let observed = Arc::new(Observed::of(&serde_json::from_value(service).unwrap()));
        let pictures = ["live", "v1", "v2"].map(|name| (name, Arc::new(picture(store, name)))).into();
        Self { revision: store.revision(), observed, pictures }
    }
}

pub struct Edge {
    pub name: String,
    pub route: RouteName,
    pub rollout: Rollout,
    pub election: Election,
    /// The proof with which it leads, once it has claimed the Service.
    pub fence: Option<Fence>,
    pub observed: Option<Arc<Observed>>,
    pub pictures: BTreeMap<&'static str, Arc<Picture>>,
    pub applied: Split,
    /// Until when it hears nothing of the API server, and of the other edges.
    pub without_api: u64,
    pub without_peers: u64,
    /// Whether there is something to be written.
    pub is_dirty: bool,
    /// What an operator said about somebody else's change, until that is written.
    pub answer: Option<OnForeign>,
    /// What the test remembers: whether this edge knows that v2 was taken back.
    pub knows_setback: bool,
    /// Whether it took v2 back itself, and has neither stored nor told it.
    pub took_back: bool,
}

impl Edge {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            route: route_name(),
            rollout: Rollout::follower(Arc::new(route()), None, Time::default()),
            election: Election::new(name.to_owned(), lease_times()),
            fence: None,
            observed: None,
            pictures: BTreeMap::new(),
            applied: Split::Whole(version("v1")),
            without_api: 0,
            without_peers: 0,
            is_dirty: true,
            answer: None,
            knows_setback: false,
            took_back: false,
        }
    }

    /// Takes in what a watch shows.
    pub fn look(&mut self, shown: &Shown) {
        self.observed = Some(Arc::clone(&shown.observed));
        self.pictures = shown.pictures.clone();
    }

    pub fn ready(&self) -> BTreeMap<VersionId, Ready> {
        let of = |name: &str| {
            self.pictures.get(name).map(|picture| Ready { up: picture.ready(), total: picture.endpoints.len() })
        };
        ["v1", "v2"].map(|name| (version(name), of(name).unwrap_or_default())).into()
    }

    pub fn service_seen(&self) -> Option<ServiceSeen> {
        let picture = |name: &str| self.pictures.get(name).cloned();
        let versions = ["v1", "v2"].iter().filter_map(|name| Some((version(name), picture(name)?))).collect();
        service_seen(self.rollout.route(), self.observed.as_ref()?, &*picture("live")?, &versions)
    }

    /// Applies what is desired.
    pub fn apply(&mut self) {
        self.applied = self.rollout.desired().effective(&self.ready());
    }

    /// Who takes all requests, or all but the canary's.
    pub fn main_version(&self) -> VersionId {
        match &self.applied {
            Split::Whole(version) | Split::Canary { stable: version, .. } => version.clone(),
        }
    }

    /// What its requests of one tick came to; a broken canary fails them all.
    pub fn rows(&self, is_broken: bool) -> Rows {
        let whole = Tally { requests: REQUESTS, errors: 0, slow: 0 };
        let failed = Tally { errors: if is_broken { REQUESTS } else { 0 }, ..whole };
        let on_canary = self.applied == Split::Whole(version("v2"));
        let (stable, tally) = if on_canary { (version("v2"), failed) } else { (version("v1"), whole) };
        let row = Row { weight: Share::ZERO, canary: Tally::default(), stable: tally };
        let trial = self.rollout.trial();
        Rows { stable, canary: None, trial, row, requests: None, drawn: Drawn::default() }
    }

    pub fn wanted<'a>(
        &'a self,
        fence: &'a Fence,
        saved: &'a Saved,
        desired: &'a pointsman_rollout::Desired,
    ) -> Wanted<'a> {
        // While the rollout waits for an answer it wants no version; an earlier leader's answer is in its state.
        let otherwise = if desired.selected.is_some() { OnForeign::Restore } else { OnForeign::Leave };
        Wanted {
            route: &self.route,
            fence,
            selected: desired.selected.as_ref().map(|version| Selected { key: "version", version }),
            saved,
            decisions: &[],
            cut: 0,
            retired: desired.retired.as_ref(),
            on_foreign: self.answer.unwrap_or(otherwise),
        }
    }
}

fn picture(store: &Store, service: &str) -> Picture {
    let labels: LabelSelector = format!("kubernetes.io/service-name={service}").parse().unwrap();
    let selection = Selection { labels, ..Selection::all(Resource::EndpointSlice, Some(NAMESPACE)) };
    let slices: Vec<EndpointSlice> =
        store.all(&selection).into_iter().map(|slice| serde_json::from_value(slice).unwrap()).collect();
    Picture::of(&slices, &PortChoice::Any)
}
