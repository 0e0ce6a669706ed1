//! The pending file: all that is needed to undo a change, in one text on disk before the change is made.
//!
//! Whoever undoes needs nothing else: no journal, no database, no running daemon. The text carries a checksum, since
//! an undo after a guess would be worse than none.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::facts::{CycleId, Deployment, DeploymentId, Domain, Key, Settings, content_hash};

/// The version of the text that is written of a deployment.
pub const VERSION: u32 = 2;

/// The version of the text that is written of a loan, and the newest that is read: it may ask for a restart.
pub const VERSION_MAX: u32 = 3;

/// The oldest version that it reads: the first one did not say how the service is restarted.
pub const VERSION_MIN: u32 = 1;

/// A change of an env file that is not yet proven.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    /// From [`VERSION_MIN`] to [`VERSION_MAX`].
    pub version: u32,
    /// The deployment.
    pub deployment: DeploymentId,
    /// The cycle it belongs to.
    pub cycle: CycleId,
    /// The domain.
    pub domain: String,
    /// The env file that is changed.
    pub env_file: PathBuf,
    /// Our keys, with what stood there and what we write.
    pub keys: BTreeMap<Key, Held>,
    /// The hash of the whole file before the change.
    pub hash_before: String,
    /// When the change was planned, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// How the service is restarted, found ready and read back; absent in files of the first version.
    #[serde(default)]
    pub how: Option<Domain>,
    /// Whether the service is restarted by whoever undoes, whatever it says: it may still run with an earlier candidate, of
    /// which nothing is written here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub always_restart: bool,
}

/// One key's text before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// The text that stood there, as it stood; `None` when the file did not name the key.
    pub old: Option<String>,
    /// The text that we write.
    pub new: String,
}

/// Why a pending file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PendingProblem {
    /// It is no pending file, or only part of one.
    #[error("the pending file cannot be read")]
    Unreadable(#[source] serde_json::Error),
    /// It was changed or damaged after it was written.
    #[error("the pending file is damaged: its checksum is {found}, {expected} was written")]
    Damaged {
        /// The checksum in the file.
        expected: String,
        /// The checksum of what the file holds.
        found: String,
    },
    /// Another version of kloros wrote it.
    #[error(
        "the pending file has version {0}: use the kloros that wrote it, this one reads versions {VERSION_MIN} to {VERSION_MAX}"
    )]
    OtherVersion(u32),
}

/// The text on disk: what is pending, and the checksum of it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    checksum: String,
    pending: serde_json::Value,
}

/// What undoing a change means, key by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Undo {
    /// What is written back: the old text, or `None` where the key is taken out again.
    pub restore: Vec<(Key, Option<String>)>,
    /// The keys that a person edited meanwhile; they keep that.
    pub kept_human: Vec<Key>,
}

impl Pending {
    /// Returns what is pending while `deployment` changes the env file of `domain`, which holds `current` for its keys and
    /// hashes to `hash_before`.
    pub fn of(
        deployment: &Deployment,
        domain: &Domain,
        current: &BTreeMap<Key, Option<String>>,
        hash_before: String,
    ) -> Self {
        let promotion = &deployment.promotion;
        let held = |(key, change): (&Key, &crate::facts::Change)| {
            (key.clone(), Held { old: current.get(key).cloned().flatten(), new: change.to.to_string() })
        };
        Self {
            version: VERSION,
            deployment: deployment.id.clone(),
            cycle: promotion.cycle.clone(),
            domain: promotion.domain.clone(),
            env_file: domain.service.env_file.clone(),
            keys: promotion.changes.iter().map(held).collect(),
            hash_before,
            at_ms: deployment.at_ms,
            how: Some(domain.clone()),
            always_restart: false,
        }
    }

    /// Returns what is pending while a service that is lent runs with a candidate: the env file of `domain` holds `current`
    /// for these keys and hashes to `hash_before`.
    pub fn of_loan(
        (loan, cycle, at_ms): (&DeploymentId, &CycleId, u64),
        domain: &Domain,
        settings: &Settings,
        current: &BTreeMap<Key, Option<String>>,
        hash_before: String,
    ) -> Self {
        let held = |(key, value): (&Key, &crate::facts::Value)| {
            (key.clone(), Held { old: current.get(key).cloned().flatten(), new: value.to_string() })
        };
        Self {
            version: VERSION_MAX,
            deployment: loan.clone(),
            cycle: cycle.clone(),
            domain: domain.name.clone(),
            env_file: domain.service.env_file.clone(),
            keys: settings.iter().map(held).collect(),
            hash_before,
            at_ms,
            how: Some(domain.clone()),
            always_restart: true,
        }
    }

    /// Returns whether something stood in the env file before the change: a file that is gone is then not as it was.
    pub fn had_a_file(&self) -> bool {
        self.hash_before != content_hash(b"")
    }

    /// Returns the text of the pending file; fails only on an env file whose path is no Unicode.
    pub fn to_text(&self) -> Result<String, PendingProblem> {
        let pending = serde_json::to_value(self).map_err(PendingProblem::Unreadable)?;
        let sealed = Sealed { checksum: checksum(&pending), pending };
        serde_json::to_string_pretty(&sealed).map(|text| text + "\n").map_err(PendingProblem::Unreadable)
    }

