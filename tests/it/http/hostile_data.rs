//! Data that try to be more than the text that a template puts them in as.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use postrider::Templates;
use postrider::ingress::http::Limits;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::service::{Answer, Service};

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn load(files: &[(&str, &str)]) -> Templates {
    Templates::load(folder(files).path(), "en").unwrap()
}

async fn service(folder: &Path) -> Service {
    let templates = Templates::load(folder, "en").unwrap();
    Service::with(Vec::new(), Limits::default(), |engine| {
        engine.templates(templates)
    })
    .await
}

async fn submit(service: &Service, name: &str, data: &Value) -> Answer {
    let mail = json!({"from": "shop@example.com", "to": "ada@example.org",
        "template": {"name": name, "data": data}});
    service.json("POST", "/v1/mails", &mail).await
}

/// What ends a text, a tag, an attribute, a comment, a style, a script, a template, or a line.
const BREAKOUTS: [&str; 20] = [
    "<img src=x onerror=alert(1)>",
    "</p></td></table></body></html><script>alert(1)</script>",
    "\"><script>alert(1)</script>",
    "'><script>alert(1)</script>",
    "\" onmouseover=\"alert(1)",
    "' onmouseover='alert(1)",
    "x onmouseover=alert(1) ",
    "`><script>alert(1)</script>",
    "--><script>alert(1)</script><!--",
    "--!><script>alert(1)</script>",
    "]]><script>alert(1)</script><![CDATA[",
    "</style><script>alert(1)</script><style>",
    "</title><script>alert(1)</script>",
    "</mj-text><mj-raw><script>alert(1)</script></mj-raw><mj-text>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)&#x3c;/script&#x3e;",
    "\u{f7e1}script\u{f7e2}alert(1)\u{f7e1}/script\u{f7e2}",
    "{{ 7 * 7 }}{% include 'secret/body.txt' %}{# x #}",
    "<mj-include path=\"/etc/passwd\" /><!-- htmlmin:ignore -->",
    "\u{0}\u{8}\u{1b}[31m\u{202e}<b>\u{2028}\r\n\r\n<i>",
];

/// The names of the elements of HTML and of their attributes, in order, as a reader of HTML meets
/// them who knows of nothing but quotation marks.
fn structure(html: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = html;
    while let Some((_, after)) = rest.split_once('<') {
        if let Some(comment) = after.strip_prefix("!--") {
            rest = comment.split_once("-->").unwrap_or_default().1;
            continue;
        }
        let (mut quote, mut end) = (None, after.len());
        for (at, c) in after.char_indices() {
            match quote {
                Some(mark) if c == mark => quote = None,
                None if c == '"' || c == '\'' => quote = Some(c),
                None if c == '>' => {
                    end = at;
                    break;
                }
                _ => {}
            }
        }
        let tag = &after[..end];
        let mut outside = String::new();
        let mut quote = None;
        for c in tag.chars() {
            match quote {
                Some(mark) if c == mark => quote = None,
                None if c == '"' || c == '\'' => quote = Some(c),
                None => outside.push(c),
                _ => {}
            }
        }
        found.push(outside.split_whitespace().collect::<Vec<_>>().join(" "));
        rest = &after[end..];
    }
    found
}

#[test]
fn data_are_text_wherever_they_stand_in_html_and_mjml() {
    let templates = load(&[
        ("page/subject.txt", "{{ x }}"),
        (
            "page/body.html",
            "<!doctype html><html><head><title>{{ x }}</title>\
             <style>p { color: red } @media print { b { color: red } }</style></head>\
             <body><!-- {{ x }} --><p class=\"a\" title=\"{{ x }}\" id='{{ x }}'>{{ x }}</p>\
             <p style=\"color: red\" lang='{{ x }}'>x</p>\
             <a href=\"https://example.com/{{ x }}?q={{ x|urlencode }}\">l</a>\
             <a href=\"{{ x|urlencode }}\">l</a><img src='/{{ x }}' alt=\"{{ x|upper }}\">\
             <textarea>{{ x }}</textarea>\
             {{ ('<b>' ~ x)|e }}{% set y %}{{ x }}{% endset %}<i title=\"{{ y }}\">{{ y }}</i>\
             {% macro bold(z) %}<b title=\"{{ z }}\">{{ z }}</b>{% endmacro %}{{ bold(x) }}\
             {% for key, one in more|items %}<u title=\"{{ key }}\">{{ key }}: {{ one }}</u>\
             {% endfor %}</body></html>",
        ),
        (
            "blocks/body.mjml",
            "<mjml><mj-head><mj-title>{{ x }}</mj-title><mj-preview>{{ x }}</mj-preview>\
             <mj-style>p { color: red }</mj-style></mj-head><mj-body>\
             <mj-section><mj-column>\
             <mj-text css-class=\"{{ x }}\"><p title=\"{{ x }}\">{{ x }}</p></mj-text>\
             <mj-button href=\"https://example.com/?q={{ x }}\" title=\"{{ x }}\">{{ x \
             }}</mj-button>\
             <mj-image src='/{{ x }}' href=\"/{{ x }}\" alt=\"{{ x }}\"/>\
             <mj-table><tr><td>{{ x }}</td></tr></mj-table>\
             <mj-social><mj-social-element name=\"facebook\" href=\"/{{ x }}\">{{ x }}\
             </mj-social-element></mj-social><mj-raw><b title=\"{{ x }}\">{{ x }}</b></mj-raw>\
             </mj-column></mj-section></mj-body></mjml>",
        ),
    ]);

    for name in ["page", "blocks"] {
        let rendered = |x: &str| {
            let data = json!({"x": x, "more": {x: x}});
            templates.render(name, data, None).map(|content| {
                let subject = content.subject.unwrap_or_default();
                assert!(!subject.chars().any(char::is_control), "{subject:?}");
                content.html.unwrap()
            })
        };
        // A style of which nothing is understood is left out.
        let structure = |html: &str| {
            let mut found = structure(html);
            found.retain(|tag| tag != "style" && tag != "/style");
            found
        };
        let calm = structure(&rendered("calm").unwrap());
        for hostile in BREAKOUTS {
            // No XML, and so no MJML, has a NUL.
            let is_read = name == "page" || !hostile.contains('\0');
            let html = match rendered(hostile) {
                Ok(html) => html,
                Err(error) => {
                    assert!(!is_read, "{name} {hostile:?}: {error}");
                    continue;
                }
            };
            assert_eq!(structure(&html), calm, "{name} {hostile:?}:\n{html}");
            assert!(!html.contains("49"), "{name} {hostile:?}:\n{html}");
        }
    }
}

