//! Series with what was unlike their past, a panel each.

use std::fmt::Write as _;

use super::{super::scale::Axis, Frame, HEAD, MARGIN, Page, WIDTH};

/// How high a panel is, and how much of it scores take.
const HEIGHT: f64 = 210.0;
const SCORES: f64 = 26.0;

/// The most panels of one page.
const PANELS_MAX: usize = 40;

/// One series as it is drawn.
pub(in crate::cli) struct Panel {
    /// What it is called.
    pub(in crate::cli) name: String,
    /// What was found in it.
    pub(in crate::cli) found: String,
    /// When it begins and ends, in words.
    pub(in crate::cli) ends: (String, String),
    /// Rows, some of them together: the moment, the least and the largest value, and the highest score.
    pub(in crate::cli) points: Vec<(f64, f64, f64, f64)>,
    /// What was unlike its past.
    pub(in crate::cli) stretches: Vec<Stretch>,
}

/// Something unlike the past.
pub(in crate::cli) struct Stretch {
    /// When it began and ended.
    pub(in crate::cli) from: f64,
    pub(in crate::cli) to: f64,
    /// What it was, in words.
    pub(in crate::cli) title: String,
    /// Whether a surge of the load explains it.
    pub(in crate::cli) is_surge: bool,
}

/// Returns the whole file.
pub(in crate::cli) fn series(title: &str, subtitle: &str, panels: &[Panel]) -> String {
    let count = panels.len().min(PANELS_MAX);
    let height = MARGIN + HEAD + count as f64 * (HEIGHT + 20.0) + MARGIN;
    let mut page = Page::begin(title, subtitle, height);
    for (index, panel) in panels.iter().take(PANELS_MAX).enumerate() {
        let y = MARGIN + HEAD - 16.0 + index as f64 * (HEIGHT + 20.0);
        draw(&mut page, panel, Frame { x: MARGIN, y, width: WIDTH - 2.0 * MARGIN, height: HEIGHT });
    }
    page.end()
}

fn draw(page: &mut Page, panel: &Panel, frame: Frame) {
    page.panel(frame, &panel.name, &panel.found);
    let plot = frame.inside([78.0, 62.0, 24.0, 34.0]);
    let seen = |point: &&(f64, f64, f64, f64)| point.1.is_finite() && point.2.is_finite();
    let values = panel.points.iter().filter(seen).flat_map(|point| [point.1, point.2]);
    let axis = Axis::around(values, 3);
    let (first, last) = panel
        .points
        .iter()
        .filter(|point| point.0.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(first, last), point| (first.min(point.0), last.max(point.0)));
    // Halves, whose difference is finite.
    let long = (last / 2.0 - first / 2.0).max(f64::MIN_POSITIVE);
    let x = |at: f64| {
        let share = (at / 2.0 - first / 2.0) / long;
        plot.x + if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) } * plot.width
    };
    let (top, bottom) = (plot.y, plot.bottom() - SCORES);
    let y = |value: f64| bottom - axis.place(value) * (bottom - top);
    for (value, name) in &axis.ticks {
        page.line("grid", (plot.x, y(*value)), (plot.right(), y(*value)));
        page.text((plot.x - 8.0, y(*value) + 4.0), "muted small", "end", name);
    }
    for stretch in &panel.stretches {
        let (from, to) = (x(stretch.from), x(stretch.to));
        let width = (to - from).max(1.5);
        let class = if stretch.is_surge { "surge" } else { "incident" };
        let high = plot.bottom() - top;
        page.path(class, &format!("M{from:.1} {top:.1}h{width:.1}v{high:.1}h-{width:.1}z"), &stretch.title);
    }
    let (mut line, mut scores, mut is_on) = (String::new(), String::new(), false);
    for point in &panel.points {
        let is_seen = seen(&point);
        if is_seen {
            // A gap is a gap, and no line across it.
            let step = if is_on { 'L' } else { 'M' };
            write!(line, "{step}{:.1} {:.1}L{:.1} {:.1}", x(point.0), y(point.1), x(point.0), y(point.2)).ok();
        }
        is_on = is_seen;
        let high = point.3.clamp(0.0, 1.0) * (SCORES - 4.0);
        if high > 0.3 {
            write!(scores, "M{:.1} {:.1}h1.5v-{high:.1}h-1.5z", x(point.0), plot.bottom()).ok();
        }
    }
    page.path("spread", &line, &panel.name);
    page.path("score", &scores, "how unlike the past: the score of each row, a decision at half the height");
    page.line("axis", (plot.x, plot.bottom()), (plot.right(), plot.bottom()));
    page.text((plot.x, frame.bottom() - 12.0), "muted small", "start", &panel.ends.0);
    page.text((plot.right(), frame.bottom() - 12.0), "muted small", "end", &panel.ends.1);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_has_no_finite_moment_is_drawn_at_the_beginning() {
        let points = vec![(f64::NEG_INFINITY, 0.0, 0.0, 0.5), (f64::MAX, 1.0, 1.0, 0.5), (f64::MIN, 1.0, 1.0, 0.5)];
        let stretches = vec![Stretch { from: f64::NAN, to: f64::INFINITY, title: String::new(), is_surge: false }];
        let ends = (String::new(), String::new());
        let panel = Panel { name: String::new(), found: String::new(), ends, points, stretches };
        let text = series("", "", &[panel]);
        assert!(!text.contains("NaN") && !text.contains("inf "), "{text}");
    }

    proptest! {
        #[test]
        fn whatever_the_names_and_numbers_series_are_one_svg(
            name in any::<String>(), values in prop::collection::vec(prop::num::f64::ANY, 0..40),
        ) {
            let points = values.windows(4).map(|four| (four[0], four[1], four[2], four[3])).collect();
            let stretch = |value: &f64| Stretch { from: *value, to: *value, title: name.clone(), is_surge: *value > 0.0 };
            let stretches = values.iter().map(stretch).collect();
            let ends = (name.clone(), name.clone());
            let panel = Panel { name: name.clone(), found: name.clone(), ends, points, stretches };
            let text = series(&name, &name, &[panel]);
            let parsed = roxmltree::Document::parse(&text).unwrap();
            for element in parsed.descendants().filter(roxmltree::Node::is_element) {
                for attribute in element.attributes() {
                    let is_number = !attribute.value().contains("NaN") && !attribute.value().contains("inf");
                    prop_assert!(is_number || attribute.name() == "class", "{:?}", attribute);
                }
            }
        }
    }
}
