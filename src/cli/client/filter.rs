//! The filters that `list`, `dead` and the searches share.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::service::Parameters;
use super::times::past_time;
use crate::mail::{Address, Priority, Timestamp};

/// A filter of mails. Conditions that are absent match every mail.
#[derive(Args, Clone, Debug)]
pub struct FilterOptions {
    /// Only mails to this address
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<Address>,
    /// Only mails with this tag
    #[arg(long)]
    tag: Option<String>,
    /// Only mails of this priority
    #[arg(long, value_parser = priority())]
    priority: Option<Priority>,
    /// Only mails that were accepted at this time or later: a time, or how long ago, such as 2h
    #[arg(long, value_name = "TIME", value_parser = past_time)]
    since: Option<Timestamp>,
    /// Only mails that were accepted before this time
    #[arg(long, value_name = "TIME", value_parser = past_time)]
    until: Option<Timestamp>,
}

impl FilterOptions {
    /// Whether there is no condition, so that all mails are meant.
    pub fn is_empty(&self) -> bool {
        self.parameters().is_empty()
    }

    /// The filter as the service reads it.
    pub fn parameters(&self) -> Parameters {
        let mut parameters = Vec::new();
        let mut add =
            |name, value: Option<String>| parameters.extend(value.map(|value| (name, value)));
        add(
            "recipient",
            self.recipient.as_ref().map(ToString::to_string),
        );

        add("tag", self.tag.clone());
        add(
            "priority",
            self.priority.map(|priority| priority.to_string()),
        );

        add("since", self.since.map(|at| at.to_string()));
        add("until", self.until.map(|at| at.to_string()));
        parameters
    }
}

/// Reads a priority, and lets help and completions list them all.
pub fn priority() -> impl TypedValueParser<Value = Priority> {
    PossibleValuesParser::new(Priority::ALL.map(Priority::as_str))
        .try_map(|name| name.parse::<Priority>())
}
