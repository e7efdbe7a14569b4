//! The OpenAPI document. It is made from the same table as the router, so that every route has an entry.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::routing::{self, MethodRouter};
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::App;
use crate::http::problem::{Kind, Problem};
use crate::process::{Process, Processes};
use crate::{scope, starts};

/// The part of a path that names a process.
const NAMED: &str = "{process}";

/// Makes the schema of a type.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// One URL with one method: its handler and its description in the document.
pub struct Route {
    method: &'static str,
    path: &'static str,
    handler: MethodRouter<Arc<App>>,
    operation: &'static Operation,
}

/// The description of a route, besides its path.
pub struct Operation {
    /// Its name in generated clients.
    pub id: &'static str,
    /// Its group, one of [`TAGS`].
    pub tag: &'static str,
    /// Its description in a few words.
    pub summary: &'static str,
    /// Its description in a few sentences.
    pub description: &'static str,
    /// The fields of its query: a type that [`crate::http::extract::Fields`] reads.
    pub query: Option<SchemaOf>,
    /// The headers that it reads: keys of `components.parameters`.
    pub headers: &'static [&'static str],
    /// Whether its body has the declared parameters.
    pub takes_parameters: bool,
    /// Its successful answers.
    pub answers: &'static [Answer],
    /// The problems that it can answer with.
    pub problems: &'static [&'static [Kind]],
}

/// A successful answer.
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// When this is the answer.
    pub description: &'static str,
    /// Its media types and their schemas.
    pub contents: &'static [(&'static str, SchemaOf)],
    /// The headers it has besides those of every answer: keys of `components.headers`.
    pub headers: &'static [&'static str],
}

/// The groups of operations.
pub const TAGS: [(&str, &str); 2] = [
    (
        "executions",
        "Starting executions of the job for a scope, and following them.",
    ),
    ("service", "The service itself."),
];

impl Route {
    /// A route for GET, and with it for HEAD.
    pub fn get<H: Handler<T, Arc<App>>, T: 'static>(
        path: &'static str,
        handler: H,
        operation: &'static Operation,
    ) -> Self {
        Self {
            method: "get",
            path,
            handler: routing::get(handler),
            operation,
        }
    }

    /// A route for POST.
    pub fn post<H: Handler<T, Arc<App>>, T: 'static>(
        path: &'static str,
        handler: H,
        operation: &'static Operation,
    ) -> Self {
        Self {
            method: "post",
            path,
            handler: routing::post(handler),
            operation,
        }
    }

    /// The method, in lower case.
    pub fn method(&self) -> &'static str {
        self.method
    }

    /// The path, with the names of its parameters in braces.
    pub fn path(&self) -> &'static str {
        self.path
    }

    /// Adds the route to a router.
    pub fn add_to(self, router: Router<Arc<App>>) -> Router<Arc<App>> {
        router.route(self.path, self.handler)
    }

    /// The names in the path's braces.
    fn path_parameters(&self) -> impl Iterator<Item = &'static str> {
        self.path
            .split('/')
            .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
    }

    /// Whether callers need a permission, as for every route in a scope.
    fn is_guarded(&self) -> bool {
        self.path_parameters().any(|name| name == "scope")
    }
}

/// The document of these routes. `security_scheme` describes the callers' credentials, if they need any.
pub fn document(routes: &[Route], processes: &Processes, security_scheme: Option<Value>) -> Value {
    let mut schemas = SchemaSettings::draft2020_12()
        .for_serialize()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .with_transform(RecursiveTransform(without_null))
        .with_transform(RecursiveTransform(plain_enum))
        .into_generator();
    let problem = schemas.subschema_for::<crate::http::problem::Body<'_>>();
    let mut paths: Map<String, Value> = Map::new();
    let mut add = |path: &str, method: &str, operation: Value| {
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        methods[method] = operation;
    };
    for route in routes {
        let secured = security_scheme.is_some() && route.is_guarded();
        if !route.path.contains(NAMED) {
            let operation = operation(route, processes.unnamed(), secured, &problem, &mut schemas);
            add(route.path, route.method, operation);
            continue;
        }
        for process in processes.iter() {
            let Some(name) = &process.name else { continue };
            let path = route.path.replace(NAMED, name.as_str());
            let operation = operation(route, process, secured, &problem, &mut schemas);
            add(&path, route.method, operation);
        }
    }
    let mut components = components();
    components["examples"] = examples(routes);
    components["schemas"] = schemas.take_definitions(true).into();
    components["schemas"]["Problem"]["properties"]["type"]["enum"] = types(Kind::ALL);
    for process in processes.iter() {
        let mut schema = process.parameters.schema().clone();
        schema["description"] = "The parameters of a start, as the operator declared them.".into();
        components["schemas"][parameters_of(process)] = schema;
    }
    if let Some(scheme) = security_scheme {
        components["securitySchemes"] = json!({ "caller": scheme });
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Cloud Run job starter",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Starts a Cloud Run job for a scope, once, and follows it to its end.",
            "license": { "name": "MIT", "identifier": "MIT" },
            "contact": { "name": "The operator of this service" },
        },
        "servers": [{ "url": "/", "description": "Where this document is." }],
        "security": [],
        "tags": TAGS.map(|(name, description)| json!({ "name": name, "description": description })),
        "paths": paths,
        "components": components,
    })
}

