//! The fake server itself: a script is no good if its actor does not follow it.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::common::{Act, FakeSmtp, Rule, Step};

/// Sends everything at once, and reads until the server closes.
fn talk(server: &FakeSmtp, lines: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream
        .write_all(lines.replace('\n', "\r\n").as_bytes())
        .unwrap();
    let mut replies = String::new();
    stream.read_to_string(&mut replies).unwrap();
    replies.replace("\r\n", "\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn it_takes_a_mail_and_remembers_it() {
    let server = FakeSmtp::start().await;
    let said = talk(
        &server,
        "EHLO me\nMAIL FROM:<a@b> SIZE=9\nRCPT TO:<c@d>\nDATA\nHi: x\n\n..\n.\nQUIT\n",
    );

    assert!(
        said.ends_with("250 2.1.5 ok\n354 go on\n250 2.0.0 taken\n221 2.0.0 bye\n"),
        "{said}"
    );

    let mail = &server.mails_arrive(1).await[0];
    assert_eq!(
        (mail.return_path.as_str(), mail.text().as_str()),
        ("a@b", "Hi: x\r\n\r\n.\r\n")
    );

    assert_eq!(
        (mail.recipients.as_slice(), mail.parameters.as_slice()),
        (&["c@d".to_owned()][..], &["SIZE=9".to_owned()][..])
    );

    assert!(mail.pipelined && !mail.overlapped && !mail.encrypted);
    server.open_connections_fall_to(0).await;
    assert_eq!(
        (
            server.connections(),
            server.peak_connections(),
            server.accepted()
        ),
        (1, 1, 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_follows_its_script() {
    let server = FakeSmtp::builder()
        .rule(
            Rule::at(Step::Rcpt)
                .to("bob@")
                .act(Act::reply(550, "5.1.1 no such user")),
        )
        .rule(
            Rule::at(Step::FinalDot)
                .first(1)
                .act(Act::reply(451, "4.3.0 later")),
        )
        .start()
        .await;

    let mail = "MAIL FROM:<>\nRCPT TO:<bob@d>\nRCPT TO:<ada@d>\nDATA\nx\n.\n";
    let said = talk(&server, &format!("EHLO me\n{mail}{mail}RSET\nQUIT\n"));
    assert_eq!(said.matches("550 5.1.1 no such user").count(), 2);
    assert!(said.contains("451 4.3.0 later"));

    let transactions = server.transactions();
    assert_eq!(
        transactions.iter().map(|t| t.answer).collect::<Vec<_>>(),
        [Some(451), Some(250)]
    );

    assert_eq!(transactions[1].recipients, ["ada@d"]);
    assert!(transactions[1].overlapped);
    server.rule(Rule::at(Step::Greeting).act(Act::ReplyThenCut(554, "no".into())));
    assert_eq!(talk(&server, ""), "554 no\n");
    server.behave();

    assert!(talk(&server, "QUIT\n").starts_with("220 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_comes_back_where_it_was() {
    let server = FakeSmtp::start().await;
    let address = server.stop().await;
    assert!(TcpStream::connect(address).is_err());
    let again = FakeSmtp::builder().bind(address).start().await;
    assert!(talk(&again, "QUIT\n").contains("221 "));
}
