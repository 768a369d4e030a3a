//! What a checkpoint's `tokenizer.json` and the files beside it are in a GGUF file's metadata.
//!
//! # Design
//! Three kinds of tokenizers are told apart: byte-level BPE, whose way of cutting must be one of those that
//! [`crate::tokenizer`] knows by name; BPE that falls back to bytes, which is SentencePiece's, its scores made of the order
//! of the merges; and unigrams. Whatever else a tokenizer does to a text is refused by name.
mod special;
mod words;

use super::{CheckpointError, Config, Files, TOKENIZER, missing, unsupported};
use crate::{gguf::Value, tokenizer};
use serde::Deserialize;
use serde_json::Value as Json;
use special::Special;
use std::collections::{BTreeMap, btree_map::Entry};
use words::Spaces;

/// Token types of a GGUF file.
const TEXT: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Json>,
    pre_tokenizer: Option<Json>,
    post_processor: Option<Json>,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: Json,
    merges: Option<Vec<Merge>>,
    unk_token: Option<String>,
    unk_id: Option<u32>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    dropout: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Text(String),
    Pair(String, String),
}

impl Merge {
    fn parts(&self) -> Option<(&str, &str)> {
        match self {
            Self::Text(text) => text.split_once(' '),
            Self::Pair(left, right) => Some((left, right)),
        }
    }
}

/// `tokenizer.*`, for an embedding of so many rows.
pub(super) fn metadata(
    files: &Files<'_>,
    config: &Config<'_>,
    rows: usize,
) -> Result<Vec<(String, Value)>, CheckpointError> {
    let bytes = files.get(TOKENIZER).ok_or_else(|| missing(TOKENIZER))?;
    let file: File = serde_json::from_slice(bytes).map_err(|source| CheckpointError::Json {
        file: TOKENIZER.to_owned(),
        source,
    })?;
    let mut vocabulary = Vocabulary::read(&file, rows)?;
    let mut metadata = vec![];
    let mut set = |key: &str, value: Value| metadata.push((format!("tokenizer.{key}"), value));
    let text = |text: &str| Value::String(text.to_owned());
    let normalizer = file.normalizer.as_ref();
    let cutting = file.pre_tokenizer.as_ref();
    let merges = file.model.merges.as_deref().unwrap_or_default();
    match (file.model.kind.as_deref().unwrap_or("BPE"), &file.model) {
        ("BPE", model) => {
            for affix in [&model.continuing_subword_prefix, &model.end_of_word_suffix] {
                if affix.as_ref().is_some_and(|affix| !affix.is_empty()) {
                    return Err(unsupported(
                        "affixes of words (tokenizer.json model)".to_owned(),
                    ));
                }
            }
            if model.dropout.is_some_and(|dropout| dropout != 0.0) {
                return Err(unsupported(
                    "merges left out at random (tokenizer.json model)".to_owned(),
                ));
            }
            if model.byte_fallback {
                let spaces = Spaces::read(normalizer, cutting)?;
                let scores = merged_scores(merges, &vocabulary)?;
                set("ggml.model", text(tokenizer::SENTENCEPIECE));
                set("ggml.scores", scores);
                set("ggml.add_space_prefix", Value::Bool(spaces.first));
            } else {
                set("ggml.model", text(tokenizer::BYTE_LEVEL));
                set(
                    "ggml.pre",
                    text(words::named(normalizer, cutting, model.ignore_merges)?),
                );
                set("ggml.merges", spelled_merges(merges)?);
            }
        }
        ("Unigram", _) => {
            let spaces = Spaces::read(normalizer, cutting)?;
            set("ggml.model", text(tokenizer::UNIGRAM));
            let scores = vocabulary.scores.iter().map(|score| Value::F32(*score));
            set("ggml.scores", Value::Array(scores.collect()));
            set("ggml.add_space_prefix", Value::Bool(spaces.first));
            set("ggml.remove_extra_whitespaces", Value::Bool(false));
        }
        (other, _) => return Err(unsupported(format!("a tokenizer of this kind: {other}"))),
    }
    vocabulary.settle_kinds(&file.model);
    let special = Special::read(files, config, &vocabulary, file.post_processor.as_ref())?;
    let strings = vocabulary.tokens.into_iter().map(Value::String);
    set("ggml.tokens", Value::Array(strings.collect()));
    let kinds = vocabulary.kinds.into_iter().map(Value::I32);
    set("ggml.token_type", Value::Array(kinds.collect()));
    for (key, value) in special.metadata() {
        set(key, value);
    }
    Ok(metadata)
}

/// Tokens by id.
struct Vocabulary {
    tokens: Vec<String>,
    kinds: Vec<i32>,
    scores: Vec<f32>,
    ids: BTreeMap<String, u32>,
}

