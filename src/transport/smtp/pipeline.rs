//! Sends one mail over one connection: MAIL, RCPT, DATA, the message; returns the outcome of each
//! recipient.
//!
//! With PIPELINING (RFC 2920) a group of commands goes out in one write and is answered together,
//! and the next mail's commands go out with the end of this message; without it, each command waits
//! for the answer to the one before. Both are the same loop with a different window. The window is
//! small enough that what the server answers to one group fits into the sockets' buffers, so that
//! neither side can wait for the other to read.

use std::ops::Range;
use std::time::Duration;

use super::connection::SmtpConnection;
use super::extensions::Extensions;
use super::message::{self, DotStuffer};
use super::reply::ServerReply;
use crate::delivery::{Outcome, Phase};
use crate::mail::Address;
use crate::transport::{TimeOuts, Transaction};

/// The most commands that go out before their replies are read.
const WINDOW_COMMANDS: usize = 64;

/// The most bytes of a message that go out in one write.
const PART_BYTES: usize = 64 * 1024;

/// How long to wait for a last reply that says why a server hung up in the middle of a message.
const FINAL_REPLY_WAIT: Duration = Duration::from_secs(1);

/// One command of a mail's envelope.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EnvelopeCommand {
    Reset,
    Mail,
    Rcpt(usize),
    Data,
}

impl EnvelopeCommand {
    /// A mail's commands are numbered from 0: RSET if it is needed, MAIL, a RCPT for each
    /// recipient, DATA.
    fn at(number: usize, reset: bool, recipients: usize) -> EnvelopeCommand {
        match (number + usize::from(!reset)).checked_sub(1) {
            None => EnvelopeCommand::Reset,
            Some(0) => EnvelopeCommand::Mail,
            Some(n) if n <= recipients => EnvelopeCommand::Rcpt(n - 1),
            Some(_) => EnvelopeCommand::Data,
        }
    }

    fn phase(self) -> Phase {
        match self {
            EnvelopeCommand::Reset | EnvelopeCommand::Mail => Phase::MailFrom,
            EnvelopeCommand::Rcpt(_) => Phase::RcptTo,
            EnvelopeCommand::Data => Phase::Data,
        }
    }

    fn time_limit(self, timeouts: &TimeOuts) -> Duration {
        if self == EnvelopeCommand::Data {
            timeouts.data
        } else {
            timeouts.command
        }
    }

    /// The outcome of recipients without a verdict when the connection fails here: before MAIL is
    /// answered, no mail was in question.
    fn lost(self, reason: String) -> Outcome {
        match self.phase() {
            Phase::MailFrom => Outcome::Unavailable(Phase::MailFrom, reason),
            phase => Outcome::Lost(phase, reason),
        }
    }
}

/// The outcome of recipients without a verdict when the connection ends at one recipient's RCPT. If
/// some recipient has a verdict, that one is the cause. The others got no further than MAIL, and
/// are tried again without it ([`Outcome::is_of_another_recipient`]).
fn ended(step: EnvelopeCommand, reason: String, verdicts: &Verdicts) -> Outcome {
    match step {
        EnvelopeCommand::Rcpt(_) if verdicts.iter().any(Option::is_some) => {
            Outcome::Lost(Phase::MailFrom, reason)
        }
        step => step.lost(reason),
    }
}

/// The outcome of each recipient that has one of its own; `None` for the others.
type Verdicts = [Option<Outcome>];

/// The outcome of all recipients that have none of their own. `Err` if the connection cannot be
/// used after it.
type TransactionEnd = Result<Outcome, Outcome>;

impl SmtpConnection {
    /// Sends `mail`, begins `next` if possible, and returns whether the connection can be used
    /// further: whether each command was answered.
    pub(super) async fn transact(
        &mut self,
        mail: &Transaction,
        next: Option<&Transaction>,
    ) -> (Vec<Outcome>, bool) {
        let mut verdicts = vec![None; mail.recipients.len()];
        let end = match self.envelope(mail, &mut verdicts).await {
            Ok(None) => self.message(mail, next).await,
            Ok(Some(outcome)) => Ok(outcome),
            Err(outcome) => Err(outcome),
        };

        let in_step = end.is_ok();
        let (Ok(rest) | Err(rest)) = end;
        let outcomes = verdicts
            .into_iter()
            .map(|verdict| verdict.unwrap_or_else(|| rest.clone()))
            .collect();

        (outcomes, in_step)
    }

