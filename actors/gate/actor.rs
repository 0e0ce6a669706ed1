use std::{collections::BTreeMap, sync::Arc, time::Duration};

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
    record::{record, wake},
    seams::{Appended, JournalError, Outlet, Query, Seams},
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
    waiting: BTreeMap<PromotionId, Waiting>,
    history: History,
}

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
        let (waiting, history) = (BTreeMap::new(), History::default());
        let mut state = State { seams, exits, config, catalogue, rest_s, waiting, history };
        for promotion in state.replay().await? {
            myself.send_message(Msg::Proposed(promotion))?;
        }
        myself.send_message(Msg::Sweep)?;
        Ok(state)
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Proposed(promotion) => state.consider(promotion).await?,
            Msg::Answered(answer, reply) => state.settle(answer, reply).await,
            // Who asked may have gone meanwhile, which is no failure of the gate.
            Msg::Asked(reply) => drop(reply.send(state.waiting.values().cloned().collect())),
            Msg::Sweep => {
                state.expire().await;
                myself.send_after(SWEEP_EVERY, || Msg::Sweep);
            }
            Msg::Learned(lesson) => state.history.learned(&lesson),
            Msg::Reconfigured(config) => state.config = config,
        }
        Ok(())
    }
}

impl State {
    /// Reads the journal and returns the promotions that nobody ruled on, or that were let through and never deployed.
    async fn replay(&mut self) -> Result<Vec<Promotion>, JournalError> {
        let kinds = [Kind::Promotion, Kind::Ruling, Kind::Answer, Kind::Deployment, Kind::Verdict, Kind::Lesson];
        let mut recorded = self.seams.journal.read(Query::newest(&kinds, HISTORY_MAX)).await?;
        recorded.reverse();
        let mut open: BTreeMap<PromotionId, Promotion> = BTreeMap::new();
        for each in recorded {
            match each.fact {
                Fact::Promotion(promotion) => drop(open.insert(promotion.id.clone(), promotion)),
                Fact::Ruling(Ruling::Ask { promotion, risk, why, until_ms, .. }) => {
                    if let Some(promotion) = open.remove(&promotion) {
                        let waiting = Waiting { promotion, risk, why, until_ms };
                        self.waiting.insert(waiting.promotion.id.clone(), waiting);
                    }
                }
                Fact::Ruling(Ruling::Refuse { promotion, .. }) => drop(open.remove(&promotion)),
                Fact::Answer(answer) => {
                    // An approval that was not yet deployed is asked for again: what was allowed then may not be now.
                    if let Some(waiting) = self.waiting.remove(&answer.promotion)
                        && answer.approved
                    {
                        open.insert(answer.promotion, waiting.promotion);
                    }
                }
                Fact::Deployment(deployment) => {
                    open.remove(&deployment.promotion.id);
                    self.history.deployed(&deployment);
                }
                Fact::Verdict(verdict) => self.history.judged(&verdict),
                Fact::Lesson(lesson) => self.history.learned(&lesson),
                _ => {}
            }
        }
        Ok(open.into_values().collect())
    }

    async fn consider(&mut self, promotion: Promotion) -> Result<(), JournalError> {
        if self.waiting.contains_key(&promotion.id) {
            return Ok(());
        }
        let now_ms = self.seams.clock.now_ms();
        let Some(domain) = self.catalogue.domains.get(&promotion.domain).cloned() else { return Ok(()) };
        let level = self.level(&domain).await;
        let ruling = inspect(&promotion, &domain, &self.history, level, &self.config, now_ms);
        let ruling = self.crowded(ruling);
        let fact = Fact::Ruling(ruling.clone());
        let name = format!("ruling:{}:{}", promotion.id, ruling.label());
        let entry = Entry::once(&promotion.cycle, now_ms, name, fact);
        record(&self.seams, vec![entry]).await?;
        metrics::counter!(meters::RULINGS_TOTAL, "ruling" => ruling.label()).increment(1);
        match ruling {
            Ruling::Allow { risk, .. } => {
                tracing::info!(promotion = %promotion.id, %risk, level = u8::from(level), "promotion allowed");
                self.let_through(promotion, Authority::Policy(level));
            }
            Ruling::Ask { risk, why, until_ms, .. } => {
                tracing::warn!(promotion = %promotion.id, %risk, %why, "promotion waits for a person");
                self.waiting.insert(promotion.id.clone(), Waiting { promotion, risk, why, until_ms });
                self.show();
            }
            Ruling::Refuse { why, .. } => {
                tracing::warn!(promotion = %promotion.id, %why, "promotion refused");
                self.end(&promotion, "refused", &why).await;
            }
        }
        Ok(())
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

    /// Returns the level in force: the ceiling of the settings, lowered by the env file if that says so.
    async fn level(&self, domain: &Domain) -> Autonomy {
        let said = match self.seams.env.read(&domain.service.env_file).await {
            Ok(file) => Key::new(LEVEL_KEY).ok().and_then(|key| env_file::value_of(&file.bytes, &key).transpose()),
            // What cannot be read cannot raise the level, and it may have lowered it.
            Err(error) => {
                tracing::warn!(%error, "autonomy level cannot be read, a person is asked");
                return Autonomy::Manual;
            }
        };
        let said = said.transpose().unwrap_or_else(|problem| Some(problem.to_string()));
        let (level, complaint) = in_force(self.config.autonomy, said.as_deref());
        if let Some(complaint) = complaint {
            tracing::warn!(%complaint, "autonomy level in the env file");
        }
        metrics::gauge!(meters::AUTONOMY_LEVEL).set(f64::from(u8::from(level)));
        level
    }

    fn let_through(&mut self, promotion: Promotion, authority: Authority) {
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
        let name = format!("answer:{}", promotion.id);
        let entry = Entry::once(&promotion.cycle, now_ms, name, Fact::Answer(answer.clone()));
        match record(&self.seams, vec![entry]).await {
            Ok(written) if matches!(written.first(), Some(Appended::At(_))) => {}
            Ok(_) => return Err(format!("{} was answered already", promotion.id)),
            Err(error) => return Err(error.to_string()),
        }
        self.waiting.remove(&promotion.id);
        self.show();
        let why = answer.why.clone().unwrap_or_else(|| "a person said no".to_owned());
        match (answer.approved, answer.by_uid) {
            (true, Some(uid)) => self.let_through(promotion.clone(), Authority::Person(uid)),
            (true, None) => return Err("an approval needs a person".to_owned()),
            (false, Some(_)) => self.end(&promotion, "refused", &why).await,
            (false, None) => self.end(&promotion, "expired", "nobody answered in time").await,
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

    async fn end(&self, promotion: &Promotion, how: &str, why: &str) {
        let (Some(question), Some(hypothesis)) = (promotion.question.clone(), promotion.hypothesis.clone()) else {
            return;
        };
        let now_ms = self.seams.clock.now_ms();
        let end = QuestionEnd {
            question,
            hypothesis,
            domain: promotion.domain.clone(),
            how: how.to_owned(),
            why: why.to_owned(),
            eligible_at_ms: now_ms + self.rest_s * 1000,
        };
        let name = format!("question_end:{}", end.question);
        let entry = Entry::once(&promotion.cycle, now_ms, name, Fact::QuestionEnd(end.clone()));
        if record(&self.seams, vec![entry]).await.is_ok() {
            wake(&self.exits.ended, end);
        }
    }

    fn show(&self) {
        metrics::gauge!(meters::APPROVALS_PENDING).set(self.waiting.len() as f64);
    }
}
