//! What the service can be told, how mistakes are told, and that the shipped file and the README
//! tell the truth.
#![cfg(feature = "server")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use postrider::config::{Listen, Mistakes, Settings, Sources, Sync, builder, reload};
use tempfile::TempDir;

const SHIPPED: &str = include_str!("../../config/postrider.toml");
const README: &str = include_str!("../../README.md");

/// A file with this text, which lives as long as the directory.
fn file(text: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("postrider.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

fn load_with(text: &str, environment: &[(&str, &str)]) -> Result<Settings, Mistakes> {
    let (_dir, path) = file(text);
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Settings::load(&Sources {
        file: Some(path),
        environment,
    })
}

fn load(text: &str) -> Result<Settings, Mistakes> {
    load_with(text, &[])
}

/// Every mistake as `path: reason`.
fn mistakes(text: &str) -> Vec<String> {
    let mistakes = load(text).expect_err("the file has mistakes").0;
    mistakes
        .into_iter()
        .map(|m| format!("{}: {}", m.path, m.reason))
        .collect()
}

/// The file begins with a relay, so that only what a test writes is wrong.
fn with_relay(text: &str) -> String {
    format!("{text}\n[[relays]]\nname = \"primary\"\nurl = \"capture://\"\n")
}

#[track_caller]
fn the_only_mistake(text: &str, expected: &str) {
    let found = mistakes(text);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].contains(expected),
        "{} does not say: {expected}",
        found[0]
    );
}

// ── The shipped file
// ─────────────────────────────────────────────────────────────────────────────────────────────────

/// The shipped file with everything that is switched off switched on.
fn switched_on() -> String {
    let on = |line: &'static str| {
        line.strip_prefix('#')
            .filter(|rest| !rest.is_empty() && !rest.starts_with(' '))
    };
    SHIPPED
        .lines()
        .map(|line| on(line).unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n")
}

/// `[[relays]] url = …` gives `relays.url`: all keys of a tree.
fn keys(prefix: &str, value: &toml::Value, found: &mut BTreeSet<String>) {
    match value {
        // What it holds is a mail, as HTTP takes it.
        toml::Value::Table(table) if prefix != "schedules.mail" => {
            for (key, value) in table {
                keys(
                    &if prefix.is_empty() {
                        key.clone()
                    } else {
                        format!("{prefix}.{key}")
                    },
                    value,
                    found,
                );
            }
        }
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            items.iter().for_each(|item| keys(prefix, item, found));
        }
        _ => {
            found.insert(prefix.to_owned());
        }
    }
}

fn shipped_keys() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    keys(
        "",
        &switched_on().parse::<toml::Table>().unwrap().into(),
        &mut found,
    );
    found
}

