//! Limits how often logs are read: one budget for the process, since Google's quota is for the whole project.
//!
//! The budget has two halves, one for requests (`GET …/logs`), one for watched executions. Neither can starve the other, and
//! each gets the permits that the other does not use. Within a half, a permit goes to the caller whose last one is the longest
//! ago: a single caller may use all of them, two get the same share. Of one caller's watched executions, those that show no
//! lines yet and those that have finished come first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use crate::caller_id::CallerId;

/// How long a request waits for a permit. After that, a refusal with `Retry-After` serves its user better than a longer wait.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);
/// The most reads that are saved up while there are none, as a share of a minute's: 50 a minute never become more than 60.
const SAVED_SHARE: f64 = 0.2;
/// How long the time of a caller's last permit is remembered.
const PERMIT_MEMORY: Duration = Duration::from_secs(60);

/// How urgent a read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// A request waits for its answer.
    Interactive,
    /// A watched execution shows no lines yet, or has finished.
    FirstOrLast,
    /// A watched execution shows lines and has not finished.
    Background,
}

/// The budget is spent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log reads that limits.log_reads_per_minute allows are used up")]
pub struct Spent {
    /// When another read will be possible.
    pub retry_after_seconds: u64,
}

/// Permits to read, which accumulate over time.
#[derive(Clone)]
pub struct LogBudget(Arc<Mutex<State>>);

struct State {
    permits: Permits,
    queues: [Queue; 2],
    /// Whether a task is handing out permits.
    is_handing_out: bool,
}

