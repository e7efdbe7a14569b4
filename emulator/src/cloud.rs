//! The settings and the whole state of the emulated project.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore};

use crate::model::counters::CounterBook;
use crate::model::executions::{Execution, Executions};
use crate::model::faults::Faults;
use crate::model::identity::Identity;
use crate::model::images::Images;
use crate::model::jobs::{Job, Jobs};
use crate::model::logs::Logs;
use crate::model::operations::Operations;
use crate::model::tokens::Tokens;
use crate::processes::Children;
use crate::refusal::Refusal;
use crate::settings::Settings;
use crate::site::Site;

#[derive(Debug)]
pub(crate) struct Cloud {
    pub(crate) settings: Settings,
    /// The address at which programs on this machine, including tasks, reach the emulator.
    pub(crate) address: SocketAddr,
    pub(crate) site: Site,
    pub(crate) images: Images,
    pub(crate) logs: Logs,
    pub(crate) tokens: Tokens,
    pub(crate) identity: Identity,
    pub(crate) faults: Faults,
    pub(crate) counters: CounterBook,
    pub(crate) children: Children,
    /// One permit for each child process.
    pub(crate) processes: Semaphore,
    /// Notified whenever an execution ends.
    pub(crate) one_ended: Notify,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) jobs: Jobs,
    pub(crate) executions: Executions,
    pub(crate) operations: Operations,
}

impl State {
    pub(crate) fn latest_of(&self, job: &Job) -> Option<&Execution> {
        self.executions.get(job.latest.as_deref()?)
    }
}

impl Cloud {
    pub(crate) fn new(settings: Settings, address: SocketAddr) -> io::Result<Self> {
        let site = Site {
            project: settings.project.clone(),
            region: settings.region.clone(),
        };
        let images = Images::new(&settings.jobs, settings.allow_commands);
        let mut state = State::default();
        for job in &settings.jobs {
            let refused = |refusal: Refusal| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("job {}: {}", job.name, refusal.message),
                )
            };
            let added = state.jobs.add_from_settings(&site, &images, job);
            added.map_err(refused)?;
        }
        Ok(Self {
            address,
            site,
            images,
            logs: Logs::new(settings.echo),
            tokens: Tokens::new(settings.token_lifetime),
            identity: Identity::new()?,
            faults: Faults::default(),
            counters: CounterBook::default(),
            children: Children::default(),
            processes: Semaphore::new(settings.max_processes),
            one_ended: Notify::new(),
            state: Mutex::new(state),
            settings,
        })
    }

    /// Locks the jobs, executions and operations. A poisoned lock is taken too, because a panic leaves them usable.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
