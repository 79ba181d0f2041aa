//! Sends one mail over a sender's connection, in as many transactions as the relay's limits
//! require, and over a new connection if only the old one was the cause of a failure. The result is
//! an outcome and its cause for each recipient.
//!
//! *Invariant:* each further transaction has fewer recipients than the one before, or a new
//! connection, so that the loop ends.
//!
//! If the server ends the connection at one recipient, the others are tried again at once without
//! that one. If connections end after the same number of recipients repeatedly, that number counts
//! as the server's limit per transaction.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;
use tracing::Instrument;

use super::sender::{OpenConnection, Panic, State};
use crate::delivery::{Fault, Outcome, Phase, transaction};
use crate::transport::Transaction;

/// How many recipients of a mail may each end a connection. After that the remaining ones are
/// deferred too, so that a relay that hangs up at every recipient is not tried a hundred times.
const MAX_HANG_UPS: u32 = 20;

/// After this many connections in a row that end at the same number of recipients, that number
/// counts as the server's limit.
const HANG_UPS_AT_LIMIT: u32 = 3;

/// A smaller number does not count as a limit: a few bad recipients in a row would look the same.
const LEAST_LIMIT: usize = 5;

/// The outcome of one recipient's attempt.
#[derive(Clone, Debug)]
pub(super) struct RecipientResult {
    pub outcome: Outcome,
    pub fault: Fault,
}

/// A session that accepted no more mail. Whether the session was the cause is known only after a
/// new one was tried.
struct SuspectedSession {
    /// How many mails it had carried.
    carried: u32,
    /// Whether the server gave that as the reason.
    said_so: bool,
}

impl State {
    /// Sends one mail to all its recipients. The commands of `next` are pipelined after it if that
    /// is safe.
    pub(super) async fn deliver(
        &mut self,
        mail: &Transaction,
        next: Option<&Transaction>,
    ) -> Result<Vec<RecipientResult>, Panic> {
        let mut results: Vec<Option<RecipientResult>> = vec![None; mail.recipients.len()];
        // The recipients without a result, by index.
        let mut left: Vec<usize> = (0..mail.recipients.len()).collect();
        let mut suspected: Option<SuspectedSession> = None;
        let mut hang_ups = 0;
        let mut hang_up_places = RepeatCount::default();

        while !left.is_empty() {
            // One transaction, with as many recipients as the relay accepts.
            let now = self.engine.clock.monotonic();
            let mut part = self.part(mail, &left, now);
            let is_whole = part.len() == mail.recipients.len();
            let mut transaction = for_part(mail, &part);
            let next = next.filter(|next| is_whole && self.may_pipeline(next, now));

            self.begun = None;
            let (mut outcomes, carried) = self.transact(&transaction, next).await?;
            if self.connection.is_some() {
                self.begun = next.map(|next| next.mail);
            }

            // If the connection ended at one recipient, the others stay in `left` for the next
            // round.
            let mut accepted = transaction::accepted(&outcomes);
            let mut is_limit = false;
            if outcomes.iter().any(Outcome::is_of_another_recipient) {
                accepted = accepted_before_hang_up(&outcomes);
                is_limit =
                    hang_up_places.add(accepted) >= HANG_UPS_AT_LIMIT && accepted >= LEAST_LIMIT;
                let has_no_cause = outcomes.iter().all(Outcome::is_of_another_recipient);
                if has_no_cause || hang_ups == MAX_HANG_UPS {
                    blame_all(&mut outcomes);
                } else {
                    hang_ups += 1;
                    leave_out_bystanders(&mut part, &mut outcomes);
                    transaction = for_part(mail, &part);
                }
            }

            let mut faults = self.judge(&transaction, &outcomes, carried, accepted);
            if is_limit {
                let pairs = outcomes.iter().zip(&mut faults);
                let causes = pairs.filter(|(one, _)| one.is_cause_of_hang_up());
                causes.for_each(|(_, fault)| *fault = Fault::Transaction);
            }

            // A new session that does better shows that the old one was the cause.
            if let Some(session) = suspected.take().filter(|_| blames_old_session(&faults)) {
                self.memory
                    .session_ended(session.carried, session.said_so, now);
            }
            if let Some(limit) = observed_limit(&outcomes, &faults, accepted) {
                self.memory.transaction_full(limit, now);
            }
            if faults.contains(&Fault::Session) {
                let said_so = says_session_is_full(&outcomes, &faults);
                suspected = Some(SuspectedSession { carried, said_so });
                self.close_connection().await;
            }

            // Recipients that only need another session or transaction are tried again, unless the
            // relay itself has failed.
            let stops = faults
                .iter()
                .any(|fault| matches!(fault, Fault::Relay | Fault::InDoubt));
            for ((at, outcome), fault) in part.into_iter().zip(outcomes).zip(faults) {
                let again = matches!(fault, Fault::Session | Fault::Transaction);
                if !again || stops {
                    results[at] = Some(RecipientResult { outcome, fault });
                    left.retain(|place| *place != at);
                }
            }
            if stops {
                break;
            }
        }

        // Recipients that were not tried return to the queue unchanged.
        let untried = || RecipientResult {
            outcome: Outcome::Unavailable(Phase::Connect, "the relay failed before it".into()),
            fault: Fault::Relay,
        };

        Ok(results
            .into_iter()
            .map(|result| result.unwrap_or_else(untried))
            .collect())
    }

