//! The convergence as a panel.

use std::fmt::Write as _;

use super::{Frame, Page};
use crate::cli::picture::{
    Came, Convergence, Scale,
    scale::{Axis, worded},
};

/// The most marks that are drawn; of more, those in between are left out.
const MARKS_MAX: usize = 2000;

pub(super) fn draw(page: &mut Page, convergence: &Convergence, frame: Frame) {
    let (head, means) = match &convergence.scale {
        Scale::Gain => (
            "Convergence".to_owned(),
            format!("gain over the {} settings of each trial, in percent, and the best so far", convergence.zero_name),
        ),
        Scale::Metric { name, more } => {
            let way = if *more { "more" } else { "less" };
            ("Convergence".to_owned(), format!("{name} of each trial, {way} is better, and the best so far"))
        }
    };
    page.panel(frame, &head, &means);
    let plot = frame.inside([78.0, 66.0, 26.0, 62.0]);
    let axis = Axis::of(convergence, 6);
    let y = |value: f64| plot.bottom() - axis.place(value) * plot.height;
    for (value, name) in &axis.ticks {
        page.line("grid", (plot.x, y(*value)), (plot.right(), y(*value)));
        page.text((plot.x - 10.0, y(*value) + 4.0), "muted small", "end", name);
    }
    let count = convergence.marks.len();
    let x = |index: f64| plot.x + (index + 0.5) / count.max(1) as f64 * plot.width;
    groups(page, convergence, plot, &x);
    if let Some(zero) = convergence.zero.filter(|zero| zero.is_finite()) {
        page.line("zero", (plot.x, y(zero)), (plot.right(), y(zero)));
        page.text((plot.right() - 4.0, y(zero) - 6.0), "muted small", "end", &convergence.zero_name);
    }
    best_line(page, convergence, plot, (&x, &y));
    marks(page, convergence, &axis, (plot, &x, &y));
    legend(page, convergence, frame);
}

fn marks(
    page: &mut Page,
    convergence: &Convergence,
    axis: &Axis,
    (plot, x, y): (Frame, &impl Fn(f64) -> f64, &impl Fn(f64) -> f64),
) {
    let count = convergence.marks.len();
    let failed_at = plot.bottom() + 14.0;
    let best = convergence.best_so_far();
    let every = count.div_ceil(MARKS_MAX).max(1);
    for (index, mark) in convergence.marks.iter().enumerate() {
        let is_best = matches!(mark.result, Came::Measured(value) if best.get(index).copied().flatten() == Some(value));
        if index % every != 0 && !is_best {
            continue;
        }
        let at = x(index as f64);
        let name = match convergence.group_noun() {
            "trial" => format!("trial {}", index + 1),
            noun => format!("trial {}, {noun} {}", index + 1, mark.group),
        };
        match &mark.result {
            Came::Measured(value) if value.is_finite() => {
                let is_new = is_best && (index == 0 || best[index - 1] != best[index]);
                let (class, radius) = if is_new { ("best", 5.5) } else { ("dot", 4.5) };
                let title = format!("{name}: {}: {}", worded(&convergence.scale, *value), mark.label);
                if axis.is_outside(*value) {
                    // It is farther away than is shown.
                    let way = if *value < axis.low { 1.0 } else { -1.0 };
                    let path = format!("M{at:.1} {:.1}l-5 {:.1}h10z", y(*value), -8.0 * way);
                    page.path(class, &path, &title);
                } else {
                    page.circle(class, (at, y(*value)), radius, &title);
                }
            }
            Came::Tripped { value, guard } if value.is_finite() => {
                let title = format!(
                    "{name}: {}, but tripped the guard of {guard}: {}",
                    worded(&convergence.scale, *value),
                    mark.label
                );
                let y = y(*value);
                let path = format!("M{:.1} {:.1}l5 9h-10z", at, y - 5.0);
                page.path("guard", &path, &title);
            }
            Came::Measured(_) | Came::Tripped { .. } => {}
            Came::Failed(kind) => {
                let title = format!("{name}: failed, {kind}: {}", mark.label);
                let path = format!("M{:.1} {:.1}l7 7m0 -7l-7 7", at - 3.5, failed_at - 3.5);
                page.path("bad", &path, &title);
            }
        }
    }
}

