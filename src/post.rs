//! Sends text over HTTP or HTTPS. Redirects are not followed: an address is a secret, and goes nowhere else.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Method, Request, Uri, header};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, ResponseFuture, connect::HttpConnector},
    rt::TokioExecutor,
};

/// The way to one receiver.
pub(crate) struct Post {
    uri: Uri,
    way: Way,
}

/// Without encryption no certificates are needed, of which a machine may have none.
enum Way {
    Plain(Client<HttpConnector, Full<Bytes>>),
    Encrypted(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

impl Way {
    fn of(scheme: Option<&str>) -> Result<Self, String> {
        let client = Client::builder(TokioExecutor::new());
        match scheme {
            Some("http") => Ok(Way::Plain(client.build(HttpConnector::new()))),
            Some("https") => {
                let builder = HttpsConnectorBuilder::new();
                let builder = builder.with_native_roots().map_err(|error| format!("no certificates: {error}"))?;
                Ok(Way::Encrypted(client.build(builder.https_only().enable_http1().build())))
            }
            _ => Err("what it holds is no http:// or https:// address".to_owned()),
        }
    }

    fn ask(&self, request: Request<Full<Bytes>>) -> ResponseFuture {
        match self {
            Way::Plain(client) => client.request(request),
            Way::Encrypted(client) => client.request(request),
        }
    }
}

impl Post {
    /// Returns the way to `uri`, or why there is none; nothing of it is repeated.
    pub(crate) fn to(uri: Uri) -> Result<Self, String> {
        let way = Way::of(uri.scheme_str())?;
        Ok(Self { uri, way })
    }

    /// Sends it, or returns why it was not taken.
    pub(crate) async fn send(
        &self,
        headers: &[(&'static str, String)],
        body: &str,
        within: Duration,
    ) -> Result<(), String> {
        let mut request = Request::builder().method(Method::POST).uri(self.uri.clone());
        request = request.header(header::USER_AGENT, concat!("kloros/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let body = Full::new(Bytes::from(body.to_owned()));
        let request = request.body(body).map_err(|_| "it cannot be spelled".to_owned())?;
        match tokio::time::timeout(within, self.way.ask(request)).await {
            Err(_) => Err(format!("no answer within {} s", within.as_secs_f64())),
            // What hyper says names neither host nor path.
            Ok(Err(error)) if error.is_connect() => Err("it cannot be reached".to_owned()),
            Ok(Err(_)) => Err("the connection broke".to_owned()),
            Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
            Ok(Ok(answer)) => Err(format!("it answered {}", answer.status())),
        }
    }
}
