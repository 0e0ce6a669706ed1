//! When an instance counts as ready.

use std::{process::ExitStatus, time::Duration};

use tokio::time::{sleep, timeout};

use super::Instance;

/// How long between two questions whether an instance is ready.
const READY_INTERVAL: Duration = Duration::from_millis(100);

/// How long the answer of an instance may take that was ready before and may be busy.
const WELL_ANSWER_MAX: Duration = Duration::from_secs(10);

/// How long the answer to such a question may take.
const READY_ANSWER_MAX: Duration = Duration::from_secs(2);

/// Why an instance is not ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadyError {
    /// It ended first.
    #[error("it ended with {status}{}", last_words(tail))]
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// The last it printed.
        tail: String,
    },
    /// It did not answer in time.
    #[error("{url} did not answer {passes} times in a row within {} s{}", within.as_secs_f64(), last_words(tail))]
    TimedOut {
        /// What was asked.
        url: String,
        /// How many good answers were wanted.
        passes: u32,
        /// How long it was given.
        within: Duration,
        /// The last it printed, if it is our child.
        tail: String,
    },
    /// It cannot be asked at all.
    #[error("cannot ask {url}: {why}")]
    Unaskable {
        /// What was to be asked.
        url: String,
        /// In words.
        why: String,
    },
}

fn last_words(tail: &str) -> String {
    if tail.is_empty() { String::new() } else { format!("; it last said: {tail}") }
}

/// Waits until `url` answered with a success `passes` times in a row, unless `instance` ends before.
pub(crate) async fn ready(url: &str, within: Duration, passes: u32, instance: &mut Instance) -> Result<(), ReadyError> {
    let answered = tokio::select! {
        biased;
        status = instance.exited() => return Err(ReadyError::Exited { status, tail: instance.tail() }),
        answered = answers(url, within, passes) => answered,
    };
    match answered {
        Err(ReadyError::TimedOut { url, passes, within, .. }) => {
            Err(ReadyError::TimedOut { url, passes, within, tail: instance.tail() })
        }
        // Whoever answered, it was not an instance that is gone by now.
        Ok(()) => match instance.try_exit() {
            Some(status) => Err(ReadyError::Exited { status, tail: instance.tail() }),
            None => Ok(()),
        },
        other => other,
    }
}

/// Waits until `url` answered with a success `passes` times in a row; a failure in between starts the count anew.
pub(crate) async fn answers(url: &str, within: Duration, passes: u32) -> Result<(), ReadyError> {
    let unaskable = |why: reqwest::Error| ReadyError::Unaskable { url: url.to_owned(), why: why.to_string() };
    let client = http_client(READY_ANSWER_MAX).map_err(unaskable)?;
    let _: reqwest::Url = url
        .parse()
        .map_err(|why| ReadyError::Unaskable { url: url.to_owned(), why: format!("it is no URL: {why}") })?;
    let in_a_row = async {
        let mut row = 0;
        loop {
            let good = client.get(url).send().await.is_ok_and(|answer| answer.status().is_success());
            row = if good { row + 1 } else { 0 };
            if row >= passes {
                return;
            }
            sleep(READY_INTERVAL).await;
        }
    };
    timeout(within, in_a_row).await.map_err(|_| ReadyError::TimedOut {
        url: url.to_owned(),
        passes,
        within,
        tail: String::new(),
    })
}

/// Asks `url` once whether it answers with a success, and returns in words what it did instead.
pub(crate) async fn is_well(url: &str) -> Result<(), String> {
    let silent = |error: reqwest::Error| format!("{url}: {}", error.without_url());
    let answer = http_client(WELL_ANSWER_MAX).map_err(silent)?.get(url).send().await.map_err(silent)?;
    if answer.status().is_success() { Ok(()) } else { Err(format!("{url} answered {}", answer.status())) }
}

/// Returns a client for the services of this machine: no proxy, no redirects, `answer_max` for a whole answer.
pub(crate) fn http_client(answer_max: Duration) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(answer_max).build()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::{Router, http::StatusCode, routing::get};

    use super::{
        super::{Launch, Secrets, free_port},
        *,
    };

    fn launch(argv: &[&str]) -> Launch {
        let argv = argv.iter().map(|each| (*each).to_owned()).collect();
        Launch { argv, env: Vec::new(), nice: 0, secrets: Secrets::of([]), remains: crate::process::Remains::Killed }
    }

    async fn serve(handler: Router) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/health", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, handler).await });
        url
    }

    #[tokio::test]
    async fn an_instance_is_ready_after_enough_good_answers_in_a_row() {
        let asked = Arc::new(Mutex::new(0_u32));
        let counter = Arc::clone(&asked);
        let flapping = move || async move {
            let mut asked = counter.lock().unwrap();
            *asked += 1;
            // Two good answers, a bad one, then good ones for ever.
            if *asked == 3 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
        };
        let url = serve(Router::new().route("/health", get(flapping))).await;
        let mut instance = Instance::spawn(launch(&["sleep", "300"])).await.unwrap();
        ready(&url, Duration::from_secs(20), 3, &mut instance).await.unwrap();
        assert_eq!(*asked.lock().unwrap(), 6);
    }

    #[tokio::test]
    async fn an_instance_that_ends_is_not_ready_though_its_port_answers() {
        let url = serve(Router::new().route("/health", get(|| async { "not me" }))).await;
        let mut instance = Instance::spawn(launch(&["ls", "/no/such"])).await.unwrap();
        match ready(&url, Duration::from_secs(20), 1_000, &mut instance).await.unwrap_err() {
            ReadyError::Exited { status, tail } => {
                assert!(!status.success());
                assert!(tail.contains("/no/such"), "{tail}");
            }
            other => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn an_instance_that_never_answers_runs_out_of_time() {
        let url = format!("http://127.0.0.1:{}/health", free_port().unwrap());
        let mut instance = Instance::spawn(launch(&["sleep", "300"])).await.unwrap();
        let error = ready(&url, Duration::from_millis(300), 1, &mut instance).await.unwrap_err();
        assert!(matches!(error, ReadyError::TimedOut { .. }), "{error}");
        let error = answers("not a url", Duration::from_secs(1), 1).await.unwrap_err();
        assert!(matches!(error, ReadyError::Unaskable { .. }), "{error}");
    }
}
