//! Measures how late Cloud Logging shows lines. The event `end` of an execution waits that long for its last lines.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Lines that are later than this are not waited for.
pub const MAX_LAG: Duration = Duration::from_secs(10);
/// Measurements are forgotten after one to two of these.
const WINDOW: Duration = Duration::from_secs(60);

/// The delay measured on recently read lines. The process has one, since the lines of all executions take the same path.
pub struct LogLag(Mutex<[Window; 2]>);

/// The measurements of one window.
#[derive(Clone, Copy)]
struct Window {
    began: Instant,
    /// The age of the youngest line seen: lines are shown by that age.
    shown_by: Option<Duration>,
    /// The greatest age at which a line was seen not to be shown yet.
    not_shown_at: Duration,
}

impl Window {
    fn new(began: Instant) -> Self {
        Self {
            began,
            shown_by: None,
            not_shown_at: Duration::ZERO,
        }
    }
}

/// The new lines of a read: those that no read before it had returned.
#[derive(Clone, Copy, Debug)]
pub struct NewLines {
    /// When the oldest was printed.
    pub oldest: Timestamp,
    /// When the youngest was printed.
    pub youngest: Timestamp,
}

impl LogLag {
    /// No line was measured yet.
    pub fn new() -> Self {
        Self(Mutex::new([Window::new(Instant::now()); 2]))
    }

    /// Records the new lines of a read that ends now. `complete_read` is when an earlier read began that returned all lines that
    /// were visible then.
    pub fn record(&self, new: NewLines, complete_read: Option<Timestamp>, now: Timestamp) {
        let mut windows = self.0.lock();
        if windows[0].began.elapsed() > WINDOW {
            *windows = [Window::new(Instant::now()), windows[0]];
        }
        let late = complete_read.and_then(|read| positive(read.duration_since(new.oldest)));
        let late = late.filter(|late| *late <= MAX_LAG);
        let shown_by = windows.iter().filter_map(|window| window.shown_by).min();
        if late.zip(shown_by).is_some_and(|(late, known)| late > known) {
            // Lines have become later than they were, so that what was seen before says nothing of them.
            windows.iter_mut().for_each(|window| window.shown_by = None);
        }
        let window = &mut windows[0];
        // A job can print any time. One in the future is ignored.
        if let Some(age) = positive(now.duration_since(new.youngest)) {
            window.shown_by = Some(window.shown_by.map_or(age, |known| known.min(age)));
        }
        if let Some(late) = late {
            window.not_shown_at = window.not_shown_at.max(late);
        }
    }

    /// The age by which lines are shown. None if it has not been measured.
    pub fn bound(&self) -> Option<Duration> {
        let windows = self.0.lock();
        let recent = windows
            .iter()
            .filter(|window| window.began.elapsed() <= 2 * WINDOW);
        let shown_by = recent.clone().filter_map(|window| window.shown_by).min()?;
        let not_shown_at = recent.map(|window| window.not_shown_at).max()?;
        Some(shown_by.max(not_shown_at).min(MAX_LAG))
    }
}

fn positive(duration: SignedDuration) -> Option<Duration> {
    duration.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(milliseconds).unwrap()
    }

    fn lines(oldest: i64, youngest: i64) -> NewLines {
        let (oldest, youngest) = (at(oldest), at(youngest));
        NewLines { oldest, youngest }
    }

    #[test]
    fn the_lag_is_unknown_before_a_line_was_seen() {
        assert_eq!(LogLag::new().bound(), None);
        let lag = LogLag::new();
        lag.record(lines(9_000, 9_000), None, at(8_000)); // in the future
        assert_eq!(lag.bound(), None);
    }

    #[test]
    fn the_bound_covers_a_lag_that_has_grown() {
        let lag = LogLag::new();
        lag.record(lines(1_000, 1_900), None, at(2_000));
        lag.record(lines(2_000, 3_500), Some(at(4_000)), at(6_000));
        assert_eq!(lag.bound(), Some(Duration::from_millis(2_500)));
    }

    #[test]
    fn the_youngest_line_bounds_the_lag_and_a_line_that_came_late_raises_the_bound() {
        let lag = LogLag::new();
        lag.record(lines(1_000, 2_500), None, at(4_000));
        assert_eq!(lag.bound(), Some(Duration::from_millis(1_500)));
        lag.record(lines(3_000, 5_900), Some(at(4_000)), at(6_000));
        assert_eq!(lag.bound(), Some(Duration::from_millis(1_000)));
        lag.record(lines(2_000, 7_990), Some(at(6_000)), at(8_000));
        assert_eq!(lag.bound(), Some(Duration::from_millis(4_000)));
        lag.record(lines(0, 9_990), Some(at(3_600_000)), at(3_600_010));
        assert_eq!(
            lag.bound(),
            Some(Duration::from_millis(4_000)),
            "a job's own clock"
        );
    }
}
