//! What is wrong with a file: where, what, and the way out. Every stop from text to [`Config`](crate::Config) reports
//! here and goes on, so that one run shows every problem.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// A position in a config file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Place {
    /// The file, as the caller named it.
    pub origin: Arc<str>,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    /// `pointsman.yaml:12:5`, as compilers and editors write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.origin, self.line, self.column)
    }
}

/// Whether a file with this problem can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is used, and someone should look.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One thing that is wrong, and how to put it right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Whether the file is refused for it.
    pub severity: Severity,
    /// Where it stands.
    pub place: Place,
    /// What is wrong, naming the thing.
    pub what: String,
    /// How to put it right.
    pub way_out: String,
    /// The keys that lead there, such as `routes[0].weights.v2`; empty for the file itself.
    pub path: String,
}

impl fmt::Display for Problem {
    /// `pointsman.yaml:12:5: error: what; way out`, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}; {}", self.place, self.severity, self.what, self.way_out)
    }
}

/// Every problem of a file that cannot be used, warnings included, in the file's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ConfigErrors {
    problems: Vec<Problem>,
}

impl ConfigErrors {
    pub(crate) fn new(problems: Vec<Problem>) -> Self {
        Self { problems }
    }

    /// All problems in the file's order; at least one is an error.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The problems, by value.
    pub fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// How many of them are errors.
    pub fn error_count(&self) -> usize {
        self.problems.iter().filter(|problem| problem.severity == Severity::Error).count()
    }
}

impl fmt::Display for ConfigErrors {
    /// One problem a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let line_break = if index == 0 { "" } else { "\n" };
            write!(f, "{line_break}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// A place inside the file that is being read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Spot {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) path: Arc<str>,
}

impl Spot {
    /// The beginning of the file.
    pub(crate) fn start() -> Self {
        Self { line: 1, column: 1, path: Arc::from("") }
    }

    /// The key that stands here, as a message names it: `weights`, `steps[2]`.
    pub(crate) fn key(&self) -> String {
        let before = if self.path.ends_with('"') { self.path.rfind(".\"") } else { self.path.rfind('.') };
        let key = before.and_then(|at| self.path.get(at + 1..)).unwrap_or(&self.path);
        if key.is_empty() { "the file".to_owned() } else { quoted(key) }
    }
}

/// What is wrong and the way out, before the place is known. The way out never holds `; `, so that both can be
/// told apart again after they went through serde as one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Words {
    pub(crate) what: String,
    pub(crate) way_out: String,
}

impl Words {
    pub(crate) fn new(what: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self { what: what.into(), way_out: way_out.into() }
    }

    /// Undoes [`Display`](fmt::Display).
    pub(crate) fn from_sentence(sentence: &str) -> Self {
        match sentence.rsplit_once("; ") {
            Some((what, way_out)) => Self::new(what, way_out),
            None => Self::new(sentence, "see docs/CONFIG.md"),
        }
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.way_out)
    }
}

impl std::error::Error for Words {}

/// A text from the file between backticks: on one line, and short enough to read.
pub(crate) fn quoted(text: &str) -> String {
    const MOST: usize = 60;
    let mut shown: String = text.chars().take(MOST).flat_map(visible).collect();
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// One character, escaped where a terminal or a log line would suffer from it.
fn visible(character: char) -> Vec<char> {
    let harmful = character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    if harmful { character.escape_default().collect() } else { vec![character] }
}

/// The known name that `word` is most likely a slip of the finger for, if there is one.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Long words cost a lot to compare and are never a slip of the finger.
    if word.len() > 64 {
        return None;
    }
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .take(200)
        .map(|name| (strsim::damerau_levenshtein(&word.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= allowed && *distance < name.chars().count().max(word.chars().count()))
        .min()
        .map(|(_, name)| name)
}

/// Names for people: `a`, `b` and `c`.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut names: Vec<String> = names.into_iter().map(quoted).collect();
    match names.pop() {
        None => "none".to_owned(),
        Some(only) if names.is_empty() => only,
        Some(last) => format!("{} and {last}", names.join(", ")),
    }
}

/// What has been found so far. Shared, since serde hands a deserializer on by value.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    found: RefCell<Vec<(Severity, Spot, Words)>>,
}

impl Findings {
    /// The file cannot be used because of this.
    pub(crate) fn error(&self, spot: &Spot, what: impl Into<String>, way_out: impl Into<String>) {
        self.report(Severity::Error, spot, Words::new(what, way_out));
    }

    /// The file can be used, and someone should look.
    pub(crate) fn warning(&self, spot: &Spot, what: impl Into<String>, way_out: impl Into<String>) {
        self.report(Severity::Warning, spot, Words::new(what, way_out));
    }

    /// A refusal that came with its words.
    pub(crate) fn refuse(&self, spot: &Spot, words: Words) {
        self.report(Severity::Error, spot, words);
    }

    fn report(&self, severity: Severity, spot: &Spot, words: Words) {
        self.found.borrow_mut().push((severity, spot.clone(), words));
    }

    /// Everything in the file's order, each problem once.
    pub(crate) fn into_problems(self, origin: &str) -> Vec<Problem> {
        let origin: Arc<str> = Arc::from(origin);
        let mut found = self.found.into_inner();
        found.sort_by_key(|(severity, spot, _)| (spot.line, spot.column, *severity));
        // An anchor's mapping is read once per alias; its problems stand in one place and are told once.
        found.dedup_by(|(_, a, a_words), (_, b, b_words)| {
            (a.line, a.column) == (b.line, b.column) && a_words == b_words
        });
        found.into_iter().map(|found| problem(&origin, found)).collect()
    }
}

fn problem(origin: &Arc<str>, (severity, spot, words): (Severity, Spot, Words)) -> Problem {
    let place = Place { origin: Arc::clone(origin), line: spot.line, column: spot.column };
    Problem {
        severity,
        place,
        what: one_line(&words.what),
        way_out: one_line(&words.way_out),
        path: one_line(&spot.path),
    }
}

fn one_line(text: &str) -> String {
    text.chars().flat_map(visible).collect()
}
