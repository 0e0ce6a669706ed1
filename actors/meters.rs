//! Every metric of the loop: name, unit, help, closed label sets.

pub mod gpu;

pub mod host;

pub mod stage;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Readings that monitors took.
pub const READINGS_TOTAL: &str = "kloros_readings_total";
/// Probes that answered at their last turn, as 1, or did not, as 0.
pub const PROBE_UP: &str = "kloros_probe_up";
/// Anomalies by kind.
pub const ANOMALIES_TOTAL: &str = "kloros_anomalies_total";
/// Series that are watched.
pub const SERIES_WATCHED: &str = "kloros_series_watched";
/// Incidents that are open.
pub const INCIDENTS_OPEN: &str = "kloros_incidents_open";
/// Readings of series beyond the limit.
pub const READINGS_CUT_TOTAL: &str = "kloros_readings_cut_total";
/// Deviations that a surge of load explains.
pub const DEVIATIONS_EXPLAINED_TOTAL: &str = "kloros_deviations_explained_total";
/// Incidents that began in a time of silence.
pub const INCIDENTS_SILENCED_TOTAL: &str = "kloros_incidents_silenced_total";
/// Questions asked.
pub const QUESTIONS_TOTAL: &str = "kloros_questions_total";
/// Questions that were not asked, by reason.
pub const QUESTIONS_WITHHELD_TOTAL: &str = "kloros_questions_withheld_total";
/// Intents by outcome.
pub const INTENTS_TOTAL: &str = "kloros_intents_total";
/// Files of the inboxes that were refused and set aside.
pub const INBOX_REFUSED_TOTAL: &str = "kloros_inbox_refused_total";
/// Experiments by end.
pub const EXPERIMENTS_TOTAL: &str = "kloros_experiments_total";
/// Experiments under way.
pub const EXPERIMENTS_RUNNING: &str = "kloros_experiments_running";
/// Trials by result.
pub const TRIALS_TOTAL: &str = "kloros_trials_total";
/// Trials that were ended for the serving instance.
pub const TRIALS_YIELDED_TOTAL: &str = "kloros_trials_yielded_total";
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
/// Services lent to experiments, to be measured in place.
pub const LOANS_TOTAL: &str = "kloros_loans_total";
/// Services that were lent and whose own settings could not be brought back yet.
pub const LOANS_STUCK: &str = "kloros_loans_stuck";
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
/// How long a transaction of the journal takes until it is durable, whether it succeeds or not.
pub const JOURNAL_COMMIT_DURATION: &str = "kloros_journal_commit_duration_seconds";
/// Reloads of the settings by outcome.
pub const CONFIG_RELOADS_TOTAL: &str = "kloros_config_reloads_total";
/// Whether the last reload came into force, as 1, or not, as 0.
pub const CONFIG_LAST_RELOAD_SUCCESSFUL: &str = "kloros_config_last_reload_successful";
/// Notices to persons, by what became of them.
pub const NOTICES_TOTAL: &str = "kloros_notices_total";
/// Traces of cycles, by what became of them.
pub const TRACES_TOTAL: &str = "kloros_traces_total";
/// When settings came into force last.
pub const CONFIG_RELOADED_AT: &str = "kloros_config_last_reload_success_timestamp_seconds";
/// Restarts of rooms.
pub const ROOM_RESTARTS_TOTAL: &str = "kloros_room_restarts_total";
/// Rooms that are up, as 1, or not, as 0.
pub const ROOM_UP: &str = "kloros_room_up";
/// Requests of conversations by outcome.
pub const CONVERSATION_REQUESTS_TOTAL: &str = "kloros_conversation_requests_total";
/// From a request to its whole answer.
pub const CONVERSATION_DURATION: &str = "kloros_conversation_duration_seconds";
/// From a request to the first piece of its answer.
pub const CONVERSATION_FIRST_PIECE: &str = "kloros_conversation_first_piece_seconds";
/// What kloros adds to a request before it is sent on.
pub const CONVERSATION_ADDED: &str = "kloros_conversation_added_seconds";
/// Tokens of answers.
pub const CONVERSATION_TOKENS_TOTAL: &str = "kloros_conversation_tokens_total";
/// Requests that were not answered because the model server failed.
pub const CONVERSATION_ERRORS_TOTAL: &str = "kloros_conversation_errors_total";
/// Answers that said again what was said.
pub const CONVERSATION_REPETITIONS_TOTAL: &str = "kloros_conversation_repetitions_total";
/// Requests for which something was found that has to do with what is asked.
pub const CONVERSATION_HITS_TOTAL: &str = "kloros_conversation_context_hits_total";
/// Requests that went on without memory.
pub const CONVERSATION_FORGETFUL_TOTAL: &str = "kloros_conversation_without_memory_total";
/// Requests under way.
pub const CONVERSATION_IN_FLIGHT: &str = "kloros_conversation_in_flight";
/// Failures of the conversation memory.
pub const MEMORY_FAILURES_TOTAL: &str = "kloros_memory_failures_total";
/// Messages that wait for a room.
pub const ROOM_MAILBOX_DEPTH: &str = "kloros_room_mailbox_depth";
/// Messages that a room has handled.
pub const ROOM_HANDLED_TOTAL: &str = "kloros_room_handled_total";
/// Messages that were lost with incarnations of a room.
pub const ROOM_LOST_TOTAL: &str = "kloros_room_lost_messages_total";
/// Share of its life that a room was busy.
pub const ROOM_BUSY_RATIO: &str = "kloros_room_busy_ratio";
/// How long a room has been busy with its current message.
pub const ROOM_BUSY_SECONDS: &str = "kloros_room_busy_seconds";
/// Times that a room was ended because it made no progress.
pub const ROOM_STALLS_TOTAL: &str = "kloros_room_stalls_total";
/// How long a stage of the loop took, by stage and outcome.
pub const STAGE_DURATION: &str = "kloros_stage_duration_seconds";
/// What is under way in a stage of the loop.
pub const STAGE_OPEN: &str = "kloros_stage_open";
/// For how long the oldest has been under way in a stage of the loop.
pub const STAGE_OLDEST_AGE: &str = "kloros_stage_oldest_age_seconds";

