//! `[[routes]]`: which mail takes which relays.

use serde::Deserialize;

use super::Relay;
use super::mistake::Report;
use crate::mail::Priority;
use crate::policy::Match;

/// Which mail takes which relays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Route {
    /// What a mail must be like; a route without it takes every mail.
    #[serde(rename = "match")]
    pub matching: RelayMatch,
    /// The relays' names, the first one first.
    pub relays: Vec<String>,
}

/// What a mail must be like. An empty list asks nothing; all that is asked must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RelayMatch {
    /// The recipient's domain; `*.example.org` matches every name below.
    pub recipient_domain: Vec<String>,
    /// The return path's domain, likewise.
    pub sender_domain: Vec<String>,
    /// One of its tags.
    pub tag: Vec<String>,
    /// Its priority.
    pub priority: Vec<Priority>,
}

impl From<RelayMatch> for Match {
    fn from(asked: RelayMatch) -> Match {
        let RelayMatch {
            recipient_domain,
            sender_domain,
            tag,
            priority,
        } = asked;
        Match {
            recipient_domain,
            sender_domain,
            tag,
            priority,
        }
    }
}

pub(super) fn check(routes: &[Route], relays: &[Relay], report: &mut Report<'_>) {
    let names: Vec<String> = relays.iter().map(Relay::name).collect();
    let mut catch_all = None;
    for (n, route) in routes.iter().enumerate() {
        let at = format!("routes[{n}]");
        if let Some(earlier) = catch_all {
            report.add(
                &at,
                format!(
                    "is never reached, because routes[{earlier}] has no `match` and takes every mail; put it first"
                ),
            );
        }
        if route.relays.is_empty() {
            report.add(
                format!("{at}.relays"),
                "is missing; name at least one relay",
            );
        }
        for (m, name) in route.relays.iter().enumerate() {
            // Where a relay's own name is not known, because its url cannot be read, any could be
            // meant.
            if !names.contains(name)
                && !names.is_empty()
                && names.iter().all(|name| !name.is_empty())
            {
                let reason = format!(
                    "there is no relay named `{}`; there are {}",
                    name.escape_debug(),
                    names.join(", ")
                );
                report.add(format!("{at}.relays[{m}]"), reason);
            }
        }
        if route.matching == RelayMatch::default() {
            catch_all = catch_all.or(Some(n));
        }
    }
}
