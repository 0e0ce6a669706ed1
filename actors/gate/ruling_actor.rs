//! How the gate rules on what is on its way, and asks itself again before anything is touched.

use super::{
    actor::{Open, State, Yes},
    fit, freeze,
    policy::{Circumstances, binding, inspect, is_a_trial, recalls},
    standing::{HeldBack, Standing, Waiting},
};
use crate::{
    facts::{Authority, Autonomy, Entry, Fact, Held, Promotion, PromotionId, Ruling},
    meters,
    record::{Ending, record, wake},
    seams::{Appended, JournalError},
};

/// When a promotion is ruled on again that is still not deployed: the deployer was down, or it has to wait. What was
/// allowed then may not be now, so each offer is ruled on anew.
const OFFER_AGAIN_AFTER_MS: u64 = 10_000;

impl State {
    /// Rules on everything that was proposed and is on its way, and was not ruled on just now.
    pub(super) async fn work(&mut self) -> Result<(), JournalError> {
        self.catch_up().await?;
        self.ask_anew();
        let now_ms = self.seams.clock.now_ms();
        let due = |open: &&Open| {
            // A clock that went back does not stop the offers.
            open.offered_at_ms.is_none_or(|at_ms| now_ms.abs_diff(at_ms) >= OFFER_AGAIN_AFTER_MS)
        };
        let due: Vec<PromotionId> = self.open.values().filter(due).map(|open| open.promotion.id.clone()).collect();
        for id in due {
            self.consider(&id).await?;
        }
        Ok(())
    }

    /// Takes back what waits for an answer to a question that is none any more, because the policy changed since.
    fn ask_anew(&mut self) {
        let void: Vec<PromotionId> = self
            .waiting
            .values()
            .filter(|waiting| self.is_void(waiting))
            .map(|each| each.promotion.id.clone())
            .collect();
        for id in void {
            if let Some(waiting) = self.waiting.remove(&id) {
                self.open.insert(id, Open::of(waiting.promotion, None));
            }
        }
    }

    /// Returns whether what was asked is not what a yes would mean now.
    pub(super) fn is_void(&self, waiting: &Waiting) -> bool {
        self.catalogue
            .domains
            .get(&waiting.promotion.domain)
            .is_none_or(|domain| binding(&waiting.promotion, domain, &self.config) != waiting.binding)
    }

    /// Rules on a promotion as things are now; nothing is written down. What a person said yes to waits for its time as well.
    async fn rule(&self, promotion: &Promotion, yes: Option<&Yes>) -> (Ruling, Autonomy) {
        let Some(domain) = self.catalogue.domains.get(&promotion.domain) else {
            let why = format!("there is no domain {:?}", promotion.domain);
            return (Ruling::Refuse { promotion: promotion.id.clone(), why }, Autonomy::Manual);
        };
        let level = self.level(domain).await;
        // The switch itself is asked, not what was last heard of it.
        let stop = self.seams.switch.stopped();
        let (now_ms, utc_offset_s) = (self.seams.clock.now_ms(), self.seams.clock.utc_offset_s());
        let scales = self.scales;
        let circumstances = Circumstances { level, stop: stop.as_ref(), now_ms, utc_offset_s, scales };
        let ruling = inspect(promotion, domain, &self.history, &circumstances, &self.config);
        let is_yes = yes.is_some_and(|yes| !self.is_too_old(yes, promotion));
        let is_due = is_yes && !is_a_trial(promotion) && matches!(ruling, Ruling::Ask { .. });
        let waits = fit::waits_for(promotion, domain, &self.history, &circumstances).filter(|_| is_due);
        let hold = |(held, why)| Ruling::Hold { promotion: promotion.id.clone(), held, why };
        (waits.map_or(ruling, hold), level)
    }

