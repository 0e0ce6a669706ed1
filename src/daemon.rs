//! The composition root: plugs the adapters into the loop, starts it, and ends it cleanly.

mod adapters;

use std::{path::PathBuf, sync::Arc, time::Duration};

use adapters::{adapters, create_if_absent, with_paths_in};

use anyhow::{Context, bail};
use futures::FutureExt as _;
use kloros_actors::{
    circuit::{Circuit, Control, Plugs},
    config::Catalogue,
    deployer,
    facts::{Domain, Kind, Manager, Recorded},
    seams::{Clock as _, Journal as _, JournalError, Probe, Query, Seams},
};
use kloros_supervision::{ChildSpec, Ended};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    api::{self, About, Api, Service},
    background,
    clock::SystemClock,
    demo,
    home::{Home, HomeLock},
    host::HostProbe,
    inbox::Inbox,
    journal::{self, Store},
    nvml::Gpus,
    recover,
    scrape::ServiceProbe,
    service::Services,
    settings::Settings,
    telemetry,
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
    home.create()?;
    // Whoever undoes in our place just now is let finish.
    let undoing = home.undo_lock(recover::UNDO_MAX)?;
    let lock = home.lock()?;
    let settings = Settings::load(home.root(), config.as_deref())?;
    telemetry::start_logs(&settings.shell.log, looked_on);
    let store = match journal::open(&home) {
        Ok(store) => store,
        Err(error) => {
            // What was live when the journal was lost is not proven, and its pending file knows how to undo it.
            take_back(&home, &settings, &error).await?;
            return Err(error.into());
        }
    };
    // What a crash left half written outside the journal is mended before anything new is written.
    store.mend().await.context("cannot mend the projected files")?;
    store.adopt_baselines(SystemClock.now_ms()).await.context("cannot look at the baselines")?;
    let metrics = telemetry::start_metrics()?;
    telemetry::check_address(settings.shell.metrics_address)?;
    let house = House::new(&home, store, settings, seed)?;

    deployer::recover(&house.seams, &house.catalogue, &house.settings.rooms.deployer).await?;
    drop(undoing);
    house.start_services().await;
    let (load, since) = (house.demo_load(), house.last_seq().await?);
    let ended = match house.open(metrics).await {
        Ok(control) => {
            let ended = attend(&house, &control, &lock, cycles, since, &mut watch).await;
            if let Err(late) = control.stop(STOP_WITHIN).await {
                tracing::error!(%late, "rooms did not stop in time");
            }
            ended
        }
        Err(error) => Err(error),
    };
    if let Some(load) = load {
        let counts = load.stop().await;
        tracing::info!(?counts, "practice load ended");
    }
    house.close().await?;
    ended
}

/// Everything that is plugged in.
struct House {
    home: Home,
    store: Store,
    settings: Settings,
    catalogue: Arc<Catalogue>,
    services: Arc<Services>,
    gpus: Arc<Gpus>,
    seams: Seams,
    seed: u64,
}

impl House {
    fn new(home: &Home, store: Store, settings: Settings, seed: u64) -> anyhow::Result<Self> {
        let (seams, services, gpus) = adapters(home, &settings, Arc::new(store.clone()))?;
        let catalogue = Arc::new(with_paths_in(home, settings.catalogue.clone()));
        Ok(Self { home: home.clone(), store, settings, catalogue, services, gpus, seams, seed })
    }

    /// Starts what kloros runs itself. A service that does not come up is not given up: it is watched and tried again.
    async fn start_services(&self) {
        for domain in self.catalogue.domains.values() {
            if domain.service.manager == Manager::Child {
                create_if_absent(&domain.service.env_file);
            }
            if let Err(error) = self.services.start(domain).await {
                tracing::error!(domain = %domain.name, %error, "the service is not up");
            }
        }
    }

    async fn last_seq(&self) -> anyhow::Result<u64> {
        let newest = self.store.read(Query::newest(&[], 1)).await?;
        Ok(newest.first().map_or(0, |recorded| recorded.seq))
    }