impl Vocabulary {
    /// Tokens of the model and those added; ids that nothing has are unused.
    fn read(file: &File, rows: usize) -> Result<Self, CheckpointError> {
        let mut vocabulary = Self {
            tokens: vec![String::new(); rows],
            kinds: vec![UNUSED; rows],
            scores: vec![0.0; rows],
            ids: BTreeMap::new(),
        };
        match &file.model.vocab {
            Json::Object(map) => {
                for (token, id) in map {
                    let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                    let id = id.ok_or_else(|| invalid("the id of a token", "a number", token))?;
                    vocabulary.insert(id, token, TEXT, 0.0)?;
                }
            }
            Json::Array(list) => {
                for (id, entry) in list.iter().enumerate() {
                    let pair = entry.as_array().map(Vec::as_slice);
                    let Some([Json::String(token), score]) = pair else {
                        return Err(invalid(
                            "vocab",
                            "tokens with their scores",
                            &super::config::shown(entry),
                        ));
                    };
                    let score = score
                        .as_f64()
                        .ok_or_else(|| invalid("the score of a token", "a number", token))?;
                    vocabulary.insert(id as u32, token, TEXT, score as f32)?;
                }
            }
            other => {
                return Err(invalid(
                    "vocab",
                    "an object or a list",
                    &super::config::shown(other),
                ));
            }
        }
        for added in &file.added_tokens {
            if added.single_word || added.lstrip || added.rstrip {
                let name = &added.content;
                return Err(unsupported(format!(
                    "an added token that takes in what is beside it: {name}"
                )));
            }
            let kind = if added.special { CONTROL } else { USER_DEFINED };
            vocabulary.insert(added.id, &added.content, kind, 0.0)?;
        }
        for id in 0..rows {
            if vocabulary.kinds[id] == UNUSED {
                vocabulary.tokens[id] = format!("[PAD{id}]");
            }
        }
        Ok(vocabulary)
    }

    fn insert(
        &mut self,
        id: u32,
        token: &str,
        kind: i32,
        score: f32,
    ) -> Result<(), CheckpointError> {
        let at = id as usize;
        if at >= self.tokens.len() {
            let wanted = format!(
                "a number below {}, the rows of the embedding",
                self.tokens.len()
            );
            return Err(invalid(
                &format!("the id of {token:?}"),
                &wanted,
                &id.to_string(),
            ));
        }
        let other = match self.ids.entry(token.to_owned()) {
            Entry::Vacant(place) => *place.insert(id),
            Entry::Occupied(place) => *place.get(),
        };
        if other != id {
            let wanted = format!("{other}, which it has already");
            return Err(invalid(
                &format!("the id of {token:?}"),
                &wanted,
                &id.to_string(),
            ));
        }
        let is_free = self.kinds[at] == UNUSED;
        if !is_free && self.tokens[at] != token {
            return Err(CheckpointError::DuplicateId {
                id,
                first: self.tokens[at].clone(),
                second: token.to_owned(),
            });
        }
        self.tokens[at] = token.to_owned();
        self.kinds[at] = kind;
        if is_free {
            self.scores[at] = score;
        }
        Ok(())
    }

    /// Which token is unknown, and which are bytes.
    fn settle_kinds(&mut self, model: &Model) {
        let named = model
            .unk_token
            .as_ref()
            .and_then(|token| self.ids.get(token));
        if let Some(id) = model.unk_id.as_ref().or(named)
            && let Some(kind) = self.kinds.get_mut(*id as usize)
        {
            *kind = UNKNOWN;
        }
        if !model.byte_fallback {
            return;
        }
        for byte in 0..=u8::MAX {
            if let Some(id) = self.ids.get(&format!("<0x{byte:02X}>")) {
                self.kinds[*id as usize] = BYTE;
            }
        }
    }

    fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// The token that stands for what no other does.
    fn unknown(&self) -> Option<u32> {
        let at = self.kinds.iter().position(|kind| *kind == UNKNOWN)?;
        Some(at as u32)
    }
}

fn invalid(key: &str, wanted: &str, found: &str) -> CheckpointError {
    CheckpointError::InvalidValue {
        file: TOKENIZER.to_owned(),
        key: key.to_owned(),
        wanted: wanted.to_owned(),
        found: found.to_owned(),
    }
}

/// Merges as a GGUF file has them.
fn spelled_merges(merges: &[Merge]) -> Result<Value, CheckpointError> {
    let spelled = merges
        .iter()
        .enumerate()
        .map(|(index, merge)| match merge.parts() {
            Some((left, right)) if !left.contains(' ') && !right.contains(' ') => {
                Ok(Value::String(format!("{left} {right}")))
            }
            _ => Err(invalid(
                "merges",
                "pairs of tokens",
                &format!("number {index}"),
            )),
        });
    Ok(Value::Array(spelled.collect::<Result<_, _>>()?))
}

/// The scores that give the order of the merges: the sooner a token is made the better. Tokens that no merge makes are worse
/// than all of those.
fn merged_scores(merges: &[Merge], vocabulary: &Vocabulary) -> Result<Value, CheckpointError> {
    let mut scores = vec![None; vocabulary.tokens.len()];
    let mut made = 0u32;
    for (index, merge) in merges.iter().enumerate() {
        let (left, right) = merge
            .parts()
            .ok_or_else(|| invalid("merges", "pairs of tokens", &format!("number {index}")))?;
        let Some(id) = vocabulary.id(&format!("{left}{right}")) else {
            return Err(invalid(
                "merges",
                "pairs that make a token",
                &format!("number {index}"),
            ));
        };
        let score = &mut scores[id as usize];
        if score.is_none() {
            made += 1;
            *score = Some(-f64::from(made) as f32);
        }
    }
    let worst = -f64::from(made + 1) as f32;
    let scores = scores
        .into_iter()
        .map(|score| Value::F32(score.unwrap_or(worst)));
    Ok(Value::Array(scores.collect()))
}
