//! Copies a spool on disk that is not in use into a spool of another kind, or creates one in a new
//! directory from such a copy.

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

/// Passes every record of the spool in this directory to `each`.
pub(in crate::spool) fn export(
    path: &Path,
    each: &mut dyn FnMut(SpoolPart) -> Result<(), SpoolError>,
) -> Result<(), SpoolError> {
    require(path)?;
    let store = open_store(path, Purpose::Inspect)?;
    let exported = transfer::export(&store, each);
    store.close();
    exported
}

/// Creates a spool in this directory from the parts that `next` returns, until it returns `None`.
/// The spool has a temporary name until it is complete.
pub(in crate::spool) fn import(
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
    let imported = import_all(&store, next);
    store.close();
    if let Err(error) = imported {
        let _ = fs::remove_dir_all(&beside);
        return Err(error);
    }
    drop(store);

    // The directory may exist, but it is empty.
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

fn import_all<S: Store>(
    store: &S,
    next: &mut dyn FnMut() -> Result<Option<SpoolPart>, SpoolError>,
) -> Result<(), SpoolError> {
    let mut import = StoreImport::into(store)?;
    while let Some(part) = next()? {
        import.take(part)?;
    }
    import.finish(Timestamp::now())?;
    store.sync()
}
