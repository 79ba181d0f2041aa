//! Counts events into time series, as a named reader of the journal.
//!
//! *Invariant:* steps are written in the commit that advances the reader, so that no event is
//! missed or counted twice after a crash.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;

use super::SeriesProgress;
use super::buckets::{Bucket, BucketCounts, RelayNumbers, Resolution};
use super::tally::Tally;
use crate::delivery::{Event, EventKind};
use crate::dispatch::Error;
use crate::dispatch::engine::Engine;
use crate::dispatch::journal::{JournalHandle, JournalReader};
use crate::dispatch::relays::backlog_by_relay;
use crate::mail::Timestamp;
use crate::spool::{JournalPage, ReaderChange, SpoolError};

/// The reader's name.
pub(super) const NAME: &str = "series";
/// How long events are collected before they are read, and before the counts are written.
const READ_EVERY: Duration = Duration::from_millis(100);
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// How often the backlog is recorded while there are no events.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(300);
/// How long to wait after the journal could not be read or written.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// About how many bytes of steps are collected before they are written.
const MOST_BYTES: usize = 64 * 1024;
/// The most steps of each resolution that are deleted in one commit.
const MOST_REMOVED: usize = 64;

/// Counts until the spool is closed.
pub(super) async fn run(
    engine: Weak<Engine>,
    journal: JournalHandle,
    progress: Arc<SeriesProgress>,
) {
    loop {
        let counting = AssertUnwindSafe(count(&engine, &journal, &progress));
        let counted = counting.catch_unwind().await;
        match counted.unwrap_or_else(|_| Err(SpoolError::panicked().into())) {
            Ok(()) | Err(Error::Spool(SpoolError::Closed) | Error::Stopped(_)) => return,
            // Another node has counted meanwhile; this one continues from there.
            Err(Error::Spool(SpoolError::StaleLease)) => continue,
            Err(error) => tracing::warn!(%error, "cannot write the time series now"),
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

/// Counts until the engine is dropped.
async fn count(
    engine: &Weak<Engine>,
    journal: &JournalHandle,
    progress: &SeriesProgress,
) -> Result<(), Error> {
    let reader = journal.reader(NAME, Some(0)).await?;
    let mut recorder = Recorder::open(reader).await?;
    progress.set_counted(recorder.counted);
    loop {
        // Wakes up for new events, and occasionally to record the backlog.
        if let Ok(page) = tokio::time::timeout(LOOK_EVERY, recorder.reader.next()).await {
            recorder.take(page?).await?;
        }
        let until = Instant::now() + WRITE_EVERY;
        loop {
            while recorder.counted < journal.last()? {
                let page = recorder.reader.next().await?;
                recorder.take(page).await?;
            }
            let is_requested = tokio::time::timeout(READ_EVERY, progress.requested())
                .await
                .is_ok();
            if is_requested || Instant::now() >= until {
                break;
            }
        }

        let Some(engine) = engine.upgrade() else {
            return Ok(());
        };
        recorder.look(&engine).await?;
        drop(engine);
        recorder.write().await?;
        progress.set_counted(recorder.counted);
    }
}

struct Recorder {
    reader: JournalReader,
    relays: RelayNumbers,
    /// The steps that are being counted.
    steps: BTreeMap<Bucket, BucketCounts>,
    /// About how many bytes they have.
    bytes: usize,
    /// New relay numbers that are not written yet.
    named: Vec<ReaderChange>,
    /// The number of the last event that was counted.
    counted: u64,
    /// The latest time that was counted.
    latest: Timestamp,
}

impl Recorder {
    async fn open(reader: JournalReader) -> Result<Self, Error> {
        let (from, to) = RelayNumbers::keys();
        let relays = RelayNumbers::read(&reader.kept(from, to, usize::MAX).await?);
        Ok(Recorder {
            counted: reader.done(),
            reader,
            relays,
            steps: BTreeMap::new(),
            bytes: 0,
            named: Vec::new(),
            latest: Timestamp::from_millis(0),
        })
    }

    async fn take(&mut self, page: JournalPage) -> Result<(), Error> {
        for event in &page.events {
            if self.bytes > MOST_BYTES {
                self.write().await?;
            }
            self.count(event).await?;
            self.counted = event.seq;
        }
        self.counted = page.last;
        Ok(())
    }

    async fn count(&mut self, event: &Event) -> Result<(), Error> {
        let is_of_mail = matches!(
            event.kind,
            EventKind::Accepted
                | EventKind::Delivered
                | EventKind::Deferred { .. }
                | EventKind::Dead { .. }
        );

        if !is_of_mail {
            return Ok(());
        }
        let relay = event.relay.as_deref().and_then(|name| self.relay(name));

        self.latest = self.latest.max(event.at);
        for grain in Resolution::ALL {
            let step = self.step(Bucket::of(grain, event.at)).await?;
            add(&mut step.all, event);
            if let Some(relay) = relay {
                add(step.relay_mut(relay), event);
            }
        }

        Ok(())
    }

    /// Records the current backlog.
    async fn look(&mut self, engine: &Engine) -> Result<(), Error> {
        let now = engine.clock.now();
        let routes = engine.spool.backlog(now).await?;
        let backlog = backlog_by_relay(&routes);
        let waits: u64 = routes.iter().map(|(_, count)| count).sum();

        for name in backlog.keys() {
            self.relay(name);
        }
        let numbers: Vec<_> = self
            .relays
            .iter()
            .map(|(name, number)| (number, backlog.get(name).copied().unwrap_or(0)))
            .collect();

        self.latest = self.latest.max(now);
        for grain in Resolution::ALL {
            let step = self.step(Bucket::of(grain, now)).await?;
            step.all.backlog = Some(waits);
            for (number, waits) in &numbers {
                step.relay_mut(*number).backlog = Some(*waits);
            }
        }

        Ok(())
    }

    /// Writes the counts, and advances the reader.
    async fn write(&mut self) -> Result<(), Error> {
        let mut changes = std::mem::take(&mut self.named);
        let steps = self.steps.iter();
        changes.extend(steps.map(|(place, step)| (place.key(), Some(step.encode()))));
        for grain in Resolution::ALL {
            changes.extend(self.too_old(grain).await?);
        }
        self.reader.advance_with(self.counted, changes).await?;

        let (latest, mut bytes) = (self.latest, 0);
        self.steps.retain(|place, step| {
            let stays = *place >= Bucket::of(place.grain, latest);
            bytes += if stays { weight(step) } else { 0 };
            stays
        });

        self.bytes = bytes;
        Ok(())
    }

    /// The changes that delete steps after their retention time.
    async fn too_old(&self, grain: Resolution) -> Result<Vec<ReaderChange>, Error> {
        let latest = self.latest.as_millis();
        let before = Bucket::of(grain, Timestamp::from_millis(latest - grain.kept()));
        let from = Bucket { grain, number: 0 };
        let kept = self
            .reader
            .kept(from.key(), before.key(), MOST_REMOVED)
            .await?;
        Ok(kept.into_iter().map(|(key, _)| (key, None)).collect())
    }

    /// The number of a relay, if it has a series of its own.
    fn relay(&mut self, name: &str) -> Option<u8> {
        if let Some(number) = self.relays.number(name) {
            return Some(number);
        }
        let number = self.relays.add(name)?;
        self.named
            .push((RelayNumbers::key(number), Some(name.as_bytes().to_vec())));
        Some(number)
    }

    /// A step, with its counts so far.
    async fn step(&mut self, place: Bucket) -> Result<&mut BucketCounts, Error> {
        match self.steps.entry(place) {
            Entry::Occupied(step) => Ok(step.into_mut()),
            Entry::Vacant(vacant) => {
                let key = place.key();
                let end = [&key[..], &[0]].concat();
                let kept = self.reader.kept(key, end, 1).await?;
                let step = kept.first().map(|(_, bytes)| BucketCounts::decode(bytes));
                let step = step.unwrap_or_default();
                self.bytes += weight(&step);
                Ok(vacant.insert(step))
            }
        }
    }
}

/// About how many bytes a step has, with room for growth.
fn weight(step: &BucketCounts) -> usize {
    step.encode().len() + 256
}

fn add(tally: &mut Tally, event: &Event) {
    match event.kind {
        EventKind::Accepted => tally.accepted += 1,
        EventKind::Deferred { .. } => tally.deferred += 1,
        EventKind::Dead { .. } => tally.dead += 1,
        EventKind::Delivered => {
            tally.delivered += 1;
            if let Some(accepted_at) = event.accepted_at {
                tally.took(event.at.since(accepted_at));
            }
        }
        _ => {}
    }
}
