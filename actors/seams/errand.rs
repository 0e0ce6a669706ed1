//! What rooms ask of one another and wait for.

use ractor::RpcReplyPort;

use super::Assignment;
use crate::facts::{
    Authority, DeploymentId, ExperimentId, Measurement, Promotion, PromotionId, Proposal, TrialFailure,
};

/// A proposal on its way to the deployer, which compares it with what runs.
#[derive(Debug)]
pub struct Planning {
    /// What is proposed.
    pub proposal: Proposal,
    /// Who waits to hear what change it amounts to, or why there is none.
    pub reply: Option<RpcReplyPort<Result<Promotion, String>>>,
}

/// Something to be measured on the serving instance itself, for whoever it is lent to.
#[derive(Debug)]
pub struct Errand {
    /// The domain.
    pub domain: String,
    /// For whom.
    pub whose: Borrower,
    /// What is measured; nothing where the service is only to run with it.
    pub assignment: Option<Assignment>,
    /// Who waits for it; who does not wait any more wants nothing tried.
    pub reply: RpcReplyPort<Result<Option<Measurement>, Untried>>,
}

/// For whom something is measured on the serving instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Borrower {
    /// An experiment, to which the service is lent.
    Experiment(ExperimentId),
    /// The validation of what is deployed there.
    Deployment {
        /// The deployment.
        id: DeploymentId,
        /// Whether the new settings are to run, or the old ones.
        candidate: bool,
    },
}

/// Why there is no measurement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untried {
    /// The settings could not be measured.
    #[error(transparent)]
    Failed(#[from] TrialFailure),
    /// It was not made, which says nothing of the settings.
    #[error("not made: {0}")]
    Interrupted(String),
}

/// The deployer's question, right before it touches anything, whether what the gate let through may still go on.
#[derive(Debug)]
pub struct Permit {
    /// The promotion.
    pub promotion: PromotionId,
    /// On whose authority it may go on now, or why it may not.
    pub reply: RpcReplyPort<Result<Authority, String>>,
}
