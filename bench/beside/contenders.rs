//! The measured programs: the service, and the alternatives that are installed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;

use crate::build;
use crate::upstream::Upstream;
use bench::load;
use bench::machine::Running;
use testkit::issuer::{Key, now};

/// The path of a start of the job in Google's v1 API.
pub const RUN: &str = "/apis/run.googleapis.com/v1/namespaces/p/jobs/worker:run";
/// The path of a start in the service and in the alternatives.
pub const PROCESS: &str = "/scopes/acme/process";
/// The issuer of the tokens that the service verifies.
const ISSUER: &str = "https://issuer.example.com";
/// The time limit for the first answer of a program.
const PATIENCE: Duration = Duration::from_secs(30);

/// A way to start a job over HTTP.
pub struct Contender {
    /// Its name in the tables.
    pub name: &'static str,
    /// Its description in the tables.
    pub what: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    /// The path and the content of its configuration file, if it has one.
    file: Option<(PathBuf, String)>,
    /// The header lines of each request, with their line endings.
    pub headers: String,
    /// Whether the program is one file, whose size is then reported.
    pub is_one_file: bool,
    /// The command that counts its work, if it runs under one.
    pub wrapper: Vec<String>,
    pub port: u16,
}

/// The contenders that are measured, and those that are not installed.
#[derive(Default)]
pub struct Field {
    pub contenders: Vec<Contender>,
    /// The name of each, with the command that installs it.
    pub missing: Vec<(&'static str, &'static str)>,
}

impl Field {
    fn add(
        &mut self,
        is_there: bool,
        name: &'static str,
        how: &'static str,
        make: impl FnOnce() -> anyhow::Result<Contender>,
    ) -> anyhow::Result<()> {
        if is_there {
            self.contenders.push(make()?);
        } else {
            self.missing.push((name, how));
        }
        Ok(())
    }
}

/// The settings that all contenders share.
pub struct Setting<'a> {
    pub upstream: &'a Upstream,
    /// Whether to use the slow upstream.
    pub is_slow: bool,
    /// A directory for temporary files.
    pub directory: &'a Path,
    /// The path of the service's program.
    pub api: PathBuf,
    /// Whether work is counted. nginx then runs as one process, so that the wrapper sees all of it.
    pub is_counted: bool,
}

