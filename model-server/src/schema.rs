//! The features of a model: what a row must hold, and how it becomes the columns that the model sees. Stands
//! between the bytes of a request (`json`) and the model; nothing reaches the model that does not fit.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::findings::{Findings, Place, Problem};
use crate::json::{Fault, Kind, Quoted, Scanner, Value};

/// A feature as `model.json` describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Feature {
    /// A number within a range, both ends included. One column.
    Numeric {
        /// The key in a request.
        name: String,
        /// What one of it is, e.g. `km`.
        unit: String,
        /// Lowest and highest value that is let in.
        range: [f64; 2],
        /// What becomes of a number outside of the range.
        #[serde(default, skip_serializing_if = "OutOfRange::is_refused")]
        out_of_range: OutOfRange,
    },
    /// `true` or `false`. One column, 1 or 0.
    Boolean {
        /// The key in a request.
        name: String,
    },
    /// One of some texts. A column for each, 1 for the one that was named and 0 for the others.
    Categorical {
        /// The key in a request.
        name: String,
        /// The texts, in the order of their columns.
        categories: Vec<String>,
    },
    /// Any text. No column: the model reads the text itself.
    Text {
        /// The key in a request.
        name: String,
        /// Fewest and most characters that it may have, both let in.
        length: [usize; 2],
    },
}

/// What becomes of a finite number outside of its range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutOfRange {
    /// The request is refused.
    #[default]
    Refuse,
    /// The nearest end of the range is taken in its place, and the answer says so.
    Clamp,
}

impl OutOfRange {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
    fn is_refused(&self) -> bool {
        *self == Self::Refuse
    }
}

impl Feature {
    /// The key in a request.
    pub fn name(&self) -> &str {
        match self {
            Self::Numeric { name, .. }
            | Self::Boolean { name }
            | Self::Categorical { name, .. }
            | Self::Text { name, .. } => name,
        }
    }

    /// How many columns of the model's input it takes.
    pub fn columns(&self) -> usize {
        match self {
            Self::Numeric { .. } | Self::Boolean { .. } => 1,
            Self::Categorical { categories, .. } => categories.len(),
            Self::Text { .. } => 0,
        }
    }

    /// How many texts of the model's input it takes.
    pub fn texts(&self) -> usize {
        match self {
            Self::Numeric { .. } | Self::Boolean { .. } | Self::Categorical { .. } => 0,
            Self::Text { .. } => 1,
        }
    }

    /// The column that a value sets, and to what, when the value fits as it is; nearly every one does.
    fn column(&self, value: &Value<'_>) -> Option<(usize, f32)> {
        match (self, value) {
            (Self::Numeric { range: [low, high], .. }, Value::Number(number)) => {
                (low <= number && number <= high).then(|| (0, narrow(*number)))
            }
            (Self::Boolean { .. }, Value::Boolean(flag)) => Some((0, f32::from(u8::from(*flag)))),
            (Self::Categorical { categories, .. }, Value::Text(text)) => {
                categories.iter().position(|category| category == text).map(|column| (column, 1.0))
            }
            _ => None,
        }
    }

    /// What a value becomes that [sets no column](Self::column) as it is, and what the client should know about it
    /// although it was let in.
    fn encode(&self, value: Value<'_>) -> Result<(Cell, Option<Problem>), Problem> {
        match self {
            Self::Numeric { range, out_of_range, .. } => {
                let (number, clamped) = clamped(*range, *out_of_range, &value)?;
                Ok((Cell::Column(0, number), Some(clamped)))
            }
            Self::Boolean { .. } => Err(Problem::NotBoolean),
            Self::Categorical { categories, .. } => Err(match value {
                Value::Text(_) => Problem::Category(categories.clone()),
                Value::Number(_) | Value::Boolean(_) | Value::Null | Value::List | Value::Object => Problem::NotText,
            }),
            Self::Text { length, .. } => text_within(*length, value).map(|text| (Cell::Text(text), None)),
        }
    }

