//! Turns the merged tree into [`Settings`] and finds every mistake, not only the first: a wrong
//! value is reported and removed from the tree, so that its default is used, and the tree is read
//! again.

use serde_json::Value as Json;
use serde_path_to_error::{Path, Segment};

use super::Settings;
use super::layers::Layers;
use super::mistake::MistakeReport;

/// Keys whose values are never shown, not even when they are wrong.
const SECRET_KEYS: [&str; 7] = [
    "password",
    "token",
    "url",
    "api_key",
    "secret_access_key",
    "client_secret",
    "secret",
];

pub(super) fn read(layers: &Layers, report: &mut MistakeReport<'_>) -> Settings {
    let mut tree = layers.tree.clone();
    loop {
        let error = match serde_path_to_error::deserialize::<_, Settings>(&tree) {
            Ok(settings) => return settings,
            Err(error) => error,
        };
        let steps = steps(error.path());
        let path = spelled(&steps);
        if layers.origins.variable(&path).is_some() && read_as_toml(at(&mut tree, &steps)) {
            continue;
        }
        report.add(&path, reason(&error.into_inner().to_string(), &path));
        if !take_out(&mut tree, &steps) {
            return Settings::default();
        }
    }
}

/// One step of a path in the tree.
#[derive(Clone, Debug)]
enum PathStep {
    Key(String),
    Index(usize),
}

fn steps(path: &Path) -> Vec<PathStep> {
    let step = |segment: &Segment| match segment {
        Segment::Map { key } => Some(PathStep::Key(key.clone())),
        Segment::Seq { index } => Some(PathStep::Index(*index)),
        Segment::Enum { .. } | Segment::Unknown => None,
    };
    path.iter().filter_map(step).collect()
}

fn spelled(steps: &[PathStep]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            PathStep::Key(key) if path.is_empty() => path.push_str(key),
            PathStep::Key(key) => path.push_str(&format!(".{key}")),
            PathStep::Index(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

fn at<'a>(tree: &'a mut Json, steps: &[PathStep]) -> Option<&'a mut Json> {
    steps.iter().try_fold(tree, |node, step| match step {
        PathStep::Key(key) => node.get_mut(key),
        PathStep::Index(index) => node.get_mut(index),
    })
}

/// The environment has only text. If the key does not take text, the text is read as a TOML value:
/// a number, a list, a table.
fn read_as_toml(node: Option<&mut Json>) -> bool {
    let Some(node) = node else { return false };
    let Json::String(text) = &*node else {
        return false;
    };

    let Ok(mut parsed) = format!("value = {text}").parse::<toml::Table>() else {
        return false;
    };
    match parsed.remove("value").map(serde_json::to_value) {
        Some(Ok(value)) if !value.is_string() => {
            *node = value;
            true
        }
        _ => false,
    }
}

/// Removes a wrong value, so that its default is used. Of a list the whole is removed, since the
/// other elements would get other numbers.
fn take_out(tree: &mut Json, steps: &[PathStep]) -> bool {
    let Some((last, above)) = steps.split_last() else {
        return false;
    };
    match (last, at(tree, above)) {
        (PathStep::Key(key), Some(Json::Object(entries))) => entries.remove(key).is_some(),
        (PathStep::Index(_), _) => take_out(tree, above),
        _ => false,
    }
}

/// serde's message in plainer words.
fn reason(error: &str, path: &str) -> String {
    let quoted: Vec<&str> = error.split('`').skip(1).step_by(2).collect();
    let known = quoted.get(1..).unwrap_or_default();
    if error.starts_with("unknown field") {
        let key = quoted.first().copied().unwrap_or_default();
        return match nearest(key, known) {
            Some(near) => format!("is not a key; did you mean `{near}`?"),
            None => format!("is not a key; the keys here are {}", known.join(", ")),
        };
    }

    if error.starts_with("unknown variant") {
        return format!(
            "`{}` is not one of {}",
            quoted.first().copied().unwrap_or_default(),
            known.join(", ")
        );
    }

    if SECRET_KEYS.iter().any(|secret| path.ends_with(secret)) {
        return "must be text in quotes".to_owned();
    }
    ["expected u64", "expected u32", "expected usize"]
        .iter()
        .fold(error.to_owned(), |error, kind| {
            error.replace(kind, "expected a whole number")
        })
}

fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let key = key.to_lowercase();
    let near = known
        .iter()
        .map(|known| (strsim::jaro_winkler(&key, known), *known));
    near.filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}