/// The kinds of anomalies.
pub const ANOMALY_KINDS: [&str; 3] = ["deviation", "objective", "pressure"];
/// Why an anomaly, or idle time, raises no question.
pub const WITHHELD: [&str; 10] =
    ["too_deep", "own_doing", "open", "resting", "no_experiment", "left_alone", "dull", "parked", "too_many", "down"];
/// What becomes of intents.
pub const INTENT_OUTCOMES: [&str; 5] = ["experiment", "proposal", "waiting", "duplicate", "refused"];

/// Gives every metric its unit and help text, and every counter with a closed label set its zero, so that a rate sees
/// the first event.
pub fn describe() {
    describe_counter!(READINGS_TOTAL, "Readings that monitors took.");
    describe_gauge!(PROBE_UP, "Whether the probe answered at its last turn.");
    describe_counter!(ANOMALIES_TOTAL, "Anomalies noticed, by kind.");
    describe_gauge!(SERIES_WATCHED, "Series that are watched.");
    describe_gauge!(INCIDENTS_OPEN, "Incidents that are open.");
    describe_counter!(READINGS_CUT_TOTAL, "Readings that were left alone because too many series are watched already.");
    describe_counter!(DEVIATIONS_EXPLAINED_TOTAL, "Deviations that a surge of load explains.");
    describe_counter!(INCIDENTS_SILENCED_TOTAL, "Incidents that began in a time of silence.");
    describe_counter!(QUESTIONS_TOTAL, "Questions asked.");
    describe_counter!(QUESTIONS_WITHHELD_TOTAL, "Anomalies that raised no question, by reason.");
    describe_counter!(INTENTS_TOTAL, "Intents routed, by outcome.");
    describe_counter!(INBOX_REFUSED_TOTAL, "Files of the inboxes that were refused and set aside.");
    describe_counter!(EXPERIMENTS_TOTAL, "Experiments ended, by end.");
    describe_gauge!(EXPERIMENTS_RUNNING, "Experiments under way.");
    describe_counter!(TRIALS_TOTAL, "Candidates tried, by result.");
    describe_counter!(TRIALS_YIELDED_TOTAL, "Trials ended for the serving instance.");
    describe_histogram!(TRIAL_DURATION, Unit::Seconds, "How long a trial took, from start to stop of its instance.");
    describe_counter!(RULINGS_TOTAL, "Rulings of the gate, by ruling.");
    describe_gauge!(APPROVALS_PENDING, "Promotions that wait for a person.");
    describe_gauge!(PROMOTIONS_HELD, "Promotions that wait for something that no approval replaces.");
    describe_gauge!(STOPPED, "Whether a person stopped everything.");
    describe_gauge!(AUTONOMY_LEVEL, "The autonomy level in force in the domain, 0 to 3.");
    describe_counter!(DEPLOYMENTS_TOTAL, "Deployments begun.");
    describe_counter!(LOANS_TOTAL, "Services lent to experiments, to be measured in place.");
    describe_gauge!(LOANS_STUCK, "Services that were lent and whose own settings are not back.");
    describe_gauge!(DOMAINS_STUCK, "Domains whose undo failed and that wait for a person.");
    describe_counter!(VERDICTS_TOTAL, "Verdicts, by outcome.");
    describe_counter!(ROLLBACKS_TOTAL, "Deployments undone, by reason.");
    describe_gauge!(IMPROVEMENT_RATIO, "The improvement of the last verdict that could be measured, as a ratio.");
    describe_counter!(LESSONS_TOTAL, "Lessons learned.");
    describe_counter!(JOURNAL_FAILURES_TOTAL, "Facts that could not be made durable.");
    let what = "How long a transaction of the journal takes until it is durable.";
    describe_histogram!(JOURNAL_COMMIT_DURATION, Unit::Seconds, what);
    drop(metrics::histogram!(JOURNAL_COMMIT_DURATION));
    describe_counter!(CONFIG_RELOADS_TOTAL, "Times that changed settings were read, by outcome.");
    describe_gauge!(CONFIG_LAST_RELOAD_SUCCESSFUL, "Whether the settings were in order when they were read last.");
    describe_gauge!(CONFIG_RELOADED_AT, Unit::Seconds, "When settings came into force last, since the Unix epoch.");
    describe_rooms();
    describe_stages();
    describe_conversations();
    describe_told();
    kloros_supervision::describe_metrics();
    gpu::describe();
    host::describe();
    zeros();
}

