//! What changes something: asked by those alone whose word counts.

use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use kloros_actors::{
    facts::{DeploymentId, Forgetting, PromotionId, Reloaded, Settings, Talk},
    gate::Standing as Holding,
    seams::StopSwitch as _,
};
use serde::{Deserialize, Serialize};

use super::{Api, caller::Caller, refusal, refused};
use crate::{reload::Wanted, stop::StopFile};

/// Somebody's answer to the gate.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AnswerBody {
    pub(crate) id: String,
    pub(crate) approved: bool,
    pub(crate) why: Option<String>,
    /// What a yes is bound to, as it was shown: a yes to anything else is none.
    #[serde(default)]
    pub(crate) binding: Option<String>,
}

/// Somebody's own proposal.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TryBody {
    pub(crate) domain: String,
    pub(crate) settings: Settings,
}

/// A service that is measured against itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Calibrating {
    /// The domain.
    pub(crate) domain: String,
    /// How many runs it takes at least.
    pub(crate) runs_min: u32,
}

/// What was forgotten.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ForgottenBody {
    /// How many events; absent where there was nothing of the kind.
    pub(crate) events: Option<u64>,
}

/// Something named.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NameBody {
    pub(crate) id: String,
}

/// Somebody's word that the settings are others now.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReloadBody {
    /// Whether what comes of it is the answer.
    pub(crate) wait: bool,
}

/// Somebody's word that everything is to stand still.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StopBody {
    /// The reason, for the record.
    #[serde(default)]
    pub(crate) reason: String,
}

pub(super) async fn answer(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<AnswerBody>,
) -> Response {
    let Some(uid) = caller.uid() else { return refusal(StatusCode::FORBIDDEN, "who is calling is not known") };
    let Some(binding) = body.binding.or_else(|| (!body.approved).then(String::new)) else {
        return refusal(StatusCode::CONFLICT, "a yes names the binding of what was shown: kloros status shows it");
    };
    let standing = match api.control.standing().await {
        Ok(standing) => standing,
        Err(error) => return refused(&error),
    };
    let id = match answered(&body.id, body.approved, &standing) {
        Ok(id) => id,
        Err(why) => return refusal(StatusCode::NOT_FOUND, &why),
    };
    match api.control.answer(id, body.approved, uid, body.why, binding).await {
        Ok(promotion) => Json(promotion).into_response(),
        Err(error) => refused(&error),
    }
}

/// Returns what is answered under the name `wanted`. A no is taken by what waits for its turn as well, and by the whole id of
/// anything on its way.
fn answered(wanted: &str, approved: bool, standing: &Holding) -> Result<PromotionId, String> {
    let mut ids: Vec<&PromotionId> = standing.waiting.iter().map(|each| &each.promotion.id).collect();
    if !approved {
        ids.extend(standing.held.iter().map(|each| &each.promotion.id));
    }
    match one_of(wanted, &ids) {
        Ok(id) => Ok(id.clone()),
        Err(_) if !approved && wanted.starts_with("p-") => Ok(PromotionId::new(wanted)),
        Err(why) => Err(why),
    }
}

/// Returns the one id that `wanted` means: its whole text, or its beginning with or without the letter before the dash.
pub(crate) fn one_of<'a>(wanted: &str, ids: &[&'a PromotionId]) -> Result<&'a PromotionId, String> {
    let digits = wanted.split_once('-').map_or(wanted, |(_, digits)| digits);
    let mut found =
        ids.iter().filter(|id| !digits.is_empty() && id.as_str().trim_start_matches("p-").starts_with(digits));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id),
        (Some(_), Some(_)) => Err(format!("more than one promotion begins with {wanted}")),
        (None, _) => Err(format!("nothing waits under {wanted}")),
    }
}

