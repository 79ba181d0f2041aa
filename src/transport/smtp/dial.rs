//! Resolves a host's name and connects to the first of its addresses that answers. Called by
//! `connect.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use super::connect::unavailable;
use super::memory::Memory;
use crate::delivery::{Outcome, Phase};
use crate::transport::Server;

/// How long to wait for one address before the next is tried in parallel (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);

/// The size of the kernel's send buffer in bytes. By default the kernel grows it to megabytes, and
/// a full one accepts bytes again only after much of it was sent; over a slow link a time-out for
/// one part of a message could then not distinguish slow progress from none.
const SEND_BUFFER: u32 = 256 * 1024;

/// The host's addresses, in the resolver's order.
pub(super) async fn resolve(server: &Server) -> Result<Vec<SocketAddr>, Outcome> {
    let host = server.host.as_str();
    let fail = |reason: String| unavailable(Phase::Connect, &reason);
    let found = timeout(
        server.timeouts.connect,
        tokio::net::lookup_host((host, server.port)),
    );

    let found = found
        .await
        .map_err(|_| no_answer(server))?
        .map_err(|e| fail(format!("cannot find the host {host}: {e}")))?;

    let addresses: Vec<SocketAddr> = found.collect();
    match addresses.is_empty() {
        true => Err(fail(format!("the host {host} has no address"))),
        false => Ok(addresses),
    }
}

/// Connects to the first address that answers. They are tried in order, each a little after the one
/// before, and those that fail are remembered in `Memory`.
pub(super) async fn dial(
    server: &Server,
    addresses: &[SocketAddr],
    memory: &Memory,
) -> Result<(TcpStream, SocketAddr), Outcome> {
    let place = format!("{}:{}", server.host, server.port);
    let reached = timeout(server.timeouts.connect, async {
        let mut waiting = addresses.iter().copied();
        let mut trying = FuturesUnordered::new();
        let mut reason = format!("the host {} has no address", server.host);
        loop {
            match waiting.next() {
                Some(address) => trying.push(async move { (address, connect_to(address).await) }),
                None if trying.is_empty() => return Err(reason),
                None => {}
            }

            tokio::select! {
                Some((address, connected)) = trying.next() => match connected {
                    Ok(stream) => return Ok((stream, address)),
                    Err(e) => {
                        reason = format!("cannot connect to {place} at {address}: {e}");
                        memory.mark_bad(address, &reason);
                    }
                },
                () = sleep(HEAD_START), if waiting.len() > 0 => {}
            }
        }
    });

    match reached.await {
        Ok(reached) => reached.map_err(|reason| unavailable(Phase::Connect, &reason)),
        Err(_) => Err(no_answer(server)),
    }
}

fn no_answer(server: &Server) -> Outcome {
    let span = humantime::format_duration(server.timeouts.connect);
    let (host, port) = (&server.host, server.port);
    unavailable(
        Phase::Connect,
        &format!("{host}:{port} did not answer within {span}"),
    )
}

async fn connect_to(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // With Nagle's algorithm and delayed acknowledgements each mail would wait 40 ms.
    socket.set_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.connect(address).await
}
