//! When an instance counts as ready.

use std::{net::Ipv4Addr, process::ExitStatus, time::Duration};

use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{Heard, Instance, Launch, Remains, Secrets, fill, notify::NotifySocket};

/// How long between two questions whether an instance is ready.
const READY_INTERVAL: Duration = Duration::from_millis(100);

/// How long the answer of an instance may take that was ready before and may be busy.
const WELL_ANSWER_MAX: Duration = Duration::from_secs(10);

/// How long the answer to such a question may take.
const READY_ANSWER_MAX: Duration = Duration::from_secs(2);

/// How often at most an instance is looked at that has to stay up.
const BAKE_INTERVAL: Duration = Duration::from_millis(250);

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
    #[error("{asked} did not say {passes} times in a row within {} s that it is ready{}", within.as_secs_f64(), last_words(tail))]
    TimedOut {
        /// What was asked.
        asked: String,
        /// How many good answers were wanted.
        passes: u32,
        /// How long it was given.
        within: Duration,
        /// The last it printed, if it is our child.
        tail: String,
    },
    /// It was ready, and did not stay so.
    #[error("it was ready, and {} s were not over when it was not: {why}{}", bake.as_secs_f64(), last_words(tail))]
    Fell {
        /// How long it had to stay up.
        bake: Duration,
        /// What was wrong.
        why: String,
        /// The last it printed, if it is our child.
        tail: String,
    },
    /// It cannot be asked at all.
    #[error("cannot ask {asked}: {why}")]
    Unaskable {
        /// What was to be asked.
        asked: String,
        /// In words.
        why: String,
    },
}

fn last_words(tail: &str) -> String {
    if tail.is_empty() { String::new() } else { format!("; it last said: {tail}") }
}

/// When an instance is to count as ready.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// By what.
    pub(crate) sign: Sign<'a>,
    /// How long it may take to come to that.
    pub(crate) within: Duration,
    /// How often in a row; what is said once counts once.
    pub(crate) passes: u32,
    /// How long it must then stay so.
    pub(crate) bake: Duration,
}