    /// The feature in the form that the signature is made of.
    fn canonical(&self) -> Self {
        let mut canonical = self.clone();
        if let Self::Categorical { categories, .. } = &mut canonical {
            categories.sort_unstable();
        }
        canonical
    }

    fn check(&self) -> Result<(), SchemaError> {
        let name = || self.name().to_owned();
        match self {
            Self::Numeric { range: [low, high], .. } if !(low.is_finite() && high.is_finite() && low < high) => {
                Err(SchemaError::Range { name: name() })
            }
            Self::Categorical { categories, .. } if !all_differ(categories) => {
                Err(SchemaError::Categories { name: name() })
            }
            Self::Text { length: [shortest, longest], .. } if shortest > longest || *longest == 0 => {
                Err(SchemaError::Length { name: name() })
            }
            Self::Numeric { .. } | Self::Boolean { .. } | Self::Categorical { .. } | Self::Text { .. } => Ok(()),
        }
    }
}

/// What a value becomes.
enum Cell {
    /// This one of the feature's columns gets this number; all others are 0.
    Column(usize, f32),
    /// The feature's text.
    Text(String),
}

fn all_differ(names: &[String]) -> bool {
    let distinct: BTreeSet<_> = names.iter().collect();
    !names.is_empty() && distinct.len() == names.len()
}

/// A number beyond its range, brought to the nearest end of it.
fn clamped([low, high]: [f64; 2], out_of_range: OutOfRange, value: &Value<'_>) -> Result<(f32, Problem), Problem> {
    let (end, refused, clamped) = match value {
        Value::Number(number) if !number.is_finite() => return Err(Problem::NotFinite),
        Value::Number(number) if *number < low => (low, Problem::Below(low), Problem::RaisedTo(low)),
        Value::Number(_) => (high, Problem::Above(high), Problem::LoweredTo(high)),
        Value::Boolean(_) | Value::Text(_) | Value::Null | Value::List | Value::Object => {
            return Err(Problem::NotNumber);
        }
    };
    match out_of_range {
        OutOfRange::Refuse => Err(refused),
        OutOfRange::Clamp => Ok((narrow(end), clamped)),
    }
}

fn text_within([shortest, longest]: [usize; 2], value: Value<'_>) -> Result<String, Problem> {
    let Value::Text(text) = value else {
        return Err(Problem::NotText);
    };
    // A text has no more characters than bytes, so most need no counting.
    if text.len() > longest && text.chars().count() > longest {
        return Err(Problem::TooLong(longest));
    }
    if text.chars().take(shortest).count() < shortest {
        return Err(Problem::TooShort(shortest));
    }
    Ok(text.into_owned())
}

/// The nearest `f32`: what models calculate in.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "rounding to the nearest is what is wanted, and std has no other way to say it"
)]
pub fn narrow(number: f64) -> f32 {
    number as f32
}

/// Why features do not make a schema.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SchemaError {
    /// There is none.
    #[error("the model has no features; list them under `features`")]
    NoFeatures,
    /// Two with one name.
    #[error("the feature `{name}` is listed twice; a name stands for one feature")]
    Twice {
        /// The name.
        name: String,
    },
    /// A range that holds nothing or has no end.
    #[error("the range of `{name}` is empty or has no end; write [lowest, highest]")]
    Range {
        /// The feature.
        name: String,
    },
    /// A length that no text has.
    #[error("the length of `{name}` holds no text; write [fewest, most] characters")]
    Length {
        /// The feature.
        name: String,
    },
    /// No category, or one twice.
    #[error("`{name}` needs at least one category, and no category twice")]
    Categories {
        /// The feature.
        name: String,
    },
}

/// All features of a model, each with its place among the columns.
#[derive(Debug, Clone)]
pub struct Schema {
    fields: Vec<Field>,
    by_name: HashMap<String, usize>,
    width: usize,
    texts: usize,
}

