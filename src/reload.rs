//! Hot reload: the operator's files are read again while the daemon runs, and what they say comes into force whole or not at all.
//!
//! Three things ask for it: a file that changed, SIGHUP, and `kloros reload`. All go one way: everything is read and checked as
//! at a start; what a running daemon makes of it is worked out (`settings::change`); it becomes a fact in the journal; then the
//! rooms hear of it. Where something is wrong, the old settings stay in force, and `kloros status`, the log and the metrics say
//! so, with file, line and key.

mod files;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex as StdMutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kloros_actors::{
    circuit::Control,
    facts::{CycleId, Entry, Fact, Reload, Reloaded},
    meters,
    seams::{Clock, Journal},
};
use serde::{Deserialize, Serialize};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Mutex,
};

use crate::{
    daemon::with_paths_in,
    home::Home,
    settings::{self, Settings},
    telemetry::Log,
};
use files::{Files, fingerprint};

/// How many lines of a refusal are kept; the first are enough to begin with, and `kloros check-config` says all.
const PROBLEMS_MAX: usize = 20;

/// How often it is tried again while a change waits for the verdict on another.
const WAITING_EVERY: Duration = Duration::from_secs(5);

/// What came of the last reload, as `kloros status` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// When, in milliseconds since the Unix epoch.
    pub(crate) at_ms: u64,
    /// What came of it.
    pub(crate) outcome: Reloaded,
}

/// Reads the operator's files again.
#[derive(Clone)]
pub(crate) struct Reloader(Arc<Inner>);

struct Inner {
    home: Home,
    config: Option<PathBuf>,
    control: Control,
    journal: Arc<dyn Journal>,
    clock: Arc<dyn Clock>,
    log: Log,
    /// What is in force; held while it is being changed, so that two reloads come one after the other.
    in_force: Mutex<Settings>,
    standing: StdMutex<Option<Standing>>,
    /// Whether there was a configuration file. One that goes away, as in the middle of an editor's save, takes no limit away: the
    /// defaults may allow more than it did.
    had_file: AtomicBool,
    /// What the files held when they were read last.
    seen: StdMutex<String>,
}

/// Returns a fingerprint of all that the settings of `home`, or those beside `config`, are read from.
pub(crate) fn seen(home: &Home, config: Option<&Path>) -> String {
    fingerprint(home.root(), config)
}

impl Reloader {
    /// Returns what reads the files of `home`, or those beside `config`, again, while `settings` are in force, which were read when
    /// they held what is `seen`.
    pub(crate) fn new(
        home: Home,
        config: Option<PathBuf>,
        (settings, seen): (Settings, String),
        control: Control,
        seams: (Arc<dyn Journal>, Arc<dyn Clock>),
        log: Log,
    ) -> Self {
        let (journal, clock) = seams;
        metrics::gauge!(meters::CONFIG_LAST_RELOAD_SUCCESSFUL).set(1.0);
        metrics::gauge!(meters::CONFIG_RELOADED_AT).set(clock.now_ms() as f64 / 1000.0);
        let had_file = AtomicBool::new(settings::main_file(home.root(), config.as_deref()).exists());
        let (in_force, standing, seen) = (Mutex::new(settings), StdMutex::new(None), StdMutex::new(seen));
        Self(Arc::new(Inner { home, config, control, journal, clock, log, in_force, standing, had_file, seen }))
    }

