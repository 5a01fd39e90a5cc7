//! The protocol over gRPC, on the port of everything else: `connection` hands in what comes over HTTP/2, and what is
//! no call of gRPC goes to `http`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::error::Error as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Buf as _;
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use prost::Message;
use thiserror::Error;
use tokio::time::{Sleep, sleep};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic::metadata::MetadataValue;
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::bounds::{self, Bounds};
use super::messages::{
    Choice, Contents, Empty, Flag, InferRequest, InferResponse, ModelMetadata, ModelName, Parameter, ServerMetadata,
    Tensor as Sent, TensorMetadata,
};
use super::tensor::{self, Datatype, Described, Elements, Tensor, rounded};
use super::{EXTENSIONS, PLATFORM, SERVER_NAME, check_model, grpc_health};
use crate::answer::{Refusal, SHED};
use crate::budget::Share;
use crate::deadline;
use crate::deployment::Asked;
use crate::health::Stage;
use crate::http::{self, Limits, Site, TOO_MANY_CONNECTIONS};
use crate::metrics::Endpoint;
use crate::queue::Predictions;

/// What stands before the name of a call.
pub(super) const SERVICE: &str = "/inference.GRPCInferenceService/";

/// The parameter that says how long a client waits, in microseconds.
const TIMEOUT: &str = "timeout";

/// Whether the answer goes on as long as the client listens.
pub fn lasts(path: &str) -> bool {
    path.strip_prefix(grpc_health::SERVICE) == Some(grpc_health::WATCH)
}

/// How many bytes of a message cost nothing beside what every call costs: tonic reads into a buffer that is larger.
const SMALL_BYTES: usize = 4096;

/// What stands before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// Answers what comes over HTTP/2. Every call is counted with what its answer over HTTP would be, those among them that are
/// refused before their message is read.
pub async fn answer(site: Arc<Site>, request: Request<Incoming>) -> Response<Body> {
    if !is_call(&request) {
        return http::answer(site, request).await.map(Body::new);
    }
    let start = Instant::now();
    let in_flight = site.metrics.begin(Endpoint::Grpc, start);
    let answer = call(Arc::clone(&site), request, start).await;
    in_flight.answered(over_http(&answer));
    answer
}

/// Answers what comes over HTTP/2 on top of the connections that are served: what says how the server is, as over HTTP.
pub async fn answer_on_top(site: Arc<Site>, request: Request<Incoming>) -> Response<Body> {
    if is_probe(request.uri().path()) {
        return answer(site, request).await;
    }
    if !is_call(&request) {
        return http::answer_on_top(site, request).await.map(Body::new);
    }
    let in_flight = site.metrics.begin(Endpoint::Grpc, Instant::now());
    let refusal = Refusal::Full(TOO_MANY_CONNECTIONS);
    in_flight.answered(refusal.status());
    status(&refusal).into_http()
}

/// Whether a call asks how the server is.
fn is_probe(path: &str) -> bool {
    let asks = |service: &str, names: &[&str]| path.strip_prefix(service).is_some_and(|name| names.contains(&name));
    asks(SERVICE, &["ServerLive", "ServerReady"]) || asks(grpc_health::SERVICE, &[grpc_health::CHECK])
}

