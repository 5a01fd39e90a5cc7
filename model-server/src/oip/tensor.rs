//! Tensors as both transports bring them, and the way from them to rows and back. Each feature of the schema is an
//! input of its own, of the shape `[n, 1]` or `[n]`; the prediction is one output of the shape `[n, 1]`, or `[n, m]`
//! where it is a vector.

use std::borrow::Cow;

use crate::answer::Refusal;
use crate::findings::Place;
use crate::json::Value;
use crate::predict::{PredictError, Served};
use crate::queue::Predictions;
use crate::schema::{Feature, RowReader, Rows, Schema, narrow};

/// How many problems are told.
const LISTED: usize = 10;

/// How many characters of a name that a client made up are told.
const LONGEST_NAME: usize = 100;

/// What the elements of a tensor are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp32,
    Fp64,
    Bytes,
}

impl Datatype {
    pub(super) const ALL: [Self; 12] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp32,
        Self::Fp64,
        Self::Bytes,
    ];

    /// As the protocol writes it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    /// The datatype of a name.
    pub(super) fn named(name: &str) -> Result<Self, Refusal> {
        Self::ALL.into_iter().find(|datatype| datatype.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            Refusal::BadRequest(format!("the datatype `{name}` is not taken; send one of {known}"))
        })
    }

    /// What a feature is best sent as.
    fn of(feature: &Feature) -> Self {
        match feature {
            Feature::Numeric { .. } => Self::Fp32,
            Feature::Boolean { .. } => Self::Bool,
            Feature::Categorical { .. } | Feature::Text { .. } => Self::Bytes,
        }
    }
}

/// The elements of a tensor, row by row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Elements<'a> {
    Numbers(Vec<f64>),
    /// Numbers that were rounded to 32 bits, as the ends of a range then are too.
    Singles(Vec<f32>),
    Flags(Vec<bool>),
    Texts(Vec<Cow<'a, str>>),
}

impl Elements<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Numbers(numbers) => numbers.len(),
            Self::Singles(numbers) => numbers.len(),
            Self::Flags(flags) => flags.len(),
            Self::Texts(texts) => texts.len(),
        }
    }

    fn value(&self, row: usize, feature: &Feature) -> Option<Value<'_>> {
        match self {
            Self::Numbers(numbers) => numbers.get(row).copied().map(Value::Number),
            Self::Singles(numbers) => numbers.get(row).map(|number| Value::Number(widened(*number, feature))),
            Self::Flags(flags) => flags.get(row).copied().map(Value::Boolean),
            Self::Texts(texts) => texts.get(row).map(|text| Value::Text(Cow::Borrowed(text.as_ref()))),
        }
    }
}

/// The 32 bits that are nearest to an end of the range stand for that end: 0.1 in 32 bits is more than 0.1, and yet it
/// is what a client sends who means it.
fn widened(number: f32, feature: &Feature) -> f64 {
    if let Feature::Numeric { range, .. } = feature {
        let nearest = range.iter().find(|end| narrow(**end).to_bits() == number.to_bits());
        return nearest.copied().unwrap_or(f64::from(number));
    }
    f64::from(number)
}

/// One input of a request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) shape: Vec<i64>,
    pub(super) elements: Elements<'a>,
}

/// What a tensor is, for the description of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) name: String,
    pub(super) datatype: Datatype,
    /// −1 for as many rows as come.
    pub(super) shape: Vec<i64>,
}

/// The inputs of a model.
pub(super) fn inputs(schema: &Schema) -> Vec<Described> {
    let described = |feature: &Feature| Described {
        name: feature.name().to_owned(),
        datatype: Datatype::of(feature),
        shape: vec![-1, 1],
    };
    schema.features().map(described).collect()
}

/// The output of a model.
pub(super) fn output(served: &Served) -> Described {
    let values = i64::try_from(served.values()).unwrap_or(i64::MAX);
    Described { name: served.output().name.clone(), datatype: Datatype::Fp32, shape: vec![-1, values] }
}

/// The shape of a prediction.
pub(super) fn output_shape(predictions: &Predictions) -> [usize; 2] {
    let rows = predictions.rows.count;
    [rows, predictions.values.len() / rows.max(1)]
}

