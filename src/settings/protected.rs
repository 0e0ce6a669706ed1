//! The environment variables that no experiment may ever set.

use kloros_actors::{facts::Key, gate::policy::is_protected};

/// Names that are refused as they are.
const NAMES: [&str; 11] = [
    "PATH",
    "HOME",
    "SHELL",
    "IFS",
    "ENV",
    "BASH_ENV",
    "NODE_OPTIONS",
    "PERL5OPT",
    "RUBYOPT",
    "JAVA_TOOL_OPTIONS",
    "GCONV_PATH",
];

/// Beginnings that choose what code a process loads.
const LOADERS: [&str; 3] = ["LD_", "DYLD_", "PYTHON"];

/// Endings that say that the value is a secret; also refused as whole names.
const SECRETS: [&str; 6] = ["TOKEN", "KEY", "SECRET", "PASSWORD", "PASSWD", "CREDENTIALS"];

/// Returns why the environment variable `name` must not be a knob; `None` if it may be one. Case does not matter.
pub(super) fn why(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_uppercase();
    let ends_as = |word: &str| name.strip_suffix(word).is_some_and(|rest| rest.is_empty() || rest.ends_with('_'));
    if name == "KLR_AUTONOMY_LEVEL" || name.starts_with("KLOROS_") {
        Some("kloros must not loosen its own limits")
    } else if NAMES.contains(&name.as_str()) || LOADERS.iter().any(|loader| name.starts_with(loader)) {
        Some("it chooses which code runs")
    } else if SECRETS.iter().any(|secret| ends_as(secret)) {
        Some("it names a secret")
    } else if ends_as("PROXY") {
        Some("it says where the traffic goes")
    } else {
        // The gate refuses it whatever a domain file says, so the file is told here already.
        let is_protected = Key::new(&name).is_ok_and(|key| is_protected(&key));
        is_protected.then_some("the gate lets nobody set it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_loosen_limits_load_code_leak_secrets_or_divert_traffic_is_no_knob() {
        for name in [
            "KLR_AUTONOMY_LEVEL",
            "KLOROS_HOME",
            "KLOROS__GATE__AUTONOMY",
            "PATH",
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "ld_preload",
            "PYTHONPATH",
            "BASH_ENV",
            "HF_TOKEN",
            "OPENAI_API_KEY",
            "DB_SECRET",
            "DB_PASSWORD",
            "TOKEN",
            "http_proxy",
            "HTTPS_PROXY",
            "NO_PROXY",
        ] {
            assert!(why(name).is_some(), "{name}");
        }
    }

    #[test]
    fn ordinary_settings_are_not_taken_for_protected_ones() {
        for name in ["LAB_THREADS", "VLLM_MAX_TOKENS", "KEYS_MAX", "MONKEY", "CACHE_PATH", "OLD_SIZE", "TOKENIZER"] {
            assert_eq!(why(name), None, "{name}");
        }
    }
}
