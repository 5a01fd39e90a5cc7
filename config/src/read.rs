//! Tree to the structs of `file`, by serde. A bad value is reported where it stands and reading goes on, which plain
//! serde cannot do: a field is [`Written`], and that is where an error stops.

use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};

use crate::error::{Findings, Spot, Words, listed, nearest, quoted};
use crate::tree::{Key, Node, Value, below};

/// Tells our deserializer from any other that the place is wanted as well.
const WRITTEN: &str = "$pointsman::written";
/// Tells our deserializer that a single value will do as well as a mapping.
const EITHER: &str = "$pointsman::either";
/// Longer values are a slip: a block scalar, or a whole file in one quote.
const MOST_BYTES: usize = 1024;

/// What stands in the file for one key or item.
#[derive(Debug, Default)]
pub(crate) enum Written<T> {
    /// Nothing.
    #[default]
    Absent,
    /// Something that is no `T`; it is reported already.
    Bad(Spot),
    /// A `T`.
    Good(Spot, T),
}

impl<T> Written<T> {
    pub(crate) fn good(&self) -> Option<(&Spot, &T)> {
        match self {
            Self::Good(spot, value) => Some((spot, value)),
            Self::Absent | Self::Bad(_) => None,
        }
    }

    pub(crate) fn value(&self) -> Option<&T> {
        self.good().map(|(_, value)| value)
    }

    /// Where it stands, good or bad.
    pub(crate) fn spot(&self) -> Option<&Spot> {
        match self {
            Self::Bad(spot) | Self::Good(spot, _) => Some(spot),
            Self::Absent => None,
        }
    }
}

/// A mapping whose keys are names that the operator chose.
#[derive(Debug)]
pub(crate) struct Entries<K, V>(pub(crate) Vec<(Written<K>, Written<V>)>);

/// What takes a single value or a mapping.
#[derive(Debug)]
pub(crate) enum Either<W, M> {
    /// A single value.
    Word(W),
    /// A mapping.
    Mapping(M),
}

impl<'de, W: Deserialize<'de>, M: Deserialize<'de>> Deserialize<'de> for Either<W, M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(EITHER, EitherVisitor(PhantomData))
    }
}

struct EitherVisitor<W, M>(PhantomData<(W, M)>);

impl<'de, W: Deserialize<'de>, M: Deserialize<'de>> Visitor<'de> for EitherVisitor<W, M> {
    type Value = Either<W, M>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a single value or a mapping")
    }

    fn visit_some<D: Deserializer<'de>>(self, word: D) -> Result<Self::Value, D::Error> {
        W::deserialize(word).map(Either::Word)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, mapping: D) -> Result<Self::Value, D::Error> {
        M::deserialize(mapping).map(Either::Mapping)
    }
}

/// Reads the whole tree as a `T`.
pub(crate) fn read<T: DeserializeOwned>(root: &Rc<Node>, findings: &Findings) -> Written<T> {
    let reader = Reader { node: root, path: String::new(), findings };
    // `Written` takes every refusal of a value on itself; a refusal here would be one of the wrapper's own.
    Written::deserialize(reader).unwrap_or_else(|refusal| {
        findings.refuse(&Spot::start(), refusal.0);
        Written::Absent
    })
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Written<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(WRITTEN, WrittenVisitor(PhantomData))
    }
}

struct WrittenVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for WrittenVisitor<T> {
    type Value = Written<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value with its place")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
        let (Some(line), Some(column), Some(path)) =
            (parts.next_element()?, parts.next_element()?, parts.next_element::<String>()?)
        else {
            return Err(de::Error::custom("a value came without its place"));
        };
        let spot = Spot { line, column, path: Arc::from(path) };
        Ok(match parts.next_element()? {
            Some(value) => Written::Good(spot, value),
            None => Written::Bad(spot),
        })
    }
}

impl<'de, K: Deserialize<'de>, V: Deserialize<'de>> Deserialize<'de> for Entries<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}

struct EntriesVisitor<K, V>(PhantomData<(K, V)>);

impl<'de, K: Deserialize<'de>, V: Deserialize<'de>> Visitor<'de> for EntriesVisitor<K, V> {
    type Value = Entries<K, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}

/// Why a value is refused; the place is known where it is caught.
#[derive(Debug)]
pub(crate) struct Refusal(Words);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Refusal {}

impl de::Error for Refusal {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(Words::from_sentence(&message.to_string()))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let known = listed(expected.iter().copied());
        let way_out = match nearest(variant, expected.iter().copied()) {
            Some(near) => format!("did you mean `{near}`? It takes {known}"),
            None => format!("it takes {known}"),
        };
        Self(Words::new(format!("{} is not known here", quoted(variant)), way_out))
    }
}

/// One node on its way into a struct.
#[derive(Clone)]
struct Reader<'a> {
    node: &'a Rc<Node>,
    path: String,
    findings: &'a Findings,
}