    /// Returns on whose authority a promotion may go on now, or why it may not: its yes is void where the plan or the
    /// policy is another, or where it is too old.
    fn authority(&self, ruling: &Ruling, promotion: &Promotion, yes: Option<&Yes>) -> Result<Authority, String> {
        match (ruling, yes) {
            (Ruling::Allow { level, .. }, None) => Ok(Authority::Policy(*level)),
            (Ruling::Allow { .. } | Ruling::Ask { .. }, Some(yes)) => {
                let domain = self.catalogue.domains.get(&promotion.domain);
                if self.is_too_old(yes, promotion) {
                    Err("it was approved, and could not be deployed in time".to_owned())
                } else if domain.is_none_or(|domain| binding(promotion, domain, &self.config) != yes.binding) {
                    Err("it was approved under another policy".to_owned())
                } else {
                    Ok(Authority::Person(yes.uid))
                }
            }
            (Ruling::Ask { why, .. } | Ruling::Refuse { why, .. } | Ruling::Hold { why, .. }, _) => Err(why.clone()),
            (Ruling::Advise { .. }, _) => Err("only advice is given".to_owned()),
        }
    }

    /// Answers the deployer, right before it touches anything, by what is so now.
    pub(super) async fn permits(&mut self, id: &PromotionId) -> Result<Result<Authority, String>, JournalError> {
        self.catch_up().await?;
        if let Some(lent) = self.lent.get(id) {
            return Ok(self.may_stay_lent(&lent.promotion, lent.approved.as_ref()).await);
        }
        let Some(open) = self.open.get(id) else { return Ok(Err("it is not on its way any more".to_owned())) };
        if let Some(why) = &open.withdrawn {
            return Ok(Err(why.clone()));
        }
        let (promotion, yes) = (open.promotion.clone(), open.approved.clone());
        let (ruling, _) = self.rule(&promotion, yes.as_ref()).await;
        Ok(self.authority(&ruling, &promotion, yes.as_ref()))
    }

    async fn may_stay_lent(&self, promotion: &Promotion, yes: Option<&Yes>) -> Result<Authority, String> {
        let Some(domain) = self.catalogue.domains.get(&promotion.domain) else {
            return Err(format!("there is no domain {:?}", promotion.domain));
        };
        let level = self.level(domain).await;
        let stop = self.seams.switch.stopped();
        let (now_ms, utc_offset_s) = (self.seams.clock.now_ms(), self.seams.clock.utc_offset_s());
        let scales = self.scales;
        let circumstances = Circumstances { level, stop: stop.as_ref(), now_ms, utc_offset_s, scales };
        let bound = yes.map(|yes| yes.binding.as_str());
        match recalls(promotion, domain, &circumstances, &self.config, bound) {
            Some(why) => Err(why),
            None => Ok(yes.map_or(Authority::Policy(level), |yes| Authority::Person(yes.uid))),
        }
    }

