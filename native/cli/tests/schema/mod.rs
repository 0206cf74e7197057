//! As much of JSON Schema (2020-12) as the published schema uses. A keyword that is not known here is an error and
//! not passed over, so that each rule that is written down is checked.

use serde_json::Value;

/// What is wrong with a document by one of a schema's definitions; empty is good.
pub(crate) fn errors(schema: &Value, definition: &str, document: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    match schema["$defs"].get(definition) {
        Some(rule) => check(schema, rule, document, definition, &mut errors),
        None => errors.push(format!("no definition {definition}")),
    }
    errors
}

fn check(schema: &Value, rule: &Value, value: &Value, at: &str, errors: &mut Vec<String>) {
    let Some(rule) = rule.as_object() else { return errors.push(format!("{at}: no rule")) };
    for (keyword, wanted) in rule {
        let holds = match keyword.as_str() {
            "description" => true,
            "$ref" => {
                let name = wanted.as_str().and_then(|text| text.strip_prefix("#/$defs/"));
                match name.and_then(|name| schema["$defs"].get(name)) {
                    Some(rule) => {
                        check(schema, rule, value, at, errors);
                        true
                    }
                    None => false,
                }
            }
            "type" => match wanted {
                Value::Array(kinds) => kinds.iter().any(|kind| is(kind, value)),
                kind => is(kind, value),
            },
            "const" => wanted == value,
            "enum" => wanted.as_array().is_some_and(|all| all.contains(value)),
            "minimum" => value.as_i64().is_none_or(|number| Some(number) >= wanted.as_i64()),
            // The one pattern there is.
            "pattern" => {
                wanted == "^[0-9a-z]{7}$"
                    && value
                        .as_str()
                        .is_none_or(|text| leash_tag::RunId::parse(text.as_bytes()).is_some())
            }
            "minLength" => value
                .as_str()
                .is_none_or(|text| text.chars().count() as u64 >= wanted.as_u64().unwrap_or(0)),
            "maxLength" => value
                .as_str()
                .is_none_or(|text| text.chars().count() as u64 <= wanted.as_u64().unwrap_or(0)),
            "anyOf" => wanted.as_array().is_some_and(|rules| {
                rules.iter().any(|rule| {
                    let mut inner = Vec::new();
                    check(schema, rule, value, at, &mut inner);
                    inner.is_empty()
                })
            }),
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(schema, wanted, item, &format!("{at}[{index}]"), errors);
                }
                true
            }
            "properties" => {
                for (name, rule) in wanted.as_object().into_iter().flatten() {
                    if let Some(found) = value.get(name) {
                        check(schema, rule, found, &format!("{at}.{name}"), errors);
                    }
                }
                true
            }
            "required" => match value.as_object() {
                Some(object) => wanted
                    .as_array()
                    .into_iter()
                    .flatten()
                    .all(|name| name.as_str().is_some_and(|name| object.contains_key(name))),
                None => true,
            },
            "additionalProperties" => {
                let known = rule.get("properties").and_then(Value::as_object);
                let is_known = |name| known.is_some_and(|known| known.contains_key(name));
                *wanted == Value::Bool(false)
                    && value.as_object().is_none_or(|object| object.keys().all(is_known))
            }
            _ => false,
        };
        if !holds {
            errors.push(format!("{at}: {keyword} {wanted} does not hold for {value}"));
        }
    }
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => false,
    }
}
