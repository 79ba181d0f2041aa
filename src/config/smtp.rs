//! `[smtp]`: the SMTP submission listener.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use secrecy::SecretString;
use serde::Deserialize;

use super::mistake::MistakeReport;
use super::quota::QuotaSettings;
use super::units::bytes;
use super::{Listen, secret, units};
use crate::ingress::smtp::{self, SmtpSettings};
use crate::ingress::{Networks, TlsFiles};
use crate::mail::Submitter;
use crate::policy::{Quota, Rate};

/// The SMTP submission listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Smtp {
    /// The address that it listens on.
    pub listen: Listen,
    /// The address for connections that are TLS from the first byte (RFC 8314 §3.3).
    pub tls_listen: Listen,
    /// The name in its greeting; this machine's name when absent.
    pub hostname: Option<String>,
    /// The clients' logins. If there is none, no login is needed.
    pub users: Vec<User>,
    /// Networks whose programs need neither a login nor TLS.
    #[serde(deserialize_with = "units::networks")]
    pub trusted_networks: Vec<IpNet>,
    /// The certificate for TLS.
    pub tls: Option<Tls>,
    /// The most connections at once.
    pub max_connections: usize,
    /// The most connections at once from one address.
    pub max_connections_per_peer: usize,
    /// The most recipients of one mail.
    pub max_recipients: usize,
    /// The most memory for mails that are being received, all together.
    #[serde(deserialize_with = "units::size")]
    pub max_memory: ByteSize,
    /// How long a connection may take until its login.
    #[serde(deserialize_with = "units::duration")]
    pub login_timeout: Duration,
    /// After how many failed logins an address is refused for [`Self::ban_time`]; 0 for never.
    pub ban_after: u32,
    /// How long such an address is refused.
    #[serde(deserialize_with = "units::duration")]
    pub ban_time: Duration,
    /// How long to wait for the next command.
    #[serde(deserialize_with = "units::duration")]
    pub idle_timeout: Duration,
    /// How long a message may take to arrive, besides what its size allows.
    #[serde(deserialize_with = "units::duration")]
    pub data_timeout: Duration,
}

/// A client's login.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct User {
    /// The user name for AUTH.
    pub name: String,
    /// The password.
    pub password: Option<SecretString>,
    /// The file with the password.
    pub password_file: Option<PathBuf>,
    /// How many of their deliveries may be pending.
    pub max_pending: Option<u64>,
    /// How many mails they may submit per time.
    #[serde(deserialize_with = "units::rate")]
    pub rate: Option<Rate>,
    /// How many recipients their mails may have on one day.
    pub max_per_day: Option<u64>,
    /// The addresses and domains that they may send from; all when absent.
    pub from: Option<Vec<String>>,
    /// How long after it is submitted a mail may be sent.
    #[serde(deserialize_with = "units::duration")]
    pub max_delay: Duration,
    /// How long after that time a mail may expire.
    #[serde(deserialize_with = "units::duration")]
    pub max_lifetime: Duration,
}

impl Default for User {
    fn default() -> Self {
        let quota = Quota::default();
        User {
            name: String::new(),
            password: None,
            password_file: None,
            max_pending: None,
            rate: None,
            max_per_day: None,
            from: None,
            max_delay: quota.max_delay,
            max_lifetime: quota.max_lifetime,
        }
    }
}

impl User {
    /// Their quota as it is in the file.
    fn asked(&self) -> QuotaSettings<'_> {
        QuotaSettings {
            max_pending: self.max_pending,
            rate: self.rate,
            max_per_day: self.max_per_day,
            from: self.from.as_deref(),
            max_delay: self.max_delay,
            max_lifetime: self.max_lifetime,
        }
    }
}

