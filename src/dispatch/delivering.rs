//! One mail's transactions over a sender's connection: as many as the relay's limits ask for, and
//! again on a new connection where only the old one was used up. What is left of it is an outcome
//! and whose fault that was, for each recipient.
//!
//! *Invariant:* each further transaction has fewer recipients than the one before, or a new
//! connection, so that this ends.
//!
//! Where a connection ends over one recipient, the others go at once without that one. Where it
//! ends after the same number of recipients again and again, that number is what a transaction
//! takes.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;
use tracing::Instrument;

use super::sender::{OpenConnection, Panic, State};
use crate::delivery::{Circumstances, Fault, Outcome, Phase};
use crate::transport::Transaction;

/// How many recipients of one mail may each end a connection before the others wait with them: a
/// relay that ends it over each is not asked about a hundred.
const ENDED_OVER: u32 = 20;

/// So often in a row must a connection end after the same number of recipients until that is held
/// to be the most that a transaction takes.
const ENDED_AT_SAME: u32 = 3;

/// No server takes fewer than that and says nothing: recipients that are wrong stand side by side.
const LEAST_LIMIT: usize = 5;

/// What became of one recipient's try.
#[derive(Clone, Debug)]
pub(super) struct RecipientResult {
    pub outcome: Outcome,
    pub fault: Fault,
}

/// A session that took no more, until a new one shows that it was the session's doing.
struct Suspicion {
    carried: u32,
    said_so: bool,
}

impl State {
    /// Sends one mail to all of these recipients. `next` is begun behind it where that is safe.
    pub(super) async fn deliver(
        &mut self,
        mail: &Transaction,
        next: Option<&Transaction>,
    ) -> Result<Vec<RecipientResult>, Panic> {
        let mut judged: Vec<Option<RecipientResult>> = vec![None; mail.recipients.len()];
        let mut left: Vec<usize> = (0..mail.recipients.len()).collect();
        let mut suspicion: Option<Suspicion> = None;
        let mut ended_over = 0;
        let mut ended_at = Repeated::default();
        while !left.is_empty() {
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

            let mut accepted = outcomes.iter().filter(|one| was_accepted(one)).count();
            let mut is_limit = false;
            if outcomes.iter().any(Outcome::is_bystanders) {
                accepted = accepted_before_the_end(&outcomes);
                is_limit = ended_at.add(accepted) >= ENDED_AT_SAME && accepted >= LEAST_LIMIT;
                let is_alone = outcomes.iter().all(Outcome::is_bystanders);
                if is_alone || ended_over == ENDED_OVER {
                    share_the_end(&mut outcomes);
                } else {
                    ended_over += 1;
                    leave_out_bystanders(&mut part, &mut outcomes);
                    transaction = for_part(mail, &part);
                }
            }

            let mut faults = self.judge(&transaction, &outcomes, carried, accepted);
            if is_limit {
                let told = outcomes.iter().zip(&mut faults);
                let over = told.filter(|(one, _)| has_ended_over(one));
                over.for_each(|(_, fault)| *fault = Fault::Transaction);
            }
            // Where a new one ends over the same recipient, nothing was learned of the session.
            let was_the_session = faults.iter().all(|fault| {
                use Fault::{Destination, Relay, Session, Unclear};
                !matches!(fault, Session | Relay | Unclear | Destination)
            });
            if let Some(suspected) = suspicion.take().filter(|_| was_the_session) {
                self.memory
                    .session_ended(suspected.carried, suspected.said_so, now);
            }
            if let Some(taken) = taken_at_once(&outcomes, &faults, accepted) {
                self.memory.transaction_full(taken, now);
            }
            if faults.contains(&Fault::Session) {
                let said_so = outcomes.iter().zip(&faults).any(|(outcome, fault)| {
                    *fault == Fault::Session
                        && matches!(outcome, Outcome::Deferred(..) | Outcome::Rejected(..))
                });
                suspicion = Some(Suspicion { carried, said_so });
                self.close_connection().await;
            }

            let stops = faults
                .iter()
                .any(|fault| matches!(fault, Fault::Relay | Fault::InDoubt));
            for ((at, outcome), fault) in part.into_iter().zip(outcomes).zip(faults) {
                let again = matches!(fault, Fault::Session | Fault::Transaction);
                if !again || stops {
                    judged[at] = Some(RecipientResult { outcome, fault });
                    left.retain(|place| *place != at);
                }
            }
            if stops {
                break;
            }
        }

        // Those whose turn did not come go back as they were.
        let untried = || RecipientResult {
            outcome: Outcome::Unavailable(Phase::Connect, "the relay failed before it".into()),
            fault: Fault::Relay,
        };

        Ok(judged
            .into_iter()
            .map(|judged| judged.unwrap_or_else(untried))
            .collect())
    }

