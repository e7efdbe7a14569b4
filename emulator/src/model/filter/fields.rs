//! The fields of a LogEntry: their names and types.

use std::fmt;

use serde_json::{Value, json};

use crate::camel_case::camel_case;

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Text,
    Number,
    Boolean,
    Severity,
    Time,
    Duration,
    /// A value in a map of strings, which a log entry may lack.
    Label,
    /// A payload or a field in one, which a log entry may lack. Its type depends on the entry.
    Payload,
    /// A field with subfields.
    Message,
}

/// A field that a filter names.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    pub(super) path: Vec<String>,
    pub(super) kind: Kind,
}

/// The fields that are searched for a text without a field name.
pub(super) const SEARCHED: [&str; 13] = [
    "httpRequest",
    "insertId",
    "jsonPayload",
    "labels",
    "logName",
    "operation",
    "protoPayload",
    "resource",
    "severity",
    "sourceLocation",
    "spanId",
    "textPayload",
    "trace",
];

const MAPS: [&[&str]; 2] = [&["labels"], &["resource", "labels"]];
const PAYLOADS: [&[&str]; 2] = [&["jsonPayload"], &["protoPayload"]];

#[rustfmt::skip] // a table
const DEFINED: [(&str, Kind); 40] = [
    ("httpRequest", Kind::Message),
    ("httpRequest.cacheFillBytes", Kind::Number),
    ("httpRequest.cacheHit", Kind::Boolean),
    ("httpRequest.cacheLookup", Kind::Boolean),
    ("httpRequest.cacheValidatedWithOriginServer", Kind::Boolean),
    ("httpRequest.latency", Kind::Duration),
    ("httpRequest.protocol", Kind::Text),
    ("httpRequest.referer", Kind::Text),
    ("httpRequest.remoteIp", Kind::Text),
    ("httpRequest.requestMethod", Kind::Text),
    ("httpRequest.requestSize", Kind::Number),
    ("httpRequest.requestUrl", Kind::Text),
    ("httpRequest.responseSize", Kind::Number),
    ("httpRequest.serverIp", Kind::Text),
    ("httpRequest.status", Kind::Number),
    ("httpRequest.userAgent", Kind::Text),
    ("insertId", Kind::Text),
    ("jsonPayload", Kind::Payload),
    ("labels", Kind::Message),
    ("logName", Kind::Text),
    ("operation", Kind::Message),
    ("operation.first", Kind::Boolean),
    ("operation.id", Kind::Text),
    ("operation.last", Kind::Boolean),
    ("operation.producer", Kind::Text),
    ("protoPayload", Kind::Payload),
    ("receiveTimestamp", Kind::Time),
    ("resource", Kind::Message),
    ("resource.labels", Kind::Message),
    ("resource.type", Kind::Text),
    ("severity", Kind::Severity),
    ("sourceLocation", Kind::Message),
    ("sourceLocation.file", Kind::Text),
    ("sourceLocation.function", Kind::Text),
    ("sourceLocation.line", Kind::Number),
    ("spanId", Kind::Text),
    ("textPayload", Kind::Text),
    ("timestamp", Kind::Time),
    ("trace", Kind::Text),
    ("traceSampled", Kind::Boolean),
];

impl Field {
    /// Finds the field with this path. Names that LogEntry defines may also be in snake case.
    pub(super) fn resolve(path: &[String]) -> Result<Self, String> {
        let camel: Vec<String> = path.iter().map(|name| camel_case(name, '_')).collect();
        if let Some(map) = MAPS.into_iter().find(|map| is_within(&camel, map)) {
            return match &path[map.len()..] {
                [key] => Ok(Self::new(map, std::slice::from_ref(key), Kind::Label)),
                _ => Err(format!(
                    "'{}' has more than one name after '{}': put a label with a dot into double quotes",
                    path.join("."),
                    map.join(".")
                )),
            };
        }
        if let Some(payload) = PAYLOADS
            .into_iter()
            .find(|payload| is_within(&camel, payload))
        {
            return Ok(Self::new(payload, &path[1..], Kind::Payload));
        }
        let name = camel.join(".");
        let defined = DEFINED.iter().find(|(known, _)| *known == name);
        defined
            .map(|(_, kind)| Self::new(&[], &camel, *kind))
            .ok_or_else(|| format!("a log entry has no field '{}'", path.join(".")))
    }

    fn new(defined: &[&str], rest: &[String], kind: Kind) -> Self {
        let defined = defined.iter().map(|name| (*name).to_owned());
        Self {
            path: defined.chain(rest.iter().cloned()).collect(),
            kind,
        }
    }
}

impl Field {
    /// Whether it has subfields and so is not a single value.
    pub(super) fn is_compound(&self) -> bool {
        self.kind == Kind::Message || self.kind == Kind::Payload && self.path.len() == 1
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", self.path.join("."))
    }
}

impl Kind {
    /// The value of a field of this type in an entry that lacks it. Labels and fields of payloads have no default.
    pub(super) fn default_value(self) -> Option<Value> {
        match self {
            Self::Text => Some(json!("")),
            Self::Number => Some(json!(0)),
            Self::Boolean => Some(json!(false)),
            Self::Severity => Some(json!("DEFAULT")),
            Self::Time => Some(json!("1970-01-01T00:00:00Z")),
            Self::Duration => Some(json!("0s")),
            Self::Label | Self::Payload | Self::Message => None,
        }
    }
}

/// Whether the path leads into the field `names`.
fn is_within(path: &[String], names: &[&str]) -> bool {
    path.len() > names.len() && path.iter().zip(names).all(|(name, known)| name == known)
}
