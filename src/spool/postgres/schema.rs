//! Creates and upgrades the tables. Each step runs once, in one transaction, under a lock that all
//! nodes of a schema share.

use std::time::Duration;

use tokio_postgres::Client;

use super::link::{Connected, StatementFailure, judge, quoted, reason};
use crate::spool::SpoolError;

/// The steps, in order. A released step is never changed.
const STEPS: &[&str] = &[
    include_str!("migrations/0001.sql"),
    include_str!("migrations/0002.sql"),
    include_str!("migrations/0003.sql"),
    include_str!("migrations/0004.sql"),
    include_str!("migrations/0005.sql"),
    include_str!("migrations/0006.sql"),
    include_str!("migrations/0007.sql"),
    include_str!("migrations/0008.sql"),
    include_str!("migrations/0009.sql"),
    include_str!("migrations/0010.sql"),
    include_str!("migrations/0011.sql"),
    include_str!("migrations/0012.sql"),
    include_str!("migrations/0013.sql"),
];

/// How often a step is tried after a conflict, and the pause in between. A step waits only briefly
/// for a table's lock, because all other statements on the table queue behind it.
const STEP_TRIES: usize = 10;
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Whether opening a spool creates and upgrades its tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Migrate {
    /// Missing tables are created, older ones upgraded.
    #[default]
    Auto,
    /// Nothing is changed. If tables are missing or outdated, the spool is not opened.
    Check,
}

/// Upgrades the schema to this version, or says why it cannot be used.
pub(super) async fn prepare(
    client: &Client,
    schema: &str,
    database: &str,
    migrate: Migrate,
) -> Result<(), SpoolError> {
    let unusable = |reason: String| SpoolError::Unusable {
        database: database.to_owned(),
        reason,
    };

    let failed = |error: tokio_postgres::Error| unusable(reason(&error));
    if let Some(encoding) = other_encoding(client).await.map_err(failed)? {
        return Err(unusable(not_utf8("it", &encoding)));
    }
    let version = version(client, schema).await.map_err(failed)?;
    let newest = STEPS.len();
    if version == newest {
        return Ok(());
    }

    if version > newest {
        // Steps only add what an older node does not need.
        tracing::warn!(version, newest, "the spool's tables are of a newer version");
        return Ok(());
    }

    if migrate == Migrate::Check {
        return Err(unusable(format!(
            "its schema {schema} has version {version} of the tables and {newest} is needed; run \
            `postrider spool migrate`, or set `migrate` to auto"
        )));
    }

    for _ in 1..STEP_TRIES {
        match make(client, schema, version).await {
            Err(error) if judge(&error) == StatementFailure::Busy => {
                tracing::info!(
                    reason = reason(&error),
                    "the tables are in use; making them is tried again"
                );
                client.batch_execute("ROLLBACK").await.map_err(failed)?;
                tokio::time::sleep(RETRY_AFTER).await;
            }
            made => return made.map_err(failed),
        }
    }
    make(client, schema, version).await.map_err(failed)
}

/// The database's encoding, if it cannot store all characters.
async fn other_encoding(client: &Client) -> Result<Option<String>, tokio_postgres::Error> {
    let asked = "SELECT pg_catalog.current_setting('server_encoding')";
    let encoding: String = client.query_one(asked, &[]).await?.get(0);
    Ok(Some(encoding).filter(|encoding| encoding != "UTF8"))
}

pub(super) fn not_utf8(database: &str, encoding: &str) -> String {
    format!(
        "{database} has the encoding {encoding}, which cannot hold every address; make one with \
        `createdb -E UTF8 -T template0`"
    )
}

/// The state of the tables, from the point of view of this role.
pub(super) enum SchemaState {
    /// The database's encoding is not UTF8, but this.
    NotUtf8(String),
    /// Up to date, or newer.
    Ready,
    /// Missing or outdated.
    Older,
    /// The schema is missing, and this role may not create it.
    MayNotBeMade,
}

/// Finds out the state of the tables; changes nothing.
pub(super) async fn state(
    client: &Client,
    schema: &str,
) -> Result<SchemaState, tokio_postgres::Error> {
    if let Some(encoding) = other_encoding(client).await? {
        return Ok(SchemaState::NotUtf8(encoding));
    }
    let may_be_made = client
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)
               OR has_database_privilege(current_database(), 'CREATE')",
            &[&schema],
        )
        .await?;

    if !may_be_made.get::<_, bool>(0) {
        return Ok(SchemaState::MayNotBeMade);
    }
    Ok(match version(client, schema).await? < STEPS.len() {
        true => SchemaState::Older,
        false => SchemaState::Ready,
    })
}

/// The version of a schema's tables; 0 if there are none.
pub(super) async fn version(client: &Client, schema: &str) -> Result<usize, tokio_postgres::Error> {
    let there = client
        .query_one(
            "SELECT to_regclass($1) IS NOT NULL",
            &[&format!("{}.migrations", quoted(schema))],
        )
        .await?;
    if !there.get::<_, bool>(0) {
        return Ok(0);
    }
    let steps = format!("SELECT count(*) FROM {}.migrations", quoted(schema));
    let count: i64 = client.query_one(&steps, &[]).await?.get(0);
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

/// Lets the numbers of a table's new rows go on behind those that are there, where they begin
/// again: whoever restored the tables did not restore the sequences.
pub(super) async fn advance_ids(on: &Connected, table: &str) -> Result<(), tokio_postgres::Error> {
    tracing::warn!(
        table,
        "new rows got numbers that others have; they go on behind those"
    );
    on.query(
        &format!(
            "SELECT setval(pg_get_serial_sequence($1, 'id'), (SELECT max(id) FROM {table})::int8)"
        ),
        &[&table],
    )
    .await
    .map(|_| ())
}

async fn make(client: &Client, schema: &str, seen: usize) -> Result<(), tokio_postgres::Error> {
    let name = quoted(schema);
    client.batch_execute("BEGIN").await?;
    client
        .execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('postrider ' || $1, 0))",
            &[&schema],
        )
        .await?;

    if seen == 0 {
        let there = client
            .query_opt("SELECT FROM pg_namespace WHERE nspname = $1", &[&schema])
            .await?;
        if there.is_none() {
            // Skipped if the schema exists: the statement would need the privilege to create
            // schemas.
            client
                .batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS {name}"))
                .await?;
        }
        client
            .batch_execute(&format!(
                "CREATE TABLE IF NOT EXISTS {name}.migrations (step int PRIMARY KEY, \
                at timestamptz NOT NULL DEFAULT now())"
            ))
            .await?;
    }

    let done = version(client, schema).await?;
    for (number, step) in (1i32..).zip(STEPS).skip(done) {
        client
            .batch_execute(&format!(
                "SET LOCAL search_path TO {name}; SET LOCAL lock_timeout TO '2s'; \
                SET LOCAL statement_timeout TO 0"
            ))
            .await?;
        client
            .batch_execute(&step.replace("{schema}", &name))
            .await?;
        client
            .execute(
                &format!("INSERT INTO {name}.migrations (step) VALUES ($1)"),
                &[&number],
            )
            .await?;
        tracing::info!(step = number, schema, "the spool's tables were made anew");
    }

    client.batch_execute("COMMIT").await
}
