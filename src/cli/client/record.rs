//! Prints a mail's record: one line, a summary, or all attempts. `status`, `show` and `send` call
//! it.

use std::io;

use super::times::{local, relative};
use crate::cli::screen::{ColumnFit, Screen, StyledText, TextStyle, counted, plain, state, tinted};
use crate::delivery::{Attempt, Feedback, FeedbackKind, MailState, State};
use crate::dispatch::{DeliveryStatus, MailStatus, WaitReason};
use crate::mail::{Guarantee, Priority, Timestamp};

/// Prints one line with the mail's id and state.
pub fn line(mail: &MailStatus, screen: &mut Screen) -> io::Result<()> {
    screen.line(&[plain(mail.id), plain("  "), state(mail.state.as_str())])
}

/// Prints the mail's facts, and the state of each delivery.
pub fn summary(mail: &MailStatus, screen: &mut Screen) -> io::Result<()> {
    let now = Timestamp::now();
    let fact = |piece: StyledText| Some(vec![piece]);
    let time = |at: Timestamp| {
        vec![
            plain(local(at)),
            tinted(format_args!("  {}", relative(at, now)), TextStyle::Faint),
        ]
    };

    let pending = !mail.state.is_final();
    let return_path = mail
        .return_path
        .as_ref()
        .map_or("<>".to_owned(), ToString::to_string);

    screen.facts(vec![
        ("mail", fact(tinted(mail.id, TextStyle::Strong))),
        ("state", fact(state(mail.state.as_str()))),
        (
            "subject",
            (!mail.subject.is_empty()).then(|| vec![plain(&mail.subject)]),
        ),
        ("return path", fact(plain(return_path))),
        ("message id", fact(plain(&mail.message_id))),
        (
            "size",
            fact(plain(bytesize::ByteSize(mail.size).display().iec())),
        ),
        (
            "priority",
            (mail.priority != Priority::Default).then(|| vec![plain(mail.priority)]),
        ),
        (
            "guarantee",
            (mail.guarantee == Guarantee::AtMostOnce).then(|| vec![plain("at most once")]),
        ),
        (
            "tags",
            (!mail.tags.is_empty()).then(|| vec![plain(mail.tags.join(", "))]),
        ),
        (
            "key",
            mail.idempotency_key.as_ref().map(|key| vec![plain(key)]),
        ),
        ("accepted", Some(time(mail.created_at))),
        ("finished", mail.finished_at.map(time)),
        ("expires", pending.then(|| time(mail.expires_at))),
    ])?;
    screen.line(&[])?;

    let rows = mail
        .deliveries
        .iter()
        .map(|delivery| delivery_row(delivery, now))
        .collect();

    screen.table(
        &[
            "RECIPIENT",
            "STATE",
            "TRIES",
            "NEXT",
            "RELAY",
            "LAST ANSWER",
        ],
        rows,
        ColumnFit::Wrap,
    )?;
    feedback(mail, now, screen)
}

/// Prints the feedback that arrived for it, if any.
fn feedback(mail: &MailStatus, now: Timestamp, screen: &mut Screen) -> io::Result<()> {
    let of_one = |delivery: &DeliveryStatus| {
        let recipient = delivery.recipient.to_string();
        let row = move |one: &Feedback| {
            let what = match &one.status {
                Some(status) => format!("{} {status}", one.kind),
                None => one.kind.to_string(),
            };
            let tint = match one.kind {
                FeedbackKind::Delivered => TextStyle::Good,
                _ => TextStyle::Bad,
            };
            vec![
                plain(relative(one.at, now)),
                plain(&recipient),
                tinted(what, tint),
                plain(&one.by),
                plain(&one.text),
            ]
        };
        delivery.feedback.iter().map(row).collect::<Vec<_>>()
    };

    let rows: Vec<_> = mail.deliveries.iter().flat_map(of_one).collect();
    if rows.is_empty() {
        return Ok(());
    }
    screen.line(&[])?;
    let heads = ["CAME BACK", "RECIPIENT", "WHAT", "BY", "TEXT"];
    screen.table(&heads, rows, ColumnFit::Wrap)
}

fn delivery_row(delivery: &DeliveryStatus, now: Timestamp) -> Vec<StyledText> {
    let last = delivery.attempts.last();
    let relay = last
        .map(|attempt| attempt.relay.as_str())
        .or(delivery.relays.first().map(String::as_str));

    let answer = match (last, &delivery.waits) {
        // The relay's last answer is the reason for the next attempt.
        (Some(attempt), Some(waits)) if waits.because == WaitReason::Retry => said(attempt),
        (_, Some(waits)) => format!("waits: {waits}"),
        (Some(attempt), None) => said(attempt),
        (None, None) => String::new(),
    };

    let next = match delivery.state {
        State::Scheduled | State::Deferred => delivery.next_attempt_at.map(|at| relative(at, now)),
        _ => None,
    };

    vec![
        plain(&delivery.recipient),
        delivery_state(delivery),
        plain(delivery.attempts.len()),
        plain(next.unwrap_or_default()),
        plain(relay.unwrap_or_default()),
        plain(answer),
    ]
}

fn delivery_state(delivery: &DeliveryStatus) -> StyledText {
    match delivery.reason {
        Some(reason) => tinted(
            format_args!("dead: {}", reason.as_str().replace('_', " ")),
            TextStyle::Bad,
        ),
        None => state(delivery.state.as_str()),
    }
}

/// Prints every attempt that is remembered, in the order of time.
pub fn attempts(mail: &MailStatus, screen: &mut Screen) -> io::Result<()> {
    let mut all: Vec<(&DeliveryStatus, &Attempt)> = mail
        .deliveries
        .iter()
        .flat_map(|d| d.attempts.iter().map(move |attempt| (d, attempt)))
        .collect();

    all.sort_by_key(|(_, attempt)| attempt.at);
    if all.is_empty() {
        return Ok(());
    }
    screen.line(&[])?;

    let row = |(delivery, attempt): (&DeliveryStatus, &Attempt)| {
        vec![
            plain(local(attempt.at)),
            plain(&delivery.recipient),
            plain(&attempt.relay),
            plain(said(attempt)),
        ]
    };

    screen.table(
        &["ATTEMPT", "RECIPIENT", "RELAY", "ANSWER"],
        all.into_iter().map(row).collect(),
        ColumnFit::Wrap,
    )
}

/// The relay's answer, and the step that it refused.
pub fn said(attempt: &Attempt) -> String {
    let mut text = String::new();
    if attempt.code != Some(250) {
        text = format!("{}: ", attempt.phase.as_str().replace('_', " "));
    }
    text + &attempt.reply_text()
}

/// Its recipients in short: `ada@example.org and 2 more`.
pub fn recipients(mail: &MailStatus) -> String {
    match mail.deliveries.as_slice() {
        [] => String::new(),
        [only] => only.recipient.to_string(),
        [first, others @ ..] => format!("{} and {} more", first.recipient, others.len()),
    }
}

/// How a mail ended, in one sentence.
pub fn verdict(mail: &MailStatus) -> String {
    let many = |wanted: State| {
        mail.deliveries
            .iter()
            .filter(|delivery| delivery.state == wanted)
            .count() as u64
    };

    match mail.state {
        MailState::Partial => format!(
            "{} delivered, {} not",
            counted(many(State::Delivered), "recipient"),
            counted(many(State::Dead) + many(State::Cancelled), "recipient")
        ),
        state => format!("the mail is {state}"),
    }
}
