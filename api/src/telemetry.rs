//! Log lines: one JSON object a line as Cloud Logging reads it, or a readable line on a terminal.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::ops::Range;
use std::panic::{self, PanicHookInfo};

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::Invalid;

/// How much of one field is logged, in bytes: clients choose some of them.
const MAX_FIELD_BYTES: usize = 1024;
/// Fields of this prefix become one nested object, which Cloud Logging shows as the request (LogEntry.httpRequest).
const NESTED: &str = "httpRequest";

/// Begins to log to standard output, panics included. `filter` is a `tracing` filter such as `info` or `info,api=debug`.
pub fn init(filter: &str) -> Result<(), Invalid> {
    let targets = checked(filter)?;
    let lines = Lines {
        readable: io::stdout().is_terminal(),
    };
    // The only error is that this process has a logger already.
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(targets))
        .try_init();
    panic::set_hook(Box::new(panicked));
    Ok(())
}

/// The filter, or what is wrong with it.
pub(crate) fn checked(filter: &str) -> Result<Targets, Invalid> {
    targets(filter).ok_or_else(|| {
        Invalid::new(
            "log",
            "must be error, warn, info, debug or trace, also per module: info,api=debug",
        )
    })
}

/// The filter, if each of its parts names a level. A word that is not one would be taken for a module, and nothing else logged.
fn targets(filter: &str) -> Option<Targets> {
    let mut parts = filter
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .peekable();
    parts.peek()?;
    let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b':');
    let names_level = |part: &str| {
        let (module, level) = part.rsplit_once('=').unwrap_or(("", part));
        let level = level.trim();
        module.trim().bytes().all(legal)
            && !level.is_empty()
            && level.parse::<LevelFilter>().is_ok()
    };
    if parts.all(names_level) {
        filter.parse().ok()
    } else {
        None
    }
}

/// A panic is one line like any other: the hook of the standard library writes several, and to standard error.
fn panicked(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    tracing::error!(
        place = place.as_deref(),
        cause = panic.payload_as_str(),
        "panicked"
    );
}

struct Lines {
    readable: bool,
}

thread_local! {
    /// Reused from line to line: a request costs no allocation to be logged.
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        LINE.with(|line| match line.try_borrow_mut() {
            Ok(mut line) => self.write(event, &mut line),
            Err(_) => self.write(event, &mut String::new()), // a panic while a line was being made
        });
    }
}

impl Lines {
    fn write(&self, event: &Event<'_>, line: &mut String) {
        line.clear();
        if self.readable {
            readable(event, line)
        } else {
            json(event, line)
        }
        line.push('\n');
        // A whole line at once, so that lines of several writers do not mix. A log that is closed must not stop us.
        let _ = io::stdout().lock().write_all(line.as_bytes());
    }
}

fn json(event: &Event<'_>, line: &mut String) {
    let severity = match *event.metadata().level() {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        Level::DEBUG | Level::TRACE => "DEBUG",
    };
    let _ = write!(
        line,
        r#"{{"severity":"{severity}","time":"{}""#,
        Timestamp::now()
    );
    let mut fields = Json {
        line,
        nested: false,
    };
    event.record(&mut fields);
    fields.close();
    line.push('}');
}

/// Appends fields to a JSON object.
struct Json<'a> {
    line: &'a mut String,
    nested: bool,
}

impl Json<'_> {
    fn key(&mut self, name: &str) {
        match name
            .strip_prefix(NESTED)
            .and_then(|rest| rest.strip_prefix('.'))
        {
            Some(inner) if self.nested => self.push_key(',', inner),
            Some(inner) => {
                self.nested = true;
                self.push_key(',', NESTED);
                self.push_key('{', inner);
            }
            None => {
                self.close();
                self.push_key(',', name);
            }
        }
    }

    /// Names are ours, and need no escaping.
    fn push_key(&mut self, before: char, name: &str) {
        self.line.extend([before, '"']);
        self.line.push_str(name);
        self.line.push_str("\":");
    }

    fn close(&mut self) {
        if std::mem::take(&mut self.nested) {
            self.line.push('}');
        }
    }
}

impl Visit for Json<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.key(field.name());
        quote(value, self.line);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.key(field.name());
        let _ = write!(self.line, "{value}");
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.key(field.name());
        let _ = write!(self.line, "{value}");
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.key(field.name());
        let _ = write!(self.line, "{value}");
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.key(field.name());
        self.line.push('"');
        let _ = write!(Escaped::new(self.line), "{value:?}");
        self.line.push('"');
    }
}

/// The text as a JSON string.
fn quote(text: &str, line: &mut String) {
    line.push('"');
    let _ = Escaped::new(line).write_str(text);
    line.push('"');
}

