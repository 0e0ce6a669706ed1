//! Values made fit for a Gaussian process.

/// Values beyond this many typical deviations above the middle are pulled in.
const BAD_FROM: f64 = 1.0;

/// Returns values of mean 0 and variance 1 in the same order. Bad values, however large, come near the others: what is
/// far from the best need not be known exactly, and one outlier must not flatten the rest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standard {
    middle: f64,
    spread: f64,
    mean: f64,
    deviation: f64,
}

impl Standard {
    /// Returns the standard of these finite values.
    pub(crate) fn of(values: &[f64]) -> Standard {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let quantile =
            |share: f64| sorted.get(((sorted.len().max(1) - 1) as f64 * share) as usize).copied().unwrap_or(0.0);
        let middle = quantile(0.5);
        // The spread of the better half, because that is where the search goes.
        let spread = positive(middle - quantile(0.1)).or(positive(quantile(0.9) - middle)).unwrap_or(1.0);
        let mut standard = Standard { middle, spread, mean: 0.0, deviation: 1.0 };
        let pulled: Vec<f64> = values.iter().map(|value| standard.pulled(*value)).collect();
        let count = pulled.len().max(1) as f64;
        let mean = pulled.iter().sum::<f64>() / count;
        let variance = pulled.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        standard.mean = mean;
        standard.deviation = positive(variance.sqrt()).unwrap_or(1.0);
        standard
    }

    /// Returns the standardised value.
    pub(crate) fn apply(&self, value: f64) -> f64 {
        (self.pulled(value) - self.mean) / self.deviation
    }

    /// Returns the value of a standardised one.
    pub(crate) fn undo(&self, standardised: f64) -> f64 {
        let pulled = standardised * self.deviation + self.mean;
        let off = if pulled > BAD_FROM { BAD_FROM + (pulled - BAD_FROM).exp_m1() } else { pulled };
        self.middle + off * self.spread
    }

    /// Returns by how much the value grows with the standardised one.
    pub(crate) fn slope(&self, standardised: f64) -> f64 {
        let pulled = standardised * self.deviation + self.mean;
        let stretch = if pulled > BAD_FROM { (pulled - BAD_FROM).exp() } else { 1.0 };
        self.spread * self.deviation * stretch
    }

    fn pulled(&self, value: f64) -> f64 {
        let off = (value - self.middle) / self.spread;
        let off = if off.is_finite() { off } else { value.signum() * f64::MAX.sqrt() };
        if off > BAD_FROM { BAD_FROM + (off - BAD_FROM).ln_1p() } else { off }
    }
}

fn positive(value: f64) -> Option<f64> {
    (value > 0.0 && value.is_finite()).then_some(value)
}
