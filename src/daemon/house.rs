//! Everything that is plugged in, and the rooms of the shell around the loop.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use anyhow::Context;
use futures::FutureExt as _;
use kloros_actors::{
    circuit::{Circuit, Control, Plugs},
    config::Catalogue,
    deployer,
    facts::{Domain, Kind, Manager},
    seams::{Archive, Journal as _, Probe, Query, Seams},
};
use kloros_supervision::ChildSpec;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;

use super::{
    PROJECT_EVERY, SOCKET,
    adapters::{adapters, create_if_absent, with_paths_in},
    talk,
};
use crate::{
    api::{self, About, Api, Service},
    archive::Conversations,
    background,
    charts::Charts,
    conversation::Signals,
    demo,
    home::{Home, UndoLock},
    host::{HostProbe, UseProbe},
    inbox::Inbox,
    journal::Store,
    journald::UnitProbe,
    notices::Lanes,
    nvml::Gpus,
    reload::{Reloader, Seen},
    scrape::ServiceProbe,
    service::Services,
    settings::Settings,
    stages::{self, Stages},
    systemd, telemetry,
    told::Told,
    traces,
};

/// How many facts are looked through for what is under way.
const STAGES_LOOK_BACK_MAX: usize = 10_000;

/// How the daemon shows itself and where it was told what to do.
pub(super) struct Shown {
    pub(super) metrics: PrometheusHandle,
    pub(super) log: telemetry::Log,
    pub(super) config: Option<PathBuf>,
    /// What the files of the settings held when they were read.
    pub(super) seen: Seen,
    pub(super) looked_on: bool,
    /// Up to where others were told what happened.
    pub(super) told: ToldOutside,
}

/// Up to where others were told what happened.
pub(super) struct ToldOutside {
    lanes: Lanes,
    traces: Told,
}

/// Everything that is plugged in.
pub(super) struct House {
    pub(super) home: Home,
    pub(super) store: Store,
    pub(super) settings: Settings,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) services: Arc<Services>,
    pub(super) gpus: Arc<Gpus>,
    pub(super) seams: Seams,
    pub(super) archive: Arc<dyn Archive>,
    /// What conversations tell of the service that answers them, where there is an endpoint.
    pub(super) signals: Option<Signals>,
    conversations: Option<Conversations>,
    /// What is under way in the stages of the loop.
    pub(super) stages: Arc<Stages>,
    /// What others say that fires, whichever way they say it.
    firing: Arc<Mutex<api::Firing>>,
    pub(super) seed: u64,
}

impl House {
    pub(super) fn new(
        home: &Home,
        store: Store,
        settings: Settings,
        seed: u64,
        undoing: &Arc<UndoLock>,
    ) -> anyhow::Result<Self> {
        let (seams, services, gpus) = adapters(home, &settings, Arc::new(store.clone()), undoing)?;
        let catalogue = Arc::new(with_paths_in(home, settings.catalogue.clone()));
        let conversations = talk::conversations(home);
        let archive = talk::archive(conversations.as_ref());
        let signals = talk::signals(&settings.conversation, &seams);
        let conversations = conversations.ok();
        let (home, stages, firing) = (home.clone(), Arc::default(), Arc::default());
        Ok(Self {
            home,
            store,
            settings,
            catalogue,
            services,
            gpus,
            seams,
            archive,
            signals,
            conversations,
            stages,
            firing,
            seed,
        })
    }

    /// Starts what kloros runs itself. A service that does not come up is not given up: it is watched and tried again.
    pub(super) async fn start_services(&self) {
        let starts = self.catalogue.domains.values().map(async |domain| {
            if domain.service.manager == Manager::Child {
                create_if_absent(&domain.service.env_file);
            }
            if let Err(error) = self.services.start(domain).await {
                tracing::error!(domain = %domain.name, %error, "the service is not up");
            }
        });
        futures::future::join_all(starts).await;
    }

    /// Takes up what earlier daemons left under way in the stages of the loop, as far as the newest facts tell.
    pub(super) async fn recall_stages(&self) -> anyhow::Result<()> {
        let mut newest = self.store.read(Query::newest(&stages::KINDS, STAGES_LOOK_BACK_MAX)).await?;
        newest.reverse();
        for recorded in &newest {
            self.stages.recall(recorded);
        }
        Ok(())
    }

