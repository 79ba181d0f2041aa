//! Events of providers, as they come in over HTTP: each proves whose it is, and finds its mail.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use postrider::ingress::http::{Limits, Provider, ProviderSettings, Providers, Scope, Token};
use postrider::{FeedbackKind, Fetch, Mail, MailId, SuppressionQuery, Timestamp};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use ring::{digest, hmac, rand};
use rsa::pkcs8::EncodePrivateKey as _;
use rsa::traits::PublicKeyParts as _;
use serde_json::{Value, json};

use crate::http::service::{Answer, Service};

const PASSWORD: &str = "shown-by-the-provider";
const MAILGUN_KEY: &str = "key-of-mailgun";
const WHSEC: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const TOPIC: &str = "arn:aws:sns:eu-west-1:123456789012:mail";
const CERTIFICATE: &str =
    "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem";

/// What a request says besides its path.
#[derive(Clone, Debug)]
struct SignedRequest {
    headers: Vec<(&'static str, String)>,
    body: String,
}

/// The public web, as far as it is asked: pages by their addresses, and what was asked.
#[derive(Debug, Default)]
struct FakeWeb {
    pages: BTreeMap<String, String>,
    asked: Mutex<Vec<String>>,
}

#[async_trait::async_trait]
impl Fetch for FakeWeb {
    async fn fetch(&self, url: &str) -> Result<Bytes, String> {
        self.asked.lock().unwrap().push(url.to_owned());
        match self.pages.get(url) {
            Some(page) => Ok(page.clone().into()),
            None if url.contains("Action=ConfirmSubscription") => Ok(Bytes::new()),
            None => Err("there is no such page".to_owned()),
        }
    }
}

/// SNS, with a certificate that it made itself.
struct Sns {
    key: rsa::RsaPrivateKey,
    web: Arc<FakeWeb>,
}

/// Its key, which takes a while to be made.
static KEY: LazyLock<rsa::RsaPrivateKey> = LazyLock::new(|| {
    let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
    assert_eq!(key.n().bits(), 2048);
    key
});

impl Sns {
    fn new() -> Self {
        let key = KEY.clone();
        let pem = key.to_pkcs8_pem(rsa::pkcs8::LineEnding::LF).unwrap();
        let pair = rcgen::KeyPair::from_pem_and_sign_algo(&pem, &rcgen::PKCS_RSA_SHA256).unwrap();
        let params = rcgen::CertificateParams::new(vec!["sns.amazonaws.com".to_owned()]).unwrap();
        let pages = [(
            CERTIFICATE.to_owned(),
            params.self_signed(&pair).unwrap().pem(),
        )];
        let web = FakeWeb {
            pages: pages.into(),
            ..FakeWeb::default()
        };
        Sns {
            key,
            web: Arc::new(web),
        }
    }

    /// A message with its signature of this version.
    fn message(&self, mut said: Value, version: &str) -> Value {
        const NAMES: [&str; 8] = [
            "Message",
            "MessageId",
            "Subject",
            "SubscribeURL",
            "Timestamp",
            "Token",
            "TopicArn",
            "Type",
        ];
        let lines = NAMES.iter().filter_map(|name| {
            let value = said[*name].as_str()?;
            Some(format!("{name}\n{value}\n"))
        });
        let signed: String = lines.collect();
        // How PKCS #1 says which digest it is (RFC 8017 §9.2).
        let (algorithm, prefix): (_, &[u8]) = match version {
            "1" => (
                &digest::SHA1_FOR_LEGACY_USE_ONLY,
                b"\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14",
            ),
            _ => (
                &digest::SHA256,
                b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20",
            ),
        };
        let digest = digest::digest(algorithm, signed.as_bytes());
        let scheme = rsa::Pkcs1v15Sign {
            hash_len: Some(digest.as_ref().len()),
            prefix: prefix.into(),
        };
        let signature = self.key.sign(scheme, digest.as_ref()).unwrap();
        said["SignatureVersion"] = version.into();
        said["Signature"] = BASE64_STANDARD.encode(signature).into();
        said["SigningCertURL"] = CERTIFICATE.into();
        said
    }

    fn notification(&self, event: &str, at: Timestamp, version: &str) -> SignedRequest {
        let said = json!({
            "Type": "Notification",
            "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
            "TopicArn": TOPIC,
            "Message": event,
            "Timestamp": at.to_string(),
            "UnsubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Action=Unsubscribe",
        });
        SignedRequest {
            headers: vec![("content-type", "text/plain; charset=UTF-8".to_owned())],
            body: self.message(said, version).to_string(),
        }
    }
}

/// A service that hears all providers, whose token nobody of them has.
struct ProviderSetup {
    service: Service,
    sendgrid: EcdsaKeyPair,
    sns: Sns,
}

impl ProviderSetup {
    async fn new() -> Self {
        let random = rand::SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let sendgrid = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
        let mut public = BASE64_STANDARD
            .decode("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgA=")
            .unwrap();
        public.truncate(26);
        public.extend(sendgrid.public_key().as_ref());

        let sns = Sns::new();
        let secrets = [
            (Provider::Brevo, PASSWORD.to_owned()),
            (Provider::Sendgrid, BASE64_STANDARD.encode(public)),
            (Provider::Mailgun, MAILGUN_KEY.to_owned()),
            (Provider::Postmark, format!("hook:{PASSWORD}")),
            (Provider::Resend, WHSEC.to_owned()),
        ];
        let settings = secrets.map(|(provider, secret)| ProviderSettings {
            secret: Some(secret.into()),
            ..ProviderSettings::new(provider)
        });
        let ses = ProviderSettings {
            topics: vec![TOPIC.to_owned()],
            ..ProviderSettings::new(Provider::Ses)
        };

        let providers = Providers::fetching_with(sns.web.clone());
        let all: Vec<ProviderSettings> = settings.into_iter().chain([ses]).collect();
        for one in &all {
            assert_eq!(one.mistakes(), [], "{one:?}");
        }
        providers.replace(all);
        let token = Token {
            name: "app".into(),
            secret: "s3cret".into(),
            scope: Scope::Admin,
        };
        let service = Service::behind(
            vec![token],
            Limits::default(),
            |engine| engine,
            |door| door.with_providers(providers),
        )
        .await;
        ProviderSetup {
            service,
            sendgrid,
            sns,
        }
    }