impl Setting<'_> {
    fn upstream(&self) -> String {
        let address = if self.is_slow {
            self.upstream.slow
        } else {
            self.upstream.fast
        };
        address.to_string()
    }

    fn environment(&self, port: u16) -> Vec<(&'static str, String)> {
        let upstream = self.upstream();
        let upstream_port = upstream.rsplit(':').next().unwrap_or_default().to_owned();
        vec![
            ("PORT", port.to_string()),
            ("UPSTREAM", format!("http://{upstream}")),
            ("UPSTREAM_PORT", upstream_port),
            ("GCE_METADATA_HOST", self.upstream.fast.to_string()),
            ("API__CLOUD_RUN__BASE_URL", format!("http://{upstream}")),
            ("NODE_ENV", "production".to_owned()),
        ]
    }

    fn contender(
        &self,
        name: &'static str,
        what: &'static str,
        program: PathBuf,
    ) -> anyhow::Result<Contender> {
        let port = free_port()?;
        Ok(Contender {
            name,
            what,
            program,
            arguments: Vec::new(),
            environment: self.environment(port),
            file: None,
            headers: String::new(),
            is_one_file: true,
            wrapper: Vec::new(),
            port,
        })
    }

    /// All contenders that are installed.
    pub fn field(&self) -> anyhow::Result<Field> {
        let mut field = Field::default();
        field.add(true, "api", "", || self.api())?;
        field.add(true, "api-jwt", "", || self.api_with_tokens())?;
        let (nginx, node) = (find("nginx"), find("node"));
        for (name, log) in [("nginx", false), ("nginx-log", true)] {
            let there = nginx.is_some();
            field.add(there, name, "apt-get install nginx-light", || {
                self.nginx(nginx.clone(), log)
            })?;
        }
        field.add(true, "hyper", "", || self.forwarder())?;
        field.add(true, "sample", "", || self.sample())?;
        let there = node.is_some() && folder("node").join("node_modules").exists();
        for (name, what, mode) in [
            ("node-sdk", "express with Google's client for Node", "sdk"),
            (
                "node-sample",
                "express, a token and a connection for each request",
                "sample",
            ),
        ] {
            let how = "npm install --prefix bench/beside/node";
            field.add(there, name, how, || {
                self.node(node.clone(), name, what, mode)
            })?;
        }
        let python = folder("python").join("venv/bin/python");
        let how = "python3 -m venv bench/beside/python/venv && bench/beside/python/venv/bin/pip install -r bench/beside/python/requirements.txt";
        field.add(python.exists(), "python-sdk", how, || self.python(&python))?;
        let sdk = folder("rust-sdk").join("target/release/rust-sdk");
        let how = "cargo build --release --manifest-path bench/beside/rust-sdk/Cargo.toml";
        let what = "axum with Google's client for Rust";
        field.add(sdk.exists(), "rust-sdk", how, || {
            self.contender("rust-sdk", what, sdk.clone())
        })?;
        Ok(field)
    }

    /// The service itself.
    pub fn api(&self) -> anyhow::Result<Contender> {
        let mut api = self.contender("api", "this service, with its log", self.api.clone())?;
        let settings = folder("").join("api.toml");
        api.environment
            .push(("API_CONFIG", settings.display().to_string()));
        api.environment.extend(build::environment());
        Ok(api)
    }

    /// The service in mode jwt, called with a token that it has verified before.
    fn api_with_tokens(&self) -> anyhow::Result<Contender> {
        let claims = json!({
            "iss": ISSUER, "aud": "api", "sub": "ann", "iat": now(), "exp": now() + 3600, "tenants": ["acme"],
            "email": "ann@example.com", "email_verified": true, "name": "Ann Example", "auth_time": now(),
        });
        let token = Key::k1().token(
            &json!({ "alg": "RS256", "kid": "k1", "typ": "JWT" }),
            &claims,
        );
        let mut api = self.api()?;
        (api.name, api.what) = (
            "api-jwt",
            "the same with a token whose signature it has verified before",
        );
        api.headers = format!("authorization: Bearer {token}\r\n");
        api.environment.extend([
            ("API__AUTH__MODE", "jwt".to_owned()),
            ("API__AUTH__SCOPE_CLAIM", "tenants".to_owned()),
            ("API__AUTH__JWT__ISSUER", ISSUER.to_owned()),
            ("API__AUTH__JWT__AUDIENCE", "api".to_owned()),
            (
                "API__AUTH__JWT__JWKS_URL",
                format!("http://{}/keys", self.upstream.fast),
            ),
        ]);
        Ok(api)
    }

    fn nginx(&self, program: Option<PathBuf>, log: bool) -> anyhow::Result<Contender> {
        let (name, what) = if log {
            ("nginx-log", "the same with a log in JSON")
        } else {
            (
                "nginx",
                "nginx as a proxy, with a token in its configuration",
            )
        };
        let mut nginx = self.contender(name, what, program.context("nginx is missing")?)?;
        let directory = self.directory.join(name);
        fs::create_dir_all(&directory)?;
        let format = r#"log_format json escape=json '{"severity":"INFO","time":"$time_iso8601","method":"$request_method","path":"$uri","status":$status,"seconds":$request_time,"id":"$request_id"}'; access_log /dev/null json;"#;
        let configuration = include_str!("nginx.conf")
            .replace("@DIRECTORY@", &directory.display().to_string())
            .replace("@UPSTREAM@", &self.upstream())
            .replace("@PORT@", &nginx.port.to_string())
            .replace("@PATH@", RUN)
            .replace("@TOKEN@", &Upstream::token())
            .replace("@MASTER@", if self.is_counted { "off" } else { "on" })
            .replace("@LOG@", if log { format } else { "access_log off;" });
        let file = directory.join("nginx.conf");
        let text = |path: &Path| path.display().to_string();
        nginx.arguments = [
            "-c",
            &text(&file),
            "-p",
            &text(&directory),
            "-e",
            &text(&directory.join("early")),
        ]
        .map(str::to_owned)
        .to_vec();
        nginx.file = Some((file, configuration));
        nginx.is_one_file = false;
        Ok(nginx)
    }

    fn forwarder(&self) -> anyhow::Result<Contender> {
        self.ourselves(
            "hyper",
            "a bare forwarder on hyper: no routes, no JSON, no log",
            "forward",
        )
    }

    fn sample(&self) -> anyhow::Result<Contender> {
        self.ourselves(
            "sample",
            "a token and a client for each request, as in the sample",
            "sample",
        )
    }

    /// The service's library over TLS, because the program itself does not trust the benchmark's root.
    pub fn over_tls(&self) -> anyhow::Result<Contender> {
        let mut tls =
            self.ourselves("api-tls", "the service's library, Google behind TLS", "tls")?;
        let root = self.directory.join("root.der");
        fs::write(&root, &self.upstream.root)?;
        let port = self.upstream.tls.port();
        tls.environment.push(("ROOT", root.display().to_string()));
        tls.environment.push((
            "API_CONFIG",
            folder("").join("api.toml").display().to_string(),
        ));
        tls.environment.push((
            "API__CLOUD_RUN__BASE_URL",
            format!("https://localhost:{port}"),
        ));
        Ok(tls)
    }

    /// This program in another role.
    fn ourselves(
        &self,
        name: &'static str,
        what: &'static str,
        role: &str,
    ) -> anyhow::Result<Contender> {
        let mut contender = self.contender(name, what, env::current_exe()?)?;
        contender.arguments = vec![role.to_owned()];
        contender.is_one_file = false;
        Ok(contender)
    }

    fn node(
        &self,
        program: Option<PathBuf>,
        name: &'static str,
        what: &'static str,
        mode: &str,
    ) -> anyhow::Result<Contender> {
        let mut node = self.contender(name, what, program.context("node is missing")?)?;
        node.arguments = vec![folder("node").join("app.mjs").display().to_string()];
        node.environment.push(("MODE", mode.to_owned()));
        node.is_one_file = false;
        Ok(node)
    }

    fn python(&self, program: &Path) -> anyhow::Result<Contender> {
        let what = "FastAPI with Google's client for Python";
        let mut python = self.contender("python-sdk", what, program.to_owned())?;
        let port = python.port.to_string();
        let folder = folder("python").display().to_string();
        let uvicorn = [
            "-m",
            "uvicorn",
            "--log-level",
            "warning",
            "--no-access-log",
            "--host",
            "127.0.0.1",
        ];
        let application = ["--app-dir", &folder, "--port", &port, "app:app"];
        python.arguments = uvicorn
            .iter()
            .chain(&application)
            .map(|text| (*text).to_owned())
            .collect();
        python.is_one_file = false;
        Ok(python)
    }
}

