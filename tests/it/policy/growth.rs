//! What many relays and routes cost: no more than a few do.

use std::time::{Duration, Instant};

use postrider::{Clock, Match};

use crate::common::{ScriptedRelay, engine, mail_to, submit};

/// How long a mail takes on an engine with so many relays, each with a route of its own: the median
/// of many.
async fn one_mail_takes(relays: usize) -> Duration {
    let scripted = ScriptedRelay::free();
    let relay = |n: usize| scripted.relay().name(format!("relay{n}")).connections(1);
    let mut builder = engine(relay(0), &Clock::system());
    for n in 0..relays {
        if n > 0 {
            builder = builder.relay(relay(n));
        }
        let matching = Match {
            recipient_domain: vec![format!("d{n}.example")],
            ..Match::default()
        };
        builder = builder.route(matching, [format!("relay{n}")]);
    }
    let postrider = builder.start().await.unwrap();

    let mut took = Vec::new();
    for n in 0..200 {
        let to = format!("ada@d{}.example", n * 7 % relays);
        let mail = mail_to(&to).build().unwrap();
        let began = Instant::now();
        let id = submit(&postrider, mail).await;
        postrider.wait(id).await.unwrap();
        took.push(began.elapsed());
    }

    took.sort();
    took[took.len() / 2]
}

#[tokio::test]
async fn a_thousand_relays_and_routes_cost_a_mail_about_as_much_as_ten() {
    let few = one_mail_takes(10).await;
    let many = one_mail_takes(1000).await;
    assert!(many <= few * 4, "{many:?} with 1,000, {few:?} with 10");
}