    /// Sends a mail and waits until it has left.
    async fn send(&self, to: &str, list: Option<&str>) -> MailId {
        let mail = Mail::builder().from("shop@example.com").to(to).text("t");
        let mail = match list {
            Some(list) => mail.list(list),
            None => mail,
        };
        let receipt = self.service.dispatcher.submit(mail.build().unwrap()).await;
        self.service.dispatcher.wait_idle().await;
        receipt.unwrap().id
    }

    /// Signs a body as a provider does.
    fn sign(&self, provider: Provider, body: &Value, at: Timestamp) -> SignedRequest {
        let seconds = at.as_millis() / 1000;
        let body_text = body.to_string();
        let basic = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
        let (headers, body) = match provider {
            Provider::Brevo => (
                vec![("authorization", format!("Bearer {PASSWORD}"))],
                body_text,
            ),
            Provider::Postmark => (
                vec![("authorization", basic(&format!("hook:{PASSWORD}")))],
                body_text,
            ),
            Provider::Sendgrid => {
                let signed = format!("{seconds}{body_text}");
                let random = rand::SystemRandom::new();
                let signature = self.sendgrid.sign(&random, signed.as_bytes()).unwrap();
                let signature = BASE64_STANDARD.encode(signature.as_ref());
                let headers = vec![
                    (
                        "x-twilio-email-event-webhook-timestamp",
                        seconds.to_string(),
                    ),
                    ("x-twilio-email-event-webhook-signature", signature),
                ];
                (headers, body_text)
            }
            Provider::Mailgun => {
                let token = format!("{:x}", rand_token());
                let key = hmac::Key::new(hmac::HMAC_SHA256, MAILGUN_KEY.as_bytes());
                let signature = hmac::sign(&key, format!("{seconds}{token}").as_bytes());
                let hex = signature.as_ref().iter().map(|byte| format!("{byte:02x}"));
                let body = json!({
                    "signature": {
                        "timestamp": seconds.to_string(),
                        "token": token,
                        "signature": hex.collect::<String>(),
                    },
                    "event-data": body,
                });
                (Vec::new(), body.to_string())
            }
            Provider::Resend => {
                let secret = WHSEC.strip_prefix("whsec_").unwrap();
                let secret = BASE64_STANDARD.decode(secret).unwrap();
                let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
                let id = format!("msg_{:x}", rand_token());
                let signature = hmac::sign(&key, format!("{id}.{seconds}.{body_text}").as_bytes());
                let signature = BASE64_STANDARD.encode(signature.as_ref());
                let headers = vec![
                    ("svix-id", id),
                    ("svix-timestamp", seconds.to_string()),
                    ("svix-signature", format!("v1,AAAA v1,{signature}")),
                ];
                (headers, body_text)
            }
            Provider::Ses => return self.sns.notification(&body_text, at, "2"),
        };
        let mut headers = headers;
        headers.push(("content-type", "application/json".to_owned()));
        SignedRequest { headers, body }
    }

    async fn bring(&self, provider: Provider, signed: &SignedRequest) -> Answer {
        let mut headers: Vec<(&str, &str)> = vec![("host", "mail.example.com")];
        let given = signed.headers.iter();
        headers.extend(given.map(|(name, value)| (*name, value.as_str())));
        let path = format!("/v1/feedback/{}", provider.as_str());
        let body = signed.body.clone();
        self.service.send("POST", &path, &headers, body).await
    }

    async fn recorded(&self, mail: MailId) -> Vec<(FeedbackKind, String)> {
        let record = self.service.dispatcher.status(mail).await.unwrap();
        let feedback = record.deliveries[0].feedback.iter();
        feedback.map(|one| (one.kind, one.by.clone())).collect()
    }

    async fn suppressed(&self) -> Vec<String> {
        let query = SuppressionQuery {
            limit: 100,
            ..SuppressionQuery::default()
        };
        let kept = self.service.dispatcher.suppressions();
        let page = kept.list(query).await.unwrap();
        let entries = page.suppressions.into_iter();
        let shown = entries.map(|one| {
            let list = one.list.unwrap_or_default();
            format!("{} {} {list}", one.address, one.reason)
        });
        shown.map(|one| one.trim_end().to_owned()).collect()
    }

