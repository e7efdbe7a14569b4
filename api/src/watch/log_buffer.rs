//! Buffers the lines of one watched execution, which are read once for all its watchers.
//!
//! Two segments are buffered: the tail, which grows as the execution prints, and a backfill segment for watchers that came
//! late or fell behind. Both are bounded. A line that is in neither is read again for the watcher that needs it.
//!
//! A watcher's cursor is the position up to which it has every line. Lines that become visible late, after younger ones, are
//! still delivered to those who watch at that time, up to [`DEDUP_AGE`] and [`MAX_DEDUP`] lines late. The cursor does not go
//! back for them: a client that reconnects later gets no line twice, and does not get the lines that became visible meanwhile.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use super::lag::NewLines;
use super::{Event, EventKind, RenderEvent};
use crate::gcp::cloud_logging::{Entry, Page, PageSize, Position, Report};
use crate::gcp::page_memory::Held;

/// How late a line may become visible, after a younger one, and still be delivered.
const DEDUP_AGE: SignedDuration = SignedDuration::from_secs(10);
/// The most known lines that are read again to find late ones among them. A page has a thousand, most of which should be new.
const MAX_DEDUP: usize = 200;
/// Bytes of the tail that are kept besides the newest page.
const MAX_KEPT_BYTES: usize = 256 * 1024;
/// The memory of a buffered line besides its text, in bytes: two positions and the reference counts.
const LINE_OVERHEAD: usize = 200;

/// The position up to which a client has every line. `None` is before the first line.
pub type LogCursor = Option<Position>;

/// How far a watcher has read.
#[derive(Debug, Default)]
pub struct Reader {
    /// It has every line up to here.
    pub cursor: LogCursor,
    /// It had every line up to here when it reached the tail.
    joined_tail_at: LogCursor,
    /// The number of its next line in the tail. None while it is behind the tail.
    next_number: Option<u64>,
    /// How often the buffer had dropped its lines when the reader last took one.
    drops_seen: Option<u64>,
}

impl Reader {
    /// A reader that has every line up to `cursor`.
    pub fn new(cursor: LogCursor) -> Self {
        Self {
            cursor,
            ..Self::default()
        }
    }

    /// Whether lines were dropped before it took them. A reader that has taken none yet is new, not slow.
    fn is_too_slow(&self, drops: u64) -> bool {
        self.drops_seen.is_some_and(|seen| seen < drops)
    }
}

/// The buffer's answer to a reader.
pub enum NextLine {
    /// A line, as an event.
    Line(Bytes),
    /// There is no line yet. The source that the reader needs is marked as wanted.
    Wait,
    /// There is no line, and there will be none.
    Complete,
    /// There are further lines, but they will not be read.
    Lost,
}

/// Which lines to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The newest lines.
    Tail,
    /// Earlier lines, for watchers that are behind.
    Backfill,
}

/// The new lines of a page.
#[derive(Default)]
pub struct Added {
    /// The times of the lines. None if there was no new line.
    pub lines: Option<NewLines>,
    /// What the job reported in them.
    pub reports: Vec<(Position, Report)>,
}

impl Added {
    fn record(&mut self, position: &Position, report: Option<Report>) {
        let time = position.time;
        let lines = self.lines.get_or_insert(NewLines {
            oldest: time,
            youngest: time,
        });
        lines.oldest = lines.oldest.min(time);
        lines.youngest = lines.youngest.max(time);
        self.reports
            .extend(report.map(|report| (position.clone(), report)));
    }
}

/// Which page to read.
pub struct NextPage {
    /// The source that the page is for.
    pub source: Source,
    /// Its earliest time.
    pub since: Option<Timestamp>,
    /// The token that the page before it ended with.
    pub token: Option<String>,
    /// How many lines to ask for.
    pub size: PageSize,
}

/// The buffered lines of an execution.
pub struct LogBuffer {
    execution: String,
    render: RenderEvent,
    begins_midway: bool,
    tail: Segment,
    backfill: Segment,
    tail_wanted: bool,
    backfill_wanted: Option<LogCursor>,
    backfill_is_next: bool,
    /// No lines will be added to the tail.
    complete: bool,
    /// No page will be read any more.
    gave_up: bool,
    /// The size of the next page.
    page_size: PageSize,
    /// The memory that the lines take. None before the first page.
    held: Option<Held>,
    /// How often the lines were dropped because others needed the memory.
    drops: u64,
}

