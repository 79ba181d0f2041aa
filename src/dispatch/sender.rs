//! A sender actor: owns one connection to one relay, takes mail after mail from its lane's stock,
//! and records each outcome at once.
//!
//! It does not wait for the disk between mails. The number of outcomes that are still being written
//! is limited, which also limits the duplicates that a crash can cause.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{Instrument, Span, debug_span};

use super::delivering::RecipientResult;
use super::engine::{Engine, InFlight};
use super::learning::{describe, speaks_for_the_relay};
use super::recording::{AttemptResult, RelayPath};
use super::relay_memory::{ConnectionCount, RelayMemory};
use super::router;
use super::stock::{ClaimedMail, Stock};
use crate::delivery::{Fault, Outcome, Phase, Stage, TlsUse};
use crate::mail::{Guarantee, MailId};
use crate::spool::{Claim, SpoolError};
use crate::transport::{Connection, Recall, Transaction, Transport};

/// The most outcomes of a sender that may wait to be written to disk.
const UNRECORDED: usize = 64;
/// After this many mails a sender ends its turn: it reports to the router and handles its messages.
const MAILS_PER_TURN: usize = 32;
/// How long a sender that probes a relay continues with the next mail after a mail that made the
/// relay fail.
const LONGEST_PROBE: Duration = Duration::from_secs(10);

/// Identifies a sender; never reused within the process.
pub(super) type SenderId = u64;

pub(super) enum Msg {
    /// A new router, to be notified when this sender is free.
    Hello(ActorRef<router::Msg>),
    /// There is mail in the lane's stock.
    Work(InFlight),
    /// Check whether the connection has been idle for too long.
    Idle,
    /// Panics, for tests.
    #[cfg(any(test, feature = "testing"))]
    Crash,
}

pub(super) struct Args {
    pub id: SenderId,
    pub relay: Arc<str>,
    pub transport: Arc<dyn Transport>,
    pub idle_timeout: Duration,
    pub engine: Arc<Engine>,
    pub memory: Arc<RelayMemory>,
    pub router: ActorRef<router::Msg>,
}

pub(super) struct State {
    id: SenderId,
    pub(super) relay: Arc<str>,
    transport: Arc<dyn Transport>,
    idle_timeout: Duration,
    pub(super) engine: Arc<Engine>,
    /// What was learned about this relay, shared by all its senders.
    pub(super) memory: Arc<RelayMemory>,
    stock: Arc<Stock>,
    router: ActorRef<router::Msg>,
    pub(super) connection: Option<OpenConnection>,
    /// How the connection that was used last was secured.
    tls: Option<TlsUse>,
    /// The mail whose commands were pipelined after the mail before.
    pub(super) begun: Option<MailId>,
    unrecorded: Arc<Semaphore>,
    /// The last mails over which the relay hung up before it answered MAIL, and how often.
    pub(super) hang_ups: VecDeque<(MailId, u32)>,
    /// Whether a [`Msg::Idle`] is scheduled.
    idle_check_scheduled: bool,
}

/// An open connection.
pub(super) struct OpenConnection {
    pub connection: Box<dyn Connection>,
    /// How many mails were sent over it; after the first one, the relay may have closed it
    /// meanwhile.
    pub carried: u32,
    pub last_used: Instant,
    /// Counts this connection as open until it is dropped.
    pub _counted: ConnectionCount,
    /// The span for log messages while the connection is used.
    pub span: Span,
}

/// The payload of a panic in a transport.
pub(super) type Panic = Box<dyn std::any::Any + Send>;

/// What a turn has shown about the relay.
#[derive(Debug, Default)]
pub(super) struct TurnReport {
    /// The relay answered about a mail.
    pub answered: bool,
    /// Why the relay failed at the end of the turn, if it did.
    pub failed: Option<String>,
    /// How many mails of the turn were not sent to the relay.
    pub unsent: usize,
}

/// How a turn continues after a mail.
enum AfterMail {
    /// With the next mail.
    Next,
    /// The relay failed over this mail and has not accepted it. Another mail may succeed, so a
    /// probe tries the next one.
    FailedOverIt,
    /// The turn ends.
    Stop,
}

pub(super) struct Sender;

