//! A connection that is ended if its peer reads below a minimum rate.
//!
//! Otherwise a peer that reads a little now and then could hold an answer, and its permit as a request in flight, for any time.
//! A peer that reads nothing is ended by the kernel (TCP_USER_TIMEOUT).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// While there is something left to send, a peer must read so many bytes in each such window: 16 KiB a second. A phone at the
/// edge of its network reads more.
const WINDOW: Duration = Duration::from_secs(20);
const MIN_BYTES: usize = 20 * 16 * 1024;

/// A stream that fails with `TimedOut` once its peer is too slow.
pub struct MinimumRate<S> {
    stream: S,
    window: Duration,
    /// Since when writing has had to wait. None if everything was written.
    waiting: Option<Window>,
}

struct Window {
    end: Pin<Box<Sleep>>,
    taken: usize,
}

impl<S> MinimumRate<S> {
    /// Wraps the stream, with nothing to send yet.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            window: WINDOW,
            waiting: None,
        }
    }

    fn written(&mut self, bytes: usize) {
        if let Some(window) = &mut self.waiting {
            window.taken += bytes;
        }
    }

    /// Waits while the peer is fast enough, and returns the error once it is too slow.
    fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let length = self.window;
        let window = self.waiting.get_or_insert_with(|| Window {
            end: Box::pin(sleep(length)),
            taken: 0,
        });
        loop {
            ready!(window.end.as_mut().poll(cx));
            if window.taken < MIN_BYTES {
                let error = "the reader takes less than the minimum rate";
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, error));
            }
            window.taken = 0;
            window.end.as_mut().reset(Instant::now() + length);
        }
    }

    fn checked(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => self.written(bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => return self.poll_too_slow(cx).map(Err),
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MinimumRate<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MinimumRate<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.checked(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.checked(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Hyper flushes once it has written everything it has.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.waiting = None;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Far shorter than the real one, since the test waits for it.
    const SHORT: Duration = Duration::from_millis(400);

    fn short<S>(stream: S) -> MinimumRate<S> {
        MinimumRate {
            window: SHORT,
            ..MinimumRate::new(stream)
        }
    }

    /// Whether an answer can be written to a reader who takes `bytes` each quarter of the window.
    async fn write_to(bytes: usize) -> io::Result<()> {
        let (near, mut far) = duplex(MIN_BYTES);
        let writer = async {
            let mut near = short(near);
            near.write_all(&vec![0; 3 * MIN_BYTES]).await?;
            near.flush().await
        };
        let reader = async {
            let mut buffer = vec![0; bytes];
            loop {
                tokio::time::sleep(SHORT / 4).await;
                let taken = far.read(&mut buffer).await.unwrap();
                assert!(taken > 0);
            }
        };
        tokio::select! { written = writer => written, () = reader => Ok(()) }
    }

    #[tokio::test]
    async fn a_reader_below_the_minimum_rate_is_ended_and_one_above_it_is_not() {
        write_to(MIN_BYTES).await.unwrap();
        for bytes in [1, MIN_BYTES / 16] {
            let error = write_to(bytes).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
    }

    #[tokio::test]
    async fn a_pause_between_answers_does_not_count_as_slow_reading() {
        let (near, mut far) = duplex(1024);
        let mut near = short(near);
        for _ in 0..3 {
            let answer = async {
                near.write_all(&[0; 2048]).await.unwrap();
                near.flush().await.unwrap();
            };
            let mut buffer = [0; 2048];
            let (_, read) = tokio::join!(answer, far.read_exact(&mut buffer));
            read.unwrap();
            tokio::time::sleep(SHORT * 2).await;
        }
    }
}
