//! Text to a tree in which every node knows its place. The YAML parser is serde-saphyr's; the tree keeps scalars as
//! written, so that `1.10` stays a name and `no` stays a word until someone asks for a number or a yes.

use std::collections::HashMap;
use std::rc::Rc;

use serde_saphyr::granit_parser::{self, Event, Marker, Parser, ScalarStyle, ScanError, Tag};

use crate::error::{Findings, Spot, quoted};

/// A ConfigMap holds 1 MiB; nobody writes more by hand.
const MOST_BYTES: usize = 1 << 20;
/// The format needs 7.
const MOST_LEVELS: usize = 32;
/// After aliases are followed.
const MOST_NODES: usize = 100_000;

/// One value of the file.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) value: Value,
    /// Nodes from here down, each alias counted as what it stands for.
    weight: usize,
    /// Levels from here down.
    depth: usize,
}

/// What a node holds.
#[derive(Debug)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Nothing,
    Scalar(String),
    List(Vec<Rc<Node>>),
    Mapping(Vec<(Key, Rc<Node>)>),
}

/// A key of a mapping.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) text: String,
}

/// Why no tree could be made; it is already reported.
#[derive(Debug)]
pub(crate) struct Unreadable;

/// Reads the one document of `text`.
pub(crate) fn read(text: &str, findings: &Findings) -> Result<Rc<Node>, Unreadable> {
    if text.len() > MOST_BYTES {
        let what = format!("the file has {} bytes, and Pointsman reads at most {MOST_BYTES}", text.len());
        findings.error(&Spot::start(), what, "check that this is the config file, and shorten it");
        return Err(Unreadable);
    }
    // Windows editors put a byte order mark in front; it says nothing about UTF-8.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    Builder::new(text, findings).build(text)
}

/// A mapping or list that is not closed yet.
enum Open {
    List { at: Marker, anchor: usize, items: Vec<Rc<Node>> },
    Mapping { at: Marker, anchor: usize, entries: Vec<(Key, Rc<Node>)>, lines: HashMap<String, usize>, key: Waiting },
}

/// What a mapping waits for.
enum Waiting {
    Key,
    /// The value of this key; none if the key was refused, and its value goes with it.
    Value(Option<Key>),
}

struct Builder<'a> {
    lines: Vec<&'a str>,
    findings: &'a Findings,
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    root: Option<Rc<Node>>,
}

impl<'a> Builder<'a> {
    fn new(text: &'a str, findings: &'a Findings) -> Self {
        Self { lines: text.lines().collect(), findings, open: Vec::new(), anchors: HashMap::new(), root: None }
    }

    fn build(mut self, text: &'a str) -> Result<Rc<Node>, Unreadable> {
        let mut options = granit_parser::options! { emit_unresolved_aliases: true };
        options.set_emit_comments(false);
        let mut documents = 0;
        for event in Parser::new_from_str_with_options(text, options) {
            let (event, span) = event.map_err(|error| self.unreadable(&error))?;
            documents += usize::from(matches!(event, Event::DocumentStart(..)));
            if documents > 1 {
                return Err(self.stop(
                    &span.start,
                    "a second document starts here",
                    "keep one document, and remove the `---` line and what follows",
                ));
            }
            self.take(event, span.start)?;
        }
        self.finish()
    }

    fn finish(self) -> Result<Rc<Node>, Unreadable> {
        match self.root {
            Some(root) if !matches!(root.value, Value::Nothing) => Ok(root),
            Some(_) | None => {
                self.findings.error(
                    &Spot::start(),
                    "the file is empty",
                    "write at least `listeners` and `routes`, as in config/examples/minimal.yaml",
                );
                Err(Unreadable)
            }
        }
    }

