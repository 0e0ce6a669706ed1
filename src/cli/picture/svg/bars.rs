//! The importance as a panel.

use super::{Frame, Page};
use crate::{cli::picture::Importance, cli::text::shorten};

/// How high one bar is with its distance to the next.
const ROW: f64 = 28.0;

/// The most bars.
const BARS_MAX: usize = 16;

/// Returns how high a panel with so many bars is.
pub(super) fn height(rows: usize) -> f64 {
    112.0 + ROW * rows.clamp(1, BARS_MAX) as f64
}

pub(super) fn draw(page: &mut Page, importance: &Result<Importance, String>, frame: Frame) {
    let head = "Importance";
    let importance = match importance {
        Ok(importance) => importance,
        Err(why) => {
            page.panel(frame, head, "which parameters matter cannot be told");
            page.text((frame.x + 18.0, frame.y + 78.0), "", "start", &shorten(why, (frame.width / 7.0) as usize));
            return;
        }
    };
    page.panel(frame, head, "share of each parameter in what the settings change, in percent");
    let narrow = frame.width < 600.0;
    let (name_room, name_max) = if narrow { (150.0, 20) } else { (210.0, 28) };
    let plot = frame.inside([name_room, 66.0, 64.0, 46.0]);
    for percent in [0, 25, 50, 75, 100] {
        let x = plot.x + f64::from(percent) / 100.0 * plot.width;
        let bottom = plot.y + ROW * importance.bars.len().min(BARS_MAX) as f64;
        page.line("grid", (x, plot.y - 4.0), (x, bottom));
        page.text((x, bottom + 16.0), "muted small", "middle", &format!("{percent} %"));
    }
    for (index, bar) in importance.bars.iter().take(BARS_MAX).enumerate() {
        let y = plot.y + ROW * index as f64;
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        let title = format!(
            "{}: {} of the differences, {} of them alone and the rest together with others",
            bar.name,
            percent(bar.total),
            percent(bar.alone)
        );
        let (total, alone) = (bar.total.clamp(0.0, 1.0) * plot.width, bar.alone.clamp(0.0, 1.0) * plot.width);
        let block = |page: &mut Page, class: &str, from: f64, width: f64| {
            if width > 0.05 {
                let (x, y) = (plot.x + from, y + 4.0);
                page.path(class, &format!("M{x:.1} {y:.1}h{width:.1}v16h-{width:.1}z"), &title);
            }
        };
        block(page, "track", 0.0, plot.width);
        block(page, "shared", 0.0, total);
        block(page, "alone", 0.0, alone);
        page.text((plot.x - 10.0, y + 16.5), "", "end", &shorten(&bar.name, name_max));
        page.text((plot.right() + 10.0, y + 16.5), "", "start", &percent(bar.total));
    }
    let y = frame.bottom() - 12.0;
    let key = |page: &mut Page, class: &str, x: f64, text: &str| {
        page.path(class, &format!("M{x:.1} {:.1}h12v12h-12z", y - 10.0), text);
        page.text((x + 18.0, y), "muted small", "start", text);
    };
    key(page, "alone", frame.x + 18.0, "alone");
    key(page, "shared", frame.x + 78.0, "with others");
    let explained = format!("the model foretells {:.0} %", 100.0 * importance.explained.clamp(0.0, 1.0));
    page.text((frame.right() - 18.0, y), "muted small", "end", &explained);
}
