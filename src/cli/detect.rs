//! `kloros detect`: what is unlike its past, in anybody's data.

use std::{io, path::PathBuf};

use anyhow::bail;
use clap::{Args, ValueEnum};
use kloros_detection::{Cause, Kind, Setup};
use serde_json::{Value, json};

use super::{
    Answer, out,
    out::Out,
    picture::{Panel, Stretch, SvgFile, series},
};
use crate::detect::{self, Column, Incident, Wanted, written};

/// What is looked at.
#[derive(Args)]
pub(crate) struct DetectArgs {
    /// CSV files with a header: a column with the moment, and a series in each other column
    #[arg(value_name = "FILE", conflicts_with = "stream")]
    files: Vec<PathBuf>,
    /// Answer each line `timestamp,value` of the standard input with a line `score,alarm`
    #[arg(long)]
    stream: bool,
    /// Rows to learn from before anything is raised [default: 300 in a stream, else 15 % of the rows, at most 750]
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    warmup: Option<u32>,
    /// Seconds from row to row [default: what the timestamps say]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    step: Option<f64>,
    /// Whether values or their growth count [default: growth for columns whose name ends in `_total`, else values]
    #[arg(long, value_enum)]
    kind: Option<KindName>,
    /// The column that the others bear: what its surges explain is told apart
    #[arg(long, value_name = "COLUMN", conflicts_with = "stream")]
    load: Option<String>,
    /// Also draw series, scores and incidents into this SVG file
    #[arg(long, value_name = "FILE", conflicts_with = "stream")]
    svg: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum KindName {
    /// A value that goes up and down
    Gauge,
    /// A sum that only grows, until it begins anew
    Counter,
}

impl From<KindName> for Kind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::Gauge => Self::Gauge,
            KindName::Counter => Self::Counter,
        }
    }
}

/// The rows that a stream is learned from, where nobody says: five hours of minutes.
const STREAM_WARMUP: u32 = 300;

pub(crate) fn detect(args: DetectArgs, out: &mut Out) -> anyhow::Result<Answer> {
    let kind = args.kind.map(Kind::from);
    if args.stream {
        let warmup = args.warmup.unwrap_or(STREAM_WARMUP);
        let setup = Setup { kind: kind.unwrap_or_default(), step: args.step, warmup };
        detect::stream(setup, io::stdin().lock(), io::stdout().lock(), out::trouble)?;
        return Ok(Answer::Done);
    }
    if args.files.is_empty() {
        bail!(
            "what is to be looked at? Name CSV files, or pass --stream and lines timestamp,value on the standard input"
        );
    }
    // A file that may not be written is told before anything is read.
    let svg = args.svg.as_deref().map(SvgFile::at).transpose()?;
    let wanted = Wanted { warmup: args.warmup, step: args.step, kind, load: args.load };
    let mut columns = Vec::new();
    for path in &args.files {
        columns.extend(detect::file(path, &wanted, out::trouble)?);
    }
    if columns.iter().all(|column| column.numbers == 0) {
        bail!("there is nothing to look at: no row of any column holds a number");
    }
    if let Some(file) = svg {
        let panels: Vec<Panel> = columns.iter().map(panel).collect();
        file.write(&series("Unlike the past", &summary(&columns), &panels))?;
    }
    let facts: Vec<Value> =
        columns.iter().flat_map(|column| column.incidents.iter().map(|each| fact(column, each))).collect();
    out.answer(&json!({"series": columns.len(), "incidents": facts}), || lines(&columns))?;
    Ok(Answer::Done)
}

fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

fn summary(columns: &[Column]) -> String {
    let all = columns.iter().flat_map(|column| &column.incidents);
    let surges = all.clone().filter(|incident| incident.is_surge).count();
    let incidents = count(all.count() - surges, "incident");
    let beside = if surges > 0 { format!(" and {} of the load", count(surges, "surge")) } else { String::new() };
    let series = if columns.len() == 1 { "1 series".to_owned() } else { format!("{} series", columns.len()) };
    format!("{incidents}{beside} in {series}")
}

fn lines(columns: &[Column]) -> String {
    let mut found: Vec<(&Column, &Incident)> =
        columns.iter().flat_map(|column| column.incidents.iter().map(move |incident| (column, incident))).collect();
    found.sort_by(|(_, one), (_, other)| one.start.total_cmp(&other.start));
    let longest = found.iter().map(|(column, _)| column.name.chars().count()).max().unwrap_or_default().min(24);
    let line = |(column, incident): &(&Column, &Incident)| {
        let name: String = column.name.chars().take(24).collect();
        format!("{} to {}  {name:longest$}  {}", written(incident.start), end(incident), words(incident))
    };
    let lines: Vec<String> = found.iter().map(line).chain([summary(columns)]).collect();
    lines.join("\n")
}

fn end(incident: &Incident) -> String {
    incident.end.map_or_else(|| format!("{:19}", "the end"), written)
}

fn words(incident: &Incident) -> String {
    let what = format!("{:10}", if incident.is_surge { "surge" } else { name(incident.cause) });
    match (incident.value, incident.expected) {
        (Some(value), Some(expected)) => {
            let (value, expected) = (short(value), short(expected));
            format!("{what}  {value} where {expected} was expected, {:+.1} deviations", incident.off)
        }
        _ => format!("{what}  no values"),
    }
}

/// Returns a number with the digits that matter.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 || (size > 0.0 && size < 1e-3) => format!("{value:.3e}"),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn name(cause: Cause) -> &'static str {
    match cause {
        Cause::None => "unlike",
        Cause::Spike => "spike",
        Cause::Shift => "shift",
        Cause::Ramp => "ramp",
        Cause::Volatility => "volatility",
        Cause::Season => "season",
        Cause::Place => "place",
        Cause::Stuck => "stuck",
        Cause::Flat => "flat",
        Cause::Missing => "missing",
    }
}

fn fact(column: &Column, incident: &Incident) -> Value {
    json!({
        "file": column.file,
        "series": column.name,
        "start": written(incident.start),
        "start_s": incident.start,
        "end": incident.end.map(written),
        "end_s": incident.end,
        "kind": name(incident.cause),
        "surge": incident.is_surge,
        "value": incident.value,
        "expected": incident.expected,
        "deviations": incident.off,
        "score": incident.score,
    })
}

fn panel(column: &Column) -> Panel {
    let at = |point: Option<&detect::Point>| point.map(|point| point.at).unwrap_or_default();
    let last = at(column.points.last());
    let stretch = |incident: &Incident| Stretch {
        from: incident.start,
        to: incident.end.unwrap_or(last),
        title: format!("{}: {}", written(incident.start), words(incident)),
        is_surge: incident.is_surge,
    };
    Panel {
        name: column.name.clone(),
        found: format!(
            "{}, {} of {}",
            count(column.incidents.len(), "incident"),
            count(column.rows as usize, "row"),
            column.file
        ),
        ends: (written(at(column.points.first())), written(last)),
        points: column.points.iter().map(|point| (point.at, point.low, point.high, point.score)).collect(),
        stretches: column.incidents.iter().map(stretch).collect(),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (1e-3..=1e7).contains(&seconds) => Ok(seconds),
        Ok(_) => Err("it must lie between 0.001 and 10000000".to_owned()),
        Err(_) => Err("write a number of seconds".to_owned()),
    }
}
