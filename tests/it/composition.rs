//! The ways into a `Mail`: the builder, a message that is already written, lettre's own messages,
//! directives in a header.

mod submitted;

use bytes::Bytes;
use mail_parser::{Message, MessageParser, MimeHeaders};
use postrider::mail::{Options, When, take_directives};
use postrider::{
    Address, Attachment, Envelope, Guarantee, Mail, MailBuilder, MailError, Priority, Timestamp,
    minutes, seconds,
};
use proptest::prelude::*;

fn minimal() -> MailBuilder {
    Mail::builder()
        .from("Shop <shop@example.com>")
        .to("ada@example.org")
        .subject("Your code")
        .text("123456")
}

fn envelope() -> Envelope {
    let address = |text: &str| Address::parse(text).unwrap();
    Envelope::new(
        Some(address("shop@example.com")),
        vec![address("ada@example.org")],
    )
    .unwrap()
}

fn raw(message: impl AsRef<[u8]>) -> Result<Mail, MailError> {
    Mail::from_rfc5322(envelope(), Bytes::copy_from_slice(message.as_ref()))
}

fn text_of(mail: &Mail) -> &str {
    std::str::from_utf8(mail.message()).unwrap()
}

fn parse(mail: &Mail) -> Message<'_> {
    MessageParser::default().parse(mail.message()).unwrap()
}

fn recipients(mail: &Mail) -> Vec<&str> {
    mail.envelope()
        .recipients()
        .iter()
        .map(Address::as_str)
        .collect()
}

fn attachment(filename: &str, content_type: &str, inline_id: Option<&str>) -> Attachment {
    Attachment {
        filename: filename.to_owned(),
        content_type: content_type.to_owned(),
        content: Bytes::from_static(b"\x89PNG\r\n\x1a\n\0\xff"),
        inline_id: inline_id.map(str::to_owned),
    }
}

/// What must hold for every mail, whatever it was made from.
fn assert_is_frozen(mail: &Mail) {
    let message = mail.message();
    for (i, byte) in message.iter().enumerate() {
        assert!(
            *byte != b'\n' || (i > 0 && message[i - 1] == b'\r'),
            "an LF alone at {i}"
        );
        assert!(
            *byte != b'\r' || message.get(i + 1) == Some(&b'\n'),
            "a CR alone at {i}"
        );
        assert_ne!(*byte, 0, "a NUL at {i}");
    }

    let again = Mail::from_rfc5322(mail.envelope().clone(), message.clone()).unwrap();
    assert_eq!(again.message(), message);
    assert_eq!(
        again.message().as_ptr(),
        message.as_ptr(),
        "a frozen message is not copied"
    );

    assert_eq!(again.message_id(), mail.message_id());
    assert_eq!(again.subject(), mail.subject());
    assert_eq!(again.is_eight_bit(), mail.is_eight_bit());
    assert_eq!(again.needs_smtputf8(), mail.needs_smtputf8());
}

/// The names of the fields in the header section, in order.
fn fields(mail: &Mail) -> Vec<String> {
    let message = String::from_utf8_lossy(mail.message());
    let lines = message.split("\r\n").take_while(|line| !line.is_empty());
    let firsts = lines.filter(|line| !line.starts_with([' ', '\t']));
    firsts
        .map(|line| line.split_once(':').expect(line).0.to_owned())
        .collect()
}

mod builder {
    use super::*;

    fn refused(builder: MailBuilder) -> String {
        builder.build().unwrap_err().field().to_owned()
    }

    #[test]
    fn a_simple_mail_is_plain_to_read() {
        let mail = minimal().build().unwrap();
        assert_is_frozen(&mail);
        assert_eq!(
            fields(&mail),
            [
                "From",
                "To",
                "Subject",
                "Date",
                "Message-ID",
                "MIME-Version",
                "Content-Type",
                "Content-Transfer-Encoding"
            ]
        );

        let text = text_of(&mail);
        assert!(
            text.starts_with(
                "From: Shop <shop@example.com>\r\nTo: ada@example.org\r\nSubject: Your code\r\n"
            ),
            "{text}"
        );

        assert!(text.ends_with("\r\n\r\n123456\r\n"), "{text}");
        assert_eq!(mail.message_id(), format!("<{}@example.com>", mail.id()));
        assert_eq!(mail.subject(), "Your code");
        assert_eq!(
            mail.envelope().return_path().unwrap().as_str(),
            "shop@example.com"
        );

        assert!(!mail.is_eight_bit() && !mail.needs_smtputf8());
        let date = parse(&mail).date().unwrap().to_timestamp();
        assert!((Timestamp::now().as_millis() / 1000 - date).abs() < 60);
    }

    #[test]
    fn everybody_gets_it_and_nobody_sees_the_blind_copies() {
        let mail = minimal()
            .to("Bob <bob@example.org>")
            .cc("carl@example.org")
            .bcc("dora@example.org");

        let mail = mail
            .bcc("ada@example.org")
            .reply_to("help@example.com")
            .build()
            .unwrap();

        assert_eq!(
            recipients(&mail),
            [
                "ada@example.org",
                "bob@example.org",
                "carl@example.org",
                "dora@example.org"
            ]
        );

        assert!(!text_of(&mail).contains("dora"));
        let parsed = parse(&mail);
        assert_eq!(parsed.to().unwrap().clone().into_list().len(), 2);
        assert_eq!(
            parsed.cc().unwrap().first().unwrap().address().unwrap(),
            "carl@example.org"
        );

        assert_eq!(
            parsed
                .reply_to()
                .unwrap()
                .first()
                .unwrap()
                .address()
                .unwrap(),
            "help@example.com"
        );
    }

