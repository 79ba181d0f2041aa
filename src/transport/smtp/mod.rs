//! SMTP as a client (RFC 5321). [`Smtp`] opens connections to one server; a sender drives each
//! alone.
//!
//! lettre's `AsyncSmtpConnection` holds the dialogue: greeting, EHLO, AUTH, QUIT and the grammar of
//! replies. Under it lies our own `wire`, and everything that has to be seen byte by byte is seen
//! there, in one place and in all three modes, because TLS is under it too: one segment a command
//! group, replies bounded and handed up one line at a time, one deadline a wait, and whatever a
//! server says out of turn. lettre's own EHLO is answered by the wire and never sent; the real one
//! is said by `connect`, which can go on with HELO, and again under TLS, because nothing that was
//! said in the clear may be believed afterwards (RFC 3207 §4.2).
//!
//! Commands and messages are written past lettre, straight to the wire: it offers no way to write
//! raw bytes together with the next mail's commands, which is what makes one round trip a mail (RFC
//! 2920 §3.1). Every reply to them is read through lettre.
//!
//! *Invariant:* a connection is used again only after each reply that was due has come and nothing
//! else has.

mod connect;
mod connection;
mod dial;
mod extensions;
mod login;
mod memory;
mod message;
mod pipeline;
mod reply;
pub(in crate::transport) mod tls;
mod wire;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use lettre::transport::smtp::extension::ClientId;

use super::{Connection, RelayError, Security, Server, Transport};
use crate::delivery::Outcome;

/// Opens connections to one SMTP server.
pub struct Smtp {
    server: Server,
    client: ClientId,
    tls: Option<Arc<tls::Tls>>,
    memory: Arc<memory::Memory>,
    /// Where the server is; what DNS says when empty.
    addresses: Vec<SocketAddr>,
}

impl Smtp {
    /// A transport to this server.
    ///
    /// # Errors
    /// A `ca_file` that cannot be read or holds no certificate; a host that cannot be a TLS server
    /// name; a `client_name` that cannot stand in EHLO.
    pub fn new(server: Server) -> Result<Self, RelayError> {
        let tls = match server.security {
            Security::Plain => None,
            Security::StartTls | Security::Tls => Some(Arc::new(tls::Tls::new(
                &server.host,
                server.ca_file.as_deref(),
            )?)),
        };

        let client = connect::client_id(server.client_name.as_deref())?;
        Ok(Smtp {
            server,
            client,
            tls,
            memory: Arc::default(),
            addresses: Vec::new(),
        })
    }

    /// The same transport, to these addresses instead of those that DNS knows.
    pub fn at(self, addresses: Vec<SocketAddr>) -> Self {
        Smtp { addresses, ..self }
    }
}

impl fmt::Debug for Smtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Smtp")
            .field("server", &self.server)
            .finish()
    }
}

#[async_trait]
impl Transport for Smtp {
    async fn connect(&self) -> Result<Box<dyn Connection>, Outcome> {
        Ok(Box::new(connect::open(self).await?))
    }
}
