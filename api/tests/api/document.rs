//! The OpenAPI document, and `GET /problems/{slug}`.

use std::collections::BTreeSet;

use api::config::{AuthMode, Preset};
use api::http::problem::Kind;
use emulator::{Emulator, Job, Settings};
use serde_json::{Value, json};

use crate::helpers::{JOB, TestApp, instant_job, json, link, problem};

async fn document(app: &TestApp) -> Value {
    json(app.get("/openapi.json")).await
}

/// Every path with every method of the document.
fn operations(document: &Value) -> impl Iterator<Item = (&String, &String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap();
        methods
            .iter()
            .map(move |(method, operation)| (path, method, operation))
    })
}

#[tokio::test]
async fn every_documented_operation_is_routed_with_that_method_and_no_other() {
    let reports = r#"echo '{"processResult":"done"}'"#;
    let app = TestApp::with(Job::new(JOB, ["sh", "-c", reports]), |_| {}).await;
    let execution = app.start("acme").await;
    app.until(&execution, "succeeded").await;
    let name = execution["name"].as_str().unwrap();
    let document = document(&app).await;
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 9, "{:?}", paths.keys());
    for (path, method, _) in operations(&document) {
        let real = path
            .replace("{scope}", "acme")
            .replace("{name}", name)
            .replace("{slug}", "internal");
        let response = app
            .http
            .request(
                method.to_uppercase().parse().unwrap(),
                format!("{}{real}", app.url),
            )
            .send()
            .await
            .unwrap();
        assert!(
            response.status().is_success(),
            "{method} {path}: {response:?}"
        );
    }
    for path in paths.keys() {
        let real = path.replace("{scope}", "acme").replace("{name}", name);
        let response = app
            .http
            .delete(format!("{}{real}", app.url))
            .send()
            .await
            .unwrap();
        let allow = response.headers()["allow"].to_str().unwrap();
        let allowed: BTreeSet<_> = allow
            .split(',')
            .map(|method| method.trim().to_lowercase())
            .filter(|method| method != "head")
            .collect();
        let documented: BTreeSet<_> = paths[path].as_object().unwrap().keys().cloned().collect();
        assert_eq!(allowed, documented, "{path}");
    }
}

#[tokio::test]
async fn the_links_of_an_execution_are_documented() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let execution = app.start("acme").await;
    let document = document(&app).await;
    let name = execution["name"].as_str().unwrap();
    for (relation, method) in [("self", "get"), ("logs", "get"), ("cancel", "post")] {
        let template = link(&execution, relation)
            .replace("acme", "{scope}")
            .replace(name, "{name}");
        assert!(
            document["paths"][&template][method].is_object(),
            "{template}"
        );
    }
}

#[tokio::test]
async fn real_answers_match_their_schemas() {
    let app = TestApp::spawn().await;
    let started = app.start("acme").await;
    let ended = app.until(&started, "succeeded").await;
    let list = json(app.get("/scopes/acme/executions")).await;
    let logs = json(app.get(link(&started, "logs"))).await;
    let refused = app.get("/scopes/acme/executions/x").send().await.unwrap();
    let refused = problem(refused, "execution-not-found").await;
    let document = document(&app).await;
    let answers = [
        ("Execution", &started),
        ("Execution", &ended),
        ("Executions", &list),
        ("Lines", &logs),
        ("Problem", &refused),
    ];
    for (name, answer) in answers {
        let mut schema = json!({ "$ref": format!("#/components/schemas/{name}") });
        schema["components"] = strict(document["components"].clone());
        if let Err(error) = jsonschema::validate(&schema, answer) {
            panic!("{name}: {error} in {answer}");
        }
    }
}

/// The same schemas, but without additional properties.
fn strict(mut components: Value) -> Value {
    for schema in components["schemas"].as_object_mut().unwrap().values_mut() {
        if schema["type"] == "object" {
            schema["additionalProperties"] = false.into();
        }
    }
    components
}

