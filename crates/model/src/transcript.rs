//! Transcripts: a generation written down so that anybody with the model can check it.
//!
//! # Design
//! JSON. Every step has its token, the digest of its logits and a link of a [`chain`] that binds
//! them to all before and to the header, so that the last link stands for the whole run.
//! [`Transcript::verify`] computes everything again and names the first step that differs.
//!
//! What a generation did not ask for is not written, so that transcripts without it read and hash as
//! they did before it could be asked for.
//!
//! # Errors
//! A transcript is untrusted: unknown versions and fields, digests of a wrong length and counts
//! that disagree are [`TranscriptError`]s.
pub mod chain;
#[cfg(test)]
mod tests;

use crate::{
    adapter::Adapter,
    digest::Digest,
    generate::{Ended, Generation, GenerationError, PREFILL_CHUNK, Params, Prompt},
    graph::Work,
    model::Model,
    sample::Sampling,
    steer::Steering,
};
use lockstep_numeric::{ARITHMETIC_VERSION, Kernels, KvFormat};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// The format written and read here.
pub const FORMAT_VERSION: u32 = 1;
/// The arithmetic profile of every operation of this crate.
pub const PROFILE: &str = "f32";

/// A generation, written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transcript {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Version of the canonical arithmetic.
    pub arithmetic_version: u32,
    /// [`PROFILE`].
    pub profile: String,
    /// BLAKE3 of the model file.
    pub model_digest: Digest,
    /// The name the model gives itself; for people, not checked.
    pub model_name: String,
    /// [`Adapter::digest`] of the adapter, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter_digest: Option<Digest>,
    /// How keys and values were kept.
    #[serde(default, with = "kv", skip_serializing_if = "is_f16")]
    pub kv: KvFormat,
    /// What was asked.
    pub prompt: Prompt,
    /// The tokens it became.
    pub prompt_tokens: Vec<u32>,
    /// How tokens were chosen.
    pub sampling: Sampling,
    /// What steered the text besides.
    #[serde(default, skip_serializing_if = "Steering::is_empty")]
    pub steering: Steering,
    /// First link of the chain: binds all of the above but the name and the prompt's wording.
    pub first_link: Digest,
    /// The generated tokens.
    pub steps: Vec<Step>,
    /// Whether the model ended the text; otherwise it was cut off.
    pub end_of_text: bool,
    /// What ended the text when steering did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steered_end: Option<Ended>,
    /// The text, with U+FFFD for incomplete characters.
    pub text: String,
}

/// One generated token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The token.
    pub token: u32,
    /// BLAKE3 of the logits, f32 little-endian.
    pub logits_digest: Digest,
    /// The chain after this step.
    pub link: Digest,
}

/// Why a transcript cannot be read or checked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TranscriptError {
    #[error("not a transcript: {reason}")]
    Malformed { reason: String },
    #[error("unsupported {what} (supported: {supported}): {found}")]
    Unsupported {
        what: &'static str,
        supported: String,
        found: String,
    },
    #[error("transcript is of another model: it names {named}, this is {given}")]
    OtherModel { named: Digest, given: Digest },
    #[error("transcript is of adapter {named}, given was: {given}")]
    OtherAdapter { named: String, given: String },
    #[error("cannot compute the transcript again")]
    Generation(#[from] GenerationError),
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Every bit is as recorded.
    Equal,
    /// The first difference.
    Differs {
        /// Index of the generated token; none when it lies outside of the steps.
        step: Option<usize>,
        /// What differs.
        what: What,
        /// As recorded.
        recorded: String,
        /// As computed.
        computed: String,
    },
}

/// A part of a transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum What {
    PromptTokens,
    FirstLink,
    LogitsDigest,
    Token,
    Link,
    Length,
    Ending,
    Text,
}

impl fmt::Display for What {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::PromptTokens => "prompt tokens",
            Self::FirstLink => "first link of the chain",
            Self::LogitsDigest => "digest of the logits",
            Self::Token => "token",
            Self::Link => "link of the chain",
            Self::Length => "number of tokens",
            Self::Ending => "ending",
            Self::Text => "text",
        })
    }
}

