use super::*;
use crate::{
    Ended, Generation, Model, Params, Prompt, Sampling, Steering, fixture,
    graph::Work,
    transcript::{Outcome, Transcript},
};
use lockstep_numeric::{Isa, Kernels, Pool};
use serde_json::{Value, json};
use std::{
    num::NonZeroUsize,
    sync::{Arc, LazyLock},
};

static MODEL: LazyLock<Arc<Model>> =
    LazyLock::new(|| Model::from_bytes(&fixture::tiny_llama(5).build()).unwrap());

fn kernels(isa: Isa, threads: usize) -> Arc<Kernels> {
    let pool = Pool::new(NonZeroUsize::new(threads).unwrap());
    Arc::new(Kernels::new(isa, Arc::new(pool)).unwrap())
}

/// A model of random weights writes anything: at this temperature, every allowed token is as good as the others.
fn params(schema: &Value, seed: u64) -> Params {
    Params {
        sampling: Sampling {
            temperature_milli: 5000,
            seed,
            ..Sampling::GREEDY
        },
        steering: Steering {
            schema: Some(schema.to_string()),
            ..Steering::default()
        },
        ..Params::default()
    }
}

fn prompt() -> Prompt {
    Prompt::Text("the users".to_owned())
}

fn schemas() -> Vec<Value> {
    let short = json!({ "type": "string", "maxLength": 4 });
    vec![
        json!({ "type": "boolean" }),
        json!({ "type": "integer", "minimum": -20, "maximum": 300 }),
        json!({ "enum": ["red", "green", 7, null] }),
        short.clone(),
        json!({
            "type": "object",
            "properties": {
                "zeta": { "type": "integer", "minimum": 0, "maximum": 99 },
                "alpha": short,
                "inner": {
                    "type": "object",
                    "properties": { "flag": { "type": "boolean" } },
                    "required": ["flag"],
                    "additionalProperties": false,
                },
            },
            "required": ["zeta", "alpha"],
            "additionalProperties": false,
        }),
        json!({
            "type": "array",
            "items": { "anyOf": [{ "type": "null" }, { "type": "integer", "minimum": 5, "maximum": 6 }] },
            "minItems": 1,
            "maxItems": 4,
        }),
    ]
}

/// Whether `value` is what the keywords of the schemas above allow; an unknown keyword is a fault of the test.
fn valid(schema: &Value, value: &Value) -> bool {
    let keyword =
        |(name, wanted): (&String, &Value)| {
            let length = || value.as_str().map(|text| text.chars().count() as u64);
            let items = || value.as_array().map(Vec::len).map(|len| len as u64);
            match name.as_str() {
                "type" => match wanted.as_str().unwrap() {
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_i64(),
                    "string" => value.is_string(),
                    "null" => value.is_null(),
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    unknown => panic!("{unknown}"),
                },
                "minimum" => value.as_i64() >= wanted.as_i64(),
                "maximum" => value.as_i64() <= wanted.as_i64(),
                "enum" => wanted.as_array().unwrap().contains(value),
                "maxLength" => length() <= wanted.as_u64(),
                "minItems" => items() >= wanted.as_u64(),
                "maxItems" => items() <= wanted.as_u64(),
                "items" => value
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|item| valid(wanted, item)),
                "anyOf" => wanted
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|one| valid(one, value)),
                "required" => wanted
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|name| value.get(name.as_str().unwrap()).is_some()),
                "properties" => value.as_object().unwrap().iter().all(|(name, value)| {
                    wanted.get(name).is_some_and(|schema| valid(schema, value))
                }),
                "additionalProperties" => wanted == &Value::Bool(false),
                unknown => panic!("{unknown}"),
            }
        };
    schema.as_object().unwrap().iter().all(keyword)
}

