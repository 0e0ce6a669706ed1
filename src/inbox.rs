//! The inboxes in the home: intents that others leave there, and winners that their owner drops there.

use std::{
    fs,
    io::Read,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kloros_actors::{
    circuit::Control,
    config::Catalogue,
    facts::{CycleId, ExperimentId, Fact, Intent, Kind, Origin, Proposal, Question, Winner, map_params, short_hash},
    seams::{Clock, Journal, Query},
};
use serde::Deserialize;

use crate::home::Home;

/// How often the folders are looked into.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The largest file that is read, in bytes.
const FILE_MAX: u64 = 64 * 1024;

/// How many files are handled in one turn, so that a flooded folder starves nothing else.
const FILES_A_TURN_MAX: usize = 64;

/// How many questions and winners that are known already are compared with.
const KNOWN_MAX: usize = 5_000;

/// What the inbox needs.
#[derive(Clone)]
pub(crate) struct Inbox {
    pub(crate) home: Home,
    pub(crate) control: Control,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) catalogue: Arc<Catalogue>,
}

/// The envelope of an intent file: what it is stands beside what it says.
#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "type")]
    kind: String,
    data: serde_json::Value,
}

/// What a question file must say; the rest is filled in here.
#[derive(Deserialize)]
struct QuestionFile {
    question_id: String,
    hypothesis: String,
    dream_experiment: kloros_actors::facts::ExperimentSpec,
}

