#![allow(clippy::unwrap_used)]

use mail_parser::MessageParser;

use super::*;
use crate::mail::{Address, address_list};

fn envelope(return_path: Option<&str>, to: &str) -> Envelope {
    let address = |text: &str| Address::parse(text).unwrap();
    Envelope::new(return_path.map(address), vec![address(to)]).unwrap()
}

/// The mended message with return path `shop@example.com`, and the notes.
fn mended(message: impl AsRef<[u8]>) -> (String, Vec<String>) {
    let envelope = envelope(Some("shop@example.com"), "ada@example.org");
    let message = Bytes::copy_from_slice(message.as_ref());
    let mended = mend(message, &envelope, Intake::default());
    (
        String::from_utf8_lossy(&mended.message).into_owned(),
        mended.acts,
    )
}

#[track_caller]
fn assert_mends(message: impl AsRef<[u8]>, expected: &str, act: &str) {
    let (message, acts) = mended(message);
    assert_eq!(message, expected);
    assert!(acts.iter().any(|told| told.contains(act)), "{acts:?}");
    let (again, acts) = mended(&message);
    assert_eq!((again, acts), (message, Vec::new()), "it mends to itself");
}

#[test]
fn what_is_well_formed_keeps_every_byte() {
    for message in [
        "From: a@b.example\r\nTo: \"C\" <c@d.example>\r\nSubject: x  y\r\n\r\nhi\r\n",
        "From: a@b.example\nTo: undisclosed-recipients:;\n\nhi\n",
        "From: a@b.example\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\
         Grüße\r\n",
        "Subject: =?utf-8?q?x?=\r\nReferences: <a@b>\r\n <c@d>\r\n\r\n",
    ] {
        let (same, acts) = mended(message);
        assert_eq!((same.as_str(), acts.len()), (message, 0), "{acts:?}");
    }
}

#[test]
fn what_is_signed_is_not_mended() {
    let long = "x".repeat(2000);
    let message =
        format!("DKIM-Signature: v=1; b=x\r\nFrom : root\r\nSubject: Grüße\r\n\r\n{long} ü\r\n");
    assert_eq!(mended(&message), (message, Vec::new()));
    let sealed = format!(
        "MIME-Version: 1.0\r\nContent-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\n\
         {long}\r\n--b--\r\n"
    );
    assert_eq!(mended(&sealed), (sealed, Vec::new()));
}

#[test]
fn what_stands_before_the_first_field_is_removed() {
    assert_mends(
        "\u{feff}Subject: x\r\n\r\nhi",
        "Subject: x\r\n\r\nhi",
        "byte order mark",
    );

    assert_mends(
        "From me Mon Jan  1 00:00:00 2026\nSubject: x\n\nhi",
        "Subject: x\n\r\nhi",
        "mbox",
    );

    assert_mends(
        "From : a@b.example\n\nhi",
        "From: a@b.example\n\nhi"
            .replace("\n\nhi", "\n\r\nhi")
            .as_str(),
        "space before the colon",
    );
}

#[test]
fn a_header_section_and_a_body_are_separated() {
    assert_mends("test1", "\r\ntest1", "had none");
    assert_mends(" folded: x\r\n", "\r\n folded: x\r\n", "had none");
    assert_mends(
        "Subject: s\nhello\nTo: x\n",
        "Subject: s\n\r\nhello\nTo: x\n",
        "empty line",
    );
    assert_eq!(mended("Subject: s\r\n").0, "Subject: s\r\n");
    assert_eq!(mended("").0, "");
}

#[test]
fn local_users_get_a_domain_and_nothing_else_changes() {
    assert_mends(
        "From: root (Cron Daemon)\r\nTo: root, \"A\"  <ada@example.org>,\r\n Bob <bob>\r\n\r\n",
        "From: root@example.com (Cron Daemon)\r\nTo: root@example.com, \"A\"  \
         <ada@example.org>,\r\n Bob <bob@example.com>\r\n\r\n",
        "From: a domain was added to an address",
    );

    let envelope = envelope(Some("shop@example.com"), "ada@example.org");
    for (domain, expected) in [
        (Some("mail.example"), "mail.example"),
        (None, "example.com"),
    ] {
        let intake = Intake {
            domain,
            host: Some("host"),
            trace: 0,
        };
        let mended = mend("Sender: root\r\n\r\n".into(), &envelope, intake);
        assert_eq!(mended.message, format!("Sender: root@{expected}\r\n\r\n"));
    }
}

