//! `[spool]`: where accepted mail is kept, and how much of it.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

use super::mistake::Report;
use super::units;
use crate::mail::{days, seconds};

/// Where accepted mail is kept, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spool {
    /// The directory.
    pub path: PathBuf,
    /// When it is synced to disk.
    pub sync: Sync,
    /// How often, where `sync` is `interval`.
    #[serde(deserialize_with = "units::duration")]
    pub sync_interval: Duration,
    /// How long finished mail is kept.
    #[serde(deserialize_with = "units::duration")]
    pub retention: Duration,
    /// How long an idempotency key is remembered.
    #[serde(deserialize_with = "units::duration")]
    pub idempotency_ttl: Duration,
    /// How many deliveries may be pending.
    pub max_pending: u64,
    /// The largest message that is accepted.
    #[serde(deserialize_with = "units::size")]
    pub max_message_size: ByteSize,
    /// How long a new mail waits for room.
    #[serde(deserialize_with = "units::duration")]
    pub accept_timeout: Duration,
    /// What to do with a new mail while the spool cannot take it.
    pub on_spool_failure: OnSpoolFailure,
}

/// When the spool is synced to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sync {
    /// Before each receipt.
    Always,
    /// Now and then; each receipt says so.
    Interval,
}

/// What to do with a new mail while the spool cannot take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnSpoolFailure {
    /// Refuse it.
    Reject,
    /// Send it at once.
    Direct,
}

impl Default for Spool {
    fn default() -> Self {
        Spool {
            path: "var/spool".into(),
            sync: Sync::Always,
            sync_interval: Duration::from_millis(100),
            retention: days(7),
            idempotency_ttl: days(7),
            max_pending: 1_000_000,
            max_message_size: ByteSize::mib(25),
            accept_timeout: seconds(5),
            on_spool_failure: OnSpoolFailure::Reject,
        }
    }
}

impl Spool {
    pub(super) fn check(&self, report: &mut Report<'_>) {
        if self.path.as_os_str().is_empty() {
            report.add("spool.path", "is empty; name a directory");
        }
        if self.path.exists() && !self.path.is_dir() {
            report.add(
                "spool.path",
                format!("{} is not a directory", self.path.display()),
            );
        }
        if self.sync_interval.is_zero() {
            report.add(
                "spool.sync_interval",
                "is zero; to sync before each receipt, set `sync` to always",
            );
        }
        if self.max_pending == 0 {
            report.add(
                "spool.max_pending",
                "is 0, so that nothing could be accepted",
            );
        }
        if self.max_message_size.as_u64() == 0
            || usize::try_from(self.max_message_size.as_u64()).is_err()
        {
            report.add(
                "spool.max_message_size",
                "must be above zero, and fit into memory",
            );
        }
    }
}
