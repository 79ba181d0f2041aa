//! The history of each mail: written by the callers and by the sink, read for the summary.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use super::plan::{PlannedFault, trouble};
use crate::mail::Priority;

/// One mail's history.
#[derive(Clone, Copy, Debug, Default)]
struct MailHistory {
    accepted: Option<Instant>,
    arrived: Option<Instant>,
    copies: u32,
    troubled: u32,
}

/// How often each fault happened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FaultCounts {
    pub(super) refused: u64,
    pub(super) deferred: u64,
    pub(super) hung_up: u64,
    pub(super) hung_up_after: u64,
}

/// The history of all mails, by number.
pub(super) struct DemoTally {
    state: Mutex<TallyState>,
}

struct TallyState {
    stories: Vec<MailHistory>,
    mischief: FaultCounts,
    accepted: u64,
    arrived: u64,
}

impl DemoTally {
    pub(super) fn new(count: usize) -> Self {
        let stories = vec![MailHistory::default(); count];
        DemoTally {
            state: Mutex::new(TallyState {
                stories,
                mischief: FaultCounts::default(),
                accepted: 0,
                arrived: 0,
            }),
        }
    }

    /// The engine has accepted the mail.
    pub(super) fn accepted(&self, number: usize) {
        let state = &mut *self.state.lock();
        if let Some(story) = state.stories.get_mut(number) {
            story.accepted = Some(Instant::now());
            state.accepted += 1;
        }
    }

    /// Whether the sink is to cause a fault for this mail now; true as often as the plan says.
    pub(super) fn meets(&self, number: usize, wanted: impl Fn(PlannedFault) -> bool) -> bool {
        let planned = trouble(number);
        let TallyState {
            stories, mischief, ..
        } = &mut *self.state.lock();
        let Some(story) = stories.get_mut(number).filter(|_| wanted(planned)) else {
            return false;
        };

        let (times, counted) = match planned {
            PlannedFault::None => return false,
            PlannedFault::Refuse(times) => (times, &mut mischief.refused),
            PlannedFault::Defer(times) => (times, &mut mischief.deferred),
            PlannedFault::HangUp => (1, &mut mischief.hung_up),
            PlannedFault::HangUpAfter => (1, &mut mischief.hung_up_after),
        };

        if story.troubled >= times {
            return false;
        }
        story.troubled += 1;
        *counted += 1;
        true
    }

    /// The mail has arrived at the sink.
    pub(super) fn arrived(&self, number: usize) {
        let state = &mut *self.state.lock();
        if let Some(story) = state.stories.get_mut(number) {
            story.copies += 1;
            if story.arrived.is_none() {
                story.arrived = Some(Instant::now());
                state.arrived += 1;
            }
        }
    }

    /// How many mails were accepted, and how many arrived.
    pub(super) fn progress(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.accepted, state.arrived)
    }

    pub(super) fn mischief(&self) -> FaultCounts {
        self.state.lock().mischief
    }

    /// How many copies arrived beyond the first of each.
    pub(super) fn duplicates(&self) -> u64 {
        self.state
            .lock()
            .stories
            .iter()
            .map(|story| u64::from(story.copies.saturating_sub(1)))
            .sum()
    }

    /// The numbers of accepted mails that did not arrive.
    pub(super) fn missing(&self) -> Vec<usize> {
        let state = self.state.lock();
        let missing = state
            .stories
            .iter()
            .enumerate()
            .filter(|(_, story)| story.accepted.is_some() && story.arrived.is_none());
        missing.map(|(number, _)| number).collect()
    }

    /// The time from `began` until every mail had arrived once.
    pub(super) fn took(&self, began: Instant) -> Duration {
        let state = self.state.lock();
        state
            .stories
            .iter()
            .filter_map(|story| story.arrived)
            .max()
            .map_or(Duration::ZERO, |last| last - began)
    }

    /// The latencies of the mails of one priority, or of all.
    pub(super) fn latencies(&self, only: Option<Priority>) -> Latencies {
        let state = self.state.lock();
        let mut micros = Histogram::new(3).expect("three significant digits are allowed");
        for (number, story) in state.stories.iter().enumerate() {
            let (Some(accepted), Some(arrived)) = (story.accepted, story.arrived) else {
                continue;
            };
            if only.is_none_or(|only| only == super::priority(number)) {
                // A mail may arrive before the task that submitted it has read its receipt.
                let waited = arrived.saturating_duration_since(accepted).as_micros();
                // Recording fails only beyond a histogram's fixed bound, and this one grows.
                let _ = micros.record(u64::try_from(waited).unwrap_or(u64::MAX));
            }
        }

        Latencies { micros }
    }
}

/// Times from receipt to arrival.
pub(super) struct Latencies {
    micros: Histogram<u64>,
}

impl Latencies {
    /// The time within which this percentage of mails arrived.
    pub(super) fn percentile(&self, percent: f64) -> Duration {
        Duration::from_micros(self.micros.value_at_percentile(percent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_count_from_the_receipt_to_the_first_copy() {
        let tally = DemoTally::new(10);
        let began = Instant::now();
        for number in 0..10 {
            let story = &mut tally.state.lock().stories[number];
            story.accepted = Some(began);
            story.arrived = Some(began + Duration::from_millis(10 * (number as u64 + 1)));
        }

        tally.arrived(0);
        let near = |span: Duration, millis: f64| (span.as_secs_f64() * 1000.0 - millis).abs() < 0.5;
        assert!(near(tally.latencies(None).percentile(50.0), 50.0));
        assert!(near(tally.latencies(None).percentile(99.0), 100.0));

        assert!(
            near(
                tally.latencies(Some(Priority::Critical)).percentile(50.0),
                10.0
            ),
            "mail 0 is the critical one"
        );

        assert_eq!(tally.took(began), Duration::from_millis(100));
    }

    #[test]
    fn what_was_accepted_and_did_not_arrive_is_missing() {
        let tally = DemoTally::new(3);
        tally.accepted(0);
        tally.accepted(2);
        tally.arrived(2);
        assert_eq!(tally.missing(), [0]);
        assert_eq!(tally.progress(), (2, 1));
    }
}