impl Actor for Sender {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, _: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        let Args {
            id,
            relay,
            transport,
            idle_timeout,
            engine,
            memory,
            router,
        } = args;
        let unrecorded = Arc::new(Semaphore::new(UNRECORDED));

        let stock = engine.stocks.of(&relay);
        Ok(State {
            id,
            relay,
            transport,
            idle_timeout,
            engine,
            memory,
            stock,
            router,
            connection: None,
            tls: None,
            begun: None,
            unrecorded,
            hang_ups: VecDeque::new(),
            idle_check_scheduled: false,
        })
    }

    async fn post_start(
        &self,
        myself: ActorRef<Msg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.report_free(&myself, TurnReport::default());
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        msg: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Hello(router) => {
                state.router = router;
                state.report_free(&myself, TurnReport::default());
            }
            Msg::Work(_under_way) => {
                let batch = debug_span!("batch", relay = %state.relay, sender = state.id);
                let report = state.work().instrument(batch).await;
                state.report_free(&myself, report);
                state.watch_idleness(&myself);
            }
            Msg::Idle => {
                state.idle_check_scheduled = false;
                state.close_if_idle().await;
                state.watch_idleness(&myself);
            }
            #[cfg(any(test, feature = "testing"))]
            Msg::Crash => panic!("crashed by a test"),
        }

        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<Msg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(open) = state.connection.take() {
            open.connection.close().await;
        }
        Ok(())
    }
}

impl State {
    fn report_free(&self, myself: &ActorRef<Msg>, report: TurnReport) {
        let free = router::Msg::Free {
            sender: self.id,
            relay: Arc::clone(&self.relay),
            actor: myself.clone(),
            report,
        };
        // If the router has ended, the new one sends `Hello`.
        let _ = self.router.cast(free);
    }

    /// One turn: sends mail from the lane's stock until there is none for this sender, the relay
    /// fails, or [`MAILS_PER_TURN`] mails are sent.
    async fn work(&mut self) -> TurnReport {
        let mut report = TurnReport::default();
        let mut reserved = None;
        let begun = Instant::now();
        let is_probe = self.stock.is_probed_by(self.id);

        for turn in 1..=MAILS_PER_TURN {
            let Some(mail) = self.next_mail(reserved.take()).await else {
                break;
            };
            let was_critical = mail.is_critical();
            let is_last = turn == MAILS_PER_TURN || is_probe;
            let after = self.send(mail, is_last, &mut reserved, &mut report).await;
            self.stock.finished(self.id, was_critical);

            let goes_on = match after {
                AfterMail::Next => true,
                AfterMail::FailedOverIt => is_probe && begun.elapsed() < LONGEST_PROBE,
                AfterMail::Stop => false,
            };
            // A probe ends with the first answer: the relay is up, and all senders may send.
            if !goes_on || (is_probe && report.answered) {
                break;
            }
        }

        if reserved.is_some() {
            self.stock.unreserve(self.id);
            self.abandon_pipelined().await;
        }

        report
    }

    /// The mail that was reserved, or else the next one from the stock.
    async fn next_mail(&mut self, reserved: Option<MailId>) -> Option<ClaimedMail> {
        if let Some(reserved) = reserved {
            if let Some(mail) = self.stock.resume(self.id) {
                return Some(mail);
            }
            // It was returned to the spool, or another sender took it.
            if self.begun == Some(reserved) {
                self.abandon_pipelined().await;
            }
        }

        let taken = self.stock.take(self.id);
        if taken.wake_router {
            let _ = self.router.cast(router::Msg::Fill(Arc::clone(&self.relay)));
        }
        taken.mail
    }

