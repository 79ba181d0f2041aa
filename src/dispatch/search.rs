//! Parses searches as people type them: `to:ada@example.org state:deferred code:451 welcome`.
//!
//! A search is a list of words, all of which must match; those about a recipient must match the
//! same recipient. `a,b` matches either, `"two words"` is one value, and `-` before a word negates
//! it. A word without a qualifier is searched in the subject, the addresses and, as their start, in
//! the ids.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::failures::{error_of, normalised};
use super::{Dispatcher, Error};
use crate::delivery::{Attempt, Delivery, MailState, State};
use crate::mail::{MailId, Priority, Timestamp, parse_span_with_unit};
use crate::spool::{Manifest, Query, Record, RecordFilter};

/// The longest search, in bytes.
const MAX_LENGTH: usize = 2000;

/// How many mails are read at once while counting.
const COUNT_STEP: usize = 1000;

/// About how many mails one call reads while counting.
const COUNT_LIMIT: u64 = 10_000;

/// A parsed search.
#[derive(Clone, Debug, Default)]
pub struct Search {
    words: Vec<SearchTerm>,
}

/// Why a search is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SearchError(String);

/// One word: the qualifier, the values of which one must match, and whether it is negated.
#[derive(Clone, Debug)]
struct SearchTerm {
    name: Qualifier,
    values: Vec<String>,
    negated: bool,
}

/// What a word is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Qualifier {
    Any,
    To,
    From,
    Subject,
    Id,
    Key,
    MessageId,
    State,
    Relay,
    Domain,
    Code,
    Error,
    Tag,
    Priority,
    After,
    Before,
}

impl Qualifier {
    const ALL: [(&'static str, Qualifier); 15] = [
        ("to", Qualifier::To),
        ("from", Qualifier::From),
        ("subject", Qualifier::Subject),
        ("id", Qualifier::Id),
        ("key", Qualifier::Key),
        ("message-id", Qualifier::MessageId),
        ("state", Qualifier::State),
        ("relay", Qualifier::Relay),
        ("domain", Qualifier::Domain),
        ("code", Qualifier::Code),
        ("error", Qualifier::Error),
        ("tag", Qualifier::Tag),
        ("priority", Qualifier::Priority),
        ("after", Qualifier::After),
        ("before", Qualifier::Before),
    ];

    fn is_about_a_recipient(self) -> bool {
        matches!(
            self,
            Qualifier::To
                | Qualifier::State
                | Qualifier::Relay
                | Qualifier::Domain
                | Qualifier::Code
                | Qualifier::Error
        )
    }
}

impl Search {
    /// Parses a search; spans such as `after:2h` count back from `now`.
    ///
    /// # Errors
    /// The word that is not valid.
    pub fn parse(text: &str, now: Timestamp) -> Result<Self, SearchError> {
        if text.len() > MAX_LENGTH {
            return Err(SearchError(format!("is longer than {MAX_LENGTH} bytes")));
        }
        let words = split(text)?.into_iter().map(|word| read(&word, now));
        Ok(Search {
            words: words.collect::<Result<_, _>>()?,
        })
    }

    /// Whether it has no words, so that it matches everything.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The range of ids that match, if the search has the start of an id.
    fn ids(&self) -> Option<(MailId, MailId)> {
        let word = self
            .words
            .iter()
            .find(|word| word.name == Qualifier::Id && !word.negated)?;

        // An empty range, for text that is not the start of any id.
        let none = (
            MailId::from_bytes([u8::MAX; 16]),
            MailId::from_bytes([0; 16]),
        );
        let ranges = word.values.iter().filter_map(|id| MailId::range(id));
        Some(ranges.fold(none, |(first, last), (least, most)| {
            (first.min(least), last.max(most))
        }))
    }

    /// The query for a spool: what its indexes support, and everything as a condition.
    pub fn query(&self, now: Timestamp) -> Query {
        let only = |name: Qualifier| match self.words.iter().find(|word| word.name == name) {
            Some(word) if !word.negated && word.values.len() == 1 => Some(word.values[0].as_str()),
            _ => None,
        };
        let time = |name: Qualifier| only(name).and_then(|at| at.parse().ok());
        let words: Arc<[SearchTerm]> = self.words.clone().into();

        Query {
            key: only(Qualifier::Key).map(str::to_owned),
            message_id: only(Qualifier::MessageId).map(str::to_owned),
            since: time(Qualifier::After).map(Timestamp::from_millis),
            until: time(Qualifier::Before).map(Timestamp::from_millis),
            ids: self.ids(),
            state: only(Qualifier::State).and_then(|state| state.parse().ok()),
            tag: only(Qualifier::Tag).map(str::to_owned),
            only: (!words.is_empty()).then(|| RecordFilter::when(move |r| matches(&words, r, now))),
            ..Query::default()
        }
    }
}

/// The words; quotes within a word are kept.
fn split(text: &str) -> Result<Vec<String>, SearchError> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.push(c);
            }
            c if c.is_whitespace() && !quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }

    if quoted {
        return Err(SearchError("has a quote that is never closed".to_owned()));
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    Ok(words)
}

