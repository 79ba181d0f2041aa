//! What comes back for mail, what is put into templates, and what is made of others' mail costs
//! what its size is.

use std::sync::Arc;

use postrider::transport::dkim::{Dkim, Rewriting, Signer, SigningKey};

use super::{filled, grows_with_its_input};

#[cfg(feature = "server")]
#[test]
fn events_of_providers_cost_what_their_size_is() {
    use postrider::ingress::http::exercise::provider_events;

    let event = r#"{"event": "bounce", "email": "a@b.example", "RecordType": "Bounce",
        "Type": "HardBounce"}"#;
    let repeated = format!("{event},");
    for (before, piece, after) in [
        ("[", repeated.as_str(), "{}]"),
        ("[", "[],", "[]]"),
        ("", "[", ""),
        ("{\"event\": \"", "bounce", "\"}"),
        ("{\"event\": \"", "\\u00e9", "\"}"),
        (
            "{\"event\": \"failed\", ",
            "\"email\": \"a@b\", ",
            "\"x\": 1}",
        ),
        (
            "{\"eventType\": \"Bounce\", \"bounce\": {\"bouncedRecipients\": [",
            "{\"emailAddress\": \"a@b.example\"},",
            "{}]}, \"mail\": {\"headers\": [{\"name\": \"Message-ID\", \"value\": \"<a@b>\"}]}}",
        ),
        (
            "{\"eventType\": \"Complaint\", \"complaint\": {\"complainedRecipients\": \
             [{\"emailAddress\": \"a@b\"}]}, \"mail\": {\"headers\": [",
            "{\"name\": \"X\", \"value\": \"y\"},",
            "{}]}}",
        ),
        (
            "{\"Type\": \"Notification\", \"Message\": \"",
            "\\\"",
            "\"}",
        ),
    ] {
        let body = |size: usize| filled(before, piece, after, size);
        let what = format!("{before:?} and {piece:?}");
        grows_with_its_input(&what, body, |body: &Vec<u8>| provider_events(body));
    }
}

#[cfg(feature = "server")]
#[test]
fn a_file_of_addresses_costs_what_its_size_is() {
    use postrider::ingress::http::exercise::suppression_file;

    for (before, piece) in [
        ("", "a@b.example\r\n"),
        ("", "a@b.example,bounce,news,,,a note\n"),
        ("address,reason\n", "a@b.example,complaint\n"),
        ("", "\"a@b.example\",\"bounce\"\n"),
        ("", "a@b.example,"),
        ("", ","),
        ("", "\""),
        ("", "\n"),
        ("", "\r"),
        ("", "a@"),
        ("address", ",address"),
        ("a@b.example,manual,,,,\"", "\"\""),
        ("", "nonsense\n"),
        ("", " \t"),
    ] {
        let file = |size: usize| filled(before, piece, "", size);
        let what = format!("{before:?} and {piece:?}");
        grows_with_its_input(&what, file, |file: &Vec<u8>| _ = suppression_file(file));
    }
}

#[cfg(feature = "server")]
#[test]
fn html_is_shown_at_the_cost_of_its_size() {
    use postrider::ingress::http::exercise::shown_html;

    // References, and what stands in a table where it may not, are bounded by their number instead.
    for (before, piece) in [
        ("", "<p>x"),
        ("", "<b>"),
        ("", "<b><p>"),
        ("", "<div class=\"a\" style=\"color:red\">x</div>"),
        ("", "<"),
        ("", "<!--"),
        ("", "<a "),
        ("<a ", "b=c "),
        ("<a href=\"", "x"),
        ("<a href=\"", "&amp"),
        ("", "<table><tr><td>"),
        ("", "<script>x</script>"),
        ("<style>", "</styl"),
        ("<style>", ".a{color:red}"),
        ("", "<img src=cid:a>"),
        ("", "</p>"),
        ("", "<svg><p>"),
        ("<select>", "<option>"),
    ] {
        let html = |size: usize| String::from_utf8(filled(before, piece, "", size)).unwrap();
        let what = format!("{before:?} and {piece:?}");
        grows_with_its_input(&what, html, |html: &String| drop(shown_html(html)));
    }
}

#[test]
fn a_signature_costs_what_its_message_is() {
    let key = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";
    let dkim = Dkim::new(vec![Signer {
        domain: "example.com".into(),
        selector: "s1".into(),
        key: Arc::new(SigningKey::from_pem(key.as_bytes()).unwrap()),
        skip_signed: true,
    }]);

    let from = "From: shop@example.com\r\n";
    let body = "From: shop@example.com\r\n\r\n";
    for (before, piece) in [
        (body, "\r\n"),
        (body, " \r\n"),
        (body, " "),
        (body, "\t x"),
        (body, "\r"),
        (body, "x\r\n"),
        (from, "Subject: x\r\n"),
        (from, "To: a@example.org\r\n"),
        (from, " more\r\n"),
        (from, "DKIM-Signature: d=example.org\r\n"),
        (from, "\r\n "),
        (from, "X:\r\n"),
        ("From: shop@example.com", ",a@example.com"),
        ("From: ", "(a) "),
        ("From: ", "("),
        ("From: shop@example.com\r\nDKIM-Signature: ", "d=a;"),
        ("Subject:", " \t"),
    ] {
        let message = |size: usize| filled(before, piece, "", size);
        let what = format!("{before:?} and {piece:?}");
        let sign = |message: &Vec<u8>| {
            let now = postrider::Timestamp::from_millis(1_700_000_000_000);
            std::hint::black_box(dkim.sign(message, now, Rewriting::None));
        };
        grows_with_its_input(&what, message, sign);
    }
}

#[cfg(feature = "templates")]
#[test]
fn a_template_costs_what_its_data_are() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("page/subject.txt", "For {{ x }}"),
        (
            "page/body.html",
            "<style>p { color: red }</style><p title=\"{{ x }}\">{{ x }}</p>\
             {% for one in list %}<li>{{ one }}</li>{% endfor %}",
        ),
        ("blocks/subject.txt", "For {{ x }}"),
        (
            "blocks/body.mjml",
            "<mjml><mj-body><mj-section><mj-column><mj-text>{{ x }}</mj-text>\
             {% for one in list %}<mj-text>{{ one }}</mj-text>{% endfor %}\
             </mj-column></mj-section></mj-body></mjml>",
        ),
    ] {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let templates = postrider::Templates::load(folder.path(), "en").unwrap();

    for template in ["page", "blocks"] {
        for piece in [
            "x",
            "<b>",
            "\"'",
            "&",
            "\r\n",
            " ",
            "ü",
            "{{ x }}",
            "aaaaaaaaaaaaaaaa ",
        ] {
            let data = |size: usize| {
                let text = piece.repeat(size / piece.len());
                serde_json::json!({"x": text, "list": []})
            };
            let render = |data: &serde_json::Value| {
                let _ = std::hint::black_box(templates.render(template, data, None));
            };
            grows_with_its_input(&format!("{template} of {piece:?}"), data, render);
        }
        let items = |size: usize| {
            let items: Vec<&str> = std::iter::repeat_n("x", size / 20).collect();
            serde_json::json!({"x": "", "list": items})
        };
        let render = |data: &serde_json::Value| {
            let _ = std::hint::black_box(templates.render(template, data, None));
        };
        grows_with_its_input(&format!("{template} of many"), items, render);
    }
}
