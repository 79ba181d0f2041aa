use super::*;

fn read(line: &str) -> Result<SmtpCommand, CommandError> {
    parse(format!("{line}\r\n").as_bytes())
}

fn code(line: &str) -> u16 {
    match read(line) {
        Err(CommandError::Command(reply) | CommandError::OutOfStep(reply)) => reply.code,
        other => panic!("{line} gave {other:?}"),
    }
}

fn from(text: &str) -> SmtpCommand {
    SmtpCommand::Mail {
        return_path: Some(Address::parse(text).expect("valid")),
        size: 0,
        smtputf8: false,
    }
}

fn to(text: &str) -> SmtpCommand {
    SmtpCommand::Rcpt(Address::parse(text).expect("valid"))
}

#[test]
fn what_clients_write_is_understood() {
    assert_eq!(
        read("ehlo [127.0.0.1]"),
        Ok(SmtpCommand::Ehlo("[127.0.0.1]".into()))
    );

    assert_eq!(read("HELO my_pc"), Ok(SmtpCommand::Helo("my_pc".into())));
    assert_eq!(read("MAIL FROM:<a@example.org>"), Ok(from("a@example.org")));
    assert_eq!(
        read("Mail From: <a@example.org> "),
        Ok(from("a@example.org"))
    );

    assert_eq!(read("MAIL FROM:a@example.org"), Ok(from("a@example.org")));
    assert_eq!(
        read("MAIL FROM: a@example.org BODY=8BITMIME"),
        Ok(from("a@example.org"))
    );
    assert_eq!(read("rcpt to: b@example.org "), Ok(to("b@example.org")));

    assert_eq!(
        read("MAIL FROM:<a@example.org> AUTH=<>"),
        Ok(from("a@example.org"))
    );

    assert_eq!(read("RCPT TO:<b@[192.0.2.1]>"), Ok(to("b@[192.0.2.1]")));
    assert_eq!(
        read("RCPT TO:<Postmaster>"),
        Ok(SmtpCommand::RcptPostmaster)
    );
    for digits in [20, 24, 100] {
        let line = format!("MAIL FROM:<> SIZE={}", "9".repeat(digits));
        assert_eq!(code(&line), 552, "{line}");
    }

    assert_eq!(
        read("MAIL FROM:<> SIZE=77 BODY=8BITMIME SMTPUTF8"),
        Ok(SmtpCommand::Mail {
            return_path: None,
            size: 77,
            smtputf8: true
        })
    );

    assert_eq!(
        read("BDAT 12 last"),
        Ok(SmtpCommand::Bdat {
            size: 12,
            last: true
        })
    );

    assert_eq!(
        read("BDAT 0"),
        Ok(SmtpCommand::Bdat {
            size: 0,
            last: false
        })
    );

    let auth = |initial: Option<&str>| SmtpCommand::Auth {
        mechanism: Mechanism::Plain,
        initial: initial.map(Into::into),
    };

    assert_eq!(read("AUTH PLAIN"), Ok(auth(None)));
    assert_eq!(read("auth plain AGEAYg=="), Ok(auth(Some("AGEAYg=="))));
    for (line, command) in [
        ("DATA", SmtpCommand::Data),
        ("data ", SmtpCommand::Data),
        ("RSET", SmtpCommand::Rset),
        ("NOOP anything", SmtpCommand::Noop),
        ("VRFY ada", SmtpCommand::Vrfy),
        ("HELP", SmtpCommand::Help),
        ("STARTTLS", SmtpCommand::StartTls),
        ("quit", SmtpCommand::Quit),
    ] {
        assert_eq!(read(line), Ok(command), "{line}");
    }
}

