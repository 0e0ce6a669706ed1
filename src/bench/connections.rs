//! Connections to a web server: at most one for each request that is under way, used again where the server keeps them.
//!
//! Spoken to at the level of single connections, because what a client costs is part of what is measured on the same machine.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Uri,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
    header::{HOST, HeaderMap, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use kloros_actors::facts::HttpBench;
use tokio::{
    net::TcpStream,
    task::AbortHandle,
    time::{Instant, timeout, timeout_at},
};

use super::request::{CONNECT_MAX, RequestError, words};

/// How often a request is sent anew because the server had closed the connection before it could be sent; each further time on
/// another one. The last is new.
const STALE_MAX: u32 = 3;

const MS_PER_S: f64 = 1000.0;

/// A right answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Page {
    /// From the scheduled moment to the last byte, in milliseconds.
    pub(super) latency_ms: f64,
    /// How long the body was, in bytes.
    pub(super) bytes: u64,
}

/// What is asked for, and what is taken for an answer.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Host and port.
    address: String,
    uris: Vec<Uri>,
    headers: HeaderMap,
    expect_status: u16,
    body_bytes_max: u64,
    keep_alive: bool,
}

impl Wanted {
    /// Returns what `bench` asks of the server at `url`, or what of it cannot be asked.
    pub(super) fn new(url: &str, bench: &HttpBench) -> Result<Self, String> {
        let address =
            url.trim_end_matches('/').strip_prefix("http://").ok_or_else(|| format!("{url} is no http://"))?;
        let uri = |path: &str| path.parse::<Uri>().map_err(|error| format!("{path:?} is no path: {error}"));
        let uris = bench.paths.iter().map(|path| uri(&path.path)).collect::<Result<_, _>>()?;
        let mut headers = HeaderMap::new();
        let host = HeaderValue::from_str(address).map_err(|error| format!("{address:?} is no host: {error}"))?;
        headers.insert(HOST, host);
        for (name, value) in &bench.headers {
            let wrong = |error: &dyn std::fmt::Display| format!("headers: {name}: {error}");
            let name: HeaderName = name.parse().map_err(|error| wrong(&error))?;
            headers.insert(name, HeaderValue::from_str(value).map_err(|error| wrong(&error))?);
        }
        let &HttpBench { expect_status, body_bytes_max, keep_alive, .. } = bench;
        Ok(Self { address: address.to_owned(), uris, headers, expect_status, body_bytes_max, keep_alive })
    }

    fn request(&self, page: usize) -> Result<Request<Empty<Bytes>>, RequestError> {
        let uri = self.uris.get(page).ok_or_else(|| RequestError::Broken("there is no such page".to_owned()))?;
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }
}

/// A server's connections that are idle.
#[derive(Debug)]
pub(super) struct Connections {
    wanted: Wanted,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Connections {
    /// Returns none yet; they are made when they are needed.
    pub(super) fn new(wanted: Wanted) -> Self {
        Self { wanted, idle: Arc::default() }
    }

    /// Asks for the page at this place of the list and reads it to its end, until `deadline` at the latest.
    ///
    /// A connection on which anything went wrong is closed, and with it what the server might still send there.
    pub(super) async fn ask(&self, page: usize, scheduled: Instant, deadline: Instant) -> Result<Page, RequestError> {
        timeout_at(deadline, self.exchange(page, scheduled)).await.unwrap_or(Err(RequestError::Timeout))
    }

    async fn exchange(&self, page: usize, scheduled: Instant) -> Result<Page, RequestError> {
        let mut request = self.wanted.request(page)?;
        for tries in 1..=STALE_MAX {
            let is_last = tries == STALE_MAX;
            // An idle one is not taken where it would not be used: it would be closed for nothing.
            let idle = if is_last { None } else { self.take_idle() };
            let mut connection = match idle {
                Some(mut idle) => {
                    // The last answer may have been read to its end before its connection noticed: it is sound, and refuses
                    // a request until then. Only one that was closed fails here.
                    if idle.sender.ready().await.is_err() {
                        continue;
                    }
                    idle
                }
                None => Connection::open(&self.wanted.address).await?,
            };
            match connection.sender.try_send_request(request).await {
                Ok(response) => return self.read(connection, response, scheduled).await,
                Err(mut error) => match error.take_message().filter(|_| !is_last) {
                    // It was never sent: a server may close what is idle at any time.
                    Some(unsent) => request = unsent,
                    None => return Err(RequestError::Broken(words(error.error()))),
                },
            }
        }
        Err(RequestError::Broken("the connection was closed before the request".to_owned()))
    }

    async fn read(
        &self,
        connection: Connection,
        response: hyper::Response<Incoming>,
        scheduled: Instant,
    ) -> Result<Page, RequestError> {
        let status = response.status().as_u16();
        let (mut body, mut bytes) = (response.into_body(), 0_u64);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| RequestError::Broken(words(&error)))?;
            bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            if bytes > self.wanted.body_bytes_max {
                let most = self.wanted.body_bytes_max;
                return Err(RequestError::Garbage(format!("a body of more than {most} bytes (body_bytes_max)")));
            }
        }
        let latency_ms = scheduled.elapsed().as_secs_f64() * MS_PER_S;
        if self.wanted.keep_alive {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
        if status != self.wanted.expect_status {
            return Err(RequestError::Status(status));
        }
        Ok(Page { latency_ms, bytes })
    }

