//! The flags of the classic sendmail, as Postfix and others support them.

use std::ffi::OsString;

use super::{Code, SendmailError};
use crate::cli::screen::escaped;

/// Flags that take a value, in the same word or as the next one. Those that are not read below are
/// ignored: what they ask for (8-bit mail, notifications, error mode, hop counts …) is done anyway,
/// or is not a client's business.
const WITH_VALUE: &str = "ABCFLMNOPRVXbdefhopqr";
/// Flags without a value.
const WITHOUT_VALUE: &str = "GIUcimnstvx";

/// The parsed command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `-t`
    pub recipients_from_message: bool,
    /// `-i` or `-oi`
    pub ignore_dots: bool,
    /// `-f` or `-r`; `<>` for the null reverse-path.
    pub from: Option<String>,
    /// `-F`
    pub full_name: Option<String>,
    /// The words after the flags.
    pub recipients: Vec<String>,
    pub task: Task,
    /// `-q`, `-I`: without recipients there is nothing to do.
    pub idle: bool,
}

/// What the command does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Task {
    /// Submit a message from standard input.
    #[default]
    Send,
    /// `-bs`: speak SMTP on standard input and output.
    Speak,
    /// `-bp`: print the queue.
    Queue,
    /// `-bi`: rebuild the alias table, which does not exist here.
    Nothing,
}

impl Flags {
    /// Parses the words as getopt does: flags end at `--` or at the first word that is not a flag.
    pub(super) fn parse(words: Vec<OsString>) -> Result<Self, SendmailError> {
        let usage = |message: String| SendmailError::new(Code::Usage, message);
        let mut flags = Flags::default();
        let mut words = words.into_iter().map(|word| {
            word.into_string().map_err(|word| {
                usage(format!(
                    "`{}` is not UTF-8",
                    escaped(&word.to_string_lossy())
                ))
            })
        });

        while let Some(word) = words.next().transpose()? {
            if word == "--" {
                break;
            }
            let Some(cluster) = word.strip_prefix('-').filter(|cluster| !cluster.is_empty()) else {
                flags.recipients.push(word);
                break;
            };
            for (at, flag) in cluster.char_indices() {
                let rest = &cluster[at + flag.len_utf8()..];
                if WITHOUT_VALUE.contains(flag) {
                    flags.alone(flag);
                } else if WITH_VALUE.contains(flag) {
                    // The values of the error mode, the debug level and the queue's interval are
                    // optional, and never the next word.
                    let value = match rest {
                        "" if matches!(flag, 'd' | 'e' | 'q') => String::new(),
                        "" => words
                            .next()
                            .transpose()?
                            .ok_or_else(|| usage(format!("-{flag} needs a value")))?,
                        rest => rest.to_owned(),
                    };
                    flags.with_value(flag, value)?;
                    break;
                } else {
                    let word = escaped(&word);
                    return Err(usage(format!(
                        "there is no flag `{word}`; see `postrider sendmail --help`"
                    )));
                }
            }
        }

        for recipient in words {
            flags.recipients.push(recipient?);
        }
        Ok(flags)
    }

    fn alone(&mut self, flag: char) {
        match flag {
            't' => self.recipients_from_message = true,
            'i' => self.ignore_dots = true,
            'I' => self.idle = true,
            _ => {}
        }
    }

    fn with_value(&mut self, flag: char, value: String) -> Result<(), SendmailError> {
        match (flag, value.as_str()) {
            ('f' | 'r', "" | "<>") => self.from = Some("<>".to_owned()),
            ('f' | 'r', address) => {
                let address = address
                    .strip_prefix('<')
                    .and_then(|rest| rest.strip_suffix('>'))
                    .unwrap_or(address);
                self.from = Some(address.to_owned());
            }
            ('F', _) => self.full_name = Some(value),
            ('o', "i") => self.ignore_dots = true,
            ('o', "t") => self.recipients_from_message = true,
            ('b', "m") => {}
            ('q', _) => self.idle = true,
            ('b', "i") => self.task = Task::Nothing,
            ('b', "p") => self.task = Task::Queue,
            ('b', "s") => self.task = Task::Speak,
            ('b', "d" | "D" | "l") => {
                let message = format!(
                    "-b{value} is not supported: the service runs by itself, see `postrider run`"
                );
                return Err(SendmailError::new(Code::Usage, message));
            }
            ('b', mode) => {
                return Err(SendmailError::new(
                    Code::Usage,
                    format!("there is no mode -b{}", escaped(mode)),
                ));
            }
            _ => {}
        }

        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(line: &str) -> Result<Flags, SendmailError> {
        Flags::parse(line.split_whitespace().map(OsString::from).collect())
    }

    #[test]
    fn cron_is_understood() {
        let flags = parse("-FCronDaemon -i -B8BITMIME -oem root").unwrap();
        let expected = Flags {
            ignore_dots: true,
            full_name: Some("CronDaemon".into()),
            recipients: vec!["root".into()],
            ..Flags::default()
        };
        assert_eq!(flags, expected);
    }

    #[test]
    fn values_are_attached_or_the_next_word() {
        for line in [
            "-ti -f a@b c@d",
            "-t -i -fa@b c@d",
            "-itf a@b c@d",
            "-oi -t -r <a@b> -- c@d",
            "-t -oi -f a@b c@d",
        ] {
            let flags = parse(line).unwrap();
            assert!(flags.recipients_from_message && flags.ignore_dots, "{line}");
            assert_eq!(flags.from.as_deref(), Some("a@b"), "{line}");
            assert_eq!(flags.recipients, ["c@d"], "{line}");
        }
    }

    #[test]
    fn flags_end_at_the_first_recipient() {
        assert_eq!(
            parse("a@b -t -fx").unwrap().recipients,
            ["a@b", "-t", "-fx"]
        );
        assert_eq!(parse("-i -- -t").unwrap().recipients, ["-t"]);
    }

    #[test]
    fn harmless_flags_change_nothing() {
        let harmless = "-v -N never -R hdrs -V id -O Timeout=1 -oQ/tmp -odb -om -e m -q -h 3 -Am \
                        -G -U -n -bm -L x";
        let expected = Flags {
            recipients: vec!["a@b".into()],
            idle: true,
            ..Flags::default()
        };
        assert_eq!(
            parse(&format!("{} a@b", harmless.replace("-e m", "-em"))).unwrap(),
            expected
        );
    }

    #[test]
    fn what_is_not_understood_is_wrong_usage() {
        for line in ["-z", "-bd", "-bv", "-f", "-tk", "--to a@b"] {
            assert_eq!(parse(line).unwrap_err().code, Code::Usage, "{line}");
        }
    }

    #[test]
    fn an_empty_sender_is_the_null_reverse_path() {
        assert_eq!(parse("-f <> a@b").unwrap().from.as_deref(), Some("<>"));
        for (line, task) in [
            ("-bs -i", Task::Speak),
            ("-bp", Task::Queue),
            ("-bi", Task::Nothing),
            ("-t", Task::Send),
        ] {
            assert_eq!(parse(line).unwrap().task, task, "{line}");
        }
        assert!(parse("-q30m").unwrap().idle && parse("-I").unwrap().idle);
    }
}
