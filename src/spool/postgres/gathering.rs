//! Gathers what is committed together. The commits of all nodes are made one after the other, so
//! under load fewer and larger ones serve everybody sooner: what follows a commit is gathered for
//! as long as that commit took.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep_until, timeout_at};

/// Until when to wait for more before the next commit.
pub(super) struct Gathering {
    longest: Duration,
    until: Instant,
}

impl Gathering {
    /// Gathers for this long at most, and not at all before the first commit.
    pub(super) fn at_most(longest: Duration) -> Self {
        Gathering {
            longest,
            until: Instant::now(),
        }
    }

    /// A commit that began then is made: what follows is gathered for as long as it took.
    pub(super) fn follows(&mut self, began: Instant) {
        self.until = Instant::now() + began.elapsed().min(self.longest);
    }

    /// What follows is not gathered.
    pub(super) fn skip(&mut self) {
        self.until = Instant::now();
    }

    /// The next of an inbox; `None` if nothing arrives before the gathering ends.
    pub(super) async fn next<T>(&self, inbox: &mut UnboundedReceiver<T>) -> Option<T> {
        let next = timeout_at(self.until.into(), inbox.recv()).await;
        next.ok().flatten()
    }

    /// Waits until the gathering ends.
    pub(super) async fn end(&self) {
        sleep_until(self.until.into()).await;
    }
}