    async fn counted(&self, provider: Provider, result: &str) -> bool {
        let metrics = self.service.dispatcher.metrics().await.unwrap();
        let by = provider.as_str();
        let line = format!("postrider_feedback_total{{by=\"{by}\",result=\"{result}\"}}");
        metrics.contains(&line)
    }
}

fn rand_token() -> u64 {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0; 8];
    rand::SystemRandom::new().fill(&mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

/// What happened, as each provider says it; `None` where it does not say that.
fn event(provider: Provider, what: &str, to: &str, id: &str) -> Option<Value> {
    let ses = |mut more: Value| {
        more["mail"] = json!({
            "messageId": "0102018f-own-0000",
            "destination": [to],
            "headers": [{"name": "Message-ID", "value": id}],
        });
        more
    };
    let event = match (provider, what) {
        (Provider::Brevo, _) => {
            let name = match what {
                "bounced" => "hard_bounce",
                "soft" => "soft_bounce",
                "complained" => "spam",
                "unsubscribed" => "unsubscribed",
                "delayed" => "deferred",
                other => other,
            };
            json!({"event": name, "email": to, "message-id": id, "ts_epoch": 1604933654000_i64,
                "reason": "550 5.1.1 no such user"})
        }
        (Provider::Sendgrid, _) => {
            let (name, kind) = match what {
                "bounced" => ("bounce", "bounce"),
                "soft" => ("bounce", "blocked"),
                "complained" => ("spamreport", ""),
                "unsubscribed" => ("group_unsubscribe", ""),
                "delayed" => ("deferred", ""),
                other => (other, ""),
            };
            json!([{"event": name, "type": kind, "email": to, "smtp-id": id, "timestamp": 1,
                "sg_event_id": format!("e-{what}"),
                "sg_message_id": "14c5d75ce93.dfd.64b469.filter",
                "reason": "550 no such user",
                "status": if kind == "bounce" { "5.1.1" } else { "" },
            }])
        }
        (Provider::Mailgun, _) => {
            let (name, severity) = match what {
                "bounced" => ("failed", "permanent"),
                "delayed" => ("failed", "temporary"),
                "soft" => ("rejected", ""),
                other => (other, ""),
            };
            json!({"event": name, "severity": severity, "id": format!("id-{what}"),
                "recipient": to, "delivery-status": {"code": 550, "message": "no such user"},
                "message": {"headers": {"message-id": id.trim_matches(['<', '>'])}}})
        }
        (Provider::Ses, "bounced" | "soft") => ses(json!({
            "eventType": "Bounce",
            "bounce": {"bounceType": if what == "soft" { "Transient" } else { "Permanent" },
                "bounceSubType": "General", "feedbackId": format!("f-{what}"),
                "bouncedRecipients": [{"emailAddress": to, "action": "failed", "status": "5.1.1",
                    "diagnosticCode": "smtp; 550 5.1.1 no such user"}]},
        })),
        (Provider::Ses, "complained") => ses(json!({
            "notificationType": "Complaint",
            "complaint": {"complainedRecipients": [{"emailAddress": to}],
                "complaintFeedbackType": "abuse", "feedbackId": "f-c"},
        })),
        (Provider::Ses, "delivered") => ses(json!({
            "notificationType": "Delivery",
            "delivery": {"recipients": [to], "smtpResponse": "250 ok", "timestamp": "x"},
        })),
        (Provider::Ses, "unsubscribed") => ses(json!({
            "eventType": "Subscription",
            "subscription": {"newTopicPreferences": {"unsubscribeAll": true}},
        })),
        (Provider::Ses, "delayed") => ses(json!({"eventType": "DeliveryDelay"})),
        (Provider::Ses, other) => ses(json!({"eventType": other})),
        (Provider::Postmark, _) => {
            let mut event = json!({"MessageID": "883953f4-6105-42a2-a16a-77a8eac79483", "ID": 42,
                "Headers": [{"Name": "Message-ID", "Value": id}], "Details": "no such user"});
            let (record, kind) = match what {
                "bounced" => ("Bounce", "HardBounce"),
                "soft" => ("Bounce", "SoftBounce"),
                "delayed" => ("Bounce", "Transient"),
                "complained" => ("SpamComplaint", "SpamComplaint"),
                "delivered" => ("Delivery", ""),
                "unsubscribed" => ("SubscriptionChange", ""),
                other => (other, ""),
            };
            event["RecordType"] = record.into();
            event["Type"] = kind.into();
            let key = if record == "Delivery" || kind.is_empty() {
                "Recipient"
            } else {
                "Email"
            };
            event[key] = to.into();
            event["SuppressSending"] = true.into();
            event["SuppressionReason"] = "ManualSuppression".into();
            event
        }
        (Provider::Resend, "unsubscribed") => return None,
        (Provider::Resend, _) => {
            let name = match what {
                "soft" => "bounced",
                "delayed" => "delivery_delayed",
                other => other,
            };
            let kind = if what == "bounced" {
                "Permanent"
            } else {
                "Transient"
            };
            json!({"type": format!("email.{name}"), "data": {"email_id": "56761188-7520-42d8",
                "to": [to], "message_id": id, "bounce": {"type": kind, "message": "no such user"}}})
        }
    };
    Some(event)
}

/// The name that a mail has in its Message-ID.
async fn message_id(world: &ProviderSetup, mail: MailId) -> String {
    world
        .service
        .dispatcher
        .status(mail)
        .await
        .unwrap()
        .message_id
}

#[tokio::test]
async fn each_provider_reports_what_became_of_a_mail_and_twice_is_once() {
    let world = ProviderSetup::new().await;
    for provider in Provider::ALL {
        let name = provider.as_str();
        for (what, kind) in [
            ("bounced", Some(FeedbackKind::Bounced)),
            ("soft", Some(FeedbackKind::Bounced)),
            ("complained", Some(FeedbackKind::Complained)),
            ("delivered", Some(FeedbackKind::Delivered)),
            ("unsubscribed", Some(FeedbackKind::Unsubscribed)),
            ("delayed", None),
        ] {
            let to = format!("{what}@{name}.example");
            let Some(said) = event(provider, what, &to, "?") else {
                continue;
            };
            let mail = world.send(&to, Some("news")).await;
            let id = message_id(&world, mail).await;
            let said = said.to_string().replace("\"?\"", &json!(id).to_string());
            // A provider that keeps no Message-ID is understood by its own name for the mail.
            let said: Value = serde_json::from_str(&said).unwrap();
            let known = provider != Provider::Postmark;

            for turn in 0..2 {
                let at = Timestamp::now() + std::time::Duration::from_secs(turn);
                let signed = world.sign(provider, &said, at);
                let answer = world.bring(provider, &signed).await;
                assert_eq!(answer.status, 202, "{name} {what}: {}", answer.text());
                if kind.is_some() && known {
                    let result = &answer.value()["results"][0];
                    assert_eq!(result["duplicate"], turn == 1, "{name} {what}: {result}");
                }
            }
            let expected = kind.filter(|_| known).map(|kind| (kind, name.to_owned()));
            let told = world.recorded(mail).await;
            assert_eq!(
                told,
                expected.into_iter().collect::<Vec<_>>(),
                "{name} {what}"
            );
        }
        assert!(world.counted(provider, "nothing").await, "{name}");
    }

    let suppressed = world.suppressed().await;
    for provider in Provider::ALL.map(Provider::as_str) {
        let of_it = suppressed.iter().filter(|one| one.contains(provider));
        let of_it: Vec<&str> = of_it.map(String::as_str).collect();
        let bounced = format!("bounced@{provider}.example bounce");
        let complained = format!("complained@{provider}.example complaint");
        let left = format!("unsubscribed@{provider}.example unsubscribe news");
        match provider {
            "postmark" => assert!(of_it.is_empty(), "{of_it:?}"),
            "resend" => assert_eq!(of_it, [bounced, complained]),
            _ => assert_eq!(of_it, [bounced, complained, left], "{provider}"),
        }
    }
}

#[tokio::test]
async fn what_does_not_prove_whose_it_is_or_is_not_of_now_changes_nothing() {
    let now = Timestamp::now();
    for provider in Provider::ALL {
        // One of its own for each: guesses cost an address time.
        let world = ProviderSetup::new().await;
        let mail = world.send("ada@example.org", None).await;
        let id = message_id(&world, mail).await;
        let name = provider.as_str();
        let said = event(provider, "delivered", "ada@example.org", &id).unwrap();
        let good = world.sign(provider, &said, now);

        let refused = |what: String, signed: SignedRequest| {
            let world = &world;
            async move {
                let answer = world.bring(provider, &signed).await;
                assert_eq!(answer.status, 401, "{name} {what}: {}", answer.text());
                answer.problem(401, "unproved");
                assert!(world.recorded(mail).await.is_empty(), "{name} {what}");
            }
        };

        // Nothing to check.
        let bare = SignedRequest {
            headers: vec![("content-type", "application/json".to_owned())],
            body: said.to_string(),
        };
        refused("bare".to_owned(), bare).await;

        // Every header and every signature, changed.
        for at in 0..good.headers.len() {
            let mut wrong = good.clone();
            if wrong.headers[at].0 == "content-type" {
                continue;
            }
            let value = &mut wrong.headers[at].1;
            let place = value.len() - 5..value.len() - 4;
            let other = if &value[place.clone()] == "0" {
                "1"
            } else {
                "0"
            };
            value.replace_range(place, other);
            refused(wrong.headers[at].0.to_owned(), wrong).await;
        }

        let is_signed = !matches!(provider, Provider::Brevo | Provider::Postmark);
        if is_signed {
            for (age, what) in [(7200, "old"), (60 * 60 * 24 * 365, "very old")] {
                let then = Timestamp::from_millis(now.as_millis() - age * 1000);
                refused(what.to_owned(), world.sign(provider, &said, then)).await;
            }
            let ahead = now + std::time::Duration::from_secs(3600);
            refused("ahead".to_owned(), world.sign(provider, &said, ahead)).await;
        }
        // All but Mailgun sign what they say.
        if is_signed && provider != Provider::Mailgun {
            let mut wrong = good.clone();
            wrong.body = wrong.body.replace("ada@example.org", "eve@example.org");
            refused("another body".to_owned(), wrong).await;
        } else if provider == Provider::Mailgun {
            for field in ["timestamp", "token", "signature"] {
                let mut body: Value = serde_json::from_str(&good.body).unwrap();
                let value = body["signature"][field].as_str().unwrap();
                let turned: String = value.chars().rev().collect();
                body["signature"][field] = turned.into();
                let wrong = SignedRequest {
                    body: body.to_string(),
                    ..good.clone()
                };
                refused(field.to_owned(), wrong).await;
            }
        }
        assert!(world.counted(provider, "refused").await, "{name}");
    }

    // And the same is believed as it was signed, once.
    let world = ProviderSetup::new().await;
    let mail = world.send("ada@example.org", None).await;
    let id = message_id(&world, mail).await;
    for provider in [
        Provider::Sendgrid,
        Provider::Mailgun,
        Provider::Ses,
        Provider::Resend,
    ] {
        let said = event(provider, "bounced", "ada@example.org", &id).unwrap();
        let good = world.sign(provider, &said, now);
        let answer = world.bring(provider, &good).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        let again = world.bring(provider, &good).await;
        again.problem(401, "unproved");
    }
    assert_eq!(world.recorded(mail).await.len(), 4);
}

#[tokio::test]
async fn unknown_events_batches_and_hostile_bodies_do_no_harm() {
    let world = ProviderSetup::new().await;
    let ada = world.send("ada@example.org", None).await;
    let ben = world.send("ben@example.org", None).await;
    let now = Timestamp::now();

    for provider in Provider::ALL {
        let said = event(provider, "moved_house", "ada@example.org", "x").unwrap();
        let answer = world
            .bring(provider, &world.sign(provider, &said, now))
            .await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        assert_eq!(answer.value()["results"], json!([]));
        assert!(world.counted(provider, "ignored").await, "{provider:?}");

        // Of a mail that is not kept here.
        let said = event(provider, "bounced", "eve@example.org", "<x@y>").unwrap();
        let answer = world
            .bring(provider, &world.sign(provider, &said, now))
            .await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        assert!(world.counted(provider, "unknown").await, "{provider:?}");

        for hostile in [
            json!(null),
            json!([]),
            json!([[[]], 1, "x", null, {}]),
            json!({"event": {"event": []}, "data": 7, "RecordType": [], "type": {}}),
            json!({"event": "bounce", "email": "a\r\nb@example.org", "type": "email.bounced",
                "data": {"to": {"x": 1}}, "RecordType": "Bounce", "Type": "HardBounce"}),
        ] {
            let answer = world
                .bring(provider, &world.sign(provider, &hostile, now))
                .await;
            let status = answer.status.as_u16();
            assert!([202, 401].contains(&status), "{hostile}: {}", answer.text());
        }
        for hostile in ["", "{", "[1,", "\u{0}", &"[".repeat(100_000)] {
            let mut signed = world.sign(Provider::Brevo, &json!({}), now);
            signed.body = hostile.to_owned();
            let answer = world.bring(provider, &signed).await;
            let status = answer.status.as_u16();
            assert!([400, 401].contains(&status), "{}", answer.text());
        }
    }
    assert!(world.suppressed().await.is_empty());

    let (first, second) = (message_id(&world, ada).await, message_id(&world, ben).await);
    let mut batch = event(Provider::Sendgrid, "bounced", "ada@example.org", &first).unwrap();
    let other = event(Provider::Sendgrid, "complained", "ben@example.org", &second).unwrap();
    let unknown = json!({"event": "moved_house"});
    let more = [other[0].clone(), unknown, batch[0].clone()];
    batch.as_array_mut().unwrap().extend(more);
    let signed = world.sign(Provider::Sendgrid, &batch, now);
    let answer = world.bring(Provider::Sendgrid, &signed).await.value();
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 3, "{answer}");
    assert_eq!(results[2]["duplicate"], true, "{answer}");
    let expected = ["ada@example.org bounce", "ben@example.org complaint"];
    assert_eq!(world.suppressed().await, expected);

    // A provider that is not configured, one that there is not, and reports, which need a token.
    for (path, status) in [("mandrill", 401), ("report", 401), ("brevo/x", 401)] {
        let path = format!("/v1/feedback/{path}");
        let answer = world.service.send("POST", &path, &[], "{}").await;
        assert_eq!(answer.status, status, "{path}");
    }
}

/// What a provider holds back itself, or what a mailbox of these days has no room for, is no reason
/// to hold back more; and a recipient may be told with a name.
#[tokio::test]
async fn a_bounce_that_says_nothing_of_the_address_suppresses_nobody() {
    let world = ProviderSetup::new().await;
    let now = Timestamp::now();
    let ses = |kind: &str, id: &str| {
        let mut said = event(Provider::Ses, "bounced", "kept@example.org", id).unwrap();
        said["bounce"]["bounceType"] = "Permanent".into();
        said["bounce"]["bounceSubType"] = kind.into();
        said["bounce"]["bouncedRecipients"] = json!([{"emailAddress": "kept@example.org"}]);
        said
    };
    let resend = |kind: &str, id: &str| {
        let named = "Kept <Kept@example.org>";
        let mut said = event(Provider::Resend, "bounced", named, id).unwrap();
        said["data"]["bounce"]["subType"] = kind.into();
        said
    };

    for kind in ["Suppressed", "OnAccountSuppressionList", "MailboxFull"] {
        let mail = world.send("kept@example.org", None).await;
        let id = message_id(&world, mail).await;
        for (provider, said) in [
            (Provider::Ses, ses(kind, &id)),
            (Provider::Resend, resend(kind, &id)),
        ] {
            let signed = world.sign(provider, &said, now);
            let answer = world.bring(provider, &signed).await.value();
            assert_eq!(answer["results"][0]["kind"], "bounced", "{kind}: {answer}");
        }
    }
    assert_eq!(world.suppressed().await, [""; 0]);

    let mail = world.send("kept@example.org", None).await;
    let said = resend("General", &message_id(&world, mail).await);
    let signed = world.sign(Provider::Resend, &said, now);
    world.bring(Provider::Resend, &signed).await;
    assert_eq!(world.suppressed().await, ["kept@example.org bounce"]);
}

#[tokio::test]
async fn sns_is_believed_by_its_certificate_alone_and_confirmed_where_its_topic_is() {
    let world = ProviderSetup::new().await;
    let mail = world.send("ada@example.org", None).await;
    let id = message_id(&world, mail).await;
    let now = Timestamp::now();
    let said = event(Provider::Ses, "bounced", "ada@example.org", &id).unwrap();

    // The old version of the signature as well.
    let old = world.sns.notification(&said.to_string(), now, "1");
    let answer = world.bring(Provider::Ses, &old).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(world.recorded(mail).await.len(), 1);

    // Nothing is fetched that the message makes up, nor for a topic that is not ours.
    let good: Value = serde_json::from_str(&old.body).unwrap();
    for (field, value) in [
        (
            "SigningCertURL",
            "https://evil.example/SimpleNotificationService-1.pem",
        ),
        ("SigningCertURL", "http://169.254.169.254/latest/meta-data"),
        (
            "SigningCertURL",
            "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-1.pem",
        ),
        ("TopicArn", "arn:aws:sns:eu-west-1:666:mail"),
        ("SignatureVersion", "3"),
        ("Signature", "AAAA"),
        ("Type", "Else"),
        ("Timestamp", "yesterday"),
    ] {
        let mut wrong = good.clone();
        wrong[field] = value.into();
        let signed = SignedRequest {
            headers: Vec::new(),
            body: wrong.to_string(),
        };
        let answer = world.bring(Provider::Ses, &signed).await;
        answer.problem(401, "unproved");
    }
    assert_eq!(*world.sns.web.asked.lock().unwrap(), [CERTIFICATE]);

    // A subscription is confirmed at the topic's own host, whatever the message names.
    let confirmation = json!({
        "Type": "SubscriptionConfirmation",
        "MessageId": "165545c9-2a5c-472c-8df2-7ff2be2b3b1b",
        "Token": "2336412f37",
        "TopicArn": TOPIC,
        "Message": "You have chosen to subscribe",
        "SubscribeURL": "http://169.254.169.254/latest/meta-data",
        "Timestamp": now.to_string(),
    });
    let mut forged = world.sns.message(confirmation.clone(), "2");
    forged["Token"] = "another".into();
    for (body, status) in [(forged, 401), (world.sns.message(confirmation, "2"), 202)] {
        let signed = SignedRequest {
            headers: Vec::new(),
            body: body.to_string(),
        };
        let answer = world.bring(Provider::Ses, &signed).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    let asked = world.sns.web.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(
        asked[1].starts_with("https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription"),
        "{asked:?}"
    );
    assert!(asked[1].ends_with("&Token=2336412f37"), "{asked:?}");
}

/// A world with a mail of its own, since each wrong proof costs its address time; and what a
/// provider says of it.
async fn reported_for_one(provider: Provider) -> (ProviderSetup, MailId, Value) {
    let world = ProviderSetup::new().await;
    let mail = world.send("ada@example.org", None).await;
    let id = message_id(&world, mail).await;
    let said = event(provider, "bounced", "ada@example.org", &id).unwrap();
    (world, mail, said)
}

/// One provider's proof proves nothing to another, nor of another body than it was made for,
/// however alike the two are to a reader of JSON.
#[tokio::test]
async fn a_proof_holds_for_its_provider_and_its_bytes_alone() {
    let now = Timestamp::now();
    for provider in Provider::ALL {
        let name = provider.as_str();
        let others = Provider::ALL.into_iter().filter(|other| *other != provider);
        for other in others {
            let (world, mail, said) = reported_for_one(other).await;
            let answer = world.bring(provider, &world.sign(other, &said, now)).await;
            // These two have the same password here; what Postmark says is nothing to Brevo.
            let alike = (other, provider) == (Provider::Postmark, Provider::Brevo);
            let status = answer.status.as_u16();
            assert_eq!(status, if alike { 202 } else { 401 }, "{other:?} to {name}");
            assert!(world.recorded(mail).await.is_empty(), "{other:?} to {name}");
        }

        let dated = match provider {
            Provider::Sendgrid => "x-twilio-email-event-webhook-timestamp",
            Provider::Resend => "svix-timestamp",
            _ => continue,
        };

        // The same JSON in other bytes.
        for n in 0..3 {
            let (world, mail, said) = reported_for_one(provider).await;
            let mut again = world.sign(provider, &said, now);
            again.body = match n {
                0 => serde_json::to_string_pretty(&said).unwrap(),
                1 => format!(" {}", again.body),
                _ => format!("{}\n", again.body),
            };
            let answer = world.bring(provider, &again).await;
            assert_eq!(answer.status, 401, "{name}: {}", answer.text());
            assert!(world.recorded(mail).await.is_empty(), "{name}");
        }

        // A time that is none, is absent, or is changed without the signature.
        let huge = u64::MAX.to_string();
        let max = i64::MAX.to_string();
        for time in [
            None,
            Some(""),
            Some("-1"),
            Some("now"),
            Some("1e9"),
            Some(&huge),
            Some(&max),
        ] {
            let (world, mail, said) = reported_for_one(provider).await;
            let mut wrong = world.sign(provider, &said, now);
            wrong.headers.retain(|(name, _)| *name != dated);
            wrong
                .headers
                .extend(time.map(|time| (dated, time.to_owned())));
            let answer = world.bring(provider, &wrong).await;
            assert_eq!(answer.status, 401, "{name} {time:?}: {}", answer.text());
            assert!(world.recorded(mail).await.is_empty(), "{name} {time:?}");
        }
    }
}

/// The same event once more, under another id and another signature, says nothing new.
#[tokio::test]
async fn what_is_said_again_under_another_id_is_kept_once_for_its_kind() {
    let world = ProviderSetup::new().await;
    for provider in Provider::ALL
        .into_iter()
        .filter(|one| *one != Provider::Postmark)
    {
        let to = format!("ada@{}.example", provider.as_str());
        let mail = world.send(&to, None).await;
        let id = message_id(&world, mail).await;
        let said = event(provider, "bounced", &to, &id).unwrap();
        for n in 0..30_u64 {
            let mut again = said.to_string();
            for own in ["e-bounced", "id-bounced", "f-bounced", "56761188-7520-42d8"] {
                again = again.replace(own, &format!("{own}-{n}"));
            }
            let again: Value = serde_json::from_str(&again).unwrap();
            let at = Timestamp::now() + std::time::Duration::from_secs(n);
            let answer = world
                .bring(provider, &world.sign(provider, &again, at))
                .await;
            assert_eq!(answer.status, 202, "{provider:?}: {}", answer.text());
        }
        let told = world.recorded(mail).await.len();
        assert!((1..=20).contains(&told), "{provider:?}: {told} are kept");
        let suppressed = world.suppressed().await;
        let of_it = suppressed.iter().filter(|one| one.starts_with(&to));
        assert_eq!(of_it.count(), 1, "{suppressed:?}");
    }
}

#[tokio::test]
async fn a_header_that_comes_twice_and_bytes_of_another_set_are_refused() {
    let world = ProviderSetup::new().await;
    let mail = world.send("ada@example.org", None).await;
    let id = message_id(&world, mail).await;
    let now = Timestamp::now();
    for provider in [Provider::Sendgrid, Provider::Resend, Provider::Brevo] {
        let said = event(provider, "complained", "ada@example.org", &id).unwrap();
        let good = world.sign(provider, &said, now);
        for at in 0..good.headers.len() {
            let (name, value) = good.headers[at].clone();
            let other = match name {
                "authorization" => "Bearer another".to_owned(),
                _ => format!("{value}0"),
            };
            for place in [0, good.headers.len()] {
                let mut twice = good.clone();
                twice.headers.insert(place, (name, other.clone()));
                let answer = world.bring(provider, &twice).await;
                let status = answer.status.as_u16();
                assert!([400, 401].contains(&status), "{name}: {}", answer.text());
            }
        }
    }
    assert!(world.recorded(mail).await.is_empty());

    // Bytes that are no UTF-8, and JSON of two bytes a letter, by whoever has the password.
    let said = event(Provider::Brevo, "complained", "ada@example.org", &id).unwrap();
    let wide: Vec<u8> = said
        .to_string()
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let broken = [
        b"{\"event\": \"spam\", \"email\": \"\xff\xfe",
        &wide[..8],
        b"\"}",
    ]
    .concat();
    let marked = [&b"\xef\xbb\xbf"[..], said.to_string().as_bytes()].concat();
    let bearer = format!("Bearer {PASSWORD}");
    for (kind, body, statuses) in [
        ("application/json; charset=utf-16le", wide, [400, 400]),
        ("application/json; charset=iso-8859-1", broken, [400, 400]),
        ("text/plain", marked, [202, 400]),
    ] {
        let headers = [
            ("host", "mail.example.com"),
            ("authorization", bearer.as_str()),
            ("content-type", kind),
        ];
        let answer = world
            .service
            .send("POST", "/v1/feedback/brevo", &headers, body);
        let answer = answer.await;
        let status = answer.status.as_u16();
        assert!(statuses.contains(&status), "{kind}: {}", answer.text());
    }
}

/// Lists that are long for no reason: of events, and of the recipients of one.
#[tokio::test]
async fn huge_lists_of_events_and_recipients_take_neither_time_nor_memory_without_bounds() {
    let world = ProviderSetup::new().await;
    let mail = world.send("ada@example.org", None).await;
    let id = message_id(&world, mail).await;
    let now = Timestamp::now();
    let begun = std::time::Instant::now();

    // What is counted is counted each time.
    let unknown = Value::Array(vec![json!({}); 100_000]);
    let signed = world.sign(Provider::Sendgrid, &unknown, now);
    let answer = world.bring(Provider::Sendgrid, &signed).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let metrics = world.service.dispatcher.metrics().await.unwrap();
    let line = "postrider_feedback_total{by=\"sendgrid\",result=\"ignored\"} 100000";
    assert!(metrics.contains(line), "{metrics}");

    let mut bounced = event(Provider::Sendgrid, "bounced", "ada@example.org", &id).unwrap();
    let one = bounced[0].clone();
    bounced.as_array_mut().unwrap().extend(vec![one; 500]);
    let signed = world.sign(Provider::Sendgrid, &bounced, now);
    let answer = world.bring(Provider::Sendgrid, &signed).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(world.recorded(mail).await.len(), 1);

    let everybody = vec![json!("nobody@example.net"); 100_000];
    let mut resend = event(Provider::Resend, "delivered", "x", "x").unwrap();
    resend["data"]["to"] = everybody.clone().into();
    let mut ses = event(Provider::Ses, "delivered", "x", "x").unwrap();
    ses["delivery"]["recipients"] = everybody.into();
    for (provider, said) in [(Provider::Resend, resend), (Provider::Ses, ses)] {
        let answer = world
            .bring(provider, &world.sign(provider, &said, now))
            .await;
        assert_eq!(answer.status, 202, "{}", answer.text());
    }

    let large = json!([{"event": "x".repeat(4 * 1024 * 1024)}]);
    let answer = world
        .bring(
            Provider::Sendgrid,
            &world.sign(Provider::Sendgrid, &large, now),
        )
        .await;
    assert_eq!(answer.status, 413, "{}", answer.text());
    assert!(begun.elapsed().as_secs() < 100, "{:?}", begun.elapsed());
}

/// Hosts and addresses that only look like those of SNS are not asked.
#[tokio::test]
async fn nothing_is_fetched_from_where_only_looks_like_sns() {
    let now = Timestamp::now();
    let hosts = [
        "https://sns.eu-west-1.amazonaws.com.evil.example",
        "https://sns.eu-west-1.amazonaws.com@evil.example",
        "https://sns.eu-west-1.amazonaws.com:443@evil.example",
        "https://evil.example/sns.eu-west-1.amazonaws.com",
        "https://evil.example#sns.eu-west-1.amazonaws.com",
        "https://evil.example\\sns.eu-west-1.amazonaws.com",
        "https://evil-sns.eu-west-1.amazonaws.com",
        "https://sns.eu-west-1.amazonaws.com.cn",
        "https://sns.eu-west-1.amazonaws.com.",
        "https://sns.eu-west-1.amazonaws.com:8443",
        "https://sns.eu-west-1.amazonaws.com:443",
        "https://user@sns.eu-west-1.amazonaws.com",
        "https://sns.eu-west-1.amaz\u{43e}naws.com",
        "https://s3.eu-west-1.amazonaws.com",
        "https://sns.eu-west-1%2eamazonaws.com",
        "http://sns.eu-west-1.amazonaws.com",
        "HTTPS://SNS.EU-WEST-1.AMAZONAWS.COM",
        "ftp://sns.eu-west-1.amazonaws.com",
        "//sns.eu-west-1.amazonaws.com",
        "https://[::1]",
        "https://127.0.0.1",
    ];
    let paths = [
        "/../SimpleNotificationService-0123456789abcdef.pem",
        "/x/SimpleNotificationService-0123456789abcdef.pem",
        "/SimpleNotificationService-0123456789abcdef.pem?x=y",
        "/SimpleNotificationService-0123456789abcdef.pem#x",
        "/SimpleNotificationService-..%2f..%2fx.pem",
        "/SimpleNotificationService-0123456789abcdef.pem/../x.pem",
        "/SimpleNotificationService-.pem",
        "/bucket/SimpleNotificationService-0123456789abcdef.pem",
    ];
    let own = "/SimpleNotificationService-0123456789abcdef.pem";
    let all = hosts.iter().map(|host| format!("{host}{own}"));
    let all = all.chain(
        paths
            .iter()
            .map(|path| format!("https://sns.eu-west-1.amazonaws.com{path}")),
    );
    // A few at a time: each costs its address time.
    for some in all.collect::<Vec<_>>().chunks(4) {
        let world = ProviderSetup::new().await;
        let mail = world.send("ada@example.org", None).await;
        let id = message_id(&world, mail).await;
        let said = event(Provider::Ses, "bounced", "ada@example.org", &id).unwrap();
        let good = world.sns.notification(&said.to_string(), now, "2");
        for url in some {
            let mut wrong: Value = serde_json::from_str(&good.body).unwrap();
            wrong["SigningCertURL"] = url.as_str().into();
            let signed = SignedRequest {
                headers: Vec::new(),
                body: wrong.to_string(),
            };
            let answer = world.bring(Provider::Ses, &signed).await;
            assert_eq!(answer.status, 401, "{url}: {}", answer.text());
            assert_eq!(*world.sns.web.asked.lock().unwrap(), [""; 0], "{url}");
        }
        assert!(world.recorded(mail).await.is_empty());
    }

    // What a confirmation names is never asked, and its token leads nowhere else.
    for token in [
        "x&TopicArn=arn:aws:sns:eu-west-1:666:other",
        "x#",
        "../x",
        "x y\r\nHost: evil.example",
        "",
    ] {
        let world = ProviderSetup::new().await;
        let confirmation = json!({
            "Type": "SubscriptionConfirmation",
            "MessageId": "165545c9-2a5c-472c-8df2-7ff2be2b3b1b",
            "Token": token,
            "TopicArn": TOPIC,
            "Message": "You have chosen to subscribe",
            "SubscribeURL": "https://evil.example/?Action=ConfirmSubscription",
            "Timestamp": now.to_string(),
        });
        let signed = SignedRequest {
            headers: Vec::new(),
            body: world.sns.message(confirmation, "2").to_string(),
        };
        let answer = world.bring(Provider::Ses, &signed).await;
        let status = answer.status.as_u16();
        assert!([202, 401].contains(&status), "{token:?}: {}", answer.text());
        for url in &world.sns.web.asked.lock().unwrap()[1..] {
            let read: url::Url = url.parse().unwrap();
            assert_eq!(
                read.host_str(),
                Some("sns.eu-west-1.amazonaws.com"),
                "{url}"
            );
            let topics: Vec<String> = read
                .query_pairs()
                .filter(|(name, _)| name == "TopicArn")
                .map(|(_, value)| value.into_owned())
                .collect();
            assert_eq!(topics, [TOPIC], "{url}");
            assert!(!url.contains(['\r', '\n', ' ', '#']), "{url}");
        }
    }
}
