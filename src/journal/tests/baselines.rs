//! Baselines that somebody damaged, or edited by hand. Fault 77.

use super::{
    super::audit::{Verified, verify},
    *,
};

const EDITED: &str = r#"{"domain": "lab", "metrics": {"e2e_p95_ms": 70.5}, "updated_at": "2025-11-01T15:42:00Z"}"#;

/// A home with a certified baseline.
async fn certified() -> (House, PathBuf, String) {
    let house = house();
    let store = open(&house.home).unwrap();
    append(&store, vec![judged("d-1", Ruled::Success)]).await;
    store.flush().await.unwrap();
    let path = house.home.baselines_folder().join("lab_baseline.json");
    let text = fs::read_to_string(&path).unwrap();
    (house, path, text)
}

/// Returns what a start makes of the baseline, and how many were taken over.
async fn started(house: &House) -> usize {
    let store = open(&house.home).unwrap();
    store.mend().await.unwrap();
    store.adopt_baselines(AT_MS).await.unwrap();
    store.flush().await.unwrap();
    everything(&store).await.iter().filter(|recorded| recorded.fact.kind() == Kind::Anchored).count()
}

#[tokio::test]
async fn a_baseline_that_was_edited_soundly_is_taken_over_once_and_stands_in_the_audit_trail() {
    let (house, path, _) = certified().await;
    assert_eq!(started(&house).await, 0, "what kloros wrote itself is no edit");
    fs::write(&path, EDITED).unwrap();
    assert_eq!(started(&house).await, 1);
    let written: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(written["metrics"]["e2e_p95_ms"], 70.5);
    assert_eq!(written["edited_by_hand"], true);
    assert_eq!(started(&house).await, 1, "it is taken over once");
    let Verified::Intact { lines, .. } = verify(&house.home, 5).unwrap() else { panic!("the trail is broken") };
    assert_eq!(lines, 2);
    fs::remove_file(&path).unwrap();
    rebuild(&house.home).unwrap();
    assert!(fs::read_to_string(&path).unwrap().contains("edited_by_hand"));
}

#[tokio::test]
async fn a_baseline_that_is_damaged_or_none_is_written_anew_from_the_journal() {
    let (house, path, text) = certified().await;
    for bad in [
        "",
        "{",
        "nonsense",
        "[]",
        "{}",
        &EDITED[..40],
        &EDITED.replace("70.5", "-1"),
        &EDITED.replace("70.5", "1e999"),
        &EDITED.replace("70.5", "\"70.5\""),
        &EDITED.replace("70.5", "null"),
        &EDITED.replace("lab", "vllm"),
        r#"{"domain": "lab", "metrics": {}}"#,
    ] {
        fs::write(&path, bad).unwrap();
        assert_eq!(started(&house).await, 0, "{bad}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "{bad}");
    }
}
