//! The SMTP client (RFC 5321). [`Smtp`] opens connections to one server; each connection is used by
//! one sender at a time.
//!
//! lettre's `AsyncSmtpConnection` conducts the dialogue: greeting, EHLO, AUTH, QUIT and the parsing
//! of replies. Below it is our own `wire`. It sees every byte, with and without TLS, because it
//! does TLS itself; it bounds replies, hands them to lettre line by line, enforces one deadline for
//! each wait, and notices bytes that the server sends unasked. The EHLO that lettre writes is not
//! sent: the wire answers it. `connect` sends the real EHLO, since it can fall back to HELO, and
//! sends it again under TLS, because what was announced in cleartext must not be trusted (RFC 3207
//! §4.2).
//!
//! Commands and messages are written directly to the wire, past lettre: it cannot write the end of
//! a message together with the next mail's commands, which is what makes one round trip a mail
//! possible (RFC 2920 §3.1). All replies are parsed by lettre.
//!
//! *Invariant:* a connection is reused only after every expected reply was received, and nothing
//! else.

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
    tls: Option<Arc<tls::ClientTls>>,
    memory: Arc<memory::Memory>,
    /// The server's addresses; if empty, DNS is asked.
    addresses: Vec<SocketAddr>,
}

impl Smtp {
    /// A transport to this server.
    ///
    /// # Errors
    /// If the `ca_file` cannot be read or contains no certificate; if the host is not a valid TLS
    /// server name; if `client_name` is not a valid argument of EHLO.
    pub fn new(server: Server) -> Result<Self, RelayError> {
        let tls = match server.security {
            Security::Plain => None,
            Security::StartTls | Security::Tls => Some(Arc::new(tls::ClientTls::new(
                &server.host,
                server.ca_file.as_deref(),
                server.security == Security::StartTls,
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

    /// The same transport, but it connects to these addresses and does not ask DNS.
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