#[test]
fn a_random_model_writes_what_the_schema_allows() {
    let kernels = kernels(Isa::Portable, 1);
    for schema in schemas() {
        let mut texts = Vec::new();
        for seed in 0..12 {
            let (model, kernels) = (Arc::clone(&MODEL), Arc::clone(&kernels));
            let mut generation =
                Generation::start(model, kernels, &prompt(), params(&schema, seed)).unwrap();
            generation.advance(u32::MAX, Work::MAX).unwrap();
            let progress = generation.progress();
            let text = String::from_utf8(progress.text.clone()).unwrap();
            assert!(
                matches!(progress.ended, Some(Ended::Complete | Ended::EndOfText)),
                "{schema}: {text}"
            );
            let value: Value = serde_json::from_str(&text).unwrap();
            assert!(valid(&schema, &value), "{schema}: {text}");
            texts.push(text);
        }
        texts.sort();
        texts.dedup();
        assert!(texts.len() > 1, "{schema}: {texts:?}");
    }
}

#[test]
fn properties_come_in_the_order_of_the_schema() {
    let schema = json!({
        "type": "object",
        "properties": { "zeta": { "const": 1 }, "alpha": { "const": 2 } },
        "required": ["zeta", "alpha"],
        "additionalProperties": false,
    });
    // Written out, so that no map sorts it.
    let schema_text = r#"{"type":"object","properties":{"zeta":{"const":1},"alpha":{"const":2}},"required":["zeta","alpha"],"additionalProperties":false}"#;
    let mut params = params(&schema, 1);
    params.steering.schema = Some(schema_text.to_owned());
    let mut generation = Generation::start(
        Arc::clone(&MODEL),
        kernels(Isa::Portable, 1),
        &prompt(),
        params,
    )
    .unwrap();
    generation.advance(u32::MAX, Work::MAX).unwrap();
    let text = String::from_utf8_lossy(&generation.progress().text).into_owned();
    assert_eq!(text, r#"{"zeta": 1, "alpha": 2}"#);
    assert_eq!(generation.progress().ended, Some(Ended::Complete));
}

#[test]
fn threads_vector_widths_and_restarts_give_one_text() {
    let schema = &schemas()[4];
    let whole = {
        let kernels = kernels(Isa::Portable, 1);
        let mut generation =
            Generation::start(Arc::clone(&MODEL), kernels, &prompt(), params(schema, 3)).unwrap();
        generation.advance(u32::MAX, Work::MAX).unwrap();
        generation.progress().clone()
    };
    for isa in Isa::available() {
        for threads in 1..=3 {
            let kernels = kernels(isa, threads);
            let mut generation = Generation::start(
                Arc::clone(&MODEL),
                Arc::clone(&kernels),
                &prompt(),
                params(schema, 3),
            )
            .unwrap();
            while generation.progress().ended.is_none() {
                generation.advance(u32::MAX, 90_000).unwrap();
                generation = Generation::resume(
                    Arc::clone(&MODEL),
                    Arc::clone(&kernels),
                    &prompt(),
                    params(schema, 3),
                    generation.progress().clone(),
                )
                .unwrap();
            }
            assert_eq!(generation.progress(), &whole, "{isa} {threads}");
        }
    }
}

#[test]
fn a_transcript_under_a_schema_verifies_and_foreign_progress_is_refused() {
    let schema = &schemas()[4];
    let record = Transcript::record_with(
        Arc::clone(&MODEL),
        kernels(Isa::Portable, 2),
        prompt(),
        params(schema, 3),
        180,
        |_| (),
    )
    .unwrap();
    let read = Transcript::from_json(&record.to_json()).unwrap();
    assert_eq!(read, record);
    let verify = |transcript: &Transcript| {
        transcript
            .verify(Arc::clone(&MODEL), kernels(Isa::Portable, 1))
            .unwrap()
    };
    assert_eq!(verify(&read), Outcome::Equal);
    let mut other = read.clone();
    other.steering.schema = Some(schemas()[0].to_string());
    assert!(matches!(verify(&other), Outcome::Differs { .. }));

    let mut generation = Generation::start(
        Arc::clone(&MODEL),
        kernels(Isa::Portable, 1),
        &prompt(),
        params(schema, 3),
    )
    .unwrap();
    generation.advance(3, Work::MAX).unwrap();
    let mut progress = generation.progress().clone();
    progress.tokens[0] = MODEL
        .tokenizer()
        .encode("}", crate::tokenizer::Control::Spelled)[0];
    let error = Generation::resume(
        Arc::clone(&MODEL),
        kernels(Isa::Portable, 1),
        &prompt(),
        params(schema, 3),
        progress,
    )
    .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("a token that the schema does not allow"),
        "{error}"
    );
}

