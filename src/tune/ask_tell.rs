//! The line protocol: kloros asks, the program at the other end measures and tells.

use std::io::{BufRead, Read as _, Write};

use anyhow::{Context as _, anyhow};
use kloros_search::{Candidate, Config, Search};
use serde_json::json;

use super::{
    plan::outcome,
    wire::{self, First, Told},
};

/// The longest line that is read, in bytes.
const LINE_BYTES_MAX: u64 = 4 << 20;

/// Speaks the protocol until the best is said. Returns whether any trial gave a number.
///
/// A line that cannot be used is answered by a line with the error, which is also what is returned; nothing is read after it.
pub(crate) fn serve(mut input: impl BufRead, mut output: impl Write) -> anyhow::Result<bool> {
    let first = line(&mut input, "the first line").and_then(|line| wire::first(&line));
    let First { space, options, direction } = answered(first, &mut output)?;
    let (mut allowed, batch, has_default) = (options.budget, options.batch, options.default.is_some());
    let mut search = Search::new(space, options);
    let mut begun_with = None;
    loop {
        // Never more than the other side allows, however much of the budget is left.
        let lot: Vec<Candidate> = if allowed == 0 { Vec::new() } else { search.ask(batch.min(allowed)) };
        let Some(start) = lot.first() else { break };
        begun_with.get_or_insert_with(|| start.config.clone());
        let configs: Vec<&Config> = lot.iter().map(|candidate| &candidate.config).collect();
        say(&mut output, &json!({ "ask": configs }))?;
        let told = line(&mut input, "what came of the last lot").and_then(|line| wire::told(&line, lot.len()));
        let Told { values, remaining } = answered(told, &mut output)?;
        for (candidate, value) in lot.iter().zip(values) {
            search.tell(candidate.id, outcome(direction, value))?;
        }
        allowed = allowed.saturating_sub(lot.len() as u32).min(remaining.unwrap_or(u32::MAX));
    }
    let found = search.recommendation().map(|recommendation| recommendation.config);
    let has_value = found.is_some();
    // Where everything failed, the default is at least what is in use.
    let best = found.or(begun_with.filter(|_| has_default));
    say(&mut output, &json!({ "best": best }))?;
    Ok(has_value)
}

fn say(output: &mut impl Write, line: &serde_json::Value) -> std::io::Result<()> {
    writeln!(output, "{line}")?;
    output.flush()
}

/// Returns what a line says; what is wrong with it is said to the other side first.
fn answered<T>(read: Result<T, String>, output: &mut impl Write) -> anyhow::Result<T> {
    match read {
        Ok(read) => Ok(read),
        Err(problem) => {
            say(output, &json!({ "error": problem })).context("cannot answer")?;
            Err(anyhow!(problem))
        }
    }
}

