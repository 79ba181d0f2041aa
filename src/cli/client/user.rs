//! Who runs the command, as the sender of mail that names none.

use std::fs;

/// The address of whoever runs the command: the login name at this machine's mail name.
pub fn address() -> String {
    qualified(&whoami::username().unwrap_or_else(|_| "postmaster".to_owned()))
}

/// The full name of whoever runs the command, where the system knows one that is not the login
/// name.
pub fn full_name() -> Option<String> {
    let login = whoami::username().ok();
    let name = whoami::realname().ok().map(|name| name.trim().to_owned());
    name.filter(|name| !name.is_empty() && Some(name) != login.as_ref())
}

/// The address with this machine's mail name where it has no domain: `root` is
/// `root@host.example.com`.
pub fn qualified(address: &str) -> String {
    if address.contains('@') {
        address.to_owned()
    } else {
        format!("{address}@{}", mail_name())
    }
}

/// What stands in `/etc/mailname`, where Debian and its kin keep the domain of local mail; the
/// host's name elsewhere.
pub fn mail_name() -> String {
    let file = fs::read_to_string("/etc/mailname").unwrap_or_default();
    match file.lines().map(str::trim).find(|line| !line.is_empty()) {
        Some(name) => name.to_owned(),
        None => whoami::hostname().unwrap_or_else(|_| "localhost".to_owned()),
    }
}
