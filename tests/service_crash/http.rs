//! Clients of the HTTP door: one submits a mail at a time, one a batch, and one follows what
//! happens.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::client::{Answer, ConnectionLost, Door};
use super::mails::Draft;

/// A connection that is made when it is needed.
pub struct Http {
    address: SocketAddr,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Http {
    pub fn to(address: SocketAddr) -> Self {
        Http {
            address,
            connection: None,
        }
    }

    async fn request(
        &mut self,
        request: hyper::http::request::Builder,
        body: String,
    ) -> Result<Response<Incoming>, ConnectionLost> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(self.address).await?;
                stream.set_nodelay(true)?;
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                sender
            }
        };

        connection.ready().await?;
        let request = request
            .header("host", self.address.to_string())
            .header("content-type", "application/json");
        let response = connection
            .send_request(request.body(Full::new(body.into())).unwrap())
            .await?;

        self.connection = Some(connection);
        Ok(response)
    }

    async fn whole(
        &mut self,
        request: hyper::http::request::Builder,
        body: String,
    ) -> Result<(StatusCode, Value), ConnectionLost> {
        let (head, body) = self.request(request, body).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        let value = serde_json::from_slice(&body);
        Ok((
            head.status,
            value.unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(&body))),
        ))
    }

    /// How many deliveries wait.
    pub async fn pending(&mut self) -> Result<u64, ConnectionLost> {
        let (_, stats) = self.whole(Request::get("/v1/stats"), String::new()).await?;
        Ok(stats["pending"].as_u64().unwrap())
    }

    /// Tells of each delivery (the mail's id, the recipient) that the service says was made, until
    /// it says nothing more.
    pub async fn follow(
        mut self,
        mut delivered: impl FnMut(&str, &str),
    ) -> Result<(), ConnectionLost> {
        let mut body = self
            .request(Request::get("/v1/events"), String::new())
            .await?
            .into_body();

        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            text.extend_from_slice(frame?.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = memchr::memmem::find(&text, b"\n\n") {
                let block: Vec<u8> = text.drain(..end + 2).collect();
                let block = String::from_utf8(block).unwrap();
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
                if field("event: ") == Some("delivered") {
                    let data: Value = serde_json::from_str(field("data: ").unwrap()).unwrap();
                    delivered(
                        data["mail"].as_str().unwrap(),
                        data["recipient"].as_str().unwrap(),
                    );
                }
            }
        }

        Ok(())
    }
}

fn answer(status: u64, value: &Value) -> Answer {
    match (status, value["id"].as_str()) {
        (202, Some(id)) => Answer::Taken(id.to_owned()),
        (503, _) => Answer::Later,
        _ => Answer::Refused(format!("{status} {value}")),
    }
}

impl Door for Http {
    async fn hand_in(
        &mut self,
        drafts: &[Draft],
        tell: &mut impl FnMut(&Draft, Answer),
    ) -> Result<(), ConnectionLost> {
        for draft in drafts {
            let request = Request::post("/v1/mails").header("idempotency-key", &draft.key);
            let (status, value) = self.whole(request, draft.json().to_string()).await?;
            tell(draft, answer(status.as_u16().into(), &value));
        }
        Ok(())
    }

    fn hang_up(&mut self) {
        self.connection = None;
    }
}

/// Hands in many mails with one request.
pub struct Batches(pub Http);

impl Door for Batches {
    const GROUP: usize = 16;

    async fn hand_in(
        &mut self,
        drafts: &[Draft],
        tell: &mut impl FnMut(&Draft, Answer),
    ) -> Result<(), ConnectionLost> {
        let mails = drafts.iter().map(|draft| {
            let mut mail = draft.json();
            mail["idempotency_key"] = json!(draft.key);
            mail
        });

        let batch = json!({"mails": mails.collect::<Vec<_>>()});
        let (status, value) = self
            .0
            .whole(Request::post("/v1/mails/batch"), batch.to_string())
            .await?;

        let results = value["results"].as_array();
        assert_eq!(
            results.map(Vec::len),
            Some(drafts.len()),
            "{status} {value}"
        );

        for (draft, result) in drafts.iter().zip(results.into_iter().flatten()) {
            tell(
                draft,
                answer(
                    result["status"].as_u64().unwrap_or(status.as_u16().into()),
                    result,
                ),
            );
        }

        Ok(())
    }

    fn hang_up(&mut self) {
        self.0.hang_up();
    }
}
