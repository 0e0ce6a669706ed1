//! The `kloros` binary.

mod clock;

mod env_store;

mod pending;

mod process;

fn main() {}
