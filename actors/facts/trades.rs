use serde::{Deserialize, Serialize};

use super::{Domain, Key, Promotion};

/// What a knob gives away for the speed that it brings. No measurement can say what that is worth, so only a person may give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trades {
    /// What was confirmed may be lost, or the data damaged, when the machine fails.
    Durability,
    /// What is answered differs, or is worse.
    Answers,
    /// How much of what went before an answer takes into account.
    Context,
}

/// Names of settings that give something away in whatever program has them, as words of an env key.
const KNOWN: [(Trades, &[&str]); 3] = [
    (
        Trades::Durability,
        &[
            "FSYNC",
            "SYNCHRONOUS_COMMIT",
            "FULL_PAGE_WRITES",
            "WAL_LEVEL",
            "SYNCHRONOUS_STANDBY_NAMES",
            "APPENDFSYNC",
            "APPENDONLY",
            "REDIS_SAVE",
            "MIN_REPLICAS_TO_WRITE",
            "FLUSH_LOG_AT_TRX_COMMIT",
            "SYNC_BINLOG",
            "DOUBLEWRITE",
        ],
    ),
    (
        Trades::Answers,
        &[
            "QUANTIZATION",
            "DTYPE",
            "CACHE_TYPE",
            "CACHE_REUSE",
            "SPECULATIVE_CONFIG",
            "MODEL_DRAFT",
            "DRAFT_MODEL",
            "SPEC_TYPE",
            "SPEC_DRAFT_N_MAX",
            "MAXMEMORY",
            "TEMPERATURE",
        ],
    ),
    (Trades::Context, &["MAX_MODEL_LEN", "CTX_SIZE", "CONTEXT_LENGTH", "CONTEXT_SIZE", "NUM_CTX", "N_CTX"]),
];

impl Trades {
    /// Returns it as one word, as domain files write it.
    pub fn label(self) -> &'static str {
        match self {
            Trades::Durability => "durability",
            Trades::Answers => "answers",
            Trades::Context => "context",
        }
    }

    /// Returns what may come of it, to be read after the knob's name.
    fn means(self) -> &'static str {
        match self {
            Trades::Durability => "trades durability: what was confirmed may be lost when the machine fails",
            Trades::Answers => "trades answers: what the service answers may differ or be worse",
            Trades::Context => "trades context: how much a request may be about changes",
        }
    }

    /// Returns what a setting of this name gives away, wherever it is known by name: `PG_SYNCHRONOUS_COMMIT` is no less
    /// dangerous where a domain file does not say so.
    ///
    /// ```
    /// # use kloros_actors::facts::{Key, Trades};
    /// assert_eq!(Trades::known(&Key::new("LLM_KV_CACHE_DTYPE").unwrap()), Some(Trades::Answers));
    /// assert_eq!(Trades::known(&Key::new("LLM_MAX_NUM_SEQS").unwrap()), None);
    /// ```
    pub fn known(key: &Key) -> Option<Self> {
        let name = format!("_{}_", key.as_str().to_ascii_uppercase());
        let is_named = |words: &[&str]| words.iter().any(|word| name.contains(&format!("_{word}_")));
        KNOWN.iter().find(|(_, words)| is_named(words)).map(|(trades, _)| *trades)
    }
}

impl Domain {
    /// Returns what the knob of this key gives away: what the domain file says, or else what its name is known for.
    pub fn trades(&self, key: &Key) -> Option<Trades> {
        self.knobs.get(key).and_then(|knob| knob.trades).or_else(|| Trades::known(key))
    }

    /// Returns why no search may turn the knob of this key; `None` where one may.
    pub fn searched_by_nobody(&self, key: &Key) -> Option<String> {
        let means = self.trades(key)?.means();
        Some(format!(
            "{key} {means}; it is part of no search, a person proposes it: kloros try {} {key}=...",
            self.name
        ))
    }

    /// Returns what `promotion` would give away, in words, one for each key whose value it really changes.
    pub fn given_away(&self, promotion: &Promotion) -> Vec<String> {
        let moved = promotion.changes.iter().filter(|(_, change)| change.from.as_ref() != Some(&change.to));
        moved.filter_map(|(key, _)| Some(format!("{key} {}", self.trades(key)?.means()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_to_give_something_away_is_known_by_its_whole_words() {
        let table = [
            ("PG_SYNCHRONOUS_COMMIT", Some(Trades::Durability)),
            ("PG_FSYNC", Some(Trades::Durability)),
            ("FSYNC", Some(Trades::Durability)),
            ("pg_fsync", Some(Trades::Durability)),
            ("PG_FULL_PAGE_WRITES", Some(Trades::Durability)),
            ("PG_WAL_LEVEL", Some(Trades::Durability)),
            ("PG_WAL_LEVELLING", None),
            ("PG_WAL_BUFFERS_MIB", None),
            ("PG_COMMIT_DELAY", None),
            ("REDIS_APPENDFSYNC", Some(Trades::Durability)),
            ("REDIS_MAXMEMORY", Some(Trades::Answers)),
            ("REDIS_MAXMEMORY_POLICY", Some(Trades::Answers)),
            ("REDIS_IO_THREADS", None),
            ("LLM_QUANTIZATION", Some(Trades::Answers)),
            ("LLM_KV_CACHE_DTYPE", Some(Trades::Answers)),
            ("LLM_MAX_MODEL_LEN", Some(Trades::Context)),
            ("LLM_MAX_NUM_SEQS", None),
            ("LLAMA_ARG_CACHE_TYPE_K", Some(Trades::Answers)),
            ("LLAMA_ARG_CTX_SIZE", Some(Trades::Context)),
            ("LLAMA_ARG_UBATCH", None),
            ("LLAMA_ARG_SPEC_DRAFT_MODEL", Some(Trades::Answers)),
            ("LLAMA_ARG_SPEC_TYPE", Some(Trades::Answers)),
            ("REDIS_SAVE", Some(Trades::Durability)),
            ("REDIS_SAVES", None),
            ("OLLAMA_KV_CACHE_TYPE", Some(Trades::Answers)),
            ("OLLAMA_CONTEXT_LENGTH", Some(Trades::Context)),
        ];
        for (name, expected) in table {
            assert_eq!(Trades::known(&Key::new(name).unwrap()), expected, "{name}");
        }
    }

    #[test]
    fn each_kind_is_one_word_in_a_domain_file() {
        for trades in [Trades::Durability, Trades::Answers, Trades::Context] {
            assert_eq!(serde_json::to_value(trades).unwrap(), trades.label());
            assert!(trades.means().starts_with(&format!("trades {}", trades.label())));
        }
    }
}
