//! The inboxes in the home: intents that others leave there, and winners that their owner drops there.

mod folder;

mod strict_json;

use std::{path::Path, sync::Arc, time::Duration};

use kloros_actors::{
    circuit::{Control, ControlError},
    facts::{CycleId, Entry, ExperimentId, Fact, Kind, Origin, Proposal, Question, Winner, map_params, short_hash},
    seams::{Clock, Journal, Query, StopSwitch},
};
use serde::{Deserialize, de::IgnoredAny};

use crate::home::Home;
use folder::{FILES_A_TURN_MAX, Folder, is_being_written, read_small};

/// How often the folders are looked into.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long others have their turn while a flooded folder is emptied.
const BREATH: Duration = Duration::from_millis(100);

/// How many ends of an experiment are looked at, to know its winner again.
const KNOWN_MAX: usize = 5_000;

/// What the inbox needs.
#[derive(Clone)]
pub(crate) struct Inbox {
    pub(crate) home: Home,
    pub(crate) control: Control,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) switch: Arc<dyn StopSwitch>,
}

/// The envelope of an intent file: what it is stands beside what it says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<Data> {
    #[serde(rename = "type")]
    kind: String,
    data: Data,
}

/// What a question file must say; the rest is filled in here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuestionFile {
    question_id: String,
    hypothesis: String,
    dream_experiment: kloros_actors::facts::ExperimentSpec,
}