    /// Returns the connection that was used last, which is the least likely to have been closed.
    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(|connection| !connection.sender.is_closed())
    }
}

/// A connection; it is closed when dropped.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    driver: AbortHandle,
}

impl Connection {
    async fn open(address: &str) -> Result<Self, RequestError> {
        let late = |_| RequestError::Connect(format!("not within {} s", Duration::as_secs(&CONNECT_MAX)));
        let stream = timeout(CONNECT_MAX, TcpStream::connect(address)).await.map_err(late)?;
        let stream = stream.map_err(|error| RequestError::Connect(error.to_string()))?;
        // A request is one small packet, which must not wait for another.
        stream.set_nodelay(true).map_err(|error| RequestError::Connect(error.to_string()))?;
        let (sender, driver) =
            handshake(TokioIo::new(stream)).await.map_err(|error| RequestError::Broken(words(&error)))?;
        let driver = tokio::spawn(driver).abort_handle();
        Ok(Self { sender, driver })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::{Router, serve::ListenerExt};
    use kloros_actors::facts::{BenchLoad, HttpPath};

    use super::*;

    /// Serves "hello" and counts its connections.
    async fn site() -> (String, Arc<AtomicUsize>) {
        let made = Arc::new(AtomicUsize::new(0));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let counter = Arc::clone(&made);
        let listener = listener.tap_io(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(async || "hello")).await });
        (url, made)
    }

    fn connections(url: &str) -> Connections {
        let bench = HttpBench {
            load: BenchLoad::Closed { clients: 1 },
            paths: vec![HttpPath { path: "/".to_owned(), weight: 1 }],
            headers: std::collections::BTreeMap::new(),
            expect_status: 200,
            body_bytes_max: 1024,
            keep_alive: true,
            warmup_s: 0.0,
            window_s: 1.0,
            slo_ms: None,
            request_timeout_s: 60.0,
        };
        Connections::new(Wanted::new(url, &bench).unwrap())
    }

    async fn ask(connections: &Connections) {
        let now = Instant::now();
        let page = connections.ask(0, now, now + Duration::from_secs(60)).await.unwrap();
        assert_eq!(page.bytes, 5);
    }

    /// It used to be dropped, though it was sound, and another one was made.
    #[tokio::test]
    async fn an_idle_connection_that_is_not_ready_yet_is_waited_for() {
        let (url, made) = site().await;
        let connections = connections(&url);
        let mut busy = Connection::open(&connections.wanted.address).await.unwrap();
        // Its driver has not run yet, so it takes no second request: as after an answer of which it has not noticed the end.
        let answer = busy.sender.try_send_request(connections.wanted.request(0).unwrap());
        let reader = tokio::spawn(async move { answer.await.unwrap().into_body().collect().await.unwrap().to_bytes() });
        assert!(!busy.sender.is_ready());
        connections.idle.lock().unwrap().push(busy);
        ask(&connections).await;
        assert_eq!(reader.await.unwrap(), "hello");
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn an_idle_connection_that_was_closed_is_replaced() {
        let (url, made) = site().await;
        let connections = connections(&url);
        let stale = Connection::open(&connections.wanted.address).await.unwrap();
        // Nobody can tell before the runtime has ended the driver.
        stale.driver.abort();
        connections.idle.lock().unwrap().push(stale);
        ask(&connections).await;
        ask(&connections).await;
        assert_eq!(made.load(Ordering::SeqCst), 2);
    }
}
