//! A scripted SMTP server. It behaves well unless a [`Rule`] says otherwise, and remembers
//! everything.
//!
//! ```ignore
//! let server = FakeSmtp::builder()
//!     .rule(Rule::at(Step::Rcpt).to("bob@").act(Act::reply(550, "5.1.1 no such user")))
//!     .rule(Rule::at(Step::FinalDot).first(2).act(Act::Cut))
//!     .start().await;
//! // Or url_with("smtp+starttls", "user:password") and ca_file().
//! Relay::smtp(&server.url())?;
//! server.mails_arrive(3).await;                        // waits, and panics after half a minute
//! ```
//!
//! Rules are asked in order; the first that matches acts. [`FakeSmtp::rule`] adds one while the
//! server runs.

mod session;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::certificates::{Cert, Identity};

/// A step of the dialogue: what the server is about to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Greeting,
    Ehlo,
    StartTls,
    /// The TLS handshake itself; only [`Act::Cut`] and [`Act::Hang`] make sense.
    Handshake,
    Auth,
    Mail,
    Rcpt,
    Data,
    /// The first bytes of the message have come, its final dot has not.
    Body,
    /// The whole message has come.
    FinalDot,
    Rset,
    Quit,
}

/// What the server does at a step instead of behaving well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// This reply, and on with the dialogue; see [`Act::reply`].
    Reply(u16, String),
    /// This reply, then the connection is closed.
    ReplyThenCut(u16, String),
    /// The connection is closed without a word.
    Cut,
    /// Nothing more is said or read; the connection stays open.
    Hang,
    /// The right reply, one byte at a time.
    Drip(Duration),
    /// The right reply, after a while.
    Delay(Duration),
    /// Something that is no reply.
    Garbage,
    /// A reply line of so many bytes.
    HugeLine(usize),
    /// A reply of so many lines.
    HugeReply(usize),
    /// A reply of two lines with different codes.
    MixedCodes,
    /// The right reply, and this line right behind it, in the same segment.
    Extra(String),
    /// The right reply, and this line a moment later.
    ExtraLater(Duration, String),
    /// A positive reply of the wrong class: 354 where 250 is right, and the other way round.
    WrongClass,
    /// These bytes instead of a reply.
    Raw(Vec<u8>),
}

impl Act {
    pub fn reply(code: u16, text: &str) -> Self {
        Act::Reply(code, text.to_owned())
    }

    pub fn extra(line: &str) -> Self {
        Act::Extra(line.to_owned())
    }
}

/// What a rule is asked about.
#[derive(Clone, Debug, Default)]
pub struct Moment {
    /// Which connection of this server, from 1.
    pub connection: usize,
    /// How many transactions this connection has begun (MAIL taken).
    pub transaction: usize,
    /// The line that the client sent; empty for the greeting and the message.
    pub line: String,
    /// The envelope so far.
    pub return_path: String,
    pub recipients: Vec<String>,
    /// The message, at [`Step::FinalDot`].
    pub message: Vec<u8>,
}

type Condition = Arc<dyn Fn(&Moment) -> bool + Send + Sync>;

/// At a step, under conditions, an act.
#[derive(Clone)]
pub struct Rule {
    step: Step,
    act: Act,
    conditions: Vec<Condition>,
    after: usize,
    left: usize,
}

impl Rule {
    /// A rule for every time this step comes; it cuts the connection unless [`Rule::act`] says
    /// otherwise.
    pub fn at(step: Step) -> Self {
        Rule {
            step,
            act: Act::Cut,
            conditions: Vec::new(),
            after: 0,
            left: usize::MAX,
        }
    }

    pub fn act(mut self, act: Act) -> Self {
        self.act = act;
        self
    }

    /// Only the first `times` that it would match.
    pub fn first(mut self, times: usize) -> Self {
        self.left = times;
        self
    }

    /// Not the first `times` that it would match.
    pub fn after(mut self, times: usize) -> Self {
        self.after = times;
        self
    }

    /// Only on this connection, counted from 1.
    pub fn on_connection(self, number: usize) -> Self {
        self.when(move |moment| moment.connection == number)
    }

