//! Encodes a message for DATA (RFC 5321 §4.5.2): a dot at the start of a line is doubled, and the
//! message ends with CRLF. Works in parts of bounded size.

use memchr::memmem;

/// The size in bytes that MAIL declares: without the doubled dots, with the final CRLF (RFC 1870
/// §3).
pub(super) fn size(message: &[u8]) -> u64 {
    let missing = if message.ends_with(b"\r\n") { 0 } else { 2 };
    message.len() as u64 + missing
}

/// Encodes a message part by part.
pub(super) struct DotStuffer<'a> {
    message: &'a [u8],
    at: usize,
    /// The position of the next dot to double; the message's length if there is none.
    dot: usize,
}

impl<'a> DotStuffer<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        let dot = if message.starts_with(b".") {
            0
        } else {
            next_dot(message, 0)
        };
        DotStuffer {
            message,
            at: 0,
            dot,
        }
    }

    /// Appends the next part, of about `room` bytes. Returns true when the whole message was
    /// appended, including its final CRLF.
    pub(super) fn fill(&mut self, out: &mut Vec<u8>, room: usize) -> bool {
        let full = out.len() + room;
        while self.at < self.message.len() && out.len() < full {
            if self.at == self.dot {
                out.extend_from_slice(b"..");
                self.at += 1;
                self.dot = next_dot(self.message, self.at);
            } else {
                let end = self.dot.min(self.at + (full - out.len()));
                out.extend_from_slice(&self.message[self.at..end]);
                self.at = end;
            }
        }

        let done = self.at == self.message.len();
        if done && !self.message.ends_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
        }
        done
    }
}

/// The position of the first dot at the start of a line after `from`, which is itself the start of
/// a line. Only CRLF ends a line.
fn next_dot(message: &[u8], from: usize) -> usize {
    memmem::find(&message[from..], b"\r\n.").map_or(message.len(), |at| from + at + 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stuffed(message: &[u8], room: usize) -> Vec<u8> {
        let mut stuffing = DotStuffer::new(message);
        let mut out = Vec::new();
        let mut part = Vec::new();
        while !stuffing.fill(&mut part, room) {
            out.append(&mut part);
        }
        out.append(&mut part);
        out
    }

    /// What a server makes of it, written the slow way.
    fn unstuffed(wire: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        for (index, byte) in wire.iter().enumerate() {
            if *byte != b'.' || !(index == 0 || wire[..index].ends_with(b"\r\n")) {
                plain.push(*byte);
            }
        }
        plain
    }

    #[test]
    fn a_dot_is_doubled_at_the_start_of_a_line_and_nowhere_else() {
        assert_eq!(
            stuffed(b".\r\n.a\r\nb.c\r\n\r\n..\r\n", 99),
            b"..\r\n..a\r\nb.c\r\n\r\n...\r\n"
        );
        assert_eq!(stuffed(b"a\n.b\r.c\r\n", 99), b"a\n.b\r.c\r\n");
    }

    #[test]
    fn the_last_line_gets_its_crlf() {
        assert_eq!(stuffed(b"a", 99), b"a\r\n");
        assert_eq!(stuffed(b"a\n", 99), b"a\n\r\n");
        assert_eq!(stuffed(b"a\r\n", 99), b"a\r\n");
        assert_eq!((size(b"a"), size(b"a\r\n"), size(b"")), (3, 3, 2));
    }

    proptest! {
        #[test]
        fn what_a_server_unstuffs_is_the_message_whatever_the_parts(
            message in proptest::collection::vec(
                prop_oneof![Just(b'.'), Just(b'\r'), Just(b'\n'), Just(0xff), Just(b'a')],
                0..40,
            ),
            room in 1usize..8,
        ) {
            let wire = stuffed(&message, room);
            let mut expected = message.clone();
            if !message.ends_with(b"\r\n") {
                expected.extend_from_slice(b"\r\n");
            }
            prop_assert_eq!(unstuffed(&wire), expected);
            let ends_early = wire.windows(5).any(|five| five == b"\r\n.\r\n");
            prop_assert!(!ends_early && !wire.starts_with(b".\r\n"));
        }
    }
}