/// The keys that the settings know in the table that `header` opens, as they tell it themselves.
fn known_keys(header: &str) -> Vec<String> {
    let told = mistakes(&format!("{header}\n\"?\" = 1\n"));
    let list = told
        .iter()
        .find_map(|told| told.split_once("is not a key; the keys here are "))
        .expect("all are told")
        .1;
    list.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_shipped_file_says_the_defaults() {
    let (_dir, path) = file(&format!("{SHIPPED}\n[[relays]]\nurl = \"capture://\"\n"));
    let mut settings = Settings::load(&Sources {
        file: Some(path),
        ..Sources::default()
    })
    .unwrap();
    assert_eq!(settings.relays.len(), 1);
    settings.relays.clear();
    assert_eq!(
        format!("{settings:#?}"),
        format!("{:#?}", Settings::default())
    );
}

#[test]
fn the_examples_in_the_shipped_file_show_the_defaults_where_there_are_any() {
    let text = switched_on().replace("\npassword = ", "\n#password = ");
    let shown: toml::Table = text.parse().unwrap();
    let relay = postrider::config::Relay::default();

    let text = format!("{:?}", shown["relays"][0]);
    for expected in [
        format!("connections\": Integer({})", relay.connections),
        format!(
            "messages_per_connection\": Integer({})",
            relay.messages_per_connection
        ),
        format!(
            "idle_timeout\": String(\"{}s\")",
            relay.idle_timeout.as_secs()
        ),
        format!(
            "connect\": String(\"{}s\")",
            relay.timeouts.connect.as_secs()
        ),
        format!(
            "greeting\": String(\"{}s\")",
            relay.timeouts.greeting.as_secs()
        ),
        format!("tls\": String(\"{}s\")", relay.timeouts.tls.as_secs()),
        format!("auth\": String(\"{}s\")", relay.timeouts.auth.as_secs()),
        format!(
            "command\": String(\"{}s\")",
            relay.timeouts.command.as_secs()
        ),
        format!("data\": String(\"{}s\")", relay.timeouts.data.as_secs()),
        format!("body\": String(\"{}s\")", relay.timeouts.body.as_secs()),
        format!(
            "final_dot\": String(\"{}s\")",
            relay.timeouts.final_dot.as_secs()
        ),
    ] {
        assert!(text.contains(&expected), "{expected} is not in {text}");
    }
}

#[test]
fn every_key_is_in_the_shipped_file_and_every_key_of_the_file_is_known() {
    let mut known = BTreeSet::new();
    let mut tables = vec![String::new()];
    while let Some(table) = tables.pop() {
        let lists = [
            "relays",
            "dkim",
            "routes",
            "webhooks",
            "alerts",
            "schedules",
            "http.tokens",
            "smtp.users",
        ];
        let header = match table.as_str() {
            "" => String::new(),
            list if lists.contains(&list) => format!("[[{list}]]"),
            below => match lists
                .iter()
                .find(|list| below.starts_with(&format!("{list}.")))
            {
                Some(list) => format!("[[{list}]]\n[{below}]"),
                None => format!("[{below}]"),
            },
        };
        for key in known_keys(&header) {
            let path = if table.is_empty() {
                key
            } else {
                format!("{table}.{key}")
            };
            let nested = [
                "relays.timeouts",
                "relays.oauth2",
                "routes.match",
                "smtp.tls",
                "http.tls",
                "feedback.brevo",
                "feedback.sendgrid",
                "feedback.mailgun",
                "feedback.ses",
                "feedback.postmark",
                "feedback.resend",
            ]
            .contains(&path.as_str());
            if !path.contains('.') || lists.contains(&path.as_str()) || nested {
                tables.push(path);
            } else {
                known.insert(path);
            }
        }
    }

    assert_eq!(shipped_keys(), known);
}

/// Keys of repeated blocks that have a default.
const HOLD_WHEN_LEFT_OUT: [&str; 25] = [
    "relays.connections",
    "relays.messages_per_connection",
    "relays.idle_timeout",
    "relays.timeouts",
    "routes.match.sender_domain",
    "routes.match.tag",
    "routes.match.priority",
    "http.tokens.scope",
    "webhooks.events",
    "webhooks.tags",
    "webhooks.allow_private",
    "webhooks.timeout",
    "webhooks.connections",
    "webhooks.retry",
    "webhooks.give_up_after",
    "alerts.events",
    "alerts.tags",
    "alerts.at_most",
    "schedules.missed",
    "feedback.brevo.networks",
    "feedback.sendgrid.max_age",
    "feedback.mailgun.max_age",
    "feedback.ses.max_age",
    "feedback.postmark.networks",
    "feedback.resend.max_age",
];

/// The README's row for each key of the shipped file: `| key | default | meaning |`.
fn rows() -> Vec<String> {
    let (mut section, mut rows) = (String::new(), Vec::new());
    for line in SHIPPED.lines() {
        let (off, line) = match line.strip_prefix('#') {
            Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => (true, rest),
            Some(_) => continue,
            None => (false, line),
        };
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, rest)) = line.split_once(" = ") {
            let (value, meaning) = rest
                .split_once("  # ")
                .unwrap_or_else(|| panic!("no comment beside {section}.{key}"));
            let value = value.trim();
            let is_example = off
                && !HOLD_WHEN_LEFT_OUT
                    .iter()
                    .any(|held| format!("{section}.{key}").starts_with(held));
            let value = if is_example {
                format!("e.g. `{value}`")
            } else {
                format!("`{value}`")
            };
            rows.push(format!("| `{section}.{key}` | {value} | {meaning} |"));
        }
    }

    rows
}

#[test]
fn the_readme_has_a_row_for_every_key() {
    let rows = rows();
    let missing: Vec<&String> = rows
        .iter()
        .filter(|row| !README.lines().any(|line| line == row.as_str()))
        .collect();

    let missing: Vec<&str> = missing.into_iter().map(String::as_str).collect();
    assert!(
        missing.is_empty(),
        "README.md lacks:\n{}",
        missing.join("\n")
    );

    let told = README.lines().filter(|line| {
        line.starts_with("| `") && line.contains('.') && rows.iter().any(|r| r == line)
    });
    assert_eq!(
        told.count(),
        shipped_keys().len(),
        "a row that is there twice"
    );
}