/// A template for each of these bodies, `t0` and so on, with what they include and extend.
fn bodies(bodies: &[&str]) -> TempDir {
    let mut files = vec![
        ("partials/address.txt".to_owned(), "{{ x }}"),
        ("partials/style.css.txt".to_owned(), "p { color: {{ x }} }"),
        (
            "layouts/link.html".to_owned(),
            "<a href=\"{% block url %}{% endblock %}\">l</a>",
        ),
        (
            "layouts/style.html".to_owned(),
            "<style>{% block css %}a { color: red }{% endblock %}</style>",
        ),
        (
            "layouts/deep.html".to_owned(),
            "{% extends 'layouts/style.html' %}{% block css %}{{ super() }}\
             {% block more %}{% endblock %}{% endblock %}",
        ),
        (
            "partials/macros.html".to_owned(),
            "{% macro link(to) %}<a href=\"{{ to }}\">l</a>{% endmacro %}\
             {% macro address(to) %}{{ to }}{% endmacro %}",
        ),
    ];
    for (n, body) in bodies.iter().enumerate() {
        let is_mjml = body.starts_with("<mj");
        let kind = if is_mjml { "mjml" } else { "html" };
        files.push((format!("t{n}/body.{kind}"), body));
        files.push((format!("t{n}/subject.txt"), "s"));
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (&**name, *text)).collect();
    folder(&files)
}

/// Of these bodies each refuses each of these values, of which nothing is accepted, and names
/// itself and what is wrong.
async fn refuse(bodies_of: &[&str], hostile: &[(&str, &str)]) {
    let files = bodies(bodies_of);
    let service = service(files.path()).await;
    for (n, body) in bodies_of.iter().enumerate() {
        for (value, told) in hostile {
            let data = json!({"x": value, "no": false, "yes": true, "list": [value]});
            let answer = submit(&service, &format!("t{n}"), &data).await;
            assert_eq!(answer.status, 422, "{body} {value:?}: {}", answer.text());
            let problem = answer.value();
            let text = problem["errors"][0]["detail"].as_str().unwrap();
            assert!(text.contains(told), "{body} {value:?}: {text}");
            assert!(text.contains(", line 1: {{ "), "{body} {value:?}: {text}");
            let pointer = &answer.pointers()[0];
            let is_named = pointer.starts_with("/template");
            assert!(is_named, "{body} {value:?}: {pointer}");
        }
    }
    service.dispatcher.wait_idle().await;
    assert!(service.capture.captured().is_empty());
}

async fn take(bodies_of: &[&str], values: &[&str]) {
    let files = bodies(bodies_of);
    let service = service(files.path()).await;
    for (n, body) in bodies_of.iter().enumerate() {
        for value in values
            .iter()
            .map(|x| json!(x))
            .chain([Value::Null, json!(7)])
        {
            let data = json!({"x": value, "no": false, "yes": true, "list": [value]});
            let answer = submit(&service, &format!("t{n}"), &data).await;
            assert_eq!(answer.status, 202, "{body} {value}: {}", answer.text());
        }
    }
}

