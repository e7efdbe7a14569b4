//! `GET /`: the page in a browser.

use serde_json::json;

use crate::browser::Browser;
use crate::scripted::{Answer, Scene, problem};
use crate::world::{World, object};

/// A browser with the page for the scope `acme`. None if no browser is installed.
async fn opened(world: &World) -> Option<Browser> {
    let browser = Browser::start().await?;
    browser.open(&world.url("/?scope=acme")).await;
    browser.until("element && state === 'idle'").await;
    browser
        .until("document.querySelector('#parameters [name=seconds]')")
        .await;
    Some(browser)
}

#[tokio::test]
async fn a_run_is_seen_from_its_start_to_its_success() {
    let world = World::start().await;
    let Some(browser) = opened(&world).await else {
        return;
    };
    browser.fill("[name=seconds]", "6").await;
    browser.click("part('start')").await;
    browser
        .until("state === 'running' && text('elapsed') >= '0:01'")
        .await;
    browser
        .until("state === 'running' && text('lines').includes('working: 1 of 6 s')")
        .await;
    browser.until("state === 'succeeded'").await;
    let log = browser.value("text('lines')").await.to_string();
    assert!(
        log.contains("SCOPE = acme")
            && log.contains("ARG: --scope=acme")
            && log.contains("MODE = quick"),
        "{log}"
    );
    browser
        .until("document.querySelector('#history tr[aria-current] .succeeded')")
        .await;
    assert_eq!(browser.value("part('progress').value").await, 1);
    assert_eq!(browser.value("part('start').ariaDisabled").await, "false");
    assert_eq!(world.started(), 1);
    browser.screenshot("succeeded").await;
}

#[tokio::test]
async fn a_failure_says_its_reason() {
    let world = World::start().await;
    let Some(browser) = opened(&world).await else {
        return;
    };
    browser.fill("[name=fail_with]", "3").await;
    browser.click("part('start')").await;
    browser.until("state === 'failed'").await;
    let words = browser.value("text('status')").await.to_string();
    assert!(words.contains("exit"), "{words}");
    browser
        .until("document.querySelector('#history .failed')")
        .await;
    browser.screenshot("failed").await;
}

#[tokio::test]
async fn a_run_can_be_cancelled() {
    let world = World::start().await;
    let Some(browser) = opened(&world).await else {
        return;
    };
    browser.fill("[name=seconds]", "60").await;
    browser.click("part('start')").await;
    browser.until("state === 'running'").await;
    browser.click("part('cancel')").await;
    browser
        .until("text('cancel') === 'Cancelling…' || state === 'cancelled'")
        .await;
    browser
        .until("state === 'cancelled' && part('cancel').hidden")
        .await;
    assert_eq!(browser.value("text('status')").await, "Cancelled");
}

#[tokio::test]
async fn an_invalid_value_is_reported_at_its_field_and_starts_nothing() {
    let world = World::start().await;
    let Some(browser) = opened(&world).await else {
        return;
    };
    browser.fill("[name=seconds]", "601").await;
    browser.click("part('start')").await;
    browser
        .until("document.getElementById('wrong-seconds').textContent.includes('600')")
        .await;
    assert_eq!(
        browser.value("document.activeElement.name").await,
        "seconds"
    );
    assert_eq!(browser.value("state").await, "idle");
    assert_eq!(world.started(), 0);
}

