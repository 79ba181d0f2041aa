//! What both programs share: a count comes as a line on standard input, callers submit so many
//! mails, and a line of JSON tells how long each had to wait for its answer.

use std::future::Future;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How many callers submit mail at once.
pub const CALLERS: usize = 64;
/// The text of every mail.
pub fn text() -> String {
    let mut text = "All work and no play makes a dull mail.\r\n".repeat(50);
    text.truncate(2048);
    text
}

/// How many mails are still to be submitted.
pub struct Left(AtomicUsize);

impl Left {
    /// Takes one of them.
    pub fn take(&self) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok()
    }
}

/// Answers every count that comes: `hand_in` takes mails from those that are left and returns how
/// long each took.
pub fn answer<F>(runtime: &tokio::runtime::Runtime, hand_in: impl Fn(Arc<Left>) -> F)
where
    F: Future<Output = Vec<Duration>> + Send + 'static,
{
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let count: usize = line
            .expect("standard input is readable")
            .trim()
            .parse()
            .expect("a count");
        let left = Arc::new(Left(AtomicUsize::new(count)));
        let started = Instant::now();
        let mut times = runtime.block_on(async {
            let callers: Vec<_> = (0..CALLERS)
                .map(|_| tokio::spawn(hand_in(left.clone())))
                .collect();
            let mut times = Vec::with_capacity(count);
            for caller in callers {
                times.extend(caller.await.expect("a caller did not panic"));
            }
            times
        });
        let took = started.elapsed().as_secs_f64();
        times.sort();
        let at =
            |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
        println!(
            "{{\"per_s\":{:.1},\"p50_ms\":{:.4},\"p99_ms\":{:.4}}}",
            count as f64 / took,
            at(0.5),
            at(0.99)
        );
        std::io::stdout()
            .flush()
            .expect("standard output is writable");
    }
}
