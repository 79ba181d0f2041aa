//! A connection to the database, its statements, and the meaning of their errors. A lost connection
//! is opened again.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::AbortHandle;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::connector::{CONNECT_WITHIN, Connector};
use crate::spool::SpoolError;

/// A parameter of a statement.
pub(super) type Param<'a> = &'a (dyn ToSql + Sync);

/// A name, quoted for SQL.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The server's error text, without the statement.
pub(super) fn reason(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        if db.code() == &SqlState::LOCK_NOT_AVAILABLE {
            return format!("others have locked what is needed: {}", db.message());
        }
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

/// What a failed statement means for the caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum StatementFailure {
    /// The connection or the server is lost, and whether the statement was done is unknown; or this
    /// server is read-only, and another may not be.
    Gone,
    /// The server lacks something, such as disk space or privileges. The statement was not done,
    /// and a retry would fail as well.
    Lacking,
    /// A conflict with others: the statement was not done, and may be tried again.
    Busy,
    /// A key existed already.
    Exists,
    /// The statement itself is refused.
    Impossible,
}

impl StatementFailure {
    /// Whether the statement is at fault, so that a retry would fail again.
    pub(super) fn is_statements_fault(self) -> bool {
        matches!(
            self,
            StatementFailure::Exists | StatementFailure::Impossible
        )
    }

    /// Whether to treat the database as unavailable.
    pub(super) fn is_outage(self) -> bool {
        matches!(self, StatementFailure::Gone | StatementFailure::Lacking)
    }
}

/// Classifies the error of a statement.
pub(super) fn judge(error: &tokio_postgres::Error) -> StatementFailure {
    let Some(said) = error.as_db_error() else {
        return StatementFailure::Gone;
    };
    // The server closes the connection after such an error.
    if let Some(Severity::Fatal | Severity::Panic) = said.parsed_severity() {
        return StatementFailure::Gone;
    }

    match said.code() {
        &SqlState::UNIQUE_VIOLATION => StatementFailure::Exists,
        &SqlState::T_R_SERIALIZATION_FAILURE
        | &SqlState::T_R_DEADLOCK_DETECTED
        | &SqlState::LOCK_NOT_AVAILABLE
        | &SqlState::QUERY_CANCELED => StatementFailure::Busy,
        &SqlState::READ_ONLY_SQL_TRANSACTION => StatementFailure::Gone,
        // Tables or privileges were removed, and can be restored.
        &SqlState::INVALID_SCHEMA_NAME
        | &SqlState::UNDEFINED_TABLE
        | &SqlState::UNDEFINED_FUNCTION
        | &SqlState::INSUFFICIENT_PRIVILEGE => StatementFailure::Lacking,
        other => match &other.code()[..2] {
            // Connection exceptions; intervention of an operator.
            "08" | "57" => StatementFailure::Gone,
            // Insufficient resources; system errors.
            "53" | "58" => StatementFailure::Lacking,
            _ => StatementFailure::Impossible,
        },
    }
}

/// Writes a record and waits until it is on disk, and with it all that was committed before: the
/// log of the database is written in order. Without that record the server would not wait. A
/// standby refuses the number of a transaction as it refuses other writes.
const FLUSH: &str =
    "SELECT pg_current_xact_id() IS NULL, pg_logical_emit_message(true, 'postrider', '')";

/// A connection with its prepared statements.
pub(super) struct Connected {
    pub client: Client,
    prepared: Mutex<HashMap<String, Statement>>,
    /// The task that reads and writes the socket. Once aborted, all statements fail.
    driver: AbortHandle,
    /// How long an answer may take.
    answer_timeout: Option<Duration>,
}

impl Connected {
    pub(super) fn new(
        client: Client,
        driver: AbortHandle,
        answer_timeout: Option<Duration>,
    ) -> Self {
        Connected {
            client,
            prepared: Mutex::default(),
            driver,
            answer_timeout,
        }
    }

