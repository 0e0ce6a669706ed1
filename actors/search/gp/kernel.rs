//! How alike the values at two points are.

/// The square root of five, of the Matérn kernel of smoothness 5/2.
const ROOT_5: f64 = 2.236_067_977_499_79;

/// What kind of difference each coordinate makes.
#[derive(Clone, Debug)]
pub(crate) struct Metric {
    /// Whether a coordinate is a choice: two choices are the same or not, never near.
    pub(crate) categories: Vec<bool>,
}

impl Metric {
    /// Returns the squared difference of each coordinate.
    pub(super) fn squares<'a>(&'a self, a: &'a [f64], b: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        a.iter()
            .zip(b)
            .zip(&self.categories)
            .map(|((a, b), category)| if *category { f64::from(u8::from(a != b)) } else { (a - b) * (a - b) })
    }

    /// Returns the squared distance with each squared difference weighted.
    pub(crate) fn distance(&self, a: &[f64], b: &[f64], weights: &[f64]) -> f64 {
        self.squares(a, b).zip(weights).map(|(square, weight)| square * weight).sum()
    }
}

/// Returns the correlation at a squared distance in length scales, 1 at 0: Matérn with smoothness 5/2.
pub(crate) fn matern(square: f64) -> f64 {
    let scaled = ROOT_5 * square.sqrt();
    (1.0 + scaled + scaled * scaled / 3.0) * (-scaled).exp()
}

/// Returns the correlation, and by how much it falls for each unit of the squared distance, doubled.
pub(super) fn matern_and_slope(square: f64) -> (f64, f64) {
    let scaled = ROOT_5 * square.sqrt();
    let decay = (-scaled).exp();
    ((1.0 + scaled + scaled * scaled / 3.0) * decay, 5.0 / 3.0 * (1.0 + scaled) * decay)
}
