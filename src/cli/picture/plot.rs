//! The convergence as a plot of a terminal: each trial a mark, the best so far a line.

use super::{
    Came, Convergence,
    paint::{Canvas, Line, Span, Tone, line},
    scale::Axis,
};

/// How many rows the plot has.
const ROWS: usize = 13;

/// How wide the names of the ticks may be.
const TICK_MAX: usize = 10;

/// The letters of failures, in the order in which their kinds came.
const LETTERS: [char; 8] = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'];

/// The most columns that one trial takes.
const STRIDE_MAX: usize = 3;

/// Returns the plot and what its marks mean; nothing for a search without trials.
pub(in crate::cli) fn plot(convergence: &Convergence, canvas: Canvas) -> Vec<Line> {
    if convergence.marks.is_empty() {
        return Vec::new();
    }
    let axis = Axis::of(convergence, 6);
    let names: Vec<String> = axis.ticks.iter().map(|(_, name)| name.chars().take(TICK_MAX).collect()).collect();
    let margin = names.iter().map(|name| name.chars().count()).max().unwrap_or_default().max("failed".len());
    let layout = Layout::of(convergence, canvas.width.saturating_sub(margin + 3).max(8));
    let mut grid = Grid { cells: vec![vec![(' ', Tone::Plain); layout.width]; ROWS] };
    let row = |value: f64| ((1.0 - axis.place(value)) * (ROWS - 1) as f64).round() as usize;
    for column in &layout.borders {
        grid.column(*column, canvas.either('\u{2506}', ':'));
    }
    if let Some(zero) = convergence.zero {
        grid.row(row(zero), canvas.either('\u{2504}', '.'));
    }
    best_line(&mut grid, convergence, &layout, (&row, canvas));
    marks(&mut grid, convergence, &layout, (&axis, &row, canvas));
    let mut lines = Vec::new();
    for (index, cells) in grid.cells.into_iter().enumerate() {
        let tick = axis.ticks.iter().position(|(value, _)| row(*value) == index);
        let name = tick.and_then(|tick| names.get(tick)).cloned().unwrap_or_default();
        let frame = if tick.is_some() { canvas.either('\u{2524}', '+') } else { canvas.either('\u{2502}', '|') };
        let mut spans = vec![Span { text: format!("{name:>margin$} {frame}"), tone: Tone::Dim }];
        spans.extend(together(cells));
        lines.push(spans);
    }
    lines.extend(below(convergence, &layout, margin));
    lines.extend(legend(convergence, canvas));
    lines
}

/// Where each trial stands.
struct Layout {
    width: usize,
    /// The column of each trial.
    columns: Vec<usize>,
    /// Where a new group begins, between two trials.
    borders: Vec<usize>,
    /// Where each group begins, and its number.
    groups: Vec<(usize, u32)>,
}

impl Layout {
    fn of(convergence: &Convergence, room: usize) -> Layout {
        let marks = &convergence.marks;
        let starts: Vec<usize> =
            (1..marks.len()).filter(|index| marks[*index].group != marks[index - 1].group).collect();
        // Borders are left out where they would take as much room as the trials.
        let with_borders = starts.len() * 4 <= marks.len();
        let extra = if with_borders { starts.len() } else { 0 };
        let stride = (room.saturating_sub(extra) / marks.len()).min(STRIDE_MAX);
        let mut layout = Layout { width: room, columns: Vec::new(), borders: Vec::new(), groups: Vec::new() };
        for index in 0..marks.len() {
            let before = starts.iter().filter(|start| **start <= index).count();
            let is_new = index == 0 || starts.contains(&index);
            let column = if stride == 0 {
                // More trials than columns: several share one.
                index * room / marks.len()
            } else {
                index * stride + if with_borders { before } else { 0 }
            };
            if is_new {
                layout.groups.push((column, marks[index].group));
                if stride > 0 && with_borders && index > 0 {
                    layout.borders.push(column - 1);
                }
            }
            layout.columns.push(column);
        }
        layout.width = layout.columns.last().map_or(1, |last| last + stride.max(1)).min(room);
        layout
    }
}

struct Grid {
    cells: Vec<Vec<(char, Tone)>>,
}

