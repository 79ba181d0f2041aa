//! Opens a connection that is ready to send: DNS, TCP, TLS, EHLO, AUTH. A failure here is the
//! relay's fault and never a mail's: each is an [`Outcome::Unavailable`] that names the step, and
//! says whether the host's other addresses should be tried.

use std::net::{IpAddr, SocketAddr};

use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands;
use lettre::transport::smtp::extension::ClientId;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Smtp;
use super::connection::SmtpConnection;
use super::dial;
use super::extensions::Extensions;
use super::login::{Ticket, log_in};
use super::reply::{ServerReply, why_malformed};
use super::wire::{Stream, Wire};
use crate::delivery::{Outcome, Phase, REFUSED, SILENCE, printable};
use crate::transport::{RelayError, Security};

/// The advice for a server that sends nothing when a connection is opened.
const TLS_HINT: &str = "; if it speaks TLS from the first byte (usually on port 465), use \
                             smtps://";

/// Opens a connection to the first of the host's addresses where greeting, TLS and login all
/// succeed (RFC 5321 §5.1). TCP alone is not enough: a server may greet with 421 or 554, stay
/// silent, or hang up.
pub(super) async fn open(smtp: &Smtp) -> Result<SmtpConnection, Outcome> {
    let addresses = match smtp.addresses.is_empty() {
        true => dial::resolve(&smtp.server).await?,
        false => smtp.addresses.clone(),
    };
    open_at(smtp, addresses).await
}

async fn open_at(smtp: &Smtp, addresses: Vec<SocketAddr>) -> Result<SmtpConnection, Outcome> {
    let mut ticket = Ticket::default();
    let opened = try_each(smtp, addresses.clone(), &mut ticket).await;
    let (Err(failure), Some(auth)) = (&opened, &smtp.server.auth) else {
        return opened;
    };
    // A token that was revoked before it expired is fetched again, once, and used on a new
    // connection: some servers hang up after a failed login.
    let failure = failure.clone();
    match ticket.renew(auth, smtp.server.timeouts.auth).await? {
        true => try_each(smtp, addresses, &mut ticket).await,
        false => Err(failure),
    }
}

async fn try_each(
    smtp: &Smtp,
    addresses: Vec<SocketAddr>,
    ticket: &mut Ticket,
) -> Result<SmtpConnection, Outcome> {
    let mut left = smtp.memory.reliable_first(addresses);
    loop {
        let (stream, peer) = dial::dial(&smtp.server, &left, &smtp.memory).await?;
        let failure = match converse(smtp, stream, peer, ticket).await {
            Ok(connection) => {
                smtp.memory.mark_good(peer);
                return Ok(connection);
            }
            Err(ConnectFailure::Everywhere(failure)) => return Err(failure),
            Err(ConnectFailure::Here(failure)) => failure,
        };

        smtp.memory.mark_bad(peer, &reason_of(&failure));
        left.retain(|address| *address != peer);
        if left.is_empty() {
            return Err(failure);
        }

        tracing::debug!(%peer, ?failure, "the host's next address is tried");
    }
}

/// Why no connection could be opened at an address.
#[derive(Debug)]
pub(super) enum ConnectFailure {
    /// Another of the host's addresses may work.
    Here(Outcome),
    /// All addresses of the host would fail in the same way: the login was refused permanently, and
    /// trying it again elsewhere could lock the account.
    Everywhere(Outcome),
}

impl From<Outcome> for ConnectFailure {
    fn from(outcome: Outcome) -> Self {
        ConnectFailure::Here(outcome)
    }
}

pub(super) fn reason_of(failure: &Outcome) -> String {
    match failure {
        Outcome::Unavailable(phase, reason) | Outcome::Lost(phase, reason) => {
            format!("{phase}: {reason}")
        }
        Outcome::Deferred(phase, reply) | Outcome::Rejected(phase, reply) => {
            format!("{phase}: {REFUSED}{reply}")
        }
        other => format!("{other:?}"),
    }
}

