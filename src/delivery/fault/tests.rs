//! Tests of the table, and that docs/FAULTS.md matches it.

use std::fmt::Write as _;

use super::*;

mod replies;

const FRESH: Circumstances = Circumstances {
    has_carried_mail: false,
    has_accepted: false,
    is_repeated: false,
    others_fared_better: false,
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
            (FinalDot, "452 4.3.1 full", F::Relay),
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

/// A reply about us or the system has the relay as its cause, at every step.
#[test]
fn what_is_said_of_us_or_of_the_system_is_the_relays_at_every_step() {
    for line in [
        // Our IP address.
        "550 5.7.708 Service unavailable. Access denied, traffic not accepted from this IP",
        "550 5.7.1 Service unavailable; client host [192.0.2.1] blocked using Spamhaus",
        "554 5.7.1 <mail.example[192.0.2.1]>: Client host rejected: Access denied",
        "450 4.7.1 Client host rejected: cannot find your hostname, [192.0.2.1]",
        "550 5.7.1 Your IP 192.0.2.1 is not welcome",
        "550-5.7.25 The IP address sending this message does not have a PTR record",
        "504 5.5.2 <localhost>: Helo command rejected: need fully-qualified hostname",
        "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. (S3140)",
        "550 5.7.606 Access denied, banned sending IP [192.0.2.1]",
        "525 5.7.1 Unauthorized IP address",
        // Our login.
        "530 5.7.0 Authentication required",
        "530 5.7.57 Client not authenticated to send mail",
        "535 5.7.8 Error: authentication failed",
        "454 4.7.0 Too many login attempts, please try again later",
        "550 5.7.1 Relaying denied. Proper authentication required.",
        "550 5.7.0 Must issue a STARTTLS command first",
        "550 Unauthenticated senders not allowed",
        "535 5.7.139 Authentication unsuccessful, basic authentication is disabled",
        "553 5.7.1 <a@example.com>: Sender address rejected: not logged in",
        // Our account and its rate.
        "550 5.4.5 Daily user sending quota exceeded",
        "550 5.4.5 Daily SMTP relay limit exceeded for customer",
        "550 5.1.90 Your message can't be sent because you've reached your daily limit",
        "454 Throttling failure: Maximum sending rate exceeded",
        "454 Throttling failure: Daily message quota exceeded",
        "554 Message rejected: Sending suspended for this account",
        "554 Access denied: User arn:aws:iam::1:user/x is not authorized to perform \
         ses:SendRawEmail",
        "451 4.4.5 Rate limit exceeded, try again later",
        "451 Authentication failed: Maximum credits exceeded",
        "452 Too many recipients received this hour",
        "550 5.7.705 Access denied, tenant has exceeded threshold",
        "550 5.7.501 Access denied, spam abuse detected",
        "550 5.7.1 Your SMTP account is not yet activated",
        "550 Domain example.com has exceeded the max emails per hour (50/50) allowed",
        "450 Requested mail action not taken: mailbox unavailable - Mail send limit exceeded",
        // The system.
        "451 4.7.500 Server busy. Please try again later from [192.0.2.1]",
        "450 4.7.1 Too many connections",
        "452 4.3.1 Insufficient system storage",
        "451 4.3.2 System not accepting network messages",
        "432 4.3.2 Concurrent connections limit exceeded",
        "452 4.4.5 Insufficient disk space; try again later",
        "452 space shortage, please try later",
        "451 4.3.5 Server configuration problem",
        "450 Backend failure. Please retry later",
        "451 4.7.1 Service unavailable - try again later",
        "450 4.3.2 Load too high",
        "554 5.3.2 System shutdown in progress",
    ] {
        for phase in [MailFrom, RcptTo, Data, Body, FinalDot] {
            assert_eq!(fault(phase, line, FRESH), F::Relay, "{line} at {phase}");
        }
    }
}

/// A reply about one sender, recipient or message has that mail as its cause, however often it is
/// repeated.
#[test]
fn what_is_said_of_one_mail_is_that_mails_however_often() {
    for (phase, line) in [
        (RcptTo, "550 5.1.1 User unknown"),
        (RcptTo, "550 No such user here"),
        (RcptTo, "550 <x@example.org>: unknown user"),
        (RcptTo, "553 sorry, that mailbox does not exist"),
        (
            RcptTo,
            "550 5.4.1 Recipient address rejected: Access denied",
        ),
        (
            RcptTo,
            "554 5.7.1 <x@example.org>: Recipient address rejected: Access denied",
        ),
        (
            RcptTo,
            "552 5.2.2 The email account that you tried to reach is over quota",
        ),
        (RcptTo, "452 4.2.2 Mailbox full"),
        (
            RcptTo,
            "450 4.2.1 The user you are trying to contact is receiving mail at a rate",
        ),
        (RcptTo, "552 Mailbox quota exceeded, daily limit reached"),
        (
            RcptTo,
            "451 4.7.1 Greylisted; your IP is new here, try again in 300 seconds",
        ),
        (
            RcptTo,
            "450 4.2.0 <x@example.org>: Recipient address rejected: Greylisted",
        ),
        (
            MailFrom,
            "550 5.7.60 SMTP; Client does not have permissions to send as this sender",
        ),
        (
            RcptTo,
            "550 5.7.60 SMTP; Client does not have permissions to send as this sender",
        ),
        (
            FinalDot,
            "550 5.7.60 SMTP; Client does not have permissions to send as this sender",
        ),
        (
            MailFrom,
            "553 5.7.1 <a@example.com>: Sender address rejected: not owned by user b",
        ),
        (
            MailFrom,
            "550 The from address does not match a verified Sender Identity",
        ),
        (RcptTo, "550 Sender verify failed"),
        (
            RcptTo,
            "554 5.7.1 Service unavailable; Sender address [a@example.com] blocked using dbl.x.org",
        ),
        (
            FinalDot,
            "550 5.7.26 This mail is unauthenticated: SPF with IP 192.0.2.1 did not pass",
        ),
        (
            FinalDot,
            "554 5.7.1 Message contains a URL that Spamhaus lists",
        ),
        (
            FinalDot,
            "550 5.7.1 [192.0.2.1 12] Our system has detected that this message is likely \
             unsolicited              mail. To reduce the amount of spam, this message has been \
             blocked",
        ),
        (
            FinalDot,
            "552 5.7.0 This message was blocked because its content is a risk",
        ),
        (
            FinalDot,
            "554 5.7.9 Message not accepted for policy reasons",
        ),
        (FinalDot, "550 5.7.1 Virus found"),
        (FinalDot, "554 5.6.0 Invalid header"),
        (FinalDot, "552 5.2.3 Message exceeds the recipient's limit"),
    ] {
        for circumstances in [FRESH, REPEATED, USED] {
            assert_eq!(
                fault(phase, line, circumstances),
                F::Mail,
                "{line} at {phase}, {circumstances:?}"
            );
        }
    }
}

#[test]
fn what_may_be_either_is_decided_by_what_others_met() {
    let fared_better = Circumstances {
        others_fared_better: true,
        ..FRESH
    };

    for (phase, line) in [
        (RcptTo, "550 5.7.1 Relaying denied"),
        (RcptTo, "550 5.1.2 Relay not allowed."),
        (RcptTo, "554 5.7.1 <x@example.org>: Relay access denied"),
        (RcptTo, "550 Administrative prohibition"),
        (MailFrom, "550 5.7.1 Access denied"),
        (Data, "554 no"),
        (
            FinalDot,
            "554 Message rejected: Email address is not verified. The following identities failed \
             the check in region US-EAST-1",
        ),
        (FinalDot, "554 5.7.1 Rejected: 192.0.2.1 is listed"),
        (FinalDot, "550 5.7.1 blocked using b.barracudacentral.org"),
    ] {
        assert_eq!(fault(phase, line, FRESH), F::Unclear, "{line}");
        assert_eq!(fault(phase, line, REPEATED), F::Relay, "{line}");
        assert_eq!(fault(phase, line, fared_better), F::Mail, "{line}");
    }

    for (phase, line) in [(RcptTo, "550 no"), (FinalDot, "554 5.7.1 Refused")] {
        assert_eq!(fault(phase, line, FRESH), F::Mail, "{line}");
        assert_eq!(fault(phase, line, REPEATED), F::Relay, "{line}");
    }

    for (phase, line) in [(Data, "451 not now"), (FinalDot, "451 not now")] {
        assert_eq!(fault(phase, line, FRESH), F::Mail, "{line}");
        assert_eq!(fault(phase, line, REPEATED), F::Unclear, "{line}");
    }
}

/// Whatever the status would mean as an SMTP code.
#[test]
fn a_provider_that_refuses_a_mail_over_http_speaks_of_that_mail() {
    for status in [400, 404, 409, 421, 422, 450, 452, 454] {
        for text in [
            "no",
            "please log in",
            "too many recipients",
            "service unavailable",
        ] {
            let outcome = Outcome::Rejected(FinalDot, Reply::new(status, text));
            for circumstances in [FRESH, USED, AFTER_OTHERS, REPEATED] {
                let fault = outcome.judge(circumstances).fault;
                assert_eq!(fault, F::Mail, "{status} {text}");
            }
        }
    }
}

/// A code that a server quotes, or that is in our own words, is not its reply.
#[test]
fn a_code_inside_a_reason_is_not_what_was_said() {
    let quoted = "421 4.4.2 upstream: the server refused: 550 5.1.1 no such user";
    let lost = Outcome::Lost(RcptTo, quoted.into());
    assert_eq!(lost.judge(FRESH).fault, F::Destination);
    let ours = Outcome::Lost(RcptTo, "the connection broke: 550 5.1.1".into());
    assert_eq!(ours.judge(FRESH).fault, F::Destination);
}

#[test]
fn a_rate_of_ours_at_one_domain_lets_that_domain_rest() {
    let line = "421 4.7.28 Gmail has detected an unusual rate of mail originating from your IP \
                address. To protect our users, mail has been rate limited";
    assert_eq!(fault(RcptTo, line, FRESH), F::Destination);
    assert_eq!(fault(RcptTo, "421 4.3.2 Shutting down", FRESH), F::Relay);
    assert_eq!(fault(FinalDot, line, FRESH), F::Relay);
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
                && row.status == StatusPattern::Any),
            "{phase}"
        );
    }
}