pub(super) async fn rollback(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<NameBody>,
) -> Response {
    let Some(uid) = caller.uid() else { return refusal(StatusCode::FORBIDDEN, "who is calling is not known") };
    match api.control.recall(DeploymentId::new(body.id), uid).await {
        Ok(verdict) => Json(verdict).into_response(),
        Err(error) => refused(&error),
    }
}

pub(super) async fn propose(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<TryBody>,
) -> Response {
    let Some(uid) = caller.uid() else { return refusal(StatusCode::FORBIDDEN, "who is calling is not known") };
    match api.control.propose(&body.domain, body.settings, uid).await {
        Ok(promotion) => Json(promotion).into_response(),
        Err(error) => refused(&error),
    }
}

pub(super) async fn thaw(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<NameBody>,
) -> Response {
    let Some(uid) = caller.uid() else { return refusal(StatusCode::FORBIDDEN, "who is calling is not known") };
    match api.control.thaw(&body.id, uid).await {
        Ok(()) => Json(body).into_response(),
        Err(error) => refused(&error),
    }
}

pub(super) async fn calibrate(State(api): State<Api>, Json(body): Json<NameBody>) -> Response {
    match api.control.calibrate(&body.id).await {
        Ok(runs_min) => Json(Calibrating { domain: body.id, runs_min }).into_response(),
        Err(error) => refused(&error),
    }
}

pub(super) async fn forget(State(api): State<Api>, Json(what): Json<Forgetting>) -> Response {
    // The words of a talk that came by this door are made a name as those are that came by any other.
    let what = match what {
        Forgetting::Talk(talk) => Forgetting::Talk(Talk::new(talk.name(), talk.owner())),
        before @ Forgetting::Before(_) => before,
    };
    match api.control.forget(what).await {
        Ok(events) => Json(ForgottenBody { events }).into_response(),
        Err(error) => refused(&error),
    }
}

pub(super) async fn reload(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<ReloadBody>,
) -> Response {
    if body.wait {
        return Json(Some(api.reloader.reload(Wanted::Asked(caller.uid())).await)).into_response();
    }
    tokio::spawn(async move { api.reloader.reload(Wanted::Asked(caller.uid())).await });
    Json(None::<Reloaded>).into_response()
}

pub(super) async fn kill(State(api): State<Api>, Json(body): Json<NameBody>) -> Response {
    if !api.chaos {
        return refusal(StatusCode::FORBIDDEN, "chaos is switched off: set `chaos = true` under [shell] to allow it");
    }
    match api.control.kill(&body.id) {
        Ok(()) => Json(body).into_response(),
        Err(error) => refused(&error),
    }
}

pub(super) async fn stop(State(api): State<Api>, Json(body): Json<StopBody>) -> Response {
    switch(&api, move |file| file.pull(&body.reason)).await
}

pub(super) async fn go(State(api): State<Api>) -> Response {
    switch(&api, |file| file.release().map(drop)).await
}

/// Changes the file that stops everything, and answers with what it says now. The rooms look at it by themselves.
async fn switch(api: &Api, change: impl FnOnce(&StopFile) -> std::io::Result<()> + Send + 'static) -> Response {
    let file = StopFile::of(&api.home);
    let changed = tokio::task::spawn_blocking(move || change(&file).map(|()| file.stopped())).await;
    match changed {
        Ok(Ok(stop)) => Json(serde_json::json!({ "stopped": stop })).into_response(),
        Ok(Err(error)) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &format!("the stop file: {error}")),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_that_means_two_promotions_is_refused() {
        let (one, two) = (PromotionId::new("p-7f3a0000"), PromotionId::new("p-7f3b0000"));
        let ids = [&one, &two];
        assert_eq!(one_of("7f3a", &ids).unwrap(), &one);
        assert_eq!(one_of("p-7f3b0000", &ids).unwrap(), &two);
        assert!(one_of("7f3", &ids).is_err());
        assert!(one_of("", &ids).is_err());
        assert!(one_of("d-", &ids).is_err());
    }
}