    #[test]
    fn bounces_go_where_they_should() {
        let path = |mail: Mail| mail.envelope().return_path().map(ToString::to_string);
        assert_eq!(
            path(minimal().return_path("b@example.com").build().unwrap()).unwrap(),
            "b@example.com"
        );
        assert_eq!(path(minimal().return_path("<>").build().unwrap()), None);
    }

    #[test]
    fn text_html_images_and_files_are_nested_as_readers_expect() {
        let mail = minimal()
            .html("<p>Grüße <img src=\"cid:logo\"></p>")
            .attachment(attachment("logo.png", "image/png", Some("logo")))
            .attachment(attachment("Rechnung für März.pdf", "application/pdf", None))
            .build()
            .unwrap();

        assert_is_frozen(&mail);
        let parsed = parse(&mail);
        let types: Vec<String> = parsed
            .parts
            .iter()
            .map(|part| {
                let content_type = part.content_type().unwrap();
                format!(
                    "{}/{}",
                    content_type.ctype(),
                    content_type.subtype().unwrap()
                )
            })
            .collect();

        let expected = [
            "multipart/mixed",
            "multipart/alternative",
            "text/plain",
            "multipart/related",
            "text/html",
            "image/png",
            "application/pdf",
        ];

        assert_eq!(types, expected);
        assert_eq!(parsed.body_text(0).unwrap().trim_end(), "123456");
        assert_eq!(
            parsed.body_html(0).unwrap().trim_end(),
            "<p>Grüße <img src=\"cid:logo\"></p>"
        );

        let image = &parsed.parts[5];
        assert_eq!(image.content_id(), Some("logo"));
        assert_eq!(image.contents(), b"\x89PNG\r\n\x1a\n\0\xff");
        assert!(image.content_disposition().unwrap().is_inline());

        let file = &parsed.parts[6];
        assert_eq!(file.attachment_name(), Some("Rechnung für März.pdf"));
        assert!(file.content_disposition().unwrap().is_attachment());
    }

    #[test]
    fn one_part_alone_needs_no_multipart() {
        for (mail, expected) in [
            (minimal(), "text/plain; charset=utf-8"),
            (minimal().html("<p>x</p>"), "multipart/alternative;"),
            (
                Mail::builder()
                    .from("a@b.example")
                    .to("c@d.example")
                    .html("<p>x</p>"),
                "text/html; charset=utf-8",
            ),
            (
                Mail::builder()
                    .from("a@b.example")
                    .to("c@d.example")
                    .attachment(attachment("a.bin", "image/png", None)),
                "image/png",
            ),
        ] {
            let mail = mail.build().unwrap();
            let text = text_of(&mail);
            assert!(
                text.contains(&format!("\r\nContent-Type: {expected}")),
                "{text}"
            );
            assert_is_frozen(&mail);
        }
    }

    #[test]
    fn names_and_subjects_beyond_ascii_are_encoded() {
        let mail = Mail::builder()
            .from("Bücher & Söhne <shop@bücher.example>")
            .to("\"Løvelace, Ada\" <ada@example.org>")
            .subject(
                "Grüße  von  Zoë =?utf-8?q?x?= und allen, die heute und morgen noch kommen \
                 werden 🎉",
            )
            .text("Schöne Grüße\nvon uns")
            .header("X-Campaign", "früh jahr")
            .build()
            .unwrap();

        assert!(mail.message().is_ascii());
        assert!(!mail.is_eight_bit() && !mail.needs_smtputf8());
        let parsed = parse(&mail);
        assert_eq!(
            parsed.from().unwrap().first().unwrap().name(),
            Some("Bücher & Söhne")
        );

        assert_eq!(
            parsed.from().unwrap().first().unwrap().address(),
            Some("shop@xn--bcher-kva.example")
        );

        assert_eq!(
            parsed.to().unwrap().first().unwrap().name(),
            Some("Løvelace, Ada")
        );

        let subject =
            "Grüße  von  Zoë =?utf-8?q?x?= und allen, die heute und morgen noch kommen werden 🎉";
        assert_eq!(parsed.subject(), Some(subject));
        assert_eq!(mail.subject(), subject);
        assert_eq!(parsed.body_text(0).unwrap(), "Schöne Grüße\r\nvon uns\r\n");
        assert!(text_of(&mail).contains("\r\nX-Campaign: =?utf-8?b?ZnLDvGg=?= jahr\r\n"));

        assert!(mail.message_id().ends_with("@xn--bcher-kva.example>"));
    }

    #[test]
    fn an_address_beyond_ascii_needs_smtputf8() {
        let mail = minimal().to("ädä@example.org").build().unwrap();
        assert!(mail.needs_smtputf8());
        assert_is_frozen(&mail);
    }

    #[test]
    fn line_ends_in_text_are_crlf_however_they_were_given() {
        let mail = minimal().text("a\nb\r\nc\rd\n\ne").build().unwrap();
        assert!(text_of(&mail).ends_with("\r\n\r\na\r\nb\r\nc\r\nd\r\n\r\ne\r\n"));
        let mail = minimal().text("long ".repeat(500)).build().unwrap();
        assert!(text_of(&mail).lines().all(|line| line.len() <= 78));
    }

    #[test]
    fn headers_of_ones_own_are_kept_even_when_given_twice() {
        let mail = minimal()
            .header("List-Id", "<news.example.com>")
            .header("X-A", "1")
            .header("X-A", "2")
            .build()
            .unwrap();
        let text = text_of(&mail);
        assert!(
            text.contains("\r\nList-Id: <news.example.com>\r\nX-A: 1\r\nX-A: 2\r\n"),
            "{text}"
        );
    }

