//! The command of an instance: what it says of the knobs, for a service that is told by its arguments.

use std::collections::BTreeMap;

use super::{Domain, Key};

/// What of its env file an instance takes when it is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Takes {
    /// Its variables, as its environment: it is not told where the file is.
    pub variables: bool,
    /// Values of knobs, as parts of its arguments.
    pub arguments: bool,
}

impl Takes {
    /// Returns whether the file has to be read for it.
    pub fn anything(self) -> bool {
        self.variables || self.arguments
    }
}

impl Domain {
    /// Returns what of its env file an instance takes when it is started.
    pub fn takes(&self) -> Takes {
        let argv = &self.service.argv;
        let variables = !argv.iter().any(|argument| argument.contains("{env_file}"));
        Takes { variables, arguments: argv.iter().any(|argument| keys_in(argument).next().is_some()) }
    }

    /// Returns the command of an instance in which each `{KEY}` of a knob is replaced by what `set`, the variables of its env
    /// file, gives the key, or else by the knob's default; what is put in is not looked at again.
    ///
    /// Names in lowercase are left for whoever knows the instance's port and paths. Any other brace stands for itself.
    pub fn argv_with(&self, set: &BTreeMap<Key, String>) -> Vec<String> {
        self.filled_with(&self.service.argv, set)
    }

    /// Returns `argv` filled as [`Domain::argv_with`] fills the command of an instance.
    pub fn filled_with(&self, argv: &[String], set: &BTreeMap<Key, String>) -> Vec<String> {
        let value = |name: &str| {
            let (key, knob) = self.knobs.get_key_value(&Key::new(name).ok()?)?;
            Some(set.get(key).cloned().unwrap_or_else(|| knob.default.to_string()))
        };
        argv.iter().map(|argument| filled(argument, value)).collect()
    }
}

fn filled(argument: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let (mut text, mut rest) = (String::with_capacity(argument.len()), argument);
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let known = after.split_once('}').filter(|(name, _)| is_key(name));
        if let Some((value, behind)) = known.and_then(|(name, behind)| Some((value(name)?, behind))) {
            text.push_str(&value);
            rest = behind;
        } else {
            text.push('{');
            rest = after;
        }
    }
    text + rest
}

/// Returns the names between the braces of `argument` that look like keys of an env file in capitals.
pub fn keys_in(argument: &str) -> impl Iterator<Item = &str> {
    let inside = |(at, _)| argument[at + 1..].split_once('}').map(|(name, _)| name);
    argument.match_indices('{').filter_map(inside).filter(|name| is_key(name))
}

fn is_key(name: &str) -> bool {
    let is_plain = |each: u8| each.is_ascii_uppercase() || each.is_ascii_digit() || each == b'_';
    name.starts_with(|first: char| first.is_ascii_uppercase()) && name.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str) -> Option<String> {
        match name {
            "THREADS" => Some("2".to_owned()),
            "MODE" => Some("{THREADS}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn the_keys_of_knobs_are_replaced_once_and_every_other_brace_stays() {
        let cases = [
            ("--io-threads={THREADS}", "--io-threads=2"),
            ("{THREADS}{THREADS}", "22"),
            ("{MODE}", "{THREADS}"),
            ("{port}", "{port}"),
            ("{OTHER} {THREADS}", "{OTHER} 2"),
            ("{\"THREADS\": {THREADS}}", "{\"THREADS\": 2}"),
            ("{{THREADS}}", "{2}"),
            ("{THREADS", "{THREADS"),
            ("{}", "{}"),
            ("", ""),
        ];
        for (argument, expected) in cases {
            assert_eq!(filled(argument, value), expected, "{argument}");
        }
    }

    #[test]
    fn what_looks_like_a_key_is_found() {
        let found: Vec<&str> = keys_in("a{THREADS}{port}{\"X\"}{A_1}{1A}{A b}{B").collect();
        assert_eq!(found, ["THREADS", "A_1"]);
    }
}
