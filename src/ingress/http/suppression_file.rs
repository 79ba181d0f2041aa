//! Suppressed addresses as a CSV file: reads it line by line, and writes it.

use std::cell::Cell;
use std::io::{self, Cursor, Read};
use std::rc::Rc;

use serde::Serialize;
use utoipa::ToSchema;

use crate::SuppressionReason;
use crate::mail::{Address, Timestamp};

/// The longest list's name and note that are taken.
const MAX_LIST: usize = 100;
const MAX_NOTE: usize = 500;
/// The longest line, in bytes: far more than all fields together may have.
const MAX_LINE: usize = 64 * 1024;
/// How a cell begins that a spreadsheet would compute, or that begins with the mark of such a one.
const FORMULA_STARTS: [char; 5] = ['=', '+', '-', '@', '\''];
/// The columns of a file, in the order in which they are written.
pub(super) const COLUMNS: [&str; 6] = ["address", "reason", "list", "since", "until", "note"];

/// What stands on one line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SuppressionLine {
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
    file: impl Read,
) -> impl Iterator<Item = Result<Result<SuppressionLine, WrongLine>, csv::Error>> {
    let unended = Rc::new(Cell::new(0));
    let mut file = BoundedLines {
        file,
        unended: unended.clone(),
    };

    // What it looks like is told by its first line.
    let mut first = Vec::new();
    let mut is_read = Ok(());
    while is_read.is_ok() && !first.ends_with(b"\n") {
        let mut byte = [0];
        match file.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => first.push(byte[0]),
            Err(error) => is_read = Err(error),
        }
    }

    let skipped = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&first);
    // Where lines end in CRLF the reader is one behind with the number of each after the first.
    let behind = u64::from(skipped.ends_with(b"\r\n"));
    let reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .delimiter(delimiter(skipped))
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(Cursor::new(skipped.to_vec()).chain(file));

    let mut columns: Option<Vec<String>> = None;
    let broken = is_read.err().map(|error| Err(csv::Error::from(error)));
    let records = broken.into_iter().chain(reader.into_records());
    records.filter_map(move |record| {
        unended.set(0);
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

/// A file of which no line fills the memory.
struct BoundedLines<R> {
    file: R,
    /// How much was read since a line last ended.
    unended: Rc<Cell<usize>>,
}

impl<R: Read> Read for BoundedLines<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(to)?;
        let unended = self.unended.get() + length;
        self.unended.set(unended);
        match unended > MAX_LINE {
            true => Err(io::Error::other(format!(
                "a line has more than {MAX_LINE} bytes; is a quotation mark not closed?"
            ))),
            false => Ok(length),
        }
    }
}

/// What stands between the fields, by the first line: where people write numbers with commas,
/// spreadsheets write semicolons, or tabs, instead.
fn delimiter(line: &[u8]) -> u8 {
    let has = |byte| memchr::memchr(byte, line).is_some();
    match (has(b','), has(b';'), has(b'\t')) {
        (false, true, _) => b';',
        (false, false, true) => b'\t',
        _ => b',',
    }
}

fn line(columns: &[String], record: &csv::StringRecord) -> Result<SuppressionLine, String> {
    let given = |names: &[&str]| {
        let place = columns
            .iter()
            .position(|name| names.contains(&name.as_str()))?;
        let text = record.get(place).filter(|text| !text.is_empty())?;
        // As `written` marks what a spreadsheet would compute.
        Some(
            text.strip_prefix('\'')
                .filter(|rest| rest.starts_with(FORMULA_STARTS))
                .unwrap_or(text),
        )
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
    Ok(SuppressionLine {
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

/// These lines, as a file has them. What others wrote is marked, so that no spreadsheet takes it
/// for a formula.
pub(super) fn written<const N: usize>(lines: impl IntoIterator<Item = [String; N]>) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for line in lines {
        let line = line.map(|text| match text.starts_with(FORMULA_STARTS) {
            true => format!("'{text}"),
            false => text,
        });
        // Nothing but memory is written to, and all lines have as many fields.
        let _ = writer.write_record(line);
    }
    writer.into_inner().unwrap_or_default()
}
