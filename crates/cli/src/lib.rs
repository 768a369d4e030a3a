//! The `lockstep` command line, one file per subcommand.
//!
//! Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 the user's input, 2 usage,
//! 3 the surroundings, 255 a fault of ours.
#![forbid(unsafe_code)]
// Nothing here is replicated: people want to see how long things take.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod adapter;
mod bench;
mod builtin;
mod ceremony;
mod chat;
mod choice;
mod client;
mod corpus;
mod demo;
mod embedded;
mod error;
mod genesis;
mod inspect;
mod kernels;
mod launcher;
mod logs;
mod memory;
mod merge;
mod models;
mod network;
mod node;
mod output;
mod perplexity;
mod prepare;
mod progress;
mod pull;
mod quantize;
mod resident;
mod run;
mod script;
mod selftest;
mod stop;
mod store;
mod text;
mod up;
mod verify;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Deterministic parallel canisters: models, replicas and certificates in one binary.
#[derive(Debug, Parser)]
#[command(name = "lockstep", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch a model into the store.
    Pull(pull::Arguments),
    /// List the models in the store, or remove one.
    Models(models::Arguments),
    /// Show what is in a model file, also in one that cannot be run.
    Inspect(inspect::Arguments),
    /// Talk with a model in the terminal, or by lines of standard input.
    Chat(chat::Arguments),
    /// Write a model as it is used, so that it opens at once, however large.
    Prepare(prepare::Arguments),
    /// Answer a prompt on this machine, without replicas.
    Run(run::Arguments),
    /// Recompute a transcript and say whether it is equal, or where it first differs.
    Verify(verify::Arguments),
    /// Import adapters, which change a model without touching it.
    Adapter(adapter::Arguments),
    /// Write a model with an adapter added to its weights.
    Merge(merge::Arguments),
    /// Measure how fast a model runs on this machine.
    Bench(bench::Arguments),
    /// Write a model with its weights in another format.
    Quantize(quantize::Arguments),
    /// Measure how well a model predicts a text.
    Perplexity(perplexity::Arguments),
    /// Check that this processor computes the frozen bits, on every instruction set it has.
    Selftest(selftest::Arguments),
    /// Run a script of installations and calls on canisters, and print the results.
    Script(script::Arguments),
    /// Start a subnet in this process and serve it until told to stop.
    Up(up::Arguments),
    /// Deal the keys of a subnet whose nodes run on machines of their own.
    Genesis(genesis::Arguments),
    /// Make the keys of such a subnet together with the operators of its other nodes.
    Ceremony(ceremony::Arguments),
    /// Start one node of a subnet and serve it until told to stop.
    Node(node::Arguments),
    /// Fetch the model, start four replicas, install a canister, ask it, verify the answer.
    Demo(demo::Arguments),
}

/// Parses the process's arguments, runs the command, reports its failure.
#[must_use]
pub fn main() -> ExitCode {
    // As the launcher of `icp` it has no subcommand.
    match launcher::Arguments::parse(std::env::args_os()) {
        Ok(None) => {}
        Ok(Some(arguments)) => return exit(launcher::run(&arguments)),
        Err(error) => return error::report(&error),
    }
    let arguments = Arguments::parse();
    exit(match &arguments.command {
        Command::Pull(arguments) => pull::run(arguments),
        Command::Models(arguments) => models::run(arguments),
        Command::Inspect(arguments) => inspect::run(arguments),
        Command::Chat(arguments) => chat::run(arguments),
        Command::Prepare(arguments) => prepare::run(arguments),
        Command::Run(arguments) => run::run(arguments),
        Command::Verify(arguments) => verify::run(arguments),
        Command::Adapter(arguments) => adapter::run(arguments),
        Command::Merge(arguments) => merge::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::Quantize(arguments) => quantize::run(arguments),
        Command::Perplexity(arguments) => perplexity::run(arguments),
        Command::Selftest(arguments) => selftest::run(arguments),
        Command::Script(arguments) => script::run(arguments),
        Command::Up(arguments) => up::run(arguments),
        Command::Genesis(arguments) => genesis::run(arguments),
        Command::Ceremony(arguments) => ceremony::run(arguments),
        Command::Node(arguments) => node::run(arguments),
        Command::Demo(arguments) => demo::run(arguments),
    })
}

fn exit(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error::report(&error),
    }
}