    /// Adds the commands of the next mail behind this one's message, if they fit into one group.
    fn begin(&mut self, next: &Transaction) {
        let total = next.recipients.len() + 2;
        if self.may_pipeline()
            && self.left > 0
            && total <= WINDOW_COMMANDS
            && self.extensions.refuse(next).is_none()
            && self.extensions.limits.part(&next.recipients).is_none()
        {
            self.begun = Some(next.mail);
            self.begun_commands.clear();
            write_commands(
                &mut self.begun_commands,
                &self.extensions,
                next,
                false,
                0..total,
            );
            self.out.extend_from_slice(&self.begun_commands);
        }
    }

    /// Whether `mail` is the one whose commands were written ahead, to the last byte.
    pub(super) fn has_begun(&mut self, mail: &Transaction) -> bool {
        self.out.clear();
        write_commands(
            &mut self.out,
            &self.extensions,
            mail,
            false,
            0..mail.recipients.len() + 2,
        );
        self.begun == Some(mail.mail) && self.begun_commands == self.out
    }

    /// Sends MAIL, RCPT and DATA, and reads the answers. `Ok(None)`: the server waits for the
    /// message. `Ok(Some)`: no recipient gets it. `Err`: the connection ends with it.
    async fn envelope(
        &mut self,
        mail: &Transaction,
        verdicts: &mut Verdicts,
    ) -> Result<Option<Outcome>, Outcome> {
        let reset = std::mem::take(&mut self.needs_reset);
        let total = usize::from(reset) + mail.recipients.len() + 2;
        let window = if self.may_pipeline() {
            WINDOW_COMMANDS
        } else {
            1
        };
        let was_begun = self.begun.take().is_some();

        // Commands are written in groups of at most `window`. The one that is being answered begins
        // at `group` and ends before `written`.
        let (mut group, mut written) = (0, if was_begun { total } else { 0 });
        // The answer to MAIL, if it was refused.
        let mut refused: Option<Outcome> = None;
        let mut accepted = 0;

        for number in 0..total {
            let step = EnvelopeCommand::at(number, reset, mail.recipients.len());

            if number == written {
                if refused.is_some() || step == EnvelopeCommand::Data && accepted == 0 {
                    break;
                }
                (group, written) = (number, total.min(number + window));
                self.write_group(mail, reset, number..written)
                    .await
                    .map_err(|reason| ended(step, reason, verdicts))?;
            }

            let answer = match self.answer(step.time_limit(&self.timeouts)).await {
                Ok(answer) if answer.code() == 421 => Err(answer.reply().to_string()),
                answer => answer,
            };
            self.remember_pipelining(&answer, number, number > group, was_begun);

            // A server that refused MAIL has given its verdict, even if it hangs up after that.
            let answer = answer.map_err(|reason| match (refused.take(), step) {
                (Some(refused), _) => refused,
                (None, EnvelopeCommand::Rcpt(index)) => {
                    verdicts[index] = Some(step.lost(reason.clone()));
                    ended(step, reason, verdicts)
                }
                (None, _) => step.lost(reason),
            })?;

            match step {
                EnvelopeCommand::Reset if answer.is_positive() => {}
                EnvelopeCommand::Reset => {
                    return Err(step.lost(format!("RSET was answered with {}", answer.reply())));
                }

                EnvelopeCommand::Mail if answer.is_positive() => {}
                EnvelopeCommand::Mail => refused = Some(refusal(Phase::MailFrom, &answer)?),

                // A server that refuses MAIL and accepts what follows is out of step with us.
                EnvelopeCommand::Rcpt(_) | EnvelopeCommand::Data if refused.is_some() => {
                    if !answer.is_negative() {
                        return Err(Outcome::Deferred(step.phase(), answer.reply()));
                    }
                }

                EnvelopeCommand::Rcpt(_) if answer.is_positive() => accepted += 1,
                EnvelopeCommand::Rcpt(index) => match refusal(Phase::RcptTo, &answer) {
                    Ok(refusal) => verdicts[index] = Some(refusal),
                    Err(outcome) => {
                        verdicts[index] = Some(outcome);
                        return Err(ended(step, answer.reply().to_string(), verdicts));
                    }
                },

                EnvelopeCommand::Data if answer.code() == 354 && accepted > 0 => return Ok(None),
                EnvelopeCommand::Data if answer.code() == 354 => self.send_nothing().await?,
                EnvelopeCommand::Data if answer.is_negative() => {
                    self.needs_reset = true;
                    return Ok(Some(Outcome::refusal(Phase::Data, answer.reply())));
                }
                EnvelopeCommand::Data => {
                    // The answers belong to other commands, so none of them is a verdict.
                    verdicts.fill(None);
                    return Err(Outcome::Deferred(Phase::Data, answer.reply()));
                }
            }
        }

        self.needs_reset = refused.is_none();
        let everybody_has_a_verdict =
            || Outcome::Lost(Phase::RcptTo, "no recipient was accepted".into());
        Ok(Some(refused.unwrap_or_else(everybody_has_a_verdict)))
    }

