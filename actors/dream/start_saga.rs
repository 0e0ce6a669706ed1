//! What an experiment begins with: the live settings.

use std::collections::BTreeMap;

use super::space::SearchSpace;
use crate::{
    env_file,
    facts::{Domain, Experiment, Key, Params, Settings},
    seams::Seams,
};

/// Returns the parameters that the serving instance says it runs with; a value that it does not say is the env file's,
/// and what that does not name the knob's default. Those that mean nothing beside the others are left out.
pub(super) async fn live_params(seams: &Seams, domain: &Domain, experiment: &Experiment) -> Params {
    let in_effect = seams.services.in_effect(domain).await.unwrap_or_default();
    let file = seams.env.read(&domain.service.env_file).await.map(|file| file.bytes).unwrap_or_default();
    let spec = &experiment.spec;
    let value_of = |name: &String| {
        let key = spec.param_mapping.get(name)?;
        let knob = domain.knobs.get(key)?;
        let said = in_effect.get(key.as_str()).and_then(|text| knob.range.parse(text));
        let written = || env_file::value_of(&file, key).ok().flatten().and_then(|text| knob.range.parse(&text));
        Some(said.or_else(written).unwrap_or_else(|| knob.default.clone()))
    };
    let all = spec.search_space.keys().filter_map(|name| Some((name.clone(), value_of(name)?))).collect();
    SearchSpace::of(spec).active(&all)
}

/// Returns the settings that the `live` parameters stand for, within the knobs' ranges or not.
pub(super) fn running(live: &Params, mapping: &BTreeMap<String, Key>) -> Settings {
    live.iter().filter_map(|(name, value)| Some((mapping.get(name)?.clone(), value.clone()))).collect()
}
