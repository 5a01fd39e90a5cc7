//! The file as written: keys, their order in the reference, their defaults for an editor. Nothing here is checked
//! beyond one value at a time; `check` looks at how they fit together.
//!
//! The serde name of a struct is how a message speaks of it; its schemars name is its title in the reference.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;

use crate::plan::{Against, ErrorKind, OnDrift, OnRegression, Promotion};
use crate::read::{Entries, Written};
use crate::scalar::{CheckPath, Count, Factor, ObjectName, PathPrefix, Percent, Text, Value};
use crate::{Endpoint, Host, Protocol, RouteName, Share, VersionId};

mod cluster;
mod endpoints;
mod notify;
mod observe;
mod outside;
mod protection;
mod traffic;

pub(crate) use cluster::{KubernetesStateFile, LiveServiceFile, PortFile, ReplicasFile, RetireFile};
pub(crate) use endpoints::{EjectionFile, ExampleFile, HealthCheckFile, UpstreamTlsFile, WarmUpFile};
pub(crate) use notify::WebhookFile;
pub(crate) use observe::{AccessLogFile, TracesFile};
pub(crate) use outside::{FreezeFile, OutsideGateFile, QueryFile};
pub(crate) use protection::{LimitsFile, RateFile, RateKeyFile, TimeoutsFile};
pub(crate) use traffic::{BudgetFile, CompareFile, MirrorFile, OverrideFile, RetriesFile, StickyFile};

/// A list, each item with its place.
pub(crate) type List<T> = Written<Vec<Written<T>>>;

/// A mapping from names that the operator chose.
pub(crate) type Map<K, V> = Written<Entries<Text<K>, V>>;

/// The config file of Pointsman: what listens, what is served, and how traffic is divided.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "the config file")]
#[schemars(rename = "Config", extend("required" = ["listeners", "routes"]))]
pub(crate) struct File {
    /// Where clients connect; at least one.
    pub(crate) listeners: List<ListenerFile>,
    /// Where operators connect: admin API, metrics and dashboard.
    pub(crate) admin: Written<AdminFile>,
    /// Where rollout state is kept.
    pub(crate) state: Written<StateFile>,
    /// How this edge and others decide together; it is alone, if left out.
    pub(crate) replicas: Written<ReplicasFile>,
    /// One JSON line for each request that has ended; none, if left out. `access_log: {}` writes all of them to standard
    /// output.
    pub(crate) access_log: Written<AccessLogFile>,
    /// Spans for OpenTelemetry; none, if left out.
    pub(crate) traces: Written<TracesFile>,
    /// Webhooks that are told of changes; none, if left out. Names are unique.
    pub(crate) notifications: List<WebhookFile>,
    /// Windows in which nothing goes forward by itself; none, if left out. Names are unique.
    pub(crate) freeze: List<FreezeFile>,
    /// Whether plain requests take the short way through the edge. Answers are the same either way.
    #[schemars(extend("default" = true))]
    pub(crate) fast_lane: Value<bool>,
    /// What is served; at least one. Names are unique, and so are matches.
    pub(crate) routes: List<RouteFile>,
}

/// One address that clients connect to.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "a listener")]
#[schemars(rename = "Listener", extend("required" = ["address"]))]
pub(crate) struct ListenerFile {
    /// IP address and port to listen on; port 0 takes a free one.
    pub(crate) address: Value<SocketAddr>,
    /// What the edge proves to clients, and they to it; without TLS, if left out.
    pub(crate) tls: Written<ListenerTlsFile>,
}

/// What the edge proves to clients, and they to it: one certificate (`certificate` and `private_key`), or a list of them.
/// The files are read again when they change.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`tls`")]
#[schemars(rename = "ListenerTls")]
pub(crate) struct ListenerTlsFile {
    /// PEM file with the certificate, and those that lead to its root.
    pub(crate) certificate: Value<PathBuf>,
    /// PEM file with its key.
    pub(crate) private_key: Value<PathBuf>,
    /// Several certificates: the one whose names fit what the client asks for is shown, else the first.
    pub(crate) certificates: List<CertificateFile>,
    /// PEM file with the certificates that sign those of clients; clients need none, if left out.
    pub(crate) client_ca: Value<PathBuf>,
}

