//! What is looked at of systemd: the unit of the guard without which nothing is changed, and the polkit rule by which tuned units are
//! restarted.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use kloros_actors::facts::{Apply, Domain, Manager, Scope};

use super::{Finding, services};
use crate::{
    guard::{self, By},
    home::{Home, UNDER_SYSTEMD},
    settings::Settings,
};

/// The unit of the guard, a template with the domain as its instance.
const GUARD: &str = "kloros-guard@.service";

/// Where units of the machine lie, the one that wins first.
const UNITS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Where rules of polkit lie.
const RULES: [&str; 4] = [
    "/etc/polkit-1/rules.d",
    "/run/polkit-1/rules.d",
    "/usr/local/share/polkit-1/rules.d",
    "/usr/share/polkit-1/rules.d",
];

/// Where the names of users stand.
const USERS: &str = "/etc/passwd";

/// The largest unit, rule or list of users that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where things lie on a machine.
struct Places {
    units: Vec<PathBuf>,
    rules: Vec<PathBuf>,
    users: PathBuf,
}

/// The daemon that is, or would be, started by systemd.
struct Daemon<'a> {
    /// Its home.
    home: &'a Path,
    /// The number of its user.
    uid: u32,
}

/// Looks at what systemd and polkit have to let the daemon do.
pub(super) fn look(home: &Home, settings: &Settings) -> Vec<Finding> {
    let running = home.daemon();
    let by = running.and_then(guard::starter_of);
    let owner = |path: &Path| fs::metadata(path).ok().map(|found| found.uid());
    let of_process = running.and_then(|pid| owner(&PathBuf::from(format!("/proc/{pid}"))));
    let uid = of_process.or_else(|| owner(home.root())).unwrap_or_else(|| rustix::process::getuid().as_raw());
    let daemon = Daemon { home: home.root(), uid };
    let places = Places {
        units: UNITS.map(PathBuf::from).to_vec(),
        rules: RULES.map(PathBuf::from).to_vec(),
        users: PathBuf::from(USERS),
    };
    let mut findings = Vec::new();
    // Where none runs, the home says whether systemd is meant to start one.
    let is_units = by.map_or(home.root() == Path::new(UNDER_SYSTEMD), |by| by == By::Systemd);
    if is_units && guard::is_booted() {
        findings.push(guards(&places, &daemon));
    }
    let tuned: Vec<Tuned<'_>> = settings.catalogue.domains.values().filter_map(unit_of_machine).collect();
    findings.extend(rule(&places, &daemon, &tuned));
    findings
}

/// A unit of the machine that a domain is about.
#[derive(Clone, Copy)]
struct Tuned<'a> {
    unit: &'a str,
    is_reloaded: bool,
}

/// Returns the unit of the machine that a domain is about, if it is about one.
fn unit_of_machine(domain: &Domain) -> Option<Tuned<'_>> {
    let is_reloaded = domain.knobs.values().any(|knob| knob.apply == Apply::Reload);
    match &domain.service.manager {
        Manager::Systemd { unit, scope: Scope::System } => Some(Tuned { unit, is_reloaded }),
        _ => None,
    }
}

/// Says whether systemd can start the guard of a change, as the same user and on the same home.
fn guards(places: &Places, daemon: &Daemon<'_>) -> Finding {
    let about = "guard";
    let Some(file) = places.units.iter().map(|folder| folder.join(GUARD)).find(|file| file.exists()) else {
        let what = format!("systemd has no {GUARD}: no change is made without a guard");
        return Finding::bad(
            about,
            what,
            format!("put ops/systemd/{GUARD} into /etc/systemd/system; systemctl daemon-reload"),
        );
    };
    let shown = file.display();
    if fs::metadata(&file).is_ok_and(|found| !found.is_file()) {
        let fix = format!("systemctl unmask {GUARD}");
        return Finding::bad(about, format!("{shown} is masked: no change is made without a guard"), fix);
    }
    let text = match text_of(&file) {
        Ok(text) => text + &drop_ins(&places.units),
        Err(why) => return Finding::bad(about, format!("{shown} cannot be read: {why}"), format!("chmod a+r {shown}")),
    };
    let mend =
        |what: String| Finding::bad(about, what, format!("systemctl edit {GUARD}, or take the one of ops/systemd"));
    let Some(start) = value_of(&text, "ExecStart") else { return mend(format!("{shown} has no ExecStart=")) };
    let words: Vec<&str> = start.split_whitespace().collect();
    let program = words.first().copied().unwrap_or_default().trim_start_matches(['-', '@', ':', '+', '!']);
    if !services::is_program(Path::new(program)) {
        return mend(format!("{shown} starts {program}, which is no program here"));
    }
    let home = words.windows(2).find(|pair| pair[0] == "--home").map(|pair| pair[1]);
    if home.is_none_or(|home| Path::new(home) != daemon.home) {
        let named = home.unwrap_or("none");
        return mend(format!("{shown} watches over the home {named}, and this one is {}", daemon.home.display()));
    }
    let user = value_of(&text, "User").unwrap_or("root");
    match (number_of(&places.users, user), name_of(&places.users, daemon.uid)) {
        (None, _) => {
            let what = format!("{shown} runs as {user}, whom {} does not name", places.users.display());
            Finding::note(
                about,
                what,
                Some("see that the user is there: id of it; the guard runs as the owner of the home"),
            )
        }
        (Some(uid), name) if uid != daemon.uid => {
            let name = name.unwrap_or_else(|| daemon.uid.to_string());
            mend(format!("{shown} runs as {user}, and the home belongs to {name}"))
        }
        _ => Finding::well(about, format!("{shown} watches over changes, as {user}")),
    }
}

