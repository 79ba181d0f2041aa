//! A relay that does everything wrong, at every step of the dialogue: what is made of it, how soon,
//! and that nothing that was said out of step is ever believed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Act, Cert, FakeSmtp, Rule, Step, open, server_at, server_on, transaction};
use bytes::Bytes;
use futures::{StreamExt, stream};
use postrider::delivery::{Outcome, Phase};
use postrider::transport::smtp::Smtp;
use postrider::transport::{Auth, Security, Server, TimeOuts, Transaction, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// How long each step may take where the relay is going to keep us waiting.
const SHORT_TIMEOUT: Duration = Duration::from_millis(800);

/// Each case ends within a few such waits, whatever the relay does.
const LIMIT: Duration = Duration::from_secs(6);

/// Runs all of these, some at a time.
async fn all<F: Future<Output = ()> + Send + 'static>(cases: Vec<F>) {
    let mut running = stream::iter(cases).map(tokio::spawn).buffer_unordered(12);
    while let Some(ended) = running.next().await {
        ended.unwrap();
    }
}

/// A disposition, as far as the table tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Delivered,
    Deferred(Phase),
    Rejected(Phase),
    Unavailable(Phase),
    Lost(Phase),
    InDoubt,
}

fn is(outcome: &Outcome) -> Expected {
    match outcome {
        Outcome::Delivered(_) => Expected::Delivered,
        Outcome::Deferred(phase, _) => Expected::Deferred(*phase),
        Outcome::Rejected(phase, _) => Expected::Rejected(*phase),
        Outcome::Unavailable(phase, _) => Expected::Unavailable(*phase),
        Outcome::Lost(phase, _) => Expected::Lost(*phase),
        Outcome::InDoubt(_) => Expected::InDoubt,
        Outcome::Withdrawn | Outcome::Crashed => {
            panic!("nothing is recalled and nothing crashes here")
        }
    }
}

/// The ways of a hostile relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    Cut,
    Hang,
    Drip,
    Garbage,
    HugeLine,
    HugeReply,
    MixedCodes,
    BareLineFeed,
    Says421,
    Says4yz,
    Says5yz,
    Says5yzAndCuts,
    WrongClass,
    Extra,
}

const BEHAVIOURS: [Behaviour; 14] = [
    Behaviour::Cut,
    Behaviour::Hang,
    Behaviour::Drip,
    Behaviour::Garbage,
    Behaviour::HugeLine,
    Behaviour::HugeReply,
    Behaviour::MixedCodes,
    Behaviour::BareLineFeed,
    Behaviour::Says421,
    Behaviour::Says4yz,
    Behaviour::Says5yz,
    Behaviour::Says5yzAndCuts,
    Behaviour::WrongClass,
    Behaviour::Extra,
];

impl Behaviour {
    fn act(self) -> Act {
        match self {
            Behaviour::Cut => Act::Cut,
            Behaviour::Hang => Act::Hang,
            Behaviour::Drip => Act::Drip(Duration::from_secs(1)),
            Behaviour::Garbage => Act::Garbage,
            Behaviour::HugeLine => Act::HugeLine(10_000_000),
            Behaviour::HugeReply => Act::HugeReply(100_000),
            Behaviour::MixedCodes => Act::MixedCodes,
            Behaviour::BareLineFeed => Act::Raw(b"250 2.0.0 ok\n".to_vec()),
            Behaviour::Says421 => Act::ReplyThenCut(421, "4.3.2 shutting down".into()),
            Behaviour::Says4yz => Act::reply(451, "4.3.0 later"),
            Behaviour::Says5yz => Act::reply(554, "5.7.1 never"),
            Behaviour::Says5yzAndCuts => Act::ReplyThenCut(554, "5.7.1 never".into()),
            Behaviour::WrongClass => Act::WrongClass,
            Behaviour::Extra => Act::extra("250 2.0.0 and another one"),
        }
    }
}

