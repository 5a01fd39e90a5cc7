//! What is written down about single requests: lines, spans, and how long their parts took.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use pointsman_chaos::fakes::Echo;
use pointsman_chaos::fault::Faults;
use prost::Message as _;
use serde_json::Value;

use crate::harness::{RawServer, TestEdge, route};
use crate::process::{Edge, Site};

const PATIENCE: Duration = Duration::from_secs(20);
const CLIENTS_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENTS_SPAN: &str = "b7ad6b7169203331";

/// Waits until `look` finds something.
async fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

// ---- the access log ----

/// Every whole line of the log at `path`; none if there is no file.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))).collect()
}

async fn wait_for_lines(path: &Path, count: usize) -> Vec<Value> {
    wait_for(&format!("{count} lines in {}", path.display()), || Some(lines(path)).filter(|lines| lines.len() >= count))
        .await
}

fn with_log(site: &Site, sample: &str, weights: &str) -> String {
    format!("access_log: {{ file: access.log, sample: {sample} }}\n{}", site.text(weights))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_line_with_everything_about_it() {
    let site = Site::new().await;
    site.write(&with_log(&site, "100%", "weights: { v1: 100%, v2: 0% }"));
    let edge = site.start().await;
    let trace = format!("traceparent: 00-{CLIENTS_TRACE}-{CLIENTS_SPAN}-01\r\nx-request-id: mine\r\n");
    let answer = edge.predict_with(&trace).await;
    let line = wait_for_lines(&site.at("access.log"), 1).await.remove(0);
    let expected = serde_json::json!({
        "route": "model", "version": "v1", "assigned": "chance", "client": "127.0.0.1", "method": "POST",
        "host": edge.address.to_string(), "path": "/v1/predict", "protocol": "HTTP/1.1", "status": 200,
        "outcome": "success", "request_bytes": 5, "response_bytes": answer.body.len(), "attempts": 1,
        "request_id": "mine", "trace_id": CLIENTS_TRACE,
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&line[field], value, "{field} of {line:#}");
    }
    let (total, upstream) = (line["duration_ms"].as_f64().unwrap(), line["upstream_head_ms"].as_f64().unwrap());
    assert!(0.0 < upstream && upstream <= total, "{line:#}");
    assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line:#}");
    assert_eq!(line.as_object().unwrap().len(), expected.as_object().unwrap().len() + 3, "{line:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_refused_before_it_is_one_is_a_line_as_far_as_it_was_read() {
    let site = Site::new().await;
    site.write(&with_log(&site, "0%", "match: { path_prefix: /v1 }"));
    let edge = site.start().await;
    let refused = [
        ("\0\r\n\r\n", "", ""),
        ("GET /v1/a?secret HTTP/1.1\r\nHost : m\r\n\r\n", "GET", "/v1/a"),
        ("POST http://m/v1/b HTTP/1.1\r\nHost: m\r\nX\r\n\r\n", "POST", "/v1/b"),
    ];
    for (count, (request, method, path)) in (1..).zip(refused) {
        let mut client = crate::harness::Client::connect(edge.address).await;
        client.send(request.as_bytes()).await;
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status, 400, "{request:?}");
        let line = wait_for_lines(&site.at("access.log"), count).await.pop().unwrap();
        assert_eq!((&line["status"], &line["outcome"]), (&400.into(), &"rejected".into()), "{line:#}");
        assert_eq!((&line["method"], &line["path"]), (&method.into(), &path.into()), "{line:#}");
        assert_eq!(line["request_id"].as_str(), answer.header("x-request-id"), "{line:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_written_always_and_the_rest_as_sampled() {
    let site = Site::new().await;
    site.write(&with_log(&site, "0%", "match: { path_prefix: /v1 }"));
    let edge = site.start().await;
    for _ in 0..50 {
        assert_eq!(edge.predict().await.status, 200);
    }
    site.v1.set_faults(Faults::none().failing(1.0, 503).unwrap());
    edge.predict().await;
    let log = site.at("access.log");
    wait_for_lines(&log, 1).await;
    let nowhere = edge.ask_path("/elsewhere").await;
    assert_eq!(nowhere.status, 404);
    let lines = wait_for_lines(&log, 2).await;
    assert_eq!(lines.len(), 2, "{lines:#?}");
    let said = |line: &Value| (line["status"].as_u64().unwrap(), line["outcome"].as_str().unwrap().to_owned());
    assert_eq!(said(&lines[0]), (503, "error".to_owned()));
    assert_eq!(said(&lines[1]), (404, "rejected".to_owned()));
    assert_eq!((&lines[1]["route"], &lines[1]["version"]), (&Value::Null, &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_follows_rotation_and_reload_and_is_whole_at_the_end() {
    let site = Site::new().await;
    site.write(&site.weights(0));
    let mut edge = site.start().await;
    edge.predict().await;
    assert!(!site.at("access.log").exists(), "off unless it is asked for");
    site.write(&with_log(&site, "100%", "weights: { v1: 100%, v2: 0% }"));
    edge.wait_for_config("reloaded", |config| config["generation"] == 2).await;
    edge.predict().await;
    wait_for_lines(&site.at("access.log"), 1).await;
    fs::rename(site.at("access.log"), site.at("access.log.1")).unwrap();
    edge.predict().await;
    wait_for_lines(&site.at("access.log"), 1).await;
    site.write(&with_log(&site, "100%", "weights: { v1: 100%, v2: 0% }").replace("access.log", "other.log"));
    edge.wait_for_config("reloaded", |config| config["generation"] == 3).await;
    for _ in 0..20 {
        edge.predict().await;
    }
    edge.signal(Signal::SIGTERM);
    assert!(edge.ended().await.success());
    let written = |name: &str| lines(&site.at(name)).len();
    assert_eq!((written("access.log.1"), written("access.log"), written("other.log")), (1, 1, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_costs_lines_and_no_requests() {
    let site = Site::new().await;
    site.write(&with_log(&site, "100%", "weights: { v1: 100%, v2: 0% }").replace("access.log", "logs/access.log"));
    let edge = site.start().await;
    for _ in 0..10 {
        assert_eq!(edge.predict().await.status, 200);
    }
    edge.wait_for_metric("pointsman_access_log_lines_total{result=\"dropped\"}", 10.0).await;
    assert_eq!(edge.log().matches("access log cannot be written").count(), 1, "{}", edge.log());
    fs::create_dir(site.at("logs")).unwrap();
    edge.predict().await;
    wait_for_lines(&site.at("logs/access.log"), 1).await;
    edge.wait_for_metric("pointsman_access_log_lines_total{result=\"written\"}", 1.0).await;
}

// ---- traces ----

/// A collector that takes OTLP over HTTP, and refuses as many batches as it is told.
struct Collector {
    endpoint: String,
    taken: Arc<Mutex<Taken>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Taken {
    batches: Vec<ResourceSpans>,
    refusals: Vec<StatusCode>,
    refused: usize,
}

impl Collector {
    async fn start(refusals: &[StatusCode]) -> Self {
        let taken = Arc::new(Mutex::new(Taken { refusals: refusals.to_vec(), ..Taken::default() }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&taken));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { endpoint, taken, task }
    }

    fn spans(&self) -> Vec<Span> {
        let taken = self.taken.lock().unwrap();
        let scopes = taken.batches.iter().flat_map(|batch| &batch.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    async fn wait_for_span(&self, request_id: &str) -> Span {
        let is_it = |span: &Span| text(span, "pointsman.request_id").as_deref() == Some(request_id);
        wait_for(&format!("span of {request_id}"), || self.spans().into_iter().find(is_it)).await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(State(taken): State<Arc<Mutex<Taken>>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let mut taken = taken.lock().unwrap();
    if let Some(refusal) = taken.refusals.pop() {
        taken.refused += 1;
        return refusal;
    }
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    taken.batches.extend(request.resource_spans);
    StatusCode::OK
}

fn attribute(span: &Span, key: &str) -> Option<AnyValue> {
    span.attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value
}

fn text(span: &Span, key: &str) -> Option<String> {
    match attribute(span, key) {
        Some(AnyValue::StringValue(text)) => Some(text),
        _ => None,
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

fn with_traces(site: &Site, collector: &Collector, sample: &str) -> String {
    let traces = format!("traces: {{ endpoint: \"{}\", sample: {sample}, service_name: edge-1 }}", collector.endpoint);
    format!("{traces}\n{}", site.text("weights: { v1: 100%, v2: 0% }"))
}

/// What the version got of one request.
async fn echo(edge: &Edge, headers: &str) -> Echo {
    let answer = edge.ask_with("/echo?q=1", headers).await;
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_trace_goes_on_through_the_edge_to_the_version() {
    let (site, collector) = (Site::new().await, Collector::start(&[]).await);
    site.write(&with_traces(&site, &collector, "0%"));
    let edge = site.start().await;
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let parent = format!("00-{CLIENTS_TRACE}-{CLIENTS_SPAN}-01");
    let echo = echo(&edge, &format!("traceparent: {parent}\r\ntracestate: a=b\r\nx-request-id: one\r\n")).await;
    let span = collector.wait_for_span("one").await;
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (CLIENTS_TRACE.to_owned(), CLIENTS_SPAN.to_owned()));
    let onward = format!("00-{CLIENTS_TRACE}-{}-01", hex(&span.span_id));
    assert_eq!((echo.header("traceparent"), echo.header("tracestate")), (Some(onward.as_str()), Some("a=b")));
    assert_eq!((span.name.as_str(), span.kind()), ("POST", SpanKind::Server));
    for (key, value) in [
        ("http.request.method", "POST"),
        ("url.path", "/echo"),
        ("url.scheme", "http"),
        ("server.address", "127.0.0.1"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("pointsman.route", "model"),
        ("pointsman.version", "v1"),
        ("pointsman.outcome", "success"),
    ] {
        assert_eq!(text(&span, key).as_deref(), Some(value), "{key} of {span:#?}");
    }
    assert_eq!(attribute(&span, "http.response.status_code"), Some(AnyValue::IntValue(200)));
    assert_eq!(attribute(&span, "server.port"), Some(AnyValue::IntValue(edge.address.port().into())));
    assert_eq!(span.status.clone().unwrap().code(), SpanStatus::Unset);
    let (start, end) = (u128::from(span.start_time_unix_nano), u128::from(span.end_time_unix_nano));
    assert!(before.as_nanos() <= start && start < end, "{start} to {end}");
    let resource = collector.taken.lock().unwrap().batches[0].resource.clone().unwrap();
    let service = resource.attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
    assert_eq!(service.value.clone().unwrap().value, Some(AnyValue::StringValue("edge-1".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_keeps_no_trace_gets_none_and_its_parent_passes_as_it_came() {
    let (site, collector) = (Site::new().await, Collector::start(&[]).await);
    site.write(&with_traces(&site, &collector, "100%"));
    let edge = site.start().await;
    let parent = format!("00-{CLIENTS_TRACE}-{CLIENTS_SPAN}-00");
    let passed = echo(&edge, &format!("traceparent: {parent}\r\nx-request-id: unkept\r\n")).await;
    assert_eq!(passed.header("traceparent"), Some(parent.as_str()));
    // A trace that begins here is kept; it comes after the other one would have.
    let begun = echo(&edge, "x-request-id: kept\r\ntracestate: a=b\r\n").await;
    let span = collector.wait_for_span("kept").await;
    assert_eq!(
        (hex(&span.parent_span_id).as_str(), begun.header("tracestate")),
        ("", None),
        "nobody stands above it: {span:#?}"
    );
    let onward = format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id));
    assert_eq!(begun.header("traceparent"), Some(onward.as_str()));
    assert_eq!(collector.spans().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_an_error_in_its_span() {
    let (site, collector) = (Site::new().await, Collector::start(&[]).await);
    site.write(&with_traces(&site, &collector, "100%"));
    let edge = site.start().await;
    site.v1.set_faults(Faults::none().failing(1.0, 500).unwrap());
    edge.predict_with("x-request-id: failed\r\n").await;
    let span = collector.wait_for_span("failed").await;
    assert_eq!(span.status.clone().unwrap().code(), SpanStatus::Error);
    assert_eq!(text(&span, "error.type").as_deref(), Some("500"));
    assert_eq!(attribute(&span, "http.response.status_code"), Some(AnyValue::IntValue(500)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_busy_gets_the_spans_later_and_one_that_refuses_them_does_not() {
    let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
    let (site, collector) = (Site::new().await, Collector::start(&busy).await);
    site.write(&with_traces(&site, &collector, "100%"));
    let edge = site.start().await;
    edge.predict_with("x-request-id: waited\r\n").await;
    collector.wait_for_span("waited").await;
    assert_eq!(collector.taken.lock().unwrap().refused, 2);
    edge.wait_for_metric("pointsman_trace_spans_total{result=\"exported\"}", 1.0).await;

    collector.taken.lock().unwrap().refusals.push(StatusCode::BAD_REQUEST);
    edge.predict_with("x-request-id: refused\r\n").await;
    edge.wait_for_metric("pointsman_trace_spans_total{result=\"dropped\"}", 1.0).await;
    assert!(edge.log().contains("spans dropped"), "{}", edge.log());
    edge.predict_with("x-request-id: after\r\n").await;
    collector.wait_for_span("after").await;
    assert_eq!(collector.spans().len(), 2, "what was refused is not sent again");
}

// ---- server-timing ----

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_how_long_its_parts_took_beside_what_its_version_says() {
    let version =
        RawServer::answering("HTTP/1.1 200 OK\r\nserver-timing: model;dur=1\r\ncontent-length: 2\r\n\r\nok").await;
    let mut route = route();
    route.server_timing = true;
    let edge = TestEdge::with(route, &[version.address], &[]);
    let answer = edge.ask(&crate::harness::get("/")).await;
    let said: Vec<_> = answer
        .head
        .lines()
        .filter_map(|line| line.to_ascii_lowercase().strip_prefix("server-timing: ").map(str::to_owned))
        .collect();
    assert_eq!((said.len(), said[0].as_str()), (2, "model;dur=1"), "{}", answer.head);
    let parts: Vec<(&str, f64)> = said[1]
        .split(", ")
        .map(|part| part.split_once(";dur=").map(|(name, span)| (name, span.parse().unwrap())).unwrap())
        .collect();
    assert_eq!(parts.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["upstream", "edge"]);
    assert!(parts.iter().all(|(_, span)| (0.0..10_000.0).contains(span)), "{parts:?}");

    let silent = TestEdge::start(&[version.address]);
    let answer = silent.ask(&crate::harness::get("/")).await;
    assert_eq!(answer.head.to_ascii_lowercase().matches("server-timing").count(), 1, "only the version's own");
}
