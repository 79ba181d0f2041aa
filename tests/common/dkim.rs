//! Keys that the command line makes, and dkimpy, which verifies what they sign.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use postrider::transport::dkim::{Signer, SigningKey};

/// A key that `postrider dkim generate` made, and what it told to publish.
pub struct Key {
    pub file: PathBuf,
    pub name: String,
    pub record: String,
}

pub fn postrider(arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_postrider"))
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.success(),
        text(output.stdout),
        text(output.stderr),
    )
}

pub fn generate(dir: &Path, algorithm: &str, selector: &str) -> Key {
    let file = dir.join(format!("{selector}.pem"));
    let out = file.to_str().unwrap();
    let (done, printed, error) = postrider(&[
        "dkim",
        "generate",
        "example.com",
        selector,
        "--out",
        out,
        "--algorithm",
        algorithm,
    ]);

    assert!(done, "{error}");
    let mut lines = printed.lines();
    let name = lines.next().unwrap().trim_end_matches(" TXT").to_owned();

    let record = lines.next().unwrap().to_owned();
    Key { file, name, record }
}

pub fn signer(key: &Key, selector: &str) -> Signer {
    Signer {
        domain: "example.com".into(),
        selector: selector.into(),
        key: Arc::new(SigningKey::read(&key.file).unwrap()),
        skip_signed: false,
    }
}

/// How many good signatures each message has, as dkimpy says.
pub fn verified(dir: &Path, messages: &[Vec<u8>], keys: &[&Key]) -> Vec<usize> {
    let eml = dir.join("eml");
    std::fs::create_dir_all(&eml).unwrap();
    for (n, message) in messages.iter().enumerate() {
        // As SMTP ends each message (RFC 5321 §4.1.1.4).
        let mut message = message.clone();
        if !message.ends_with(b"\r\n") {
            message.extend_from_slice(b"\r\n");
        }
        std::fs::write(eml.join(format!("{n:04}.eml")), message).unwrap();
    }

    let records: serde_json::Map<String, serde_json::Value> = keys
        .iter()
        .map(|key| (key.name.clone(), key.record.clone().into()))
        .collect();
    let file = dir.join("records.json");
    std::fs::write(&file, serde_json::to_string(&records).unwrap()).unwrap();

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/dkim/verify.py");
    let output = Command::new("python3")
        .arg(script)
        .args([&eml, &file])
        .output()
        .unwrap();

    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    let printed = String::from_utf8(output.stdout).unwrap();
    printed.lines().map(|line| line.parse().unwrap()).collect()
}

/// Messages whose white space, fields and ends are all that a canonical form may stumble over.
pub fn odd_messages() -> Vec<String> {
    let header = "From: Ada <ada@example.com>\r\nTo: b@example.org\r\nSubject: x\r\n";
    let mut messages: Vec<String> = [
        "\r\n",
        "\r\nhello\r\n",
        "\r\nhello",
        "\r\nhello\r\n\r\n\r\n\r\n",
        "\r\n\r\n\r\n",
        "\r\n \t \r\n",
        "\r\n a \t b  \r\n\tc\t\r\n\r\n  \r\nd\r\n",
        "\r\n.\r\n..\r\n.dot\r\n",
    ]
    .iter()
    .map(|body| format!("{header}{body}"))
    .collect();

    for more in [
        "Subject:\r\n",
        "SUBJECT:  a\t\tb  \r\n",
        "Subject: a\r\n   b\r\n\tc\r\n",
        "X-Empty:\r\nX-Twice: 1\r\nX-Twice: 2\r\n",
        "References: <1@x>\r\n <2@x>\r\n\t<3@x>\r\n",
        "List-Unsubscribe: <https://example.com/u?a=b;c=d>\r\n\
         List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
        "Reply-To: c@example.net\r\nCc: d@example.net\r\nSender: e@example.net\r\n\
         In-Reply-To: <1@x>\r\n",
    ] {
        messages.push(format!(
            "{more}From: ada@example.com\r\nTo: b@example.org\r\n\r\nhello\r\n"
        ));
    }

    for rest in [
        // Names and colons as RFC 5322 §4.5 lets them stand.
        "From : Ada <ada@example.com>\r\nTo : b@example.org\r\nSubject :x\r\n\r\n\
         hello\r\n"
            .to_owned(),
        "from:ada@example.com\r\nTO:b@example.org\r\nsUbJeCt:\tx\r\n\r\nhello\r\n".to_owned(),
        // 8-bit text, as it came, and in the header.
        "From: ada@example.com\r\nTo: b@example.org\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: 8bit\r\n\r\nGr\u{fc}\u{df}e \u{1f600}  \r\n\r\n"
            .to_owned(),
        "From: Zo\u{eb} <ada@example.com>\r\nTo: b@example.org\r\nSubject: Gr\u{fc}\u{df}e\r\n\r\n\
         hello\r\n"
            .to_owned(),
        // Lines as long as they may be, and longer, which are mended before.
        format!(
            "From: ada@example.com\r\nTo: b@example.org\r\nSubject: x\r\n\r\n\
             {}\r\n",
            "x".repeat(998)
        ),
        format!(
            "From: ada@example.com\r\nTo: b@example.org\r\nSubject: x\r\n\r\n\
             {}\r\n",
            "x y".repeat(2000)
        ),
        format!(
            "From: ada@example.com\r\nTo: b@example.org\r\nSubject:{}\r\n\r\n\
             x\r\n",
            " word".repeat(400)
        ),
        // Many recipients, on many lines.
        format!(
            "From: ada@example.com\r\nTo: b@example.org{}\r\n\r\nx\r\n",
            (0..200)
                .map(|n| format!(",\r\n a{n}@example.org"))
                .collect::<String>()
        ),
        // Parts, with text before and after them.
        "From: ada@example.com\r\nTo: b@example.org\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed;\r\n boundary=\"b b\"\r\n\r\n\
         before \r\n--b b\r\n\r\none\r\n--b b\r\nContent-Type: text/html\r\n\r\n<p>two\r\n\
         --b b--\r\nafter\t\r\n\r\n"
            .to_owned(),
        // Large, and nothing but empty lines.
        format!(
            "From: ada@example.com\r\nTo: b@example.org\r\n\r\n{}",
            "a line of text \
             \r\n"
                .repeat(20_000)
        ),
        format!(
            "From: ada@example.com\r\nTo: b@example.org\r\n\r\n{}",
            "\r\n".repeat(3000)
        ),
        format!(
            "From: ada@example.com\r\nTo: b@example.org\r\n\r\nx{}",
            "\r\n \t".repeat(500)
        ),
    ] {
        messages.push(rest);
    }

    messages.extend((0..60).map(by_chance));
    messages
}

/// A message of white space, dots and letters, the same for each number.
fn by_chance(seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };

    let pieces = [
        "a", "b", " ", "  ", "\t", ".", "\r\n", "\r\n\r\n", "=", "--", "\r\n.",
    ];
    let folds = ["x", " ", "\t", "  ", "\r\n ", "\r\n\t", "y:z", ";"];

    let mut message =
        String::from("From: Ada <ada@example.com>\r\nTo: b@example.org\r\nSubject: s");
    for _ in 0..next(20) {
        message.push_str(folds[next(8) as usize]);
    }
    message.push_str("z\r\n\r\n");
    for _ in 0..next(200) {
        message.push_str(pieces[next(11) as usize]);
    }

    message
}
