//! A live Service as it was found: whom it selects, what Pointsman wrote on it, and whether somebody else changed that.
//! Pure.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use pointsman_config::RouteName;

use crate::annotation::{FENCE, Fence, RETIRED, STATE, State};
use crate::live_service::writers::{Writer, last_other, owner};

/// The text of an annotation, and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<T> {
    /// There is none.
    Nothing,
    /// This.
    Read(T),
    /// It means nothing to us, and why.
    Unreadable(String),
}

impl<T> Found<T> {
    /// What was read.
    pub fn read(&self) -> Option<&T> {
        match self {
            Self::Read(value) => Some(value),
            Self::Nothing | Self::Unreadable(_) => None,
        }
    }
}

/// A live Service as it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which object of that name.
    pub uid: String,
    /// Which writing of it; every write gives another.
    pub resource_version: String,
    /// Whom it selects; empty where it has no selector.
    pub selector: BTreeMap<String, String>,
    /// Who may write.
    pub fence: Found<Fence>,
    /// Where the rollout stands.
    pub state: Found<State>,
    /// The version that is marked as free to be scaled down, as it stands there.
    pub retired: Option<String>,
    /// Whether Pointsman's annotations were seen on this very object before.
    was_claimed: bool,
    /// Whether it has annotations at all, ours or others'.
    pub(crate) has_annotations: bool,
    /// The text behind `fence`.
    pub(crate) fence_text: Option<String>,
    /// Who owns the selector.
    selector_writer: Option<Writer>,
    /// Who owns the state.
    state_writer: Option<Writer>,
    /// Who other than Pointsman wrote last.
    other_writer: Option<Writer>,
}

/// A change of what Pointsman keeps on a Service that it did not make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Who, as the API server books it.
    pub by: String,
    /// What, for people.
    pub what: String,
    /// When, as the API server wrote it down; else the resource version. The same change made again is another one.
    pub when: String,
    /// Whether it is the selector alone that was changed; what Pointsman wrote down is as it was.
    pub is_of_selector: bool,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, by {}", self.what, self.by)
    }
}