#[test]
fn text_beyond_ascii_is_encoded_where_no_address_needs_it() {
    let raw = "Subject: Grüße =?utf-8?q?an?= Ada\r\nFrom: Jörg Müller, GmbH <j@bücher.example>\r\n\
        To: Zoë <zoe@example.org>, Team: Ä <a@example.org>;\r\nX-Note: ü\r\n\
        List-Unsubscribe: <https://e.example/ü>\r\nMIME-Version: 1.0\r\n\
        Content-Type: text/plain; charset=utf-8; name=\"Bücher 1.txt\"\r\n\r\nhi";

    let (message, acts) = mended(raw);
    let header = message.split("\r\n\r\n").next().unwrap();
    assert!(header.is_ascii(), "{message}");
    assert_eq!(acts.len(), 6, "{acts:?}");

    let parsed = MessageParser::default().parse(message.as_bytes()).unwrap();
    assert_eq!(parsed.subject(), Some("Grüße an Ada"));
    let from = parsed.from().unwrap().first().unwrap();
    assert_eq!(from.name(), Some("Jörg Müller, GmbH"));
    assert_eq!(from.address(), Some("j@xn--bcher-kva.example"));
    assert!(
        message.contains("name*=utf-8''B%C3%BCcher%201.txt"),
        "{message}"
    );
    assert!(message.contains("<https://e.example/%C3%BC>"), "{message}");

    let eai = "From: jörg@example.com\r\nSubject: Grüße\r\n\r\n";
    assert_eq!(mended(eai), (eai.to_owned(), Vec::new()));

    let to_eai = envelope(None, "zoë@example.org");
    let kept = mend("Subject: Grüße\r\n\r\n".into(), &to_eai, Intake::default());
    assert_eq!(kept.message, "Subject: Grüße\r\n\r\n");
}

#[test]
fn latin_1_is_guessed() {
    let (message, acts) =
        mended(b"Subject: Gr\xfc\xdfe \x96 5 \x80\r\nFrom: J\xf6rg <j@b.example>\r\n\r\n");
    let parsed = MessageParser::default().parse(message.as_bytes()).unwrap();
    assert_eq!(parsed.subject(), Some("Grüße – 5 €"));
    assert_eq!(parsed.from().unwrap().first().unwrap().name(), Some("Jörg"));
    assert!(
        acts[0].starts_with("Subject: read as windows-1252"),
        "{acts:?}"
    );
}

#[test]
fn long_lines_of_the_header_section_are_folded_or_encoded() {
    let words = "word ".repeat(300);
    let one = "x".repeat(3000);
    let many: Vec<String> = (0..200).map(|n| format!("a{n}@example.org")).collect();
    for (field, seen) in [
        (format!("Subject: {words}"), words.trim().to_owned()),
        (format!("Subject: {one}"), one.clone()),
        (format!("Subject: {words}{one}"), format!("{words}{one}")),
    ] {
        let (message, acts) = mended(format!("{field}\r\n\r\n"));
        assert!(
            message.split("\r\n").all(|line| line.len() <= 998),
            "{message}"
        );
        assert_eq!(acts, ["Subject: folded"]);
        let parsed = MessageParser::default().parse(message.as_bytes()).unwrap();
        assert_eq!(parsed.subject().unwrap(), seen);
    }

    let (message, _) = mended(format!(
        "To: {}\r\nReferences:{}\r\n\r\n",
        many.join(","),
        " <a@b>".repeat(300)
    ));

    assert!(
        message.split("\r\n").all(|line| line.len() <= 998),
        "{message}"
    );

    let parsed = MessageParser::default().parse(message.as_bytes()).unwrap();
    assert_eq!(parsed.to().unwrap().iter().count(), 200);
}

#[test]
fn eight_bit_text_is_called_so() {
    assert_mends(
        "From: a@b.example\r\n\r\nü",
        "From: a@b.example\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: 8bit\r\n\r\nü",
        "8-bit text",
    );
    let (message, _) = mended(b"From: a@b.example\r\n\r\n\xfc");
    assert!(message.contains("charset=unknown-8bit"), "{message}");
}

#[test]
fn long_lines_and_nuls_of_a_body_are_encoded_in_their_part() {
    let long = format!("{} = ü\r\nshort\r\n", "x".repeat(2000));
    let text =
        format!("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{long}");
    let file = format!(
        "MIME-Version: 1.0\r\nContent-Type: application/x; y=z\r\n\
         Content-Transfer-Encoding: binary\r\n\r\na\0{long}"
    );
    let bare = format!("Subject: x\r\n\r\na\0{}\r\n", "y".repeat(1000));
    let base64 = format!(
        "MIME-Version: 1.0\r\nContent-Type: application/x\r\nContent-Transfer-Encoding: base64\r\n\
         \r\n{}",
        "QUJD".repeat(1000)
    );

    for (message, content) in [
        (&text, long.clone()),
        (&file, format!("a\0{long}")),
        (&bare, format!("a\0{}\r\n", "y".repeat(1000))),
        (&base64, "ABC".repeat(1000)),
    ] {
        let (mended, acts) = mended(message);
        assert!(
            mended.split("\r\n").all(|line| line.len() <= 998) && !mended.contains('\0'),
            "{mended}"
        );
        assert!(acts[0].starts_with("the body: "), "{acts:?}");
        let parsed = MessageParser::default().parse(mended.as_bytes()).unwrap();
        assert_eq!(String::from_utf8_lossy(parsed.parts[0].contents()), content);
    }
}

