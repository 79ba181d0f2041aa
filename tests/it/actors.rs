//! Actors die, and mail does not: what the supervisor mends, what it gives up, and how a dispatcher
//! ends.

use std::collections::HashSet;
use std::future::Future;
use std::panic::Location;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::scripted_relay::{Greeting, WAIT_LIMIT};
use crate::common::{ScriptedRelay, TestSpool};
use postrider::delivery::DeadReason;
use postrider::policy::Jitter;
use postrider::{
    Builder, Dispatcher, Drain, Error, EventItem, EventKind, Mail, MailBuilder, MailId,
    RetryPolicy, seconds,
};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::mpsc;

fn letter(to: &str) -> MailBuilder {
    Mail::builder()
        .from("shop@example.com")
        .to(to)
        .subject("Your order")
        .text("It is on its way.")
}

fn mail(to: &str) -> Mail {
    letter(to).build().unwrap()
}

fn mails(count: usize) -> Vec<Mail> {
    (0..count)
        .map(|n| mail(&format!("user{n}@example.org")))
        .collect()
}

/// One relay, and retries that come at once.
fn over(relay: &ScriptedRelay, connections: usize) -> Builder {
    let retry = RetryPolicy {
        schedule: vec![Duration::from_millis(10)],
        jitter: Jitter::None,
        ..RetryPolicy::default()
    };
    Dispatcher::builder()
        .relay(relay.named("relay").connections(connections))
        .retry(retry)
}

async fn accepted(postrider: &Dispatcher, mails: Vec<Mail>) -> Vec<MailId> {
    postrider
        .submit_many(mails)
        .await
        .into_iter()
        .map(|receipt| receipt.unwrap().id)
        .collect()
}

/// What comes of it, which must be soon.
#[track_caller]
fn soon<T>(future: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        tokio::time::timeout(WAIT_LIMIT, future)
            .await
            .unwrap_or_else(|_| panic!("{caller}: it takes too long"))
    }
}

