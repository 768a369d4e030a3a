//! Recognises what a `tokenizer.json` does to a text before words become tokens.
use super::super::{CheckpointError, config::shown, unsupported};
use crate::tokenizer::words;
use serde_json::{Value as Json, json};

/// How a space is spelled.
const SPACE: &str = "\u{2581}";

/// The pattern that cuts words, with these digits, as it is written there.
fn pattern(digits: &str) -> String {
    let before = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|";
    let after = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    format!("{before}{digits}{after}")
}

/// The steps of a normalizer or a pre-tokenizer.
fn steps<'j>(json: Option<&'j Json>, list: &str) -> Vec<&'j Json> {
    match json {
        None => Vec::new(),
        Some(json) if json["type"] == "Sequence" => {
            json[list].as_array().into_iter().flatten().collect()
        }
        Some(json) => vec![json],
    }
}

fn refuse<T>(what: &str, json: Option<&Json>) -> Result<T, CheckpointError> {
    let json = json.unwrap_or(&Json::Null);
    Err(unsupported(format!(
        "{what} (tokenizer.json): {}",
        shown(json)
    )))
}

/// Whether it makes words spelled in the byte-level alphabet, and whether it cuts, too.
fn byte_level(step: &Json) -> Option<bool> {
    let no_space = step["add_prefix_space"] == json!(false);
    (step["type"] == "ByteLevel" && no_space).then(|| step["use_regex"] != json!(false))
}

/// The name that a GGUF file has for a way of cutting before byte-level BPE.
///
/// Text is not brought into a normal form, whether a file says so or not: llama.cpp does not do that either.
pub(super) fn named(
    normalizer: Option<&Json>,
    cutting: Option<&Json>,
    keeps_words: bool,
) -> Result<&'static str, CheckpointError> {
    let is_form = |step: &&Json| step["type"] == "NFC";
    if !steps(normalizer, "normalizers").iter().all(is_form) {
        return refuse("a change of texts", normalizer);
    }
    let unknown = || refuse("a way to cut texts into words", cutting);
    let name = match steps(cutting, "pretokenizers").as_slice() {
        [bytes] if byte_level(bytes) == Some(true) => Some((words::gpt2(false), false)),
        [digits, bytes]
            if digits["type"] == "Digits"
                && digits["individual_digits"] == json!(true)
                && byte_level(bytes) == Some(true) =>
        {
            Some((words::gpt2(true), false))
        }
        [split, bytes]
            if split["type"] == "Split"
                && split["behavior"] == "Isolated"
                && split["invert"] != json!(true)
                && byte_level(bytes) == Some(false) =>
        {
            let written = split["pattern"]["Regex"].as_str();
            let mut known = words::patterns();
            known
                .find(|(_, digits, _)| written == Some(&pattern(digits)))
                .map(|(name, _, keeps_words)| (name, keeps_words))
        }
        _ => None,
    };
    match name {
        Some((name, keeps)) if keeps == keeps_words => Ok(name),
        Some((name, _)) => Err(unsupported(format!(
            "words cut as {name}, with ignore_merges = {keeps_words} (tokenizer.json)"
        ))),
        None => unknown(),
    }
}

/// What SentencePiece does with spaces.
pub(super) struct Spaces {
    /// Whether one is put before a text.
    pub(super) first: bool,
}

impl Spaces {
    /// # Errors
    /// When anything else is done to a text.
    pub(super) fn read(
        normalizer: Option<&Json>,
        cutting: Option<&Json>,
    ) -> Result<Self, CheckpointError> {
        let (mut spelled, mut first) = (false, false);
        for step in steps(normalizer, "normalizers") {
            let prepends = step["type"] == "Prepend" && step["prepend"] == SPACE;
            let replaces = step["type"] == "Replace"
                && step["pattern"] == json!({ "String": " " })
                && step["content"] == SPACE;
            match (prepends, replaces) {
                (true, _) if !spelled => first = true,
                (_, true) => spelled = true,
                _ => return refuse("a change of texts", normalizer),
            }
        }
        for step in steps(cutting, "pretokenizers") {
            let cuts_nothing =
                step["type"] == "Split" && step["pattern"] == json!({ "String": " " }) && spelled;
            let metaspace = step["type"] == "Metaspace"
                && step["replacement"] == SPACE
                && !spelled
                && step["split"] != json!(true);
            if metaspace {
                spelled = true;
                first = match step["prepend_scheme"].as_str() {
                    Some("never") => false,
                    Some(_) => true,
                    None => step["add_prefix_space"] != json!(false),
                };
            } else if !cuts_nothing {
                return refuse("a way to cut texts into words", cutting);
            }
        }
        match spelled {
            true => Ok(Self { first }),
            false => refuse("spaces that are not spelled as SentencePiece's", normalizer),
        }
    }
}
