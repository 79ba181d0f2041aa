//! A relay as it is configured: what it is, how it is called, how fast it may be used.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::dkim::{Dkim, Rewriting, SigningTransport};
use super::smtp::Smtp;
use super::{Auth, Capture, Security, Server, TimeOuts, Transport};
use crate::mail::seconds;
use crate::policy::Rate;

/// A relay: a smarthost, a capture for tests, or a transport of your own.
#[derive(Clone)]
pub struct Relay {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) connections: usize,
    pub(crate) rate: Option<Rate>,
    pub(crate) idle_timeout: Duration,
    pub(crate) dkim: Option<Arc<Dkim>>,
    /// Where an SMTP server is; what DNS says of its host when empty.
    pub(crate) addresses: Vec<SocketAddr>,
}

/// How mail gets there.
#[derive(Clone)]
pub(crate) enum Kind {
    Smtp(Box<Server>),
    #[cfg(feature = "providers")]
    Api(Box<super::ApiServer>),
    Capture(Capture),
    Custom(Arc<dyn Transport>),
}

/// What is wrong with a relay's configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// The URL cannot be used. The message never holds the URL's password.
    #[error("the relay's url {0}")]
    Url(String),
    /// The name cannot be used.
    #[error(
        "the relay's name `{}` must have 1 to 64 of the characters a-z, A-Z, 0-9, `.`, `_` and `-`",
        .0.escape_debug()
    )]
    Name(String),
    /// Where the server is cannot be read.
    #[error("the relay's address `{}` {reason}", .address.escape_debug())]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A number is out of range.
    #[error("the relay's {0}")]
    Range(String),
    /// What proves who we are is missing.
    #[error("the relay {0}")]
    Credentials(String),
    /// The address to use instead of the provider's own cannot be used.
    #[error("the relay's endpoint `{}` must be an http:// or https:// address", .0.escape_debug())]
    Endpoint(String),
    /// Where access tokens come from cannot be used.
    #[error("the relay's oauth2: {0}")]
    OAuth2(String),
    /// The file with the certificate authority cannot be used.
    #[error("the relay's ca_file {} {reason}", .path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The name that we are to give in EHLO cannot be used.
    #[error(
        "the relay's client_name `{}` must be a host name or an address, without spaces",
        .0.escape_debug()
    )]
    ClientName(String),
}

impl Relay {
    /// A relay from its URL: `smtp://host:port` (plain), `smtp+starttls://user:password@host:587`,
    /// `smtps://host:465`, or `capture://`, which keeps mail in memory instead of sending it
    /// (`capture:///dir` writes it to files there).
    ///
    /// Its name is the host's; see [`Relay::name`].
    ///
    /// # Errors
    /// An unknown scheme, no host, or a user without AUTH's needs.
    pub fn smtp(url: &str) -> Result<Self, RelayError> {
        let fail = |reason: &str| RelayError::Url(reason.to_owned());
        let parsed =
            Url::parse(url).map_err(|e| RelayError::Url(format!("cannot be read: {e}")))?;
        if parsed.scheme() == "capture" {
            let dir = Some(parsed.path())
                .filter(|path| path.len() > 1)
                .map(PathBuf::from);
            return Ok(Relay::of("capture", Kind::Capture(Capture::new(dir))));
        }

        #[cfg(feature = "providers")]
        if super::ApiServer::is_scheme(parsed.scheme()) {
            return Ok(Relay::api(super::ApiServer::from_url(&parsed)?));
        }

        let (security, default_port) = match parsed.scheme() {
            "smtp" => (Security::Plain, 25),
            "smtp+starttls" => (Security::StartTls, 587),
            "smtps" => (Security::Tls, 465),
            other => {
                let reason =
                    format!("has the scheme `{other}`; use smtp, smtp+starttls, smtps or capture");
                return Err(RelayError::Url(reason));
            }
        };

        let host = parsed
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| fail("names no host"))?;

        if !matches!(parsed.path(), "" | "/")
            || parsed.query().is_some()
            || parsed.fragment().is_some()
        {
            return Err(fail(
                "has something after the port; only scheme, user, password, host and port are \
                 meant",
            ));
        }

        let decode = |text: &str| {
            let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
            decoded
                .map(|text| text.into_owned())
                .map_err(|_| fail("has a user or password whose percent signs encode no UTF-8"))
        };

        let auth = match (parsed.username(), parsed.password()) {
            ("", None) => None,
            ("", Some(_)) => return Err(fail("has a password and no user")),
            (user, password) => Some(Auth::Password {
                user: decode(user)?,
                password: SecretString::from(decode(password.unwrap_or_default())?),
            }),
        };

