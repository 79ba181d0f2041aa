//! `postrider sendmail`, a drop-in for the classic sendmail of cron, PHP and scripts: a message on
//! standard input, recipients as arguments or from the message, and an exit code from sysexits.h.

mod flags;
mod message;
mod queue;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use clap::{ArgAction, Args};
use serde::Deserialize;

use self::flags::{Flags, Task};
use super::place::ServiceOptions;
use super::service::{Parameters, Payload, ServiceClient};
use super::user;
use crate::cli::failure::Failure;
use crate::cli::screen::{Screen, escaped, note};
use crate::ingress::smtp::{self, StdioRefusal, StdioSubmission};
use crate::mail::{Addressees, MailError, MailId};

/// The end of the help.
pub const MANUAL: &str = "\
Flags:
  -t          take recipients from To, Cc and Bcc, besides those named
  -i, -oi     a line with a single dot does not end the message
  -f ADDRESS  where bounces go; <> for nowhere. It is also the sender of a
              message that names none. Without -f it is the message's sender
  -F NAME     the sender's full name, for a message that names no sender
  -bs         speak SMTP on standard input and output
  -bp         print the queue, as mailq does
  -bi, -I, -q nothing: there are no aliases, and the service tries by itself
  --          what follows is a recipient, even with a leading dash

Other flags of the classic sendmail (-oem, -B8BITMIME, -N, -R, -v and so on)
are taken and change nothing. The service is found by --url and --token before
all flags, or by POSTRIDER_URL and POSTRIDER_TOKEN. A link to postrider that
is named sendmail does the same; one that is named mailq prints the queue, and
newaliases does nothing.

Exit codes:
  0 accepted             67 a recipient is not valid     75 try again later
  64 wrong usage         69 not possible                 77 not allowed
  65 message not valid   74 standard input unreadable    78 wrong address of
                                                            the service";

/// `postrider sendmail`.
#[derive(Args)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub struct Sendmail {
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    #[command(flatten)]
    service: ServiceOptions,
    /// The flags of the classic sendmail, then the recipients
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "FLAGS AND RECIPIENTS"
    )]
    words: Vec<OsString>,
}

/// The largest message that `-bs` accepts; the service has a limit of its own.
const LARGEST_MESSAGE: usize = 256 << 20;

/// The service's answer to an accepted mail.
#[derive(Deserialize)]
struct AcceptedAnswer {
    id: MailId,
}

/// The exit codes, with the numbers of sysexits.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    Usage = 64,
    DataError = 65,
    NoUser = 67,
    Unavailable = 69,
    IoError = 74,
    TryLater = 75,
    NoPermission = 77,
    Configuration = 78,
}

/// Why the message was not accepted.
#[derive(Debug)]
struct SendmailError {
    code: Code,
    message: String,
}

impl SendmailError {
    fn new(code: Code, message: impl Into<String>) -> Self {
        SendmailError {
            code,
            message: message.into(),
        }
    }
}

impl From<Failure> for SendmailError {
    fn from(failure: Failure) -> Self {
        let code = match &failure {
            Failure::Usage(_) | Failure::Configuration(_) => Code::Configuration,
            Failure::TryLater(_) => Code::TryLater,
            Failure::Output(_) => Code::IoError,
            Failure::Failed(_) | Failure::Logged(_) => Code::Unavailable,
            Failure::Refused(refusal) => match refusal.status {
                401 | 403 => Code::NoPermission,
                400 | 413 | 422
                    if refusal
                        .errors
                        .iter()
                        .any(|error| error.pointer.starts_with("/to")) =>
                {
                    Code::NoUser
                }
                // If no field is wrong, the service cannot send such mail, for example because it
                // has no route for it.
                422 if refusal.errors.is_empty() => Code::Unavailable,
                400 | 413 | 422 => Code::DataError,
                status if status >= 500 || refusal.is_transient() => Code::TryLater,
                _ => Code::Unavailable,
            },
        };

        SendmailError::new(code, failure.to_string())
    }
}

impl Sendmail {
    /// Submits the message, or prints why it could not.
    pub(super) fn run(self, screen: &mut Screen) -> ExitCode {
        match self.act(screen) {
            Ok(()) => ExitCode::SUCCESS,
            Err(trouble) => {
                note(format_args!("sendmail: {}", trouble.message));
                ExitCode::from(trouble.code as u8)
            }
        }
    }