#[derive(Debug, Clone)]
struct Field {
    feature: Feature,
    key: Quoted,
    first_column: usize,
    first_text: usize,
}

impl Schema {
    /// Features in the order of their columns.
    ///
    /// # Errors
    /// When there is none, two share a name, or one cannot hold any value.
    pub fn new(features: Vec<Feature>) -> Result<Self, SchemaError> {
        if features.is_empty() {
            return Err(SchemaError::NoFeatures);
        }
        let mut schema = Self {
            fields: Vec::with_capacity(features.len()),
            by_name: HashMap::with_capacity(features.len()),
            width: 0,
            texts: 0,
        };
        for feature in features {
            schema.push(feature)?;
        }
        Ok(schema)
    }

    fn push(&mut self, feature: Feature) -> Result<(), SchemaError> {
        feature.check()?;
        let name = feature.name().to_owned();
        if self.by_name.contains_key(&name) {
            return Err(SchemaError::Twice { name });
        }
        self.by_name.insert(name, self.fields.len());
        let first_column = self.width;
        let first_text = self.texts;
        self.width += feature.columns();
        self.texts += feature.texts();
        self.fields.push(Field { key: Quoted::new(feature.name()), feature, first_column, first_text });
        Ok(())
    }

    /// How many columns a row has.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How many texts a row has.
    pub fn texts(&self) -> usize {
        self.texts
    }

    /// The features, in the order of their columns.
    pub fn features(&self) -> impl Iterator<Item = &Feature> {
        self.fields.iter().map(|field| &field.feature)
    }

    /// SHA-256, as hex, over the features as compact JSON: sorted by name, their categories sorted, since a
    /// client sees no order. Two models with one signature take the same requests.
    pub fn signature(&self) -> String {
        let mut features: Vec<_> = self.features().map(Feature::canonical).collect();
        features.sort_by(|one, other| one.name().cmp(other.name()));
        let canonical = serde_json::json!(features).to_string();
        hex(&Sha256::digest(canonical.as_bytes()))
    }

    /// The position of the feature with a name.
    pub fn position_of(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }
}

/// Lower-case hex digits of some bytes.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(u32::from(digit), 16));
        }
        text
    })
}

/// Reads rows one after the other into the columns that the model sees, and notes all that is wrong.
#[derive(Debug)]
pub struct RowReader<'s> {
    schema: &'s Schema,
    columns: Vec<f32>,
    texts: Vec<String>,
    rows: usize,
    /// For each feature the number of the last row that named it, from 1.
    named_in: Vec<usize>,
    findings: Findings,
    warnings: Findings,
}

/// Rows that fit the schema, one behind the other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// The columns of the first row, then those of the second, and so on.
    pub columns: Vec<f32>,
    /// The texts of the first row, then those of the second, and so on.
    pub texts: Vec<String>,
    /// How many rows there are.
    pub count: usize,
    /// What was changed to make them fit.
    pub warnings: Findings,
}

impl Rows {
    /// How much goes into the model, columns and bytes of text: what a calculation's cost grows with.
    pub fn weight(&self) -> usize {
        self.columns.len() + self.texts.iter().map(String::len).sum::<usize>()
    }

    /// Puts other rows of the same schema behind these.
    pub fn append(&mut self, other: &Self) {
        self.columns.extend_from_slice(&other.columns);
        self.texts.extend_from_slice(&other.texts);
        self.count += other.count;
    }

    /// One row alone, without what was changed; none behind the last.
    pub fn row(&self, number: usize) -> Option<Self> {
        let (width, texts) = (self.columns.len() / self.count.max(1), self.texts.len() / self.count.max(1));
        (number < self.count).then(|| Self {
            columns: self.columns.iter().skip(number * width).take(width).copied().collect(),
            texts: self.texts.iter().skip(number * texts).take(texts).cloned().collect(),
            count: 1,
            warnings: Findings::default(),
        })
    }

