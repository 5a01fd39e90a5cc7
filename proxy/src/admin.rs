//! The admin API: what operators, dashboards and scrapers ask of a running edge.
//!
//! Line: HTTP request ► access ► **admin** ► [`ControlHandle`]. Reads are answered from the last [`View`](crate::view::View);
//! writes become orders for the control loop and are answered once they are in force. Every answer that is
//! not the thing asked for is an `application/problem+json` with a `code` and a way out.

mod access;
mod dashboard;
mod events;
mod notifications;
mod openapi;
mod orders;
mod problem;
mod reads;
mod serve;
mod weights;
mod write_limit;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use http::StatusCode;
use pointsman_config::RouteName;
use thiserror::Error;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use access::TokenFile;
pub(crate) use access::{bearer, same};
pub use events::Missed;
pub use orders::{ForeignBody, OrderAnswer, PromoteBody, ReasonBody, ResumeBody, RetryBody, WeightsBody};
pub use problem::{Problem, ProblemKind};
pub use reads::{ConfigAnswer, CountsAnswer, DecisionsAnswer, RoutesAnswer};
pub use serve::serve;
pub use weights::{WeightsError, split_of};

use crate::control::handle::ControlHandle;
use crate::control::series::SeriesBook;
use crate::metrics::Metrics;
use crate::notify::Notifier;
use crate::view::DecisionRow;

/// Largest request body that is read, in bytes; an order takes a few hundred.
const BODY_BYTES: usize = 64 << 10;
/// Longest that a request may take until its answer begins.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The media type of every error.
pub const PROBLEM_TYPE: &str = "application/problem+json";
/// Request header with the name of who gives an order, for the decision log.
pub const ACTOR_HEADER: &str = "x-pointsman-actor";

/// Request header with the number of the newest decision that who gives an order had seen, 0 for none: if another was made
/// since, the order is refused.
pub const SEEN_HEADER: &str = "x-pointsman-seen-decision";

/// The decision log, as the admin API reads it.
#[async_trait]
pub trait DecisionLog: Send + Sync {
    /// The newest `limit` decisions of `route` with a number below `before` (none: from the newest), newest first.
    ///
    /// # Errors
    /// If the log cannot be read.
    async fn decisions(
        &self,
        route: &RouteName,
        limit: usize,
        before: Option<u64>,
    ) -> Result<Vec<DecisionRow>, DecisionLogError>;

    /// The decision with this number, of whatever route; none if there is no such one.
    ///
    /// # Errors
    /// If the log cannot be read.
    async fn decision(&self, id: u64) -> Result<Option<DecisionRow>, DecisionLogError>;
}

/// Why the decision log could not be read.
#[derive(Debug, Error)]
#[error("the decision log cannot be read: {problem}")]
pub struct DecisionLogError {
    /// What is wrong, and the way out.
    pub problem: String,
}

/// Everything the admin API works with; cheap to clone.
#[derive(Clone)]
pub struct AdminContext {
    /// The control loop.
    pub handle: ControlHandle,
    /// The decision log.
    pub decisions: Arc<dyn DecisionLog>,
    /// The last half hour of every route.
    pub series: SeriesBook,
    /// What `/metrics` gives.
    pub metrics: Metrics,
    /// Who outside is told of changes.
    pub notifier: Notifier,
    /// Who may come in; none only where the address is loopback.
    pub token: Option<TokenFile>,
}

/// The whole admin API; [`serve`] serves it.
pub fn router(context: AdminContext) -> Router {
    let (open, open_api) = open_routes().split_for_parts();
    let (closed, mut api) = reading_routes().merge(order_routes()).split_for_parts();
    api.merge(open_api);
    let closed = closed
        .route("/openapi.json", get(openapi::document(api)))
        .route_layer(middleware::from_fn_with_state(context.token.clone(), access::check));
    open.merge(closed)
        .merge(dashboard::pages())
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(Extension(events::Streams::default()))
        .layer(middleware::from_fn(answer_in_time))
        .with_state(context)
}

/// What probes and scrapers ask: no token.
fn open_routes() -> OpenApiRouter<AdminContext> {
    OpenApiRouter::new().routes(routes!(reads::livez)).routes(routes!(reads::readyz)).routes(routes!(reads::metrics))
}

/// What operators ask.
fn reading_routes() -> OpenApiRouter<AdminContext> {
    OpenApiRouter::with_openapi(openapi::header())
        .routes(routes!(reads::routes))
        .routes(routes!(reads::route))
        .routes(routes!(reads::series))
        .routes(routes!(reads::decisions))
        .routes(routes!(reads::decision))
        .routes(routes!(reads::counts))
        .routes(routes!(reads::config))
        .routes(routes!(events::events))
}

/// What operators order.
fn order_routes() -> OpenApiRouter<AdminContext> {
    OpenApiRouter::new()
        .routes(routes!(orders::weights))
        .routes(routes!(orders::promote))
        .routes(routes!(orders::rollback))
        .routes(routes!(orders::pause))
        .routes(routes!(orders::resume))
        .routes(routes!(orders::retry))
        .routes(routes!(notifications::test))
}

async fn unknown_path(request: Request) -> Problem {
    let what = format!("there is nothing at `{}`; GET /openapi.json lists what there is", request.uri().path());
    Problem::new(StatusCode::NOT_FOUND, "unknown_path", what)
}

async fn wrong_method(request: Request) -> Problem {
    let what =
        format!("`{}` does not take {}; GET /openapi.json lists what it takes", request.uri().path(), request.method());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", what)
}

async fn answer_in_time(request: Request, next: Next) -> Response {
    tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await.unwrap_or_else(|_| {
        let what = format!("no answer within {} s; ask again", ANSWER_WITHIN.as_secs());
        Problem::new(StatusCode::GATEWAY_TIMEOUT, "too_slow", what).into_response()
    })
}

/// What handlers take as their state.
type Context = State<AdminContext>;
