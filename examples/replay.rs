//! A process accepts mail and is killed; the next one delivers all of it from the same spool.
//!
//! The program starts itself as a child, which prints the id of each mail that it has a receipt
//! for, and aborts before any was sent.

use std::path::Path;
use std::process::Command;

use postrider::transport::Capture;
use postrider::{Dispatcher, Drain, Mail, MailId, Relay, seconds};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    match std::env::args_os().nth(1) {
        Some(spool) => accept_and_die(Path::new(&spool)).await,
        None => survive().await,
    }
}

/// The child.
async fn accept_and_die(spool: &Path) -> Outcome<()> {
    let postrider = start(spool, &Capture::default()).await?;
    postrider.pause("capture").await?;
    for n in 1..=100 {
        let mail = Mail::builder()
            .from("shop@example.com")
            .to(format!("reader{n}@example.org"))
            .text("Hello.")
            .build()?;
        println!("{}", postrider.submit(mail).await?.id);
    }
    std::process::abort()
}

/// The parent.
async fn survive() -> Outcome<()> {
    let spool = tempfile::tempdir()?;
    let child = Command::new(std::env::current_exe()?)
        .arg(spool.path())
        .output()?;
    let accepted: Vec<MailId> = String::from_utf8(child.stdout)?
        .lines()
        .map(str::parse)
        .collect::<Result<_, _>>()?;

    println!(
        "the first process accepted {} mails and ended with {}",
        accepted.len(),
        child.status
    );

    let capture = Capture::default();
    let postrider = start(spool.path(), &capture).await?;
    // The pause is still in force after the restart.
    postrider.resume("capture").await?;
    for id in &accepted {
        postrider.wait(*id).await?;
    }
    println!(
        "the second process delivered {} of them",
        capture.captured().len()
    );

    assert_eq!(
        (accepted.len(), capture.captured().len()),
        (100, 100),
        "a receipt is a promise"
    );

    postrider.shutdown(Drain::within(seconds(5))).await?;
    Ok(())
}

async fn start(spool: &Path, capture: &Capture) -> Result<Dispatcher, postrider::Error> {
    Dispatcher::builder()
        .relay(Relay::capture(capture))
        .spool(spool)
        .start()
        .await
}
