//! The resources that a process uses.

use std::fs;
use std::time::Duration;

/// Resident memory, in bytes.
pub fn memory(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kibibytes.parse::<usize>().unwrap() * 1024
}

/// Open files, sockets among them.
pub fn files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Threads.
pub fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

/// How long the process and this thread were ready to run while others had the processor. It is subtracted, since a busy machine is
/// not a fault of the service.
pub fn delay(pid: u32) -> Duration {
    let delays = [
        format!("/proc/{pid}/schedstat"),
        "/proc/thread-self/schedstat".to_owned(),
    ];
    let nanoseconds = delays.iter().filter_map(|path| {
        let text = fs::read_to_string(path).ok()?;
        text.split(' ').nth(1)?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}
