//! One series, line by line.

use std::io::{self, BufRead, Write};

use kloros_detection::{Detector, Setup};

use super::{COMPLAINTS_MAX, lines::read_line, row::row};

/// The longest line that is read, in bytes; what is beyond is thrown away with the line.
const LINE_MAX: usize = 4096;

/// How much was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Lines, each with an answer.
    pub(crate) lines: u64,
    /// Lines that could not be read, taken as missing.
    pub(crate) bad: u64,
}

/// Answers each line `timestamp,value` of `input` with a line `score,alarm`, before it reads the next; `complain` hears
/// what is wrong with a line.
pub(crate) fn stream(
    setup: Setup,
    mut input: impl BufRead,
    mut output: impl Write,
    mut complain: impl FnMut(&str),
) -> io::Result<Told> {
    let mut detector = Detector::new(setup);
    let mut told = Told::default();
    let mut line = Vec::new();
    while let Some(is_whole) = read_line(&mut input, &mut line, LINE_MAX)? {
        told.lines += 1;
        let read = if is_whole { row(&String::from_utf8_lossy(&line)) } else { Err(too_long()) };
        let finding = match read {
            Ok(row) => detector.observe(Some(row.at), row.value),
            Err(wrong) => {
                told.bad += 1;
                if told.bad <= COMPLAINTS_MAX {
                    complain(&format!("line {}: {wrong}; taken as missing", told.lines));
                }
                detector.observe(None, None)
            }
        };
        writeln!(output, "{:.6},{}", finding.score, u8::from(finding.alarm))?;
        output.flush()?;
    }
    if told.bad > COMPLAINTS_MAX {
        complain(&format!("{} of {} lines could not be read and were taken as missing", told.bad, told.lines));
    }
    Ok(told)
}

fn too_long() -> String {
    format!("it is longer than {LINE_MAX} bytes")
}

#[cfg(test)]
mod tests {
    use kloros_detection::Kind;
    use proptest::prelude::*;

    use super::*;

    fn setup() -> Setup {
        Setup { kind: Kind::Gauge, step: None, warmup: 20 }
    }

    fn answers(input: &[u8]) -> (Told, Vec<String>, Vec<String>) {
        let (mut output, mut complaints) = (Vec::new(), Vec::new());
        let told = stream(setup(), input, &mut output, |wrong| complaints.push(wrong.to_owned())).unwrap();
        (told, String::from_utf8(output).unwrap().lines().map(str::to_owned).collect(), complaints)
    }

    #[test]
    fn each_line_has_an_answer_and_a_bad_one_a_complaint_with_its_number() {
        let long = "9".repeat(LINE_MAX + 1);
        let input = format!("timestamp,value\n0,1\r\n60,\n\nx\n120,1\n{long}\n180,1");
        let (told, answers, complaints) = answers(input.as_bytes());
        assert_eq!(told, Told { lines: 8, bad: 4 });
        assert_eq!(answers, ["0.000000,0"; 8]);
        let numbers: Vec<&str> = complaints.iter().map(|wrong| wrong.split(':').next().unwrap()).collect();
        assert_eq!(numbers, ["line 1", "line 4", "line 5", "line 7"]);
    }

    #[test]
    fn a_flood_of_bad_lines_is_counted_and_not_told_one_by_one() {
        let (told, _, complaints) = answers("x\n".repeat(500).as_bytes());
        assert_eq!(told.bad, 500);
        assert_eq!(complaints.len() as u64, COMPLAINTS_MAX + 1);
        assert_eq!(complaints.last().unwrap(), "500 of 500 lines could not be read and were taken as missing");
    }

    proptest! {
        #[test]
        fn any_bytes_at_all_are_answered_line_by_line(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let lines = bytes.split(|each| *each == b'\n').count() - usize::from(bytes.last().is_none_or(|last| *last == b'\n'));
            let (told, answers, _) = answers(&bytes);
            prop_assert_eq!(answers.len(), lines);
            prop_assert_eq!(told.lines, lines as u64);
            for answer in answers {
                let (score, alarm) = answer.split_once(',').unwrap();
                prop_assert!((0.0..=1.0).contains(&score.parse::<f64>().unwrap()));
                prop_assert!(["0", "1"].contains(&alarm));
            }
        }
    }
}
