//! `postrider init`: writes a commented configuration to start from.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use super::screen::plain;
use super::{Failure, Screen};
use crate::config::TEMPLATE;
use crate::private;

#[derive(clap::Args)]
pub(super) struct Init {
    /// The directory to write postrider.toml into; created if it does not exist
    #[arg(default_value = ".")]
    dir: PathBuf,
}

impl Init {
    pub(super) fn execute(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let path = self.dir.join("postrider.toml");
        let shown = path.display();
        if self.dir.exists() && !self.dir.is_dir() {
            return Err(Failure::Usage(format!(
                "{} is a file, and init takes the directory to write postrider.toml into",
                self.dir.display()
            )));
        }

        let failed = |e: std::io::Error| match e.kind() {
            ErrorKind::AlreadyExists => {
                Failure::Failed(format!("{shown} exists already, and was not changed"))
            }
            _ => Failure::Failed(format!("cannot write {shown}: {e}")),
        };

        private::make_directory(&self.dir).map_err(failed)?;
        private::write_new(&path, TEMPLATE.as_bytes()).map_err(failed)?;

        for line in [
            format!("Wrote {shown}. Next steps:"),
            "  1. uncomment a [[relays]] block in it, and enter your mail server's url".to_owned(),
            format!("  2. postrider check --connect --config {shown}"),
            format!("  3. postrider run --config {shown}"),
        ] {
            screen.line(&[plain(line)])?;
        }

        Ok(ExitCode::SUCCESS)
    }
}
