//! Starts that depend on the unfinished executions of the scope: `reject`, `join` and `replace`.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout_at};

use super::error::{Busy, Error};
use super::execution_index::Horizon;
use super::lease::RecentStart;
use super::scope_lock::TIME_TO_SEND;
use super::{ASK_AGAIN, FOLLOW_TIMEOUT, Inner, Outcome, Start, Started, recorded, warn};
use crate::config::OnRunning;
use crate::execution::Execution;

/// How often to look whether a cancelled execution has ended.
const LOOK_FOR_THE_END: Duration = Duration::from_millis(250);
/// An execution is cancelled only if this much of the deadline is left. Otherwise there would be no time to replace it.
const TIME_TO_REPLACE: Duration = Duration::from_secs(2);
/// Up to this many executions whose end was not seen are read one by one. For more, the list is read again.
const FEW: usize = 4;

impl Inner {
    /// Starts the execution if `on_running` allows it beside the scope's unfinished executions.
    pub(super) async fn start_exclusively(&self, start: &Start, deadline: Instant) -> Outcome {
        let lock = self
            .locks
            .acquire(start, self.leases.as_ref(), deadline)
            .await?;
        let way = timeout_at(deadline.into(), self.wait_for_way(start, deadline)).await;
        let outcome = match way.unwrap_or(Err(Error::OutOfTime)) {
            Ok(None) => self.send(start, deadline).await,
            Ok(Some(execution)) => Ok(self.join(start, execution)),
            Err(error) => Err(error),
        };
        if let (Some(leases), Some(lease)) = (&self.leases, &lock.lease) {
            warn(leases.release_scope(lease, start, recorded(&outcome)).await);
        }
        outcome
    }

    /// As [`Self::make_way`], but waits for starts that other instances are just sending, since their outcomes are known soon.
    async fn wait_for_way(
        &self,
        start: &Start,
        deadline: Instant,
    ) -> Result<Option<Execution>, Error> {
        let until = deadline.min(Instant::now() + FOLLOW_TIMEOUT);
        loop {
            let way = self.make_way(start, deadline).await;
            let is_uncertain = matches!(way, Err(Error::ScopeBusy(Busy::Uncertain)));
            if !is_uncertain || self.leases.is_none() || Instant::now() + ASK_AGAIN > until {
                return way;
            }
            sleep(ASK_AGAIN).await;
        }
    }

    /// Does what `on_running` says about the scope's unfinished executions. Returns the one to answer with, if any.
    async fn make_way(&self, start: &Start, deadline: Instant) -> Result<Option<Execution>, Error> {
        let recent = match &self.leases {
            Some(leases) => leases.recent(start).await?,
            None => Vec::new(),
        };
        let ambiguous = self.ambiguous.in_scope_of(start);
        let unfinished = self.unfinished(start, &recent, deadline).await?;
        let unnamed = recent.iter().filter(|recent| recent.execution.is_none());
        let unnamed = unnamed.map(|recent| recent.id.key());
        let others = unnamed.filter(|key| *key != start.id.key() && !ambiguous.contains(key));
        let uncertain = ambiguous.iter().copied().chain(others);
        let uncertain = uncertain.filter(|key| !self.index.knows(*key)).count();
        let most = max_running(start);
        if unfinished.len() + uncertain < most {
            return Ok(None);
        }
        let newest = unfinished.first().filter(|_| unfinished.len() >= most);
        match (start.on_running, newest) {
            (OnRunning::Allow, _) => Ok(None),
            (OnRunning::Join, Some(newest)) => Ok(Some(newest.clone())),
            (OnRunning::Reject, Some(newest)) => Err(Error::ScopeBusy(Busy::Running(path(newest)))),
            (OnRunning::Replace, Some(newest)) if uncertain == 0 => {
                if Instant::now() + TIME_TO_REPLACE > deadline {
                    return Err(Error::ScopeBusy(Busy::Running(path(newest))));
                }
                let kept = most.saturating_sub(1);
                self.end(&unfinished[kept..], deadline).await.map(|()| None)
            }
            _ => Err(Error::ScopeBusy(Busy::Uncertain)),
        }
    }

    /// The scope's unfinished executions as Cloud Run has them now, newest first: `max_running` of them, or all if they may be
    /// replaced.
    async fn unfinished(
        &self,
        start: &Start,
        recent: &[RecentStart],
        deadline: Instant,
    ) -> Result<Vec<Execution>, Error> {
        let mut horizon = Horizon::All;
        let mut names = loop {
            self.read(horizon, deadline).await?;
            match self.index.unfinished(start) {
                None => {}
                // Most of them have ended meanwhile. One read of the list replaces a call for each of them.
                Some(names) if names.len() > FEW && !matches!(horizon, Horizon::Afresh(_)) => {
                    let oldest = names.iter().map(|(created_at, _)| *created_at).min();
                    horizon = oldest.map_or(Horizon::All, Horizon::Afresh);
                }
                Some(names) => break names,
            }
        }
        .into_iter()
        .map(|(_, name)| name)
        .collect::<Vec<_>>();
        let unlisted = recent
            .iter()
            .filter(|recent| !self.index.knows(recent.id.key()));
        let unlisted = unlisted.filter_map(|recent| recent.execution.clone());
        names.splice(0..0, unlisted.collect::<Vec<_>>());
        names.dedup();
        let mut unfinished = Vec::new();
        for name in names {
            unfinished.extend(self.if_unfinished(&name).await?);
            if unfinished.len() >= max_running(start) && start.on_running != OnRunning::Replace {
                break;
            }
        }
        Ok(unfinished)
    }

    /// Answers with an execution of another start, and records it for the key.
    fn join(&self, start: &Start, execution: Execution) -> Started {
        if start.id.is_keyed() {
            self.index.add_joined(&start.id, &execution);
        }
        Started {
            execution: execution.into(),
            joined: true,
            replayed: false,
        }
    }

    async fn if_unfinished(&self, name: &str) -> Result<Option<Execution>, Error> {
        let execution = self.cloud_run.get(name).await?;
        let unfinished = execution.filter(|execution| !execution.state.is_finished());
        if unfinished.is_none() {
            self.index.set_finished(name);
        }
        Ok(unfinished)
    }

    /// Cancels the executions and waits for their ends, as long as there is time to start another afterwards.
    async fn end(&self, executions: &[Execution], deadline: Instant) -> Result<(), Error> {
        for execution in executions {
            self.cloud_run.cancel(&execution.name).await?;
        }
        for execution in executions {
            while self.if_unfinished(&execution.name).await?.is_some() {
                if Instant::now() + LOOK_FOR_THE_END + TIME_TO_SEND > deadline {
                    return Err(Error::ScopeBusy(Busy::Ending(path(execution))));
                }
                sleep(LOOK_FOR_THE_END).await;
            }
        }
        Ok(())
    }
}

fn max_running(start: &Start) -> usize {
    usize::try_from(start.process.max_running).unwrap_or(usize::MAX)
}

fn path(execution: &Execution) -> String {
    execution.links.self_path.clone()
}