#[test]
fn a_part_of_many_is_encoded_and_the_others_stay() {
    let long = "z".repeat(1500);
    let message = format!(
        "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"out\"\r\n\r\npreamble\r\n\
         --out\r\n\
         Content-Type: multipart/alternative; boundary=in\r\n\r\n--in\r\n\r\nplain\r\n--in\r\n\
         Content-Type: text/html\r\nContent-Transfer-Encoding: 7bit\r\n\r\n<p>{long}\r\n--in--\r\n\
         --out\r\n\
         Content-Type: application/x\r\n\r\na\0b\r\n--out--\r\nepilogue\r\n"
    );

    let (mended, acts) = mended(&message);
    assert_eq!(acts, ["the body: parts with long lines or a NUL encoded"]);
    assert!(
        mended.split("\r\n").all(|line| line.len() <= 998) && !mended.contains('\0'),
        "{mended}"
    );

    assert!(
        mended.contains("\r\n--in\r\n\r\nplain\r\n--in\r\n"),
        "{mended}"
    );

    assert!(
        mended.ends_with("--out--\r\nepilogue\r\n") && !mended.contains("7bit"),
        "{mended}"
    );

    let parsed = MessageParser::default().parse(mended.as_bytes()).unwrap();
    assert_eq!(parsed.body_html(0).unwrap(), format!("<p>{long}"));
    assert_eq!(parsed.attachment(0).unwrap().contents(), b"a\0b");
}

#[test]
fn a_doors_own_field_stays_in_front() {
    let trace = "Received: from x\r\n by y; z\r\n";
    for (written, expected) in [
        ("test1", "\r\ntest1"),
        ("\u{feff}Subject: x\r\n\r\n", "Subject: x\r\n\r\n"),
        (" folded\r\n", "\r\n folded\r\n"),
    ] {
        let intake = Intake {
            trace: trace.len(),
            ..Intake::default()
        };
        let message = Bytes::from(format!("{trace}{written}"));
        let mended = mend(message, &envelope(None, "a@b.example"), intake);
        assert_eq!(mended.message, format!("{trace}{expected}"));
    }
}

#[test]
fn hostile_structure_costs_no_more_than_it_is_long() {
    let deep: String = (0..3000)
        .map(|n| format!("--b\r\nContent-Type: multipart/mixed; boundary=b{n}\r\n\r\n"))
        .collect();
    let message = format!(
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n{deep}{}\0",
        "--b\r\n".repeat(50_000)
    );
    let started = std::time::Instant::now();
    mended(&message);
    assert!(started.elapsed().as_secs() < 5);
}

