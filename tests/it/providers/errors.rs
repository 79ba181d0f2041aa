//! Every answer that says no, and every way not to be answered, with what each comes to.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use postrider::transport::TimeOuts;
use tokio::task::JoinSet;

use super::*;
use crate::common::test_spool::is_postgres;

/// What comes of a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disposition {
    /// Nobody will ever take it.
    Dead,
    /// This relay does not take anybody's, and the route's next one did.
    Backup,
    /// Nobody knows whether it was taken: it is sent again, or dead if it may go once at most.
    InDoubt,
    /// It was certainly not taken, and is sent again.
    Again,
}

struct ErrorCase {
    url: &'static str,
    act: Act,
    end: Disposition,
}

fn case(url: &'static str, status: u16, body: Value, end: Disposition) -> ErrorCase {
    ErrorCase {
        url,
        act: answer(status, body),
        end,
    }
}

/// What each provider says when it does not take a mail.
fn refusals() -> Vec<ErrorCase> {
    use Disposition::{Again, Backup, Dead, InDoubt};

    let mut cases = Vec::new();
    let mut ses = |status: u16, name: &'static str, text: &str, end| {
        let body = json!({"message": text});
        cases.push(case(
            SES,
            status,
            json!({"__type": name, "message": text}),
            end,
        ));
        // The name may stand in the header alone.
        let headers: &'static [(&str, &str)] = vec![("x-amzn-errortype", name)].leak();
        cases.push(ErrorCase {
            url: SES,
            act: Act::Answer(status, headers, body.to_string()),
            end,
        });
    };

    ses(400, "MessageRejected", "the message contains a virus", Dead);
    ses(400, "BadRequestException", "Missing final '@domain'", Dead);
    ses(400, "AccountSuspendedException", "suspended", Backup);
    ses(400, "SendingPausedException", "paused", Backup);

    ses(
        400,
        "MailFromDomainNotVerifiedException",
        "not verified",
        Backup,
    );

    ses(
        400,
        "MessageRejected",
        "Email address is not verified. The following identities failed the check in region \
         EU-WEST-1",
        Backup,
    );

    ses(403, "InvalidSignatureException", "does not match", Backup);
    ses(
        403,
        "UnrecognizedClientException",
        "the token is invalid",
        Backup,
    );

    ses(500, "InternalFailure", "oops", InDoubt);
    ses(503, "ServiceUnavailable", "later", InDoubt);

    let mailgun =
        |status, message: &str, end| case(MAILGUN, status, json!({"message": message}), end);
    cases.extend([
        mailgun(404, "Domain not found: mg.example.com", Backup),
        ErrorCase {
            url: MAILGUN,
            act: Act::Answer(200, &[], "Mailgun Magnificent API".into()),
            end: Backup,
        },
        mailgun(401, "Invalid private key", Backup),
        mailgun(
            400,
            "to parameter is not a valid address. please check documentation",
            Dead,
        ),
        mailgun(
            400,
            "Domain mg.example.com is not allowed to send: The domain is unverified",
            Backup,
        ),
        mailgun(413, "too large", Dead),
        mailgun(500, "", InDoubt),
        mailgun(502, "", InDoubt),
    ]);

    let graph = |status, code: &str, end| {
        let body = json!({"error": {"code": code, "message": "so it is"}});
        case(GRAPH, status, body, end)
    };

    cases.extend([
        graph(401, "InvalidAuthenticationToken", Backup),
        graph(403, "ErrorAccessDenied", Backup),
        graph(404, "ErrorInvalidUser", Backup),
        graph(403, "ErrorSendAsDenied", Dead),
        graph(400, "ErrorInvalidRecipients", Dead),
        graph(413, "ErrorMessageSizeExceeded", Dead),
        graph(429, "ErrorExceededMessageLimit", Backup),
        graph(403, "ErrorMessageSubmissionBlocked", Backup),
        graph(500, "InternalServerError", InDoubt),
        graph(504, "GatewayTimeout", InDoubt),
    ]);

    let gmail = |status, reason: &str, end| {
        let body = json!({"error": {"message": "so it is", "errors": [{"reason": reason}]}});
        case(GMAIL, status, body, end)
    };

    cases.extend([
        gmail(401, "authError", Backup),
        gmail(403, "insufficientPermissions", Backup),
        gmail(403, "dailyLimitExceeded", Backup),
        gmail(400, "invalidArgument", Dead),
        gmail(500, "backendError", InDoubt),
    ]);

    let brevo = |status, code: &str, end| {
        case(
            BREVO,
            status,
            json!({"code": code, "message": "so it is"}),
            end,
        )
    };

    for code in [
        "unauthorized",
        "not_enough_credits",
        "permission_denied",
        "account_under_validation",
    ] {
        cases.extend([400, 401, 402, 403].map(|status| brevo(status, code, Backup)));
    }

    cases.extend([
        brevo(400, "invalid_parameter", Dead),
        brevo(400, "missing_parameter", Dead),
        brevo(500, "internal", InDoubt),
        // It failed, whatever else it says; and it says nothing in SMTP, where 503 is our doing.
        brevo(503, "invalid_parameter", InDoubt),
        brevo(500, "missing_parameter", InDoubt),
    ]);

    let sendgrid = |status, message: &str, end| {
        case(
            SENDGRID,
            status,
            json!({"errors": [{"message": message}]}),
            end,
        )
    };

    cases.extend([
        sendgrid(401, "Maximum credits exceeded", Backup),
        sendgrid(401, "authorization required", Backup),
        sendgrid(
            403,
            "The from address does not match a verified Sender Identity",
            Backup,
        ),
        sendgrid(406, "Not Acceptable", Backup),
        sendgrid(400, "Does not contain a valid address.", Dead),
        sendgrid(413, "too large", Dead),
        sendgrid(500, "", InDoubt),
        sendgrid(503, "", InDoubt),
    ]);

    let postmark = |status, code: i64, text: &str, end| {
        case(
            POSTMARK,
            status,
            json!({"ErrorCode": code, "Message": text}),
            end,
        )
    };

    cases.extend([
        postmark(401, 10, "Bad or missing API token.", Backup),
        postmark(
            422,
            400,
            "The 'From' address you supplied is not a Sender Signature",
            Backup,
        ),
        postmark(422, 401, "Sender signature not confirmed", Backup),
        postmark(422, 405, "Not allowed to send", Backup),
        postmark(422, 412, "Account is Pending", Backup),
        postmark(422, 413, "Account may not send", Backup),
        postmark(422, 300, "Invalid email request", Dead),
        postmark(422, 406, "Inactive recipient", Dead),
        postmark(500, 0, "Internal Server Error", InDoubt),
        ErrorCase {
            url: POSTMARK,
            act: Act::Answer(403, &[], "<html>a firewall".into()),
            end: Backup,
        },
    ]);

    let resend =
        |status, name: &str, end| case(RESEND, status, json!({"name": name, "message": "so"}), end);
    cases.extend([
        resend(409, "invalid_idempotent_request", InDoubt),
        resend(429, "daily_quota_exceeded", Backup),
        resend(429, "monthly_quota_exceeded", Backup),
        resend(403, "invalid_api_key", Backup),
        resend(401, "missing_api_key", Backup),
        resend(401, "restricted_api_key", Backup),
        resend(403, "validation_error", Backup),
        resend(422, "validation_error", Dead),
    ]);

    // The server waited for the request in vain (RFC 9110 §15.5.9).
    cases.extend(ALL.map(|url| case(url, 408, json!({}), Again)));
    cases
}

