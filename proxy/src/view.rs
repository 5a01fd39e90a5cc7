//! What people and tools see of the running edge: one value, made by the control loop every tick, read by the admin
//! API, the metrics and (as JSON over the API) the command line.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pointsman_config::{RouteName, VersionId};
use pointsman_rollout::{AloneSummary, Change, Journal, MirrorSummary, Summary};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::mirror::books::{Disagreement, MirrorCounts};
use crate::observe::ObserverCounts;
use crate::recorder::{Counts, Failure};
use crate::retry::books::RetryCounts;

/// What the trials of a route are decided on; the control loop writes it, whoever wants a record copies it.
pub type SharedJournal = Arc<Mutex<Journal>>;

/// The whole edge at one moment.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The running config.
    pub config: ConfigView,
    /// Where rollout state is kept, and whether that works.
    pub state: StateView,
    /// Every route, in the order of the file.
    pub routes: Vec<RouteView>,
    /// What was counted, by route and version; filled at scrape time from the shards.
    pub counts: BTreeMap<RouteName, BTreeMap<VersionId, Counts>>,
    /// What was repeated, by route and version.
    pub retries: BTreeMap<RouteName, BTreeMap<VersionId, RetryCounts>>,
    /// Requests that the edge answered itself, by route and code; without a route those that none took.
    pub refusals: BTreeMap<Option<RouteName>, BTreeMap<&'static str, u64>>,
    /// What came of copied requests, by route; only of routes that copy some.
    pub mirrors: BTreeMap<RouteName, MirrorCounts>,
    /// What trials are decided on, by route.
    pub journals: BTreeMap<RouteName, SharedJournal>,
    /// Decisions since the process started, by route and decision.
    pub decisions: BTreeMap<(RouteName, &'static str), u64>,
    /// What became of the records that were made of requests.
    pub observed: ObserverCounts,
    /// Who outside is told of changes, in the order of the file.
    pub notifications: Vec<WebhookView>,
    /// Other edges; none if this one is alone.
    pub replicas: Option<ReplicasView>,
    /// Time that counted for no step, soak or bake, since the process stood still.
    pub stood_still: Duration,
    /// True once the first config is in force and the listeners accept.
    pub ready: bool,
    /// True while SIGTERM is being obeyed.
    pub draining: bool,
}

/// The running config, and the last edit that was refused.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigView {
    /// The file.
    pub file: String,
    /// SHA-256 of the text in force, in hexadecimal.
    pub hash: String,
    /// Counts up by one with every accepted change of the file; 1 at the start.
    pub generation: u64,
    /// When the text in force was loaded (RFC 3339).
    pub loaded_at: String,
    /// Reloads since the start that changed the config.
    pub reloads_ok: u64,
    /// Reloads since the start that were refused.
    pub reloads_failed: u64,
    /// Why the text that is now in the file was refused; none if it is in force.
    pub last_error: Option<ConfigErrorView>,
    /// The config in force, as checked; secrets are only named by their files.
    #[schema(value_type = Object)]
    pub running: Arc<serde_json::Value>,
    /// What the file changes that only a restart can put in force; the rest of it is in force.
    #[serde(default)]
    pub needs_restart: Vec<String>,
}

/// A refused edit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigErrorView {
    /// When it was refused (RFC 3339).
    pub at: String,
    /// SHA-256 of the refused text, in hexadecimal; empty if the file could not be read.
    pub hash: String,
    /// Every problem, `file:line:column: what; way out`.
    pub problems: Vec<String>,
}

/// Where rollout state is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StateView {
    /// The file.
    pub file: String,
    /// What is wrong with it and the way out; none if every decision is on disk.
    pub problem: Option<String>,
    /// What happened to it since the start and is over, such as that a damaged file was moved aside; none if nothing did.
    #[serde(default)]
    pub note: Option<String>,
}

/// A webhook that is told of changes, and what became of that since the process started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookView {
    /// Its name.
    pub name: String,
    /// `json` or `slack`.
    pub format: String,
    /// Rows that its receiver took.
    pub delivered: u64,
    /// Rows that it did not take, however often they were tried.
    pub given_up: u64,
    /// Rows that were not tried, since too many waited.
    pub dropped: u64,
    /// Tries after the first of a row.
    pub retries: u64,
    /// Rows that wait to be delivered.
    pub waiting: u64,
    /// Whether its last try failed.
    pub failing: bool,
    /// The last try that failed; none if none has.
    pub last_failure: Option<DeliveryFailureView>,
    /// When a row was last taken (RFC 3339); none if none was.
    pub last_delivered_at: Option<String>,
}

