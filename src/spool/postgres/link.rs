//! Connections to the database: how they are made, and one that is made again when it was lost.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row, SimpleQueryMessage, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::spool::SpoolError;

/// How long a connection may take to be made.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A parameter of a statement.
pub(super) type Param<'a> = &'a (dyn ToSql + Sync);

/// A name as SQL has it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What went wrong, as the server says it, without its query.
pub(super) fn reason(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        let detail = db.detail().map_or(String::new(), |d| format!(" ({d})"));
        return format!("{}{detail}", db.message());
    }

    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }

    text
}

/// What happens to a statement that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum StatementFailure {
    /// The connection or the server is gone, or what the spool needs of it; whether it was done is
    /// not known.
    Gone,
    /// Others were in the way: it was not done, and may be tried again.
    Busy,
    /// A key was there already.
    Exists,
    /// It cannot be done.
    Impossible,
}

/// How a statement failed.
pub(super) fn judge(error: &tokio_postgres::Error) -> StatementFailure {
    let Some(code) = error.code() else {
        return StatementFailure::Gone;
    };
    match code {
        &SqlState::UNIQUE_VIOLATION => StatementFailure::Exists,
        &SqlState::T_R_SERIALIZATION_FAILURE
        | &SqlState::T_R_DEADLOCK_DETECTED
        | &SqlState::LOCK_NOT_AVAILABLE
        | &SqlState::QUERY_CANCELED => StatementFailure::Busy,
        &SqlState::READ_ONLY_SQL_TRANSACTION
        // Somebody took tables or rights away, and can give them back.
        | &SqlState::INVALID_SCHEMA_NAME
        | &SqlState::UNDEFINED_TABLE
        | &SqlState::UNDEFINED_FUNCTION
        | &SqlState::INSUFFICIENT_PRIVILEGE => StatementFailure::Gone,
        other => match &other.code()[..2] {
            // Connection exceptions, too few resources, interventions of an operator, failures of
            // the system.
            "08" | "53" | "57" | "58" => StatementFailure::Gone,
            _ => StatementFailure::Impossible,
        },
    }
}

/// Where the database is, and as whom.
pub(super) struct Connector {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    /// What is done first on each connection.
    setup: String,
    /// Its name for people: host, port and database, without a password.
    pub name: String,
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
        if config.get_hosts().is_empty() {
            config.host_path("/var/run/postgresql");
        }

        config
            .application_name(application)
            .connect_timeout(CONNECT_WITHIN)
            .keepalives_idle(Duration::from_secs(5))
            .keepalives_interval(Duration::from_secs(2))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(10));

        let is_local = config.get_hosts().iter().all(|host| match host {
            Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(is_loopback),
            Host::Unix(_) => true,
        });

        let wants_tls = match extra.mode.as_deref() {
            Some("disable") => false,
            Some("allow" | "prefer") | None => !is_local || extra.roots.is_some(),
            Some("require" | "verify-ca" | "verify-full") => true,
            Some(other) => {
                return Err(format!(
                    "sslmode is `{}`; it may be disable, require or verify-full",
                    other.escape_debug()
                ));
            }
        };

        config.ssl_mode(if wants_tls {
            SslMode::Require
        } else {
            SslMode::Disable
        });

        let tls = match wants_tls {
            true => Some(MakeRustlsConnect::new(client_config(
                extra.roots.as_deref(),
            )?)),
            false => None,
        };

        Ok(Connector {
            name: name_of(&config),
            config,
            tls,
            setup: setup(schema),
        })
    }

    /// Makes a connection, which is driven by a task of its own.
    pub(super) async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        let client = match &self.tls {
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                tokio::spawn(drive(connection));
                client
            }
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                tokio::spawn(drive(connection));
                client
            }
        };

        client.batch_execute(&self.setup).await?;
        Ok(client)
    }

    /// As whom.
    pub(super) fn role(&self) -> &str {
        self.config.get_user().unwrap_or_default()
    }

    pub(super) fn unreachable(&self, reason: impl Into<String>) -> SpoolError {
        SpoolError::Unreachable {
            database: self.name.clone(),
            reason: reason.into(),
        }
    }

    /// What a failed statement means to whoever asked.
    pub(super) fn error(&self, error: &tokio_postgres::Error) -> SpoolError {
        match judge(error) {
            StatementFailure::Gone | StatementFailure::Busy => self.unreachable(reason(error)),
            StatementFailure::Exists | StatementFailure::Impossible => {
                SpoolError::Unreadable(format!("{}: {}", self.name, reason(error)))
            }
        }
    }
}