/// Returns the next line, or why there is none.
fn line(input: &mut impl BufRead, expected: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = input.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut bytes);
    read.map_err(|error| format!("cannot read {expected}: {error}"))?;
    if bytes.is_empty() {
        return Err(format!("the input ended before {expected}"));
    }
    if bytes.len() as u64 > LINE_BYTES_MAX {
        return Err(format!("the line is longer than {LINE_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "the line is no UTF-8 text".to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use serde_json::Value as Json;

    use super::*;

    const FIRST: &str = r#"{"space": [{"name": "x", "type": "float", "low": 0, "high": 1}], "budget": 8, "batch": 4, "parallel": 4, "default": {"x": 0.5}}"#;

    /// Returns what is answered to `lines`, and what is returned.
    fn answers(lines: &[&str]) -> (Vec<Json>, Result<bool, String>) {
        let mut output = Vec::new();
        let input = lines.join("\n").into_bytes();
        let served = serve(BufReader::with_capacity(16, input.as_slice()), &mut output);
        let text = String::from_utf8(output).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines, served.map_err(|error| error.to_string()))
    }

    fn tell(values: &[&str], remaining: u32) -> String {
        let values: Vec<String> = values.iter().map(|value| format!("{{\"value\": {value}}}")).collect();
        format!("{{\"tell\": [{}], \"remaining\": {remaining}}}", values.join(", "))
    }

    #[test]
    fn what_was_measured_best_is_said_when_the_budget_is_spent() {
        let (said, served) = answers(&[FIRST, &tell(&["4", "1", "3", "2"], 4), &tell(&["9", "9", "9", "9"], 0)]);
        assert_eq!(served, Ok(true));
        assert_eq!(said.len(), 3);
        assert_eq!(said[0]["ask"][0], json!({"x": 0.5}), "the default comes first");
        assert!(said[0]["ask"].as_array().unwrap().contains(&said[2]["best"]));
    }

    #[test]
    fn one_is_asked_at_a_time_unless_the_other_side_says_how_many_it_measures_at_once() {
        for (parallel, asked) in [("", 1), (r#""parallel": 3, "#, 3), (r#""parallel": 9, "#, 4)] {
            let first = FIRST.replace(r#""parallel": 4, "#, parallel);
            let (said, _) = answers(&[&first]);
            assert_eq!(said[0]["ask"].as_array().map(Vec::len), Some(asked), "{first}");
        }
    }

    #[test]
    fn more_is_better_where_the_first_line_says_so() {
        let first = FIRST.replace("\"budget\": 8", "\"budget\": 4, \"noisy\": false, \"direction\": \"maximize\"");
        let (said, _) = answers(&[&first, &tell(&["-4", "-1", "-3", "-2"], 0)]);
        assert_eq!(said[1]["best"], said[0]["ask"][1]);
    }

    #[test]
    fn no_more_is_asked_than_the_other_side_still_allows() {
        let (said, served) = answers(&[FIRST, &tell(&["1", "2", "3", "4"], 1), &tell(&["5"], 0)]);
        assert_eq!((said[1]["ask"].as_array().unwrap().len(), served), (1, Ok(true)));
        let (said, _) = answers(&[FIRST, &tell(&["1", "2", "3", "4"], 0)]);
        assert!(said[1]["best"].is_object());
        let (said, _) = answers(&[FIRST, &tell(&["1", "2", "3", "4"], 99), &tell(&["1", "2", "3", "4"], 99)]);
        assert!(said[2]["best"].is_object(), "its own budget holds as well");
    }

    #[test]
    fn where_everything_failed_the_default_stays_and_the_answer_is_no() {
        let first = FIRST.replace("\"budget\": 8", "\"budget\": 2");
        let (said, served) = answers(&[&first, &tell(&["NaN", "null"], 0)]);
        assert_eq!((said[1].clone(), served), (json!({"best": {"x": 0.5}}), Ok(false)));
        let without = first.replace(", \"default\": {\"x\": 0.5}", "");
        let (said, served) = answers(&[&without, &tell(&["Infinity", "null"], 0)]);
        assert_eq!((said[1].clone(), served), (json!({"best": null}), Ok(false)));
    }

    #[test]
    fn fuzzed_lines_are_answered_by_lines_of_json_and_it_comes_to_an_end() {
        let first = FIRST.replace("\"budget\": 8", "\"budget\": 4");
        let categorical = r#"{"space": [{"name": "c", "type": "categorical", "choices": [1, "a"]}, {"name": "n", "type": "int", "low": 1, "high": 9, "log": true}], "budget": 3}"#;
        let talks = [
            [first.as_str(), &tell(&["4", "1", "3", "2"], 4)].join("\n"),
            [categorical, &tell(&["4"], 2), &tell(&["1"], 1)].join("\n"),
        ];
        crate::fuzz::hold("ask and tell", &talks.map(String::into_bytes), |bytes| {
            // A budget that nobody here would wait for is the other side's business.
            let first = String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().to_owned();
            let budget = serde_json::from_str::<Json>(&first).ok().and_then(|first| first["budget"].as_u64());
            if budget.is_some_and(|budget| budget > 64) {
                return;
            }
            let mut output = Vec::new();
            serve(BufReader::new(bytes), &mut output).ok();
            let said = String::from_utf8(output).unwrap();
            assert!(said.lines().all(|line| serde_json::from_str::<Json>(line).is_ok_and(|line| line.is_object())));
        });
    }

    #[test]
    fn a_line_that_cannot_be_used_is_answered_with_an_error_and_ends_it() {
        let huge = format!("{{\"space\": \"{}\"}}", "x".repeat(LINE_BYTES_MAX as usize));
        for (lines, part) in [
            (&[][..], "ended before the first line"),
            (&["tell me"][..], "no JSON"),
            (&[FIRST][..], "ended before what came of the last lot"),
            (&[FIRST, ""][..], "ended before what came of the last lot"),
            (&[FIRST, "\n"][..], "is no JSON"),
            (&[FIRST, r#"{"tell": [{"value": 1}]}"#][..], "1 results where 4 were asked"),
            (&[huge.as_str()][..], "longer than"),
        ] {
            let (said, served) = answers(lines);
            let error = served.unwrap_err();
            assert!(error.contains(part), "{error}");
            assert_eq!(*said.last().unwrap(), json!({ "error": error }));
        }
        let mut output = Vec::new();
        assert!(serve(BufReader::new(&b"\xff\n"[..]), &mut output).is_err());
        assert_eq!(String::from_utf8(output).unwrap(), "{\"error\":\"the line is no UTF-8 text\"}\n");
    }
}
