//! HTTPS to a provider or to a webhook: one pool of connections, a time-out for every step, answers
//! of bounded size, and how far a request got where it failed.
//!
//! Called by [`api`](super::api), [`oauth2`](super::oauth2), and by the notices' webhooks.
//!
//! *Invariants:* a failure says truthfully whether the whole request may have reached the server; a
//! client that may reach public addresses only connects to none that was not looked at before.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::http::response::Parts;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::rt::TokioExecutor;
use tokio::sync::Notify;
use tokio::time::timeout;
use tower_service::Service;

use super::reach::Reach;
use super::smtp::tls::client_config;
use super::{RelayError, TimeOuts};

/// The most bytes of an answer that are read.
const MAX_ANSWER: usize = 64 * 1024;
/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// A client with its pool of connections. Clones share it.
#[derive(Clone)]
pub(crate) struct HttpClient {
    client: Client<HttpsConnector<HttpConnector<Resolver>>, Upload>,
    timeouts: TimeOuts,
    reach: Reach,
}

/// A request with a body: a POST.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub url: String,
    pub content_type: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

/// What the server said.
#[derive(Clone, Debug)]
pub(crate) struct HttpAnswer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl HttpAnswer {
    fn new(head: Parts, body: Bytes) -> Self {
        HttpAnswer {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        }
    }

    /// A header's value, where it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON; `Null` where it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// How far a request got that was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestProgress {
    /// No connection: nothing was sent.
    Nothing,
    /// Part of it, so that the server cannot have understood it.
    Part,
    /// Perhaps all of it.
    Whole,
}

/// A request that was not answered.
#[derive(Clone, Debug)]
pub(crate) struct RequestFailure {
    pub reached: RequestProgress,
    pub reason: String,
}

impl HttpClient {
    /// # Errors
    /// Where the `ca_file` cannot be used.
    pub fn new(ca_file: Option<&Path>, timeouts: TimeOuts) -> Result<Self, RelayError> {
        HttpClient::within(ca_file, timeouts, Reach::Anywhere)
    }

    /// The same, which connects to nothing that `reach` leaves out.
    ///
    /// # Errors
    /// As [`HttpClient::new`].
    pub fn within(
        ca_file: Option<&Path>,
        timeouts: TimeOuts,
        reach: Reach,
    ) -> Result<Self, RelayError> {
        HttpClient::resolving(Names::System(GaiResolver::new()), ca_file, timeouts, reach)
    }

    fn resolving(
        names: Names,
        ca_file: Option<&Path>,
        timeouts: TimeOuts,
        reach: Reach,
    ) -> Result<Self, RelayError> {
        let resolver = Resolver { names, reach };
        let mut connector = HttpConnector::new_with_resolver(resolver);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(timeouts.connect));
        connector.enforce_http(false);

        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(client_config(ca_file)?)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .build(connector);

