//! What is told out of the journal: the same lists and stories that the command line prints, as data and in words.

use axum::{
    Json,
    extract::{Path, Query as Asked, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use kloros_actors::{
    env_file,
    facts::PromotionId,
    seams::{Journal as _, Query},
};
use serde::{Deserialize, Serialize};

use super::{
    Api, one_of, refusal, refused,
    ring::{self, KINDS},
};
use crate::{
    cli::{self, Listed},
    home::Home,
};

/// The description of every route.
pub(super) const OPENAPI: &str = include_str!("openapi.json");

/// How many facts the ring is made of.
const RING_FACTS: usize = 2_000;

/// How many rows a list has where nobody asks for more, and at most.
const ROWS: usize = 50;
const ROWS_MAX: usize = 1_000;

/// What may be asked of a list.
#[derive(Deserialize)]
pub(super) struct Limit {
    limit: Option<usize>,
}

/// Does what reads the journal from a file apart from all that must go on, and returns what it told.
async fn told<T: Serialize + Send + 'static>(
    api: &Api,
    tell: impl FnOnce(&Home) -> anyhow::Result<Result<T, String>> + Send + 'static,
) -> Response {
    let home = api.home.clone();
    match tokio::task::spawn_blocking(move || tell(&home)).await {
        Ok(Ok(Ok(told))) => Json(told).into_response(),
        Ok(Ok(Err(why))) => refusal(StatusCode::NOT_FOUND, &why),
        Ok(Err(error)) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error:#}")),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn rows(api: &Api, listed: Listed, asked: &Limit) -> Response {
    let limit = asked.limit.unwrap_or(ROWS).min(ROWS_MAX);
    // What is in force, and not what the files say just now: those may be refused.
    let config = api.control.config().curiosity;
    told(api, move |home| {
        let mut rows = listed.rows(home, &config)?;
        Ok(Ok(rows.split_off(rows.len().saturating_sub(limit))))
    })
    .await
}

pub(super) async fn intents(State(api): State<Api>, Asked(asked): Asked<Limit>) -> Response {
    rows(&api, Listed::Intents, &asked).await
}

pub(super) async fn questions(State(api): State<Api>, Asked(asked): Asked<Limit>) -> Response {
    rows(&api, Listed::Questions, &asked).await
}

pub(super) async fn experiments(State(api): State<Api>, Asked(asked): Asked<Limit>) -> Response {
    rows(&api, Listed::Experiments, &asked).await
}

pub(super) async fn winners(State(api): State<Api>, Asked(asked): Asked<Limit>) -> Response {
    rows(&api, Listed::Winners, &asked).await
}

pub(super) async fn deployments(State(api): State<Api>, Asked(asked): Asked<Limit>) -> Response {
    rows(&api, Listed::Deployments, &asked).await
}

pub(super) async fn lessons(State(api): State<Api>, Asked(asked): Asked<Limit>) -> Response {
    rows(&api, Listed::Lessons, &asked).await
}

pub(super) async fn experiment(State(api): State<Api>, Path(id): Path<String>) -> Response {
    told(&api, move |home| cli::shown(home, &id)).await
}

pub(super) async fn story(State(api): State<Api>, Path(id): Path<String>) -> Response {
    told(&api, move |home| cli::story(home, &id)).await
}

pub(super) async fn work(State(api): State<Api>) -> Response {
    told(&api, |home| cli::work(home).map(Ok)).await
}

pub(super) async fn ring(State(api): State<Api>) -> Response {
    let holding = match api.control.standing().await {
        Ok(holding) => holding,
        Err(error) => return refused(&error),
    };
    match api.journal.read(Query::newest(&KINDS, RING_FACTS)).await {
        Ok(mut history) => {
            history.reverse();
            Json(ring::ring(&history, &holding, api.alerts.clock.now_ms())).into_response()
        }
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

pub(super) async fn charts(State(api): State<Api>) -> Response {
    Json(api.charts.shown()).into_response()
}

pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// What an approval would do to the env file: only the lines that change, since others may hold secrets.
#[derive(Debug, PartialEq, Serialize)]
struct Plan {
    promotion: PromotionId,
    domain: String,
    file: String,
    lines: Vec<Line>,
}

/// A line that goes or comes.
#[derive(Debug, PartialEq, Serialize)]
struct Line {
    /// `-` or `+`.
    sign: char,
    /// Its number in the file as it is, or as it would be.
    number: usize,
    text: String,
}

pub(super) async fn plan(State(api): State<Api>, Path(id): Path<String>) -> Response {
    let standing = match api.control.standing().await {
        Ok(standing) => standing,
        Err(error) => return refused(&error),
    };
    let held = standing.held.iter().map(|each| &each.promotion);
    let promotions: Vec<_> = standing.waiting.iter().map(|each| &each.promotion).chain(held).collect();
    let ids: Vec<&PromotionId> = promotions.iter().map(|each| &each.id).collect();
    let found = one_of(&id, &ids).map(|id| promotions.iter().find(|each| each.id == *id));
    let promotion = match found {
        Ok(Some(promotion)) => (*promotion).clone(),
        Ok(None) => return refusal(StatusCode::NOT_FOUND, &format!("nothing waits under {id}")),
        Err(why) => return refusal(StatusCode::NOT_FOUND, &why),
    };
    let catalogue = api.control.catalogue();
    let Some(domain) = catalogue.domains.get(&promotion.domain) else {
        return refusal(StatusCode::NOT_FOUND, &format!("there is no domain {} any more", promotion.domain));
    };
    let file = domain.service.env_file.clone();
    told(&api, move |_| {
        let bytes = match std::fs::read(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        let edits: Vec<_> =
            promotion.changes.iter().map(|(key, change)| (key.clone(), Some(change.to.to_string()))).collect();
        let edited = env_file::edit(&bytes, &edits)?;
        let lines = changed(&String::from_utf8_lossy(&bytes), &String::from_utf8_lossy(&edited));
        let file = file.display().to_string();
        Ok(Ok(Plan { promotion: promotion.id, domain: promotion.domain, file, lines }))
    })
    .await
}

/// Returns the lines that differ. An edit leaves each line where it is and adds at the end.
fn changed(before: &str, after: &str) -> Vec<Line> {
    let (before, after): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let mut lines = Vec::new();
    for index in 0..before.len().max(after.len()) {
        let (old, new) = (before.get(index), after.get(index));
        if old == new {
            continue;
        }
        let line = |sign, text: &&str| Line { sign, number: index + 1, text: (*text).to_owned() };
        lines.extend(old.map(|text| line('-', text)));
        lines.extend(new.map(|text| line('+', text)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_shows_the_lines_that_change_and_no_secret_beside_them() {
        let key = kloros_actors::facts::Key::new("SEQS").unwrap();
        let more = kloros_actors::facts::Key::new("MORE").unwrap();
        let before = "# the chat\nAPI_KEY=hunter2\nSEQS=2\n";
        let edited = env_file::edit(before.as_bytes(), &[(key, Some("8".into())), (more, Some("on".into()))]).unwrap();
        let lines = changed(before, &String::from_utf8(edited).unwrap());
        let shown: Vec<String> =
            lines.iter().map(|line| format!("{} {}{}", line.number, line.sign, line.text)).collect();
        assert_eq!(shown, ["3 -SEQS=2", "3 +SEQS=8", "4 +MORE=on"]);
    }
}
