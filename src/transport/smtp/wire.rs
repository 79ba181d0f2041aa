//! The byte stream of one connection. [`Wire`] is the side that Postrider uses, [`Lettre`] the side
//! that lettre reads from and writes to; both are handles to the same stream.
//!
//! *Invariants:* memory stays bounded whatever the server sends. A wait ends at its deadline, even
//! if bytes keep trickling in. lettre receives one whole line at a time, so that anything beyond
//! the current reply stays in the inbox and is noticed.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use lettre::transport::smtp::client::AsyncTokioStream;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::client::TlsStream;

use crate::delivery::{SILENCE, TlsUse, printable};

/// How much of a line of a reply is kept, in bytes; RFC 5321 §4.5.3.1.5 allows 512. The rest of a
/// longer line is skipped: its code has been read by then, and may be the verdict on a mail.
const MAX_LINE: usize = 1000;

/// How much of one reply is skipped, all its lines together.
const MAX_SKIPPED: usize = 256 * 1024;

/// The most lines of one reply.
const MAX_LINES: u32 = 1000;

/// The most lines of one reply that lettre receives: it parses a reply again from the start with
/// each line, and fails beyond 100 kB. The lines between these and the last are only kept for
/// [`Wire::heard`].
const MAX_HANDED: u32 = 64;

/// The size of the inbox in bytes; one line must fit.
const INBOX: usize = 4 * MAX_LINE;

/// A handle to a connection's byte stream.
#[derive(Clone)]
pub(super) struct Wire {
    shared: Arc<Mutex<WireState>>,
}

/// The stream, plain or under TLS. It is taken out during the handshake.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// It was taken for a handshake that is going on, or that failed.
    Away,
}

struct WireState {
    stream: Stream,
    peer: SocketAddr,
    /// Received bytes that were not handed to lettre yet, at `start..end`.
    inbox: Box<[u8; INBOX]>,
    start: usize,
    end: usize,
    /// The line that is being handed to lettre; the rest starts at `handed`.
    line: Vec<u8>,
    handed: usize,
    /// How many bytes of the current reply were skipped.
    skipped: usize,
    /// How many lines the current reply has so far.
    lines: u32,
    /// The code of its first line.
    code: [u8; 3],
    /// The code of its last line, as the server wrote it.
    said: [u8; 3],
    /// The lines since [`Wire::listen`]; `None` if nobody listens.
    heard: Option<String>,
    time_limit: Duration,
    timer: Pin<Box<Sleep>>,
    deadline: Instant,
    /// The line with which the next write of lettre is answered, instead of sending it.
    pretended: Option<&'static [u8]>,
    /// Whether a deadline has passed.
    is_late: bool,
    /// Why the stream cannot be used any more.
    fault: Option<String>,
}

/// A failed write.
pub(super) struct WriteFailure {
    /// How many bytes were passed to the stream; the server may have received them.
    pub(super) handed_over: usize,
    pub(super) reason: String,
}