    /// Writes the envelope's commands with these numbers in one go. A server that speaks before it
    /// was asked is an error.
    async fn write_group(
        &mut self,
        mail: &Transaction,
        reset: bool,
        numbers: Range<usize>,
    ) -> Result<(), String> {
        self.wire.is_silent().await?;
        self.out.clear();
        write_commands(&mut self.out, &self.extensions, mail, reset, numbers);
        self.write(self.timeouts.command)
            .await
            .map_err(|unwritten| unwritten.reason)
    }

    /// Remembers whether this server answers commands that were written before it had answered
    /// those ahead of them: `is_behind`, within this group; `was_begun`, behind the message before.
    fn remember_pipelining(
        &self,
        answer: &Result<ServerReply, String>,
        number: usize,
        is_behind: bool,
        was_begun: bool,
    ) {
        let is_pipelined = is_behind && !was_begun;
        // If such a command is not answered in time, the server has dropped it together with all
        // that came behind the command that it did answer.
        let may_be_dropped = match was_begun {
            true => number == 0,
            false => is_pipelined && !self.memory.answers_pipelined(),
        };

        match answer {
            Err(_) if may_be_dropped && self.wire.is_late() => {
                self.memory.note_dropped_pipelining()
            }
            Ok(_) if is_pipelined => self.memory.note_answered_pipelining(),
            _ => {}
        }
        if is_against_pipelining(answer) {
            self.memory.note_dropped_pipelining();
        }
    }

    /// Sends an empty message: the server has asked for one although it accepted no recipient
    /// (RFC 2920 §3.1). Its answer means nothing.
    async fn send_nothing(&mut self) -> Result<(), Outcome> {
        let lost = |reason| Outcome::Lost(Phase::Data, reason);
        let time_limit = self.timeouts.command;
        self.out.clear();
        self.out.extend_from_slice(b".\r\n");
        self.write(time_limit)
            .await
            .map_err(|unwritten| lost(unwritten.reason))?;
        self.answer(time_limit).await.map(|_| ()).map_err(lost)
    }

    /// Sends the message itself and reads the verdict on it.
    async fn message(&mut self, mail: &Transaction, next: Option<&Transaction>) -> TransactionEnd {
        // The message, without its final dot.
        let mut message = DotStuffer::new(&mail.message);
        loop {
            // A reply that comes now would be mistaken for the verdict on a message that the server
            // does not have yet.
            if self.wire.is_silent().await.is_err() {
                return Err(self.interrupted(self.timeouts.command).await);
            }
            self.out.clear();
            if message.fill(&mut self.out, PART_BYTES) {
                break;
            }
            self.wire.wait_up_to(self.timeouts.body);
            if let Err(unwritten) = self.wire.write_to_listener(&self.out).await {
                return Err(self.broken_off(unwritten.reason).await);
            }
        }

        // Without the dot the server discards the message: hanging up here is the last chance to
        // cancel it.
        if mail.recall.is_recalled() {
            return Err(Outcome::Withdrawn);
        }

        // The dot, and the next mail's commands behind it.
        let dot = self.out.len();
        self.out.extend_from_slice(b".\r\n");
        if let Some(next) = next {
            self.begin(next);
        }

        match self.write(self.timeouts.body).await {
            Err(unwritten) if unwritten.handed_over > dot => {
                return Err(Outcome::InDoubt(unwritten.reason));
            }
            Err(unwritten) => return Err(self.broken_off(unwritten.reason).await),
            Ok(()) => {}
        }

        let answer = self
            .answer(self.timeouts.final_dot)
            .await
            .map_err(Outcome::InDoubt)?;

        match answer.code() {
            // The first digit decides (RFC 5321 §4.2).
            200..=299 => Ok(Outcome::Delivered(answer.reply())),
            421 => Err(Outcome::Lost(Phase::FinalDot, answer.reply().to_string())),
            400..=599 => Ok(Outcome::refusal(Phase::FinalDot, answer.reply())),
            _ => Err(Outcome::InDoubt(format!(
                "the final dot was answered with {}",
                answer.reply()
            ))),
        }
    }