impl LogBuffer {
    /// An empty buffer. Its tail begins at the first watcher's cursor.
    pub fn new(execution: &str, start: LogCursor, render: RenderEvent) -> Self {
        Self {
            execution: execution.to_owned(),
            render,
            begins_midway: start.is_some(),
            tail: Segment::new(start),
            backfill: Segment::new(None),
            tail_wanted: false,
            backfill_wanted: None,
            backfill_is_next: false,
            complete: false,
            gave_up: false,
            page_size: PageSize::default(),
            held: None,
            drops: 0,
        }
    }

    /// Takes the next line for the reader.
    pub fn next_line(&mut self, reader: &mut Reader) -> NextLine {
        let next = self.next_buffered(reader);
        match &next {
            NextLine::Line(_) => {
                if let Some(held) = &self.held {
                    held.touch();
                }
            }
            // The reader has taken all lines before the drop.
            NextLine::Wait => reader.drops_seen = Some(self.drops),
            NextLine::Complete | NextLine::Lost => {}
        }
        next
    }

    fn next_buffered(&mut self, reader: &mut Reader) -> NextLine {
        loop {
            let number = match reader
                .next_number
                .filter(|number| *number >= self.tail.first)
            {
                Some(number) => number,
                None if self.tail.start <= reader.cursor => {
                    reader.joined_tail_at = reader.cursor.clone();
                    self.tail.number_after(&reader.cursor)
                }
                None => {
                    reader.next_number = None;
                    match self.next_of_backfill(reader) {
                        Some(next) => return next,
                        None => continue,
                    }
                }
            };
            reader.next_number = Some(number);
            let Some(line) = self.tail.get(number) else {
                self.tail_wanted = !self.complete;
                return if self.complete {
                    NextLine::Complete
                } else {
                    NextLine::Wait
                };
            };
            reader.next_number = Some(number + 1);
            reader.cursor = Some(line.cursor.clone());
            if reader.joined_tail_at.as_ref() < Some(&line.position) {
                return NextLine::Line(line.event.clone());
            }
        }
    }

    /// `None`: the reader has reached the tail.
    fn next_of_backfill(&mut self, reader: &mut Reader) -> Option<NextLine> {
        if self.backfill.start <= reader.cursor {
            if let Some(line) = self
                .backfill
                .get(self.backfill.number_after(&reader.cursor))
            {
                reader.cursor = Some(line.cursor.clone());
                return Some(NextLine::Line(line.event.clone()));
            }
            if reader.cursor < self.backfill.end {
                reader.cursor = self.backfill.end.clone();
                return None;
            }
        }
        if self.gave_up || reader.is_too_slow(self.drops) {
            return Some(NextLine::Lost);
        }
        // Other readers that are behind ask again after this read.
        self.backfill_wanted
            .get_or_insert_with(|| reader.cursor.clone());
        Some(NextLine::Wait)
    }

    /// The source that a reader waits for. If both are wanted, they alternate.
    pub fn wanted(&self) -> Option<Source> {
        match (self.tail_wanted, self.backfill_wanted.is_some()) {
            (true, true) if self.backfill_is_next => Some(Source::Backfill),
            (true, _) => Some(Source::Tail),
            (false, true) => Some(Source::Backfill),
            (false, false) => None,
        }
    }

    /// The page to read for the source that is wanted.
    pub fn next_page(&mut self, source: Source) -> NextPage {
        if source == Source::Backfill
            && let Some(cursor) = &self.backfill_wanted
            && !(self.backfill.start <= *cursor && *cursor <= self.backfill.end)
        {
            self.backfill = Segment::new(cursor.clone());
        }
        let size = self.page_size;
        let (since, token) = self.segment(source).next_page();
        NextPage {
            source,
            since,
            token,
            size,
        }
    }

    /// Adds a page that was read; returns what is new in it.
    pub fn add(&mut self, source: Source, page: Page) -> Added {
        match source {
            Source::Tail => self.tail_wanted = false,
            Source::Backfill => self.backfill_wanted = None,
        }
        self.backfill_is_next = source == Source::Tail;
        let (execution, render) = (self.execution.clone(), self.render);
        self.page_size = page.size;
        let added = self
            .segment(source)
            .add(&execution, render, page.entries, page.next);
        self.hold(Some(page.held));
        if source == Source::Backfill
            && !self.backfill.has_more
            && self.backfill.end < self.tail.start
        {
            // Lines that were visible before are missing now: Cloud Logging keeps lines for a limited time.
            self.backfill.end = self.tail.start.clone();
        }
        added
    }

    /// Whether its tail began in the middle of the log, so that earlier reports are not in it.
    pub fn begins_midway(&self) -> bool {
        self.begins_midway
    }

