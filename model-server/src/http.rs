//! The paths that are served. A request comes from `connection` and goes to `deployment` by way of `predict` or `oip`,
//! or is answered from what the server knows about itself.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, CONTENT_ENCODING, EXPECT, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Version};
use pointsman_telemetry::exposition;
use serde_json::json;
use tokio::time::timeout;
use tracing::error;

use crate::answer::{self, Answer, Refusal};
use crate::budget::{Budget, NoRoom, Share};
use crate::deployment::{Asked, Deployment};
use crate::health::Health;
use crate::metrics::{Endpoint, Metrics};
use crate::predict::{Form, PredictError};
use crate::queue::{Predictions, QueueError};
use crate::schema::Rows;
use crate::{deadline, oip};

/// How much of a body that is too large is read and thrown away, so that the client reads the answer rather
/// than a reset connection.
const THROWN_AWAY_BYTES: usize = 16 * 1024 * 1024;

/// Marks the golden calls of the edge.
const GOLDEN: HeaderName = HeaderName::from_static("x-pointsman-golden");

/// Why a connection on top of the limit is not served.
pub const TOO_MANY_CONNECTIONS: &str = "more connections are open than are served at a time (MAX_CONNECTIONS)";

/// What `/docs` answers: one page that needs nothing else but `/openapi.json`.
const DOCS: &str = include_str!("docs.html");

/// What requests are held to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes in a body.
    pub body_bytes: usize,
    /// Rows in a batch.
    pub batch_rows: usize,
    /// How long a body may take.
    pub body_patience: Duration,
}

/// What every request meets.
#[derive(Debug)]
pub struct Site {
    /// The model, once its golden examples have passed.
    pub deployment: OnceLock<Deployment>,
    /// Where the server stands.
    pub health: Arc<Health>,
    /// What is counted.
    pub metrics: Metrics,
    /// What requests are held to.
    pub limits: Limits,
    /// What all bodies together may take.
    pub bodies: Arc<Budget>,
}

/// A body, and its share of what all may take.
#[derive(Debug)]
pub struct Body {
    /// The bytes.
    pub bytes: Bytes,
    _share: Share,
}

/// Answers one request.
pub async fn answer(site: Arc<Site>, request: Request<Incoming>) -> Answer {
    let start = Instant::now();
    let endpoint = endpoint_of(request.uri().path());
    let in_flight = site.metrics.begin(endpoint, start);
    let multiplexed = request.version() == Version::HTTP_2;
    let mut answer = match site.route(endpoint, request, start).await {
        Ok(answer) => answer,
        Err(refusal) if matches!(endpoint, Endpoint::Protocol | Endpoint::Infer) => refusal.into_protocol_answer(),
        Err(refusal) => refusal.into_answer(),
    };
    if site.health.stage().is_ending() && !multiplexed {
        let close = HeaderValue::from_static("close");
        answer.headers_mut().insert(CONNECTION, close);
    }
    in_flight.answered(answer.status());
    answer
}

/// Answers one request of a connection on top of those that are served: what says how the server is, as whoever would
/// otherwise end a busy server needs it, and nothing else.
pub async fn answer_on_top(site: Arc<Site>, request: Request<Incoming>) -> Answer {
    let endpoint = endpoint_of(request.uri().path());
    if matches!(endpoint, Endpoint::Health | Endpoint::Ready | Endpoint::Metrics) {
        return answer(site, request).await;
    }
    let in_flight = site.metrics.begin(endpoint, Instant::now());
    // Read what is small, so that the client reads the answer rather than a reset connection.
    let (head, body) = request.into_parts();
    drop(site.body(&head.headers, body).await);
    let refusal = Refusal::Full(TOO_MANY_CONNECTIONS);
    in_flight.answered(refusal.status());
    if matches!(endpoint, Endpoint::Protocol | Endpoint::Infer) {
        return refusal.into_protocol_answer();
    }
    refusal.into_answer()
}

fn endpoint_of(path: &str) -> Endpoint {
    match path {
        "/v1/predict" => Endpoint::Predict,
        "/v1/predict/batch" => Endpoint::PredictBatch,
        "/health" => Endpoint::Health,
        "/ready" => Endpoint::Ready,
        "/v1/model" => Endpoint::Model,
        "/v1/drift" => Endpoint::Drift,
        "/v1/drift/sketch" => Endpoint::DriftSketch,
        "/metrics" => Endpoint::Metrics,
        "/openapi.json" => Endpoint::Openapi,
        "/docs" => Endpoint::Docs,
        _ if path.strip_prefix("/v2").is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) => {
            if path.ends_with("/infer") { Endpoint::Infer } else { Endpoint::Protocol }
        }
        _ => Endpoint::Other,
    }
}

