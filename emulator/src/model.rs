//! The emulated resources and their behaviour. Nothing here imports `http` or `cloud`.

pub(crate) mod conditions;
pub(crate) mod container;
pub(crate) mod counters;
pub(crate) mod executions;
pub(crate) mod faults;
pub(crate) mod filter;
pub(crate) mod identity;
pub(crate) mod images;
pub(crate) mod jobs;
pub(crate) mod kept;
pub(crate) mod log_entry;
pub(crate) mod logs;
pub(crate) mod operations;
pub(crate) mod overrides;
pub(crate) mod tasks;
pub(crate) mod template;
pub(crate) mod tokens;
