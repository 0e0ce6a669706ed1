//! What is not finished: the fold of the journal that tells the coordinator what nobody told it of.

use std::collections::BTreeMap;

use crate::facts::{Experiment, ExperimentEnd, ExperimentId, Fact, Kind, Origin, Question};

/// The facts that say what is not finished.
pub(super) const KINDS_READ: [Kind; 5] =
    [Kind::Question, Kind::QuestionEnd, Kind::Experiment, Kind::ExperimentEnd, Kind::Promotion];

/// What the journal says is not finished.
#[derive(Clone, Debug, Default)]
pub(super) struct Unfinished {
    /// Questions without an experiment, by their ids.
    pub(super) questions: BTreeMap<String, Question>,
    /// Experiments whose question is open and that led to no promotion, with their ends.
    pub(super) experiments: BTreeMap<ExperimentId, (Experiment, Option<ExperimentEnd>)>,
    /// Experiments whose question is open and that led to a promotion.
    pub(super) settling: BTreeMap<ExperimentId, Experiment>,
}

impl Unfinished {
    /// Takes a fact of the journal in; facts come oldest first.
    pub(super) fn fold(&mut self, fact: Fact) {
        match fact {
            Fact::Question(question) => {
                self.questions.insert(question.question_id.to_string(), question);
            }
            Fact::QuestionEnd(end) => {
                self.questions.remove(end.question.as_str());
                self.experiments.retain(|_, (experiment, _)| experiment.question != end.question);
                self.settling.retain(|_, experiment| experiment.question != end.question);
            }
            Fact::Experiment(experiment) => {
                self.questions.remove(experiment.question.as_str());
                self.experiments.insert(experiment.id.clone(), (experiment, None));
            }
            Fact::ExperimentEnd(end) => {
                if let Some(found) = self.experiments.get_mut(end.experiment()) {
                    found.1 = Some(end);
                }
            }
            Fact::Promotion(promotion) => {
                if let Origin::Experiment(id) = promotion.origin
                    && let Some((experiment, _)) = self.experiments.remove(&id)
                {
                    self.settling.insert(id, experiment);
                }
            }
            _ => {}
        }
    }
}
