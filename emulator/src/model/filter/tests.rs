use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;

/// Four entries of one execution: two lines of text, two of JSON.
fn entries() -> Vec<(&'static str, Map<String, Value>)> {
    let entry = |more: Value| {
        let mut entry = json!({
            "insertId": "a1",
            "logName": "projects/demo/logs/run.googleapis.com%2Fstdout",
            "resource": { "type": "cloud_run_job", "labels": { "job_name": "hello", "location": "us-east4" } },
            "labels": { "run.googleapis.com/execution_name": "hello-x7k2p", "run.googleapis.com/task_index": "0" },
            "timestamp": "2026-11-25T10:00:00.000000001Z",
        });
        let fields = entry.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        fields.clone()
    };
    vec![
        ("A", entry(json!({ "textPayload": "Hello World" }))),
        (
            "B",
            entry(
                json!({ "textPayload": "page 12 of 40: Grüße, a.b \"q\"", "timestamp": "2026-11-26T10:00:00Z" }),
            ),
        ),
        (
            "C",
            entry(json!({
                "severity": "WARNING",
                "jsonPayload": {
                    "message": "slow", "n": 5, "ok": true, "none": null, "code": "007", "deep": { "a.b": { "c": -1.5 } },
                    "list": [{ "id": 1 }, { "id": 2 }], "a-b": "dash", "Case": "Upper",
                },
                "httpRequest": { "status": 503, "latency": "1.5s", "responseSize": "9007199254740993" },
                "trace": "projects/demo/traces/t1",
            })),
        ),
        (
            "D",
            entry(json!({
                "severity": "ERROR",
                "logName": "projects/demo/logs/run.googleapis.com%2Fstderr",
                "labels": { "team": "Blue" },
                "jsonPayload": { "message": "lost", "n": 12, "ok": false },
                "traceSampled": true,
            })),
        ),
    ]
}

/// The names of the entries that match the filter.
fn wanted(filter: &str) -> String {
    let filter = Filter::parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}"));
    entries()
        .iter()
        .filter(|(_, entry)| filter.matches(&|name: &str| entry.get(name).cloned()))
        .map(|(name, _)| *name)
        .collect()
}

#[track_caller]
fn check(table: &[(&str, &str)]) {
    for (filter, names) in table {
        assert_eq!(wanted(filter), *names, "{filter}");
    }
}

#[test]
fn not_binds_tighter_than_or_and_or_tighter_than_and() {
    check(&[
        ("", "ABCD"),
        ("  -- a comment alone", "ABCD"),
        ("severity=WARNING OR severity=ERROR", "CD"),
        ("NOT severity=WARNING", "ABD"),
        ("-severity=WARNING", "ABD"),
        ("NOT severity=WARNING OR severity=WARNING", "ABCD"),
        // severity=ERROR AND (ok=true OR n=12), not (severity=ERROR AND ok=true) OR n=12
        (
            "severity=ERROR AND jsonPayload.ok=true OR jsonPayload.n=12",
            "D",
        ),
        (
            "jsonPayload.n=5 OR jsonPayload.n=12 AND severity=WARNING",
            "C",
        ),
        (
            "(severity=WARNING AND jsonPayload.n=5) OR textPayload=\"hello world\"",
            "AC",
        ),
        ("NOT (severity=WARNING OR severity=ERROR)", "AB"),
        (
            "-(severity=WARNING OR severity=ERROR) -textPayload:page",
            "A",
        ),
        ("severity>=WARNING NOT jsonPayload.n=5", "D"),
        (
            "severity >= WARNING -- the slow ones\n AND jsonPayload.message=slow -- end",
            "C",
        ),
        ("((((severity=ERROR))))", "D"),
        ("severity=(WARNING OR ERROR) jsonPayload.n=(5 OR 6)", "C"),
        ("jsonPayload.message:(\"lo\" AND NOT \"slow\")", "D"),
    ]);
}

#[test]
fn a_comparison_with_a_missing_field_fails_and_a_defined_field_has_its_default() {
    check(&[
        ("labels.foo!=\"x\"", ""),
        ("labels.foo=\"\"", ""),
        ("NOT labels.foo=\"x\"", "ABCD"),
        ("resource.labels.nope!=x", ""),
        ("jsonPayload.nope!=1", ""),
        ("jsonPayload.nope!~\"x\"", ""),
        ("jsonPayload.message.deeper=slow", ""),
        ("protoPayload.serviceName!=x", ""),
        ("textPayload!=\"\"", "AB"),
        ("textPayload=\"\"", "CD"),
        ("trace=\"\"", "ABD"),
        ("severity=DEFAULT", "AB"),
        ("severity!=DEFAULT", "CD"),
        ("httpRequest.status=0", "ABD"),
        ("httpRequest.latency<1s", "ABD"),
        ("traceSampled=false", "ABC"),
    ]);
}

