//! What all tasks with a named reader have in common: they work while this node has the reader,
//! rest while the journal cannot be read or written, and end on request.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::dispatch::{Error, Turn};
use crate::spool::SpoolError;

/// How long a task rests after the journal could not be read or written.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Becomes true when a task is to end.
pub(super) type Closing = watch::Receiver<bool>;

/// Runs `work` while this node has the reader, until the task is to end or the spool is closed.
/// `work` returns when the reader was lost to another node; `shows` is called with whether another
/// node has it.
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
