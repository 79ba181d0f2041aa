//! A server's reply, as lettre parsed it.

use std::error::Error as _;

use lettre::transport::smtp::Error;
use lettre::transport::smtp::response::Response;

use crate::delivery::{Reply, printable};

/// One well-formed reply, positive or negative.
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
    /// An I/O error, or a text that is not a reply by SMTP's grammar.
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

    /// The same reply with the code that the server sent, for a code that lettre does not know.
    pub(super) fn with_code(self, code: u16) -> Self {
        ServerReply { code, ..self }
    }

    pub(super) fn code(&self) -> u16 {
        self.code
    }

    /// Whether the code is 2yz.
    pub(super) fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// Whether the code is 4yz or 5yz.
    pub(super) fn is_negative(&self) -> bool {
        matches!(self.code / 100, 4 | 5)
    }

    /// A copy that is safe to store and to print. Made on demand, since most replies are only
    /// inspected.
    pub(super) fn reply(&self) -> Reply {
        let text = match &self.said {
            ReplyKind::Yes(response) => response.message().collect::<Vec<_>>().join("\n"),
            ReplyKind::No(error) => error.source().map(ToString::to_string).unwrap_or_default(),
        };
        Reply::new(self.code, &text)
    }
}

/// Why a text is not a reply, for messages. Never contains what was sent to the server.
pub(super) fn why_malformed(error: &Error) -> String {
    printable(&format!(
        "the server's reply cannot be understood ({error})"
    ))
}
