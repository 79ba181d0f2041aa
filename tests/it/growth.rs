//! No parser that sees a stranger's bytes does more work than its input is long: ten times the
//! input costs at most fifteen times the time.

mod content;

use std::time::Duration;

use cpu_time::ThreadTime;
use postrider::mail::{Reading, seven_bit, take_directives};
use postrider::{Capture, Dispatcher, Envelope, Mail, MailBuilder, Relay, feedback};

/// The most that ten times the input may cost.
const MOST: u32 = 15;

/// The time of this thread that the work takes: the least of several runs, which is what the work
/// itself needs.
fn least(runs: usize, work: &dyn Fn()) -> Duration {
    let spent = (0..runs).map(|_| {
        let began = ThreadTime::now();
        work();
        began.elapsed()
    });
    spent.min().unwrap()
}

/// Runs the work on inputs of one size and of ten times that, and compares. The first size is
/// chosen so that the work can be measured at all.
#[track_caller]
fn grows_with_its_input<T>(what: &str, input: impl Fn(usize) -> T, work: impl Fn(&T)) {
    let mut size = 1000;
    let small = loop {
        let given = input(size);
        let spent = least(7, &|| work(&given));
        if spent >= Duration::from_micros(300) || size >= 64_000 {
            break spent;
        }
        size *= 2;
    };

    let given = input(size * 10);
    let bound = small.max(Duration::from_micros(100)) * MOST;

    let mut large = Duration::MAX;
    // A machine that is busy with other things can spoil a few runs, and not all.
    for _ in 0..12 {
        large = large.min(least(1, &|| work(&given)));
        if large <= bound {
            return;
        }
    }

    panic!("{what}: {size} took {small:?}, ten times as much {large:?}");
}

fn envelope() -> Envelope {
    Envelope::new(
        Some("shop@example.com".parse().unwrap()),
        vec!["ada@example.org".parse().unwrap()],
    )
    .unwrap()
}

/// A whole message, as each door takes it: mended, read, frozen, and its fingerprint made.
fn take(message: &[u8]) {
    let _ = take_directives(message.to_vec().into());
    if let Ok(mail) = Mail::from_rfc5322(envelope(), message.to_vec()) {
        std::hint::black_box(mail.fingerprint());
    }
}

/// `piece`, as often as it takes to fill `size` bytes.
fn filled(before: &str, piece: &str, after: &str, size: usize) -> Vec<u8> {
    [before, &piece.repeat(size / piece.len() + 1), after]
        .concat()
        .into_bytes()
}

#[test]
fn a_message_costs_what_its_size_is() {
    let multipart = |boundary: &str| {
        format!("Subject: x\r\nContent-Type: multipart/mixed; boundary=\"{boundary}\"\r\n\r\n")
    };
    let nested = |size: usize| {
        let mut message = multipart("b0");
        for depth in 1..=size / 60 {
            message.push_str(&format!(
                "--b{}\r\nContent-Type: multipart/mixed; boundary=b{depth}\r\n\r\n",
                depth - 1
            ));
        }
        message.into_bytes()
    };

    grows_with_its_input("parts within parts", nested, |message: &Vec<u8>| {
        take(message)
    });

    for (boundary, line) in [
        ("a:", "--a:\r\n"),
        ("a:", "--a:\r\nX: y\r\n"),
        ("a", "--a\r\n"),
        ("a", "--a\r\nX: y\r\n"),
        ("a", "--a\r\nX: y\r\n z\r\n"),
        ("a", "--a\r\nContent-Type: x; boundary=a\r\n"),
        ("a", "--a\r\nContent-Type: x; boundary=a\r\n\r\n"),
        ("a", "--b\r\n"),
        (
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "--aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n",
        ),
    ] {
        let message = |size| filled(&multipart(boundary), line, "", size);
        grows_with_its_input(
            &format!("{boundary} and {line:?}"),
            message,
            |message: &Vec<u8>| take(message),
        );
    }

    let many = "Content-Type: multipart/mixed; boundary=aaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(200);
    let many = format!("Subject: x\r\n{many}\r\n");
    let message = |size| filled(&many, "--aaaaaaaaaaaaaaaaaaaaaaaa\r\n", "", size);
    grows_with_its_input("many boundaries", message, |message: &Vec<u8>| {
        take(message)
    });
}