impl Transcript {
    /// Generates up to `tokens_max` tokens and writes the run down.
    ///
    /// # Errors
    /// When generation fails.
    pub fn record(
        model: Arc<Model>,
        kernels: Arc<Kernels>,
        prompt: Prompt,
        sampling: Sampling,
        tokens_max: u32,
    ) -> Result<Self, GenerationError> {
        let params = Params {
            sampling,
            ..Params::default()
        };
        Self::record_with(model, kernels, prompt, params, tokens_max, |_| ())
    }

    /// As [`Self::record`], with more parameters, of which chunk and number of tokens do not count; `hear` gets the text
    /// bytes so far, as far as they will stay, after every token.
    ///
    /// # Errors
    /// When generation fails.
    pub fn record_with(
        model: Arc<Model>,
        kernels: Arc<Kernels>,
        prompt: Prompt,
        params: Params,
        tokens_max: u32,
        mut hear: impl FnMut(&[u8]),
    ) -> Result<Self, GenerationError> {
        let params = Params {
            prefill_chunk: PREFILL_CHUNK,
            tokens_max: Some(tokens_max as usize),
            ..params
        };
        let given = params.clone();
        let mut generation = Generation::start(Arc::clone(&model), kernels, &prompt, params)?;
        let first_link = generation.progress().chain;
        let mut steps = Vec::new();
        for count in 1..=tokens_max {
            generation.advance(count, Work::MAX)?;
            match step(&generation, count as usize - 1) {
                Some(step) => steps.push(step),
                None => break,
            }
            hear(&generation.progress().text[..generation.settled()]);
        }
        let progress = generation.progress();
        Ok(Self {
            format_version: FORMAT_VERSION,
            arithmetic_version: ARITHMETIC_VERSION,
            profile: PROFILE.to_owned(),
            model_digest: model.digest(),
            model_name: model.name().to_owned(),
            adapter_digest: given.adapter.map(|adapter| adapter.digest()),
            kv: given.kv,
            prompt,
            prompt_tokens: generation.prompt_tokens().to_vec(),
            sampling: given.sampling,
            steering: given.steering,
            first_link,
            steps,
            end_of_text: progress.ended == Some(Ended::EndOfText),
            steered_end: steered_end(progress.ended),
            text: String::from_utf8_lossy(&progress.text).into_owned(),
        })
    }

    /// Reads a transcript.
    ///
    /// # Errors
    /// When it is not one, or of a version this crate does not know.
    pub fn from_json(json: &str) -> Result<Self, TranscriptError> {
        let malformed = |error: serde_json::Error| TranscriptError::Malformed {
            reason: error.to_string(),
        };
        // The version decides about the rest, so it is looked at first and alone.
        #[derive(Deserialize)]
        struct Versioned {
            format_version: u32,
        }
        let Versioned { format_version } = serde_json::from_str(json).map_err(malformed)?;
        supported("format version", FORMAT_VERSION, format_version)?;
        let transcript: Self = serde_json::from_str(json).map_err(malformed)?;
        supported(
            "arithmetic version",
            ARITHMETIC_VERSION,
            transcript.arithmetic_version,
        )?;
        supported("profile", PROFILE, transcript.profile.as_str())?;
        Ok(transcript)
    }

