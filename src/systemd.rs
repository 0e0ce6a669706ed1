//! What systemd is told, where it started the daemon: that it is ready, that it lives, and in words what it does.
//!
//! Without systemd all of it is nothing. "Alive" means that a heartbeat went through the mailbox of every vital room: a timer that
//! says so on its own would prove no more than that timers run.

use std::time::Duration;

use kloros_actors::{
    circuit::Control,
    facts::{Fact, Recorded},
};
use sd_notify::NotifyState;
use tokio::time::MissedTickBehavior;

/// How many heartbeats go into the time after which systemd gives up, so that a late one is no death.
const BEATS: u32 = 3;

/// How often it is looked where no watchdog is set: what is stuck is logged all the same.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Says that everything is up.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("watching")]);
}

/// Says that the end has begun.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("taking back what is not proven, then ending")]);
}

/// Says in words what goes on.
fn status(words: &str) {
    tell(&[NotifyState::Status(words)]);
}

/// Says what goes on from this fact on, where it changes that.
pub(crate) fn tell_of(recorded: &Recorded) {
    if let Some(words) = words(recorded) {
        status(&words);
    }
}

fn words(recorded: &Recorded) -> Option<String> {
    match &recorded.fact {
        Fact::Question(question) => Some(format!("asking {}", question.hypothesis)),
        Fact::Experiment(experiment) => Some(format!("measuring candidates for {}", experiment.spec.domain)),
        Fact::Deployment(deployment) => Some(format!("deploying {} in {}", deployment.id, deployment.promotion.domain)),
        Fact::Run { deployment, .. } => Some(format!("judging {deployment}")),
        Fact::Verdict(verdict) => Some(format!("watching; last verdict: {} for {}", verdict.outcome, verdict.domain)),
        Fact::ExperimentEnd(_) | Fact::QuestionEnd(_) => Some("watching".to_owned()),
        Fact::Switch(switch) => Some(match &switch.stop {
            Some(stop) => format!("stopped: {stop}"),
            None => "watching".to_owned(),
        }),
        _ => None,
    }
}

/// Feeds systemd's watchdog for as long as every vital room sends heartbeats back.
pub(crate) async fn feed(control: Control) -> Result<(), String> {
    let limit = sd_notify::watchdog_enabled();
    let every = limit.map_or(LOOK_EVERY, |limit| limit / BEATS);
    let mut pace = tokio::time::interval(every);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        // A room at work answers late; whether it may is known before the next beat is due.
        let silent = control.silent(every / 2).await;
        if silent.is_empty() {
            if limit.is_some() {
                tell(&[NotifyState::Watchdog]);
            }
        } else {
            tracing::error!(rooms = ?silent, "no heartbeat came back");
            status(&format!("no heartbeat from {}", silent.join(", ")));
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    // Without systemd nobody listens, and nothing is said.
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}