#[test]
fn a_message_is_converted_at_the_cost_of_its_size() {
    let head = "Subject: x\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n";
    for (before, piece, after) in [
        ("Subject: x\r\n\r\n", "ö", "\r\n"),
        ("Subject: x\r\n\r\n", "ö \r\n", ""),
        ("Subject: x\r\nContent-Type: image/png\r\n\r\n", "ö", "\r\n"),
        (
            "Subject: x\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n",
            "ö",
            "",
        ),
        (head, "--a\r\n\r\nö\r\n", "--a--\r\n"),
        (
            head,
            "--a\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\nö\r\n",
            "",
        ),
        (
            head,
            "--a\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nö\r\n",
            "",
        ),
        (
            head,
            "--a\r\nContent-Type: message/rfc822\r\n\r\nX: ö\r\n",
            "\r\n",
        ),
        (
            head,
            "--a\r\nContent-Type: multipart/signed; boundary=s\r\n\r\nö\r\n",
            "",
        ),
        (
            "Subject: x\r\n",
            "Content-Type: message/rfc822\r\n\r\n",
            "ö\r\n",
        ),
        (
            "Content-Type: message/rfc822\r\n\r\n",
            "X-Y: ö\r\n",
            "\r\nö\r\n",
        ),
    ] {
        let message = |size| bytes::Bytes::from(filled(before, piece, after, size));
        grows_with_its_input(&format!("{piece:?}"), message, |message| {
            drop(seven_bit(message))
        });
    }
}

/// Parameters in pieces, each with its number, as RFC 2231 §3 has them.
fn in_pieces(before: &str, piece: impl Fn(usize) -> String, size: usize) -> Vec<u8> {
    let mut message = before.to_owned();
    let mut number = 0;
    while message.len() < size.min(900_000) {
        message.push_str(&piece(number));
        number += 1;
    }
    message.push_str("\r\n\r\nhi\r\n");
    message.into_bytes()
}

#[test]
fn parameters_in_pieces_cost_what_their_size_is() {
    type Piece = fn(usize) -> String;
    let pieces: [(&str, Piece); 9] = [
        ("in order", |n| format!(";\r\n name*{n}=a")),
        ("quoted", |n| format!(";\r\n name*{n}=\"a\\\"b\"")),
        ("extended", |n| format!(";\r\n name*{n}*=utf-8''%C3%BC")),
        ("backwards", |n| format!(";\r\n name*{}=a", 1_000_000 - n)),
        ("all the same", |_| ";\r\n name*0*=utf-8''%C3%BC".to_owned()),
        ("names of their own", |n| {
            format!(";\r\n n{n}*0*=utf-8'en'%FC")
        }),
        ("raw", |n| format!(";\r\n name*{n}=ü")),
        ("half escapes", |_| ";\r\n name*=utf-8''%%%".to_owned()),
        ("no charset", |_| ";\r\n name*=''''".to_owned()),
    ];
    for (what, piece) in pieces {
        for field in [
            "Content-Type: text/plain",
            "Content-Disposition: attachment",
        ] {
            let field = format!("Subject: x\r\n{field}");
            let message = |size: usize| in_pieces(&field, piece, size);
            let what = format!("{what}, {field:?}");
            grows_with_its_input(&what, message, |message: &Vec<u8>| take(message));
            grows_with_its_input(&what, message, |message: &Vec<u8>| read(message));
        }
    }
}

/// A message as the page shows it: what it says, its HTML, and each of its parts.
fn read(message: &[u8]) {
    std::hint::black_box(Reading::of(message));
    std::hint::black_box(Reading::html(message));
    std::hint::black_box(Reading::part(message, 1));
}

