#![allow(clippy::unwrap_used)]
use super::*;

fn times(cron: &str, zone: &str) -> Times {
    Times::read(cron, zone).unwrap()
}

/// All times from one to another, forwards; backwards they must be the same.
fn between(times: &Times, from: &str, to: &str) -> Vec<String> {
    let (from, to): (Timestamp, Timestamp) = (from.parse().unwrap(), to.parse().unwrap());
    let mut all = Vec::new();
    let mut at = from;
    while let Some(next) = times.after(at).filter(|next| *next <= to) {
        all.push(next);
        at = next;
    }

    let mut back = Vec::new();
    let mut at = times.last(to);
    while let Some(last) = at.filter(|last| *last > from) {
        back.push(last);
        at = times.last(Timestamp::from_millis(last.as_millis() - 1000));
    }

    back.reverse();
    assert_eq!(back, all, "backwards they are others");
    all.iter().map(ToString::to_string).collect()
}

#[test]
fn an_hour_that_the_clock_leaves_out_is_not_left_out() {
    // On 2026-03-29 the clock in Berlin goes from 2:00 to 3:00, which is 01:00 UTC.
    let daily = times("30 2 * * *", "Europe/Berlin");
    let found = between(&daily, "2026-03-27T12:00:00Z", "2026-03-30T12:00:00Z");
    assert_eq!(
        found,
        [
            "2026-03-28T01:30:00.000Z",
            "2026-03-29T01:00:00.000Z",
            "2026-03-30T00:30:00.000Z",
        ]
    );

    let mondays = times("0 8 * * MON", "Europe/Berlin");
    let found = between(&mondays, "2026-03-22T12:00:00Z", "2026-03-31T00:00:00Z");
    assert_eq!(
        found,
        ["2026-03-23T07:00:00.000Z", "2026-03-30T06:00:00.000Z"]
    );
}

