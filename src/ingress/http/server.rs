//! The listener's loop: accepts connections, limits their number and their duration, and closes
//! them in order.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Version, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tower_service::Service;
use tracing::Instrument;

use super::access::{AccessRefusal, TOO_MANY_FAILED};
use super::problem::{Kind, PROBLEM_JSON, Problem};
use super::progress::WorkDone;
use super::{Limits, SharedDoor, large_answer};
use crate::ingress::admission::ConnectionPlace;

/// How long to wait when the system has no more resources for connections, such as file
/// descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many refused clients are answered at a time; other refused connections are just closed.
const REFUSALS_AT_ONCE: usize = 32;

/// How long a refused client has to read the answer.
const CLOSE_LINGER: Duration = Duration::from_secs(1);

/// How many bytes of an answer the kernel buffers beyond those in flight.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 128 * 1024;

/// Serves until `shutdown` becomes true; then finishes the requests that have begun, for at most
/// `limits.drain_timeout`.
pub(super) async fn run(listener: TcpListener, door: SharedDoor, router: Router) {
    let refusals = Arc::new(Semaphore::new(REFUSALS_AT_ONCE));
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stopped(door.shutdown.clone()));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = &mut stop => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot take an HTTP connection; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let refused = match let_in(&door, peer.ip()) {
            Ok(place) => {
                let span = tracing::debug_span!("connection", door = "http", %peer);
                let served = serve_connection(stream, peer, door.clone(), router.clone());
                let served = async move {
                    served.await;
                    drop(place);
                };
                connections.spawn(served.instrument(span));
                continue;
            }
            Err(refused) => refused,
        };
        door.dispatcher.turned_away(refused.counted);
        if let Some(left_out) = door.log_throttle.admit_line(Instant::now()) {
            let (peer, reason) = (peer.ip(), refused.reason);
            tracing::warn!(%peer, reason, left_out, "HTTP connection refused");
        }
        // With TLS, a refusal cannot be sent in cleartext; and each answered client uses a file
        // descriptor for a while.
        if !door.tls.is_on()
            && let Ok(place) = refusals.clone().try_acquire_owned()
        {
            connections.spawn(async move {
                refuse_connection(stream, Problem::new(refused.kind, refused.reason)).await;
                drop(place);
            });
        }
    }

    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(door.limits.drain_timeout, all_ended)
        .await
        .is_err()
    {
        tracing::warn!(
            open = connections.len(),
            "HTTP requests did not finish in time; cutting them off"
        );
    }
}

/// Why a connection is refused.
struct RefusedConnection {
    kind: Kind,
    reason: &'static str,
    counted: &'static str,
}

fn let_in(door: &SharedDoor, peer: IpAddr) -> Result<ConnectionPlace, RefusedConnection> {
    if door.guard.bans(peer, Instant::now()) {
        return Err(RefusedConnection {
            kind: Kind::TooMany,
            reason: TOO_MANY_FAILED,
            counted: "banned",
        });
    }

    door.admission
        .admit(peer)
        .map_err(|reason| RefusedConnection {
            kind: Kind::Full,
            reason,
            counted: "crowded",
        })
}

/// Waits until `shutdown` is true, or its sender is dropped.
pub(super) async fn stopped(mut shutdown: watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// Serves one connection until it ends, with TLS if there is a certificate.
async fn serve_connection(stream: TcpStream, peer: SocketAddr, door: SharedDoor, router: Router) {
    // Answers are small, and a client waits for each.
    let _ = stream.set_nodelay(true);
    // What a client does not read stays in our memory, which is limited in common, instead of
    // megabytes of kernel memory for each connection.
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES);
    let Some(tls) = door.tls.acceptor() else {
        return serve(stream, peer, door, router).await;
    };
    let shaken = tokio::time::timeout(door.limits.header_timeout, tls.accept(stream)).await;

    match shaken {
        Ok(Ok(stream)) => serve(stream, peer, door, router).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake of HTTP failed"),
        Err(_) => tracing::debug!(%peer, "a TLS handshake of HTTP took too long"),
    }
}

async fn serve<S>(stream: S, peer: SocketAddr, door: SharedDoor, router: Router)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let Limits {
        header_timeout,
        write_timeout,
        ..
    } = door.limits;
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(write_timeout));

    let shutdown = door.shutdown.clone();
    let service = service_fn(move |request| answer(door.clone(), router.clone(), peer, request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);

    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(shutdown) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };

    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection broke");
    }
}