#[test]
fn a_star_after_a_colon_matches_if_the_field_exists() {
    check(&[
        ("textPayload:*", "AB"),
        ("jsonPayload:*", "CD"),
        ("labels.\"run.googleapis.com/task_index\":*", "ABC"),
        ("labels.team:*", "D"),
        ("NOT labels.team:*", "ABC"),
        ("jsonPayload.none:*", "C"),
        ("jsonPayload.deep:*", "C"),
        ("jsonPayload.list.id:*", "C"),
        ("jsonPayload.nope:*", ""),
        ("httpRequest:*", "C"),
        ("protoPayload:*", ""),
    ]);
}

#[test]
fn comparisons_ignore_case_and_regular_expressions_respect_it() {
    check(&[
        ("resource.type=\"CLOUD_RUN_JOB\"", "ABCD"),
        ("textPayload=\"HELLO world\"", "A"),
        ("textPayload:\"GRÜSSE\"", ""),
        ("textPayload:\"GRÜßE\"", "B"),
        ("labels.team=bLUE", "D"),
        ("jsonPayload.Case=upper", "C"),
        ("jsonPayload.case=upper", ""),
        ("severity=warning", "C"),
        ("textPayload=~\"hello\"", ""),
        ("textPayload=~\"Hello\"", "A"),
        ("textPayload=~\"(?i)hello\"", "A"),
        ("textPayload!~\"Hello\"", "BCD"),
        ("textPayload>\"hello\"", "AB"),
        ("textPayload>\"i\"", "B"),
        ("insertId<=A1", "ABCD"),
    ]);
}

