//! `postrider send`: submits a mail made from options, or a finished message.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::{ArgGroup, Args};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::filter::priority;
use super::service::{Parameters, Payload, ServiceAnswer, ServiceClient};
use super::{Failure, ServiceArgs, record, template, times, user};
use crate::cli::screen::{Screen, TextStyle, escaped, plain, state, tinted};
use crate::delivery::MailState;
use crate::dispatch::MailStatus;
use crate::mail::{Addressees, MailError, MailId, Priority, Timestamp, parse_span};
use crate::spool::Durability;

/// The interval between two requests for the mail's state: at first, and at most.
const FIRST_POLL_INTERVAL: Duration = Duration::from_millis(50);
const LONGEST_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The end of the help.
pub const EXAMPLES: &str = "\
Examples:
  postrider send --to ada@example.org --subject Hello --text 'Good morning'
  df -h | postrider send --to ops@example.com --subject Disks --text -
  postrider send --to ada@example.org --subject 'Your code' --text 123456 \\
      --priority critical --expires-in 5m --wait
  postrider send --to ada@example.org --template welcome --data @ada.json --locale de
  postrider send --eml message.eml";

/// `postrider send`.
#[derive(Args)]
#[command(group(
    ArgGroup::new("content")
        .required(true)
        .multiple(true)
        .args(["text", "html", "eml", "template"])
))]
pub struct Send {
    /// The sender [default: your login name at this machine]
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// A recipient; repeat it for more
    #[arg(long, value_name = "ADDRESS", required_unless_present_any = ["cc", "bcc", "eml"])]
    to: Vec<String>,
    /// A recipient of a copy; repeat it for more
    #[arg(long, value_name = "ADDRESS")]
    cc: Vec<String>,
    /// A recipient of a copy whom the others do not see; repeat it for more
    #[arg(long, value_name = "ADDRESS")]
    bcc: Vec<String>,
    /// The address for replies; repeat it for more
    #[arg(long, value_name = "ADDRESS")]
    reply_to: Vec<String>,
    /// The subject
    #[arg(long, value_name = "TEXT", required_unless_present_any = ["eml", "template"])]
    subject: Option<String>,
    /// The body as plain text; `-` reads standard input
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// The body as HTML; `-` reads standard input
    #[arg(long, value_name = "HTML")]
    html: Option<String>,
    /// The template that makes the subject and the body
    #[arg(long, value_name = "NAME", conflicts_with_all = ["text", "html", "eml"])]
    template: Option<String>,
    /// The template's data, as JSON: an object, @FILE, or `-` for standard input
    #[arg(long, value_name = "JSON", requires = "template")]
    data: Option<String>,
    /// The template's language, such as pt-BR; the closest one that exists is used
    #[arg(long, value_name = "LOCALE", requires = "template")]
    locale: Option<String>,
    /// A file with a finished message, sent to the recipients that it names or to those in --to;
    /// `-` reads standard input
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = [
            "cc", "bcc", "reply_to", "subject", "text", "html", "attach", "alternative", "header",
        ]
    )]
    eml: Option<PathBuf>,
    /// A file to attach; repeat it for more
    #[arg(long, value_name = "FILE")]
    attach: Vec<PathBuf>,
    /// A file with the body in another form, such as an invitation (invite.ics); repeat it for more
    #[arg(long, value_name = "FILE")]
    alternative: Vec<PathBuf>,
    /// A header field of your own; repeat it for more
    #[arg(long, value_name = "NAME: VALUE", value_parser = header_field)]
    header: Vec<(String, String)>,
    #[command(flatten)]
    options: SendOptions,
    /// Wait until it is delivered or has failed for good; with a span, at most this long:
    /// --wait=30s
    #[arg(
        long,
        value_name = "SPAN",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "3650d",
        value_parser = parse_span
    )]
    wait: Option<Duration>,
    #[command(flatten)]
    asking: ServiceArgs,
}

