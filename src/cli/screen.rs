//! All output of the command line: lines and tables on standard output, notes on standard error. No
//! command prints in any other way.
//!
//! *Invariant:* everything printed is made of [`StyledText`], which escapes its text when it is
//! made. So nothing from a mail, a remote server or the service reaches a terminal unescaped.

use std::fmt::Display;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};

use clap::builder::styling::{AnsiColor, Style};
use comfy_table::{
    Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Row, Table, Width, presets,
};

use crate::mail::is_harmless;

/// A piece of escaped text with its style.
#[derive(Clone)]
pub struct StyledText {
    text: String,
    tint: TextStyle,
}

impl StyledText {
    /// Other text in the same style.
    pub fn with_text(self, text: impl Display) -> StyledText {
        tinted(text, self.tint)
    }
}

/// The meaning of a piece of text, which decides its colour.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TextStyle {
    /// Nothing special.
    Plain,
    /// All is well.
    Good,
    /// Work is going on.
    Busy,
    /// Something that may need attention.
    Warning,
    /// Something failed.
    Bad,
    /// Less important.
    Faint,
    /// A heading.
    Strong,
}

/// Text without a style.
pub fn plain(text: impl Display) -> StyledText {
    tinted(text, TextStyle::Plain)
}

/// Text in a style.
pub fn tinted(text: impl Display, tint: TextStyle) -> StyledText {
    StyledText {
        text: escaped(&text.to_string()),
        tint,
    }
}

/// The name of a state of a mail, a delivery, a relay or a breaker, in its style.
pub fn state(name: &str) -> StyledText {
    let tint = match name {
        "delivered" | "up" => TextStyle::Good,
        "sending" => TextStyle::Busy,
        "deferred" | "partial" | "paused" | "half_open" => TextStyle::Warning,
        "dead" | "down" | "open" => TextStyle::Bad,
        "cancelled" => TextStyle::Faint,
        _ => TextStyle::Plain,
    };
    tinted(name, tint)
}

/// What a table does with text that is wider than the terminal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ColumnFit {
    /// Cut it off: each row is one line.
    Cut,
    /// Wrap it into further lines.
    Wrap,
}

/// The space between two columns, in characters.
const COLUMN_GAP: u16 = 2;
/// The smallest width to which a column is narrowed.
const MIN_COLUMN_WIDTH: u16 = 8;

/// Standard output or standard error: a terminal with colours, or a plain stream.
pub struct Screen {
    out: Box<dyn Write>,
    terminal: bool,
    colour: bool,
}

