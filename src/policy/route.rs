//! Chooses the relays of a delivery.

use crate::delivery::Route;
use crate::mail::{Address, Priority};

/// The conditions of a route: all must be true. An empty list matches every mail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// The recipient's domain, in upper or lower case; `*.example.org` matches every subdomain.
    pub recipient_domain: Vec<String>,
    /// The return path's domain, with the same rules.
    pub sender_domain: Vec<String>,
    /// One of the mail's tags.
    pub tag: Vec<String>,
    /// The mail's priority.
    pub priority: Vec<Priority>,
}

/// A rule, and the relays of its route in order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRule {
    /// The conditions.
    pub matching: Match,
    /// The names of the relays.
    pub relays: Vec<String>,
}

/// All rules in order; the first that matches is used.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    rules: Vec<(Match, Route)>,
}

impl Routes {
    /// Makes routes from these rules.
    pub fn new(rules: impl IntoIterator<Item = RouteRule>) -> Self {
        let rules = rules.into_iter().map(|rule| {
            (
                rule.matching,
                Route::over(rule.relays.iter().map(String::as_str)),
            )
        });
        Routes {
            rules: rules.collect(),
        }
    }

    /// The route of one delivery; `None` if no rule matches.
    pub fn resolve(
        &self,
        return_path: Option<&Address>,
        recipient: &Address,
        tags: &[String],
        priority: Priority,
    ) -> Option<&Route> {
        let asks = |matching: &Match| {
            (matching.priority.is_empty() || matching.priority.contains(&priority))
                && (matching.tag.is_empty() || matching.tag.iter().any(|tag| tags.contains(tag)))
                && domain_matches(&matching.recipient_domain, Some(recipient))
                && domain_matches(&matching.sender_domain, return_path)
        };
        self.rules
            .iter()
            .find(|(matching, _)| asks(matching))
            .map(|(_, route)| route)
    }
}

/// Whether an address belongs to one of these domains, or to a subdomain for a pattern that begins
/// with `*.`. Without patterns every address does.
pub(super) fn domain_matches(patterns: &[String], address: Option<&Address>) -> bool {
    if patterns.is_empty() {
        return true;
    }

    let Some(domain) = address.map(Address::domain) else {
        return false;
    };
    patterns
        .iter()
        .any(|pattern| match pattern.strip_prefix("*.") {
            Some(parent) => domain
                .len()
                .checked_sub(parent.len() + 1)
                .filter(|at| *at > 0 && domain.is_char_boundary(*at))
                .is_some_and(|at| {
                    domain[at..].starts_with('.') && domain[at + 1..].eq_ignore_ascii_case(parent)
                }),
            None => domain.eq_ignore_ascii_case(pattern),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(matching: Match, relays: &[&str]) -> RouteRule {
        RouteRule {
            matching,
            relays: relays.iter().map(|r| (*r).to_owned()).collect(),
        }
    }

    #[test]
    fn the_first_rule_that_matches_is_taken() {
        let to_org = Match {
            recipient_domain: vec!["example.org".into(), "*.org.example".into()],
            ..Match::default()
        };

        let bulk = Match {
            priority: vec![Priority::Bulk],
            ..Match::default()
        };

        let tagged = Match {
            tag: vec!["otp".into()],
            ..Match::default()
        };

        let routes = Routes::new([
            rule(to_org, &["org"]),
            rule(bulk, &["slow"]),
            rule(tagged, &["fast", "slow"]),
            rule(Match::default(), &["primary", "backup"]),
        ]);

        let resolve = |to: &str, tags: &[&str], priority| {
            let tags: Vec<String> = tags.iter().map(|t| (*t).to_owned()).collect();
            let to = to.parse().expect("valid");
            routes
                .resolve(None, &to, &tags, priority)
                .map(|r| r.as_str().to_owned())
                .expect("a default exists")
        };

        assert_eq!(resolve("a@EXAMPLE.org", &[], Priority::Bulk), "org");
        assert_eq!(resolve("a@x.org.example", &[], Priority::Default), "org");
        assert_eq!(
            resolve("a@org.example", &[], Priority::Default),
            "primary,backup"
        );

        assert_eq!(resolve("a@xexample.org", &[], Priority::Bulk), "slow");
        assert_eq!(
            resolve("a@else.where", &["x", "otp"], Priority::Default),
            "fast,slow"
        );
    }

    #[test]
    fn a_null_return_path_has_no_domain() {
        let only = Match {
            sender_domain: vec!["example.com".into()],
            ..Match::default()
        };

        let routes = Routes::new([rule(only, &["primary"])]);
        let to = "a@example.org".parse().expect("valid");
        assert!(routes.resolve(None, &to, &[], Priority::Default).is_none());

        let from = "b@example.com".parse().expect("valid");
        assert!(
            routes
                .resolve(Some(&from), &to, &[], Priority::Default)
                .is_some()
        );
    }
}
