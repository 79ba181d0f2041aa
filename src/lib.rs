//! Postrider, a durable mail dispatcher. It stores a mail on disk before it acknowledges it, sends
//! it over pooled SMTP connections or a provider's API, retries temporary failures, and reports the
//! outcome of every delivery.
//!
//! ```
//! use postrider::{Dispatcher, Drain, Mail, Priority, Relay, minutes, seconds};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // In production: Relay::smtp("smtp+starttls://user:secret@smtp.example.com:587")?, and
//! // .spool("var/spool").
//! let relay = Relay::smtp("capture://")?;
//! let postrider = Dispatcher::builder().relay(relay).spool_in_memory().start().await?;
//!
//! let code = Mail::builder().from("shop@example.com").to("ada@example.org");
//! let code = code.subject("Your code").text("123456");
//! let code = code.priority(Priority::Critical).expires_in(minutes(5));
//! let code = code.idempotency_key("otp-42").build()?;
//! let receipt = postrider.submit(code).await?;
//!
//! let status = postrider.wait(receipt.id).await?;
//! assert_eq!(status.state.as_str(), "delivered");
//! postrider.shutdown(Drain::within(seconds(30))).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # The main path
//!
//! A listener (*door*), or the application, builds a [`Mail`], whose bytes never change again.
//! [`Dispatcher::submit`] waits for one group commit of the [`spool`] and returns a [`Receipt`].
//! The *scheduler* actor is notified and wakes the *router*, which claims due mail for a relay's
//! lane and gives it to a *sender*; each sender owns one connection of a [`transport`]. The outcome
//! goes through the state machine of [`delivery`] and back into the spool, and is published as an
//! [`Event`]. The *supervisor* restarts actors that have ended. After a restart of the process, the
//! mail that was in flight is queued again.
//!
//! # Layers
//!
//! Each layer imports only from those before it: [`mail`] (the message) · [`delivery`] (the state
//! machine), `content` (templates) · [`policy`] (decisions), [`feedback`] (parses reports) ·
//! [`spool`], [`transport`], [`observe`] (storage, sending, metrics and logs) · [`dispatch`] (the
//! engine) · `notify` (webhooks, alerts, schedules) · `ingress` (listeners) · `config` (settings) ·
//! `cli` (the command line). The last three come with the feature `server`, which is on by default;
//! the engine alone is `default-features = false`.
//!
//! ARCHITECTURE.md describes the main path file by file, and lists the invariants with the files
//! that keep them and the tests that fail without them.

// The command line prints through `cli/screen.rs` only.
#![warn(clippy::print_stdout, clippy::print_stderr)]

#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "templates")]
pub mod content;
pub mod delivery;
pub mod dispatch;
pub mod feedback;
#[cfg(feature = "server")]
pub mod ingress;
pub mod mail;
#[cfg(feature = "notify")]
pub mod notify;
pub mod observe;
pub mod policy;
mod private;
pub mod spool;
pub mod transport;

#[cfg(feature = "templates")]
pub use content::{TemplateError, TemplateInfo, TemplateMistakes, Templates};
pub use delivery::{Event, EventKind, Feedback, FeedbackKind, MailState, State, TlsUse};
pub use dispatch::{
    Act, AuditEntry, AuditPage, AuditQuery, Builder, Clock, Counted, DeadLetters, DeliveryStatus,
    Dispatcher, Drain, Error, EventItem, EventStream, FailureGroup, Failures, FeedbackHandle,
    FeedbackReceipt, GroupBy, Health, JobRequest, JobState, JobStatus, Jobs, JournalHandle,
    JournalReader, MailStatus, OnSpoolFailure, OutboxHandle, ProviderEvent, QuotaLimit, Receipt,
    RecentDeliveries, RelayKind, RelayState, RelayStatus, Relays, Reload, ReportError,
    RestingStatus, Returns, SentNow, Series, SeriesPoint, SeriesQuery, Stats, StatusPage,
    SuppressionHandle, Unsubscribing, Unsubscription, WaitReason, WaitingDomain, WaitingDomains,
    Waits,
};
pub use mail::{
    Address, Alternative, Attachment, Content, Envelope, Guarantee, Mail, MailBuilder, MailError,
    MailId, Priority, Submitter, Timestamp, days, hours, minutes, seconds,
};
#[cfg(feature = "notify")]
pub use notify::{
    Alert, AtMost, Compose, Filter, LastAnswer, Missed, NoticeError, Notices, Redeliver, Schedule,
    ScheduleStatus, Tested, Webhook, WebhookError, WebhookState, WebhookStatus,
};
pub use policy::{
    BreakerState, Match, Quota, Rate, RetryPolicy, RouteRule, SenderPattern, Weights,
};
pub use spool::{
    Durability, Handful, NodeStatus, OutboxDraft, Query, SpoolError, Suppression, SuppressionPage,
    SuppressionQuery, SuppressionReason,
};
pub use transport::{Auth, Capture, Relay};
#[cfg(feature = "server")]
pub use transport::{Fetch, PublicPages};

/// The README's programs compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
