//! Templates from a folder, as a mail gets them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use super::{TemplateError, Templates};

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        write(folder.path(), name, text);
    }
    folder
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn load(files: &[(&str, &str)]) -> Templates {
    Templates::load(folder(files).path(), "en").unwrap()
}

fn mistakes(files: &[(&str, &str)]) -> String {
    let folder = folder(files);
    let mistakes = Templates::load(folder.path(), "en").unwrap_err();
    mistakes
        .to_string()
        .replace(&format!("{}/", folder.path().display()), "")
}

const HOSTILE: &str =
    "\"><script>alert(1)</script>'--></style></title>]]>{{ 7*7 }}\r\nBcc: eve@example.org";

#[test]
fn nothing_of_the_data_breaks_out_of_html() {
    let templates = load(&[
        ("t/subject.txt", "To {{ x }}"),
        (
            "t/body.html",
            "<style>p { color: red }</style><p title=\"{{ x }}\" id='{{ x }}'>{{ x }}</p>{% \
             include 'partials/foot.txt' %}",
        ),
        ("partials/foot.txt", "<i>{{ x }}</i>"),
    ]);

    let content = templates.render("t", json!({"x": HOSTILE}), None).unwrap();
    let html = content.html.unwrap();
    assert!(!html.contains("<script"), "{html}");
    assert!(
        html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"),
        "{html}"
    );

    assert!(!html.contains("49"), "data is no template: {html}");
    assert_eq!(html.matches("<p ").count(), 1, "{html}");
    assert!(html.contains("style=\"color: red"), "{html}");

    let subject = content.subject.unwrap();
    assert!(
        subject.starts_with("To \"><script>") && !subject.contains(['\r', '\n']),
        "{subject}"
    );

    assert!(
        content.text.unwrap().contains("<script>alert(1)</script>"),
        "text shows it as it is"
    );
}

#[test]
fn nothing_of_the_data_breaks_out_of_mjml() {
    let templates = load(&[
        ("t/subject.txt", "s"),
        (
            "t/body.mjml",
            "<mjml><mj-head><mj-title>{{ x }}</mj-title><mj-preview>{{ x }}</mj-preview>\
             </mj-head><mj-body><mj-section><mj-column>\
             <mj-text css-class=\"{{ x }}\">{{ x }}</mj-text>\
             <mj-button href=\"https://example.com/{{ x }}\">{{ x }}</mj-button>\
             <mj-image src='/{{ x }}' alt=\"{{ x }}\"/><mj-table><tr><td>{{ x }}</td></tr>\
             </mj-table><mj-raw><b>{{ x }}</b></mj-raw>\
             </mj-column></mj-section></mj-body></mjml>",
        ),
    ]);

    let plain = templates
        .render("t", json!({"x": "calm"}), None)
        .unwrap()
        .html
        .unwrap();

    let html = templates
        .render("t", json!({"x": HOSTILE}), None)
        .unwrap()
        .html
        .unwrap();

    assert!(!html.contains("<script"), "{html}");
    // The same elements, whatever stands in them.
    assert_eq!(
        html.matches('<').count(),
        plain.matches('<').count(),
        "{html}"
    );

    assert_eq!(html.matches("-->").count(), plain.matches("-->").count());
    assert_eq!(html.matches('"').count(), plain.matches('"').count());
}