/// A try that failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeliveryFailureView {
    /// When (RFC 3339).
    pub at: String,
    /// What was to be told.
    pub event: String,
    /// Why it was not.
    pub problem: String,
}

/// How this edge and others decide together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReplicasView {
    /// The name of this one, as it stands in the Lease.
    pub name: String,
    /// `leader` or `follower`.
    pub role: String,
    /// Who decides, as far as this edge knows.
    pub leader: Option<String>,
    /// Seconds since the leader last asked this one; none at the leader, and before the first time.
    pub leader_age_s: Option<f64>,
    /// The others; only the leader knows them.
    pub replicas: Vec<ReplicaView>,
    /// Requests that the leader will never hear of, since nobody asked for them for too long.
    pub uncounted: u64,
}

/// Another edge, as the leader sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaView {
    /// Where it is asked.
    pub address: String,
    /// Its name; none before it first answered.
    pub name: Option<String>,
    /// Seconds since it last answered; none if it never did.
    pub age_s: Option<f64>,
    /// Whether that is lately enough to count.
    pub heard: bool,
    /// Whether nothing is promoted without it: it takes traffic, as far as is known.
    pub serves: bool,
    /// Whether it is listed in the file and has been silent for so long that nothing waits for it.
    #[serde(default)]
    pub gone: bool,
}

/// One route, as `GET /api/v1/routes/{route}` gives it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RouteView {
    /// Its name.
    #[schema(value_type = String)]
    pub name: RouteName,
    /// `steady`, `warming`, `shifting`, `paused`, `promoting`, `baking`, `rolling_back` or `rolled_back`.
    pub phase: String,
    /// The version in production now; after a promotion the former canary.
    #[schema(value_type = String)]
    pub stable: VersionId,
    /// The version that is tried.
    #[schema(value_type = Option<String>)]
    pub canary: Option<VersionId>,
    /// The present step, from 1; none outside of steps.
    pub step: Option<u64>,
    /// How many steps the plan has; none without a plan.
    pub steps: Option<u64>,
    /// How long the phase (in steps: the step) has lasted, in seconds.
    pub since_s: f64,
    /// What will happen next, and when or on which condition.
    pub next: String,
    /// Why the route is paused, held or was rolled back; empty otherwise.
    pub why: String,
    /// By version.
    #[schema(value_type = BTreeMap<String, WeightView>)]
    pub weights: BTreeMap<VersionId, WeightView>,
    /// By version.
    #[schema(value_type = BTreeMap<String, VersionView>)]
    pub versions: BTreeMap<VersionId, VersionView>,
    /// The comparison.
    pub analysis: AnalysisView,
    /// What copies of stable's requests showed; none if the route copies none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Box<MirrorView>>,
    /// What others say about the canary, while they are asked; only the edge that decides asks them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<GateView>,
    /// Versions that were taken back and stay at weight 0.
    pub quarantined: Vec<QuarantineView>,
    /// The last decision; its whole evidence is in the decision log.
    pub last_decision: Option<DecisionLine>,
    /// The Service whose selector follows the rollout; none if the route has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_service: Option<Box<LiveServiceView>>,
    /// Whether going back is proven to work at this moment; nothing is promoted without. None without a live Service, and
    /// where there is nothing to go back from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_ready: Option<Box<RollbackReadyView>>,
    /// How many edges apply what is granted; only the leader of several edges knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<AcknowledgedView>,
}

/// What somebody else says about the canary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GateView {
    /// Who: the name of the gate, such as `drift`.
    pub gate: String,
    /// `passes`, `holds` (no step and no promotion) or `fails` (the canary goes back).
    pub outcome: String,
    /// Why.
    pub words: String,
    /// For how long it has stood so, in seconds.
    pub for_s: f64,
    /// How long ago the finding was observed, in seconds; none before the first one.
    pub observed_s_ago: Option<f64>,
}

/// How many edges apply what is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AcknowledgedView {
    /// Those that do, this one among them.
    pub applied: u64,
    /// Those that serve.
    pub edges: u64,
}

/// The Service whose selector follows the rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveServiceView {
    /// Its name.
    pub service: String,
    /// The version that it selects, or what else, in words; none before it was seen.
    pub selected: Option<String>,
    /// Endpoints in its slices that are ready.
    pub ready: u64,
    /// Whether its slices hold endpoints of the selected version and of no other.
    pub agreed: bool,
    /// What somebody else changed, and who, as long as that stands.
    pub foreign: Option<String>,
    /// Why it cannot be read or written at present.
    pub problem: Option<String>,
}

