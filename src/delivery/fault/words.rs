//! Recognizes what a server's text is about, where its codes do not say so. Used by `fault.rs`; the
//! phrases are in `phrases.rs`.
//!
//! *Invariant:* a text about one recipient, one sender or one message never counts as one about us
//! or the system, unless it clearly says so.

use std::net::IpAddr;

use super::phrases::*;

/// What a text is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// The number of mails in one session.
    SessionLimit,
    /// The number of recipients in one transaction.
    TooManyRecipients,
    /// Greylisting: a new sender has to wait once.
    Greylisting,
    /// Us rather than the mail: our address, our login, our account and its quota.
    Client,
    /// Our account may not send; the words can mean nothing else.
    Account,
    /// A quota that may be the recipient's or ours.
    Quota,
    /// The recipient's mailbox has no room.
    FullMailbox,
    /// An account is disabled: ours or the recipient's.
    ShutAccount,
    /// The system's disk, load, connections or configuration.
    System,
    /// An IP address that is blocked or listed, probably ours.
    Blocked,
    /// A block list, without saying who is on it.
    Listed,
    /// Relaying is refused, to us or for this domain.
    Relaying,
    /// Access or permission is denied, or there is an internal error: because of us, or of this
    /// mail.
    Doubt,
    /// The mail's sender.
    Sender,
    /// The mail's recipient.
    Recipient,
    /// The message or its content.
    Content,
}

impl Words {
    #[cfg(test)]
    pub(super) fn name(self) -> &'static str {
        match self {
            Words::SessionLimit => "mentions the mails of this session",
            Words::TooManyRecipients => "mentions too many recipients",
            Words::Greylisting => "mentions greylisting",
            Words::Client => "mentions our address, login, account or quota",
            Words::Account => "says that our account may not send",
            Words::Quota => "mentions a quota, and not whose",
            Words::FullMailbox => "says that a mailbox is full",
            Words::ShutAccount => "says that an account is disabled",
            Words::System => "mentions the system's storage, load, connections or configuration",
            Words::Blocked => "mentions a blocked IP address",
            Words::Listed => "mentions a block list",
            Words::Relaying => "refuses to relay",
            Words::Doubt => "denies access or permission, or mentions an internal failure",
            Words::Sender => "mentions the mail's sender",
            Words::Recipient => "mentions the mail's recipient",
            Words::Content => "mentions the message, spam or policy",
        }
    }

    pub(super) fn are_in(self, text: &Text) -> bool {
        let any = |phrases: Phrases| text.has_any(phrases);
        let is_about_the_mail = || any(GREYLISTING) || any(RECIPIENT) || any(SENDER);

        match self {
            Words::SessionLimit => text.is_about_the_session(),
            Words::TooManyRecipients => {
                let is_number = any(&["recipient~", "rcpt~"])
                    && any(&["too many", "maximum", "limit~", "exceed~"]);
                (is_number || any(BY_ITSELF)) && !any(ACCOUNT)
            }
            Words::Greylisting => any(GREYLISTING),
            Words::Client => {
                let is_ours = any(ACCOUNT) || any(LOGIN) || any(ADDRESS);
                let is_about_the_mail = any(GREYLISTING)
                    || any(SENDERS_PROOF)
                    || text.without_prefix().has_any(RECIPIENTS_ROOM)
                    || any(RESTRICTED)
                    || any(SIZE);
                is_ours && !is_about_the_mail
            }
            Words::Account => any(ACCOUNT_ALONE),
            Words::Quota => any(&["quota~"]) && !any(RECIPIENT) && !any(OTHER_QUOTAS) && !any(SIZE),
            Words::FullMailbox => any(FULL_MAILBOX),
            Words::ShutAccount => any(SHUT_ACCOUNT),
            Words::System => {
                any(SYSTEM) && !any(GREYLISTING) && !any(SENDER) && !any(RECIPIENTS_ROOM)
            }
            Words::Blocked => {
                let is_blocked = any(BLOCK_LISTS) || any(REFUSALS);
                any(&["#", "ip"]) && is_blocked && !is_about_the_mail()
            }
            Words::Listed => any(BLOCK_LISTS) && !any(&["@", "sender"]) && !is_about_the_mail(),
            Words::Relaying => any(RELAYING),
            Words::Doubt => any(DOUBT) && !any(GREYLISTING) && !any(SENDER) && !any(RECIPIENT),
            Words::Sender => any(SENDER),
            Words::Recipient => any(RECIPIENT) || any(RESTRICTED),
            Words::Content => any(CONTENT),
        }
    }
}

