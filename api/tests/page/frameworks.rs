//! The button in pages made with common frameworks, bundled by their usual tools.

use std::path::PathBuf;

use serde_json::json;

use crate::browser::Browser;
use crate::node;
use crate::scripted::Scene;
use crate::world::World;

/// A page made with the framework starts, follows and cancels. Its bindings work even if the button loads later.
async fn works_in(framework: &str) {
    let Some(folder) = node::folder() else {
        return;
    };
    let Some(browser) = Browser::start().await else {
        return;
    };
    let built = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("built-{framework}"));
    let target = built.to_str().unwrap();
    node::run(&folder, "node", &["build.mjs", framework, target]);
    let bundle = std::fs::read_to_string(built.join(format!("{framework}.js"))).unwrap();

    let home = Scene::play("", vec![], vec![]).await;
    home.serve_bundle(&bundle);
    let origin = home.url.trim_end_matches('/').to_owned();
    let world = World::with(|config| config.cors.origins = vec![origin]).await;
    let button = format!(
        "<script type=module src='{}'></script>",
        world.url("/button.js")
    );
    let page = "<!doctype html><meta charset=utf-8><div id=app></div>";
    let app = "<script type=module src=bundle.js></script>";

    let mut orders = vec![format!("{button}{app}")];
    if framework != "svelte" {
        orders.push(format!("{app}{button}")); // Svelte makes text of a function for an element that it does not know
    }
    for scripts in orders {
        browser.open(&home.show(&format!("{page}{scripts}"))).await;
        browser.until("state === 'idle'").await;
        let bound = "[element.scope, element.label, element.log, element.getAttribute('if-running'), element.parameters, typeof element.getToken]";
        assert_eq!(
            browser.value(bound).await,
            json!(["acme", "Import", true, "join", {"mode": "full", "seconds": 60}, "function"]),
            "{scripts}"
        );
    }
    browser.click("part('start')").await;
    browser
        .until("state === 'running' && text('lines').includes('MODE = full')")
        .await;
    browser.click("document.getElementById('quiet')").await;
    browser.until("element.log === false").await;
    assert_eq!(
        browser.value("part('log-panel').hidden").await,
        true,
        "log={{false}} shows no log"
    );
    browser.click("part('cancel')").await;
    browser.until("state === 'cancelled'").await;
    browser
        .until("document.querySelector('output').textContent === 'cancelled'")
        .await;
    assert_eq!(world.started(), 1);
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_button_works_in_react() {
    works_in("react").await;
}

#[tokio::test]
async fn the_button_works_in_vue() {
    works_in("vue").await;
}

#[tokio::test]
async fn the_button_works_in_svelte() {
    works_in("svelte").await;
}

#[tokio::test]
async fn the_button_works_in_angular() {
    works_in("angular").await;
}

#[test]
fn the_types_of_the_button_fit_each_framework_and_plain_typescript() {
    if let Some(folder) = node::folder() {
        node::run(&folder, "npm", &["run", "--silent", "types"]);
    }
}
