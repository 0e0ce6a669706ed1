//! Where answers and trouble go.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::{
    picture::{Canvas, Line, Span},
    text::{tame, tame_json},
};

/// Prints answers, in words or as JSON.
pub(crate) struct Out {
    json: bool,
    terminal: bool,
    stdout: io::Stdout,
}

impl Out {
    /// Returns where answers go; as JSON if `json` is asked for.
    pub(crate) fn new(json: bool) -> Self {
        Self { json, terminal: io::stdout().is_terminal() && !is_dumb(), stdout: io::stdout() }
    }

    /// Returns whether answers are JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Returns whether a person is looking at it.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal && !self.json
    }

    /// Prints `facts` as one JSON line, or the words for them.
    pub(crate) fn answer(&mut self, facts: &impl Serialize, words: impl FnOnce() -> String) -> io::Result<()> {
        if self.json {
            let text = serde_json::to_string(facts).map_err(io::Error::other)?;
            self.write(&tame_json(text))
        } else {
            self.line(&words())
        }
    }

    /// Prints lines for a person.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        self.write(&tame(text))
    }

    /// Prints lines of many tones for a person; in colour where a terminal has it and nobody has asked for none.
    pub(crate) fn paint(&mut self, lines: &[Line]) -> io::Result<()> {
        let is_coloured = self.terminal && std::env::var_os("NO_COLOR").is_none_or(|text| text.is_empty());
        let span = |span: &Span| {
            let (on, off) = if is_coloured { span.tone.codes() } else { ("", "") };
            format!("{on}{}{off}", tame(&span.text))
        };
        let lines: Vec<String> = lines.iter().map(|line| line.iter().map(span).collect()).collect();
        self.write(&lines.join("\n"))
    }

    /// Returns where pictures are drawn.
    pub(crate) fn canvas(&self) -> Canvas {
        let width = if self.terminal { self.columns() } else { COLUMNS_DEFAULT };
        Canvas { width, unicode: shows_unicode() }
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        let mut stdout = self.stdout.lock();
        writeln!(stdout, "{text}")?;
        stdout.flush()
    }

    /// Prints a line over the last one, for a person that looks on; an empty text takes it away.
    pub(crate) fn over(&mut self, text: &str) -> io::Result<()> {
        // A line that is wider than the terminal would be broken into two, and only one of them taken away.
        let text: String = tame(text).chars().take(self.columns()).collect();
        let mut stdout = self.stdout.lock();
        write!(stdout, "\r\x1b[2K{text}")?;
        stdout.flush()
    }
}

/// The width of a terminal that does not say how wide it is.
const COLUMNS_DEFAULT: usize = 80;

impl Out {
    fn columns(&self) -> usize {
        let size = rustix::termios::tcgetwinsize(&self.stdout);
        // One that was never told its size says that it has none.
        let columns = size.map_or(0, |size| usize::from(size.ws_col));
        if columns == 0 { COLUMNS_DEFAULT - 1 } else { columns.max(COLUMNS_DEFAULT / 4) - 1 }
    }
}

/// Prints trouble to stderr.
pub(crate) fn trouble(text: &str) {
    // When stderr is gone as well, there is nobody left to tell.
    writeln!(io::stderr().lock(), "kloros: {}", tame(text)).ok();
}

/// Prints to stderr what goes on beside the answer.
pub(crate) fn aside(text: &str) {
    // Whoever does not look on has lost nothing.
    writeln!(io::stderr().lock(), "{}", tame(text)).ok();
}

/// Returns whether the locale shows more than ASCII.
fn shows_unicode() -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(std::env::var_os).find(|text| !text.is_empty());
    set.is_some_and(|text| {
        let text = text.to_string_lossy().to_ascii_lowercase();
        text.contains("utf-8") || text.contains("utf8")
    })
}

/// Returns whether the terminal cannot take a line back.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}
