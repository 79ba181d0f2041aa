//! What must hold for any input, one function for each fuzz target. `tests/it/corpus.rs` runs the
//! same over the corpora, so that what a fuzzer once found stays found without one.

#![allow(dead_code, reason = "each fuzz target uses one of them")]
#![allow(clippy::unwrap_used, reason = "a panic is what a fuzzer looks for")]

use postrider::mail::{seven_bit, take_directives};
use postrider::{Address, Envelope, Mail};

/// A message that is taken is frozen: CRLF alone ends lines, no NUL, no blind copies, and it
/// freezes to itself.
pub fn freeze(message: &[u8]) {
    let recipient: Address = "ada@example.org".parse().unwrap();
    for return_path in [None, "shop@example.com".parse().ok()] {
        let envelope = Envelope::new(return_path, vec![recipient.clone()]).unwrap();
        let Ok(mail) = Mail::from_rfc5322(envelope.clone(), message.to_vec()) else {
            continue;
        };
        let frozen = mail.message();
        for (i, byte) in frozen.iter().enumerate() {
            assert!(
                *byte != b'\n' || (i > 0 && frozen[i - 1] == b'\r'),
                "an LF alone at {i}"
            );
            assert!(
                *byte != b'\r' || frozen.get(i + 1) == Some(&b'\n'),
                "a CR alone at {i}"
            );
            assert_ne!(*byte, 0, "a NUL at {i}");
        }
        assert!(!mail.subject().chars().any(char::is_control));
        let header = frozen
            .split(|byte| *byte == b'\n')
            .take_while(|line| *line != b"\r");
        for line in header {
            assert!(
                !line
                    .get(..4)
                    .is_some_and(|name| name.eq_ignore_ascii_case(b"Bcc:")),
                "a blind copy is shown"
            );
            assert!(line.len() <= 999);
        }
        let again = Mail::from_rfc5322(envelope, frozen.clone()).unwrap();
        assert_eq!(again.message(), frozen);
        assert_eq!(again.message_id(), mail.message_id());
        assert_eq!(again.fingerprint(), mail.fingerprint());
        seven_bits(frozen);
    }
    if let Ok((rest, options)) = take_directives(message.to_vec().into()) {
        assert!(rest.is_empty() || take_directives(rest).is_ok());
        assert!(options.tags.len() <= 20);
    }
}

/// What is converted for a server without 8BITMIME has seven bits, lines that end as before, and
/// converts to itself.
fn seven_bits(frozen: &bytes::Bytes) {
    let Some(converted) = seven_bit(frozen) else {
        return;
    };
    assert!(converted.is_ascii());
    assert!(!converted.contains(&0));
    for (i, byte) in converted.iter().enumerate() {
        assert!(
            *byte != b'\n' || (i > 0 && converted[i - 1] == b'\r'),
            "an LF alone at {i}"
        );
    }
    assert_eq!(seven_bit(&converted), Some(converted));
}

/// Whatever stands in the spool is a record or an error, and what is read says the same when it is
/// written again.
pub fn spool_record(record: &[u8]) {
    postrider::spool::decode_any(record);
}

/// An address that is taken cannot leave the path that it is written into, and reads back as
/// itself.
pub fn address(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    if let Ok(address) = Address::parse(text) {
        let written = address.as_str();
        assert!(!written.contains(['<', '>']) && !written.chars().any(char::is_control));
        assert!(
            written.starts_with('"') || !written.contains([' ', ',', ';', '(', ')', '"', '\\'])
        );
        assert!(written.len() <= 320 && !address.domain().is_empty());
        assert_eq!(Address::parse(written).as_ref(), Ok(&address));
    }
    // The same text as a mailbox, in each place that takes one.
    let builder = || {
        Mail::builder()
            .from("shop@example.com")
            .to("ada@example.org")
            .text("x")
    };
    for mail in [
        builder().from(text),
        builder().to(text),
        builder().reply_to(text),
        builder().return_path(text),
    ] {
        let Ok(mail) = mail.build() else { continue };
        assert!(mail.envelope().recipients().len() <= 2);
        let message = String::from_utf8(mail.message().to_vec()).unwrap();
        let lines = message.split("\r\n").take_while(|line| !line.is_empty());
        assert!(
            lines.filter(|line| !line.starts_with(' ')).count() <= 9,
            "{message}"
        );
    }
}
