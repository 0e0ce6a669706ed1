use std::collections::BTreeSet;

use super::*;

const LAB: &str = include_str!("../../../config/domains/lab.toml");
const DREAM: &str = include_str!("../../../config/dream.yaml");

/// What is in force, what needs a restart, what waits.
type Words<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str]);

/// A change in words: what is in force with it, what needs a restart, what waits.
#[track_caller]
fn changed(before: &[(&str, &str)], after: &[(&str, &str)], busy: &[&str]) -> (Vec<String>, Vec<String>, Vec<String>) {
    let (old, new) = (Home::new(before).settings(), Home::new(after).settings());
    let busy: BTreeSet<String> = busy.iter().map(|name| (*name).to_owned()).collect();
    let change = change(&old, &new, &busy).unwrap();
    // What is in force is read again as what it is: nothing is left to change but what could not be.
    let again = super::change(&change.settings, &new, &busy).unwrap();
    assert_eq!(again.changed, []);
    assert_eq!((&again.needs_restart, &again.waits), (&change.needs_restart, &change.waits));
    (change.changed.iter().map(ToString::to_string).collect(), change.needs_restart, change.waits)
}

#[track_caller]
fn check(after: &str, in_force: &[&str], needs_restart: &[&str]) {
    let (changed, restart, waits) = changed(&[], &[("kloros.toml", after)], &[]);
    assert_eq!((changed, restart), (in_force.iter().map(ToString::to_string).collect(), owned(needs_restart)));
    assert_eq!(waits, owned(&[]));
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[test]
fn a_room_is_told_and_what_was_made_at_the_start_stays() {
    check("", &[], &[]);
    check("[gate]\nautonomy = 2\n", &[], &[]);
    check("[gate]\nautonomy = 0\n", &["gate.autonomy 2 -> 0"], &[]);
    check("[gate]\nfreeze = [\"sat\"]\n", &["gate.freeze [] -> [\"sat\"]"], &[]);
    check("[shell]\nlog = \"debug\"\n", &["shell.log \"info\" -> \"debug\""], &[]);
    check("[shell]\nchaos = true\n", &[], &["shell.chaos"]);
    check("[observer]\nsample_every_s = 2\n", &[], &["observer.sample_every_s"]);
    check("[measuring]\nlease_wait_s = 60\n", &[], &["measuring.lease_wait_s"]);
    check("[gpu]\nsample_every_s = 2\n", &[], &["gpu.sample_every_s"]);
    check("[reload]\nfollow_files = false\n", &[], &["reload.follow_files"]);
    check("[gate]\nautonomy = 1\n[shell]\nchaos = true\n", &["gate.autonomy 2 -> 1"], &["shell.chaos"]);
}

#[test]
fn each_key_that_needs_a_restart_is_one() {
    let known = super::super::layers::Loaded::default().table().unwrap();
    for key in super::super::change::NEEDS_RESTART {
        assert!(super::super::layers::get(&known, key).is_some(), "{key} is no setting");
    }
}

#[test]
fn a_domain_changes_at_once_unless_a_change_of_it_is_judged_or_its_service_is_another() {
    let wider = LAB.replacen("[knobs.LAB_THREADS]", "[knobs.LAB_THREADS]\nstep_max = 16", 1);
    let elsewhere = LAB.replacen("port = 0", "port = 8123", 1);
    assert!(wider != LAB && elsewhere != LAB);
    let before = [("domains/lab.toml", LAB), ("dream.yaml", DREAM)];
    let table: [(&str, &[&str], Words<'_>); 5] = [
        (LAB, &[], (&[], &[], &[])),
        (&wider, &[], (&["domains.lab"], &[], &[])),
        (&wider, &["chat"], (&["domains.lab"], &[], &[])),
        (&wider, &["lab"], (&[], &[], &["domains.lab"])),
        (&elsewhere, &["lab"], (&[], &["domains.lab"], &[])),
    ];
    for (lab, busy, (in_force, needs_restart, waits)) in table {
        let after = [("domains/lab.toml", lab), ("dream.yaml", DREAM)];
        assert_eq!(changed(&before, &after, busy), (owned(in_force), owned(needs_restart), owned(waits)));
    }
}

#[test]
fn a_domain_that_comes_needs_a_restart_and_so_does_what_experiments_there_are_on_it() {
    let before = [("domains/lab.toml", LAB), ("dream.yaml", DREAM)];
    let other = LAB.replace("LAB_", "CHAT_");
    let more = DREAM.replacen("experiments:\n", "", 1).replace("lab_tuning", "chat_tuning");
    let more = format!("{DREAM}{}", more.replace("domain: lab", "domain: chat").replace("LAB_", "CHAT_"));
    let after = [("domains/lab.toml", LAB), ("domains/chat.toml", &other), ("dream.yaml", &more)];
    assert_eq!(changed(&before, &after, &[]), (owned(&[]), owned(&["domains.chat"]), owned(&[])));
    assert_eq!(changed(&after, &before, &[]).1, owned(&["domains.chat"]));
}

#[test]
fn an_experiment_comes_goes_and_changes_at_once() {
    let before = [("domains/lab.toml", LAB), ("dream.yaml", DREAM)];
    let smaller = DREAM.replacen("lab_tuning", "lab_other", 1);
    let after = [("domains/lab.toml", LAB), ("dream.yaml", &*smaller)];
    let expected = owned(&["experiments.lab_other", "experiments.lab_tuning"]);
    assert_eq!(changed(&before, &after, &[]), (expected, owned(&[]), owned(&[])));
}

#[test]
fn files_of_conf_d_come_over_the_first_by_name_and_complaints_name_them() {
    let files = [
        ("kloros.toml", "[gate]\nautonomy = 1\nadvice = true\n"),
        ("conf.d/20-late.toml", "[gate]\nautonomy = 3\n"),
        ("conf.d/10-early.toml", "[gate]\nautonomy = 0\nfreeze = [\"sun\"]\n"),
        ("conf.d/.10-early.toml.swp", "x"),
        ("conf.d/notes.md", "x"),
    ];
    let gate = Home::new(&files).settings().rooms.gate;
    assert_eq!((u8::from(gate.autonomy), gate.advice, gate.freeze.len()), (3, true, 1));
    let wrong = [("conf.d/10.toml", "[gate]\nautonmy = 3\n"), ("conf.d/20.toml", "[shell]\nlog = 3\n")];
    refused(
        &wrong,
        &[
            "conf.d/10.toml:2: gate.autonmy: unknown key; did you mean autonomy?",
            "conf.d/20.toml:2: shell.log: expected a text, found 3",
        ],
    );
}

/// What is missing in words, without the name of the folder.
#[track_caller]
fn check_missing(before: &[(&str, &str)], after: &[(&str, &str)], missing: &[&str]) {
    let home = Home::new(before);
    let (old, said) = (home.settings(), Said::in_files(home.path(), None));
    for (name, _) in before {
        fs::remove_file(home.path().join(name)).unwrap();
    }
    for (name, text) in after {
        fs::write(home.path().join(name), text).unwrap();
    }
    let change = change(&old, &home.settings(), &BTreeSet::new()).unwrap();
    let folder = format!("{}/", home.path().display());
    let found = said.missing(&Said::in_files(home.path(), None), &change.changed);
    let found: Vec<String> =
        found.iter().map(|line| line.replace(&folder, "").split(';').next().unwrap().to_owned()).collect();
    assert_eq!(found, owned(missing));
}

/// An emptied file is in order, and put the level that ships into force instead of the one that its owner had chosen.
#[test]
fn what_no_file_says_any_more_is_missing_and_what_one_says_otherwise_is_not() {
    let whole = "[shell]\nlog = \"warn\"\n[gate]\nautonomy = 0\n";
    let level = "kloros.toml: gate.autonomy: says 0 no more, which would make it 2";
    let log = "kloros.toml: shell.log: says \"warn\" no more, which would make it \"info\"";
    check_missing(&[("kloros.toml", whole)], &[("kloros.toml", "")], &[level, log]);
    check_missing(&[("kloros.toml", whole)], &[("kloros.toml", "[shell]\nlog = \"warn\"\n")], &[level]);
    check_missing(&[("kloros.toml", whole)], &[("kloros.toml", &whole.replace("= 0", "= 3"))], &[]);
    // The level that ships is lower, and a value that is the shipped one takes nothing along.
    check_missing(&[("kloros.toml", "[gate]\nautonomy = 3\n")], &[("kloros.toml", "")], &[]);
    check_missing(&[("kloros.toml", "[gate]\nautonomy = 2\n")], &[("kloros.toml", "")], &[]);
}

#[test]
fn a_file_of_conf_d_that_is_gone_is_missing_unless_another_one_now_says_what_it_said() {
    let (main, more) = (("kloros.toml", "[gate]\nautonomy = 2\n"), "[gate]\nautonomy = 0\n");
    let missing = "conf.d/a.toml: gate.autonomy: says 0 no more, which would make it 2";
    check_missing(&[main, ("conf.d/a.toml", more)], &[main], &[missing]);
    check_missing(&[main, ("conf.d/a.toml", more)], &[main, ("conf.d/b.toml", more)], &[]);
    check_missing(&[main, ("conf.d/a.toml", more)], &[main, ("conf.d/b.toml", "[gate]\nautonomy = 1\n")], &[]);
}

#[test]
fn a_domain_that_lost_a_guard_is_missing_it() {
    let lab = LAB.replacen("[knobs.LAB_THREADS]", "[knobs.LAB_THREADS]\nstep_max = 16", 1);
    let said = "domains/lab.toml: domains.lab: says nothing of knobs.LAB_THREADS.step_max any more";
    check_missing(&[("domains/lab.toml", &lab)], &[("domains/lab.toml", LAB)], &[said]);
    check_missing(&[("domains/lab.toml", LAB)], &[("domains/lab.toml", &lab)], &[]);
}
