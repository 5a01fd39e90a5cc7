//! Who owns which field: `metadata.managedFields`, as writes move it, and server-side apply, which asks it first.
//!
//! A field is owned by those who set it. An update takes the fields that it changes from all others; an apply is
//! refused when it would change a field of somebody else, unless it is forced, and gives up what it no longer names.

mod fields;

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::object::{list, remove, set, text, timestamp};
use super::refusal::{Cause, Refusal};
use super::resource::{Part, Resource};
use super::store::Writer;
use fields::{FieldSet, Path};

const MANAGED_FIELDS: &str = "/metadata/managedFields";

/// How a write came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// One manager's share of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    manager: String,
    is_apply: bool,
    api_version: String,
    subresource: String,
    time: String,
    fields: FieldSet,
}

impl Entry {
    fn read(entry: &Value) -> Self {
        Self {
            manager: text(entry, "/manager").to_owned(),
            is_apply: text(entry, "/operation") == Operation::Apply.name(),
            api_version: text(entry, "/apiVersion").to_owned(),
            subresource: text(entry, "/subresource").to_owned(),
            time: text(entry, "/time").to_owned(),
            fields: fields::from_json(&entry["fieldsV1"]),
        }
    }

    fn operation(&self) -> Operation {
        if self.is_apply { Operation::Apply } else { Operation::Update }
    }

    fn to_json(&self) -> Value {
        let mut entry = json!({
            "manager": self.manager,
            "operation": self.operation().name(),
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": fields::to_json(&self.fields),
        });
        if !self.subresource.is_empty() {
            set(&mut entry, &["subresource"], self.subresource.as_str());
        }
        entry
    }

    /// As a conflict names it.
    fn told(&self) -> String {
        let manager = format!("\"{}\"", self.manager);
        let manager = match self.subresource.as_str() {
            "" => manager,
            part => format!("{manager} with subresource \"{part}\""),
        };
        match self.operation() {
            Operation::Apply => manager,
            Operation::Update => format!("{manager} using {}", self.api_version),
        }
    }
}

fn entries(object: &Value) -> Vec<Entry> {
    list(object, MANAGED_FIELDS).iter().map(Entry::read).collect()
}

/// A write on its way: by whom, to which part of what.
pub(super) struct Write<'a> {
    pub(super) resource: Resource,
    pub(super) part: Part,
    pub(super) by: &'a Writer,
    /// It comes from [`Write::apply`], which tracks who owns what itself.
    pub(super) is_applied: bool,
}

