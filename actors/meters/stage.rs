//! The stages of the loop, and how each can end: the closed sets behind the metrics of how long they take.

/// A question, from being asked to its end.
pub const QUESTION: &str = "question";
/// An experiment, from its beginning to its end.
pub const EXPERIMENT: &str = "experiment";
/// A promotion, from being proposed to the change that it allows, or to a no.
pub const PERMISSION: &str = "permission";
/// A change, from being begun to being live and measured.
pub const DEPLOYMENT: &str = "deployment";
/// A change that is live, from its first measurement to its verdict.
pub const VALIDATION: &str = "validation";

/// The stages in the order of the loop, each with its outcomes; what an older or newer kloros wrote is `other`.
pub const OUTCOMES: [(&str, &[&str]); 5] = [
    (
        QUESTION,
        &[
            "deployed",
            "rolled_back",
            "no_better",
            "void",
            "refused",
            "expired",
            "advised",
            "deferred",
            "overtaken",
            "other",
        ],
    ),
    (EXPERIMENT, &["won", "no_better", "void"]),
    (PERMISSION, &["allowed", "refused", "expired", "advised", "replaced"]),
    (DEPLOYMENT, &["live", "given_up"]),
    (VALIDATION, &["success", "neutral", "rollback"]),
];

/// Returns the outcome as one of those that `stage` can have.
pub fn known(stage: &str, outcome: &str) -> &'static str {
    let of = OUTCOMES.iter().find(|(each, _)| *each == stage).map_or(&[][..], |(_, outcomes)| outcomes);
    of.iter().find(|each| **each == outcome).copied().unwrap_or("other")
}