/// A certificate and its key.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "a certificate")]
#[schemars(rename = "Certificate", extend("required" = ["certificate", "private_key"]))]
pub(crate) struct CertificateFile {
    /// PEM file with the certificate, and those that lead to its root.
    pub(crate) certificate: Value<PathBuf>,
    /// PEM file with its key.
    pub(crate) private_key: Value<PathBuf>,
}

/// Where operators connect.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`admin`")]
#[schemars(rename = "Admin")]
pub(crate) struct AdminFile {
    /// IP address and port to listen on; port 0 takes a free one.
    #[schemars(extend("default" = "127.0.0.1:9900"))]
    pub(crate) address: Value<SocketAddr>,
    /// File with the bearer token that operators send. Needed unless the address is loopback.
    pub(crate) token_file: Value<PathBuf>,
}

/// Where rollout state is kept: `file` or `kubernetes`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`state`")]
#[schemars(rename = "State")]
pub(crate) struct StateFile {
    /// An SQLite file, made if it is not there.
    #[schemars(extend("default" = "/var/lib/pointsman/state.db"))]
    pub(crate) file: Value<PathBuf>,
    /// In a cluster: for edges that discover and flip Services there, alone or as many.
    pub(crate) kubernetes: Written<KubernetesStateFile>,
}

/// Which requests a route takes, which versions can answer them, how traffic is divided, and what protects it. With
/// neither `weights` nor `rollout` all traffic goes to `stable`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "a route")]
#[schemars(rename = "Route", extend("required" = ["name", "stable", "versions"]))]
pub(crate) struct RouteFile {
    /// Its unique name; metrics, commands and the admin API use it.
    pub(crate) name: Value<RouteName>,
    /// Which requests it takes; all, if left out. The longest prefix wins, an exact host before a suffix.
    #[serde(rename = "match")]
    pub(crate) matches: Written<MatchFile>,
    /// The version in production, one of `versions`.
    pub(crate) stable: Value<VersionId>,
    /// Every version that can serve, by name.
    pub(crate) versions: Map<VersionId, VersionFile>,
    /// How traffic is divided by hand: shares that add up to 100%. At most two versions have traffic, one of them
    /// `stable`. Not together with `rollout`.
    pub(crate) weights: Map<VersionId, Text<Share>>,
    /// A plan that moves by itself. Not together with `weights`.
    pub(crate) rollout: Written<RolloutFile>,
    /// The live Service in a cluster, whose selector follows the rollout; none, if left out.
    pub(crate) kubernetes: Written<LiveServiceFile>,
    /// What takes a version back; on with the defaults below if left out.
    pub(crate) guard: Written<GuardFile>,
    /// How long each part of a request may take.
    pub(crate) timeouts: Written<TimeoutsFile>,
    /// How large, how many and how often requests may be.
    pub(crate) limits: Written<LimitsFile>,
    /// What makes a user, who then stays with one version for as long as a rollout lasts; every request is assigned anew,
    /// if left out.
    pub(crate) sticky: Written<StickyFile>,
    /// How testers get a version, whatever its weight; the first that fits counts. Such requests are no evidence.
    pub(crate) overrides: List<OverrideFile>,
    /// What is repeated when it fails.
    pub(crate) retries: Written<RetriesFile>,
    /// What is copied to another version, whose answers are compared and thrown away; nothing, if left out.
    pub(crate) mirror: Written<MirrorFile>,
    /// How an endpoint is asked whether it is ready.
    pub(crate) health_check: Written<HealthCheckFile>,
    /// What an endpoint must answer before its first request; nothing, if left out.
    pub(crate) warm_up: Written<WarmUpFile>,
    /// How long an endpoint that came up takes to get its full part of the requests; 0s: none.
    #[schemars(extend("default" = "10s"))]
    pub(crate) slow_start: Value<Duration>,
    /// When an endpoint that fails requests sits out.
    pub(crate) ejection: Written<EjectionFile>,
    /// What endpoints speak: HTTP/1.1, HTTP/2 without TLS (known beforehand), or HTTP/2 over TLS.
    #[schemars(extend("default" = "http1"))]
    pub(crate) protocol: Written<Protocol>,
    /// TLS to endpoints; none, if left out, unless `protocol: h2` asks for it. `upstream_tls: {}` trusts the system's
    /// certificates.
    pub(crate) upstream_tls: Written<UpstreamTlsFile>,
    /// Whether answers name the version that gave them (`x-pointsman-version`).
    #[schemars(extend("default" = true))]
    pub(crate) version_header: Value<bool>,
    /// Whether answers say how long the version took (`server-timing`).
    #[schemars(extend("default" = false))]
    pub(crate) server_timing: Value<bool>,
}

