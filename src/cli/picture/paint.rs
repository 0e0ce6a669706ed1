//! Lines for a terminal: text with a tone, and tables.

use crate::cli::text::shorten;

/// What a piece of text is for; colour where a terminal has it, and nothing elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Tone {
    /// Like everything else.
    Plain,
    /// Frames, axes, and what is said beside the matter.
    Dim,
    /// What to look at.
    Strong,
    /// The best.
    Good,
    /// Failures.
    Bad,
}

impl Tone {
    /// Returns how a terminal is asked for it, and how it is taken back.
    pub(in crate::cli) fn codes(self) -> (&'static str, &'static str) {
        match self {
            Tone::Plain => ("", ""),
            Tone::Dim => ("\x1b[2m", "\x1b[0m"),
            Tone::Strong => ("\x1b[1m", "\x1b[0m"),
            Tone::Good => ("\x1b[32m", "\x1b[0m"),
            Tone::Bad => ("\x1b[31m", "\x1b[0m"),
        }
    }
}

/// A piece of text in one tone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Span {
    /// The text, which was written by anybody.
    pub(in crate::cli) text: String,
    /// Its tone.
    pub(in crate::cli) tone: Tone,
}

/// One line.
pub(in crate::cli) type Line = Vec<Span>;

/// Returns a line in one tone.
pub(in crate::cli) fn line(tone: Tone, text: impl Into<String>) -> Line {
    vec![Span { text: text.into(), tone }]
}

/// Returns the head of a part: what it is called, and what that means as far as there is room.
pub(in crate::cli) fn head(what: &str, means: &str, canvas: Canvas) -> Line {
    let means = shorten(means, canvas.width.saturating_sub(what.chars().count() + 2));
    let name = Span { text: what.to_owned(), tone: Tone::Strong };
    vec![name, Span { text: format!("  {means}"), tone: Tone::Dim }]
}

/// Where lines are drawn.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Canvas {
    /// How many columns there are.
    pub(in crate::cli) width: usize,
    /// Whether it shows more than ASCII.
    pub(in crate::cli) unicode: bool,
}

impl Canvas {
    /// Returns the character that can be shown.
    pub(in crate::cli) fn either(self, unicode: char, ascii: char) -> char {
        if self.unicode { unicode } else { ascii }
    }
}

/// The widest column of a table, in characters.
const COLUMN_MAX: usize = 24;

/// Returns a table as lines: the first row is its head, the first column names the rows. Columns that the canvas has no room
/// for are left out, from the right; two are kept.
pub(in crate::cli) fn table(rows: &[Vec<String>], canvas: Canvas) -> Vec<Line> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let cell =
        |row: &[String], column: usize| row.get(column).map_or_else(String::new, |text| shorten(text, COLUMN_MAX));
    let width = |column: usize| rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut shown = columns;
    while shown > 2 && widths[..shown].iter().sum::<usize>() + 2 * shown > canvas.width {
        shown -= 1;
    }
    let line = |(index, row): (usize, &Vec<String>)| {
        let mut spans = Vec::new();
        for (column, width) in widths[..shown].iter().enumerate() {
            let text = cell(row, column);
            let fill = " ".repeat(width - text.chars().count());
            let text = if column == 0 { format!("{text}{fill}") } else { format!("  {fill}{text}") };
            let tone = match (index, column) {
                (0, _) => Tone::Dim,
                (_, 2) => Tone::Strong,
                _ => Tone::Plain,
            };
            spans.push(Span { text: if column + 1 == shown { text.trim_end().to_owned() } else { text }, tone });
        }
        spans
    };
    let mut lines: Vec<Line> = rows.iter().enumerate().map(line).collect();
    if let Some(head) = rows.first().filter(|_| shown < columns) {
        let text =
            format!("left out for want of room: {}", head.iter().skip(shown).cloned().collect::<Vec<_>>().join(", "));
        lines.push(self::line(Tone::Dim, shorten(&text, canvas.width)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_leaves_out_what_there_is_no_room_for() {
        let row = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
        let rows =
            [row(["", "live", "best", "2nd"]), row(["batch", "1", "16", "12"]), row(["\u{fc}ber", "a\nb", "", "x"])];
        let text = |width| -> Vec<String> {
            let lines = table(&rows, Canvas { width, unicode: true });
            lines.into_iter().map(|line| line.into_iter().map(|span| span.text).collect()).collect()
        };
        assert_eq!(text(80), ["       live  best  2nd", "batch     1    16   12", "\u{fc}ber    a b          x"]);
        assert_eq!(text(20), ["       live  best", "batch     1    16", "\u{fc}ber    a b", "left out for want..."]);
        assert_eq!(text(9)[..3], ["       live", "batch     1", "\u{fc}ber    a b"]);
    }
}
