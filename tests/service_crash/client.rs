//! A client: it submits mail after mail, each until it is taken, whatever happens to the service
//! meanwhile.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::ledger::Book;
use super::mails::Draft;

/// How long a client waits before it tries again where it found nobody or lost its connection.
const BACK_OFF: Duration = Duration::from_millis(10);
/// How long it waits where it was told to come back later.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How long an answer may take.
const WAIT_LIMIT: Duration = Duration::from_secs(60);
/// How often a client loses its patience at once, so that it submits a mail again which is still
/// being taken.
const EARLY_RETRIES: f64 = 0.02;

/// The connection is gone, or there was none.
pub struct ConnectionLost;

impl From<std::io::Error> for ConnectionLost {
    fn from(_: std::io::Error) -> Self {
        ConnectionLost
    }
}

impl From<hyper::Error> for ConnectionLost {
    fn from(_: hyper::Error) -> Self {
        ConnectionLost
    }
}

/// What the service said about one mail.
pub enum Answer {
    /// It was taken under this id.
    Taken(String),
    /// It was not, and may be submitted again.
    Later,
    /// It was refused for good, which must not happen here.
    Refused(String),
}

/// A way into the service.
pub trait Door {
    /// How many mails it is given at a time.
    const GROUP: usize = 1;

    /// Hands in these, and tells what is said about each as soon as it is heard.
    async fn hand_in(
        &mut self,
        drafts: &[Draft],
        tell: &mut impl FnMut(&Draft, Answer),
    ) -> Result<(), ConnectionLost>;

    /// Drops the connection, whatever is under way on it.
    fn hang_up(&mut self);
}

/// Hands in mail until it is told to stop; then everything that it has begun is acknowledged.
pub async fn work<D: Door>(
    name: String,
    mut door: D,
    book: Book,
    stop: watch::Receiver<bool>,
    seed: u64,
) {
    let mut choices = StdRng::seed_from_u64(seed);
    let mut last: Vec<Draft> = Vec::new();
    for group in 0.. {
        if *stop.borrow() {
            return;
        }
        let numbers = group * D::GROUP..(group + 1) * D::GROUP;
        let drafts: Vec<Draft> = numbers.map(|number| Draft::new(&name, number)).collect();
        let mut left = drafts.clone();
        while !left.is_empty() {
            let is_hasty = choices.random_bool(EARLY_RETRIES);
            let patience = if is_hasty {
                Duration::from_millis(choices.random_range(0..20))
            } else {
                WAIT_LIMIT
            };
            let mut again = Vec::new();
            let mut tell = |draft: &Draft, answer| match answer {
                Answer::Taken(id) => book.acknowledged(&draft.key, &id),
                Answer::Later => again.push(draft.clone()),
                Answer::Refused(why) => book.problem(format!("{} was refused: {why}", draft.key)),
            };
            let handed_in = timeout(patience, door.hand_in(&left, &mut tell)).await;
            if handed_in.is_err() && !is_hasty {
                book.problem(format!("{name} had no answer in {WAIT_LIMIT:?}"));
            }
            if let Ok(Ok(())) = handed_in {
                left = again;
                if !left.is_empty() {
                    sleep(RETRY_AFTER).await;
                }
            } else {
                door.hang_up();
                // What was acknowledged is submitted once more: it must keep its id.
                left = last.iter().chain(&drafts).cloned().collect();
                sleep(BACK_OFF).await;
            }
        }
        last = drafts;
    }
}
