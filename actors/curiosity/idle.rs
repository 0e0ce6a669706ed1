//! Idle time: questions that nothing but quiet raises. Is there a better setting?
//!
//! They are questions like others: they have an interest, rest, and are parked when they bring nothing again and again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    Config,
    hypotheses::{capitals, knobs, question_id},
    interest::{Admission, Interests},
};
use crate::facts::{CycleId, Evidence, ExperimentSpec, Question, short_hash};

/// What the name of such a question ends in, behind the domain.
const NAME: &str = "_BETTER_SETTINGS";

const DAY_MS: u64 = 86_400_000;

/// How quiet it is, and what was asked for that reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quiet {
    since_ms: u64,
    /// When such questions were asked within a day.
    asked_at_ms: VecDeque<u64>,
}

impl Quiet {
    /// Takes note that something was wrong, or under way, at `now_ms`.
    pub fn broken(&mut self, now_ms: u64) {
        self.since_ms = self.since_ms.max(now_ms);
    }

    /// Takes note of a question; one that idle time raised counts for its budget.
    pub fn asked(&mut self, question: &Question) {
        self.broken(question.at_ms);
        if question.hypothesis.ends_with(NAME) {
            self.asked_at_ms.push_back(question.at_ms);
        }
    }

    /// Returns since how many seconds it is quiet, where that is long enough and today's budget is not spent.
    fn long_enough(&mut self, now_ms: u64, config: &Config) -> Option<u64> {
        while self.asked_at_ms.front().is_some_and(|at_ms| now_ms.saturating_sub(*at_ms) >= DAY_MS) {
            self.asked_at_ms.pop_front();
        }
        let quiet_s = now_ms.saturating_sub(self.since_ms) / 1000;
        let has_budget = self.asked_at_ms.len() < config.idle_per_day_max as usize;
        (has_budget && quiet_s >= config.idle_after_s).then_some(quiet_s)
    }

    /// Returns the question that is worth most for its cost, where it is quiet for long enough, nothing is open and anything
    /// may be asked; of domains that are `down` nothing is.
    pub fn question(
        &mut self,
        interests: &Interests,
        experiments: &BTreeMap<String, ExperimentSpec>,
        down: &BTreeSet<String>,
        config: &Config,
        now_ms: u64,
    ) -> Option<Question> {
        let quiet_s = self.long_enough(now_ms, config).filter(|_| interests.open() == 0)?;
        let domains: BTreeSet<&String> = experiments.values().map(|spec| &spec.domain).collect();
        let may_be_asked = |domain: &&String| !config.leave_alone.contains(domain) && !down.contains(*domain);
        let asked = domains.into_iter().filter(may_be_asked).filter_map(|domain| {
            let own: Vec<&ExperimentSpec> = experiments.values().filter(|spec| spec.domain == *domain).collect();
            let ways: Vec<String> = own.iter().map(|spec| knobs(spec)).collect();
            let hypothesis = format!("{}{NAME}", capitals(domain));
            match interests.admit(&hypothesis, domain, &ways, now_ms, config) {
                Admission::Ask { occurrence, interest, way } => {
                    Some(ask(own[way], hypothesis, (occurrence, interest), quiet_s, config, now_ms))
                }
                _ => None,
            }
        });
        // The first of equals: max_by would take the last.
        asked.reduce(|best, next| if next.worth() > best.worth() { next } else { best })
    }
}

