//! What ships, fitted to one service of a machine: its domain file, its experiments, its drop-ins and what installs them.
//!
//! Invariant: nothing that a process says of itself gets into a file unless it is plain: letters, digits and a few signs that mean the
//! same to TOML, to systemd and to a shell.

use serde::Serialize;

use super::{
    known::Known,
    seen::{Process, RunBy},
};

/// The home that kloros.service and the drop-ins name.
pub(super) const HOME: &str = "/var/lib/kloros";

/// How the drop-ins have something done as the user of kloros.
const AS_KLOROS: &str = "-+/usr/sbin/runuser -u kloros -- /usr/bin/kloros";

/// How long a path, a model or a unit may be, in bytes.
const PLAIN_BYTES_MAX: usize = 200;

/// What is written, and what a person installs.
#[derive(Debug, Default, Serialize)]
pub(super) struct Fitted {
    /// The unit that is restarted; `None` where none is known.
    pub(super) unit: Option<String>,
    /// The file that holds what is tuned.
    pub(super) env_file: String,
    /// The domain file.
    pub(super) domain_text: String,
    /// What goes under `experiments` of `dream.yaml`, indented as it stands there.
    pub(super) experiments: String,
    /// Texts that a unit needs beside, by their paths.
    pub(super) drop_ins: Vec<(String, String)>,
    /// Commands that a person runs to install them, in order. None of them starts or stops a service.
    pub(super) commands: Vec<String>,
    /// What a person makes sure of before they restart the service themselves; empty where nothing is installed.
    pub(super) before_restart: String,
}

/// Returns what ships of `known`, fitted to `process`, as the domain `name`; notes what is still open.
pub(super) fn fit(
    known: &Known,
    process: &Process,
    name: &str,
    port: u16,
    home: &str,
    open: &mut Vec<String>,
) -> Fitted {
    let fills = fills(known, process, open);
    let filled = |text: &str| fills.iter().fold(text.to_owned(), |text, (blank, with)| text.replace(blank, with));
    let experiments = renamed(known, name);
    let shipped_env = quoted(known.domain, "env_file").unwrap_or_default().to_owned();
    if known.port == 0 {
        let (pid, domain_text) = (process.pid, known.domain.to_owned());
        open.push(format!("what process {pid} is for: kloros starts one of its own, and tunes that"));
        return Fitted { env_file: shipped_env, domain_text, experiments, ..Fitted::default() };
    }
    let (unit, is_user) = unit(process, open);
    open.extend(known.before.iter().map(|before| (*before).to_owned()));
    let env_file = if is_user {
        format!("{home}/{name}.env")
    } else if name == known.name {
        shipped_env.clone()
    } else {
        format!("/etc/kloros/env/{name}.env")
    };
    // A unit that is not there cannot be restarted by mistake.
    let named = unit.clone().unwrap_or_else(|| format!("kloros-{name}.service"));
    let scope = if is_user { ", scope = \"user\"" } else { "" };
    let set = |line: &str| -> String {
        if line.starts_with("manager = ") {
            format!("manager = {{ systemd = {{ unit = \"{named}\"{scope} }} }}")
        } else if let Some(rest) = line.strip_prefix(&format!("port = {}", known.port)) {
            format!("port = {port}{rest}")
        } else if line.starts_with("env_file = ") {
            format!("env_file = \"{env_file}\"")
        } else {
            line.to_owned()
        }
    };
    let domain_text: String = filled(known.domain).lines().map(|line| set(line) + "\n").collect();
    let mut fitted = Fitted { unit: unit.clone(), env_file, domain_text, experiments, ..Fitted::default() };
    let Some(unit) = unit else { return fitted };
    let home = if is_plain(home) { home } else { HOME };
    let folder = if is_user { "~/.config/systemd/user" } else { "/etc/systemd/system" };
    for (file, text) in known.drop_ins {
        let mut text = filled(text)
            .replace(&shipped_env, &fitted.env_file)
            .replace(&format!("--port {}", known.port), &format!("--port {port}"))
            .replace(&format!(" port={} ", known.port), &format!(" port={port} "))
            .replace(&format!("--domain {}\n", known.name), &format!("--domain {name}\n"))
            .replace(&format!("--home {HOME} "), &format!("--home {home} "));
        if is_user {
            text = text.replace(AS_KLOROS, "-/usr/bin/kloros");
        }
        fitted.drop_ins.push((format!("{folder}/{unit}.d/{file}"), text));
    }
    if fitted.drop_ins.iter().any(|(_, text)| text.contains("\nExecStart=\n")) {
        open.extend(doubts_of_command(known, &unit, is_user));
    }
    fitted.commands = commands(&fitted, is_user);
    fitted.before_restart = before_restart(&unit, is_user);
    fitted
}

/// Returns what is to be found out where a drop-in says anew how `unit` is started.
fn doubts_of_command(known: &Known, unit: &str, is_user: bool) -> Vec<String> {
    let whose = if is_user { "--user " } else { "" };
    let mut doubts = vec![format!(
        "whether ExecStart= below starts what yours does: hold it against systemctl {whose}cat {unit}, and keep what is yours, \
         variables that UnsetEnvironment= takes away among it"
    )];
    // A unit of a user is none of a distribution's, whatever its name.
    if is_user || !known.units.contains(&unit) {
        let maker = if known.blanks.program.is_empty() { "Debian's " } else { "" };
        let made_for = known.units.first().copied().unwrap_or(known.service);
        doubts.push(format!(
            "how {unit} is started: ExecStart= below is for {maker}{made_for}, which it is not; fit it by hand, or {unit} does not start"
        ));
    }
    doubts
}

