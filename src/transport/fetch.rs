//! Reading a page of the public web: what a door needs to check what it is told (a certificate), or
//! to answer it (a subscription's confirmation).
//!
//! *Invariant:* nothing but https, no address that the whole Internet does not reach, no redirect,
//! a bounded answer within a bounded time.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use super::http::HttpClient;
use super::reach::Reach;
use super::{RelayError, TimeOuts};

/// Reads pages by their addresses.
#[async_trait]
pub trait Fetch: fmt::Debug + Send + Sync {
    /// The page at an address.
    ///
    /// # Errors
    /// Why there is none, in words.
    async fn fetch(&self, url: &str) -> Result<Bytes, String>;
}

/// Reads pages that everybody can read.
pub struct PublicPages(HttpClient);

impl PublicPages {
    /// Over connections of its own.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new() -> Result<Self, RelayError> {
        let timeouts = TimeOuts::default();
        let client = HttpClient::within(None, timeouts, Reach::PublicOnly)?;
        Ok(PublicPages(client))
    }
}

impl fmt::Debug for PublicPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublicPages")
    }
}

#[async_trait]
impl Fetch for PublicPages {
    async fn fetch(&self, url: &str) -> Result<Bytes, String> {
        if !url.starts_with("https://") {
            return Err(format!("{url} is not https"));
        }
        let answer = self.0.get(url.to_owned()).await;
        let answer = answer.map_err(|error| error.reason)?;
        match answer.status {
            200 => Ok(answer.body),
            status => Err(format!("{url} answered {status}")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn what_is_not_public_or_not_https_is_not_asked() {
        let pages = PublicPages::new().unwrap();
        for (url, reason) in [
            ("http://example.com/", "is not https"),
            ("https://127.0.0.1:1/", "a private one"),
            ("https://[::ffff:10.0.0.1]/", "a private one"),
            ("https://localhost:1/", "a private one"),
        ] {
            let refused = pages.fetch(url).await.unwrap_err();
            assert!(refused.contains(reason), "{url}: {refused}");
        }
    }
}
