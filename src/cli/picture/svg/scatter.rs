//! Two metrics against each other as a panel, with the Pareto front.

use std::fmt::Write as _;

use super::{Frame, Page};
use crate::cli::{
    picture::{Dot, Role, Scatter, scale::Axis},
    story,
    text::shorten,
};

/// The most candidates that are drawn.
const DOTS_MAX: usize = 2000;

/// The longest name of a metric, in characters.
const NAME_MAX: usize = 26;

pub(super) fn draw(page: &mut Page, scatter: &Scatter, frame: Frame) {
    let arrow = |(name, more): &(String, bool)| {
        format!("{}, {} is better", shorten(name, NAME_MAX), if *more { "more" } else { "less" })
    };
    page.panel(frame, "Pareto front", "what no other measured candidate beats in both metrics");
    let plot = frame.inside([70.0, 84.0, 26.0, 72.0]);
    let finite = |dot: &&Dot| dot.at.0.is_finite() && dot.at.1.is_finite();
    let dots: Vec<&Dot> = scatter.dots.iter().filter(finite).take(DOTS_MAX).collect();
    let across = Axis::around(dots.iter().map(|dot| dot.at.0), 5);
    let up = Axis::around(dots.iter().map(|dot| dot.at.1), 5);
    let x = |value: f64| plot.x + across.place(value) * plot.width;
    let y = |value: f64| plot.bottom() - up.place(value) * plot.height;
    for (value, name) in &across.ticks {
        page.line("grid", (x(*value), plot.y), (x(*value), plot.bottom()));
        page.text((x(*value), plot.bottom() + 16.0), "muted small", "middle", name);
    }
    for (value, name) in &up.ticks {
        page.line("grid", (plot.x, y(*value)), (plot.right(), y(*value)));
        page.text((plot.x - 8.0, y(*value) + 4.0), "muted small", "end", name);
    }
    page.text((plot.right(), plot.bottom() + 33.0), "small", "end", &arrow(&scatter.x));
    page.text((frame.x + 18.0, plot.y - 12.0), "small", "start", &arrow(&scatter.y));
    front_line(page, scatter, &dots, (&x, &y));
    for role in [Role::Beaten, Role::Front, Role::Live] {
        for dot in dots.iter().filter(|dot| dot.role == role) {
            let (class, radius, what) = match role {
                Role::Beaten => ("other", 4.0, "beaten"),
                Role::Front => ("member", 5.5, "on the front"),
                Role::Live => ("live", 5.0, "the live settings"),
            };
            let title = format!(
                "{what}: {} {}, {} {}: {}",
                scatter.x.0,
                story::number(dot.at.0),
                scatter.y.0,
                story::number(dot.at.1),
                dot.label
            );
            page.circle(class, (x(dot.at.0), y(dot.at.1)), radius, &title);
        }
    }
    let bottom = frame.bottom() - 12.0;
    let mut at = frame.x + 18.0;
    for (class, text) in [("member", "on the front"), ("live", "live"), ("other", "beaten")] {
        page.circle(class, (at + 6.0, bottom - 4.0), 5.0, text);
        page.text((at + 18.0, bottom), "muted small", "start", text);
        at += 36.0 + 6.6 * text.chars().count() as f64;
    }
}

/// Draws how far the front reaches: beyond its steps, nothing was measured.
fn front_line(page: &mut Page, scatter: &Scatter, dots: &[&Dot], (x, y): (&impl Fn(f64) -> f64, &impl Fn(f64) -> f64)) {
    let mut members: Vec<(f64, f64)> = dots.iter().filter(|dot| dot.role == Role::Front).map(|dot| dot.at).collect();
    members.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut path = String::new();
    for (index, (across, up)) in members.iter().enumerate() {
        let (across, up) = (x(*across), y(*up));
        // The step turns on the side away from what would be better. A text can be written to as long as there is memory.
        match (index, scatter.x.1) {
            (0, _) => write!(path, "M{across:.1} {up:.1}").ok(),
            (_, true) => write!(path, "V{up:.1}H{across:.1}").ok(),
            (_, false) => write!(path, "H{across:.1}V{up:.1}").ok(),
        };
    }
    if members.len() > 1 {
        page.path("front", &path, "the Pareto front");
    }
}
