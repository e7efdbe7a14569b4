//! Reads the reports that a job prints as lines of JSON on its standard output: `processProgress` and `processResult`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::gcp::cloud_logging::{Position, Report};
use crate::progress::Progress;

/// The largest result, in bytes of JSON.
pub const MAX_RESULT_BYTES: usize = 16 * 1024;
/// The largest total of one execution's results, in bytes. Results beyond it are not taken.
pub const MAX_RESULTS_BYTES: usize = 512 * 1024;
/// The longest message of a progress, in bytes; the rest is cut off.
const MAX_MESSAGE_BYTES: usize = 256;

/// The result that a task reported.
#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize)]
pub struct TaskResult {
    /// The task's index, from 0.
    pub task: u32,
    /// The result.
    pub value: Value,
    /// When it was reported; RFC 3339, UTC.
    pub time: String,
}

/// The newest reports of the tasks of one execution.
#[derive(Default)]
pub struct Reports {
    progress: BTreeMap<u32, (Position, Portion)>,
    /// The message of the newest progress.
    message: Option<(Position, String)>,
    results: BTreeMap<u32, (Position, TaskResult)>,
    result_bytes: usize,
    /// Whether the log already says that a report was not taken.
    complained: bool,
}

/// The progress of one task.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Portion {
    done: f64,
    total: Option<f64>,
}

impl Portion {
    fn fraction(self) -> f64 {
        match self.total {
            None => self.done,
            Some(0.0) => 1.0,
            Some(total) => self.done / total,
        }
    }
}

impl Reports {
    /// Takes the report in a line. One that is malformed or too large stays an ordinary line; the log says once why it was not
    /// taken. Returns whether anything changed.
    pub fn add(&mut self, execution: &str, position: &Position, report: Report) -> bool {
        let mut changed = false;
        let task = report.task.unwrap_or_default();
        if let Some(progress) = report.progress {
            match parse_progress(&progress) {
                Ok((portion, message)) => {
                    changed |=
                        self.add_progress(task, position, portion, message.or(report.message));
                }
                Err(why) => self.complain(execution, "processProgress", why),
            }
        }
        if let Some(value) = report.result {
            match self.add_result(task, position, value, report.time) {
                Ok(is_new) => changed |= is_new,
                Err(why) => self.complain(execution, "processResult", why),
            }
        }
        changed
    }

    fn add_progress(
        &mut self,
        task: u32,
        position: &Position,
        portion: Portion,
        message: Option<String>,
    ) -> bool {
        let is_late = |(known, _): &(Position, Portion)| known >= position;
        if self.progress.get(&task).is_some_and(is_late) {
            return false;
        }
        self.progress.insert(task, (position.clone(), portion));
        let newest = self
            .message
            .as_ref()
            .is_none_or(|(known, _)| known < position);
        if newest {
            self.message = message.map(|mut message| {
                message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
                (position.clone(), message)
            });
        }
        true
    }

    fn add_result(
        &mut self,
        task: u32,
        position: &Position,
        value: Value,
        time: String,
    ) -> Result<bool, &'static str> {
        let known = self.results.get(&task);
        if known.is_some_and(|(known, _)| known >= position) {
            return Ok(false);
        }
        let bytes = bytes(&value);
        if bytes > MAX_RESULT_BYTES {
            return Err("it has more than 16 KiB");
        }
        let replaced = known.map_or(0, |(_, result)| self::bytes(&result.value));
        if self.result_bytes - replaced + bytes > MAX_RESULTS_BYTES {
            return Err("the results of all tasks have more than 512 KiB");
        }
        self.result_bytes += bytes;
        self.result_bytes -= replaced;
        let result = TaskResult { task, value, time };
        self.results.insert(task, (position.clone(), result));
        Ok(true)
    }

    fn complain(&mut self, execution: &str, field: &str, why: &str) {
        if !self.complained {
            self.complained = true;
            tracing::warn!(execution, "{field} of this job's log was not taken: {why}");
        }
    }

    /// The progress of the execution: the sum of its tasks' progress, or the mean of their fractions if not all report a total.
    /// None if no task has reported anything.
    pub fn progress(&self, tasks: u32) -> Option<Progress> {
        let portions = || self.progress.values().map(|(_, portion)| portion);
        let reporting = portions().count();
        if reporting == 0 {
            return None;
        }
        let totals: Option<f64> = portions().map(|portion| portion.total).sum();
        // JSON has no number for a sum that is too large.
        let totals = totals.filter(|totals| totals.is_finite());
        let done = match totals {
            Some(_) => portions().map(|portion| portion.done).sum(),
            None => {
                let fractions: f64 = portions().map(|portion| portion.fraction()).sum();
                fractions / f64::from(tasks).max(reporting as f64)
            }
        };
        Some(Progress {
            done,
            total: totals,
            message: self.message.as_ref().map(|(_, message)| message.clone()),
        })
    }

    /// The newest result of each task, by task.
    pub fn results(&self) -> Vec<TaskResult> {
        self.results
            .values()
            .map(|(_, result)| result.clone())
            .collect()
    }
}

fn bytes(value: &Value) -> usize {
    serde_json::to_vec(value).map_or(0, |json| json.len())
}

