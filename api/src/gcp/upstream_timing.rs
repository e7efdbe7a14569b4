//! Measures how long a request waited for Google, for its `Server-Timing` header.

use std::cell::Cell;
use std::pin::Pin;
use std::time::{Duration, Instant};

use axum::http::{HeaderName, HeaderValue};

/// The header's name (W3C, "Server Timing").
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

tokio::task_local! {
    static WAITED: Cell<Timings>;
}

/// How long a request waited.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// An access token that had to be fetched.
    token: Duration,
    /// Google's answers.
    upstream: Duration,
}

/// Adds the time until it is dropped to the timings of the current request, if there is one. A timeout drops it, too.
#[must_use]
pub struct Timer {
    began: Instant,
    add: fn(&mut Timings, Duration),
}

/// Runs the work of a request and returns its timings. The caller pins the work, so that a large future is not copied.
pub async fn recorded<F: Future>(work: Pin<&mut F>) -> (F::Output, Timings) {
    let work = async { (work.await, WAITED.with(Cell::get)) };
    WAITED.scope(Cell::default(), work).await
}

/// Times the wait for an access token.
pub fn token(began: Instant) -> Timer {
    let add = |waited: &mut Timings, time| waited.token += time;
    Timer { began, add }
}

/// Times the wait for an answer of Google's.
pub fn upstream(began: Instant) -> Timer {
    let add = |waited: &mut Timings, time| waited.upstream += time;
    Timer { began, add }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let _no_request = WAITED.try_with(|cell| {
            let mut waited = cell.get();
            (self.add)(&mut waited, self.began.elapsed());
            cell.set(waited);
        });
    }
}

impl Timings {
    /// The header's value, in milliseconds. None if there was nothing to wait for.
    pub fn header(self) -> Option<HeaderValue> {
        let tenths = |time: Duration| time.as_micros() as u64 / 100;
        let (token, upstream) = (tenths(self.token), tenths(self.upstream));
        if self.upstream.is_zero() && token == 0 {
            return None;
        }
        let mut value = format!("upstream;dur={}.{}", upstream / 10, upstream % 10);
        if token > 0 {
            value = format!("token;dur={}.{}, {value}", token / 10, token % 10);
        }
        HeaderValue::try_from(value).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn waits_are_summed_and_reported_even_if_they_were_cancelled() {
        let ago = |millis| Instant::now() - Duration::from_millis(millis);
        let work = pin!(async {
            drop(token(ago(12)));
            drop(upstream(ago(100)));
            let too_long = async {
                let _waiting = upstream(ago(200));
                std::future::pending::<()>().await;
            };
            let given_up = tokio::time::timeout(Duration::ZERO, too_long).await;
            given_up.is_err()
        });
        let (given_up, waited) = recorded(work).await;
        assert!(given_up);
        let (token, upstream) = (waited.token.as_millis(), waited.upstream.as_millis());
        assert!(token >= 12 && upstream >= 300, "{token} {upstream}");
        let header = waited.header().unwrap();
        let header = header.to_str().unwrap();
        assert!(header.starts_with("token;dur=") && header.contains(", upstream;dur="));

        assert!(recorded(pin!(async {})).await.1.header().is_none());
        drop(super::upstream(ago(1))); // outside of any request
    }
}
