//! Where other edges come in: three questions, a token, and little patience.
//!
//! Line: (leader) ► **serve** ► control. Everything is answered by the control loop, after what was told is in force.

use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use http::StatusCode;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use super::Message;
use super::token::SharedToken;
use super::wire::{Answer, Ask, Carried, EXCHANGE, ORDER, PassedOn, Stale, TRIP, Tripped};
use crate::admin::Problem;

/// Largest question, in bytes: the state of a thousand routes takes a third of a megabyte.
pub(super) const BODY_BYTES: usize = 8 << 20;
/// Longest that a question may take from its head to its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What handlers work with.
#[derive(Debug, Clone)]
struct Door {
    messages: mpsc::UnboundedSender<Message>,
    token: SharedToken,
}

/// Serves other edges on `listener`, without end.
pub(crate) async fn serve(listener: TcpListener, messages: mpsc::UnboundedSender<Message>, token: SharedToken) {
    crate::admin::serve(listener, router(messages, token), std::future::pending()).await;
}

fn router(messages: mpsc::UnboundedSender<Message>, token: SharedToken) -> Router {
    let door = Door { messages, token };
    Router::new()
        .route(EXCHANGE, post(exchange))
        .route(TRIP, post(trip))
        .route(ORDER, post(order))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(middleware::from_fn_with_state(door.clone(), check))
        .layer(middleware::from_fn(in_time))
        .with_state(door)
}

async fn check(State(door): State<Door>, request: Request, next: Next) -> Response {
    match door.token.admits(request.headers()).await {
        Ok(true) => next.run(request).await,
        Ok(false) => {
            let what =
                "this is for other edges of the same installation; they offer the token of `replicas.token_file`";
            Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", what).into_response()
        }
        Err(error) => {
            error!(%error, "no other edge is let in");
            let what = "this edge cannot read its token; its log names the file and the reason";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "token_unreadable", what).into_response()
        }
    }
}

async fn in_time(request: Request, next: Next) -> Response {
    tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await.unwrap_or_else(|_elapsed| {
        let what = format!("no answer within {} s", ANSWER_WITHIN.as_secs());
        Problem::new(StatusCode::GATEWAY_TIMEOUT, "too_slow", what).into_response()
    })
}

async fn exchange(State(door): State<Door>, Json(ask): Json<Ask>) -> Result<Result<Json<Answer>, Refused>, Problem> {
    let (answer, answered) = oneshot::channel();
    let answer = door.ask(Message::Asked { ask: Box::new(ask), answer }, answered).await?;
    Ok(answer.map(Json).map_err(Refused))
}

async fn trip(State(door): State<Door>, Json(told): Json<Tripped>) -> Result<StatusCode, Problem> {
    let (answer, answered) = oneshot::channel();
    door.ask(Message::Told { told, done: answer }, answered).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn order(State(door): State<Door>, Json(passed): Json<PassedOn>) -> Result<Json<Carried>, Problem> {
    let (answer, answered) = oneshot::channel();
    let carried = door.ask(Message::Ordered { passed, answer }, answered).await?;
    Ok(Json(carried))
}

impl Door {
    async fn ask<T>(&self, message: Message, answered: oneshot::Receiver<T>) -> Result<T, Problem> {
        let stopping = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "this edge is stopping");
        self.messages.send(message).map_err(|_gone| stopping())?;
        answered.await.map_err(|_gone| stopping())
    }
}

/// The question of a leader that has been replaced.
struct Refused(Stale);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (StatusCode::CONFLICT, Json(self.0)).into_response()
    }
}
