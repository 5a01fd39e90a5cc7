//! The protocol over HTTP: JSON, and tensors as bytes behind it (`inference-header-content-length`).

use std::borrow::Cow;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, StatusCode};
use percent_encoding::percent_decode_str;
use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::tensor::{self, Datatype, Described, Elements, Tensor, rounded};
use super::{EXTENSIONS, PLATFORM, SERVER_NAME, check_model};
use crate::answer::{self, Answer, Refusal};
use crate::deadline;
use crate::deployment::Asked;
use crate::http::{self, Site};
use crate::predict::Served;
use crate::queue::Predictions;
use crate::schema::{self, Rows};

/// How many bytes of a body are JSON; the rest are tensors.
pub(super) const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// A path below `/v2`.
enum Target {
    Server,
    Live,
    Ready,
    Model(Name),
    ModelReady(Name),
    Infer(Name),
}

/// A model as a path names it.
struct Name {
    model: String,
    /// Empty when none is named.
    version: String,
}

impl Target {
    fn of(path: &str) -> Result<Self, Refusal> {
        let parts: Vec<&str> = path.split('/').skip(2).collect();
        match parts.as_slice() {
            [] => Ok(Self::Server),
            ["health", "live"] => Ok(Self::Live),
            ["health", "ready"] => Ok(Self::Ready),
            ["models", model, "versions", version, rest @ ..] => Self::of_model(Name::of(model, version)?, rest),
            ["models", model, rest @ ..] => Self::of_model(Name::of(model, "")?, rest),
            _ => Err(Refusal::NotFound),
        }
    }

    fn of_model(name: Name, rest: &[&str]) -> Result<Self, Refusal> {
        match rest {
            [] => Ok(Self::Model(name)),
            ["ready"] => Ok(Self::ModelReady(name)),
            ["infer"] => Ok(Self::Infer(name)),
            _ => Err(Refusal::NotFound),
        }
    }
}

impl Name {
    fn of(model: &str, version: &str) -> Result<Self, Refusal> {
        let decoded = |text| percent_decode_str(text).decode_utf8().map(Cow::into_owned).or(Err(Refusal::NotFound));
        Ok(Self { model: decoded(model)?, version: decoded(version)? })
    }

    fn check(&self, served: &Served) -> Result<(), Refusal> {
        check_model(served, &self.model, &self.version)
    }
}

/// Answers everything but inference.
///
/// # Errors
/// When there is no such path or model, or the model is not ready.
pub fn describe(site: &Site, path: &str) -> Result<Answer, Refusal> {
    match Target::of(path)? {
        Target::Server => Ok(answer::json(StatusCode::OK, server().to_string())),
        Target::Live => Ok(answer::state(StatusCode::OK, &json!({"live": true}))),
        Target::Ready => ready(site).map(|()| answer::state(StatusCode::OK, &json!({"ready": true}))),
        Target::ModelReady(name) => {
            name.check(site.deployment()?.served())?;
            ready(site)?;
            Ok(answer::state(StatusCode::OK, &json!({"name": name.model, "ready": true})))
        }
        Target::Model(name) => {
            let served = site.deployment()?.served();
            name.check(served)?;
            Ok(answer::json(StatusCode::OK, model(served).to_string()))
        }
        Target::Infer(_) => Err(Refusal::Method("POST")),
    }
}

fn ready(site: &Site) -> Result<(), Refusal> {
    match site.health.stage().reason() {
        None => Ok(()),
        Some(reason) => Err(Refusal::Starting(reason)),
    }
}

fn server() -> Value {
    json!({"name": SERVER_NAME, "version": env!("CARGO_PKG_VERSION"), "extensions": EXTENSIONS})
}

fn model(served: &Served) -> Value {
    let described =
        |tensor: Described| json!({"name": tensor.name, "datatype": tensor.datatype.name(), "shape": tensor.shape});
    let inputs: Vec<Value> = tensor::inputs(served.schema()).into_iter().map(described).collect();
    json!({
        "name": served.name(),
        "versions": [served.version()],
        "platform": PLATFORM,
        "inputs": inputs,
        "outputs": [described(tensor::output(served))],
    })
}

