//! Large answers are kept in memory until clients have read them. The memory of all of them is
//! limited, as that of requests is.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::response::{IntoResponse, Response};
use bytes::{Buf, Bytes};
use hyper::body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use super::Door;
use super::problem::{Kind, Problem};

/// Smaller answers are not counted: each connection buffers as much anyway.
const LARGE_ANSWER: u64 = 256 * 1024;

/// How many bytes are passed on at a time, as a copy, so that the connection buffers only what it
/// is about to send.
const PIECE_BYTES: usize = 64 * 1024;

/// The answer with memory reserved until it was read; or a refusal, if there is not enough.
pub(super) fn held(response: Response, door: &Door) -> Response {
    // A stream has no size and reserves nothing.
    let Some(size) = response.body().size_hint().exact() else {
        return response;
    };
    if size < LARGE_ANSWER {
        return response;
    }

    // An answer larger than the limit reserves all of it, and is given when there is no other.
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let permits = u32::try_from(size.min(door.limits.permits())).unwrap_or(u32::MAX);
    match door.answers.clone().try_acquire_many_owned(permits) {
        Ok(room) => response.map(|whole| {
            Body::new(HeldAnswer {
                whole,
                unsent: Bytes::new(),
                _room: room,
            })
        }),
        Err(_) => Problem::new(
            Kind::Full,
            "too many large answers are being taken at this moment; try again later",
        )
        .into_response(),
    }
}

/// A body that is passed on in pieces; its memory is reserved until the last one.
struct HeldAnswer {
    whole: Body,
    /// The rest that was not passed on yet.
    unsent: Bytes,
    _room: OwnedSemaphorePermit,
}

impl HttpBody for HeldAnswer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        while self.unsent.is_empty() {
            let frame = ready!(Pin::new(&mut self.whole).poll_frame(context));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.unsent = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }

        let length = self.unsent.len().min(PIECE_BYTES);
        let piece = self.unsent.copy_to_bytes(length);
        Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(&piece)))))
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.whole.size_hint();
        let unsent = self.unsent.len() as u64;
        if let Some(left) = hint.exact() {
            hint.set_exact(left + unsent);
        }
        hint
    }
}
