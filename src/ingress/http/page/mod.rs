//! The page: the web interface of the service, at `/` and below. Its files are part of the binary,
//! as plain modules that a browser loads unchanged, one file for each view; nothing is built or
//! fetched.
//!
//! The page uses the API as any other client does, with the scopes of its token.
//! `vendor/VENDORED.md` lists the files from other projects.
//!
//! *Invariants:* no other script runs in the page, and no other page can show it in a frame.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::SharedDoor;

/// The page's content security policy.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' \
     data:; connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'self'; \
     frame-ancestors 'none'";

/// The paths of the views. Each returns the same document, which chooses the view by its path.
const VIEWS: [&str; 11] = [
    "/",
    "/mails",
    "/mails/{id}",
    "/dead",
    "/relays",
    "/relays/{name}",
    "/inbox",
    "/inbox/{id}",
    "/events",
    "/audit",
    "/about",
];

/// The files below `/page/`.
const FILES: [(&str, &str); 28] = [
    ("style.css", include_str!("style.css")),
    ("icon.svg", include_str!("icon.svg")),
    ("main.js", include_str!("main.js")),
    ("api.js", include_str!("api.js")),
    ("live.js", include_str!("live.js")),
    ("words.js", include_str!("words.js")),
    ("codes.js", include_str!("codes.js")),
    ("entries.js", include_str!("entries.js")),
    ("parts.js", include_str!("parts.js")),
    ("overview.js", include_str!("overview.js")),
    ("mails.js", include_str!("mails.js")),
    ("paging.js", include_str!("paging.js")),
    ("search.js", include_str!("search.js")),
    ("mail.js", include_str!("mail.js")),
    ("relays.js", include_str!("relays.js")),
    ("domains.js", include_str!("domains.js")),
    ("events.js", include_str!("events.js")),
    ("about.js", include_str!("about.js")),
    ("bulk.js", include_str!("bulk.js")),
    ("plot.js", include_str!("plot.js")),
    ("palette.js", include_str!("palette.js")),
    ("preview.js", include_str!("preview.js")),
    ("dead.js", include_str!("dead.js")),
    ("inbox.js", include_str!("inbox.js")),
    ("audit.js", include_str!("audit.js")),
    ("vendor/preact.js", include_str!("vendor/preact.js")),
    ("vendor/hooks.js", include_str!("vendor/hooks.js")),
    ("vendor/htm.js", include_str!("vendor/htm.js")),
];

/// Whether a path belongs to the page. Anybody may load it, since it contains no mail.
pub(super) fn is_of_page(path: &str) -> bool {
    let path = path.strip_prefix("/page/").map_or(path, |_| "/");
    let is_one_below = |view: &str| {
        let above = view.split_once('{').map(|(above, _)| above);
        let named = above.and_then(|above| path.strip_prefix(above));
        named.is_some_and(|named| !named.is_empty() && !named.contains('/'))
    };
    VIEWS.iter().any(|view| path == *view || is_one_below(view))
}

/// The views and their files.
pub(super) fn routes() -> Router<SharedDoor> {
    let document = || std::future::ready(answer("index.html", include_str!("index.html")));
    let mut router = Router::new();
    for view in VIEWS {
        router = router.route(view, get(document));
    }

    for (name, text) in FILES {
        // Browsers load modules by path. A vendored module is kept as published, and imports by
        // package name.
        let text = text.replace("from\"preact\"", "from\"./preact.js\"");
        router = router.route(
            &format!("/page/{name}"),
            get(move || std::future::ready(answer(name, &text))),
        );
    }

    router
}

fn answer(name: &str, text: &str) -> Response {
    let kind = match name.rsplit('.').next() {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/html; charset=utf-8",
    };

    let headers: [(HeaderName, HeaderValue); 5] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(POLICY),
        ),
        (
            header::REFERRER_POLICY,
            HeaderValue::from_static("no-referrer"),
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            HeaderValue::from_static("same-origin"),
        ),
        // After an update, no files of the old version must be used.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];

    (headers, text.to_owned()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_stays_small() {
        let all: usize = FILES.iter().map(|(_, text)| text.len()).sum();
        assert!(all < 150_000, "{all} bytes");
        for (name, text) in FILES {
            let lines = text.lines().count();
            assert!(lines <= 300, "{name} has {lines} lines");
        }
    }

    #[test]
    fn only_the_page_itself_is_open_to_anybody() {
        for path in [
            "/",
            "/mails",
            "/mails/0199",
            "/relays/primary",
            "/inbox/0199",
            "/page/main.js",
        ] {
            assert!(is_of_page(path), "{path}");
        }

        for path in [
            "/v1/mails",
            "/metrics",
            "/mails/0199/raw",
            "/page",
            "/nothing",
        ] {
            assert!(!is_of_page(path), "{path}");
        }
    }
}
