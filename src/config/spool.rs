//! `[spool]`: where accepted mail is stored, for how long, and how much of it.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::mistake::MistakeReport;
use super::{secret, units};
use crate::dispatch::OnSpoolFailure;
use crate::mail::{days, seconds};
use crate::spool::postgres::{Migrate, PostgresSpool};

/// The smallest `max_size` that is accepted, in bytes.
const SMALLEST_BOUND: u64 = 64 * 1024;

/// Where accepted mail is stored, for how long, and how much of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spool {
    /// The directory.
    pub path: PathBuf,
    /// A PostgreSQL database, instead of a directory.
    pub url: Option<SecretString>,
    /// Its password.
    pub password: Option<SecretString>,
    /// The file with the password.
    pub password_file: Option<PathBuf>,
    /// The schema of the spool's tables there.
    pub schema: String,
    /// This node's name in that database; the host's name when absent.
    pub node: Option<String>,
    /// After how long without a sign of life from this node others take over its leases.
    #[serde(deserialize_with = "units::duration")]
    pub lease: Duration,
    /// Whether tables are created and upgraded at start.
    pub migrate: Migrate,
    /// When it is synced to disk.
    pub sync: Sync,
    /// How often, if `sync` is `interval`.
    #[serde(deserialize_with = "units::duration")]
    pub sync_interval: Duration,
    /// How long finished mail is kept.
    #[serde(deserialize_with = "units::duration")]
    pub retention: Duration,
    /// How long the message of delivered mail is kept.
    #[serde(deserialize_with = "units::duration")]
    pub keep_bodies: Duration,
    /// About how large the spool's files may become; unbounded when absent.
    #[serde(deserialize_with = "units::some_size")]
    pub max_size: Option<ByteSize>,
    /// How long an idempotency key is remembered.
    #[serde(deserialize_with = "units::duration")]
    pub idempotency_ttl: Duration,
    /// The most deliveries that may be pending.
    pub max_pending: u64,
    /// How many further deliveries of critical mail may be pending; a twentieth of `max_pending`
    /// when absent.
    pub critical_reserve: Option<u64>,
    /// The largest message that is accepted.
    #[serde(deserialize_with = "units::size")]
    pub max_message_size: ByteSize,
    /// How long a new mail waits for room before it is refused.
    #[serde(deserialize_with = "units::duration")]
    pub accept_timeout: Duration,
    /// What happens to a new mail that the spool cannot store.
    pub on_spool_failure: OnSpoolFailure,
}

/// When the spool is synced to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sync {
    /// Before each receipt.
    Always,
    /// Every `sync_interval`; each receipt says so.
    Interval,
}

impl Default for Spool {
    fn default() -> Self {
        Spool {
            path: "var/spool".into(),
            url: None,
            password: None,
            password_file: None,
            schema: "postrider".into(),
            node: None,
            lease: seconds(30),
            migrate: Migrate::Auto,
            sync: Sync::Always,
            sync_interval: Duration::from_millis(100),
            retention: days(7),
            keep_bodies: days(1),
            max_size: None,
            idempotency_ttl: days(7),
            max_pending: 1_000_000,
            critical_reserve: None,
            max_message_size: ByteSize::mib(25),
            accept_timeout: seconds(5),
            on_spool_failure: OnSpoolFailure::Reject,
        }
    }
}

impl Spool {
    /// How many more deliveries of critical mail may be pending.
    pub fn critical_reserve(&self) -> u64 {
        self.critical_reserve
            .unwrap_or(self.max_pending.div_ceil(20))
    }

    pub(super) fn check(&mut self, report: &mut MistakeReport<'_>) {
        self.check_database(report);
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

        let max_size = self.max_size.map(|size| size.as_u64());
        if max_size.is_some_and(|size| size < SMALLEST_BOUND) {
            report.add(
                "spool.max_size",
                "is below 64KiB, so that hardly any mail could be accepted",
            );
        }

        if max_size.is_some() && self.url.is_some() {
            report.add(
                "spool.max_size",
                "bounds a spool in a directory, and this one is in a database",
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

    fn check_database(&mut self, report: &mut MistakeReport<'_>) {
        let file = self.password_file.as_deref();
        secret::settle(&mut self.password, file, ("spool", "password"), report);
        let Some(url) = &self.url else {
            if self.password.is_some() {
                report.add("spool.password", "is of no use without `spool.url`");
            }
            return;
        };

        let url = url.expose_secret();
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            report.add(
                "spool.url",
                "does not begin with postgres://; a directory is named by `spool.path`",
            );
        } else if let Err(reason) = self.postgres(url).check() {
            report.add("spool.url", reason);
        }

        if self.schema.is_empty() || self.schema.len() > 60 || self.schema.contains('\0') {
            report.add("spool.schema", "must have 1 to 60 bytes");
        }
        if self
            .node
            .as_ref()
            .is_some_and(|node| node.trim().is_empty())
        {
            report.add("spool.node", "is empty");
        }

        if self.lease < seconds(2) || self.lease > seconds(3600) {
            report.add("spool.lease", "must be between 2s and 1h");
        }
        if self.sync == Sync::Interval {
            report.add(
                "spool.sync",
                "is interval, which PostgreSQL has a setting of its own for: synchronous_commit",
            );
        }
    }

    /// The database in the engine's own type.
    fn postgres(&self, url: &str) -> PostgresSpool {
        let mut spool = PostgresSpool::new(url)
            .schema(&self.schema)
            .lease(self.lease)
            .migrate(self.migrate);

        if let Some(password) = &self.password {
            spool = spool.password(password.clone());
        }
        if let Some(node) = &self.node {
            spool = spool.node(node);
        }

        spool
    }

    /// The database; `None` if the spool is a directory.
    pub fn database(&self) -> Option<PostgresSpool> {
        let url = self.url.as_ref()?;
        Some(self.postgres(url.expose_secret()))
    }

    /// The spool's place for messages: its path, or the database's URL without the password.
    pub fn place(&self) -> String {
        match self.database() {
            Some(database) => database.name(),
            None => self.path.display().to_string(),
        }
    }
}
