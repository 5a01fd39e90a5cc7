//! Spans for OpenTelemetry: one for each request whose trace is kept, sent in batches over OTLP/HTTP.
//!
//! Line: observe ► **spans** ► collector. Names follow the semantic conventions for HTTP servers; what they have no name
//! for begins with `pointsman.`. A batch that the collector refuses for now is tried again with growing pauses (OTLP,
//! "Retryable Response Codes"); meanwhile the queue fills, and what does not fit is dropped.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::Version;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, SpanFlags, Status};
use pointsman_config::Traces as Settings;
use prost::Message as _;
use tokio::sync::oneshot;
use tracing::{info, warn};
use ureq::{Agent, Body};

use super::{Counts, Record};
use crate::outcome::Outcome;

/// Spans that wait to be sent; the SDKs' default.
const QUEUE: usize = 2_048;
/// Spans that are sent at once; the SDKs' default.
const BATCH: usize = 512;
/// How long a span waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// How long one try may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Tries of one batch.
const TRIES: u32 = 5;
/// The pause after the first try that failed; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause that a collector may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Between two words about spans that were dropped.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The data path's end of the traces.
#[derive(Debug, Clone)]
pub(super) struct Spans {
    settings: Arc<Settings>,
    queue: SyncSender<Message>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
enum Message {
    Ended(Arc<Record>),
    Flush(oneshot::Sender<()>),
}

impl Spans {
    /// Starts the sender; it ends when the last clone of this is gone.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn start(settings: Settings, counts: Arc<Counts>) -> io::Result<Self> {
        let (queue, waiting) = sync_channel(QUEUE);
        let mut sender = Sender::new(&settings, Arc::clone(&counts));
        thread::Builder::new().name("traces".to_owned()).spawn(move || sender.run(&waiting))?;
        Ok(Self { settings: Arc::new(settings), queue, counts })
    }

    /// Whether these are the traces that `wanted` asks for.
    pub(super) fn is(&self, wanted: &Settings) -> bool {
        *self.settings == *wanted
    }

    /// The part of new traces that is kept.
    pub(super) fn sample(&self) -> f64 {
        self.settings.sample
    }

    pub(super) fn put(&self, record: Arc<Record>) {
        if self.queue.try_send(Message::Ended(record)).is_err() {
            self.counts.spans.dropped(1);
        }
    }

    /// Hears when everything that was put has been sent or given up; none if too much waits.
    pub(super) fn flushed(&self) -> Option<oneshot::Receiver<()>> {
        let (done, flushed) = oneshot::channel();
        self.queue.try_send(Message::Flush(done)).ok().map(|()| flushed)
    }
}

/// The thread that talks to the collector.
struct Sender {
    agent: Agent,
    url: String,
    resource: Resource,
    counts: Arc<Counts>,
    /// How many dropped spans were told of, and when.
    told: (u64, Instant),
}

/// What waits, and who wants to know when it is gone.
#[derive(Default)]
struct Gathered {
    spans: Vec<Span>,
    flushed: Option<oneshot::Sender<()>>,
    is_last: bool,
}

/// Why a try failed.
enum Refused {
    /// It may work later; the collector may say when.
    ForNow(String, Option<Duration>),
    ForEver(String),
}

