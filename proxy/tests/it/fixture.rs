//! A fixed edge to look at: the real admin router on a free port, over a control loop that only writes down what it
//! was ordered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pointsman::admin::{self, AdminContext, DecisionLog, DecisionLogError, TokenFile};
use pointsman::control::handle::{ControlHandle, Done, OrderError, OrderMessage};
use pointsman::control::series::SeriesBook;
use pointsman::metrics::Metrics;
use pointsman::mirror::books::{CopyCounts, MirrorCounts, Times};
use pointsman::observe::ObserverCounts;
use pointsman::recorder::{Counts, Failure};
use pointsman::retry::books::RetryCounts;
use pointsman::view::*;
use pointsman_config::{RouteName, Share, Split, VersionId};
use pointsman_rollout::{
    Cause, Change, Decision, Difference, Measure, Order, PhaseName, Ratio, Refusal, Regression, Summary, Tally, Tests,
    Verdict, Waiting,
};
use tokio::runtime::Runtime;
use tokio::sync::{broadcast, mpsc, oneshot};

pub(crate) fn route_name(name: &str) -> RouteName {
    name.parse().unwrap()
}

pub(crate) fn version(name: &str) -> VersionId {
    name.parse().unwrap()
}

pub(crate) fn canary_split(percent: &str) -> Split {
    Split::canary(version("v1"), version("v2"), percent.parse::<Share>().unwrap())
}

/// A running admin API; ends with the value.
pub(crate) struct Edge {
    pub(crate) address: SocketAddr,
    pub(crate) view: Arc<ArcSwap<View>>,
    pub(crate) events: broadcast::Sender<Event>,
    orders: Arc<Mutex<Vec<(RouteName, Order)>>>,
    stop: Option<oneshot::Sender<()>>,
    runtime: Option<Runtime>,
}

impl Edge {
    pub(crate) fn new(view: View) -> Self {
        Self::with(view, decisions(), None)
    }

    /// At the address of one that is gone.
    pub(crate) fn at(address: SocketAddr, view: View) -> Self {
        Self::listening(address, view, decisions(), None)
    }

    pub(crate) fn with(view: View, log: Vec<DecisionRow>, token: Option<PathBuf>) -> Self {
        Self::listening(SocketAddr::from(([127, 0, 0, 1], 0)), view, log, token)
    }

