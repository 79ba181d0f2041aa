//! The mail that `capture://` relays have captured, for users' own end-to-end tests: the newest
//! mail that matches, parsed. Waits for one if there is none yet.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::extract::{RawQuery, State};
use futures::StreamExt;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use super::SharedDoor;
use super::fields::Span;
use super::params::Params;
use super::preview::Preview;
use super::problem::{Kind, Problem};
use crate::EventItem;
use crate::delivery::State as Stage;
use crate::dispatch::{MailStatus, RelayKind};
use crate::mail::{MailId, Reading, Timestamp};

/// The longest wait; with a longer one, a proxy may time out.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// How many pages are searched for a mail that exists already.
const MAX_PAGES: usize = 50;

/// A captured mail, parsed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CapturedMail {
    /// When it was accepted.
    created_at: Timestamp,
    /// The mail.
    #[serde(flatten)]
    preview: Preview,
    /// The HTML as it is in the mail; null if there is none.
    html: Option<String>,
}

/// Which captured mail is requested.
struct InboxQuery {
    to: Option<String>,
    subject: Option<String>,
    after: Option<MailId>,
    relays: BTreeSet<String>,
}

impl InboxQuery {
    /// Whether a mail was captured and matches.
    fn is(&self, mail: &MailStatus) -> bool {
        let subject = self.subject.as_ref();
        if subject.is_some_and(|part| !mail.subject.to_lowercase().contains(part))
            || self.after.is_some_and(|after| mail.id <= after)
        {
            return false;
        }

        mail.deliveries.iter().any(|delivery| {
            let relay = delivery
                .attempts
                .last()
                .map(|attempt| attempt.relay.as_str());
            let recipient = delivery.recipient.as_str().to_lowercase();
            let is_to = |to: &String| match to.contains('@') {
                true => recipient == *to,
                false => recipient.contains(to.as_str()),
            };
            delivery.state == Stage::Delivered
                && relay.is_some_and(|relay| self.relays.contains(relay))
                && self.to.as_ref().is_none_or(is_to)
        })
    }

    /// The newest mail that matches.
    async fn find(&self, door: &SharedDoor) -> Result<Option<MailStatus>, Problem> {
        let mut query = crate::spool::Query {
            state: Some(Stage::Delivered),
            limit: 200,
            since: self.after.map(|after| after.made_at()),
            ..crate::spool::Query::default()
        };

        for _ in 0..MAX_PAGES {
            let page = door.dispatcher.list(query.clone()).await?;
            if let Some(found) = page.mails.into_iter().find(|mail| self.is(mail)) {
                return Ok(Some(found));
            }
            let Some(next) = page.next else { break };
            query.cursor = Some(next);
        }

        Ok(None)
    }
}

/// The newest captured mail that matches, parsed, with the codes and links in it. Waits for one if
/// there is none yet.
#[utoipa::path(
    get, path = "/v1/inbox/latest", tag = "mails", operation_id = "latest_captured",
    params(
        ("to" = Option<String>, Query, description = "A recipient; without `@`, a part of one"),
        ("subject" = Option<String>, Query, description = "A part of the subject"),
        ("after" = Option<MailId>, Query,
            description = "Only mail that was submitted after this one"),
        ("wait" = Option<String>, Query, description = "How long to wait for it, such as 10s; at \
            most 60s", example = "1s"),
    ),
    responses(
        (status = 200, description = "The mail", body = CapturedMail),
        (
            status = 404, description = "No such mail came in that time",
            body = Problem, content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn latest(
    State(door): State<SharedDoor>,
    RawQuery(query): RawQuery,
) -> Result<Json<CapturedMail>, Problem> {
    let mut params = Params::of(query.as_deref());
    let lower = |text: String| Some(text.to_lowercase()).filter(|text| !text.is_empty());
    let mut wanted = InboxQuery {
        to: params.one("to").and_then(lower),
        subject: params.one("subject").and_then(lower),
        after: params.parsed("after"),
        relays: BTreeSet::new(),
    };

    let wait = params
        .with("wait", Span::parse)
        .map_or(Duration::ZERO, |span| span.0);
    params.finish()?;

    let until = Instant::now() + wait.min(MAX_WAIT);
    // Subscribing before searching ensures that no mail is missed in between.
    let mut events = door.dispatcher.events();
    for relay in door.dispatcher.relays().await? {
        if relay.kind == RelayKind::Capture {
            wanted.relays.insert(relay.name);
        }
    }

    if wanted.relays.is_empty() {
        let reason = "no relay is a `capture://` one, so that no mail is kept here";
        return Err(Problem::new(Kind::NotFound, reason));
    }

    let mut found = wanted.find(&door).await?;
    let mut stop = std::pin::pin!(super::server::stopped(door.shutdown.clone()));
    while found.is_none() {
        let item = tokio::select! {
            item = timeout_at(until, events.next()) => item,
            () = &mut stop => break,
        };
        match item {
            Ok(Some(EventItem::Event(event))) => {
                let Some(id) = event.mail.filter(|_| event.kind.as_str() == "delivered") else {
                    continue;
                };
                let mail = door.dispatcher.status(id).await.ok();
                found = mail.filter(|mail| wanted.is(mail));
            }
            Ok(Some(EventItem::Lagged(_))) => found = wanted.find(&door).await?,
            Ok(None) | Err(_) => break,
        }
    }

    let none = || Problem::new(Kind::NotFound, "no captured mail matches");
    let mail = found.ok_or_else(none)?;
    let take = |message: &[u8]| (Reading::of(message), Reading::html(message));
    let (reading, html) = door.parsed_message(mail.id, take).await?;

    let recipients = mail.deliveries.into_iter();
    Ok(Json(CapturedMail {
        created_at: mail.created_at,
        preview: Preview {
            id: mail.id,
            recipients: recipients
                .map(|delivery| delivery.recipient)
                .take(1000)
                .collect(),
            reading,
        },
        html: html.map(|(html, _)| html),
    }))
}
