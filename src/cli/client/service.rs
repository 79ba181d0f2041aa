//! The client of the running service: blocking HTTP, which turns every refusal into one message.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::http::{Method, Request, Response, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, Proxy, SendBody};
use url::Url;

use super::place::{ServiceAddress, ServiceOptions};
use crate::cli::screen::escaped;
use crate::cli::{Failure, FieldError, ServiceRefusal};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// After this long without data a stream of events is considered broken: the service writes
/// something every 15 s.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(50);
/// The most bytes of an answer: more than the largest message and the largest page.
const LARGEST_ANSWER: u64 = 1 << 30;

impl ServiceOptions {
    /// A client of this service. It sends nothing yet.
    pub fn client(&self) -> Result<ServiceClient, Failure> {
        Ok(ServiceClient::new(self.place()?, CALL_TIMEOUT, false))
    }
}

pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Calls the service.
pub struct ServiceClient {
    url: Url,
    token: Option<header::HeaderValue>,
    agent: Agent,
    timeout: Duration,
}

/// The body of a call.
pub enum Payload {
    /// Nothing.
    None,
    /// JSON.
    Json(serde_json::Value),
    /// A message (RFC 5322).
    Message(Vec<u8>),
}

/// Parameters of a URL's query.
pub type Parameters = Vec<(&'static str, String)>;

/// The answer to a successful call.
pub struct ServiceAnswer {
    /// The body, unchanged.
    pub body: Vec<u8>,
}

impl ServiceAnswer {
    /// The body, decoded from JSON.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Failure::Failed(format!(
                "the service's answer is not understood ({error}); is it another version? use \
                 --json"
            ))
        })
    }
}

