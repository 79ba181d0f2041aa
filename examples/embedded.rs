//! A web server that does not wait for the mail server: `/register` answers as soon as the mail is
//! on disk.
//!
//! `cargo run --example embedded` registers somebody while the relay is paused, prints how long the
//! answer took, resumes the relay and waits until the mail is delivered.
//! `cargo run --example embedded -- serve` keeps serving on port 3000; there,
//! `RELAY_URL=smtp+starttls://user:password@smtp.example.com:587` sends real mail.

use std::net::SocketAddr;
use std::time::Instant;

use axum::extract::{Json, State};
use axum::http::StatusCode;
use axum::routing::post;
use postrider::{Dispatcher, Drain, Error, Mail, Priority, Relay, minutes, seconds};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[derive(serde::Deserialize)]
struct Registration {
    email: String,
}

/// Answers with the mail's id, by which its status can be requested.
async fn register(
    State(postrider): State<Dispatcher>,
    Json(registration): Json<Registration>,
) -> Result<(StatusCode, String), (StatusCode, String)> {
    let refuse = |error: Error| match error {
        Error::Mail(_) => (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
        _ => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    };

    let mail = Mail::builder()
        .from("Shop <shop@example.com>")
        .to(registration.email)
        .subject("Your code")
        .text("Your code is 123456. It is good for five minutes.")
        .priority(Priority::Critical)
        .expires_in(minutes(5))
        .build()
        .map_err(|error| refuse(error.into()))?;

    let receipt = postrider.submit(mail).await.map_err(refuse)?;
    Ok((StatusCode::ACCEPTED, receipt.id.to_string()))
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let keep_serving = std::env::args().nth(1).as_deref() == Some("serve");
    // A real server uses a directory that is not deleted.
    let spool = tempfile::tempdir()?;

    let relay =
        Relay::smtp(&std::env::var("RELAY_URL").unwrap_or("capture://".into()))?.name("relay");
    let postrider = Dispatcher::builder()
        .relay(relay)
        .spool(spool.path())
        .start()
        .await?;

    let app = axum::Router::new()
        .route("/register", post(register))
        .with_state(postrider.clone());
    let listener = tokio::net::TcpListener::bind(if keep_serving {
        "127.0.0.1:3000"
    } else {
        "127.0.0.1:0"
    })
    .await?;
    let address = listener.local_addr()?;

    let server = axum::serve(listener, app);
    if keep_serving {
        println!("curl --json '{{\"email\": \"ada@example.org\"}}' http://{address}/register");
        server
            .with_graceful_shutdown(async { _ = tokio::signal::ctrl_c().await })
            .await?;
    } else {
        tokio::select! {
            ended = server.into_future() => ended?,
            shown = register_while_no_mail_can_leave(&postrider, address) => shown?,
        }
    }

    postrider.shutdown(Drain::within(seconds(10))).await?;
    Ok(())
}

async fn register_while_no_mail_can_leave(
    postrider: &Dispatcher,
    address: SocketAddr,
) -> Outcome<()> {
    postrider.pause("relay").await?;
    let began = Instant::now();
    let request = move || {
        let ada = serde_json::json!({ "email": "ada@example.org" });
        ureq::post(format!("http://{address}/register"))
            .send_json(ada)?
            .body_mut()
            .read_to_string()
    };

    let id = tokio::task::spawn_blocking(request).await??.parse()?;
    println!(
        "/register answered after {:.1?}; mail {id} is {}",
        began.elapsed(),
        postrider.status(id).await?.state
    );

    postrider.resume("relay").await?;
    println!(
        "and when mail could leave again, it was {}",
        postrider.wait(id).await?.state
    );

    Ok(())
}
