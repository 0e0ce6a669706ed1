//! The `kloros` binary.
#![expect(dead_code, unused_imports, reason = "the composition root that uses these modules is written last")]

mod home;

mod journal;

fn main() {}
