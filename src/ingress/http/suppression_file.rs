//! Suppressed addresses as a CSV file: parses it line by line, and writes it.

use std::cell::Cell;
use std::io::{self, Cursor, Read};
use std::rc::Rc;

use serde::Serialize;
use utoipa::ToSchema;

use super::suppression_exports as exports;
use crate::SuppressionReason;
use crate::mail::{Address, Timestamp};

/// The longest name of a list and the longest note, in characters.
const MAX_LIST: usize = 100;
const MAX_NOTE: usize = 500;
/// The longest line in bytes: far more than all fields together can have.
const MAX_LINE: usize = 64 * 1024;
/// The first characters of a cell that a spreadsheet would evaluate, or of one that is marked as
/// such.
const FORMULA_STARTS: [char; 5] = ['=', '+', '-', '@', '\''];
/// The columns of a file, in the order in which they are written.
pub(super) const COLUMNS: [&str; 6] = ["address", "reason", "list", "since", "until", "note"];

/// The content of a line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SuppressionLine {
    pub address: Address,
    pub reason: SuppressionReason,
    pub list: Option<String>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub note: Option<String>,
}

/// A line with a mistake.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WrongLine {
    line: u64,
    detail: String,
}

/// The content of each line that is not empty, or its mistake. An error if the file is not CSV from
/// there on.
pub(super) fn lines(
    file: impl Read,
) -> impl Iterator<Item = Result<Result<SuppressionLine, WrongLine>, csv::Error>> {
    let unended = Rc::new(Cell::new(0));
    let mut file = BoundedLines {
        file,
        unended: unended.clone(),
    };

    // The first line shows the delimiter and the columns. Excel may write one before it that names
    // the delimiter alone.
    let (mut first, mut is_read) = first_line(&mut file);
    let content = |line: &[u8]| line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line).to_vec();
    let named = named_delimiter(&content(&first));
    if named.is_some() {
        (first, is_read) = first_line(&mut file);
    }

    let skipped = content(&first);
    // The line that was taken away is not counted by the reader; and with CRLF its number is one
    // too low after the first line.
    let before = u64::from(named.is_some());
    let behind = u64::from(skipped.ends_with(b"\r\n"));
    let reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .delimiter(named.unwrap_or_else(|| delimiter(&skipped)))
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(Cursor::new(skipped).chain(file));

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
            let named: Vec<String> = record.iter().map(exports::column).collect();
            let names = |name: &String| name == "address";
            // A note may be any word, and so look like a column's name.
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
                0 => at.line() + before,
                _ => at.line() + before + behind,
            }),
            detail,
        })))
    })
}

/// Limits the length of a line, so that none fills the memory.
struct BoundedLines<R> {
    file: R,
    /// How many bytes were read since the last end of a line.
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

/// The first line of what is left of a file, and why it may end early.
fn first_line(file: &mut impl Read) -> (Vec<u8>, io::Result<()>) {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\n") {
        match file.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => line.push(byte[0]),
            Err(error) => return (line, Err(error)),
        }
    }
    (line, Ok(()))
}

/// The delimiter that this line names, if it is one like `sep=;`.
fn named_delimiter(line: &[u8]) -> Option<u8> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = line.strip_prefix(b"\"").unwrap_or(line);
    let line = line.strip_suffix(b"\"").unwrap_or(line);
    match line.split_at_checked(4) {
        Some((word, [delimiter])) if word.eq_ignore_ascii_case(b"sep=") => Some(*delimiter),
        _ => None,
    }
}

/// The delimiter, by the first line: in some countries spreadsheets write semicolons, or tabs,
/// instead of commas.
fn delimiter(line: &[u8]) -> u8 {
    let has = |byte| memchr::memchr(byte, line).is_some();
    match (has(b','), has(b';'), has(b'\t')) {
        (false, true, _) => b';',
        (false, false, true) => b'\t',
        _ => b',',
    }
}

fn line(columns: &[String], record: &csv::StringRecord) -> Result<SuppressionLine, String> {
    let given = |name: &str| {
        let place = columns.iter().position(|column| column == name)?;
        let text = record.get(place).filter(|text| !text.is_empty())?;
        // `written` marks cells that a spreadsheet would evaluate.
        Some(
            text.strip_prefix('\'')
                .filter(|rest| rest.starts_with(FORMULA_STARTS))
                .unwrap_or(text),
        )
    };

    let address = given("address").ok_or("has no address")?;
    // In concatenated files each may begin with a byte order mark.
    let address = Address::read(address.trim_start_matches('\u{feff}'))?;
    let (reason, said) = match given("reason") {
        Some(text) => match exports::reason(text) {
            Some(reason) => (reason, exports::is_said(text).then_some(text)),
            None => (
                text.parse().map_err(|error| format!("reason: {error}"))?,
                None,
            ),
        },
        None if given("code").is_some_and(exports::is_failure) || given("error").is_some() => {
            (SuppressionReason::Bounce, given("error"))
        }
        None => (SuppressionReason::Manual, None),
    };

    let time = |name| match given(name) {
        Some(time) => {
            let time: Result<Timestamp, _> = time.parse();
            time.map(Some).map_err(|error| format!("{name}: {error}"))
        }
        None => Ok(None),
    };

    let (list, note) = (given("list"), given("note"));
    check(list, note).map_err(|(field, detail)| format!("{field}: {detail}"))?;
    let since = time("since")?.or_else(|| given("created").and_then(exports::created));
    let said = said.map(|said| said.chars().take(MAX_NOTE).collect());
    Ok(SuppressionLine {
        address,
        reason,
        list: list.map(str::to_owned),
        since,
        until: time("until")?,
        note: note.map(str::to_owned).or(said),
    })
}

/// The mistake in a list's name or a note, by the field.
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
            format!("has {count} characters; at most {MAX_NOTE} are allowed"),
        )),
        _ => Ok(()),
    }
}

/// Lines in the form of a file. Text from outside is marked, so that no spreadsheet evaluates it as
/// a formula.
pub(super) fn written<const N: usize>(lines: impl IntoIterator<Item = [String; N]>) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for line in lines {
        let line = line.map(|text| match text.starts_with(FORMULA_STARTS) {
            true => format!("'{text}"),
            false => text,
        });
        // Writing to memory cannot fail, and all lines have the same number of fields.
        let _ = writer.write_record(line);
    }
    writer.into_inner().unwrap_or_default()
}
