//! The envelope of a mail: return path and recipients (RFC 5321 §2.3.1).

use super::{Address, MailError};

/// The most recipients of a mail.
pub const MAX_RECIPIENTS: usize = 10_000;

/// A return path and at least one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    return_path: Option<Address>,
    recipients: Vec<Address>,
}

impl Envelope {
    /// Makes an envelope. `return_path` is `None` for the null reverse-path `<>` (RFC 5321 §4.5.5).
    /// Repeated recipients are removed; the first occurrence is kept.
    ///
    /// # Errors
    /// No recipient, or more than [`MAX_RECIPIENTS`].
    pub fn new(return_path: Option<Address>, recipients: Vec<Address>) -> Result<Self, MailError> {
        if recipients.is_empty() {
            return Err(MailError::new("to", "the mail has no recipient"));
        }
        if recipients.len() > MAX_RECIPIENTS {
            let reason = format!(
                "the mail has {} recipients; at most {MAX_RECIPIENTS} are allowed",
                recipients.len()
            );
            return Err(MailError::new("to", reason));
        }

        if recipients.len() == 1 {
            return Ok(Envelope {
                return_path,
                recipients,
            });
        }

        let mut seen = std::collections::HashSet::with_capacity(recipients.len());
        let recipients = recipients
            .into_iter()
            .filter(|recipient| seen.insert(recipient.clone()))
            .collect();

        Ok(Envelope {
            return_path,
            recipients,
        })
    }

    /// The envelope that lettre derived.
    ///
    /// # Errors
    /// The same as [`Envelope::new`]; also an address that is not valid in an envelope, named
    /// `return_path` or `to[…]`.
    pub fn from_lettre(envelope: &lettre::address::Envelope) -> Result<Self, MailError> {
        let read = |field: String, address: &lettre::Address| {
            Address::parse(address.as_ref()).map_err(|error| MailError::new(field, error.reason()))
        };
        let return_path = envelope
            .from()
            .map(|address| read("return_path".into(), address))
            .transpose()?;
        let recipients = envelope.to().iter().enumerate();
        let recipients: Result<Vec<Address>, MailError> = recipients
            .map(|(at, address)| read(format!("to[{at}]"), address))
            .collect();
        Envelope::new(return_path, recipients?)
    }

    /// The address for bounces; `None` for the null reverse-path.
    pub fn return_path(&self) -> Option<&Address> {
        self.return_path.as_ref()
    }

    /// All recipients; never empty.
    pub fn recipients(&self) -> &[Address] {
        &self.recipients
    }
}
