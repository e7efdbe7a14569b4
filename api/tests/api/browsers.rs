//! Pages of other origins: which may read, which may start, and the headers for browsers on every answer.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use emulator::Operation;
use reqwest::Method;
use reqwest::header::HeaderMap;

use crate::bad_input::inputs;
use crate::helpers::{TestApp, instant_job, problem};

const LISTED: &str = "https://app.example.com";
const START: &str = "/scopes/acme/process";

async fn app() -> TestApp {
    TestApp::with(instant_job(), |config| {
        config.cors.origins = vec![LISTED.to_owned()]
    })
    .await
}

/// `-` if the header is absent.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .map_or("-", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn only_pages_of_the_listed_origin_may_start_and_read() {
    let app = app().await;
    for item in inputs("origin") {
        let origin = item["origin"].as_str().unwrap();
        let accepted = item["expect"] == "accept";
        let response = app
            .post(START)
            .header("origin", origin)
            .send()
            .await
            .unwrap();
        let headers = response.headers().clone();
        assert_eq!(
            text(&headers, "access-control-allow-origin"),
            if accepted { LISTED } else { "-" }
        );
        assert_eq!(text(&headers, "access-control-allow-credentials"), "-");
        assert_eq!(text(&headers, "vary"), "origin");
        if accepted {
            assert_eq!(response.status(), 202);
        } else {
            drop(problem(response, "csrf-rejected").await);
        }
    }
    assert_eq!(app.counters().runs, 1);
}

#[tokio::test]
async fn a_page_can_read_problems_and_the_headers_it_needs() {
    let app = app().await;
    for path in [
        "/scopes/acme/executions/none",
        "/nowhere",
        "/scopes/-/executions",
        "/ready",
    ] {
        let headers = app
            .get(path)
            .header("origin", LISTED)
            .send()
            .await
            .unwrap()
            .headers()
            .clone();
        assert_eq!(
            text(&headers, "access-control-allow-origin"),
            LISTED,
            "{path}"
        );
        let exposed = text(&headers, "access-control-expose-headers");
        for name in [
            "location",
            "retry-after",
            "idempotent-replayed",
            "x-request-id",
            "server-timing",
            "link",
        ] {
            assert!(
                exposed.split(',').any(|exposed| exposed == name),
                "{name}: {exposed}"
            );
        }
    }
}

#[tokio::test]
async fn a_preflight_needs_no_authentication_and_touches_nothing() {
    let app = app().await;
    for (origin, allowed) in [(LISTED, LISTED), ("https://evil.example", "-")] {
        let request = app
            .http
            .request(Method::OPTIONS, format!("{}{START}", app.url));
        let response = request
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization,idempotency-key",
            )
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        let headers = response.headers();
        assert_eq!(text(headers, "access-control-allow-origin"), allowed);
        assert_eq!(text(headers, "access-control-allow-methods"), "GET,POST");
        let names = text(headers, "access-control-allow-headers");
        for name in [
            "authorization",
            "content-type",
            "idempotency-key",
            "last-event-id",
            "x-requested-with",
            "x-request-id",
            "traceparent",
            "tracestate",
            "baggage",
            "sentry-trace",
        ] {
            assert!(names.contains(name), "{names}");
        }
        assert_eq!(text(headers, "vary"), "origin");
    }
    assert_eq!(app.calls(Operation::Any), 0);
}

#[tokio::test]
async fn a_request_that_a_foreign_page_may_have_sent_is_refused_everywhere() {
    let app = app().await;
    let host = app.url.clone();
    let site = "sec-fetch-site";
    let cases: [(&[(&str, &str)], bool); 7] = [
        (&[(site, "cross-site")], false),
        (&[(site, "same-origin")], true),
        (&[(site, "none")], true),
        (&[(site, "cross-site"), ("origin", LISTED)], true),
        (&[("origin", "https://evil.example")], false),
        (&[("origin", &host)], true),
        (&[], true),
    ];
    let mut started = 0;
    for (headers, accepted) in cases {
        let with = |mut request: reqwest::RequestBuilder| {
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            request.send()
        };
        let start = with(app.post(START)).await.unwrap();
        let cancel = with(app.post("/scopes/acme/executions/none/cancel"))
            .await
            .unwrap();
        if accepted {
            assert_eq!(start.status(), 202, "{headers:?}");
            problem(cancel, "execution-not-found").await;
            started += 1;
        } else {
            problem(start, "csrf-rejected").await;
            problem(cancel, "csrf-rejected").await;
        }
        assert_eq!(
            with(app.get("/scopes/acme/executions"))
                .await
                .unwrap()
                .status(),
            200,
            "reading is harmless"
        );
    }
    assert_eq!(app.counters().runs, started);
}