/// Answers an inference.
///
/// # Errors
/// When there is no such model, the tensors do not fit it, or there is no prediction.
pub async fn infer(site: &Site, request: Request<Incoming>, start: Instant) -> Result<Answer, Refusal> {
    let Target::Infer(name) = Target::of(request.uri().path())? else {
        return Err(Refusal::NotFound);
    };
    let deployment = site.deployment()?;
    let served = deployment.served();
    name.check(served)?;
    let (head, body) = request.into_parts();
    http::check_encoding(&head.headers)?;
    let patience = deadline::of_http(&head.headers)?;
    let body = site.body(&head.headers, body).await?;
    let mut asked = Asked { deadline: None, is_golden: http::is_golden(&head.headers) };
    let read = read(served, &head.headers, &body.bytes, site.limits.batch_rows);
    let (request, rows) = read.inspect_err(|refusal| deployment.note_refused(refusal, asked))?;
    let patience = patience.or(request.parameters.timeout.map(Duration::from_micros));
    asked.deadline = patience.map(|patience| start + patience);
    let predictions = site.calculate(deployment, rows, asked).await?;
    Ok(write(served, &request, &predictions))
}

/// A request and its rows.
pub(super) fn read<'a>(
    served: &Served,
    headers: &HeaderMap,
    body: &'a [u8],
    most_rows: usize,
) -> Result<(InferRequest<'a>, Rows), Refusal> {
    let (text, binary) = split(headers, body)?;
    let request: InferRequest<'_> = serde_json::from_slice(text)
        .map_err(|problem| Refusal::BadRequest(format!("the request is not understood: {problem}")))?;
    tensor::check_outputs(served, request.outputs.iter().flatten().map(|output| output.name.as_ref()))?;
    let rows = tensor::rows(served, &request.tensors(binary)?, most_rows)?;
    Ok((request, rows))
}

/// The JSON of a body, and the bytes behind it.
fn split<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Refusal> {
    let Some(length) = headers.get(JSON_LENGTH) else {
        return Ok((body, &[]));
    };
    let length = length.to_str().ok().and_then(|length| length.parse().ok());
    length.and_then(|length| body.split_at_checked(length)).ok_or_else(|| {
        Refusal::BadRequest(format!("the header {JSON_LENGTH} must say how many of the body's bytes are JSON"))
    })
}

/// The JSON of a request.
#[derive(Debug, Deserialize)]
pub(super) struct InferRequest<'a> {
    #[serde(default, borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(default)]
    parameters: Parameters,
    #[serde(borrow)]
    inputs: Vec<Input<'a>>,
    #[serde(default, borrow)]
    outputs: Option<Vec<Output<'a>>>,
}

/// What is understood of the parameters, wherever they stand; others are passed over, as the protocol has it.
#[derive(Debug, Default, Deserialize)]
struct Parameters {
    /// Microseconds that the client waits.
    #[serde(default)]
    timeout: Option<u64>,
    /// Of an input: how many bytes behind the JSON are its own.
    #[serde(default)]
    binary_data_size: Option<usize>,
    /// Of an output: whether it is wanted as bytes.
    #[serde(default)]
    binary_data: Option<bool>,
    /// The same, for all outputs.
    #[serde(default)]
    binary_data_output: bool,
}

#[derive(Debug, Deserialize)]
struct Input<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    shape: Vec<i64>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    #[serde(default)]
    parameters: Parameters,
    #[serde(default)]
    data: Option<Flat>,
}

#[derive(Debug, Deserialize)]
struct Output<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    parameters: Parameters,
}

impl InferRequest<'_> {
    pub(super) fn tensors<'b>(&'b self, mut binary: &'b [u8]) -> Result<Vec<Tensor<'b>>, Refusal> {
        let mut tensors = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let own = match input.parameters.binary_data_size {
                None => None,
                Some(size) => {
                    let (own, rest) = binary
                        .split_at_checked(size)
                        .ok_or_else(|| input.wrong("has fewer bytes behind the JSON than its `binary_data_size`"))?;
                    binary = rest;
                    Some(own)
                }
            };
            tensors.push(input.tensor(own)?);
        }
        if binary.is_empty() {
            return Ok(tensors);
        }
        Err(Refusal::BadRequest(format!("{} bytes behind the JSON belong to no input", binary.len())))
    }

    /// Whether the output is wanted as bytes.
    fn wants_bytes(&self) -> bool {
        let named = self.outputs.iter().flatten().next();
        named.and_then(|output| output.parameters.binary_data).unwrap_or(self.parameters.binary_data_output)
    }
}

