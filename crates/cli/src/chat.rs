//! `lockstep chat`: a conversation in the terminal, or by lines of standard input.
//!
//! # Design
//! An answer is that of `lockstep run` to the same messages: [`session`] keeps what the cache holds and computes only the
//! tokens that differ. At a terminal a failure is shown and the conversation goes on; from a pipe it ends the program.
//! Answers go to stdout and everything else to stderr, so that a script reads answers alone.

mod command;
mod input;
mod interrupt;
mod session;

use crate::{
    choice,
    error::{self, Failure},
    kernels, memory,
    run::{self, Stream},
};
use anyhow::Result;
use command::Command;
use input::{Input, Line};
use interrupt::Interrupt;
use session::{Answer, Session};
use std::{num::NonZeroUsize, ops::ControlFlow};

/// Positions that conversations have room for when not told otherwise.
const CONTEXT: usize = 8192;

/// Talks with a model.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Model: a .gguf file, a folder with a checkpoint, an alias, or a digest.
    model: String,
    /// Tokens of an answer at most.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Tokens of the whole conversation at most; 8192 or what the model was made for when not given.
    #[arg(long)]
    context: Option<NonZeroUsize>,
    /// Worker threads; all cores when not given. Answers do not depend on it.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Apply this adapter (LoRA), a file that names the model as its base.
    #[arg(long, value_name = "FILE")]
    adapter: Option<String>,
    /// What sets the scene.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    choice: choice::Flags,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let sampling = arguments.choice.sampling()?;
    let steering = arguments.choice.steering()?;
    let kv = arguments.choice.kv();
    let kernels = kernels::checked(arguments.threads)?;
    let model = run::open(&arguments.model)?;
    if model.template().is_none() {
        return Err(Failure::user("the model has no chat template")
            .hint("continue plain text instead: lockstep run MODEL TEXT --raw")
            .into());
    }
    let wanted = arguments.context.map_or(CONTEXT, NonZeroUsize::get);
    let context = wanted.min(model.context_length());
    memory::check("the conversation", model.graph().cache_bytes(kv, context))?;
    let mut session = Session::new(model, kernels, sampling, steering, kv);
    session.tokens = arguments.tokens;
    session.context = context;
    session.set_adapter(arguments.adapter.as_deref())?;
    if let Some(text) = &arguments.system {
        session.set_system(text);
    }
    let mut input = Input::open()?;
    let interrupt = Interrupt::listen(!input.is_terminal())?;
    if input.is_terminal() {
        eprintln!("{} · /help lists what else there is", session.model_name());
    }
    converse(&mut session, &mut input, &interrupt)
}

fn converse(session: &mut Session, input: &mut Input, interrupt: &Interrupt) -> Result<()> {
    loop {
        let done = match input.next()? {
            Line::End => return Ok(()),
            Line::Interrupted => {
                eprintln!("/quit ends the conversation");
                continue;
            }
            Line::Text(line) => take(session, &line, interrupt),
        };
        match done {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => return Ok(()),
            Err(error) if input.is_terminal() => {
                error::report(&error);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Does what a line says.
fn take(session: &mut Session, line: &str, interrupt: &Interrupt) -> Result<ControlFlow<()>> {
    let line = line.trim();
    if line.is_empty() {
        return Ok(ControlFlow::Continue(()));
    }
    if line.starts_with('/') {
        return Command::parse(line)?.run(session);
    }
    let mut stream = Stream::new(true);
    let answer =
        interrupt.during(|stopped| session.ask(line, |text| stream.hear(text), stopped))?;
    stream.finish()?;
    match answer {
        Answer::Whole => {}
        Answer::Cut => eprintln!("(the answer was cut off: --tokens allows more)"),
        Answer::Full => eprintln!("(the conversation is full: /clear begins anew)"),
        Answer::Interrupted => eprintln!("(stopped)"),
    }
    Ok(ControlFlow::Continue(()))
}
