//! What nobody here wrote, on the way to a provider: django-anymail sends the same mail as we do
//! and both are asked for the same; moto plays Amazon SES and keeps the message. A test fails where
//! its program is missing.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_parser::{Message, MessageParser, MimeHeaders, PartType};
use postrider::transport::Credentials;
use postrider::{Dispatcher, Envelope, Mail, MailStatus, Relay};
use serde_json::Value;

use crate::common::provider::{Act, Provider, ReceivedRequest};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients/real_providers")
        .join(name)
}

/// A relay at this address, with what proves who we are.
fn relay(provider: &str, address: &str) -> Relay {
    let place = match provider {
        "ses" => "eu-west-1",
        "mailgun" => "mg.example.com",
        _ => "",
    };

    let relay = Relay::smtp(&format!("{provider}+api://{place}"));
    let relay = relay.unwrap().endpoint(address).name(provider);
    relay.credentials(match provider {
        "ses" => Credentials::AccessKey {
            id: "AKIDEXAMPLE".into(),
            secret: "key".to_owned().into(),
        },
        _ => Credentials::ApiKey("s3cret".to_owned().into()),
    })
}

async fn send(relay: Relay, mail: Mail) -> MailStatus {
    let engine = Dispatcher::builder()
        .relay(relay)
        .spool_in_memory()
        .start()
        .await
        .unwrap();
    let id = engine.submit(mail).await.unwrap().id;
    engine.wait(id).await.unwrap()
}

/// Who stands in a field: name and address.
type People = Vec<(String, String)>;

/// What reaches a recipient, whatever the provider calls it.
#[derive(Debug, Default, PartialEq)]
struct Letter {
    login: String,
    from: People,
    to: People,
    cc: People,
    bcc: People,
    reply_to: People,
    subject: String,
    text: String,
    html: String,
    fields: BTreeMap<String, String>,
    files: Vec<File>,
}

#[derive(PartialEq)]
struct File {
    name: String,
    content_type: String,
    content: Vec<u8>,
    inline_id: String,
}

/// The fields that a sender of mail sets itself, and that are for the provider alone.
const OWN: [&str; 8] = [
    "message-id",
    "date",
    "mime-version",
    "idempotencykey",
    "x-pm-keepid",
    "content-type",
    "content-transfer-encoding",
    "received",
];

impl Letter {
    fn of(provider: &str, asked: &ReceivedRequest) -> Letter {
        let mut letter = match provider {
            "brevo" => Letter::of_brevo(&asked.json()),
            "sendgrid" => Letter::of_sendgrid(&asked.json()),
            "postmark" => Letter::of_postmark(&asked.json()),
            "resend" => Letter::of_resend(&asked.json()),
            "mailgun" => Letter::of_mailgun(asked),
            _ => {
                let body = asked.json();
                let raw = STANDARD.decode(text(&body["Content"]["Raw"]["Data"]));
                let mut recipients = Vec::new();
                for list in ["ToAddresses", "CcAddresses", "BccAddresses"] {
                    for address in body["Destination"][list].as_array().into_iter().flatten() {
                        recipients.push(text(address));
                    }
                }
                Letter::of_message(&raw.unwrap(), recipients)
            }
        };

        letter.login = match provider {
            "brevo" => asked.header("api-key").to_owned(),
            "postmark" => asked.header("x-postmark-server-token").to_owned(),
            // Its signature is over the time as well.
            "ses" => {
                let (scope, _) = asked.header("authorization").split_once(", ").unwrap();
                assert!(scope.ends_with("/eu-west-1/ses/aws4_request"), "{scope}");
                scope[..scope.find('/').unwrap()].to_owned()
            }
            _ => asked.header("authorization").to_owned(),
        };

        letter
            .fields
            .retain(|name, _| !OWN.contains(&name.as_str()));
        for file in &mut letter.files {
            // What Mailgun's form calls an image is its Content-ID.
            if provider == "mailgun" && !file.inline_id.is_empty() {
                file.name.clear();
            }
            // Text has the line ends of mail, or of Unix.
            if file.name.ends_with(".txt") {
                let text = String::from_utf8(std::mem::take(&mut file.content)).unwrap();
                file.content = text.replace("\r\n", "\n").into_bytes();
            }
        }

        letter.text = lines(&letter.text);
        letter.html = lines(&letter.html);

        // Whoever is hidden and alone may see himself: most providers want somebody in `to`.
        if letter.to.is_empty() && letter.cc.is_empty() {
            letter.to.append(&mut letter.bcc);
        }

        // A hidden recipient is told by his address alone.
        for (name, _) in &mut letter.bcc {
            name.clear();
        }
        letter
    }

