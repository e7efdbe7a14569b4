//! A cached value from elsewhere. Concurrent requests share one fetch, and an old value is used while no newer one is available.

use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tokio::sync::Mutex;

/// A cached `T`. `F` is the error of a fetch. It deliberately has no `Debug`, since a `T` may be secret.
pub struct Cached<T, F> {
    current: RwLock<Option<Entry<T>>>,
    /// Locked while fetching. The last fetch, unless it succeeded and was the first.
    last: Mutex<Option<Attempt<F>>>,
    pause: Duration,
    pause_without: Duration,
}

/// A value that was fetched.
pub struct Entry<T> {
    pub value: T,
    pub fetched_at: Instant,
    /// After this time a newer value is fetched.
    pub fresh_until: Instant,
    /// After this time the value is not used, even if no newer one is available.
    pub usable_until: Instant,
}

struct Attempt<F> {
    /// When it ended. Requests that asked before that share its outcome.
    at: Instant,
    failure: Option<F>,
}

impl<T, F: Clone> Cached<T, F> {
    /// An empty cache. `pause` is the least time between two fetches while there is a value, and `pause_without` while there is
    /// none.
    pub fn new(pause: Duration, pause_without: Duration) -> Self {
        Self {
            current: RwLock::new(None),
            last: Mutex::new(None),
            pause,
            pause_without,
        }
    }

    /// Looks in the value without waiting, if it is fresh or a newer one is being fetched already.
    pub fn find<V>(&self, asked_at: Instant, find: impl Fn(&T) -> Option<V>) -> Option<V> {
        let current = self.current.read();
        let entry = usable(current.as_ref(), asked_at)?;
        let may_be_used = asked_at < entry.fresh_until || self.last.try_lock().is_err();
        may_be_used.then(|| find(&entry.value)).flatten()
    }

    /// Looks in the value, and fetches a newer one first if it is old or if `find` finds nothing in it. None if `find` finds
    /// nothing in the newest value either.
    pub async fn find_or_fetch<V>(
        &self,
        asked_at: Instant,
        find: impl Fn(&T) -> Option<V>,
        fetch: impl Future<Output = Result<Entry<T>, F>>,
    ) -> Result<Option<V>, F> {
        let mut last = self.last.lock().await;
        let now = Instant::now();
        if let Some(answer) = self.answer(last.as_ref(), asked_at, now, &find) {
            return answer;
        }
        let replaces = usable(self.current.read().as_ref(), now).is_some();
        let fetched = fetch.await.map(|entry| *self.current.write() = Some(entry));
        let failure = fetched.err();
        let at = Instant::now();
        let found = usable(self.current.read().as_ref(), at).and_then(|entry| find(&entry.value));
        let outcome = outcome(found, failure.as_ref());
        *last = (replaces || failure.is_some()).then_some(Attempt { at, failure });
        outcome
    }

    /// Drops the value if `is_this` says so. Returns whether it did.
    pub fn forget(&self, is_this: impl FnOnce(&T) -> bool) -> bool {
        let mut current = self.current.write();
        current.take_if(|entry| is_this(&entry.value)).is_some()
    }

    /// The answer without a fetch, if there is one: from the value, or from the last fetch if it is too early for another.
    fn answer<V>(
        &self,
        last: Option<&Attempt<F>>,
        asked_at: Instant,
        now: Instant,
        find: impl Fn(&T) -> Option<V>,
    ) -> Option<Result<Option<V>, F>> {
        let current = self.current.read();
        let entry = usable(current.as_ref(), now);
        let found = entry.and_then(|entry| find(&entry.value));
        let pause = entry.map_or(self.pause_without, |_| self.pause);
        let too_early = last.filter(|last| last.at >= asked_at || now < last.at + pause);
        match (entry, too_early) {
            (Some(entry), _) if found.is_some() && now < entry.fresh_until => Some(Ok(found)),
            (_, Some(last)) => Some(outcome(found, last.failure.as_ref())),
            (Some(entry), _) if entry.fetched_at >= asked_at => Some(Ok(found)),
            _ => None,
        }
    }
}

fn usable<T>(current: Option<&Entry<T>>, now: Instant) -> Option<&Entry<T>> {
    current.filter(|entry| now < entry.usable_until)
}

