//! How tokens are chosen, as flags say it.

use crate::{error::Failure, text};
use anyhow::Result;
use lockstep_model::{Bias, Sampling, Steering};
use lockstep_numeric::KvFormat;
use std::{collections::BTreeMap, path::PathBuf};

/// Flags of every command that answers.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// Temperature; 0 always takes the most likely token.
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Sample among this many of the most likely tokens; 0 takes all.
    #[arg(long, default_value_t = 0)]
    top_k: u32,
    /// Sample among the most likely tokens up to this probability.
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// Sample among the tokens that are at least this likely, as a share of the most likely one.
    #[arg(long, default_value_t = 0.0)]
    min_p: f64,
    /// Make tokens of the window less likely: divides their logits above 0 and multiplies the others.
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f64,
    /// Subtract this from a token's logit for each time it is in the window.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f64,
    /// Subtract this from a token's logit if it is in the window.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f64,
    /// How many of the last tokens of prompt and answer penalties look at; 0 is all.
    #[arg(long, default_value_t = 64)]
    penalty_window: u32,
    /// Seed of the sampler.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// End the answer before this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Add VALUE to the logit of the token with number TOKEN; -inf bans it. May be given several times.
    #[arg(long, value_name = "TOKEN=VALUE", allow_hyphen_values = true)]
    bias: Vec<String>,
    /// How keys and values are kept: f16, q8 or q4. Smaller ones answer a little differently.
    #[arg(long, value_name = "FORMAT", default_value = "f16", value_parser = kv)]
    kv: KvFormat,
    /// Answer with a JSON value that the JSON schema in this file allows.
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
}

impl Flags {
    /// The sampling that the flags ask for.
    pub(crate) fn sampling(&self) -> Result<Sampling> {
        let frequency_penalty_milli = signed("--frequency-penalty", self.frequency_penalty)?;
        let presence_penalty_milli = signed("--presence-penalty", self.presence_penalty)?;
        let repetition_penalty_milli =
            thousandths("--repetition-penalty", self.repetition_penalty)?;
        if repetition_penalty_milli == 0 {
            return Err(Failure::user("--repetition-penalty takes a number above 0: 0").into());
        }
        let penalises = frequency_penalty_milli != 0
            || presence_penalty_milli != 0
            || repetition_penalty_milli != Sampling::GREEDY.repetition_penalty_milli;
        Ok(Sampling {
            temperature_milli: thousandths("--temperature", self.temperature)?,
            top_k: self.top_k,
            top_p_milli: share("--top-p", self.top_p)?,
            seed: self.seed,
            min_p_milli: share("--min-p", self.min_p)?,
            repetition_penalty_milli,
            frequency_penalty_milli,
            presence_penalty_milli,
            // A window that nothing looks through stays out of transcripts.
            penalty_window: if penalises { self.penalty_window } else { 0 },
        })
    }

    /// How keys and values are kept.
    pub(crate) fn kv(&self) -> KvFormat {
        self.kv
    }

    /// The steering that the flags ask for; reads the schema's file.
    pub(crate) fn steering(&self) -> Result<Steering> {
        let bias = self.bias.iter().map(|flag| bias(flag));
        let schema = self.schema.as_deref().map(text::read);
        Ok(Steering {
            bias: bias.collect::<Result<BTreeMap<_, _>>>()?,
            stop: self.stop.clone(),
            schema: schema.transpose()?,
        })
    }
}

/// The format of keys and values that a flag names.
pub(crate) fn kv(name: &str) -> Result<KvFormat, String> {
    KvFormat::named(name).ok_or_else(|| {
        let names = KvFormat::ALL.map(KvFormat::name).join(", ");
        format!("unknown format (known: {names})")
    })
}

/// A non-negative number with three decimals as an integer.
pub(crate) fn thousandths(flag: &str, value: f64) -> Result<u32> {
    if !(0.0..=1000.0).contains(&value) {
        return Err(Failure::user(format!("{flag} takes a number from 0 to 1000: {value}")).into());
    }
    Ok(in_thousandths(flag, value)? as u32)
}

/// What is not 0 does not become it, which would mean another thing than a little.
fn in_thousandths(flag: &str, value: f64) -> Result<f64> {
    let rounded = (value * 1000.0).round();
    if rounded == 0.0 && value != 0.0 {
        return Err(Failure::user(format!("{flag} takes whole thousandths: {value}")).into());
    }
    Ok(rounded)
}

/// A share of 1 with three decimals as an integer.
fn share(flag: &str, value: f64) -> Result<u32> {
    if !(0.0..=1.0).contains(&value) {
        return Err(Failure::user(format!("{flag} takes a number from 0 to 1: {value}")).into());
    }
    thousandths(flag, value)
}

/// A number with three decimals as an integer.
fn signed(flag: &str, value: f64) -> Result<i32> {
    if !(-1000.0..=1000.0).contains(&value) {
        return Err(
            Failure::user(format!("{flag} takes a number from -1000 to 1000: {value}")).into(),
        );
    }
    Ok(in_thousandths(flag, value)? as i32)
}

fn bias(flag: &str) -> Result<(u32, Bias)> {
    let parse = || {
        let (token, value) = flag.split_once('=')?;
        let token = token.trim().parse().ok()?;
        let value: f64 = value.trim().parse().ok()?;
        let bias = match value {
            f64::NEG_INFINITY => Bias::Ban,
            _ => Bias::Milli(signed("--bias", value).ok()?),
        };
        Some((token, bias))
    };
    parse().ok_or_else(|| {
        Failure::user(format!("--bias takes TOKEN=VALUE: {flag}"))
            .hint(
                "TOKEN is the number of a token, VALUE from -1000 to 1000 or -inf: --bias 42=-1.5",
            )
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_little_does_not_become_nothing() {
        assert_eq!(thousandths("--temperature", 0.0005).unwrap(), 1);
        assert_eq!(thousandths("--temperature", 0.0).unwrap(), 0);
        assert_eq!(signed("--frequency-penalty", -0.0005).unwrap(), -1);
        let error = thousandths("--temperature", 0.0004).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--temperature takes whole thousandths: 0.0004"
        );
        assert!(signed("--frequency-penalty", -0.0004).is_err());
        assert!(share("--min-p", 1e-300).is_err());
    }

    #[test]
    fn a_bias_is_a_token_and_a_number() {
        assert_eq!(bias("42=-1.5").unwrap(), (42, Bias::Milli(-1500)));
        assert_eq!(bias("7=-inf").unwrap(), (7, Bias::Ban));
        assert_eq!(bias(" 7 = 2 ").unwrap(), (7, Bias::Milli(2000)));
        for none in ["", "7", "x=1", "-1=1", "7=", "7=inf", "7=nan", "7=1001"] {
            assert!(bias(none).is_err(), "{none}");
        }
    }
}
