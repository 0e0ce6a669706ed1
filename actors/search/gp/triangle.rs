//! A Cholesky factor laid out for being solved with one vector very often.

use nalgebra::{Cholesky, Dyn};

/// How many sums are kept at once, so that the processor can work on them side by side.
const LANES: usize = 4;

/// The lower triangle of a factor, row after row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Triangle {
    rows: Vec<f64>,
}

impl Triangle {
    pub(crate) fn new(factor: &Cholesky<f64, Dyn>) -> Triangle {
        let lower = factor.l_dirty();
        let rows = (0..lower.nrows()).flat_map(|row| (0..=row).map(move |column| lower[(row, column)])).collect();
        Triangle { rows }
    }

    /// Replaces a vector by the solution of the triangular system with it on the right.
    pub(crate) fn solve(&self, vector: &mut [f64]) {
        let mut rest = self.rows.as_slice();
        for index in 0..vector.len() {
            let (row, after) = rest.split_at(index + 1);
            rest = after;
            let (known, unknown) = vector.split_at_mut(index);
            unknown[0] = (unknown[0] - dot(&row[..index], known)) / row[index];
        }
    }
}

/// Returns the sum of the products.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use nalgebra::DMatrix;

    use super::*;

    #[test]
    fn the_solution_is_that_of_the_system() {
        let matrix =
            DMatrix::from_fn(7, 7, |row, column| if row == column { 9.0 } else { 1.0 / (1 + row + column) as f64 });
        let factor = Cholesky::new(matrix).expect("a positive matrix");
        let mut solution = vec![1.0, -2.0, 3.0, 0.5, 0.0, 4.0, 1.0];
        let wanted = solution.clone();
        Triangle::new(&factor).solve(&mut solution);
        let lower = factor.l();
        for (row, wanted) in wanted.iter().enumerate() {
            let found: f64 = (0..7).map(|column| lower[(row, column)] * solution[column]).sum();
            assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
        }
    }
}