        Ok(HttpClient {
            client,
            timeouts,
            reach,
        })
    }

    /// Sends a request and reads its answer, whatever its status. No redirect is followed: what is
    /// sent holds a secret.
    ///
    /// # Errors
    /// Where no whole answer came.
    pub async fn post(&self, post: Post) -> Result<HttpAnswer, RequestFailure> {
        let progress = Arc::new(UploadProgress::default());
        let (head, body) = self.exchange(post, &progress).await?;
        let fail = |reason: String| RequestFailure {
            reached: progress.reached(),
            reason,
        };

        let body = match body {
            Ok(body) => body,
            // The status is what counts; what explains it is cut off.
            Err(_) if head.status != StatusCode::OK => Bytes::new(),
            Err(reason) => return Err(fail(reason)),
        };

        Ok(HttpAnswer::new(head, body))
    }

    /// As [`HttpClient::post`], where the status counts and nothing else: it comes `within` this
    /// time, and a body that breaks off or does not end is cut off.
    ///
    /// # Errors
    /// Where no answer came.
    #[cfg(feature = "notify")]
    pub async fn post_for_status(
        &self,
        post: Post,
        within: Duration,
    ) -> Result<HttpAnswer, RequestFailure> {
        let progress: Arc<UploadProgress> = Arc::default();
        let head = self.head(post.request(&progress), &progress);
        let Ok(answered) = timeout(within, head).await else {
            let span = humantime::format_duration(within);
            return Err(RequestFailure {
                reached: progress.reached(),
                reason: format!("there was no answer within {span}"),
            });
        };

        let (head, body) = answered?.into_parts();
        let body = self.body(body).await;
        Ok(HttpAnswer::new(head, body.unwrap_or_default()))
    }

    /// Asks for what is at an address, and reads it, whatever the answer's status.
    ///
    /// # Errors
    /// As [`HttpClient::post`].
    #[cfg(feature = "server")]
    pub async fn get(&self, url: String) -> Result<HttpAnswer, RequestFailure> {
        let progress = Arc::new(UploadProgress::default());
        let nothing = Post {
            url,
            content_type: "text/plain".to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
        };

        let asked = nothing.request(&progress).map(|mut request| {
            *request.method_mut() = Method::GET;
            request.headers_mut().remove(CONTENT_TYPE);
            request.body_mut().bytes = None;
            request
        });
        let (head, body) = self.answer(asked, &progress).await?;
        let body = body.map_err(|reason| RequestFailure {
            reached: progress.reached(),
            reason,
        })?;

        Ok(HttpAnswer::new(head, body))
    }

    /// Sends a request; what came of it, and of reading the answer's body.
    async fn exchange(
        &self,
        post: Post,
        progress: &Arc<UploadProgress>,
    ) -> Result<(Parts, Result<Bytes, String>), RequestFailure> {
        self.answer(post.request(progress), progress).await
    }

    async fn answer(
        &self,
        request: Result<Request<Upload>, String>,
        progress: &Arc<UploadProgress>,
    ) -> Result<(Parts, Result<Bytes, String>), RequestFailure> {
        let (head, body) = self.head(request, progress).await?.into_parts();
        Ok((head, self.body(body).await))
    }

    /// Sends a request, and waits for the head of its answer.
    async fn head(
        &self,
        request: Result<Request<Upload>, String>,
        progress: &Arc<UploadProgress>,
    ) -> Result<Response<Incoming>, RequestFailure> {
        let refuse = |reason| RequestFailure {
            reached: RequestProgress::Nothing,
            reason,
        };

        let request = request.map_err(refuse)?;
        // An address that stands in the URL itself is resolved by nobody.
        let host = request.uri().host().unwrap_or_default();
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            self.reach.check(address).map_err(refuse)?;
        }

        let fail = |reason: String| RequestFailure {
            reached: progress.reached(),
            reason,
        };

        // Up to the moment in which the whole request is handed over, the steps of a connection
        // count; from then on, how long the server may think.
        let mut response = std::pin::pin!(self.client.request(request));

        let sending = self.timeouts.connect + self.timeouts.tls + self.timeouts.body;
        let answered = tokio::select! {
            answered = &mut response => answered,
            () = tokio::time::sleep(sending), if !progress.is_whole() => {
                let span = humantime::format_duration(sending);
                return Err(fail(format!("the request could not be sent within {span}")));
            }
            () = progress.whole() => match timeout(self.timeouts.final_dot, &mut response).await {
                Ok(answered) => answered,
                Err(_) => {
                    let span = humantime::format_duration(self.timeouts.final_dot);
                    return Err(fail(format!("there was no answer within {span}")));
                }
            },
        };
        answered.map_err(|e| fail(explain(&e)))
    }

    async fn body(&self, body: Incoming) -> Result<Bytes, String> {
        let read = Limited::new(body, MAX_ANSWER).collect();
        match timeout(self.timeouts.data, read).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(e)) => Err(format!("the answer broke off: {e}")),
            Err(_) => Err("the answer did not end".to_owned()),
        }
    }
}

/// Resolves names, and leaves out what may not be connected to: the addresses that pass are the
/// ones that are connected to, whatever the name is made to say a moment later.
#[derive(Clone)]
struct Resolver {
    names: Names,
    reach: Reach,
}

/// Who knows the addresses of a name.
#[derive(Clone)]
enum Names {
    System(GaiResolver),
    #[cfg(test)]
    Scripted(tests::Script),
}

type Resolving = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

