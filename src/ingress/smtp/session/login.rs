//! A session's security: STARTTLS (RFC 3207) and AUTH (RFC 4954).

use std::time::Instant;

use super::super::auth::{self, LoginStep, Mechanism};
use super::{ConnectionSecurity, ExpectedInput, SessionStep, SmtpSession};

/// The reply to a banned address.
pub(in crate::ingress::smtp) const TOO_MANY_FAILED: &str =
    "too many failed logins from your address; try again later";

impl SmtpSession {
    pub(super) fn start_tls(&mut self, input: &mut &[u8]) -> Option<SessionStep> {
        match self.security {
            ConnectionSecurity::Tls => {
                self.mistake_of(503, "5.5.1", "the connection is secured already")
            }
            ConnectionSecurity::Plain => {
                self.mistake_of(502, "5.5.1", "STARTTLS is not offered here")
            }
            ConnectionSecurity::Offered if input.is_empty() => {
                self.say(220, "2.0.0", "begin");
                return Some(SessionStep::StartTls);
            }
            // These bytes may come from somebody other than the TLS client.
            ConnectionSecurity::Offered => {
                self.say(
                    554,
                    "5.5.1",
                    "nothing may follow STARTTLS before the handshake",
                );
                self.closing = true;
            }
        }

        None
    }

    pub(super) fn needs_login(&self) -> bool {
        let is_for_some = self.knows_users() || !self.context.trusted.is_empty();
        is_for_some && !self.is_trusted()
    }

    /// Whether there are users who can log in.
    pub(super) fn knows_users(&self) -> bool {
        !self.context.users.is_empty()
    }

    /// Whether a login is safe: with TLS, or over a trusted network.
    pub(super) fn may_log_in(&self) -> bool {
        self.security == ConnectionSecurity::Tls || self.peer.is_loopback() || self.is_trusted()
    }

    fn is_trusted(&self) -> bool {
        self.context.trusted.contain(self.peer)
    }

    pub(super) fn begin_login(
        &mut self,
        mechanism: Mechanism,
        initial: Option<&str>,
    ) -> Option<SessionStep> {
        if self.client.is_none() || self.user.is_some() || self.transaction.is_some() {
            self.mistake_of(503, "5.5.1", "AUTH comes once, after EHLO and before MAIL");
        } else if !self.knows_users() {
            self.mistake_of(502, "5.5.1", "AUTH is not offered here: no login is needed");
        } else if !self.may_log_in() {
            self.mistake_of(
                538,
                "5.7.11",
                "no password is taken in the clear; begin with STARTTLS",
            );
        } else if self.context.guard.bans(self.peer, Instant::now()) {
            self.hang_up("4.7.0", TOO_MANY_FAILED);
        } else {
            let progress = auth::begin(mechanism, initial, &self.context.users);
            return self.login(progress);
        }

        None
    }

    pub(super) fn login(&mut self, progress: LoginStep) -> Option<SessionStep> {
        match progress {
            LoginStep::Challenge(challenge, exchange) => {
                self.expects = ExpectedInput::Login(exchange);
                self.say(334, "", challenge);
            }
            LoginStep::LoggedIn(name) => {
                self.user = Some(name);
                self.say(235, "2.7.0", "welcome");
            }
            LoginStep::Cancelled => self.mistake_of(501, "5.7.0", "login cancelled"),
            LoginStep::Malformed => self.mistake_of(
                501,
                "5.5.2",
                "that is not what the mechanism says, in base64",
            ),
            LoginStep::Refused(name) => {
                tracing::warn!(peer = %self.peer, user = ?name, "smtp login refused");
                self.failed_logins += 1;
                self.mistake_of(535, "5.7.8", "the name or the password is wrong");
                if self.failed_logins >= self.context.limits.failed_logins && !self.closing {
                    self.hang_up("4.7.0", "too many failed logins");
                }
                return Some(SessionStep::Penalty(name));
            }
        }

        None
    }
}
