//! The `kloros` binary.

mod bench;

mod process;

fn main() {}
