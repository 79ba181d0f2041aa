//! What must hold for whatever comes back for mail, for whatever is put into a template, and for
//! what is made of a mail that somebody else wrote.

#![allow(dead_code, reason = "each fuzz target uses one of them")]
#![allow(clippy::unwrap_used, reason = "a panic is what a fuzzer looks for")]

use std::sync::{Arc, LazyLock};

use postrider::feedback::{self, ReportReading};
use postrider::ingress::http::exercise;
use postrider::transport::dkim::{Dkim, Rewriting, Signer, SigningKey};
use postrider::{Templates, Timestamp};
use serde_json::Value;

/// A report is read, or is none; what it says can be kept and shown.
pub fn report(message: &[u8]) {
    if let ReportReading::Report(report) = feedback::read(message) {
        assert!(!report.findings.is_empty());
        for finding in &report.findings {
            assert!(!finding.text.chars().any(char::is_control), "{finding:?}");
        }
    }
    let letter = feedback::read_letter(message);
    assert!(!letter.subject.contains(char::is_whitespace), "{letter:?}");
}

/// A body is read as events of each provider, or not.
pub fn provider_events(body: &[u8]) {
    exercise::provider_events(body);
}

/// A file of addresses is read line by line; what was read is the same once it is written.
pub fn suppression_file(file: &[u8]) {
    exercise::suppression_file(file);
}

/// Nothing that runs, loads or leads away is left of a mail's HTML.
pub fn shown_html(html: &[u8]) {
    let shown = exercise::shown_html(&String::from_utf8_lossy(html));
    let (_, mut rest) = shown.split_once("<body").unwrap();
    while let Some((_, after)) = rest.split_once('<') {
        let (tag, after) = whole_tag(after);
        let name = tag
            .split([' ', '/', '>'])
            .next()
            .unwrap()
            .to_ascii_lowercase();
        assert!(!HARMFUL.contains(&name.as_str()), "{tag} in {shown}");
        for word in outside_of_quotes(tag).split_whitespace().skip(1) {
            let name = word.to_ascii_lowercase();
            assert!(!name.starts_with("on"), "{tag} in {shown}");
        }
        // The text of a style is no HTML.
        rest = match name.as_str() {
            "style" => after_style(after),
            _ => after,
        };
    }
}

const HARMFUL: [&str; 15] = [
    "script", "iframe", "frame", "object", "embed", "form", "input", "button", "base", "link",
    "meta", "svg", "math", "video", "audio",
];

/// What follows the text of a style, which ends with a tag, and not with what only begins like one
/// (WHATWG HTML §13.2.5.14).
fn after_style(text: &str) -> &str {
    let mut ends = text
        .match_indices("</style")
        .map(|(at, end)| &text[at + end.len()..]);
    ends.find(|rest| rest.starts_with(['>', '/', ' ', '\t', '\n', '\r', '\u{c}']))
        .unwrap_or_default()
}

/// A tag up to its end, and what follows; values stand in double quotes.
fn whole_tag(text: &str) -> (&str, &str) {
    let mut is_quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => is_quoted = !is_quoted,
            '>' if !is_quoted => return (&text[..at], &text[at + 1..]),
            _ => {}
        }
    }
    (text, "")
}

fn outside_of_quotes(tag: &str) -> String {
    let pieces = tag.split('"').step_by(2);
    pieces.collect::<Vec<_>>().join(" ")
}

/// A key that everybody knows (RFC 8410 §10.3).
const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
    -----END PRIVATE KEY-----\n";

static DKIM: LazyLock<Dkim> = LazyLock::new(|| {
    let key = SigningKey::from_pem(KEY.as_bytes()).unwrap();
    Dkim::new(vec![Signer {
        domain: "example.com".into(),
        selector: "s1".into(),
        key: Arc::new(key),
        skip_signed: false,
    }])
});

/// Signatures are whole header fields, and the same for a message whose lines have more white space
/// at their ends.
pub fn signed(message: &[u8]) {
    let now = Timestamp::from_millis(1_700_000_000_000);
    let mail = [b"From: shop@example.com\r\n", message].concat();
    let fields = DKIM.sign(&mail, now, Rewriting::None);
    if fields.is_empty() {
        return;
    }

    let text = String::from_utf8(fields.clone()).unwrap();
    assert!(
        text.starts_with("DKIM-Signature: ") && text.ends_with("\r\n"),
        "{text}"
    );
    let lines: Vec<&str> = text.trim_end().split("\r\n").collect();
    for line in &lines[1..] {
        assert!(line.starts_with([' ', '\t']), "{text}");
    }
    assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{text}");

    // What a relay does to white space (RFC 6376 §3.4.4).
    if let Some(at) = memchr::memmem::find(&mail, b"\r\n\r\n") {
        let (head, body) = mail.split_at(at + 4);
        let spaced = replaced(body, b"\r\n", b" \t\r\n");
        let again = DKIM.sign(
            &[head, &spaced, b" \r\n\r\n"].concat(),
            now,
            Rewriting::None,
        );
        assert_eq!(body_hash(&again), body_hash(&fields));
    }
}

fn replaced(text: &[u8], what: &[u8], by: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut from = 0;
    for at in memchr::memmem::find_iter(text, what) {
        out.extend_from_slice(&text[from..at]);
        out.extend_from_slice(by);
        from = at + what.len();
    }
    out.extend_from_slice(&text[from..]);
    out
}

fn body_hash(fields: &[u8]) -> String {
    let text = String::from_utf8_lossy(fields).into_owned();
    let (_, hash) = text.split_once(" bh=").unwrap();
    hash.split(';').next().unwrap().to_owned()
}

/// One template of each kind, with data in every place that data have.
static TEMPLATES: LazyLock<Templates> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("page/subject.txt", "For {{ x }}"),
        (
            "page/body.html",
            "<html><head><style>p { color: red }</style></head><body>\
             <p class=\"a\" title=\"{{ x }}\" id='{{ x }}'>{{ x }}</p>\
             <a href=\"https://example.com/?q={{ x }}\">x</a>\
             {% for one in list %}<li>{{ one }}</li>{% endfor %}</body></html>",
        ),
        ("blocks/subject.txt", "For {{ x }}"),
        (
            "blocks/body.mjml",
            "<mjml><mj-body><mj-section><mj-column><mj-text>{{ x }}</mj-text>\
             <mj-button href=\"https://example.com/{{ x }}\">{{ x }}</mj-button>\
             </mj-column></mj-section></mj-body></mjml>",
        ),
    ] {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    Templates::load(folder.path(), "en").unwrap()
});

/// Whatever is put in, as JSON or as one text: a subject stays one line, and no element comes of
/// it.
pub fn template_data(data: &[u8]) {
    let value = match serde_json::from_slice::<Value>(data) {
        Ok(value @ Value::Object(_)) => value,
        _ => {
            let text = String::from_utf8_lossy(data);
            serde_json::json!({"x": text, "list": [text, text]})
        }
    };
    for name in ["page", "blocks"] {
        let Ok(content) = TEMPLATES.render(name, &value, None) else {
            continue;
        };
        let subject = content.subject.unwrap();
        assert!(!subject.contains(['\r', '\n']), "{subject:?}");

        let html = content.html.unwrap().to_ascii_lowercase();
        assert_eq!(html.matches("<script").count(), 0, "{html}");
        assert_eq!(html.matches("<img").count(), 0, "{html}");
        assert_eq!(html.matches("<a ").count(), 1, "{html}");
        assert_eq!(html.matches("<body").count(), 1, "{html}");
    }
}
