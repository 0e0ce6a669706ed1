//! All there is to ask for.

use std::time::Duration;

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{DefaultBodyLimit, FromRef, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::Response,
    routing::{MethodRouter, get, post},
};

use super::{
    Api, acts,
    alerts::{self, Alerts},
    caller::only_users,
    events, live, refusal, told,
};

/// What every path begins with.
pub(crate) const BASE: &str = "/api/v1";

/// The largest body of a request, in bytes, where a route does not say otherwise.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// What a route does to the house.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    /// It tells.
    Reads,
    /// It tells for as long as somebody listens.
    Streams,
    /// It changes something, which takes somebody's word.
    Acts,
}

/// Something to ask for.
pub(super) struct Route {
    pub(super) path: &'static str,
    pub(super) does: Does,
    ask: MethodRouter<Api>,
}

fn reads(path: &'static str, ask: MethodRouter<Api>) -> Route {
    Route { path, does: Does::Reads, ask }
}

fn acts(path: &'static str, ask: MethodRouter<Api>) -> Route {
    Route { path, does: Does::Acts, ask }
}

/// Returns all there is to ask for. What acts is asked by POST, all else by GET.
pub(super) fn routes() -> Vec<Route> {
    vec![
        reads("/live", get(live::live)),
        reads("/loop", get(told::ring)),
        reads("/work", get(told::work)),
        reads("/intents", get(told::intents)),
        reads("/questions", get(told::questions)),
        reads("/experiments", get(told::experiments)),
        reads("/experiments/{id}", get(told::experiment)),
        reads("/winners", get(told::winners)),
        reads("/deployments", get(told::deployments)),
        reads("/lessons", get(told::lessons)),
        reads("/stories/{id}", get(told::story)),
        reads("/plans/{id}", get(told::plan)),
        reads("/charts", get(told::charts)),
        reads("/openapi.json", get(told::openapi)),
        Route { path: "/events", does: Does::Streams, ask: get(events::events) },
        acts("/answer", post(acts::answer)),
        acts("/rollback", post(acts::rollback)),
        acts("/thaw", post(acts::thaw)),
        acts("/calibrate", post(acts::calibrate)),
        acts("/try", post(acts::propose)),
        acts("/forget", post(acts::forget)),
        acts("/reload", post(acts::reload)),
        acts("/stop", post(acts::stop)),
        acts("/go", post(acts::go)),
        acts("/chaos/kill", post(acts::kill)),
        acts("/alerts", post(alerts::take).layer(DefaultBodyLimit::max(alerts::BODY_BYTES_MAX))),
    ]
}

impl FromRef<Api> for Alerts {
    fn from_ref(api: &Api) -> Self {
        api.alerts.clone()
    }
}

/// Returns the routes, behind whichever door they are put.
pub(super) fn router(api: Api) -> Router {
    let within = api.reached.request_timeout();
    let mut router = Router::new();
    for Route { path, does, ask } in routes() {
        let in_time = || middleware::from_fn_with_state(within, in_time);
        let ask = match does {
            Does::Reads => ask.layer(in_time()),
            Does::Streams => ask,
            // What is waited for here has limits of its own, and goes on whether somebody waits or not; a body that does not come
            // asks for nothing yet.
            Does::Acts => {
                let whole = middleware::from_fn_with_state(within, whole_body);
                ask.layer(whole).layer(middleware::from_fn(only_users))
            }
        };
        router = router.route(&format!("{BASE}{path}"), ask);
    }
    let router = router.fallback(nothing).layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    router.layer(middleware::map_response(in_words)).with_state(api)
}

/// Says every refusal in the same way, also where a body could not be read or a method is not known.
async fn in_words(response: Response) -> Response {
    let status = response.status();
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let why = to_bytes(response.into_body(), BODY_BYTES_MAX).await.unwrap_or_default();
    let why = String::from_utf8_lossy(&why);
    let known = status.canonical_reason().unwrap_or("refused");
    refusal(status, if why.is_empty() { known } else { &why })
}

async fn nothing(request: Request) -> Response {
    refusal(StatusCode::NOT_FOUND, &format!("nothing is at {}: see {BASE}/openapi.json", request.uri().path()))
}

/// Answers for a request that takes longer than `within`.
pub(crate) async fn in_time(State(within): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(within, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            refusal(StatusCode::GATEWAY_TIMEOUT, &format!("there is no answer within {} s", within.as_secs_f64()))
        }
    }
}

/// Waits `within` this time for the whole body, so that whoever sends it drop by drop holds no connection.
async fn whole_body(State(within): State<Duration>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match tokio::time::timeout(within, to_bytes(body, alerts::BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(head, Body::from(bytes))).await,
        Ok(Err(_)) => {
            refusal(StatusCode::PAYLOAD_TOO_LARGE, &format!("a body has {} bytes at most", alerts::BODY_BYTES_MAX))
        }
        Err(_) => {
            refusal(StatusCode::REQUEST_TIMEOUT, &format!("the body did not come within {} s", within.as_secs_f64()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, convert::Infallible};

    use axum::body::Bytes;
    use futures::StreamExt as _;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    /// Once a body that came a byte now and then held its connection for as long as its sender liked.
    #[tokio::test]
    async fn a_body_that_does_not_come_in_time_is_no_request_and_a_whole_one_is() {
        let routes = Router::new().route("/act", post(|body: String| async move { body }));
        let routes = routes.layer(middleware::from_fn_with_state(Duration::from_millis(50), whole_body));
        let send = async |body: Body| {
            let request = Request::post("/act").body(body).unwrap();
            TowerToHyperService::new(routes.clone()).call(request).await.unwrap()
        };
        let first = futures::stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"{"))]);
        let late = send(Body::from_stream(first.chain(futures::stream::pending()))).await;
        assert_eq!(late.status(), StatusCode::REQUEST_TIMEOUT);
        let whole = send(Body::from("{}")).await;
        assert_eq!(to_bytes(whole.into_body(), 10).await.unwrap(), "{}");
        let large = send(Body::from(vec![b' '; alerts::BODY_BYTES_MAX + 1])).await;
        assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[test]
    fn the_description_names_every_route_and_what_takes_the_token() {
        let described: serde_json::Value = serde_json::from_str(told::OPENAPI).unwrap();
        let mut named = BTreeSet::new();
        for (path, ways) in described["paths"].as_object().unwrap() {
            for (method, way) in ways.as_object().unwrap() {
                let takes_token = way.get("security").is_some();
                assert!(way["summary"].is_string() && way["responses"]["200"].is_object(), "{path} says too little");
                named.insert((path.clone(), method.clone(), takes_token));
            }
        }
        let there: BTreeSet<_> = routes()
            .into_iter()
            .map(|route| {
                let acts = route.does == Does::Acts;
                (format!("{BASE}{}", route.path), if acts { "post" } else { "get" }.to_owned(), acts)
            })
            .collect();
        assert_eq!(named, there);
    }
}
