//! Reads: probes, metrics, routes, decisions, the config in force. Nothing here waits for the control loop.

use std::sync::PoisonError;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use pointsman_rollout::Record;
use pointsman_telemetry::exposition;
use serde::{Deserialize, Serialize};
use tracing::error;
use utoipa::ToSchema;

use super::openapi::{CommonProblems, RouteProblems};
use super::{Context, Problem};
use crate::control::handle::ControlHandle;
use crate::view::{
    ConfigView, DecisionRow, ReplicasView, RouteView, SeriesView, SharedJournal, StateView, WebhookView,
};

/// Decisions given where nobody says how many.
const DECISIONS: usize = 50;
/// Decisions given at most.
const MOST_DECISIONS: usize = 500;

/// Every route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RoutesAnswer {
    /// In the order of the file.
    pub routes: Vec<RouteView>,
}

/// Decisions of one route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DecisionsAnswer {
    /// Newest first.
    pub decisions: Vec<DecisionRow>,
}

/// What a trial was decided on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CountsAnswer {
    /// The present trial, or the last one; none since the process began. `pointsman replay` reads it.
    #[schema(value_type = Option<Object>)]
    pub counts: Option<Record>,
}

/// The config in force, and where state is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigAnswer {
    /// The config.
    #[serde(flatten)]
    pub config: ConfigView,
    /// Where rollout state is kept, and whether that works.
    pub state: StateView,
    /// How this edge and others decide together; none if it is alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<ReplicasView>,
    /// Who outside is told of changes, in the order of the file; left out if nobody is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notifications: Vec<WebhookView>,
    /// Seconds that counted for no step, soak or bake, each of which took so much longer, since the process stood still.
    #[serde(default)]
    pub stood_still_s: f64,
}

/// Which decisions.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Window {
    /// How many at most, from 1; 50 if not given, 500 at most.
    limit: Option<usize>,
    /// Only those with a smaller number.
    before: Option<u64>,
}

/// Is the process able to answer at all?
#[utoipa::path(get, path = "/livez", tag = "probes", responses((status = OK, description = "it is", body = String)))]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Does it take traffic?
#[utoipa::path(get, path = "/readyz", tag = "probes", responses(
    (status = OK, description = "it does", body = String),
    (status = SERVICE_UNAVAILABLE, description = "not yet (`not_ready`), or no longer (`draining`)", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn readyz(State(context): Context) -> Result<&'static str, Problem> {
    let view = context.handle.view();
    if view.draining {
        return Err(Problem::unavailable(
            "draining",
            "the edge is stopping; requests under way are finished, new ones go elsewhere",
        ));
    }
    if !view.ready {
        return Err(Problem::unavailable(
            "not_ready",
            "the edge is starting; its config is not in force yet, its listeners do not accept yet, or the API server has not said yet where versions run and where rollouts stand; `pointsman status` shows what is missing",
        ));
    }
    Ok("ready\n")
}

/// Everything for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "probes", responses((status = OK, description = "Prometheus' text format 0.0.4; docs/METRICS.md says what each means", body = String)))]
pub(super) async fn metrics(State(context): Context) -> Result<Response, Problem> {
    match context.metrics.render() {
        Ok(text) => Ok(([(CONTENT_TYPE, exposition::CONTENT_TYPE)], text).into_response()),
        Err(cause) => {
            error!(%cause, "metrics cannot be written out");
            Err(Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "metrics",
                "the metrics cannot be written out; the edge's log says why",
            ))
        }
    }
}

/// Every route.
#[utoipa::path(get, path = "/api/v1/routes", tag = "routes", security(("token" = [])), responses(
    (status = OK, description = "in the order of the config file", body = RoutesAnswer), CommonProblems,
))]
pub(super) async fn routes(State(context): Context) -> Json<RoutesAnswer> {
    Json(RoutesAnswer { routes: context.handle.view().routes.clone() })
}

/// One route: phase, weights, versions, comparison.
#[utoipa::path(get, path = "/api/v1/routes/{route}", tag = "routes", security(("token" = [])), params(("route" = String, Path)), responses(
    (status = OK, description = "as of the last tenth of a second", body = RouteView), CommonProblems, RouteProblems,
))]
pub(super) async fn route(State(context): Context, Path(route): Path<String>) -> Result<Json<RouteView>, Problem> {
    find(&context.handle, &route).map(Json)
}

/// The last half hour of one route, second by second, as counted by this edge.
#[utoipa::path(get, path = "/api/v1/routes/{route}/series", tag = "routes", security(("token" = [])), params(("route" = String, Path)), responses(
    (status = OK, description = "oldest first; goes on with the `second` events", body = SeriesView), CommonProblems, RouteProblems,
))]
pub(super) async fn series(State(context): Context, Path(route): Path<String>) -> Result<Json<SeriesView>, Problem> {
    let name = find(&context.handle, &route)?.name;
    Ok(Json(context.series.of(&name)))
}