#[test]
fn a_language_falls_back_and_a_mail_is_in_one_language() {
    let templates = load(&[
        ("t/subject.txt", "Hello {{ name }}"),
        ("t/body.html", "<p>Hello {{ name }}</p>"),
        ("t/body.txt", "Hello in text {{ name }}"),
        ("t/template.toml", "[defaults]\nname = \"friend\""),
        ("t/pt/subject.txt", "Oi {{ name }}"),
        ("t/pt/body.html", "<p>Oi {{ name }}, {{ locale }}</p>"),
        ("t/pt/template.toml", "[defaults]\nname = \"amigo\""),
        ("t/de/subject.txt", "Hallo {{ name }}"),
    ]);

    let render = |locale| templates.render("t", json!({}), locale).unwrap();
    let portuguese = render(Some("pt_BR"));
    assert_eq!(portuguese.subject.as_deref(), Some("Oi amigo"));
    assert_eq!(portuguese.template.locale.as_deref(), Some("pt"));
    assert!(
        portuguese.text.unwrap().contains("Oi amigo, pt"),
        "made from its HTML"
    );

    let german = render(Some("de"));
    assert_eq!(german.subject.as_deref(), Some("Hallo friend"));
    assert_eq!(german.text.as_deref(), Some("Hello in text friend"));
    for other in [None, Some("fr-CA")] {
        let english = render(other);
        assert_eq!(
            english.subject.as_deref(),
            Some("Hello friend"),
            "{other:?}"
        );
        assert_eq!(english.template.locale.as_deref(), Some("en"));
    }

    assert!(matches!(
        templates.render("t", json!({}), Some("../x")),
        Err(TemplateError::Locale(_))
    ));
}

#[test]
fn a_missing_variable_is_named_with_its_file_and_line() {
    let templates = load(&[
        ("t/subject.txt", "s"),
        (
            "t/body.html",
            "<p>\n{% if nick %}{{ nick }}{% endif %}\n{{ user.name|upper }}</p>{{ none }}",
        ),
    ]);

    let missing = |data| templates.render("t", data, None).unwrap_err();
    for data in [json!({}), json!({"user": {}})] {
        let TemplateError::Render {
            file,
            line,
            variable,
            reason,
        } = missing(data.clone())
        else {
            panic!("{data}")
        };
        assert_eq!((file.as_str(), line), ("t/body.html", Some(3)), "{reason}");
        assert!(
            ["user.name", "user"].contains(&variable.as_deref().unwrap()),
            "{variable:?}"
        );
    }

    let content = templates
        .render("t", json!({"user": {"name": "Ada"}, "none": null}), None)
        .unwrap();
    assert!(!content.html.unwrap().contains("none"), "null says nothing");
    assert!(matches!(missing(json!([1])), TemplateError::Data(_)));

    let unknown = templates.render("no", json!({}), None);
    assert!(matches!(unknown, Err(TemplateError::Unknown(_))));
}

#[test]
fn a_value_that_may_not_stand_where_it_does_is_named_with_its_file_line_and_scheme() {
    let templates = load(&[
        ("t/subject.txt", "{{ user.url }}"),
        ("t/body.html", "<p>\n{% include 'partials/link.html' %}</p>"),
        (
            "partials/link.html",
            "<a\n  href=\"{{ user.url }}\"\n>l</a>\n<p style=\"color: {{ c|upper }}\">",
        ),
    ]);

    let failed = |url, c| {
        let data = json!({"user": {"url": url}, "c": c});
        match templates.render("t", data, None).unwrap_err() {
            TemplateError::Render {
                file,
                line,
                variable,
                reason,
            } => (file, line, variable, reason),
            other => panic!("{other}"),
        }
    };
    let link = "partials/link.html".to_owned();
    let (file, line, variable, reason) = failed(json!("JavaScript:x"), "red");
    assert_eq!((file, line), (link.clone(), Some(2)), "{reason}");
    assert_eq!(variable.as_deref(), Some("user.url"));
    let told = "{{ user.url }} begins an address in href with `javascript:`: http, https, mailto, \
                tel, sms, cid or none may stand there, or mark it |safe";
    assert_eq!(reason, told);

    let (file, line, variable, reason) = failed(json!("/"), "red; x");
    assert_eq!((file, line, variable), (link, Some(4), None), "{reason}");
    let told = "{{ c|upper }} has `;`, which a value in the CSS of style may not have; or mark it \
                |safe";
    assert_eq!(reason, told);

    // What is missing is told as elsewhere.
    let missing = templates.render("t", json!({"user": {}, "c": 1}), None);
    assert!(
        missing
            .unwrap_err()
            .to_string()
            .contains("`user.url` is missing")
    );
    assert!(
        templates
            .render("t", json!({"user": {"url": null}, "c": null}), None)
            .is_ok()
    );
}