/// Answers one request. Whatever goes wrong, the answer is a problem document.
async fn answer(
    door: SharedDoor,
    mut router: Router,
    peer: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<Response, Infallible> {
    if let Some(problem) = unreadable(&request) {
        return Ok(problem.into_response());
    }

    let (method, uri, headers) = (request.method(), request.uri(), request.headers());
    let admitted = match door.guard.bans(peer.ip(), Instant::now()) {
        true => Err(AccessRefusal::too_many()),
        false => door
            .tokens
            .admit(&door.sessions, method, uri, headers, peer.ip()),
    };

    let response = match admitted {
        Err(refusal) => refused(&door, peer.ip(), refusal).await.into_response(),
        Ok(mut visitor) => {
            visitor.peer = Some(peer.ip());
            let progress = WorkDone::default();
            let answered = async {
                let path = request.uri().path();
                if let Err(problem) = door.check_own(&visitor, path).await {
                    return Ok(problem.into_response());
                }
                request.extensions_mut().insert(visitor);
                request.extensions_mut().insert(progress.clone());
                router.call(request.map(Body::new)).await
            };
            let span = door.limits.answer_timeout;
            match progress.wait_for(answered, span).await {
                Some(Ok(response)) => response,
                None => Problem::new(
                    Kind::AnswerTimedOut,
                    "the answer took too long; mail that was submitted may have been accepted: \
                    repeat it with the \
                     same idempotency key",
                )
                .into_response(),
            }
        }
    };

    let mut response = as_problem(large_answer::held(response, &door));
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );

    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Why a request is not read at all: programs between here and the client might read its head
/// differently.
fn unreadable(request: &Request<Incoming>) -> Option<Problem> {
    let headers = request.headers();
    if let Some(name) = given_twice(headers) {
        let detail = format!("the field `{name}` is there more than once");
        return Some(Problem::new(Kind::Malformed, detail));
    }

    // RFC 9112 §3.2.
    match headers.get(header::HOST) {
        None if request.version() >= Version::HTTP_11 => {
            let detail = "the field `host` is missing, which HTTP/1.1 requires";
            return Some(Problem::new(Kind::Malformed, detail));
        }
        Some(host) if !is_host(host) => {
            let detail = "the field `host` must be a name or an address, and perhaps a port";
            return Some(Problem::new(Kind::Malformed, detail));
        }
        _ => {}
    }

    // hyper has undone `chunked` alone, and the body would be read as what is inside of the others
    // (RFC 9112 §6.1).
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).into_iter();
    let is_chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if !codings.all(is_chunked) {
        let detail = "no transfer coding but chunked is understood; send the body as it is";
        return Some(Problem::new(Kind::NotImplemented, detail));
    }
    None
}

/// Whether this is a host with an optional port, or empty as for a URI without an authority.
fn is_host(host: &HeaderValue) -> bool {
    let is_authority = Authority::try_from(host.as_bytes()).is_ok();
    host.is_empty() || is_authority && !host.as_bytes().contains(&b'@')
}

/// A header field that occurs more than once and that different parsers would read differently: the
/// host (RFC 9112 §3.2), the credentials, and the body's type.
fn given_twice(headers: &HeaderMap) -> Option<HeaderName> {
    let once = [
        header::HOST,
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        HeaderName::from_static("idempotency-key"),
    ];
    once.into_iter()
        .find(|name| headers.get_all(name).iter().nth(1).is_some())
}

/// Logs and counts a refused request, and delays the answer to a wrong token.
async fn refused(door: &SharedDoor, peer: IpAddr, refusal: AccessRefusal) -> AccessRefusal {
    let (reason, counted) = (refusal.reason(), refusal.counted());
    door.dispatcher.turned_away(counted);
    if let Some(left_out) = door.log_throttle.admit_line(Instant::now()) {
        match counted {
            // Every browser sends requests before it signs in.
            "nobody" => tracing::info!(%peer, reason, left_out, "HTTP request without a token"),
            _ => tracing::warn!(%peer, refused = counted, reason, left_out, "HTTP request refused"),
        }
    }

    match refusal.is_guess() && delay_guesser(door, peer).await {
        true => AccessRefusal::too_many(),
        false => refusal,
    }
}

/// Delays a client that presented a wrong secret, longer with each; returns whether it is banned.
pub(super) async fn delay_guesser(door: &SharedDoor, peer: IpAddr) -> bool {
    let dispatcher = door.dispatcher.from_address(peer);
    dispatcher.note_refused_login(None);
    let failed = door.guard.failed(peer, Instant::now());
    if failed.is_new_ban {
        tracing::warn!(%peer, "too many wrong HTTP tokens from one address");
    }
    tokio::time::sleep(failed.penalty).await;
    failed.is_banned
}

/// The error page for people who follow a link.
const HTML: &str = "text/html; charset=utf-8";

/// Converts an error response of the router, for an unknown path or method, into a problem
/// document.
fn as_problem(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error
        || response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind == PROBLEM_JSON || kind == HTML)
    {
        return response;
    }

    let mut problem = Problem::of_status(status).into_response();
    if let Some(allow) = response.headers().get(header::ALLOW) {
        problem.headers_mut().insert(header::ALLOW, allow.clone());
    }
    problem
}

/// Answers a client that is refused, and closes the connection.
async fn refuse_connection(mut stream: TcpStream, problem: Problem) {
    let status = match problem.status() {
        429 => "429 Too Many Requests",
        _ => "503 Service Unavailable",
    };

    let body = serde_json::to_string(&problem).unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {PROBLEM_JSON}\r\nretry-after: 5\r\nconnection: \
        close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );

    let said = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // Closing with unread bytes would reset the connection, and the client might lose the
        // answer.
        let mut unread = [0; 4096];
        while stream.read(&mut unread).await? > 0 {}
        std::io::Result::Ok(())
    };

    let _ = tokio::time::timeout(CLOSE_LINGER, said).await;
}