    pub(super) async fn last_seq(&self) -> anyhow::Result<u64> {
        let newest = self.store.read(Query::newest(&[], 1)).await?;
        Ok(newest.first().map_or(0, |recorded| recorded.seq))
    }

    pub(super) fn demo_load(&self) -> Option<crate::bench::LiveLoad> {
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
            let load = domain.service.load_metric.as_deref();
            Some(Arc::new(ServiceProbe::new(domain.name.clone(), address, load, clock)) as Arc<dyn Probe>)
        });
        let uses = self.catalogue.domains.values().map(|domain| {
            let (services, domain) = (Arc::clone(&self.services), domain.clone());
            let name = domain.name.clone();
            let find = Box::new(move || {
                let (services, domain) = (Arc::clone(&services), domain.clone());
                async move { services.process_and_deaths(&domain).await }.boxed()
            });
            Arc::new(UseProbe::new(name, find, Arc::clone(&self.seams.clock))) as Arc<dyn Probe>
        });
        let units = self.catalogue.domains.values().filter_map(|domain| {
            UnitProbe::of(domain, Arc::clone(&self.seams.clock)).map(|probe| Arc::new(probe) as Arc<dyn Probe>)
        });
        let signals = self.signals.clone().map(|signals| Arc::new(signals) as Arc<dyn Probe>);
        host.into_iter().chain(scrapes).chain(uses).chain(units).chain(signals).collect()
    }

    pub(super) async fn open(&self, shown: Shown) -> anyhow::Result<Control> {
        let Shown { metrics, log, config, seen, looked_on, told } = shown;
        let circuit = Circuit::new(Plugs {
            seams: self.seams.clone(),
            catalogue: Arc::clone(&self.catalogue),
            config: self.settings.rooms.clone(),
            seed: self.seed,
            probes: self.probes(),
            gpu: self.gpus.clone(),
            archive: Arc::clone(&self.archive),
        });
        let control = circuit.control();
        let store = vec![self.projector()];
        let seams = (Arc::clone(&self.seams.journal), Arc::clone(&self.seams.clock));
        let reloader =
            Reloader::new(self.home.clone(), config, (self.settings.clone(), seen), control.clone(), seams, log);
        let api = self.api(&control, &reloader);
        let (over_tcp, over_socket) = (api.clone(), api.clone());
        let mut shell = vec![
            background::child_once_up("api", move |up| api::serve(over_socket.clone(), up)),
            background::child_once_up("console", move |up| api::serve_tcp(over_tcp.clone(), up)),
            self.charts(&api.charts),
            self.notices(told.lanes),
            self.traces(told.traces),
            self.telemetry(&control, metrics),
            self.inbox(&control),
            self.keeper(),
            background::child("settings", move || reloader.clone().watch(looked_on)),
            watchdog(&control),
        ];
        let signals = self.signals.as_ref();
        shell.extend(talk::children(&self.settings, &control, &self.seams, signals, self.conversations.as_ref())?);
        circuit.start(store, shell).await.context("the house cannot be started")?;
        Ok(control)
    }

    fn projector(&self) -> ChildSpec {
        let (store, clock) = (self.store.clone(), Arc::clone(&self.seams.clock));
        background::child("projector", move || {
            let (store, clock) = (store.clone(), Arc::clone(&clock));
            async move {
                let mut appended = store.appended();
                loop {
                    if let Err(error) = store.flush(clock.now_ms()).await {
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

    fn api(&self, control: &Control, reloader: &Reloader) -> Api {
        let services = Arc::clone(&self.services);
        let domains: Vec<Domain> = self.catalogue.domains.values().cloned().collect();
        let looked_at = Arc::new(domains);
        let about = About {
            metrics_address: self.settings.shell.metrics_address.to_string(),
            services: Box::new(move || look_at(Arc::clone(&services), Arc::clone(&looked_at)).boxed()),
            machine: self.settings.measuring.machine(),
        };
        let reached = self.settings.reached.clone();
        Api {
            control: control.clone(),
            home: self.home.clone(),
            journal: self.store.clone(),
            socket: self.home.state_folder().join(SOCKET),
            chaos: self.settings.shell.chaos,
            reloader: reloader.clone(),
            facts: Arc::new(about),
            alerts: self.alerts(control),
            charts: Arc::new(Charts::new(&reached)),
            readers: Arc::new(Semaphore::new(reached.event_readers_max as usize)),
            reached,
        }
    }

    /// Returns up to where others were told what happened: by an earlier daemon, or, where none told, up to now.
    pub(super) async fn told(&self) -> anyhow::Result<ToldOutside> {
        let newest = self.last_seq().await?;
        let lanes = Lanes::open(&self.home, &self.settings.notices, newest).await;
        Ok(ToldOutside { lanes, traces: traces::told(&self.home, &self.settings.traces, newest).await })
    }

    fn notices(&self, lanes: Lanes) -> ChildSpec {
        let (home, notices, store) = (self.home.clone(), self.settings.notices.clone(), self.store.clone());
        let lanes = Arc::new(lanes);
        background::child("notices", move || {
            crate::notices::tell(home.clone(), notices.clone(), store.clone(), Arc::clone(&lanes))
        })
    }

    fn traces(&self, told: Told) -> ChildSpec {
        let (settings, store) = (self.settings.traces.clone(), self.store.clone());
        let told = Arc::new(told);
        background::child("traces", move || traces::tell(settings.clone(), store.clone(), Arc::clone(&told)))
    }

    fn charts(&self, charts: &Arc<Charts>) -> ChildSpec {
        let (home, clock) = (self.home.root().to_path_buf(), Arc::clone(&self.seams.clock));
        let host = HostProbe::new(home, Arc::clone(&clock)).ok().map(|probe| Arc::new(probe) as Arc<dyn Probe>);
        let (charts, gpus) = (Arc::clone(charts), Arc::clone(&self.gpus));
        background::child("charts", move || {
            let (charts, host, gpus, clock) =
                (Arc::clone(&charts), host.clone(), Arc::clone(&gpus), Arc::clone(&clock));
            async move { charts.keep(host, &gpus, &*clock).await }
        })
    }

    fn alerts(&self, control: &Control) -> api::Alerts {
        let domains = Arc::new(self.catalogue.domains.keys().cloned().collect());
        let (clock, firing) = (Arc::clone(&self.seams.clock), Arc::clone(&self.firing));
        api::Alerts { control: control.clone(), clock, domains, firing }
    }

    fn telemetry(&self, control: &Control, metrics: PrometheusHandle) -> ChildSpec {
        let address = self.settings.shell.metrics_address;
        let shown = telemetry::Shown {
            handle: metrics,
            control: control.clone(),
            gpus: Arc::clone(&self.gpus),
            stages: Arc::clone(&self.stages),
            clock: Arc::clone(&self.seams.clock),
            levels: telemetry::Levels::default(),
        };
        let alerts = self.settings.shell.alerts.then(|| self.alerts(control));
        background::child_once_up("telemetry", move |up| {
            let beside = alerts.clone().map_or_else(axum::Router::new, api::alerts_router);
            telemetry::serve(address, shown.clone(), beside, up)
        })
    }

    fn inbox(&self, control: &Control) -> ChildSpec {
        let inbox = Inbox {
            home: self.home.clone(),
            control: control.clone(),
            journal: Arc::clone(&self.seams.journal),
            clock: Arc::clone(&self.seams.clock),
            switch: Arc::clone(&self.seams.switch),
        };
        background::child("inbox", move || inbox.clone().watch())
    }

    /// The lesson may be written before the deployment is closed; the daemon ends after both.
    pub(super) async fn is_settled(&self) -> anyhow::Result<bool> {
        let history = self.store.read(Query::open(&[Kind::Deployment, Kind::Step])).await?;
        let stages = kloros_actors::facts::stages(history.into_iter().map(|recorded| recorded.fact));
        Ok(stages.iter().all(|(_, stage)| stage.is_final() || *stage == kloros_actors::facts::Stage::Stuck))
    }

    /// Leaves the machine in a proven state: what was not judged is undone, what kloros started is ended.
    pub(super) async fn close(&self, catalogue: &Catalogue) -> anyhow::Result<()> {
        let recovered = deployer::wind_up(&self.seams, catalogue, &self.settings.rooms.deployer).await;
        self.services.stop_all().await;
        recovered?;
        self.store.flush(self.seams.clock.now_ms()).await.context("projected files wait for the next start")?;
        if let Err(error) = self.store.fold().await {
            // They are as durable there.
            tracing::warn!(%error, "newest facts stay in the journal's write-ahead log");
        }
        Ok(())
    }
}

fn watchdog(control: &Control) -> ChildSpec {
    let control = control.clone();
    background::child("watchdog", move || systemd::feed(control.clone()))
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
