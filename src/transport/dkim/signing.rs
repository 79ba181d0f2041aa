//! A transport that signs: it stands before another one and hands it signed messages.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::{Dkim, Rewriting};
use crate::delivery::{Outcome, TlsUse};
use crate::mail::Timestamp;
use crate::transport::{AnnouncedLimits, Connection, Transaction, Transport};

/// Signs what goes over another transport.
pub(crate) struct SigningTransport {
    dkim: Arc<Dkim>,
    rewriting: Rewriting,
    inner: Arc<dyn Transport>,
}

impl SigningTransport {
    pub(crate) fn new(dkim: Arc<Dkim>, rewriting: Rewriting, inner: Arc<dyn Transport>) -> Self {
        SigningTransport {
            dkim,
            rewriting,
            inner,
        }
    }
}

#[async_trait]
impl Transport for SigningTransport {
    async fn connect(&self) -> Result<Box<dyn Connection>, Outcome> {
        Ok(Box::new(SigningConnection {
            dkim: Arc::clone(&self.dkim),
            rewriting: self.rewriting,
            inner: self.inner.connect().await?,
            next: None,
        }))
    }
}

struct SigningConnection {
    dkim: Arc<Dkim>,
    rewriting: Rewriting,
    inner: Box<dyn Connection>,
    /// The mail that was begun behind the one before it: it must go out as it was begun, its size
    /// and what it asks of the server included.
    next: Option<Transaction>,
}

impl SigningConnection {
    async fn signed(&mut self, mail: &Transaction) -> Transaction {
        if let Some(begun) = self.next.take()
            && begun.mail == mail.mail
        {
            return Transaction {
                message: begun.message,
                eight_bit: begun.eight_bit,
                smtputf8: begun.smtputf8,
                ..mail.clone()
            };
        }

        // What the relay cannot take is encoded before it is signed (RFC 6376 §5.3).
        let converted = self.inner.convert(mail).await;
        let mail = converted.unwrap_or_else(|| mail.clone());
        let (dkim, rewriting) = (Arc::clone(&self.dkim), self.rewriting);
        let message = sign(dkim, rewriting, mail.message.clone()).await;
        Transaction { message, ..mail }
    }
}

/// Signs on a thread for blocking work: an RSA signature takes about a millisecond.
async fn sign(dkim: Arc<Dkim>, rewriting: Rewriting, message: Bytes) -> Bytes {
    let unsigned = message.clone();
    let signed = tokio::task::spawn_blocking(move || {
        let fields = dkim.sign(&message, Timestamp::now(), rewriting);
        if fields.is_empty() {
            return message;
        }

        let mut signed = BytesMut::with_capacity(fields.len() + message.len());
        signed.extend_from_slice(&fields);
        signed.extend_from_slice(&message);
        signed.freeze()
    });

    signed.await.unwrap_or(unsigned)
}

#[async_trait]
impl Connection for SigningConnection {
    async fn send(&mut self, mail: &Transaction, next: Option<&Transaction>) -> Vec<Outcome> {
        let mail = self.signed(mail).await;
        let next = match next {
            Some(next) => {
                let next = self.signed(next).await;
                self.next = Some(next.clone());
                Some(next)
            }
            None => None,
        };
        self.inner.send(&mail, next.as_ref()).await
    }

    fn tls(&self) -> Option<TlsUse> {
        self.inner.tls()
    }

    fn announced(&self) -> AnnouncedLimits {
        self.inner.announced()
    }

    fn is_usable(&self) -> bool {
        self.inner.is_usable()
    }

    async fn close(self: Box<Self>) {
        self.inner.close().await;
    }
}