#[test]
fn the_development_file_needs_no_relay() {
    let dev = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/dev.toml");
    let settings = Settings::load(&Sources {
        file: Some(dev),
        ..Sources::default()
    })
    .unwrap();
    assert_eq!(settings.relays[0].url.to_string(), "capture://");
    builder(&settings).unwrap();
}

// ── Layers
// ─────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn the_environment_wins_over_the_file() {
    let text = with_relay("[smtp]\nlisten = \"127.0.0.1:2525\"\n[spool]\nsync = \"interval\"");
    let settings = load_with(&text, &[("POSTRIDER_SMTP__LISTEN", "127.0.0.1:9999")]).unwrap();
    assert_eq!(
        settings.smtp.listen,
        Listen::At("127.0.0.1:9999".parse().unwrap())
    );
    assert_eq!(
        settings.spool.sync,
        Sync::Interval,
        "what the environment does not name stays as the file says"
    );
}

#[test]
fn numbers_lists_and_tables_in_the_environment_are_read_as_toml() {
    let environment = [
        ("POSTRIDER_SPOOL__MAX_PENDING", "5_000"),
        ("POSTRIDER_RETRY__SCHEDULE", r#"["1s", "2m"]"#),
        (
            "POSTRIDER_RELAYS",
            r#"[{ name = "a", url = "smtp://127.0.0.1:25", connections = 3 }]"#,
        ),
        ("POSTRIDER_SPOOL__MAX_MESSAGE_SIZE", "1MiB"),
    ];

    let settings = load_with("", &environment).unwrap();
    assert_eq!(settings.spool.max_pending, 5000);
    assert_eq!(settings.spool.max_message_size.as_u64(), 1024 * 1024);
    assert_eq!(
        settings
            .retry
            .schedule
            .iter()
            .map(|d| d.as_secs())
            .collect::<Vec<_>>(),
        [1, 120]
    );

    assert_eq!(
        (settings.relays[0].name(), settings.relays[0].connections),
        ("a".to_owned(), 3)
    );
}

#[test]
fn a_password_of_digits_in_the_environment_stays_as_it_is() {
    use secrecy::ExposeSecret;
    let text = "[[relays]]\nname = \"a\"\nurl = \"smtps://user@mail.example.com\"";
    let settings = load_with(text, &[("POSTRIDER_RELAYS__0__PASSWORD", "00123")]).unwrap();
    assert_eq!(
        settings.relays[0]
            .password
            .as_ref()
            .unwrap()
            .expose_secret(),
        "00123"
    );

    assert_eq!(
        settings.relays[0].name(),
        "a",
        "the file's other keys of that relay stay"
    );
}

#[test]
fn relays_can_come_from_the_environment_alone() {
    let environment = [
        ("POSTRIDER_RELAYS__0__URL", "capture://"),
        ("POSTRIDER_RELAYS__1__URL", "smtp://backup.example.com"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let settings = Settings::load(&Sources {
        file: None,
        environment: environment.into(),
    })
    .unwrap();
    let names: Vec<String> = settings.relays.iter().map(|relay| relay.name()).collect();
    assert_eq!(names, ["capture", "backup.example.com"]);
}

#[test]
fn variables_of_others_are_no_settings() {
    let others = [
        ("POSTRIDER_URL", "http://127.0.0.1:8025"),
        ("POSTRIDER_TOKEN", "secret"),
        ("POSTRIDER_PORT_8025_TCP", "tcp://10.0.0.1:8025"),
        ("POSTRIDER_SERVICE_HOST", "10.0.0.1"),
    ];
    load_with(&with_relay(""), &others).unwrap();
}

#[test]
fn a_mistake_in_the_environment_names_its_variable() {
    let wrong = load_with(
        &with_relay(""),
        &[
            ("POSTRIDER_SMTP__LISTEM", "x"),
            ("POSTRIDER_RETRY__MAX_ATTEMPTS", "many"),
        ],
    );

    let told = wrong.unwrap_err().to_string();
    assert!(
        told.contains("POSTRIDER_SMTP__LISTEM: smtp.listem: is not a key; did you mean `listen`?"),
        "{told}"
    );

    assert!(
        told.contains("POSTRIDER_RETRY__MAX_ATTEMPTS: retry.max_attempts: "),
        "{told}"
    );

    assert_eq!(told.lines().count(), 2, "{told}");
}

// ── Mistakes
// ─────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn all_mistakes_are_reported_at_once_with_file_key_and_reason() {
    let text = r#"
        [spool]
        pth = "x"
        retention = "5 parsecs"
        max_message_size = "huge"
        max_pending = "many"
        sync = "sometimes"
        [[relays]]
        name = "primary"
        url = "gopher://example.com"
        rate = "fast"
        [[relays]]
        name = "primary"
        url = "smtps://user@example.com"
        password_file = "/nonexistent/secret"
        [[routes]]
        relays = ["primary", "backup"]
        [http]
        listen = "0.0.0.0:8025"
    "#;
    let (_dir, path) = file(text);

    let told = Settings::load(&Sources {
        file: Some(path.clone()),
        ..Sources::default()
    })
    .unwrap_err()
    .to_string();

    for expected in [
        "spool.pth: is not a key; did you mean `path`?",
        "spool.retention: invalid value: string \"5 parsecs\", expected a duration such as",
        "spool.max_message_size: invalid value: string \"huge\", expected a size such as",
        "spool.max_pending: invalid type: string \"many\", expected a whole number",
        "spool.sync: `sometimes` is not one of always, interval",
        "relays[0].url: has the scheme `gopher`",
        "relays[0].rate: invalid value: string \"fast\", expected a rate such as",
        "relays[1].password_file: cannot read /nonexistent/secret: No such file",
        "relays[1].name: `primary` is the name of relays[0] too",
        "routes[0].relays[1]: there is no relay named `backup`",
        "http.tokens: is missing, and http.listen is not a loopback address",
    ] {
        let line = format!("{}: {expected}", path.display());
        assert!(
            told.lines().any(|told| told.starts_with(&line)),
            "this is not told: {line}\n{told}"
        );
    }

    assert_eq!(told.lines().count(), 11, "{told}");
}

#[test]
fn a_file_that_is_no_toml_is_reported_by_line_and_not_quoted() {
    let (_dir, path) = file("[[relays]]\nname = \"a\"\npassword = \"hunter2\n");
    let told = Settings::load(&Sources {
        file: Some(path),
        ..Sources::default()
    })
    .unwrap_err()
    .to_string();
    assert!(
        told.contains("is not valid TOML at line 3, column "),
        "{told}"
    );
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn a_file_that_is_not_there_is_reported() {
    let wrong = Settings::load(&Sources {
        file: Some("/nonexistent/p.toml".into()),
        ..Sources::default()
    })
    .unwrap_err();
    assert!(
        wrong
            .to_string()
            .starts_with("/nonexistent/p.toml: cannot be read: No such file"),
        "{wrong}"
    );
}

#[test]
fn no_relay_is_a_mistake_that_says_the_way_out() {
    the_only_mistake(
        "",
        "relays: is missing, so that mail could go nowhere; add one [[relays]]",
    );
}

#[test]
fn a_wrong_secret_is_not_shown() {
    let told =
        mistakes("[[relays]]\nurl = \"smtps://u@example.com\"\npassword = 424242").join("\n");
    assert!(
        told.contains("relays[0].password: must be text in quotes"),
        "{told}"
    );
    assert!(!told.contains("424242"), "{told}");
}

#[test]
fn a_user_needs_a_password_and_a_password_a_user() {
    the_only_mistake(
        "[[relays]]\nurl = \"smtps://user@example.com\"",
        "relays[0].password_file: is missing",
    );
    the_only_mistake(
        "[[relays]]\nurl = \"smtps://example.com\"\npassword = \"x\"",
        "relays[0].url: names no user",
    );
    the_only_mistake(
        "[[relays]]\nurl = \"smtps://u:p@example.com\"\npassword = \"x\"",
        "relays[0].url: has a password, and",
    );
}

#[test]
fn a_secret_and_its_file_together_are_a_mistake() {
    let text =
        "[[relays]]\nurl = \"smtps://u@example.com\"\npassword = \"x\"\npassword_file = \"/y\"";
    the_only_mistake(
        text,
        "relays[0].password_file: is given beside `password`; keep one of them",
    );
}

#[test]
fn numbers_out_of_range_are_mistakes() {
    the_only_mistake(
        "[[relays]]\nurl = \"capture://\"\nconnections = 0",
        "relays[0].connections: is 0, and must be 1 to 1024",
    );

    the_only_mistake(
        &with_relay("[retry]\nschedule = []"),
        "retry.schedule: is empty",
    );

    the_only_mistake(
        &with_relay("[retry]\nschedule = [\"1s\", \"0s\"]"),
        "retry.schedule: ends with no delay, which repeats",
    );
    load(&with_relay(
        "[retry]\nschedule = [\"0s\"]\nmax_attempts = 3",
    ))
    .unwrap();

    the_only_mistake(
        &with_relay("[retry]\nmax_attempts = -1"),
        "retry.max_attempts: invalid value: integer `-1`",
    );

    the_only_mistake(
        &with_relay("[http]\nmax_memory = \"1MiB\""),
        "http.max_memory: is less than spool.max_message_size",
    );

    the_only_mistake(
        &with_relay("[priorities]\nbulk = 0"),
        "priorities.bulk: is 0, and must be 1 to 1000",
    );

    the_only_mistake(
        &with_relay("[spool]\nretention = 60"),
        "spool.retention: invalid value: integer `60`, expected a duration",
    );
}

#[test]
fn senders_that_are_none_are_a_mistake_and_not_all() {
    for (variable, key, user) in [
        (
            "POSTRIDER_HTTP__TOKENS__0__FROM",
            "http.tokens[0].from",
            "[[http.tokens]]\ntoken = \"secret\"",
        ),
        (
            "POSTRIDER_SMTP__USERS__0__FROM",
            "smtp.users[0].from",
            "[[smtp.users]]\npassword = \"secret\"",
        ),
    ] {
        let with = |from: &str| with_relay(&format!("{user}\nname = \"app\"\n{from}"));
        load(&with("")).unwrap();
        load(&with("from = [\"example.com\"]")).unwrap();
        the_only_mistake(
            &with("from = []"),
            &format!("{key}: is empty, so that nothing could be sent; name addresses"),
        );

        let found = load_with(&with(""), &[(variable, "[]")]).unwrap_err().0;
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(found[0].source, variable);
    }
}

#[test]
fn a_route_behind_one_that_takes_everything_is_a_mistake() {
    let text = with_relay(
        "[[routes]]\nrelays = [\"primary\"]\n[[routes]]\nmatch = { tag = [\"otp\"] }\n\
         relays = [\"primary\"]",
    );
    the_only_mistake(
        &text,
        "routes[1]: is never reached, because routes[0] has no `match`",
    );
}

#[test]
fn a_route_over_too_many_relays_and_a_relay_of_too_long_a_name_are_mistakes() {
    let relays = |count: usize| -> String {
        let relay = |n| format!("[[relays]]\nname = \"relay{n}\"\nurl = \"capture://\"\n");
        (0..count).map(relay).collect()
    };

    let names: Vec<String> = (0..101).map(|n| format!("\"relay{n}\"")).collect();
    let text = format!(
        "{}[[routes]]\nrelays = [{}]\n",
        relays(101),
        names.join(",")
    );

    the_only_mistake(
        &text,
        "routes[0].relays: names 101 relays, and takes at most 100",
    );

    the_only_mistake(
        &relays(101),
        "routes: there are 101 relays and no [[routes]]",
    );

    let shorter = format!(
        "{}[[routes]]\nrelays = [{}]\n",
        relays(101),
        names[..100].join(",")
    );

    load(&shorter).unwrap();
    let long = format!(
        "[[relays]]\nname = \"{}\"\nurl = \"capture://\"\n",
        "x".repeat(65)
    );

    let told = mistakes(&long).join("\n");
    assert!(told.contains("relays[0].name: "), "{told}");
}

#[test]
fn an_open_door_off_loopback_is_a_mistake() {
    the_only_mistake(
        &with_relay("[http]\nlisten = \"[::]:8025\""),
        "http.tokens: is missing",
    );

    let told = mistakes(&with_relay("[smtp]\nlisten = \"0.0.0.0:587\"")).join("\n");
    assert!(
        told.contains("smtp.users: is missing") && told.contains("smtp.tls: is missing"),
        "{told}"
    );

    the_only_mistake(
        &with_relay("[smtp]\ntls_listen = \"127.0.0.1:0\""),
        "smtp.tls: is missing, and smtp.tls_listen",
    );

    load(&with_relay(
        "[http]\nlisten = \"off\"\n[smtp]\nlisten = \"[::1]:2525\"",
    ))
    .unwrap();
}

#[test]
fn certificates_and_keys_that_cannot_be_used_are_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&cert, pair.cert.pem()).unwrap();
    std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();

    let tls = |cert: &Path, key: &Path| {
        with_relay(&format!(
            "[smtp]\ntls = {{ cert = {cert:?}, key = {key:?} }}"
        ))
    };

    load(&tls(&cert, &key)).unwrap();
    the_only_mistake(
        &tls(&key, &key),
        "smtp.tls.cert: there is no certificate in ",
    );

    the_only_mistake(
        &tls(&cert, &cert),
        "smtp.tls.key: there is no private key in ",
    );

    the_only_mistake(
        &tls(&cert, Path::new("/nonexistent")),
        "smtp.tls.key: cannot read /nonexistent: No such file",
    );

    let ca = "[[relays]]\nurl = \"smtps://example.com\"\nca_file = \"/nonexistent\"";
    the_only_mistake(
        ca,
        "relays[0].ca_file: cannot read /nonexistent: No such file",
    );
}

#[test]
fn a_level_that_means_nothing_is_a_mistake() {
    the_only_mistake(
        &with_relay("[log]\nlevel = \"verbose\""),
        "log.level: `verbose` is not one of",
    );
    load(&with_relay("[log]\nlevel = \"warn,postrider=debug\"")).unwrap();
}

#[test]
fn a_webhook_that_could_not_be_called_is_a_mistake() {
    let hook = |more: &str| {
        let usual = "[[webhooks]]\nname = \"shop\"\nurl = \"https://shop.example.com/hooks\"\n\
                     secret = \"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\"\n";
        let keys: Vec<&str> = more
            .lines()
            .filter_map(|line| line.split(" = ").next())
            .collect();
        let stays = |line: &&str| !keys.iter().any(|key| line.starts_with(&format!("{key} =")));
        let usual: Vec<&str> = usual.lines().filter(stays).collect();
        with_relay(&format!("{}\n{more}", usual.join("\n")))
    };

    load(&hook("")).unwrap();
    load(&hook(
        "events = [\"bounced\", \"unsubscribed\", \"webhook_off\"]",
    ))
    .unwrap();

    for (more, expected) in [
        (
            "url = \"shop.example.com\"",
            "webhooks[0].url: is not a URL",
        ),
        (
            "url = \"ftp://shop.example.com/\"",
            "webhooks[0].url: must begin with https://",
        ),
        (
            "url = \"https://me:pw@shop.example.com/\"",
            "webhooks[0].url: holds a login",
        ),
        ("secret = \"hunter2\"", "webhooks[0].secret: "),
        (
            "secret = \"whsec_c2hvcnQ=\"",
            "webhooks[0].secret: must be `whsec_`",
        ),
        ("secret = \"\"", "webhooks[0].secret: is empty"),
        (
            "secret_file = \"/nonexistent\"\nsecret = \"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\"",
            "webhooks[0].secret_file: is given beside `secret`",
        ),
        (
            "events = [\"died\"]",
            "webhooks[0].events: `died` is not one of",
        ),
        ("events = []", "webhooks[0].events: is empty"),
        ("name = \"a b\"", "webhooks[0].name: must be 1 to 64"),
        (
            "connections = 0",
            "webhooks[0].connections: must be 1 to 64",
        ),
        ("retry = []", "webhooks[0].retry: must be delays"),
        (
            "timeout = \"0s\"",
            "webhooks[0].timeout: must be above zero",
        ),
        ("filter = []", "webhooks[0].filter: is not a key"),
    ] {
        the_only_mistake(&hook(more), expected);
    }

    let two = format!(
        "{}{}",
        hook(""),
        hook("").replace("[[relays]]\nname = \"primary\"\nurl = \"capture://\"\n", "")
    );

    the_only_mistake(&two, "webhooks[1].name: `shop` is the name of another");
}

#[test]
fn an_alert_that_would_reach_nobody_is_a_mistake() {
    let alert = |keys: &str| with_relay(&format!("[[alerts]]\n{keys}"));
    load(&alert("to = \"ops@example.com\"")).unwrap();
    load(&alert(
        "to = [\"Ops <ops@example.com>\", \"b@example.com\"]\nat_most = \"5/1h\"",
    ))
    .unwrap();

    for (keys, expected) in [
        ("events = [\"dead\"]", "alerts[0].to: is missing"),
        ("to = [\"nobody\"]", "alerts[0].to: "),
        ("to = [\"a@example.com\"]\nfrom = \"x\"", "alerts[0].from: "),
        (
            "to = [\"a@example.com\"]\nevents = [\"died\"]",
            "alerts[0].events: `died` is not one of",
        ),
        (
            "to = [\"a@example.com\"]\nat_most = \"often\"",
            "alerts[0].at_most: ",
        ),
    ] {
        the_only_mistake(&alert(keys), expected);
    }
}

#[test]
fn a_schedule_that_would_send_nothing_is_a_mistake() {
    let schedule = |name: &str, cron: &str, more: &str| {
        let mail = "{ from = \"a@example.com\", to = [\"b@example.org\"], text = \"x\" }";
        let mail = if more.contains("mail = ") {
            String::new()
        } else {
            format!("mail = {mail}\n")
        };
        with_relay(&format!(
            "[[schedules]]\nname = \"{name}\"\ncron = \"{cron}\"\n{mail}{more}"
        ))
    };

    load(&schedule(
        "weekly",
        "0 8 * * MON",
        "timezone = \"Europe/Berlin\"\nmissed = \"skip\"",
    ))
    .unwrap();
    load(&schedule("often", "*/5 * * * * *", "")).unwrap();

    for (name, cron, more, expected) in [
        ("a b", "0 8 * * *", "", "schedules[0].name: must be 1 to 64"),
        (
            "weekly",
            "every monday",
            "",
            "schedules[0].cron: `every monday` is not a cron expression",
        ),
        ("weekly", "0 8 30 2 *", "", "schedules[0].cron: "),
        (
            "weekly",
            "0 8 * * *",
            "timezone = \"Berlin\"",
            "schedules[0].timezone: `Berlin` is not a time zone",
        ),
        (
            "weekly",
            "0 8 * * *",
            "missed = \"twice\"",
            "schedules[0].missed: `twice` is not one of",
        ),
        (
            "weekly",
            "0 8 * * *",
            "mail = {}",
            "schedules[0].mail: is missing",
        ),
        (
            "weekly",
            "0 8 * * *",
            "mail = { from = \"a@example.com\", to = [\"nobody\"], text = \"x\" }",
            "schedules[0].mail.to",
        ),
        (
            "weekly",
            "0 8 * * *",
            "mail = { from = \"a@example.com\", to = [\"b@example.org\"], template = { name = \
             \"none\" } }",
            "schedules[0].mail.template.name: ",
        ),
        (
            "weekly",
            "0 8 * * *",
            "mail = { idempotency_key = \"x\" }",
            "schedules[0].mail.idempotency_key: ",
        ),
    ] {
        the_only_mistake(&schedule(name, cron, more), expected);
    }
}

// ── Secrets, and the engine
// ─────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_secret_from_a_file_loses_its_line_end_and_is_never_shown() {
    use secrecy::ExposeSecret;
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "hunter2 \r\n").unwrap();

    let text = format!(
        "[[relays]]\nname = \"a\"\nurl = \"smtps://user@example.com\"\npassword_file = {secret:?}\n\
         [[relays]]\nname = \"b\"\nurl = \"smtps://user:hunter2@example.com\"\n\
         [http]\ntokens = [{{ name = \"app\", token = \"hunter2\" }}]\n\
         [smtp]\nusers = [{{ name = \"app\", password = \"hunter2\" }}]\n"
    );

    let settings = load(&text).unwrap();
    assert_eq!(
        settings.relays[0]
            .password
            .as_ref()
            .unwrap()
            .expose_secret(),
        "hunter2 "
    );

    let shown = format!(
        "{settings:?} {} {:?} {:?}",
        settings.relays[1].url,
        builder(&settings),
        reload(&settings)
    );

    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn an_environment_without_a_file_reads_as_one() {
    let sources = Sources {
        file: None,
        environment: BTreeMap::new(),
    };
    let told = Settings::load(&sources).unwrap_err().to_string();
    assert!(told.starts_with("no file: relays: is missing"), "{told}");
}

