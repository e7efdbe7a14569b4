//! How long a request waited for others: its `Server-Timing` header tells.

use std::cell::Cell;
use std::pin::Pin;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};

/// The header's name (W3C, "Server Timing").
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

tokio::task_local! {
    static WAITED: Cell<Waited>;
}

/// What a request waited for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waited {
    /// An access token that had to be fetched.
    pub token: Duration,
    /// Google's answers.
    pub upstream: Duration,
}

/// Runs the work of a request, which is too large to be moved once more, and tells what it waited for.
pub async fn noted<F: Future>(work: Pin<&mut F>) -> (F::Output, Waited) {
    let work = async { (work.await, WAITED.with(Cell::get)) };
    WAITED.scope(Cell::default(), work).await
}

/// Takes note of a wait; of none if no request is waiting here.
pub fn note(token: Duration, upstream: Duration) {
    let _nobody = WAITED.try_with(|waited| {
        let before = waited.get();
        waited.set(Waited {
            token: before.token + token,
            upstream: before.upstream + upstream,
        });
    });
}

impl Waited {
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
    async fn what_was_waited_for_is_summed_and_told() {
        let millis = Duration::from_millis;
        let work = pin!(async {
            note(millis(12), millis(100));
            note(Duration::from_nanos(80), millis(3));
            5
        });
        let (answer, waited) = noted(work).await;
        let told = waited.header().unwrap();
        assert_eq!(
            (answer, told.as_bytes()),
            (5, &b"token;dur=12.0, upstream;dur=103.0"[..])
        );
        assert!(noted(pin!(async {})).await.1.header().is_none());
        note(millis(1), millis(1)); // by nobody's request
    }
}