impl Sender {
    fn new(settings: &Settings, counts: Arc<Counts>) -> Self {
        let agent =
            Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).build().new_agent();
        let attributes = vec![
            text("service.name", settings.service_name.clone()),
            text("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        let url = format!("{}/v1/traces", settings.endpoint.trim_end_matches('/'));
        let resource = Resource { attributes, ..Resource::default() };
        Self { agent, url, resource, counts, told: (0, Instant::now()) }
    }

    fn run(&mut self, waiting: &Receiver<Message>) {
        loop {
            let Gathered { spans, flushed, is_last } = gather(waiting);
            if !spans.is_empty() {
                self.send(spans);
            }
            self.tell_of_dropped();
            if let Some(flushed) = flushed {
                // Whoever waited may have given up.
                _ = flushed.send(());
            }
            if is_last {
                return;
            }
        }
    }

    fn send(&self, spans: Vec<Span>) {
        let count = spans.len();
        let batch = self.batch(spans).encode_to_vec();
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=TRIES {
            match self.post(&batch) {
                Ok(rejected) => {
                    let rejected = rejected.min(count);
                    self.counts.spans.sent(count - rejected);
                    self.counts.spans.dropped(rejected);
                    return;
                }
                Err(Refused::ForNow(_, asked)) if attempt < TRIES => {
                    // Half of it by chance, so that many edges do not come back at once.
                    let jitter = 0.5 + rand::random::<f64>() / 2.0;
                    rest(asked.unwrap_or(pause.mul_f64(jitter)).min(LONGEST_PAUSE));
                    pause *= 2;
                }
                Err(Refused::ForNow(problem, _) | Refused::ForEver(problem)) => {
                    self.counts.spans.dropped(count);
                    info!(url = self.url, problem, spans = count, "collector took no spans");
                    return;
                }
            }
        }
    }

    fn batch(&self, spans: Vec<Span>) -> ExportTraceServiceRequest {
        let scope = InstrumentationScope {
            name: "pointsman".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
        let resource = Some(self.resource.clone());
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }],
        }
    }

    /// Sends a batch once; gives how many of its spans the collector refused.
    fn post(&self, batch: &[u8]) -> Result<usize, Refused> {
        let answer = self.agent.post(&self.url).header(CONTENT_TYPE, "application/x-protobuf").send(batch);
        let answer = answer.map_err(|error| Refused::ForNow(error.to_string(), None))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(rejected(answer));
        }
        let problem = format!("it answered {status}");
        let asked = answer.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.trim().parse().ok());
        match status.as_u16() {
            429 | 502..=504 => Err(Refused::ForNow(problem, asked.map(Duration::from_secs))),
            _ => Err(Refused::ForEver(problem)),
        }
    }

    fn tell_of_dropped(&mut self) {
        let (dropped, (told, when)) = (self.counts.spans.dropped.load(Relaxed), self.told);
        if dropped > told && (told == 0 || when.elapsed() > TELL_EVERY) {
            warn!(
                spans = dropped - told,
                url = self.url,
                "spans dropped; look at the collector, or sample fewer traces"
            );
            self.told = (dropped, Instant::now());
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the thread serves nobody but the collector; what waits, waits in the queue"
)]
fn rest(pause: Duration) {
    thread::sleep(pause);
}

/// How many spans an answer that is no refusal refuses all the same.
fn rejected(mut answer: http::Response<Body>) -> usize {
    let body = answer.body_mut().read_to_vec().unwrap_or_default();
    let told = ExportTraceServiceResponse::decode(&*body).unwrap_or_default().partial_success.unwrap_or_default();
    usize::try_from(told.rejected_spans).unwrap_or_default()
}

/// Waits for a span, and then a little for others.
fn gather(waiting: &Receiver<Message>) -> Gathered {
    let mut gathered = Gathered::default();
    let Ok(first) = waiting.recv() else { return Gathered { is_last: true, ..gathered } };
    let until = Instant::now() + GATHER;
    let mut next = Some(first);
    while let Some(message) = next {
        match message {
            Message::Ended(record) => gathered.spans.push(span(&record)),
            Message::Flush(done) => {
                gathered.flushed = Some(done);
                return gathered;
            }
        }
        if gathered.spans.len() >= BATCH {
            return gathered;
        }
        next = match waiting.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                gathered.is_last = true;
                None
            }
        };
    }
    gathered
}

/// The server span of a request.
fn span(record: &Record) -> Span {
    let Record { seen, took, ended } = record;
    let trace = ended.trace;
    let start = since_epoch(seen.at);
    Span {
        trace_id: trace.id.to_be_bytes().to_vec(),
        span_id: trace.span.to_be_bytes().to_vec(),
        parent_span_id: trace.parent.map(|parent| parent.to_be_bytes().to_vec()).unwrap_or_default(),
        flags: flags(trace.flags(), trace.parent.is_some()),
        name: known_method(&seen.method).map_or("HTTP", |method| method).to_owned(),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: nanoseconds(start),
        end_time_unix_nano: nanoseconds(start + *took),
        attributes: attributes(record),
        status: Some(Status { code: status(ended.outcome).into(), message: String::new() }),
        ..Span::default()
    }
}

/// The flags of the trace, and whether its parent is elsewhere.
fn flags(of_trace: u8, has_parent: bool) -> u32 {
    let known = u32::try_from(i32::from(SpanFlags::ContextHasIsRemoteMask)).unwrap_or_default();
    let remote = u32::try_from(i32::from(SpanFlags::ContextIsRemoteMask)).unwrap_or_default();
    u32::from(of_trace) | known | if has_parent { remote } else { 0 }
}

