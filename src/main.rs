//! The `kloros` binary.

fn main() {}
