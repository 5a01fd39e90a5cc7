//! What happens to a request before anything is sent anywhere: its route, its version, and whether it may pass at all.
//!
//! Line: edge ► **admission** ► route ► split ► pool. Whatever parsed the head, HTTP/1.1 or HTTP/2, the same questions are
//! asked here, in the same order.

use std::time::Instant;

use http::{HeaderName, Version};

use crate::answer::{REQUEST_ID, Refusal};
use crate::forward;
use crate::guard::Framing;
use crate::recorder::{AssignedBy, Assignment};
use crate::request::RequestCtx;
use crate::snapshot::{ServedRoute, Snapshot};

/// What has to be known of a request head, whoever parsed it.
pub(crate) trait RequestHead {
    /// The host asked for, with its port; none where the request names none.
    fn host(&self) -> Option<&str>;
    /// The path, without the query.
    fn path(&self) -> &str;
    /// The method.
    fn method(&self) -> &str;
    /// The version of HTTP that it came in.
    fn version(&self) -> Version;
    /// Every value of a header, in the order of the head.
    fn values(&self, name: &HeaderName) -> impl Iterator<Item = &[u8]>;

    /// The single value of a header; none if it is missing or there are several.
    fn only(&self, name: &HeaderName) -> Option<&[u8]> {
        let mut values = self.values(name);
        values.next().filter(|_| values.next().is_none())
    }
}

impl RequestHead for pingora_http::RequestHeader {
    fn host(&self) -> Option<&str> {
        self.headers.get(http::header::HOST).and_then(|host| host.to_str().ok())
    }

    fn path(&self) -> &str {
        self.uri.path()
    }

    fn method(&self) -> &str {
        self.method.as_str()
    }

    fn version(&self) -> Version {
        self.version
    }

    fn values(&self, name: &HeaderName) -> impl Iterator<Item = &[u8]> {
        self.headers.get_all(name).iter().map(http::HeaderValue::as_bytes)
    }
}

/// Finds the route, chooses the version and checks the limits.
///
/// # Errors
/// What the client is told instead.
pub(crate) fn admit(ctx: &mut RequestCtx, head: &impl RequestHead) -> Result<(), Refusal> {
    let given = head.only(&REQUEST_ID);
    let request_id = forward::request_id(given);
    let clients_id = given.filter(|id| *id == request_id.as_bytes());
    ctx.set_request_id(request_id);
    let exchange = ctx.exchange.clone().ok_or(Refusal::Internal)?;
    let arrival = exchange.arrival().ok_or(Refusal::Internal)?;
    ctx.observe(head, &exchange.client, arrival.started);
    let position = ctx.snapshot().routes.position(head.host(), head.path()).ok_or(Refusal::NoRoute)?;
    let route = ctx.snapshot().routes.at(position).ok_or(Refusal::Internal)?;
    let assigned = route.assign.assign(head, &exchange.client, route.epoch.terms());
    let settings = std::sync::Arc::clone(&route.settings);
    let assignment = match clients_id {
        Some(id) => once(ctx.snapshot(), route, assigned.assignment, (id, arrival.started)),
        None => assigned.assignment,
    };
    let timeouts = settings.timeouts;
    exchange.set_patience(arrival.started + timeouts.total, timeouts.read, timeouts.idle);
    ctx.assign(position, assignment, arrival.started);
    ctx.new_user = assigned.new_user;
    // A tester who is sent elsewhere, or waits for what is known to be down, learns nothing of the version.
    if assignment.by == AssignedBy::Override && !ctx.has_endpoint_up() {
        return Err(Refusal::NoHealthyEndpoint);
    }
    let limits = &settings.limits;
    if u64::try_from(arrival.head.bytes).is_ok_and(|bytes| bytes > limits.header_bytes) {
        return Err(Refusal::HeadersTooLarge(limits.header_bytes));
    }
    if let Framing::Length(length) = arrival.head.framing
        && length > limits.body_bytes
    {
        return Err(Refusal::BodyTooLarge(limits.body_bytes));
    }
    let protection = &ctx.snapshot().routes.at(position).ok_or(Refusal::Internal)?.protection;
    protection.admit(head, &exchange.client, arrival.started)?;
    let permit = protection.enter(assigned.assignment.arm, arrival.started)?;
    ctx.hold(permit);
    Ok(())
}

/// A client that sends the same id again repeats a request that has been counted.
fn once(snapshot: &Snapshot, route: &ServedRoute, drawn: Assignment, (id, now): (&[u8], Instant)) -> Assignment {
    let repeats = route.canary.is_some() && snapshot.recent_ids.is_repeat(&route.name, id, now);
    if repeats { drawn.as_repeat() } else { drawn }
}
