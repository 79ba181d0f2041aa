//! Searches more mail than the service searches in one call: repeats the call, and shows the
//! progress meanwhile.

use serde::Deserialize;

use super::Failure;
use super::service::{Parameters, ServiceAnswer, ServiceClient};
use crate::cli::ServiceRefusal;
use crate::cli::screen::{Screen, escaped, grouped};
use crate::dispatch::MailStatus;
use crate::mail::MailId;

/// How many mails were searched so far, shown on a terminal from the second call on.
pub struct SearchProgress {
    looked_at: u64,
    is_shown: bool,
}

impl SearchProgress {
    pub fn new() -> Self {
        SearchProgress {
            looked_at: 0,
            is_shown: false,
        }
    }

    /// Adds mails that were searched, if there are more.
    pub fn goes_on(&mut self, looked_at: u64) {
        self.looked_at += looked_at;
        let text = format!("{} mails searched ...", grouped(self.looked_at));
        self.is_shown = Screen::for_notes().show_for_now(&text).unwrap_or(false);
    }
}

impl Drop for SearchProgress {
    fn drop(&mut self) {
        if self.is_shown {
            let _ = Screen::for_notes().clear_line();
        }
    }
}

/// The service's answer if it has not searched all mail for a name.
#[derive(Deserialize)]
struct IncompleteSearch {
    #[serde(default)]
    mails: Vec<MailId>,
    next: String,
    #[serde(default)]
    looked_at: u64,
}

impl IncompleteSearch {
    fn of(refusal: &ServiceRefusal) -> Option<Self> {
        serde_json::from_value(refusal.problem.clone()?).ok()
    }
}

/// Calls `ask` with the name of a mail. If the service has not searched all mail, it is asked
/// again, until it is known which mail is meant.
pub fn about(
    client: &ServiceClient,
    name: &str,
    ask: impl Fn(&str) -> Result<ServiceAnswer, Failure>,
) -> Result<ServiceAnswer, Failure> {
    let mut answer = ask(name);
    let mut progress = SearchProgress::new();
    let mut found: Option<MailId> = None;

    loop {
        let refusal = match answer {
            Err(Failure::Refused(refusal)) => refusal,
            other => return other,
        };
        let Some(seen) = IncompleteSearch::of(&refusal) else {
            return match found {
                // No other mail was found.
                Some(id) if refusal.status == 404 => ask(&id.to_string()),
                _ => Err(Failure::Refused(refusal)),
            };
        };

        for id in seen.mails {
            match found.replace(id) {
                Some(other) if other != id => return Err(several(name, other, id)),
                _ => {}
            }
        }
        progress.goes_on(seen.looked_at);

        let parameters: Parameters = vec![("cursor", seen.next)];
        answer = match client.get(&["v1", "mails", name], &parameters) {
            Ok(record) => {
                let mail: MailStatus = record.decode()?;
                return match found {
                    Some(other) if other != mail.id => Err(several(name, other, mail.id)),
                    _ => ask(&mail.id.to_string()),
                };
            }
            refused => refused,
        };
    }
}

fn several(name: &str, one: MailId, other: MailId) -> Failure {
    Failure::Failed(format!(
        "`{}` matches several mails: {one}, {other}; give more of the id",
        escaped(name)
    ))
}