    #[test]
    fn a_message_id_and_a_date_of_ones_own_take_the_place_of_ours() {
        let given = minimal()
            .header("Message-ID", "<1@example.com>")
            .header("Date", "Sat, 31 Jan 2026 12:00:00 +0000");
        let mail = given.build().unwrap();
        assert_eq!(mail.message_id(), "<1@example.com>");
        assert_eq!(text_of(&mail).matches("Date: ").count(), 1);
        assert_eq!(
            refused(minimal().header("Message-ID", "1")),
            "headers.Message-ID"
        );
        assert_eq!(refused(minimal().header("Date", "today")), "headers.Date");
    }

    #[test]
    fn each_mistake_is_named_by_its_field() {
        let nobody = || Mail::builder().from("a@example.com").text("x");
        assert_eq!(
            refused(Mail::builder().to("a@example.com").text("x")),
            "from"
        );

        assert_eq!(refused(minimal().from("shop")), "from");
        assert_eq!(refused(nobody()), "to");
        assert_eq!(refused(minimal().to("bob")), "to[1]");
        assert_eq!(
            refused(minimal().to("a@example.org, b@example.org")),
            "to[1]"
        );

        assert_eq!(refused(minimal().cc("bob")), "cc[0]");
        assert_eq!(refused(minimal().bcc("bob@\r\n")), "bcc[0]");
        assert_eq!(
            refused(minimal().reply_to("Bob <bob@x\r\n.example>")),
            "reply_to[0]"
        );

        assert_eq!(refused(minimal().return_path("bob")), "return_path");
        assert_eq!(
            refused(minimal().subject("a\r\nBcc: eve@example.org")),
            "subject"
        );

        assert_eq!(refused(minimal().subject("a\nb")), "subject");
        assert_eq!(refused(minimal().text("a\0b")), "text");
        assert_eq!(refused(minimal().html("a\0b")), "html");
        assert_eq!(
            refused(Mail::builder().from("a@example.com").to("b@example.com")),
            "text"
        );

        assert_eq!(
            refused(minimal().header("X-Id", "a\r\nBcc: eve@example.org")),
            "headers.X-Id"
        );

        assert_eq!(refused(minimal().header("X-Id", "a\rb")), "headers.X-Id");
        assert_eq!(
            refused(minimal().header("X-Id", "a\u{85}b")),
            "headers.X-Id"
        );

        assert_eq!(
            refused(minimal().header("X-Id: a\r\nBcc", "eve@example.org")),
            "headers.X-Id: a\\r\\nBcc"
        );

        assert_eq!(refused(minimal().header("", "a")), "headers.");
        assert_eq!(refused(minimal().header("X Id", "a")), "headers.X Id");
        assert_eq!(refused(minimal().header("X-Ïd", "a")), "headers.X-Ïd");
        for ours in [
            "From",
            "to",
            "CC",
            "Bcc",
            "Subject",
            "content-type",
            "MIME-Version",
            "X-Postrider-Key",
        ] {
            assert_eq!(
                refused(minimal().header(ours, "a")),
                format!("headers.{ours}")
            );
        }

        assert_eq!(
            refused(
                minimal()
                    .header("References", "<a@b>")
                    .header("references", "<a@b>")
            ),
            "headers.References"
        );

        let file = |name: &str, kind: &str, id: Option<&str>| {
            refused(minimal().attachment(attachment(name, kind, id)))
        };
        assert_eq!(file("", "image/png", None), "attachments[0].filename");
        assert_eq!(file("a\r\nb", "image/png", None), "attachments[0].filename");
        assert_eq!(
            file(&"a".repeat(256), "image/png", None),
            "attachments[0].filename"
        );

        assert_eq!(file("a.png", "png", None), "attachments[0].content_type");
        assert_eq!(
            file("a.png", "image/png\r\nX: y", None),
            "attachments[0].content_type"
        );

        assert_eq!(
            file("a.png", "text/plain; name=\"a\r\nX: y\"", None),
            "attachments[0].content_type"
        );

        assert_eq!(
            file("a.png", "multipart/mixed", None),
            "attachments[0].content_type"
        );

        assert_eq!(
            file("a.png", "image/png", Some("a")),
            "attachments[0].inline_id"
        );

        assert_eq!(
            refused(
                minimal()
                    .html("x")
                    .attachment(attachment("a", "image/png", Some("a>")))
            ),
            "attachments[0].inline_id"
        );

        let twice = minimal()
            .html("x")
            .attachment(attachment("a", "image/png", Some("a")));
        assert_eq!(
            refused(twice.attachment(attachment("b", "image/png", Some("a")))),
            "attachments[1].inline_id"
        );

        assert_eq!(refused(minimal().tag("ok").tag("a\nb")), "tags[1]");
        assert_eq!(refused(minimal().tag("")), "tags[0]");
        assert_eq!(refused(minimal().tag("a".repeat(65))), "tags[0]");
        assert_eq!(
            refused((0..21).fold(minimal(), |mail, i| mail.tag(i.to_string()))),
            "tags"
        );

        assert_eq!(refused(minimal().idempotency_key("")), "idempotency_key");
        assert_eq!(
            refused(minimal().idempotency_key("a".repeat(256))),
            "idempotency_key"
        );

        assert_eq!(refused(minimal().idempotency_key("a\0")), "idempotency_key");
        assert_eq!(
            refused(minimal().delay(minutes(5)).expires_in(minutes(5))),
            "expires_in"
        );

        assert_eq!(refused(minimal().expires_in(seconds(0))), "expires_in");
        let at = Timestamp::now();
        assert_eq!(refused(minimal().send_at(at).expires_at(at)), "expires_in");
    }

