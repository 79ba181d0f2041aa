//! Where the spools of a benchmark are: in a directory that is removed afterwards, or in a
//! database.

use std::path::{Path, PathBuf};

use crate::dispatch::Builder;
use crate::spool::postgres::PostgresSpool;

pub(super) struct SpoolPlace {
    dir: PathBuf,
    database: Option<String>,
    /// No run meets the schemas of another.
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

    /// What keeps the spools.
    pub(super) fn kind(&self) -> &'static str {
        match self.database {
            Some(_) => "postgres",
            None => "disk",
        }
    }

    /// Has a dispatcher keep its mail here, in a spool of this name.
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
