//! Rules for browsers: the origins whose pages may call (CORS), and a check against forged requests of other pages (CSRF).

use std::time::Duration;

use axum::http::header::{LINK, LOCATION, ORIGIN, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use reqwest::Url;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::csrf::{CsrfLayer, ProtectionError};

use crate::config::{Invalid, is_loopback};
use crate::http::problem::{Kind, Problem};

/// How long a browser may remember a preflight's answer.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// The headers that pages may send: those that this service reads, and those that tracing in browsers adds to every request.
/// A browser does not send a request with any other header.
const REQUEST_HEADERS: [&str; 33] = [
    "authorization",
    "content-type",
    "idempotency-key",
    "last-event-id",
    "x-request-id",
    "x-requested-with",
    "x-correlation-id",
    // W3C, OpenTelemetry, Google
    "traceparent",
    "tracestate",
    "baggage",
    "x-cloud-trace-context",
    // Zipkin, Jaeger
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "uber-trace-id",
    // Sentry, Datadog, New Relic, Elastic, Application Insights, X-Ray, PostHog, SkyWalking
    "sentry-trace",
    "x-datadog-origin",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "x-datadog-tags",
    "x-datadog-trace-id",
    "newrelic",
    "elastic-apm-traceparent",
    "request-context",
    "request-id",
    "x-amzn-trace-id",
    "x-posthog-distinct-id",
    "x-posthog-session-id",
    "x-posthog-window-id",
    "sw8",
];

/// The origins of other sites whose pages may call.
pub struct Origins(Vec<HeaderValue>);

impl Origins {
    /// Each must be written exactly as browsers send it, because it is compared byte by byte.
    pub fn new(texts: &[String]) -> Result<Self, Invalid> {
        let origins = texts.iter().map(|text| origin(text));
        Ok(Self(origins.collect::<Result<_, _>>()?))
    }

    /// Answers preflights, and lets pages of the listed origins read every answer. None if no origin is listed.
    /// Credentials are not allowed: callers send a token, so that no page can use a cookie.
    pub fn cors(&self) -> Option<CorsLayer> {
        let expose =
            ["idempotent-replayed", "server-timing", "x-request-id"].map(HeaderName::from_static);
        let layer = CorsLayer::new()
            .allow_origin(AllowOrigin::list(self.0.iter().cloned()))
            .allow_methods([Method::GET, Method::POST])
            .allow_headers(REQUEST_HEADERS.map(HeaderName::from_static))
            .expose_headers(
                expose
                    .into_iter()
                    .chain([LINK, LOCATION, RETRY_AFTER])
                    .collect::<Vec<_>>(),
            )
            .max_age(PREFLIGHT_MAX_AGE)
            .vary([ORIGIN]);
        (!self.0.is_empty()).then_some(layer)
    }

    /// Refuses requests that a page of another origin may have sent on its user's behalf, even one of the same site. Browsers name
    /// the origin in headers that no page can set. A request without these headers does not come from a browser.
    pub fn csrf(&self) -> CsrfLayer<fn(ProtectionError) -> Response> {
        let layer = self.0.iter().fold(CsrfLayer::new(), |layer, origin| {
            let trusted = origin.to_str().ok();
            // `origin` has checked that it is an origin.
            trusted
                .and_then(|origin| layer.clone().add_trusted_origin(origin).ok())
                .unwrap_or(layer)
        });
        layer.with_rejection_response(forged)
    }
}

fn forged(_: ProtectionError) -> Response {
    let detail = "Pages of this origin may not do this. The operator can list it in cors.origins.";
    Problem::new(Kind::CsrfRejected, detail).into_response()
}

fn origin(text: &str) -> Result<HeaderValue, Invalid> {
    let invalid = |cure: String| Invalid::new("cors.origins", format!("`{text}` {cure}"));
    let url: Option<Url> = text.parse().ok();
    let Some(url) = url.filter(|url| matches!(url.scheme(), "http" | "https")) else {
        return Err(invalid(
            "is not an origin: list each as https://host".to_owned(),
        ));
    };
    if url.scheme() == "http" && !is_loopback(&url) {
        return Err(invalid(
            "must be https (http only for loopback hosts)".to_owned(),
        ));
    }
    if url.host_str().is_some_and(|host| host.contains('*')) {
        return Err(invalid(
            "has a wildcard, which matches no page: list each host".to_owned(),
        ));
    }
    let canonical = url.origin().ascii_serialization();
    if text != canonical {
        return Err(invalid(format!(
            "must be written as browsers send it: {canonical}"
        )));
    }
    HeaderValue::try_from(text).map_err(|error| invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body;
    use axum::extract::Request;
    use axum::http::header::HOST;
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;

    fn origins(texts: &[&str]) -> Result<Origins, Invalid> {
        Origins::new(&texts.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn an_origin_is_what_browsers_send_and_nothing_else() {
        for text in [
            "https://app.example.com",
            "https://app.example.com:8443",
            "https://xn--bcher-kva.example",
            "http://localhost:5173",
            "http://127.0.0.1",
            "http://[::1]:3000",
        ] {
            assert_eq!(origins(&[text]).unwrap().0, [text]);
        }
        for text in [
            "*",
            "null",
            "app.example.com",
            "https://app.example.com/",
            "https://app.example.com/page",
            "https://app.example.com?q",
            "https://user@app.example.com",
            "https://app.example.com:443",
            "https://App.example.com",
            "https://bücher.example",
            "https://*.example.com/",
            "https://*.example.com",
            "https://app-*.example.com",
            "http://app.example.com",
            "http://127.0.0.1.example.com",
            "ftp://app.example.com",
            "file:///etc/passwd",
        ] {
            let error = origins(&[text]).err().map(|error| error.to_string());
            assert!(
                error.is_some_and(|error| error.contains("API__CORS__ORIGINS")),
                "{text}"
            );
        }
    }

    /// Whether the request is let through.
    async fn passes(method: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder()
            .method(method)
            .header(HOST, "api.example.com:8080");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let served = async |_: Request| Ok::<_, Infallible>(Response::new(Body::empty()));
        let origins = origins(&["https://app.example.com"]).unwrap();
        let service = origins.csrf().layer(service_fn(served));
        service.oneshot(request).await.unwrap().status() == 200
    }

    #[tokio::test]
    async fn a_request_that_a_page_of_another_origin_may_have_sent_is_refused() {
        let site = "sec-fetch-site";
        for headers in [
            &[][..],
            &[(site, "same-origin")],
            &[(site, "none")],
            &[(site, "same-site"), ("origin", "https://app.example.com")],
            &[(site, "cross-site"), ("origin", "https://app.example.com")],
            &[("origin", "https://app.example.com")],
            &[("origin", "https://api.example.com:8080")],
        ] {
            assert!(passes("POST", headers).await, "{headers:?}");
        }
        for headers in [
            &[(site, "same-site")][..],
            &[(site, "cross-site")],
            &[
                (site, "cross-site"),
                ("origin", "https://api.example.com:8080"),
            ],
            &[(site, "same-site"), ("origin", "https://www.example.com")],
            &[(site, "unheard-of")],
            &[("origin", "https://api.example.com")],
            &[("origin", "https://evil.example")],
            &[("origin", "null")],
        ] {
            assert!(!passes("POST", headers).await, "{headers:?}");
            assert!(!passes("DELETE", headers).await && passes("GET", headers).await);
        }
    }
}