impl Inbox {
    /// Handles what lies in the folders, again and again.
    pub(crate) async fn watch(self) -> Result<(), String> {
        loop {
            for path in files_in(&self.home.intents_folder()) {
                self.take_intent(&path);
            }
            for path in files_in(&self.home.winners_folder()) {
                self.take_winner(&path).await?;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn take_intent(&self, path: &Path) {
        match read_small(path).and_then(|text| self.intent(&text)) {
            Ok(intent) => match self.control.intend(intent) {
                Ok(()) => Self::put_away(path, &self.home.processed_intents_folder(), ""),
                // The coordinator is being restarted: the file waits for its next turn.
                Err(error) => tracing::debug!(%error, "intent file waits"),
            },
            Err(why) => {
                tracing::warn!(file = %path.display(), %why, "intent file refused and set aside");
                Self::put_away(path, &self.home.processed_intents_folder(), ".refused");
            }
        }
    }

    fn intent(&self, text: &str) -> Result<Intent, String> {
        let envelope: Envelope = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if !envelope.kind.starts_with("curiosity_") {
            return Err(format!("unknown type {:?}: expected curiosity_question", envelope.kind));
        }
        let file: QuestionFile = serde_json::from_value(envelope.data).map_err(|error| format!("data: {error}"))?;
        let now_ms = self.clock.now_ms();
        Ok(Intent::CuriosityQuestion(Question {
            cycle: CycleId::new(format!("c-{}", short_hash(&["inbox", &file.question_id, &now_ms.to_string()]))),
            question_id: kloros_actors::facts::QuestionId::new(printable(&file.question_id)?),
            hypothesis: printable(&file.hypothesis)?,
            dream_experiment: file.dream_experiment,
            evidence: Vec::new(),
            interest: 1.0,
            at_ms: now_ms,
            depth: 0,
        }))
    }

    async fn take_winner(&self, path: &Path) -> Result<(), String> {
        if path.extension().is_none_or(|extension| extension != "json") {
            return Ok(());
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match read_small(path).and_then(|text| parse_winner(&text)) {
            Ok(winner) if self.is_our_own(&winner.experiment_id).await? => {}
            Ok(winner) => match self.proposal(&winner, &name) {
                Ok(proposal) => match self.control.intend(Intent::Proposal(proposal)) {
                    Ok(()) => Self::put_away(path, &self.home.winners_folder(), ".taken"),
                    Err(error) => tracing::debug!(%error, "winner file waits"),
                },
                Err(why) => self.quarantine(path, &why),
            },
            Err(why) => self.quarantine(path, &why),
        }
        Ok(())
    }

    fn quarantine(&self, path: &Path, why: &str) {
        tracing::warn!(file = %path.display(), %why, "winner file refused and set aside");
        Self::put_away(path, &self.home.winners_folder(), ".refused");
    }

    /// Winners of our own experiments are projections: they are written here, not read.
    async fn is_our_own(&self, experiment: &ExperimentId) -> Result<bool, String> {
        let query = Query::newest(&[Kind::ExperimentEnd], KNOWN_MAX).about(experiment.as_str());
        let found = self.journal.read(query).await.map_err(|error| error.to_string())?;
        Ok(found.iter().any(|recorded| matches!(recorded.fact, Fact::ExperimentEnd(_))))
    }

    fn proposal(&self, winner: &Winner, name: &str) -> Result<Proposal, String> {
        let domain = self
            .catalogue
            .domains
            .get(&winner.domain)
            .ok_or_else(|| format!("there is no domain {:?}", winner.domain))?;
        let spec = self
            .catalogue
            .experiments
            .get(&winner.experiment)
            .ok_or_else(|| format!("dream.yaml has no experiment {:?}", winner.experiment))?;
        let settings =
            map_params(&winner.best.params, &spec.param_mapping, domain).map_err(|problem| problem.to_string())?;
        let now_ms = self.clock.now_ms();
        Ok(Proposal {
            cycle: CycleId::new(format!("c-{}", short_hash(&["winner", name, &now_ms.to_string()]))),
            origin: Origin::File(name.to_owned()),
            experiment: winner.experiment.clone(),
            question: None,
            hypothesis: None,
            domain: winner.domain.clone(),
            settings,
            fitness: Some(winner.best.fitness),
            at_ms: now_ms,
            depth: 0,
        })
    }

    fn put_away(path: &Path, folder: &Path, suffix: &str) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let to = folder.join(format!("{name}{suffix}"));
        if let Err(error) = fs::create_dir_all(folder).and_then(|()| fs::rename(path, &to)) {
            tracing::warn!(file = %path.display(), %error, "file cannot be put away");
        }
    }
}

/// What a winner file must say; who wrote it by hand need not invent the rest.
#[derive(Deserialize)]
struct WinnerFile {
    experiment: String,
    domain: String,
    best: BestFile,
    #[serde(default)]
    experiment_id: Option<String>,
}

#[derive(Deserialize)]
struct BestFile {
    params: kloros_actors::facts::Params,
    #[serde(default)]
    fitness: Option<f64>,
}

fn parse_winner(text: &str) -> Result<Winner, String> {
    let file: WinnerFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let best = kloros_actors::facts::Best {
        params: file.best.params,
        fitness: file.best.fitness.filter(|fitness| fitness.is_finite()).unwrap_or_default(),
        metrics: kloros_actors::facts::Metrics::new(),
    };
    Ok(Winner {
        experiment: file.experiment,
        domain: file.domain,
        best,
        incumbent: kloros_actors::facts::Settings::new(),
        experiment_id: ExperimentId::new(file.experiment_id.unwrap_or_default()),
        measured: 0,
        failed: 0,
    })
}

/// An id or hypothesis becomes part of file names, logs and other ids.
fn printable(text: &str) -> Result<String, String> {
    let fine = |each: char| each.is_ascii_alphanumeric() || matches!(each, '_' | '.' | '-');
    if !text.is_empty() && text.len() <= 128 && text.chars().all(fine) && !text.starts_with('.') {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:.40?} is no id: use letters, digits, '.', '_' and '-', at most 128"))
    }
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .take(FILES_A_TURN_MAX)
        .collect();
    files.sort();
    files
}

/// Reads a small file that belongs to us or to root, without following links.
fn read_small(path: &Path) -> Result<String, String> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    let own = rustix::process::getuid().as_raw();
    if !metadata.is_file() || (metadata.uid() != own && metadata.uid() != 0) {
        return Err("not a file of ours".to_owned());
    }
    if metadata.len() > FILE_MAX {
        return Err(format!("{} bytes are more than the {FILE_MAX} that are read", metadata.len()));
    }
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_could_leave_its_folder_is_refused() {
        for text in ["", "../x", ".x", "a/b", "a b", "a\nb", &"a".repeat(129)] {
            assert!(printable(text).is_err(), "{text:?}");
        }
        assert!(printable("resource.gpu.001").is_ok());
    }

    #[test]
    fn a_file_that_is_too_large_or_a_link_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let large = folder.path().join("large.json");
        fs::File::create(&large).unwrap().set_len(1 << 30).unwrap();
        assert!(read_small(&large).unwrap_err().contains("more than"));
        let link = folder.path().join("link.json");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(read_small(&link).is_err());
    }

    #[test]
    fn a_winner_that_is_cut_off_says_where() {
        let error = parse_winner(r#"{"experiment": "lab_tuning", "domain": "lab", "best": {"par"#).unwrap_err();
        assert!(error.contains("line 1"), "{error}");
    }
}
