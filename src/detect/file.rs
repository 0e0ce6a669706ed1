//! Files with a header, column by column.

use std::{
    fs::File,
    io::{BufReader, Seek},
    path::Path,
};

use anyhow::{Context as _, bail};
use kloros_detection::{Cause, Detector, Finding, Kind, Setup};

use super::{lines::read_line, moment::moment, row::value};

/// The longest line of a file, in bytes.
const LINE_MAX: usize = 65_536;

/// The most columns of a file.
const COLUMNS_MAX: usize = 1024;

/// The most incidents that are kept of a column.
const INCIDENTS_MAX: usize = 1000;

/// The most points that are kept of a column to be drawn.
const POINTS_MAX: usize = 1200;

/// The share of a file that is learned from before anything is raised, and the most rows.
const WARMUP_SHARE: f64 = 0.15;
const WARMUP_MAX: u32 = 750;

/// What is said of all files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Rows to learn from, or a share of the file.
    pub(crate) warmup: Option<u32>,
    /// Seconds from row to row, or what the timestamps say.
    pub(crate) step: Option<f64>,
    /// What columns count; where nothing is said, those whose name ends in `_total` count up.
    pub(crate) kind: Option<Kind>,
    /// The column that is the load of the others.
    pub(crate) load: Option<String>,
}

/// What was found in one column.
#[derive(Debug)]
pub(crate) struct Column {
    /// The file as it was named.
    pub(crate) file: String,
    /// The column as it is headed.
    pub(crate) name: String,
    /// Rows of the file.
    pub(crate) rows: u64,
    /// Rows that hold a number in this column.
    pub(crate) numbers: u64,
    /// What is unlike the past, in order.
    pub(crate) incidents: Vec<Incident>,
    /// What is drawn.
    pub(crate) points: Vec<Point>,
}

/// Something unlike the past, with a beginning and an end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Incident {
    /// Seconds of the epoch at its first row.
    pub(crate) start: f64,
    /// The same at its last row; `None` where the file ends first.
    pub(crate) end: Option<f64>,
    /// What about it is unlike the past.
    pub(crate) cause: Cause,
    /// The value that was farthest from what was expected; `None` where none came.
    pub(crate) value: Option<f64>,
    /// What was expected there.
    pub(crate) expected: Option<f64>,
    /// How far it was, in mean deviations.
    pub(crate) off: f64,
    /// The highest score.
    pub(crate) score: f64,
    /// Whether the load was unlike its past as well, which explains it.
    pub(crate) is_surge: bool,
}

/// Some rows that are drawn as one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    /// Seconds of the epoch.
    pub(crate) at: f64,
    /// The least and the largest value.
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// The highest score.
    pub(crate) score: f64,
}

/// Looks at every column of the file at `path`; `complain` hears what cannot be read.
pub(crate) fn file(path: &Path, wanted: &Wanted, mut complain: impl FnMut(&str)) -> anyhow::Result<Vec<Column>> {
    let shown = path.display().to_string();
    let open = || File::open(path).with_context(|| format!("cannot read {shown}"));
    let mut input = BufReader::new(open()?);
    let mut line = Vec::new();
    let read = |error| anyhow::Error::new(error).context(format!("cannot read {shown}"));
    let head = read_line(&mut input, &mut line, LINE_MAX).map_err(read)?;
    if head != Some(true) {
        bail!("{shown} has no header: its first line names the columns, the moment first");
    }
    let header = String::from_utf8_lossy(&line).into_owned();
    let mut rows = 0_u64;
    while read_line(&mut input, &mut line, LINE_MAX).map_err(read)?.is_some() {
        rows += 1;
    }
    // The number of rows has to be known before the first one is looked at: the warm-up is a share of them.
    input.rewind().map_err(read)?;
    read_line(&mut input, &mut line, LINE_MAX).map_err(read)?;
    let mut table = Table::new(&shown, &header, rows, wanted)?;
    let mut number = 1_u64;
    let mut bad = 0_u64;
    while let Some(is_whole) = read_line(&mut input, &mut line, LINE_MAX).map_err(read)? {
        number += 1;
        let text = String::from_utf8_lossy(&line);
        let wrong = if is_whole { table.row(text.trim_end_matches('\r')) } else { Some("it is too long".to_owned()) };
        if let Some(wrong) = wrong {
            bad += 1;
            if bad <= super::COMPLAINTS_MAX {
                complain(&format!("{shown}, line {number}: {wrong}; taken as missing"));
            }
        }
    }
    if bad > super::COMPLAINTS_MAX {
        complain(&format!("{shown}: {bad} of {rows} lines were taken as missing, in whole or in part"));
    }
    let columns: Vec<Column> = table.columns.into_iter().map(|watched| watched.column).collect();
    for column in columns.iter().filter(|column| column.numbers == 0 && rows > 0) {
        complain(&format!("{shown}: no row holds a number in column {}", column.name));
    }
    Ok(columns)
}

/// The columns of a file.
struct Table {
    time: usize,
    load: Option<usize>,
    columns: Vec<Watched>,
}

struct Watched {
    cell: usize,
    detector: Detector,
    column: Column,
    rows_a_point: u64,
    seen: u64,
}

