//! The routes from which a lane may claim mail now, and how it claims if the spool cannot read some
//! of their queues: a queue that cannot be read does not delay the others, and is tried again after
//! a pause that grows.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::delivery::Route;

/// How long nothing is claimed after a claim failed.
const FAILURE_PAUSE: Duration = Duration::from_millis(200);
/// How long a route whose queue cannot be read is left out: at first, and at most.
const FIRST_REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct OpenQueues {
    routes: Vec<Route>,
    /// The number of claims so far. Each claim starts with the next route, so that no route has to
    /// wait until another is empty.
    asked: usize,
    /// A claim for several routes that failed is repeated for each half of them.
    halves: VecDeque<Vec<Route>>,
    resting: HashMap<Route, RouteBackoff>,
    rests_until: Option<Instant>,
}

/// A route whose queue could not be read.
struct RouteBackoff {
    until: Instant,
    failures: u32,
}

impl OpenQueues {
    pub(super) fn open(&mut self, routes: Vec<Route>) {
        self.routes = routes;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The routes to claim from now; none during a pause.
    pub(super) fn next_claim(&mut self, now: Instant) -> Vec<Route> {
        if self.rests_until.is_some_and(|until| now < until) {
            return Vec::new();
        }
        self.asked = self.asked.wrapping_add(1);

        while let Some(mut half) = self.halves.pop_front() {
            half.retain(|route| self.routes.contains(route));
            if !half.is_empty() {
                return half;
            }
        }

        let mut routes = self.routes.clone();
        if !self.resting.is_empty() {
            // A route that failed before is claimed from alone, and in every second claim at most,
            // so that it does not delay the others again.
            routes.retain(|route| !self.resting.contains_key(route));
            if self.asked.is_multiple_of(2) || routes.is_empty() {
                let is_due = |route: &&Route| {
                    let rest = self.resting.get(route);
                    rest.is_some_and(|rest| now >= rest.until)
                };
                if let Some(route) = self.routes.iter().find(is_due) {
                    return vec![route.clone()];
                }
            }
        }

        if !routes.is_empty() {
            let first = self.asked % routes.len();
            routes.rotate_left(first);
        }

        routes
    }

    /// Handles a claim that succeeded. Returns whether to claim again at once.
    pub(super) fn answered(&mut self, asked: &[Route]) -> bool {
        for route in asked {
            if self.resting.is_empty() {
                break;
            }
            self.resting.remove(route);
        }
        !self.halves.is_empty()
    }

    /// Handles a claim that failed. Returns after what times to claim again.
    pub(super) fn failed(&mut self, mut asked: Vec<Route>, now: Instant) -> Vec<Duration> {
        self.rests_until = Some(now + FAILURE_PAUSE);
        let mut again = vec![FAILURE_PAUSE];
        if asked.len() > 1 {
            let second = asked.split_off(asked.len() / 2);
            self.halves.extend([asked, second]);
        } else if let Some(route) = asked.pop() {
            let rest = self.resting.entry(route).or_insert(RouteBackoff {
                until: now,
                failures: 0,
            });
            let span = (FIRST_REST * 2_u32.pow(rest.failures.min(6))).min(LONGEST_REST);
            rest.failures += 1;
            rest.until = now + span;
            again.push(span);
        }

        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(names: &[&str]) -> Vec<Route> {
        names.iter().map(|name| Route::over([*name])).collect()
    }

    /// Claims as a lane does for some time, from a spool that cannot read these routes. Returns how
    /// often claims succeeded and failed, and which routes were answered in the end.
    fn asked(
        queues: &mut OpenQueues,
        broken: &[&str],
        from: Instant,
        secs: u64,
    ) -> (u32, Vec<Route>) {
        let broken = routes(broken);
        let (mut failures, mut answered) = (0, Vec::new());
        let mut now = from;
        while now < from + Duration::from_secs(secs) {
            now += Duration::from_millis(10);
            let asked = queues.next_claim(now);
            if asked.is_empty() {
                continue;
            }
            if asked.iter().any(|route| broken.contains(route)) {
                failures += 1;
                queues.failed(asked, now);
            } else {
                queues.answered(&asked);
                answered = asked;
            }
        }

        answered.sort();
        (failures, answered)
    }

    #[test]
    fn a_route_that_cannot_be_read_stops_no_other_and_is_asked_for_ever_more_seldom() {
        let mut queues = OpenQueues::default();
        queues.open(routes(&["a", "b", "c", "d", "e"]));
        let began = Instant::now();
        let (failures, answered) = asked(&mut queues, &["c"], began, 120);

        assert_eq!(answered, routes(&["a", "b", "d", "e"]));
        assert!(failures < 15, "{failures} times");

        let later = began + Duration::from_secs(200);
        let (failures, answered) = asked(&mut queues, &[], later, 1);
        assert_eq!(
            (failures, answered),
            (0, routes(&["a", "b", "c", "d", "e"]))
        );
    }

    #[test]
    fn a_spool_that_answers_nothing_is_not_asked_without_end() {
        let mut queues = OpenQueues::default();
        let names: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        queues.open(routes(&names));
        let (failures, _) = asked(&mut queues, &names, Instant::now(), 60);
        assert!(failures <= 60 * 5, "{failures} times in a minute");
    }
}