#[test]
fn schemas_that_cannot_be_followed_say_why() {
    let error = |schema: &str| {
        Constraint::new(schema, MODEL.tokenizer())
            .unwrap_err()
            .to_string()
    };
    assert!(error("{").starts_with("the schema is not JSON: "));
    assert_eq!(error("true"), "a schema is a JSON object");
    assert_eq!(error("[]"), "a schema is a JSON object");
    for unusable in [
        r#"{"type": "number", "minimum": 5, "maximum": 3}"#,
        r#"{"type": "thing"}"#,
        r#"{"type": "array", "uniqueItems": true}"#,
        r##"{"$ref": "#/definitions/missing"}"##,
        r#"{"$ref": "https://example.com/schema.json"}"#,
        r#"{"type": "string", "pattern": "("}"#,
        r#"{"maxLength": -1, "type": "string"}"#,
    ] {
        let error = error(unusable);
        assert!(
            error.starts_with("the schema cannot be used: ") && error.len() > 30,
            "{unusable}: {error}"
        );
        eprintln!("{error}");
    }
}

#[test]
fn schemas_and_tokens_beyond_all_measure_are_errors() {
    let chain = |length: usize| {
        let mut definitions = serde_json::Map::new();
        for index in 0..length {
            let next = match index + 1 < length {
                true => json!({ "$ref": format!("#/$defs/a{}", index + 1) }),
                false => json!({ "type": "boolean" }),
            };
            definitions.insert(format!("a{index}"), next);
        }
        json!({ "$ref": "#/$defs/a0", "$defs": definitions })
    };
    let start = |schema: &Value, model: &Arc<Model>| {
        let kernels = kernels(Isa::Portable, 1);
        let params = params(schema, 1);
        Generation::start(Arc::clone(model), kernels, &prompt(), params)
    };
    let error = start(&chain(3000), &MODEL).unwrap_err().to_string();
    assert!(error.starts_with("the schema is too large: "), "{error}");
    // As long as it may be: an answer or an error, but no end of the process.
    let _ = start(&chain(1000), &MODEL);
    // A token that the engine does not take is never allowed.
    let file = crate::fixture::tiny_llama(5);
    let gguf = file.build();
    let gguf = crate::gguf::Gguf::parse(&gguf).unwrap();
    let mut tokens = gguf.array("tokenizer.ggml.tokens").unwrap().to_vec();
    *tokens.last_mut().unwrap() = crate::gguf::Value::String("a".repeat(1100));
    let file = file
        .set("tokenizer.ggml.tokens", crate::gguf::Value::Array(tokens))
        .set(
            "tokenizer.ggml.merges",
            crate::gguf::Value::Array(Vec::new()),
        );
    let model = Model::from_bytes(&file.build()).unwrap();
    let mut generation = start(&json!({ "type": "boolean" }), &model).unwrap();
    generation.advance(u32::MAX, Work::MAX).unwrap();
    assert!(
        ["true", "false"]
            .map(str::as_bytes)
            .contains(&&*generation.progress().text)
    );
}

#[test]
fn a_banned_way_out_is_an_error() {
    let schema = json!({ "const": "}" });
    let mut params = params(&schema, 1);
    let ban = |token| (token, crate::Bias::Ban);
    params.steering.bias = (0..268).map(ban).collect();
    let mut generation = Generation::start(
        Arc::clone(&MODEL),
        kernels(Isa::Portable, 1),
        &prompt(),
        params,
    )
    .unwrap();
    for _ in 0..2 {
        let error = generation.advance(9, Work::MAX).unwrap_err();
        assert_eq!(error.to_string(), "no token may be chosen at token 0");
    }
}
