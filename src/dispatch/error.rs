//! The errors of the dispatcher.

use std::time::Duration;

use crate::mail::{Address, MailError, MailId, Submitter};
use crate::policy::Rate;
use crate::spool::SpoolError;
use crate::transport::RelayError;

/// Why the dispatcher cannot do what was requested. If a mail was submitted, it was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The mail is not valid, or too large.
    #[error(transparent)]
    Mail(#[from] MailError),
    /// As many mails are pending as are allowed.
    #[error(
        "the queue is full: {pending} deliveries are pending, the maximum is {max}; try again later"
    )]
    Full {
        /// How many deliveries are pending.
        pending: u64,
        /// The maximum.
        max: u64,
    },
    /// The spool stores as much as is allowed.
    #[error(
        "the spool is full: it stores {kept} bytes, the maximum is {max} (`spool.max_size`); try \
         again later"
    )]
    SpoolFull {
        /// About how many bytes are stored.
        kept: u64,
        /// The maximum.
        max: u64,
    },
    /// The submitter has used up a quota.
    #[error("{who} {limit}; again in {}", humantime::format_duration(*.again_in))]
    Quota {
        /// The submitter.
        who: Submitter,
        /// The quota.
        limit: QuotaLimit,
        /// When to try again, in whole seconds.
        again_in: Duration,
    },
    /// The submitter may not send from this address.
    #[error("{who} may not send from {address}")]
    SenderRefused {
        /// The submitter.
        who: Submitter,
        /// The return path, or the address in From or Sender.
        address: Address,
    },
    /// The idempotency key belongs to a mail with other content.
    #[error("the idempotency key was used before for mail {0}, which has other content")]
    KeyReused(MailId),
    /// No route matches this recipient.
    #[error("no route matches the recipient {0}; add a route without `match` as the default")]
    NoRoute(String),
    /// The spool could not store the mail, and sending it directly failed for a recipient.
    #[error("the mail for {recipient} was not sent: {outcome}")]
    NotSent {
        /// The first recipient for whom it failed.
        recipient: String,
        /// The relay's answer.
        outcome: String,
    },
    /// The spool cannot be read or written.
    #[error(transparent)]
    Spool(SpoolError),
    /// There is no such mail.
    #[error("there is no mail {0}")]
    UnknownMail(MailId),
    /// No mail has this name: not as the start of its id, nor as its key, Message-ID or sender.
    #[error(
        "no mail has an id that begins with `{}`, or has that key, Message-ID or sender",
        .0.escape_debug()
    )]
    UnknownName(String),
    /// Several mails have this name.
    #[error(
        "`{}` fits several mails: {}; name one by more of its id",
        .name.escape_debug(),
        all(mails)
    )]
    Ambiguous {
        /// The name.
        name: String,
        /// Some of them, the newest first.
        mails: Vec<MailId>,
    },
    /// Only a part of the mail was searched for a name; more mails may have it.
    #[error("{}", not_all_seen(name, *looked_at, *mail))]
    NotAllSeen {
        /// The name.
        name: String,
        /// How many mails were searched.
        looked_at: u64,
        /// The mail that was found, if one was.
        mail: Option<MailId>,
        /// The cursor with which to continue.
        next: String,
    },
    /// The message of this mail is no longer kept, but its record is.
    #[error(
        "the message of mail {0} was deleted, see `spool.keep_bodies`; its record still exists"
    )]
    Forgotten(MailId),
    /// There is no such relay.
    #[error("there is no relay named `{}`", .0.escape_debug())]
    UnknownRelay(String),
    /// The state of the mail does not allow the operation.
    #[error("mail {id} is {state}{}", why_not(state))]
    TooLate {
        /// The mail.
        id: MailId,
        /// Its state.
        state: &'static str,
    },
    /// The maximum number of jobs is running.
    #[error("{0} jobs are running, the maximum; wait until one ends, or stop one")]
    TooManyJobs(usize),
    /// The cursor is not one that a list returned.
    #[error("the cursor is not the `next` of an earlier answer")]
    BadCursor,
    /// The configuration is invalid.
    #[error("{0}")]
    Configuration(String),
    /// The configuration of a relay is invalid.
    #[error("relay `{name}`: {error}")]
    Relay {
        /// The relay.
        name: String,
        /// The reason.
        error: RelayError,
    },
    /// The dispatcher has stopped. Accepted mail is safe in the spool.
    #[error("the dispatcher has stopped: {0}")]
    Stopped(String),
}