impl Observed {
    /// What stands in `service`.
    pub fn of(service: &Service) -> Self {
        let metadata = &service.metadata;
        let managed = metadata.managed_fields.as_deref().unwrap_or_default();
        let annotation = |name: &str| metadata.annotations.as_ref().and_then(|all| all.get(name));
        let fence_text = annotation(FENCE).cloned();
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone().unwrap_or_default(),
            selector: service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default(),
            fence: read(fence_text.as_deref(), |text| text.parse::<Fence>().map_err(|error| error.to_string())),
            state: read(annotation(STATE).map(String::as_str), |text| {
                State::decode(text).map_err(|error| error.to_string())
            }),
            retired: annotation(RETIRED).cloned(),
            was_claimed: false,
            has_annotations: metadata.annotations.is_some(),
            fence_text,
            selector_writer: owner(managed, &["spec", "selector"]),
            state_writer: state_writer(managed),
            other_writer: last_other(managed),
        }
    }

    /// The same, by whoever has seen it as it was `before`: annotations that are gone leave no trace of their own on an
    /// object whose selector was never moved.
    #[must_use]
    pub fn after(self, before: Option<&Self>) -> Self {
        let is_ours = |known: &Self| known.was_claimed || known.fence_text.is_some() || known.state != Found::Nothing;
        let was_claimed = before.is_some_and(|before| before.uid == self.uid && is_ours(before));
        Self { was_claimed, ..self }
    }

    /// What somebody other than Pointsman changed of what Pointsman keeps here for `route`; none on a Service that
    /// Pointsman never wrote on.
    pub fn foreign(&self, route: &RouteName) -> Option<Foreign> {
        let mut is_of_selector = false;
        let (what, by) = match (&self.state, &self.fence) {
            (Found::Unreadable(why), _) => (format!("the annotation {STATE} was changed: {why}"), &self.state_writer),
            (_, Found::Unreadable(why)) => (format!("the annotation {FENCE} was changed: {why}"), &self.other_writer),
            (Found::Nothing, Found::Read(_)) => (format!("the annotation {STATE} was removed"), &self.other_writer),
            (Found::Read(_), Found::Nothing) => (format!("the annotation {FENCE} was removed"), &self.other_writer),
            (Found::Nothing, Found::Nothing) => {
                // Only ever written together with the selector; which stays another's until it is moved.
                let is_moved = self.selector_writer.as_ref().is_some_and(Writer::is_pointsman);
                if !is_moved && !self.was_claimed {
                    return None;
                }
                (format!("the annotations {STATE} and {FENCE} were removed"), &self.other_writer)
            }
            (Found::Read(state), Found::Read(_)) => {
                is_of_selector = state.route == *route && !self.is_state_edited();
                self.differs(state, route)?
            }
        };
        let unknown = || "somebody whom the API server does not name".to_owned();
        let when = by.as_ref().and_then(|writer| writer.at.clone()).unwrap_or_else(|| self.resource_version.clone());
        Some(Foreign { what, by: by.as_ref().map_or_else(unknown, Writer::to_string), when, is_of_selector })
    }

    fn is_state_edited(&self) -> bool {
        self.state_writer.as_ref().is_some_and(|writer| !writer.is_pointsman())
    }

    fn differs(&self, state: &State, route: &RouteName) -> Option<(String, &Option<Writer>)> {
        if state.route != *route {
            return Some((
                format!("the annotation {STATE} belongs to the route `{}`", state.route),
                &self.state_writer,
            ));
        }
        if self.is_state_edited() {
            return Some((format!("the annotation {STATE} was edited"), &self.state_writer));
        }
        (state.selector != self.selector).then(|| {
            let what =
                format!("the selector was changed from {} to {}", labels(&state.selector), labels(&self.selector));
            (what, &self.selector_writer)
        })
    }

    /// What Kubernetes Events about it refer to.
    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.name.clone()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }

    /// Whether it is known to be a later writing than `other`: the API server counts writes by these numbers.
    pub(crate) fn is_later_than(&self, other: &Self) -> bool {
        let number = |observed: &Self| observed.resource_version.parse::<u128>().ok();
        match (number(self), number(other)) {
            (Some(mine), Some(theirs)) => mine > theirs,
            (Some(_) | None, Some(_) | None) => self.resource_version != other.resource_version,
        }
    }
}

fn state_writer(managed: &[ManagedFieldsEntry]) -> Option<Writer> {
    owner(managed, &["metadata", "annotations", STATE])
}

fn read<T>(text: Option<&str>, parse: impl FnOnce(&str) -> Result<T, String>) -> Found<T> {
    match text.map(parse) {
        None => Found::Nothing,
        Some(Ok(value)) => Found::Read(value),
        Some(Err(why)) => Found::Unreadable(why),
    }
}

