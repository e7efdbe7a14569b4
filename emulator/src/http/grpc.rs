//! The v2 API over gRPC. Each call is translated to REST by Google's own descriptors and answered by the handlers of
//! REST, so that both protocols behave alike.

use std::io;
use std::sync::LazyLock;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::Frame;
use prost_reflect::prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MethodDescriptor};
use serde_json::{Map, Value};
use tower::ServiceExt;

use super::wire::Reset;

/// The descriptors of google.cloud.run.v2 (jobs, executions, tasks), google.longrunning and google.iam.v1, as protoc
/// writes them with `--include_imports --descriptor_set_out` from the protos in the npm package @google-cloud/run.
static DESCRIPTORS: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(&include_bytes!("../../data/run-v2.binpb")[..]).ok());

/// The largest request body that is read, in bytes.
const LARGEST_REQUEST: usize = 4 * 1024 * 1024;
/// The length of the prefix of each message: a byte for the compression and four for the message's length.
const PREFIX: usize = 5;

/// The part of a request that is the body of its REST form.
#[derive(Clone, Copy, Debug)]
enum Content {
    Nothing,
    Field(&'static str),
    Rest,
}

/// The REST form of a method: its verb, its URL below `/v2/` with fields of the request in braces, and its body.
type Rest = (Method, &'static str, Content);

/// The REST form of a gRPC method, from the annotations of the protos and the service's configuration.
fn rest_form(path: &str) -> Option<Rest> {
    use Content::{Field, Nothing, Rest};
    Some(match path {
        "/google.cloud.run.v2.Jobs/CreateJob" => (Method::POST, "{parent}/jobs", Field("job")),
        "/google.cloud.run.v2.Jobs/GetJob" => (Method::GET, "{name}", Nothing),
        "/google.cloud.run.v2.Jobs/ListJobs" => (Method::GET, "{parent}/jobs", Nothing),
        "/google.cloud.run.v2.Jobs/UpdateJob" => (Method::PATCH, "{job.name}", Field("job")),
        "/google.cloud.run.v2.Jobs/DeleteJob" => (Method::DELETE, "{name}", Nothing),
        "/google.cloud.run.v2.Jobs/RunJob" => (Method::POST, "{name}:run", Rest),
        "/google.cloud.run.v2.Jobs/GetIamPolicy" => {
            (Method::GET, "{resource}:getIamPolicy", Nothing)
        }
        "/google.cloud.run.v2.Jobs/SetIamPolicy" => (Method::POST, "{resource}:setIamPolicy", Rest),
        "/google.cloud.run.v2.Jobs/TestIamPermissions" => {
            (Method::POST, "{resource}:testIamPermissions", Rest)
        }
        "/google.cloud.run.v2.Executions/GetExecution" => (Method::GET, "{name}", Nothing),
        "/google.cloud.run.v2.Executions/ListExecutions" => {
            (Method::GET, "{parent}/executions", Nothing)
        }
        "/google.cloud.run.v2.Executions/DeleteExecution" => (Method::DELETE, "{name}", Nothing),
        "/google.cloud.run.v2.Executions/CancelExecution" => (Method::POST, "{name}:cancel", Rest),
        "/google.cloud.run.v2.Tasks/GetTask" => (Method::GET, "{name}", Nothing),
        "/google.cloud.run.v2.Tasks/ListTasks" => (Method::GET, "{parent}/tasks", Nothing),
        "/google.longrunning.Operations/GetOperation" => (Method::GET, "{name}", Nothing),
        "/google.longrunning.Operations/ListOperations" => {
            (Method::GET, "{name}/operations", Nothing)
        }
        "/google.longrunning.Operations/DeleteOperation" => (Method::DELETE, "{name}", Nothing),
        "/google.longrunning.Operations/WaitOperation" => (Method::POST, "{name}:wait", Rest),
        _ => return None,
    })
}

/// The status of a call: a code of google.rpc and a message.
#[derive(Debug)]
struct Status(u8, String);

impl Status {
    fn invalid(error: impl ToString) -> Self {
        Self(3, error.to_string())
    }

    fn internal(error: impl ToString) -> Self {
        Self(13, error.to_string())
    }
}

pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/grpc"))
}

/// Answers one call.
pub(crate) async fn call(router: Router, request: Request<Body>) -> Response<Body> {
    match answered(router, request).await {
        Ok(message) => response(&Status(0, String::new()), Some(message)),
        Err(status) => response(&status, None),
    }
}

async fn answered(router: Router, request: Request<Body>) -> Result<Bytes, Status> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let unknown = || {
        Status(
            12,
            format!("The emulator does not serve the method {path}."),
        )
    };
    let rest = rest_form(path).ok_or_else(unknown)?;
    let method = method(path).ok_or_else(unknown)?;
    let body = Limited::new(body, LARGEST_REQUEST).collect().await;
    let body = body.map_err(Status::invalid)?.to_bytes();
    let message = DynamicMessage::decode(method.input(), content(&body)?);
    let fields = serde_json::to_value(message.map_err(Status::invalid)?);
    let fields = fields.map_err(Status::invalid)?;
    let request = rest_request(&head.uri, head.headers, rest, fields)?;
    let answer = router
        .oneshot(request)
        .await
        .unwrap_or_else(|never: std::convert::Infallible| match never {});
    if answer.extensions().get::<Reset>().is_some() {
        return Err(Status(14, "The connection is reset on purpose.".into()));
    }
    let code = answer.status();
    let body = answer.into_body().collect().await;
    let body = body
        .map_err(|error| Status(14, error.to_string()))?
        .to_bytes();
    if !code.is_success() {
        return Err(failure(code, &body));
    }
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let mut json = serde_json::Deserializer::from_slice(&body);
    let message = DynamicMessage::deserialize_with_options(method.output(), &mut json, &options);
    Ok(message.map_err(Status::internal)?.encode_to_vec().into())
}