/// Takes a TCP connection through greeting, TLS, EHLO and login.
async fn converse(
    smtp: &Smtp,
    stream: TcpStream,
    peer: SocketAddr,
    ticket: &mut Ticket,
) -> Result<SmtpConnection, ConnectFailure> {
    let server = &smtp.server;
    let wire = match server.security {
        Security::Tls => Wire::new(secure(smtp, stream).await?, peer),
        Security::Plain | Security::StartTls => Wire::new(Stream::Plain(stream), peer),
    };

    let mut dialogue = greet(smtp, &wire).await?;
    let mut extensions = introduce(smtp, &wire, &mut dialogue).await?;
    if server.security == Security::StartTls {
        start_tls(smtp, &wire, &mut dialogue, extensions).await?;
        // What the server announced in cleartext is not trusted any more (RFC 3207 §4.2).
        extensions = introduce(smtp, &wire, &mut dialogue).await?;
    }

    if let Some(auth) = &server.auth {
        let time_limit = server.timeouts.auth;
        let offered = extensions.auth;
        log_in(&wire, &mut dialogue, offered, auth, ticket, time_limit).await?;
    }

    Ok(SmtpConnection::new(dialogue, wire, extensions, smtp, peer))
}

/// The name for EHLO: the configured one, or this machine's name if it is a valid EHLO argument.
pub(super) fn client_id(configured: Option<&str>) -> Result<ClientId, RelayError> {
    let usable = |name: &str| {
        !name.is_empty() && name.len() <= 255 && name.bytes().all(|b| b.is_ascii_graphic())
    };

    match configured {
        Some(name) if !usable(name) => Err(RelayError::ClientName(name.to_owned())),
        Some(name) => Ok(match name.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => ClientId::Ipv4(address),
            Ok(IpAddr::V6(address)) => ClientId::Ipv6(address),
            Err(_) => ClientId::Domain(name.to_owned()),
        }),
        None => Ok(match ClientId::default() {
            ClientId::Domain(name) if !usable(&name) => {
                ClientId::Ipv4(std::net::Ipv4Addr::LOCALHOST)
            }
            named => named,
        }),
    }
}

pub(super) fn unavailable(phase: Phase, reason: &str) -> Outcome {
    Outcome::Unavailable(phase, printable(reason))
}

/// The outcome when the server answers with an error at the greeting, at STARTTLS or at the login.
pub(super) fn refused(phase: Phase, answer: &ServerReply) -> Outcome {
    unavailable(phase, &format!("{REFUSED}{}", answer.reply()))
}

/// The outcome when lettre reports an error. The reason comes from the wire if it recorded one,
/// else from the server's reply.
pub(super) fn failed(phase: Phase, wire: &Wire, error: lettre::transport::smtp::Error) -> Outcome {
    if let Some(fault) = wire.fault() {
        return unavailable(phase, &fault);
    }
    match ServerReply::read(Err(error)) {
        Ok(answer) => refused(phase, &answer),
        Err(error) => unavailable(phase, &why_malformed(&error)),
    }
}

async fn secure(smtp: &Smtp, stream: TcpStream) -> Result<Stream, Outcome> {
    let tls = smtp
        .tls
        .as_ref()
        .expect("a transport that uses TLS was made with it");

    let span = smtp.server.timeouts.tls;
    match timeout(span, tls.handshake(stream)).await {
        Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream))),
        Ok(Err(reason)) => Err(unavailable(Phase::Tls, &reason)),
        Err(_) => {
            let span = humantime::format_duration(span);
            Err(unavailable(
                Phase::Tls,
                &format!("the TLS handshake did not end within {span}"),
            ))
        }
    }
}

/// Reads the greeting. The EHLO that lettre writes by itself afterwards is not sent; [`introduce`]
/// sends ours.
async fn greet(smtp: &Smtp, wire: &Wire) -> Result<AsyncSmtpConnection, Outcome> {
    wire.wait_up_to(smtp.server.timeouts.greeting);
    wire.listen();
    wire.answer_locally(b"250 unsaid\r\n");
    let met = AsyncSmtpConnection::connect_with_transport(wire.for_lettre(), &smtp.client).await;
    let heard = wire.heard();
    let dialogue = met.map_err(|error| {
        let is_silence = wire.fault().is_some_and(|fault| fault.starts_with(SILENCE));
        let waits_for_us = is_silence && !wire.has_unended_line();
        match failed(Phase::Greeting, wire, error) {
            Outcome::Unavailable(phase, reason)
                if waits_for_us && smtp.server.security != Security::Tls =>
            {
                Outcome::Unavailable(phase, reason + TLS_HINT)
            }
            failure => failure,
        }
    })?;

    // lettre accepts a 3yz greeting as well.
    if !heard.starts_with('2') {
        let line = heard.lines().next().unwrap_or_default();
        let reason = format!("the server's answer makes no sense here: {line}");
        return Err(unavailable(Phase::Greeting, &reason));
    }

    wire.is_silent()
        .await
        .map_err(|reason| unavailable(Phase::Greeting, &reason))?;
    Ok(dialogue)
}