/// `app=model,version=v1`, as `kubectl -l` takes it; `nobody` where it is empty.
pub(crate) fn labels(selector: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if pairs.is_empty() { "nobody".to_owned() } else { pairs.join(",") }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::annotation::tests::{fence, state};
    use crate::live_service::writers::FIELD_MANAGER;

    /// A Service that selects `v1`, as Pointsman left it.
    pub(crate) fn left_by_us() -> Value {
        json!({
            "metadata": {
                "namespace": "shop", "name": "live", "uid": "u", "resourceVersion": "10",
                "annotations": { FENCE: fence(7, "a").to_string(), STATE: state(Vec::new()).encode().unwrap() },
                "managedFields": [
                    { "manager": "kubectl", "operation": "Update", "fieldsV1": { "f:spec": { "f:ports": {} } } },
                    { "manager": FIELD_MANAGER, "operation": "Update", "fieldsV1": {
                        "f:metadata": { "f:annotations": { format!("f:{STATE}"): {}, format!("f:{FENCE}"): {} } },
                        "f:spec": { "f:selector": {} },
                    } },
                ],
            },
            "spec": { "selector": { "app": "model", "version": "v1" } },
        })
    }

    pub(crate) fn observed(service: Value) -> Observed {
        Observed::of(&serde_json::from_value(service).unwrap())
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Value), wanted: Option<&str>) {
        let mut service = left_by_us();
        change(&mut service);
        let foreign = observed(service).foreign(&"shop".parse().unwrap());
        assert_eq!(foreign.map(|foreign| foreign.to_string()).as_deref(), wanted);
    }

    #[test]
    fn what_we_left_is_not_foreign_and_neither_is_a_service_that_we_never_touched() {
        check(|_| {}, None);
        check(|service| service["metadata"]["managedFields"] = Value::Null, None);
        check(
            |service| {
                service["metadata"]["annotations"] = Value::Null;
                service["metadata"]["managedFields"] = json!([]);
            },
            None,
        );
    }

    #[test]
    fn a_foreign_change_of_the_selector_is_told_with_who_did_it() {
        check(
            |service| {
                service["spec"]["selector"]["version"] = json!("v2");
                service["metadata"]["managedFields"] = json!([{ "manager": "kubectl-edit", "operation": "Update",
                    "time": "2026-01-01T00:00:00Z", "fieldsV1": { "f:spec": { "f:selector": {} } } }]);
            },
            Some(
                "the selector was changed from app=model,version=v1 to app=model,version=v2, by kubectl-edit (Update, 2026-01-01T00:00:00Z)",
            ),
        );
    }

    #[test]
    fn a_selector_that_lost_a_label_is_a_foreign_change_though_it_names_the_same_version() {
        check(
            |service| service["spec"]["selector"] = json!({ "version": "v1" }),
            Some("the selector was changed from app=model,version=v1 to version=v1, by pointsman (Update)"),
        );
    }

    #[test]
    fn a_foreign_change_of_the_annotation_is_told_with_who_did_it() {
        let by = json!({ "manager": "kubectl-annotate", "operation": "Update",
            "fieldsV1": { "f:metadata": { "f:annotations": { format!("f:{STATE}"): {} } } } });
        let edit = by.clone();
        check(
            move |service| service["metadata"]["managedFields"][1] = edit,
            Some("the annotation pointsman.dev/state was edited, by kubectl-annotate (Update)"),
        );
        check(
            move |service| {
                service["metadata"]["annotations"][STATE] = json!("hello");
                service["metadata"]["managedFields"][1] = by;
            },
            Some(
                "the annotation pointsman.dev/state was changed: it is not what Pointsman writes: expected value at line 1 column 1, by kubectl-annotate (Update)",
            ),
        );
    }

    #[test]
    fn an_annotation_that_was_removed_is_told_with_who_else_wrote() {
        check(
            |service| drop(service["metadata"]["annotations"].as_object_mut().unwrap().remove(STATE)),
            Some("the annotation pointsman.dev/state was removed, by kubectl (Update)"),
        );
        check(
            |service| service["metadata"]["annotations"] = json!({}),
            Some("the annotations pointsman.dev/state and pointsman.dev/fence were removed, by kubectl (Update)"),
        );
    }

    #[test]
    fn annotations_that_were_removed_before_the_first_flip_are_missed_by_whoever_saw_them() {
        let mut bare = left_by_us();
        bare["metadata"]["annotations"] = Value::Null;
        bare["metadata"]["managedFields"] = json!([]);
        let route = "shop".parse().unwrap();
        assert_eq!(observed(bare.clone()).foreign(&route), None, "nobody here has seen them");
        let seen = observed(bare.clone()).after(Some(&observed(left_by_us())));
        assert!(seen.foreign(&route).unwrap().what.contains("were removed"));
        let later = observed(bare.clone()).after(Some(&seen));
        assert!(later.foreign(&route).is_some(), "and not only once");
        bare["metadata"]["uid"] = json!("another");
        assert_eq!(observed(bare).after(Some(&seen)).foreign(&route), None, "this is another object");
    }

    #[test]
    fn a_service_of_another_route_is_not_ours() {
        let foreign = observed(left_by_us()).foreign(&"other".parse().unwrap()).unwrap();
        assert_eq!(foreign.what, "the annotation pointsman.dev/state belongs to the route `shop`");
    }

    #[test]
    fn later_writings_are_known_by_their_numbers() {
        let at = |version: &str| {
            let mut service = left_by_us();
            service["metadata"]["resourceVersion"] = json!(version);
            observed(service)
        };
        assert!(at("100").is_later_than(&at("99")));
        assert!(!at("99").is_later_than(&at("100")));
        assert!(!at("99").is_later_than(&at("99")));
        assert!(at("b").is_later_than(&at("a")));
    }
}
