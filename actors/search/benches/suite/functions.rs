//! Functions of the literature, smaller being better: BBOB (Hansen et al. 2009), and the classics of Surjanovic and
//! Bingham's collection.

use std::f64::consts::{E, PI, TAU};

use rand::rngs::StdRng;

use super::normal;

pub(super) fn sphere(z: &[f64]) -> f64 {
    z.iter().map(|z| z * z).sum()
}

pub(super) fn ellipsoid(z: &[f64]) -> f64 {
    let last = (z.len().max(2) - 1) as f64;
    z.iter().enumerate().map(|(index, z)| 1e3_f64.powf(index as f64 / last) * z * z).sum()
}

pub(super) fn discus(z: &[f64]) -> f64 {
    1e3 * z[0] * z[0] + z[1..].iter().map(|z| z * z).sum::<f64>()
}

pub(super) fn step_ellipsoid(z: &[f64]) -> f64 {
    let last = (z.len().max(2) - 1) as f64;
    let stepped = z.iter().map(|z| if z.abs() > 0.5 { (0.5 + z).floor() } else { (0.5 + 10.0 * z).floor() / 10.0 });
    let sum: f64 = stepped.enumerate().map(|(index, z)| 100_f64.powf(index as f64 / last) * z * z).sum();
    0.1 * sum.max(z[0].abs() / 1e4)
}

pub(super) fn rastrigin(z: &[f64]) -> f64 {
    z.iter().map(|z| z * z + 10.0 * (1.0 - (TAU * z).cos())).sum()
}

pub(super) fn rosenbrock(z: &[f64]) -> f64 {
    let z: Vec<f64> = z.iter().map(|z| z * 0.5 + 1.0).collect();
    z.windows(2).map(|pair| 100.0 * (pair[1] - pair[0] * pair[0]).powi(2) + (1.0 - pair[0]).powi(2)).sum()
}

pub(super) fn ackley(z: &[f64]) -> f64 {
    let count = z.len() as f64;
    let square = sphere(z) / count;
    let waves = z.iter().map(|z| (TAU * z).cos()).sum::<f64>() / count;
    20.0 - 20.0 * (-0.2 * square.sqrt()).exp() + E - waves.exp()
}

pub(super) fn levy(z: &[f64]) -> f64 {
    let w: Vec<f64> = z.iter().map(|z| 1.0 + z / 4.0).collect();
    let first = (PI * w[0]).sin().powi(2);
    let last = w[w.len() - 1];
    let middle = w[..w.len() - 1].iter().map(|w| (w - 1.0).powi(2) * (1.0 + 10.0 * (PI * w + 1.0).sin().powi(2)));
    first + middle.sum::<f64>() + (last - 1.0).powi(2) * (1.0 + (TAU * last).sin().powi(2))
}

pub(super) fn griewank(z: &[f64]) -> f64 {
    let product: f64 = z.iter().enumerate().map(|(index, z)| (z / (index as f64 + 1.0).sqrt()).cos()).product();
    sphere(z) / 40.0 + 1.0 - product
}

pub(super) fn styblinski_tang(x: &[f64]) -> f64 {
    x.iter().map(|x| 0.5 * (x.powi(4) - 16.0 * x * x + 5.0 * x) + 39.166_165_703_771_4).sum()
}

/// Branin's function of two numbers from 0 to 1.
pub(super) fn branin(u: &[f64]) -> f64 {
    let (x, y) = (15.0 * u[0] - 5.0, 15.0 * u[1]);
    let bent = y - 5.1 / (4.0 * PI * PI) * x * x + 5.0 / PI * x - 6.0;
    bent * bent + 10.0 * (1.0 - 1.0 / (8.0 * PI)) * x.cos() + 10.0
}

pub(super) fn hartmann_6(u: &[f64]) -> f64 {
    const SHARP: [[f64; 6]; 4] = [
        [10.0, 3.0, 17.0, 3.5, 1.7, 8.0],
        [0.05, 10.0, 17.0, 0.1, 8.0, 14.0],
        [3.0, 3.5, 1.7, 10.0, 17.0, 8.0],
        [17.0, 8.0, 0.05, 10.0, 0.1, 14.0],
    ];
    const AT: [[f64; 6]; 4] = [
        [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886],
        [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
        [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650],
        [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
    ];
    wells(u, &SHARP, &AT)
}

pub(super) fn hartmann_3(u: &[f64]) -> f64 {
    const SHARP: [[f64; 3]; 4] = [[3.0, 10.0, 30.0], [0.1, 10.0, 35.0], [3.0, 10.0, 30.0], [0.1, 10.0, 35.0]];
    const AT: [[f64; 3]; 4] =
        [[0.3689, 0.1170, 0.2673], [0.4699, 0.4387, 0.7470], [0.1091, 0.8732, 0.5547], [0.0381, 0.5743, 0.8828]];
    wells(u, &SHARP, &AT)
}

fn wells<const N: usize>(u: &[f64], sharp: &[[f64; N]; 4], at: &[[f64; N]; 4]) -> f64 {
    let deep = [1.0, 1.2, 3.0, 3.2];
    let well = |index: usize| {
        let square: f64 = (0..N).map(|axis| sharp[index][axis] * (u[axis] - at[index][axis]).powi(2)).sum();
        deep[index] * (-square).exp()
    };
    -(0..4).map(well).sum::<f64>()
}

pub(super) fn michalewicz(u: &[f64]) -> f64 {
    let term = |(index, u): (usize, &f64)| {
        let x = PI * u;
        x.sin() * ((index as f64 + 1.0) * x * x / PI).sin().powi(4)
    };
    -u.iter().enumerate().map(term).sum::<f64>()
}

/// Returns the rows of a random rotation: normal numbers made orthogonal (Gram and Schmidt).
pub(super) fn rotation(dims: usize, rng: &mut StdRng) -> Vec<Vec<f64>> {
    let mut rows: Vec<Vec<f64>> = Vec::new();
    while rows.len() < dims {
        let mut row: Vec<f64> = (0..dims).map(|_| normal(rng)).collect();
        for other in &rows {
            let along: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
            row.iter_mut().zip(other).for_each(|(a, b)| *a -= along * b);
        }
        let length = sphere(&row).sqrt();
        if length > 1e-6 {
            rows.push(row.into_iter().map(|a| a / length).collect());
        }
    }
    rows
}
