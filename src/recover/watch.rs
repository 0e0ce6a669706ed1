//! The guard itself: watches over one deployment from outside, until it is proven, taken back, or the guard has to do that.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use kloros_actors::{deployer::pending::Pending, facts::DeploymentId};
use rustix::fs::FlockOperation;
use tokio::time::sleep;

use super::{Outcome, Report, Undo, When, alone};
use crate::{
    home::{Home, HomeError},
    pending::PendingFiles,
};

/// How often it is looked how things stand.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How long an earlier guard of the domain may take to see that its deployment is over.
const EARLIER_MAX: Duration = Duration::from_secs(8);

/// How long it is waited before an undo that failed is tried again; doubled with each further time.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest such wait.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How often it is tried to put the env file back; who restarts the service counts in the pending file.
const FAILURES_MAX: u32 = 500;

/// Watches over what is armed for `domain` in `home`, and undoes it when the daemon is dead or late. Returns what became of it;
/// `None` when the daemon brought it to its end.
pub(crate) async fn watch(home: &Home, domain: &str) -> anyhow::Result<Option<Report>> {
    // A terminal that goes away, or whoever ends the daemon's session, does not end the guard. The first of a session has one.
    rustix::process::setsid().ok();
    let pending = PendingFiles::new(&home.pending_folder());
    let deployment = watched(&pending, domain)?;
    let _watching = begin(&pending, domain, &deployment).await?;
    let undo = Undo::new(home, pending, When::Now, false)?;
    let (mut pause, mut failures) = (PAUSE_MIN, 0);
    loop {
        // A disk that refuses even to be read or locked is waited for as well: nobody else is left who would undo.
        let report = match undo.look(domain, &deployment).await {
            Ok(Some(report)) => report,
            Ok(None) => return Ok(None),
            Err(error) => Report {
                domain: domain.to_owned(),
                deployment: Some(deployment.to_string()),
                outcome: Outcome::Failed(format!("{error:#}")),
            },
        };
        match report.outcome {
            Outcome::Owned | Outcome::FileOnly => sleep(LOOK_INTERVAL).await,
            Outcome::Failed(why) if failures < FAILURES_MAX => {
                tracing::error!(domain, %why, "undo failed and is tried again");
                failures += 1;
                sleep(pause).await;
                pause = pause.saturating_mul(2).min(PAUSE_MAX);
            }
            _ => return Ok(Some(report)),
        }
    }
}

/// Returns the deployment that is armed for `domain`, or was taken over and is not undone.
fn watched(pending: &PendingFiles, domain: &str) -> anyhow::Result<DeploymentId> {
    if let Some(claimed) = pending.taken_over(domain)?.filter(|claimed| !claimed.is_undone) {
        return Ok(claimed.deployment);
    }
    let Some(text) = pending.read(domain)? else { bail!("nothing is pending for {domain}") };
    Ok(Pending::from_text(&text)?.deployment)
}

/// Waits for an earlier guard to end, and says that this one watches for as long as the answer lives.
async fn begin(pending: &PendingFiles, domain: &str, deployment: &DeploymentId) -> anyhow::Result<File> {
    let path = pending.watch_file(domain);
    let named = || format!("cannot use {}", path.display());
    let open = || OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = open().with_context(named)?;
    let deadline = Instant::now() + EARLIER_MAX;
    while rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > deadline {
            bail!("another guard watches over {domain}");
        }
        sleep(LOOK_INTERVAL / 20).await;
    }
    file.set_len(0).and_then(|()| writeln!(file, "{deployment}")).with_context(named)?;
    Ok(file)
}

impl Undo<'_> {
    /// Returns whether the daemon has brought the deployment to its end.
    fn is_over(&self, domain: &str, deployment: &DeploymentId) -> anyhow::Result<bool> {
        if let Some(claimed) = self.pending.taken_over(domain)?.filter(|claimed| !claimed.is_undone) {
            return Ok(claimed.deployment != *deployment);
        }
        let Some(text) = self.pending.read(domain)? else { return Ok(true) };
        Ok(Pending::from_text(&text).is_ok_and(|pending| pending.deployment != *deployment))
    }

    /// Undoes what there is to undo, and returns how it stands; `None` when the deployment is over.
    async fn look(&self, domain: &str, deployment: &DeploymentId) -> anyhow::Result<Option<Report>> {
        if self.is_over(domain, deployment)? {
            return Ok(None);
        }
        let _alone = match alone(self.home, &self.pending, &[domain.to_owned()], LOOK_INTERVAL) {
            Ok(alone) => alone,
            // Somebody restarts a service, for as long as that may take: it is looked again.
            Err(error) if error.downcast_ref::<HomeError>().is_some_and(HomeError::is_a_wait) => {
                return Ok(Some(Report { domain: domain.to_owned(), deployment: None, outcome: Outcome::Owned }));
            }
            Err(error) => return Err(error),
        };
        Ok(Some(self.one(domain).await))
    }
}
