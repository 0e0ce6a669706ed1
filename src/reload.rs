//! Hot reload: the operator's files are read again while the daemon runs, and what they say comes into force whole or not at all.
//!
//! Three things ask for it: a file that changed, SIGHUP, and `kloros reload`. All go one way: everything is read and checked as
//! at a start; what a running daemon makes of it is worked out (`settings::change`); it becomes a fact in the journal; then the
//! rooms hear of it. Where something is wrong, the old settings stay in force, and `kloros status`, the log and the metrics say
//! so, with file, line and key. A file that only changed takes no setting away by saying nothing of it any more: that takes
//! somebody who asks.

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
    facts::{Autonomy, Changed, CycleId, Entry, Fact, Reload, Reloaded},
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
    settings::{self, Complaints, Said, Settings},
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

/// Why the files are read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// They changed, or something in them still waits.
    ByItself,
    /// Somebody asked for it: this user, or whoever sent the signal.
    Asked(Option<u32>),
}

impl Wanted {
    fn by_uid(self) -> Option<u32> {
        match self {
            Self::ByItself => None,
            Self::Asked(uid) => uid,
        }
    }
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
    /// What they said of what is in force.
    said: StdMutex<Said>,
}

/// What the files held when the settings in force were read from them.
pub(crate) struct Seen {
    fingerprint: String,
    said: Said,
}

/// Returns what all that the settings of `home`, or those beside `config`, are read from holds.
pub(crate) fn seen(home: &Home, config: Option<&Path>) -> Seen {
    Seen { fingerprint: fingerprint(home.root(), config), said: Said::in_files(home.root(), config) }
}

impl Reloader {
    /// Returns what reads the files of `home`, or those beside `config`, again, while `settings` are in force, which were read when
    /// they held what is `seen`.
    pub(crate) fn new(
        home: Home,
        config: Option<PathBuf>,
        (settings, seen): (Settings, Seen),
        control: Control,
        seams: (Arc<dyn Journal>, Arc<dyn Clock>),
        log: Log,
    ) -> Self {
        let (journal, clock) = seams;
        metrics::gauge!(meters::CONFIG_LAST_RELOAD_SUCCESSFUL).set(1.0);
        metrics::gauge!(meters::CONFIG_RELOADED_AT).set(clock.now_ms() as f64 / 1000.0);
        let had_file = AtomicBool::new(settings::main_file(home.root(), config.as_deref()).exists());
        let (in_force, standing) = (Mutex::new(settings), StdMutex::new(None));
        let (seen, said) = (StdMutex::new(seen.fingerprint), StdMutex::new(seen.said));
        Self(Arc::new(Inner { home, config, control, journal, clock, log, in_force, standing, had_file, seen, said }))
    }

