//! `GET /`: a page around the button. `GET /button.js`: the button alone, for pages anywhere; `GET /button.d.ts`: its types.

use std::sync::LazyLock;

use axum::extract::RawQuery;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LINK,
    REFERRER_POLICY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use ring::digest::{SHA384, digest};
use tower_http::compression::predicate::{DefaultPredicate, Predicate};
use tower_http::compression::{CompressionLayer, CompressionLevel};

use crate::web::{BUTTON_JS, BUTTON_TYPES, PAGE_CSS, PAGE_HTML, PAGE_JS};

/// The page loads only files of its own origin and calls only that origin. It has no inline code and must not be framed, because
/// a click on its button costs money.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Browsers revalidate each time and mostly get 304, so that page and button are always of the same revision.
const REVALIDATED: &str = "no-cache";
/// Browsers never revalidate: the address contains the hash of the content.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";
/// Lets a page under `Cross-Origin-Embedder-Policy` load the button.
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
/// How many characters of the hash are the version: enough that no two releases share one.
const VERSION_LENGTH: usize = 16;

static PAGE: LazyLock<Asset> = LazyLock::new(|| Asset::new("text/html; charset=utf-8", PAGE_HTML));
static STYLE: LazyLock<Asset> = LazyLock::new(|| Asset::new("text/css; charset=utf-8", PAGE_CSS));
static SCRIPT: LazyLock<Asset> = LazyLock::new(|| Asset::new(JAVASCRIPT, PAGE_JS));
static BUTTON: LazyLock<Asset> = LazyLock::new(|| Asset::new(JAVASCRIPT, BUTTON_JS));
static TYPES: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("text/plain; charset=utf-8", BUTTON_TYPES));

pub async fn page(headers: HeaderMap) -> Response {
    let security = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (security, PAGE.answer(&headers)).into_response()
}

pub async fn page_css(headers: HeaderMap) -> Response {
    STYLE.answer(&headers)
}

pub async fn page_js(headers: HeaderMap) -> Response {
    SCRIPT.answer(&headers)
}

/// The button. Its `Link` names the versioned address, whose content never changes, and the hash of that content.
pub async fn button_js(RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let version = BUTTON.version();
    let mut response = anywhere(BUTTON.answer(&headers));
    let link = format!(
        "<button.js?v={version}>; rel=\"canonical\"; integrity=\"{}\"",
        BUTTON.integrity()
    );
    if let Ok(link) = HeaderValue::try_from(link) {
        response.headers_mut().insert(LINK, link);
    }
    if query.is_some_and(|query| query == format!("v={version}")) {
        response
            .headers_mut()
            .insert(CACHE_CONTROL, HeaderValue::from_static(IMMUTABLE));
    }
    response
}

pub async fn button_types(headers: HeaderMap) -> Response {
    anywhere(TYPES.answer(&headers))
}

/// Compresses these files and the OpenAPI document. Answers about executions are not compressed, since compression would delay
/// the events of a stream.
pub fn compression() -> CompressionLayer<impl Predicate> {
    let transformable = |_: StatusCode, _: axum::http::Version, headers: &HeaderMap, _: &_| {
        let control = headers
            .get(CACHE_CONTROL)
            .and_then(|value| value.to_str().ok());
        !control.is_some_and(|control| control.contains("no-transform"))
    };
    CompressionLayer::new()
        .quality(CompressionLevel::Best)
        .compress_when(DefaultPredicate::new().and(transformable))
}

fn anywhere(answer: Response) -> Response {
    ([(RESOURCE_POLICY, "cross-origin")], answer).into_response()
}

/// Content that is the same for every caller until the program changes.
pub struct Asset {
    content_type: &'static str,
    content: Bytes,
    hash: Vec<u8>,
}

impl Asset {
    /// An asset of this type.
    pub fn new(content_type: &'static str, content: impl Into<Bytes>) -> Self {
        let content = content.into();
        Self {
            content_type,
            hash: digest(&SHA384, &content).as_ref().to_vec(),
            content,
        }
    }

    fn version(&self) -> String {
        let digits = self.hash.iter().map(|byte| format!("{byte:02x}"));
        digits.take(VERSION_LENGTH / 2).collect()
    }

    /// The hash in the form that browsers check (Subresource Integrity).
    fn integrity(&self) -> String {
        format!("sha384-{}", BASE64_STANDARD.encode(&self.hash))
    }

    /// The content, or 304 to a client that has it. The tag is weak, because a proxy may compress the content.
    pub fn answer(&self, headers: &HeaderMap) -> Response {
        let tag = format!("\"{}\"", self.version());
        let known = headers.get_all(IF_NONE_MATCH).iter().any(|tags| {
            let tags = tags.to_str().unwrap_or_default().split(',');
            tags.map(|tag| tag.trim().trim_start_matches("W/"))
                .any(|known| known == tag || known == "*")
        });
        let validity = [
            (ETAG, &format!("W/{tag}")[..]),
            (CACHE_CONTROL, REVALIDATED),
        ];
        if known {
            return (StatusCode::NOT_MODIFIED, validity).into_response();
        }
        (
            validity,
            [(CONTENT_TYPE, self.content_type)],
            self.content.clone(),
        )
            .into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(tags: &'static str) -> StatusCode {
        let headers = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static(tags))]);
        PAGE.answer(&headers).status()
    }

    #[test]
    fn a_known_tag_is_answered_without_a_body() {
        let answer = PAGE.answer(&HeaderMap::new());
        let tag = answer.headers()[ETAG].to_str().unwrap().to_owned();
        let strong = tag.trim_start_matches("W/").to_owned();
        assert_eq!(answer.status(), StatusCode::OK);
        for known in [tag.clone(), strong, format!("\"other\", {tag}"), "*".into()] {
            assert_eq!(status(known.leak()), StatusCode::NOT_MODIFIED);
        }
        assert_eq!(status("\"other\""), StatusCode::OK);
    }
}
