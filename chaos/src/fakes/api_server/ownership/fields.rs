//! The fields of an object as ownership counts them: which maps and lists are owned whole, and which piece by piece.
//! The real server reads that from its schema; here are the parts of the schema that something may meet.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::super::resource::Resource;

/// A step from an object or list to something in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// A field or a key of a map.
    Field(String),
    /// An item of a list, by what identifies it: JSON of one or more of its fields.
    Item(String),
    /// A value in a list that is a set, as JSON.
    Value(String),
}

impl Step {
    pub(super) fn is_field(&self, name: &str) -> bool {
        matches!(self, Self::Field(field) if field == name)
    }

    fn encoded(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Item(keys) => format!("k:{keys}"),
            Self::Value(value) => format!("v:{value}"),
        }
    }

    fn decoded(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Self::Field(rest.to_owned())),
            "k" => Some(Self::Item(rest.to_owned())),
            "v" => Some(Self::Value(rest.to_owned())),
            _ => None,
        }
    }
}

pub(super) type Path = Vec<Step>;
pub(super) type FieldSet = BTreeSet<Path>;

/// What nobody owns, since the server itself says it.
const UNOWNED: [&[&str]; 16] = [
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "uid"],
    &["metadata", "resourceVersion"],
    &["metadata", "generation"],
    &["metadata", "creationTimestamp"],
    &["metadata", "deletionTimestamp"],
    &["metadata", "deletionGracePeriodSeconds"],
    &["metadata", "managedFields"],
    &["metadata", "selfLink"],
    &["spec", "clusterIP"],
    &["spec", "clusterIPs"],
    &["spec", "ipFamilies"],
    &["spec", "ipFamilyPolicy"],
];

/// How something is owned.
enum Shape {
    /// As one.
    Whole,
    /// Field by field.
    Struct,
    /// Key by key, and itself.
    Map,
    /// Item by item, which these fields identify, and itself.
    Keyed(&'static [&'static str]),
    /// Value by value, and itself.
    Set,
}

fn shape(resource: Resource, path: &[Step], value: &Value) -> Shape {
    let Some(Step::Field(name)) = path.last() else {
        return if value.is_object() { Shape::Struct } else { Shape::Whole };
    };
    match value {
        Value::Object(fields) if fields.is_empty() => Shape::Whole,
        Value::Object(_) => match name.as_str() {
            "labels" | "annotations" | "data" | "binaryData" | "limits" | "requests" => Shape::Map,
            "selector" | "nodeSelector" | "involvedObject" | "related" => Shape::Whole,
            _ => Shape::Struct,
        },
        Value::Array(_) => list_shape(resource, path.len(), name),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Shape::Whole,
    }
}

fn list_shape(resource: Resource, depth: usize, name: &str) -> Shape {
    match (name, resource) {
        ("ports", Resource::Service) => Shape::Keyed(&["port", "protocol"]),
        ("ports", Resource::Pod | Resource::Deployment) => Shape::Keyed(&["containerPort", "protocol"]),
        ("containers" | "initContainers" | "env" | "volumes", _) => Shape::Keyed(&["name"]),
        ("volumeMounts", _) => Shape::Keyed(&["mountPath"]),
        ("conditions", _) => Shape::Keyed(&["type"]),
        ("podIPs" | "hostIPs", _) => Shape::Keyed(&["ip"]),
        ("ownerReferences", _) if depth == 2 => Shape::Keyed(&["uid"]),
        ("finalizers", _) if depth == 2 => Shape::Set,
        _ => Shape::Whole,
    }
}

/// What identifies an item.
fn item_step(keys: &[&str], item: &Value) -> Step {
    let mut found = BTreeMap::new();
    for key in keys {
        let value = match item.get(key) {
            None if *key == "protocol" => json!("TCP"),
            value => value.cloned().unwrap_or_default(),
        };
        found.insert(*key, value);
    }
    Step::Item(json!(found).to_string())
}

/// The fields of an object that can be owned, each with its value; what is owned only as being there has null.
pub(super) fn of(resource: Resource, object: &Value) -> BTreeMap<Path, Value> {
    let mut found = BTreeMap::new();
    collect(resource, &mut Vec::new(), object, &mut found);
    found.retain(|path, _| !UNOWNED.iter().any(|unowned| begins_with(path, unowned)));
    found
}

fn begins_with(path: &[Step], fields: &[&str]) -> bool {
    path.len() >= fields.len() && path.iter().zip(fields).all(|(step, field)| step.is_field(field))
}

fn collect(resource: Resource, path: &mut Path, value: &Value, found: &mut BTreeMap<Path, Value>) {
    let shape = if path.is_empty() { Shape::Struct } else { shape(resource, path, value) };
    match shape {
        Shape::Whole => {
            found.insert(path.clone(), value.clone());
            return;
        }
        Shape::Struct => {}
        Shape::Map | Shape::Keyed(_) | Shape::Set => {
            found.insert(path.clone(), Value::Null);
        }
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        path.push(Step::Field(name.clone()));
        collect(resource, path, field, found);
        path.pop();
    }
    for item in value.as_array().into_iter().flatten() {
        match shape {
            Shape::Keyed(keys) => path.push(item_step(keys, item)),
            Shape::Set | Shape::Whole | Shape::Struct | Shape::Map => path.push(Step::Value(item.to_string())),
        }
        found.insert(path.clone(), Value::Null);
        if item.is_object() {
            collect(resource, path, item, found);
        }
        path.pop();
    }
}

