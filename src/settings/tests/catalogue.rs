use kloros_actors::facts::Value;

use super::*;

const LAB: &str = include_str!("../../../config/domains/lab.toml");
const DREAM: &str = include_str!("../../../config/dream.yaml");

/// Returns `text` with the first `from` replaced.
#[track_caller]
fn with(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from:?} is not there");
    text.replacen(from, to, 1)
}

/// Returns the line, from 1, in which the first `part` of `text` begins.
#[track_caller]
fn line_of(text: &str, part: &str) -> usize {
    text[..text.find(part).unwrap()].matches('\n').count() + 1
}

/// Checks that the lab with `from` replaced by `to` is refused, in the first line of `to`, with this complaint.
#[track_caller]
fn lab_refused(from: &str, to: &str, complaint: &str) {
    let expected = format!("domains/lab.toml:{}: {complaint}", line_of(LAB, from));
    refused(&[("domains/lab.toml", &with(LAB, from, to))], &[&expected]);
}

/// Checks that the lab's experiments with `from` replaced by `to` are refused, in that line, with this complaint.
#[track_caller]
fn dream_refused(from: &str, to: &str, complaint: &str) {
    let expected = format!("dream.yaml:{}: experiments.{complaint}", line_of(DREAM, from));
    refused(&[("dream.yaml", &with(DREAM, from, to))], &[&expected]);
}

#[test]
fn the_shipped_lab_is_described_as_its_own_defaults_are() {
    let settings = Home::new(&[]).settings();
    let lab = &settings.catalogue.domains["lab"];
    let defaults: Vec<(&str, String)> =
        lab.knobs.iter().map(|(key, knob)| (key.as_str(), knob.default.to_string())).collect();
    let expected = [
        ("LAB_BATCH_WAIT_MS", "20"),
        ("LAB_KV_CACHE_MIB", "8"),
        ("LAB_MAX_NUM_SEQS", "2"),
        ("LAB_PRECISION", "f64"),
        ("LAB_PREFILL_CHUNK", "16"),
        ("LAB_THREADS", "1"),
    ];
    assert_eq!(defaults, expected.map(|(key, value)| (key, value.to_owned())));
    assert_eq!((lab.name.as_str(), lab.service.port), ("lab", 0));
    assert_eq!(settings.catalogue.experiments["lab_tuning"].name, "lab_tuning");
    assert_eq!(settings.catalogue.experiments["lab_tuning"].param_mapping.len(), lab.knobs.len());
}

#[test]
fn a_domain_file_of_ones_own_replaces_the_embedded_lab_and_its_experiments() {
    let home = Home::new(&[("domains/chat.toml", LAB), ("domains/.hidden.toml", "x"), ("domains/notes.txt", "x")]);
    let catalogue = home.settings().catalogue;
    assert_eq!(catalogue.domains.keys().collect::<Vec<_>>(), ["chat"]);
    assert_eq!(catalogue.domains["chat"].name, "chat");
    assert!(catalogue.experiments.is_empty());
}

/// Returns the lab with an env file of its own.
fn beside() -> String {
    with(LAB, "env_file = \".kloros_env\"", "env_file = \"other_env\"")
}

#[test]
fn two_domains_do_not_own_one_key_of_one_env_file() {
    let keys: Vec<String> = LAB
        .lines()
        .filter_map(|line| Some(line.strip_prefix("[knobs.")?.split_once(']')?.0.to_owned()))
        .map(|key| {
            format!("domains/two.toml: knobs.{key}: is a knob of domain one already, which writes to the same env file")
        })
        .collect();
    let mut expected: Vec<&str> = keys.iter().map(String::as_str).collect();
    expected.sort_unstable();
    refused(&[("domains/one.toml", LAB), ("domains/two.toml", LAB)], &expected);
    let home = Home::new(&[("domains/one.toml", LAB), ("domains/two.toml", &beside())]);
    assert_eq!(home.settings().catalogue.domains.len(), 2);
}

#[test]
fn an_empty_folder_of_domains_is_no_catalogue() {
    let home = Home::new(&[("domains/notes.txt", "x")]);
    assert!(home.read(&[]).unwrap_err().starts_with("domains: holds no domain"), "{:?}", home.read(&[]));
}

#[test]
fn a_broken_domain_among_good_ones_is_the_only_one_complained_about() {
    let broken = with(LAB, "port = 0 ", "port = \"0\" ");
    let dream = with(DREAM, "domain: lab", "domain: two");
    let expected = format!(
        "domains/two.toml:{}: service.port: expected a whole number, found the text \"0\"",
        line_of(&broken, "port = ")
    );
    refused(
        &[
            ("domains/one.toml", LAB),
            ("domains/two.toml", &broken),
            ("domains/three.toml", &beside()),
            ("dream.yaml", &dream),
        ],
        &[&expected],
    );
}

