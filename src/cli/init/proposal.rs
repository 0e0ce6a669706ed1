//! From what is seen of a machine to what may be written: pure, and the same every time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use serde::Serialize;

use super::{
    fitted::{self, Fitted},
    known::Known,
    seen::{Process, RunBy, Seen},
};

/// How many listeners of nobody known are named.
const OTHERS_MAX: usize = 20;

/// How many processes up it is looked whether one descends from another.
const ANCESTORS_MAX: usize = 8;

/// What the home says already.
#[derive(Debug, Default)]
pub(super) struct Home {
    /// Its path.
    pub(super) path: String,
    /// The domains that it describes, each with the port of its service.
    pub(super) described: BTreeMap<String, u16>,
}

/// What could be done about what was seen.
#[derive(Debug, Default, Serialize)]
pub(super) struct Offer {
    /// What a person should know of the home before anything is written into it.
    pub(super) home: Vec<String>,
    pub(super) proposals: Vec<Proposal>,
    /// Services that are known and that nothing is proposed for.
    pub(super) left: Vec<Left>,
    /// Units of known services that run nothing.
    pub(super) idle: Vec<String>,
    /// What listens and is not known.
    pub(super) others: Vec<Other>,
    /// How many more of those there are.
    pub(super) others_more: usize,
    pub(super) gpus: Vec<String>,
    pub(super) unseen: Vec<String>,
}

/// One service that could be tuned, and what that takes.
#[derive(Debug, Serialize)]
pub(super) struct Proposal {
    pub(super) domain: String,
    pub(super) service: &'static str,
    pub(super) pid: u32,
    pub(super) port: u16,
    /// What of it is turned, each knob with what the domain file says of it.
    pub(super) tunes: Vec<(String, String)>,
    pub(super) leaves: &'static str,
    /// What could not be found out, and has to be done by a person.
    pub(super) open: Vec<String>,
    #[serde(flatten)]
    pub(super) fitted: Fitted,
}

/// A service that nothing is proposed for.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Left {
    pub(super) service: &'static str,
    pub(super) pid: u32,
    pub(super) why: String,
}

/// What listens and is not known.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Other {
    pub(super) port: u16,
    pub(super) program: String,
}

/// One running service.
struct Found<'a> {
    known: &'static Known,
    process: &'a Process,
    port: u16,
    is_on_gpu: bool,
    open: Vec<String>,
}

/// Returns what could be done about what is `seen`, given what ships and what the home says.
pub(super) fn propose(seen: &Seen, known: &'static [Known], home: &Home) -> Offer {
    let recognised: BTreeMap<u32, &'static Known> =
        seen.processes.iter().filter_map(|process| Some((process.pid, recognised(process, known)?))).collect();
    let heads = heads(&seen.processes, &recognised);
    let mut offer = Offer { gpus: seen.gpus.clone(), unseen: seen.unseen.clone(), ..Offer::default() };
    let mut taken: BTreeSet<String> = home.described.keys().cloned().collect();
    for known in known {
        let of_it = seen.processes.iter().filter(|process| {
            recognised.get(&process.pid).is_some_and(|of| of.name == known.name)
                && heads.get(&process.pid) == Some(&process.pid)
        });
        let mut found: Vec<Found<'_>> = of_it.map(|process| found(known, process, seen, &heads)).collect();
        found.sort_by_key(|found| (found.port, found.process.pid));
        let first = plain_named(&found);
        for (index, found) in found.into_iter().enumerate() {
            match why_left(&found, home).map_or_else(|| name_for(&found, index == first, &mut taken), Err) {
                Ok(name) => offer.proposals.push(proposal(found, name, home)),
                Err(why) => offer.left.push(Left { service: known.service, pid: found.process.pid, why }),
            }
        }
    }
    let runs = |unit: &String| seen.processes.iter().any(|process| process.run_by == RunBy::Unit(unit.clone()));
    offer.idle = seen.units.iter().filter(|unit| !runs(unit)).cloned().collect();
    let others = others(&seen.processes, &recognised, &heads);
    offer.others_more = others.len().saturating_sub(OTHERS_MAX);
    offer.others = others.into_iter().take(OTHERS_MAX).collect();
    offer
}

fn recognised(process: &Process, known: &'static [Known]) -> Option<&'static Known> {
    known.iter().find(|known| {
        let is_program = process.names.iter().any(|name| known.programs.contains(&name.as_str()));
        let does = |verb: &&str| process.arguments.hold(verb);
        is_program && (known.verbs.is_empty() || known.verbs.iter().any(does))
    })
}

/// Returns for each recognised process the first of its ancestors, or itself, that is the same service: a server and what it forked
/// are one.
fn heads(processes: &[Process], recognised: &BTreeMap<u32, &'static Known>) -> BTreeMap<u32, u32> {
    let parents: BTreeMap<u32, u32> = processes.iter().map(|process| (process.pid, process.parent)).collect();
    let head = |pid: u32| {
        let name = recognised.get(&pid)?.name;
        let (mut head, mut at) = (pid, pid);
        for _ in 0..ANCESTORS_MAX {
            let Some(parent) = parents.get(&at) else { break };
            if recognised.get(parent).is_some_and(|known| known.name == name) {
                head = *parent;
            }
            at = *parent;
        }
        Some((pid, head))
    };
    processes.iter().filter_map(|process| head(process.pid)).collect()
}

fn found<'a>(known: &'static Known, process: &'a Process, seen: &'a Seen, heads: &BTreeMap<u32, u32>) -> Found<'a> {
    let family: Vec<&Process> =
        seen.processes.iter().filter(|member| heads.get(&member.pid) == Some(&process.pid)).collect();
    // What one of them listens on, all do; where nobody's is seen, nothing is known.
    let listens = family.iter().filter_map(|member| member.listens.as_deref()).collect::<Vec<_>>();
    let addresses = (!listens.is_empty()).then(|| listens.concat());
    let mut open = Vec::new();
    let port = port(known, process, addresses.as_deref(), &mut open);
    let is_on_gpu = family.iter().any(|member| member.is_on_gpu);
    Found { known, process, port, is_on_gpu, open }
}