impl Screen {
    /// Standard output. It has colours if it is a terminal and the environment has no `NO_COLOR`.
    pub fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let able = std::env::var_os("TERM").is_none_or(|value| value != "dumb");
        Screen {
            out: Box::new(io::stdout()),
            terminal,
            colour: terminal && wanted && able,
        }
    }

    /// Standard error, without colours: for notes, so that programs that read the output do not get
    /// them.
    pub fn for_notes() -> Self {
        Screen {
            out: Box::new(io::stderr()),
            terminal: io::stderr().is_terminal(),
            colour: false,
        }
    }

    /// Prints one line.
    pub fn line(&mut self, pieces: &[StyledText]) -> io::Result<()> {
        for piece in pieces {
            let style = if self.colour {
                piece.tint.style()
            } else {
                Style::new()
            };
            write!(self.out, "{style}{}{style:#}", piece.text)?;
        }
        writeln!(self.out)?;
        self.out.flush()
    }

    /// Prints each line of a text.
    pub fn lines(&mut self, text: impl Display) -> io::Result<()> {
        let text = text.to_string();
        text.lines().try_for_each(|line| self.line(&[plain(line)]))
    }

    /// Prints a question without a line end.
    pub fn ask(&mut self, question: &str) -> io::Result<()> {
        write!(self.out, "{}", escaped(question))?;
        self.out.flush()
    }

    /// On a terminal, shows a text in the current line until [`Screen::clear_line`]. Returns
    /// whether it is shown.
    pub fn show_for_now(&mut self, text: &str) -> io::Result<bool> {
        if self.terminal {
            write!(self.out, "\r{}", escaped(text))?;
            self.out.flush()?;
        }
        Ok(self.terminal)
    }

    /// Clears the current line of the terminal.
    pub fn clear_line(&mut self) -> io::Result<()> {
        write!(self.out, "\r\x1b[K")?;
        self.out.flush()
    }

    /// Prints text as it arrives: unchanged to a file or a pipe, escaped line by line to a
    /// terminal.
    pub fn copy(&mut self, from: impl Read) -> io::Result<()> {
        let mut from = BufReader::new(from);
        if !self.terminal {
            io::copy(&mut from, &mut self.out)?;
            return self.out.flush();
        }

        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line)? > 0 {
            self.message(&line)?;
            line.clear();
        }
        Ok(())
    }

    /// Prints the service's JSON unchanged. On a terminal, control characters are written as JSON
    /// escapes, which keeps the meaning of the JSON.
    pub fn json(&mut self, body: &[u8]) -> io::Result<()> {
        if self.terminal {
            let text = String::from_utf8_lossy(body);
            let mut units = [0; 2];
            for c in text.chars() {
                if is_harmless(c) || matches!(c, '\n' | '\r' | '\t') {
                    write!(self.out, "{c}")?;
                } else {
                    c.encode_utf16(&mut units)
                        .iter()
                        .try_for_each(|unit| write!(self.out, "\\u{unit:04x}"))?;
                }
            }
        } else {
            self.out.write_all(body)?;
        }

        if !body.ends_with(b"\n") {
            self.out.write_all(b"\n")?;
        }
        self.out.flush()
    }

    /// Prints a message's bytes: unchanged to a file or a pipe, escaped line by line to a terminal.
    pub fn message(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.terminal {
            let text = String::from_utf8_lossy(bytes);
            text.lines()
                .try_for_each(|line| writeln!(self.out, "{}", escaped(line)))?;
        } else {
            self.out.write_all(bytes)?;
        }
        self.out.flush()
    }

    /// Prints a table. The first column of a table that is cut stays whole: other commands take its
    /// values.
    pub fn table(
        &mut self,
        heads: &[&str],
        rows: Vec<Vec<StyledText>>,
        fit: ColumnFit,
    ) -> io::Result<()> {
        let mut table = Table::new();
        table
            .load_preset(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic);
        table.set_truncation_indicator("…");
        if !self.terminal {
            table.force_no_tty();
        }
        table.set_header(self.row(
            heads.iter().map(|head| tinted(head, TextStyle::Strong)),
            fit,
        ));
        for pieces in rows {
            table.add_row(self.row(pieces, fit));
        }

        let natural = table.column_max_content_widths();
        let fitting = table.width().map_or_else(
            || natural.clone(),
            |terminal| fitted(&natural, terminal, fit),
        );

        for (index, width) in fitting.into_iter().enumerate() {
            // There is no gap after the last column.
            let gap = if index + 1 < natural.len() {
                COLUMN_GAP
            } else {
                0
            };
            if let Some(column) = table.column_mut(index) {
                column
                    .set_padding((0, gap))
                    .set_constraint(ColumnConstraint::Absolute(Width::Fixed(width + gap)));
            }
        }

        writeln!(self.out, "{}", table.trim_fmt())?;
        self.out.flush()
    }

    fn row(&self, pieces: impl IntoIterator<Item = StyledText>, fit: ColumnFit) -> Row {
        let cells = pieces.into_iter().map(|piece| self.cell(piece));
        match fit {
            ColumnFit::Wrap => Row::from(cells),
            ColumnFit::Cut => {
                // A delimiter that no piece contains, so that text is cut anywhere and not at a
                // word's end.
                let mut row = Row::from(cells.map(|cell| cell.set_delimiter('\0')));
                row.max_height(1);
                row
            }
        }
    }

    /// Prints names and values, one pair per line. Values that are `None` are left out.
    pub fn facts(&mut self, facts: Vec<(&str, Option<Vec<StyledText>>)>) -> io::Result<()> {
        let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in facts {
            if let Some(value) = value {
                let mut pieces = vec![tinted(format_args!("{name:width$}  "), TextStyle::Faint)];
                pieces.extend(value);
                self.line(&pieces)?;
            }
        }
        Ok(())
    }

    fn cell(&self, piece: StyledText) -> Cell {
        let cell = Cell::new(piece.text);
        if !self.colour {
            return cell;
        }

        match piece.tint {
            TextStyle::Plain => cell,
            TextStyle::Good => cell.fg(Color::DarkGreen),
            TextStyle::Busy => cell.fg(Color::DarkCyan),
            TextStyle::Warning => cell.fg(Color::DarkYellow),
            TextStyle::Bad => cell.fg(Color::DarkRed),
            TextStyle::Faint => cell.add_attribute(Attribute::Dim),
            TextStyle::Strong => cell.add_attribute(Attribute::Bold),
        }
    }
}

/// Prints a note to standard error; it is dropped if that cannot be written.
pub fn note(text: impl Display) {
    let _ = Screen::for_notes().lines(text);
}

