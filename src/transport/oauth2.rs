//! OAuth 2 access tokens for relays: fetched early, one at a time, kept in memory (RFC 6749, RFC
//! 7523).
//!
//! Called by SMTP logins with XOAUTH2 and by the APIs that want a bearer token.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use url::form_urlencoded;

use super::http::{HttpAnswer, HttpClient, Post};
use super::{RelayError, TimeOuts};
use crate::mail::{Timestamp, seconds};

/// So long before it ends a token is replaced.
const RENEW_BEFORE: Duration = Duration::from_secs(120);
/// How long a token is good for where its server does not say; RFC 6749 §5.1 leaves it open.
const DEFAULT_LIFE: Duration = Duration::from_secs(600);
/// How long our own assertion is good for; Google takes no more (and the clock may be off).
const ASSERTION_LIFETIME: i64 = 3600;

/// How a token is asked for.
#[derive(Clone)]
pub enum Grant {
    /// The application's own right (RFC 6749 §4.4), as Exchange Online wants it.
    ClientCredentials,
    /// On behalf of a user who agreed once (RFC 6749 §6).
    RefreshToken {
        /// The token that was given then.
        token: SecretString,
        /// Where a new one is kept, if the server gives one.
        file: Option<PathBuf>,
    },
    /// With an assertion that a private key signs (RFC 7523), as Google's service accounts do.
    ServiceAccount {
        /// Who signs: the account's address.
        issuer: String,
        /// The private key, RSA, as PEM.
        key: SecretString,
        /// The user for whom it acts.
        subject: Option<String>,
    },
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Grant::ClientCredentials => "ClientCredentials",
            Grant::RefreshToken { .. } => "RefreshToken",
            Grant::ServiceAccount { .. } => "ServiceAccount",
        })
    }
}

/// Where tokens come from, and with what.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// The server's token endpoint.
    pub token_url: String,
    /// How a token is asked for.
    pub grant: Grant,
    /// Who we are to that server.
    pub client_id: Option<String>,
    /// What proves it.
    pub client_secret: Option<SecretString>,
    /// What the token is to be good for.
    pub scope: Option<String>,
    /// A PEM file with the authority to trust instead of the public ones.
    pub ca_file: Option<PathBuf>,
}

/// A source of tokens. One is shared by all connections of a relay.
pub struct OAuth2(Arc<TokenFetcher>);

struct TokenFetcher {
    request: TokenRequest,
    client: HttpClient,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<(SecretString, Instant)>,
    /// The refresh token in force, once the server has given a new one.
    rotated: Option<SecretString>,
}

impl fmt::Debug for OAuth2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.request.fmt(f)
    }
}

/// What a token endpoint answers (RFC 6749 §5.1 and §5.2).
#[derive(Deserialize)]
struct TokenAnswer {
    access_token: Option<String>,
    expires_in: Option<serde_json::Value>,
    refresh_token: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
}

/// What a token endpoint gave.
struct GrantedToken {
    token: String,
    life: Duration,
    /// A refresh token that takes the place of the one that was used.
    rotated: Option<SecretString>,
}

/// Why there is no token.
struct TokenFailure {
    reason: String,
    /// Whether what we showed is no longer valid.
    is_stale: bool,
}

impl From<String> for TokenFailure {
    fn from(reason: String) -> Self {
        TokenFailure {
            reason,
            is_stale: false,
        }
    }
}

impl OAuth2 {
    /// # Errors
    /// Where the address, the key or the `ca_file` cannot be used.
    pub fn new(request: TokenRequest) -> Result<Self, RelayError> {
        let fail = |reason: String| RelayError::OAuth2(reason);
        let url = url::Url::parse(&request.token_url)
            .map_err(|e| fail(format!("token_url cannot be read: {e}")))?;
        if !matches!(url.scheme(), "https" | "http") || !url.has_host() {
            return Err(fail("token_url must be an https:// address".into()));
        }
        if let Grant::ServiceAccount { key, .. } = &request.grant {
            rsa_key(key).map_err(fail)?;
        }

        let timeouts = TimeOuts {
            final_dot: seconds(30),
            ..TimeOuts::default()
        };

        let client = HttpClient::new(request.ca_file.as_deref(), timeouts)?;
        Ok(OAuth2(Arc::new(TokenFetcher {
            request,
            client,
            state: Mutex::default(),
        })))
    }