/// Returns the port of a service, and notes what of it is not known.
fn port(known: &Known, process: &Process, addresses: Option<&[SocketAddr]>, open: &mut Vec<String>) -> u16 {
    let told = process.arguments.after(known.port_after).and_then(|text| text.parse::<u16>().ok());
    let guess = told.filter(|port| *port != 0).unwrap_or(known.port);
    let Some(addresses) = addresses else {
        open.push(format!("on which port it listens: that is seen by root and its own user alone; {guess} is a guess"));
        return guess;
    };
    let is_reached =
        |address: &&SocketAddr| address.ip().is_unspecified() || (address.is_ipv4() && address.ip().is_loopback());
    let ports: BTreeSet<u16> = addresses.iter().filter(is_reached).map(SocketAddr::port).collect();
    if ports.contains(&guess) {
        return guess;
    }
    let Some(least) = ports.first().copied() else {
        if let Some(elsewhere) = addresses.first() {
            open.push(format!("how it is reached: it listens on {elsewhere}, and kloros asks on 127.0.0.1 alone"));
            return elsewhere.port();
        }
        open.push(format!("on which port it listens: on none that is seen; {guess} is a guess"));
        return guess;
    };
    if ports.len() > 1 {
        let all: Vec<String> = ports.iter().map(u16::to_string).collect();
        open.push(format!("which of its ports {} is asked: {least} is a guess", all.join(", ")));
    }
    least
}

/// Returns which of the instances of a service has its plain name: the one on the usual port, else the first.
fn plain_named(found: &[Found<'_>]) -> usize {
    found.iter().position(|found| found.port == found.known.port).unwrap_or(0)
}

/// Returns why nothing is proposed for a service.
fn why_left(found: &Found<'_>, home: &Home) -> Option<String> {
    match &found.process.run_by {
        RunBy::Kloros => return Some("kloros runs it itself".to_owned()),
        RunBy::Container => {
            let why = "it runs in a container: write a domain file for it whose manager is a command that starts the container anew";
            return Some(why.to_owned());
        }
        RunBy::Nobody | RunBy::Unit(_) | RunBy::UserUnit(_) => {}
    }
    let (name, _) = home.described.iter().find(|(_, port)| **port != 0 && **port == found.port)?;
    Some(format!("domains/{name}.toml describes what listens on {} already", found.port))
}

/// Returns a name that no other domain has, and takes it; or why there is none.
fn name_for(found: &Found<'_>, is_plain: bool, taken: &mut BTreeSet<String>) -> Result<String, String> {
    let known = found.known;
    // What kloros starts itself, it starts once.
    let is_child = known.port == 0;
    let numbered = format!("{}_{}", known.name, found.port);
    let names = [(is_plain, known.name.to_owned()), (!is_child, numbered)];
    let free = names.into_iter().filter(|(may, _)| *may).find(|(_, name)| !taken.contains(name));
    let Some((_, name)) = free else {
        return Err(format!("there is a domain {} already: domains/{}.toml", known.name, known.name));
    };
    taken.insert(name.clone());
    Ok(name)
}

fn proposal(found: Found<'_>, name: String, home: &Home) -> Proposal {
    let Found { known, process, port, is_on_gpu, mut open } = found;
    let fitted = fitted::fit(known, process, &name, port, &home.path, &mut open);
    if is_on_gpu && known.domain.contains("\nisolation = \"shadow\"") {
        open.push(
            "whether the GPU holds it twice: candidates are measured on a second instance; where it does not, write isolation = \
             \"in_place\" with windows"
                .to_owned(),
        );
    }
    let tunes = fitted::knobs(known.domain);
    let (service, leaves) = (known.service, known.leaves);
    Proposal { domain: name, service, pid: process.pid, port, tunes, leaves, open, fitted }
}

fn others(
    processes: &[Process],
    recognised: &BTreeMap<u32, &'static Known>,
    heads: &BTreeMap<u32, u32>,
) -> BTreeSet<Other> {
    let is_other = |process: &&Process| {
        !recognised.contains_key(&process.pid)
            && !heads.contains_key(&process.parent)
            && process.run_by != RunBy::Kloros
    };
    let listeners = processes.iter().filter(is_other).flat_map(|process| {
        let program = process.names.first().cloned().unwrap_or_default();
        let ports = process.listens.iter().flatten().map(SocketAddr::port);
        ports.map(move |port| Other { port, program: program.clone() })
    });
    listeners.collect()
}
