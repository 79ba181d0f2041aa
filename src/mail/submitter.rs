//! Who hands a mail in. The doors say it, and idempotency keys belong to whoever it is.

use std::fmt;
use std::sync::Arc;

/// Who handed a mail in. As text: `local`, `token:NAME` or `user:NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Submitter {
    /// The program that embeds the engine, or a program on this machine where a door asks nobody
    /// for a token or a login.
    #[default]
    Local,
    /// The holder of this token of the HTTP door.
    Token(Arc<str>),
    /// This user of the SMTP door.
    User(Arc<str>),
}

impl Submitter {
    /// The holder of a token.
    pub fn token(name: &str) -> Self {
        Submitter::Token(name.into())
    }

    /// A user who has logged in.
    pub fn user(name: &str) -> Self {
        Submitter::User(name.into())
    }

    /// An idempotency key of this one, as the spool keeps it: another's is another key. No key has a
    /// NUL in it.
    pub(crate) fn own_key(&self, key: &str) -> String {
        match self {
            Submitter::Local => key.to_owned(),
            Submitter::Token(_) | Submitter::User(_) => format!("{self}\0{key}"),
        }
    }

    /// The key that was given, of one as the spool keeps it.
    pub(crate) fn given_key(own_key: &str) -> &str {
        own_key.rsplit('\0').next().unwrap_or(own_key)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_have_one_key_and_the_key_that_was_given_comes_back() {
        let all = [
            Submitter::Local,
            Submitter::token("app"),
            Submitter::user("app"),
            Submitter::token("user:app"),
        ];
        let mut keys: Vec<String> = all.iter().map(|one| one.own_key("order-42")).collect();
        for key in &keys {
            assert_eq!(Submitter::given_key(key), "order-42");
        }
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), all.len());
        assert_eq!(
            Submitter::Local.own_key("k"),
            "k",
            "as before there were others"
        );
    }
}