fn is_call(request: &Request<Incoming>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

/// The status that an answer would have had over HTTP.
fn over_http(answer: &Response<Body>) -> StatusCode {
    let Some(status) = answer.extensions().get::<Status>() else {
        return StatusCode::OK;
    };
    match status.source().and_then(|source| source.downcast_ref::<OverHttp>()) {
        Some(OverHttp(code)) => *code,
        // What tonic itself refuses: messages that are too large, encodings that it was not told of, or no messages.
        None if status.code() == Code::OutOfRange => StatusCode::PAYLOAD_TOO_LARGE,
        None if status.code() == Code::Unimplemented => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        None => StatusCode::BAD_REQUEST,
    }
}

/// What a refusal is over HTTP, kept with its status over gRPC.
#[derive(Debug, Error)]
#[error("{0} over HTTP")]
struct OverHttp(StatusCode);

async fn call(site: Arc<Site>, request: Request<Incoming>, start: Instant) -> Response<Body> {
    let patience = match deadline::of_grpc(request.headers()) {
        Ok(patience) => patience,
        Err(problem) => return status(&problem.into()).into_http(),
    };
    if let Some(name) = request.uri().path().strip_prefix(grpc_health::SERVICE).map(str::to_owned) {
        return grpc_health::call(site, &name, request).await;
    }
    let name = request.uri().path().strip_prefix(SERVICE).unwrap_or_default().to_owned();
    match name.as_str() {
        "ServerLive" => unary(site, request, async |_, _: Empty| Ok(Flag { yes: true })).await,
        "ServerReady" => unary(site, request, async |site, _: Empty| Ok(Flag { yes: is_ready(&site) })).await,
        "ModelReady" => unary(site, request, async |site, asked: ModelName| model_ready(&site, &asked)).await,
        "ServerMetadata" => unary(site, request, async |_, _: Empty| Ok(server())).await,
        "ModelMetadata" => unary(site, request, async |site, asked: ModelName| model(&site, &asked)).await,
        "ModelInfer" => {
            let infer = async move |site: Arc<Site>, asked: InferRequest| infer(&site, asked, (start, patience)).await;
            unary(site, request, infer).await
        }
        _ => no_such_call("no such call; the service is inference.GRPCInferenceService").into_http(),
    }
}

/// Here a call is a path: over HTTP it would not be found.
pub(super) fn no_such_call(words: &str) -> Status {
    of(Code::Unimplemented, words, Refusal::NotFound.status())
}

fn of(code: Code, words: impl Into<String>, over_http: StatusCode) -> Status {
    let mut status = Status::new(code, words);
    status.set_source(Arc::new(OverHttp(over_http)));
    status
}

/// What a call brings.
pub(super) trait Received: Message + Default + 'static {
    /// Bytes that it may have.
    fn longest(limits: &Limits) -> usize {
        SMALL_BYTES.min(limits.body_bytes)
    }

    /// That it holds no more than it may, seen before it is built.
    ///
    /// # Errors
    /// When it holds more.
    fn check(_message: &[u8], _site: &Site) -> Result<(), Refusal> {
        Ok(())
    }
}

impl Received for Empty {}
impl Received for ModelName {}
impl Received for InferRequest {
    fn longest(limits: &Limits) -> usize {
        limits.body_bytes
    }

    fn check(message: &[u8], site: &Site) -> Result<(), Refusal> {
        let inputs = site.deployment()?.served().schema().features().count();
        bounds::check(message, Bounds { inputs, rows: site.limits.batch_rows })
    }
}

/// Messages that are looked through before they are built.
pub(super) struct Careful<R, Q> {
    site: Arc<Site>,
    codec: ProstCodec<R, Q>,
}

impl<R, Q> Careful<R, Q> {
    /// For the calls of one server.
    pub(super) fn of(site: &Arc<Site>) -> Self {
        Self { site: Arc::clone(site), codec: ProstCodec::default() }
    }
}

impl<R: Message + 'static, Q: Received> Codec for Careful<R, Q> {
    type Encode = R;
    type Decode = Q;
    type Encoder = <ProstCodec<R, Q> as Codec>::Encoder;
    type Decoder = CarefulDecoder<<ProstCodec<R, Q> as Codec>::Decoder>;

    fn encoder(&mut self) -> Self::Encoder {
        self.codec.encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        CarefulDecoder { site: Arc::clone(&self.site), decoder: self.codec.decoder() }
    }
}

/// See [`Careful`].
pub(super) struct CarefulDecoder<D> {
    site: Arc<Site>,
    decoder: D,
}

impl<D: Decoder<Item: Received, Error = Status>> Decoder for CarefulDecoder<D> {
    type Item = D::Item;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<D::Item>, Status> {
        D::Item::check(source.chunk(), &self.site).map_err(|refusal| status(&refusal))?;
        self.decoder.decode(source)
    }
}

/// One call with one message each way.
pub(super) async fn unary<Q, R, F, A>(site: Arc<Site>, request: Request<Incoming>, answer: F) -> Response<Body>
where
    Q: Received,
    R: Message + Default + 'static,
    F: FnOnce(Arc<Site>, Q) -> A,
    A: Future<Output = Result<R, Refusal>> + Send + 'static,
{
    let share = Arc::new(Mutex::new(site.bodies.share()));
    let request = request.map(|body| Arriving::new::<Q>(body, Arc::clone(&share), &site.limits));
    let mut grpc = Grpc::new(Careful::of(&site)).max_decoding_message_size(Q::longest(&site.limits));
    let call = Call { site, answer: Some(answer), share };
    grpc.unary(call, request).await
}