#[tokio::test]
async fn a_refusal_is_shown_with_the_services_text() {
    let world = World::start().await;
    let Some(browser) = opened(&world).await else {
        return;
    };
    browser.script("element.parameters = { seconds: 'many' }; document.getElementById('parameters').replaceChildren();
        element.addEventListener('process-starting', () => { element.parameters = { seconds: 'many' }; })").await;
    browser.click("part('start')").await;
    browser.until("state === 'refused'").await;
    let words = browser.value("text('problem')").await.to_string();
    assert!(words.contains("seconds"), "{words}");
    assert_eq!(world.started(), 0);
}

#[tokio::test]
async fn former_runs_are_listed_and_opened_again() {
    let world = World::start().await;
    let Some(browser) = opened(&world).await else {
        return;
    };
    for mode in ["full", "quick"] {
        browser
            .script(&format!(
                "document.querySelector('[name=mode]').value = '\"{mode}\"'"
            ))
            .await;
        browser.click("part('start')").await;
        browser
            .until(&format!(
                "state === 'succeeded' && text('lines').includes('MODE = {mode}')"
            ))
            .await;
    }
    browser.reload().await;
    browser
        .until("state === 'succeeded' && document.querySelectorAll('#history .succeeded').length === 2")
        .await;
    browser
        .click("document.querySelectorAll('#history tbody a')[1]")
        .await;
    browser
        .until("text('lines').includes('MODE = full') && state === 'succeeded'")
        .await;
    let shared = browser.value("location.href").await;
    browser.open(shared.as_str().unwrap()).await;
    browser.until("text('lines').includes('MODE = full')").await;
    assert_eq!(world.started(), 2);
}

#[tokio::test]
async fn each_scope_shows_its_run() {
    let world = World::start().await;
    let Some(browser) = opened(&world).await else {
        return;
    };
    browser.fill("[name=seconds]", "60").await;
    browser.click("part('start')").await;
    browser.until("state === 'running'").await;
    browser.fill("#scope", "globex\u{E007}").await;
    browser
        .until("element.getAttribute('scope') === 'globex' && state === 'idle'")
        .await;
    browser
        .until("!document.getElementById('none').hidden")
        .await;
    browser.fill("#scope", "acme\u{E007}").await;
    browser.until("state === 'running'").await;
    browser.fill("#scope", "no/scope\u{E007}").await;
    browser.until("element.hidden").await;
}

#[tokio::test]
async fn nothing_breaks_the_content_security_policy() {
    let world = World::start().await;
    let Some(browser) = opened(&world).await else {
        return;
    };
    browser.click("part('start')").await;
    browser.until("state === 'succeeded'").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    // The policy exists: it refuses what an injection would try.
    browser.script("document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.hacked = 1' }))").await;
    assert_eq!(browser.value("window.hacked ?? 'safe'").await, "safe");
    let complaints = browser.complaints().await;
    assert!(
        complaints
            .iter()
            .any(|line| line.contains("Content Security Policy")),
        "{complaints:?}"
    );
}

#[tokio::test]
async fn the_page_looks_right_in_pictures() {
    let world = World::start().await;
    let Some(browser) = opened(&world).await else {
        return;
    };
    browser.fill("[name=seconds]", "20").await;
    browser.click("part('start')").await;
    browser
        .until("text('lines').includes('working: 1 of')")
        .await;
    for (width, height) in [(1280, 900), (390, 844)] {
        for scheme in ["light", "dark"] {
            browser.look(width, height, scheme).await;
            let overflow = browser
                .value("document.documentElement.scrollWidth - window.innerWidth")
                .await;
            assert!(
                overflow.as_i64().unwrap() <= 0,
                "{width} wide, it scrolls sideways"
            );
            browser
                .screenshot(&format!("running-{width}-{scheme}"))
                .await;
        }
    }
}

#[tokio::test]
async fn a_token_can_be_entered_for_a_service_that_needs_one() {
    let json = |body: &str| Answer::Plain(200, "application/json", body.to_owned());
    let answers = vec![
        problem(401, "unauthenticated", false),
        problem(401, "unauthenticated", false),
        json("{}"),
        json(r#"{"executions": []}"#),
    ];
    let scene = Scene::play(api::web::PAGE_HTML, vec![], answers).await;
    let Some(browser) = Browser::start().await else {
        return;
    };
    browser.open(&format!("{}?scope=acme", scene.url)).await;
    browser
        .until("!document.getElementById('sign-in').hidden")
        .await;
    browser
        .until(
            "document.getElementById('history-problem').textContent === 'This is unauthenticated.'",
        )
        .await;
    browser.fill("#token", "secret\u{E004}").await;
    browser.until("!document.getElementById('none').hidden && document.getElementById('history-problem').textContent === ''").await;
    let tokens: Vec<_> = scene
        .seen()
        .into_iter()
        .map(|request| request.authorization)
        .collect();
    let bearer = Some("Bearer secret".to_owned());
    assert_eq!(tokens, [None, None, bearer.clone(), bearer]);
}

#[tokio::test]
async fn enter_in_the_token_field_applies_the_token_and_starts_nothing() {
    let scene = Scene::play(api::web::PAGE_HTML, vec![], vec![]).await;
    let Some(browser) = Browser::start().await else {
        return;
    };
    browser.open(&format!("{}?scope=acme", scene.url)).await;
    browser.until("element && state === 'idle'").await;
    browser
        .script("element.token = 'old'; document.getElementById('sign-in').hidden = false")
        .await;
    let before = scene.seen().len();
    browser.fill("#token", "new\u{E007}").await;
    browser.until("element.token === 'new'").await;
    browser
        .until(&format!(
            "performance.getEntriesByType('resource').filter(({{ name }}) => /openapi|executions/.test(name)).length > {before}"
        ))
        .await;
    let seen = scene.seen();
    assert!(
        seen.iter()
            .all(|request| !request.path.contains("/process")),
        "{seen:?}"
    );
    assert_eq!(seen[before].authorization.as_deref(), Some("Bearer new"));
}

#[tokio::test]
async fn without_the_form_nothing_is_started() {
    let scene = Scene::play(api::web::PAGE_HTML, vec![], vec![]).await;
    let Some(browser) = Browser::start().await else {
        return;
    };
    browser.open(&format!("{}?scope=acme", scene.url)).await;
    browser
        .until("!document.getElementById('form-problem').hidden")
        .await;
    browser.click("part('start')").await;
    browser
        .until("document.activeElement.id === 'draw-again'")
        .await;
    assert_eq!(browser.value("state").await, "idle");
    let posts = |scene: &Scene| {
        let seen = scene.seen().into_iter();
        seen.filter(|request| request.path.contains("/process"))
            .count()
    };
    assert_eq!(posts(&scene), 0);
    assert_eq!(
        browser
            .value("[document.getElementById('none').hidden, document.getElementById('history-problem').textContent]")
            .await,
        serde_json::json!([true, "This is draining."]),
        "that nothing has run is not known"
    );
}

#[tokio::test]
async fn a_scope_that_is_typed_is_asked_for_once() {
    let scene = Scene::play(api::web::PAGE_HTML, vec![], vec![]).await;
    let Some(browser) = Browser::start().await else {
        return;
    };
    browser.open(&scene.url).await;
    browser
        .until("!document.getElementById('form-problem').hidden && part('start').ariaDisabled === 'true'")
        .await;
    for key in [" ", "g", "l", "o", "b", "e", "x", "-", "e", "u", " "] {
        browser
            .script("document.getElementById('scope').focus()")
            .await;
        browser.keys(key).await;
        tokio::time::sleep(std::time::Duration::from_millis(120)).await; // as a person types
    }
    browser.keys("\u{E007}").await;
    browser
        .until("element.scope === 'globex-eu' && document.getElementById('history-problem').textContent")
        .await;
    let lists: Vec<_> = scene
        .seen()
        .into_iter()
        .map(|request| request.path)
        .filter(|path| path.contains("executions"))
        .collect();
    assert_eq!(lists, ["/scopes/globex-eu/executions"]);
    browser.fill("#scope", "no/scope\u{E007}").await;
    browser
        .until("document.getElementById('wrong-scope').textContent.includes('1 to 63')")
        .await;
}

#[tokio::test]
async fn a_list_that_is_loading_is_not_shown_as_empty() {
    let world = World::start().await;
    let slow = emulator::Fault::Delay { ms: 1500 };
    let first = emulator::Rule {
        first: Some(1),
        ..emulator::Rule::new(emulator::Operation::List, slow)
    };
    world.emulator.faults().add(first);
    let Some(browser) = Browser::start().await else {
        return;
    };
    browser.open(&world.url("/?scope=acme")).await;
    browser
        .until("element && !document.getElementById('loading').hidden && document.getElementById('none').hidden")
        .await;
    browser
        .until("document.getElementById('loading').hidden")
        .await;
    let shown = "[document.getElementById('none').hidden, document.getElementById('history-problem').textContent]";
    assert_eq!(browser.value(shown).await, serde_json::json!([false, ""]));
}

#[tokio::test]
async fn runs_from_elsewhere_appear_and_back_leads_back() {
    let world = World::start().await;
    let Some(browser) = opened(&world).await else {
        return;
    };
    let rows = "document.querySelectorAll('#history tbody tr').length";
    let http = api::gcp::http_client::HttpClients::new().unwrap().reqwest;
    let start = || http.post(world.url("/scopes/acme/process")).send();
    assert_eq!(start().await.unwrap().status(), 202);
    browser.until(&format!("{rows} === 1")).await; // without any input
    assert_eq!(start().await.unwrap().status(), 202);
    browser.until(&format!("{rows} === 2")).await;
    let name = |row: u32| format!("document.querySelectorAll('#history tbody a')[{row}]");
    let names = [
        browser.value(&format!("{}.textContent", name(0))).await,
        browser.value(&format!("{}.textContent", name(1))).await,
    ];
    for row in [0, 1] {
        browser.click(&name(row)).await;
        browser
            .until(&format!("element.execution?.name === {} && location.search.includes(element.execution.name)", names[row as usize]))
            .await;
    }
    browser.script("history.back()").await;
    browser
        .until(&format!("element.execution?.name === {}", names[0]))
        .await;
    browser.script("history.back()").await;
    browser
        .until("state === 'idle' && !location.search.includes('execution')")
        .await;
}

#[tokio::test]
async fn a_run_is_started_again_with_its_own_parameters() {
    let world = World::start().await;
    let Some(browser) = opened(&world).await else {
        return;
    };
    browser
        .script("document.querySelector('[name=mode]').value = '\"full\"'; document.querySelector('[name=mode]').dispatchEvent(new Event('input', { bubbles: true }))")
        .await;
    browser.click("part('start')").await;
    browser
        .until("state === 'succeeded' && text('lines').includes('MODE = full') && document.title.startsWith('✓ acme')")
        .await;
    let first = browser.value("element.execution.name").await;
    browser.reload().await;
    browser
        .until("document.querySelector('[name=mode]')?.value === '\"full\"'")
        .await; // what was typed survives
    browser
        .script("document.querySelector('[name=mode]').value = '\"quick\"'")
        .await;
    browser
        .until("document.querySelector('#history .again')")
        .await;
    browser
        .click("document.querySelector('#history .again')")
        .await;
    browser
        .until(&format!("element.execution && element.execution.name !== {first} && state === 'succeeded' && text('lines').includes('MODE = full')"))
        .await;
    browser.click("document.getElementById('again')").await;
    world.until_started(3).await;
}

#[tokio::test]
async fn a_run_is_started_again_with_values_that_a_form_cannot_hold() {
    let world = World::with(|config| {
        config.parameters = object(
            json!({ "text": { "type": "string", "default": "-" }, "id": { "type": "integer" } }),
        );
        config.overrides.env = object(json!({ "MODE": "<{text}>", "ID": "{id}" }));
    })
    .await;
    let Some(browser) = Browser::start().await else {
        return;
    };
    browser.open(&world.url("/?scope=acme")).await;
    let start = |body: &str| {
        format!(
            "await fetch('scopes/acme/process', {{ method: 'POST', headers: {{ 'content-type': 'application/json' }}, body: '{body}' }})"
        )
    };
    browser.script(&start(r#"{"text": ""}"#)).await;
    browser.reload().await;
    let again = "document.querySelector('#history .again')";
    browser.until(again).await;
    browser.click(again).await;
    browser
        .until("state === 'succeeded' && text('lines').includes('MODE = <>')")
        .await;
    // A number that a browser rounds is neither sent nor offered again.
    browser.fill("[name=id]", "9007199254740993").await;
    browser.click("part('start')").await;
    browser
        .until("document.getElementById('wrong-id').textContent.includes('round')")
        .await;
    world.until_started(2).await;
    browser.script(&start(r#"{"id": 9007199254740993}"#)).await;
    browser.reload().await;
    browser
        .until("document.querySelectorAll('#history tbody tr').length === 3 && document.querySelectorAll('#history .again').length === 2 && !document.querySelector('#history tbody tr .state.running, #history tbody tr .state.pending')")
        .await;
    assert_eq!(world.started(), 3);
}

#[tokio::test]
async fn a_fault_that_the_service_reports_is_shown_at_its_field() {
    let world = World::start().await;
    let Some(browser) = opened(&world).await else {
        return;
    };
    browser
        .script(
            "const body = JSON.stringify({ title: 'Not valid', status: 422, detail: 'See errors.', retryable: false,
               errors: [{ pointer: '#/seconds', detail: 'Must be a prime number.' }] });
             const { fetch } = window;
             window.fetch = async (url, init) => init?.method === 'POST'
               ? new Response(body, { status: 422, headers: { 'content-type': 'application/problem+json' } }) : fetch(url, init)",
        )
        .await;
    browser.click("part('start')").await;
    browser
        .until("document.getElementById('wrong-seconds').textContent === 'Must be a prime number.'")
        .await;
    assert_eq!(
        browser.value("document.activeElement.name").await,
        "seconds"
    );
}

#[tokio::test]
async fn a_field_follows_its_schema() {
    let world = World::with(|config| {
        let declared = serde_json::json!({
            "since": {"type": "string", "format": "date-time", "title": "Since when"},
            "sku": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$", "examples": ["ABC-1234"]},
            "note": {"type": "string", "maxLength": 2000},
        });
        config.overrides.env = serde_json::from_value(
            serde_json::json!({"SINCE": "{since}", "SKU": "{sku}", "NOTE": "{note}"}),
        )
        .unwrap();
        config.parameters = serde_json::from_value(declared).unwrap();
    })
    .await;
    let Some(browser) = Browser::start().await else {
        return;
    };
    browser.open(&world.url("/?scope=acme")).await;
    browser.until("document.querySelector('[name=sku]')").await;
    assert_eq!(
        browser.value("['since', 'sku', 'note'].map((name) => document.querySelector(`[name=${name}]`).type)").await,
        serde_json::json!(["datetime-local", "text", "textarea"])
    );
    browser.fill("[name=sku]", "x").await;
    browser.click("part('start')").await;
    browser
        .until("document.getElementById('wrong-sku').textContent.includes('ABC-1234')")
        .await;
    browser.fill("[name=sku]", "XYZ-0001").await;
    browser
        .script("document.querySelector('[name=since]').value = '2026-01-02T03:04:05'")
        .await;
    browser.click("part('start')").await;
    browser
        .until("state === 'succeeded' && text('lines').includes('SKU = XYZ-0001')")
        .await;
    let since = browser.value("text('lines').match(/SINCE = (.*?Z)/)[1] === new Date('2026-01-02T03:04:05').toISOString()").await;
    assert_eq!(since, true);
}

#[tokio::test]
async fn a_user_who_asks_for_it_is_notified_at_the_end() {
    let world = World::start().await;
    let Some(browser) = opened(&world).await else {
        return;
    };
    browser
        .script(
            "window.notices = []; window.Notification = class { constructor(title) { notices.push(title); }
               static permission = 'granted'; static async requestPermission() { return 'granted'; } }",
        )
        .await;
    browser.fill("[name=seconds]", "3").await;
    browser.click("part('start')").await;
    browser.until("state === 'running'").await;
    browser.click("document.getElementById('notify')").await;
    browser
        .until("document.getElementById('notify').ariaPressed === 'true'")
        .await;
    browser.until("notices.length").await;
    assert_eq!(
        browser.value("notices").await,
        serde_json::json!(["test-job for acme: succeeded"])
    );
}

#[tokio::test]
async fn a_second_start_shows_nothing_of_the_first() {
    let world = World::start().await;
    let Some(browser) = opened(&world).await else {
        return;
    };
    browser.click("part('start')").await;
    browser
        .until("state === 'succeeded' && location.search.includes('execution')")
        .await;
    let first = browser.value("location.href").await;
    let slow = emulator::Fault::Delay { ms: 3000 };
    world
        .emulator
        .faults()
        .add(emulator::Rule::new(emulator::Operation::Run, slow));
    browser.click("part('start')").await;
    browser.until("state === 'starting'").await;
    let shown = "[part('log-panel').hidden, document.getElementById('run').hidden, document.querySelector('tr[aria-current]'), location.search]";
    assert_eq!(
        browser.value(shown).await,
        serde_json::json!([true, true, null, "?scope=acme"])
    );
    browser
        .until("state === 'succeeded' && location.search.includes('execution')")
        .await;
    browser.script("history.back()").await;
    browser.until(&format!("location.href === {first}")).await;
}

#[tokio::test]
async fn a_process_is_chosen_and_remembered() {
    let world = World::with(|config| {
        let import = serde_json::json!({
            "parameters": {"document": {"type": "string", "required": true}},
            "overrides": {"env": {"DOCUMENT": "{document}"}},
        });
        let processes = serde_json::json!({ "import": import });
        config.processes = serde_json::from_value(processes).unwrap();
    })
    .await;
    let Some(browser) = opened(&world).await else {
        return;
    };
    browser
        .script("const which = document.getElementById('which'); which.value = 'import'; which.dispatchEvent(new Event('change'))")
        .await;
    browser
        .until("document.querySelector('[name=document]')")
        .await;
    browser.click("part('start')").await;
    browser
        .until("document.activeElement.name === 'document' && state === 'idle'")
        .await; // it is required
    browser.fill("[name=document]", "annual\u{E007}").await;
    browser
        .until("state === 'succeeded' && text('lines').includes('DOCUMENT = annual')")
        .await;
    assert_eq!(
        browser
            .value("[element.execution.process, document.getElementById('heading').textContent]")
            .await,
        serde_json::json!(["import", "import"])
    );
    browser.open(&world.url("/?scope=acme")).await;
    browser
        .until("document.querySelector('[name=document]')?.value === 'annual'")
        .await;
}

#[tokio::test]
async fn the_log_can_be_copied_and_downloaded_whole() {
    let world = World::start().await;
    let Some(browser) = opened(&world).await else {
        return;
    };
    browser.click("part('start')").await;
    browser
        .until("state === 'succeeded' && text('lines').includes('working: 1 of 1 s')")
        .await;
    browser
        .script(
            "window.taken = {}; URL.createObjectURL = (blob) => { blob.text().then((text) => { taken.saved = text }); return 'about:blank' };
             HTMLAnchorElement.prototype.click = function () { taken.name = this.download };
             navigator.clipboard.writeText = async (text) => { taken.copied = text };
             part('copy').click(); part('download').click()",
        )
        .await;
    browser
        .until("taken.saved && taken.copied && taken.name === `${element.execution.name}.log`")
        .await;
    for text in ["taken.saved", "taken.copied"] {
        let text = browser.value(text).await.to_string();
        assert!(
            text.contains("SCOPE = acme") && text.contains("working: 1 of 1 s"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn progress_and_result_of_a_job_are_shown() {
    let world = World::with(|config| {
        let env = serde_json::json!({"SLEEP_SECONDS": "{seconds}", "FAIL_WITH": "{fail_with}", "MODE": "{mode}", "PROGRESS": "1"});
        config.overrides.env = serde_json::from_value(env).unwrap();
    })
    .await;
    let Some(browser) = opened(&world).await else {
        return;
    };
    browser
        .script("element.addEventListener('process-ended', ({ detail }) => { window.result = detail.result })")
        .await;
    browser.fill("[name=seconds]", "6").await;
    browser.click("part('start')").await;
    browser
        .until("state === 'running' && /^[1-5] of 6 · working: [1-5] of 6 s$/.test(text('message')) && part('progress').max === 6")
        .await;
    browser
        .until("state === 'succeeded' && window.result")
        .await;
    assert_eq!(
        browser
            .value("[result, text('result'), part('progress').value, part('message').hidden]")
            .await,
        serde_json::json!([{"seconds": 6}, "Result: seconds: 6", 6, true])
    );
}