/// By what an instance counts as ready.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sign<'a> {
    /// A good answer at this path.
    Http(&'a str),
    /// A connection to its port.
    Tcp,
    /// A program that ends with 0; `{port}` is replaced.
    Command(&'a [String]),
    /// Its own word, as `sd_notify(3)` has it.
    Notify,
    /// A text that it prints.
    LogLine(&'a str),
}

/// How one instance is found to be ready.
pub(crate) struct Readiness {
    how: How,
    within: Duration,
    passes: u32,
    bake: Duration,
}

enum How {
    Http(String),
    Tcp(u16),
    Command(Vec<String>),
    /// The instance says so itself, once.
    Notify(NotifySocket),
    /// It prints a text, once.
    Line(Heard),
}

impl Readiness {
    /// Returns how an instance that serves on `port` is found to be ready. To be had before the instance is started, which may say
    /// it right away.
    pub(crate) fn of(wanted: Wanted<'_>, port: u16) -> Result<Self, ReadyError> {
        let how = match wanted.sign {
            Sign::Http(path) => How::Http(format!("http://{}:{port}{path}", Ipv4Addr::LOCALHOST)),
            Sign::Tcp => How::Tcp(port),
            Sign::Command(argv) => {
                let filled = fill(argv, &[("port", &port.to_string())]);
                How::Command(filled.map_err(|error| unaskable(&argv.join(" "), error.to_string()))?)
            }
            Sign::Notify => {
                How::Notify(NotifySocket::open().map_err(|error| unaskable("NOTIFY_SOCKET", error.to_string()))?)
            }
            Sign::LogLine(text) => How::Line(Heard::of(text)),
        };
        Ok(Self { how, within: wanted.within, passes: wanted.passes, bake: wanted.bake })
    }

    /// Returns the variables that tell the instance where it says that it is ready.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        match &self.how {
            How::Notify(socket) => vec![socket.variable()],
            _ => Vec::new(),
        }
    }

    /// Returns what of the instance's output is listened for.
    pub(crate) fn heard(&self) -> Option<Heard> {
        match &self.how {
            How::Line(heard) => Some(heard.clone()),
            _ => None,
        }
    }

    /// Waits until `instance` is ready and has stayed so, unless it ends before.
    pub(crate) async fn wait(&self, instance: &mut Instance) -> Result<(), ReadyError> {
        let root = instance.id();
        let waited = tokio::select! {
            biased;
            status = instance.exited() => return Err(ReadyError::Exited { status, tail: instance.tail() }),
            waited = self.come_and_stay(Some(root)) => waited,
        };
        match waited {
            // Whoever answered, it was not an instance that is gone by now.
            Ok(()) => match instance.try_exit() {
                Some(status) => Err(ReadyError::Exited { status, tail: instance.tail() }),
                None => Ok(()),
            },
            Err(error) => Err(error.with_tail(instance.tail())),
        }
    }

    /// Waits until a service that is nobody's child here is ready and has stayed so.
    pub(crate) async fn wait_for_other(&self) -> Result<(), ReadyError> {
        self.come_and_stay(None).await
    }

    async fn come_and_stay(&self, root: Option<u32>) -> Result<(), ReadyError> {
        if let How::Http(url) = &self.how {
            let _: reqwest::Url = url.parse().map_err(|why| unaskable(url, format!("it is no URL: {why}")))?;
        }
        let came = timeout(self.within, self.come(root)).await;
        came.map_err(|_| self.late())??;
        let until = Instant::now() + self.bake;
        while Instant::now() < until {
            sleep(BAKE_INTERVAL.min(self.bake)).await;
            self.once(READY_ANSWER_MAX).await.map_err(|why| ReadyError::Fell {
                bake: self.bake,
                why,
                tail: String::new(),
            })?;
        }
        Ok(())
    }

    async fn come(&self, root: Option<u32>) -> Result<(), ReadyError> {
        match (&self.how, root) {
            (How::Notify(socket), Some(root)) => {
                socket.ready(root).await.map_err(|error| unaskable("NOTIFY_SOCKET", error.to_string()))
            }
            (How::Line(heard), Some(_)) => {
                heard.wait().await;
                Ok(())
            }
            (How::Notify(_) | How::Line(_), None) => {
                let why = "only a child of kloros is heard: use another way for a service of another supervisor";
                Err(unaskable(&self.asked(), why.to_owned()))
            }
            _ => {
                let mut row = 0;
                while row < self.passes {
                    row = if self.once(READY_ANSWER_MAX).await.is_ok() { row + 1 } else { 0 };
                    if row < self.passes {
                        sleep(READY_INTERVAL).await;
                    }
                }
                Ok(())
            }
        }
    }

    /// Asks again and again whether it is well until it is, `within` at most: for an instance that was under load just now.
    pub(crate) async fn comes_back(&self, within: Duration) -> Result<(), String> {
        let deadline = Instant::now() + within;
        loop {
            match self.once(READY_ANSWER_MAX.min(within)).await {
                Err(_) if Instant::now() < deadline => sleep(READY_INTERVAL).await,
                last => return last,
            }
        }
    }

    /// Asks once whether it is well, and returns in words what is wrong. One that says once that it is ready is well while it runs,
    /// which is its parent's to know.
    pub(crate) async fn well(&self) -> Result<(), String> {
        self.once(WELL_ANSWER_MAX).await
    }

    async fn once(&self, within: Duration) -> Result<(), String> {
        match &self.how {
            How::Http(url) => is_well(url, within).await,
            How::Tcp(port) => {
                let connected = timeout(within, TcpStream::connect((Ipv4Addr::LOCALHOST, *port))).await;
                let connected =
                    connected.map_err(|_| format!("port {port}: no answer within {} s", within.as_secs_f64()))?;
                connected.map(drop).map_err(|error| format!("port {port}: {error}"))
            }
            How::Command(argv) => says_yes(argv, within).await,
            How::Notify(_) | How::Line(_) => Ok(()),
        }
    }

    fn late(&self) -> ReadyError {
        let passes = if matches!(self.how, How::Notify(_) | How::Line(_)) { 1 } else { self.passes };
        ReadyError::TimedOut { asked: self.asked(), passes, within: self.within, tail: String::new() }
    }

    fn asked(&self) -> String {
        match &self.how {
            How::Http(url) => url.clone(),
            How::Tcp(port) => format!("port {port}"),
            How::Command(argv) => format!("`{}`", argv.join(" ")),
            How::Notify(_) => "NOTIFY_SOCKET".to_owned(),
            How::Line(heard) => format!("its output ({:?})", heard.text()),
        }
    }
}

impl ReadyError {
    fn with_tail(mut self, last: String) -> Self {
        if let ReadyError::TimedOut { tail, .. } | ReadyError::Fell { tail, .. } = &mut self {
            *tail = last;
        }
        self
    }
}

fn unaskable(asked: &str, why: String) -> ReadyError {
    ReadyError::Unaskable { asked: asked.to_owned(), why }
}

/// Runs a program once that says by its exit code whether the service is well. What it prints may hold secrets, and is not told.
async fn says_yes(argv: &[String], within: Duration) -> Result<(), String> {
    let program = argv.first().map_or("", String::as_str);
    let launch =
        Launch { argv: argv.to_vec(), env: Vec::new(), nice: 0, secrets: Secrets::all(), remains: Remains::Killed };
    let mut command = Instance::spawn(launch).await.map_err(|error| error.to_string())?;
    // One that is late is killed with all that it started, when it is dropped.
    let ended = timeout(within, command.exited()).await;
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{program}` ended with {status}")),
        Err(_) => Err(format!("`{program}` did not end within {} s", within.as_secs_f64())),
    }
}

/// Asks `url` once whether it answers with a success, and returns in words what it did instead.
async fn is_well(url: &str, within: Duration) -> Result<(), String> {
    let silent = |error: reqwest::Error| format!("{url}: {}", error.without_url());
    let answer = http_client(within).map_err(silent)?.get(url).send().await.map_err(silent)?;
    if answer.status().is_success() { Ok(()) } else { Err(format!("{url} answered {}", answer.status())) }
}

/// Returns a client for the services of this machine: no proxy, no redirects, `answer_max` for a whole answer.
pub(crate) fn http_client(answer_max: Duration) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(answer_max).build()
}

#[cfg(test)]
mod tests;
