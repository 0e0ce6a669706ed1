//! Tells a person who waits at a terminal how far something is, in a line that goes away when it is over. Elsewhere it says nothing.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{out::Out, text};

/// How wide a bar is, in characters: all of the line fits into a terminal of 80.
const BAR: usize = 12;

/// How far something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Far {
    /// How much of it is done.
    pub(super) done: u32,
    /// Of how much.
    pub(super) of: u32,
    /// What is counted, and whether it may be more or less.
    pub(super) what: &'static str,
}

/// The line, while there is one.
pub(super) struct Waiting {
    began: Instant,
    is_shown: bool,
}

impl Waiting {
    /// Begins to wait.
    pub(super) fn begin() -> Self {
        Self { began: Instant::now(), is_shown: false }
    }

    /// Says what is going on, and how far it is where that is known.
    pub(super) fn show(&mut self, out: &mut Out, what: &str, far: Option<&Far>) -> io::Result<()> {
        if !out.is_terminal() {
            return Ok(());
        }
        self.is_shown = true;
        out.over(&words(what, far, self.began.elapsed()))
    }

    /// Takes the line away.
    pub(super) fn end(self, out: &mut Out) -> io::Result<()> {
        if self.is_shown { out.over("") } else { Ok(()) }
    }
}

/// Plain characters, so that every terminal shows them and nobody needs colours to read them.
fn words(what: &str, far: Option<&Far>, waited: Duration) -> String {
    let waited = text::span(waited.as_secs() as f64);
    match far {
        Some(Far { done, of, what: counted }) => {
            let full = (BAR * (*done).min(*of) as usize).checked_div(*of as usize).unwrap_or_default();
            let bar = format!("[{}{}]", "#".repeat(full), ".".repeat(BAR - full));
            format!("  ... {bar} {done} of {of} {counted}   {what}   {waited}")
        }
        None => format!("  ... {what}   {waited}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_full_as_what_is_done_and_never_fuller() {
        let line = |done, of| words("measures", Some(&Far { done, of, what: "runs" }), Duration::from_secs(70));
        assert_eq!(line(0, 8), "  ... [............] 0 of 8 runs   measures   1.2 min");
        assert_eq!(line(2, 8), "  ... [###.........] 2 of 8 runs   measures   1.2 min");
        assert!(line(8, 8).contains("[############] 8 of 8"));
        assert!(line(9, 8).contains("[############] 9 of 8"));
        assert!(line(0, 0).contains("[............] 0 of 0"));
        assert_eq!(words("waits", None, Duration::from_millis(2900)), "  ... waits   2.0 s");
    }
}
