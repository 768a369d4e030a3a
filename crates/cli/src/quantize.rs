//! `lockstep quantize`: writes a model with its weights in another format.
//!
//! # Design
//! Everything that can be wrong with the request is found before work begins: policy, texts, formats. The file is written
//! beside its final place and gets its name when it is whole and synced, so that nobody sees half of it.

mod report;

use crate::{
    corpus::{self, Text},
    error::{Failure, chain},
    kernels,
    output::{self, Output},
    progress,
    run::open_file,
    store::Store,
};
use anyhow::Result;
use lockstep_model::{
    file::Mapped,
    gguf::{Gguf, GgufError},
    quantize::{Calibration, Plan, Policy, PolicyFile, QuantizeError},
};
use lockstep_numeric::{Kernels, KvFormat};
use report::{Measured, Report};
use std::{
    fs,
    io::{self, Write},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Quantises a model.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Model: a .gguf file, an alias, or a digest.
    input: String,
    /// The file to write.
    output: PathBuf,
    /// Format of the weights that no rule names: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K,
    /// IQ4_NL or IQ4_XS. Norms, biases and routers stay F32; embeddings, output and the output of attention get
    /// Q6_K at least.
    #[arg(long, required_unless_present = "policy")]
    format: Option<String>,
    /// A TOML file with rules: `format = "Q4_K"`, and `[[tensors]]` with `names = "blk.*.ffn_down.weight"` and
    /// `format = "Q6_K"`. The first that fits counts.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Measure on this text what each column is multiplied with, and keep what matters more nearer.
    #[arg(long, value_name = "TEXT")]
    calibrate: Option<PathBuf>,
    /// Take no more than this many tokens of that text.
    #[arg(long, value_name = "COUNT", requires = "calibrate")]
    calibrate_tokens: Option<NonZeroUsize>,
    /// Write what was measured into this file, as JSON: per tensor and column the least, the greatest and the mean
    /// square, and the scale and zero-point of INT8.
    #[arg(long, value_name = "FILE", requires = "calibrate")]
    ranges: Option<PathBuf>,
    /// Measure the perplexity of this text before and after.
    #[arg(long, value_name = "TEXT")]
    perplexity: Option<PathBuf>,
    /// Take no more than this many tokens of that text.
    #[arg(long, value_name = "COUNT", requires = "perplexity")]
    tokens: Option<NonZeroUsize>,
    /// Tokens of a piece of either text; 512, or the model's context if that is less.
    #[arg(long, value_name = "COUNT")]
    context: Option<NonZeroUsize>,
    /// Quantise weights again that are quantised already.
    #[arg(long)]
    requantize: bool,
    /// Replace the output if it is there.
    #[arg(long)]
    force: bool,
    /// Worker threads; all cores when not given. The file does not depend on it.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let policy = policy(arguments)?;
    let read = |path: &Option<PathBuf>| path.as_deref().map(Text::read).transpose();
    let (calibrate, measure) = (read(&arguments.calibrate)?, read(&arguments.perplexity)?);
    let source = Store::open()?.resolve_gguf(&arguments.input)?;
    let mut output = Digested::new(Output::new(&arguments.output, arguments.force)?);
    let ranges = arguments.ranges.as_deref();
    let ranges =
        ranges.map(|path| Ok::<_, anyhow::Error>((path, Output::new(path, arguments.force)?)));
    let ranges = ranges.transpose()?;

    let opening = |error: GgufError| Failure::user(format!("cannot open the model: {error}"));
    let mapped = Mapped::model(&source).map_err(Failure::from)?;
    let gguf = Gguf::parse_parts(&mapped.parts()).map_err(opening)?;
    // Before anything that takes long.
    Plan::new(&gguf, &policy, None, arguments.requantize).map_err(failure)?;

    let kernels = kernels::checked(arguments.threads)?;
    let calibration = match &calibrate {
        Some(text) => Some(calibration(arguments, &source, &kernels, text)?),
        None => None,
    };
    if let (Some((path, mut ranges)), Some(calibration)) = (ranges, &calibration) {
        let json = report::ranges(calibration).to_string();
        ranges.write(json.as_bytes())?;
        ranges.whole()?.name(path)?;
    }
    let before = match &measure {
        Some(text) => Some(perplexity(
            arguments,
            &source,
            &kernels,
            text,
            "perplexity before",
        )?),
        None => None,
    };

    let plan = Plan::new(&gguf, &policy, calibration.as_ref(), arguments.requantize);
    let plan = plan.map_err(failure)?;
    let bar = progress::bytes(
        "quantising",
        plan.tensors().map(|one| one.bytes_before).sum(),
    );
    let mut previous = 0;
    let written = plan.write(kernels.pool(), &mut output, |tensor| {
        bar.inc(previous);
        previous = tensor.bytes_before;
    });
    bar.finish_and_clear();
    written.map_err(|error| match error {
        QuantizeError::Write(source) => output::unwritable(&arguments.output, &source).into(),
        other => failure(other),
    })?;
    let (bytes, digest) = (output.bytes, output.hasher.finalize());
    output.output.whole()?.name(&arguments.output)?;

    let after = match &measure {
        Some(text) => Some(perplexity(
            arguments,
            &arguments.output,
            &kernels,
            text,
            "perplexity after",
        )?),
        None => None,
    };
    let report = Report {
        input: source,
        output: arguments.output.clone(),
        format: policy.format().name(),
        bytes_before: mapped.bytes(),
        bytes_after: bytes,
        digest: digest.to_string(),
        tensors: plan.tensors().cloned().collect(),
        perplexity: before.zip(after),
    };
    report.print(arguments.json)
}

