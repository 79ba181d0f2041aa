//! AWS Signature Version 4: proves who sent a request, and that nobody changed it.

use ring::digest::{SHA256, digest};
use ring::hmac;

/// What a request is signed with, and for.
pub(super) struct SigningScope<'a> {
    pub access_key_id: &'a str,
    pub secret_access_key: &'a str,
    pub region: &'a str,
    pub service: &'a str,
}

/// The value of the `Authorization` header of a POST without a query.
///
/// `headers` are all that are signed: lower case, sorted, with `host` and `x-amz-date`. `time` is
/// `20150830T123600Z`.
pub(super) fn authorization(
    scope: &SigningScope<'_>,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    time: &str,
) -> String {
    let date = &time[..8];
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");

    let mut canonical = format!("POST\n{path}\n\n");
    for (name, value) in headers {
        canonical.push_str(&format!("{name}:{}\n", value.trim()));
    }
    canonical.push_str(&format!(
        "\n{names}\n{}",
        hex(digest(&SHA256, body).as_ref())
    ));

    let place = format!("{date}/{}/{}/aws4_request", scope.region, scope.service);
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{time}\n{place}\n{}",
        hex(digest(&SHA256, canonical.as_bytes()).as_ref())
    );

    let secret = format!("AWS4{}", scope.secret_access_key);
    let mut key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    for part in [date, scope.region, scope.service, "aws4_request"] {
        key = hmac::Key::new(
            hmac::HMAC_SHA256,
            hmac::sign(&key, part.as_bytes()).as_ref(),
        );
    }

    let signature = hex(hmac::sign(&key, to_sign.as_bytes()).as_ref());
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{place}, SignedHeaders={names}, Signature={signature}",
        scope.access_key_id
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `post-vanilla` of the test suite that AWS publishes.
    #[test]
    fn the_published_example_is_signed_as_published() {
        let scope = SigningScope {
            access_key_id: "AKIDEXAMPLE",
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            region: "us-east-1",
            service: "service",
        };

        let headers = [
            ("host", "example.amazonaws.com"),
            ("x-amz-date", "20150830T123600Z"),
        ];
        let signed = authorization(&scope, "/", &headers, b"", "20150830T123600Z");

        let expected = "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b";
        assert!(
            signed.ends_with(&format!("Signature={expected}")),
            "{signed}"
        );
    }
}
