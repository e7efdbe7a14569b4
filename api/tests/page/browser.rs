//! Chromium, driven through chromedriver: the few commands of WebDriver that the tests need.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

/// How long to wait for a condition. Chromium on a busy machine is slow.
const PATIENCE: Duration = Duration::from_secs(40);
/// The pause between two checks of a condition.
const PAUSE: Duration = Duration::from_millis(50);
const FLAGS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];
/// Helpers for the scripts of the tests: the element, and its parts by name.
const PRELUDE: &str = "
    const element = document.querySelector('process-button');
    const part = (name) => element?.shadowRoot?.querySelector(`[part=${name}]`);
    const text = (name) => part(name)?.textContent;
    const state = element?.getAttribute('state');";

/// More browsers at one time only make each slower on a machine with two processors.
static BROWSERS: Semaphore = Semaphore::const_new(2);

/// A fresh browser; dropping it ends it.
pub struct Browser {
    http: reqwest::Client,
    session: String,
    profile: PathBuf,
    driver: Driver,
    _permit: SemaphorePermit<'static>,
}

impl Browser {
    /// Starts a browser. None if it is not installed, which is a failure if `CI` is set.
    pub async fn start() -> Option<Self> {
        let (Some(chromium), Some(chromedriver)) = (program("chromium"), program("chromedriver"))
        else {
            assert!(
                std::env::var_os("CI").is_none(),
                "CI needs chromium and chromedriver"
            );
            eprintln!("skipped: chromium and chromedriver are not both on the PATH");
            return None;
        };
        let permit = BROWSERS.acquire().await.unwrap();
        let driver = Driver::start(chromedriver);
        let profile = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!(
            "chromium-{}-{}",
            std::process::id(),
            driver.port
        ));
        let mut args: Vec<String> = FLAGS.iter().map(ToString::to_string).collect();
        args.push(format!("--user-data-dir={}", profile.display()));
        let capabilities = json!({"alwaysMatch": {
            "goog:chromeOptions": {"binary": chromium, "args": args},
            "goog:loggingPrefs": {"browser": "ALL"},
        }});
        let mut browser = Self {
            http: api::gcp::http_client::HttpClients::new().unwrap().reqwest,
            session: format!("http://127.0.0.1:{}/session", driver.port),
            profile,
            driver,
            _permit: permit,
        };
        let answer = browser
            .post("", json!({ "capabilities": capabilities }))
            .await;
        browser.session += &format!("/{}", answer["sessionId"].as_str().unwrap());
        Some(browser)
    }

    pub async fn open(&self, url: &str) {
        self.post("/url", json!({ "url": url })).await;
    }

    pub async fn reload(&self) {
        self.post("/refresh", json!({})).await;
    }

    /// The value that the script returns. It can use `element`, `part(name)`, `text(name)` and `state`.
    pub async fn script(&self, script: &str) -> Value {
        let script = format!("return (async () => {{ {PRELUDE}\n{script}\n}})()");
        self.post("/execute/sync", json!({ "script": script, "args": [] }))
            .await
    }

    /// The value of an expression.
    pub async fn value(&self, expression: &str) -> Value {
        self.script(&format!("return {expression}")).await
    }

    /// Waits until the expression is true.
    pub async fn until(&self, condition: &str) {
        let began = Instant::now();
        while self.value(&format!("Boolean({condition})")).await != json!(true) {
            if began.elapsed() > PATIENCE {
                let shown = self
                    .value("`${state}: ${element?.shadowRoot?.textContent}`")
                    .await;
                panic!("{condition} never came true; on show was {shown}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Clicks on the element that the expression returns, as a user does.
    pub async fn click(&self, target: &str) {
        self.clicks(target, 1).await;
    }

    pub async fn double_click(&self, target: &str) {
        self.clicks(target, 2).await;
    }

    async fn clicks(&self, target: &str, times: usize) {
        let spot = format!(
            "const target = {target}; target.scrollIntoView({{ block: 'center', behavior: 'instant' }});
             const box = target.getBoundingClientRect();
             return [Math.round(box.x + box.width / 2), Math.round(box.y + box.height / 2)]"
        );
        let spot = self.script(&spot).await;
        let mut actions =
            vec![json!({"type": "pointerMove", "x": spot[0], "y": spot[1], "duration": 0})];
        for _ in 0..times {
            actions.push(json!({"type": "pointerDown", "button": 0}));
            actions.push(json!({"type": "pointerUp", "button": 0}));
        }
        let mouse = json!({"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions});
        self.post("/actions", json!({ "actions": [mouse] })).await;
    }

    /// Types on the keyboard into the focused element.
    pub async fn keys(&self, keys: &str) {
        let strokes = keys.chars().flat_map(|key| {
            let stroke = |kind| json!({"type": kind, "value": key});
            [stroke("keyDown"), stroke("keyUp")]
        });
        let keyboard =
            json!({"type": "key", "id": "keyboard", "actions": strokes.collect::<Vec<_>>()});
        self.post("/actions", json!({ "actions": [keyboard] }))
            .await;
    }

    /// Holds Enter until it has repeated so many times, as a keyboard does, and releases it.
    pub async fn hold_enter(&self, repeats: usize) {
        let event = |kind: &str, repeat: usize| {
            json!({
                "type": kind, "autoRepeat": repeat > 0, "windowsVirtualKeyCode": 13, "key": "Enter", "code": "Enter", "text": "\r",
            })
        };
        for repeat in 0..=repeats {
            self.devtools("Input.dispatchKeyEvent", event("keyDown", repeat))
                .await;
        }
        self.devtools("Input.dispatchKeyEvent", event("keyUp", 0))
            .await;
    }

    /// Replaces the text of the field that the selector names.
    pub async fn fill(&self, selector: &str, text: &str) {
        self.script(&format!(
            "const field = document.querySelector('{selector}'); field.focus(); field.select()"
        ))
        .await;
        self.keys(text).await;
    }

    /// Warnings and errors of the console, other than of requests that failed.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.post("/se/log", json!({"type": "browser"})).await;
        let entries = log.as_array().unwrap().iter();
        let serious =
            entries.filter(|entry| entry["source"] != "network" && entry["level"] != "INFO");
        serious
            .map(|entry| entry["message"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Sets the size of the window, and the user's preference for dark colours.
    pub async fn look(&self, width: u32, height: u32, scheme: &str) {
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            json!({
                "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500,
            }),
        )
        .await;
        let scheme = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", scheme).await;
    }

    /// Saves a screenshot of the page in the directory named by `SCREENSHOTS`, or else in the target directory.
    pub async fn screenshot(&self, name: &str) {
        let directory = std::env::var_os("SCREENSHOTS").map(PathBuf::from);
        let directory = directory
            .unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../screenshots"));
        fs::create_dir_all(&directory).unwrap();
        let shot = self.get("/screenshot").await;
        fs::write(
            directory.join(format!("{name}.png")),
            base64(shot.as_str().unwrap()),
        )
        .unwrap();
    }

    async fn devtools(&self, command: &str, params: Value) {
        self.post(
            "/goog/cdp/execute",
            json!({"cmd": command, "params": params}),
        )
        .await;
    }

    async fn get(&self, path: &str) -> Value {
        value_of(self.http.get(format!("{}{path}", self.session))).await
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        value_of(
            self.http
                .post(format!("{}{path}", self.session))
                .json(&body),
        )
        .await
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.driver.stop();
        let _ = fs::remove_dir_all(&self.profile);
    }
}

async fn value_of(request: reqwest::RequestBuilder) -> Value {
    let response = request.send().await.unwrap();
    let status = response.status();
    let answer: Value = response.json().await.unwrap();
    assert!(status.is_success(), "{answer}");
    answer["value"].clone()
}

/// A running chromedriver.
struct Driver {
    process: Child,
    port: u16,
}

impl Driver {
    fn start(program: PathBuf) -> Self {
        let mut command = Command::new(program);
        let mut process = command
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let started = lines.find_map(|line| {
            let line = line.unwrap();
            line.rsplit_once("successfully on port ")
                .map(|(_, port)| port.trim_end_matches('.').parse())
        });
        let port = started
            .unwrap_or_else(|| panic!("chromedriver did not say its port"))
            .unwrap();
        std::thread::spawn(move || lines.for_each(drop)); // a full pipe would stop it
        Self { process, port }
    }

    /// Asks chromedriver to stop, which closes its browser. If it were killed, the browser would keep running.
    fn stop(&mut self) {
        let asked = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(
                b"GET /shutdown HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            )?;
            stream.read_to_end(&mut Vec::new())
        });
        if asked.is_err() {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// Decodes base64, in which WebDriver sends screenshots.
fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|c| *c != b'=').map(digit).collect();
    let bytes = digits.chunks(4).flat_map(|group| {
        let bits = group
            .iter()
            .fold(0, |bits, digit| bits << 6 | u32::from(*digit))
            << (6 * (4 - group.len()));
        bits.to_be_bytes()[1..group.len()].to_vec()
    });
    bytes.collect()
}