/// Sends EHLO. If the server does not know it, sends HELO (RFC 5321 §3.2), unless the configuration
/// needs an extension, which only EHLO can offer.
async fn introduce(
    smtp: &Smtp,
    wire: &Wire,
    dialogue: &mut AsyncSmtpConnection,
) -> Result<Extensions, Outcome> {
    let server = &smtp.server;
    let is_enough = server.security != Security::StartTls && server.auth.is_none();
    let mut heard = String::new();
    for word in ["EHLO", "HELO"] {
        wire.wait_up_to(server.timeouts.greeting);
        wire.listen();
        let answer = dialogue
            .command(format!("{word} {}\r\n", smtp.client))
            .await;
        heard = wire.heard();
        let answer = ServerReply::read(answer).map_err(|error| failed(Phase::Ehlo, wire, error))?;

        wire.is_silent()
            .await
            .map_err(|reason| unavailable(Phase::Ehlo, &reason))?;
        let is_unknown = matches!(answer.code(), 500 | 502) && word == "EHLO";
        if answer.is_positive() && word == "HELO" {
            return Ok(Extensions::default());
        } else if answer.is_positive() {
            break;
        } else if !(is_unknown && is_enough) {
            return Err(refused(Phase::Ehlo, &answer));
        }
    }

    Ok(Extensions::read(
        heard.lines().filter_map(|line| line.get(4..)),
    ))
}