    /// Only where the client's line contains this, as `RCPT TO:<bob@example.org>` contains `bob@`.
    pub fn to(self, part: &str) -> Self {
        let part = part.to_owned();
        self.when(move |moment| moment.line.contains(&part))
    }

    /// Only where this holds.
    pub fn when(mut self, condition: impl Fn(&Moment) -> bool + Send + Sync + 'static) -> Self {
        self.conditions.push(Arc::new(condition));
        self
    }
}

/// A message that came whole, up to its final dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Which connection brought it, from 1.
    pub connection: usize,
    /// The envelope; the null reverse-path is empty.
    pub return_path: String,
    /// The parameters of MAIL, such as `SIZE=120`.
    pub parameters: Vec<String>,
    /// The recipients that were accepted.
    pub recipients: Vec<String>,
    /// The message, without dot-stuffing and final dot.
    pub message: Vec<u8>,
    /// The code that answered the final dot; `None` where no answer was sent.
    pub answer: Option<u16>,
    /// Whether RCPT was already there when MAIL was answered.
    pub pipelined: bool,
    /// Whether MAIL was already there when the mail before it on this connection was answered.
    pub overlapped: bool,
    /// Whether it came under TLS.
    pub encrypted: bool,
    /// The user who had logged in.
    pub user: Option<String>,
}

impl Received {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.message).into_owned()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tls {
    Offered,
    Implicit,
}

/// How a server is to be; see [`FakeSmtp::builder`].
#[derive(Clone)]
pub struct Builder {
    capabilities: Vec<String>,
    rules: Vec<Rule>,
    logins: Vec<(String, String)>,
    mechanisms: String,
    tls: Option<(Tls, Cert)>,
    turnaround: Duration,
    bare_line_feeds: bool,
    drops_behind: Option<Step>,
    prompts: [String; 2],
    refused_mechanism: String,
    bind: String,
}

impl Builder {
    /// Exactly these EHLO lines (STARTTLS and AUTH are added by themselves).
    pub fn capabilities<'a>(mut self, lines: impl IntoIterator<Item = &'a str>) -> Self {
        self.capabilities = lines.into_iter().map(str::to_owned).collect();
        self
    }

    /// Without this EHLO line.
    pub fn without(mut self, capability: &str) -> Self {
        self.capabilities
            .retain(|line| !line.starts_with(capability));
        self
    }

    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Short for a rule without conditions.
    pub fn at(self, step: Step, act: Act) -> Self {
        self.rule(Rule::at(step).act(act))
    }

    /// Wants a login, which may be this one; for XOAUTH2 the password is the token.
    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.logins.push((user.to_owned(), password.to_owned()));
        self
    }

    /// The AUTH mechanisms that are offered; `PLAIN LOGIN XOAUTH2` unless said.
    pub fn mechanisms(mut self, mechanisms: &str) -> Self {
        self.mechanisms = mechanisms.to_owned();
        self
    }

    /// Offers STARTTLS, and takes no mail without it.
    pub fn starttls(mut self, cert: Cert) -> Self {
        self.tls = Some((Tls::Offered, cert));
        self
    }

    /// TLS from the first byte.
    pub fn implicit_tls(mut self, cert: Cert) -> Self {
        self.tls = Some((Tls::Implicit, cert));
        self
    }

    /// Waits so long before it looks at what has come: a far-away server.
    pub fn turnaround(mut self, span: Duration) -> Self {
        self.turnaround = span;
        self
    }

    /// Offers this mechanism of AUTH, in upper case, and does not know it when it is asked for.
    pub fn refused_mechanism(mut self, mechanism: &str) -> Self {
        self.refused_mechanism = mechanism.to_owned();
        self
    }

    /// Ends its lines with LF alone.
    pub fn bare_line_feeds(mut self) -> Self {
        self.bare_line_feeds = true;
        self
    }

    /// Drops what came with the end of a message, behind its dot.
    pub fn drops_what_is_ahead(mut self) -> Self {
        self.drops_behind = Some(Step::FinalDot);
        self
    }

    /// Drops what came with MAIL, behind it.
    pub fn drops_what_is_behind_mail(mut self) -> Self {
        self.drops_behind = Some(Step::Mail);
        self
    }

    /// What AUTH LOGIN asks for user and password with, in base64.
    pub fn prompts(mut self, user: &str, password: &str) -> Self {
        self.prompts = [user.to_owned(), password.to_owned()];
        self
    }

    /// Listens here instead of on a free port of 127.0.0.1: `[::1]:0`, or the address of a server
    /// that was stopped.
    pub fn bind(mut self, address: impl ToString) -> Self {
        self.bind = address.to_string();
        self
    }

    pub async fn start(self) -> FakeSmtp {
        let listener = TcpListener::bind(&self.bind).await.unwrap();
        let address = listener.local_addr().unwrap();
        let identity = self.tls.map(|(mode, cert)| (mode, Identity::new(cert)));
        let ca_file = identity.as_ref().map(|(_, identity)| {
            let file = NamedTempFile::with_suffix(".pem").unwrap();
            std::fs::write(file.path(), &identity.ca_pem).unwrap();
            file
        });

        let state = Arc::new(State {
            capabilities: self.capabilities,
            rules: Mutex::new(self.rules),
            logins: self.logins,
            mechanisms: self.mechanisms,
            tls: identity.map(|(mode, identity)| (mode, identity.config)),
            turnaround: self.turnaround,
            bare_line_feeds: self.bare_line_feeds,
            drops_behind: self.drops_behind,
            prompts: self.prompts,
            refused_mechanism: self.refused_mechanism,
            received: Mutex::default(),
            commands: Mutex::default(),
            accepted: watch::Sender::new(0),
            connections: watch::Sender::new(0),
            open: watch::Sender::new(0),
            peak: AtomicUsize::new(0),
            turnarounds: AtomicUsize::new(0),
        });

        let accepting = tokio::spawn(accept(listener, state.clone()));
        FakeSmtp {
            address,
            state,
            ca_file,
            accepting,
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                sessions.spawn(session::serve(stream, state.clone()));
            }
            Some(_) = sessions.join_next() => {}
        }
    }
}

