//! File descriptors: raises their limit as far as the system allows, and reserves some for relays
//! and the spool, so that clients cannot stop delivery by opening connections. `run` calls it
//! before the listeners are opened.

use crate::config::Settings;
use crate::ingress::{http, smtp};

/// For the process itself: the spool, the log, the listeners, and short-lived ones, such as those
/// of name resolution.
const PROCESS_DESCRIPTORS: usize = 64;

/// The fewest connections of a listener, however few descriptors there are.
const MIN_CONNECTIONS: usize = 4;

/// Raises the soft limit to the hard one. Returns the number that may be open from now on; `None`
/// if the system has no such limit.
pub(super) fn raise() -> Option<usize> {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files cannot be raised");
        }
        let most = getrlimit(Resource::Nofile).current?;
        usize::try_from(most).ok()
    }

    #[cfg(not(target_os = "linux"))]
    None
}

/// Divides what is left of `all` among the two listeners in proportion to their settings.
pub(super) fn share(
    all: usize,
    settings: &Settings,
    http: Option<&mut http::Limits>,
    smtp: Option<&mut smtp::Limits>,
) {
    let relays = settings.relays.iter().map(|relay| relay.connections);
    let kept = PROCESS_DESCRIPTORS + relays.sum::<usize>();
    let left = all.saturating_sub(kept);

    let mut wanted: Vec<&mut usize> = Vec::new();
    wanted.extend(http.map(|limits| &mut limits.connections));
    wanted.extend(smtp.map(|limits| &mut limits.connections));

    let sum: usize = wanted.iter().map(|wanted| **wanted).sum();
    if sum <= left {
        return;
    }

    tracing::warn!(
        open_files = all,
        kept,
        left,
        wanted = sum,
        "the system allows fewer open files than the listeners may have connections; they accept \
         fewer"
    );

    for connections in wanted {
        let fair = (*connections as u128 * left as u128 / sum as u128) as usize;
        *connections = fair.max(MIN_CONNECTIONS).min(*connections);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors_share_what_relays_and_the_spool_leave() {
        let settings = Settings::default();
        let shared = |all, http_most, smtp_most| {
            let mut http = http::Limits {
                connections: http_most,
                ..Default::default()
            };
            let mut smtp = smtp::Limits {
                connections: smtp_most,
                ..Default::default()
            };
            share(all, &settings, Some(&mut http), Some(&mut smtp));
            (http.connections, smtp.connections)
        };

        assert_eq!(shared(100_000, 8192, 2000), (8192, 2000));
        let (http, smtp) = shared(1024, 8192, 2000);
        assert!(http > 4 * smtp / 2 && smtp > 100 && http + smtp <= 1024 - PROCESS_DESCRIPTORS);
        assert_eq!(shared(10, 8192, 2), (MIN_CONNECTIONS, 2));
    }
}