    /// The outcome when the server hung up in the middle of the message. It may have said why.
    async fn broken_off(&mut self, reason: String) -> Outcome {
        match self.interrupted(FINAL_REPLY_WAIT).await {
            Outcome::Lost(phase, _) => Outcome::Lost(phase, reason),
            outcome => outcome,
        }
    }

    /// The outcome when the server speaks in the middle of the message. A refusal is about this
    /// mail, since no other is in question; but it does not count as final, because the server has
    /// not seen the whole message.
    async fn interrupted(&mut self, time_limit: Duration) -> Outcome {
        match self.answer(time_limit).await {
            Err(reason) => Outcome::Lost(Phase::Body, reason),
            Ok(answer) if answer.is_negative() && answer.code() != 421 => {
                Outcome::Deferred(Phase::Body, answer.reply())
            }
            Ok(answer) => Outcome::Lost(Phase::Body, answer.reply().to_string()),
        }
    }
}

/// Whether the server objects to pipelining although it had offered it, as Postfix and Exim do.
fn is_against_pipelining(answer: &Result<ServerReply, String>) -> bool {
    let says = |text: &str| {
        let text = text.to_ascii_lowercase();
        text.contains("pipelining") || text.contains("synchronization error")
    };
    match answer {
        Ok(answer) => answer.is_negative() && says(&answer.reply().text),
        Err(reason) => says(reason),
    }
}

/// The outcome of an answer that is not positive. `Err` if the answer makes no sense here, so that
/// the following ones would make none either.
fn refusal(phase: Phase, answer: &ServerReply) -> Result<Outcome, Outcome> {
    let outcome = Outcome::refusal(phase, answer.reply());
    if answer.is_negative() {
        Ok(outcome)
    } else {
        Err(outcome)
    }
}

/// Appends the commands with these numbers.
fn write_commands(
    out: &mut Vec<u8>,
    offered: &Extensions,
    mail: &Transaction,
    reset: bool,
    numbers: Range<usize>,
) {
    for number in numbers {
        match EnvelopeCommand::at(number, reset, mail.recipients.len()) {
            EnvelopeCommand::Reset => out.extend_from_slice(b"RSET\r\n"),
            EnvelopeCommand::Mail => write_mail(out, offered, mail),
            EnvelopeCommand::Rcpt(index) => {
                out.extend_from_slice(b"RCPT TO:<");
                out.extend_from_slice(mail.recipients[index].as_str().as_bytes());
                out.extend_from_slice(b">\r\n");
            }
            EnvelopeCommand::Data => out.extend_from_slice(b"DATA\r\n"),
        }
    }
}

fn write_mail(out: &mut Vec<u8>, offered: &Extensions, mail: &Transaction) {
    out.extend_from_slice(b"MAIL FROM:<");
    out.extend_from_slice(
        mail.return_path
            .as_ref()
            .map_or("", Address::as_str)
            .as_bytes(),
    );

    out.push(b'>');
    if offered.size.is_some() {
        out.extend_from_slice(format!(" SIZE={}", message::size(&mail.message)).as_bytes());
    }
    if mail.eight_bit {
        out.extend_from_slice(b" BODY=8BITMIME");
    }
    if mail.smtputf8 {
        out.extend_from_slice(b" SMTPUTF8");
    }

    out.extend_from_slice(b"\r\n");
}