/// Says whether a rule lets the daemon's user restart each of the units that are `tuned`, and reload those that are; nothing where root
/// does, who needs none.
fn rule(places: &Places, daemon: &Daemon<'_>, tuned: &[Tuned<'_>]) -> Vec<Finding> {
    let about = "polkit";
    if daemon.uid == 0 || tuned.is_empty() {
        return Vec::new();
    }
    let user = name_of(&places.users, daemon.uid).unwrap_or_else(|| daemon.uid.to_string());
    let (mut texts, mut hidden) = (Vec::new(), Vec::new());
    for folder in &places.rules {
        match rules_in(folder) {
            Ok(found) => texts.extend(found),
            Err(why) => hidden.push(format!("{}: {why}", folder.display())),
        }
    }
    let named =
        |text: &str, word: &str| ['"', '\''].iter().any(|quote| text.contains(&format!("{quote}{word}{quote}")));
    let allows = |unit: &str| texts.iter().any(|text| named(text, &user) && named(text, unit));
    let reloads = |unit: &str| texts.iter().any(|text| named(text, unit) && named(text, "reload"));
    let finding = |&Tuned { unit, is_reloaded }: &Tuned<'_>| {
        if allows(unit) && is_reloaded && !reloads(unit) {
            let what = format!(
                "a rule names {user} and {unit}, and no reload: kloros may restart it, and its changes are reloads"
            );
            let fix = "take `verb === \"reload\"` from ops/systemd/polkit/50-kloros.rules into yours";
            return Finding::bad(about, what, fix.to_owned());
        }
        if allows(unit) {
            return Finding::well(about, format!("a rule names {user} and {unit}"));
        }
        if !hidden.is_empty() {
            let what = format!(
                "whether {user} may restart {unit} cannot be seen: not all rules can be read ({})",
                hidden.join(", ")
            );
            return Finding::note(
                about,
                what,
                Some("see that every file of rules is text and can be read, or ask as root"),
            );
        }
        // A rule may also go by a group or a pattern.
        let fix = format!(
            "unless another rule allows it, name {unit} under `tuned` in /etc/polkit-1/rules.d/50-kloros.rules, which ops/systemd/polkit \
             has, and {user} as its user"
        );
        Finding::bad(about, format!("no rule names {user} and {unit}: kloros may not restart it"), fix)
    };
    tuned.iter().map(finding).collect()
}

/// Returns the rules of polkit in `folder` without their comments; none where there is no such folder.
fn rules_in(folder: &Path) -> Result<Vec<String>, String> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "rules"));
    files.sort();
    files.iter().map(|file| text_of(file).map(|text| without_comments(&text))).collect()
}

/// A unit in a comment is not allowed anything.
fn without_comments(rule: &str) -> String {
    let (mut left, mut rest) = (String::new(), rule);
    while let Some((before, after)) = rest.split_once("/*") {
        left.push_str(before);
        rest = after.split_once("*/").map_or("", |(_, after)| after);
    }
    left.push_str(rest);
    let lines = left.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns what drop-ins of the guard's unit say, in the order in which systemd reads them.
fn drop_ins(units: &[PathBuf]) -> String {
    let inside = |folder: &PathBuf| fs::read_dir(folder.join(format!("{GUARD}.d"))).ok();
    let entries = units.iter().filter_map(inside).flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> =
        entries.filter(|file| file.extension().is_some_and(|ending| ending == "conf")).collect();
    files.sort_by_key(|file| file.file_name().map(ToOwned::to_owned));
    // Of one name the first counts, as /etc comes first.
    files.dedup_by(|later, first| later.file_name() == first.file_name());
    files.iter().filter_map(|file| text_of(file).ok()).fold(String::new(), |all, text| format!("{all}\n{text}"))
}

/// Returns what `key` is set to, the last time counts; an empty value takes back what was said before.
fn value_of<'a>(unit: &'a str, key: &str) -> Option<&'a str> {
    let assigned = |line: &'a str| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then(|| value.trim())
    };
    unit.lines().filter_map(assigned).next_back().filter(|value| !value.is_empty())
}