    #[test]
    fn limits_are_reached_and_not_passed() {
        let mail = (0..20)
            .fold(minimal(), |mail, i| mail.tag(format!("{i:064}")))
            .idempotency_key("ä".repeat(255));
        assert!(
            mail.delay(minutes(5))
                .expires_in(minutes(6))
                .build()
                .is_ok()
        );
    }
}

mod freezer {
    use super::*;

    const PLAIN: &str = "From: shop@example.com\r\nDate: Sat, 31 Jan 2026 12:00:00 +0000\r\n\
                         Message-ID: <1@example.com>\r\n\
                         Subject: Hi\r\n\r\nHello\r\n";

    fn refused(message: impl AsRef<[u8]>) -> String {
        raw(message).unwrap_err().field().to_owned()
    }

    #[test]
    fn a_message_that_is_as_it_should_be_is_not_copied() {
        let message = Bytes::from(PLAIN);
        let mail = Mail::from_rfc5322(envelope(), message.clone()).unwrap();
        assert_eq!(mail.message().as_ptr(), message.as_ptr());
        assert_eq!(
            (mail.message_id(), mail.subject()),
            ("<1@example.com>", "Hi")
        );
    }

    #[test]
    fn line_ends_become_crlf() {
        assert_eq!(text_of(&raw(PLAIN.replace("\r\n", "\n")).unwrap()), PLAIN);
        let mail = raw(format!("{PLAIN}a\nb\rc\r\n\n\r\r\nd")).unwrap();
        assert_eq!(
            text_of(&mail),
            format!("{PLAIN}a\r\nb\r\nc\r\n\r\n\r\n\r\nd")
        );
        assert_is_frozen(&mail);
    }

    #[test]
    fn what_would_end_the_mail_early_on_a_careless_server_becomes_an_ordinary_line() {
        for end in ["\n.\n", "\r.\r", "\n.\r\n", "\r\n.\n", "\r\n.\r", "\r.\n"] {
            let mail = raw(format!("{PLAIN}a{end}MAIL FROM:<eve@example.org>")).unwrap();
            assert_eq!(
                text_of(&mail),
                format!("{PLAIN}a\r\n.\r\nMAIL FROM:<eve@example.org>")
            );
        }
    }

    #[test]
    fn a_cr_alone_does_not_smuggle_a_field_in() {
        assert_eq!(
            refused("From: a@b.example\r\nSubject: x\rBcc: eve@example.org\r\n\r\n"),
            "headers.Subject"
        );
        assert_eq!(
            refused("From: a@b.example\r\nSubject: x\r\r\nTo: b@c.example\r\n\r\n"),
            "headers.Subject"
        );
    }

    #[test]
    fn a_line_of_white_space_does_not_hide_the_fields_below_it() {
        let mail = raw(
            "From: a@b.example\r\nSubject: x\r\n \t\r\nTo: c@d.example\r\n\
             X-A: 1\r\n  \r\n 2\r\n\r\nbody",
        )
        .unwrap();
        assert!(
            text_of(&mail).starts_with(
                "From: a@b.example\r\nSubject: x\r\nTo: c@d.example\r\nX-A: 1\r\n 2\r\n"
            )
        );
        assert_is_frozen(&mail);
    }

    #[test]
    fn blind_copies_are_removed_with_their_folds() {
        let bcc = "Bcc: eve@example.org,\r\n\tmallory@example.org\r\nbCC:\r\n\
                   Resent-Bcc: x@example.org\r\n";
        let mail = raw(format!("{bcc}{PLAIN}")).unwrap();
        assert_eq!(text_of(&mail), PLAIN);
        let in_body = raw(format!("{PLAIN}Bcc: not a field\r\n")).unwrap();
        assert!(text_of(&in_body).ends_with("Bcc: not a field\r\n"));
    }

    #[test]
    fn what_is_missing_is_added_below_the_rest() {
        let mail = raw("Received: from x by y\nSubject: Hi\nDate:\n\nHello").unwrap();
        assert_eq!(
            fields(&mail),
            ["Received", "Subject", "From", "Date", "Message-ID"]
        );
        assert!(text_of(&mail).contains("\r\nFrom: <shop@example.com>\r\n"));
        assert!(text_of(&mail).ends_with("\r\n\r\nHello"));
        assert_eq!(mail.message_id(), format!("<{}@example.com>", mail.id()));
        assert_is_frozen(&mail);
        let mail = raw("From: Eve <eve@sub.example.net>\n\n").unwrap();
        assert!(mail.message_id().ends_with("@sub.example.net>"));
    }

    #[test]
    fn without_a_sender_nothing_is_made_up() {
        let envelope =
            Envelope::new(None, vec![Address::parse("ada@example.org").unwrap()]).unwrap();
        assert_eq!(
            Mail::from_rfc5322(envelope.clone(), "Subject: x\r\n\r\n")
                .unwrap_err()
                .field(),
            "from"
        );
        let mail = Mail::from_rfc5322(envelope, "From: Undisclosed:;\r\n\r\n").unwrap();
        assert_eq!(mail.message_id(), format!("<{}@localhost>", mail.id()));
    }

    #[test]
    fn a_message_may_end_with_its_header_section() {
        for message in [
            "Subject: Hi",
            "Subject: Hi\r\n",
            "Subject: Hi\n\n",
            "\nHello\n",
        ] {
            let mail = raw(message).unwrap();
            assert_is_frozen(&mail);
            assert!(text_of(&mail).contains("Message-ID: <"));
        }
    }

