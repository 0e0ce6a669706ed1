//! Every metric of the loop: name, unit, help, closed label sets.

pub mod gpu;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Readings that monitors took.
pub const READINGS_TOTAL: &str = "kloros_readings_total";
/// Probes that answered at their last turn, as 1, or did not, as 0.
pub const PROBE_UP: &str = "kloros_probe_up";
/// Anomalies by kind.
pub const ANOMALIES_TOTAL: &str = "kloros_anomalies_total";
/// Questions asked.
pub const QUESTIONS_TOTAL: &str = "kloros_questions_total";
/// Questions that were not asked, by reason.
pub const QUESTIONS_WITHHELD_TOTAL: &str = "kloros_questions_withheld_total";
/// Intents by outcome.
pub const INTENTS_TOTAL: &str = "kloros_intents_total";
/// Experiments by end.
pub const EXPERIMENTS_TOTAL: &str = "kloros_experiments_total";
/// Experiments under way.
pub const EXPERIMENTS_RUNNING: &str = "kloros_experiments_running";
/// Trials by result.
pub const TRIALS_TOTAL: &str = "kloros_trials_total";
/// How long a trial took.
pub const TRIAL_DURATION: &str = "kloros_trial_duration_seconds";
/// Rulings of the gate.
pub const RULINGS_TOTAL: &str = "kloros_rulings_total";
/// Promotions that wait for a person.
pub const APPROVALS_PENDING: &str = "kloros_approvals_pending";
/// Promotions that wait for something that no approval replaces.
pub const PROMOTIONS_HELD: &str = "kloros_promotions_held";
/// Whether a person stopped everything, as 1, or not, as 0.
pub const STOPPED: &str = "kloros_stopped";
/// The autonomy level in force.
pub const AUTONOMY_LEVEL: &str = "kloros_autonomy_level";
/// Deployments begun.
pub const DEPLOYMENTS_TOTAL: &str = "kloros_deployments_total";
/// Domains whose undo failed and that wait for a person.
pub const DOMAINS_STUCK: &str = "kloros_domains_stuck";
/// Verdicts by outcome.
pub const VERDICTS_TOTAL: &str = "kloros_verdicts_total";
/// Verdicts of a rollback by reason.
pub const ROLLBACKS_TOTAL: &str = "kloros_rollbacks_total";
/// The improvement of the last verdict that could be measured.
pub const IMPROVEMENT_RATIO: &str = "kloros_last_improvement_ratio";
/// Lessons learned.
pub const LESSONS_TOTAL: &str = "kloros_lessons_total";
/// Facts that could not be made durable.
pub const JOURNAL_FAILURES_TOTAL: &str = "kloros_journal_failures_total";
/// Restarts of rooms.
pub const ROOM_RESTARTS_TOTAL: &str = "kloros_room_restarts_total";
/// Rooms that are up, as 1, or not, as 0.
pub const ROOM_UP: &str = "kloros_room_up";
/// Messages that wait for a room.
pub const ROOM_MAILBOX_DEPTH: &str = "kloros_room_mailbox_depth";

/// Gives every metric its unit and help text, and every counter with a closed label set its zero, so that a rate sees
/// the first event.
pub fn describe() {
    use crate::facts::Ruled;

    describe_counter!(READINGS_TOTAL, "Readings that monitors took.");
    describe_gauge!(PROBE_UP, "Whether the probe answered at its last turn.");
    describe_counter!(ANOMALIES_TOTAL, "Anomalies noticed, by kind.");
    describe_counter!(QUESTIONS_TOTAL, "Questions asked.");
    describe_counter!(QUESTIONS_WITHHELD_TOTAL, "Anomalies that raised no question, by reason.");
    describe_counter!(INTENTS_TOTAL, "Intents routed, by outcome.");
    describe_counter!(EXPERIMENTS_TOTAL, "Experiments ended, by end.");
    describe_gauge!(EXPERIMENTS_RUNNING, "Experiments under way.");
    describe_counter!(TRIALS_TOTAL, "Candidates tried, by result.");
    describe_histogram!(TRIAL_DURATION, Unit::Seconds, "How long a trial took, from start to stop of its instance.");
    describe_counter!(RULINGS_TOTAL, "Rulings of the gate, by ruling.");
    describe_gauge!(APPROVALS_PENDING, "Promotions that wait for a person.");
    describe_gauge!(PROMOTIONS_HELD, "Promotions that wait for something that no approval replaces.");
    describe_gauge!(STOPPED, "Whether a person stopped everything.");
    describe_gauge!(AUTONOMY_LEVEL, "The autonomy level in force, 0 to 3.");
    describe_counter!(DEPLOYMENTS_TOTAL, "Deployments begun.");
    describe_gauge!(DOMAINS_STUCK, "Domains whose undo failed and that wait for a person.");
    describe_counter!(VERDICTS_TOTAL, "Verdicts, by outcome.");
    describe_counter!(ROLLBACKS_TOTAL, "Deployments undone, by reason.");
    describe_gauge!(IMPROVEMENT_RATIO, "The improvement of the last verdict that could be measured, as a ratio.");
    describe_counter!(LESSONS_TOTAL, "Lessons learned.");
    describe_counter!(JOURNAL_FAILURES_TOTAL, "Facts that could not be made durable.");
    describe_counter!(ROOM_RESTARTS_TOTAL, "Restarts of rooms, by room.");
    kloros_supervision::describe_metrics();
    gpu::describe();
    describe_gauge!(ROOM_UP, "Whether the room is up.");
    describe_gauge!(ROOM_MAILBOX_DEPTH, "Messages that wait for the room.");

    for counter in [READINGS_TOTAL, QUESTIONS_TOTAL, DEPLOYMENTS_TOTAL, LESSONS_TOTAL, JOURNAL_FAILURES_TOTAL] {
        metrics::counter!(counter).absolute(0);
    }
    for ruled in [Ruled::Success, Ruled::Neutral, Ruled::Rollback] {
        metrics::counter!(VERDICTS_TOTAL, "outcome" => ruled.label()).absolute(0);
    }
    for end in ["won", "no_better", "void"] {
        metrics::counter!(EXPERIMENTS_TOTAL, "end" => end).absolute(0);
    }
    for ruling in ["allow", "ask", "refuse", "hold", "advise"] {
        metrics::counter!(RULINGS_TOTAL, "ruling" => ruling).absolute(0);
    }
}
