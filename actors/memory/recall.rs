//! Recall: which turns of a conversation are the context of the next one.

use std::collections::BTreeSet;

use super::Config;
use crate::facts::Turn;

const HOUR_MS: u64 = 3_600_000;

/// Returns the turns of `turns` that make the context at `now_ms`, in the order of time.
///
/// The newest are chosen first, as long as they are within the time window and fit the number of turns and of
/// characters (Unicode scalar values, counted over the turns' texts). The newest one is kept whole even when it alone
/// is too long, since an answer needs what it answers. The first one that does not fit ends the choice: a context has
/// no gap. A turn that stands there twice comes once. Among turns of one moment, the later in `turns` is the newer.
pub fn recall<'a>(turns: &'a [Turn], config: &Config, now_ms: u64) -> Vec<&'a Turn> {
    let since_ms = now_ms.saturating_sub(config.window_h.saturating_mul(HOUR_MS));
    let mut newest_first = turns.iter().rev().filter(|turn| turn.at_ms >= since_ms).collect::<Vec<_>>();
    newest_first.sort_by_key(|turn| std::cmp::Reverse(turn.at_ms));
    let mut seen = BTreeSet::new();
    newest_first.retain(|turn| seen.insert((turn.at_ms, &turn.conversation, turn.from_user, &turn.text)));
    let mut chars = 0_usize;
    let fitting = newest_first.iter().take(config.context_events_max).take_while(|turn| {
        chars = chars.saturating_add(turn.text.chars().count());
        chars <= config.context_chars_max
    });
    let count = fitting.count().max(1).min(newest_first.len());
    newest_first.truncate(count);
    newest_first.reverse();
    newest_first
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn turn(text: &str, at_ms: u64) -> Turn {
        Turn { conversation: "one".into(), from_user: at_ms.is_multiple_of(2), text: text.into(), at_ms }
    }

    fn texts(turns: &[Turn], config: &Config, now_ms: u64) -> Vec<String> {
        recall(turns, config, now_ms).into_iter().map(|turn| turn.text.clone()).collect()
    }

    #[test]
    fn the_newest_twenty_come_in_the_order_of_time() {
        let turns = (0..50).map(|number| turn(&number.to_string(), number)).collect::<Vec<_>>();
        let expected = (30..50).map(|number| number.to_string()).collect::<Vec<_>>();
        assert_eq!(texts(&turns, &Config::default(), 50), expected);
        let reversed = turns.into_iter().rev().collect::<Vec<_>>();
        assert_eq!(texts(&reversed, &Config::default(), 50), expected);
    }

    #[test]
    fn characters_are_counted_and_not_bytes() {
        let config = Config { context_chars_max: 4, ..Config::default() };
        assert_eq!(texts(&[turn("ä", 1), turn("öö", 2), turn("日本", 3)], &config, 3), ["öö", "日本"]);
    }

    #[test]
    fn a_turn_that_does_not_fit_ends_the_choice() {
        let config = Config { context_chars_max: 5, ..Config::default() };
        assert_eq!(texts(&[turn("a", 1), turn("too long", 2), turn("b", 3)], &config, 3), ["b"]);
    }

    #[test]
    fn the_newest_turn_is_kept_whole_even_when_it_is_too_long() {
        let config = Config { context_chars_max: 5, ..Config::default() };
        assert_eq!(texts(&[turn("a", 1), turn("far too long", 2)], &config, 2), ["far too long"]);
    }

    #[test]
    fn what_is_older_than_the_window_is_not_recalled() {
        let turns = [turn("old", 0), turn("edge", 1), turn("new", 2)];
        assert_eq!(texts(&turns, &Config::default(), 24 * HOUR_MS + 1), ["edge", "new"]);
        assert_eq!(texts(&turns, &Config::default(), 48 * HOUR_MS), Vec::<String>::new());
    }

    #[test]
    fn the_same_turn_comes_once_and_the_same_words_at_another_time_are_another_turn() {
        let turns = [turn("yes", 1), turn("why", 2), turn("yes", 1), turn("yes", 3)];
        assert_eq!(texts(&turns, &Config::default(), 3), ["yes", "why", "yes"]);
    }

    #[test]
    fn turns_of_one_moment_keep_their_order() {
        assert_eq!(texts(&[turn("a", 1), turn("b", 1), turn("c", 1)], &Config::default(), 1), ["a", "b", "c"]);
    }

    proptest! {
        #[test]
        fn the_limits_hold_the_newest_is_there_and_nothing_comes_twice(
            turns in prop::collection::vec(("[a-zä日]{0,12}", 0_u64..40), 0..60),
            context_events_max in 1_usize..30,
            context_chars_max in 1_usize..100,
        ) {
            let turns = turns.iter().map(|(text, at_ms)| turn(text, *at_ms)).collect::<Vec<_>>();
            let config = Config { context_events_max, context_chars_max, window_h: 1 };
            let recalled = recall(&turns, &config, 40);
            prop_assert!(recalled.len() <= context_events_max);
            let chars = recalled.iter().map(|turn| turn.text.chars().count()).sum::<usize>();
            prop_assert!(chars <= context_chars_max || recalled.len() == 1);
            prop_assert!(recalled.is_sorted_by_key(|turn| turn.at_ms));
            prop_assert_eq!(recalled.last().map(|turn| turn.at_ms), turns.iter().map(|turn| turn.at_ms).max());
            for (place, turn) in recalled.iter().enumerate() {
                prop_assert!(!recalled[place + 1..].contains(turn));
            }
        }
    }
}
