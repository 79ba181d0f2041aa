//! Converts a message for a server without 8BITMIME: parts with bytes above 127 are encoded (RFC
//! 6152 §3). Used by the SMTP transport, before the message is signed.

use bytes::Bytes;

use super::body::BodyCarrier;
use super::parts::PartsWalk;
use super::scan::Scan;

/// The message in seven bits; time and memory are linear in its size. `None` if this is not
/// possible: a part that is signed or encrypted has bytes above 127 (RFC 1847 §2.1), or the header
/// section has.
pub fn seven_bit(message: &Bytes) -> Option<Bytes> {
    if message.is_ascii() {
        return Some(message.clone());
    }
    let scan = Scan::of(message);
    if !scan.is_whole() || scan.fields.iter().any(|field| !field.raw.is_ascii()) {
        return None;
    }

    let encoded = PartsWalk::of_message(BodyCarrier::SevenBit).encoded(message);
    encoded.is_ascii().then(|| encoded.into())
}

#[cfg(test)]
mod tests {
    use mail_parser::{MessageParser, MimeHeaders, PartType};

    use super::*;

    fn seven(message: &str) -> Option<String> {
        let converted = seven_bit(&Bytes::copy_from_slice(message.as_bytes()))?;
        assert!(converted.is_ascii());
        Some(String::from_utf8(converted.to_vec()).expect("ASCII"))
    }

    /// The kind and decoded content of each leaf, including those of embedded messages.
    fn leaves(message: &[u8]) -> Vec<(String, Vec<u8>)> {
        fn gather(message: &mail_parser::Message<'_>, out: &mut Vec<(String, Vec<u8>)>) {
            for part in &message.parts {
                let kind = part.content_type().map_or("text/plain".into(), |kind| {
                    format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or_default())
                });
                match &part.body {
                    PartType::Message(inner) => gather(inner, out),
                    PartType::Multipart(_) => {}
                    // The line end after the last part belongs to the delimiter.
                    _ => out.push((kind, part.contents().trim_ascii_end().to_vec())),
                }
            }
        }

        let mut out = Vec::new();
        gather(
            &MessageParser::default().parse(message).expect("a message"),
            &mut out,
        );

