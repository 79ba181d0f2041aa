//! Sends mail without the queue: one synchronous attempt over a connection of its own.

use bytes::Bytes;

use super::engine::Engine;
use super::suppressions::AddressedMail;
use super::topology::Topology;
use super::{Error, OnSpoolFailure, Receipt, SentNow};
use crate::delivery::{Circumstances, Fault, Outcome, Phase, Reply, Route, transaction};
use crate::mail::{Address, Guarantee, Mail};
use crate::spool::Durability;
use crate::transport::{Connection, Recall, Transaction, Transport};

/// Whether a mail that the spool could not store can be sent directly instead. It must not be sent
/// twice or too early. A mail with an idempotency key could not be remembered; a mail that is in
/// the spool may be sent from there. `was_refusing`: the spool was refusing mail before this one.
pub(super) async fn may_replace_the_spool(
    engine: &Engine,
    mail: &Mail,
    was_refusing: bool,
) -> bool {
    let options = mail.options();
    let now = engine.clock.now();
    let is_plain = options.idempotency_key.is_none()
        && options.send.is_none_or(|send| send.resolve(now) <= now);

    // If the spool was already refusing mail, this one is not in it; if it failed during the write,
    // it may be.
    let may_be_doubled = options.guarantee == Guarantee::AtLeastOnce;
    if !is_plain || !(was_refusing || may_be_doubled) {
        return false;
    }
    match engine.spool.get(mail.id()).await {
        Ok(record) => record.is_none(),
        Err(_) => may_be_doubled,
    }
}

fn transaction(mail: &Mail, recipients: Vec<Address>, message: Bytes) -> Transaction {
    Transaction {
        mail: mail.id(),
        return_path: mail.envelope().return_path().cloned(),
        recipients,
        message,
        eight_bit: mail.is_eight_bit(),
        smtputf8: mail.needs_smtputf8(),
        recall: Recall::default(),
    }
}

pub(super) struct Direct {
    on_spool_failure: OnSpoolFailure,
}

impl Direct {
    pub(super) fn new(on_spool_failure: OnSpoolFailure) -> Self {
        Direct { on_spool_failure }
    }

    /// Whether mail is sent directly while the spool accepts none.
    pub(super) fn is_chosen(&self) -> bool {
        self.on_spool_failure == OnSpoolFailure::Direct
    }

    /// Sends a mail that the spool could not store. Returns a receipt if a relay accepted it for
    /// every recipient.
    pub(super) async fn submit(&self, engine: &Engine, mail: Mail) -> Result<Receipt, Error> {
        let sent = self.send(engine, &mail).await?;
        let failed = sent
            .outcomes
            .iter()
            .find(|(_, outcome)| !matches!(outcome, Outcome::Delivered(_)));

        match failed {
            None => Ok(Receipt {
                id: sent.id,
                durability: Durability::Direct,
                duplicate: false,
                suppressed: Vec::new(),
            }),
            Some((recipient, outcome)) => Err(Error::NotSent {
                recipient: recipient.to_string(),
                outcome: format!("{outcome:?}"),
            }),
        }
    }

