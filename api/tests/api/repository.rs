//! Checks the repository: the tables in docs/, the links of its documents, and its dependencies.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use api::http::problem::Kind;
use serde_json::{Map, Value};

const SETTINGS: &str = include_str!("../../../docs/settings.md");
const ERRORS: &str = include_str!("../../../docs/errors.md");
const DEFAULTS: &str = include_str!("../../default.toml");

fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap()
}

/// The text of the page between the comment that begins with the name and the one that ends it.
fn table(page: &'static str, name: &str) -> &'static str {
    let (_, after) = page.split_once(&format!("<!-- {name}:")).unwrap();
    let (_, after) = after.split_once("-->\n").unwrap();
    let end = format!("<!-- end of {name} -->");
    after.split_once(&end).unwrap().0.trim_end()
}

#[test]
fn the_settings_table_matches_default_toml() {
    let mut expected =
        "| setting | environment | default | what for |\n| --- | --- | --- | --- |".to_owned();
    for setting in settings() {
        let environment = format!("API__{}", setting.key.replace('.', "__").to_uppercase());
        let Setting { key, default, text } = setting;
        expected.push_str(&format!(
            "\n| `{key}` | `{environment}` | {default} | {text} |"
        ));
    }
    let actual = table(SETTINGS, "settings");
    assert!(
        actual == expected,
        "the table in docs/settings.md should read\n\n{expected}\n"
    );
}

/// One row of the table.
struct Setting {
    key: String,
    default: String,
    text: String,
}

/// The settings of default.toml in its order. The comment lines above each explain it; `# key = value` is a setting without a
/// default. An empty section is one setting, and a comment in it is an example.
fn settings() -> Vec<Setting> {
    let defaults: Map<String, Value> = toml::from_str(DEFAULTS).unwrap();
    let (mut settings, mut section, mut explanation) = (Vec::new(), "", Vec::new());
    for line in DEFAULTS.lines() {
        let is_whole = defaults.get(section) == Some(&Value::Object(Map::new()));
        let comment = line.strip_prefix("# ");
        if let Some(name) = section_name(line) {
            section = name;
            if defaults.get(name) == Some(&Value::Object(Map::new())) {
                settings.push(Setting::new(name, "", &explanation));
            }
            explanation.clear();
        } else if let Some((key, value)) = assignment(comment.unwrap_or(line)) {
            if !is_whole {
                let key = if section.is_empty() {
                    key
                } else {
                    format!("{section}.{key}")
                };
                let default = comment.map_or_else(|| written(&value), |_| String::new());
                settings.push(Setting::new(&key, &default, &explanation));
            }
            explanation.clear();
        } else if let Some(sentence) = comment {
            explanation.push(sentence);
        } else {
            explanation.clear();
        }
    }
    settings
}

/// The key and value of a line that assigns one.
fn assignment(line: &str) -> Option<(String, Value)> {
    let parsed: Map<String, Value> = toml::from_str(line).ok()?;
    parsed.into_iter().next()
}

fn section_name(line: &str) -> Option<&str> {
    line.strip_prefix('[')?.strip_suffix(']')
}

impl Setting {
    fn new(key: &str, default: &str, explanation: &[&str]) -> Self {
        let text = explanation.join(" ").replace('|', "\\|");
        assert!(
            text.ends_with('.'),
            "{key} is explained by {text:?}: write a sentence above it in default.toml"
        );
        Self {
            key: key.to_owned(),
            default: default.to_owned(),
            text,
        }
    }
}

/// A default as the table shows it. An empty text is shown as nothing.
fn written(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => String::new(),
        Value::String(text) => format!("`{text}`"),
        Value::Object(table) => {
            let entries: Vec<_> = table
                .iter()
                .map(|(key, value)| format!("{key} = {value}"))
                .collect();
            format!("`{{ {} }}`", entries.join(", "))
        }
        value => format!("`{value}`"),
    }
}

/// Every key that the service reads is a row: none was missed by reading default.toml line by line.
#[test]
fn no_setting_is_missing_in_the_table() {
    let mut keys = Vec::new();
    flatten("", &toml::from_str(DEFAULTS).unwrap(), &mut keys);
    let rows: Vec<_> = settings().into_iter().map(|setting| setting.key).collect();
    for key in keys {
        assert!(
            rows.contains(&key),
            "{key} has no explanation in default.toml"
        );
    }
}

fn flatten(path: &str, value: &Value, keys: &mut Vec<String>) {
    match value {
        Value::Object(table) if !table.is_empty() && path != "overrides.env" => {
            for (key, value) in table {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                flatten(&path, value, keys);
            }
        }
        _ => keys.push(path.to_owned()),
    }
}

#[test]
fn the_table_of_problems_matches_the_code() {
    let mut expected =
        "| problem | status | again? | why | what to do |\n| --- | --- | --- | --- | --- |"
            .to_owned();
    for kind in Kind::ALL {
        let (slug, status) = (kind.slug(), kind.status().as_u16());
        let again = if kind.retryable() { "yes" } else { "no" };
        let (why, cure) = (kind.why(), kind.cure());
        expected.push_str(&format!(
            "\n| `{slug}` | {status} | {again} | {why} | {cure} |"
        ));
    }
    let actual = table(ERRORS, "errors");
    assert!(
        actual == expected,
        "the table in docs/errors.md should read\n\n{expected}\n"
    );
}