/// Tries a case with a mail that may be sent twice, and with one that may not.
async fn holds(case: ErrorCase) {
    for guarantee in [Guarantee::AtLeastOnce, Guarantee::AtMostOnce] {
        let name = format!("{} {:?} {guarantee:?}", case.url, case.act);
        let mail = mail().guarantee(guarantee).build().unwrap();
        let (word, status, asked) = comes_to(case.url, case.act.clone(), mail).await;
        let expected = match (case.end, guarantee) {
            (Disposition::Dead, _) => "dead",
            (Disposition::Backup, _) => "backup",
            (Disposition::InDoubt, Guarantee::AtMostOnce) => "dead",
            (Disposition::InDoubt | Disposition::Again, _) => "deferred",
        };
        assert_eq!(word, expected, "{name}: {status:#?}");
        let reason = status.deliveries[0].reason.map(|reason| reason.as_str());
        match (case.end, expected) {
            (Disposition::Dead, _) => assert_eq!(reason, Some("rejected"), "{name}"),
            (Disposition::InDoubt, "dead") => assert_eq!(reason, Some("in_doubt"), "{name}"),
            _ => {}
        }
        // Where repetitions are told apart, a doubt is cleared by asking again.
        let repeats = case.end == Disposition::InDoubt && guarantee == Guarantee::AtMostOnce;
        let knows = [BREVO, RESEND].contains(&case.url) && !name.contains("idempotent");
        if repeats && !knows {
            assert_eq!(asked.len(), 1, "{name}");
        }
    }
}

