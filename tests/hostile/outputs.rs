//! What a bench must not be believed, whatever it was meant to say.

/// What must never be shown.
pub(crate) const SECRET: &str = "hunter2-not-for-your-eyes";

/// Returns what a bench must not be believed.
pub(crate) fn outputs() -> Vec<(String, String)> {
    let numbers = [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "\"8\"",
        "null",
        "true",
        "[]",
        "[1]",
        "{}",
        "{\"a\": 1}",
        "08",
        "0x8",
        "1,5",
        "--1",
        "1e",
        "+1",
        "\"NaN\"",
    ];
    let mut texts: Vec<String> = numbers.iter().map(|number| format!(r#"{{"goodput_per_s": {number}}}"#)).collect();
    texts.extend([
        String::new(),
        " \n".to_owned(),
        "{}".to_owned(),
        "8".to_owned(),
        "[8]".to_owned(),
        "goodput_per_s 8".to_owned(),
        r#"{"a": 1} {"a": 2}"#.to_owned(),
        r#"{"a": 1}{"#.to_owned(),
        r#"{"a": 1, "a": 2}"#.to_owned(),
        r#"{"a": 1, "\u0061": 2}"#.to_owned(),
        r#"{"a": 1,}"#.to_owned(),
        r#"{"": 1}"#.to_owned(),
        r#"{"a b": 1}"#.to_owned(),
        r#"{"a\nb": 1}"#.to_owned(),
        r#"{"a\u0000": 1}"#.to_owned(),
        format!(r#"{{"{}": 1}}"#, "x".repeat(65)),
        format!("{{{}}}", (0..65).map(|number| format!(r#""m{number}": 1"#)).collect::<Vec<_>>().join(",")),
        "[".repeat(60_000),
        r#"{"a":"#.repeat(10_000),
        format!(r#"{{"a": "{SECRET}"}}"#),
        format!("{SECRET}\n"),
        "\u{feff}{\"a\": 1}".to_owned(),
        "{'a': 1}".to_owned(),
        "\u{1b}[2J{\"a\": 1}".to_owned(),
    ]);
    texts.into_iter().zip(0..).map(|(text, number)| (format!("output-{number:03}"), text)).collect()
}
