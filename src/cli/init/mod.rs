//! `kloros init`: looks at the machine, recognises the services for which a domain ships, and says what it would write for each, what
//! that would tune, and what a person has to do. It writes into the home alone, and only where it is told to.
//!
//! Invariants: no argument of a process is printed, but a port and a plain model; no file loses a byte; no unit and no service is
//! touched.

mod files;
mod fitted;
mod known;
mod machine;
mod proposal;
mod seen;

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::Path};

use clap::Args;
use known::KNOWN;
use proposal::{Offer, Proposal};

use super::{
    Answer,
    out::Out,
    text::{shorten, wrapped},
};
use crate::{home::Home, settings};

/// What is done with what is found.
#[derive(Args)]
pub(super) struct InitArgs {
    /// Write the domain files and the experiments into the home; nothing that is there is overwritten
    #[arg(long)]
    write: bool,
}

/// How wide lines for people are, and where what they say begins.
const WIDTH: usize = 110;
const INDENT: usize = 11;

/// How many characters of a program's name are shown.
const NAME_CHARS_MAX: usize = 40;

/// The unit of the daemon, and where it may be installed.
const DAEMON: &str = "kloros.service";
const UNIT_FOLDERS: [&str; 3] = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// How many domain files of the home are looked at, and how much of each, in bytes.
const DOMAINS_MAX: usize = 256;
const DOMAIN_BYTES_MAX: u64 = 1 << 20;

/// What was done with what was found.
#[derive(Debug, Default)]
struct Done {
    wrote: Vec<String>,
    refused: Vec<String>,
    /// What is wrong with the settings after that.
    problems: Vec<String>,
}

pub(super) async fn init(home: &Home, args: &InitArgs, out: &mut Out) -> anyhow::Result<Answer> {
    let root = home.root();
    let seen = machine::look(KNOWN).await;
    let place = proposal::Home { path: root.display().to_string(), described: described(root) };
    let mut offer = proposal::propose(&seen, KNOWN, &place);
    offer.home = about_home(root);
    let plan = files::plan(root, &offer.proposals);
    let done =
        if args.write { written(root, &plan) } else { Done { refused: plan.refused.clone(), ..Done::default() } };
    let would: Vec<String> = plan.new.iter().map(|(name, _)| root.join(name).display().to_string()).collect();
    let adds = plan.dream.as_ref().map(|_| root.join("dream.yaml").display().to_string());
    let would: Vec<String> = would.into_iter().chain(adds).collect();
    let facts = serde_json::json!({
        "offer": offer, "files": would, "wrote": done.wrote, "refused": done.refused, "problems": done.problems,
    });
    let is_usual = Home::resolve(None).is_ok_and(|usual| usual == *home);
    let kloros = if is_usual { "kloros".to_owned() } else { format!("kloros --home {}", root.display()) };
    out.answer(&facts, || words(&offer, &would, args.write, &done, &kloros))?;
    let is_well = !args.write || done.refused.is_empty() && done.problems.is_empty();
    Ok(if is_well { Answer::Done } else { Answer::No })
}

/// Returns what a person should know of the home at `root` on this machine.
fn about_home(root: &Path) -> Vec<String> {
    let served = Path::new(fitted::HOME);
    let is_served = served.is_dir() || UNIT_FOLDERS.iter().any(|folder| Path::new(folder).join(DAEMON).exists());
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let owner = fs::metadata(root).ok().map(|found| found.uid());
    doubts(&real(root), is_served.then(|| real(served)).as_deref(), owner, rustix::process::getuid().as_raw())
}

/// Returns what may be wrong with a home: it is not the one that the unit works in, or it is not for this user to write into.
fn doubts(root: &Path, served: Option<&Path>, owner: Option<u32>, user: u32) -> Vec<String> {
    let mut doubts = Vec::new();
    if served.is_some_and(|served| served != root) {
        let served = fitted::HOME;
        doubts.push(format!(
            "this is about {}, and {DAEMON} works in {served}, where it would see nothing of it: kloros --home {served} init",
            root.display()
        ));
    }
    // What root writes is handed over to whom the home belongs.
    if let Some(owner) = owner.filter(|owner| *owner != user && user != 0) {
        doubts.push(format!(
            "{} belongs to user {owner}, and you are user {user}: do it as that user or as root",
            root.display()
        ));
    }
    doubts
}