#[test]
fn a_name_in_the_file_must_be_the_name_of_the_file() {
    let named = format!("name = \"lab\"\n{LAB}");
    assert_eq!(Home::new(&[("domains/lab.toml", &named)]).settings().catalogue.domains["lab"].name, "lab");
    refused(
        &[("domains/tts.toml", &named)],
        &["domains/tts.toml:1: name: \"lab\" is not the name of the file: write \"tts\" or leave it out"],
    );
    let text = Home::new(&[("domains/My Lab.toml", LAB)]).read(&[]).unwrap_err();
    assert!(text.starts_with("domains/My Lab.toml:1: name: \"My Lab\" is no name: "), "{text}");
}

#[test]
fn an_empty_domain_file_lacks_every_required_key_at_once() {
    let lacks = |key: &str| format!("domains/lab.toml:1: {key}: is missing");
    let expected = ["bench", "isolation", "knobs", "metrics", "service"].map(lacks);
    refused(&[("domains/lab.toml", "")], &expected.each_ref().map(String::as_str));
}

#[test]
fn a_knob_that_contradicts_itself_is_refused() {
    let range = "{ kind = \"integer\", min = 1, max = 64, log = true }\ndefault = 2";
    for (to, complaint) in [
        ("{ kind = \"integer\", min = 65, max = 64, log = true }", "range.min: min 65 is above max 64"),
        (
            "{ kind = \"integer\", min = 0, max = 64, log = true }",
            "range.log: a logarithmic scale needs a min above 0, not 0",
        ),
        ("{ kind = \"integer\", min = 1.5, max = 64 }", "range.min: expected a whole number, found 1.5"),
        ("{ kind = \"integer\", min = 1 }", "range.max: is missing"),
        (
            "{ kind = \"whole\", min = 1, max = 64 }",
            "range.kind: unknown kind \"whole\"; known are integer, float, boolean, choice, ordinal",
        ),
        ("{ kind = \"integr\", min = 1, max = 64 }", "range.kind: unknown kind \"integr\"; did you mean integer?"),
        ("{ kind = \"choice\", values = [] }", "range.values: must have 1 or more entries"),
        ("{ kind = \"choice\", values = [\"a\", \"a\"] }", "range.values: \"a\" is listed twice"),
        ("{ min = 1, max = 64 }", "range: needs a kind: integer, float, boolean, choice, ordinal"),
        ("{ kind = \"integer\", min = 1, max = 64, step = 0 }", "range.step: 0 is outside 1 to 9007199254740992"),
        ("{ kind = \"float\", min = 1, max = 64, step = -1 }", "range.step: -1 is below 0.000000000001"),
        ("{ kind = \"ordinal\", values = [1, true] }", "range.values: true has no order: list numbers or texts"),
        (
            "{ kind = \"ordinal\", values = [2, \"a b\"] }",
            "range.values[1]: \"a b\" would need quotes in an env file: use letters, digits and _-.:/,+@%",
        ),
        ("{ kind = \"ordinal\", values = [1, 2, 1.0] }", "range.values: 1 is listed twice"),
        ("{ kind = \"ordinal\", values = [2, nan] }", "range.values[1]: NaN is no finite number"),
        ("64", "range: expected a table with a kind, found 64"),
    ] {
        lab_refused(range, &format!("{to}\ndefault = 2"), &format!("knobs.LAB_MAX_NUM_SEQS.{complaint}"));
    }
}

#[test]
fn a_default_must_lie_in_the_range_of_its_knob() {
    for (default, complaint) in [
        ("65", "65 is outside 1 to 64"),
        ("\"2\"", "2 is not a whole number"),
        ("true", "true is not a whole number"),
        ("2.5", "2.5 is not a whole number"),
        ("nan", "NaN is no finite number"),
        ("[2]", "expected true or false, a number or a text, found a list"),
    ] {
        lab_refused(
            "default = 2\n",
            &format!("default = {default}\n"),
            &format!("knobs.LAB_MAX_NUM_SEQS.default: {complaint}"),
        );
    }
    lab_refused(
        "default = \"f64\"",
        "default = \"f16\"",
        "knobs.LAB_PRECISION.default: \"f16\" is not one of f32, f64",
    );
}

#[test]
fn a_default_stands_on_the_step_or_in_the_list_of_its_knob() {
    let range = "{ kind = \"integer\", min = 1, max = 64, log = true }\ndefault = 2\n";
    for (to, complaint) in [
        ("{ kind = \"integer\", min = 8, max = 64, step = 8 }\ndefault = 12\n", "12 is on no step of 8 from 8"),
        ("{ kind = \"float\", min = 0, max = 1, step = 0.1 }\ndefault = 0.25\n", "0.25 is on no step of 0.1 from 0"),
        ("{ kind = \"ordinal\", values = [1, 2, 4] }\ndefault = 3\n", "3 is not one of 1, 2, 4"),
    ] {
        let text = with(LAB, range, to);
        let line = line_of(&text, to) + 1;
        let expected = format!("domains/lab.toml:{line}: knobs.LAB_MAX_NUM_SEQS.default: {complaint}");
        refused(&[("domains/lab.toml", &text)], &[&expected]);
    }
}

