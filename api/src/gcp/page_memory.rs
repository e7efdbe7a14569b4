//! Limits how many bytes of log lines are held for readers: one budget for the process.
//!
//! Lines are held until their readers have taken them, and a slow reader takes its time. When the budget is spent, the lines
//! whose readers have taken none for the longest time are dropped: those streams end with a request to come back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::time::sleep;

/// The share of the container's memory that may be held: an eighth.
const SHARE: usize = 8;
/// The least and the most bytes that may be held, however much memory there is. The most is used if no limit is known.
const LEAST: usize = 8 * 1024 * 1024;
const MOST: usize = 32 * 1024 * 1024;
/// How long readers must take none of the lines before these may be dropped. A working reader takes some every second.
const IDLE: Duration = Duration::from_secs(2);

/// How long a read waits for memory, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_millis(50);

/// The files in which Linux gives a container's memory limit: cgroup v2, then v1.
const LIMITS: [&str; 2] = [
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
];

/// The bytes that may be held.
#[derive(Clone)]
pub struct PageMemory(Arc<Inner>);

struct Inner {
    limit: usize,
    began: Instant,
    holders: Mutex<Holders>,
}

#[derive(Default)]
struct Holders {
    next_id: u64,
    by_id: HashMap<u64, Arc<Holder>>,
}

#[derive(Default)]
struct Holder {
    bytes: AtomicUsize,
    /// When a reader last took something, in milliseconds since the budget was made.
    touched: AtomicU64,
    drop_lines: Mutex<Option<DropLines>>,
}

type DropLines = Arc<dyn Fn() + Send + Sync>;

/// Bytes that are held; given back when dropped.
pub struct Held {
    memory: PageMemory,
    id: u64,
    holder: Arc<Holder>,
}

impl PageMemory {
    /// A share of the memory that this container may use.
    pub fn of_container() -> Self {
        let limit = LIMITS.iter().find_map(|path| {
            let text = std::fs::read_to_string(path).ok()?;
            text.trim().parse().ok() // cgroup v2 writes `max` for no limit
        });
        Self::new(limit.map_or(MOST, share_of))
    }

    fn new(limit: usize) -> Self {
        Self(Arc::new(Inner {
            limit,
            began: Instant::now(),
            holders: Mutex::default(),
        }))
    }

    /// Takes so many bytes, if necessary by dropping lines of readers that take none. None if all are in use.
    pub fn hold(&self, bytes: usize) -> Option<Held> {
        loop {
            let idle = {
                let mut holders = self.holders();
                if holders.used() + bytes <= self.0.limit {
                    return Some(self.add(&mut holders, bytes));
                }
                self.longest_idle(&holders)
            }?;
            idle.drop_lines();
        }
    }

    /// As [`Self::hold`], but waits a moment while all are in use, since most reads are short.
    pub async fn hold_soon(&self, bytes: usize) -> Option<Held> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let held = self.hold(bytes);
            if held.is_some() || Instant::now() > deadline {
                return held;
            }
            sleep(AGAIN).await;
        }
    }

    fn add(&self, holders: &mut Holders, bytes: usize) -> Held {
        let id = holders.next_id;
        holders.next_id += 1;
        let holder = Arc::new(Holder::default());
        holder.bytes.store(bytes, Ordering::Relaxed);
        holder.touched.store(self.now(), Ordering::Relaxed);
        holders.by_id.insert(id, Arc::clone(&holder));
        Held {
            memory: self.clone(),
            id,
            holder,
        }
    }

    fn longest_idle(&self, holders: &Holders) -> Option<Arc<Holder>> {
        let idle_since = self.now().checked_sub(IDLE.as_millis() as u64)?;
        let idle = holders.by_id.values().filter(|holder| {
            holder.bytes.load(Ordering::Relaxed) > 0
                && holder.touched.load(Ordering::Relaxed) <= idle_since
                && holder.drop_lines_slot().is_some()
        });
        let longest = idle.min_by_key(|holder| holder.touched.load(Ordering::Relaxed))?;
        Some(Arc::clone(longest))
    }

    fn now(&self) -> u64 {
        self.0.began.elapsed().as_millis() as u64
    }

    fn holders(&self) -> MutexGuard<'_, Holders> {
        let holders = &self.0.holders;
        holders.lock()
    }
}

impl Holders {
    fn used(&self) -> usize {
        let bytes = |holder: &Arc<Holder>| holder.bytes.load(Ordering::Relaxed);
        self.by_id.values().map(bytes).sum()
    }
}

impl Holder {
    fn drop_lines(&self) {
        // The bytes are free from here on, even if no buffer is left to drop its lines.
        self.bytes.store(0, Ordering::Relaxed);
        // Called without the lock, since the function takes other locks.
        let drop_lines = self.drop_lines_slot().clone();
        if let Some(drop_lines) = drop_lines {
            drop_lines();
        }
    }

    fn drop_lines_slot(&self) -> MutexGuard<'_, Option<DropLines>> {
        let slot = &self.drop_lines;
        slot.lock()
    }
}

impl Held {
    /// Corrects the number of bytes to what is held now. It may exceed the budget: lines that were read are not dropped for that.
    pub fn set(&self, bytes: usize) {
        self.holder.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Records that a reader took something.
    pub fn touch(&self) {
        let now = self.memory.now();
        self.holder.touched.store(now, Ordering::Relaxed);
    }

    /// What to call when the bytes are needed and no reader has taken any of them for a while.
    pub fn on_shortage(&self, drop_lines: impl Fn() + Send + Sync + 'static) {
        *self.holder.drop_lines_slot() = Some(Arc::new(drop_lines));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.holders().by_id.remove(&self.id);
    }
}

fn share_of(limit: usize) -> usize {
    (limit / SHARE).clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn the_share_of_any_container_is_between_the_least_and_the_most() {
        let mib = 1024 * 1024;
        assert_eq!(share_of(128 * mib), 16 * mib);
        assert_eq!(share_of(1), LEAST);
        assert_eq!(share_of(usize::MAX), MOST);
    }

    #[test]
    fn bytes_are_given_back_and_never_more_than_there_are() {
        let memory = PageMemory::new(10);
        let held = memory.hold(6).unwrap();
        assert!(memory.hold(5).is_none());
        held.set(2);
        let more = memory.hold(8).unwrap();
        assert!(memory.hold(1).is_none());
        drop(more);
        assert!(memory.hold(8).is_some());
    }

    #[test]
    fn lines_are_dropped_if_their_reader_takes_none_and_kept_if_it_reads() {
        let memory = PageMemory::new(10);
        let dropped = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let [slow, quick] = [0, 1].map(|reader| {
            let held = memory.hold(5).unwrap();
            let dropped = Arc::clone(&dropped[reader]);
            held.on_shortage(move || dropped.store(true, Ordering::Relaxed));
            held
        });
        assert!(memory.hold(5).is_none(), "no reader is slow yet");
        std::thread::sleep(IDLE + Duration::from_millis(10));
        quick.touch();
        let _newer = memory.hold(5).unwrap();
        let dropped = dropped.map(|dropped| dropped.load(Ordering::Relaxed));
        assert_eq!(dropped, [true, false]);
        assert!(memory.hold(1).is_none());
        drop(slow);
    }
}
