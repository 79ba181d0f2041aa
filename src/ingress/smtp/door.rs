//! The listener: accepts connections within the limits, and closes them at a shutdown.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::Instrument;

use super::auth::Users;
use super::budget::MessageMemory;
use super::connection::{self, DoorContext};
use super::reply::SmtpReply;
use super::session::{SessionContext, TOO_MANY_FAILED};
use super::{Limits, SmtpError, SmtpSettings, TlsFiles, User};
use crate::Dispatcher;
use crate::ingress::admission::{Admission, ConnectionPlace};
use crate::ingress::guard::LoginGuard;
use crate::ingress::log_throttle::LogThrottle;
use crate::ingress::tls;

/// How long nothing is accepted after accepting failed, usually because of too many open files.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(100);
/// By how many bytes the offered size is below the engine's largest message: for the fields that
/// are added to the client's message.
const ADDED_FIELDS: usize = 1024;

/// The SMTP submission listener: bound by [`bind`](SmtpDoor::bind), serving during
/// [`serve`](SmtpDoor::serve).
pub struct SmtpDoor {
    listener: TcpListener,
    tls_listener: Option<TcpListener>,
    context: SessionContext,
    reloader: Reloader,
}

/// Replaces settings of a running listener. Clones belong to the same listener.
#[derive(Clone)]
pub struct Reloader {
    settings: SmtpSettings,
    users: Users,
    tls: Arc<RwLock<Option<TlsAcceptor>>>,
}

impl SmtpDoor {
    /// Checks the settings, reads the certificate and binds. Clients are answered once
    /// [`serve`](SmtpDoor::serve) runs.
    ///
    /// # Errors
    /// [`SmtpError`], which names the key and what to do.
    pub async fn bind(settings: SmtpSettings) -> Result<Self, SmtpError> {
        settings.check()?;
        let tls = acceptor(&settings)?;
        let listener = listen("listen", settings.listen).await?;
        let tls_listener = match settings.tls_listen {
            Some(address) => Some(listen("tls_listen", address).await?),
            None => None,
        };

        let users = Users::new(settings.users.clone());
        let context = SessionContext {
            returns: None,
            hostname: Arc::from(settings.hostname.as_str()),
            limits: settings.limits,
            users: users.clone(),
            trusted: settings.trusted_networks.clone(),
            budget: MessageMemory::new(settings.limits.memory),
            guard: LoginGuard::new(
                settings.limits.ban_after,
                settings.limits.ban_time,
                settings.trusted_networks.clone(),
            ),
        };

        let reloader = Reloader {
            settings,
            users,
            tls: Arc::new(RwLock::new(tls)),
        };

        Ok(SmtpDoor {
            listener,
            tls_listener,
            context,
            reloader,
        })
    }

