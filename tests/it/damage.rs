//! What becomes of a spool whose files are damaged while it is at rest: bits are flipped and
//! sectors zeroed at random in every file. Either that has no effect, or the spool is not opened,
//! `verify` says so, and `salvage` saves all but what was hit and says what that was. Nothing is
//! lost without a word, nothing waits to be sent that was recorded as delivered, no event's number
//! is given again, and no idempotency key is forgotten without a word.
//!
//! `DAMAGE_HITS=10000 cargo test --release --test it damage:: -- --nocapture`
//! hits more often; `DAMAGE_SEED=7` hits elsewhere, `DAMAGE_FROM=2605` leaves out what comes before
//! that hit.

mod doors;
mod sample;

use std::collections::BTreeMap;
use std::env;
use std::path::Path;

use bytes::Bytes;
use postrider::mail::MailId;
use postrider::spool::{Manifest, PutResult, Spool, SpoolError, sled};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use self::sample::{
    KnownMail, MANY_SEGMENTS, SMALL, SampleSpool, SpoolExtras, copy, files, look, look_beside,
};

/// Of how many hits one is of a large spool.
const LARGE: u64 = 8;

#[derive(Default, Debug)]
struct DamageTally {
    without_effect: u32,
    refused: u32,
    nothing_missing: u32,
    missing: usize,
    events_missing: u64,
    keys_forgotten: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_reported_and_costs_no_more_than_what_it_hit() {
    let number = |name: &str| env::var(name).ok().map(|n| n.parse().expect("a number"));
    let hits = number("DAMAGE_HITS").unwrap_or(24);
    let seed = number("DAMAGE_SEED").unwrap_or(1);
    let from = number("DAMAGE_FROM").unwrap_or(0);
    let home = tempfile::tempdir().unwrap();
    let small = [
        SampleSpool::build(&home.path().join("small"), 1, SMALL, true).await,
        SampleSpool::build(&home.path().join("killed"), 2, SMALL, false).await,
    ];
    let many = [
        SampleSpool::build(&home.path().join("many"), 3, MANY_SEGMENTS, true).await,
        SampleSpool::build(&home.path().join("many-killed"), 4, MANY_SEGMENTS, false).await,
    ];
    let image = home.path().join("image");

    let saved = home.path().join("saved");
    for sample in small.iter().chain(&many) {
        copy(&sample.path, &image);
        let opened = judge(sample, &image, &saved, &mut DamageTally::default()).await;
        opened.expect("as it was, before it is hit");
    }

    let mut random = StdRng::seed_from_u64(seed);
    let mut tally = DamageTally::default();
    for n in 0..hits {
        // A large spool takes some ten times as long.
        let samples = if n % LARGE == 0 { &many } else { &small };
        let sample = &samples[random.random_range(0..samples.len())];
        copy(&sample.path, &image);
        let told = hit(&image, &mut random);
        if n < from {
            continue;
        }
        if let Err(what) = judge(sample, &image, &saved, &mut tally).await {
            panic!(
                "hit {n} of seed {seed}, {told}, of {}: {what}",
                sample.path.display()
            );
        }
        if n % 500 == 499 {
            println!("{} hits: {tally:?}", n + 1);
        }
    }

    println!("{hits} hits: {tally:?}");
    assert!(tally.refused > 0, "no damage was found: {tally:?}");
}

/// Flips a bit or zeroes a sector of one file. Says which.
fn hit(image: &Path, random: &mut StdRng) -> String {
    loop {
        let files = files(image);
        // The log is nearly all there is.
        let file = match random.random_range(0..4) {
            0 => &files[random.random_range(0..files.len())],
            _ => &image.join("db"),
        };
        let mut bytes = std::fs::read(file).unwrap();
        if bytes.is_empty() {
            continue;
        }
        let before = bytes.clone();
        let at = random.random_range(0..bytes.len());
        let told = if random.random() {
            let bit = random.random_range(0..8);
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} of {} flipped", file.display())
        } else {
            let sector = at / 512 * 512;
            let end = bytes.len().min(sector + 512);
            bytes[sector..end].fill(0);
            format!("sector at {sector} of {} zeroed", file.display())
        };
        if bytes != before {
            std::fs::write(file, bytes).unwrap();
            return told;
        }
    }
}

async fn judge(
    sample: &SampleSpool,
    image: &Path,
    saved: &Path,
    tally: &mut DamageTally,
) -> Result<(), String> {
    match sample::open(image).await {
        Ok(spool) => {
            let found = look(&*spool).await?;
            let beside = look_beside(&*spool).await?;
            let forgotten = forgotten(&*spool, sample).await?;
            spool.close().await.map_err(|e| e.to_string())?;
            tally.without_effect += 1;
            if beside != sample.beside || forgotten > 0 {
                return Err(format!(
                    "opened without a word: {forgotten} keys forgotten, {beside:?}, was {:?}",
                    sample.beside
                ));
            }
            if found != sample.kept {
                let lost = different(&sample.kept, &found);
                return Err(format!(
                    "opened without a word, and other than it was: {lost:?}"
                ));
            }
            let verified = sled::verify(image).map_err(|e| e.to_string())?;
            match verified.problems.first() {
                Some(problem) => Err(format!("verify: {problem}")),
                None => Ok(()),
            }
        }
        Err(error @ SpoolError::Damaged { .. }) => {
            tally.refused += 1;
            if !error.to_string().contains("postrider spool salvage") {
                return Err(format!("no way out: {error}"));
            }
            if sled::verify(image).is_ok() {
                return Err("verify does not say it".into());
            }
            saves(sample, image, saved, tally).await
        }
        Err(error) => Err(format!("refused otherwise: {error}")),
    }
}