/// Where the data may say what an address leads to.
const ADDRESSES: [&str; 34] = [
    "<a href=\"{{ x }}\">l</a>",
    "<A HREF = ' {{- x -}} '>l</A>",
    "<a class=\"c\" href=\" {{ x }}\">l</a>",
    "<a href=\"{{ x|trim }}/path\">l</a>",
    "<a href=\"{{ 'e' if no else x }}\">l</a>",
    "<a href=\"{{ {'a': {'b': x}}['a']['b'] }}\">l</a>",
    "<a href=\"{{ '}}' if no else x }}\">l</a>",
    "<a href=\"{{ x|e }}\">l</a>",
    "<a href=\"{{ '' ~ x|safe if no else x }}\">l</a>",
    "<form action=\"{{ x }}\"><button formaction='{{ x }}'>b</button></form>",
    "<body background=\"{{ x }}\">b</body>",
    "<video poster=\"{{ x }}\"></video>",
    "<img src=\"{{ x }}\">",
    "<iframe src=\"{{ x }}\"></iframe>",
    "<img srcset=\"{{ x }} 2x\">",
    "<img srcset=\"/a.png 1x, {{ x }} 2x\">",
    "<img srcset=\"/a.png{{ ', ' ~ x }} 2x\">",
    "<svg><a xlink:href=\"{{ x }}\">l</a></svg>",
    "<blockquote cite=\"{{ x }}\">q</blockquote>",
    "<object data=\"{{ x }}\"></object>",
    "<a href=\"/\" ping=\"{{ x }}\">l</a>",
    "<!--[if mso]><v:roundrect href=\"{{ x }}\"><![endif]-->",
    "<!--[if !mso]><!--><a href=\"{{ x }}\">l</a><!--<![endif]-->",
    "<a href=\"{% if no %}https://example.com/{% else %}{{ x }}{% endif %}\">l</a>",
    "<a href=\"{% if no %}https://example.com{% endif %}{{ x }}\">l</a>",
    "<a href=\"{% for one in list %}{{ one }}/{% endfor %}\">l</a>",
    "<a href=\"{% include 'partials/address.txt' %}\">l</a>",
    "{% extends 'layouts/link.html' %}{% block url %}{{ x }}{% endblock %}",
    "{% from 'partials/macros.html' import link %}{{ link(x) }}",
    "{% import 'partials/macros.html' as m %}<a href=\"{{ m.address(x) }}\">l</a>",
    "{% set y %}{{ x }}{% endset %}<a href=\"{{ y }}\">l</a>",
    "<mjml><mj-body><mj-section><mj-column><mj-button href=\"{{ x }}\">b</mj-button>\
     </mj-column></mj-section></mj-body></mjml>",
    "<mjml><mj-body><mj-section><mj-column><mj-image src='{{ x }}' /></mj-column></mj-section>\
     </mj-body></mjml>",
    "<mjml><mj-body><mj-section><mj-column><mj-text><a href=\"{{ x }}\">l</a></mj-text>\
     </mj-column></mj-section></mj-body></mjml>",
];

#[tokio::test]
async fn data_do_not_choose_what_an_address_runs() {
    let hostile = [
        ("javascript:alert(1)", "`javascript:`"),
        ("JaVaScRiPt:alert(1)", "`javascript:`"),
        (" \r\n\tjavascript:alert(1)", "`javascript:`"),
        ("java\tscri\npt\r:alert(1)", "`javascript:`"),
        ("\u{1}\u{1f}javascript\u{0}:alert(1)", "`javascript:`"),
        ("\u{a0}\u{feff}java\u{ad}script:alert(1)", "`javascript:`"),
        ("\u{202e}javascript\u{200b}:alert(1)", "`javascript:`"),
        ("&#106;avascript:alert(1)", "`"),
        ("&#x6A;&#97vascript&#0000058;alert(1)", "`javascript:`"),
        ("javascript&colon;alert(1)", "`javascript:`"),
        ("javascript&amp;colon;alert(1)", "`javascript:`"),
        ("java&Tab;script&NewLine;:alert(1)", "`java"),
        ("javascript:https://example.com/", "`javascript:`"),
        ("javascript://example.com/%0aalert(1)", "`javascript:`"),
        ("vbscript:msgbox(1)", "`vbscript:`"),
        ("data:text/html,<script>alert(1)</script>", "`data:`"),
        ("data:text/html;base64,PHNjcmlwdD4=", "`data:`"),
        ("Data:,x", "`data:`"),
        ("livescript:x", "`livescript:`"),
        ("file:///etc/passwd", "`file:`"),
        ("view-source:javascript:x", "`view-source:`"),
        ("blob:https://example.com/1", "`blob:`"),
        (":alert(1)", "`:`"),
    ];
    refuse(&ADDRESSES, &hostile).await;

    // A picture may be in the address of a picture, and nowhere else.
    let picture = "data:image/png;base64,AAAA";
    refuse(
        &[
            "<a href=\"{{ x }}\">l</a>",
            "<iframe src=\"{{ x }}\"></iframe>",
        ],
        &[
            (picture, "`data:`"),
            ("data:image/svg+xml,<svg/>", "`data:`"),
        ],
    )
    .await;
    take(
        &[
            "<img src=\"{{ x }}\">",
            "<img srcset=\"{{ x }} 2x\">",
            "<body background=\"{{ x }}\">b</body>",
        ],
        &[picture],
    )
    .await;

    let harmless = [
        "https://example.com/?a=1&b=2&colon=3:4",
        "HTTP://example.com",
        "mailto:ada@example.org?subject=a:b",
        "tel:+49-221-1",
        "sms:+4922112",
        "cid:logo@example.com",
        "//example.com/a:b",
        "/a:b",
        "page.html",
        "a/b:c",
        "?a=b:c",
        "#a:b",
        "",
    ];
    take(&ADDRESSES, &harmless).await;

    // Where the template itself said it, and where its author answers for it.
    let scripts = ["javascript:alert(1)", "data:text/html,x"];
    take(
        &[
            "<a href=\"https://example.com/?a={{ x }}&amp;b={{ x|urlencode }}\">l</a>",
            "<a href=\"shop://{{ x }}\">l</a>",
            "<a href=\"/{{ x }}\">l</a>",
            "<a href=\"{{ x|urlencode }}\">l</a>",
            "<a href=\"{{ x|safe }}\">l</a>",
            "<a href=\"{{ x|trim|safe }}\" title=\"{{ x }}\">{{ x }}</a>",
            "<a href=\"{% if yes %}/{{ x }}{% endif %}\" data-x=\"{{ x }}\">l</a>",
            "<a href=\"/\" title=\"{{ x }}\">l</a>{# <a href=\"{{ x }}\"> #}<p>href=\"{{ x }}\"",
        ],
        &scripts,
    )
    .await;
}

