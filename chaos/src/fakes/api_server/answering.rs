//! What the server does with a request that met no fault, and how it says so.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::Shared;
use super::call::{Call, Verb};
use super::object::text;
use super::patch::Patch;
use super::refusal::Refusal;
use super::resource::Key;
use super::store::{Deletion, Page, Writer};
use super::watching;
use crate::serve::{self, AnswerBody};

/// Does what is asked.
pub(super) fn answer(shared: &Arc<Shared>, call: &Call) -> Result<Response<AnswerBody>, Refusal> {
    let (status, value) = match call.verb {
        Verb::Watch => return watching::begin(shared, call),
        Verb::Get => (StatusCode::OK, shared.store().get_part(&call.key(), call.target.part)?),
        Verb::List => (StatusCode::OK, list(shared, call)?),
        Verb::Create => (StatusCode::CREATED, create(shared, call)?),
        Verb::Update => update(shared, call)?,
        Verb::Patch => patch(shared, call)?,
        Verb::Delete => (StatusCode::OK, delete(shared, call)?),
        Verb::DeleteCollection => (StatusCode::OK, delete_all(shared, call)?),
    };
    Ok(serve::json(status, &value).map(AnswerBody::from))
}

/// A refusal as an answer.
pub(super) fn refused(refusal: &Refusal) -> Response<AnswerBody> {
    let status = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = serve::json(status, &refusal.to_status()).map(AnswerBody::from);
    if let Some(seconds) = refusal.retry_after_s() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn writer(call: &Call) -> Writer {
    Writer { manager: call.manager.clone(), now: SystemTime::now(), dry_run: call.dry_run }
}

fn list(shared: &Shared, call: &Call) -> Result<Value, Refusal> {
    let selection = call.selection()?;
    let asked = call.revision()?.filter(|revision| *revision > 0);
    let store = shared.store();
    let is_exact = call.asked("resourceVersionMatch") == Some("Exact");
    if let Some(asked) = asked.filter(|asked| *asked > store.revision()) {
        return Err(Refusal::too_new(asked, store.revision()));
    }
    let page = Page {
        limit: call.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or_default(),
        next: call.asked("continue").map(str::to_owned),
        revision: asked.filter(|_| is_exact),
    };
    let listing = store.list(&selection, &page)?;
    let mut metadata = json!({ "resourceVersion": listing.revision.to_string() });
    if let Some(next) = listing.next {
        metadata = json!({
            "resourceVersion": listing.revision.to_string(),
            "continue": next,
            "remainingItemCount": listing.remaining,
        });
    }
    Ok(json!({
        "kind": format!("{}List", selection.resource.kind()),
        "apiVersion": selection.resource.api_version(),
        "metadata": metadata,
        "items": listing.items,
    }))
}

fn create(shared: &Shared, call: &Call) -> Result<Value, Refusal> {
    if call.target.name.is_some() {
        return Err(Refusal::method_not_allowed());
    }
    shared.store().create(call.resource(), call.namespace(), read(&call.body)?, &writer(call))
}

fn update(shared: &Shared, call: &Call) -> Result<(StatusCode, Value), Refusal> {
    let object = read(&call.body)?;
    let mut store = shared.store();
    let was_there = store.get(&call.key()).is_ok();
    let after = store.replace(&call.key(), call.target.part, object, &writer(call))?;
    Ok((made(was_there), after))
}

fn patch(shared: &Shared, call: &Call) -> Result<(StatusCode, Value), Refusal> {
    let patch = Patch::parse(&call.media_type, &call.body, call.asks("force"))?;
    if matches!(patch, Patch::Apply { .. }) && call.asked("fieldManager").is_none() {
        return Err(Refusal::unmanaged_apply());
    }
    let mut store = shared.store();
    let was_there = store.get(&call.key()).is_ok();
    let after = store.patch(&call.key(), call.target.part, &patch, &writer(call))?;
    Ok((made(was_there), after))
}

fn made(was_there: bool) -> StatusCode {
    if was_there { StatusCode::OK } else { StatusCode::CREATED }
}

fn delete(shared: &Shared, call: &Call) -> Result<Value, Refusal> {
    let deletion = deletion(call)?;
    let key = call.key();
    let last = shared.store().delete(&key, &deletion, &writer(call))?;
    Ok(if key.resource.is_returned_by_delete() { last } else { deleted(&key, &last) })
}

/// What a deletion answers for most kinds.
fn deleted(key: &Key, last: &Value) -> Value {
    let mut details = json!({ "name": key.name, "kind": key.resource.plural(), "uid": text(last, "/metadata/uid") });
    if !key.resource.group().is_empty() {
        super::object::set(&mut details, &["group"], key.resource.group());
    }
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details })
}

fn delete_all(shared: &Shared, call: &Call) -> Result<Value, Refusal> {
    let (selection, deletion, writer) = (call.selection()?, deletion(call)?, writer(call));
    let mut store = shared.store();
    let mut gone = Vec::new();
    for object in store.all(&selection) {
        let key = Key::new(call.resource(), text(&object, "/metadata/namespace"), text(&object, "/metadata/name"));
        gone.push(store.delete(&key, &deletion, &writer)?);
    }
    Ok(json!({
        "kind": format!("{}List", call.resource().kind()),
        "apiVersion": call.resource().api_version(),
        "metadata": { "resourceVersion": store.revision().to_string() },
        "items": gone,
    }))
}

fn deletion(call: &Call) -> Result<Deletion, Refusal> {
    let options = if call.body.is_empty() { json!({}) } else { read(&call.body)? };
    let wanted = |pointer: &str| Some(text(&options, pointer)).filter(|text| !text.is_empty()).map(str::to_owned);
    let grace = options.get("gracePeriodSeconds").and_then(Value::as_u64);
    Ok(Deletion {
        uid: wanted("/preconditions/uid"),
        resource_version: wanted("/preconditions/resourceVersion"),
        grace: grace.or(call.number("gracePeriodSeconds")?).map(Duration::from_secs),
    })
}

fn read(body: &Bytes) -> Result<Value, Refusal> {
    let value: Value = serde_json::from_slice(body).map_err(|error| Refusal::bad_request(error.to_string()))?;
    if value.is_object() { Ok(value) } else { Err(Refusal::bad_request("the object provided is unrecognized")) }
}
