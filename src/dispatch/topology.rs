//! The relays, routes and weights of a configuration, checked and ready for use. Made by a start
//! and by each reload.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Error;
use super::report::RelayKind;
use crate::delivery::Route;
use crate::policy::{Match, Rate, RouteRule, Routes, Weights};
use crate::transport::{Kind, Relay, Transport};

/// A relay, ready for use.
#[derive(Clone)]
pub(super) struct RelayPlan {
    pub name: Arc<str>,
    pub kind: RelayKind,
    pub transport: Arc<dyn Transport>,
    /// The connections and rate of this node.
    pub connections: usize,
    pub idle_timeout: Duration,
    pub rate: Option<Rate>,
    /// The connections and rate of all nodes together.
    whole: (usize, Option<Rate>),
}

/// The relays and routes.
pub(super) struct Topology {
    pub relays: Vec<RelayPlan>,
    /// The rules that choose a delivery's route.
    pub rules: Routes,
    /// All routes and their remainders, without duplicates.
    pub routes: Vec<Route>,
    /// Routes that existed earlier in this process. Mail that was being sent or accepted when they
    /// were removed may still be queued for them.
    pub former_routes: Vec<Route>,
    /// The route for such mail.
    pub fallback: Route,
    pub weights: Weights,
    /// The index of each relay in `relays`.
    by_name: HashMap<Arc<str>, usize>,
}

impl Topology {
    /// Checks relays and routes, and creates the transports.
    ///
    /// # Errors
    /// [`Error::Configuration`] or [`Error::Relay`].
    pub(super) fn new(
        relays: &[Relay],
        rules: &[RouteRule],
        weights: Weights,
    ) -> Result<Self, Error> {
        if relays.is_empty() {
            return Err(Error::Configuration(
                "there is no relay; add at least one".into(),
            ));
        }

        let mut plans = Vec::with_capacity(relays.len());
        let mut by_name = HashMap::with_capacity(relays.len());
        for relay in relays {
            let plan = RelayPlan::of(relay)?;
            if by_name
                .insert(Arc::clone(&plan.name), plans.len())
                .is_some()
            {
                return Err(Error::Configuration(format!(
                    "two relays are named `{}`",
                    relay.name
                )));
            }
            plans.push(plan);
        }

        let rules = if rules.is_empty() {
            if relays.len() > Route::MOST_RELAYS {
                return Err(Error::Configuration(format!(
                    "there are {} relays and no routes, but a route has at most {} relays; add \
                     routes",
                    relays.len(),
                    Route::MOST_RELAYS
                )));
            }
            vec![RouteRule {
                matching: Match::default(),
                relays: relays.iter().map(|relay| relay.name.clone()).collect(),
            }]
        } else {
            rules.to_vec()
        };
        check_rules(&rules, &by_name)?;

        let over = |rule: &RouteRule| Route::over(rule.relays.iter().map(String::as_str));
        let fallback = rules
            .iter()
            .find(|rule| rule.matching == Match::default())
            .or(rules.last())
            .map_or_else(|| Route::over([]), over);
        let mut routes: Vec<Route> = rules
            .iter()
            .flat_map(|rule| over(rule).with_remainders().collect::<Vec<_>>())
            .collect();

        routes.sort();
        routes.dedup();

        Ok(Topology {
            relays: plans,
            rules: Routes::new(rules),
            routes,
            former_routes: Vec::new(),
            fallback,
            weights,
            by_name,
        })
    }

    /// Remembers the routes of the previous topology.
    pub(super) fn remember_former_routes(&mut self, before: &Topology) {
        let former = before
            .routes
            .iter()
            .chain(&before.former_routes)
            .filter(|route| self.routes.binary_search(route).is_err());
        self.former_routes = former.cloned().collect();
        self.former_routes.sort();
        self.former_routes.dedup();
    }

    /// The topology with this node's share of each relay: node `rank` of `nodes`. If there are more
    /// nodes than connections, some nodes have none.
    pub(super) fn shared(&self, (rank, nodes): (u32, u32)) -> Topology {
        let share = |plan: &RelayPlan| {
            let (connections, rate) = plan.whole;
            let (at, of) = (rank as usize, nodes.max(1) as usize);
            // Nodes without connections need no share of the rate.
            let sending = nodes.min(u32::try_from(connections).unwrap_or(u32::MAX));
            RelayPlan {
                connections: connections / of + usize::from(at < connections % of),
                rate: rate.map(|rate| rate.shared(rank, sending)),
                ..plan.clone()
            }
        };

        Topology {
            relays: self.relays.iter().map(share).collect(),
            rules: self.rules.clone(),
            routes: self.routes.clone(),
            former_routes: self.former_routes.clone(),
            fallback: self.fallback.clone(),
            weights: self.weights,
            by_name: self.by_name.clone(),
        }
    }

    /// The index of the relay with this name.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The relays that may claim a route's mail, given which relays are open: the first open one
    /// and those before it, which probe whether they are up again.
    pub(super) fn takers(&self, route: &Route, open: &[bool]) -> Vec<usize> {
        let mut takers = Vec::new();
        for at in route.relays().filter_map(|relay| self.position(relay)) {
            takers.push(at);
            if open[at] {
                break;
            }
        }
        takers
    }

    /// The relay with this name.
    pub(super) fn relay(&self, name: &str) -> Option<&RelayPlan> {
        self.position(name).map(|at| &self.relays[at])
    }
}

impl RelayPlan {
    fn of(relay: &Relay) -> Result<Self, Error> {
        let fail = |error| Error::Relay {
            name: relay.name.clone(),
            error,
        };
        relay.validate().map_err(fail)?;

        Ok(RelayPlan {
            name: relay.name.as_str().into(),
            kind: match &relay.kind {
                Kind::Smtp(_) => RelayKind::Smtp,
                #[cfg(feature = "providers")]
                Kind::Api(_) => RelayKind::Api,
                Kind::Capture(_) => RelayKind::Capture,
                Kind::Custom(_) => RelayKind::Custom,
            },
            transport: relay.transport().map_err(fail)?,
            connections: relay.connections,
            idle_timeout: relay.idle_timeout,
            rate: relay.rate,
            whole: (relay.connections, relay.rate),
        })
    }
}

fn check_rules(rules: &[RouteRule], relays: &HashMap<Arc<str>, usize>) -> Result<(), Error> {
    for (at, rule) in rules.iter().enumerate() {
        if rule.relays.is_empty() {
            return Err(Error::Configuration(format!("route {at} names no relay")));
        }
        if rule.relays.len() > Route::MOST_RELAYS {
            return Err(Error::Configuration(format!(
                "route {at} names {} relays; at most {} are allowed",
                rule.relays.len(),
                Route::MOST_RELAYS
            )));
        }
        if let Some(unknown) = rule
            .relays
            .iter()
            .find(|name| !relays.contains_key(name.as_str()))
        {
            return Err(Error::Configuration(format!(
                "route {at} names the relay `{unknown}`, which does not exist"
            )));
        }
    }

    Ok(())
}
