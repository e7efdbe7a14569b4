//! The lines of one watched run, read once for all who watch it.
//!
//! Two stretches are kept: the tail, which grows as the run prints, and one of the past, for those that came late or fell
//! behind. Both are bounded; whoever needs a line that is in neither has it read again.
//!
//! A watcher's place is the position up to which it has everything. Lines that become visible late, after younger ones, are
//! still given out, up to [`OVERLAP`] and [`MAX_RECENT`] lines late, to those who watch at that time; the place does not
//! go back for them, so that a client that comes back later gets no line twice, and not those that were late meanwhile.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use crate::gcp::cloud_logging::{Entry, Page, Position};
use crate::http::page_token::{decode, encode};
use crate::watch::event;

/// How late a line may become visible, after a younger one, and still be given out.
const OVERLAP: SignedDuration = SignedDuration::from_secs(10);
/// Lines that are read again at most to find late ones among them: a page has a thousand, most of which should be new.
const MAX_RECENT: usize = 200;
/// The lines of the tail kept beside those of the newest page, in bytes.
const MAX_KEPT_BYTES: usize = 256 * 1024;
/// What a kept line costs beside its text, in bytes: two positions, the counters of what is shared.
const LINE_OVERHEAD: usize = 200;

/// The position up to which somebody has all lines; `None` is before the first.
pub type Place = Option<Position>;

/// The place as the id of an event.
pub fn id(execution: &str, position: &Position) -> String {
    encode(&list(execution), &(position.time, &*position.insert_id))
}

/// The place that the id of an event was made of, for the same execution.
pub fn place(execution: &str, id: &str) -> Option<Position> {
    let (time, insert_id): (Timestamp, String) = decode(&list(execution), id)?;
    Some(Position {
        // A job can print a time of its own choosing, and whoever wants can seal one; watchers share where they read.
        time: time.min(Timestamp::now()),
        insert_id: insert_id.into(),
    })
}

fn list(execution: &str) -> String {
    format!("events/{execution}")
}

/// Who watches, as far as lines go: where it is.
#[derive(Debug, Default)]
pub struct Cursor {
    /// Everything up to here was given out.
    pub place: Place,
    /// Everything up to here was given out before it came to the tail.
    entered: Place,
    /// The next line, as the tail counts them; none while it is behind.
    number: Option<u64>,
}

impl Cursor {
    /// Goes on after `place`.
    pub fn new(place: Place) -> Self {
        Self {
            place,
            ..Self::default()
        }
    }
}

/// What there is for a cursor.
pub enum Next {
    /// A line, as an event.
    Line(Bytes),
    /// Nothing yet; what it needs is noted as wanted.
    Wait,
    /// Nothing, and nothing will come.
    Complete,
    /// Lines that will not be read any more.
    Lost,
}

/// What to read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// What was printed since.
    Tail,
    /// What somebody who is behind needs.
    Past,
}

/// The lines of a run, as far as they are kept.
pub struct Lines {
    execution: String,
    tail: Stretch,
    past: Stretch,
    tail_wanted: bool,
    past_wanted: Option<Place>,
    past_is_next: bool,
    /// Nothing will be added to the tail.
    complete: bool,
    /// Nothing will be read any more.
    given_up: bool,
}

impl Lines {
    /// Nothing is read yet. The tail begins where the first watcher is.
    pub fn new(execution: &str, start: Place) -> Self {
        Self {
            execution: execution.to_owned(),
            tail: Stretch::new(start),
            past: Stretch::new(None),
            tail_wanted: false,
            past_wanted: None,
            past_is_next: false,
            complete: false,
            given_up: false,
        }
    }

    /// What comes next for the cursor.
    pub fn next(&mut self, cursor: &mut Cursor) -> Next {
        loop {
            let number = match cursor.number.filter(|number| *number >= self.tail.first) {
                Some(number) => number,
                None if self.tail.after <= cursor.place => {
                    cursor.entered = cursor.place.clone();
                    self.tail.number_after(&cursor.place)
                }
                None => {
                    cursor.number = None;
                    match self.next_of_the_past(cursor) {
                        Some(next) => return next,
                        None => continue,
                    }
                }
            };
            cursor.number = Some(number);
            let Some(line) = self.tail.get(number) else {
                self.tail_wanted = !self.complete;
                return if self.complete {
                    Next::Complete
                } else {
                    Next::Wait
                };
            };
            cursor.number = Some(number + 1);
            cursor.place = Some(line.upto.clone());
            if cursor.entered.as_ref() < Some(&line.own) {
                return Next::Line(line.event.clone());
            }
        }
    }

