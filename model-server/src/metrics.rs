//! Every metric of the server: name, unit, help, labels. The path of a request meets handles that were looked
//! up once.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use pointsman_telemetry::{buckets, exposition};
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use thiserror::Error;

use crate::deployment::Deployment;
use crate::drift::{Compared, Verdict};
use crate::watch::Overdue;

/// Seconds that a model calculates: from single rows through a table (microseconds) to large models.
const INFERENCE_SECONDS: &[f64] =
    &[2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0];

/// Rows in one request.
const BATCH_ROWS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];

/// The code that nearly every request ends in.
const OK: &str = "200";

/// The code, in nginx's way, of requests whose clients left before there was an answer.
const CLIENT_LEFT: &str = "499";

/// What was asked for, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/predict`
    Predict,
    /// `/v1/predict/batch`
    PredictBatch,
    /// `/health`
    Health,
    /// `/ready`
    Ready,
    /// `/v1/model`
    Model,
    /// `/v1/drift`
    Drift,
    /// `/v1/drift/sketch`
    DriftSketch,
    /// `/metrics`
    Metrics,
    /// `/openapi.json`
    Openapi,
    /// `/docs`
    Docs,
    /// What the Open Inference Protocol tells about server and models, over HTTP.
    Protocol,
    /// `/v2/models/…/infer`
    Infer,
    /// Calls of gRPC.
    Grpc,
    /// Any path that is not served.
    Other,
}

impl Endpoint {
    const COUNT: usize = 14;

    fn label(self) -> &'static str {
        match self {
            Self::Predict => "predict",
            Self::PredictBatch => "predict_batch",
            Self::Health => "health",
            Self::Ready => "ready",
            Self::Model => "model",
            Self::Drift => "drift",
            Self::DriftSketch => "drift_sketch",
            Self::Metrics => "metrics",
            Self::Openapi => "openapi",
            Self::Docs => "docs",
            Self::Protocol => "v2",
            Self::Infer => "v2_infer",
            Self::Grpc => "grpc",
            Self::Other => "other",
        }
    }

    fn slot(self) -> usize {
        match self {
            Self::Predict => 0,
            Self::PredictBatch => 1,
            Self::Health => 2,
            Self::Ready => 3,
            Self::Model => 4,
            Self::Metrics => 5,
            Self::Other => 6,
            Self::Drift => 7,
            Self::Openapi => 8,
            Self::Docs => 9,
            Self::Protocol => 10,
            Self::Infer => 11,
            Self::Grpc => 12,
            Self::DriftSketch => 13,
        }
    }
}

/// Why the metrics cannot be set up.
#[derive(Debug, Error)]
#[error("the metrics cannot be set up")]
pub struct MetricsError(#[from] prometheus::Error);

/// All metrics of one server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Families,
    /// Before the model is known: the labels `model` and `version` are empty, which Prometheus reads as absent.
    starting: Handles,
    serving: OnceLock<Handles>,
}

#[derive(Debug)]
struct Families {
    requests: IntCounterVec,
    in_flight: IntGaugeVec,
    durations: HistogramVec,
    batch: HistogramVec,
    inference: HistogramVec,
    queue_depth: IntGaugeVec,
    connections: IntGauge,
    refused: IntCounter,
    closed: IntCounterVec,
    bodies: IntGauge,
    drift_psi: GaugeVec,
    prediction_drift_psi: GaugeVec,
}

/// The series of one model, each looked up at its first use.
#[derive(Debug)]
struct Handles {
    model: String,
    version: String,
    endpoints: [Series; Endpoint::COUNT],
    batch: OnceLock<Histogram>,
    inference: OnceLock<Histogram>,
}

#[derive(Debug, Default)]
struct Series {
    in_flight: OnceLock<IntGauge>,
    duration: OnceLock<Histogram>,
    /// Answers with [`OK`].
    ok: OnceLock<IntCounter>,
}

