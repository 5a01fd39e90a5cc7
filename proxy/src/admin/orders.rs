//! Writes: an operator's order, carried out by the control loop, answered once it is in force.
//! The disk goes first, but is not waited for long: the answer says whether it has the order.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Path, Request, State};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use pointsman_config::{RouteName, Share, VersionId};
use pointsman_rollout::{Order, OrderKind, Resume};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::error::Category;
use utoipa::ToSchema;

use super::openapi::{CommonProblems, OrderProblems, RouteProblems};
use super::reads::find;
use super::weights::split_of;
use super::{ACTOR_HEADER, AdminContext, Context, Problem, SEEN_HEADER};
use crate::view::{DecisionRow, RouteView};

/// Longest that an order may take until it is in force.
const CARRIED_OUT_WITHIN: Duration = Duration::from_secs(10);
/// Longest name of who gives an order, in characters.
const ACTOR_CHARS: usize = 64;
/// Longest reason, in characters.
const REASON_CHARS: usize = 500;

/// An order without further words.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReasonBody {
    /// Why, for the decision log; 500 characters at most.
    #[serde(default)]
    pub reason: String,
}

/// Give the canary all traffic.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PromoteBody {
    /// Why, for the decision log; 500 characters at most. Needed with `force`.
    #[serde(default)]
    pub reason: String,
    /// Although the route is frozen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// Go on with a paused rollout.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeBody {
    /// Why, for the decision log; 500 characters at most.
    #[serde(default)]
    pub reason: String,
    /// What counts where somebody else changed the live Service; left out otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign: Option<ForeignBody>,
}

/// What counts where somebody else changed the live Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ForeignBody {
    /// What it is now.
    Adopt,
    /// What it was before.
    Restore,
}

/// Give a version that was taken back another chance.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryBody {
    /// Which.
    #[schema(value_type = String)]
    pub version: VersionId,
    /// Why, for the decision log; 500 characters at most.
    #[serde(default)]
    pub reason: String,
}

/// Divide the traffic by hand.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightsBody {
    /// By version, such as `{"v1": "90%", "v2": "10%"}`; they add up to 100%.
    #[serde(deserialize_with = "shares", serialize_with = "percentages")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub weights: BTreeMap<VersionId, Share>,
    /// Why, for the decision log; 500 characters at most.
    #[serde(default)]
    pub reason: String,
}

/// Shares as people write them, `90%`.
fn shares<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<VersionId, Share>, D::Error> {
    let written = BTreeMap::<VersionId, String>::deserialize(deserializer)?;
    written
        .into_iter()
        .map(|(version, share)| Ok((version, share.parse().map_err(serde::de::Error::custom)?)))
        .collect()
}

fn percentages<S: serde::Serializer>(weights: &BTreeMap<VersionId, Share>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(weights.iter().map(|(version, share)| (version, share.to_string())))
}

/// What an order led to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OrderAnswer {
    /// The rows that it added to the decision log; none if everything stood as asked already.
    pub decisions: Vec<DecisionRow>,
    /// The route afterwards.
    pub route: RouteView,
    /// Whether it was kept before this answer, in the state file or on the live Service. If not, the order is in force and
    /// waits for that; a crash before would forget it, and `state.problem` of `GET /api/v1/config` says what is wrong.
    pub persisted: bool,
}

/// Divide the traffic of a route by hand, until the next change of that route in the file.
#[utoipa::path(put, path = "/api/v1/routes/{route}/weights", tag = "orders", security(("token" = [])), params(("route" = String, Path), ("x-pointsman-actor" = Option<String>, Header), ("x-pointsman-seen-decision" = Option<u64>, Header)), request_body = WeightsBody, responses(
    (status = OK, description = "in force; `persisted` says whether it is kept too", body = OrderAnswer), CommonProblems, RouteProblems, OrderProblems,
))]
pub(super) async fn weights(
    State(context): Context,
    Path(route): Path<String>,
    Words { giver, body }: Words<WeightsBody>,
) -> Result<Json<OrderAnswer>, Problem> {
    let body = body.ok_or_else(no_body)?;
    let found = find(&context.handle, &route)?;
    let versions: Vec<&VersionId> = found.versions.keys().collect();
    let split = split_of(&body.weights, &found.stable, &versions);
    let split =
        split.map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_weights", error.to_string()))?;
    carry_out(&context, found.name, OrderKind::SetWeights(split), (giver, body.reason)).await
}

