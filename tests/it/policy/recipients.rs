//! One recipient that is wrong takes none of the same mail's others with it, whatever the server
//! says of it and however it ends the connection.

use postrider::{Clock, seconds};

use crate::common::{Act, FakeSmtp, Rule, Step, as_time_passes, engine, mail_to, relay_at, submit};

const OTHERS: [&str; 3] = ["ada@example.org", "cyd@example.org", "dot@example.net"];

/// What may come to the one recipient that is wrong.
fn mischief() -> Vec<Act> {
    let replies = [
        (501, "5.1.3 Bad recipient address syntax"),
        (501, "<bob@@wrong.example>: malformed address"),
        (550, "5.1.1 User unknown"),
        (550, "5.4.1 Recipient address rejected: Access denied"),
        (550, "Unrouteable address"),
        (551, "User not local; please try <bob@elsewhere.example>"),
        (552, "5.2.2 mailbox full"),
        (553, "5.1.3 mailbox name not allowed"),
        (554, "5.7.1 <bob@wrong.example>: Relay access denied"),
        (556, "5.1.10 Recipient address has null MX"),
        (571, "5.7.1 Delivery not authorized, message refused"),
        (585, "Recipient address rejected: undeliverable address"),
        (550, "I cannot deliver mail for <bob@wrong.example>"),
        (
            450,
            "4.2.1 The user you are trying to contact is receiving mail too quickly",
        ),
        (452, "4.2.2 The recipient's inbox is out of storage space"),
        (450, "4.1.2 Recipient address rejected: Domain not found"),
        (451, "4.7.1 Greylisting in action, please come back later"),
        (451, "4.3.0 <bob@wrong.example>: Temporary lookup failure"),
        (451, "4.4.1 no answer from host"),
        (452, "4.5.3 Recipients belong to multiple regions"),
        (451, "Temporary local problem - please try later"),
        (354, "Start mail input"),
    ];
    let replies = replies.map(|(code, text)| Act::reply(code, text));
    let ends = [
        Act::ReplyThenCut(421, "4.7.28 unusual rate of mail".into()),
        Act::ReplyThenCut(550, "5.1.1 User unknown".into()),
        Act::Cut,
        Act::Garbage,
    ];
    replies.into_iter().chain(ends).collect()
}

#[tokio::test]
async fn one_wrong_recipient_takes_no_others_with_it() {
    for act in mischief() {
        for first in [true, false] {
            let server = FakeSmtp::builder()
                .rule(Rule::at(Step::Rcpt).to("bob@").act(act.clone()))
                .start()
                .await;
            let clock = Clock::fake();
            let postrider = engine(relay_at(&server).connections(1), &clock)
                .start()
                .await
                .unwrap();

            let mut to = OTHERS.to_vec();
            to.insert(if first { 0 } else { 2 }, "bob@wrong.example");
            let mut mail = mail_to(to[0]);
            for to in &to[1..] {
                mail = mail.to(*to);
            }
            let id = submit(&postrider, mail.build().unwrap()).await;

            let delivered = async {
                loop {
                    let status = postrider.status(id).await.unwrap();
                    let others = status.deliveries.into_iter();
                    let mut others =
                        others.filter(|delivery| OTHERS.contains(&delivery.recipient.as_str()));
                    if others.all(|delivery| delivery.state.as_str() == "delivered") {
                        return;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                }
            };
            let waited = tokio::time::timeout(seconds(20), delivered);
            let waited = as_time_passes(&clock, waited).await;
            assert!(
                waited.is_ok(),
                "{act:?}, {first}: {:#?}",
                postrider.status(id).await
            );

            let mut reached: Vec<String> = server
                .mails()
                .into_iter()
                .flat_map(|mail| mail.recipients)
                .collect();
            reached.sort();
            assert_eq!(reached, OTHERS, "once each: {act:?}, {first}");
        }
    }
}