#[test]
fn a_message_is_taken_apart_at_the_cost_of_its_size() {
    let multipart = "Subject: x\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n";
    let html = "Subject: x\r\nContent-Type: text/html\r\n\r\n";
    let image = "--a\r\nContent-ID: <a>\r\nContent-Type: image/png\r\n\r\nx\r\n";
    for (before, piece) in [
        (multipart, "--a\r\n\r\nx\r\n"),
        (multipart, image),
        (
            multipart,
            "--a\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n",
        ),
        (multipart, "--a\r\nContent-Type: text/html\r\n\r\n<p>\r\n"),
        (
            multipart,
            "--a\r\nContent-Transfer-Encoding: base64\r\n\r\nAA\r\n",
        ),
        (html, "<b>"),
        (html, "<"),
        (html, "<a href=\"https://x.example/\">"),
        (html, "<a href='"),
        (html, "<!--"),
        (html, "&amp;"),
        (html, "&"),
        (html, "<style>"),
        (html, "<p>x</p>"),
        ("Subject: x\r\n\r\n", "https://x.example/ "),
        ("Subject: x\r\n\r\n", "https://"),
        ("Subject: x\r\n\r\n", "http:"),
        ("Subject: x\r\n\r\n", "123456 "),
        ("Subject: x\r\n\r\n", "1"),
        ("Subject: x\r\n\r\n", "code: "),
        ("Subject: x\r\n\r\n", "("),
        ("", "Subject: x\r\n"),
        ("", "To: a@example.org\r\n"),
        ("Subject: ", "=?utf-8?q?y?= "),
        ("Subject: ", "=?utf-8?b?"),
    ] {
        let message = |size: usize| filled(before, piece, "", size.min(900_000));
        let what = format!("{before:?} and {piece:?}");
        grows_with_its_input(&what, message, |message: &Vec<u8>| read(message));
    }
}

#[test]
fn a_report_costs_what_its_size_is() {
    let report = "From: MAILER-DAEMON@mx.example\r\nSubject: Undelivered\r\n\
                  Content-Type: multipart/report; report-type=delivery-status; boundary=a\r\n\r\n";
    let status = format!("{report}--a\r\nContent-Type: message/delivery-status\r\n\r\n");
    let complaint = format!("{report}--a\r\nContent-Type: message/feedback-report\r\n\r\n");
    let prose = "From: MAILER-DAEMON@mx.example\r\nSubject: failure notice\r\n\r\n";
    let copy = "--a\r\nContent-Type: text/rfc822-headers\r\n\r\nMessage-ID: <a@b>\r\n";
    for (before, piece) in [
        (
            status.as_str(),
            "Final-Recipient: rfc822; a@b.example\r\nStatus: 5.1.1\r\n\r\n",
        ),
        (&status, "Final-Recipient: rfc822; a@b.example\r\n"),
        (&status, "Diagnostic-Code: smtp; 550 5.1.1\r\n"),
        (&status, " more\r\n"),
        (&status, "\r\n"),
        (&status, ":\r\n"),
        (&complaint, "Original-Rcpt-To: a@b.example\r\n"),
        (&complaint, "Feedback-Type: abuse\r\n"),
        (report, "--a\r\nContent-Type: text/plain\r\n\r\nx\r\n"),
        (report, copy),
        (prose, "<a@b.example>:\r\n"),
        (prose, "<a@b.example>:\r\n550 5.1.1 no such user\r\n"),
        (prose, "550 5.1.1 "),
        (prose, "5.1.1 "),
        (prose, "a@"),
        (prose, "@a"),
        (prose, "<"),
        (prose, "\r\n"),
        (prose, "--- Below this line is a copy of the message.\r\n"),
    ] {
        let message = |size: usize| filled(before, piece, "", size);
        let what = format!("{before:?} and {piece:?}");
        let read = |message: &Vec<u8>| drop(std::hint::black_box(feedback::read(message)));
        grows_with_its_input(&what, message, read);
    }
}

