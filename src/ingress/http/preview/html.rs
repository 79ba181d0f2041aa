//! Cleans a mail's HTML: removes scripts, forms, frames and refreshes, and keeps images that are
//! part of the mail.

use std::borrow::Cow;
use std::collections::HashMap;
use std::str::FromStr;

use ammonia::{Builder, UrlRelative};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use utoipa::ToSchema;

use crate::mail::{Part, beginning};

/// The most bytes of the mail's images that are included in its HTML.
const MAX_IMAGES: usize = 8 * 1024 * 1024;

/// The most bytes of HTML; the rest is not shown.
const MAX_HTML: usize = 2 * 1024 * 1024;

/// The most tags.
const MAX_TAGS: usize = 50_000;

/// The most references such as `&amp;`: the parser's cost for an invalid one grows with the number
/// of those before it.
const MAX_REFERENCES: usize = 8_000;

/// The deepest nesting of elements: the parser looks through all open ones at each tag.
const MAX_DEPTH: usize = 200;

/// Elements that contain nothing, or that the next of their kind closes.
const SHALLOW_ELEMENTS: [&str; 18] = [
    "area", "base", "br", "col", "dd", "dt", "embed", "hr", "img", "input", "li", "link", "meta",
    "p", "td", "th", "tr", "wbr",
];

/// Image types that browsers show and that cannot contain scripts.
const IMAGES: [&str; 4] = ["image/gif", "image/jpeg", "image/png", "image/webp"];

/// Which images are shown besides those of the mail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Images {
    /// None.
    #[default]
    None,
    /// Those that the browser loads from elsewhere.
    Remote,
}

/// The colours for the viewer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Theme {
    /// Dark on white, for which most mail is made.
    #[default]
    Light,
    /// Light on black.
    Dark,
}

impl FromStr for Theme {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "light" => Ok(Theme::Light),
            "dark" => Ok(Theme::Dark),
            _ => Err("is neither `light` nor `dark`"),
        }
    }
}

impl FromStr for Images {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Images::None),
            "remote" => Ok(Images::Remote),
            _ => Err("is neither `none` nor `remote`"),
        }
    }
}

/// A complete document with the cleaned HTML. `shown` are the parts that it may include by `cid:`.
pub(in crate::ingress::http) fn cleaned(
    html: &str,
    shown: &[Part],
    images: Images,
    theme: Theme,
) -> String {
    let whole = html.len();
    let html = within_bounds(beginning(html, MAX_HTML));
    let is_cut = html.len() < whole;
    let by_id = data_urls(shown);

    let mut builder = Builder::default();
    builder
        .rm_clean_content_tags(["style"])
        .add_clean_content_tags([
            "title", "noscript", "template", "xmp", "noembed", "noframes",
        ])
        .add_tags(["style", "font", "address", "main", "section", "u", "big"])
        .add_generic_attributes([
            "style",
            "class",
            "id",
            "align",
            "valign",
            "bgcolor",
            "color",
            "width",
            "height",
            "dir",
            "border",
            "cellpadding",
            "cellspacing",
            "role",
            "background",
        ])
        .add_tag_attributes("font", ["face", "size"])
        .rm_tag_attributes("img", ["srcset"])
        .url_schemes(["http", "https", "mailto", "tel", "cid", "data"].into())
        .url_relative(UrlRelative::Deny)
        .strip_comments(true)
        .attribute_filter(
            move |element, attribute, value| match (element, attribute) {
                (_, "background" | "cite") => None,
                ("img", "src") => source(value, &by_id, images),
                ("a", "href")
                    if ["data:", "cid:"]
                        .iter()
                        .any(|s| as_read(value).starts_with(s)) =>
                {
                    None
                }
                _ => Some(Cow::Borrowed(value)),
            },
        );

    let clean = builder.clean(html).to_string();
    let rest = match is_cut {
        true => "<p>(The HTML is longer than what is shown here.)</p>",
        false => "",
    };

    let (scheme, ground, ink) = match theme {
        Theme::Light => ("light", "#fff", "#111"),
        Theme::Dark => ("dark", "#15181b", "#e6e6e6"),
    };

    format!(
        "<!doctype html><html><head><meta charset=\"utf-8\">\
         <meta name=\"color-scheme\" content=\"{scheme}\"></head>\
         <body style=\"background:{ground};color:{ink};font:15px/1.5 system-ui,sans-serif;\
         overflow-wrap:anywhere\">{clean}{rest}</body></html>"
    )
}

