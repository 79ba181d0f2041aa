//! Whatever bytes come: the session's promises hold, over what proptest makes up. The corpus of
//! the fuzzer is in `tests/it/corpus.rs`.

use postrider::ingress::smtp::exercise;
use proptest::prelude::*;

/// What dialogues are made of, well and badly.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "EHLO x\r\n",
        "HELO x\r\n",
        "MAIL FROM:<a@example.org>\r\n",
        "MAIL FROM:<> SMTPUTF8\r\n",
        "RCPT TO:<b@example.org>\r\n",
        "RCPT TO:<\"q r\"@example.org>\r\n",
        "DATA\r\n",
        "BDAT 5\r\n",
        "BDAT 3 LAST\r\n",
        "BDAT 0 LAST\r\n",
        "RSET\r\n",
        "NOOP\r\n",
        "QUIT\r\n",
        "STARTTLS\r\n",
        "AUTH PLAIN\r\n",
        "AUTH PLAIN AGFwcABzZWNyZXQ=\r\n",
        "AUTH LOGIN\r\n",
        "YXBw\r\n",
        "c2VjcmV0\r\n",
        "*\r\n",
        "A: 1\r\n",
        "\r\n",
        "\r\n.\r\n",
        ".\r\n",
        ".",
        "\r",
        "\n",
        "\n.\n",
        "\r.\r",
        "<",
        ">",
        "\"",
        "\\",
        ":",
        "@",
        " ",
        "\0",
        "é",
    ]);

    prop_oneof![
        12 => known.prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
        1 => (any::<u8>(), 0..3000_usize).prop_map(|(byte, times)| vec![byte; times]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_dialogue_holds(choice in any::<u8>(), hello in any::<bool>(),
        pieces in prop::collection::vec(piece(), 0..40)) {
        let mut bytes = vec![choice];
        bytes.extend_from_slice(if hello { b"EHLO x\r\n" } else { b"" });
        bytes.extend(pieces.into_iter().flatten());
        exercise(&bytes);
    }
}
