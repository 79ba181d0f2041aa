//! Shares the turns among the priorities by their weights, so that none starves.

use crate::mail::Priority;

/// How many turns each priority gets, relative to the others, while all have mail waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Turns of [`Priority::Critical`].
    pub critical: u32,
    /// Turns of [`Priority::Default`].
    pub default: u32,
    /// Turns of [`Priority::Bulk`].
    pub bulk: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Weights {
            critical: 6,
            default: 3,
            bulk: 1,
        }
    }
}

impl Weights {
    fn of(&self, priority: Priority) -> i64 {
        i64::from(match priority {
            Priority::Critical => self.critical,
            Priority::Default => self.default,
            Priority::Bulk => self.bulk,
        })
        .max(1)
    }
}

/// Chooses the next priority by smooth weighted round robin: over any period each priority has its
/// share, and its turns are spread evenly.
#[derive(Clone, Debug)]
pub struct Shares {
    weights: Weights,
    credit: [i64; 3],
}

impl Shares {
    /// Uses these weights; a weight of zero counts as one, because zero would starve.
    pub fn new(weights: Weights) -> Self {
        Shares {
            weights,
            credit: [0; 3],
        }
    }

    /// The next `n` turns.
    pub fn turns(&mut self, n: usize) -> Vec<Priority> {
        (0..n).map(|_| self.next_turn()).collect()
    }

    fn next_turn(&mut self) -> Priority {
        let mut chosen = Priority::Critical;
        let mut total = 0;
        for priority in Priority::ALL {
            let weight = self.weights.of(priority);
            total += weight;
            self.credit[priority.index()] += weight;
            if self.credit[priority.index()] > self.credit[chosen.index()] {
                chosen = priority;
            }
        }
        self.credit[chosen.index()] -= total;
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_priority_gets_its_share_and_none_starves() {
        let mut shares = Shares::new(Weights::default());
        let turns = shares.turns(100);
        let count = |p| turns.iter().filter(|t| **t == p).count();
        assert_eq!(
            (
                count(Priority::Critical),
                count(Priority::Default),
                count(Priority::Bulk)
            ),
            (60, 30, 10)
        );
        assert!(turns.chunks(10).all(|ten| ten.contains(&Priority::Bulk)));
    }

    #[test]
    fn a_weight_of_zero_does_not_starve() {
        let mut shares = Shares::new(Weights {
            critical: 9,
            default: 0,
            bulk: 0,
        });
        assert!(shares.turns(11).contains(&Priority::Bulk));
    }
}