    pub(super) async fn consider(&mut self, id: &PromotionId) -> Result<(), JournalError> {
        let Some(open) = self.open.get_mut(id) else { return Ok(()) };
        let now_ms = self.seams.clock.now_ms();
        open.offered_at_ms = Some(now_ms);
        let (promotion, yes) = (open.promotion.clone(), open.approved.clone());
        if let Some(why) = open.withdrawn.clone() {
            return self.refuse(&promotion, why).await;
        }
        let (ruling, level) = self.rule(&promotion, yes.as_ref()).await;
        if let Some(twin) = self.twin_of(&promotion) {
            return self.refuse(&promotion, format!("the same change is proposed already, as {twin}")).await;
        }
        let ruling = self.crowded(&promotion, ruling);
        let authority = self.authority(&ruling, &promotion, yes.as_ref());
        if !matches!(ruling, Ruling::Hold { .. })
            && let Some(open) = self.open.get_mut(id)
        {
            open.held = None;
        }
        match (ruling, authority) {
            (Ruling::Refuse { why, .. }, _) => self.refuse(&promotion, why).await,
            (ruling @ Ruling::Hold { .. }, _) => self.hold_back(&promotion, ruling).await,
            (ruling @ Ruling::Advise { .. }, _) => self.advise(&promotion, ruling).await,
            (ruling @ Ruling::Allow { risk, .. }, Ok(Authority::Policy(level))) => {
                if self.write(&promotion, &ruling, None).await? {
                    tracing::info!(promotion = %promotion.id, %risk, level = u8::from(level), "promotion allowed");
                }
                self.let_through(promotion, Authority::Policy(level));
                Ok(())
            }
            // A person said yes to this very change, and a yes is not asked for twice. It does not last for ever.
            (_, Ok(authority)) => {
                self.let_through(promotion, authority);
                Ok(())
            }
            (_, Err(why)) if yes.is_some_and(|yes| self.is_too_old(&yes, &promotion)) => {
                self.refuse(&promotion, why).await
            }
            (ruling @ Ruling::Ask { .. }, Err(_)) => self.ask(promotion, &ruling).await,
            // What was asked under another policy is let through by this one.
            (ruling @ Ruling::Allow { .. }, Err(_)) => {
                self.write(&promotion, &ruling, None).await?;
                if let Some(open) = self.open.get_mut(&promotion.id) {
                    open.approved = None;
                }
                self.let_through(promotion, Authority::Policy(level));
                Ok(())
            }
        }
    }

    /// A yes to what has to wait for a maintenance window waits as long as anything that is held back.
    fn is_too_old(&self, yes: &Yes, promotion: &Promotion) -> bool {
        let waits = self.catalogue.domains.get(&promotion.domain).is_some_and(|domain| domain.in_place.is_some());
        let max_s = if waits { self.config.held_max_s } else { self.config.approval_expires_s };
        self.seams.clock.now_ms().saturating_sub(yes.at_ms) >= max_s.saturating_mul(1000)
    }

    async fn ask(&mut self, promotion: Promotion, ruling: &Ruling) -> Result<(), JournalError> {
        let Ruling::Ask { risk, why, until_ms, binding, .. } = ruling else { return Ok(()) };
        self.write(&promotion, ruling, None).await?;
        tracing::warn!(promotion = %promotion.id, %risk, %why, "promotion waits for a person");
        self.open.remove(&promotion.id);
        let (risk, why, binding, until_ms) = (*risk, why.clone(), binding.clone(), *until_ms);
        self.waiting.insert(promotion.id.clone(), Waiting { promotion, risk, why, binding, until_ms });
        self.show();
        Ok(())
    }

    /// What has to wait stays on its way, with the reason; not for ever.
    async fn hold_back(&mut self, promotion: &Promotion, ruling: Ruling) -> Result<(), JournalError> {
        let Ruling::Hold { held, why, .. } = &ruling else { return Ok(()) };
        let (held, why) = (*held, why.clone());
        let age_ms = self.seams.clock.now_ms().saturating_sub(promotion.at_ms);
        if age_ms >= self.config.held_max_s.saturating_mul(1000) && held != Held::Stopped {
            return self.refuse(promotion, format!("it waited too long: {why}")).await;
        }
        if self.write(promotion, &ruling, None).await? {
            tracing::warn!(promotion = %promotion.id, held = held.label(), %why, "promotion is held back");
        }
        if held == Held::Uncalibrated {
            wake(&self.exits.uncalibrated, promotion.domain.clone());
        }
        if let Some(open) = self.open.get_mut(&promotion.id) {
            open.held = Some((held, why));
        }
        self.show();
        Ok(())
    }

    async fn advise(&mut self, promotion: &Promotion, ruling: Ruling) -> Result<(), JournalError> {
        let why = format!("gate.advice is on: kloros winners tells what to set for {}", promotion.id);
        let ending = Ending::resting(&self.seams, promotion, "advised", &why, self.rest_s);
        if self.write(promotion, &ruling, ending.as_ref()).await? {
            tracing::info!(promotion = %promotion.id, domain = %promotion.domain, "advice is given");
        }
        self.open.remove(&promotion.id);
        Ending::tell(ending, &self.exits.ended);
        Ok(())
    }