    fn of_brevo(body: &Value) -> Letter {
        let files = list(&body["attachment"]);
        Letter {
            from: objects(&body["sender"]),
            to: objects(&body["to"]),
            cc: objects(&body["cc"]),
            bcc: objects(&body["bcc"]),
            reply_to: objects(&body["replyTo"]),
            subject: text(&body["subject"]),
            text: text(&body["textContent"]),
            html: text(&body["htmlContent"]),
            fields: fields(&body["headers"]),
            files: files.map(|file| File::of(file, "name", "", "")).collect(),
            ..Letter::default()
        }
    }

    fn of_sendgrid(body: &Value) -> Letter {
        let people = &body["personalizations"][0];
        let content = |kind: &str| {
            let found = list(&body["content"]).find(|part| part["type"] == kind);
            found.map(|part| text(&part["value"])).unwrap_or_default()
        };

        let mut reply_to = objects(&body["reply_to"]);
        reply_to.extend(objects(&body["reply_to_list"]));
        let files = list(&body["attachments"]);
        Letter {
            from: objects(&body["from"]),
            to: objects(&people["to"]),
            cc: objects(&people["cc"]),
            bcc: objects(&people["bcc"]),
            reply_to,
            subject: text(&body["subject"]),
            text: content("text/plain"),
            html: content("text/html"),
            fields: fields(&body["headers"]),
            files: files
                .map(|file| File::of(file, "filename", "type", "content_id"))
                .collect(),
            ..Letter::default()
        }
    }

    fn of_postmark(body: &Value) -> Letter {
        let pair = |field: &Value| (text(&field["Name"]).to_lowercase(), text(&field["Value"]));
        let files = list(&body["Attachments"]);
        Letter {
            from: mailboxes(&text(&body["From"])),
            to: mailboxes(&text(&body["To"])),
            cc: mailboxes(&text(&body["Cc"])),
            bcc: mailboxes(&text(&body["Bcc"])),
            reply_to: mailboxes(&text(&body["ReplyTo"])),
            subject: text(&body["Subject"]),
            text: text(&body["TextBody"]),
            html: text(&body["HtmlBody"]),
            fields: list(&body["Headers"]).map(pair).map(decoded).collect(),
            files: files
                .map(|file| File::of(file, "Name", "ContentType", "ContentID"))
                .collect(),
            ..Letter::default()
        }
    }

    fn of_resend(body: &Value) -> Letter {
        let people = |key: &str| {
            list(&body[key])
                .flat_map(|one| mailboxes(&text(one)))
                .collect()
        };

        let files = list(&body["attachments"]);
        Letter {
            from: mailboxes(&text(&body["from"])),
            to: people("to"),
            cc: people("cc"),
            bcc: people("bcc"),
            reply_to: people("reply_to"),
            subject: text(&body["subject"]),
            text: text(&body["text"]),
            html: text(&body["html"]),
            fields: fields(&body["headers"]),
            files: files
                .map(|file| File::of(file, "filename", "content_type", "content_id"))
                .collect(),
            ..Letter::default()
        }
    }