#[tokio::test]
async fn data_are_one_value_of_css_and_no_more() {
    let styles = [
        "<p style=\"color: {{ x }}\">p</p>",
        "<p style='color: red; width: {{ x }}px'>p</p>",
        "<p style=\"{{ x }}\">p</p>",
        "<p style=\"background: url('{{ x }}')\">p</p>",
        "<p style=\"{% if no %}color: red{% else %}color: {{ x }}{% endif %}\">p</p>",
        "{% set y %}{{ x }}{% endset %}<p style=\"color: {{ y }}\">p</p>",
        "<!--[if mso]><td style=\"width: {{ x }}\"></td><![endif]-->",
        "<style>p { color: {{ x }} } </style><p>p</p>",
        "<style>{% include 'partials/style.css.txt' %}</style><p>p</p>",
        "{% extends 'layouts/style.html' %}{% block css %}{{ super() }}p { color: {{ x }} }\
         {% endblock %}",
        "{% extends 'layouts/deep.html' %}{% block more %}p { color: {{ x }} }{% endblock %}",
        "<mjml><mj-head><mj-style>p { color: {{ x }} }</mj-style></mj-head><mj-body>\
         <mj-section><mj-column></mj-column></mj-section></mj-body></mjml>",
        "<mjml><mj-head><mj-attributes><mj-all color=\"{{ x }}\" /></mj-attributes></mj-head>\
         <mj-body><mj-section><mj-column><mj-text>t</mj-text></mj-column></mj-section></mj-body>\
         </mjml>",
        "<mjml><mj-body><mj-section padding='{{ x }}'><mj-column><mj-text>t</mj-text>\
         </mj-column></mj-section></mj-body></mjml>",
    ];
    let hostile = [
        ("red; background: blue", "`;`"),
        ("red} body { display: none", "`}`"),
        ("{", "`{`"),
        ("red\" onclick=\"x", "`\"`"),
        ("'", "`'`"),
        ("`", "``"),
        ("</style><script>alert(1)</script>", "`<`"),
        ("--><script>", "`>`"),
        ("expression(alert(1))", "`(`"),
        ("eXpReSsIoN", "`expression`"),
        ("exp\u{200b}ression", "`expression`"),
        ("-MOZ-binding", "`-moz-binding`"),
        ("url(https://example.net/x.png)", "`(`"),
        ("red)", "`)`"),
        ("\\75rl", "`\\`"),
        ("red/**/", "`*`"),
        ("*/ x", "`*`"),
        ("@import", "`@`"),
        ("a[b]", "`[`"),
        ("red\nblue", "`\\n"),
        ("red\u{0}", "`\\0"),
        ("javascript:x", "`javascript:`"),
        ("color: blue", "`color:`"),
    ];
    refuse(&styles, &hostile).await;

    // An escape of HTML would end the value there.
    refuse(&styles[7..12], &[("red& color: blue", "`&`")]).await;

    let harmless = [
        "red",
        "#a0B1c2",
        "12px",
        "1.5",
        "-10%",
        "10px 20px",
        "12px/1.5",
        "Helvetica Neue, Arial, sans-serif",
        "Größe",
        "#fff !important",
        "",
    ];
    take(&styles, &harmless).await;
    take(
        &["<p style=\"{{ x|safe }}\">p</p><style>{{ x|safe }}</style>"],
        &["color: red; background: url('x')"],
    )
    .await;

    let pictures = [
        "<mjml><mj-body><mj-section background-url=\"{{ x }}\"><mj-column></mj-column>\
         </mj-section></mj-body></mjml>",
        "<mjml><mj-body><mj-section background-url=\"{{ x }}&amp;y={{ x }}\"><mj-column>\
         </mj-column></mj-section></mj-body></mjml>",
    ];
    refuse(
        &pictures,
        &[
            ("javascript:x", "`javascript:`"),
            ("x'); color: red; x: url('", "`"),
            ("x\"; color: red", "`"),
            ("x&quot;&#41;", "`"),
            ("x;color:red", "`"),
        ],
    )
    .await;
    take(&pictures, &["https://example.com/a.png?b=1&c=2", "/a.png"]).await;
}

