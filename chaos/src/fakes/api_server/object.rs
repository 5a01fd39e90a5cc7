//! Reading and writing fields of objects that are only known as JSON.

use std::time::SystemTime;

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::macros::format_description;

/// The text at a JSON pointer; empty where there is none.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The list at a JSON pointer; empty where there is none.
pub(super) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Whether nothing stands at a JSON pointer: no value, null, or an empty text, list or map.
pub(super) fn is_empty(object: &Value, pointer: &str) -> bool {
    match object.pointer(pointer) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(fields)) => fields.is_empty(),
        Some(Value::Bool(_) | Value::Number(_)) => false,
    }
}

/// Puts a value at a path of fields, making maps on the way.
pub(super) fn set(object: &mut Value, path: &[&str], value: impl Into<Value>) {
    let Some((first, rest)) = path.split_first() else {
        *object = value.into();
        return;
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    if let Some(fields) = object.as_object_mut() {
        set(fields.entry(*first).or_insert(Value::Null), rest, value);
    }
}

/// Puts a value where nothing stands yet.
pub(super) fn set_default(object: &mut Value, path: &[&str], value: impl Into<Value>) {
    if is_empty(object, &format!("/{}", path.join("/"))) {
        set(object, path, value);
    }
}

/// Takes a field away; gives what stood there.
pub(super) fn remove(object: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    let parent = parents.iter().try_fold(object, |at, field| at.get_mut(*field))?;
    parent.as_object_mut()?.remove(*last)
}

/// Makes a field of `to` what it is in `from`, absent included.
pub(super) fn carry(to: &mut Value, from: &Value, path: &[&str]) {
    match from.pointer(&format!("/{}", path.join("/"))) {
        Some(value) => set(to, path, value.clone()),
        None => drop(remove(to, path)),
    }
}

/// A time as metadata hold it, in whole seconds.
pub(super) fn timestamp(at: SystemTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    OffsetDateTime::from(at).format(format).unwrap_or_default()
}