        out
    }

    const HEAD: &str = "From: a@example.com\r\nMIME-Version: 1.0\r\n";

    #[test]
    fn text_becomes_quoted_printable_and_all_else_base64() {
        let text = format!(
            "{HEAD}Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\
             X-Last: 1\r\n\r\nGrüße = Gruß\r\n"
        );

        assert_eq!(
            seven(&text).as_deref(),
            Some(
                "From: a@example.com\r\nMIME-Version: 1.0\r\n\
                 Content-Type: text/plain; charset=utf-8\r\n\
                 X-Last: 1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
                 Gr=C3=BC=C3=9Fe =3D Gru=C3=9F\r\n"
            )
        );

        let image =
            format!("{HEAD}Content-Type: image/x\r\nContent-Transfer-Encoding: 8bit\r\n\r\nüü\r\n");
        let image = seven(&image).expect("converted");
        assert!(
            image.ends_with("Content-Transfer-Encoding: base64\r\n\r\nw7zDvA==\r\n"),
            "{image}"
        );
    }

    #[test]
    fn what_is_in_seven_bits_already_keeps_every_byte() {
        let message = format!("{HEAD}\r\nhi\r\n");
        assert_eq!(seven(&message), Some(message));
    }

    /// A message with nested parts, and messages in parts.
    fn nested() -> String {
        format!(
            "{HEAD}Content-Type: multipart/mixed; boundary=\"a b\"\r\n\
             Content-Transfer-Encoding: 8bit\r\n\r\n\
             Präambel\r\n--a b\r\n\
             Content-Type: multipart/alternative; boundary=c\r\nContent-Transfer-Encoding: 8BIT\r\n\
             \r\n\
             --c\r\nContent-Transfer-Encoding: 8bit\r\n\r\nplain\r\n\
             --c\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>größer</p>\r\n--c--\r\n\
             --a b\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
             From: b@example.org\r\nSubject: Gruß\r\nMIME-Version: 1.0\r\n\
             Content-Type: multipart/mixed; boundary=d\r\n\r\n\
             --d\r\nContent-Type: application/pdf; name=\"Übersicht.pdf\"\r\n\
             Content-Transfer-Encoding: binary\r\n\r\n%PDF ß\r\n\
             --d\r\nContent-Type: message/rfc822\r\n\r\nFrom: c@example.org\r\n\r\n\
             ganz innen: ö\r\n\
             --d--\r\nEpilög\r\n\
             --a b\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: quoted-printable\r\n\r\nfalsch: ü=C3=BC\r\n\
             --a b--\r\n"
        )
    }

    #[test]
    fn parts_in_parts_and_messages_in_parts_say_the_same() {
        let converted = seven(&nested()).expect("converted");
        let said = |text: &str| {
            leaves(text.as_bytes())
                .into_iter()
                .map(|(kind, content)| (kind, String::from_utf8_lossy(&content).into_owned()))
                .collect::<Vec<_>>()
        };

        let expected = [
            ("text/plain", "plain"),
            ("text/html", "<p>größer</p>"),
            ("application/pdf", "%PDF ß"),
            ("text/plain", "ganz innen: ö"),
            ("text/plain", "falsch: üü"),
        ];
        let found = said(&converted);
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|(kind, text)| (&**kind, &**text))
            .collect();

        assert_eq!(found, expected, "{converted}");
        assert!(
            !converted.to_ascii_lowercase().contains("8bit\r\n"),
            "{converted}"
        );

        assert!(!converted.contains("binary"), "{converted}");
        assert_eq!(seven(&converted), Some(converted.clone()));
    }

    #[test]
    fn what_is_signed_or_encrypted_within_is_left_and_the_rest_is_converted() {
        let with = |signed: &str| {
            format!(
                "{HEAD}Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n\
                 Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n\
                 Content-Transfer-Encoding: 8bit\r\n\r\n{signed}\r\n--s\r\n\
                 Content-Type: application/pgp-signature\r\n\r\nxxxx\r\n--s--\r\n--a\r\n\r\n\
                 Fußnote\r\n--a--\r\n"
            )
        };

        assert_eq!(seven(&with("Gruß")), None);
        let converted = seven(&with("Gruss")).expect("the signed part is ASCII");
        assert!(
            converted.contains("--s\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGruss\r\n--s\r\n")
        );
        assert!(converted.contains("Fu=C3=9Fnote"), "{converted}");
    }

    #[test]
    fn what_cannot_be_converted_is_none() {
        for message in [
            // Needs SMTPUTF8 in any case.
            "From: a@example.com\r\nSubject: Gruß\r\n\r\nhi\r\n",
            // Without a boundary its parts cannot be found.
            "From: a@example.com\r\nContent-Type: multipart/mixed\r\n\r\n--a\r\n\r\nGruß\r\n",
            // RFC 2046 §5.2.2 allows only seven bits.
            "From: a@example.com\r\nContent-Type: message/partial\r\n\r\nGruß\r\n",
            "From: a@example.com\r\nContent-Transfer-Encoding: x-uuencode\r\n\r\nGruß\r\n",
        ] {
            assert_eq!(seven(message), None, "{message}");
        }
    }

    #[test]
    fn a_message_within_that_says_nothing_of_mime_does_then() {
        let message = format!(
            "{HEAD}Content-Type: message/rfc822\r\n\r\nFrom: b@example.org\r\n\r\nGruß\r\n"
        );
        let converted = seven(&message).expect("converted");
        assert!(
            converted.ends_with(
                "From: b@example.org\r\nMIME-Version: 1.0\r\n\
                 Content-Type: text/plain; charset=utf-8\r\n\
                 Content-Transfer-Encoding: quoted-printable\r\n\r\nGru=C3=9F\r\n"
            ),
            "{converted}"
        );
    }
}