impl Grid {
    fn set(&mut self, row: usize, column: usize, cell: (char, Tone)) {
        if let Some(place) = self.cells.get_mut(row).and_then(|row| row.get_mut(column)) {
            *place = cell;
        }
    }

    fn column(&mut self, column: usize, character: char) {
        (0..ROWS).for_each(|row| self.set(row, column, (character, Tone::Dim)));
    }

    fn row(&mut self, row: usize, character: char) {
        let width = self.cells.first().map_or(0, Vec::len);
        (0..width).for_each(|column| self.set(row, column, (character, Tone::Dim)));
    }
}

fn best_line(
    grid: &mut Grid,
    convergence: &Convergence,
    layout: &Layout,
    (row, canvas): (&impl Fn(f64) -> usize, Canvas),
) {
    let (flat, upright) = (canvas.either('\u{2501}', '='), canvas.either('\u{2503}', '|'));
    let mut before: Option<usize> = None;
    for (index, best) in convergence.best_so_far().into_iter().enumerate() {
        let Some(best) = best.map(row) else { continue };
        let from = layout.columns[index];
        let to = layout.columns.get(index + 1).copied().unwrap_or(layout.width).max(from + 1);
        (from..to).for_each(|column| grid.set(best, column, (flat, Tone::Good)));
        if let Some(before) = before.filter(|before| *before != best) {
            let (top, bottom) = (before.min(best), before.max(best));
            (top..=bottom).for_each(|row| grid.set(row, from, (upright, Tone::Good)));
            let (rises, falls) = (('\u{251b}', '\u{250f}'), ('\u{2513}', '\u{2517}'));
            let corners = if before > best { rises } else { falls };
            grid.set(before, from, (canvas.either(corners.0, '+'), Tone::Good));
            grid.set(best, from, (canvas.either(corners.1, '+'), Tone::Good));
        }
        before = Some(best);
    }
}

fn marks(
    grid: &mut Grid,
    convergence: &Convergence,
    layout: &Layout,
    (axis, row, canvas): (&Axis, &impl Fn(f64) -> usize, Canvas),
) {
    for (mark, column) in convergence.marks.iter().zip(&layout.columns) {
        let (value, character, tone) = match &mark.result {
            Came::Measured(value) => (*value, canvas.either('\u{25cf}', 'o'), Tone::Strong),
            Came::Tripped { value, .. } => (*value, canvas.either('\u{25b3}', 'g'), Tone::Bad),
            Came::Failed(_) => continue,
        };
        if value.is_finite() {
            let beyond = canvas.either('\u{2193}', 'v');
            let character = if axis.is_outside(value) && value < axis.low { beyond } else { character };
            grid.set(row(value), *column, (character, tone));
        }
    }
}

/// Returns the row of failures, and that of the groups.
fn below(convergence: &Convergence, layout: &Layout, margin: usize) -> Vec<Line> {
    let kinds = convergence.failure_kinds();
    let mut lines = Vec::new();
    if !kinds.is_empty() {
        let mut failed = vec![' '; layout.width];
        for (mark, column) in convergence.marks.iter().zip(&layout.columns) {
            if let (Came::Failed(kind), Some(place)) = (&mark.result, failed.get_mut(*column)) {
                *place = letter(&kinds, kind);
            }
        }
        let letters: String = failed.into_iter().collect();
        lines.push(vec![
            Span { text: format!("{:>margin$}  ", "failed"), tone: Tone::Dim },
            Span { text: letters.trim_end().to_owned(), tone: Tone::Bad },
        ]);
    }
    let mut numbers = String::new();
    for (column, group) in &layout.groups {
        let written = numbers.chars().count();
        if *column >= written && (written == 0 || *column > written) {
            numbers += &" ".repeat(column - written);
            numbers += &group.to_string();
        }
    }
    let noun = match convergence.group_noun() {
        "generation" => "gen.",
        noun => noun,
    };
    lines.push(line(Tone::Dim, format!("{noun:>margin$}  {numbers}")));
    lines
}

fn letter(kinds: &[&str], kind: &str) -> char {
    let place = kinds.iter().position(|each| *each == kind);
    place.and_then(|place| LETTERS.get(place)).copied().unwrap_or('x')
}

