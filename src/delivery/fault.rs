//! Decides whether the mail, the relay or something else caused an outcome. The
//! [`Outcome`](super::Outcome) is what the server answered; the cause is derived from it here, by
//! pure functions, which `dispatch/sender.rs` calls for each recipient of each transaction.
//!
//! *Invariant:* a refusal counts against a mail only if another mail would not have been refused in
//! the same way. The rules are [`ROWS`]; the first that matches decides. docs/FAULTS.md is printed
//! from them, and a test compares the two.

mod phrases;
mod words;

use std::cell::OnceCell;

use super::{Outcome, Phase, Reply};
use words::{Text, Words};

/// What caused an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// None: the mail was accepted.
    Nobody,
    /// This recipient or this message.
    Mail,
    /// The transaction has too many recipients.
    Transaction,
    /// This connection accepts no further mail.
    Session,
    /// The relay cannot reach the recipient's domain now.
    Destination,
    /// The relay, the system behind it, our login or our account.
    Relay,
    /// The mail or the relay: one refusal alone does not show which.
    Unclear,
    /// Unknown: the relay may have accepted the mail.
    InDoubt,
}

impl Fault {
    /// Its name in the table and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Nobody => "nobody",
            Fault::Mail => "mail",
            Fault::Transaction => "transaction",
            Fault::Session => "session",
            Fault::Destination => "destination",
            Fault::Relay => "relay",
            Fault::Unclear => "unclear",
            Fault::InDoubt => "in doubt",
        }
    }

    /// What the engine does then; printed in docs/FAULTS.md.
    pub fn consequence(self) -> &'static str {
        match self {
            Fault::Nobody => "delivered",
            Fault::Mail => {
                "4yz: the mail is deferred and an attempt counted. 5yz: the mail is dead. \
                 Connection lost before the final dot: deferred, no attempt counted. Refused by \
                 Postrider before anything was sent: the route's next relay is tried first"
            }
            Fault::Transaction => {
                "the other recipients are sent at once in another transaction, no attempt \
                 counted; the number of recipients that the relay accepts is learned"
            }
            Fault::Session => {
                "the connection is closed and the mail sent at once over a new one, no attempt \
                 counted; the number of mails that a connection accepts is learned"
            }
            Fault::Destination => {
                "deferred, no attempt counted. After three such mails in a row, mail to this \
                 domain takes the route's next relay or waits, and single mails probe this one"
            }
            Fault::Relay => {
                "up to the reply to MAIL, the mail returns to the queue unchanged, behind other \
                 mail if the relay has refused it. After that, it takes the route's next relay at \
                 once, or is deferred, no attempt counted. After three such mails in a row, mail \
                 takes the route's next relay or waits, and single mails probe this one"
            }
            Fault::Unclear => {
                "the route's next relay at once, or deferred, no attempt counted. If the mail is \
                 refused in this way again after others were accepted, the cause is the mail; \
                 after twenty such mails in a row, the relay"
            }
            Fault::InDoubt => {
                "the mail's guarantee decides: at least once, it is sent again; at most once, it \
                 is dead as in_doubt"
            }
        }
    }

    /// All causes, in the table's order.
    pub const ALL: [Fault; 8] = [
        Fault::Nobody,
        Fault::Mail,
        Fault::Transaction,
        Fault::Session,
        Fault::Destination,
        Fault::Relay,
        Fault::Unclear,
        Fault::InDoubt,
    ];
}

/// What was known about the connection and the relay at the time of the outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// The connection has carried mail before this one.
    pub has_carried_mail: bool,
    /// Recipients of this transaction were accepted before this one was answered.
    pub has_accepted: bool,
    /// Other mails had the same outcome in a row, and none was accepted in between.
    pub is_repeated: bool,
    /// This mail was refused before for an unclear cause, and other mails were accepted since then.
    pub others_fared_better: bool,
}

/// A kind of answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerPattern {
    /// Any 2yz.
    Taken,
    /// This code.
    Code(u16),
    /// Any of these codes.
    Codes(&'static [u16]),
    /// Any 4yz.
    Transient,
    /// Any 5yz.
    Permanent,
    /// Any 4yz or 5yz.
    Refusal,
    /// The server closed the connection.
    HangUp,
    /// There was no answer in time.
    Silence,
    /// No answer, or one that is neither positive nor negative.
    NoVerdict,
    /// Any answer, or none.
    Anything,
}

