//! A sign-up page that shows the status of its mail, while the mail server defers it.
//!
//! `cargo run --example signup` opens a shop on <http://127.0.0.1:3000>. Its mail server defers
//! every mail twice before it accepts it. The page shows that as it happens, with Postrider's
//! `<postrider-status>`; it needs only the URL in the receipt. A page with a content security
//! policy must allow scripts from Postrider (`script-src`) and requests to it (`connect-src`).

use std::collections::HashMap;

use axum::extract::{Json, State};
use axum::http::StatusCode;
use axum::response::Html;
use axum::routing::{get, post};
use postrider::ingress::http::{HttpDoor, HttpSettings, Limits, StatusPages, StatusSettings};
use postrider::policy::Jitter;
use postrider::{Dispatcher, Drain, Mail, Priority, Relay, RetryPolicy, minutes, seconds};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The state of the shop's handlers.
#[derive(Clone)]
struct Shop {
    postrider: Dispatcher,
    status: StatusPages,
}

#[derive(serde::Deserialize)]
struct SignUp {
    email: String,
}

/// Answers as soon as the mail is on disk, with the URL of its status.
async fn sign_up(
    State(shop): State<Shop>,
    Json(asked): Json<SignUp>,
) -> Result<Json<serde_json::Value>, (StatusCode, String)> {
    let mail = Mail::builder()
        .from("Shop <shop@example.com>")
        .to(asked.email)
        .subject("Your code")
        .text("Your code is 123456. It is good for five minutes.")
        .priority(Priority::Critical)
        .expires_in(minutes(5))
        .build()
        .map_err(|error| (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))?;

    let receipt = shop.postrider.submit(mail).await;
    let receipt = receipt.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    let url = shop.status.url(receipt.id);
    Ok(Json(serde_json::json!({ "status_url": url })))
}

/// Opens the shop on this listener, with a Postrider of its own and a mail server that defers every
/// mail twice. Dropping the sender closes Postrider's listener.
pub async fn open(listener: TcpListener) -> Outcome<(Dispatcher, watch::Sender<bool>)> {
    let mail_server = TcpListener::bind("127.0.0.1:0").await?;
    let relay = Relay::smtp(&format!("smtp://{}", mail_server.local_addr()?))?.connections(1);
    tokio::spawn(make_trouble(mail_server));
    let retry = RetryPolicy {
        schedule: vec![seconds(2)],
        jitter: Jitter::None,
        ..RetryPolicy::default()
    };

    // A real server has a spool on disk.
    let builder = Dispatcher::builder().relay(relay).retry(retry);
    let postrider = builder.spool_in_memory().start().await?;

    let settings = HttpSettings {
        listen: ([127, 0, 0, 1], 0).into(),
        tokens: Vec::new(),
        limits: Limits::default(),
    };

    // A real server reads its secret from a file, so that the URLs stay valid after a restart.
    let status = StatusSettings {
        secret: format!("{:032x}", rand::random::<u128>()).into(),
        base_url: None,
    };

    let door = HttpDoor::bind(settings).await?.with_status(&status);
    let origin = format!("http://{}", door.local_addr());
    let status = door.status_pages().ok_or("there is no status")?;
    let (close, closing) = watch::channel(false);
    tokio::spawn(door.serve(postrider.clone(), closing));

    let page = include_str!("page.html").replace("POSTRIDER", &origin);
    let app = axum::Router::new()
        .route("/", get(|| std::future::ready(Html(page))))
        .route("/sign-up", post(sign_up))
        .with_state(Shop {
            postrider: postrider.clone(),
            status,
        });

    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok((postrider, close))
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("Sign up at http://{}", listener.local_addr()?);
    let (postrider, _open) = open(listener).await?;
    tokio::signal::ctrl_c().await?;
    postrider.shutdown(Drain::within(seconds(5))).await?;
    Ok(())
}

/// A minimal mail server for one client: it answers 451 to the first two attempts for each
/// recipient.
async fn make_trouble(listener: TcpListener) -> std::io::Result<()> {
    let mut tries = HashMap::new();
    loop {
        let (stream, _) = listener.accept().await?;
        // The client has closed the connection.
        let _ = converse(stream, &mut tries).await;
    }
}

async fn converse(stream: TcpStream, tries: &mut HashMap<String, u32>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut in_message = false;
    let mut reply = "220 trouble.example";
    loop {
        if !reply.is_empty() {
            stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
        }
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let line = line.trim_end().to_ascii_uppercase();
        reply = match line.split([' ', ':']).next().unwrap_or_default() {
            "." if in_message => {
                in_message = false;
                "250 2.0.0 taken"
            }
            _ if in_message => "",
            "RCPT" => {
                let tried = tries.entry(line).or_insert(0);
                *tried += 1;
                match *tried {
                    1 | 2 => "451 4.3.0 come back later",
                    _ => "250 2.1.5 fine",
                }
            }
            "DATA" => {
                in_message = true;
                "354 go on"
            }
            "QUIT" => "221 2.0.0 bye",
            _ => "250 2.0.0 fine",
        };
    }
}