/// Upgrades the connection to TLS, or fails; it never continues in cleartext (RFC 3207).
async fn start_tls(
    smtp: &Smtp,
    wire: &Wire,
    dialogue: &mut AsyncSmtpConnection,
    extensions: Extensions,
) -> Result<(), Outcome> {
    if !extensions.starttls {
        return Err(unavailable(
            Phase::Tls,
            "the server does not offer STARTTLS, which smtp+starttls:// requires; if it speaks TLS \
             from the first byte (usually on port 465), use smtps://, and smtp:// only where \
             nobody \
             can listen",
        ));
    }

    wire.wait_up_to(smtp.server.timeouts.tls);
    let answer = ServerReply::read(dialogue.command(commands::Starttls).await);
    let answer = answer.map_err(|error| failed(Phase::Tls, wire, error))?;
    if answer.code() != 220 {
        return Err(refused(Phase::Tls, &answer));
    }

    // Bytes that the server sent in cleartext after its 220 would be read as if they had come over
    // TLS (command injection, CVE-2011-0411).
    wire.is_silent()
        .await
        .map_err(|reason| unavailable(Phase::Tls, &format!("before the TLS handshake {reason}")))?;

    let Stream::Plain(stream) = wire.take() else {
        return Err(unavailable(
            Phase::Tls,
            "the connection is encrypted already",
        ));
    };

    wire.put(secure(smtp, stream).await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;
    use crate::transport::{Auth, Connection, Relay, Server, TimeOuts, relay};

    /// What a server says at each step; an empty word is a hang-up, none is silence.
    #[derive(Clone, Copy)]
    struct ServerScript {
        greeting: Option<&'static str>,
        ehlo: Option<&'static str>,
        auth: Option<&'static str>,
        mail: Option<&'static str>,
    }

    const GOOD: ServerScript = ServerScript {
        greeting: Some("220 here"),
        ehlo: Some("250-here\r\n250 AUTH PLAIN"),
        auth: Some("235 2.7.0 welcome"),
        mail: Some("250 2.1.0 go on"),
    };

    /// An address, and how often somebody connected to it.
    struct TestServer {
        address: SocketAddr,
        met: Arc<AtomicUsize>,
    }

    impl TestServer {
        fn met(&self) -> usize {
            self.met.load(Ordering::SeqCst)
        }
    }

    async fn server(manners: ServerScript) -> TestServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let met = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&met);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(speak(stream, manners));
            }
        });
        TestServer { address, met }
    }

    async fn speak(mut stream: TcpStream, manners: ServerScript) -> std::io::Result<()> {
        let (read, mut write) = stream.split();
        let mut lines = BufReader::new(read).lines();
        let mut word = manners.greeting;

        loop {
            match word {
                None => std::future::pending().await,
                Some("") => return Ok(()),
                Some(said) => write.write_all(format!("{said}\r\n").as_bytes()).await?,
            }
            let Some(line) = lines.next_line().await? else {
                return Ok(());
            };
            word = match line.get(..4).unwrap_or_default() {
                "EHLO" => manners.ehlo,
                "AUTH" => manners.auth,
                "MAIL" => manners.mail,
                _ => Some("250 ok"),
            };
        }
    }

    fn smtp(auth: bool) -> Smtp {
        let relay = Relay::smtp("smtp://ada:secret@relay.example").expect("a relay");
        let relay::Kind::Smtp(server) = relay.kind else {
            panic!("it is an SMTP relay")
        };
        let server = Server {
            timeouts: TimeOuts::all(Duration::from_millis(300)),
            auth: server.auth.filter(|_: &Auth| auth),
            ..*server
        };
        Smtp::new(server).expect("a transport")
    }

    #[tokio::test]
    async fn the_next_address_is_tried_whatever_goes_wrong_at_one_and_it_is_remembered() {
        for bad in [
            ServerScript {
                greeting: Some("421 4.3.2 busy"),
                ..GOOD
            },
            ServerScript {
                greeting: Some("554 5.7.1 not you"),
                ..GOOD
            },
            ServerScript {
                greeting: Some(""),
                ..GOOD
            },
            ServerScript {
                greeting: None,
                ..GOOD
            },
            ServerScript {
                ehlo: Some("421 4.3.2 going down"),
                ..GOOD
            },
            ServerScript {
                ehlo: Some(""),
                ..GOOD
            },
            ServerScript { ehlo: None, ..GOOD },
            ServerScript {
                auth: Some("421 4.7.0 busy"),
                ..GOOD
            },
            ServerScript {
                auth: Some("454 4.7.0 temporary failure"),
                ..GOOD
            },
            ServerScript {
                auth: Some(""),
                ..GOOD
            },
        ] {
            let (smtp, bad, good) = (smtp(true), server(bad).await, server(GOOD).await);
            let addresses = vec![bad.address, good.address];
            for _ in 0..2 {
                let opened = open_at(&smtp, addresses.clone()).await;
                assert!(opened.is_ok(), "{:?}", opened.err());
            }
            assert_eq!((bad.met(), good.met()), (1, 2));
        }
    }

    #[tokio::test]
    async fn a_login_that_is_refused_is_not_tried_at_every_address() {
        let refusing = ServerScript {
            auth: Some("535 5.7.8 no"),
            ..GOOD
        };
        let (smtp, first, second) = (smtp(true), server(refusing).await, server(GOOD).await);
        let opened = open_at(&smtp, vec![first.address, second.address]).await;
        assert!(matches!(
            opened.err(),
            Some(Outcome::Unavailable(Phase::Auth, _))
        ));
        assert_eq!((first.met(), second.met()), (1, 0));
    }

    #[tokio::test]
    async fn where_every_address_is_bad_each_is_tried_and_the_last_says_why() {
        let busy = ServerScript {
            greeting: Some("421 4.3.2 busy"),
            ..GOOD
        };

        let (smtp, first, second) = (smtp(false), server(busy).await, server(busy).await);
        for round in 1..3 {
            let opened = open_at(&smtp, vec![first.address, second.address]).await;
            let Some(Outcome::Unavailable(Phase::Greeting, reason)) = opened.err() else {
                panic!("it must fail at the greeting")
            };
            assert!(reason.contains("421 4.3.2 busy"), "{reason}");
            assert_eq!((first.met(), second.met()), (round, round));
        }
    }

    #[tokio::test]
    async fn an_address_that_sends_the_first_mail_away_is_tried_last_the_next_time() {
        let away = ServerScript {
            mail: Some("421 4.3.2 going down"),
            ..GOOD
        };

        let (smtp, first, second) = (smtp(false), server(away).await, server(GOOD).await);
        let addresses = vec![first.address, second.address];
        let mut connection = open_at(&smtp, addresses.clone()).await.expect("open");
        let mail = crate::transport::Transaction {
            mail: crate::mail::MailId::generate(),
            return_path: None,
            recipients: vec!["ada@example.org".parse().expect("valid")],
            message: bytes::Bytes::from_static(b"Subject: x\r\n\r\nx\r\n"),
            eight_bit: false,
            smtputf8: false,
            recall: crate::transport::Recall::default(),
        };

        let outcomes = connection.send(&mail, None).await;
        assert!(matches!(
            outcomes[0],
            Outcome::Unavailable(Phase::MailFrom, _)
        ));
        open_at(&smtp, addresses).await.expect("open");

        assert_eq!((first.met(), second.met()), (1, 1));
    }
}