    /// Those of the recipients that go in the next transaction. A mail that was begun behind the
    /// one before it goes as it was begun.
    fn part(&self, mail: &Transaction, left: &[usize], now: Duration) -> Vec<usize> {
        let limit = match self.memory.transaction_limit(now) {
            Some(limit) if self.begun != Some(mail.mail) => limit.max(1),
            _ => usize::MAX,
        };
        left.iter().copied().take(limit).collect()
    }

    /// Whether the next mail may be begun behind this one: not where it would go in parts, on
    /// another connection, or to a domain that may have to rest.
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

    /// Whose fault each outcome was.
    fn judge(
        &self,
        mail: &Transaction,
        outcomes: &[Outcome],
        carried: u32,
        accepted: usize,
    ) -> Vec<Fault> {
        let mut before = 0;
        let mut faults = Vec::with_capacity(outcomes.len());
        for (outcome, to) in outcomes.iter().zip(&mail.recipients) {
            let has_accepted = match is_of_all(outcome) {
                true => accepted > 1,
                false if has_ended_over(outcome) => accepted > 0,
                false => before > 0,
            };
            let circumstances = Circumstances {
                has_carried_mail: carried > 0,
                has_accepted,
                ..Circumstances::default()
            };
            faults.push(self.memory.judge(outcome, circumstances, to, mail.mail));
            before += usize::from(was_accepted(outcome));
        }
        faults
    }

    /// One transaction over the open connection or a new one. A reused connection that the relay
    /// has closed meanwhile is replaced once, and nothing is held against the relay. Returns also
    /// how many mails the connection had carried before.
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

            // Whoever was not spoken of may have got it.
            let unspoken = Outcome::InDoubt("no outcome was given".into());
            outcomes.resize(mail.recipients.len(), unspoken);

            let unheard = outcomes
                .iter()
                .all(|outcome| matches!(outcome, Outcome::Unavailable(..)));
            let carried = open.carried;
            let stale = carried > 0 && unheard;
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

/// A mail for those of its recipients that go together.
fn for_part(mail: &Transaction, part: &[usize]) -> Transaction {
    let recipients = part.iter().map(|at| mail.recipients[*at].clone());
    mail.clone().for_recipients(recipients.collect())
}

/// Those over whom the connection did not end keep their turn.
fn leave_out_bystanders(part: &mut Vec<usize>, outcomes: &mut Vec<Outcome>) {
    let told = part.drain(..).zip(outcomes.drain(..));
    let told: Vec<_> = told
        .filter(|(_, outcome)| !outcome.is_bystanders())
        .collect();
    (*part, *outcomes) = told.into_iter().unzip();
}

/// What ended the connection is everybody's.
fn share_the_end(outcomes: &mut [Outcome]) {
    for outcome in outcomes {
        if let Outcome::Lost(phase @ Phase::MailFrom, _) = outcome {
            *phase = Phase::RcptTo;
        }
    }
}

/// How often in a row it was the same.
#[derive(Default)]
struct Repeated {
    number: usize,
    times: u32,
}

impl Repeated {
    fn add(&mut self, number: usize) -> u32 {
        self.times = match self.number == number {
            true => self.times + 1,
            false => 1,
        };
        self.number = number;
        self.times
    }
}

/// Whether the connection ended over this recipient.
fn has_ended_over(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Lost(Phase::RcptTo, _))
}

/// How many recipients had been accepted when the connection ended over another.
fn accepted_before_the_end(outcomes: &[Outcome]) -> usize {
    let over = outcomes.iter().rposition(|one| !one.is_bystanders());
    let before = outcomes.iter().take(over.unwrap_or(0));
    before.filter(|one| one.is_bystanders()).count()
}

/// How many recipients a transaction takes, where these outcomes teach it: as many as were
/// accepted, or half of them where that was too much for the server once it had counted. What it
/// said beforehand need not be learned.
fn taken_at_once(outcomes: &[Outcome], faults: &[Fault], accepted: usize) -> Option<usize> {
    let full = outcomes
        .iter()
        .zip(faults)
        .filter(|(_, fault)| **fault == Fault::Transaction);
    let mut full = full.map(|(outcome, _)| outcome).peekable();
    full.peek()?;

    if full.clone().any(is_of_all) {
        return Some(accepted / 2);
    }
    full.any(|one| one.refused_at() != Some(Phase::Local))
        .then_some(accepted)
}

/// Whether the server said this of all whom it had accepted.
fn is_of_all(outcome: &Outcome) -> bool {
    outcome
        .refused_at()
        .is_some_and(|at| (Phase::Data..=Phase::FinalDot).contains(&at))
}

/// Whether the server accepted this recipient, whatever it said of the message afterwards.
fn was_accepted(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Delivered(_) | Outcome::InDoubt(_) => true,
        Outcome::Deferred(phase, _) | Outcome::Rejected(phase, _) | Outcome::Lost(phase, _) => {
            (Phase::Data..=Phase::FinalDot).contains(phase)
        }
        _ => false,
    }
}