fn ask(
    spec: &ExperimentSpec,
    hypothesis: String,
    (occurrence, interest): (u32, f64),
    quiet_s: u64,
    config: &Config,
    now_ms: u64,
) -> Question {
    let id = question_id(&spec.domain, &hypothesis, occurrence);
    let budget = config.idle.and(spec.budget);
    Question {
        dream_experiment: ExperimentSpec { name: format!("idle_{id}"), budget, ..spec.clone() },
        cycle: CycleId::new(format!("c-{}", short_hash(&[id.as_str(), &now_ms.to_string()]))),
        question_id: id,
        hypothesis,
        evidence: vec![Evidence {
            metric: "quiet_s".to_owned(),
            observed: quiet_s as f64,
            expected: config.idle_after_s as f64,
            samples: 1,
            source: "kloros".to_owned(),
        }],
        interest,
        at_ms: now_ms,
        depth: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Budget, Key, QuestionEnd};

    const HOUR_MS: u64 = 3_600_000;

    fn experiment(domain: &str, knob: &str, max_candidates: u32) -> (String, ExperimentSpec) {
        let name = format!("{domain}_{knob}").to_ascii_lowercase();
        let spec = ExperimentSpec {
            name: name.clone(),
            domain: domain.into(),
            search_space: BTreeMap::new(),
            constraints: Vec::new(),
            forbidden: Vec::new(),
            metrics: BTreeMap::new(),
            param_mapping: BTreeMap::from([("p".to_owned(), Key::new(knob).unwrap())]),
            budget: Budget::of(max_candidates, 10),
        };
        (name, spec)
    }

    /// Looks each half hour for so many days, ends each question as `how` says of its number, and returns on which days it
    /// asked.
    fn days_asked(days: u64, config: &Config, how: impl Fn(usize) -> &'static str) -> Vec<u64> {
        let experiments = BTreeMap::from([experiment("lab", "SEQS", 100)]);
        let (mut quiet, mut interests) = (Quiet::default(), Interests::default());
        let mut asked = Vec::new();
        for now_ms in (0..days * DAY_MS).step_by(1_800_000) {
            let Some(question) = quiet.question(&interests, &experiments, &BTreeSet::new(), config, now_ms) else {
                continue;
            };
            quiet.asked(&question);
            interests.asked(&question);
            asked.push(now_ms / DAY_MS);
            let end = QuestionEnd {
                question: question.question_id,
                hypothesis: question.hypothesis,
                domain: "lab".into(),
                how: how(asked.len()).into(),
                why: String::new(),
                eligible_at_ms: now_ms + HOUR_MS,
            };
            interests.ended(&end, config);
            quiet.broken(now_ms + HOUR_MS);
        }
        asked
    }

    #[test]
    fn while_answers_pay_it_is_asked_each_day_and_no_oftener() {
        let asked = days_asked(14, &Config::default(), |_| "deployed");
        assert!((13..=14).contains(&asked.len()), "{asked:?}");
    }

    #[test]
    fn questions_that_nothing_but_idle_time_raised_stop_when_they_stop_paying() {
        let asked = days_asked(365, &Config::default(), |number| if number <= 3 { "deployed" } else { "no_better" });
        let by = |day: u64| asked.iter().filter(|asked| **asked < day).count();
        assert_eq!(by(10), 8, "three that paid and five that did not: {asked:?}");
        assert!(by(365) <= 8 + 6, "afterwards more and more seldom: {asked:?}");
    }

    #[test]
    fn a_budget_of_none_asks_nothing_and_neither_does_a_domain_that_is_left_alone() {
        let none = Config { idle_per_day_max: 0, ..Config::default() };
        assert_eq!(days_asked(30, &none, |_| "deployed"), [0; 0]);
        let alone = Config { leave_alone: vec!["lab".into()], ..Config::default() };
        assert_eq!(days_asked(30, &alone, |_| "deployed"), [0; 0]);
    }

    #[test]
    fn it_is_asked_only_after_it_was_quiet_for_long_enough_and_by_the_budget_of_idle_time() {
        let experiments = BTreeMap::from([experiment("lab", "SEQS", 100)]);
        let (mut quiet, config) = (Quiet::default(), Config::default());
        quiet.broken(HOUR_MS);
        let mut at = |now_ms| quiet.question(&Interests::default(), &experiments, &BTreeSet::new(), &config, now_ms);
        assert_eq!(at(7 * HOUR_MS - 1), None);
        let question = at(7 * HOUR_MS).unwrap();
        assert_eq!(question.question_id.as_str(), "lab.better_settings.001");
        assert_eq!(question.hypothesis, "LAB_BETTER_SETTINGS");
        assert_eq!(question.dream_experiment.budget, Budget::of(8, 2));
        assert_eq!((question.evidence[0].observed, question.evidence[0].source.as_str()), (21_600.0, "kloros"));
    }

    #[test]
    fn of_several_domains_the_one_is_asked_about_whose_answer_is_worth_most_for_its_cost() {
        let experiments = BTreeMap::from([experiment("lab", "SEQS", 100), experiment("tts", "WAIT", 2)]);
        let mut quiet = Quiet::default();
        let mut ask = |interests: &Interests, down: &[&str]| {
            let down = down.iter().map(|domain| (*domain).to_owned()).collect();
            quiet.question(interests, &experiments, &down, &Config::default(), DAY_MS)
        };
        let question = ask(&Interests::default(), &[]).unwrap();
        assert_eq!(question.dream_experiment.domain, "tts");
        let mut open = Interests::default();
        open.asked(&question);
        assert_eq!(ask(&open, &[]), None, "one at a time");
        // What does not serve is no place to look for better settings.
        assert_eq!(ask(&Interests::default(), &["tts"]).unwrap().dream_experiment.domain, "lab");
        assert_eq!(ask(&Interests::default(), &["tts", "lab"]), None);
    }
}