/// The beginning of the HTML that is within the limits of tags, references and nesting.
fn within_bounds(html: &str) -> &str {
    let html = match html.match_indices('&').nth(MAX_REFERENCES) {
        Some((at, _)) => &html[..at],
        None => html,
    };

    let mut depth = 0_usize;
    for (count, (at, _)) in html.match_indices('<').enumerate() {
        let rest = &html[at + 1..];
        let is_end = rest.starts_with('/');
        let name = rest.trim_start_matches('/');
        let length = name.bytes().take_while(u8::is_ascii_alphanumeric).count();
        let name = name[..length].to_ascii_lowercase();
        if !name.is_empty() && !SHALLOW_ELEMENTS.contains(&name.as_str()) {
            match is_end {
                true => depth = depth.saturating_sub(1),
                false => depth += 1,
            }
        }
        if count >= MAX_TAGS || depth > MAX_DEPTH {
            return &html[..at];
        }
    }

    html
}

/// A URL as a browser parses its beginning: without invisible characters (WHATWG URL, basic URL
/// parser), in lower case.
fn as_read(value: &str) -> String {
    let seen = value.chars().filter(|c| !c.is_control());
    seen.collect::<String>().trim().to_ascii_lowercase()
}

/// The source of an image; `None` if it is elsewhere and such images are not wanted.
fn source<'a>(
    value: &'a str,
    by_id: &HashMap<String, String>,
    images: Images,
) -> Option<Cow<'a, str>> {
    let trimmed = value.trim();
    let lower = as_read(value);
    if lower.starts_with("cid:") {
        let id = trimmed.get(4..).unwrap_or_default();
        let id = percent_encoding::percent_decode_str(id).decode_utf8_lossy();
        return by_id.get(id.as_ref()).map(|url| Cow::Owned(url.clone()));
    }
    if let Some(data) = lower.strip_prefix("data:") {
        let is_image = IMAGES.iter().any(|kind| data.starts_with(kind));
        return is_image.then_some(Cow::Borrowed(value));
    }
    (images == Images::Remote).then_some(Cow::Borrowed(value))
}