#[test]
fn a_place_that_would_not_hold_its_value_is_named_before_a_template_is_in_force() {
    for (html, told) in [
        ("<p>\n<a href={{ x }}>l</a>", "without quotation marks"),
        (
            "<p>\n<a href = https://example.com/{{ x }}>",
            "without quotation marks",
        ),
        ("<p>\n<td {{ x }}>", "the name of an attribute"),
        ("<p>\n<td data-{{ x }}=\"y\">", "the name of an attribute"),
        ("<p>\n<h{{ x }}>", "the name of an element"),
        ("<p>\n</{{ x }}>", "the name of an element"),
        ("<p>\n<script>let a = '{{ x }}';</script>", "add |tojson"),
        ("<p>\n<a onclick=\"f('{{ x }}')\">", "add |tojson"),
        ("<p>\n<iframe srcdoc=\"{{ x }}\">", "stands in srcdoc"),
        ("<p>\n<a href=\"{{ x }}://{{ y }}\">", "before a colon"),
        (
            "<p>\n<a href=\"{% if y %}{{ x }}{% endif %}:{{ y }}\">",
            "before a colon",
        ),
        (
            "<p>\n<style>{% include x %}</style>",
            "does not name its file",
        ),
        (
            "<p>\n<a href=\"{% call x() %}y{% endcall %}\">",
            "where only a value may",
        ),
        (
            "<p>\n{% raw %}<a href={% endraw %}{{ x }}>",
            "without quotation marks",
        ),
        (
            "<p>\n<!--[if !mso]><!--><td {{ x }}><!--<![endif]-->",
            "the name of an attribute",
        ),
        (
            "<p>\n<A HREF={% if y %}{{ x }}{% endif %}>",
            "without quotation marks",
        ),
    ] {
        for file in ["t/body.html", "layouts/base.html"] {
            let files = folder(&[(file, html), ("t/subject.txt", "s"), ("t/body.txt", "b")]);
            let wrong = Templates::load(files.path(), "en").unwrap_err();
            let [wrong] = &wrong.0[..] else {
                panic!("{html}: {wrong}")
            };
            assert!(wrong.reason.contains(told), "{html}: {wrong}");
            let value = [
                "{{ x }} ",
                "a value ",
                "{% include x %} ",
                "{% call x() %} ",
            ];
            let is_named = value.iter().any(|value| wrong.reason.starts_with(value));
            assert!(is_named, "{html}: {wrong}");
            assert_eq!(wrong.line, Some(2), "{html}");
            assert!(wrong.file.ends_with(file), "{html}: {wrong}");
        }
    }

    for held in [
        "<a href=\"{{ x }}\" title='{{ x }}' {% if y %}class=\"{{ x }}\"{% endif %}>{{ x }}</a>",
        "<!DOCTYPE html PUBLIC \"-//W3C//DTD\" \"http://www.w3.org\"><p title=\"a > b\">{{ x }}",
        "<!--[if mso]><td width={{ x }}><![endif]-->{{ x }}<![endif]--><br/>{{ x }} < {{ x }}",
        "<td {{ x|safe }} width={{ x | safe }}>ü{{ x }}</td><p class=ü title=\"{{ x }}\">",
        "<script type=\"application/ld+json\">{\"name\": {{ x|tojson }}}</script>{{ x }}",
        "<style>a { color: {{ x }} }</style><title>{{ x }}</title><style-x a=\"{{ x }}\">{{ x }}",
        "{% raw %}<a href={{ x }}>{% endraw %}<b>{{ x }}</b>{# <a href={{ x }}> #}{{ x }}",
        "<p title=\"{% if x %}>{% endif %}{{ x }}\">{{ x }}</p><a b c = \"{{ x }}\">{{ x }}",
        "<a href=\"{% if x %}https://x{% else %}/{% endif %}:{{ x }}\"><a href=\"{{ x|safe }}:y\">",
        "<p title=\"{{ x }}: {{ y }}\" style=\"{{ x }}: {{ y }}\">{% include x %}",
        "<a href=\"/{% include x %}\" title=\"{% include x %}\">\
         {% call(z) x() %}{{ z }}{% endcall %}",
    ] {
        let files = folder(&[("t/body.html", held)]);
        Templates::load(files.path(), "en").unwrap_or_else(|wrong| panic!("{held}: {wrong}"));
    }
}