impl Write<'_> {
    fn is_own(&self, entry: &Entry, operation: Operation) -> bool {
        entry.operation() == operation && entry.manager == self.by.manager && entry.subresource == self.part.name()
    }

    fn entry(&self, operation: Operation, fields: FieldSet) -> Entry {
        Entry {
            manager: self.by.manager.clone(),
            is_apply: operation == Operation::Apply,
            api_version: self.resource.api_version(),
            subresource: self.part.name().to_owned(),
            time: timestamp(self.by.now),
            fields,
        }
    }

    /// Whether a write to this part sets this field of it.
    fn reaches(&self, path: &Path) -> bool {
        let is_status = path.first().is_some_and(|step| step.is_field("status"));
        match self.part {
            Part::Status => is_status,
            Part::Whole | Part::Scale | Part::Finalize => !is_status || !self.resource.has(Part::Status),
        }
    }

    /// Has the writer of an update own what it changed.
    pub(super) fn track(&self, before: Option<&Arc<Value>>, after: &mut Value) {
        if !self.is_applied {
            self.track_update(before.map(Arc::as_ref), after);
        }
    }

    fn track_update(&self, before: Option<&Value>, after: &mut Value) {
        // What is the same in both has no part in this; it is most of an object.
        let old = before.map(|before| fields::of(self.resource, &differing(before, after))).unwrap_or_default();
        let new = fields::of(self.resource, &before.map_or_else(|| after.clone(), |before| differing(after, before)));
        let changed: FieldSet =
            new.iter().filter(|(path, value)| old.get(*path) != Some(value)).map(|(path, _)| path.clone()).collect();
        let changed: FieldSet = changed.into_iter().filter(|path| self.reaches(path)).collect();
        let removed: FieldSet = old.keys().filter(|path| !new.contains_key(*path)).cloned().collect();
        let mut entries = before.map(entries).unwrap_or_default();
        if !changed.is_empty() || !removed.is_empty() {
            for entry in &mut entries {
                let has_less = entry.fields.iter().any(|path| removed.contains(path));
                let is_own = self.is_own(entry, Operation::Update);
                entry.fields.retain(|path| !removed.contains(path) && (is_own || !changed.contains(path)));
                if is_own && (has_less || !changed.is_empty()) {
                    entry.fields.extend(changed.iter().cloned());
                    entry.time = timestamp(self.by.now);
                }
            }
            if !entries.iter().any(|entry| self.is_own(entry, Operation::Update)) {
                entries.push(self.entry(Operation::Update, changed));
            }
        }
        write(after, entries);
    }

    /// The object after this configuration was applied to it.
    ///
    /// # Errors
    /// 409 when others own what it would change, unless it is forced.
    pub(super) fn apply(&self, live: &Value, config: &Value, force: bool) -> Result<Value, Refusal> {
        let wanted = fields::of(self.resource, config);
        let present = fields::of(self.resource, live);
        let mut entries = entries(live);
        let differs = |path: &Path| present.get(path).is_some_and(|value| Some(value) != wanted.get(path));
        let others = entries.iter().filter(|entry| !self.is_own(entry, Operation::Apply));
        let conflicts: Vec<Cause> = others
            .flat_map(|entry| {
                let taken = entry.fields.iter().filter(|path| wanted.contains_key(*path) && differs(path));
                taken.map(|path| Cause::owned(fields::told(path), format!("conflict with {}", entry.told())))
            })
            .collect();
        if !conflicts.is_empty() && !force {
            return Err(Refusal::apply_conflict(&conflicts));
        }
        let earlier = entries.iter().find(|entry| self.is_own(entry, Operation::Apply)).map(|entry| &entry.fields);
        let others = || entries.iter().filter(|entry| !self.is_own(entry, Operation::Apply));
        let given_up = earlier.into_iter().flatten().filter(|path| !wanted.contains_key(*path));
        let given_up: Vec<Path> =
            given_up.filter(|path| !others().any(|entry| entry.fields.contains(*path))).cloned().collect();
        let mut after = live.clone();
        fields::merge(self.resource, &mut after, config);
        // Once for what is in maps and lists, and backwards for those that are empty then.
        for path in given_up.iter().chain(given_up.iter().rev()) {
            fields::take_away(self.resource, &mut after, path);
        }
        for entry in &mut entries {
            entry.fields.retain(|path| !wanted.contains_key(path) || !differs(path));
        }
        entries.retain(|entry| !self.is_own(entry, Operation::Apply));
        entries.push(self.entry(Operation::Apply, wanted.into_keys().collect()));
        write(&mut after, entries);
        Ok(after)
    }
}

fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    entries.sort_by(|a, b| (!a.is_apply, &a.time, &a.manager).cmp(&(!b.is_apply, &b.time, &b.manager)));
    if entries.is_empty() {
        remove(object, &["metadata", "managedFields"]);
    } else {
        set(object, &["metadata", "managedFields"], entries.iter().map(Entry::to_json).collect::<Value>());
    }
}

/// Whether two objects are the same but for when their managers last wrote.
pub(super) fn is_same(one: &Value, other: &Value) -> bool {
    let (own, others) = (&one["metadata"], &other["metadata"]);
    let (own_entries, entries) = (list(one, MANAGED_FIELDS), list(other, MANAGED_FIELDS));
    without(one, "metadata").eq(without(other, "metadata"))
        && without(own, "managedFields").eq(without(others, "managedFields"))
        && own_entries.len() == entries.len()
        && own_entries.iter().zip(entries).all(|(one, other)| without(one, "time").eq(without(other, "time")))
}

/// The fields of a map but for one.
fn without<'a>(object: &'a Value, left_out: &'a str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object.as_object().into_iter().flatten().filter(move |(field, _)| *field != left_out)
}

/// What of an object is not the same in another one: fields of its own, and of its metadata.
fn differing(object: &Value, other: &Value) -> Value {
    let differ = |object: &Value, other: Option<&Value>| -> Map<String, Value> {
        let fields = without(object, "metadata")
            .filter(|(field, value)| other.and_then(|other| other.get(*field)) != Some(*value));
        fields.map(|(field, value)| (field.clone(), value.clone())).collect()
    };
    let mut differing = differ(object, Some(other));
    if let Some(metadata) = object.get("metadata") {
        differing.insert("metadata".to_owned(), differ(metadata, other.get("metadata")).into());
    }
    differing.into()
}

#[cfg(test)]
mod tests;
