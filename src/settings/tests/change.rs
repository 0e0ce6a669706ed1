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
