//! Relays that are a provider's API: what is asked, and what each answer, each error and each
//! broken connection comes to, against a server that records and answers as it is told.
#![cfg(feature = "server")]

mod errors;
mod lanes;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use postrider::delivery::Phase;
use postrider::transport::oauth2::{Grant, OAuth2, TokenRequest};
use postrider::transport::{Capture, Credentials};
use postrider::{Dispatcher, Guarantee, Mail, MailBuilder, MailStatus, Relay};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::common::TestSpool;
use crate::common::provider::{Act, Provider, ReceivedRequest, answer};

/// A relay at this server, with the credentials that its provider wants.
fn relay(url: &str, server: &Provider) -> Relay {
    let secret = |text: &str| SecretString::from(text.to_owned());
    let relay = Relay::smtp(url).unwrap().endpoint(&server.address);
    match url.split('+').next().unwrap() {
        "ses" => relay.credentials(Credentials::AccessKey {
            id: "AKIDEXAMPLE".into(),
            secret: secret("key"),
        }),
        "graph" | "gmail" => relay.oauth2(tokens(server, "/any-token")),
        _ => relay.credentials(Credentials::ApiKey(secret("s3cret"))),
    }
    .name("api")
    .connections(1)
}

fn tokens(server: &Provider, path: &str) -> Arc<OAuth2> {
    let request = TokenRequest {
        token_url: format!("{}{path}", server.address),
        grant: Grant::ClientCredentials,
        client_id: Some("postrider".into()),
        client_secret: Some("hush".to_owned().into()),
        scope: Some("mail".into()),
        ca_file: None,
    };
    Arc::new(OAuth2::new(request).unwrap())
}

fn mail() -> MailBuilder {
    Mail::builder()
        .from("Shop <shop@example.com>")
        .to("Ada <ada@example.org>")
        .cc("bob@example.org")
        .subject("Grüße")
        .text("the text")
        .html("<p>the html</p>")
}

/// An engine over this relay, and behind it a capture that takes what the relay does not.
async fn engine(relay: Relay, backup: &Capture) -> Dispatcher {
    Dispatcher::builder()
        .relay(relay)
        .relay(Relay::capture(backup).name("backup"))
        .test_spool()
        .start()
        .await
        .unwrap()
}

