//! What the nodes of a shared spool exchange: who they are, which relays are paused, and which
//! mails are to be cancelled by the node that is sending them.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::SpoolError;
use crate::mail::{MailId, Timestamp};

/// A node that shares the spool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// The number of its session; no two sessions have the same.
    pub session: u32,
    /// Its version.
    pub version: String,
    /// When its session began.
    pub since: Timestamp,
    /// When it last renewed its lease.
    pub seen: Timestamp,
    /// Whether it is the node that answers.
    pub is_this: bool,
    /// How many deliveries it held at that time.
    pub holds: u64,
}

/// The orders that every node obeys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// The paused relays.
    pub paused: BTreeSet<String>,
    /// The mails that the node that holds them should not send.
    pub wanted_back: BTreeSet<MailId>,
    /// Which of the live nodes this one is, from 0, and how many there are.
    pub share: (u32, u32),
}

/// The nodes of a shared spool.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// The live nodes, the oldest first.
    async fn nodes(&self) -> Result<Vec<NodeStatus>, SpoolError>;

    /// Makes the node that holds a mail return it unsent, if it still can.
    async fn want_back(&self, mail: MailId) -> Result<(), SpoolError>;

    /// Problems of what the nodes share that do not stop them, one sentence each.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// The orders for this node. [`Spool::changed`](super::Spool::changed) is notified of changes
    /// as well.
    fn orders(&self) -> watch::Receiver<Arc<Orders>>;
}