impl Input<'_> {
    fn wrong(&self, what: &str) -> Refusal {
        Refusal::BadRequest(format!("the input `{}` {what}", self.name))
    }

    fn tensor<'b>(&'b self, binary: Option<&'b [u8]>) -> Result<Tensor<'b>, Refusal> {
        let datatype = Datatype::named(&self.datatype)?;
        let elements = match (binary, &self.data) {
            (Some(bytes), None) => tensor::elements_of_bytes(datatype, bytes)
                .map_err(|what| self.wrong(&format!("has bytes that {what}")))?,
            (None, Some(flat)) => flat
                .elements(datatype)
                .ok_or_else(|| self.wrong(&format!("has data that is not {}", datatype.name())))?,
            (None, None) => return Err(self.wrong("has neither `data` nor bytes behind the JSON")),
            (Some(_), Some(_)) => return Err(self.wrong("has `data` and bytes behind the JSON; send one of them")),
        };
        Ok(Tensor { name: Cow::Borrowed(self.name.as_ref()), shape: self.shape.clone(), elements })
    }
}

/// The elements of a list, however deep the lists within it are nested: the protocol allows both.
#[derive(Debug, Default)]
struct Flat(Vec<Scalar>);

#[derive(Debug)]
enum Scalar {
    Number(f64),
    Flag(bool),
    Text(String),
}

impl Flat {
    fn elements(&self, datatype: Datatype) -> Option<Elements<'_>> {
        match datatype {
            Datatype::Bool => self.all(Scalar::flag).map(Elements::Flags),
            Datatype::Bytes => self.all(Scalar::text).map(Elements::Texts),
            Datatype::Fp32 => self.all(|scalar| scalar.number().map(schema::narrow)).map(Elements::Singles),
            Datatype::Uint8
            | Datatype::Uint16
            | Datatype::Uint32
            | Datatype::Uint64
            | Datatype::Int8
            | Datatype::Int16
            | Datatype::Int32
            | Datatype::Int64
            | Datatype::Fp64 => self.all(Scalar::number).map(Elements::Numbers),
        }
    }

    fn all<'a, T>(&'a self, read: impl Fn(&'a Scalar) -> Option<T>) -> Option<Vec<T>> {
        self.0.iter().map(read).collect()
    }
}

impl Scalar {
    fn number(&self) -> Option<f64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    fn flag(&self) -> Option<bool> {
        if let Self::Flag(flag) = self { Some(*flag) } else { None }
    }

    fn text(&self) -> Option<Cow<'_, str>> {
        if let Self::Text(text) = self { Some(Cow::Borrowed(text)) } else { None }
    }
}

impl<'de> Deserialize<'de> for Flat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut flat = Self::default();
        Flatten(&mut flat.0).deserialize(deserializer)?;
        Ok(flat)
    }
}

/// Adds what it reads to the elements.
struct Flatten<'a>(&'a mut Vec<Scalar>);

impl<'de> DeserializeSeed<'de> for Flatten<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Flatten<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a number, a boolean, a string, or a list of them")
    }

    fn visit_bool<E>(self, flag: bool) -> Result<(), E> {
        self.0.push(Scalar::Flag(flag));
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.0.push(Scalar::Number(rounded(number.into())));
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.0.push(Scalar::Number(rounded(number.into())));
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.0.push(Scalar::Number(number));
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.push(Scalar::Text(text.to_owned()));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Flatten(&mut *self.0))?.is_some() {}
        Ok(())
    }
}

/// The JSON of an answer.
#[derive(Serialize)]
struct Answered<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Clamped>,
    outputs: [Predicted<'a>; 1],
}

/// How many values were clamped.
#[derive(Serialize)]
struct Clamped {
    clamped: usize,
}

