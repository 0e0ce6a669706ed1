//! Deaths before system calls, calls that the disk refuses, and power cuts: the real daemon on the small service, with
//! `tests/tamper` between it and the kernel.
//!
//! One whole deployment without a fault says which calls there are: each file and process call of the daemon below its home and
//! beside the env file, known by what it is, its file, and the how many-th it is of these. Each is then a case.
//! Half of those that are run meet the first call of their kind, half a later one, such as the third sync of the journal; each
//! half is spread evenly over the deployment.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Signal, kill_process},
};
use tamper::{Call, Disk, Fate, Hit, Site, Tampered};

use super::{
    FEEDBACK, VALIDATIONS, many,
    many::Outcome,
    matrix::{After, check, check_service, check_unattended, is_over},
    say, small,
    small::{OLD, PATIENCE, Small, comes},
};

/// How many deaths, writes cut in two, refusals and power cuts are run where nothing else is said.
const DEATHS: usize = 150;
const TEARS: usize = 50;
const REFUSALS: usize = 150;
const CUTS: usize = 100;

/// A daemon that asks for nothing so long has nothing to do.
const QUIET: Duration = Duration::from_secs(2);

/// How long the guard meets a disk that takes nothing.
const HEALED_AFTER: Duration = Duration::from_secs(1);

/// How a disk refuses: once, or from then on until a person helps.
const REFUSING: [(&str, Fate); 6] = [
    ("EIO once", Fate::Fails(Errno::IO.raw_os_error())),
    ("ENOSPC once", Fate::Fails(Errno::NOSPC.raw_os_error())),
    ("EROFS once", Fate::Fails(Errno::ROFS.raw_os_error())),
    ("ENOSPC from then on", Fate::FailsFromNowOn(Errno::NOSPC.raw_os_error())),
    ("EROFS from then on", Fate::FailsFromNowOn(Errno::ROFS.raw_os_error())),
    ("EIO from then on", Fate::FailsFromNowOn(Errno::IO.raw_os_error())),
];

