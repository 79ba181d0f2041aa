//! Parses query parameters so that one answer names all mistakes: the filters of lists, and the
//! options of a message that is submitted as such. Each set is also described for the OpenAPI
//! document.

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use bytes::Bytes;
use url::form_urlencoded;
use utoipa::IntoParams;

use super::export::Format;
use super::fields::Span;
use super::problem::{FieldError, Problem};
use crate::delivery::State;
use crate::dispatch::{Dispatcher, GroupBy};
use crate::mail::{
    Address, Envelope, Guarantee, Intake, Mail, MailError, Options, Priority, Timestamp, When,
};
use crate::spool::Query;

/// The most mails in one page.
const MAX_PAGE: usize = 1000;

/// Which mails. An absent filter matches all.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only describes what `filter` reads")]
pub(super) struct Filters {
    /// One of its recipients.
    recipient: Option<String>,
    /// One of its tags.
    #[param(min_length = 1)]
    tag: Option<String>,
    /// Its priority.
    priority: Option<Priority>,
    /// Accepted at this time or later.
    since: Option<Timestamp>,
    /// Accepted before this time.
    until: Option<Timestamp>,
}

/// Which mails, and how many of them.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only describes what `list` reads")]
pub(super) struct ListParams {
    /// At least one delivery is in this state.
    state: Option<State>,
    /// A search such as `to:ada@example.org state:deferred code:451 welcome`, by `to`, `from`,
    /// `subject`, `id`, `key`, `message-id`, `state`, `relay`, `domain`, `code`, `error`, `tag`,
    /// `priority`, `after`, `before` and free words.
    q: Option<String>,
    /// The most mails in the page; 50 when absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u16>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// Whether to change anything.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only describes what `dead` reads")]
pub(super) struct DryRun {
    /// Only count the mails.
    dry_run: Option<bool>,
}

/// The envelope and the options of a finished message. With JSON, they are in the JSON.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only describes what `message` reads")]
pub(super) struct MessageOptions {
    /// With message/rfc822, and needed there: the envelope's sender; empty for the null
    /// reverse-path.
    from: Option<String>,
    /// With message/rfc822, and needed there: a recipient; may be repeated.
    to: Option<Vec<String>>,
    /// With message/rfc822: the priority.
    priority: Option<Priority>,
    /// With message/rfc822: do not send before this time.
    send_at: Option<Timestamp>,
    /// With message/rfc822: do not send before this span after it was accepted: `5m`, or a number
    /// of seconds.
    delay: Option<String>,
    /// With message/rfc822: expires after this span: `5m`, or a number of seconds.
    expires_in: Option<String>,
    /// With message/rfc822: the same as the header `Idempotency-Key`.
    idempotency_key: Option<String>,
    /// With message/rfc822: a tag; may be repeated.
    tag: Option<Vec<String>>,
    /// With message/rfc822: what to do when it is unknown whether a server took the mail.
    guarantee: Option<Guarantee>,
    /// With message/rfc822: the mailing list that it belongs to.
    list: Option<String>,
}

/// The parameters that were not taken yet, and the mistakes in those that were.
pub(super) struct Params<'a> {
    given: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    errors: Vec<FieldError>,
}

impl<'a> Params<'a> {
    /// The parameters of a query.
    pub fn of(query: Option<&'a str>) -> Self {
        Params {
            given: form_urlencoded::parse(query.unwrap_or_default().as_bytes()).collect(),
            errors: Vec::new(),
        }
    }

    /// Takes a parameter that may be given once.
    pub fn one(&mut self, name: &str) -> Option<String> {
        let mut all = self.every(name);
        if all.len() > 1 {
            self.refuse(format!("/{name}"), "is given more than once");
        }
        all.pop()
    }

    /// Takes a parameter that may be given once, and parses it.
    pub fn parsed<T: FromStr<Err: Display>>(&mut self, name: &str) -> Option<T> {
        let text = self.one(name)?;
        self.note(format!("/{name}"), text.parse())
    }

    /// Takes a parameter that may be given once, and applies `read` to it.
    pub fn with<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.one(name)?;
        self.note(format!("/{name}"), read(&text))
    }

    /// Takes a parameter that may be repeated.
    pub fn every(&mut self, name: &str) -> Vec<String> {
        let mut taken = Vec::new();
        self.given.retain(|(given, value)| {
            let wanted = given == name;
            if wanted {
                taken.push(value.clone().into_owned());
            }
            !wanted
        });
        taken
    }

    /// Adds a mistake.
    pub fn refuse(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.errors.push(FieldError {
            pointer: pointer.into(),
            detail: detail.into(),
        });
    }

    /// The result, or adds a mistake.
    fn note<T, E: Display>(&mut self, pointer: String, result: Result<T, E>) -> Option<T> {
        result
            .map_err(|error| self.refuse(pointer, error.to_string()))
            .ok()
    }

    /// Ends the parsing; parameters that were not taken are unknown.
    ///
    /// # Errors
    /// A problem that names every wrong parameter.
    pub fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in std::mem::take(&mut self.given) {
            let name = name.chars().take(64).collect::<String>();
            self.refuse(
                format!("/{}", super::problem::escape(&name)),
                "is not a parameter of this call",
            );
        }
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(Problem::invalid(self.errors))
        }
    }
}