/// As `fieldsV1` holds it.
pub(super) fn to_json(fields: &FieldSet) -> Value {
    let mut root = Value::Object(Map::new());
    for path in fields {
        mark(&mut root, path);
    }
    leaves_bare(&mut root);
    root
}

/// Marks that something is owned itself, whatever of it is.
fn mark(node: &mut Value, path: &[Step]) {
    let Some(map) = node.as_object_mut() else { return };
    match path.split_first() {
        Some((first, rest)) => mark(map.entry(first.encoded()).or_insert_with(|| json!({})), rest),
        None => drop(map.insert(".".to_owned(), json!({}))),
    }
}

/// What has nothing in it needs no mark that it is there itself.
fn leaves_bare(node: &mut Value) {
    let Some(map) = node.as_object_mut() else { return };
    if map.len() == 1 {
        map.remove(".");
    }
    map.iter_mut().filter(|(name, _)| *name != ".").for_each(|(_, below)| leaves_bare(below));
}

/// From `fieldsV1`.
pub(super) fn from_json(encoded: &Value) -> FieldSet {
    let mut fields = FieldSet::new();
    gather(&mut Vec::new(), encoded, &mut fields);
    fields
}

fn gather(path: &mut Path, node: &Value, fields: &mut FieldSet) {
    let Some(map) = node.as_object() else { return };
    if (map.is_empty() || map.contains_key(".")) && !path.is_empty() {
        fields.insert(path.clone());
    }
    for (name, below) in map {
        let Some(step) = Step::decoded(name) else { continue };
        path.push(step);
        gather(path, below, fields);
        path.pop();
    }
}

/// As a conflict names it, `.spec.ports[port=80,protocol="TCP"].name`.
pub(super) fn told(path: &Path) -> String {
    let step = |step: &Step| match step {
        Step::Field(name) => format!(".{name}"),
        Step::Value(value) => format!("[={value}]"),
        Step::Item(keys) => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<String> = keys.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
    };
    path.iter().map(step).collect()
}

/// Puts what a configuration names into an object.
pub(super) fn merge(resource: Resource, object: &mut Value, config: &Value) {
    merge_at(resource, &mut Vec::new(), object, config);
}

fn merge_at(resource: Resource, path: &mut Path, into: &mut Value, config: &Value) {
    let shape = if path.is_empty() { Shape::Struct } else { shape(resource, path, config) };
    match shape {
        Shape::Whole => *into = config.clone(),
        Shape::Struct | Shape::Map => {
            if !into.is_object() {
                *into = json!({});
            }
            let (Some(into), Some(config)) = (into.as_object_mut(), config.as_object()) else { return };
            for (name, value) in config {
                path.push(Step::Field(name.clone()));
                merge_at(resource, path, into.entry(name.clone()).or_insert(Value::Null), value);
                path.pop();
            }
        }
        Shape::Keyed(keys) => merge_items(resource, path, into, config, |item| item_step(keys, item)),
        Shape::Set => merge_items(resource, path, into, config, |item| Step::Value(item.to_string())),
    }
}

fn merge_items(resource: Resource, path: &mut Path, into: &mut Value, config: &Value, step: impl Fn(&Value) -> Step) {
    if !into.is_array() {
        *into = json!([]);
    }
    let (Some(into), Some(config)) = (into.as_array_mut(), config.as_array()) else { return };
    for item in config {
        let its_step = step(item);
        match into.iter_mut().find(|known| step(known) == its_step) {
            Some(known) => {
                path.push(its_step);
                merge_at(resource, path, known, item);
                path.pop();
            }
            None => into.push(item.clone()),
        }
    }
}

/// Takes a field out of an object. A map or list that something is left in stays.
pub(super) fn take_away(resource: Resource, object: &mut Value, path: &Path) {
    let Some((last, parents)) = path.split_last() else { return };
    let Some(parent) = parents.iter().try_fold(object, descend) else { return };
    match last {
        Step::Field(name) => {
            let is_kept = |value: &Value| !matches!(shape(resource, path, value), Shape::Whole) && is_in_use(value);
            if parent.get(name).is_some_and(|value| !is_kept(value)) {
                super::remove(parent, &[name]);
            }
        }
        Step::Item(_) | Step::Value(_) => {
            if let Some(items) = parent.as_array_mut() {
                items.retain(|item| !is_item(last, item));
            }
        }
    }
}

fn descend<'a>(at: &'a mut Value, step: &Step) -> Option<&'a mut Value> {
    match step {
        Step::Field(name) => at.get_mut(name),
        Step::Item(_) | Step::Value(_) => at.as_array_mut()?.iter_mut().find(|item| is_item(step, item)),
    }
}

fn is_in_use(value: &Value) -> bool {
    match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

fn is_item(step: &Step, item: &Value) -> bool {
    match step {
        Step::Field(_) => false,
        Step::Value(value) => serde_json::from_str::<Value>(value).is_ok_and(|value| value == *item),
        Step::Item(keys) => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            keys.iter().all(|(key, value)| item.get(key).unwrap_or(&json!("TCP")) == value)
        }
    }
}
