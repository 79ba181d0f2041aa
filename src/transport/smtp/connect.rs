//! From nothing to a connection that is ready to send: name, TCP, TLS, EHLO, AUTH. Whatever goes
//! wrong here is the relay's fault, never a mail's: each failure is an [`Outcome::Unavailable`]
//! that names its step.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands;
use lettre::transport::smtp::extension::ClientId;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use super::Smtp;
use super::connection::SmtpConnection;
use super::extensions::Extensions;
use super::login::log_in;
use super::reply::{Answer, nonsense};
use super::wire::{Stream, Wire};
use crate::delivery::{Outcome, Phase, printable};
use crate::transport::{RelayError, Security, Server};

/// How long an address may keep us waiting before the next one is tried beside it (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);

/// How much the kernel may hold of what we wrote. A full buffer has room again only when a good
/// part of it has left; left to itself it grows to megabytes, and over a slow link no time-out for
/// a part of a message could tell waiting from progress.
const SEND_BUFFER: u32 = 256 * 1024;

pub(super) async fn open(smtp: &Smtp) -> Result<SmtpConnection, Outcome> {
    let server = &smtp.server;
    let (stream, peer) = dial(server).await?;
    let wire = match server.security {
        Security::Tls => Wire::new(secure(smtp, stream).await?, peer),
        Security::Plain | Security::StartTls => Wire::new(Stream::Plain(stream), peer),
    };
    let mut dialogue = greet(smtp, &wire).await?;
    let mut extensions = introduce(smtp, &wire, &mut dialogue).await?;
    if server.security == Security::StartTls {
        start_tls(smtp, &wire, &mut dialogue, extensions).await?;
        // Nothing that was said in the clear is believed any more.
        extensions = introduce(smtp, &wire, &mut dialogue).await?;
    }
    if let Some(auth) = &server.auth {
        let patience = server.timeouts.auth;
        log_in(&wire, &mut dialogue, extensions.auth, auth, patience).await?;
    }
    Ok(SmtpConnection::new(dialogue, wire, extensions, smtp))
}

/// What we call ourselves: what was configured, or this machine's name where it can stand in EHLO.
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

/// What a server says where it should have greeted, shaken hands or let us in.
pub(super) fn refused(phase: Phase, answer: &Answer) -> Outcome {
    unavailable(phase, &format!("the server refused: {}", answer.reply()))
}

/// A failure that lettre reports: the wire knows best why, then the server.
pub(super) fn failed(phase: Phase, wire: &Wire, error: lettre::transport::smtp::Error) -> Outcome {
    if let Some(fault) = wire.fault() {
        return unavailable(phase, &fault);
    }
    match Answer::read(Err(error)) {
        Ok(answer) => refused(phase, &answer),
        Err(error) => unavailable(phase, &nonsense(&error)),
    }
}

/// Connects to the first of the host's addresses that answers, in the resolver's order, each with a
/// head start before the next.
async fn dial(server: &Server) -> Result<(TcpStream, SocketAddr), Outcome> {
    let place = format!("{}:{}", server.host, server.port);
    let reached = timeout(server.timeouts.connect, async {
        let addresses = tokio::net::lookup_host((server.host.as_str(), server.port)).await;
        let addresses =
            addresses.map_err(|e| format!("cannot find the host {}: {e}", server.host))?;
        let mut waiting = addresses.collect::<Vec<_>>().into_iter();
        let mut trying = FuturesUnordered::new();
        let mut reason = format!("the host {} has no address", server.host);
        loop {
            match waiting.next() {
                Some(address) => trying.push(async move { (address, connect_to(address).await) }),
                None if trying.is_empty() => return Err(reason),
                None => {}
            }
            tokio::select! {
                Some((address, connected)) = trying.next() => match connected {
                    Ok(stream) => return Ok((stream, address)),
                    Err(e) => reason = format!("cannot connect to {place} at {address}: {e}"),
                },
                () = sleep(HEAD_START), if waiting.len() > 0 => {}
            }
        }
    });
    let (stream, peer) = match reached.await {
        Ok(reached) => reached.map_err(|reason| unavailable(Phase::Connect, &reason))?,
        Err(_) => {
            let span = humantime::format_duration(server.timeouts.connect);
            return Err(unavailable(
                Phase::Connect,
                &format!("{place} did not answer within {span}"),
            ));
        }
    };
    Ok((stream, peer))
}

async fn connect_to(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // Without it, Nagle's algorithm and delayed acknowledgements stall each mail by 40 ms.
    socket.set_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.connect(address).await
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

/// Awaits the greeting. What lettre then says by itself is not sent: [`introduce`] says it.
async fn greet(smtp: &Smtp, wire: &Wire) -> Result<AsyncSmtpConnection, Outcome> {
    wire.wait_up_to(smtp.server.timeouts.greeting);
    wire.listen();
    wire.pretend(b"250 unsaid\r\n");
    let met = AsyncSmtpConnection::connect_with_transport(wire.for_lettre(), &smtp.client).await;
    let heard = wire.heard();
    let dialogue = met.map_err(|error| failed(Phase::Greeting, wire, error))?;

    // lettre goes on after a 3yz as well.
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

/// Says EHLO, or HELO to a server that does not know it (RFC 5321 §3.2), if nothing is wanted that
/// only EHLO can offer.
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
        let answer = Answer::read(answer).map_err(|error| failed(Phase::Ehlo, wire, error))?;

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

/// Goes over to TLS, or fails: never on in the clear (RFC 3207).
async fn start_tls(
    smtp: &Smtp,
    wire: &Wire,
    dialogue: &mut AsyncSmtpConnection,
    extensions: Extensions,
) -> Result<(), Outcome> {
    if !extensions.starttls {
        return Err(unavailable(
            Phase::Tls,
            "the server does not offer STARTTLS, which smtp+starttls:// requires",
        ));
    }
    wire.wait_up_to(smtp.server.timeouts.tls);
    let answer = Answer::read(dialogue.command(commands::Starttls).await);
    let answer = answer.map_err(|error| failed(Phase::Tls, wire, error))?;
    if answer.code() != 220 {
        return Err(refused(Phase::Tls, &answer));
    }
    // What came in the clear behind the 220 would be read as if it had come under TLS
    // (CVE-2011-0411 and its kin).
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
