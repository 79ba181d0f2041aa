//! Groups failures: by the error, without the parts that differ from mail to mail, or by the
//! recipient's domain.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Dispatcher, Error};
use crate::delivery::{Delivery, Stage, State};
use crate::mail::{MailId, Timestamp};
use crate::spool::Query;

/// How many mails are read at once.
const STEP_MAILS: usize = 1000;

/// The most mails that are read; older failures are not grouped.
const MOST_LOOKED_AT: u64 = 200_000;

/// The most groups.
const MOST_GROUPS: usize = 1000;

/// The most characters of a group's name.
const LONGEST_ERROR: usize = 240;

/// The longest word with digits that is kept; longer ones are probably ids.
const LONGEST_WORD: usize = 16;

/// How failures are grouped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum GroupBy {
    /// By the error, without the parts that differ from mail to mail.
    #[default]
    Error,
    /// By the recipients' domain.
    Domain,
}

impl std::str::FromStr for GroupBy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "error" => Ok(GroupBy::Error),
            "domain" => Ok(GroupBy::Domain),
            _ => Err("is neither `error` nor `domain`".to_owned()),
        }
    }
}

/// Deliveries with the same error or domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct FailureGroup {
    /// The error, or the domain.
    pub name: String,
    /// The number of deliveries.
    pub count: u64,
    /// How many of them are dead.
    pub dead: u64,
    /// How many of them will be tried again.
    pub deferred: u64,
    /// When one of them was last attempted or ended.
    pub last_at: Option<Timestamp>,
    /// The id of one of the mails.
    pub example: MailId,
    /// The relay's answer for that mail.
    pub text: String,
    /// The search that finds all of them.
    pub q: String,
}

/// The failures, the largest group first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Failures {
    /// The groups, at most a thousand.
    pub groups: Vec<FailureGroup>,
    /// The number of deliveries in further groups.
    pub others: u64,
    /// Whether all failed mail was read; if not, only the newest was.
    pub complete: bool,
}

impl Dispatcher {
    /// Groups the dead and deferred deliveries of `query`, whose state is ignored.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn failures(&self, by: GroupBy, query: Query) -> Result<Failures, Error> {
        let mut groups = GroupCounter {
            by,
            found: HashMap::new(),
            others: 0,
        };

        let mut complete = true;
        for state in [State::Dead, State::Deferred] {
            complete &= self.gather(state, &query, &mut groups).await?;
        }

        Ok(Failures {
            others: groups.others,
            complete,
            groups: groups.sorted(),
        })
    }

    /// Whether all mail was read.
    async fn gather(
        &self,
        state: State,
        query: &Query,
        groups: &mut GroupCounter,
    ) -> Result<bool, Error> {
        let query = Query {
            state: Some(state),
            cursor: None,
            ..query.clone()
        };

        let mut pages = self.inner.engine.pages(query, STEP_MAILS);
        while let Some((records, _)) = pages.next().await? {
            for record in &records {
                for delivery in &record.deliveries {
                    groups.add(state, record.manifest.id, delivery);
                }
            }
            if pages.looked_at() >= MOST_LOOKED_AT {
                break;
            }
        }

        Ok(pages.are_over())
    }
}

struct GroupCounter {
    by: GroupBy,
    found: HashMap<String, FailureGroup>,
    others: u64,
}

