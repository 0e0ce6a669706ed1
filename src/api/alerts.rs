//! Alerts of an Alertmanager: what others noticed about a domain is a reading of it, and the observer makes incidents of readings.
//!
//! `POST /alerts` takes the body of Alertmanager's webhook, version 4. Which domain an alert is about is said by the first of its
//! labels `kloros`, `domain`, `service` and `job` that names one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use kloros_actors::{circuit::Control, facts::Reading, seams::Clock};
use serde::{Deserialize, Serialize};

/// The largest body, in bytes.
pub(super) const BODY_BYTES_MAX: usize = 1024 * 1024;

/// How many alerts of one body are taken.
const ALERTS_MAX: usize = 200;

/// The longest name of an alert that is kept, in characters.
const NAME_MAX: usize = 48;

/// The labels that may name a domain, in the order in which they are asked.
const LABELS: [&str; 4] = ["kloros", "domain", "service", "job"];

/// The longest fingerprint that is kept as it is, in bytes; Alertmanager's have 16.
const FINGERPRINT_BYTES_MAX: usize = 64;

/// Of how many instances of one alert it is remembered that they fire; of more, the oldest are forgotten.
const INSTANCES_MAX: usize = 200;

/// How many alerts are remembered; of more, the oldest are forgotten.
const NAMES_MAX: usize = 1000;

/// For how long an instance is remembered of which nothing more is heard, in milliseconds: Alertmanager says again what fires, each four
/// hours unless it is told otherwise, and that it is over may have been said while nobody listened.
const REMEMBERED_MS: u64 = 24 * 3_600_000;

/// What the route needs.
#[derive(Clone)]
pub(crate) struct Alerts {
    pub(crate) control: Control,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) domains: Arc<Vec<String>>,
    pub(crate) firing: Arc<Mutex<Firing>>,
}

/// What fires: of each alert of each domain which instances, and when that was last said. Each group of Alertmanager comes in a body of its
/// own, so one body does not say of an alert that it is over.
#[derive(Debug, Default)]
pub(crate) struct Firing(BTreeMap<(String, String), BTreeMap<String, u64>>);

/// The body of the webhook, as far as it matters here; further keys come with new versions and change nothing.
#[derive(Debug, Deserialize)]
pub(super) struct Webhook {
    alerts: Vec<Alert>,
}

#[derive(Debug, Deserialize)]
struct Alert {
    status: String,
    labels: BTreeMap<String, String>,
    /// What tells instances of an alert apart; a hash of the labels.
    #[serde(default)]
    fingerprint: String,
}

/// What became of the alerts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Taken {
    /// How many were taken.
    pub(crate) taken: usize,
    /// How many were passed over: about no domain, about kloros itself, or too many.
    pub(crate) passed_over: usize,
}

/// Returns the route.
pub(crate) fn router(alerts: Alerts) -> Router {
    Router::new().route("/alerts", post(take)).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(alerts)
}

pub(super) async fn take(State(alerts): State<Alerts>, body: Result<Json<Webhook>, JsonRejection>) -> Response {
    let webhook = match body {
        Ok(Json(webhook)) => webhook,
        Err(why) => return super::refusal(StatusCode::BAD_REQUEST, &why.body_text()),
    };
    let (readings, taken) = {
        let mut firing = alerts.firing.lock().unwrap_or_else(PoisonError::into_inner);
        firing.hear(&webhook, &alerts.domains, alerts.clock.now_ms())
    };
    if let Err(error) = alerts.control.sense(readings) {
        return super::refused(&error);
    }
    Json(taken).into_response()
}

impl Firing {
    /// Returns what is to be said of `domains` after these alerts: 1 for one of which an instance fires, 0 for one of which none does.
    ///
    /// Alerts of one name about one domain are one reading: that one instance is well again is no reason to believe it of the others.
    fn hear(&mut self, webhook: &Webhook, domains: &[String], at_ms: u64) -> (Vec<Reading>, Taken) {
        let mut readings: Vec<Reading> = Vec::new();
        let mut taken = 0;
        for alert in webhook.alerts.iter().take(ALERTS_MAX) {
            let Some(reading) = reading(alert, domains, at_ms) else { continue };
            taken += 1;
            let reading = Reading { value: self.note(alert, &reading), ..reading };
            let is_same = |known: &&mut Reading| known.subject == reading.subject && known.metric == reading.metric;
            match readings.iter_mut().find(is_same) {
                // The newest word is about all instances.
                Some(known) => known.value = reading.value,
                None => readings.push(reading),
            }
        }
        (readings, Taken { taken, passed_over: webhook.alerts.len() - taken })
    }

