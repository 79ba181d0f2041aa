//! What must hold for any body that the HTTP door is given, for the fuzz target and for the plain
//! test over its corpus.

use postrider::ingress::http::read_mail;

/// A body is a mail whose every header line is one that was meant, or a problem that says where it
/// is not.
pub fn json_mail(body: &[u8]) {
    match read_mail(body) {
        Ok(mail) => {
            let message = mail.message();
            assert!(!message.contains(&0), "a NUL");
            assert!(!mail.envelope().recipients().is_empty());
            let end = message
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
                .expect("a header section");
            let header = String::from_utf8(message[..end].to_vec()).expect("a header in UTF-8");
            for line in header.split("\r\n") {
                assert!(!line.contains(['\r', '\n']), "a line end alone in {line:?}");
                let is_field = line
                    .split_once(':')
                    .is_some_and(|(name, _)| !name.is_empty() && !name.contains(' '));
                assert!(
                    line.starts_with([' ', '\t']) || is_field,
                    "no header field: {line:?}"
                );
                assert!(
                    !line.to_ascii_lowercase().starts_with("bcc:"),
                    "a blind copy shows"
                );
            }
        }
        Err(problem) => {
            assert!([400, 413, 422].contains(&problem.status()), "{problem}");
            for pointer in problem.pointers() {
                assert!(pointer.is_empty() || pointer.starts_with('/'), "{problem}");
            }
            assert!(
                problem.status() != 422 || (1..=32).contains(&problem.pointers().count()),
                "{problem}"
            );
        }
    }
}