    /// Anymail says it in the fields of a form; we in a whole message, with its recipients.
    fn of_mailgun(asked: &ReceivedRequest) -> Letter {
        let mut form: Vec<(String, String)> = Vec::new();
        let mut files = Vec::new();
        let kind = asked.header("content-type");
        if kind.starts_with("multipart/form-data") {
            let mut message = format!("Content-Type: {kind}\r\n\r\n").into_bytes();
            message.extend_from_slice(&asked.body);
            let parsed = MessageParser::default().parse(&message).unwrap();
            for part in parsed.parts.iter().skip(1) {
                let of = part.content_disposition().unwrap();
                let name = of.attribute("name").unwrap();
                if name == "message" {
                    let PartType::Message(message) = &part.body else {
                        panic!("it is no message: {part:?}");
                    };
                    let (_, recipients) = &form[0];
                    let recipients = recipients.split(',').map(str::to_owned).collect();
                    return Letter::of_message(message.raw_message(), recipients);
                }
                match of.attribute("filename") {
                    Some(file) => files.push(File {
                        name: file.to_owned(),
                        content_type: content_type(part),
                        content: part.contents().to_vec(),
                        inline_id: match name {
                            "inline" => file.to_owned(),
                            _ => String::new(),
                        },
                    }),
                    None => form.push((name.to_owned(), part.text_contents().unwrap().to_owned())),
                }
            }
        } else {
            let pairs = url::form_urlencoded::parse(&asked.body).into_owned();
            form.extend(pairs);
        }

        let all = |name: &str| -> Vec<&str> {
            let found = form.iter().filter(|(known, _)| known == name);
            found.map(|(_, value)| value.as_str()).collect()
        };

        let people = |name: &str| all(name).iter().flat_map(|one| mailboxes(one)).collect();
        let one = |name: &str| all(name).concat();
        let more = form.iter().filter_map(|(name, value)| {
            let name = name.strip_prefix("h:")?.to_lowercase();
            (name != "reply-to").then(|| (name, value.clone()))
        });

        Letter {
            from: people("from"),
            to: people("to"),
            cc: people("cc"),
            bcc: people("bcc"),
            reply_to: people("h:Reply-To"),
            subject: one("subject"),
            text: one("text"),
            html: one("html"),
            fields: more.collect(),
            files,
            ..Letter::default()
        }
    }

    fn of_message(raw: &[u8], recipients: Vec<String>) -> Letter {
        let message = MessageParser::default().parse(raw).unwrap();

        let named = |list: Option<&mail_parser::Address<'_>>| list.map(people).unwrap_or_default();
        let (to, cc) = (named(message.to()), named(message.cc()));
        let hidden = |address: &&String| !to.iter().chain(&cc).any(|(_, known)| known == *address);
        Letter {
            from: named(message.from()),
            bcc: recipients
                .iter()
                .filter(hidden)
                .map(|address| (String::new(), address.clone()))
                .collect(),
            to,
            cc,
            reply_to: named(message.reply_to()),
            subject: message.subject().unwrap_or_default().to_owned(),
            text: body(&message, "text/plain"),
            html: body(&message, "text/html"),
            fields: other_fields(&message),
            files: message
                .attachments()
                .map(|part| File {
                    name: part.attachment_name().unwrap_or_default().to_owned(),
                    content_type: content_type(part),
                    content: part.contents().to_vec(),
                    inline_id: match part.content_disposition().map(|of| of.is_inline()) {
                        Some(true) => part.content_id().unwrap_or_default().to_owned(),
                        _ => String::new(),
                    },
                })
                .collect(),
            ..Letter::default()
        }
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let content = STANDARD.encode(&self.content[..self.content.len().min(60)]);
        let File {
            name,
            content_type,
            inline_id,
            ..
        } = self;
        write!(f, "{name} {content_type} {inline_id} {content}")
    }
}

