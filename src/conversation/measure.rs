use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use futures::{StreamExt as _, stream};
use rand::{SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};
use serde_json::{Value, json};

use super::{
    EXPLAIN_HEADER, NAME_HEADER,
    exchange::PATH,
    rehearsal::{self, Asked, Compared, Conversation, Pair, REPEATS},
};
use crate::bench::sse::Parser;

/// How an instance is measured.
#[derive(Clone, Debug)]
pub(crate) struct Measurement {
    /// Its port on loopback.
    pub(crate) port: u16,
    /// Which model is asked; the first that there is where none is named.
    pub(crate) model: Option<String>,
    /// How many ask at the same time.
    pub(crate) clients: usize,
    /// How many conversations are asked in; all where none is named.
    pub(crate) asks: Option<usize>,
    /// In which order they are asked in, and in which of them.
    pub(crate) seed: u64,
    /// How long an answer may take.
    pub(crate) within: Duration,
}

/// What came of one question.
struct Answered {
    first_ms: f64,
    whole_ms: f64,
    /// Whether what an answer needs was put before the model.
    is_recalled: bool,
    /// Whether the answer says it.
    is_said: bool,
    /// Whether the answer came to its own end.
    is_finished: bool,
    /// How many characters were put before the model.
    told_chars: f64,
}

/// Asks in conversations that an instance was given to be measured with, and returns what came of it, each number under its name:
/// `e2e_p50_ms`, `e2e_p95_ms`, `ttft_p50_ms`, `ttft_p95_ms` until the whole answer and its first word; `answers_per_s`; `error_ratio`;
/// `recall`, in which share of the questions the turn that the answer needs was put before the model; `answered`, in which share the
/// answer says what was asked for; `finished`, which share of the answers was not cut off; `repetition_f1`, how well answers that
/// repeat are told from others; and `context_chars`, how much was put before the model.
///
/// Fails where nobody answers at all, and where the instance was not given those conversations: no other one is asked anything.
pub(crate) async fn measure(measurement: &Measurement) -> anyhow::Result<BTreeMap<&'static str, f64>> {
    let Measurement { port, model, clients, asks, seed, within } = measurement;
    let url = format!("http://127.0.0.1:{port}");
    let http = reqwest::Client::builder().no_proxy().timeout(*within).build()?;
    let repetition_f1 =
        repetitions(&http, &url, &rehearsal::pairs().context("the pairs that ship cannot be read")?).await?;
    let model = match model {
        Some(model) => model.clone(),
        None => first_model(&http, &url).await?,
    };
    let set = rehearsal::set().context("the conversations that ship cannot be read")?;
    let mut order: Vec<usize> = (0..set.conversations.len()).collect();
    order.shuffle(&mut SmallRng::seed_from_u64(*seed));
    order.truncate(asks.unwrap_or(order.len()));
    let began = Instant::now();
    let asking = order.iter().map(|number| ask(&http, &url, &model, *number, &set.conversations[*number]));
    let all: Vec<anyhow::Result<Answered>> = stream::iter(asking).buffer_unordered(*clients).collect().await;
    let took_s = began.elapsed().as_secs_f64();
    let count = all.len() as f64;
    let (answers, failures): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    let answers: Vec<Answered> = answers.into_iter().flatten().collect();
    if answers.is_empty() {
        let why = failures.into_iter().find_map(Result::err).context("no conversation was asked in")?;
        return Err(why.context("nobody was answered"));
    }
    let of = |value: &dyn Fn(&Answered) -> f64| answers.iter().map(value).collect::<Vec<f64>>();
    let share = |is_so: &dyn Fn(&Answered) -> bool| answers.iter().filter(|each| is_so(each)).count() as f64 / count;
    let (wholes, firsts) = (of(&|each| each.whole_ms), of(&|each| each.first_ms));
    Ok(BTreeMap::from([
        ("e2e_p50_ms", quantile(wholes.clone(), 0.5)),
        ("e2e_p95_ms", quantile(wholes, 0.95)),
        ("ttft_p50_ms", quantile(firsts.clone(), 0.5)),
        ("ttft_p95_ms", quantile(firsts, 0.95)),
        ("answers_per_s", answers.len() as f64 / took_s),
        ("error_ratio", failures.len() as f64 / count),
        ("recall", share(&|each| each.is_recalled)),
        ("answered", share(&|each| each.is_said)),
        ("finished", share(&|each| each.is_finished)),
        ("repetition_f1", repetition_f1),
        ("context_chars", of(&|each| each.told_chars).iter().sum::<f64>() / answers.len() as f64),
    ]))
}

/// Returns the nearest rank; what is ranked is not empty.
fn quantile(mut samples: Vec<f64>, rank: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[((rank * samples.len() as f64).ceil() as usize).clamp(1, samples.len()) - 1]
}

/// Returns the harmonic mean of how many of those called repetitions are some, and how many repetitions are called so.
async fn repetitions(http: &reqwest::Client, url: &str, pairs: &[Pair]) -> anyhow::Result<f64> {
    let (mut right, mut called, mut all) = (0.0, 0.0, 0.0);
    for Pair { earlier, answer, repeats } in pairs {
        let body = Asked { earlier: earlier.clone(), answer: answer.clone() };
        let response = http.post(format!("{url}{REPEATS}")).json(&body).send().await;
        let response = response.with_context(|| format!("nobody answers at {url}"))?;
        if !response.status().is_success() {
            bail!(
                "what answers at {url} is no endpoint for measurements, as `kloros conversation trial` serves it, and no other is measured"
            );
        }
        let Compared { repeats: called_so } = response.json().await.context("the comparison cannot be read")?;
        let one = |is_so: bool| f64::from(u8::from(is_so));
        right += one(called_so && *repeats);
        called += one(called_so);
        all += one(*repeats);
    }
    Ok(2.0 * right / f64::max(called + all, 1.0))
}

