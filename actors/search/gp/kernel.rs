//! How alike the values at two points are.

/// The square root of five, of the Matérn kernel of smoothness 5/2.
const ROOT_5: f64 = 2.236_067_977_499_79;

/// The difference of two choices, squared 0.3. Squared differences of numbers drawn at random are a sixth on average, and
/// a choice should not weigh much more before anything is measured.
const MISMATCH: f64 = 0.547_722_557_505_166_1;

/// What kind of difference each coordinate makes.
#[derive(Clone, Debug)]
pub(crate) struct Metric {
    /// Whether a coordinate is a choice: two choices are the same or not, never near.
    pub(crate) categories: Vec<bool>,
}

impl Metric {
    /// Returns the difference of each coordinate.
    pub(super) fn differences<'a>(&'a self, a: &'a [f64], b: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        a.iter()
            .zip(b)
            .zip(&self.categories)
            .map(|((a, b), category)| if *category { MISMATCH * f64::from(u8::from(a != b)) } else { a - b })
    }

    /// Returns the squared distance with each squared difference weighted.
    pub(crate) fn distance(&self, a: &[f64], b: &[f64], weights: &[f64]) -> f64 {
        self.differences(a, b).zip(weights).map(|(each, weight)| each * each * weight).sum()
    }
}

/// The covariance of the values at two points: a part for all coordinates together and the mean of one part each.
///
/// Settings of services act on their own for the most part. What the sum of parts explains needs far fewer values than
/// a function of all coordinates would (Duvenaud, Nickisch and Rasmussen 2011, "Additive Gaussian processes").
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// The inverse of each squared length scale.
    pub(super) weights: Vec<f64>,
    /// The direction in which the values change beside what the length scales say, longer the faster; empty for none.
    ///
    /// Two settings that must grow together make a narrow ridge across both axes, which no length scales of the axes can
    /// express (the factor analysis distance: Rasmussen and Williams 2006, equation 5.22, with one factor).
    pub(super) across: Vec<f64>,
    /// The variance of the common part.
    pub(super) together: f64,
    /// The variance of all single parts.
    pub(super) apart: f64,
    /// How much shorter the squared length scales of the single parts are: distances along one coordinate do not grow
    /// with the dimension.
    zoom: f64,
}

impl Kernel {
    /// Takes the logarithms of the length scales, of the common variance and of that of the single parts, and a direction
    /// or none.
    pub(super) fn new(parameters: &[f64], across: &[f64]) -> Kernel {
        let dims = parameters.len() - 2;
        Kernel {
            across: across.to_vec(),
            weights: parameters[..dims].iter().map(|log| (-2.0 * log).exp()).collect(),
            together: parameters[dims].exp(),
            apart: if dims == 0 { 0.0 } else { parameters[dims + 1].exp() },
            zoom: dims as f64,
        }
    }

    /// Returns the variance of the value at a point.
    pub(super) fn variance(&self) -> f64 {
        self.together + self.apart
    }

    /// Returns the covariance for these differences.
    pub(super) fn covariance(&self, differences: impl Iterator<Item = f64>) -> f64 {
        let (mut square, mut parts, mut along) = (0.0, 0.0, 0.0);
        for (index, (each, weight)) in differences.zip(&self.weights).enumerate() {
            let weighted = each * each * weight;
            square += weighted;
            parts += matern(self.zoom * weighted);
            along += each * self.across.get(index).copied().unwrap_or(0.0);
        }
        self.together * matern(square + along * along) + self.apart * parts / self.weights.len().max(1) as f64
    }

    /// Returns the correlations of the common part and of the single parts, and writes to `slopes` by how much the
    /// covariance grows with the logarithm of each length scale, then with each coordinate of the direction.
    pub(super) fn slopes(&self, differences: &[f64], slopes: &mut [f64]) -> (f64, f64) {
        let count = self.weights.len().max(1) as f64;
        let (lengths, across) = slopes.split_at_mut(self.weights.len());
        let along: f64 = differences.iter().zip(&self.across).map(|(each, across)| each * across).sum();
        let square: f64 = differences.iter().zip(&self.weights).map(|(each, weight)| each * each * weight).sum();
        let (together, slope) = matern_and_slope(square + along * along);
        let mut parts = 0.0;
        for ((each, weight), out) in differences.iter().zip(&self.weights).zip(lengths) {
            let weighted = each * each * weight;
            let (part, part_slope) = matern_and_slope(self.zoom * weighted);
            parts += part;
            *out = weighted * (self.together * slope + self.apart * part_slope * self.zoom / count);
        }
        for (each, out) in differences.iter().zip(across) {
            *out = -self.together * slope * along * each;
        }
        (together, parts / count)
    }

    /// Returns by how much the covariance grows with the square of the distance, at these differences.
    pub(super) fn slope_by_square(&self, differences: &[f64]) -> f64 {
        let along: f64 = differences.iter().zip(&self.across).map(|(each, across)| each * across).sum();
        let square: f64 = differences.iter().zip(&self.weights).map(|(each, weight)| each * each * weight).sum();
        -0.5 * self.together * matern_and_slope(square + along * along).1
    }
}

/// Returns the correlation at a squared distance in length scales, 1 at 0: Matérn with smoothness 5/2.
pub(crate) fn matern(square: f64) -> f64 {
    if square == 0.0 {
        return 1.0;
    }
    let scaled = ROOT_5 * square.sqrt();
    (1.0 + scaled + scaled * scaled / 3.0) * decay(scaled)
}

/// Returns the correlation, and by how much it falls for each unit of the squared distance, doubled.
fn matern_and_slope(square: f64) -> (f64, f64) {
    if square == 0.0 {
        return (1.0, 5.0 / 3.0);
    }
    let scaled = ROOT_5 * square.sqrt();
    let decay = decay(scaled);
    ((1.0 + scaled + scaled * scaled / 3.0) * decay, 5.0 / 3.0 * (1.0 + scaled) * decay)
}

/// Returns `exp(-x)` for `x` at least 0, to within 1e-14 of itself; 0 beyond 700.
///
/// This is where the time of a fit goes, and inlined it takes half of what a call into the C library does.
fn decay(x: f64) -> f64 {
    /// The coefficients of the series of the exponential function, the last first.
    const SERIES: [f64; 12] = [
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    /// Adding it rounds to a whole number, which then stands in the lowest bits.
    const ROUNDER: f64 = 6_755_399_441_055_744.0;
    /// The natural logarithm of two, in two parts: the first is exact in products with small whole numbers.
    const LN_2: (f64, f64) = (0.693_147_180_369_123_8, 1.908_214_929_270_588e-10);
    if !(0.0..=700.0).contains(&x) {
        return if x < 0.0 { 1.0 } else { 0.0 };
    }
    let halvings = (x * std::f64::consts::LOG2_E + ROUNDER) - ROUNDER;
    let rest = (halvings * LN_2.0 - x) + halvings * LN_2.1;
    let series = SERIES.iter().fold(0.0, |sum, coefficient| sum * rest + coefficient);
    series * f64::from_bits((1023 - halvings as i64 as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decay_is_the_exponential_function() {
        for step in 0..7000_u32 {
            let x = f64::from(step) * 0.0999;
            let exact = (-x).exp();
            assert!((decay(x) - exact).abs() <= 1e-14 * exact, "{x}: {} {exact}", decay(x));
        }
        assert_eq!((decay(0.0), decay(1e300), decay(f64::NAN)), (1.0, 0.0, 0.0));
    }
}
