//! The numbers of the routes that have queues. Stored beside the queues, and assigned on the
//! writer's thread.

use std::collections::HashMap;

use super::keys::QueueId;
use crate::delivery::Route;

/// All routes that have queues, and their numbers.
#[derive(Default)]
pub(super) struct QueueIds {
    ids: HashMap<Route, QueueId>,
    routes: HashMap<QueueId, Route>,
    last: u32,
}

impl QueueIds {
    pub(super) fn insert(&mut self, route: Route, id: QueueId) {
        self.last = self.last.max(id.0);
        self.routes.insert(id, route.clone());
        self.ids.insert(route, id);
    }

    pub(super) fn id(&self, route: &Route) -> Option<QueueId> {
        self.ids.get(route).copied()
    }

    pub(super) fn route(&self, id: QueueId) -> Option<&Route> {
        self.routes.get(&id)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&Route, QueueId)> {
        self.ids.iter().map(|(route, id)| (route, *id))
    }

    /// A number that no route has. `given` is how many were assigned and are not stored yet.
    pub(super) fn next(&self, given: usize) -> QueueId {
        let given = u32::try_from(given).unwrap_or(u32::MAX);
        QueueId(self.last.saturating_add(given).saturating_add(1))
    }
}
