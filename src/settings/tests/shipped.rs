//! The domain files that ship beside the lab.

use std::collections::BTreeMap;

use kloros_actors::facts::{Domain, Key, KnobKind, ReadBack, Value, keys_in};

use super::*;

fn shipped(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn every_shipped_domain_comes_with_experiments_that_fit_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/domains");
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain_mut(|name| match name.strip_suffix(".toml") {
        Some("lab") | None => false,
        Some(stem) => {
            *name = stem.to_owned();
            true
        }
    });
    assert!(!names.is_empty());
    for name in names {
        let file = format!("{name}.toml");
        let (domain, dream) =
            (shipped(&format!("config/domains/{file}")), shipped(&format!("config/domains/{name}.yaml")));
        let settings =
            Home::new(&[(&format!("domains/{file}"), domain.as_str()), ("dream.yaml", dream.as_str())]).settings();
        assert_eq!(settings.catalogue.domains.keys().collect::<Vec<_>>(), [&name]);
        assert!(settings.catalogue.experiments.values().all(|experiment| experiment.domain == name));
    }
}

fn domain(name: &str) -> Domain {
    let (domain, dream) =
        (shipped(&format!("config/domains/{name}.toml")), shipped(&format!("config/domains/{name}.yaml")));
    let home = Home::new(&[(&format!("domains/{name}.toml"), &domain), ("dream.yaml", &dream)]);
    home.settings().catalogue.domains.remove(name).unwrap()
}

/// A drop-in that sets another default than the domain file would have kloros measure against what does not run.
#[test]
fn each_drop_in_sets_what_its_domain_file_takes_for_granted() {
    let cases = [
        ("redis", "redis-server.service.d/50-kloros.conf"),
        ("postgresql", "postgresql@15-main.service.d/50-kloros.conf"),
        ("llama_cpp", "llama-server.service.d/50-kloros.conf"),
        ("ollama", "ollama.service.d/50-kloros.conf"),
        ("vllm", "vllm.service.d/60-arguments.conf"),
        ("nginx", "nginx.service.d/50-kloros.conf"),
        ("tts", "tts.service.d/50-kloros.conf"),
        ("conversation", "kloros-conversation.service.d/50-kloros.conf"),
    ];
    for (name, file) in cases {
        let (domain, drop_in) = (domain(name), shipped(&format!("ops/systemd/examples/{file}")));
        let set = drop_in.lines().find_map(|line| line.strip_prefix("Environment=")).unwrap();
        let set: BTreeMap<&str, &str> = set.split(' ').filter_map(|each| each.split_once('=')).collect();
        let expected: BTreeMap<String, String> =
            domain.knobs.iter().map(|(key, knob)| (key.to_string(), knob.default.to_string())).collect();
        let set: BTreeMap<String, String> =
            set.into_iter().map(|(key, text)| (key.to_owned(), text.to_owned())).collect();
        assert_eq!(set, expected, "{file}");
        assert!(drop_in.contains(&format!("EnvironmentFile=-{}\n", domain.service.env_file.display())), "{file}");
        let started: Vec<&str> = drop_in.lines().filter(|line| line.starts_with("ExecStart")).collect();
        for key in expected.keys().filter(|_| domain.takes().arguments) {
            let passed = format!("${{{key}}}");
            assert!(started.iter().any(|line| line.contains(&passed)), "{key} is not passed on by {file}");
        }
    }
}

/// What a unit sets under another name than its domain file reads back would be told apart by nobody.
#[test]
fn each_unit_of_the_kernels_settings_sets_what_its_domain_file_reads_back() {
    for name in ["network", "kernel", "system"] {
        let (domain, unit) = (domain(name), shipped(&format!("ops/systemd/examples/kloros-{name}.service")));
        let ReadBack::Command(read) = &domain.service.read_back else { panic!("{name} is read back by a command") };
        let read: BTreeMap<&str, &str> = read.iter().filter_map(|word| word.split_once('=')).collect();
        assert_eq!(read.keys().copied().collect::<Vec<_>>(), domain.knobs.keys().map(Key::as_str).collect::<Vec<_>>());
        let words = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        assert_eq!(words("ExecStart="), words("ExecReload="), "{name}");
        let set: BTreeMap<&str, &str> = words("ExecStart=")
            .split(' ')
            .filter_map(|word| word.split_once("=${"))
            .map(|(setting, key)| (key.strip_suffix('}').unwrap(), setting))
            .collect();
        assert_eq!(set.keys().collect::<Vec<_>>(), read.keys().collect::<Vec<_>>(), "{name}");
        assert!(unit.contains(&format!("EnvironmentFile=-{}\n", domain.service.env_file.display())), "{name}");
        for (key, knob) in &domain.knobs {
            let (setting, bounds) = set[key.as_str()].split_once('[').unwrap();
            assert_eq!(setting, read[key.as_str()], "{key}");
            // Who may write the env file gets no further than the search.
            let expected = match &knob.range {
                KnobKind::Integer { min, max, .. } => format!("{min}..{max}]"),
                KnobKind::Choice { values } => values.join("|") + "]",
                KnobKind::Ordinal { values } => values.iter().map(Value::to_string).collect::<Vec<_>>().join("|") + "]",
                other => panic!("{key}: {other:?}"),
            };
            assert_eq!(bounds, expected, "{key}");
            crate::sysctl::wanted(&format!("{}={}", set[key.as_str()], knob.default)).unwrap();
        }
    }
}

