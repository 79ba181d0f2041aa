//! An open submission door with an engine behind it, and a client that says whatever a test wants.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::TestSpool;
use postrider::dispatch::Builder;
use postrider::ingress::smtp::{Reloader, SmtpDoor, SmtpSettings, TlsFiles, User};
use postrider::transport::{Capture, Captured};
use postrider::{Dispatcher, Drain, Relay, seconds};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Nothing in these tests takes this long unless it hangs.
const WAIT_LIMIT: Duration = Duration::from_secs(20);

/// A certificate for `localhost` and `127.0.0.1`, which is its own authority, and where it lies.
pub struct Certificate {
    dir: tempfile::TempDir,
}

impl Certificate {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made =
            rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])
                .unwrap();
        std::fs::write(dir.path().join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        Certificate { dir }
    }

    pub fn cert(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    pub fn files(&self) -> TlsFiles {
        TlsFiles {
            cert: self.cert(),
            key: self.dir.path().join("key.pem"),
        }
    }
}

/// The one user of most tests.
pub fn app() -> User {
    User {
        name: "app".into(),
        password: "se:cr et".into(),
    }
}

/// `\0app\0se:cr et` in base64.
pub const APP_PLAIN: &str = "AGFwcABzZTpjciBldA==";

/// Settings for any free port of loopback.
pub fn settings() -> SmtpSettings {
    let mut settings = SmtpSettings::new(([127, 0, 0, 1], 0).into());
    settings.hostname = "door.example".into();
    settings.limits.login_penalty = Duration::ZERO;
    settings
}

/// Settings with TLS on both ports, and a user.
pub fn secured(certificate: &Certificate) -> SmtpSettings {
    let tls_listen = Some(([127, 0, 0, 1], 0).into());
    SmtpSettings {
        tls: Some(certificate.files()),
        tls_listen,
        users: vec![app()],
        ..settings()
    }
}

/// A door that is open.
pub struct Door {
    pub address: SocketAddr,
    pub tls_address: Option<SocketAddr>,
    pub postrider: Dispatcher,
    pub reloader: Reloader,
    capture: Capture,
    shutdown: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Door {
    pub async fn open() -> Self {
        Door::with(settings()).await
    }

    pub async fn with(settings: SmtpSettings) -> Self {
        Door::before(settings, |engine| engine.test_spool()).await
    }

    /// In front of an engine that captures what it sends.
    pub async fn before(settings: SmtpSettings, engine: impl FnOnce(Builder) -> Builder) -> Self {
        let capture = Capture::default();
        let postrider = engine(Dispatcher::builder().relay(Relay::capture(&capture)))
            .start()
            .await
            .unwrap();
        let door = SmtpDoor::bind(settings).await.unwrap();
        let (address, tls_address, reloader) =
            (door.local_addr(), door.tls_local_addr(), door.reloader());
        let (shutdown, stopping) = watch::channel(false);

        let serving = tokio::spawn(door.serve(postrider.clone(), stopping));
        Door {
            address,
            tls_address,
            postrider,
            reloader,
            capture,
            shutdown,
            serving,
        }
    }

    pub async fn client(&self) -> Client {
        connect(self.address).await
    }

    /// What has left the engine so far, once all that is due has.
    pub async fn sent(&self) -> Vec<Captured> {
        timeout(WAIT_LIMIT, self.postrider.wait_idle())
            .await
            .unwrap();
        self.capture.captured()
    }

    /// The message of the only mail.
    pub async fn only(&self) -> String {
        let sent = self.sent().await;
        assert_eq!(sent.len(), 1, "{sent:?}");
        String::from_utf8_lossy(&sent[0].message).into_owned()
    }

    pub fn begin_shutdown(&self) {
        self.shutdown.send_replace(true);
    }

    /// Waits until every connection is closed.
    pub async fn shut(self) {
        self.begin_shutdown();
        timeout(WAIT_LIMIT, self.serving).await.unwrap().unwrap();
        self.postrider
            .shutdown(Drain::within(seconds(5)))
            .await
            .unwrap();
    }
}

/// A client of the door at this address.
pub async fn connect(address: SocketAddr) -> Client {
    Client::new(TcpStream::connect(address).await.unwrap()).await
}

/// What was logged.
#[derive(Clone, Default)]
pub struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl Log {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A connection.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// A client that has been greeted, or turned away.
pub struct Client {
    wire: BufStream<Box<dyn Wire>>,
    /// The first thing that it was told.
    pub greeting: String,
}

impl Client {
    async fn new(wire: impl Wire + 'static) -> Self {
        let mut client = Client {
            wire: BufStream::new(Box::new(wire)),
            greeting: String::new(),
        };
        client.greeting = client.reply().await;
        client
    }

    /// Over implicit TLS.
    pub async fn over_tls(address: SocketAddr, certificate: &Certificate) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        Ok(Client::new(handshake(stream, certificate).await?).await)
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.write_all(bytes.as_ref()).await.unwrap();
        self.wire.flush().await.unwrap();
    }

    /// The next reply, of all its lines; empty when the door has hung up.
    pub async fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let start = reply.len();
            match timeout(WAIT_LIMIT, self.wire.read_line(&mut reply))
                .await
                .expect("an answer within the time")
            {
                Ok(0) | Err(_) => return reply,
                Ok(_) if reply.as_bytes().get(start + 3) != Some(&b'-') => return reply,
                Ok(_) => {}
            }
        }
    }

    pub async fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n")).await;
        self.reply().await
    }

    #[track_caller]
    pub fn expect<'a>(
        &'a mut self,
        line: &'a str,
        start: &'a str,
    ) -> impl Future<Output = String> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let reply = self.ask(line).await;
            assert!(
                reply.starts_with(start),
                "{caller}: {line} was answered {reply:?}"
            );
            reply
        }
    }

    /// EHLO, and the envelope of a mail.
    pub async fn begin(&mut self) {
        self.expect("EHLO client.example", "250").await;
        self.envelope().await;
    }

    pub async fn envelope(&mut self) {
        self.expect("MAIL FROM:<shop@example.com>", "250 2.1.0")
            .await;
        self.expect("RCPT TO:<ada@example.org>", "250 2.1.5").await;
    }

    /// DATA, and the message, which ends with CRLF; what is answered to its end.
    pub async fn data(&mut self, message: impl AsRef<[u8]>) -> String {
        self.expect("DATA", "354 ").await;
        self.send(message).await;
        self.ask(".").await
    }

    /// STARTTLS and the handshake; nothing of the dialogue before it holds after it.
    pub async fn start_tls(mut self, certificate: &Certificate) -> Self {
        self.expect("STARTTLS", "220 2.0.0").await;
        let wire = handshake(self.wire.into_inner(), certificate)
            .await
            .unwrap();
        Client {
            wire: BufStream::new(Box::new(wire)),
            greeting: self.greeting,
        }
    }

    /// Whether the door has hung up, with nothing more to say.
    pub async fn is_closed(&mut self) -> bool {
        self.reply().await.is_empty()
    }
}

async fn handshake<S: Wire>(
    stream: S,
    certificate: &Certificate,
) -> std::io::Result<impl Wire + use<S>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(certificate.cert()).unwrap())
        .unwrap();

    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();

    let name = ServerName::try_from("localhost").unwrap();
    timeout(
        WAIT_LIMIT,
        TlsConnector::from(Arc::new(config)).connect(name, stream),
    )
    .await
    .unwrap()
}
