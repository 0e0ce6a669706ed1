//! What a PostgreSQL runs with, under the keys of domain files.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use serde::Deserialize;

use super::{DATABASE, PACKAGE, cluster::ROLE};
use crate::program::said;

/// The view of what is in effect. Texts may hold passwords, as `primary_conninfo` does, so they stay with it.
const QUERY: &str = "SELECT coalesce(json_agg(s), '[]') FROM (SELECT name, setting, unit, pending_restart FROM pg_settings \
                     WHERE vartype <> 'string') s";

/// The key that names what the files of the server say and only a restart brings into effect.
const PENDING: &str = "PG_PENDING_RESTART";

/// The units of sizes in keys, in bytes.
const SIZES: [(&str, i64); 2] = [("KIB", 1 << 10), ("MIB", 1 << 20)];

/// The units of times in keys, in milliseconds.
const TIMES: [(&str, i64); 2] = [("MS", 1), ("S", 1000)];

/// A row of `pg_settings`.
#[derive(Debug, Deserialize)]
struct Setting {
    name: String,
    #[serde(rename = "setting")]
    value: String,
    unit: Option<String>,
    pending_restart: bool,
}

/// Returns what the PostgreSQL on this port runs with: `work_mem` is `PG_WORK_MEM` in the server's own unit and as its files write
/// it, sizes are `PG_WORK_MEM_KIB` and `PG_WORK_MEM_MIB` as well, times `PG_CHECKPOINT_TIMEOUT_MS` and `_S`, where they are whole
/// numbers of that. `PG_PENDING_RESTART` names what waits for a restart.
///
/// A cluster for measurements in `trial` is asked as such; of any other, the socket is in `folder` or where Debian has it, and the
/// role is `role` or that of the user.
pub(crate) fn settings(
    programs: &Path,
    port: u16,
    trial: Option<&Path>,
    folder: Option<&Path>,
    role: Option<&str>,
) -> anyhow::Result<BTreeMap<String, String>> {
    let psql = programs.join("psql").display().to_string();
    let port = port.to_string();
    let mut arguments = vec!["-X", "-A", "-t", "-q", "-w", "-p", &port, "--command", QUERY, "-d", DATABASE];
    let folder = trial.or(folder).map(|folder| folder.display().to_string());
    if let Some(folder) = &folder {
        arguments.extend(["-h", folder]);
    }
    if let Some(role) = trial.map(|_| ROLE).or(role) {
        arguments.extend(["-U", role]);
    }
    read(&said(&psql, &arguments, PACKAGE)?)
}

fn read(text: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let told: Vec<Setting> = serde_json::from_str(text).context("psql did not print the settings")?;
    let pending: Vec<&str> =
        told.iter().filter(|setting| setting.pending_restart).map(|setting| setting.name.as_str()).collect();
    let pending = (PENDING.to_owned(), pending.join(","));
    Ok(told.iter().flat_map(keys).chain([pending]).collect())
}

/// Returns each key of a setting with its value.
fn keys(setting: &Setting) -> Vec<(String, String)> {
    let key = format!("PG_{}", setting.name.to_uppercase());
    let mut keys = vec![(key.clone(), setting.value.clone())];
    // A negative number stands for something else than a size or a time.
    let number = setting.value.parse::<i64>().ok().filter(|number| *number >= 0);
    let (Some(number), Some(unit)) = (number, &setting.unit) else { return keys };
    let scaled = |by: i64, units: [(&'static str, i64); 2]| {
        let whole = number.checked_mul(by)?;
        let fitting = units.into_iter().filter(move |(_, of)| whole % of == 0);
        Some(fitting.map(move |(name, of)| (name, whole / of)).collect::<Vec<_>>())
    };
    let told = match unit.as_str() {
        "B" => scaled(1, SIZES),
        "kB" => scaled(1 << 10, SIZES),
        "8kB" => scaled(8 << 10, SIZES),
        "MB" => scaled(1 << 20, SIZES),
        "ms" => scaled(1, TIMES),
        "s" => scaled(1000, TIMES),
        "min" => scaled(60_000, TIMES),
        _ => None,
    };
    keys.extend(told.into_iter().flatten().map(|(name, number)| (format!("{key}_{name}"), number.to_string())));
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As PostgreSQL 15.18 says it.
    const TOLD: &str = r#"[{"name":"bgwriter_delay","setting":"200","unit":"ms","pending_restart":false},
 {"name":"checkpoint_completion_target","setting":"0.9","unit":null,"pending_restart":false},
 {"name":"checkpoint_timeout","setting":"300","unit":"s","pending_restart":false},
 {"name":"commit_delay","setting":"0","unit":null,"pending_restart":false},
 {"name":"log_rotation_age","setting":"1440","unit":"min","pending_restart":false},
 {"name":"max_slot_wal_keep_size","setting":"-1","unit":"MB","pending_restart":false},
 {"name":"shared_buffers","setting":"16384","unit":"8kB","pending_restart":true},
 {"name":"synchronous_commit","setting":"on","unit":null,"pending_restart":false},
 {"name":"wal_buffers","setting":"4","unit":"8kB","pending_restart":true},
 {"name":"wal_segment_size","setting":"16777216","unit":"B","pending_restart":false}]"#;

    #[test]
    fn a_setting_stands_under_its_name_and_under_each_unit_that_it_is_a_whole_number_of() {
        let expected = [
            ("PG_BGWRITER_DELAY", "200"),
            ("PG_BGWRITER_DELAY_MS", "200"),
            ("PG_CHECKPOINT_COMPLETION_TARGET", "0.9"),
            ("PG_CHECKPOINT_TIMEOUT", "300"),
            ("PG_CHECKPOINT_TIMEOUT_MS", "300000"),
            ("PG_CHECKPOINT_TIMEOUT_S", "300"),
            ("PG_COMMIT_DELAY", "0"),
            ("PG_LOG_ROTATION_AGE", "1440"),
            ("PG_LOG_ROTATION_AGE_MS", "86400000"),
            ("PG_LOG_ROTATION_AGE_S", "86400"),
            ("PG_MAX_SLOT_WAL_KEEP_SIZE", "-1"),
            ("PG_PENDING_RESTART", "shared_buffers,wal_buffers"),
            ("PG_SHARED_BUFFERS", "16384"),
            ("PG_SHARED_BUFFERS_KIB", "131072"),
            ("PG_SHARED_BUFFERS_MIB", "128"),
            ("PG_SYNCHRONOUS_COMMIT", "on"),
            ("PG_WAL_BUFFERS", "4"),
            ("PG_WAL_BUFFERS_KIB", "32"),
            ("PG_WAL_SEGMENT_SIZE", "16777216"),
            ("PG_WAL_SEGMENT_SIZE_KIB", "16384"),
            ("PG_WAL_SEGMENT_SIZE_MIB", "16"),
        ];
        assert_eq!(read(TOLD).unwrap(), expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn what_is_no_list_of_settings_is_an_error_and_a_huge_number_has_no_other_unit() {
        for text in ["", "{}", "[{}]", "null", "[{\"name\": \"x\"}]", &TOLD[..100]] {
            assert!(read(text).is_err(), "{text:?}");
        }
        let huge = r#"[{"name":"x","setting":"9223372036854775807","unit":"8kB","pending_restart":false}]"#;
        assert_eq!(read(huge).unwrap().len(), 2);
    }
}
