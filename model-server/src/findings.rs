//! What is wrong with a body: every field at once, in the words and the shape that users of `FastAPI` know
//! (`loc`, `msg`, `type`). `schema` finds, `http` answers with them.

use serde::Serialize;

use crate::json::Fault;

/// How many findings one answer lists; the rest is counted only, so that a bad batch costs no megabytes.
pub const LISTED: usize = 256;

/// How much of a client's own key is given back to it, in characters.
const ECHOED: usize = 100;

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    loc: Vec<Step>,
    msg: String,
    #[serde(rename = "type")]
    kind: &'static str,
}

/// One step on the way from the body to a wrong value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Step {
    Name(String),
    Index(usize),
}

/// Which object a field belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The body itself.
    Body,
    /// The instance of a batch with this index, from 0.
    Instance(usize),
    /// The row with this index, from 0, of tensors that lie beside each other.
    TensorRow(usize),
}

impl Place {
    fn steps(self) -> Vec<Step> {
        let body = Step::Name("body".to_owned());
        match self {
            Self::Body => vec![body],
            Self::Instance(index) => {
                vec![body, Step::Name("instances".to_owned()), Step::Index(index)]
            }
            Self::TensorRow(index) => vec![body, Step::Name("inputs".to_owned()), Step::Index(index)],
        }
    }
}

/// What can be wrong with a value or a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Problem {
    /// A field that the schema needs is not there.
    Missing,
    /// A key that the schema does not know.
    Unknown,
    /// A key that stands twice in one object.
    Duplicate,
    /// No number where one should stand.
    NotNumber,
    /// Neither `true` nor `false`.
    NotBoolean,
    /// No text where a category should stand.
    NotText,
    /// A text of fewer characters than this.
    TooShort(usize),
    /// A text of more characters than this.
    TooLong(usize),
    /// NaN, infinite, or too large to be held.
    NotFinite,
    /// Below the range.
    Below(f64),
    /// Above the range.
    Above(f64),
    /// Below the range and let in as the lowest value of it.
    RaisedTo(f64),
    /// Above the range and let in as the highest value of it.
    LoweredTo(f64),
    /// None of these categories.
    Category(Vec<String>),
    /// No object where one should stand.
    NotObject,
    /// No list where one should stand.
    NotList,
    /// A batch without a row.
    Empty,
}

impl Problem {
    fn kind(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unknown => "extra_forbidden",
            Self::Duplicate => "duplicate_key",
            Self::NotNumber => "float_type",
            Self::NotBoolean => "bool_type",
            Self::NotText => "string_type",
            Self::TooShort(_) => "string_too_short",
            Self::TooLong(_) => "string_too_long",
            Self::NotFinite => "finite_number",
            Self::Below(_) => "greater_than_equal",
            Self::Above(_) => "less_than_equal",
            Self::RaisedTo(_) | Self::LoweredTo(_) => "clamped",
            Self::Category(_) => "literal_error",
            Self::NotObject => "dict_type",
            Self::NotList => "list_type",
            Self::Empty => "too_short",
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Missing => "Field required".to_owned(),
            Self::Unknown => "Extra inputs are not permitted".to_owned(),
            Self::Duplicate => "Key stands more than once".to_owned(),
            Self::NotNumber => "Input should be a valid number".to_owned(),
            Self::NotBoolean => "Input should be a valid boolean, true or false".to_owned(),
            Self::NotText => "Input should be a valid string".to_owned(),
            Self::TooShort(1) => "String should have at least 1 character".to_owned(),
            Self::TooShort(fewest) => format!("String should have at least {fewest} characters"),
            Self::TooLong(1) => "String should have at most 1 character".to_owned(),
            Self::TooLong(most) => format!("String should have at most {most} characters"),
            Self::NotFinite => "Input should be a finite number".to_owned(),
            Self::Below(low) => format!("Input should be greater than or equal to {low}"),
            Self::Above(high) => format!("Input should be less than or equal to {high}"),
            Self::RaisedTo(low) => format!("Input was raised to {low}"),
            Self::LoweredTo(high) => format!("Input was lowered to {high}"),
            Self::Category(allowed) => format!("Input should be {}", choice(allowed)),
            Self::NotObject => "Input should be a valid object".to_owned(),
            Self::NotList => "Input should be a valid list".to_owned(),
            Self::Empty => "List should have at least 1 item".to_owned(),
        }
    }
}

/// `'a', 'b' or 'c'`
fn choice(allowed: &[String]) -> String {
    let quoted: Vec<_> = allowed.iter().map(|name| format!("'{name}'")).collect();
    match quoted.split_last() {
        Some((last, before)) if !before.is_empty() => format!("{} or {last}", before.join(", ")),
        _ => quoted.concat(),
    }
}

/// Everything that is wrong with one body.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    detail: Vec<Finding>,
    #[serde(skip_serializing_if = "is_zero")]
    omitted: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Findings {
    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.detail.is_empty()
    }

    /// How many there are, those included that are not listed.
    pub fn count(&self) -> usize {
        self.detail.len() + self.omitted
    }

    /// Those that are listed.
    pub fn listed(&self) -> &[Finding] {
        &self.detail
    }

    /// Notes a problem with a whole object, or with one of its fields.
    pub fn add(&mut self, place: Place, field: Option<&str>, problem: &Problem) {
        if self.detail.len() == LISTED {
            self.omitted += 1;
            return;
        }
        let mut loc = place.steps();
        loc.extend(field.map(|name| Step::Name(name.chars().take(ECHOED).collect())));
        self.detail.push(Finding { loc, msg: problem.message(), kind: problem.kind() });
    }

    /// Notes where the text stopped being JSON; what was found before stays.
    pub fn add_fault(&mut self, fault: Fault, text: &[u8]) {
        let (line, column) = fault.place(text);
        self.detail.push(Finding {
            loc: vec![Step::Name("body".to_owned()), Step::Index(fault.at)],
            msg: format!("JSON decode error: {} at line {line} column {column}", fault.what),
            kind: "json_invalid",
        });
    }

    /// The words of the first finding: enough for a log line or an error.
    pub fn first(&self) -> String {
        self.detail.first().map_or_else(String::new, |finding| {
            let steps: Vec<String> = finding
                .loc
                .iter()
                .map(|step| match step {
                    Step::Name(name) => name.clone(),
                    Step::Index(index) => index.to_string(),
                })
                .collect();
            format!("{}: {}", steps.join("."), finding.msg)
        })
    }
}
