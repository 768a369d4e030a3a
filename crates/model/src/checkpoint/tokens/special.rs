//! Tokens with a part to play, and the chat template.
use super::{
    super::{
        CheckpointError, Config, Files, GENERATION_CONFIG, TEMPLATE, TOKENIZER_CONFIG, read_json,
        unsupported,
    },
    Vocabulary,
};
use crate::gguf::Value;
use serde_json::Value as Json;

pub(super) struct Special {
    bos: Option<u32>,
    eos: Option<u32>,
    /// Others that end a turn or a message.
    ends: Vec<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    template: Option<String>,
}

impl Special {
    pub(super) fn read(
        files: &Files<'_>,
        config: &Config<'_>,
        vocabulary: &Vocabulary,
        post_processor: Option<&Json>,
    ) -> Result<Self, CheckpointError> {
        let empty = Json::Object(serde_json::Map::new());
        let json = read_json(files, TOKENIZER_CONFIG)?;
        let settings = Config::new(TOKENIZER_CONFIG, json.as_ref().unwrap_or(&empty))?;
        let json = read_json(files, GENERATION_CONFIG)?;
        let generation = Config::new(GENERATION_CONFIG, json.as_ref().unwrap_or(&empty))?;
        let named = |name: &str| spelled(&settings, vocabulary, &format!("{name}_token"));
        let listed = |of: &Config<'_>, name: &str| ids(of, vocabulary, &format!("{name}_token_id"));
        let first = |name: &str| match named(name)? {
            Some(id) => Ok::<_, CheckpointError>(Some(id)),
            None => Ok(listed(config, name)?.first().copied()),
        };
        let (bos, eos) = (first("bos")?, first("eos")?);
        let mut ends = listed(&generation, "eos")?;
        ends.extend(listed(config, "eos")?);
        let mut others = Vec::new();
        for id in ends {
            if Some(id) != eos && !others.contains(&id) {
                others.push(id);
            }
        }
        if others.len() > 2 {
            return Err(unsupported(format!(
                "more than three tokens that end a text: eos_token_id ({GENERATION_CONFIG})"
            )));
        }
        let begins = post_processor.is_some_and(|json| bos.is_some() && begins_with_token(json));
        Ok(Self {
            bos,
            eos,
            ends: others,
            unknown: vocabulary.unknown().or(named("unk")?),
            padding: first("pad")?,
            add_bos: settings.flag("add_bos_token", begins)?,
            add_eos: settings.flag("add_eos_token", false)?,
            template: template(files, &settings)?,
        })
    }

    pub(super) fn metadata(self) -> Vec<(&'static str, Value)> {
        let mut ends = self.ends.into_iter();
        let ids = [
            ("ggml.bos_token_id", self.bos),
            ("ggml.eos_token_id", self.eos),
            ("ggml.eot_token_id", ends.next()),
            ("ggml.eom_token_id", ends.next()),
            ("ggml.unknown_token_id", self.unknown),
            ("ggml.padding_token_id", self.padding),
        ];
        let ids = ids
            .into_iter()
            .filter_map(|(key, id)| Some((key, Value::U32(id?))));
        let flags = [
            ("ggml.add_bos_token", Value::Bool(self.add_bos)),
            ("ggml.add_eos_token", Value::Bool(self.add_eos)),
        ];
        let template = self
            .template
            .map(|source| ("chat_template", Value::String(source)));
        ids.chain(flags).chain(template).collect()
    }
}

/// The id of a token that settings spell, as a text or as an object.
fn spelled(
    settings: &Config<'_>,
    vocabulary: &Vocabulary,
    key: &str,
) -> Result<Option<u32>, CheckpointError> {
    let Some(value) = settings.get(key) else {
        return Ok(None);
    };
    let text = value.as_str().or_else(|| value["content"].as_str());
    let id = text.and_then(|text| vocabulary.id(text));
    match id {
        Some(id) => Ok(Some(id)),
        None => Err(settings.invalid(key, "a token of the vocabulary", value)),
    }
}

/// One id, or a list of some.
fn ids(
    settings: &Config<'_>,
    vocabulary: &Vocabulary,
    key: &str,
) -> Result<Vec<u32>, CheckpointError> {
    let Some(value) = settings.get(key) else {
        return Ok(Vec::new());
    };
    let list = value
        .as_array()
        .map_or(std::slice::from_ref(value), Vec::as_slice);
    let id = |value: &Json| {
        let id = value
            .as_u64()
            .filter(|id| (*id as usize) < vocabulary.tokens.len());
        id.map(|id| id as u32)
            .ok_or_else(|| settings.invalid(key, "an id of the vocabulary", value))
    };
    list.iter().map(id).collect()
}

/// Whether a text alone gets a token put before it.
fn begins_with_token(json: &Json) -> bool {
    let steps = match json["processors"].as_array() {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(json),
    };
    let is_special = |step: &Json| step["single"][0].get("SpecialToken").is_some();
    steps.iter().any(is_special)
}

/// A file of its own, or a setting: a text, or a list of named ones.
fn template(files: &Files<'_>, settings: &Config<'_>) -> Result<Option<String>, CheckpointError> {
    const KEY: &str = "chat_template";
    if let Some(bytes) = files.get(TEMPLATE) {
        return match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(CheckpointError::NotText {
                file: TEMPLATE.to_owned(),
            }),
        };
    }
    let default = |templates: &Vec<Json>| {
        let mut templates = templates.iter();
        let found = templates.find(|template| template["name"] == "default")?;
        found["template"].as_str().map(str::to_owned)
    };
    match settings.get(KEY) {
        None => Ok(None),
        Some(Json::String(text)) => Ok(Some(text.clone())),
        Some(other) => match other.as_array().and_then(default) {
            Some(text) => Ok(Some(text)),
            None => Err(settings.invalid(KEY, "a template", other)),
        },
    }
}
