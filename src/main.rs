//! The `kloros` binary.

#[allow(dead_code, unused_imports, reason = "the command line that loads the settings plugs in here")]
mod settings;

fn main() {}
