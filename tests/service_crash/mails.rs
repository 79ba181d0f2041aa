//! What the clients submit: each mail has a key, and all of it follows from that, so that a mail
//! which is submitted again is the same.

use serde_json::{Value, json};

/// The size of a mail that the spool writes in several groups.
const LARGE: usize = 300 * 1024;
/// The field that carries the key as far as the relay.
const KEY_FIELD: &str = "X-Number";

/// A mail to be submitted.
#[derive(Clone)]
pub struct Draft {
    /// Its client's name and its number there.
    pub key: String,
    number: usize,
}

impl Draft {
    pub fn new(client: &str, number: usize) -> Self {
        Draft {
            key: format!("{client}-{number}"),
            number,
        }
    }

    fn of(key: &str) -> Self {
        let (client, number) = key.rsplit_once('-').unwrap();
        Draft::new(client, number.parse().unwrap())
    }

    pub fn recipients(&self) -> Vec<String> {
        let count = if self.number % 11 == 5 { 3 } else { 1 };
        (0..count).map(|n| format!("user{n}@example.org")).collect()
    }

    fn text(&self) -> String {
        let chance = self.key.bytes().fold(0, |sum: usize, byte| {
            sum.wrapping_mul(31).wrapping_add(byte.into())
        });
        let size = if chance.is_multiple_of(400) {
            LARGE
        } else {
            200 + chance % 2000
        };
        "All work and no play.\r\n".repeat(size / 23 + 1)
    }

    /// As `POST /v1/mails` takes it, without its key.
    pub fn json(&self) -> Value {
        json!({
            "from": "shop@example.com", "to": self.recipients(), "subject": self.key,
            "text": self.text(),
            "headers": {KEY_FIELD: self.key}, "priority": self.priority(),
        })
    }

    /// As SMTP takes it, up to the final dot; with its key.
    pub fn message(&self) -> String {
        let Draft { key, .. } = self;
        let head = format!("From: shop@example.com\r\nSubject: {key}\r\n{KEY_FIELD}: {key}\r\n");
        let directives = format!(
            "X-Postrider-Key: {key}\r\nX-Postrider-Priority: {}\r\n",
            self.priority()
        );
        format!("{head}{directives}\r\n{}", self.text())
    }

    fn priority(&self) -> &'static str {
        if self.number.is_multiple_of(6) {
            "critical"
        } else {
            "default"
        }
    }
}

/// To whom the mail with this key goes.
pub fn recipients_of(key: &str) -> Vec<String> {
    Draft::of(key).recipients()
}

/// The key of a message that arrived, and the id under which it was sent.
pub fn identify(message: &[u8]) -> Option<(String, String)> {
    let text = String::from_utf8_lossy(message);
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    let id = field("Message-ID")?.strip_prefix('<')?.split('@').next()?;
    Some((field(KEY_FIELD)?.to_owned(), id.to_owned()))
}