    /// Returns what is pending according to `text`, if it is whole and unchanged.
    pub fn from_text(text: &str) -> Result<Self, PendingProblem> {
        let Sealed { checksum: expected, pending } = serde_json::from_str(text).map_err(PendingProblem::Unreadable)?;
        let found = checksum(&pending);
        if found != expected {
            return Err(PendingProblem::Damaged { expected, found });
        }
        // Another version may have other fields, so the version is looked at first.
        let version = pending.get("version").and_then(serde_json::Value::as_u64).unwrap_or_default();
        if !(u64::from(VERSION_MIN)..=u64::from(VERSION_MAX)).contains(&version) {
            return Err(PendingProblem::OtherVersion(u32::try_from(version).unwrap_or(u32::MAX)));
        }
        serde_json::from_value(pending).map_err(PendingProblem::Unreadable)
    }
}

/// The keys of a JSON object are sorted, so equal contents have equal texts.
fn checksum(pending: &serde_json::Value) -> String {
    content_hash(pending.to_string().as_bytes())
}

/// Returns how to undo `pending` in an env file that holds `current` for its keys.
///
/// Each key is compared on its own: where our text still stands the old one is written back, where the old one stands
/// already nothing is to be done, and anything else is a person's edit, which wins. Doing it twice is doing it once.
pub fn undo_plan(pending: &Pending, current: &BTreeMap<Key, Option<String>>) -> Undo {
    let mut undo = Undo::default();
    for (key, held) in &pending.keys {
        let text = current.get(key).and_then(Option::as_deref);
        if text == Some(held.new.as_str()) {
            if held.old.as_deref() != text {
                undo.restore.push((key.clone(), held.old.clone()));
            }
        } else if text != held.old.as_deref() {
            undo.kept_human.push(key.clone());
        }
    }
    undo
}

