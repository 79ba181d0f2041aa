use std::net::Ipv4Addr;

use super::super::{Limits, User};
use super::*;

/// A client of a session: what it says, and what it is answered.
struct TestClient {
    session: SmtpSession,
    mails: Vec<(Submission, String)>,
    closed: bool,
    tls: bool,
    penalties: usize,
}

fn context(limits: Limits, users: Vec<User>) -> SessionContext {
    let budget = MessageMemory::new(limits.memory);
    SessionContext {
        returns: None,
        hostname: Arc::from("mail.example"),
        limits,
        users: Users::new(users),
        trusted: Default::default(),
        budget,
        guard: LoginGuard::new(limits.ban_after, limits.ban_time, Default::default()),
    }
}

fn app() -> Vec<User> {
    vec![User {
        name: "app".into(),
        password: "secret".into(),
    }]
}

impl TestClient {
    fn with(
        context: SessionContext,
        peer: impl Into<IpAddr>,
        security: ConnectionSecurity,
    ) -> Self {
        let session = SmtpSession::new(context, peer.into(), security);
        let mut client = TestClient {
            session,
            mails: Vec::new(),
            closed: false,
            tls: false,
            penalties: 0,
        };
        assert_eq!(client.say(""), "220 mail.example ESMTP Postrider\r\n");
        client
    }

    /// On loopback, with nobody to log in as.
    fn open() -> Self {
        Self::limited(Limits::default())
    }

    fn limited(limits: Limits) -> Self {
        Self::with(
            context(limits, Vec::new()),
            Ipv4Addr::LOCALHOST,
            ConnectionSecurity::Plain,
        )
    }

    fn say(&mut self, text: impl AsRef<[u8]>) -> String {
        let mut input = text.as_ref();
        let mut said = Vec::new();
        loop {
            let step = self.session.advance(&mut input, Timestamp::from_millis(0));
            said.append(self.session.replies());
            match step {
                SessionStep::Read => {
                    assert!(input.is_empty(), "a line was left unread: {input:?}");
                    break;
                }
                SessionStep::Flush => {}
                SessionStep::Penalty(_) => self.penalties += 1,
                SessionStep::StartTls => {
                    self.session.secured();
                    self.tls = true;
                }
                SessionStep::Submit(mut mail) => {
                    let body = std::mem::replace(
                        &mut mail.body,
                        Body::new(0, 0, self.session.context.budget.clone()),
                    );
                    let (bytes, _) = body.finish().expect("what is refused is not submitted");
                    self.mails
                        .push((mail, String::from_utf8_lossy(&bytes).into_owned()));
                    self.session
                        .answer(&SmtpReply::new(250, "2.0.0", "queued as 1"));
                }
                SessionStep::Close => {
                    self.closed = true;
                    break;
                }
            }
        }

        String::from_utf8(said).expect("ASCII")
    }

    fn hello(mut self) -> Self {
        assert!(
            self.say("EHLO client.example\r\n")
                .starts_with("250-mail.example\r\n")
        );
        self
    }

    fn begun(self) -> Self {
        let mut client = self.hello();
        client.expect("MAIL FROM:<a@example.org>", "250 2.1.0");
        client.expect("RCPT TO:<b@example.org>", "250 2.1.5");
        client
    }

    #[track_caller]
    fn expect(&mut self, line: &str, reply: &str) {
        let said = self.say(format!("{line}\r\n"));
        assert!(said.starts_with(reply), "{line} was answered {said}");
    }

    /// The only mail: what the client sent, without our Received field.
    fn message(&self) -> &str {
        assert_eq!(self.mails.len(), 1, "{:?}", self.mails);
        self.mails[0]
            .1
            .split_once("+0000\r\n")
            .expect("a Received field")
            .1
    }
}