/// Separates the groups and names them, where there are few enough to be told apart.
fn groups(page: &mut Page, convergence: &Convergence, plot: Frame, x: &impl Fn(f64) -> f64) {
    let marks = &convergence.marks;
    let mut starts: Vec<usize> =
        (0..marks.len()).filter(|index| *index == 0 || marks[*index].group != marks[index - 1].group).collect();
    let apart = plot.width / starts.len().max(1) as f64;
    let noun = convergence.group_noun();
    let names_each = apart > 90.0;
    starts.push(marks.len());
    for pair in starts.windows(2) {
        let (from, to) = (x(pair[0] as f64 - 0.5), x(pair[1] as f64 - 0.5));
        if pair[0] > 0 && apart > 14.0 && noun != "trial" {
            page.line("border", (from, plot.y), (from, plot.bottom() + 22.0));
        }
        let group = marks[pair[0]].group;
        let text = if names_each { format!("{noun} {group}") } else { group.to_string() };
        if apart > 18.0 || pair[0] == 0 {
            page.text((0.5 * (from + to), plot.bottom() + 34.0), "muted small", "middle", &text);
        }
    }
    if !names_each {
        page.text((plot.x - 10.0, plot.bottom() + 34.0), "muted small", "end", noun);
    }
    page.line("axis", (plot.x, plot.bottom()), (plot.right(), plot.bottom()));
}

fn best_line(
    page: &mut Page,
    convergence: &Convergence,
    plot: Frame,
    (x, y): (&impl Fn(f64) -> f64, &impl Fn(f64) -> f64),
) {
    let mut path = String::new();
    let mut first = None;
    for (index, best) in convergence.best_so_far().into_iter().enumerate() {
        let Some(best) = best else { continue };
        // A text can be written to as long as there is memory.
        if first.is_none() {
            first = Some(x(index as f64));
            write!(path, "M{:.1} {:.1}", x(index as f64), y(best)).ok();
        } else {
            write!(path, "H{:.1}V{:.1}", x(index as f64), y(best)).ok();
        }
    }
    let Some(first) = first else { return };
    write!(path, "H{:.1}", plot.right()).ok();
    if let Some(zero) = convergence.zero.filter(|zero| zero.is_finite()) {
        let zero = y(zero);
        page.path("area", &format!("{path}V{zero:.1}H{first:.1}z"), "what was gained");
    }
    page.path("line", &path, "the best so far");
}

fn legend(page: &mut Page, convergence: &Convergence, frame: Frame) {
    let y = frame.bottom() - 12.0;
    let mut x = frame.x + 18.0;
    let mut entry = |page: &mut Page, draw: &dyn Fn(&mut Page, f64), text: &str| {
        draw(page, x);
        page.text((x + 20.0, y), "muted small", "start", text);
        x += 38.0 + 6.6 * text.chars().count() as f64;
    };
    entry(page, &|page, x| page.circle("dot", (x + 7.0, y - 4.0), 4.5, "a trial"), "a trial");
    entry(page, &|page, x| page.circle("best", (x + 7.0, y - 4.0), 5.5, "a new best"), "a new best");
    if convergence.marks.iter().any(|mark| matches!(mark.result, Came::Tripped { .. })) {
        let triangle = |page: &mut Page, x: f64| {
            page.path("guard", &format!("M{:.1} {:.1}l5 9h-10z", x + 7.0, y - 9.0), "tripped a guard");
        };
        entry(page, &triangle, "tripped a guard");
    }
    let kinds = convergence.failure_kinds();
    if !kinds.is_empty() {
        let cross = |page: &mut Page, x: f64| {
            page.path("bad", &format!("M{:.1} {:.1}l7 7m0 -7l-7 7", x + 3.5, y - 7.5), "failed");
        };
        let counted: Vec<String> = kinds
            .iter()
            .map(|kind| {
                let count =
                    convergence.marks.iter().filter(|mark| mark.result == Came::Failed((*kind).to_owned())).count();
                format!("{count} {kind}")
            })
            .collect();
        entry(page, &cross, &format!("failed: {}", counted.join(", ")));
    }
}
