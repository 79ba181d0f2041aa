//! The user who runs the command, as the sender of mail without one.

use std::fs;

/// The user's address: the login name at this machine's mail name.
pub fn address() -> String {
    qualified(&whoami::username().unwrap_or_else(|_| "postmaster".to_owned()))
}

/// The user's full name, if the system knows one that is not the login name.
pub fn full_name() -> Option<String> {
    let login = whoami::username().ok();
    let name = whoami::realname().ok().map(|name| name.trim().to_owned());
    name.filter(|name| !name.is_empty() && Some(name) != login.as_ref())
}

/// The address, with this machine's mail name if it has no domain: `root` is
/// `root@host.example.com`.
pub fn qualified(address: &str) -> String {
    if address.contains('@') {
        address.to_owned()
    } else {
        format!("{address}@{}", mail_name())
    }
}

/// The contents of `/etc/mailname`, where Debian and its derivatives keep the domain of local mail;
/// elsewhere the host's name.
pub fn mail_name() -> String {
    let file = fs::read_to_string("/etc/mailname").unwrap_or_default();
    match file.lines().map(str::trim).find(|line| !line.is_empty()) {
        Some(name) => name.to_owned(),
        None => whoami::hostname().unwrap_or_else(|_| "localhost".to_owned()),
    }
}