impl LogBudget {
    /// `per_minute` reads; a fifth of them may come at once.
    pub fn new(per_minute: u32) -> Self {
        let state = State {
            permits: Permits::new(per_minute, Instant::now()),
            queues: Default::default(),
            is_handing_out: false,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Waits for a permit to read once. A watched execution waits as long as it takes, a request for a few seconds.
    pub async fn take(&self, caller: CallerId, priority: Priority) -> Result<(), Spent> {
        let permit = self.enqueue(caller, priority);
        if priority != Priority::Interactive {
            // The sender is dropped only with the budget.
            let _ = permit.await;
            return Ok(());
        }
        let waited = timeout(REQUEST_PATIENCE, permit).await;
        waited.map(drop).map_err(|_| self.spent())
    }

    fn enqueue(&self, caller: CallerId, priority: Priority) -> oneshot::Receiver<()> {
        let (permit, granted) = oneshot::channel();
        let mut state = self.state();
        state.queues[half(priority)].add(caller, priority, permit);
        state.hand_out(Instant::now());
        if state.has_waiting() && !state.is_handing_out {
            state.is_handing_out = true;
            tokio::spawn(self.clone().hand_out());
        }
        granted
    }

    /// Hands out permits as they become available, until no read waits.
    async fn hand_out(self) {
        loop {
            let pause = {
                let mut state = self.state();
                state.hand_out(Instant::now());
                state.is_handing_out = state.has_waiting();
                if !state.is_handing_out {
                    return;
                }
                state.permits.pause()
            };
            sleep(pause).await;
        }
    }

    fn spent(&self) -> Spent {
        Spent {
            retry_after_seconds: self.state().permits.pause().as_secs() + 1,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

fn half(priority: Priority) -> usize {
    match priority {
        Priority::Interactive => 0,
        Priority::FirstOrLast | Priority::Background => 1,
    }
}

impl State {
    fn hand_out(&mut self, now: Instant) {
        self.permits.grow(now);
        for (half, queue) in self.queues.iter_mut().enumerate() {
            while self.permits.has(half) && queue.grant(now) {
                self.permits.take(half);
            }
        }
    }

    fn has_waiting(&self) -> bool {
        self.queues.iter().any(Queue::has_waiting)
    }
}

/// The reads that wait for the permits of one half.
#[derive(Default)]
struct Queue {
    callers: HashMap<CallerId, Waiting>,
}

/// The waiting reads of one caller.
#[derive(Default)]
struct Waiting {
    last_turn: Option<Instant>,
    urgent: VecDeque<oneshot::Sender<()>>,
    other: VecDeque<oneshot::Sender<()>>,
}

impl Queue {
    fn add(&mut self, caller: CallerId, priority: Priority, permit: oneshot::Sender<()>) {
        let waiting = self.callers.entry(caller).or_default();
        match priority {
            Priority::FirstOrLast => waiting.urgent.push_back(permit),
            Priority::Interactive | Priority::Background => waiting.other.push_back(permit),
        }
    }

    /// Gives a permit to the waiting caller whose last one is the longest ago. False if no caller waits.
    fn grant(&mut self, now: Instant) -> bool {
        self.forget_those_who_left(now);
        let next = self.callers.values_mut().filter(|waiting| waiting.waits());
        let Some(next) = next.min_by_key(|waiting| waiting.last_turn) else {
            return false;
        };
        next.last_turn = Some(now);
        let permit = next.urgent.pop_front().or_else(|| next.other.pop_front());
        permit.is_some_and(|permit| permit.send(()).is_ok())
    }

    fn forget_those_who_left(&mut self, now: Instant) {
        self.callers.retain(|_, waiting| {
            waiting.urgent.retain(|permit| !permit.is_closed());
            waiting.other.retain(|permit| !permit.is_closed());
            let recent = |last| now.saturating_duration_since(last) < PERMIT_MEMORY;
            waiting.waits() || waiting.last_turn.is_some_and(recent)
        });
    }

    fn has_waiting(&self) -> bool {
        self.callers.values().any(Waiting::waits)
    }
}

impl Waiting {
    fn waits(&self) -> bool {
        !self.urgent.is_empty() || !self.other.is_empty()
    }
}

/// The permits that there are, in two halves.
struct Permits {
    per_second: f64,
    most: f64,
    halves: [f64; 2],
    grown: Instant,
}

impl Permits {
    fn new(per_minute: u32, now: Instant) -> Self {
        let most = (f64::from(per_minute) * SAVED_SHARE / 2.0).max(1.0);
        Self {
            per_second: f64::from(per_minute) / 60.0,
            most,
            halves: [most; 2],
            grown: now,
        }
    }

    /// Adds the permits that have become due: half to each, and those that do not fit into one half to the other.
    fn grow(&mut self, now: Instant) {
        let due = (now - self.grown).as_secs_f64() * self.per_second;
        self.grown = now;
        let [a, b] = self.halves.map(|permits| permits + due / 2.0);
        let (over_a, over_b) = ((a - self.most).max(0.0), (b - self.most).max(0.0));
        self.halves = [a + over_b, b + over_a].map(|permits| permits.min(self.most));
    }

    fn has(&self, half: usize) -> bool {
        self.halves[half] >= 1.0
    }

    fn take(&mut self, half: usize) {
        self.halves[half] -= 1.0;
    }

    /// Half the time in which one permit becomes due: permits are handed out soon, and the task costs little.
    fn pause(&self) -> Duration {
        Duration::from_secs_f64(0.5 / self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: usize = 0;
    const WATCHES: usize = 1;

    /// How many permits each half gave within the seconds when it was asked every 100 ms.
    fn given(per_minute: u32, seconds: u64, asking: &[usize]) -> [u32; 2] {
        let began = Instant::now();
        let mut permits = Permits::new(per_minute, began);
        let mut given = [0; 2];
        for tick in 0..seconds * 10 {
            permits.grow(began + Duration::from_millis(tick * 100));
            for &half in asking {
                if permits.has(half) {
                    permits.take(half);
                    given[half] += 1;
                }
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
    fn a_half_gets_the_permits_that_the_other_does_not_use() {
        for half in [REQUESTS, WATCHES] {
            let taken = given(60, 600, &[half])[half];
            assert!((595..=610).contains(&taken), "{taken}");
        }
    }

    /// The order in which the waiting reads of these callers get their permits, once everything saved up is spent.
    async fn order(waiting: &[(&'static str, Priority)]) -> Vec<(&'static str, Priority)> {
        let budget = LogBudget::new(1200);
        {
            let mut state = budget.state();
            state.permits.halves = [0.0; 2];
        }
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = waiting
            .iter()
            .map(|&(caller, priority)| {
                let permit = budget.enqueue(CallerId::of(caller), priority);
                let order = Arc::clone(&order);
                tokio::spawn(async move {
                    permit.await.unwrap();
                    order.lock().push((caller, priority));
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        order.lock().clone()
    }

    #[tokio::test]
    async fn a_request_without_a_permit_is_refused_with_a_retry_time() {
        let (budget, caller) = (LogBudget::new(1), CallerId::of("a"));
        budget.take(caller, Priority::Interactive).await.unwrap();
        let refused = budget.take(caller, Priority::Interactive).await;
        let retry_after_seconds = 31;
        assert_eq!(
            refused,
            Err(Spent {
                retry_after_seconds
            })
        );
    }

    #[tokio::test]
    async fn first_and_last_reads_come_before_the_others_of_a_caller() {
        use Priority::{Background, FirstOrLast};
        let waiting = [("a", Background), ("a", Background), ("a", FirstOrLast)];
        assert_eq!(order(&waiting).await[0], ("a", FirstOrLast));
    }

    #[tokio::test]
    async fn callers_get_equal_shares_however_many_reads_each_waits_for() {
        use Priority::{Background, FirstOrLast, Interactive};
        let mut waiting = vec![("greedy", Interactive); 6];
        waiting.extend([("modest", Interactive); 2]);
        let callers: Vec<_> = order(&waiting)
            .await
            .into_iter()
            .map(|read| read.0)
            .collect();
        assert_eq!(callers.iter().filter(|name| **name == "modest").count(), 2);
        assert!(
            callers[..4]
                .iter()
                .filter(|name| **name == "modest")
                .count()
                == 2,
            "{callers:?}"
        );
        let waiting = [
            ("greedy", FirstOrLast),
            ("greedy", FirstOrLast),
            ("modest", Background),
        ];
        assert!(order(&waiting).await[..2].contains(&("modest", Background)));
    }

    #[test]
    fn a_caller_who_asks_again_after_each_permit_gets_no_more_than_one_who_waits_all_the_time() {
        let (mut queue, mut permits) = (Queue::default(), [0, 0]);
        let callers = ["waits", "returns"].map(CallerId::of);
        let mut granted: [VecDeque<oneshot::Receiver<()>>; 2] = Default::default();
        let mut now = Instant::now();
        for _ in 0..100 {
            for (caller, granted) in callers.iter().zip(&mut granted) {
                if granted.is_empty() {
                    let (permit, receiver) = oneshot::channel();
                    queue.add(*caller, Priority::Interactive, permit);
                    granted.push_back(receiver);
                }
            }
            assert!(queue.grant(now));
            now += Duration::from_millis(1200);
            for (permits, granted) in permits.iter_mut().zip(&mut granted) {
                let done = granted
                    .front_mut()
                    .is_some_and(|one| one.try_recv().is_ok());
                if done {
                    granted.pop_front();
                    *permits += 1;
                }
            }
        }
        assert_eq!(permits, [50, 50]);
    }

    #[tokio::test]
    async fn a_read_that_is_cancelled_while_it_waits_costs_no_permit() {
        let (budget, caller) = (LogBudget::new(600), CallerId::of("a"));
        budget.state().permits.halves = [0.0; 2];
        for _ in 0..50 {
            drop(budget.enqueue(caller, Priority::Background));
        }
        let began = Instant::now();
        budget.take(caller, Priority::Background).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(2));
    }
}