    /// Waits for an answer. The server's own time-out is shorter; if no answer comes even then, the
    /// network has lost the connection without an error.
    async fn answered<T>(
        &self,
        asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, tokio_postgres::Error> {
        let Some(answer_timeout) = self.answer_timeout else {
            return asked.await;
        };
        let mut asked = pin!(asked);
        tokio::select! {
            biased;
            answer = &mut asked => answer,
            () = tokio::time::sleep(answer_timeout) => {
                self.driver.abort();
                asked.await
            }
        }
    }

    async fn statement(&self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        let known = self.prepared.lock().get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.answered(self.client.prepare(sql)).await?;
        self.prepared
            .lock()
            .insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Prepares a statement, so that it can be sent without a delay later.
    pub(super) async fn prepare(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.statement(sql).await.map(|_| ())
    }

    pub(super) async fn query(
        &self,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let statement = self.statement(sql).await?;
        self.answered(self.client.query(&statement, params)).await
    }

    /// Runs a statement whose commit does not wait for the disk (see `head`), and waits until it
    /// is there. If that is not known, the connection is closed, as after a statement without an
    /// answer.
    pub(super) async fn query_and_flush(
        &self,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        // Both are prepared first, so that the second is sent right behind the first.
        let prepared = futures::try_join!(self.statement(sql), self.statement(FLUSH));
        let (statement, flush) = prepared?;
        let asked = self.answered(self.client.query(&statement, params));
        let flushed = self.answered(self.client.query(&flush, &[]));
        let (rows, flushed) = futures::join!(asked, flushed);

        let rows = rows?;
        if flushed.is_err() {
            self.driver.abort();
            self.flush().await?;
        }
        Ok(rows)
    }

    /// Waits until all that was committed so far is on disk, by whatever connection: before it is
    /// acted upon or confirmed to anybody.
    pub(super) async fn flush(&self) -> Result<(), tokio_postgres::Error> {
        self.query(FLUSH, &[]).await.map(|_| ())
    }

    pub(super) async fn execute(
        &self,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<u64, tokio_postgres::Error> {
        let statement = self.statement(sql).await?;
        self.answered(self.client.execute(&statement, params)).await
    }

    /// Runs statements without parameters or results.
    pub(super) async fn execute_all(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.answered(self.client.batch_execute(sql)).await
    }

    /// Begins a transaction. If it does not end with `commit`, the caller must roll it back or
    /// discard the connection.
    pub(super) async fn begin(&self) -> Result<(), tokio_postgres::Error> {
        self.execute_all("BEGIN").await
    }

    pub(super) async fn commit(&self) -> Result<(), tokio_postgres::Error> {
        self.execute_all("COMMIT").await
    }

    pub(super) async fn rollback(&self) -> Result<(), tokio_postgres::Error> {
        self.execute_all("ROLLBACK").await
    }
}

/// A connection that is reopened when it is lost.
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

    /// The connection, opened if necessary.
    pub(super) async fn get(&self) -> Result<Arc<Connected>, SpoolError> {
        let mut connected = self.connected.lock().await;
        if let Some(there) = &*connected
            && !there.client.is_closed()
        {
            return Ok(Arc::clone(there));
        }
        *connected = None;

        let made = tokio::time::timeout(CONNECT_WITHIN, self.connector.connect()).await;
        let made = match made {
            Ok(Ok(made)) => Arc::new(made),
            Ok(Err(error)) => return Err(self.connector.unreachable(reason(&error))),
            Err(_) => return Err(self.connector.unreachable("it does not answer")),
        };
        *connected = Some(Arc::clone(&made));

        Ok(made)
    }

    /// Checks within this time that the connection can write, and discards it otherwise: one that
    /// was opened while the database was read-only stays read-only, and one that the network has
    /// lost stays silent.
    pub(super) async fn check_writable(&self, within: Duration) -> Result<(), SpoolError> {
        let asked = async {
            let on = self.get().await?;
            let rows = on.query("SHOW transaction_read_only", &[]).await;
            let rows = rows.map_err(|error| self.connector.unreachable(reason(&error)))?;
            match rows.iter().any(|row| row.get::<_, &str>(0) == "on") {
                true => Err(self.connector.unreachable("it is read-only")),
                false => Ok(()),
            }
        };
        let checked = match tokio::time::timeout(within, asked).await {
            Ok(checked) => checked,
            Err(_) => Err(self.connector.unreachable("it does not answer")),
        };

        if checked.is_err() {
            self.discard().await;
        }
        checked
    }

    /// Closes the connection, whose state is unknown. Statements that are waiting on it fail.
    pub(super) async fn discard(&self) {
        if let Some(there) = self.connected.lock().await.take() {
            there.driver.abort();
        }
    }
}