/// A file on its way, and the digest of what is written.
struct Digested {
    output: Output,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Digested {
    fn new(output: Output) -> Self {
        Self {
            output,
            hasher: blake3::Hasher::new(),
            bytes: 0,
        }
    }
}

impl Write for Digested {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = Write::write(&mut self.output, bytes)?;
        self.hasher.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

fn policy(arguments: &Arguments) -> Result<Policy> {
    let mut file = PolicyFile::default();
    if let Some(path) = &arguments.policy {
        let text = fs::read_to_string(path)
            .map_err(|error| Failure::user(format!("cannot read {}: {error}", path.display())))?;
        file = toml::from_str(&text).map_err(|error| {
            let (message, path) = (error.message().to_owned(), path.display());
            let line = error.span().map_or(1, |span| {
                1 + text[..span.start.min(text.len())].matches('\n').count()
            });
            Failure::user(format!(
                "policy is not as it has to be at {path}:{line}: {message}"
            ))
            .hint("format = \"Q4_K\", then [[tensors]] with names and format")
        })?;
    }
    Ok(Policy::from_file(&file, arguments.format.as_deref()).map_err(Failure::user)?)
}

fn failure(error: QuantizeError) -> anyhow::Error {
    let again = matches!(error, QuantizeError::AlreadyQuantized { .. });
    let failure = Failure::user(chain(error));
    match again {
        true => failure
            .hint("start from an F16 or F32 file, or allow it: --requantize")
            .into(),
        false => failure.into(),
    }
}

fn calibration(
    arguments: &Arguments,
    source: &Path,
    kernels: &Arc<Kernels>,
    text: &Text,
) -> Result<Calibration> {
    let model = open_file(source)?;
    let tokens = text.tokens(&model, arguments.calibrate_tokens)?;
    let context = corpus::context(arguments.context, &model)?;
    let bar = progress::steps(tokens.len()).with_message("calibrating");
    let found = Calibration::measure(&model, kernels, &tokens, context, |done| {
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    Ok(found.map_err(Failure::user)?)
}

fn perplexity(
    arguments: &Arguments,
    path: &Path,
    kernels: &Arc<Kernels>,
    text: &Text,
    message: &'static str,
) -> Result<Measured> {
    let model = open_file(path)?;
    let tokens = text.tokens(&model, arguments.tokens)?;
    let context = corpus::context(arguments.context, &model)?;
    let found = corpus::perplexity(&model, kernels, &tokens, context, KvFormat::F16, message)?;
    Ok(Measured { found, context })
}