/// Whether going back is proven to work at this moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RollbackReadyView {
    /// Whether it is.
    pub ready: bool,
    /// Why not; empty if it is.
    pub why: String,
    /// How long going back would take, in milliseconds, as last measured: until the slowest edge has it in force, and then
    /// the write on the live Service; none if it is not ready.
    pub expected_ms: Option<f64>,
}

/// Copies of stable's requests whose answers were compared with stable's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MirrorView {
    /// Who got them.
    #[schema(value_type = String)]
    pub version: VersionId,
    /// Copies that it answered and that could be compared.
    pub compared: u64,
    /// Those that disagreed with stable.
    pub disagreed: u64,
    /// Copies that stable answered a second time.
    pub noise_compared: u64,
    /// Those in which it disagreed with itself.
    pub noise_disagreed: u64,
    /// The last disagreements, oldest first.
    pub samples: Vec<Disagreement>,
}

/// The three weights of one version, in percent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WeightView {
    /// What the file, the plan or an operator asks.
    pub desired: f64,
    /// What the edge applies: desired, cut by quarantine and readiness.
    pub effective: f64,
    /// What the split gave it of the requests that began in the last 10 s, overrides not among them; none without.
    pub observed: Option<f64>,
}

/// One version's traffic over the last 60 s, and its endpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VersionView {
    /// Requests since the process started, client aborts and refusals not among them.
    pub requests: u64,
    /// Errors among them.
    pub errors: u64,
    /// Errors as a ratio of requests over the last 60 s; none without traffic.
    pub error_rate: Option<f64>,
    /// Requests per second over the last 10 s.
    pub requests_per_second: f64,
    /// Median latency over the last 60 s, in milliseconds.
    pub p50_ms: Option<f64>,
    /// 95th percentile.
    pub p95_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
    /// Its build, if the file names one.
    pub revision: Option<String>,
    /// How often one of its endpoints was ejected since the process started.
    pub ejections: u64,
    /// Where it runs.
    pub endpoints: Vec<EndpointView>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndpointView {
    /// As the file writes it; with the resolved address behind it where that differs.
    pub address: String,
    /// `up`; `down`: its checks fail; `ejected`: its requests fail, so it sits out for a while; `draining`: it left the file
    /// or its name, and finishes what it has; `unresolved`: its name has no address.
    pub state: String,
    /// Requests it is working on for this edge.
    pub in_flight: u32,
    /// Why it is not up, or what its last check found.
    pub problem: Option<String>,
}

/// An endpoint came up, went down, or sits out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndpointTurn {
    /// When (RFC 3339).
    pub at: String,
    /// Of which route.
    #[schema(value_type = String)]
    pub route: RouteName,
    /// Of which version.
    #[schema(value_type = String)]
    pub version: VersionId,
    /// As the file writes it; with the resolved address behind it where that differs.
    pub endpoint: String,
    /// `up`, `down` or `ejected`.
    pub state: String,
    /// Why.
    pub why: Option<String>,
}

/// The comparison of canary and stable.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AnalysisView {
    /// `rollback`, `promote`, `continue`, `inconclusive`, or `none` while nothing is compared.
    pub verdict: String,
    /// The reason behind it, such as `collecting` or `error_regression`.
    pub reason: String,
    /// Always-valid 99 % interval of canary minus stable, as ratios (0.01 is one point).
    pub error_rate_difference: Option<DifferenceView>,
    /// By test: the natural logarithm of its evidence, and the limit at which it decides.
    pub evidence: BTreeMap<String, EvidenceView>,
    /// What is still needed for a promotion, in words.
    pub forecast: Option<String>,
    /// What copies of requests showed, compared or not; none without.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub mirror: Option<MirrorSummary>,
    /// What the canary did by itself, where it is held to an absolute limit; none elsewhere.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub alone: Option<AloneSummary>,
    /// Everything, as the decision log keeps it.
    #[schema(value_type = Option<Object>)]
    pub summary: Option<Box<Summary>>,
}

/// An always-valid interval with its point estimate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DifferenceView {
    /// Lower end.
    pub low: f64,
    /// Point estimate.
    pub estimate: f64,
    /// Upper end.
    pub high: f64,
}

/// The evidence of one test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EvidenceView {
    /// Natural logarithm of the e-value; none before the first request.
    pub log_e: Option<f64>,
    /// It decides at this value.
    pub limit: f64,
}