fn describe_rooms() {
    describe_gauge!(ROOM_UP, "Whether the room is up.");
    describe_counter!(ROOM_RESTARTS_TOTAL, "Restarts of rooms, by room.");
    describe_gauge!(ROOM_MAILBOX_DEPTH, "Messages that wait for the room.");
    describe_counter!(ROOM_HANDLED_TOTAL, "Messages that the room has handled.");
    describe_counter!(ROOM_LOST_TOTAL, "Messages that were lost when the room failed.");
    describe_gauge!(ROOM_BUSY_RATIO, "Share of its life since its last start that the room was busy.");
    describe_gauge!(ROOM_BUSY_SECONDS, Unit::Seconds, "How long the room has been busy with its current message.");
    describe_counter!(ROOM_STALLS_TOTAL, "Times that the room was ended because it made no progress.");
}

fn describe_stages() {
    describe_histogram!(STAGE_DURATION, Unit::Seconds, "How long a stage of the loop took, by stage and outcome.");
    describe_gauge!(STAGE_OPEN, "What is under way in the stage.");
    describe_gauge!(STAGE_OLDEST_AGE, Unit::Seconds, "For how long the oldest has been under way in the stage.");
    for (stage, outcomes) in stage::OUTCOMES {
        for outcome in outcomes {
            // Named is enough for it to be there with nothing in it.
            drop(metrics::histogram!(STAGE_DURATION, "stage" => stage, "outcome" => *outcome));
        }
    }
}