#[tokio::test]
async fn data_of_a_wrong_type_that_are_deep_or_too_large_are_refused_and_never_a_failure() {
    let files = folder(&[
        (
            "t/body.html",
            "{{ user.name|upper }}{% for one in list %}{{ one.price|round }}{% endfor %}\
             {{ count + 1 }}{{ list|length }}{{ user['name'][:3] }}",
        ),
        ("shown/body.txt", "{{ x }}"),
    ]);
    let service = service(files.path()).await;

    let mut deep = json!(1);
    for _ in 0..110 {
        deep = json!([deep]);
    }
    let values = [
        json!(null),
        json!(true),
        json!(-1),
        json!(1e300),
        json!(u64::MAX),
        json!("text"),
        json!([]),
        json!([[], {}, null, "x", 1.5]),
        json!({"name": {"name": ["x"]}, "price": {}}),
        deep.clone(),
    ];
    for user in &values {
        for list in &values {
            let data = json!({"user": user, "list": list, "count": user});
            let answer = submit(&service, "t", &data).await;
            let status = answer.status.as_u16();
            assert!([202, 422].contains(&status), "{data}: {}", answer.text());
            if status == 422 {
                let pointers = answer.pointers();
                assert!(pointers[0].starts_with("/template"), "{data}: {pointers:?}");
            }
        }
        let data = json!({"x": user});
        assert_eq!(submit(&service, "shown", &data).await.status, 202, "{data}");
    }

    let head = r#"{"from": "a@example.org", "to": "b@example.org",
        "template": {"name": "shown", "data": "#;
    let json = [("content-type", "application/json")];
    for (open, close) in [("[", "]"), ("{\"x\":", "}")] {
        for depth in [200, 100_000] {
            let nested = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            let body = format!("{head}{{\"x\": {nested}}}}}}}");
            let answer = service.send("POST", "/v1/mails", &json, body).await;
            answer.problem(400, "malformed");
        }
    }

    let answer = submit(&service, "shown", &json!({"x": "x".repeat(1024 * 1024)})).await;
    assert_eq!(answer.pointers(), ["/template/data"]);
    let many: serde_json::Map<String, Value> =
        (0..30_000).map(|n| (format!("key{n}"), json!(n))).collect();
    let answer = submit(&service, "shown", &json!({"x": many})).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
}

/// What a template does with data in good faith may be a thousand times as much.
#[test]
fn filters_and_loops_over_data_end_and_take_bounded_memory() {
    let parts = [
        ("replace", "{{ text|replace('x', text) }}"),
        ("json", "{{ list|tojson(indent=n) }}"),
        (
            "doubling",
            "{% set a = namespace(s=text) %}{% for one in list %}{% set a.s = a.s ~ a.s %}{% \
            endfor %}{{ a.s|length }}",
        ),
        ("joined", "{{ list|join(text) }}"),
        (
            "mapped",
            "{% for a in list %}{{ list|map('upper')|join(text) }}{% endfor %}",
        ),
        (
            "nested",
            "{% for a in list %}{% for b in list %}{% for c in list %}x{% endfor %}{% endfor \
            %}{% endfor %}",
        ),
        (
            "sorted",
            "{% for a in list %}{{ (list|sort|unique|list)|length }}{% endfor %}",
        ),
        (
            "grouped",
            "{% for a in list %}{{ list|batch(n)|list|length }}{{ list|slice(n)|list|length }}{% \
            endfor %}",
        ),
        (
            "padded",
            "{{ '%s'|format(text) }}{{ text|indent(n, true, true) }}",
        ),
        (
            "encoded",
            "{% for a in list %}{{ text|urlencode|urlencode|urlencode }}{% endfor %}",
        ),
        (
            "escaped",
            "{% for a in list %}{{ (text ~ '<>&')|e|length }}{% endfor %}",
        ),
        (
            "macros",
            "{% macro m(d) %}{% if d %}{{ m(d - 1) }}{{ m(d - 1) }}{% endif %}{% endmacro %}{{ \
            m(n) }}",
        ),
        (
            "lines",
            "{% for a in list %}{{ text|lines|length }}{{ text|list|length }}{% endfor %}",
        ),
        (
            "ranges",
            "{{ range(n)|list|length }}{{ range(0, n, 1)|reverse|list|length }}",
        ),
        (
            "dumped",
            "{% for a in list %}{{ debug()|length }}{% endfor %}",
        ),
        (
            "zipped",
            "{% for a in list %}{{ list|zip(list, list)|list|length }}{% endfor %}",
        ),
        (
            "sliced",
            "{% for a in list %}{{ text[::-1]|length }}{{ text[n:]|length }}{% endfor %}",
        ),
        (
            "compared",
            "{% for a in list %}{% if text in text %}x{% endif %}{% if list == list %}y{% endif \
            %}{% endfor %}",
        ),
    ];
    let text = "x\n".repeat(200_000);
    let list: Vec<String> = (0..20_000).map(|n| format!("entry {n}")).collect();
    for (name, body) in parts {
        let file = format!("{name}/body.txt");
        let files = folder(&[(&file, body)]);
        // One that this version of the language does not know is told at once, too.
        let Ok(templates) = Templates::load(files.path(), "en") else {
            panic!("{name} is not understood");
        };
        for n in [
            json!(90_000),
            json!(40_000_000),
            json!(u64::MAX),
            json!(-5),
            json!("9"),
        ] {
            let data = json!({"n": n, "text": text, "list": list});
            let begun = Instant::now();
            let before = resident();
            let made = templates.render(name, data, None);
            let (took, grown) = (begun.elapsed(), resident().saturating_sub(before));
            if let Ok(content) = &made {
                assert!(
                    content.text.as_ref().unwrap().len() <= 4 << 20,
                    "{name} {n}"
                );
            }
            assert!(took < Duration::from_secs(8), "{name} {n}: {took:?}");
            assert!(grown < 300 << 20, "{name} {n}: {} MiB", grown >> 20);
        }
    }
}

/// What this process takes of memory, in bytes.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0) * 4096
}

