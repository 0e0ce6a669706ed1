//! The door over TCP: who may come in, decided on the head of a request before anything else looks at it.
//!
//! Loopback is no border. Any page that a browser on this machine shows may send requests here, also under a name of its own that
//! resolves to 127.0.0.1 (DNS rebinding). So the name that a request asks for must be loopback itself, a page that asks must be
//! ours, and who changes anything must present the token, which no page is given by itself: there are no cookies.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::Response,
};

use super::{caller::Caller, refusal, token::Token};

/// What the door knows.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) token: Arc<Token>,
    /// The user whose word the token gives.
    pub(super) uid: u32,
}

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turned {
    /// It asks for a name that is not loopback.
    NotOurName,
    /// A page of somebody else sent it.
    Foreign,
    /// The token is not ours.
    WrongToken,
}

impl Turned {
    fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::NotOurName => (StatusCode::MISDIRECTED_REQUEST, "ask for 127.0.0.1, [::1] or localhost by name"),
            Self::Foreign => (StatusCode::FORBIDDEN, "a page of another origin may not ask"),
            Self::WrongToken => (StatusCode::UNAUTHORIZED, "this is not the token: kloros console prints it"),
        }
    }
}

impl Door {
    /// Returns who asks, or why they are turned away.
    pub(super) fn admit(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Caller, Turned> {
        let host = only(headers, header::HOST).ok_or(Turned::NotOurName)?;
        let named = uri.authority().map_or(host, axum::http::uri::Authority::as_str);
        if !is_loopback(host) || named != host {
            return Err(Turned::NotOurName);
        }
        if !is_own_page(method, host, headers) {
            return Err(Turned::Foreign);
        }
        if !headers.contains_key(header::AUTHORIZATION) {
            return Ok(Caller::Anyone);
        }
        let presented = only(headers, header::AUTHORIZATION).and_then(|text| text.strip_prefix("Bearer "));
        match presented {
            Some(presented) if self.token.is(presented.trim()) => Ok(Caller::User(self.uid)),
            _ => Err(Turned::WrongToken),
        }
    }
}

/// Returns the text of a header that stands once.
pub(crate) fn only(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?.to_str().ok()?;
    all.next().is_none().then_some(first)
}

/// Returns whether a host with or without a port is this machine by an address or name that cannot be another's. It is parsed, not
/// compared by its beginning: `127.0.0.1.evil.com` is somebody else.
pub(crate) fn is_loopback(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, rest)) => (name, rest),
        None => host.split_once(':').map_or((host, ""), |(name, _)| (name, &host[name.len()..])),
    };
    let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    let is_name = name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    is_port && is_name
}

/// Returns whether no page of somebody else can have sent it. A link on another page may be followed, which shows our page and
/// changes nothing.
pub(crate) fn is_own_page(method: &Method, host: &str, headers: &HeaderMap) -> bool {
    if headers.contains_key(header::ORIGIN) {
        let origin = only(headers, header::ORIGIN).and_then(|origin| origin.strip_prefix("http://"));
        if origin != Some(host) {
            return false;
        }
    }
    let fetch = |name: &'static str| only(headers, header::HeaderName::from_static(name));
    match fetch("sec-fetch-site") {
        None | Some("same-origin" | "none") => true,
        Some(_) => {
            method == Method::GET
                && fetch("sec-fetch-mode") == Some("navigate")
                && fetch("sec-fetch-dest") == Some("document")
        }
    }
}

/// Stands where nobody presents a token and no page is served: no page may ask, and where `by_loopback`, it has to be asked for by a name
/// of this machine.
pub(crate) async fn no_page(State(by_loopback): State<bool>, request: Request, next: Next) -> Response {
    match strange(by_loopback, request.uri(), request.headers()) {
        None => next.run(request).await,
        Some(turned) => {
            let (status, why) = turned.answer();
            tracing::warn!(?turned, path = request.uri().path(), "request turned away");
            refusal(status, why)
        }
    }
}

fn strange(by_loopback: bool, uri: &Uri, headers: &HeaderMap) -> Option<Turned> {
    let host = only(headers, header::HOST).unwrap_or_default();
    let named = uri.authority().map_or(host, axum::http::uri::Authority::as_str);
    if by_loopback && (!is_loopback(host) || named != host) {
        return Some(Turned::NotOurName);
    }
    (!is_own_page(&Method::GET, host, headers)).then_some(Turned::Foreign)
}

