//! Who is not to get mail, as a CSV file: how it is read, line by line, and written.

use serde::Serialize;
use utoipa::ToSchema;

use crate::SuppressionReason;
use crate::mail::{Address, Timestamp};

/// The longest list's name and note that are taken.
const MAX_LIST: usize = 100;
const MAX_NOTE: usize = 500;
/// The columns of a file, in the order in which they are written.
pub(super) const COLUMNS: [&str; 6] = ["address", "reason", "list", "since", "until", "note"];

/// What stands on one line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub address: Address,
    pub reason: SuppressionReason,
    pub list: Option<String>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub note: Option<String>,
}

/// A line that was not understood.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WrongLine {
    line: u64,
    detail: String,
}

/// What stands on each line of a file that holds anything, or why it is not understood. An error
/// where the file is no CSV from there on.
pub(super) fn lines(
    file: &[u8],
) -> impl Iterator<Item = Result<Result<Line, WrongLine>, csv::Error>> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    // Where lines end in CRLF the reader is one behind with the number of each after the first.
    let behind = u64::from(memchr::memmem::find(file, b"\r\n").is_some());
    let reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .delimiter(delimiter(file))
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(file);

    let mut columns: Option<Vec<String>> = None;
    reader.into_records().filter_map(move |record| {
        let record = match record {
            Ok(record) => record,
            Err(error) => return Some(Err(error)),
        };
        if columns.is_none() {
            let named: Vec<String> = record.iter().map(str::to_lowercase).collect();
            let names = |name: &String| name == "address" || name == "email";
            // A note may be any word, too.
            let is_entry = named.iter().any(|name| name.contains('@'));
            let is_header = !is_entry && named.iter().any(names);
            columns = Some(match is_header {
                true => named,
                false => COLUMNS.map(str::to_owned).to_vec(),
            });
            if is_header {
                return None;
            }
        }
        if record.iter().all(str::is_empty) {
            return None;
        }
        let columns = columns.as_deref().unwrap_or_default();
        let read = line(columns, &record);
        Some(Ok(read.map_err(|detail| WrongLine {
            line: record.position().map_or(0, |at| match at.byte() {
                0 => at.line(),
                _ => at.line() + behind,
            }),
            detail,
        })))
    })
}

/// What stands between the fields: where people write numbers with commas, spreadsheets write
/// semicolons, or tabs, instead.
fn delimiter(file: &[u8]) -> u8 {
    let end = memchr::memchr(b'\n', file).unwrap_or(file.len());
    let has = |byte| memchr::memchr(byte, &file[..end]).is_some();
    match (has(b','), has(b';'), has(b'\t')) {
        (false, true, _) => b';',
        (false, false, true) => b'\t',
        _ => b',',
    }
}

fn line(columns: &[String], record: &csv::StringRecord) -> Result<Line, String> {
    let given = |names: &[&str]| {
        let place = columns
            .iter()
            .position(|name| names.contains(&name.as_str()))?;
        record.get(place).filter(|text| !text.is_empty())
    };

    let address = given(&["address", "email"]).ok_or("has no address")?;
    // Where files were put one behind the other, each has brought its mark.
    let address = Address::read(address.trim_start_matches('\u{feff}'))?;
    let reason = match given(&["reason"]) {
        Some(reason) => reason.parse().map_err(|error| format!("reason: {error}"))?,
        None => SuppressionReason::Manual,
    };

    let time = |name| match given(&[name]) {
        Some(time) => {
            let time: Result<Timestamp, _> = time.parse();
            time.map(Some).map_err(|error| format!("{name}: {error}"))
        }
        None => Ok(None),
    };

    let (list, note) = (given(&["list"]), given(&["note"]));
    check(list, note).map_err(|(field, detail)| format!("{field}: {detail}"))?;
    Ok(Line {
        address,
        reason,
        list: list.map(str::to_owned),
        since: time("since")?,
        until: time("until")?,
        note: note.map(str::to_owned),
    })
}

/// What is wrong with a list's name or a note, by the field.
pub(super) fn check(list: Option<&str>, note: Option<&str>) -> Result<(), (&'static str, String)> {
    if let Some(list) = list
        && !crate::mail::is_list_name(list)
    {
        let detail =
            format!("is not a list's name: 1 to {MAX_LIST} letters, digits, `-`, `_`, `.`");
        return Err(("list", detail));
    }

    match note.map(|note| note.chars().count()) {
        Some(count) if count > MAX_NOTE => Err((
            "note",
            format!("has {count} characters, and {MAX_NOTE} are the most"),
        )),
        _ => Ok(()),
    }
}

/// These lines, as a file has them.
pub(super) fn written<const N: usize>(lines: impl IntoIterator<Item = [String; N]>) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for line in lines {
        // Nothing but memory is written to, and all lines have as many fields.
        let _ = writer.write_record(line);
    }
    writer.into_inner().unwrap_or_default()
}