        let server = Server {
            host: host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            port: parsed.port().unwrap_or(default_port),
            security,
            auth,
            ca_file: None,
            client_name: None,
            messages_per_connection: 1000,
            timeouts: TimeOuts::default(),
        };

        let name: String = host
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '.' || c == '-' {
                    c
                } else {
                    '-'
                }
            })
            .collect();

        Ok(Relay::of(&name, Kind::Smtp(Box::new(server))))
    }

    /// A relay that is a provider's HTTP API.
    #[cfg(feature = "providers")]
    pub fn api(server: super::ApiServer) -> Self {
        Relay::of(server.name(), Kind::Api(Box::new(server)))
    }

    /// What proves who we are to a provider.
    #[cfg(feature = "providers")]
    pub fn credentials(self, credentials: super::Credentials) -> Self {
        self.api_server(|server| server.credentials = Some(credentials))
    }

    /// A provider's address, instead of its own.
    #[cfg(feature = "providers")]
    pub fn endpoint(self, address: impl Into<String>) -> Self {
        self.api_server(|server| server.endpoint = Some(address.into()))
    }

    /// Where access tokens come from: for a provider that wants one, or for the SMTP login of the
    /// user whom the URL names.
    #[cfg(feature = "providers")]
    pub fn oauth2(self, tokens: Arc<super::oauth2::OAuth2>) -> Self {
        let source = Arc::clone(&tokens);
        self.api_server(|server| server.token = Some(tokens))
            .server(|server| {
                if let Some(auth) = &server.auth {
                    let user = auth.user().to_owned();
                    server.auth = Some(Auth::Tokens { user, source });
                }
            })
    }

    #[cfg(feature = "providers")]
    fn api_server(mut self, change: impl FnOnce(&mut super::ApiServer)) -> Self {
        if let Kind::Api(server) = &mut self.kind {
            change(server);
        }
        self
    }

    /// A relay that keeps mail in memory; [`Capture::captured`] shows it.
    pub fn capture(capture: &Capture) -> Self {
        Relay::of("capture", Kind::Capture(capture.clone()))
    }

    /// A relay over a transport of your own.
    pub fn custom(name: &str, transport: Arc<dyn Transport>) -> Self {
        Relay::of(name, Kind::Custom(transport))
    }

    fn of(name: &str, kind: Kind) -> Self {
        Relay {
            name: name.to_owned(),
            kind,
            connections: 16,
            rate: None,
            idle_timeout: seconds(60),
            dkim: None,
            addresses: Vec::new(),
        }
    }

    /// What routes, metrics and the command line call it.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How many connections it may have at once; 16 unless said. With two or more, one is kept for
    /// critical mail.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// How fast it may be used; without limit unless said.
    pub fn rate(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// How long an unused connection stays open; 60 s unless said.
    pub fn idle_timeout(mut self, span: Duration) -> Self {
        self.idle_timeout = span;
        self
    }

    /// Signs what it is given with these keys; unsigned unless said.
    pub fn dkim(mut self, dkim: Arc<Dkim>) -> Self {
        self.dkim = Some(dkim).filter(|dkim| !dkim.is_empty());
        self
    }

    /// Close a connection after so many mails; 1000 unless said.
    pub fn messages_per_connection(self, count: u32) -> Self {
        self.server(|server| server.messages_per_connection = count)
    }

    /// How long each step may take.
    pub fn timeouts(self, timeouts: TimeOuts) -> Self {
        #[cfg(feature = "providers")]
        let this = self.api_server(|server| server.timeouts = timeouts);
        #[cfg(not(feature = "providers"))]
        let this = self;
        this.server(|server| server.timeouts = timeouts)
    }

    /// A PEM file with the certificate authority to trust instead of the public ones.
    pub fn ca_file(self, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        #[cfg(feature = "providers")]
        let this = self.api_server(|server| server.ca_file = Some(path.clone()));
        #[cfg(not(feature = "providers"))]
        let this = self;
        this.server(|server| server.ca_file = Some(path))
    }

    /// Where an SMTP server is, in the order in which its addresses are tried, instead of what DNS
    /// says of the URL's host; TLS still proves that host's name.
    pub fn addresses(mut self, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.addresses = addresses.into_iter().collect();
        self
    }

    /// What we call ourselves in EHLO.
    pub fn client_name(self, name: impl Into<String>) -> Self {
        self.server(|server| server.client_name = Some(name.into()))
    }

    /// How we log in.
    pub fn auth(self, auth: Auth) -> Self {
        self.server(|server| server.auth = Some(auth))
    }

    /// The password of the user whom the URL names.
    pub fn password(self, secret: SecretString) -> Self {
        self.server(|server| {
            if let Some(Auth::Password { password, .. }) = &mut server.auth {
                *password = secret;
            }
        })
    }

    /// The port that its URL names, or that goes with its scheme, where it speaks SMTP.
    #[cfg(feature = "server")]
    pub(crate) fn port(&self) -> Option<u16> {
        match &self.kind {
            Kind::Smtp(server) => Some(server.port),
            _ => None,
        }
    }

    fn server(mut self, change: impl FnOnce(&mut Server)) -> Self {
        if let Kind::Smtp(server) = &mut self.kind {
            change(server);
        }
        self
    }

    /// Whether everything about it can be used.
    ///
    /// # Errors
    /// Names what cannot.
    pub fn validate(&self) -> Result<(), RelayError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !(1..=64).contains(&self.name.len()) || !self.name.chars().all(allowed) {
            return Err(RelayError::Name(self.name.clone()));
        }

        if !(1..=1024).contains(&self.connections) {
            return Err(RelayError::Range(format!(
                "connections are {}, and must be 1 to 1024",
                self.connections
            )));
        }

        if let Kind::Smtp(server) = &self.kind {
            if server.messages_per_connection == 0 {
                return Err(RelayError::Range(
                    "messages_per_connection is 0, and must be at least 1".into(),
                ));
            }
            Smtp::new(server.as_ref().clone())?;
        }

        #[cfg(feature = "providers")]
        if let Kind::Api(server) = &self.kind {
            server.transport()?;
        }
        Ok(())
    }

    /// What sends its mail.
    ///
    /// # Errors
    /// As [`Relay::validate`], for what only the making of it shows: the `ca_file` and the names.
    pub(crate) fn transport(&self) -> Result<Arc<dyn Transport>, RelayError> {
        let transport: Arc<dyn Transport> = match &self.kind {
            Kind::Smtp(server) => {
                Arc::new(Smtp::new(server.as_ref().clone())?.at(self.addresses.clone()))
            }
            #[cfg(feature = "providers")]
            Kind::Api(server) => server.transport()?,
            Kind::Capture(capture) => Arc::new(capture.clone()),
            Kind::Custom(transport) => transport.clone(),
        };

        Ok(match &self.dkim {
            // A provider that builds the message anew signs it itself.
            #[cfg(feature = "providers")]
            _ if matches!(&self.kind, Kind::Api(server) if !server.takes_the_message()) => {
                transport
            }
            Some(dkim) => Arc::new(SigningTransport::new(
                Arc::clone(dkim),
                self.rewriting(),
                transport,
            )),
            None => transport,
        })
    }

    /// What it does to the message after it has taken it. SES's SMTP servers do as its API does.
    fn rewriting(&self) -> Rewriting {
        match &self.kind {
            Kind::Smtp(server) if is_ses(&server.host) => Rewriting::Ses,
            #[cfg(feature = "providers")]
            Kind::Api(server) if server.is_ses() => Rewriting::Ses,
            _ => Rewriting::None,
        }
    }
}