impl Metrics {
    /// All families, empty.
    ///
    /// # Errors
    /// When two metrics share a name.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let families = Families::new()?;
        families.register(&registry)?;
        let about = Opts::new("model_server_build_info", "Always 1; the label tells which build is running");
        let info = IntGaugeVec::new(about, &["version"])?;
        info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(info))?;
        Ok(Self { registry, families, starting: Handles::new("", ""), serving: OnceLock::new() })
    }

    /// From now on, what is counted belongs to this model.
    pub fn serve(&self, model: &str, version: &str) {
        self.serving.get_or_init(|| Handles::new(model, version));
    }

    /// A request whose head came at `start`, in flight until it is [answered](InFlight::answered) or its client leaves.
    pub fn begin(&self, endpoint: Endpoint, start: Instant) -> InFlight<'_> {
        let handles = self.handles();
        let series = handles.endpoints.get(endpoint.slot());
        let begun = InFlight { families: &self.families, handles, series, endpoint, start };
        series.inspect(|series| begun.gauge(series).inc());
        begun
    }

    /// Counts one calculation.
    pub fn calculated(&self, rows: usize, took: Duration) {
        let handles = self.handles();
        let labels = [handles.model.as_str(), handles.version.as_str()];
        let rows = f64::from(u32::try_from(rows).unwrap_or(u32::MAX));
        handles.batch.get_or_init(|| self.families.batch.with_label_values(&labels)).observe(rows);
        handles
            .inference
            .get_or_init(|| self.families.inference.with_label_values(&labels))
            .observe(took.as_secs_f64());
    }

    /// A connection was opened.
    pub fn connection_opened(&self) {
        self.families.connections.inc();
    }

    /// A connection has ended.
    pub fn connection_ended(&self) {
        self.families.connections.dec();
    }

    /// A connection was turned away, since as many are open as are served.
    pub fn connection_refused(&self) {
        self.families.refused.inc();
    }

    /// A connection stood still for too long.
    pub fn connection_closed(&self, why: Overdue) {
        self.families.closed.with_label_values(&[why.reason()]).inc();
    }

    /// Everything in Prometheus' text format, with what is only looked up when somebody asks.
    ///
    /// # Errors
    /// When a metric cannot be written.
    pub fn render(
        &self,
        deployment: Option<&Deployment>,
        bytes_of_bodies: usize,
    ) -> Result<String, exposition::ExpositionError> {
        self.families.bodies.set(i64::try_from(bytes_of_bodies).unwrap_or(i64::MAX));
        if let Some(deployment) = deployment {
            self.look_up(deployment);
        }
        exposition::render(&self.registry)
    }

    fn look_up(&self, deployment: &Deployment) {
        let handles = self.handles();
        let (model, version) = (handles.model.as_str(), handles.version.as_str());
        let depth = i64::try_from(deployment.queue_depth()).unwrap_or(i64::MAX);
        self.families.queue_depth.with_label_values(&[model, version]).set(depth);
        let report = deployment.drift().report(Instant::now());
        for feature in &report.features {
            show(&self.families.drift_psi, &[model, version, &feature.name], feature);
        }
        if let Some(prediction) = &report.prediction {
            show(&self.families.prediction_drift_psi, &[model, version], prediction);
        }
    }

    fn handles(&self) -> &Handles {
        self.serving.get().unwrap_or(&self.starting)
    }
}

/// A request under way: counted once, with what it is answered, or as one whose client left when it is dropped before.
#[derive(Debug)]
pub struct InFlight<'a> {
    families: &'a Families,
    handles: &'a Handles,
    /// Until it is counted.
    series: Option<&'a Series>,
    endpoint: Endpoint,
    start: Instant,
}

impl InFlight<'_> {
    /// There is an answer.
    pub fn answered(mut self, status: StatusCode) {
        self.count(status.as_str());
    }

    fn count(&mut self, code: &str) {
        let Some(series) = self.series.take() else {
            return;
        };
        self.gauge(series).dec();
        let [model, version, endpoint] = self.labels();
        let durations = || self.families.durations.with_label_values(&[model, version, endpoint]);
        series.duration.get_or_init(durations).observe(self.start.elapsed().as_secs_f64());
        let counter = || self.families.requests.with_label_values(&[model, version, endpoint, code]);
        if code == OK {
            series.ok.get_or_init(counter).inc();
        } else {
            counter().inc();
        }
    }

    fn gauge<'s>(&self, series: &'s Series) -> &'s IntGauge {
        series.in_flight.get_or_init(|| self.families.in_flight.with_label_values(&self.labels()))
    }

    fn labels(&self) -> [&str; 3] {
        [&self.handles.model, &self.handles.version, self.endpoint.label()]
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.count(CLIENT_LEFT);
    }
}