#[cfg(test)]
impl AnswerPattern {
    fn name(self) -> String {
        match self {
            AnswerPattern::Taken => "2yz".into(),
            AnswerPattern::Code(code) => code.to_string(),
            AnswerPattern::Codes(codes) => codes
                .iter()
                .map(u16::to_string)
                .collect::<Vec<_>>()
                .join(", "),
            AnswerPattern::Transient => "4yz".into(),
            AnswerPattern::Permanent => "5yz".into(),
            AnswerPattern::Refusal => "4yz, 5yz".into(),
            AnswerPattern::HangUp => "hang-up".into(),
            AnswerPattern::Silence => "time-out".into(),
            AnswerPattern::NoVerdict => "1yz, 3yz, hang-up, time-out".into(),
            AnswerPattern::Anything => "anything".into(),
        }
    }
}

/// Which enhanced status codes (RFC 3463) a row asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StatusPattern {
    /// Any, or none.
    Any,
    /// None, or one without a detail (X.0.0).
    Absent,
    /// One of these; a part that is `x` matches all.
    Like(&'static [&'static str]),
    /// The text is of this kind, and the enhanced code does not say otherwise: it is absent, or
    /// about the system, the network, the protocol or a policy (X.0, X.3, X.4, X.5, X.7), or says
    /// no more than that it is about some address or mailbox (X.1.0, X.2.0).
    Words(Words),
    /// The text is of this kind, whatever the enhanced code.
    Plain(Words),
}

/// One rule of the table.
struct FaultRule {
    steps: &'static [Phase],
    answer: AnswerPattern,
    status: StatusPattern,
    /// Only on a connection that has carried mail before.
    used: bool,
    /// Only after other recipients of the transaction were accepted.
    accepted: bool,
    fault: Fault,
    /// The cause if other mails had the same outcome in a row.
    repeated: Option<Fault>,
}

const fn row(
    steps: &'static [Phase],
    answer: AnswerPattern,
    status: StatusPattern,
    fault: Fault,
) -> FaultRule {
    FaultRule {
        steps,
        answer,
        status,
        used: false,
        accepted: false,
        fault,
        repeated: None,
    }
}

impl FaultRule {
    const fn used(mut self) -> Self {
        self.used = true;
        self
    }

    const fn accepted(mut self) -> Self {
        self.accepted = true;
        self
    }

    const fn repeated(mut self, fault: Fault) -> Self {
        self.repeated = Some(fault);
        self
    }
}

use AnswerPattern as H;
use Fault as F;
use Phase::{Auth, Body, Connect, Data, Ehlo, FinalDot, Greeting, Local, MailFrom, RcptTo, Tls};
use StatusPattern as S;

/// Before the server is asked about a mail.
const OPENING: &[Phase] = &[Connect, Greeting, Ehlo, Tls, Auth];
/// The commands of a transaction.
const COMMANDS: &[Phase] = &[MailFrom, RcptTo, Data];
/// The commands with the addresses of the envelope.
const ENVELOPE: &[Phase] = &[MailFrom, RcptTo];
/// The commands, and the answer to the message.
const VERDICTS: &[Phase] = &[MailFrom, RcptTo, Data, FinalDot];
/// All steps at which a server may answer about a mail.
const ALL: &[Phase] = &[MailFrom, RcptTo, Data, Body, FinalDot];
/// The message and the answer to it.
const MESSAGE: &[Phase] = &[Data, Body, FinalDot];
/// Everything after MAIL.
const AFTER_MAIL_FROM: &[Phase] = &[RcptTo, Data, Body, FinalDot];
/// A login or TLS is missing, refused or out of order (RFC 4954 §6, RFC 3207 §4, RFC 5321 §4.2).
const LOGIN_CODES: &[u16] = &[432, 454, 525, 530, 534, 535, 538];
/// The command is unknown, or not allowed now (RFC 5321 §4.2.4).
const SEQUENCE_CODES: &[u16] = &[500, 502, 503];
/// "Too many recipients" (RFC 5321 §4.5.3.1.10): 452, and 552 from older servers.
const STORAGE_CODES: &[u16] = &[452, 552];
/// About one mailbox, one address or one message (RFC 3463 §3.2, §3.3, §3.7), or about the sender's
/// domain (RFC 7372 §3).
const MAIL_CODES: &[&str] = &[
    "x.1.x", "x.2.x", "x.3.3", "x.3.4", "x.5.2", "x.5.4", "x.6.x", "x.7.20", "x.7.21", "x.7.22",
    "x.7.23", "x.7.24", "x.7.26", "x.7.27", "x.7.60",
];
/// About our address, our login or our account (RFC 4954 §6, RFC 7372 §3, and Microsoft 365's codes
/// for a tenant and its addresses).
const OUR_CODES: &[&str] = &[
    "x.7.8", "x.7.11", "x.7.25", "x.7.29", "x.7.57", "x.7.500", "x.7.501", "x.7.508", "x.7.511",
    "x.7.705", "x.7.708", "x.7.750",
];
/// About the system (RFC 3463 §3.4).
const SYSTEM_CODES: &[&str] = &["x.3.x"];
/// About the network (RFC 3463 §3.5).
const NETWORK_CODES: &[&str] = &["x.4.x"];

