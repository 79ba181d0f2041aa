//! Why the dispatcher cannot do what it was asked.

use std::time::Duration;

use crate::mail::{Address, MailError, MailId, Submitter};
use crate::policy::Rate;
use crate::spool::SpoolError;
use crate::transport::RelayError;

/// Why the dispatcher cannot do what it was asked. Where a mail was submitted, it was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The mail is not valid, or too large.
    #[error(transparent)]
    Mail(#[from] MailError),
    /// As many mails are pending as may be.
    #[error(
        "the queue is full: {pending} deliveries are pending, and {max} may be; try again later"
    )]
    Full {
        /// How many deliveries are pending.
        pending: u64,
        /// How many may be.
        max: u64,
    },
    /// The spool holds as much as it may.
    #[error(
        "the spool is full: it holds {kept} bytes, and {max} may be (`spool.max_size`); try again \
         later"
    )]
    SpoolFull {
        /// About how many bytes are kept.
        kept: u64,
        /// How many may be.
        max: u64,
    },
    /// Who submits the mail has used up its quota.
    #[error("{who} {limit}; again in {}", humantime::format_duration(*.again_in))]
    Quota {
        /// Who.
        who: Submitter,
        /// What is used up.
        limit: QuotaLimit,
        /// When to try again, in whole seconds.
        again_in: Duration,
    },
    /// Who submits the mail may not send from this address.
    #[error("{who} may not send from {address}")]
    SenderRefused {
        /// Who.
        who: Submitter,
        /// The return path, or what From or Sender says.
        address: Address,
    },
    /// The idempotency key belongs to a mail with other content.
    #[error("the idempotency key was used before for mail {0}, which has other content")]
    KeyReused(MailId),
    /// No rule says which relay this recipient's mail may take.
    #[error("no route matches the recipient {0}; add a route without `match` as the default")]
    NoRoute(String),
    /// The spool took nothing, and the one synchronous attempt instead did not succeed for every
    /// recipient.
    #[error("the mail for {recipient} was not sent: {outcome}")]
    NotSent {
        /// The first recipient whose mail was not taken.
        recipient: String,
        /// What the relay said.
        outcome: String,
    },
    /// The spool cannot take or tell anything.
    #[error(transparent)]
    Spool(SpoolError),
    /// There is no such mail.
    #[error("there is no mail {0}")]
    UnknownMail(MailId),
    /// No mail has this name: neither as the beginning of its id, nor as its key, Message-ID or
    /// sender.
    #[error(
        "no mail has an id that begins with `{}`, or has that key, Message-ID or sender",
        .0.escape_debug()
    )]
    UnknownName(String),
    /// This name fits several mails.
    #[error(
        "`{}` fits several mails: {}; name one by more of its id",
        .name.escape_debug(),
        all(mails)
    )]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// Some of them, the newest first.
        mails: Vec<MailId>,
    },
    /// There is more mail than was looked at for a name: it may fit others.
    #[error("{}", not_all_seen(name, *looked_at, *mail))]
    NotAllSeen {
        /// What was asked for.
        name: String,
        /// How many mails were looked at.
        looked_at: u64,
        /// The one among them that it fits.
        mail: Option<MailId>,
        /// Where to go on.
        next: String,
    },
    /// The message of this mail is not kept any more; what became of it is.
    #[error(
        "the message of mail {0} is not kept any more, as `spool.keep_bodies` says; its record is"
    )]
    Forgotten(MailId),
    /// There is no such relay.
    #[error("there is no relay named `{}`", .0.escape_debug())]
    UnknownRelay(String),
    /// The mail is not in a state that allows it.
    #[error("mail {id} is {state}{}", why_not(state))]
    TooLate {
        /// The mail.
        id: MailId,
        /// Its state.
        state: &'static str,
    },
    /// As many jobs go on as may.
    #[error("{0} jobs are running, the most at once; wait for one to end, or stop one")]
    TooManyJobs(usize),
    /// The list's cursor is not one that was handed out.
    #[error("the cursor is not the `next` of an earlier answer")]
    BadCursor,
    /// The dispatcher is configured so that it cannot start.
    #[error("{0}")]
    Configuration(String),
    /// A relay is configured so that it cannot be used.
    #[error("relay `{name}`: {error}")]
    Relay {
        /// The relay.
        name: String,
        /// What is wrong.
        error: RelayError,
    },
    /// The dispatcher has stopped. What was accepted is safe in the spool.
    #[error("the dispatcher has stopped: {0}")]
    Stopped(String),
}

fn not_all_seen(name: &str, looked_at: u64, mail: Option<MailId>) -> String {
    let found = match mail {
        Some(mail) => format!("mail {mail} is"),
        None => "there is no mail".to_owned(),
    };
    format!(
        "{found} `{}` by key, Message-ID or sender among the {looked_at} that were looked at; \
         there is older mail",
        name.escape_debug()
    )
}

fn all(mails: &[MailId]) -> String {
    let mails: Vec<String> = mails.iter().map(MailId::to_string).collect();
    mails.join(", ")
}

impl Error {
    /// Whether the same call may succeed later, with nothing changed but the time: there may be
    /// room, the quota may be free again, the disk or the database may be back. Of a mail that was
    /// submitted nothing was kept, so that it may be submitted again.
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

/// Which limit of a quota is used up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuotaLimit {
    /// Deliveries that may be pending.
    #[error("has {pending} deliveries pending, and {max} may be (`max_pending`)")]
    Pending {
        /// How many are pending.
        pending: u64,
        /// How many may be.
        max: u64,
    },
    /// Recipients on one day.
    #[error("has written to {today} recipients today, and {max} may be (`max_per_day`)")]
    PerDay {
        /// How many there were today.
        today: u64,
        /// How many there may be.
        max: u64,
    },
    /// Mails in a time.
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

/// What a state means for whoever wanted something else of the mail.
fn why_not(state: &str) -> &'static str {
    match state {
        "scheduled" => {
            ", and goes out at its time: only dead, cancelled and deferred mail is retried"
        }
        "queued" => ", and goes out next: only dead, cancelled and deferred mail is retried",
        _ => ", which is too late for that",
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
