//! Journals that were cut short, emptied, removed, replaced, or changed on disk while nobody looked.

use super::*;

/// How large a page of the database is, in bytes.
const PAGE: usize = 4096;

/// A journal of many pages that nobody has open: all of it stands in the one file.
async fn closed_journal() -> House {
    let house = house();
    let store = open(&house.home).unwrap();
    let facts = (0..60).map(|number| said(&format!("t-{number}"), &format!("{number} {}", "x".repeat(900)))).collect();
    append(&store, facts).await;
    drop(store);
    drop(wait_until_alone(&house.home));
    house
}

/// Returns a journal as a `kill -9` leaves it: nearly all of it stands in the write-ahead log.
async fn killed_journal() -> House {
    let (living, dead) = (house(), house());
    let store = open(&living.home).unwrap();
    append(&store, vec![said("t", "one"), said("t", "two"), said("t", "three")]).await;
    dead.home.create().unwrap();
    for name in ["journal.db", "journal.db-wal", "journal.mark"] {
        fs::copy(living.home.state_folder().join(name), dead.home.state_folder().join(name)).unwrap();
    }
    dead
}

/// Checks that the journal is refused in words that name the file, and that what is left of it stays.
#[track_caller]
fn check_refused(home: &Home, case: &str) {
    let length = |home: &Home| fs::metadata(home.journal()).map(|found| found.len()).ok();
    let before = length(home);
    let message = refusal(home);
    assert!(message.contains("damaged") && message.contains("journal.db"), "{case}: {message}");
    assert_eq!(length(home), before, "{case}");
}

#[tokio::test]
async fn a_journal_that_is_cut_short_anywhere_is_refused_and_not_begun_afresh() {
    let house = closed_journal().await;
    let whole = fs::read(house.home.journal()).unwrap();
    assert!(whole.len() > 10 * PAGE);
    for length in [0, 1, 16, 99, 100, 1000, PAGE, PAGE + 1, whole.len() / 2, whole.len() - PAGE, whole.len() - 1] {
        fs::write(house.home.journal(), &whole[..length]).unwrap();
        check_refused(&house.home, &format!("{length} bytes are left"));
    }
    fs::write(house.home.journal(), &whole).unwrap();
    assert_eq!(everything(&open(&house.home).unwrap()).await.len(), 60);
}

#[tokio::test]
async fn a_journal_that_is_gone_is_missed_until_a_person_lets_it_go() {
    let house = closed_journal().await;
    fs::remove_file(house.home.journal()).unwrap();
    let message = refusal(&house.home);
    assert!(message.contains("journal.db is gone"), "{message}");
    assert!(message.contains("remove") && message.contains("journal.mark"), "{message}");
    assert!(Reader::open(&house.home).err().unwrap().to_string().contains("is gone"));
    assert!(!house.home.journal().exists());
    fs::remove_file(house.home.journal().with_extension("mark")).unwrap();
    assert!(everything(&open(&house.home).unwrap()).await.is_empty());
}

#[tokio::test]
async fn a_journal_whose_write_ahead_log_was_deleted_is_refused() {
    let house = killed_journal().await;
    fs::remove_file(house.home.state_folder().join("journal.db-wal")).unwrap();
    check_refused(&house.home, "without its log");
}

#[tokio::test]
async fn a_write_ahead_log_whose_journal_is_gone_or_empty_is_kept() {
    for emptied in [false, true] {
        let house = killed_journal().await;
        let log = house.home.state_folder().join("journal.db-wal");
        let before = fs::read(&log).unwrap();
        fs::remove_file(house.home.journal()).unwrap();
        if emptied {
            fs::write(house.home.journal(), "").unwrap();
        }
        // Not even a home without a mark loses it.
        fs::remove_file(house.home.journal().with_extension("mark")).unwrap();
        check_refused(&house.home, "without its journal");
        assert!(Reader::open(&house.home).is_err());
        assert_eq!(fs::read(&log).unwrap(), before);
    }
}

#[tokio::test]
async fn a_torn_end_of_the_write_ahead_log_is_as_if_it_was_never_written() {
    let house = killed_journal().await;
    let log = house.home.state_folder().join("journal.db-wal");
    let mut bytes = fs::read(&log).unwrap();
    bytes.extend([0x5a; 700]);
    fs::write(&log, &bytes).unwrap();
    assert_eq!(everything(&open(&house.home).unwrap()).await.len(), 3);
}

#[tokio::test]
async fn a_journal_that_lost_its_newest_facts_is_refused() {
    let house = killed_journal().await;
    let log = house.home.state_folder().join("journal.db-wal");
    let bytes = fs::read(&log).unwrap();
    // The last frame is the end of the last commit.
    fs::write(&log, &bytes[..bytes.len() - 100]).unwrap();
    let message = refusal(&house.home);
    assert!(message.contains("journal.db holds") || message.contains("journal.db has no tables"), "{message}");
}

#[tokio::test]
async fn a_journal_in_whose_place_a_folder_stands_is_refused() {
    let house = closed_journal().await;
    fs::remove_file(house.home.journal()).unwrap();
    fs::create_dir(house.home.journal()).unwrap();
    assert!(refusal(&house.home).contains("no plain file"));
}

#[tokio::test]
async fn a_byte_that_changed_on_any_page_is_refused_or_does_no_harm() {
    let house = closed_journal().await;
    let whole = fs::read(house.home.journal()).unwrap();
    let known = everything(&open(&house.home).unwrap()).await;
    drop(wait_until_alone(&house.home));
    let mut refused = 0;
    for page in 0..whole.len() / PAGE {
        for place in [3, 40, 700, 2048, PAGE - 5] {
            let mut bytes = whole.clone();
            bytes[page * PAGE + place] ^= 0x10;
            let damaged = house_with(&bytes);
            match open(&damaged.home) {
                Err(_) => refused += 1,
                Ok(store) => {
                    assert_eq!(everything(&store).await, known, "page {page}, byte {place}");
                    let turns = store.read(Query::kinds(&[Kind::Turn])).await.unwrap();
                    assert_eq!(turns, known, "page {page}, byte {place}");
                }
            }
        }
    }
    assert!(refused > whole.len() / PAGE, "only {refused} were refused");
}

fn house_with(journal: &[u8]) -> House {
    let house = house();
    house.home.create().unwrap();
    fs::write(house.home.journal(), journal).unwrap();
    house
}