impl Wire {
    pub(super) fn new(stream: Stream, peer: SocketAddr) -> Self {
        let deadline = Instant::now();
        let shared = WireState {
            stream,
            peer,
            inbox: Box::new([0; INBOX]),
            start: 0,
            end: 0,
            line: Vec::new(),
            handed: 0,
            skipped: 0,
            lines: 0,
            code: [0; 3],
            said: [0; 3],
            heard: None,
            time_limit: Duration::ZERO,
            timer: Box::pin(sleep_until(deadline)),
            deadline,
            pretended: None,
            is_late: false,
            fault: None,
        };

        Wire {
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// The stream for lettre's connection.
    pub(super) fn for_lettre(&self) -> Box<dyn AsyncTokioStream> {
        Box::new(Lettre(self.clone()))
    }

    /// Sets the deadline of all further waits: now plus `span`.
    pub(super) fn wait_up_to(&self, span: Duration) {
        self.shared.lock().set_deadline(span);
    }

    /// Starts to record each line, for [`Wire::heard`].
    pub(super) fn listen(&self) {
        self.shared.lock().heard = Some(String::new());
    }

    /// Returns the lines since [`Wire::listen`] and stops recording.
    pub(super) fn heard(&self) -> String {
        self.shared.lock().heard.take().unwrap_or_default()
    }

    /// Answers the next write of lettre with this line and does not send it: lettre sends EHLO by
    /// itself, and hangs up if that is refused.
    pub(super) fn answer_locally(&self, line: &'static [u8]) {
        self.shared.lock().pretended = Some(line);
    }

    /// Takes the stream out, for a handshake.
    pub(super) fn take(&self) -> Stream {
        std::mem::replace(&mut self.shared.lock().stream, Stream::Away)
    }

    /// The TLS session of the stream, if there is one.
    pub(super) fn tls(&self) -> Option<TlsUse> {
        match &self.shared.lock().stream {
            Stream::Tls(stream) => super::tls::used(stream.get_ref().1),
            Stream::Plain(_) | Stream::Away => None,
        }
    }

    /// Puts the stream back after a handshake.
    pub(super) fn put(&self, stream: Stream) {
        self.shared.lock().stream = stream;
    }

    /// Whether a deadline has passed.
    pub(super) fn is_late(&self) -> bool {
        self.shared.lock().is_late
    }

    /// The code of the last reply, as the server wrote it.
    pub(super) fn code(&self) -> Option<u16> {
        let said = self.shared.lock().said;
        std::str::from_utf8(&said).ok()?.parse().ok()
    }

    /// Why the stream failed, if it did.
    pub(super) fn fault(&self) -> Option<String> {
        self.shared.lock().fault.clone()
    }

    /// Whether bytes have arrived that are no whole line yet.
    pub(super) fn has_unended_line(&self) -> bool {
        let shared = self.shared.lock();
        shared.start < shared.end
    }

    /// Checks, without waiting, that the server has sent nothing unasked and has not hung up. The
    /// error says which it was.
    pub(super) async fn is_silent(&self) -> Result<(), String> {
        poll_fn(|cx| Poll::Ready(self.shared.lock().check_silence(cx))).await
    }

    /// Writes all bytes before the deadline.
    pub(super) async fn write(&self, bytes: &[u8]) -> Result<(), WriteFailure> {
        self.write_while(bytes, |_, _| Ok(())).await
    }

    /// Writes all bytes before the deadline. Fails if the server sends something and accepts no
    /// more.
    pub(super) async fn write_to_listener(&self, bytes: &[u8]) -> Result<(), WriteFailure> {
        self.write_while(bytes, WireState::check_silence).await
    }

    async fn write_while(
        &self,
        bytes: &[u8],
        goes_on: impl Fn(&mut WireState, &mut Context<'_>) -> Result<(), String>,
    ) -> Result<(), WriteFailure> {
        let mut handed_over = 0;
        let written = poll_fn(|cx| {
            let mut shared = self.shared.lock();
            while handed_over < bytes.len() {
                match shared.poll_write_some(cx, &bytes[handed_over..]) {
                    Poll::Ready(count) => handed_over += count?,
                    Poll::Pending => {
                        goes_on(&mut shared, cx).map_err(io::Error::other)?;
                        return Poll::Pending;
                    }
                }
            }
            shared.poll_flush_all(cx)
        });

        let failed = written.await.err();
        failed.map_or(Ok(()), |error| {
            Err(WriteFailure {
                handed_over,
                reason: error.to_string(),
            })
        })
    }
}

impl WireState {
    fn set_deadline(&mut self, span: Duration) {
        self.time_limit = span;
        self.deadline = Instant::now() + span;
    }

    /// Records the first fault; later ones are consequences of it and explain less.
    fn fail(&mut self, kind: io::ErrorKind, reason: impl Into<String>) -> io::Error {
        let reason = reason.into();
        self.fault.get_or_insert_with(|| reason.clone());
        io::Error::new(kind, reason)
    }

    /// Called when the stream is not ready; returns Ready once the deadline has passed. The timer
    /// is set only here, so that a wait costs one timer, and an answer that is already there costs
    /// none.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.timer.deadline() != self.deadline {
            self.timer.as_mut().reset(self.deadline);
        }
        ready!(self.timer.as_mut().poll(cx));
        self.is_late = true;
        let waited = humantime::format_duration(self.time_limit);
        let unended = &self.inbox[self.start..self.end];
        let reason = match unended.is_empty() {
            true => format!("{SILENCE} for {waited}"),
            false => format!(
                "{SILENCE} for {waited} after a line that it did not end as RFC 5321 §2.3.8 says, \
                 with CR and LF: {}",
                printable(String::from_utf8_lossy(unended).trim_end())
            ),
        };
        Poll::Ready(self.fail(io::ErrorKind::TimedOut, reason))
    }

    fn poll_write_some(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Away => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        };

        match written {
            Poll::Pending => self.poll_deadline(cx).map(Err),
            Poll::Ready(Ok(0)) => Poll::Ready(Err(
                self.fail(io::ErrorKind::WriteZero, "the connection takes no more")
            )),
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.broken(&error))),
            Poll::Ready(Ok(count)) => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &mut self.stream {
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Plain(_) | Stream::Away => Poll::Ready(Ok(())),
        };
        match flushed {
            Poll::Pending => self.poll_deadline(cx).map(Err),
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.broken(&error))),
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
        }
    }

    /// Reads what has arrived into the inbox, which must have space. Pending if nothing has
    /// arrived.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == INBOX {
            self.inbox.copy_within(self.start.., 0);
            (self.start, self.end) = (0, self.end - self.start);
        }

        let mut room = ReadBuf::new(&mut self.inbox[self.end..]);
        let read = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, &mut room),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, &mut room),
            Stream::Away => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        };

        let count = room.filled().len();
        match ready!(read) {
            Ok(()) if count == 0 => Poll::Ready(Err(self.fail(
                io::ErrorKind::UnexpectedEof,
                "the server closed the connection",
            ))),
            Ok(()) => {
                self.end += count;
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(self.broken(&error))),
        }
    }

    fn broken(&mut self, error: &io::Error) -> io::Error {
        let advice = super::tls::advice_on_alert(error);
        self.fail(
            error.kind(),
            format!("the connection broke: {error}{advice}"),
        )
    }

    fn check_silence(&mut self, cx: &mut Context<'_>) -> Result<(), String> {
        if self.start == self.end {
            match self.poll_receive(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => return Err(error.to_string()),
                Poll::Ready(Ok(())) => {}
            }
        }
        let said =
            String::from_utf8_lossy(&self.inbox[self.start..self.end.min(self.start + MAX_LINE)]);
        let said = said.lines().next().unwrap_or_default();
        Err(printable(&format!("the server spoke out of turn: {said}")))
    }

    /// Takes the next line from the inbox into `line`. False if no whole line is there.
    fn next_line(&mut self) -> io::Result<bool> {
        let waiting = &self.inbox[self.start..self.end];
        let length = memchr::memchr(b'\n', waiting).map(|at| at + 1);
        if length.is_none() && waiting.len() < MAX_LINE {
            return Ok(false);
        }

        let whole = &waiting[..length.unwrap_or(waiting.len())];
        let Some(ends_reply) = ends_reply(whole) else {
            let shown = &whole[..whole.len().min(MAX_LINE)];
            let shown = printable(String::from_utf8_lossy(shown).trim_end());
            return Err(self.fail(
                io::ErrorKind::InvalidData,
                format!("the server sent something that is not a reply: {shown}"),
            ));
        };

        let Some(length) = length else {
            return self.skip_to(self.start + MAX_LINE).map(|()| false);
        };

        self.line.clear();
        // lettre requires UTF-8, CRLF and a text, even an empty one, and rejects a second digit
        // above 5. Servers are less strict; a code that is not known is judged by its first digit
        // (RFC 5321 §4.2.1).
        let text = waiting[..length.min(MAX_LINE - 2)].trim_ascii_end();

        // The cut may be inside a character.
        let text = match std::str::from_utf8(text) {
            Err(error) if length > MAX_LINE - 2 && error.error_len().is_none() => {
                &text[..error.valid_up_to()]
            }
            _ => text,
        };

        let is_text = std::str::from_utf8(text).is_ok();
        let readable = |b: &u8| if is_text || b.is_ascii() { *b } else { b'?' };
        self.line.extend(text.iter().map(readable));
        self.agree_on_code();
        match self.line.get_mut(3) {
            Some(mark) => *mark = if ends_reply { b' ' } else { b'-' },
            None => self.line.push(if ends_reply { b' ' } else { b'-' }),
        }
        self.line.extend_from_slice(b"\r\n");
        self.start += length;
        if let (Some(heard), Ok(line)) = (&mut self.heard, std::str::from_utf8(&self.line)) {
            heard.push_str(line);
        }

        let number = self.lines;
        self.lines = if ends_reply { 0 } else { self.lines + 1 };
        self.skipped = if ends_reply { 0 } else { self.skipped };
        if self.lines >= MAX_LINES {
            return Err(self.fail(
                io::ErrorKind::InvalidData,
                "the server's reply has too many lines",
            ));
        }

        // A line whose code contradicts the first line's is handed over in any case, so that
        // lettre reports it.
        let is_spare = number >= MAX_HANDED && !ends_reply && self.line[..3] == self.code;
        self.handed = if is_spare { self.line.len() } else { 0 };
        Ok(true)
    }

    /// Reads the code of the line. Those of one reply ought to be the same (RFC 5321 §4.2.1); if
    /// the first digit is, the last one counts. Of refusals it is the one that leaves it open.
    fn agree_on_code(&mut self) {
        let this = [self.line[0], self.line[1], self.line[2]];
        self.line[1] = self.line[1].min(b'5');
        if self.lines == 0 {
            self.said = this;
            self.code.copy_from_slice(&self.line[..3]);
            return;
        }

        let is_agreed = match (self.said[0], this[0]) {
            (b'4', b'5') => true,
            (before, now) if before == now || (before, now) == (b'5', b'4') => {
                self.said = this;
                true
            }
            _ => false,
        };
        if is_agreed {
            self.line[..3].copy_from_slice(&self.code);
        }
    }

    /// Drops what is in the inbox from here on: it goes on a line of which enough is kept.
    fn skip_to(&mut self, kept: usize) -> io::Result<()> {
        self.skipped += self.end - kept;
        self.end = kept;
        if self.skipped > MAX_SKIPPED {
            return Err(self.fail(
                io::ErrorKind::InvalidData,
                "the server's reply has a line without end",
            ));
        }
        Ok(())
    }

    fn poll_line(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.handed == self.line.len() {
            if self.next_line()? {
                continue;
            }
            match self.poll_receive(cx) {
                Poll::Pending => return self.poll_deadline(cx).map(Err),
                Poll::Ready(received) => received?,
            }
        }

        let count = buffer.remaining().min(self.line.len() - self.handed);
        buffer.put_slice(&self.line[self.handed..self.handed + count]);
        self.handed += count;
        Poll::Ready(Ok(()))
    }
}

