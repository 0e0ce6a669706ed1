//! The domains that ship, embedded, and how the process of each is recognised. Another one takes a row more and no code.

/// A domain that ships, and what is known of its service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The name of the domain.
    pub(super) name: &'static str,
    /// What a person calls the service.
    pub(super) service: &'static str,
    /// The domain file.
    pub(super) domain: &'static str,
    /// Its experiments, as `dream.yaml`.
    pub(super) dream: &'static str,
    /// What a unit of it needs beside, by the name of the file.
    pub(super) drop_ins: &'static [(&'static str, &'static str)],
    /// The names of programs that are this service; none where no process tells it.
    pub(super) programs: &'static [&'static str],
    /// The arguments of which one must be there, where the program does other things as well.
    pub(super) verbs: &'static [&'static str],
    /// The units under which distributions run it.
    pub(super) units: &'static [&'static str],
    /// The port that the files name.
    pub(super) port: u16,
    /// The arguments that are followed by another port.
    pub(super) port_after: &'static [&'static str],
    /// What of the files a person would have to put in, and what is known of the process is put in for.
    pub(super) blanks: Blanks,
    /// What a person has to do or to look at before a drop-in is installed.
    pub(super) before: &'static [&'static str],
    /// What is no knob, and why.
    pub(super) leaves: &'static str,
}

/// What stands in the files for what differs from machine to machine; empty where nothing does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blanks {
    /// The path of the program.
    pub(super) program: &'static str,
    /// The model.
    pub(super) model: &'static str,
    /// The arguments that the model follows.
    pub(super) model_after: &'static [&'static str],
}

/// What follows from arguments that win over a configuration file: what was tuned by hand would be reset by the first start.
const ARGUMENTS_WIN: &str = "what it runs with now: arguments win over your configuration file, so put what the service runs with now \
                             into the Environment= lines of the drop-in, and as the defaults into the domain file";

/// The same where the file is a command.
const COMMAND_IS_REPLACED: &str = "what it runs with now: put what its command says of these into the Environment= lines of the drop-in, \
                                   and as the defaults into the domain file";

/// Domains that ship for the kernel: no process is recognised by them, and what listens on their port is only what judges them.
pub(super) const OF_THE_KERNEL: [&str; 3] = ["kernel", "network", "system"];

const NO_BLANKS: Blanks = Blanks { program: "", model: "", model_after: &[] };

macro_rules! shipped {
    ($name:literal) => {
        include_str!(concat!("../../../", $name))
    };
}