fn cells(line: &str) -> impl Iterator<Item = &str> {
    line.split(',').map(|cell| cell.trim().trim_matches('"'))
}

impl Table {
    fn new(shown: &str, header: &str, rows: u64, wanted: &Wanted) -> anyhow::Result<Self> {
        let names: Vec<&str> = cells(header.trim_start_matches('\u{feff}')).collect();
        let is_time = |name: &&str| -> bool {
            ["timestamp", "time", "date", "datetime", "ts"].iter().any(|known| known.eq_ignore_ascii_case(name))
        };
        let time = names.iter().position(is_time).unwrap_or(0);
        if names.len() < 2 {
            bail!("{shown} has one column: there must be the moment and a series at least, with commas between");
        }
        if names.len() > COLUMNS_MAX {
            bail!("{shown} has {} columns, and at most {COLUMNS_MAX} are looked at", names.len());
        }
        if names.iter().all(|name| value(name).is_ok_and(|value| value.is_some()) || moment(name).is_some()) {
            bail!("{shown} has no header: its first line names the columns; for lines without one there is --stream");
        }
        let share = ((rows as f64 * WARMUP_SHARE) as u32).clamp(1, WARMUP_MAX);
        let watched = names.iter().enumerate().filter(|(cell, _)| *cell != time).map(|(cell, name)| {
            let counts = if name.ends_with("_total") { Kind::Counter } else { Kind::Gauge };
            let setup = Setup {
                kind: wanted.kind.unwrap_or(counts),
                step: wanted.step,
                warmup: wanted.warmup.unwrap_or(share),
            };
            let (file, name) = (shown.to_owned(), (*name).to_owned());
            let column = Column { file, name, rows, numbers: 0, incidents: vec![], points: vec![] };
            let rows_a_point = rows.div_ceil(POINTS_MAX as u64).max(1);
            Watched { cell, detector: Detector::new(setup), column, rows_a_point, seen: 0 }
        });
        let columns: Vec<Watched> = watched.collect();
        let load = match &wanted.load {
            None => None,
            Some(load) => {
                Some(columns.iter().position(|watched| watched.column.name == *load).with_context(|| {
                    format!("{shown} has no column {load} for the load; it has {}", names.join(", "))
                })?)
            }
        };
        Ok(Self { time, load, columns })
    }

    /// Looks at one row; returns what is wrong with it.
    fn row(&mut self, line: &str) -> Option<String> {
        let cells: Vec<&str> = cells(line).collect();
        let mut wrong = None;
        let at = moment(cells.get(self.time).copied().unwrap_or_default());
        if at.is_none() {
            wrong = Some(format!("the moment {:?} cannot be read", cells.get(self.time).unwrap_or(&"")));
        }
        let mut number = |cell: usize| match cells.get(cell).map(|cell| value(cell)) {
            Some(Ok(value)) => value.filter(|_| at.is_some()),
            Some(Err(why)) => {
                wrong.get_or_insert(why);
                None
            }
            None => {
                wrong.get_or_insert_with(|| "it has too few columns".to_owned());
                None
            }
        };
        let values: Vec<Option<f64>> = self.columns.iter().map(|watched| number(watched.cell)).collect();
        // The load goes first, so that what bears it can be told from a fault in the same row.
        let is_surge = self.load.is_some_and(|load| self.columns[load].row(at, values[load], false).is_surge());
        for (index, watched) in self.columns.iter_mut().enumerate() {
            if self.load != Some(index) {
                watched.row(at, values[index], is_surge);
            }
        }
        wrong
    }
}

impl Watched {
    fn row(&mut self, at: Option<f64>, value: Option<f64>, is_surge: bool) -> Finding {
        let was_open = self.column.incidents.last().is_some_and(|incident| incident.end.is_none());
        let finding = self.detector.observe(at, value);
        let Some(at) = at else { return finding };
        self.column.numbers += u64::from(value.is_some());
        let incidents = &mut self.column.incidents;
        if finding.alarm && !(was_open && finding.open && incidents.len() >= INCIDENTS_MAX) {
            if let Some(last) = incidents.last_mut() {
                last.end.get_or_insert(at);
            }
            if incidents.len() < INCIDENTS_MAX {
                let Finding { cause, expected, off, score, .. } = finding;
                incidents.push(Incident { start: at, end: None, cause, value, expected, off, score, is_surge });
            }
        } else if was_open && let Some(last) = incidents.last_mut() {
            last.score = last.score.max(finding.score);
            if finding.off.abs() > last.off.abs() {
                (last.value, last.expected, last.off) = (value, finding.expected, finding.off);
            }
            if !finding.open {
                last.end = Some(at);
            }
        }
        self.draw(at, value, finding.score);
        finding
    }

    fn draw(&mut self, at: f64, value: Option<f64>, score: f64) {
        if self.seen.is_multiple_of(self.rows_a_point) {
            self.column.points.push(Point { at, low: f64::INFINITY, high: f64::NEG_INFINITY, score: 0.0 });
        }
        self.seen += 1;
        if let Some(point) = self.column.points.last_mut() {
            if let Some(value) = value {
                point.low = point.low.min(value);
                point.high = point.high.max(value);
            }
            point.score = point.score.max(score);
        }
    }
}