    fn take(&mut self, event: Event<'a>, at: Marker) -> Result<(), Unreadable> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(&at, tag.as_deref());
                let value = scalar(text.into_owned(), style);
                self.place(anchor, node(&at, value, 1, 1))
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_tag(&at, tag.as_deref());
                self.descend(Open::List { at, anchor, items: Vec::new() })
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_tag(&at, tag.as_deref());
                self.descend(Open::Mapping {
                    at,
                    anchor,
                    entries: Vec::new(),
                    lines: HashMap::new(),
                    key: Waiting::Key,
                })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => self.alias(anchor, &at),
            Event::UnresolvedAlias(name) => {
                self.findings.error(
                    &self.spot(&at),
                    format!("no anchor `&{name}` stands before this alias"),
                    "write the value out, or define the anchor above",
                );
                self.place(0, node(&at, Value::Nothing, 1, 1))
            }
            // `Event` may grow; what it grows by today's options never brings a value.
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(..)
            | Event::DocumentEnd
            | Event::Anchor(..)
            | _ => Ok(()),
        }
    }

    fn descend(&mut self, open: Open) -> Result<(), Unreadable> {
        if self.open.len() >= MOST_LEVELS {
            let (Open::List { at, .. } | Open::Mapping { at, .. }) = open;
            return Err(self.too_deep(&at));
        }
        self.open.push(open);
        Ok(())
    }

    fn close(&mut self) -> Result<(), Unreadable> {
        match self.open.pop() {
            Some(Open::List { at, anchor, items }) => {
                let (weight, depth) = measure(items.iter());
                self.place(anchor, node(&at, Value::List(items), weight, depth))
            }
            Some(Open::Mapping { at, anchor, entries, .. }) => {
                let (weight, depth) = measure(entries.iter().map(|(_, value)| value));
                self.place(anchor, node(&at, Value::Mapping(entries), weight, depth))
            }
            None => Ok(()),
        }
    }

    fn alias(&mut self, anchor: usize, at: &Marker) -> Result<(), Unreadable> {
        let Some(target) = self.anchors.get(&anchor).cloned() else {
            self.findings.error(&self.spot(at), "this alias stands inside what it names", "write the value out");
            return self.place(0, node(at, Value::Nothing, 1, 1));
        };
        if self.open.len() + target.depth > MOST_LEVELS {
            return Err(self.too_deep(at));
        }
        self.attach(target, at)
    }

    fn place(&mut self, anchor: usize, node: Node) -> Result<(), Unreadable> {
        let at = Marker::new(0, node.line, node.column.saturating_sub(1));
        let node = Rc::new(node);
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.attach(node, &at)
    }

    /// Hands a finished node to the list or mapping that is open.
    fn attach(&mut self, node: Rc<Node>, at: &Marker) -> Result<(), Unreadable> {
        if node.weight > MOST_NODES {
            return Err(self.stop(
                at,
                &format!("its aliases multiply to more than {MOST_NODES} values"),
                "write the values out, or use fewer aliases",
            ));
        }
        let spot = self.spot(at);
        let findings = self.findings;
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Mapping { entries, lines, key, .. }) => match std::mem::replace(key, Waiting::Key) {
                Waiting::Key => *key = Waiting::Value(accept_key(&node, &spot, lines, findings)),
                Waiting::Value(Some(name)) => entries.push((name, node)),
                Waiting::Value(None) => {}
            },
        }
        Ok(())
    }

    fn refuse_tag(&self, at: &Marker, tag: Option<&Tag>) {
        // `!` alone says "as written", which everything here is.
        if let Some(tag) = tag.filter(|tag| tag.original() != "!") {
            self.findings.error(
                &self.spot(at),
                format!("tags such as {} are not used here", quoted(&tag.original())),
                "remove the tag",
            );
        }
    }

    fn too_deep(&self, at: &Marker) -> Unreadable {
        self.stop(
            at,
            &format!("the file is nested more than {MOST_LEVELS} levels deep"),
            "the deepest key of the format stands on level 7, so look for stray brackets or indentation",
        )
    }

    fn stop(&self, at: &Marker, what: &str, way_out: &str) -> Unreadable {
        self.findings.error(&self.spot(at), what, way_out);
        Unreadable
    }

    /// The parser's own words, and what usually lies behind them.
    fn unreadable(&self, error: &ScanError) -> Unreadable {
        let at = error.marker();
        let what = format!("this is not valid YAML: {}", error.info());
        self.stop(at, &what, self.usual_cause(at.line()))
    }

    fn usual_cause(&self, line: usize) -> &'static str {
        let text = self.lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let indent = text.len() - text.trim_start().len();
        if text.get(..indent).is_some_and(|spaces| spaces.contains('\t')) {
            "indent with spaces, YAML takes no tabs (nothing else can be checked before this is fixed)"
        } else {
            "check indentation, quotes and brackets here and in the line above (nothing else can be checked before this is fixed)"
        }
    }

    fn spot(&self, at: &Marker) -> Spot {
        // At the very end the parser names a line that an editor does not show.
        let line = at.line().clamp(1, self.lines.len().max(1));
        Spot { line, column: at.col() + 1, path: self.path() }
    }

    /// The keys and indexes that lead to what is open.
    fn path(&self) -> std::sync::Arc<str> {
        let mut path = String::new();
        for open in &self.open {
            match open {
                Open::List { items, .. } => path = format!("{path}[{}]", items.len()),
                Open::Mapping { key: Waiting::Value(Some(key)), .. } => path = below(&path, &key.text),
                Open::Mapping { .. } => {}
            }
        }
        path.into()
    }
}