/// The query of `GET /v1/mails`.
///
/// # Errors
/// A problem that names every wrong parameter.
pub(super) fn list(query: Option<&str>, dispatcher: &Dispatcher) -> Result<Query, Problem> {
    let mut params = Params::of(query);
    let mut wanted = asked(&mut params, dispatcher);
    wanted.cursor = params.one("cursor");
    wanted.limit = limit(&mut params);
    params.finish().map(|()| wanted)
}

/// The size of a page; 0 if not given.
pub(super) fn limit(params: &mut Params<'_>) -> usize {
    let Some(limit) = params.parsed("limit") else {
        return 0;
    };
    if !(1..=MAX_PAGE).contains(&limit) {
        params.refuse("/limit", format!("is not within 1 and {MAX_PAGE}"));
    }
    limit
}

/// The query of `GET /v1/mails/count`.
///
/// # Errors
/// A problem that names every wrong parameter.
pub(super) fn count(query: Option<&str>, dispatcher: &Dispatcher) -> Result<Query, Problem> {
    let mut params = Params::of(query);
    let mut wanted = asked(&mut params, dispatcher);
    wanted.cursor = params.one("cursor");
    params.finish().map(|()| wanted)
}

/// The query of `GET /v1/mails/export`, and the format.
///
/// # Errors
/// A problem that names every wrong parameter.
pub(super) fn export(
    query: Option<&str>,
    dispatcher: &Dispatcher,
) -> Result<(Query, Format), Problem> {
    let mut params = Params::of(query);
    let wanted = asked(&mut params, dispatcher);
    let format = params.parsed("format").unwrap_or_default();
    params.finish().map(|()| (wanted, format))
}

/// The grouping and the query of `GET /v1/failures`.
///
/// # Errors
/// A problem that names every wrong parameter.
pub(super) fn failures(
    query: Option<&str>,
    dispatcher: &Dispatcher,
) -> Result<(GroupBy, Query), Problem> {
    let mut params = Params::of(query);
    let wanted = asked(&mut params, dispatcher);
    let by = params.parsed("by").unwrap_or_default();
    params.finish().map(|()| (by, wanted))
}

/// The filters and the search; a mail must match all of them.
fn asked(params: &mut Params<'_>, dispatcher: &Dispatcher) -> Query {
    let state: Option<State> = params.parsed("state");
    let search = params.one("q").unwrap_or_default();
    let found = params.note("/q".to_owned(), dispatcher.search(&search));
    let filter = filter(params);
    let found = found.unwrap_or_default();

    // The times of the search are part of its condition as well; the narrower range applies.
    Query {
        state: state.or(found.state),
        tag: filter.tag.or(found.tag),
        since: filter.since.max(found.since),
        until: match (filter.until, found.until) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        },
        recipient: filter.recipient,
        priority: filter.priority,
        ..found
    }
}

/// The query of operations on dead letters, and whether only to count.
///
/// # Errors
/// A problem that names every wrong parameter.
pub(super) fn dead(query: Option<&str>) -> Result<(Query, bool), Problem> {
    let mut params = Params::of(query);
    let filter = filter(&mut params);
    if params
        .parsed::<State>("state")
        .is_some_and(|state| state != State::Dead)
    {
        params.refuse("/state", "can only be `dead` here");
    }
    let dry_run = params.parsed("dry_run").unwrap_or(false);
    params.finish().map(|()| (filter, dry_run))
}

fn filter(params: &mut Params<'_>) -> Query {
    let tag = params.one("tag");
    if tag.as_ref().is_some_and(String::is_empty) {
        params.refuse("/tag", "is empty");
    }
    Query {
        tag,
        recipient: params.parsed("recipient"),
        priority: params.parsed("priority"),
        since: params.parsed("since"),
        until: params.parsed("until"),
        ..Query::default()
    }
}