#[test]
fn a_decimal_knob_has_a_decimal_default_however_it_is_written() {
    let range = "{ kind = \"integer\", min = 1, max = 64, log = true }";
    let text = with(LAB, range, "{ kind = \"float\", min = 1, max = 64.5 }\nstep_max = 2");
    let settings = Home::new(&[("domains/lab.toml", &text)]).settings();
    let knobs = &settings.catalogue.domains["lab"].knobs;
    let knob = knobs.iter().find(|(key, _)| key.as_str() == "LAB_MAX_NUM_SEQS").unwrap().1;
    assert_eq!((&knob.default, knob.step_max, knob.reversible), (&Value::Float(2.0), Some(2.0), true));
}

#[test]
fn a_step_is_a_factor_above_one_of_a_number() {
    for (step, complaint) in
        [("1.0", "a factor of 1 would let nothing move"), ("0.5", "0.5 is below 1"), ("nan", "NaN is no finite number")]
    {
        let step = format!("step_max = {step}\ndefault = 2\n");
        lab_refused("default = 2\n", &step, &format!("knobs.LAB_MAX_NUM_SEQS.step_max: {complaint}"));
    }
    let reload = "apply = \"reload\"\ndefault = 2\n";
    let complaint = "only a unit of systemd is reloaded: leave it out, or let the restart command do what it takes";
    lab_refused("default = 2\n", reload, &format!("knobs.LAB_MAX_NUM_SEQS.apply: {complaint}"));
    let text = with(LAB, "default = 2\n", reload);
    let text = with(&text, "manager = \"child\"", "manager = { systemd = { unit = \"lab.service\" } }");
    let text = with(&text, "port = 0", "port = 8000");
    let text = with(&text, "read_back = { http_json = \"/config\" }", "read_back = \"proc_environ\"");
    let line = line_of(&text, "apply = ");
    let complaint =
        "a reload changes no environment, which is what read_back looks at: leave it out, or read back another way";
    refused(
        &[("domains/lab.toml", &text)],
        &[&format!("domains/lab.toml:{line}: knobs.LAB_MAX_NUM_SEQS.apply: {complaint}")],
    );
    let step = "step_max = 2.0\ndefault = \"f64\"";
    lab_refused("default = \"f64\"", step, "knobs.LAB_PRECISION.step_max: only a number can move by a factor");
}

#[test]
fn what_each_unit_takes_is_said_of_numbers_from_zero_on() {
    let takes = "takes = { memory_mib = 1 }\ndefault = \"f64\"";
    let complaint = "only what is a number from 0 on can take something for each unit";
    lab_refused("default = \"f64\"", takes, &format!("knobs.LAB_PRECISION.takes: {complaint}"));
    let takes = "takes = { gpu_memory_share = 1.5 }\ndefault = 2\n";
    lab_refused("default = 2\n", takes, "knobs.LAB_MAX_NUM_SEQS.takes.gpu_memory_share: 1.5 is outside 0 to 1");
}

#[test]
fn a_protected_variable_is_no_knob() {
    for (key, why) in [
        ("KLR_AUTONOMY_LEVEL", "kloros must not loosen its own limits"),
        ("LD_PRELOAD", "it chooses which code runs"),
        ("PATH", "it chooses which code runs"),
        ("API_TOKEN", "it names a secret"),
        ("https_proxy", "it says where the traffic goes"),
    ] {
        let complaint = format!("knobs.{key}: must not be a knob: {why}");
        lab_refused("[knobs.LAB_THREADS]", &format!("[knobs.{key}]"), &complaint);
    }
    lab_refused(
        "[knobs.LAB_THREADS]",
        "[knobs.\"LAB THREADS\"]",
        "knobs.LAB THREADS: \"LAB THREADS\" cannot name an environment variable: use letters, digits and underscores",
    );
}

#[test]
fn a_domain_without_knobs_or_without_a_weight_tunes_nothing() {
    let start = LAB.find("[knobs.LAB_MAX_NUM_SEQS]").unwrap();
    let end = LAB.find("[bench]").unwrap();
    let text = format!("{}[knobs]\n{}", &LAB[..start], &LAB[end..]);
    let expected = format!("domains/lab.toml:{}: knobs: is empty: name one or more", line_of(&text, "[knobs]"));
    refused(&[("domains/lab.toml", &text)], &[&expected]);
    let text = LAB
        .replace("weight = 1 ", "weight = 0 ")
        .replace("weight = 0.5", "weight = 0")
        .replace("weight = 0.25", "weight = 0");
    let expected = format!(
        "domains/lab.toml:{}: metrics: none has a weight above 0, so no configuration would be better than another",
        line_of(&text, "[metrics]")
    );
    refused(&[("domains/lab.toml", &text)], &[&expected]);
}

