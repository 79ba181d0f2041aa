//! What the journal keeps, and for whom. A spool that keeps none passes: it says so.

use super::Bench;
use super::fixture::*;
use crate::delivery::{DeadReason, Requester};
use crate::mail::{Submitter, hours, minutes};
use crate::spool::{JournalOptions, OperationResult, SpoolOptions};

pub async fn who_did_something_to_a_mail_is_recorded(bench: &dyn Bench) {
    let spool = open(bench, "acts").await;
    let Some(journal) = spool.journal() else {
        return;
    };
    let by = Requester {
        who: Some(Submitter::token("clerk")),
        from: Some("192.0.2.7".into()),
        is_part: false,
    };

    let cancelled = put(&*spool, draft()).await;
    let done = spool.cancel_by(&by, cancelled, start()).await;
    assert!(matches!(done, Ok(OperationResult::Done(_))));

    let end = dead(start(), DeadReason::Rejected);
    let dead_one = put_at(&*spool, draft(), start(), end).await;
    let done = spool.retry_by(&by, dead_one, start(), hours(1)).await;
    assert!(matches!(done, Ok(OperationResult::Done(_))));

    let done = spool.purge_by(&by, cancelled, start()).await;
    assert!(matches!(done, Ok(OperationResult::Done(_))));

    // Nobody's acts and those of larger acts are told of otherwise.
    let part = Requester {
        is_part: true,
        ..by.clone()
    };

    for by in [part, Requester::default()] {
        let id = put(&*spool, draft()).await;
        let done = spool.cancel_by(&by, id, start()).await;
        assert!(matches!(done, Ok(OperationResult::Done(_))));
    }

    let acts = journal.acts(u64::MAX, 10).await.expect("acts");
    let told: Vec<_> = acts
        .iter()
        .map(|event| (event.kind.act(), event.mail, event.who.clone()))
        .collect();

    let who = by.who.clone();
    assert_eq!(
        told,
        [
            (Some("purge"), Some(cancelled), who.clone()),
            (Some("retry"), Some(dead_one), who.clone()),
            (Some("cancel"), Some(cancelled), who),
        ]
    );

    assert!(acts.iter().all(|event| event.from == by.from));
}

/// A journal that is kept for ten minutes.
fn short() -> SpoolOptions {
    SpoolOptions {
        journal: JournalOptions {
            keep: minutes(10),
            ..JournalOptions::default()
        },
        ..options()
    }
}

pub async fn a_reader_that_is_too_slow_learns_what_it_missed(bench: &dyn Bench) {
    let spool = open_with(bench, "slow", short()).await;
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

pub async fn nothing_is_due_where_all_is_done(bench: &dyn Bench) {
    let spool = open_with(bench, "done", short()).await;
    let (first, second) = (put(&*spool, draft()).await, put(&*spool, draft()).await);

    for (id, after) in [(first, hours(24)), (second, hours(48))] {
        spool.cancel(id, start()).await.expect("cancelled");
        let late = start() + after;
        sweep(&*spool, late).await;
        assert!(
            !spool.is_sweep_due(late),
            "it would be swept again and again"
        );
        assert_eq!(spool.get(id).await, Ok(None), "it was kept long enough");
    }
}

pub async fn what_others_leave_a_reader_is_kept_and_moves_it_nowhere(bench: &dyn Bench) {
    let spool = open(bench, "left").await;
    let Some(journal) = spool.journal() else {
        return;
    };
    assert_eq!(journal.reader("shop", 3).await, Ok(3));

    let order = (b"o1".to_vec(), Some(b"again".to_vec()));
    journal.leave("shop", vec![order]).await.expect("left");
    let kept = journal.kept("shop", b"o".to_vec(), b"p".to_vec(), 9).await;
    assert_eq!(kept, Ok(vec![(b"o1".to_vec(), b"again".to_vec())]));
    assert_eq!(journal.reader("shop", 0).await, Ok(3), "it is where it was");

    let obeyed = vec![(b"o1".to_vec(), None)];
    journal.advance("shop", 4, obeyed).await.expect("advanced");
    let kept = journal.kept("shop", b"o".to_vec(), b"p".to_vec(), 9).await;
    assert_eq!((kept, journal.reader("shop", 0).await), (Ok(vec![]), Ok(4)));
    assert!(
        journal.leave("", Vec::new()).await.is_err(),
        "it has no name"
    );
}
