//! Reads a spool on disk that no service has open, to copy it into a spool of another kind, and
//! stores such a copy in a new directory.

use std::fs;
use std::path::{Path, PathBuf};

use super::inspect::require;
use super::open::{Purpose, open_store, unopenable};
use crate::mail::Timestamp;
use crate::private;
use crate::spool::SpoolError;
use crate::spool::keyed::transfer::{self, StoreImport};
use crate::spool::store::Store;
use crate::spool::transfer::SpoolPart;

/// Tells all that the spool in this directory keeps.
pub(in crate::spool) fn export(
    path: &Path,
    each: &mut dyn FnMut(SpoolPart) -> Result<(), SpoolError>,
) -> Result<(), SpoolError> {
    require(path)?;
    let store = open_store(path, Purpose::Look)?;
    let exported = transfer::export(&store, each);
    store.close();
    exported
}

/// Makes a new spool in this directory of what `next` gives, until it gives nothing more. It stands
/// beside its name until it is whole.
pub(in crate::spool) fn take(
    path: &Path,
    next: &mut dyn FnMut() -> Result<Option<SpoolPart>, SpoolError>,
) -> Result<(), SpoolError> {
    let io = |error: std::io::Error| unopenable(path, error);
    let is_new = match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };

    if !is_new {
        return Err(unopenable(path, "it is not empty; name a new directory"));
    }

    let beside = beside(path);
    if beside.exists() {
        fs::remove_dir_all(&beside).map_err(io)?;
    }
    private::make_directory(&beside).map_err(io)?;

    let store = open_store(&beside, Purpose::Serve)?;
    let taken = take_all(&store, next);
    store.close();
    if let Err(error) = taken {
        let _ = fs::remove_dir_all(&beside);
        return Err(error);
    }
    drop(store);

    // An empty directory stands where the new one is to be.
    let _ = fs::remove_dir(path);
    fs::rename(&beside, path).map_err(io)?;

    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    let parent = parent.unwrap_or(Path::new("."));
    fs::File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(io)
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".unfinished");
    path.with_file_name(name)
}

fn take_all<S: Store>(
    store: &S,
    next: &mut dyn FnMut() -> Result<Option<SpoolPart>, SpoolError>,
) -> Result<(), SpoolError> {
    let mut taking = StoreImport::into(store)?;
    while let Some(part) = next()? {
        taking.take(part)?;
    }
    taking.finish(Timestamp::now())?;
    store.sync()
}