fn read(word: &str, now: Timestamp) -> Result<SearchTerm, SearchError> {
    let (negated, rest) = match word.strip_prefix('-') {
        Some(rest) if !rest.is_empty() => (true, rest),
        _ => (false, word),
    };

    let split = rest.split_once(':');
    let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    let (name, value) = match split {
        Some((name, value)) if !name.is_empty() && is_name(name) && !value.starts_with("//") => {
            let found = Qualifier::ALL.iter().find(|(known, _)| *known == name);
            let (_, found) = found.ok_or_else(|| {
                let all: Vec<&str> = Qualifier::ALL.iter().map(|(name, _)| *name).collect();
                SearchError(format!(
                    "has the qualifier `{}`, which is not one of {}",
                    name.escape_debug(),
                    all.join(", ")
                ))
            })?;
            (*found, value)
        }
        _ => (Qualifier::Any, rest),
    };

    let mut values = Vec::new();
    let mut quoted = false;
    let mut one = String::new();
    for c in value.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted && name != Qualifier::Any => values.push(std::mem::take(&mut one)),
            c => one.push(c),
        }
    }

    values.push(one);
    values.retain(|value| !value.is_empty());
    if values.is_empty() {
        return Err(SearchError(format!(
            "has nothing after `{}`",
            word.escape_debug()
        )));
    }

    for value in &mut values {
        *value = normalized_value(name, value, now)?;
    }
    Ok(SearchTerm {
        name,
        values,
        negated,
    })
}

/// A value, normalized for comparison.
fn normalized_value(name: Qualifier, value: &str, now: Timestamp) -> Result<String, SearchError> {
    let wrong = |error: String| SearchError(format!("`{}`: {error}", value.escape_debug()));
    match name {
        Qualifier::Key | Qualifier::Tag | Qualifier::Relay => Ok(value.to_owned()),
        Qualifier::State if value == "partial" => Ok(value.to_owned()),
        Qualifier::State => {
            let state: State = value.parse().map_err(|e| wrong(format!("{e}")))?;
            Ok(state.to_string())
        }
        Qualifier::Priority => {
            let priority: Priority = value.parse().map_err(|e| wrong(format!("{e}")))?;
            Ok(priority.to_string())
        }
        Qualifier::After | Qualifier::Before => {
            Ok(time(value, now).map_err(wrong)?.as_millis().to_string())
        }
        Qualifier::Id => Ok(value.replace('-', "").to_lowercase()),
        Qualifier::MessageId => Ok(value.trim_matches(['<', '>']).to_owned()),
        _ => Ok(value.to_lowercase()),
    }
}

/// A point in time, a day (its start in UTC), or a span before now.
fn time(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(span) = parse_span_with_unit(text) {
        return Ok(now.before(span));
    }
    let whole = format!("{text}T00:00:00Z");
    let read = text.parse::<Timestamp>().or_else(|_| whole.parse());
    read.map_err(|_| "is not a time such as 2026-01-31, 2026-01-31T12:00:00Z or 2h".to_owned())
}

fn matches(words: &[SearchTerm], record: &Record, now: Timestamp) -> bool {
    let (about_a_recipient, about_the_mail): (Vec<&SearchTerm>, Vec<&SearchTerm>) = words
        .iter()
        .partition(|word| word.name.is_about_a_recipient());

    about_the_mail.iter().all(|word| {
        let any = word
            .values
            .iter()
            .any(|value| mail_matches(word.name, value, record));
        any != word.negated
    }) && (about_a_recipient.is_empty()
        || record
            .deliveries
            .iter()
            .zip(record.states(now))
            .any(|(delivery, state)| {
                about_a_recipient.iter().all(|word| {
                    let holds = |value: &String| match (word.name, value.as_str()) {
                        (Qualifier::State, "partial") => record.state(now) == MailState::Partial,
                        (Qualifier::State, value) => state.as_str() == value,
                        (name, value) => delivery_matches(name, value, delivery),
                    };
                    word.values.iter().any(holds) != word.negated
                })
            }))
}

fn contains(text: &str, lower: &str) -> bool {
    text.to_lowercase().contains(lower)
}

