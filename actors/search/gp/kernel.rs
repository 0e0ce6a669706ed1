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

/// The covariance of the values at two points: a part for all coordinates together and the mean of one part each.
///
/// Settings of services act on their own for the most part. What the sum of parts explains needs far fewer values than
/// a function of all coordinates would (Duvenaud, Nickisch and Rasmussen 2011, "Additive Gaussian processes").
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// The inverse of each squared length scale.
    pub(super) weights: Vec<f64>,
    /// The variance of the common part.
    pub(super) together: f64,
    /// The variance of all single parts.
    pub(super) apart: f64,
    /// How much shorter the squared length scales of the single parts are: distances along one coordinate do not grow
    /// with the dimension.
    zoom: f64,
}

impl Kernel {
    /// Takes the logarithms of the length scales, of the common variance and of that of the single parts.
    pub(super) fn new(parameters: &[f64]) -> Kernel {
        let dims = parameters.len() - 2;
        Kernel {
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

    /// Returns the covariance for these squared differences.
    pub(super) fn covariance(&self, squares: impl Iterator<Item = f64>) -> f64 {
        let (mut square, mut parts) = (0.0, 0.0);
        for (each, weight) in squares.zip(&self.weights) {
            let weighted = each * weight;
            square += weighted;
            parts += matern(self.zoom * weighted);
        }
        self.together * matern(square) + self.apart * parts / self.weights.len().max(1) as f64
    }

    /// Returns the correlations of the common part and of the single parts, and writes to `slopes` by how much the
    /// covariance grows with the logarithm of each length scale.
    pub(super) fn slopes(&self, squares: &[f64], slopes: &mut [f64]) -> (f64, f64) {
        let count = self.weights.len().max(1) as f64;
        let square: f64 = squares.iter().zip(&self.weights).map(|(square, weight)| square * weight).sum();
        let (together, slope) = matern_and_slope(square);
        let mut parts = 0.0;
        for ((each, weight), out) in squares.iter().zip(&self.weights).zip(slopes) {
            let weighted = each * weight;
            let (part, part_slope) = matern_and_slope(self.zoom * weighted);
            parts += part;
            *out = weighted * (self.together * slope + self.apart * part_slope * self.zoom / count);
        }
        (together, parts / count)
    }
}

/// Returns the correlation at a squared distance in length scales, 1 at 0: Matérn with smoothness 5/2.
pub(crate) fn matern(square: f64) -> f64 {
    if square == 0.0 {
        return 1.0;
    }
    let scaled = ROOT_5 * square.sqrt();
    (1.0 + scaled + scaled * scaled / 3.0) * (-scaled).exp()
}

/// Returns the correlation, and by how much it falls for each unit of the squared distance, doubled.
fn matern_and_slope(square: f64) -> (f64, f64) {
    if square == 0.0 {
        return (1.0, 5.0 / 3.0);
    }
    let scaled = ROOT_5 * square.sqrt();
    let decay = (-scaled).exp();
    ((1.0 + scaled + scaled * scaled / 3.0) * decay, 5.0 / 3.0 * (1.0 + scaled) * decay)
}
