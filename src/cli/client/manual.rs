//! Shell completions and manual pages, both made from the command line's description.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

use super::Failure;
use crate::cli::screen::{Screen, escaped};

/// `postrider completions`.
#[derive(Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(
        self,
        mut root: clap::Command,
        screen: &mut Screen,
    ) -> Result<ExitCode, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut root, "postrider", &mut script);
        screen.message(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// `postrider man`.
#[derive(Args)]
pub struct Man {
    /// Write a page for each command into this directory, instead of the main page to standard
    /// output
    directory: Option<PathBuf>,
}

impl Man {
    pub(super) fn run(self, root: clap::Command, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let Some(directory) = self.directory else {
            let mut page = Vec::new();
            clap_mangen::Man::new(root).render(&mut page)?;
            screen.message(&page)?;
            return Ok(ExitCode::SUCCESS);
        };

        let trouble = |error| {
            Failure::Failed(format!(
                "cannot write into {}: {error}",
                escaped(&directory.to_string_lossy())
            ))
        };

        fs::create_dir_all(&directory).map_err(trouble)?;
        clap_mangen::generate_to(root, &directory).map_err(trouble)?;
        Ok(ExitCode::SUCCESS)
    }
}
