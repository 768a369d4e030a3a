//! SentencePiece's BPE: of all neighbours that make a token the best one is joined, again and again; what is no token
//! in the end is spelled in bytes.
//!
//! Sources: Kudo and Richardson, "SentencePiece" (2018), and the order in which llama.cpp takes equal scores (leftmost
//! first), since its ids are the ones that are compared with.
use super::{Kind, TokenizerError};
use crate::gguf::{Gguf, Value};
use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BinaryHeap},
};

/// How a space is spelled in tokens.
pub(super) const SPACE: &str = "\u{2581}";

/// Scores of tokens, and the tokens of bytes.
#[derive(Debug)]
pub(super) struct Pieces {
    pub(super) ids: BTreeMap<String, u32>,
    pub(super) scores: Vec<f32>,
    pub(super) bytes: Vec<Option<u32>>,
    pub(super) unknown: Option<u32>,
    /// Whether a space is put before a text.
    pub(super) space_first: bool,
}

/// A pair of neighbours that would make a token; the best is the greatest.
#[derive(Debug)]
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    bytes: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |pair: &Self| Reverse(pair.left);
        self.score
            .total_cmp(&other.score)
            .then(key(self).cmp(&key(other)))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

/// A stretch of the text, in a list of those that are left.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    bytes: usize,
    before: Option<usize>,
    after: Option<usize>,
}

impl Pieces {
    /// Reads scores; `space_first` is for files that do not say whether a text has a space before it. Only text is joined to text: no text becomes a control token, or one of a byte.
    ///
    /// # Errors
    /// If there is not a score that is a number for each token.
    pub(super) fn from_metadata(
        gguf: &Gguf<'_>,
        tokens: &[String],
        kinds: &[Kind],
        unknown: Option<u32>,
        space_first: bool,
    ) -> Result<Self, TokenizerError> {
        const SCORES: &str = "tokenizer.ggml.scores";
        let scores = gguf.array(SCORES)?;
        if scores.len() != tokens.len() {
            return Err(TokenizerError::ScoreCount {
                tokens: tokens.len(),
                scores: scores.len(),
            });
        }
        let score = |(index, value): (usize, &Value)| match value.as_f32() {
            // Of two zeros none is better.
            Some(score) if !score.is_nan() => Ok(score + 0.0),
            _ => Err(TokenizerError::InvalidEntry { key: SCORES, index }),
        };
        let scores = scores
            .iter()
            .enumerate()
            .map(score)
            .collect::<Result<_, _>>()?;
        let mut ids = BTreeMap::new();
        let mut bytes = vec![None; 256];
        for (id, token) in tokens.iter().enumerate() {
            if kinds[id] == Kind::Byte {
                let value = byte(token).ok_or(TokenizerError::InvalidEntry {
                    key: "tokenizer.ggml.tokens",
                    index: id,
                })?;
                bytes[usize::from(value)] = Some(id as u32);
            }
            if matches!(kinds[id], Kind::Text | Kind::UserDefined) {
                ids.insert(token.clone(), id as u32);
            }
        }
        let said = gguf.metadata().get("tokenizer.ggml.add_space_prefix");
        Ok(Self {
            ids,
            scores,
            bytes,
            unknown,
            space_first: said.and_then(Value::as_bool).unwrap_or(space_first),
        })
    }

    /// Adds the tokens of a text.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let mut text = text.replace(' ', SPACE);
        if self.space_first {
            text.insert_str(0, SPACE);
        }
        let mut symbols: Vec<Symbol> = Vec::new();
        for (index, (start, character)) in text.char_indices().enumerate() {
            symbols.push(Symbol {
                start,
                bytes: character.len_utf8(),
                before: index.checked_sub(1),
                after: Some(index + 1),
            });
        }
        if let Some(last) = symbols.last_mut() {
            last.after = None;
        }
        let mut pairs = BinaryHeap::new();
        let pair = |symbols: &[Symbol], left: usize, right: usize| {
            let (first, second) = (symbols[left], symbols[right]);
            let bytes = first.bytes + second.bytes;
            let id = self.ids.get(&text[first.start..first.start + bytes])?;
            Some(Pair {
                score: self.scores[*id as usize],
                left,
                right,
                bytes,
            })
        };
        for right in 1..symbols.len() {
            pairs.extend(pair(&symbols, right - 1, right));
        }
        while let Some(best) = pairs.pop() {
            let (left, right) = (symbols[best.left], symbols[best.right]);
            // One of them is part of a longer one meanwhile.
            let is_there = left.bytes > 0 && right.bytes > 0 && left.after == Some(best.right);
            if !is_there || left.bytes + right.bytes != best.bytes {
                continue;
            }
            symbols[best.left].bytes = best.bytes;
            symbols[best.left].after = right.after;
            symbols[best.right].bytes = 0;
            if let Some(after) = right.after {
                symbols[after].before = Some(best.left);
                pairs.extend(pair(&symbols, best.left, after));
            }
            if let Some(before) = left.before {
                pairs.extend(pair(&symbols, before, best.left));
            }
        }
        let mut next = (!symbols.is_empty()).then_some(0);
        while let Some(index) = next {
            let Symbol {
                start,
                bytes,
                after,
                ..
            } = symbols[index];
            let symbol = &text[start..start + bytes];
            match self.ids.get(symbol) {
                Some(id) => ids.push(*id),
                // A byte without a token is unknown, or left out where nothing stands for that.
                None => ids.extend(
                    symbol
                        .bytes()
                        .filter_map(|byte| self.bytes[usize::from(byte)].or(self.unknown)),
                ),
            }
            next = after;
        }
    }
}

/// The byte that a token such as `<0x0A>` stands for.
pub(super) fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let are_digits = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    are_digits.then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The text that a token that is no byte's stands for.
pub(super) fn text(token: &str) -> String {
    token.replace(SPACE, " ")
}