fn not_all_seen(name: &str, looked_at: u64, mail: Option<MailId>) -> String {
    let found = match mail {
        Some(mail) => format!("only mail {mail} has"),
        None => "no mail has".to_owned(),
    };
    format!(
        "{found} the key, Message-ID or sender `{}` among the {looked_at} mails that were \
         searched; there is older mail",
        name.escape_debug()
    )
}

fn all(mails: &[MailId]) -> String {
    let mails: Vec<String> = mails.iter().map(MailId::to_string).collect();
    mails.join(", ")
}

impl Error {
    /// Whether the same call may succeed later: once there is room, the quota is free again, or the
    /// disk or database works again. A mail that was submitted was not stored, so it can be
    /// submitted again.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Full { .. }
            | Error::SpoolFull { .. }
            | Error::Quota { .. }
            | Error::TooManyJobs(_) => true,
            Error::Spool(failure) => !matches!(failure, SpoolError::Damaged { .. }),
            Error::NotSent { .. } => true,
            Error::Mail(_)
            | Error::SenderRefused { .. }
            | Error::KeyReused(_)
            | Error::NoRoute(_)
            | Error::UnknownMail(_)
            | Error::UnknownName(_)
            | Error::Ambiguous { .. }
            | Error::NotAllSeen { .. }
            | Error::Forgotten(_)
            | Error::UnknownRelay(_)
            | Error::TooLate { .. }
            | Error::BadCursor
            | Error::Configuration(_)
            | Error::Relay { .. }
            | Error::Stopped(_) => false,
        }
    }
}

/// A limit of a quota that is used up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuotaLimit {
    /// The number of pending deliveries.
    #[error("has {pending} deliveries pending, the maximum is {max} (`max_pending`)")]
    Pending {
        /// How many are pending.
        pending: u64,
        /// The maximum.
        max: u64,
    },
    /// The number of recipients per day.
    #[error("has written to {today} recipients today, the maximum is {max} (`max_per_day`)")]
    PerDay {
        /// How many recipients there were today.
        today: u64,
        /// The maximum.
        max: u64,
    },
    /// The number of mails per time.
    #[error("submits mail faster than {0} (`rate`)")]
    Rate(Rate),
}

impl QuotaLimit {
    /// Its name in metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            QuotaLimit::Pending { .. } => "max_pending",
            QuotaLimit::PerDay { .. } => "max_per_day",
            QuotaLimit::Rate(_) => "rate",
        }
    }
}

/// The part of the error text that explains a state.
fn why_not(state: &str) -> &'static str {
    match state {
        "scheduled" => {
            " and is sent at its time: only dead, cancelled and deferred mail can be retried"
        }
        "queued" => " and is sent next: only dead, cancelled and deferred mail can be retried",
        _ => ", so it is too late for that",
    }
}

impl From<SpoolError> for Error {
    fn from(error: SpoolError) -> Self {
        match error {
            SpoolError::KeyReused(id) => Error::KeyReused(id),
            SpoolError::Forgotten(id) => Error::Forgotten(id),
            SpoolError::BadCursor => Error::BadCursor,
            SpoolError::Full { kept, max } => Error::SpoolFull { kept, max },
            SpoolError::Closed => Error::Stopped("its spool is closed".into()),
            other => Error::Spool(other),
        }
    }
}
