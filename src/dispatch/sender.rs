//! A sender actor: owns one connection to one relay, takes mail by mail from its lane's stock, and
//! records each outcome at once.
//!
//! It never waits for the disk between mails: a small window bounds the outcomes that are still
//! being written, and with it the duplicates that a crash could cause.

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
use super::recording::{AttemptResult, Way};
use super::relay_memory::{ConnectionCount, RelayMemory};
use super::router;
use super::stock::{ClaimedMail, Stock};
use crate::delivery::{Fault, Outcome, Phase, Stage, TlsUse};
use crate::mail::{Guarantee, MailId};
use crate::spool::{Claim, SpoolError};
use crate::transport::{Connection, Recall, Transaction, Transport};

/// How many outcomes of one sender may be on their way to the disk.
const UNRECORDED: usize = 64;
/// After so many mails a sender says what it has learned, and hears what else there is.
const MAILS_PER_TURN: usize = 32;
/// How long a sender that finds out whether the relay is up again begins with one mail after the
/// other.
const LONGEST_PROBE: Duration = Duration::from_secs(10);

/// Names a sender among all that ever were.
pub(super) type SenderId = u64;

pub(super) enum Msg {
    /// A router introduces itself; it is told when the sender is free.
    Hello(ActorRef<router::Msg>),
    /// There is mail in the lane's stock.
    Work(InFlight),
    /// Time to look whether the connection has been unused for too long.
    Idle,
    /// Panic, for tests of what holds then.
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
    /// What all senders of this relay know of it.
    pub(super) memory: Arc<RelayMemory>,
    stock: Arc<Stock>,
    router: ActorRef<router::Msg>,
    pub(super) connection: Option<OpenConnection>,
    /// How the connection that was used last was secured.
    tls: Option<TlsUse>,
    /// The mail that was begun on it behind the one before.
    pub(super) begun: Option<MailId>,
    unrecorded: Arc<Semaphore>,
    /// The last mails over which the relay broke off before it answered MAIL, and how often.
    pub(super) turned_away: VecDeque<(MailId, u32)>,
    /// Whether a look at the connection's idleness is planned.
    watched: bool,
}

/// An open connection.
pub(super) struct OpenConnection {
    pub connection: Box<dyn Connection>,
    /// How many mails were put to it before: with any, the relay may have closed it meanwhile.
    pub carried: u32,
    pub last_used: Instant,
    /// It is counted while it is open.
    pub _counted: ConnectionCount,
    /// What is logged while it is used is told to be of it.
    pub span: Span,
}

/// What a transport that panicked left behind.
pub(super) type Panic = Box<dyn std::any::Any + Send>;

/// What a turn taught about the relay.
#[derive(Debug, Default)]
pub(super) struct TurnReport {
    /// It answered about a mail.
    pub answered: bool,
    /// It failed, after that.
    pub failed: Option<String>,
    /// So many mails of the turn were not put to it.
    pub unsent: usize,
}

