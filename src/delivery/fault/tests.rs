//! The table, case by case, and the docs that are printed from it.

use super::*;

const FRESH: Circumstances = Circumstances {
    has_carried_mail: false,
    has_accepted: false,
    is_repeated: false,
};
const USED: Circumstances = Circumstances {
    has_carried_mail: true,
    ..FRESH
};
const AFTER_OTHERS: Circumstances = Circumstances {
    has_accepted: true,
    ..FRESH
};
const REPEATED: Circumstances = Circumstances {
    is_repeated: true,
    ..FRESH
};

fn fault(phase: Phase, line: &str, circumstances: Circumstances) -> Fault {
    let code = line[..3].parse().expect("a code");
    let reply = Reply::new(code, line[3..].trim_start());
    let outcome = match (phase, code) {
        (Phase::FinalDot, 200..=299) => Outcome::Delivered(reply),
        (Phase::MailFrom, 421) => Outcome::Unavailable(phase, reply.to_string()),
        (_, 421) => Outcome::Lost(phase, reply.to_string()),
        _ => Outcome::refusal(phase, reply),
    };
    outcome.judge(circumstances).fault
}

fn assert_faults(circumstances: Circumstances, cases: &[(Phase, &str, Fault)]) {
    for (phase, line, expected) in cases {
        assert_eq!(
            fault(*phase, line, circumstances),
            *expected,
            "{line} at {phase}, {circumstances:?}"
        );
    }
}

#[test]
fn a_fresh_connection_is_not_worn_out() {
    assert_faults(
        FRESH,
        &[
            (MailFrom, "452 4.3.1 insufficient system storage", F::Relay),
            (MailFrom, "451 4.3.0 local error", F::Relay),
            (MailFrom, "451 4.3.2 try again", F::Relay),
            (
                MailFrom,
                "454 Throttling failure: Maximum sending rate",
                F::Relay,
            ),
            (
                MailFrom,
                "454 4.7.0 temporary authentication failure",
                F::Relay,
            ),
            (
                MailFrom,
                "530 5.7.0 must issue a STARTTLS command first",
                F::Relay,
            ),
            (MailFrom, "530 Authentication required", F::Relay),
            (MailFrom, "503 5.5.1 bad sequence", F::Relay),
            (MailFrom, "535 5.7.8 no", F::Relay),
            (MailFrom, "421 4.7.0 too many", F::Relay),
            (MailFrom, "452 Insufficient system storage", F::Relay),
            (MailFrom, "550 Your IP address is on a block list", F::Relay),
            (MailFrom, "550 5.4.5 Daily sending quota exceeded", F::Relay),
            (MailFrom, "550 5.1.8 sender refused", F::Mail),
            (MailFrom, "552 5.3.4 too large", F::Mail),
            (MailFrom, "452 4.3.4 too large for now", F::Mail),
            (MailFrom, "552 message size exceeds the limit", F::Mail),
            (MailFrom, "501 5.5.4 syntax", F::Mail),
            (MailFrom, "553 5.1.7 bad sender", F::Mail),
            (MailFrom, "450 4.1.8 sender's domain not found", F::Mail),
            (MailFrom, "554 5.7.1 never", F::Mail),
            (MailFrom, "451 4.7.1 not now", F::Mail),
            (MailFrom, "450 not now", F::Unclear),
            (MailFrom, "451 4.0.0 not now", F::Unclear),
            (RcptTo, "421 4.7.28 rate", F::Destination),
            (RcptTo, "451 4.4.1 no answer from host", F::Destination),
            (RcptTo, "450 4.1.2 no such domain for now", F::Destination),
            (RcptTo, "451 4.3.0 lookup failure", F::Destination),
            (RcptTo, "452 4.5.3 too many recipients", F::Destination),
            (RcptTo, "451 4.7.1 greylisted, come back", F::Mail),
            (RcptTo, "450 4.2.1 busy", F::Mail),
            (RcptTo, "452 4.2.2 full", F::Mail),
            (RcptTo, "550 5.1.1 no such user", F::Mail),
            (RcptTo, "550 no", F::Mail),
            (RcptTo, "530 5.7.1 Authentication required", F::Relay),
            (Data, "451 4.3.0 try later", F::Mail),
            (Data, "554 5.5.1 no valid recipients", F::Mail),
            (Data, "421 4.3.2 going down", F::Relay),
            (FinalDot, "250 2.0.0 taken", F::Nobody),
            (FinalDot, "200 OK", F::Nobody),
            (FinalDot, "251 forwarded", F::Nobody),
            (FinalDot, "354 go on", F::InDoubt),
            (FinalDot, "452 4.3.1 full", F::Mail),
            (FinalDot, "552 5.3.4 too large", F::Mail),
            (FinalDot, "554 5.7.1 spam", F::Mail),
            (FinalDot, "454 Throttling failure", F::Relay),
            (Greeting, "554 5.7.1 no", F::Relay),
            (Ehlo, "421 4.3.2 no", F::Relay),
            (Auth, "535 5.7.8 no", F::Relay),
            (Local, "552 5.3.4 too large", F::Mail),
        ],
    );
}

