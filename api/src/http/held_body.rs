//! A body whose bytes count against the memory budget, and are dropped if its reader is too slow while others need the memory.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use parking_lot::{Mutex, MutexGuard};

use crate::gcp::page_memory::Held;

/// How many bytes are handed to the connection at a time. Those can no longer be dropped.
const CHUNK_BYTES: usize = 16 * 1024;

/// The bytes of an answer, in pieces that are freed as they are sent.
pub struct HeldBody {
    chunks: Arc<Mutex<Chunks>>,
    held: Held,
}

#[derive(Default)]
struct Chunks {
    chunks: VecDeque<Bytes>,
    remaining: usize,
}

/// Collects a body in pieces.
#[derive(Default)]
pub struct BodyWriter {
    chunks: VecDeque<Bytes>,
    last: Vec<u8>,
    written: usize,
}

impl io::Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES - self.last.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.last.reserve_exact(room);
        self.last.extend_from_slice(taken);
        self.written += taken.len();
        if self.last.len() == CHUNK_BYTES {
            self.finish_chunk();
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BodyWriter {
    fn finish_chunk(&mut self) {
        let chunk = std::mem::take(&mut self.last);
        self.chunks.push_back(chunk.into());
    }

    /// The body, which keeps `held` until it is sent.
    pub fn into_body(mut self, held: Held) -> HeldBody {
        self.last.shrink_to_fit();
        self.finish_chunk();
        held.set(self.written);
        let chunks = Arc::new(Mutex::new(Chunks {
            chunks: self.chunks,
            remaining: self.written,
        }));
        let dropped = Arc::clone(&chunks);
        held.on_shortage(move || lock(&dropped).chunks = VecDeque::new());
        HeldBody { chunks, held }
    }
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let mut chunks = lock(&self.chunks);
        if chunks.remaining == 0 {
            return Poll::Ready(None);
        }
        let Some(chunk) = chunks.chunks.pop_front() else {
            let error = io::Error::other("the reader was too slow, and others needed the memory");
            return Poll::Ready(Some(Err(error)));
        };
        chunks.remaining -= chunk.len();
        self.held.set(chunks.remaining);
        self.held.touch();
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.chunks).remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(lock(&self.chunks).remaining as u64)
    }
}

fn lock(chunks: &Mutex<Chunks>) -> MutexGuard<'_, Chunks> {
    chunks.lock()
}
