//! The API's routes and their description (OpenAPI 3.1), both generated from the handlers.

use axum::Router;
use axum::http::header;
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use utoipa::OpenApi;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, Ref, RefOr, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::PROBLEM_JSON;
use super::{
    SharedDoor, audit, events, export, feedback, inbox, jobs, operate, page, preview, records,
    schedules, series, session, status, submit, suppressions, templates, unsubscribe, webhooks,
};

/// The name of the security scheme for bearer tokens.
const BEARER: &str = "token";

/// The errors that every call may return, and why.
const COMMON_ERRORS: [(&str, &str); 4] = [
    ("401", "No valid token"),
    (
        "403",
        "The token's scope does not allow this, or it comes from a web page",
    ),
    (
        "503",
        "Not available now; `Retry-After` says when to try again",
    ),
    ("504", "The answer took too long"),
];

/// The errors of calls that read a body.
const BODY_ERRORS: [(&str, &str); 5] = [
    (
        "429",
        "The token has used up what is allowed, or too many ask for this at once; `Retry-After` \
         says when to try again",
    ),
    ("400", "The body cannot be read"),
    ("408", "The body took too long to arrive"),
    ("413", "Too large"),
    ("415", "The media type is not supported"),
];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Postrider",
        description = "A durable mail dispatcher. Every error is a problem (RFC 9457).",
    ),
    tags(
        (name = "mails", description = "Submitting mail, and its status"),
        (name = "dead letters", description = "Dead letters"),
        (name = "templates", description = "Templates"),
        (name = "suppressions", description = "Who is not to get mail"),
        (name = "feedback", description = "What comes back for mail that was sent"),
        (name = "events", description = "Events"),
        (name = "status", description = "The status of a mail for end users; needs `[status]`"),
        (name = "service", description = "Relays, numbers, health"),
    ),
    components(schemas(
        crate::Event,
        events::MissedEvents,
        events::SkippedEvents,
        export::Format,
        preview::html::Images,
        preview::html::Theme,
        crate::GroupBy
    )),
)]
struct ApiDocument;

/// All routes, with the document that describes them.
pub(super) fn router(has_page: bool) -> Router<SharedDoor> {
    let (router, mut document) = calls();
    describe_what_all_share(&mut document);
    let document = Bytes::from(document.to_json().unwrap_or_default());
    let leaving = get(unsubscribe::ask).post(unsubscribe::leave);
    let router = router.route("/u/{token}", leaving);
    let page = match has_page {
        true => page::routes(),
        false => Router::new(),
    };

    router.merge(page).route(
        "/openapi.json",
        get(move || {
            std::future::ready(
                (
                    [(header::CONTENT_TYPE, "application/json")],
                    document.clone(),
                )
                    .into_response(),
            )
        }),
    )
}

fn calls() -> (Router<SharedDoor>, utoipa::openapi::OpenApi) {
    let for_end_users = OpenApiRouter::new()
        .routes(routes!(status::status))
        .routes(routes!(status::events))
        .routes(routes!(status::script))
        .layer(middleware::from_fn(status::for_every_page));

    OpenApiRouter::<SharedDoor>::with_openapi(ApiDocument::openapi())
        .merge(for_end_users)
        .routes(routes!(submit::submit, records::list, jobs::purge))
        .routes(routes!(submit::submit_batch))
        .routes(routes!(records::count))
        .routes(routes!(export::export))
        .routes(routes!(records::failures))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::retry))
        .routes(routes!(jobs::jobs))
        .routes(routes!(jobs::job, jobs::stop))
        .routes(routes!(records::record))
        .routes(routes!(records::raw))
        .routes(routes!(preview::preview))
        .routes(routes!(preview::html))
        .routes(routes!(preview::part))
        .routes(routes!(inbox::latest))
        .routes(routes!(records::cancel))
        .routes(routes!(records::retry))
        .routes(routes!(records::retry_dead))
        .routes(routes!(records::purge_dead))
        .routes(routes!(events::events))
        .routes(routes!(audit::audit))
        .routes(routes!(operate::relays))
        .routes(routes!(operate::domains))
        .routes(routes!(operate::nodes))
        .routes(routes!(operate::pause))
        .routes(routes!(operate::resume))
        .routes(routes!(templates::list))
        .routes(routes!(templates::render))
        .routes(routes!(
            suppressions::list,
            suppressions::add,
            suppressions::remove
        ))
        .routes(routes!(suppressions::import))
        .routes(routes!(feedback::report::take))
        .routes(routes!(feedback::provider::take))
        .routes(routes!(suppressions::export))
        .routes(routes!(webhooks::list))
        .routes(routes!(schedules::list))
        .routes(routes!(webhooks::test))
        .routes(routes!(webhooks::redeliver))
        .routes(routes!(operate::stats))
        .routes(routes!(operate::configuration))
        .routes(routes!(series::series))
        .routes(routes!(
            session::session,
            session::sign_in,
            session::sign_out
        ))
        .routes(routes!(operate::metrics))
        .routes(routes!(operate::live))
        .routes(routes!(operate::ready))
        .split_for_parts()
}

/// Adds the parts that are the same for every call: problems, and the token.
fn describe_what_all_share(document: &mut utoipa::openapi::OpenApi) {
    let scheme = Http::builder()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A token of `http.tokens`"))
        .build();

    document
        .components
        .get_or_insert_default()
        .security_schemes
        .insert(BEARER.to_owned(), SecurityScheme::Http(scheme));

    for (path, item) in &mut document.paths.paths {
        let operations = [&mut item.get, &mut item.post, &mut item.delete]
            .into_iter()
            .flatten();
        for operation in operations {
            let takes_parameters = operation
                .parameters
                .as_ref()
                .is_some_and(|parameters| !parameters.is_empty());
            let mut problems = COMMON_ERRORS.to_vec();
            if operation.request_body.is_some() {
                problems.extend(BODY_ERRORS);
            }
            if takes_parameters || operation.request_body.is_some() {
                problems.push((
                    "422",
                    "Something in the request is not valid; `errors` points at each",
                ));
            }
            if path.contains('{') {
                problems.push(("404", "There is none of that name"));
            }
            add_problems(operation, &problems);
            let is_open = ["/health/", "/status", "/v1/feedback/{"];
            if !is_open.iter().any(|open| path.starts_with(open)) {
                operation.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>(
                    BEARER,
                    [],
                )]);
            }
        }
    }
}

fn add_problems(operation: &mut Operation, problems: &[(&str, &str)]) {
    for (status, description) in problems {
        let content = Content::builder()
            .schema(Some(Ref::from_schema_name("Problem")))
            .build();
        let response = Response::builder()
            .description(*description)
            .content(PROBLEM_JSON, content)
            .build();
        operation
            .responses
            .responses
            .entry((*status).to_owned())
            .or_insert(RefOr::T(response));
    }
}
