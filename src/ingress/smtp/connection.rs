//! One client's connection: transfers bytes, and has a deadline for everything. The
//! [`session`](super::session) interprets the bytes.
//!
//! *Invariant:* no client can keep a connection open without making progress, and one that
//! disappears leaves nothing behind.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use super::Limits;
use super::intake;
use super::session::{ConnectionSecurity, SessionContext, SessionStep, SmtpSession};
use crate::Dispatcher;
use crate::mail::{Submitter, Timestamp};

/// How many bytes are read at a time while commands arrive; the buffer of an idle connection.
const COMMAND_READ_BYTES: usize = 4 * 1024;
/// How many bytes are read at a time while a message arrives.
const MESSAGE_READ_BYTES: usize = 64 * 1024;
/// After closing, how long and how many bytes a client may still send.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1024 * 1024;

/// What a connection needs of the listener.
#[derive(Clone)]
pub(super) struct DoorContext {
    pub context: SessionContext,
    pub dispatcher: Dispatcher,
    pub stopping: watch::Receiver<bool>,
}

impl DoorContext {
    /// Counts a failed login from this address, and returns the delay of the reply.
    fn penalty(&self, peer: IpAddr) -> Duration {
        self.dispatcher.turned_away("login");
        let failed = self.context.guard.failed(peer, Instant::now().into_std());
        if failed.is_new_ban {
            tracing::warn!(%peer, "too many failed smtp logins from one address");
        }
        failed.penalty.max(self.context.limits.login_penalty)
    }
}

/// Serves one client until it disconnects. `implicit` means TLS from the first byte.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    implicit: bool,
    door: DoorContext,
) {
    let served = match tls {
        Some(tls) if implicit => serve_tls(stream, &tls, None, peer, &door).await,
        tls => serve_plain(stream, tls, peer, &door).await,
    };
    if let Err(e) = served {
        tracing::debug!(%peer, error = %e, "smtp connection ended");
    }
}

async fn serve_plain(
    mut stream: TcpStream,
    tls: Option<TlsAcceptor>,
    peer: SocketAddr,
    door: &DoorContext,
) -> io::Result<()> {
    let security = if tls.is_some() {
        ConnectionSecurity::Offered
    } else {
        ConnectionSecurity::Plain
    };

    let mut session = SmtpSession::new(door.context.clone(), peer.ip(), security);
    let opened = Instant::now();
    match (
        converse(&mut stream, &mut session, opened, door).await?,
        tls,
    ) {
        (ConversationEnd::StartTls, Some(tls)) => {
            serve_tls(stream, &tls, Some((session, opened)), peer, door).await
        }
        _ => hang_up(&mut stream).await,
    }
}

async fn serve_tls(
    stream: TcpStream,
    tls: &TlsAcceptor,
    begun: Option<(SmtpSession, Instant)>,
    peer: SocketAddr,
    door: &DoorContext,
) -> io::Result<()> {
    let now = Instant::now();
    let mut stream = timeout(door.context.limits.handshake, tls.accept(stream)).await??;
    let (mut session, opened) = match begun {
        Some((mut session, opened)) => {
            session.secured();
            (session, opened)
        }
        None => (
            SmtpSession::new(door.context.clone(), peer.ip(), ConnectionSecurity::Tls),
            now,
        ),
    };

    converse(&mut stream, &mut session, opened, door).await?;
    hang_up(&mut stream).await
}

/// How a conversation ended.
enum ConversationEnd {
    Over,
    StartTls,
}

