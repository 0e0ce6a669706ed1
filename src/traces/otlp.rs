//! Spans in the JSON encoding of OTLP 1.x (opentelemetry-proto, `ExportTraceServiceRequest`; ids are hexadecimal there, times strings of
//! nanoseconds since the Unix epoch).

use kloros_actors::facts::CycleId;
use serde_json::{Value, json};

use super::spans::{Event, Span, trace_id};

/// Something inside of a program, rather than a call from or to another one.
const KIND_INTERNAL: u8 = 1;

const STATUS_OK: u8 = 1;

const STATUS_ERROR: u8 = 2;

/// Returns the request that tells the trace of `cycle`.
pub(super) fn spelled(cycle: &CycleId, spans: &[Span]) -> String {
    let trace = trace_id(cycle);
    let (name, version) = ("kloros", env!("CARGO_PKG_VERSION"));
    let spans: Vec<Value> = spans.iter().map(|each| span(&trace, each)).collect();
    let resource = [("service.name", name), ("service.version", version)].map(|(key, value)| attribute(key, value));
    json!({"resourceSpans": [{
        "resource": {"attributes": resource},
        "scopeSpans": [{"scope": {"name": name, "version": version}, "spans": spans}],
    }]})
    .to_string()
}

fn span(trace: &str, span: &Span) -> Value {
    let status = match &span.failed {
        Some(why) => json!({"code": STATUS_ERROR, "message": why}),
        None => json!({"code": STATUS_OK}),
    };
    json!({
        "traceId": trace,
        "spanId": span.id,
        "parentSpanId": span.within.as_deref().unwrap_or_default(),
        "name": span.name,
        "kind": KIND_INTERNAL,
        "startTimeUnixNano": nanoseconds(span.begin_ms),
        "endTimeUnixNano": nanoseconds(span.end_ms),
        "attributes": span.attributes.iter().map(|(key, value)| attribute(key, value)).collect::<Vec<_>>(),
        "events": span.events.iter().map(event).collect::<Vec<_>>(),
        "status": status,
    })
}

fn event(event: &Event) -> Value {
    json!({
        "timeUnixNano": nanoseconds(event.at_ms),
        "name": event.name,
        "attributes": [attribute("kloros.says", &event.text)],
    })
}

fn attribute(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn nanoseconds(ms: u64) -> String {
    (u128::from(ms) * 1_000_000).to_string()
}
