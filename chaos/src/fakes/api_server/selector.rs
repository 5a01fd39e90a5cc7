//! Which objects of a kind a request is about: a namespace, and selectors of labels and fields.

use std::str::FromStr;

use serde_json::Value;

use super::object::text;
use super::refusal::Refusal;
use super::resource::{Key, Resource};

/// Objects of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Their kind.
    pub resource: Resource,
    /// Their namespace; `None` for all.
    pub namespace: Option<String>,
    /// What their labels are like.
    pub labels: LabelSelector,
    /// What some of their fields are.
    pub fields: FieldSelector,
}

impl Selection {
    /// Everything of a kind in a namespace, or in all.
    pub fn all(resource: Resource, namespace: Option<&str>) -> Self {
        Self {
            resource,
            namespace: namespace.map(str::to_owned),
            labels: LabelSelector::default(),
            fields: FieldSelector::default(),
        }
    }

    /// Whether objects with this key can be of it, whatever is in them.
    pub(super) fn covers(&self, key: &Key) -> bool {
        key.resource == self.resource.stored() && self.namespace.as_ref().is_none_or(|wanted| *wanted == key.namespace)
    }

    /// Whether this object, in the form in which it is kept, is of it.
    pub(super) fn selects(&self, object: &Value) -> bool {
        self.labels.selects(object) && self.fields.selects(object)
    }
}

/// A selector of labels, `app=model,version in (v1,v2),!draining`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<LabelRule>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum LabelRule {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

impl LabelSelector {
    fn selects(&self, object: &Value) -> bool {
        let label = |name: &str| object.pointer("/metadata/labels").and_then(|labels| labels.get(name)?.as_str());
        self.0.iter().all(|rule| match rule {
            LabelRule::In(name, values) => label(name).is_some_and(|value| values.iter().any(|known| known == value)),
            LabelRule::NotIn(name, values) => label(name).is_none_or(|value| values.iter().all(|known| known != value)),
            LabelRule::Exists(name) => label(name).is_some(),
            LabelRule::Absent(name) => label(name).is_none(),
        })
    }
}

impl FromStr for LabelSelector {
    type Err = Refusal;

    fn from_str(selector: &str) -> Result<Self, Refusal> {
        split_outside_parentheses(selector).into_iter().map(label_rule).collect::<Result<_, _>>().map(Self)
    }
}

