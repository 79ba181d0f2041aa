//! `head`, the row that every commit changes last: the number of the commit, the next number of the
//! journal, and the totals.
//!
//! The commits of all nodes take this row one after the other. Puts and settles do not keep it
//! until they are on disk: such a commit turns `synchronous_commit` off for itself
//! (`set_config(..., true)` where it calls `bump`), and is followed by a record for whose sake the
//! server waits ([`Connected::query_and_flush`]). So the syncs of all nodes are shared, and only
//! what takes no time is done one after the other.
//!
//! *Invariant:* nobody is answered, no event is published and nothing is sent before that on which
//! it rests is on disk. What others have committed is flushed before it is believed: by `poll`, by
//! `reading`, by `put` where a mail or key exists, by `settle` where an outcome is known; a claim
//! is a commit that waits itself. While a node of an older version lives, which believes what it
//! sees, every commit keeps the row until it is on disk (`all_flush`).

use super::connector::Connector;
use super::link::Connected;
use crate::spool::SpoolError;

/// The row, for a `FROM`. Its newest version is found at the end of an index: the older ones stay
/// as long as any transaction does that could see them.
pub(super) const HEAD: &str = "(SELECT * FROM head ORDER BY commits DESC LIMIT 1) AS head";

/// Lets the numbers of the journal go on behind those that it has, where they would begin again:
/// whoever restored the database restored its tables from different moments.
const GO_ON: &str = "UPDATE head SET next = j.next, written = greatest(head.written, j.written)
FROM (SELECT first + events AS next, before + octet_length(entries) AS written
  FROM journal ORDER BY first DESC LIMIT 1) j WHERE head.next < j.next";

/// Checks that the row is there and whole, and that no number of the journal would be used twice.
///
/// # Errors
/// If the row is missing or damaged, or the database does not answer.
pub(super) async fn mend(connector: &Connector, on: &Connected) -> Result<(), SpoolError> {
    let failed = |error: tokio_postgres::Error| connector.error(&error);
    let whole = format!(
        "SELECT FROM {HEAD} WHERE cardinality(totals) = 12 AND array_position(totals, NULL) IS NULL"
    );
    let rows = on.query(&whole, &[]).await.map_err(failed)?;
    if rows.is_empty() {
        return Err(connector.unreachable(
            "the row of its table `head` is gone or damaged; restore the spool from a backup",
        ));
    }

    let mended = on.execute(GO_ON, &[]).await.map_err(failed)?;
    if mended > 0 {
        tracing::warn!("the journal was ahead of the table head; its numbers go on behind it");
    }
    Ok(())
}
