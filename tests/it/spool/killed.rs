//! What a killed process leaves of a spool on disk.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Copies a directory as it is in a moment in which nothing in it changes.
pub fn copy_at_rest(from: &Path, to: &Path) {
    loop {
        let before = files(from);
        let _ = std::fs::remove_dir_all(to);
        let copied = before.iter().all(|(path, _, _)| {
            let copy = to.join(path.strip_prefix(from).expect("inside"));
            std::fs::create_dir_all(copy.parent().expect("inside")).expect("writable");
            std::fs::copy(path, &copy).is_ok()
        });
        if copied && files(from) == before {
            return;
        }
    }
}

fn files(dir: &Path) -> Vec<(PathBuf, u64, SystemTime)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("readable").flatten() {
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push((
                entry.path(),
                metadata.len(),
                metadata.modified().expect("known"),
            ));
        }
    }

    found.sort();
    found
}
