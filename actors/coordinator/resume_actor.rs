//! What goes on that was begun: experiments of an earlier life, and those whose actor is gone.
//!
//! They pass the same limits as what begins: there is a place and room for them, and they were not tried in vain too often.

use std::collections::{BTreeSet, VecDeque};

use kloros_supervision::ChildExit;

use super::{
    actor::{State, UnderWay},
    attempts,
    room::{Fit, Limits},
    unfinished::KINDS_READ,
};
use crate::{
    facts::{Attempt, CycleId, Entry, Experiment, ExperimentEnd, ExperimentId, Fact, Kind, Recorded, Room, VoidCause},
    record::{Ending, record},
    seams::{JournalError, Query},
};

/// An experiment that was begun and has no place or no room just now.
pub(super) struct Paused {
    pub(super) under_way: UnderWay,
    since_ms: u64,
}

impl State {
    /// Returns up to where the journal reaches, and all facts of cycles in which a question or an experiment is open, oldest first.
    ///
    /// An experiment that ended with a winner is open no more while its question is, so the whole cycle is read.
    pub(super) async fn open_work(&self) -> Result<(u64, Vec<Recorded>), JournalError> {
        let journal = &self.seams.journal;
        // Before what is open is read: what is written meanwhile is read again, and a fact that is folded twice counts once.
        let newest = journal.read(Query::newest(&KINDS_READ, 1)).await?;
        let open = journal.read(Query::open(&[Kind::Question, Kind::Experiment])).await?;
        let cycles: BTreeSet<CycleId> = open.into_iter().map(|each| each.cycle).collect();
        let mut recorded = Vec::new();
        for cycle in cycles {
            recorded.extend(journal.read(Query { cycle: Some(cycle), ..Query::kinds(&KINDS_READ) }).await?);
        }
        recorded.sort_by_key(|each| each.seq);
        Ok((newest.first().map_or(0, |newest| newest.seq), recorded))
    }

    /// Takes up the experiments that the journal knows of without an end.
    pub(super) async fn take_up(&mut self) -> Result<(), JournalError> {
        for (experiment, end) in self.unfinished.experiments.clone().into_values() {
            if end.is_none() {
                self.pause(experiment, 0).await?;
            }
        }
        // To look what the machine has left takes a while, for which a start does not wait without a reason.
        if !self.paused.is_empty() {
            let room = self.room().await;
            self.go_on(&room);
        }
        Ok(())
    }

    /// Lets an experiment wait until it may go on; gives it up where it was tried in vain as often as may be.
    async fn pause(&mut self, experiment: Experiment, resumes: u32) -> Result<(), JournalError> {
        let query = Query::kinds(&[Kind::Attempt, Kind::Trial]).about(experiment.id.as_str());
        let (mut tried, mut trials): (Vec<Attempt>, u32) = (Vec::new(), 0);
        for recorded in self.seams.journal.read(query).await? {
            match recorded.fact {
                Fact::Attempt(attempt) => tried.push(attempt),
                _ => trials += 1,
            }
        }
        if let Some(why) = attempts::objection(&tried, trials, self.config.attempts_max) {
            return self.give_up(&experiment, VoidCause::BrokeOff, why).await;
        }
        let under_way = UnderWay { experiment, resumes };
        self.paused.push_back(Paused { under_way, since_ms: self.seams.clock.now_ms() });
        Ok(())
    }

    /// Lets go on what may, and returns whether something that was begun waits for the experiments that run.
    pub(super) fn go_on(&mut self, room: &Room) -> bool {
        let (mut waits, now_ms) = (false, self.seams.clock.now_ms());
        for paused in std::mem::take(&mut self.paused) {
            let domain = paused.under_way.experiment.spec.domain.clone();
            let limits = Limits { config: &self.config, room, domains: &self.catalogue.domains };
            if !waits && self.running.admits(&domain, &limits) {
                tracing::info!(experiment = %paused.under_way.experiment.id, "experiment goes on where it was");
                self.running.resumed(&paused.under_way.experiment, limits.need(&domain));
                self.run(paused.under_way.experiment, paused.under_way.resumes);
            } else {
                waits |= match limits.fit(&domain, &self.running.load()) {
                    Fit::Now | Fit::Alone(_) => true,
                    // Whether there is room without the experiments that run shows once they have ended.
                    Fit::Later(_) => self.is_overdue(&paused, now_ms),
                    Fit::Never(_) => false,
                };
                self.paused.push_back(paused);
            }
        }
        waits
    }

