//! What is in `contrib/` names only what there is.
#![cfg(feature = "server")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use postrider::config::{Settings, Sources};

fn text_of(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "contrib", name]
        .iter()
        .collect();
    std::fs::read_to_string(path).unwrap()
}

/// The names of metrics that a text speaks of.
fn named(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("postrider_") {
        let is_of_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
        names.insert(text[at..].chars().take_while(is_of_name).collect());
    }
    names
}

/// What a metric is registered as, without its unit's ending.
fn registered(name: &str) -> String {
    let name = name.strip_prefix("postrider_").unwrap_or(name);
    let endings = ["_total", "_bucket", "_count", "_sum", "_info"];
    let ending = endings.iter().find(|ending| name.ends_with(*ending));
    name.strip_suffix(*ending.unwrap_or(&""))
        .unwrap_or(name)
        .to_owned()
}

#[test]
fn alerts_and_the_board_name_only_metrics_that_there_are() {
    // A metric with labels is shown once it has counted something: what is registered tells more.
    let metrics = include_str!("../../src/observe/metrics.rs");

    for file in ["prometheus/postrider.rules.yml", "grafana/postrider.json"] {
        let named = named(&text_of(file));
        assert!(named.len() > 8, "{named:?}");

        let is_unknown = |name: &&String| !metrics.contains(&format!("\"{}\"", registered(name)));
        let unknown: Vec<_> = named.iter().filter(is_unknown).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}");
    }
}

#[test]
fn the_board_can_be_read() {
    let board: serde_json::Value =
        serde_json::from_str(&text_of("grafana/postrider.json")).unwrap();
    let panels = board["panels"].as_array().unwrap();
    assert!(panels.len() >= 10);
    for panel in panels {
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{panel}");
    }
}

#[test]
fn what_the_compose_file_says_is_a_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let secret =
        |name: &str| std::fs::write(dir.path().join(name), "0123456789abcdef0123").unwrap();
    secret("app");
    secret("smtp");

    let compose = text_of("compose.yaml");
    let mut environment = BTreeMap::new();
    for line in compose.lines().map(str::trim) {
        if let Some((name, value)) = line.split_once(": ")
            && name.starts_with("POSTRIDER_")
        {
            let value = value.trim_matches('\'');
            let value = value.replace("/run/secrets", &dir.path().display().to_string());
            environment.insert(name.to_owned(), value);
        }
    }

    assert_eq!(environment.len(), 6, "{environment:?}");
    let settings = Settings::load(&Sources {
        file: None,
        environment: environment.into_iter().collect(),
    });

    let settings = settings.unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(settings.relays.len(), 1);
    assert!(compose.contains("\"postrider\", \"health\""));
    assert!(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("contrib/Dockerfile")
            .exists()
    );
}