impl ServiceClient {
    /// A client of the service at this address, with a time-out for each call. With
    /// `any_certificate`, certificates are not checked: only for requests without secrets.
    pub(super) fn new(place: ServiceAddress, timeout: Duration, any_certificate: bool) -> Self {
        let mut tls = TlsConfig::builder().disable_verification(any_certificate);
        if let Some(authorities) = place.authorities {
            tls = tls.root_certs(RootCerts::Specific(Arc::new(authorities)));
        }

        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            // A redirect would send the token elsewhere, or turn a POST into a GET.
            .max_redirects(0)
            .user_agent(concat!("postrider/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .tls_config(tls.build());

        if is_loopback(&place.url) {
            config = config.proxy(None::<Proxy>);
        }
        ServiceClient {
            url: place.url,
            token: place.authorization,
            agent: config.build().new_agent(),
            timeout,
        }
    }

    /// Sends GET. The path is given by its segments.
    pub fn get(&self, path: &[&str], parameters: &Parameters) -> Result<ServiceAnswer, Failure> {
        self.call(Method::GET, path, parameters, Payload::None)
    }

    /// Sends POST.
    pub fn post(
        &self,
        path: &[&str],
        parameters: &Parameters,
        payload: Payload,
    ) -> Result<ServiceAnswer, Failure> {
        self.call(Method::POST, path, parameters, payload)
    }

    /// Sends DELETE.
    pub fn delete(&self, path: &[&str], parameters: &Parameters) -> Result<ServiceAnswer, Failure> {
        self.call(Method::DELETE, path, parameters, Payload::None)
    }

    /// Sends DELETE with a body.
    pub fn delete_with(&self, path: &[&str], payload: Payload) -> Result<ServiceAnswer, Failure> {
        self.call(Method::DELETE, path, &vec![], payload)
    }

    /// Sends a table while it is read, whatever its length.
    pub fn upload(
        &self,
        path: &[&str],
        table: impl io::Read + 'static,
    ) -> Result<ServiceAnswer, Failure> {
        let unread = Rc::new(Cell::new(None));
        let table = WatchedFile {
            file: table,
            error: unread.clone(),
        };

        let request = self
            .request(Method::POST, path, &vec![])
            .header(header::CONTENT_TYPE, "text/csv")
            // A client without permission learns that before it has sent everything.
            .header(header::EXPECT, "100-continue")
            .body(SendBody::from_owned_reader(table))
            .map_err(|error| self.trouble(error.into()))?;
        let sent = self.agent.run(
            self.agent
                .configure_request(request)
                .timeout_per_write(Some(self.timeout))
                .timeout_recv_response(Some(self.timeout))
                .build(),
        );
        if let Some(error) = unread.take() {
            return Err(Failure::Failed(format!("the file cannot be read: {error}")));
        }

        let mut response = self.granted(sent)?;
        Ok(ServiceAnswer {
            body: self.body_of(&mut response)?,
        })
    }

    fn call(
        &self,
        method: Method,
        path: &[&str],
        parameters: &Parameters,
        payload: Payload,
    ) -> Result<ServiceAnswer, Failure> {
        let mut request = self.request(method.clone(), path, parameters);
        let body = match payload {
            Payload::None => Vec::new(),
            Payload::Json(value) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                value.to_string().into_bytes()
            }
            Payload::Message(bytes) => {
                request = request.header(header::CONTENT_TYPE, "message/rfc822");
                bytes
            }
        };

        let sent = if method == Method::POST {
            let request = request
                .body(body)
                .map_err(|error| self.trouble(error.into()))?;
            self.agent.run(
                self.agent
                    .configure_request(request)
                    .timeout_global(Some(self.timeout))
                    .build(),
            )
        } else {
            let request = request
                .body(())
                .map_err(|error| self.trouble(error.into()))?;
            if body.is_empty() {
                self.agent.run(
                    self.agent
                        .configure_request(request)
                        .timeout_global(Some(self.timeout))
                        .build(),
                )
            } else {
                // ureq sends a DELETE with a body only if forced to.
                let mut with_body = self.agent.delete(request.uri().clone()).force_send_body();
                for (name, value) in request.headers() {
                    with_body = with_body.header(name.clone(), value.clone());
                }
                let configured = with_body.config().timeout_global(Some(self.timeout));
                configured.build().send(&body[..])
            }
        };

        let mut response = self.granted(sent)?;
        Ok(ServiceAnswer {
            body: self.body_of(&mut response)?,
        })
    }

    /// Opens the stream of events, after the event of this number if one is given.
    pub fn events(
        &self,
        parameters: &Parameters,
        last: Option<&str>,
    ) -> Result<impl io::Read + use<>, Failure> {
        let mut request = self.request(Method::GET, &["v1", "events"], parameters);
        request = request.header(header::ACCEPT, "text/event-stream");
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        self.open(request)
    }

    /// Sends GET and returns the answer as a stream, whatever its length.
    pub fn stream(
        &self,
        path: &[&str],
        parameters: &Parameters,
    ) -> Result<impl io::Read + use<>, Failure> {
        self.open(self.request(Method::GET, path, parameters))
    }

    /// Sends a request and returns the answer as a stream.
    fn open(
        &self,
        request: ureq::http::request::Builder,
    ) -> Result<impl io::Read + use<>, Failure> {
        let request = request
            .body(())
            .map_err(|error| self.trouble(error.into()))?;
        let sent = self.agent.run(
            self.agent
                .configure_request(request)
                .timeout_per_read(Some(SILENCE_TIMEOUT))
                .build(),
        );

        let response = self.granted(sent)?;
        Ok(response
            .into_body()
            .into_with_config()
            .limit(u64::MAX)
            .reader())
    }

    fn request(
        &self,
        method: Method,
        path: &[&str],
        parameters: &Parameters,
    ) -> ureq::http::request::Builder {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !parameters.is_empty() {
            url.query_pairs_mut().extend_pairs(parameters);
        }
        let request = Request::builder().method(method).uri(url.as_str());
        match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, token),
            None => request,
        }
    }

    fn granted(
        &self,
        sent: Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, Failure> {
        let mut response = sent.map_err(|error| self.trouble(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let body = self.body_of(&mut response)?;
        Err(Failure::Refused(Box::new(self.refusal(&response, &body))))
    }

    fn body_of(&self, response: &mut Response<Body>) -> Result<Vec<u8>, Failure> {
        response
            .body_mut()
            .with_config()
            .limit(LARGEST_ANSWER)
            .read_to_vec()
            .map_err(|error| self.trouble(error))
    }

    fn refusal(&self, response: &Response<Body>, body: &[u8]) -> ServiceRefusal {
        let status = response.status().as_u16();
        let Ok(problem) = serde_json::from_slice::<ProblemAnswer>(body) else {
            let message = format!(
                "{} answered with HTTP {status} and not as Postrider does; is --url (or \
                 POSTRIDER_URL) right?",
                self.url.as_str().trim_end_matches('/')
            );
            return ServiceRefusal {
                status,
                message,
                errors: Vec::new(),
                problem: None,
            };
        };

        let errors: Vec<FieldError> = problem
            .errors
            .iter()
            .map(|error| FieldError::new(&error.pointer, &error.detail))
            .collect();

        let mut message = problem.message(status, &errors);
        match status {
            401 if self.token.is_none() => {
                message.push_str("; give a token with --token or POSTRIDER_TOKEN")
            }
            401 => {
                message.push_str("; check the token in --token, --token-file or POSTRIDER_TOKEN")
            }
            _ => {}
        }

        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok());

        if let Some(seconds) = retry_after.and_then(|text| text.parse::<u64>().ok()) {
            let _ = write!(message, "; try again in {seconds} s");
        }
        ServiceRefusal {
            status,
            message,
            errors,
            problem: serde_json::from_slice(body).ok(),
        }
    }

    fn trouble(&self, error: ureq::Error) -> Failure {
        let url = self.url.as_str().trim_end_matches('/');
        match error {
            ureq::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => {
                Failure::TryLater(format!(
                    "no service answers at {url}; start one with `postrider run`"
                ))
            }
            ureq::Error::HostNotFound => Failure::TryLater(format!(
                "the host in {url} does not exist; check --url (or POSTRIDER_URL)"
            )),
            ureq::Error::Timeout(_) => {
                Failure::TryLater(format!("the service at {url} does not answer in time"))
            }
            ureq::Error::Io(error) => {
                Failure::TryLater(format!("the connection to {url} broke: {error}"))
            }
            ureq::Error::ConnectionFailed => Failure::TryLater(format!("{url} cannot be reached")),
            other => Failure::Failed(format!(
                "cannot talk to {url}: {}",
                escaped(&other.to_string())
            )),
        }
    }
}

/// A file that is being sent. It notes read errors, which are not errors of the service.
struct WatchedFile<R> {
    file: R,
    error: Rc<Cell<Option<String>>>,
}

impl<R: io::Read> io::Read for WatchedFile<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.file.read(to).inspect_err(|error| match error.kind() {
            ErrorKind::Interrupted => {}
            _ => self.error.set(Some(error.to_string())),
        })
    }
}

/// A refusal in the form of RFC 9457.
#[derive(Deserialize)]
struct ProblemAnswer {
    title: Option<String>,
    detail: Option<String>,
    #[serde(default)]
    errors: Vec<FieldProblem>,
}

/// A mistake in one field of the input.
#[derive(Deserialize)]
struct FieldProblem {
    #[serde(default)]
    pointer: String,
    #[serde(default)]
    detail: String,
}

impl ProblemAnswer {
    /// The message: one line, and a further one for each wrong field if there are several.
    fn message(&self, status: u16, errors: &[FieldError]) -> String {
        let title = match (&self.title, &self.detail) {
            (Some(title), _) | (None, Some(title)) => escaped(title),
            (None, None) => format!("the service refused with HTTP {status}"),
        };

        match (errors, &self.detail) {
            ([], Some(detail)) if Some(detail) != self.title.as_ref() => {
                format!("{title}: {}", escaped(detail))
            }
            ([], _) => title,
            ([only], _) => format!("{title}: {only}"),
            (several, _) => several.iter().fold(format!("{title}:"), |message, error| {
                format!("{message}\n  {error}")
            }),
        }
    }
}
