//! AUTH PLAIN (RFC 4616) and AUTH LOGIN (RFC 4954 and its older draft), and the known users.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::RwLock;
use secrecy::ExposeSecret;
use subtle::Choice;

use super::User;
use crate::ingress::secrets::ClaimedSecret;

/// The longest name or password, in bytes (RFC 4616 §2).
pub(super) const LONGEST_CREDENTIAL: usize = 255;

/// The users. Clones share the list, which can be replaced while the listener runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Users(Arc<RwLock<Vec<User>>>);

impl Users {
    pub fn new(users: Vec<User>) -> Self {
        Users(Arc::new(RwLock::new(users)))
    }

    pub fn replace(&self, users: Vec<User>) {
        *self.0.write() = users;
    }

    /// Whether there are no users, so that no login is needed.
    pub fn is_empty(&self) -> bool {
        self.0.read().is_empty()
    }

    /// Whether this is a user's name and password. Takes the same time for a wrong name and for a
    /// wrong password.
    fn know(&self, name: &[u8], password: &[u8]) -> bool {
        let (name, password) = (ClaimedSecret::new(name), ClaimedSecret::new(password));
        let mut known = Choice::from(0);
        for user in self.0.read().iter() {
            let is_password = password.is(user.password.expose_secret().as_bytes());
            known |= name.is(user.name.as_bytes()) & is_password;
        }

        known.into()
    }
}

/// A mechanism that is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mechanism {
    Plain,
    Login,
}

/// A login in progress: what the client's next line contains.
#[derive(Debug)]
pub(super) enum Exchange {
    /// PLAIN's only message.
    Plain,
    /// LOGIN's user name.
    Name,
    /// LOGIN's password, for this user name.
    Password(Vec<u8>),
}

/// The result of one line of a login.
#[derive(Debug)]
pub(super) enum LoginStep {
    /// The next challenge, in base64, and what is expected after it.
    Challenge(&'static str, Exchange),
    /// Logged in under this name.
    LoggedIn(String),
    /// The name or the password is wrong; contains the given name.
    Refused(String),
    /// The client gave up with `*`.
    Cancelled,
    /// The line is not base64, or not valid for the mechanism.
    Malformed,
}

/// Begins a login; `initial` is the initial response, where `=` stands for an empty one (RFC 4954
/// §4).
pub(super) fn begin(mechanism: Mechanism, initial: Option<&str>, users: &Users) -> LoginStep {
    match (mechanism, initial) {
        (Mechanism::Plain, None) => LoginStep::Challenge("", Exchange::Plain),
        (Mechanism::Login, None) => LoginStep::Challenge("VXNlcm5hbWU6", Exchange::Name),
        (mechanism, Some(initial)) => {
            let exchange = if mechanism == Mechanism::Plain {
                Exchange::Plain
            } else {
                Exchange::Name
            };
            let initial = if initial == "=" { "" } else { initial };
            proceed(exchange, initial.as_bytes(), users)
        }
    }
}

/// Handles the client's next line, without its CRLF.
pub(super) fn proceed(exchange: Exchange, line: &[u8], users: &Users) -> LoginStep {
    if line == b"*" {
        return LoginStep::Cancelled;
    }
    let Ok(message) = STANDARD.decode(line) else {
        return LoginStep::Malformed;
    };

    let (name, password) = match exchange {
        Exchange::Name => return LoginStep::Challenge("UGFzc3dvcmQ6", Exchange::Password(message)),
        Exchange::Password(name) => (name, message),
        Exchange::Plain => {
            let mut parts = message.split(|b| *b == 0);
            let (Some(acts_as), Some(name), Some(password), None) =
                (parts.next(), parts.next(), parts.next(), parts.next())
            else {
                return LoginStep::Malformed;
            };
            if !acts_as.is_empty() && acts_as != name {
                return LoginStep::Refused(shown(name));
            }
            (name.to_vec(), password.to_vec())
        }
    };

    if users.know(&name, &password) {
        LoginStep::LoggedIn(shown(&name))
    } else {
        LoginStep::Refused(shown(&name))
    }
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name)
        .chars()
        .take(LONGEST_CREDENTIAL)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Users {
        let user = |name: &str, password: &str| User {
            name: name.into(),
            password: password.into(),
        };
        Users::new(vec![
            user("app", "secret"),
            user("zoë", "pässword"),
            user("sec", "ret"),
        ])
    }

    fn plain(message: &str) -> LoginStep {
        begin(Mechanism::Plain, Some(&STANDARD.encode(message)), &users())
    }

    #[test]
    fn the_right_name_and_password_log_in() {
        assert!(matches!(plain("\0app\0secret"), LoginStep::LoggedIn(name) if name == "app"));
        assert!(matches!(plain("app\0app\0secret"), LoginStep::LoggedIn(_)));
        assert!(matches!(plain("\0zoë\0pässword"), LoginStep::LoggedIn(_)));
    }

    #[test]
    fn everything_else_is_refused() {
        let long = format!("\0app\0secret{}", "x".repeat(300));
        let padded = format!("\0app\0secret{}", "\u{1}".repeat(3));
        let wrong = [
            "\0app\0Secret",
            "\0app\0",
            "\0\0",
            "\0app\0ret",
            "\0sec\0secret",
            "root\0app\0secret",
            &long,
            &padded,
        ];

        for message in wrong {
            assert!(
                matches!(plain(message), LoginStep::Refused(_)),
                "{message:?}"
            );
        }

        for message in [
            "",
            "app",
            "app\0secret",
            "\0app\0secret\0",
            "\0app\0sec\0ret",
        ] {
            assert!(
                matches!(plain(message), LoginStep::Malformed),
                "{message:?}"
            );
        }

        assert!(matches!(
            begin(Mechanism::Plain, Some("=="), &users()),
            LoginStep::Malformed
        ));
        assert!(matches!(
            begin(Mechanism::Plain, Some("="), &users()),
            LoginStep::Malformed
        ));
    }

    #[test]
    fn nobody_logs_in_where_nobody_is_known() {
        let none = Users::default();
        assert!(matches!(
            begin(Mechanism::Plain, Some("AAA="), &none),
            LoginStep::Refused(_)
        ));
    }

    #[test]
    fn login_asks_for_the_name_and_the_password() {
        let LoginStep::Challenge("VXNlcm5hbWU6", name) = begin(Mechanism::Login, None, &users())
        else {
            panic!()
        };

        let LoginStep::Challenge("UGFzc3dvcmQ6", password) = proceed(name, b"YXBw", &users())
        else {
            panic!()
        };
        assert!(matches!(proceed(password, b"c2VjcmV0", &users()),
                LoginStep::LoggedIn(name) if name == "app"));

        let LoginStep::Challenge("UGFzc3dvcmQ6", password) =
            begin(Mechanism::Login, Some("YXBw"), &users())
        else {
            panic!()
        };

        assert!(matches!(
            proceed(password, b"*", &users()),
            LoginStep::Cancelled
        ));
    }

    #[test]
    fn a_new_list_holds_at_once() {
        let known = users();
        let seen_by_a_session = known.clone();
        known.replace(vec![User {
            name: "app".into(),
            password: "changed".into(),
        }]);
        let refused = begin(
            Mechanism::Plain,
            Some(&STANDARD.encode("\0app\0secret")),
            &seen_by_a_session,
        );
        assert!(matches!(refused, LoginStep::Refused(_)));
    }
}
