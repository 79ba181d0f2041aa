//! The Received field that is added to a message (RFC 5321 §4.4), kept short.

use std::net::IpAddr;

use crate::mail::Timestamp;

/// How a message was received.
pub(super) struct Trace<'a> {
    /// The client's name in EHLO. Whatever it contains, the result is one field.
    pub client: &'a str,
    /// Whether the client sent EHLO.
    pub extended: bool,
    pub peer: IpAddr,
    /// The listener's own name.
    pub hostname: &'a str,
    pub tls: bool,
    pub login: bool,
    pub smtputf8: bool,
}

impl Trace<'_> {
    /// The field, with its CRLF.
    pub fn field(&self, now: Timestamp) -> String {
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || ".-_:[]".contains(c) {
                c
            } else {
                '?'
            }
        };

        let client: String = self.client.chars().take(255).map(plain).collect();
        let literal = if self.peer.is_ipv6() { "IPv6:" } else { "" };

        let (peer, hostname, protocol, date) =
            (self.peer, self.hostname, self.protocol(), now.to_rfc5322());
        format!(
            "Received: from {client} ([{literal}{peer}])\r\n by {hostname} with {protocol}; \
             {date}\r\n"
        )
    }

    /// The protocol's registered name (RFC 3848, RFC 6531 §4.3).
    fn protocol(&self) -> String {
        let base = match (self.smtputf8, self.extended) {
            (true, _) => "UTF8SMTP",
            (false, true) => "ESMTP",
            (false, false) => return "SMTP".to_owned(),
        };
        let tls = if self.tls { "S" } else { "" };
        let login = if self.login { "A" } else { "" };
        format!("{base}{tls}{login}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_who_from_where_to_whom_how_and_when() {
        let peer = "2001:db8::1".parse().expect("an address");
        let trace = Trace {
            client: "[IPv6:2001:db8::1]",
            extended: true,
            peer,
            hostname: "mail.example",
            tls: true,
            login: true,
            smtputf8: false,
        };

        let expected = "Received: from [IPv6:2001:db8::1] ([IPv6:2001:db8::1])\r\n by mail.example \
                        with ESMTPSA; \
                        Thu, 1 Jan 1970 00:00:00 +0000\r\n";
        assert_eq!(trace.field(Timestamp::from_millis(0)), expected);
        let plain = Trace {
            client: "x\r\nEvil: (1)",
            extended: false,
            tls: false,
            login: false,
            ..trace
        };

        let field = plain.field(Timestamp::MAX);
        assert!(
            field.starts_with("Received: from x??Evil:??1? (") && field.contains(" with SMTP; "),
            "{field}"
        );

        assert_eq!(field.matches("\r\n").count(), 2);
    }
}
