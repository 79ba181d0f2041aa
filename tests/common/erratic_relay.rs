//! A relay that behaves erratically, for tests of everything but the relay.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Act, FakeSmtp, Rule, Step};

/// A relay that takes its time now and then, defers, refuses, and hangs up: before, within and
/// after a mail.
pub async fn erratic_relay(seed: u64) -> FakeSmtp {
    let random = Arc::new(Mutex::new(StdRng::seed_from_u64(seed)));
    let now_and_then = |step, act, chance: f64| {
        let random = Arc::clone(&random);
        Rule::at(step)
            .act(act)
            .when(move |_| random.lock().random_bool(chance))
    };

    FakeSmtp::builder()
        .rule(now_and_then(
            Step::Greeting,
            Act::ReplyThenCut(421, "4.3.2 too busy".into()),
            0.02,
        ))
        .rule(now_and_then(
            Step::Mail,
            Act::ReplyThenCut(421, "4.3.2 good bye".into()),
            0.002,
        ))
        .rule(now_and_then(
            Step::Rcpt,
            Act::reply(451, "4.2.1 later"),
            0.01,
        ))
        .rule(now_and_then(Step::Body, Act::Cut, 0.002))
        .rule(now_and_then(
            Step::FinalDot,
            Act::reply(452, "4.3.1 no room"),
            0.005,
        ))
        .rule(now_and_then(Step::FinalDot, Act::Cut, 0.002))
        .rule(now_and_then(
            Step::FinalDot,
            Act::Delay(Duration::from_millis(20)),
            0.03,
        ))
        .start()
        .await
}
