//! What became of a model, for scripts and for people.

use anyhow::Result;
use lockstep_model::{
    perplexity::Perplexity,
    quantize::{Calibration, Planned, Reason},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Write},
    path::PathBuf,
};

/// A perplexity, in pieces of so many tokens.
pub(super) struct Measured {
    pub(super) found: Perplexity,
    pub(super) context: usize,
}

pub(super) struct Report {
    pub(super) input: PathBuf,
    pub(super) output: PathBuf,
    pub(super) format: &'static str,
    pub(super) bytes_before: u64,
    pub(super) bytes_after: u64,
    /// BLAKE3 of the output.
    pub(super) digest: String,
    pub(super) tensors: Vec<Planned>,
    /// Before and after.
    pub(super) perplexity: Option<(Measured, Measured)>,
}

impl Report {
    pub(super) fn print(&self, as_json: bool) -> Result<()> {
        let mut out = io::stdout();
        match as_json {
            true => writeln!(out, "{}", self.json())?,
            false => write!(out, "{self}")?,
        }
        Ok(())
    }

    fn bits_per_weight(&self) -> f64 {
        let sum = |of: fn(&Planned) -> u64| self.tensors.iter().map(of).sum::<u64>() as f64;
        8.0 * sum(|tensor| tensor.bytes_after) / sum(|tensor| tensor.elements)
    }

    fn json(&self) -> Value {
        let tensors: Vec<_> = self
            .tensors
            .iter()
            .map(|tensor| {
                json!({
                    "tensor": tensor.tensor,
                    "from": tensor.from.name(),
                    "to": tensor.to.name(),
                    "wanted": tensor.wanted.name(),
                    "reason": reason(&tensor.reason),
                    "bytes_before": tensor.bytes_before,
                    "bytes_after": tensor.bytes_after,
                    "calibrated": tensor.calibrated,
                })
            })
            .collect();
        let measured = |measured: &Measured| {
            json!({
                "perplexity": measured.found.value(),
                "standard_error": measured.found.value() * measured.found.standard_error,
            })
        };
        let perplexity = self.perplexity.as_ref().map(|(before, after)| {
            json!({
                "before": measured(before),
                "after": measured(after),
                "tokens_predicted": after.found.tokens,
                "pieces": after.found.pieces,
                "context": after.context,
            })
        });
        json!({
            "input": self.input,
            "output": self.output,
            "format": self.format,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "bits_per_weight": self.bits_per_weight(),
            "digest": self.digest,
            "tensors": tensors,
            "perplexity": perplexity,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut formats: BTreeMap<&str, (usize, u64, u64)> = BTreeMap::new();
        for tensor in &self.tensors {
            let (count, before, after) = formats.entry(tensor.to.name()).or_default();
            *count += 1;
            *before += tensor.bytes_before;
            *after += tensor.bytes_after;
        }
        writeln!(formatter, "format  tensors  MB before  MB after")?;
        for (format, (count, before, after)) in &formats {
            writeln!(
                formatter,
                "{format:<7} {count:>7} {:>10} {:>9}",
                megabytes(*before),
                megabytes(*after)
            )?;
        }
        let count = |is: fn(&Reason) -> bool| {
            let tensors = self.tensors.iter();
            tensors.filter(|tensor| is(&tensor.reason)).count()
        };
        writeln!(
            formatter,
            "whole file {} MB before, {} MB after ({:.1} %), {:.2} bits per weight",
            megabytes(self.bytes_before),
            megabytes(self.bytes_after),
            100.0 * self.bytes_after as f64 / self.bytes_before as f64,
            self.bits_per_weight(),
        )?;
        let kept = count(|reason| *reason == Reason::Kept);
        if kept > 0 {
            writeln!(formatter, "kept high by default: {kept} tensors")?;
        }
        let mut fallbacks: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for tensor in &self.tensors {
            if tensor.reason == Reason::Fallback {
                let pair = (tensor.wanted.name(), tensor.to.name());
                fallbacks.entry(pair).or_default().push(&tensor.tensor);
            }
        }
        for ((wanted, format), tensors) in fallbacks {
            let more = match tensors.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            writeln!(
                formatter,
                "{format} instead of {wanted}, for rows that are not whole blocks: {}{more}",
                tensors[0]
            )?;
        }
        let calibrated = self.tensors.iter().filter(|tensor| tensor.calibrated);
        let calibrated = calibrated.count();
        if calibrated > 0 {
            writeln!(formatter, "calibrated: {calibrated} tensors")?;
        }
        if let Some((before, after)) = &self.perplexity {
            let (old, new) = (before.found.value(), after.found.value());
            writeln!(
                formatter,
                "perplexity {old:.4} before, {new:.4} after ({:+.2} %), {} tokens predicted in {} pieces of {}",
                100.0 * (new / old - 1.0),
                after.found.tokens,
                after.found.pieces,
                after.context,
            )?;
        }
        writeln!(formatter, "digest {}", self.digest)
    }
}

/// In powers of ten; small files have decimals.
fn megabytes(bytes: u64) -> String {
    let megabytes = bytes as f64 / 1e6;
    match bytes {
        ..10_000_000 => format!("{megabytes:.3}"),
        _ => format!("{megabytes:.1}"),
    }
}

fn reason(reason: &Reason) -> Value {
    match reason {
        Reason::Asked => json!("asked"),
        Reason::Rule(names) => json!({ "rule": names }),
        Reason::Kept => json!("kept"),
        Reason::Small => json!("small"),
        Reason::Fallback => json!("fallback"),
    }
}

/// A calibration as a file: what was measured, and what INT8 makes of it.
pub(super) fn ranges(calibration: &Calibration) -> Value {
    let tensors = calibration.tensors.iter().map(|(name, columns)| {
        let (scales, zero_points): (Vec<_>, Vec<_>) = columns.int8().into_iter().unzip();
        let columns = json!({
            "count": columns.count,
            "minima": columns.minima,
            "maxima": columns.maxima,
            "mean_squares": columns.mean_squares,
            "int8": { "scales": scales, "zero_points": zero_points },
        });
        (name.clone(), columns)
    });
    json!({ "tensors": tensors.collect::<serde_json::Map<_, _>>() })
}