macro_rules! order {
    ($(#[$doc:meta])* $name:ident, $path:literal, $kind:expr) => {
        $(#[$doc])*
        #[utoipa::path(post, path = $path, tag = "orders", security(("token" = [])), params(("route" = String, Path), ("x-pointsman-actor" = Option<String>, Header), ("x-pointsman-seen-decision" = Option<u64>, Header)), request_body = ReasonBody, responses(
            (status = OK, description = "in force; `persisted` says whether it is kept too", body = OrderAnswer), CommonProblems, RouteProblems, OrderProblems,
        ))]
        pub(super) async fn $name(State(context): Context, Path(route): Path<String>, Words { giver, body }: Words<ReasonBody>) -> Result<Json<OrderAnswer>, Problem> {
            let route = find(&context.handle, &route)?.name;
            carry_out(&context, route, $kind, (giver, body.unwrap_or_default().reason)).await
        }
    };
}

/// Give the canary all traffic now.
#[utoipa::path(post, path = "/api/v1/routes/{route}/promote", tag = "orders", security(("token" = [])), params(("route" = String, Path), ("x-pointsman-actor" = Option<String>, Header), ("x-pointsman-seen-decision" = Option<u64>, Header)), request_body = PromoteBody, responses(
    (status = OK, description = "in force; `persisted` says whether it is on disk too", body = OrderAnswer), CommonProblems, RouteProblems, OrderProblems,
))]
pub(super) async fn promote(
    State(context): Context,
    Path(route): Path<String>,
    Words { giver, body }: Words<PromoteBody>,
) -> Result<Json<OrderAnswer>, Problem> {
    let PromoteBody { reason, force } = body.unwrap_or_default();
    if force && reason.trim().is_empty() {
        let what = "a promotion that goes past a freeze needs a `reason`, for who asks tomorrow";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_reason", what));
    }
    let route = find(&context.handle, &route)?.name;
    let kind = if force { OrderKind::ForcePromotion } else { OrderKind::Promote };
    carry_out(&context, route, kind, (giver, reason)).await
}
order! {
    /// Take the canary back to weight 0 now.
    rollback, "/api/v1/routes/{route}/rollback", OrderKind::Rollback
}
order! {
    /// Stop the rollout where it stands; the guard stays armed.
    pause, "/api/v1/routes/{route}/pause", OrderKind::Pause
}
/// Go on with a paused rollout. Where somebody else changed the live Service, say what counts.
#[utoipa::path(post, path = "/api/v1/routes/{route}/resume", tag = "orders", security(("token" = [])), params(("route" = String, Path), ("x-pointsman-actor" = Option<String>, Header), ("x-pointsman-seen-decision" = Option<u64>, Header)), request_body = ResumeBody, responses(
    (status = OK, description = "in force; `persisted` says whether it is kept too", body = OrderAnswer), CommonProblems, RouteProblems, OrderProblems,
))]
pub(super) async fn resume(
    State(context): Context,
    Path(route): Path<String>,
    Words { giver, body }: Words<ResumeBody>,
) -> Result<Json<OrderAnswer>, Problem> {
    let ResumeBody { reason, foreign } = body.unwrap_or_default();
    let how = match foreign {
        None => Resume::GoOn,
        Some(ForeignBody::Adopt) => Resume::Adopt,
        Some(ForeignBody::Restore) => Resume::Restore,
    };
    let route = find(&context.handle, &route)?.name;
    carry_out(&context, route, OrderKind::Resume(how), (giver, reason)).await
}

/// Lift the quarantine of a version that was taken back.
#[utoipa::path(post, path = "/api/v1/routes/{route}/retry", tag = "orders", security(("token" = [])), params(("route" = String, Path), ("x-pointsman-actor" = Option<String>, Header), ("x-pointsman-seen-decision" = Option<u64>, Header)), request_body = RetryBody, responses(
    (status = OK, description = "in force; `persisted` says whether it is kept too", body = OrderAnswer), CommonProblems, RouteProblems, OrderProblems,
))]
pub(super) async fn retry(
    State(context): Context,
    Path(route): Path<String>,
    Words { giver, body }: Words<RetryBody>,
) -> Result<Json<OrderAnswer>, Problem> {
    let body = body.ok_or_else(no_body)?;
    let route = find(&context.handle, &route)?.name;
    carry_out(&context, route, OrderKind::Retry(body.version), (giver, body.reason)).await
}

