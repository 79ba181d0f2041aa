//! Large answers wait in memory until their readers have taken them: what all of them hold is
//! bounded, as what requests hold is.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::response::{IntoResponse, Response};
use bytes::{Buf, Bytes};
use hyper::body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use super::Door;
use super::problem::{Kind, Problem};

/// Smaller answers are not counted: a connection holds as much by itself.
const LARGE_ANSWER: u64 = 256 * 1024;

/// So much is handed over at a time, as a copy, so that the connection holds no more than it is
/// about to send.
const PIECE_BYTES: usize = 64 * 1024;

/// The answer, if there is room for it until it is taken; else one that says so.
pub(super) fn held(response: Response, door: &Door) -> Response {
    // What is streamed has no size, and takes none.
    let Some(size) = response.body().size_hint().exact() else {
        return response;
    };
    if size < LARGE_ANSWER {
        return response;
    }

    // One that is larger than all the room takes all of it: alone, it is taken.
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

/// A body that is handed over in pieces, and the room that it takes until the last of them.
struct HeldAnswer {
    whole: Body,
    /// What was begun of it and is not handed over.
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
