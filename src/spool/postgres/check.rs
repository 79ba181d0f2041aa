//! Checks whether a database could be opened as a spool, and if not, what must be done about it.
//! Changes nothing.

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::PostgresSpool;
use super::connector::CONNECT_WITHIN;
use super::link::reason;
use super::schema::{self, Migrate, SchemaState};

/// Why a database cannot be used as a spool, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseProblem {
    /// The server does not answer, or lacks resources. This may pass.
    #[error("{0}")]
    Server(String),
    /// There is no database of this name, or it is not suitable.
    #[error("{0}")]
    Name(String),
    /// The role or the password is refused.
    #[error("{0}")]
    Login(String),
    /// The tables are missing or outdated, and would not be created.
    #[error("{0}")]
    Schema(String),
}

impl PostgresSpool {
    /// Connects, and checks that the tables exist or can be created.
    ///
    /// # Errors
    /// The problem, in a text without any password.
    pub async fn probe(&self) -> Result<(), DatabaseProblem> {
        let connector = self
            .connector("postrider check")
            .map_err(DatabaseProblem::Name)?;
        let name = &connector.name;
        let on = match tokio::time::timeout(CONNECT_WITHIN, connector.connect()).await {
            Ok(connected) => connected.map_err(|error| refused(name, &error))?,
            Err(_) => return Err(DatabaseProblem::Server(silent(name, "it does not answer"))),
        };

        let state = schema::state(&on.client, &self.schema).await;
        let state = state.map_err(|error| refused(name, &error))?;
        let role = connector.role();
        let schema = &self.schema;
        match state {
            SchemaState::Ready => Ok(()),
            SchemaState::Older if self.migrate == Migrate::Auto => Ok(()),
            SchemaState::Older => Err(DatabaseProblem::Schema(format!(
                "the tables in {name} are not there or of an older version; run `postrider spool \
                 migrate`, or set `spool.migrate` to auto"
            ))),
            SchemaState::NotUtf8(encoding) => {
                Err(DatabaseProblem::Name(schema::not_utf8(name, &encoding)))
            }
            SchemaState::MayNotBeMade => Err(DatabaseProblem::Schema(format!(
                "{name} has no schema {schema}, and {role} may not make it; as its owner: CREATE \
                 SCHEMA \"{schema}\" AUTHORIZATION \"{role}\""
            ))),
        }
    }
}

fn silent(name: &str, reason: &str) -> String {
    format!("{name} cannot be reached: {reason}; start the server, or name its host and port here")
}

fn refused(name: &str, error: &Error) -> DatabaseProblem {
    let why = reason(error);
    match error.code() {
        Some(&SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => {
            DatabaseProblem::Login(format!(
                "{name} lets this role not in: {why}; give the role's password here, or let it in \
                 in the server's pg_hba.conf"
            ))
        }
        Some(&SqlState::INVALID_CATALOG_NAME) => DatabaseProblem::Name(format!(
            "{name}: {why}; make it with `createdb`, or name another"
        )),
        Some(_) => DatabaseProblem::Server(format!("{name} cannot be used now: {why}")),
        // Errors of the client library itself have no code.
        None if why.contains("password missing") => DatabaseProblem::Login(format!(
            "{name} wants a password, and none is given; set `spool.password_file`"
        )),
        None if why.contains("certificate") => DatabaseProblem::Name(format!(
            "{name}: {why}; name the authority with `sslrootcert`, and the host as its certificate \
             does"
        )),
        None => DatabaseProblem::Server(silent(name, &why)),
    }
}
