//! The output of `sendmail -bp` and `mailq`: every mail that has not ended.

use std::io;

use super::SendmailError;
use crate::cli::client::service::ServiceClient;
use crate::cli::screen::{Screen, plain};
use crate::delivery::State;
use crate::dispatch::{MailStatus, StatusPage};

/// The states in which a mail waits.
const WAITING_STATES: [State; 4] = [
    State::Queued,
    State::Sending,
    State::Deferred,
    State::Scheduled,
];
/// The most mails of each state that are shown.
const MOST_SHOWN: usize = 1000;

/// Prints the queue.
pub(super) fn print(client: &ServiceClient, screen: &mut Screen) -> Result<(), SendmailError> {
    let mut mails: Vec<MailStatus> = Vec::new();
    for state in WAITING_STATES {
        let parameters = vec![
            ("state", state.to_string()),
            ("limit", MOST_SHOWN.to_string()),
        ];
        let page: StatusPage = client.get(&["v1", "mails"], &parameters)?.decode()?;
        mails.extend(page.mails);
    }
    mails.sort_by_key(|mail| (mail.created_at, mail.id));
    mails.dedup_by_key(|mail| mail.id);
    show(&mails, screen).map_err(|error| SendmailError::from(crate::cli::Failure::Output(error)))
}

fn show(mails: &[MailStatus], screen: &mut Screen) -> io::Result<()> {
    if mails.is_empty() {
        return screen.line(&[plain("Mail queue is empty")]);
    }
    for mail in mails {
        let sender = mail
            .return_path
            .as_ref()
            .map_or("MAILER-DAEMON", |path| path.as_str());
        let head = format!(
            "{}  {:>9}  {}  {sender}",
            mail.id, mail.size, mail.created_at
        );
        screen.line(&[plain(head)])?;
        let waiting = mail
            .deliveries
            .iter()
            .filter(|one| WAITING_STATES.contains(&one.state));
        for delivery in waiting {
            if let Some(attempt) = delivery.attempts.last() {
                screen.line(&[plain(format!("    ({})", attempt.text))])?;
            }
            screen.line(&[plain(format!(
                "    {}  {}",
                delivery.state, delivery.recipient
            ))])?;
        }
    }

    let size: u64 = mails.iter().map(|mail| mail.size).sum();
    let count = mails.len();
    screen.line(&[plain(format!("-- {count} in the queue, {size} bytes"))])
}
