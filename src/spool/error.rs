//! Why the spool cannot do what it was asked.

use std::path::PathBuf;

/// Why the spool cannot do what it was asked. Nothing that was accepted is lost by any of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// Another process has it open.
    #[error(
        "the spool {} is in use by another process; stop that one, or choose another `spool.path`",
        .0.display()
    )]
    Locked(PathBuf),
    /// It cannot be opened.
    #[error("the spool {} cannot be opened: {reason}; nothing in it was changed", .path.display())]
    Unopenable {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// Something of it is not as it was on disk. It is not opened, because what is behind the
    /// damage would be lost for good.
    #[error(
        "the spool {} is damaged: {} {reason}; nothing in it was changed; `postrider spool salvage \
         {} NEW` writes every record that is whole into a new spool, and tells what is missing",
        .path.display(),
        .file.display(),
        .path.display()
    )]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// The file that is damaged.
        file: PathBuf,
        /// How.
        reason: String,
    },
    /// Writing failed: it takes no more until it is opened again. What it has can still be read.
    #[error(
        "the spool {} cannot be written: {reason}; nothing more is accepted until it is mended and \
         reopened",
        .path.display()
    )]
    Unwritable {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// The disk has too little room left. Accepting resumes by itself when there is more.
    #[error(
        "the disk of the spool {} has only {free} bytes left; nothing more is accepted until there \
         are {needed}",
        .path.display()
    )]
    DiskFull {
        /// The directory.
        path: PathBuf,
        /// The bytes that are free.
        free: u64,
        /// The bytes that must be.
        needed: u64,
    },
    /// It holds as much as it may, and nothing of it has ended that could go. Accepting resumes by
    /// itself when something has.
    #[error(
        "the spool stores {kept} bytes, the maximum is {max} (`spool.max_size`); no mail is \
         accepted until some mail is finished"
    )]
    Full {
        /// About how many bytes are kept.
        kept: u64,
        /// How many may be.
        max: u64,
    },
    /// The database does not answer, or not as it must. What was accepted is there; accepting and
    /// sending resume by themselves.
    #[error("the database {database} cannot be reached: {reason}")]
    Unreachable {
        /// Its hosts and its name.
        database: String,
        /// What went wrong.
        reason: String,
    },
    /// The database cannot serve as a spool.
    #[error("the database {database} cannot be used: {reason}")]
    Unusable {
        /// Its hosts and its name.
        database: String,
        /// Why.
        reason: String,
    },
    /// It cannot be done over this kind of spool.
    #[error("{0} is not supported on PostgreSQL yet")]
    Unsupported(&'static str),
    /// Something could not be read.
    #[error("the spool cannot be read: {0}")]
    Unreadable(String),
    /// The message of this mail is not kept any more.
    #[error(
        "the message of mail {0} was deleted, see `spool.keep_bodies`; its record still exists"
    )]
    Forgotten(crate::mail::MailId),
    /// The idempotency key belongs to a mail with other content.
    #[error("the idempotency key belongs to mail {0}, which is different")]
    KeyReused(crate::mail::MailId),
    /// The cursor of a list is not one that a page gave.
    #[error("the cursor is not the `next` of an earlier answer")]
    BadCursor,
    /// A lease is not the current one: somebody else may have the delivery.
    #[error("the lease is not current: another sender or node may hold the delivery")]
    StaleLease,
    /// It is closed.
    #[error("the spool is closed")]
    Closed,
}

impl SpoolError {
    /// Of a spool that panicked when it was asked.
    pub(crate) fn panicked() -> Self {
        SpoolError::Unreadable("it has panicked".into())
    }
}