/// Splits at commas that stand in no parentheses; nothing is no part.
fn split_outside_parentheses(selector: &str) -> Vec<&str> {
    let mut is_inside = false;
    let parts = selector.split(|character| {
        match character {
            '(' => is_inside = true,
            ')' => is_inside = false,
            _ => {}
        }
        character == ',' && !is_inside
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn label_rule(part: &str) -> Result<LabelRule, Refusal> {
    let unreadable = || Refusal::bad_request(format!("unable to parse requirement: {part}"));
    if let Some((name, values)) = part.split_once(" notin ") {
        return Ok(LabelRule::NotIn(named(name), set_of(values).ok_or_else(unreadable)?));
    }
    if let Some((name, values)) = part.split_once(" in ") {
        return Ok(LabelRule::In(named(name), set_of(values).ok_or_else(unreadable)?));
    }
    if let Some((name, value)) = part.split_once("!=") {
        return Ok(LabelRule::NotIn(named(name), vec![named(value)]));
    }
    if let Some((name, value)) = part.split_once('=') {
        return Ok(LabelRule::In(named(name), vec![named(value.trim_start_matches('='))]));
    }
    let name = part.trim_start_matches('!');
    if name.trim().contains([' ', '(', ')']) {
        return Err(unreadable());
    }
    Ok(if name.len() < part.len() { LabelRule::Absent(named(name)) } else { LabelRule::Exists(named(name)) })
}

fn named(text: &str) -> String {
    text.trim().to_owned()
}

fn set_of(text: &str) -> Option<Vec<String>> {
    let inside = text.trim().strip_prefix('(')?.strip_suffix(')')?;
    Some(inside.split(',').map(named).collect())
}

/// A selector of fields, `metadata.name=live`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<FieldRule>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldRule {
    pointer: String,
    value: String,
    is_equal: bool,
}

impl FieldSelector {
    /// Reads it for a kind: few fields can be selected by, and not the same ones for each.
    ///
    /// # Errors
    /// 400 for what cannot be read, and for a field that this kind cannot be selected by.
    pub fn parse(selector: &str, resource: Resource) -> Result<Self, Refusal> {
        let parts = selector.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(|part| field_rule(part, resource)).collect::<Result<_, _>>().map(Self)
    }

    fn selects(&self, object: &Value) -> bool {
        self.0.iter().all(|rule| (text(object, &rule.pointer) == rule.value) == rule.is_equal)
    }
}

fn field_rule(part: &str, resource: Resource) -> Result<FieldRule, Refusal> {
    let (field, value, is_equal) = match (part.split_once("!="), part.split_once('=')) {
        (Some((field, value)), _) => (field, value, false),
        (None, Some((field, value))) => (field, value.trim_start_matches('='), true),
        (None, None) => return Err(Refusal::bad_request(format!("invalid selector: '{part}'; can't understand it"))),
    };
    let stored = known_field(field, resource)
        .ok_or_else(|| Refusal::bad_request(format!("field label not supported: {field}")))?;
    Ok(FieldRule { pointer: format!("/{}", stored.replace('.', "/")), value: value.to_owned(), is_equal })
}

/// The field as it is kept, if objects of this kind can be selected by it.
fn known_field(field: &str, resource: Resource) -> Option<String> {
    let kind_fields: &[&str] = match resource {
        Resource::CoreEvent | Resource::Event => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "type",
        ],
        Resource::Pod => &["spec.nodeName", "spec.restartPolicy", "status.phase", "status.podIP"],
        Resource::Namespace => &["status.phase"],
        Resource::Service => &["spec.clusterIP", "spec.type"],
        Resource::EndpointSlice | Resource::Lease | Resource::ConfigMap | Resource::Deployment => &[],
    };
    let field = if resource == Resource::Event { field.replace("regarding.", "involvedObject.") } else { field.into() };
    let is_known = ["metadata.name", "metadata.namespace"].contains(&&*field) || kind_fields.contains(&&*field);
    is_known.then_some(field)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_labels(selector: &str, expected: &[&str]) {
        let objects = [
            ("a1", json!({ "app": "a", "version": "v1" })),
            ("a2", json!({ "app": "a", "version": "v2" })),
            ("b1", json!({ "app": "b", "version": "v1", "draining": "" })),
        ];
        let selector: LabelSelector = selector.parse().unwrap();
        let chosen =
            objects.iter().filter(|(_, labels)| selector.selects(&json!({ "metadata": { "labels": labels } })));
        assert_eq!(chosen.map(|(name, _)| *name).collect::<Vec<_>>(), expected, "{selector:?}");
    }

    #[test]
    fn labels_are_selected_by_value_by_set_and_by_presence() {
        check_labels("", &["a1", "a2", "b1"]);
        check_labels("app=a", &["a1", "a2"]);
        check_labels("app==a,version=v1", &["a1"]);
        check_labels("version!=v1", &["a2"]);
        check_labels("version in (v1, v3), app notin (a)", &["b1"]);
        check_labels("draining", &["b1"]);
        check_labels("!draining,version notin (v2)", &["a1"]);
        check_labels("absent!=x", &["a1", "a2", "b1"]);
    }

    #[test]
    fn an_unreadable_selector_is_refused() {
        assert_eq!("app in v1".parse::<LabelSelector>().unwrap_err().code, 400);
        assert_eq!("app is v1".parse::<LabelSelector>().unwrap_err().code, 400);
    }

    #[test]
    fn fields_are_selected_by_few_of_them() {
        let object = json!({ "metadata": { "name": "live" }, "involvedObject": { "name": "x" } });
        let selects = |text: &str, resource| FieldSelector::parse(text, resource).map(|rules| rules.selects(&object));
        assert_eq!(selects("metadata.name=live", Resource::Service), Ok(true));
        assert_eq!(selects("metadata.name!=live", Resource::Service), Ok(false));
        assert_eq!(selects("regarding.name=x", Resource::Event), Ok(true));
        assert_eq!(selects("involvedObject.name=x,metadata.name=y", Resource::CoreEvent), Ok(false));
        let refused = selects("spec.selector=x", Resource::Service).unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (400, "field label not supported: spec.selector"));
    }
}