/// Returns how to make `pending` again, after it was undone, in an env file that holds `current` for its keys: where the
/// old text stands ours is written, and anything else is a person's edit, which wins.
pub fn redo_plan(pending: &Pending, current: &BTreeMap<Key, Option<String>>) -> Vec<(Key, Option<String>)> {
    let is_undone = |key: &Key, held: &Held| current.get(key).and_then(Option::as_deref) == held.old.as_deref();
    let undone = pending.keys.iter().filter(|(key, held)| is_undone(key, held));
    undone.map(|(key, held)| (key.clone(), Some(held.new.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::facts::{Authority, Autonomy, Change, Origin, Promotion, PromotionId, Value};

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn pending(keys: &[(&str, Option<&str>, &str)]) -> Pending {
        Pending {
            version: VERSION,
            deployment: DeploymentId::new("d-1"),
            cycle: CycleId::new("c-1"),
            domain: "lab".into(),
            env_file: PathBuf::from("/var/lib/kloros/.kloros_env"),
            keys: keys
                .iter()
                .map(|(name, old, new)| (key(name), Held { old: old.map(str::to_owned), new: (*new).to_owned() }))
                .collect(),
            hash_before: "0123abcd".into(),
            at_ms: 7,
            how: None,
            always_restart: false,
        }
    }

    fn texts(values: &[(&str, Option<&str>)]) -> BTreeMap<Key, Option<String>> {
        values.iter().map(|(name, text)| (key(name), text.map(str::to_owned))).collect()
    }

    #[test]
    fn each_key_is_undone_only_where_our_value_still_stands() {
        let table = [
            // What stood there, what stands there now, what is written back, whether a person's edit is kept.
            (Some("2"), Some("12"), Some(Some("2")), false),
            (None, Some("12"), Some(None), false),
            (Some("2"), Some("2"), None, false),
            (None, None, None, false),
            (Some("2"), Some("8"), None, true),
            (Some("2"), None, None, true),
            (None, Some("8"), None, true),
            (Some("2"), Some("12.0"), None, true),
            (Some("12"), Some("12"), None, false),
        ];
        for (old, now, restored, is_kept) in table {
            let undo = undo_plan(&pending(&[("A", old, "12")]), &texts(&[("A", now)]));
            let expected = Undo {
                restore: restored.map(|text| (key("A"), text.map(str::to_owned))).into_iter().collect(),
                kept_human: is_kept.then(|| key("A")).into_iter().collect(),
            };
            assert_eq!(undo, expected, "{old:?} {now:?}");
        }
    }

    #[test]
    fn a_persons_edit_of_one_key_does_not_keep_the_others_from_being_undone() {
        let undo = undo_plan(
            &pending(&[("A", Some("1"), "10"), ("B", Some("2"), "20")]),
            &texts(&[("A", Some("5")), ("B", Some("20"))]),
        );
        assert_eq!(undo.restore, [(key("B"), Some("2".to_owned()))]);
        assert_eq!(undo.kept_human, [key("A")]);
    }

    #[test]
    fn a_file_that_is_gone_is_not_made_again() {
        let undo = undo_plan(&pending(&[("A", Some("1"), "10")]), &BTreeMap::new());
        assert_eq!((undo.restore.len(), undo.kept_human.len()), (0, 1));
    }

    #[test]
    fn what_is_pending_holds_the_old_text_as_it_stood() {
        let changes = BTreeMap::from([
            (key("A"), Change { from: Some(Value::Integer(2)), in_file: true, to: Value::Integer(12) }),
            (key("B"), Change { from: Some(Value::Float(0.9)), in_file: false, to: Value::Float(0.5) }),
        ]);
        let promotion = Promotion {
            id: PromotionId::new("p-1"),
            cycle: CycleId::new("c-1"),
            origin: Origin::Person(0),
            experiment: "x".into(),
            question: None,
            hypothesis: None,
            domain: "lab".into(),
            settings: crate::facts::Settings::new(),
            changes,
            replaces: None,
            fitness: None,
            at_ms: 0,
            depth: 0,
        };
        let authority = Authority::Policy(Autonomy::Full);
        let deployment = Deployment { id: DeploymentId::new("d-1"), promotion, authority, at_ms: 7 };
        let mut domain = crate::testing::domain("lab");
        domain.service.env_file = PathBuf::from("/var/lib/kloros/.kloros_env");
        let made = Pending::of(&deployment, &domain, &texts(&[("A", Some("02"))]), "0123abcd".into());
        let expected = pending(&[("A", Some("02"), "12"), ("B", None, "0.5")]);
        assert_eq!(made, Pending { how: Some(domain), ..expected });
        assert_eq!(Pending::from_text(&made.to_text().unwrap()).unwrap(), made);
    }

    #[test]
    fn a_text_that_was_cut_or_changed_is_not_believed() {
        let text = pending(&[("A", Some("2"), "12")]).to_text().unwrap();
        for cut in 0..text.trim_end().len() {
            assert!(Pending::from_text(&text[..cut]).is_err(), "{cut}");
        }
        let changed = text.replace("\"old\": \"2\"", "\"old\": \"3\"");
        assert_ne!(changed, text);
        assert!(matches!(Pending::from_text(&changed), Err(PendingProblem::Damaged { .. })));
        assert!(matches!(Pending::from_text(""), Err(PendingProblem::Unreadable(_))));
    }

    #[test]
    fn another_version_is_named_and_not_guessed_at() {
        for other in [0, VERSION_MAX + 1] {
            let text = Pending { version: other, ..pending(&[]) }.to_text().unwrap();
            assert!(matches!(Pending::from_text(&text), Err(PendingProblem::OtherVersion(found)) if found == other));
        }
    }

    #[test]
    fn a_file_of_the_first_version_is_still_read() {
        let first = Pending { version: 1, ..pending(&[("A", Some("2"), "12")]) };
        let mut old = serde_json::to_value(&first).unwrap();
        old.as_object_mut().unwrap().remove("how");
        let text = serde_json::json!({"checksum": checksum(&old), "pending": old}).to_string();
        assert_eq!(Pending::from_text(&text).unwrap(), first);
    }

    #[test]
    fn what_was_undone_is_made_again_only_where_the_old_text_stands() {
        let pending = pending(&[("A", Some("2"), "12"), ("B", None, "5"), ("C", Some("1"), "9")]);
        let now = texts(&[("A", Some("2")), ("B", None), ("C", Some("7"))]);
        let expected = [(key("A"), Some("12".to_owned())), (key("B"), Some("5".to_owned()))];
        assert_eq!(redo_plan(&pending, &now), expected);
    }

    fn any_text() -> impl Strategy<Value = Option<String>> {
        prop::option::of("[0-3]")
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back_as_it_was(
            keys in prop::collection::btree_map("[A-Z_][A-Z0-9_]{0,8}", (prop::option::of(any::<String>()), any::<String>()), 0..5),
            hash in any::<String>(),
            at_ms in any::<u64>(),
        ) {
            let keys = keys.into_iter().map(|(name, (old, new))| (key(&name), Held { old, new })).collect();
            let pending = Pending { keys, hash_before: hash, at_ms, ..pending(&[]) };
            prop_assert_eq!(Pending::from_text(&pending.to_text().unwrap()).unwrap(), pending);
        }

        #[test]
        fn after_an_undo_none_of_our_values_stands_where_it_did_not_before_and_every_edit_still_does(
            keys in prop::collection::btree_map("[A-D]", (any_text(), "[0-3]", any_text()), 0..4),
        ) {
            let held = keys.iter().map(|(name, (old, new, _))| (key(name), Held { old: old.clone(), new: new.clone() }));
            let pending = Pending { keys: held.collect(), ..pending(&[]) };
            let before = keys.iter().map(|(name, (_, _, now))| (key(name), now.clone())).collect::<BTreeMap<_, _>>();
            let undo = undo_plan(&pending, &before);
            let mut after = before.clone();
            after.extend(undo.restore);
            for (key, held) in &pending.keys {
                let is_ours = before[key].as_ref() == Some(&held.new);
                prop_assert_eq!(&after[key], if is_ours { &held.old } else { &before[key] });
            }
            prop_assert_eq!(undo_plan(&pending, &after).restore, []);
        }
    }
}