fn operation(
    route: &Route,
    process: &Process,
    secured: bool,
    problem: &Schema,
    schemas: &mut SchemaGenerator,
) -> Value {
    let about = route.operation;
    let shared = route
        .path_parameters()
        .filter(|name| *name != "process") // each process has its own path
        .chain(about.headers.iter().copied())
        .map(|name| reference("parameters", name));
    let query = about.query.map(|query| query_fields(query, schemas));
    let mut responses = Map::new();
    for answer in about.answers {
        responses.insert(answer.status.to_string(), success(answer, schemas));
    }
    responses.extend(refusals(about.problems.concat(), problem));
    let mut operation = json!({
        "operationId": named(about.id, process, route),
        "tags": [about.tag],
        "summary": about.summary,
        "description": about.description,
        "parameters": shared.chain(query.unwrap_or_default()).collect::<Vec<_>>(),
        "responses": responses,
    });
    if about.takes_parameters {
        operation["requestBody"] = request_body(process);
    }
    if secured {
        operation["security"] = json!([{ "caller": [] }]);
    }
    operation
}

/// The id of an operation, which is different for each process.
fn named(id: &str, process: &Process, route: &Route) -> String {
    match &process.name {
        Some(name) if route.path.contains(NAMED) => format!("{id}-{name}"),
        _ => id.to_owned(),
    }
}

/// The name of the schema of a process's parameters.
fn parameters_of(process: &Process) -> String {
    match &process.name {
        Some(name) => format!("Parameters-{name}"),
        None => "Parameters".to_owned(),
    }
}

/// The fields of a query as parameters.
fn query_fields(query: SchemaOf, schemas: &mut SchemaGenerator) -> Vec<Value> {
    let mut schema = query(schemas);
    schemars::transform::transform_subschemas(&mut without_null, &mut schema);
    let fields = schema.get("properties").and_then(Value::as_object);
    let parameter = |(name, schema): (&String, &Value)| {
        let mut schema = schema.clone();
        let description = schema
            .as_object_mut()
            .and_then(|schema| schema.remove("description"));
        json!({ "name": name, "in": "query", "required": false, "description": description, "schema": schema })
    };
    fields.into_iter().flatten().map(parameter).collect()
}

fn request_body(process: &Process) -> Value {
    let parameters = &process.parameters;
    let mut content = json!({ "schema": reference("schemas", &parameters_of(process)) });
    if let Some(example) = parameters.example() {
        content["example"] = example;
    }
    json!({
        "description": "The parameters; without any, the body may be left out.",
        "required": parameters.required().next().is_some(),
        "content": { "application/json": content },
    })
}

fn success(answer: &Answer, schemas: &mut SchemaGenerator) -> Value {
    let content: Map<String, Value> = answer
        .contents
        .iter()
        .map(|(media, schema)| ((*media).to_owned(), json!({ "schema": schema(schemas) })))
        .collect();
    json!({
        "description": answer.description,
        "headers": headers(answer.headers),
        "content": content,
    })
}

/// One response for each status, with all problems that have it.
fn refusals(kinds: Vec<Kind>, problem: &Schema) -> Map<String, Value> {
    let mut by_status: BTreeMap<u16, Vec<Kind>> = BTreeMap::new();
    for kind in kinds {
        by_status
            .entry(kind.status().as_u16())
            .or_default()
            .push(kind);
    }
    by_status
        .into_iter()
        .map(|(status, kinds)| (status.to_string(), refusal(&kinds, problem)))
        .collect()
}

fn refusal(kinds: &[Kind], problem: &Schema) -> Value {
    let titles: Vec<_> = kinds.iter().map(|kind| kind.title()).collect();
    let examples: Map<String, Value> = kinds
        .iter()
        .map(|kind| (kind.slug().to_owned(), reference("examples", kind.slug())))
        .collect();
    let mut more = Vec::new();
    if kinds.iter().any(|kind| kind.has_retry_after()) {
        more.push("Retry-After");
    }
    if kinds.contains(&Kind::Unauthenticated) {
        more.push("WWW-Authenticate");
    }
    json!({
        "description": format!("{}.", titles.join(", or: ")),
        "headers": headers(&more),
        "content": { "application/problem+json": { "schema": problem, "examples": examples } },
    })
}

/// An example of every problem that some route has.
fn examples(routes: &[Route]) -> Value {
    let has = |kind: &Kind| {
        let mut problems = routes
            .iter()
            .flat_map(|route| route.operation.problems.concat());
        problems.any(|own| own == *kind)
    };
    let examples = Kind::ALL.iter().filter(|kind| has(kind)).map(|kind| {
        let value = json!(Problem::from(*kind).body("5b2c1f3a9e-7"));
        let example = json!({ "summary": kind.title(), "value": value });
        (kind.slug().to_owned(), example)
    });
    Value::Object(examples.collect())
}

