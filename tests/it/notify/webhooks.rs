//! Webhooks, as a receiver meets them and as the engine's public door shows them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use postrider::{
    Clock, Dispatcher, Drain, NoticeError, Notices, Redeliver, Webhook, WebhookState, hours,
    minutes, seconds,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::test_spool::is_postgres;
use crate::common::{
    Act, EventLog, FakeSmtp, Receiver, Response, Rule, ScriptedRelay, Step, TestSpool,
    as_time_passes, engine, eventually, mail, mail_to, relay_at, submit,
};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// A webhook to this receiver, of these events.
fn webhook(name: &str, receiver: &Receiver, events: &[&str]) -> Webhook {
    let mut webhook = Webhook::new(name, receiver.url(), SECRET.to_owned());
    webhook.filter.events = events.iter().map(|event| (*event).to_owned()).collect();
    webhook.allow_private = true;
    webhook.connections = 1;
    webhook
}

/// Notices with these webhooks.
async fn notices(postrider: &Dispatcher, webhooks: Vec<Webhook>) -> Notices {
    let notices = Notices::of(postrider);
    let count = webhooks.len();
    notices.set_webhooks(webhooks).await.unwrap();

    // From when they have their places, all that happens is told.
    eventually("every webhook is a reader", async || {
        let readers = postrider.journal().readers().await.unwrap();
        readers
            .iter()
            .filter(|reader| reader.name.starts_with("webhook:"))
            .count()
            == count
    })
    .await;

    notices
}

/// An engine over a relay that takes everything, in memory.
async fn started() -> (Dispatcher, Clock) {
    let clock = Clock::fake();
    let postrider = engine(ScriptedRelay::free().relay(), &clock)
        .start()
        .await
        .unwrap();
    (postrider, clock)
}

#[tokio::test]
async fn an_event_is_sent_with_all_that_a_receiver_asks_for() {
    let no = Rule::at(Step::Rcpt)
        .to("no@")
        .act(Act::reply(550, "5.1.1 no such user"));
    let server = FakeSmtp::builder().rule(no).start().await;
    let clock = Clock::fake();
    let postrider = engine(relay_at(&server), &clock).start().await.unwrap();
    let receiver = Receiver::start().await;
    let hook = webhook("shop", &receiver, &["accepted", "delivered", "dead"]);
    let _notices = notices(&postrider, vec![hook]).await;

    let mail = mail_to("no@example.org")
        .to("ada@example.org")
        .tag("shop")
        .idempotency_key("order-42");
    let id = submit(&postrider, mail.build().unwrap()).await;
    let calls = receiver.comes_to(3).await;
    let told = |kind: &str| {
        let found = calls.iter().find(|call| call.kind() == kind);
        found.unwrap_or_else(|| panic!("no {kind} in {calls:#?}"))
    };

    let dead = told("dead").json();
    let data = &dead["data"];
    assert_eq!(data["id"], id.to_string());
    assert_eq!(data["recipient"], "no@example.org");
    assert_eq!(data["state"], "dead");
    assert_eq!(data["reason"], "rejected");
    assert_eq!(data["code"], 550);
    assert_eq!(data["enhanced"], "5.1.1");
    assert_eq!(data["text"], "no such user");
    assert_eq!(data["relay"], "primary");
    assert_eq!(data["tags"], serde_json::json!(["shop"]));
    assert_eq!(data["key"], "order-42");
    assert!(dead["timestamp"].as_str().unwrap().ends_with('Z'));

    let delivered = &told("delivered").json()["data"];
    assert_eq!(
        (&delivered["recipient"], &delivered["code"]),
        (&"ada@example.org".into(), &250.into())
    );

    let accepted = &told("accepted").json()["data"];
    assert_eq!(
        (&accepted["state"], &accepted["code"]),
        (&"queued".into(), &serde_json::Value::Null)
    );

    let mut ids: Vec<&str> = calls.iter().map(|call| call.id()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3, "each has an id of its own");

    for call in &calls {
        assert!(call.line.starts_with("POST /hooks/mail "), "{}", call.line);
        assert_eq!(call.header("content-type"), "application/json");
        assert!(call.header("webhook-signature").starts_with("v1,"));
        let at: i64 = call.header("webhook-timestamp").parse().unwrap();
        assert_eq!(at, clock.now().as_millis() / 1000);
        assert!(call.body.len() < 20_000);
    }
}