/// A certificate and its key, in PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The certificate and its chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Default for Smtp {
    fn default() -> Self {
        let limits = smtp::Limits::default();
        Smtp {
            listen: Listen::At(([127, 0, 0, 1], 2525).into()),
            tls_listen: Listen::Off,
            hostname: None,
            users: Vec::new(),
            trusted_networks: Vec::new(),
            tls: None,
            max_connections: limits.connections,
            max_connections_per_peer: limits.connections_per_peer,
            max_recipients: limits.recipients,
            max_memory: ByteSize::b(limits.memory as u64),
            login_timeout: limits.login,
            ban_after: limits.ban_after,
            ban_time: limits.ban_time,
            idle_timeout: limits.idle,
            data_timeout: limits.data,
        }
    }
}

impl Smtp {
    /// The settings of the listener, for messages of at most `message_size`; `None` if it is off.
    /// When it closes, mail that is being received may go on for `drain`.
    pub fn door(&self, message_size: ByteSize, drain: Duration) -> Option<SmtpSettings> {
        let mut door = SmtpSettings::new(self.listen.address()?);
        door.tls_listen = self.tls_listen.address();
        door.tls = self.certificate();
        door.users = self.users();
        door.trusted_networks = Networks::new(self.trusted_networks.clone());
        if let Some(hostname) = &self.hostname {
            door.hostname = hostname.clone();
        }

        door.limits = smtp::Limits {
            connections: self.max_connections,
            connections_per_peer: self.max_connections_per_peer,
            message_size: bytes(message_size),
            memory: bytes(self.max_memory),
            recipients: self.max_recipients,
            login: self.login_timeout,
            ban_after: self.ban_after,
            ban_time: self.ban_time,
            idle: self.idle_timeout,
            data: self.data_timeout,
            drain,
            ..smtp::Limits::default()
        };

        Some(door)
    }

    /// The users, with their passwords.
    pub fn users(&self) -> Vec<smtp::User> {
        let door_user = |user: &User| smtp::User {
            name: user.name.clone(),
            password: user.password.clone().unwrap_or_default(),
        };
        self.users.iter().map(door_user).collect()
    }

    /// The certificate for TLS.
    pub fn certificate(&self) -> Option<TlsFiles> {
        self.tls.as_ref().map(Tls::files)
    }

    /// The quota of each user.
    pub fn quotas(&self) -> impl Iterator<Item = (Submitter, Quota)> {
        let users = self.users.iter();
        users.map(|user| (Submitter::user(&user.name), user.asked().quota()))
    }

    /// Reads the secrets, and has the listener check the rest.
    pub(super) fn check(&mut self, report: &mut MistakeReport<'_>) {
        for (n, user) in self.users.iter_mut().enumerate() {
            let at = format!("smtp.users[{n}]");
            let file = user.password_file.as_deref();
            secret::settle(&mut user.password, file, (&at, "password"), report);
            user.asked().check(&at, report);
            if user.password.is_none() {
                let reason = "is missing; or add `password`";
                report.add(format!("{at}.password_file"), reason);
            }
        }

        if self.tls_listen != Listen::Off && self.listen == Listen::Off {
            report.add(
                "smtp.listen",
                "is off, and smtp.tls_listen is not; give it at least an address on 127.0.0.1",
            );
        }

        if let Some(tls) = &self.tls {
            secret::keep("smtp.tls.key", &tls.key, report);
        }

        // The settings of a listener that is off are checked too.
        let mut asked = self.clone();
        if asked.listen == Listen::Off {
            asked.listen = Listen::At(([127, 0, 0, 1], 0).into());
        }

        let Some(door) = asked.door(ByteSize::mib(1), Duration::ZERO) else {
            return;
        };
        for mistake in door.mistakes() {
            report.add(format!("smtp.{}", mistake.key()), mistake.reason());
        }
    }
}

impl Tls {
    /// The files in the listener's own type.
    pub(super) fn files(&self) -> TlsFiles {
        TlsFiles {
            cert: self.cert.clone(),
            key: self.key.clone(),
        }
    }
}
