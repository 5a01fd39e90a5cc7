//! What the server says when it does not do what it was asked: a `Status`, word for word as the real one says it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::resource::{Key, Resource};

/// One thing that is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    reason: &'static str,
    words: String,
    field: String,
}

impl Cause {
    /// A field is missing.
    pub(super) fn required(field: &str, words: &str) -> Self {
        Self { reason: "FieldValueRequired", words: worded("Required value", words), field: field.to_owned() }
    }

    /// A field has a value that it cannot have.
    pub(super) fn invalid(field: &str, value: &Value, words: &str) -> Self {
        Self { reason: "FieldValueInvalid", words: format!("Invalid value: {value}: {words}"), field: field.to_owned() }
    }

    /// A field has a value that is none of the few it can have.
    pub(super) fn not_supported(field: &str, value: &Value, known: &[&str]) -> Self {
        let known: Vec<String> = known.iter().map(|known| format!("\"{known}\"")).collect();
        let words = format!("Unsupported value: {value}: supported values: {}", known.join(", "));
        Self { reason: "FieldValueNotSupported", words, field: field.to_owned() }
    }

    /// A field has a value that another one has.
    pub(super) fn duplicate(field: &str, value: &Value) -> Self {
        Self { reason: "FieldValueDuplicate", words: format!("Duplicate value: {value}"), field: field.to_owned() }
    }

    /// A field is not to be set, or not to be changed.
    pub(super) fn forbidden(field: &str, words: &str) -> Self {
        Self { reason: "FieldValueForbidden", words: worded("Forbidden", words), field: field.to_owned() }
    }

    /// A field holds more than it can.
    pub(super) fn too_long(field: &str, words: &str) -> Self {
        Self { reason: "FieldValueTooLong", words: worded("Too long", words), field: field.to_owned() }
    }

    /// A list has more items than it can.
    pub(super) fn too_many(field: &str, found: usize, most: usize) -> Self {
        let words = format!("Too many: {found}: must have at most {most} items");
        Self { reason: "FieldValueTooMany", words, field: field.to_owned() }
    }

    /// Another manager owns the field.
    pub(super) fn owned(field: String, words: String) -> Self {
        Self { reason: "FieldManagerConflict", words, field }
    }

    fn told(&self) -> String {
        format!("{}: {}", self.field, self.words)
    }
}

fn worded(what: &str, words: &str) -> String {
    if words.is_empty() { what.to_owned() } else { format!("{what}: {words}") }
}

/// The fields in conflict under the name of the manager that owns them.
fn told_by_manager(causes: &[Cause]) -> String {
    let mut fields: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for cause in causes {
        fields.entry(&cause.words).or_default().push(format!("- {}", cause.field));
    }
    let told = |(words, fields): (&str, Vec<String>)| {
        format!("{}:\n{}", words.replacen("conflict", "conflicts", 1), fields.join("\n"))
    };
    fields.into_iter().map(told).collect::<Vec<_>>().join("\n")
}

