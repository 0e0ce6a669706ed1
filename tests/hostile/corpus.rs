//! What somebody with bad intentions, or a program that has gone wrong, may put where kloros reads.
//!
//! Every entry has a name and must lead to no change at all. [`SECRET`] stands in many of them, and must be printed nowhere.

/// What must never be shown.
pub(crate) const SECRET: &str = "hunter2-not-for-your-eyes";

/// Values that are no number of a knob, as JSON.
const VALUES: [&str; 28] = [
    r#""8\nLD_PRELOAD=/tmp/evil.so""#,
    r#""8\r\nKLR_AUTONOMY_LEVEL=3""#,
    r#""8\u0000""#,
    r#""8;reboot""#,
    r#""$(reboot)""#,
    r#""`reboot`""#,
    r#""${HOME}""#,
    r#""'8'""#,
    r#""\"8\"""#,
    r#""8\\""#,
    r#""8 # comment""#,
    r#""\u202e8""#,
    r#""８""#,
    r#""""#,
    r#"" 8""#,
    r#""8""#,
    "true",
    "null",
    "[]",
    "[8]",
    "{}",
    r#"{"LD_PRELOAD": "/tmp/evil.so"}"#,
    "-1",
    "0",
    "65",
    "8.5",
    "99999999999999999999",
    "1e308",
];

/// Names that no winner may set, whether as parameters or as keys.
const NAMES: [&str; 28] = [
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "PATH",
    "HOME",
    "SHELL",
    "IFS",
    "BASH_ENV",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "NODE_OPTIONS",
    "GCONV_PATH",
    "http_proxy",
    "HF_TOKEN",
    "API_KEY",
    "DB_PASSWORD",
    "KLR_AUTONOMY_LEVEL",
    "KLR_ANYTHING",
    "KLOROS_HOME",
    "KLOROS__GATE__AUTONOMY",
    "LAB_MAX_NUM_SEQS",
    "LAB_PORT",
    "autonomy",
    "__proto__",
    "max_num_seqs ",
    "MAX_NUM_SEQS",
    "../max_num_seqs",
    "max_num_seqs\\nLD_PRELOAD",
    "",
];

fn named(kind: &str, texts: Vec<String>) -> Vec<(String, String)> {
    texts.into_iter().zip(0..).map(|(text, number)| (format!("{kind}-{number:03}"), text)).collect()
}

