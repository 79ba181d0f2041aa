//! Opens connections to the database: to which servers, as which role, with or without TLS, and
//! with which settings.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::{Config, NoTls, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::link::{Connected, StatementFailure, judge, quoted, reason};
use crate::spool::SpoolError;

/// The time-out for opening a connection.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long to wait for one server before the next in the URL is tried in parallel.
const HEAD_START: Duration = Duration::from_millis(250);
/// How long an answer may take: longer than the server's own time-out for a statement.
const ANSWER_WITHIN: Duration = Duration::from_secs(65);
/// How often to check whether a connection pool is in between.
const POOL_CHECKS: usize = 8;

/// The address of the database, and the role.
pub(super) struct Connector {
    /// The servers of the URL. One of them is used.
    servers: Vec<DatabaseServer>,
    tls: Option<MakeRustlsConnect>,
    role: String,
    /// The statements that are run first on each connection.
    setup: String,
    /// Its name for messages: host, port and database, without a password.
    pub name: String,
    /// How long an answer may take.
    pub answer_timeout: Option<Duration>,
}

/// One server with its configuration.
struct DatabaseServer {
    config: Config,
    is_encrypted: bool,
}

impl Connector {
    pub(super) fn new(
        url: &str,
        password: Option<&str>,
        schema: &str,
        application: &str,
    ) -> Result<Self, String> {
        let (url, extra) = without_tls_parameters(url);
        let mut config = Config::from_str(&url).map_err(|e| reason(&e))?;
        if let Some(password) = password {
            config.password(password);
        }
        if config.get_user().is_none() {
            config.user("postrider");
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            config.host_path("/var/run/postgresql");
        }
        config.application_name(application);

        let servers = servers(&config, &extra)?;
        let tls = match servers.iter().any(|server| server.is_encrypted) {
            true => Some(MakeRustlsConnect::new(client_config(
                extra.roots.as_deref(),
            )?)),
            false => None,
        };

        Ok(Connector {
            name: name_of(&config),
            role: config.get_user().unwrap_or_default().to_owned(),
            servers,
            tls,
            setup: setup(schema),
            answer_timeout: Some(ANSWER_WITHIN),
        })
    }

    /// Opens a connection and spawns the task that drives it. With several servers, each is tried a
    /// little after the one before, so that one that does not answer does not block the others.
    pub(super) async fn connect(&self) -> Result<Connected, tokio_postgres::Error> {
        let tries = self.servers.iter().zip(0u32..).map(|(server, number)| {
            Box::pin(async move {
                tokio::time::sleep(HEAD_START * number).await;
                self.connect_to(server).await
            })
        });
        let (connected, _) = futures::future::select_ok(tries).await?;
        Ok(connected)
    }

    async fn connect_to(
        &self,
        server: &DatabaseServer,
    ) -> Result<Connected, tokio_postgres::Error> {
        let (client, driver) = match &self.tls {
            Some(tls) if server.is_encrypted => {
                let (client, connection) = server.config.connect(tls.clone()).await?;
                (client, tokio::spawn(drive(connection)))
            }
            _ => {
                let (client, connection) = server.config.connect(NoTls).await?;
                (client, tokio::spawn(drive(connection)))
            }
        };

        client.batch_execute(&self.setup).await?;
        let driver = driver.abort_handle();
        Ok(Connected::new(client, driver, self.answer_timeout))
    }

    /// The role.
    pub(super) fn role(&self) -> &str {
        &self.role
    }

    pub(super) fn unreachable(&self, reason: impl Into<String>) -> SpoolError {
        SpoolError::Unreachable {
            database: self.name.clone(),
            reason: reason.into(),
        }
    }

    /// The error for the caller of a failed statement.
    pub(super) fn error(&self, error: &tokio_postgres::Error) -> SpoolError {
        match judge(error) {
            StatementFailure::Gone | StatementFailure::Lacking | StatementFailure::Busy => {
                self.unreachable(reason(error))
            }
            StatementFailure::Exists | StatementFailure::Impossible => {
                SpoolError::Unreadable(format!("{}: {}", self.name, reason(error)))
            }
        }
    }
}

