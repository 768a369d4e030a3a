//! `lockstep run`: answers a prompt on this machine, without replicas.

use crate::{
    adapter, choice,
    error::{Failure, chain},
    kernels, memory, output, prepare, progress,
    store::Store,
    text,
};
use anyhow::Result;
use lockstep_model::{
    GenerationError, Message, Model, Params, Prompt, Role, transcript::Transcript,
};
use std::{
    io::{self, Write},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

/// Answers a prompt.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Model: a .gguf file, a folder with a checkpoint, an alias, or a digest.
    model: String,
    /// What to ask.
    prompt: String,
    /// Tokens to generate at most.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Worker threads; all cores when not given. The answer does not depend on it.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    #[command(flatten)]
    choice: choice::Flags,
    /// Continue the prompt as plain text instead of answering it as a message.
    #[arg(long)]
    raw: bool,
    /// Apply this adapter (LoRA), a file that names the model as its base.
    #[arg(long, value_name = "FILE")]
    adapter: Option<PathBuf>,
    /// Write a transcript that `lockstep verify` can check.
    #[arg(long, value_name = "FILE")]
    transcript: Option<PathBuf>,
    /// Print the answer and figures as JSON instead of streaming text.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let sampling = arguments.choice.sampling()?;
    let steering = arguments.choice.steering()?;
    let kv = arguments.choice.kv();
    let kernels = kernels::checked(arguments.threads)?;
    let model = open(&arguments.model)?;
    let adapter = match &arguments.adapter {
        Some(path) => Some(adapter::open_for(path, &model, None)?),
        None => None,
    };
    let prompt = if arguments.raw {
        Prompt::Text(arguments.prompt.clone())
    } else {
        Prompt::Messages(vec![Message {
            role: Role::User,
            content: arguments.prompt.clone(),
        }])
    };

    let length = prompt.tokens(&model).map_err(unanswered)?.len();
    let positions = length.saturating_add(arguments.tokens as usize);
    let cache = model
        .graph()
        .cache_bytes(kv, positions.min(model.context_length()));
    memory::check("the answer's cache", cache)?;

    let begun = Instant::now();
    let mut stream = Stream::new(!arguments.json);
    let params = Params {
        sampling,
        steering,
        adapter,
        kv,
        ..Params::default()
    };
    let transcript = Transcript::record_with(
        Arc::clone(&model),
        Arc::clone(&kernels),
        prompt,
        params,
        arguments.tokens,
        |text| stream.hear(text),
    )
    .map_err(unanswered)?;
    let ended = Instant::now();
    stream.finish()?;

    let tokens = transcript.steps.len();
    let first = stream.first.unwrap_or(ended);
    let prefill = first.duration_since(begun).as_secs_f64();
    // The first token comes out of the prefill.
    let decode =
        tokens.saturating_sub(1) as f64 / ended.duration_since(first).as_secs_f64().max(1e-9);
    let chain = transcript
        .steps
        .last()
        .map_or(transcript.first_link, |step| step.link);
    if let Some(path) = &arguments.transcript {
        text::write(path, transcript.to_json().as_bytes())?;
    }
    if arguments.json {
        let report = serde_json::json!({
            "model": transcript.model_digest,
            "adapter": transcript.adapter_digest,
            "text": transcript.text,
            "tokens": tokens,
            "prompt_tokens": transcript.prompt_tokens.len(),
            "end_of_text": transcript.end_of_text,
            "steered_end": transcript.steered_end,
            "digest": chain,
            "isa": kernels.isa().name(),
            "threads": kernels.pool().threads(),
            "prefill_seconds": prefill,
            "decode_tokens_per_second": decode,
        });
        output::line(report)?;
    } else {
        eprintln!(
            "{} prompt tokens in {prefill:.2} s, {tokens} tokens at {decode:.1} per second ({}, {} threads)",
            transcript.prompt_tokens.len(),
            kernels.isa(),
            kernels.pool().threads(),
        );
        eprintln!("digest {chain}");
    }
    Ok(())
}

/// Why there is no answer, with what to do about it.
fn unanswered(error: GenerationError) -> Failure {
    let hint = match &error {
        GenerationError::PromptTooLong { .. } => {
            Some("ask in fewer words, or a model with a longer context")
        }
        GenerationError::NoTemplate => Some("--raw continues the prompt as plain text"),
        GenerationError::NothingAllowed { .. } => {
            Some("a bias that bans tokens leaves no way on; the schema or the bans must allow more")
        }
        _ => None,
    };
    let failure = Failure::user(chain(error));
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Opens a model by path, alias or digest.
pub(crate) fn open(name: &str) -> Result<Arc<Model>> {
    open_file(&Store::open()?.resolve(name)?)
}

/// Opens a model file, or the prepared one in its place.
pub(crate) fn open_file(path: &Path) -> Result<Arc<Model>> {
    if prepare::is_prepared(path) {
        return prepare::open(path);
    }
    if let Some(model) = prepare::beside(path) {
        return Ok(model);
    }
    memory::check("the model", memory::file_bytes(path))?;
    let spinner = progress::spinner(format!("loading {}", path.display()));
    let model = Model::open(path).map_err(|error| {
        let chain = anyhow::Error::new(error);
        Failure::user(format!("cannot open the model: {chain:#}")).into()
    });
    spinner.finish_and_clear();
    model
}

/// Text on stdout as it comes, whole characters at a time.
pub(crate) struct Stream {
    enabled: bool,
    printed: usize,
    first: Option<Instant>,
    error: Option<io::Error>,
}

impl Stream {
    pub(crate) fn new(enabled: bool) -> Self {
        Self {
            enabled,
            printed: 0,
            first: None,
            error: None,
        }
    }

    pub(crate) fn hear(&mut self, text: &[u8]) {
        self.first.get_or_insert_with(Instant::now);
        if !self.enabled {
            return;
        }
        let fresh = &text[self.printed..];
        let whole = match std::str::from_utf8(fresh) {
            Ok(_) => fresh.len(),
            // A character that may still be completed waits; broken bytes are printed as they are.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => fresh.len(),
        };
        let mut out = io::stdout().lock();
        if let Err(error) = out
            .write_all(String::from_utf8_lossy(&fresh[..whole]).as_bytes())
            .and_then(|()| out.flush())
        {
            self.error.get_or_insert(error);
        }
        self.printed += whole;
    }

    pub(crate) fn finish(&mut self) -> Result<()> {
        match self.error.take() {
            Some(error) => Err(output::unprinted(error)),
            None if self.enabled => output::line(""),
            None => Ok(()),
        }
    }
}
