//! The numbers by which rows refer to routes.

use std::collections::HashMap;

use parking_lot::RwLock;

use super::link::{Connected, StatementFailure, judge};
use super::rows::route_text;
use super::schema;
use crate::delivery::Route;

/// The routes that this node knows. Other nodes may add some; a number never changes its meaning.
#[derive(Default)]
pub(super) struct RouteNumbers {
    known: RwLock<KnownRoutes>,
}

#[derive(Default)]
struct KnownRoutes {
    ids: HashMap<Route, i32>,
    names: HashMap<i32, Route>,
}

const ALL: &str = "SELECT id, name FROM routes";

impl KnownRoutes {
    fn add(&mut self, rows: &[tokio_postgres::Row]) {
        for row in rows {
            let (id, name): (i32, String) = (row.get(0), row.get(1));
            let route = Route::from(name);
            self.ids.insert(route.clone(), id);
            self.names.insert(id, route);
        }
    }
}

impl RouteNumbers {
    pub(super) fn name(&self, id: i32) -> Option<Route> {
        self.known.read().names.get(&id).cloned()
    }

    pub(super) fn id(&self, route: &Route) -> Option<i32> {
        self.known.read().ids.get(route).copied()
    }

    /// All known routes with their numbers.
    pub(super) fn all(&self) -> Vec<(i32, Route)> {
        let known = self.known.read();
        known
            .names
            .iter()
            .map(|(id, route)| (*id, route.clone()))
            .collect()
    }

    /// Reads all routes from the database.
    pub(super) async fn learn(&self, on: &Connected) -> Result<(), tokio_postgres::Error> {
        let rows = on.query(ALL, &[]).await?;
        self.known.write().add(&rows);
        Ok(())
    }

    /// The same, and forgets those that are not there any more: the database has lost them.
    pub(super) async fn learn_anew(&self, on: &Connected) -> Result<(), tokio_postgres::Error> {
        let mut anew = KnownRoutes::default();
        anew.add(&on.query(ALL, &[]).await?);
        *self.known.write() = anew;
        Ok(())
    }

    /// Assigns numbers to new routes. Not part of a transaction, so that no node waits for another,
    /// and no number is remembered whose transaction was rolled back.
    pub(super) async fn name_all(
        &self,
        on: &Connected,
        routes: impl IntoIterator<Item = &Route>,
    ) -> Result<(), tokio_postgres::Error> {
        let mut new: Vec<String> = routes
            .into_iter()
            .filter(|route| self.id(route).is_none())
            .map(route_text)
            .collect();

        if new.is_empty() {
            return Ok(());
        }
        new.sort();
        new.dedup();

        let insert = "INSERT INTO routes (name) SELECT n FROM unnest($1::text[]) n
             WHERE NOT EXISTS (SELECT FROM routes WHERE name = n) ORDER BY n
             ON CONFLICT (name) DO NOTHING";
        if let Err(error) = on.execute(insert, &[&new]).await {
            if judge(&error) != StatementFailure::Exists {
                return Err(error);
            }
            schema::advance_ids(on, "routes").await?;
            on.execute(insert, &[&new]).await?;
        }

        self.learn(on).await
    }

    /// Reads the routes of these numbers that are not known yet.
    pub(super) async fn learn_those(
        &self,
        on: &Connected,
        rows: &[tokio_postgres::Row],
    ) -> Result<(), tokio_postgres::Error> {
        let unknown = {
            let known = self.known.read();
            rows.iter()
                .any(|row| !known.names.contains_key(&row.get::<_, i32>("route")))
        };
        if unknown {
            self.learn(on).await?;
        }
        Ok(())
    }
}