#[test]
fn a_relay_is_at_the_addresses_that_are_given_and_nonsense_is_reported() {
    let relay = |url: &str, addresses: &str| {
        format!("[[relays]]\nurl = \"{url}\"\naddresses = {addresses}\n")
    };

    let good =
        r#"["192.0.2.1", "192.0.2.1:2525", "2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:25"]"#;
    let settings = load(&relay("smtp://mx.example.com", good)).unwrap();
    assert_eq!(settings.relays[0].addresses.len(), 5);
    assert!(builder(&settings).is_ok());

    for (url, addresses, expected) in [
        (
            "smtp://mx.example.com",
            r#"["mx1.example.com"]"#,
            "relays[0].addresses: has `mx1.example.com`, which is not an IP address",
        ),
        (
            "smtp://mx.example.com",
            r#"["192.0.2.1:99999"]"#,
            "relays[0].addresses: has `192.0.2.1:99999`, which is not an IP address",
        ),
        (
            "capture://",
            r#"["192.0.2.1"]"#,
            "relays[0].addresses: has `192.0.2.1`, which is given for a relay that does not speak \
             SMTP",
        ),
    ] {
        the_only_mistake(&relay(url, addresses), expected);
    }
}

#[test]
fn a_template_that_is_wrong_is_no_template_that_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let template = dir.path().join("templates/weekly");
    std::fs::create_dir_all(&template).unwrap();
    std::fs::write(template.join("subject.txt"), "Weekly").unwrap();
    std::fs::write(template.join("body.txt"), "{% if x %}").unwrap();
    let config = format!(
        "[spool]\npath = \"spool\"\n[[relays]]\nname = \"r\"\nurl = \"capture://\"\n[templates]\n\
         path = {:?}\n\
         [[schedules]]\nname = \"weekly\"\ncron = \"0 8 * * MON\"\n\
         mail = {{ from = \"shop@example.com\", to = [\"ada@example.org\"], template = {{ name = \
         \"weekly\" }} }}\n",
        dir.path().join("templates")
    );
    let told = mistakes(&config).join("\n");
    assert!(told.contains("weekly/body.txt:1"), "{told}");
    assert!(!told.contains("there is no template"), "{told}");
}