fn method(path: &str) -> Option<MethodDescriptor> {
    let (service, name) = path.strip_prefix('/')?.split_once('/')?;
    let service = DESCRIPTORS.as_ref()?.get_service_by_name(service)?;
    service.methods().find(|method| method.name() == name)
}

/// The single message of a body.
fn content(body: &[u8]) -> Result<&[u8], Status> {
    let Some(([compressed, length @ ..], message)) = body.split_first_chunk::<PREFIX>() else {
        return Err(Status::invalid("The body is not a gRPC message."));
    };
    if *compressed != 0 {
        return Err(Status(12, "Compressed messages are not served.".into()));
    }
    let length = length
        .iter()
        .fold(0, |length, byte| length << 8 | usize::from(*byte));
    if length != message.len() {
        return Err(Status::invalid("The body is not exactly one gRPC message."));
    }
    Ok(message)
}

/// The REST request. The fields that are not in the URL go into the body or the query.
fn rest_request(
    uri: &Uri,
    mut headers: HeaderMap,
    (verb, template, body): Rest,
    mut fields: Value,
) -> Result<Request<Body>, Status> {
    let (field, rest) = template
        .strip_prefix('{')
        .and_then(|template| template.split_once('}'))
        .ok_or_else(|| Status::internal("The method has no URL."))?;
    let pointer = format!("/{}", field.replace('.', "/"));
    let name = fields.pointer(&pointer).and_then(Value::as_str);
    let name = name.unwrap_or_default().to_owned();
    let fields = fields.as_object_mut().map(std::mem::take);
    let mut fields = fields.unwrap_or_default();
    if !field.contains('.') {
        fields.remove(field);
    }
    let content = match body {
        Content::Nothing => String::new(),
        Content::Field(key) => fields.remove(key).unwrap_or_default().to_string(),
        Content::Rest => Value::Object(std::mem::take(&mut fields)).to_string(),
    };
    let authority = uri
        .authority()
        .map_or("localhost", |authority| authority.as_str());
    let target = format!("http://{authority}/v2/{name}{rest}?{}", query(&fields));
    for header in [CONTENT_TYPE, CONTENT_LENGTH] {
        headers.remove(header);
    }
    let mut request = Request::new(Body::from(content));
    *request.method_mut() = verb;
    *request.uri_mut() = target.parse().map_err(Status::invalid)?;
    *request.headers_mut() = headers;
    Ok(request)
}

fn query(fields: &Map<String, Value>) -> String {
    let scalar = |(key, value): (&String, &Value)| match value {
        Value::String(text) => Some(format!("{key}={}", percent_encoded(text))),
        Value::Bool(_) | Value::Number(_) => Some(format!("{key}={value}")),
        _ => None,
    };
    let pairs: Vec<String> = fields.iter().filter_map(scalar).collect();
    pairs.join("&")
}

fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let encode = |byte: u8| {
        if plain(byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    text.bytes().map(encode).collect()
}

/// The gRPC status for an error response of REST.
fn failure(code: StatusCode, body: &[u8]) -> Status {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &body["error"];
    let number = match error["status"].as_str().unwrap_or_default() {
        "INVALID_ARGUMENT" => 3,
        "DEADLINE_EXCEEDED" => 4,
        "NOT_FOUND" => 5,
        "ALREADY_EXISTS" => 6,
        "PERMISSION_DENIED" => 7,
        "RESOURCE_EXHAUSTED" => 8,
        "FAILED_PRECONDITION" => 9,
        "ABORTED" => 10,
        "INTERNAL" => 13,
        "UNAVAILABLE" => 14,
        "UNAUTHENTICATED" => 16,
        _ => 2,
    };
    let message = error["message"].as_str();
    Status(
        number,
        message.map_or_else(|| code.to_string(), str::to_owned),
    )
}

/// The response, with the status in a trailer after the message.
fn response(Status(code, text): &Status, message: Option<Bytes>) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(*code)));
    if let Ok(text) = HeaderValue::from_str(&percent_encoded(text)) {
        trailers.insert("grpc-message", text);
    }
    let data = message.map(|message| {
        let mut framed = vec![0];
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        framed.extend_from_slice(&length.to_be_bytes());
        framed.extend_from_slice(&message);
        Frame::data(Bytes::from(framed))
    });
    let frames = data.into_iter().chain([Frame::trailers(trailers)]);
    let frames = frames.map(Ok::<_, io::Error>);
    let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
    let mut response = Response::new(body);
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    response
}
