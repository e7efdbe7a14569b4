//! The helpers of both benchmarks: HTTP messages, load, and measurements of processes.

pub mod load;
pub mod machine;
pub mod wire;
