//! `<process-button>`: a click starts exactly one execution despite double clicks, reloads, restarts and outages, on any page.

use emulator::{Fault, Operation, Rule};
use serde_json::json;

use crate::browser::Browser;
use crate::scripted::{Answer, Scene, accepted, event, execution, problem};
use crate::world::World;

/// WebDriver's codes of keys.
const TAB: &str = "\u{E004}";
const ENTER: &str = "\u{E007}";
const SPACE: &str = " ";

/// A page of another application with the element in it.
const HOST: &str = "<!doctype html><meta charset=utf-8><title>Host</title>
    <script type=module src=button.js></script>
    <process-button scope=acme label=Import log></process-button>";

/// The service's page, with a job that takes so many seconds.
async fn opened(world: &World, seconds: u32) -> Option<Browser> {
    let browser = Browser::start().await?;
    browser.open(&world.url("/?scope=acme")).await;
    browser.until("element && state === 'idle'").await;
    browser
        .until("document.querySelector('[name=seconds]')")
        .await;
    browser.fill("[name=seconds]", &seconds.to_string()).await;
    Some(browser)
}

/// A page that plays a scene.
async fn watching(scene: &Scene) -> Option<Browser> {
    let browser = Browser::start().await?;
    browser.open(&scene.url).await;
    browser.until("state === 'idle'").await;
    Some(browser)
}

#[tokio::test]
async fn a_double_click_starts_one() {
    let world = World::start().await;
    let Some(browser) = opened(&world, 1).await else {
        return;
    };
    browser.double_click("part('start')").await;
    browser.until("state === 'succeeded'").await;
    assert_eq!(world.started(), 1);
    browser.click("part('start')").await;
    world.until_started(2).await; // the next click is a new intent
}

#[tokio::test]
async fn a_reload_while_running_continues_with_the_run() {
    let world = World::start().await;
    let Some(browser) = opened(&world, 8).await else {
        return;
    };
    browser.click("part('start')").await;
    browser
        .until("text('lines').includes('working: 1 of 8 s')")
        .await;
    let name = browser.value("element.execution.name").await;
    browser.reload().await;
    browser
        .until("state === 'running' && text('lines').includes('working: 1 of 8 s')")
        .await;
    assert_eq!(browser.value("element.execution.name").await, name);
    browser.until("state === 'succeeded'").await;
    assert_eq!(
        browser
            .value("text('lines').split('working: 1 of 8 s').length")
            .await,
        2,
        "each line once"
    );
    browser.open(&world.url("/?scope=acme")).await;
    browser.until("state === 'idle'").await; // what has ended is not taken up again
    assert_eq!(world.started(), 1);
}

#[tokio::test]
async fn a_reload_while_starting_neither_loses_nor_doubles_the_start() {
    let world = World::start().await;
    let Some(browser) = opened(&world, 1).await else {
        return;
    };
    let slow = Fault::Delay { ms: 1500 };
    world.emulator.faults().add(Rule::new(Operation::Run, slow));
    browser.click("part('start')").await;
    browser.until("state === 'starting'").await;
    browser.reload().await;
    browser.until("state === 'succeeded'").await;
    assert_eq!(world.started(), 1);
}

#[tokio::test]
async fn a_restart_of_the_service_while_watching_is_survived() {
    let mut world = World::start().await;
    let Some(browser) = opened(&world, 6).await else {
        return;
    };
    browser.click("part('start')").await;
    browser
        .until("text('lines').includes('working: 1 of 6 s')")
        .await;
    world.stop_service().await;
    browser
        .until("text('problem').includes('cannot be reached. Trying again')")
        .await;
    world.start_service().await;
    browser
        .until("state === 'running' && text('problem') === ''")
        .await;
    browser
        .until("state === 'succeeded' && text('lines').includes('working: 6 of 6 s')")
        .await;
    assert_eq!(
        browser
            .value("text('lines').split('working: 1 of 6 s').length")
            .await,
        2,
        "each line once"
    );
    assert_eq!(world.started(), 1);
}