/// The mail's options besides the message itself.
#[derive(Args)]
struct SendOptions {
    /// The priority
    #[arg(long, value_parser = priority())]
    priority: Option<Priority>,
    /// Send it at this time: 2026-01-31T12:00:00Z, or on this machine's clock "2026-01-31 12:00" or
    /// "tomorrow 9:00"
    #[arg(long, value_name = "TIME", value_parser = times::time_to_come, conflicts_with = "delay")]
    at: Option<Timestamp>,
    /// Send it after this long, such as 10m
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    delay: Option<Duration>,
    /// Give up if it is not delivered within this long, such as 5m
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    expires_in: Option<Duration>,
    /// The idempotency key: two mails with one key are one mail
    #[arg(long)]
    key: Option<String>,
    /// A word to find it by; repeat it for more
    #[arg(long)]
    tag: Vec<String>,
    /// The mailing list that it belongs to, such as news: recipients can leave that list
    #[arg(long, value_name = "NAME")]
    list: Option<String>,
    /// Never send it twice: where it may have been sent, do not try again
    #[arg(long)]
    at_most_once: bool,
}

/// The service's answer to an accepted mail.
#[derive(Deserialize)]
struct AcceptedAnswer {
    id: MailId,
    state: Option<String>,
    duplicate: bool,
    durability: Durability,
}

impl Send {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let client = self.asking.service.client()?;
        let answer = match &self.eml {
            Some(file) => {
                let message = read(file)?;
                let parameters = self.envelope(&message)?;
                client.post(&["v1", "mails"], &parameters, Payload::Message(message))?
            }
            None => client.post(&["v1", "mails"], &vec![], Payload::Json(self.json()?))?,
        };

