//! What the process may do: root's rights are given up, and nothing is written where nothing is to
//! be.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::common::FakeSmtp;
use crate::common::service::{Service, configuration, configured};
use crate::common::test_spool::is_postgres;

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// The four user ids of a process, and its groups.
fn identity_of(pid: u32) -> (String, String) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |name: &str| {
        let found = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        found.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    (line("Uid:"), line("Groups:"))
}

fn id_of(user: &str) -> u32 {
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users
        .lines()
        .find(|line| line.starts_with(&format!("{user}:")))
        .unwrap();
    line.split(':').nth(2).unwrap().parse().unwrap()
}

fn open_to_all(dir: &Path) {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn started_by_root_it_becomes_the_configured_user_once_its_doors_have_their_ports() {
    if !is_root() {
        eprintln!("skipped: only root can become somebody else");
        return;
    }

    let dir = tempfile::tempdir().unwrap();
    open_to_all(dir.path());
    let relay = FakeSmtp::start().await;
    let spool = dir.path().join("var/spool");
    let config = configuration(&spool, &relay.url(), "[service]\nuser = \"nobody\"\n");

    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();

    // Whatever the system holds to be a port of root's own.
    let low = (600..1000).find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok());
    let low = low.unwrap_or(port);
    let config = config.replacen(
        "[smtp]\nlisten = \"127.0.0.1:0\"",
        &format!("[smtp]\nlisten = \"127.0.0.1:{low}\""),
        1,
    );

    let mut service = Service::start(configured(dir.path(), &config));
    assert_eq!(service.smtp.port(), low);
    service.says("the rights of root are given up");
    let nobody = id_of("nobody");

    let (users, groups) = identity_of(service.pid());
    assert_eq!(users, format!("{nobody} {nobody} {nobody} {nobody}"));
    assert!(!groups.split(' ').any(|group| group == "0"), "{groups}");

    // Every thread of it, not the first alone.
    for task in std::fs::read_dir(format!("/proc/{}/task", service.pid())).unwrap() {
        let owner = task.unwrap().metadata().unwrap().uid();
        assert_eq!(owner, nobody);
    }

    let ids = service.hand_in_many("ada", 1, "123456");
    service.become_all(&ids, "delivered");
    let files = [dir.path().join("var"), spool.clone(), spool.join("db")];
    for path in files.iter().filter(|_| !is_postgres()) {
        let metadata = std::fs::metadata(path).unwrap();
        assert_eq!(metadata.uid(), nobody, "{}", path.display());
        assert_eq!(metadata.mode() & 0o077, 0, "{}", path.display());
    }
    assert!(service.stop().success());

    // The second start finds its spool.
    let mut service = Service::start(configured(dir.path(), &config));
    service.says("the rights of root are given up");
    drop(service);

    let config = config.replace("\"nobody\"", "\"no such user\"");
    let refused = configured(dir.path(), &config).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("service.user: there is no user named `no such user`"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn confined_it_writes_its_spool_and_captures_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (captured, elsewhere) = (dir.path().join("captured"), dir.path().join("elsewhere"));
    std::fs::create_dir(&elsewhere).unwrap();
    let config = |into: &Path| {
        let url = format!("capture://{}", into.display());
        configuration(
            &dir.path().join("spool"),
            &url,
            "[service]\nconfine = true\n",
        )
    };

    let command = configured(dir.path(), &config(&captured));
    if !std::fs::read_to_string("/sys/kernel/security/lsm")
        .is_ok_and(|all| all.contains("landlock"))
        && !has_landlock(dir.path(), &config(&captured))
    {
        eprintln!("skipped: this system has no landlock");
        return;
    }

    let mut service = Service::start(command);
    let ids = service.hand_in_many("ada", 1, "123456");
    service.become_all(&ids, "delivered");
    assert_eq!(std::fs::read_dir(&captured).unwrap().count(), 1);

    // A place that it was not told when it began.
    std::fs::write(dir.path().join("postrider.toml"), config(&elsewhere)).unwrap();

    let pid = service.pid().to_string();
    let told = std::process::Command::new("kill")
        .args(["-HUP", &pid])
        .status();
    assert!(told.unwrap().success());
    service.says("the configuration was read again");

    let id = service.hand_in_many("bob", 1, "123456").remove(0);
    service.says("Permission denied");
    let record = service.get(&format!("/v1/mails/{id}"));
    assert!(!record.body.contains("\"delivered\""), "{}", record.body);
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
}

/// Whether a start is refused for want of landlock.
fn has_landlock(dir: &Path, config: &str) -> bool {
    let mut service = configured(dir, config);
    let mut child = service
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    let runs = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    let said = child.wait_with_output().unwrap().stderr;
    runs || !String::from_utf8_lossy(&said).contains("no landlock")
}