struct State {
    capabilities: Vec<String>,
    rules: Mutex<Vec<Rule>>,
    logins: Vec<(String, String)>,
    mechanisms: String,
    tls: Option<(Tls, Arc<tokio_rustls::rustls::ServerConfig>)>,
    turnaround: Duration,
    bare_line_feeds: bool,
    drops_behind: Option<Step>,
    prompts: [String; 2],
    refused_mechanism: String,
    received: Mutex<Vec<Received>>,
    commands: Mutex<Vec<String>>,
    accepted: watch::Sender<usize>,
    connections: watch::Sender<usize>,
    open: watch::Sender<usize>,
    peak: AtomicUsize,
    turnarounds: AtomicUsize,
}

impl State {
    /// What the script says about this step, if anything.
    fn act(&self, step: Step, moment: &Moment) -> Option<Act> {
        let mut rules = self.rules.lock();
        for rule in rules.iter_mut() {
            if rule.step != step || !rule.conditions.iter().all(|holds| holds(moment)) {
                continue;
            }
            if rule.after > 0 {
                rule.after -= 1;
                continue;
            }
            if rule.left > 0 {
                rule.left -= 1;
                return Some(rule.act.clone());
            }
        }

        None
    }

    fn opened(&self) -> usize {
        let mut number = 0;
        self.connections.send_modify(|count| {
            *count += 1;
            number = *count;
        });
        self.open.send_modify(|open| {
            *open += 1;
            self.peak.fetch_max(*open, Ordering::SeqCst);
        });
        number
    }

    fn remember(&self, received: Received) {
        let accepted = received.answer == Some(250);
        self.received.lock().push(received);
        if accepted {
            self.accepted.send_modify(|count| *count += 1);
        }
    }
}

/// A running server. Dropping it stops it and cuts its connections.
pub struct FakeSmtp {
    address: SocketAddr,
    state: Arc<State>,
    ca_file: Option<NamedTempFile>,
    accepting: JoinHandle<()>,
}