/// A server span is an error if the server failed; what a client did wrong, or broke off, is none.
fn status(outcome: Outcome) -> StatusCode {
    if outcome.blames_version() { StatusCode::Error } else { StatusCode::Unset }
}

fn attributes(record: &Record) -> Vec<KeyValue> {
    let Record { seen, ended, .. } = record;
    let mut attributes = vec![
        text("http.request.method", known_method(&seen.method).unwrap_or("_OTHER").to_owned()),
        text("url.path", seen.path.to_string()),
        text("url.scheme", if seen.is_secure { "https" } else { "http" }.to_owned()),
        text("client.address", seen.client.to_str().unwrap_or_default().to_owned()),
        text("network.protocol.version", protocol_version(seen.protocol).to_owned()),
        text("pointsman.outcome", ended.outcome.as_str().to_owned()),
        text("pointsman.request_id", ended.request_id.to_str().unwrap_or_default().to_owned()),
        number("pointsman.attempts", i64::from(ended.attempts)),
    ];
    if known_method(&seen.method).is_none() {
        attributes.push(text("http.request.method_original", seen.method.to_string()));
    }
    attributes.extend(seen.host.as_deref().into_iter().flat_map(server));
    attributes.extend(ended.route.as_ref().map(|route| text("pointsman.route", route.to_string())));
    attributes.extend(ended.version.as_ref().map(|version| text("pointsman.version", version.to_string())));
    attributes.extend(ended.status.map(|status| number("http.response.status_code", i64::from(status))));
    if ended.outcome.blames_version() {
        attributes.push(text("error.type", error_type(ended.outcome, ended.status)));
    }
    attributes
}

/// The status where that is what failed, else the outcome.
fn error_type(outcome: Outcome, status: Option<u16>) -> String {
    match (outcome, status) {
        (Outcome::Error, Some(status)) => status.to_string(),
        (outcome, _) => outcome.as_str().to_owned(),
    }
}

/// The host that was asked for, and its port.
fn server(host: &str) -> Vec<KeyValue> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') => (name, port.parse().ok()),
        Some(_) | None => (host, None),
    };
    let port = port.map(|port: u16| number("server.port", i64::from(port)));
    let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
    std::iter::once(text("server.address", name)).chain(port).collect()
}

/// The method, if it is one of RFC 9110 or RFC 5789: others would make spans that nobody can group.
fn known_method(method: &str) -> Option<&'static str> {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| *known == method)
}

const fn protocol_version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

fn since_epoch(at: SystemTime) -> Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

fn text(key: &str, value: String) -> KeyValue {
    attribute(key, Value::StringValue(value))
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;

    fn value(span: &Span, key: &str) -> Option<Value> {
        span.attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value
    }

    #[test]
    fn a_request_without_an_answer_is_an_error_by_its_outcome() {
        let span = span(&record("/a"));
        assert_eq!(span.status.clone().unwrap().code(), StatusCode::Error);
        assert_eq!(value(&span, "error.type"), Some(Value::StringValue("timeout".to_owned())));
        assert_eq!(value(&span, "http.response.status_code"), None);
        assert_eq!(value(&span, "server.address"), Some(Value::StringValue("::1".to_owned())));
        assert_eq!(value(&span, "server.port"), Some(Value::IntValue(80)));
        assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, 1_500_000);
        assert_eq!((span.trace_id.len(), span.span_id.len(), span.parent_span_id.len()), (16, 8, 0));
        assert_eq!(span.flags, 0x101, "kept, and known not to have a parent elsewhere");
    }

    #[test]
    fn methods_that_nobody_knows_make_no_names() {
        assert_eq!(known_method("PATCH"), Some("PATCH"));
        assert_eq!(known_method("patch"), None);
    }

    #[test]
    fn spans_that_wait_for_one_that_asks_go_at_once() {
        let (queue, waiting) = sync_channel(4);
        queue.send(Message::Ended(record("/1"))).unwrap();
        let (done, _flushed) = oneshot::channel();
        queue.send(Message::Flush(done)).unwrap();
        queue.send(Message::Ended(record("/2"))).unwrap();
        drop(queue);
        let first = gather(&waiting);
        assert_eq!((first.spans.len(), first.flushed.is_some(), first.is_last), (1, true, false));
        let second = gather(&waiting);
        assert_eq!((second.spans.len(), second.flushed.is_some(), second.is_last), (1, false, true));
    }
}
