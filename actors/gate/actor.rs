use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kloros_supervision::to_self;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use serde::{Deserialize, Serialize};

use super::{
    Config,
    autonomy::{LEVEL_KEY, in_force},
    policy::{History, inspect},
};
use crate::{
    config::Catalogue,
    env_file,
    facts::{
        Answer, Approved, Authority, Autonomy, Domain, Entry, Fact, Key, Kind, Lesson, Promotion, PromotionId,
        QuestionEnd, Risk, Ruling,
    },
    meters,
    record::{Ending, record, wake},
    seams::{Appended, EnvStore, JournalError, Outlet, Query, Seams},
};

/// What the gate says.
#[derive(Clone, Debug)]
pub struct Exits {
    /// A promotion that may go on.
    pub approved: Outlet<Approved<Promotion>>,
    /// A question that ended here.
    pub ended: Outlet<QuestionEnd>,
}

/// What the gate hears.
#[derive(Debug)]
pub enum Msg {
    /// Somebody wants to change a service.
    Proposed(Promotion),
    /// A person answers, and wants to know what came of it.
    Answered(Answer, RpcReplyPort<Result<Promotion, String>>),
    /// Somebody wants to know what waits for a person.
    Asked(RpcReplyPort<Vec<Waiting>>),
    /// It is time to see whose time is over.
    Sweep,
    /// A verdict taught something.
    Learned(Lesson),
    /// The operator changed the settings.
    Reconfigured(Config),
}

/// A promotion that waits for a person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// What waits.
    pub promotion: Promotion,
    /// Its risk.
    pub risk: Risk,
    /// Why a person is asked.
    pub why: String,
    /// When silence becomes a no, in milliseconds since the Unix epoch.
    pub until_ms: u64,
}

/// What the gate needs.
pub struct Arguments {
    /// What is plugged in.
    pub seams: Seams,
    /// Where promotions go on.
    pub exits: Exits,
    /// The room's settings.
    pub config: Config,
    /// The domains.
    pub catalogue: Arc<Catalogue>,
    /// How long a question rests that ended without a deployment, in seconds.
    pub rest_s: u64,
}

/// Decides which changes may be made without a person.
pub struct Gate;

/// What the gate remembers: a fold of the journal.
pub struct State {
    seams: Seams,
    exits: Exits,
    config: Config,
    catalogue: Arc<Catalogue>,
    rest_s: u64,
    /// What was proposed and neither refused nor deployed, and does not wait for a person.
    open: BTreeMap<PromotionId, Open>,
    waiting: BTreeMap<PromotionId, Waiting>,
    history: History,
    /// Up to where the journal was read.
    seen: u64,
}

/// A promotion on its way.
struct Open {
    promotion: Promotion,
    /// Who approved it, and when, in milliseconds since the Unix epoch; nobody where policy is asked.
    approved: Option<(u32, u64)>,
    /// When it was last let through, in milliseconds since the Unix epoch.
    offered_at_ms: Option<u64>,
}

/// When a promotion is offered again that was let through and is still not deployed: the deployer was down, or its
/// domain busy. What was allowed then may not be now, so each offer is ruled on anew.
const OFFER_AGAIN_AFTER_MS: u64 = 10_000;

/// How often it is looked whose time is over.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How many facts of the past are read at start.
const HISTORY_MAX: usize = 5_000;

impl Actor for Gate {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { seams, exits, config, catalogue, rest_s } = arguments;
        let (open, waiting, history) = (BTreeMap::new(), BTreeMap::new(), History::default());
        let mut state = State { seams, exits, config, catalogue, rest_s, open, waiting, history, seen: 0 };
        state.catch_up().await?;
        to_self(&myself, Msg::Sweep)?;
        Ok(state)
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            // What is proposed stands in the journal: the message only says that it is time to look there.
            Msg::Proposed(_) => state.work().await?,
            Msg::Answered(answer, reply) => state.settle(answer, reply).await,
            // Who asked may have gone meanwhile, which is no failure of the gate.
            Msg::Asked(reply) => drop(reply.send(state.waiting.values().cloned().collect())),
            Msg::Sweep => {
                state.expire().await;
                state.work().await?;
                myself.send_after(SWEEP_EVERY, || Msg::Sweep);
            }
            Msg::Learned(lesson) => state.history.learned(&lesson),
            Msg::Reconfigured(config) => state.config = config,
        }
        Ok(())
    }
}

impl State {
    /// Folds what the journal has since it was last read; at first the newest of its past.
    async fn catch_up(&mut self) -> Result<(), JournalError> {
        let kinds = [Kind::Promotion, Kind::Ruling, Kind::Answer, Kind::Deployment, Kind::Verdict, Kind::Lesson];
        let query = match self.seen {
            0 => Query::newest(&kinds, HISTORY_MAX),
            seen => Query { after: seen, ..Query::kinds(&kinds) },
        };
        let mut recorded = self.seams.journal.read(query).await?;
        recorded.sort_by_key(|each| each.seq);
        for each in recorded {
            self.seen = each.seq;
            self.fold(each.fact, each.at_ms);
        }
        self.show();
        Ok(())
    }

