//! Support for a proxy that publishes this service under a path: `X-Forwarded-Prefix` names the path, and every link begins with it.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, LINK, LOCATION};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use futures_util::StreamExt;
use http_body_util::BodyExt;
use serde_json::Value;

const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// The longest prefix that is accepted, in bytes.
const MAX_BYTES: usize = 256;

/// A path such as `/jobs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// The prefix that the request names. A value that is not a plain path is ignored.
    pub fn of(request: &Request) -> Option<Self> {
        let text = request.headers().get(X_FORWARDED_PREFIX)?.to_str().ok()?;
        let path = text.trim_end_matches('/').strip_prefix('/')?;
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"-._~".contains(&c);
        let is_segment = |segment: &str| {
            !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(plain)
        };
        let valid = text.len() <= MAX_BYTES && path.split('/').all(is_segment);
        valid.then(|| Self(format!("/{path}")))
    }

    /// The answer with the prefix before each of its links.
    pub async fn apply(self, mut response: Response) -> Response {
        self.headers(response.headers_mut());
        let content_type = response.headers().get(CONTENT_TYPE);
        let is = |kind: &str| {
            content_type.is_some_and(|value| value.as_bytes().starts_with(kind.as_bytes()))
        };
        if is("text/event-stream") {
            return response.map(|body| {
                let events = body.into_data_stream();
                Body::from_stream(events.map(move |event| event.map(|event| self.events(&event))))
            });
        }
        if !is("application/json") && !is("application/problem+json") {
            return response;
        }
        let (mut head, body) = response.into_parts();
        let Ok(collected) = body.collect().await else {
            return Response::from_parts(head, Body::empty()); // does not happen: the body is in memory
        };
        let text = collected.to_bytes();
        match self.json(&text) {
            None => Response::from_parts(head, Body::from(text)),
            Some(text) => {
                head.headers.remove(CONTENT_LENGTH);
                Response::from_parts(head, Body::from(text))
            }
        }
    }

    fn headers(&self, headers: &mut HeaderMap) {
        for name in [LOCATION, LINK] {
            let Some(value) = headers.get(&name).and_then(|value| value.to_str().ok()) else {
                continue;
            };
            let (before, path) = match value.strip_prefix('<') {
                Some(path) => ("<", path),
                None => ("", value),
            };
            if path.starts_with('/')
                && let Ok(value) = HeaderValue::try_from(format!("{before}{}{path}", self.0))
            {
                headers.insert(name, value);
            }
        }
    }

    /// One or more events, each with its data on one line.
    fn events(&self, events: &Bytes) -> Bytes {
        let lines = events.split_inclusive(|byte| *byte == b'\n');
        let rewritten = lines.flat_map(|line| match line.strip_prefix(b"data: ") {
            Some(data) => match self.json(data) {
                Some(data) => [b"data: ", &data[..]].concat(),
                None => line.to_vec(),
            },
            None => line.to_vec(),
        });
        rewritten.collect::<Vec<_>>().into()
    }

    /// The JSON text with the prefix, ending with a line break. None if there is no link in it.
    fn json(&self, text: &[u8]) -> Option<Vec<u8>> {
        let mut value: Value = serde_json::from_slice(text).ok()?;
        if !self.value(&mut value) {
            return None;
        }
        let mut text = serde_json::to_vec(&value).ok()?;
        text.push(b'\n');
        Some(text)
    }

    /// Rewrites the links of an execution, of a list of them, and the path that a problem names. Returns whether there were any.
    fn value(&self, value: &mut Value) -> bool {
        let mut found = false;
        if let Some(Value::Object(links)) = value.get_mut("links") {
            links.values_mut().for_each(|link| found |= self.path(link));
        }
        if let Some(path) = value.get_mut("execution") {
            found |= self.path(path);
        }
        if let Some(Value::Array(executions)) = value.get_mut("executions") {
            for execution in executions {
                found |= self.value(execution);
            }
        }
        found
    }

    fn path(&self, value: &mut Value) -> bool {
        let Value::String(path) = value else {
            return false;
        };
        let is_path = path.starts_with('/');
        if is_path {
            path.insert_str(0, &self.0);
        }
        is_path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Option<Prefix> {
        let request = Request::get("/").header(X_FORWARDED_PREFIX, text);
        Prefix::of(&request.body(Body::empty()).unwrap())
    }

    #[test]
    fn only_a_plain_path_is_taken_as_a_prefix() {
        for (text, path) in [("/jobs", "/jobs"), ("/a/b-c_d.e~f/", "/a/b-c_d.e~f")] {
            assert_eq!(prefix(text), Some(Prefix(path.to_owned())));
        }
        for text in [
            "",
            "/",
            "//",
            "jobs",
            "//evil.example",
            "/a//b",
            "/../x",
            "/a b",
            "/a?b",
            "/a\"b",
            "/%2e",
            "https://evil.example",
        ] {
            assert_eq!(prefix(text), None, "{text}");
        }
        assert_eq!(prefix(&format!("/{}", "a".repeat(MAX_BYTES))), None);
    }

    #[test]
    fn only_links_are_rewritten() {
        let jobs = prefix("/jobs").unwrap();
        let data = br#"{"text":"/scopes/acme","links":{"self":"/scopes/acme"}}"#;
        let events = [b"event: execution\ndata: ", &data[..], b"\n\n:\n\n"].concat();
        let rewritten = jobs.events(&events.into());
        let expected = "event: execution\ndata: {\"text\":\"/scopes/acme\",\"links\":{\"self\":\"/jobs/scopes/acme\"}}\n\n:\n\n";
        assert_eq!(rewritten, expected);
    }
}
