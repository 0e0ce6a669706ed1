//! What an experiment begins with: the live settings, what earlier ones measured, and how small a difference can be told.

use std::collections::BTreeMap;

use super::{
    Config,
    earlier::{Past, Present, earlier, is_refuted},
    limits::limits,
    space::SearchSpace,
};
use crate::{
    env_file,
    facts::{
        Attempt, Domain, EarlierTrial, Entry, Experience, Experiment, ExperimentEnd, Fact, Key, Kind, Knob, Load,
        Params, Settings, Trial, Verdict,
    },
    record::record,
    seams::{JournalError, Query, Seams},
};

/// How many of the newest experiments are searched for those of the domain, and of the newest verdicts for theirs.
const EXPERIMENTS_MAX: usize = 1_000;

/// How many of a domain's newest calibrations are looked at for one that came to an end.
const CALIBRATIONS_MAX: usize = 20;

/// Returns the live parameters of an experiment that begins now, and what it knows beforehand, which is durable then.
pub(super) async fn begin(
    seams: &Seams,
    config: &Config,
    domain: &Domain,
    experiment: &Experiment,
    spare: &Load,
) -> Result<(Params, Experience), JournalError> {
    let settings = live_settings(seams, domain).await;
    let live = params_of(&settings, experiment);
    let limits = if domain.knobs.values().any(|knob| knob.takes.is_some()) {
        limits(domain, experiment, &settings, &seams.capacity.room(&[domain]).await, spare)
    } else {
        Vec::new()
    };
    let trials = experience(seams, config, Present { experiment, live: &live, domain }).await?;
    let resolves = resolves(seams, domain).await?;
    let known = Experience { trials, resolves, limits, ..nothing(experiment) };
    if let Some(entry) = learned(experiment, &known, seams.clock.now_ms()) {
        record(seams, vec![entry]).await?;
    }
    Ok((live, known))
}

/// Returns what an experiment knows that knows nothing beforehand.
pub(super) fn nothing(experiment: &Experiment) -> Experience {
    Experience { experiment: experiment.id.clone(), trials: Vec::new(), resolves: None, limits: Vec::new() }
}

/// Returns what is to become durable of an experiment that knows this much.
fn learned(experiment: &Experiment, known: &Experience, at_ms: u64) -> Option<Entry> {
    let name = format!("experience:{}", experiment.id);
    (*known != nothing(experiment))
        .then(|| Entry::once(&experiment.cycle, at_ms, name, Fact::Experience(known.clone())))
}

/// Returns the smallest effect that a validation of `domain` tells from none, as a ratio, by the newest time that it was measured
/// against itself as it is measured now; `None` where it never was, as where it is measured in place.
async fn resolves(seams: &Seams, domain: &Domain) -> Result<Option<f64>, JournalError> {
    let newest = Query::newest(&[Kind::Calibration], CALIBRATIONS_MAX).about(&domain.name);
    let measured_by = domain.measured_by();
    let noise = |fact| match fact {
        Fact::Calibration(calibration) if calibration.measured_by == measured_by => calibration.outcome.ok(),
        _ => None,
    };
    let known = seams.journal.read(newest).await?.into_iter().find_map(|recorded| noise(recorded.fact));
    Ok(known.map(|noise| noise.resolves).filter(|resolves| resolves.is_finite()))
}

/// Returns the mark of an experiment that goes to measure, of which so many trials have ended.
pub(super) fn attempt(experiment: &Experiment, trials: usize, at_ms: u64) -> Entry {
    let trials = trials.try_into().unwrap_or(u32::MAX);
    let fact = Fact::Attempt(Attempt { experiment: experiment.id.clone(), trials });
    Entry::new(&experiment.cycle, at_ms, fact)
}

/// Returns the live parameters of an experiment.
pub(super) async fn live_params(seams: &Seams, domain: &Domain, experiment: &Experiment) -> Params {
    params_of(&live_settings(seams, domain).await, experiment)
}

