use std::time::{Duration, Instant};

use axum::{
    body::Bytes,
    http::{HeaderMap, Method, StatusCode, header},
};
use tokio::time::timeout;

use super::{naming::NAME_HEADER, refusal::Refusal};

/// The largest answer that does not come as a stream, in bytes.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Headers that are between two neighbours, that kloros sets itself, or that are about the page that asks: a model server that lets
/// pages in must not do so through kloros.
const OWN_HEADERS: [&str; 15] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
    "content-length",
    "accept-encoding",
    "origin",
    "referer",
    NAME_HEADER,
    super::EXPLAIN_HEADER,
];

/// How the names of headers begin with which a server tells a browser what pages may do.
const PAGES_PREFIX: &str = "access-control-";

/// The model server.
#[derive(Clone, Debug)]
pub(super) struct Upstream {
    client: reqwest::Client,
    url: String,
    /// How long an answer, or a piece of one, may take.
    pub(super) within: Duration,
}

impl Upstream {
    /// Returns the server at `url`, without asking it anything.
    pub(super) fn new(url: &str, within: Duration) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            // A proxy of the environment must not hear what is said, and a redirect must not carry it elsewhere.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_MAX.min(within))
            // Each request has a connection of its own. llama.cpp's server ends one after each streamed answer and says so nowhere:
            // a turn that is just then sent on it would be lost, and asked again it might be answered twice.
            .pool_max_idle_per_host(0)
            .tcp_nodelay(true)
            .build()?;
        Ok(Self { client, url: url.to_owned(), within })
    }

    /// Sends a request on and returns the answer once its head is there.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &HeaderMap,
        body: Vec<u8>,
    ) -> Result<reqwest::Response, Refusal> {
        let request = self.client.request(method, format!("{}{path}", self.url)).headers(passed_on(headers)).body(body);
        match timeout(self.within, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.refusal(&error)),
            Err(_) => Err(self.late()),
        }
    }

    /// Returns the refusal of an answer that takes too long.
    pub(super) fn late(&self) -> Refusal {
        let message = format!("the model server gave no answer within {} s", self.within.as_secs());
        Refusal::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", message)
    }

    /// Returns what a failure of the connection means to the client.
    pub(super) fn refusal(&self, error: &reqwest::Error) -> Refusal {
        if error.is_timeout() {
            return self.late();
        }
        let (code, what) = if error.is_connect() {
            ("upstream_unreachable", "cannot be reached: start it, or set conversation.upstream")
        } else {
            ("upstream_broken", "broke off its answer")
        };
        Refusal::new(StatusCode::BAD_GATEWAY, code, format!("the model server at {} {what}", self.url))
    }
}

/// Reads an answer that is no stream; `began` is when it was asked for.
pub(super) async fn whole(
    mut response: reqwest::Response,
    upstream: &Upstream,
    began: Instant,
) -> Result<Bytes, Refusal> {
    let reading = async {
        let mut body = Vec::new();
        while let Some(bytes) = response.chunk().await.map_err(|error| upstream.refusal(&error))? {
            body.extend_from_slice(&bytes);
            if body.len() > ANSWER_BYTES_MAX {
                let message = format!("the answer is larger than {ANSWER_BYTES_MAX} bytes");
                return Err(Refusal::new(StatusCode::BAD_GATEWAY, "upstream_broken", message));
            }
        }
        Ok(Bytes::from(body))
    };
    let left = upstream.within.saturating_sub(began.elapsed());
    timeout(left, reading).await.unwrap_or_else(|_| Err(upstream.late()))
}

/// Returns the headers that are passed on.
pub(super) fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(|name| name.trim().to_ascii_lowercase()))
        .collect();
    let is_own = |name: &str| {
        OWN_HEADERS.contains(&name) || name.starts_with(PAGES_PREFIX) || named.iter().any(|own| own == name)
    };
    headers
        .iter()
        .filter(|(name, _)| !is_own(name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_neighbours_and_what_is_about_pages_is_not_passed_on() {
        let mut headers = HeaderMap::new();
        for name in [
            "origin",
            "referer",
            "access-control-allow-origin",
            "access-control-allow-credentials",
            "access-control-request-method",
            "connection",
            "x-hop",
            "authorization",
            "content-type",
        ] {
            headers.insert(name, axum::http::HeaderValue::from_static("x-hop"));
        }
        let mut passed: Vec<String> = passed_on(&headers).keys().map(ToString::to_string).collect();
        passed.sort();
        assert_eq!(passed, ["authorization", "content-type"]);
    }
}