#[tokio::test]
async fn no_name_in_the_data_leads_out_of_the_folder() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret.txt"), "s3cret").unwrap();
    let files = folder(&[
        (
            "any/body.html",
            "{% include file %}{% include [file, file] %}",
        ),
        ("lenient/body.txt", "{% include file ignore missing %}."),
        ("below/body.txt", "{% extends file %}"),
        ("import/body.txt", "{% from file import x %}{{ x }}"),
        ("partials/fine.txt", "fine"),
    ]);
    let service = service(files.path()).await;
    let secret = outside.path().join("secret.txt");
    let up = "../".repeat(20);
    for file in [
        secret.to_str().unwrap(),
        &format!("{up}{}", secret.display()),
        &format!("partials/{up}{}", secret.display()),
        "/etc/passwd",
        "..",
        "any/body.html",
        "partials/../partials/fine.txt",
        "partials/fine.txt\u{0}.html",
        "PARTIALS/FINE.TXT",
        "http://127.0.0.1/x",
        "",
    ] {
        for name in ["any", "below", "import"] {
            let answer = submit(&service, name, &json!({"file": file})).await;
            assert_eq!(answer.status, 422, "{name} {file}: {}", answer.text());
            assert!(!answer.text().contains("s3cret"), "{}", answer.text());
        }
        let answer = submit(&service, "lenient", &json!({"file": file})).await;
        assert!([202, 422].contains(&answer.status.as_u16()), "{file}");
    }
    service.dispatcher.wait_idle().await;
    for sent in service.capture.captured() {
        let message = String::from_utf8_lossy(&sent.message).into_owned();
        assert!(
            !message.contains("s3cret") && !message.contains("root:"),
            "{message}"
        );
    }

    let wrong = folder(&[("t/body.txt", "{% include '../../etc/passwd' %}")]);
    let wrong = Templates::load(wrong.path(), "en").unwrap_err().to_string();
    assert!(wrong.contains("there is no ../../etc/passwd"), "{wrong}");
    for name in [
        "../t",
        "..",
        "any/../any",
        "any/body.html",
        "/etc",
        "any\u{0}",
        "layouts",
    ] {
        let answer = submit(&service, name, &json!({"file": "partials/fine.txt"})).await;
        assert_eq!(answer.status, 404, "{name}: {}", answer.text());
    }
}

/// The names of a message's header fields.
fn fields(message: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(message).into_owned();
    let (header, _) = text.split_once("\r\n\r\n").unwrap();
    assert!(
        !header.replace("\r\n", "").contains(['\r', '\n', '\0']),
        "{header:?}"
    );
    let lines = header
        .split("\r\n")
        .filter(|line| !line.starts_with([' ', '\t']));
    let name = |line: &str| line.split_once(':').unwrap().0.to_ascii_lowercase();
    let mut names: Vec<String> = lines.map(name).collect();
    names.sort();
    names
}

/// A mail with this in one of its fields.
fn mail(hostile: &str, place: &str) -> Value {
    let mut mail = json!({"from": "Shop <shop@example.com>", "to": ["Ada <ada@example.org>"],
        "subject": "s", "text": "t", "tags": ["x"],
        "idempotency_key": format!("{place}{hostile}"),
        "headers": {"X-Shop": "x"}, "attachments": [{"filename": "x.txt", "content": "eA=="}]});
    match place {
        "from" => mail["from"] = format!("\"{hostile}\" <shop@example.com>").into(),
        "from name" => mail["from"] = format!("{hostile} <shop@example.com>").into(),
        "to" => mail["to"] = json!([format!("{hostile} <ada@example.org>")]),
        "reply_to" => mail["reply_to"] = format!("{hostile} <ada@example.org>").into(),
        "subject" => mail["subject"] = format!("s{hostile}").into(),
        "list" => mail["list"] = format!("news{hostile}").into(),
        "tags" => mail["tags"] = json!([hostile]),
        "value" => mail["headers"] = json!({"X-Shop": format!("x{hostile}")}),
        "name" => mail["headers"] = json!({format!("X-Shop{hostile}"): "x"}),
        "filename" => mail["attachments"][0]["filename"] = format!("x{hostile}.txt").into(),
        "type" => mail["attachments"][0]["content_type"] = format!("text/x{hostile}").into(),
        "inline" => mail["attachments"][0]["inline_id"] = format!("x{hostile}").into(),
        _ => {
            mail.as_object_mut()
                .unwrap()
                .retain(|key, _| key != "subject" && key != "text");
            let locale = if place == "locale" {
                format!("de{hostile}")
            } else {
                "de".into()
            };
            mail["template"] = json!({"name": "t", "data": {"name": hostile}, "locale": locale});
        }
    }
    mail
}

/// The fields of a mail.
const FIELDS: [&str; 14] = [
    "from",
    "from name",
    "to",
    "reply_to",
    "subject",
    "list",
    "tags",
    "value",
    "name",
    "filename",
    "type",
    "inline",
    "template",
    "locale",
];

