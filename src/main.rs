//! The `kloros` binary.

mod clock;

mod env_store;

mod host;

mod nvml;

mod pending;

mod process;

mod scrape;

mod service;

fn main() {}
