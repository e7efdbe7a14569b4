//! Stores the lines that tasks write, and searches them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::Write;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde_json::Value;

use super::filter::Filter;
use super::log_entry::{Entry, Shown, Source, Stream};
use crate::site::Site;

/// The most text that is kept in memory, in bytes. Beyond it the lines of the oldest execution are dropped.
const MOST_TEXT: usize = 256 * 1024 * 1024;
/// The memory of an entry beside its text, in bytes: its place in the map and in the list of its execution, and two
/// allocations.
const ENTRY_OVERHEAD: usize = 160;

/// The lines of all executions.
#[derive(Debug)]
pub(crate) struct Logs {
    echo: bool,
    kept: Mutex<Kept>,
}

/// The part of the matching entries to return.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// The time of the last entry of the previous page.
    pub(crate) after: Option<i128>,
    /// The time of the youngest entry that is visible.
    pub(crate) not_after: Option<i128>,
    pub(crate) descending: bool,
    pub(crate) limit: usize,
}

#[derive(Debug, Default)]
struct Kept {
    /// The entries by time.
    entries: BTreeMap<i128, Entry>,
    /// The times of each execution's entries, oldest first.
    by_execution: HashMap<Arc<str>, Vec<i128>>,
    oldest_first: VecDeque<Arc<str>>,
    size: usize,
}

impl Logs {
    pub(crate) fn new(echo: bool) -> Self {
        Self {
            echo,
            kept: Mutex::default(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a line, and prints it if `echo` is set.
    pub(crate) fn write(&self, source: &Source, stream: Stream, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        if self.echo {
            // A closed terminal must not end a task.
            let _closed = writeln!(std::io::stdout().lock(), "{} | {text}", source.execution);
        }
        self.kept().add(source, stream, &text);
    }

    /// The entries in the window that match the filter, as LogEntries, each with its time.
    pub(crate) fn read(&self, site: &Site, filter: &Filter, window: Window) -> Vec<(i128, Value)> {
        self.kept().matching(site, filter, window)
    }
}

impl Kept {
    fn add(&mut self, source: &Source, stream: Stream, text: &str) {
        // Entries are at least a microsecond apart, because some clients read times with that precision.
        let next = self
            .entries
            .last_key_value()
            .map_or(0, |(last, _)| last + 1000);
        let time = Timestamp::now().as_nanosecond().max(next);
        self.size += text.len() + ENTRY_OVERHEAD;
        if !self.by_execution.contains_key(&source.execution) {
            self.oldest_first.push_back(Arc::clone(&source.execution));
        }
        let times = self.by_execution.entry(Arc::clone(&source.execution));
        times.or_default().push(time);
        let entry = Entry {
            source: source.clone(),
            stream,
            time,
            text: text.into(),
        };
        self.entries.insert(time, entry);
        while self.size > MOST_TEXT {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.oldest_first.pop_front() else {
            return;
        };
        for time in self.by_execution.remove(&oldest).unwrap_or_default() {
            let entry = self.entries.remove(&time);
            self.size -= entry.map_or(0, |entry| entry.text.len() + ENTRY_OVERHEAD);
        }
    }

    fn matching(&self, site: &Site, filter: &Filter, window: Window) -> Vec<(i128, Value)> {
        let Window {
            after,
            not_after,
            descending,
            limit,
        } = window;
        let oldest = filter.not_before();
        let (from, to) = match after {
            Some(after) if descending && after < oldest => return Vec::new(),
            Some(after) if descending => (Bound::Included(oldest), Bound::Excluded(after)),
            Some(after) if after >= oldest => (Bound::Excluded(after), Bound::Unbounded),
            _ => (Bound::Included(oldest), Bound::Unbounded),
        };
        let entries: Box<dyn DoubleEndedIterator<Item = &Entry>> = match filter.execution() {
            Some(name) => {
                let times = self.by_execution.get(name).map_or(&[][..], Vec::as_slice);
                let begin = times.partition_point(|time| !(from, Bound::Unbounded).contains(time));
                let end = times.partition_point(|time| (Bound::Unbounded, to).contains(time));
                let times = times.get(begin..end).unwrap_or_default();
                Box::new(times.iter().filter_map(|time| self.entries.get(time)))
            }
            None => Box::new(self.entries.range((from, to)).map(|(_, entry)| entry)),
        };
        let visible = |entry: &&Entry| not_after.is_none_or(|youngest| entry.time <= youngest);
        let matching = |entry: &Entry| {
            let shown = Shown::new(site, entry);
            let wanted = filter.matches(&|name: &str| shown.field(name));
            wanted.then(|| (entry.time, shown.json()))
        };
        if descending {
            let entries = entries.rev().filter(visible);
            entries.filter_map(matching).take(limit).collect()
        } else {
            entries
                .filter(visible)
                .filter_map(matching)
                .take(limit)
                .collect()
        }
    }
}
