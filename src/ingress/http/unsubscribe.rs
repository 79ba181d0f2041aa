//! `/u/{token}`: where recipients unsubscribe from a list. `GET` shows a page with a button,
//! because mail scanners follow every link; `POST` unsubscribes, without a cookie or a login (RFC
//! 8058 §3.1).

use axum::extract::{Extension, Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::digest;

use super::SharedDoor;
use super::access::Caller;
use super::problem::Problem;

/// The largest accepted body: `List-Unsubscribe=One-Click`, as either kind of form.
const MAX_BODY: usize = 16 * 1024;

/// The style of the page, in light and dark colours.
const STYLE: &str = ":root{color-scheme:light dark}body{font:1.1rem/1.5 system-ui,sans-serif;\
     max-width:32rem;margin:4rem auto;padding:0 1rem;overflow-wrap:anywhere}\
     button{font:inherit;padding:.5rem 1rem}";

/// The page with the button.
pub(super) async fn ask(
    State(door): State<SharedDoor>,
    Path(token): Path<String>,
) -> Result<Response, Problem> {
    let Some(asked) = door.dispatcher.read_unsubscribe(&token) else {
        return Ok(unknown());
    };
    let (address, list) = (escaped(asked.address.as_str()), escaped(&asked.list));
    Ok(page(
        StatusCode::OK,
        &format!(
            "<p>Shall <b>{address}</b> get no more mail of the list <b>{list}</b>?</p>\
             <form method=\"post\"><input type=\"hidden\" name=\"List-Unsubscribe\" \
             value=\"One-Click\"><button>Unsubscribe</button></form>"
        ),
    ))
}

/// Unsubscribes.
pub(super) async fn leave(
    State(door): State<SharedDoor>,
    Extension(caller): Extension<Caller>,
    Path(token): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let (_, body) = request.into_parts();
    // The content is ignored: the token says everything.
    door.collect(body, MAX_BODY).await?;
    let dispatcher = caller.acts_on(&door.dispatcher);
    let Some(asked) = dispatcher.unsubscribe(&token).await? else {
        return Ok(unknown());
    };
    let (address, list) = (escaped(asked.address.as_str()), escaped(&asked.list));
    let done = format!("<p><b>{address}</b> gets no more mail of the list <b>{list}</b>.</p>");
    Ok(page(StatusCode::OK, &done))
}

fn unknown() -> Response {
    let said = "<p>This link is not one that was sent, or not whole.</p>";
    page(StatusCode::NOT_FOUND, said)
}

fn page(status: StatusCode, body: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Unsubscribe</title>\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"robots\" content=\"noindex\">\
         <style>{STYLE}</style></head><body>{body}</body></html>"
    );

    let style = BASE64_STANDARD.encode(digest::digest(&digest::SHA256, STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; form-action 'self'; \
         frame-ancestors 'none'; base-uri 'none'"
    );

    let mut response = (status, html).into_response();
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }

    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }

    response
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}
