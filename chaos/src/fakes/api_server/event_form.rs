//! Events of `v1` and of `events.k8s.io/v1` are the same objects under other names. They are kept in the older form.

use serde_json::Value;

use super::object::{set, text};
use super::resource::Resource;

/// Older and newer name of the fields that have two.
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// An object as it is kept, from the form in which it came.
pub(super) fn to_stored(resource: Resource, object: &mut Value) {
    if resource == Resource::Event {
        rename(object, NAMES.iter().map(|(old, new)| (*new, *old)));
        set(object, &["apiVersion"], Resource::CoreEvent.api_version());
    }
}

/// An object in the form that is asked for, from how it is kept.
pub(super) fn from_stored(resource: Resource, object: &Value) -> Value {
    let mut object = object.clone();
    if resource == Resource::Event {
        rename(&mut object, NAMES.iter().copied());
        set(&mut object, &["apiVersion"], resource.api_version());
    }
    object
}

fn rename<'a>(object: &mut Value, names: impl Iterator<Item = (&'a str, &'a str)>) {
    let Some(fields) = object.as_object_mut() else { return };
    for (from, to) in names {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
}

/// Whether it is an event of the newer way, which carries when it happened and who reports it.
pub(super) fn is_new_style(stored: &Value) -> bool {
    !text(stored, "/eventTime").is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_the_same_in_both_forms() {
        let sent = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": { "name": "a" },
            "regarding": { "name": "live" }, "note": "words", "reportingController": "x", "reason": "Flipped",
        });
        let mut kept = sent.clone();
        to_stored(Resource::Event, &mut kept);
        assert_eq!(
            kept,
            json!({
                "apiVersion": "v1", "kind": "Event", "metadata": { "name": "a" },
                "involvedObject": { "name": "live" }, "message": "words", "reportingComponent": "x",
                "reason": "Flipped",
            })
        );
        assert_eq!(from_stored(Resource::Event, &kept), sent);
        assert_eq!(from_stored(Resource::CoreEvent, &kept), kept);
    }
}
