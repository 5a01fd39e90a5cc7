//! What happens, as it happens: server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::IntoResponse;
use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::{Stream, StreamExt, stream};
use http::StatusCode;
use pointsman_config::RouteName;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use utoipa::ToSchema;

use super::openapi::CommonProblems;
use super::{AdminContext, Context, Problem};
use crate::view::{AnalysisView, Event, RouteView};

/// How often a silent stream shows that it is alive.
const ALIVE_EVERY: Duration = Duration::from_secs(15);
/// Streams at a time. They do not end by themselves, so they must not take the places that orders and probes need.
const STREAMS: usize = 32;

/// The places for streams; each is held until its stream ends.
#[derive(Debug, Clone)]
pub(super) struct Streams(Arc<Semaphore>);

impl Default for Streams {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(STREAMS)))
    }
}

impl Streams {
    fn place(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.0).try_acquire_owned().map_err(|_full| {
            let what = format!(
                "{STREAMS} event streams are open already, and there are no more; close one, or ask GET /api/v1/routes now and then"
            );
            Problem::unavailable("too_many_streams", what)
        })
    }
}

/// Sent in place of events that the reader was too slow for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Missed {
    /// Always `missed`.
    #[serde(rename = "type")]
    pub kind: String,
    /// How many events were left out; read the routes and decisions anew.
    pub events: u64,
}

/// What a reader looks at.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Focus {
    /// The route that is looked at closely: of others come no `second`, and samples without `mirror` and `analysis.summary`.
    /// Empty: none is, and all are others.
    focus: Option<String>,
}

/// Decisions, turns of endpoints and config changes at once; every route, and the edge itself, once a second.
///
/// Server-sent events: `decision`, `sample`, `second`, `endpoint`, `config`, `edge`, and `missed` where the reader was too slow.
/// Each has one JSON object as its data, with its name in `type`; a decision has its number as its id. The stream begins with
/// the config and every route as they stand. No more than 32 are open at a time, and one whose reader takes nothing for
/// 10 s is cut.
#[utoipa::path(get, path = "/api/v1/events", tag = "events", security(("token" = [])), params(Focus), responses(
    (status = OK, description = "does not end; the data of one event", body = Event, content_type = "text/event-stream"),
    (status = BAD_REQUEST, description = "`bad_query`", body = Problem, content_type = "application/problem+json"),
    CommonProblems,
))]
pub(super) async fn events(
    State(context): Context,
    Extension(streams): Extension<Streams>,
    focus: Result<Query<Focus>, QueryRejection>,
) -> Result<impl IntoResponse, Problem> {
    let Query(Focus { focus }) = focus.map_err(|rejection| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "bad_query",
            format!("{}; write ?focus=ROUTE, or nothing", rejection.body_text()),
        )
    })?;
    let place = streams.place()?;
    let stream = stream_of(&context, focus).inspect(move |_| {
        // Goes when the stream goes.
        let _held = &place;
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(ALIVE_EVERY)))
}

fn stream_of(
    context: &AdminContext,
    focus: Option<String>,
) -> impl Stream<Item = Result<sse::Event, Infallible>> + use<> {
    // Listen before looking, so that nothing falls between the two.
    let coming = BroadcastStream::new(context.handle.events());
    let view = context.handle.view();
    let config = Event::Config(view.config.clone());
    let standing: Vec<Event> = [config].into_iter().chain(view.routes.iter().cloned().map(Event::Sample)).collect();
    let looked_at = move |event| std::future::ready(in_focus(event, focus.as_deref()));
    stream::iter(standing).map(Ok).chain(coming).filter_map(looked_at).map(|event| Ok(written(event)))
}

type Coming = Result<Event, BroadcastStreamRecvError>;

/// The event as somebody sees it who looks at one route closely; none if it is not for them. Without a focus every event is.
fn in_focus(event: Coming, focus: Option<&str>) -> Option<Coming> {
    let is_elsewhere = |route: &RouteName| focus.is_some_and(|focus| route.as_str() != focus);
    match event {
        Ok(Event::Second(second)) if is_elsewhere(&second.route) => None,
        Ok(Event::Sample(route)) if is_elsewhere(&route.name) => Some(Ok(Event::Sample(brief(route)))),
        event => Some(event),
    }
}

fn brief(route: RouteView) -> RouteView {
    let analysis = AnalysisView { summary: None, mirror: None, ..route.analysis };
    RouteView { analysis, mirror: None, ..route }
}

fn written(event: Result<Event, BroadcastStreamRecvError>) -> sse::Event {
    match event {
        Ok(event) => {
            let named = sse::Event::default().event(name(&event)).data(json(&event));
            match &event {
                Event::Decision(row) => named.id(row.id.to_string()),
                Event::Sample(_) | Event::Second(_) | Event::Endpoint(_) | Event::Config(_) | Event::Edge(_) => named,
            }
        }
        Err(BroadcastStreamRecvError::Lagged(events)) => {
            sse::Event::default().event("missed").data(json(&Missed { kind: "missed".to_owned(), events }))
        }
    }
}

const fn name(event: &Event) -> &'static str {
    match event {
        Event::Decision(_) => "decision",
        Event::Sample(_) => "sample",
        Event::Endpoint(_) => "endpoint",
        Event::Second(_) => "second",
        Event::Config(_) => "config",
        Event::Edge(_) => "edge",
    }
}

/// Plain data with text keys, which JSON can always say.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
