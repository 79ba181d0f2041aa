#![allow(clippy::unwrap_used)]
use super::*;

/// The addresses of a list; local users get the domain `host`.
fn addresses(text: &str) -> Vec<String> {
    let read = read(text).unwrap_or_else(|why| panic!("{text:?} {why}"));
    mailboxes(read)
        .map(|found| found.address(Some("host")).unwrap().to_string())
        .collect()
}

fn name(text: &str) -> String {
    let found = mailboxes(read(text).unwrap()).next().unwrap();
    found.name.unwrap_or_default()
}

fn refused(text: &str) -> String {
    let read = read(text).and_then(|entries| {
        mailboxes(entries)
            .map(|found| found.address(Some("host")))
            .collect::<Result<Vec<_>, _>>()
    });
    read.map(|read| panic!("{text:?} was read as {read:?}"))
        .unwrap_err()
}

#[test]
fn every_form_of_an_address_is_read() {
    for (text, expected) in [
        ("ada@example.org", "ada@example.org"),
        ("Ada <ada@example.org>", "ada@example.org"),
        ("<ada@example.org>", "ada@example.org"),
        ("ada@example.org (Ada)", "ada@example.org"),
        (
            "(x) ada (y) @ (z) example (a(b(c)d)e) . org (f)",
            "ada@example.org",
        ),
        ("Ada\r\n <ada@\r\n\texample.org>", "ada@example.org"),
        (
            "(un\r\n folded \\) still) ada@example.org",
            "ada@example.org",
        ),
        (r#""bob"@example.org"#, r#""bob"@example.org"#),
        (
            r#""ada lovelace"@example.org"#,
            r#""ada lovelace"@example.org"#,
        ),
        (r#""a@b"@example.org"#, r#""a@b"@example.org"#),
        (r#""a,b;c:d"@example.org"#, r#""a,b;c:d"@example.org"#),
        (r#""a\"b\\c"@example.org"#, r#""a\"b\\c"@example.org"#),
        (r#""\b\o\b"@example.org"#, r#""bob"@example.org"#),
        (r#"ada."b".c@example.org"#, "ada.b.c@example.org"),
        (r#"ada."b c"@example.org"#, r#""ada.b c"@example.org"#),
        (
            r#"X <"bob smith"@example.org>"#,
            r#""bob smith"@example.org"#,
        ),
        ("<@a.example,@b.example:ada@example.org>", "ada@example.org"),
        (
            "Ada <@a.example, , @[192.0.2.1] : ada@example.org>",
            "ada@example.org",
        ),
        ("ada@[192.0.2.1]", "ada@[192.0.2.1]"),
        ("ada@[IPv6:2001:db8::1]", "ada@[IPv6:2001:db8::1]"),
        ("ada@[ 192.0.2.1\r\n ]", "ada@[192.0.2.1]"),
        ("ada@bücher.example", "ada@xn--bcher-kva.example"),
        ("root", "root@host"),
        ("root (Cron Daemon)", "root@host"),
        ("Cron Daemon <root>", "root@host"),
        ("ada@example.com <ada@example.org>", "ada@example.org"),
        ("Dr. A. K. Lovelace <ada@example.org>", "ada@example.org"),
        ("[JIRA] Bot <ada@example.org>", "ada@example.org"),
        (r#""Lovelace, Ada" <ada@example.org>"#, "ada@example.org"),
        (
            r#""<eve@evil.example>" <ada@example.org>"#,
            "ada@example.org",
        ),
        ("(<eve@evil.example>,) ada@example.org", "ada@example.org"),
        (
            "=?utf-8?q?eve=40evil.example=2C?= <ada@example.org>",
            "ada@example.org",
        ),
    ] {
        assert_eq!(addresses(text), [expected], "{text:?}");
    }
}

#[test]
fn lists_and_groups_are_read_with_what_is_empty_in_them() {
    assert_eq!(
        addresses(
            ",a@x.example,, Team (us): b@x.example, (none) , \"C D\" <c@x.example>;, \
             d@x.example,"
        ),
        ["a@x.example", "b@x.example", "c@x.example", "d@x.example"]
    );

    assert_eq!(addresses("undisclosed-recipients:;"), [""; 0]);
    assert_eq!(addresses(" (nobody) "), [""; 0]);
    assert_eq!(
        addresses("a@x.example; b@x.example"),
        ["a@x.example", "b@x.example"]
    );

    assert_eq!(
        addresses("Team: a@x.example, b@x.example"),
        ["a@x.example", "b@x.example"]
    );

    let groups = read("Freunde: =?utf-8?q?J=C3=B6rg?= <j@x.example>;").unwrap();
    let [ListEntry::Group(name, members)] = &*groups else {
        panic!("{groups:?}")
    };

    assert_eq!(
        (name.as_str(), members[0].name.as_deref()),
        ("Freunde", Some("Jörg"))
    );
}

#[test]
fn names_are_decoded_after_the_address_is_found() {
    assert_eq!(name("=?utf-8?q?J=C3=B6rg?= <j@x.example>"), "Jörg");
    assert_eq!(
        name("=?utf-8?q?J=C3=B6?=\r\n =?utf-8?q?rg?= M <j@x.example>"),
        "Jörg M"
    );

    assert_eq!(name("=?iso-8859-1?Q?caf=E9?= <j@x.example>"), "café");
    assert_eq!(
        name(r#""=?utf-8?q?J=C3=B6rg?=" <j@x.example>"#),
        "=?utf-8?q?J=C3=B6rg?="
    );

    assert_eq!(name("j@x.example (=?utf-8?q?J=C3=B6rg?=)"), "Jörg");
    assert_eq!(
        name(r#""Lovelace, \"Ada\"" <j@x.example>"#),
        r#"Lovelace, "Ada""#
    );

    assert_eq!(
        name(r#"Ada "the first" L. <j@x.example>"#),
        "Ada the first L."
    );

    let smuggled = "=?utf-8?q?a=0D=0ABcc=3A_eve@evil.example?=";
    assert_eq!(name(&format!("{smuggled} <j@x.example>")), smuggled);
}

#[test]
fn what_is_no_address_is_refused_and_nothing_is_cut_out_of_it() {
    for text in [
        "=?utf-8?q?x=40evil.example?=",
        "a@x.example, =?utf-8?b?ZXZlQGV2aWwuZXhhbXBsZQ==?=",
        "ada lovelace@example.org",
        "ada@example.org eve@example.org",
        "ada@example.org Ada",
        "ada@b@example.org",
        "Ada <ada@example.org",
        "Ada ada@example.org>",
        "Ada <<ada@example.org>>",
        "Ada <ada@example.org> eve",
        "Ada <>",
        "<@a.example:>",
        "@example.org",
        "ada@",
        "ada@(x)",
        "a..b@example.org",
        "ada.@example.org",
        "\"ada@example.org",
        "(ada@example.org",
        "ada)@example.org",
        "ada@[192.0.2.1",
        "ada@\"example.org\"",
        "ada\0@example.org",
        "ad\u{fffd}@example.org",
        "a@x.example: b@x.example;",
        "Team: Other: b@x.example;",
    ] {
        refused(text);
    }

    assert!(refused("=?utf-8?q?x=40evil.example?=").contains("encoded word"));
}

#[test]
fn a_path_is_an_address_alone() {
    for (text, expected) in [
        ("ada@example.org", "ada@example.org"),
        (r#""ada b"@example.org"#, r#""ada b"@example.org"#),
        (r#""ada".b@example.org"#, "ada.b@example.org"),
    ] {
        assert_eq!(path(text).unwrap().as_str(), expected);
    }

    for text in [
        "root",
        "Ada <ada@example.org>",
        "a b@example.org",
        "\"a\"",
        "a@b,c@d",
    ] {
        assert!(path(text).is_err(), "{text}");
    }
}

#[test]
fn deep_comments_and_long_lists_are_read_in_one_go() {
    let deep = format!(
        "{}{} ada@example.org",
        "(".repeat(100_000),
        ")".repeat(100_000)
    );
    assert_eq!(addresses(&deep), ["ada@example.org"]);
    let long = vec!["a <a@x.example>"; 50_000].join(", ");
    assert_eq!(addresses(&long).len(), 50_000);
    assert!(refused(&"a ".repeat(100_000)).contains("words in one name"));
}
