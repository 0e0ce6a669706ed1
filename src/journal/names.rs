//! Ids by their beginning, out of the journal's index: however old what is meant is, and however much was written since.

use kloros_actors::{facts::Kind, seams::JournalError};
use rusqlite::params_from_iter;

use super::reader::Reader;

/// How many ids that begin alike are returned; who typed so little is asked for more.
const IDS_MAX: usize = 100;

/// The letters with which ids begin, before a dash, that a person may leave out.
const LETTERS: std::ops::RangeInclusive<char> = 'a'..='z';

impl Reader {
    /// Returns the ids about which there are facts of these `kinds` and that begin with `wanted`, with or without their letter; at
    /// most a hundred for each letter.
    pub(crate) fn ids(&self, kinds: &[Kind], wanted: &str) -> Result<Vec<String>, JournalError> {
        // The plus keeps the kinds' index out: it would have every fact of the kind read.
        let of_kinds = format!(" AND +kind IN ({})", vec!["?"; kinds.len()].join(", "));
        let sql = format!(
            "SELECT DISTINCT subject FROM facts WHERE subject >= ? AND subject < ?{of_kinds} ORDER BY subject LIMIT {IDS_MAX}"
        );
        self.begin(&sql, kinds, wanted)
    }

    /// Returns the cycles that begin with `wanted`, with or without their letter; at most a hundred for each letter.
    pub(crate) fn cycles(&self, wanted: &str) -> Result<Vec<String>, JournalError> {
        let sql =
            format!("SELECT DISTINCT cycle FROM facts WHERE cycle >= ? AND cycle < ? ORDER BY cycle LIMIT {IDS_MAX}");
        self.begin(&sql, &[], wanted)
    }

    fn begin(&self, sql: &str, kinds: &[Kind], wanted: &str) -> Result<Vec<String>, JournalError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let read = |beginning: String| -> rusqlite::Result<Vec<String>> {
            // No text goes on with anything beyond this.
            let end = format!("{beginning}{}", char::MAX);
            let labels = kinds.iter().map(|kind| kind.label().to_owned());
            let values: Vec<String> = [beginning, end].into_iter().chain(labels).collect();
            let mut statement = self.connection().prepare_cached(sql)?;
            statement.query_map(params_from_iter(values), |row| row.get(0))?.collect()
        };
        let mut found = Vec::new();
        for beginning in std::iter::once(wanted.to_owned()).chain(LETTERS.map(|letter| format!("{letter}-{wanted}"))) {
            found.extend(read(beginning).map_err(|error| self.fault(&error))?);
        }
        Ok(found)
    }
}