    /// Writes the transcript.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a transcript is plain data")
    }

    /// Computes the run again and compares.
    ///
    /// # Errors
    /// When the transcript is of another model or the run cannot be computed.
    pub fn verify(
        &self,
        model: Arc<Model>,
        kernels: Arc<Kernels>,
    ) -> Result<Outcome, TranscriptError> {
        self.verify_adapted(model, kernels, None)
    }

    /// As [`Self::verify`] of a transcript of a run with an adapter, if one is given.
    ///
    /// # Errors
    /// As [`Self::verify`], and when the transcript is of another adapter or of none.
    pub fn verify_adapted(
        &self,
        model: Arc<Model>,
        kernels: Arc<Kernels>,
        adapter: Option<Arc<Adapter>>,
    ) -> Result<Outcome, TranscriptError> {
        if self.model_digest != model.digest() {
            return Err(TranscriptError::OtherModel {
                named: self.model_digest,
                given: model.digest(),
            });
        }
        let given = adapter.as_ref().map(|adapter| adapter.digest());
        if self.adapter_digest != given {
            let text = |digest: Option<Digest>| digest.map_or("none".to_owned(), |d| d.to_string());
            return Err(TranscriptError::OtherAdapter {
                named: text(self.adapter_digest),
                given: text(given),
            });
        }
        let params = Params {
            sampling: self.sampling,
            steering: self.steering.clone(),
            adapter,
            kv: self.kv,
            prefill_chunk: PREFILL_CHUNK,
            tokens_max: Some(self.steps.len()),
        };
        let mut generation = Generation::start(model, kernels, &self.prompt, params)?;
        let header = differs(
            None,
            What::PromptTokens,
            &Listed(&self.prompt_tokens),
            &Listed(generation.prompt_tokens()),
        )
        .or_else(|| {
            let computed = generation.progress().chain;
            differs(None, What::FirstLink, &self.first_link, &computed)
        });
        if let Some(outcome) = header {
            return Ok(outcome);
        }
        for (index, recorded) in self.steps.iter().enumerate() {
            generation.advance(index as u32 + 1, Work::MAX)?;
            let Some(computed) = step(&generation, index) else {
                return Ok(Outcome::Differs {
                    step: Some(index),
                    what: What::Length,
                    recorded: self.steps.len().to_string(),
                    computed: index.to_string(),
                });
            };
            let at = Some(index);
            let (digest, link) = (&recorded.logits_digest, &recorded.link);
            let outcome = differs(at, What::LogitsDigest, digest, &computed.logits_digest)
                .or_else(|| differs(at, What::Token, &recorded.token, &computed.token))
                .or_else(|| differs(at, What::Link, link, &computed.link));
            if let Some(outcome) = outcome {
                return Ok(outcome);
            }
        }
        let progress = generation.progress();
        let end_of_text = progress.ended == Some(Ended::EndOfText);
        let text = String::from_utf8_lossy(&progress.text);
        let steered_end = steered_end(progress.ended);
        Ok(differs(None, What::Ending, &self.end_of_text, &end_of_text)
            .or_else(|| {
                let (recorded, computed) = (Named(self.steered_end), Named(steered_end));
                differs(None, What::Ending, &recorded, &computed)
            })
            .or_else(|| differs(None, What::Text, self.text.as_str(), text.as_ref()))
            .unwrap_or(Outcome::Equal))
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_f16(kv: &KvFormat) -> bool {
    *kv == KvFormat::F16
}

/// Formats of keys and values by their names.
mod kv {
    use lockstep_numeric::KvFormat;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    pub(super) fn serialize<S: Serializer>(kv: &KvFormat, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(kv.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<KvFormat, D::Error> {
        let name = String::deserialize(from)?;
        KvFormat::named(&name)
            .ok_or_else(|| D::Error::custom(format!("unknown format of keys and values: {name}")))
    }
}

/// The ending, if steering made it.
fn steered_end(ended: Option<Ended>) -> Option<Ended> {
    ended.filter(|ended| matches!(ended, Ended::Stopped | Ended::Complete))
}

/// Step `index` as generated, if it was.
fn step(generation: &Generation, index: usize) -> Option<Step> {
    let progress = generation.progress();
    Some(Step {
        token: *progress.tokens.get(index)?,
        logits_digest: *generation.logits_digests().get(index)?,
        link: progress.chain,
    })
}

fn differs<T: PartialEq + fmt::Display + ?Sized>(
    step: Option<usize>,
    what: What,
    recorded: &T,
    computed: &T,
) -> Option<Outcome> {
    (recorded != computed).then(|| Outcome::Differs {
        step,
        what,
        recorded: recorded.to_string(),
        computed: computed.to_string(),
    })
}

fn supported<T: PartialEq + fmt::Display>(
    what: &'static str,
    supported: T,
    found: T,
) -> Result<(), TranscriptError> {
    if supported == found {
        return Ok(());
    }
    Err(TranscriptError::Unsupported {
        what,
        supported: supported.to_string(),
        found: found.to_string(),
    })
}

#[derive(PartialEq)]
struct Named(Option<Ended>);

impl fmt::Display for Named {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.0 {
            Some(Ended::EndOfText) => "end of text",
            Some(Ended::ContextFull) => "context full",
            Some(Ended::Stopped) => "stopped",
            Some(Ended::Complete) => "complete",
            None => "none",
        })
    }
}

#[derive(PartialEq)]
struct Listed<'a>(&'a [u32]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.0)
    }
}
