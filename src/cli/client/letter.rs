//! Prints a message for a person: the header section as it is written, then the text and the
//! attachments. `show` calls it.

use std::io;

use mail_parser::MimeHeaders;

use crate::cli::screen::{Screen, TextStyle, counted, plain, tinted};
use crate::mail::parsed as parse;

/// The most lines of a mail's text that are shown.
const SHOWN_LINES: usize = 200;

/// Prints a message, escaped for the terminal.
pub fn print(message: &[u8], screen: &mut Screen) -> io::Result<()> {
    let header = header_section(message);
    screen.line(&[])?;
    for line in String::from_utf8_lossy(header).lines() {
        let name = line
            .find(':')
            .filter(|_| !line.starts_with([' ', '\t']))
            .map_or(0, |colon| colon + 1);
        let (name, value) = line.split_at(name);
        screen.line(&[
            tinted(name, TextStyle::Faint),
            plain(value.replace('\t', " ")),
        ])?;
    }

    screen.line(&[])?;
    let Some(parsed) = parse(message) else {
        return Ok(());
    };

    let text = parsed.body_text(0).unwrap_or_default();
    let mut lines = text.trim_end().lines();
    for line in lines.by_ref().take(SHOWN_LINES) {
        screen.line(&[plain(line.replace('\t', "    "))])?;
    }

    let rest = lines.count() as u64;
    if rest > 0 {
        let more = format!(
            "… {} more; `postrider show --raw` prints all",
            counted(rest, "line")
        );
        screen.line(&[tinted(more, TextStyle::Faint)])?;
    }

    if parsed.attachment_count() > 0 {
        screen.line(&[])?;
    }
    for part in parsed.attachments() {
        let name = part.attachment_name().unwrap_or("without a name");
        let size = bytesize::ByteSize(part.contents().len() as u64)
            .display()
            .iec();
        let kind = part
            .content_type()
            .map_or("application/octet-stream".to_owned(), |kind| {
                match kind.subtype() {
                    Some(subtype) => format!("{}/{subtype}", kind.ctype()),
                    None => kind.ctype().to_owned(),
                }
            });
        screen.line(&[
            tinted("attachment  ", TextStyle::Faint),
            plain(format_args!("{name}  ({kind}, {size})")),
        ])?;
    }

    Ok(())
}

/// Everything before the first empty line.
fn header_section(message: &[u8]) -> &[u8] {
    let end = message.windows(4).position(|window| window == b"\r\n\r\n");
    &message[..end.unwrap_or(message.len())]
}