/// The table. The first row that matches decides.
const ROWS: &[FaultRule] = &[
    row(&[FinalDot], H::Taken, S::Any, F::Nobody),
    row(OPENING, H::Anything, S::Any, F::Relay),
    row(&[Local], H::Transient, S::Like(&["x.5.3"]), F::Transaction),
    row(&[Local], H::Anything, S::Any, F::Mail),
    row(&[FinalDot], H::NoVerdict, S::Any, F::InDoubt),
    // A server that refuses more mail in this session says nothing about this mail.
    row(
        VERDICTS,
        H::Refusal,
        S::Words(Words::SessionLimit),
        F::Session,
    )
    .used(),
    // Too many recipients for one transaction. Some servers only refuse once they have all of them.
    row(
        &[RcptTo, Data, FinalDot],
        H::Refusal,
        S::Like(&["x.5.3"]),
        F::Transaction,
    )
    .accepted(),
    row(
        &[RcptTo, Data, FinalDot],
        H::Refusal,
        S::Words(Words::TooManyRecipients),
        F::Transaction,
    )
    .accepted(),
    row(
        &[RcptTo],
        H::Codes(STORAGE_CODES),
        S::Words(Words::FullMailbox),
        F::Mail,
    )
    .accepted(),
    row(
        &[RcptTo],
        H::Codes(STORAGE_CODES),
        S::Absent,
        F::Transaction,
    )
    .accepted(),
    row(
        &[RcptTo],
        H::Codes(STORAGE_CODES),
        S::Like(&["x.3.1", "x.3.0"]),
        F::Transaction,
    )
    .accepted(),
    // A server that closes a used session says nothing about the mail, either.
    row(COMMANDS, H::HangUp, S::Any, F::Session).used(),
    row(COMMANDS, H::Code(421), S::Any, F::Session).used(),
    // The connection ends before the server was asked about a mail, unless the reply names the
    // sender as the cause.
    row(
        &[MailFrom],
        H::Code(421),
        S::Like(&["x.1.7", "x.1.8"]),
        F::Mail,
    ),
    row(&[MailFrom], H::Code(421), S::Words(Words::Sender), F::Mail),
    row(&[MailFrom], H::Code(421), S::Any, F::Relay),
    row(&[MailFrom], H::HangUp, S::Any, F::Relay),
    row(&[MailFrom], H::Silence, S::Any, F::Relay),
    // Clear words about us or the system decide at any step. A server that answers RCPT with 421
    // limits our rate for the recipient's domain, not for other mail.
    row(&[RcptTo], H::Code(421), S::Words(Words::System), F::Relay),
    row(&[RcptTo], H::Code(421), S::Like(SYSTEM_CODES), F::Relay),
    row(&[RcptTo], H::Code(421), S::Any, F::Destination),
    row(ALL, H::Refusal, S::Like(&["x.1.90"]), F::Relay),
    row(ALL, H::Refusal, S::Plain(Words::Account), F::Relay),
    row(ALL, H::Refusal, S::Words(Words::Client), F::Relay),
    // A quota is the recipient's as often as ours.
    row(ALL, H::Refusal, S::Plain(Words::Quota), F::Unclear).repeated(F::Relay),
    row(ALL, H::Permanent, S::Words(Words::System), F::Relay),
    // Relaying is refused to us, or for one domain.
    row(ALL, H::Refusal, S::Plain(Words::Relaying), F::Unclear).repeated(F::Relay),
    // Commands out of order, whatever the text.
    row(COMMANDS, H::Code(503), S::Like(&["x.5.x"]), F::Session).used(),
    row(ALL, H::Code(503), S::Like(&["x.5.x"]), F::Relay),
    // A host that accepts no mail (RFC 7504); some servers also answer this to clients that they
    // block.
    row(&[MailFrom], H::Code(521), S::Any, F::Relay),
    row(&[RcptTo], H::Code(521), S::Absent, F::Unclear).repeated(F::Relay),
    row(
        &[RcptTo],
        H::Code(521),
        S::Like(&["x.2.1", "x.3.2"]),
        F::Unclear,
    )
    .repeated(F::Relay),
    // About this mail, whatever mail the connection has carried.
    row(&[RcptTo], H::Transient, S::Like(&["x.1.2"]), F::Destination),
    row(MESSAGE, H::Code(421), S::Like(&["x.2.x"]), F::Mail).repeated(F::Relay),
    row(ALL, H::Refusal, S::Like(MAIL_CODES), F::Mail),
    row(&[MailFrom], H::Refusal, S::Words(Words::Sender), F::Mail),
    row(ENVELOPE, H::Codes(&[501, 504, 555]), S::Any, F::Mail),
    row(
        &[MailFrom],
        H::Code(553),
        S::Words(Words::Blocked),
        F::Relay,
    ),
    row(&[MailFrom], H::Code(553), S::Any, F::Mail),
    row(ALL, H::Code(552), S::Absent, F::Mail),
    row(
        AFTER_MAIL_FROM,
        H::Refusal,
        S::Words(Words::Greylisting),
        F::Mail,
    ),
    // Replies that a new connection may not get: only the session is at fault.
    row(&[MailFrom, Data], H::Transient, S::Any, F::Session).used(),
    row(
        &[MailFrom, RcptTo, Data],
        H::Codes(&[454, 503, 530]),
        S::Any,
        F::Session,
    )
    .used(),
    row(
        &[RcptTo],
        H::Transient,
        S::Like(&["x.4.5", "x.5.3"]),
        F::Session,
    )
    .used(),
    row(VERDICTS, H::Transient, S::Like(&["x.4.5"]), F::Session).used(),
    // About the system, our login or our account.
    row(
        &[FinalDot],
        H::Codes(SEQUENCE_CODES),
        S::Words(Words::Content),
        F::Mail,
    ),
    row(ALL, H::Codes(LOGIN_CODES), S::Any, F::Relay),
    row(ALL, H::Codes(SEQUENCE_CODES), S::Any, F::Relay),
    row(ALL, H::Refusal, S::Like(&["x.3.2", "x.3.5"]), F::Relay),
    row(ALL, H::Refusal, S::Like(OUR_CODES), F::Relay),
    row(
        ENVELOPE,
        H::Refusal,
        S::Like(&["x.7.9", "x.7.12"]),
        F::Relay,
    ),
    row(ALL, H::Transient, S::Like(&["x.3.1"]), F::Relay),
    row(ALL, H::Transient, S::Words(Words::System), F::Relay),
    row(ENVELOPE, H::Refusal, S::Words(Words::Blocked), F::Relay),
    row(ENVELOPE, H::Refusal, S::Words(Words::Listed), F::Unclear).repeated(F::Relay),
    row(
        &[MailFrom],
        H::Refusal,
        S::Words(Words::ShutAccount),
        F::Relay,
    ),
    row(&[MailFrom], H::Transient, S::Like(SYSTEM_CODES), F::Relay),
    row(&[MailFrom], H::Transient, S::Like(NETWORK_CODES), F::Relay),
    row(&[MailFrom], H::Transient, S::Like(&["x.5.x"]), F::Relay),
    row(&[MailFrom], H::Permanent, S::Like(NETWORK_CODES), F::Relay),
    row(&[MailFrom], H::Code(452), S::Absent, F::Relay),
    row(&[MailFrom], H::Refusal, S::Words(Words::Doubt), F::Unclear).repeated(F::Relay),
    row(&[MailFrom], H::Transient, S::Absent, F::Unclear).repeated(F::Relay),
    row(&[MailFrom], H::Refusal, S::Any, F::Mail).repeated(F::Relay),
    // About the sender; some servers check it only here.
    row(&[RcptTo], H::Transient, S::Words(Words::Sender), F::Mail),
    // About the recipient's domain, to which the relay passes the mail on.
    row(&[RcptTo], H::HangUp, S::Any, F::Destination),
    row(&[RcptTo], H::Silence, S::Any, F::Destination),
    row(
        &[RcptTo],
        H::Transient,
        S::Like(NETWORK_CODES),
        F::Destination,
    ),
    row(
        &[RcptTo],
        H::Transient,
        S::Like(SYSTEM_CODES),
        F::Destination,
    ),
    row(&[RcptTo], H::Transient, S::Like(&["x.5.3"]), F::Destination),
    row(&[RcptTo], H::Transient, S::Like(&["x.7.x"]), F::Mail).repeated(F::Destination),
    row(&[RcptTo], H::Transient, S::Absent, F::Mail).repeated(F::Destination),
    // About the recipient, or the sender.
    row(&[RcptTo], H::Permanent, S::Words(Words::Recipient), F::Mail),
    row(
        &[RcptTo],
        H::Permanent,
        S::Words(Words::ShutAccount),
        F::Mail,
    ),
    row(&[RcptTo], H::Permanent, S::Words(Words::Sender), F::Mail),
    row(&[RcptTo], H::Permanent, S::Words(Words::Doubt), F::Unclear).repeated(F::Relay),
    row(&[RcptTo], H::Permanent, S::Any, F::Mail).repeated(F::Relay),
    row(&[RcptTo], H::Refusal, S::Any, F::Mail),
    // About the message. A refusal counts against the mail until other mails are refused in the
    // same way.
    row(MESSAGE, H::Code(421), S::Any, F::Relay),
    row(MESSAGE, H::HangUp, S::Any, F::Relay),
    row(MESSAGE, H::Silence, S::Any, F::Relay),
    row(MESSAGE, H::Refusal, S::Words(Words::Content), F::Mail),
    row(MESSAGE, H::Refusal, S::Words(Words::Sender), F::Mail),
    row(MESSAGE, H::Refusal, S::Words(Words::Recipient), F::Mail),
    row(MESSAGE, H::Refusal, S::Words(Words::Blocked), F::Unclear).repeated(F::Relay),
    row(MESSAGE, H::Refusal, S::Words(Words::Listed), F::Unclear).repeated(F::Relay),
    row(
        MESSAGE,
        H::Refusal,
        S::Words(Words::ShutAccount),
        F::Unclear,
    )
    .repeated(F::Relay),
    row(MESSAGE, H::Refusal, S::Words(Words::Doubt), F::Unclear).repeated(F::Relay),
    // The envelope was accepted and the message not yet sent, so the mail has given no cause.
    row(&[Data], H::Permanent, S::Absent, F::Unclear).repeated(F::Relay),
    row(
        &[Data, FinalDot],
        H::Transient,
        S::Like(SYSTEM_CODES),
        F::Mail,
    )
    .repeated(F::Relay),
    row(
        &[Data, FinalDot],
        H::Transient,
        S::Like(NETWORK_CODES),
        F::Mail,
    )
    .repeated(F::Relay),
    row(&[Data, FinalDot], H::Transient, S::Absent, F::Mail).repeated(F::Unclear),
    row(&[FinalDot], H::Transient, S::Like(&["x.7.x"]), F::Mail).repeated(F::Unclear),
    row(&[Data], H::Transient, S::Any, F::Mail).repeated(F::Unclear),
    row(&[Data, FinalDot], H::Permanent, S::Any, F::Mail).repeated(F::Relay),
    row(MESSAGE, H::Refusal, S::Any, F::Mail),
    // A reply that makes no sense at this step says nothing about anything but this mail.
    row(VERDICTS, H::Anything, S::Any, F::Mail),
    row(&[Body], H::Anything, S::Any, F::Mail),
];