/// A server's text as words: lower case, one space before, between and after them, `#` for an IP
/// address and `@` for a mail address.
pub(super) struct Text(String);

impl Text {
    pub(super) fn read(text: &str) -> Self {
        let mut words = String::from(" ");
        let is_between = |c: char| !(c.is_alphanumeric() || matches!(c, '.' | ':' | '@'));
        for word in text.split(is_between) {
            let word = word.trim_end_matches(['.', ':']).trim_start_matches('.');
            let word = word.strip_prefix("IPv6:").unwrap_or(word);
            if word.is_empty() {
                continue;
            } else if word.parse::<IpAddr>().is_ok() {
                words.push('#');
            } else if word.contains('@') {
                words.push('@');
            } else {
                // `ip:1.2.3.4`, `query.spamhaus.org`: each part is a word of its own.
                for part in word.split([':', '.']).filter(|part| !part.is_empty()) {
                    words.push_str(&part.to_lowercase());
                    words.push(' ');
                }
                continue;
            }
            words.push(' ');
        }

        Text(words)
    }

    /// Without what Postfix puts before whatever is refused at RCPT, also where it is our rate.
    fn without_prefix(&self) -> Text {
        Text(self.0.replacen(" recipient address rejected ", " ", 1))
    }

    fn has_any(&self, phrases: Phrases) -> bool {
        phrases.iter().any(|phrase| self.has(phrase))
    }

    fn has(&self, phrase: &str) -> bool {
        let mut rest = self.0.as_str();
        phrase.split('*').all(|part| {
            let wanted = match part.strip_suffix('~') {
                Some(stem) => format!(" {stem}"),
                None => format!(" {part} "),
            };
            let found = rest.find(&wanted);
            if let Some(at) = found {
                // The space after this word is also the one before the next.
                rest = &rest[at + wanted.len() - 1..];
            }
            found.is_some()
        })
    }

    fn is_about_the_session(&self) -> bool {
        let any = |phrases: Phrases| self.has_any(phrases);
        let is_limit = any(&[
            "too many", "maximum~", "limit~", "exceed~", "no more", "reached",
        ]);
        let is_session = any(&["session~", "per connection", "this connection"]);
        let is_one = is_session || any(&["one connection", "single connection"]);
        let is_all_of_it = is_one && any(&["only", "allowed"]);
        let is_number = any(&["message~", "mails", "transaction~"])
            && !any(&[
                "hour~", "day", "daily", "minute~", "second~", "rate", "quota~", "from",
            ]);

        let is_size = any(&["size"]) && !any(&["session size"]);
        // A limit of recipients is one of the transaction, unless the text names the session.
        let is_other = any(&[
            "idle",
            "timeout",
            "timed out",
            "concurrent",
            "too many sessions",
        ]);
        let is_this = any(&[
            "this session",
            "per session",
            "this connection",
            "per connection",
        ]);
        let is_other = is_other || any(&["recipient~"]) && !is_this;

        (is_limit && (is_session || is_number) || is_all_of_it) && !is_size && !is_other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speaks(text: &str, words: Words) -> bool {
        words.are_in(&Text::read(text))
    }

    #[test]
    fn a_text_is_read_as_words() {
        let text =
            Text::read("Client host [192.0.2.1] blocked; see https://x.org/?ip=::1, <A@b.c>.");
        assert_eq!(text.0, " client host # blocked see https x org ip # @ ");
        assert!(text.has("client*see"));
        assert!(text.has("block~"));
        assert!(!text.has("block"));
        assert!(!text.has("see*client"));
    }

    #[test]
    fn a_recipients_quota_is_not_ours() {
        for text in [
            "The email account that you tried to reach is over quota",
            "Mailbox full, daily limit reached",
            "the user is receiving mail at a rate that is too high, rate limit",
            "Requested action not taken: mailbox temporarily unavailable, server busy",
        ] {
            assert!(!speaks(text, Words::Client), "{text}");
            assert!(!speaks(text, Words::System), "{text}");
        }

        assert!(speaks(
            "Requested mail action not taken: mailbox unavailable, Mail send limit exceeded",
            Words::Client
        ));
    }

    #[test]
    fn a_senders_proof_is_not_our_login() {
        let text = "Authentication required: neither SPF nor DKIM passes for your IP";
        assert!(!speaks(text, Words::Client));
    }
}