/// Refuses a pool in transaction mode: settings, prepared statements and transactions of this node
/// would be mixed with those of others. It is detected when one server process serves two
/// connections, or several serve one; other clients of the pool may hide this for a while.
pub(super) async fn check_pooling(
    connector: &Connector,
    one: &Connected,
    other: &Connected,
) -> Result<(), SpoolError> {
    let pid = async |on: &Connected| {
        let asked = on.client.simple_query("SELECT pg_backend_pid()").await;
        let asked = asked.map_err(|e| connector.error(&e))?;
        let row = asked.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok::<_, SpoolError>(row)
    };

    let first = (pid(one).await?, pid(other).await?);
    let mut is_shared = first.0 == first.1;
    for _ in 0..POOL_CHECKS {
        is_shared |= (pid(one).await?, pid(other).await?) != first;
    }
    if is_shared {
        return Err(SpoolError::Unusable {
            database: connector.name.clone(),
            reason: "it is behind a pool that shares connections between transactions (pgbouncer \
                with pool_mode = transaction or statement); use pool_mode = session, or name the \
                server itself"
                .into(),
        });
    }

    Ok(())
}

async fn drive<S, T>(connection: tokio_postgres::Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    if let Err(error) = connection.await {
        tracing::debug!(
            error = reason(&error),
            "a connection to the database has ended"
        );
    }
}

/// The servers of a configuration, each with a configuration of its own.
fn servers(config: &Config, extra: &TlsParameters) -> Result<Vec<DatabaseServer>, String> {
    let (hosts, addresses) = (config.get_hosts(), config.get_hostaddrs());
    let ports = config.get_ports();
    let count = hosts.len().max(addresses.len());
    if (!hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len())
        || (ports.len() > 1 && ports.len() != count)
    {
        return Err(format!(
            "it names {} hosts, {} addresses and {} ports; give each host one, or all the same \
            port",
            hosts.len(),
            addresses.len(),
            ports.len()
        ));
    }

    (0..count)
        .map(|n| server(config, extra, n, count > 1))
        .collect()
}

fn server(
    config: &Config,
    extra: &TlsParameters,
    n: usize,
    has_others: bool,
) -> Result<DatabaseServer, String> {
    let host = config.get_hosts().get(n);
    let is_encrypted = is_encrypted(host, extra)?;
    let mut one = Config::new();
    if let Some(user) = config.get_user() {
        one.user(user);
    }
    if let Some(password) = config.get_password() {
        one.password(password);
    }
    if let Some(database) = config.get_dbname() {
        one.dbname(database);
    }
    if let Some(options) = config.get_options() {
        one.options(options);
    }
    if let Some(application) = config.get_application_name() {
        one.application_name(application);
    }

    match host {
        Some(Host::Tcp(name)) => _ = one.host(name),
        Some(Host::Unix(path)) => _ = one.host_path(path),
        None => {}
    }
    if let Some(address) = config.get_hostaddrs().get(n) {
        one.hostaddr(*address);
    }
    let ports = config.get_ports();
    if let Some(port) = ports.get(n).or(ports.first()) {
        one.port(*port);
    }

    // With several servers, the writable one is wanted; a standby might answer first.
    one.target_session_attrs(match config.get_target_session_attrs() {
        TargetSessionAttrs::Any if has_others => TargetSessionAttrs::ReadWrite,
        wanted => wanted,
    });

    one.ssl_mode(match is_encrypted {
        true => SslMode::Require,
        false => SslMode::Disable,
    })
    .ssl_negotiation(config.get_ssl_negotiation())
    .channel_binding(config.get_channel_binding())
    .load_balance_hosts(config.get_load_balance_hosts())
    .connect_timeout(CONNECT_WITHIN / 2)
    .keepalives_idle(Duration::from_secs(5))
    .keepalives_interval(Duration::from_secs(2))
    .keepalives_retries(3)
    .tcp_user_timeout(Duration::from_secs(10));

    Ok(DatabaseServer {
        config: one,
        is_encrypted,
    })
}