#[test]
fn a_mail_comes_in() {
    let mut client = TestClient::open().begun();
    client.expect("RCPT TO:<c@example.org>", "250 2.1.5");
    client.expect("DATA", "354 ");
    assert_eq!(
        client.say("Subject: x\r\n\r\n..hi\r\n.\r\n"),
        "250 2.0.0 queued as 1\r\n"
    );

    assert_eq!(client.message(), "Subject: x\r\n\r\n.hi\r\n");
    let (mail, _) = &client.mails[0];
    assert_eq!(
        mail.return_path.as_ref().map(Address::as_str),
        Some("a@example.org")
    );

    assert_eq!(
        mail.recipients
            .iter()
            .map(Address::as_str)
            .collect::<Vec<_>>(),
        ["b@example.org", "c@example.org"]
    );

    client.expect("QUIT", "221 2.0.0");
    assert!(client.closed);
}

#[test]
fn ehlo_lists_what_is_offered() {
    let extensions = |security, peer: [u8; 4], users| {
        let mut client = TestClient::with(context(Limits::default(), users), peer, security);
        client.say("EHLO x\r\n")
    };

    let plain = extensions(ConnectionSecurity::Plain, [127, 0, 0, 1], Vec::new());
    assert_eq!(
        plain,
        "250-mail.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n\
         250-ENHANCEDSTATUSCODES\r\n250 SIZE 26214400\r\n"
    );

    assert!(
        extensions(ConnectionSecurity::Plain, [127, 0, 0, 1], app())
            .ends_with("250 AUTH PLAIN LOGIN\r\n")
    );

    let far = extensions(ConnectionSecurity::Offered, [192, 0, 2, 1], app());
    assert!(
        far.ends_with("250 STARTTLS\r\n") && !far.contains("AUTH"),
        "{far}"
    );

    let secured = extensions(ConnectionSecurity::Tls, [192, 0, 2, 1], app());
    assert!(
        secured.ends_with("250 AUTH PLAIN LOGIN\r\n") && !secured.contains("STARTTLS"),
        "{secured}"
    );
}

#[test]
fn everything_may_be_said_at_once() {
    let mut client = TestClient::open();
    let said = client.say(
        "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<bad>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nA: 1\r\n\r\n\
         .\r\n\
         MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\nBDAT 6\r\nB: 2\r\nBDAT 2 LAST\r\n\
         \r\nQUIT\r\n",
    );

    let codes: Vec<&str> = said
        .lines()
        .filter(|l| !l.starts_with("250-"))
        .map(|l| &l[..3])
        .collect();

    assert_eq!(
        codes,
        [
            "250", "250", "501", "250", "354", "250", "250", "250", "250", "250", "221"
        ]
    );

    assert_eq!(client.mails.len(), 2);
    assert_eq!(client.mails[0].0.return_path, None);
    assert!(client.mails[1].1.ends_with("B: 2\r\n\r\n"));
}

#[test]
fn nothing_is_smuggled_past_the_end_of_a_mail() {
    for trick in [
        "\n.\n",
        "\r.\r",
        "\n.\r\n",
        "\r\n.\n",
        "\r\n.\r",
        "\r.\r\n",
        "\r\n.\r\r\n",
    ] {
        let mut client = TestClient::open().begun();
        client.expect("DATA", "354");
        let evil = "MAIL FROM:<root@example.org>\r\nRCPT TO:<v@example.org>\r\nDATA\r\n\
                    From: root\r\n\r\nevil";
        let said = client.say(format!("Subject: x\r\n\r\nhi{trick}{evil}\r\n.\r\n"));
        assert_eq!(said, "250 2.0.0 queued as 1\r\n", "{trick:?}");
        assert!(
            client.message().ends_with("evil\r\n"),
            "{trick:?} split the mail"
        );
    }
}

#[test]
fn a_command_that_does_not_end_with_crlf_ends_the_connection() {
    for line in [
        "NOOP\n",
        "NOOP\r\r\n",
        "NO\rOP\r\n",
        "RSET\rNOOP\r\n",
        "MAIL FROM:<a@example.org>\nRSET\r\n",
    ] {
        let mut client = TestClient::open().hello();
        let said = client.say(format!("{line}NOOP\r\n"));
        assert!(
            said.starts_with("500 5.5.2") && said.matches("\r\n").count() == 1,
            "{line:?} was answered {said}"
        );
        assert!(client.closed);
    }
}

