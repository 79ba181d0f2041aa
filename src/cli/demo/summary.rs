//! The demo's output: bars while it runs, on a terminal only, and a table at the end.

use std::io;
use std::time::{Duration, Instant};

use comfy_table::{Cell, CellAlignment, Table, presets};
use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressStyle};

use super::sink::Sink;
use super::tally::DemoTally;
use super::{CALLERS, Failure};
use crate::cli::screen::{Screen, TextStyle, plain, tinted};
use crate::config::{Settings, Sync};
use crate::dispatch::Stats;
use crate::mail::Priority;

/// Prints what the demo is going to do.
pub(super) fn introduce(
    screen: &mut Screen,
    count: usize,
    settings: &Settings,
    sink: &Sink,
) -> io::Result<()> {
    let synced = match settings.spool.sync {
        Sync::Always => "synced to disk before each receipt",
        Sync::Interval => "synced to disk at intervals",
    };
    let count = HumanCount(count as u64);

    screen.line(&[
        tinted(count, TextStyle::Strong),
        plain(format_args!(
            " mails from {CALLERS} callers, through the real engine and a sled spool ({synced}),"
        )),
    ])?;
    screen.lines(format_args!(
        "into a mail server on {} that refuses, defers and hangs up now and then.\n\n",
        sink.address
    ))
}

/// One bar for accepted mails and one for arrived mails, on standard error, if that is a terminal.
pub(super) struct ProgressBars {
    accepted: ProgressBar,
    arrived: ProgressBar,
}

impl ProgressBars {
    pub(super) fn new(count: usize) -> Self {
        let all = MultiProgress::new();
        let bar = |name: &'static str, colour: &str| {
            let template = format!(
                "{{prefix:>9}} {{bar:40.{colour}/black.bright}} {{human_pos}} of {{human_len}}"
            );
            let style = ProgressStyle::with_template(&template)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(count as u64)
                .with_style(style.progress_chars("━╸━"))
                .with_prefix(name);
            all.add(bar)
        };

        ProgressBars {
            accepted: bar("accepted", "cyan"),
            arrived: bar("arrived", "green"),
        }
    }

    pub(super) fn show(&self, accepted: u64, arrived: u64) {
        self.accepted.set_position(accepted);
        self.arrived.set_position(arrived);
    }

    pub(super) fn finish(&self) {
        self.accepted.finish_and_clear();
        self.arrived.finish_and_clear();
    }
}

/// What happened to the mails.
pub(super) struct Summary<'a> {
    tally: &'a DemoTally,
    stats: &'a Stats,
    count: u64,
    took: Duration,
}

impl<'a> Summary<'a> {
    pub(super) fn new(
        tally: &'a DemoTally,
        stats: &'a Stats,
        count: usize,
        began: Instant,
    ) -> Self {
        Summary {
            tally,
            stats,
            count: count as u64,
            took: tally.took(began),
        }
    }

    /// Prints the table, and in its last line whether every mail arrived.
    pub(super) fn print(&self, screen: &mut Screen) -> Result<(), Failure> {
        screen.lines(self.table())?;
        screen.line(&[])?;
        screen.lines(self.latencies())?;
        verdict(self.tally, self.count)?;

        screen.line(&[])?;
        let all_is_well = tinted("✓", TextStyle::Good);
        screen.line(&[all_is_well, plain(" every mail that was accepted arrived")])?;
        Ok(())
    }

    fn table(&self) -> Table {
        let mischief = self.tally.mischief();
        let (accepted, arrived) = self.tally.progress();
        let per_second = (arrived as f64 / self.took.as_secs_f64().max(1e-6)).round() as u64;
        let trouble = format!(
            "the server refused {}, deferred {}, hung up on {}",
            mischief.refused,
            mischief.deferred,
            mischief.hung_up + mischief.hung_up_after
        );

        let rows = [
            ("accepted", accepted, String::new()),
            ("delivered", self.stats.delivered, String::new()),
            ("retried", self.stats.deferred, trouble),
            ("dead", self.stats.dead, String::new()),
            (
                "arrived twice",
                self.tally.duplicates(),
                "the server accepted them and hung up before it answered".to_owned(),
            ),
            (
                "mails per second",
                per_second,
                format!("end to end, in {:.1} s", self.took.as_secs_f64()),
            ),
        ];

        let mut table = table();
        for (name, number, remark) in rows {
            let number = Cell::new(HumanCount(number)).set_alignment(CellAlignment::Right);
            table.add_row([Cell::new(name), number, Cell::new(remark)]);
        }

        table
    }

    fn latencies(&self) -> Table {
        let mut table = table();
        let header = ["from accept to delivery", "p50", "p99"];
        table.set_header(header.map(|title| Cell::new(title).set_alignment(CellAlignment::Left)));
        for (name, only) in [("all", None)]
            .into_iter()
            .chain(Priority::ALL.map(|p| (p.as_str(), Some(p))))
        {
            let latencies = self.tally.latencies(only);
            let cell = |percent| {
                let millis = latencies.percentile(percent).as_secs_f64() * 1000.0;
                Cell::new(format!("{millis:.1} ms")).set_alignment(CellAlignment::Right)
            };
            table.add_row([Cell::new(name), cell(50.0), cell(99.0)]);
        }

        table
    }
}

/// An error unless every mail arrived, and none twice without a cause.
fn verdict(tally: &DemoTally, count: u64) -> Result<(), Failure> {
    let missing = tally.missing();
    let (accepted, arrived) = tally.progress();
    let (duplicates, explained) = (tally.duplicates(), tally.mischief().hung_up_after);
    let reason = if !missing.is_empty() {
        let some: Vec<String> = missing
            .iter()
            .take(5)
            .map(|number| format!("mail-{number}"))
            .collect();
        format!(
            "{} of {accepted} accepted mails did not arrive, {} among them",
            missing.len(),
            some.join(", ")
        )
    } else if arrived < count {
        format!("only {accepted} of {count} mails were accepted, and {arrived} arrived")
    } else if duplicates > explained {
        format!("{duplicates} mails arrived twice, and only {explained} of them had to")
    } else {
        return Ok(());
    };

    Err(Failure::Failed(reason))
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed_in(copies: [u32; 3]) -> DemoTally {
        let tally = DemoTally::new(copies.len());
        for (number, copies) in copies.into_iter().enumerate() {
            tally.accepted(number);
            (0..copies).for_each(|_| tally.arrived(number));
        }
        tally
    }

    #[test]
    fn only_a_run_in_which_every_mail_arrived_is_a_success() {
        assert!(verdict(&handed_in([1, 1, 1]), 3).is_ok());
        let lost = verdict(&handed_in([1, 0, 1]), 3).map_err(|failure| failure.to_string());
        assert_eq!(
            lost,
            Err("1 of 3 accepted mails did not arrive, mail-1 among them".to_owned())
        );

        assert!(
            verdict(&handed_in([1, 1, 1]), 4).is_err(),
            "one was not even accepted"
        );

        assert!(
            verdict(&handed_in([1, 2, 1]), 3).is_err(),
            "nobody hung up, so nothing had to come twice"
        );
    }
}
