//! Receives a message: finds its end, and limits its size and memory.

use bytes::Bytes;
use memchr::memmem;

use super::budget::{MessageMemory, ReservedMemory};
use super::reply::SmtpReply;

/// The first allocation for a message in bytes, which is enough for most.
const FIRST_PIECE: usize = 4 * 1024;
/// Until this many bytes have arrived, a larger declared SIZE is not trusted.
const BELIEVED_BYTES: usize = 1024 * 1024;

/// A message that is being received. After a refusal it is still read, but not kept.
#[derive(Debug)]
pub(super) struct Body {
    bytes: Vec<u8>,
    /// How many bytes the client may send.
    limit: usize,
    declared: usize,
    /// How many bytes we have put in front.
    trace: usize,
    came: usize,
    budget: MessageMemory,
    room: ReservedMemory,
    refused: Option<SmtpReply>,
}

impl Body {
    /// An empty message of at most `limit` bytes. `declared` is the SIZE of MAIL, or 0; only a
    /// hint.
    pub fn new(limit: usize, declared: usize, budget: MessageMemory) -> Self {
        let (bytes, room) = (Vec::new(), ReservedMemory::default());
        Body {
            bytes,
            limit,
            declared: declared.min(limit),
            trace: 0,
            came: 0,
            budget,
            room,
            refused: None,
        }
    }

    /// A message that is refused from the start, and read only to find the commands after it.
    pub fn refused(limit: usize, budget: MessageMemory, reply: SmtpReply) -> Self {
        Body {
            refused: Some(reply),
            ..Body::new(limit, 0, budget)
        }
    }

    /// Puts our own header field in front of the message; it does not count as the client's.
    pub fn begin(&mut self, field: &[u8]) {
        self.trace += field.len();
        self.keep(field);
    }

    /// How many bytes our own field has.
    pub fn trace(&self) -> usize {
        self.trace
    }

    /// Adds the client's next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.came = self.came.saturating_add(bytes.len());
        if self.refused.is_none() && self.came > self.limit {
            let text = format!(
                "the message has more than {} bytes, the maximum",
                self.limit
            );
            self.refuse(SmtpReply::new(552, "5.3.4", text));
        }
        self.keep(bytes);
    }

    /// How many bytes the client has sent.
    pub fn came(&self) -> usize {
        self.came
    }

    /// Whether it is refused, and so much was received since that the connection should end.
    pub fn is_hopeless(&self) -> bool {
        self.refused.is_some() && self.came > self.limit.saturating_mul(2)
    }

    /// Why it is refused, if it is.
    pub fn refusal(&self) -> Option<&SmtpReply> {
        self.refused.as_ref()
    }

    /// The message, and the memory that it has reserved until it is on disk.
    pub fn finish(self) -> Result<(Bytes, ReservedMemory), SmtpReply> {
        match self.refused {
            Some(reply) => Err(reply),
            None => Ok((self.bytes.into(), self.room)),
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.refused.is_some() {
            return;
        }

        let needed = self.bytes.len() + bytes.len();
        if needed > self.bytes.capacity() && !self.grow(needed) {
            self.refuse(SmtpReply::new(
                452,
                "4.3.1",
                "too much mail is coming in at once; try again later",
            ));
            return;
        }

        self.bytes.extend_from_slice(bytes);
    }

    /// Reserves memory for `needed` bytes; for more if available, so that little is copied.
    fn grow(&mut self, needed: usize) -> bool {
        let hint = if needed < BELIEVED_BYTES {
            self.declared.min(BELIEVED_BYTES)
        } else {
            self.declared
        };

        let most = needed.max(self.limit + FIRST_PIECE);
        let wanted = needed
            .max(hint + FIRST_PIECE)
            .max(self.bytes.capacity() * 2)
            .min(most);

        for capacity in [wanted, needed] {
            if self
                .budget
                .grow(&mut self.room, capacity - self.bytes.capacity())
            {
                self.bytes.reserve_exact(capacity - self.bytes.len());
                return true;
            }
        }

        false
    }

    fn refuse(&mut self, reply: SmtpReply) {
        self.bytes = Vec::new();
        self.room = ReservedMemory::default();
        self.refused = Some(reply);
    }
}