async fn carry_out(
    context: &AdminContext,
    route: RouteName,
    kind: OrderKind,
    (giver, reason): (Giver, String),
) -> Result<Json<OrderAnswer>, Problem> {
    let order = Order { kind, actor: giver.actor, reason: checked_reason(&reason)? };
    let order = context.handle.order_having_seen(route.clone(), order, giver.seen);
    let done = tokio::time::timeout(CARRIED_OUT_WITHIN, order).await;
    let Ok(done) = done else { return Err(unconfirmed()) };
    let done = done.map_err(|error| Problem::of_order(&error, &route, &context.handle))?;
    Ok(Json(OrderAnswer { decisions: done.decisions, route: done.route, persisted: done.persisted }))
}

fn unconfirmed() -> Problem {
    let what = format!(
        "the order was not confirmed within {} s and may still be carried out; look at the route and its decisions before giving it again",
        CARRIED_OUT_WITHIN.as_secs()
    );
    Problem::new(StatusCode::GATEWAY_TIMEOUT, "unconfirmed", what)
}

/// The reason without the blanks around it.
fn checked_reason(written: &str) -> Result<String, Problem> {
    let reason = written.trim();
    if reason.chars().count() <= REASON_CHARS && !reason.contains(char::is_control) {
        return Ok(reason.to_owned());
    }
    let what = format!("`reason` must be one line of {REASON_CHARS} characters at most");
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_reason", what))
}

/// Who gives an order, and its body; none if the request has none.
pub(super) struct Words<T> {
    giver: Giver,
    body: Option<T>,
}

/// Who gives an order, and what was known when it was given.
struct Giver {
    actor: String,
    /// The newest decision that was seen, if that is to count.
    seen: Option<u64>,
}

impl<T> Words<T> {
    /// Who gives it, where the rest says nothing more.
    pub(super) fn into_actor(self) -> String {
        self.giver.actor
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Words<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        needs_json(request.headers())?;
        let giver = Giver { actor: actor(request.headers())?, seen: seen(request.headers())? };
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| unreadable(&rejection))?;
        let body = if bytes.is_empty() { None } else { Some(object(&bytes).map_err(|error| not_understood(&error))?) };
        Ok(Self { giver, body })
    }
}

/// Serde would take a list for an object, field by field in the order of their declaration.
fn object<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(bytes)?;
    serde_json::from_slice(bytes)
}

/// A page of somebody else may send a form or plain text here without being asked, but never this type.
fn needs_json(headers: &HeaderMap) -> Result<(), Problem> {
    let written = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = written.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", "an order needs `content-type: application/json`"))
}

/// `api` where nobody says who.
fn actor(headers: &HeaderMap) -> Result<String, Problem> {
    let Some(written) = headers.get(ACTOR_HEADER) else { return Ok("api".to_owned()) };
    let named = written.to_str().map(str::trim).unwrap_or_default();
    if (1..=ACTOR_CHARS).contains(&named.chars().count()) {
        return Ok(named.to_owned());
    }
    let what = format!("`{ACTOR_HEADER}` must be 1 to {ACTOR_CHARS} visible ASCII characters");
    Err(Problem::new(StatusCode::BAD_REQUEST, "bad_actor", what))
}

/// None where nobody says; then nothing is too late.
fn seen(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(written) = headers.get(SEEN_HEADER) else { return Ok(None) };
    let number = written.to_str().ok().and_then(|written| written.trim().parse().ok());
    number.map(Some).ok_or_else(|| {
        let what =
            format!("`{SEEN_HEADER}` must be the number of a decision, 0 for none; leave it out if it is not to count");
        Problem::new(StatusCode::BAD_REQUEST, "bad_seen_decision", what)
    })
}

fn unreadable(rejection: &BytesRejection) -> Problem {
    let status = rejection.status();
    let code = if status == StatusCode::PAYLOAD_TOO_LARGE { "body_too_large" } else { "unreadable_body" };
    Problem::new(status, code, format!("{}; an order takes a few hundred bytes", rejection.body_text()))
}

fn no_body() -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad_body", "the body is empty; GET /openapi.json shows what it must hold")
}

fn not_understood(error: &serde_json::Error) -> Problem {
    let (status, code) = match error.classify() {
        Category::Data => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_body"),
        Category::Io | Category::Syntax | Category::Eof => (StatusCode::BAD_REQUEST, "bad_body"),
    };
    Problem::new(
        status,
        code,
        format!("the body is not what it should be: {error}; GET /openapi.json shows what it must hold"),
    )
}