#[tokio::test]
async fn only_events_that_are_asked_for_are_sent_by_kind_and_by_tag() {
    let (postrider, _clock) = started().await;
    let receiver = Receiver::start().await;
    let mut tagged = webhook("tagged", &receiver, &["delivered", "relay_paused"]);
    tagged.filter.tags = vec!["shop".to_owned(), "news".to_owned()];

    let _notices = notices(&postrider, vec![tagged]).await;
    submit(&postrider, mail("plain@example.org")).await;
    let other = mail_to("other@example.org").tag("other").build().unwrap();
    submit(&postrider, other).await;
    postrider.wait_idle().await;

    let shop = mail_to("shop@example.org")
        .tag("x")
        .tag("shop")
        .build()
        .unwrap();

    submit(&postrider, shop).await;
    postrider.wait_idle().await;
    postrider.pause("primary").await.unwrap();

    let calls = receiver.comes_to(2).await;
    assert_eq!(calls[0].json()["data"]["recipient"], "shop@example.org");
    assert_eq!(
        calls[1].kind(),
        "relay_paused",
        "what is about no mail has no tag"
    );

    assert_eq!(calls[1].json()["data"]["relay"], "primary");
}

#[tokio::test]
async fn what_failed_is_sent_again_by_the_schedule_under_one_id_and_a_new_time() {
    let (postrider, clock) = started().await;
    let receiver = Receiver::answering(|_, n| match n {
        0 => Response::Status(500),
        1 => Response::With(302, "Location: /elsewhere".to_owned()),
        2 => Response::Status(400),
        _ => Response::Status(200),
    })
    .await;
    let notices = notices(&postrider, vec![webhook("shop", &receiver, &["delivered"])]).await;

    submit(&postrider, mail("ada@example.org")).await;
    receiver.comes_to(1).await;
    for (n, delay) in [(2, seconds(5)), (3, minutes(5)), (4, minutes(30))] {
        eventually("it waits", async || {
            let status = notices.webhook("shop").await.unwrap();
            let is_told = status.next_attempt_at == Some(clock.now() + delay);
            status.waiting == 1 && status.failed == n - 1 && is_told
        })
        .await;
        let status = notices.webhook("shop").await.unwrap();
        assert_eq!(status.state, WebhookState::Failing);
        clock.advance(delay);
        receiver.comes_to(n as usize).await;
    }

    let calls = receiver.calls();
    assert!(
        calls
            .iter()
            .all(|call| call.id() == calls[0].id() && call.body == calls[0].body)
    );

    assert!(
        calls.iter().all(|call| call.line.contains("/hooks/mail")),
        "no redirect is followed"
    );

    let mut times: Vec<&str> = calls
        .iter()
        .map(|call| call.header("webhook-timestamp"))
        .collect();
    let mut signatures: Vec<&str> = calls
        .iter()
        .map(|call| call.header("webhook-signature"))
        .collect();

    times.dedup();
    signatures.dedup();
    assert_eq!((times.len(), signatures.len()), (4, 4));
    eventually("it is well again", async || {
        let status = notices.webhook("shop").await.unwrap();
        (status.state, status.waiting, status.backlog) == (WebhookState::Active, 0, 0)
    })
    .await;
}

#[tokio::test]
async fn a_message_that_fails_keeps_no_other_from_being_sent() {
    let (postrider, clock) = started().await;
    let receiver = Receiver::answering(|call, _| match call.body.contains("poison@") {
        true => Response::Status(500),
        false => Response::Status(200),
    })
    .await;
    let notices = notices(&postrider, vec![webhook("shop", &receiver, &["delivered"])]).await;

    submit(&postrider, mail("poison@example.org")).await;
    for n in 0..40 {
        submit(&postrider, mail(&format!("user{n}@example.org"))).await;
    }

    let is_of = |name: &'static str| {
        let calls = receiver.calls();
        calls.iter().filter(|call| call.body.contains(name)).count()
    };

    eventually("all others are told", async || is_of("user") == 40).await;
    as_time_passes(&clock, async {
        eventually("it is tried again", async || is_of("poison") >= 3).await;
    })
    .await;

    assert_eq!(is_of("user"), 40, "none is told twice");
    assert_eq!(notices.webhook("shop").await.unwrap().waiting, 1);
}

