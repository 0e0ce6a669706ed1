//! Draws the screen.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Paragraph, Sparkline, Wrap},
};
use serde_json::Value;

use super::{Look, state::State};
use crate::{
    api::Room,
    cli::{
        lent,
        text::{span, tame},
    },
};

/// The one colour that means "alive".
const ALIVE: Color = Color::Cyan;

/// The series that are drawn, by subject (or its beginning) and metric, and what they are called.
const SERIES: [(&str, &str, &str); 4] = [
    ("host", "cpu_used_ratio", "processors"),
    ("host", "memory_used_ratio", "memory"),
    ("host", "io_stalled_ratio", "stalled on disks"),
    ("gpu", "busy", "busy"),
];

pub(super) fn draw(frame: &mut Frame<'_>, state: &State) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(3), Constraint::Length(1)]).areas(frame.area());
    let Some(look) = &state.look else {
        let words = state.trouble.clone().unwrap_or_else(|| "asking the daemon".to_owned());
        frame.render_widget(Paragraph::new(safe(&words)), body);
        return;
    };
    frame.render_widget(Paragraph::new(top_line(look, state)), head);
    frame.render_widget(Paragraph::new(foot_line(look, state)), foot);
    let waits = look.live.waiting.len() + look.live.holding.held.len();
    let waiting = if waits == 0 { 3 } else { u16::try_from(waits).unwrap_or(u16::MAX).min(6) * 2 + 2 };
    let [upper, middle, lower] =
        Layout::vertical([Constraint::Length(9), Constraint::Length(waiting), Constraint::Min(4)]).areas(body);
    frame.render_widget(panel("loop", look.stages.iter().map(stage).collect()), upper);
    frame.render_widget(panel("waits for you", waiting_lines(look, state)).wrap(Wrap { trim: false }), middle);
    let [left, right] = Layout::horizontal([Constraint::Percentage(60), Constraint::Percentage(40)]).areas(lower);
    let rooms = look.live.rooms.iter().skip(state.scrolled).map(room).collect();
    frame.render_widget(panel("rooms", rooms).wrap(Wrap { trim: false }), left);
    machine(frame, look, right);
}

/// Returns what a terminal shows and does not obey.
fn safe(text: &str) -> String {
    tame(text).into_owned()
}

fn panel<'a>(title: &'a str, lines: Vec<Line<'a>>) -> Paragraph<'a> {
    let block = Block::bordered().title(title).border_style(Style::new().fg(Color::DarkGray));
    Paragraph::new(lines).block(block)
}

fn bold(text: String) -> Span<'static> {
    Span::styled(text, Style::new().add_modifier(Modifier::BOLD))
}

fn dim(text: String) -> Span<'static> {
    Span::styled(text, Style::new().fg(Color::DarkGray))
}

fn top_line(look: &Look, state: &State) -> Line<'static> {
    let live = &look.live;
    let down = live.rooms.iter().filter(|room| room.state != "running").count()
        + live.services.iter().filter(|service| !service.is_up).count();
    let (word, colour) = match (&state.trouble, &live.holding.stop, down) {
        (Some(_), ..) => ("not answering", Color::Red),
        (None, Some(_), _) => ("stopped", Color::Red),
        (None, None, 0) => ("running", Color::Green),
        _ => ("degraded", Color::Yellow),
    };
    let services = live.services.iter().map(|service| format!("{} {}", service.domain, service.state));
    let services = services.collect::<Vec<_>>().join(", ");
    let level = live.levels.iter().map(|level| level.in_force).min();
    let level = level.map_or_else(String::new, |level| format!("   autonomy {level}"));
    Line::from(vec![
        bold("kloros ".to_owned()),
        Span::styled(word.to_owned(), Style::new().fg(colour)),
        Span::raw(safe(&format!("   pid {}{level}   {services}", live.pid))),
    ])
}

fn foot_line(look: &Look, state: &State) -> Line<'static> {
    let said = state.trouble.as_ref().filter(|_| state.asked.is_none()).unwrap_or(&state.said);
    let stop = if look.live.holding.stop.is_some() { "s go on" } else { "s stop" };
    let keys = format!("a approve  r reject  up/down choose  space rooms  {stop}  q quit   ");
    Line::from(vec![dim(keys), bold(safe(said))])
}

fn stage(stage: &Value) -> Line<'static> {
    let text = |key: &str| stage[key].as_str().unwrap_or_default().to_owned();
    let now = stage["now"].as_array().map_or(&[][..], Vec::as_slice);
    let names: Vec<String> = now.iter().filter_map(|thing| thing["what"].as_str()).map(str::to_owned).collect();
    let (mark, style) = if now.is_empty() {
        ("-".to_owned(), Style::new().fg(Color::DarkGray))
    } else {
        (now.len().to_string(), Style::new().fg(ALIVE).add_modifier(Modifier::BOLD))
    };
    let what = if names.is_empty() { text("last") } else { names.join(", ") };
    let what: String = what.lines().next().unwrap_or_default().chars().take(110).collect();
    Line::from(vec![
        Span::raw(format!("{:11}", text("stage"))),
        Span::styled(format!("{mark:>3}  "), style),
        dim(format!("{:>5} so far  ", stage["passed"].as_u64().unwrap_or(0))),
        if names.is_empty() { dim(safe(&what)) } else { Span::raw(safe(&what)) },
    ])
}