    /// `None`: the cursor has arrived at the tail.
    fn next_of_the_past(&mut self, cursor: &mut Cursor) -> Option<Next> {
        if self.past.after <= cursor.place {
            if let Some(line) = self.past.get(self.past.number_after(&cursor.place)) {
                cursor.place = Some(line.upto.clone());
                return Some(Next::Line(line.event.clone()));
            }
            if cursor.place < self.past.upto {
                cursor.place = self.past.upto.clone();
                return None;
            }
        }
        if self.given_up {
            return Some(Next::Lost);
        }
        // Others who are behind ask again when this is read.
        self.past_wanted.get_or_insert_with(|| cursor.place.clone());
        Some(Next::Wait)
    }

    /// What somebody waits for. Those of the tail and those of the past take turns.
    pub fn want(&self) -> Option<Want> {
        match (self.tail_wanted, self.past_wanted.is_some()) {
            (true, true) if self.past_is_next => Some(Want::Past),
            (true, _) => Some(Want::Tail),
            (false, true) => Some(Want::Past),
            (false, false) => None,
        }
    }

    /// Where to read for it: the earliest time, and the page.
    pub fn source(&mut self, want: Want) -> (Option<Timestamp>, Option<String>) {
        if want == Want::Past
            && let Some(place) = &self.past_wanted
            && !(self.past.after <= *place && *place <= self.past.upto)
        {
            self.past = Stretch::new(place.clone());
        }
        self.stretch(want).source()
    }

    /// Takes what was read.
    pub fn add(&mut self, want: Want, page: Page) {
        match want {
            Want::Tail => self.tail_wanted = false,
            Want::Past => self.past_wanted = None,
        }
        self.past_is_next = want == Want::Tail;
        let execution = self.execution.clone();
        self.stretch(want).add(&execution, page);
        if want == Want::Past && !self.past.goes_on && self.past.upto < self.tail.after {
            // Lines that were there once are not any more: Cloud Logging keeps them for a limited time.
            self.past.upto = self.tail.after.clone();
        }
    }

    /// Whether more of the tail is there, as far as is known.
    pub fn tail_goes_on(&self) -> bool {
        self.tail.goes_on
    }

    /// The run has ended, and its last lines were read.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// The run has ended, and no more lines can be had for now.
    pub fn give_up(&mut self) {
        (self.complete, self.given_up) = (true, true);
        (self.tail_wanted, self.past_wanted) = (false, None);
    }

    /// Whether lines may be missing for good.
    pub fn is_given_up(&self) -> bool {
        self.given_up
    }

    fn stretch(&mut self, want: Want) -> &mut Stretch {
        match want {
            Want::Tail => &mut self.tail,
            Want::Past => &mut self.past,
        }
    }
}

/// A line as it is given out.
struct Given {
    own: Position,
    /// The place of whoever has it: its own, or that of a younger line given out before it.
    upto: Position,
    event: Bytes,
}

/// Lines in the order in which they were read, and how to read on.
struct Stretch {
    /// It has every line after this place.
    after: Place,
    /// The number of the first line kept.
    first: u64,
    lines: VecDeque<Given>,
    bytes: usize,
    /// The place of whoever has all of it.
    upto: Place,
    /// Lines up to here are known, `recent` are those above it.
    floor: Place,
    recent: BTreeSet<Position>,
    /// The time since which it was read last, and the page that follows.
    since: Option<Timestamp>,
    next: Option<String>,
    /// Whether there was more when it was read last.
    goes_on: bool,
}

impl Stretch {
    fn new(after: Place) -> Self {
        Self {
            upto: after.clone(),
            floor: after.clone(),
            after,
            first: 0,
            lines: VecDeque::new(),
            bytes: 0,
            recent: BTreeSet::new(),
            since: None,
            next: None,
            goes_on: true,
        }
    }