/// The path of `key` in the mapping at `path`.
pub(crate) fn below(path: &str, key: &str) -> String {
    let short: String = key.chars().take(60).collect();
    let key = if short.contains(['.', '[', '"']) { format!("\"{short}\"") } else { short };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// Where the value at `path`, such as `routes[0].rollout.steps[1]`, stands in `root`; of a path that is not written, the
/// last part of it that is.
pub(crate) fn locate(root: &Node, path: &str) -> (usize, usize) {
    let (mut at, mut here, mut node) = ((root.line, root.column), String::new(), root);
    while here != path {
        let Some((below, place, next)) = children(&here, node).into_iter().find(|(below, ..)| leads_to(below, path))
        else {
            break;
        };
        (at, here, node) = (place, below, next);
    }
    at
}

/// A path, its place, and what stands there.
type Child<'n> = (String, (usize, usize), &'n Node);

fn children<'n>(path: &str, node: &'n Node) -> Vec<Child<'n>> {
    match &node.value {
        Value::Nothing | Value::Scalar(_) => Vec::new(),
        Value::List(items) => {
            let item = |(index, item): (usize, &'n Rc<Node>)| {
                (format!("{path}[{index}]"), (item.line, item.column), item.as_ref())
            };
            items.iter().enumerate().map(item).collect()
        }
        Value::Mapping(entries) => {
            let entry =
                |(key, value): &'n (Key, Rc<Node>)| (below(path, &key.text), (key.line, key.column), value.as_ref());
            entries.iter().map(entry).collect()
        }
    }
}

/// Whether `path` is `part` or goes on from it.
fn leads_to(part: &str, path: &str) -> bool {
    path.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn node(at: &Marker, value: Value, weight: usize, depth: usize) -> Node {
    Node { line: at.line().max(1), column: at.col() + 1, value, weight, depth }
}

fn measure<'n>(children: impl Iterator<Item = &'n Rc<Node>>) -> (usize, usize) {
    children.fold((1, 1), |(weight, depth), child| (weight.saturating_add(child.weight), depth.max(child.depth + 1)))
}

/// Only a plain scalar can stand for nothing; a quoted one is what it says.
fn scalar(text: String, style: ScalarStyle) -> Value {
    let nothing = style == ScalarStyle::Plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL");
    if nothing { Value::Nothing } else { Value::Scalar(text) }
}

/// A key that stands here for the first time; anything else is reported.
fn accept_key(node: &Node, spot: &Spot, lines: &mut HashMap<String, usize>, findings: &Findings) -> Option<Key> {
    let text = match &node.value {
        Value::Scalar(text) => text,
        Value::Nothing | Value::List(_) | Value::Mapping(_) => {
            findings.error(spot, "this key is no text", "write a plain word before the colon");
            return None;
        }
    };
    if text == "<<" {
        findings.error(
            spot,
            "merge keys (`<<`) are not supported",
            "write the keys out, or let an alias stand for the whole mapping",
        );
        return None;
    }
    if let Some(line) = lines.insert(text.clone(), spot.line) {
        findings.error(
            spot,
            format!("the key {} stands twice in this mapping, first on line {line}", quoted(text)),
            "keep one of them",
        );
        return None;
    }
    Some(Key { line: node.line, column: node.column, text: text.clone() })
}

impl Key {
    /// The key as a value of its own: a name that the operator chose is read like any other text.
    pub(crate) fn as_node(&self) -> Node {
        Node { line: self.line, column: self.column, value: Value::Scalar(self.text.clone()), weight: 1, depth: 1 }
    }
}
