//! Long-running operations, with which v2 answers every change.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::random;

/// The number of operations that are kept, the newest ones. Google keeps them for days.
const MOST: usize = 5000;

/// One operation.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) id: String,
    pub(crate) subject: Subject,
}

/// The subject of an operation.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    /// The execution with this name. The operation is done when the execution ends.
    Execution(String),
    /// A change that is already done, with its response.
    Done(Value),
}

/// All operations by position. A higher position is newer.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    by_position: BTreeMap<i64, Operation>,
    positions: HashMap<String, i64>,
    newest: i64,
}

impl Operations {
    pub(crate) fn add(&mut self, id: String, subject: Subject) {
        self.newest += 1;
        self.positions.insert(id.clone(), self.newest);
        let operation = Operation { id, subject };
        self.by_position.insert(self.newest, operation);
        if self.by_position.len() > MOST
            && let Some((_, oldest)) = self.by_position.pop_first()
        {
            self.positions.remove(&oldest.id);
        }
    }

    /// Adds an operation under a new id and returns the id.
    pub(crate) fn add_new(&mut self, subject: Subject) -> String {
        let id = random::uuid();
        self.add(id.clone(), subject);
        id
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Operation> {
        self.by_position.get(self.positions.get(id)?)
    }

    pub(crate) fn remove(&mut self, id: &str) -> Option<Operation> {
        let position = self.positions.remove(id)?;
        self.by_position.remove(&position)
    }

    /// The operations older than position `after`, newest first.
    pub(crate) fn newest_first(
        &self,
        after: Option<i64>,
    ) -> impl Iterator<Item = (i64, &Operation)> {
        let end = after.unwrap_or(i64::MAX);
        let older = self.by_position.range(..end).rev();
        older.map(|(position, operation)| (*position, operation))
    }
}
