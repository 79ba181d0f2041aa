//! Receives a request's body, with limits on its size, on its time, and on the memory of all bodies
//! together.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use super::Door;
use super::problem::{Kind, Problem, malformed, misshapen};

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// A body, and the memory that is reserved for it.
pub(super) struct HeldBody {
    /// The body.
    pub bytes: Bytes,
    /// Released when this is dropped: when the body and everything made from it is gone.
    pub room: ReservedMemory,
}

impl HeldBody {
    /// Parses it as JSON. The error names the first mistake.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let mut json = serde_json::Deserializer::from_slice(&self.bytes);
        let read: Result<T, _> = serde_path_to_error::deserialize(&mut json);
        let read = read.map_err(|error| match error.inner().is_data() {
            true => Problem::invalid(vec![misshapen(error)]),
            false => malformed(error.inner()),
        })?;

        json.end().map_err(|error| malformed(&error))?;
        Ok(read)
    }
}

/// The memory that a body has reserved of the common limit.
pub(super) type ReservedMemory = Option<OwnedSemaphorePermit>;

/// What a body is, by its Content-Type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MediaType {
    Json,
    Message,
}

impl MediaType {
    /// The type by the header fields.
    ///
    /// # Errors
    /// If it is another type, or the body is compressed.
    pub fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        if headers
            .get(header::CONTENT_ENCODING)
            .is_some_and(|coding| coding != "identity")
        {
            return Err(Problem::new(
                Kind::MediaType,
                "compressed bodies are not taken; leave Content-Encoding out",
            ));
        }

        let given = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();

        let essence = given.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/json") {
            Ok(MediaType::Json)
        } else if essence.eq_ignore_ascii_case("message/rfc822") {
            Ok(MediaType::Message)
        } else {
            let detail = "Content-Type must be application/json, or message/rfc822 where one \
                          message is submitted";
            Err(Problem::new(Kind::MediaType, detail))
        }
    }
}

impl Door {
    /// Reads a whole body of at most `max` bytes.
    ///
    /// # Errors
    /// If it is larger, does not arrive in time or is broken off; or if all bodies together take
    /// too much memory.
    pub(super) async fn collect(&self, body: Body, max: usize) -> Result<HeldBody, Problem> {
        // More than the common limit is never available.
        let max = max.min(self.limits.permits());
        if body.size_hint().lower() > max as u64 {
            return Err(too_large(max));
        }
        match tokio::time::timeout(self.limits.body_timeout, self.read(body, max)).await {
            Ok(read) => read,
            Err(_) => Err(late(self.limits.body_timeout)),
        }
    }

    /// As [`Door::collect`], for JSON. Skips a byte order mark at the beginning, which files from
    /// Windows have (RFC 8259 §8.1).
    ///
    /// # Errors
    /// As [`Door::collect`].
    pub(super) async fn collect_json(&self, body: Body, max: usize) -> Result<HeldBody, Problem> {
        let mut held = self.collect(body, max).await?;
        if held.bytes.starts_with(BYTE_ORDER_MARK) {
            held.bytes = held.bytes.slice(BYTE_ORDER_MARK.len()..);
        }
        Ok(held)
    }

    async fn read(&self, mut body: Body, max: usize) -> Result<HeldBody, Problem> {
        let mut only = Bytes::new();
        let mut joined = BytesMut::new();
        let mut length = 0;

        let mut room: ReservedMemory = None;
        while let Some(data) = piece(&mut body).await? {
            length += data.len();
            if length > max {
                return Err(too_large(max));
            }
            // Memory is reserved as bytes arrive, so that announcing a large body reserves none. It
            // is never waited for: requests that wait would keep what they have reserved.
            let more = u32::try_from(data.len()).unwrap_or(u32::MAX);
            let more = self
                .room
                .clone()
                .try_acquire_many_owned(more)
                .map_err(|_| {
                    Problem::new(
                        Kind::Full,
                        "too many large requests are being read at this moment; try again later",
                    )
                })?;
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
            // A body in one piece, which is the usual case, is not copied.
            if only.is_empty() {
                only = data;
                continue;
            }
            if joined.is_empty() {
                joined.extend_from_slice(&only);
            }
            joined.extend_from_slice(&data);
        }

        let bytes = if joined.is_empty() {
            only
        } else {
            joined.freeze()
        };

        Ok(HeldBody { bytes, room })
    }
}

/// The next bytes of a body; `None` at its end. Trailers are skipped.
///
/// # Errors
/// If the client has disconnected.
pub(super) async fn piece(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|_| Problem::new(Kind::Malformed, "the body ended before it was complete"))?;
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            return Ok(Some(data));
        }
    }

    Ok(None)
}

pub(super) fn late(allowed: Duration) -> Problem {
    let seconds = allowed.as_secs();
    Problem::new(
        Kind::TimedOut,
        format!("the body did not arrive within {seconds} seconds"),
    )
}

pub(super) fn too_large(max: usize) -> Problem {
    Problem::new(
        Kind::TooLarge,
        format!("the body has more than {max} bytes, the maximum here"),
    )
}
