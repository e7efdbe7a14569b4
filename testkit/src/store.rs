//! The real Firestore emulator, and a proxy in front of it, or of any other server, that loses calls.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use reqwest::Client;

use crate::{PATIENCE, client};

/// A shell script that stops the emulator when its standard input closes, which happens however this process ends.
const KEEPER: &str = r#"java -Xmx256m -Duser.language=en -cp "$0" com.google.cloud.datastore.emulator.firestore.CloudFirestore \
    --host=127.0.0.1 --port="$1" & read -r _; kill $!"#;

/// The `host:port` of the Firestore emulator, which all tests share. If it cannot start, prints the reason and
/// returns `None`.
pub fn firestore() -> Option<String> {
    static STARTED: OnceLock<Result<(String, Child), String>> = OnceLock::new();
    match STARTED.get_or_init(start) {
        Ok((host, _)) => Some(host.clone()),
        Err(reason) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{reason}");
            println!("skipped: {reason}");
            None
        }
    }
}

fn start() -> Result<(String, Child), String> {
    let jar = emulator_jar().ok_or(
        "gcloud has no Firestore emulator: gcloud components install cloud-firestore-emulator",
    )?;
    let java = Command::new("java").arg("-version").output();
    java.map_err(|error| format!("the Firestore emulator needs Java: {error}"))?;
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let mut keeper = Command::new("sh");
    keeper
        .arg("-c")
        .arg(KEEPER)
        .arg(jar)
        .arg(address.port().to_string());
    let quiet = || Stdio::null();
    keeper.stdin(Stdio::piped()).stdout(quiet()).stderr(quiet());
    let keeper = keeper.process_group(0).spawn().unwrap();
    let begun = Instant::now();
    while !answers(&address.to_string()) {
        assert!(begun.elapsed() < 2 * PATIENCE, "Firestore did not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok((address.to_string(), keeper))
}

/// The emulator's jar in the installation of the `gcloud` on the PATH.
fn emulator_jar() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut programs = std::env::split_paths(&path).map(|folder| folder.join("gcloud"));
    let gcloud = programs.find_map(|program| program.canonicalize().ok())?;
    let jar = gcloud
        .parent()?
        .parent()?
        .join("platform/cloud-firestore-emulator/cloud-firestore-emulator.jar");
    jar.exists().then_some(jar)
}

/// Whether the emulator accepts a write. The first write takes longer than the service waits.
fn answers(host: &str) -> bool {
    let body = r#"{"writes":[{"update":{"name":"projects/warm/databases/(default)/documents/up/up","fields":{}}}]}"#;
    let head = "POST /v1/projects/warm/databases/(default)/documents:commit HTTP/1.0\r\nauthorization: Bearer owner";
    let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(host)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = [0; 12]; // HTTP/1.1 200
        stream.read_exact(&mut answer)?;
        Ok(answer.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

/// A unique project name, so that tests share the emulator but not their documents.
pub fn project() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nth = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("p{}-{nth}", std::process::id())
}

/// The fate of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fate {
    /// The call passes.
    Passes,
    /// The connection closes before the store sees the call.
    LostBefore,
    /// The store processes the call, and the connection closes instead of an answer.
    LostAfter,
    /// The server processes the call and answers with 500.
    FailsAfter,
    /// The call passes, and the answer is delayed by this time.
    Slow(Duration),
    /// The store never sees the call, and no answer ever comes.
    StuckBefore,
    /// The store processes the call, and no answer ever comes.
    StuckAfter,
    /// The answer is that the store has no such database.
    NoDatabase,
}

/// A proxy in front of the store. Dropping it does not close open connections.
pub struct Way {
    pub host: String,
    shared: Arc<Shared>,
}

struct Shared {
    store: String,
    http: Client,
    /// The fates of the next calls, and the fate of all others.
    fates: Mutex<(VecDeque<Fate>, Fate)>,
    stuck: AtomicBool,
}

impl Way {
    pub async fn to(store: &str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            store: store.to_owned(),
            http: client(),
            fates: Mutex::new((VecDeque::new(), Fate::Passes)),
            stuck: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let shared = Arc::clone(&serving);
                let service = service_fn(move |request| Arc::clone(&shared).pass(request));
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move { drop(connection.await) });
            }
        });
        Self { host, shared }
    }

    /// Sets the fates of the next calls, and the fate of all that follow.
    pub fn fate(&self, next: impl IntoIterator<Item = Fate>, others: Fate) {
        *self.shared.fates.lock().unwrap() = (next.into_iter().collect(), others);
    }

    /// Whether a call is stuck. If its fate lets the store process the call, the store has done so.
    pub fn stuck(&self) -> bool {
        self.shared.stuck.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn next_fate(&self) -> Fate {
        let mut fates = self.fates.lock().unwrap();
        let others = fates.1;
        fates.0.pop_front().unwrap_or(others)
    }

    /// Forwards a call according to its fate. An error closes the connection without an answer.
    async fn pass(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Lost> {
        let fate = self.next_fate();
        match fate {
            Fate::LostBefore => return Err(Lost),
            Fate::StuckBefore => self.stay().await,
            Fate::NoDatabase => return Ok(no_database()),
            _ => {}
        }
        // The call runs in a task, so that the store processes it even if the caller disconnects.
        let answer = tokio::spawn(Arc::clone(&self).forward(request))
            .await
            .map_err(|_| Lost)?;
        match fate {
            Fate::LostAfter => return Err(Lost),
            Fate::FailsAfter => return Ok(failure()),
            Fate::StuckAfter => self.stay().await,
            Fate::Slow(time) => tokio::time::sleep(time).await,
            _ => {}
        }
        let Ok(answer) = answer;
        Ok(answer)
    }

    async fn stay(&self) {
        self.stuck.store(true, Ordering::Relaxed);
        std::future::pending().await
    }

    async fn forward(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let (mut head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        head.headers.remove("host"); // the client sets its own
        head.headers.remove("content-length");
        let url = format!("http://{}{}", self.store, head.uri);
        let sent = self
            .http
            .request(head.method, url)
            .headers(head.headers)
            .body(body)
            .send()
            .await
            .unwrap();
        let answer = Response::builder()
            .status(sent.status())
            .header("content-type", "application/json");
        Ok(answer.body(Full::new(sent.bytes().await.unwrap())).unwrap())
    }
}

fn failure() -> Response<Full<Bytes>> {
    let body =
        r#"{"error":{"code":500,"status":"INTERNAL","message":"Internal error encountered."}}"#;
    let answer = Response::builder()
        .status(500)
        .header("content-type", "application/json");
    answer.body(Full::new(body.into())).unwrap()
}

fn no_database() -> Response<Full<Bytes>> {
    let body = r#"{"error":{"code":404,"status":"NOT_FOUND","message":"The database (default) does not exist"}}"#;
    let answer = Response::builder()
        .status(404)
        .header("content-type", "application/json");
    answer.body(Full::new(body.into())).unwrap()
}

/// Closes the connection.
#[derive(Debug, thiserror::Error)]
#[error("lost")]
struct Lost;