/// Which requests a route takes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`match`")]
#[schemars(rename = "Match")]
pub(crate) struct MatchFile {
    /// The host asked for, or `*.suffix`; every host, if left out.
    pub(crate) host: Value<Host>,
    /// The path's beginning, at a segment border. A slash at the end makes no difference.
    #[schemars(extend("default" = "/"))]
    pub(crate) path_prefix: Value<PathPrefix>,
}

/// One version: where it runs, and which build of it. Either `endpoints`, or `service` and `port`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "a version")]
#[schemars(rename = "Version", extend("oneOf" = [{ "required": ["endpoints"] }, { "required": ["service", "port"] }]))]
pub(crate) struct VersionFile {
    /// Where it answers; at least one.
    pub(crate) endpoints: List<Text<Endpoint>>,
    /// The Service in a cluster whose endpoint slices say where it answers.
    pub(crate) service: Value<ObjectName>,
    /// Which port of that Service.
    pub(crate) port: PortFile,
    /// The Deployment that runs it, which `retire` scales; named like the Service, if left out.
    pub(crate) workload: Value<ObjectName>,
    /// Names the build. A new one starts a rollout anew and lifts the quarantine of a version that was taken back.
    pub(crate) revision: Value<String>,
}

/// A plan that moves by itself, step by step to promotion, and back at the first proven regression.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`rollout`")]
#[schemars(rename = "Rollout", extend("required" = ["canary"]))]
pub(crate) struct RolloutFile {
    /// The version that is tried: one of `versions`, not `stable`.
    pub(crate) canary: Value<VersionId>,
    /// In steps, or from nothing to all in one move after warm-up and checks.
    #[schemars(extend("default" = "canary"))]
    pub(crate) strategy: Written<StrategyName>,
    /// The steps of a canary, with weights that rise; `blue-green` takes none.
    #[schemars(extend("default" = [
        { "weight": "1%", "hold": "2m" }, { "weight": "5%", "hold": "5m" },
        { "weight": "25%", "hold": "10m" }, { "weight": "50%", "hold": "10m" },
    ]))]
    pub(crate) steps: List<StepFile>,
    /// Who takes the last step.
    #[schemars(extend("default" = "automatic"))]
    pub(crate) promotion: Written<Promotion>,
    /// How long the old version stays warm after promotion; until then the way back is one move.
    #[schemars(extend("default" = "10m"))]
    pub(crate) bake: Value<Duration>,
    /// A step that stays undecided this long beyond its hold, or a gate that waits this long, pauses the rollout.
    #[schemars(extend("default" = "1h"))]
    pub(crate) step_deadline: Value<Duration>,
}

/// In steps or in one move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "Strategy")]
pub(crate) enum StrategyName {
    /// Step by step.
    Canary,
    /// From nothing to all in one move.
    BlueGreen,
}

/// One step of a canary.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "a step")]
#[schemars(rename = "Step", extend("required" = ["weight", "hold"]))]
pub(crate) struct StepFile {
    /// The canary's share during the step: more than the step before, at most 100%.
    pub(crate) weight: Value<Share>,
    /// How long it is held at least.
    pub(crate) hold: Value<Duration>,
}

/// What takes a version back. The formulas stand in docs/rollout.md.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`guard`")]
#[schemars(rename = "Guard")]
pub(crate) struct GuardFile {
    /// What a proven regression does.
    #[schemars(extend("default" = "rollback"))]
    pub(crate) on_regression: Written<OnRegression>,
    /// The chance of taking a good canary back, per hour, however often it is looked at. More than 0%, at most 5%.
    #[schemars(extend("default" = "0.08%"))]
    pub(crate) false_rollback_budget: Value<Percent>,
    /// A canary error rate of at most `ratio` times stable's plus `difference` is fine.
    pub(crate) tolerance: Written<ToleranceFile>,
    /// What is proven before a promotion.
    pub(crate) promotion: Written<PromotionFile>,
    /// An absolute limit on the error rate, for when there is no control group (bake, single version). More than 0%.
    #[schemars(extend("default" = "5%"))]
    pub(crate) max_error_rate: Value<Percent>,
    /// Slow answers, judged like errors, with a budget of their own.
    pub(crate) latency: Written<LatencyFile>,
    /// Which outcomes count as errors of a version; at least one.
    #[schemars(extend("default" = ["5xx", "timeout", "connect", "reset"]))]
    pub(crate) count_as_error: List<ErrorKind>,
    /// The model servers' own counts of inputs and predictions as a gate named `drift`; left out: they are not asked.
    pub(crate) drift: Written<DriftFile>,
    /// Numbers that others count, and what they may be; none, if left out.
    pub(crate) queries: List<QueryFile>,
    /// Others who have to agree before a step or a promotion; none, if left out.
    pub(crate) gates: List<OutsideGateFile>,
}