fn check_method(endpoint: Endpoint, method: &Method) -> Result<(), Refusal> {
    let reads = method == Method::GET || method == Method::HEAD;
    match endpoint {
        Endpoint::Other | Endpoint::Grpc => Err(Refusal::NotFound),
        Endpoint::Predict | Endpoint::PredictBatch | Endpoint::Infer if method == Method::POST => Ok(()),
        Endpoint::Predict | Endpoint::PredictBatch | Endpoint::Infer => Err(Refusal::Method("POST")),
        Endpoint::Health
        | Endpoint::Ready
        | Endpoint::Model
        | Endpoint::Drift
        | Endpoint::DriftSketch
        | Endpoint::Metrics
        | Endpoint::Openapi
        | Endpoint::Docs
        | Endpoint::Protocol => reads.then_some(()).ok_or(Refusal::Method("GET, HEAD")),
    }
}

impl Site {
    async fn route(&self, endpoint: Endpoint, request: Request<Incoming>, start: Instant) -> Result<Answer, Refusal> {
        check_method(endpoint, request.method())?;
        match endpoint {
            Endpoint::Predict => self.predict(Form::One, request, start).await,
            Endpoint::PredictBatch => self.predict(Form::Many(self.limits.batch_rows), request, start).await,
            Endpoint::Infer => oip::rest::infer(self, request, start).await,
            Endpoint::Protocol => oip::rest::describe(self, request.uri().path()),
            Endpoint::Health => Ok(answer::state(StatusCode::OK, &json!({"status": "ok"}))),
            Endpoint::Ready => Ok(self.ready()),
            Endpoint::Model => Ok(answer::json(StatusCode::OK, self.deployment()?.served().described())),
            Endpoint::Drift => Ok(answer::state(StatusCode::OK, &json!(self.deployment()?.drift().report(start)))),
            Endpoint::DriftSketch => {
                let deployment = self.deployment()?;
                let model = (deployment.served().name(), deployment.served().version());
                Ok(answer::state(StatusCode::OK, &json!(deployment.drift().sketch(model))))
            }
            Endpoint::Metrics => self.exposed(),
            Endpoint::Openapi => Ok(answer::json(StatusCode::OK, self.deployment()?.openapi())),
            Endpoint::Docs => Ok(answer::page(DOCS)),
            Endpoint::Grpc | Endpoint::Other => Err(Refusal::NotFound),
        }
    }

    async fn predict(&self, form: Form, request: Request<Incoming>, start: Instant) -> Result<Answer, Refusal> {
        let deployment = self.deployment()?;
        let (head, body) = request.into_parts();
        check_encoding(&head.headers)?;
        let deadline = deadline::of_http(&head.headers)?.map(|patience| start + patience);
        let asked = Asked { deadline, is_golden: is_golden(&head.headers) };
        let body = self.body(&head.headers, body).await?;
        let rows = deployment.served().read(form, &body.bytes).map_err(Refusal::from);
        drop(body);
        let rows = rows.inspect_err(|refusal| deployment.note_refused(refusal, asked))?;
        let predictions = self.calculate(deployment, rows, asked).await?;
        Ok(answer::json(StatusCode::OK, deployment.served().write(form, &predictions.rows, &predictions.values)))
    }

    /// Predictions that may be believed; what the model does wrong is logged.
    ///
    /// # Errors
    /// When there are none.
    pub async fn calculate(&self, deployment: &Deployment, rows: Rows, asked: Asked) -> Result<Predictions, Refusal> {
        Ok(deployment.predict(rows, asked, &self.metrics).await.inspect_err(report)?)
    }

    /// The model.
    ///
    /// # Errors
    /// When it is not ready yet.
    pub fn deployment(&self) -> Result<&Deployment, Refusal> {
        self.deployment.get().ok_or_else(|| Refusal::Starting(self.health.stage().reason().unwrap_or_default()))
    }