    /// Takes what was said of one instance, and returns 1 if any of the same alert fires now, else 0.
    fn note(&mut self, alert: &Alert, Reading { subject, metric, value, at_ms, .. }: &Reading) -> f64 {
        let key = (subject.clone(), metric.clone());
        let instances = self.0.entry(key.clone()).or_default();
        instances.retain(|_, said_ms| at_ms.saturating_sub(*said_ms) < REMEMBERED_MS);
        if *value > 0.0 {
            instances.insert(alert.instance(), *at_ms);
        } else {
            instances.remove(&alert.instance());
        }
        while instances.len() > INSTANCES_MAX {
            let oldest = instances.iter().min_by_key(|(_, said_ms)| **said_ms).map(|(instance, _)| instance.clone());
            oldest.and_then(|oldest| instances.remove(&oldest));
        }
        let fires = !instances.is_empty();
        if !fires {
            self.0.remove(&key);
        }
        while self.0.len() > NAMES_MAX {
            let newest = |instances: &BTreeMap<String, u64>| instances.values().max().copied();
            let oldest = self.0.iter().min_by_key(|(_, instances)| newest(instances)).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        f64::from(u8::from(fires))
    }
}

impl Alert {
    /// Returns what tells it from others of its name.
    fn instance(&self) -> String {
        if !self.fingerprint.is_empty() && self.fingerprint.len() <= FINGERPRINT_BYTES_MAX {
            return self.fingerprint.clone();
        }
        let labels: Vec<&str> = self.labels.iter().flat_map(|(name, value)| [name.as_str(), value]).collect();
        kloros_actors::facts::short_hash(&labels)
    }
}

fn reading(alert: &Alert, domains: &[String], at_ms: u64) -> Option<Reading> {
    let alertname = alert.labels.get("alertname")?;
    let metric = metric(alertname)?;
    let named = LABELS.iter().filter_map(|label| alert.labels.get(*label));
    let subject = named.into_iter().find(|value| domains.contains(value))?.clone();
    let value = match alert.status.as_str() {
        "firing" => 1.0,
        "resolved" => 0.0,
        _ => return None,
    };
    let source = format!("alertmanager:{}", alertname.chars().take(NAME_MAX).collect::<String>());
    Some(Reading { subject, metric, value, samples: 1, at_ms, source })
}

/// Returns the metric that an alert of this name is read as; `None` where it has no name, or is about kloros itself.
fn metric(alertname: &str) -> Option<String> {
    let plain = |each: char| if each.is_ascii_alphanumeric() { each.to_ascii_lowercase() } else { '_' };
    let name: String = alertname.chars().take(NAME_MAX).map(plain).collect();
    // What our own metrics raise is our own doing (lesson 22).
    (!name.is_empty() && !name.starts_with("kloros")).then(|| format!("alert_{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str) -> (Vec<(String, String, f64)>, Taken) {
        heard(&mut Firing::default(), text, 7)
    }

    fn heard(firing: &mut Firing, text: &str, at_ms: u64) -> (Vec<(String, String, f64)>, Taken) {
        let webhook: Webhook = serde_json::from_str(text).unwrap();
        let (readings, taken) = firing.hear(&webhook, &["chat".to_owned(), "tts".to_owned()], at_ms);
        let told = |reading: Reading| (reading.subject, reading.metric, reading.value);
        (readings.into_iter().map(told).collect(), taken)
    }

    #[test]
    fn the_body_of_the_webhook_becomes_readings_of_the_domains_that_it_names() {
        let (readings, taken) = taken(
            r#"{"version": "4", "groupKey": "{}", "status": "firing", "receiver": "kloros", "truncatedAlerts": 0, "alerts": [
                {"status": "firing", "labels": {"alertname": "HighLatency-P95", "service": "chat", "severity": "page"},
                 "annotations": {"summary": "slow"}, "startsAt": "2026-01-01T00:00:00Z", "endsAt": "0001-01-01T00:00:00Z",
                 "generatorURL": "http://prometheus/graph", "fingerprint": "a1"},
                {"status": "resolved", "labels": {"alertname": "Errors", "job": "somewhere", "domain": "tts"}},
                {"status": "firing", "labels": {"alertname": "Errors", "job": "somewhere"}},
                {"status": "firing", "labels": {"job": "chat"}},
                {"status": "pending", "labels": {"alertname": "Errors", "job": "chat"}}]}"#,
        );
        let expected = [("chat", "alert_highlatency_p95", 1.0), ("tts", "alert_errors", 0.0)]
            .map(|(subject, metric, value)| (subject.to_owned(), metric.to_owned(), value));
        assert_eq!(readings, expected);
        assert_eq!(taken, Taken { taken: 2, passed_over: 3 });
    }