/// What becomes of a mail to one recipient, and whether the connection goes on after it.
fn expected(step: Step, way: Behaviour, pipelining: bool) -> (Expected, bool) {
    let (phase, broken) = match step {
        Step::Mail | Step::Rset => (Phase::MailFrom, Expected::Unavailable(Phase::MailFrom)),
        Step::Rcpt => (Phase::RcptTo, Expected::Lost(Phase::RcptTo)),
        Step::Data => (Phase::Data, Expected::Lost(Phase::Data)),
        Step::Body => (Phase::Body, Expected::Lost(Phase::Body)),
        Step::FinalDot => (Phase::FinalDot, Expected::InDoubt),
        other => panic!("{other:?} is no step of a transaction"),
    };

    match (way, step) {
        // A reply like any other: LF alone ends a line too.
        (Behaviour::BareLineFeed, Step::Data) => (Expected::Deferred(Phase::Data), false),
        (Behaviour::BareLineFeed, step) if step != Step::Body => (Expected::Delivered, true),
        // RSET is about no mail, so nothing but yes is good enough; one answer too many is noticed
        // later, at DATA or RCPT.
        (Behaviour::Extra, Step::Rset) if pipelining => (Expected::Deferred(Phase::Data), false),
        (_, Step::Rset) => (broken, false),
        // It spoke about this mail, before it had seen it: not the last word.
        (Behaviour::Says4yz | Behaviour::Says5yz | Behaviour::Says5yzAndCuts, Step::Body) => {
            (Expected::Deferred(phase), false)
        }
        (Behaviour::Says421, Step::FinalDot) => (Expected::Lost(phase), false),
        (Behaviour::Says4yz, _) => (Expected::Deferred(phase), true),
        (Behaviour::Says5yz, _) => (Expected::Rejected(phase), true),
        // Where more answers are due, their absence is noticed at once; the refusal stands either
        // way.
        (Behaviour::Says5yzAndCuts, Step::Mail | Step::Rcpt) => {
            (Expected::Rejected(phase), !pipelining)
        }
        (Behaviour::Says5yzAndCuts, _) => (Expected::Rejected(phase), true),
        (Behaviour::WrongClass, Step::Mail | Step::Rcpt | Step::Data) => {
            (Expected::Deferred(phase), false)
        }
        (Behaviour::Extra, Step::Mail | Step::Rcpt) if pipelining => {
            (Expected::Deferred(Phase::Data), false)
        }
        (Behaviour::Extra, Step::Mail) => (Expected::Lost(Phase::RcptTo), false),
        (Behaviour::Extra, Step::Rcpt) => (Expected::Lost(Phase::Data), false),
        (Behaviour::Extra, Step::Data) => (Expected::Lost(Phase::Body), false),
        // Seen before anything else is sent over this connection.
        (Behaviour::Extra, Step::FinalDot) => (Expected::Delivered, true),
        _ => (broken, false),
    }
}

/// Where nobody keeps us waiting, no time-out is to end the case on a busy machine.
fn settings(server: &FakeSmtp, way: Behaviour) -> Server {
    let waits = matches!(way, Behaviour::Hang | Behaviour::Drip);
    Server {
        timeouts: TimeOuts::all(if waits { SHORT_TIMEOUT } else { 4 * LIMIT }),
        ..server_at(server)
    }
}

