//! What the daemon plugs into the loop: every adapter, made for one home.

use std::{fs::OpenOptions, io::ErrorKind, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use futures::FutureExt as _;
use kloros_actors::{
    config::Catalogue,
    facts::Domain,
    seams::{Clock, Journal, Seams},
};

use crate::{
    bench::Runner,
    clock::SystemClock,
    env_store::EnvFiles,
    gpus,
    guard::Guards,
    home::{Home, UndoLock},
    host::{Gpu, HostRoom},
    notes::NoteFiles,
    nvml::{GpuView, Gpus, What},
    pending::PendingFiles,
    service::Services,
    settings::Settings,
    stop::StopFile,
};

/// What is plugged into the loop, and the services and GPUs among it.
pub(super) type Plugged = (Seams, Arc<Services>, Arc<Gpus>);

/// Returns what is plugged into the loop of this home.
///
/// While somebody has `undoing`, this process restarts services with that right.
pub(super) fn adapters(
    home: &Home,
    settings: &Settings,
    journal: Arc<dyn Journal>,
    undoing: &Arc<UndoLock>,
) -> anyhow::Result<Plugged> {
    let exe = std::env::current_exe().context("cannot find this program's own file")?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let services = Arc::new(Services::new(home.root().to_path_buf(), exe.clone()));
    let (machine, repeats) = (settings.measuring.machine(), settings.measuring.repeats());
    let guard_exe = exe.clone();
    let deployer = &settings.rooms.deployer;
    let [begins_within, alone_within] =
        [deployer.guard_begins_within_s, deployer.undo_wait_s].map(Duration::from_secs_f64);
    let runner = Runner::new(home.root().to_path_buf(), exe, Arc::clone(&clock), machine, repeats);
    let gpus = gpus::watched(&settings.rooms.gpu, Arc::clone(&clock));
    let runner = runner.watching(gpus.clone());
    runner.sweep();
    let seams = Seams {
        journal,
        clock,
        bench: Arc::new(runner),
        env: Arc::new(EnvFiles::default()),
        services: services.clone(),
        pending: Arc::new(PendingFiles::new(&home.pending_folder())),
        guard: Arc::new(Guards::new(home, guard_exe, (begins_within, alone_within), undoing)),
        switch: Arc::new(StopFile::of(home)),
        notes: Arc::new(NoteFiles::of(home)),
        capacity: Arc::new(capacity(&services, &gpus)),
    };
    Ok((seams, services, gpus))
}

/// Returns what the machine has room for, beside these services and on these GPUs.
fn capacity(services: &Arc<Services>, gpus: &Arc<Gpus>) -> HostRoom {
    let (services, gpus) = (Arc::clone(services), Arc::clone(gpus));
    let pid = move |domain: &Domain| {
        let (services, domain) = (Arc::clone(&services), domain.clone());
        async move { services.first_process(&domain).await }.boxed()
    };
    let gpus = move || {
        let known = gpus.known().snapshot.gpus;
        let of = |gpu: &GpuView| {
            let memory = |state| gpu.value(What::MemoryBytes, state, "");
            let users = gpu.processes.iter().filter_map(|process| Some((process.pid, process.memory_bytes?)));
            Some(Gpu { all_bytes: memory("total")?, free_bytes: memory("free")?, users: users.collect() })
        };
        known.iter().filter(|gpu| gpu.trouble.is_none()).filter_map(of).collect()
    };
    HostRoom::new(Box::new(pid), Box::new(gpus))
}

/// A service that kloros runs itself finds an env file; without one it would not start, and nothing could be deployed.
pub(super) fn create_if_absent(file: &Path) {
    let options = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    match options {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            tracing::error!(file = %file.display(), %error, "env file cannot be created");
        }
        _ => {}
    }
}

/// Relative paths of a domain file are under the home.
pub(crate) fn with_paths_in(home: &Home, mut catalogue: Catalogue) -> Catalogue {
    for domain in catalogue.domains.values_mut() {
        domain.service.env_file = home.root().join(&domain.service.env_file);
    }
    catalogue
}