/// `email-smtp.eu-west-1.amazonaws.com` and its like.
fn is_ses(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host.starts_with("email-smtp.") && host.ends_with(".amazonaws.com")
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Relay");
        shown.field("name", &self.name);
        if let Kind::Smtp(server) = &self.kind {
            shown.field("server", server);
        }
        shown.field("connections", &self.connections).finish()
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::super::TokenSource;
    use super::*;

    fn server(url: &str) -> Server {
        match Relay::smtp(url).expect("a good url").kind {
            Kind::Smtp(server) => *server,
            _ => panic!("{url} is no smtp server"),
        }
    }

    fn login(url: &str) -> (String, String) {
        match server(url).auth {
            Some(Auth::Password { user, password }) => (user, password.expose_secret().to_owned()),
            _ => panic!("{url} has no password"),
        }
    }

    fn mistake(url: &str) -> String {
        Relay::smtp(url).expect_err("a bad url").to_string()
    }

    #[test]
    fn a_scheme_says_how_the_connection_is_secured_and_which_port_is_meant() {
        for (url, security, port) in [
            ("smtp://mx.example.com", Security::Plain, 25),
            ("smtp+starttls://mx.example.com", Security::StartTls, 587),
            ("smtps://mx.example.com/", Security::Tls, 465),
            ("smtp://mx.example.com:2525", Security::Plain, 2525),
        ] {
            let server = server(url);
            assert_eq!(
                (server.host.as_str(), server.security, server.port),
                ("mx.example.com", security, port)
            );
            assert!(server.auth.is_none());
        }

        assert_eq!(server("smtp://[::1]:25").host, "::1");
        assert_eq!(server("smtp://127.0.0.1").host, "127.0.0.1");
    }

    #[test]
    fn a_login_is_read_from_the_url_and_its_percent_signs_are_undone() {
        assert_eq!(
            login("smtps://shop:s3cret@mx.example"),
            ("shop".into(), "s3cret".into())
        );

        assert_eq!(
            login("smtps://a%40b.example:p%3A%2F%25%C3%A4@mx.example"),
            ("a@b.example".into(), "p:/%ä".into())
        );

        assert_eq!(
            login("smtps://shop@mx.example"),
            ("shop".into(), String::new())
        );

        assert!(mistake("smtps://shop:%FF@mx.example").contains("percent signs encode no UTF-8"));
    }

    #[test]
    fn a_bad_url_is_refused_with_the_reason() {
        assert!(mistake("mx.example.com").contains("cannot be read"));
        assert!(
            mistake("http://mx.example.com")
                .contains("has the scheme `http`; use smtp, smtp+starttls, smtps")
        );

        assert!(mistake("smtp://").contains("names no host"));
        assert!(mistake("smtp://:s3cret@mx.example").contains("has a password and no user"));
        for url in [
            "smtp://mx.example/path",
            "smtp://mx.example?tls=1",
            "smtp://mx.example#x",
        ] {
            assert!(mistake(url).contains("something after the port"), "{url}");
        }

        for url in [
            "smtp://a:s3cret@",
            "smtp://a:s3cret@mx.example/x",
            "ftp://a:s3cret@mx.example",
            "smtp://a:s3cret@mx:x",
        ] {
            assert!(!mistake(url).contains("s3cret"), "{url}");
        }
    }

    #[test]
    fn a_relay_is_named_after_its_host_until_it_gets_a_name() {
        let relay = Relay::smtp("smtp://[::1]:25").expect("valid");
        assert_eq!(relay.name, "---1-");
        assert!(relay.validate().is_ok());
        assert_eq!(relay.name("primary").name, "primary");
        assert_eq!(Relay::smtp("capture://").expect("valid").name, "capture");
    }

    #[test]
    fn a_secret_is_in_no_debug_text() {
        let token: TokenSource = Arc::new(|| Box::pin(async { Ok(SecretString::from("t0ken")) }));
        let with_password = Relay::smtp("smtps://shop:s3cret@mx.example").expect("valid");
        let with_token = with_password.clone().auth(Auth::OAuth2 {
            user: "shop".into(),
            token,
        });

        for relay in [with_password, with_token] {
            let shown = format!("{relay:?}");
            assert!(
                shown.contains("shop") && !shown.contains("s3cret") && !shown.contains("t0ken"),
                "{shown}"
            );
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let good = || Relay::smtp("smtps://mx.example").expect("valid");
        let mistake = |relay: Relay| relay.validate().expect_err("cannot be used").to_string();
        assert!(good().validate().is_ok());
        for name in ["", "two words", "a,b", &"x".repeat(65)] {
            assert!(
                mistake(good().name(name)).contains("the relay's name"),
                "{name}"
            );
        }

        assert!(mistake(good().connections(0)).contains("connections are 0"));
        assert!(mistake(good().connections(1025)).contains("connections are 1025"));
        assert!(mistake(good().messages_per_connection(0)).contains("messages_per_connection"));
        assert!(mistake(good().ca_file("/nowhere/ca.pem")).contains("ca_file /nowhere/ca.pem"));
        assert!(mistake(good().client_name("two words")).contains("client_name `two words`"));
        assert!(
            mistake(Relay::smtp("smtps://a_b%20c").expect("a host of a kind"))
                .contains("no certificate")
        );
    }

    #[test]
    fn each_kind_of_relay_makes_its_transport() {
        let custom = Relay::custom("mine", Arc::new(Capture::default()));
        for relay in [
            custom,
            Relay::capture(&Capture::default()),
            Relay::smtp("smtp://mx.example").expect("valid"),
        ] {
            assert!(relay.transport().is_ok(), "{relay:?}");
        }

        assert!(
            Relay::smtp("smtps://mx.example")
                .expect("valid")
                .ca_file("/nowhere")
                .transport()
                .is_err()
        );
    }
}
