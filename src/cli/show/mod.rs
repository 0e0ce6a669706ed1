//! `kloros experiments show`: one experiment whole, in words, as data, or as a picture. It needs no running daemon.
//!
//! Hears the facts of the journal alone, so that it tells the same of an experiment as long as its journal is kept; what older
//! versions did not write is taken from the configuration, and said to be.

mod shown;

mod words;

use std::path::Path;

use kloros_actors::{
    facts::{Fact, Kind},
    seams::Query,
};
use serde_json::json;

use super::{Answer, ids, out::Out, picture};
use crate::{home::Home, journal::Reader};
pub(crate) use shown::Shown;

/// How many facts of one experiment are read.
const FACTS_MAX: usize = 20_000;

/// Returns the experiment that `id` or a beginning of it means, with all that can be told of it, or why there is none.
pub(crate) fn shown(home: &Home, id: &str) -> anyhow::Result<Result<Shown, String>> {
    let found = Reader::find(home)?.map(|reader| read(&reader, id)).transpose()?;
    let facts = match found.unwrap_or_else(|| Err(format!("no experiment begins with {id:?}"))) {
        Ok(facts) => facts,
        Err(why) => return Ok(Err(why)),
    };
    Ok(Shown::of(home, facts).ok_or_else(|| format!("the journal holds no whole experiment {id:?}")))
}

/// Shows the experiment that `id` or a beginning of it means, and writes its picture to `svg`.
pub(super) fn show(home: &Home, id: &str, svg: Option<&Path>, out: &mut Out) -> anyhow::Result<Answer> {
    // A file that may not be written is told before anything else is.
    let svg = svg.map(picture::SvgFile::at).transpose()?;
    let shown = match shown(home, id)? {
        Ok(shown) => shown,
        Err(why) => {
            if out.is_json() {
                out.answer(&json!([]), String::new)?;
            }
            super::out::trouble(&why);
            return Ok(Answer::No);
        }
    };
    if let Some(file) = svg {
        file.write(&picture::svg(&words::picture(&shown)))?;
    }
    if out.is_json() {
        out.answer(&[&shown], String::new)?;
    } else {
        out.paint(&words::lines(&shown, out.canvas()))?;
    }
    Ok(Answer::Done)
}

/// Returns the facts of the experiment that is meant, oldest first, or why none is.
fn read(reader: &Reader, id: &str) -> anyhow::Result<Result<Vec<Fact>, String>> {
    let experiments = reader.ids(&[Kind::Experiment], id)?;
    let id = match ids::pick(id, "experiment", experiments.iter().map(String::as_str)) {
        Ok(id) => id.to_owned(),
        Err(why) => return Ok(Err(why)),
    };
    let kinds = [Kind::Experiment, Kind::Experience, Kind::Trial, Kind::Generation, Kind::ExperimentEnd];
    let facts = reader.read(&Query { limit: FACTS_MAX, ..Query::kinds(&kinds).about(&id) })?;
    Ok(Ok(facts.into_iter().map(|recorded| recorded.fact).collect()))
}