/// Stands at the door.
pub(super) async fn guard(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    let admitted = door.admit(request.method(), request.uri(), request.headers());
    let mut response = match admitted {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(turned) => {
            let (status, why) = turned.answer();
            tracing::warn!(?turned, path = request.uri().path(), "request over TCP turned away");
            refusal(status, why)
        }
    };
    seal(response.headers_mut());
    response
}

/// What a browser may do with our answers: show them, load nothing from elsewhere, keep nothing, guess nothing.
fn seal(headers: &mut HeaderMap) {
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                  base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;

    fn door() -> (tempfile::TempDir, Door) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        home.create().unwrap();
        let token = Arc::new(Token::of(&home).unwrap());
        (folder, Door { token, uid: 7 })
    }

    #[track_caller]
    fn check(method: &Method, uri: &str, headers: &[(&str, &str)], expected: Result<Caller, Turned>) {
        let (_folder, door) = door();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let value = value.replace("TOKEN", door.token.reveal());
            map.append(
                header::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(&value).unwrap(),
            );
        }
        assert_eq!(door.admit(method, &uri.parse().unwrap(), &map), expected, "{headers:?}");
    }

    #[test]
    fn only_who_asks_for_loopback_by_its_own_name_is_let_in() {
        for host in ["127.0.0.1:9465", "127.0.0.1", "localhost:8000", "LOCALHOST:1", "[::1]:9465", "127.1.2.3:9"] {
            check(&Method::GET, "/api/v1/live", &[("host", host)], Ok(Caller::Anyone));
        }
        for host in [
            "127.0.0.1.evil.com",
            "evil.com:9465",
            "localhost.evil.com",
            "evil.com",
            "0.0.0.0:9465",
            "192.168.0.1",
            "[::]:1",
            "",
            ":9465",
            "localhost:",
            "localhost:x",
            "localhost:99999",
            "2130706433",
            "127.1",
            "user@localhost",
            "[::1]x",
        ] {
            check(&Method::GET, "/", &[("host", host)], Err(Turned::NotOurName));
        }
        check(&Method::GET, "/", &[], Err(Turned::NotOurName));
        check(&Method::GET, "/", &[("host", "localhost"), ("host", "localhost")], Err(Turned::NotOurName));
        check(&Method::GET, "http://evil.com/", &[("host", "localhost")], Err(Turned::NotOurName));
    }

    #[test]
    fn a_page_of_another_origin_is_turned_away_unless_its_link_is_followed() {
        let with = |more: &[(&'static str, &'static str)], method: Method, expected| {
            check(&method, "/", &[&[("host", "127.0.0.1:9465")], more].concat(), expected);
        };
        with(&[("origin", "http://127.0.0.1:9465")], Method::POST, Ok(Caller::Anyone));
        for origin in
            ["http://evil.com", "null", "http://127.0.0.1:3000", "https://127.0.0.1:9465", "http://localhost:9465", ""]
        {
            check(&Method::GET, "/", &[("host", "127.0.0.1:9465"), ("origin", origin)], Err(Turned::Foreign));
        }
        with(&[("sec-fetch-site", "same-origin")], Method::POST, Ok(Caller::Anyone));
        with(&[("sec-fetch-site", "cross-site")], Method::GET, Err(Turned::Foreign));
        with(&[("sec-fetch-site", "same-site")], Method::GET, Err(Turned::Foreign));
        let followed =
            [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        with(&followed, Method::GET, Ok(Caller::Anyone));
        with(&followed, Method::POST, Err(Turned::Foreign));
        let framed = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
        with(&framed, Method::GET, Err(Turned::Foreign));
    }

    #[test]
    fn the_token_gives_the_word_of_its_user_and_a_wrong_one_gives_nothing() {
        let with = |value: &str, expected| {
            check(&Method::POST, "/", &[("host", "[::1]:9465"), ("authorization", value)], expected);
        };
        with("Bearer TOKEN", Ok(Caller::User(7)));
        for wrong in ["Bearer ", "Bearer TOKENx", "TOKEN", "Basic TOKEN", "bearer TOKEN", ""] {
            with(wrong, Err(Turned::WrongToken));
        }
        let twice = [("host", "localhost"), ("authorization", "Bearer TOKEN"), ("authorization", "Bearer x")];
        check(&Method::POST, "/", &twice, Err(Turned::WrongToken));
    }
}
