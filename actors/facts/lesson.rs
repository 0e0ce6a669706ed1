use serde::{Deserialize, Serialize};

use super::{CycleId, QuestionId, Verdict};

/// What a verdict teaches: exactly one each, neutral ones too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lesson {
    /// The cycle it ends.
    pub cycle: CycleId,
    /// The domain.
    pub domain: String,
    /// The question it answers, if one was asked.
    pub question: Option<QuestionId>,
    /// What the question suspected, if one was asked.
    pub hypothesis: Option<String>,
    /// The fingerprint of the settings that were tried.
    pub fingerprint: String,
    /// The verdict it was learned from.
    pub verdict: Verdict,
    /// How much the interest in such questions moves, -1 to 1.
    pub interest_change: f64,
    /// Until when such a question rests, in milliseconds since the Unix epoch.
    pub rest_until_ms: u64,
    /// Whether these settings are not to be deployed again without a person.
    pub avoid: bool,
    /// The lesson in one sentence.
    pub says: String,
}