/// Decodes the data after DATA (RFC 5321 §4.5.2): finds the end, which is only CRLF.CRLF, and
/// removes the added dots. A dot after a bare CR or a bare LF is not at the start of a line, and
/// stays.
#[derive(Debug, Default)]
pub(super) struct DotReader {
    at: LastRead,
}

/// The last bytes that were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LastRead {
    /// The DATA command's CRLF, or one in the message.
    #[default]
    LineStart,
    /// A dot at the start of a line: either an added one, or the end.
    Dot,
    /// Such a dot and a CR.
    DotCr,
    /// A CR.
    Cr,
    /// Anything else.
    Line,
}

impl DotReader {
    /// Moves the message's bytes from `input` to `body`. True when the end has been read; `input`
    /// then holds what follows.
    pub fn read(&mut self, input: &mut &[u8], body: &mut Body) -> bool {
        while let [first, rest @ ..] = *input {
            self.at = match (self.at, first) {
                (LastRead::LineStart, b'.') => {
                    *input = rest;
                    LastRead::Dot
                }
                (LastRead::Dot, b'\r') => {
                    *input = rest;
                    LastRead::DotCr
                }
                (LastRead::DotCr, b'\n') => {
                    *input = rest;
                    return true;
                }
                (LastRead::DotCr, _) => {
                    body.push(b"\r");
                    LastRead::Cr
                }
                (LastRead::Cr, b'\n') => {
                    *input = rest;
                    body.push(b"\n");
                    LastRead::LineStart
                }
                (LastRead::Line, _) => read_lines(input, body),
                (LastRead::LineStart | LastRead::Dot | LastRead::Cr, _) => LastRead::Line,
            };
        }

        false
    }
}

