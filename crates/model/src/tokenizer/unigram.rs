//! SentencePiece's unigram model: of all ways to make a text of tokens the one whose scores have the greatest sum.
//!
//! # Determinism
//! Sums are of f64, from the text's beginning on. Of ways of equal sum to a place the one whose last token is the longest is
//! taken. A character that is no token costs [`UNKNOWN_COST`] more than the worst token; it is spelled in bytes where there are
//! tokens for all of them, and otherwise stands, with its unknown neighbours, as one unknown token.
//!
//! Sources: Kudo, "Subword Regularization" (2018), for the model; the order of ties and the place of the space before a text
//! are those of llama.cpp, since its ids are the ones that are compared with.
use super::{
    Kind, TokenizerError,
    sentencepiece::{Pieces, SPACE},
};
use crate::gguf::{Gguf, Value};
use std::ops::Bound;

/// What a character that is no token costs more than the worst token.
const UNKNOWN_COST: f32 = 10.0;
/// Longer tokens are refused: a text could ask for the square of their length.
const TOKEN_BYTES_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Unigram {
    pub(super) pieces: Pieces,
    /// Of a character that is no token.
    unknown_score: f64,
    /// Whether spaces beside each other are one, and those at an end none.
    merges_spaces: bool,
}

/// The best way to a place in a text.
#[derive(Clone, Copy)]
struct Step {
    sum: f64,
    /// Where its last token begins.
    start: usize,
    token: Option<u32>,
}

impl Unigram {
    /// # Errors
    /// If there is not a score that is a number for each token, a token is too long, or texts are to be changed before.
    pub(super) fn from_metadata(
        gguf: &Gguf<'_>,
        tokens: &[String],
        kinds: &[Kind],
        unknown: Option<u32>,
    ) -> Result<Self, TokenizerError> {
        const CHARACTERS: &str = "tokenizer.ggml.precompiled_charsmap";
        let characters = gguf.metadata().get(CHARACTERS).map(Value::as_array);
        if characters.is_some_and(|characters| characters != Some(&[])) {
            return Err(TokenizerError::UnsupportedNormalizer {
                name: CHARACTERS.to_owned(),
            });
        }
        let mut pieces = Pieces::from_metadata(gguf, tokens, kinds, unknown, false)?;
        let mut ids = pieces.ids.iter();
        let long = ids.find(|(token, _)| token.len() > TOKEN_BYTES_MAX);
        let endless = pieces.scores.iter().position(|score| !score.is_finite());
        for (key, index) in [
            ("tokenizer.ggml.tokens", long.map(|(_, id)| *id as usize)),
            ("tokenizer.ggml.scores", endless),
        ] {
            if let Some(index) = index {
                return Err(TokenizerError::InvalidEntry { key, index });
            }
        }
        let text = kinds.iter().zip(&pieces.scores);
        let text = text.filter(|(kind, _)| **kind == Kind::Text);
        let worst = text.map(|(_, score)| *score).reduce(f32::min);
        for (score, kind) in pieces.scores.iter_mut().zip(kinds) {
            if *kind == Kind::UserDefined {
                *score = 0.0;
            }
        }
        let merges = gguf
            .metadata()
            .get("tokenizer.ggml.remove_extra_whitespaces");
        Ok(Self {
            pieces,
            unknown_score: f64::from(worst.unwrap_or(0.0) - UNKNOWN_COST),
            merges_spaces: merges.and_then(Value::as_bool).unwrap_or(false),
        })
    }

    /// The text with its spaces as they are in tokens.
    fn spaced(&self, text: &str) -> String {
        let mut spaced = String::with_capacity(3 * text.len());
        let (mut in_word, mut begun) = (false, false);
        for character in text.chars() {
            if character == ' ' {
                in_word = false;
                if !self.merges_spaces {
                    spaced.push_str(SPACE);
                }
                continue;
            }
            if !in_word && ((self.pieces.space_first && !begun) || self.merges_spaces) {
                spaced.push_str(SPACE);
                begun = true;
            }
            in_word = true;
            spaced.push(character);
        }
        spaced
    }

    /// Adds the tokens of a text.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let text = self.spaced(text);
        let worst = Step {
            sum: f64::NEG_INFINITY,
            start: 0,
            token: None,
        };
        let mut best = vec![worst; text.len() + 1];
        best[0].sum = 0.0;
        for (start, character) in text.char_indices() {
            let sum = best[start].sum;
            let mut reach = |end: usize, score: f64, token| {
                let sum = sum + score;
                if sum > best[end].sum {
                    best[end] = Step { sum, start, token };
                }
            };
            let first = start + character.len_utf8();
            let mut is_token = false;
            for (offset, character) in text[start..].char_indices() {
                let end = start + offset + character.len_utf8();
                let token = &text[start..end];
                let mut from = self
                    .pieces
                    .ids
                    .range::<str, _>((Bound::Included(token), Bound::Unbounded));
                let Some((found, id)) = from.next().filter(|(found, _)| found.starts_with(token))
                else {
                    break;
                };
                if found == token {
                    reach(end, f64::from(self.pieces.scores[*id as usize]), Some(*id));
                    is_token |= end == first;
                }
            }
            if !is_token {
                reach(first, self.unknown_score, None);
            }
        }
        let mut steps = Vec::new();
        let mut end = text.len();
        while end > 0 {
            steps.push((best[end], end));
            end = best[end].start;
        }
        let mut was_unknown = false;
        for (step, end) in steps.into_iter().rev() {
            match step.token {
                Some(id) => ids.push(id),
                None => {
                    let bytes = text[step.start..end].bytes();
                    let bytes = bytes.map(|byte| self.pieces.bytes[usize::from(byte)]);
                    match bytes.collect::<Option<Vec<u32>>>() {
                        Some(bytes) => ids.extend(bytes),
                        None if was_unknown => {}
                        None => ids.extend(self.pieces.unknown),
                    }
                }
            }
            was_unknown = step.token.is_none();
        }
    }
}