/// Transfers bytes until one side ends the conversation. `opened` is when the connection began.
async fn converse<S>(
    stream: &mut S,
    session: &mut SmtpSession,
    opened: Instant,
    door: &DoorContext,
) -> io::Result<ConversationEnd>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = door.context.limits;
    let mut stopping = door.stopping.clone();
    let mut stopped = pin!(async move {
        // If the sender is dropped, the listener stops as well.
        let _ = stopping.wait_for(|stop| *stop).await;
    });

    let mut buffer = BytesMut::new();
    let mut pace = ClientProgress::new(session);
    let come_in = opened + limits.login;
    loop {
        let mut input = &buffer[..];
        let step = session.advance(&mut input, Timestamp::now());
        let used = buffer.len() - input.len();
        buffer.advance(used);
        match step {
            SessionStep::Read => {
                flush(stream, session, &limits).await?;
                let deadline = match session.is_admitted() {
                    true => pace.deadline(session, &limits),
                    false => pace.deadline(session, &limits).min(come_in),
                };
                match read(stream, &mut buffer, session, deadline, stopped.as_mut()).await? {
                    ReadResult::Bytes => {}
                    ReadResult::Nothing => return Ok(ConversationEnd::Over),
                    ReadResult::TooLate => session.hang_up("4.4.2", "you took too long"),
                    ReadResult::Stop => session.hang_up("4.3.2", "shutting down; try again later"),
                }
            }
            SessionStep::Flush => flush(stream, session, &limits).await?,
            SessionStep::Penalty(name) => {
                let dispatcher = door.dispatcher.from_address(session.peer());
                dispatcher.note_refused_login(Some(Submitter::user(&name)));
                tokio::time::sleep(door.penalty(session.peer())).await;
            }
            SessionStep::Submit(submission) => {
                flush(stream, session, &limits).await?;
                let reply = intake::take(&door.dispatcher, submission).await;
                session.answer(&reply);
            }
            SessionStep::StartTls => {
                flush(stream, session, &limits).await?;
                return Ok(ConversationEnd::StartTls);
            }
            SessionStep::Close => {
                flush(stream, session, &limits).await?;
                return Ok(ConversationEnd::Over);
            }
        }
    }
}

/// The result of waiting for the client.
enum ReadResult {
    Bytes,
    Nothing,
    TooLate,
    Stop,
}

/// Waits for more bytes. A message that is being received may be finished while the listener
/// closes.
async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
    session: &SmtpSession,
    deadline: Instant,
    stopped: Pin<&mut impl Future<Output = ()>>,
) -> io::Result<ReadResult> {
    let in_message = session.receiving().is_some();
    if buffer.is_empty() && buffer.capacity() > COMMAND_READ_BYTES && !in_message {
        *buffer = BytesMut::new();
    }

    buffer.reserve(if in_message {
        MESSAGE_READ_BYTES
    } else {
        COMMAND_READ_BYTES
    });

    tokio::select! {
        biased;
        () = stopped, if !in_message => Ok(ReadResult::Stop),
        read = timeout_at(deadline, stream.read_buf(buffer)) => match read {
            Ok(Ok(0)) => Ok(ReadResult::Nothing),
            Ok(Ok(_)) => Ok(ReadResult::Bytes),
            Ok(Err(e)) => Err(e),
            Err(_) => Ok(ReadResult::TooLate),
        },
    }
}

async fn flush<S: AsyncWrite + Unpin>(
    stream: &mut S,
    session: &mut SmtpSession,
    limits: &Limits,
) -> io::Result<()> {
    let replies = session.replies();
    if replies.is_empty() {
        return Ok(());
    }
    timeout(limits.write, async {
        stream.write_all(replies).await?;
        stream.flush().await
    })
    .await??;
    replies.clear();
    Ok(())
}

/// The deadline by which the client must have made progress.
struct ClientProgress {
    progress: u64,
    since: Instant,
}

impl ClientProgress {
    fn new(session: &SmtpSession) -> Self {
        ClientProgress {
            progress: session.progress(),
            since: Instant::now(),
        }
    }

    /// The deadline of a command is for the whole line, not for each byte; that of a message
    /// depends on the bytes received so far.
    fn deadline(&mut self, session: &SmtpSession, limits: &Limits) -> Instant {
        if self.progress != session.progress() {
            *self = ClientProgress::new(session);
        }
        match session.receiving() {
            None => self.since + limits.idle,
            Some(bytes) => {
                let allowed = Duration::from_secs((bytes / limits.data_rate.max(1)) as u64);
                self.since + limits.data + allowed
            }
        }
    }
}

/// Closes the connection so that the client can read our last reply: further bytes are read for a
/// moment, since closing with unread bytes resets the connection and discards the reply.
async fn hang_up<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    let linger = async {
        stream.shutdown().await?;
        let mut sink = [0; 1024];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut sink).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        Ok(())
    };

    timeout(LINGER, linger).await.unwrap_or(Ok(()))
}
