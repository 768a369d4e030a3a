//! `llguidance` as [`super::Constraint`] needs it.
use super::ConstraintError;
use crate::tokenizer::Tokenizer;
use llguidance::{
    JsonCompileOptions, Matcher, ParserFactory,
    api::TopLevelGrammar,
    toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie},
};
use serde_json::Value;
use std::sync::Arc;

/// What the engine takes for the mark of a control token; no UTF-8 has this byte.
const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

/// Bytes of a schema, at most.
const BYTES_MAX: usize = 1 << 16;
/// Objects in a schema, at most.
const OBJECTS_MAX: usize = 1 << 10;
/// Stack of the thread that compiles a schema.
const STACK_BYTES: usize = 64 << 20;
/// Bytes of the longest token that may come under a schema; the engine takes no longer ones.
const WORD_MAX: usize = 1000;
/// Bytes of all tokens, at most; likewise.
const WORDS_MAX: usize = (1 << 22) - 1;

pub(super) struct Engine(Matcher);

impl Engine {
    pub(super) fn new(text: &str, tokenizer: &Tokenizer) -> Result<Self, ConstraintError> {
        let mut schema: Value =
            serde_json::from_str(text).map_err(|error| ConstraintError::NotJson {
                reason: error.to_string(),
            })?;
        if !schema.is_object() {
            return Err(ConstraintError::NotAnObject);
        }
        let objects = objects(&schema);
        if text.len() > BYTES_MAX || objects > OBJECTS_MAX {
            return Err(ConstraintError::TooLarge {
                bytes: text.len(),
                objects,
            });
        }
        let options = JsonCompileOptions {
            item_separator: ", ".to_owned(),
            key_separator: ": ".to_owned(),
            whitespace_flexible: false,
            ..JsonCompileOptions::default()
        };
        options.apply_to(&mut schema);
        let unusable = |error: &dyn std::fmt::Display| ConstraintError::Unusable {
            reason: first_line(error),
        };
        let tokens = tokens(tokenizer)?;
        let mut factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), &[])
            .map_err(|error| unusable(&error))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        // References may lead from one to the next as often as there are objects, and each takes stack.
        let compiled = std::thread::scope(|scope| {
            let compile = || factory.create_parser(TopLevelGrammar::from_json_schema(schema));
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
            let thread = thread.spawn_scoped(scope, compile);
            thread.map(|thread| thread.join())
        });
        let Ok(Ok(parser)) = compiled else {
            return Err(unusable(&"the grammar engine failed"));
        };
        let parser = parser.map_err(|error| unusable(&error))?;
        let matcher = Matcher::new(Ok(parser));
        match matcher.get_error() {
            Some(error) => Err(unusable(&error)),
            None => Ok(Self(matcher)),
        }
    }

    pub(super) fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        self.0
            .consume_token(token)
            .map_err(|error| exhausted(&error))
    }

    /// Marks the tokens that may come next; false when there are none.
    pub(super) fn allow(&mut self, allowed: &mut [bool]) -> Result<bool, ConstraintError> {
        allowed.fill(false);
        if self.0.is_stopped() {
            return match self.0.get_error() {
                Some(error) => Err(exhausted(&error)),
                None => Ok(false),
            };
        }
        let mask = self.0.compute_mask().map_err(|error| exhausted(&error))?;
        for (token, allowed) in (0..).zip(allowed.iter_mut()) {
            *allowed = mask.is_allowed(token);
        }
        Ok(allowed.contains(&true))
    }

    /// Whether the text is a value.
    pub(super) fn is_complete(&mut self) -> Result<bool, ConstraintError> {
        if self.0.is_stopped() {
            return Ok(true);
        }
        self.0.is_accepting().map_err(|error| exhausted(&error))
    }
}

/// The tokens as the engine wants them: without control tokens, and with one more that ends texts, so that the model may
/// have several such or none.
fn tokens(tokenizer: &Tokenizer) -> Result<TokEnv, ConstraintError> {
    let vocabulary = tokenizer.vocabulary() as u32;
    let mut words: Vec<Vec<u8>> = (0..vocabulary)
        .map(|token| match tokenizer.is_end(token) {
            true => Vec::new(),
            false => tokenizer.token_bytes(token),
        })
        .map(
            |word| match word.contains(&MARKER) || word.len() > WORD_MAX {
                true => Vec::new(),
                false => word,
            },
        )
        .collect();
    if words.iter().map(Vec::len).sum::<usize>() > WORDS_MAX {
        return Err(ConstraintError::Unusable {
            reason: "the vocabulary is too large".to_owned(),
        });
    }
    words.push(vec![MARKER, b'e']);
    let info = TokRxInfo::new(vocabulary + 1, vocabulary);
    Ok(Arc::new(ApproximateTokEnv::new(TokTrie::from(
        &info, &words,
    ))))
}

/// How many objects are in a schema.
fn objects(schema: &Value) -> usize {
    match schema {
        Value::Object(map) => 1 + map.values().map(objects).sum::<usize>(),
        Value::Array(list) => list.iter().map(objects).sum(),
        _ => 0,
    }
}

fn exhausted(error: &dyn std::fmt::Display) -> ConstraintError {
    ConstraintError::Exhausted {
        reason: first_line(error),
    }
}

fn first_line(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().trim().to_owned()
}
