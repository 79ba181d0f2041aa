//! Prints events as they happen: of a mail that is delivered, of one that is cancelled, and of one
//! that could not be sent in time.

use std::time::Duration;

use futures::StreamExt;
use postrider::{Dispatcher, Drain, Event, EventItem, EventKind, Mail, Relay, minutes, seconds};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let postrider = Dispatcher::builder()
        .relay(Relay::smtp("capture://")?)
        .spool_in_memory()
        .start()
        .await?;
    let mut events = postrider.events();

    let to = |name: &str| {
        let mail = Mail::builder()
            .from("Shop <shop@example.com>")
            .to(format!("{name}@example.org"));
        mail.subject("Your code").text("123456")
    };

    let delivered = postrider.submit(to("ada").build()?).await?;
    postrider.wait(delivered.id).await?;

    let unwanted = postrider
        .submit(to("brian").delay(minutes(10)).build()?)
        .await?;
    postrider.cancel(unwanted.id).await?;

    postrider.pause("capture").await?;
    postrider
        .submit(
            to("claire")
                .expires_in(Duration::from_millis(300))
                .build()?,
        )
        .await?;

    let mut open = 3;
    while open > 0 {
        match events.next().await {
            Some(EventItem::Event(event)) => {
                println!("{}", in_words(&event));
                open -= i32::from(is_end(&event.kind));
            }
            Some(EventItem::Lagged(missed)) => println!("(too slow: {missed} events were missed)"),
            None => break,
        }
    }

    postrider.shutdown(Drain::within(seconds(5))).await?;
    Ok(())
}

fn is_end(kind: &EventKind) -> bool {
    matches!(
        kind,
        EventKind::Delivered | EventKind::Dead { .. } | EventKind::Cancelled
    )
}

fn in_words(event: &Event) -> String {
    let about = event
        .recipient
        .as_ref()
        .map(|to| format!(" {to}"))
        .unwrap_or_default();

    let more = match &event.kind {
        EventKind::Attempted { attempt } => {
            format!(
                ": {} said {} {}",
                attempt.relay,
                attempt.code.unwrap_or(0),
                attempt.text
            )
        }
        EventKind::Deferred { next_attempt_at } => format!(" until {next_attempt_at}"),
        EventKind::Dead { reason } => format!(": {reason}"),
        EventKind::RelayDown { reason } => format!(": {reason}"),
        _ => String::new(),
    };

    let mail = event.mail.map(|id| id.to_string()).unwrap_or_default();
    format!("{} {mail} {}{about}{more}", event.at, event.kind.as_str())
}