    #[test]
    fn fields_that_may_stand_once_are_refused_twice() {
        for name in [
            "From",
            "Subject",
            "Date",
            "Message-ID",
            "Sender",
            "In-Reply-To",
            "References",
        ] {
            let twice = format!(
                "{name}: <a@b.example>\r\nX-A: b\r\n{}: <c@d.example>\r\n\r\n",
                name.to_lowercase()
            );
            assert_eq!(refused(twice), format!("headers.{name}"));
        }

        assert!(raw("Received: a\r\nReceived: b\r\n\r\n").is_ok());
        // Lists of addresses say together what one would say.
        for name in ["To", "Cc", "Reply-To"] {
            let twice = format!("{name}: <a@b.example>\r\n{name}: <c@d.example>\r\n\r\n");
            let mail = raw(&twice).unwrap();
            let joined = format!("{name}: <a@b.example>,\r\n <c@d.example>\r\n");
            assert!(String::from_utf8_lossy(mail.message()).starts_with(&joined));
        }
    }

    #[test]
    fn what_cannot_be_mail_is_refused_by_its_place() {
        assert_eq!(refused(""), "headers");
        assert_eq!(
            refused(format!(
                "X-A: b\r\nMessage-ID: <{}@b>\r\n\r\n",
                "a".repeat(1000)
            )),
            "headers.Message-ID"
        );

        assert_eq!(
            refused(format!("DKIM-Signature: v=1; b=x\r\n{PLAIN}a\0b")),
            "body",
            "what is signed is not mended"
        );
    }

    #[test]
    fn what_other_programs_write_is_mended_and_reported() {
        let mended = |message: &[u8], act: &str| {
            let mail = raw(message).unwrap();
            assert_is_frozen(&mail);
            let told = mail.mended();
            assert!(told.iter().any(|told| told.contains(act)), "{told:?}");
            assert!(!mail.needs_smtputf8());
            mail
        };

        let text = mended(b"test1\r\n", "had none");
        assert!(text_of(&text).starts_with("From: <shop@example.com>\r\n"));
        assert!(text_of(&text).ends_with("\r\n\r\ntest1\r\n"));

        let latin = mended(b"Subject: Gr\xfc\xdfe\r\n\r\n", "windows-1252");
        assert_eq!(latin.subject(), "Grüße");
        let utf8 = mended("Subject: Grüße\r\n\r\nGrüße\r\n".as_bytes(), "8-bit text");
        assert_eq!((utf8.subject(), utf8.is_eight_bit()), ("Grüße", true));

        let cron = mended(
            b"From: root (Cron Daemon)\nTo: root\n\nx\n",
            "a domain was added",
        );

        assert!(
            text_of(&cron)
                .starts_with("From: root@example.com (Cron Daemon)\r\nTo: root@example.com\r\n")
        );

        let long = format!("Subject: {}\r\n\r\n", "a".repeat(1000));
        assert_eq!(mended(long.as_bytes(), "folded").subject().len(), 200);
        mended(b"Subject: x\r\n\r\na\0b\r\n", "quoted-printable");
        assert!(raw(PLAIN).unwrap().mended().is_empty());
    }

    #[test]
    fn bytes_above_127_are_distinguished_by_where_they_stand() {
        let body =
            raw("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nGrüße\r\n")
                .unwrap();
        assert!(body.is_eight_bit() && !body.needs_smtputf8());
        let latin =
            raw(b"Content-Type: text/plain; charset=latin1\r\n\r\nGr\xfc\xdfe\r\n").unwrap();
        assert!(latin.is_eight_bit());
        let header = raw("From: jörg@example.com\r\nSubject: Grüße\r\n\r\nHello\r\n").unwrap();
        assert!(header.is_eight_bit() && header.needs_smtputf8());
        assert_eq!(header.subject(), "Grüße");
        let neither = raw(PLAIN).unwrap();
        assert!(!neither.is_eight_bit() && !neither.needs_smtputf8());
    }

    #[test]
    fn a_long_line_in_the_body_of_a_signed_message_stays_as_it_is() {
        let long = format!(
            "DKIM-Signature: v=1; b=x\r\n{PLAIN}{}\r\n",
            "a".repeat(5000)
        );
        assert_eq!(text_of(&raw(&long).unwrap()), long);
    }
}

mod fingerprint {
    use super::*;

    fn of(message: &str) -> u128 {
        raw(message).unwrap().fingerprint()
    }

    #[test]
    fn the_same_request_made_again_has_the_same_fingerprint() {
        let build = || {
            let file = attachment("a.png", "image/png", None);
            minimal()
                .html("<p>x</p>")
                .attachment(file)
                .idempotency_key("k")
                .build()
                .unwrap()
        };

        let (one, two) = (build(), build());
        assert_ne!(one.message(), two.message());
        assert_eq!(one.fingerprint(), two.fingerprint());
        let again = |mail: &Mail| {
            Mail::from_rfc5322(mail.envelope().clone(), mail.message().clone())
                .unwrap()
                .fingerprint()
        };

        assert_eq!(
            again(&one),
            again(&two),
            "boundaries, Date and Message-ID do not count in a written message"
        );
    }

