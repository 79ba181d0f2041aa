//! A body that blocking code reads as it arrives: only a few pieces wait in between, so that the
//! whole may be large.

use std::io::{self, Read};
use std::time::Instant;

use axum::body::{Body, HttpBody};
use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use super::Door;
use super::body::{late, piece, too_large};
use super::problem::Problem;

/// How many pieces wait to be read.
const WAITING_PIECES: usize = 2;
/// So much of a body may take as long as a whole one may elsewhere.
const STRETCH: usize = 1024 * 1024;

/// Where the pieces of a body are put, and whoever reads them.
pub(super) fn channel() -> (mpsc::Sender<Bytes>, BodyReader) {
    let (sender, pieces) = mpsc::channel(WAITING_PIECES);
    let reader = BodyReader {
        pieces,
        begun: Bytes::new(),
        is_over: false,
    };
    (sender, reader)
}

/// Reads a body. It may wait, and must not be read on a thread that others need.
///
/// An empty piece is the end. Without one the body was cut off, and what came of its last line is
/// not to be taken for the whole of it.
pub(super) struct BodyReader {
    pieces: mpsc::Receiver<Bytes>,
    /// What was begun of a piece.
    begun: Bytes,
    /// Whether it has come to its end, which who reads may ask for again.
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
    /// Passes a body of at most `max` bytes on, until its end. What nobody reads any more is taken
    /// and dropped: who sends it learns why once all is sent, as not every client looks before.
    ///
    /// # Errors
    /// It is larger, the client let us wait too long, or it went away.
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
        // Only what the client takes is counted: it may not be able to send while we write.
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
