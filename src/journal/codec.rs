//! How a fact stands in a row, and how a row that changed on disk is found out.

use kloros_actors::facts::{CycleId, Entry, Fact, Kind, Recorded};
use rusqlite::Row;
use sha2::{Digest as _, Sha256};

use super::fault::Fault;

/// The largest fact, as JSON, in bytes.
pub(super) const BODY_BYTES_MAX: usize = 8 << 20;

/// The columns that [`decode`] reads, in its order.
pub(super) const COLUMNS: &str = "seq, cycle, at_ms, kind, subject, once, body, digest";

/// A fact in the form of a row that has no place yet.
pub(super) struct Encoded {
    pub(super) cycle: String,
    pub(super) at_ms: i64,
    pub(super) kind: Kind,
    pub(super) subject: String,
    pub(super) once: Option<String>,
    pub(super) body: String,
    /// The fact as a reader of the row will see it.
    fact: Fact,
}

impl Encoded {
    /// Returns the row of `entry`, or why it cannot be written.
    pub(super) fn of(entry: Entry) -> Result<Self, Fault> {
        let kind = entry.fact.kind();
        let refused = |why: &str| Fault::Unwritable(format!("a fact of kind {} is refused: {why}", kind.label()));
        let text = serde_json::to_string(&entry.fact).map_err(|error| refused(&error.to_string()))?;
        let body = text
            .strip_prefix(&before_body(kind.label()))
            .and_then(|rest| rest.strip_suffix('}'))
            .ok_or_else(|| refused("it is not written as kind and body"))?;
        if body.len() > BODY_BYTES_MAX {
            return Err(refused(&format!("it has {} bytes, at most {BODY_BYTES_MAX} are kept", body.len())));
        }
        // JSON knows no NaN. A fact that can be written but not read would damage the journal for good, so each is
        // read back before it is kept. The files are made of what was read back, live as well as in a rebuild.
        let fact = serde_json::from_str(&text)
            .map_err(|error| refused(&format!("it cannot be read back, a number in it is not finite: {error}")))?;
        let at_ms = i64::try_from(entry.at_ms).map_err(|_| refused("its time is beyond all calendars"))?;
        Ok(Self {
            cycle: entry.cycle.as_str().to_owned(),
            at_ms,
            kind,
            subject: entry.fact.subject().to_owned(),
            once: entry.once,
            body: body.to_owned(),
            fact,
        })
    }

    /// Returns the digest of the row at the place `seq`.
    pub(super) fn digest(&self, seq: i64) -> i64 {
        let once = self.once.as_deref();
        digest(seq, &self.cycle, self.at_ms, self.kind.label(), &self.subject, once, &self.body)
    }

    /// Returns the fact at the place `seq`.
    pub(super) fn recorded(self, seq: i64) -> Recorded {
        Recorded {
            seq: seq.cast_unsigned(),
            cycle: CycleId::new(self.cycle),
            at_ms: self.at_ms.cast_unsigned(),
            fact: self.fact,
        }
    }
}

/// Returns the fact in a row with [`COLUMNS`], or what is wrong with the row.
pub(super) fn decode(row: &Row<'_>) -> rusqlite::Result<Result<Recorded, String>> {
    let (seq, at_ms, found): (i64, i64, i64) = (row.get(0)?, row.get(2)?, row.get(7)?);
    let text = |column: usize| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
    let (cycle, kind, subject, body) = (text(1)?, text(3)?, text(4)?, text(6)?);
    let once: Option<String> = row.get(5)?;
    if digest(seq, cycle, at_ms, kind, subject, once.as_deref(), body) != found {
        return Ok(Err(format!("fact {seq} is not what was written")));
    }
    let text = format!("{}{body}}}", before_body(kind));
    Ok(serde_json::from_str(&text)
        .map(|fact| Recorded {
            seq: seq.cast_unsigned(),
            cycle: CycleId::new(cycle),
            at_ms: at_ms.cast_unsigned(),
            fact,
        })
        .map_err(|error| format!("fact {seq} of kind {kind} cannot be read: {error}")))
}

fn before_body(kind: &str) -> String {
    format!(r#"{{"kind":"{kind}","body":"#)
}

/// Returns the first eight bytes of the SHA-256 of a row. The database has no checksums of its own, so it would take a
/// flipped bit inside a text for the text.
fn digest(seq: i64, cycle: &str, at_ms: i64, kind: &str, subject: &str, once: Option<&str>, body: &str) -> i64 {
    let mut hash = Sha256::new();
    hash.update(seq.to_le_bytes());
    hash.update(at_ms.to_le_bytes());
    hash.update([u8::from(once.is_some())]);
    for text in [cycle, kind, subject, once.unwrap_or_default(), body] {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
    let mut first = [0; 8];
    for (to, from) in first.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    i64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use kloros_actors::facts::{Anomaly, AnomalyKind, Turn};

    use super::*;

    #[test]
    fn a_fact_with_a_number_that_is_not_finite_is_refused_rather_than_kept_unreadable() {
        let cycle = CycleId::new("c-1");
        for score in [f64::NAN, f64::INFINITY] {
            let anomaly = Anomaly {
                cycle: cycle.clone(),
                subject: "lab".into(),
                metric: "e2e_p95_ms".into(),
                kind: AnomalyKind::Deviation,
                observed: 2.0,
                expected: 1.0,
                spread: 0.1,
                score,
                samples: 10,
                source: "test".into(),
                at_ms: 1,
                depth: 0,
                incident: String::new(),
                evidence: Vec::new(),
                surge: None,
            };
            let refused = Encoded::of(Entry::new(&cycle, 1, Fact::Anomaly(anomaly)));
            assert!(matches!(refused, Err(Fault::Unwritable(why)) if why.contains("anomaly")));
        }
    }

    #[test]
    fn a_fact_that_is_too_large_is_refused() {
        let cycle = CycleId::new("c-1");
        let turn = Turn { conversation: "t".into(), from_user: true, text: "x".repeat(BODY_BYTES_MAX), at_ms: 1 };
        assert!(Encoded::of(Entry::new(&cycle, 1, Fact::Turn(turn))).is_err());
    }

    #[test]
    fn a_digest_differs_when_a_letter_moves_into_the_neighbour_or_a_name_becomes_absent() {
        let one = digest(1, "ab", 1, "turn", "c", None, "{}");
        assert_ne!(one, digest(1, "a", 1, "turn", "bc", None, "{}"));
        assert_ne!(one, digest(1, "ab", 1, "turn", "c", Some(""), "{}"));
        assert_ne!(one, digest(2, "ab", 1, "turn", "c", None, "{}"));
    }
}
