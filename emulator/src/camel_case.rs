//! Names in camel case, which Google's JSON uses.

/// The words of `name`, which `separator` separates, in camel case: `insert_id` as `insertId`.
pub(crate) fn camel_case(name: &str, separator: char) -> String {
    let mut words = name.split(separator);
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel
}
