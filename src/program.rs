//! Programs that are asked something and end: what they print, or why they failed.

use std::process::Command;

use anyhow::{Context, bail};

/// Returns what `program` prints to stdout when it is run with `arguments`, without a shell.
///
/// An error names the program, says how it ended and what it said; where it cannot be run, the `package` that holds it.
pub(crate) fn said(program: &str, arguments: &[&str], package: &str) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("{program} cannot be run: install {package}"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("{program} ended with {}: {}", output.status, why.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{program} did not print text"))
}
