//! Verifies a spool that is not in use, or exports its mail.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::open::{LOST, Purpose, open_store, unreadable};
use super::{spare, watermark};
use crate::delivery::Stage;
use crate::mail::MailId;
use crate::private;
use crate::spool::SpoolError;
use crate::spool::keyed::inspect::{self, WholeMail};
use crate::spool::store::Store;

/// What a spool contains, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Mails that are whole.
    pub mails: u64,
    /// Deliveries that are not finished.
    pub pending: u64,
    /// Deliveries that a relay accepted.
    pub delivered: u64,
    /// Deliveries that failed for good.
    pub dead: u64,
    /// Deliveries that were cancelled.
    pub cancelled: u64,
    /// Records that were set aside earlier because they could not be read.
    pub quarantined: u64,
    /// Events in the journal.
    pub events: u64,
    /// What is wrong, one sentence each; empty if nothing is.
    pub problems: Vec<String>,
}

/// Reads every record and checks that the records are consistent. Does not change the spool.
///
/// # Errors
/// The same as [`open`](super::open). Problems inside the spool are no error; they are part of the
/// result.
pub fn verify(path: &Path) -> Result<VerifyReport, SpoolError> {
    require(path)?;
    let store = open_store(path, Purpose::Inspect)?;
    let mut verified = VerifyReport::default();
    let problems = inspect::walk(&store, &mut |seen: WholeMail<'_>| {
        verified.mails += 1;
        for delivery in seen.deliveries {
            match delivery.stage {
                Stage::Pending { .. } | Stage::Committing { .. } => verified.pending += 1,
                Stage::Delivered { .. } => verified.delivered += 1,
                Stage::Dead { .. } => verified.dead += 1,
                Stage::Cancelled { .. } => verified.cancelled += 1,
            }
        }
        Ok(())
    })?;

    verified.quarantined = inspect::quarantined(&store)?;
    verified.problems = problems;
    let (events, problems) = inspect::journal(&store)?;
    verified.events = events;
    verified.problems.extend(problems);

    let damaged = store.damaged_values()?;
    if damaged > 0 {
        let problem = format!("damaged values: {damaged}");
        verified.problems.push(problem);
    }

    store.close();
    Ok(verified)
}

/// What an export wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExportReport {
    /// Mails that were exported.
    pub mails: u64,
    /// What could not be exported, one sentence each.
    pub problems: Vec<String>,
}

/// Writes two files for each mail to the directory `to`: `ID.eml` with the message, if it is still
/// kept, and `ID.json` with the envelope and the state of each delivery.
///
/// # Errors
/// The same as [`verify`]; also if a file cannot be written.
pub fn export(path: &Path, to: &Path) -> Result<ExportReport, SpoolError> {
    require(path)?;
    let store = open_store(path, Purpose::Inspect)?;

    let cannot = |e: std::io::Error| {
        SpoolError::Unreadable(format!("cannot write to {}: {e}", to.display()))
    };
    private::make_target(to).map_err(cannot)?;

    let mut exported = ExportReport::default();
    exported.problems = inspect::walk(&store, &mut |seen: WholeMail<'_>| {
        let id: MailId = seen.manifest.id;
        if let Some(body) = seen.body {
            private::write(&to.join(format!("{id}.eml")), body).map_err(cannot)?;
        }
        private::write(&to.join(format!("{id}.json")), describe(&seen).as_ref()).map_err(cannot)?;
        exported.mails += 1;
        Ok(())
    })?;

    store.close();
    Ok(exported)
}

pub(super) fn require(path: &Path) -> Result<(), SpoolError> {
    let log = path.join("db");
    match log.metadata() {
        Ok(found) if found.is_file() => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(unreadable(path, error));
        }
        _ => {}
    }

    let mut reason = "there is no spool in this directory".to_owned();
    if path.is_file() {
        reason = "it is a file, and a spool is a directory".to_owned();
    } else if !path.exists() {
        reason += ": it does not exist";
    } else if log.is_dir() {
        reason += ": `db` is a directory, and must be a file";
    } else if path.join(watermark::FILE).exists() || spare::is_kept(path) {
        reason = LOST.to_owned();
    }

    Err(SpoolError::Unopenable {
        path: path.to_owned(),
        reason,
    })
}

/// The envelope as JSON. Written by hand because the library has no JSON dependency without the
/// feature `server`; no value needs other escapes.
pub(in crate::spool) fn describe(seen: &WholeMail<'_>) -> String {
    let quote = |text: &str| {
        let mut quoted = String::from('"');
        for c in text.chars() {
            match c {
                '"' | '\\' => quoted.extend(['\\', c]),
                c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => quoted.push(c),
            }
        }
        quoted + "\""
    };

    let manifest = seen.manifest;
    let mut fields: BTreeMap<&str, String> = BTreeMap::new();
    fields.insert("id", quote(&manifest.id.to_string()));
    fields.insert("accepted_at", quote(&manifest.accepted_at.to_string()));
    fields.insert("expires_at", quote(&manifest.expires_at.to_string()));
    fields.insert("is_message_kept", seen.body.is_some().to_string());
    fields.insert("priority", quote(manifest.priority.as_str()));

    fields.insert(
        "return_path",
        manifest
            .return_path
            .as_ref()
            .map_or("null".into(), |path| quote(path.as_str())),
    );

    let deliveries = seen.deliveries.iter().map(|delivery| {
        let state = delivery.state(crate::mail::Timestamp::now(), false);
        format!(
            "{{\"recipient\": {}, \"state\": {}}}",
            quote(delivery.recipient.as_str()),
            quote(state.as_str())
        )
    });

    fields.insert(
        "deliveries",
        format!("[{}]", deliveries.collect::<Vec<_>>().join(", ")),
    );

    let lines: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("  \"{name}\": {value}"))
        .collect();

    format!("{{\n{}\n}}\n", lines.join(",\n"))
}