/// Waits until every recipient was tried or has ended.
async fn settled(engine: &Dispatcher, mail: Mail) -> MailStatus {
    let id = engine.submit(mail).await.unwrap().id;
    for _ in 0..2000 {
        let status = engine.status(id).await.unwrap();
        let done = |delivery: &postrider::DeliveryStatus| {
            // What was refused here is asked of the route's next relay at once.
            let tried = delivery.attempts.last();
            delivery.state.is_final() || tried.is_some_and(|last| last.phase != Phase::Local)
        };
        if status.deliveries.iter().all(done) {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    panic!("never settled: {:#?}", engine.status(id).await);
}

/// What a mail came to, in a word: `delivered`, `backup`, `dead`, or `deferred`.
async fn comes_to(url: &str, act: Act, mail: Mail) -> (String, MailStatus, Vec<ReceivedRequest>) {
    let server = Provider::new(vec![act]).await;
    let backup = Capture::new(None);
    let engine = engine(relay(url, &server), &backup).await;
    let status = settled(&engine, mail).await;
    let word = match backup.captured().len() {
        0 => status.deliveries[0].state.as_str().to_owned(),
        _ => "backup".to_owned(),
    };
    (word, status, server.asked())
}

const SES: &str = "ses+api://eu-west-1";
const MAILGUN: &str = "mailgun+api://mg.example.com";
const GRAPH: &str = "graph+api://tenant/mail@example.com";
const GMAIL: &str = "gmail+api://mail@example.com";
const BREVO: &str = "brevo+api://";
const SENDGRID: &str = "sendgrid+api://";
const POSTMARK: &str = "postmark+api://";
const RESEND: &str = "resend+api://";
const ALL: [&str; 8] = [
    SES, MAILGUN, GRAPH, GMAIL, BREVO, SENDGRID, POSTMARK, RESEND,
];
/// Those that build the message anew from its parts.
const BUILDERS: [&str; 4] = [BREVO, SENDGRID, POSTMARK, RESEND];

#[tokio::test]
async fn each_provider_is_asked_as_it_wants_and_its_id_is_kept() {
    for url in ALL {
        let (word, status, asked) = comes_to(url, Act::Take, mail().build().unwrap()).await;
        assert_eq!(word, "delivered", "{url}: {status:#?}");
        let attempt = status.deliveries[0].attempts.last().unwrap();
        match url {
            GRAPH => assert_eq!(attempt.text, "accepted", "it gives no id"),
            _ => assert_eq!(attempt.text, "accepted as id-1", "{url}"),
        }
        assert_eq!(asked.len(), 1, "{url}");

        let asked = &asked[0];
        match url.split('+').next().unwrap() {
            "ses" => {
                assert_eq!(asked.path, "/v2/email/outbound-emails");
                let login = asked.header("authorization");
                assert!(login.contains(
                    "/eu-west-1/ses/aws4_request, SignedHeaders=content-type;host;x-amz-date, "
                ));
                let body = asked.json();
                let to = json!(["ada@example.org", "bob@example.org"]);
                assert_eq!(body["Destination"]["ToAddresses"], to);
                assert!(body["Content"]["Raw"]["Data"].is_string());
                assert!(body.get("FromEmailAddress").is_none());
            }
            "mailgun" => {
                assert_eq!(asked.path, "/v3/mg.example.com/messages.mime");
                assert_eq!(asked.header("authorization"), "Basic YXBpOnMzY3JldA==");
                assert!(asked.text().contains("ada@example.org,bob@example.org"));
                assert!(asked.text().contains("From: Shop <shop@example.com>"));
            }
            "brevo" => {
                assert_eq!(asked.path, "/v3/smtp/email");
                assert_eq!(asked.header("api-key"), "s3cret");
                let body = asked.json();
                assert_eq!(
                    body["sender"],
                    json!({"name": "Shop", "email": "shop@example.com"})
                );
                assert_eq!(
                    body["to"],
                    json!([{"name": "Ada", "email": "ada@example.org"}])
                );
                assert_eq!(body["cc"], json!([{"email": "bob@example.org"}]));
                assert_eq!(body["subject"], "Grüße");
                assert!(body["headers"]["idempotencyKey"].is_string());
            }
            "sendgrid" => {
                assert_eq!(asked.path, "/v3/mail/send");
                assert_eq!(asked.header("authorization"), "Bearer s3cret");
                let body = asked.json();
                let to = &body["personalizations"][0]["to"];
                assert_eq!(*to, json!([{"name": "Ada", "email": "ada@example.org"}]));
                assert_eq!(body["content"][0]["type"], "text/plain");
                assert_eq!(body["content"][1]["value"], "<p>the html</p>");
            }
            "postmark" => {
                assert_eq!(asked.path, "/email");
                assert_eq!(asked.header("x-postmark-server-token"), "s3cret");
                let body = asked.json();
                assert_eq!(body["To"], "\"Ada\" <ada@example.org>");
                assert_eq!(body["TextBody"], "the text");
            }
            "graph" => {
                assert_eq!(asked.path, "/v1.0/users/mail%40example%2Ecom/sendMail");
                assert_eq!(asked.header("authorization"), "Bearer t0ken");
                assert_eq!(asked.header("content-type"), "text/plain");
                let message = STANDARD.decode(&asked.body).unwrap();
                assert!(
                    String::from_utf8_lossy(&message).contains("\r\nTo: Ada <ada@example.org>")
                );
            }
            "gmail" => {
                let path = "/gmail/v1/users/mail%40example%2Ecom/messages/send";
                assert_eq!(asked.path, path);
                let message = URL_SAFE.decode(asked.json()["raw"].as_str().unwrap());
                let message = String::from_utf8(message.unwrap()).unwrap();
                assert!(message.contains("\r\nCc: bob@example.org"), "{message}");
            }
            _ => {
                assert_eq!(asked.path, "/emails");
                assert!(!asked.header("idempotency-key").is_empty());
                assert_eq!(asked.json()["html"], "<p>the html</p>");
            }
        }
    }
}

#[tokio::test]
async fn too_fast_slows_the_lane_and_not_the_mail() {
    for url in ALL {
        let slow = Act::Answer(429, &[("retry-after", "1")], "{}".into());
        let server = Provider::new(vec![slow, Act::Take]).await;
        let backup = Capture::new(None);
        let engine = engine(relay(url, &server), &backup).await;
        let began = std::time::Instant::now();
        let status = settled(&engine, mail().build().unwrap()).await;

        assert_eq!(status.state.as_str(), "delivered", "{url}: {status:#?}");
        assert_eq!(status.deliveries[0].attempts.len(), 1, "{url}");
        assert!(began.elapsed() >= Duration::from_millis(950), "{url}");
        assert!(backup.captured().is_empty(), "{url}");
    }
}

#[tokio::test]
async fn a_broken_connection_is_in_doubt_only_once_all_was_sent() {
    // Large, so that hanging up early finds it on its way.
    let large = || mail().text("0123456789\n".repeat(1_500_000));
    let (word, status, _) = comes_to(MAILGUN, Act::HangUpEarly, large().build().unwrap()).await;
    assert_eq!(word, "deferred", "{status:#?}");
    assert_eq!(status.deliveries[0].attempts[0].phase.as_str(), "body");

    let once = mail().guarantee(Guarantee::AtMostOnce).build().unwrap();
    let (word, status, asked) = comes_to(MAILGUN, Act::HangUpLate, once).await;
    assert_eq!((word.as_str(), asked.len()), ("dead", 1), "{status:#?}");

    let (word, _, asked) = comes_to(MAILGUN, Act::HangUpLate, mail().build().unwrap()).await;
    assert_eq!((word.as_str(), asked.len()), ("deferred", 1));
}

#[tokio::test]
async fn only_a_provider_that_knows_repeats_is_asked_again_at_once_and_under_the_same_key() {
    for url in [BREVO, RESEND] {
        let server = Provider::new(vec![Act::HangUpLate, Act::Take]).await;
        let backup = Capture::new(None);
        let engine = engine(relay(url, &server), &backup).await;
        let status = settled(&engine, mail().build().unwrap()).await;
        assert_eq!(status.state.as_str(), "delivered", "{url}: {status:#?}");

        let asked = server.asked();
        assert_eq!(asked.len(), 2, "{url}");
        assert_eq!(asked[0].json(), asked[1].json(), "{url}");
        let keys = [
            asked[0].header("idempotency-key"),
            asked[1].header("idempotency-key"),
        ];
        assert_eq!(keys[0], keys[1], "{url}");
    }
}

#[tokio::test]
async fn what_a_provider_cannot_express_is_refused_before_anything_is_sent() {
    let signed = "From: a@example.com\r\nTo: ada@example.org\r\nMIME-Version: 1.0\r\n\
                  Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n";
    for url in BUILDERS {
        let envelope = postrider::Envelope::new(None, vec!["ada@example.org".parse().unwrap()]);
        let mail = Mail::from_rfc5322(envelope.unwrap(), signed.as_bytes().to_vec()).unwrap();
        let (word, status, asked) = comes_to(url, Act::Take, mail).await;
        // The route's next relay can take it, or nobody can.
        assert!(word == "dead" || word == "backup", "{url}: {status:#?}");
        assert!(asked.is_empty(), "{url}");
    }
}

#[tokio::test]
async fn hidden_recipients_do_not_see_each_other() {
    for url in BUILDERS {
        let hidden = Mail::builder()
            .from("shop@example.com")
            .to("ada@example.org")
            .bcc("eve@example.org")
            .subject("x")
            .text("y")
            .build()
            .unwrap();
        let (word, _, asked) = comes_to(url, Act::Take, hidden).await;
        assert_eq!((word.as_str(), asked.len()), ("delivered", 1), "{url}");
        let body = asked[0].json();
        let to = body
            .get("to")
            .or(body.get("To"))
            .or(body["personalizations"][0].get("to"));
        assert!(!to.unwrap().to_string().contains("eve@"), "{url}: {body}");
        assert!(body.to_string().contains("eve@example.org"), "{url}");
    }
}

#[tokio::test]
async fn a_partial_refusal_reaches_the_right_recipient() {
    let message = "Message OK, but will not deliver to these inactive addresses: bob@example.org";
    let partly = answer(
        200,
        json!({"ErrorCode": 0, "Message": message, "MessageID": "id-1"}),
    );
    let (_, status, _) = comes_to(POSTMARK, partly, mail().build().unwrap()).await;
    let states: Vec<&str> = status.deliveries.iter().map(|d| d.state.as_str()).collect();
    assert_eq!(states, ["delivered", "dead"]);
}

#[tokio::test]
async fn a_token_is_fetched_once_and_anew_when_it_is_refused() {
    for url in [
        "graph+api://tenant/mail@example.com",
        "gmail+api://mail@example.com",
    ] {
        let token = |text: &str| answer(200, json!({"access_token": text, "expires_in": 3600}));
        let done = match url.starts_with("graph") {
            true => Act::Answer(202, &[], String::new()),
            false => answer(200, json!({"id": "id-1"})),
        };
        let logins = Provider::new(vec![token("first"), token("second")]).await;
        let server = Provider::new(vec![done.clone(), answer(401, json!({})), done]).await;
        let backup = Capture::new(None);
        let relay = relay(url, &server).oauth2(tokens(&logins, "/token"));
        let engine = engine(relay, &backup).await;

        for _ in 0..2 {
            let status = settled(&engine, mail().build().unwrap()).await;
            assert_eq!(status.state.as_str(), "delivered", "{url}: {status:#?}");
        }
        let used: Vec<String> = server
            .asked()
            .iter()
            .map(|asked| asked.header("authorization").to_owned())
            .collect();
        assert_eq!(
            used,
            ["Bearer first", "Bearer first", "Bearer second"],
            "{url}"
        );
        assert_eq!(logins.asked().len(), 2, "{url}");
        let form = logins.asked()[0].text();
        assert!(form.contains("grant_type=client_credentials&client_id=postrider"));
        assert!(backup.captured().is_empty());
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_had_is_the_relays_fault() {
    let refused = answer(
        400,
        json!({"error": "invalid_client", "error_description": "who?"}),
    );

    let logins = Provider::new(vec![refused]).await;
    let server = Provider::new(vec![Act::Answer(202, &[], String::new())]).await;
    let backup = Capture::new(None);

    let relay =
        relay("graph+api://tenant/mail@example.com", &server).oauth2(tokens(&logins, "/token"));
    let engine = engine(relay, &backup).await;
    let status = settled(&engine, mail().build().unwrap()).await;
    assert_eq!(status.state.as_str(), "delivered");
    assert_eq!(backup.captured().len(), 1);

    assert!(server.asked().is_empty());
}