/// Runs all of these, and each by itself: a few at once where a server of PostgreSQL has to make
/// tables for each.
async fn side_by_side(all: Vec<BoxFuture<'static, ()>>) {
    let at_once = if is_postgres() { 6 } else { all.len() };
    let mut running = JoinSet::new();
    for one in all {
        if running.len() >= at_once {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(one);
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
}

async fn all_hold(cases: Vec<ErrorCase>) {
    side_by_side(cases.into_iter().map(|case| holds(case).boxed()).collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_comes_to_what_it_means() {
    all_hold(refusals()).await;
}

/// A relay that is not waited for: a request may take this long to be sent, and as long to be
/// answered. A connection on this machine is there at once, unless the machine is busy.
fn hasty(url: &str, server: &Provider) -> Relay {
    let timeouts = TimeOuts {
        connect: Duration::from_secs(2),
        tls: Duration::ZERO,
        ..TimeOuts::all(Duration::from_millis(600))
    };
    relay(url, server).timeouts(timeouts)
}

/// What a mail comes to at this relay, and how often the provider heard of it.
async fn sent(relay: Relay, server: &Provider, mail: Mail) -> (MailStatus, usize, usize) {
    let backup = Capture::new(None);
    let engine = engine(relay, &backup).await;
    let status = settled(&engine, mail).await;
    (status, server.asked().len(), backup.captured().len())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_request_breaks_off_says_whether_it_may_have_arrived() {
    // A few at a time: their time-outs are short, and must not be those of a machine that is too
    // busy.
    for few in ALL.chunks(3) {
        let mut all = Vec::new();
        for url in few {
            all.push(nothing_was_sent(url).boxed());
            all.push(part_was_sent(url).boxed());
            for act in [Act::HangUpLate, Act::Mute, Act::HangUpAnswering] {
                all.push(all_was_sent(url, act).boxed());
            }
        }
        side_by_side(all).await;
    }
}

async fn nothing_was_sent(url: &'static str) {
    let server = Provider::new(vec![Act::Take]).await;
    // Its port is taken, and nobody listens there.
    let silent = tokio::net::TcpSocket::new_v4().unwrap();
    silent.bind("127.0.0.1:0".parse().unwrap()).unwrap();

    let address = format!("http://{}", silent.local_addr().unwrap());
    let once = mail().guarantee(Guarantee::AtMostOnce).build().unwrap();

    let relay = hasty(url, &server).endpoint(address);
    let (status, _, backup) = sent(relay, &server, once).await;
    assert_eq!(
        (status.state.as_str(), backup),
        ("delivered", 1),
        "{url}: {status:#?}"
    );

    assert_eq!(status.deliveries[0].attempts_counted, 0, "{url}");
}

/// Nobody takes the connection in time: nothing was sent either.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_does_not_come_about_leaves_no_doubt() {
    // One that nobody takes fills the place of those that wait to be taken.
    let full = tokio::net::TcpSocket::new_v4().unwrap();
    full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = full.listen(0).unwrap();
    let address = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    loop {
        let connecting = tokio::net::TcpStream::connect(address);
        match tokio::time::timeout(Duration::from_millis(300), connecting).await {
            Ok(connected) => waiting.push(connected.unwrap()),
            Err(_) => break,
        }
    }

    for url in ALL {
        let server = Provider::new(vec![Act::Take]).await;
        let timeouts = TimeOuts::all(Duration::from_millis(300));
        let relay = relay(url, &server).timeouts(timeouts);
        let relay = relay.endpoint(format!("http://{address}"));
        let once = mail().guarantee(Guarantee::AtMostOnce).build().unwrap();
        let (status, _, backup) = sent(relay, &server, once).await;
        let name = format!("{url}: {status:#?}");
        assert_eq!((status.state.as_str(), backup), ("delivered", 1), "{name}");
        assert_eq!(status.deliveries[0].attempts_counted, 0, "{name}");
    }
}

/// Whatever an earlier request's repetition meets, that request may have been taken.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_repetition_meets_takes_no_doubt_away() {
    let later: &[Act] = &[
        answer(
            401,
            json!({"code": "unauthorized", "name": "missing_api_key"}),
        ),
        Act::Answer(
            429,
            &[("retry-after", "3600"), ("x-sib-ratelimit-reset", "3600")],
            "{}".into(),
        ),
        answer(400, json!({"code": "invalid_parameter", "message": "no"})),
        answer(409, json!({"name": "concurrent_idempotent_requests"})),
        answer(408, json!({})),
        Act::Leave,
    ];

    let mut all = Vec::new();
    for url in [BREVO, RESEND] {
        for first in [Act::HangUpLate, answer(503, json!({}))] {
            for second in later {
                let script = vec![first.clone(), second.clone()];
                all.push(stays_in_doubt(url, script).boxed());
            }
            // Nobody listens any more when it is to be repeated.
            let script = match first {
                Act::HangUpLate => vec![Act::Leave],
                answered => vec![answered, Act::Leave],
            };
            all.push(stays_in_doubt(url, script).boxed());
        }
    }
    side_by_side(all).await;
}

async fn stays_in_doubt(url: &'static str, script: Vec<Act>) {
    for guarantee in [Guarantee::AtLeastOnce, Guarantee::AtMostOnce] {
        let server = Provider::new(script.clone()).await;
        let mail = mail().guarantee(guarantee).build().unwrap();
        let (status, asked, backup) = sent(relay(url, &server), &server, mail).await;
        let name = format!("{url} {script:?} {guarantee:?}: {status:#?}");
        assert!(asked >= 1, "{name}");
        assert_eq!(backup, 0, "{name}");

        let delivery = &status.deliveries[0];
        let ends = guarantee == Guarantee::AtMostOnce && url == BREVO;
        let expected = if ends { "dead" } else { "deferred" };
        assert_eq!(delivery.state.as_str(), expected, "{name}");
        let reason = delivery.reason.map(|why| why.as_str());
        assert_eq!(reason, ends.then_some("in_doubt"), "{name}");
        assert_eq!(delivery.attempts[0].phase.as_str(), "final_dot", "{name}");
    }
}

/// Resend knows a repetition for a day: until then it alone is asked, and then nobody.
#[tokio::test(flavor = "multi_thread")]
async fn what_goes_once_and_resend_may_have_goes_to_no_other_relay() {
    let refuse = answer(401, json!({"name": "missing_api_key"}));
    let server = Provider::new(vec![Act::HangUpLate, refuse]).await;
    let backup = Capture::new(None);
    let clock = postrider::Clock::fake();
    let engine = Dispatcher::builder()
        .relay(relay(RESEND, &server))
        .relay(Relay::capture(&backup).name("backup"))
        .clock(clock.clone())
        .spool_in_memory()
        .start()
        .await
        .unwrap();

    let once = mail().guarantee(Guarantee::AtMostOnce).build().unwrap();
    let status = settled(&engine, once).await;
    assert_eq!(
        status.deliveries[0].state.as_str(),
        "deferred",
        "{status:#?}"
    );

    let hours = async {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            clock.advance(Duration::from_secs(120));
        }
    };
    let ended = tokio::select! {
        ended = engine.wait(status.id) => ended.unwrap(),
        () = hours => unreachable!("time has no end"),
    };
    for delivery in &ended.deliveries {
        let reason = delivery.reason.map(|why| why.as_str());
        assert_eq!(reason, Some("in_doubt"), "{ended:#?}");
    }
    assert!(backup.captured().is_empty());

    let other = engine.submit(mail().build().unwrap()).await.unwrap();
    let other = crate::common::as_time_passes(&clock, engine.wait(other.id)).await;
    assert_eq!(
        other.unwrap().state.as_str(),
        "delivered",
        "the backup works"
    );
    assert_eq!(backup.captured().len(), 1);
}

/// SES cannot be told of one address; the others of the mail are.
#[tokio::test]
async fn a_recipient_that_ses_cannot_reach_takes_no_others_with_it() {
    let to = ["ada@example.org", "jürgen@example.org", "bob@example.org"];
    let to = to.iter().map(|to| to.parse().unwrap()).collect();
    let envelope = postrider::Envelope::new("shop@example.com".parse().ok(), to).unwrap();
    let message = b"From: shop@example.com\r\nSubject: x\r\n\r\nhi\r\n".to_vec();
    let mail = Mail::from_rfc5322(envelope, message).unwrap();

    let server = Provider::new(vec![Act::Take]).await;
    let engine = Dispatcher::builder()
        .relay(relay(SES, &server))
        .spool_in_memory()
        .start()
        .await
        .unwrap();
    let id = engine.submit(mail).await.unwrap().id;
    let status = engine.wait(id).await.unwrap();
    let states: Vec<&str> = status.deliveries.iter().map(|d| d.state.as_str()).collect();
    assert_eq!(states, ["delivered", "dead", "delivered"], "{status:#?}");
    let last = status.deliveries[1].attempts.last().unwrap();
    assert!(last.text.contains("SES takes no address"), "{last:#?}");

    let asked = server.asked();
    assert_eq!(asked.len(), 1);
    let told = &asked[0].json()["Destination"]["ToAddresses"];
    assert_eq!(*told, json!(["ada@example.org", "bob@example.org"]));
}

async fn part_was_sent(url: &'static str) {
    for act in [Act::HangUpEarly, Act::Deaf] {
        // Larger than what waits in the buffers between the two, or as large as Graph takes.
        let server = Provider::narrow(vec![act.clone()]).await;
        let size = if url == GRAPH { 2_700_000 } else { 6 << 20 };
        let large = "0123456789abcde\n".repeat(size / 16);
        let large = mail().text(large).guarantee(Guarantee::AtMostOnce);
        let (status, _, _) = sent(hasty(url, &server), &server, large.build().unwrap()).await;
        let delivery = &status.deliveries[0];
        let name = format!("{url} {act:?}: {status:#?}");
        assert_eq!(delivery.state.as_str(), "deferred", "{name}");
        assert_eq!(delivery.attempts[0].phase.as_str(), "body", "{name}");
        assert_eq!(delivery.attempts_counted, 0, "{name}");
    }
}

async fn all_was_sent(url: &'static str, act: Act) {
    for guarantee in [Guarantee::AtLeastOnce, Guarantee::AtMostOnce] {
        let server = Provider::new(vec![act.clone()]).await;
        let small = mail().guarantee(guarantee).build().unwrap();
        let (status, asked, backup) = sent(hasty(url, &server), &server, small).await;
        let name = format!("{url} {act:?} {guarantee:?}: {status:#?}");
        assert_eq!(backup, 0, "{name}");

        let delivery = &status.deliveries[0];
        let knows_repeats = [BREVO, RESEND].contains(&url);
        assert_eq!(asked, if knows_repeats { 3 } else { 1 }, "{name}");
        // At Resend it may be repeated a day long, so that no doubt is left.
        let ends = guarantee == Guarantee::AtMostOnce && url != RESEND;
        match ends {
            true => assert_eq!(
                (
                    delivery.state.as_str(),
                    delivery.reason.map(|why| why.as_str())
                ),
                ("dead", Some("in_doubt")),
                "{name}"
            ),
            false => assert_eq!(delivery.state.as_str(), "deferred", "{name}"),
        }
    }
}