/// A message on its way, which takes its share of what all bodies may take, and its time.
pub(super) struct Arriving {
    body: Incoming,
    share: Arc<Mutex<Share>>,
    bytes: usize,
    most: usize,
    too_late: Pin<Box<Sleep>>,
}

impl Arriving {
    pub(super) fn new<Q: Received>(body: Incoming, share: Arc<Mutex<Share>>, limits: &Limits) -> Self {
        let most = Q::longest(limits).saturating_add(PREFIX_BYTES);
        Self { body, share, bytes: 0, most, too_late: Box::pin(sleep(limits.body_patience)) }
    }

    /// What is small takes no share, so that whoever asks how a busy server is gets an answer. What comes behind the one
    /// message is nothing that anybody reads.
    fn take(&mut self, frame: &Frame<bytes::Bytes>) -> Result<(), Status> {
        let length = frame.data_ref().map_or(0, bytes::Bytes::len);
        if length > 0 && self.bytes >= self.most {
            return Err(status(&Refusal::BodyTooLarge(self.most)));
        }
        self.bytes += length;
        if self.bytes <= SMALL_BYTES + PREFIX_BYTES {
            return Ok(());
        }
        let mut share = self.share.lock().unwrap_or_else(PoisonError::into_inner);
        share.grow_to(self.bytes).map_err(|no_room| status(&no_room.into()))
    }
}

impl hyper::body::Body for Arriving {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(self.take(&frame).map(|()| frame))),
            Poll::Ready(Some(Err(_broken))) => Poll::Ready(Some(Err(status(&Refusal::BodyBroken)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => self.too_late.as_mut().poll(context).map(|()| Some(Err(status(&Refusal::BodyTimeout)))),
        }
    }
}

/// A call on its way into its function.
struct Call<F> {
    site: Arc<Site>,
    answer: Option<F>,
    /// What its message takes, until it is answered.
    share: Arc<Mutex<Share>>,
}

impl<Q, R, F, A> UnaryService<Q> for Call<F>
where
    F: FnOnce(Arc<Site>, Q) -> A,
    A: Future<Output = Result<R, Refusal>> + Send + 'static,
{
    type Response = R;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<R>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        let site = Arc::clone(&self.site);
        let Some(answer) = self.answer.take() else {
            return Box::pin(async { Err(Status::internal("a call is answered once")) });
        };
        let answering = answer(site, request.into_inner());
        let share = Arc::clone(&self.share);
        Box::pin(async move {
            let answered = answering.await;
            drop(share);
            answered.map(tonic::Response::new).map_err(|refusal| status(&refusal))
        })
    }
}

/// A refusal as gRPC says it.
fn status(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::NotFound | Refusal::NoModel(_) => Code::NotFound,
        Refusal::Method(_) => Code::Unimplemented,
        Refusal::BodyTooLarge(_) | Refusal::Busy(_) => Code::ResourceExhausted,
        Refusal::BatchTooLarge(_) | Refusal::Encoded | Refusal::Invalid(_) | Refusal::BadRequest(_) => {
            Code::InvalidArgument
        }
        Refusal::BodyBroken | Refusal::BodyTimeout => Code::Aborted,
        Refusal::Starting(_) | Refusal::Full(_) => Code::Unavailable,
        Refusal::Deadline => Code::DeadlineExceeded,
        Refusal::Failed | Refusal::Unbelievable(_) | Refusal::Metrics => Code::Internal,
    };
    let mut status = of(code, refusal.detail(), refusal.status());
    if let Some(seconds) = refusal.shed() {
        let metadata = status.metadata_mut();
        metadata.insert(SHED, MetadataValue::from_static("1"));
        metadata.insert("retry-after", MetadataValue::from(seconds));
    }
    status
}

fn is_ready(site: &Site) -> bool {
    site.health.stage() == Stage::Ready
}

fn server() -> ServerMetadata {
    ServerMetadata {
        name: SERVER_NAME.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: EXTENSIONS.iter().copied().map(str::to_owned).collect(),
    }
}