/// The route of this name.
pub(super) fn find(handle: &ControlHandle, name: &str) -> Result<RouteView, Problem> {
    let view = handle.view();
    let found = view.routes.iter().find(|route| route.name.as_str() == name);
    found.cloned().ok_or_else(|| Problem::unknown_route(name, handle))
}

/// The decision log of one route, newest first.
#[utoipa::path(get, path = "/api/v1/routes/{route}/decisions", tag = "decisions", security(("token" = [])), params(("route" = String, Path), Window), responses(
    (status = OK, description = "newest first; the next page begins `before` the last one's number", body = DecisionsAnswer),
    (status = BAD_REQUEST, description = "`bad_query`", body = Problem, content_type = "application/problem+json"),
    (status = UNPROCESSABLE_ENTITY, description = "`bad_query`: a `limit` of 0", body = Problem, content_type = "application/problem+json"),
    CommonProblems, RouteProblems,
))]
pub(super) async fn decisions(
    State(context): Context,
    Path(route): Path<String>,
    window: Result<Query<Window>, QueryRejection>,
) -> Result<Json<DecisionsAnswer>, Problem> {
    let Query(window) = window.map_err(|rejection| bad_query(&rejection))?;
    let route = find(&context.handle, &route)?.name;
    let limit = match window.limit {
        Some(0) => return Err(no_decisions_asked()),
        Some(limit) => limit.min(MOST_DECISIONS),
        None => DECISIONS,
    };
    let decisions = context.decisions.decisions(&route, limit, window.before).await?;
    Ok(Json(DecisionsAnswer { decisions }))
}

/// What the present or the last trial of one route was decided on, tick by tick, for `pointsman replay`.
#[utoipa::path(get, path = "/api/v1/routes/{route}/counts", tag = "decisions", security(("token" = [])), params(("route" = String, Path)), responses(
    (status = OK, description = "of up to two hours, some megabytes", body = CountsAnswer), CommonProblems, RouteProblems,
))]
pub(super) async fn counts(State(context): Context, Path(route): Path<String>) -> Result<Json<CountsAnswer>, Problem> {
    let name = find(&context.handle, &route)?.name;
    let view = context.handle.view();
    let journal = view.journals.get(&name);
    let record = |journal: &SharedJournal| journal.lock().unwrap_or_else(PoisonError::into_inner).record().cloned();
    Ok(Json(CountsAnswer { counts: journal.and_then(record) }))
}

fn no_decisions_asked() -> Problem {
    let what = format!("`limit` must be 1 to {MOST_DECISIONS}; leave it out for {DECISIONS}");
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_query", what)
}

fn bad_query(rejection: &QueryRejection) -> Problem {
    let what = format!("{}; write ?limit=50&before=NUMBER, both optional", rejection.body_text());
    Problem::new(StatusCode::BAD_REQUEST, "bad_query", what)
}

/// One decision with its evidence.
#[utoipa::path(get, path = "/api/v1/decisions/{id}", tag = "decisions", security(("token" = [])), params(("id" = u64, Path)), responses(
    (status = OK, description = "with counts, evidence and failing requests", body = DecisionRow),
    (status = NOT_FOUND, description = "`unknown_decision`", body = Problem, content_type = "application/problem+json"),
    CommonProblems,
))]
pub(super) async fn decision(State(context): Context, Path(id): Path<String>) -> Result<Json<DecisionRow>, Problem> {
    let unknown = || {
        let what =
            format!("there is no decision `{}`; GET /api/v1/routes/ROUTE/decisions lists them", id.escape_debug());
        Problem::new(StatusCode::NOT_FOUND, "unknown_decision", what)
    };
    let Ok(number) = id.parse() else { return Err(unknown()) };
    context.decisions.decision(number).await?.map(Json).ok_or_else(unknown)
}

/// The config in force, the last refused edit, and where state is kept.
#[utoipa::path(get, path = "/api/v1/config", tag = "config", security(("token" = [])), responses(
    (status = OK, description = "secrets are only named by their files", body = ConfigAnswer), CommonProblems,
))]
pub(super) async fn config(State(context): Context) -> Json<ConfigAnswer> {
    let view = context.handle.view();
    Json(ConfigAnswer {
        config: view.config.clone(),
        state: view.state.clone(),
        replicas: view.replicas.clone(),
        notifications: view.notifications.clone(),
        stood_still_s: view.stood_still.as_secs_f64(),
    })
}