#[test]
fn every_link_in_the_documents_leads_to_a_file_and_heading() {
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        for target in links(&text) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() {
                document.clone()
            } else {
                document.parent().unwrap().join(file)
            };
            let broken = format!("{} links to {target}", document.display());
            assert!(path.exists(), "{broken}");
            if !anchor.is_empty() {
                let text = std::fs::read_to_string(path).unwrap();
                assert!(anchors(&text).any(|known| known == anchor), "{broken}");
            }
        }
    }
}

/// Every Markdown file that a reader may open: those of the workspace, and the pages of docs/.
fn documents() -> Vec<PathBuf> {
    let folders = [workspace().to_owned(), workspace().join("docs")];
    let entries = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    let documents: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .chain([workspace().join("emulator/README.md")])
        .collect();
    assert!(documents.len() > 10, "{documents:?}");
    documents
}

/// A reader cannot find a page that the README does not name.
#[test]
fn the_readme_links_to_every_page() {
    let readme = std::fs::read_to_string(workspace().join("README.md")).unwrap();
    let linked: Vec<_> = links(&readme).collect();
    for entry in std::fs::read_dir(workspace().join("docs")).unwrap() {
        let path = format!("docs/{}", entry.unwrap().file_name().display());
        assert!(
            !path.ends_with(".md") || linked.contains(&&path[..]),
            "README.md does not link to {path}"
        );
    }
}

#[test]
fn architecture_md_names_every_file_of_the_service() {
    let text = std::fs::read_to_string(workspace().join("ARCHITECTURE.md")).unwrap();
    let mapped: Vec<_> = links(&text).collect();
    for entry in std::fs::read_dir(workspace().join("api/src")).unwrap() {
        let path = format!("api/src/{}", entry.unwrap().file_name().display());
        assert!(
            mapped.contains(&&path[..]),
            "ARCHITECTURE.md does not say what {path} is about"
        );
    }
}

/// The targets of Markdown links that are not URLs.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'));
    targets
        .map(|(target, _)| target)
        .filter(|target| !target.contains("://"))
}

/// The headings as anchors, the way GitHub makes them of plain words.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        words.replace(' ', "-").replace([',', '.', '?'], "")
    })
}

/// The emulator must not reach production through any package of which the service is built.
#[test]
fn the_service_is_built_without_the_emulator() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = Command::new(cargo)
        .args([
            "tree",
            "--locked",
            "--package",
            "api",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
        ])
        .current_dir(workspace())
        .output()
        .unwrap();
    let packages = String::from_utf8(tree.stdout).unwrap();
    assert!(
        tree.status.success(),
        "{}",
        String::from_utf8_lossy(&tree.stderr)
    );
    assert!(
        packages.starts_with("api v") && packages.contains("\naxum v"),
        "{packages}"
    );
    let ours = |line: &&str| line.contains(&format!("({}", workspace().display()));
    let ours: Vec<_> = packages.lines().filter(ours).collect();
    assert_eq!(
        ours.len(),
        1,
        "api depends on no other package of this workspace: {ours:?}"
    );
}

/// Checks the layers of ARCHITECTURE.md by the `use` lines and the paths in the code.
#[test]
fn only_lib_imports_http_and_gcp_imports_few_names_of_the_domain() {
    let source = workspace().join("api/src");
    let mut files = Vec::new();
    let mut folders = vec![source.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("rs") => files.push(path),
                _ if path.is_dir() => folders.push(path),
                _ => {}
            }
        }
    }
    assert!(files.len() > 50, "only {} files were found", files.len());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let name = file.strip_prefix(&source).unwrap().to_str().unwrap();
        let imported = imports(&text);
        let is_http = name.starts_with("http") || ["lib.rs", "main.rs"].contains(&name);
        assert!(
            is_http || !imported.contains("http"),
            "{name} lies below http/ and imports it"
        );
        if name.starts_with("gcp") {
            let allowed = [
                "gcp",
                "execution",
                "overrides",
                "scope",
                "backoff",
                "cached",
                "caller_id",
                "random",
            ];
            let other = imported
                .iter()
                .find(|module| !allowed.contains(&&module[..]));
            assert!(other.is_none(), "{name} is in gcp/ and imports {other:?}");
        }
    }
}

/// The modules of the crate that a file names.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n");
    let mut modules = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let names = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default(),
            None => rest,
        };
        let end = |c: char| !(c.is_alphanumeric() || c == '_');
        if rest.starts_with('{') {
            modules.extend(names.split(',').filter_map(|name| {
                let name = name.trim().split(end).next()?;
                (!name.is_empty()).then(|| name.to_owned())
            }));
        } else {
            modules.extend(names.split(end).next().map(str::to_owned));
        }
    }
    modules
}
