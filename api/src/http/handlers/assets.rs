//! `GET /`: a page around the button. `GET /button.js`: the button alone, for pages anywhere.

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};

/// The page loads its own files and calls its own origin; nothing inline, nothing foreign, and nobody frames it:
/// a click on its button costs money.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Asked each time and answered 304, so that page and button are always those of one revision.
const CACHING: &str = "no-cache";
/// Lets a page under `Cross-Origin-Embedder-Policy` load the button.
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

const PAGE: Asset = Asset::new(
    "text/html; charset=utf-8",
    include_str!("../../web/page.html"),
);
const PAGE_CSS: Asset = Asset::new(
    "text/css; charset=utf-8",
    include_str!("../../web/page.css"),
);
const PAGE_JS: Asset = Asset::new(
    "text/javascript; charset=utf-8",
    include_str!("../../web/page.js"),
);
const BUTTON_JS: Asset = Asset::new(
    "text/javascript; charset=utf-8",
    include_str!("../../web/button.js"),
);

pub async fn page(headers: HeaderMap) -> Response {
    let security = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (security, PAGE.answer(&headers)).into_response()
}

pub async fn page_css(headers: HeaderMap) -> Response {
    PAGE_CSS.answer(&headers)
}

pub async fn page_js(headers: HeaderMap) -> Response {
    PAGE_JS.answer(&headers)
}

pub async fn button_js(headers: HeaderMap) -> Response {
    (
        [(RESOURCE_POLICY, "cross-origin")],
        BUTTON_JS.answer(&headers),
    )
        .into_response()
}

/// A file that is part of the program.
struct Asset {
    content_type: &'static str,
    text: &'static str,
    fingerprint: u64,
}

impl Asset {
    const fn new(content_type: &'static str, text: &'static str) -> Self {
        Self {
            content_type,
            text,
            fingerprint: fingerprint(text.as_bytes()),
        }
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let tag = format!("\"{:016x}\"", self.fingerprint);
        let known = headers.get_all(IF_NONE_MATCH).iter().any(|tags| {
            let tags = tags.to_str().unwrap_or_default().split(',');
            tags.map(|tag| tag.trim().trim_start_matches("W/"))
                .any(|known| known == tag || known == "*")
        });
        let validity = [(ETAG, tag.as_str()), (CACHE_CONTROL, CACHING)];
        if known {
            return (StatusCode::NOT_MODIFIED, validity).into_response();
        }
        (validity, [(CONTENT_TYPE, self.content_type)], self.text).into_response()
    }
}

/// FNV-1a, since it can be computed while compiling; nobody gains by a collision.
const fn fingerprint(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn status(tags: &'static str) -> StatusCode {
        let headers = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static(tags))]);
        PAGE.answer(&headers).status()
    }

    #[test]
    fn a_known_tag_is_answered_without_a_body() {
        let answer = PAGE.answer(&HeaderMap::new());
        let tag = answer.headers()[ETAG].to_str().unwrap().to_owned();
        assert_eq!(answer.status(), StatusCode::OK);
        for known in [
            tag.clone(),
            format!("W/{tag}"),
            format!("\"other\", {tag}"),
            "*".into(),
        ] {
            assert_eq!(status(known.leak()), StatusCode::NOT_MODIFIED);
        }
        assert_eq!(status("\"other\""), StatusCode::OK);
    }

    #[test]
    fn the_page_has_nothing_inline_and_nothing_foreign() {
        for forbidden in [
            "<style", "style=", "onclick", "onload", "http://", "https://", "<script>",
        ] {
            let found = PAGE
                .text
                .replace("http://www.w3.org/2000/svg", "")
                .contains(forbidden);
            assert!(!found, "{forbidden} in page.html");
        }
    }

    #[test]
    fn the_button_stays_small_enough_to_read() {
        assert!(BUTTON_JS.text.lines().count() < 300);
    }
}