/// One case: which speed is proposed, the call that is met, and how it ends.
#[derive(Clone, Debug)]
struct Case {
    speed: u32,
    site: Site,
    fate: (&'static str, Fate),
    after: After,
}

/// The daemon dies before any of its file and process calls.
pub(crate) fn dies() {
    let after = [After::Restart, After::Guard, After::Person];
    let cases = |number: usize| vec![(("dies", Fate::Killed), after[number % after.len()])];
    each(
        "deaths before a call",
        |_| true,
        100,
        cases,
        ("KLOROS_CALLS", DEATHS),
        |case| {
            let mut small = Small::new("");
            small.propose(case.speed);
            let _tampered = meet(&mut small, case, None);
            small.kill();
            case.after.look(&mut small, case.speed, false)
        },
    );
}

/// Fault 11, and the same of every other file: the daemon dies when half of what it writes is written.
pub(crate) fn tears() {
    let cases = |_| vec![(("half of it is written", Fate::Torn), After::Restart)];
    let is_meant = |call| call == Call::Write;
    each("writes cut in two", is_meant, 10, cases, ("KLOROS_TEARS", TEARS), |case| {
        let mut small = Small::new("");
        small.propose(case.speed);
        let _tampered = meet(&mut small, case, None);
        small.kill();
        case.after.look(&mut small, case.speed, false)
    });
}

/// Faults 21 to 27: each call that changes a file fails.
pub(crate) fn fails() {
    let cases = |_| REFUSING.map(|fate| (fate, After::Restart)).to_vec();
    each("refusals of the disk", Call::is_of_the_disk, 100, cases, ("KLOROS_REFUSALS", REFUSALS), |case| {
        let mut small = Small::new("");
        small.propose(case.speed);
        refused(&mut small, case).map_err(|broken| format!("{broken}: {}", small.log()))
    });
}

/// Fault 17: of what was written only that is left which was made durable.
pub(crate) fn power() {
    let cases = |_| vec![(("the power is cut", Fate::Cut), After::Restart)];
    each(
        "power cuts",
        |_| true,
        100,
        cases,
        ("KLOROS_CUTS", CUTS),
        |case| {
            let mut small = Small::new("");
            small.propose(case.speed);
            cut(&mut small, case).map_err(|broken| format!("{broken}: {}", small.log()))
        },
    );
}

/// Runs `case` for each call of a whole deployment that `is_meant`, as often as `ways` says, but no more than asked for.
fn each(
    what: &str,
    is_meant: impl Fn(Call) -> bool,
    kinds_min: usize,
    ways: impl Fn(usize) -> Vec<((&'static str, Fate), After)>,
    (variable, usual): (&str, usize),
    case: impl Fn(&Case) -> Outcome + Sync,
) {
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for speed in [20, 5] {
        let sites: Vec<Site> = whole(speed).into_iter().filter(|site| is_meant(site.call)).collect();
        let kinds = sites.iter().filter(|site| site.nth == 1).count();
        say(&format!("{what}: {} calls of {kinds} kinds while it deploys {speed}", sites.len()));
        assert!(kinds >= kinds_min, "the calls are not seen: {sites:?}");
        for (number, site) in sites.into_iter().enumerate() {
            for (fate, after) in ways(number) {
                let cases = if site.nth == 1 { &mut first } else { &mut later };
                cases.push(Case { speed, site: site.clone(), fate, after });
            }
        }
    }
    let (most, found) = (many::wanted(variable, usual), first.len() + later.len());
    let chosen = many::halves(&first, &later, most);
    // Once the first calls took the whole budget, and no later one was ever met.
    let met_later = chosen.iter().filter(|case| case.site.nth > 1).count();
    assert!(met_later >= chosen.len() / 3, "{met_later} of {} meet a later call of their kind", chosen.len());
    say(&format!("{what}: {} first calls of their kind, {met_later} later ones", chosen.len() - met_later));
    many::run(what, &chosen, found, case);
}

/// Returns what a whole deployment without a fault asks for, in order.
fn whole(speed: u32) -> Vec<Site> {
    let mut small = Small::new("");
    small.propose(speed);
    let tampered = small.start_tampered(&["--cycles", "1"], None, None);
    assert_eq!(small.ended(), Some(0), "{}", small.log());
    check(&small, false).unwrap_or_else(|broken| panic!("without a fault: {broken}: {}", small.log()));
    tampered.hits().into_iter().map(|hit| hit.site).collect()
}

/// Runs the daemon until it has ended, has closed the deployment, or has nothing to do.
fn meet(small: &mut Small, case: &Case, disk: Option<Arc<Mutex<Disk>>>) -> Tampered {
    let meets = Some((case.site.clone(), case.fate.1));
    let tampered = small.start_tampered(&["--cycles", "1"], meets, disk);
    let mut last = (0, Instant::now());
    let rests = comes(PATIENCE, || {
        let count = tampered.count();
        if count != last.0 {
            last = (count, Instant::now());
        }
        small.has_ended() || last.1.elapsed() > QUIET
    });
    assert!(rests, "it comes to no rest: {}", small.log());
    tampered
}

fn refused(small: &mut Small, case: &Case) -> Outcome {
    let tampered = meet(small, case, None);
    if !small.has_ended() {
        small.signal(Signal::INT);
    }
    let code = small.ended();
    let (name, fate) = case.fate;
    check_no_second_sync(&tampered.hits(), name)?;
    // A full disk is enough to take a change back; one that takes nothing is not, and the guard waits for it.
    if fate != Fate::FailsFromNowOn(Errno::NOSPC.raw_os_error()) {
        comes(HEALED_AFTER, || small.guards().is_empty());
        tampered.heal();
    }
    let began = Instant::now();
    // Whatever is pending has a guard, but where the daemon ended before it was asked for; then nothing was touched.
    let is_safe = |small: &Small| small.guards().is_empty();
    if !comes(PATIENCE, || is_safe(small)) {
        return Err("D: the guard does not bring it to an end".to_owned());
    }
    check_unattended(small, false)?;
    tampered.heal();
    small.start(&[]);
    let is_untouched = |small: &Small| small.json(&["deployments"]).as_array().is_some_and(Vec::is_empty);
    let comes_to_that = comes(PATIENCE, || is_over(small)) || is_untouched(small);
    small::wait("the daemon listens", || small.listens());
    small.signal(Signal::INT);
    let ended = small.ended();
    if ended != Some(0) || !comes_to_that {
        return Err(format!("the daemon on a disk that is well again ends with {ended:?}, {comes_to_that}"));
    }
    let met = if tampered.hits().iter().any(|hit| !hit.passed) { "" } else { " (did not come to it)" };
    Ok((format!("{name}{met}: ended with {code:?}, {}", check(small, false)?), began.elapsed()))
}

/// Fault 24: a file whose sync failed is given up; what it holds nobody knows.
fn check_no_second_sync(hits: &[Hit], name: &str) -> Result<(), String> {
    let mut failed: BTreeMap<u64, &Hit> = BTreeMap::new();
    for hit in hits.iter().filter(|hit| hit.site.call == Call::Sync && name.starts_with("EIO")) {
        let is_beside = hit.site.name.contains("kloros-part") || hit.site.name.contains("pending/");
        match failed.get(&hit.inode) {
            Some(first) if is_beside && !hit.site.name.ends_with("pending") => {
                return Err(format!("synced again after EIO: {first:?}, {hit:?}"));
            }
            _ if !hit.passed => drop(failed.insert(hit.inode, hit)),
            _ => {}
        }
    }
    Ok(())
}

fn cut(small: &mut Small, case: &Case) -> Outcome {
    let disk = Arc::new(Mutex::new(Disk::of(&small.folders()).unwrap()));
    let _tampered = meet(small, case, Some(Arc::clone(&disk)));
    small.kill();
    for guard in small.guards() {
        // It may have ended meanwhile.
        kill_process(guard, Signal::KILL).ok();
    }
    small.kill_service();
    comes(PATIENCE, || small.guards().is_empty());
    let announced: Vec<String> = [VALIDATIONS, FEEDBACK].iter().flat_map(|name| small.lines(name)).collect();
    disk.lock().unwrap().lose().unwrap();
    let env = small.env();
    if ![OLD.to_owned(), OLD.replace("SPEED=10", &format!("SPEED={}", case.speed))].contains(&env) {
        return Err(format!("A: the env file is neither the old nor the new one: {env:?}"));
    }
    let began = Instant::now();
    // Before a tuned service starts at boot, what is pending is undone.
    let output = small.kloros(&["recover", "--if-pending"]);
    if output.status.code() != Some(0) {
        return Err(format!("recover: {output:?}"));
    }
    small.start_service();
    check_unattended(small, false)?;
    small.start(&[]);
    let comes_to_that = comes(PATIENCE, || is_over(small));
    let took = began.elapsed();
    small::wait("the daemon listens", || small.listens());
    small.signal(Signal::INT);
    let ended = small.ended();
    let found = check(small, false)?;
    check_service(small, false)?;
    let outcome = found.split(',').next().unwrap_or_default();
    if let Some(line) = announced.iter().find(|line| !line.contains(outcome)) {
        return Err(format!("a verdict that was announced did not stand: {found}, and before the cut {line}"));
    }
    if !comes_to_that || ended != Some(0) {
        return Err(format!("it does not come to an end, and the daemon ends with {ended:?}"));
    }
    Ok((found, took))
}
