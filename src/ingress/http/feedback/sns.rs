//! Amazon SNS, which delivers SES's events: a message that is signed (RSA) over its fields and
//! contains the URL of the signing certificate; and the confirmation of a subscription.
//!
//! *Invariants:* before anything is fetched, the topic must be one of the configuration; everything
//! is fetched from `sns.REGION.amazonaws.com` of that topic's own region, whatever URL a message
//! contains; however many messages arrive, certificates are fetched one at a time and only a few in
//! a minute.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;
use x509_cert::Certificate;

use super::proof::{ProofError, Stamp};
use crate::Fetch;
use crate::mail::Timestamp;

/// How many certificates are cached: SNS has one in a region, and another while it is replaced.
const MOST_CERTIFICATES: usize = 32;
/// How many certificates are fetched in a minute.
const FETCHES_PER_MINUTE: u32 = 20;
const MINUTE: Duration = Duration::from_secs(60);

/// A message of SNS
/// (<https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html>).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SnsMessage {
    #[serde(rename = "Type")]
    pub kind: String,
    message_id: String,
    pub topic_arn: String,
    subject: Option<String>,
    pub message: String,
    timestamp: String,
    signature_version: String,
    signature: String,
    #[serde(rename = "SigningCertURL")]
    certificate: String,
    #[serde(rename = "SubscribeURL")]
    subscribe: Option<String>,
    token: Option<String>,
}

impl SnsMessage {
    pub fn read(body: &[u8]) -> Result<Self, ProofError> {
        serde_json::from_slice(body).map_err(|_| ProofError::Missing)
    }

    /// Whether it confirms or ends a subscription.
    pub fn is_handshake(&self) -> bool {
        self.kind != "Notification"
    }

    /// The signed text: names and values, each on a line, sorted by name.
    pub fn signed(&self) -> Result<String, ProofError> {
        let optional = |name, value: &'_ Option<String>| value.clone().map(|value| (name, value));
        let required = |name, value: &'_ str| Some((name, value.to_owned()));
        let is_handshake = match self.kind.as_str() {
            "Notification" => false,
            "SubscriptionConfirmation" | "UnsubscribeConfirmation" => true,
            _ => return Err(ProofError::Wrong),
        };

        let fields = [
            required("Message", &self.message),
            required("MessageId", &self.message_id),
            optional("Subject", &self.subject).filter(|_| !is_handshake),
            optional("SubscribeURL", &self.subscribe).filter(|_| is_handshake),
            required("Timestamp", &self.timestamp),
            optional("Token", &self.token).filter(|_| is_handshake),
            required("TopicArn", &self.topic_arn),
            required("Type", &self.kind),
        ];
        let lines = fields.into_iter().flatten();
        Ok(lines
            .map(|(name, value)| format!("{name}\n{value}\n"))
            .collect())
    }
}

/// A configured topic: `arn:aws:sns:REGION:ACCOUNT:NAME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Topic<'a> {
    arn: &'a str,
    region: &'a str,
    is_chinese: bool,
}

impl<'a> Topic<'a> {
    pub fn read(arn: &'a str) -> Option<Self> {
        let parts: Vec<&str> = arn.split(':').collect();
        let ["arn", partition, "sns", region, account, name] = parts[..] else {
            return None;
        };
        let is_of = |text: &str, also: &[u8]| {
            let is = |byte: u8| byte.is_ascii_alphanumeric() || also.contains(&byte);
            (1..=256).contains(&text.len()) && text.bytes().all(is)
        };
        let is_right = partition.starts_with("aws")
            && is_of(partition, b"-")
            && is_of(region, b"-")
            && is_of(account, b"")
            && is_of(name, b"-_.");

        is_right.then_some(Topic {
            arn,
            region,
            is_chinese: partition == "aws-cn",
        })
    }

    /// The host of its region.
    fn host(self) -> String {
        let suffix = if self.is_chinese { ".cn" } else { "" };
        format!("sns.{}.amazonaws.com{suffix}", self.region)
    }