/// A version that stays at weight 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuarantineView {
    /// Which.
    #[schema(value_type = String)]
    pub version: VersionId,
    /// The build that was taken back.
    pub revision: Option<String>,
    /// Why.
    pub why: String,
}

/// One row of the decision log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DecisionRow {
    /// Counts up by one over all routes.
    pub id: u64,
    /// When (RFC 3339, milliseconds, UTC).
    pub at: String,
    /// Of which route.
    #[schema(value_type = String)]
    pub route: RouteName,
    /// One sentence.
    pub sentence: String,
    /// Everything about it.
    #[schema(value_type = Object)]
    pub change: Change,
    /// Failing requests of the canary, as a sample; newest last.
    pub failures: Vec<Failure>,
}

/// A row of the decision log without its evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DecisionLine {
    /// Its number.
    pub id: u64,
    /// When (RFC 3339).
    pub at: String,
    /// The metric label `decision`.
    pub decision: String,
    /// One sentence.
    pub sentence: String,
}

/// What goes out over `GET /api/v1/events`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// Something changed.
    Decision(DecisionRow),
    /// One route, once a second.
    Sample(RouteView),
    /// An endpoint came up, went down, or sits out.
    Endpoint(EndpointTurn),
    /// The config file was accepted or refused.
    Config(ConfigView),
    /// What one route's versions did in one second; also kept, see `GET /api/v1/routes/{route}/series`.
    Second(SecondView),
    /// How the edge itself stands, once a second: as long as it comes, the control loop is alive.
    Edge(EdgeView),
}

/// How the edge itself stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EdgeView {
    /// When (RFC 3339).
    pub at: String,
    /// The version of the program.
    pub version: String,
    /// Whether it takes traffic.
    pub ready: bool,
    /// Whether it was told to end.
    pub draining: bool,
    /// Where state is kept.
    pub state: StateView,
    /// How this edge and others decide together; none if it is alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<ReplicasView>,
    /// Who outside is told of changes, in the order of the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notifications: Vec<WebhookView>,
}

/// One second of one route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SecondView {
    /// Which route.
    #[schema(value_type = String)]
    pub route: RouteName,
    /// When it ended, in milliseconds since 1970.
    pub at_ms: u64,
    /// By version; a version without requests has none.
    #[schema(value_type = BTreeMap<String, SecondOfVersion>)]
    pub versions: BTreeMap<VersionId, SecondOfVersion>,
    /// Which part of the way to a rollback the evidence has come, 1 being there; none while nothing is compared.
    pub rollback: Option<f64>,
    /// The same for a promotion.
    pub promotion: Option<f64>,
}

/// What one version did in one second, as counted by this edge.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SecondOfVersion {
    /// Requests per second.
    pub requests_per_second: f64,
    /// Errors as a ratio of them.
    pub error_rate: f64,
    /// Median latency, in milliseconds.
    pub p50_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
    /// Its effective weight at the end, in percent.
    pub weight: f64,
}

/// The last half hour of one route, as counted by this edge; less where there are very many routes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SeriesView {
    /// The last look, in milliseconds since 1970.
    pub now_ms: u64,
    /// Seconds between two looks; 0 before the first.
    pub spacing_s: u64,
    /// By version.
    #[schema(value_type = BTreeMap<String, VersionSeries>)]
    pub versions: BTreeMap<VersionId, VersionSeries>,
    /// How far the evidence had come.
    pub judged: JudgedSeries,
}

/// One version's seconds, oldest first; a second without requests is left out. All lists are of one length.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VersionSeries {
    /// When each ended, in milliseconds since 1970.
    pub at_ms: Vec<u64>,
    /// Requests per second.
    pub requests_per_second: Vec<f64>,
    /// Errors as a ratio of them.
    pub error_rate: Vec<f64>,
    /// Median latency, in milliseconds.
    pub p50_ms: Vec<Option<f64>>,
    /// 99th percentile.
    pub p99_ms: Vec<Option<f64>>,
    /// Effective weight, in percent.
    pub weight: Vec<f64>,
}

/// Which part of the way to its line the evidence had come, oldest first, as long as something was compared.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JudgedSeries {
    /// When, in milliseconds since 1970.
    pub at_ms: Vec<u64>,
    /// To a rollback: that of the nearest test; 1 is there.
    pub rollback: Vec<Option<f64>>,
    /// To a promotion: that of the farthest test; 1 is there.
    pub promotion: Vec<Option<f64>>,
}
