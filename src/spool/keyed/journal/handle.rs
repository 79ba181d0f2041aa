//! The journal as its readers use it.

use std::ops::ControlFlow;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use super::{ReaderCursor, reading};
use crate::delivery::Event;
use crate::mail::{MailId, Timestamp};
use crate::spool::keyed::changes::STEP_BYTES;
use crate::spool::keyed::command::GroupCommand;
use crate::spool::keyed::{KeyedSpool, changes, keys};
use crate::spool::store::{Batch, Direction, Store};
use crate::spool::{Journal, JournalPage, ReaderChange, ReaderStatus, SpoolError, codec};

/// The longest name of a reader, in bytes.
const LONGEST_NAME: usize = 200;

/// A reader's changes of its own records, as changes of keys.
fn kept_changes(name: &str, changes: Vec<ReaderChange>) -> Result<Batch, SpoolError> {
    check_name(name)?;
    let changes = changes.into_iter();
    let batch: Batch = changes
        .map(|(key, value)| (keys::kept(name, &key), value))
        .collect();
    if changes::weight(&batch) > STEP_BYTES {
        return Err(SpoolError::Unreadable(format!(
            "the reader {name} changes more than {STEP_BYTES} bytes at once"
        )));
    }
    Ok(batch)
}

impl<S: Store> KeyedSpool<S> {
    pub(in crate::spool::keyed) async fn note_with(
        &self,
        events: Vec<Event>,
        batch: Batch,
    ) -> Result<(), SpoolError> {
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        self.ask(|reply| GroupCommand::Note(events, batch, reply))
            .await?
    }
}

fn check_name(name: &str) -> Result<(), SpoolError> {
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Err(SpoolError::Unreadable(format!(
            "the name of a reader has 1 to {LONGEST_NAME} bytes"
        )));
    }
    Ok(())
}

#[async_trait]
impl<S: Store> Journal for KeyedSpool<S> {
    fn id(&self) -> u32 {
        self.shared.journal.id
    }

    fn last(&self) -> watch::Receiver<u64> {
        self.shared.journal.last()
    }

    async fn note(&self, events: Vec<Event>) -> Result<(), SpoolError> {
        self.note_with(events, Batch::new()).await
    }

    async fn after(&self, number: u64, most: usize) -> Result<JournalPage, SpoolError> {
        // Events in memory are read without a blocking thread.
        if let Some(page) = reading::recent(&self.shared, number, most) {
            return Ok(page);
        }
        self.look(move |shared| reading::after(shared, number, most))
            .await
    }

    async fn since(&self, at: Timestamp) -> Result<u64, SpoolError> {
        self.look(move |shared| reading::since(shared, at)).await
    }

    async fn of_mail(&self, mail: MailId, after: u64) -> Result<JournalPage, SpoolError> {
        self.look(move |shared| reading::of_mail(shared, mail, after))
            .await
    }

    async fn acts(&self, before: u64, most: usize) -> Result<Vec<Arc<Event>>, SpoolError> {
        self.look(move |shared| reading::acts(shared, before, most))
            .await
    }

    async fn reader(&self, name: &str, otherwise: u64) -> Result<u64, SpoolError> {
        if let Some(reader) = self.shared.journal.reader(name) {
            return Ok(reader.at);
        }
        self.advance(name, otherwise, Vec::new()).await?;
        Ok(otherwise)
    }

    async fn advance(
        &self,
        name: &str,
        to: u64,
        changes: Vec<ReaderChange>,
    ) -> Result<(), SpoolError> {
        let mut batch = kept_changes(name, changes)?;
        let place = codec::encode(&ReaderCursor { at: to });
        batch.push((keys::reader(name), Some(place)));
        self.note_with(Vec::new(), batch).await?;
        self.shared.journal.set_reader(name, Some(to));
        Ok(())
    }

    async fn leave(&self, name: &str, changes: Vec<ReaderChange>) -> Result<(), SpoolError> {
        let batch = kept_changes(name, changes)?;
        self.note_with(Vec::new(), batch).await
    }

    async fn kept(
        &self,
        name: &str,
        from: Vec<u8>,
        to: Vec<u8>,
        most: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, SpoolError> {
        let own = keys::kept(name, &[]).len();
        let (from, to) = (keys::kept(name, &from), keys::kept(name, &to));

        self.look(move |shared| {
            let mut kept = Vec::new();
            shared
                .store
                .walk(&from, &to, Direction::Up, &mut |key, value| {
                    if kept.len() >= most {
                        return ControlFlow::Break(());
                    }
                    kept.push((key[own..].to_vec(), value.to_vec()));
                    ControlFlow::Continue(())
                })?;
            Ok(kept)
        })
        .await
    }

    async fn forget(&self, name: &str) -> Result<(), SpoolError> {
        check_name(name)?;
        let (mut from, to) = keys::starting_with(&keys::kept(name, &[]));
        loop {
            let (start, end) = (from.clone(), to.clone());
            let some = self
                .look(move |shared| {
                    let mut some = Vec::new();
                    shared
                        .store
                        .walk(&start, &end, Direction::Up, &mut |key, _| {
                            some.push(key.to_vec());
                            match some.len() {
                                ..512 => ControlFlow::Continue(()),
                                _ => ControlFlow::Break(()),
                            }
                        })?;
                    Ok(some)
                })
                .await?;
            let Some(last) = some.last() else { break };
            from = [&last[..], &[0]].concat();
            let batch = some.into_iter().map(|key| (key, None)).collect();
            self.note_with(Vec::new(), batch).await?;
        }

        self.note_with(Vec::new(), vec![(keys::reader(name), None)])
            .await?;
        self.shared.journal.set_reader(name, None);
        Ok(())
    }

    async fn readers(&self) -> Result<Vec<ReaderStatus>, SpoolError> {
        Ok(self.shared.journal.readers())
    }
}