/// That a request wants nothing but the output that there is.
pub(super) fn check_outputs<'a>(served: &Served, mut wanted: impl Iterator<Item = &'a str>) -> Result<(), Refusal> {
    let known = served.output().name.as_str();
    match wanted.find(|name| *name != known) {
        None => Ok(()),
        Some(name) => Err(Refusal::BadRequest(format!("the model has no output `{name}`; it has `{known}`"))),
    }
}

/// The rows that tensors hold beside each other.
///
/// # Errors
/// When the tensors do not fit each other or the schema; then all values that are wrong are named.
pub(super) fn rows(served: &Served, tensors: &[Tensor<'_>], most_rows: usize) -> Result<Rows, Refusal> {
    let schema = served.schema();
    let placed = place(schema, tensors)?;
    let count = row_count(&placed)?;
    if count > most_rows {
        return Err(Refusal::BatchTooLarge(most_rows));
    }
    let mut reader = RowReader::new(schema);
    for row in 0..count {
        reader.begin();
        for (position, (feature, tensor)) in placed.iter().enumerate() {
            if let Some(value) = tensor.elements.value(row, feature) {
                reader.set(Place::TensorRow(row), position, value);
            }
        }
    }
    reader.finish().map_err(|findings| Refusal::from(PredictError::Invalid(findings)))
}

type Placed<'a, 't> = Vec<(&'a Feature, &'a Tensor<'t>)>;

/// Each feature with its tensor, in the order of the schema.
fn place<'a, 't>(schema: &'a Schema, tensors: &'a [Tensor<'t>]) -> Result<Placed<'a, 't>, Refusal> {
    let known = schema.features().count();
    let mut problems = Vec::new();
    let mut placed: Vec<Option<&Tensor<'t>>> = vec![None; known];
    // Of more inputs than there are features one of the first is unknown or stands twice, and no others are looked at.
    for tensor in tensors.iter().take(known + 1) {
        let name = shown(&tensor.name);
        match schema.position_of(&tensor.name).and_then(|position| placed.get_mut(position)) {
            None => problems.push(format!("there is no input `{name}`")),
            Some(Some(_)) => problems.push(format!("the input `{name}` stands twice")),
            Some(place) => *place = Some(tensor),
        }
    }
    if tensors.len() > known {
        problems.push(format!("there are {} inputs, but the model takes {known}", tensors.len()));
        return Err(refused(&problems));
    }
    let mut each = Vec::with_capacity(known);
    for (feature, tensor) in schema.features().zip(placed) {
        match tensor {
            Some(tensor) => each.push((feature, tensor)),
            None => problems.push(format!("the input `{}` is missing", feature.name())),
        }
    }
    if problems.is_empty() { Ok(each) } else { Err(refused(&problems)) }
}

/// Problems in one sentence, the first of them.
fn refused(problems: &[String]) -> Refusal {
    let listed = problems.get(..LISTED).unwrap_or(problems).join("; ");
    Refusal::BadRequest(match problems.len().saturating_sub(LISTED) {
        0 => listed,
        more => format!("{listed}; and {more} more"),
    })
}

/// The beginning of a name that a client made up.
fn shown(name: &str) -> Cow<'_, str> {
    match name.char_indices().nth(LONGEST_NAME) {
        None => Cow::Borrowed(name),
        Some((end, _)) => Cow::Owned(format!("{}…", name.get(..end).unwrap_or_default())),
    }
}

/// How many rows all tensors have.
fn row_count(placed: &[(&Feature, &Tensor<'_>)]) -> Result<usize, Refusal> {
    let mut problems = Vec::new();
    let mut count = None;
    for (_, tensor) in placed {
        let name = &tensor.name;
        match tensor.rows() {
            None => problems
                .push(format!("the input `{name}` has the shape {:?}; send [n] or [n, 1], n at least 1", tensor.shape)),
            Some(rows) if rows != tensor.elements.len() => {
                problems.push(format!(
                    "the input `{name}` holds {} elements, but its shape says {rows}",
                    tensor.elements.len()
                ));
            }
            Some(rows) if *count.get_or_insert(rows) != rows => {
                problems.push(format!("the input `{name}` has {rows} rows, others have another number"));
            }
            Some(_) => {}
        }
    }
    match count {
        Some(count) if problems.is_empty() => Ok(count),
        _ => Err(refused(&problems)),
    }
}

impl Tensor<'_> {
    fn rows(&self) -> Option<usize> {
        match self.shape.as_slice() {
            [rows] | [rows, 1] if *rows > 0 => usize::try_from(*rows).ok(),
            _ => None,
        }
    }
}

/// The elements of a tensor in the protocol's binary form: little-endian, and each text behind its length in four bytes.
///
/// # Errors
/// When the bytes are no whole elements.
pub(super) fn elements_of_bytes(datatype: Datatype, bytes: &[u8]) -> Result<Elements<'_>, &'static str> {
    Ok(match datatype {
        Datatype::Bool => Elements::Flags(bytes.iter().map(|byte| *byte != 0).collect()),
        Datatype::Uint8 => Elements::Numbers(bytes.iter().map(|byte| f64::from(*byte)).collect()),
        Datatype::Uint16 => Elements::Numbers(wide(bytes, |b| f64::from(u16::from_le_bytes(b)))?),
        Datatype::Uint32 => Elements::Numbers(wide(bytes, |b| f64::from(u32::from_le_bytes(b)))?),
        Datatype::Uint64 => Elements::Numbers(wide(bytes, |b| rounded(u64::from_le_bytes(b).into()))?),
        Datatype::Int8 => Elements::Numbers(wide(bytes, |b| f64::from(i8::from_le_bytes(b)))?),
        Datatype::Int16 => Elements::Numbers(wide(bytes, |b| f64::from(i16::from_le_bytes(b)))?),
        Datatype::Int32 => Elements::Numbers(wide(bytes, |b| f64::from(i32::from_le_bytes(b)))?),
        Datatype::Int64 => Elements::Numbers(wide(bytes, |b| rounded(i64::from_le_bytes(b).into()))?),
        Datatype::Fp32 => Elements::Singles(wide(bytes, f32::from_le_bytes)?),
        Datatype::Fp64 => Elements::Numbers(wide(bytes, f64::from_le_bytes)?),
        Datatype::Bytes => Elements::Texts(texts(bytes)?),
    })
}

/// The nearest number, of all 64-bit integers: the model calculates with far fewer digits.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "rounding to the nearest is what is wanted")]
pub(super) fn rounded(integer: i128) -> f64 {
    integer as f64
}

fn wide<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Result<Vec<T>, &'static str> {
    let (elements, rest) = bytes.as_chunks::<N>();
    if rest.is_empty() { Ok(elements.iter().copied().map(read).collect()) } else { Err("are no whole elements") }
}

fn texts(mut bytes: &[u8]) -> Result<Vec<Cow<'_, str>>, &'static str> {
    let mut texts = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk().ok_or("end in the middle of a text's length")?;
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (text, rest) = rest.split_at_checked(length).ok_or("end in the middle of a text")?;
        texts.push(Cow::Borrowed(std::str::from_utf8(text).or(Err("hold a text that is not UTF-8"))?));
        bytes = rest;
    }
    Ok(texts)
}

/// Numbers in the protocol's binary form.
pub(super) fn bytes_of_numbers(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datatypes_read_back_and_others_are_refused_by_name() {
        for datatype in Datatype::ALL {
            assert_eq!(Datatype::named(datatype.name()).ok(), Some(datatype));
        }
        for half in ["FP16", "BF16"] {
            let refused = Datatype::named(half).unwrap_err().detail();
            assert!(refused.contains(&format!("`{half}`")) && refused.contains("FP32"), "{refused}");
        }
    }

    fn schema(names: &[&str]) -> Schema {
        let feature = |name: &&str| serde_json::json!({"name": name, "type": "boolean"});
        Schema::new(names.iter().map(|name| serde_json::from_value(feature(name)).unwrap()).collect()).unwrap()
    }

    fn tensors(names: impl IntoIterator<Item = String>) -> Vec<Tensor<'static>> {
        let tensor = |name| Tensor { name: Cow::Owned(name), shape: vec![1], elements: Elements::Flags(vec![true]) };
        names.into_iter().map(tensor).collect()
    }

    #[track_caller]
    fn check_place(names: &[&str], wanted: Result<&[&str], &str>) {
        let schema = schema(&["a", "b"]);
        let tensors = tensors(names.iter().copied().map(str::to_owned));
        let placed = place(&schema, &tensors).map_err(|refusal| refusal.detail());
        let placed = placed.map(|placed| placed.iter().map(|(feature, _)| feature.name()).collect::<Vec<_>>());
        assert_eq!(placed.as_deref().map_err(String::as_str), wanted);
    }

    #[test]
    fn every_feature_has_one_tensor_in_any_order() {
        check_place(&["b", "a"], Ok(&["a", "b"]));
        check_place(&["b"], Err("the input `a` is missing"));
        check_place(&["b", "b"], Err("the input `b` stands twice; the input `a` is missing"));
        check_place(&["c", "a"], Err("there is no input `c`; the input `b` is missing"));
        check_place(&["a", "b", "c"], Err("there is no input `c`; there are 3 inputs, but the model takes 2"));
        check_place(
            &["a", "b", "a", "c"],
            Err("the input `a` stands twice; there are 4 inputs, but the model takes 2"),
        );
    }

    /// As many as a body has room for; comparing each with each would take minutes.
    #[test]
    fn many_inputs_are_refused_in_few_words() {
        let schema = schema(&["a", "b"]);
        let problem = place(&schema, &tensors((0..1_000_000).map(|number| number.to_string()))).unwrap_err().detail();
        assert!(problem.ends_with("there are 1000000 inputs, but the model takes 2"), "{problem}");
        let names: Vec<String> = (0..12).map(|number| format!("f{number}")).collect();
        let schema = self::schema(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let problem = place(&schema, &[]).unwrap_err().detail();
        assert!(problem.contains("`f9` is missing; and 2 more") && !problem.contains("`f10`"), "{problem}");
        let long = place(&schema, &tensors(["x".repeat(2_000_000)])).unwrap_err().detail();
        assert!(long.len() < 1000, "{} bytes", long.len());
    }

    #[test]
    fn binary_elements_are_little_endian() {
        let read = |datatype, bytes: &[u8]| elements_of_bytes(datatype, bytes).map(|elements| format!("{elements:?}"));
        assert_eq!(read(Datatype::Int16, &[0xff, 0xff, 2, 1]), Ok("Numbers([-1.0, 258.0])".to_owned()));
        assert_eq!(read(Datatype::Uint64, &[1, 0, 0, 0, 0, 0, 0, 0]), Ok("Numbers([1.0])".to_owned()));
        assert_eq!(read(Datatype::Fp32, &1.5_f32.to_le_bytes()), Ok("Singles([1.5])".to_owned()));
        assert_eq!(read(Datatype::Bool, &[0, 1]), Ok("Flags([false, true])".to_owned()));
        assert_eq!(read(Datatype::Bytes, b"\x02\0\0\0ab\0\0\0\0"), Ok(r#"Texts(["ab", ""])"#.to_owned()));
    }

    #[test]
    fn broken_binary_is_refused() {
        for (datatype, bytes) in [
            (Datatype::Fp64, &b"1234567"[..]),
            (Datatype::Bytes, b"\x02\0\0"),
            (Datatype::Bytes, b"\x03\0\0\0ab"),
            (Datatype::Bytes, b"\xff\xff\xff\xffab"),
            (Datatype::Bytes, b"\x01\0\0\0\xff"),
        ] {
            assert!(elements_of_bytes(datatype, bytes).is_err(), "{datatype:?} {bytes:?}");
        }
    }

    #[test]
    fn an_end_of_a_range_in_32_bits_is_that_end() {
        let feature: Feature =
            serde_json::from_str(r#"{"name":"a","type":"numeric","unit":"1","range":[0.1,0.7]}"#).unwrap();
        for end in [0.1, 0.7] {
            assert_eq!(widened(narrow(end), &feature).to_bits(), end.to_bits());
        }
        assert!(widened(0.099_999, &feature) < 0.1);
    }
}
