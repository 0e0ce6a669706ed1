//! Tells in plain words what the loop does while it does it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use kloros_actors::facts::{
    Adoption, Anomaly, AnomalyKind, Change, Experience, Experiment, ExperimentEnd, ExperimentId, Fact, Generation, Key,
    Limit, Recorded, Refused, Reload, Reloaded, Ruling, Step, Verdict,
};

use super::{ask::approve_words, calibrate, lent, out::Out, story, text::shorten};
use crate::home::Home;

/// How much of a reason is told, in characters; `kloros explain` tells more.
const REASON_MAX: usize = 240;

/// The story of a run, line by line; on a terminal with a line below it that says what is going on now.
pub(crate) struct Progress<'a> {
    out: &'a mut Out,
    experiment: Option<Experiment>,
    tried: u32,
    best: Option<f64>,
    runs: u32,
    began_ms: u64,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(out: &'a mut Out) -> Self {
        Self { out, experiment: None, tried: 0, best: None, runs: 0, began_ms: 0 }
    }

    pub(crate) fn begin(&mut self, home: &Home, cycles: Option<u64>) -> io::Result<()> {
        if self.out.is_json() {
            return Ok(());
        }
        let until = match cycles {
            Some(1) => "until one cycle is closed".to_owned(),
            Some(cycles) => format!("until {cycles} cycles are closed"),
            None => "until Ctrl-C".to_owned(),
        };
        self.out.line(&format!("kloros runs in {} {until}", home.root().display()))?;
        self.now("watching, to learn what is normal")
    }

    /// Tells of one fact. A reader that went away does not stop the loop.
    pub(crate) fn tell(&mut self, recorded: &Recorded) {
        if self.out.is_json() {
            self.out.answer(recorded, String::new).ok();
            return;
        }
        if let Some(line) = self.line(&recorded.fact, recorded.at_ms) {
            self.say(&line).ok();
        }
        if let Some(now) = self.state(&recorded.fact, recorded.at_ms) {
            self.now(&now).ok();
        }
    }

    pub(crate) fn end(&mut self, how: &str) -> io::Result<()> {
        if self.out.is_json() {
            return Ok(());
        }
        self.say(how)
    }

    fn say(&mut self, line: &str) -> io::Result<()> {
        if self.out.is_terminal() {
            self.out.over("")?;
        }
        self.out.line(line)
    }

    fn now(&mut self, text: &str) -> io::Result<()> {
        if self.out.is_terminal() { self.out.over(&format!("  ... {text}")) } else { Ok(()) }
    }

    fn line(&mut self, fact: &Fact, at_ms: u64) -> Option<String> {
        match fact {
            Fact::Anomaly(anomaly) => Some(noticed(anomaly)),
            Fact::Question(question) => Some(format!("asks      {} ({})", question.hypothesis, question.question_id)),
            Fact::QuestionEnd(end) if end.how != "deployed" && end.how != "rolled_back" => {
                Some(format!("ends      {}: {}", end.question, shorten(&end.why, REASON_MAX)))
            }
            Fact::Experiment(experiment) => {
                self.experiment = Some(experiment.clone());
                (self.tried, self.best, self.began_ms) = (0, None, at_ms);
                let budget = experiment.spec.budget;
                Some(format!(
                    "evolves   {} with up to {} x {} measured candidates",
                    experiment.spec.domain, budget.max_generations, budget.max_candidates
                ))
            }
            Fact::Experience(experience) => Some(format!("knows     {}", known(experience))),
            Fact::Generation(generation) => {
                self.best = generation.best.as_ref().map(|best| percent_of_log(best.fitness));
                Some(measured(generation))
            }
            Fact::ExperimentEnd(ExperimentEnd::Won { winner, .. }) => {
                Some(format!("wins      {}, claimed {}", story::params(&winner.best.params), story::claimed(winner)))
            }
            Fact::Ruling(ruling) => Some(ruled(ruling)),
            Fact::Loan(_) | Fact::LoanStep { .. } => lent::line(fact),
            Fact::Deployment(deployment) => {
                self.runs = 0;
                Some(format!("deploys   {} as {}", changes(&deployment.promotion.changes), deployment.id))
            }
            Fact::Step { step: Step::Proven { .. }, .. } => {
                Some("reads     the new values back from the running service".to_owned())
            }
            Fact::Step { step: Step::Restored, .. } => Some("undoes    the change: the old values are back".to_owned()),
            Fact::Verdict(verdict) => Some(judged(verdict)),
            Fact::Switch(switch) => Some(match &switch.stop {
                Some(stop) => format!("stops     {stop}\n          kloros go"),
                None => "goes on   everything may go on".to_owned(),
            }),
            Fact::Adoption(adoption) => edited(adoption).map(|keys| format!("adopts    {keys}, edited by hand")),
            Fact::Anchored(anchored) => Some(format!("adopts    the baseline of {}, edited by hand", anchored.domain)),
            Fact::Calibration(known) => Some(format!("knows     {}", calibrate::words(known, known.at_ms))),
            Fact::Refused(refused) => Some(format!("refuses   {}", self::refused(refused))),
            Fact::Reload(reload) => Some(format!("reads     {}", reloaded(reload))),
            Fact::Thaw(thaw) => Some(format!("thaws     {}, user {} says so", thaw.domain, thaw.by_uid)),
            Fact::Lesson(lesson) => {
                Some(format!("learns    {}\n          kloros explain {}", lesson.says, lesson.cycle))
            }
            _ => None,
        }
    }

    fn state(&mut self, fact: &Fact, at_ms: u64) -> Option<String> {
        match fact {
            Fact::Trial(_) => {
                self.tried += 1;
                let experiment = self.experiment.as_ref()?;
                let budget = experiment.spec.budget;
                let total = budget.max_candidates * budget.max_generations;
                let left_s = at_ms.saturating_sub(self.began_ms) / 1000 * u64::from(total.saturating_sub(self.tried))
                    / u64::from(self.tried.max(1));
                let best = self.best.map_or_else(String::new, |best| format!(", best so far {best:+.0} %"));
                Some(format!("evolving: trial {} of {total}{best}, about {left_s} s left", self.tried))
            }
            Fact::Run { .. } => {
                self.runs += 1;
                Some(format!("validating: run {}, block {}", self.runs, self.runs.div_ceil(4)))
            }
            Fact::Step { step: Step::Applied, .. } => Some("deploying: the service restarts".to_owned()),
            Fact::Lesson(_) => Some("watching".to_owned()),
            Fact::LoanStep { .. } => lent::now(fact),
            _ => None,
        }
    }
}