#[test]
fn numbers_that_measure_nothing_are_refused() {
    lab_refused("weight = 1 ", "weight = -1 ", "metrics.goodput_per_s.weight: -1 is below 0");
    lab_refused("weight = 1 ", "weight = nan ", "metrics.goodput_per_s.weight: NaN is no finite number");
    lab_refused(
        "direction = \"up\"",
        "direction = \"higher\"",
        "metrics.goodput_per_s.direction: expected up or down, found the text \"higher\"",
    );
    lab_refused("{ value_max = 0.4 }", "{ }", "metrics.error_rate.guard: guards nothing: give loss_max or value_max");
    lab_refused("window_s = 1.5", "window_s = 0", "bench.window_s: 0 is outside 0.001 to 86400");
    lab_refused("warmup_s = 0.3", "warmup_s = inf", "bench.warmup_s: inf is no finite number");
    lab_refused(
        "output_tokens = { min = 32,",
        "output_tokens = { min = 80,",
        "bench.output_tokens: min 80 is above max 64",
    );
    lab_refused("rate_per_s = 36", "rate_per_s = 0", "bench.load.poisson.rate_per_s: 0 is outside 0.001 to 100000");
    lab_refused(
        "load = { poisson",
        "load = { poison",
        "bench.load.poison: expected { closed = ... } or { constant = ... } or { poisson = ... }",
    );
    lab_refused("max = 1500\n", "max = nan\n", "objectives[0].max: NaN is no finite number");
    lab_refused("readings = 3", "readings = 0", "objectives[0].readings: 0 is outside 1 to 100000");
}

#[test]
fn a_service_that_could_not_be_started_is_refused() {
    let argv = LAB.lines().find(|line| line.starts_with("argv")).unwrap();
    lab_refused(argv, "argv = []", "service.argv: must have 1 or more entries");
    let text = with(LAB, argv, "argv = [\"{kloros}\", \"--p\", \"{prot}\"]");
    let line = line_of(&text, "argv");
    refused(
        &[("domains/lab.toml", &text)],
        &[
            &format!(
                "domains/lab.toml:{line}: service.argv: names no {{port}}: a second instance for measurements could not listen beside the first"
            ),
            &format!(
                "domains/lab.toml:{line}: service.argv[2]: unknown placeholder {{prot}} in \"{{prot}}\"; known are {{port}}, {{env_file}}, {{kloros}}"
            ),
        ],
    );
    lab_refused(
        "manager = \"child\"",
        "manager = \"systemd\"",
        "service.manager: expected child or { command = ... } or { systemd = ... }, found the text \"systemd\"",
    );
    lab_refused("port = 0 ", "port = 65536 ", "service.port: 65536 is outside 0 to 65535");
    lab_refused(
        "\".kloros_env\"",
        "\"../.kloros_env\"",
        "service.env_file: must not climb with ..: write an absolute path",
    );
    lab_refused(
        "\"/health\"",
        "\"health\"",
        "service.ready.http_path: \"health\" is no path: it starts with / and has no spaces",
    );
    lab_refused(
        "\"/config\"",
        "\"config\"",
        "service.read_back.http_json: \"config\" is no path: it starts with / and has no spaces",
    );
    lab_refused("passes = 2", "passes = 0", "service.ready.passes: 0 is outside 1 to 100");
    let text = with(LAB, "manager = \"child\"", "manager.command.restart = [\"systemctl\", \"restart\", \"{port}\"]");
    refused(
        &[("domains/lab.toml", &text)],
        &[
            &format!(
                "domains/lab.toml:{}: service.manager.command.restart[2]: unknown placeholder {{port}} in \"{{port}}\"; nothing is replaced here",
                line_of(&text, "manager")
            ),
            &format!(
                "domains/lab.toml:{}: service.port: 0 lets kloros choose, but another supervisor starts this service: name the port",
                line_of(&text, "port = 0")
            ),
        ],
    );
}

#[test]
fn a_service_of_another_supervisor_and_a_bench_of_ones_own_are_read() {
    let start = LAB.find("[bench]").unwrap();
    let end = LAB.find("[metrics]").unwrap();
    let bench = "[bench]\nkind = \"command\"\nargv = [\"bench\", \"{url}\", \"{\\\"n\\\": 1}\", \"{seed}\"]\ntimeout_s = 60\n\n";
    let text = format!("{}{bench}{}", &LAB[..start], &LAB[end..]);
    let text = with(&text, "manager = \"child\"", "manager.command.restart = [\"systemctl\", \"restart\", \"tts\"]");
    let text = with(&text, "port = 0 ", "port = 8000 ");
    let text = with(&text, "read_back = { http_json = \"/config\" }", "read_back = \"proc_environ\"");
    let settings = Home::new(&[("domains/tts.toml", &text)]).settings();
    assert_eq!(settings.catalogue.domains["tts"].service.port, 8000);
}