    /// Takes the first rows off, so many or all that there are. What was changed is known of the rest alone.
    #[must_use]
    pub fn take_first(&mut self, count: usize) -> Self {
        let count = count.min(self.count);
        let of_each = |values: usize| values / self.count.max(1) * count;
        let (columns, texts) = (of_each(self.columns.len()), of_each(self.texts.len()));
        self.count -= count;
        Self {
            columns: self.columns.drain(..columns).collect(),
            texts: self.texts.drain(..texts).collect(),
            count,
            warnings: Findings::default(),
        }
    }
}

impl<'s> RowReader<'s> {
    /// Nothing read yet.
    pub fn new(schema: &'s Schema) -> Self {
        Self {
            schema,
            columns: Vec::with_capacity(schema.width),
            texts: Vec::new(),
            rows: 0,
            named_in: vec![0; schema.fields.len()],
            findings: Findings::default(),
            warnings: Findings::default(),
        }
    }

    /// How many rows were read, wrong ones included.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Reads one row.
    ///
    /// # Errors
    /// When the text is broken; a row that is merely wrong is noted among the findings.
    pub fn row(&mut self, scanner: &mut Scanner<'_>, place: Place) -> Result<(), Fault> {
        self.begin();
        if scanner.kind() != Kind::Object {
            scanner.value()?;
            self.note(place, None, &Problem::NotObject);
            return Ok(());
        }
        let mut named = 0;
        let mut likely = 0;
        scanner.members(|scanner| {
            // Clients mostly send features in one order, so the one after the last is tried first.
            let schema = self.schema;
            let guessed = schema.fields.get(likely).is_some_and(|field| scanner.take_key(&field.key));
            let position =
                if guessed { Ok(likely) } else { scanner.key().map(|key| schema.position_of(&key).ok_or(key))? };
            let value = scanner.value()?;
            match position {
                Ok(position) => {
                    likely = position + 1;
                    named += usize::from(self.field(place, position, value));
                }
                Err(key) => self.note(place, Some(&key), &Problem::Unknown),
            }
            Ok::<(), Fault>(())
        })?;
        if named < self.schema.fields.len() {
            self.note_missing(place);
        }
        Ok(())
    }

    /// Begins a row whose values are then [set](Self::set) one after the other.
    pub fn begin(&mut self) {
        self.rows += 1;
        self.columns.resize(self.rows * self.schema.width, 0.0);
        self.texts.resize(self.rows * self.schema.texts, String::new());
    }

    /// Sets the value of the feature at a position of the schema, in the row that was begun last.
    pub fn set(&mut self, place: Place, position: usize, value: Value<'_>) {
        self.field(place, position, value);
    }

    /// Notes something about a whole body that the rows do not show.
    pub fn note(&mut self, place: Place, field: Option<&str>, problem: &Problem) {
        self.findings.add(place, field, problem);
    }

    /// The rows, when nothing was wrong.
    ///
    /// # Errors
    /// All that was wrong.
    pub fn finish(self) -> Result<Rows, Findings> {
        if self.findings.is_empty() {
            return Ok(Rows { columns: self.columns, texts: self.texts, count: self.rows, warnings: self.warnings });
        }
        Err(self.findings)
    }

    /// All that was found until the text broke, and where it broke.
    pub fn broken(mut self, fault: Fault, text: &[u8]) -> Findings {
        self.findings.add_fault(fault, text);
        self.findings
    }

    /// Puts one value where it belongs; `false` when the row had the feature before.
    fn field(&mut self, place: Place, position: usize, value: Value<'_>) -> bool {
        let schema = self.schema;
        let Some((field, named_in)) = schema.fields.get(position).zip(self.named_in.get_mut(position)) else {
            return false;
        };
        if *named_in == self.rows {
            self.note(place, Some(field.feature.name()), &Problem::Duplicate);
            return false;
        }
        *named_in = self.rows;
        if let Some((column, number)) = field.feature.column(&value) {
            self.put(field, Cell::Column(column, number));
            return true;
        }
        match field.feature.encode(value) {
            Ok((cell, warning)) => {
                self.put(field, cell);
                if let Some(warning) = warning {
                    self.warnings.add(place, Some(field.feature.name()), &warning);
                }
            }
            Err(problem) => self.note(place, Some(field.feature.name()), &problem),
        }
        true
    }

