//! How much a request over gRPC may hold, seen before it is built: two bytes on the wire can be an input of hundreds in
//! memory, and a message within `MAX_BODY_BYTES` a million of them. Nothing is allocated here, and whatever cannot be
//! understood is refused. `grpc` asks as messages come.

use crate::answer::Refusal;

/// How many parameters a request, an input or an output may have; no client sends more than a few.
const MOST_PARAMETERS: usize = 64;

/// How many bytes a shape may have: it has two numbers at most, as the schema has it, and some room to be refused by name.
const LONGEST_SHAPE_BYTES: usize = 160;

/// How many bytes a number takes at most (Protocol Buffers, base 128 varints).
const LONGEST_NUMBER_BYTES: usize = 10;

/// What a message is held to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Inputs that the model has.
    pub(super) inputs: usize,
    /// Rows that a batch may hold.
    pub(super) rows: usize,
}

/// That a message of `ModelInfer` holds no more than the model takes. One input and one row more are let through, to be
/// refused by their names.
///
/// # Errors
/// When it holds more, or cannot be understood.
pub(super) fn check(message: &[u8], bounds: Bounds) -> Result<(), Refusal> {
    let most = bounds.inputs + 1;
    let mut inputs = Room::of("inputs than the model has", most);
    let mut outputs = Room::of("outputs than the model has", most);
    let mut raw = Room::of("raw contents than the model has inputs", most);
    let mut parameters = Room::of("parameters than make sense", MOST_PARAMETERS);
    for field in Fields(message) {
        let field = field?;
        match field.number {
            4 => parameters.take(1)?,
            5 => {
                inputs.take(1)?;
                check_tensor(field.message()?, bounds.rows)?;
            }
            6 => {
                outputs.take(1)?;
                check_parameters(field.message()?)?;
            }
            7 => raw.take(1)?,
            _ => {}
        }
    }
    Ok(())
}

fn check_tensor(message: &[u8], rows: usize) -> Result<(), Refusal> {
    let mut shape = Room::of("dimensions than a tensor here can have", LONGEST_SHAPE_BYTES);
    let mut parameters = Room::of("parameters than make sense", MOST_PARAMETERS);
    let mut elements = Elements::of(rows);
    for field in Fields(message) {
        let field = field?;
        match field.number {
            3 => shape.take(field.value.len())?,
            4 => parameters.take(1)?,
            // Contents that come in several pieces are put together.
            5 => elements.take(field.message()?)?,
            _ => {}
        }
    }
    Ok(())
}

/// Of a requested output.
fn check_parameters(message: &[u8]) -> Result<(), Refusal> {
    let mut parameters = Room::of("parameters than make sense", MOST_PARAMETERS);
    for field in Fields(message) {
        if field?.number == 2 {
            parameters.take(1)?;
        }
    }
    Ok(())
}

/// What the elements of one tensor may take.
struct Elements {
    rows: usize,
    number_bytes: usize,
    texts: usize,
}

impl Elements {
    fn of(rows: usize) -> Self {
        let most = rows.saturating_add(1);
        Self { rows, number_bytes: most.saturating_mul(LONGEST_NUMBER_BYTES), texts: most }
    }

    fn take(&mut self, contents: &[u8]) -> Result<(), Refusal> {
        for field in Fields(contents) {
            let field = field?;
            let (left, taken) = match field.number {
                1..=7 => (&mut self.number_bytes, field.value.len()),
                8 => (&mut self.texts, 1),
                _ => continue,
            };
            *left = left.checked_sub(taken).ok_or(Refusal::BatchTooLarge(self.rows))?;
        }
        Ok(())
    }
}

/// What is left of what a message may hold.
struct Room {
    what: &'static str,
    left: usize,
}

impl Room {
    fn of(what: &'static str, left: usize) -> Self {
        Self { what, left }
    }

    fn take(&mut self, taken: usize) -> Result<(), Refusal> {
        let left = self.left.checked_sub(taken);
        self.left = left.ok_or_else(|| Refusal::BadRequest(format!("the request has more {}", self.what)))?;
        Ok(())
    }
}

fn broken() -> Refusal {
    Refusal::BadRequest("the request is no message of ModelInfer".to_owned())
}

/// A field as it stands on the wire (Protocol Buffers, encoding).
struct Field<'m> {
    number: u64,
    is_message: bool,
    value: &'m [u8],
}

impl<'m> Field<'m> {
    fn message(&self) -> Result<&'m [u8], Refusal> {
        self.is_message.then_some(self.value).ok_or_else(broken)
    }
}

/// The fields of a message, in their order; nothing comes after what is broken. Groups, which no client sends, are broken
/// too.
struct Fields<'m>(&'m [u8]);

impl<'m> Iterator for Fields<'m> {
    type Item = Result<Field<'m>, Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field().ok_or_else(broken);
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'m> Fields<'m> {
    fn field(&mut self) -> Option<Field<'m>> {
        let (key, _) = self.varint()?;
        let (is_message, value) = match key & 7 {
            0 => (false, self.varint()?.1),
            1 => (false, self.bytes(8)?),
            2 => {
                let (length, _) = self.varint()?;
                (true, self.bytes(usize::try_from(length).ok()?)?)
            }
            5 => (false, self.bytes(4)?),
            _ => return None,
        };
        Some(Field { number: key >> 3, is_message, value })
    }

    /// A number, and the bytes that it takes.
    fn varint(&mut self) -> Option<(u64, &'m [u8])> {
        let end = self.0.iter().take(LONGEST_NUMBER_BYTES).position(|byte| *byte < 0x80)?;
        let bytes = self.bytes(end + 1)?;
        let number = bytes
            .iter()
            .rev()
            .try_fold(0_u64, |number, byte| number.checked_mul(0x80)?.checked_add(u64::from(byte & 0x7f)));
        Some((number?, bytes))
    }