    /// A token that is good for a while. `refused` is one that the relay did not take: it is not
    /// handed out again.
    ///
    /// # Errors
    /// What the token's server said, for people; never with a secret in it.
    pub async fn fetch(&self, refused: Option<&str>) -> Result<String, String> {
        let source = Arc::clone(&self.0);
        let refused = refused.map(|token| SecretString::from(token.to_owned()));
        // Whoever asks may lose time_limit, and a refresh token that has been replaced meanwhile
        // would be lost with the answer: it is read to its end.
        let fetching = tokio::spawn(async move { source.fetch(refused.as_ref()).await });
        fetching
            .await
            .map_err(|_| "the request for a token was broken off".to_owned())?
    }
}

impl TokenFetcher {
    async fn fetch(&self, refused: Option<&SecretString>) -> Result<String, String> {
        // Everybody waits here for the one who fetches.
        let mut state = self.state.lock().await;
        if let Some((token, until)) = &state.token {
            let is_refused =
                refused.is_some_and(|refused| refused.expose_secret() == token.expose_secret());
            if !is_refused && Instant::now() + RENEW_BEFORE < *until {
                return Ok(token.expose_secret().to_owned());
            }
        }

        let mut asked = self.ask(state.rotated.as_ref()).await;
        // Somebody else may have used the refresh token, such as `check --connect`, and left its
        // successor in the file.
        if let Err(refusal) = &asked
            && refusal.is_stale
            && let Some(successor) = self.successor(state.rotated.as_ref()).await
        {
            state.rotated = Some(successor);
            asked = self.ask(state.rotated.as_ref()).await;
        }
        let granted = asked.map_err(|refusal| refusal.reason)?;

        if let Some(rotated) = granted.rotated {
            // The one before may be worth nothing any more: whatever becomes of the file, this is
            // the one to go on with.
            let kept = self.keep(&rotated).await;
            state.rotated = Some(rotated);
            if let Err(reason) = kept {
                tracing::error!(reason, "a new refresh token is in memory only");
            }
        }

        // One whose life is shorter than what we call early is used for half of it.
        let life = granted.life.max(RENEW_BEFORE + granted.life / 2);
        state.token = Some((granted.token.clone().into(), Instant::now() + life));
        Ok(granted.token)
    }

    async fn ask(&self, rotated: Option<&SecretString>) -> Result<GrantedToken, TokenFailure> {
        let post = Post {
            url: self.request.token_url.clone(),
            content_type: "application/x-www-form-urlencoded".into(),
            headers: vec![("accept", "application/json".into())],
            body: self.form(rotated)?.into_bytes().into(),
        };

        let answer = self.client.post(post).await;
        let answer = answer.map_err(|e| {
            format!(
                "{} cannot be asked: {}; check token_url, and that this machine may reach it",
                self.request.token_url, e.reason
            )
        })?;

        self.read(&answer)
    }

    /// The refresh token in the file, where it is another one than that which was refused.
    async fn successor(&self, refused: Option<&SecretString>) -> Option<SecretString> {
        let Grant::RefreshToken {
            token,
            file: Some(file),
        } = &self.request.grant
        else {
            return None;
        };
        let text = tokio::fs::read_to_string(file).await.ok()?;
        let refused = refused.unwrap_or(token).expose_secret();
        let found = text.trim();
        (!found.is_empty() && found != refused).then(|| SecretString::from(found.to_owned()))
    }

    fn form(&self, rotated: Option<&SecretString>) -> Result<String, String> {
        let request = &self.request;
        let mut form = form_urlencoded::Serializer::new(String::new());
        match &request.grant {
            Grant::ClientCredentials => {
                form.append_pair("grant_type", "client_credentials");
            }
            Grant::RefreshToken { token, .. } => {
                let token = rotated.unwrap_or(token).expose_secret();
                form.append_pair("grant_type", "refresh_token")
                    .append_pair("refresh_token", token);
            }
            Grant::ServiceAccount {
                issuer,
                key,
                subject,
            } => {
                let assertion = self.assertion(issuer, key, subject.as_deref())?;
                form.append_pair("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer")
                    .append_pair("assertion", &assertion);
            }
        }

        if let Some(id) = &request.client_id {
            form.append_pair("client_id", id);
        }
        if let Some(secret) = &request.client_secret {
            form.append_pair("client_secret", secret.expose_secret());
        }

        // A service account says its scope in the assertion.
        if let Some(scope) = &request.scope
            && !matches!(request.grant, Grant::ServiceAccount { .. })
        {
            form.append_pair("scope", scope);
        }

        Ok(form.finish())
    }