    /// Whether this URL may be that of a certificate for this topic's messages.
    fn certifies(self, url: &str) -> bool {
        let Ok(read) = Url::parse(url) else {
            return false;
        };
        let name = read
            .path()
            .strip_prefix("/SimpleNotificationService-")
            .and_then(|rest| rest.strip_suffix(".pem"));
        let is_name = |name: &str| {
            (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };

        // The URL must be exactly this, without a port or a user name.
        let plain = format!("https://{}{}", self.host(), read.path());
        name.is_some_and(is_name) && plain == url
    }

    /// The URL that confirms a subscription to the topic. Built here, and not taken from the
    /// message.
    fn confirmation(self, token: &str) -> Result<String, ProofError> {
        let base = format!("https://{}/", self.host());
        let fields = [
            ("Action", "ConfirmSubscription"),
            ("TopicArn", self.arn),
            ("Token", token),
        ];
        let url = Url::parse_with_params(&base, fields).map_err(|_| ProofError::Wrong)?;
        Ok(url.into())
    }
}

/// The certificates that were fetched.
#[derive(Debug)]
pub(super) struct Certificates {
    web: Option<Arc<dyn Fetch>>,
    known: Mutex<CertificateCache>,
}

#[derive(Debug, Default)]
struct CertificateCache {
    keys: HashMap<String, CertificateKey>,
    minute: Option<Instant>,
    fetched: u32,
}

#[derive(Clone, Debug)]
struct CertificateKey {
    /// An RSA public key (RFC 8017 §A.1.1).
    key: Vec<u8>,
    from: Timestamp,
    until: Timestamp,
}

impl Certificates {
    pub fn new(web: Option<Arc<dyn Fetch>>) -> Self {
        Certificates {
            web,
            known: Mutex::default(),
        }
    }

    /// Verifies that a message is from SNS and of one of these topics. Returns its stamp.
    pub async fn prove(
        &self,
        message: &SnsMessage,
        topics: &[String],
        now: Timestamp,
    ) -> Result<Stamp, ProofError> {
        let topic = topics.iter().find(|topic| **topic == message.topic_arn);
        let topic = topic.ok_or(ProofError::Topic)?;
        let topic = Topic::read(topic).ok_or(ProofError::Topic)?;
        let at: Timestamp = message.timestamp.parse().map_err(|_| ProofError::Wrong)?;
        let algorithm: &dyn VerificationAlgorithm = match message.signature_version.as_str() {
            "1" => &signature::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            "2" => &signature::RSA_PKCS1_2048_8192_SHA256,
            _ => return Err(ProofError::Wrong),
        };
        if !topic.certifies(&message.certificate) {
            return Err(ProofError::Wrong);
        }

        let signed = message.signed()?;
        let signature = base64(&message.signature).ok_or(ProofError::Wrong)?;
        let CertificateKey { key, from, until } = self.key(&message.certificate).await?;
        if now < from || until < now {
            return Err(ProofError::Wrong);
        }
        let key = UnparsedPublicKey::new(algorithm, key);
        let verified = key.verify(signed.as_bytes(), &signature);
        verified.map_err(|_| ProofError::Wrong)?;
        Ok(Stamp::new(at, signed.as_bytes()))
    }

    /// Confirms the subscription of a message that was [verified](Certificates::prove).
    pub async fn confirm(&self, message: &SnsMessage) -> Result<(), ProofError> {
        if message.kind != "SubscriptionConfirmation" {
            tracing::warn!(topic = message.topic_arn, "the SNS subscription has ended");
            return Ok(());
        }
        let topic = Topic::read(&message.topic_arn).ok_or(ProofError::Topic)?;
        let token = message.token.as_deref().ok_or(ProofError::Wrong)?;
        self.fetch(&topic.confirmation(token)?).await?;
        tracing::info!(topic = topic.arn, "the SNS subscription is confirmed");
        Ok(())
    }

    /// The key of the certificate at a URL that was checked.
    async fn key(&self, url: &str) -> Result<CertificateKey, ProofError> {
        let mut known = self.known.lock().await;
        if let Some(key) = known.keys.get(url) {
            return Ok(key.clone());
        }

        let now = Instant::now();
        let is_over = |begun| now.duration_since(begun) >= MINUTE;
        if known.minute.is_none_or(is_over) {
            (known.minute, known.fetched) = (Some(now), 0);
        }
        if known.fetched >= FETCHES_PER_MINUTE {
            return Err(ProofError::NotNow);
        }
        known.fetched += 1;

        let page = self.fetch(url).await?;
        let key = read_certificate(&page).ok_or(ProofError::Wrong)?;
        if known.keys.len() >= MOST_CERTIFICATES {
            known.keys.clear();
        }
        known.keys.insert(url.to_owned(), key.clone());
        Ok(key)
    }

