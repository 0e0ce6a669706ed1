//! How much each parameter matters, as bars of a terminal.

use super::{
    Bar, Importance,
    paint::{Canvas, Line, Span, Tone},
};
use crate::cli::text::{shorten, wrapped};

/// The longest name that is shown whole, in characters.
const NAME_MAX: usize = 24;

/// What stands behind a bar, in characters.
const BEHIND: usize = 20;

/// The most bars.
const BARS_MAX: usize = 20;

/// Returns the importance with what it means, or why it cannot be told.
pub(in crate::cli) fn importance(importance: &Result<Importance, String>, canvas: Canvas) -> Vec<Line> {
    let head = |means: &str| super::paint::head("importance", means, canvas);
    match importance {
        Ok(found) => {
            let explained = 100.0 * found.explained.clamp(0.0, 1.0);
            let means = format!("share in what the settings change (the model foretells {explained:.0} % of it)");
            std::iter::once(head(&means)).chain(bars(found, canvas)).collect()
        }
        Err(why) => {
            let lines = wrapped(&format!("  {why}"), canvas.width, 2);
            let lines = lines.into_iter().map(|text| super::paint::line(Tone::Plain, text));
            std::iter::once(head("cannot be told")).chain(lines).collect()
        }
    }
}

/// Returns a bar for each parameter, a full one being the whole of the differences.
fn bars(importance: &Importance, canvas: Canvas) -> Vec<Line> {
    let names: Vec<String> = importance.bars.iter().map(|bar| shorten(&bar.name, NAME_MAX)).collect();
    let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
    let room = canvas.width.saturating_sub(longest + BEHIND + 4).clamp(8, 50);
    let line = |(bar, name): (&Bar, String)| {
        let cells = |share: f64| (share.clamp(0.0, 1.0) * room as f64).round() as usize;
        let (alone, total) = (cells(bar.alone), cells(bar.total));
        let together = total.saturating_sub(alone);
        let (full, light) = (canvas.either('\u{2588}', '#'), canvas.either('\u{2591}', '-'));
        let share = |share: f64| format!("{:.0} %", 100.0 * share);
        vec![
            Span { text: format!("  {name:longest$}  "), tone: Tone::Plain },
            Span { text: full.to_string().repeat(alone), tone: Tone::Good },
            Span { text: light.to_string().repeat(together), tone: Tone::Dim },
            Span { text: " ".repeat(room - total.max(alone).min(room)), tone: Tone::Plain },
            Span { text: format!("{:>6}", share(bar.total)), tone: Tone::Strong },
            Span { text: format!(", alone {}", share(bar.alone)), tone: Tone::Dim },
        ]
    };
    let mut lines: Vec<Line> = importance.bars.iter().zip(names).take(BARS_MAX).map(line).collect();
    if let Some(more) = importance.bars.len().checked_sub(BARS_MAX).filter(|more| *more > 0) {
        lines.push(super::paint::line(Tone::Dim, format!("  and {more} that matter less")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_share_and_says_what_of_it_is_its_own() {
        let bar = |name: &str, total, alone| Bar { name: name.to_owned(), total, alone };
        let importance = Importance { explained: 0.9, bars: vec![bar("batch", 0.5, 0.25), bar("cache", 0.0, 0.0)] };
        let text = |unicode| -> Vec<String> {
            let lines = bars(&importance, Canvas { width: 49, unicode });
            lines.into_iter().map(|line| line.into_iter().map(|span| span.text).collect()).collect()
        };
        assert_eq!(
            text(false),
            ["  batch  #####-----            50 %, alone 25 %", "  cache                         0 %, alone 0 %"]
        );
        assert!(text(true)[0].contains("\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}\u{2591}"));
    }
}