/// The table in Markdown, as in docs/FAULTS.md.
fn printed() -> String {
    let mut out = String::from(
        "| step | answer | enhanced code or text | connection | cause | cause if repeated |\n\
         |---|---|---|---|---|---|\n",
    );

    for row in ROWS {
        let steps: Vec<&str> = row.steps.iter().map(|step| step.as_str()).collect();
        let status = match row.status {
            StatusPattern::Any => "any".to_owned(),
            StatusPattern::Absent => "none, or x.0.x".to_owned(),
            StatusPattern::Like(patterns) => patterns.join(", "),
            StatusPattern::Words(words) => format!("text {}", words.name()),
            StatusPattern::Plain(words) => format!("any; text {}", words.name()),
        };
        let mut state = Vec::new();
        if row.used {
            state.push("has carried mail");
        }
        if row.accepted {
            state.push("recipients accepted before");
        }
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} |",
            steps.join(", "),
            row.answer.name(),
            status,
            state.join(", "),
            row.fault.as_str(),
            row.repeated.map_or("", Fault::as_str),
        );
    }

    out.push_str("\n| cause | consequence |\n|---|---|\n");
    for fault in Fault::ALL {
        let _ = writeln!(out, "| {} | {} |", fault.as_str(), fault.consequence());
    }
    out
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