#[tokio::test]
async fn no_field_of_a_mail_becomes_another_one_of_its_header() {
    let files = letter();
    let service = service(files.path()).await;
    let calm = mail("calm", "value");
    service.accept(&calm).await;
    service.dispatcher.wait_idle().await;
    let expected = fields(&service.capture.captured()[0].message);
    let mut accepted = 0;
    for place in FIELDS {
        for end in [
            "\r\n", "\n", "\r", "\r\n ", "\u{0}", "\u{85}", "\u{2028}", "\u{b}", "\u{c}",
        ] {
            for more in [
                "Bcc: eve@example.net",
                "\r\nBcc: eve@example.net\r\n\r\n<b>body</b>",
            ] {
                let hostile = format!("x{end}{more}");
                let answer = service
                    .json("POST", "/v1/mails", &mail(&hostile, place))
                    .await;
                let status = answer.status.as_u16();
                assert!(
                    [202, 422].contains(&status),
                    "{place} {hostile:?}: {}",
                    answer.text()
                );
                accepted += usize::from(status == 202);
            }
        }
        // What becomes an end of line where it is decoded.
        for hostile in [
            "=?utf-8?q?x=0D=0ABcc:_eve@example.net?=",
            "=?utf-8?b?eA0KQmNjOiBldmVAZXhhbXBsZS5uZXQ=?=",
            "%0d%0aBcc:%20eve@example.net",
            "\\r\\nBcc: eve@example.net",
        ] {
            let answer = service
                .json("POST", "/v1/mails", &mail(hostile, place))
                .await;
            let status = answer.status.as_u16();
            assert!(
                [202, 422].contains(&status),
                "{place} {hostile}: {}",
                answer.text()
            );
        }
    }
    assert!(accepted > 0, "some are mended");

    service.dispatcher.wait_idle().await;
    for sent in service.capture.captured() {
        let mut found = fields(&sent.message);
        found.retain(|name| !["reply-to", "list-id"].contains(&name.as_str()));
        let mut wanted = expected.clone();
        // A mail whose header has none, or another name of it, is one of those above.
        for own in ["x-shop", "subject"] {
            if !found.iter().any(|name| name == own) {
                wanted.retain(|name| name != own);
            }
        }
        found.retain(|name| !name.starts_with("x-shop") || name == "x-shop");
        assert_eq!(found, wanted, "{}", String::from_utf8_lossy(&sent.message));
        assert_eq!(sent.recipients.len(), 1);
        assert_eq!(sent.recipients[0].as_str(), "ada@example.org");
    }
}

/// A template whose subject and text are of the data, in two languages.
fn letter() -> TempDir {
    folder(&[
        ("t/subject.txt", "To {{ name }}"),
        ("t/body.txt", "{{ name }}"),
        ("t/de/subject.txt", "An {{ name }}"),
    ])
}

/// What is no character by itself, turns the direction of what follows, or is far too much.
#[tokio::test]
async fn no_value_of_any_field_makes_a_message_that_is_not_well_formed() {
    let files = letter();
    let service = service(files.path()).await;
    let json = [("content-type", "application/json")];

    // A header has at most 1 MiB.
    let (most, much) = (900_000, 64 * 1024);
    let values = [
        "\u{202e}gnp.exe\u{202c}".to_owned(),
        "\u{2066}\u{2067}\u{2068}\u{200f}\u{61c}".to_owned(),
        "\u{feff}\u{fffe}\u{10ffff}\u{e000}\u{1f}\u{7f}\u{9f}".to_owned(),
        "x ".repeat(most / 2),
        "x".repeat(much),
        "\u{fc}".repeat(much / 2),
        " ".repeat(much),
        "\r\n".repeat(much / 2),
        "\u{0}".repeat(much),
        "\"\\".repeat(much / 2),
        "=?utf-8?q?x?= ".repeat(much / 14),
    ];
    let mut accepted = 0;
    for place in FIELDS {
        for value in &values {
            let mut hostile = mail(value, place);
            // The key would be what is refused.
            hostile.as_object_mut().unwrap().remove("idempotency_key");
            let answer = service.json("POST", "/v1/mails", &hostile).await;
            let status = answer.status.as_u16();
            let shown: String = value.chars().take(8).collect();
            let told = answer.text();
            assert!([202, 422].contains(&status), "{place} {shown:?}: {told}");
            assert!(told.len() < 8192, "{place} {shown:?}: {} bytes", told.len());
            // These may be long; names and addresses may not.
            let may_be_long = ["subject", "value", "template"].contains(&place);
            let is_plain = value.starts_with(['x', '\u{fc}']);
            assert!(
                !may_be_long || !is_plain || status == 202,
                "{place}: {told}"
            );
            accepted += usize::from(status == 202);
        }

        // Half a character is none: nothing stands for it.
        for half in ["\\ud800", "\\udc00", "\\ud800x", "\\udfff\\ud800"] {
            let body = mail("HERE", place).to_string().replace("HERE", half);
            let answer = service.send("POST", "/v1/mails", &json, body).await;
            answer.problem(400, "malformed");
        }
    }
    assert!(accepted > FIELDS.len(), "{accepted}");

    service.dispatcher.wait_idle().await;
    for sent in service.capture.captured() {
        let names = fields(&sent.message);
        let text = String::from_utf8_lossy(&sent.message).into_owned();
        let bare = text.replace("\r\n", "");
        assert!(!bare.contains(['\r', '\n', '\0']), "{names:?}");
        let longest = text.split("\r\n").map(str::len).max();
        assert!(longest <= Some(998), "{names:?}: {longest:?}");
        let (header, _) = text.split_once("\r\n\r\n").unwrap();
        assert!(header.is_ascii(), "{names:?}");
    }
}
