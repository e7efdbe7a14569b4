//! How often logs may be read: one budget for the process, since Google's quota is one for the whole project.
//!
//! The budget has two halves: one for requests (`GET …/logs`), one for watched runs. Neither can starve the other, and what
//! one half leaves unused the other gets. Of the watched runs, those that were never read and those that have just ended
//! come first, and of the others the one that has waited longest.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::time::{Instant, sleep, timeout};

use crate::gcp::client::Error;

/// How long a request waits for its turn. Somebody sits before it, and is better told to come back than left waiting.
const REQUEST_PATIENCE: Duration = Duration::from_secs(3);
/// Reads saved up at most while nobody reads, as a share of a minute's: 50 a minute never become more than 60.
const SAVED_SHARE: f64 = 0.2;

/// How urgent a read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// A request waits for its answer.
    Interactive,
    /// A watched execution shows no lines yet, or has finished.
    FirstOrLast,
    /// A watched execution, in between.
    Background,
}

/// Permits to read, growing with time.
pub struct LogBudget {
    halves: Mutex<Halves>,
    /// Whoever holds one is the next of its kind: tokio's mutex is fair.
    turns: [tokio::sync::Mutex<()>; 3],
    urgent: AtomicUsize,
}

impl LogBudget {
    /// `per_minute` reads; a fifth of them may come at once.
    pub fn new(per_minute: u32) -> Self {
        Self {
            halves: Mutex::new(Halves::new(per_minute, Instant::now())),
            turns: Default::default(),
            urgent: AtomicUsize::new(0),
        }
    }

    /// Waits for a permit to read once. A watch waits as long as it takes; a request is sent away after three seconds.
    pub async fn take(&self, priority: Priority) -> Result<(), Error> {
        match priority {
            Priority::Interactive => {
                let waited = timeout(REQUEST_PATIENCE, self.wait(priority)).await;
                waited.map_err(|_| self.spent())
            }
            Priority::FirstOrLast => {
                let _waiting = Counted::new(&self.urgent);
                self.wait(priority).await;
                Ok(())
            }
            Priority::Background => {
                self.wait(priority).await;
                Ok(())
            }
        }
    }

    async fn wait(&self, priority: Priority) {
        let _turn = self.turns[priority as usize].lock().await;
        while let Err(pause) = self.try_take(priority) {
            sleep(pause).await;
        }
    }

    /// Takes a permit, or says when to look again.
    fn try_take(&self, priority: Priority) -> Result<(), Duration> {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        halves.grow(Instant::now());
        match priority {
            Priority::Background if self.urgent.load(Ordering::Relaxed) > 0 => Err(halves.pause()),
            Priority::Interactive => halves.take(Half::REQUESTS),
            Priority::FirstOrLast | Priority::Background => halves.take(Half::WATCHES),
        }
    }

    fn spent(&self) -> Error {
        let halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        Error::Refused {
            status: StatusCode::TOO_MANY_REQUESTS,
            code: String::new(),
            retry_after_seconds: Some(halves.pause().as_secs() + 1),
            message: "our own limits.log_reads_per_minute are spent".to_owned(),
        }
    }
}

/// Counts itself as long as it lives: a task that is dropped while it waits must not be waited for.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Half;

impl Half {
    const REQUESTS: usize = 0;
    const WATCHES: usize = 1;
}

/// The permits there are.
struct Halves {
    per_second: f64,
    most: f64,
    permits: [f64; 2],
    grown: Instant,
}

impl Halves {
    fn new(per_minute: u32, now: Instant) -> Self {
        let most = (f64::from(per_minute) * SAVED_SHARE / 2.0).max(1.0);
        Self {
            per_second: f64::from(per_minute) / 60.0,
            most,
            permits: [most; 2],
            grown: now,
        }
    }

    /// Adds what has become due: half each, and what does not fit into one half goes to the other.
    fn grow(&mut self, now: Instant) {
        let due = (now - self.grown).as_secs_f64() * self.per_second;
        self.grown = now;
        let [a, b] = self.permits.map(|permits| permits + due / 2.0);
        let (over_a, over_b) = ((a - self.most).max(0.0), (b - self.most).max(0.0));
        self.permits = [a + over_b, b + over_a].map(|permits| permits.min(self.most));
    }

    fn take(&mut self, half: usize) -> Result<(), Duration> {
        if self.permits[half] < 1.0 {
            return Err(self.pause());
        }
        self.permits[half] -= 1.0;
        Ok(())
    }

    /// Half the time in which one permit grows: soon enough to see it, seldom enough to cost nothing.
    fn pause(&self) -> Duration {
        Duration::from_secs_f64(0.5 / self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many permits each half gave within the seconds when it was asked every 100 ms.
    fn given(per_minute: u32, seconds: u64, asking: &[usize]) -> [u32; 2] {
        let begun = Instant::now();
        let mut halves = Halves::new(per_minute, begun);
        let mut given = [0; 2];
        for tick in 0..seconds * 10 {
            halves.grow(begun + Duration::from_millis(tick * 100));
            for &half in asking {
                given[half] += u32::from(halves.take(half).is_ok());
            }
        }
        given
    }

    #[test]
    fn no_minute_has_more_than_a_fifth_above_the_budget() {
        let [requests, watches] = given(50, 60, &[0, 1]);
        assert!(
            (55..=60).contains(&(requests + watches)),
            "{requests} {watches}"
        );
        let [requests, watches] = given(1, 60, &[0, 1]);
        assert!(requests + watches <= 3, "{requests} {watches}");
    }

    #[test]
    fn neither_half_starves_the_other() {
        let [requests, watches] = given(60, 600, &[1, 0, 1, 1]);
        assert!(requests.abs_diff(watches) <= 2, "{requests} {watches}");
    }

    #[test]
    fn what_one_half_leaves_the_other_gets() {
        for half in [Half::REQUESTS, Half::WATCHES] {
            let taken = given(60, 600, &[half])[half];
            assert!((595..=610).contains(&taken), "{taken}");
        }
    }

    #[tokio::test]
    async fn a_request_is_sent_away_with_a_time_to_come_back() {
        let budget = LogBudget::new(1);
        budget.take(Priority::Interactive).await.unwrap();
        let refused = budget.take(Priority::Interactive).await.unwrap_err();
        assert!(
            matches!(
                refused,
                Error::Refused {
                    retry_after_seconds: Some(31),
                    ..
                }
            ),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn what_is_urgent_comes_first() {
        let budget = std::sync::Arc::new(LogBudget::new(120));
        while budget.try_take(Priority::Background).is_ok() {}
        let order = std::sync::Arc::new(Mutex::new(Vec::new()));
        let waiting = [
            Priority::Background,
            Priority::Background,
            Priority::FirstOrLast,
        ]
        .map(|priority| {
            let (budget, order) = (budget.clone(), order.clone());
            tokio::spawn(async move {
                budget.take(priority).await.unwrap();
                order.lock().unwrap().push(priority);
            })
        });
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(order.lock().unwrap()[0], Priority::FirstOrLast);
    }
}