    /// Returns what came of the last reload; `None` before the first.
    pub(crate) fn standing(&self) -> Option<Standing> {
        self.0.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files again, because it is `wanted`, and puts what they say into force whole, or leaves everything as it is.
    /// Returns which of the two, once it is done.
    pub(crate) async fn reload(&self, wanted: Wanted) -> Reloaded {
        let mut in_force = self.0.in_force.lock().await;
        if let Some(now) = self.fingerprint().await {
            *self.0.seen.lock().unwrap_or_else(PoisonError::into_inner) = now;
        }
        let outcome = match self.0.change(&mut in_force, wanted).await {
            Ok(outcome) => outcome,
            Err(problems) => Reloaded::Refused { problems },
        };
        drop(in_force);
        if is_news(&outcome, self.standing().as_ref(), wanted) {
            self.0.tell(&outcome, wanted).await;
        }
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
                self.reload(Wanted::ByItself).await;
            }
            let pause = if self.waits() { every.min(WAITING_EVERY) } else { every };
            tokio::select! {
                () = files.changed(settle) => {}
                () = tokio::time::sleep(pause) => {}
                _ = hangup.recv(), if !hangs_up => drop(self.reload(Wanted::Asked(None)).await),
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

/// Returns whether there is anything to say of `outcome` after what was said `last`. Where nobody asked, nothing came into force and
/// nothing else is in its way than before, as each time that a waiting change is tried again, there is not.
fn is_news(outcome: &Reloaded, last: Option<&Standing>, wanted: Wanted) -> bool {
    let is_idle = matches!(outcome, Reloaded::Applied { changed, .. } if changed.is_empty());
    let is_told = last.is_some_and(|last| last.outcome == *outcome);
    wanted != Wanted::ByItself || !is_idle || !is_told
}

impl Inner {
    /// Returns the settings as they are in the files now, with what the files said before and after they were read.
    async fn load(&self) -> Result<(Settings, Said), Vec<String>> {
        let (root, config) = (self.home.root().to_path_buf(), self.config.clone());
        let reading = move || {
            let said = Said::in_files(&root, config.as_deref());
            let settings = Settings::load_to_run(&root, config.as_deref())?;
            Ok((settings, said.and(&Said::in_files(&root, config.as_deref()))))
        };
        let loaded = tokio::task::spawn_blocking(reading).await;
        let loaded = loaded.map_err(|error| vec![format!("reading the settings failed: {error}")])?;
        loaded.map_err(|complaints: Complaints| {
            let more = complaints.len().saturating_sub(PROBLEMS_MAX);
            let mut lines: Vec<String> = complaints.to_string().lines().take(PROBLEMS_MAX).map(str::to_owned).collect();
            if more > 0 {
                lines.push(format!("and {more} more: kloros check-config"));
            }
            lines
        })
    }

    /// Makes the change durable, then makes it.
    async fn change(&self, in_force: &mut Settings, wanted: Wanted) -> Result<Reloaded, Vec<String>> {
        let file = settings::main_file(self.home.root(), self.config.as_deref());
        if !file.exists() && self.had_file.load(Ordering::Relaxed) {
            let what = "is gone; what it said stays in force until it is back, or until the daemon is started again";
            return Err(vec![format!("{}: {what}", file.display())]);
        }
        let (new, said) = self.load().await?;
        self.had_file.fetch_or(file.exists(), Ordering::Relaxed);
        let busy: BTreeSet<String> = self.control.unproven().await.map_err(|error| vec![error.to_string()])?;
        let change = settings::change(in_force, &new, &busy).map_err(|problems| {
            problems.into_iter().map(|problem| format!("{}: {}", problem.key, problem.what)).collect::<Vec<_>>()
        })?;
        let before = self.said.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let by_itself = wanted == Wanted::ByItself;
        let missing = if by_itself { before.missing(&said, &change.changed) } else { Vec::new() };
        if !missing.is_empty() {
            self.lower(in_force, change.settings.rooms.gate.autonomy).await?;
            return Err(missing);
        }
        // What somebody asked for is asked for as well where it waits.
        let said = before.become_of(&said, if by_itself { &change.waits } else { &[] });
        let outcome = Reloaded::Applied {
            changed: change.changed.clone(),
            needs_restart: change.needs_restart.clone(),
            waits: change.waits.clone(),
        };
        let is_told = change.changed.is_empty() && self.is_told(&outcome);
        if !(change.is_none() || is_told) {
            self.put_into_force(in_force, change.settings, &outcome, wanted).await?;
        }
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = said;
        Ok(outcome)
    }

    /// Lowers the level to `to`, if that is lower: whatever else is refused, less freedom waits for nothing.
    async fn lower(&self, in_force: &mut Settings, to: Autonomy) -> Result<(), Vec<String>> {
        let from = in_force.rooms.gate.autonomy;
        if to >= from {
            return Ok(());
        }
        let mut lowered = in_force.clone();
        lowered.rooms.gate.autonomy = to;
        let [from, to] = [from, to].map(|level| u8::from(level).to_string());
        let changed = vec![Changed { key: "gate.autonomy".to_owned(), from, to }];
        let outcome = Reloaded::Applied { changed, needs_restart: Vec::new(), waits: Vec::new() };
        self.put_into_force(in_force, lowered, &outcome, Wanted::ByItself).await
    }

    /// Writes down that `settings` come into force, and has the rooms hear of them.
    async fn put_into_force(
        &self,
        in_force: &mut Settings,
        settings: Settings,
        outcome: &Reloaded,
        wanted: Wanted,
    ) -> Result<(), Vec<String>> {
        self.note(outcome, wanted).await.map_err(|error| vec![error])?;
        self.log.filter_by(&settings.shell.log);
        let catalogue = Arc::new(with_paths_in(&self.home, settings.catalogue.clone()));
        self.control.reconfigure(&settings.rooms, &catalogue);
        *in_force = settings;
        Ok(())
    }

    /// Returns whether this was said at the last reload already.
    fn is_told(&self, outcome: &Reloaded) -> bool {
        let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        standing.as_ref().is_some_and(|standing| standing.outcome == *outcome)
    }

    async fn note(&self, outcome: &Reloaded, wanted: Wanted) -> Result<(), String> {
        let fact = Fact::Reload(Reload { by_uid: wanted.by_uid(), outcome: outcome.clone() });
        let entry = Entry::new(&CycleId::new("c-operator"), self.clock.now_ms(), fact);
        self.journal.append(vec![entry]).await.map(drop).map_err(|error| format!("cannot be recorded: {error}"))
    }

    /// Says what came of it, wherever an operator looks.
    async fn tell(&self, outcome: &Reloaded, wanted: Wanted) {
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
                    && let Err(error) = self.note(outcome, wanted).await
                {
                    tracing::warn!(%error, "the refusal is in the log alone");
                }
            }
        }
        let standing = Standing { at_ms: self.clock.now_ms(), outcome: outcome.clone() };
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = Some(standing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(changed: &[&str], waits: &[&str]) -> Reloaded {
        let changed = changed.iter().map(|key| Changed { key: (*key).into(), from: String::new(), to: String::new() });
        let waits = waits.iter().map(|name| (*name).to_owned()).collect();
        Reloaded::Applied { changed: changed.collect(), needs_restart: Vec::new(), waits }
    }

    /// Each look at a domain that waits for its verdict counted as a reload, and moved the time of the last one.
    #[test]
    fn what_still_waits_is_told_once_and_what_somebody_asked_for_is_always_told() {
        let waits = applied(&[], &["domains.lab"]);
        let last = Standing { at_ms: 1, outcome: waits.clone() };
        assert!(is_news(&waits, None, Wanted::ByItself));
        assert!(!is_news(&waits, Some(&last), Wanted::ByItself));
        assert!(
            is_news(&waits, Some(&last), Wanted::Asked(Some(0))) && is_news(&waits, Some(&last), Wanted::Asked(None))
        );
        assert!(is_news(&applied(&["domains.lab"], &[]), Some(&last), Wanted::ByItself), "it came into force");
        let edited = applied(&["domains.lab"], &[]);
        let last = Standing { at_ms: 1, outcome: edited.clone() };
        assert!(is_news(&edited, Some(&last), Wanted::ByItself), "and came into force anew");
    }

    #[test]
    fn files_that_are_still_in_disorder_are_refused_each_time() {
        let refused = Reloaded::Refused { problems: vec!["kloros.toml:1: x".into()] };
        let last = Standing { at_ms: 1, outcome: refused.clone() };
        assert!(is_news(&refused, Some(&last), Wanted::ByItself));
    }
}
