//! Access to a whole spool without registering as a node: to copy, verify or export it.

use std::sync::Arc;

use super::PostgresSpool;
use super::connector::check_pooling;
use super::link::{Connected, Link};
use super::routes::RouteNumbers;
use super::schema::{self, Migrate};
use super::session::IS_LAPSED;
use crate::spool::SpoolError;

/// A spool that is opened without registering as a node.
pub(in crate::spool) struct DetachedSpool {
    pub(super) on: Arc<Connected>,
    pub(super) routes: RouteNumbers,
    /// Its name for messages.
    name: String,
}

impl DetachedSpool {
    pub(in crate::spool) async fn open(
        spool: &PostgresSpool,
        migrate: Migrate,
    ) -> Result<Self, SpoolError> {
        let connector = spool.connector("postrider aside");
        let mut connector = connector.map_err(|reason| SpoolError::Unusable {
            database: "of `spool.url`".into(),
            reason,
        })?;
        // Queries over the whole spool may take long.
        connector.answer_timeout = None;
        let connector = Arc::new(connector);
        let name = format!("{}, schema {}", connector.name, spool.schema);

        let on = Link::new(&connector).get().await?;
        check_pooling(&connector, &on, &*Link::new(&connector).get().await?).await?;
        schema::prepare(&on.client, &spool.schema, &connector.name, migrate).await?;
        let detached = DetachedSpool {
            on,
            routes: RouteNumbers::default(),
            name,
        };

        detached
            .routes
            .learn(&detached.on)
            .await
            .map_err(|e| detached.failed(&e))?;
        Ok(detached)
    }

    pub(super) fn failed(&self, error: &tokio_postgres::Error) -> SpoolError {
        SpoolError::Unreachable {
            database: self.name.clone(),
            reason: super::link::reason(error),
        }
    }

    pub(super) fn unusable(&self, reason: impl Into<String>) -> SpoolError {
        SpoolError::Unusable {
            database: self.name.clone(),
            reason: reason.into(),
        }
    }

    /// Fails while a node has the spool open.
    pub(super) async fn check_alone(&self) -> Result<(), SpoolError> {
        let failed = |e: tokio_postgres::Error| self.failed(&e);
        let nodes = self
            .on
            .query(
                &format!("SELECT s.node FROM sessions s WHERE NOT ({IS_LAPSED}) ORDER BY s.id"),
                &[],
            )
            .await
            .map_err(failed)?;

        let nodes: Vec<&str> = nodes.iter().map(|row| row.get(0)).collect();
        if !nodes.is_empty() {
            return Err(self.unusable(format!(
                "these nodes have it open: {}; stop them first",
                nodes.join(", ")
            )));
        }

        Ok(())
    }
}
