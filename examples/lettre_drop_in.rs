//! A program that sends through lettre gets a durable queue by changing the line that makes its
//! mailer: [`Dispatcher`] is an `AsyncTransport`, and `send` returns once the message is on disk.

use lettre::message::header::ContentType;
use lettre::{AsyncTransport, Message};
use postrider::transport::Capture;
use postrider::{Dispatcher, Drain, Relay, seconds};

/// The unchanged program, which knows only lettre.
async fn welcome<T>(mailer: &T, to: &str) -> Result<T::Ok, Box<dyn std::error::Error>>
where
    T: AsyncTransport + Sync,
    T::Error: std::error::Error + 'static,
{
    let message = Message::builder()
        .from("Shop <shop@example.com>".parse()?)
        .to(to.parse()?)
        .subject("Welcome")
        .header(ContentType::TEXT_PLAIN)
        .body("Good to have you.".to_owned())?;
    Ok(mailer.send(message).await?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let spool = tempfile::tempdir()?;
    let capture = Capture::default();

    // Before: let mailer =
    // AsyncSmtpTransport::<Tokio1Executor>::starttls_relay("smtp.example.com")?.build();
    let mailer = Dispatcher::builder()
        .relay(Relay::capture(&capture))
        .spool(spool.path())
        .start()
        .await?;

    let receipt = welcome(&mailer, "Ada <ada@example.org>").await?;
    println!("mail {} is accepted, {:?}", receipt.id, receipt.durability);
    println!("and now {}", mailer.wait(receipt.id).await?.state);
    for mail in capture.captured() {
        println!("\n{}", String::from_utf8_lossy(&mail.message));
    }
    mailer.shutdown(Drain::within(seconds(5))).await?;

    Ok(())
}
