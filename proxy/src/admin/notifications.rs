//! Webhooks: a test of one, for who has just written it into the file.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;

use super::openapi::{CommonProblems, WordsProblems};
use super::orders::Words;
use super::{Context, Problem, ReasonBody};
use crate::notify::TestAnswer;

/// Post a test row to a webhook, once and from this edge. Nothing else comes of it.
#[utoipa::path(post, path = "/api/v1/notifications/{name}/test", tag = "notifications", security(("token" = [])), params(("name" = String, Path), ("x-pointsman-actor" = Option<String>, Header)), request_body = ReasonBody, responses(
    (status = OK, description = "posted; `delivered` says whether the receiver took it", body = TestAnswer),
    (status = NOT_FOUND, description = "`unknown_webhook`; `known` lists the webhooks there are", body = Problem, content_type = "application/problem+json"),
    CommonProblems, WordsProblems,
))]
pub(super) async fn test(
    State(context): Context,
    Path(name): Path<String>,
    words: Words<ReasonBody>,
) -> Result<Json<TestAnswer>, Problem> {
    let actor = words.into_actor();
    let (notifier, asked) = (context.notifier.clone(), name.clone());
    let tested = tokio::task::spawn_blocking(move || notifier.test(&asked, &actor)).await;
    let Ok(tested) = tested else {
        return Err(Problem::unavailable("stopping", "the edge is stopping and tests nothing"));
    };
    tested.map(Json).ok_or_else(|| {
        let known = context.notifier.names();
        let names =
            if known.is_empty() { "none; `notifications` in the file adds some".to_owned() } else { known.join(", ") };
        let what = format!("there is no webhook `{}`; webhooks: {names}", name.escape_debug());
        Problem { known, ..Problem::new(StatusCode::NOT_FOUND, "unknown_webhook", what) }
    })
}
