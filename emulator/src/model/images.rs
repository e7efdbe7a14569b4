//! Images: each stands for a local command.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use super::container::{Container, image_name};
use crate::settings::Job;

/// The local commands for images and for containers' own commands.
#[derive(Debug)]
pub(crate) struct Images {
    /// Job name → the program and arguments that its image stands for, in the order of the settings.
    commands: Vec<(String, Arc<[OsString]>)>,
    /// Whether a container's own command is run.
    allow_commands: bool,
}

impl Images {
    pub(crate) fn new(jobs: &[Job], allow_commands: bool) -> Self {
        let command = |job: &Job| (job.name.clone(), resolved(&job.command));
        Self {
            commands: jobs.iter().map(command).collect(),
            allow_commands,
        }
    }

    /// The local command of a container: its own, if it has one and that is allowed; otherwise that of the job with
    /// the name of its image, or else that of the first job.
    pub(crate) fn command(&self, container: &Container) -> Option<Arc<[OsString]>> {
        if self.allow_commands && !container.command.is_empty() {
            let words: Vec<OsString> = container.command.iter().map(Into::into).collect();
            return Some(resolved(&words));
        }
        let name = image_name(&container.image);
        let named = self.commands.iter().find(|(job, _)| job == name);
        named
            .or(self.commands.first())
            .map(|(_, command)| Arc::clone(command))
    }
}

/// Looks up the program on the emulator's PATH, because the environment of the child may have none.
fn resolved(command: &[OsString]) -> Arc<[OsString]> {
    let mut command = command.to_vec();
    if let Some(path) = command.first().and_then(|program| on_path(program)) {
        command[0] = path;
    }
    command.into()
}

fn on_path(program: &OsStr) -> Option<OsString> {
    if Path::new(program).components().count() != 1 {
        return None;
    }
    let directories = std::env::var_os("PATH")?;
    let mut candidates =
        std::env::split_paths(&directories).map(|directory| directory.join(program));
    candidates
        .find(|candidate| candidate.is_file())
        .map(Into::into)
}
