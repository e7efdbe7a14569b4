//! `GET /`: what somebody sees who opens the service in a browser.

use crate::browser::Browser;
use crate::scripted::{Answer, Scene, problem};
use crate::world::World;

/// The browser showing the page for the scope `acme`; nothing where no browser is installed.
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
async fn what_does_not_fit_is_said_at_its_field_and_starts_nothing() {
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
async fn a_refusal_is_shown_in_the_words_of_the_service() {
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
async fn each_scope_shows_its_own_run() {
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
    // And there is one: what an injection would try is refused.
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
async fn it_is_pleasant_to_look_at() {
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
async fn a_service_that_asks_who_you_are_is_given_a_token() {
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
