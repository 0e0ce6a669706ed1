//! The console: one page in a browser that shows the loop as it turns, and asks the control API for everything else.
//!
//! Everything is in the program: plain modules that no tool has to build, and one vendored library for plots. Nothing is loaded from
//! elsewhere. `assets/uplot.LICENSE` is the licence of that library (MIT), version 1.6.32 of the npm package `uplot`, unchanged.

use axum::{
    Router,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};

/// A file of the page.
struct Asset {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

macro_rules! assets {
    ($($path:literal $kind:ident $file:literal,)*) => {
        [$(Asset { path: $path, kind: $kind, text: include_str!(concat!("assets/", $file)) }),*]
    };
}

/// What tells the files of one version from those of another.
const VERSION: &str = concat!("\"", env!("CARGO_PKG_VERSION"), "\"");

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// The files of the page.
static ASSETS: [Asset; 17] = assets![
    "/" HTML "index.html",
    "/console.css" STYLE "console.css",
    "/icon.svg" PICTURE "icon.svg",
    "/favicon.ico" PICTURE "icon.svg",
    "/app.js" SCRIPT "app.js",
    "/api.js" SCRIPT "api.js",
    "/dom.js" SCRIPT "dom.js",
    "/ring.js" SCRIPT "ring.js",
    "/rooms.js" SCRIPT "rooms.js",
    "/experiments.js" SCRIPT "experiments.js",
    "/deployments.js" SCRIPT "deployments.js",
    "/machine.js" SCRIPT "machine.js",
    "/learning.js" SCRIPT "learning.js",
    "/approvals.js" SCRIPT "approvals.js",
    "/story.js" SCRIPT "story.js",
    "/uplot.js" SCRIPT "uplot.js",
    "/uplot.css" STYLE "uplot.css",
];

/// Returns the routes of the page.
pub(crate) fn router() -> Router {
    ASSETS.iter().fold(Router::new(), |router, asset| {
        router.route(asset.path, get(move |headers: HeaderMap| async move { give(asset, &headers) }))
    })
}

/// Answers with a file, or that the one which the browser has is still good.
fn give(asset: &'static Asset, headers: &HeaderMap) -> Response {
    // A development build changes its page without changing its version.
    let cached = if cfg!(debug_assertions) { "no-store" } else { "no-cache" };
    let common = [(header::ETAG, VERSION), (header::CACHE_CONTROL, cached)];
    if !cfg!(debug_assertions) && headers.get(header::IF_NONE_MATCH).is_some_and(|tag| tag == VERSION) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    ([(header::CONTENT_TYPE, asset.kind)], common, asset.text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a browser loads before the first view is whole.
    const FIRST_VIEW_BYTES_MAX: usize = 200 * 1024;

    #[test]
    fn the_page_is_small_and_names_nothing_that_lies_elsewhere() {
        let size: usize = ASSETS.iter().map(|asset| asset.text.len()).sum();
        assert!(size < FIRST_VIEW_BYTES_MAX, "{size} bytes");
        for asset in ASSETS.iter().filter(|asset| asset.path != "/uplot.js") {
            let text = asset.text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http://") && !text.contains("https://"), "{}", asset.path);
            // A drawing may name a part of itself.
            let text = text.replace("url(#", "");
            assert!(!text.contains("@import") && !text.contains("url("), "{}", asset.path);
        }
    }

    #[test]
    fn the_page_loads_what_there_is_and_writes_no_markup_from_data() {
        let paths: Vec<&str> = ASSETS.iter().map(|asset| asset.path).collect();
        for asset in ASSETS.iter().filter(|asset| !asset.path.starts_with("/uplot")) {
            for piece in asset.text.split("from \"./").skip(1) {
                let name = piece.split('"').next().unwrap_or_default();
                assert!(paths.contains(&format!("/{name}").as_str()), "{} imports {name}", asset.path);
            }
            for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "onclick="] {
                assert!(!asset.text.contains(word), "{} uses {word}", asset.path);
            }
        }
        let page = ASSETS[0].text;
        for piece in page.split("src=\"").chain(page.split("href=\"")).skip(1) {
            let name = piece.split('"').next().unwrap_or_default();
            let is_local = name.starts_with('#') || paths.contains(&name);
            assert!(is_local || !name.starts_with('/'), "the page names {name}");
        }
    }
}