#[test]
fn a_render_ends_whatever_the_data() {
    let templates = load(&[
        (
            "loop/subject.txt",
            "{% for i in range(n) %}{% for j in range(n) %}x{% endfor %}{% endfor %}",
        ),
        ("loop/body.txt", "b"),
        ("long/subject.txt", "s"),
        (
            "long/body.txt",
            "{% for i in range(n) %}{{ text }}{% endfor %}",
        ),
        ("held/subject.txt", "s"),
        (
            "held/body.txt",
            "{% set x %}{% for i in range(n) %}{{ text }}{% endfor %}{% endset %}b",
        ),
        ("deep/subject.txt", "s"),
        ("deep/body.txt", "{% include 'deep/body.txt' %}"),
    ]);

    let text = "x".repeat(100_000);
    for name in ["loop", "long", "held", "deep"] {
        let data = json!({"n": 90_000, "text": text});
        let stopped = templates.render(name, data, None).unwrap_err();
        assert!(
            matches!(stopped, TemplateError::Render { .. }),
            "{name}: {stopped}"
        );
    }
}

/// What a number in the data may make of a template that somebody wrote in good faith.
#[test]
fn a_number_in_the_data_makes_nothing_grow_without_bounds() {
    let parts = [
        ("times", "{{ '-' * n }}"),
        ("list", "{% for x in [1] * n %}{{ x }}{% endfor %}"),
        ("batch", "{{ [1]|batch(n, 0)|length }}"),
        ("slice", "{{ [1]|slice(n, 0)|length }}"),
        ("indent", "{{ text|indent(n) }}"),
        ("join", "{{ range(n)|join(text) }}"),
    ];
    let text = "x\n".repeat(10_000);
    for (name, body) in parts {
        let file = format!("{name}/body.txt");
        let templates = load(&[(&file, body)]);
        for n in [90_000, 40_000_000, u64::MAX] {
            let data = json!({"n": n, "text": text});
            let begun = std::time::Instant::now();
            let made = templates.render(name, data, None);
            assert!(made.is_err() || n == 90_000, "{name} {n}");
            assert!(
                begun.elapsed().as_secs() < 5,
                "{name} {n}: {:?}",
                begun.elapsed()
            );
        }
    }
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let files = folder(&[("t/subject.txt", "s")]);
    let pipe = files.path().join("t/body.txt");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let told = Templates::load(files.path(), "en").unwrap_err().to_string();
    assert!(
        told.contains("t/body.txt: cannot be read: is not a file"),
        "{told}"
    );

    // Nor does a folder that leads back to itself go on for ever.
    let files = folder(&[("t/body.txt", "b"), ("layouts/a.html", "a")]);
    std::os::unix::fs::symlink("..", files.path().join("layouts/back")).unwrap();
    let told = Templates::load(files.path(), "en").unwrap_err().to_string();
    assert!(told.contains("is nested too deep"), "{told}");
}

#[test]
fn layouts_partials_and_css_come_together() {
    let templates = load(&[
        (
            "layouts/base.html",
            "<html><head><style>h1 { color: #123456 } @media (max-width: 400px) { h1 { color: red \
             } }</style></head>\
             <body>{% block content %}{% endblock %}{% include \"partials/foot.html\" %}</body>\
             </html>",
        ),
        ("partials/foot.html", "<p>by {{ company }}</p>"),
        ("t/subject.txt", "s\n"),
        (
            "t/body.html",
            "{% extends \"layouts/base.html\" %}{% block content %}<h1>{{ title }}</h1>{% endblock \
             %}",
        ),
    ]);

    let content = templates
        .render("t", json!({"company": "Shop", "title": "News"}), None)
        .unwrap();
    let html = content.html.unwrap();
    assert!(html.contains("<h1 style=\"color: #123456"), "{html}");
    assert!(html.contains("@media (max-width: 400px)"), "{html}");

    let text = content.text.unwrap();
    assert!(
        text.contains("# News") && text.contains("by Shop") && !text.contains("color"),
        "{text}"
    );

    let [info] = &templates.list()[..] else {
        panic!()
    };
    assert_eq!(info.variables, ["company", "title"]);
}