async fn a_transaction(step: Step, way: Behaviour, pipelining: bool) {
    let case = format!("{way:?} at {step:?}, pipelining: {pipelining}");
    let mut builder = FakeSmtp::builder();
    if !pipelining {
        builder = builder.without("PIPELINING");
    }

    let server = builder.start().await;
    let mut connection = Smtp::new(settings(&server, way))
        .unwrap()
        .connect()
        .await
        .unwrap();

    if step == Step::Rset {
        server.rule(Rule::at(Step::Rcpt).act(Act::reply(550, "5.1.1 no such user")));
        assert_eq!(
            is(&connection.send(&transaction(&["nobody@x.org"]), None).await[0]),
            Expected::Rejected(Phase::RcptTo)
        );
        server.behave();
    }

    server.rule(Rule::at(step).act(way.act()));
    let mut mail = transaction(&["ada@example.org"]);
    if step == Step::Body {
        // More than the sockets can hold, so that the final dot cannot have left.
        mail.message = Bytes::from(b"0123456789abcdef0123456789abcd\r\n".repeat(300_000));
    }

    let begun = Instant::now();
    let outcomes = connection.send(&mail, None).await;
    assert!(begun.elapsed() < LIMIT, "{case}: {:?}", begun.elapsed());

    let (disposition, goes_on) = expected(step, way, pipelining);
    assert_eq!(is(&outcomes[0]), disposition, "{case}: {outcomes:?}");
    assert_eq!(connection.is_usable(), goes_on, "{case}: {outcomes:?}");

    // Whatever is sent over it afterwards is never believed to be there when it is not.
    server.behave();
    let taken_before = server.accepted();

    let after = connection
        .send(&transaction(&["bob@example.org"]), None)
        .await;
    match is(&after[0]) {
        Expected::Delivered => assert_eq!(server.accepted(), taken_before + 1, "{case}"),
        Expected::Unavailable(Phase::MailFrom) => assert!(!connection.is_usable(), "{case}"),
        other => panic!("{case}, and then {other:?}: {after:?}"),
    }

    if way == Behaviour::Extra {
        assert_eq!(
            is(&after[0]),
            Expected::Unavailable(Phase::MailFrom),
            "{case}"
        );
    }
    let begun = Instant::now();

    connection.close().await;
    assert!(begun.elapsed() < LIMIT, "{case}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mischief_at_every_step_of_a_transaction_ends_as_designed() {
    let mut cases = Vec::new();
    for step in [
        Step::Mail,
        Step::Rcpt,
        Step::Data,
        Step::Body,
        Step::FinalDot,
        Step::Rset,
    ] {
        for way in BEHAVIOURS {
            for pipelining in [true, false] {
                cases.push(a_transaction(step, way, pipelining));
            }
        }
    }

    assert_eq!(cases.len(), 168);
    all(cases).await;
}

/// Two mails, the second begun behind the first: the mischief must not turn into a false verdict on
/// the second.
async fn two_transactions(way: Behaviour) {
    let server = FakeSmtp::start().await;
    let mut connection = Smtp::new(settings(&server, way))
        .unwrap()
        .connect()
        .await
        .unwrap();

    server.rule(Rule::at(Step::FinalDot).first(1).act(way.act()));
    let (first, second) = (
        transaction(&["ada@example.org"]),
        transaction(&["bob@example.org"]),
    );

    let outcome = is(&connection.send(&first, Some(&second)).await[0]);
    // What was written ahead is answered ahead: one line too many is its answer then, and shows at
    // DATA.
    assert_eq!(outcome, expected(Step::FinalDot, way, true).0, "{way:?}");

    let then = is(&connection.send(&second, None).await[0]);
    let allowed = match way {
        Behaviour::Says4yz | Behaviour::Says5yz | Behaviour::BareLineFeed => {
            then == Expected::Delivered
        }
        Behaviour::Extra => then == Expected::Deferred(Phase::Data),
        _ => then == Expected::Unavailable(Phase::MailFrom),
    };

    assert!(allowed, "{way:?}, and then {then:?}");
    let delivered = [outcome, then]
        .iter()
        .filter(|is| **is == Expected::Delivered)
        .count();

    // What the script answers with bytes of its own is not counted by the server.
    let uncounted = usize::from(way == Behaviour::BareLineFeed);
    assert_eq!(delivered, server.accepted() + uncounted, "{way:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_was_begun_behind_a_mischief_gets_no_false_verdict() {
    all(BEHAVIOURS.map(two_transactions).into()).await;
}

async fn a_connect(step: Step, way: Behaviour) {
    let case = format!("{way:?} at {step:?}");
    let phase = match step {
        Step::Greeting => Phase::Greeting,
        // `250 ok` is an answer, which offers no login.
        Step::Ehlo if way == Behaviour::BareLineFeed => Phase::Auth,
        Step::Ehlo => Phase::Ehlo,
        Step::StartTls | Step::Handshake => Phase::Tls,
        Step::Auth => Phase::Auth,
        other => panic!("{other:?} is no step of a connect"),
    };

    let mut builder = FakeSmtp::builder()
        .login("shop", "s3cret")
        .at(step, way.act());

    let secured = matches!(step, Step::StartTls | Step::Handshake);
    if secured {
        builder = builder.starttls(Cert::Good);
    }

    let server = builder.start().await;
    let mut settings = settings(&server, way);
    settings.security = if secured {
        Security::StartTls
    } else {
        Security::Plain
    };

    settings.auth = Some(Auth::Password {
        user: "shop".into(),
        password: "s3cret".to_owned().into(),
    });

    let begun = Instant::now();
    let refused = Smtp::new(settings)
        .unwrap()
        .connect()
        .await
        .map(drop)
        .unwrap_err();

    assert!(begun.elapsed() < LIMIT, "{case}: {:?}", begun.elapsed());
    assert_eq!(
        is(&refused),
        Expected::Unavailable(phase),
        "{case}: {refused:?}"
    );
    assert!(!format!("{refused:?}").contains("s3cret"));
    assert!(
        server
            .commands()
            .iter()
            .all(|line| !line.starts_with("MAIL")),
        "{case}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mischief_before_a_mail_is_in_question_is_the_relays_fault() {
    let mut cases = Vec::new();
    for step in [Step::Greeting, Step::Ehlo, Step::StartTls, Step::Auth] {
        for way in BEHAVIOURS {
            // 250 is a greeting as well as 220: the first digit counts (RFC 5321 §4.2.1).
            if (step, way) == (Step::Greeting, Behaviour::BareLineFeed) {
                continue;
            }
            cases.push(a_connect(step, way));
        }
    }

    for way in [Behaviour::Cut, Behaviour::Hang] {
        cases.push(a_connect(Step::Handshake, way));
    }
    all(cases).await;
}

#[tokio::test]
async fn a_reply_without_end_is_not_read_to_its_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();

    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let flooding = tokio::spawn(async move {
        for reply in [&b"250 "[..], b"250-x\r\n"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"220 hello\r\n").await.unwrap();
            let _ = stream.read(&mut [0; 512]).await;
            let flood = if reply.ends_with(b"\n") {
                reply.repeat(10_000)
            } else {
                vec![b'x'; 64 * 1024]
            };
            let _ = stream.write_all(reply).await;
            while stream.write_all(&flood).await.is_ok() {
                counter.fetch_add(flood.len(), Ordering::SeqCst);
            }
        }
    });

    for expected in ["line without end", "too many lines"] {
        let begun = Instant::now();
        match Smtp::new(server_on(address))
            .unwrap()
            .connect()
            .await
            .map(drop)
            .unwrap_err()
        {
            Outcome::Unavailable(Phase::Ehlo, reason) => {
                assert!(reason.contains(expected), "{reason}")
            }
            other => panic!("{other:?}"),
        }
        // Long before any time-out, which is ten seconds here.
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{:?}",
            begun.elapsed()
        );
    }

    flooding.await.unwrap();
    // What the sockets hold, and not more.
    assert!(
        sent.load(Ordering::SeqCst) < 32 << 20,
        "{} bytes were taken",
        sent.load(Ordering::SeqCst)
    );
}