    fn ready(&self) -> Answer {
        let stage = self.health.stage();
        match stage.reason() {
            None => answer::state(StatusCode::OK, &json!({"status": stage.status()})),
            Some(reason) => {
                answer::state(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": stage.status(), "reason": reason}))
            }
        }
    }

    fn exposed(&self) -> Result<Answer, Refusal> {
        let text = self.metrics.render(self.deployment.get(), self.bodies.held()).map_err(|problem| {
            error!(error = %problem, "metrics not written");
            Refusal::Metrics
        })?;
        let kind = HeaderValue::from_static(exposition::CONTENT_TYPE);
        Ok(answer::typed(StatusCode::OK, kind, text))
    }

    /// The whole body, within the limits.
    ///
    /// # Errors
    /// When it is too large, too slow or cut off, or when too many come at a time.
    pub async fn body(&self, headers: &HeaderMap, mut body: Incoming) -> Result<Body, Refusal> {
        let read = self.read(headers, &mut body).await;
        if matches!(read, Err(Refusal::Full(_))) {
            // The answer goes out at once, but who is still sending would find a reset connection in its place.
            let rest = async move { throw_away(&mut body).await };
            tokio::spawn(timeout(self.limits.body_patience, rest));
        }
        read
    }

    async fn read(&self, headers: &HeaderMap, body: &mut Incoming) -> Result<Body, Refusal> {
        let limit = self.limits.body_bytes;
        let promised = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        let reading = async {
            if promised > limit {
                if !headers.contains_key(EXPECT) {
                    throw_away(body).await;
                }
                return Err(Refusal::BodyTooLarge(limit));
            }
            collect(body, (promised, limit), self.bodies.share()).await
        };
        let mut reading = pin!(reading);
        // Mostly a body has come with its head, and needs no timer.
        if let Some(read) = reading.as_mut().now_or_never() {
            return read;
        }
        timeout(self.limits.body_patience, reading).await.unwrap_or(Err(Refusal::BodyTimeout))
    }
}

/// Whether the edge asks to see whether the model still answers rightly.
pub fn is_golden(headers: &HeaderMap) -> bool {
    headers.contains_key(&GOLDEN)
}

/// A body that is compressed is refused.
///
/// # Errors
/// When it says so.
pub fn check_encoding(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => Err(Refusal::Encoded),
        _ => Ok(()),
    }
}

/// A model that fails is an error for whoever operates it; the client learns no more than that.
fn report(problem: &PredictError) {
    match problem {
        PredictError::Queue(QueueError::Model(source)) => error!(error = %chain(source), "prediction failed"),
        PredictError::Unbelievable { .. } => error!(error = %problem, "prediction out of range"),
        PredictError::Invalid(_) | PredictError::TooManyRows { .. } | PredictError::Queue(_) => {}
    }
}

/// An error and its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Mostly a body is one frame, which is then neither copied nor reserved.
async fn collect(body: &mut Incoming, (promised, limit): (usize, usize), mut share: Share) -> Result<Body, Refusal> {
    let first = next(body).await?.unwrap_or_default();
    if first.len() > limit {
        throw_away(body).await;
        return Err(Refusal::BodyTooLarge(limit));
    }
    if body.is_end_stream() {
        return Ok(Body { bytes: first, _share: share });
    }
    let largest = if promised > 0 { promised } else { limit };
    let mut whole = Vec::new();
    append(&mut whole, &first, (largest, &mut share))?;
    while let Some(data) = next(body).await? {
        if whole.len() + data.len() > limit {
            throw_away(body).await;
            return Err(Refusal::BodyTooLarge(limit));
        }
        append(&mut whole, &data, (largest, &mut share))?;
    }
    Ok(Body { bytes: whole.into(), _share: share })
}

/// Makes room as bytes come, at least twice as much each time: what was only promised takes no room from others.
fn append(whole: &mut Vec<u8>, data: &[u8], (largest, share): (usize, &mut Share)) -> Result<(), NoRoom> {
    let length = whole.len() + data.len();
    if length > whole.capacity() {
        let room = (whole.capacity() * 2).min(largest).max(length);
        share.grow_to(room)?;
        whole.reserve_exact(room - whole.len());
    }
    whole.extend_from_slice(data);
    Ok(())
}

/// The next bytes; trailers are passed over.
async fn next(body: &mut Incoming) -> Result<Option<Bytes>, Refusal> {
    while let Some(frame) = body.frame().await {
        match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(data)) => return Ok(Some(data)),
            Ok(Err(_trailers)) => {}
            Err(_broken) => return Err(Refusal::BodyBroken),
        }
    }
    Ok(None)
}

async fn throw_away(body: &mut Incoming) {
    let mut thrown = 0;
    while let Ok(Some(data)) = next(body).await {
        thrown += data.len();
        if thrown > THROWN_AWAY_BYTES {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_takes_as_much_room_as_has_come_and_a_doubling_on_top() {
        let budget = Budget::new(1000);
        let mut share = budget.share();
        let mut whole = Vec::new();
        for (data, held) in [(1, 1), (1, 2), (1, 4), (600, 603), (1, 900), (296, 900)] {
            append(&mut whole, &vec![7; data], (900, &mut share)).unwrap();
            assert_eq!((budget.held(), whole.capacity()), (held, held), "after {} bytes", whole.len());
        }
        assert_eq!(whole, [7; 900]);
        assert!(append(&mut whole, &[7; 101], (900, &mut share)).is_err());
    }
}
