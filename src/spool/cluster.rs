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
    /// The number of its session, which no other has had.
    pub session: u32,
    /// Its version.
    pub version: String,
    /// When its session began.
    pub since: Timestamp,
    /// When it gave its last sign of life.
    pub seen: Timestamp,
    /// Whether it is the one that was asked.
    pub is_this: bool,
    /// How many deliveries it held then.
    pub holds: u64,
}

/// What is to be obeyed by every node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// The relays over which nothing is sent.
    pub paused: BTreeSet<String>,
    /// The mails that are wanted back.
    pub wanted_back: BTreeSet<MailId>,
    /// Which of the live nodes this one is, from 0, and how many there are.
    pub share: (u32, u32),
}

/// The nodes of a shared spool.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// The nodes that live, the oldest first.
    async fn nodes(&self) -> Result<Vec<NodeStatus>, SpoolError>;

    /// Has whichever node holds a mail give it back unsent, if it still can.
    async fn want_back(&self, mail: MailId) -> Result<(), SpoolError>;

    /// What is wrong with what they share and does not stop them, one sentence each.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// What this node is to obey. [`Spool::changed`](super::Spool::changed) tells of it as well.
    fn orders(&self) -> watch::Receiver<Arc<Orders>>;
}