fn model_ready(site: &Site, asked: &ModelName) -> Result<Flag, Refusal> {
    check_model(site.deployment()?.served(), &asked.name, &asked.version)?;
    Ok(Flag { yes: is_ready(site) })
}

fn model(site: &Site, asked: &ModelName) -> Result<ModelMetadata, Refusal> {
    let served = site.deployment()?.served();
    check_model(served, &asked.name, &asked.version)?;
    let described = |tensor: Described| TensorMetadata {
        name: tensor.name,
        datatype: tensor.datatype.name().to_owned(),
        shape: tensor.shape,
    };
    Ok(ModelMetadata {
        name: served.name().to_owned(),
        versions: vec![served.version().to_owned()],
        platform: PLATFORM.to_owned(),
        inputs: tensor::inputs(served.schema()).into_iter().map(described).collect(),
        outputs: vec![described(tensor::output(served))],
    })
}

async fn infer(
    site: &Site,
    request: InferRequest,
    (start, patience): (Instant, Option<Duration>),
) -> Result<InferResponse, Refusal> {
    let deployment = site.deployment()?;
    let served = deployment.served();
    check_model(served, &request.model_name, &request.model_version)?;
    tensor::check_outputs(served, request.outputs.iter().map(|output| output.name.as_str()))?;
    let patience = patience.or(micros(&request.parameters));
    let asked = Asked { deadline: patience.map(|patience| start + patience), ..Asked::default() };
    let rows = tensor::rows(served, &tensors(&request)?, site.limits.batch_rows);
    let rows = rows.inspect_err(|refusal| deployment.note_refused(refusal, asked))?;
    let predictions = site.calculate(deployment, rows, asked).await?;
    let output = tensor::output(served);
    Ok(InferResponse {
        model_name: served.name().to_owned(),
        model_version: served.version().to_owned(),
        id: request.id,
        parameters: clamped(&predictions),
        outputs: vec![Sent {
            name: output.name,
            datatype: output.datatype.name().to_owned(),
            shape: tensor::output_shape(&predictions).map(|size| i64::try_from(size).unwrap_or(i64::MAX)).to_vec(),
            ..Sent::default()
        }],
        raw_output_contents: vec![tensor::bytes_of_numbers(&predictions.values).into()],
    })
}

/// The deadline as Triton's clients set it.
fn micros(parameters: &HashMap<String, Parameter>) -> Option<Duration> {
    match parameters.get(TIMEOUT)?.choice.as_ref()? {
        Choice::Integer(micros) => u64::try_from(*micros).ok().map(Duration::from_micros),
        Choice::Natural(micros) => Some(Duration::from_micros(*micros)),
        Choice::Flag(_) | Choice::Text(_) | Choice::Number(_) => None,
    }
}

/// How many values were clamped, when any were.
fn clamped(predictions: &Predictions) -> HashMap<String, Parameter> {
    let count = i64::try_from(predictions.rows.warnings.count()).unwrap_or(i64::MAX);
    let parameter = Parameter { choice: Some(Choice::Integer(count)) };
    (count > 0).then(|| ("clamped".to_owned(), parameter)).into_iter().collect()
}

/// Either every tensor brings its elements itself, or all of them come as bytes, in their order.
pub(super) fn tensors(request: &InferRequest) -> Result<Vec<Tensor<'_>>, Refusal> {
    let raw = &request.raw_input_contents;
    if !raw.is_empty() && raw.len() != request.inputs.len() {
        let (inputs, raw) = (request.inputs.len(), raw.len());
        return Err(Refusal::BadRequest(format!("there are {inputs} inputs, but raw contents for {raw}")));
    }
    let mut raw = raw.iter();
    request.inputs.iter().map(|sent| tensor_of(sent, raw.next().map(AsRef::as_ref))).collect()
}

