//! What a server's text says where its codes do not. `fault.rs` asks; the kinds and their phrases
//! are those of Postfix, Exim, Sendmail, OpenSMTPD, Haraka and Stalwart, and of the large
//! providers.
//!
//! *Invariant:* a text that speaks of one recipient, one sender or one message is never taken to
//! speak of us or of the system, unless it says so in plain words.

use std::net::IpAddr;

/// What a text speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// So many mails in one session.
    SessionLimit,
    /// So many recipients in one transaction.
    TooManyRecipients,
    /// A place where each new sender has to wait once.
    Greylisting,
    /// Who we are, not what we send: our address, our login, our account and its quota.
    Client,
    /// The system's disk, load, connections or configuration.
    System,
    /// A block list, or an address that is blocked: ours, as far as one can tell.
    Blocked,
    /// Nothing is passed on from us, or not to there.
    Relaying,
    /// Access or permission is denied, or something failed inside: to us, or to this mail.
    Doubt,
    /// The mail's sender.
    Sender,
    /// The mail's recipient.
    Recipient,
    /// The message and what is in it.
    Content,
}

/// A list of phrases. Words stand in this order with nothing between them; `*` stands for any
/// words, `~` at the end of a word for any ending, `#` for an IP address.
type Phrases = &'static [&'static str];

const ACCOUNT: Phrases = &[
    "sending quota",
    "sending limit~",
    "send limit",
    "sending rate",
    "send rate",
    "daily user sending",
    "daily sending",
    "daily limit",
    "daily quota",
    "daily message",
    "daily*relay*limit",
    "email quota",
    "message quota",
    "hourly limit",
    "hourly quota",
    "24 hour~",
    "per hour",
    "per day",
    "per minute",
    "per second",
    "this hour",
    "this minute",
    "throttl~",
    "rate limit~",
    "ratelimit~",
    "frequency limit~",
    "messaging limit~",
    "rate exceeded",
    "exceeded*rate",
    "too fast",
    "too much mail from",
    "too many mails from",
    "too many messages from",
    "too many emails",
    "too many recipients from",
    "credits exceeded",
    "credit exceeded",
    "out of credit~",
    "enough credit~",
    "no credit~",
    "insufficient credit~",
    "sending*suspended",
    "sending*paused",
    "sending*disabled",
    "sending activity",
    "spam abuse detected",
    "bad outbound sender",
    "your account",
    "smtp account",
    "account*activated",
    "account*pending approval",
    "account under validation",
    "free accounts",
    "tenant*threshold",
    "tenant*exceeded",
    "exceeded permitted limits",
    "not authorized to perform",
    "unusual rate",
    "unusual volume",
    "unexpected volume",
];

const LOGIN: Phrases = &[
    "authentication required",
    "authentication is required",
    "authentication needed",
    "requires authentication",
    "require authentication",
    "proper authentication",
    "basic authentication",
    "authenticate first",
    "please authenticate",
    "must authenticate",
    "must be authenticated",
    "need to authenticate",
    "not authenticated",
    "unauthenticated senders",
    "unauthenticated commands",
    "authentication failed",
    "authentication failure",
    "authentication unsuccessful",
    "authentication error",
    "log in first",
    "login first",
    "must log in",
    "must login",
    "need to log in",
    "please log in",
    "please login",
    "not logged in",
    "login required",
    "login attempts",
    "login denied",
    "auth first",
    "auth required",
    "send auth",
    "use smtp auth",
    "invalid credentials",
    "bad credentials",
    "credentials invalid",
    "wrong password",
    "api key",
    "api token",
    "starttls",
    "encryption required",
    "requires encryption",
    "tls required",
    "tls is required",
    "requires tls",
    "must use tls",
    "secure connection",
];

const ADDRESS: Phrases = &[
    "client host",
    "client address",
    "client ip",
    "your ip",
    "your ips",
    "this ip",
    "sending ip",
    "source ip",
    "connecting ip",
    "remote ip",
    "originating ip",
    "the ip you",
    "ip address sending",
    "unauthorized ip",
    "unauthorised ip",
    "ip*not authorized",
    "ip*not authorised",
    "ip*not allowed",
    "ip not in whitelist",
    "ip*not whitelisted",
    "ip name lookup",
    "ip name possibly",
    "traffic not accepted",
    "connections will not be accepted",
    "connections from",
    "connects from",
    "your access to",
    "spam ip",
    "messages from #",
    "messages from*weren t sent",
    "mail from #",
    "ptr record~",
    "dns ptr",
    "no ptr",
    "reverse dns",
    "rdns",
    "reverse hostname",
    "your hostname",
    "your host",
    "your server",
    "your network",
    "your mta",
    "mta s poor reputation",
    "helo",
    "ehlo",
];

