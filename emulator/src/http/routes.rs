//! Every URL, and the checks that a request passes before its handler.
//!
//! axum matches `{name}` with whole segments only, so the handlers split Google's `{name}:verb`.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use super::v1::{executions, jobs, tasks};
use super::{control, faults, logging, metadata, policy, project, v2};
use crate::cloud::Cloud;
use crate::refusal::{Code, Refusal};

/// Google's placeholder for all regions.
const ALL_REGIONS: &str = "-";

pub(crate) fn router(cloud: Arc<Cloud>) -> Router {
    let google = Router::new()
        .route(
            "/apis/run.googleapis.com/v1/namespaces/{project}/jobs",
            get(jobs::list).post(jobs::create),
        )
        .route(
            "/apis/run.googleapis.com/v1/namespaces/{project}/jobs/{job_and_verb}",
            get(jobs::get)
                .put(jobs::replace)
                .delete(jobs::delete)
                .post(jobs::verb),
        )
        .route(
            "/apis/run.googleapis.com/v1/namespaces/{project}/executions",
            get(executions::list),
        )
        .route(
            "/apis/run.googleapis.com/v1/namespaces/{project}/executions/{execution_and_verb}",
            get(executions::get)
                .delete(executions::delete)
                .post(executions::verb),
        )
        .route(
            "/apis/run.googleapis.com/v1/namespaces/{project}/tasks",
            get(tasks::list),
        )
        .route(
            "/apis/run.googleapis.com/v1/namespaces/{project}/tasks/{task}",
            get(tasks::get),
        )
        .merge(v2_routes())
        .route(
            "/v1/projects/{project}/locations/{region}/jobs/{job_and_verb}",
            get(policy::get).post(policy::post),
        )
        .route("/v2/entries:list", post(logging::list))
        .route("/v2/projects/{project}/logs", get(project::logs))
        .route("/v1/projects/{project}", get(project::get))
        .route("/v1/projects/{project}/locations", get(project::locations))
        .route(
            "/apis/serving.knative.dev/v1/namespaces/{project}/services",
            get(project::services),
        )
        .route(
            "/v1/projects/{project}/locations/{region}/services",
            get(project::services),
        )
        .layer(from_fn_with_state(Arc::clone(&cloud), gate));
    let metadata = get(metadata::get).fallback(metadata::method_not_allowed);
    let metadata = Router::new()
        .route("/", get(metadata::ping))
        .route("/computeMetadata", metadata.clone())
        .route("/computeMetadata/", metadata.clone())
        .route("/computeMetadata/{*path}", metadata)
        .layer(from_fn(metadata::guard))
        .route("/oauth2/v3/certs", get(metadata::keys));
    let emulated = google
        .merge(metadata)
        .layer(from_fn_with_state(Arc::clone(&cloud), faults::layer));
    let control = Router::new()
        .route(
            "/emulator/faults",
            get(control::faults)
                .post(control::add_fault)
                .delete(control::clear_faults),
        )
        .route("/emulator/counters", get(control::counters));
    let all = if cloud.settings.faults {
        emulated.merge(control)
    } else {
        emulated
    };
    all.fallback(not_served)
        .method_not_allowed_fallback(not_served)
        .layer(from_fn_with_state(Arc::clone(&cloud), programs_only))
        .with_state(cloud)
}

fn v2_routes() -> Router<Arc<Cloud>> {
    const JOBS: &str = "/v2/projects/{project}/locations/{region}/jobs";
    const OPERATIONS: &str = "/v2/projects/{project}/locations/{region}/operations";
    let under_jobs = |path: &str| format!("{JOBS}/{path}");
    Router::new()
        .route(JOBS, get(v2::jobs::list).post(v2::jobs::create))
        .route(
            &under_jobs("{job_and_verb}"),
            get(v2::jobs::get)
                .patch(v2::jobs::patch)
                .delete(v2::jobs::delete)
                .post(v2::jobs::verb),
        )
        .route(
            &under_jobs("{job_and_verb}/executions"),
            get(v2::executions::list),
        )
        .route(
            &under_jobs("{job_and_verb}/executions/{execution_and_verb}"),
            get(v2::executions::get)
                .delete(v2::executions::delete)
                .post(v2::executions::verb),
        )
        .route(
            &under_jobs("{job_and_verb}/executions/{execution_and_verb}/tasks"),
            get(v2::tasks::list),
        )
        .route(
            &under_jobs("{job_and_verb}/executions/{execution_and_verb}/tasks/{task}"),
            get(v2::tasks::get),
        )
        .route(OPERATIONS, get(v2::operations::list))
        .route(
            &format!("{OPERATIONS}/{{operation_and_verb}}"),
            get(v2::operations::get)
                .delete(v2::operations::delete)
                .post(v2::operations::verb),
        )
}