#[tokio::test]
async fn a_server_that_refuses_the_sender_and_hangs_up_has_still_refused_him() {
    let farewell = b"550 5.7.1 you are blocked\r\n421 4.7.0 go away\r\n".to_vec();
    let server = FakeSmtp::builder()
        .at(Step::Mail, Act::Raw(farewell))
        .start()
        .await;

    let mut connection = open(&server).await;
    let outcomes = connection
        .send(&transaction(&["ada@example.org", "bob@example.org"]), None)
        .await;
    assert_eq!(
        outcomes.iter().map(is).collect::<Vec<_>>(),
        [Expected::Rejected(Phase::MailFrom); 2]
    );

    assert!(!connection.is_usable());
}

#[tokio::test]
async fn a_recipient_who_was_refused_stays_refused_when_the_connection_breaks() {
    for (step, ada, bob) in [
        // It broke over bob, and ada is a bystander.
        (
            Step::Rcpt,
            Expected::Lost(Phase::MailFrom),
            Expected::Lost(Phase::RcptTo),
        ),
        (
            Step::Data,
            Expected::Lost(Phase::Data),
            Expected::Lost(Phase::Data),
        ),
        (Step::FinalDot, Expected::InDoubt, Expected::InDoubt),
    ] {
        let refusal = Rule::at(Step::Rcpt)
            .to("nobody@")
            .act(Act::reply(550, "5.1.1 no such user"));
        let cut = if step == Step::Rcpt {
            Rule::at(step).to("bob@")
        } else {
            Rule::at(step)
        };
        let server = FakeSmtp::builder()
            .rule(refusal)
            .rule(cut.act(Act::Cut))
            .start()
            .await;
        let mut connection = open(&server).await;
        let mail = transaction(&["ada@example.org", "nobody@example.org", "bob@example.org"]);
        let outcomes = connection.send(&mail, None).await;
        assert_eq!(
            outcomes.iter().map(is).collect::<Vec<_>>(),
            [ada, Expected::Rejected(Phase::RcptTo), bob]
        );
    }
}