async fn restarts(postrider: &Dispatcher, actor: &str) -> u64 {
    let line = format!("postrider_actor_restarts_total{{actor=\"{actor}\"}} ");
    loop {
        // While the router is being created anew there is no answer.
        if let Ok(metrics) = postrider.metrics().await {
            return metrics
                .lines()
                .find_map(|text| text.strip_prefix(&line))
                .map_or(0, |count| count.parse().unwrap());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn restarts_reach(postrider: &Dispatcher, actor: &str, count: u64) {
    soon(async {
        while restarts(postrider, actor).await < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

async fn all_delivered_by_one_attempt(postrider: &Dispatcher, ids: &[MailId]) {
    for id in ids {
        let Ok(status) = tokio::time::timeout(WAIT_LIMIT, postrider.wait(*id)).await else {
            panic!(
                "{id} is not delivered: {:#?}, {:#?}",
                postrider.status(*id).await,
                postrider.relays().await
            )
        };
        let status = status.unwrap();
        assert_eq!(
            (status.state.as_str(), status.deliveries[0].attempts.len()),
            ("delivered", 1),
            "{status:?}"
        );
    }
}

fn is_stopped(result: Result<impl std::fmt::Debug, Error>) -> String {
    match result {
        Err(Error::Stopped(reason)) => reason,
        other => panic!("expected that it has stopped, not {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_mail_arrives_once_though_router_scheduler_and_senders_die_while_it_is_in_flight() {
    let (relay, other) = (ScriptedRelay::free(), ScriptedRelay::free());
    let postrider = over(&relay, 4)
        .relay(other.named("other").connections(1))
        .route(
            postrider::Match {
                tag: vec!["aside".into()],
                ..Default::default()
            },
            ["other"],
        )
        .route(postrider::Match::default(), ["relay"])
        .test_spool()
        .start()
        .await
        .unwrap();

    relay.hold();
    let mut ids = accepted(&postrider, mails(400)).await;
    let plan = [
        ("router", 1),
        ("relay", 1),
        ("scheduler", 1),
        ("router", 2),
        ("relay", 2),
        ("relay", 3),
    ];

    for (round, (actor, count)) in plan.into_iter().enumerate() {
        relay.begins(round * 50 + 3).await;
        postrider.crash(actor);
        // Others carry on: what comes in now goes out over a connection that nobody touched.
        let aside = postrider
            .submit(letter("eve@example.org").tag("aside").build().unwrap())
            .await
            .unwrap();
        all_delivered_by_one_attempt(&postrider, &[aside.id]).await;
        relay.let_go();
        relay.takes(round * 50 + 50).await;
        restarts_reach(
            &postrider,
            if actor == "relay" { "sender" } else { actor },
            count,
        )
        .await;
        relay.hold();
        ids.extend(accepted(&postrider, mails(10)).await);
    }

    relay.let_go();
    all_delivered_by_one_attempt(&postrider, &ids).await;
    let taken = relay.taken();
    assert_eq!(taken.iter().collect::<HashSet<_>>(), ids.iter().collect());
    assert_eq!(taken.len(), ids.len(), "none arrives twice");

    assert_eq!(
        other.connects(),
        1,
        "a sender that nobody touched keeps its connection"
    );

    for (actor, count) in [("router", 2), ("scheduler", 1), ("sender", 3)] {
        assert_eq!(restarts(&postrider, actor).await, count, "{actor}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_that_died_misses_no_due_time() {
    let relay = ScriptedRelay::free();
    let clock = postrider::Clock::fake();
    let postrider = over(&relay, 2)
        .clock(clock.clone())
        .test_spool()
        .start()
        .await
        .unwrap();
    let later = letter("ada@example.org")
        .delay(seconds(60))
        .build()
        .unwrap();
    let later = postrider.submit(later).await.unwrap().id;

    for round in 1..=3 {
        postrider.crash("scheduler");
        restarts_reach(&postrider, "scheduler", round).await;
        let now = accepted(&postrider, mails(1)).await;
        all_delivered_by_one_attempt(&postrider, &now).await;
    }

    assert_eq!(
        postrider.status(later).await.unwrap().state.as_str(),
        "scheduled"
    );

    clock.advance(seconds(60));
    all_delivered_by_one_attempt(&postrider, &[later]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_that_takes_its_sender_down_twice_is_dead_as_poisoned_and_its_neighbours_arrive() {
    let relay = ScriptedRelay::free();
    let postrider = over(&relay, 1).test_spool().start().await.unwrap();
    relay.hold();

    let mut batch = mails(20);
    batch.insert(10, mail("panic@example.org"));
    let mut ids = accepted(&postrider, batch).await;
    let poison = ids.remove(10);

    relay.let_go();
    let status = soon(postrider.wait(poison)).await.unwrap();
    assert_eq!(status.deliveries[0].reason, Some(DeadReason::Poisoned));
    assert_eq!(status.deliveries[0].attempts.len(), 2);
    all_delivered_by_one_attempt(&postrider, &ids).await;

    assert_eq!(relay.taken().len(), 20);
    restarts_reach(&postrider, "sender", 2).await;
    assert_eq!(restarts(&postrider, "sender").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_that_may_be_sent_only_once_is_in_doubt_when_its_sender_dies() {
    let relay = ScriptedRelay::free();
    let postrider = over(&relay, 1).test_spool().start().await.unwrap();
    let once = letter("panic@example.org")
        .guarantee(postrider::Guarantee::AtMostOnce)
        .build()
        .unwrap();
    let once = postrider.submit(once).await.unwrap().id;
    let status = soon(postrider.wait(once)).await.unwrap();
    assert_eq!(status.deliveries[0].reason, Some(DeadReason::InDoubt));
    assert_eq!(status.deliveries[0].attempts.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_that_always_die_stop_the_dispatcher_and_its_mail_is_safe() {
    let dir = tempfile::tempdir().unwrap();
    let relay = ScriptedRelay::greeting(Greeting::Panic);
    let postrider = over(&relay, 32)
        .test_spool_in(dir.path())
        .start()
        .await
        .unwrap();
    let mut ids = accepted(&postrider, mails(40)).await;
    let once = letter("once@example.org")
        .guarantee(postrider::Guarantee::AtMostOnce)
        .build()
        .unwrap();

    ids.extend(postrider.submit(once).await.map(|receipt| receipt.id).ok());
    let reason = is_stopped(soon(postrider.stopped()).await);
    assert!(
        reason.contains("sender") && reason.contains("safe in the spool"),
        "{reason}"
    );

    assert_eq!(
        is_stopped(postrider.submit(mail("late@example.org")).await),
        reason
    );

    assert_eq!(is_stopped(postrider.relays().await), reason);
    assert_eq!(
        is_stopped(postrider.shutdown(Drain::within(seconds(1))).await),
        reason
    );

    assert!(!postrider.health().ready);
    is_stopped(postrider.status(ids[0]).await);

    let healthy = ScriptedRelay::free();
    let postrider = over(&healthy, 4)
        .test_spool_in(dir.path())
        .start()
        .await
        .unwrap();
    all_delivered_by_one_attempt(&postrider, &ids).await;
    assert_eq!(healthy.taken().len(), ids.len());

    assert!(
        postrider
            .shutdown(Drain::within(seconds(10)))
            .await
            .unwrap()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_actor_waits_for_a_relay_that_hangs() {
    let (hung, relay) = (
        ScriptedRelay::greeting(Greeting::Hang),
        ScriptedRelay::free(),
    );
    let to_hung = postrider::Match {
        tag: vec!["hung".into()],
        ..Default::default()
    };

    let postrider = over(&relay, 2)
        .relay(hung.named("hung").connections(2))
        .route(to_hung, ["hung"])
        .route(postrider::Match::default(), ["relay"])
        .test_spool()
        .start()
        .await
        .unwrap();

    for n in 0..50 {
        let stuck = letter(&format!("user{n}@example.org"))
            .tag("hung")
            .build()
            .unwrap();
        postrider.submit(stuck).await.unwrap();
    }

    soon(async {
        while postrider
            .relays()
            .await
            .unwrap()
            .iter()
            .find(|relay| relay.name == "hung")
            .unwrap()
            .busy
            == 0
        {
            tokio::task::yield_now().await;
        }
    })
    .await;

    let began = Instant::now();
    let relays = postrider.relays().await.unwrap();
    assert!(
        began.elapsed() < seconds(1),
        "the router answered after {:?}",
        began.elapsed()
    );

    assert_eq!(
        relays
            .iter()
            .find(|relay| relay.name == "hung")
            .unwrap()
            .busy,
        1,
        "one is kept for critical mail"
    );

    postrider.pause("hung").await.unwrap();
    let ids = accepted(&postrider, mails(50)).await;
    all_delivered_by_one_attempt(&postrider, &ids).await;
    assert!(
        !soon(postrider.shutdown(Drain::within(Duration::from_millis(100))))
            .await
            .unwrap()
    );

    drop(postrider);
    hung.is_let_go().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_dispatchers_in_one_process_do_not_meet() {
    let (left_relay, right_relay) = (ScriptedRelay::free(), ScriptedRelay::free());
    let left_dir = tempfile::tempdir().unwrap();
    let left = over(&left_relay, 32)
        .test_spool_in(left_dir.path())
        .start()
        .await
        .unwrap();

    let right = over(&right_relay, 32).test_spool().start().await.unwrap();
    let mut heard_right = right.events();
    let left_ids = accepted(&left, mails(50)).await;
    let right_ids = accepted(&right, mails(50)).await;

    all_delivered_by_one_attempt(&left, &left_ids).await;
    all_delivered_by_one_attempt(&right, &right_ids).await;
    assert_eq!(
        left_relay.taken().into_iter().collect::<HashSet<_>>(),
        left_ids.iter().copied().collect()
    );

    assert_eq!(
        right_relay.taken().into_iter().collect::<HashSet<_>>(),
        right_ids.iter().copied().collect()
    );

    assert!(matches!(
        right.status(left_ids[0]).await,
        Err(Error::UnknownMail(_))
    ));
    left.pause("relay").await.unwrap();

    assert_eq!(right.relays().await.unwrap()[0].state, "up");
    left.resume("relay").await.unwrap();

    left_relay.greet(Greeting::Panic);
    accepted(&left, mails(40)).await;
    is_stopped(soon(left.stopped()).await);

    let more = accepted(&right, mails(20)).await;
    all_delivered_by_one_attempt(&right, &more).await;
    assert_eq!(restarts(&right, "sender").await, 0);

    let mut accepted_on_the_right = HashSet::new();
    while accepted_on_the_right.len() < 70 {
        match soon(futures::StreamExt::next(&mut heard_right)).await {
            Some(EventItem::Event(event)) if event.kind == EventKind::Accepted => {
                accepted_on_the_right.insert(event.mail.unwrap());
            }
            Some(EventItem::Event(_)) => {}
            other => panic!("the events end with {other:?}"),
        }
    }

    assert_eq!(
        accepted_on_the_right,
        right_ids.into_iter().chain(more).collect()
    );
}

/// Accepts so many mails, of which the first batch is in flight, behind a gate that is shut.
async fn with_mail_in_flight(
    relay: &ScriptedRelay,
    dir: &Path,
    count: usize,
) -> (Dispatcher, Vec<MailId>) {
    let postrider = over(relay, 1).test_spool_in(dir).start().await.unwrap();
    relay.hold();
    let ids = accepted(&postrider, mails(count)).await;
    relay.begins(1).await;
    (postrider, ids)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_last_handle_finishes_what_is_in_flight_and_frees_the_spool() {
    let dir = tempfile::tempdir().unwrap();
    let relay = ScriptedRelay::free();
    let (postrider, ids) = with_mail_in_flight(&relay, dir.path(), 5).await;
    let later = letter("later@example.org")
        .delay(seconds(3600))
        .build()
        .unwrap();
    let later = postrider.submit(later).await.unwrap().id;
    let clone = postrider.clone();

    drop(postrider);
    assert_eq!(
        clone.status(later).await.unwrap().state.as_str(),
        "scheduled",
        "a clone keeps it running"
    );

    drop(clone);
    relay.let_go();

    let next = ScriptedRelay::free();
    let postrider = over(&next, 1)
        .test_spool_in(dir.path())
        .start()
        .await
        .unwrap();
    all_delivered_by_one_attempt(&postrider, &ids).await;
    assert_eq!(
        (relay.taken().len(), next.taken().len()),
        (5, 0),
        "what was in flight was finished by the first"
    );

    assert_eq!(
        postrider.status(later).await.unwrap().state.as_str(),
        "scheduled"
    );

    relay.is_let_go().await;
    assert_eq!(
        relay.closes(),
        relay.connects(),
        "every connection was closed well"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_can_be_opened_as_soon_as_its_dispatcher_was_shut_down() {
    let dir = tempfile::tempdir().unwrap();
    let mut handles = Vec::new();
    for round in 0..5 {
        let relay = ScriptedRelay::free();
        let postrider = over(&relay, 2)
            .test_spool_in(dir.path())
            .start()
            .await
            .unwrap();
        let ids = accepted(&postrider, mails(20)).await;
        assert!(
            postrider
                .shutdown(Drain::within(seconds(10)))
                .await
                .unwrap()
        );
        handles.push((postrider, ids));
        assert!(
            handles[round].0.status(handles[round].1[0]).await.is_err(),
            "a closed spool tells nothing"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_refuses_new_mail_and_finishes_what_is_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let relay = ScriptedRelay::free();
    let (postrider, ids) = with_mail_in_flight(&relay, dir.path(), 3).await;
    let stopping = tokio::spawn({
        let postrider = postrider.clone();
        async move { postrider.shutdown(Drain::within(seconds(20))).await }
    });

    let refused = soon(async {
        loop {
            match postrider.try_submit(mail("late@example.org")).await {
                Ok(_) => tokio::task::yield_now().await,
                refused => return is_stopped(refused),
            }
        }
    })
    .await;

    assert!(refused.contains("shutting down"), "{refused}");
    assert!(!stopping.is_finished());
    relay.let_go();
    assert!(soon(stopping).await.unwrap().unwrap());
    assert!(postrider.stopped().await.is_ok());

    let taken = relay.taken();
    assert_eq!(taken[..3], ids);
    drop(postrider);

    let next = ScriptedRelay::free();
    let postrider = over(&next, 1)
        .test_spool_in(dir.path())
        .start()
        .await
        .unwrap();
    all_delivered_by_one_attempt(&postrider, &ids).await;
    postrider.wait_idle().await;

    assert!(
        next.taken().iter().all(|id| !taken.contains(id)),
        "what was finished is not sent again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_that_takes_long_ends_between_two_mails_and_not_within_one() {
    let dir = tempfile::tempdir().unwrap();
    let relay = ScriptedRelay::free();
    let (postrider, ids) = with_mail_in_flight(&relay, dir.path(), 5).await;
    let stopping = tokio::spawn({
        let postrider = postrider.clone();
        async move { postrider.shutdown(Drain::within(seconds(4))).await }
    });

    tokio::time::sleep(Duration::from_millis(2500)).await;
    relay.let_go();
    assert!(
        soon(stopping).await.unwrap().unwrap(),
        "nothing was cut off"
    );

    assert_eq!(
        relay.taken(),
        ids[..1],
        "in the second half of its time nothing more is begun"
    );

    let next = ScriptedRelay::free();
    let postrider = over(&next, 1)
        .test_spool_in(dir.path())
        .start()
        .await
        .unwrap();
    all_delivered_by_one_attempt(&postrider, &ids).await;
    assert_eq!(next.taken(), ids[1..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_whose_time_runs_out_says_so_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let relay = ScriptedRelay::free();
    let (postrider, ids) = with_mail_in_flight(&relay, dir.path(), 100).await;
    assert!(
        !soon(postrider.shutdown(Drain::within(Duration::from_millis(50))))
            .await
            .unwrap()
    );
    assert!(relay.taken().is_empty());
    let next = ScriptedRelay::free();
    let postrider = over(&next, 4)
        .test_spool_in(dir.path())
        .start()
        .await
        .unwrap();
    all_delivered_by_one_attempt(&postrider, &ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_waits_for_senders_that_a_new_router_does_not_know_yet() {
    for crash_first in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let relay = ScriptedRelay::free();
        let (postrider, ids) = with_mail_in_flight(&relay, dir.path(), 1).await;
        let shutdown = |within| {
            let postrider = postrider.clone();
            tokio::spawn(async move { postrider.shutdown(Drain::within(within)).await })
        };
        let stopping = if crash_first {
            postrider.crash("router");
            restarts_reach(&postrider, "router", 1).await;
            shutdown(Duration::from_millis(300))
        } else {
            let stopping = shutdown(Duration::from_millis(300));
            while postrider.health().ready {
                tokio::task::yield_now().await;
            }
            postrider.crash("router");
            stopping
        };
        assert!(
            !soon(stopping).await.unwrap().unwrap(),
            "a mail is in flight, router or no router"
        );
        let next = ScriptedRelay::free();
        let postrider = over(&next, 1)
            .test_spool_in(dir.path())
            .start()
            .await
            .unwrap();
        all_delivered_by_one_attempt(&postrider, &ids).await;
    }
}

/// A caller's own supervisor: it tells of the end of what it supervises.
struct Caller;

impl Actor for Caller {
    type Msg = ();
    type State = mpsc::UnboundedSender<String>;
    type Arguments = mpsc::UnboundedSender<String>;

    async fn pre_start(
        &self,
        _: ActorRef<()>,
        told: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(told)
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        told: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(_, _, reason) => {
                _ = told.send(format!("terminated: {reason:?}"))
            }
            SupervisionEvent::ActorFailed(_, error) => _ = told.send(format!("failed: {error}")),
            _ => {}
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callers_supervisor_sees_the_end_of_a_dispatcher_and_ends_it_with_itself() {
    let (told, mut ends) = mpsc::unbounded_channel();
    let (caller, _) = Actor::spawn(None, Caller, told).await.unwrap();
    let start = |relay: &ScriptedRelay, dir: &Path| {
        over(relay, 32)
            .test_spool_in(dir)
            .start_linked(caller.get_cell())
    };

    let (relay, dir) = (ScriptedRelay::free(), tempfile::tempdir().unwrap());
    let postrider = start(&relay, dir.path()).await.unwrap();
    all_delivered_by_one_attempt(&postrider, &accepted(&postrider, mails(3)).await).await;
    assert!(
        postrider
            .shutdown(Drain::within(seconds(10)))
            .await
            .unwrap()
    );
    assert_eq!(soon(ends.recv()).await.unwrap(), "terminated: None");

    let (dying, lost) = (
        ScriptedRelay::greeting(Greeting::Panic),
        tempfile::tempdir().unwrap(),
    );
    let postrider = start(&dying, lost.path()).await.unwrap();
    accepted(&postrider, mails(40)).await;

    let end = soon(ends.recv()).await.unwrap();
    assert!(
        end.starts_with("failed: ") && end.contains("safe in the spool"),
        "{end}"
    );

    let relay = ScriptedRelay::free();
    let (postrider, ids) = {
        let postrider = start(&relay, dir.path()).await.unwrap();
        relay.hold();
        let ids = accepted(&postrider, mails(40)).await;
        relay.begins(1).await;
        (postrider, ids)
    };

    caller.stop(None);
    let reason = is_stopped(soon(postrider.stopped()).await);
    assert_eq!(
        is_stopped(postrider.submit(mail("late@example.org")).await),
        reason
    );

    is_stopped(soon(postrider.wait(ids[39])).await);
    let next = ScriptedRelay::free();
    let again = over(&next, 4)
        .test_spool_in(dir.path())
        .start()
        .await
        .unwrap();
    all_delivered_by_one_attempt(&again, &ids).await;
    drop(postrider);
    relay.is_let_go().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_down_piles_up_no_tasks() {
    let relay = ScriptedRelay::greeting(Greeting::Refuse("refused".into()));
    let postrider = over(&relay, 4).test_spool().start().await.unwrap();
    accepted(&postrider, mails(10)).await;
    soon(async {
        while postrider.relays().await.unwrap()[0].breaker != "open" {
            tokio::task::yield_now().await;
        }
    })
    .await;

    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };

    let before = tasks();
    for _ in 0..300 {
        accepted(&postrider, mails(1)).await;
    }

    let after = tasks();
    assert!(after < before + 30, "{before} tasks have become {after}");
}
