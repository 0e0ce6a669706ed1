//! What the gate knows: a fold of the journal, and at a start of what is not over in its past.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    actor::{Open, State, Yes},
    standing::Waiting,
};
use crate::{
    facts::{Answer, Fact, Kind, LoanStep, Recorded, Ruling},
    seams::{JournalError, Query},
};

/// How many facts of the past are read at start.
const HISTORY_MAX: usize = 10_000;

/// How many facts that decide on promotions are read at start: what is held may wait for days, and while everything is stopped for
/// ever, behind any number of runs and steps.
const DECIDING_MAX: usize = 50_000;

/// What the gate folds.
const FOLDED: [Kind; 14] = [
    Kind::Promotion,
    Kind::Ruling,
    Kind::Answer,
    Kind::Deployment,
    Kind::Step,
    Kind::Verdict,
    Kind::Lesson,
    Kind::Switch,
    Kind::Adoption,
    Kind::Thaw,
    Kind::Loan,
    Kind::LoanStep,
    Kind::Run,
    Kind::Calibration,
];

/// What of that decides on promotions, or is known until the next word on it.
const DECIDING: [Kind; 9] = [
    Kind::Promotion,
    Kind::Ruling,
    Kind::Answer,
    Kind::Deployment,
    Kind::Loan,
    Kind::Switch,
    Kind::Adoption,
    Kind::Thaw,
    Kind::Calibration,
];

impl State {
    /// Folds what the journal has since it was last read; at first the newest of its past, and what is not over since longer.
    pub(super) async fn catch_up(&mut self) -> Result<(), JournalError> {
        let query = match self.seen {
            0 => Query::newest(&FOLDED, HISTORY_MAX),
            seen => Query { after: seen, ..Query::kinds(&FOLDED) },
        };
        let mut recorded = self.seams.journal.read(query).await?;
        recorded.sort_by_key(|each| each.seq);
        if self.seen == 0 && recorded.len() == HISTORY_MAX {
            self.recall(recorded[0].seq).await?;
        }
        for each in recorded {
            self.seen = each.seq;
            self.fold(each.fact, each.at_ms);
        }
        self.show();
        Ok(())
    }

    /// Folds what is older than the fact `before` and may not be over: what goes on, and what was decided on promotions.
    async fn recall(&mut self, before: u64) -> Result<(), JournalError> {
        let going_on = Query::open(&[Kind::Deployment, Kind::Step, Kind::Loan, Kind::LoanStep]);
        let going_on = self.seams.journal.read(going_on).await?;
        let mut older: BTreeMap<u64, Recorded> = going_on.into_iter().map(|each| (each.seq, each)).collect();
        let going_on: BTreeSet<u64> = older.keys().copied().collect();
        let deciding = self.seams.journal.read(Query::newest(&DECIDING, DECIDING_MAX)).await?;
        older.extend(deciding.into_iter().map(|each| (each.seq, each)));
        for Recorded { seq, fact, at_ms, .. } in older.into_values().filter(|each| each.seq < before) {
            match fact {
                // It came to its end, of which the facts are not read: all that counts is that it does not wait any more.
                Fact::Deployment(deployment) if !going_on.contains(&seq) => {
                    self.open.remove(&deployment.promotion.id);
                }
                Fact::Loan(loan) if !going_on.contains(&seq) => drop(self.open.remove(&loan.promotion)),
                fact => self.fold(fact, at_ms),
            }
        }
        Ok(())
    }

    fn fold(&mut self, fact: Fact, at_ms: u64) {
        match fact {
            Fact::Promotion(promotion) => {
                if let Some(overtaken) = &promotion.replaces {
                    self.open.remove(overtaken);
                    self.waiting.remove(overtaken);
                }
                self.open.insert(promotion.id.clone(), Open::of(promotion, None));
            }
            Fact::Ruling(Ruling::Ask { promotion, risk, why, until_ms, binding, .. }) => {
                let open = self.open.remove(&promotion).map(|open| open.promotion);
                // What was asked anew is what waits now.
                let known = open.or_else(|| self.waiting.remove(&promotion).map(|waiting| waiting.promotion));
                if let Some(promotion) = known {
                    let waiting = Waiting { promotion, risk, why, binding, until_ms };
                    self.waiting.insert(waiting.promotion.id.clone(), waiting);
                }
            }
            Fact::Ruling(Ruling::Refuse { promotion, .. } | Ruling::Advise { promotion, .. }) => {
                self.open.remove(&promotion);
                self.waiting.remove(&promotion);
            }
            Fact::Answer(answer) => self.fold_answer(answer, at_ms),
            Fact::Deployment(deployment) => {
                self.open.remove(&deployment.promotion.id);
                self.history.deployed(&deployment);
            }
            Fact::Step { deployment, step } => self.history.stepped(&deployment, &step),
            Fact::Verdict(verdict) => self.history.judged(&verdict),
            Fact::Lesson(lesson) => self.history.learned(&lesson),
            Fact::Switch(switch) => self.stop = switch.stop,
            Fact::Adoption(adoption) => self.history.adopted(&adoption, at_ms),
            Fact::Thaw(thaw) => self.history.thawed(&thaw, at_ms),
            Fact::Loan(loan) => {
                let open = self.open.remove(&loan.promotion);
                self.lent.extend(open.map(|open| (loan.promotion.clone(), open)));
                self.history.lent(&loan);
            }
            Fact::LoanStep { loan, step: LoanStep::Applies { .. }, .. } => self.history.restarted(&loan, at_ms),
            Fact::Calibration(calibration) => {
                // What waits for it need not wait for its next turn.
                let waits = self.open.values_mut().filter(|open| open.promotion.domain == calibration.domain);
                waits.for_each(|open| open.offered_at_ms = None);
                self.history.calibrated(&calibration);
            }
            Fact::Run { deployment, .. } => self.history.restarted(&deployment, at_ms),
            Fact::LoanStep { loan, step: LoanStep::Ended { .. }, .. } => {
                self.history.returned(&loan);
                self.lent.retain(|_, open| self.history.is_pending(&open.promotion.domain));
            }
            _ => {}
        }
    }

    fn fold_answer(&mut self, answer: Answer, at_ms: u64) {
        let Answer { promotion, approved, by_uid, why, binding } = answer;
        match (self.waiting.remove(&promotion), by_uid) {
            (Some(waiting), Some(uid)) if approved => {
                let yes = Yes { uid, at_ms, binding };
                self.open.insert(promotion, Open::of(waiting.promotion, Some(yes)));
            }
            (None, Some(_)) if !approved => self.take_back(&promotion, why),
            _ => {}
        }
    }
}
