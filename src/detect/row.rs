//! One line of a stream.

use super::moment::moment;

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Row {
    /// Seconds of the epoch.
    pub(crate) at: f64,
    /// The value; `None` where it is missing.
    pub(crate) value: Option<f64>,
}

/// How a value that is not there is written.
const ABSENT: [&str; 6] = ["", "nan", "na", "null", "none", "-"];

/// Returns the value that `text` writes, `None` where it is missing; or what is wrong with it.
pub(crate) fn value(text: &str) -> Result<Option<f64>, String> {
    let text = text.trim();
    if ABSENT.iter().any(|absent| absent.eq_ignore_ascii_case(text)) {
        return Ok(None);
    }
    match text.parse::<f64>() {
        // What overflowed was not measured.
        Ok(value) => Ok(value.is_finite().then_some(value)),
        Err(_) => Err(format!("the value {text:?} is no number")),
    }
}

/// Returns what the line `timestamp,value` says, or what is wrong with it.
pub(crate) fn row(line: &str) -> Result<Row, String> {
    let Some((at, rest)) = line.split_once(',') else {
        return Err("there is no comma: write timestamp,value".to_owned());
    };
    if rest.contains(',') {
        return Err("there is more than one comma: write timestamp,value".to_owned());
    }
    let seconds = moment(at).ok_or_else(|| {
        format!("the timestamp {:?} is neither unix seconds nor YYYY-MM-DD HH:MM:SS nor ISO 8601", at.trim())
    })?;
    Ok(Row { at: seconds, value: value(rest)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_moment_and_a_value_that_may_be_missing() {
        let table = [
            ("60,1.5", Ok(Row { at: 60.0, value: Some(1.5) })),
            ("60, -2e3 ", Ok(Row { at: 60.0, value: Some(-2000.0) })),
            ("60,", Ok(Row { at: 60.0, value: None })),
            ("60,NaN", Ok(Row { at: 60.0, value: None })),
            ("60,null", Ok(Row { at: 60.0, value: None })),
            ("60,inf", Ok(Row { at: 60.0, value: None })),
            ("60,1e999", Ok(Row { at: 60.0, value: None })),
            ("1970-01-01 00:01:00,7", Ok(Row { at: 60.0, value: Some(7.0) })),
            ("60,many", Err("the value \"many\" is no number".to_owned())),
            ("60,1,2", Err("there is more than one comma: write timestamp,value".to_owned())),
            ("60", Err("there is no comma: write timestamp,value".to_owned())),
            ("", Err("there is no comma: write timestamp,value".to_owned())),
        ];
        for (line, expected) in table {
            assert_eq!(row(line), expected, "{line:?}");
        }
        assert!(row("soon,1").unwrap_err().contains("\"soon\""));
    }
}
