//! Starts: what marks an execution as one start's.

use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

use crate::cloud_run::{CloudRun, RUN_TIMEOUT};
use crate::execution::Execution;
use crate::overrides::Overrides;
use crate::page::hex;
use crate::problem::{Kind, Problem};

/// Random bytes of an invocation id: as many as a UUID has.
const ID_BYTES: usize = 16;

/// Starts executions, each in a task of its own.
pub struct Starts {
    cloud_run: Arc<CloudRun>,
    deadline: Duration,
    random: SystemRandom,
}

impl Starts {
    /// `deadline` is for a start in all.
    pub fn new(cloud_run: Arc<CloudRun>, deadline: Duration) -> Self {
        Self {
            cloud_run,
            deadline,
            random: SystemRandom::new(),
        }
    }

    /// A new `INVOCATION_ID`.
    pub fn invocation_id(&self) -> Result<String, Problem> {
        let mut bytes = [0; ID_BYTES];
        self.random
            .fill(&mut bytes)
            .map_err(|_| Problem::from(Kind::Internal).because("no random bytes"))?;
        Ok(hex(&bytes))
    }

    /// Starts one execution. Goes on when the caller has gone: what has begun is not undone by a closed connection.
    pub async fn start(&self, overrides: Overrides) -> Result<Execution, Problem> {
        let cloud_run = Arc::clone(&self.cloud_run);
        let timeout = RUN_TIMEOUT.min(self.deadline);
        let started = tokio::spawn(async move { cloud_run.run(&overrides, timeout).await });
        match started.await {
            Ok(outcome) => outcome.map_err(Problem::from),
            Err(error) => Err(Problem::from(Kind::Internal).because(error)),
        }
    }
}
