//! Mail that is sent by the clock.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use postrider::{
    Clock, Dispatcher, Drain, Error, Mail, Missed, Notices, Schedule, Timestamp, hours, minutes,
    seconds,
};

use crate::common::{ScriptedRelay, TestSpool, a_moment, engine, eventually};

/// A schedule whose mail is told by its key.
fn schedule(cron: &str, missed: Missed) -> Schedule {
    Schedule {
        name: "weekly".to_owned(),
        cron: cron.to_owned(),
        timezone: "Europe/Berlin".to_owned(),
        missed,
        compose: Arc::new(|_: &Dispatcher, key: &str| {
            let mail = Mail::builder()
                .from("a@example.com")
                .to("b@example.org")
                .text("x");
            mail.subject(key)
                .idempotency_key(key)
                .build()
                .map_err(|error| error.to_string())
        }),
    }
}

async fn scheduled(postrider: &Dispatcher, schedule: Schedule) -> Notices {
    let notices = Notices::of(postrider);
    notices.set_schedules(vec![schedule]).await.unwrap();
    eventually("it has its place", async || {
        let readers = postrider.journal().readers().await.unwrap();
        readers
            .iter()
            .any(|reader| reader.name == "schedule:weekly")
    })
    .await;
    // The task has looked at the clock once it has begun.
    a_moment().await;
    notices
}

/// The times of which mail was sent, as its subjects say.
fn sent(scripted: &ScriptedRelay) -> Vec<Timestamp> {
    let begun = scripted.transactions();
    let time = |message: &[u8]| {
        let text = String::from_utf8_lossy(message).replace("\r\n ", " ");
        let subject = text
            .lines()
            .find_map(|line| line.strip_prefix("Subject: "))
            .unwrap();
        subject
            .strip_prefix("schedule:weekly:")
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    };

    begun.iter().map(|mail| time(&mail.message)).collect()
}

fn stamp(at: jiff::Timestamp) -> Timestamp {
    Timestamp::from_millis(at.as_millisecond())
}

#[tokio::test]
async fn mail_goes_out_at_its_times_and_what_is_next_is_shown() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
    let postrider = engine(scripted.relay(), &clock).start().await.unwrap();
    let notices = scheduled(&postrider, schedule("0 * * * *", Missed::Once)).await;
    for n in 1..=3 {
        let next = notices.schedules()[0].next.unwrap();
        assert!(next > clock.now() && next.as_millis() % 3_600_000 == 0);
        clock.advance(next.since(clock.now()));
        eventually("it is sent", async || sent(&scripted).len() == n).await;
        assert_eq!(sent(&scripted)[n - 1], next);
        eventually("it is shown", async || {
            notices.schedules()[0].last == Some(next)
        })
        .await;
        assert!(notices.schedules()[0].mail.is_some());
    }
}

#[tokio::test]
async fn what_was_missed_is_sent_once_or_left_out_and_a_restart_sends_nothing_twice() {
    for (missed, expected) in [(Missed::Once, 2), (Missed::Skip, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
        let mut lives = 0;
        let mut life = async |down: Duration, waits: bool, count: usize| {
            clock.advance(down);
            lives += 1;
            let builder = engine(scripted.relay(), &clock).test_spool_in(dir.path());
            let postrider = builder.start().await.unwrap();
            let notices = scheduled(&postrider, schedule("*/10 * * * *", missed)).await;
            if waits {
                let next = notices.schedules()[0].next.unwrap();
                clock.advance(next.since(clock.now()));
            }
            eventually("as many as it should be", async || {
                sent(&scripted).len() == count
            })
            .await;
            a_moment().await;
            assert_eq!(sent(&scripted).len(), count, "{missed:?}, life {lives}");
            notices.close(seconds(5)).await;
            drop(notices);
            postrider.shutdown(Drain::within(seconds(5))).await.unwrap();
        };
        // The first has missed nothing; it sends one.
        life(Duration::ZERO, true, 1).await;
        // At once again: nothing is due.
        life(seconds(1), false, 1).await;
        // Down for three hours, which are eighteen times.
        life(hours(3), false, expected).await;
        life(seconds(1), false, expected).await;
    }
}

#[tokio::test]
async fn several_that_share_a_schedule_send_it_once() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
    let postrider = engine(scripted.relay(), &clock).start().await.unwrap();
    let first = scheduled(&postrider, schedule("0 * * * *", Missed::Once)).await;

    let second = scheduled(&postrider, schedule("0 * * * *", Missed::Once)).await;
    for n in 1..=3 {
        clock.advance(hours(1));
        eventually("both have done it", async || {
            [&first, &second]
                .iter()
                .all(|one| one.schedules()[0].last == sent(&scripted).last().copied())
                && sent(&scripted).len() >= n
        })
        .await;
        a_moment().await;
        assert_eq!(sent(&scripted).len(), n);
    }
}

/// Sends daily at this time over the next change of the zone's clock in this direction; the times
/// of day at which mail went out on the day before, that day, and the day after.
async fn over_a_change(name: &str, cron: &str, ahead: bool) -> Vec<String> {
    let zone = TimeZone::get(name).unwrap();
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
    let postrider = engine(scripted.relay(), &clock).start().await.unwrap();
    let now = jiff::Timestamp::from_millisecond(clock.now().as_millis()).unwrap();
    let change = zone
        .following(now)
        .find(|change| change.dst().is_dst() == ahead)
        .unwrap();

    let from = stamp(change.timestamp());
    clock.advance(from.since(clock.now()) - hours(36));
    let daily = Schedule {
        timezone: name.to_owned(),
        ..schedule(cron, Missed::Once)
    };
    let _notices = scheduled(&postrider, daily).await;
    for _ in 0..(72 * 4) {
        clock.advance(minutes(15));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }

    eventually("three days", async || sent(&scripted).len() == 3).await;
    a_moment().await;
    let local = |at: &Timestamp| {
        let at = jiff::Timestamp::from_millisecond(at.as_millis()).unwrap();
        at.to_zoned(zone.clone()).strftime("%H:%M").to_string()
    };

    sent(&scripted).iter().map(local).collect()
}

