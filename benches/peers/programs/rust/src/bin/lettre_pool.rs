//! `lettre_pool HOST:PORT`: callers send over lettre's own pool, each waiting until the relay has
//! taken its mail.

use std::time::Instant;

use lettre::transport::smtp::PoolConfig;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use peers::{CALLERS, answer, text};

fn main() {
    let to = std::env::args()
        .nth(1)
        .expect("usage: lettre_pool HOST:PORT");
    let (host, port) = to.rsplit_once(':').expect("HOST:PORT");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let _entered = runtime.enter();
    let relay = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
        .port(port.parse().expect("a port"))
        .pool_config(PoolConfig::new().max_size(CALLERS as u32))
        .build();

    answer(&runtime, |left| {
        let relay = relay.clone();
        async move {
            let mut times = Vec::new();
            while left.take() {
                let mail = Message::builder()
                    .from("bench@example.com".parse().expect("an address"))
                    .to("user@example.org".parse().expect("an address"))
                    .subject("A benchmark")
                    .body(text())
                    .expect("a mail");
                let started = Instant::now();
                relay.send(mail).await.expect("the relay takes every mail");
                times.push(started.elapsed());
            }
            times
        }
    });
}