    /// The recipients of the next transaction. If the mail's commands were pipelined already, all
    /// of them.
    fn part(&self, mail: &Transaction, left: &[usize], now: Duration) -> Vec<usize> {
        let limit = match self.memory.transaction_limit(now) {
            Some(limit) if self.begun != Some(mail.mail) => limit.max(1),
            _ => usize::MAX,
        };
        left.iter().copied().take(limit).collect()
    }

    /// Whether the next mail's commands may be pipelined after this one: not if it needs several
    /// transactions or another connection, or while some domain does not answer.
    fn may_pipeline(&self, next: &Transaction, now: Duration) -> bool {
        let fits = self
            .memory
            .transaction_limit(now)
            .is_none_or(|limit| next.recipients.len() <= limit);
        let carried = self.connection.as_ref().map_or(0, |open| open.carried);
        let has_room = self
            .memory
            .session_limit(now)
            .is_none_or(|limit| carried + 1 < limit);
        fits && has_room && self.memory.all_domains_answer()
    }

    /// The cause of each outcome. `carried`: how many mails the connection had carried before;
    /// `accepted`: how many recipients the server accepted in this transaction.
    fn judge(
        &self,
        mail: &Transaction,
        outcomes: &[Outcome],
        carried: u32,
        accepted: usize,
    ) -> Vec<Fault> {
        let circumstances = transaction::circumstances(outcomes, carried, accepted);
        outcomes
            .iter()
            .zip(&mail.recipients)
            .zip(circumstances)
            .map(|((outcome, to), here)| self.memory.judge(outcome, here, to, mail.mail))
            .collect()
    }

    /// One transaction over the open connection or a new one. If the relay has closed a reused
    /// connection meanwhile, it is replaced, which does not count as a failure of the relay. Also
    /// returns how many mails the connection had carried before.
    async fn transact(
        &mut self,
        mail: &Transaction,
        next: Option<&Transaction>,
    ) -> Result<(Vec<Outcome>, u32), Panic> {
        let now = self.engine.clock.monotonic();
        let limit = self.memory.session_limit(now);
        let is_full = |open: &OpenConnection| limit.is_some_and(|limit| open.carried >= limit);
        if self.begun.is_none() && self.connection.as_ref().is_some_and(is_full) {
            self.close_connection().await;
        }

        loop {
            let connected = self.connect().await;
            let Some(mut open) = self.connection.take() else {
                let unreachable = Outcome::Unavailable(Phase::Connect, "no connection".into());
                let outcome = connected.err().unwrap_or(unreachable);
                return Ok((vec![outcome; mail.recipients.len()], 0));
            };
            let sending = open.connection.send(mail, next);
            let sending = sending.instrument(open.span.clone());
            let mut outcomes = AssertUnwindSafe(sending).catch_unwind().await?;

            // A transport must return an outcome for each recipient. If one is missing, that
            // recipient may have got the mail.
            let missing = Outcome::InDoubt("no outcome was given".into());
            outcomes.resize(mail.recipients.len(), missing);

            let was_not_asked = outcomes
                .iter()
                .all(|outcome| matches!(outcome, Outcome::Unavailable(..)));
            let carried = open.carried;
            let stale = carried > 0 && was_not_asked;
            if open.connection.is_usable() && !stale {
                open.carried += 1;
                open.last_used = Instant::now();
                self.connection = Some(open);
            } else {
                tokio::spawn(open.connection.close());
            }
            if !stale {
                return Ok((outcomes, carried));
            }
        }
    }
}

