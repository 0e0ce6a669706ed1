//! What is looked at of each service: its program, its env file, its unit, and whether it is reached.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use kloros_actors::{
    env_file,
    facts::{Domain, Manager},
};

use super::Finding;
use crate::{api::Live, daemon::with_paths_in, home::Home, service, settings::Settings};

/// How long a port may take to accept.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Looks at every service that is configured, and at what the daemon says of it where one runs.
pub(super) async fn look(home: &Home, settings: &Settings, live: Option<&Live>) -> Vec<Finding> {
    let catalogue = with_paths_in(home, settings.catalogue.clone());
    let mut findings = Vec::new();
    for domain in catalogue.domains.values() {
        findings.extend(program(domain));
        findings.push(env_file(domain));
        if let Manager::Systemd { unit, scope } = &domain.service.manager {
            findings.push(match service::unit_trouble(unit, *scope).await {
                None => Finding::well(&domain.name, format!("systemd knows {unit}")),
                Some(why) => Finding::bad(
                    &domain.name,
                    why,
                    format!("systemctl status {unit}; a polkit rule lets another user than root restart it"),
                ),
            });
        }
        findings.extend(reached(domain, live));
    }
    findings
}

/// Returns what is wrong with the program of a service; nothing where there is none to be started by name.
pub(super) fn program(domain: &Domain) -> Option<Finding> {
    let name = domain.service.argv.first().filter(|name| !name.contains('{'))?;
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = if name.contains('/') {
        vec![PathBuf::from(name)]
    } else {
        std::env::split_paths(&folders).map(|folder| folder.join(name)).collect()
    };
    Some(match places.iter().find(|path| is_program(path)) {
        Some(path) => Finding::well(&domain.name, format!("{} can be started", path.display())),
        None => {
            Finding::bad(&domain.name, format!("{name} cannot be started"), "mend argv in its domain file, or chmod +x")
        }
    })
}

/// Returns whether this user may start what lies at `path`.
pub(super) fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

fn env_file(domain: &Domain) -> Finding {
    let file = &domain.service.env_file;
    let (about, shown) = (domain.name.as_str(), file.display());
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && domain.service.manager == Manager::Child => {
            return Finding::note(about, format!("{shown} is not there yet, and is made at the start"), None);
        }
        Err(error) => {
            return Finding::bad(
                about,
                format!("{shown} cannot be read: {error}"),
                "let the daemon's user read and write it",
            );
        }
    };
    let values: Result<Vec<_>, _> = domain.knobs.keys().map(|key| env_file::value_of(&bytes, key)).collect();
    let values = env_file::variables(&bytes).and(values);
    if let Err(problem) = &values {
        return Finding::bad(
            about,
            format!("{shown}: {problem}"),
            "mend that line: kloros changes no file that it does not understand",
        );
    }
    // It is exchanged for a new one beside it, so the folder must let that happen.
    let folder = file.parent().unwrap_or(Path::new("/"));
    let can_write = |path: &Path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
    if !can_write(file) || !can_write(folder) {
        return Finding::bad(
            about,
            format!("{shown} or its folder cannot be written"),
            "let the daemon's user write both",
        );
    }
    let set = values.iter().flatten().flatten().count();
    Finding::well(about, format!("{shown} sets {set} of {} knobs", domain.knobs.len()))
}

/// Returns whether the service is reached; nothing where only a daemon would run it and none does.
fn reached(domain: &Domain, live: Option<&Live>) -> Option<Finding> {
    let about = domain.name.as_str();
    if let Some(seen) = live.and_then(|live| live.services.iter().find(|service| service.domain == domain.name)) {
        return Some(if seen.is_up {
            Finding::well(about, format!("it is {}", seen.state))
        } else {
            Finding::bad(
                about,
                format!("it is {}, and died {} times in a row", seen.state, seen.deaths),
                "kloros status, and what the service itself says",
            )
        });
    }
    if domain.service.manager == Manager::Child || domain.service.port == 0 {
        return None;
    }
    let address = SocketAddr::from(([127, 0, 0, 1], domain.service.port));
    Some(match TcpStream::connect_timeout(&address, CONNECT_WITHIN) {
        Ok(_) => Finding::well(about, format!("{address} accepts")),
        Err(error) => Finding::bad(
            about,
            format!("{address} does not accept: {error}"),
            "start the service, or mend port in its domain file",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::How;

    fn lab(file: &Path) -> Domain {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::load(folder.path(), None).unwrap();
        let mut domain = settings.catalogue.domains["lab"].clone();
        domain.service.env_file = file.to_owned();
        domain
    }

    #[test]
    fn an_env_file_that_kloros_would_not_change_is_told_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("env");
        let mut domain = lab(&file);
        assert_eq!(env_file(&domain).how, How::Note);
        fs::write(&file, "LAB_THREADS=2\n").unwrap();
        assert_eq!((env_file(&domain).how, env_file(&domain).what.contains("sets 1 of")), (How::Well, true));
        fs::write(&file, "LAB_THREADS=2\nLAB_THREADS=3\n").unwrap();
        let found = env_file(&domain);
        assert!(found.how == How::Bad && found.what.contains("LAB_THREADS"), "{found:?}");
        fs::remove_file(&file).unwrap();
        domain.service.manager =
            Manager::Systemd { unit: "lab.service".into(), scope: kloros_actors::facts::Scope::System };
        assert_eq!(env_file(&domain).how, How::Bad);
    }

    #[test]
    fn a_program_that_is_not_there_is_bad_and_one_on_the_path_is_found() {
        let mut domain = lab(Path::new("/none"));
        assert_eq!(program(&domain), None);
        domain.service.argv[0] = "cat".into();
        assert_eq!(program(&domain).unwrap().how, How::Well);
        domain.service.argv[0] = "/no/such/program".into();
        assert_eq!(program(&domain).unwrap().how, How::Bad);
    }
}
