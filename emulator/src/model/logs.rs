//! The lines that tasks write, kept and found again.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::filter::Filter;
use super::log_entry::{Entry, Source, Stream};
use crate::site::Site;

/// Text kept in memory in all. Beyond it the lines of the oldest execution go.
const MOST_TEXT: usize = 256 * 1024 * 1024;
/// What an entry costs beside its text.
const ENTRY_OVERHEAD: usize = 64;

/// The lines of all executions.
#[derive(Debug)]
pub(crate) struct Logs {
    echo: bool,
    kept: Mutex<Kept>,
}

/// Which of the matching entries are wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// The time of the entry before.
    pub(crate) after: Option<i128>,
    pub(crate) descending: bool,
    pub(crate) limit: usize,
}

/// Every line kept, by execution; within one, in the order of arrival.
#[derive(Debug, Default)]
struct Kept {
    by_execution: HashMap<Arc<str>, Vec<Entry>>,
    oldest_first: VecDeque<Arc<str>>,
    last_time: i128,
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

    /// Keeps a line, and prints it if lines are to be echoed.
    pub(crate) fn write(&self, source: &Source, stream: Stream, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        if self.echo {
            // A closed terminal is no reason to end a task.
            let _closed = writeln!(std::io::stdout().lock(), "{} | {text}", source.execution);
        }
        self.kept().add(source, stream, &text);
    }

    /// The entries in the window that the filter lets through, each as `show` shows it.
    pub(crate) fn read<T>(
        &self,
        site: &Site,
        filter: &Filter,
        window: Window,
        show: impl FnMut(&Entry) -> T,
    ) -> Vec<T> {
        let kept = self.kept();
        let found = kept.matching(site, filter, window);
        found.into_iter().map(show).collect()
    }
}

impl Kept {
    fn add(&mut self, source: &Source, stream: Stream, text: &str) {
        self.last_time = Timestamp::now().as_nanosecond().max(self.last_time + 1000);
        let entry = Entry::new(source.clone(), stream, self.last_time, text);
        self.size += text.len() + ENTRY_OVERHEAD;
        if !self.by_execution.contains_key(&source.execution) {
            self.oldest_first.push_back(Arc::clone(&source.execution));
        }
        self.by_execution
            .entry(Arc::clone(&source.execution))
            .or_default()
            .push(entry);
        while self.size > MOST_TEXT {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.oldest_first.pop_front() else {
            return;
        };
        let entries = self.by_execution.remove(&oldest).unwrap_or_default();
        self.size -= entries
            .iter()
            .map(|entry| entry.size() + ENTRY_OVERHEAD)
            .sum::<usize>();
    }

    fn matching(&self, site: &Site, filter: &Filter, window: Window) -> Vec<&Entry> {
        let Window {
            after,
            descending,
            limit,
        } = window;
        let lists: Vec<&Vec<Entry>> = match filter.execution() {
            Some(name) => self.by_execution.get(name).into_iter().collect(),
            None => self.by_execution.values().collect(),
        };
        let mut found = Vec::new();
        for list in lists {
            let matching = |entry: &&Entry| filter.matches(site, entry);
            if descending {
                let end = after.map_or(list.len(), |after| {
                    list.partition_point(|entry| entry.time < after)
                });
                found.extend(list[..end].iter().rev().filter(matching).take(limit));
            } else {
                let from =
                    after.map_or(0, |after| list.partition_point(|entry| entry.time <= after));
                let from = from.max(list.partition_point(|entry| entry.time < filter.not_before()));
                found.extend(list[from..].iter().filter(matching).take(limit));
            }
        }
        found.sort_by_key(|entry| if descending { -entry.time } else { entry.time });
        found.truncate(limit);
        found
    }
}
