//! Tokenizers built from a model file's metadata: byte-level BPE, and SentencePiece's BPE and unigram model.
//!
//! # Design
//! Byte-level BPE and the patterns before it are the `tokenizers` crate's; SentencePiece's models are ours, since files have
//! scores and not the merges that the crate wants. Ours is, too, what decides
//! safety: which stretches of a text may become control tokens, and what bytes a token stands for.
//!
//! Control tokens (token type 3: `<|im_end|>` …) are recognised only by [`Tokenizer::encode`] with
//! [`Control::Parsed`]. A chat template's output is encoded that way, but the messages inside it
//! were written by users. So each message is [shielded](Tokenizer::shield) before the template sees
//! it: wherever a control token begins, or begins and could be completed by what the template
//! writes next, the noncharacter U+FDD0 is put in front. The parser drops such a mark and takes the
//! character behind it as text. Templates still see the message's own words, so that trimming,
//! comparing and splitting work. Not covered: a template that itself spells the beginning of a
//! control token directly before a message.
//!
//! User-defined tokens (type 4) carry no authority and are recognised in all text.
//!
//! Bytes for which the vocabulary has no token are dropped, as the models' own tokenizers do
//! (SmolLM2 lacks six control characters and two lead bytes of unassigned planes).
//!
//! # Errors
//! [`TokenizerError`] for metadata that do not describe such a tokenizer; encoding cannot fail.
mod alphabet;
mod sentencepiece;
#[cfg(test)]
mod tests;
mod unigram;
pub(crate) mod words;

use crate::gguf::{Gguf, GgufError, Value};
use sentencepiece::Pieces;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};
use tokenizers::{
    Model as _, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _,
    models::bpe::{BPE, Vocab},
    pre_tokenizers::PreTokenizerWrapper,
};
use unigram::Unigram;
use words::Words;

/// Tokens by which models end a turn or a text, whatever else a file says of them.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<eos>",
    "</s>",
];

/// `tokenizer.ggml.model` of each kind.
pub(crate) const BYTE_LEVEL: &str = "gpt2";
pub(crate) const SENTENCEPIECE: &str = "llama";
pub(crate) const UNIGRAM: &str = "t5";

/// Put before a character that must not begin a control token.
pub(crate) const MARK: char = '\u{fdd0}';

/// Why metadata do not make a tokenizer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TokenizerError {
    #[error(transparent)]
    Metadata(#[from] GgufError),
    #[error(
        "unsupported tokenizer (known: gpt2, byte-level BPE; llama, SentencePiece's BPE; t5, its unigram model): {name}"
    )]
    UnsupportedTokenizer { name: String },
    #[error("unsupported pre-tokenizer (known: {known}): {name}")]
    UnsupportedPreTokenizer { name: String, known: String },
    #[error("the tokenizer changes texts in a way that is not supported: {name}")]
    UnsupportedNormalizer { name: String },
    #[error("vocabulary has {tokens} tokens but {scores} scores")]
    ScoreCount { tokens: usize, scores: usize },
    #[error("vocabulary has {tokens} tokens but {types} token types")]
    TypeCount { tokens: usize, types: usize },
    #[error("vocabulary entry is not of the expected type: {key}[{index}]")]
    InvalidEntry { key: &'static str, index: usize },
    #[error("token {id} has an unknown type: {kind}")]
    UnknownTokenType { id: usize, kind: u64 },
    #[error("token occurs twice in the vocabulary: {token}")]
    DuplicateToken { token: String },
    #[error("merge {index} names a token that is not in the vocabulary: {token}")]
    UnknownMerge { index: usize, token: String },
    #[error("token id for {key} is not in the vocabulary of {count}: {id}")]
    IdOutOfRange { key: String, id: u64, count: usize },
    #[error("cannot build the BPE model: {reason}")]
    Bpe { reason: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    /// For what no token stands for.
    Unknown,
    /// Of a byte that is part of no other token.
    Byte,
    Control,
    UserDefined,
}

/// Whether control tokens spelled in a text are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// They are words like any other: for text from outside.
    Spelled,
    /// They become control tokens, except where shielded: for a rendered template.
    Parsed,
}