/// A search may have 2,000 bytes: as many as that cost ten times what 200 do, for each mail that is
/// looked at.
#[tokio::test]
async fn a_search_costs_what_its_words_are() {
    let capture = Capture::new(None);
    let postrider = Dispatcher::builder()
        .relay(Relay::capture(&capture))
        .spool_in_memory()
        .start()
        .await
        .unwrap();
    let mails = (0..300).map(|n| {
        let mail = Mail::builder().from("shop@example.com");
        let mail = mail.to(format!("ada{n}@example.org"));
        mail.subject("a".repeat(300)).text("x").build().unwrap()
    });
    for receipt in postrider.submit_many(mails.collect()).await {
        postrider.wait(receipt.unwrap().id).await.unwrap();
    }

    let searched = async |text: String| {
        let mut least = Duration::MAX;
        for _ in 0..9 {
            let began = std::time::Instant::now();
            let query = postrider.search(&text).unwrap();
            std::hint::black_box(postrider.count(query).await.unwrap());
            least = least.min(began.elapsed());
        }
        least
    };

    let values = |size: usize| format!("subject:{}", "b,".repeat(size / 2 - 5));
    let mut texts: Vec<(String, String)> = vec![(values(199), values(1999))];
    for piece in [
        "a ",
        "-b ",
        "to:ada ",
        "-to:b ",
        "subject:a ",
        "-domain:x ",
        "-code:4xx ",
        "-relay:x ",
        "-id:0123abcd ",
        "-key:x ",
        "-error:x ",
        "-from:x ",
        "-message-id:x ",
        "\"a b\" ",
        "after:1d ",
        "-state:dead ",
    ] {
        let text = |size: usize| piece.repeat(size / piece.len());
        texts.push((text(199), text(1999)));
    }

    for (short, long) in texts {
        let what = short.chars().take(20).collect::<String>();
        let (small, large) = (searched(short).await, searched(long).await);
        let bound = small.max(Duration::from_micros(300)) * MOST;
        assert!(
            large <= bound,
            "{what:?}: {small:?}, ten times as much {large:?}"
        );
    }

    assert!(postrider.search(&"a ".repeat(1001)).is_err());
}

#[test]
fn a_header_section_costs_what_its_size_is() {
    for (before, piece, after) in [
        ("", "X: y\r\n", "\r\n"),
        ("", "To: a@example.org\r\n", "\r\n"),
        ("", "X-Postrider-Tag: a\r\n", "\r\n"),
        ("", "Received: x\r\n", "\r\n"),
        ("", "MIME-Version: 1.0\r\n", "\r\n"),
        ("", "Content-Type: text/plain; boundary=a\r\n", "\r\n"),
        ("Subject: x\r\n", " y\r\n", "\r\n"),
        ("Subject: x\r\n", " =?utf-8?q?y?=\r\n", "\r\n"),
        ("Subject: x\r\n", " =?\r\n", "\r\n"),
        ("Subject: x\r\n", " =?utf-8?q?\r\n", "\r\n"),
        ("Subject: x\r\n", " =?a?b?=?b?\r\n", "\r\n"),
        ("Subject: x\r\n", " grün\r\n", "\r\n"),
        ("Subject: x\r\n", " \u{fffd}\r\n", "\r\n"),
        ("To: x\r\n", " (\r\n", "\r\n"),
        ("To: x\r\n", " (()\r\n", "\r\n"),
        ("To: x\r\n", " <\r\n", "\r\n"),
        ("To: x\r\n", " \"\r\n", "\r\n"),
        ("To: x\r\n", " ,\r\n", "\r\n"),
        ("To: x\r\n", " a:\r\n", "\r\n"),
        ("To: x\r\n", " a:;\r\n", "\r\n"),
        ("To: x\r\n", " a@\r\n", "\r\n"),
        ("To: x\r\n", " @a\r\n", "\r\n"),
        ("To: a@example.org\r\n", " , a@example.org\r\n", "\r\n"),
        ("To: a@example.org\r\n", " , zoë\r\n", "\r\n"),
        (
            "To: a@example.org\r\n",
            " , Zoë <a@example.org>\r\n",
            "\r\n",
        ),
        ("From: a@example.org\r\n", " (x\\)y)\r\n", "\r\n"),
        ("References: <a@b>\r\n", " <a@b>\r\n", "\r\n"),
        ("Content-Type: text/plain\r\n", " ; a=b\r\n", "\r\n"),
        ("Content-Type: text/plain\r\n", " ; boundary\r\n", "\r\n"),
        ("Subject: ", "y", "\r\n\r\n"),
        ("To: ", "y", "\r\n\r\n"),
        ("X: ", "y ", "\r\n\r\n"),
        ("X: ", "ü", "\r\n\r\n"),
        ("", "y", ""),
        ("", "\r\n", ""),
        ("", "From y\r\n", ""),
        ("", ">From y\r\n", ""),
        ("", "y\n", ""),
        ("", " y\n", ""),
        ("Subject: x\n", "\n", ""),
        ("Subject: x\r\n\r\n", "\r", ""),
        ("Subject: x\r\n\r\n", "ü", ""),
    ] {
        // A header section has an end at a megabyte, within which it is measured.
        let message = |size: usize| filled(before, piece, after, size.min(900_000));
        grows_with_its_input(
            &format!("{before:?} and {piece:?}"),
            message,
            |message: &Vec<u8>| take(message),
        );
    }
}

