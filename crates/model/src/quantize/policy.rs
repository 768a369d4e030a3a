//! Which tensor gets which format.
//!
//! # Design
//! The first rule counts whose pattern fits the tensor's name: first those of the file, then ours. Ours keep in F32 what
//! the kernels read as f32 or what is small and decides much, and give Q6_K at least to the tables of tokens and to what
//! attention gives. Vectors, and tensors whose rows are shorter than a block, stay F32 whatever a rule says.
//!
//! Rows that are not whole blocks of the format get the next one that suits them: Q2_K, Q3_K and IQ4_XS become IQ4_NL,
//! Q4_K becomes Q5_0, Q5_K becomes Q5_1, Q6_K becomes Q8_0, and what does not suit these, F16.
use lockstep_numeric::WeightFormat;
use serde::Deserialize;

/// Rules of ours, behind those of a file. `None` is Q6_K, or the format asked for where that is better.
const RULES: &[(&str, Option<WeightFormat>)] = &[
    ("*norm*", Some(WeightFormat::F32)),
    ("*.bias", Some(WeightFormat::F32)),
    ("*shortconv.conv.weight", Some(WeightFormat::F32)),
    ("*ffn_gate_inp*", Some(WeightFormat::F32)),
    ("token_embd.weight", None),
    ("output.weight", None),
    ("*attn_output.weight", None),
];

/// The shortest rows that are quantised.
const COLUMNS_MIN: u64 = 32;

/// Why a policy is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum PolicyError {
    #[error("unknown format (known: {known}): {name}")]
    UnknownFormat { known: String, name: String },
    #[error(
        "no GGUF file can carry the format, which belongs to the int profile; Q8_0 is the file format nearest to it: INT8"
    )]
    Int8,
    #[error("policy names no format, and none is asked for")]
    NoFormat,
    #[error("rule has no pattern: {format}")]
    EmptyPattern { format: String },
}

/// A policy as it is written down, for example in TOML.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyFile {
    /// The format of what no rule names.
    pub format: Option<String>,
    /// Rules; the first that fits counts.
    #[serde(default)]
    pub tensors: Vec<RuleFile>,
}

/// A rule as it is written down.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleFile {
    /// A tensor's name, in which `*` stands for any characters and `?` for one.
    pub names: String,
    /// The format they get.
    pub format: String,
}

/// Which tensor gets which format.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    format: WeightFormat,
    rules: Vec<(String, WeightFormat)>,
}

/// Why a tensor gets the format it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No rule names it.
    Asked,
    /// A rule of the policy's file, by its pattern.
    Rule(String),
    /// It is kept high by a rule of ours.
    Kept,
    /// It is a vector, or has short rows.
    Small,
    /// Its rows are not whole blocks of what was wanted.
    Fallback,
}

/// A format for a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Choice {
    pub(super) wanted: WeightFormat,
    pub(super) format: WeightFormat,
    pub(super) reason: Reason,
}

impl Policy {
    /// Our rules alone, and `format` for what they do not name.
    ///
    /// # Errors
    /// When no file can have the format.
    pub fn new(format: &str) -> Result<Self, PolicyError> {
        Self::from_file(&PolicyFile::default(), Some(format))
    }

    /// The rules of `file` before ours. `format` takes the place of the file's.
    ///
    /// # Errors
    /// When a format is unknown or missing, or a pattern empty.
    pub fn from_file(file: &PolicyFile, format: Option<&str>) -> Result<Self, PolicyError> {
        let wanted = format.or(file.format.as_deref());
        let format = named(wanted.ok_or(PolicyError::NoFormat)?)?;
        let rule = |rule: &RuleFile| match rule.names.is_empty() {
            true => Err(PolicyError::EmptyPattern {
                format: rule.format.clone(),
            }),
            false => Ok((rule.names.clone(), named(&rule.format)?)),
        };
        let rules = file.tensors.iter().map(rule).collect::<Result<_, _>>()?;
        Ok(Self { format, rules })
    }

