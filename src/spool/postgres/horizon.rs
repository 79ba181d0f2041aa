//! Finds what keeps the database from removing dead rows: a transaction, a prepared transaction or
//! a replication slot that has existed for long. Claims have to walk over dead rows, and become
//! slower.
//!
//! Checked by `poll` now and then. Its age is measured here, because a role that may not see the
//! statistics of others sees the number of their transaction, but not when it began.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::link::Connected;
use super::shared::NodeState;

/// How often to check.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// How long a transaction must exist before it is reported.
const REPORT_AFTER: Duration = Duration::from_secs(4);

#[derive(Default)]
pub(super) struct Horizon(Mutex<KnownTransactions>);

#[derive(Default)]
struct KnownTransactions {
    /// Since when each transaction was seen, by the transaction number that it holds.
    since: HashMap<String, Instant>,
    oldest: Option<OldestTransaction>,
}

#[derive(Clone)]
struct OldestTransaction {
    what: String,
    since: Instant,
}

impl Horizon {
    /// For how long a transaction has prevented the removal of dead rows; `None` if none has for
    /// too long.
    pub(super) fn held_for(&self) -> Option<Duration> {
        let known = self.0.lock();
        known.oldest.as_ref().map(|oldest| oldest.since.elapsed())
    }

    /// The same, as a sentence.
    pub(super) fn warning(&self) -> Option<String> {
        let known = self.0.lock();
        known.oldest.as_ref().map(|oldest| {
            let seconds = Duration::from_secs(oldest.since.elapsed().as_secs());
            format!(
                "{} has been open for {} or longer: the database cannot remove dead rows, and \
                 claiming mail gets slower",
                oldest.what,
                humantime::format_duration(seconds),
            )
        })
    }

    /// Records the transactions that exist now; remembers the first that has existed for too long.
    fn seen(&self, holders: Vec<(String, String)>, report_after: Duration) {
        let now = Instant::now();
        let mut known = self.0.lock();
        let before = std::mem::take(&mut known.since);
        let mut oldest: Option<OldestTransaction> = None;
        for (name, what) in holders {
            let since = before.get(&name).copied().unwrap_or(now);
            if since.elapsed() >= report_after && oldest.as_ref().is_none_or(|o| since < o.since) {
                oldest = Some(OldestTransaction { what, since });
            }
            known.since.insert(name, since);
        }

        match (&known.oldest, &oldest) {
            (None, Some(found)) => tracing::warn!(
                holder = found.what,
                "the database cannot remove dead rows, and claiming mail gets slower"
            ),
            (Some(_), None) => tracing::info!("the database can remove dead rows again"),
            _ => {}
        }
        known.oldest = oldest;
    }
}

/// A transaction holds back its own number, or that of the oldest transaction whose rows it may
/// see. A standby with feedback holds one back for its own readers.
const HOLDERS: &str = "
SELECT a.pid || ':' || coalesce(a.backend_xid, a.backend_xmin)::text,
  format('a transaction of %s (application %s, process %s)', coalesce(a.usename::text, 'a standby'),
    coalesce(nullif(a.application_name, ''), 'without a name'), a.pid)
FROM pg_stat_activity a
WHERE (a.backend_xid IS NOT NULL OR a.backend_xmin IS NOT NULL) AND a.pid <> pg_backend_pid()
  AND (a.datname = current_database() OR a.datname IS NULL)
UNION ALL
SELECT p.transaction::text || ':' || p.gid, format('the prepared transaction %s of %s', p.gid,
  p.owner)
FROM pg_prepared_xacts p WHERE p.database = current_database()
UNION ALL
SELECT s.slot_name || ':' || s.xmin::text, format('the replication slot %s', s.slot_name)
FROM pg_replication_slots s WHERE s.xmin IS NOT NULL";

pub(super) async fn look(node: &NodeState, on: &Connected) -> Result<(), tokio_postgres::Error> {
    let rows = on.query(HOLDERS, &[]).await?;
    let holders = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    node.horizon
        .seen(holders, (node.lease * 2).max(REPORT_AFTER));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holders(names: &[&str]) -> Vec<(String, String)> {
        let held = names
            .iter()
            .map(|name| ((*name).to_owned(), format!("it, {name}")));
        held.collect()
    }

    #[test]
    fn what_holds_the_same_for_long_is_reported_until_it_is_gone() {
        let horizon = Horizon::default();
        let report_after = Duration::from_millis(20);
        horizon.seen(holders(&["1:5", "2:7"]), report_after);
        assert!(
            horizon.warning().is_none(),
            "no transaction has been open for long"
        );
        std::thread::sleep(report_after);

        horizon.seen(holders(&["1:6", "2:7"]), report_after);
        let warning = horizon.warning().unwrap_or_default();
        assert!(
            warning.starts_with("it, 2:7"),
            "who moves on is not in the way: {warning}"
        );
        assert!(horizon.held_for().is_some_and(|held| held >= report_after));

        horizon.seen(holders(&["1:6"]), report_after);
        assert!(horizon.held_for().is_none());
    }
}
