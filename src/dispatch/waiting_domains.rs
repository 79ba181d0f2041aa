//! The pending deliveries of a relay by recipient domain, to find the domains that delay it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::relays::Relays;
use super::{Dispatcher, Error};
use crate::delivery::{Delivery, State};
use crate::mail::Timestamp;
use crate::spool::Query;

/// How many mails are read at once.
const STEP_MAILS: usize = 1000;
/// The most mails that are read, and how long reading may take; the mail that is due last is left
/// out.
const MOST_LOOKED_AT: usize = 1_000_000;
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(4);
/// The most domains in the result.
const MOST_DOMAINS: usize = 1000;

/// The pending deliveries of one relay to one domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct WaitingDomain {
    /// The recipients' domain.
    pub domain: String,
    /// The number of pending deliveries.
    pub count: u64,
    /// How many of them are due.
    pub queued: u64,
    /// How many are being sent.
    pub sending: u64,
    /// How many are deferred.
    pub deferred: u64,
    /// How many are scheduled for later.
    pub scheduled: u64,
    /// When the oldest of these mails was accepted.
    pub oldest_at: Timestamp,
    /// The search that finds them.
    pub q: String,
}

/// The pending deliveries of a relay, the domain with the most first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct WaitingDomains {
    /// The relay; deliveries are counted if their route begins with it.
    pub relay: String,
    /// The domains, at most a thousand.
    pub domains: Vec<WaitingDomain>,
    /// The number of deliveries to further domains.
    pub others: u64,
    /// Whether all pending mail was read; if not, the mail that is due first was.
    pub complete: bool,
}

impl Relays<'_> {
    /// The pending deliveries of a relay by recipient domain, counted as in its backlog.
    ///
    /// # Errors
    /// [`Error::UnknownRelay`], [`Error::Spool`], or [`Error::Stopped`].
    pub async fn domains(&self, name: &str) -> Result<WaitingDomains, Error> {
        self.check(name).await?;
        self.dispatcher().waiting_domains(name).await
    }
}

impl Dispatcher {
    async fn waiting_domains(&self, relay: &str) -> Result<WaitingDomains, Error> {
        let mut found = DomainTally::default();
        let mut complete = true;
        let mut left = MOST_LOOKED_AT;
        let states = [
            State::Sending,
            State::Queued,
            State::Deferred,
            State::Scheduled,
        ];
        // Each state gets a share of the time, because a state without matches costs a walk through
        // all pending mail.
        let share = LOOKUP_TIMEOUT / states.len() as u32;
        let mut until = Instant::now();

        for state in states {
            until = until.max(Instant::now()) + share;
            let query = Query {
                state: Some(state),
                ..Query::default()
            };
            let mut pages = self.inner.engine.pages(query, STEP_MAILS);
            while left > 0
                && Instant::now() < until
                && let Some((records, now)) = pages.next().await?
            {
                left = left.saturating_sub(records.len());
                for record in &records {
                    let accepted_at = record.manifest.accepted_at;
                    for (delivery, is) in record.deliveries.iter().zip(record.states(now)) {
                        let is_first = delivery.route.relays().next() == Some(relay);
                        if is == state && is_first {
                            found.add(relay, state, accepted_at, delivery);
                        }
                    }
                }
            }
            complete &= pages.are_over();
        }

        Ok(WaitingDomains {
            relay: relay.to_owned(),
            others: found.others,
            complete,
            domains: found.sorted(),
        })
    }
}

#[derive(Default)]
struct DomainTally {
    domains: HashMap<String, WaitingDomain>,
    others: u64,
}

impl DomainTally {
    fn add(&mut self, relay: &str, state: State, accepted_at: Timestamp, delivery: &Delivery) {
        let domain = delivery.recipient.domain().to_lowercase();
        if !self.domains.contains_key(&domain) && self.domains.len() >= MOST_DOMAINS {
            self.others += 1;
            return;
        }

        let found = self
            .domains
            .entry(domain)
            .or_insert_with_key(|domain| WaitingDomain {
                domain: domain.clone(),
                count: 0,
                queued: 0,
                sending: 0,
                deferred: 0,
                scheduled: 0,
                oldest_at: accepted_at,
                q: format!(
                    "domain:\"{domain}\" relay:\"{relay}\" state:queued,sending,deferred,scheduled"
                ),
            });
        found.count += 1;
        found.oldest_at = found.oldest_at.min(accepted_at);
        match state {
            State::Queued => found.queued += 1,
            State::Sending => found.sending += 1,
            State::Deferred => found.deferred += 1,
            _ => found.scheduled += 1,
        }
    }

    fn sorted(self) -> Vec<WaitingDomain> {
        let mut domains: Vec<WaitingDomain> = self.domains.into_values().collect();
        domains.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.domain.cmp(&b.domain)));
        domains
    }
}
