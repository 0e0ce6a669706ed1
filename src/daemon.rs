//! The composition root: plugs the adapters into the loop, starts it, and ends it cleanly.

mod adapters;

mod house;

mod talk;

use std::{path::PathBuf, sync::Arc, time::Duration};

use adapters::adapters;
pub(crate) use adapters::with_paths_in;
use house::{House, Shown};

use anyhow::{Context, bail};
use kloros_actors::{
    circuit::Control,
    deployer,
    facts::{Kind, Recorded},
    seams::{Clock as _, Journal as _, JournalError, Query},
};
use kloros_supervision::Ended;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    clock::SystemClock,
    home::{Home, HomeLock, UndoLock},
    journal, reload,
    settings::Settings,
    systemd, telemetry,
};

/// What `kloros run` was asked for.
pub(crate) struct Options {
    /// The home.
    pub(crate) home: Home,
    /// The configuration file, if one was named.
    pub(crate) config: Option<PathBuf>,
    /// After how many closed cycles the daemon ends by itself.
    pub(crate) cycles: Option<u64>,
    /// The seed of everything random.
    pub(crate) seed: u64,
    /// Whether a person looks on, who reads the story and not the log.
    pub(crate) looked_on: bool,
}

/// Why the daemon ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// So many cycles were closed as were asked for.
    CyclesClosed(u64),
    /// Somebody asked for it.
    Asked,
}

/// How long the rooms have to stop.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// How often the projector looks by itself, beside being woken: what could not be written before may be now.
const PROJECT_EVERY: Duration = Duration::from_secs(5);

/// The name of the control socket under the home's state folder.
pub(crate) const SOCKET: &str = "control.sock";

/// Runs the daemon to its end. `watch` is given every fact as it becomes durable.
pub(crate) async fn run<W: FnMut(&Recorded) + Send>(options: Options, mut watch: W) -> anyhow::Result<End> {
    let Options { home, config, cycles, seed, looked_on } = options;
    // From the first moment on, so that none of them ends anything half done; they are heard when every room is up.
    let _hangup = (!looked_on).then(|| signal(SignalKind::hangup())).transpose()?;
    let mut asked = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    home.create()?;
    let seen = reload::seen(&home, config.as_deref());
    let settings = Settings::load_to_run(home.root(), config.as_deref())?;
    // Whoever undoes in our place just now is let finish.
    let undo_wait = Duration::from_secs_f64(settings.rooms.deployer.undo_wait_s);
    let undoing = Arc::new(home.undo_lock(undo_wait)?);
    let lock = home.lock()?;
    let log = telemetry::Log::start(&settings.shell.log, looked_on);
    let store = match journal::open(&home) {
        Ok(store) => store,
        Err(error) => {
            // What was live when the journal was lost is not proven, and its pending file knows how to undo it.
            take_back(&home, &settings, &error, &undoing).await?;
            return Err(error.into());
        }
    };
    // What a crash left half written outside the journal is mended before anything new is written.
    store.mend().await.context("cannot mend the projected files")?;
    store.adopt_baselines(SystemClock.now_ms()).await.context("cannot look at the baselines")?;
    let metrics = telemetry::start_metrics()?;
    telemetry::check_address(settings.shell.metrics_address)?;
    check_api(&home, &settings)?;
    talk::check(&settings.conversation)?;
    let house = House::new(&home, store, settings, seed, &undoing)?;

    // Before what is taken back now, of which a person is to hear.
    let told = house.told().await?;
    deployer::recover(&house.seams, &house.catalogue, &house.settings.rooms.deployer).await?;
    drop(undoing);
    house.start_services().await;
    house.recall_stages().await?;
    let (load, since) = (house.demo_load(), house.last_seq().await?);
    let shown = Shown { metrics, log, config, seen, looked_on, told };
    let (ended, catalogue) = match house.open(shown).await {
        Ok(control) => {
            systemd::ready();
            let ended =
                attend(&house, &control, &lock, &mut asked, &Until { cycles, hangs_up: looked_on, since }, &mut watch)
                    .await;
            systemd::stopping();
            let [interrupt, terminate] = &mut asked;
            let again = async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            };
            match hurried(|within| control.stop(within), again).await {
                (Err(late), false) => tracing::error!(%late, "rooms did not stop in time"),
                (Err(late), true) => tracing::info!(%late, "rooms were killed, as asked"),
                (Ok(()), _) => {}
            }
            (ended, control.catalogue())
        }
        Err(error) => (Err(error), Arc::clone(&house.catalogue)),
    };
    if let Some(load) = load {
        let counts = load.stop().await;
        tracing::info!(?counts, "practice load ended");
    }
    house.close(&catalogue).await?;
    ended
}

