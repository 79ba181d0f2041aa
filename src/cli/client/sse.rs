//! Reads Server-Sent Events (WHATWG HTML §9.2). `tail` calls it.

use std::io::{self, BufRead, BufReader, Read};

/// The longest line that is read; an event of the service is far shorter.
const LONGEST_LINE: u64 = 1 << 20;

/// One event.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its name; `message` if it has none.
    pub event: String,
    /// Its data; several lines are joined by line feeds.
    pub data: String,
    /// Its number, after which a new connection continues.
    pub id: Option<String>,
}

/// A stream of events.
pub struct Frames<R> {
    lines: BufReader<R>,
    id: Option<String>,
}

impl<R: Read> Frames<R> {
    /// The events in this stream.
    pub fn new(stream: R) -> Self {
        Frames {
            lines: BufReader::new(stream),
            id: None,
        }
    }

    /// The next event; `None` at the end of the stream, even after an unfinished event.
    pub fn next(&mut self) -> io::Result<Option<Frame>> {
        let mut event = String::new();
        let mut data: Option<String> = None;
        while let Some(line) = self.line()? {
            if line.is_empty() {
                let Some(data) = data.take() else {
                    event.clear();
                    continue;
                };
                let event = if event.is_empty() {
                    "message".to_owned()
                } else {
                    event
                };
                return Ok(Some(Frame {
                    event,
                    data,
                    id: self.id.clone(),
                }));
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => event = value.to_owned(),
                "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
                "data" => match &mut data {
                    None => data = Some(value.to_owned()),
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                },
                // A comment, which begins with a colon, only keeps the connection alive.
                _ => {}
            }
        }

        Ok(None)
    }

    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        self.lines
            .by_ref()
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)?;

        if line.last() != Some(&b'\n') {
            return match line.len() as u64 {
                LONGEST_LINE.. => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a line without end",
                )),
                _ => Ok(None),
            };
        }

        line.pop();
        line.pop_if(|last| *last == b'\r');
        Ok(Some(String::from_utf8_lossy(&line).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn events_are_separated_and_comments_skipped() {
        let stream = ": hello\nretry: 100\n\nid: 7\nevent: dead\ndata: a\ndata:b\r\n\r\n:\n\ndata\n\
                      \ndata: cut";
        let mut frames = Frames::new(stream.as_bytes());
        let id = Some("7".to_owned());
        let first = Frame {
            event: "dead".into(),
            data: "a\nb".into(),
            id: id.clone(),
        };

        assert_eq!(frames.next().unwrap(), Some(first));
        let second = Frame {
            event: "message".into(),
            data: String::new(),
            id,
        };

        assert_eq!(frames.next().unwrap(), Some(second));
        assert_eq!(frames.next().unwrap(), None);
    }

    #[test]
    fn a_line_without_end_is_an_error_and_not_all_memory() {
        let mut frames = Frames::new(io::repeat(b'x'));
        assert!(frames.next().is_err());
    }
}
