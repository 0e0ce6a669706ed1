//! What is seen of a machine: processes, who runs them, and where they listen. Plain facts, from which proposals are made.

use std::{fmt, net::SocketAddr};

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) processes: Vec<Process>,
    /// Units of known services that systemd has, whether they run or not.
    pub(super) units: Vec<String>,
    /// What of each GPU is known, in words.
    pub(super) gpus: Vec<String>,
    /// What could not be seen, in words.
    pub(super) unseen: Vec<String>,
}

/// A process.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) parent: u32,
    /// The names by which it may be known: of its file, of what it calls itself, of the script or module that it runs.
    pub(super) names: Vec<String>,
    pub(super) arguments: Arguments,
    /// The path of its program or script, where nobody but root and this user can put another one there.
    pub(super) program: Option<String>,
    pub(super) run_by: RunBy,
    /// Where it listens; `None` where that may not be seen.
    pub(super) listens: Option<Vec<SocketAddr>>,
    /// Whether it has memory on a GPU.
    pub(super) is_on_gpu: bool,
}

/// The arguments of a process, which may be secrets, so that they are not printed.
#[derive(Default)]
pub(super) struct Arguments(pub(super) Vec<String>);

impl fmt::Debug for Arguments {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} arguments", self.0.len())
    }
}

impl Arguments {
    /// Returns what follows one of `names`, or stands behind it and an equals sign. What follows and is an option is none of it: in
    /// `serve --model X` the model is X, whether `serve` or `--model` is asked for.
    pub(super) fn after(&self, names: &[&str]) -> Option<&str> {
        let at = |(index, word): (usize, &'_ String)| {
            if names.contains(&word.as_str()) {
                return self.0.get(index + 1).map(String::as_str).filter(|next| !next.starts_with('-'));
            }
            let (name, _) = word.split_once('=')?;
            names.contains(&name).then(|| &self.0[index][name.len() + 1..])
        };
        self.0.iter().enumerate().find_map(at)
    }

    /// Returns whether `word` is one of them.
    pub(super) fn hold(&self, word: &str) -> bool {
        self.0.iter().any(|argument| argument == word)
    }
}

/// Who starts a process, and starts it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum RunBy {
    /// Nobody is seen who does.
    #[default]
    Nobody,
    /// A unit of the system.
    Unit(String),
    /// A unit of this user.
    UserUnit(String),
    /// A container.
    Container,
    /// A kloros, as its child.
    Kloros,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_say_what_follows_a_name_and_are_never_printed() {
        let words = |words: &[&str]| Arguments(words.iter().map(|word| (*word).to_owned()).collect());
        let cases: [(&[&str], Option<&str>); 7] = [
            (&["--port", "7"], Some("7")),
            (&["--port=7"], Some("7")),
            (&["--ports=7"], None),
            (&["--port"], None),
            (&["--porte", "--port=", "8"], Some("")),
            (&["--port", "--port", "8"], Some("8")),
            (&["--port", "-p"], None),
        ];
        for (given, expected) in cases {
            assert_eq!(words(given).after(&["--port"]), expected, "{given:?}");
        }
        assert_eq!(format!("{:?}", words(&["--api-key", "s3cr3t"])), "2 arguments");
    }
}