    fn listening(address: SocketAddr, view: View, log: Vec<DecisionRow>, token: Option<PathBuf>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let view = Arc::new(ArcSwap::from_pointee(view));
        let (events, _) = broadcast::channel(16);
        let (sender, receiver) = mpsc::channel(4);
        let handle = ControlHandle::new(sender, Arc::clone(&view), events.clone());
        let orders = Arc::new(Mutex::new(Vec::new()));
        runtime.spawn(obey(receiver, handle.clone(), Arc::clone(&orders)));
        let context = AdminContext {
            metrics: Metrics::new(handle.clone()),
            handle,
            decisions: Arc::new(FixedLog(log)),
            series: SeriesBook::default(),
            notifier: pointsman::notify::Notifier::default(),
            token: token.map(TokenFile::new),
        };
        let listener = runtime.block_on(tokio::net::TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        runtime.spawn(admin::serve(listener, admin::router(context), async { drop(stopped.await) }));
        Self { address, view, events, orders, stop: Some(stop), runtime: Some(runtime) }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What was ordered so far.
    pub(crate) fn orders(&self) -> Vec<(RouteName, Order)> {
        self.orders.lock().unwrap().clone()
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Writes orders down; refuses `resume`, and takes the reason `stop` for the end of the edge and `hang` for a disk that
/// hangs.
async fn obey(
    mut receiver: mpsc::Receiver<OrderMessage>,
    handle: ControlHandle,
    orders: Arc<Mutex<Vec<(RouteName, Order)>>>,
) {
    while let Some(message) = receiver.recv().await {
        orders.lock().unwrap().push((message.route.clone(), message.order.clone()));
        let answer = answer(&message, &handle);
        drop(message.answer.send(answer));
    }
}

fn answer(message: &OrderMessage, handle: &ControlHandle) -> Result<Done, OrderError> {
    if message.order.reason == "stop" {
        return Err(OrderError::Stopping);
    }
    if message.order.kind == pointsman_rollout::OrderKind::Resume(pointsman_rollout::Resume::GoOn) {
        let (route, phase) = (message.route.to_string(), PhaseName::Shifting);
        return Err(
            Refusal::WrongPhase { route, verb: "be resumed", phase, way_out: "it is not paused".to_owned() }.into()
        );
    }
    let route = handle.view().routes.iter().find(|route| route.name == message.route).unwrap().clone();
    let cause = Cause::Operator { actor: message.order.actor.clone(), reason: message.order.reason.clone() };
    let row = DecisionRow { id: 44, ..row(44, Decision::Pause, cause) };
    Ok(Done { decisions: vec![row], route, effective: canary_split("5%"), persisted: message.order.reason != "hang" })
}

struct FixedLog(Vec<DecisionRow>);

#[async_trait]
impl DecisionLog for FixedLog {
    async fn decisions(
        &self,
        route: &RouteName,
        limit: usize,
        before: Option<u64>,
    ) -> Result<Vec<DecisionRow>, DecisionLogError> {
        if route.as_str() == "broken" {
            return Err(DecisionLogError {
                problem: "state.db is locked; stop the other process that uses it".to_owned(),
            });
        }
        let asked = |row: &&DecisionRow| row.route == *route && before.is_none_or(|before| row.id < before);
        Ok(self.0.iter().rev().filter(asked).take(limit).cloned().collect())
    }

    async fn decision(&self, id: u64) -> Result<Option<DecisionRow>, DecisionLogError> {
        Ok(self.0.iter().find(|row| row.id == id).cloned())
    }
}

/// A decision about `delivery-time`, without evidence.
pub(crate) fn row(id: u64, decision: Decision, cause: Cause) -> DecisionRow {
    let change = Change {
        decision,
        from: PhaseName::Shifting,
        to: PhaseName::Shifting,
        stable: version("v1"),
        canary: Some(version("v2")),
        before: canary_split("1%"),
        after: canary_split("5%"),
        cause,
        evidence: None,
    };
    let at = format!("2026-01-31T03:04:{:02}.250Z", id % 60);
    DecisionRow {
        id,
        at,
        route: route_name("delivery-time"),
        sentence: change.sentence(),
        change,
        failures: Vec::new(),
    }
}

/// A step, a rollback with evidence, and its end.
pub(crate) fn decisions() -> Vec<DecisionRow> {
    let step = row(
        41,
        Decision::Step,
        Cause::Plan { reason: "the hold of 2 min is over and nothing speaks against it".to_owned() },
    );
    let mut back = row(42, Decision::Rollback, Cause::Evidence { regression: Regression::ErrorRegression });
    back.change.to = PhaseName::RollingBack;
    back.change.before = canary_split("5%");
    back.change.after = Split::Whole(version("v1"));
    back.change.evidence = Some(regression());
    back.sentence = back.change.sentence();
    back.failures = failures();
    let mut done = row(43, Decision::RollbackDone, Cause::Plan { reason: "all traffic has moved back".to_owned() });
    done.change.from = PhaseName::RollingBack;
    done.change.to = PhaseName::RolledBack;
    done.change.before = Split::Whole(version("v1"));
    done.change.after = Split::Whole(version("v1"));
    done.sentence = done.change.sentence();
    vec![step, back, done]
}

fn failures() -> Vec<Failure> {
    let failure = |ms: u64, outcome: &str, status, id: &str| Failure {
        request_id: id.to_owned(),
        outcome: outcome.to_owned(),
        status,
        at_unix_ms: 1_769_828_680_000 + ms,
    };
    vec![
        failure(1_250, "error", Some(500), "0f3a6c1e-8c1d-4f6e-9a55-1d1f0c9e7b21"),
        failure(1_900, "timeout", Some(504), "batch-7/\u{1b}[31mrow-3"),
        failure(2_007, "reset", None, "4b1d7a90-52f1-4c12-8c7e-7f3d2a6b9e02"),
    ]
}

/// 15 % against 0.1 %.
pub(crate) fn regression() -> Summary {
    let measure = |log_e: f64, limit: f64| Measure { log_e: Some(log_e), limit };
    Summary {
        verdict: Verdict::Rollback(Regression::ErrorRegression),
        elapsed_seconds: 192.0,
        canary: Tally { requests: 3_000, errors: 450, slow: 9 },
        stable: Tally { requests: 57_000, errors: 57, slow: 120 },
        canary_error_rate: Some(0.15),
        stable_error_rate: Some(0.001),
        error_rate_difference: Some(Difference { low: 0.121, estimate: 0.149, high: 0.178 }),
        error_rate_ratio: Some(Ratio { low: 92.4, high: Some(261.0) }),
        confidence: 0.99,
        evidence: Tests {
            slow: measure(27.9, 7.418_6),
            fast: measure(-3.0, 9.2),
            latency: measure(0.4, 7.418_6),
            promotion: Measure { log_e: None, limit: 4.605 },
            promotion_latency: measure(2.2, 4.605),
        },
        burst_discount: 1.4,
        hold: false,
        forecast: None,
        split: None,
        mirror: None,
        alone: None,
        gates: Vec::new(),
    }
}

fn collecting() -> Summary {
    Summary {
        verdict: Verdict::Continue(Waiting::Collecting),
        error_rate_difference: Some(Difference { low: -0.001_1, estimate: 0.000_2, high: 0.003_4 }),
        ..regression()
    }
}

fn endpoint(address: &str, up: bool) -> EndpointView {
    EndpointView {
        address: address.to_owned(),
        state: if up { "up" } else { "down" }.to_owned(),
        in_flight: u32::from(up) * 3,
        problem: (!up).then(|| "connection refused".to_owned()),
    }
}

fn version_view(revision: &str, rate: f64, errors: f64, endpoints: Vec<EndpointView>) -> VersionView {
    VersionView {
        requests: 57_000,
        errors: 57,
        error_rate: Some(errors),
        requests_per_second: rate,
        p50_ms: Some(12.1),
        p95_ms: Some(31.0),
        p99_ms: Some(1_240.0),
        revision: Some(revision.to_owned()),
        ejections: 2,
        endpoints,
    }
}

/// A canary at 5 %, in its second step, undecided.
pub(crate) fn shifting() -> RouteView {
    let weight = |desired, observed| WeightView { desired, effective: desired, observed: Some(observed) };
    let stable = vec![endpoint("127.0.0.1:9001", true), endpoint("127.0.0.1:9003", true)];
    let canary = vec![endpoint("127.0.0.1:9002", true), endpoint("127.0.0.1:9004", false)];
    let evidence = [("slow", Some(0.8), 7.418_6), ("fast", Some(-3.0), 9.2), ("promotion", Some(2.2), 4.605)];
    let evidence = evidence.map(|(test, log_e, limit)| (test.to_owned(), EvidenceView { log_e, limit }));
    RouteView {
        name: route_name("delivery-time"),
        phase: "shifting".to_owned(),
        stable: version("v1"),
        canary: Some(version("v2")),
        step: Some(2),
        steps: Some(4),
        since_s: 72.4,
        next: "v1 75%, v2 25% in 228 s at the earliest".to_owned(),
        why: String::new(),
        weights: [(version("v1"), weight(95.0, 94.8)), (version("v2"), weight(5.0, 5.2))].into(),
        versions: [
            (version("v1"), version_view("r6", 948.2, 0.001, stable)),
            (version("v2"), version_view("r7", 49.8, 0.001_2, canary)),
        ]
        .into(),
        analysis: AnalysisView {
            verdict: "continue".to_owned(),
            reason: "collecting".to_owned(),
            error_rate_difference: Some(DifferenceView { low: -0.001_1, estimate: 0.000_2, high: 0.003_4 }),
            evidence: evidence.into(),
            forecast: Some("387 more requests of the canary, 77 s at this weight".to_owned()),
            mirror: None,
            alone: None,
            summary: Some(Box::new(collecting())),
        },
        mirror: None,
        gates: Vec::new(),
        quarantined: Vec::new(),
        last_decision: Some(line(41)),
        live_service: None,
        rollback_ready: Some(Box::new(RollbackReadyView { ready: true, why: String::new(), expected_ms: Some(12.5) })),
        acknowledged: Some(AcknowledgedView { applied: 2, edges: 3 }),
    }
}

fn line(id: u64) -> DecisionLine {
    let row = decisions().into_iter().find(|row| row.id == id).unwrap();
    DecisionLine { id, at: row.at, decision: row.change.decision.as_str().to_owned(), sentence: row.sentence }
}

/// The same canary, taken back.
pub(crate) fn rolled_back() -> RouteView {
    let mut route = shifting();
    let weight = |desired, effective, observed| WeightView { desired, effective, observed: Some(observed) };
    "rolled_back".clone_into(&mut route.phase);
    (route.step, route.since_s) = (None, 5_400.0);
    route.weights = [(version("v1"), weight(95.0, 100.0, 100.0)), (version("v2"), weight(5.0, 0.0, 0.0))].into();
    "it fails more than stable, beyond doubt".clone_into(&mut route.why);
    "v2 stays at 0% until its revision changes or `pointsman retry delivery-time v2`".clone_into(&mut route.next);
    let canary = route.versions.get_mut(&version("v2")).unwrap();
    (canary.error_rate, canary.requests_per_second, canary.p50_ms, canary.p95_ms, canary.p99_ms) =
        (None, 0.0, None, None, None);
    route.analysis = AnalysisView { verdict: "none".to_owned(), ..AnalysisView::default() };
    route.quarantined = vec![QuarantineView {
        version: version("v2"),
        revision: Some("r7".to_owned()),
        why: "it fails more than stable, beyond doubt".to_owned(),
    }];
    route.last_decision = Some(line(43));
    route
}

/// A route with one version and nothing to do.
pub(crate) fn steady(name: &str) -> RouteView {
    let mut route = shifting();
    route.name = route_name(name);
    "steady".clone_into(&mut route.phase);
    (route.canary, route.step, route.steps) = (None, None, None);
    route.weights = [(version("v1"), WeightView { desired: 100.0, effective: 100.0, observed: None })].into();
    route.versions.remove(&version("v2"));
    route.analysis = AnalysisView { verdict: "none".to_owned(), ..AnalysisView::default() };
    "nothing; all traffic stays where it is".clone_into(&mut route.next);
    route.last_decision = None;
    route
}

/// A ready edge with these routes.
pub(crate) fn view(routes: Vec<RouteView>) -> View {
    let mut counts = BTreeMap::new();
    for route in &routes {
        let of_versions: BTreeMap<VersionId, Counts> =
            route.versions.keys().map(|version| (version.clone(), some_counts())).collect();
        counts.insert(route.name.clone(), of_versions);
    }
    View {
        config: ConfigView {
            file: "/etc/pointsman/pointsman.yaml".to_owned(),
            hash: "9f86d081884c7d65".to_owned(),
            generation: 3,
            loaded_at: "2026-01-31T03:00:00Z".to_owned(),
            reloads_ok: 2,
            reloads_failed: 1,
            last_error: None,
            needs_restart: Vec::new(),
            running: serde_json::json!({"routes": []}).into(),
        },
        state: StateView { file: "/var/lib/pointsman/state.db".to_owned(), problem: None, note: None },
        counts,
        retries: [(route_name("delivery-time"), [(version("v2"), some_retries())].into())].into(),
        refusals: [
            (None, [("no_route", 3)].into()),
            (Some("delivery-time".parse().unwrap()), [("rate_limited", 2)].into()),
        ]
        .into(),
        journals: BTreeMap::new(),
        mirrors: [(route_name("delivery-time"), some_copies())].into(),
        decisions: [((route_name("delivery-time"), "rollback"), 1)].into(),
        replicas: None,
        stood_still: Duration::from_millis(600_500),
        notifications: vec![webhook()],
        observed: ObserverCounts { lines_written: 7, lines_dropped: 1, spans_exported: 5, spans_dropped: 2 },
        routes,
        ready: true,
        draining: false,
    }
}

/// A webhook whose receiver was away for a while.
fn webhook() -> WebhookView {
    WebhookView {
        name: "on-call".to_owned(),
        format: "slack".to_owned(),
        delivered: 12,
        given_up: 1,
        dropped: 2,
        retries: 7,
        waiting: 3,
        failing: false,
        last_failure: Some(DeliveryFailureView {
            at: "2026-01-31T03:11:00.000Z".to_owned(),
            event: "rollback".to_owned(),
            problem: "it answered 503".to_owned(),
        }),
        last_delivered_at: Some("2026-01-31T02:40:00.000Z".to_owned()),
    }
}

fn some_copies() -> MirrorCounts {
    let times = || Times { histogram: some_counts().histogram, sum_us: 2_000_000 };
    let copies = |name, results| CopyCounts { version: version(name), results, stable: times(), copy: times() };
    MirrorCounts { copies: [copies("v2", [90, 5, 2, 1, 3]), copies("v1", [10, 0, 0, 0, 0])] }
}

fn some_retries() -> RetryCounts {
    RetryCounts { results: [7, 2, 1, 4], stale_excused: 3, stale_charged: 5 }
}

/// 7 + 6 + … requests, one bucket apart.
fn some_counts() -> Counts {
    let mut counts = Counts { outcomes: [90, 5, 1, 1, 1, 1, 1], sum_us: 1_500_000, ..Counts::default() };
    counts.histogram[3] = 60;
    counts.histogram[12] = 39;
    *counts.histogram.last_mut().unwrap() = 1;
    counts
}

/// A config error and a state problem on top.
pub(crate) fn troubled(mut view: View) -> View {
    view.config.last_error = Some(ConfigErrorView {
        at: "2026-01-31T03:10:00Z".to_owned(),
        hash: "60303ae22b998861".to_owned(),
        problems: vec![
            "/etc/pointsman/pointsman.yaml:14:22: error: the weights add up to 105%; make them add up to 100%"
                .to_owned(),
        ],
    });
    view.notifications.iter_mut().for_each(|hook| hook.failing = true);
    view.config.needs_restart = vec!["admin.address is 127.0.0.1:9900 until then".to_owned()];
    view.state.problem =
        Some("the disk is full; free some space, then decisions are written again by themselves".to_owned());
    view
}