/// Whether this line is the last of its reply; `None` if it is not a line of a reply (RFC 5321
/// §4.2). A line that ends with LF alone is accepted: this cannot split one reply into two.
fn ends_reply(line: &[u8]) -> Option<bool> {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    if !(text.len() >= 3 && text[..3].iter().all(u8::is_ascii_digit)) {
        return None;
    }
    match text.get(3) {
        None | Some(b' ' | b'\t') => Some(true),
        Some(b'-') => Some(false),
        Some(_) => None,
    }
}

/// The stream as lettre reads and writes it.
struct Lettre(Wire);

impl fmt::Debug for Lettre {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl AsyncTokioStream for Lettre {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.shared.lock().peer)
    }
}

impl AsyncRead for Lettre {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.shared.lock().poll_line(cx, buffer)
    }
}

impl AsyncWrite for Lettre {
    /// lettre sends one command at a time, so unread bytes at this point were sent unasked; they
    /// would be taken for the answer to the next command.
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut shared = self.0.shared.lock();
        if shared.start < shared.end
            && let Err(reason) = shared.check_silence(cx)
        {
            return Poll::Ready(Err(shared.fail(io::ErrorKind::InvalidData, reason)));
        }
        if let Some(line) = shared.pretended.take() {
            shared.inbox[..line.len()].copy_from_slice(line);
            (shared.start, shared.end) = (0, line.len());
            return Poll::Ready(Ok(bytes.len()));
        }
        shared.poll_write_some(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.shared.lock().poll_flush_all(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0.shared.lock();
        let closed = match &mut shared.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Away => Poll::Ready(Ok(())),
        };
        if closed.is_pending() {
            shared.poll_deadline(cx).map(Err)
        } else {
            closed
        }
    }
}
