//! The origin of a request: a program, this listener's own page, or a page of another site in a
//! browser.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue, Uri, header};

/// Whether a request without a token comes from a program, and not from a web page in a browser.
/// `own_name` says which host names such programs may use.
pub(super) fn from_a_program(
    uri: &Uri,
    headers: &HeaderMap,
    own_name: fn(&str) -> bool,
) -> Result<(), String> {
    let host = host(uri, headers);
    // Only HTTP/1.0 omits the host, which no browser uses.
    if let Some(host) = host
        && !own_name(name_of(host))
    {
        return Err(format!(
            "without a token the door answers to an address or a local name such as localhost, \
             not to `{}`",
            host.escape_debug()
        ));
    }

    if let Some(site) = headers.get("sec-fetch-site")
        && site != "same-origin"
        && site != "none"
    {
        return Err("without `http.tokens` no web page of another origin is served".to_owned());
    }

    if let Some(origin) = headers.get(header::ORIGIN)
        && !is_own(origin, host)
    {
        return Err("without `http.tokens` no web page of another origin is served".to_owned());
    }

    Ok(())
}

/// Whether a request with a cookie was made by this listener's own page: by `Sec-Fetch-Site`, or by
/// `Origin` if that is absent.
pub(super) fn from_own_page(uri: &Uri, headers: &HeaderMap) -> Result<(), String> {
    let origin = headers.get(header::ORIGIN);
    let is_own_origin = origin.map(|origin| is_own(origin, host(uri, headers)));
    let is_own = match headers.get("sec-fetch-site") {
        Some(site) => site == "same-origin" && is_own_origin != Some(false),
        None => is_own_origin == Some(true),
    };

    if is_own {
        return Ok(());
    }
    Err(
        "a session serves the page of this door only, over TLS or on this machine; programs send \
         `Authorization: Bearer`"
            .to_owned(),
    )
}

fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => headers
            .get(header::HOST)
            .map(|host| host.to_str().unwrap_or("?")),
    }
}

/// Whether an origin is this listener's, by the host name of the request.
fn is_own(origin: &HeaderValue, host: Option<&str>) -> bool {
    let origin = origin.to_str().ok();
    let authority = origin.and_then(|origin| origin.split_once("://"));
    authority.is_some_and(|(_, authority)| Some(authority) == host)
}

/// The name or the address in `host`, without its port.
fn name_of(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

/// Whether this is a name or an address of the loopback interface.
pub(super) fn is_this_machine(name: &str) -> bool {
    if let Ok(address) = name.parse::<IpAddr>() {
        return address.to_canonical().is_loopback();
    }
    let name = name.to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether this is an address, or a name that cannot be registered in the public DNS. A page of
/// another site can send requests here under any other name, by pointing its DNS to this machine.
pub(super) fn is_private_name(name: &str) -> bool {
    if name.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    match name.rsplit_once('.') {
        None => !name.is_empty(),
        Some((_, last)) => matches!(last, "localhost" | "local" | "internal" | "lan"),
    }
}