    /// Sends one mail, unless it must not be sent any more, and records the outcomes. Returns how
    /// the turn continues. If the next mail was reserved for this sender, `reserved` is set to it.
    async fn send(
        &mut self,
        mail: ClaimedMail,
        is_last: bool,
        reserved: &mut Option<MailId>,
        report: &mut TurnReport,
    ) -> AfterMail {
        // However this function ends, callers that wait for the mail are notified then.
        let _notifies = self.engine.waiters.notify_at_end(mail.manifest.id);
        report.unsent += 1;

        if !self.engine.may_begin(&self.relay) {
            // This mail returns to the spool, with all mail that no sender has started.
            drop(mail);
            self.stock.clear();
            self.abandon_pipelined().await;
            return AfterMail::Stop;
        }
        if !self.holds_leases(&mail) {
            // Another node has taken over the mail.
            drop(mail);
            self.abandon_pipelined().await;
            return AfterMail::Next;
        }
        let Some(mut claim) = self.eligible(mail.into_claim()).await else {
            return AfterMail::Next;
        };

        // The next mail is reserved before this one is sent, so that its commands can be sent with
        // the end of this one.
        let transaction = self.transaction(&claim);
        let next = match is_last {
            true => None,
            false => self.stock.reserve(self.id, |claim| self.transaction(claim)),
        };
        *reserved = next.as_ref().map(|next| next.mail);

        let sent = match claim.manifest.guarantee {
            Guarantee::AtLeastOnce => self.deliver(&transaction, next.as_ref()).await,
            Guarantee::AtMostOnce => {
                let next = next.as_ref();
                match self.send_once(&mut claim, &transaction, next).await {
                    Some(sent) => sent,
                    None => {
                        // The mail was not sent; dropping the claim releases its leases.
                        self.abandon_pipelined().await;
                        return AfterMail::Next;
                    }
                }
            }
        };

        let results = match sent {
            Ok(results) => results,
            Err(panic) => {
                let crashed = RecipientResult {
                    outcome: Outcome::Crashed,
                    fault: Fault::Mail,
                };
                let results = vec![crashed; claim.deliveries.len()];
                self.record(claim, results).await;
                std::panic::resume_unwind(panic);
            }
        };

        let results = self.learn(&transaction, results);
        let after = self.assess(transaction.mail, &results, report);
        self.record(claim, results).await;

        if report.failed.is_some() {
            // This session or this network address may be the cause: the next mail gets a new
            // connection.
            self.close_connection().await;
        }
        after
    }

    /// Whether this node still holds the leases of all deliveries of a claim.
    fn holds_leases(&self, claim: &Claim) -> bool {
        let mut leases = claim.deliveries.iter();
        leases.all(|(lease, _)| self.engine.spool.holds(&lease.token()))
    }

    /// Adds to the turn's report what a mail's results say about the relay, and decides how the
    /// turn continues.
    fn assess(
        &self,
        mail: MailId,
        results: &[RecipientResult],
        report: &mut TurnReport,
    ) -> AfterMail {
        report.answered |= results.iter().any(|one| speaks_for_the_relay(one.fault));

        let was_asked = results
            .iter()
            .any(|one| !matches!(one.outcome, Outcome::Unavailable(..)));
        report.unsent -= usize::from(was_asked);

        let failure = results.iter().find(|one| match one.fault {
            Fault::Relay => true,
            Fault::InDoubt => !self.memory.record_end_over(mail),
            _ => false,
        });
        report.failed = failure.map(|one| describe(&one.outcome));

        match failure {
            None => AfterMail::Next,
            Some(one) if is_over_mail(&one.outcome) => AfterMail::FailedOverIt,
            Some(_) => AfterMail::Stop,
        }
    }

    /// Takes back commands that may have been pipelined for a mail that is not sent now. Only
    /// closing the connection can do that.
    pub(super) async fn abandon_pipelined(&mut self) {
        self.close_connection().await;
    }

    pub(super) async fn close_connection(&mut self) {
        self.begun = None;
        if let Some(open) = self.connection.take() {
            open.connection.close().await;
        }
    }

    /// Opens a connection, unless a usable one is open. If the transport panics here, the sender
    /// ends and the mail returns to the queue unchanged: no crash is counted against it.
    pub(super) async fn connect(&mut self) -> Result<(), Outcome> {
        if self
            .connection
            .as_ref()
            .is_some_and(|open| open.connection.is_usable())
        {
            return Ok(());
        }

        self.connection = None;
        self.tls = None;
        // Without a parent: the connection is used by further batches.
        let span = debug_span!(parent: None, "connection", relay = %self.relay, sender = self.id);
        let connecting = self.transport.connect().instrument(span.clone());
        let connection = connecting.await?;
        self.tls = connection.tls();
        self.memory.set_announced(connection.announced());
        tracing::debug!(parent: &span, tls = ?self.tls, "connected");
        self.connection = Some(OpenConnection {
            connection,
            carried: 0,
            last_used: Instant::now(),
            _counted: self.memory.count_connection(),
            span,
        });

        Ok(())
    }