#[test]
fn quoted_local_parts_keep_their_quotes() {
    assert_eq!(
        read(r#"RCPT TO:<"ada lovelace"@example.org>"#),
        Ok(to(r#""ada lovelace"@example.org"#))
    );

    assert_eq!(
        read(r#"MAIL FROM:<"a@b"@example.org> SIZE=0"#),
        Ok(from(r#""a@b"@example.org"#))
    );

    assert_eq!(
        read(r#"RCPT TO:<"a\"b"@example.org>"#),
        Ok(to(r#""a\"b"@example.org"#))
    );

    assert_eq!(
        read(r#"RCPT TO:<"ada".b@example.org>"#),
        Ok(to("ada.b@example.org"))
    );

    // A bracket in quotes is valid, and Address does not take it: nothing of it may become
    // another address.
    assert_eq!(code(r#"RCPT TO:<"a>b"@example.org>"#), 501);
}

#[test]
fn source_routes_are_dropped() {
    assert_eq!(
        read("RCPT TO:<@a.example,@b.example:c@example.org>"),
        Ok(to("c@example.org"))
    );
    assert_eq!(
        read("RCPT TO:<@[IPv6:2001:db8::1],@b.example:c@[IPv6:2001:db8::2]>"),
        Ok(to("c@[IPv6:2001:db8::2]"))
    );
}

#[test]
fn no_address_turns_into_the_null_path_or_loses_a_character() {
    for line in [
        "MAIL FROM:<postmaster>",
        "MAIL FROM:<ada>",
        "MAIL FROM:<a b@example.org>",
        "MAIL FROM:<@>",
        "MAIL FROM:<[::1]:a@x>",
    ] {
        assert_eq!(code(line), 501, "{line}");
    }

    for line in [
        "RCPT TO:<>",
        "RCPT TO:<root>",
        "RCPT TO:<a@b@example.org>",
        "RCPT TO:<a@>",
    ] {
        assert_eq!(code(line), 501, "{line}");
    }
}

#[test]
fn what_is_not_offered_is_said_so() {
    for line in [
        "MAIL FROM:<a@example.org> RET=FULL",
        "MAIL FROM:<a@example.org> BODY=BINARYMIME",
        "MAIL FROM:<a@example.org> ENVID=x",
        "MAIL FROM:<a@example.org> HOLDFOR=5",
        "MAIL FROM:<a@example.org> XYZZY=1",
        "MAIL FROM:<a@example.org> REQUIRETLS",
        "RCPT TO:<a@example.org> NOTIFY=NEVER",
        "RCPT TO:<a@example.org> ORCPT=rfc822;a@example.org",
        "RCPT TO:<a@example.org> SIZE=5",
        "RCPT TO:a@example.org SIZE=5",
        "RCPT TO: a@example.org, b@example.org",
    ] {
        assert_eq!(code(line), 555, "{line}");
    }

    for line in [
        "EXPN list",
        "ETRN example.org",
        "LHLO x",
        "ATRN x",
        "BURL imap://x",
    ] {
        assert_eq!(code(line), 502, "{line}");
    }

    assert_eq!(code("AUTH CRAM-MD5"), 504);
    assert_eq!(read("XCLIENT ADDR=1.2.3.4"), Err(CommandError::Unknown));
    assert_eq!(read("GET / HTTP/1.1"), Err(CommandError::Unknown));
    assert_eq!(read(""), Err(CommandError::Unknown));
}

#[test]
fn what_is_not_a_command_is_a_syntax_error() {
    for line in [
        "MAIL",
        "MAIL FROM",
        "MAIL FROM:",
        "MAIL FROM:a",
        "MAIL FROM:a@example.org>",
        "MAIL FROM:\"a b\"@example.org",
        "MAIL TO:<a@example.org>",
        "MAIL FROM:<",
        "MAIL FROM:<a@example.org",
        "MAIL FROM:<a@example.org> SIZE=x",
        "MAIL FROM:<a@example.org> BODY=9BIT",
        "RCPT",
        "EHLO",
        "DATA now",
        "RSET 1",
        "STARTTLS x",
        "QUIT now",
        "AUTH",
    ] {
        assert_eq!(code(line), 501, "{line}");
    }

    assert!(matches!(
        parse(b"NOOP \xff\r\n"),
        Err(CommandError::Command(reply)) if reply.code == 501
    ));
}

#[test]
fn a_chunk_whose_size_cannot_be_read_is_out_of_step() {
    for line in [
        "BDAT",
        "BDAT x",
        "BDAT -1",
        "BDAT 5 FIRST",
        "BDAT 5 LAST LAST",
        "BDAT 99999999999999999999999 LAST",
    ] {
        assert!(
            matches!(read(line), Err(CommandError::OutOfStep(_))),
            "{line}"
        );
    }
}

#[test]
fn addresses_beyond_ascii_need_smtputf8() {
    assert_eq!(code("MAIL FROM:<zoë@example.org>"), 553);
    assert!(matches!(
        read("MAIL FROM:<zoë@example.org> SMTPUTF8"),
        Ok(SmtpCommand::Mail { smtputf8: true, .. })
    ));
}

#[test]
fn a_line_ends_with_crlf_alone() {
    let mut input = &b"NOOP\r\nRSET\r\nQU"[..];
    assert_eq!(take_line(&mut input), Ok(Some(&b"NOOP\r\n"[..])));
    assert_eq!(take_line(&mut input), Ok(Some(&b"RSET\r\n"[..])));
    assert_eq!(take_line(&mut input), Ok(None));
    assert_eq!(input, b"QU");

    for wrong in [
        "NOOP\n",
        "NO\rOP\r\n",
        "NOOP\r\r\n",
        "\n",
        "NO\0OP\r\n",
        "NOOP\rRSET\n",
        "\x1b[2J\r\n",
    ] {
        assert!(
            matches!(
                take_line(&mut wrong.as_bytes()),
                Err(CommandError::OutOfStep(_))
            ),
            "{wrong:?}"
        );
    }
}

#[test]
fn a_line_has_a_longest_length() {
    let longest = format!("{}\r\n", "x".repeat(LONGEST_LINE - 2));
    assert!(matches!(take_line(&mut longest.as_bytes()), Ok(Some(_))));
    let longer = format!("x{longest}");
    assert!(matches!(
        take_line(&mut longer.as_bytes()),
        Err(CommandError::OutOfStep(_))
    ));
    assert!(matches!(
        take_line(&mut &longer.as_bytes()[..LONGEST_LINE]),
        Err(CommandError::OutOfStep(_))
    ));

    assert!(matches!(
        take_line(&mut &longer.as_bytes()[..LONGEST_LINE - 1]),
        Ok(None)
    ));
}
