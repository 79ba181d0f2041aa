//! What a server said, as lettre hands it up.

use std::error::Error as _;

use lettre::transport::smtp::Error;
use lettre::transport::smtp::response::Response;

use crate::delivery::{Reply, printable};

/// One reply that can be understood, whether it pleases us or not.
pub(super) struct ServerReply {
    code: u16,
    said: ReplyKind,
}

enum ReplyKind {
    Yes(Response),
    No(Error),
}

impl ServerReply {
    /// # Errors
    /// Gives back what is not a reply: an I/O error, or text without SMTP's grammar.
    pub(super) fn read(heard: Result<Response, Error>) -> Result<Self, Error> {
        match heard {
            Ok(response) => Ok(ServerReply {
                code: response.code().into(),
                said: ReplyKind::Yes(response),
            }),
            Err(error) => match error.status() {
                Some(code) => Ok(ServerReply {
                    code: code.into(),
                    said: ReplyKind::No(error),
                }),
                None => Err(error),
            },
        }
    }

    /// As the server said it, where lettre knows no such code.
    pub(super) fn with_code(self, code: u16) -> Self {
        ServerReply { code, ..self }
    }

    pub(super) fn code(&self) -> u16 {
        self.code
    }

    /// 2yz.
    pub(super) fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 4yz or 5yz.
    pub(super) fn is_negative(&self) -> bool {
        matches!(self.code / 100, 4 | 5)
    }

    /// Safe to keep and to print. Made on demand: most replies are only looked at.
    pub(super) fn reply(&self) -> Reply {
        let text = match &self.said {
            ReplyKind::Yes(response) => response.message().collect::<Vec<_>>().join("\n"),
            ReplyKind::No(error) => error.source().map(ToString::to_string).unwrap_or_default(),
        };
        Reply::new(self.code, &text)
    }
}

/// Why something that is no reply is none. Never holds what we sent.
pub(super) fn nonsense(error: &Error) -> String {
    printable(&format!(
        "the server's reply cannot be understood ({error})"
    ))
}