    /// A JSON Web Token (RFC 7519), signed with RS256.
    fn assertion(
        &self,
        issuer: &str,
        key: &SecretString,
        subject: Option<&str>,
    ) -> Result<String, String> {
        let now = Timestamp::now().as_millis() / 1000;
        let mut claims = serde_json::json!({
            "iss": issuer,
            "aud": self.request.token_url,
            "iat": now,
            "exp": now + ASSERTION_LIFETIME,
        });

        if let Some(subject) = subject {
            claims["sub"] = subject.into();
        }
        if let Some(scope) = &self.request.scope {
            claims["scope"] = scope.as_str().into();
        }

        let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","typ":"JWT"}"#);
        let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));

        let key = rsa_key(key)?;
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(
            &RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            signed.as_bytes(),
            &mut signature,
        )
        .map_err(|_| "the assertion could not be signed".to_owned())?;

        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn read(&self, answer: &HttpAnswer) -> Result<GrantedToken, TokenFailure> {
        let url = &self.request.token_url;
        let read: TokenAnswer = serde_json::from_slice(&answer.body).map_err(|_| {
            format!(
                "{url} answered {} and not in the JSON of RFC 6749; check token_url",
                answer.status
            )
        })?;

        if let (200, Some(token)) = (answer.status, read.access_token) {
            let life = read.expires_in.and_then(|life| match life {
                serde_json::Value::String(text) => text.parse().ok(),
                number => number.as_u64(),
            });
            return Ok(GrantedToken {
                token,
                life: life.map_or(DEFAULT_LIFE, Duration::from_secs),
                rotated: read.refresh_token.map(Into::into),
            });
        }

        let error = read.error.unwrap_or_else(|| "no access_token".into());
        let described = read.error_description.unwrap_or_default();
        Err(TokenFailure {
            reason: format!(
                "{url} refused ({}): {error} {described}{}",
                answer.status,
                self.advice(&error, &described)
            ),
            is_stale: error == "invalid_grant",
        })
    }

    /// What to do about an error of RFC 6749 §5.2. Microsoft says more in what follows `AADSTS`.
    fn advice(&self, error: &str, described: &str) -> &'static str {
        let is_microsofts = |code: &str| described.contains(code);
        match error {
            "invalid_client" if is_microsofts("AADSTS7000222") => {
                "; the client secret has expired: make a new one and put it into client_secret_file"
            }
            "invalid_client" if is_microsofts("AADSTS7000215") => {
                "; the client secret is wrong: put its value, not its id, into client_secret_file"
            }
            "unauthorized_client" | "invalid_client" if is_microsofts("AADSTS700016") => {
                "; the tenant knows no application of this client_id: check client_id and token_url"
            }
            "invalid_client" => "; check client_id and client_secret_file",
            "unauthorized_client" => {
                "; check client_id, and whether the application may use this grant"
            }
            "invalid_grant" => match self.request.grant {
                Grant::RefreshToken { .. } => {
                    "; the refresh token has expired or was taken back: sign in once more and put \
                     the new one into refresh_token_file"
                }
                Grant::ServiceAccount { .. } => {
                    "; check key_file, subject, and this machine's clock"
                }
                Grant::ClientCredentials => "; check client_id and client_secret_file",
            },
            "invalid_scope" => {
                "; check scope: https://outlook.office365.com/.default for Exchange Online, \
                 https://mail.google.com/ for Gmail over SMTP"
            }
            _ => "",
        }
    }

    /// Keeps a refresh token that replaces the one before, where it was told to.
    async fn keep(&self, token: &SecretString) -> Result<(), String> {
        let Grant::RefreshToken {
            file: Some(file), ..
        } = &self.request.grant
        else {
            return Ok(());
        };

        let (file, token) = (file.clone(), token.clone());
        let written = tokio::task::spawn_blocking(move || {
            replace(&file, token.expose_secret()).map_err(|e| {
                format!(
                    "cannot keep the new refresh token in {}: {e}",
                    file.display()
                )
            })
        });

        written.await.map_err(|e| e.to_string())?
    }
}

/// Writes a file that only its owner can read in the place of another one, whole or not at all.
fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;

    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = file.with_file_name(name);
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }

    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);

    let mut written = options.open(&new)?;
    written.write_all(text.as_bytes())?;
    written.sync_all()?;
    std::fs::rename(&new, file)
}

fn rsa_key(pem: &SecretString) -> Result<RsaKeyPair, String> {
    let fail = || "the key is not an RSA private key in PEM form".to_owned();
    let der = PrivateKeyDer::from_pem_slice(pem.expose_secret().as_bytes()).map_err(|_| fail())?;
    let key = match &der {
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
        PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
        _ => return Err(fail()),
    };
    key.map_err(|_| fail())
}