impl Names {
    fn resolve(&mut self, name: Name) -> Resolving {
        match self {
            Names::System(resolver) => {
                let resolving = resolver.call(name);
                Box::pin(async move { Ok(resolving.await?.collect()) })
            }
            #[cfg(test)]
            Names::Scripted(script) => {
                let addresses = script.next();
                Box::pin(async move { Ok(addresses) })
            }
        }
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.names {
            Names::System(resolver) => resolver.poll_ready(context),
            #[cfg(test)]
            Names::Scripted(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (reach, resolving) = (self.reach, self.names.resolve(name));
        Box::pin(async move {
            let mut refused = None;
            let mut allowed = Vec::new();
            for address in resolving.await? {
                match reach.check(address.ip()) {
                    Ok(()) => allowed.push(address),
                    Err(reason) => refused = Some(reason),
                }
            }
            match refused {
                Some(reason) if allowed.is_empty() => Err(io::Error::other(reason)),
                _ => Ok(allowed.into_iter()),
            }
        })
    }
}

impl Post {
    fn request(self, progress: &Arc<UploadProgress>) -> Result<Request<Upload>, String> {
        let uri: Uri = self
            .url
            .parse()
            .map_err(|e| format!("the address {} cannot be used: {e}", self.url))?;
        let body = Upload {
            bytes: Some(self.body),
            progress: Arc::clone(progress),
        };

        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();

        let agent = concat!("postrider/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));

        let kind = HeaderValue::try_from(self.content_type)
            .map_err(|_| "the content type cannot be sent".to_owned())?;
        headers.insert(CONTENT_TYPE, kind);
        for (name, value) in self.headers {
            // A secret must not be quoted.
            let mut value = HeaderValue::try_from(value)
                .map_err(|_| format!("the value for {name} has characters that cannot be sent"))?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_static(name), value);
        }

        Ok(request)
    }
}

fn explain(error: &hyper_util::client::legacy::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// How much of a request's body was taken from us.
#[derive(Default)]
struct UploadProgress {
    stage: AtomicU8,
    notify: Notify,
}

impl UploadProgress {
    fn reach(&self, stage: u8) {
        self.stage.fetch_max(stage, Ordering::AcqRel);
        if stage == 2 {
            self.notify.notify_one();
        }
    }

    fn reached(&self) -> RequestProgress {
        match self.stage.load(Ordering::Acquire) {
            0 => RequestProgress::Nothing,
            1 => RequestProgress::Part,
            _ => RequestProgress::Whole,
        }
    }

    fn is_whole(&self) -> bool {
        self.reached() == RequestProgress::Whole
    }

    async fn whole(&self) {
        if !self.is_whole() {
            self.notify.notified().await;
        }
    }
}

/// How many bytes of a body are handed over at a time.
const PART_BYTES: usize = 64 * 1024;

/// A body that knows how far it was taken. Handed over is more than sent, so it errs to the side of
/// doubt.
struct Upload {
    bytes: Option<Bytes>,
    progress: Arc<UploadProgress>,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(mut rest) = self.bytes.take() else {
            return Poll::Ready(None);
        };
        let part = rest.split_to(rest.len().min(PART_BYTES));
        if rest.is_empty() {
            self.progress.reach(2);
        } else {
            self.progress.reach(1);
            self.bytes = Some(rest);
        }
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use parking_lot::Mutex;
    use tokio::net::TcpListener;

    use super::*;

    /// What a name says, one answer after the other; the last of them from then on.
    #[derive(Clone)]
    pub(super) struct Script(Arc<Mutex<Vec<Vec<IpAddr>>>>);

    impl Script {
        fn new(answers: &[&[&str]]) -> Self {
            let read = |one: &&[&str]| one.iter().map(|ip| ip.parse().unwrap()).collect();
            Script(Arc::new(Mutex::new(
                answers.iter().rev().map(read).collect(),
            )))
        }

        pub(super) fn next(&self) -> Vec<SocketAddr> {
            let mut answers = self.0.lock();
            let answer = match answers.len() {
                1 => answers[0].clone(),
                _ => answers.pop().unwrap(),
            };
            answer.into_iter().map(|ip| (ip, 0).into()).collect()
        }
    }

    /// Public, and leads nowhere: its network was given back.
    const ELSEWHERE: &str = "3ffe::1";

    /// Somebody else's name may say one address when it is looked at, and another when it is
    /// called.
    #[tokio::test]
    async fn a_name_that_changes_its_mind_leads_to_no_private_address() {
        let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = inside.local_addr().unwrap().port();
        let timeouts = TimeOuts::all(Duration::from_millis(300));
        let loopback = "127.0.0.1";

        for (answers, refused) in [
            (&[&[ELSEWHERE][..], &[loopback]][..], [false, true]),
            (&[&[ELSEWHERE, loopback]], [false, false]),
            (&[&[loopback, ELSEWHERE]], [false, false]),
            (&[&[ELSEWHERE, "::ffff:127.0.0.1", "::1"]], [false, false]),
            (&[&[loopback], &[ELSEWHERE]], [true, false]),
            (&[&["169.254.169.254"], &["0.0.0.0"]], [true, true]),
        ] {
            let names = Names::Scripted(Script::new(answers));
            let client = HttpClient::resolving(names, None, timeouts, Reach::PublicOnly);
            let client = client.unwrap();
            for refused in refused {
                let post = Post {
                    url: format!("http://rebinding.example:{port}/"),
                    content_type: "application/json".to_owned(),
                    headers: Vec::new(),
                    body: Bytes::from_static(b"{}"),
                };
                let failure = client.post(post).await.unwrap_err();
                let reason = &failure.reason;
                assert_eq!(failure.reached, RequestProgress::Nothing, "{reason}");
                let is_told = reason.contains("is a private one");
                assert_eq!(is_told, refused, "{answers:?}: {reason}");
            }
        }

        let called = timeout(Duration::from_millis(300), inside.accept()).await;
        assert!(called.is_err(), "{called:?}");

        // And it does lead there where it may.
        let names = Names::Scripted(Script::new(&[&[loopback]]));
        let client = HttpClient::resolving(names, None, timeouts, Reach::Anywhere).unwrap();
        let asked = client.post(Post {
            url: format!("http://rebinding.example:{port}/"),
            content_type: "application/json".to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
        });
        tokio::select! {
            _ = asked => panic!("nobody answers"),
            called = inside.accept() => assert!(called.is_ok()),
        }
    }
}