    /// Returns what came of the last reload; `None` before the first.
    pub(crate) fn standing(&self) -> Option<Standing> {
        self.0.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files again, for the person `by_uid` or because they changed, and puts what they say into force whole, or
    /// leaves everything as it is. Returns which of the two, once it is done.
    pub(crate) async fn reload(&self, by_uid: Option<u32>) -> Reloaded {
        let mut in_force = self.0.in_force.lock().await;
        if let Some(now) = self.fingerprint().await {
            *self.0.seen.lock().unwrap_or_else(PoisonError::into_inner) = now;
        }
        let outcome = match self.0.change(&mut in_force, by_uid).await {
            Ok(outcome) => outcome,
            Err(problems) => Reloaded::Refused { problems },
        };
        drop(in_force);
        self.0.tell(&outcome, by_uid).await;
        outcome
    }

    /// Follows the files and SIGHUP until it fails; `hangs_up` says that a hang-up ends the daemon instead.
    pub(crate) async fn watch(self, hangs_up: bool) -> Result<(), String> {
        let following = self.0.in_force.lock().await.following.clone();
        let (settle, every) =
            (Duration::from_secs_f64(following.settle_s), Duration::from_secs_f64(following.look_every_s));
        let mut hangup = signal(SignalKind::hangup()).map_err(|error| error.to_string())?;
        let mut files = Files::new(&self.0.home, self.0.config.as_deref(), following.follow_files);
        loop {
            if self.waits() || (following.follow_files && self.is_changed().await) {
                if self.is_in_disorder().await {
                    // It may be a file that is still being written.
                    tokio::time::sleep(settle).await;
                }
                self.reload(None).await;
            }
            let pause = if self.waits() { every.min(WAITING_EVERY) } else { every };
            tokio::select! {
                () = files.changed(settle) => {}
                () = tokio::time::sleep(pause) => {}
                _ = hangup.recv(), if !hangs_up => drop(self.reload(None).await),
            }
        }
    }

    async fn fingerprint(&self) -> Option<String> {
        let (root, config) = (self.0.home.root().to_path_buf(), self.0.config.clone());
        // A look that was broken off tells of nothing new.
        tokio::task::spawn_blocking(move || fingerprint(&root, config.as_deref())).await.ok()
    }

    async fn is_changed(&self) -> bool {
        let now = self.fingerprint().await;
        now.is_some_and(|now| now != *self.0.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn is_in_disorder(&self) -> bool {
        self.0.load().await.is_err()
    }

    /// Returns whether something that was read could not come into force yet.
    fn waits(&self) -> bool {
        let waits =
            |standing: Standing| matches!(standing.outcome, Reloaded::Applied { waits, .. } if !waits.is_empty());
        self.standing().is_some_and(waits)
    }
}

impl Inner {
    async fn load(&self) -> Result<Settings, Vec<String>> {
        let (root, config) = (self.home.root().to_path_buf(), self.config.clone());
        let loaded = tokio::task::spawn_blocking(move || Settings::load_to_run(&root, config.as_deref())).await;
        let loaded = loaded.map_err(|error| vec![format!("reading the settings failed: {error}")])?;
        loaded.map_err(|complaints| {
            let more = complaints.len().saturating_sub(PROBLEMS_MAX);
            let mut lines: Vec<String> = complaints.to_string().lines().take(PROBLEMS_MAX).map(str::to_owned).collect();
            if more > 0 {
                lines.push(format!("and {more} more: kloros check-config"));
            }
            lines
        })
    }

    /// Makes the change durable, then makes it.
    async fn change(&self, in_force: &mut Settings, by_uid: Option<u32>) -> Result<Reloaded, Vec<String>> {
        let file = settings::main_file(self.home.root(), self.config.as_deref());
        if !file.exists() && self.had_file.load(Ordering::Relaxed) {
            let what = "is gone; what it said stays in force until it is back, or until the daemon is started again";
            return Err(vec![format!("{}: {what}", file.display())]);
        }
        let new = self.load().await?;
        self.had_file.fetch_or(file.exists(), Ordering::Relaxed);
        let busy: BTreeSet<String> = self.control.unproven().await.map_err(|error| vec![error.to_string()])?;
        let change = settings::change(in_force, &new, &busy).map_err(|problems| {
            problems.into_iter().map(|problem| format!("{}: {}", problem.key, problem.what)).collect::<Vec<_>>()
        })?;
        let outcome = Reloaded::Applied {
            changed: change.changed.clone(),
            needs_restart: change.needs_restart.clone(),
            waits: change.waits.clone(),
        };
        if change.is_none() || (change.changed.is_empty() && self.is_told(&outcome)) {
            return Ok(outcome);
        }
        self.note(&outcome, by_uid).await.map_err(|error| vec![error])?;
        self.log.filter_by(&change.settings.shell.log);
        let catalogue = Arc::new(with_paths_in(&self.home, change.settings.catalogue.clone()));
        self.control.reconfigure(&change.settings.rooms, &catalogue);
        *in_force = change.settings;
        Ok(outcome)
    }

    /// Returns whether this was said at the last reload already.
    fn is_told(&self, outcome: &Reloaded) -> bool {
        let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        standing.as_ref().is_some_and(|standing| standing.outcome == *outcome)
    }

    async fn note(&self, outcome: &Reloaded, by_uid: Option<u32>) -> Result<(), String> {
        let fact = Fact::Reload(Reload { by_uid, outcome: outcome.clone() });
        let entry = Entry::new(&CycleId::new("c-operator"), self.clock.now_ms(), fact);
        self.journal.append(vec![entry]).await.map(drop).map_err(|error| format!("cannot be recorded: {error}"))
    }

    /// Says what came of it, wherever an operator looks.
    async fn tell(&self, outcome: &Reloaded, by_uid: Option<u32>) {
        match outcome {
            Reloaded::Applied { changed, needs_restart, waits } => {
                metrics::counter!(meters::CONFIG_RELOADS_TOTAL, "outcome" => "applied").increment(1);
                metrics::gauge!(meters::CONFIG_LAST_RELOAD_SUCCESSFUL).set(1.0);
                metrics::gauge!(meters::CONFIG_RELOADED_AT).set(self.clock.now_ms() as f64 / 1000.0);
                let changed: Vec<String> = changed.iter().map(ToString::to_string).collect();
                tracing::info!(?changed, ?needs_restart, ?waits, "settings read again");
            }
            Reloaded::Refused { problems } => {
                metrics::counter!(meters::CONFIG_RELOADS_TOTAL, "outcome" => "refused").increment(1);
                metrics::gauge!(meters::CONFIG_LAST_RELOAD_SUCCESSFUL).set(0.0);
                tracing::error!(?problems, "settings refused, the old ones stay in force");
                if !self.is_told(outcome)
                    && let Err(error) = self.note(outcome, by_uid).await
                {
                    tracing::warn!(%error, "the refusal is in the log alone");
                }
            }
        }
        let standing = Standing { at_ms: self.clock.now_ms(), outcome: outcome.clone() };
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = Some(standing);
    }
}