/// Writes the inside of a JSON string, cut short. Control and direction-changing characters are escaped, so that no reader of
/// the log, human or program, is shown something that is not there.
struct Escaped<'a> {
    line: &'a mut String,
    room: usize,
}

impl<'a> Escaped<'a> {
    fn new(line: &'a mut String) -> Self {
        Self {
            line,
            room: MAX_FIELD_BYTES,
        }
    }
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let text = cut(text, self.room);
        self.room -= text.len();
        if text.bytes().all(is_plain) {
            self.line.push_str(text); // nearly always
            return Ok(());
        }
        for c in text.chars() {
            match c {
                '"' => self.line.push_str("\\\""),
                '\\' => self.line.push_str("\\\\"),
                c if c.is_control() || is_invisible(c) => {
                    write!(self.line, "\\u{:04x}", u32::from(c))?;
                }
                c => self.line.push(c),
            }
        }
        Ok(())
    }
}

/// Whether the byte stands for itself in a JSON string, and is a character of its own.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

fn is_invisible(c: char) -> bool {
    const RANGES: [Range<u32>; 4] = [
        0x200b..0x2010,
        0x2028..0x202f,
        0x2060..0x2070,
        0xfeff..0xff00,
    ];
    RANGES.iter().any(|range| range.contains(&u32::from(c)))
}

/// The beginning of the text that has so many bytes at most.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

fn readable(event: &Event<'_>, line: &mut String) {
    let _ = write!(
        line,
        "{:.3} {:5}",
        Timestamp::now(),
        event.metadata().level()
    );
    event.record(&mut Readable(line));
}

struct Readable<'a>(&'a mut String);

impl Visit for Readable<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => drop(write!(self.0, " {}", printable(value))),
            name => drop(write!(
                self.0,
                " {}={}",
                name.trim_start_matches("httpRequest."),
                printable(value)
            )),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

fn printable(text: &str) -> String {
    cut(text, MAX_FIELD_BYTES)
        .chars()
        .map(|c| {
            if c.is_control() || is_invisible(c) {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_filter_names_a_level_for_each_of_its_parts() {
        for filter in [
            "info",
            "INFO",
            "warn,api=info",
            "info, hyper=off",
            "off",
            "api=debug",
        ] {
            assert!(super::targets(filter).is_some(), "{filter}");
        }
        for filter in [
            "",
            ",",
            "verbose",
            "info,hyper",
            "api=",
            "api=loud",
            "yes",
            "info;api=debug",
        ] {
            assert!(super::targets(filter).is_none(), "{filter}");
        }
    }

    use super::*;

    #[test]
    fn a_quoted_text_is_one_line_of_json_and_hides_nothing() {
        for text in [
            "plain",
            "a\"b\\c",
            "a\nb\u{1b}[31m\u{7f}\u{85}",
            "\u{202e}gnp\u{2028}\u{feff}",
            "ä😀",
        ] {
            let mut line = String::new();
            quote(text, &mut line);
            assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
            assert!(
                !line.chars().any(|c| c.is_control() || is_invisible(c)),
                "{line:?}"
            );
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let long = "ä".repeat(MAX_FIELD_BYTES);
        let quoted = |text: &str| {
            let mut line = String::new();
            quote(text, &mut line);
            line.len() - 2
        };
        assert_eq!(quoted(&long), MAX_FIELD_BYTES);
        assert_eq!(quoted(&format!("a{long}")), MAX_FIELD_BYTES - 1);
        let mut line = String::new();
        let pieces = write!(Escaped::new(&mut line), "{long} {long}");
        assert_eq!((pieces, line.len()), (Ok(()), MAX_FIELD_BYTES));
    }

    /// The test runs itself once more, as a program whose output can be read.
    #[test]
    fn a_panic_is_one_line_of_json() {
        const CHILD: &str = "API_TEST_PANICS";
        if std::env::var_os(CHILD).is_some() {
            init("info").unwrap();
            let panics = std::thread::spawn(|| panic!("two\nlines"));
            assert!(panics.join().is_err());
            return;
        }
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "telemetry::tests::a_panic_is_one_line_of_json",
                "--nocapture",
            ])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let (stdout, stderr) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success() && !stderr.contains("panicked"),
            "{stderr}"
        );
        let mut lines = stdout
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let line = lines.next_back().unwrap();
        assert_eq!(
            (&line["severity"], &line["cause"]),
            (&"ERROR".into(), &"two\nlines".into())
        );
        assert!(line["place"].as_str().unwrap().contains("telemetry.rs"));
    }
}
