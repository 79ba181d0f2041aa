//! The id of a mail.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Timestamp;

/// Identifies a mail. A UUID of version 7 (RFC 9562 §5.7), so that ids sort by creation time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(
    feature = "server",
    derive(utoipa::ToSchema),
    schema(value_type = String, format = "uuid")
)]
#[serde(transparent)]
pub struct MailId(Uuid);

impl MailId {
    pub(crate) fn generate() -> Self {
        MailId(Uuid::now_v7())
    }

    /// The sixteen bytes of the id; they sort as the id does.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Whether the id contains its creation time. Ids that callers provide may not.
    pub(crate) fn has_creation_time(&self) -> bool {
        self.0.get_version_num() == 7
    }

    /// The creation time, by the clock of the machine that made it.
    pub(crate) fn made_at(&self) -> Timestamp {
        let millis = self.0.as_bytes()[..6].iter();
        Timestamp::from_millis(millis.fold(0, |all, byte| all << 8 | i64::from(*byte)))
    }

    /// The first id that may be created at this time.
    pub(crate) fn first_made_at(at: Timestamp) -> Self {
        MailId::made(at, 0)
    }

    /// The last id that may be created at this time.
    pub(crate) fn last_made_at(at: Timestamp) -> Self {
        MailId::made(at, u8::MAX)
    }

    fn made(at: Timestamp, rest: u8) -> Self {
        let millis = at.as_millis().clamp(0, (1 << 48) - 1).to_be_bytes();
        let mut bytes = [rest; 16];
        bytes[..6].copy_from_slice(&millis[2..]);
        MailId(Uuid::from_bytes(bytes))
    }

    /// The first and last id that start with these hexadecimal digits; `None` if the text is not
    /// the start of an id.
    pub(crate) fn range(digits: &str) -> Option<(Self, Self)> {
        if digits.len() > 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let filled = |with: char| {
            let whole = format!("{digits}{}", String::from(with).repeat(32 - digits.len()));
            Uuid::try_parse(&whole).ok().map(MailId)
        };
        filled('0').zip(filled('f'))
    }

    /// The id with these bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        MailId(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for MailId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for MailId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for MailId {
    type Err = MailIdError;
    fn from_str(text: &str) -> Result<Self, MailIdError> {
        Uuid::try_parse(text)
            .map(MailId)
            .map_err(|_| MailIdError(text.chars().take(64).collect()))
    }
}

/// The text is not a mail's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is not a mail id, which looks like 0199c0de-0000-7000-8000-000000000000",
    .0.escape_debug()
)]
pub struct MailIdError(String);