fn waiting_lines(look: &Look, state: &State) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for (index, waiting) in look.live.waiting.iter().enumerate() {
        let is_chosen = index == state.chosen;
        let style = if is_chosen { Style::new().fg(ALIVE).add_modifier(Modifier::BOLD) } else { Style::new() };
        let mark = if is_chosen { "> " } else { "  " };
        let line = format!("{mark}{}  {}  {} risk", waiting.promotion.id, waiting.promotion.domain, waiting.risk);
        lines.push(Line::styled(safe(&line), style));
        lines.push(Line::from(safe(&format!("    {}", lent::wanted(&waiting.promotion)))));
    }
    for held in &look.live.holding.held {
        lines.push(Line::from(dim(safe(&format!("  {}  held: {}", held.promotion.id, held.why)))));
    }
    if lines.is_empty() {
        lines.push(Line::from(dim("nothing".to_owned())));
    }
    lines
}

fn room(room: &Room) -> Line<'static> {
    let name = room.path.rsplit('/').next().unwrap_or(&room.path);
    let label = format!("{}{name}", "  ".repeat(room.depth_in_tree));
    let colour = if room.state == "running" { Color::Green } else { Color::Red };
    let up = room.uptime_s.map(span).unwrap_or_default();
    let work = if room.is_supervisor {
        String::new()
    } else {
        format!("  {:>7} handled  {:>3} waiting", room.handled, room.waiting)
    };
    let mut spans = vec![
        if room.is_supervisor { bold(format!("{label:21} ")) } else { Span::raw(format!("{label:21} ")) },
        Span::styled(format!("{:9}", safe(&room.state)), Style::new().fg(colour)),
        dim(format!("{up:>9}{work}")),
    ];
    if room.restarts > 0 {
        spans.push(Span::styled(format!("  {} restarts", room.restarts), Style::new().fg(Color::Yellow)));
    }
    Line::from(spans)
}

/// Draws the last while of the host and of each GPU, as many as there is room for.
fn machine(frame: &mut Frame<'_>, look: &Look, area: Rect) {
    let all = look.charts["series"].as_array().map_or(&[][..], Vec::as_slice);
    let mut shown = Vec::new();
    for (subject, metric, name) in SERIES {
        let is_it = |series: &&Value| {
            series["subject"].as_str().is_some_and(|each| each.starts_with(subject)) && series["metric"] == metric
        };
        for series in all.iter().filter(is_it) {
            let subject = series["subject"].as_str().unwrap_or_default();
            let values: Vec<u64> = series["values"]
                .as_array()
                .map_or(&[][..], Vec::as_slice)
                .iter()
                .map(|each| (each.as_f64().unwrap_or(0.0) * 100.0).round() as u64)
                .collect();
            shown.push((format!("{subject} {name} {} %", values.last().copied().unwrap_or(0)), values));
        }
    }
    let block = Block::bordered().title("machine").border_style(Style::new().fg(Color::DarkGray));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let fits = usize::from(inner.height / 3);
    for (index, (title, values)) in shown.into_iter().take(fits).enumerate() {
        let top = inner.y + u16::try_from(index * 3).unwrap_or(u16::MAX);
        let newest = values.len().saturating_sub(usize::from(inner.width));
        let place = Rect { y: top, height: 1, ..inner };
        frame.render_widget(Paragraph::new(dim(safe(&title))), place);
        let line = Sparkline::default().data(&values[newest..]).max(100).style(Style::new().fg(ALIVE));
        frame.render_widget(line, Rect { y: top + 1, height: 2, ..inner });
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    fn shown(state: &State, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let rows = buffer.content().chunks(usize::from(width));
        rows.map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>() + "\n").collect()
    }

    fn state() -> State {
        let live = serde_json::json!({"pid": 7, "rooms": [{"path": "mind/curiosity", "depth_in_tree": 2, "is_supervisor": false,
            "state": "running", "restarts": 3, "last_failure": null, "uptime_s": 61.0, "handled": 12, "waiting": 1, "busy_s": null}],
            "waiting": [], "metrics_address": "", "services": [{"domain": "lab", "url": null, "is_up": true, "state": "up\u{1b}[2J",
            "pid": null, "deaths": 0, "rests_s": null}], "levels": [{"domain": "lab", "in_force": 1, "ceiling": 2, "why": null}],
            "measuring": {"Ok": {"measures": null, "waits": []}},
            "holding": {"stop": null, "freeze": null, "advice": false, "waiting": [], "held": []}, "reload": null});
        let stages =
            vec![serde_json::json!({"stage": "evolution", "now": [{"what": "lab"}], "passed": 4, "last": null})];
        let charts = serde_json::json!({"series": [{"subject": "host", "metric": "cpu_used_ratio", "values": [0.1, null, 0.9]}]});
        let mut state = State::default();
        state.take(Ok(Look { live: serde_json::from_value(live).unwrap(), stages, charts }));
        state
    }

    #[test]
    fn the_screen_shows_the_loop_the_rooms_and_the_machine_and_obeys_no_service() {
        let text = shown(&state(), 120, 40);
        for part in [
            "kloros running",
            "autonomy 1",
            "evolution",
            "4 so far",
            "curiosity",
            "3 restarts",
            "processors 90 %",
            "q quit",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn a_long_line_of_one_stage_takes_no_room_from_the_next() {
        let mut state = state();
        let told = |name: &str| serde_json::json!({"stage": name, "now": [], "passed": 1, "last": "x".repeat(200)});
        let names = ["detection", "question", "evolution", "permission", "deployment", "validation", "learning"];
        state.look.as_mut().unwrap().stages = names.map(told).to_vec();
        let text = shown(&state, 80, 24);
        assert!(names.iter().all(|name| text.contains(name)), "{text}");
    }

    #[test]
    fn any_size_of_screen_is_drawn_and_trouble_is_said() {
        for (width, height) in [(1, 1), (10, 3), (20, 12), (300, 100)] {
            shown(&state(), width, height);
        }
        let mut state = State::default();
        state.take(Err("no daemon".into()));
        assert!(shown(&state, 40, 10).contains("no daemon"));
    }
}