/// Returns what is put in for the blanks of the files.
fn fills(known: &Known, process: &Process, open: &mut Vec<String>) -> Vec<(&'static str, String)> {
    let blanks = &known.blanks;
    let mut fills = Vec::new();
    if !blanks.model.is_empty() {
        match process.arguments.after(blanks.model_after).filter(|model| is_plain(model) && !model.contains('@')) {
            Some(model) => fills.push((blanks.model, model.to_owned())),
            None => open.push(format!("which model it runs: put it in for {}", blanks.model)),
        }
    }
    if !blanks.program.is_empty() {
        match process.program.as_deref().filter(|program| is_plain(program)) {
            Some(program) => fills.push((blanks.program, program.to_owned())),
            None => open.push(format!("which program may be started: put its path in for {}", blanks.program)),
        }
    }
    fills
}

/// Returns the unit of a process that can be named, and whether it is one of this user.
fn unit(process: &Process, open: &mut Vec<String>) -> (Option<String>, bool) {
    let (unit, is_user) = match &process.run_by {
        RunBy::Unit(unit) => (unit, false),
        RunBy::UserUnit(unit) => (unit, true),
        RunBy::Nobody | RunBy::Container | RunBy::Kloros => {
            let pid = process.pid;
            open.push(format!(
                "who starts it: no unit of systemd runs process {pid}, and kloros restarts a service through its unit; make one, with \
                 a drop-in as those in ops/systemd/examples, and name it in manager"
            ));
            return (None, false);
        }
    };
    if is_plain(unit) {
        return (Some(unit.clone()), is_user);
    }
    open.push("its unit, whose name has signs that no file is given: name it in manager".to_owned());
    (None, is_user)
}

/// Returns whether a text means the same in TOML, to systemd and to a shell, and is no option.
pub(super) fn is_plain(text: &str) -> bool {
    let is_sign = |each: u8| each.is_ascii_alphanumeric() || b"._/-+@:".contains(&each);
    (1..=PLAIN_BYTES_MAX).contains(&text.len())
        && text.bytes().all(is_sign)
        && !text.starts_with('-')
        // An address may hold a name and a password.
        && !text.contains("://")
}

/// Returns the commands that install what is fitted.
///
/// No restart is among them: where the drop-in is not what the service needs, systemd has stopped it by the time that shows. Nor does
/// root touch anything in the folder of the env file, which is kloros' own: a link in it would have root write elsewhere.
fn commands(fitted: &Fitted, is_user: bool) -> Vec<String> {
    let env = &fitted.env_file;
    let folder = |path: &str| path.rsplit_once('/').map_or("/", |(folder, _)| folder).to_owned();
    let mut commands = if is_user {
        vec![format!("touch {env}")]
    } else {
        vec![format!("install -d -o kloros -g kloros {}", folder(env)), format!("runuser -u kloros -- touch {env}")]
    };
    if let Some((path, _)) = fitted.drop_ins.first() {
        commands.push(format!("mkdir -p {}", folder(path)));
    }
    for (path, text) in &fitted.drop_ins {
        commands.push(format!("cat > {path} <<'END'\n{text}END"));
    }
    let whose = if is_user { "--user " } else { "" };
    commands.push(format!("systemctl {whose}daemon-reload"));
    commands
}

/// Returns what a person makes sure of before the drop-in takes effect.
fn before_restart(unit: &str, is_user: bool) -> String {
    let whose = if is_user { "--user " } else { "" };
    format!(
        "by you alone, when its users can bear it; the next start is by the drop-in, whoever asks for it. Before that: all that is open \
         above is done, systemctl {whose}cat {unit} shows the ExecStart= that you want, and you know how to take the drop-in away again. \
         systemd stops a service before it tries the new start, so what fails then stays down"
    )
}

/// Returns the experiments of `known` for the domain `name`, as they stand under `experiments`.
fn renamed(known: &Known, name: &str) -> String {
    let lines = known.dream.lines().skip_while(|line| *line != "experiments:").skip(1);
    let rename = |line: &str| -> String {
        if line == format!("    domain: {}", known.name) {
            return format!("    domain: {name}");
        }
        match line.strip_prefix("  ").filter(|rest| !rest.starts_with([' ', '#'])) {
            Some(experiment) if name != known.name => {
                let prefix = format!("{}_", known.name);
                format!("  {name}_{}", experiment.strip_prefix(&prefix).unwrap_or(experiment))
            }
            _ => line.to_owned(),
        }
    };
    lines.map(|line| rename(line) + "\n").collect()
}

/// Returns each knob of a domain file with what stands beside it.
pub(super) fn knobs(domain: &str) -> Vec<(String, String)> {
    let knob = |line: &str| {
        let (key, rest) = line.strip_prefix("[knobs.")?.split_once(']')?;
        Some((key.to_owned(), rest.trim().trim_start_matches("# ").to_owned()))
    };
    domain.lines().filter_map(knob).collect()
}

/// Returns the text that `key` has in a TOML file, where it stands at the beginning of a line.
fn quoted<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""))?;
    Some(line.split_once('"')?.0)
}