#[test]
fn a_line_that_is_too_long_ends_the_connection() {
    let mut client = TestClient::open().hello();
    assert!(client.say("x".repeat(3000)).starts_with("500 5.5.2"));
    assert!(client.closed);
}

#[test]
fn a_browser_is_shown_the_door() {
    for request in [
        "POST / HTTP/1.1\r\nHost: x\r\n\r\nEHLO x\r\nMAIL FROM:<a@example.org>\r\n",
        "hi\r\n",
        "\r\n",
    ] {
        let mut client = TestClient::open();
        let said = client.say(request);
        assert!(
            said.starts_with("500") && said.matches("\r\n").count() == 1,
            "{said}"
        );
        assert!(client.closed);
    }
}

#[test]
fn commands_out_of_order_are_refused() {
    let mut client = TestClient::open();
    client.expect("MAIL FROM:<a@example.org>", "503 5.5.1");
    let mut client = TestClient::open().hello();
    client.expect("RCPT TO:<b@example.org>", "503 5.5.1");
    client.expect("DATA", "503 5.5.1");
    client.expect("MAIL FROM:<a@example.org>", "250");
    client.expect("MAIL FROM:<a@example.org>", "503 5.5.1");
    client.expect("DATA", "554 5.5.1");
    client.expect("RCPT TO:<b@example.org>", "250");
    client.expect("BDAT 0", "250");
    client.expect("RCPT TO:<b@example.org>", "503 5.5.1");
    client.expect("DATA", "503 5.5.1");
    client.expect("RSET", "250 2.0.0");
    client.expect("DATA", "503 5.5.1");

    assert!(client.mails.is_empty());
}

#[test]
fn rset_and_ehlo_forget_the_mail() {
    for forget in ["RSET", "EHLO again", "HELO again"] {
        let mut client = TestClient::open().begun();
        client.expect(forget, "250");
        client.expect("DATA", "503 5.5.1");
        client.expect("MAIL FROM:<a@example.org>", "250");
        client.expect("DATA", "554 5.5.1");
    }
}

#[test]
fn what_helps_and_what_changes_nothing() {
    let mut client = TestClient::open().begun();
    client.expect("NOOP", "250 2.0.0");
    client.expect("HELP", "214 2.0.0");
    client.expect("VRFY ada", "252");
    client.expect("EXPN list", "502 5.5.1");
    client.expect("XYZZY", "500 5.5.1");
    client.expect("DATA", "354");
    assert!(client.say("A: 1\r\n\r\n.\r\n").starts_with("250"));
}

#[test]
fn a_size_that_is_too_large_is_refused_at_mail() {
    let mut client = TestClient::limited(Limits {
        message_size: 1000,
        ..Limits::default()
    })
    .hello();
    client.expect("MAIL FROM:<a@example.org> SIZE=1001", "552 5.3.4");
    client.expect("RCPT TO:<b@example.org>", "503");
    client.expect("MAIL FROM:<a@example.org> SIZE=1000", "250");
}

#[test]
fn a_message_that_is_too_large_is_refused_at_its_end_and_the_dialogue_goes_on() {
    let limits = Limits {
        message_size: 1000,
        ..Limits::default()
    };

    let mut client = TestClient::limited(limits).begun();
    client.expect("DATA", "354");
    assert_eq!(client.say("x".repeat(1001)), "");
    assert!(client.say("\r\n.\r\n").starts_with("552 5.3.4"));
    client.expect("DATA", "503");
    assert!(client.mails.is_empty());

    let mut client = TestClient::limited(limits).begun();
    let said = client.say(format!(
        "BDAT 600\r\n{0}BDAT 600\r\n{0}BDAT 0 LAST\r\nNOOP\r\n",
        "x".repeat(600)
    ));

    let codes: Vec<&str> = said.lines().map(|l| &l[..9]).collect();
    assert_eq!(codes, ["250 2.0.0", "552 5.3.4", "552 5.3.4", "250 2.0.0"]);
    assert!(client.mails.is_empty());
}