impl Drop for FakeSmtp {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl FakeSmtp {
    /// A server that offers PIPELINING, SIZE 10485760, 8BITMIME, SMTPUTF8 and ENHANCEDSTATUSCODES.
    pub fn builder() -> Builder {
        let capabilities = [
            "PIPELINING",
            "SIZE 10485760",
            "8BITMIME",
            "SMTPUTF8",
            "ENHANCEDSTATUSCODES",
        ];

        Builder {
            capabilities: capabilities.map(str::to_owned).to_vec(),
            rules: Vec::new(),
            logins: Vec::new(),
            mechanisms: "PLAIN LOGIN XOAUTH2".into(),
            tls: None,
            turnaround: Duration::ZERO,
            bare_line_feeds: false,
            drops_behind: None,
            prompts: ["VXNlcm5hbWU6", "UGFzc3dvcmQ6"].map(str::to_owned),
            refused_mechanism: String::new(),
            bind: "127.0.0.1:0".into(),
        }
    }

    /// A server without a script.
    pub async fn start() -> Self {
        FakeSmtp::builder().start().await
    }

    /// Adds a rule while the server runs; it is asked before those that are there.
    pub fn rule(&self, rule: Rule) {
        self.state.rules.lock().insert(0, rule);
    }

    /// Behaves well from now on.
    pub fn behave(&self) {
        self.state.rules.lock().clear();
    }

    /// Stops listening and cuts every connection; gives the address for [`Builder::bind`].
    pub async fn stop(mut self) -> SocketAddr {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
        self.address
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `smtp://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    /// `smtp://user:password@127.0.0.1:port`, for any scheme.
    pub fn url_with(&self, scheme: &str, login: &str) -> String {
        let at = if login.is_empty() { "" } else { "@" };
        format!("{scheme}://{login}{at}localhost:{}", self.port())
    }

    /// The PEM of the authority that signed the server's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.ca_file
            .as_ref()
            .expect("the server has a certificate")
            .path()
            .to_owned()
    }

    pub fn has_certificate(&self) -> bool {
        self.ca_file.is_some()
    }

    /// Every mail that was answered with 250, in the order of those answers.
    pub fn mails(&self) -> Vec<Received> {
        self.state
            .received
            .lock()
            .iter()
            .filter(|mail| mail.answer == Some(250))
            .cloned()
            .collect()
    }

    /// How many those are.
    pub fn mail_count(&self) -> usize {
        let received = self.state.received.lock();
        let taken = received.iter().filter(|mail| mail.answer == Some(250));
        taken.count()
    }

    /// Every message that came up to its final dot, whatever was answered.
    pub fn transactions(&self) -> Vec<Received> {
        self.state.received.lock().clone()
    }

    /// Every command line that came, on all connections.
    pub fn commands(&self) -> Vec<String> {
        self.state.commands.lock().clone()
    }

    /// How many mails were answered with 250; cheap.
    pub fn accepted(&self) -> usize {
        *self.state.accepted.borrow()
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        *self.state.connections.borrow()
    }

    /// How many connections there are.
    pub fn open_connections(&self) -> usize {
        *self.state.open.borrow()
    }

    /// The most connections that there were at once.
    pub fn peak_connections(&self) -> usize {
        self.state.peak.load(Ordering::SeqCst)
    }

    /// How often something came from a client, on all connections.
    pub fn turnarounds(&self) -> usize {
        self.state.turnarounds.load(Ordering::SeqCst)
    }

    /// Waits until so many mails were answered with 250, and returns them.
    pub async fn mails_arrive(&self, count: usize) -> Vec<Received> {
        reaches(&self.state.accepted, "mails", move |now| now >= count).await;
        self.mails()
    }

    /// Waits until there were so many connections.
    pub async fn connections_come(&self, count: usize) {
        reaches(&self.state.connections, "connections", move |now| {
            now >= count
        })
        .await;
    }

    /// Waits until so few connections are open.
    pub async fn open_connections_fall_to(&self, count: usize) {
        reaches(&self.state.open, "open connections", move |now| {
            now <= count
        })
        .await;
    }
}

async fn reaches(value: &watch::Sender<usize>, what: &str, enough: impl Fn(usize) -> bool) {
    let mut changes = value.subscribe();
    let waited = tokio::time::timeout(
        Duration::from_secs(30),
        changes.wait_for(|now| enough(*now)),
    )
    .await;
    if waited.is_err() {
        panic!(
            "after half a minute the fake server has {} {what}",
            *value.borrow()
        );
    }
}