const SYSTEM: Phrases = &[
    "insufficient system",
    "insufficient disk",
    "insufficient resources",
    "insufficient storage",
    "system storage",
    "system resources",
    "disk full",
    "disk is full",
    "disk space",
    "out of disk",
    "no space",
    "space shortage",
    "queue full",
    "queue is full",
    "queue file",
    "mail system full",
    "server busy",
    "server is busy",
    "system busy",
    "system is busy",
    "service busy",
    "too busy",
    "overload~",
    "load too high",
    "load average",
    "high load",
    "system load",
    "not accepting",
    "not currently accepting",
    "unable to accept",
    "cannot accept*at this time",
    "cannot accept*right now",
    "server configuration",
    "local configuration",
    "configuration problem",
    "configuration error",
    "shutting down",
    "shutdown",
    "going down",
    "restarting",
    "maintenance",
    "service unavailable",
    "service not available",
    "service is unavailable",
    "service is currently unavailable",
    "service is temporarily",
    "service is not available",
    "service currently unavailable",
    "service temporarily",
    "server unavailable",
    "server temporarily",
    "server is temporarily",
    "system unavailable",
    "system temporarily",
    "try another server",
    "too many connections",
    "too many concurrent",
    "too many open",
    "too many simultaneous",
    "too many sessions",
    "concurrent connections",
    "concurrent smtp connections",
    "concurrent sessions",
    "concurrent server connections",
    "connection limit",
    "connections limit",
    "connection rate",
    "maximum*connections",
    "backend failure",
    "thread limit",
    "out of memory",
    "resources temporarily",
    "resource temporarily",
];

const BLOCK_LISTS: Phrases = &[
    "blocked using",
    "black list~",
    "blacklist~",
    "block list~",
    "blocklist~",
    "denylist~",
    "dnsbl~",
    "rbl",
    "spamhaus",
    "spamcop",
    "barracuda",
    "sorbs",
    "poor reputation",
    "bad reputation",
];

const REFUSALS: Phrases = &[
    "blocked",
    "listed",
    "banned",
    "reputation",
    "denied",
    "rejected",
    "refused",
    "not allowed",
    "not permitted",
    "not accepted",
];

const RELAYING: Phrases = &[
    "relay access denied",
    "relaying denied",
    "relay denied",
    "relaying not",
    "relaying is not",
    "relaying disallowed",
    "relaying prohibited",
    "relay not",
    "relay*prohibited",
    "relay*rejected",
    "not permitted to relay",
    "not allowed to relay",
    "unable to relay",
    "cannot relay",
    "can t relay",
    "cannot deliver mail for",
    "we do not relay",
    "rcpthosts",
    "open relay",
];

const DOUBT: Phrases = &[
    "access denied",
    "access rejected",
    "access to this mail system",
    "permission denied",
    "not permitted",
    "not authorized",
    "not authorised",
    "unauthorized",
    "not allowed",
    "prohibited",
    "administrative prohibition",
    "administratively",
    "connection refused",
    "connection rejected",
    "identities failed the check",
    "sandbox",
    "internal error",
    "internal server error",
    "internal failure",
    "internal resource~",
    "local error",
    "local problem",
    "server error",
    "system error",
    "system problem",
    "temporary failure",
    "temporary error",
    "content filter",
    "milter",
];

const SENDER: Phrases = &[
    "sender address",
    "sender domain",
    "sender s domain",
    "sender rejected",
    "sender verify",
    "sender verification",
    "sender identity",
    "sender signature",
    "sender id",
    "sender not",
    "sender is not",
    "invalid sender",
    "unverified sender",
    "this sender",
    "envelope sender",
    "domain of sender",
    "send as",
    "sendas~",
    "send mail as",
    "send email as",
    "on behalf",
    "from address",
    "from header",
    "from domain",
    "return path",
    "allowed to send from",
    "allowed to use this",
    "not owned by",
    "dbl",
    "spf",
    "dkim",
    "dmarc",
];

/// A sender's signature and policy: what fails there is not our login (RFC 7601).
const SENDERS_PROOF: Phrases = &["spf", "dkim", "dmarc", "sender authentication"];