/// The answer at a step.
enum StepAnswer {
    Reply(Reply, OnceCell<Text>),
    HangUp,
    Silence,
}

impl From<&Reply> for StepAnswer {
    fn from(reply: &Reply) -> Self {
        StepAnswer::Reply(reply.clone(), OnceCell::new())
    }
}

impl StepAnswer {
    /// Parses the reason for which a connection ended, which is kept as text and may contain a
    /// reply.
    fn read(reason: &str) -> StepAnswer {
        match Reply::in_reason(reason) {
            Some(reply) => StepAnswer::from(&reply),
            None if reason.starts_with(super::SILENCE) => StepAnswer::Silence,
            None => StepAnswer::HangUp,
        }
    }

    fn is(&self, answer: AnswerPattern) -> bool {
        match (self, answer) {
            (_, AnswerPattern::Anything) => true,
            (StepAnswer::Reply(reply, _), answer) => match answer {
                AnswerPattern::Taken => reply.code / 100 == 2,
                AnswerPattern::Code(code) => reply.code == code,
                AnswerPattern::Codes(codes) => codes.contains(&reply.code),
                AnswerPattern::Transient => reply.code / 100 == 4,
                AnswerPattern::Permanent => reply.code / 100 == 5,
                AnswerPattern::Refusal => matches!(reply.code / 100, 4 | 5),
                AnswerPattern::NoVerdict => !matches!(reply.code / 100, 2 | 4 | 5),
                _ => false,
            },
            (StepAnswer::HangUp, answer) => {
                matches!(answer, AnswerPattern::HangUp | AnswerPattern::NoVerdict)
            }
            (StepAnswer::Silence, answer) => {
                matches!(answer, AnswerPattern::Silence | AnswerPattern::NoVerdict)
            }
        }
    }

