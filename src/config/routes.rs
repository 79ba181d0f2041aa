//! `[[routes]]`: which mail takes which relays.

use serde::Deserialize;

use super::Relay;
use super::mistake::MistakeReport;
use crate::mail::{Address, Priority};
use crate::policy::Match;

const MOST_RELAYS: usize = crate::delivery::Route::MOST_RELAYS;

/// Which mail takes which relays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Route {
    /// The conditions; a route without any takes every mail.
    #[serde(rename = "match")]
    pub matching: RelayMatch,
    /// The relays' names, in the order in which they are tried.
    pub relays: Vec<String>,
}

/// The conditions of a route. An empty list matches every mail; all conditions must hold.
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

        let in_ascii = |list: Vec<String>| {
            let patterns = list.into_iter();
            patterns
                .map(|pattern| in_ascii(&pattern).unwrap_or(pattern))
                .collect()
        };

        Match {
            recipient_domain: in_ascii(recipient_domain),
            sender_domain: in_ascii(sender_domain),
            tag,
            priority,
        }
    }
}

impl RelayMatch {
    fn check(&self, at: &str, report: &mut MistakeReport<'_>) {
        let domains = [
            ("recipient_domain", &self.recipient_domain),
            ("sender_domain", &self.sender_domain),
        ];

        for (key, list) in domains {
            for (n, pattern) in list.iter().enumerate() {
                if in_ascii(pattern).is_none() {
                    let reason = format!(
                        "`{}` is not a domain such as example.org, nor *.example.org for every \
                         name below it",
                        pattern.escape_debug()
                    );
                    report.add(format!("{at}.{key}[{n}]"), reason);
                }
            }
        }

        for (n, tag) in self.tag.iter().enumerate() {
            if tag.is_empty() {
                report.add(
                    format!("{at}.tag[{n}]"),
                    "is empty, and no mail has such a tag",
                );
            }
        }
    }
}

/// A pattern in ASCII, as the domains of addresses are (RFC 5891 §4.4); `None` if no address could
/// match it.
fn in_ascii(pattern: &str) -> Option<String> {
    let (below, domain) = match pattern.strip_prefix("*.") {
        Some(parent) if parent.starts_with('[') => return None,
        Some(parent) => ("*.", parent),
        None => ("", pattern),
    };
    let address = Address::parse(&format!("x@{domain}")).ok()?;
    Some(format!("{below}{}", address.domain()))
}

pub(super) fn check(routes: &[Route], relays: &[Relay], report: &mut MistakeReport<'_>) {
    let names: Vec<String> = relays.iter().map(Relay::name).collect();
    if routes.is_empty() && relays.len() > MOST_RELAYS {
        let reason = format!(
            "there are {} relays and no [[routes]], and a route takes at most {MOST_RELAYS}; say \
             which \
             mail takes which",
            relays.len()
        );
        report.add("routes", reason);
    }

    let mut catch_all = None;
    for (n, route) in routes.iter().enumerate() {
        let at = format!("routes[{n}]");
        if let Some(earlier) = catch_all {
            report.add(
                &at,
                format!(
                    "is never reached, because routes[{earlier}] has no `match` and takes every \
                     mail; put it first"
                ),
            );
        }
        route.matching.check(&format!("{at}.match"), report);
        if route.relays.is_empty() {
            report.add(
                format!("{at}.relays"),
                "is missing; name at least one relay",
            );
        }
        if route.relays.len() > MOST_RELAYS {
            let count = route.relays.len();
            let reason = format!("names {count} relays, and takes at most {MOST_RELAYS}");
            report.add(format!("{at}.relays"), reason);
            continue;
        }
        for (m, name) in route.relays.iter().enumerate() {
            // If a relay's name is not known, because its url is invalid, any name may be that
            // relay's.
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
            if route.relays[..m].contains(name) {
                report.add(
                    format!("{at}.relays[{m}]"),
                    format!("`{}` is there twice; name each once", name.escape_debug()),
                );
            }
        }
        let twin = routes[..n]
            .iter()
            .position(|earlier| earlier.matching == route.matching);
        if let Some(twin) = twin {
            report.add(
                format!("{at}.match"),
                format!(
                    "is that of routes[{twin}], which is taken first; this one is never reached"
                ),
            );
        }
        if route.matching == RelayMatch::default() {
            catch_all = catch_all.or(Some(n));
        }
    }
}