#[tokio::test]
async fn refusals_that_are_out_of_step_are_nobodys() {
    // One reply too many after MAIL: each recipient would get the verdict on the one before him.
    let server = FakeSmtp::builder()
        .rule(Rule::at(Step::Mail).act(Act::extra("250 2.0.0 and another one")))
        .rule(
            Rule::at(Step::Rcpt)
                .to("nobody@")
                .act(Act::reply(550, "5.1.1 no such user")),
        )
        .start()
        .await;
    let mut connection = open(&server).await;

    let mail: Transaction =
        transaction(&["nobody@example.org", "ada@example.org", "bob@example.org"]);
    let outcomes = connection.send(&mail, None).await;
    assert_eq!(
        outcomes.iter().map(is).collect::<Vec<_>>(),
        [Expected::Deferred(Phase::Data); 3]
    );

    assert!(!connection.is_usable() && server.transactions().is_empty());
}

#[tokio::test]
async fn the_first_digit_decides_what_the_final_dot_was_answered_with() {
    for (code, expected) in [
        (200, Expected::Delivered),
        (235, Expected::Delivered),
        (251, Expected::Delivered),
        (252, Expected::Delivered),
        (354, Expected::InDoubt),
    ] {
        let server = FakeSmtp::builder()
            .at(Step::FinalDot, Act::reply(code, "so to say"))
            .start()
            .await;
        let mut connection = open(&server).await;
        let outcomes = connection
            .send(&transaction(&["ada@example.org"]), None)
            .await;
        assert_eq!(is(&outcomes[0]), expected, "{code}");
        assert_eq!(
            connection.is_usable(),
            expected == Expected::Delivered,
            "{code}"
        );
    }
}