#[tokio::test]
async fn a_webhook_that_hangs_holds_up_nobody_else() {
    let (postrider, _clock) = started().await;
    let (hanging, well) = (
        Receiver::answering(|_, _| Response::Nothing).await,
        Receiver::start().await,
    );

    let mut slow = webhook("slow", &hanging, &["delivered"]);
    slow.timeout = Duration::from_millis(200);
    let notices = notices(
        &postrider,
        vec![slow, webhook("well", &well, &["delivered"])],
    )
    .await;

    for n in 0..50 {
        submit(&postrider, mail(&format!("user{n}@example.org"))).await;
    }

    let calls = well.comes_to(50).await;
    let in_order = calls.iter().all(|call| call.kind() == "delivered");
    assert!(in_order);
    eventually("the slow one is given up for now", async || {
        notices.webhook("slow").await.unwrap().failed >= 1
    })
    .await;

    let slow = notices.webhook("slow").await.unwrap();
    let error = slow.last.unwrap().error.unwrap();
    assert!(error.contains("no answer within 200ms"), "{error}");
    assert!(slow.backlog >= 49, "{}", slow.backlog);
}

/// The status is what counts; a head that does not end has none.
#[tokio::test]
async fn an_answer_that_drips_ends_within_its_time() {
    let (postrider, _clock) = started().await;
    let body = Receiver::answering(|_, _| {
        Response::Drops("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    })
    .await;
    let head = Receiver::answering(|_, _| Response::Drops("HTTP/1.1 200 OK\r\nX: ")).await;
    let hooks = [("body", &body), ("head", &head)].map(|(name, receiver)| {
        let mut hook = webhook(name, receiver, &["delivered"]);
        hook.timeout = seconds(1);
        hook
    });
    let notices = notices(&postrider, hooks.to_vec()).await;

    let begun = Instant::now();
    let taken = notices.test("body").await.unwrap();
    assert!(taken.delivered, "{taken:?}");
    let lost = notices.test("head").await.unwrap();
    assert_eq!(lost.answer.status, None);
    assert!(lost.answer.error.unwrap().contains("no answer within 1s"));
    assert!(begun.elapsed() < seconds(8), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn too_many_requests_and_their_like_slow_it_down_as_long_as_they_say() {
    let (postrider, clock) = started().await;
    let receiver = Receiver::answering(|_, n| match n {
        0 => Response::With(429, "Retry-After: 600".to_owned()),
        _ => Response::Status(200),
    })
    .await;
    let notices = notices(&postrider, vec![webhook("shop", &receiver, &["delivered"])]).await;

    submit(&postrider, mail("ada@example.org")).await;
    receiver.comes_to(1).await;
    eventually("it rests", async || {
        notices.webhook("shop").await.unwrap().failed == 1
    })
    .await;
    submit(&postrider, mail("bob@example.org")).await;
    postrider.wait_idle().await;
    clock.advance(seconds(599));
    crate::common::a_moment().await;

    assert_eq!(receiver.calls().len(), 1, "nothing new comes either");
    clock.advance(seconds(1));
    receiver.comes_to(3).await;
}

#[tokio::test]
async fn one_that_is_gone_is_switched_off_and_that_is_said_and_switched_on_it_has_lost_nothing() {
    let (postrider, _clock) = started().await;
    let gone = Receiver::answering(|_, _| Response::Status(410)).await;
    let watching = Receiver::start().await;
    let notices = notices(
        &postrider,
        vec![
            webhook("gone", &gone, &["delivered"]),
            webhook("watch", &watching, &["webhook_off"]),
        ],
    )
    .await;
    let mut told = EventLog::by(&postrider);

    submit(&postrider, mail("one@example.org")).await;
    let off = told.first("webhook_off").await;
    let off = serde_json::to_value(&off).unwrap();
    assert_eq!(
        (&off["webhook"], &off["reason"]),
        (&"gone".into(), &"it answered 410 Gone".into())
    );

    assert_eq!(
        watching.comes_to(1).await[0].json()["data"]["webhook"],
        "gone"
    );

    for n in 0..5 {
        submit(&postrider, mail(&format!("user{n}@example.org"))).await;
    }
    postrider.wait_idle().await;

    let status = notices.webhook("gone").await.unwrap();
    assert_eq!(status.state, WebhookState::Off);
    assert!(
        status.reason.is_some() && status.off_since.is_some() && status.next_attempt_at.is_none()
    );

    let numbers = postrider.metrics().await.unwrap();
    assert!(
        numbers.contains("postrider_webhook_off{webhook=\"gone\"} 1"),
        "{numbers}"
    );

    assert!(
        numbers.contains("postrider_webhook_off{webhook=\"watch\"} 0"),
        "{numbers}"
    );

    gone.answers(|_, _| Response::Status(200));
    assert!(!notices.test("gone").await.unwrap().answer.id.is_empty());
    assert_eq!(
        notices.webhook("gone").await.unwrap().state,
        WebhookState::Off
    );
    notices.redeliver("gone", Redeliver::Failed).await.unwrap();

    // The one that failed, the test, the one that failed again, and the five that came meanwhile.
    let calls = gone.comes_to(8).await;
    assert_eq!(calls[2].id(), calls[0].id());
    assert_eq!(calls[1].kind(), "test");
    assert_eq!(
        notices.webhook("gone").await.unwrap().state,
        WebhookState::Active
    );
}

#[tokio::test]
async fn one_that_takes_nothing_for_days_is_switched_off() {
    let (postrider, clock) = started().await;
    let receiver = Receiver::answering(|_, _| Response::Status(500)).await;
    let notices = notices(&postrider, vec![webhook("shop", &receiver, &["delivered"])]).await;
    for n in 0..20 {
        submit(&postrider, mail(&format!("user{n}@example.org"))).await;
    }

    let mut told = EventLog::by(&postrider);
    let off = async {
        told.first("webhook_off").await;
    };

    let passing = async {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            clock.advance(minutes(20));
        }
    };

    let began = clock.now();
    tokio::select! {
        () = off => {}
        () = passing => {}
    }

    let took = clock.now().since(began);
    assert!(took >= hours(72) && took < hours(100), "{took:?}");
    let tries = receiver.calls().len();
    assert!(tries < 400, "{tries} calls to one that is down");
    receiver.answers(|_, _| Response::Status(200));
    notices.redeliver("shop", Redeliver::Failed).await.unwrap();

    eventually("nothing is lost", async || {
        let calls = receiver.calls();
        let told = |n| {
            let recipient = format!("\"user{n}@example.org\"");
            calls[tries..]
                .iter()
                .any(|call| call.body.contains(&recipient))
        };
        (0..20).all(told)
    })
    .await;
}

#[tokio::test]
async fn what_was_sent_before_is_sent_again_when_asked_for_by_time_or_by_id() {
    let (postrider, clock) = started().await;
    let receiver = Receiver::start().await;
    let notices = notices(&postrider, vec![webhook("shop", &receiver, &["delivered"])]).await;
    submit(&postrider, mail("early@example.org")).await;
    receiver.comes_to(1).await;
    clock.advance(hours(1));

    let since = clock.now();
    submit(&postrider, mail("late@example.org")).await;
    let first = receiver.comes_to(2).await;

    let early = Redeliver::Message(first[0].id().to_owned());
    notices.redeliver("shop", early).await.unwrap();
    let calls = receiver.comes_to(3).await;
    assert_eq!(
        (calls[2].id(), &calls[2].body),
        (first[0].id(), &first[0].body)
    );

    notices
        .redeliver("shop", Redeliver::Since(since))
        .await
        .unwrap();

    let calls = receiver.comes_to(4).await;
    assert_eq!(
        (calls[3].id(), &calls[3].body),
        (first[1].id(), &first[1].body)
    );

    for unknown in ["msg_nothing_1", "msg_", "1"] {
        let refused = notices
            .redeliver("shop", Redeliver::Message(unknown.to_owned()))
            .await;
        assert!(
            matches!(refused, Err(NoticeError::UnknownMessage(_))),
            "{unknown}: {refused:?}"
        );
    }

    let refused = notices.redeliver("nobody", Redeliver::Failed).await;
    assert!(matches!(refused, Err(NoticeError::UnknownWebhook(_))));
    assert!(notices.test("nobody").await.is_none());
}

#[tokio::test]
async fn private_addresses_are_not_called_however_they_are_named() {
    let (postrider, _clock) = started().await;
    let receiver = Receiver::start().await;
    let port = receiver.address.port();
    for host in [
        "127.0.0.1",
        "localhost",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "2130706433",
        "127.1",
        "127.0.0.1.",
        "LOCALHOST",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "0177.0.0.01",
        "[::1]",
        "[::]",
        "[0:0:0:0:0:ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "%31%32%37.0.0.1",
        "ｌｏｃａｌｈｏｓｔ",
        "169.254.169.254",
        "2852039166",
        "[fd00:ec2::254]",
    ] {
        let mut hook = webhook("shop", &receiver, &["delivered"]);
        hook.url = format!("http://{host}:{port}/hooks/mail");
        hook.allow_private = false;
        let notices = notices(&postrider, vec![hook]).await;
        let tested = notices.test("shop").await.unwrap();
        assert!(!tested.delivered);
        let error = tested.answer.error.unwrap();
        assert!(error.contains("private"), "{host}: {error}");
    }

    // A login in it is refused, and what only looks like another host is the host that it is.
    let refused = |url: String| {
        let mut hook = webhook("shop", &receiver, &["delivered"]);
        hook.url = url;
        hook.mistakes()
    };
    for login in ["user@", "user:secret@", "shop.example.com@", ":x@"] {
        let wrong = refused(format!("http://{login}127.0.0.1:{port}/"));
        assert_eq!(wrong[0].key, "url", "{login}");
        assert!(wrong[0].reason.contains("login"), "{login}: {wrong:?}");
    }
    for url in [
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "//127.0.0.1/",
        "http://",
        "javascript:x",
    ] {
        assert_eq!(refused(url.to_owned())[0].key, "url", "{url}");
    }
    for slashes in [
        "http:\\\\127.0.0.1",
        "http:/127.0.0.1",
        "http:///127.0.0.1",
        "http://127.0.0.1\\@shop.example.com",
    ] {
        let mut hook = webhook("shop", &receiver, &["delivered"]);
        hook.url = slashes.replace("127.0.0.1", &format!("127.0.0.1:{port}"));
        hook.allow_private = false;
        let notices = notices(&postrider, vec![hook]).await;
        let error = notices.test("shop").await.unwrap().answer.error.unwrap();
        assert!(error.contains("private"), "{slashes}: {error}");
    }

    assert_eq!(receiver.calls().len(), 0);
}

/// Somebody who answers each call with this, over and over, until the caller has enough; how much
/// they took.
async fn pouring(head: &'static [u8], more: Vec<u8>) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let poured = Arc::new(AtomicUsize::new(0));
    let counted = poured.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (more, counted) = (more.clone(), counted.clone());
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let mut next = stream.write_all(head).await;
                while next.is_ok() {
                    next = stream.write_all(&more).await;
                    counted.fetch_add(more.len(), Ordering::Relaxed);
                }
            });
        }
    });
    (address, poured)
}