#[tokio::test]
async fn the_schema_of_the_body_has_the_declared_parameters() {
    let declared = json!({
        "document": { "type": "string", "pattern": "^[a-z]+$", "examples": ["a"], "required": true },
        "limit": { "type": "integer", "minimum": 1, "default": 100 },
    });
    let app = TestApp::with(instant_job(), |config| {
        config.parameters = declared.as_object().unwrap().clone();
        config.overrides.args = vec!["{document}".to_owned(), "{limit}".to_owned()];
    })
    .await;
    let document = document(&app).await;
    let parameters = &document["components"]["schemas"]["Parameters"];
    assert_eq!(parameters["required"], json!(["document"]));
    assert_eq!(parameters["additionalProperties"], false);
    assert_eq!(parameters["properties"]["limit"], declared["limit"]);
    let body = &document["paths"]["/scopes/{scope}/process"]["post"]["requestBody"];
    assert_eq!(body["required"], true);
    let content = &body["content"]["application/json"];
    assert_eq!(content["schema"]["$ref"], "#/components/schemas/Parameters");
    let example = &content["example"];
    assert_eq!(*example, json!({ "document": "a", "limit": 100 }));
    let response = app.post("/scopes/acme/process").json(example).send().await;
    assert_eq!(response.unwrap().status(), 202);
}

#[tokio::test]
async fn every_problem_is_documented_and_explains_itself() {
    let app = TestApp::with(instant_job(), |_| {}).await;
    let document = document(&app).await;
    let types: BTreeSet<_> = operations(&document)
        .flat_map(|(_, _, operation)| operation["responses"].as_object().unwrap().values())
        .filter_map(|response| {
            response["content"]["application/problem+json"]["examples"].as_object()
        })
        .flat_map(|examples| examples.keys())
        .collect();
    for kind in Kind::ALL {
        // The document lists the allowed methods, and so cannot describe the refusal of other methods.
        let has_a_place = *kind != Kind::MethodNotAllowed;
        assert_eq!(
            types.contains(&kind.slug().to_owned()),
            has_a_place,
            "{kind:?}"
        );
        let response = app
            .get(&format!("/problems/{}", kind.slug()))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(
            response.headers()["content-type"],
            "text/plain; charset=utf-8"
        );
        let text = response.text().await.unwrap();
        for part in [kind.title(), kind.slug(), kind.why(), kind.cure()] {
            assert!(text.contains(part), "{text}");
        }
    }
    for slug in ["nonsense", "INTERNAL", "%ff", "internal%2f"] {
        let response = app.get(&format!("/problems/{slug}")).send().await.unwrap();
        problem(response, "not-found").await;
    }
}

#[tokio::test]
async fn the_documented_credentials_follow_the_mode() {
    let google = Some((Preset::Google, "https://svc.example"));
    let iap = Some((Preset::Iap, "/projects/1/locations/us-east4/services/svc"));
    let cases = [
        (AuthMode::Public, None, Value::Null),
        (AuthMode::Iam, None, json!("http")),
        (AuthMode::Jwt, google, json!("http")),
        (AuthMode::Jwt, iap, json!("apiKey")),
    ];
    for (mode, provider, kind) in cases {
        let app = TestApp::with(instant_job(), |config| {
            config.auth.mode = Some(mode);
            if let Some((preset, audience)) = provider {
                config.auth.jwt.preset = Some(preset);
                config.auth.jwt.audience = Some(audience.to_owned());
                config.auth.scope_claim = Some("scopes".to_owned());
            }
        })
        .await;
        let document = document(&app).await;
        let scheme = &document["components"]["securitySchemes"]["caller"];
        assert_eq!(scheme["type"], kind, "{mode:?} {provider:?}");
        for (path, method, operation) in operations(&document) {
            let needed = !kind.is_null() && path.starts_with("/scopes/");
            let documented = operation["security"] == json!([{ "caller": [] }]);
            assert_eq!(documented, needed, "{mode:?}: {method} {path}");
            let unauthenticated = &operation["responses"]["401"]["headers"]["WWW-Authenticate"];
            assert_eq!(
                unauthenticated.is_object(),
                path.starts_with("/scopes/"),
                "{path}"
            );
        }
        if provider == iap {
            assert_eq!(scheme["name"], "x-goog-iap-jwt-assertion");
        }
    }
}

#[tokio::test]
async fn the_document_is_served_without_any_upstream() {
    let app = TestApp::on(
        Emulator::start(Settings::default()).await.unwrap(),
        |config| config.platform.metadata_host = "127.0.0.1:1".to_owned(),
    )
    .await;
    let document = document(&app).await;
    assert_eq!(document["openapi"], "3.1.0");
}
