//! One edge: its rollout, its candidacy, what it knows of the cluster, and what the test knows that it knows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use pointsman_chaos::fakes::api_server::{Key, LabelSelector, Resource, Selection, Store};
use pointsman_config::{
    Guard, LiveService, Plan, Promotion, PromotionGuard, Retire, Rollout as RolloutPlan, Route, RouteName, Share,
    Split, Step, Strategy, Version, VersionId,
};
use pointsman_kubernetes::annotation::Fence;
use pointsman_kubernetes::{
    Election, LeaseTimes, Observed, OnForeign, Picture, PortChoice, Selected, Wanted, service_seen,
};
use pointsman_rollout::{
    Change, Drawn, Input, Observed as Rows, Ready, Resume, Rollout, Row, Saved, ServiceSeen, Tally, Time,
};

pub const NAMESPACE: &str = "default";
/// Requests of one edge in a tick.
const REQUESTS: u64 = 40;

pub fn version(name: &str) -> VersionId {
    name.parse().unwrap()
}

pub fn route_name() -> RouteName {
    "shop".parse().unwrap()
}

/// From v1 to this build of v2: at once, when every endpoint of v2 is ready, or in steps.
pub fn route(in_steps: bool, build: u32) -> Route {
    let step = |percent: u32| Step { weight: Share::from_ppm(percent * 10_000).unwrap(), hold: Duration::from_secs(1) };
    let strategy = if in_steps { Strategy::Canary([10, 50].map(step).to_vec()) } else { Strategy::BlueGreen };
    let of_build = |name: &str| Version {
        revision: (name == "v2" && build > 0).then(|| format!("r{build}")),
        ..Version::at(Vec::new())
    };
    let versions = ["v1", "v2"].map(|name| (version(name), of_build(name)));
    let plan = RolloutPlan {
        canary: version("v2"),
        strategy,
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
    // So that steps come to their end within a history.
    let promotion = PromotionGuard { difference: 0.05, min_soak: Duration::from_secs(1), ..PromotionGuard::default() };
    let guard = Guard { promotion, max_error_rate: 0.2, ..Guard::default() };
    Route { plan: Plan::Rollout(plan), live_service: Some(live), guard, ..route }
}

/// The build of v2 with this revision.
pub fn build_of(revision: Option<&str>) -> u32 {
    revision.map_or(0, |revision| revision.trim_start_matches('r').parse().unwrap())
}

pub fn lease_times() -> LeaseTimes {
    LeaseTimes::new(Duration::from_secs(3), Duration::from_secs(2), Duration::from_millis(500)).unwrap()
}

/// What watches show of the store as it is.
pub struct Shown {
    /// How often the Service, and the slices, had been written.
    pub written: (u64, u64),
    pub observed: Arc<Observed>,
    pub pictures: BTreeMap<&'static str, Arc<Picture>>,
}

impl Shown {
    /// Looks anew at what was written since `before`.
    pub fn of(store: &Store, written: (u64, u64), before: Option<Self>) -> Self {
        let look = || {
            let service = store.get(&Key::new(Resource::Service, NAMESPACE, "live")).unwrap();
            Arc::new(Observed::of(&serde_json::from_value(service).unwrap()))
        };
        let pictures = || ["live", "v1", "v2"].map(|name| (name, Arc::new(picture(store, name)))).into();
        match before {
            Some(before) if before.written == written => before,
            Some(before) if before.written.1 == written.1 => Self { written, observed: look(), ..before },
            Some(before) if before.written.0 == written.0 => Self { written, pictures: pictures(), ..before },
            Some(_) | None => Self { written, observed: look(), pictures: pictures() },
        }
    }
}

pub struct Edge {
    pub name: String,
    pub route: RouteName,
    pub rollout: Rollout,
    /// The build of v2 that its file names.
    pub build: u32,
    in_steps: bool,
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
    /// What the test remembers of what this edge knows.
    pub knows: Knowledge,
    /// Requests of the canary that did not come to a whole one.
    left_over: u64,
}

/// What there is to know of every build of v2.
#[derive(Debug, Clone, Default)]
pub struct Knowledge(BTreeMap<u32, Memory>);

impl Knowledge {
    pub fn of(&self, build: u32) -> Memory {
        self.0.get(&build).copied().unwrap_or_default()
    }

    pub fn of_mut(&mut self, build: u32) -> &mut Memory {
        self.0.entry(build).or_default()
    }

    pub fn learn(&mut self, other: &Self) {
        for (build, memory) in &other.0 {
            self.of_mut(*build).learn(*memory);
        }
    }

    /// The builds that it knows to be taken back and `other` does not.
    pub fn taken_back_unknown_to<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u32> + 'a {
        let is_unknown = |(build, memory): &(&u32, &Memory)| memory.is_taken_back && **memory > other.of(**build);
        self.0.iter().filter(is_unknown).map(|(build, _)| *build)
    }
}