        match self.wait {
            Some(time_limit) => self.follow(&client, &answer, time_limit, screen),
            None if self.asking.json => {
                Ok(screen.json(&answer.body).map(|()| ExitCode::SUCCESS)?)
            }
            None => announce(&answer.decode()?, screen).map(|()| ExitCode::SUCCESS),
        }
    }

    /// The mail as the service's JSON.
    fn json(&self) -> Result<Value, Failure> {
        if self.text.as_deref() == Some("-") && self.html.as_deref() == Some("-") {
            return Err(Failure::Usage(
                "standard input can be --text or --html, not both".into(),
            ));
        }

        let mut mail = Map::new();
        mail.insert(
            "from".into(),
            self.from.clone().unwrap_or_else(user::address).into(),
        );

        let lists = [
            ("to", &self.to),
            ("cc", &self.cc),
            ("bcc", &self.bcc),
            ("reply_to", &self.reply_to),
        ];

        for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            mail.insert(name.into(), json!(list));
        }
        if let Some(subject) = &self.subject {
            mail.insert("subject".into(), subject.as_str().into());
        }
        if let Some(name) = &self.template {
            mail.insert("template".into(), self.template(name)?);
        }

        for (name, body) in [("text", &self.text), ("html", &self.html)] {
            match body.as_deref() {
                Some("-") => mail.insert(name.into(), text_from_standard_input()?.into()),
                Some(body) => mail.insert(name.into(), body.into()),
                None => None,
            };
        }

        if !self.header.is_empty() {
            let mut fields = Map::new();
            for (name, value) in &self.header {
                if fields.insert(name.clone(), value.as_str().into()).is_some() {
                    return Err(Failure::Usage(format!(
                        "--header gives {} twice",
                        escaped(name)
                    )));
                }
            }
            mail.insert("headers".into(), fields.into());
        }

        if !self.attach.is_empty() {
            let files: Result<Vec<Value>, Failure> =
                self.attach.iter().map(|file| attachment(file)).collect();
            mail.insert("attachments".into(), files?.into());
        }

        if !self.alternative.is_empty() {
            let files: Result<Vec<Value>, Failure> = self
                .alternative
                .iter()
                .map(|file| alternative(file))
                .collect();
            mail.insert("alternatives".into(), files?.into());
        }

        for (name, value) in self.options.parameters() {
            match name {
                "tag" => mail
                    .entry("tags")
                    .or_insert_with(|| json!([]))
                    .as_array_mut()
                    .map(|tags| tags.push(value.into())),
                _ => mail.insert(name.into(), value.into()).map(drop),
            };
        }

        Ok(mail.into())
    }

    /// The template with its data, as JSON.
    fn template(&self, name: &str) -> Result<Value, Failure> {
        let mut template = Map::new();
        template.insert("name".into(), name.into());
        if let Some(data) = &self.data {
            template.insert("data".into(), template::data(data)?);
        }
        if let Some(locale) = &self.locale {
            template.insert("locale".into(), locale.as_str().into());
        }
        Ok(template.into())
    }

    /// The envelope of a finished message, and the options, as parameters.
    fn envelope(&self, message: &[u8]) -> Result<Parameters, Failure> {
        let domain = user::mail_name();
        let wrong = |error: MailError| Failure::Usage(escaped(&error.to_string()));
        let in_flag = |flag: &str, text: &str| {
            let wrong =
                |error: MailError| Failure::Usage(format!("{flag} {}", escaped(error.reason())));
            Addressees::in_list(text, &domain).map_err(wrong)
        };

        let from = match &self.from {
            Some(from) => in_flag("--from", from)?.into_iter().next(),
            None => Addressees::sender_of(message, &domain).map_err(wrong)?,
        };
        let from = from.map_or_else(user::address, |from| from.to_string());

        let mut to = Vec::new();
        for named in &self.to {
            to.extend(in_flag("--to", named)?);
        }
        if self.to.is_empty() {
            to = Addressees::of(message, &domain).map_err(wrong)?.recipients;
        }

        if to.is_empty() {
            return Err(Failure::Usage(
                "the message names no recipient in To, Cc or Bcc: add --to".into(),
            ));
        }

        let mut parameters: Parameters = vec![("from", from)];
        parameters.extend(to.into_iter().map(|to| ("to", to.to_string())));
        parameters.extend(self.options.parameters());
        Ok(parameters)
    }

    /// Waits until every delivery has ended.
    fn follow(
        &self,
        client: &ServiceClient,
        answer: &ServiceAnswer,
        time_limit: Duration,
        screen: &mut Screen,
    ) -> Result<ExitCode, Failure> {
        let accepted: AcceptedAnswer = answer.decode()?;
        if !self.asking.json {
            announce(&accepted, screen)?;
        }

        if accepted.durability == Durability::Direct {
            if self.asking.json {
                screen.json(&answer.body)?;
            }
            return Ok(ExitCode::SUCCESS);
        }

        let id = accepted.id;
        let (answer, mail) = wait(client, id, time_limit)?;
        if self.asking.json {
            screen.json(&answer.body)?;
        } else {
            record::line(&mail, screen)?;
        }

        if mail.state == MailState::Delivered {
            return Ok(ExitCode::SUCCESS);
        }
        let failure = Failure::Failed(format!(
            "{}; see `postrider status {id}`",
            record::verdict(&mail)
        ));

        if self.asking.json {
            // In JSON the record is the answer; the verdict on it is for people.
            failure.print(false);
            return Ok(failure.exit_code());
        }

        Err(failure)
    }
}

