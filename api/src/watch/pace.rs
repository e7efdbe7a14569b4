//! Decides when an execution and its lines are read: often at first, less often later, and with growing pauses after failures.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::log_buffer::Source;
use crate::backoff::full_jitter;

/// The time between two reads of a young execution, and so the delay with which its end is seen.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);
const LONGEST_POLL_INTERVAL: Duration = Duration::from_secs(5);
/// An execution up to this age is read every second, one of twice the age every two seconds, and so on.
const YOUNG: Duration = Duration::from_secs(5 * 60);
/// The least time between two reads of one execution's lines, unless more are known to be there.
pub const LINES_INTERVAL: Duration = Duration::from_secs(2);
/// The longest pause after failed reads of an execution.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause after failed reads of its lines.
const LONGEST_PAUSE_OF_LINES: Duration = Duration::from_secs(60);

/// When the lines of an execution were read, and whether that succeeded.
pub struct Pace {
    /// When it began to be watched.
    pub began: Instant,
    /// When the last successful read of the tail began.
    pub tail_read: Instant,
    /// When the last read of the tail began, if that showed all lines that were visible.
    pub complete_read: Option<Timestamp>,
    /// Whether the reports before the tail were read, or need not be read.
    pub earlier_reports_known: bool,
    /// When the last read succeeded.
    pub succeeded: Option<Instant>,
    /// When the last read failed, if none has succeeded since.
    pub failed: Option<Instant>,
    /// Failures in a row.
    pub failures: u32,
    /// How long to wait after the last failure.
    pub pause: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            tail_read: now,
            complete_read: None,
            earlier_reports_known: false,
            succeeded: None,
            failed: None,
            failures: 0,
            pause: Duration::ZERO,
        }
    }
}

impl Pace {
    /// Records a read that began then and succeeded.
    pub fn record_success(&mut self, source: Source, began: Instant) {
        (self.succeeded, self.failed, self.failures) = (Some(Instant::now()), None, 0);
        if source == Source::Tail {
            self.tail_read = began;
        }
    }

    /// Whether all lines that were visible at some time after this one were read.
    pub fn has_read_since(&self, time: Timestamp) -> bool {
        self.complete_read.is_some_and(|read| read >= time)
    }

    /// Records a failed read.
    pub fn record_failure(&mut self) {
        self.failed = Some(Instant::now());
        self.failures += 1;
        self.pause = pause_after_failure(self.failures, LONGEST_PAUSE_OF_LINES);
    }
}

/// How long ago the time was; zero if it is unknown or in the future.
pub fn elapsed_since(time: Option<Timestamp>) -> Duration {
    let elapsed = time.map(|time| Timestamp::now().duration_since(time));
    elapsed
        .and_then(|elapsed| elapsed.try_into().ok())
        .unwrap_or_default()
}

/// The time between two reads of an execution of this age.
pub fn poll_interval(age: Duration) -> Duration {
    POLL_INTERVAL
        .mul_f64(age.as_secs_f64() / YOUNG.as_secs_f64())
        .clamp(POLL_INTERVAL, LONGEST_POLL_INTERVAL)
}

/// A pause that doubles with each failure, with jitter so that watched executions do not all retry at once.
pub fn pause_after_failure(failures: u32, longest: Duration) -> Duration {
    POLL_INTERVAL + full_jitter(POLL_INTERVAL, longest - POLL_INTERVAL, failures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_execution_is_read_less_often() {
        let intervals = [0, 299, 600, 1200, 1500, 86_400]
            .map(|age| poll_interval(Duration::from_secs(age)).as_secs());
        assert_eq!(intervals, [1, 1, 2, 4, 5, 5]);
    }

    #[test]
    fn pauses_after_failures_grow_and_are_a_second_at_least() {
        for (failures, most) in [(1, 2.0), (2, 3.0), (3, 5.0), (40, 5.0)] {
            for _ in 0..100 {
                let pause = pause_after_failure(failures, LONGEST_PAUSE).as_secs_f64();
                assert!((1.0..=most).contains(&pause), "{failures}: {pause}");
            }
        }
    }
}