/// The columns' widths on a terminal of this width: their natural ones, except that the last column
/// and the widest of the others are narrowed to share what is left. The first column of a table
/// that is cut is not narrowed: other commands take its values.
fn fitted(natural: &[u16], terminal: u16, fit: ColumnFit) -> Vec<u16> {
    let mut widths = natural.to_vec();
    let Some(last) = widths.len().checked_sub(1) else {
        return widths;
    };
    let first = usize::from(fit == ColumnFit::Cut);
    let Some(widest) = (first..last).max_by_key(|column| natural[*column]) else {
        return widths;
    };
    let others: u16 = (0..last)
        .filter(|column| *column != widest)
        .map(|column| natural[column] + COLUMN_GAP)
        .sum();

    let room = terminal.saturating_sub(others + COLUMN_GAP);
    let share = (room / 2)
        .max(room.saturating_sub(natural[last]))
        .max(MIN_COLUMN_WIDTH);
    widths[widest] = natural[widest].min(share);
    widths[last] = natural[last].min(room.saturating_sub(widths[widest]).max(MIN_COLUMN_WIDTH));

    widths
}

impl TextStyle {
    fn style(self) -> Style {
        match self {
            TextStyle::Plain => Style::new(),
            TextStyle::Good => AnsiColor::Green.on_default(),
            TextStyle::Busy => AnsiColor::Cyan.on_default(),
            TextStyle::Warning => AnsiColor::Yellow.on_default(),
            TextStyle::Bad => AnsiColor::Red.on_default(),
            TextStyle::Faint => Style::new().dimmed(),
            TextStyle::Strong => Style::new().bold(),
        }
    }
}

/// The text with every character that could move the cursor, change colours or reorder the line
/// written as `\u{…}`.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmless(c) {
            safe.push(c)
        } else {
            safe.extend(c.escape_default())
        }
    }
    safe
}

/// A number with separators: `1,204`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 mail`, `12 mails`.
pub fn counted(number: u64, what: &str) -> String {
    format!(
        "{} {what}{}",
        grouped(number),
        if number == 1 { "" } else { "s" }
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nothing_that_commands_a_terminal_survives() {
        assert_eq!(
            escaped("a\u{1b}[2J\r\nb\u{9b}c\u{202e}d"),
            "a\\u{1b}[2J\\r\\nb\\u{9b}c\\u{202e}d"
        );
        assert_eq!(escaped("Grüße, 世界 ✓"), "Grüße, 世界 ✓");
    }

    /// The output of `print`, to a terminal or to a pipe.
    fn printed(terminal: bool, print: impl FnOnce(&mut Screen) -> io::Result<()>) -> String {
        let paper = OutputBuffer::default();
        let mut screen = Screen {
            out: Box::new(paper.clone()),
            terminal,
            colour: terminal,
        };
        print(&mut screen).unwrap();
        let bytes = paper.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[derive(Clone, Default)]
    struct OutputBuffer(std::sync::Arc<parking_lot::Mutex<Vec<u8>>>);

    impl Write for OutputBuffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn json_is_exact_in_a_pipe_and_says_the_same_on_a_terminal() {
        let json = "{\"a\":\"\u{9b}2J \u{202e} 世 \u{7f}\"}";
        assert_eq!(
            printed(false, |screen| screen.json(json.as_bytes())),
            format!("{json}\n")
        );
        let shown = printed(true, |screen| screen.json(json.as_bytes()));
        assert_eq!(shown, "{\"a\":\"\\u009b2J \\u202e 世 \\u007f\"}\n");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&shown), value(json));
    }

    #[test]
    fn a_message_is_exact_in_a_pipe_and_harmless_on_a_terminal() {
        let message = b"Subject: \x1b[2J\r\n\r\nhi\r\n";
        assert_eq!(
            printed(false, |screen| screen.message(message)).as_bytes(),
            message
        );
        assert_eq!(
            printed(true, |screen| screen.message(message)),
            "Subject: \\u{1b}[2J\n\nhi\n"
        );
    }

    #[test]
    fn colours_are_for_terminals() {
        let line = |screen: &mut Screen| screen.line(&[plain("a "), state("dead")]);
        assert_eq!(printed(false, line), "a dead\n");
        assert_eq!(printed(true, line), "a \u{1b}[31mdead\u{1b}[0m\n");
    }

    #[test]
    fn a_table_fits_its_terminal_and_keeps_its_first_column() {
        let total =
            |widths: &[u16]| widths.iter().sum::<u16>() + COLUMN_GAP * (widths.len() as u16 - 1);
        let natural = [36, 9, 6, 30, 60];
        assert_eq!(fitted(&natural, 200, ColumnFit::Cut), natural);
        for terminal in [80, 100, 120] {
            let widths = fitted(&natural, terminal, ColumnFit::Cut);
            assert_eq!((total(&widths), widths[0]), (terminal, 36), "{widths:?}");
        }

        assert_eq!(
            fitted(&[36, 9, 6, 10, 60], 100, ColumnFit::Cut),
            [36, 9, 6, 10, 31]
        );

        assert_eq!(fitted(&[60, 9, 60], 79, ColumnFit::Wrap), [33, 9, 33]);
        assert_eq!(fitted(&natural, 20, ColumnFit::Cut), [36, 9, 6, 8, 8]);
    }

    #[test]
    fn thousands_are_apart() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(counted(1, "mail"), "1 mail");
    }
}