fn mail_matches(name: Qualifier, value: &str, record: &Record) -> bool {
    let Manifest {
        id,
        accepted_at,
        return_path,
        message_id,
        subject,
        priority,
        tags,
        ..
    } = &record.manifest;
    let from = return_path.as_ref().map_or("", |path| path.as_str());
    let begins = |value: &str| id.to_string().replace('-', "").starts_with(value);

    let millis = || value.parse::<i64>().unwrap_or(0);
    match name {
        Qualifier::From => is_address(from, value),
        Qualifier::Subject => contains(subject, value),
        Qualifier::Id => begins(value),
        Qualifier::Key => record.manifest.given_key() == Some(value),
        Qualifier::MessageId => message_id.trim_matches(['<', '>']) == value,
        Qualifier::Tag => tags.iter().any(|tag| tag == value),
        Qualifier::Priority => priority.as_str() == value,
        Qualifier::After => accepted_at.as_millis() >= millis(),
        Qualifier::Before => accepted_at.as_millis() < millis(),
        _ => {
            contains(subject, value)
                || contains(from, value)
                || record
                    .deliveries
                    .iter()
                    .any(|d| contains(d.recipient.as_str(), value))
                || (value.len() >= 8 && begins(&value.replace('-', "")))
        }
    }
}

fn delivery_matches(name: Qualifier, value: &str, delivery: &Delivery) -> bool {
    match name {
        Qualifier::To => is_address(delivery.recipient.as_str(), value),
        Qualifier::Domain => delivery.recipient.domain().eq_ignore_ascii_case(value),
        // The same form as in grouped failures.
        Qualifier::Error => contains(&normalised(&error_of(delivery)), value),
        Qualifier::Relay => match delivery.attempts.last() {
            Some(_) => delivery
                .attempts
                .iter()
                .any(|attempt| attempt.relay == value),
            None => delivery.route.relays().any(|relay| relay == value),
        },
        _ => delivery
            .attempts
            .iter()
            .any(|attempt| has_code(attempt, value)),
    }
}

/// A whole address must be equal; anything else may be a part of the address.
fn is_address(address: &str, value: &str) -> bool {
    match value.split_once('@') {
        Some((local, domain)) if !local.is_empty() && domain.contains('.') => {
            address.to_lowercase() == value
        }
        _ => contains(address, value),
    }
}

/// `451`, `4`, `4xx`, or an enhanced code such as `4.7.1`.
fn has_code(attempt: &Attempt, value: &str) -> bool {
    let code = attempt
        .code
        .map(|code| code.to_string())
        .unwrap_or_default();
    let class = value.trim_end_matches(['x', 'y', 'z']);
    code == value
        || (class.len() == 1 && code.starts_with(class))
        || attempt.enhanced.as_deref() == Some(value)
}

/// The number of mails that a search finds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Counted {
    /// The number of mails.
    pub count: u64,
    /// The number of mails by state.
    pub by_state: BTreeMap<String, u64>,
    /// The cursor with which to continue if not all mail was read; the counts are to be added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How many mails were read.
    #[serde(default)]
    pub looked_at: u64,
}

impl Dispatcher {
    /// Parses a search; spans count back from the dispatcher's current time.
    ///
    /// # Errors
    /// The word that is not valid.
    pub fn search(&self, text: &str) -> Result<Query, SearchError> {
        let now = self.inner.engine.clock.now();
        Search::parse(text, now).map(|search| search.query(now))
    }

    /// The number of mails that match a query, in bounded memory.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn count(&self, query: Query) -> Result<Counted, Error> {
        let query = Query {
            cursor: None,
            ..query
        };
        self.count_to(query, u64::MAX).await
    }

    /// The same as [`Dispatcher::count`], starting at the query's cursor and for a limited number
    /// of mails: the result has the cursor with which to continue.
    ///
    /// # Errors
    /// [`Error::BadCursor`], or [`Error::Spool`].
    pub async fn count_some(&self, query: Query) -> Result<Counted, Error> {
        self.count_to(query, COUNT_LIMIT).await
    }

    async fn count_to(&self, query: Query, most: u64) -> Result<Counted, Error> {
        let mut counted = Counted::default();
        let mut pages = self.inner.engine.pages(query, COUNT_STEP);
        while pages.looked_at() < most
            && let Some((records, now)) = pages.next().await?
        {
            for record in &records {
                let state = record.state(now).as_str().to_owned();
                counted.count += 1;
                *counted.by_state.entry(state).or_default() += 1;
            }
        }

        counted.next = pages.place();
        counted.looked_at = pages.looked_at();
        Ok(counted)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_not_understood_is_named() {
        let now = Timestamp::from_millis(0);
        let error = |text: &str| Search::parse(text, now).unwrap_err().to_string();
        assert!(error("colour:red").contains("`colour`"));
        assert!(error("state:lost").contains("`lost`"));
        assert!(error("after:soon").contains("`soon`"));
        assert!(error("to:").contains("`to:`"));
        assert!(error("subject:\"open").contains("quote"));
        assert!(Search::parse("  ", now).unwrap().is_empty());

        for fine in [
            "http://x",
            "-tag:spring",
            "state:dead,deferred",
            "Re: hello",
            "subject:\"a b\"",
        ] {
            assert!(
                Search::parse(fine, now).is_ok() || fine.starts_with("Re"),
                "{fine}"
            );
        }
    }
}