/// Takes everything up to the next line that starts with a dot, or all of the input.
fn read_lines(input: &mut &[u8], body: &mut Body) -> LastRead {
    let (taken, rest, at) = match memmem::find(input, b"\r\n.") {
        Some(end) => (&input[..end + 2], &input[end + 2..], LastRead::LineStart),
        None if input.ends_with(b"\r\n") => (*input, &[][..], LastRead::LineStart),
        None if input.ends_with(b"\r") => (*input, &[][..], LastRead::Cr),
        None => (*input, &[][..], LastRead::Line),
    };
    body.push(taken);
    *input = rest;
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIG: usize = 1 << 24;

    fn body(limit: usize) -> Body {
        Body::new(limit, 0, MessageMemory::new(BIG))
    }

    /// What is read from `wire` in pieces of `size` bytes: the message and what follows it, if the
    /// end was found.
    fn read(wire: &[u8], size: usize) -> Option<(Vec<u8>, Vec<u8>)> {
        let (mut reader, mut body) = (DotReader::default(), body(BIG));
        let mut pieces = wire.chunks(size);
        while let Some(mut piece) = pieces.next() {
            if reader.read(&mut piece, &mut body) {
                let rest: Vec<u8> = piece
                    .iter()
                    .copied()
                    .chain(pieces.flatten().copied())
                    .collect();
                return Some((body.finish().expect("taken").0.to_vec(), rest));
            }
        }

        None
    }

    fn assert_reads(wire: &str, message: &str, rest: &str) {
        for size in 1..=wire.len() {
            let (read, left) = read(wire.as_bytes(), size)
                .unwrap_or_else(|| panic!("no end in {wire:?} by {size}"));
            assert_eq!(
                String::from_utf8_lossy(&read),
                message,
                "{wire:?} by {size}"
            );
            assert_eq!(String::from_utf8_lossy(&left), rest, "{wire:?} by {size}");
        }
    }

    #[test]
    fn the_end_is_found_and_stuffed_dots_are_taken_out() {
        assert_reads("hi\r\n.\r\nQUIT\r\n", "hi\r\n", "QUIT\r\n");
        assert_reads(".\r\n", "", "");
        assert_reads("\r\n.\r\n", "\r\n", "");
        assert_reads(
            "..\r\n...\r\n..a\r\n.a\r\n.\r\n",
            ".\r\n..\r\n.a\r\na\r\n",
            "",
        );
        assert_reads("a.\r\nb\r\n.\r\n.\r\n", "a.\r\nb\r\n", ".\r\n");
        assert_reads(".\r.\r\n.\r\n", "\r.\r\n", "");
        assert_reads(".\rx\r\r\n.\r\n", "\rx\r\r\n", "");
    }

    #[test]
    fn nothing_but_crlf_dot_crlf_ends_a_message() {
        // The sequences of the SMTP smuggling report of December 2023, and their kin.
        for trick in [
            "\n.\n",
            "\r.\r",
            "\n.\r\n",
            "\r\n.\n",
            "\r\n.\r",
            "\r.\r\n",
            "\n.\r",
            "\r\n\x00.\r\n",
            "\r\n.\x00\r\n",
            "\r\n. \r\n",
            "\r\n.\r\r\n",
            "\r\r\n.\n",
            "\n\r.\r\n",
            "\r\n\n.\r\n",
        ] {
            let wire = format!("a{trick}MAIL FROM:<evil@example.org>\r\n");
            for size in 1..=wire.len() {
                assert_eq!(
                    read(wire.as_bytes(), size),
                    None,
                    "{trick:?} ended the message, by {size}"
                );
            }
        }
    }

    #[test]
    fn a_dot_after_a_bare_line_end_stays() {
        assert_reads("a\n.\nb\n..c\r.d\r\n.\r\n", "a\n.\nb\n..c\r.d\r\n", "");
    }

    #[test]
    fn what_is_too_large_is_refused_and_not_kept() {
        let mut body = body(10);
        body.begin(b"Received: by us\r\n");
        body.push(b"0123456789");
        assert!(body.refusal().is_none() && !body.is_hopeless());
        body.push(b"0");
        assert_eq!(body.bytes.capacity(), 0);
        assert!(!body.is_hopeless());
        body.push(b"0123456789");
        assert!(body.is_hopeless());
        assert_eq!(body.finish().expect_err("too large").code, 552);
    }

    #[test]
    fn what_finds_no_room_is_refused_and_gives_its_room_back() {
        let budget = MessageMemory::new(10_000);
        let mut one = Body::new(BIG, 0, budget.clone());
        one.push(&[b'x'; 6_000]);
        let mut other = Body::new(BIG, 0, budget.clone());
        other.push(&[b'x'; 3_000]);
        other.push(&[b'x'; 3_000]);
        assert_eq!(other.refusal().map(|reply| reply.code), Some(452));
        one.push(&[b'x'; 4_000]);
        assert_eq!(one.finish().expect("there was room").0.len(), 10_000);
    }

    #[test]
    fn a_declared_size_makes_one_piece_of_memory_and_is_not_believed_beyond_a_megabyte() {
        let budget = MessageMemory::new(64 * BELIEVED_BYTES);
        let mut body = Body::new(32 * BELIEVED_BYTES, 16 * BELIEVED_BYTES, budget.clone());
        body.push(b"x");
        assert!(body.bytes.capacity() <= BELIEVED_BYTES + FIRST_PIECE);
        body.push(&vec![b'x'; BELIEVED_BYTES + FIRST_PIECE]);
        let capacity = body.bytes.capacity();
        assert!(
            (16 * BELIEVED_BYTES..17 * BELIEVED_BYTES).contains(&capacity),
            "{capacity}"
        );
    }

    #[test]
    fn a_message_is_frozen_without_a_copy() {
        let mut body = body(BIG);
        body.push(&[b'x'; 5_000]);
        let at = body.bytes.as_ptr();
        assert_eq!(body.finish().expect("taken").0.as_ptr(), at);
    }
}
