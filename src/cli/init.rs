//! `postrider init`: writes a commented configuration to start from.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use super::Failure;

/// Every key with its default and a comment.
const TEMPLATE: &str = include_str!("../../config/postrider.toml");

#[derive(clap::Args)]
pub(super) struct Init {
    /// The directory to write postrider.toml into; made if need be
    #[arg(default_value = ".")]
    dir: PathBuf,
}

impl Init {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let path = self.dir.join("postrider.toml");
        let shown = path.display();
        let failed = |e: std::io::Error| match e.kind() {
            ErrorKind::AlreadyExists => {
                Failure::Failed(format!("{shown} is there already, and was left as it is"))
            }
            _ => Failure::Failed(format!("cannot write {shown}: {e}")),
        };
        std::fs::create_dir_all(&self.dir).map_err(failed)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(failed)?;
        file.write_all(TEMPLATE.as_bytes()).map_err(failed)?;
        println!("Wrote {shown}. What comes next:");
        println!(
            "  1. name a relay in it: switch on a [[relays]] block, with your mail server's url"
        );
        println!("  2. postrider check --connect --config {shown}");
        println!("  3. postrider run --config {shown}");
        Ok(())
    }
}
