//! Where the tests keep mail: the one place that says it. In memory and on disk, unless
//! `POSTRIDER_TEST_SPOOL=postgres`: then each test has a schema of its own in a server that all
//! share.
//!
//! A test that is about the files of a spool on disk begins with [`is_of_files`].

use std::path::Path;

use postrider::Builder;

#[cfg(feature = "postgres")]
use postrider::spool::postgres::PostgresSpool;

/// Whether mail is kept in PostgreSQL.
pub fn is_postgres() -> bool {
    match std::env::var("POSTRIDER_TEST_SPOOL").as_deref() {
        Err(_) | Ok("" | "sled") => false,
        Ok("postgres") => true,
        Ok(other) => panic!("POSTRIDER_TEST_SPOOL is {other}; it may be sled or postgres"),
    }
}

/// For tests of what only a spool on disk has, such as its files or its bound: whether they are to
/// be skipped, which is said under their name.
pub fn is_of_files(what: &str) -> bool {
    let skipped = is_postgres();
    if skipped {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        println!("skipped: {test} is about {what}, which a spool on PostgreSQL has not");
    }
    skipped
}

/// Where a dispatcher of a test keeps its mail.
pub trait TestSpool {
    /// In a spool that nothing else opens.
    fn test_spool(self) -> Self;

    /// In the spool of this directory, which another may open after it.
    fn test_spool_in(self, dir: &Path) -> Self;
}

impl TestSpool for Builder {
    fn test_spool(self) -> Self {
        match is_postgres() {
            false => self.spool_in_memory(),
            true => in_schema(self, &format!("t{}", uuid::Uuid::now_v7().simple())),
        }
    }

    fn test_spool_in(self, dir: &Path) -> Self {
        match is_postgres() {
            false => self.spool(dir),
            true => in_schema(self, &schema_of(dir)),
        }
    }
}

/// What a receipt of [`TestSpool::test_spool`] says.
pub fn durability() -> &'static str {
    match is_postgres() {
        false => "in_memory",
        true => "synced",
    }
}

/// The section of a service's configuration for the spool of this directory; more of it may follow.
pub fn section(dir: &Path) -> String {
    match is_postgres() {
        false => format!("[spool]\npath = \"{}\"\n", dir.display()),
        true => format!(
            "[spool]\nurl = \"{}\"\nschema = \"{}\"\nlease = \"5s\"\n",
            url(),
            schema_of(dir)
        ),
    }
}

/// The schema that stands for a directory.
fn schema_of(dir: &Path) -> String {
    let name = dir.as_os_str().as_encoded_bytes();
    let digest = ring::digest::digest(&ring::digest::SHA256, name);
    let hex: String = digest.as_ref()[..12]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("d{hex}")
}

#[cfg(feature = "postgres")]
fn in_schema(builder: Builder, schema: &str) -> Builder {
    let spool = PostgresSpool::new(url()).schema(schema);
    builder.spool_postgres(spool.lease(std::time::Duration::from_secs(5)))
}

#[cfg(feature = "postgres")]
fn url() -> String {
    super::postgres::Server::start().url().to_owned()
}

#[cfg(not(feature = "postgres"))]
fn in_schema(_: Builder, _: &str) -> Builder {
    panic!("the spool on PostgreSQL comes with the feature `postgres`")
}

#[cfg(not(feature = "postgres"))]
fn url() -> String {
    panic!("the spool on PostgreSQL comes with the feature `postgres`")
}