    /// Adds the page's memory to the buffer's account, which the first page opened.
    fn hold(&mut self, newest: Option<Held>) {
        if self.held.is_none() {
            self.held = newest;
        }
        if let Some(held) = &self.held {
            held.set(self.tail.bytes + self.backfill.bytes);
            held.touch();
        }
    }

    /// The account of the memory that the lines take.
    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// Drops the buffered lines, because other executions need the memory. Readers that have taken all of them continue; the
    /// others are too slow.
    pub fn drop_lines(&mut self) {
        self.drops += 1;
        self.tail.drop_lines(0);
        self.backfill.drop_lines(0);
        self.hold(None);
    }

    /// Whether the tail had more pages when it was last read.
    pub fn tail_has_more(&self) -> bool {
        self.tail.has_more
    }

    /// Records that the execution has finished and its last lines were read.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// Records that the execution has finished and no more lines can be read for now.
    pub fn give_up(&mut self) {
        (self.complete, self.gave_up) = (true, true);
        (self.tail_wanted, self.backfill_wanted) = (false, None);
    }

    /// Whether reading has stopped early, so that lines may be missing.
    pub fn has_given_up(&self) -> bool {
        self.gave_up
    }

    fn segment(&mut self, source: Source) -> &mut Segment {
        match source {
            Source::Tail => &mut self.tail,
            Source::Backfill => &mut self.backfill,
        }
    }
}

/// A line, ready to be sent.
struct BufferedLine {
    position: Position,
    /// The cursor of a reader that has this line: the line's position, or that of a younger line delivered before it.
    cursor: Position,
    event: Bytes,
}

/// Lines in the order in which they were read, and how to read on.
struct Segment {
    /// The segment has every line after this cursor.
    start: LogCursor,
    /// The number of the first buffered line.
    first: u64,
    lines: VecDeque<BufferedLine>,
    bytes: usize,
    /// The cursor of a reader that has the whole segment.
    end: LogCursor,
    /// Lines up to here are known; `dedup_window` has the known ones above it.
    dedup_floor: LogCursor,
    dedup_window: BTreeSet<Position>,
    /// The earliest time of the last read, and the token of the page that follows.
    since: Option<Timestamp>,
    next_token: Option<String>,
    /// Whether there were more lines when it was last read.
    has_more: bool,
}

impl Segment {
    fn new(start: LogCursor) -> Self {
        Self {
            end: start.clone(),
            dedup_floor: start.clone(),
            start,
            first: 0,
            lines: VecDeque::new(),
            bytes: 0,
            dedup_window: BTreeSet::new(),
            since: None,
            next_token: None,
            has_more: true,
        }
    }