#[derive(Serialize)]
struct Predicted<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: [usize; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a [f32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinarySize>,
}

#[derive(Serialize)]
struct BinarySize {
    binary_data_size: usize,
}

pub(super) fn write(served: &Served, request: &InferRequest<'_>, predictions: &Predictions) -> Answer {
    let bytes = request.wants_bytes().then(|| tensor::bytes_of_numbers(&predictions.values));
    let clamped = predictions.rows.warnings.count();
    let answered = Answered {
        model_name: served.name(),
        model_version: served.version(),
        id: request.id.as_deref(),
        parameters: (clamped > 0).then_some(Clamped { clamped }),
        outputs: [Predicted {
            name: &served.output().name,
            datatype: Datatype::Fp32.name(),
            shape: tensor::output_shape(predictions),
            data: bytes.is_none().then_some(&predictions.values),
            parameters: bytes.as_ref().map(|bytes| BinarySize { binary_data_size: bytes.len() }),
        }],
    };
    // Writing to memory does not fail.
    with_bytes(serde_json::to_vec(&answered).unwrap_or_default(), bytes)
}

fn with_bytes(mut body: Vec<u8>, bytes: Option<Vec<u8>>) -> Answer {
    let Some(bytes) = bytes else {
        return answer::json(StatusCode::OK, body);
    };
    let length = HeaderValue::from(body.len());
    body.extend(bytes);
    let mut answer = answer::json(StatusCode::OK, body);
    answer.headers_mut().insert(JSON_LENGTH, length);
    answer.headers_mut().insert(CONTENT_TYPE, BYTES);
    answer
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::OnceLock;

    use proptest::prelude::*;

    use super::*;
    use crate::artifact::Folder;
    use crate::bundle::Bundle;
    use crate::model::DeviceName;

    fn served() -> &'static Served {
        static SERVED: OnceLock<Served> = OnceLock::new();
        SERVED.get_or_init(|| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/delivery-time/v1");
            let bundle = Bundle::load(&Folder::new(folder), None).unwrap();
            Served::new(bundle, DeviceName::Cpu).unwrap()
        })
    }

    /// Two rows: the numbers as bytes, the rest as JSON; and how much of it is JSON.
    fn body() -> (Vec<u8>, usize) {
        let mut binary = vec![];
        let inputs: Vec<Value> = tensor::inputs(served().schema())
            .into_iter()
            .map(|input| {
                let mut sent = json!({"name": input.name, "shape": [2, 1], "datatype": input.datatype.name()});
                match (input.datatype, input.name.as_str()) {
                    (Datatype::Fp32, _) => {
                        binary.extend(tensor::bytes_of_numbers(&[1.0, 1.0]));
                        sent["parameters"] = json!({"binary_data_size": 8});
                    }
                    (Datatype::Bool, _) => sent["data"] = json!([true, false]),
                    (_, "day") => sent["data"] = json!([["mon"], ["sun"]]),
                    (_, "weather") => sent["data"] = json!(["rain", "clear"]),
                    _ => sent["data"] = json!([["car"], ["bicycle"]]),
                }
                sent
            })
            .collect();
        let mut body = json!({"inputs": inputs}).to_string().into_bytes();
        let text = body.len();
        body.extend(binary);
        (body, text)
    }

    fn headers(json_length: usize) -> HeaderMap {
        [(JSON_LENGTH, HeaderValue::from(json_length))].into_iter().collect()
    }

    #[test]
    fn json_and_bytes_go_together() {
        let (body, text) = body();
        let (_, rows) = read(served(), &headers(text), &body, 8).unwrap();
        assert_eq!((rows.count, rows.columns.len()), (2, 48));
        assert!(matches!(read(served(), &headers(text), &body, 1), Err(Refusal::BatchTooLarge(1))));
        assert!(matches!(read(served(), &headers(body.len() + 1), &body, 8), Err(Refusal::BadRequest(_))));
        let longer = [body, vec![0]].concat();
        assert!(matches!(read(served(), &headers(text), &longer, 8), Err(Refusal::BadRequest(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]

        #[test]
        fn a_damaged_request_gives_rows_or_words(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..4),
            shift in -2_i64..3,
        ) {
            let (mut body, text) = body();
            for (place, byte, how) in damage {
                let at = place.index(body.len());
                match how {
                    0 => body[at] = byte,
                    1 => body.insert(at, byte),
                    _ => drop(body.split_off(at.max(1))),
                }
            }
            let text = usize::try_from(i64::try_from(text).unwrap() + shift).unwrap();
            match read(served(), &headers(text), &body, 8) {
                Ok((_, rows)) => prop_assert_eq!(rows.columns.len(), rows.count * 24),
                Err(refusal) => prop_assert!(refusal.status().is_client_error() && !refusal.detail().is_empty()),
            }
        }
    }
}
