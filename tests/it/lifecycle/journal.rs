//! How long what happened is kept, and what is said of what is gone.

use postrider::{Clock, Dispatcher, EventItem, hours, seconds};

use crate::common::{EventLog, ScriptedRelay, engine, eventually, mail, submit};

async fn mails(postrider: &Dispatcher, count: usize) {
    for n in 0..count {
        submit(postrider, mail(&format!("user{n}@example.org"))).await;
    }
    postrider.wait_idle().await;
}

/// The number of the oldest event that is kept, and how many are said to be gone before it.
async fn oldest(postrider: &Dispatcher) -> (u64, u64) {
    let mut told = EventLog::after(postrider, 0);
    match told.item().await {
        EventItem::Event(event) => (event.seq, 0),
        EventItem::Lagged(gone) => match told.item().await {
            EventItem::Event(event) => (event.seq, gone),
            EventItem::Lagged(_) => panic!("a gap is told once"),
        },
    }
}

#[tokio::test]
async fn what_is_too_old_goes_and_its_gap_is_reported() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
    let builder = engine(scripted.relay(), &clock).journal(hours(1), 1 << 30);
    let postrider = builder.start().await.unwrap();
    mails(&postrider, 3).await;

    assert_eq!(oldest(&postrider).await, (1, 0));
    clock.advance(hours(1) - seconds(1));
    mails(&postrider, 2).await;
    assert_eq!(oldest(&postrider).await, (1, 0));

    clock.advance(seconds(2));
    // What the series has not read yet is looked at again a little later.
    eventually("what is too old is gone", async || {
        clock.advance(seconds(1));
        oldest(&postrider).await == (10, 9)
    })
    .await;
    mails(&postrider, 1).await;

    let mut told = EventLog::after(&postrider, 12);
    assert!(matches!(told.item().await, EventItem::Event(event) if event.seq == 13));
}

#[tokio::test]
async fn what_a_named_reader_has_not_read_is_kept_up_to_twice_as_long_and_then_reported_and_counted()
 {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
    let builder = engine(scripted.relay(), &clock).journal(hours(1), 1 << 30);
    let postrider = builder.start().await.unwrap();
    let mut reader = postrider.journal().reader("hook", None).await.unwrap();
    mails(&postrider, 3).await;

    clock.advance(hours(2) - seconds(1));
    mails(&postrider, 1).await;
    assert_eq!(oldest(&postrider).await.1, 0, "it is held back");

    clock.advance(seconds(120));
    eventually("it is held back no longer", async || {
        oldest(&postrider).await == (10, 9)
    })
    .await;

    let page = reader.next().await.unwrap();
    assert_eq!((page.missed, page.events[0].seq), (9, 10));
    let metrics = postrider.metrics().await.unwrap();
    assert!(
        metrics.contains("postrider_journal_missed_events_total{reader=\"hook\"} 9\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn what_is_too_much_goes_in_time_and_the_bytes_stay_bounded() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());

    let most = 64 * 1024;
    let builder = engine(scripted.relay(), &clock).journal(hours(1), most);
    let postrider = builder.start().await.unwrap();
    for _ in 0..10 {
        mails(&postrider, 60).await;
        clock.advance(seconds(1));
    }

    let bytes = async || {
        let metrics = postrider.metrics().await.unwrap();
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("postrider_journal_bytes "));
        line.unwrap().parse::<u64>().unwrap()
    };

    eventually("it is small enough", async || bytes().await <= most).await;
    assert!(bytes().await > most / 2, "no more goes than has to");
    let (first, gone) = oldest(&postrider).await;
    assert_eq!(first, gone + 1);
    assert_eq!(postrider.journal().last().unwrap(), 10 * 60 * 3);
}
