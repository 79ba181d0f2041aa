//! Which mail somebody means who has no whole id at hand: the beginning of one, an idempotency key,
//! a Message-ID, or a sender who has submitted one mail alone.

use super::{Dispatcher, Error};
use crate::mail::{MailId, Submitter};
use crate::spool::{Manifest, Only, Query};

/// So many characters of an id are a name for it, at least.
const SHORTEST: usize = 4;
/// Of so many mails that a name fits is told.
const TOLD: usize = 5;
/// How many mails are looked at together.
const TOGETHER: usize = 1000;

/// A name as it is compared.
#[derive(Clone)]
struct Name {
    given: String,
    /// Where it can be the beginning of an id: its digits.
    digits: Option<String>,
}

impl Name {
    fn read(given: &str) -> Self {
        let digits = given.replace('-', "").to_ascii_lowercase();
        let is_id = (SHORTEST..=32).contains(&digits.len())
            && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        Name {
            given: given.trim().to_owned(),
            digits: is_id.then_some(digits),
        }
    }

    fn is_of(&self, mail: &Manifest) -> bool {
        let is_beginning = self.digits.as_ref().is_some_and(|digits| {
            let id = mail.id.to_string().replace('-', "");
            id.starts_with(digits.as_str())
        });
        let bare = |id: &str| -> String { id.trim_matches(['<', '>']).to_owned() };
        let sender = mail.return_path.as_ref();
        is_beginning
            || mail.given_key() == Some(self.given.as_str())
            || bare(&mail.message_id) == bare(&self.given)
            || sender.is_some_and(|path| path.as_str().eq_ignore_ascii_case(&self.given))
    }
}

impl Dispatcher {
    /// The mail that `name` means: its id or the first characters of it (at least four), its
    /// idempotency key, its Message-ID, or its sender. With `of`, among this one's mail alone. A
    /// whole id is believed; for all else the spool is searched, the newest first.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::Ambiguous`] where it fits several, or [`Error::Spool`].
    pub async fn find(&self, name: &str, of: Option<&Submitter>) -> Result<MailId, Error> {
        if let Ok(id) = name.parse() {
            return Ok(id);
        }

        let unknown = || Error::UnknownName(name.chars().take(200).collect());
        if name.trim().is_empty() {
            return Err(unknown());
        }

        let wanted = Name::read(name);
        let query = Query {
            submitter: of.cloned(),
            only: Some(Only::when(move |record| wanted.is_of(&record.manifest))),
            ..Query::default()
        };

        let mut found = Vec::new();
        let mut pages = self.inner.engine.pages(query, TOGETHER);
        while found.len() < TOLD
            && let Some((records, _)) = pages.next().await?
        {
            found.extend(records.iter().map(|record| record.manifest.id));
        }

        found.truncate(TOLD);
        match found[..] {
            [] => Err(unknown()),
            [id] => Ok(id),
            _ => Err(Error::Ambiguous {
                name: name.chars().take(200).collect(),
                mails: found,
            }),
        }
    }
}
