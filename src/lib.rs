//! Postrider, a durable mail dispatcher.

#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
pub mod delivery;
pub mod dispatch;
#[cfg(feature = "server")]
pub mod ingress;
pub mod mail;
pub mod observe;
pub mod policy;
pub mod spool;
pub mod transport;

pub use delivery::{MailState, State};
pub use dispatch::{
    Builder, Clock, DeliveryStatus, Dispatcher, Drain, Error, Health, MailStatus, OnSpoolFailure, Receipt, RelayStatus,
    Reload, SentNow, Stats, StatusPage,
};
pub use mail::{
    Address, Attachment, Envelope, Guarantee, Mail, MailBuilder, MailError, MailId, Priority, Timestamp, days, hours,
    minutes, seconds,
};
pub use observe::{Event, EventItem, EventKind, EventStream};
pub use policy::{Match, Rate, RetryPolicy, RouteRule, Weights};
pub use spool::{Durability, Query, SpoolError};
pub use transport::{Auth, Capture, Relay};
