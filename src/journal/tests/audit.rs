//! The audit trail: whole while nobody touches it, and broken where somebody did.

use super::{
    super::audit::{Verified, verify},
    *,
};

/// A home whose trail has one line for each thaw of these domains.
async fn thawed(domains: &[&str]) -> House {
    let house = house();
    let store = open(&house.home).unwrap();
    for domain in domains {
        append(&store, vec![said("t", "is not audited"), thaw(domain)]).await;
    }
    store.flush(0).await.unwrap();
    house
}

fn thaw(domain: &str) -> Fact {
    Fact::Thaw(Thaw { domain: domain.into(), by_uid: 1_000 })
}

fn trail(home: &Home) -> PathBuf {
    home.root().join("logs/audit/audit-000001.jsonl")
}

/// Changes the lines of the trail, and returns what a check makes of it.
fn tampered(house: &House, change: impl FnOnce(&mut Vec<String>)) -> Verified {
    let text = fs::read_to_string(trail(&house.home)).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    change(&mut lines);
    let changed: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(trail(&house.home), changed).unwrap();
    let found = verify(&house.home, 5).unwrap();
    fs::write(trail(&house.home), text).unwrap();
    found
}

#[track_caller]
fn check_broken(found: &Verified, at: u64, part: &str) {
    let Verified::Broken { n, why, file } = found else { panic!("{found:?}") };
    assert_eq!((*n, file.as_str()), (at, "logs/audit/audit-000001.jsonl"), "{why}");
    assert!(why.contains(part), "{why}");
}

#[track_caller]
fn check_intact(home: &Home, expected: u64) -> String {
    match verify(home, 5).unwrap() {
        Verified::Intact { lines, head } if lines == expected => head,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn whoever_changes_drops_adds_or_reorders_a_line_is_found_out_at_the_first_broken_link() {
    let house = thawed(&["a", "b", "c", "d"]).await;
    let head = check_intact(&house.home, 4);
    assert!(fs::read_to_string(trail(&house.home)).unwrap().ends_with(&format!("{head}\"}}\n")));
    check_broken(
        &tampered(&house, |lines| lines[1] = lines[1].replace("1000", "1001")),
        2,
        "not the one that was written",
    );
    check_broken(&tampered(&house, |lines| drop(lines.remove(2))), 3, "not the one that was written");
    check_broken(&tampered(&house, |lines| lines.swap(0, 1)), 1, "not the one that was written");
    check_broken(&tampered(&house, |lines| drop(lines.pop())), 4, "missing");
    check_broken(&tampered(&house, Vec::clear), 1, "missing");
    check_broken(&tampered(&house, |lines| lines.push(lines[3].clone())), 5, "nobody wrote");
    // The whole chain written anew, by somebody who knows how.
    check_broken(
        &tampered(&house, |lines| lines[3] = lines[3].replace("\"d\"", "\"e\"")),
        4,
        "not the one that was written",
    );
    fs::remove_file(trail(&house.home)).unwrap();
    check_broken(&verify(&house.home, 5).unwrap(), 1, "missing");
    assert_eq!(rebuild(&house.home).unwrap().lines, 4);
    assert_eq!(check_intact(&house.home, 4), head);
}

#[tokio::test]
async fn a_torn_last_line_and_a_pipe_in_the_place_of_the_trail_are_no_trail() {
    let house = thawed(&["a", "b"]).await;
    let text = fs::read_to_string(trail(&house.home)).unwrap();
    fs::write(trail(&house.home), &text[..text.len() - 1]).unwrap();
    check_broken(&verify(&house.home, 5).unwrap(), 2, "not the one that was written");
    fs::remove_file(trail(&house.home)).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, trail(&house.home), mode).unwrap();
    assert!(verify(&house.home, 5).is_err());
}

#[tokio::test]
async fn whoever_changes_the_journal_beneath_the_trail_is_found_out_too() {
    for (sql, at, part) in [
        ("UPDATE facts SET body = replace(body, '1000', '1001') WHERE seq = 4", 2, "is not the one that was audited"),
        ("DELETE FROM facts WHERE seq = 4", 2, "is not the one that was audited"),
        ("DELETE FROM audit WHERE n = 2", 3, "a link of the chain is missing"),
        ("DELETE FROM audit WHERE n = 3", 3, "no link in the chain"),
        ("UPDATE audit SET hash = 'x' WHERE n = 3", 3, "is not the one that was audited"),
    ] {
        let house = thawed(&["a", "b", "c"]).await;
        drop(wait_until_alone(&house.home));
        Connection::open(house.home.journal()).unwrap().execute_batch(sql).unwrap();
        let Verified::Broken { n, why, .. } = verify(&house.home, 5).unwrap() else { panic!("{sql} was not found") };
        assert!(n == at && why.contains(part), "{sql}: {n} {why}");
    }
}

#[tokio::test]
async fn lines_that_wait_to_be_written_are_part_of_the_trail() {
    let house = thawed(&["a"]).await;
    let store = open(&house.home).unwrap();
    append(&store, vec![thaw("b")]).await;
    let head = check_intact(&house.home, 2);
    store.flush(0).await.unwrap();
    assert_eq!(check_intact(&house.home, 2), head);
}

#[tokio::test]
async fn a_journal_of_an_older_kloros_gets_its_trail_when_it_is_opened() {
    let house = thawed(&["a", "b"]).await;
    drop(wait_until_alone(&house.home));
    let head = check_intact(&house.home, 2);
    Connection::open(house.home.journal()).unwrap().execute_batch("DROP TABLE audit").unwrap();
    fs::remove_file(trail(&house.home)).unwrap();
    let store = open(&house.home).unwrap();
    store.flush(0).await.unwrap();
    assert_eq!(check_intact(&house.home, 2), head);
    append(&store, vec![thaw("c")]).await;
    check_intact(&house.home, 3);
}

#[tokio::test]
async fn every_kind_of_decision_has_a_line_and_what_is_measured_has_none() {
    let house = house();
    let store = open(&house.home).unwrap();
    let facts: Vec<Fact> = one_of_each().into_iter().chain(of_policy()).collect();
    let audited = facts.iter().filter(|fact| super::super::audit::AUDITED.contains(&fact.kind())).count();
    append(&store, facts).await;
    store.flush(0).await.unwrap();
    check_intact(&house.home, audited as u64);
    assert_eq!(everything(&store).await.len(), 39, "each is read as it was written");
    let kinds: std::collections::BTreeSet<String> =
        lines(&trail(&house.home)).iter().map(|line| line["kind"].as_str().unwrap().to_owned()).collect();
    let expected = super::super::audit::AUDITED.map(|kind| kind.label().to_owned());
    assert_eq!(kinds, expected.into());
}
