//! The files of the page and the button, which are compiled into the program.

/// The page that `GET /` shows.
pub const PAGE_HTML: &str = include_str!("web/page.html");
/// Its style sheet.
pub const PAGE_CSS: &str = include_str!("web/page.css");
/// Its script.
pub const PAGE_JS: &str = include_str!("web/page.js");
/// The types of the button, for editors and compilers.
pub const BUTTON_TYPES: &str = include_str!("web/button.d.ts");
/// The button: one module without imports, because people copy its address. Its parts share one scope.
pub const BUTTON_JS: &str = concat!(
    include_str!("web/button/head.js"),
    include_str!("web/button/service.js"),
    include_str!("web/button/words.js"),
    include_str!("web/button/log.js"),
    "\nconst CSS_TEXT = `",
    include_str!("web/button/style.css"),
    "`;\n",
    include_str!("web/button/element.js"),
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_no_inline_code_and_no_foreign_address() {
        let html = PAGE_HTML.replace("http://www.w3.org/2000/svg", "");
        for forbidden in [
            "<style", "style=", "onclick", "onload", "http://", "https://", "<script>",
        ] {
            assert!(!html.contains(forbidden), "{forbidden} in page.html");
        }
    }

    #[test]
    fn the_buttons_style_needs_no_escaping_in_a_script() {
        let style = include_str!("web/button/style.css");
        assert!(!style.contains(['`', '\\', '$']));
    }

    #[test]
    fn the_scripts_use_no_sink_that_trusted_types_refuse() {
        for script in [BUTTON_JS, PAGE_JS] {
            for sink in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
            ] {
                assert!(!script.contains(sink), "{sink}");
            }
        }
        assert!(!BUTTON_JS.lines().any(|line| line.starts_with("import ")));
    }
}