    /// Puts one cell of the last row where it belongs.
    fn put(&mut self, field: &Field, cell: Cell) {
        let before = self.rows - 1;
        match cell {
            Cell::Column(column, number) => {
                let position = before * self.schema.width + field.first_column + column;
                if let Some(cell) = self.columns.get_mut(position) {
                    *cell = number;
                }
            }
            Cell::Text(text) => {
                if let Some(cell) = self.texts.get_mut(before * self.schema.texts + field.first_text) {
                    *cell = text;
                }
            }
        }
    }

    fn note_missing(&mut self, place: Place) {
        let schema = self.schema;
        for (position, field) in schema.fields.iter().enumerate() {
            if self.named_in.get(position) != Some(&self.rows) {
                self.note(place, Some(field.feature.name()), &Problem::Missing);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(json: &str) -> Vec<Feature> {
        serde_json::from_str(json).unwrap()
    }

    fn small() -> Schema {
        let text = r#"[
            {"name":"km","type":"numeric","unit":"km","range":[0.5,30]},
            {"name":"weather","type":"categorical","categories":["sun","rain"]},
            {"name":"priority","type":"boolean"}]"#;
        Schema::new(features(text)).unwrap()
    }

    fn read(schema: &Schema, body: &str) -> Result<Rows, String> {
        let mut reader = RowReader::new(schema);
        let mut scanner = Scanner::new(body.as_bytes()).unwrap();
        reader.row(&mut scanner, Place::Body).unwrap();
        reader.finish().map_err(|findings| serde_json::to_string(&findings).unwrap())
    }

    #[test]
    fn rows_come_apart_as_they_were_put_together() {
        let row = |number: f32| Rows {
            columns: vec![number, number + 0.5],
            texts: vec![number.to_string()],
            count: 1,
            ..Rows::default()
        };
        let mut all = Rows::default();
        for number in [1.0, 2.0, 3.0] {
            all.append(&row(number));
        }
        assert_eq!((all.row(1), all.row(3)), (Some(row(2.0)), None));
        let mut first = all.take_first(2);
        assert_eq!((first.count, &all), (2, &row(3.0)));
        assert_eq!((first.take_first(1), first), (row(1.0), row(2.0)));
        assert_eq!((all.take_first(9), all.count), (row(3.0), 0));
    }

    #[test]
    fn a_row_becomes_columns_whatever_its_order() {
        let wanted = Rows { columns: vec![4.25, 0.0, 1.0, 1.0], count: 1, ..Rows::default() };
        for body in [
            r#"{"km":4.25,"weather":"rain","priority":true}"#,
            r#"{"priority":true,"weather":"r\u0061in","km":425e-2}"#,
        ] {
            assert_eq!(read(&small(), body), Ok(wanted.clone()));
        }
    }

    #[test]
    fn texts_stand_beside_the_columns_and_are_counted_in_characters() {
        let text = r#"[
            {"name":"title","type":"text","length":[1,4]},
            {"name":"fresh","type":"boolean"},
            {"name":"body","type":"text","length":[0,9]}]"#;
        let schema = Schema::new(features(text)).unwrap();
        let wanted =
            Rows { columns: vec![1.0], texts: vec!["éééé".to_owned(), String::new()], count: 1, ..Rows::default() };
        assert_eq!(read(&schema, r#"{"body":"","fresh":true,"title":"éééé"}"#), Ok(wanted));
        let found = read(&schema, r#"{"body":"0123456789","fresh":true,"title":""}"#).unwrap_err();
        for wanted in [
            r#"{"loc":["body","body"],"msg":"String should have at most 9 characters","type":"string_too_long"}"#,
            r#"{"loc":["body","title"],"msg":"String should have at least 1 character","type":"string_too_short"}"#,
        ] {
            assert!(found.contains(wanted), "{wanted} not in {found}");
        }
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        let found = read(&small(), r#"{"km":31,"km":2,"wether":"rain","priority":1}"#).unwrap_err();
        for wanted in [
            r#"{"loc":["body","km"],"msg":"Input should be less than or equal to 30","type":"less_than_equal"}"#,
            r#"{"loc":["body","km"],"msg":"Key stands more than once","type":"duplicate_key"}"#,
            r#"{"loc":["body","wether"],"msg":"Extra inputs are not permitted","type":"extra_forbidden"}"#,
            r#"{"loc":["body","priority"],"msg":"Input should be a valid boolean, true or false","type":"bool_type"}"#,
            r#"{"loc":["body","weather"],"msg":"Field required","type":"missing"}"#,
        ] {
            assert!(found.contains(wanted), "{wanted} not in {found}");
        }
    }

    #[test]
    fn a_number_out_of_its_range_is_clamped_where_the_schema_says_so() {
        let text = r#"[{"name":"km","type":"numeric","unit":"km","range":[0.5,30],"out_of_range":"clamp"}]"#;
        let schema = Schema::new(features(text)).unwrap();
        for (body, taken, words) in [
            (r#"{"km":31}"#, 30.0, r#"{"loc":["body","km"],"msg":"Input was lowered to 30","type":"clamped"}"#),
            (r#"{"km":-1}"#, 0.5, r#"{"loc":["body","km"],"msg":"Input was raised to 0.5","type":"clamped"}"#),
        ] {
            let rows = read(&schema, body).unwrap();
            assert_eq!(rows.columns, [taken]);
            assert!(serde_json::to_string(&rows.warnings).unwrap().contains(words), "{:?}", rows.warnings);
        }
        assert!(read(&schema, r#"{"km":30}"#).unwrap().warnings.is_empty());
        assert!(read(&schema, r#"{"km":1e999}"#).unwrap_err().contains("finite_number"));
        assert_ne!(schema.signature(), Schema::new(features(&text.replace("clamp", "refuse"))).unwrap().signature());
    }

    #[test]
    fn the_signature_sees_ranges_and_units_but_no_order() {
        let shuffled = r#"[
            {"name":"priority","type":"boolean"},
            {"name":"weather","type":"categorical","categories":["rain","sun"]},
            {"type":"numeric","name":"km","unit":"km","range":[0.5,30.0]}]"#;
        let miles = r#"[
            {"name":"km","type":"numeric","unit":"mi","range":[0.5,30]},
            {"name":"weather","type":"categorical","categories":["sun","rain"]},
            {"name":"priority","type":"boolean"}]"#;
        let wanted = small().signature();
        assert_eq!(wanted.len(), 64);
        assert_eq!(Schema::new(features(shuffled)).unwrap().signature(), wanted);
        assert_ne!(Schema::new(features(miles)).unwrap().signature(), wanted);
    }

    #[test]
    fn features_that_make_no_schema_are_refused() {
        let refusal = |text| Schema::new(features(text)).unwrap_err().to_string();
        assert!(refusal("[]").contains("no features"));
        assert!(refusal(r#"[{"name":"a","type":"boolean"},{"name":"a","type":"boolean"}]"#).contains("twice"));
        assert!(refusal(r#"[{"name":"a","type":"numeric","unit":"1","range":[2,1]}]"#).contains("range of `a`"));
        assert!(refusal(r#"[{"name":"a","type":"categorical","categories":["x","x"]}]"#).contains("category"));
        assert!(refusal(r#"[{"name":"a","type":"text","length":[3,2]}]"#).contains("length of `a`"));
    }

    #[test]
    fn hex_is_written_as_everybody_writes_it() {
        assert_eq!(hex(&[0, 10, 255]), "000aff");
    }
}