    fn fold(&mut self, fact: Fact, at_ms: u64) {
        match fact {
            Fact::Promotion(promotion) => {
                if let Some(overtaken) = &promotion.replaces {
                    self.open.remove(overtaken);
                    self.waiting.remove(overtaken);
                }
                let id = promotion.id.clone();
                self.open.insert(id, Open { promotion, approved: None, offered_at_ms: None });
            }
            Fact::Ruling(Ruling::Ask { promotion, risk, why, until_ms, .. }) => {
                if let Some(Open { promotion, .. }) = self.open.remove(&promotion) {
                    let waiting = Waiting { promotion, risk, why, until_ms };
                    self.waiting.insert(waiting.promotion.id.clone(), waiting);
                }
            }
            Fact::Ruling(Ruling::Refuse { promotion, .. }) => drop(self.open.remove(&promotion)),
            Fact::Answer(Answer { promotion, approved, by_uid, .. }) => {
                if let Some(waiting) = self.waiting.remove(&promotion)
                    && let (true, Some(uid)) = (approved, by_uid)
                {
                    let approved = Some((uid, at_ms));
                    let open = Open { promotion: waiting.promotion, approved, offered_at_ms: None };
                    self.open.insert(promotion, open);
                }
            }
            Fact::Deployment(deployment) => {
                self.open.remove(&deployment.promotion.id);
                self.history.deployed(&deployment);
            }
            Fact::Verdict(verdict) => self.history.judged(&verdict),
            Fact::Lesson(lesson) => self.history.learned(&lesson),
            _ => {}
        }
    }