/// The outcome after a fetch. If the fetch failed, an old value is still good for what was found in it; otherwise a newer value
/// might have had it, so the failure is the outcome.
fn outcome<V, F: Clone>(found: Option<V>, failure: Option<&F>) -> Result<Option<V>, F> {
    match (found, failure) {
        (None, Some(failure)) => Err(failure.clone()),
        (found, _) => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITH_VALUE: Duration = Duration::from_secs(30);
    const WITHOUT: Duration = Duration::from_secs(1);
    const FRESH: Duration = Duration::from_secs(60);
    const USABLE: Duration = Duration::from_secs(600);
    const NEVER: Option<&Attempt<&str>> = None;

    fn of_k1(fetched_at: Instant) -> Cached<&'static str, &'static str> {
        let cached = Cached::new(WITH_VALUE, WITHOUT);
        *cached.current.write() = Some(Entry {
            value: "k1",
            fetched_at,
            fresh_until: fetched_at + FRESH,
            usable_until: fetched_at + USABLE,
        });
        cached
    }

    fn tried(at: Instant, failure: Option<&'static str>) -> Attempt<&'static str> {
        Attempt { at, failure }
    }

    /// The name of the answer without a fetch.
    fn said(
        cached: &Cached<&'static str, &'static str>,
        last: Option<&Attempt<&'static str>>,
        wanted: &str,
        asked_at: Instant,
    ) -> &'static str {
        let find = |value: &&str| (*value == wanted).then_some(());
        match cached.answer(last, asked_at, asked_at, find) {
            None => "fetch",
            Some(Ok(Some(()))) => "known",
            Some(Ok(None)) => "unknown",
            Some(Err(_)) => "unavailable",
        }
    }

    #[test]
    fn a_fresh_value_is_used_and_an_old_one_after_a_failed_fetch() {
        let begun = Instant::now();
        let (cached, later) = (of_k1(begun), begun + FRESH);
        assert_eq!(said(&cached, NEVER, "k1", begun), "known");
        assert_eq!(said(&cached, NEVER, "k1", later), "fetch");
        let failed = tried(later, Some("down"));
        let said = |at| said(&cached, Some(&failed), "k1", at);
        assert_eq!(said(later + WITH_VALUE / 2), "known");
        assert_eq!(said(later + WITH_VALUE), "fetch");
        assert_eq!(said(begun + USABLE), "fetch");
    }

    #[test]
    fn a_missing_entry_causes_one_fetch_per_pause() {
        let begun = Instant::now();
        let (cached, later) = (of_k1(begun), begun + Duration::from_millis(1));
        assert_eq!(said(&cached, NEVER, "k2", later), "fetch");
        assert_eq!(said(&cached, NEVER, "k2", begun), "unknown"); // it asked before this value was fetched
        let (looked, failed) = (tried(later, None), tried(later, Some("down")));
        let soon = later + WITH_VALUE / 2;
        assert_eq!(said(&cached, Some(&looked), "k2", soon), "unknown");
        assert_eq!(said(&cached, Some(&looked), "k1", soon), "known");
        assert_eq!(said(&cached, Some(&failed), "k2", soon), "unavailable");
        let after_the_pause = later + WITH_VALUE;
        assert_eq!(said(&cached, Some(&looked), "k2", after_the_pause), "fetch");
    }

    #[test]
    fn without_a_value_there_is_one_fetch_per_pause_and_no_entry_is_unknown() {
        let (cached, begun) = (Cached::new(WITH_VALUE, WITHOUT), Instant::now());
        assert_eq!(said(&cached, NEVER, "k1", begun), "fetch");
        let failed = tried(begun, Some("down"));
        let said = |at| said(&cached, Some(&failed), "k1", at);
        assert_eq!(said(begun), "unavailable");
        assert_eq!(said(begun + WITHOUT / 2), "unavailable");
        assert_eq!(said(begun + WITHOUT), "fetch");
    }

    #[tokio::test]
    async fn an_old_value_is_used_while_another_fetches_a_newer_one() {
        let cached = of_k1(Instant::now());
        let old = Instant::now() + FRESH;
        assert_eq!(cached.find(old, |value| Some(*value)), None);
        let fetching = cached.last.lock().await;
        assert_eq!(cached.find(old, |value| Some(*value)), Some("k1"));
        assert_eq!(cached.find(old + USABLE, |value| Some(*value)), None);
        drop(fetching);
        assert!(cached.forget(|value| *value == "k1"));
        assert_eq!(cached.find(Instant::now(), |value| Some(*value)), None);
    }
}
