//! Programs that others wrote hand their mail to `postrider sendmail`, as they would to Sendmail. A
//! test fails where its program is missing.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::{Command, Output};

use crate::common::service::{Service, configured};

/// A service that writes what it sends into files.
struct Place {
    service: Service,
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "[http]\nlisten = \"127.0.0.1:0\"\n[smtp]\nlisten = \"127.0.0.1:0\"\n[spool]\n\
             path = \"spool\"\n\
             [[relays]]\nurl = \"capture://{}/sent\"\n",
            dir.path().display()
        );
        let service = Service::start(configured(dir.path(), &config));
        Place { service, dir }
    }

    /// Runs a program that knows this service.
    fn run(&self, command: &mut Command, install: &str) -> Output {
        let url = format!("http://{}", self.service.http);
        let output = command.env("POSTRIDER_URL", url).output();
        let output = output.unwrap_or_else(|e| panic!("{command:?}: {e}; {install}"));
        assert!(output.status.success(), "{output:?}; {install}");
        output
    }

    /// The messages that went out, once all have ended.
    fn sent(&self, count: usize) -> Vec<String> {
        let listed = self.service.get("/v1/mails?limit=100").json();
        let ids: Vec<String> = listed["mails"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mail| mail["id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(ids.len(), count, "{listed}");
        self.service.become_all(&ids, "delivered");
        let files = std::fs::read_dir(self.dir.path().join("sent")).unwrap();
        let messages = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
        messages.collect()
    }
}

/// As programs that speak SMTP to a pipe do, Symfony's mailer among them.
#[test]
fn swaks_speaks_smtp_to_the_standard_input_of_sendmail() {
    let place = Place::new();
    let sendmail = format!("{} sendmail -bs", env!("CARGO_BIN_EXE_postrider"));
    for (subject, more) in [("one", &["--pipeline"][..]), ("two", &[])] {
        let mut swaks = Command::new("swaks");
        swaks.args(["--pipe", &sendmail, "--from", "shop@example.com"]);
        swaks.args(["--to", "ada@example.org,bob@example.org"]);
        swaks.args(["--header", &format!("Subject: {subject}")]);
        swaks
            .args(["--body", ".a dot\n..dots\n\nGr\u{fc}\u{df}e"])
            .args(more);
        place.run(&mut swaks, "apt-get install swaks");
    }

    let sent = place.sent(2);
    for subject in ["one", "two"] {
        let field = format!("\r\nSubject: {subject}\r\n");
        let found = sent.iter().find(|message| message.contains(&field));
        let found = found.unwrap_or_else(|| panic!("{subject} is not in {sent:?}"));
        assert!(found.contains("\r\n.a dot\r\n..dots\r\n"), "{found}");
    }
}

/// A refusal reaches the program that speaks, in SMTP's words.
#[test]
fn swaks_gets_what_sendmail_refuses() {
    let place = Place::new();
    let sendmail = format!("{} sendmail -bs", env!("CARGO_BIN_EXE_postrider"));
    let mut swaks = Command::new("swaks");
    swaks.args(["--pipe", &sendmail, "--from", "shop@example.com"]);
    swaks.args(["--to", "no domain@", "--quit-after", "RCPT"]);
    let url = format!("http://{}", place.service.http);
    let output = swaks.env("POSTRIDER_URL", url).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("<** 5"), "{said}");
}

#[test]
fn nodemailers_sendmail_transport() {
    let place = Place::new();
    let link = place.dir.path().join("sendmail");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_postrider"), &link).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));

    let script = "const [path] = process.argv.slice(1); \
        require('nodemailer').createTransport({ sendmail: true, path }).sendMail({ \
          from: 'Shop <shop@example.com>', to: 'ada@example.org', bcc: 'eve@example.org', \
          subject: 'Gr\u{fc}\u{df}e', text: '.dot\\n', html: '<p>x' \
        }).catch((error) => { console.error(error); process.exit(1); });";

    let mut node = Command::new("node");
    node.args(["-e", script]).arg(&link);
    node.env("NODE_PATH", root.join("target/clients/node_modules"));
    place.run(&mut node, "npm install --prefix target/clients nodemailer");

    let sent = place.sent(1).remove(0);
    assert!(sent.contains("To: ada@example.org\r\n"), "{sent}");
    assert!(!sent.contains("eve@example.org"), "{sent}");
}

/// Symfony's Mailer, over the sendmail that it runs by default (`-bs`) and over SMTP: several mails
/// over one connection, one refused between them.
#[test]
fn symfonys_mailer_hands_in_over_sendmail_and_over_smtp() {
    let place = Place::new();
    let link = place.dir.path().join("sendmail");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_postrider"), &link).unwrap();
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/real_sendmail/symfony.php");

    let command = format!("{} -bs", link.display());
    let command = command.replace('/', "%2F").replace(' ', "%20");
    let doors = [
        ("bs", format!("sendmail://default?command={command}")),
        ("smtp", format!("smtp://{}", place.service.smtp)),
    ];
    for (name, dsn) in &doors {
        let mut php = Command::new("php");
        php.arg(&script).args([dsn, *name]);
        let install = "apt-get install php-cli php-symfony-mailer";
        let said = String::from_utf8(place.run(&mut php, install).stdout).unwrap();
        assert!(said.contains("got code \"5"), "{name}: {said}");
    }

    let sent = place.sent(6);
    for (name, _) in doors {
        for n in 1..=2 {
            let field = format!("\r\nSubject: {name} {n}\r\n");
            let found = sent.iter().find(|message| message.contains(&field));
            let found = found.unwrap_or_else(|| panic!("{name} {n} is not in {sent:?}"));
            assert!(found.contains("\r\n.a dot\r\n..dots\r\n"), "{found}");
            assert!(found.contains("\r\nTo: Ada <ada@example.org>, bob@example.org\r\n"));
            assert!(!found.contains("eve@example.org"), "{found}");
        }
        let after = format!("\r\nSubject: {name} 3\r\n");
        assert!(
            sent.iter().any(|message| message.contains(&after)),
            "{name}"
        );
    }
}