    fn has(&self, status: StatusPattern) -> bool {
        let StepAnswer::Reply(reply, text) = self else {
            return status == StatusPattern::Any;
        };

        let enhanced = reply.enhanced.as_deref().unwrap_or_default();
        let is_vague = enhanced.is_empty() || like(enhanced, "x.0.x");
        match status {
            StatusPattern::Any => true,
            StatusPattern::Absent => is_vague,
            StatusPattern::Like(patterns) => patterns.iter().any(|pattern| like(enhanced, pattern)),
            StatusPattern::Words(words) => {
                let is_open = is_vague
                    || ["x.1.0", "x.2.0", "x.3.x", "x.4.x", "x.5.x", "x.7.x"]
                        .iter()
                        .any(|pattern| like(enhanced, pattern));
                is_open && words.are_in(text.get_or_init(|| Text::read(&reply.text)))
            }
            StatusPattern::Plain(words) => {
                words.are_in(text.get_or_init(|| Text::read(&reply.text)))
            }
        }
    }
}

/// Whether `status` matches `pattern`, part by part; `x` matches any part.
fn like(status: &str, pattern: &str) -> bool {
    let mut parts = status.split('.');
    pattern.split('.').all(|wanted| {
        let part = parts.next();
        part.is_some_and(|part| wanted == "x" || wanted == part)
    })
}

