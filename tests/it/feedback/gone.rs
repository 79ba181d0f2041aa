//! Events about mail that is not kept any more.

use std::sync::Arc;

use bytes::Bytes;
use postrider::spool::Spool;
use postrider::{Dispatcher, Envelope, FeedbackKind, Mail, ProviderEvent, Returns};

use crate::common::{FaultySpool, ScriptedRelay, mail_to};

fn bounce(message_id: Option<String>, raw: String) -> ProviderEvent {
    ProviderEvent {
        id: "1".to_owned(),
        kind: FeedbackKind::Bounced,
        permanent: true,
        status: Some("5.1.1".to_owned()),
        text: "unknown".to_owned(),
        recipient: "ada@example.org".to_owned(),
        names_recipient: true,
        message_id,
        provider_id: None,
        raw: Bytes::from(raw),
    }
}

#[tokio::test]
async fn an_event_of_mail_that_is_gone_does_not_look_through_the_mail_that_is_kept() {
    let spool = FaultySpool::new();
    let relay = ScriptedRelay::free();
    let returns = Returns::new("bounces.example.com", b"0123456789abcdef").unwrap();
    let postrider = Dispatcher::builder()
        .spool_custom(Arc::clone(&spool) as Arc<dyn Spool>)
        .relay(relay.relay())
        .returns(returns.clone())
        .start()
        .await
        .unwrap();
    for _ in 0..50 {
        let kept = mail_to("ada@example.org").build().unwrap();
        postrider.submit(kept).await.unwrap();
    }
    let gone = postrider
        .submit(mail_to("ada@example.org").build().unwrap())
        .await
        .unwrap()
        .id;
    postrider.wait_idle().await;
    spool.purge(gone).await.unwrap();
    assert_eq!(spool.get(gone).await.unwrap(), None);

    let token = returns.address(gone, 0).unwrap();
    let long_ago = "<0190a000-0000-7000-8000-000000000001@example.com>";
    for event in [
        bounce(None, format!("{{\"return_path\": \"{token}\"}}")),
        bounce(Some(long_ago.to_owned()), String::new()),
    ] {
        let taken = postrider.feedback().take_events("brevo", vec![event]).await;
        assert_eq!(taken.unwrap(), []);
    }
    assert_eq!(spool.looked_at(), 0);

    // What another program wrote as its Message-ID may look like ours and is found.
    let theirs = format!("<{gone}@shop.example>");
    let message = format!(
        "From: shop@example.com\r\nTo: ada@example.org\r\nSubject: s\r\n\
         Message-ID: {theirs}\r\n\r\nt\r\n"
    );
    let to = vec!["ada@example.org".parse().unwrap()];
    let envelope = Envelope::new("shop@example.com".parse().ok(), to).unwrap();
    let message = Mail::from_rfc5322(envelope, message.into_bytes());
    let theirs_id = postrider.submit(message.unwrap()).await.unwrap().id;
    postrider.wait_idle().await;
    let event = bounce(Some(theirs), String::new());
    let taken = postrider.feedback().take_events("brevo", vec![event]).await;
    assert_eq!(taken.unwrap()[0].mail, theirs_id);
}