#[test]
fn regular_expressions_have_the_syntax_of_re2() {
    check(&[
        (r#"textPayload=~"^page \d+ of""#, "B"),
        (r#"textPayload=~"a\.b""#, "B"),
        (r#"textPayload=~"a\\.b""#, ""),
        (r#"textPayload=~"\"q\"$""#, "B"),
        (r#"textPayload=~"Gr[^a-z]""#, "B"),
        // Perl's classes contain ASCII only, as in RE2.
        (r#"textPayload=~"Gr\w""#, ""),
        (r#"textPayload=~"Gr\W""#, "B"),
        (r#"textPayload=~"\bof\b""#, "B"),
        (r#"textPayload=~"[\d]{2}""#, "B"),
        (r#"textPayload=~"[[:upper:]]orld""#, "A"),
        (r#"textPayload=~"W[]o]r""#, "A"),
        (r#"textPayload=~"[a&&b]ello""#, ""),
        (r#"jsonPayload.message=~"^(slow|lost)$""#, "CD"),
        (r#"jsonPayload.n=~"5""#, ""),
    ]);
}

#[test]
fn a_payload_field_is_compared_by_its_type_in_the_entry() {
    check(&[
        ("jsonPayload.n=5", "C"),
        ("jsonPayload.n>5", "D"),
        ("jsonPayload.n>=\"5.0\"", "CD"),
        ("jsonPayload.n!=5", "D"),
        ("jsonPayload.n:5", "C"),
        ("jsonPayload.n=five", ""),
        ("jsonPayload.n!=five", ""),
        ("jsonPayload.code=7", ""),
        ("jsonPayload.code=007", "C"),
        ("jsonPayload.ok=TRUE", "C"),
        ("jsonPayload.ok!=true", "D"),
        ("jsonPayload.none=NULL_VALUE", "C"),
        ("jsonPayload.deep.\"a.b\".c=-1.5", "C"),
        ("jsonPayload.deep.\"a.b\".c<0", "C"),
        ("jsonPayload.list.id=2", "C"),
        ("jsonPayload.a-b=dash", "C"),
        ("jsonPayload:SLO", "C"),
        ("jsonPayload.deep:\"-1.5\"", "C"),
        ("httpRequest.status>=500", "C"),
        ("http_request.status=503", "C"),
        ("httpRequest.latency>\"1400ms\"", "C"),
        ("httpRequest.responseSize>1000", "C"),
        ("json_payload.message=lost", "D"),
    ]);
}

#[test]
fn a_time_may_lack_its_time_of_day_and_its_zone() {
    check(&[
        ("timestamp>=\"2026-11-26\"", "B"),
        ("timestamp<\"2026-11-26\"", "ACD"),
        ("timestamp>=2026-11-26", "B"),
        ("timestamp=\"2026-11-25T10:00:00.000000001Z\"", "ACD"),
        ("timestamp>\"2026-11-25T10:00:00.000000001Z\"", "B"),
        ("timestamp>=\"2026-11-26T11:00:00+01:00\"", "B"),
        ("timestamp>=\"2026-11-26T10:00:00\"", "B"),
    ]);
}

#[test]
fn a_text_without_a_field_is_searched_in_all_fields() {
    check(&[
        ("hello", "ABCD"), // the job's name
        ("\"hello world\"", "A"),
        ("\"SLOW\" OR page", "BC"),
        ("NOT world", "BCD"),
        ("lost severity>=ERROR", "D"),
        ("503", "C"),
        ("blue", "D"),
        ("log_id(\"run.googleapis.com/stderr\")", "D"),
        ("log_id(\"stderr\") OR logName:stderr", "D"),
    ]);
}

#[test]
fn filters_of_gcloud_and_airflow_match() {
    let gcloud = "resource.type = cloud_run_job AND labels.\"run.googleapis.com/execution_name\" = hello-x7k2p\n\
        resource.labels.location = us-east4 AND severity >= DEFAULT AND timestamp>=\"2026-11-22T21:00:00.000000Z\"";
    let airflow = "resource.type=\"cloud_run_job\" resource.labels.job_name=\"hello\" \
        timestamp>=\"2026-11-25T09:00:00+00:00\" NOT logName:\"cloudaudit.googleapis.com\"";
    check(&[(gcloud, "ABC"), (airflow, "ABCD")]);
    let filter = Filter::parse(gcloud).unwrap();
    assert_eq!(filter.execution(), Some("hello-x7k2p"));
    let bound = Timestamp::from_nanosecond(filter.not_before()).unwrap();
    assert_eq!(bound.to_string(), "2026-11-22T21:00:00Z");
}

#[test]
fn only_required_comparisons_narrow_the_search() {
    for filter in [
        "labels.\"run.googleapis.com/execution_name\"=a OR severity=ERROR",
        "NOT labels.\"run.googleapis.com/execution_name\"=a",
        "labels.\"run.googleapis.com/execution_name\"!=a timestamp<\"2026-11-25\"",
        "labels.\"run.googleapis.com/execution_name\"=(a OR b) NOT timestamp>\"2026-11-25\"",
    ] {
        let filter = Filter::parse(filter).unwrap();
        assert_eq!(filter.execution(), None);
        assert_eq!(filter.not_before(), i128::MIN);
    }
}

#[test]
fn an_unsupported_filter_is_refused() {
    let deep = format!("{}severity=INFO{}", "(".repeat(60), ")".repeat(60));
    let endless = "(".repeat(20_000);
    for text in [
        "severity >= LOUD",
        "severity >= 400",
        "timestamp > yesterday",
        "timestamp > \"2026-13-01\"",
        "colour=red",
        "textPayload.thud=1",
        "operation.thud=1",
        "labels.a.b=1",
        "labels=1",
        "labels:a",
        "resource=1",
        "jsonPayload=1",
        "jsonPayload=~\"a\"",
        "jsonPayload..a=1",
        "jsonPayload.=1",
        "httpRequest.status=abc",
        "httpRequest.status=~\"5..\"",
        "traceSampled=maybe",
        "textPayload=\"open",
        "textPayload=\"\\q\"",
        "textPayload=\"\\u12\"",
        "textPayload=\"\\u+0fc\"",
        "textPayload=\"\\uD800\"",
        "textPayload=\"\\u00ü\"",
        "textPayload=a:b",
        "textPayload=a\"b\"",
        "textPayload='a'",
        "textPayload=a*",
        "textPayload=",
        "textPayload=~a",
        "textPayload=~\"(\"",
        "textPayload=~\"\\C\"",
        "textPayload=~\"(a{1000}){1000}\"",
        "textPayload=~\"[a--b]\"",
        "AND severity=INFO",
        "severity=INFO AND",
        "severity=INFO OR",
        "severity=INFO AND AND severity=INFO",
        "NOT",
        "NOT NOT severity=INFO",
        "- severity=INFO",
        "-5",
        "(severity=INFO",
        "severity=INFO)",
        "()",
        "severity=(INFO",
        "severity=()",
        "sample(insertId, 0.25)",
        "SEARCH(\"a\")",
        "log_id(a)",
        "severity=INFO, severity=ERROR",
        "textPayload[0]=a",
        &deep,
        &endless,
    ] {
        assert!(Filter::parse(text).is_err(), "{text}");
    }
}

#[test]
fn escape_sequences_in_quotes_are_resolved() {
    for (written, meant) in [
        (r#"a\"b"#, "a\"b"),
        (r"a\\b", "a\\b"),
        (r"a\tb\nc", "a\tb\nc"),
        (r"\u00fc", "ü"),
        (r"\U0001F600", "😀"),
        ("-- no comment", "-- no comment"),
    ] {
        let filter = Filter::parse(&format!("textPayload=\"{written}\"")).unwrap();
        let entry = |name: &str| (name == "textPayload").then(|| json!(meant));
        assert!(filter.matches(&entry), "{written}");
    }
}

proptest! {
    /// Any text is either a filter or refused, and never causes a panic.
    #[test]
    fn no_text_makes_the_parser_panic(
        filter in "(AND |OR |NOT |-|\\(|\\)|\"|\\\\|=|!=|=~|:|<|\\.|\\*|\\[| |\n|ü|textPayload|jsonPayload|labels|severity|timestamp|a|1){0,24}"
    ) {
        if let Ok(filter) = Filter::parse(&filter) {
            for (_, entry) in entries() {
                filter.matches(&|name: &str| entry.get(name).cloned());
            }
            filter.execution();
            filter.not_before();
        }
    }
}