/// Returns the domains that the home describes, each with its port; one that cannot be read is there all the same.
fn described(root: &Path) -> BTreeMap<String, u16> {
    let entries = fs::read_dir(root.join("domains")).into_iter().flatten().filter_map(Result::ok).take(DOMAINS_MAX);
    let described = entries.filter_map(|entry| {
        let name = entry.file_name().to_str()?.strip_suffix(".toml")?.to_owned();
        let is_short = fs::metadata(entry.path()).is_ok_and(|found| found.is_file() && found.len() <= DOMAIN_BYTES_MAX);
        let text = if is_short { fs::read_to_string(entry.path()).unwrap_or_default() } else { String::new() };
        let port = toml::from_str::<toml::Table>(&text).ok().and_then(|table| {
            let port = table.get("service")?.get("port")?.as_integer()?;
            u16::try_from(port).ok()
        });
        let is_of_the_kernel = known::OF_THE_KERNEL.contains(&name.as_str());
        Some((name, port.filter(|_| !is_of_the_kernel).unwrap_or(0)))
    });
    described.collect()
}

fn written(root: &Path, plan: &files::Plan) -> Done {
    let mut wrote = Vec::new();
    if plan.new.is_empty() {
        return Done::default();
    }
    let mut refused = files::write(root, plan, |path| wrote.push(path.display().to_string()));
    refused.extend(plan.refused.iter().cloned());
    let problems = settings::check(root, None).err().map(|complaints| complaints.to_string());
    let problems = problems.iter().flat_map(|text| text.lines()).map(str::to_owned).collect();
    Done { wrote, refused, problems }
}

/// Returns a line, and where it is long, further ones below what it says.
fn line(what: &str, text: &str) -> String {
    wrapped(&format!("{what:9}  {text}"), WIDTH, INDENT).join("\n")
}

/// Returns what is said to a person, whose next command begins with `kloros`.
fn words(offer: &Offer, would: &[String], writes: bool, done: &Done, kloros: &str) -> String {
    let mut lines: Vec<String> = offer.home.iter().map(|home| line("home", home)).collect();
    lines.extend(offer.proposals.iter().flat_map(proposed));
    for left in &offer.left {
        lines.push(line("left", &format!("{}, process {}: {}", left.service, left.pid, left.why)));
    }
    for unit in &offer.idle {
        lines.push(line("idle", &format!("{unit} is there and does not run: start it, and look again")));
    }
    lines.extend(offer.gpus.iter().map(|gpu| line("GPU", gpu)));
    if !offer.others.is_empty() {
        let other = |other: &proposal::Other| format!("{} on {}", shorten(&other.program, NAME_CHARS_MAX), other.port);
        let mut others: Vec<String> = offer.others.iter().map(other).collect();
        others.extend((offer.others_more > 0).then(|| format!("{} more", offer.others_more)));
        let text = format!("{}: no domain ships for these, README.md tells how to write one", others.join(", "));
        lines.push(line("unknown", &text));
    }
    lines.extend(offer.unseen.iter().map(|unseen| line("not seen", unseen)));
    if offer.proposals.is_empty() {
        let is_known = !offer.left.is_empty();
        lines.push(if is_known {
            format!("nothing more is to be written\n{kloros} check-config")
        } else {
            format!("nothing is found that a domain ships for; {kloros} run practises on the lab")
        });
        return lines.join("\n");
    }
    lines.extend(done.refused.iter().map(|refused| format!("refused    {refused}")));
    if !writes {
        lines.extend(would.iter().map(|path| line("would be", path)));
        lines.push(format!("nothing is written\n{kloros} init --write"));
        return lines.join("\n");
    }
    lines.extend(done.wrote.iter().map(|path| line("wrote", path)));
    lines.extend(done.problems.iter().map(|problem| line("wrong", problem)));
    let next = if done.problems.is_empty() {
        format!("doctor {}", offer.proposals[0].domain)
    } else {
        "check-config".to_owned()
    };
    lines.push(format!("{kloros} {next}"));
    lines.join("\n")
}

fn proposed(proposal: &Proposal) -> Vec<String> {
    let fitted = &proposal.fitted;
    let unit = fitted.unit.as_deref().unwrap_or("no unit");
    let found = format!("{}: process {}, port {}, {unit}", proposal.service, proposal.pid, proposal.port);
    let mut lines = vec![
        line("found", &found),
        line("domain", &format!("{}, whose values are in {}", proposal.domain, fitted.env_file)),
    ];
    lines.extend(proposal.tunes.iter().map(|(key, what)| line("tunes", format!("{key}  {what}").trim_end())));
    lines.push(line("leaves", proposal.leaves));
    lines.extend(proposal.open.iter().map(|open| line("open", open)));
    if !fitted.commands.is_empty() {
        lines.push(line("install", "by a person, when what is open is done and before kloros may change anything:"));
        lines.extend(fitted.commands.iter().cloned());
        lines.push(line("restart", &fitted.before_restart));
    }
    lines.push(String::new());
    lines
}

#[cfg(test)]
mod tests;