/// A message that is submitted as such, with its envelope and options in the query.
///
/// # Errors
/// A problem that names every wrong parameter, or what is wrong with the message.
pub(super) fn message(
    query: Option<&str>,
    key: Option<&str>,
    message: Bytes,
    intake: Intake<'_>,
) -> Result<Mail, Problem> {
    let mut params = Params::of(query);
    let return_path = match params.one("from").as_deref() {
        // The null reverse-path (RFC 5321 §4.5.5).
        Some("" | "<>") => None,
        Some(address) => params.note("/from".to_owned(), Address::read(address)),
        None => {
            params.refuse(
                "/from",
                "is missing; it is the envelope's sender, empty for the null reverse-path",
            );
            None
        }
    };

    let mut recipients = Vec::new();
    for (place, address) in params.every("to").into_iter().enumerate() {
        recipients.extend(params.note(format!("/to/{place}"), Address::read(&address)));
    }

    let send_at = params.parsed("send_at").map(When::At);
    let delay = span(&mut params, "delay");
    if send_at.is_some() && delay.is_some() {
        params.refuse("/delay", "give either `send_at` or `delay`, not both");
    }

    let field = params.one("idempotency_key");
    if let (Some(field), Some(header)) = (&field, key)
        && field != header
    {
        params.refuse(
            "/idempotency_key",
            "differs from the header Idempotency-Key",
        );
    }

    let (priority, guarantee) = (params.parsed("priority"), params.parsed("guarantee"));
    let list = params.one("list");
    let (expires, tags) = (span(&mut params, "expires_in"), params.every("tag"));
    params.finish()?;

    // The X-Postrider fields of the message apply where the query gives no value.
    let envelope = Envelope::new(return_path, recipients)?;
    let (mail, asked) = Mail::handed_in(envelope, message, intake)?;
    let options = Options {
        priority: priority.unwrap_or(asked.priority),
        send: send_at.or(delay).or(asked.send),
        expires: expires.or(asked.expires),
        idempotency_key: field
            .or_else(|| key.map(str::to_owned))
            .or(asked.idempotency_key),
        tags: if tags.is_empty() { asked.tags } else { tags },
        guarantee: guarantee.unwrap_or(asked.guarantee),
        list: list.or(asked.list),
    };

    mail.with_options(options)
        .map_err(|error| match error.field().strip_prefix("tags") {
            Some(place) => MailError::new(format!("tag{place}"), error.reason()).into(),
            None => error.into(),
        })
}

fn span(params: &mut Params<'_>, name: &str) -> Option<When> {
    let text = params.one(name)?;
    params
        .note(format!("/{name}"), Span::parse(&text))
        .map(|Span(span)| When::In(span))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pointers(problem: &Problem) -> Vec<String> {
        let json = serde_json::to_value(problem).unwrap();
        let errors = json["errors"].as_array().cloned().unwrap_or_default();
        errors
            .iter()
            .map(|error| error["pointer"].as_str().unwrap().to_owned())
            .collect()
    }

    fn listed(query: Option<&str>) -> Result<Query, Problem> {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let relay = crate::Relay::smtp("capture://").unwrap();
            let dispatcher = Dispatcher::builder().relay(relay).spool_in_memory();
            list(query, &dispatcher.start().await.unwrap())
        })
    }

    #[test]
    fn every_bad_filter_is_named() {
        let problem = listed(Some(
            "state=lost&recipient=nobody&limit=0&priority=asap&since=today&order=up&tag=",
        ))
        .unwrap_err();

        assert_eq!(
            pointers(&problem),
            [
                "/state",
                "/tag",
                "/recipient",
                "/priority",
                "/since",
                "/limit",
                "/order"
            ]
        );

        assert_eq!(
            pointers(&listed(Some("limit=5&limit=6")).unwrap_err()),
            ["/limit"]
        );

        assert_eq!(
            pointers(&dead(Some("state=queued&dry_run=maybe&cursor=x")).unwrap_err()),
            ["/state", "/dry_run", "/cursor"]
        );
    }

    #[test]
    fn filters_are_read() {
        let query = listed(Some(
            "state=dead&recipient=ada%40example.org&tag=a%20b&limit=7&cursor=c",
        ))
        .unwrap();
        assert_eq!(query.state, Some(State::Dead));
        assert_eq!(query.recipient.unwrap().as_str(), "ada@example.org");
        assert_eq!(
            (query.tag.as_deref(), query.limit, query.cursor.as_deref()),
            (Some("a b"), 7, Some("c"))
        );
        assert_eq!(listed(None).unwrap(), Query::default());
        assert!(dead(Some("state=dead&dry_run=true")).unwrap().1);
    }

    #[test]
    fn a_messages_bad_parameters_are_all_named() {
        let query = "to=ada@example.org&to=nobody&send_at=x&delay=-1&priority=z&\
            idempotency_key=a&subject=hi";
        let problem = message(Some(query), Some("b"), Bytes::new(), Intake::default()).unwrap_err();

        assert_eq!(
            pointers(&problem),
            [
                "/from",
                "/to/1",
                "/send_at",
                "/delay",
                "/idempotency_key",
                "/priority",
                "/subject"
            ]
        );
    }
}