#[test]
fn an_hour_that_comes_twice_sends_once_what_is_for_one_time_of_day() {
    // On 2026-10-25 the clock in Berlin goes from 3:00 back to 2:00, which is 01:00 UTC.
    let daily = times("30 2 * * *", "Europe/Berlin");
    let found = between(&daily, "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
    assert_eq!(
        found,
        ["2026-10-25T00:30:00.000Z", "2026-10-26T01:30:00.000Z"]
    );
    // What comes every half an hour goes on doing so.
    let half_hourly = times("*/30 * * * *", "Europe/Berlin");
    let found = between(&half_hourly, "2026-10-24T23:59:00Z", "2026-10-25T02:00:00Z");
    assert_eq!(found.len(), 5, "{found:?}");
}

/// Where the clock jumps at another hour, by half an hour, and over a whole day. What falls
/// into a time that there is not comes when the clock jumps; what there is twice comes once.
#[test]
fn every_zones_jumps_leave_nothing_out_and_double_nothing() {
    let table: [(&str, &str, &str, &str, &[&str]); 8] = [
        // 2:00 to 3:00 at 07:00 UTC; and 2:00 back to 1:00 at 06:00 UTC.
        (
            "30 2 * * *",
            "America/New_York",
            "2026-03-07T00:00:00Z",
            "2026-03-09T12:00:00Z",
            &["03-07T07:30", "03-08T07:00", "03-09T06:30"],
        ),
        (
            "30 1 * * *",
            "America/New_York",
            "2026-10-31T12:00:00Z",
            "2026-11-02T12:00:00Z",
            &["11-01T05:30", "11-02T06:30"],
        ),
        // 2:00 to 2:30 at 15:30 UTC; and 2:00 back to 1:30 at 15:00 UTC.
        (
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-02T00:00:00Z",
            "2026-10-05T00:00:00Z",
            &["10-02T15:45", "10-03T15:30", "10-04T15:15"],
        ),
        (
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T00:00:00Z",
            "2026-04-06T00:00:00Z",
            &["04-04T14:45", "04-05T15:15"],
        ),
        (
            "*/15 * * * *",
            "Australia/Lord_Howe",
            "2026-04-04T14:25:00Z",
            "2026-04-04T15:35:00Z",
            &[
                "04-04T14:30",
                "04-04T14:45",
                "04-04T15:00",
                "04-04T15:15",
                "04-04T15:30",
            ],
        ),
        // There was no 30 December 2011: the day ended at 10:00 UTC, and the 31st began.
        (
            "0 8 * * *",
            "Pacific/Apia",
            "2011-12-29T00:00:00Z",
            "2012-01-01T00:00:00Z",
            &["12-29T18:00", "12-30T10:00", "12-30T18:00", "12-31T18:00"],
        ),
        (
            "0 8 30 12 *",
            "Pacific/Apia",
            "2010-12-29T00:00:00Z",
            "2012-12-31T00:00:00Z",
            &["12-30T18:00", "12-30T10:00", "12-29T18:00"],
        ),
        (
            "0 * * * *",
            "Pacific/Apia",
            "2011-12-30T07:30:00Z",
            "2011-12-30T12:30:00Z",
            &[
                "12-30T08:00",
                "12-30T09:00",
                "12-30T10:00",
                "12-30T11:00",
                "12-30T12:00",
            ],
        ),
    ];
    for (cron, zone, from, to, wanted) in table {
        let found = between(&times(cron, zone), from, to);
        let found: Vec<&str> = found.iter().map(|at| &at[5..16]).collect();
        assert_eq!(found, wanted, "{cron} {zone}");
    }
}

#[test]
fn steps_names_ends_of_months_and_seconds_mean_what_cron_means() {
    for (cron, from, next) in [
        ("*/7 * * * *", "2026-01-01T00:56:00", "2026-01-01T01:00:00"),
        ("*/7 * * * *", "2026-01-01T00:49:00", "2026-01-01T00:56:00"),
        ("0 0 L * *", "2026-02-01T00:00:00", "2026-02-28T00:00:00"),
        ("0 0 L * *", "2028-02-01T00:00:00", "2028-02-29T00:00:00"),
        ("0 0 31 * *", "2026-01-31T00:00:00", "2026-03-31T00:00:00"),
        ("0 0 29 2 *", "2026-03-01T00:00:00", "2028-02-29T00:00:00"),
        ("0 8 * * 7", "2026-01-01T00:00:00", "2026-01-04T08:00:00"),
        ("0 8 * * 0", "2026-01-01T00:00:00", "2026-01-04T08:00:00"),
        ("0 8 * * sun", "2026-01-01T00:00:00", "2026-01-04T08:00:00"),
        (
            "0 8 1 JAN,JUL *",
            "2026-01-02T00:00:00",
            "2026-07-01T08:00:00",
        ),
        (
            "0 8 * * MON-FRI",
            "2026-01-02T09:00:00",
            "2026-01-05T08:00:00",
        ),
        (
            "0 8 * * FRI#2",
            "2026-01-01T00:00:00",
            "2026-01-09T08:00:00",
        ),
        ("0 8 * * FRIL", "2026-01-01T00:00:00", "2026-01-30T08:00:00"),
        // Where both days are told, either will do.
        ("0 8 13 * FRI", "2026-01-10T00:00:00", "2026-01-13T08:00:00"),
        ("0 8 13 * FRI", "2026-01-13T09:00:00", "2026-01-16T08:00:00"),
        (
            "*/20 * * * * *",
            "2026-01-01T00:00:41",
            "2026-01-01T00:01:00",
        ),
        ("@weekly", "2026-01-01T00:00:00", "2026-01-04T00:00:00"),
    ] {
        let from: Timestamp = format!("{from}Z").parse().unwrap();
        let found = times(cron, "UTC").after(from).unwrap().to_string();
        assert_eq!(&found[..19], next, "{cron}");
    }
}

#[test]
fn what_names_no_time_is_refused() {
    for (cron, zone, key) in [
        ("", "UTC", "cron"),
        ("61 * * * *", "UTC", "cron"),
        ("* * * *", "UTC", "cron"),
        ("0 8 30 2 *", "UTC", "cron"),
        ("0 0 31 2 *", "UTC", "cron"),
        ("0 0 31 4,6,9,11 *", "UTC", "cron"),
        ("0 0 * * * * * *", "UTC", "cron"),
        ("@reboot", "UTC", "cron"),
        ("0 8 * * *", "Berlin", "timezone"),
        ("0 8 * * *", "", "timezone"),
    ] {
        assert_eq!(Times::read(cron, zone).unwrap_err().0, key, "{cron} {zone}");
    }

    assert!(
        Times::read("*/5 * * * * *", "America/New_York").is_ok(),
        "with seconds"
    );

    assert!(Times::read("@daily", "UTC").is_ok());
}