    fn bytes(&mut self, count: usize) -> Option<&'m [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::{Choice, Contents, InferRequest, Parameter, RequestedOutput, Tensor};
    use super::*;
    use proptest::prelude::*;
    use prost::Message as _;

    const BOUNDS: Bounds = Bounds { inputs: 3, rows: 4 };

    #[track_caller]
    fn refused(request: &InferRequest, words: &str) {
        let refusal = check(&request.encode_to_vec(), BOUNDS).unwrap_err().detail();
        assert!(refusal.contains(words), "`{words}` not in `{refusal}`");
    }

    fn parameters(count: i64) -> std::collections::HashMap<String, Parameter> {
        (0..count).map(|number| (number.to_string(), Parameter { choice: Some(Choice::Integer(number)) })).collect()
    }

    fn tensor() -> Tensor {
        let contents = Contents {
            int64: vec![-1; 4],
            uint64: vec![u64::MAX; 1],
            texts: vec![bytes::Bytes::from_static(b"rain"); 4],
            ..Contents::default()
        };
        Tensor {
            name: "weather".to_owned(),
            datatype: "BYTES".to_owned(),
            shape: vec![4, 1],
            parameters: parameters(2),
            contents: Some(contents),
        }
    }

    fn request(inputs: usize) -> InferRequest {
        InferRequest {
            model_name: "delivery-time".to_owned(),
            parameters: parameters(3),
            inputs: vec![tensor(); inputs],
            outputs: vec![RequestedOutput { name: "minutes".to_owned(), parameters: parameters(1) }],
            raw_input_contents: vec![bytes::Bytes::from_static(&[7; 1000]); inputs],
            ..InferRequest::default()
        }
    }

    #[test]
    fn what_a_model_takes_is_let_through_and_one_more_to_be_refused_by_name() {
        assert!(check(&request(3).encode_to_vec(), BOUNDS).is_ok());
        assert!(check(&request(4).encode_to_vec(), BOUNDS).is_ok());
        assert!(check(&[], BOUNDS).is_ok());
    }

    #[test]
    fn more_than_a_model_takes_is_refused() {
        refused(&InferRequest { inputs: vec![Tensor::default(); 5], ..InferRequest::default() }, "more inputs");
        refused(
            &InferRequest { outputs: vec![RequestedOutput::default(); 5], ..InferRequest::default() },
            "more outputs",
        );
        let raw_input_contents = vec![bytes::Bytes::new(); 5];
        refused(&InferRequest { raw_input_contents, ..InferRequest::default() }, "more raw contents");
        refused(&InferRequest { parameters: parameters(65), ..InferRequest::default() }, "more parameters");
        let of = |tensor: Tensor| InferRequest { inputs: vec![tensor], ..InferRequest::default() };
        refused(&of(Tensor { parameters: parameters(65), ..tensor() }), "more parameters");
        refused(&of(Tensor { shape: vec![1; 161], ..tensor() }), "more dimensions");
        let holding = |contents: Contents| of(Tensor { contents: Some(contents), ..tensor() });
        refused(&holding(Contents { texts: vec![bytes::Bytes::new(); 6], ..Contents::default() }), "4");
        refused(&holding(Contents { fp64: vec![0.5; 7], ..Contents::default() }), "4");
        let output = RequestedOutput { parameters: parameters(65), ..RequestedOutput::default() };
        refused(&InferRequest { outputs: vec![output], ..InferRequest::default() }, "more parameters");
    }

    #[test]
    fn contents_in_pieces_count_together() {
        let piece = Tensor {
            contents: Some(Contents { texts: vec![bytes::Bytes::new(); 3], ..Contents::default() }),
            ..Tensor::default()
        };
        let once = piece.encode_to_vec();
        let twice = [once.as_slice(), &once].concat();
        let message = |tensor: &[u8]| [&[0x2a, u8::try_from(tensor.len()).unwrap()], tensor].concat();
        assert!(check(&message(&once), BOUNDS).is_ok());
        assert!(matches!(check(&message(&twice), BOUNDS), Err(Refusal::BatchTooLarge(4))));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for message in [&[0x2a][..], &[0x2a, 5, 1], &[0x2b, 0x2c], &[0x28, 1], &[0xff; 12], &[0x2a, 2, 0x1a, 9]] {
            assert!(matches!(check(message, BOUNDS), Err(Refusal::BadRequest(_))), "{message:?}");
        }
    }

    proptest! {
        /// Whatever is let through is built of few pieces; and what is built of few is let through.
        #[test]
        fn what_is_let_through_is_as_small_as_it_may_be(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    &[0x2a, 0][..], &[0x32, 0], &[0x3a, 0], &[0x3a, 1, 9], &[0x12, 1, b'x'], &[0x2a, 4, 0x2a, 2, 0x42, 0],
                    &[0x2a, 4, 0x1a, 2, 1, 1], &[0x22, 0], &[0x98, 0x06, 5], &[0x2a, 2, 0x22, 0],
                ]),
                0..12,
            ),
        ) {
            let message = pieces.concat();
            let built = InferRequest::decode(message.as_slice()).unwrap();
            let longest = built.inputs.len().max(built.outputs.len()).max(built.raw_input_contents.len());
            prop_assert_eq!(check(&message, BOUNDS).is_ok(), longest <= BOUNDS.inputs + 1);
        }

        #[test]
        fn any_bytes_are_looked_through(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if check(&bytes, BOUNDS).is_ok() && let Ok(built) = InferRequest::decode(bytes.as_slice()) {
                prop_assert!(built.inputs.len() <= BOUNDS.inputs + 1);
            }
        }
    }
}