    pub(super) async fn refuse(&mut self, promotion: &Promotion, why: String) -> Result<(), JournalError> {
        let ending = Ending::resting(&self.seams, promotion, "refused", &why, self.rest_s);
        tracing::warn!(promotion = %promotion.id, %why, "promotion refused");
        let ruling = Ruling::Refuse { promotion: promotion.id.clone(), why };
        self.write(promotion, &ruling, ending.as_ref()).await?;
        self.open.remove(&promotion.id);
        Ending::tell(ending, &self.exits.ended);
        Ok(())
    }

    /// Makes a ruling durable, with the end of the question that it brings, and says whether it is new.
    async fn write(
        &self,
        promotion: &Promotion,
        ruling: &Ruling,
        ending: Option<&Ending>,
    ) -> Result<bool, JournalError> {
        // It is asked again under another policy, and it may wait for one thing after another.
        let of_it = match ruling {
            Ruling::Ask { binding, .. } => format!(":{binding}"),
            Ruling::Hold { held, .. } => format!(":{}", held.label()),
            _ => String::new(),
        };
        let name = format!("ruling:{}:{}{of_it}", promotion.id, ruling.label());
        let fact = Fact::Ruling(ruling.clone());
        let entry = Entry::once(&promotion.cycle, self.seams.clock.now_ms(), name, fact);
        let written = record(&self.seams, Ending::with(ending, vec![entry])).await?;
        let is_new = matches!(written.first(), Some(Appended::At(_)));
        if is_new {
            metrics::counter!(meters::RULINGS_TOTAL, "ruling" => ruling.label()).increment(1);
        }
        Ok(is_new)
    }

    /// When too many wait already, one more is refused: a queue that nobody reads is not made longer.
    fn crowded(&self, promotion: &Promotion, ruling: Ruling) -> Ruling {
        let held = self.open.values().filter(|open| open.held.is_some() && open.promotion.id != promotion.id).count();
        let (count, whom) = match ruling {
            Ruling::Ask { .. } => (self.waiting.len(), "a person"),
            Ruling::Hold { .. } => (held, "their turn"),
            _ => return ruling,
        };
        if count < self.config.waiting_max as usize {
            return ruling;
        }
        let why = format!("{count} promotions wait for {whom} already");
        Ruling::Refuse { promotion: promotion.id.clone(), why }
    }

    /// Returns what is on its way and would change the same. The older one stays; one that waits was there before.
    fn twin_of(&self, promotion: &Promotion) -> Option<PromotionId> {
        let is_older = |other: &Promotion| (other.at_ms, &other.id) < (promotion.at_ms, &promotion.id);
        let waiting = self.waiting.values().map(|waiting| &waiting.promotion);
        let older = self.open.values().map(|open| &open.promotion).filter(|other| is_older(other));
        let mut others = waiting.chain(older).filter(|other| other.id != promotion.id);
        others.find(|other| other.is_same_change(promotion)).map(|other| other.id.clone())
    }

    /// Returns all that holds promotions back.
    pub(super) fn standing(&self) -> Standing {
        let (now_ms, utc_offset_s) = (self.seams.clock.now_ms(), self.seams.clock.utc_offset_s());
        let held = self.open.values().filter_map(|open| {
            let (held, why) = open.held.clone()?;
            Some(HeldBack { promotion: open.promotion.clone(), held, why })
        });
        Standing {
            stop: self.seams.switch.stopped(),
            freeze: freeze::in_force(&self.config.freeze, now_ms, utc_offset_s).map(ToString::to_string),
            advice: self.config.advice,
            waiting: self.waiting.values().cloned().collect(),
            held: held.collect(),
        }
    }
}