/// A distribution of few rows is far from any other: what is no drift is not shown as one.
fn show(gauges: &GaugeVec, labels: &[&str], compared: &Compared) {
    match compared.psi.filter(|_| compared.verdict != Verdict::TooFewRows) {
        Some(psi) => gauges.with_label_values(labels).set(psi),
        // There is nothing to remove where nothing was shown.
        None => gauges.remove_label_values(labels).unwrap_or_default(),
    }
}

impl Handles {
    fn new(model: &str, version: &str) -> Self {
        Self {
            model: model.to_owned(),
            version: version.to_owned(),
            endpoints: Default::default(),
            batch: OnceLock::new(),
            inference: OnceLock::new(),
        }
    }
}

impl Families {
    fn new() -> Result<Self, MetricsError> {
        let requests = Opts::new(
            "model_server_requests_total",
            "Requests by endpoint and status code of the answer; 499 where the client left while it waited",
        );
        Ok(Self {
            requests: IntCounterVec::new(requests, &["model", "version", "endpoint", "code"])?,
            in_flight: IntGaugeVec::new(
                Opts::new(
                    "model_server_requests_in_flight",
                    "Requests whose head has come and whose answer has not been given",
                ),
                &["model", "version", "endpoint"],
            )?,
            durations: histogram(
                "model_server_request_duration_seconds",
                "From the end of a request's head to its answer, body read included",
                (buckets::LATENCY_SECONDS, &["model", "version", "endpoint"]),
            )?,
            batch: histogram(
                "model_server_batch_size",
                "Rows that went through the model together",
                (BATCH_ROWS, &["model", "version"]),
            )?,
            inference: histogram(
                "model_server_inference_duration_seconds",
                "Time that the model calculated, reading and writing of JSON left out",
                (INFERENCE_SECONDS, &["model", "version"]),
            )?,
            queue_depth: IntGaugeVec::new(
                Opts::new("model_server_queue_depth", "Requests that wait for the model"),
                &["model", "version"],
            )?,
            connections: IntGauge::new("model_server_connections", "Connections that are open")?,
            refused: IntCounter::new(
                "model_server_connections_refused_total",
                "Connections turned away since as many were open as are served",
            )?,
            closed: IntCounterVec::new(
                Opts::new(
                    "model_server_connections_closed_total",
                    "Connections closed by the server for standing still: without a request, or in the middle of a head",
                ),
                &["reason"],
            )?,
            bodies: IntGauge::new("model_server_body_bytes", "Bytes reserved for bodies that are being read")?,
            drift_psi: GaugeVec::new(
                Opts::new(
                    "model_server_drift_psi",
                    "Population stability index of a feature against training, over the window",
                ),
                &["model", "version", "feature"],
            )?,
            prediction_drift_psi: GaugeVec::new(
                Opts::new(
                    "model_server_prediction_drift_psi",
                    "Population stability index of the predictions against training",
                ),
                &["model", "version"],
            )?,
        })
    }

    fn register(&self, registry: &Registry) -> Result<(), MetricsError> {
        registry.register(Box::new(self.requests.clone()))?;
        registry.register(Box::new(self.in_flight.clone()))?;
        registry.register(Box::new(self.durations.clone()))?;
        registry.register(Box::new(self.batch.clone()))?;
        registry.register(Box::new(self.inference.clone()))?;
        registry.register(Box::new(self.queue_depth.clone()))?;
        registry.register(Box::new(self.connections.clone()))?;
        registry.register(Box::new(self.refused.clone()))?;
        registry.register(Box::new(self.closed.clone()))?;
        registry.register(Box::new(self.bodies.clone()))?;
        registry.register(Box::new(self.drift_psi.clone()))?;
        registry.register(Box::new(self.prediction_drift_psi.clone()))?;
        Ok(())
    }
}

fn histogram(name: &str, help: &str, (edges, labels): (&[f64], &[&str])) -> Result<HistogramVec, MetricsError> {
    let options = HistogramOpts::new(name, help).buckets(edges.to_vec());
    Ok(HistogramVec::new(options, labels)?)
}