    /// The address on which it listens; with port 0 in the settings, this has the actual port.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener
            .local_addr()
            .unwrap_or(self.reloader.settings.listen)
    }

    /// The address on which it listens for implicit TLS, if it does.
    pub fn tls_local_addr(&self) -> Option<SocketAddr> {
        self.tls_listener.as_ref().and_then(|l| l.local_addr().ok())
    }

    /// A handle to replace users and certificate while the listener runs.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// Accepts mail for `dispatcher` until `shutdown` becomes true or its sender is dropped. Then
    /// no client is accepted any more, idle clients are dismissed with 421, and a message that is
    /// being received may be finished within [`Limits::drain`]. When this returns, or is dropped,
    /// every connection is closed. The largest message is the smaller one of the listener's and the
    /// dispatcher's limit.
    ///
    /// [`Limits::drain`]: super::Limits::drain
    pub async fn serve(self, dispatcher: Dispatcher, mut shutdown: watch::Receiver<bool>) {
        let Limits {
            connections,
            connections_per_peer,
            ..
        } = self.context.limits;
        let admission = Admission::new(connections, connections_per_peer);
        let log_throttle = LogThrottle::new();
        let drain = self.context.limits.drain;

        // A size that the engine would refuse is not offered. SIZE 0 would mean that there is no
        // limit (RFC 1870 §4).
        let most = dispatcher
            .max_message_size()
            .saturating_sub(ADDED_FIELDS)
            .max(1);

        let message_size = self.context.limits.message_size.min(most);
        let context = SessionContext {
            returns: dispatcher.feedback().returns().cloned(),
            limits: Limits {
                message_size,
                ..self.context.limits
            },
            ..self.context
        };

        let context = DoorContext {
            context,
            dispatcher: dispatcher.for_door("smtp"),
            stopping: shutdown.clone(),
        };

        let mut connections = JoinSet::new();
        loop {
            let (accepted, implicit) = tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop) => break,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept() => (accepted, false),
                accepted = accept(self.tls_listener.as_ref()) => (accepted, true),
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    tracing::warn!(error = %e, "smtp connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_ERROR_PAUSE).await;
                    continue;
                }
            };
            let place = match context.let_in(&admission, peer.ip()) {
                Ok(place) => place,
                Err(no) => {
                    context.dispatcher.turned_away(no.counted);
                    if let Some(left_out) = log_throttle.admit_line(Instant::now()) {
                        let (peer, reason) = (peer.ip(), no.reason);
                        tracing::warn!(%peer, reason, left_out, "smtp connection refused");
                    }
                    if !implicit {
                        refuse_connection(&stream, no.code, no.enhanced, no.reason);
                    }
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let (tls, context) = (self.reloader.tls.read().clone(), context.clone());
            let span = tracing::debug_span!("connection", door = "smtp", %peer);
            let served = async move {
                connection::serve(stream, peer, tls, implicit, context).await;
                drop(place);
            };
            connections.spawn(served.instrument(span));
        }

        drop((self.listener, self.tls_listener));
        let finished = timeout(drain, async {
            while connections.join_next().await.is_some() {}
        })
        .await;

        if finished.is_err() {
            tracing::warn!(
                connections = connections.len(),
                "smtp connections cut off after the drain time"
            );
        }
    }
}

/// Why a client is refused, and the reply.
struct ConnectionRefusal {
    code: u16,
    enhanced: &'static str,
    reason: &'static str,
    counted: &'static str,
}

impl DoorContext {
    fn let_in(
        &self,
        admission: &Admission,
        peer: IpAddr,
    ) -> Result<ConnectionPlace, ConnectionRefusal> {
        if !self.context.serves(peer) {
            return Err(ConnectionRefusal {
                code: 554,
                enhanced: "5.7.1",
                reason: "not for your network",
                counted: "network",
            });
        }

        if self.context.guard.bans(peer, Instant::now()) {
            return Err(ConnectionRefusal {
                code: 421,
                enhanced: "4.7.0",
                reason: TOO_MANY_FAILED,
                counted: "banned",
            });
        }

        admission.admit(peer).map_err(|reason| ConnectionRefusal {
            code: 421,
            enhanced: "4.7.0",
            reason,
            counted: "crowded",
        })
    }
}

impl Reloader {
    /// Replaces the users and the certificate; the files are read again even if their names are the
    /// same. Open connections keep their TLS and their login. Replaces all or nothing.
    ///
    /// # Errors
    /// As [`SmtpDoor::bind`]; nothing is replaced then.
    pub fn reload(&self, users: Vec<User>, tls: Option<TlsFiles>) -> Result<(), SmtpError> {
        let settings = SmtpSettings {
            users,
            tls,
            ..self.settings.clone()
        };
        settings.check()?;
        let acceptor = acceptor(&settings)?;
        self.users.replace(settings.users);
        *self.tls.write() = acceptor;
        Ok(())
    }
}

fn acceptor(settings: &SmtpSettings) -> Result<Option<TlsAcceptor>, SmtpError> {
    let files = settings.tls.as_ref();
    Ok(files.map(|files| tls::acceptor(files, &[])).transpose()?)
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, SmtpError> {
    TcpListener::bind(address)
        .await
        .map_err(|e| SmtpError::Listen {
            key,
            listen: address,
            reason: e.to_string(),
        })
}

async fn accept(listener: Option<&TcpListener>) -> std::io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// Sends the reason if the socket accepts it at once: no memory is kept for a refused connection.
fn refuse_connection(stream: &TcpStream, code: u16, enhanced: &'static str, reason: &'static str) {
    let mut line = Vec::new();
    SmtpReply::new(code, enhanced, reason).write(&mut line);
    let _ = stream.try_write(&line);
}
