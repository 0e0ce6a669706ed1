//! Restarts a thousand children a million times, or as often as its argument says, and tells what the process holds then.

#![allow(clippy::unwrap_used, reason = "a soak that cannot go on has failed")]

use std::io::Write;

#[path = "../tests/contract/soak.rs"]
mod soak;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let restarts = std::env::args().nth(1).map_or(Ok(1_000_000), |times| times.parse())?;
    std::panic::set_hook(Box::new(|_| ()));
    let soaked = soak::soak(restarts, 1_000).await;
    writeln!(std::io::stdout(), "after a third: {:?}\nafter all:     {:?}", soaked.before, soaked.after)?;
    match soaked.left_behind() {
        None => Ok(()),
        Some(holdings) => Err(format!("something was left behind: {holdings}").into()),
    }
}