/// `{"done": 12, "total": 40, "message": "…"}`, or a fraction from 0 to 1: alone, or as `done` or `fraction`.
fn parse_progress(value: &Value) -> Result<(Portion, Option<String>), &'static str> {
    let (done, total) = match value {
        Value::Object(fields) => {
            let done = fields.get("done").or_else(|| fields.get("fraction"));
            (done.and_then(Value::as_f64), fields.get("total"))
        }
        value => (value.as_f64(), None),
    };
    let done = done.ok_or("it has no number `done`")?;
    let total = match total {
        None | Some(Value::Null) => None,
        Some(total) => Some(total.as_f64().ok_or("`total` is not a number")?),
    };
    if done < 0.0 {
        return Err("`done` is negative");
    }
    match total {
        Some(total) if done > total => return Err("`done` is more than `total`"),
        None if done > 1.0 => return Err("without `total` it must be a fraction from 0 to 1"),
        _ => {}
    }
    let message = value.get("message").and_then(Value::as_str);
    Ok((Portion { done, total }, message.map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn position(second: i64, insert_id: &str) -> Position {
        Position {
            time: jiff::Timestamp::from_second(second).unwrap(),
            insert_id: insert_id.into(),
        }
    }

    fn report(task: u32, progress: Option<Value>, result: Option<Value>) -> Report {
        Report {
            task: Some(task),
            progress,
            result,
            message: None,
            time: "2026-01-01T00:00:00Z".to_owned(),
        }
    }

    fn progress(reports: &Reports, tasks: u32) -> Value {
        json!(reports.progress(tasks))
    }

    #[test]
    fn the_progress_of_several_tasks_is_their_sum() {
        let mut reports = Reports::default();
        assert_eq!(reports.progress(2), None);
        reports.add(
            "x",
            &position(1, "a"),
            report(0, Some(json!({"done": 3, "total": 10})), None),
        );
        assert_eq!(progress(&reports, 2), json!({"done": 3, "total": 10}));
        let with_message = json!({"done": 5.5, "total": 30, "message": "page 5"});
        reports.add("x", &position(2, "a"), report(1, Some(with_message), None));
        assert_eq!(
            progress(&reports, 2),
            json!({"done": 8.5, "total": 40, "message": "page 5"})
        );
    }

    #[test]
    fn the_progress_of_tasks_with_fractions_is_their_mean() {
        let mut reports = Reports::default();
        reports.add("x", &position(1, "a"), report(0, Some(json!(0.5)), None));
        assert_eq!(progress(&reports, 1), json!({"done": 0.5}));
        assert_eq!(
            progress(&reports, 2),
            json!({"done": 0.25}),
            "the other has not begun"
        );
        reports.add(
            "x",
            &position(1, "b"),
            report(1, Some(json!({"done": 10, "total": 10})), None),
        );
        assert_eq!(progress(&reports, 2), json!({"done": 0.75}));
    }

    #[test]
    fn totals_whose_sum_is_no_number_have_a_mean() {
        let mut reports = Reports::default();
        for task in 0..2 {
            let huge = json!({"done": 0.5e308, "total": 1e308});
            reports.add("x", &position(1, "a"), report(task, Some(huge), None));
        }
        assert_eq!(progress(&reports, 2), json!({"done": 0.5}));
    }

    #[test]
    fn a_later_report_replaces_an_earlier_one_and_a_late_line_does_not_move_it_back() {
        let mut reports = Reports::default();
        let at = |done: u32| Some(json!({"done": done, "total": 10}));
        assert!(reports.add(
            "x",
            &position(5, "b"),
            report(0, at(5), Some(json!("five")))
        ));
        assert!(!reports.add(
            "x",
            &position(4, "z"),
            report(0, at(4), Some(json!("four")))
        ));
        assert!(!reports.add(
            "x",
            &position(5, "a"),
            report(0, at(4), Some(json!("four")))
        ));
        assert_eq!(progress(&reports, 1)["done"], 5);
        assert_eq!(reports.results()[0].value, "five");
        assert!(
            reports.add("x", &position(5, "c"), report(0, at(2), None)),
            "a retry starts over"
        );
        assert_eq!(progress(&reports, 1)["done"], 2);
    }

    #[test]
    fn malformed_and_oversized_reports_are_not_taken() {
        let mut reports = Reports::default();
        for bad in [
            json!({}),
            json!("half"),
            json!({"done": "1"}),
            json!({"done": -1, "total": 2}),
            json!({"done": 3, "total": 2}),
            json!({"done": 12}),
            json!(1.5),
            json!(-0.1),
            json!({"done": 1, "total": "2"}),
            json!([1, 2]),
            json!(true),
            json!(null),
        ] {
            assert!(
                !reports.add("x", &position(1, "a"), report(0, Some(bad.clone()), None)),
                "{bad}"
            );
        }
        let large = json!("x".repeat(MAX_RESULT_BYTES - 1));
        assert!(!reports.add("x", &position(1, "a"), report(0, None, Some(large))));
        let largest = json!("x".repeat(MAX_RESULT_BYTES - 2));
        assert!(reports.add(
            "x",
            &position(1, "a"),
            report(0, None, Some(largest.clone()))
        ));
        for task in 1..1000 {
            reports.add(
                "x",
                &position(1, "a"),
                report(task, None, Some(largest.clone())),
            );
        }
        assert_eq!(
            reports.results().len(),
            MAX_RESULTS_BYTES / MAX_RESULT_BYTES
        );
        assert!(reports.add("x", &position(2, "a"), report(0, None, Some(largest))));
    }
}
