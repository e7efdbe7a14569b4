//! The children of a process, read from Linux's /proc, because a small machine may lack `ps`.

/// The processes that `parent` has started.
pub fn children(parent: u32) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let name = entry.ok()?.file_name();
        name.to_str()?.parse().ok()
    });
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// Whether the process has not ended yet.
pub fn is_running(pid: u32) -> bool {
    parent_of(pid).is_some()
}

/// The parent of a process; `None` if the process has ended. The name in `PID (NAME) STATE PARENT …` may have spaces
/// and parentheses (proc(5)).
fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    match fields.next()? {
        "Z" => None,
        _ => fields.next()?.parse().ok(),
    }
}