fn wait(
    client: &ServiceClient,
    id: MailId,
    time_limit: Duration,
) -> Result<(ServiceAnswer, MailStatus), Failure> {
    let started = Instant::now();
    let mut pause = FIRST_POLL_INTERVAL;

    loop {
        let answer = client.get(&["v1", "mails", &id.to_string()], &vec![]);
        let answer = answer.map_err(|failure| match failure {
            Failure::TryLater(why) => {
                Failure::TryLater(format!("mail {id} was accepted; but {why}"))
            }
            other => other,
        })?;
        let mail: MailStatus = answer.decode()?;
        if mail.state.is_final() {
            return Ok((answer, mail));
        }
        let left = time_limit.saturating_sub(started.elapsed());
        if left.is_zero() {
            let why = format!(
                "mail {id} is {} after {}",
                mail.state,
                humantime::format_duration(time_limit)
            );
            return Err(Failure::TryLater(format!(
                "{why}; the service goes on trying"
            )));
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(LONGEST_POLL_INTERVAL);
    }
}

fn announce(accepted: &AcceptedAnswer, screen: &mut Screen) -> Result<(), Failure> {
    let kept = match accepted.durability {
        Durability::Synced => "on disk",
        Durability::Written => "written, not yet synced to disk",
        Durability::InMemory => "in memory only",
        Durability::Direct => "sent at once, because it could not be stored",
    };

    let kept = if accepted.duplicate {
        "accepted before under this key"
    } else {
        kept
    };

    let mut pieces = vec![plain(accepted.id), plain("  ")];
    if let Some(name) = &accepted.state {
        pieces.extend([state(name), plain("  ")]);
    }
    pieces.push(tinted(kept, TextStyle::Faint));
    Ok(screen.line(&pieces)?)
}

impl SendOptions {
    /// The options as the service's parameters; `tag` once for each tag.
    fn parameters(&self) -> Parameters {
        let span = |span: Duration| humantime::format_duration(span).to_string();

        let mut parameters = Parameters::new();
        let mut add =
            |name, value: Option<String>| parameters.extend(value.map(|value| (name, value)));
        add(
            "priority",
            self.priority.map(|priority| priority.to_string()),
        );

        add("send_at", self.at.map(|at| at.to_string()));
        add("delay", self.delay.map(span));
        add("expires_in", self.expires_in.map(span));
        add("idempotency_key", self.key.clone());
        add("list", self.list.clone());
        add(
            "guarantee",
            self.at_most_once.then(|| "at_most_once".to_owned()),
        );

        self.tag
            .iter()
            .for_each(|tag| add("tag", Some(tag.clone())));
        parameters
    }
}

fn alternative(file: &Path) -> Result<Value, Failure> {
    let content = fs::read(file).map_err(|error| unreadable(file, &error))?;
    let kind = mime_guess::from_path(file).first_or_octet_stream();
    let kind = match kind.essence_str() {
        "text/calendar" => invitation(&content),
        kind => kind.to_owned(),
    };
    Ok(json!({"content_type": kind, "content": BASE64_STANDARD.encode(content)}))
}

/// The content type of a calendar file, with the method that the file itself has (RFC 6047 §2.4).
fn invitation(content: &[u8]) -> String {
    let text = String::from_utf8_lossy(content);
    let method = text
        .lines()
        .find_map(|line| line.trim_end().strip_prefix("METHOD:"));

    match method {
        Some(method)
            if method
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') =>
        {
            format!("text/calendar; method={method}; charset=utf-8")
        }
        _ => "text/calendar; charset=utf-8".to_owned(),
    }
}

fn attachment(file: &Path) -> Result<Value, Failure> {
    let name = file
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let kind = mime_guess::from_path(file).first_or_octet_stream();
    let content = fs::read(file).map_err(|error| unreadable(file, &error))?;
    Ok(json!({
        "filename": name,
        "content_type": kind.essence_str(),
        "content": BASE64_STANDARD.encode(content),
    }))
}

pub(super) fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    if file.as_os_str() != "-" {
        return fs::read(file).map_err(|error| unreadable(file, &error));
    }
    let mut message = Vec::new();
    io::stdin()
        .lock()
        .read_to_end(&mut message)
        .map_err(|error| unreadable(Path::new("standard input"), &error))?;
    Ok(message)
}

fn text_from_standard_input() -> Result<String, Failure> {
    String::from_utf8(read(Path::new("-"))?)
        .map_err(|_| Failure::Failed("standard input is not text in UTF-8".into()))
}

pub(super) fn unreadable(file: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!(
        "cannot read {}: {error}",
        escaped(&file.to_string_lossy())
    ))
}

fn header_field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or("has no colon: write NAME: VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
