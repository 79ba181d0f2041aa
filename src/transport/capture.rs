//! A relay that keeps mail instead of sending it: for tests, and for trying an application without
//! a mail server.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{Connection, Transaction, Transport};
use crate::delivery::{Outcome, Phase, Reply};
use crate::mail::{Address, MailId};
use crate::private;

/// How many mails are remembered; the oldest are forgotten first.
const REMEMBERED_MAILS: usize = 1000;

/// One captured mail.
#[derive(Clone, Debug)]
pub struct Captured {
    /// The mail's name.
    pub mail: MailId,
    /// The envelope's sender.
    pub return_path: Option<Address>,
    /// The recipients it was sent to together.
    pub recipients: Vec<Address>,
    /// The message, byte for byte.
    pub message: Bytes,
}

/// Keeps mail instead of sending it. Clones share what is kept.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    kept: Arc<Mutex<std::collections::VecDeque<Captured>>>,
    dir: Option<PathBuf>,
}

impl Capture {
    /// A capture that also writes each mail to a file in `dir`, if one is given.
    pub fn new(dir: Option<PathBuf>) -> Self {
        Capture {
            kept: Arc::default(),
            dir,
        }
    }

    /// What was captured, the oldest first; the last thousand.
    pub fn captured(&self) -> Vec<Captured> {
        self.kept.lock().iter().cloned().collect()
    }
}

/// Writes a message into `dir`, for its owner to read.
async fn write(dir: PathBuf, id: MailId, message: Bytes) -> std::io::Result<()> {
    let writing = tokio::task::spawn_blocking(move || {
        private::make_target(&dir)?;
        private::write(&dir.join(format!("{id}.eml")), &message)
    });
    writing
        .await
        .unwrap_or_else(|e| Err(std::io::Error::other(e)))
}

#[async_trait]
impl Transport for Capture {
    async fn connect(&self) -> Result<Box<dyn Connection>, Outcome> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Connection for Capture {
    async fn send(&mut self, mail: &Transaction, _next: Option<&Transaction>) -> Vec<Outcome> {
        if let Some(dir) = &self.dir
            && let Err(e) = write(dir.clone(), mail.mail, mail.message.clone()).await
        {
            let reason = format!("cannot write to {}: {e}", dir.display());
            return vec![Outcome::Unavailable(Phase::Body, reason); mail.recipients.len()];
        }

        let mut kept = self.kept.lock();
        if kept.len() >= REMEMBERED_MAILS {
            kept.pop_front();
        }

        kept.push_back(Captured {
            mail: mail.mail,
            return_path: mail.return_path.clone(),
            recipients: mail.recipients.clone(),
            message: mail.message.clone(),
        });

        vec![Outcome::Delivered(Reply::new(250, "2.0.0 captured")); mail.recipients.len()]
    }

    fn is_usable(&self) -> bool {
        true
    }

    async fn close(self: Box<Self>) {}
}