#[tokio::test]
async fn an_answer_without_end_of_any_kind_is_cut_off() {
    let (postrider, _clock) = started().await;
    let receiver = Receiver::start().await;
    let zeros = vec![0_u8; 64 * 1024];
    for (what, head, more, is_taken) in [
        (
            "a body",
            &b"HTTP/1.1 200 OK\r\n\r\n"[..],
            zeros.clone(),
            true,
        ),
        (
            "a length beyond all",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n",
            zeros.clone(),
            true,
        ),
        (
            "what is packed",
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip, br, gzip\r\n\r\n\x1f\x8b\x08",
            zeros.clone(),
            true,
        ),
        (
            "pieces",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1;x=y\r\na\r\n".repeat(1000),
            true,
        ),
        (
            "a piece beyond all",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n",
            zeros.clone(),
            true,
        ),
        (
            "a field",
            b"HTTP/1.1 200 OK\r\nX: ",
            vec![b'x'; 64 * 1024],
            false,
        ),
        (
            "fields",
            b"HTTP/1.1 200 OK\r\n",
            b"X: y\r\n".repeat(5000),
            false,
        ),
        ("a status", b"HTTP/1.1 200 ", vec![b'x'; 64 * 1024], false),
        (
            "news",
            b"",
            b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000),
            false,
        ),
        ("what is no HTTP", b"", zeros.clone(), false),
    ] {
        let (address, poured) = pouring(head, more).await;
        let mut hook = webhook("shop", &receiver, &["delivered"]);
        hook.url = format!("http://{address}/");
        hook.timeout = seconds(2);
        let notices = notices(&postrider, vec![hook]).await;
        let begun = Instant::now();
        let tested = notices.test("shop").await.unwrap();
        assert_eq!(tested.delivered, is_taken, "{what}: {tested:?}");
        assert!(
            begun.elapsed() < seconds(10),
            "{what}: {:?}",
            begun.elapsed()
        );

        // What is between the two is full soon.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let before = poured.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(poured.load(Ordering::Relaxed), before, "{what} goes on");
    }
}

