//! Results of earlier searches: how far they are believed, before anything was measured and after.

use crate::{
    memo::Memo,
    model::{Known, Model},
    search::{Earlier, Options, Outcome, Trial},
    space::Space,
};

/// After so many days an earlier result is trusted half as much.
const TRUST_HALVED_AFTER: f64 = 30.0;

/// What is trusted less than this is left out.
const TRUST_MIN: f64 = 0.02;

/// The variance that an earlier result has beside that of its noise, in units of the variance of all values.
const EARLIER_VARIANCE: f64 = 0.05;

/// The variance by which a new value may be off what earlier ones say of it, beside that of the surrogate; in units of
/// the variance of the earlier values.
const SLACK: f64 = 0.1;

/// The logarithm of the odds, before anything was measured, that earlier values are of the same world.
const ODDS_LOG: f64 = 2.0;

/// The most that a single new value says against that, and for it. One promise that was not kept weighs more than any
/// number of values that are as they were, because nothing else of what is the same is of use.
const SAYS: (f64, f64) = (-30.0, 1.0);

/// Returns how much an earlier result is trusted, from 0 to 1: half as much for each 30 days of `age`, and less the
/// larger the `distance` is.
pub fn trust(age: f64, distance: f64) -> f64 {
    0.5_f64.powf(age.max(0.0) / TRUST_HALVED_AFTER) * (1.0 - distance.clamp(0.0, 1.0))
}

/// Returns what is known of earlier searches after these trials: less, the more the new values contradict the earlier
/// ones. What failed is kept: a failure is contradicted by a success at the same point alone, which has its own say.
///
/// What the earlier ones say by themselves does not change, so it is fitted once and kept in `memo`.
pub(crate) fn recalled(
    (space, home): (&Space, &[f64]),
    options: &Options,
    trials: &[Trial],
    memo: &Memo,
) -> Vec<Known> {
    let mut known: Vec<Known> = options.warm.iter().filter_map(|earlier| believed((space, home), earlier)).collect();
    let model = || memo.of_earlier(|| Model::new(space, &known, options.noisy, None));
    let chance = chance_of_one_world(model, trials);
    known.iter_mut().filter(|known| known.outcome != Outcome::Failed).for_each(|known| known.extra /= chance);
    known.retain(|known| known.extra <= EARLIER_VARIANCE / TRUST_MIN);
    known
}

fn believed((space, home): (&Space, &[f64]), earlier: &Earlier) -> Option<Known> {
    let trust = trust(earlier.age, earlier.distance);
    let outcome = match earlier.outcome {
        Outcome::Value(value) if !value.is_finite() => return None,
        Outcome::Lost => return None,
        outcome => outcome,
    };
    // Where nothing may be that much any more, it says nothing of the setting at the limit that is nearest to it.
    let is_within = space.is_within_limits(&earlier.config, home);
    let point = is_within.then(|| space.encode(&earlier.config, home))??;
    (trust > TRUST_MIN).then(|| Known { point, outcome, extra: EARLIER_VARIANCE / trust })
}

/// Returns the chance that new values and earlier ones are of one world: whether the new ones are likelier by what the
/// earlier ones say of them, or by their mean and variance alone.
///
/// The default's own value is not asked: it is what the others are compared with, and says nothing of where they are
/// better.
fn chance_of_one_world<'a>(earlier: impl FnOnce() -> Option<&'a Model>, trials: &[Trial]) -> f64 {
    let values = |trial: &Trial| match trial.outcome {
        Some(Outcome::Value(value)) => Some((trial.point.clone(), value)),
        _ => None,
    };
    let new: Vec<_> = trials.iter().skip(1).filter_map(values).collect();
    let Some(model) = (!new.is_empty()).then(earlier).flatten() else { return 1.0 };
    let says = |(point, value): &(Vec<f64>, f64)| {
        let (belief, value) = (model.process.at(point), model.standard.apply(*value));
        let by_earlier = density_log(value - belief.mean, belief.variance + SLACK);
        (by_earlier - density_log(value, 1.0 + SLACK)).clamp(SAYS.0, SAYS.1)
    };
    let odds_log = ODDS_LOG + new.iter().map(says).sum::<f64>();
    1.0 / (1.0 + (-odds_log).exp())
}

/// Returns the logarithm of the normal density without its constant.
fn density_log(off: f64, variance: f64) -> f64 {
    -0.5 * (off * off / variance + variance.ln())
}