impl Reader<'_> {
    fn spot(&self) -> Spot {
        Spot { line: self.node.line, column: self.node.column, path: Arc::from(self.path.as_str()) }
    }

    /// The words for a node of another kind than the one wanted.
    fn expected(&self, wanted: &str, way_out: &str) -> Refusal {
        let key = self.spot().key();
        let found = match &self.node.value {
            Value::Nothing => {
                return Refusal(Words::new(format!("{key} has no value"), format!("{way_out}, or remove the key")));
            }
            Value::Scalar(text) => quoted(text),
            Value::List(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
        };
        Refusal(Words::new(format!("{key} takes {wanted}, and {found} stands here"), way_out))
    }

    fn text(&self) -> Result<&str, Refusal> {
        match &self.node.value {
            Value::Scalar(text) if text.len() > MOST_BYTES => Err(Refusal(Words::new(
                format!("{} has {} bytes, and a value has at most {MOST_BYTES}", quoted(text), text.len()),
                "shorten it",
            ))),
            Value::Scalar(text) => Ok(text),
            Value::Nothing | Value::List(_) | Value::Mapping(_) => {
                Err(self.expected("a single value", "write one value after the colon"))
            }
        }
    }

    /// The entries of a mapping; nothing counts as an empty one, so that a key may have all its children commented out.
    fn entries(&self) -> Result<&[(Key, Rc<Node>)], Refusal> {
        match &self.node.value {
            Value::Mapping(entries) => Ok(entries),
            Value::Nothing => Ok(&[]),
            Value::Scalar(_) | Value::List(_) => Err(self.expected("a mapping", "write `key: value` lines below it")),
        }
    }

    fn report_unknown(&self, key: &Key, owner: &str, known: &'static [&'static str]) {
        let path = below(&self.path, &key.text);
        let spot = Spot { line: key.line, column: key.column, path: Arc::from(path) };
        let name = quoted(&key.text);
        let all = listed(known.iter().copied());
        let way_out = match nearest(&key.text, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`? Known here: {all}"),
            None => format!("remove it, or use one of {all}"),
        };
        self.findings.error(&spot, format!("{name} is no key of {owner}"), way_out);
    }
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        match (name, &self.node.value) {
            (WRITTEN, _) => visitor.visit_seq(WithPlace { reader: self, part: 0 }),
            (EITHER, Value::Nothing | Value::Scalar(_) | Value::List(_)) => visitor.visit_some(self),
            (EITHER, Value::Mapping(_)) | (_, _) => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.node.value {
            Value::List(items) => {
                visitor.visit_seq(Items { nodes: items, index: 0, path: &self.path, findings: self.findings })
            }
            Value::Nothing | Value::Scalar(_) | Value::Mapping(_) => {
                Err(self.expected("a list", "write `[one, two]`, or one `- item` per line"))
            }
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        let entries = self.entries()?.iter().collect();
        visitor.visit_map(Fields { entries, next: 0, path: &self.path, findings: self.findings })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let (known, unknown): (Vec<_>, Vec<_>) =
            self.entries()?.iter().partition(|(key, _)| fields.contains(&key.text.as_str()));
        for (key, _) in unknown {
            self.report_unknown(key, name, fields);
        }
        visitor.visit_map(Fields { entries: known, next: 0, path: &self.path, findings: self.findings })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let word: StrDeserializer<'_, Refusal> = self.text()?.into_deserializer();
        visitor.visit_enum(word)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        tuple tuple_struct identifier ignored_any
    }
}

/// The four parts of a [`Written`]: line, column, path, and the value unless it is refused.
struct WithPlace<'a> {
    reader: Reader<'a>,
    part: usize,
}

impl<'de> SeqAccess<'de> for WithPlace<'_> {
    type Error = Refusal;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refusal> {
        self.part += 1;
        let reader = &self.reader;
        match self.part {
            1 => seed.deserialize(reader.node.line.into_deserializer()).map(Some),
            2 => seed.deserialize(reader.node.column.into_deserializer()).map(Some),
            3 => seed.deserialize(reader.path.as_str().into_deserializer()).map(Some),
            4 => Ok(seed
                .deserialize(reader.clone())
                .map_err(|Refusal(words)| reader.findings.refuse(&reader.spot(), words))
                .ok()),
            _ => Ok(None),
        }
    }
}

struct Items<'a> {
    nodes: &'a [Rc<Node>],
    index: usize,
    path: &'a str,
    findings: &'a Findings,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Refusal;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refusal> {
        let Some(node) = self.nodes.get(self.index) else { return Ok(None) };
        let path = format!("{}[{}]", self.path, self.index);
        self.index += 1;
        seed.deserialize(Reader { node, path, findings: self.findings }).map(Some)
    }
}

struct Fields<'a> {
    entries: Vec<&'a (Key, Rc<Node>)>,
    /// The entry after the one whose key was given out last.
    next: usize,
    path: &'a str,
    findings: &'a Findings,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Refusal;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refusal> {
        let Some((key, _)) = self.entries.get(self.next) else { return Ok(None) };
        self.next += 1;
        let node = Rc::new(key.as_node());
        seed.deserialize(Reader { node: &node, path: below(self.path, &key.text), findings: self.findings }).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Refusal> {
        let Some((key, node)) = self.entries.get(self.next.saturating_sub(1)) else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(Reader { node, path: below(self.path, &key.text), findings: self.findings })
    }
}