#[tokio::test]
async fn no_redirect_leads_anywhere() {
    let (postrider, _clock) = started().await;
    let inner = Receiver::start().await;
    for status in [300, 301, 302, 303, 304, 305, 307, 308, 399] {
        for target in [
            inner.url(),
            "http://169.254.169.254/latest/meta-data".to_owned(),
            "//localhost/".to_owned(),
            "file:///etc/passwd".to_owned(),
        ] {
            let line = format!("Location: {target}\r\nRefresh: 0;url={target}");
            let outer = Receiver::answering(move |_, _| Response::With(status, line.clone())).await;
            let hook = webhook("shop", &outer, &["delivered"]);
            let notices = notices(&postrider, vec![hook]).await;
            let tested = notices.test("shop").await.unwrap();
            let error = tested.answer.error.unwrap();
            assert!(error.contains("redirect"), "{status}: {error}");
            assert_eq!(outer.calls().len(), 1, "{status}");
        }
    }
    assert_eq!(inner.calls().len(), 0);
}

#[tokio::test]
async fn a_restart_loses_none_and_keeps_their_ids() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::fake();

    let receiver = Receiver::answering(|_, _| Response::Status(500)).await;
    let receiver = Arc::new(receiver);
    for life in 0..3 {
        let builder = engine(ScriptedRelay::free().relay(), &clock).test_spool_in(dir.path());
        let postrider = builder.start().await.unwrap();
        let notices = notices(&postrider, vec![webhook("shop", &receiver, &["delivered"])]).await;
        let before = receiver.calls().len();
        submit(&postrider, mail(&format!("life{life}@example.org"))).await;
        if life == 2 {
            receiver.answers(|_, _| Response::Status(200));
            clock.advance(hours(1));
        } else {
            receiver.comes_to(before + 1).await;
        }
        let told = |life: i32| {
            let recipient = format!("life{life}@");
            receiver.calls()[before..]
                .iter()
                .any(|call| call.body.contains(&recipient))
        };
        if life == 2 {
            eventually("all are told", async || (0..3).all(told)).await;
        }
        notices.close(seconds(5)).await;
        drop(notices);
        postrider.shutdown(Drain::within(seconds(5))).await.unwrap();
    }

    let calls = receiver.calls();
    for life in 0..2 {
        let recipient = format!("life{life}@");
        let of_it: Vec<_> = calls
            .iter()
            .filter(|call| call.body.contains(&recipient))
            .collect();
        assert!(of_it.len() >= 2 && of_it.iter().all(|call| call.id() == of_it[0].id()));
    }
}

