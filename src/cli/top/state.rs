//! What is on the screen, and what a key means. Arithmetic alone.

use ratatui::crossterm::event::KeyCode;

use super::Look;

/// What a key asks of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Quit,
    Answer { id: String, binding: String, approved: bool },
    Stop,
    Go,
}

/// The screen.
#[derive(Default)]
pub(super) struct State {
    pub(super) look: Option<Look>,
    /// Why the daemon could not be asked last.
    pub(super) trouble: Option<String>,
    /// What waits and is chosen, from 0.
    pub(super) chosen: usize,
    /// How many rooms stand above the screen.
    pub(super) scrolled: usize,
    /// What is done when it is said once more.
    pub(super) asked: Option<Action>,
    /// What came of the last key.
    pub(super) said: String,
}

impl State {
    /// Takes what the daemon said, and keeps what it said before where it says nothing.
    pub(super) fn take(&mut self, look: Result<Look, String>) {
        match look {
            Ok(look) => {
                self.chosen = self.chosen.min(look.live.waiting.len().saturating_sub(1));
                self.scrolled = self.scrolled.min(look.live.rooms.len().saturating_sub(1));
                (self.look, self.trouble) = (Some(look), None);
            }
            Err(why) => self.trouble = Some(why),
        }
    }

    pub(super) fn say(&mut self, said: String) {
        self.said = said;
    }

    /// Returns what a key asks for. What changes something is asked twice.
    pub(super) fn press(&mut self, key: KeyCode) -> Option<Action> {
        if let Some(action) = self.asked.take() {
            self.said.clear();
            return (key == KeyCode::Char('y')).then_some(action);
        }
        match key {
            KeyCode::Char('q') | KeyCode::Esc => return Some(Action::Quit),
            KeyCode::Down | KeyCode::Char('j') => self.choose(self.chosen + 1),
            KeyCode::Up | KeyCode::Char('k') => self.choose(self.chosen.saturating_sub(1)),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll(self.scrolled + 5),
            KeyCode::PageUp => self.scroll(self.scrolled.saturating_sub(5)),
            KeyCode::Char('a') => self.answer(true),
            KeyCode::Char('r') => self.answer(false),
            KeyCode::Char('s') => self.switch(),
            _ => {}
        }
        None
    }

    fn choose(&mut self, index: usize) {
        let count = self.look.as_ref().map_or(0, |look| look.live.waiting.len());
        self.chosen = index.min(count.saturating_sub(1));
    }

    fn scroll(&mut self, index: usize) {
        let count = self.look.as_ref().map_or(0, |look| look.live.rooms.len());
        self.scrolled = index.min(count.saturating_sub(1));
    }

    fn answer(&mut self, approved: bool) {
        let waiting = self.look.as_ref().and_then(|look| look.live.waiting.get(self.chosen));
        let Some(waiting) = waiting else {
            "nothing waits for you".clone_into(&mut self.said);
            return;
        };
        let id = waiting.promotion.id.to_string();
        self.said = format!("{} {id}? y for yes", if approved { "approve" } else { "reject" });
        self.asked = Some(Action::Answer { id, binding: waiting.binding.clone(), approved });
    }

    fn switch(&mut self) {
        let Some(look) = &self.look else { return };
        let stopped = look.live.holding.stop.is_some();
        self.said = format!("{}? y for yes", if stopped { "let everything go on" } else { "stop everything" });
        self.asked = Some(if stopped { Action::Go } else { Action::Stop });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(waiting: usize) -> Look {
        let promotion = |number: usize| {
            serde_json::json!({"promotion": {"id": format!("p-{number}"), "cycle": "c-1", "origin": {"person": 1}, "experiment": "try",
                "question": null, "hypothesis": null, "domain": "lab", "settings": {}, "changes": {}, "replaces": null, "fitness": null,
                "at_ms": 1, "depth": 0}, "risk": "low", "why": "asks", "binding": format!("b{number}"), "until_ms": 5})
        };
        let live = serde_json::json!({"pid": 1, "rooms": [], "waiting": (0..waiting).map(promotion).collect::<Vec<_>>(),
            "metrics_address": "", "services": [], "levels": [], "measuring": {"Ok": {"measures": null, "waits": []}},
            "holding": {"stop": null, "freeze": null, "advice": false, "waiting": [], "held": []}, "reload": null});
        Look { live: serde_json::from_value(live).unwrap(), stages: Vec::new(), charts: serde_json::Value::Null }
    }

    #[test]
    fn what_changes_something_is_asked_twice_and_bound_to_what_was_shown() {
        let mut state = State::default();
        state.take(Ok(look(2)));
        assert_eq!(state.press(KeyCode::Down), None);
        assert_eq!(state.press(KeyCode::Char('a')), None);
        let yes = Action::Answer { id: "p-1".into(), binding: "b1".into(), approved: true };
        assert_eq!(state.press(KeyCode::Char('y')), Some(yes));
        assert_eq!(state.press(KeyCode::Char('y')), None);
        state.press(KeyCode::Char('s'));
        assert_eq!(state.press(KeyCode::Char('n')), None);
        assert_eq!(state.press(KeyCode::Char('y')), None);
        state.press(KeyCode::Char('s'));
        assert_eq!(state.press(KeyCode::Char('y')), Some(Action::Stop));
    }

    #[test]
    fn a_choice_stays_within_what_waits_also_when_that_becomes_less() {
        let mut state = State::default();
        assert_eq!(state.press(KeyCode::Char('a')), None);
        assert_eq!(state.asked, None);
        state.take(Ok(look(3)));
        (0..9).for_each(|_| drop(state.press(KeyCode::Down)));
        assert_eq!(state.chosen, 2);
        state.take(Ok(look(1)));
        assert_eq!(state.chosen, 0);
        state.take(Err("gone".into()));
        assert!(state.look.is_some() && state.trouble.as_deref() == Some("gone"));
        assert_eq!(state.press(KeyCode::Char('q')), Some(Action::Quit));
    }
}