async fn first_model(http: &reqwest::Client, url: &str) -> anyhow::Result<String> {
    let models = http.get(format!("{url}/v1/models")).send().await.context("the models cannot be listed")?;
    let models: Value = models.json().await.context("the list of models cannot be read")?;
    models["data"][0]["id"].as_str().map(str::to_owned).context("the model server has no model: name one with --model")
}

/// Asks what is asked in a conversation, and listens to the whole answer.
async fn ask(
    http: &reqwest::Client,
    url: &str,
    model: &str,
    number: usize,
    conversation: &Conversation,
) -> anyhow::Result<Answered> {
    let body = json!({"model": model, "stream": true, "messages": [{"role": "user", "content": conversation.ask}]});
    let request = http.post(format!("{url}{PATH}")).json(&body);
    let request = request.header(NAME_HEADER, rehearsal::name(number)).header(EXPLAIN_HEADER, "1");
    let began = Instant::now();
    let mut response = request.send().await.context("no answer")?;
    if !response.status().is_success() {
        bail!("it was answered with {}", response.status());
    }
    let (mut parser, mut heard) = (Parser::default(), Heard::default());
    while let Some(bytes) = response.chunk().await.context("the answer broke off")? {
        for event in parser.push(&bytes)? {
            heard.take(&event, began);
        }
    }
    heard.judge(&conversation.needed, began)
}

/// What was heard of an answer.
#[derive(Default)]
struct Heard {
    told: Value,
    text: String,
    first: Option<Duration>,
    end: Option<String>,
    has_error: bool,
    is_over: bool,
}

impl Heard {
    fn take(&mut self, event: &str, began: Instant) {
        if event.trim() == "[DONE]" {
            self.is_over = true;
            return;
        }
        let Ok(mut event) = serde_json::from_str::<Value>(event) else { return };
        if event["kloros"].is_object() {
            self.told = event["kloros"].take();
            return;
        }
        self.has_error |= !event["error"].is_null();
        let choice = &event["choices"][0];
        if let Some(piece) = choice["delta"]["content"].as_str().filter(|piece| !piece.is_empty()) {
            self.first.get_or_insert_with(|| began.elapsed());
            self.text.push_str(piece);
        }
        if let Some(end) = choice["finish_reason"].as_str() {
            self.end = Some(end.to_owned());
        }
    }

    fn judge(self, needed: &str, began: Instant) -> anyhow::Result<Answered> {
        if self.has_error || !self.is_over {
            bail!("the answer is not whole");
        }
        let whole = began.elapsed();
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        let events = self.told["context"].as_array().into_iter().flatten().filter_map(|event| event["text"].as_str());
        let mut told = events.chain(self.told["summary"].as_str());
        Ok(Answered {
            first_ms: ms(self.first.unwrap_or(whole)),
            whole_ms: ms(whole),
            is_recalled: told.any(|text| text.contains(needed)),
            is_said: self.text.to_lowercase().contains(&needed.to_lowercase()),
            is_finished: self.end.as_deref() != Some("length"),
            told_chars: self.told["characters"].as_f64().unwrap_or(0.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(events: &[Value]) -> anyhow::Result<Answered> {
        let (mut heard, began) = (Heard::default(), Instant::now());
        for event in events {
            heard.take(&event.as_str().map_or_else(|| event.to_string(), str::to_owned), began);
        }
        heard.judge("4711", began)
    }

    fn piece(text: &str) -> Value {
        json!({"choices": [{"delta": {"content": text}}]})
    }

    #[test]
    fn an_answer_is_judged_by_what_it_was_told_what_it_says_and_how_it_ends() {
        let told = json!({"kloros": {"context": [{"text": "it is 4711"}], "summary": null, "characters": 17}});
        let ended = |how: &str| json!({"choices": [{"delta": {}, "finish_reason": how}]});
        let done = json!("[DONE]");
        let all = |answer: Answered| (answer.is_recalled, answer.is_said, answer.is_finished, answer.told_chars);
        let whole = [told.clone(), piece("The code is 47"), piece("11."), ended("stop"), done.clone()];
        assert_eq!(all(judged(&whole).unwrap()), (true, true, true, 17.0));
        let cut = [piece("The code"), ended("length"), done.clone()];
        assert_eq!(all(judged(&cut).unwrap()), (false, false, false, 0.0));
        let summed_up = json!({"kloros": {"context": [], "summary": "user: it is 4711", "characters": 20}});
        assert!(judged(&[summed_up, piece("x"), done.clone()]).unwrap().is_recalled);
        assert!(judged(&[told.clone(), piece("4711")]).is_err(), "it broke off");
        assert!(judged(&[piece("4711"), json!({"error": {"message": "out of memory"}}), done]).is_err());
    }

    #[test]
    fn what_ships_to_be_measured_with_can_be_read_and_is_enough_to_tell() {
        let (set, pairs) = (rehearsal::set().unwrap(), rehearsal::pairs().unwrap());
        assert!(set.conversations.len() >= 60 && pairs.len() >= 30, "{} {}", set.conversations.len(), pairs.len());
        for (number, conversation) in set.conversations.iter().enumerate() {
            let told = rehearsal::told(&set, conversation, number);
            assert!(told.iter().any(|said| said.text.contains(&conversation.needed)), "{}", conversation.ask);
            assert!(!conversation.ask.contains(&conversation.needed), "{}", conversation.ask);
        }
    }
}