#[test]
fn a_status_that_could_be_guessed_or_leads_nowhere_is_a_mistake() {
    the_only_mistake(
        &with_relay("[status]\nenabled = true"),
        "status.secret_file: is missing",
    );

    the_only_mistake(
        &with_relay("[status]\nenabled = true\nsecret = \"too short\""),
        "status.secret: is shorter than 16 characters",
    );

    for nowhere in [
        "mail.example.com",
        "ftp://mail.example.com",
        "https://x/?a",
        "",
    ] {
        let text = format!(
            "[status]\nenabled = true\nsecret = \"0123456789abcdef\"\nbase_url = \"{nowhere}\""
        );
        the_only_mistake(&with_relay(&text), "status.base_url: is not an address");
    }

    assert!(load(&with_relay("[status]\nenabled = false")).is_ok());
}

#[test]
fn a_provider_that_could_not_prove_itself_is_a_mistake() {
    for (text, expected) in [
        ("[feedback.brevo]", "feedback.brevo.secret_file"),
        (
            "[feedback.postmark]\nsecret = \"\"",
            "feedback.postmark.secret",
        ),
        (
            "[feedback.sendgrid]\nsecret = \"no key\"",
            "feedback.sendgrid.secret",
        ),
        (
            "[feedback.mailgun]\nsecret = \"k\"\nmax_age = \"0s\"",
            "feedback.mailgun.max_age",
        ),
        (
            "[feedback.resend]\nsecret = \"whsec_x\"",
            "feedback.resend.secret",
        ),
        ("[feedback.ses]", "feedback.ses.topics"),
        ("[feedback.ses]\ntopics = [\"mail\"]", "feedback.ses.topics"),
        (
            "[feedback.ses]\nsecret = \"x\"\ntopics = [\"arn:aws:sns:eu-west-1:1:x\"]",
            "feedback.ses.secret",
        ),
        ("[feedback.mandrill]\nsecret = \"x\"", "feedback.mandrill"),
    ] {
        let told = mistakes(&with_relay(text));
        assert!(
            told.iter().any(|one| one.contains(expected)),
            "{text}: {told:?}"
        );
    }

    let by_address = "[feedback.brevo]\nnetworks = [\"1.179.112.0/20\"]";
    let settings = load(&with_relay(by_address)).unwrap();
    assert_eq!(settings.feedback.providers().len(), 1);
}
