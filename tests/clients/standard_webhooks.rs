//! Webhooks are what the Standard Webhooks specification says, as its own library finds.
//!
//! Needs `standardwebhooks` (from PyPI) for the `python3` on the PATH; without it the test fails
//! and says so.
#![cfg(feature = "notify")]

use postrider::{Dispatcher, Mail, Notices, Relay, Webhook};
use serde_json::json;
use tokio::process::Command;

use crate::common::{ReceivedCall, Receiver, Response};

const OLD: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const NEW: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAAAAAAAA";

const VERIFY: &str = r#"
import json, sys
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
given = json.loads(sys.argv[1])
told = Webhook(given["secret"]).verify(given["body"], given["headers"])
for name in ("type", "timestamp", "data"):
    assert name in told, (name, told)
for broken in (given["body"] + " ", given["body"].replace("type", "kind")):
    try:
        Webhook(given["secret"]).verify(broken, given["headers"])
        sys.exit("a broken body was verified")
    except WebhookVerificationError:
        pass
print(told["type"])
"#;

async fn verified(secret: &str, call: &ReceivedCall) -> String {
    let headers: serde_json::Map<_, _> = call
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().into()))
        .collect();

    let given = json!({"secret": secret, "headers": headers, "body": call.body});
    let output = Command::new("python3")
        .args(["-c", VERIFY, &given.to_string()])
        .output()
        .await
        .unwrap();

    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{error}; is it installed? `pip install standardwebhooks==1.0.1`"
    );

    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn the_specifications_own_library_verifies_each_try_with_the_old_and_the_new_secret() {
    let relay = Relay::smtp("capture://").unwrap();
    let builder = Dispatcher::builder().relay(relay).spool_in_memory();
    let postrider = builder.start().await.unwrap();
    let receiver = Receiver::answering(|_, n| match n {
        0 => Response::Status(500),
        _ => Response::Status(200),
    })
    .await;
    let notices = Notices::of(&postrider);

    let mut webhook = Webhook::new("shop", receiver.url(), format!("{NEW} {OLD}"));
    webhook.allow_private = true;
    webhook.retry = vec![std::time::Duration::from_secs(1)];
    notices.set_webhooks(vec![webhook]).await.unwrap();

    let mail = Mail::builder()
        .from("shop@example.com")
        .to("ada@example.org");
    let mail = mail
        .subject("Grüße")
        .text("x")
        .tag("ünïcode")
        .build()
        .unwrap();

    postrider.submit(mail).await.unwrap();
    let calls = receiver.comes_to(2).await;
    assert_eq!(calls[0].id(), calls[1].id());
    for call in &calls {
        for secret in [OLD, NEW] {
            assert_eq!(verified(secret, call).await, "delivered");
        }
    }

    assert!(notices.test("shop").await.unwrap().delivered);
    assert_eq!(verified(NEW, &receiver.calls()[2]).await, "test");
}