/// A `Status` of failure.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{code} {reason}: {message}")]
pub struct Refusal {
    /// The HTTP status.
    pub code: u16,
    /// What a program reads, `Conflict`.
    pub reason: &'static str,
    /// What a person reads.
    pub message: String,
    details: Map<String, Value>,
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: String) -> Self {
        Self { code, reason, message, details: Map::new() }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        for (field, value) in [("name", name), ("group", group), ("kind", kind)] {
            if !value.is_empty() {
                self.details.insert(field.to_owned(), value.into());
            }
        }
        self
    }

    fn about_key(self, key: &Key) -> Self {
        self.about(key.resource.group(), key.resource.plural(), &key.name)
    }

    fn because(mut self, causes: &[Cause]) -> Self {
        let causes =
            causes.iter().map(|cause| json!({ "reason": cause.reason, "message": cause.words, "field": cause.field }));
        self.details.insert("causes".to_owned(), causes.collect());
        self
    }

    fn retried_after(mut self, seconds: u64) -> Self {
        self.details.insert("retryAfterSeconds".to_owned(), seconds.into());
        self
    }

    /// 404: there is no such object.
    pub fn not_found(key: &Key) -> Self {
        let message = format!("{} \"{}\" not found", key.resource.qualified_plural(), key.name);
        Self::new(404, "NotFound", message).about_key(key)
    }

    /// 404: there is nothing at this path.
    pub(super) fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource".to_owned())
    }

    /// 405: this cannot be done there.
    pub(super) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message.to_owned())
    }

    /// 409: the name is taken.
    pub(super) fn already_exists(key: &Key) -> Self {
        let message = format!("{} \"{}\" already exists", key.resource.qualified_plural(), key.name);
        Self::new(409, "AlreadyExists", message).about_key(key)
    }

    /// 409: somebody else wrote meanwhile.
    pub fn modified(key: &Key) -> Self {
        let words = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(key, words)
    }

    /// 409, in these words.
    pub(super) fn conflict(key: &Key, words: &str) -> Self {
        let named = format!("{} \"{}\"", key.resource.qualified_plural(), key.name);
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled on {named}: {words}")).about_key(key)
    }

    /// 409: others own what an apply wants to change.
    pub(super) fn apply_conflict(causes: &[Cause]) -> Self {
        let told = match causes {
            [one] => format!("1 conflict: {}: {}", one.words, one.field),
            many => format!("{} conflicts: {}", many.len(), told_by_manager(many)),
        };
        Self::new(409, "Conflict", format!("Apply failed with {told}")).because(causes)
    }

    /// 422: nobody would own what is applied.
    pub(super) fn unmanaged_apply() -> Self {
        let cause = Cause::required("fieldManager", "is required for apply patch");
        let message = format!("PatchOptions.meta.k8s.io \"\" is invalid: {}", cause.told());
        Self::new(422, "Invalid", message).about("meta.k8s.io", "PatchOptions", "").because(&[cause])
    }

    /// 422: the object would not be one.
    pub(super) fn invalid(resource: Resource, name: &str, causes: &[Cause]) -> Self {
        let told: Vec<String> = causes.iter().map(Cause::told).collect();
        let told = match told.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} \"{name}\" is invalid: {told}", resource.qualified_kind());
        Self::new(422, "Invalid", message).about(resource.group(), resource.kind(), name).because(causes)
    }

    /// 422: a `PUT` of this kind names the version that it replaces. The real server names the kind by its plural here.
    pub(super) fn version_missing(key: &Key) -> Self {
        let words = "Invalid value: 0x0: must be specified for an update";
        let cause = Cause {
            reason: "FieldValueInvalid",
            words: words.to_owned(),
            field: "metadata.resourceVersion".to_owned(),
        };
        let message = format!("{} \"{}\" is invalid: {}", key.resource.qualified_plural(), key.name, cause.told());
        Self::new(422, "Invalid", message).about_key(key).because(&[cause])
    }

    /// 422: an operation of a JSON patch failed, a `test` for one. The real server does not say which.
    pub fn unprocessable_patch() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self::new(422, "Invalid", message.to_owned())
    }

    /// 400
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message.into())
    }

    /// 500, and not 400 or 422: the real server has no better code for it.
    pub(super) fn version_on_creation() -> Self {
        Self::new(500, "", "resourceVersion should not be set on objects to be created".to_owned())
    }

    /// 413: a JSON patch of too many operations.
    pub(super) fn too_many_operations(most: usize, found: usize) -> Self {
        let message = format!("The allowed maximum operations in a JSON patch is {most}, got {found}");
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 415
    pub(super) fn unsupported_media_type(found: &str) -> Self {
        let known = super::patch::MEDIA_TYPES.join(", ");
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {known}");
        Self::new(415, "UnsupportedMediaType", message).about("", "", found)
    }

    /// 410: the history that was asked for is forgotten.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message.into())
    }

    /// 403, for this user and this request.
    pub(super) fn forbidden(user: &str, verb: &str, key: &Key, part: &str) -> Self {
        let resource = key.resource;
        let plural =
            if part.is_empty() { resource.plural().to_owned() } else { format!("{}/{part}", resource.plural()) };
        let named = if key.name.is_empty() { String::new() } else { format!(" \"{}\"", key.name) };
        let place = match key.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        let message = format!(
            "{}{named} is forbidden: User \"{user}\" cannot {verb} resource \"{plural}\" in API group \"{}\" {place}",
            resource.qualified_plural(),
            resource.group()
        );
        Self::new(403, "Forbidden", message).about_key(key)
    }

    /// 403: the namespace of what is to be created is on its way out.
    pub(super) fn namespace_ends(key: &Key) -> Self {
        let namespace = &key.namespace;
        let message = format!(
            "{} \"{}\" is forbidden: unable to create new content in namespace {namespace} because it is being terminated",
            key.resource.qualified_plural(),
            key.name
        );
        let cause = Cause {
            reason: "NamespaceTerminating",
            words: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".to_owned(),
        };
        Self::new(403, "Forbidden", message).about_key(key).because(&[cause])
    }

    /// 429: come back later.
    pub fn too_many_requests(retry_after: Duration) -> Self {
        let message = "the server has received too many requests and has asked us to try again later";
        Self::new(429, "TooManyRequests", message.to_owned()).retried_after(retry_after.as_secs())
    }

    /// 504: not done in time; the real server does not know whether it will be done after all.
    pub fn timeout() -> Self {
        let message = "Timeout: request did not complete within requested timeout - context deadline exceeded";
        Self::new(504, "Timeout", message.to_owned())
    }

    /// 504: what was asked for is of a future revision.
    pub(super) fn too_new(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let mut refusal = Self::new(504, "Timeout", message).retried_after(1);
        let cause = json!({ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" });
        refusal.details.insert("causes".to_owned(), json!([cause]));
        refusal
    }

    /// A failure of the server itself: 500, 502, 503, or any other code from 500 on.
    pub fn server_error(code: u16) -> Self {
        match code {
            503 => Self::new(503, "ServiceUnavailable", "the server is currently unable to handle the request".into()),
            504 => Self::timeout(),
            code => {
                let message = "an error on the server (\"\") has prevented the request from succeeding";
                Self::new(code, "InternalError", message.to_owned())
            }
        }
    }

    /// When to come back, in seconds, as the header says it.
    pub(super) fn retry_after_s(&self) -> Option<u64> {
        self.details.get("retryAfterSeconds").and_then(Value::as_u64)
    }

    /// As the server sends it.
    pub fn to_status(&self) -> Value {
        json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        })
    }
}
