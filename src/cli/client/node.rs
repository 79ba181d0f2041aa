//! `postrider node list`: the nodes that share the service's spool.

use std::process::ExitCode;

use clap::Subcommand;
use serde::Deserialize;

use super::{Failure, ServiceArgs};
use crate::cli::screen::{ColumnFit, Screen, grouped, plain};
use crate::spool::NodeStatus;

/// The service's answer with its nodes.
#[derive(Deserialize)]
struct Nodes {
    nodes: Vec<NodeStatus>,
    #[serde(default)]
    warnings: Vec<String>,
}

/// `postrider node`.
#[derive(Subcommand)]
pub enum NodeCommand {
    /// List the running nodes
    List {
        #[command(flatten)]
        asking: ServiceArgs,
    },
}

impl NodeCommand {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let NodeCommand::List { asking } = self;
        let answer = asking.service.client()?.get(&["v1", "nodes"], &vec![])?;
        if asking.json {
            screen.json(&answer.body)?;
            return Ok(ExitCode::SUCCESS);
        }

        let Nodes { nodes, warnings } = answer.decode()?;
        let row = |node: &NodeStatus| {
            let this = if node.is_this { " (this one)" } else { "" };
            vec![
                plain(format_args!("{}{this}", node.name)),
                plain(node.session),
                plain(&node.version),
                plain(node.since),
                plain(node.seen),
                plain(grouped(node.holds)),
            ]
        };

        let heads = ["NODE", "SESSION", "VERSION", "SINCE", "SEEN", "HOLDS"];
        screen.table(&heads, nodes.iter().map(row).collect(), ColumnFit::Wrap)?;
        for warning in warnings {
            screen.line(&[plain(format_args!("warning: {warning}"))])?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