/// Returns winner files.
pub(crate) fn winners() -> Vec<(String, String)> {
    let with = |params: &str| {
        format!(
            r#"{{"experiment": "lab_tuning", "domain": "lab", "best": {{"params": {{{params}}}, "fitness": 9e9}}}}"#
        )
    };
    let mut texts: Vec<String> = VALUES.iter().map(|value| with(&format!(r#""max_num_seqs": {value}"#))).collect();
    texts.extend(NAMES.iter().map(|name| with(&format!(r#""{name}": 8"#))));
    texts.extend(NAMES.iter().map(|name| with(&format!(r#""max_num_seqs": 8, "{name}": "{SECRET}""#))));
    let precisions = ["f16", "f32\\n", "F32", "f64 ", "f32;id"];
    texts.extend(precisions.iter().map(|value| with(&format!(r#""precision": "{value}""#))));
    let good = r#""params": {"max_num_seqs": 8}"#;
    let whole = |head: &str, best: &str, tail: &str| format!(r#"{{{head}"best": {{{best}}}{tail}}}"#);
    let lab = r#""experiment": "lab_tuning", "domain": "lab", "#;
    texts.extend([
        whole(r#""experiment": "lab_tuning", "domain": "../lab", "#, good, ""),
        whole(r#""experiment": "lab_tuning", "domain": "kernel", "#, good, ""),
        whole(r#""experiment": "../../etc/passwd", "domain": "lab", "#, good, ""),
        whole(r#""experiment": "", "domain": "", "#, good, ""),
        whole(r#""experiment": ["lab_tuning"], "domain": "lab", "#, good, ""),
        whole(lab, good, r#", "autonomy": 3"#),
        whole(lab, good, r#", "approved_by": 0"#),
        whole(lab, good, r#", "env": {"LD_PRELOAD": "/tmp/evil.so"}"#),
        whole(lab, good, r#", "domain": "system""#),
        whole(lab, good, r#", "do\u006dain": "system""#),
        whole(lab, r#""params": {"max_num_seqs": 8, "max_num_seqs": 64}"#, ""),
        whole(lab, r#""params": {"max_num_seqs": 8}, "metrics": {"a": 1, "a": 2}"#, ""),
        whole(lab, r#""params": {"max_num_seqs": 8}, "unit": "a.service;rm""#, ""),
        whole(lab, r#""params": {"max_num_seqs": NaN}"#, ""),
        whole(lab, r#""params": {"max_num_seqs": 0x8}"#, ""),
        whole(lab, r#""params": [["max_num_seqs", 8]]"#, ""),
        whole(lab, r#""params": {}"#, ""),
        whole(lab, r#""params": null"#, ""),
        whole(lab, r#""fitness": 9e9"#, ""),
        whole(lab, good, "}"),
        whole(lab, good, "")[..60].to_owned(),
        format!("{} {}", whole(lab, good, ""), whole(lab, good, "")),
        format!("\u{feff}{}", whole(lab, good, "")),
        format!("/* winner */ {}", whole(lab, good, "")),
        whole(lab, good, "").replace('"', "'"),
        "[".repeat(60_000),
        r#"{"best":"#.repeat(8_000),
        format!(r#"{{"experiment": "{}"}}"#, "x".repeat(60_000)),
        "{".to_owned() + &(0..4_000).map(|key| format!(r#""k{key}": {key},"#)).collect::<String>() + r#""z": 0}"#,
        String::new(),
        "\0\0\0\0".to_owned(),
        "null".to_owned(),
        SECRET.to_owned(),
        format!("-----BEGIN PRIVATE KEY-----\n{SECRET}\n"),
    ]);
    named("winner", texts)
}

/// Returns intent files.
pub(crate) fn intents() -> Vec<(String, String)> {
    let spec = |domain: &str, space: &str, mapping: &str| {
        format!(
            r#""dream_experiment": {{"name": "lab_tuning", "domain": "{domain}", "search_space": {space},
            "metrics": {{"goodput_per_s": "up"}}, "param_mapping": {mapping},
            "budget": {{"max_candidates": 5, "max_generations": 2}}}}"#
        )
    };
    let question = |id: &str, spec: &str| {
        format!(
            r#"{{"type": "curiosity_question", "data": {{"question_id": "{id}", "hypothesis": "LAB_LATENCY_DEGRADATION", {spec}}}}}"#
        )
    };
    let seqs = r#"{"x": {"kind": "integer", "min": 1, "max": 8}}"#;
    let good = spec("lab", seqs, r#"{"x": "LAB_MAX_NUM_SEQS"}"#);
    let mut texts: Vec<String> =
        ["", "..", "../../x", "a/b", "a b", ".hidden", "a\\nb", "a\\u0000", "a;id", "$(id)", "ä"]
            .iter()
            .map(|id| question(id, &good))
            .collect();
    let mapped = NAMES.iter().enumerate().filter(|(_, name)| **name != "LAB_MAX_NUM_SEQS");
    texts.extend(mapped.map(|(number, name)| {
        question(&format!("hostile.mapping.{number:03}"), &spec("lab", seqs, &format!(r#"{{"x": "{name}"}}"#)))
    }));
    let spaces = [
        "{}",
        "[]",
        "null",
        r#"{"x": {"kind": "integer", "min": 1, "max": 1000000}}"#,
        r#"{"x": {"kind": "integer", "min": 8, "max": 1}}"#,
        r#"{"x": {"kind": "integer", "min": -5, "max": 8}}"#,
        r#"{"x": {"kind": "float", "min": 0.1, "max": 0.9}}"#,
        r#"{"x": {"kind": "choice", "values": ["8\nLD_PRELOAD=x"]}}"#,
        r#"{"x": {"kind": "command", "argv": ["reboot"]}}"#,
        r#"{"x": {"kind": "integer", "min": 1, "max": 8, "shell": "reboot"}}"#,
        r#"{"x": {"kind": "integer", "min": 1, "max": 8}, "x": {"kind": "integer", "min": 1, "max": 64}}"#,
    ];
    texts.extend(spaces.iter().enumerate().map(|(number, space)| {
        question(&format!("hostile.space.{number:03}"), &spec("lab", space, r#"{"x": "LAB_MAX_NUM_SEQS"}"#))
    }));
    texts.extend(["kernel", "../lab", "", "lab\\n"].iter().enumerate().map(|(number, domain)| {
        question(&format!("hostile.domain.{number:03}"), &spec(domain, seqs, r#"{"x": "LAB_MAX_NUM_SEQS"}"#))
    }));
    let with_budget = |budget: &str| good.replace(r#""max_candidates": 5"#, &format!(r#""max_candidates": {budget}"#));
    let budgets = ["-1", "1e9", "\"many\"", "null", "99999999999999999999"];
    texts.extend(
        budgets
            .iter()
            .enumerate()
            .map(|(number, budget)| question(&format!("hostile.budget.{number:03}"), &with_budget(budget))),
    );
    texts.extend([
        r#"{"type": "deploy", "data": {"domain": "lab", "LAB_MAX_NUM_SEQS": 64}}"#.to_owned(),
        r#"{"type": "shell", "data": "reboot"}"#.to_owned(),
        r#"{"type": "approve", "data": {"id": "p-1"}}"#.to_owned(),
        question("hostile.extra.1", &good).replacen('{', r#"{"autonomy": 3, "#, 1),
        question("hostile.extra.2", &format!(r#"{good}, "uid": 0"#)),
        question("hostile.cut", &good)[..80].to_owned(),
        "[".repeat(60_000),
        String::new(),
        SECRET.to_owned(),
    ]);
    named("intent", texts)
}

/// Returns env files in which `LAB_MAX_NUM_SEQS` must not be set to anything, because what it is there cannot be told.
pub(crate) fn env_files() -> Vec<(String, String)> {
    let around = |text: &str| format!("TOKEN={SECRET}\n{text}");
    let key = "LAB_MAX_NUM_SEQS";
    let texts = [
        format!("{key}=2\n{key}=3\n"),
        format!("{key}=2\nOTHER=1\n{key}=2\n"),
        format!("export {key}=2\n"),
        format!("export\t{key}=2\n"),
        format!("  export {key}=2\n"),
        format!("# comment \\\n{key}=2\n"),
        format!("; comment \\\n{key}=2\n"),
        format!("OTHER=a \\\n{key}=2\n"),
        format!("OTHER='a\n{key}=2\n'\n"),
        format!("OTHER=\"a\n{key}=2\n\"\n"),
        format!("{key}=2\\\n3\n"),
        format!("{key}='2\n3'\n"),
        format!("{key}=\"2\n3\"\n"),
        format!("OTHER=\0\n{key}=2\n"),
        format!("{key}=2\0\n"),
        format!("{key}=\0"),
        "OTHER='never closed\n".to_owned(),
        "OTHER=\"never closed\n".to_owned(),
        "OTHER=never ends \\".to_owned(),
        "# never ends \\".to_owned(),
        format!("{key}='2"),
        format!("{key}=\"2"),
        format!("{key}=2\\"),
        format!("{key}=2 \\\n\\\n\\\n"),
        format!("A=1\r{key}=2\\\rB=1\n"),
        format!("export {key}=2 OTHER=3\n{key}=4\n"),
    ];
    let texts = texts.iter().flat_map(|text| [text.clone(), around(text)]).collect();
    named("env", texts)
}