/// The images of a mail by Content-ID, as `data:` URLs; as many as fit.
fn data_urls(shown: &[Part]) -> HashMap<String, String> {
    let mut room = MAX_IMAGES;
    let mut urls = HashMap::new();
    for Part { info, content } in shown {
        let is_image = IMAGES.contains(&info.content_type.as_str());
        let (Some(id), true) = (&info.content_id, is_image) else {
            continue;
        };
        if let Some(left) = room.checked_sub(content.len()) {
            room = left;
            let data = STANDARD.encode(content);
            urls.insert(
                id.clone(),
                format!("data:{};base64,{data}", info.content_type),
            );
        }
    }

    urls
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::PartInfo;

    fn clean(html: &str) -> String {
        cleaned(html, &[], Images::None, Theme::Light)
    }

    #[test]
    fn what_could_run_load_or_lead_away_is_gone() {
        for (hostile, gone) in [
            ("<script>alert(1)</script>x", "alert"),
            ("<img src=x onerror=alert(1)>", "alert"),
            (
                "<meta http-equiv=refresh content='0;url=https://evil.example'>",
                "evil",
            ),
            ("<svg><script>alert(1)</script></svg>", "alert"),
            ("<svg onload=alert(1)>", "alert"),
            ("<iframe src=https://evil.example></iframe>", "evil"),
            ("<object data=https://evil.example></object>", "evil"),
            ("<embed src=https://evil.example>", "evil"),
            (
                "<form action=https://evil.example><input name=p></form>",
                "evil",
            ),
            ("<base href=https://evil.example>", "evil"),
            ("<link rel=stylesheet href=https://evil.example>", "evil"),
            ("<a href='javascript:alert(1)'>x</a>", "alert"),
            ("<a href=' JaVaScRiPt:alert(1)'>x</a>", "alert"),
            (
                "<a href='data:text/html,<script>alert(1)</script>'>x</a>",
                "alert",
            ),
            (
                "<a href='da&#9;ta:text/html,<script>alert(1)</script>'>x</a>",
                "alert",
            ),
            (
                "<blockquote cite='java&#10;script:alert(1)'>x</blockquote>",
                "alert",
            ),
            (
                "<img src='da&#9;ta:image/svg+xml,<svg onload=alert(1)>'>",
                "alert",
            ),
            (
                "<img src='data:image/svg+xml,<svg onload=alert(1)>'>",
                "alert",
            ),
            ("<img src=https://evil.example/pixel.gif>", "evil"),
            (
                "<table background=https://evil.example/pixel.gif><tr><td>x</table>",
                "evil",
            ),
            (
                "<noscript><p title=\"</noscript><img src=x onerror=alert(1)>\">",
                "alert",
            ),
        ] {
            let shown = clean(hostile);
            assert!(!shown.contains(gone), "{hostile} leaves {shown}");
        }
    }

    #[test]
    fn what_a_mail_needs_to_look_as_it_should_stays() {
        for kept in [
            "<p style=\"color:red\">x</p>",
            "<td bgcolor=\"#ffffff\">x</td>",
            "<style>.a{color:red}</style>",
            "href=\"https://shop.example/?a=1\"",
        ] {
            let html = "<style>.a{color:red}</style><p style=\"color:red\">x</p>\
                        <table><tbody><tr><td bgcolor=\"#ffffff\">x</td></tr></tbody></table>\
                        <a href='https://shop.example/?a=1'>y</a>";
            let shown = clean(html);
            assert!(shown.contains(kept), "{shown} lacks {kept}");
        }
    }

    #[test]
    fn images_of_the_mail_are_shown_and_others_only_when_asked_for() {
        let part = Part {
            info: PartInfo {
                n: 2,
                content_type: "image/png".into(),
                filename: None,
                content_id: Some("logo".into()),
                size: 3,
                attachment: false,
            },
            content: vec![0, 1, 2],
        };

        let html = "<img src=cid:logo><img src=cid:none><img src=https://shop.example/a.png>";
        let shown = cleaned(
            html,
            std::slice::from_ref(&part),
            Images::None,
            Theme::Light,
        );

        assert!(shown.contains("data:image/png;base64,AAEC"), "{shown}");
        assert!(!shown.contains("shop.example"), "{shown}");
        let shown = cleaned(html, &[part], Images::Remote, Theme::Light);
        assert!(shown.contains("https://shop.example/a.png"), "{shown}");
    }

    #[test]
    fn much_html_is_cut_and_deep_html_ends() {
        let long = clean(&"<b>x</b>".repeat(1_500_000));
        assert!(long.len() < 8 * 1024 * 1024);
        for deep in ["<div>", "<b><p>", "<table><tr><td>", "<li><ul>"] {
            let begun = std::time::Instant::now();
            assert!(clean(&deep.repeat(500_000)).len() < 64 * 1024, "{deep}");
            assert!(
                begun.elapsed().as_secs() < 10,
                "{deep} took {:?}",
                begun.elapsed()
            );
        }

        for many in ["&", "&x;", "x&#"] {
            let shown = clean(&many.repeat(500_000));
            assert!(shown.len() < 256 * 1024, "{many}: {}", shown.len());
        }

        // What is long, and not deep, is shown.
        let list = clean(&"<p>x<br>".repeat(10_000));
        assert!(list.matches("<p>").count() == 10_000, "{}", list.len());
    }
}
