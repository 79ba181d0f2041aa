//! What comes back for mail that was sent. A spool that keeps none passes: it says so.

use std::sync::Arc;

use super::Bench;
use super::fixture::*;
use crate::delivery::{EventKind, Feedback, FeedbackKind, KEPT_FEEDBACK};
use crate::mail::{MailId, hours};
use crate::spool::{
    FeedbackResult, NewFeedback, OperationResult, Spool, Suppression, SuppressionReason,
};

fn came_back(mail: MailId, index: u16, name: u8, kind: FeedbackKind) -> NewFeedback {
    NewFeedback {
        mail,
        index,
        id: [name; 16],
        feedback: Feedback {
            at: start() + ms(u64::from(name)),
            kind,
            status: Some("5.1.1".into()),
            text: "no such user".into(),
            by: "report".into(),
        },
        permanent: true,
        suppression: None,
    }
}

/// A mail for two, whom a relay took it for.
async fn sent(spool: &Arc<dyn Spool>) -> MailId {
    let draft = Draft {
        to: crowd(2, "primary"),
        ..draft()
    };
    put_at(&**spool, draft, start(), delivered(start())).await
}

pub async fn what_comes_back_is_kept_beside_its_delivery_once_and_goes_with_its_mail(
    bench: &dyn Bench,
) {
    let spool = open(bench, "feedback").await;
    let Some(store) = spool.feedback() else {
        return;
    };

    let id = sent(&spool).await;
    let bounced = came_back(id, 1, 2, FeedbackKind::Bounced);
    let complained = came_back(id, 1, 1, FeedbackKind::Complained);
    let first = came_back(id, 0, 3, FeedbackKind::Delivered);
    let nobody = came_back(id, 2, 4, FeedbackKind::Bounced);
    let nowhere = came_back(MailId::generate(), 0, 5, FeedbackKind::Bounced);

    let new = vec![
        bounced.clone(),
        complained.clone(),
        bounced.clone(),
        nobody,
        nowhere,
        first.clone(),
    ];
    let results = store.keep(new).await.expect("kept");
    assert_eq!(
        results,
        [
            FeedbackResult::Kept,
            FeedbackResult::Kept,
            FeedbackResult::Known,
            FeedbackResult::Unknown,
            FeedbackResult::Unknown,
            FeedbackResult::Kept,
        ]
    );
    let again = store.keep(vec![complained.clone()]).await;
    assert_eq!(again, Ok(vec![FeedbackResult::Known]));

    let record = spool.get(id).await.expect("read").expect("it is there");
    let kept = [
        (0, first.feedback),
        (1, complained.feedback),
        (1, bounced.feedback),
    ];
    assert_eq!(record.feedback, kept, "the oldest first");

    let purged = spool.purge(id).await;
    assert!(matches!(purged, Ok(OperationResult::Done(_))));
    let late = store.keep(vec![came_back(id, 0, 9, FeedbackKind::Bounced)]);
    assert_eq!(late.await, Ok(vec![FeedbackResult::Unknown]));

    let short_lived = sent(&spool).await;
    let one = came_back(short_lived, 0, 1, FeedbackKind::Bounced);
    store.keep(vec![one]).await.expect("kept");
    sweep(&*spool, start() + options().retention + hours(1)).await;
    assert!(spool.get(short_lived).await.expect("read").is_none());
}

pub async fn what_comes_back_is_reported_and_who_bounced_gets_no_more_mail(bench: &dyn Bench) {
    let spool = open(bench, "fed back").await;
    let (Some(store), Some(journal)) = (spool.feedback(), spool.journal()) else {
        return;
    };

    let id = sent(&spool).await;
    let gone = Suppression {
        address: address("r1@example.org"),
        reason: SuppressionReason::Bounce,
        list: None,
        since: start(),
        until: None,
        note: Some("550 5.1.1 no such user".into()),
    };
    let bounced = NewFeedback {
        suppression: Some(gone.clone()),
        ..came_back(id, 1, 1, FeedbackKind::Bounced)
    };
    let arrived = came_back(id, 0, 2, FeedbackKind::Delivered);
    let new = vec![bounced.clone(), arrived, bounced];
    store.keep(new).await.expect("kept");

    let page = journal.after(0, 100).await.expect("a page");
    let told: Vec<_> = page
        .events
        .iter()
        .filter(|event| matches!(event.kind, EventKind::Bounced { .. }))
        .map(|event| (event.mail, event.recipient.clone()))
        .collect();
    assert_eq!(told, [(Some(id), Some(address("r1@example.org")))]);

    let Some(suppressions) = spool.suppressions() else {
        return;
    };
    assert!(!suppressions.is_empty());
    let found = suppressions.of(vec![address("r1@example.org")]).await;
    assert_eq!(found, Ok(vec![vec![gone]]));
}

pub async fn one_delivery_keeps_no_more_than_so_much_of_what_comes_back(bench: &dyn Bench) {
    let spool = open(bench, "much feedback").await;
    let Some(store) = spool.feedback() else {
        return;
    };

    let id = sent(&spool).await;
    let names = 0..u8::try_from(KEPT_FEEDBACK).expect("few") + 5;
    let new: Vec<NewFeedback> = names
        .map(|name| came_back(id, 0, name, FeedbackKind::Complained))
        .collect();

    let kept = async |some: &[NewFeedback]| {
        let results = store.keep(some.to_vec()).await.expect("kept");
        let kept = results
            .iter()
            .filter(|result| **result == FeedbackResult::Kept);
        kept.count()
    };
    let (some, rest) = new.split_at(7);
    assert_eq!(kept(some).await, 7);
    assert_eq!(kept(rest).await, KEPT_FEEDBACK - 7);

    let record = spool.get(id).await.expect("read").expect("it is there");
    assert_eq!(record.feedback.len(), KEPT_FEEDBACK);
}
