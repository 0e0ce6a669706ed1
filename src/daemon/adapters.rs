//! What the daemon plugs into the loop: every adapter, made for one home.

use std::{fs::OpenOptions, io::ErrorKind, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};

use anyhow::Context;
use kloros_actors::{
    config::Catalogue,
    seams::{Clock, Journal, Seams},
};

use crate::{
    bench::Runner, clock::SystemClock, env_store::EnvFiles, gpus, guard::Guards, home::Home, nvml::Gpus,
    pending::PendingFiles, service::Services, settings::Settings, stop::StopFile,
};

/// What is plugged into the loop, and the services and GPUs among it.
pub(super) type Plugged = (Seams, Arc<Services>, Arc<Gpus>);

/// Returns what is plugged into the loop of this home.
pub(super) fn adapters(home: &Home, settings: &Settings, journal: Arc<dyn Journal>) -> anyhow::Result<Plugged> {
    let exe = std::env::current_exe().context("cannot find this program's own file")?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let services = Arc::new(Services::new(home.root().to_path_buf(), exe.clone()));
    let (machine, repeats) = (settings.measuring.machine(), settings.measuring.repeats());
    let guard_exe = exe.clone();
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
        guard: Arc::new(Guards::new(home, guard_exe)),
        switch: Arc::new(StopFile::of(home)),
    };
    Ok((seams, services, gpus))
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
pub(super) fn with_paths_in(home: &Home, mut catalogue: Catalogue) -> Catalogue {
    for domain in catalogue.domains.values_mut() {
        domain.service.env_file = home.root().join(&domain.service.env_file);
    }
    catalogue
}