/// What there is to know of one build: what was decided in a later trial counts, and in one trial that it was taken back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory {
    /// How often it was tried anew.
    pub trial: u64,
    /// Whether it was taken back in that trial.
    pub is_taken_back: bool,
}

impl Memory {
    pub fn learn(&mut self, other: Self) {
        *self = (*self).max(other);
    }

    pub fn next_trial(&mut self) {
        *self = Self { trial: self.trial + 1, is_taken_back: false };
    }
}

impl Edge {
    pub fn new(name: &str, in_steps: bool) -> Self {
        Self {
            name: name.to_owned(),
            route: route_name(),
            rollout: Rollout::follower(Arc::new(route(in_steps, 0)), None, Time::default()),
            build: 0,
            in_steps,
            election: Election::new(name.to_owned(), lease_times()),
            fence: None,
            observed: None,
            pictures: BTreeMap::new(),
            applied: Split::Whole(version("v1")),
            without_api: 0,
            without_peers: 0,
            is_dirty: true,
            knows: Knowledge::default(),
            left_over: 0,
        }
    }

    /// Its file names this build from now on.
    pub fn edit(&mut self, build: u32, now: Time) -> Vec<Change> {
        self.build = build;
        self.is_dirty = true;
        self.rollout.step(Input::Edit(Arc::new(route(self.in_steps, build))), now).unwrap()
    }

    /// The build of v2 whose rollout it writes down: its own, or a newer one that it lets alone.
    pub fn kept_build(&self, now: Time) -> u32 {
        build_of(self.rollout.kept(now).identity().revision.as_deref())
    }

    /// Takes in what a watch shows.
    pub fn look(&mut self, shown: &Shown) {
        if self.observed.as_ref().is_none_or(|seen| seen.resource_version != shown.observed.resource_version) {
            let seen = Observed::clone(&shown.observed).after(self.observed.as_deref());
            self.observed = Some(Arc::new(seen));
        }
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
        service_seen(self.rollout.route(), self.observed.as_ref()?, picture("live").as_deref(), &versions)
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
    pub fn rows(&mut self, is_broken: bool) -> Rows {
        let tally = |name: &VersionId, requests: u64| {
            let fails = is_broken && *name == version("v2");
            Tally { requests, errors: if fails { requests } else { 0 }, slow: 0 }
        };
        let (stable, canary, weight) = match self.applied.clone() {
            Split::Whole(whole) => (whole, None, Share::ZERO),
            Split::Canary { stable, canary, share } => (stable, Some(canary), share),
        };
        let parts = REQUESTS * u64::from(weight.ppm()) + self.left_over;
        self.left_over = parts % u64::from(Share::PARTS);
        let of_canary = parts / u64::from(Share::PARTS);
        let row = Row {
            weight,
            canary: canary.as_ref().map(|canary| tally(canary, of_canary)).unwrap_or_default(),
            stable: tally(&stable, REQUESTS - of_canary),
        };
        let drawn = Drawn { canary: row.canary.requests, stable: row.stable.requests };
        Rows { stable, canary, trial: self.rollout.trial(), row, requests: None, drawn }
    }

    /// What to do about somebody else's change: what was said about just that one, by whomever that was heard.
    pub fn on_foreign(&self, selected: Option<&VersionId>) -> OnForeign {
        let foreign = self.observed.as_ref().and_then(|observed| observed.foreign(&self.route));
        let (Some(foreign), Some((to, how))) = (foreign, self.rollout.answer_to_foreign()) else {
            return OnForeign::Leave;
        };
        let is_about = (&to.by, &to.what, &to.when) == (&foreign.by, &foreign.what, &foreign.when);
        match how {
            Resume::Adopt if is_about => OnForeign::Adopt,
            Resume::Restore if is_about && selected.is_some() => OnForeign::Restore,
            Resume::Adopt | Resume::Restore | Resume::GoOn => OnForeign::Leave,
        }
    }

    pub fn wanted<'a>(
        &'a self,
        fence: &'a Fence,
        saved: &'a Saved,
        desired: &'a pointsman_rollout::Desired,
    ) -> Wanted<'a> {
        Wanted {
            route: &self.route,
            fence,
            selected: desired.selected.as_ref().map(|version| Selected { key: "version", version }),
            saved,
            decisions: &[],
            cut: 0,
            retired: desired.retired.as_ref(),
            scaled: None,
            on_foreign: self.on_foreign(desired.selected.as_ref()),
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