#[tokio::test]
async fn a_click_while_the_service_is_away_starts_one_when_it_is_back() {
    let mut world = World::start().await;
    let Some(browser) = opened(&world, 1).await else {
        return;
    };
    world.stop_service().await;
    browser.click("part('start')").await;
    browser
        .until("text('problem').includes('cannot be reached. Trying again')")
        .await;
    browser.screenshot("service-away").await;
    world.start_service().await;
    browser
        .until("state === 'succeeded' && text('problem') === ''")
        .await;
    assert_eq!(world.started(), 1);
}

#[tokio::test]
async fn a_click_after_giving_up_repeats_the_same_key() {
    let scene = Scene::play(HOST, vec![], vec![]).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser.click("part('start')").await;
    browser
        .until("text('problem').includes('Trying again')")
        .await;
    browser.click("part('cancel')").await;
    browser
        .until("state === 'refused' && part('cancel').hidden")
        .await;
    let tried = scene.seen().len();
    browser.reload().await;
    browser.until("state === 'idle'").await;
    assert_eq!(scene.seen().len(), tried, "a reload is not a click");
    browser.click("part('start')").await;
    browser.until("state === 'starting'").await;
    until_seen(&scene, tried + 1).await;
    let seen = scene.seen();
    assert!(
        seen.iter().all(|request| request.key == seen[0].key),
        "{seen:?}"
    );
    browser
        .script(
            "element.parameters = { document: 'other' }; await element.cancel(); element.start()",
        )
        .await;
    until_seen(&scene, seen.len() + 1).await;
    assert_ne!(
        scene.seen().last().unwrap().key,
        seen[0].key,
        "another wish has another key"
    );
}

