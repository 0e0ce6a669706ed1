//! Asks the running daemon over the socket in its home.

use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    api::{BASE, Refusal},
    daemon::SOCKET,
    home::Home,
};

/// How long an answer of the daemon is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(70);

/// What the daemon said.
pub(crate) enum Said<T> {
    /// It did it, or knows it.
    Yes(T),
    /// It did not, for this reason.
    No(String),
}

/// The way to the running daemon of a home.
pub(crate) struct Client {
    http: reqwest::Client,
}

impl Client {
    /// Returns the way to the daemon of `home`, or `None` when none runs there.
    pub(crate) fn find(home: &Home) -> anyhow::Result<Option<Self>> {
        let socket = home.state_folder().join(SOCKET);
        match std::os::unix::net::UnixStream::connect(&socket) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                bail!("{} belongs to somebody else: ask as the daemon's user or as root", socket.display())
            }
            Err(_) => return Ok(None),
        }
        let http = reqwest::Client::builder().unix_socket(socket).timeout(ANSWER_WITHIN).build()?;
        Ok(Some(Self { http }))
    }

    /// Returns the way to the daemon of `home`, or an error that says how to start one.
    pub(crate) fn to(home: &Home) -> anyhow::Result<Self> {
        Self::find(home)?
            .with_context(|| format!("no daemon runs in {}; start it with `kloros run`", home.root().display()))
    }

    /// Asks for what is at `path`.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Said<T>> {
        Self::read(self.http.get(format!("http://kloros{BASE}{path}")).send().await?).await
    }

    /// Asks for something to be done.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> anyhow::Result<Said<T>> {
        Self::read(self.http.post(format!("http://kloros{BASE}{path}")).json(body).send().await?).await
    }

    async fn read<T: DeserializeOwned>(response: reqwest::Response) -> anyhow::Result<Said<T>> {
        if response.status().is_success() {
            return Ok(Said::Yes(response.json().await.context("the daemon's answer cannot be read")?));
        }
        let status = response.status();
        match response.json::<Refusal>().await {
            Ok(refusal) => Ok(Said::No(refusal.error)),
            Err(_) => bail!("the daemon answered {status}"),
        }
    }
}