#[tokio::test]
async fn without_listed_origins_pages_of_other_origins_may_not_call() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let response = app
        .get("/scopes/acme/executions")
        .header("origin", LISTED)
        .send()
        .await
        .unwrap();
    assert_eq!(text(response.headers(), "access-control-allow-origin"), "-");
    let response = app
        .post(START)
        .header("origin", LISTED)
        .send()
        .await
        .unwrap();
    problem(response, "csrf-rejected").await;
}

#[tokio::test]
async fn every_answer_forbids_caching_and_display_as_a_page() {
    let app = app().await;
    let execution = app.start("acme").await;
    let name = execution["name"].as_str().unwrap();
    let one = format!("/scopes/acme/executions/{name}");
    let logs = format!("{one}/logs");
    for path in [
        "/health",
        "/ready",
        "/scopes/acme/executions",
        &one,
        &logs,
        "/nowhere",
        START,
        "/scopes/%ff/process",
    ] {
        let response = app.get(path).send().await.unwrap();
        let headers = response.headers();
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("cache-control", "no-store"),
            ("referrer-policy", "no-referrer"),
            (
                "content-security-policy",
                "default-src 'none'; frame-ancestors 'none'",
            ),
            ("cross-origin-resource-policy", "same-origin"),
            ("server", "-"),
            ("x-powered-by", "-"),
        ] {
            assert_eq!(text(headers, name), value, "{path}");
        }
    }
}

#[tokio::test]
async fn the_page_has_a_strict_policy_and_the_button_loads_on_any_origin() {
    let app = app().await;
    for path in ["/", "/page.js", "/page.css", "/button.js", "/button.d.ts"] {
        let response = app.get(path).header("origin", LISTED).send().await.unwrap();
        let headers = response.headers();
        assert_eq!(
            (
                response.status().as_u16(),
                text(headers, "x-content-type-options")
            ),
            (200, "nosniff"),
            "{path}"
        );
        assert!(
            text(headers, "content-security-policy").contains("frame-ancestors 'none'"),
            "{path}"
        );
        assert_eq!(text(headers, "referrer-policy"), "no-referrer", "{path}");
        let policy = if path.starts_with("/button.") {
            "cross-origin"
        } else {
            "same-origin"
        };
        assert_eq!(
            text(headers, "cross-origin-resource-policy"),
            policy,
            "{path}"
        );
        assert_eq!(
            text(headers, "access-control-allow-origin"),
            LISTED,
            "a module is loaded with CORS"
        );
    }
}

#[tokio::test]
async fn behind_a_prefix_every_link_begins_with_it() {
    let app = app().await;
    let under = |request: reqwest::RequestBuilder| request.header("x-forwarded-prefix", "/jobs/");
    let started = under(app.post(START)).send().await.unwrap();
    let location = text(started.headers(), "location").to_owned();
    let execution: serde_json::Value = started.json().await.unwrap();
    let path = format!(
        "/scopes/acme/executions/{}",
        execution["name"].as_str().unwrap()
    );
    assert_eq!(location, format!("/jobs{path}"));
    assert_eq!(execution["links"]["self"], location);
    assert_eq!(execution["links"]["events"], format!("{location}/events"));
    let list = under(app.get("/scopes/acme/executions"));
    let list: serde_json::Value = list.send().await.unwrap().json().await.unwrap();
    assert_eq!(list["executions"][0]["links"]["self"], location);
    let events = under(app.get(&format!("{path}/events")));
    let events = events.send().await.unwrap().text().await.unwrap();
    assert!(
        events.contains(&format!("\"self\":\"{location}\"")),
        "{events}"
    );
    assert!(!events.contains(&format!("\"{path}")), "{events}");
    let plain: serde_json::Value = app.get(&path).send().await.unwrap().json().await.unwrap();
    assert_eq!(plain["links"]["self"], path);
}

#[tokio::test]
async fn the_versioned_button_is_immutable_and_matches_its_hash() {
    let app = app().await;
    let plain = app.get("/button.js").send().await.unwrap();
    assert_eq!(text(plain.headers(), "cache-control"), "no-cache");
    let link = text(plain.headers(), "link").to_owned();
    let (address, integrity) = link
        .strip_prefix('<')
        .and_then(|link| link.strip_suffix('"'))
        .and_then(|link| link.split_once(">; rel=\"canonical\"; integrity=\""))
        .unwrap();
    let versioned = app.get(&format!("/{address}")).send().await.unwrap();
    assert_eq!(
        text(versioned.headers(), "cache-control"),
        "public, max-age=31536000, immutable"
    );
    let hash = ring::digest::digest(&ring::digest::SHA384, &versioned.bytes().await.unwrap());
    assert_eq!(
        integrity,
        format!("sha384-{}", BASE64_STANDARD.encode(hash))
    );
    let other = app.get("/button.js?v=0").send().await.unwrap();
    assert_eq!(text(other.headers(), "cache-control"), "no-cache");
    // docs/button.md names them, so that a reader can copy them.
    let document = include_str!("../../../docs/button.md");
    for named in [address, integrity] {
        assert!(document.contains(named), "docs/button.md must name {named}");
    }
}

