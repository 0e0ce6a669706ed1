//! Undoing what is pending without the daemon: `kloros recover`, and the guard.
//!
//! What it takes stands in the pending file. The journal is asked one thing alone, whether the change was proven after all, and
//! where it does not answer the change was not.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use kloros_actors::{
    deployer::{Put, Restorer, gone, pending::Pending},
    facts::{DeploymentId, Domain, Kind, Manager, Ruled, Stage, stages},
    seams::Query,
};

use crate::{
    env_store::EnvFiles,
    home::{Home, UndoLock},
    journal::Reader,
    pending::PendingFiles,
    service::Services,
    settings::Settings,
};

mod watch;

pub(crate) use watch::watch;

/// How long it is waited where a service's start waits for it.
const UNDO_MAX_BEFORE_START: Duration = Duration::from_secs(5);

/// When something is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// A person or the guard asks for it: the service is restarted.
    Now,
    /// The service is about to be started, and is not restarted.
    BeforeStart,
}

/// What became of one pending file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// The domain.
    pub(crate) domain: String,
    /// The deployment, if its file can be read.
    pub(crate) deployment: Option<String>,
    /// What became of it.
    pub(crate) outcome: Outcome,
}

/// What becomes of a pending file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A daemon works on it and is not late.
    Owned,
    /// It was proven before the daemon died: it stays.
    Proven,
    /// Env file and service are back on the old values.
    Undone,
    /// The env file is back, and the service comes up with it when it is started.
    UndoneAndDown,
    /// The env file is back, and the service still has to be restarted.
    FileOnly,
    /// The undo failed and can be tried again.
    Failed(String),
    /// The undo failed, and nobody tries again unasked.
    Stuck(String),
    /// Nobody but a person can say what to do.
    Unreadable(String),
}

impl Outcome {
    /// Returns whether a person has to look.
    pub(crate) fn needs_a_person(&self) -> bool {
        matches!(self, Outcome::Failed(_) | Outcome::Stuck(_) | Outcome::Unreadable(_))
    }

    /// Returns the outcome as one word.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Outcome::Owned => "owned",
            Outcome::Proven => "proven",
            Outcome::Undone => "undone",
            Outcome::UndoneAndDown => "undone_and_down",
            Outcome::FileOnly => "file_only",
            Outcome::Failed(_) => "failed",
            Outcome::Stuck(_) => "stuck",
            Outcome::Unreadable(_) => "unreadable",
        }
    }
}

/// Returns how long somebody else may undo before it is given up to wait for. Settings that cannot be read keep nobody from undoing.
fn undo_wait(home: &Home) -> Duration {
    let config = Settings::load(home.root(), None).map(|settings| settings.rooms.deployer).unwrap_or_default();
    Duration::from_secs_f64(config.undo_wait_s)
}

/// Undoes what is pending in `home`, of `domain` alone if one is named, and returns what became of each.
pub(crate) async fn recover(home: &Home, domain: Option<&str>, when: When) -> anyhow::Result<Vec<Report>> {
    let pending = PendingFiles::new(&home.pending_folder());
    let is_meant = |name: &String| domain.is_none_or(|domain| domain == name);
    let list = || -> anyhow::Result<Vec<String>> {
        let folder = home.pending_folder();
        let domains = pending.domains().with_context(|| format!("cannot read {}", folder.display()))?;
        Ok(domains.into_iter().filter(is_meant).collect())
    };
    if list()?.is_empty() {
        return Ok(Vec::new());
    }
    // A daemon that works on them restarts the service perhaps, and who asks may be what that start waits for.
    if let Some(reports) = owned(home, &pending, &list()?, when) {
        return Ok(reports);
    }
    let within = if when == When::Now { undo_wait(home) } else { UNDO_MAX_BEFORE_START };
    let _alone = alone(home, &pending, &list()?, within)?;
    let undo = Undo::new(home, pending.clone(), when, true)?;
    let mut reports = Vec::new();
    for domain in list()? {
        reports.push(undo.one(&domain).await);
    }
    Ok(reports)
}

/// Returns what is said of `domains` if somebody works on each of them: a daemon that is not late, or, where a start waits for the
/// answer, whoever undoes just now, and restarts that very service perhaps. The env file is put back before that.
fn owned(home: &Home, pending: &PendingFiles, domains: &[String], when: When) -> Option<Vec<Report>> {
    let is_undone_now = when == When::BeforeStart && home.is_undone_in();
    let (is_held, report) = (home.is_held(), |domain: &String, deployment: String| Report {
        domain: domain.clone(),
        deployment: Some(deployment),
        outcome: Outcome::Owned,
    });
    let owned = |domain: &String| {
        if let Some(claimed) = pending.taken_over(domain).ok()?.filter(|claimed| !claimed.is_undone) {
            return is_undone_now.then(|| report(domain, claimed.deployment.to_string()));
        }
        let text = pending.read(domain).ok()?.filter(|_| is_held)?;
        let deployment = Pending::from_text(&text).ok()?.deployment.to_string();
        (!pending.is_due(domain).ok()?).then(|| report(domain, deployment))
    };
    domains.iter().map(owned).collect()
}

