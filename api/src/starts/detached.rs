//! Work that goes on when whoever waited for it has gone.

use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// What nobody waits for any more.
#[derive(Default)]
pub struct Unattended(Mutex<JoinSet<()>>);

/// Work, done by whoever waits for it. Dropped before its end, it gets a task of its own for what is left.
pub struct Attended<T: 'static> {
    /// None once it is done.
    work: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    unattended: Arc<Unattended>,
}

impl Unattended {
    /// Work that goes on here if it must.
    pub fn attend<F>(self: &Arc<Self>, work: F) -> Attended<F::Output>
    where
        F: Future + Send + 'static,
    {
        Attended {
            work: Some(Box::pin(work)),
            unattended: Arc::clone(self),
        }
    }

    /// Waits until all of it is done.
    pub async fn done(&self) {
        loop {
            let mut tasks = mem::take(&mut *self.tasks());
            if tasks.is_empty() {
                return;
            }
            while tasks.join_next().await.is_some() {}
        }
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Future for Attended<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(work) = &mut self.work else {
            return Poll::Pending; // it is done, and told already
        };
        let outcome = work.as_mut().poll(cx);
        if outcome.is_ready() {
            self.work = None;
        }
        outcome
    }
}

impl<T> Drop for Attended<T> {
    fn drop(&mut self) {
        let Some(work) = self.work.take().filter(|_| !std::thread::panicking()) else {
            return;
        };
        let mut tasks = self.unattended.tasks();
        while tasks.try_join_next().is_some() {} // those that are done
        // Without a runtime this process is at its end.
        if let Ok(runtime) = Handle::try_current() {
            tasks.spawn_on(async move { drop(work.await) }, &runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_is_done_by_whoever_waits_and_goes_on_when_nobody_does() {
        let unattended = Arc::new(Unattended::default());
        assert_eq!(unattended.attend(async { 5 }).await, 5);
        let (go, gone) = oneshot::channel::<()>();
        let done = Arc::new(AtomicBool::new(false));
        let noting = Arc::clone(&done);
        let mut work = unattended.attend(async move {
            let _ = gone.await;
            noting.store(true, Ordering::Relaxed);
        });
        let begun = tokio::time::timeout(std::time::Duration::ZERO, &mut work);
        assert!(begun.await.is_err());
        drop(work);
        go.send(()).unwrap();
        unattended.done().await;
        assert!(done.load(Ordering::Relaxed));
        unattended.done().await; // nothing is left
    }
}