/// How plain text becomes tokens.
#[derive(Debug)]
enum Encoding {
    ByteLevel {
        splitter: PreTokenizerWrapper,
        bpe: Box<BPE>,
    },
    SentencePiece(Pieces),
    Unigram(Unigram),
}

/// A tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    tokens: Vec<String>,
    kinds: Vec<Kind>,
    /// Control and user-defined tokens by their spelling.
    whole: BTreeMap<String, u32>,
    /// Their lengths in bytes, the longest first.
    whole_lengths: Vec<usize>,
    encoding: Encoding,
    bos: Option<u32>,
    add_bos: bool,
    eos: Option<u32>,
    ends: BTreeSet<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.ggml.*`.
    ///
    /// # Errors
    /// See [`TokenizerError`].
    pub fn from_metadata(gguf: &Gguf<'_>) -> Result<Self, TokenizerError> {
        let tokens = texts(gguf, "tokenizer.ggml.tokens")?;
        let tokens: Vec<String> = tokens.into_iter().map(str::to_owned).collect();
        let mut kinds = kinds(gguf, tokens.len())?;
        let mut ends = BTreeSet::new();
        for (id, token) in tokens.iter().enumerate() {
            if ENDS.contains(&token.as_str()) {
                kinds[id] = Kind::Control;
                ends.insert(id as u32);
            }
        }
        let (encoding, bos_first) = match gguf.text("tokenizer.ggml.model")? {
            BYTE_LEVEL => {
                let Words { splitter, whole } = Words::named(gguf.text("tokenizer.ggml.pre")?)?;
                let merges = texts(gguf, "tokenizer.ggml.merges")?;
                let bpe = Box::new(bpe(&tokens, &kinds, &merges, whole)?);
                (Encoding::ByteLevel { splitter, bpe }, whole)
            }
            SENTENCEPIECE => {
                let unknown = token_id(gguf, "unknown", tokens.len())?;
                let pieces = Pieces::from_metadata(gguf, &tokens, &kinds, unknown, true)?;
                (Encoding::SentencePiece(pieces), true)
            }
            UNIGRAM => {
                let unknown = token_id(gguf, "unknown", tokens.len())?;
                let unigram = Unigram::from_metadata(gguf, &tokens, &kinds, unknown)?;
                (Encoding::Unigram(unigram), false)
            }
            name => return Err(TokenizerError::UnsupportedTokenizer { name: name.into() }),
        };
        let mut whole = BTreeMap::new();
        let mut whole_lengths = BTreeSet::new();
        for (id, token) in tokens.iter().enumerate() {
            if matches!(kinds[id], Kind::Control | Kind::UserDefined) && !token.is_empty() {
                whole_lengths.insert(Reverse(token.len()));
                whole.insert(token.clone(), id as u32);
            }
        }
        let id = |name: &str| token_id(gguf, name, tokens.len());
        let bos = id("bos")?;
        let eos = id("eos")?;
        ends.extend([eos, id("eot")?, id("eom")?].into_iter().flatten());
        let add_bos = gguf
            .metadata()
            .get("tokenizer.ggml.add_bos_token")
            .and_then(Value::as_bool)
            .unwrap_or(bos_first);
        Ok(Self {
            tokens,
            kinds,
            whole,
            whole_lengths: whole_lengths
                .into_iter()
                .map(|Reverse(length)| length)
                .collect(),
            encoding,
            bos,
            add_bos,
            eos,
            ends,
        })
    }

    /// Number of tokens.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.tokens.len()
    }

    /// The token as the file spells it.
    #[must_use]
    pub fn spelling(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(String::as_str)
    }

    /// The token that begins a text, if the model has one.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Whether the model wants [`Self::bos`] before a text that no template was put around.
    #[must_use]
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// The token that ends a text, if the model has one.
    #[must_use]
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether generation stops at `id`: the end of the text, the turn or the message.
    #[must_use]
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// Whether `id` has a part to play and is no text.
    #[must_use]
    pub fn is_control(&self, id: u32) -> bool {
        self.kinds.get(id as usize) == Some(&Kind::Control)
    }

    /// The bytes `id` adds to a text: none for control tokens and for ids outside the vocabulary.
    /// A character may be spread over several tokens.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let Some(token) = self.tokens.get(id as usize) else {
            return Vec::new();
        };
        match self.kinds[id as usize] {
            Kind::Control | Kind::Unknown => Vec::new(),
            Kind::Byte => sentencepiece::byte(token).into_iter().collect(),
            Kind::UserDefined | Kind::Text if self.pieces().is_some() => {
                sentencepiece::text(token).into_bytes()
            }
            Kind::UserDefined => token.clone().into_bytes(),
            // A token that is not spelled in the alphabet stands for its own text.
            Kind::Text => token
                .chars()
                .map(alphabet::byte_of)
                .collect::<Option<_>>()
                .unwrap_or_else(|| token.clone().into_bytes()),
        }
    }

    /// The bytes of a sequence of tokens that begins a text: without the space that [`Self::encode`] puts before it.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> Vec<u8> {
        let mut bytes: Vec<u8> = ids.iter().flat_map(|&id| self.token_bytes(id)).collect();
        if self.pieces().is_some_and(|pieces| pieces.space_first) && bytes.first() == Some(&b' ') {
            bytes.remove(0);
        }
        bytes
    }

    /// What SentencePiece's models have.
    fn pieces(&self) -> Option<&Pieces> {
        match &self.encoding {
            Encoding::SentencePiece(pieces) => Some(pieces),
            Encoding::Unigram(unigram) => Some(&unigram.pieces),
            Encoding::ByteLevel { .. } => None,
        }
    }

    /// Marks the places in `content` where a control token begins, so that
    /// [`Control::Parsed`] takes them as text.
    #[must_use]
    pub fn shield(&self, content: &str) -> String {
        let mut shielded = String::with_capacity(content.len());
        let trimmed = content.trim_end().len();
        for (index, character) in content.char_indices() {
            // What follows a message is the template's: it may complete what the message began,
            // also after trimming it.
            let rest = &content[index..];
            let unfinished = match index < trimmed {
                true => &content[index..trimmed],
                false => &rest[..character.len_utf8()],
            };
            let is_control = |kind| kind == Kind::Control;
            if character == MARK
                || self.whole_at(rest, is_control).is_some()
                || self.may_begin_control(unfinished)
            {
                shielded.push(MARK);
            }
            shielded.push(character);
        }
        shielded
    }

    /// Whether a control token begins like this, or is this.
    fn may_begin_control(&self, text: &str) -> bool {
        // No token is longer: the text would not be its beginning.
        if self
            .whole_lengths
            .first()
            .is_none_or(|longest| text.len() > *longest)
        {
            return false;
        }
        let from = self
            .whole
            .range::<str, _>((Bound::Included(text), Bound::Unbounded));
        let mut begun = from.take_while(|(token, _)| token.starts_with(text));
        begun.any(|(_, id)| self.kinds[*id as usize] == Kind::Control)
    }

    /// The tokens of `text`.
    #[must_use]
    pub fn encode(&self, text: &str, control: Control) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            if control == Control::Parsed && character == MARK {
                rest = &rest[MARK.len_utf8()..];
                if let Some(shielded) = rest.chars().next() {
                    plain.push(shielded);
                    rest = &rest[shielded.len_utf8()..];
                }
                continue;
            }
            let is_whole = |kind| control == Control::Parsed || kind == Kind::UserDefined;
            if let Some((id, length)) = self.whole_at(rest, is_whole) {
                self.encode_plain(&plain, &mut ids);
                plain.clear();
                ids.push(id);
                rest = &rest[length..];
            } else {
                plain.push(character);
                rest = &rest[character.len_utf8()..];
            }
        }
        self.encode_plain(&plain, &mut ids);
        ids
    }

    /// The longest control or user-defined token of a kind with which `rest` begins, and its length.
    fn whole_at(&self, rest: &str, is_wanted: impl Fn(Kind) -> bool) -> Option<(u32, usize)> {
        self.whole_lengths.iter().find_map(|length| {
            let id = *self.whole.get(rest.get(..*length)?)?;
            is_wanted(self.kinds[id as usize]).then_some((id, *length))
        })
    }

    fn encode_plain(&self, text: &str, ids: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        let (splitter, bpe) = match &self.encoding {
            Encoding::ByteLevel { splitter, bpe } => (splitter, bpe),
            Encoding::SentencePiece(pieces) => return pieces.encode(text, ids),
            Encoding::Unigram(unigram) => return unigram.encode(text, ids),
        };
        let mut pieces = PreTokenizedString::from(text);
        splitter
            .pre_tokenize(&mut pieces)
            .expect("splitting by a fixed pattern does not fail");
        for (piece, ..) in pieces.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            let tokens = bpe
                .tokenize(piece)
                .expect("BPE without an unknown token does not fail");
            ids.extend(tokens.iter().map(|token| token.id));
        }
    }
}

fn texts<'g>(gguf: &'g Gguf<'_>, key: &'static str) -> Result<Vec<&'g str>, TokenizerError> {
    gguf.array(key)?
        .iter()
        .enumerate()
        .map(|(index, value)| match value.as_str() {
            Some(text) => Ok(text),
            None => Err(TokenizerError::InvalidEntry { key, index }),
        })
        .collect()
}

fn kinds(gguf: &Gguf<'_>, tokens: usize) -> Result<Vec<Kind>, TokenizerError> {
    let key = "tokenizer.ggml.token_type";
    let types = gguf.array(key)?;
    if types.len() != tokens {
        return Err(TokenizerError::TypeCount {
            tokens,
            types: types.len(),
        });
    }
    types
        .iter()
        .enumerate()
        .map(|(id, value)| match value.as_u64() {
            // Normal, unused.
            Some(1 | 5) => Ok(Kind::Text),
            Some(2) => Ok(Kind::Unknown),
            Some(6) => Ok(Kind::Byte),
            Some(3) => Ok(Kind::Control),
            Some(4) => Ok(Kind::UserDefined),
            Some(kind) => Err(TokenizerError::UnknownTokenType { id, kind }),
            None => Err(TokenizerError::InvalidEntry { key, index: id }),
        })
        .collect()
}

/// The merges within words. Control tokens have no part in them, so that no text becomes one.
fn bpe(
    tokens: &[String],
    kinds: &[Kind],
    merges: &[&str],
    whole: bool,
) -> Result<BPE, TokenizerError> {
    let mut vocabulary = Vocab::default();
    for (id, token) in tokens.iter().enumerate() {
        if vocabulary.insert(token.clone(), id as u32).is_some() {
            return Err(TokenizerError::DuplicateToken {
                token: token.clone(),
            });
        }
    }
    let is_control = |index: usize, token: &str| match vocabulary.get(token) {
        Some(id) => Ok(kinds[*id as usize] == Kind::Control),
        None => Err(TokenizerError::UnknownMerge {
            index,
            token: token.to_owned(),
        }),
    };
    let mut pairs = Vec::with_capacity(merges.len());
    for (index, merge) in merges.iter().enumerate() {
        let (left, right) = merge.split_once(' ').ok_or(TokenizerError::InvalidEntry {
            key: "tokenizer.ggml.merges",
            index,
        })?;
        let both = merge.replacen(' ', "", 1);
        let controls = [
            is_control(index, left)?,
            is_control(index, right)?,
            is_control(index, &both)?,
        ];
        if controls == [false; 3] {
            pairs.push((left.to_owned(), right.to_owned()));
        }
    }
    vocabulary.retain(|_, id| kinds[*id as usize] != Kind::Control);
    BPE::builder()
        .vocab_and_merges(vocabulary, pairs)
        .cache_capacity(0)
        .ignore_merges(whole)
        .build()
        .map_err(|error| TokenizerError::Bpe {
            reason: error.to_string(),
        })
}

fn token_id(gguf: &Gguf<'_>, name: &str, count: usize) -> Result<Option<u32>, TokenizerError> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    if !gguf.metadata().contains_key(&key) {
        return Ok(None);
    }
    let id = gguf.unsigned(&key)?;
    match u32::try_from(id) {
        Ok(small) if (small as usize) < count => Ok(Some(small)),
        _ => Err(TokenizerError::IdOutOfRange { key, id, count }),
    }
}
