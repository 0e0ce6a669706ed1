//! Who may ask. Any page that a browser on this machine shows may send requests here, also under a name of its own that resolves to
//! this machine. A tool that is no browser says nothing about pages and is let in.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::refusal::Refusal;
use crate::api::{is_loopback, is_own_page, only};

/// Turns away who may not ask; `by_loopback` is whether the endpoint must be called by a name of this machine.
pub(super) async fn guard(State(by_loopback): State<bool>, request: Request, next: Next) -> Response {
    match turned_away(by_loopback, request.uri(), request.headers()) {
        Some(refusal) => {
            tracing::warn!(code = refusal.code, "request for a conversation turned away");
            refusal.into_response()
        }
        None => next.run(request).await,
    }
}

fn turned_away(by_loopback: bool, uri: &Uri, headers: &HeaderMap) -> Option<Refusal> {
    let host = only(headers, header::HOST).unwrap_or_default();
    let named = uri.authority().map_or(host, Authority::as_str);
    if by_loopback && (!is_loopback(host) || named != host) {
        return Some(Refusal::new(StatusCode::FORBIDDEN, "not_from_here", "call it by 127.0.0.1 or localhost"));
    }
    // There is no page here to which a link could lead: whatever the method, it is as if something were changed.
    if !is_own_page(&Method::POST, host, headers) {
        let message = "a web page may not ask: let its server, or a program, do so";
        return Some(Refusal::new(StatusCode::FORBIDDEN, "foreign_page", message));
    }
    None
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    #[track_caller]
    fn check(by_loopback: bool, headers: &[(&'static str, &'static str)], expected: Option<&str>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let turned = turned_away(by_loopback, &Uri::from_static("/v1/models"), &map);
        assert_eq!(turned.map(|refusal| refusal.code), expected, "{headers:?}");
    }

    #[test]
    fn a_tool_is_let_in_and_a_page_of_somebody_else_is_not() {
        let ours = ("host", "127.0.0.1:8089");
        check(true, &[ours], None);
        check(true, &[("host", "localhost:8089"), ("sec-fetch-mode", "cors")], None);
        check(true, &[ours, ("origin", "http://127.0.0.1:8089"), ("sec-fetch-site", "same-origin")], None);
        for origin in ["http://evil.example", "https://evil.example", "null", "", "http://127.0.0.1.evil.example:8089"]
        {
            check(true, &[ours, ("origin", origin)], Some("foreign_page"));
            check(false, &[("host", "10.0.0.7:8089"), ("origin", origin)], Some("foreign_page"));
        }
        check(true, &[ours, ("sec-fetch-site", "cross-site")], Some("foreign_page"));
        let followed = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        check(true, &[&[ours, ("sec-fetch-site", "cross-site")][..], &followed].concat(), Some("foreign_page"));
    }

    #[test]
    fn on_loopback_it_is_called_by_a_name_of_this_machine() {
        for host in ["evil.example:80", "127.0.0.1.evil.example", "", "192.168.0.1:8089"] {
            check(true, &[("host", host)], Some("not_from_here"));
            check(false, &[("host", host)], None);
        }
        check(true, &[], Some("not_from_here"));
        check(true, &[("host", "[::1]:8089")], None);
    }
}