#[test]
fn addresses_cost_what_their_size_is() {
    for (before, piece, after) in [
        ("", "a", "@example.org"),
        ("a@", "b.", "org"),
        ("a@", "ü", ".org"),
        ("a@", "ü.", "org"),
        ("\"", "a", "\"@example.org"),
        ("\"", "\\\"", "\"@example.org"),
        ("", "(", "a@example.org"),
        ("", "()", "a@example.org"),
        ("", "a@", "example.org"),
        ("", "\"a\" ", "<a@example.org>"),
        ("", "<", "a@example.org>"),
        ("", "a,", "a@example.org"),
        ("", "a@b,", "a@example.org"),
        ("<", "@a,", ":a@example.org>"),
        ("", "=?utf-8?q?a?= ", "<a@example.org>"),
    ] {
        let text = |size| String::from_utf8(filled(before, piece, after, size)).unwrap();
        let built = |text: &String| {
            let builder = Mail::builder().from("shop@example.com").text("x");
            let _ = builder.clone().to(text.as_str()).build();
            let _ = builder.to("a@example.org").reply_to(text.as_str()).build();
        };
        grows_with_its_input(&format!("{before:?} and {piece:?}"), text, built);
    }
}

#[test]
fn composing_costs_what_its_size_is() {
    let base = || {
        Mail::builder()
            .from("shop@example.com")
            .to("ada@example.org")
    };

    let build = |builder: &MailBuilder| drop(builder.clone().build());
    let texts = ["a", "a ", "ü", "ü ", "=?", "\n", "\r", "=?utf-8?q?a?= "];
    for piece in texts {
        let text = |size: usize| String::from_utf8(filled("", piece, "", size)).unwrap();
        let in_text = |size| base().text(text(size)).html(text(size));
        grows_with_its_input(&format!("a text of {piece:?}"), in_text, build);
        let one_line = piece.replace(['\r', '\n'], "x");
        let line = |size: usize| String::from_utf8(filled("", &one_line, "", size)).unwrap();
        let in_subject = |size| {
            base()
                .text("x")
                .subject(line(size))
                .header("X-A", line(size))
        };
        grows_with_its_input(&format!("a subject of {piece:?}"), in_subject, build);
    }

    let recipients = |size: usize| {
        (0..size / 20).fold(base().text("x"), |mail, i| {
            mail.to(format!("Zoë {i} <zoe{i}@example.org>"))
        })
    };

    grows_with_its_input("recipients", recipients, build);
    let fields = |size: usize| {
        (0..size / 20).fold(base().text("x"), |mail, i| {
            mail.header(format!("X-{i}"), "ü")
        })
    };

    grows_with_its_input("fields", fields, build);
    let files = |inline: bool| {
        move |size: usize| {
            (0..size / 20).fold(base().html("x"), |mail, i| {
                mail.attachment(postrider::mail::Attachment {
                    filename: format!("{i}.png"),
                    content_type: "image/png".into(),
                    content: "x".into(),
                    inline_id: inline.then(|| i.to_string()),
                })
            })
        }
    };

    grows_with_its_input("files", files(false), build);
    grows_with_its_input("inline files", files(true), build);
}