/// Compares what the canary takes and answers with what stable does at the same time, or with what its model was trained
/// on. While it cannot be known, no step is taken. docs/drift.md says what is compared and how.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`drift`")]
#[schemars(rename = "DriftGuard")]
pub(crate) struct DriftFile {
    /// Where every endpoint of both versions is asked for its counts.
    #[schemars(extend("default" = "/v1/drift/sketch"))]
    pub(crate) path: Value<CheckPath>,
    /// With what the canary's rows are compared.
    #[schemars(extend("default" = "stable"))]
    pub(crate) against: Written<Against>,
    /// The population stability index from which a distribution counts as another one, over what chance explains. More
    /// than 0, at most 10; 0.1 is a moderate, 0.25 a large shift.
    #[schemars(extend("default" = 0.25))]
    pub(crate) max_psi: Value<Factor>,
    /// The same for the Kolmogorov-Smirnov statistic of numbers, over what chance explains. More than 0, at most 1.
    #[schemars(extend("default" = 0.2))]
    pub(crate) max_ks: Value<Factor>,
    /// Fewer requests of a version say nothing, however many rows they hold: rows of one request are alike. 200 or more.
    #[schemars(extend("default" = 1000))]
    pub(crate) min_rows: Value<Count>,
    /// How often every endpoint is asked, while a rollout is under way; 1s or more.
    #[schemars(extend("default" = "10s"))]
    pub(crate) every: Value<Duration>,
    /// How far back rows count; at least three times `every`, and at most `1d`.
    #[schemars(extend("default" = "10m"))]
    pub(crate) window: Value<Duration>,
    /// What another distribution does. With `rollback` the canary goes back once three samples in a row say the same, none of
    /// which has a row of another; until then it is held.
    #[schemars(extend("default" = "hold"))]
    pub(crate) action: Written<OnDrift>,
}

/// How much worse than stable is still fine.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`tolerance`")]
#[schemars(rename = "Tolerance")]
pub(crate) struct ToleranceFile {
    /// Factor on stable's error rate, 1 to 10.
    #[schemars(extend("default" = 1.1))]
    pub(crate) ratio: Value<Factor>,
    /// Added to it, 0% to 1%.
    #[schemars(extend("default" = "0.01%"))]
    pub(crate) difference: Value<Percent>,
}

/// Promotion needs the proof that the canary's error rate is below `ratio` times stable's, or below stable's plus
/// `difference`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`promotion`")]
#[schemars(rename = "PromotionGuard")]
pub(crate) struct PromotionFile {
    /// Factor on stable's error rate, more than 1, at most 10.
    #[schemars(extend("default" = 1.5))]
    pub(crate) ratio: Value<Factor>,
    /// Added to it, 0% to 1%.
    #[schemars(extend("default" = "0.1%"))]
    pub(crate) difference: Value<Percent>,
    /// Proven with this confidence, more than 50%, less than 100%.
    #[schemars(extend("default" = "99%"))]
    pub(crate) confidence: Value<Percent>,
    /// Not before the canary has had traffic this long.
    #[schemars(extend("default" = "5m"))]
    pub(crate) min_soak: Value<Duration>,
    /// Without a verdict after this long the comparison is inconclusive.
    #[schemars(extend("default" = "1h"))]
    pub(crate) max_duration: Value<Duration>,
}

/// Which answers are slow.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`latency`")]
#[schemars(rename = "Latency")]
pub(crate) struct LatencyFile {
    /// An answer slower than this is a slow one.
    #[schemars(extend("default" = "500ms"))]
    pub(crate) threshold: Value<Duration>,
}

impl<K, V: JsonSchema> JsonSchema for Entries<K, V> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("MapOf{}", V::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let values = generator.subschema_for::<V>();
        schemars::json_schema!({ "type": "object", "minProperties": 1, "additionalProperties": values })
    }
}