/// The cause of an outcome, and what it would be if it was repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The cause.
    pub fault: Fault,
    /// The cause if different mails have the same outcome in a row: [`Circumstances::is_repeated`].
    pub repeated: Option<Fault>,
    /// The connection ended without an explanation.
    pub is_vague: bool,
}

impl Outcome {
    /// Determines the cause of this outcome under these circumstances.
    pub fn judge(&self, circumstances: Circumstances) -> Judgement {
        let (phase, said) = match self {
            Outcome::Delivered(_) => return Fault::Nobody.into(),
            // A provider's answer over HTTP: its module has already separated refusals of the mail
            // from those of the account. When it refuses a mail, its status is below 500
            // (`transport/api/`).
            Outcome::Rejected(_, reply) if reply.code / 100 != 5 => return Fault::Mail.into(),
            Outcome::Deferred(phase, reply) | Outcome::Rejected(phase, reply) => {
                (*phase, StepAnswer::from(reply))
            }
            Outcome::Lost(Phase::FinalDot, reason) => (Phase::FinalDot, StepAnswer::read(reason)),
            Outcome::Unavailable(Phase::Local, _) => return Fault::Relay.into(),
            Outcome::Unavailable(phase, reason) | Outcome::Lost(phase, reason) => {
                (*phase, StepAnswer::read(reason))
            }
            Outcome::InDoubt(_) => return Fault::InDoubt.into(),
            Outcome::Withdrawn | Outcome::Crashed => return Fault::Mail.into(),
        };

        let found = ROWS.iter().find(|row| {
            row.steps.contains(&phase)
                && said.is(row.answer)
                && said.has(row.status)
                && (!row.used || circumstances.has_carried_mail)
                && (!row.accepted || circumstances.has_accepted)
        });

        let Some(row) = found else {
            return Fault::Mail.into();
        };
        let fault = match row.repeated {
            Some(repeated) if circumstances.is_repeated => repeated,
            _ if row.fault == Fault::Unclear && circumstances.others_fared_better => Fault::Mail,
            _ => row.fault,
        };

        let is_end = matches!(row.answer, H::HangUp | H::Silence | H::Code(421));
        Judgement {
            fault,
            repeated: row.repeated,
            is_vague: is_end && row.status == S::Any,
        }
    }
}

impl From<Fault> for Judgement {
    fn from(fault: Fault) -> Self {
        Judgement {
            fault,
            repeated: None,
            is_vague: false,
        }
    }
}

#[cfg(test)]
mod tests;