/// Whether a connection to this host uses TLS: always to another machine, unless the URL disables
/// it. As in libpq, a Unix socket never uses TLS.
fn is_encrypted(host: Option<&Host>, extra: &TlsParameters) -> Result<bool, String> {
    let is_local = match host {
        Some(Host::Unix(_)) => return Ok(false),
        Some(Host::Tcp(name)) => name == "localhost" || name.parse().is_ok_and(is_loopback),
        None => false,
    };

    match extra.mode.as_deref() {
        Some("disable") => Ok(false),
        Some("allow" | "prefer") | None => Ok(!is_local || extra.roots.is_some()),
        Some("require" | "verify-ca" | "verify-full") => Ok(true),
        Some(other) => Err(format!(
            "sslmode is `{}`; it may be disable, require or verify-full",
            other.escape_debug()
        )),
    }
}

fn is_loopback(address: std::net::IpAddr) -> bool {
    address.is_loopback()
}

/// The settings of every connection. The planner is restricted to the plans for which the indices
/// were made: it would choose others after statistics were collected on an empty queue.
fn setup(schema: &str) -> String {
    let schema = quoted(schema);
    format!(
        "SET search_path TO {schema}, pg_catalog;
        SET client_min_messages TO warning;
        SET statement_timeout TO '60s';
        SET lock_timeout TO '5s';
        SET idle_in_transaction_session_timeout TO '5s';
        SELECT set_config(name, '0', false) FROM pg_catalog.pg_settings
          WHERE name IN ('idle_session_timeout', 'transaction_timeout');
        SET tcp_keepalives_idle TO 5;
        SET tcp_keepalives_interval TO 2;
        SET tcp_keepalives_count TO 3;
        SET tcp_user_timeout TO 10000;
        SET enable_seqscan TO off;
        SET enable_bitmapscan TO off;
        SET enable_sort TO off;
        SET enable_hashjoin TO off;
        SET enable_mergejoin TO off;
        SET plan_cache_mode TO force_generic_plan;
        SET jit TO off;
        SET default_transaction_isolation TO 'read committed'"
    )
}

fn name_of(config: &Config) -> String {
    let ports = config.get_ports();
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .enumerate()
        .map(|(n, host)| {
            let port = ports.get(n).or(ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(path) => format!("{}:{port}", path.display()),
            }
        })
        .collect();

    let database = config.get_dbname().or(config.get_user()).unwrap_or("");
    format!("{}/{database}", hosts.join(","))
}

#[derive(Default)]
struct TlsParameters {
    mode: Option<String>,
    roots: Option<PathBuf>,
}

/// Removes from a URL the TLS parameters of libpq that the client library does not know.
fn without_tls_parameters(url: &str) -> (String, TlsParameters) {
    let mut tls = TlsParameters::default();
    let Some((base, query)) = url.split_once('?') else {
        return (url.to_owned(), tls);
    };

    let mut left = Vec::new();
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
        match key {
            // The value of libpq 14 and later for a server that is writable and no standby.
            "target_session_attrs" if value == "primary" => {
                left.push("target_session_attrs=read-write");
            }
            "sslmode" => tls.mode = Some(value.into_owned()),
            "sslrootcert" if value != "system" => tls.roots = Some(PathBuf::from(&*value)),
            "sslrootcert" => {}
            _ => left.push(pair),
        }
    }

    let query = left.join("&");
    let url = if query.is_empty() {
        base.to_owned()
    } else {
        format!("{base}?{query}")
    };

    (url, tls)
}

/// The TLS configuration: it trusts the public authorities, or those in this file.
fn client_config(roots: Option<&Path>) -> Result<ClientConfig, String> {
    let roots = match roots {
        None => RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        },
        Some(path) => {
            let fail = |reason: String| format!("sslrootcert {}: {reason}", path.display());
            let pem = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|e| fail(e.to_string()))?;
                roots.add(certificate).map_err(|e| fail(e.to_string()))?;
            }
            if roots.is_empty() {
                return Err(fail("holds no certificate in PEM form".into()));
            }
            roots
        }
    };

    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();

    Ok(config)
}