fn types(kinds: &[Kind]) -> Value {
    kinds
        .iter()
        .map(|kind| format!("/problems/{}", kind.slug()))
        .collect()
}

/// Headers of a response by name, with those that every answer can have.
fn headers(names: &[&str]) -> Value {
    let names = ["X-Request-Id", "Server-Timing"].iter().chain(names);
    let headers: Map<String, Value> = names
        .map(|name| ((*name).to_owned(), reference("headers", name)))
        .collect();
    headers.into()
}

fn reference(section: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{section}/{name}") })
}

/// The components that several operations share.
fn components() -> Value {
    let text = json!({ "type": "string" });
    json!({
        "parameters": {
            "scope": {
                "name": "scope", "in": "path", "required": true, "example": "acme",
                "description": "The scope of the execution, such as a tenant.",
                "schema": { "type": "string", "pattern": scope::PATTERN },
            },
            "name": {
                "name": "name", "in": "path", "required": true, "example": "test-job-x7k2p",
                "description": "The execution's name.",
                "schema": text,
            },
            "slug": {
                "name": "slug", "in": "path", "required": true, "example": "scope-busy",
                "description": "The last segment of a problem's type.",
                "schema": text,
            },
            "Idempotency-Key": {
                "name": "Idempotency-Key", "in": "header", "required": false, "example": "0b0c3e6a-8a4c-4a53-9f2e-6a8f1f0a7d10",
                "description": "Identifies this start: a repeated request with the same key gets the same execution. Use a UUID, for example.",
                "schema": { "type": "string", "pattern": starts::KEY_PATTERN },
            },
            "Last-Event-ID": {
                "name": "Last-Event-ID", "in": "header", "required": false,
                "description": "The id of the last event of an earlier stream of this execution. The stream continues after it.",
                "schema": { "type": "string", "pattern": "^[0-9a-f]*$" },
            },
        },
        "headers": {
            "Idempotent-Replayed": {
                "description": "Present and true if the execution was started by an earlier request with the same Idempotency-Key.",
                "schema": { "type": "string", "const": "true" },
            },
            "X-Request-Id": {
                "description": "The id of this request in the service's log: the X-Request-Id that the client sent, if that can be logged, or a new one.",
                "schema": text,
            },
            "Server-Timing": {
                "description": "Milliseconds that this request waited for Google's answers (upstream) and for an access token (token). Absent if it did not wait.",
                "schema": { "type": "string", "examples": ["upstream;dur=118.4"] },
            },
            "Location": {
                "description": "The path of the execution.",
                "schema": { "type": "string", "format": "uri-reference" },
            },
            "Link": {
                "description": "The next page of a plain text, with rel=\"next\". Absent on the last page.",
                "schema": text,
            },
            "WWW-Authenticate": {
                "description": "How to authenticate: Bearer.",
                "schema": text,
            },
            "Retry-After": {
                "description": "Seconds after which to try again.",
                "schema": { "type": "integer", "minimum": 0 },
            },
        },
    })
}

/// Removes null from the schemas: an absent field is left out of answers and is never null, which serde's `Option` cannot express.
fn without_null(schema: &mut Schema) {
    let is_null =
        |schema: &Value| schema == "null" || schema.get("type").is_some_and(|kind| kind == "null");
    for keyword in ["type", "anyOf"] {
        let Some(Value::Array(choices)) = schema.get_mut(keyword) else {
            continue;
        };
        choices.retain(|choice| !is_null(choice));
        if choices.len() != 1 {
            continue;
        }
        let only = choices.remove(0);
        schema.remove(keyword);
        match only {
            Value::Object(fields) => schema.ensure_object().extend(fields),
            only => drop(schema.insert(keyword.to_owned(), only)),
        }
    }
}

/// Turns a `oneOf` of constants, which schemars writes to keep the description of each, into an `enum`, which client generators
/// support better. The descriptions are joined into one.
fn plain_enum(schema: &mut Schema) {
    let Some(Value::Array(choices)) = schema.get("oneOf") else {
        return;
    };
    let Some(words) = choices
        .iter()
        .map(|choice| choice["const"].as_str())
        .collect::<Option<Vec<_>>>()
    else {
        return;
    };
    let each = choices.iter().zip(&words).map(|(choice, word)| {
        format!(
            "`{word}`: {}",
            choice["description"].as_str().unwrap_or_default()
        )
    });
    let words = json!(words);
    let description = schema.get("description").and_then(Value::as_str);
    let lines: Vec<_> = description
        .map(str::to_owned)
        .into_iter()
        .chain(each)
        .collect();
    let description = lines.join(" ");
    schema.remove("oneOf");
    schema.insert("type".to_owned(), "string".into());
    schema.insert("enum".to_owned(), words);
    schema.insert("description".to_owned(), description.into());
}