/// Refuses a pool that gives each transaction whichever connection is free: settings, prepared
/// statements and transactions of this node would be mixed with others'. Two connections that one
/// server process serves tell it.
pub(super) async fn check_pooling(
    connector: &Connector,
    one: &Connected,
    other: &Connected,
) -> Result<(), SpoolError> {
    let pid = async |on: &Connected| {
        let asked = on.client.simple_query("SELECT pg_backend_pid()").await?;
        let row = asked.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok::<_, tokio_postgres::Error>(row)
    };

    let pids = async { Ok((pid(one).await?, pid(other).await?)) };
    let (first, second) = pids.await.map_err(|e| connector.error(&e))?;
    if first == second {
        return Err(SpoolError::Unusable {
            database: connector.name.clone(),
            reason: "it is behind a pool that shares connections between transactions (pgbouncer with pool_mode = transaction or statement); use pool_mode = session, or name the server itself".into(),
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

fn is_loopback(address: std::net::IpAddr) -> bool {
    address.is_loopback()
}

/// What holds on every connection. The planner is held to the plans that the indices are made for:
/// it would change them whenever statistics are taken of an empty queue.
fn setup(schema: &str) -> String {
    let schema = quoted(schema);
    format!(
        "SET search_path TO {schema}, pg_catalog;
        SET client_min_messages TO warning;
        SET statement_timeout TO '60s';
        SET lock_timeout TO '20s';
        SET idle_in_transaction_session_timeout TO '5s';
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

/// Takes out of a URL what libpq has and the client below does not.
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

/// Whom to trust: the public authorities, or those in this file.
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

/// A connection with the statements that were prepared on it.
pub(super) struct Connected {
    pub client: Client,
    prepared: Mutex<HashMap<String, Statement>>,
}

impl Connected {
    async fn statement(&self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        let known = self.prepared.lock().get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.client.prepare(sql).await?;
        self.prepared
            .lock()
            .insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Prepares a statement, so that it is sent at once when it is asked.
    pub(super) async fn prepare(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.statement(sql).await.map(|_| ())
    }

    pub(super) async fn query(
        &self,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let statement = self.statement(sql).await?;
        self.client.query(&statement, params).await
    }

    pub(super) async fn execute(
        &self,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<u64, tokio_postgres::Error> {
        let statement = self.statement(sql).await?;
        self.client.execute(&statement, params).await
    }

    /// Begins a transaction. Whatever ends it without `commit` must discard the connection or roll
    /// back.
    pub(super) async fn begin(&self) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute("BEGIN").await
    }

    pub(super) async fn commit(&self) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute("COMMIT").await
    }

    pub(super) async fn rollback(&self) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute("ROLLBACK").await
    }
}

/// A connection that is made anew where it was lost.
pub(super) struct Link {
    connector: Arc<Connector>,
    connected: AsyncMutex<Option<Arc<Connected>>>,
}

impl Link {
    pub(super) fn new(connector: &Arc<Connector>) -> Self {
        Link {
            connector: Arc::clone(connector),
            connected: AsyncMutex::new(None),
        }
    }

    /// The connection.
    pub(super) async fn get(&self) -> Result<Arc<Connected>, SpoolError> {
        let mut connected = self.connected.lock().await;
        if let Some(there) = &*connected
            && !there.client.is_closed()
        {
            return Ok(Arc::clone(there));
        }
        *connected = None;

        let made = tokio::time::timeout(CONNECT_WITHIN, self.connector.connect()).await;
        let client = match made {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(self.connector.unreachable(reason(&error))),
            Err(_) => return Err(self.connector.unreachable("it does not answer")),
        };

        let made = Arc::new(Connected {
            client,
            prepared: Mutex::default(),
        });
        *connected = Some(Arc::clone(&made));

        Ok(made)
    }

    /// Has there be a connection that can write. One that was made while the database was read-only
    /// stays so when the database is not any more: it is let go of.
    pub(super) async fn check_writable(&self) -> Result<(), SpoolError> {
        let on = self.get().await?;
        let asked = on.query("SHOW transaction_read_only", &[]).await;
        let is_read_only = asked.map(|rows| rows.iter().any(|row| row.get::<_, &str>(0) == "on"));
        let reason = match is_read_only {
            Ok(false) => return Ok(()),
            Ok(true) => "it is read-only".to_owned(),
            Err(error) => reason(&error),
        };
        self.discard().await;
        Err(self.connector.unreachable(reason))
    }

    /// Lets go of the connection, of which it is not known in which state it is.
    pub(super) async fn discard(&self) {
        *self.connected.lock().await = None;
    }
}
