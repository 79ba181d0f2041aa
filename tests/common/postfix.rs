//! A whole Postfix, with everything it writes in a directory of the test's own: it wants TLS and a
//! login, and hands all on to a next host. It starts only as root, or as somebody who may use sudo
//! without a password.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::real_servers::is_root;

/// Nothing that is done to it takes this long.
const WAIT_LIMIT: Duration = Duration::from_secs(20);
/// Where its users are.
const REALM: &str = "relay.example";

/// What it wants before it takes a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginRequirement {
    /// STARTTLS, and a login under it.
    LoginUnderTls,
    /// A login, without offering STARTTLS.
    LoginInTheClear,
}

/// A running Postfix; dropping it stops it.
pub struct Postfix {
    dir: tempfile::TempDir,
    address: SocketAddr,
    ca: PathBuf,
}

impl Postfix {
    /// One that knows this user and hands its mail on to `next`.
    pub fn start(wants: LoginRequirement, user: &str, password: &str, next: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap();
        let made =
            rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])
                .unwrap();

        let ca = dir.path().join("cert.pem");
        fs::write(&ca, made.cert.pem()).unwrap();
        fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();

        let postfix = Postfix { dir, address, ca };
        postfix.configure(wants, next);
        postfix.add_user(user, password);
        postfix.run("start");

        let begun = Instant::now();
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            assert!(
                begun.elapsed() < WAIT_LIMIT,
                "postfix does not listen on {address}: {}",
                postfix.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }

        postfix
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate that it shows, which is its own authority.
    pub fn ca(&self) -> &Path {
        &self.ca
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn configure(&self, wants: LoginRequirement, next: SocketAddr) {
        let dir = self.dir.path();
        for name in ["conf/sasl", "queue", "data"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }

        let at = dir.display();
        let (tls, auth_only) = match wants {
            LoginRequirement::LoginUnderTls => ("encrypt", "yes"),
            LoginRequirement::LoginInTheClear => ("none", "no"),
        };

        let mut main = format!(
            "queue_directory = {at}/queue\ndata_directory = {at}/data\nmaillog_file = {at}/log\n"
        );
        write!(
            main,
            "smtpd_tls_cert_file = {at}/cert.pem\nsmtpd_tls_key_file = {at}/key.pem\n"
        )
        .unwrap();

        write!(
            main,
            "smtpd_tls_security_level = {tls}\nsmtpd_tls_auth_only = {auth_only}\n"
        )
        .unwrap();

        write!(
            main,
            "relayhost = [{}]:{}\nsmtpd_sasl_local_domain = {REALM}\n",
            next.ip(),
            next.port()
        )
        .unwrap();

        // Debian's Postfix looks for smtpd.conf in the directory `sasl` below this.
        write!(
            main,
            "cyrus_sasl_config_path = {at}/conf\nmaillog_file_prefixes = /\n"
        )
        .unwrap();

        main.push_str(
            "compatibility_level = 3.6\nmail_owner = postfix\nsetgid_group = postdrop\n\
             inet_interfaces = 127.0.0.1\n\
             inet_protocols = ipv4\nmyhostname = relay.example\nmydestination =\n\
             local_recipient_maps =\n\
             mynetworks =\nalias_maps =\nsmtpd_relay_restrictions = permit_sasl_authenticated, \
             reject\n\
             smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = cyrus\nsmtpd_sasl_path = smtpd\n",
        );

        fs::write(dir.join("conf/main.cf"), main).unwrap();
        fs::write(
            dir.join("conf/master.cf"),
            format!("{} inet n - n - - smtpd\n{SERVICES}", self.address),
        )
        .unwrap();

        let sasl =
            format!("pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {at}/users\n");
        for name in ["conf/smtpd.conf", "conf/sasl/smtpd.conf"] {
            fs::write(dir.join(name), format!("{sasl}mech_list: PLAIN LOGIN\n")).unwrap();
        }
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();

        self.as_root("chown", &["postfix", &format!("{at}/data")]);
    }

    fn add_user(&self, user: &str, password: &str) {
        let users = self.dir.path().join("users");
        let mut command = Command::new("/usr/sbin/saslpasswd2");
        command
            .args(["-p", "-c", "-u", REALM, "-f"])
            .arg(&users)
            .arg(user);

        let spawned = command.stdin(Stdio::piped()).spawn();
        let mut child =
            spawned.unwrap_or_else(|e| panic!("saslpasswd2: {e}; apt-get install sasl2-bin"));
        child
            .stdin
            .take()
            .unwrap()
            .write_all(password.as_bytes())
            .unwrap();

        assert!(child.wait().unwrap().success(), "saslpasswd2 makes no user");
        self.as_root("chown", &["postfix", &users.display().to_string()]);
    }

    fn run(&self, verb: &str) {
        self.as_root(
            "/usr/sbin/postfix",
            &[
                "-c",
                &self.dir.path().join("conf").display().to_string(),
                verb,
            ],
        );
    }

    fn as_root(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(if is_root() { program } else { "sudo" });
        if !is_root() {
            command.args(["-n", program]);
        }
        let output = command.args(arguments).stdin(Stdio::null()).output();
        let output =
            output.unwrap_or_else(|e| panic!("{program}: {e}; apt-get install postfix sasl2-bin"));
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {output:?}\n{}",
            self.log()
        );
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("postfix logged:\n{}", self.log());
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.run("stop")));
        } else {
            self.run("stop");
        }
        if !is_root() {
            self.as_root("rm", &["-rf", &self.dir.path().display().to_string()]);
        }
    }
}

/// What of Postfix runs besides the door.
const SERVICES: &str = "\
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
";