/// Gives each counter with a closed label set its zero.
fn zeros() {
    use crate::facts::{FailureKind, Reason, Ruled};

    for counter in [
        READINGS_TOTAL,
        QUESTIONS_TOTAL,
        DEPLOYMENTS_TOTAL,
        LOANS_TOTAL,
        LESSONS_TOTAL,
        JOURNAL_FAILURES_TOTAL,
        INBOX_REFUSED_TOTAL,
        READINGS_CUT_TOTAL,
        DEVIATIONS_EXPLAINED_TOTAL,
        INCIDENTS_SILENCED_TOTAL,
    ] {
        metrics::counter!(counter).absolute(0);
    }
    for kind in ANOMALY_KINDS {
        metrics::counter!(ANOMALIES_TOTAL, "kind" => kind).absolute(0);
    }
    for reason in WITHHELD {
        metrics::counter!(QUESTIONS_WITHHELD_TOTAL, "reason" => reason).absolute(0);
    }
    for outcome in INTENT_OUTCOMES {
        metrics::counter!(INTENTS_TOTAL, "outcome" => outcome).absolute(0);
    }
    for result in FailureKind::ALL.map(FailureKind::label).into_iter().chain(["measured"]) {
        metrics::counter!(TRIALS_TOTAL, "result" => result).absolute(0);
    }
    metrics::counter!(TRIALS_YIELDED_TOTAL).absolute(0);
    for reason in Reason::AGAINST {
        metrics::counter!(ROLLBACKS_TOTAL, "reason" => reason).absolute(0);
    }
    for stuck in [DOMAINS_STUCK, LOANS_STUCK] {
        metrics::gauge!(stuck).set(0.0);
    }
    for outcome in ["applied", "refused"] {
        metrics::counter!(CONFIG_RELOADS_TOTAL, "outcome" => outcome).absolute(0);
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

fn describe_told() {
    describe_counter!(NOTICES_TOTAL, "Notices to persons, by outcome.");
    describe_counter!(TRACES_TOTAL, "Traces of cycles, by outcome.");
    for outcome in ["sent", "failed", "left_out"] {
        metrics::counter!(NOTICES_TOTAL, "outcome" => outcome).absolute(0);
    }
    for outcome in ["sent", "failed"] {
        metrics::counter!(TRACES_TOTAL, "outcome" => outcome).absolute(0);
    }
}

/// Describes the metrics of conversations, each of them there from zero.
pub fn describe_conversations() {
    describe_counter!(CONVERSATION_REQUESTS_TOTAL, "Requests of conversations, by outcome.");
    describe_histogram!(CONVERSATION_DURATION, Unit::Seconds, "From a request to its whole answer.");
    describe_histogram!(CONVERSATION_FIRST_PIECE, Unit::Seconds, "From a request to the first piece of its answer.");
    describe_histogram!(CONVERSATION_ADDED, Unit::Seconds, "What is added to a request before it is sent on.");
    describe_counter!(CONVERSATION_TOKENS_TOTAL, "Tokens of answers, as the upstream counts them, else its pieces.");
    describe_counter!(CONVERSATION_ERRORS_TOTAL, "Requests not answered because the model server failed.");
    describe_counter!(CONVERSATION_REPETITIONS_TOTAL, "Answers that said again what was said.");
    describe_counter!(CONVERSATION_HITS_TOTAL, "Requests for which something relevant was found.");
    describe_counter!(CONVERSATION_FORGETFUL_TOTAL, "Requests that went on without memory.");
    describe_gauge!(CONVERSATION_IN_FLIGHT, "Requests of conversations under way.");
    describe_counter!(MEMORY_FAILURES_TOTAL, "Failures of the conversation memory, by what it was to do.");
    for outcome in ["answered", "broken", "refused", "upstream", "timeout"] {
        metrics::counter!(CONVERSATION_REQUESTS_TOTAL, "outcome" => outcome).absolute(0);
    }
    for what in ["keep", "look", "tidy"] {
        metrics::counter!(MEMORY_FAILURES_TOTAL, "what" => what).absolute(0);
    }
    for counter in [
        CONVERSATION_TOKENS_TOTAL,
        CONVERSATION_ERRORS_TOTAL,
        CONVERSATION_REPETITIONS_TOTAL,
        CONVERSATION_HITS_TOTAL,
        CONVERSATION_FORGETFUL_TOTAL,
    ] {
        metrics::counter!(counter).absolute(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is counted under a label that has no zero is not seen the first time.
    #[track_caller]
    fn check(source: &str, call: &str, known: &[&str]) {
        let named: Vec<&str> = source.split(call).skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(!named.is_empty() && named.iter().all(|label| known.contains(label)), "{call}: {named:?}");
    }

    #[test]
    fn each_label_that_is_counted_has_its_zero() {
        check(include_str!("coordinator/actor.rs"), "count(\"", &INTENT_OUTCOMES);
        check(include_str!("curiosity/actor.rs"), "&suspected, \"", &WITHHELD);
        check(include_str!("curiosity/actor.rs"), "\"reason\" => \"", &WITHHELD);
        check(include_str!("curiosity/interest.rs"), "Some(\"", &WITHHELD);
        let reasons = include_str!("facts/verdict.rs").split_once("Reason::InBetween => \"in_between\",").unwrap().1;
        let reasons = reasons.split_once("\n    }\n").unwrap().0;
        check(reasons, " => \"", &crate::facts::Reason::AGAINST);
        check(include_str!("observer/actor.rs"), "AnomalyKind::Deviation => \"", &ANOMALY_KINDS);
        check(include_str!("observer/actor.rs"), "AnomalyKind::Objective => \"", &ANOMALY_KINDS);
        check(include_str!("observer/actor.rs"), "AnomalyKind::Pressure => \"", &ANOMALY_KINDS);
    }
}
