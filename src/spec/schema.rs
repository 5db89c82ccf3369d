//! The JSON Schema of a pipeline file, for editors: that of the types, plus what [`super::load`] accepts beyond them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use super::Document;

/// The JSON Schema of a pipeline file (draft 2020-12).
pub fn json_schema() -> Value {
    let mut schema = of_types();
    let incomplete = incomplete(&schema);
    if let Some(defs) = schema.get_mut("$defs").and_then(Value::as_object_mut) {
        for (name, def) in defs.iter_mut() {
            match name.as_str() {
                // A stage is no bare name: each kind has settings that cannot be left out.
                "StageSpec" => sql_as_text(def),
                "Deployment" => {
                    // The sweep may set what is missing.
                    def.as_object_mut().and_then(|d| d.remove("required"));
                    widen(def, &incomplete);
                }
                _ => widen(def, &incomplete),
            }
        }
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, property) in properties.iter_mut() {
            if name == "stages" {
                property["propertyNames"] = json!({ "pattern": "^[a-z][a-z0-9_]*$" });
                property["minProperties"] = json!(1);
            } else {
                widen(property, &incomplete);
            }
        }
    }
    schema["title"] = json!("A pipeline of pipe");
    schema
}

fn of_types() -> Value {
    schemars::schema_for!(Document).to_value()
}

/// Whether a key of this name holds a choice among implementations, as `scheduler` does.
pub(super) fn is_choice(key: &str) -> bool {
    static CHOICES: OnceLock<BTreeSet<String>> = OnceLock::new();
    let choices = CHOICES.get_or_init(|| {
        let schema = of_types();
        let is_enum = |def: &Value| def.get("oneOf").is_some() || def.get("enum").is_some();
        let defs = schema.get("$defs").and_then(Value::as_object);
        let enums =
            defs.into_iter().flatten().filter(|(_, def)| is_enum(def)).map(|(name, _)| reference(name)).collect();
        let mut keys = BTreeSet::new();
        choices_below(&schema, &enums, &mut keys);
        keys
    });
    choices.contains(key)
}

fn reference(def: &str) -> String {
    format!("#/$defs/{def}")
}

/// Collects the properties whose schema refers to one of `enums`.
fn choices_below(schema: &Value, enums: &BTreeSet<String>, keys: &mut BTreeSet<String>) {
    let refers = |schema: &Value| {
        let direct = schema.get("$ref");
        let optional =
            schema.get("anyOf").and_then(Value::as_array).into_iter().flatten().filter_map(|s| s.get("$ref"));
        optional.chain(direct).filter_map(Value::as_str).any(|r| enums.contains(r))
    };
    match schema {
        Value::Object(object) => {
            for (name, property) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
                if refers(property) {
                    keys.insert(name.clone());
                }
            }
            object.values().for_each(|v| choices_below(v, enums, keys));
        }
        Value::Array(items) => items.iter().for_each(|v| choices_below(v, enums, keys)),
        _ => {}
    }
}

/// Definitions with required keys, by reference: a choice with such settings is no bare name.
fn incomplete(schema: &Value) -> BTreeMap<String, bool> {
    let defs = schema.get("$defs").and_then(Value::as_object);
    let required = |def: &Value| def.get("required").and_then(Value::as_array).is_some_and(|r| !r.is_empty());
    defs.into_iter().flatten().map(|(name, def)| (reference(name), required(def))).collect()
}

fn sql_as_text(stage: &mut Value) {
    for kind in stage.get_mut("oneOf").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(sql) = kind.get_mut("properties").and_then(|p| p.get_mut("sql")) {
            *sql = json!({ "anyOf": [sql.take(), { "type": "string" }] });
        }
    }
}

fn parameter() -> Value {
    json!({ "type": "string", "pattern": "\\$\\{" })
}

/// Accepts `${name}` where a number, a truth value, a list or a choice is wanted, and bare names of choices.
fn widen(schema: &mut Value, incomplete: &BTreeMap<String, bool>) {
    let Some(object) = schema.as_object_mut() else { return };
    for (key, value) in object.iter_mut() {
        match (key.as_str(), value) {
            ("properties" | "$defs" | "patternProperties", Value::Object(schemas)) => {
                schemas.values_mut().for_each(|s| widen(s, incomplete));
            }
            ("anyOf" | "oneOf" | "allOf" | "prefixItems", Value::Array(schemas)) => {
                schemas.iter_mut().for_each(|s| widen(s, incomplete));
            }
            ("items" | "additionalProperties" | "not", value) => widen(value, incomplete),
            _ => {}
        }
    }
    if let Some(Value::Array(choices)) = object.remove("oneOf") {
        let bare: Vec<Value> = choices.iter().filter_map(|c| bare_choice(c, incomplete)).collect();
        let all = choices.into_iter().chain(bare).chain([parameter()]).collect();
        object.insert("anyOf".into(), Value::Array(all));
    } else if is_scalar_or_list(object) {
        *schema = or_parameter(std::mem::take(object));
    }
}

/// `{ vllm_v1: {..} }` is also written `vllm_v1`, when all of its settings may be left out.
fn bare_choice(choice: &Value, incomplete: &BTreeMap<String, bool>) -> Option<Value> {
    let properties = choice.get("properties")?.as_object()?;
    let (name, settings) = properties.iter().next()?;
    let needs_settings = match settings.get("$ref").and_then(Value::as_str) {
        Some(reference) => incomplete.get(reference).copied().unwrap_or(true),
        None => settings.get("type").and_then(Value::as_str) != Some("object") || settings.get("required").is_some(),
    };
    (!needs_settings).then(|| json!({ "type": "string", "const": name }))
}

fn is_scalar_or_list(object: &Map<String, Value>) -> bool {
    let wide = |t: &str| matches!(t, "integer" | "number" | "boolean" | "array");
    match object.get("type") {
        Some(Value::String(t)) => wide(t) || (t == "string" && object.contains_key("enum")),
        Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).any(wide),
        _ => false,
    }
}

/// The schema or a parameter; what describes it stays outside, where editors look.
fn or_parameter(mut schema: Map<String, Value>) -> Value {
    let mut outer = Map::new();
    for key in ["title", "description", "default"] {
        if let Some(value) = schema.remove(key) {
            outer.insert(key.into(), value);
        }
    }
    outer.insert("anyOf".into(), json!([schema, parameter()]));
    Value::Object(outer)
}
