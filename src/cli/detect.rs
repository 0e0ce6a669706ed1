//! `kloros detect`: what is unlike its past, in anybody's data.

use std::io;

use anyhow::bail;
use clap::{Args, ValueEnum};
use kloros_detection::{Kind, Setup};

use super::{Answer, out, out::Out};
use crate::detect;

/// What is looked at.
#[derive(Args)]
pub(crate) struct DetectArgs {
    /// Answer each line `timestamp,value` of the standard input with a line `score,alarm`
    #[arg(long)]
    stream: bool,
    /// Rows to learn from before anything is raised [default: 300 in a stream, else 15 % of the rows, at most 750]
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    warmup: Option<u32>,
    /// Seconds from row to row [default: what the timestamps say]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    step: Option<f64>,
    /// Whether values or their growth count
    #[arg(long, value_enum, default_value_t = KindName::Gauge)]
    kind: KindName,
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

pub(crate) fn detect(args: &DetectArgs, _out: &mut Out) -> anyhow::Result<Answer> {
    if !args.stream {
        bail!("what is to be looked at? Pass --stream and lines timestamp,value on the standard input");
    }
    let setup = Setup { kind: args.kind.into(), step: args.step, warmup: args.warmup.unwrap_or(STREAM_WARMUP) };
    detect::stream(setup, io::stdin().lock(), io::stdout().lock(), out::trouble)?;
    Ok(Answer::Done)
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (1e-3..=1e7).contains(&seconds) => Ok(seconds),
        Ok(_) => Err("it must lie between 0.001 and 10000000".to_owned()),
        Err(_) => Err("write a number of seconds".to_owned()),
    }
}