    fn act(self, screen: &mut Screen) -> Result<(), SendmailError> {
        let flags = Flags::parse(self.words)?;
        let nobody = flags.recipients.is_empty() && !flags.recipients_from_message;
        // The service retries waiting mail by itself, and has no aliases.
        let is_idle = flags.idle && nobody && flags.task == Task::Send;

        if is_idle || flags.task == Task::Nothing {
            return Ok(());
        }

        let client = self.service.client()?;
        match flags.task {
            Task::Send | Task::Nothing => submit(&flags, &client),
            Task::Speak => speak(&client),
            Task::Queue => queue::print(&client, screen),
        }
    }
}

/// Submits one message from standard input.
fn submit(flags: &Flags, client: &ServiceClient) -> Result<(), SendmailError> {
    if flags.recipients.is_empty() && !flags.recipients_from_message {
        return Err(SendmailError::new(
            Code::Usage,
            "no recipient: name one, or take them from the message with -t",
        ));
    }

    let mut input = Vec::new();
    let read = io::stdin().lock().read_to_end(&mut input);
    read.map_err(|error| {
        SendmailError::new(Code::IoError, format!("cannot read the message: {error}"))
    })?;
    let input = message::up_to_the_dot(input, flags.ignore_dots);

    let parameters = envelope(flags, &input)?;
    let message = message::made_whole(&input, flags);
    client.post(&["v1", "mails"], &parameters, Payload::Message(message))?;
    Ok(())
}

/// Speaks SMTP on standard input and output; each mail is submitted before its end is answered.
fn speak(client: &ServiceClient) -> Result<(), SendmailError> {
    let submit_mail = |mail: StdioSubmission| {
        let from = mail
            .return_path
            .map_or("<>".to_owned(), |path| path.to_string());
        let mut parameters: Parameters = vec![("from", from)];
        parameters.extend(mail.recipients.iter().map(|to| ("to", to.to_string())));
        let payload = Payload::Message(mail.message.to_vec());
        let answer = client.post(&["v1", "mails"], &parameters, payload);
        let taken = answer.and_then(|answer| answer.decode::<AcceptedAnswer>());
        taken.map(|taken| taken.id.to_string()).map_err(|failure| {
            let trouble = SendmailError::from(failure);
            let refused = match trouble.code {
                Code::NoUser => StdioRefusal::Recipient,
                Code::DataError | Code::Usage => StdioRefusal::ForGood,
                _ => StdioRefusal::ForNow,
            };
            (refused, trouble.message)
        })
    };

    let (input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let spoken = smtp::converse(
        input,
        &mut output,
        &user::mail_name(),
        LARGEST_MESSAGE,
        submit_mail,
    );
    spoken.and_then(|()| output.flush()).map_err(|error| {
        SendmailError::new(
            Code::IoError,
            format!("the dialogue was interrupted: {error}"),
        )
    })
}

fn envelope(flags: &Flags, message: &[u8]) -> Result<Parameters, SendmailError> {
    let domain = user::mail_name();
    let wrong =
        |code: Code| move |error: MailError| SendmailError::new(code, escaped(&error.to_string()));
    let from = match flags.from.as_deref() {
        Some("<>") => "<>".to_owned(),
        Some(from) => {
            let mut named = Addressees::in_list(from, &domain).map_err(wrong(Code::DataError))?;
            named.swap_remove(0).to_string()
        }
        None => Addressees::sender_of(message, &domain)
            .map_err(wrong(Code::DataError))?
            .map_or_else(user::address, |from| from.to_string()),
    };
    let mut parameters: Parameters = vec![("from", from)];

    let mut recipients = Vec::new();
    for word in &flags.recipients {
        let named = Addressees::in_list(word, &domain).map_err(wrong(Code::NoUser))?;
        recipients.extend(named);
    }

    if flags.recipients_from_message {
        let named = Addressees::of(message, &domain).map_err(wrong(Code::NoUser))?;
        recipients.extend(named.recipients);
    }

    if recipients.is_empty() {
        return Err(SendmailError::new(
            Code::Usage,
            "no recipient: the message names none in To, Cc or Bcc",
        ));
    }

    parameters.extend(
        recipients
            .iter()
            .map(|recipient| ("to", recipient.to_string())),
    );

    Ok(parameters)
}