    /// The format of what no rule names.
    #[must_use]
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// The format of a tensor of that name and shape.
    pub(super) fn choose(&self, name: &str, dimensions: &[u64]) -> Choice {
        let columns = dimensions[0];
        let (wanted, reason) = self.rule(name);
        if dimensions.len() == 1 || columns < COLUMNS_MIN {
            return Choice {
                wanted,
                format: WeightFormat::F32,
                reason: Reason::Small,
            };
        }
        let suits = |format: &WeightFormat| columns.is_multiple_of(format.block_len() as u64);
        let format = [wanted, coarser(wanted), WeightFormat::F16]
            .into_iter()
            .find(suits)
            .unwrap_or(WeightFormat::F16);
        Choice {
            wanted,
            format,
            reason: match format == wanted {
                true => reason,
                false => Reason::Fallback,
            },
        }
    }

    fn rule(&self, name: &str) -> (WeightFormat, Reason) {
        let mut given = self.rules.iter();
        if let Some((pattern, format)) = given.find(|(pattern, _)| fits(pattern, name)) {
            return (*format, Reason::Rule(pattern.clone()));
        }
        match RULES.iter().find(|(pattern, _)| fits(pattern, name)) {
            Some((_, Some(format))) => (*format, Reason::Kept),
            Some((_, None)) if !at_least_q6_k(self.format) => (WeightFormat::Q6_K, Reason::Kept),
            _ => (self.format, Reason::Asked),
        }
    }
}

fn at_least_q6_k(format: WeightFormat) -> bool {
    matches!(
        format,
        WeightFormat::F32
            | WeightFormat::F16
            | WeightFormat::Bf16
            | WeightFormat::Q8_0
            | WeightFormat::Q6_K
    )
}

/// The format with smaller blocks for rows that a format does not suit.
fn coarser(format: WeightFormat) -> WeightFormat {
    match format {
        WeightFormat::Q2_K | WeightFormat::Q3_K | WeightFormat::IQ4_XS => WeightFormat::IQ4_NL,
        WeightFormat::Q4_K => WeightFormat::Q5_0,
        WeightFormat::Q5_K => WeightFormat::Q5_1,
        WeightFormat::Q6_K => WeightFormat::Q8_0,
        _ => WeightFormat::F16,
    }
}

/// The format of that name, in capitals or not.
fn named(name: &str) -> Result<WeightFormat, PolicyError> {
    let mut known = WeightFormat::ALL.into_iter();
    match known.find(|format| format.name().eq_ignore_ascii_case(name)) {
        Some(WeightFormat::Int8) => Err(PolicyError::Int8),
        Some(format) => Ok(format),
        None => {
            let known = WeightFormat::ALL.into_iter();
            let known = known.filter(|format| *format != WeightFormat::Int8);
            Err(PolicyError::UnknownFormat {
                known: known.map(WeightFormat::name).collect::<Vec<_>>().join(", "),
                name: name.to_owned(),
            })
        }
    }
}