    /// Rules on everything that was proposed and is on its way, and was not ruled on just now.
    async fn work(&mut self) -> Result<(), JournalError> {
        self.catch_up().await?;
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

    async fn consider(&mut self, id: &PromotionId) -> Result<(), JournalError> {
        let Some(open) = self.open.get_mut(id) else { return Ok(()) };
        let now_ms = self.seams.clock.now_ms();
        open.offered_at_ms = Some(now_ms);
        let (promotion, approved) = (open.promotion.clone(), open.approved);
        let Some(domain) = self.catalogue.domains.get(&promotion.domain).cloned() else {
            return self.refuse(&promotion, format!("there is no domain {:?}", promotion.domain)).await;
        };
        let level = self.level(&domain).await;
        let ruling = inspect(&promotion, &domain, &self.history, level, &self.config, now_ms);
        if let Some(twin) = self.twin_of(&promotion) {
            return self.refuse(&promotion, format!("the same change is proposed already, as {twin}")).await;
        }
        match (self.crowded(ruling), approved) {
            (Ruling::Refuse { why, .. }, _) => self.refuse(&promotion, why).await,
            // A person said yes to this very change, and a yes is not asked for twice. It does not last for ever.
            (_, Some((uid, at_ms))) => {
                if now_ms.saturating_sub(at_ms) < self.config.approval_expires_s.saturating_mul(1000) {
                    self.let_through(promotion, Authority::Person(uid));
                    return Ok(());
                }
                self.refuse(&promotion, "it was approved, and could not be deployed in time".to_owned()).await
            }
            (ruling @ Ruling::Allow { risk, .. }, None) => {
                if self.write(&promotion, &ruling, None).await? {
                    tracing::info!(promotion = %promotion.id, %risk, level = u8::from(level), "promotion allowed");
                }
                self.let_through(promotion, Authority::Policy(level));
                Ok(())
            }
            (ruling @ Ruling::Ask { .. }, None) => self.hold(promotion, &ruling).await,
        }
    }

    async fn hold(&mut self, promotion: Promotion, ruling: &Ruling) -> Result<(), JournalError> {
        let Ruling::Ask { risk, why, until_ms, .. } = ruling else { return Ok(()) };
        self.write(&promotion, ruling, None).await?;
        tracing::warn!(promotion = %promotion.id, %risk, %why, "promotion waits for a person");
        self.open.remove(&promotion.id);
        let waiting = Waiting { promotion, risk: *risk, why: why.clone(), until_ms: *until_ms };
        self.waiting.insert(waiting.promotion.id.clone(), waiting);
        self.show();
        Ok(())
    }

    async fn refuse(&mut self, promotion: &Promotion, why: String) -> Result<(), JournalError> {
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
        let name = format!("ruling:{}:{}", promotion.id, ruling.label());
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
    fn crowded(&self, ruling: Ruling) -> Ruling {
        match ruling {
            Ruling::Ask { promotion, .. } if self.waiting.len() >= self.config.waiting_max as usize => Ruling::Refuse {
                promotion,
                why: format!("{} promotions wait for a person already", self.waiting.len()),
            },
            other => other,
        }
    }

    /// Returns what is on its way and would change the same. The older one stays; one that waits was there before.
    fn twin_of(&self, promotion: &Promotion) -> Option<PromotionId> {
        let is_older = |other: &Promotion| (other.at_ms, &other.id) < (promotion.at_ms, &promotion.id);
        let waiting = self.waiting.values().map(|waiting| &waiting.promotion);
        let older = self.open.values().map(|open| &open.promotion).filter(|other| is_older(other));
        let mut others = waiting.chain(older).filter(|other| other.id != promotion.id);
        others.find(|other| other.is_same_change(promotion)).map(|other| other.id.clone())
    }

    async fn level(&self, domain: &Domain) -> Autonomy {
        let (level, why) = level_of(&*self.seams.env, domain, self.config.autonomy).await;
        if let Some(why) = why {
            tracing::info!(domain = %domain.name, level = u8::from(level), %why, "autonomy level is not the ceiling");
        }
        metrics::gauge!(meters::AUTONOMY_LEVEL).set(f64::from(u8::from(level)));
        level
    }

    fn let_through(&self, promotion: Promotion, authority: Authority) {
        wake(&self.exits.approved, Approved::by(authority, promotion));
    }

    async fn settle(&mut self, answer: Answer, reply: RpcReplyPort<Result<Promotion, String>>) {
        let result = self.answer(answer).await;
        // The caller may have gone; the answer stands all the same.
        reply.send(result).ok();
    }

    async fn answer(&mut self, answer: Answer) -> Result<Promotion, String> {
        let Some(waiting) = self.waiting.get(&answer.promotion).cloned() else {
            return Err(format!("nothing waits under {}", answer.promotion));
        };
        let now_ms = self.seams.clock.now_ms();
        let promotion = waiting.promotion;
        let how = match (answer.approved, answer.by_uid) {
            (true, None) => return Err("an approval needs a person".to_owned()),
            (true, Some(_)) if waiting.until_ms <= now_ms => return Err(format!("{} has expired", promotion.id)),
            (true, Some(uid)) => Ok(uid),
            (false, Some(_)) => Err(("refused", answer.why.as_deref().unwrap_or("a person said no"))),
            (false, None) => Err(("expired", "nobody answered in time")),
        };
        let ending = how.err().and_then(|(how, why)| Ending::resting(&self.seams, &promotion, how, why, self.rest_s));
        let name = format!("answer:{}", promotion.id);
        let entry = Entry::once(&promotion.cycle, now_ms, name, Fact::Answer(answer.clone()));
        let written = record(&self.seams, Ending::with(ending.as_ref(), vec![entry])).await;
        let written = written.map_err(|error| error.to_string())?;
        self.waiting.remove(&promotion.id);
        self.show();
        if written.first() == Some(&Appended::Already) {
            return Err(format!("{} was answered already", promotion.id));
        }
        Ending::tell(ending, &self.exits.ended);
        if let Ok(uid) = how {
            let (approved, offered_at_ms) = (Some((uid, now_ms)), Some(now_ms));
            let open = Open { promotion: promotion.clone(), approved, offered_at_ms };
            self.open.insert(promotion.id.clone(), open);
            self.let_through(promotion.clone(), Authority::Person(uid));
        }
        Ok(promotion)
    }

    /// Silence is a no.
    async fn expire(&mut self) {
        let now_ms = self.seams.clock.now_ms();
        let over: Vec<PromotionId> = self
            .waiting
            .values()
            .filter(|waiting| waiting.until_ms <= now_ms)
            .map(|waiting| waiting.promotion.id.clone())
            .collect();
        for promotion in over {
            let answer = Answer { promotion, approved: false, by_uid: None, why: None };
            if let Err(why) = self.answer(answer).await {
                tracing::warn!(%why, "expiry not recorded");
            }
        }
    }

    fn show(&self) {
        metrics::gauge!(meters::APPROVALS_PENDING).set(self.waiting.len() as f64);
    }
}

/// Returns the level in force in `domain`: the `ceiling` of the settings, lowered by the env file if that says so; and
/// what is to be said about it, where the env file says anything that matters.
pub async fn level_of(env: &dyn EnvStore, domain: &Domain, ceiling: Autonomy) -> (Autonomy, Option<String>) {
    let said = match env.read(&domain.service.env_file).await {
        Ok(file) => Key::new(LEVEL_KEY).ok().and_then(|key| env_file::value_of(&file.bytes, &key).transpose()),
        // What cannot be read cannot raise the level, and it may have lowered it.
        Err(error) => return (Autonomy::Manual, Some(format!("the env file cannot be read: {error}"))),
    };
    let said = said.transpose().unwrap_or_else(|problem| Some(problem.to_string()));
    let (level, complaint) = in_force(ceiling, said.as_deref());
    let lowered = (level < ceiling).then(|| format!("{LEVEL_KEY} in the env file lowers it"));
    (level, complaint.or(lowered))
}