/// Refuses a URL that the emulator does not serve.
async fn not_served(method: Method, uri: Uri) -> Refusal {
    Refusal::not_found(format!(
        "The emulator does not serve {method} {}. It serves the jobs, executions and tasks of Cloud Run (v1 and v2), entries:list of \
         Cloud Logging, and the metadata server; its README lists every method.",
        uri.path()
    ))
}

/// Refuses pages in a browser. Otherwise a page of any site could reach this port, directly or by DNS rebinding, and
/// start programs on the developer's machine.
async fn programs_only(State(cloud): State<Arc<Cloud>>, request: Request, next: Next) -> Response {
    if request.headers().contains_key(ORIGIN) {
        return Refusal::denied("The emulator answers programs, not pages in a browser.")
            .into_response();
    }
    let name = host_name(host(&request));
    if is_own_name(name, &cloud.settings.allow_hosts) {
        return next.run(request).await;
    }
    Refusal::denied(format!(
        "The emulator does not answer to the host name '{name}'. Start it with --allow-host {name} if this is its name, or call it at {}.",
        cloud.address
    ))
    .into_response()
}

/// Whether clients may call the emulator by this name. IP addresses are allowed, because DNS rebinding needs a name.
fn is_own_name(name: &str, allowed: &[String]) -> bool {
    let name = name.to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    matches!(name, "localhost" | "metadata" | "metadata.google.internal")
        || name.ends_with(".googleapis.com")
        || name.parse::<IpAddr>().is_ok()
        || allowed.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// The host name or address without the port, such as `::1` of `[::1]:8787`.
fn host_name(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _port)| name),
    }
}

/// Checks the access token first, then the region and the project, as Google does.
async fn gate(State(cloud): State<Arc<Cloud>>, request: Request, next: Next) -> Response {
    match admitted(&cloud, &request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refused(refusal),
    }
}

fn refused(refusal: Refusal) -> Response {
    let challenge = (refusal.code == Code::Unauthenticated)
        .then(|| HeaderValue::from_static("Bearer realm=\"https://accounts.google.com/\""));
    let mut response = refusal.into_response();
    response
        .headers_mut()
        .extend(challenge.map(|challenge| (WWW_AUTHENTICATE, challenge)));
    response
}

fn admitted(cloud: &Cloud, request: &Request) -> Result<(), Refusal> {
    if !cloud.settings.allow_anonymous {
        authenticated(cloud, request)?;
    }
    let path = request.uri().path();
    let regions = [
        host(request)
            .split_once("-run.googleapis.com")
            .map(|(region, _)| region),
        segment_after(path, "locations"),
    ];
    if let Some(other) = regions
        .into_iter()
        .flatten()
        .find(|region| *region != cloud.site.region && *region != ALL_REGIONS)
    {
        let own = &cloud.site.region;
        return Err(Refusal::not_found(format!(
            "This emulator serves region '{own}', not '{other}'. Start it with --region {other}, or use {own}."
        )));
    }
    let project = segment_after(path, "namespaces").or_else(|| segment_after(path, "projects"));
    match project.filter(|project| !cloud.site.is_project(project)) {
        Some(other) => Err(Refusal::denied(format!(
            "Permission denied on resource project {other} (or it may not exist): this emulator serves project '{}'.",
            cloud.site.project
        ))),
        None => Ok(()),
    }
}

fn authenticated(cloud: &Cloud, request: &Request) -> Result<(), Refusal> {
    const EXPECTED: &str = "Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.";
    let refused = |what: &str| {
        Err(Refusal::new(
            Code::Unauthenticated,
            format!("Request {what}. {EXPECTED}"),
        ))
    };
    let Some(authorization) = request.headers().get(AUTHORIZATION) else {
        return refused("is missing required authentication credential");
    };
    match authorization
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
    {
        Some((scheme, token))
            if scheme.eq_ignore_ascii_case("Bearer") && cloud.tokens.accepts(token) =>
        {
            Ok(())
        }
        _ => refused("had invalid authentication credentials"),
    }
}

/// The host that the request is for. gcloud's requests come through `http_proxy`, with the whole URL in the request
/// line.
fn host(request: &Request) -> &str {
    let header = || {
        request
            .headers()
            .get(HOST)
            .and_then(|host| host.to_str().ok())
    };
    request
        .uri()
        .authority()
        .map(|authority| authority.as_str())
        .or_else(header)
        .unwrap_or_default()
}

fn segment_after<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    path.split('/')
        .skip_while(|segment| *segment != name)
        .nth(1)
}