#[test]
fn an_experiment_must_fit_its_domain() {
    dream_refused("domain: lab", "domain: lbb", "lab_tuning.domain: unknown domain \"lbb\"; did you mean lab?");
    dream_refused(
        "threads: LAB_THREADS",
        "threads: LAB_THREDS",
        "lab_tuning.param_mapping.threads: LAB_THREDS is not on the allow-list of domain lab; did you mean LAB_THREADS?",
    );
    dream_refused(
        "max: 64, log: true}",
        "max: 128, log: true}",
        "lab_tuning.search_space.max_num_seqs: is wider than the knob LAB_MAX_NUM_SEQS: 128 is outside 1 to 64",
    );
    dream_refused(
        "[f32, f64]",
        "[f32, f16]",
        "lab_tuning.search_space.precision: is wider than the knob LAB_PRECISION: \"f16\" is not one of f32, f64",
    );
    dream_refused(
        "threads: {kind: integer, min: 1, max: 8}",
        "threads: {kind: float, min: 1, max: 8}",
        "lab_tuning.search_space.threads: is wider than the knob LAB_THREADS: it is of another kind: the knob is a whole number",
    );
    dream_refused(
        "threads: {kind: integer, min: 1,",
        "threads: {kind: integer, min: 9,",
        "lab_tuning.search_space.threads.min: min 9 is above max 8",
    );
    dream_refused(
        "min: 0, max: 100}",
        "min: 0, max: 100, log: true}",
        "lab_tuning.search_space.batch_wait_ms.log: a logarithmic scale needs a min above 0, not 0",
    );
    dream_refused(
        "goodput_per_s: up",
        "goodput: up",
        "lab_tuning.metrics.goodput: is no metric of domain lab; known are e2e_p50_ms, error_rate, goodput_per_s",
    );
    dream_refused(
        "goodput_per_s: up",
        "goodput_per_s: down",
        "lab_tuning.metrics.goodput_per_s: points the other way in domain lab",
    );
    dream_refused(
        "max_candidates: 12",
        "max_candidates: 0",
        "lab_tuning.budget.max_candidates: 0 is outside 1 to 1000",
    );
    dream_refused(
        "max_candidates: 12",
        "wall_s: 59\n      max_candidates: 12",
        "lab_tuning.budget.wall_s: 59 is outside 60 to 2678400",
    );
    dream_refused(
        "max_candidates: 12",
        "max_candidates: yes",
        "lab_tuning.budget.max_candidates: expected a whole number, found the text \"yes\"",
    );
}

const THREADS: &str = "threads: {kind: integer, min: 1, max: 8}";

/// Returns the lab's experiments with another line for the threads, and `more` before the metrics.
fn dream_with(threads: &str, more: &str) -> String {
    with(&with(DREAM, THREADS, threads), "    metrics:", &format!("{more}    metrics:"))
}

