//! Follows a person's own proposal until it is judged, refused or waits for somebody.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::bail;
use kloros_actors::{
    facts::{Deployment, Fact, Kind, Lesson, Promotion, PromotionId, Recorded, Ruled, Ruling, Step},
    seams::Query,
};

use super::{
    Answer,
    ask::{approve_words, no},
    client::{Client, Said},
    out::Out,
    waiting::{Far, Waiting},
};
use crate::{api::AnswerBody, home::Home, journal::Reader, settings::Settings};

/// How often it is looked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// How many runs a block has.
pub(super) const BLOCK: u32 = 4;

/// How many runs a validation takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Runs {
    least: u32,
    most: u32,
}

impl Runs {
    /// Returns what the settings of the daemon say.
    pub(super) fn of(home: &Home, config: Option<&Path>) -> anyhow::Result<Self> {
        let validator = Settings::load(home.root(), config)?.rooms.validator;
        let runs = |blocks: u32| blocks.saturating_mul(BLOCK);
        Ok(Self { least: runs(validator.blocks_min), most: runs(validator.blocks_max) })
    }
}

/// What became of a proposal.
enum End {
    Refused(String),
    Asked {
        promotion: PromotionId,
        why: String,
        binding: String,
    },
    Held {
        promotion: PromotionId,
        why: String,
        held: serde_json::Value,
    },
    Judged(Box<Lesson>),
    /// Nothing within the time that it was waited for.
    Late,
}

/// Follows a proposal until it is judged, refused or waits for a person; at a terminal with a line that says how far it is.
pub(super) async fn follow(
    home: &Home,
    client: &Client,
    promotion: &Promotion,
    within: Duration,
    runs: Runs,
    out: &mut Out,
) -> anyhow::Result<Answer> {
    let reader = Reader::open(home)?;
    let mut waiting = Waiting::begin();
    let end = ended(home, &reader, promotion, within, |facts| {
        let (what, far) = now(facts, runs);
        waiting.show(out, &what, far.as_ref())
    });
    let end = end.await;
    waiting.end(out)?;
    match end? {
        End::Refused(why) => no(&why, out),
        End::Asked { promotion, why, binding } => {
            let fields = serde_json::json!({"waiting": promotion, "why": why, "binding": binding});
            out.answer(&fields, || format!("waits for you: {why}\n{}", approve_words(&promotion, &binding)))?;
            Ok(Answer::No)
        }
        End::Held { promotion, why, held } => {
            out.answer(&serde_json::json!({"held": promotion, "for": held, "why": why}), || {
                format!("waits for its turn: {why}\nkloros explain {promotion}")
            })?;
            Ok(Answer::No)
        }
        End::Judged(lesson) => {
            let verdict = &lesson.verdict;
            out.answer(verdict, || format!("{}: {}\nkloros explain {}", verdict.outcome, lesson.says, lesson.cycle))?;
            let kept = verdict.outcome != Ruled::Rollback;
            Ok(if kept { Answer::Done } else { Answer::No })
        }
        End::Late => take_back(&reader, client, promotion, within, out).await,
    }
}

