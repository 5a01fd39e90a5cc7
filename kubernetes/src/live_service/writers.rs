//! Who wrote what on a Service, as its `managedFields` tell. Pure.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::Value;

/// The name under which the API server books what Pointsman writes.
pub const FIELD_MANAGER: &str = "pointsman";

/// Somebody who wrote on a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// The name it gives itself: `kubectl-edit`, `argocd-controller`.
    pub manager: String,
    /// How it wrote: `Apply` (server-side apply) or `Update` (everything else).
    pub operation: String,
    /// When, as RFC 3339 in UTC; not always known.
    pub at: Option<String>,
}

impl fmt::Display for Writer {
    /// `kubectl-edit (Update, 2026-01-01T00:00:00Z)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some(at) => write!(f, "{} ({}, {at})", self.manager, self.operation),
            None => write!(f, "{} ({})", self.manager, self.operation),
        }
    }
}

impl Writer {
    /// Whether it is Pointsman, this replica or another.
    pub fn is_pointsman(&self) -> bool {
        self.manager == FIELD_MANAGER
    }
}

/// Who owns the field at `path`, such as `["spec", "selector"]`. Several can own one: whoever applied the same value. Then
/// it is Pointsman if it is one of them, else whoever wrote last.
pub(crate) fn owner(entries: &[ManagedFieldsEntry], path: &[&str]) -> Option<Writer> {
    let owners = entries.iter().filter(|entry| owns(entry, path)).map(writer);
    owners.max_by(|one, other| (one.is_pointsman(), &one.at).cmp(&(other.is_pointsman(), &other.at)))
}

/// Who other than Pointsman wrote last, whatever it was: all that is known where a field was removed.
pub(crate) fn last_other(entries: &[ManagedFieldsEntry]) -> Option<Writer> {
    let main = entries.iter().filter(|entry| entry.subresource.as_deref().unwrap_or_default().is_empty());
    main.map(writer).filter(|writer| !writer.is_pointsman()).max_by(|one, other| one.at.cmp(&other.at))
}

fn writer(entry: &ManagedFieldsEntry) -> Writer {
    Writer {
        manager: entry.manager.clone().unwrap_or_else(|| "somebody without a name".to_owned()),
        operation: entry.operation.clone().unwrap_or_else(|| "Update".to_owned()),
        at: entry.time.as_ref().map(|time| time.0.to_string()),
    }
}

/// Whether the entry's field set (`{"f:spec": {"f:selector": {}}}`) has the field at `path`, or something in it.
fn owns(entry: &ManagedFieldsEntry, path: &[&str]) -> bool {
    let Some(fields) = &entry.fields_v1 else { return false };
    let mut at: Option<&Value> = Some(&fields.0);
    for name in path {
        at = at.and_then(|value| value.get(format!("f:{name}")));
    }
    at.is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(manager: &str, operation: &str, minute: u8, fields: impl Into<Value>) -> ManagedFieldsEntry {
        serde_json::from_value(json!({
            "manager": manager, "operation": operation, "time": format!("2026-01-01T00:{minute:02}:00Z"),
            "fieldsType": "FieldsV1", "fieldsV1": fields.into(),
        }))
        .unwrap()
    }

    fn selector() -> Value {
        json!({ "f:spec": { "f:selector": {} } })
    }

    #[track_caller]
    fn check(entries: &[ManagedFieldsEntry], path: &[&str], wanted: Option<&str>) {
        assert_eq!(owner(entries, path).map(|writer| writer.to_string()).as_deref(), wanted);
    }

    #[test]
    fn the_owner_of_a_field_is_told_with_its_way_and_time() {
        let entries = [
            entry("kubectl", "Update", 0, json!({ "f:spec": { "f:ports": {} } })),
            entry("argocd-controller", "Apply", 1, selector()),
        ];
        check(&entries, &["spec", "selector"], Some("argocd-controller (Apply, 2026-01-01T00:01:00Z)"));
        check(&entries, &["metadata", "annotations", "pointsman.dev/state"], None);
    }

    #[test]
    fn whoever_applied_the_same_value_does_not_take_it_from_us() {
        let entries = [entry(FIELD_MANAGER, "Update", 1, selector()), entry("flux", "Apply", 2, selector())];
        assert!(owner(&entries, &["spec", "selector"]).unwrap().is_pointsman());
    }

    #[test]
    fn of_several_others_the_last_one_is_named() {
        let entries = [entry("one", "Apply", 1, selector()), entry("two", "Apply", 2, selector())];
        check(&entries, &["spec", "selector"], Some("two (Apply, 2026-01-01T00:02:00Z)"));
        assert_eq!(last_other(&entries).unwrap().manager, "two");
        assert_eq!(last_other(&[entry(FIELD_MANAGER, "Update", 1, selector())]), None);
    }
}
