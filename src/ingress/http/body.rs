//! Receives a request's body: bounded in size, in time, and in what all bodies together hold.

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

/// A body, and the room that it takes of what all bodies may.
pub(super) struct HeldBody {
    /// The body.
    pub bytes: Bytes,
    /// Given back when it is dropped, which is when nothing is left that was made of the body.
    pub room: ReservedMemory,
}

impl HeldBody {
    /// What its JSON says; the first mistake is named.
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

/// What a body takes of the room that all have together.
pub(super) type ReservedMemory = Option<OwnedSemaphorePermit>;

/// What a body is, by its Content-Type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MediaType {
    Json,
    Message,
}

impl MediaType {
    /// What a body is said to be.
    ///
    /// # Errors
    /// It is neither, or it is compressed.
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
    /// It is larger, it did not arrive in time, or the client went away; or all bodies together
    /// take too much room.
    pub(super) async fn collect(&self, body: Body, max: usize) -> Result<HeldBody, Problem> {
        // There will never be room for more than for all.
        let max = max.min(self.limits.permits());
        if body.size_hint().lower() > max as u64 {
            return Err(too_large(max));
        }
        match tokio::time::timeout(self.limits.body_timeout, self.read(body, max)).await {
            Ok(read) => read,
            Err(_) => Err(late(self.limits.body_timeout)),
        }
    }

    /// As [`Door::collect`], of JSON. A byte order mark before it, as files from Windows have it,
    /// is passed over (RFC 8259 §8.1).
    ///
    /// # Errors
    /// Those of [`Door::collect`].
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
            // Room is taken as bytes arrive, so that announcing a large body takes none; and it is
            // never waited for, because those who wait would hold what they have.
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
            // A body that comes in one piece, as most do, is not copied.
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

/// The next bytes of a body; `None` at its end. Trailers are passed over.
///
/// # Errors
/// The client went away.
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
        format!("the body has more than {max} bytes, which are the most that is taken here"),
    )
}