#[test]
fn a_refused_message_without_an_end_ends_the_connection() {
    let limits = Limits {
        message_size: 1000,
        ..Limits::default()
    };

    let mut client = TestClient::limited(limits).begun();
    client.expect("DATA", "354");
    assert!(client.say("x".repeat(2100)).starts_with("552 5.3.4"));
    assert!(client.closed);

    let mut client = TestClient::limited(limits).begun();
    client.expect("DATA", "354");
    assert!(
        client
            .say(format!("{}\r\n.\r\n", "x".repeat(2100)))
            .starts_with("552 5.3.4")
    );

    assert!(client.closed, "in one piece it ends as in many");
    let mut client = TestClient::limited(limits).hello();
    assert!(
        client
            .say(format!("BDAT 99999999\r\n{}", "x".repeat(2100)))
            .starts_with("503 5.5.1")
    );

    assert!(client.closed);
}

#[test]
fn a_mail_that_finds_no_memory_is_to_come_again() {
    let limits = Limits {
        memory: 10_000,
        ..Limits::default()
    };

    let mut client = TestClient::limited(limits).begun();
    client.expect("DATA", "354");
    assert!(
        client
            .say(format!("{}\r\n.\r\n", "x".repeat(20_000)))
            .starts_with("452 4.3.1")
    );

    client.expect("MAIL FROM:<a@example.org>", "250");
    client.expect("RCPT TO:<b@example.org>", "250");
    client.expect("DATA", "354");
    assert!(
        client.say("A: 1\r\n\r\n.\r\n").starts_with("250"),
        "its memory came back"
    );
}

#[test]
fn recipients_beyond_the_limit_are_to_come_in_another_mail() {
    let mut client = TestClient::limited(Limits {
        recipients: 2,
        ..Limits::default()
    })
    .begun();
    client.expect("RCPT TO:<c@example.org>", "250");
    client.expect("RCPT TO:<d@example.org>", "452 4.5.3");
    client.expect("DATA", "354");
    assert!(client.say("A: 1\r\n\r\n.\r\n").starts_with("250"));
    assert_eq!(client.mails[0].0.recipients.len(), 2);
}

#[test]
fn chunks_are_taken_as_they_are() {
    let mut client = TestClient::open().begun();
    client.expect(
        "BDAT 12\r\nA: 1\r\n\r\n.\r\nx",
        "250 2.0.0 12 octets so far",
    );
    assert_eq!(client.say("\r\n"), "500 5.5.1 there is no such command\r\n");
    client.say("BDAT 7 LAST\r\n..\n.\r\nz");
    assert_eq!(client.message(), "A: 1\r\n\r\n.\r\nx..\n.\r\nz");
}

#[test]
fn the_octets_of_a_refused_chunk_are_not_taken_for_commands() {
    let mut client = TestClient::open().hello();
    let said = client.say("BDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nRSET\r\nNOOP\r\n");
    let codes: Vec<&str> = said.lines().map(|l| &l[..9]).collect();
    assert_eq!(codes, ["503 5.5.1", "503 5.5.1", "250 2.0.0"]);
    client.expect("MAIL FROM:<a@example.org>", "250");
    let said = client.say("BDAT 6 LAST\r\nQUIT\r\n");
    assert!(said.starts_with("554 5.5.1"), "{said}");
    assert!(!client.closed && client.mails.is_empty());
}

#[test]
fn a_chunk_without_a_size_ends_the_connection() {
    let mut client = TestClient::open().begun();
    assert!(
        client
            .say("BDAT 99999999999999999999 LAST\r\nQUIT\r\n")
            .starts_with("501 5.5.4")
    );
    assert!(client.closed);
}

#[test]
fn mail_needs_a_login_where_there_are_users() {
    let mut client = TestClient::with(
        context(Limits::default(), app()),
        Ipv4Addr::LOCALHOST,
        ConnectionSecurity::Plain,
    )
    .hello();

    client.expect("MAIL FROM:<a@example.org>", "530 5.7.0");
    assert!(
        client
            .say("BDAT 6 LAST\r\nQUIT\r\n")
            .starts_with("530 5.7.0")
    );

    client.expect("AUTH PLAIN AGFwcABzZWNyZXQ=", "235 2.7.0");
    client.expect("AUTH PLAIN AGFwcABzZWNyZXQ=", "503 5.5.1");
    client.expect("MAIL FROM:<a@example.org>", "250");
    client.expect("RCPT TO:<b@example.org>", "250");
    client.expect("DATA", "354");

    assert!(client.say("A: 1\r\n\r\n.\r\n").starts_with("250"));
    assert_eq!(client.mails[0].0.user.as_deref(), Some("app"));
    assert!(
        client.mails[0].1.contains(" with ESMTPA; "),
        "{}",
        client.mails[0].1
    );
}

