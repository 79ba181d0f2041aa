//! A webhook for all events, over all lives of the service: it must receive everything that
//! happened, and each message with the same body however often it comes.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep};

use super::common::{ReceivedCall, Receiver, Response};
use super::mails;

/// How long the last messages may take after the last mail.
const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// Somebody who takes most of what it is told, refuses some, and now and then does not answer.
pub async fn receiver(seed: u64) -> Receiver {
    let chance = parking_lot::Mutex::new(StdRng::seed_from_u64(seed));
    Receiver::answering(move |_, _| match chance.lock().random_range(0..400) {
        0..4 => Response::Status(500),
        4 => Response::Nothing,
        _ => Response::Status(200),
    })
    .await
}

/// What the configuration says of it.
pub fn configured(receiver: &Receiver) -> String {
    format!(
        r#"{{ name = "ledger", url = "{}", secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            events = ["accepted", "delivered"], allow_private = true, connections = 8,
            retry = ["50ms"], timeout = "300ms" }}"#,
        receiver.url()
    )
}

/// Waits until everything was told that happened to these mails, by key and id; what is wrong, and
/// how many messages came more than once.
pub async fn judge(receiver: &Receiver, mails: &[(String, String)]) -> (usize, Vec<String>) {
    let mut wanted = HashSet::new();
    for (key, id) in mails {
        wanted.insert((id.clone(), String::new()));
        for recipient in mails::recipients_of(key) {
            wanted.insert((id.clone(), recipient));
        }
    }

    let deadline = Instant::now() + WAIT_LIMIT;
    let mut read = 0;
    let mut problems = Vec::new();
    let mut bodies: HashMap<String, String> = HashMap::new();

    let mut again = 0;
    loop {
        let calls = receiver.calls_after(read);
        read += calls.len();
        for call in calls {
            wanted.remove(&what(&call));
            match bodies.insert(call.id().to_owned(), call.body.clone()) {
                Some(body) if body != call.body => {
                    problems.push(format!(
                        "{} was told as {body} and as {}",
                        call.id(),
                        call.body
                    ));
                }
                Some(_) => again += 1,
                None => {}
            }
        }
        if wanted.is_empty() || Instant::now() > deadline {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }

    let missing = wanted.iter().take(20);
    problems.extend(missing.map(|(id, recipient)| format!("never told: {id} {recipient}")));
    (again, problems)
}

/// The mail that a call is about, and the recipient where it is about one.
fn what(call: &ReceivedCall) -> (String, String) {
    let told = call.json();
    let text = |name: &str| told["data"][name].as_str().unwrap_or_default().to_owned();
    (text("id"), text("recipient"))
}
