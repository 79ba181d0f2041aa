//! A mail with more recipients than a server takes at once: each gets it once, and no attempt is
//! counted, however the server says so.

use postrider::{Clock, Dispatcher, MailStatus};

use crate::common::{
    Act, FakeSmtp, Moment, Rule, Step, as_time_passes, engine, mail_to, relay_at, submit,
};

const RECIPIENTS: usize = 40;

async fn sent_to_many(postrider: &Dispatcher, clock: &Clock) -> MailStatus {
    let mut mail = mail_to("to0@d0.example");
    for n in 1..RECIPIENTS {
        mail = mail.to(format!("to{n}@d{}.example", n % 4));
    }
    let id = submit(postrider, mail.build().unwrap()).await;
    as_time_passes(clock, async { postrider.wait(id).await.unwrap() }).await
}

fn assert_once_each(server: &FakeSmtp, status: &MailStatus, why: &str) {
    assert_eq!(status.state.as_str(), "delivered", "{why}: {status:#?}");
    let counted = status.deliveries.iter().map(|one| one.attempts_counted);
    assert_eq!(counted.sum::<u32>(), 0, "{why}");

    let mails = server.mails().into_iter();
    let mut reached: Vec<String> = mails.flat_map(|mail| mail.recipients).collect();
    reached.sort();
    reached.dedup();
    let transactions = server.mails().into_iter().map(|mail| mail.recipients.len());
    assert_eq!(reached.len(), RECIPIENTS, "{why}");
    assert_eq!(transactions.sum::<usize>(), RECIPIENTS, "{why}");
}

fn has_ten(moment: &Moment) -> bool {
    moment.recipients.len() >= 10
}

fn has_more_than_ten(moment: &Moment) -> bool {
    moment.recipients.len() > 10
}

#[tokio::test]
async fn what_is_too_much_at_whatever_step_goes_in_further_transactions() {
    let cases = [
        (Step::Data, Act::reply(452, "4.5.3 Too many recipients")),
        (Step::Data, Act::reply(554, "5.5.3 Too many recipients")),
        (
            Step::FinalDot,
            Act::reply(554, "Transaction failed: Recipient count exceeds 10."),
        ),
        (Step::FinalDot, Act::reply(452, "4.5.3 Too many recipients")),
        (
            Step::Rcpt,
            Act::ReplyThenCut(421, "4.5.3 Too many recipients".into()),
        ),
        (Step::Rcpt, Act::Cut),
        (
            Step::Data,
            Act::ReplyThenCut(421, "4.5.3 Too many recipients".into()),
        ),
        (
            Step::FinalDot,
            Act::ReplyThenCut(421, "4.5.3 Too many recipients".into()),
        ),
    ];
    for (step, act) in cases {
        let is_too_much = match step {
            Step::Rcpt => has_ten,
            _ => has_more_than_ten,
        };
        let rule = Rule::at(step).when(is_too_much).act(act.clone());
        let server = FakeSmtp::builder().rule(rule).start().await;
        let clock = Clock::fake();
        let relay = relay_at(&server).connections(1);
        let postrider = engine(relay, &clock).start().await.unwrap();

        let status = sent_to_many(&postrider, &clock).await;
        let why = format!("{step:?} {act:?}");
        assert_once_each(&server, &status, &why);
        let relay = &postrider.relays().await.unwrap()[0];
        assert_eq!(relay.state.as_str(), "up", "{why}");
        let learned = relay.recipients_per_transaction.unwrap_or_default();
        assert!((1..=10).contains(&learned), "{why}: {learned}");
    }
}

#[tokio::test]
async fn what_a_server_says_beforehand_that_it_takes_is_kept_to() {
    for (limits, most, most_domains, most_mails, shown) in [
        ("LIMITS RCPTMAX=7", 7, 4, usize::MAX, (None, Some(7))),
        (
            "LIMITS RCPTDOMAINMAX=1",
            RECIPIENTS,
            1,
            usize::MAX,
            (None, None),
        ),
        ("limits mailmax=2 rcptmax=9", 9, 4, 2, (Some(2), Some(9))),
    ] {
        let server = FakeSmtp::builder()
            .capabilities(["PIPELINING", "8BITMIME", limits])
            .start()
            .await;
        let clock = Clock::fake();
        let relay = relay_at(&server).connections(1);
        let postrider = engine(relay, &clock).start().await.unwrap();

        let status = sent_to_many(&postrider, &clock).await;
        assert_once_each(&server, &status, limits);
        for mail in server.mails() {
            let mut domains: Vec<&str> = mail
                .recipients
                .iter()
                .filter_map(|to| to.split('@').nth(1))
                .collect();
            domains.sort_unstable();
            domains.dedup();
            assert!(mail.recipients.len() <= most, "{limits}: {mail:?}");
            assert!(domains.len() <= most_domains, "{limits}: {mail:?}");
        }
        let commands = server.commands();
        let refused = commands.iter().filter(|line| line.starts_with("RSET"));
        assert_eq!(refused.count(), 0, "nothing was tried in vain");
        let carried = server.mails().len().div_ceil(server.connections());
        assert!(carried <= most_mails, "{limits}: {carried}");

        let relay = &postrider.relays().await.unwrap()[0];
        let known = (relay.messages_per_session, relay.recipients_per_transaction);
        assert_eq!(known, shown, "{limits}");
    }
}

#[tokio::test]
async fn recipients_over_whom_a_server_hangs_up_take_none_of_the_others_with_them() {
    for act in [Act::Cut, Act::reply(354, "Start mail input")] {
        let rule = Rule::at(Step::Rcpt)
            .when(|moment| moment.line.contains("5@"))
            .act(act.clone());
        let server = FakeSmtp::builder().rule(rule).start().await;
        let clock = Clock::fake();
        let relay = relay_at(&server).connections(1);
        let postrider = engine(relay, &clock).start().await.unwrap();
        let mut mail = mail_to("to0@d0.example");
        for n in 1..RECIPIENTS {
            mail = mail.to(format!("to{n}@d{n}.example"));
        }
        submit(&postrider, mail.build().unwrap()).await;

        // Without waiting for anything: four of them are bad.
        let arrived = async {
            loop {
                let mails = server.mails().into_iter();
                let reached = mails.map(|mail| mail.recipients.len()).sum::<usize>();
                if reached == RECIPIENTS - 4 {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        let arrived = tokio::time::timeout(std::time::Duration::from_secs(20), arrived).await;
        assert!(arrived.is_ok(), "{act:?}: {:?}", server.mails());
    }
}