/// Waits for the right to undo, `within` at most. A daemon that has it, and gives no sign of life for so long that one of
/// `domains` is due, is ended: it would go on restarting the service when it thaws.
fn alone(home: &Home, pending: &PendingFiles, domains: &[String], within: Duration) -> anyhow::Result<UndoLock> {
    let deadline = Instant::now() + within;
    loop {
        let error = match home.undo_lock(LOOK_INTERVAL) {
            Ok(lock) => return Ok(lock),
            Err(error) => error,
        };
        if !error.is_a_wait() {
            return Err(error.into());
        }
        let is_due = domains.iter().any(|domain| pending.is_due(domain).unwrap_or_default());
        if is_due && let Some(pid) = home.end_daemon_that_undoes() {
            tracing::error!(pid, "the daemon gives no sign of life in the middle of a restart, and is ended");
            continue;
        }
        if Instant::now() >= deadline {
            return Err(error.into());
        }
    }
}

/// How long it is waited for the right to undo before it is looked who has it.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// What undoing takes.
struct Undo<'a> {
    home: &'a Home,
    pending: PendingFiles,
    env: EnvFiles,
    services: Services,
    when: When,
    /// Whether a person asked for it, who may try as often as they like.
    is_asked: bool,
}

impl<'a> Undo<'a> {
    fn new(home: &'a Home, pending: PendingFiles, when: When, is_asked: bool) -> anyhow::Result<Self> {
        let exe: PathBuf = std::env::current_exe().context("cannot find this program's own file")?;
        let services = Services::new(home.root().to_path_buf(), exe);
        Ok(Self { home, pending, env: EnvFiles::default(), services, when, is_asked })
    }

    /// Undoes what is pending of `domain`. Only who holds the undo lock may ask for it.
    async fn one(&self, domain: &str) -> Report {
        let report = |deployment, outcome| Report { domain: domain.to_owned(), deployment, outcome };
        let (text, is_ours) = match self.find(domain) {
            Ok(Some(found)) => found,
            Ok(None) => return report(None, Outcome::Undone),
            Err(error) => return report(None, Outcome::Failed(error.to_string())),
        };
        let pending = match Pending::from_text(&text) {
            Ok(pending) => pending,
            Err(problem) => return report(None, Outcome::Unreadable(problem.to_string())),
        };
        let id = Some(pending.deployment.to_string());
        let left = if is_ours { Ok(None) } else { self.take_over(domain, &pending) };
        match left {
            Ok(Some(outcome)) => report(id, outcome),
            Ok(None) => match self.taken(domain, pending) {
                Ok(pending) => report(id, self.undo(domain, &pending).await),
                Err(problem) => report(id, Outcome::Unreadable(problem)),
            },
            Err(error) => report(id, Outcome::Failed(format!("{error:#}"))),
        }
    }

    /// Returns the text of what is pending, and whether it was taken over already.
    fn find(&self, domain: &str) -> std::io::Result<Option<(String, bool)>> {
        let claimed = self.pending.taken_over(domain)?.filter(|claimed| !claimed.is_undone);
        if let Some(claimed) = claimed {
            return Ok(Some((claimed.text, true)));
        }
        Ok(self.pending.read(domain)?.map(|text| (text, false)))
    }

    /// Takes the change over, unless it is not to be undone from here; then it says why.
    fn take_over(&self, domain: &str, pending: &Pending) -> anyhow::Result<Option<Outcome>> {
        if self.home.is_in_use()? && !self.pending.is_due(domain)? {
            return Ok(Some(Outcome::Owned));
        }
        if is_proven(self.home, &pending.deployment) {
            self.pending.remove(domain)?;
            return Ok(Some(Outcome::Proven));
        }
        self.pending.take_over(domain, &pending.deployment)?;
        Ok(None)
    }

    /// Returns what was taken over, which is not what was `read` where the daemon wrote the next candidate of a loan in the
    /// moment between: it cannot do so any more.
    fn taken(&self, domain: &str, read: Pending) -> Result<Pending, String> {
        match self.pending.taken_over(domain).map_err(|error| error.to_string())? {
            Some(claimed) => Pending::from_text(&claimed.text).map_err(|problem| problem.to_string()),
            None => Ok(read),
        }
    }

    async fn undo(&self, domain: &str, pending: &Pending) -> Outcome {
        let restorer = Restorer { env: &self.env, services: &self.services };
        let outcome = match restorer.put_back(pending).await {
            Err(why) => return Outcome::Failed(why),
            Ok(Put::Gone) => self.without_its_file(&restorer, pending).await,
            Ok(Put::AsItIs | Put::Written) => self.bring_back(&restorer, domain, pending).await,
        };
        if matches!(outcome, Outcome::Undone | Outcome::UndoneAndDown)
            && let Err(error) = self.pending.undone(domain, &pending.deployment)
        {
            return Outcome::Failed(error.to_string());
        }
        outcome
    }

