//! What the journal keeps, and for whom. A spool that keeps none passes: it says so.

use super::Bench;
use super::fixture::*;
use crate::mail::{hours, minutes};
use crate::spool::{JournalOptions, SpoolOptions};

pub async fn a_reader_that_is_too_slow_is_told_what_it_missed(bench: &dyn Bench) {
    let short = SpoolOptions {
        journal: JournalOptions {
            keep: minutes(10),
            ..JournalOptions::default()
        },
        ..options()
    };
    let spool = open_with(bench, "slow", short).await;
    let Some(journal) = spool.journal() else {
        return;
    };
    let missed = async || {
        let readers = journal.readers().await.expect("readers");
        let slow = readers.into_iter().find(|reader| reader.name == "slow");
        slow.map(|reader| reader.missed)
    };
    assert_eq!(journal.reader("slow", 0).await, Ok(0));
    for _ in 0..5 {
        put(&*spool, draft()).await;
    }
    sweep(&*spool, start() + minutes(15)).await;
    let page = journal.after(0, 100).await.expect("a page");
    assert_eq!(
        (page.missed, page.events.len(), missed().await),
        (0, 5, Some(0)),
        "what a reader has not read stays twice as long"
    );

    let late = Draft {
        accepted_at: start() + hours(1),
        ..draft()
    };
    put(&*spool, late).await;
    sweep(&*spool, start() + hours(1)).await;
    let page = journal.after(0, 100).await.expect("a page");
    assert_eq!((page.missed, page.events.len()), (5, 1));
    assert_eq!(missed().await, Some(5), "it is counted");
    journal.forget("slow").await.expect("forgotten");
    assert_eq!(missed().await, None);
}