#[tokio::test]
async fn the_first_digit_decides_what_a_greeting_and_an_ehlo_are_answered_with() {
    for (step, code) in [(Step::Greeting, 200), (Step::Ehlo, 200), (Step::Ehlo, 251)] {
        let server = FakeSmtp::builder()
            .at(step, Act::reply(code, "welcome"))
            .start()
            .await;
        let mut connection = open(&server).await;
        let outcomes = connection
            .send(&transaction(&["ada@example.org"]), None)
            .await;
        assert_eq!(is(&outcomes[0]), Expected::Delivered, "{code} at {step:?}");
    }
}

#[tokio::test]
async fn a_stray_refusal_is_not_the_verdict_on_the_mail_that_was_begun() {
    let server = FakeSmtp::builder()
        .at(Step::FinalDot, Act::extra("550 5.0.0 stray"))
        .start()
        .await;
    let mut connection = open(&server).await;
    let (first, second) = (
        transaction(&["ada@example.org"]),
        transaction(&["bob@example.org"]),
    );

    assert_eq!(
        is(&connection.send(&first, Some(&second)).await[0]),
        Expected::Delivered
    );

    let then = connection.send(&second, None).await;
    assert_eq!(is(&then[0]), Expected::Deferred(Phase::RcptTo), "{then:?}");
    assert!(!connection.is_usable());
}

/// Takes one connection up to its first 354, reads nothing for a while, and then says whether the
/// message and its final dot had come, and how many bytes there were.
async fn a_server_that_stops_reading(
    listener: TcpListener,
    answered: oneshot::Receiver<()>,
) -> (bool, usize) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut heard = Vec::new();
    for (replies, until) in [
        ("220 hello\r\n", "EHLO"),
        ("250-me\r\n250 PIPELINING\r\n", "DATA\r\n"),
    ] {
        stream.write_all(replies.as_bytes()).await.unwrap();
        while !String::from_utf8_lossy(&heard).contains(until) {
            assert!(stream.read_buf(&mut heard).await.unwrap() > 0);
        }
    }

    stream
        .write_all(b"250 ok\r\n250 ok\r\n354 go on\r\n")
        .await
        .unwrap();
    answered.await.unwrap();

    let mut message = Vec::new();
    let _ = stream.read_to_end(&mut message).await;
    (
        memchr::memmem::find(&message, b"\r\n.\r\n").is_some(),
        message.len(),
    )
}