#[test]
fn every_way_to_log_in_works() {
    for lines in [
        &["AUTH PLAIN", "AGFwcABzZWNyZXQ="][..],
        &["AUTH LOGIN", "YXBw", "c2VjcmV0"],
        &["AUTH LOGIN YXBw", "c2VjcmV0"],
        &["auth login", "YXBw", "c2VjcmV0"],
    ] {
        let mut client = TestClient::with(
            context(Limits::default(), app()),
            Ipv4Addr::LOCALHOST,
            ConnectionSecurity::Plain,
        )
        .hello();
        let (last, first) = lines.split_last().expect("lines");
        for line in first {
            client.expect(line, "334 ");
        }
        client.expect(last, "235 2.7.0");
    }
}

#[test]
fn a_login_can_be_cancelled_and_can_be_wrong() {
    let mut client = TestClient::with(
        context(Limits::default(), app()),
        Ipv4Addr::LOCALHOST,
        ConnectionSecurity::Plain,
    )
    .hello();

    client.expect("AUTH LOGIN", "334 ");
    client.expect("*", "501 5.7.0");
    client.expect("NOOP", "250");
    client.expect("AUTH PLAIN not=base64", "501 5.5.2");
    client.expect("AUTH CRAM-MD5", "504 5.5.4");

    assert_eq!(client.penalties, 0);
    client.expect("AUTH PLAIN AGFwcAB3cm9uZw==", "535 5.7.8");
    client.expect("MAIL FROM:<a@example.org>", "530 5.7.0");
    client.expect("AUTH PLAIN AGFwcAB3cm9uZw==", "535 5.7.8");

    assert!(
        client
            .say("AUTH PLAIN AGFwcAB3cm9uZw==\r\nNOOP\r\n")
            .contains("421 4.7.0")
    );

    assert!(client.closed);
    assert_eq!(client.penalties, 3);
}

#[test]
fn no_password_is_taken_in_the_clear() {
    let mut client = TestClient::with(
        context(Limits::default(), app()),
        [192, 0, 2, 1],
        ConnectionSecurity::Offered,
    )
    .hello();

    client.expect("AUTH PLAIN AGFwcABzZWNyZXQ=", "538 5.7.11");
    client.expect("AUTH LOGIN", "538 5.7.11");
    client.expect("MAIL FROM:<a@example.org>", "530 5.7.0 begin with STARTTLS");
    client.expect("STARTTLS", "220 2.0.0");

    assert!(client.tls);
    client.expect("AUTH PLAIN AGFwcABzZWNyZXQ=", "503 5.5.1");
    client.expect("EHLO x", "250");
    client.expect("AUTH PLAIN AGFwcABzZWNyZXQ=", "235");
    client.expect("STARTTLS", "503 5.5.1");
}

#[test]
fn what_was_said_before_starttls_is_forgotten() {
    let mut client = TestClient::with(
        context(Limits::default(), Vec::new()),
        Ipv4Addr::LOCALHOST,
        ConnectionSecurity::Offered,
    )
    .begun();
    client.expect("STARTTLS", "220");
    client.expect("DATA", "503");
    client.expect("MAIL FROM:<a@example.org>", "503 5.5.1 say EHLO first");
}

#[test]
fn what_follows_starttls_in_the_clear_ends_the_connection() {
    let mut client = TestClient::with(
        context(Limits::default(), Vec::new()),
        Ipv4Addr::LOCALHOST,
        ConnectionSecurity::Offered,
    )
    .hello();
    let said = client.say("STARTTLS\r\nEHLO evil\r\nMAIL FROM:<evil@example.org>\r\n");
    assert!(
        said.starts_with("554 5.5.1") && said.matches("\r\n").count() == 1,
        "{said}"
    );
    assert!(client.closed && !client.tls);
}

