//! The benchmark of one connection to a distant relay.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::machine::SinkProcess;
use super::mail;
use crate::cli::Failure;
use crate::dispatch::{Dispatcher, Error};
use crate::mail::Mail;
use crate::transport::Relay;

/// How long a byte takes in each direction.
const ONE_WAY_DELAY: Duration = Duration::from_millis(25);
const MAILS: usize = 200;

pub(super) async fn run() -> Result<Value, Failure> {
    let fail =
        |e: std::io::Error| Failure::Failed(format!("the distant relay cannot be started: {e}"));
    let sink = SinkProcess::start()?;

    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(fail)?;
    let port = listener.local_addr().map_err(fail)?.port();
    let sink_port = sink.port;
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(("127.0.0.1", sink_port)).await else {
                return;
            };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::spawn(delay(near_in, far_out));
            tokio::spawn(delay(far_in, near_out));
        }
    });

    let relay = Relay::smtp(&format!("smtp://127.0.0.1:{port}"));
    let relay = relay
        .map_err(|e| Failure::Failed(e.to_string()))?
        .connections(1);
    let postrider = Dispatcher::builder()
        .relay(relay)
        .spool_in_memory()
        .start()
        .await?;
    let mails: Result<Vec<Mail>, _> = (0..MAILS).map(mail).collect();
    let started = Instant::now();

    for receipt in postrider.submit_many(mails.map_err(Error::from)?).await {
        postrider.wait(receipt?.id).await?;
    }
    let rate = MAILS as f64 / started.elapsed().as_secs_f64();

    let most = 1.0 / (2.0 * ONE_WAY_DELAY.as_secs_f64());
    Ok(json!({
        "bench": "round_trip",
        "delay_ms": 50,
        "connections": 1,
        "mails": MAILS,
        "per_s": rate,
        "one_round_trip_a_mail_per_s": most,
        "ratio": rate / most,
    }))
}

/// Forwards bytes, each [`ONE_WAY_DELAY`] after it was received.
async fn delay(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<(tokio::time::Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((due, bytes)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });

    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let _ = sender.send((
            tokio::time::Instant::now() + ONE_WAY_DELAY,
            buffer[..count].to_vec(),
        ));
    }
}
