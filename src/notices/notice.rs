//! What a person is told, and how each receiver wants it spelled. Arithmetic alone.

use kloros_actors::facts::{Fact, LoanStep, Recorded, Ruled, Ruling, Step};
use serde_json::json;

use crate::{cli::heard, settings::Form};

/// How much of a reason is told, in characters.
const TEXT_MAX: usize = 600;

/// Something that a person should know of at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    /// What it is about, by a name of the settings.
    pub(super) about: &'static str,
    pub(super) title: String,
    pub(super) text: String,
    cycle: String,
    at_ms: u64,
}

/// A notice as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spelled {
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: String,
}

impl Notice {
    /// Returns what a fact is to be told as; nothing for most.
    pub(super) fn of(recorded: &Recorded) -> Option<Self> {
        let (about, title, text) = match &recorded.fact {
            Fact::Ruling(Ruling::Ask { promotion, risk, why, .. }) => {
                let text = format!("{why}\nkloros approve {promotion}   kloros reject {promotion}");
                ("approval", format!("{promotion} waits for you, {risk} risk"), text)
            }
            Fact::Verdict(verdict) if verdict.outcome == Ruled::Rollback => (
                "rollback",
                format!("{} was rolled back", verdict.domain),
                format!("{}\nkloros explain {}", heard(&recorded.fact), verdict.deployment),
            ),
            Fact::Step { deployment, step: Step::UndoFailed(why) } => (
                "stuck",
                format!("{deployment} cannot be undone"),
                format!("{why}\nwhen that is mended: kloros rollback {deployment}"),
            ),
            Fact::LoanStep { loan, experiment, step: LoanStep::Stuck { why } } => (
                "stuck",
                format!("own settings of a service that was lent are not back, {loan}"),
                format!("{why}\nit was lent to {experiment}\nkloros status   when that is mended: kloros recover"),
            ),
            Fact::Switch(switch) => {
                ("stop", "everything stands still".to_owned(), format!("{}\nkloros go", switch.stop.as_ref()?))
            }
            _ => return None,
        };
        let text = text.chars().take(TEXT_MAX).collect();
        Some(Self { about, title, text, cycle: recorded.cycle.to_string(), at_ms: recorded.at_ms })
    }

    /// Returns what is told in the place of so many that were left out.
    pub(super) fn left_out(count: usize, at_ms: u64) -> Self {
        let (title, text) = (format!("{count} notices were left out"), "kloros audit".to_owned());
        Self { about: "stop", title, text, cycle: String::new(), at_ms }
    }

    /// Returns the notice as `form` has it.
    pub(super) fn spell(&self, form: Form) -> Spelled {
        let Self { about, title, text, cycle, at_ms } = self;
        let json_type = ("content-type", "application/json".to_owned());
        match form {
            Form::Json => {
                let body = json!({"from": "kloros", "about": about, "title": title, "text": text, "cycle": cycle, "at_ms": at_ms});
                Spelled { headers: vec![json_type], body: body.to_string() }
            }
            Form::Ntfy => {
                let (priority, tag) = match *about {
                    "stuck" => ("urgent", "rotating_light"),
                    "approval" => ("high", "raised_hand"),
                    "stop" => ("high", "octagonal_sign"),
                    _ => ("default", "leftwards_arrow_with_hook"),
                };
                let headers = [
                    ("title", plain(&format!("kloros: {title}"))),
                    ("priority", priority.to_owned()),
                    ("tags", tag.to_owned()),
                ];
                Spelled { headers: headers.to_vec(), body: text.clone() }
            }
            Form::Slack => {
                let body = json!({"text": format!("*kloros: {}*\n{}", escaped(title), escaped(text))});
                Spelled { headers: vec![json_type], body: body.to_string() }
            }
        }
    }
}

/// Returns what may stand in a header.
fn plain(text: &str) -> String {
    text.chars().map(|each| if each.is_ascii_graphic() || each == ' ' { each } else { '?' }).collect()
}

/// Returns text in which nothing is a command of Slack.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use kloros_actors::facts::{CycleId, DeploymentId, ExperimentId, Stop, Switch};

    use super::*;

    fn recorded(fact: Fact) -> Recorded {
        Recorded { seq: 1, cycle: CycleId::new("c-1"), at_ms: 5, fact }
    }

    fn stopped() -> Notice {
        let stop = Stop { why: "<!channel> rack \u{fc} & roll".to_owned(), by_uid: Some(7) };
        Notice::of(&recorded(Fact::Switch(Switch { stop: Some(stop) }))).unwrap()
    }

    #[test]
    fn each_receiver_is_told_in_its_own_way_and_nothing_in_a_text_is_a_command() {
        let notice = stopped();
        assert_eq!((notice.about, notice.title.as_str()), ("stop", "everything stands still"));
        let json: serde_json::Value = serde_json::from_str(&notice.spell(Form::Json).body).unwrap();
        assert_eq!((&json["about"], &json["cycle"], &json["at_ms"]), (&json!("stop"), &json!("c-1"), &json!(5)));
        let slack: serde_json::Value = serde_json::from_str(&notice.spell(Form::Slack).body).unwrap();
        let text = slack["text"].as_str().unwrap();
        assert!(text.contains("&lt;!channel&gt;") && text.contains("&amp;") && !text.contains('<'), "{text}");
        let ntfy = notice.spell(Form::Ntfy);
        assert!(ntfy.body.contains("rack \u{fc} & roll"));
        assert!(ntfy.headers.iter().all(|(_, value)| value.is_ascii()), "{ntfy:?}");
    }

    #[test]
    fn a_lent_service_whose_own_settings_are_not_back_is_stuck() {
        let step = |step| Fact::LoanStep { loan: DeploymentId::new("l-1"), experiment: ExperimentId::new("x-1"), step };
        let stuck = Notice::of(&recorded(step(LoanStep::Stuck { why: "it does not start".to_owned() }))).unwrap();
        assert_eq!(stuck.about, "stuck");
        assert!(stuck.title.contains("l-1") && stuck.text.contains("it does not start"), "{stuck:?}");
        assert_eq!(Notice::of(&recorded(step(LoanStep::Ended { why: "it is over".to_owned() }))), None);
    }

    #[test]
    fn what_nobody_need_act_on_is_not_told() {
        assert_eq!(Notice::of(&recorded(Fact::Switch(Switch { stop: None }))), None);
        assert_eq!(Notice::left_out(3, 1).title, "3 notices were left out");
    }
}