fn noticed(anomaly: &Anomaly) -> String {
    let (is, than) = match anomaly.kind {
        AnomalyKind::Deviation => ("is", "its past says"),
        // It may have let up by the time that it is told.
        AnomalyKind::Objective => ("was up to", "its objective allows"),
        AnomalyKind::Pressure => ("was up to", "is comfortable"),
    };
    format!(
        "notices   {} {} {is} {}, where {than} {}{}",
        anomaly.subject,
        anomaly.metric,
        story::number(anomaly.observed),
        story::number(anomaly.expected),
        story::together(anomaly)
    )
}

fn measured(generation: &Generation) -> String {
    let best = generation
        .best
        .as_ref()
        .map_or_else(String::new, |best| format!(", best {:+.0} %", percent_of_log(best.fitness)));
    format!(
        "measured  generation {}: {} measured, {} failed{best}",
        generation.number, generation.measured, generation.failed
    )
}

fn ruled(ruling: &Ruling) -> String {
    match ruling {
        Ruling::Allow { risk, level, .. } => format!("permits   it: {risk} risk at autonomy {}", u8::from(*level)),
        Ruling::Ask { promotion, why, binding, .. } => {
            format!("waits     for you: {why}\n          {}", approve_words(promotion, binding))
        }
        Ruling::Refuse { why, .. } => format!("refuses   it: {}", shorten(why, REASON_MAX)),
        Ruling::Hold { why, .. } => format!("holds     it back: {}", shorten(why, REASON_MAX)),
        Ruling::Advise { promotion, .. } => {
            format!("advises   it and changes nothing: kloros winners\n          kloros explain {promotion}")
        }
    }
}

/// Says what was turned away, and why.
pub(super) fn refused(refused: &Refused) -> String {
    let by = refused.by_uid.map_or_else(String::new, |uid| format!(" by user {uid}"));
    format!("{}{by}: {}", refused.what, refused.why)
}

/// Says what came of reading the operator's files again.
pub(super) fn reloaded(reload: &Reload) -> String {
    let by = reload.by_uid.map(|uid| format!(", user {uid} asked for it")).unwrap_or_default();
    format!("settings: {}{by}", outcome(&reload.outcome))
}

