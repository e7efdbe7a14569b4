//! The rules for imports between modules, checked in the `use` lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

type Imports = BTreeMap<String, BTreeSet<String>>;

#[test]
fn the_model_imports_neither_http_nor_cloud() {
    for (module, imports) in imports() {
        let below =
            module.starts_with("model") || ["site", "refusal", "processes"].contains(&&*module);
        let above = |import: &&String| import.starts_with("http") || *import == "cloud";
        assert_eq!(
            imports.iter().find(above).filter(|_| below),
            None,
            "{module}"
        );
        let http = imports.iter().find(|import| import.starts_with("http"));
        assert!(
            http.is_none() || module.starts_with("http") || module == "lib",
            "{module}"
        );
    }
}

#[test]
fn imports_have_no_cycle() {
    let mut left = imports();
    loop {
        let known: BTreeSet<String> = left.keys().cloned().collect();
        let before = left.len();
        left.retain(|_, imports| imports.iter().any(|import| known.contains(import)));
        if left.len() == before {
            break;
        }
    }
    assert!(left.is_empty(), "{left:#?}");
}

/// Maps each module to the modules of this crate that it imports.
fn imports() -> Imports {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = BTreeMap::new();
    collect(&source, "", &mut files);
    assert!(files.len() > 20, "{:?}", files.keys());
    let of = |(module, text): (&String, &String)| {
        let paths = text.split(";\n").filter_map(|statement| {
            let start = statement.rfind("use ")?;
            Some(statement[start + "use ".len()..].replace(char::is_whitespace, ""))
        });
        let named = paths.flat_map(|path| expanded(&path));
        let modules = named.filter_map(|path| resolved(module, &path, &files));
        (
            module.clone(),
            modules.filter(|import| import != module).collect(),
        )
    };
    files.iter().map(of).collect()
}

fn collect(directory: &Path, prefix: &str, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{prefix}{}", path.file_stem().unwrap().to_str().unwrap());
        if path.is_dir() {
            collect(&path, &format!("{name}::"), files);
        } else {
            let text = fs::read_to_string(&path).unwrap();
            let shipped = text.split("#[cfg(test)]").next().unwrap();
            files.insert(name, shipped.to_owned());
        }
    }
}

/// `a::{b, c::d}` as `a::b` and `a::c::d`.
fn expanded(path: &str) -> Vec<String> {
    let Some((head, rest)) = path.split_once('{') else {
        return vec![path.to_owned()];
    };
    let mut depth = 0;
    let inner = rest.strip_suffix('}').unwrap_or(rest);
    let parts = inner.split(move |c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    parts
        .flat_map(|part| expanded(&format!("{head}{part}")))
        .collect()
}

/// The module of this crate that contains `path`, as written in `module`.
fn resolved(module: &str, path: &str, files: &BTreeMap<String, String>) -> Option<String> {
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let absolute = if let Some(rest) = path.strip_prefix("crate::") {
        rest.to_owned()
    } else {
        let rest = path.strip_prefix("super::")?;
        format!("{parent}::{rest}")
            .trim_start_matches("::")
            .to_owned()
    };
    let mut candidate = absolute.as_str();
    loop {
        if files.contains_key(candidate) {
            return Some(candidate.to_owned());
        }
        candidate = candidate.rsplit_once("::")?.0;
    }
}
