//! The processes that the service starts: the unnamed one of the top-level settings, and those of `[processes]`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{self, Config, Invalid, OnRunning};
use crate::gcp::cloud_run::Target;
use crate::overrides::Templates;
use crate::parameters::Parameters;
use crate::scope::ProcessName;

/// A process: a job, its parameters and templates, and the rule for a scope that already has an unfinished execution.
pub struct Process {
    /// None for the unnamed process.
    pub name: Option<ProcessName>,
    /// The job, and the container that gets the overrides.
    pub target: Arc<Target>,
    /// The declared parameters.
    pub parameters: Parameters,
    /// The templates that pass scope and parameters to the job.
    pub templates: Templates,
    /// What to do if the scope has `max_running` unfinished executions, unless the caller chooses.
    pub on_running: OnRunning,
    /// How many unfinished executions of this process a scope may have before `on_running` decides.
    pub max_running: u32,
}

/// All processes of the settings.
pub struct Processes {
    unnamed: Arc<Process>,
    named: BTreeMap<ProcessName, Arc<Process>>,
}

impl Processes {
    /// Compiles the processes of the settings. The error names the setting and the cure.
    pub fn new(config: &Config) -> Result<Self, Invalid> {
        let mut named = BTreeMap::new();
        for (name, own) in &config.processes {
            let prefix = format!("processes.{name}.");
            let name = ProcessName::new(name).ok_or_else(|| {
                let rule = "is not a name of a process: use 1 to 63 lower-case letters, digits, _ or -, and a letter first";
                Invalid::new(format!("processes.{name}"), rule)
            })?;
            let process = process(&prefix, Some(name.clone()), &own.within(config))?;
            named.insert(name, Arc::new(process));
        }
        let unnamed = config::Process::default().within(config);
        Ok(Self {
            unnamed: Arc::new(process("", None, &unnamed)?),
            named,
        })
    }

    /// The process that is started at the bare path.
    pub fn unnamed(&self) -> &Arc<Process> {
        &self.unnamed
    }

    /// The process of this name.
    pub fn named(&self, name: &str) -> Option<&Arc<Process>> {
        self.named.get(&ProcessName::new(name)?)
    }

    /// The unnamed process, followed by the others by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Process>> {
        std::iter::once(&self.unnamed).chain(self.named.values())
    }
}

/// `prefix` is put before the names of its settings.
fn process(
    prefix: &str,
    name: Option<ProcessName>,
    settings: &config::WholeProcess,
) -> Result<Process, Invalid> {
    let parameters = Parameters::new(prefix, &settings.parameters)?;
    Ok(Process {
        target: Arc::new(Target::new(
            name.clone(),
            &settings.job,
            settings.container.as_deref(),
        )),
        templates: Templates::new(prefix, &settings.overrides, &parameters)?,
        parameters,
        on_running: settings.on_running,
        max_running: settings.max_running,
        name,
    })
}
