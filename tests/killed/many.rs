//! Many cases side by side, and what they came to.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::say;

/// How many cases are run at the same time on each core: a case mostly waits.
const AT_ONCE_PER_CORE: usize = 6;

/// What a case came to in words, and how long the recovery took; or what is broken.
pub(crate) type Outcome = Result<(String, Duration), String>;

/// Returns how many cases the variable `name` asks for, or else `usual`.
pub(crate) fn wanted(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Returns at most so many of `all`, spread evenly, so that a short run sees all of it.
pub(crate) fn spread<C: Clone>(all: &[C], most: usize) -> Vec<C> {
    let most = most.min(all.len());
    (0..most).map(|number| all[number * all.len() / most].clone()).collect()
}

/// Returns at most so many of both, half of each where there are as many: each half spread evenly.
pub(crate) fn halves<C: Clone>(one: &[C], other: &[C], most: usize) -> Vec<C> {
    let of_other = other.len().min(most - (most / 2).min(one.len()));
    let mut chosen = spread(one, most - of_other);
    chosen.extend(spread(other, of_other));
    chosen
}

/// Runs the `chosen` of `found` cases, says what they came to, and panics if one of them is broken.
pub(crate) fn run<C: Debug + Sync>(what: &str, chosen: &[C], found: usize, case: impl Fn(&C) -> Outcome + Sync) {
    let began = Instant::now();
    let next = AtomicUsize::new(0);
    let rows = Mutex::new((BTreeMap::<String, usize>::new(), 0_usize, (Duration::ZERO, String::new())));
    let work = || {
        while let Some(each) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(each)));
            let outcome = outcome.unwrap_or_else(|_| Err("panicked".to_owned()));
            let mut rows = rows.lock().unwrap();
            match outcome {
                Ok((kind, took)) => {
                    *rows.0.entry(kind).or_default() += 1;
                    if took > rows.2.0 {
                        rows.2 = (took, format!("{each:?}"));
                    }
                }
                Err(broken) => {
                    rows.1 += 1;
                    say(&format!("VIOLATED {each:?}: {broken}"));
                }
            }
        }
    };
    let at_once = std::thread::available_parallelism().map_or(1, usize::from) * AT_ONCE_PER_CORE;
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(work);
        }
    });
    let (kinds, broken, slowest) = rows.into_inner().unwrap();
    for (kind, count) in &kinds {
        say(&format!("  {count:5} {kind}"));
    }
    say(&format!(
        "{what}: {} of {found} cases in {} s, {broken} violations; the slowest recovery took {:.1} s, of {}",
        chosen.len(),
        began.elapsed().as_secs(),
        slowest.0.as_secs_f64(),
        slowest.1
    ));
    assert_eq!(broken, 0, "what must hold does not");
    // How long it takes depends on who else works on the machine, so a bound is for a machine of its own. Invariant G.
    if let Ok(Ok(max_s)) = std::env::var("KLOROS_RECOVERY_MAX_S").map(|text| text.parse::<f64>()) {
        assert!(slowest.0.as_secs_f64() <= max_s, "the slowest recovery took longer than {max_s} s");
    }
}