    /// The readings of one body have one moment, and the first of a name was the one that counted.
    #[test]
    fn an_alert_fires_as_long_as_one_instance_of_it_does() {
        let alert = |status: &str, instance: &str| {
            format!(
                r#"{{"status": "{status}", "labels": {{"alertname": "Errors", "job": "chat", "instance": "{instance}"}}}}"#
            )
        };
        let table = [(["resolved", "firing"], 1.0), (["firing", "resolved"], 1.0), (["resolved", "resolved"], 0.0)];
        for ([first, second], value) in table {
            let (readings, taken) = taken(&format!(r#"{{"alerts": [{}, {}]}}"#, alert(first, "a"), alert(second, "b")));
            assert_eq!(readings, [("chat".to_owned(), "alert_errors".to_owned(), value)], "{first} {second}");
            assert_eq!(taken, Taken { taken: 2, passed_over: 0 });
        }
    }

    /// Groups come in bodies of their own, and the end of one was taken for the end of all.
    #[test]
    fn an_instance_that_is_well_again_says_nothing_of_another_groups() {
        let body = |status: &str, fingerprint: &str| {
            format!(
                r#"{{"alerts": [{{"status": "{status}", "labels": {{"alertname": "Errors", "job": "chat"}}, "fingerprint": "{fingerprint}"}}]}}"#
            )
        };
        let mut firing = Firing::default();
        let mut says = |status, fingerprint, at_ms| heard(&mut firing, &body(status, fingerprint), at_ms).0[0].2;
        assert_eq!((says("firing", "a", 1), says("firing", "b", 2)), (1.0, 1.0));
        assert_eq!((says("resolved", "b", 3), says("resolved", "b", 4)), (1.0, 1.0));
        assert_eq!((says("resolved", "a", 5), says("resolved", "c", 6)), (0.0, 0.0));
        // That it was over was said while nobody listened.
        assert_eq!(says("firing", "a", 7), 1.0);
        assert_eq!(says("resolved", "b", REMEMBERED_MS + 7), 0.0);
        assert!(firing.0.is_empty());
    }

    #[test]
    fn of_a_flood_of_instances_and_names_the_newest_are_remembered() {
        let alert = |name: &str, fingerprint: String| {
            format!(
                r#"{{"status": "firing", "labels": {{"alertname": "{name}", "job": "chat"}}, "fingerprint": "{fingerprint}"}}"#
            )
        };
        let mut firing = Firing::default();
        for at_ms in 0..2000 {
            let text = format!(
                r#"{{"alerts": [{}, {}]}}"#,
                alert("Errors", format!("{at_ms}")),
                alert(&format!("n{at_ms}"), "f".repeat(1000))
            );
            heard(&mut firing, &text, at_ms);
        }
        assert_eq!(firing.0.len(), NAMES_MAX);
        let errors = &firing.0[&("chat".to_owned(), "alert_errors".to_owned())];
        assert!(errors.len() == INSTANCES_MAX && errors.contains_key("1999"));
        assert!(firing.0.values().flat_map(BTreeMap::keys).all(|instance| instance.len() <= FINGERPRINT_BYTES_MAX));
    }

    /// Lesson 22: what our own metrics raise is our own doing.
    #[test]
    fn alerts_about_kloros_itself_are_passed_over() {
        let (readings, _) =
            taken(r#"{"alerts": [{"status": "firing", "labels": {"alertname": "KlorosDown", "job": "chat"}}]}"#);
        assert_eq!(readings, []);
    }

    #[test]
    fn a_flood_in_one_body_is_cut_and_names_are_bounded() {
        let alert =
            format!(r#"{{"status": "firing", "labels": {{"alertname": "{}", "job": "chat"}}}}"#, "é".repeat(5000));
        let (readings, taken) = taken(&format!(r#"{{"alerts": [{}]}}"#, vec![alert; 500].join(",")));
        assert_eq!(taken, Taken { taken: 200, passed_over: 300 });
        assert!(readings.iter().all(|(_, metric, _)| metric.len() <= NAME_MAX + 6));
    }
}
