//! Rendered objects, and reading them by pointer.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::Finding;

/// Labels of an object, or those that a selector asks for.
pub type Labels = BTreeMap<String, String>;

static NOTHING: Value = Value::Null;

/// Reading by JSON pointer, where what is not there reads as nothing.
pub trait Read {
    /// What stands there; null if nothing does.
    fn at(&self, pointer: &str) -> &Value;

    /// The text there; empty if there is none.
    fn text(&self, pointer: &str) -> &str {
        self.at(pointer).as_str().unwrap_or_default()
    }

    /// The list there; empty if there is none.
    fn items(&self, pointer: &str) -> &[Value] {
        self.at(pointer).as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// The texts in the list there.
    fn texts(&self, pointer: &str) -> Vec<&str> {
        self.items(pointer).iter().filter_map(Value::as_str).collect()
    }

    /// The mapping there.
    fn entries(&self, pointer: &str) -> impl Iterator<Item = (&str, &Value)> {
        self.at(pointer).as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
    }

    /// The mapping of texts there.
    fn labels(&self, pointer: &str) -> Labels {
        let text = |(key, value): (&str, &Value)| Some((key.to_owned(), value.as_str()?.to_owned()));
        self.entries(pointer).filter_map(text).collect()
    }

    /// Whether anything stands there.
    fn has(&self, pointer: &str) -> bool {
        !self.at(pointer).is_null()
    }
}

impl Read for Value {
    fn at(&self, pointer: &str) -> &Value {
        self.pointer(pointer).unwrap_or(&NOTHING)
    }
}

/// What a label selector with `matchLabels` alone asks for; none where it asks in another way, which is not used here.
pub(crate) fn match_labels(selector: &Value) -> Option<Labels> {
    (!selector.has("/matchExpressions")).then(|| selector.labels("/matchLabels"))
}

/// Whether labels are what a selector asks for. An empty selector, which would take everything, takes nothing.
pub(crate) fn selects(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// One rendered object.
#[derive(Debug, Clone, PartialEq)]
pub struct Object(pub Value);

impl Object {
    /// Its kind, such as Deployment.
    pub fn kind(&self) -> &str {
        self.0.text("/kind")
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.0.text("/metadata/name")
    }

    /// Its namespace; empty if it says none.
    pub fn namespace(&self) -> &str {
        self.0.text("/metadata/namespace")
    }

    /// A finding about it.
    pub fn finding(&self, problem: impl Into<String>) -> Finding {
        Finding { object: self.to_string(), problem: problem.into() }
    }

    /// The pod template of a Deployment.
    pub(crate) fn pod(&self) -> &Value {
        self.0.at("/spec/template/spec")
    }

    /// The labels of a Deployment's pods.
    pub(crate) fn pod_labels(&self) -> Labels {
        self.0.labels("/spec/template/metadata/labels")
    }

    /// The ports of a Deployment's pods, by name.
    pub(crate) fn pod_ports(&self) -> BTreeMap<&str, u64> {
        let ports = self.pod().items("/containers").iter().flat_map(|container| container.items("/ports"));
        ports.filter_map(|port| Some((port.text("/name"), port.at("/containerPort").as_u64()?))).collect()
    }

    /// The port of a Deployment's pods that a name or number means.
    pub(crate) fn pod_port(&self, named: &Value) -> Option<u64> {
        let ports = self.pod_ports();
        match named.as_str() {
            Some(name) => ports.get(name).copied(),
            None => named.as_u64().filter(|number| ports.values().any(|port| port == number)),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind(), self.name())
    }
}

/// Why a rendered text cannot be read.
#[derive(Debug)]
pub struct NotRead(serde_saphyr::Error);

impl fmt::Display for NotRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the text is no YAML: {}", self.0)
    }
}

impl std::error::Error for NotRead {}

/// All objects of an overlay.
#[derive(Debug, Clone, PartialEq)]
pub struct Objects(pub Vec<Object>);

impl Objects {
    /// Reads what `kubectl kustomize` prints.
    ///
    /// # Errors
    /// If that is no YAML.
    pub fn parse(text: &str) -> Result<Self, NotRead> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(NotRead)?;
        Ok(Self(documents.into_iter().map(Object).collect()))
    }

    /// All of a kind.
    pub fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Object> {
        self.0.iter().filter(move |object| object.kind() == kind)
    }

    /// The one with this kind and name.
    pub fn find(&self, kind: &str, name: &str) -> Option<&Object> {
        self.0.iter().find(|object| object.kind() == kind && object.name() == name)
    }

    /// The Deployments whose pods a selector takes.
    pub(crate) fn selected(&self, selector: &Labels) -> Vec<&Object> {
        self.of("Deployment").filter(|deployment| selects(selector, &deployment.pod_labels())).collect()
    }
}