const RECIPIENT: Phrases = &[
    "recipient address",
    "recipient rejected",
    "recipient unknown",
    "recipient not",
    "recipient is",
    "recipient s",
    "recipient has",
    "recipient does",
    "this recipient",
    "the recipient",
    "invalid recipient",
    "no valid recipient~",
    "unknown recipient",
    "no such",
    "user unknown",
    "unknown user",
    "user not",
    "user is",
    "user s",
    "user does",
    "unknown address",
    "invalid address",
    "address unknown",
    "address not found",
    "unknown mailbox",
    "mailbox~",
    "inbox",
    "does not exist",
    "doesn t exist",
    "doesn t have",
    "not exist",
    "not found",
    "undeliverable",
    "unrouteable",
    "unroutable",
    "over quota",
    "tried to reach",
    "no longer",
    "not a valid",
    "inactive",
    "suppressed",
    "suppression",
    "authorized to send to",
    "permission to send to",
    "delivery not authorized",
    "distribution",
];

/// A recipient's room: its quota is not ours.
const RECIPIENTS_ROOM: Phrases = &[
    "mailbox is",
    "mailbox full",
    "mailbox quota",
    "mailbox has",
    "mailbox for",
    "mailbox size",
    "mailbox busy",
    "mailbox temporarily",
    "inbox",
    "over quota",
    "user s quota",
    "user is",
    "recipient s",
    "recipient has",
    "recipient @",
    "recipient is",
    "recipient address",
    "for recipient",
    "receiving",
    "tried to reach",
];

const CONTENT: Phrases = &[
    "this message",
    "the message",
    "your message",
    "message content~",
    "message size",
    "too large",
    "too big",
    "content",
    "contents",
    "body",
    "attachment~",
    "virus~",
    "infected",
    "malware",
    "phish~",
    "url",
    "urls",
    "uri",
    "link",
    "links",
    "header~",
    "subject",
    "format",
    "spam",
    "junk",
    "unsolicited",
    "bulk",
    "policy",
    "policies",
    "surbl",
    "uribl",
    "dbl",
    "spf",
    "dkim",
    "dmarc",
];

/// Said to recipients that would be taken in a transaction of their own.
const BY_ITSELF: Phrases = &[
    "per transaction",
    "one transaction",
    "single transaction",
    "same transaction",
    "only one recipient",
    "one recipient at a time",
];

const GREYLISTING: Phrases = &[
    "greylist~",
    "graylist~",
    "grey list~",
    "gray list~",
    "postgrey~",
];

impl Words {
    #[cfg(test)]
    pub(super) fn name(self) -> &'static str {
        match self {
            Words::SessionLimit => "speaks of mails in this session",
            Words::TooManyRecipients => "speaks of too many recipients",
            Words::Greylisting => "speaks of greylisting",
            Words::Client => "speaks of our address, login, account or quota",
            Words::System => "speaks of the system's storage, load, connections or configuration",
            Words::Blocked => "speaks of a block list or a blocked address",
            Words::Relaying => "refuses to relay",
            Words::Doubt => "denies access or permission, or speaks of a failure inside",
            Words::Sender => "speaks of the mail's sender",
            Words::Recipient => "speaks of the mail's recipient",
            Words::Content => "speaks of the message, spam or policy",
        }
    }

    pub(super) fn are_in(self, text: &Text) -> bool {
        let any = |phrases: Phrases| text.has_any(phrases);
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
                let is_anothers = any(GREYLISTING) || any(SENDERS_PROOF) || any(RECIPIENTS_ROOM);
                is_ours && !is_anothers
            }
            Words::System => {
                any(SYSTEM) && !any(GREYLISTING) && !any(SENDER) && !any(RECIPIENTS_ROOM)
            }
            Words::Blocked => {
                let names_address = any(&["#", "ip"]);
                let is_blocked = any(BLOCK_LISTS) || names_address && any(REFUSALS);
                let is_anothers = any(GREYLISTING)
                    || any(RECIPIENT)
                    || any(SENDER)
                    || any(&["sender"]) && !names_address;
                is_blocked && !is_anothers
            }
            Words::Relaying => any(RELAYING),
            Words::Doubt => any(DOUBT) && !any(GREYLISTING) && !any(SENDER) && !any(RECIPIENT),
            Words::Sender => any(SENDER),
            Words::Recipient => any(RECIPIENT),
            Words::Content => any(CONTENT),
        }
    }
}

/// A server's text as words: lower case, one space before, between and behind them, `#` for an IP
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
                // The space behind it is the one before the next.
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
        let is_number = any(&["message~", "mails", "transaction~"])
            && !any(&[
                "hour~", "day", "daily", "minute~", "second~", "rate", "quota~", "from",
            ]);

        let is_other = any(&[
            "size",
            "recipient~",
            "idle",
            "timeout",
            "timed out",
            "concurrent",
            "too many sessions",
        ]);

        is_limit && (is_session || is_number) && !is_other
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
