//! Whether what a person would call work goes on: a question, an experiment, a deployment, a loan.

use super::{Fact, Kind, loans, stages};

/// The facts that say whether work goes on.
pub const TELLING: [Kind; 8] = [
    Kind::Question,
    Kind::QuestionEnd,
    Kind::Experiment,
    Kind::ExperimentEnd,
    Kind::Deployment,
    Kind::Step,
    Kind::Loan,
    Kind::LoanStep,
];

/// Returns whether something that `facts` begin has no end among them. `facts` are all those of [`TELLING`] about one subject,
/// oldest first. What is stuck goes on.
pub fn is_open(facts: Vec<Fact>) -> bool {
    let (mut asking, mut evolving) = (false, false);
    for fact in &facts {
        match fact {
            Fact::Question(_) => asking = true,
            Fact::QuestionEnd(_) => asking = false,
            Fact::Experiment(_) => evolving = true,
            Fact::ExperimentEnd(_) => evolving = false,
            _ => {}
        }
    }
    asking
        || evolving
        || stages(facts.iter().cloned()).iter().any(|(_, stage)| !stage.is_final())
        || loans(facts).iter().any(|(_, is_open)| *is_open)
}