impl GroupCounter {
    fn add(&mut self, state: State, mail: MailId, delivery: &Delivery) {
        let is_meant = match state {
            State::Dead => matches!(delivery.stage, Stage::Dead { .. }),
            _ => delivery.stage.due().is_some() && !delivery.attempts.is_empty(),
        };

        if !is_meant {
            return;
        }
        let name = match self.by {
            GroupBy::Error => normalised(&error_of(delivery)),
            GroupBy::Domain => delivery.recipient.domain().to_lowercase(),
        };

        if !self.found.contains_key(&name) && self.found.len() >= MOST_GROUPS {
            self.others += 1;
            return;
        }

        let group = self.found.entry(name).or_insert_with_key(|name| {
            let about = match self.by {
                GroupBy::Error => "error",
                GroupBy::Domain => "domain",
            };
            FailureGroup {
                name: name.clone(),
                count: 0,
                dead: 0,
                deferred: 0,
                last_at: None,
                example: mail,
                text: error_of(delivery),
                q: format!("{about}:\"{name}\" state:dead,deferred"),
            }
        });

        group.count += 1;
        match state {
            State::Dead => group.dead += 1,
            _ => group.deferred += 1,
        }

        let tried = delivery.attempts.last().map(|attempt| attempt.at);
        let at = delivery.stage.finished_at().or(tried);
        group.last_at = group.last_at.max(at);
    }

    fn sorted(self) -> Vec<FailureGroup> {
        let mut groups: Vec<FailureGroup> = self.found.into_values().collect();
        groups.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.name.cmp(&b.name)));
        groups
    }
}

/// The last error of a delivery; the reason why it is dead if it was not attempted.
pub(super) fn error_of(delivery: &Delivery) -> String {
    match (delivery.attempts.last(), &delivery.stage) {
        (Some(attempt), _) => attempt.reply_text(),
        (None, Stage::Dead { reason, .. }) => reason.to_string(),
        (None, _) => String::new(),
    }
}

/// An error without the parts that differ from mail to mail: addresses, numbers, ids. Codes are
/// kept.
pub(super) fn normalised(error: &str) -> String {
    let mut words = Vec::new();
    for (place, word) in error.split_whitespace().enumerate() {
        words.push(if place < 2 && is_code(word) {
            word.to_owned()
        } else {
            without_ids(word)
        });
    }
    let joined = words.join(" ").replace(['"', '\\'], "'");
    joined.chars().take(LONGEST_ERROR).collect()
}

/// `451`, `4.7.1`.
fn is_code(word: &str) -> bool {
    word.len() <= 9 && word.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// Words with a digit that is the same in every mail.
const NAMES_WITH_NUMBERS: [&str; 2] = ["SMTPUTF8", "8BITMIME"];

fn without_ids(word: &str) -> String {
    if word.contains('@') {
        return "<address>".to_owned();
    }

    let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    if NAMES_WITH_NUMBERS
        .iter()
        .any(|name| bare.eq_ignore_ascii_case(name))
    {
        return word.to_owned();
    }

    let has_digit = word.bytes().any(|b| b.is_ascii_digit());
    if has_digit && (word.chars().count() > LONGEST_WORD || word.contains("://")) {
        return "#".to_owned();
    }

    let mut out = String::with_capacity(word.len());
    let mut in_number = false;
    for c in word.chars() {
        if c.is_ascii_digit() {
            if !in_number {
                out.push('#');
            }
            in_number = true;
        } else {
            in_number = false;
            out.push(c);
        }
    }

    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_mail_to_mail_is_taken_out() {
        for (one, other) in [
            (
                "550 5.1.1 <ada@example.org>: no such user",
                "550 5.1.1 <bob@example.net>: no such user",
            ),
            (
                "451 4.7.1 greylisted, come back in 300 seconds",
                "451 4.7.1 greylisted, come back in 7 seconds",
            ),
            (
                "421 4.7.0 too many from 192.0.2.7 [TSS04-9f8a7b6c5d4e3f21aa]",
                "421 4.7.0 too many from 198.51.100.200 [TSS04-0011223344556677ff]",
            ),
        ] {
            assert_eq!(normalised(one), normalised(other));
        }

        assert_ne!(normalised("550 5.1.1 no"), normalised("451 4.7.1 no"));
        assert_eq!(normalised("550 5.1.1 a \"b\""), "550 5.1.1 a 'b'");
        let named = "550 5.6.7 the mail needs SMTPUTF8, which the server does not offer";
        assert_eq!(normalised(named), named);
    }
}