#[test]
fn what_is_wrong_with_a_folder_is_named_with_file_and_line() {
    let told = mistakes(&[
        ("broken/subject.txt", "s"),
        ("broken/body.html", "<p>\n{% if x %}\n</p>"),
        ("lost/subject.txt", "s"),
        (
            "lost/body.html",
            "\n{# {% include 'gone' %} #}{% include \"partials/no.html\" %}",
        ),
        ("empty/readme.md", "x"),
        ("both/body.html", "x"),
        ("both/body.mjml", "x"),
        ("odd/body.htm", "x"),
        ("keys/body.txt", "x"),
        ("keys/template.toml", "\n\ndefault = 1"),
    ]);

    for part in [
        "broken/body.html:3: ",
        "lost/body.html:2: there is no partials/no.html",
        "empty: has neither",
        "both/body.mjml: exists beside body.html",
        "odd/body.htm: is not one of",
        "keys/template.toml:3: unknown field `default`",
    ] {
        assert!(told.contains(part), "{part} is not in:\n{told}");
    }

    assert!(!told.contains("gone"), "{told}");
    let told = mistakes(&[
        ("t/subject.txt", "s"),
        ("t/body.html", "<p>\n{{ code }}</p>"),
        ("t/template.toml", "[sample]\nkode = 1"),
        ("m/subject.txt", "s"),
        ("m/body.mjml", "<mjml><mj-body><mj-colum></mj-body></mjml>"),
        ("m/template.toml", "[sample]"),
    ]);

    assert!(told.contains("t/body.html:2: `code` is missing"), "{told}");
    assert!(told.contains("m/body.mjml: "), "{told}");
}

#[test]
fn a_reload_is_whole_or_changes_nothing() {
    let files = folder(&[("a/body.txt", "one"), ("b/body.txt", "one")]);
    let templates = Templates::load(files.path(), "en").unwrap();
    let said = |name| {
        templates
            .render(name, json!({}), None)
            .unwrap()
            .text
            .unwrap()
    };
    let before = templates.list();

    write(files.path(), "a/body.txt", "two");
    write(files.path(), "b/body.txt", "{{ oh");
    let mistakes = templates.reload().unwrap_err();
    assert!(
        mistakes.to_string().contains("b/body.txt:1: "),
        "{mistakes}"
    );
    assert_eq!((said("a"), said("b")), ("one".into(), "one".into()));

    write(files.path(), "b/body.txt", "two");
    templates.reload().unwrap();
    assert_eq!((said("a"), said("b")), ("two".into(), "two".into()));
    assert_ne!(templates.list(), before, "the hash tells versions apart");
}

#[test]
fn the_same_request_is_the_same_whatever_the_template_became() {
    let files = folder(&[("a/body.txt", "one {{ x }}{{ y }}")]);
    let templates = Templates::load(files.path(), "en").unwrap();
    let mail = |data: serde_json::Value| {
        let mail = templates.mail("a", data, None).unwrap();
        mail.from("a@example.org")
            .to("b@example.org")
            .build()
            .unwrap()
            .fingerprint()
    };

    let before = mail(json!({"x": 1, "y": {"b": 1, "a": 2}}));
    write(files.path(), "a/body.txt", "two {{ x }}{{ y }}");
    templates.reload().unwrap();
    assert_eq!(mail(json!({"y": {"a": 2, "b": 1}, "x": 1})), before);
    assert_ne!(mail(json!({"x": 2, "y": {"b": 1, "a": 2}})), before);
}