fn tensor_of<'a>(sent: &'a Sent, raw: Option<&'a [u8]>) -> Result<Tensor<'a>, Refusal> {
    let wrong = |what: &str| Refusal::BadRequest(format!("the input `{}` {what}", sent.name));
    let datatype = Datatype::named(&sent.datatype)?;
    let elements = match (raw, &sent.contents) {
        (Some(bytes), None) => {
            tensor::elements_of_bytes(datatype, bytes).map_err(|what| wrong(&format!("has bytes that {what}")))?
        }
        (None, Some(contents)) => contents.elements(datatype).ok_or_else(|| wrong("holds a text that is not UTF-8"))?,
        (None, None) => return Err(wrong("has no contents")),
        (Some(_), Some(_)) => return Err(wrong("has contents twice; send them raw or not")),
    };
    Ok(Tensor { name: Cow::Borrowed(&sent.name), shape: sent.shape.clone(), elements })
}

impl Contents {
    /// The elements that stand where the datatype has them.
    fn elements(&self, datatype: Datatype) -> Option<Elements<'_>> {
        Some(match datatype {
            Datatype::Bool => Elements::Flags(self.flags.clone()),
            Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => {
                Elements::Numbers(self.uint32.iter().copied().map(f64::from).collect())
            }
            Datatype::Uint64 => Elements::Numbers(self.uint64.iter().map(|number| rounded((*number).into())).collect()),
            Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => {
                Elements::Numbers(self.int32.iter().copied().map(f64::from).collect())
            }
            Datatype::Int64 => Elements::Numbers(self.int64.iter().map(|number| rounded((*number).into())).collect()),
            Datatype::Fp32 => Elements::Singles(self.fp32.clone()),
            Datatype::Fp64 => Elements::Numbers(self.fp64.clone()),
            Datatype::Bytes => {
                let texts = self.texts.iter().map(|text| std::str::from_utf8(text).ok().map(Cow::Borrowed));
                Elements::Texts(texts.collect::<Option<_>>()?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(name: &str, datatype: &str, contents: Option<Contents>) -> Sent {
        Sent { name: name.to_owned(), datatype: datatype.to_owned(), shape: vec![1], contents, ..Sent::default() }
    }

    fn refused(inputs: Vec<Sent>, raw: Vec<bytes::Bytes>) -> String {
        let request = InferRequest { inputs, raw_input_contents: raw, ..InferRequest::default() };
        tensors(&request).unwrap_err().detail()
    }

    #[test]
    fn elements_stand_where_their_datatype_has_them() {
        let contents = Contents {
            flags: vec![true],
            int32: vec![-3],
            int64: vec![-4],
            uint32: vec![3],
            uint64: vec![4],
            fp32: vec![0.5],
            fp64: vec![0.25],
            texts: vec!["a".into()],
        };
        for (datatype, wanted) in [
            ("BOOL", "Flags([true])"),
            ("INT8", "Numbers([-3.0])"),
            ("INT64", "Numbers([-4.0])"),
            ("UINT32", "Numbers([3.0])"),
            ("UINT64", "Numbers([4.0])"),
            ("FP32", "Singles([0.5])"),
            ("FP64", "Numbers([0.25])"),
            ("BYTES", "Texts([\"a\"])"),
        ] {
            let request =
                InferRequest { inputs: vec![sent("x", datatype, Some(contents.clone()))], ..Default::default() };
            assert_eq!(format!("{:?}", tensors(&request).unwrap()[0].elements), wanted);
        }
    }

    #[test]
    fn contents_come_one_way_only() {
        let number = || sent("x", "FP32", Some(Contents { fp32: vec![1.0], ..Contents::default() }));
        let raw = || bytes::Bytes::from_static(&[0, 0, 0, 0]);
        assert!(refused(vec![number()], vec![raw()]).contains("contents twice"));
        assert!(refused(vec![sent("x", "FP32", None)], vec![]).contains("no contents"));
        assert!(refused(vec![number()], vec![raw(), raw()]).contains("raw contents for 2"));
        let broken = Contents { texts: vec![bytes::Bytes::from_static(&[255])], ..Contents::default() };
        assert!(refused(vec![sent("x", "BYTES", Some(broken))], vec![]).contains("UTF-8"));
    }

    #[test]
    fn what_is_turned_away_is_marked_for_the_edge() {
        let busy = status(&Refusal::Busy(3));
        assert_eq!(busy.code(), Code::ResourceExhausted);
        assert_eq!(busy.metadata().get(SHED).unwrap(), "1");
        assert_eq!(busy.metadata().get("retry-after").unwrap(), "3");
        assert!(status(&Refusal::Failed).metadata().is_empty());
    }
}
