//! Accessibility: axe-core, which Lighthouse also uses, checks every state, light and dark, wide and narrow.

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::node;
use crate::scripted::{Answer, Scene, accepted, event, execution};
use crate::world::World;

const RULES: &str = "['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']";

/// A browser and axe's script. None if one of the two is not installed.
async fn judge() -> Option<(Browser, String)> {
    let axe = node::folder()?.join("node_modules/axe-core/axe.min.js");
    let axe = std::fs::read_to_string(axe).unwrap();
    Some((Browser::start().await?, axe))
}

/// Asserts that axe finds no fault in the page and that it does not scroll sideways, and saves screenshots.
async fn is_accessible(browser: &Browser, axe: &str, state: &str) {
    for (width, height) in [(1280, 900), (390, 844)] {
        for scheme in ["light", "dark"] {
            browser.look(width, height, scheme).await;
            let judge = format!(
                "if (!window.axe) {{ {axe} }}
                 const {{ violations }} = await axe.run(document, {{ runOnly: {RULES} }});
                 return violations.map(({{ id, nodes }}) => `${{id}}: ${{nodes.map((node) => node.target.join(' ')).join(', ')}}`)"
            );
            let violations = browser.script(&judge).await;
            assert_eq!(violations, json!([]), "{state}, {width} wide, {scheme}");
            let overflow = browser
                .value("document.documentElement.scrollWidth - innerWidth")
                .await;
            assert!(
                overflow.as_i64().unwrap() <= 0,
                "{state}: {width} wide, it scrolls sideways"
            );
            browser
                .screenshot(&format!("{state}-{width}-{scheme}"))
                .await;
        }
    }
}

#[tokio::test]
async fn the_page_is_accessible_in_every_state() {
    let Some((browser, axe)) = judge().await else {
        return;
    };
    let world = World::start().await;
    browser.open(&world.url("/")).await;
    browser
        .until("document.querySelector('[name=seconds]')")
        .await;
    is_accessible(&browser, &axe, "first").await;
    browser.fill("#scope", "acme\u{E007}").await;
    browser
        .until("!document.getElementById('none').hidden")
        .await;
    is_accessible(&browser, &axe, "idle").await;
    browser.fill("[name=seconds]", "601").await;
    browser.click("part('start')").await;
    browser
        .until("document.querySelector('[name=seconds]').ariaInvalid === 'true'")
        .await;
    is_accessible(&browser, &axe, "invalid").await;
    browser.fill("[name=seconds]", "300").await;
    browser.click("part('start')").await;
    browser
        .until("state === 'running' && text('lines').includes('working')")
        .await;
    is_accessible(&browser, &axe, "running").await;
    browser.click("part('cancel')").await;
    browser.until("state === 'cancelled'").await;
    is_accessible(&browser, &axe, "cancelled").await;
    browser.fill("[name=seconds]", "0").await;
    browser.click("part('start')").await;
    browser.until("state === 'succeeded'").await;
    is_accessible(&browser, &axe, "succeeded").await;
    browser.fill("[name=fail_with]", "3").await;
    browser.click("part('start')").await;
    browser.until("state === 'failed'").await;
    is_accessible(&browser, &axe, "failed").await;
    browser.fill("#scope", "no/scope\u{E007}").await;
    browser.until("element.hidden").await;
    is_accessible(&browser, &axe, "no-scope").await;
    let mut world = world;
    world.stop_service().await;
    browser.fill("#scope", "globex\u{E007}").await;
    browser
        .until("document.getElementById('history-problem').textContent")
        .await;
    browser
        .script("element.parameters = { seconds: 0 }; element.start()")
        .await;
    browser.until("text('words')").await;
    is_accessible(&browser, &axe, "unreachable").await;
}

#[tokio::test]
async fn another_page_with_the_button_stays_accessible() {
    let Some((browser, axe)) = judge().await else {
        return;
    };
    let line = |(at, (severity, task, text)): (usize, (&str, u32, &str))| {
        let line: Value = json!({"time": "2026-01-01T00:00:01Z", "severity": severity, "task": task, "text": text});
        event(u32::try_from(at).unwrap(), "log", &line)
    };
    let lines = [
        ("DEBUG", 0, "quiet"),
        ("WARNING", 1, "a warning"),
        ("ERROR", 0, "Traceback\n  at a\n  at b"),
        ("EMERGENCY", 1, "the house is on fire"),
        (
            "INFO",
            0,
            "\u{1b}[30mblack\u{1b}[31mred\u{1b}[32mgreen\u{1b}[33myellow\u{1b}[34mblue\u{1b}[35mmagenta\u{1b}[36mcyan\u{1b}[37mwhite\u{1b}[2mfaint",
        ),
        (
            "INFO",
            1,
            "\u{1b}[40mblack\u{1b}[41mred\u{1b}[42mgreen\u{1b}[43myellow\u{1b}[44mblue\u{1b}[45mmagenta\u{1b}[46mcyan\u{1b}[47mwhite",
        ),
    ];
    let mut pieces: Vec<_> = lines.into_iter().enumerate().map(line).collect();
    pieces.push(event(
        97,
        "progress",
        &json!({"done": 12, "total": 40, "message": "page 12"}),
    ));
    let mut ended = execution("failed");
    ended["results"] =
        json!([{"task": 0, "value": {"url": "https://example.com"}}, {"task": 1, "value": 7}]);
    pieces.push(event(98, "end", &ended));
    let html = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'><title>Host</title>
        <meta name=color-scheme content='light dark'>
        <script type=module src=button.js></script>
        <body style='background: Canvas'><main><h1>Host</h1><process-button scope=acme label=Import log></process-button></main></html>";
    let scene = Scene::play(html, vec![accepted()], vec![Answer::Stream(pieces)]).await;
    browser.open(&scene.url).await;
    browser.until("state === 'idle'").await;
    browser.click("part('start')").await;
    browser.until("state === 'failed' && text('result')").await;
    is_accessible(&browser, &axe, "elsewhere").await;
}
