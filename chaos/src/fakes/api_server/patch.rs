//! What a `PATCH` asks for, by its media type.

use serde_json::Value;

use super::refusal::Refusal;

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// The kinds of patches that are understood.
pub(super) const MEDIA_TYPES: [&str; 3] = [JSON_PATCH, MERGE_PATCH, APPLY_PATCH];

/// As the real server has it.
const MAX_OPERATIONS: usize = 10_000;

/// A wish to change an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Patch {
    /// RFC 6902: operations in order, of which all or none are done.
    Json(json_patch::Patch),
    /// RFC 7396: fields to set, and to take away where they are null.
    Merge(Value),
    /// Server-side apply: all that this manager wants to own.
    Apply {
        /// The fields, with `apiVersion`, `kind` and the name.
        config: Value,
        /// Takes fields from other managers.
        force: bool,
    },
}

impl Patch {
    /// A JSON patch of operations as JSON.
    ///
    /// # Errors
    /// 400 when these are no operations, 413 when they are too many.
    pub fn json(operations: Value) -> Result<Self, Refusal> {
        let patch: json_patch::Patch =
            serde_json::from_value(operations).map_err(|error| Refusal::bad_request(error.to_string()))?;
        if patch.len() > MAX_OPERATIONS {
            return Err(Refusal::too_many_operations(MAX_OPERATIONS, patch.len()));
        }
        Ok(Self::Json(patch))
    }

    /// Reads the body of a request.
    ///
    /// # Errors
    /// 415 for a media type that is not understood, 400 for a body that cannot be read.
    pub(super) fn parse(media_type: &str, body: &[u8], force: bool) -> Result<Self, Refusal> {
        let value = || serde_json::from_slice(body).map_err(|error| Refusal::bad_request(error.to_string()));
        match media_type.split(';').next().unwrap_or_default().trim() {
            JSON_PATCH => Self::json(value()?),
            MERGE_PATCH => Ok(Self::Merge(value()?)),
            // YAML by its name; as every client of ours sends it, the part of YAML that is JSON.
            APPLY_PATCH => Ok(Self::Apply { config: value()?, force }),
            other => Err(Refusal::unsupported_media_type(other)),
        }
    }
}

/// The object after these operations.
///
/// # Errors
/// 422 when one of them fails, as a `test` does that finds something else.
pub(super) fn operated(object: &Value, operations: &json_patch::Patch) -> Result<Value, Refusal> {
    let mut after = object.clone();
    // The real server says neither which operation failed nor why, and so nobody can come to rely on it here.
    match json_patch::patch_unsafe(&mut after, operations) {
        Ok(()) => Ok(after),
        Err(error) => {
            tracing::debug!(%error, "patch refused");
            Err(Refusal::unprocessable_patch())
        }
    }
}

/// The object with these fields merged into it.
pub(super) fn merged(object: &Value, fields: &Value) -> Value {
    let mut after = object.clone();
    json_patch::merge(&mut after, fields);
    after
}