#[test]
fn what_others_would_read_differently_is_written_as_the_grammar_has_it() {
    // Names and addresses, as they are meant.
    for (field, expected) in [
        ("From: [Shop] <a@b.example>", "[Shop] a@b.example"),
        ("From: a@b.example <a@b.example>", "a@b.example a@b.example"),
        ("From: Smith, John <a@b.example>", "Smith, John a@b.example"),
        ("Reply-To: \"Shop <a@b.example>", "Shop a@b.example"),
        ("To: a@b.example; c@d.example", " a@b.example, c@d.example"),
        (
            "Cc: a@b.example; C <c@d.example>;",
            " a@b.example,C c@d.example",
        ),
    ] {
        let (message, acts) = mended(format!("{field}\r\nX-B: 1\r\n\r\nhi\r\n"));
        let written = message.split_once("\r\nX-B: 1\r\n").unwrap().0;
        let (_, value) = written.split_once(": ").unwrap();
        let (entries, is_loose) = address_list::read_loosely(value).unwrap();
        let found = address_list::mailboxes(entries).map(|found| {
            let address = found.address(None).unwrap();
            format!("{} {address}", found.name.unwrap_or_default())
        });
        assert_eq!(found.collect::<Vec<_>>().join(","), expected, "{written}");
        assert!(!is_loose && value.is_ascii(), "{written}");
        assert!(acts.contains(&format!(
            "{}: written as a list of addresses",
            field.split_once(':').unwrap().0
        )));
        assert_eq!(
            mended(&message).1,
            Vec::<String>::new(),
            "{field} mends to itself"
        );
    }

    for (field, expected, act) in [
        (
            "Message-ID: 1.2@b.example",
            "Message-ID: <1.2@b.example>",
            "angle brackets",
        ),
        (
            "Date: Do, 26 Nov 2026 12:00:00 +0100",
            "Date: Thu, 26 Nov 2026 11:00:00 +0000",
            "written as a date",
        ),
    ] {
        let of = |field: &str| format!("{field}\r\nX-B: 1\r\n\r\nhi\r\n");
        assert_mends(of(field), &of(expected), act);
    }

    // A local user gets a domain at once, and none the second time.
    for (field, expected) in [
        (
            "From: a-Cron-Env: <SHELL=/bin/sh>",
            "From: =?utf-8?b?YS1Dcm9uLUVudjo=?= <SHELL=/bin/sh@example.com>",
        ),
        (
            "From: Shop,\r\n GmbH <root>",
            "From: =?utf-8?b?U2hvcCwgR21iSA==?= <root@example.com>",
        ),
        (
            "To: ada; Bob <bob>",
            "To: ada@example.com, Bob <bob@example.com>",
        ),
        (
            "To: ada, Bob <bob>",
            "To: ada@example.com, Bob <bob@example.com>",
        ),
        (
            "To: Team: ada, <bob>",
            "To: Team: ada@example.com, <bob@example.com>",
        ),
    ] {
        let (message, acts) = mended(format!("{field}\r\n\r\nhi\r\n"));
        assert_eq!(message, format!("{expected}\r\n\r\nhi\r\n"));
        assert_eq!(acts.len(), 1, "{acts:?}");
        assert_eq!(mended(&message), (message, Vec::new()), "{field}");
    }

    // Local users are not a name, and what matches the grammar is unchanged.
    for field in [
        "To: root, Ada <a@b.example>",
        "From: J. R. Smith <a@b.example>",
        "To: Friends: a@b.example, c@d.example;",
        "To: <@x.example:a@b.example>, b@c.example (Bob [x@y])",
        "To: \"a@b\" <a@b.example>",
        "Date: Thu, 26 Nov 2026 12:00 +0100 (CET)",
        "Date: 26 Nov 26 12:00 GMT",
        "Message-ID: <a b@c>",
    ] {
        let (_, acts) = mended(format!("{field}\r\n\r\nhi\r\n"));
        assert!(
            !acts.iter().any(|act| act.contains("written")),
            "{field}: {acts:?}"
        );
    }
}

#[test]
fn a_field_that_stands_there_twice_and_says_the_same_is_one() {
    assert_mends(
        "To: a@b.example\r\nSubject: x\r\nto:  a@b.example \r\nSubject: x\r\n\r\nhi\r\n",
        "To: a@b.example\r\nSubject: x\r\n\r\nhi\r\n",
        "Subject: removed, because it occurred twice",
    );
    assert_mends(
        "Date: yesterday\r\nSubject: x\r\n\r\nhi\r\n",
        "Subject: x\r\n\r\nhi\r\n",
        "Date: removed, because it was not a date",
    );
    let two = "Subject: a\r\nSubject: b\r\nFrom: x@a.example\r\nFrom: y@a.example\r\n\
               Received: x\r\nReceived: x\r\n\r\nhi\r\n";
    assert_eq!(mended(two), (two.to_owned(), Vec::new()));
}

#[test]
fn lists_of_addresses_that_stand_there_several_times_are_one() {
    assert_mends(
        "To: A <a@b.example>,\r\n root\r\nSubject: x\r\nTO: c@d.example\r\nCc:\r\n\
         Cc: \"e, f\" <e@f.example>\r\nTo: a@b.example\r\n\r\nhi\r\n",
        "To: A <a@b.example>,\r\n root@example.com,\r\n c@d.example,\r\n a@b.example\r\n\
         Subject: x\r\nCc: \"e, f\" <e@f.example>\r\n\r\nhi\r\n",
        "To: joined, because it occurred several times",
    );
    assert_mends(
        "Reply-To: Zoë <a@b.example>\r\nReply-To: c@d.example\r\n\r\nhi\r\n",
        "Reply-To: =?utf-8?b?Wm/Dqw==?= <a@b.example>, c@d.example\r\n\r\nhi\r\n",
        "Reply-To: joined",
    );
}

#[test]
fn a_body_that_is_said_to_be_in_7_bits_and_is_not_is_said_to_be_in_8() {
    assert_mends(
        "MIME-Version: 1.0\r\nContent-Transfer-Encoding: 7bit\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\r\nhé\r\n",
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: 8bit\r\n\r\nhé\r\n",
        "declared as 8-bit text",
    );
}