/// Checks that such experiments are refused with these complaints, each in the line of its `part`.
#[track_caller]
fn dream_with_refused(threads: &str, more: &str, complaints: &[(&str, &str)]) {
    let text = dream_with(threads, more);
    let line = |(part, complaint): &(&str, &str)| {
        format!("dream.yaml:{}: experiments.lab_tuning.{complaint}", line_of(&text, part))
    };
    let expected: Vec<String> = complaints.iter().map(line).collect();
    refused(&[("dream.yaml", &text)], &expected.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn an_experiment_has_steps_lists_in_order_conditions_constraints_and_forbidden_combinations() {
    let text = dream_with(
        "threads: {kind: ordinal, values: [1, 2, 4, 8], when: {param: precision, in: [f32]}}",
        "    constraints:\n      - threads <= max_num_seqs\n    forbidden: [{precision: f64, batch_wait_ms: 0}]\n",
    );
    let text = with(&text, "{kind: integer, min: 0, max: 100}", "{kind: integer, min: 0, max: 100, step: 10}");
    let spec = &Home::new(&[("dream.yaml", &text)]).settings().catalogue.experiments["lab_tuning"];
    assert_eq!(spec.search_space["threads"].when.as_ref().unwrap().param, "precision");
    assert_eq!((spec.constraints.len(), spec.forbidden[0].len()), (1, 2));
}

#[test]
fn a_condition_that_cannot_hold_is_refused_where_it_stands() {
    let when = |condition: &str| format!("threads: {{kind: integer, min: 1, max: 8, when: {condition}}}");
    for (condition, complaint) in [
        (
            "{param: precison, in: [f32]}",
            "when: the condition of threads names precison, which is not declared: declare it or correct the name",
        ),
        (
            "{param: precision, in: [f16]}",
            "when: the condition of threads names precision = f16, a value that precision never has: correct it or take it out",
        ),
        ("{param: precision, in: []}", "when.in: must have 1 or more entries"),
        ("{param: precision, in: f32}", "when.in: expected a list, found the text \"f32\""),
        ("{param: 3, in: [f32]}", "when.param: expected a text, found 3"),
        ("{param: precision}", "when.in: is missing"),
        ("{param: precision, is: [f32], in: [f32]}", "when.is: unknown key; did you mean in?"),
        ("[precision, f32]", "when: expected a table, found a list"),
        ("{param: threads, in: [1]}", "when: threads depends on itself: remove one `when` of the circle"),
    ] {
        dream_with_refused(&when(condition), "", &[("threads: {", &format!("search_space.threads.{complaint}"))]);
    }
    let text = with(
        &dream_with(&when("{param: precision, in: [f32]}"), ""),
        "values: [f32, f64]}",
        "values: [f32, f64], when: {param: threads, in: [1]}}",
    );
    let expected = format!(
        "dream.yaml:{}: experiments.lab_tuning.search_space.precision.when: precision depends on itself: remove one `when` of the circle",
        line_of(&text, "precision: {")
    );
    refused(&[("dream.yaml", &text)], &[&expected]);
}

#[test]
fn what_holds_between_parameters_is_refused_in_its_own_line() {
    dream_with_refused(
        THREADS,
        "    constraints:\n      - threads < max_num_seqs\n      - threads <= seqs\n      - precision <= threads\n",
        &[
            ("- threads < ", "constraints[0]: the constraint \"threads < max_num_seqs\" is not of the form `a <= b`"),
            (
                "- threads <= seqs",
                "constraints[1]: the constraint threads <= seqs names seqs, which is not declared: declare it or correct the name",
            ),
            (
                "- precision",
                "constraints[2]: the constraint precision <= threads needs numbers, and precision has others: remove it, or forbid combinations",
            ),
        ],
    );
    dream_with_refused(
        THREADS,
        "    forbidden:\n      - {precision: f16}\n      - {threads: 9, precision: f32}\n      - {thread: 1}\n",
        &[
            (
                "- {precision: f16}",
                "forbidden[0]: a forbidden combination names precision = f16, a value that precision never has: correct it or take it out",
            ),
            (
                "- {threads: 9",
                "forbidden[1]: a forbidden combination names threads = 9, a value that threads never has: correct it or take it out",
            ),
            (
                "- {thread: 1}",
                "forbidden[2]: a forbidden combination names thread, which is not declared: declare it or correct the name",
            ),
        ],
    );
    for (more, complaint) in [
        (
            "constraints: threads <= max_num_seqs",
            "constraints: expected a list, found the text \"threads <= max_num_seqs\"",
        ),
        ("constraints: [7]", "constraints[0]: expected a text, found 7"),
        ("constraints: [max_num_seqs <= threads, kv_cache_mib <= threads]", ""),
        ("forbidden: {threads: 1}", "forbidden: expected a list, found a table"),
        ("forbidden: [{}]", "forbidden[0]: is empty: name one or more"),
        (
            "forbidden: [{threads: [1]}]",
            "forbidden[0].threads: expected true or false, a number or a text, found a list",
        ),
    ] {
        let more = format!("    {more}\n");
        if complaint.is_empty() {
            assert!(Home::new(&[("dream.yaml", &dream_with(THREADS, &more))]).read(&[]).is_ok());
        } else {
            dream_with_refused(THREADS, &more, &[(more.trim(), complaint)]);
        }
    }
}

#[test]
fn a_space_leaves_neither_the_steps_nor_the_list_of_its_knob() {
    let stepped =
        with(LAB, "{ kind = \"integer\", min = 1, max = 8 }", "{ kind = \"integer\", min = 1, max = 9, step = 4 }");
    let check = |threads: &str, complaint: Option<&str>| {
        let text = dream_with(&format!("threads: {{{threads}}}"), "");
        let line = line_of(&text, "threads: {");
        let found = Home::new(&[("domains/lab.toml", &stepped), ("dream.yaml", &text)]).read(&[]).map(|_| ());
        let expected = complaint.map(|complaint| format!("dream.yaml:{line}: experiments.lab_tuning.search_space.threads: is wider than the knob LAB_THREADS: {complaint}"));
        assert_eq!(found.err(), expected, "{threads}");
    };
    check("kind: integer, min: 1, max: 9, step: 4", None);
    check("kind: ordinal, values: [1, 9]", None);
    check("kind: ordinal, values: [1, 8]", Some("8 is on no step of 4 from 1"));
    check("kind: ordinal, values: [1, f32]", Some("f32 is not a whole number"));
    check(
        "kind: integer, min: 1, max: 9",
        Some("the knob moves in steps of 4 from 1: begin on one of them, with a step of 4 or a multiple"),
    );
}

#[test]
fn every_parameter_sets_a_key_of_its_own() {
    dream_refused(
        "threads: LAB_THREADS",
        "threads: LAB_MAX_NUM_SEQS",
        "lab_tuning.param_mapping.threads: LAB_MAX_NUM_SEQS is set by max_num_seqs already",
    );
}

#[test]
fn a_misspelt_parameter_is_missed_on_both_sides() {
    let text = with(DREAM, "threads: LAB_THREADS", "thread: LAB_THREADS");
    refused(
        &[("dream.yaml", &text)],
        &[
            &format!(
                "dream.yaml:{}: experiments.lab_tuning.search_space.threads: is mapped to no env key: name one under param_mapping",
                line_of(&text, "threads:")
            ),
            &format!(
                "dream.yaml:{}: experiments.lab_tuning.param_mapping.thread: is no parameter of search_space; did you mean threads?",
                line_of(&text, "thread:")
            ),
        ],
    );
}

#[test]
fn an_empty_or_foreign_dream_file_is_refused() {
    refused(&[("dream.yaml", "")], &["dream.yaml:1: expected a table, found nothing"]);
    refused(&[("dream.yaml", "experiments: {}\n")], &["dream.yaml:1: experiments: is empty: name one or more"]);
    refused(
        &[("dream.yaml", "experiment: {}\n")],
        &["dream.yaml:1: experiment: unknown key; did you mean experiments?", "dream.yaml:1: experiments: is missing"],
    );
}

#[test]
fn two_broken_domains_are_each_complained_about() {
    let text = with(LAB, "default = 2\n", "default = 65\n");
    let line = line_of(&text, "default = 65");
    let complaint =
        |name: &str| format!("domains/{name}.toml:{line}: knobs.LAB_MAX_NUM_SEQS.default: 65 is outside 1 to 64");
    refused(&[("domains/a.toml", &text), ("domains/b.toml", &text)], &[&complaint("a"), &complaint("b")]);
}

/// Returns the time that this thread has computed, in whole seconds: what else the machine does is no part of it.
fn cpu_s() -> i64 {
    rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).tv_sec
}

/// A text whose cost grows with its square would take far longer.
#[track_caller]
fn refused_within_a_moment(file: &str, text: &str) {
    let began_s = cpu_s();
    let complaints = Home::new(&[(file, text)]).read(&[]).unwrap_err();
    let spent_s = cpu_s() - began_s;
    assert!(spent_s < 60, "{spent_s} s for {}", &text[..8]);
    assert!(complaints.len() < 64 * 1024, "{} bytes for {}", complaints.len(), &text[..8]);
}

#[test]
fn hostile_yaml_is_refused_within_a_moment() {
    let most = 1 << 20;
    let bomb = "a: &a [x, x]\n".to_owned() + &"b: [*a, *a, *a]\n".repeat(1000);
    let many: String = (0..80_000).map(|number| format!("k{number}: {{}}\n")).collect();
    for text in [bomb, "[".repeat(most), "- ".repeat(most / 2), "{a: ".repeat(most / 4), "? ".repeat(most / 2), many] {
        refused_within_a_moment("dream.yaml", &text);
    }
    refused_within_a_moment("dream.yaml", &format!("{}: 1", "k".repeat(most - 4)));
    refused_within_a_moment("dream.yaml", &format!("experiments: \"{}\"", "k".repeat(most - 40)));
}

#[test]
fn hostile_toml_is_refused_within_a_moment() {
    let most = 1 << 20;
    let knobs: String = (0..40_000).map(|number| format!("[knobs.K{number}]\nk={number}\n")).collect();
    let many: String = (0..80_000).map(|number| format!("k{number} = 1\n")).collect();
    let values: String = (0..100_000).map(|number| format!("\"{number}\",")).collect();
    let values = format!("[knobs.A]\ndefault = \"a\"\nrange = {{ kind = \"choice\", values = [{values}] }}\n");
    for text in [
        knobs,
        many,
        values,
        "a = [".repeat(most / 5),
        "[".repeat(most),
        "[[a]]\n".repeat(most / 6),
        "a.".repeat(most / 2),
    ] {
        refused_within_a_moment("domains/a.toml", &text);
        refused_within_a_moment("kloros.toml", &text);
    }
    refused_within_a_moment("kloros.toml", &format!("{} = 1", "k".repeat(most - 4)));
    refused_within_a_moment("kloros.toml", &format!("observer.matters_from = \"{}\"", "k".repeat(most - 40)));
}

#[test]
fn what_is_measured_in_place_has_windows_and_limits_that_fit() {
    let with_more = |more: &str| format!("{}\n[in_place]\n{more}\n", with(LAB, "\"shadow\"", "\"in_place\""));
    let read = Home::new(&[("domains/lab.toml", &with_more("windows = [\"02:00-05:00\", \"sun\"]"))]).settings();
    let in_place = read.catalogue.domains["lab"].in_place.clone().unwrap();
    assert_eq!((in_place.windows_text().as_str(), in_place.candidate_max_s), ("02:00-05:00, sun", 900));
    for (more, complaint) in [
        ("windows = []", "in_place.windows: must have 1 or more entries"),
        ("", "in_place.windows: is missing"),
        ("windows = [\"night\"]", "in_place.windows[0]: \"night\" is no window of time: the days are mon"),
        ("windows = [\"sun\"]\nwindow = \"x\"", "in_place.window: unknown key; did you mean windows?"),
        ("windows = [\"sun\"]\ncandidate_max_s = 0", "in_place.candidate_max_s: 0 is outside 1 to 86400"),
        ("windows = [\"sun\"]\ncandidate_max_s = 1", "in_place.candidate_max_s: a candidate may take"),
        ("windows = [\"sun\"]\nsession_max_s = 60", "in_place.session_max_s: no candidate can take 900 s"),
        ("windows = [\"sun\"]\nrestarts_per_hour_max = -1", "in_place.restarts_per_hour_max: -1 is outside 1 to 1000"),
    ] {
        let text = Home::new(&[("domains/lab.toml", &with_more(more))]).read(&[]).unwrap_err();
        assert!(text.contains(complaint), "{more}: {text}");
    }
}

#[test]
fn what_users_ask_is_measured_on_the_instance_that_they_ask_and_names_each_metric() {
    let (head, rest) = LAB.split_once("[bench]").unwrap();
    let (_, metrics) = rest.split_once("[metrics]").unwrap();
    let with = |isolation: &str, series: &str| {
        let (head, windows) = match isolation {
            "in_place" => (head.replace("\"shadow\"", "\"in_place\""), "[in_place]\nwindows = [\"sun\"]\n"),
            _ => (head.to_owned(), ""),
        };
        let bench = format!("kind = \"prometheus\"\nwarmup_s = 1\nwindow_s = 30\nseries = {{ {series} }}\n");
        Home::new(&[("domains/lab.toml", &format!("{head}[bench]\n{bench}{windows}[metrics]{metrics}"))])
    };
    let one = |name: &str, rest: &str| format!("{name} = {{ of = \"a_total\", {rest} }}");
    let names = ["goodput_per_s", "e2e_p50_ms", "error_rate"];
    let good = names.map(|name| one(name, "take = \"rate\"")).join(", ");
    with("in_place", &good).settings();
    for (isolation, series, complaint) in [
        (
            "shadow",
            good.clone(),
            "bench.kind: prometheus measures by what users ask, and nobody asks a second instance",
        ),
        ("in_place", String::new(), "bench.series: is empty: name one or more"),
        (
            "in_place",
            one("e2e_p50_ms", "take = \"rate\""),
            "metrics.goodput_per_s: is not measured: name it in bench.series",
        ),
        ("in_place", good.replace("\"rate\"", "\"rat\""), "take: expected rate or { share_of = ... } or"),
        ("in_place", good.replace("\"rate\"", "{ quantile = 95 }"), "take.quantile: 95 is outside 0 to 1"),
        (
            "in_place",
            good.replace("\"rate\"", "{ share_of = \"a{b}\" }"),
            "take.share_of: \"a{b}\" is no name of a metric",
        ),
        ("in_place", one("e2e_p50_ms", "take = \"rate\", labels = { le = \"1\" }"), "le says where a bucket"),
        ("in_place", one("e2e_p50_ms", "take = \"rate\", scale = 0"), "scale: 0 is outside"),
    ] {
        let text = with(isolation, &series).read(&[]).unwrap_err();
        assert!(text.contains(complaint), "{isolation} {series}: {text}");
    }
}

#[test]
fn where_candidates_are_measured_and_when_the_service_is_tried_on_belong_together() {
    lab_refused(
        "isolation = \"shadow\"",
        "isolation = \"in_place\"",
        "isolation: the serving instance is tried on in maintenance windows alone: give [in_place] with windows, as \
         windows = [\"02:00-05:00\"]",
    );
    let both = format!("{LAB}\n[in_place]\nwindows = [\"sun\"]\n");
    let text = Home::new(&[("domains/lab.toml", &both)]).read(&[]).unwrap_err();
    assert!(text.contains("in_place: says when the serving instance is tried on"), "{text}");
}
