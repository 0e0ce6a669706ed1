//! The `kloros` binary.

mod clock;

mod env_store;

mod process;

fn main() {}