#[tokio::test]
async fn every_interruption_is_survived_and_nothing_is_sent_or_shown_twice() {
    let line = |n: u32| json!({"time": "2026-01-01T00:00:01Z", "severity": "INFO", "task": 0, "text": format!("\u{2028}line {n}")});
    let starts = vec![
        Answer::Plain(503, "text/html", "<h1>Service Unavailable</h1>".into()),
        problem(409, "idempotency-in-progress", true),
        Answer::Plain(202, "application/json", "{\"name\": \"test-jo".into()),
        accepted(),
    ];
    let first = format!(
        ": hello\r\n\r\nid: a1\r\nevent: log\r\ndata: {}\r\n\r\n",
        line(1)
    );
    let (half, rest) = first.split_at(first.len() - 30);
    let running = execution("running").to_string();
    let (this, that) = running.split_at(running.find(",\"").unwrap() + 1);
    let others = vec![
        problem(404, "execution-not-found", false),
        Answer::Plain(502, "text/html", "Bad Gateway".into()),
        Answer::Stream(vec![
            half.into(),
            rest[..rest.len() - 3].into(),
            rest[rest.len() - 3..].into(), // a CRLF in two pieces
            format!("event:execution\ndata:{this}\ndata: {that}\n\n"), // data in two lines
            format!(": beat\n\nid: a2\nevent: log\ndata: {}\n", line(9)), // breaks off: not an event
        ]),
        problem(400, "malformed-request", false), // another revision does not know our place
        Answer::Stream(vec![
            format!(
                "id: b1\nevent: log\ndata: {}\n\nid: b2\nevent: log\ndata: {}\n\n",
                line(1),
                line(2)
            ),
            format!("id: b3\nevent: end\ndata: {}\n\n", execution("succeeded")),
        ]),
    ];
    let scene = Scene::play(HOST, starts, others).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser.script("window.seen = []; for (const type of ['starting', 'started', 'changed', 'ended'])
        document.addEventListener(`process-${type}`, ({ detail }) => seen.push(`${type} ${detail?.state ?? ''}`.trim()))").await;
    browser.click("part('start')").await;
    browser
        .until("state === 'running' && text('lines').includes('line 1')")
        .await;
    assert_eq!(
        browser.value("text('status')").await,
        "Running: 1 of 2 tasks done, 1 running"
    );
    browser.until("state === 'succeeded'").await;
    let lines = browser
        .value("[...part('lines').children].map((line) => line.textContent.slice(-6))")
        .await;
    assert_eq!(lines, json!(["line 1", "line 2"]));
    let seen = browser.value("seen").await;
    assert_eq!(
        seen,
        json!([
            "starting",
            "started pending",
            "changed pending",
            "changed running",
            "changed succeeded",
            "ended succeeded"
        ])
    );
    let (posts, streams): (Vec<_>, Vec<_>) = scene
        .seen()
        .into_iter()
        .partition(|request| request.key.is_some());
    assert_eq!(posts.len(), 4);
    assert!(
        posts
            .iter()
            .all(|post| post.key == posts[0].key && post.body == "{}"),
        "{posts:?}"
    );
    let places: Vec<_> = streams
        .iter()
        .map(|request| request.last_event_id.as_deref())
        .collect();
    assert_eq!(places, [None, None, None, Some("a1"), None]);
}

#[tokio::test]
async fn a_run_has_ended_even_if_lines_still_arrive() {
    let ended = format!(
        "id: 1\nevent: execution\ndata: {}\n\n",
        execution("succeeded")
    );
    let line = json!({"time": "2026-01-01T00:00:01Z", "text": "last words"});
    let others = vec![
        Answer::Stream(vec![ended]),
        Answer::Stream(vec![format!("id: 2\nevent: log\ndata: {line}\n\n")]),
        problem(403, "scope-forbidden", false),
    ];
    let scene = Scene::play(HOST, vec![accepted()], others).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser
        .script("window.ended = 0; element.addEventListener('process-ended', () => { ended++; })")
        .await;
    browser.click("part('start')").await;
    browser.until("state === 'succeeded'").await;
    assert_eq!(browser.value("part('start').ariaDisabled").await, "false");
    assert_eq!(browser.value("part('cancel').hidden").await, true);
    browser.until("text('lines').includes('last words')").await;
    until_seen(&scene, 4).await;
    browser.until("text('problem') === ''").await;
    assert_eq!(
        browser.value("[state, ended]").await,
        json!(["succeeded", 1])
    );
}

#[tokio::test]
async fn a_start_refused_by_a_busy_scope_is_explained_and_not_retried() {
    let scene = Scene::play(HOST, vec![problem(409, "scope-busy", true)], vec![]).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser.click("part('start')").await;
    browser.until("state === 'refused'").await;
    assert_eq!(
        browser.value("text('problem')").await,
        "This is scope-busy."
    );
    assert_eq!(scene.seen().len(), 1);
}

#[tokio::test]
async fn a_token_set_early_or_late_is_sent_with_every_request() {
    let html = format!("{HOST}<script>
        document.querySelector('process-button').getToken = async () => 'fresh'; // the module has not run yet
        document.querySelector('process-button').parameters = {{ document: 'a' }}</script>");
    let scene = Scene::play(&html, vec![accepted()], vec![]).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser.click("part('start')").await;
    until_seen(&scene, 2).await;
    let seen = scene.seen();
    assert!(
        seen.iter()
            .all(|request| request.authorization.as_deref() == Some("Bearer fresh")),
        "{seen:?}"
    );
    assert_eq!(seen[0].body, r#"{"document":"a"}"#);
    assert_eq!(
        seen[1].path,
        "/scopes/acme/executions/test-job-x7k2p/events"
    );
}

#[tokio::test]
async fn the_element_works_by_keyboard_and_keeps_the_focus() {
    let world = World::start().await;
    let Some(browser) = opened(&world, 60).await else {
        return;
    };
    browser
        .script("document.querySelector('#parameters > :last-child [name]').focus()")
        .await;
    browser.keys(TAB).await;
    let focused = "element.shadowRoot.activeElement?.part.value";
    assert_eq!(browser.value(focused).await, "start");
    browser.keys(ENTER).await;
    browser.until("state === 'running'").await;
    assert_eq!(browser.value(focused).await, "start");
    assert_eq!(browser.value("part('start').ariaBusy").await, "true");
    browser.keys(ENTER).await; // does nothing now
    browser.keys(TAB).await;
    assert_eq!(browser.value(focused).await, "cancel");
    browser.keys(SPACE).await;
    browser.until("state === 'cancelled'").await;
    assert_eq!(browser.value(focused).await, "start");
    assert_eq!(world.started(), 1);
}

#[tokio::test]
async fn the_button_works_on_a_page_of_another_origin() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let stranger = Scene::play(HOST, vec![], vec![]).await;
    let mut origin = stranger.url.clone();
    origin.pop();
    let world = World::with(|config| config.cors.origins = vec![origin]).await;
    let html = HOST.replace("src=button.js", &format!("src={}", world.url("/button.js")));
    let listed = stranger.show(&html);
    browser.open(&listed).await;
    browser.until("state === 'idle'").await;
    browser.click("part('start')").await;
    browser
        .until("state === 'succeeded' && text('lines').includes('SCOPE = acme')")
        .await;
    assert_eq!(world.started(), 1);
    // The same page from an origin that is not listed: the browser blocks its requests.
    let unlisted = Scene::play(HOST, vec![], vec![]).await;
    browser
        .open(&unlisted.show(&HOST.replace(
            "<process-button",
            &format!("<process-button api={}", world.url("/")),
        )))
        .await;
    browser.until("state === 'idle'").await;
    browser.click("part('start')").await;
    browser
        .until("text('problem').includes('cannot be reached')")
        .await;
    assert_eq!(world.started(), 1);
}

/// Waits until the scene has seen so many requests.
async fn until_seen(scene: &Scene, count: usize) {
    let began = std::time::Instant::now();
    while scene.seen().len() < count {
        assert!(began.elapsed().as_secs() < 20, "only {:?}", scene.seen());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// A page of another application, whose scripts could mislead a guess of the service's address.
#[tokio::test]
async fn a_token_is_sent_only_to_the_origin_of_the_module() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let home = Scene::play(HOST, vec![], vec![]).await;
    let stranger = Scene::play(HOST, vec![], vec![]).await;
    let world = World::with(|config| {
        config.cors.origins = vec![home.url.trim_end_matches('/').to_owned()];
    })
    .await;
    let (other, button) = (stranger.url.clone(), world.url("/button.js"));
    let element = "<process-button scope=acme log></process-button>";
    for page in [
        format!(
            "<script src='{other}chat-button.js'></script><script type=module src='{button}'></script>{element}"
        ),
        format!(
            "<script src='{other}button.js'></script>{element}<script type=module>await import('{button}')</script>"
        ),
        format!("<base href='{other}'><script type=module src='{button}'></script>{element}"),
    ] {
        let began = world.started();
        browser
            .open(&home.show(&format!("<!doctype html><meta charset=utf-8>{page}")))
            .await;
        browser.until("state === 'idle'").await;
        browser
            .script("element.token = 'SECRET'; element.start()")
            .await;
        world.until_started(began + 1).await;
        browser.until("state === 'succeeded'").await;
    }
    let strays: Vec<_> = stranger.seen().into_iter().chain(home.seen()).collect();
    assert!(
        strays
            .iter()
            .all(|request| request.authorization.is_none() && !request.path.contains("scopes")),
        "{strays:?}"
    );
}

#[tokio::test]
async fn a_key_that_is_held_down_starts_one_execution() {
    let world = World::start().await;
    let Some(browser) = opened(&world, 0).await else {
        return;
    };
    browser.script("part('start').focus()").await;
    browser.hold_enter(60).await; // the run ends meanwhile
    browser.until("state === 'succeeded'").await;
    assert_eq!(world.started(), 1);
    browser.fill("[name=seconds]", "0").await;
    browser.hold_enter(60).await;
    world.until_started(2).await;
    browser.until("state === 'succeeded'").await;
    assert_eq!(world.started(), 2);
}

#[tokio::test]
async fn following_another_run_keeps_the_key_of_a_start() {
    let world = World::start().await;
    let Some(browser) = opened(&world, 1).await else {
        return;
    };
    browser.click("part('start')").await;
    browser.until("state === 'succeeded'").await;
    let slow = Fault::Delay { ms: 3000 };
    world.emulator.faults().add(Rule::new(Operation::Run, slow));
    browser.click("part('start')").await;
    browser.until("state === 'starting'").await;
    browser
        .click("document.querySelector('#history tbody a')")
        .await;
    browser.until("state === 'succeeded'").await;
    browser.click("part('start')").await;
    browser
        .until("state === 'running' || state === 'pending'")
        .await;
    browser.until("state === 'succeeded'").await;
    assert_eq!(
        world.started(),
        2,
        "the click took up the start that had no answer"
    );
}

#[tokio::test]
async fn properties_and_attributes_agree_whenever_they_are_set() {
    let before = "<script>
        const element = document.querySelector('process-button'); // the module has not run yet
        Object.assign(element, { scope: 'globex', label: 'Index', log: false, ifRunning: 'join', process: 'import' });
        </script>";
    let busy = problem(409, "scope-busy", true);
    let scene = Scene::play(&format!("{HOST}{before}"), vec![busy, accepted()], vec![]).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    let seen = "[element.scope, element.label, element.log, element.ifRunning, element.getAttribute('if-running'), element.hasAttribute('log'), text('start')]";
    assert_eq!(
        browser.value(seen).await,
        json!(["globex", "Index", false, "join", "join", false, "Index"])
    );
    let own = "Object.keys(Object.getOwnPropertyDescriptors(element)).length";
    assert_eq!(browser.value(own).await, 0);
    browser.click("part('start')").await;
    browser.until("state === 'refused'").await;
    browser
        .script(
            "element.log = true; element.removeAttribute('if-running'); element.process = null;
             element.setAttribute('on-running', 'reject'); element.parameters = '{\"a\": 1}'; element.start()",
        )
        .await;
    until_seen(&scene, 2).await;
    let seen = scene.seen();
    assert_eq!(
        seen[0].path,
        "/scopes/globex/process/import?on_running=join"
    );
    assert_eq!(seen[1].path, "/scopes/globex/process?on_running=reject");
    assert_eq!(seen[1].body, r#"{"a":1}"#);
    browser
        .script("element.setAttribute('log', 'false'); element.label = null")
        .await;
    assert_eq!(
        browser.value("[element.log, text('start')]").await,
        json!([false, "Start"])
    );
}

#[tokio::test]
async fn the_element_is_defined_once_even_if_the_module_is_loaded_twice() {
    let twice = format!("{HOST}<script type=module src='button.js?v=2'></script>");
    let scene = Scene::play(&twice, vec![accepted()], vec![]).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser.script("window.done = 0; import('./button.js?v=3').then(() => { done = 1 }, (error) => { done = error.message })").await;
    browser.until("done").await;
    assert_eq!(browser.value("done").await, 1);
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_element_that_is_moved_keeps_its_run() {
    let line = json!({"time": "2026-01-01T00:00:01Z", "text": "once"});
    let scene = Scene::play(
        HOST,
        vec![accepted()],
        vec![
            Answer::Silent(vec![
                event(1, "execution", &execution("running")),
                event(2, "log", &line),
            ]),
            Answer::Stream(vec![event(3, "end", &execution("succeeded"))]),
        ],
    )
    .await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser.click("part('start')").await;
    browser.until("text('lines').includes('once')").await;
    browser
        .script("const box = document.body.appendChild(document.createElement('div')); box.append(element)")
        .await;
    browser
        .script("await new Promise((done) => setTimeout(done))")
        .await;
    assert_eq!(scene.seen().len(), 2, "the stream goes on");
    // Removed from the document for a while and put back, it continues after the last event.
    browser
        .script("window.kept = element; element.remove(); await new Promise((done) => setTimeout(done, 50)); document.body.append(kept)")
        .await;
    browser.until("state === 'succeeded'").await;
    assert_eq!(scene.seen()[2].last_event_id.as_deref(), Some("2"));
    browser.script("document.body.prepend(element)").await;
    let seen = "[state, element.execution.state, text('lines').split('once').length]";
    assert_eq!(
        browser.value(seen).await,
        json!(["succeeded", "succeeded", 2])
    );
}

#[tokio::test]
async fn the_button_works_with_trusted_types() {
    let strict = HOST.replace(
        "<title>",
        "<meta http-equiv=Content-Security-Policy content=\"require-trusted-types-for 'script'\">
         <script>trustedTypes.createPolicy('default', { createScript: (script) => script })</script><title>",
    ); // the policy lets the tests' own scripts through, and no HTML
    let scene = Scene::play(&strict, vec![accepted()], vec![]).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser.click("part('start')").await;
    browser.until("state === 'pending'").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_silent_connection_is_detected_and_reported() {
    let running = || vec![event(1, "execution", &execution("running"))];
    let others = vec![
        Answer::Silent(running()),
        Answer::Silent(vec![]), // the second try hears nothing either
        Answer::Stream(vec![event(2, "end", &execution("succeeded"))]),
    ];
    let scene = Scene::play(HOST, vec![accepted()], others).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser.click("part('start')").await;
    browser.until("state === 'running'").await;
    let silent = std::time::Instant::now();
    browser
        .until("text('problem').includes('Nothing comes from the service')")
        .await;
    assert!(silent.elapsed().as_secs() < 30);
    until_seen(&scene, 3).await;
    // A device that wakes from sleep checks at once.
    browser
        .script("Date.now = ((now) => () => now() + 60_000)(Date.now); dispatchEvent(new Event('online'))")
        .await;
    browser
        .until("state === 'succeeded' && text('problem') === ''")
        .await;
}

#[tokio::test]
async fn an_expired_session_asks_for_a_sign_in_and_waits() {
    let redirect = || {
        let elsewhere = "http://127.0.0.1:9/sign-in".to_owned();
        Answer::With(
            "location",
            elsewhere,
            Box::new(Answer::Plain(302, "text/html", String::new())),
        )
    };
    let expired = || Answer::Plain(401, "text/html", "Invalid IAP credentials".to_owned());
    let others = vec![
        Answer::Stream(vec![event(1, "execution", &execution("running"))]),
        expired(),
        redirect(),
        Answer::Stream(vec![event(2, "end", &execution("succeeded"))]),
    ];
    let scene = Scene::play(HOST, vec![redirect(), accepted()], others).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser.click("part('start')").await;
    browser.until("state === 'refused'").await;
    let link = "[part('sign-in').textContent, part('sign-in').href]";
    assert_eq!(
        browser.value(link).await,
        json!(["Sign in again", scene.url])
    );
    browser.click("part('start')").await;
    browser
        .until("part('sign-in') && state === 'running'")
        .await;
    let seen = scene.seen();
    assert_eq!(seen.len(), 4);
    assert_eq!(seen[0].key, seen[1].key);
    assert!(
        seen.iter()
            .all(|request| request.requested_with.as_deref() == Some("XMLHttpRequest")),
        "{seen:?}"
    );
    tokio::time::sleep(std::time::Duration::from_secs(3)).await; // and nothing is tried meanwhile
    assert_eq!(scene.seen().len(), 4);
    browser.script("dispatchEvent(new Event('focus'))").await; // back from the other tab, in vain
    until_seen(&scene, 5).await;
    browser
        .until("part('sign-in') && state === 'running'")
        .await;
    browser.script("dispatchEvent(new Event('focus'))").await;
    browser
        .until("state === 'succeeded' && text('problem') === ''")
        .await;
}

#[tokio::test]
async fn one_outage_is_announced_once_and_counts_down() {
    let wait =
        |seconds: &str, answer| Answer::With("retry-after", seconds.to_owned(), Box::new(answer));
    let starts = vec![
        wait("4", problem(503, "draining", true)),
        wait("2", problem(429, "rate-limited", true)),
        accepted(),
    ];
    let scene = Scene::play(HOST, starts, vec![]).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser
        .script(
            "window.said = []; window.counted = new Set();
             new MutationObserver(() => said.push(text('words'))).observe(part('words'), { childList: true, characterData: true, subtree: true });
             new MutationObserver(() => counted.add(text('retry'))).observe(part('retry'), { childList: true, characterData: true, subtree: true })",
        )
        .await;
    browser.click("part('start')").await;
    browser.until("state === 'pending'").await;
    assert_eq!(
        browser.value("said.filter(Boolean)").await,
        json!(["This is draining."])
    );
    let counted = browser.value("[...counted].join(' ')").await.to_string();
    let says = |seconds: u32| counted.contains(&format!("in {seconds} s"));
    assert!(says(4) && (says(3) || says(2)), "it counts down: {counted}");
}

#[tokio::test]
async fn a_problem_is_shown_with_its_cure_and_request_id() {
    let body = json!({"type": "/problems/internal", "title": "It broke", "status": 500, "detail": "Tell the operator.", "retryable": false, "requestId": "abc-123"});
    let broken = Answer::Plain(500, "application/problem+json", body.to_string());
    let scene = Scene::play(HOST, vec![broken], vec![]).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser.click("part('start')").await;
    browser.until("state === 'refused'").await;
    assert_eq!(
        browser.value("text('words')").await,
        "It broke. Tell the operator."
    );
    assert_eq!(browser.value("text('request')").await, "Request abc-123");
}

#[tokio::test]
async fn a_busy_scope_offers_its_unfinished_execution() {
    let body = json!({"type": "/problems/scope-busy", "title": "Busy", "status": 409, "retryable": true, "execution": "/scopes/acme/executions/test-job-x7k2p"});
    let busy = Answer::Plain(409, "application/problem+json", body.to_string());
    let others = vec![Answer::Stream(vec![event(
        1,
        "end",
        &execution("succeeded"),
    )])];
    let scene = Scene::play(HOST, vec![busy], others).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser.click("part('start')").await;
    browser.until("part('follow')").await;
    browser.click("part('follow')").await;
    browser.until("state === 'succeeded'").await;
    assert_eq!(
        scene.seen()[1].path,
        "/scopes/acme/executions/test-job-x7k2p/events"
    );
}

#[tokio::test]
async fn progress_and_result_are_shown_and_announced() {
    let mut ended = execution("succeeded");
    ended["results"] = json!([{"task": 0, "value": {"url": "https://example.com/report", "evil": "javascript:alert(1)", "pages": 40}}]);
    let steps = |done| json!({"done": done, "total": 40, "message": format!("page {done}")});
    let others = vec![
        Answer::Silent(vec![
            event(1, "execution", &execution("running")),
            event(2, "progress", &steps(12)),
        ]),
        Answer::Stream(vec![
            event(3, "progress", &steps(40)),
            event(4, "end", &ended),
        ]),
    ];
    let scene = Scene::play(HOST, vec![accepted()], others).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser
        .script(
            "window.seen = []; for (const type of ['process-progress', 'process-ended'])
               element.addEventListener(type, ({ detail }) => seen.push([type, detail.done ?? detail.result.pages]))",
        )
        .await;
    browser.click("part('start')").await;
    browser
        .until("text('message') === '12 of 40 · page 12'")
        .await;
    assert_eq!(
        browser
            .value("[part('progress').value, part('progress').max]")
            .await,
        json!([12, 40])
    );
    browser.script("element.remove(); await new Promise((done) => setTimeout(done, 20)); document.body.append(element)").await;
    browser
        .until("state === 'succeeded' && text('result')")
        .await;
    assert_eq!(
        browser
            .value("[...part('result').querySelectorAll('a')].map((link) => link.href)")
            .await,
        json!(["https://example.com/report"])
    );
    assert!(
        browser
            .value("text('result')")
            .await
            .to_string()
            .contains("pages: 40")
    );
    assert_eq!(
        browser.value("seen").await,
        json!([
            ["process-progress", 12],
            ["process-progress", 40],
            ["process-ended", 40]
        ])
    );
}

#[tokio::test]
async fn a_log_that_misses_lines_is_read_once_more() {
    let line = |text: &str| json!({"time": "2026-01-01T00:00:01Z", "severity": "INFO", "task": 0, "text": text});
    let mut incomplete = execution("failed");
    incomplete["linesComplete"] = json!(false);
    let page = |lines: Vec<_>, next: Option<&str>| {
        let body = json!({"lines": lines, "nextPage": next});
        Answer::Plain(200, "application/json", body.to_string())
    };
    let others = vec![
        Answer::Stream(vec![
            event(1, "log", &line("first")),
            event(2, "end", &incomplete),
        ]),
        page(vec![line("first"), line("second")], Some("more")),
        page(vec![line("last words")], None),
    ];
    let scene = Scene::play(HOST, vec![accepted()], others).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser.click("part('start')").await;
    browser.until("text('lines').includes('last words')").await;
    assert_eq!(browser.value("part('lines').childElementCount").await, 3);
    assert_eq!(
        scene.seen()[3].path,
        "/scopes/acme/executions/test-job-x7k2p/logs?page=more"
    );
}

#[tokio::test]
async fn the_log_looks_as_in_a_terminal_and_can_be_searched() {
    let line = |severity: &str, task: u32, text: &str| json!({"time": "2026-01-01T00:00:01Z", "severity": severity, "task": task, "text": text});
    let mut pieces: Vec<_> = [
        line("INFO", 0, "\u{1b}[32mINFO\u{1b}[0m \u{1b}[1;31mbold\u{1b}[22m red\u{1b}[0m \u{1b}[38;5;208morange\u{1b}[0m"),
        line("INFO", 0, "10%\r20%\r100%\r"),
        line("INFO", 0, "  \n"),
        line("INFO", 1, "\u{1b}]8;;https://example.com\u{1b}\\link\u{1b}]8;;\u{1b}\\ \u{202e}gnp.exe"),
        line("CRITICAL", 1, "<b>not</b> HTML"),
    ]
    .iter()
    .enumerate()
    .map(|(at, line)| event(u32::try_from(at).unwrap(), "log", line))
    .collect();
    pieces.push(event(9, "end", &execution("failed")));
    let scene = Scene::play(HOST, vec![accepted()], vec![Answer::Stream(pieces)]).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser.click("part('start')").await;
    browser.until("state === 'failed'").await;
    let texts =
        "[...part('lines').querySelectorAll('[part=text]')].map((text) => text.textContent)";
    assert_eq!(
        browser.value(texts).await,
        json!([
            "INFO bold red orange",
            "100%",
            "link \\u202egnp.exe",
            "<b>not</b> HTML"
        ])
    );
    let styles = "[...part('lines').querySelectorAll('[part=text] span')].map((span) => `${span.part}: ${span.textContent}`)";
    assert_eq!(
        browser.value(styles).await,
        json!(["green: INFO", "bold red: bold", "red:  red"])
    );
    let shown = "[...part('lines').children].filter((line) => !line.hidden).length";
    browser.script("part('search').focus()").await;
    browser.keys("BOLD").await;
    browser.until("text('count') === '1 of 4 lines'").await;
    assert_eq!(browser.value(shown).await, 1);
    assert_eq!(
        browser
            .value("CSS.highlights.get('process-log-found').size")
            .await,
        1
    );
    browser
        .script("const search = part('search'); search.value = ''; search.dispatchEvent(new Event('input'));
                 const tasks = part('tasks'); tasks.value = '1'; tasks.dispatchEvent(new Event('change'))")
        .await;
    browser.until("text('count') === '2 of 4 lines'").await;
    browser.click("part('times')").await;
    assert_eq!(browser.value("part('times').ariaPressed").await, "false");
    assert_eq!(
        browser
            .value("getComputedStyle(part('lines').querySelector('time')).display")
            .await,
        "none"
    );
}

#[tokio::test]
async fn the_element_says_where_older_lines_are() {
    let lines: String = (0..5002)
        .map(|at| {
            event(
                at,
                "log",
                &json!({"time": "2026-01-01T00:00:01Z", "text": format!("line {at}")}),
            )
        })
        .collect();
    let mut ended = execution("succeeded");
    ended["logUri"] = json!("https://console.cloud.google.com/logs");
    let others = vec![Answer::Stream(vec![lines, event(9999, "end", &ended)])];
    let scene = Scene::play(HOST, vec![accepted()], others).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser.click("part('start')").await;
    browser.until("state === 'succeeded'").await;
    assert_eq!(
        browser.value("[part('lines').childElementCount, part('older').hidden, text('older'), part('older').firstChild.href]").await,
        json!([5000, false, "Older lines are in Cloud Logging", "https://console.cloud.google.com/logs"])
    );
}

#[tokio::test]
async fn a_number_of_a_text_is_sent_with_every_digit() {
    let long = r#"{"id":103547991597142817347,"text":"1"}"#;
    let html = HOST.replace(" log", &format!(" parameters='{long}'"));
    let scene = Scene::play(&html, vec![accepted()], vec![]).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    browser.click("part('start')").await;
    until_seen(&scene, 1).await;
    assert_eq!(scene.seen()[0].body, long);
    let scene = Scene::play(HOST, vec![accepted()], vec![]).await;
    let Some(browser) = watching(&scene).await else {
        return;
    };
    let set = format!("element.parameters = '{long}'; element.start()");
    browser.script(&set).await;
    until_seen(&scene, 1).await;
    assert_eq!(scene.seen()[0].body, long);
}
