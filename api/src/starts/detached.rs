//! Work that is run to its end even if the request that began it is dropped.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// The work whose requests were dropped.
#[derive(Default)]
pub struct Detached(Mutex<JoinSet<()>>);

/// Work that its request polls. If the request is dropped before the work ends, a separate task runs the rest.
pub struct DetachOnDrop<T: 'static> {
    /// None once it is done.
    work: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    detached: Arc<Detached>,
}

impl Detached {
    /// Wraps work that must run to its end once it has begun.
    pub fn run_to_completion<F>(self: &Arc<Self>, work: F) -> DetachOnDrop<F::Output>
    where
        F: Future + Send + 'static,
    {
        DetachOnDrop {
            work: Some(Box::pin(work)),
            detached: Arc::clone(self),
        }
    }

    /// Runs work that no request waits for.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {} // those that are done
        // Without a runtime the process is exiting.
        if let Ok(runtime) = Handle::try_current() {
            tasks.spawn_on(work, &runtime);
        }
    }

    /// Waits until all detached work has ended.
    pub async fn drain(&self) {
        loop {
            let mut tasks = mem::take(&mut *self.tasks());
            if tasks.is_empty() {
                return;
            }
            while tasks.join_next().await.is_some() {}
        }
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock()
    }
}

impl<T> Future for DetachOnDrop<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(work) = &mut self.work else {
            return Poll::Pending; // it is done, and its outcome was handed out
        };
        let outcome = work.as_mut().poll(cx);
        if outcome.is_ready() {
            self.work = None;
        }
        outcome
    }
}

impl<T> Drop for DetachOnDrop<T> {
    fn drop(&mut self) {
        let Some(work) = self.work.take().filter(|_| !std::thread::panicking()) else {
            return;
        };
        self.detached.spawn(async move { drop(work.await) });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn dropped_work_runs_to_its_end() {
        let detached = Arc::new(Detached::default());
        assert_eq!(detached.run_to_completion(async { 5 }).await, 5);
        let (go, gone) = oneshot::channel::<()>();
        let done = Arc::new(AtomicBool::new(false));
        let noting = Arc::clone(&done);
        let mut work = detached.run_to_completion(async move {
            let _ = gone.await;
            noting.store(true, Ordering::Relaxed);
        });
        let begun = tokio::time::timeout(std::time::Duration::ZERO, &mut work);
        assert!(begun.await.is_err());
        drop(work);
        go.send(()).unwrap();
        detached.drain().await;
        assert!(done.load(Ordering::Relaxed));
        detached.drain().await; // nothing is left
    }
}
