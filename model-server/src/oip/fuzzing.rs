//! What holds for every body and every message of the Open Inference Protocol that a client can send.

use futures_util::FutureExt;
use http_body_util::{BodyExt, Collected};
use hyper::header::{HeaderMap, HeaderValue};
use prost::Message;
use serde_json::Value;

use super::bounds::{self, Bounds};
use super::messages::InferRequest;
use super::tensor::{self, Datatype, Elements, Tensor};
use super::{grpc, rest};
use crate::answer::Refusal;
use crate::fuzzing::{MOST_ROWS, check_rows, served, split};
use crate::predict::Form;
use crate::queue::Predictions;
use crate::schema::Rows;

/// A request over HTTP is refused in words, or every one of its tensors has just as many elements as its shape says, and
/// each row gets a finite answer. Any bytes are whole elements of a type and the same bytes again, or no elements.
///
/// The JSON of a request ends at the first zero byte, and its tensors follow.
///
/// # Panics
/// If that does not hold.
pub fn tensors(input: &[u8]) {
    let (json, binary) = split(input);
    for datatype in Datatype::ALL {
        check_elements(datatype, binary);
    }
    let body = [json, binary].concat();
    // Where nothing follows, the header may be left out.
    let behind = (json.len() < input.len()).then(|| (rest::JSON_LENGTH, HeaderValue::from(json.len())));
    let headers: HeaderMap = behind.into_iter().collect();
    let (request, rows) = match rest::read(served(), &headers, &body, MOST_ROWS) {
        Ok(read) => read,
        Err(refusal) => return check_refusal(&refusal),
    };
    let sent = request.tensors(binary).unwrap_or_default();
    check_tensors(&sent, &rows);
    let values = served().model().predict(&rows).unwrap_or_default();
    if served().believe(&values).is_ok() {
        check_answer(&request, &Predictions { rows, values, ..Predictions::default() });
    }
}

/// A message that is let through holds no more than the model takes, and is refused in words or treated like a request over
/// HTTP.
///
/// # Panics
/// If that does not hold.
pub fn grpc(input: &[u8]) {
    let inputs = served().schema().features().count();
    if let Err(refusal) = bounds::check(input, Bounds { inputs, rows: MOST_ROWS }) {
        return check_refusal(&refusal);
    }
    let Ok(request) = InferRequest::decode(input) else { return };
    let longest = request.inputs.len().max(request.outputs.len()).max(request.raw_input_contents.len());
    assert!(longest <= inputs + 1, "{longest} of {inputs}");
    let sent = match grpc::tensors(&request) {
        Ok(sent) => sent,
        Err(refusal) => return check_refusal(&refusal),
    };
    match tensor::rows(served(), &sent, MOST_ROWS) {
        Ok(rows) => check_tensors(&sent, &rows),
        Err(refusal) => check_refusal(&refusal),
    }
}

fn check_refusal(refusal: &Refusal) {
    assert!(refusal.status().is_client_error() && !refusal.detail().is_empty(), "{refusal:?}");
}

/// One tensor for each feature, all of the same number of rows, which is their shape.
fn check_tensors(sent: &[Tensor<'_>], rows: &Rows) {
    assert_eq!(sent.len(), served().schema().features().count());
    assert!((1..=MOST_ROWS).contains(&rows.count), "{} rows", rows.count);
    for tensor in sent {
        let product: i64 = tensor.shape.iter().product();
        assert_eq!(usize::try_from(product), Ok(tensor.elements.len()), "{tensor:?}");
        assert_eq!(tensor.elements.len(), rows.count, "{tensor:?}");
    }
    check_rows(rows, Form::Many(MOST_ROWS));
}

/// The answer has the shape that it says, as numbers or as bytes.
fn check_answer(request: &rest::InferRequest<'_>, predictions: &Predictions) {
    let answer = rest::write(served(), request, predictions);
    let behind = answer.headers().get(rest::JSON_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    // It is there already, so nothing is waited for.
    let body = answer.into_body().collect().now_or_never();
    let body = body.and_then(Result::ok).map(Collected::to_bytes).unwrap_or_default();
    let (json, bytes) = body.split_at(behind.unwrap_or(body.len()));
    let said: Value = serde_json::from_slice(json).unwrap_or_default();
    let of_output = |what: &str| said.pointer(&format!("/outputs/0/{what}"));
    let wanted = predictions.rows.count * served().values();
    let (in_json, in_bytes) = match of_output("data").and_then(Value::as_array) {
        Some(data) => (data.len(), 0),
        None => (0, wanted),
    };
    assert_eq!((in_json + in_bytes, 4 * in_bytes), (wanted, bytes.len()), "{said}");
    let number = |what: &str| of_output(what).and_then(Value::as_u64).and_then(|number| usize::try_from(number).ok());
    assert_eq!(number("parameters/binary_data_size").unwrap_or(0), bytes.len(), "{said}");
    assert_eq!(number("shape/0"), Some(predictions.rows.count), "{said}");
}

/// Whole elements, as many as there is room for, which are the same bytes again.
fn check_elements(datatype: Datatype, bytes: &[u8]) {
    let read = tensor::elements_of_bytes(datatype, bytes);
    match (width(datatype), read) {
        (Some(width), Ok(elements)) => {
            assert_eq!(elements.len() * width, bytes.len(), "{datatype:?}");
            check_written(datatype, &elements, bytes);
        }
        (Some(width), Err(_)) => assert!(!bytes.len().is_multiple_of(width), "{datatype:?} of {} bytes", bytes.len()),
        (None, Ok(elements)) => check_written(datatype, &elements, bytes),
        (None, Err(what)) => assert!(!what.is_empty()),
    }
}

/// Bytes of one element; none where each says it.
fn width(datatype: Datatype) -> Option<usize> {
    match datatype {
        Datatype::Bool | Datatype::Uint8 | Datatype::Int8 => Some(1),
        Datatype::Uint16 | Datatype::Int16 => Some(2),
        Datatype::Uint32 | Datatype::Int32 | Datatype::Fp32 => Some(4),
        Datatype::Uint64 | Datatype::Int64 | Datatype::Fp64 => Some(8),
        Datatype::Bytes => None,
    }
}

/// Elements that can be written back are the bytes that they were.
fn check_written(datatype: Datatype, elements: &Elements<'_>, bytes: &[u8]) {
    let written: Vec<u8> = match (datatype, elements) {
        (Datatype::Fp32, Elements::Singles(numbers)) => tensor::bytes_of_numbers(numbers),
        (Datatype::Fp64, Elements::Numbers(numbers)) => {
            numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
        }
        (Datatype::Bytes, Elements::Texts(texts)) => texts.iter().flat_map(|text| with_length(text)).collect(),
        (Datatype::Bool, Elements::Flags(flags)) => {
            let same = flags.iter().zip(bytes).all(|(flag, byte)| *flag == (*byte != 0));
            return assert!(same, "{flags:?}");
        }
        (_, Elements::Numbers(numbers)) => {
            return assert!(numbers.iter().all(|number| number.is_finite() && number.fract().abs() < f64::EPSILON));
        }
        (_, elements) => unreachable!("{datatype:?} became {elements:?}"),
    };
    assert_eq!(written, bytes, "{datatype:?}");
}

fn with_length(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    [length.to_le_bytes().as_slice(), text.as_bytes()].concat()
}
