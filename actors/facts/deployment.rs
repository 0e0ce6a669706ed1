use serde::{Deserialize, Serialize};

use super::{Authority, DeploymentId, Fact, Incarnation, Promotion, PromotionId, Ruled};

/// One change of a running service, from its plan to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// The promotion's digits behind `d-`.
    pub id: DeploymentId,
    /// What is changed.
    pub promotion: Promotion,
    /// Who let it through.
    pub authority: Authority,
    /// When it was planned, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl Deployment {
    /// Returns the id that a deployment of this promotion has: a promotion is deployed once at most.
    pub fn id_of(promotion: &PromotionId) -> DeploymentId {
        DeploymentId::new(format!("d-{}", promotion.as_str().trim_start_matches("p-")))
    }
}

/// Where a deployment stands. Before [`Stage::Judged`] a crash goes back; from there on it goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It will be made; nothing was touched.
    Planned,
    /// The journal says what will be touched.
    Intended,
    /// What undoes it lies on disk, outside the journal.
    Armed,
    /// The env file holds the new values.
    Applied,
    /// The service was restarted.
    Restarted,
    /// The service is up and says that it runs with the new values.
    Healthy,
    /// Old and new are being measured.
    Measuring,
    /// The verdict is durable: the commit point.
    Judged(Ruled),
    /// The old values are back in the env file and in the service.
    Restored,
    /// It is over: verdict, baseline and lesson are written.
    Closed,
    /// The undo failed; a person must look, and nothing else is deployed in this domain.
    Stuck,
}

/// What moves a deployment on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The plan was written to the journal.
    Intended,
    /// The pending file lies on disk.
    Armed,
    /// The env file was replaced.
    Applied,
    /// The service was restarted.
    Restarted,
    /// The service stayed ready and its values were read back.
    Proven {
        /// Which run of the service that was; `None` where it cannot be told.
        incarnation: Option<Incarnation>,
    },
    /// The measurement began.
    Measured,
    /// The verdict was written.
    Judged(Ruled),
    /// The old values are back.
    Restored,
    /// Everything about it is written.
    Closed,
    /// The undo failed, for this reason.
    UndoFailed(String),
}

/// A step that does not exist at this stage.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("a deployment that is {stage:?} cannot take the step {step:?}")]
pub struct IllegalStep {
    /// Where the deployment stands.
    pub stage: Stage,
    /// What was wanted.
    pub step: Step,
}

impl Stage {
    /// Returns the stage after `step`, or why the step is illegal here.
    ///
    /// The same function runs live and replays the journal, so recovery is not a second code path.
    pub fn after(self, step: &Step) -> Result<Stage, IllegalStep> {
        match (self, step) {
            (Stage::Planned, Step::Intended) => Ok(Stage::Intended),
            (Stage::Intended, Step::Armed) => Ok(Stage::Armed),
            (Stage::Armed, Step::Applied) => Ok(Stage::Applied),
            (Stage::Applied, Step::Restarted) => Ok(Stage::Restarted),
            (Stage::Restarted, Step::Proven { .. }) => Ok(Stage::Healthy),
            (Stage::Healthy, Step::Measured) => Ok(Stage::Measuring),
            // Only what was measured can be kept; what failed earlier can only be undone.
            (Stage::Measuring, Step::Judged(ruled)) => Ok(Stage::Judged(*ruled)),
            (stage, Step::Judged(Ruled::Rollback)) if stage.is_before_verdict() => Ok(Stage::Judged(Ruled::Rollback)),
            (Stage::Judged(Ruled::Rollback), Step::Restored) => Ok(Stage::Restored),
            (Stage::Judged(Ruled::Rollback), Step::UndoFailed(_)) => Ok(Stage::Stuck),
            // A later attempt, or a person, may mend what was stuck.
            (Stage::Stuck, Step::Restored) => Ok(Stage::Restored),
            (Stage::Stuck, Step::UndoFailed(_)) => Ok(Stage::Stuck),
            (Stage::Judged(Ruled::Success | Ruled::Neutral) | Stage::Restored, Step::Closed) => Ok(Stage::Closed),
            (stage, step) => Err(IllegalStep { stage, step: step.clone() }),
        }
    }

    /// Returns whether a crash at this stage goes back.
    pub fn is_before_verdict(self) -> bool {
        matches!(
            self,
            Stage::Planned
                | Stage::Intended
                | Stage::Armed
                | Stage::Applied
                | Stage::Restarted
                | Stage::Healthy
                | Stage::Measuring
        )
    }

    /// Returns whether nothing is left to be done.
    pub fn is_final(self) -> bool {
        self == Stage::Closed
    }

    /// Returns the stage as one word.
    pub fn label(self) -> &'static str {
        match self {
            Stage::Planned => "planned",
            Stage::Intended => "intended",
            Stage::Armed => "armed",
            Stage::Applied => "applied",
            Stage::Restarted => "restarted",
            Stage::Healthy => "healthy",
            Stage::Measuring => "measuring",
            Stage::Judged(_) => "judged",
            Stage::Restored => "restored",
            Stage::Closed => "closed",
            Stage::Stuck => "stuck",
        }
    }
}

/// Replays `facts`, oldest first, and returns each deployment among them with the stage it stands at.
///
/// A step that is illegal where it stands is left out: the journal's first word on a deployment holds.
pub fn stages(facts: impl IntoIterator<Item = Fact>) -> Vec<(Deployment, Stage)> {
    let mut found: Vec<(Deployment, Stage)> = Vec::new();
    for fact in facts {
        match fact {
            Fact::Deployment(deployment) => found.push((deployment, Stage::Planned)),
            Fact::Step { deployment, step } => {
                if let Some((_, stage)) = found.iter_mut().find(|(each, _)| each.id == deployment)
                    && let Ok(next) = stage.after(&step)
                {
                    *stage = next;
                }
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(steps: &[Step]) -> Result<Stage, IllegalStep> {
        steps.iter().try_fold(Stage::Planned, Stage::after)
    }

    const FORWARD: [Step; 6] = [
        Step::Intended,
        Step::Armed,
        Step::Applied,
        Step::Restarted,
        Step::Proven { incarnation: None },
        Step::Measured,
    ];

    #[test]
    fn a_deployment_that_was_never_measured_can_only_be_rolled_back() {
        for length in 0..FORWARD.len() {
            let stage = walk(&FORWARD[..length]).unwrap();
            assert!(stage.after(&Step::Judged(Ruled::Success)).is_err(), "{stage:?}");
            assert!(stage.after(&Step::Judged(Ruled::Neutral)).is_err(), "{stage:?}");
            assert_eq!(stage.after(&Step::Judged(Ruled::Rollback)).unwrap(), Stage::Judged(Ruled::Rollback));
        }
    }

    #[test]
    fn a_rollback_closes_only_after_the_old_values_are_back() {
        let judged = walk(&FORWARD).unwrap().after(&Step::Judged(Ruled::Rollback)).unwrap();
        assert!(judged.after(&Step::Closed).is_err());
        assert_eq!(judged.after(&Step::Restored).unwrap().after(&Step::Closed).unwrap(), Stage::Closed);
    }

    #[test]
    fn a_verdict_is_given_once() {
        let judged = walk(&FORWARD).unwrap().after(&Step::Judged(Ruled::Success)).unwrap();
        for ruled in [Ruled::Success, Ruled::Neutral, Ruled::Rollback] {
            assert!(judged.after(&Step::Judged(ruled)).is_err());
        }
    }
}