/// Model servers cannot be run where tests are, so what they are told is held against what a stated version takes.
#[test]
fn vllm_llama_server_and_ollama_know_what_they_are_told() {
    let known = shipped("tests/fixtures/vllm-0.33.0-arguments.txt");
    let argv = domain("vllm").service.argv;
    let names: Vec<&String> =
        argv.windows(2).filter(|pair| keys_in(&pair[1]).next().is_some()).map(|pair| &pair[0]).collect();
    assert_eq!(names.len(), 4);
    for name in names {
        assert!(known.lines().any(|line| line == name), "vLLM 0.33.0 has no {name}");
    }
    for (name, file) in [
        ("llama_cpp", "tests/fixtures/llama-server-0.3.36-variables.txt"),
        ("ollama", "tests/fixtures/ollama-0.33.0-rc2-variables.txt"),
    ] {
        let known = shipped(file);
        for key in domain(name).knobs.keys() {
            assert!(known.lines().any(|line| line == key.as_str()), "{name} does not read {key}");
        }
    }
}

#[test]
fn only_values_of_knobs_are_put_into_arguments() {
    let text = shipped("config/domains/redis.toml").replace("{REDIS_HZ}", "{REDIS_PASSWORD}");
    let line = text.lines().position(|line| line.starts_with("argv")).unwrap() + 1;
    let complaint = format!(
        "domains/redis.toml:{line}: service.argv: {{REDIS_PASSWORD}} is no knob: only values of [knobs] are put into arguments"
    );
    let dream = shipped("config/domains/redis.yaml");
    refused(&[("domains/redis.toml", &text), ("dream.yaml", &dream)], &[&complaint]);
}

/// What every domain file warns of in its header is known wherever somebody makes a knob of it.
#[test]
fn no_search_turns_what_gives_something_away_whether_its_file_says_so_or_its_name() {
    let cases = [
        ("postgresql", "wal_compression: PG_WAL_COMPRESSION", "PG_SYNCHRONOUS_COMMIT", "trades durability"),
        ("postgresql", "wal_compression: PG_WAL_COMPRESSION", "PG_FULL_PAGE_WRITES", "trades durability"),
        ("conversation", "repetition_from: CHAT_REPETITION_FROM", "CHAT_TEMPERATURE", "trades answers"),
        ("conversation", "repetition_from: CHAT_REPETITION_FROM", "CHAT_MAX_TOKENS", "trades answers"),
        ("redis", "hz: REDIS_HZ", "REDIS_APPENDFSYNC", "trades durability"),
        ("vllm", "max_num_seqs: LLM_MAX_NUM_SEQS", "LLM_MAX_MODEL_LEN", "trades context"),
        ("llama_cpp", "flash_attn: LLAMA_ARG_FLASH_ATTN", "LLAMA_ARG_CACHE_TYPE_K", "trades answers"),
        ("ollama", "flash_attention: OLLAMA_FLASH_ATTENTION", "OLLAMA_KV_CACHE_TYPE", "trades answers"),
        ("ollama", "num_parallel: OLLAMA_NUM_PARALLEL", "OLLAMA_CONTEXT_LENGTH", "trades context"),
    ];
    for (name, pair, key, what) in cases {
        let text = shipped(&format!("config/domains/{name}.toml"));
        let (param, old) = pair.split_once(": ").unwrap();
        // Where the file has no such knob, one of its own takes the name.
        let text = if text.contains(&format!("[knobs.{key}]")) { text } else { text.replace(old, key) };
        let dream = shipped(&format!("config/domains/{name}.yaml")).replace(pair, &format!("{param}: {key}"));
        let home = Home::new(&[(&format!("domains/{name}.toml"), text.as_str()), ("dream.yaml", &dream)]);
        let complaints = home.read(&[]).unwrap_err();
        let expected = format!("param_mapping.{param}: {key} {what}");
        assert!(complaints.lines().any(|line| line.contains(&expected)), "{complaints}");
        assert!(complaints.contains(&format!("a person proposes it: kloros try {name} {key}=...")), "{complaints}");
    }
}

/// The windows of vLLM were as long as 24 runs with six restarts an hour take and no minute longer, so that nothing was ever proven.
#[test]
fn what_ships_to_be_measured_in_place_can_be_proven_in_its_windows_and_what_cannot_be_is_refused() {
    for name in ["vllm", "ollama", "network", "kernel", "system"] {
        assert_eq!(never_proven(&domain(name), kloros_actors::validator::Config::default().blocks_min), None, "{name}");
    }
    let (text, dream) = (shipped("config/domains/vllm.toml"), shipped("config/domains/vllm.yaml"));
    let text = text.replace("restarts_per_hour_max = 12", "restarts_per_hour_max = 5");
    let files =
        |settings| [("domains/vllm.toml", text.as_str()), ("dream.yaml", dream.as_str()), ("kloros.toml", settings)];
    let complaint = "domains/vllm.toml: in_place.windows: no change could ever be proven: that takes 240 min at least, 24 runs of \
                     80 s each with a restart before each and 5 restarts an hour (restarts_per_hour_max), and the longest window \
                     has 240 min (01:00-05:00): make a window longer than that, allow more restarts, or ask for fewer runs \
                     (validator.blocks_min)";
    refused(&files(""), &[complaint]);
    for settings in ["[validator]\nblocks_min = 5\n", "[gate]\nadvice = true\n"] {
        Home::new(&files(settings)).settings();
    }
}
