//! The place of a benchmark's spools: a directory that is removed afterwards, or a database.

use std::path::{Path, PathBuf};

use crate::dispatch::Builder;
use crate::spool::postgres::PostgresSpool;

pub(super) struct SpoolPlace {
    dir: PathBuf,
    database: Option<String>,
    /// Part of the schemas' names, so that no run uses those of another.
    run: String,
}

impl SpoolPlace {
    pub(super) fn new(dir: &Path, database: Option<String>) -> Self {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        SpoolPlace {
            dir: dir.to_owned(),
            run: name.into_owned(),
            database,
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The kind of the spools.
    pub(super) fn kind(&self) -> &'static str {
        match self.database {
            Some(_) => "postgres",
            None => "disk",
        }
    }

    /// Configures a dispatcher to use a spool of this name here.
    pub(super) fn keep(&self, builder: Builder, name: &str) -> Builder {
        match &self.database {
            Some(url) => {
                let schema = format!("{}-{name}", self.run);
                builder.spool_postgres(PostgresSpool::new(url).schema(schema))
            }
            None => builder.spool(self.dir.join(name)),
        }
    }
}
