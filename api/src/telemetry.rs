//! Writes log lines: JSON objects for Cloud Logging, or readable text on a terminal.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::ops::Range;
use std::panic::{self, PanicHookInfo};

use jiff::Timestamp;
use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::Invalid;

/// The longest text of one field that is logged, in bytes, since clients choose some of the texts.
const MAX_FIELD_BYTES: usize = 1024;
/// Fields with this prefix become one nested object, which Cloud Logging shows as the request (LogEntry.httpRequest).
const REQUEST: &str = "httpRequest.";
/// The initial capacity for a line, in bytes. That of a request has 500 to 700.
const TYPICAL_LINE_BYTES: usize = 768;
/// The initial capacity for a field that must be formatted, in bytes.
const TYPICAL_FIELD_BYTES: usize = 128;

/// Sets up logging to standard output, including panics. `filter` is a `tracing` filter such as `info` or `info,api=debug`.
pub fn init(filter: &str) -> Result<(), Invalid> {
    let targets = checked(filter)?;
    let lines = Lines {
        readable: io::stdout().is_terminal(),
    };
    // The only possible error is that this process has a logger already.
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(targets))
        .try_init();
    panic::set_hook(Box::new(panicked));
    Ok(())
}

/// Checks the filter.
pub(crate) fn checked(filter: &str) -> Result<Targets, Invalid> {
    targets(filter).ok_or_else(|| {
        Invalid::new(
            "log",
            "must be error, warn, info, debug or trace, also per module: info,api=debug",
        )
    })
}

/// Parses the filter, and requires a level in each part. A misspelt level would count as a module, so that other lines were lost.
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

/// Logs a panic as one line. The standard library's hook writes several lines to standard error.
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

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = if self.readable {
            readable(event).into_bytes()
        } else {
            escaped(json(event))
        };
        line.push(b'\n');
        // A line is written at once, so that lines of several writers do not mix. A closed log must not stop the program.
        let _ = io::stdout().lock().write_all(&line);
    }
}

fn json(event: &Event<'_>) -> Vec<u8> {
    let severity = match *event.metadata().level() {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        Level::DEBUG | Level::TRACE => "DEBUG",
    };
    let mut line = Vec::with_capacity(TYPICAL_LINE_BYTES);
    let time = Timestamp::now();
    let _ = write!(line, r#"{{"severity":"{severity}","time":"{time}""#);
    let request = Vec::with_capacity(TYPICAL_LINE_BYTES);
    let mut fields = Json { line, request };
    event.record(&mut fields);
    let Json { mut line, request } = fields;
    if let Some((_comma, request)) = request.split_first() {
        line.extend_from_slice(br#","httpRequest":{"#);
        line.extend_from_slice(request);
        line.push(b'}');
    }
    line.push(b'}');
    line
}

/// Writes the fields of a line and those of its request, each after a comma.
struct Json {
    line: Vec<u8>,
    request: Vec<u8>,
}

impl Json {
    fn push(&mut self, field: &Field, value: impl Serialize) {
        let (object, name) = match field.name().strip_prefix(REQUEST) {
            Some(name) => (&mut self.request, name),
            None => (&mut self.line, field.name()),
        };
        object.extend_from_slice(b",\""); // names are constants that need no escaping
        object.extend_from_slice(name.as_bytes());
        object.extend_from_slice(b"\":");
        let _ = serde_json::to_writer(object, &value); // cannot fail: the object is in memory
    }
}

impl Visit for Json {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, cut(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::with_capacity(TYPICAL_FIELD_BYTES);
        let _ = write!(text, "{value:?}");
        self.record_str(field, &text);
    }
}

/// Escapes control characters and direction-changing characters in the texts of JSON, so that a line of the log is displayed as it
/// is.
fn escaped(json: Vec<u8>) -> Vec<u8> {
    // The serializer escapes all of ASCII's control characters except DEL.
    if json.is_ascii() && !json.contains(&b'\x7f') {
        return json; // the usual case
    }
    let mut line = String::with_capacity(json.len());
    for c in String::from_utf8_lossy(&json).chars() {
        if is_hidden(c) {
            let _ = write!(line, "\\u{:04x}", u32::from(c));
        } else {
            line.push(c);
        }
    }
    line.into_bytes()
}

fn readable(event: &Event<'_>) -> String {
    let mut line = format!("{:.3} {:5}", Timestamp::now(), event.metadata().level());
    event.record(&mut Readable(&mut line));
    line
}

struct Readable<'a>(&'a mut String);

impl Visit for Readable<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        let text = cut(value).replace(is_hidden, "\u{fffd}");
        let name = field.name();
        let _ = match name.strip_prefix(REQUEST).unwrap_or(name) {
            "message" => write!(self.0, " {text}"),
            name => write!(self.0, " {name}={text}"),
        };
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

fn is_hidden(c: char) -> bool {
    const RANGES: [Range<u32>; 4] = [
        0x200b..0x2010,
        0x2028..0x202f,
        0x2060..0x2070,
        0xfeff..0xff00,
    ];
    c.is_control() || RANGES.iter().any(|range| range.contains(&u32::from(c)))
}

/// The text, cut to the longest length.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_FIELD_BYTES)]
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_filter_must_name_a_level_in_each_part() {
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
    fn special_characters_of_a_text_are_escaped_in_its_line() {
        for text in [
            "plain",
            "a\"b\\c",
            "a\nb\u{1b}[31m\u{7f}\u{85}",
            "\u{202e}gnp\u{2028}\u{feff}",
            "ä😀",
        ] {
            let line = String::from_utf8(escaped(serde_json::to_vec(text).unwrap())).unwrap();
            assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
            assert!(!line.contains(is_hidden), "{line:?}");
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let long = "ä".repeat(MAX_FIELD_BYTES);
        assert_eq!(cut(&long).len(), MAX_FIELD_BYTES);
        assert_eq!(cut(&format!("a{long}")).len(), MAX_FIELD_BYTES - 1);
    }

    /// The test runs itself again as a program, to read its output.
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
