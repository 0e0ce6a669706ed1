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
    store.flush(0).await.unwrap();
    let path = house.home.baselines_folder().join("lab_baseline.json");
    let text = fs::read_to_string(&path).unwrap();
    (house, path, text)
}

/// Returns what a start makes of the baseline, and how many were taken over.
async fn started(house: &House) -> usize {
    let store = open(&house.home).unwrap();
    store.mend().await.unwrap();
    store.adopt_baselines(AT_MS).await.unwrap();
    store.flush(0).await.unwrap();
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

/// Once a success that came while the daemon ran wrote over the edit without a word.
#[tokio::test]
async fn a_baseline_that_is_edited_while_the_daemon_runs_is_taken_over_before_the_next_is_written() {
    let (house, path, text) = certified().await;
    let store = open(&house.home).unwrap();
    let anchored =
        async || everything(&store).await.iter().filter(|recorded| recorded.fact.kind() == Kind::Anchored).count();
    append(&store, vec![judged("d-2", Ruled::Success)]).await;
    store.flush(0).await.unwrap();
    assert_eq!(anchored().await, 0, "what kloros wrote itself is no edit");
    // With the place that stood there, without one, and what stood there before, which is nothing new.
    for (number, edit) in [(1, text.replace("77.", "70.")), (2, EDITED.to_owned())] {
        fs::write(&path, edit).unwrap();
        append(&store, vec![judged(&format!("d-{number}0"), Ruled::Success)]).await;
        store.flush(0).await.unwrap();
        assert_eq!(anchored().await, number);
        let written: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(written["edited_by_hand"], true, "{written}");
    }
    assert!(fs::read_to_string(&path).unwrap().contains("70.5"));
    for damaged in ["", "{", &EDITED.replace("lab", "vllm")] {
        fs::write(&path, damaged).unwrap();
        append(&store, vec![judged(&format!("d-{}00", damaged.len()), Ruled::Success)]).await;
        store.flush(0).await.unwrap();
        assert_eq!(anchored().await, 2, "{damaged}");
        assert!(!fs::read_to_string(&path).unwrap().contains("edited_by_hand"), "{damaged}");
    }
    let Verified::Intact { lines, .. } = verify(&house.home, 5).unwrap() else { panic!("the trail is broken") };
    assert_eq!(lines, 9);
}

#[tokio::test]
async fn a_baseline_says_what_it_rests_on_and_begins_before_the_first_change() {
    let house = house();
    let store = open(&house.home).unwrap();
    let path = house.home.baselines_folder().join("lab_baseline.json");
    let metrics = |value| std::collections::BTreeMap::from([("e2e_p95_ms".to_owned(), value)]);
    let verdict =
        |id: &str, outcome, baseline| Fact::Verdict(Verdict { runs: 26, baseline, ..verdict(id, "lab", outcome) });
    let baseline = |value| {
        let (metrics, spread) = (metrics(value), metrics(1.25));
        Some(kloros_actors::facts::Baseline { metrics, spread, n: 12, config: Some("c0ffee".to_owned()) })
    };
    let check = async |fact: Fact, value: f64, deployment: &str| {
        append(&store, vec![fact]).await;
        store.flush(0).await.unwrap();
        let written: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!((&written["metrics"]["e2e_p95_ms"], &written["deployment_id"]), (&value.into(), &deployment.into()));
        assert_eq!((&written["n"], &written["spread"]["e2e_p95_ms"]), (&12.into(), &1.25.into()));
        assert_eq!(written["config_hash"], "c0ffee");
        written
    };
    let begun = check(verdict("d-1", Ruled::Neutral, baseline(80.0)), 80.0, "d-1").await;
    assert!(begun["fingerprint"].is_null() && begun["improvement"].is_null(), "it is what was there before");
    let raised = check(verdict("d-2", Ruled::Success, baseline(77.0)), 77.0, "d-2").await;
    assert!(raised["fingerprint"].is_string() && raised["improvement"].is_object());
    check(verdict("d-3", Ruled::Success, None), 77.0, "d-2").await;
    let line: serde_json::Value = serde_json::from_str(&lines_of(&house)[2]).unwrap();
    assert_eq!(line["runs"], 26);
}

fn lines_of(house: &House) -> Vec<String> {
    fs::read_to_string(house.home.validations_log()).unwrap().lines().map(str::to_owned).collect()
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