    #[test]
    fn whatever_a_sender_changes_changes_it() {
        let base = || {
            minimal()
                .html("h")
                .header("X-A", "1")
                .attachment(attachment("a.png", "image/png", None))
        };

        let mut seen = std::collections::HashSet::new();
        for mail in [
            base(),
            base().from("Other <shop@example.com>"),
            base().to("bob@example.org"),
            base().cc("bob@example.org"),
            base().bcc("bob@example.org"),
            base().reply_to("bob@example.org"),
            base().return_path("bob@example.org"),
            base().subject("x"),
            base().text("x"),
            base().html("x"),
            base().header("X-A", "2"),
            base().attachment(attachment("b.png", "image/png", None)),
            base().attachment(attachment("b.png", "image/gif", None)),
            base().attachment(attachment("b.png", "image/png", Some("b"))),
            base().priority(Priority::Bulk),
            base().tag("x"),
            base().delay(seconds(1)),
            base().expires_in(seconds(1)),
            base().guarantee(Guarantee::AtMostOnce),
        ] {
            let mail = mail.build().unwrap();
            assert!(seen.insert(mail.fingerprint()), "{}", text_of(&mail));
            let written =
                Mail::from_rfc5322(mail.envelope().clone(), mail.message().clone()).unwrap();
            let mut options = mail.options().clone();
            options.tags.push("written".to_owned());
            assert!(
                seen.insert(written.with_options(options).unwrap().fingerprint()),
                "{}",
                text_of(&mail)
            );
        }
    }

    #[test]
    fn a_key_and_a_computed_time_do_not_change_it() {
        let base = minimal().build().unwrap().fingerprint();
        assert_eq!(
            minimal()
                .idempotency_key("a")
                .build()
                .unwrap()
                .fingerprint(),
            base
        );

        assert_eq!(
            minimal()
                .send_at(Timestamp::now())
                .build()
                .unwrap()
                .fingerprint(),
            base
        );
    }

    #[test]
    fn nested_boundaries_do_not_count_and_what_is_between_them_does() {
        let message = |outer: &str, inner: &str, text: &str| {
            format!(
                "MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n boundary=\"{outer}\"\r\n\
                 \r\npreamble\r\n--{outer}\r\n\
                 Content-Type: multipart/alternative; boundary={inner}\r\n\r\n--{inner}\r\n\
                 Content-Type: text/plain\r\n\r\n\
                 {text}\r\n--not a boundary\r\n--{inner}\r\nContent-Type: text/html\r\n\r\n<p>\r\n\
                 --{inner}--\r\n\
                 --{outer}--\r\nepilogue\r\n"
            )
        };

        let base = of(&message("aaaa", "bbbb", "text"));
        assert_eq!(of(&message("cc", "dddddd", "text")), base);
        assert_ne!(of(&message("aaaa", "bbbb", "other")), base);
        assert_ne!(
            of(&message("aaaa", "bbbb", "text").replace("html", "css")),
            base
        );

        assert_ne!(
            of(&message("aaaa", "bbbb", "text").replace("epilogue", "end")),
            base
        );

        assert_ne!(
            of(&message("aaaa", "bbbb", "text").replace("--not a", "--not the")),
            base
        );
    }

    #[test]
    fn so_many_boundaries_are_looked_for_and_no_more() {
        let message = |changed: usize| {
            let boundary = |i: usize| {
                if i == changed {
                    format!("changed.{i}")
                } else {
                    format!("b.{i}.")
                }
            };
            let parts = (1..=40).map(|i| {
                format!(
                    "--{}\r\nContent-Type: multipart/mixed; boundary={}\r\n\r\n",
                    boundary(i - 1),
                    boundary(i)
                )
            });
            let head = format!(
                "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary={}\r\n\r\n",
                boundary(0)
            );
            of(&(head + &parts.collect::<String>()))
        };

        let base = message(1000);
        assert_eq!(message(0), base);
        assert_eq!(message(31), base);
        assert_ne!(
            message(32),
            base,
            "to look for every boundary at every line would take the square of their number"
        );
    }

    #[test]
    fn line_ends_and_blind_copies_do_not_count() {
        let message = "From: a@b.example\r\nSubject: x\r\n\r\nHello\r\n";
        assert_eq!(of(&message.replace("\r\n", "\n")), of(message));
        assert_eq!(of(&format!("Bcc: x@y.example\r\n{message}")), of(message));
        assert_eq!(
            of(&format!("Received: by x; now\r\n{message}")),
            of(message)
        );
        assert_ne!(of(&message.replace("Hello", "Hullo")), of(message));
    }
}

mod lettre_messages {
    use super::*;
    use lettre::message::header::ContentType;

    #[test]
    fn a_message_of_lettre_is_taken_with_its_envelope() {
        let message = lettre::Message::builder()
            .from("Shop <shop@example.com>".parse().unwrap())
            .to("Ada <ada@example.org>".parse().unwrap())
            .bcc("bob@example.org".parse().unwrap())
            .subject("Grüße")
            .header(ContentType::TEXT_PLAIN)
            .body("Schöne Grüße\n".to_owned())
            .unwrap();

        let mail = Mail::from_lettre(&message).unwrap();
        assert_is_frozen(&mail);
        assert_eq!(recipients(&mail), ["ada@example.org", "bob@example.org"]);
        assert_eq!(
            mail.envelope().return_path().unwrap().as_str(),
            "shop@example.com"
        );

        assert_eq!(mail.subject(), "Grüße");
        assert!(mail.message_id().ends_with("@example.com>"));
        assert!(!text_of(&mail).contains("bob@"));
        assert_eq!(
            parse(&mail).body_text(0).unwrap().trim_end(),
            "Schöne Grüße"
        );
    }

    #[test]
    fn a_header_that_lettre_lets_through_is_refused_here() {
        use lettre::message::header::{HeaderName, HeaderValue};
        let name = HeaderName::new_from_ascii("X-A:\r\nBcc".replace(':', "")).unwrap();
        let message = lettre::Message::builder()
            .from("shop@example.com".parse().unwrap())
            .to("ada@example.org".parse().unwrap())
            .raw_header(HeaderValue::new(name, "eve@example.org".to_owned()))
            .body("x".to_owned())
            .unwrap();
        assert_eq!(Mail::from_lettre(&message).unwrap_err().field(), "headers");
    }

