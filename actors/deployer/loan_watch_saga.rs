//! What ends an errand before its time: whoever has a say in it is asked again and again while it goes on.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{
    loan::{self, Circumstances},
    loan_saga::{Lending, Reply, failed, interrupted},
    pending::Pending,
    saga::SIGNS_OF_LIFE,
};
use crate::{
    facts::{Fact, FailureKind, Incarnation, Kind},
    seams::{Permit, Query, Untried},
};

/// How often it is looked whether the errand may go on.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// At each how many looks the gate, the guard and the env file are asked as well.
const LOOKS_A_ROUND: u32 = 4;

/// How often in a row the gate may stay silent: it may be restarted meanwhile.
const SILENT_MAX: u32 = 3;

/// How long the gate is waited for.
const PERMIT_WITHIN: Duration = Duration::from_secs(5);

/// How many of the newest anomalies are looked through for a breach.
const ANOMALIES_MAX: usize = 200;

impl Lending {
    /// Waits until the measurement that goes on has to end, and returns why.
    pub(super) async fn until_ended(
        &self,
        pending: &Pending,
        since: u64,
        incarnation: Option<&Incarnation>,
        reply: &Reply,
    ) -> Untried {
        let (mut looks, mut silent, mut sign_of_life) = (0, 0, Instant::now());
        loop {
            sleep(LOOK_EVERY).await;
            looks += 1;
            if let Err(why) = self.may_go_on(reply) {
                return why;
            }
            self.live_on(&mut sign_of_life).await;
            if looks % LOOKS_A_ROUND == 0
                && let Err(why) = self.round(pending, since, incarnation, &mut silent).await
            {
                return why;
            }
        }
    }

    async fn round(
        &self,
        pending: &Pending,
        since: u64,
        incarnation: Option<&Incarnation>,
        silent: &mut u32,
    ) -> Result<(), Untried> {
        self.still_ours().await.map_err(interrupted)?;
        self.is_in(pending).await.map_err(interrupted)?;
        self.watched().await.map_err(interrupted)?;
        self.is_permitted(silent).await.map_err(interrupted)?;
        if let Ok(now) = self.seams.services.incarnation(&self.domain).await
            && incarnation.is_some()
            && now.as_ref() != incarnation
        {
            return Err(failed(FailureKind::Died, "the service died under load".to_owned()));
        }
        let breached = self.breaches(since).await;
        match breached.into_iter().find(|metric| !pending.keys.is_empty() && !self.breached.contains(metric)) {
            Some(metric) => Err(failed(FailureKind::Breached, format!("{metric} breaches its objective"))),
            None => Ok(()),
        }
    }

    /// Returns the objectives of the domain that were breached after this place of the journal.
    pub(super) async fn breaches(&self, since: u64) -> Vec<String> {
        let query = Query { after: since, limit: ANOMALIES_MAX, ..Query::kinds(&[Kind::Anomaly]) };
        let recorded = self.seams.journal.read(query.about(&self.domain.name)).await.unwrap_or_default();
        let breached = |fact| match fact {
            Fact::Anomaly(anomaly) => anomaly.breaches(&self.domain),
            _ => Vec::new(),
        };
        recorded.into_iter().flat_map(|each| breached(each.fact)).collect()
    }

    /// Returns the place of the newest anomaly of the domain, or `since` where that is later: what was told before the service was
    /// restarted is about what ran before.
    pub(super) async fn told_until(&self, since: u64) -> u64 {
        let query = Query::newest(&[Kind::Anomaly], 1).about(&self.domain.name);
        let newest = self.seams.journal.read(query).await.unwrap_or_default();
        newest.first().map_or(since, |recorded| since.max(recorded.seq))
    }

    async fn is_permitted(&self, silent: &mut u32) -> Result<(), String> {
        let (reply, answer) = ractor::concurrency::oneshot();
        let permit = Permit { promotion: self.loan.promotion.clone(), reply: reply.into() };
        let asked = self.permits.send(permit).is_ok();
        match timeout(PERMIT_WITHIN, answer).await {
            Ok(Ok(answer)) if asked => {
                *silent = 0;
                answer.map(drop)
            }
            _ if *silent < SILENT_MAX => {
                *silent += 1;
                Ok(())
            }
            _ => Err("the gate does not answer".to_owned()),
        }
    }

    /// Waits until the loan is over, and returns why.
    pub(super) async fn until_over(&self, reply: &Reply) -> String {
        let mut sign_of_life = Instant::now();
        loop {
            sleep(LOOK_EVERY).await;
            if let Err(Untried::Interrupted(why)) = self.may_go_on(reply) {
                return why;
            }
            self.live_on(&mut sign_of_life).await;
        }
    }

    /// Tells the guard now and then that this process still works, where there is anything to guard.
    async fn live_on(&self, last: &mut Instant) {
        let every = Duration::from_secs_f64(self.config.guard_within_s / SIGNS_OF_LIFE);
        if self.on.is_some() && last.elapsed() >= every {
            self.saga().takes(Duration::ZERO).await;
            *last = Instant::now();
        }
    }

    /// Returns why nothing more may be tried.
    pub(super) fn may_go_on(&self, reply: &Reply) -> Result<(), Untried> {
        if self.room.has_changed().is_err() {
            return Err(interrupted("the deployer is gone".to_owned()));
        }
        if reply.is_closed() {
            return Err(interrupted("the experiment does not wait for it any more".to_owned()));
        }
        let stop = self.seams.switch.stopped();
        let (now_ms, utc_offset_s) = (self.seams.clock.now_ms(), self.seams.clock.utc_offset_s());
        let now = Circumstances { stop: stop.as_ref(), now_ms, utc_offset_s, restarts: 0 };
        loan::over(&self.in_place, self.loan.at_ms, &now).map_or(Ok(()), |why| Err(interrupted(why)))
    }
}