/// How a turn may go on after a mail.
enum AfterMail {
    /// With the next one.
    Next,
    /// The relay failed over this mail, and does not have it: another may fare better.
    FailedOverIt,
    /// Not at all.
    Nothing,
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
            turned_away: VecDeque::new(),
            watched: false,
        })
    }

    async fn post_start(
        &self,
        myself: ActorRef<Msg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.say_free(&myself, TurnReport::default());
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
                state.say_free(&myself, TurnReport::default());
            }
            Msg::Work(_under_way) => {
                let batch = debug_span!("batch", relay = %state.relay, sender = state.id);
                let report = state.work().instrument(batch).await;
                state.say_free(&myself, report);
                state.watch_idleness(&myself);
            }
            Msg::Idle => {
                state.watched = false;
                state.close_if_idle().await;
                state.watch_idleness(&myself);
            }
            #[cfg(any(test, feature = "testing"))]
            Msg::Crash => panic!("a sender was told to crash"),
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
    fn say_free(&self, myself: &ActorRef<Msg>, report: TurnReport) {
        let free = router::Msg::Free {
            sender: self.id,
            relay: Arc::clone(&self.relay),
            actor: myself.clone(),
            report,
        };
        // A router that is gone is followed by one that says hello.
        let _ = self.router.cast(free);
    }

    /// Sends mail of the lane's stock until there is none for it, or a turn is over.
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
                AfterMail::Nothing => false,
            };
            // Once it has answered, the relay is up, and everybody may send.
            if !goes_on || (is_probe && report.answered) {
                break;
            }
        }

        if reserved.is_some() {
            self.stock.unreserve(self.id);
            self.take_back_what_was_begun().await;
        }

        report
    }

    /// The mail that was reserved, or else the next one of the stock.
    async fn next_mail(&mut self, reserved: Option<MailId>) -> Option<ClaimedMail> {
        if let Some(reserved) = reserved {
            if let Some(mail) = self.stock.resume(self.id) {
                return Some(mail);
            }
            // It went back, or another sender has it.
            if self.begun == Some(reserved) {
                self.take_back_what_was_begun().await;
            }
        }

        let taken = self.stock.take(self.id);
        if taken.wake_router {
            let _ = self.router.cast(router::Msg::Fill(Arc::clone(&self.relay)));
        }
        taken.mail
    }

    /// Sends one mail, unless it is not to be sent any more. Returns how to go on; `reserved` is the
    /// next one, where it was reserved.
    async fn send(
        &mut self,
        mail: ClaimedMail,
        is_last: bool,
        reserved: &mut Option<MailId>,
        report: &mut TurnReport,
    ) -> AfterMail {
        // However this ends, whoever waits for the mail looks again then.
        let _told = self.engine.waiters.tell_at_end(mail.manifest.id);
        report.unsent += 1;
        if !self.engine.may_begin(&self.relay) {
            // It goes back, and all that nobody has begun with it.
            drop(mail);
            self.stock.clear();
            self.take_back_what_was_begun().await;
            return AfterMail::Nothing;
        }

        let is_ours = |claim: &Claim| {
            let mut leases = claim.deliveries.iter();
            leases.all(|(lease, _)| self.engine.spool.holds(&lease.token()))
        };

        if !is_ours(&mail) {
            // Another node has it by now.
            drop(mail);
            self.take_back_what_was_begun().await;
            return AfterMail::Next;
        }

        let Some(mut claim) = self.eligible(mail.into_claim()).await else {
            return AfterMail::Next;
        };

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
                        // It goes back.
                        self.take_back_what_was_begun().await;
                        return AfterMail::Next;
                    }
                }
            }
        };

        let judged = match sent {
            Ok(judged) => judged,
            Err(panic) => {
                let crashed = RecipientResult {
                    outcome: Outcome::Crashed,
                    fault: Fault::Mail,
                };
                let judged = vec![crashed; claim.deliveries.len()];
                self.record(claim, judged).await;
                std::panic::resume_unwind(panic);
            }
        };

        let judged = self.learn(&transaction, judged);
        report.answered |= judged.iter().any(|one| speaks_for_the_relay(one.fault));
        let was_put = judged
            .iter()
            .any(|one| !matches!(one.outcome, Outcome::Unavailable(..)));
        report.unsent -= usize::from(was_put);
        let mail = transaction.mail;
        let failure = judged.iter().find(|one| match one.fault {
            Fault::Relay => true,
            Fault::InDoubt => !self.memory.ends_over(mail),
            _ => false,
        });
        let after = match failure {
            None => AfterMail::Next,
            Some(one) if is_over_mail(&one.outcome) => AfterMail::FailedOverIt,
            Some(_) => AfterMail::Nothing,
        };
        report.failed = failure.map(|one| describe(&one.outcome));
        self.record(claim, judged).await;
        if report.failed.is_some() {
            // It may be this session, or this address: the next one is another.
            self.close_connection().await;
        }
        after
    }

    /// A mail may have been begun together with the one before: only closing the connection takes
    /// that back.
    pub(super) async fn take_back_what_was_begun(&mut self) {
        self.close_connection().await;
    }

    pub(super) async fn close_connection(&mut self) {
        self.begun = None;
        if let Some(open) = self.connection.take() {
            open.connection.close().await;
        }
    }

    /// Opens a connection, unless one is open that can be used. A transport that panics here ends
    /// the sender and is held against no mail: it goes back as it was.
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
        // It outlives the batch it is opened for.
        let span = debug_span!(parent: None, "connection", relay = %self.relay, sender = self.id);
        let connecting = self.transport.connect().instrument(span.clone());
        let connection = connecting.await?;
        self.tls = connection.tls();
        tracing::debug!(parent: &span, tls = ?self.tls, "connected");
        self.connection = Some(OpenConnection {
            connection,
            carried: 0,
            last_used: Instant::now(),
            _counted: self.memory.opened(),
            span,
        });

        Ok(())
    }

    /// Sends a mail that must not be sent twice: that it may have been sent is on disk before it
    /// can be. `None` where it could not be brought there, and the mail is not sent.
    async fn send_once(
        &mut self,
        claim: &mut Claim,
        mail: &Transaction,
        next: Option<&Transaction>,
    ) -> Option<Result<Vec<RecipientResult>, Panic>> {
        if let Err(outcome) = self.connect().await {
            let fault = Fault::Relay;
            return Some(Ok(vec![
                RecipientResult { outcome, fault };
                mail.recipients.len()
            ]));
        }

        let leases = claim.deliveries.iter();
        let tokens = leases.map(|(lease, _)| lease.token()).collect();
        match self.engine.spool.mark(tokens).await {
            Ok(()) => {}
            // Somebody else has it.
            Err(SpoolError::StaleLease) => return None,
            Err(error) => {
                tracing::error!(mail.id = %mail.mail, %error, "what is to be sent once could not be marked");
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

    async fn record(&mut self, claim: Claim, judged: Vec<RecipientResult>) {
        // The semaphore is never closed; a permit that could not be had would only widen the
        // window.
        let window = Arc::clone(&self.unrecorded).acquire_owned().await.ok();
        let results = claim.deliveries.into_iter().zip(judged);
        let results = results.map(|((lease, delivery), judged)| AttemptResult {
            lease,
            delivery,
            outcome: judged.outcome,
            fault: judged.fault,
        });
        let way = Way {
            relay: &self.relay,
            tls: self.tls.as_ref(),
        };
        self.engine
            .record(way, &claim.manifest, results.collect(), window);
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
            && !self.watched
        {
            self.watched = true;
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

/// Whether the relay was asked about a mail, and does not have it.
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