/// Whether a name is one that a pattern stands for.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut position) = (0, 0);
    // Behind the last star, and where in the name what it stands for ends.
    let mut star = None;
    while position < name.len() {
        match pattern.get(at) {
            Some('*') => {
                at += 1;
                star = Some((at, position));
            }
            Some(wanted) if *wanted == '?' || *wanted == name[position] => {
                at += 1;
                position += 1;
            }
            _ => match &mut star {
                Some((behind, end)) => {
                    *end += 1;
                    (at, position) = (*behind, *end);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_fit_what_they_say() {
        for (pattern, name, wanted) in [
            ("blk.*.ffn_down.weight", "blk.12.ffn_down.weight", true),
            ("blk.?.ffn_down.weight", "blk.12.ffn_down.weight", false),
            ("blk.?.ffn_down.weight", "blk.1.ffn_down.weight", true),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "ababa", false),
            ("?", "é", true),
            ("output.weight", "attn_output.weight", false),
        ] {
            assert_eq!(fits(pattern, name), wanted, "{pattern} {name}");
        }
    }

    proptest! {
        /// The same as by trying every way to split the name.
        #[test]
        fn patterns_fit_as_by_definition(pattern in "[ab*?]{0,8}", name in "[ab]{0,10}") {
            fn by_definition(pattern: &[u8], name: &[u8]) -> bool {
                match pattern.split_first() {
                    None => name.is_empty(),
                    Some((b'*', rest)) => (0..=name.len()).any(|skip| by_definition(rest, &name[skip..])),
                    Some((one, rest)) => name.split_first().is_some_and(|(first, behind)| {
                        (*one == b'?' || one == first) && by_definition(rest, behind)
                    }),
                }
            }
            prop_assert_eq!(fits(&pattern, &name), by_definition(pattern.as_bytes(), name.as_bytes()));
        }
    }

    fn choice(policy: &Policy, name: &str, dimensions: &[u64]) -> (&'static str, Reason) {
        let choice = policy.choose(name, dimensions);
        (choice.format.name(), choice.reason)
    }

    #[test]
    fn what_decides_much_is_kept_high() {
        let policy = Policy::new("q4_k").unwrap();
        for (name, dimensions, format, reason) in [
            ("blk.0.ffn_up.weight", &[512, 8][..], "Q4_K", Reason::Asked),
            ("blk.0.attn_output.weight", &[512, 8], "Q6_K", Reason::Kept),
            ("token_embd.weight", &[512, 8], "Q6_K", Reason::Kept),
            ("token_embd.weight", &[96, 8], "Q8_0", Reason::Fallback),
            ("output.weight", &[512, 8], "Q6_K", Reason::Kept),
            ("output_norm.weight", &[512], "F32", Reason::Small),
            (
                "blk.0.shortconv.conv.weight",
                &[3, 512],
                "F32",
                Reason::Small,
            ),
            ("blk.0.ffn_gate_inp.weight", &[512, 32], "F32", Reason::Kept),
            ("blk.0.ffn_up.weight", &[96, 8], "Q5_0", Reason::Fallback),
            ("blk.0.ffn_up.weight", &[100, 8], "F16", Reason::Fallback),
        ] {
            assert_eq!(
                choice(&policy, name, dimensions),
                (format, reason),
                "{name}"
            );
        }
        let better = Policy::new("F16").unwrap();
        assert_eq!(
            choice(&better, "output.weight", &[512, 8]),
            ("F16", Reason::Asked)
        );
    }

    #[test]
    fn rules_of_a_file_go_first_and_the_first_of_them() {
        let file: PolicyFile = toml::from_str(
            "format = \"Q4_0\"\n\
             [[tensors]]\nnames = \"blk.0.*\"\nformat = \"Q8_0\"\n\
             [[tensors]]\nnames = \"*\"\nformat = \"iq4_nl\"\n",
        )
        .unwrap();
        let policy = Policy::from_file(&file, None).unwrap();
        let rule = |pattern: &str| Reason::Rule(pattern.to_owned());
        assert_eq!(
            choice(&policy, "blk.0.ffn_up.weight", &[64, 8]),
            ("Q8_0", rule("blk.0.*"))
        );
        assert_eq!(
            choice(&policy, "output.weight", &[64, 8]),
            ("IQ4_NL", rule("*"))
        );
        assert_eq!(
            choice(&policy, "output_norm.weight", &[64]),
            ("F32", Reason::Small)
        );
        assert_eq!(policy.format(), WeightFormat::Q4_0);
        let policy = Policy::from_file(&file, Some("Q5_1")).unwrap();
        assert_eq!(policy.format(), WeightFormat::Q5_1);
    }

    #[test]
    fn what_is_no_policy_says_why() {
        let error = |text: &str| {
            let file: PolicyFile = toml::from_str(text).unwrap();
            Policy::from_file(&file, None).unwrap_err().to_string()
        };
        assert_eq!(error(""), "policy names no format, and none is asked for");
        assert_eq!(
            error("format = \"Q9\""),
            "unknown format (known: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, \
             IQ4_NL, IQ4_XS): Q9"
        );
        assert_eq!(
            error("format = \"int8\""),
            "no GGUF file can carry the format, which belongs to the int profile; Q8_0 is the file format nearest to \
             it: INT8"
        );
        assert_eq!(
            error("format = \"F16\"\n[[tensors]]\nnames = \"\"\nformat = \"F16\""),
            "rule has no pattern: F16"
        );
        assert!(toml::from_str::<PolicyFile>("formats = \"F16\"").is_err());
    }
}
