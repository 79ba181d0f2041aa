//! `postrider tail`: prints events as they happen.
//!
//! A broken connection is opened again and continues where it broke. No event is missed silently:
//! the service reports how many events are gone, and that is printed like an event.

use std::io;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use super::audit::done_to;
use super::service::Parameters;
use super::sse::{Frame, Frames};
use super::times::{relative, time_of_day};
use super::{Failure, ServiceArgs, record};
use crate::cli::screen::{Screen, StyledText, TextStyle, counted, note, plain, state, tinted};
use crate::delivery::{Attempt, Event, EventKind};
use crate::mail::{MailId, Timestamp};

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// `postrider tail`.
#[derive(Args)]
pub struct TailCommand {
    /// Only events of this mail
    #[arg(long, value_name = "ID")]
    mail: Option<MailId>,
    /// Begin with the events since: a span such as 1h, a time such as 2026-01-31T12:00:00Z, or the
    /// number of an event; 0 is the oldest that is kept
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    #[command(flatten)]
    asking: ServiceArgs,
}

impl TailCommand {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let client = self.asking.service.client()?;
        let parameters: Parameters = self
            .mail
            .iter()
            .map(|id| ("mail", id.to_string()))
            .chain(self.since.map(|since| ("since", since)))
            .collect();
        let mut last: Option<String> = None;
        let mut pause = FIRST_PAUSE;

        let mut stream = client.events(&parameters, None)?;
        loop {
            let mut frames = Frames::new(stream);
            while let Ok(Some(frame)) = frames.next() {
                show(&frame, self.asking.json, screen)?;
                last = frame.id.or(last);
                pause = FIRST_PAUSE;
            }
            note("The connection is lost; connecting again.");
            stream = loop {
                sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
                match client.events(&parameters, last.as_deref()) {
                    Ok(stream) => break stream,
                    Err(Failure::TryLater(_)) => {}
                    Err(Failure::Refused(refusal)) if refusal.is_transient() => {}
                    Err(failure) => return Err(failure),
                }
            };
        }
    }
}

fn show(frame: &Frame, json: bool, screen: &mut Screen) -> io::Result<()> {
    if json {
        return screen.json(frame.data.as_bytes());
    }
    if frame.event == "missed" {
        let text = match serde_json::from_str::<MissedEvents>(&frame.data) {
            Ok(MissedEvents { count: Some(count) }) => {
                format!("{} missed", counted(count, "event"))
            }
            _ => "the service keeps another journal now; some events before that were missed"
                .to_owned(),
        };
        return screen.line(&[tinted(format_args!("--------  {text}"), TextStyle::Warning)]);
    }

    match serde_json::from_str::<Event>(&frame.data) {
        Ok(event) => screen.line(&line(&event)),
        // A newer service may send events that this version does not know.
        Err(_) => screen.line(&[plain(format_args!("{}  {}", frame.event, frame.data))]),
    }
}

/// The service's report of events that are gone.
#[derive(Deserialize)]
struct MissedEvents {
    /// How many events; unknown if they were of another journal.
    count: Option<u64>,
}

fn line(event: &Event) -> Vec<StyledText> {
    let name = event.kind.as_str();
    let mut pieces = vec![
        tinted(time_of_day(event.at), TextStyle::Faint),
        plain("  "),
        kind(name),
    ];
    let mut add = |piece: StyledText| {
        pieces.push(plain("  "));
        pieces.push(piece);
    };

    if let Some(mail) = event.mail {
        add(plain(mail));
    }
    if let Some(recipient) = &event.recipient {
        add(plain(recipient));
    }

    let relay = event
        .relay
        .as_ref()
        .filter(|_| !matches!(event.kind, EventKind::Attempted { .. }));

    if let Some(relay) = relay {
        add(plain(relay));
    }
    match &event.kind {
        EventKind::Attempted { attempt } => add(tinted(answer(attempt), TextStyle::Faint)),
        EventKind::Deferred { next_attempt_at } => add(plain(next(*next_attempt_at, event.at))),
        EventKind::Dead { reason } => {
            add(tinted(reason.as_str().replace('_', " "), TextStyle::Bad))
        }
        EventKind::RelayDown { reason } => add(plain(reason)),
        EventKind::Reloaded { error: Some(error) } => add(tinted(error, TextStyle::Bad)),
        EventKind::Started { version } => add(plain(version)),
        EventKind::LoginRefused { count } if *count > 1 => add(plain(counted(*count, "time"))),
        EventKind::Act { act, count, filter } => {
            let to = done_to(act, *count, filter.as_deref().unwrap_or_default());
            add(plain(format!("{act} {to}")));
        }
        _ => {}
    }

    pieces
}

fn kind(name: &str) -> StyledText {
    let padded = format!("{name:10}");
    match name {
        "relay_up" => tinted(padded, TextStyle::Good),
        "relay_down" => tinted(padded, TextStyle::Bad),
        _ => state(name).with_text(padded),
    }
}

fn answer(attempt: &Attempt) -> String {
    format!("{} {}", attempt.relay, record::said(attempt))
}

fn next(at: Timestamp, now: Timestamp) -> String {
    format!("again {}", relative(at, now))
}