#[tokio::test]
async fn one_that_is_no_more_is_forgotten_and_one_that_stays_goes_on() {
    let (postrider, _clock) = started().await;
    let receiver = Receiver::start().await;
    let notices = notices(
        &postrider,
        vec![
            webhook("stays", &receiver, &["delivered"]),
            webhook("goes", &receiver, &["dead"]),
        ],
    )
    .await;

    submit(&postrider, mail("one@example.org")).await;
    receiver.comes_to(1).await;
    let stays = webhook("stays", &receiver, &["delivered"]);
    notices.set_webhooks(vec![stays]).await.unwrap();
    submit(&postrider, mail("two@example.org")).await;
    receiver.comes_to(2).await;

    let readers = postrider.journal().readers().await.unwrap();
    let names: Vec<&str> = readers.iter().map(|reader| reader.name.as_str()).collect();
    // Who share a spool do not forget each other's.
    let others: &[&str] = if is_postgres() {
        &["webhook:goes"]
    } else {
        &[]
    };
    assert_eq!(names, [others, &["webhook:stays"]].concat());
    assert_eq!(notices.webhooks().await.len(), 1);

    let mut bad = webhook("bad name", &receiver, &["delivered"]);
    bad.url = "ftp://example.org".to_owned();
    assert!(notices.set_webhooks(vec![bad]).await.is_err());
    submit(&postrider, mail("three@example.org")).await;
    receiver.comes_to(3).await;
}