fn legend(convergence: &Convergence, canvas: Canvas) -> Vec<Line> {
    let measured = canvas.either('\u{25cf}', 'o');
    let (best, zero) = (canvas.either('\u{2501}', '='), canvas.either('\u{2504}', '.'));
    let mut text = format!("{measured} a trial   {best} the best so far   {zero} {}", convergence.zero_name);
    if convergence.marks.iter().any(|mark| matches!(mark.result, Came::Tripped { .. })) {
        text.extend(["   ", &canvas.either('\u{25b3}', 'g').to_string(), " tripped a guard"]);
    }
    let kinds = convergence.failure_kinds();
    let letters: Vec<String> = kinds.iter().map(|kind| format!("{} {kind}", letter(&kinds, kind))).collect();
    let mut lines = vec![line(Tone::Dim, text)];
    if !letters.is_empty() {
        lines.push(line(Tone::Dim, format!("failed: {}", letters.join("   "))));
    }
    lines
}

/// Returns cells as spans, neighbours of one tone together.
fn together(cells: Vec<(char, Tone)>) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for (character, tone) in cells {
        match spans.last_mut() {
            Some(span) if span.tone == tone => span.text.push(character),
            _ => spans.push(Span { text: character.to_string(), tone }),
        }
    }
    while let Some(last) = spans.last_mut() {
        last.text.truncate(last.text.trim_end().len());
        if !last.text.is_empty() {
            break;
        }
        spans.pop();
    }
    spans
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::picture::{Mark, Scale};

    fn search(results: Vec<(u32, Came)>) -> Convergence {
        let mark = |(group, result)| Mark { group, label: "batch=1".to_owned(), result };
        Convergence {
            scale: Scale::Gain,
            zero_name: "live".to_owned(),
            zero: Some(0.0),
            marks: results.into_iter().map(mark).collect(),
        }
    }

    fn text(convergence: &Convergence, width: usize, unicode: bool) -> Vec<String> {
        let lines = plot(convergence, Canvas { width, unicode });
        lines.into_iter().map(|line| line.into_iter().map(|span| span.text).collect()).collect()
    }

    #[test]
    fn a_search_is_drawn_with_its_marks_its_best_line_its_failures_and_its_generations() {
        let failed = |kind: &str| Came::Failed(kind.to_owned());
        let tripped = Came::Tripped { value: 0.2, guard: "errors".to_owned() };
        let convergence = search(vec![
            (1, Came::Measured(0.0)),
            (1, failed("died")),
            (1, Came::Measured(0.3)),
            (1, Came::Measured(-3.0)),
            (2, tripped),
            (2, failed("timed_out")),
            (2, Came::Measured(0.69)),
            (2, Came::Measured(0.5)),
        ]);
        let expected = [
            "       |            :",
            "+100 % +            :      o=====",
            "       |            :      |  o",
            "       |            :      |",
            "       |      o============+",
            "       |      |     :g",
            "   0 % +o=====+..................",
            "       |            :",
            "       |            :",
            "       |            :",
            "       |            :",
            "       |            :",
            " -50 % +         v  :",
            "failed     a            b",
            "  gen.  1            2",
            "o a trial   = the best so far   . live   g tripped a guard",
            "failed: a died   b timed_out",
        ];
        assert_eq!(text(&convergence, 80, false), expected);
    }

    #[test]
    fn without_trials_there_is_no_plot() {
        assert!(text(&search(Vec::new()), 80, true).is_empty());
    }

    proptest! {
        #[test]
        fn whatever_was_measured_the_plot_is_as_wide_as_the_terminal_at_most(
            results in prop::collection::vec((1_u32..6, prop::num::f64::ANY, 0_u8..3), 1..200), width in 40_usize..200, unicode: bool,
        ) {
            let came = |(group, value, sort): (u32, f64, u8)| match sort {
                0 => (group, Came::Measured(value)),
                1 => (group, Came::Tripped { value, guard: "errors".to_owned() }),
                _ => (group, Came::Failed("died".to_owned())),
            };
            let lines = text(&search(results.into_iter().map(came).collect()), width, unicode);
            let plotted = &lines[..ROWS];
            prop_assert!(plotted.iter().all(|line| line.chars().count() <= width), "{:#?}", lines);
            prop_assert!(unicode || lines.iter().all(|line| line.is_ascii()));
        }
    }
}