async fn saves(
    sample: &SampleSpool,
    image: &Path,
    saved: &Path,
    tally: &mut DamageTally,
) -> Result<(), String> {
    let _ = std::fs::remove_dir_all(saved);
    let told = sled::salvage(image, saved).map_err(|e| format!("salvage: {e}"))?;
    let verified = sled::verify(saved).map_err(|e| format!("the new one: {e}"))?;

    // A mail that is not whole stays so, and verify goes on saying it: also one that was purged,
    // and of whose purge the hit took a part away.
    let is_told = |problem: &String| {
        let mut ids = problem.split_whitespace().filter(|word| word.len() == 36);
        ids.any(|id| told.missing.iter().any(|line| line.contains(id)))
    };

    if let Some(problem) = verified.problems.iter().find(|problem| !is_told(problem)) {
        return Err(format!(
            "verify of the new one: {problem}; salvage says {told:?}"
        ));
    }
    let spool = sample::open(saved)
        .await
        .map_err(|e| format!("the new one: {e}"))?;
    let found = look(&*spool).await?;

    let beside = look_beside(&*spool).await?;
    tally.events_missing += judge_beside(&sample.beside, &beside, &told)?;
    let forgotten = forgotten(&*spool, sample).await?;
    tally.keys_forgotten += forgotten;

    if forgotten > 0 && !is_reported(&told, "idempotency key") {
        return Err(format!(
            "{forgotten} keys are forgotten, and salvage says {told:?}"
        ));
    }
    spool.close().await.map_err(|e| e.to_string())?;

    let lost = different(&sample.kept, &found);
    tally.nothing_missing += u32::from(lost.is_empty());
    tally.missing += lost.len();
    for id in &lost {
        if !told
            .missing
            .iter()
            .any(|line| line.contains(&id.to_string()))
        {
            let (was, is) = (sample.kept.get(id), found.get(id));
            // What had ended may have been pruned, for all that is left to tell.
            let has_ended =
                was.is_some_and(|was| !was.states.iter().any(|s| s.starts_with("pending")));
            if is.is_none() && has_ended && is_reported(&told, "deliveries") {
                continue;
            }
            return Err(format!(
                "mail {id} was {was:?}, is {is:?}, and salvage says {told:?}"
            ));
        }
        let (Some(was), Some(is)) = (sample.kept.get(id), found.get(id)) else {
            continue;
        };
        let is_sent_again = was
            .states
            .iter()
            .zip(&is.states)
            .any(|(was, is)| was.starts_with("delivered") && is.starts_with("pending"));
        if is_sent_again {
            return Err(format!("mail {id} was delivered and waits to be sent"));
        }
    }

    if lost.len() > 12 {
        return Err(format!(
            "{} mails are missing: {:?}",
            lost.len(),
            told.missing
        ));
    }

    Ok(())
}

fn is_reported(salvage: &sled::SalvageResult, what: &str) -> bool {
    salvage.missing.iter().any(|line| line.contains(what))
}

/// Whether what is missing besides mail is said; returns how many events are.
fn judge_beside(
    was: &SpoolExtras,
    is: &SpoolExtras,
    told: &sled::SalvageResult,
) -> Result<u64, String> {
    for (number, event) in &was.events {
        if let Some(found) = is.events.get(number)
            && found != event
        {
            return Err(format!("event {number} was {event}, is {found}"));
        }
    }

    let lost = was.events.keys().filter(|seq| !is.events.contains_key(seq));
    let lost = lost.count() as u64;
    if is.missed - was.missed != lost {
        let (was, is) = (was.missed, is.missed);
        return Err(format!(
            "{lost} events are missing, told are {was} and {is}"
        ));
    }

    if lost > 0 && !is_reported(told, "journal") {
        return Err(format!(
            "{lost} events are missing, and salvage says {told:?}"
        ));
    }

    if is.told <= was.told || is.events.len() as u64 != was.events.len() as u64 - lost + 1 {
        return Err(format!("an event's number is given again: {is:?}"));
    }
    for (was, is, what) in [(&was.suppressions, &is.suppressions, "not to get mail")] {
        if was != is && !is_reported(told, what) {
            return Err(format!("{what}: was {was:?}, is {is:?}, {told:?}"));
        }
    }

    if was.readers != is.readers && !is_reported(told, "readers") {
        return Err(format!(
            "readers: was {:?}, is {:?}, {told:?}",
            was.readers, is.readers
        ));
    }

    if was.quotas != is.quotas && told.missing.is_empty() {
        return Err(format!("quotas: was {:?}, is {:?}", was.quotas, is.quotas));
    }
    Ok(lost)
}

/// How many idempotency keys would let their mail be accepted again.
async fn forgotten(spool: &dyn Spool, sample: &SampleSpool) -> Result<usize, String> {
    let again = sample.keyed.iter().map(|manifest| {
        let id = MailId::from_bytes(rand::random());
        sample::mail(
            Manifest {
                id,
                ..manifest.clone()
            },
            Bytes::from_static(b"again"),
        )
    });

    let mut forgotten = 0;
    for (result, known) in spool.put(again.collect()).await.iter().zip(&sample.keyed) {
        match result {
            Ok(PutResult::Duplicate(id)) if *id == known.id => {}
            Ok(PutResult::Stored) => forgotten += 1,
            other => return Err(format!("the key of {} is {other:?}", known.id)),
        }
    }

    Ok(forgotten)
}

/// The mails that are not as they were.
fn different(was: &BTreeMap<MailId, KnownMail>, is: &BTreeMap<MailId, KnownMail>) -> Vec<MailId> {
    let ids = was.keys().chain(is.keys());
    let mut different: Vec<MailId> = ids
        .filter(|id| was.get(id) != is.get(id))
        .copied()
        .collect();
    different.sort_unstable();
    different.dedup();
    different
}