/// Returns the settings that the serving instance says it runs with; a value that it does not say is the env file's, and what that
/// does not name the knob's default.
async fn live_settings(seams: &Seams, domain: &Domain) -> Settings {
    let in_effect = seams.services.in_effect(domain).await.unwrap_or_default();
    let file = seams.env.read(&domain.service.env_file).await.map(|file| file.bytes).unwrap_or_default();
    let value_of = |(key, knob): (&Key, &Knob)| {
        let said = in_effect.get(key.as_str()).and_then(|text| knob.range.parse(text));
        let written = || env_file::value_of(&file, key).ok().flatten().and_then(|text| knob.range.parse(&text));
        (key.clone(), said.or_else(written).unwrap_or_else(|| knob.default.clone()))
    };
    domain.knobs.iter().map(value_of).collect()
}

/// Returns the parameters of an experiment that stand for these settings. Those that mean nothing beside the others are left
/// out.
fn params_of(settings: &Settings, experiment: &Experiment) -> Params {
    let spec = &experiment.spec;
    let value_of = |name: &String| settings.get(spec.param_mapping.get(name)?).cloned();
    let all = spec.search_space.keys().filter_map(|name| Some((name.clone(), value_of(name)?))).collect();
    SearchSpace::of(spec).active(&all)
}

/// Returns the defaults of the knobs that an experiment varies: where a parameter begins that means nothing beside the live ones.
pub(super) fn begins(domain: &Domain, experiment: &Experiment) -> Params {
    let default = |(name, key)| Some((String::clone(name), domain.knobs.get(key)?.default.clone()));
    experiment.spec.param_mapping.iter().filter_map(default).collect()
}

/// Returns the settings that the `live` parameters stand for, within the knobs' ranges or not.
pub(super) fn running(live: &Params, mapping: &BTreeMap<String, Key>) -> Settings {
    live.iter().filter_map(|(name, value)| Some((mapping.get(name)?.clone(), value.clone()))).collect()
}

/// Returns what the journal's earlier experiments on the domain teach one that begins now.
async fn experience(seams: &Seams, config: &Config, present: Present<'_>) -> Result<Vec<EarlierTrial>, JournalError> {
    if config.earlier_max == 0 {
        return Ok(Vec::new());
    }
    let ours = present.experiment;
    let newest = seams.journal.read(Query::newest(&[Kind::Experiment], EXPERIMENTS_MAX)).await?;
    let is_earlier = |fact| match fact {
        Fact::Experiment(other) => (other.spec.domain == ours.spec.domain && other.id != ours.id).then_some(other),
        _ => None,
    };
    let earlier_ones = newest.into_iter().filter_map(|recorded| is_earlier(recorded.fact));
    let judged = seams.journal.read(Query::newest(&[Kind::Verdict], EXPERIMENTS_MAX)).await?;
    let verdict = |fact| match fact {
        Fact::Verdict(verdict) => Some(verdict),
        _ => None,
    };
    let verdicts: Vec<Verdict> = judged.into_iter().filter_map(|recorded| verdict(recorded.fact)).collect();
    let mut past = Vec::new();
    for experiment in earlier_ones.take(config.look_back as usize) {
        let kinds = [Kind::Trial, Kind::ExperimentEnd];
        let recorded = seams.journal.read(Query::kinds(&kinds).about(experiment.id.as_str())).await?;
        let (mut trials, mut end): (Vec<Trial>, Option<ExperimentEnd>) = (Vec::new(), None);
        for each in recorded {
            match each.fact {
                Fact::Trial(trial) => trials.push(trial),
                Fact::ExperimentEnd(ended) => end = Some(ended),
                _ => {}
            }
        }
        // What broke off and was never ended may have measured anything.
        let refuted = is_refuted(&experiment, &verdicts);
        past.extend(end.map(|end| Past { experiment, trials, end, refuted }));
    }
    Ok(earlier(present, &past, config.earlier_max as usize))
}