/// Every domain that ships.
pub(super) const KNOWN: &[Known] = &[
    Known {
        name: "lab",
        service: "the lab",
        domain: shipped!("config/domains/lab.toml"),
        dream: shipped!("config/dream.yaml"),
        drop_ins: &[],
        programs: &["kloros"],
        verbs: &["lab"],
        units: &[],
        port: 0,
        port_after: &["--port"],
        blanks: NO_BLANKS,
        before: &[],
        leaves: "nothing: it is there to practise on",
    },
    Known {
        name: "redis",
        service: "Redis",
        domain: shipped!("config/domains/redis.toml"),
        dream: shipped!("config/domains/redis.yaml"),
        drop_ins: &[("50-kloros.conf", shipped!("ops/systemd/examples/redis-server.service.d/50-kloros.conf"))],
        programs: &["redis-server"],
        verbs: &[],
        units: &["redis-server.service", "redis.service"],
        port: 6379,
        port_after: &["--port"],
        blanks: NO_BLANKS,
        before: &[
            ARGUMENTS_WIN,
            "whether it keeps its data on disk: each change restarts it, and what is in memory alone is gone with that",
        ],
        leaves: "what trades safety for speed (appendfsync, appendonly, save) and what changes answers (maxmemory)",
    },
    Known {
        name: "vllm",
        service: "vLLM",
        domain: shipped!("config/domains/vllm.toml"),
        dream: shipped!("config/domains/vllm.yaml"),
        drop_ins: &[
            ("50-kloros.conf", shipped!("ops/systemd/examples/vllm.service.d/50-kloros.conf")),
            ("60-arguments.conf", shipped!("ops/systemd/examples/vllm.service.d/60-arguments.conf")),
        ],
        programs: &["vllm", "vllm.entrypoints.openai.api_server"],
        verbs: &["serve", "vllm.entrypoints.openai.api_server"],
        units: &["vllm.service"],
        port: 8000,
        port_after: &["--port"],
        blanks: Blanks { program: "/opt/vllm/bin/vllm", model: "MODEL", model_after: &["serve", "--model"] },
        before: &[COMMAND_IS_REPLACED],
        leaves: "what changes answers: quantisation, the types of weights and KV cache, the length of the context",
    },
    Known {
        name: "llama_cpp",
        service: "llama-server",
        domain: shipped!("config/domains/llama_cpp.toml"),
        dream: shipped!("config/domains/llama_cpp.yaml"),
        drop_ins: &[("50-kloros.conf", shipped!("ops/systemd/examples/llama-server.service.d/50-kloros.conf"))],
        programs: &["llama-server"],
        verbs: &[],
        units: &["llama-server.service"],
        port: 8080,
        port_after: &["--port"],
        blanks: Blanks { program: "/opt/llama.cpp/llama-server", model: "MODEL.gguf", model_after: &["--model", "-m"] },
        before: &[COMMAND_IS_REPLACED],
        leaves: "what changes answers: the types of the KV cache, reuse by shifting, speculative models",
    },
    Known {
        name: "ollama",
        service: "Ollama",
        domain: shipped!("config/domains/ollama.toml"),
        dream: shipped!("config/domains/ollama.yaml"),
        drop_ins: &[("50-kloros.conf", shipped!("ops/systemd/examples/ollama.service.d/50-kloros.conf"))],
        programs: &["ollama"],
        verbs: &["serve"],
        units: &["ollama.service"],
        port: 11434,
        port_after: &[],
        blanks: NO_BLANKS,
        before: &[
            "what it runs with now: what your unit sets in Environment= lines of these, put into those of the drop-in, and as the defaults \
             into the domain file",
            "which model `ollama list` names first: that one is measured",
        ],
        leaves: "what changes answers: the type of the KV cache, the length of the context, the model",
    },
    Known {
        name: "postgresql",
        service: "PostgreSQL",
        domain: shipped!("config/domains/postgresql.toml"),
        dream: shipped!("config/domains/postgresql.yaml"),
        drop_ins: &[("50-kloros.conf", shipped!("ops/systemd/examples/postgresql@15-main.service.d/50-kloros.conf"))],
        programs: &["postgres", "postmaster"],
        verbs: &[],
        units: &["postgresql@15-main.service"],
        port: 5432,
        port_after: &["-p"],
        blanks: NO_BLANKS,
        before: &[ARGUMENTS_WIN],
        leaves: "what gives durability away, which asks a person (synchronous_commit, full_page_writes) or is no knob (fsync, wal_level)",
    },
    Known {
        name: "nginx",
        service: "nginx",
        domain: shipped!("config/domains/nginx.toml"),
        dream: shipped!("config/domains/nginx.yaml"),
        drop_ins: &[("50-kloros.conf", shipped!("ops/systemd/examples/nginx.service.d/50-kloros.conf"))],
        programs: &["nginx"],
        verbs: &[],
        units: &["nginx.service"],
        port: 80,
        port_after: &[],
        blanks: NO_BLANKS,
        before: &[
            "its template: make /etc/kloros/nginx.conf from config/domains/nginx.conf with your own server blocks, owned by root, and \
             try what `kloros render` makes of it with nginx -t; without that file nginx does not start, and as it ships none of your \
             sites is served",
            "whether kloros may read all that the template names, as keys of TLS: nginx -t and trials are run as kloros",
        ],
        leaves: "what changes answers (gzip on or off, caches, timeouts) and the log of accesses",
    },
    Known {
        name: "conversation",
        service: "the conversation endpoint",
        domain: shipped!("config/domains/conversation.toml"),
        dream: shipped!("config/domains/conversation.yaml"),
        drop_ins: &[("50-kloros.conf", shipped!("ops/systemd/examples/kloros-conversation.service.d/50-kloros.conf"))],
        programs: &["kloros"],
        verbs: &["conversation"],
        units: &["kloros-conversation.service"],
        port: 8089,
        port_after: &["--port"],
        blanks: NO_BLANKS,
        before: &[
            COMMAND_IS_REPLACED,
            "whether your model server bears it: what is asked for measurements, it answers beside what your users ask",
            "what your users ask without a temperature or a limit of tokens: with the drop-in they get those of the domain file",
        ],
        leaves: "what changes answers (temperature, their length), which asks a person; what people said is not looked at",
    },
    // Its program is whichever speaks the dialect, so no process tells it.
    Known {
        name: "tts",
        service: "a speech server",
        domain: shipped!("config/domains/tts.toml"),
        dream: shipped!("config/domains/tts.yaml"),
        drop_ins: &[("50-kloros.conf", shipped!("ops/systemd/examples/tts.service.d/50-kloros.conf"))],
        programs: &[],
        verbs: &[],
        units: &["tts.service"],
        port: 8880,
        port_after: &["--port"],
        blanks: Blanks { program: "/opt/tts/server", model: "", model_after: &[] },
        before: &[COMMAND_IS_REPLACED],
        leaves: "what changes what is heard: voice, speed, quantisation",
    },
];

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path, process::Command};

    use super::*;

    #[test]
    fn every_domain_file_that_ships_has_a_row_here() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/domains");
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let shipped: BTreeSet<String> = files.filter_map(|file| Some(file.strip_suffix(".toml")?.to_owned())).collect();
        let known = KNOWN.iter().map(|known| known.name).chain(OF_THE_KERNEL);
        let known: BTreeSet<String> = known.map(str::to_owned).collect();
        assert_eq!(known, shipped, "give a domain that ships a row in src/cli/init/known.rs");
    }

    /// The env file is written by kloros and is in the environment of what root starts: a drop-in without this made kloros root.
    #[test]
    fn no_drop_in_lets_an_env_file_choose_code_that_is_loaded() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ops/systemd/examples");
        let of = |folder: &Path| fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect::<Vec<_>>();
        let files: Vec<_> =
            of(&folder).into_iter().flat_map(|unit| if unit.is_dir() { of(&unit) } else { vec![unit] }).collect();
        let drop_ins = files.iter().filter(|file| file.extension().is_some_and(|ending| ending == "conf")).count();
        assert_eq!(drop_ins, KNOWN.iter().map(|known| known.drop_ins.len()).sum::<usize>());
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            let taken = text.lines().find_map(|line| line.strip_prefix("UnsetEnvironment=")).unwrap_or_default();
            let taken: BTreeSet<&str> = taken.split(' ').collect();
            for name in [
                "LD_PRELOAD",
                "LD_LIBRARY_PATH",
                "LD_AUDIT",
                "GCONV_PATH",
                "OPENSSL_CONF",
                "PYTHONPATH",
                "PYTHONSTARTUP",
                "PYTHONHOME",
                "BASH_ENV",
                "ENV",
                "IFS",
            ] {
                assert!(taken.contains(name), "{}: {name}", file.display());
            }
            let starts = text.contains("\nEnvironmentFile=");
            assert!(!starts || taken.contains("PATH"), "{}: PATH", file.display());
        }
    }

    /// systemd stops a service before `ExecStartPre=`, so a template that is refused then leaves it down; a reload may be refused.
    #[test]
    fn a_reload_of_nginx_reads_the_template_and_the_env_file_anew_and_asks_before_it_is_done() {
        let nginx = KNOWN.iter().find(|known| known.name == "nginx").unwrap();
        let text = nginx.drop_ins[0].1;
        let of = |key: &str| text.lines().filter_map(|line| line.strip_prefix(key)).collect::<Vec<_>>();
        let (starts, reloads) = (of("ExecStartPre="), of("ExecReload="));
        assert_eq!(reloads[..3], [starts[0], starts[2], starts[3]]);
        assert!(reloads[3].ends_with("-s reload") && reloads.len() == 4, "{reloads:?}");
    }

    /// `pg_ctl` gives its options to a shell; a value that says more than a number or a word ran as postgres.
    #[test]
    fn a_value_that_a_shell_could_obey_does_not_start_postgresql() {
        let postgresql = KNOWN.iter().find(|known| known.name == "postgresql").unwrap();
        let text = postgresql.drop_ins[0].1;
        let line = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        let script = line("ExecStart=:/bin/sh -euc '").split_once('\'').unwrap().0;
        let script = script.replace("/usr/bin/pg_ctlcluster", "echo");
        let defaults: Vec<_> = line("Environment=").split(' ').filter_map(|pair| pair.split_once('=')).collect();
        for (index, (key, _)) in defaults.iter().enumerate() {
            for (value, starts) in
                [("8", true), ("8;id", false), ("$(id)", false), ("8 -c x=y", false), ("8\nid", false)]
            {
                let values = defaults
                    .iter()
                    .enumerate()
                    .map(|(at, (key, usual))| (*key, if at == index { value } else { *usual }));
                let mut shell = Command::new("/bin/sh");
                let output = shell.args(["-euc", &script, "sh", "15-main"]).env_clear().envs(values).output().unwrap();
                assert_eq!(output.status.success(), starts, "{key}={value}: {output:?}");
                assert_eq!(!output.stdout.is_empty(), starts, "{key}={value}: {output:?}");
            }
        }
    }

    /// What is put in for them must be found in the files.
    #[test]
    fn the_files_hold_what_a_row_says_of_them() {
        for known in KNOWN {
            let all = known.drop_ins.iter().map(|(_, text)| *text).chain([known.domain]).collect::<String>();
            assert!(known.domain.contains(&format!("\nport = {}", known.port)), "{}", known.name);
            for blank in [known.blanks.program, known.blanks.model] {
                assert!(all.contains(blank), "{}: {blank}", known.name);
            }
            assert!(known.dream.contains(&format!("\n    domain: {}\n", known.name)), "{}", known.name);
        }
    }
}
