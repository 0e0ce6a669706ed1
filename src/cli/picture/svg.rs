//! One SVG of a search, by hand: a page of panels that needs no script, no font and no other file.
//!
//! Colours follow what the viewer prefers, light or dark; without a style sheet it is light. Every mark has a `<title>` that a
//! pointer or a screen reader finds.

mod bars;

mod plot;

mod scatter;

mod series;

use std::fmt::Write as _;

use super::Picture;
use crate::cli::text::{shorten, tame};

pub(in crate::cli) use series::{Panel, Stretch, series};

/// What an SVG of ours begins with, by which it is known again.
pub(super) const BEGINNING: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" data-drawn-by=\"kloros\"";

/// How wide the page is, in its own units.
const WIDTH: f64 = 960.0;

/// How far panels are from the edge of the page, and from each other.
const MARGIN: f64 = 32.0;

/// How high the head of the page is.
const HEAD: f64 = 84.0;

/// The longest text in one place, in characters.
const TEXT_MAX: usize = 110;

/// What follows the viewer's preference. The classes stand for what a thing is, not for how it looks.
const STYLE: &str = "
.page{fill:#fff}.card{fill:#f6f8fa;stroke:#d8dee4}text{fill:#1f2328;font:13px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif}
.title{font-size:21px;font-weight:600}.head{font-size:15px;font-weight:600}.muted{fill:#59636e}.small{font-size:11.5px}
.grid{stroke:#d8dee4;stroke-width:1}.axis{stroke:#8c959f;stroke-width:1}.zero{stroke:#59636e;stroke-width:1.2;stroke-dasharray:5 4}
.border{stroke:#d8dee4;stroke-width:1;stroke-dasharray:2 3}
.line{fill:none;stroke:#0969da;stroke-width:2.5;stroke-linejoin:round}.area{fill:#0969da;fill-opacity:.07}
.dot{fill:#54aeff;stroke:#fff;stroke-width:1.2}.best{fill:#0969da;stroke:#fff;stroke-width:1.5}.bad{fill:none;stroke:#cf222e;stroke-width:2}
.guard{fill:none;stroke:#bc4c00;stroke-width:1.8}.alone{fill:#0969da}.shared{fill:#a5d1ff}.track{fill:#eaeef2}
.front{fill:none;stroke:#1a7f37;stroke-width:2}.member{fill:#1a7f37;stroke:#fff;stroke-width:1.2}.other{fill:#8c959f;fill-opacity:.55}
.live{fill:#fff;stroke:#1f2328;stroke-width:2}.spread{fill:none;stroke:#0969da;stroke-width:1.2}
.score{fill:#54aeff;fill-opacity:.5}.incident{fill:#cf222e;fill-opacity:.16;stroke:#cf222e;stroke-width:1}.surge{fill:#bc4c00;fill-opacity:.12;stroke:#bc4c00;stroke-width:1}
@media (prefers-color-scheme:dark){
.page{fill:#0d1117}.card{fill:#151b23;stroke:#30363d}text{fill:#e6edf3}.muted{fill:#9198a1}.grid,.border{stroke:#2a313a}
.axis{stroke:#656c76}.zero{stroke:#9198a1}.line{stroke:#58a6ff}.area{fill:#58a6ff;fill-opacity:.1}
.dot{fill:#2f6fc4;stroke:#151b23}.best{fill:#58a6ff;stroke:#151b23}.bad{stroke:#ff7b72}.guard{stroke:#ffa657}
.alone{fill:#58a6ff}.shared{fill:#27558c}.track{fill:#21262d}.front{stroke:#3fb950}.member{fill:#3fb950;stroke:#151b23}
.other{fill:#7d8590}.live{fill:#151b23;stroke:#e6edf3}.spread{stroke:#58a6ff}.score{fill:#2f6fc4}
.incident{fill:#ff7b72;stroke:#ff7b72}.surge{fill:#ffa657;stroke:#ffa657}}
";

/// Returns the whole file.
pub(in crate::cli) fn svg(picture: &Picture) -> String {
    let plot_height = 360.0;
    let below = MARGIN + HEAD + plot_height + 20.0;
    let rows = picture.importance.as_ref().map_or(0, |importance| importance.bars.len());
    let panel_height = if picture.scatter.is_some() { bars::height(rows).max(340.0) } else { bars::height(rows) };
    let height = below + panel_height + MARGIN;
    let full = WIDTH - 2.0 * MARGIN;
    let half = (full - 20.0) / 2.0;
    let mut page = Page::begin(&picture.title, &picture.subtitle, height);
    let top = MARGIN + HEAD - 16.0;
    plot::draw(&mut page, &picture.convergence, Frame { x: MARGIN, y: top, width: full, height: plot_height });
    let y = top + plot_height + 20.0;
    let width = if picture.scatter.is_some() { half } else { full };
    bars::draw(&mut page, &picture.importance, Frame { x: MARGIN, y, width, height: panel_height });
    if let Some(scatter) = &picture.scatter {
        let frame = Frame { x: MARGIN + half + 20.0, y, width: half, height: panel_height };
        scatter::draw(&mut page, scatter, frame);
    }
    page.end()
}

/// A place on the page.
#[derive(Clone, Copy)]
struct Frame {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl Frame {
    /// Returns what is left within these distances: left, top, right, bottom.
    fn inside(self, [left, top, right, bottom]: [f64; 4]) -> Frame {
        let (width, height) = (self.width - left - right, self.height - top - bottom);
        Frame { x: self.x + left, y: self.y + top, width, height }
    }

    fn right(self) -> f64 {
        self.x + self.width
    }

    fn bottom(self) -> f64 {
        self.y + self.height
    }
}

/// The file as far as it is written.
struct Page {
    text: String,
}

impl Page {
    /// Returns a page of this height with its head.
    fn begin(title: &str, subtitle: &str, height: f64) -> Self {
        let mut page = Self { text: String::new() };
        let (name, description) = (escaped(title, TEXT_MAX), escaped(subtitle, TEXT_MAX));
        page.add(format_args!(
            "{BEGINNING} viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
             aria-labelledby=\"title description\">\n<title id=\"title\">{name}</title>\n<desc id=\"description\">{description}</desc>\n\
             <style>{STYLE}</style>\n<rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>"
        ));
        page.text((MARGIN, MARGIN + 22.0), "title", "start", &shorten(title, 76));
        page.text((MARGIN, MARGIN + 48.0), "muted", "start", &shorten(subtitle, TEXT_MAX));
        page
    }

    /// Returns the whole file.
    fn end(self) -> String {
        self.text + "</svg>\n"
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        // A text can be written to as long as there is memory.
        writeln!(self.text, "{element}").ok();
    }

    /// Adds text that anybody may have written.
    fn text(&mut self, (x, y): (f64, f64), class: &str, anchor: &str, text: &str) {
        let text = escaped(text, TEXT_MAX);
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.add(format_args!("<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"));
    }

    /// Adds a circle that says what it stands for.
    fn circle(&mut self, class: &str, (x, y): (f64, f64), radius: f64, title: &str) {
        let title = escaped(title, 4 * TEXT_MAX);
        self.add(format_args!(
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"><title>{title}</title></circle>"
        ));
    }

    /// Adds a shape that says what it stands for.
    fn path(&mut self, class: &str, path: &str, title: &str) {
        let title = escaped(title, 4 * TEXT_MAX);
        self.add(format_args!("<path class=\"{class}\" d=\"{path}\"><title>{title}</title></path>"));
    }

    /// Adds the card of a panel with what it is called and what that means.
    fn panel(&mut self, frame: Frame, head: &str, means: &str) {
        let Frame { x, y, width, height } = frame;
        self.add(format_args!(
            "<rect class=\"card\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"8\"/>"
        ));
        self.text((x + 18.0, y + 28.0), "head", "start", head);
        self.text((x + 18.0, y + 47.0), "muted small", "start", means);
    }
}

/// Returns `text` as it may stand in an element or an attribute: on one line, not too long, without a character that a browser
/// would obey or that XML cannot hold.
fn escaped(text: &str, most: usize) -> String {
    let mut escaped = String::new();
    for each in tame(&shorten(text, most)).chars() {
        match each {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&apos;",
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            each => escaped.push(each),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::*, *};

    fn picture(name: &str) -> Picture {
        let mark = |group, result| Mark { group, label: name.to_owned(), result };
        let marks = vec![
            mark(1, Came::Measured(0.0)),
            mark(1, Came::Failed(name.to_owned())),
            mark(1, Came::Tripped { value: f64::NAN, guard: name.to_owned() }),
            mark(2, Came::Measured(0.7)),
            mark(2, Came::Tripped { value: 0.1, guard: name.to_owned() }),
            mark(2, Came::Measured(f64::INFINITY)),
        ];
        let bar = |total, alone| Bar { name: name.to_owned(), total, alone };
        let dot = |at, role| Dot { at, label: name.to_owned(), role };
        Picture {
            title: name.to_owned(),
            subtitle: name.to_owned(),
            convergence: Convergence { scale: Scale::Gain, zero_name: name.to_owned(), zero: Some(0.0), marks },
            importance: Ok(Importance { explained: 0.8, bars: vec![bar(0.7, 0.5), bar(0.0, 0.0)] }),
            scatter: Some(Scatter {
                x: (name.to_owned(), true),
                y: (name.to_owned(), false),
                dots: vec![
                    dot((1.0, 2.0), Role::Live),
                    dot((2.0, 3.0), Role::Front),
                    dot((f64::NAN, 3.0), Role::Beaten),
                    dot((1.0, 3.0), Role::Beaten),
                ],
            }),
        }
    }

    #[track_caller]
    fn check(text: &str) {
        let parsed = roxmltree::Document::parse(text).unwrap();
        let root = parsed.root_element();
        assert_eq!((root.tag_name().name(), root.attribute("role")), ("svg", Some("img")));
        assert!(text.starts_with(BEGINNING));
        let allowed = ["svg", "title", "desc", "style", "rect", "text", "line", "circle", "path", "g"];
        for element in root.descendants().filter(roxmltree::Node::is_element) {
            assert!(allowed.contains(&element.tag_name().name()), "{element:?}");
            for attribute in element.attributes() {
                assert!(!attribute.name().starts_with("on") && attribute.name() != "href", "{attribute:?}");
                assert!(!attribute.value().contains("NaN") && !attribute.value().contains("inf"), "{attribute:?}");
            }
        }
        for name in ["title", "desc"] {
            let named = root.children().find(|child| child.tag_name().name() == name).unwrap();
            assert!(named.attribute("id").is_some(), "a reader finds the {name}");
        }
    }

    #[test]
    fn a_picture_is_one_svg_without_a_script_whatever_stands_in_a_name() {
        for name in [
            "batch",
            "</text><script>alert(1)</script>",
            "\" onload=\"alert(1)",
            "' onload='alert(1)",
            "]]> <!-- &nbsp; &#0;",
            "\u{1b}[2J\u{0}\u{202e}\u{ffff}\u{85}",
            "",
        ] {
            let text = svg(&picture(name));
            check(&text);
            assert!(!text.contains("<script") && !text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text}");
        }
    }

    #[test]
    fn a_picture_without_trials_importance_or_front_is_an_svg_too() {
        let mut picture = picture("x");
        picture.convergence.marks.clear();
        picture.importance = Err("4 settings were measured, and it takes 8 to tell".to_owned());
        picture.scatter = None;
        let text = svg(&picture);
        check(&text);
        assert!(text.contains("it takes 8 to tell"));
    }

    proptest! {
        #[test]
        fn whatever_the_names_and_numbers_a_picture_can_be_parsed(
            name in any::<String>(), values in prop::collection::vec(prop::num::f64::ANY, 0..30),
        ) {
            let mut picture = picture(&name);
            let mark = |value: &f64| Mark { group: 1, label: name.clone(), result: Came::Measured(*value) };
            picture.convergence.marks = values.iter().map(mark).collect();
            picture.convergence.scale = Scale::Metric { name: name.clone(), more: false };
            picture.convergence.zero = values.first().copied();
            check(&svg(&picture));
        }
    }
}
