//! How many deliveries of each token and user are pending, and how many were submitted today.
//! Commits change the counts in the database; a node knows them as of the last commit that it has
//! seen.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::link::Connected;

/// How many deliveries are pending, and how many were accepted on the last day with any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub pending: u64,
    pub day: i64,
    pub accepted: u64,
}

/// An account's counts as of a commit.
pub(super) type AccountAtCommit = (i64, Account);

/// The newest version of each account, found by steps over the index, so that dead versions are
/// skipped.
const NEWEST: &str = "WITH RECURSIVE a AS (
  (SELECT name, pending, day, accepted FROM accounts ORDER BY name DESC, version DESC LIMIT 1)
  UNION ALL
  SELECT n.* FROM a CROSS JOIN LATERAL (SELECT x.name, x.pending, x.day, x.accepted FROM accounts x
    WHERE x.name < a.name ORDER BY x.name DESC, x.version DESC LIMIT 1) n)
SELECT concat_ws(' ', name, pending, day, accepted), (SELECT max(commits) FROM head) FROM a";

/// The known counts, each with the commit from which it is.
#[derive(Default)]
pub(super) struct AccountCounts {
    known: Mutex<HashMap<i64, (i64, Account)>>,
}

impl AccountCounts {
    pub(super) fn of(&self, name: u64) -> Account {
        let known = self.known.lock();
        let account = known.get(&name.cast_signed());
        account.map_or_else(Account::default, |(_, account)| *account)
    }

    /// Learns counts as of a commit. An older commit changes nothing.
    pub(super) fn learn(&self, commit: i64, accounts: &[AccountAtCommit]) {
        if accounts.is_empty() {
            return;
        }
        let mut known = self.known.lock();
        for (name, account) in accounts {
            let (since, there) = known.entry(*name).or_default();
            if commit >= *since {
                (*since, *there) = (commit, *account);
            }
        }
    }

    pub(super) fn forget(&self) {
        self.known.lock().clear();
    }

    /// Reads the counts of all accounts. Those of a commit after this one, which is the last that
    /// is known to be on disk, give way to any later ones: the database may lose that commit.
    pub(super) async fn read(
        &self,
        on: &Connected,
        flushed: i64,
    ) -> Result<(), tokio_postgres::Error> {
        let rows = on.query(NEWEST, &[]).await?;
        for row in rows {
            let commit: i64 = row.get(1);
            self.learn(commit.min(flushed), &read(&[row.get(0)]));
        }
        Ok(())
    }
}

/// Parses accounts as the database returns them.
pub(super) fn read(texts: &[String]) -> Vec<AccountAtCommit> {
    let read = texts.iter().filter_map(|text| {
        let numbers: Vec<i64> = text.split(' ').filter_map(|n| n.parse().ok()).collect();
        let [name, pending, day, accepted] = numbers[..] else {
            return None;
        };
        let account = Account {
            pending: u64::try_from(pending).unwrap_or(0),
            day,
            accepted: u64::try_from(accepted).unwrap_or(0),
        };
        Some((name, account))
    });

    read.collect()
}

/// The changes of accounts in a commit.
#[derive(Clone, Debug, Default)]
pub(super) struct AccountChanges {
    of: HashMap<i64, (i64, i64, i64)>,
}

impl AccountChanges {
    /// Adds `by` to the pending deliveries of an account. Account 0 belongs to nobody and is not
    /// counted.
    pub(super) fn pending(&mut self, account: i64, by: i64) {
        if account != 0 {
            self.of.entry(account).or_default().0 += by;
        }
    }

    /// Adds `count` to the deliveries that were accepted on this day.
    pub(super) fn accepted(&mut self, account: i64, day: i64, count: u16) {
        if account == 0 {
            return;
        }
        let (_, last, accepted) = self.of.entry(account).or_default();
        if day > *last {
            (*last, *accepted) = (day, 0);
        }
        if day == *last {
            *accepted += i64::from(count);
        }
    }

    pub(super) fn columns(&self) -> AccountColumns {
        let mut columns = AccountColumns::default();
        for (name, (pending, day, accepted)) in &self.of {
            columns.names.push(*name);
            columns.pending.push(*pending);
            columns.days.push(*day);
            columns.accepted.push(*accepted);
        }
        columns
    }
}

/// The changes as the arguments of the SQL function `count_accounts`.
#[derive(Default)]
pub(super) struct AccountColumns {
    pub names: Vec<i64>,
    pub pending: Vec<i64>,
    pub days: Vec<i64>,
    pub accepted: Vec<i64>,
}