    pub(super) async fn send(&self, engine: &Engine, mail: &Mail) -> Result<SentNow, Error> {
        let topology = engine.topology();
        let options = mail.options();
        let asked = AddressedMail {
            list: options.list.as_deref(),
            priority: options.priority,
            recipients: mail.envelope().recipients().to_vec(),
        };
        // Direct sending must also work while the spool cannot be read.
        let suppressed = match engine.suppressed(&[asked]).await {
            Ok(suppressed) => suppressed.into_iter().next().unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "sent without checking the suppression list");
                Default::default()
            }
        };

        let mut outcomes = Vec::new();
        let mut groups: Vec<(Route, Vec<Address>)> = Vec::new();
        for (place, recipient) in (0u16..).zip(mail.envelope().recipients()) {
            if suppressed.contains(&place) {
                let reply = Reply::new(550, "5.7.1 suppressed: this address is not to get mail");
                outcomes.push((recipient.clone(), Outcome::Rejected(Phase::Local, reply)));
                continue;
            }
            let route = topology.rules.resolve(
                mail.envelope().return_path(),
                recipient,
                &options.tags,
                options.priority,
            );
            let route = route.ok_or_else(|| Error::NoRoute(recipient.to_string()))?;
            match groups.iter_mut().find(|(known, _)| known == route) {
                Some((_, recipients)) => recipients.push(recipient.clone()),
                None => groups.push((route.clone(), vec![recipient.clone()])),
            }
        }

        let unsubscribing = engine.unsubscribing.as_ref();
        let list = unsubscribing.zip(mail.options().list.as_ref());
        for (route, recipients) in groups {
            if let Some((_, list)) = list {
                // Each recipient gets a link of their own.
                for one in recipients {
                    // The mail is not stored, so its delivery cannot be looked up by an index.
                    let delivery = (mail.id(), 0);
                    let message = engine.with_list(mail.message(), delivery, &one, Some(list));
                    let alone = transaction(mail, vec![one.clone()], message);
                    let learned = self.send_over(engine, &topology, &route, &alone).await;
                    outcomes.extend(std::iter::once(one).zip(learned));
                }
                continue;
            }
            let transaction = transaction(mail, recipients.clone(), mail.message().clone());
            let learned = self
                .send_over(engine, &topology, &route, &transaction)
                .await;
            outcomes.extend(recipients.into_iter().zip(learned));
        }

        Ok(SentNow {
            id: mail.id(),
            outcomes,
        })
    }

    /// Tries each relay of the route that is not paused, until one has answered about the mail.
    /// Recipients about whom a relay said nothing are tried at the next one; a refusal that is not
    /// about the mail does not count as an answer.
    async fn send_over(
        &self,
        engine: &Engine,
        topology: &Topology,
        route: &Route,
        transaction: &Transaction,
    ) -> Vec<Outcome> {
        let unreachable = Outcome::Unavailable(
            Phase::Local,
            "its route has no relay that is not paused".into(),
        );

        let mut outcomes = vec![unreachable; transaction.recipients.len()];
        let mut left: Vec<usize> = (0..outcomes.len()).collect();
        for relay in route.relays().filter(|relay| !engine.is_paused(relay)) {
            let Some(plan) = topology.relay(relay) else {
                continue;
            };
            let to = left.iter().map(|at| transaction.recipients[*at].clone());
            let part = transaction.clone().for_recipients(to.collect());
            let learned = send_to_all(&*plan.transport, &part).await;
            for (at, outcome) in left.iter().zip(learned) {
                outcomes[*at] = outcome;
            }
            left.retain(|at| is_for_the_next_relay(&outcomes[*at]));
            if left.is_empty() {
                break;
            }
        }

        outcomes
    }
}

/// Sends a mail in as many transactions as the relay's limits require, and over a new connection if
/// only the old one was the cause of a failure.
///
/// *Invariant:* each further transaction has fewer recipients than the one before, or a new
/// connection, so that the loop ends.
async fn send_to_all(transport: &dyn Transport, mail: &Transaction) -> Vec<Outcome> {
    let untried = Outcome::Unavailable(Phase::Connect, "the relay failed before it".into());
    let mut outcomes = vec![untried; mail.recipients.len()];
    let mut left: Vec<usize> = (0..outcomes.len()).collect();
    let mut open: Option<(Box<dyn Connection>, u32)> = None;

    while !left.is_empty() {
        let (mut connection, carried) = match open.take() {
            Some(open) => open,
            None => match transport.connect().await {
                Ok(connection) => (connection, 0),
                Err(outcome) => {
                    left.iter().for_each(|at| outcomes[*at] = outcome.clone());
                    return outcomes;
                }
            },
        };

        let to = left.iter().map(|at| mail.recipients[*at].clone());
        let part = mail.clone().for_recipients(to.collect());
        let learned = connection.send(&part, None).await;
        let accepted = transaction::accepted(&learned);
        let faults: Vec<Fault> = learned
            .iter()
            .zip(transaction::circumstances(&learned, carried, accepted))
            .map(|(outcome, here)| outcome.judge(here).fault)
            .collect();

        // The connection was closed by the server before it was asked.
        let is_stale = carried > 0
            && learned
                .iter()
                .all(|outcome| matches!(outcome, Outcome::Unavailable(..)));

        let mut again = Vec::new();
        for ((at, outcome), fault) in left.iter().zip(learned).zip(&faults) {
            outcomes[*at] = outcome;
            if is_stale || matches!(fault, Fault::Session | Fault::Transaction) {
                again.push(*at);
            }
        }

        let has_new_session = !connection.is_usable() || faults.contains(&Fault::Session);
        let goes_on = again.len() < left.len() || (has_new_session && carried > 0);
        left = if goes_on { again } else { Vec::new() };
        match has_new_session || left.is_empty() {
            true => connection.close().await,
            false => open = Some((connection, carried + 1)),
        }
    }

    outcomes
}

/// Whether the route's next relay may accept what this one did not: the cause is not the mail, or
/// this relay cannot accept it by its announced limits.
fn is_for_the_next_relay(outcome: &Outcome) -> bool {
    let is_local = matches!(outcome, Outcome::Rejected(Phase::Local, _));
    is_local || outcome.judge(Circumstances::default()).fault == Fault::Relay
}
