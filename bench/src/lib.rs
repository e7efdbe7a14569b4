//! What both benchmarks use: requests and answers on the wire, load, and what the machine says of a process.

pub mod load;
pub mod machine;
pub mod wire;
