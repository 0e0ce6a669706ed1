//! What the judge makes of changes whose truth is known: shares of success, rollback and neutral, and runs used.
//!
//! `cargo bench --bench judge`; `KLOROS_JUDGE_TRIALS` says how many changes stand behind each number, 1000 by default, and
//! `KLOROS_JUDGE_EFFECTS` and `KLOROS_JUDGE_NOISES` choose columns and rows: `KLOROS_JUDGE_EFFECTS=-3,4` and no more.

#![allow(clippy::print_stdout, reason = "a benchmark prints what it found")]

#[path = "../judge/mod.rs"]
mod simulation;

use kloros_actors::facts::Ruled;
use simulation::{eroded, inflation, ratcheted, shares, silent, wrong};

const EFFECTS: [i32; 13] = [-10, -8, -7, -6, -5, -4, -3, -1, 0, 2, 4, 6, 10];

const NOISES: [i32; 6] = [1, 2, 3, 5, 7, 10];

/// Returns the numbers in a variable, or these where it is not set.
fn chosen(variable: &str, all: &[i32]) -> Vec<i32> {
    match std::env::var(variable) {
        Ok(text) => text.split(',').filter_map(|number| number.trim().parse().ok()).collect(),
        Err(_) => all.to_vec(),
    }
}

fn main() {
    let trials = std::env::var("KLOROS_JUDGE_TRIALS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let (effects, noises) = (chosen("KLOROS_JUDGE_EFFECTS", &EFFECTS), chosen("KLOROS_JUDGE_NOISES", &NOISES));
    println!(
        "{trials} simulated changes each: success/rollback/neutral in percent, mean runs; ! is wrong in more than 6 %"
    );
    print!("noise");
    for effect in &effects {
        print!(" {:>16}", format!("{effect:+} %"));
    }
    println!();
    let (mut worst, mut found_ten) = (0.0_f64, 1.0_f64);
    for noise in noises {
        print!("{noise:>3} %");
        for &effect in &effects {
            let (ratio, cv) = (f64::from(effect) / 100.0, f64::from(noise) / 100.0);
            let found = shares(ratio, cv, trials);
            let wrong = wrong(ratio, &found);
            if noise <= 5 {
                worst = worst.max(wrong.unwrap_or(0.0));
                found_ten = if effect == -10 { found_ten.min(found.rollback) } else { found_ten };
            }
            let mark = if wrong.is_some_and(|wrong| wrong > 0.06) { "!" } else { "" };
            let percent = |share: f64| share * 100.0;
            let shares =
                format!("{:.0}/{:.0}/{:.0}", percent(found.success), percent(found.rollback), percent(found.neutral));
            print!(" {:>16}", format!("{shares} n{:.0}{mark}", found.runs));
        }
        println!();
    }
    if effects.contains(&-10) {
        println!("losses of 10 % that were found at noise up to 5 %: {:.2} % (goal: at least 99.5)", found_ten * 100.0);
    }
    println!("worst share of wrong verdicts at noise up to 5 %: {:.1} % (goal: at most 6)", worst * 100.0);
    if std::env::var_os("KLOROS_JUDGE_EFFECTS").is_none() {
        long_runs();
    }
}

/// What many changes in a row come to, and what metrics that say nothing do.
fn long_runs() {
    for cv in [0.01, 0.02, 0.03, 0.05] {
        let rows: Vec<(f64, f64)> = (0..10).map(|seed| inflation(cv, 200, seed)).collect();
        let mean = |pick: fn(&(f64, f64)) -> f64| rows.iter().map(pick).sum::<f64>() / rows.len() as f64 * 100.0;
        let worst = |of: fn(f64, u64) -> f64| (0..10).map(|seed| of(cv, seed)).fold(0.0, f64::min) * 100.0;
        let (eroded, ratcheted) = (worst(eroded), worst(ratcheted));
        println!(
            "noise {:.0} %: 200 changes without effect inflate the baseline by {:+.2} % (goal: at most 0.5), {:.1} % undone; \
             after twenty of -4 % the service stands at {eroded:+.1} %, and in twenty pairs of -4.5 and +2.5 % at {ratcheted:+.1} %, \
             at worst of ten",
            cv * 100.0,
            mean(|row| row.0),
            mean(|row| row.1)
        );
    }
    let successes = (0..10_000).filter(|seed| silent(*seed).1.outcome == Ruled::Success).count();
    println!("10000 validations of metrics that say nothing: {successes} successes (goal: 0)");
}