impl Inbox {
    /// Handles what lies in the folders, again and again.
    pub(crate) async fn watch(self) -> Result<(), String> {
        let mut intents = Folder::new(self.home.intents_folder());
        let mut winners = Folder::new(self.home.winners_folder());
        loop {
            // What comes meanwhile lies there until everything may go on.
            if self.switch.stopped().is_some() {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            let (questions, proposals) = (intents.look(), winners.look());
            for path in &questions {
                self.take_intent(path).await;
            }
            for path in &proposals {
                // Whoever is busy now is not asked for each of them.
                if self.switch.stopped().is_some() || !self.take_winner(path, &mut winners).await? {
                    break;
                }
            }
            let flooded = questions.len().max(proposals.len()) >= FILES_A_TURN_MAX;
            tokio::time::sleep(if flooded { BREATH } else { LOOK_EVERY }).await;
        }
    }

    /// A file is put away when what it asks for is durable: whoever dies in between finds it again, and knows it then.
    async fn take_intent(&self, path: &Path) {
        let processed = self.home.processed_intents_folder();
        match read_small(path).and_then(|text| self.question(&text)) {
            Ok(question) => match self.control.hand(question).await {
                Ok(()) => Folder::put_away(path, &processed, ""),
                // The coordinator is being restarted, or busy: the file waits for its next turn.
                Err(error) => tracing::debug!(%error, "intent file waits"),
            },
            Err(why) => self.refuse(path, &processed, &why).await,
        }
    }

    /// A file that is wrong may be one that is still being written.
    async fn refuse(&self, path: &Path, folder: &Path, why: &str) {
        if !is_being_written(path, self.clock.now_ms()) {
            self.set_aside(path, folder, why).await;
        }
    }

    /// Refuses a file, and says so in the journal first: whoever dies in between refuses it again.
    async fn set_aside(&self, path: &Path, folder: &Path, why: &str) {
        let refused = Fact::Refused(Folder::refusal(path, why));
        let entry = Entry::new(&CycleId::new("c-operator"), self.clock.now_ms(), refused);
        if let Err(error) = self.journal.append(vec![entry]).await {
            // Whoever cannot do without a journal ends by that; a file that is refused does no harm.
            tracing::warn!(%error, "the refusal of a file cannot be written down");
        }
        Folder::refuse(path, folder, why);
    }

    fn question(&self, text: &str) -> Result<Question, String> {
        let file = parse_question(text)?;
        let now_ms = self.clock.now_ms();
        Ok(Question {
            cycle: CycleId::new(format!("c-{}", short_hash(&["inbox", &file.question_id, &now_ms.to_string()]))),
            question_id: kloros_actors::facts::QuestionId::new(printable(&file.question_id)?),
            hypothesis: printable(&file.hypothesis)?,
            dream_experiment: file.dream_experiment,
            evidence: Vec::new(),
            interest: 1.0,
            at_ms: now_ms,
            depth: 0,
        })
    }

    /// Proposes what stands in the file, and returns whether the next one may come.
    async fn take_winner(&self, path: &Path, folder: &mut Folder) -> Result<bool, String> {
        let winners = self.home.winners_folder();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let text = read_small(path);
        let winner = match text.as_ref().map_err(String::clone).and_then(|text| parse_winner(text)) {
            Ok(winner) if self.is_our_own(&winner.experiment_id).await? => {
                folder.leave(path);
                return Ok(true);
            }
            other => other,
        };
        // The same file, read again after a crash, is the same proposal; the same text that is left there later is another.
        let digest = short_hash(&[&name, text.as_deref().unwrap_or_default(), &written_at(path)]);
        match winner.and_then(|winner| self.proposal(&winner, &name, &digest)) {
            Ok(proposal) => match self.control.offer(proposal).await {
                Ok(_) => Folder::put_away(path, &winners, ".taken"),
                Err(ControlError::Refused(why)) => self.set_aside(path, &winners, &why).await,
                Err(error) => {
                    tracing::debug!(%error, "winner file waits");
                    return Ok(false);
                }
            },
            Err(why) => self.refuse(path, &winners, &why).await,
        }
        Ok(true)
    }

    /// Winners of our own experiments are projections: they are written here, not read.
    async fn is_our_own(&self, experiment: &ExperimentId) -> Result<bool, String> {
        let query = Query::newest(&[Kind::ExperimentEnd], KNOWN_MAX).about(experiment.as_str());
        let found = self.journal.read(query).await.map_err(|error| error.to_string())?;
        Ok(found.iter().any(|recorded| matches!(recorded.fact, Fact::ExperimentEnd(_))))
    }

    fn proposal(&self, winner: &Winner, name: &str, digest: &str) -> Result<Proposal, String> {
        let catalogue = self.control.catalogue();
        let domain =
            catalogue.domains.get(&winner.domain).ok_or_else(|| format!("there is no domain {:?}", winner.domain))?;
        let spec = catalogue
            .experiments
            .get(&winner.experiment)
            .ok_or_else(|| format!("dream.yaml has no experiment {:?}", winner.experiment))?;
        let settings =
            map_params(&winner.best.params, &spec.param_mapping, domain).map_err(|problem| problem.to_string())?;
        let now_ms = self.clock.now_ms();
        Ok(Proposal {
            cycle: CycleId::new(format!("c-{}", short_hash(&["winner", digest]))),
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
}

/// Returns when the file was written, to the nanosecond.
fn written_at(path: &Path) -> String {
    let modified = std::fs::symlink_metadata(path).and_then(|found| found.modified()).ok();
    let since = modified.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    since.unwrap_or_default().as_nanos().to_string()
}

/// Returns the question in `text`, or what is wrong with it, with its line.
fn parse_question(text: &str) -> Result<QuestionFile, String> {
    let Envelope { kind, data: IgnoredAny } = strict_json::parse(text)?;
    if !kind.starts_with("curiosity_") {
        return Err(format!("unknown type {kind:?}: expected curiosity_question"));
    }
    let envelope: Envelope<QuestionFile> = strict_json::parse(text).map_err(|error| format!("data: {error}"))?;
    Ok(envelope.data)
}

/// What a winner file must say; who wrote it by hand need not invent the rest. All keys of the files that are written
/// here are known, so that one can be taken to another home.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WinnerFile {
    experiment: String,
    domain: String,
    best: BestFile,
    #[serde(default)]
    experiment_id: Option<String>,
    #[serde(default, rename = "incumbent")]
    _incumbent: IgnoredAny,
    #[serde(default, rename = "measured")]
    _measured: IgnoredAny,
    #[serde(default, rename = "failed")]
    _failed: IgnoredAny,
    #[serde(default, rename = "gain")]
    _gain: IgnoredAny,
    #[serde(default, rename = "front")]
    _front: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BestFile {
    params: kloros_actors::facts::Params,
    #[serde(default)]
    fitness: Option<f64>,
    #[serde(default, rename = "metrics")]
    _metrics: IgnoredAny,
}

fn parse_winner(text: &str) -> Result<Winner, String> {
    let file: WinnerFile = strict_json::parse(text)?;
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
        gain: None,
        front: Vec::new(),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Lessons 18 and 29: a storm is drained in order, in small turns, and every bad file lies in quarantine beside its reason.
    #[test]
    fn a_storm_of_ten_thousand_files_is_drained_in_order_and_every_bad_one_is_set_aside() {
        const FILES: usize = 10_000;
        let root = tempfile::tempdir().unwrap();
        let (inbox, processed) = (root.path().join("intents"), root.path().join("intents/processed"));
        std::fs::create_dir(&inbox).unwrap();
        let sound = r#"{"type": "curiosity_question", "data": {"question_id": "q", "hypothesis": "H", "dream_experiment":
            {"name": "x", "domain": "lab", "search_space": {}, "metrics": {}, "param_mapping": {},
             "budget": {"max_candidates": 1, "max_generations": 1}}}}"#;
        assert!(parse_question(sound).is_ok(), "{:?}", parse_question(sound).err());
        for number in (0..FILES).rev() {
            let text = if number % 2 == 0 { sound } else { &sound[..sound.len() / 2] };
            std::fs::write(inbox.join(format!("{number:05}.json")), text).unwrap();
        }
        let mut folder = Folder::new(inbox.clone());
        let (mut seen, mut turns) = (Vec::new(), 0);
        loop {
            let files = folder.look();
            assert!(files.len() <= FILES_A_TURN_MAX);
            turns += 1;
            if files.is_empty() {
                break;
            }
            for path in files {
                seen.push(path.file_stem().unwrap().to_string_lossy().parse::<usize>().unwrap());
                match read_small(&path).and_then(|text| parse_question(&text)) {
                    Ok(_) => Folder::put_away(&path, &processed, ""),
                    Err(why) => Folder::refuse(&path, &processed, &why),
                }
            }
        }
        assert!(seen.iter().copied().eq(0..FILES), "each once and in order");
        assert_eq!(turns, FILES.div_ceil(FILES_A_TURN_MAX) + 1);
        let mut kinds = std::collections::BTreeMap::new();
        for entry in std::fs::read_dir(&processed).unwrap() {
            let name = entry.unwrap().file_name().to_string_lossy().into_owned();
            let ending = name.rsplit('.').next().unwrap_or_default().to_owned();
            *kinds.entry(ending).or_insert(0) += 1;
        }
        assert_eq!(
            kinds,
            [("json".to_owned(), 5000), ("reason".to_owned(), 5000), ("refused".to_owned(), 5000)].into()
        );
    }

    #[test]
    fn an_id_that_could_leave_its_folder_is_refused() {
        for text in ["", "../x", ".x", "a/b", "a b", "a\nb", &"a".repeat(129)] {
            assert!(printable(text).is_err(), "{text:?}");
        }
        assert!(printable("resource.gpu.001").is_ok());
    }

    #[test]
    fn a_winner_that_is_cut_off_says_where() {
        let error = parse_winner(r#"{"experiment": "lab_tuning", "domain": "lab", "best": {"par"#).unwrap_err();
        assert!(error.contains("line 1"), "{error}");
    }

    /// A question about two parameters, of which the second stands in line 4.
    fn question(second: &str) -> String {
        format!(
            r#"{{"type": "curiosity_question", "data": {{"question_id": "q", "hypothesis": "H", "dream_experiment": {{
                "name": "x", "domain": "lab", "search_space": {{
                "spec": {{"kind": "boolean"}},
                "tokens": {second}
                }}, "constraints": ["tokens <= tokens"], "forbidden": [{{"spec": true, "tokens": 3}}],
                "metrics": {{"rate": "up"}}, "param_mapping": {{"spec": "SPEC", "tokens": "TOKENS"}},
                "budget": {{"max_candidates": 1, "max_generations": 1}}}}}}}}"#
        )
    }

    #[test]
    fn an_intent_has_steps_lists_conditions_constraints_and_forbidden_combinations_too() {
        let read = |second: &str| parse_question(&question(second)).map(|file| file.dream_experiment);
        let condition = r#""when": {"param": "spec", "in": [true]}"#;
        let spec = read(&format!(r#"{{"kind": "ordinal", "values": [1, 2, 3], {condition}}}"#)).unwrap();
        assert_eq!(spec.search_space["tokens"].when.as_ref().unwrap().param, "spec");
        assert_eq!((spec.constraints.len(), spec.forbidden.len()), (1, 1));
        for (second, part) in [
            (r#"{"kind": "boolean", "whne": {}}"#.to_owned(), "unknown field `whne`"),
            (r#"{"kind": "integer", "min": 1, "max": 2, "step": "1"}"#.to_owned(), "invalid type: string"),
            (format!(r#"{{"kind": "tensor", {condition}}}"#), "unknown variant `tensor`"),
        ] {
            let error = read(&second).unwrap_err();
            assert!(error.starts_with("data: ") && error.contains(part) && error.contains("at line 4"), "{error}");
        }
        assert!(parse_question(r#"{"type": "other", "data": {}}"#).err().unwrap().contains("unknown type \"other\""));
    }

    #[test]
    fn fuzzed_intents_and_winners_are_read_or_refused_in_words_that_can_be_shown() {
        use crate::fuzz::{corpus, hold, texts};
        let shown = |why: String| {
            let text: String = why.chars().take(500).collect();
            assert!(!text.escape_debug().to_string().contains(char::is_control), "{text:?}");
        };
        let mut intents = texts(corpus::intents());
        intents.push(question(r#"{"kind": "ordinal", "values": [1, 2, 3]}"#).into_bytes());
        hold("intents", &intents, |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            parse_question(text).map_or_else(shown, |file| drop(printable(&file.question_id)));
        });
        let mut winners = texts(corpus::winners());
        winners.push(
            br#"{"experiment": "lab_tuning", "domain": "lab", "best": {"params": {"x": 8}, "fitness": 1}}"#.to_vec(),
        );
        hold("winners", &winners, |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            parse_winner(text).map_or_else(shown, |winner| assert!(winner.best.fitness.is_finite()));
        });
    }

    #[track_caller]
    fn check_refused(text: &str, part: &str) {
        let error = parse_winner(text).unwrap_err();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn a_winner_with_a_key_that_is_unknown_or_stands_twice_is_refused_with_its_name() {
        let best = r#""best": {"params": {"max_num_seqs": 8}}"#;
        check_refused(&format!(r#"{{"experiment": "e", "domain": "lab", {best}, "autonomy": 3}}"#), "autonomy");
        check_refused(&format!(r#"{{"experiment": "e", "domain": "lab", "domain": "vllm", {best}}}"#), "stands twice");
        let twice = r#"{"experiment": "e", "domain": "lab", "best": {"params": {"a": 1, "a": 2}}}"#;
        check_refused(twice, "\"a\" stands twice");
        let unknown = r#"{"experiment": "e", "domain": "lab", "best": {"params": {}, "fitnes": 1}}"#;
        check_refused(unknown, "unknown field `fitnes`");
    }

    #[test]
    fn a_winner_file_of_another_home_is_taken_as_it_is() {
        let winner = Winner {
            experiment: "lab_tuning".to_owned(),
            domain: "lab".to_owned(),
            best: kloros_actors::facts::Best {
                params: kloros_actors::facts::Params::new(),
                fitness: 0.5,
                metrics: kloros_actors::facts::Metrics::from([("goodput_per_s".to_owned(), 3.0)]),
            },
            incumbent: kloros_actors::facts::Settings::new(),
            experiment_id: ExperimentId::new("x-1"),
            measured: 3,
            failed: 1,
            gain: Some(kloros_actors::facts::Estimate { ratio: 0.6, low: 0.5, high: 0.7 }),
            front: Vec::new(),
        };
        let winner = Winner { front: vec![winner.best.clone()], ..winner };
        let read = parse_winner(&serde_json::to_string(&winner).unwrap()).unwrap();
        assert_eq!((read.best.fitness, read.experiment_id), (0.5, winner.experiment_id));
    }
}