#[tokio::test]
async fn on_the_day_on_which_its_hour_is_left_out_it_is_sent_right_after() {
    for (zone, cron, that_day, else_at) in [
        ("Europe/Berlin", "30 2 * * *", "03:00", "02:30"),
        ("America/New_York", "15 2 * * *", "03:00", "02:15"),
        // Half an hour, and an hour from a quarter to.
        ("Australia/Lord_Howe", "15 2 * * *", "02:30", "02:15"),
        ("Pacific/Chatham", "0 3 * * *", "03:45", "03:00"),
        // At midnight: the day begins at one.
        ("America/Havana", "0 0 * * *", "01:00", "00:00"),
        ("Asia/Beirut", "30 0 * * *", "01:00", "00:30"),
        ("America/Santiago", "0 0 * * *", "01:00", "00:00"),
    ] {
        let sent = over_a_change(zone, cron, true).await;
        assert_eq!(sent, [else_at, that_day, else_at], "{cron} in {zone}");
    }
}

#[tokio::test]
async fn on_the_day_on_which_its_hour_comes_twice_it_is_sent_once() {
    for (zone, cron, at) in [
        ("Europe/Berlin", "30 2 * * *", "02:30"),
        ("America/New_York", "15 1 * * *", "01:15"),
        ("Australia/Lord_Howe", "45 1 * * *", "01:45"),
        ("Pacific/Chatham", "0 3 * * *", "03:00"),
        // The last hour of the day, and its first.
        ("Asia/Beirut", "30 23 * * *", "23:30"),
        ("America/Havana", "30 0 * * *", "00:30"),
        ("America/Santiago", "30 23 * * *", "23:30"),
    ] {
        let sent = over_a_change(zone, cron, false).await;
        assert_eq!(sent, [at, at, at], "{cron} in {zone}");
    }
}

/// A clock that is a year ahead for an hour, as where a battery is empty, and is right again.
#[tokio::test]
async fn a_clock_that_was_ahead_holds_no_mail_back_and_sends_none_twice() {
    let dir = tempfile::tempdir().unwrap();
    let scripted = ScriptedRelay::free();
    let life = async |begins: Timestamp, hours_on: u64, mails: usize| {
        let clock = Clock::fake_at(begins);
        let builder = engine(scripted.relay(), &clock).test_spool_in(dir.path());
        let postrider = builder.start().await.unwrap();
        let notices = scheduled(&postrider, schedule("0 * * * *", Missed::Once)).await;
        for _ in 0..hours_on {
            let next = notices.schedules()[0].next.unwrap();
            clock.advance(next.since(clock.now()));
            eventually("the next is known", async || {
                notices.schedules()[0].next != Some(next)
            })
            .await;
            a_moment().await;
        }
        eventually("they are sent", async || sent(&scripted).len() >= mails).await;
        a_moment().await;
        notices.close(seconds(5)).await;
        drop(notices);
        postrider.shutdown(Drain::within(seconds(5))).await.unwrap();
        sent(&scripted)
    };

    let begins: Timestamp = "2030-03-04T11:50:00Z".parse().unwrap();
    let noon = begins + minutes(10);
    assert_eq!(life(begins, 1, 1).await, [noon]);

    let ahead = begins + hours(24 * 400);
    assert_eq!(
        life(ahead, 0, 2).await.len(),
        2,
        "one for all that was missed"
    );

    // Noon comes again, and is over.
    let all = life(begins, 3, 4).await;
    assert_eq!(all[2..], [noon + hours(1), noon + hours(2)]);
    let all = life(begins + hours(2), 2, 5).await;
    assert_eq!(all[4..], [noon + hours(3)]);
}

/// Day by day for two years: the 31st comes seven times in a year, and no other day for it.
#[tokio::test]
async fn what_is_for_the_31st_is_left_out_where_there_is_none() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
    let postrider = engine(scripted.relay(), &clock).start().await.unwrap();
    let notices = scheduled(&postrider, schedule("0 12 31 * *", Missed::Once)).await;
    let mut days = Vec::new();
    for n in 1..=14 {
        let next = notices.schedules()[0].next.unwrap();
        let at = jiff::Timestamp::from_millisecond(next.as_millis()).unwrap();
        days.push(at.to_zoned(TimeZone::UTC).strftime("%m-%d").to_string());
        clock.advance(next.since(clock.now()));
        eventually("it is sent", async || sent(&scripted).len() == n).await;
    }
    days.sort();
    days.dedup();
    let long = [
        "01-31", "03-31", "05-31", "07-31", "08-31", "10-31", "12-31",
    ];
    assert_eq!(days, long);
}

#[tokio::test]
async fn a_schedule_that_names_no_time_is_refused() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
    let postrider = engine(scripted.relay(), &clock).start().await.unwrap();
    let notices = Notices::of(&postrider);
    for cron in ["", "every monday", "0 8 30 2 *"] {
        let refused = notices
            .set_schedules(vec![schedule(cron, Missed::Once)])
            .await;
        assert!(
            matches!(refused, Err(Error::Configuration(_))),
            "{cron}: {refused:?}"
        );
    }
}
