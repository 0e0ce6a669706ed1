//! Going downhill with few evaluations: L-BFGS (Liu and Nocedal 1989) with backtracking.

use std::collections::VecDeque;

/// How many past steps say how the slope bends.
const MEMORY: usize = 8;

/// The share of the expected decrease that a step must bring (Armijo 1966).
const DECREASE: f64 = 1e-4;

/// How often a step is halved before the search ends.
const HALVINGS_MAX: usize = 12;

/// The longest first step, and the longest step of one coordinate.
const STEP_MAX: f64 = 1.5;

/// A place with its height and slope.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) at: Vec<f64>,
    pub(super) height: f64,
    pub(super) slope: Vec<f64>,
}

/// Returns the lowest place found from `start` within so many steps.
///
/// `height` returns the height and slope of a place; a height that is not finite turns a step back.
pub(super) fn descend(start: Vec<f64>, steps_max: usize, height: &impl Fn(&[f64]) -> (f64, Vec<f64>)) -> Place {
    let (first, slope) = height(&start);
    let mut here = Place { at: start, height: first, slope };
    let mut past: VecDeque<(Vec<f64>, Vec<f64>, f64)> = VecDeque::new();
    for _ in 0..steps_max {
        let mut way = direction(&here.slope, &past);
        if dot(&way, &here.slope) >= 0.0 {
            past.clear();
            way = here.slope.iter().map(|slope| -slope).collect();
        }
        let longest = way.iter().fold(0.0_f64, |longest, step| longest.max(step.abs()));
        if !(longest > 0.0 && longest.is_finite()) {
            break;
        }
        let limit = if past.is_empty() { 0.5 } else { STEP_MAX };
        let scale = (limit / longest).min(1.0);
        for step in &mut way {
            *step *= scale;
        }
        let Some(next) = step(&here, &way, height) else { break };
        let moved: Vec<f64> = next.at.iter().zip(&here.at).map(|(next, here)| next - here).collect();
        let bent: Vec<f64> = next.slope.iter().zip(&here.slope).map(|(next, here)| next - here).collect();
        let curvature = dot(&moved, &bent);
        if curvature > 1e-10 {
            past.push_back((moved, bent, 1.0 / curvature));
            if past.len() > MEMORY {
                past.pop_front();
            }
        }
        let gained = here.height - next.height;
        here = next;
        if gained < 2e-3 {
            break;
        }
    }
    here
}

fn step(here: &Place, way: &[f64], height: &impl Fn(&[f64]) -> (f64, Vec<f64>)) -> Option<Place> {
    let steepness = dot(way, &here.slope);
    let mut length = 1.0;
    for _ in 0..HALVINGS_MAX {
        let at: Vec<f64> = here.at.iter().zip(way).map(|(here, way)| here + length * way).collect();
        let (reached, slope) = height(&at);
        if reached.is_finite() && reached <= here.height + DECREASE * length * steepness {
            return Some(Place { at, height: reached, slope });
        }
        length *= 0.5;
    }
    None
}

/// Returns the way that the slope and its past changes suggest.
fn direction(slope: &[f64], past: &VecDeque<(Vec<f64>, Vec<f64>, f64)>) -> Vec<f64> {
    let mut way: Vec<f64> = slope.iter().map(|slope| -slope).collect();
    let mut shares = Vec::with_capacity(past.len());
    for (moved, bent, inverse) in past.iter().rev() {
        let share = inverse * dot(moved, &way);
        way.iter_mut().zip(bent).for_each(|(way, bent)| *way -= share * bent);
        shares.push(share);
    }
    if let Some((_, bent, inverse)) = past.back() {
        let scale = 1.0 / (inverse * dot(bent, bent));
        for way in &mut way {
            *way *= scale;
        }
    }
    for ((moved, bent, inverse), share) in past.iter().zip(shares.iter().rev()) {
        let back = share - inverse * dot(bent, &way);
        way.iter_mut().zip(moved).for_each(|(way, moved)| *way += back * moved);
    }
    way
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bottom_of_a_bent_valley_is_found() {
        // Rosenbrock's function, whose valley turns most methods around.
        let height = |at: &[f64]| {
            let (a, b) = (1.0 - at[0], at[1] - at[0] * at[0]);
            (a * a + 10.0 * b * b, vec![-2.0 * a - 40.0 * at[0] * b, 20.0 * b])
        };
        let bottom = descend(vec![-1.0, 1.0], 100, &height);
        assert!(bottom.height < 1e-2, "{bottom:?}");
    }

    #[test]
    fn a_height_that_is_not_finite_is_not_entered() {
        let height = |at: &[f64]| if at[0] > 1.0 { (f64::NAN, vec![f64::NAN]) } else { (-at[0], vec![-1.0]) };
        let edge = descend(vec![0.0], 50, &height);
        assert!(edge.height.is_finite() && edge.at[0] > 0.9, "{edge:?}");
    }
}