    fn get(&self, number: u64) -> Option<&BufferedLine> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.lines.get(index)
    }

    /// The number of the first line after the cursor.
    fn number_after(&self, cursor: &LogCursor) -> u64 {
        let is_before = |line: &BufferedLine| Some(&line.cursor) <= cursor.as_ref();
        self.first + self.lines.partition_point(is_before) as u64
    }

    /// A page token is used once: if that read fails, the same lines are found by their time.
    fn next_page(&mut self) -> (Option<Timestamp>, Option<String>) {
        let token = self.next_token.take();
        if token.is_none() {
            self.since = self.dedup_floor.as_ref().map(|position| position.time);
        }
        (self.since, token)
    }

    fn add(
        &mut self,
        execution: &str,
        render: RenderEvent,
        entries: Vec<Entry>,
        next_token: Option<String>,
    ) -> Added {
        let mut added = Added::default();
        // Dropping precedes adding the page, so that no reader loses a line of it.
        self.drop_lines(MAX_KEPT_BYTES);
        for Entry {
            position,
            line,
            report,
        } in entries
        {
            let is_known = Some(&position) <= self.dedup_floor.as_ref()
                || !self.dedup_window.insert(position.clone());
            if is_known {
                continue;
            }
            added.record(&position, report);
            let cursor = self
                .end
                .take()
                .map_or(position.clone(), |end| end.max(position.clone()));
            self.end = Some(cursor.clone());
            let event = render(&Event {
                kind: EventKind::Log,
                execution,
                cursor: Some(&cursor),
                comment: None,
                data: &serde_json::to_string(&line).unwrap_or_default(),
            });
            self.bytes += event.len() + LINE_OVERHEAD;
            self.lines.push_back(BufferedLine {
                position,
                cursor,
                event,
            });
        }
        self.shrink_dedup_window();
        self.has_more = next_token.is_some();
        self.next_token = next_token;
        added
    }

    /// Drops the oldest lines until the rest takes at most so many bytes.
    fn drop_lines(&mut self, bytes: usize) {
        while self.bytes > bytes
            && let Some(line) = self.lines.pop_front()
        {
            self.bytes -= line.event.len() + LINE_OVERHEAD;
            self.first += 1;
            self.start = Some(line.cursor);
        }
    }

    fn shrink_dedup_window(&mut self) {
        let Some(youngest) = self.dedup_window.last().map(|position| position.time) else {
            return;
        };
        let is_old = |position: &Position| youngest.duration_since(position.time) > DEDUP_AGE;
        while self.dedup_window.len() > MAX_DEDUP || self.dedup_window.first().is_some_and(is_old) {
            self.dedup_floor = self.dedup_window.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gcp::cloud_logging::Line;
    use crate::gcp::page_memory::PageMemory;

    /// A model of Cloud Logging: entries by position, of which only some may be visible yet.
    #[derive(Default)]
    struct Log {
        entries: BTreeSet<Position>,
        page: usize,
        reads: usize,
    }

    impl Log {
        fn page(&mut self, since: Option<Timestamp>, token: Option<&str>) -> Page {
            self.reads += 1;
            let skipped: usize = token.map_or(0, |token| token.parse().unwrap());
            let since = since.unwrap_or(Timestamp::MIN);
            let matching = self.entries.iter().filter(|entry| entry.time >= since);
            let mut matching = matching.skip(skipped);
            let positions: Vec<_> = matching.by_ref().take(self.page).cloned().collect();
            let next = matching.next().map(|_| (skipped + self.page).to_string());
            let entries = positions.into_iter().map(entry).collect();
            Page {
                entries,
                next,
                size: PageSize::default(),
                held: PageMemory::of_container().hold(0).unwrap(),
            }
        }
    }

    fn position(millisecond: i64, insert_id: &str) -> Position {
        Position {
            time: Timestamp::from_millisecond(millisecond).unwrap(),
            insert_id: insert_id.into(),
        }
    }

    fn entry(position: Position) -> Entry {
        let line = Line {
            time: position.time.to_string(),
            severity: "DEFAULT".to_owned(),
            task: None,
            text: position.insert_id.to_string(),
        };
        Entry {
            position,
            line,
            report: None,
        }
    }

    /// Reads what is wanted, once.
    fn read(lines: &mut LogBuffer, log: &mut Log) {
        if let Some(source) = lines.wanted() {
            let next = lines.next_page(source);
            let page = log.page(next.since, next.token.as_deref());
            lines.add(source, page);
        }
    }

    /// The texts that the buffer has for the reader.
    fn there(lines: &mut LogBuffer, reader: &mut Reader, most: usize) -> Vec<String> {
        let mut texts = Vec::new();
        while texts.len() < most
            && let NextLine::Line(event) = lines.next_line(reader)
        {
            let line: serde_json::Value = serde_json::from_slice(&event).unwrap();
            texts.push(line["text"].as_str().unwrap().to_owned());
        }
        texts
    }

    /// All lines that the reader gets until several reads in a row yield none.
    fn all(lines: &mut LogBuffer, reader: &mut Reader, log: &mut Log) -> Vec<String> {
        let mut texts = there(lines, reader, usize::MAX);
        let mut idle = 0;
        while idle < 5 {
            read(lines, log);
            let more = there(lines, reader, usize::MAX);
            idle = if more.is_empty() { idle + 1 } else { 0 };
            texts.extend(more);
        }
        texts
    }

    /// The event's data alone.
    fn data(event: &Event<'_>) -> Bytes {
        Bytes::copy_from_slice(event.data.as_bytes())
    }

    #[test]
    fn late_lines_reach_current_watchers_once() {
        let mut log = Log {
            page: 100,
            ..Log::default()
        };
        log.entries
            .extend([position(10_000, "a"), position(11_000, "c")]);
        let (mut lines, mut watcher) = (LogBuffer::new("x", None, data), Reader::default());
        assert_eq!(all(&mut lines, &mut watcher, &mut log), ["a", "c"]);
        let mut back = Reader::new(watcher.cursor.clone());
        log.entries
            .extend([position(10_500, "b"), position(12_000, "d")]);
        assert_eq!(all(&mut lines, &mut watcher, &mut log), ["b", "d"]);
        assert_eq!(all(&mut lines, &mut back, &mut log), ["d"]);
        let mut new = Reader::default();
        assert_eq!(all(&mut lines, &mut new, &mut log), ["a", "c", "b", "d"]);
        log.entries.insert(position(30_000, "e"));
        assert_eq!(all(&mut lines, &mut watcher, &mut log), ["e"]);
        log.entries.insert(position(11_999, "too late"));
        assert!(all(&mut lines, &mut watcher, &mut log).is_empty());
    }

    #[test]
    fn dropped_lines_end_only_the_readers_that_have_not_taken_them() {
        let mut log = Log {
            page: 100,
            ..Log::default()
        };
        log.entries.extend((0..10).map(|n| position(n, "line")));
        let mut lines = LogBuffer::new("x", None, data);
        let (mut quick, mut slow) = (Reader::default(), Reader::default());
        assert!(there(&mut lines, &mut slow, 1).is_empty());
        assert_eq!(all(&mut lines, &mut quick, &mut log).len(), 10);
        assert_eq!(there(&mut lines, &mut slow, 3).len(), 3);
        lines.drop_lines();
        assert_eq!(lines.tail.bytes, 0);
        assert!(matches!(lines.next_line(&mut slow), NextLine::Lost));
        log.entries.insert(position(20, "more"));
        assert_eq!(all(&mut lines, &mut quick, &mut log), ["more"]);
        let mut new = Reader::new(slow.cursor);
        assert_eq!(all(&mut lines, &mut new, &mut log).len(), 8);
    }

    #[test]
    fn more_lines_of_one_time_than_a_page_holds_are_all_delivered() {
        let mut log = Log {
            page: 10,
            ..Log::default()
        };
        let names: Vec<_> = (0..MAX_DEDUP * 2).map(|n| format!("{n:04}")).collect();
        log.entries
            .extend(names.iter().map(|name| position(5_000, name)));
        let (mut lines, mut watcher) = (LogBuffer::new("x", None, data), Reader::default());
        assert_eq!(all(&mut lines, &mut watcher, &mut log), names);
        log.entries.insert(position(5_000, "9999"));
        // Every known line of that time is skipped again, a page at a time.
        let mut more = Vec::new();
        for _ in 0..MAX_DEDUP {
            more.extend(there(&mut lines, &mut watcher, 1));
            read(&mut lines, &mut log);
        }
        assert_eq!(more, ["9999"]);
    }

    #[test]
    fn lines_that_cloud_logging_has_deleted_block_no_reader() {
        let mut log = Log {
            page: 100,
            ..Log::default()
        };
        log.entries
            .extend((0..100).map(|n| position(n * 10, "old")));
        let (mut lines, mut watcher) = (LogBuffer::new("x", None, data), Reader::default());
        all(&mut lines, &mut watcher, &mut log);
        lines.tail.bytes += MAX_KEPT_BYTES * 2; // as if they were long
        log.entries.clear();
        log.entries.insert(position(2_000, "new"));
        assert_eq!(all(&mut lines, &mut watcher, &mut log), ["new"]);
        lines.tail.bytes = 0;
        let mut late = Reader::default();
        assert_eq!(all(&mut lines, &mut late, &mut log), ["new"]);
    }

    /// Watchers are slow, come late, leave and come back while lines appear. Each gets every line once, in order.
    #[test]
    fn every_watcher_gets_every_line_once_in_order() {
        for seed in 1..40_u64 {
            let mut state = seed;
            let mut random = move |below: u64| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 33) % below
            };
            let mut log = Log {
                page: 1 + random(30) as usize,
                ..Log::default()
            };
            let mut lines = LogBuffer::new("x", None, data);
            let mut watchers: Vec<(Reader, Vec<String>)> = Vec::new();
            let mut printed = Vec::new();
            for step in 0..200 {
                match random(6) {
                    0 if watchers.len() < 6 => watchers.push((Reader::default(), Vec::new())),
                    1 => {
                        for _ in 0..random(50) {
                            let name = format!("{:06}", printed.len());
                            log.entries.insert(position(step * 1000, &name));
                            printed.push(name);
                        }
                    }
                    2 => read(&mut lines, &mut log),
                    3 => lines.tail.bytes += MAX_KEPT_BYTES / 4, // long lines
                    4 if !watchers.is_empty() => {
                        let chosen = random(watchers.len() as u64) as usize;
                        let (reader, _) = &mut watchers[chosen];
                        *reader = Reader::new(reader.cursor.clone());
                    }
                    _ => {
                        for (reader, got) in &mut watchers {
                            let most = random(40) as usize;
                            got.extend(there(&mut lines, reader, most));
                        }
                    }
                }
            }
            for _ in 0..10_000 {
                for (reader, got) in &mut watchers {
                    got.extend(there(&mut lines, reader, usize::MAX));
                }
                if watchers.iter().all(|(_, got)| got.len() >= printed.len()) {
                    break;
                }
                read(&mut lines, &mut log);
            }
            for (_, got) in &watchers {
                assert_eq!(got, &printed, "seed {seed}");
            }
        }
    }
}