    #[test]
    fn an_address_that_was_made_unchecked_is_refused() {
        let evil = lettre::Address::new_dangerous(
            "ada",
            "example.org> SIZE=1\r\nRCPT TO:<eve@example.org",
        );

        let envelope =
            lettre::address::Envelope::new(None, vec!["a@b.example".parse().unwrap(), evil])
                .unwrap();
        let message = lettre::Message::builder()
            .from("shop@example.com".parse().unwrap())
            .envelope(envelope)
            .body("x".to_owned())
            .unwrap();

        assert_eq!(Mail::from_lettre(&message).unwrap_err().field(), "to[1]");
    }
}

mod directives {
    use super::*;

    fn take(message: &str) -> Result<(Bytes, Options), MailError> {
        take_directives(Bytes::copy_from_slice(message.as_bytes()))
    }

    #[test]
    fn directives_are_read_and_removed() {
        let (rest, options) = take(
            "Subject: x\r\nX-Postrider-Priority: Bulk\r\nx-postrider-KEY:\r\n order-7\r\n\
             X-Postrider-Send-At: \
             2026-01-31T13:00:00+01:00\r\nX-Postrider-Expires-In: 5m\r\nX-Postrider-Tag: a, b\r\n\
             X-Postrider-Tag: c\r\n\
             To: y@z.example\r\n\r\nX-Postrider-Key: body\r\n",
        )
        .unwrap();

        assert_eq!(
            rest,
            "Subject: x\r\nTo: y@z.example\r\n\r\nX-Postrider-Key: body\r\n"
        );

        let expected = Options {
            priority: Priority::Bulk,
            send: Some(When::At("2026-01-31T12:00:00Z".parse().unwrap())),
            expires: Some(When::In(minutes(5))),
            idempotency_key: Some("order-7".to_owned()),
            tags: ["a", "b", "c"].map(str::to_owned).to_vec(),
            guarantee: Guarantee::AtLeastOnce,
            list: None,
        };

        assert_eq!(options, expected);
        assert_eq!(
            take("X-Postrider-Expires-In: 90\n\n").unwrap().1.expires,
            Some(When::In(seconds(90)))
        );
    }

    #[test]
    fn a_message_without_directives_is_not_copied() {
        let message = Bytes::from_static(b"Subject: x\n\nHello\n");
        let (rest, options) = take_directives(message.clone()).unwrap();
        assert_eq!(rest.as_ptr(), message.as_ptr());
        assert_eq!(options, Options::default());
    }

    #[test]
    fn a_directive_that_cannot_be_followed_is_named() {
        for (field, value) in [
            ("Priority", "urgent"),
            ("Send-At", "tomorrow"),
            ("Expires-In", "soon"),
            ("Expires-In", "-5"),
            ("Prioritty", "bulk"),
        ] {
            let error = take(&format!("X-Postrider-{field}: {value}\r\n\r\n")).unwrap_err();
            assert_eq!(error.field(), format!("headers.X-Postrider-{field}"));
        }

        let twice = take("X-Postrider-Key: a\r\nX-Postrider-key: b\r\n\r\n").unwrap_err();
        assert_eq!(twice.field(), "headers.X-Postrider-key");
        assert_eq!(
            take("X-Postrider-Key:\r\n\r\n").unwrap_err().field(),
            "idempotency_key"
        );

        assert_eq!(
            take("X-Postrider-Expires-In: 0\r\n\r\n")
                .unwrap_err()
                .field(),
            "expires_in"
        );

        let long = "t".repeat(65);
        assert_eq!(
            take(&format!("X-Postrider-Tag: {long}\r\n\r\n"))
                .unwrap_err()
                .field(),
            "tags[0]"
        );
    }
}

/// Text with everything in it that has ever meant something to a mail program.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zA-Z0-9 ]{1,12}",
        2 => any::<String>(),
        2 => prop::sample::select(vec![
            "\r\n", "\n", "\r", "\r\n\r\n", "\n.\n", "\r\n.\r\n", "\0", ":", ": ", ",", ";", "<",
            ">", "@", "\"", "\\", "(", ")",
            "=?utf-8?q?", "?=", "Bcc: eve@evil.example", "eve@evil.example", "<eve@evil.example>",
            "--", "%0d%0a", "\t",
            "é", "\u{85}", "\u{2028}", "\u{202e}", "🎉", "boundary=", "  ", "'", "=", "?", "*",
            "\u{1b}[31m",
        ]).prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Bytes that look like a message more often than not.
