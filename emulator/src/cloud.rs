//! The one project and region that the emulator is, and everything in it.

use std::ffi::OsString;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Semaphore;

use crate::child::{self, Children};
use crate::counters::CounterBook;
use crate::executions::Executions;
use crate::faults::Faults;
use crate::jobs::Jobs;
use crate::logging::Logs;
use crate::metadata::Tokens;
use crate::refusal::Refusal;
use crate::settings::Settings;

/// The project's number, which Google's answers use in place of its id. Any number will do.
pub(crate) const PROJECT_NUMBER: &str = "123456789012";

#[derive(Debug)]
pub(crate) struct Cloud {
    pub(crate) settings: Settings,
    /// Job name → the program and arguments it stands for, in the order of the settings.
    pub(crate) commands: Vec<(String, Arc<[OsString]>)>,
    pub(crate) logs: Logs,
    pub(crate) tokens: Tokens,
    pub(crate) faults: Faults,
    pub(crate) counters: CounterBook,
    pub(crate) children: Children,
    /// One permit for each child process.
    pub(crate) processes: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) jobs: Jobs,
    pub(crate) executions: Executions,
}

impl Cloud {
    pub(crate) fn new(settings: Settings) -> io::Result<Self> {
        let mut commands = Vec::new();
        for job in &settings.jobs {
            commands.push((job.name.clone(), child::resolved(&job.command)));
        }
        let cloud = Self {
            commands,
            logs: Logs::default(),
            tokens: Tokens::new(settings.token_lifetime),
            faults: Faults::default(),
            counters: CounterBook::default(),
            children: Children::default(),
            processes: Semaphore::new(settings.max_processes),
            state: Mutex::default(),
            settings,
        };
        for job in &cloud.settings.jobs {
            let refused = |refusal: Refusal| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("job {}: {}", job.name, refusal.message),
                )
            };
            cloud
                .state()
                .jobs
                .add_from_settings(&cloud, job)
                .map_err(refused)?;
        }
        Ok(cloud)
    }

    /// The jobs and executions, for a moment. A panic while it was held leaves a state that is still of use.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The command behind an image: that of the job whose name the image ends in, else the first.
    pub(crate) fn command(&self, image: &str) -> Option<Arc<[OsString]>> {
        let image = image.split('@').next().unwrap_or_default();
        let last = image.rsplit('/').next().unwrap_or_default();
        let name = last.split(':').next().unwrap_or_default();
        let named = self.commands.iter().find(|(job, _)| job == name);
        named
            .or(self.commands.first())
            .map(|(_, command)| Arc::clone(command))
    }

    /// Google's account for whatever runs without another one.
    pub(crate) fn default_account(&self) -> String {
        format!("{PROJECT_NUMBER}-compute@developer.gserviceaccount.com")
    }

    /// Google's sentence for a thing that is not there; `kind` is `JOB`, `EXECUTION` or `TASK`.
    pub(crate) fn missing(&self, kind: &str, name: &str) -> Refusal {
        let Settings {
            project, region, ..
        } = &self.settings;
        Refusal::not_found(format!(
            "Resource '{name}' of kind '{kind}' in region '{region}' in project '{project}' does not exist."
        ))
    }
}

/// A time as the v1 API writes it: UTC, microseconds.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