fn text_of(file: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let read = || {
        let mut text = String::new();
        fs::File::open(file)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|error: std::io::Error| error.to_string())
}

/// Returns the users of this machine with their numbers, as far as its own list has them.
fn users(list: &Path) -> Vec<(String, u32)> {
    let text = text_of(list).unwrap_or_default();
    let user = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
    };
    text.lines().filter_map(user).collect()
}

fn name_of(list: &Path, uid: u32) -> Option<String> {
    users(list).into_iter().find(|(_, number)| *number == uid).map(|(name, _)| name)
}

/// Returns the number of the user of this name, or with this number as its name.
fn number_of(list: &Path, name: &str) -> Option<u32> {
    let found = users(list).into_iter().find(|(user, _)| user == name).map(|(_, number)| number);
    found.or_else(|| name.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::cli::doctor::How;

    const HOME: &str = "/var/lib/kloros";

    /// A machine of folders, on which the user kloros has the number 990.
    fn machine() -> (tempfile::TempDir, Places) {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["etc", "lib", "rules", "more"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("passwd"), "root:x:0:0::/root:/bin/bash\nkloros:x:990:990::/var/lib/kloros:/bin/false\n").unwrap();
        let places = Places {
            units: vec![at("etc"), at("lib")],
            rules: vec![at("rules"), at("more"), at("none")],
            users: at("passwd"),
        };
        (folder, places)
    }

    fn daemon(home: &str, uid: u32) -> Daemon<'_> {
        Daemon { home: Path::new(home), uid }
    }

    fn shipped(path: &str) -> String {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ops/systemd").join(path)).unwrap()
    }

    #[track_caller]
    fn check(found: &Finding, how: How, part: &str) {
        assert!(found.how == how && found.what.contains(part), "{found:?}, wanted {part:?}");
        assert_eq!(found.how == How::Bad, found.fix.is_some(), "{found:?}");
    }

    #[test]
    fn a_guard_that_systemd_cannot_start_as_the_daemon_needs_it_is_bad_and_told_with_what_to_do() {
        let (_folder, places) = machine();
        let kloros = daemon(HOME, 990);
        check(&guards(&places, &kloros), How::Bad, "systemd has no kloros-guard@.service");
        let unit = places.units[1].join(GUARD);
        // As it ships, but with a program that is on every machine.
        let text = shipped(GUARD).replace("/usr/bin/kloros", "/bin/true");
        fs::write(&unit, &text).unwrap();
        check(&guards(&places, &kloros), How::Well, "as kloros");
        check(
            &guards(&places, &daemon("/srv/kloros", 990)),
            How::Bad,
            "watches over the home /var/lib/kloros, and this one",
        );
        check(&guards(&places, &daemon(HOME, 0)), How::Bad, "runs as kloros, and the home belongs to root");
        fs::write(&unit, text.replace("/bin/true", "/no/such")).unwrap();
        check(&guards(&places, &kloros), How::Bad, "starts /no/such, which is no program here");
        fs::write(&unit, text.replace("User=kloros", "User=nobody-here")).unwrap();
        // Other lists of users than this one may have it.
        let unknown = guards(&places, &kloros);
        assert!(unknown.how == How::Note && unknown.what.contains("runs as nobody-here, whom"), "{unknown:?}");
        fs::write(&unit, &text).unwrap();
        std::os::unix::fs::symlink("/dev/null", places.units[0].join(GUARD)).unwrap();
        check(&guards(&places, &kloros), How::Bad, "is masked");
    }

    #[test]
    fn what_a_drop_in_says_of_the_guard_counts() {
        let (_folder, places) = machine();
        fs::write(places.units[1].join(GUARD), shipped(GUARD).replace("/usr/bin/kloros", "/bin/true")).unwrap();
        let drop_in = places.units[0].join(format!("{GUARD}.d"));
        fs::create_dir(&drop_in).unwrap();
        let text = "[Service]\nExecStart=\nExecStart=-/bin/true guard --home /srv/kloros --domain %i\n";
        fs::write(drop_in.join("10-home.conf"), text).unwrap();
        check(&guards(&places, &daemon(HOME, 990)), How::Bad, "watches over the home /srv/kloros");
        check(&guards(&places, &daemon("/srv/kloros", 990)), How::Well, "as kloros");
        // One of the same name that the distribution brings is masked by it.
        let brought = places.units[1].join(format!("{GUARD}.d"));
        fs::create_dir(&brought).unwrap();
        fs::write(brought.join("10-home.conf"), text.replace("/srv/kloros", "/srv/other")).unwrap();
        check(&guards(&places, &daemon("/srv/kloros", 990)), How::Well, "as kloros");
        fs::write(drop_in.join("20-none.conf"), "[Service]\nExecStart=\n").unwrap();
        check(&guards(&places, &daemon(HOME, 990)), How::Bad, "has no ExecStart=");
    }

    fn restarted(unit: &str) -> Tuned<'_> {
        Tuned { unit, is_reloaded: false }
    }

    #[test]
    fn a_tuned_unit_that_no_rule_names_is_bad_and_one_in_a_comment_is_not_named() {
        let (_folder, places) = machine();
        let kloros = daemon(HOME, 990);
        let found = rule(&places, &kloros, &[restarted("vllm.service")]);
        check(&found[0], How::Bad, "no rule names kloros and vllm.service");
        let shipped = shipped("polkit/50-kloros.rules");
        let file = places.rules[0].join("50-kloros.rules");
        fs::write(&file, &shipped).unwrap();
        check(&rule(&places, &kloros, &[restarted("vllm.service")])[0], How::Well, "names kloros and vllm.service");
        let found = rule(&places, &kloros, &[restarted("vllm.service"), restarted("tts.service")]);
        check(&found[1], How::Bad, "no rule names kloros and tts.service");
        let reloaded = Tuned { unit: "vllm.service", is_reloaded: true };
        check(&rule(&places, &kloros, &[reloaded])[0], How::Well, "names kloros and vllm.service");
        fs::write(&file, shipped.replace("\"reload\"", "\"reset\"")).unwrap();
        check(&rule(&places, &kloros, &[reloaded])[0], How::Bad, "and no reload");
        check(&rule(&places, &kloros, &[restarted("vllm.service")])[0], How::Well, "names kloros and vllm.service");
        let commented = shipped.replace("[\"vllm.service\"]", "[] // \"vllm.service\"");
        fs::write(&file, commented).unwrap();
        check(&rule(&places, &kloros, &[restarted("vllm.service")])[0], How::Bad, "no rule");
        let commented = shipped.replace("[\"vllm.service\"]", "[/* \"vllm.service\" */]");
        fs::write(&file, commented).unwrap();
        check(&rule(&places, &kloros, &[restarted("vllm.service")])[0], How::Bad, "no rule");
        fs::write(&file, shipped.replace("kloros\"", "somebody\"")).unwrap();
        check(&rule(&places, &kloros, &[restarted("vllm.service")])[0], How::Bad, "no rule");
        // What is no rule by its name is none to polkit either.
        fs::rename(&file, places.rules[0].join("50-kloros.rules.bak")).unwrap();
        check(&rule(&places, &kloros, &[restarted("vllm.service")])[0], How::Bad, "no rule");
    }

    #[test]
    fn root_needs_no_rule_and_who_tunes_no_unit_of_the_machine_needs_none_either() {
        let (_folder, places) = machine();
        assert_eq!(rule(&places, &daemon(HOME, 0), &[restarted("vllm.service")]), []);
        assert_eq!(rule(&places, &daemon(HOME, 990), &[]), []);
    }

    #[test]
    fn rules_that_this_user_may_not_read_are_a_note_and_no_verdict() {
        let (_folder, places) = machine();
        if rustix::process::geteuid().is_root() {
            // Root reads everything, but no folder that is a file.
            fs::remove_dir(&places.rules[1]).unwrap();
            fs::write(&places.rules[1], "").unwrap();
        } else {
            fs::set_permissions(&places.rules[1], fs::Permissions::from_mode(0o000)).unwrap();
        }
        let found = rule(&places, &daemon(HOME, 990), &[restarted("vllm.service")]);
        assert!(
            found[0].how == How::Note && found[0].fix.as_deref().is_some_and(|fix| fix.contains("ask as root")),
            "{found:?}"
        );
    }
}