/// How a message of this size ends there, with a next mail behind it.
async fn stalled(size: usize) -> (Expected, bool, usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = server_on(listener.local_addr().unwrap());
    settings.timeouts.body = SHORT_TIMEOUT;
    settings.timeouts.final_dot = SHORT_TIMEOUT;

    let (answer, answered) = oneshot::channel();
    let serving = tokio::spawn(a_server_that_stops_reading(listener, answered));
    let mut connection = Smtp::new(settings).unwrap().connect().await.unwrap();

    let mut mail = transaction(&["ada@example.org"]);
    mail.message = Bytes::from(vec![b'x'; size]);
    let addresses: Vec<String> = (0..60)
        .map(|n| format!("{n}@{}.example", ["a"; 120].join(".")))
        .collect();
    let next = transaction(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
    let outcome = is(&connection.send(&mail, Some(&next)).await[0]);

    assert!(!connection.is_usable());
    drop(connection);
    answer.send(()).unwrap();

    let (dot_came, bytes) = serving.await.unwrap();
    (outcome, dot_came, bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_may_have_come_whole_is_in_doubt_and_one_that_cannot_is_not() {
    let (outcome, dot_came, capacity) = stalled(20 << 20).await;
    assert_eq!((outcome, dot_came), (Expected::Lost(Phase::Body), false));
    assert_eq!(stalled(1000).await.0, Expected::InDoubt);

    // Around what the sockets hold, the connection stalls before the dot, or behind it among the
    // next mail's commands.
    let cases = (0..12).map(|step| stalled(capacity - step * 5000));
    for (outcome, dot_came, _) in futures::future::join_all(cases).await {
        match outcome {
            Expected::InDoubt => {}
            Expected::Lost(Phase::Body) => {
                assert!(!dot_came, "it was called lost, and it is there")
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_drops_what_is_written_ahead_costs_one_time_out_once() {
    let server = FakeSmtp::builder().drops_what_is_ahead().start().await;
    let mut settings = server_at(&server);
    settings.timeouts.command = SHORT_TIMEOUT;
    let transport = Smtp::new(settings).unwrap();
    let mails = [(); 6].map(|()| transaction(&["ada@example.org", "bob@example.org"]));
    let mut begun = Instant::now();
    let mut time_outs = 0;
    let mut connection = transport.connect().await.unwrap();
    let mut another = transport.connect().await.unwrap();

    for (index, mail) in mails.iter().enumerate() {
        let mut outcomes = connection.send(mail, mails.get(index + 1)).await;
        if let Expected::Unavailable(phase) = is(&outcomes[0]) {
            assert_eq!(phase, Phase::MailFrom);
            assert!(begun.elapsed() >= SHORT_TIMEOUT && !connection.is_usable());
            time_outs += 1;
            begun = Instant::now();
            connection = transport.connect().await.unwrap();
            outcomes = connection.send(mail, mails.get(index + 1)).await;
        }
        assert_eq!(
            is(&outcomes[0]),
            Expected::Delivered,
            "{index}: {outcomes:?}"
        );
    }

    // Those that were open before know it as well.
    for (index, mail) in mails.iter().enumerate() {
        let outcomes = another.send(mail, mails.get(index + 1)).await;
        assert_eq!(
            is(&outcomes[0]),
            Expected::Delivered,
            "{index}: {outcomes:?}"
        );
    }

    assert_eq!((time_outs, server.accepted()), (1, 12));
    assert!(server.mails()[1..].iter().all(|mail| !mail.pipelined));
}

#[tokio::test]
async fn a_reply_of_many_lines_is_read_to_its_end() {
    let lines = |code: u16, last: &str| {
        let line = format!("{code}-2.0.0 {}\r\n", "welcome ".repeat(100));
        format!("{}{code} {last}\r\n", line.repeat(900)).into_bytes()
    };

    let server = FakeSmtp::builder()
        .at(Step::Greeting, Act::Raw(lines(220, "2.0.0 hello")))
        .at(Step::Ehlo, Act::Raw(lines(250, "SIZE 1")))
        .start()
        .await;
    let mut connection = open(&server).await;
    let refused = connection.send(&transaction(&["ada@x.org"]), None).await;
    assert_eq!(
        is(&refused[0]),
        Expected::Rejected(Phase::Local),
        "{refused:?}"
    );

    let server = FakeSmtp::builder()
        .at(Step::FinalDot, Act::Raw(lines(550, "5.7.1 never")))
        .start()
        .await;

    let mut connection = open(&server).await;
    let refused = connection.send(&transaction(&["ada@x.org"]), None).await;
    assert_eq!(is(&refused[0]), Expected::Rejected(Phase::FinalDot));
    assert!(connection.is_usable());
}

#[tokio::test]
async fn a_line_that_is_too_long_is_a_reply_all_the_same() {
    let long = |start: &str, length| format!("{start} {}\r\n", "x".repeat(length)).into_bytes();
    let many = |code: u16| {
        let line = format!("{code}-{}\r\n", "ü".repeat(3_000));
        format!("{}{code} 2.0.0 done\r\n", line.repeat(20)).into_bytes()
    };

    for (answer, expected) in [
        (long("250 2.0.0", 1_100), Expected::Delivered),
        (long("250 2.0.0", 100_000), Expected::Delivered),
        (many(250), Expected::Delivered),
        (b"250\t2.0.0 ok\r\n".to_vec(), Expected::Delivered),
        (
            long("550 5.7.1", 5_000),
            Expected::Rejected(Phase::FinalDot),
        ),
        (
            long("451 4.7.1", 100_000),
            Expected::Deferred(Phase::FinalDot),
        ),
    ] {
        let server = FakeSmtp::builder()
            .at(Step::Greeting, Act::Raw(long("220", 50_000)))
            .at(Step::Ehlo, Act::Raw(many(250)))
            .at(Step::Mail, Act::Raw(long("250 2.1.0", 3_999)))
            .at(Step::FinalDot, Act::Raw(answer))
            .start()
            .await;
        let mut connection = open(&server).await;
        let outcomes = connection.send(&transaction(&["ada@x.org"]), None).await;
        assert_eq!(is(&outcomes[0]), expected, "{:.200?}", outcomes[0]);
        assert!(connection.is_usable());
    }
}

#[tokio::test]
async fn lines_of_one_reply_need_not_have_the_same_code() {
    for (answer, expected) in [
        ("250-2.0.0 yes\r\n251 ok\r\n", Expected::Delivered),
        (
            "550-5.7.1 no\r\n554 never\r\n",
            Expected::Rejected(Phase::FinalDot),
        ),
        // Nothing final was said for certain.
        (
            "450-4.7.1 no\r\n550 never\r\n",
            Expected::Deferred(Phase::FinalDot),
        ),
        (
            "550-5.7.1 no\r\n450 later\r\n",
            Expected::Deferred(Phase::FinalDot),
        ),
        ("250-yes\r\n550 no\r\n", Expected::InDoubt),
        ("550-no\r\n250 yes\r\n", Expected::InDoubt),
    ] {
        let server = FakeSmtp::builder()
            .at(Step::FinalDot, Act::Raw(answer.into()))
            .start()
            .await;
        let mut connection = open(&server).await;
        let outcomes = connection.send(&transaction(&["ada@x.org"]), None).await;
        assert_eq!(is(&outcomes[0]), expected, "{answer:?}");
    }
}

#[tokio::test]
async fn a_line_that_never_ends_is_not_taken_for_silence() {
    for end in ["\r", "", "\u{85}"] {
        let said = |line: &str| Act::Raw(format!("{line}{end}").into_bytes());
        let server = FakeSmtp::builder()
            .at(Step::Greeting, said("220 mail.example.org ready"))
            .start()
            .await;
        let mut settings = server_at(&server);
        settings.timeouts = TimeOuts::all(SHORT_TIMEOUT);
        let transport = Smtp::new(settings).unwrap();
        let Some(Outcome::Unavailable(Phase::Greeting, reason)) = transport.connect().await.err()
        else {
            panic!("it must fail at the greeting")
        };
        assert!(
            reason.contains("a line that it did not end")
                && reason.contains("220 mail.example.org ready"),
            "{reason}"
        );
        assert!(!reason.contains("smtps://"), "no TLS was begun: {reason}");

        let server = FakeSmtp::builder()
            .at(Step::FinalDot, said("250 2.0.0 queued"))
            .start()
            .await;
        let mut settings = server_at(&server);
        settings.timeouts = TimeOuts::all(SHORT_TIMEOUT);
        let mut connection = Smtp::new(settings).unwrap().connect().await.unwrap();
        let outcomes = connection.send(&transaction(&["ada@x.org"]), None).await;
        let Outcome::InDoubt(reason) = &outcomes[0] else {
            panic!("it was not answered: {outcomes:?}")
        };
        assert!(reason.contains("did not end"), "{reason}");
    }

    // Nothing at all may be a server that waits for TLS.
    let server = FakeSmtp::builder()
        .at(Step::Greeting, Act::Hang)
        .start()
        .await;
    let mut settings = server_at(&server);
    settings.timeouts = TimeOuts::all(SHORT_TIMEOUT);
    let failed = Smtp::new(settings).unwrap().connect().await.err();
    assert!(format!("{failed:?}").contains("smtps://"), "{failed:?}");
}
