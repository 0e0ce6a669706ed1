//! What is looked at of the conversation endpoint: the model server that it stands before.

use std::time::Duration;

use reqwest::{Client, StatusCode, redirect::Policy};

use super::Finding;
use crate::settings::Settings;

/// How long the model server may take to say which models it has.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What every server of the dialect answers.
const MODELS: &str = "/v1/models";

/// Looks at the model server; at nothing where none is named. An endpoint of its own needs it as well, whether or not the daemon has one.
pub(super) async fn look(settings: &Settings) -> Option<Finding> {
    let named = settings.conversation.upstream();
    if named.is_empty() { None } else { Some(upstream(named).await) }
}

async fn upstream(upstream: &str) -> Finding {
    let about = "conversation";
    let url = format!("{upstream}{MODELS}");
    let asked = async {
        let client = Client::builder().no_proxy().redirect(Policy::none()).timeout(ANSWER_WITHIN).build()?;
        Ok::<_, reqwest::Error>(client.get(&url).send().await?.status())
    };
    match asked.await {
        Ok(status) if status.is_success() => Finding::well(about, format!("the model server {upstream} answers")),
        // Its clients bring the key, and kloros hands it on.
        Ok(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            Finding::well(about, format!("the model server {upstream} answers, and wants a key"))
        }
        Ok(status) if status.is_server_error() => {
            let fix = "look at what the model server itself says";
            Finding::bad(about, format!("the model server answers {url} with {status}"), fix)
        }
        Ok(status) => {
            let fix = "see that conversation.upstream names a server of the OpenAI dialect";
            Finding::note(about, format!("{url} answers with {status}"), Some(fix))
        }
        Err(error) => {
            let why = format!("{:#}", anyhow::Error::from(error.without_url()));
            let fix = "start the model server, or set conversation.upstream to where it is";
            Finding::bad(about, format!("the model server {upstream} does not answer: {why}"), fix)
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::StatusCode as Status, routing::get};

    use super::*;
    use crate::cli::doctor::How;

    /// Returns where a server answers the list of models with `status`.
    async fn server(status: Status) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().route(MODELS, get(move || async move { status }));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        format!("http://{address}")
    }

    #[tokio::test]
    async fn a_model_server_that_is_not_there_or_fails_is_bad_and_one_that_wants_a_key_is_not() {
        let (free, none) = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            (listener.local_addr().unwrap(), How::Bad)
        };
        let mut cases = vec![(format!("http://{free}"), none, "does not answer")];
        for (status, how, part) in [
            (Status::OK, How::Well, "answers"),
            (Status::UNAUTHORIZED, How::Well, "wants a key"),
            (Status::NOT_FOUND, How::Note, "404"),
            (Status::BAD_GATEWAY, How::Bad, "502"),
        ] {
            cases.push((server(status).await, how, part));
        }
        for (at, how, part) in cases {
            let found = upstream(&at).await;
            assert!(found.how == how && found.what.contains(part), "{found:?}, wanted {how} {part}");
            assert_eq!(found.fix.is_none(), how == How::Well, "{found:?}");
        }
    }

    #[tokio::test]
    async fn where_no_model_server_is_named_none_is_looked_at() {
        let home = tempfile::tempdir().unwrap();
        let mut settings = Settings::load(home.path(), None).unwrap();
        assert_eq!(look(&settings).await, None);
        settings.conversation.upstream = format!("{}/v1/", server(Status::OK).await);
        assert_eq!(look(&settings).await.map(|found| found.how), Some(How::Well));
    }
}
