//! How byte-level BPE cuts a text into words before it merges within them, by the names that files give the ways.
use super::TokenizerError;
use tokenizers::{
    SplitDelimiterBehavior,
    pre_tokenizers::{
        PreTokenizerWrapper,
        byte_level::ByteLevel,
        digits::Digits,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

/// A way to cut.
pub(super) struct Words {
    pub(super) splitter: PreTokenizerWrapper,
    /// Whether a word that is a token stays whole, whatever merges would make of it; those who do that have a token before
    /// a text, too, unless their files say otherwise.
    pub(super) whole: bool,
}

/// Contractions; letters with what is before them; at most so many digits; what is neither with the line's end behind it;
/// line ends with the space before them; space, but for the last one before a word.
fn pattern(digits: &str) -> String {
    [
        r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        digits,
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
    .join("|")
}

/// What `tokenizer.ggml.pre` may say, and what it means.
const KNOWN: &[(&str, Kind)] = &[
    ("gpt-2", Kind::Gpt2),
    ("smollm", Kind::Digits),
    ("llama-bpe", Kind::Pattern(r"\p{N}{1,3}", true)),
    ("llama3", Kind::Pattern(r"\p{N}{1,3}", true)),
    ("llama-v3", Kind::Pattern(r"\p{N}{1,3}", true)),
    ("lfm2", Kind::Pattern(r"\p{N}{1,3}", true)),
    ("qwen2", Kind::Pattern(r"\p{N}", false)),
    ("deepseek-r1-qwen", Kind::Pattern(r"\p{N}", false)),
];

#[derive(Clone, Copy)]
enum Kind {
    /// GPT-2's pattern.
    Gpt2,
    /// The same, with every digit a word.
    Digits,
    /// [`pattern`] with these digits, and whether words that are tokens stay whole.
    Pattern(&'static str, bool),
}

/// The first name of a way: GPT-2's pattern, with every digit a word or not.
pub(crate) fn gpt2(digits: bool) -> &'static str {
    let wanted = |kind: &Kind| match kind {
        Kind::Gpt2 => !digits,
        Kind::Digits => digits,
        Kind::Pattern(..) => false,
    };
    let mut known = KNOWN.iter();
    let found = known.find(|(_, kind)| wanted(kind));
    found.map_or("", |(name, _)| name)
}

/// The first name, digits, and whether words that are tokens stay whole, of each way that has a pattern of its own.
pub(crate) fn patterns() -> impl Iterator<Item = (&'static str, &'static str, bool)> {
    KNOWN.iter().filter_map(|(name, kind)| match kind {
        Kind::Pattern(digits, whole) => Some((*name, *digits, *whole)),
        _ => None,
    })
}

impl Words {
    /// # Errors
    /// If the name is not known.
    pub(super) fn named(name: &str) -> Result<Self, TokenizerError> {
        let Some((_, kind)) = KNOWN.iter().find(|(known, _)| *known == name) else {
            return Err(TokenizerError::UnsupportedPreTokenizer {
                name: name.to_owned(),
                known: KNOWN
                    .iter()
                    .map(|(known, _)| *known)
                    .collect::<Vec<_>>()
                    .join(", "),
            });
        };
        let gpt2 = ByteLevel::new(false, true, true);
        let (splitter, whole) = match *kind {
            Kind::Gpt2 => (gpt2.into(), false),
            Kind::Digits => {
                let parts = vec![Digits::new(true).into(), gpt2.into()];
                (Sequence::new(parts).into(), false)
            }
            Kind::Pattern(digits, whole) => {
                let pattern = SplitPattern::Regex(pattern(digits));
                let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
                let split = split.expect("the pattern is one");
                let bytes = ByteLevel::new(false, true, false);
                (
                    Sequence::new(vec![split.into(), bytes.into()]).into(),
                    whole,
                )
            }
        };
        Ok(Self { splitter, whole })
    }
}