#[tokio::test]
async fn a_first_load_of_the_page_is_under_60_kilobytes_and_a_second_one_is_only_304s() {
    let app = app().await;
    let mut total = 0;
    for path in ["/", "/page.css", "/page.js", "/button.js", "/openapi.json"] {
        let ask = |name: &'static str, value: &str| app.get(path).header(name, value).send();
        let response = ask("accept-encoding", "gzip, br").await.unwrap();
        let headers = response.headers().clone();
        assert_eq!(text(&headers, "content-encoding"), "gzip", "{path}");
        assert!(text(&headers, "vary").contains("accept-encoding"), "{path}");
        total += response.bytes().await.unwrap().len();
        let tag = text(&headers, "etag");
        let known = ask("if-none-match", tag).await.unwrap();
        assert_eq!(known.status(), 304, "{path}");
        let plain = ask("accept-encoding", "identity").await.unwrap();
        assert_eq!(text(plain.headers(), "content-encoding"), "-", "{path}");
    }
    assert!(total < 60_000, "{total}");
}

#[tokio::test]
async fn other_headers_of_browsers_and_proxies_have_no_effect() {
    let app = app().await;
    for (name, value) in [
        ("accept", "application/xml"),
        ("accept", ""),
        ("accept-encoding", "gzip;q=1, br;q=0.9, *;q=0, identity;q=0"),
        ("traceparent", "00-nonsense-01"),
        ("x-cloud-trace-context", "////;o=999999999999"),
        ("x-forwarded-for", "' OR 1=1 --"),
        ("x-http-method-override", "DELETE"),
        ("range", "bytes=0-0"),
        ("expect", "nonsense"),
    ] {
        let response = app
            .get("/scopes/acme/executions")
            .header(name, value)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200, "{name}: {value}");
        assert_eq!(text(response.headers(), "content-type"), "application/json");
        assert_eq!(text(response.headers(), "content-encoding"), "-");
    }
}

#[tokio::test]
async fn every_route_refuses_other_methods_and_names_its_own() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let execution = app.start("acme").await;
    let one = format!(
        "/scopes/acme/executions/{}",
        execution["name"].as_str().unwrap()
    );
    let routes = [
        (START.to_owned(), "POST"),
        ("/scopes/acme/executions".to_owned(), "GET,HEAD"),
        (one.clone(), "GET,HEAD"),
        (format!("{one}/logs"), "GET,HEAD"),
        (format!("{one}/cancel"), "POST"),
        ("/openapi.json".to_owned(), "GET,HEAD"),
        ("/problems/overloaded".to_owned(), "GET,HEAD"),
        ("/".to_owned(), "GET,HEAD"),
        ("/button.js".to_owned(), "GET,HEAD"),
        ("/health".to_owned(), "GET,HEAD"),
        ("/ready".to_owned(), "GET,HEAD"),
    ];
    for (path, allow) in routes {
        for method in [
            "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND",
            "QUERY",
        ] {
            let request = app
                .http
                .request(method.parse().unwrap(), format!("{}{path}", app.url));
            let response = request.send().await.unwrap();
            if allow.split(',').any(|allowed| allowed == method) {
                assert!(
                    response.status().is_success(),
                    "{method} {path}: {}",
                    response.status()
                );
                continue;
            }
            assert_eq!(text(response.headers(), "allow"), allow, "{method} {path}");
            match method {
                "HEAD" => assert_eq!(response.status(), 405),
                _ => drop(problem(response, "method-not-allowed").await),
            }
        }
    }
}

#[tokio::test]
async fn a_head_request_is_answered_like_get_without_a_body() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    for path in [
        "/health",
        "/scopes/acme/executions",
        "/scopes/acme/executions/none",
        "/nowhere",
    ] {
        let get = app.get(path).send().await.unwrap();
        let head = app
            .http
            .head(format!("{}{path}", app.url))
            .send()
            .await
            .unwrap();
        assert_eq!(head.status(), get.status(), "{path}");
        for name in ["content-type", "cache-control"] {
            assert_eq!(
                text(head.headers(), name),
                text(get.headers(), name),
                "{path}"
            );
        }
        assert!(head.bytes().await.unwrap().is_empty());
    }
}