    /// Sends at-most-once mail. Before it is sent, a mark on disk records that it may have been.
    /// Returns `None` if the mark could not be written; the mail is not sent then.
    async fn send_once(
        &mut self,
        claim: &mut Claim,
        mail: &Transaction,
        next: Option<&Transaction>,
    ) -> Option<Result<Vec<RecipientResult>, Panic>> {
        if let Err(outcome) = self.connect().await {
            let unreachable = RecipientResult {
                outcome,
                fault: Fault::Relay,
            };
            return Some(Ok(vec![unreachable; mail.recipients.len()]));
        }

        let leases = claim.deliveries.iter();
        let tokens = leases.map(|(lease, _)| lease.token()).collect();
        match self.engine.spool.mark(tokens).await {
            Ok(()) => {}
            // Another sender or node holds the mail.
            Err(SpoolError::StaleLease) => return None,
            Err(error) => {
                tracing::error!(
                    mail.id = %mail.mail,
                    %error,
                    "cannot mark at-most-once mail as being sent, so it is not sent now"
                );
                self.engine.spool_failed();
                return None;
            }
        }

        for (_, delivery) in &mut claim.deliveries {
            if let Stage::Pending { due } = delivery.stage {
                delivery.stage = Stage::Committing { due };
            }
        }

        Some(self.deliver(mail, next).await)
    }

    /// Records the outcomes, without waiting for the disk unless too many are unwritten.
    async fn record(&mut self, claim: Claim, results: Vec<RecipientResult>) {
        // The semaphore is never closed; without a permit there would only be one more unwritten
        // outcome.
        let permit = Arc::clone(&self.unrecorded).acquire_owned().await.ok();

        let attempts = claim.deliveries.into_iter().zip(results);
        let attempts = attempts.map(|((lease, delivery), result)| AttemptResult {
            lease,
            delivery,
            outcome: result.outcome,
            fault: result.fault,
        });
        let path = RelayPath {
            relay: &self.relay,
            tls: self.tls.as_ref(),
        };
        self.engine
            .record(path, &claim.manifest, attempts.collect(), permit);
    }

    fn transaction(&self, claim: &Claim) -> Transaction {
        let manifest = &claim.manifest;
        let (engine, mail, expires_at) =
            (Arc::clone(&self.engine), manifest.id, manifest.expires_at);

        let recipients = claim.deliveries.iter();
        let recipients = recipients.map(|(_, delivery)| delivery.recipient.clone());
        let whole = Transaction {
            mail,
            return_path: self.engine.return_path(claim),
            recipients: Vec::new(),
            message: self.engine.personal_message(claim),
            eight_bit: manifest.eight_bit,
            smtputf8: manifest.smtputf8,
            recall: Recall::when(move || {
                engine.recalls.is_recalled(mail) || engine.clock.now() >= expires_at
            }),
        };

        whole.for_recipients(recipients.collect())
    }

    fn watch_idleness(&mut self, myself: &ActorRef<Msg>) {
        if let Some(open) = &self.connection
            && !self.idle_check_scheduled
        {
            self.idle_check_scheduled = true;
            myself.send_after(
                self.idle_timeout.saturating_sub(open.last_used.elapsed()),
                || Msg::Idle,
            );
        }
    }

    async fn close_if_idle(&mut self) {
        if self
            .connection
            .as_ref()
            .is_some_and(|open| open.last_used.elapsed() >= self.idle_timeout)
        {
            self.close_connection().await;
        }
    }
}

/// Whether the relay was asked to accept the mail and has not accepted it.
fn is_over_mail(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Unavailable(phase, _) | Outcome::Lost(phase, _) => {
            (Phase::MailFrom..Phase::Body).contains(phase)
        }
        Outcome::Deferred(phase, _) | Outcome::Rejected(phase, _) => {
            (Phase::MailFrom..=Phase::FinalDot).contains(phase)
        }
        _ => false,
    }
}
