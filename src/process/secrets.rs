//! What a child printed, as it may be shown: without secrets, without control characters, and not too much of it.

use std::fmt;

/// How short a value may be that is hidden: shorter ones are everywhere, and hiding them would leave no words.
const VALUE_CHARS_MIN: usize = 4;

/// How short a variable of this process itself may be that is hidden. No child is given one, and most are words like the
/// name of a user.
const OWN_CHARS_MIN: usize = 8;

/// What stands in the place of a secret.
const MASK: &str = "***";

/// What is said instead of everything, where it is not known what is secret.
const WITHHELD: &str = "(withheld: what of it is secret is not known)";

/// The values that no reason, log or journal may hold.
///
/// There is no way to a child's last words without it, so that nobody forgets to hide something. Hidden is every value
/// that is not known to be harmless, rather than those with a name that sounds secret.
#[derive(Clone)]
pub(crate) struct Secrets(Option<Vec<String>>);

// It is made of secrets.
impl fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Secrets({:?} values)", self.0.as_ref().map(Vec::len))
    }
}

impl Secrets {
    /// Hides these values and what this process itself was given, apart from the variables that it hands on.
    pub(crate) fn of(values: impl IntoIterator<Item = String>) -> Self {
        let own = std::env::vars_os()
            .filter(|(name, _)| !super::INHERITED.iter().any(|inherited| name == inherited))
            .filter_map(|(_, value)| value.into_string().ok())
            .filter(|value| value.chars().count() >= OWN_CHARS_MIN);
        Self::hiding(values.into_iter().chain(own))
    }

    /// Hides everything: for when it cannot be known what is secret.
    pub(crate) fn all() -> Self {
        Self(None)
    }

    fn hiding(values: impl IntoIterator<Item = String>) -> Self {
        let mut hidden: Vec<String> = values.into_iter().flat_map(|value| spellings(&value)).collect();
        // A secret may be the beginning of another one.
        hidden.sort_by_key(|value| std::cmp::Reverse(value.len()));
        hidden.dedup();
        Self(Some(hidden))
    }

    /// Returns `text` as it may be shown, all of it.
    pub(crate) fn hide(&self, text: &str) -> String {
        let Some(hidden) = &self.0 else { return if text.is_empty() { String::new() } else { WITHHELD.to_owned() } };
        let shown = hidden.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), MASK));
        plain(shown.trim())
    }

    /// Returns the end of `bytes` as it may be shown, at most so many bytes of it. `is_cut` says that more stood before.
    pub(super) fn hide_all_but_the_end(&self, bytes: &[u8], is_cut: bool, bytes_max: usize) -> String {
        // Half a secret is not found, so what may begin with one is left out.
        let longest = self.0.iter().flatten().map(String::len).max().unwrap_or_default();
        let from = if is_cut { longest.min(bytes.len()) } else { 0 };
        // It is cut after secrets were hidden: the cut could leave half of one as well.
        let shown = self.hide(&String::from_utf8_lossy(&bytes[from..]));
        let start = shown.len().saturating_sub(bytes_max);
        let start = (start..=shown.len()).find(|at| shown.is_char_boundary(*at)).unwrap_or(shown.len());
        shown[start..].trim().to_owned()
    }
}

/// Returns how a value may stand in what is printed: itself, its lines, and as a program shows a text with its quotes.
fn spellings(value: &str) -> Vec<String> {
    let lines = value.lines().map(str::trim);
    let whole = [value.to_owned(), value.escape_default().to_string(), value.escape_debug().to_string()];
    let all = whole.into_iter().chain(lines.map(str::to_owned));
    all.filter(|each| each.trim().chars().count() >= VALUE_CHARS_MIN).collect()
}

/// Returns `text` on one line, everything in it printable: an escape sequence shows as what it is and does nothing.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for each in text.chars() {
        match each {
            '\n' => plain.push_str(" | "),
            '\r' => {}
            '\t' => plain.push(' '),
            '"' | '\'' | '\\' => plain.push(each),
            _ => plain.extend(each.escape_debug()),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secrets(values: &[&str]) -> Secrets {
        Secrets::hiding(values.iter().map(|value| (*value).to_owned()))
    }

    #[test]
    fn what_is_secret_is_hidden_in_whatever_spelling_and_short_values_stay() {
        let table = [
            (&["hunter22"][..], "the key hunter22 is wrong", "the key *** is wrong"),
            (&["hunter22", "hunter22-and-more"], "hunter22-and-more hunter22", "*** ***"),
            (&["a\nsecret"], "it is \"a\\nsecret\"; or secret", "it is \"***\"; or ***"),
            (&["say \"please\""], r#"{"key": "say \"please\""}"#, r#"{"key": "***"}"#),
            (&["abc", "8", ""], "8 abc", "8 abc"),
            (&["    "], "a    b", "a    b"),
        ];
        for (values, text, expected) in table {
            assert_eq!(secrets(values).hide(text), expected, "{values:?}");
        }
    }

    #[test]
    fn what_a_terminal_would_obey_is_shown_and_does_nothing() {
        let shown = secrets(&[]).hide("\u{1b}[31mred\u{7}\r\nkloros: all is well\t\u{202e}dlrow\u{0}\n");
        assert_eq!(shown, "\\u{1b}[31mred\\u{7} | kloros: all is well \\u{202e}dlrow\\0");
    }

    #[test]
    fn nothing_is_shown_where_it_is_not_known_what_is_secret() {
        assert_eq!(Secrets::all().hide("hunter22"), WITHHELD);
        assert_eq!(Secrets::all().hide(""), "");
    }

    #[test]
    fn a_cut_leaves_no_half_of_a_secret() {
        let secrets = secrets(&["hunter22"]);
        assert_eq!(secrets.hide_all_but_the_end(b"ter22 is the key", true, 100), "the key");
        for bytes_max in 0..20 {
            let shown = secrets.hide_all_but_the_end(b"xx hunter22 yy", false, bytes_max);
            assert!("xx *** yy".ends_with(&shown), "{shown}");
        }
    }

    #[test]
    fn what_this_process_was_given_is_hidden_and_what_it_hands_on_is_not() {
        let (path, own) = (std::env::var("PATH").unwrap(), std::env::var("CARGO_PKG_DESCRIPTION").unwrap());
        let shown = Secrets::of([]).hide(&format!("{path} {own}"));
        assert!(!shown.contains(&own), "{shown}");
        assert_eq!(format!("{:?}", secrets(&["hunter22"])), "Secrets(Some(1) values)");
    }

    proptest! {
        #[test]
        fn no_secret_survives_wherever_it_stands(before in any::<String>(), secret in "[a-zA-Z0-9+/=_-]{4,40}", after in any::<String>()) {
            let shown = secrets(&[&secret]).hide(&format!("{before}{secret}{after}"));
            prop_assume!(!before.contains(&secret) && !MASK.contains(&secret));
            prop_assert!(!shown.contains(&secret));
            prop_assert!(shown.chars().all(|each| !each.is_control()));
        }
    }
}
