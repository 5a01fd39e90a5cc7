//! The description of the API, made from the handlers themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use utoipa::openapi::content::{Content, ContentBuilder};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    Components, ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required, Response,
    ResponseBuilder,
};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

use super::events::Missed;
use super::orders::{PromoteBody, ReasonBody, ResumeBody};
use super::{PROBLEM_TYPE, Problem};

/// What stands above the paths.
pub(super) fn header() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Pointsman admin API")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Routes, rollouts, decisions and config of a running edge. Without admin.token_file it is open to this machine only, and needs an IP address or `localhost` as the host."));
    OpenApiBuilder::new().info(info).components(Some(components())).build()
}

fn components() -> Components {
    let token = SecurityScheme::Http(
        HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("What stands in admin.token_file.")).build(),
    );
    ComponentsBuilder::new()
        .security_scheme("token", token)
        .schema(Problem::name(), Problem::schema())
        .schema(Missed::name(), Missed::schema())
        .build()
}

/// Orders that need no words come without a body as well, which their types do not say.
fn let_words_be_left_out(api: &mut OpenApi) {
    let words = [ReasonBody::name(), PromoteBody::name(), ResumeBody::name()].map(Ref::from_schema_name);
    let are_words = |content: &RefOr<Content>| match content {
        RefOr::T(Content { schema: Some(RefOr::Ref(schema)), .. }) => {
            words.iter().any(|known| known.ref_location == schema.ref_location)
        }
        RefOr::T(_) | RefOr::Ref(_) => false,
    };
    for path in api.paths.paths.values_mut() {
        if let Some(RefOr::T(body)) = path.post.as_mut().and_then(|post| post.request_body.as_mut())
            && body.content.values().all(are_words)
        {
            body.required = Some(Required::False);
        }
    }
}

/// Serves the finished description.
pub(super) fn document(
    mut api: OpenApi,
) -> impl Fn() -> std::future::Ready<Json<Arc<OpenApi>>> + Clone + Send + Sync + 'static {
    let_words_be_left_out(&mut api);
    let api = Arc::new(api);
    move || std::future::ready(Json(Arc::clone(&api)))
}

/// What every closed path may answer.
pub(super) struct CommonProblems;

impl IntoResponses for CommonProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems([
            ("401", "`unauthorized`: there is no token; `invalid_token`: it is not the right one"),
            ("403", "`host_not_allowed`: there is no token, and the host is neither an IP address nor `localhost`"),
            (
                "503",
                "`token_unreadable`, `state_unavailable`, `stopping`, or `too_many_streams` for events: come again in a moment",
            ),
            ("504", "`too_slow`, or `unconfirmed` for an order that may still be carried out"),
        ])
    }
}

/// What a path with a route in it may answer.
pub(super) struct RouteProblems;

impl IntoResponses for RouteProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems([("404", "`unknown_route`; `known` lists the routes there are")])
    }
}

/// What may be answered to whatever is asked with words: who, why, and what was seen.
pub(super) struct WordsProblems;

impl IntoResponses for WordsProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems([
            ("400", "`bad_body`: no JSON; `bad_actor`; `bad_seen_decision`"),
            ("413", "`body_too_large`"),
            ("415", "`not_json`: an order needs content-type application/json"),
            ("422", "`invalid_body`, `bad_weights` or `bad_reason`: JSON, but not what it should be"),
        ])
    }
}

/// What an order may be answered beside that.
pub(super) struct OrderProblems;

impl IntoResponses for OrderProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut answers = WordsProblems::responses();
        answers.extend(problems([
            (
                "409",
                "the route's state forbids it; `code` and `detail` say why, and the way out. `overtaken`: something was decided after the decision of `x-pointsman-seen-decision`; a rollback is never overtaken",
            ),
        ]));
        answers
    }
}

fn problems<const N: usize>(list: [(&str, &str); N]) -> BTreeMap<String, RefOr<Response>> {
    list.into_iter().map(|(status, what)| (status.to_owned(), RefOr::T(problem(what)))).collect()
}

fn problem(what: &str) -> Response {
    let schema = Ref::from_schema_name(Problem::name());
    ResponseBuilder::new()
        .description(what)
        .content(PROBLEM_TYPE, ContentBuilder::new().schema(Some(schema)).build())
        .build()
}