    fn demo_load(&self) -> Option<crate::bench::LiveLoad> {
        let wanted = self.settings.practice && self.settings.shell.demo_load;
        let built_in = wanted.then(|| self.settings.catalogue.domains.get("lab")).flatten()?;
        let (services, name) = (Arc::clone(&self.services), built_in.name.clone());
        Some(demo::start(move || services.base_url(&name), self.seed))
    }

    fn probes(&self) -> Vec<Arc<dyn Probe>> {
        let clock = Arc::clone(&self.seams.clock);
        let host = HostProbe::new(self.home.root().to_path_buf(), clock).map_or_else(
            |error| {
                tracing::warn!(%error, "host cannot be watched");
                None
            },
            |probe| Some(Arc::new(probe) as Arc<dyn Probe>),
        );
        let scrapes = self.settings.catalogue.domains.values().filter_map(|domain| {
            let path = domain.service.metrics_path.clone()?;
            let (services, name) = (Arc::clone(&self.services), domain.name.clone());
            let address = Box::new(move || services.base_url(&name).map(|base| format!("{base}{path}")));
            let clock = Arc::clone(&self.seams.clock);
            Some(Arc::new(ServiceProbe::new(domain.name.clone(), address, clock)) as Arc<dyn Probe>)
        });
        host.into_iter().chain(scrapes).collect()
    }

    async fn open(&self, metrics: PrometheusHandle) -> anyhow::Result<Control> {
        let circuit = Circuit::new(Plugs {
            seams: self.seams.clone(),
            catalogue: Arc::clone(&self.catalogue),
            config: self.settings.rooms.clone(),
            seed: self.seed,
            probes: self.probes(),
            gpu: self.gpus.clone(),
        });
        let control = circuit.control();
        let store = vec![self.projector()];
        let shell = vec![self.api(&control), self.telemetry(&control, metrics), self.inbox(&control), self.keeper()];
        circuit.start(store, shell).await.context("the house cannot be started")?;
        Ok(control)
    }

    fn projector(&self) -> ChildSpec {
        let store = self.store.clone();
        background::child("projector", move || {
            let store = store.clone();
            async move {
                let mut appended = store.appended();
                loop {
                    if let Err(error) = store.flush().await {
                        tracing::warn!(%error, "projection waits");
                    }
                    store.check().map_err(|error| error.to_string())?;
                    // Woken by each append, and by itself for what had to wait.
                    tokio::time::timeout(PROJECT_EVERY, appended.changed()).await.ok();
                }
            }
        })
    }

    fn keeper(&self) -> ChildSpec {
        let services = Arc::clone(&self.services);
        let domains: Vec<_> = self.catalogue.domains.values().cloned().collect();
        background::child("services", move || {
            let (services, domains) = (Arc::clone(&services), domains.clone());
            async move {
                let watches = domains.iter().map(|domain| services.supervise(domain));
                futures::future::join_all(watches).await;
                // The watches end when the house is being closed; until it is, there is nothing left to do.
                std::future::pending().await
            }
        })
    }

    fn api(&self, control: &Control) -> ChildSpec {
        let services = Arc::clone(&self.services);
        let domains: Vec<Domain> = self.catalogue.domains.values().cloned().collect();
        let looked_at = Arc::new(domains.clone());
        let about = About {
            metrics_address: self.settings.shell.metrics_address.to_string(),
            domains,
            services: Box::new(move || look_at(Arc::clone(&services), Arc::clone(&looked_at)).boxed()),
            machine: self.settings.measuring.machine(),
        };
        let api = Api {
            control: control.clone(),
            socket: self.home.state_folder().join(SOCKET),
            chaos: self.settings.shell.chaos,
            facts: Arc::new(about),
        };
        background::child("api", move || api::serve(api.clone()))
    }

    fn telemetry(&self, control: &Control, metrics: PrometheusHandle) -> ChildSpec {
        let address = self.settings.shell.metrics_address;
        let shown = telemetry::Shown { handle: metrics, control: control.clone(), gpus: Arc::clone(&self.gpus) };
        background::child("telemetry", move || telemetry::serve(address, shown.clone()))
    }

