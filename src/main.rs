//! The `kloros` binary.

mod process;

fn main() {}