    /// Sees that the service does not run with what was taken out of its env file.
    async fn bring_back(&self, restorer: &Restorer<'_>, domain: &str, pending: &Pending) -> Outcome {
        match &pending.how {
            Some(how) if self.when == When::Now => self.restart(restorer, domain, how, pending).await,
            Some(how) if self.is_down(how).await => Outcome::UndoneAndDown,
            Some(_) => Outcome::FileOnly,
            None => Outcome::Unreadable("it does not say how its service is restarted: restart it".to_owned()),
        }
    }

    async fn restart(&self, restorer: &Restorer<'_>, domain: &str, how: &Domain, pending: &Pending) -> Outcome {
        if how.service.manager == Manager::Child {
            return self.end_child(restorer, domain, how, pending).await;
        }
        if !restorer.runs_with(how, pending).await {
            return Outcome::Undone;
        }
        match self.pending.use_a_try(domain) {
            Ok(true) => {}
            Ok(false) if self.is_asked => {}
            Ok(false) => return Outcome::Stuck("no try is left".to_owned()),
            // A kloros that did not count them yet, or a disk that takes nothing: a person decides.
            Err(_) if self.is_asked => {}
            Err(error) => return Outcome::Stuck(format!("the tries cannot be counted: {error}")),
        }
        match restorer.restart(how).await {
            Ok(()) => Outcome::Undone,
            Err(why) => Outcome::Failed(why),
        }
    }
}

impl Undo<'_> {
    /// Says what is so where somebody removed the env file: it is not made again, and nobody is restarted without it.
    async fn without_its_file(&self, restorer: &Restorer<'_>, pending: &Pending) -> Outcome {
        match &pending.how {
            Some(how) if self.is_down(how).await => Outcome::UndoneAndDown,
            Some(how) if !restorer.runs_with(how, pending).await => Outcome::Undone,
            _ => Outcome::Failed(gone(pending)),
        }
    }

    /// Returns whether nobody serves where the service does: then it comes up with what stands in its env file.
    async fn is_down(&self, how: &Domain) -> bool {
        if how.service.manager == Manager::Child {
            // It ends with the daemon, whose child it is.
            return !self.home.is_held();
        }
        let address = (std::net::Ipv4Addr::LOCALHOST, how.service.port);
        let refused = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
        tokio::net::TcpStream::connect(address).await.is_err_and(refused)
    }

    /// Sees that a child of the daemon does not run with what was taken out of its env file. It went with a daemon that is dead, and
    /// comes back with the next. Of one that is frozen it runs on, and nobody else can end it: whoever thaws in time takes it back
    /// itself, and who does not is ended, as one that froze with the right to restart is.
    async fn end_child(&self, restorer: &Restorer<'_>, domain: &str, how: &Domain, pending: &Pending) -> Outcome {
        let deadline = Instant::now() + THAWS_WITHIN;
        loop {
            match self.home.is_in_use() {
                Ok(false) => return Outcome::UndoneAndDown,
                Ok(true) if !restorer.runs_with(how, pending).await => return Outcome::Undone,
                // It has cleared away what was taken over, and restarted its child before that.
                Ok(true) if self.pending.taken_over(domain).is_ok_and(|claimed| claimed.is_none()) => {
                    return Outcome::Undone;
                }
                Ok(true) => {}
                Err(error) => return Outcome::Failed(error.to_string()),
            }
            if Instant::now() >= deadline {
                break;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        let Some(pid) = self.home.end_daemon() else {
            return Outcome::Failed("the daemon gives no sign of life and cannot be ended: end it".to_owned());
        };
        tracing::error!(
            pid,
            domain,
            "the daemon gives no sign of life, and is ended with its service, which is its child"
        );
        Outcome::UndoneAndDown
    }
}

/// How long a daemon that was late has to take back itself what its child runs with, once it goes on.
const THAWS_WITHIN: Duration = Duration::from_secs(3);

/// Returns whether the journal says that the change stays. The verdict is the commit point, and the daemon may have died
/// between it and the end of the pending file.
fn is_proven(home: &Home, deployment: &DeploymentId) -> bool {
    let query = Query::kinds(&[Kind::Deployment, Kind::Step]).about(deployment.as_str());
    let found = Reader::find(home).ok().flatten().and_then(|journal| journal.read(&query).ok());
    let stage =
        found.and_then(|found| stages(found.into_iter().map(|each| each.fact)).first().map(|(_, stage)| *stage));
    matches!(stage, Some(Stage::Judged(Ruled::Success | Ruled::Neutral)))
}
