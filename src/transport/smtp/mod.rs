//! SMTP as a client (RFC 5321).

use async_trait::async_trait;

use super::{Connection, Server, Transport};
use crate::delivery::Outcome;

/// Opens connections to one SMTP server.
#[derive(Debug)]
pub struct Smtp {
    server: Server,
}

impl Smtp {
    /// A transport to this server.
    ///
    /// # Errors
    /// A `ca_file` that cannot be read or holds no certificate; a host that cannot be a TLS server name.
    pub fn new(server: Server) -> Result<Self, super::RelayError> {
        Ok(Smtp { server })
    }
}

#[async_trait]
impl Transport for Smtp {
    async fn connect(&self) -> Result<Box<dyn Connection>, Outcome> {
        let _ = &self.server;
        unimplemented!()
    }
}
