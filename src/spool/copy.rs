//! Copies a whole spool into a new one, of the same or of another kind. No service may have either
//! open.

use std::path::PathBuf;

use tokio::sync::mpsc;

use super::postgres::{DetachedSpool, Migrate, PostgresSpool, import, transfer};
use super::sled::transfer as directory;
use super::transfer::{CopyReport, NextPart};
use super::{SpoolError, transfer::SpoolPart};

/// How many parts are buffered between the two.
const PARTS_IN_FLIGHT: usize = 4;

/// The location of a spool.
#[derive(Clone, Debug)]
pub enum SpoolLocation {
    /// In this directory.
    Directory(PathBuf),
    /// In a database.
    Database(PostgresSpool),
}

/// Copies the spool `from` into a new one, `to`: completely, or not at all.
///
/// # Errors
/// If one of them is in use or cannot be read or written; if `from` is damaged, or `to` is not
/// empty.
pub async fn copy(from: SpoolLocation, to: SpoolLocation) -> Result<CopyReport, SpoolError> {
    let (sender, receiver) = mpsc::channel(PARTS_IN_FLIGHT);
    let exporting = export_from(from, sender);
    let taking = take_into(to, receiver);
    let ((), copied) = futures::future::join(exporting, taking).await;
    copied
}

/// Sends every part of the spool, then `None`; or the error that stopped it.
async fn export_from(from: SpoolLocation, to: mpsc::Sender<NextPart>) {
    let end = match from {
        SpoolLocation::Directory(path) => {
            let to = to.clone();
            let send = move |part: SpoolPart| {
                let sent = to.blocking_send(Ok(Some(part)));
                sent.map_err(|_| SpoolError::Closed)
            };
            let mut send = send;
            let exported = tokio::task::spawn_blocking(move || directory::export(&path, &mut send));
            exported.await.unwrap_or_else(|_| Err(broken_off()))
        }
        SpoolLocation::Database(database) => {
            match DetachedSpool::open(&database, Migrate::Check).await {
                Ok(detached) => transfer::export(&detached, &to).await,
                Err(error) => Err(error),
            }
        }
    };

    let _ = to.send(end.map(|()| None)).await;
}

async fn take_into(
    to: SpoolLocation,
    mut from: mpsc::Receiver<NextPart>,
) -> Result<CopyReport, SpoolError> {
    match to {
        SpoolLocation::Directory(path) => {
            let taken = tokio::task::spawn_blocking(move || {
                let mut copied = CopyReport::default();
                directory::import(&path, &mut || {
                    let part = from.blocking_recv().ok_or_else(broken_off)??;
                    if let Some(part) = &part {
                        copied.count(part);
                    }
                    Ok(part)
                })?;
                Ok(copied)
            });
            taken.await.unwrap_or_else(|_| Err(broken_off()))
        }
        SpoolLocation::Database(database) => {
            let detached = DetachedSpool::open(&database, Migrate::Auto).await?;
            import::take(&detached, from).await
        }
    }
}

/// The error if the exporting side ended without a result.
pub(super) fn broken_off() -> SpoolError {
    SpoolError::Unreadable("the copy was broken off".into())
}