    fn get(&self, number: u64) -> Option<&Given> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.lines.get(index)
    }

    /// The number of the first line after the place.
    fn number_after(&self, place: &Place) -> u64 {
        let before = |line: &Given| Some(&line.upto) <= place.as_ref();
        self.first + self.lines.partition_point(before) as u64
    }

    /// A page's token is good for one try: should it fail, the same lines are found by their time.
    fn source(&mut self) -> (Option<Timestamp>, Option<String>) {
        let next = self.next.take();
        if next.is_none() {
            self.since = self.floor.as_ref().map(|position| position.time);
        }
        (self.since, next)
    }

    fn add(&mut self, execution: &str, page: Page) {
        self.trim();
        for Entry { position, line } in page.entries {
            let known =
                Some(&position) <= self.floor.as_ref() || !self.recent.insert(position.clone());
            if known {
                continue;
            }
            let upto = self
                .upto
                .take()
                .map_or(position.clone(), |upto| upto.max(position.clone()));
            self.upto = Some(upto.clone());
            let json = serde_json::to_string(&line).unwrap_or_default();
            let event = event("log", Some(&id(execution, &upto)), &json);
            self.bytes += event.len() + LINE_OVERHEAD;
            self.lines.push_back(Given {
                own: position,
                upto,
                event,
            });
        }
        self.forget_recent();
        self.goes_on = page.next.is_some();
        self.next = page.next;
    }

    /// Before a page is added, so that nobody loses a line of the newest one.
    fn trim(&mut self) {
        while self.bytes > MAX_KEPT_BYTES
            && let Some(line) = self.lines.pop_front()
        {
            self.bytes -= line.event.len() + LINE_OVERHEAD;
            self.first += 1;
            self.after = Some(line.upto);
        }
    }

    fn forget_recent(&mut self) {
        let Some(youngest) = self.recent.last().map(|position| position.time) else {
            return;
        };
        let is_old = |position: &Position| youngest.duration_since(position.time) > OVERLAP;
        while self.recent.len() > MAX_RECENT || self.recent.first().is_some_and(is_old) {
            self.floor = self.recent.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gcp::cloud_logging::Line;

    /// Cloud Logging, as far as this needs it: entries by position, of which only some may be visible yet.
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
            Page { entries, next }
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
        Entry { position, line }
    }

    /// Reads what is wanted, once.
    fn read(lines: &mut Lines, log: &mut Log) {
        if let Some(want) = lines.want() {
            let (since, token) = lines.source(want);
            let page = log.page(since, token.as_deref());
            lines.add(want, page);
        }
    }

    /// The texts that there are for the cursor without reading.
    fn there(lines: &mut Lines, cursor: &mut Cursor, most: usize) -> Vec<String> {
        let mut texts = Vec::new();
        while texts.len() < most
            && let Next::Line(event) = lines.next(cursor)
        {
            let event = std::str::from_utf8(&event).unwrap();
            let (_, data) = event.trim_end().split_once("data: ").unwrap();
            let line: serde_json::Value = serde_json::from_str(data).unwrap();
            texts.push(line["text"].as_str().unwrap().to_owned());
        }
        texts
    }

    /// Everything that the cursor gets until several reads in a row bring it nothing.
    fn all(lines: &mut Lines, cursor: &mut Cursor, log: &mut Log) -> Vec<String> {
        let mut texts = there(lines, cursor, usize::MAX);
        let mut idle = 0;
        while idle < 5 {
            read(lines, log);
            let more = there(lines, cursor, usize::MAX);
            idle = if more.is_empty() { idle + 1 } else { 0 };
            texts.extend(more);
        }
        texts
    }

    #[test]
    fn no_place_is_in_the_future() {
        let now = Timestamp::now();
        let time = now + jiff::SignedDuration::from_hours(1);
        let id = id(
            "e",
            &Position {
                time,
                insert_id: "x".into(),
            },
        );
        let place = place("e", &id).unwrap();
        assert!(place.time >= now && place.time < time);
        assert!(super::place("another", &id).is_none());
    }

    #[test]
    fn an_id_is_the_place_it_was_made_of() {
        let place_of = position(1_767_225_600_123, "6954\u{e9}\n");
        let text = id("job-1", &place_of);
        assert!(text.bytes().all(|c| c.is_ascii_hexdigit()));
        assert_eq!(place("job-1", &text), Some(place_of));
        assert_eq!(place("job-2", &text), None);
    }

    #[test]
    fn late_lines_are_given_to_those_who_watch_and_to_nobody_twice() {
        let mut log = Log {
            page: 100,
            ..Log::default()
        };
        log.entries
            .extend([position(10_000, "a"), position(11_000, "c")]);
        let (mut lines, mut watcher) = (Lines::new("x", None), Cursor::default());
        assert_eq!(all(&mut lines, &mut watcher, &mut log), ["a", "c"]);
        let mut back = Cursor::new(watcher.place.clone());
        log.entries
            .extend([position(10_500, "b"), position(12_000, "d")]);
        assert_eq!(all(&mut lines, &mut watcher, &mut log), ["b", "d"]);
        assert_eq!(all(&mut lines, &mut back, &mut log), ["d"]);
        let mut new = Cursor::default();
        assert_eq!(all(&mut lines, &mut new, &mut log), ["a", "c", "b", "d"]);
        log.entries.insert(position(30_000, "e"));
        assert_eq!(all(&mut lines, &mut watcher, &mut log), ["e"]);
        log.entries.insert(position(11_999, "too late"));
        assert!(all(&mut lines, &mut watcher, &mut log).is_empty());
    }

    #[test]
    fn more_lines_of_one_time_than_a_page_holds_are_all_given() {
        let mut log = Log {
            page: 10,
            ..Log::default()
        };
        let names: Vec<_> = (0..MAX_RECENT * 2).map(|n| format!("{n:04}")).collect();
        log.entries
            .extend(names.iter().map(|name| position(5_000, name)));
        let (mut lines, mut watcher) = (Lines::new("x", None), Cursor::default());
        assert_eq!(all(&mut lines, &mut watcher, &mut log), names);
        log.entries.insert(position(5_000, "9999"));
        // Every known line of that time is passed over again, a page at a time.
        let mut more = Vec::new();
        for _ in 0..MAX_RECENT {
            more.extend(there(&mut lines, &mut watcher, 1));
            read(&mut lines, &mut log);
        }
        assert_eq!(more, ["9999"]);
    }

    #[test]
    fn what_a_log_does_not_keep_ends_nobody() {
        let mut log = Log {
            page: 100,
            ..Log::default()
        };
        log.entries
            .extend((0..100).map(|n| position(n * 10, "old")));
        let (mut lines, mut watcher) = (Lines::new("x", None), Cursor::default());
        all(&mut lines, &mut watcher, &mut log);
        lines.tail.bytes += MAX_KEPT_BYTES * 2; // as if they were long
        log.entries.clear();
        log.entries.insert(position(2_000, "new"));
        assert_eq!(all(&mut lines, &mut watcher, &mut log), ["new"]);
        lines.tail.bytes = 0;
        let mut late = Cursor::default();
        assert_eq!(all(&mut lines, &mut late, &mut log), ["new"]);
    }

    /// Watchers that are slow, come late, leave and come back, while lines appear: each gets every line once, in order.
    #[test]
    fn whatever_watchers_do_none_misses_a_line_or_gets_one_twice() {
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
            let mut lines = Lines::new("x", None);
            let mut watchers: Vec<(Cursor, Vec<String>)> = Vec::new();
            let mut printed = Vec::new();
            for step in 0..200 {
                match random(6) {
                    0 if watchers.len() < 6 => watchers.push((Cursor::default(), Vec::new())),
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
                        let (cursor, _) = &mut watchers[chosen];
                        *cursor = Cursor::new(cursor.place.clone());
                    }
                    _ => {
                        for (cursor, got) in &mut watchers {
                            let most = random(40) as usize;
                            got.extend(there(&mut lines, cursor, most));
                        }
                    }
                }
            }
            for _ in 0..10_000 {
                for (cursor, got) in &mut watchers {
                    got.extend(there(&mut lines, cursor, usize::MAX));
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
