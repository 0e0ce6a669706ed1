//! Holds data against a schema of the description, as far as the description goes.

use serde_json::Value;

/// Returns where `data` is not what `schema` says, each with its place.
pub(crate) fn breaches(root: &Value, schema: &Value, data: &Value, place: &str) -> Vec<String> {
    if let Some(named) = schema["$ref"].as_str() {
        let pointer = named.strip_prefix('#').unwrap();
        let found = root.pointer(pointer).unwrap_or_else(|| panic!("{named} is nowhere"));
        return breaches(root, found, data, place);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let all: Vec<Vec<String>> = any.iter().map(|each| breaches(root, each, data, place)).collect();
        return if all.iter().any(Vec::is_empty) { Vec::new() } else { all.concat() };
    }
    let mut found = Vec::new();
    if let Some(kind) = schema["type"].as_str()
        && !is_of(kind, data)
    {
        return vec![format!("{place} is no {kind}: {data}")];
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(data)
    {
        found.push(format!("{place} is none of {allowed:?}: {data}"));
    }
    for (bound, is_beyond) in [("minimum", -1.0), ("maximum", 1.0)] {
        if let (Some(bound), Some(number)) = (schema[bound].as_f64(), data.as_f64())
            && (number - bound) * is_beyond > 0.0
        {
            found.push(format!("{place} is beyond {bound}: {number}"));
        }
    }
    if let (Some(items), Some(list)) = (schema.get("items"), data.as_array()) {
        for (index, each) in list.iter().enumerate() {
            found.extend(breaches(root, items, each, &format!("{place}[{index}]")));
        }
    }
    if let Some(object) = data.as_object() {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            found.extend((!object.contains_key(name)).then(|| format!("{place}.{name} is missing")));
        }
        for (name, each) in object {
            let place = format!("{place}.{name}");
            match (schema["properties"].get(name), &schema["additionalProperties"]) {
                (Some(schema), _) => found.extend(breaches(root, schema, each, &place)),
                (None, Value::Bool(false)) => found.push(format!("{place} is not described")),
                (None, Value::Object(_)) => found.extend(breaches(root, &schema["additionalProperties"], each, &place)),
                (None, _) => {}
            }
        }
    }
    found
}

fn is_of(kind: &str, data: &Value) -> bool {
    match kind {
        "object" => data.is_object(),
        "array" => data.is_array(),
        "string" => data.is_string(),
        "integer" => data.is_u64() || data.is_i64(),
        "number" => data.is_number(),
        "boolean" => data.is_boolean(),
        "null" => data.is_null(),
        other => panic!("no such type: {other}"),
    }
}

#[test]
fn what_a_schema_forbids_is_found() {
    let root = serde_json::json!({"components": {"schemas": {"Name": {"type": "string"}}}});
    let schema = serde_json::json!({"type": "object", "required": ["id"], "additionalProperties": false, "properties": {
        "id": {"$ref": "#/components/schemas/Name"}, "at": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]},
        "all": {"type": "array", "items": {"enum": ["a"]}}}});
    for (data, expected) in [
        (serde_json::json!({"id": "x", "at": null, "all": ["a"]}), 0),
        (serde_json::json!({}), 1),
        (serde_json::json!({"id": 1}), 1),
        (serde_json::json!({"id": "x", "at": -1}), 2),
        (serde_json::json!({"id": "x", "all": ["a", "b"]}), 1),
        (serde_json::json!({"id": "x", "more": 1}), 1),
        (serde_json::json!([]), 1),
    ] {
        assert_eq!(breaches(&root, &schema, &data, "it").len(), expected, "{data}");
    }
}
