use serde::{Deserialize, Serialize};

use super::{Authority, DeploymentId, ExperimentId, Fact, PromotionId, Settings};

/// The serving instance of a domain, lent to an experiment: its candidates are measured on it, one after the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loan {
    /// The promotion's digits behind `l-`. It stands where a deployment's id does, in the pending file and for the guard.
    pub id: DeploymentId,
    /// To which experiment.
    pub experiment: ExperimentId,
    /// What the gate let through.
    pub promotion: PromotionId,
    /// The domain.
    pub domain: String,
    /// Who let it through.
    pub authority: Authority,
    /// Since when, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// What happens to a service that is lent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoanStep {
    /// The service is about to be restarted with these settings.
    Applies {
        /// The name of the trial.
        label: String,
        /// What differs from its own settings; nothing where those are measured.
        settings: Settings,
    },
    /// Its own settings are back, and the loan is over.
    Ended {
        /// In words.
        why: String,
    },
    /// Its own settings could not be brought back, for this reason; it is tried again.
    Stuck {
        /// In words.
        why: String,
    },
}

/// Replays `facts`, oldest first, and returns each loan among them and whether it is still open.
pub fn loans(facts: impl IntoIterator<Item = Fact>) -> Vec<(Loan, bool)> {
    let mut found: Vec<(Loan, bool)> = Vec::new();
    for fact in facts {
        match fact {
            Fact::Loan(loan) => found.push((loan, true)),
            Fact::LoanStep { loan, step: LoanStep::Ended { .. }, .. } => {
                found.iter_mut().filter(|(each, _)| each.id == loan).for_each(|(_, is_open)| *is_open = false);
            }
            _ => {}
        }
    }
    found
}
