//! Text for people: what others wrote cannot steer a terminal, and what is long does not hide the rest.

use std::borrow::Cow;

/// Returns `text` with everything spelled out that a terminal would obey instead of showing: control characters but line feeds,
/// and characters that turn the direction of writing.
pub(super) fn tame(text: &str) -> Cow<'_, str> {
    if !text.chars().any(commands) {
        return Cow::Borrowed(text);
    }
    let mut tamed = String::new();
    for each in text.chars() {
        if commands(each) {
            tamed.extend(each.escape_unicode());
        } else {
            tamed.push(each);
        }
    }
    tamed.into()
}

fn commands(each: char) -> bool {
    (each.is_control() && each != '\n') || turns(each)
}

fn turns(each: char) -> bool {
    matches!(each, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Prints a span of time, as long as it deserves.
pub(super) fn span(seconds: f64) -> String {
    match seconds {
        long if long >= 86_400.0 => format!("{:.1} d", long / 86_400.0),
        long if long >= 3_600.0 => format!("{:.1} h", long / 3_600.0),
        long if long >= 60.0 => format!("{:.1} min", long / 60.0),
        short => format!("{short:.1} s"),
    }
}

/// Returns JSON with the same meaning, in which no character is left that a terminal would obey.
pub(super) fn tame_json(json: String) -> String {
    let obeyed = |each: char| ('\u{7f}'..='\u{9f}').contains(&each) || turns(each);
    if !json.contains(obeyed) {
        return json;
    }
    // They can stand inside strings alone, where they may be written as numbers.
    let mut tamed = String::new();
    for each in json.chars() {
        if obeyed(each) {
            tamed.extend(["\\u".to_owned(), format!("{:04x}", u32::from(each))]);
        } else {
            tamed.push(each);
        }
    }
    tamed
}

/// Returns `text` in one line of at most `most` characters.
pub(super) fn shorten(text: &str, most: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= most {
        return line;
    }
    line.chars().take(most.saturating_sub(3)).chain("...".chars()).collect()
}

/// Returns `text` in lines of at most `width` characters, the second and further ones indented; a word that is longer than that
/// has a line of its own.
pub(super) fn wrapped(text: &str, width: usize, indent: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    // A line feed in a name must not begin a line that looks like one of ours.
    let text: String = text.chars().map(|each| if each.is_whitespace() { ' ' } else { each }).collect();
    // What the first line begins with is kept as it is: names of lines stand in columns.
    let start = text.len() - text.trim_start().len();
    let mut line = text[..start].to_owned();
    let mut is_empty = true;
    for word in text[start..].split(' ') {
        let length = line.chars().count() + usize::from(!is_empty) + word.chars().count();
        if !is_empty && length > width.max(indent + 8) {
            lines.push(std::mem::replace(&mut line, " ".repeat(indent)).trim_end().to_owned());
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line += word;
        is_empty = false;
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_shown_what_it_would_obey() {
        for (text, shown) in [
            ("plain, \u{fc}ber\nnext", "plain, \u{fc}ber\nnext"),
            ("\x1b[2J\x1b]0;title\x07", "\\u{1b}[2J\\u{1b}]0;title\\u{7}"),
            ("over\rwritten\x08", "over\\u{d}written\\u{8}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{202e}txt.exe", "\\u{202e}txt.exe"),
            ("tab\there", "tab\\u{9}here"),
        ] {
            assert_eq!(tame(text), shown);
        }
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = serde_json::json!({"said": "\u{9b}31m \x1b[0m \u{202e} \u{7f} \u{fc}"});
        let text = tame_json(value.to_string());
        assert!(!text.chars().any(commands), "{text}");
        assert!(text.contains('\u{fc}'));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn long_text_goes_on_in_further_lines() {
        assert_eq!(wrapped("found      a=1 b=2 c=3", 20, 11), ["found      a=1 b=2", "           c=3"]);
        assert_eq!(wrapped("  short", 20, 2), ["  short"]);
        assert_eq!(wrapped("a 0123456789012345678901234 b", 10, 2), ["a", "  0123456789012345678901234", "  b"]);
        assert_eq!(wrapped("", 10, 2), [""]);
        assert_eq!(wrapped("varied     a\nfound", 80, 11), ["varied     a found"]);
    }

    #[test]
    fn what_is_long_or_has_many_lines_is_one_line_that_says_so() {
        assert_eq!(shorten("a\n  b\tc", 10), "a b c");
        assert_eq!(shorten("0123456789", 10), "0123456789");
        assert_eq!(shorten("0123456789a", 10), "0123456...");
        assert_eq!(shorten("\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}", 4), "\u{fc}...");
    }
}