/// Says what is in force, what is not yet, and what is wrong; empty where nothing is.
pub(super) fn outcome(outcome: &Reloaded) -> String {
    match outcome {
        Reloaded::Refused { problems } => {
            format!("refused, the old ones stay in force: {}", problems.join("; "))
        }
        Reloaded::Applied { changed, needs_restart, waits } => {
            let listed =
                |what: &str, keys: &[String]| (!keys.is_empty()).then(|| format!("{what} {}", keys.join(", ")));
            let changed: Vec<String> = changed.iter().map(ToString::to_string).collect();
            let parts = [
                listed("in force:", &changed),
                listed("after a restart:", needs_restart),
                listed("when its change is judged:", waits),
            ];
            parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
        }
    }
}

/// Returns the keys that a person edited; `None` where they were only seen for the first time.
pub(super) fn edited(adoption: &Adoption) -> Option<String> {
    let keys: Vec<&str> = adoption.edited.iter().map(Key::as_str).collect();
    (!keys.is_empty()).then(|| format!("{}: {}", adoption.domain, keys.join(", ")))
}

fn judged(verdict: &Verdict) -> String {
    let improvement =
        verdict.improvement.map_or_else(String::new, |estimate| format!(" {}", story::estimate(&estimate)));
    format!(
        "judges    {}{improvement}: {} ({} blocks, {} requests)",
        verdict.outcome,
        shorten(&verdict.reason.to_string(), REASON_MAX),
        verdict.blocks,
        verdict.samples
    )
}

/// Returns how many earlier trials were learned from, and of which experiments they are.
pub(crate) fn learned_from<'a>(from: impl Iterator<Item = &'a ExperimentId>) -> String {
    let from: Vec<&ExperimentId> = from.collect();
    let experiments: BTreeSet<&str> = from.iter().map(|id| id.as_str()).collect();
    let noun = if from.len() == 1 { "trial" } else { "trials" };
    format!("{} earlier {noun} of {}", from.len(), experiments.into_iter().collect::<Vec<_>>().join(", "))
}

pub(crate) fn changes(changes: &BTreeMap<Key, Change>) -> String {
    changes.iter().map(|(key, change)| format!("{key} {change}")).collect::<Vec<_>>().join(", ")
}

/// Returns what an experiment knows when it begins: what earlier ones measured, and what the machine has left for it.
pub(crate) fn known(experience: &Experience) -> String {
    let Experience { trials, resolves, limits, .. } = experience;
    let of_trials = (!trials.is_empty()).then(|| learned_from(trials.iter().map(|trial| &trial.from)));
    let resolved = resolves.map(|resolves| format!("that {:.1} % can be told from nothing", resolves * 100.0));
    let left = |limit: &Limit| {
        let names = limit.each.keys().map(String::as_str).collect::<Vec<_>>().join(" and ");
        format!("{} at most for {names}", limit.of.amount(limit.max))
    };
    of_trials.into_iter().chain(resolved).chain(limits.iter().map(left)).collect::<Vec<_>>().join("; ")
}

/// Fitness is a log ratio; people read percents.
pub(crate) fn percent_of_log(fitness: f64) -> f64 {
    fitness.exp_m1() * 100.0
}

#[cfg(test)]
mod tests {
    use kloros_actors::facts::{EarlierTrial, Resource};

    use super::*;

    #[test]
    fn what_an_experiment_knows_is_said_whatever_of_it_there_is() {
        let from = ExperimentId::new("x-1");
        let trial = EarlierTrial { from, params: BTreeMap::new(), fitness: None, age_days: 1.0, distance: 0.0 };
        let limit = Limit { of: Resource::GpuMemory, each: [("ubatch".to_owned(), 0.5)].into(), max: 73_318.4 };
        let mut experience = Experience {
            experiment: ExperimentId::new("x-2"),
            trials: vec![trial],
            resolves: Some(0.025),
            limits: vec![limit],
        };
        let all = "1 earlier trial of x-1; that 2.5 % can be told from nothing; 73318 MiB of memory of one GPU at most for ubatch";
        assert_eq!(known(&experience), all);
        (experience.trials, experience.resolves) = (Vec::new(), None);
        assert_eq!(known(&experience), "73318 MiB of memory of one GPU at most for ubatch");
    }
}
