//! Who submitted a mail. Set by the listeners and stored with the mail; it decides who owns an
//! idempotency key, which mail a client may see, and whose quota counts.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Who submitted a mail. As text: `local`, `token:NAME` or `user:NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Submitter {
    /// The program that embeds the library, or a program on this machine that uses a listener
    /// without a token or login.
    #[default]
    Local,
    /// The holder of this token of the HTTP API.
    Token(Arc<str>),
    /// This user of the SMTP listener.
    User(Arc<str>),
}

impl Submitter {
    /// The holder of a token.
    pub fn token(name: &str) -> Self {
        Submitter::Token(name.into())
    }

    /// An authenticated user.
    pub fn user(name: &str) -> Self {
        Submitter::User(name.into())
    }

    /// A short number under which its pending mail is counted; 0 if it is not counted.
    pub(crate) fn account(&self) -> u64 {
        match self {
            Submitter::Local => 0,
            Submitter::Token(_) | Submitter::User(_) => {
                twox_hash::XxHash3_64::oneshot(self.to_string().as_bytes()).max(1)
            }
        }
    }

    /// An idempotency key of this submitter as it was stored before submitters were stored. Keys
    /// contain no NUL.
    pub(crate) fn old_key(&self, key: &str) -> String {
        match self {
            Submitter::Local => key.to_owned(),
            Submitter::Token(_) | Submitter::User(_) => format!("{self}\0{key}"),
        }
    }

    /// The submitter of such a key, if it has one, and the key as the client chose it.
    pub(crate) fn of_old_key(old_key: &str) -> (Option<Self>, &str) {
        match old_key.rsplit_once('\0') {
            Some((who, key)) => (who.parse().ok(), key),
            None => (None, old_key),
        }
    }

    /// The key as the client chose it, from the stored form.
    pub(crate) fn given_key(kept_key: &str) -> &str {
        Submitter::of_old_key(kept_key).1
    }
}

impl fmt::Display for Submitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Submitter::Local => f.write_str("local"),
            Submitter::Token(name) => write!(f, "token:{name}"),
            Submitter::User(name) => write!(f, "user:{name}"),
        }
    }
}

impl From<Submitter> for String {
    fn from(submitter: Submitter) -> String {
        submitter.to_string()
    }
}

impl TryFrom<String> for Submitter {
    type Error = SubmitterError;

    fn try_from(text: String) -> Result<Self, SubmitterError> {
        text.parse()
    }
}

impl FromStr for Submitter {
    type Err = SubmitterError;

    fn from_str(text: &str) -> Result<Self, SubmitterError> {
        match text.split_once(':') {
            None if text == "local" => Ok(Submitter::Local),
            Some(("token", name)) => Ok(Submitter::token(name)),
            Some(("user", name)) => Ok(Submitter::user(name)),
            _ => Err(SubmitterError(text.chars().take(64).collect())),
        }
    }
}

/// The text is not the name of a submitter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not one of local, token:NAME and user:NAME", .0.escape_debug())]
pub struct SubmitterError(String);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn all() -> [Submitter; 5] {
        [
            Submitter::Local,
            Submitter::token("app"),
            Submitter::user("app"),
            Submitter::token("user:app"),
            Submitter::token(""),
        ]
    }

    #[test]
    fn what_is_written_is_read_and_no_two_are_one() {
        for one in all() {
            assert_eq!(one.to_string().parse::<Submitter>().unwrap(), one);
        }
        let mut accounts = all().map(|one| one.account());
        accounts.sort_unstable();
        assert!(accounts.windows(2).all(|two| two[0] != two[1]));
        assert!("app".parse::<Submitter>().is_err() && "".parse::<Submitter>().is_err());
    }

    #[test]
    fn an_old_key_says_whose_it_is_and_no_two_have_one() {
        let mut keys = all().map(|one| one.old_key("order-42"));
        for (one, key) in all().iter().zip(&keys) {
            let of = Some(one.clone()).filter(|one| *one != Submitter::Local);
            assert_eq!(Submitter::of_old_key(key), (of, "order-42"));
        }
        assert_eq!(keys[0], "order-42", "as before there were others");
        keys.sort_unstable();
        assert!(keys.windows(2).all(|two| two[0] != two[1]));
    }
}
