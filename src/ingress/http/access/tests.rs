#![allow(clippy::unwrap_used)]
use super::*;

fn token(name: &str, secret: &str, scope: Scope) -> Token {
    Token {
        name: name.into(),
        secret: secret.to_owned().into(),
        scope,
    }
}

fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
    given
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()))
        .collect()
}

fn admitted(
    table: &TokenTable,
    method: Method,
    path: &'static str,
    given: &[(&'static str, &str)],
) -> u16 {
    let sessions = Sessions::new(8025);
    let (uri, peer) = (Uri::from_static(path), [127, 0, 0, 1].into());
    match table.admit(&sessions, &method, &uri, &headers(given), peer) {
        Ok(_) => 200,
        Err(refusal) => refusal.into_response().status().as_u16(),
    }
}

#[test]
fn a_door_that_others_can_reach_does_not_open_without_a_token() {
    let error = TokenTable::new("0.0.0.0:8025".parse().unwrap(), Vec::new())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("http.listen") && error.contains("http.tokens"),
        "{error}"
    );

    assert!(TokenTable::new("[::]:8025".parse().unwrap(), Vec::new()).is_err());
    assert!(TokenTable::new("[::1]:8025".parse().unwrap(), Vec::new()).is_ok());
    let table = TokenTable::new(
        "192.0.2.1:1".parse().unwrap(),
        vec![token("app", "s3cret", Scope::Send)],
    )
    .unwrap();

    assert!(
        table.replace(Vec::new()).is_err(),
        "a reload must not open it either"
    );

    assert_eq!(
        admitted(
            &table,
            Method::POST,
            "/v1/mails",
            &[("authorization", "Bearer s3cret")]
        ),
        200
    );
}

#[test]
fn a_secret_that_no_header_can_carry_is_refused() {
    let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
    for secret in ["", "with space", "line\nbreak", "ä", &"x".repeat(257)] {
        let error = TokenTable::new(listen, vec![token("app", secret, Scope::Send)])
            .unwrap_err()
            .to_string();
        assert!(error.contains("`app`"), "{error}");
        assert!(secret.is_empty() || !error.contains(secret), "{error}");
    }
}

#[test]
fn each_scope_allows_its_own_and_admin_allows_all() {
    let tokens = vec![
        token("s", "send-secret", Scope::Send),
        token("r", "read-secret", Scope::Read),
        token("a", "admin-secret", Scope::Admin),
    ];
    let table = TokenTable::new("127.0.0.1:0".parse().unwrap(), tokens).unwrap();
    let id = "/v1/mails/0199c0de-0000-7000-8000-000000000000";
    let raw = "/v1/mails/0199c0de-0000-7000-8000-000000000000/raw";
    let cancel = "/v1/mails/0199c0de-0000-7000-8000-000000000000/cancel";

    let retry = "/v1/mails/0199c0de-0000-7000-8000-000000000000/retry";
    let cases = [
        (Method::POST, "/v1/mails", [200, 403, 200]),
        (Method::POST, "/v1/mails/batch", [200, 403, 200]),
        (Method::GET, "/v1/mails", [200, 200, 200]),
        (Method::GET, "/v1/mails/count", [200, 200, 200]),
        (Method::GET, "/v1/mails/export", [403, 200, 200]),
        (Method::GET, "/v1/events", [200, 200, 200]),
        (Method::GET, id, [200, 200, 200]),
        (Method::GET, raw, [200, 200, 200]),
        (Method::POST, cancel, [200, 403, 200]),
        (Method::POST, retry, [403, 403, 200]),
        (Method::POST, "/v1/mails/cancel", [403, 403, 200]),
        (Method::DELETE, "/v1/mails", [403, 403, 200]),
        (Method::DELETE, id, [403, 403, 200]),
        (Method::GET, "/v1/stats", [403, 200, 200]),
        (Method::GET, "/v1/configuration", [403, 200, 200]),
        (Method::GET, "/v1/inbox/latest", [403, 200, 200]),
        (Method::GET, "/metrics", [403, 200, 200]),
        (Method::DELETE, "/v1/dead", [403, 403, 200]),
        (Method::POST, "/v1/dead/retry", [403, 403, 200]),
        (Method::POST, "/v1/relays/primary/pause", [403, 403, 200]),
        (Method::GET, "/health/ready", [200, 200, 200]),
    ];

    for (method, path, expected) in cases {
        for (secret, expected) in ["send-secret", "read-secret", "admin-secret"]
            .into_iter()
            .zip(expected)
        {
            let given = format!("Bearer {secret}");
            let status = admitted(&table, method.clone(), path, &[("authorization", &given)]);
            assert_eq!(status, expected, "{method} {path} with {secret}");
        }
    }

    for wrong in [
        "Bearer send-secre",
        "Bearer send-secret1",
        "Bearer ",
        "Basic send-secret",
        "send-secret",
    ] {
        assert_eq!(
            admitted(
                &table,
                Method::POST,
                "/v1/mails",
                &[("authorization", wrong)]
            ),
            401,
            "{wrong}"
        );
    }

    assert_eq!(
        admitted(
            &table,
            Method::POST,
            "/v1/mails",
            &[("authorization", "bearer  send-secret ")]
        ),
        200
    );

    assert_eq!(admitted(&table, Method::POST, "/v1/mails", &[]), 401);
    assert_eq!(admitted(&table, Method::GET, "/health/live", &[]), 200);
}

#[test]
fn without_tokens_no_web_page_and_no_foreign_name_gets_in() {
    let table = TokenTable::new("127.0.0.1:0".parse().unwrap(), Vec::new()).unwrap();
    let post = |given: &[(&'static str, &str)]| admitted(&table, Method::POST, "/v1/mails", given);
    for host in [
        "localhost:8025",
        "127.0.0.1:8025",
        "[::1]:8025",
        "127.8.9.1",
        "mail.localhost",
        "LOCALHOST",
    ] {
        assert_eq!(post(&[("host", host)]), 200, "{host}");
    }

    for host in [
        "evil.example",
        "localhost.evil.example",
        "192.0.2.7:8025",
        "[2001:db8::1]",
        "",
        "127.0.0.1.nip.io",
    ] {
        assert_eq!(post(&[("host", host)]), 403, "{host}");
    }

    let host = ("host", "localhost:8025");
    assert_eq!(post(&[host, ("origin", "http://localhost:8025")]), 200);
    assert_eq!(post(&[host, ("origin", "http://localhost:3000")]), 403);
    assert_eq!(post(&[host, ("origin", "https://evil.example")]), 403);
    assert_eq!(post(&[host, ("origin", "null")]), 403);
    assert_eq!(post(&[host, ("sec-fetch-site", "same-origin")]), 200);
    assert_eq!(post(&[host, ("sec-fetch-site", "none")]), 200);
    assert_eq!(post(&[host, ("sec-fetch-site", "cross-site")]), 403);
    assert_eq!(post(&[host, ("sec-fetch-site", "same-site")]), 403);

    for path in [
        "/health/live",
        "/openapi.json",
        "/v1/session",
        "/metrics",
        "/nothing",
    ] {
        let get = |given: &[(&'static str, &str)]| admitted(&table, Method::GET, path, given);
        assert_eq!(get(&[host]), 200, "{path}");
        assert_eq!(get(&[("host", "evil.example")]), 403, "{path}");
        assert_eq!(
            get(&[host, ("origin", "https://evil.example")]),
            403,
            "{path}"
        );
    }
}

#[test]
fn a_cookie_is_believed_from_the_doors_own_page_only_and_as_long_as_its_token_is_there() {
    let eye = token("eye", "read-secret", Scope::Read);
    let table = TokenTable::new("127.0.0.1:0".parse().unwrap(), vec![eye.clone()]).unwrap();

    let sessions = Sessions::new(8025);
    let signed_in = sessions.sign_in(&eye, false);
    assert!(signed_in.contains("HttpOnly; SameSite=Strict") && !signed_in.contains("read-secret"));

    let cookie = signed_in.split(';').next().unwrap();
    assert!(cookie.starts_with("postrider-8025="), "{cookie}");
    let ask = |method, path, given: &[(&'static str, &str)]| {
        let given = [given, &[("cookie", cookie), ("host", "mail.example")]].concat();
        let admitted = table.admit(
            &sessions,
            &method,
            &Uri::from_static(path),
            &headers(&given),
            [127, 0, 0, 1].into(),
        );
        admitted.map_or_else(|refusal| refusal.into_response().status().as_u16(), |_| 200)
    };

    let own = [("sec-fetch-site", "same-origin")];
    assert_eq!(ask(Method::GET, "/v1/mails", &own), 200);
    assert_eq!(ask(Method::GET, "/v1/session", &own), 200);
    assert_eq!(
        ask(Method::DELETE, "/v1/dead", &own),
        403,
        "its scope is the token's"
    );

    assert_eq!(
        ask(
            Method::GET,
            "/v1/mails",
            &[("origin", "https://mail.example")]
        ),
        200
    );

    for foreign in [
        &[][..],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "none")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[
            ("sec-fetch-site", "same-origin"),
            ("origin", "https://evil.example"),
        ],
    ] {
        assert_eq!(ask(Method::GET, "/v1/mails", foreign), 403, "{foreign:?}");
    }

    table
        .replace(vec![token("eye", "other-secret", Scope::Read)])
        .unwrap();
    assert_eq!(
        ask(Method::GET, "/v1/mails", &own),
        401,
        "its token is gone"
    );

    table.replace(vec![eye]).unwrap();
    assert_eq!(ask(Method::GET, "/v1/mails", &own), 200);
    sessions.sign_out(&headers(&[("cookie", cookie)]), false);
    assert_eq!(ask(Method::GET, "/v1/mails", &own), 401, "signed out");

    let eye = token("eye", "read-secret", Scope::Read);
    let secure = sessions.sign_in(&eye, true);
    assert!(
        secure.starts_with("__Host-postrider-8025=") && secure.ends_with("; Secure"),
        "{secure}"
    );
}
