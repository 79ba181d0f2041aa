//! Turns settings into what the engine takes: a [`Builder`] at start, a [`Reload`] later.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::dkim;
use super::units::bytes;
use super::{Relay, Settings, Sync};
use crate::dispatch::{Builder, Dispatcher, Error, Reload};
use crate::mail::Submitter;
use crate::policy::{Quota, RetryPolicy, RouteRule, Weights};
use crate::transport::{self, Credentials, RelayError};

/// A dispatcher as configured, not started yet.
///
/// # Errors
/// [`Error::Relay`] if a relay cannot be used. [`Settings::load`] has checked that already.
pub fn builder(settings: &Settings) -> Result<Builder, Error> {
    let Reload {
        relays,
        routes,
        weights,
    } = reload(settings)?;
    let spool = &settings.spool;

    let retry = &settings.retry;
    let mut builder = Dispatcher::builder()
        .spool(&spool.path)
        .retention(spool.retention)
        .keep_bodies(spool.keep_bodies)
        .idempotency_ttl(spool.idempotency_ttl)
        .journal(settings.journal.keep, settings.journal.max_size.as_u64())
        .max_pending(spool.max_pending)
        .critical_reserve(spool.critical_reserve())
        .max_message_size(bytes(spool.max_message_size))
        .accept_timeout(spool.accept_timeout)
        .on_spool_failure(spool.on_spool_failure)
        .retry(RetryPolicy {
            schedule: retry.schedule.clone(),
            max_attempts: retry.max_attempts,
            expire_after: retry.expire_after,
            jitter: retry.jitter,
        })
        .weights(weights)
        .suppress_bounces_for(settings.suppression.bounces_for)
        .templates(settings.templates.loaded());

    if let Some(size) = spool.max_size {
        builder = builder.max_size(size.as_u64());
    }
    if let Some(hostname) = &settings.smtp.hostname {
        builder = builder.domain(hostname);
    }
    if let Some(database) = spool.database() {
        builder = builder.spool_postgres(database);
    }
    if spool.sync == Sync::Interval {
        builder = builder.sync_every(spool.sync_interval);
    }
    if let Some(returns) = settings.bounces.returns().map_err(Error::Configuration)? {
        builder = builder.returns(returns);
    }

    let unsubscribing = settings.unsubscribe.unsubscribing();
    if let Some(unsubscribing) = unsubscribing.map_err(Error::Configuration)? {
        builder = builder.unsubscribing(unsubscribing);
    }
    for relay in relays {
        builder = builder.relay(relay);
    }
    for route in routes {
        builder = builder.route(route.matching, route.relays);
    }

    Ok(builder)
}

/// The quota of each token and SMTP user.
pub fn quotas(settings: &Settings) -> Vec<(Submitter, Quota)> {
    let quotas = settings.http.quotas().chain(settings.smtp.quotas());
    quotas.collect()
}

/// The settings that a running dispatcher can take over.
///
/// # Errors
/// As [`builder`].
pub fn reload(settings: &Settings) -> Result<Reload, Error> {
    let keys = dkim::read(&settings.dkim)
        .map_err(|error| Error::Configuration(format!("a key of [[dkim]]: {error}")))?;
    let mut relays = Vec::new();
    for configured in &settings.relays {
        let relay = relay(configured).map_err(|error| Error::Relay {
            name: configured.name(),
            error,
        })?;
        relays.push(relay.dkim(Arc::clone(&keys)));
    }

    let routes = settings.routes.iter().cloned();
    let routes = routes
        .map(|route| RouteRule {
            matching: route.matching.into(),
            relays: route.relays,
        })
        .collect();

    let super::Priorities {
        critical,
        default,
        bulk,
    } = settings.priorities;

    Ok(Reload {
        relays,
        routes,
        weights: Weights {
            critical,
            default,
            bulk,
        },
    })
}

/// Reads an address such as `192.0.2.1` or `[2001:db8::1]:2525`. If it has no port, `port` is used,
/// the URL's own; `None` for relays that do not speak SMTP.
fn address(given: &str, port: Option<u16>) -> Result<SocketAddr, RelayError> {
    let wrong = |reason| RelayError::Address {
        address: given.to_owned(),
        reason,
    };
    let port = port.ok_or_else(|| wrong("is given for a relay that does not speak SMTP"))?;
    let bare = given.trim_start_matches('[').trim_end_matches(']');
    let bare = bare.parse().map(|ip: IpAddr| SocketAddr::new(ip, port));
    bare.or_else(|_| given.parse())
        .map_err(|_| wrong("is not an IP address such as 192.0.2.1 or [2001:db8::1]:2525"))
}

/// One relay, with its password.
pub(super) fn relay(configured: &Relay) -> Result<transport::Relay, RelayError> {
    let super::TimeOuts {
        connect,
        greeting,
        tls,
        auth,
        command,
        data,
        body,
        final_dot,
    } = configured.timeouts;

    let mut relay = transport::Relay::smtp(configured.url.expose())?
        .connections(configured.connections)
        .messages_per_connection(configured.messages_per_connection)
        .idle_timeout(configured.idle_timeout)
        .timeouts(transport::TimeOuts {
            connect,
            greeting,
            tls,
            auth,
            command,
            data,
            body,
            final_dot,
        });

    if let Some(name) = &configured.name {
        relay = relay.name(name);
    }
    if let Some(path) = &configured.ca_file {
        relay = relay.ca_file(path);
    }
    if let Some(name) = &configured.client_name {
        relay = relay.client_name(name);
    }

    let port = relay.port();
    let addresses = configured.addresses.iter();
    let addresses: Result<Vec<_>, _> = addresses.map(|given| address(given, port)).collect();
    relay = relay.addresses(addresses?);
    if let Some(rate) = configured.rate {
        relay = relay.rate(rate);
    }
    if let Some(password) = &configured.password {
        relay = relay.password(password.clone());
    }
    if let Some(key) = &configured.api_key {
        relay = relay.credentials(Credentials::ApiKey(key.clone()));
    }

    if let (Some(id), Some(secret)) = (&configured.access_key_id, &configured.secret_access_key) {
        relay = relay.credentials(Credentials::AccessKey {
            id: id.clone(),
            secret: secret.clone(),
        });
    }

    if let Some(endpoint) = &configured.endpoint {
        relay = relay.endpoint(endpoint);
    }
    if let Some(oauth2) = &configured.oauth2 {
        relay = relay.oauth2(oauth2.source(configured.ca_file.clone())?);
    }

    Ok(relay)
}