/// Stops what `stop` stops in [`STOP_WITHIN`], or at once when somebody asks `again` meanwhile, and returns whether somebody did. What is
/// unproven is undone after that either way.
async fn hurried<S: Future>(stop: impl Fn(Duration) -> S, again: impl Future<Output = ()>) -> (S::Output, bool) {
    tokio::select! {
        stopped = stop(STOP_WITHIN) => return (stopped, false),
        () = again => tracing::warn!("asked to end while rooms are stopped: those that are not done are killed"),
    }
    (stop(Duration::ZERO).await, true)
}

/// Fails when the API cannot be reached where the settings say, while that can still be told to whoever started the daemon.
fn check_api(home: &Home, settings: &Settings) -> anyhow::Result<()> {
    let Some(address) = settings.reached.address() else { return Ok(()) };
    crate::api::Token::of(home).context("there is no token for the API")?;
    std::net::TcpListener::bind(address)
        .map(drop)
        .with_context(|| format!("cannot listen on {address} for the API: set api.listen to a free one"))
}

/// Undoes what is pending in a home whose journal cannot be opened.
async fn take_back(
    home: &Home,
    settings: &Settings,
    error: &JournalError,
    undoing: &Arc<UndoLock>,
) -> anyhow::Result<()> {
    tracing::error!(%error, "there is no journal, what is pending is undone and nothing else is done");
    let (seams, services, _) = adapters(home, settings, Arc::new(journal::Lost(error.to_string())), undoing)?;
    let catalogue = with_paths_in(home, settings.catalogue.clone());
    // It returns the error that is known already.
    deployer::recover(&seams, &catalogue, &settings.rooms.deployer).await.ok();
    services.stop_all().await;
    Ok(())
}

/// What ends the daemon.
struct Until {
    /// So many closed cycles.
    cycles: Option<u64>,
    /// A hang-up: whoever looks on goes away with their terminal. A service is told by it to read its settings again.
    hangs_up: bool,
    /// The last fact that was there before.
    since: u64,
}

/// Follows the journal until there is a reason to end.
async fn attend<W: FnMut(&Recorded) + Send>(
    house: &House,
    control: &Control,
    lock: &HomeLock,
    [interrupt, terminate]: &mut [Signal; 2],
    until: &Until,
    watch: &mut W,
) -> anyhow::Result<End> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut appended = house.store.appended();
    let (mut seen, mut closed) = (until.since, 0);
    loop {
        for recorded in house.store.read(Query { after: seen, ..Query::default() }).await? {
            seen = recorded.seq;
            closed += u64::from(recorded.fact.kind() == Kind::Lesson);
            systemd::tell_of(&recorded);
            house.stages.note(&recorded);
            watch(&recorded);
        }
        if until.cycles.is_some_and(|wanted| closed >= wanted) && house.is_settled().await? {
            return Ok(End::CyclesClosed(closed));
        }
        // Without a journal nothing can be proven any more: what is live is taken back, and a fresh start shows what is left.
        house.store.check()?;
        if !lock.stands() {
            bail!("the lock of {} is gone: somebody replaced the home", house.home.root().display());
        }
        tokio::select! {
            _ = interrupt.recv() => return Ok(End::Asked),
            _ = terminate.recv() => return Ok(End::Asked),
            _ = hangup.recv(), if until.hangs_up => return Ok(End::Asked),
            ended = control.ended() => match ended {
                Ended::Stopped | Ended::Done { .. } => return Ok(End::Asked),
                Ended::GaveUp { path, reason } => bail!("{path} failed too often: {reason}"),
            },
            _ = tokio::time::timeout(PROJECT_EVERY, appended.changed()) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_asks_once_more_does_not_wait_for_rooms_that_are_slow() {
        let begun = RefCell::new(Vec::new());
        let stop = async |within: Duration| {
            begun.borrow_mut().push(within);
            tokio::time::sleep(within).await;
            within
        };
        let second = |after: u64| tokio::time::sleep(Duration::from_secs(after));
        assert_eq!(hurried(stop, second(3)).await, (Duration::ZERO, true));
        assert_eq!(begun.take(), [STOP_WITHIN, Duration::ZERO]);
        assert_eq!(hurried(stop, second(30)).await, (STOP_WITHIN, false));
        assert_eq!(begun.take(), [STOP_WITHIN]);
    }
}