/// Waits for the end of a proposal, and shows its facts each time it looks.
async fn ended(
    home: &Home,
    reader: &Reader,
    promotion: &Promotion,
    within: Duration,
    mut show: impl FnMut(&[Recorded]) -> std::io::Result<()>,
) -> anyhow::Result<End> {
    let until = Instant::now() + within;
    while Instant::now() < until {
        let facts = reader.read(&Query { cycle: Some(promotion.cycle.clone()), ..Query::default() })?;
        if let Some(end) = facts.iter().find_map(|recorded| end_of(&recorded.fact)) {
            return Ok(end);
        }
        show(&facts)?;
        if Client::find(home)?.is_none() {
            bail!(
                "the daemon is gone; when it starts again, what had begun and was not judged is undone, and what had not begun is offered again: kloros explain {}",
                promotion.id
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(End::Late)
}

fn end_of(fact: &Fact) -> Option<End> {
    Some(match fact {
        Fact::Ruling(Ruling::Refuse { why, .. }) => End::Refused(why.clone()),
        Fact::Ruling(Ruling::Ask { promotion, why, binding, .. }) => {
            End::Asked { promotion: promotion.clone(), why: why.clone(), binding: binding.clone() }
        }
        Fact::Ruling(Ruling::Hold { promotion, why, held }) => {
            End::Held { promotion: promotion.clone(), why: why.clone(), held: serde_json::json!(held) }
        }
        Fact::Ruling(Ruling::Advise { promotion, .. }) => {
            End::Refused(format!("only advice is given, and this is yours already: {promotion}"))
        }
        Fact::Lesson(lesson) => End::Judged(Box::new(lesson.clone())),
        _ => return None,
    })
}

/// Returns what is going on, by the facts of the cycle, oldest first; and how far a validation is. It takes so many runs at least and
/// ends as soon as it is sure, so the most that it may take counts only from there on.
fn now(facts: &[Recorded], Runs { least, most }: Runs) -> (String, Option<Far>) {
    let mut now = "waits for the gate".to_owned();
    let mut done = 0;
    for recorded in facts {
        match &recorded.fact {
            Fact::Ruling(_) => "may be made, and waits for its turn".clone_into(&mut now),
            Fact::Deployment(_) => "is being made: the service restarts".clone_into(&mut now),
            Fact::Step { step: Step::Proven { .. }, .. } => {
                "is in effect: the service said so".clone_into(&mut now);
            }
            Fact::Run { .. } => {
                done += 1;
                "old and new take turns".clone_into(&mut now);
            }
            Fact::Verdict(verdict) => {
                let what = if verdict.outcome == Ruled::Rollback { "is taken back" } else { "stays" };
                return (format!("is judged {}, and {what}", verdict.outcome), None);
            }
            _ => {}
        }
    }
    let far = |of, what| Some(Far { done, of, what });
    let far = match done {
        0 => None,
        few if few <= least => far(least, "runs at least"),
        _ => far(most, "runs at most"),
    };
    (now, far)
}

/// Takes back what was proposed and has not begun, for whom does not wait for it any longer, and says what is so.
async fn take_back(
    reader: &Reader,
    client: &Client,
    promotion: &Promotion,
    within: Duration,
    out: &mut Out,
) -> anyhow::Result<Answer> {
    let within = within.as_secs_f64();
    let query = Query { cycle: Some(promotion.cycle.clone()), ..Query::kinds(&[Kind::Promotion]) };
    let mut promoted = reader.read(&query)?.into_iter().filter_map(|each| match each.fact {
        Fact::Promotion(promotion) => Some(promotion.id),
        _ => None,
    });
    // What was overtaken meanwhile was planned anew under another name.
    let id = promoted.next_back().unwrap_or_else(|| promotion.id.clone());
    let why = Some(format!("nobody waits for it any longer than {within} s"));
    let body = AnswerBody { id: id.to_string(), approved: false, why, binding: None };
    match client.post::<Promotion>("/answer", &body).await? {
        Said::Yes(_) => no(
            &format!("it has not begun within {within} s and is taken back, nothing was changed: kloros explain {id}"),
            out,
        ),
        Said::No(_) if has_begun(reader, promotion)? => {
            let deployment = Deployment::id_of(&id);
            no(
                &format!(
                    "it is not judged within {within} s and goes on; to take it back: kloros rollback {deployment}"
                ),
                out,
            )
        }
        Said::No(why) => bail!("it is not judged within {within} s, and cannot be taken back: {why}"),
    }
}

fn has_begun(reader: &Reader, promotion: &Promotion) -> anyhow::Result<bool> {
    let query = Query { cycle: Some(promotion.cycle.clone()), ..Query::kinds(&[Kind::Deployment]) };
    Ok(!reader.read(&query)?.is_empty())
}

#[cfg(test)]
mod tests {
    use kloros_actors::facts::{CycleId, DeploymentId, FailureKind, TrialFailure};

    use super::*;

    fn facts(facts: Vec<Fact>) -> Vec<Recorded> {
        let recorded = |(fact, seq): (Fact, u64)| Recorded { seq, cycle: CycleId::new("c-1"), at_ms: 0, fact };
        facts.into_iter().zip(1..).map(recorded).collect()
    }

    fn runs(count: u32) -> Vec<Fact> {
        let outcome = Err(TrialFailure { kind: FailureKind::Died, detail: String::new() });
        let run = |index: u32| Fact::Run {
            deployment: DeploymentId::new("d-1"),
            block: index / BLOCK + 1,
            place: index % BLOCK + 1,
            candidate: false,
            outcome: outcome.clone(),
        };
        (0..count).map(run).collect()
    }

    #[test]
    fn a_validation_is_as_far_as_its_runs_and_the_most_counts_only_where_the_least_did_not_do() {
        let known = Runs { least: 8, most: 24 };
        let far = |count| now(&facts(runs(count)), known).1.map(|far| (far.done, far.of, far.what));
        assert_eq!(far(0), None);
        assert_eq!(far(1), Some((1, 8, "runs at least")));
        assert_eq!(far(8), Some((8, 8, "runs at least")));
        assert_eq!(far(9), Some((9, 24, "runs at most")));
        assert_eq!(now(&facts(runs(9)), known).0, "old and new take turns");
    }

    #[test]
    fn what_is_going_on_is_told_from_the_newest_fact_and_what_was_refused_is_over() {
        let known = Runs { least: 8, most: 24 };
        assert_eq!(now(&[], known).0, "waits for the gate");
        let id = PromotionId::new("p-1");
        let refused = Fact::Ruling(Ruling::Refuse { promotion: id, why: "frozen".to_owned() });
        assert!(matches!(end_of(&refused), Some(End::Refused(why)) if why == "frozen"));
        assert!(runs(1).iter().all(|fact| end_of(fact).is_none()));
    }
}