    fn inbox(&self, control: &Control) -> ChildSpec {
        let inbox = Inbox {
            home: self.home.clone(),
            control: control.clone(),
            journal: Arc::clone(&self.seams.journal),
            clock: Arc::clone(&self.seams.clock),
            switch: Arc::clone(&self.seams.switch),
            catalogue: Arc::clone(&self.catalogue),
        };
        background::child("inbox", move || inbox.clone().watch())
    }

    /// Leaves the machine in a proven state: what was not judged is undone, what kloros started is ended.
    async fn close(&self) -> anyhow::Result<()> {
        let recovered = deployer::wind_up(&self.seams, &self.catalogue, &self.settings.rooms.deployer).await;
        self.services.stop_all().await;
        recovered?;
        self.store.flush().await.context("projected files wait for the next start")?;
        if let Err(error) = self.store.fold().await {
            // They are as durable there.
            tracing::warn!(%error, "newest facts stay in the journal's write-ahead log");
        }
        Ok(())
    }
}

/// Returns how the services are now.
async fn look_at(services: Arc<Services>, domains: Arc<Vec<Domain>>) -> Vec<Service> {
    let looks = domains.iter().map(|domain| services.look(domain));
    let looks = futures::future::join_all(looks).await;
    let named = domains.iter().zip(looks).map(|(domain, look)| Service {
        domain: domain.name.clone(),
        url: look.url,
        is_up: look.is_up,
        state: look.state,
        pid: look.pid,
        deaths: look.deaths,
        rests_s: look.rests_s,
    });
    named.collect()
}

/// Undoes what is pending in a home whose journal cannot be opened.
async fn take_back(home: &Home, settings: &Settings, error: &JournalError) -> anyhow::Result<()> {
    tracing::error!(%error, "there is no journal, what is pending is undone and nothing else is done");
    let (seams, services, _) = adapters(home, settings, Arc::new(journal::Lost(error.to_string())))?;
    let catalogue = with_paths_in(home, settings.catalogue.clone());
    // It returns the error that is known already.
    deployer::recover(&seams, &catalogue, &settings.rooms.deployer).await.ok();
    services.stop_all().await;
    Ok(())
}

/// Follows the journal until there is a reason to end.
async fn attend<W: FnMut(&Recorded) + Send>(
    house: &House,
    control: &Control,
    lock: &HomeLock,
    cycles: Option<u64>,
    since: u64,
    watch: &mut W,
) -> anyhow::Result<End> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut appended = house.store.appended();
    let (mut seen, mut closed) = (since, 0);
    loop {
        for recorded in house.store.read(Query { after: seen, ..Query::default() }).await? {
            seen = recorded.seq;
            closed += u64::from(recorded.fact.kind() == Kind::Lesson);
            watch(&recorded);
        }
        if cycles.is_some_and(|wanted| closed >= wanted) && house.is_settled().await? {
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
            ended = control.ended() => match ended {
                Ended::Stopped | Ended::Done { .. } => return Ok(End::Asked),
                Ended::GaveUp { path, reason } => bail!("{path} failed too often: {reason}"),
            },
            _ = tokio::time::timeout(PROJECT_EVERY, appended.changed()) => {}
        }
    }
}

impl House {
    /// The lesson may be written before the deployment is closed; the daemon ends after both.
    async fn is_settled(&self) -> anyhow::Result<bool> {
        let query = Query::newest(&[Kind::Deployment, Kind::Step], SETTLED_LOOK_BACK);
        let mut history = self.store.read(query).await?;
        history.reverse();
        let stages = kloros_actors::facts::stages(history.into_iter().map(|recorded| recorded.fact));
        Ok(stages.iter().all(|(_, stage)| stage.is_final() || *stage == kloros_actors::facts::Stage::Stuck))
    }
}

/// How many facts about deployments are looked through for one that is open.
const SETTLED_LOOK_BACK: usize = 1_000;