#[test]
fn starttls_is_refused_where_there_is_no_certificate() {
    let mut client = TestClient::open().hello();
    client.expect("STARTTLS", "502 5.5.1");
}

#[test]
fn too_many_mistakes_end_the_connection_and_an_accepted_mail_forgives_them() {
    let mut client = TestClient::limited(Limits {
        errors: 3,
        ..Limits::default()
    })
    .begun();

    client.expect("XYZZY", "500");
    client.expect("RCPT TO:<x>", "501 5.1.3");
    client.expect("DATA", "354");
    assert!(client.say("A: 1\r\n\r\n.\r\n").starts_with("250"));
    client.expect("XYZZY", "500");
    client.expect("DATA", "503");

    assert!(
        client
            .say("XYZZY\r\nNOOP\r\n")
            .ends_with("421 4.7.0 too many mistakes\r\n")
    );

    assert!(client.closed);
}

#[test]
fn commands_before_a_login_are_counted() {
    let limits = Limits {
        commands_before_login: 3,
        ..Limits::default()
    };
    let mut client = TestClient::with(
        context(limits, app()),
        Ipv4Addr::LOCALHOST,
        ConnectionSecurity::Plain,
    )
    .hello();
    client.expect("NOOP", "250");
    client.expect("NOOP", "250");
    client.expect("NOOP", "421 4.7.0");
    assert!(client.closed);
}

#[test]
fn addresses_beyond_ascii_go_with_smtputf8_alone() {
    let mut client = TestClient::open().begun();
    client.expect("RCPT TO:<zoë@example.org>", "553 5.6.7");
    client.expect("RSET", "250");
    client.expect("MAIL FROM:<zoë@example.org>", "553 5.6.7");
    client.expect("MAIL FROM:<zoë@example.org> SMTPUTF8 BODY=8BITMIME", "250");
    client.expect("RCPT TO:<zoë@example.org>", "250");
    client.expect("DATA", "354");

    assert!(client.say("A: 1\r\n\r\n.\r\n").starts_with("250"));
    assert!(
        client.mails[0].1.contains(" with UTF8SMTP; "),
        "{}",
        client.mails[0].1
    );
}

#[test]
fn the_trace_field_is_one_field_whatever_the_client_calls_itself() {
    let mut client = TestClient::with(
        context(Limits::default(), Vec::new()),
        [192, 0, 2, 7],
        ConnectionSecurity::Tls,
    );
    client.say(
        "EHLO (evil)\"<>;é\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nA: 1\r\n\r\n.\r\n",
    );
    let expected = "Received: from ?evil?????? ([192.0.2.7])\r\n by mail.example with ESMTPS; \
                    Thu, 1 Jan 1970 00:00:00 +0000\r\nA: 1\r\n\r\n";
    assert_eq!(client.mails[0].1, expected);
}

#[test]
fn replies_are_sent_before_they_pile_up() {
    let mut session = SmtpSession::new(
        context(Limits::default(), Vec::new()),
        Ipv4Addr::LOCALHOST.into(),
        ConnectionSecurity::Plain,
    );

    let wire = format!("EHLO x\r\n{}", "NOOP\r\n".repeat(10_000));
    let mut input = wire.as_bytes();
    let mut flushes = 0;
    while matches!(
        session.advance(&mut input, Timestamp::from_millis(0)),
        SessionStep::Flush
    ) {
        assert!(session.replies().len() <= REPLY_BYTES + 512);
        session.replies().clear();
        flushes += 1;
    }

    assert!(flushes > 5, "{flushes}");
}

#[test]
fn a_message_that_comes_in_counts_its_bytes_and_a_command_does_not() {
    let mut client = TestClient::open().begun();
    assert_eq!(client.session.receiving(), None);
    client.expect("DATA", "354");
    let progress = client.session.progress();
    client.say("12345\r\n");
    assert_eq!(client.session.receiving(), Some(7));
    assert_eq!(client.session.progress(), progress);
    client.say(".\r\n");
    assert_eq!(client.session.receiving(), None);
    assert_eq!(client.session.progress(), progress + 1);
}
