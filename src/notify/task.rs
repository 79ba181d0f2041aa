//! What every task that reads the journal by name does alike: it works while it is this node's
//! turn, rests where the journal cannot be read or written, and ends when it is told to.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::dispatch::{Error, Turn};
use crate::spool::SpoolError;

/// How long a journal that cannot be read or written is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// How a task is told to end.
pub(super) type Closing = watch::Receiver<bool>;

/// Works while it is this node's turn, until it is told to end, or the spool is closed. `shows` is
/// told whether another node does it; `work` goes on until it is not this node's turn any more.
pub(super) async fn run_turns(
    mut turn: Turn,
    name: &str,
    mut closing: Closing,
    shows: impl Fn(bool),
    mut work: impl for<'a> FnMut(&'a mut Turn, &'a mut Closing) -> BoxFuture<'a, Result<(), Error>>,
) {
    while !*closing.borrow_and_update() {
        let is_mine = turn.is_mine();
        shows(!is_mine);
        if !is_mine {
            tokio::select! {
                () = turn.changed() => {}
                _ = closing.changed() => {}
            }
            continue;
        }
        match work(&mut turn, &mut closing).await {
            Ok(()) => {}
            Err(Error::Spool(SpoolError::Closed) | Error::Stopped(_)) => return,
            Err(error) => {
                tracing::warn!(
                    reader = name,
                    %error,
                    "webhooks and alerts cannot go on now"
                );
                tokio::select! {
                    () = tokio::time::sleep(RETRY_AFTER) => {}
                    _ = closing.changed() => {}
                }
            }
        }
    }
}
