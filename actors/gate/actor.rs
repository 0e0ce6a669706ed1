use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kloros_supervision::to_self;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use super::{
    Config, Scales,
    autonomy::{LEVEL_KEY, in_force},
    history::History,
    standing::{Standing, Waiting},
};
use crate::{
    config::Catalogue,
    env_file,
    facts::{
        Answer, Approved, Authority, Autonomy, Domain, Entry, Fact, Held, Key, Lesson, Promotion, PromotionId,
        QuestionEnd, Stop,
    },
    meters,
    record::{Ending, record, wake},
    seams::{Appended, EnvStore, Outlet, Permit, Seams},
};

/// What the gate says.
#[derive(Clone, Debug)]
pub struct Exits {
    /// A promotion that may go on.
    pub approved: Outlet<Approved<Promotion>>,
    /// A question that ended here.
    pub ended: Outlet<QuestionEnd>,
    /// A domain whose noise has to be known before it is changed.
    pub uncalibrated: Outlet<String>,
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
    /// Somebody wants to know all that holds promotions back.
    Looked(RpcReplyPort<Standing>),
    /// The deployer asks whether what was let through may still go on.
    Rechecked(Permit),
    /// A person lets a frozen domain go on, and wants to know whether that helps.
    Thawed(String, u32, RpcReplyPort<Result<(), String>>),
    /// It is time to see whose time is over.
    Sweep,
    /// A verdict taught something.
    Learned(Lesson),
    /// A heartbeat, to be sent back.
    Pulse(RpcReplyPort<()>),
    /// The operator changed the settings, or how long a question rests that ended without a deployment, in seconds, or what it
    /// takes to judge a change.
    Reconfigured(Config, u64, Scales),
    /// The operator changed the domains or experiments.
    Catalogued(Arc<Catalogue>),
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
    /// What it takes to judge a change.
    pub scales: Scales,
}

/// Decides which changes may be made without a person.
pub struct Gate;

/// What the gate remembers: a fold of the journal.
pub struct State {
    pub(super) seams: Seams,
    pub(super) exits: Exits,
    pub(super) config: Config,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) rest_s: u64,
    pub(super) scales: Scales,
    /// What was proposed and neither refused nor deployed, and does not wait for a person.
    pub(super) open: BTreeMap<PromotionId, Open>,
    pub(super) waiting: BTreeMap<PromotionId, Waiting>,
    /// What a service is lent for now.
    pub(super) lent: BTreeMap<PromotionId, Open>,
    pub(super) history: History,
    /// What the journal says of the switch.
    pub(super) stop: Option<Stop>,
    /// When it was looked for edits by hand last, in milliseconds since the Unix epoch.
    pub(super) looked_ms: Option<u64>,
    /// Up to where the journal was read.
    pub(super) seen: u64,
}

/// A promotion on its way.
pub(super) struct Open {
    pub(super) promotion: Promotion,
    /// Who approved it; nobody where policy is asked.
    pub(super) approved: Option<Yes>,
    /// When it was last ruled on, in milliseconds since the Unix epoch.
    pub(super) offered_at_ms: Option<u64>,
    /// What it waits for, where it was not let through.
    pub(super) held: Option<(Held, String)>,
    /// Why a person took it back.
    pub(super) withdrawn: Option<String>,
}

/// A person's yes.
#[derive(Clone)]
pub(super) struct Yes {
    pub(super) uid: u32,
    /// When, in milliseconds since the Unix epoch.
    pub(super) at_ms: u64,
    /// To what.
    pub(super) binding: String,
}

impl Open {
    pub(super) fn of(promotion: Promotion, approved: Option<Yes>) -> Self {
        Self { promotion, approved, offered_at_ms: None, held: None, withdrawn: None }
    }
}

/// How often it is looked whose time is over.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

impl Actor for Gate {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { seams, exits, config, catalogue, rest_s, scales } = arguments;
        let (open, waiting, lent, history) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new(), History::default());
        let (stop, looked_ms, seen) = (None, None, 0);
        let mut state = State {
            seams,
            exits,
            config,
            catalogue,
            rest_s,
            scales,
            open,
            waiting,
            lent,
            history,
            stop,
            looked_ms,
            seen,
        };
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
            Msg::Looked(reply) => drop(reply.send(state.standing())),
            Msg::Rechecked(permit) => {
                let may = state.permits(&permit.promotion).await?;
                // A deployer that no longer listens deploys nothing.
                permit.reply.send(may).ok();
            }
            Msg::Thawed(domain, uid, reply) => {
                let thawed = state.thaw(&domain, uid).await?;
                reply.send(thawed).ok();
            }
            Msg::Sweep => {
                state.watch_switch().await?;
                state.watch_edits().await?;
                state.expire().await;
                state.work().await?;
                myself.send_after(SWEEP_EVERY, || Msg::Sweep);
            }
            Msg::Learned(lesson) => state.history.learned(&lesson),
            Msg::Pulse(reply) => drop(reply.send(())),
            Msg::Reconfigured(config, rest_s, scales) => {
                (state.config, state.rest_s, state.scales) = (config, rest_s, scales);
            }
            Msg::Catalogued(catalogue) => state.catalogue = catalogue,
        }
        Ok(())
    }
}

impl State {
    pub(super) async fn level(&self, domain: &Domain) -> Autonomy {
        let (level, why) = level_of(&*self.seams.env, domain, self.config.autonomy).await;
        if let Some(why) = why {
            tracing::debug!(domain = %domain.name, level = u8::from(level), %why, "autonomy level is not the ceiling");
        }
        level
    }

    pub(super) fn let_through(&self, promotion: Promotion, authority: Authority) {
        wake(&self.exits.approved, Approved::by(authority, promotion));
    }

    async fn settle(&mut self, answer: Answer, reply: RpcReplyPort<Result<Promotion, String>>) {
        let result = self.answer(answer).await;
        // The caller may have gone; the answer stands all the same.
        reply.send(result).ok();
    }

    async fn answer(&mut self, answer: Answer) -> Result<Promotion, String> {
        let Some(waiting) = self.waiting.get(&answer.promotion).cloned() else {
            return self.withdraw(answer).await;
        };
        if answer.approved && (answer.binding != waiting.binding || self.is_void(&waiting)) {
            return Err(format!("{} is not what was shown any more: look at it again", answer.promotion));
        }
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
        // It may be asked again under another policy, and is answered then once more.
        let name = format!("answer:{}:{}", promotion.id, waiting.binding);
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
            let yes = Yes { uid, at_ms: now_ms, binding: answer.binding };
            self.open.insert(promotion.id.clone(), Open::of(promotion.clone(), Some(yes)));
            // A yes stands in for no other check.
            self.consider(&promotion.id).await.map_err(|error| error.to_string())?;
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
            let answer = Answer { promotion, approved: false, by_uid: None, why: None, binding: String::new() };
            if let Err(why) = self.answer(answer).await {
                tracing::warn!(%why, "expiry not recorded");
            }
        }
    }

    pub(super) fn show(&self) {
        metrics::gauge!(meters::APPROVALS_PENDING).set(self.waiting.len() as f64);
        let held = self.open.values().filter(|open| open.held.is_some()).count();
        metrics::gauge!(meters::PROMOTIONS_HELD).set(held as f64);
        metrics::gauge!(meters::STOPPED).set(f64::from(u8::from(self.stop.is_some())));
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