impl File {
    fn of(file: &Value, name: &str, content_type: &str, inline_id: &str) -> File {
        let content = file.get("content").or(file.get("Content")).unwrap();
        let content_type = text(&file[content_type]).replace('"', "");
        File {
            name: text(&file[name]),
            content_type: content_type.to_lowercase(),
            content: STANDARD.decode(text(content)).unwrap(),
            inline_id: text(&file[inline_id]).trim_start_matches("cid:").to_owned(),
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// `{"name": …, "email": …}`, one or several.
fn objects(value: &Value) -> People {
    let one = |person: &Value| {
        let name = text(&person["name"]);
        (unfold(&name), text(&person["email"]))
    };
    match value {
        Value::Array(all) => all.iter().map(one).collect(),
        Value::Object(_) => vec![one(value)],
        _ => Vec::new(),
    }
}

/// People as a header field has them.
fn mailboxes(text: &str) -> People {
    let message = format!("To: {text}\r\n\r\n");
    let parsed = MessageParser::default().parse(message.as_bytes()).unwrap();
    parsed.to().map(people).unwrap_or_default()
}

fn people(list: &mail_parser::Address<'_>) -> People {
    let one = |person: &mail_parser::Addr<'_>| {
        (
            person.name().unwrap_or_default().to_owned(),
            person.address().unwrap_or_default().to_owned(),
        )
    };
    list.iter().map(one).collect()
}

fn fields(value: &Value) -> BTreeMap<String, String> {
    let pair = |(name, value): (&String, &Value)| decoded((name.to_lowercase(), text(value)));
    value.as_object().into_iter().flatten().map(pair).collect()
}

fn decoded((name, value): (String, String)) -> (String, String) {
    (name, unfold(&value))
}

/// A field's value as a reader sees it: unfolded, and out of its encoded words.
fn unfold(value: &str) -> String {
    if !value.contains("=?") {
        return value.to_owned();
    }
    let message = format!("Subject: {value}\r\n\r\n");
    let parsed = MessageParser::default().parse(message.as_bytes()).unwrap();
    parsed.subject().unwrap_or_default().to_owned()
}

fn other_fields(message: &Message<'_>) -> BTreeMap<String, String> {
    let told = ["from", "to", "cc", "reply-to", "subject"];
    let fields = message.headers_raw().filter_map(|(name, value)| {
        let name = name.to_lowercase();
        let lines: Vec<&str> = value.split('\n').map(str::trim).collect();
        (!told.contains(&name.as_str())).then(|| decoded((name, lines.join(" ").trim().to_owned())))
    });
    fields.collect()
}

fn body(message: &Message<'_>, kind: &str) -> String {
    let found = message.parts.iter().find(|part| {
        let is_file = part.content_disposition().is_some();
        !is_file && content_type(part).starts_with(kind)
    });
    found
        .and_then(|part| part.text_contents())
        .unwrap_or_default()
        .to_owned()
}

fn content_type(part: &mail_parser::MessagePart<'_>) -> String {
    let Some(kind) = part.content_type() else {
        return "text/plain".into();
    };
    let (kind, charset) = (
        format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or_default()),
        kind.attribute("charset"),
    );
    let charset = charset.map(|charset| format!("; charset={charset}"));
    (kind + &charset.unwrap_or_default()).to_lowercase()
}

fn lines(text: &str) -> String {
    text.replace("\r\n", "\n").trim_end().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn django_anymail_asks_the_providers_for_the_same() {
    let recorder = Provider::new(vec![Act::Take]).await;
    let output = tokio::process::Command::new("python3")
        .arg(script("anymail_client.py"))
        .arg(&recorder.address)
        .output()
        .await
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);

    let installed = "pip install django-anymail boto3";
    assert!(output.status.success(), "{error}; {installed}");
    let sent: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let mut theirs = recorder.asked().into_iter();

    for one in &sent {
        let (provider, name) = (text(&one["provider"]), text(&one["name"]));
        let recipients = list(&one["recipients"]).map(|to| text(to).parse().unwrap());
        let return_path = Some(text(&one["from"]).parse().unwrap());
        let envelope = Envelope::new(return_path, recipients.collect()).unwrap();
        let message = STANDARD.decode(text(&one["message"])).unwrap();
        let mail = Mail::from_rfc5322(envelope, message).unwrap();

        let server = Provider::new(vec![Act::Take]).await;
        let status = send(relay(&provider, &server.address), mail).await;
        let ours = server.asked();
        if let Some(refused) = one["refused"].as_str() {
            assert_eq!(status.state.as_str(), "dead", "{provider}, {name}");
            assert!(ours.is_empty(), "{provider}, {name}: {refused}");
            continue;
        }
        assert_eq!(
            status.state.as_str(),
            "delivered",
            "{provider}, {name}: {status:#?}"
        );
        assert_eq!(ours.len(), 1, "{provider}, {name}");

        let (ours, theirs) = (&ours[0], &theirs.next().unwrap());
        if provider == "brevo" {
            // Brevo drops such a name that is not in encoded words.
            let name = text(&ours.json()["sender"]["name"]);
            assert!(name.is_ascii(), "{name}");
        }
        assert_eq!(
            Letter::of(&provider, ours),
            Letter::of(&provider, theirs),
            "{provider}, {name}"
        );
        if provider != "mailgun" {
            assert_eq!(ours.path, theirs.path, "{name}");
        }
    }

    assert!(theirs.next().is_none());
}

/// moto, until it is dropped.
struct Moto {
    child: Child,
    address: String,
}

impl Moto {
    fn start() -> Self {
        let mut child = Command::new("python3")
            .arg(script("moto_server.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();

        let mut told = BufReader::new(child.stdout.take().unwrap());
        told.read_line(&mut address).unwrap();
        assert!(
            address.starts_with("http://"),
            "moto does not start; pip install moto flask flask-cors"
        );

        Moto {
            child,
            address: address.trim().to_owned(),
        }
    }

    /// Lets this address send.
    fn verify(&self, address: &str) {
        let login = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260101/eu-west-1/ses/aws4_request, \
                     SignedHeaders=host, Signature=0";
        ureq::post(format!("{}/v2/email/identities", self.address))
            .header("authorization", login)
            .send_json(serde_json::json!({"EmailIdentity": address}))
            .unwrap();
    }

    fn kept(&self) -> Vec<Value> {
        let all = ureq::get(format!("{}/moto-api/data.json", self.address)).call();
        let all: Value = all.unwrap().body_mut().read_json().unwrap();
        all["ses"]["RawMessage"].as_array().unwrap().clone()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn motos_ses_keeps_each_message_byte_for_byte() {
    let moto = tokio::task::spawn_blocking(Moto::start).await.unwrap();
    tokio::task::block_in_place(|| moto.verify("shop@example.com"));

    let head = "From: Shop <shop@example.com>\r\nTo: ada@example.org\r\n\
                Date: Wed, 25 Nov 2026 10:00:00 +0000\r\n";
    let mut messages: Vec<Vec<u8>> = [
        "Message-ID: <1@example.com>\r\nSubject: a\r\n\r\nhello\r\n".to_owned(),
        "Message-ID: <2@example.com>\r\nSubject: b\r\n folded\r\n\r\n.\r\n..dots\r\n\r\n\
         \r\n"
            .to_owned(),
        "Message-ID: <3@example.com>\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: 8bit\r\n\r\nGr\u{fc}\u{df}e \u{1f600}\r\n"
            .to_owned(),
        format!("Message-ID: <4@example.com>\r\n\r\n{}\r\n", "x".repeat(998)),
        format!(
            "Message-ID: <5@example.com>\r\n\r\n{}",
            "a line of text\r\n".repeat(40_000)
        ),
    ]
    .iter()
    .map(|rest| format!("{head}{rest}").into_bytes())
    .collect();
    messages.sort();

    let mut expected = Vec::new();
    for message in messages {
        let to = vec![
            "ada@example.org".parse().unwrap(),
            "bob@example.net".parse().unwrap(),
        ];
        let envelope = Envelope::new(Some("bounce@example.com".parse().unwrap()), to).unwrap();
        let mail = Mail::from_rfc5322(envelope, message.clone()).unwrap();
        assert!(mail.message()[..] == message, "it was frozen as it came");
        let status = send(relay("ses", &moto.address), mail).await;
        assert_eq!(status.state.as_str(), "delivered", "{status:#?}");
        let attempt = &status.deliveries[0].attempts[0].text;
        expected.push((attempt.replace("accepted as ", ""), message));
    }

    let kept = tokio::task::block_in_place(|| moto.kept());
    assert_eq!(kept.len(), expected.len());
    for (id, message) in expected {
        let found = kept.iter().find(|one| one["id"] == id.as_str());
        let found = found.unwrap_or_else(|| panic!("{id} is not in {kept:?}"));
        assert!(found["raw_data"].as_str().unwrap().as_bytes() == message);
        let told = found["destinations"].to_string();
        assert!(told.contains("bob@example.net"), "{told}");
    }
}