    fn is_overdue(&self, paused: &Paused, now_ms: u64) -> bool {
        now_ms.saturating_sub(paused.since_ms) >= self.config.room_wait_s.saturating_mul(1000)
    }

    /// Ends what the machine has had no room for during too long a time.
    pub(super) async fn defer(&mut self) -> Result<(), JournalError> {
        let (room, now_ms) = (self.room().await, self.seams.clock.now_ms());
        let limits = Limits { config: &self.config, room: &room, domains: &self.catalogue.domains };
        let without_room = self.queue.without_room(&self.running, &limits, now_ms);
        let (mut paused, mut over) = (VecDeque::new(), Vec::new());
        for mut each in std::mem::take(&mut self.paused) {
            match limits.fit(&each.under_way.experiment.spec.domain, &self.running.load()) {
                Fit::Later(want) | Fit::Never(want) if self.running.is_empty() && self.is_overdue(&each, now_ms) => {
                    over.push((each.under_way.experiment, want.to_string()));
                    continue;
                }
                Fit::Later(_) | Fit::Never(_) => {}
                Fit::Now | Fit::Alone(_) => each.since_ms = now_ms,
            }
            paused.push_back(each);
        }
        self.paused = paused;
        for (question, why) in without_room {
            self.end(&question, "deferred", &why).await;
        }
        for (experiment, why) in over {
            self.give_up(&experiment, VoidCause::NoRoom, why).await?;
        }
        Ok(())
    }

    /// An experiment's actor that leaves without an end broke off: it goes on where the journal says, but not for ever.
    pub(super) async fn resume(&mut self, exit: &ChildExit) -> Result<(), JournalError> {
        let id = ExperimentId::new(exit.id.clone());
        if !self.experiments.contains_key(&id) {
            return Ok(());
        }
        // It may have ended all the same, and only the message of it was lost.
        let query = Query::kinds(&[Kind::ExperimentEnd]).about(id.as_str());
        let ends = self.seams.journal.read(query).await?;
        if let Some(Fact::ExperimentEnd(end)) = ends.into_iter().next().map(|recorded| recorded.fact) {
            self.conclude(end).await;
            return Ok(());
        }
        let Some(UnderWay { experiment, resumes }) = self.leave(&id) else { return Ok(()) };
        if resumes < self.config.resumes_max {
            tracing::warn!(experiment = %id, exit = ?exit.exit, resumes, "experiment broke off and is resumed");
            self.pause(experiment, resumes + 1).await?;
            self.next().await;
            return Ok(());
        }
        let why = format!("it broke off {} times", resumes + 1);
        tracing::error!(experiment = %id, exit = ?exit.exit, %why, "experiment is given up");
        self.give_up(&experiment, VoidCause::BrokeOff, why).await?;
        self.next().await;
        Ok(())
    }

    /// Ends an experiment that nothing was heard of to an end. The way to answer its question is not to blame; the question
    /// rests longer each time, because it may be what ends whoever measures it.
    async fn give_up(&self, experiment: &Experiment, cause: VoidCause, why: String) -> Result<(), JournalError> {
        let ending = Ending::resting(&self.seams, experiment, cause.how(), &why, self.rest_s);
        let end = ExperimentEnd::Void { experiment: experiment.id.clone(), why, cause };
        let name = format!("experiment_end:{}", experiment.id);
        let entry = Entry::once(&experiment.cycle, self.seams.clock.now_ms(), name, Fact::ExperimentEnd(end));
        record(&self.seams, Ending::with(ending.as_ref(), vec![entry])).await?;
        Ending::tell(ending, &self.exits.ended);
        Ok(())
    }
}
