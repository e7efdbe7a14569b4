//! `POST /scopes/{scope}/process/{process}`: several processes in one service.

use api::config::{Config, Process, ProcessOverrides};
use emulator::{Emulator, Job, Settings};
use serde_json::{Value, json};

use crate::helpers::{TestApp, link, problem};

/// The unnamed process, `import` with its own job and parameters, and `again` with the job of the unnamed process.
fn with_processes(config: &mut Config) {
    let parameters = json!({ "document": { "type": "string", "required": true } });
    let import = Process {
        job: Some("import-job".to_owned()),
        overrides: ProcessOverrides {
            args: Some(vec!["{document}".to_owned()]),
            ..ProcessOverrides::default()
        },
        parameters: parameters.as_object().cloned(),
        ..Process::default()
    };
    config.processes.insert("import".to_owned(), import);
    config
        .processes
        .insert("again".to_owned(), Process::default());
}

async fn app() -> TestApp {
    let instant = |name: &str| Job::new(name, Vec::<String>::new());
    let settings = Settings {
        jobs: vec![instant("test-job"), instant("import-job")],
        ..Settings::default()
    };
    TestApp::on(Emulator::start(settings).await.unwrap(), with_processes).await
}

async fn start(app: &TestApp, path: &str, body: Value) -> Value {
    let response = app.post(path).json(&body).send().await.unwrap();
    assert_eq!(response.status(), 202, "{path}");
    response.json().await.unwrap()
}

#[tokio::test]
async fn each_process_starts_its_own_job_with_its_own_overrides() {
    let app = app().await;
    let unnamed = start(&app, "/scopes/acme/process", json!({})).await;
    assert_eq!(unnamed["job"], "test-job");
    assert!(unnamed.get("process").is_none() && unnamed.get("parameters").is_none());

    let body = json!({ "document": "a" });
    let import = start(&app, "/scopes/acme/process/import", body.clone()).await;
    assert_eq!(import["job"], "import-job");
    assert_eq!(import["process"], "import");
    assert_eq!(import["parameters"], body);
    let executions = app.emulator.executions();
    let overrides = &executions.last().unwrap().overrides["containerOverrides"][0];
    assert_eq!(overrides["args"], json!(["a"]));
    let variable = |name: &str| {
        let all = overrides["env"].as_array().unwrap();
        let found = all.iter().find(|variable| variable["name"] == name);
        found.map(|variable| variable["value"].clone())
    };
    assert_eq!(variable("PROCESS"), Some("import".into()));
    assert_eq!(variable("PARAMETERS"), Some(r#"{"document":"a"}"#.into()));

    let again = start(&app, "/scopes/acme/process/again", json!({})).await;
    assert_eq!(
        (&again["job"], &again["process"]),
        (&json!("test-job"), &json!("again"))
    );
}

#[tokio::test]
async fn one_list_has_the_executions_of_all_processes() {
    let app = app().await;
    let body = json!({ "document": "a" });
    let mut names = vec![
        start(&app, "/scopes/acme/process", json!({})).await["name"].clone(),
        start(&app, "/scopes/acme/process/import", body).await["name"].clone(),
        start(&app, "/scopes/acme/process/again", json!({})).await["name"].clone(),
    ];
    names.reverse();
    let list: Value = app
        .get("/scopes/acme/executions")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let executions = list["executions"].as_array().unwrap();
    let listed: Vec<_> = executions.iter().map(|e| e["name"].clone()).collect();
    assert_eq!(listed, names);
    for (query, expected) in [
        ("process=import", &names[1..2]),
        ("process=", &names[2..]),
        ("process=again&state=failed", &[]),
    ] {
        let path = format!("/scopes/acme/executions?{query}");
        let list: Value = app.get(&path).send().await.unwrap().json().await.unwrap();
        let executions = list["executions"].as_array().unwrap();
        let listed: Vec<_> = executions.iter().map(|e| e["name"].clone()).collect();
        assert_eq!(listed, expected, "{query}");
    }
    let path = "/scopes/acme/executions?process=nope";
    problem(app.get(path).send().await.unwrap(), "process-not-found").await;
    let path = "/scopes/acme/executions?state=done";
    let refused = problem(app.get(path).send().await.unwrap(), "malformed-request").await;
    assert!(
        refused["detail"].as_str().unwrap().contains("succeeded"),
        "{refused}"
    );
    for execution in executions {
        let shown = app.get(link(execution, "self")).send().await.unwrap();
        assert_eq!(shown.status(), 200);
        app.until(execution, "succeeded").await;
        assert_eq!(
            app.get(link(execution, "logs"))
                .send()
                .await
                .unwrap()
                .status(),
            200
        );
    }
}

#[tokio::test]
async fn an_unknown_process_is_not_found_and_a_body_is_checked_by_its_processs_schema() {
    let app = app().await;
    for path in ["nope", "Import", "a%2Fb"] {
        let path = format!("/scopes/acme/process/{path}");
        problem(app.post(&path).send().await.unwrap(), "process-not-found").await;
    }
    let path = "/scopes/acme/process/import";
    let body = problem(app.post(path).send().await.unwrap(), "validation-failed").await;
    assert!(body["detail"].as_str().unwrap().contains("document"));
}

#[tokio::test]
async fn the_document_has_a_path_and_a_schema_for_each_process() {
    let app = app().await;
    let document: Value = app
        .get("/openapi.json")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let schema = |process: &str| {
        let path = format!("/scopes/{{scope}}/process{process}");
        let content = &document["paths"][&path]["post"]["requestBody"]["content"];
        let reference = content["application/json"]["schema"]["$ref"]
            .as_str()
            .unwrap();
        document.pointer(&reference[1..]).unwrap()["properties"].clone()
    };
    assert_eq!(schema(""), json!({}));
    assert_eq!(schema("/again"), json!({}));
    assert_eq!(
        schema("/import"),
        json!({ "document": { "type": "string" } })
    );
    let ids: std::collections::HashSet<_> = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|methods| methods.as_object().unwrap().values())
        .map(|operation| operation["operationId"].to_string())
        .collect();
    assert!(ids.contains("\"startExecution\"") && ids.contains("\"startExecution-import\""));
}