#[test]
fn a_session_that_has_carried_mail_may_be_used_up() {
    assert_faults(
        USED,
        &[
            (
                Data,
                "452 4.4.5 Maximum number of messages per session exceeded",
                F::Session,
            ),
            (MailFrom, "450 not now", F::Session),
            (MailFrom, "451 4.3.0 not now", F::Session),
            (MailFrom, "452 4.3.1 not now", F::Session),
            (
                MailFrom,
                "554 5.7.0 Too many messages in this session",
                F::Session,
            ),
            (MailFrom, "503 5.5.1 bad sequence", F::Session),
            (RcptTo, "452 4.5.3 session limit reached", F::Session),
            (RcptTo, "421 4.7.0 enough", F::Session),
            (Data, "421 4.7.0 enough", F::Session),
            (
                FinalDot,
                "451 too many messages in this session",
                F::Session,
            ),
            (MailFrom, "550 5.1.8 sender refused", F::Mail),
            (MailFrom, "552 5.3.4 too large", F::Mail),
            (MailFrom, "554 5.7.1 never", F::Mail),
            (RcptTo, "450 4.2.1 busy", F::Mail),
            (RcptTo, "450 busy", F::Mail),
            (RcptTo, "550 5.1.1 no such user", F::Mail),
            (FinalDot, "451 4.3.0 try later", F::Mail),
            (FinalDot, "554 5.7.1 spam", F::Mail),
        ],
    );
    let silence = Outcome::Lost(RcptTo, format!("{} for 60s", super::super::SILENCE));
    assert_eq!(silence.judge(USED).fault, F::Destination);
    let cut = Outcome::Lost(RcptTo, "the server closed the connection".into());
    assert_eq!(cut.judge(USED).fault, F::Session);
    assert_eq!(cut.judge(FRESH).fault, F::Destination);
}

#[test]
fn recipients_that_are_too_many_are_not_refused_for_themselves() {
    assert_faults(
        AFTER_OTHERS,
        &[
            (RcptTo, "452 4.5.3 too many recipients", F::Transaction),
            (RcptTo, "451 4.5.3 no more", F::Transaction),
            (RcptTo, "450 4.5.3 no more", F::Transaction),
            (RcptTo, "552 5.5.3 too many recipients", F::Transaction),
            (RcptTo, "550 5.5.3 no more", F::Transaction),
            (RcptTo, "552 too many recipients", F::Transaction),
            (RcptTo, "452 Too many recipients", F::Transaction),
            (RcptTo, "452 no", F::Transaction),
            (RcptTo, "550 Too many recipients", F::Transaction),
            (RcptTo, "452 4.3.1 no room", F::Transaction),
            (RcptTo, "452 4.2.2 mailbox full", F::Mail),
            (RcptTo, "552 5.2.2 mailbox full", F::Mail),
            (RcptTo, "450 4.2.1 busy", F::Mail),
            (RcptTo, "550 5.1.1 no such user", F::Mail),
        ],
    );
}

#[test]
fn what_others_met_in_a_row_is_not_the_mails() {
    assert_faults(
        REPEATED,
        &[
            (MailFrom, "450 not now", F::Relay),
            (MailFrom, "451 4.7.1 not now", F::Relay),
            (MailFrom, "554 5.7.1 never", F::Relay),
            (RcptTo, "451 4.7.1 not now", F::Destination),
            (Data, "451 4.3.0 try later", F::Relay),
            (FinalDot, "452 4.3.1 full", F::Relay),
            (MailFrom, "550 5.1.8 sender refused", F::Mail),
            (RcptTo, "550 5.1.1 no such user", F::Mail),
            (FinalDot, "554 5.7.1 spam", F::Mail),
            (FinalDot, "550 5.6.0 bad content", F::Mail),
        ],
    );
}

#[test]
fn every_row_can_be_reached_and_every_step_has_one() {
    for phase in [
        Connect, Greeting, Ehlo, Tls, Auth, MailFrom, RcptTo, Data, Body, FinalDot, Local,
    ] {
        assert!(
            ROWS.iter().any(|row| row.steps.contains(&phase)
                && !row.used
                && !row.accepted
                && row.status == Status::Any),
            "{phase}"
        );
    }
}

#[test]
fn the_docs_have_the_table_as_it_is() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/FAULTS.md");
    let docs = std::fs::read_to_string(path).unwrap_or_default();
    let intro = docs.split("| step |").next().unwrap_or_default();
    let expected = format!("{intro}{}", printed());

    if std::env::var_os("POSTRIDER_PRINT_DOCS").is_some() {
        std::fs::write(path, &expected).expect("docs/FAULTS.md can be written");
    }
    let printed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        printed == expected,
        "docs/FAULTS.md is not what the table says; run this test with POSTRIDER_PRINT_DOCS=1"
    );
}
