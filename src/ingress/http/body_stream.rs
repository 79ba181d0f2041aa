//! Passes a body to blocking code while it arrives. Only a few pieces are buffered, so that the
//! whole may be large.

use std::io::{self, Read};
use std::time::Instant;

use axum::body::{Body, HttpBody};
use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use super::Door;
use super::body::{late, piece, too_large};
use super::problem::Problem;

/// How many pieces are buffered.
const WAITING_PIECES: usize = 2;
/// This many bytes of a body may take as long as a whole body may elsewhere.
const STRETCH: usize = 1024 * 1024;

/// A sender for the pieces of a body, and the reader.
pub(super) fn channel() -> (mpsc::Sender<Bytes>, BodyReader) {
    let (sender, pieces) = mpsc::channel(WAITING_PIECES);
    let reader = BodyReader {
        pieces,
        begun: Bytes::new(),
        is_over: false,
    };
    (sender, reader)
}

/// Reads a body. A read may block, so it must not run on an async thread.
///
/// An empty piece marks the end. Without one the body was broken off, and its last line may be
/// incomplete.
pub(super) struct BodyReader {
    pieces: mpsc::Receiver<Bytes>,
    /// The rest of the current piece.
    begun: Bytes,
    /// Whether the end was read; a reader may ask for it again.
    is_over: bool,
}

impl Read for BodyReader {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.begun.is_empty() && !self.is_over {
            let cut_off = || io::Error::from(io::ErrorKind::UnexpectedEof);
            self.begun = self.pieces.blocking_recv().ok_or_else(cut_off)?;
            self.is_over = self.begun.is_empty();
        }

        let length = self.begun.len().min(to.len());
        self.begun.copy_to_slice(&mut to[..length]);
        Ok(length)
    }
}

impl Door {
    /// Passes a body of at most `max` bytes to the reader, until its end. If the reader is gone,
    /// the rest is received and dropped, because some clients read the answer only after they have
    /// sent everything.
    ///
    /// # Errors
    /// If the body is larger, the client is too slow, or it has disconnected.
    pub(super) async fn pass_on(
        &self,
        mut body: Body,
        max: usize,
        to: mpsc::Sender<Bytes>,
    ) -> Result<(), Problem> {
        if body.size_hint().lower() > max as u64 {
            return Err(too_large(max));
        }

        let mut length = 0;
        // Only the client's time is counted: while the reader is busy, the client may be unable to
        // send.
        let mut time_left = self.limits.body_timeout;
        loop {
            let asked = Instant::now();
            let piece = tokio::time::timeout(time_left, piece(&mut body)).await;
            let piece = piece.map_err(|_| late(self.limits.body_timeout))??;
            time_left = time_left.saturating_sub(asked.elapsed());

            let is_end = piece.is_none();
            let data = piece.unwrap_or_default();
            let stretches = length / STRETCH;
            length += data.len();
            if length > max {
                return Err(too_large(max));
            }
            if length / STRETCH > stretches {
                time_left = self.limits.body_timeout;
            }

            let _ = to.send(data).await;
            if is_end {
                return Ok(());
            }
        }
    }
}