impl Contender {
    /// Starts the contender.
    pub fn start(&self, directory: &Path) -> anyhow::Result<Running> {
        if let Some((path, text)) = &self.file {
            fs::write(path, text)?;
        }
        let mut words = self
            .wrapper
            .iter()
            .map(PathBuf::from)
            .chain([self.program.clone()]);
        let mut command = Command::new(words.next().context("the command is empty")?);
        command.args(words).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Running::start(&mut command, &self.errors(directory))
    }

    /// Waits for the first answer. Returns the time from the start of the program.
    pub async fn answers(
        &self,
        running: &mut Running,
        begun: Instant,
        directory: &Path,
    ) -> anyhow::Result<Duration> {
        let request = load::request(PROCESS, &self.headers);
        loop {
            let asked = load::run(self.port, &request, 1, load::Until::Requests(1)).await;
            if asked.is_ok_and(|outcome| outcome.bad == 0) {
                return Ok(begun.elapsed());
            }
            if running.has_ended() || begun.elapsed() > PATIENCE {
                let errors = fs::read_to_string(self.errors(directory)).unwrap_or_default();
                anyhow::bail!("{} does not answer: {errors}", self.name);
            }
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
    }

    /// The size of the program in MiB.
    pub fn size(&self) -> Option<f64> {
        self.is_one_file
            .then(|| bench::machine::size(&self.program))
            .flatten()
    }

    fn errors(&self, directory: &Path) -> PathBuf {
        directory.join(format!("{}.errors", self.name))
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("beside")
        .join(name)
}

/// The path of the program with this name, if it is installed.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from); // where nginx is, which most users do not have on the PATH
    let mut programs = env::split_paths(&path)
        .chain(more)
        .map(|folder| folder.join(program));
    programs.find(|program| program.is_file())
}

fn free_port() -> anyhow::Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.port())
}