    async fn fetch(&self, url: &str) -> Result<bytes::Bytes, ProofError> {
        let web = self.web.as_ref().ok_or(ProofError::NotNow)?;
        let page = web.fetch(url).await;
        page.map_err(|error| {
            let error = error.escape_debug();
            tracing::warn!(%error, "what Amazon SNS names could not be fetched");
            ProofError::NotNow
        })
    }
}

fn read_certificate(pem: &[u8]) -> Option<CertificateKey> {
    let chain = Certificate::load_pem_chain(pem).ok()?;
    let certificate = &chain.first()?.tbs_certificate;
    let key = &certificate.subject_public_key_info.subject_public_key;
    let time = |time: x509_cert::time::Time| {
        let millis = i64::try_from(time.to_unix_duration().as_millis());
        Timestamp::from_millis(millis.unwrap_or(i64::MAX))
    };
    Some(CertificateKey {
        key: key.as_bytes()?.to_vec(),
        from: time(certificate.validity.not_before),
        until: time(certificate.validity.not_after),
    })
}

fn base64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ARN: &str = "arn:aws:sns:eu-west-1:123456789012:mail-events";

    #[test]
    fn only_certificates_of_the_topics_own_region_are_fetched() {
        let topic = Topic::read(ARN).unwrap();
        let good = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-9c6465fa7f48.pem";
        assert!(topic.certifies(good));
        for bad in [
            "http://sns.eu-west-1.amazonaws.com/SimpleNotificationService-9c.pem",
            "https://sns.eu-west-2.amazonaws.com/SimpleNotificationService-9c.pem",
            "https://sns.eu-west-1.amazonaws.com.evil.example/SimpleNotificationService-9c.pem",
            "https://evil.example/SimpleNotificationService-9c.pem",
            "https://sns.eu-west-1.amazonaws.com@evil.example/SimpleNotificationService-9c.pem",
            "https://sns.eu-west-1.amazonaws.com:8443/SimpleNotificationService-9c.pem",
            "https://u:p@sns.eu-west-1.amazonaws.com/SimpleNotificationService-9c.pem",
            "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-9c.pem?x=1",
            "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-9c.pem#x",
            "https://sns.eu-west-1.amazonaws.com/a/../SimpleNotificationService-9c.pem",
            "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-../x.pem",
            "https://sns.eu-west-1.amazonaws.com/my-bucket/own.pem",
            "https://s3.eu-west-1.amazonaws.com/SimpleNotificationService-9c.pem",
            "https://sns.eu-west-1.amazonaws.com\\@evil.example/SimpleNotificationService-9c.pem",
            "file:///etc/passwd",
            "",
        ] {
            assert!(!topic.certifies(bad), "{bad}");
        }

        let chinese = Topic::read("arn:aws-cn:sns:cn-north-1:1:x").unwrap();
        assert_eq!(chinese.host(), "sns.cn-north-1.amazonaws.com.cn");
        for none in [
            "",
            "arn:aws:sqs:eu-west-1:1:x",
            "arn:aws:sns:eu-west-1:1",
            "arn:aws:sns:evil.example/x:1:x",
            "arn:aws:sns:eu-west-1:1:x:y",
            "arn:aws:sns::1:x",
        ] {
            assert_eq!(Topic::read(none), None, "{none}");
        }
    }

    #[test]
    fn a_token_cannot_lead_a_confirmation_elsewhere() {
        let topic = Topic::read(ARN).unwrap();
        let url = topic
            .confirmation("x&Action=DeleteTopic#@evil.example/")
            .unwrap();
        let url = Url::parse(&url).unwrap();
        assert_eq!(url.host_str(), Some("sns.eu-west-1.amazonaws.com"));
        assert_eq!(url.query_pairs().count(), 3, "{url}");
        assert_eq!(url.fragment(), None);
    }
}
