//! Which idempotency key has which mail: one each, for ever.

use std::collections::HashMap;

/// What was acknowledged, by either name.
#[derive(Default)]
pub struct Names {
    ids: HashMap<String, String>,
    keys: HashMap<String, String>,
}

impl Names {
    /// A key was acknowledged under an id. Returns what does not fit what was told before.
    pub fn note(&mut self, key: &str, id: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let known = self
            .ids
            .entry(key.to_owned())
            .or_insert_with(|| id.to_owned());

        if known != id {
            problems.push(format!("the key {key} has two ids: {known} and {id}"));
        }
        let known = self
            .keys
            .entry(id.to_owned())
            .or_insert_with(|| key.to_owned());

        if known != key {
            problems.push(format!("the id {id} has two keys: {known} and {key}"));
        }
        problems
    }

    /// How many keys there are.
    pub fn count(&self) -> usize {
        self.ids.len()
    }

    pub fn id_of(&self, key: &str) -> Option<&String> {
        self.ids.get(key)
    }

    pub fn key_of(&self, id: &str) -> Option<&String> {
        self.keys.get(id)
    }

    /// Each key with its id.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &String)> {
        self.ids.iter()
    }
}