fn message_like() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        (
            prop::sample::select(vec![
                "From",
                "Date",
                "Message-ID",
                "Subject",
                "Bcc",
                "To",
                "X-A",
                "Content-Type",
                "MIME-Version"
            ]),
            hostile()
        )
            .prop_map(|(name, value)| format!("{name}: {value}").into_bytes()),
        hostile().prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..40),
        Just(b" ".to_vec()),
        Just(Vec::new()),
    ];

    let end = prop::sample::select(vec![&b"\r\n"[..], b"\r\n", b"\r\n", b"\n", b"\r", b""]);
    prop::collection::vec((line, end), 0..12).prop_map(|lines| {
        lines
            .into_iter()
            .flat_map(|(line, end)| [line, end.to_vec()].concat())
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None,
        ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_taken_is_frozen(message in message_like()) {
        if let Ok(mail) = raw(&message) {
            assert_is_frozen(&mail);
            prop_assert!(!fields(&mail).iter().any(|name| name.eq_ignore_ascii_case("Bcc")));
        }
    }

    #[test]
    fn taking_directives_leaves_a_message_that_has_none(message in message_like()) {
        let Ok((rest, _)) = take_directives(Bytes::from(message)) else { return Ok(()) };
        prop_assert!(rest.is_empty() || take_directives(rest.clone()).unwrap() == (rest,
            Options::default()));
    }

    #[test]
    fn no_text_becomes_a_header_line_or_a_recipient(
        name in hostile(), to in hostile(), subject in hostile(), field in hostile(),
        value in hostile(), file in hostile(),
        kind in hostile(), id in hostile(),
    ) {
        let image = Attachment { filename: file, content_type: format!("image/{kind}"),
            content: Bytes::new(), inline_id: Some(id) };
        for mail in [
            minimal().from(format!("{name} <shop@example.com>")),
            minimal().from(format!("\"{name}\" <shop@example.com>")),
            minimal().to(to.clone()),
            minimal().cc(format!("{to} <carl@example.org>")),
            minimal().subject(subject),
            minimal().header(field, "x"),
            minimal().header("X-Value", value),
            minimal().html("<p>").attachment(image.clone()),
            minimal().attachment(Attachment { inline_id: None, ..image.clone() }),
        ] {
            let Ok(mail) = mail.build() else { continue };
            assert_is_frozen(&mail);
            let fields = fields(&mail);
            prop_assert!(!fields.iter().any(|name| name.eq_ignore_ascii_case("Bcc")), "{}",
                text_of(&mail));
            prop_assert!(fields.len() <= 9, "{}", text_of(&mail));
            prop_assert!(mail.envelope().recipients().len() <= 2);
            // Whoever reads the message sees nobody but those who are in the envelope.
            let parsed = parse(&mail);
            let lists = parsed.to().into_iter().chain(parsed.cc());
            let seen = lists.flat_map(|list| list.clone().into_list());
            for seen in seen {
                let seen = seen.address().unwrap_or_default().to_owned();
                prop_assert!(recipients(&mail).contains(&seen.as_str()), "{seen} in {}",
                    text_of(&mail));
            }
            for part in &parsed.parts {
                prop_assert!(part.headers().len() <= 9, "{}", text_of(&mail));
            }
        }
    }

    #[test]
    fn what_was_composed_is_what_is_read(
        name in "[^\\p{Cc}\"<>,;\\\\]{1,60}", subject in "[^\\p{Cc}]{0,120}",
        text in "[^\0\r]{0,300}", file in "[^\\p{Cc}]{1,80}",
    ) {
        let name = name.trim();
        let (subject, file) = (subject.trim(), file.trim());
        prop_assume!(!file.is_empty() && file.len() <= 255);
        let mail = minimal()
            .from(format!("{name} <shop@example.com>"))
            .subject(subject)
            .text(text.clone())
            .attachment(attachment(file, "application/pdf", None))
            .build()
            .unwrap();

        let parsed = parse(&mail);
        prop_assert_eq!(parsed.from().unwrap().first().unwrap().name().unwrap_or_default(), name);
        prop_assert_eq!(parsed.subject().unwrap_or_default(), subject, "{}", text_of(&mail));
        prop_assert_eq!(parsed.body_text(0).unwrap_or_default().replace("\r\n", "\n"), text);
        prop_assert_eq!(parsed.attachment(0).unwrap().attachment_name().unwrap_or_default(), file,
            "{}", text_of(&mail));
    }

    #[test]
    fn an_address_that_is_taken_stays_within_its_path(text in hostile(),
        local in "[a-z\"\\\\ .@<>:]{1,20}") {
        for text in [text.clone(), format!("{text}@example.org"), format!("ada@{text}"),
            format!("{local}@example.org")] {
            let Ok(address) = Address::parse(&text) else { continue };
            let written = address.as_str();
            prop_assert!(!written.contains(['<', '>', '\r', '\n',
                '\0']) && !written.chars().any(char::is_control));
            prop_assert!(written.len() <= 320);
            if !written.starts_with('"') {
                prop_assert!(!written.contains([' ', ',', ';', '(', ')', '"']));
                prop_assert_eq!(written.matches('@').count(), 1);
            }
            prop_assert_eq!(Address::parse(written).unwrap(), address);
        }
    }
}

/// Nothing that was composed here is refused for its length, and every line fits.
#[test]
fn any_number_of_recipients_is_folded_with_names_and_without() {
    for count in [1, 3, 30, 300, 1000] {
        for name in ["", "Ada Lovelace ", "Grüße Ädä ", "名前 名前 "] {
            let mut mail = Mail::builder().from("shop@example.com").text("hi");
            for n in 0..count {
                let address = format!("somebody-with-a-name-{n}@example.org");
                mail = mail.to(match name {
                    "" => address,
                    name => format!("{name}{n} <{address}>"),
                });
            }
            let mail = mail.build().unwrap();
            assert_eq!(recipients(&mail).len(), count);
            let longest = text_of(&mail).lines().map(str::len).max().unwrap();
            assert!(longest <= 998, "{longest} for {count} of `{name}`");
            let seen = parse(&mail).to().unwrap().iter().count();
            assert_eq!(seen, count, "`{name}`");
        }
    }
}

#[test]
fn a_word_that_fits_on_no_line_is_encoded_and_read_again() {
    let word = "x".repeat(3000);
    let mail = Mail::builder()
        .from("shop@example.com")
        .to("ada@example.org")
        .subject(format!("see {word} soon"))
        .header("X-Long", &word)
        .text("hi")
        .build()
        .unwrap();
    let longest = text_of(&mail).lines().map(str::len).max().unwrap();
    assert!(longest <= 998, "{longest}");
    assert_eq!(parse(&mail).subject().unwrap(), format!("see {word} soon"));
}