/// The transaction for some of a mail's recipients.
fn for_part(mail: &Transaction, part: &[usize]) -> Transaction {
    let recipients = part.iter().map(|at| mail.recipients[*at].clone());
    mail.clone().for_recipients(recipients.collect())
}

/// Keeps only the recipients that have an outcome of their own; the others are tried again.
fn leave_out_bystanders(part: &mut Vec<usize>, outcomes: &mut Vec<Outcome>) {
    let pairs = part.drain(..).zip(outcomes.drain(..));
    let kept: Vec<_> = pairs
        .filter(|(_, outcome)| !outcome.is_of_another_recipient())
        .collect();
    (*part, *outcomes) = kept.into_iter().unzip();
}

/// Whether these results of a new session show that the old one was the cause: none of them has
/// this session, the relay or a domain as its cause.
fn blames_old_session(faults: &[Fault]) -> bool {
    use Fault::{Destination, Relay, Session, Unclear};
    faults
        .iter()
        .all(|fault| !matches!(fault, Session | Relay | Unclear | Destination))
}

/// Whether the server said that the session accepts no more mail.
fn says_session_is_full(outcomes: &[Outcome], faults: &[Fault]) -> bool {
    outcomes.iter().zip(faults).any(|(outcome, fault)| {
        *fault == Fault::Session && matches!(outcome, Outcome::Deferred(..) | Outcome::Rejected(..))
    })
}

/// Treats the end of the connection as the outcome of every recipient.
fn blame_all(outcomes: &mut [Outcome]) {
    for outcome in outcomes {
        if let Outcome::Lost(phase @ Phase::MailFrom, _) = outcome {
            *phase = Phase::RcptTo;
        }
    }
}

/// Counts how often in a row a number was the same.
#[derive(Default)]
struct RepeatCount {
    number: usize,
    times: u32,
}

impl RepeatCount {
    fn add(&mut self, number: usize) -> u32 {
        self.times = match self.number == number {
            true => self.times + 1,
            false => 1,
        };
        self.number = number;
        self.times
    }
}

/// How many recipients had been accepted when the connection ended at another one.
fn accepted_before_hang_up(outcomes: &[Outcome]) -> usize {
    let over = outcomes
        .iter()
        .rposition(|one| !one.is_of_another_recipient());
    let before = outcomes.iter().take(over.unwrap_or(0));
    before.filter(|one| one.is_of_another_recipient()).count()
}

/// How many recipients a transaction may have, if these outcomes show it: as many as were accepted,
/// or half of them if the server refused all after accepting them. A limit that the server
/// announces need not be learned.
fn observed_limit(outcomes: &[Outcome], faults: &[Fault], accepted: usize) -> Option<usize> {
    let full = outcomes
        .iter()
        .zip(faults)
        .filter(|(_, fault)| **fault == Fault::Transaction);
    let mut full = full.map(|(outcome, _)| outcome).peekable();
    full.peek()?;

    if full.clone().any(Outcome::is_of_all) {
        return Some(accepted / 2);
    }
    full.any(|one| one.refused_at() != Some(Phase::Local))
        .then_some(accepted)
}
