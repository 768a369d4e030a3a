//! Answers a question with a model file: `generate MODEL PROMPT [TOKENS] [THREADS] [TEXT_FILE]`.
//!
//! With a text file it also says how well the model predicts that text. The answer goes to stdout, figures to stderr. `LOCKSTEP_ISA` chooses the instruction set.
use lockstep_model::{
    Generation, Message, Model, Params, Prompt, Role, Work,
    perplexity::mean_negative_log_likelihood,
    tokenizer::Control,
    transcript::{Outcome, Transcript},
};
use lockstep_numeric::{Isa, Kernels, Pool};
use std::{env, error::Error, fs, num::NonZeroUsize, path::Path, sync::Arc, time::Instant};

const PREFILL_CHUNK: NonZeroUsize = NonZeroUsize::new(64).unwrap();

#[allow(
    clippy::disallowed_methods,
    reason = "measures speed; nothing replicated"
)]
fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let (Some(path), Some(question)) = (arguments.next(), arguments.next()) else {
        return Err("usage: generate MODEL PROMPT [TOKENS] [THREADS] [TEXT_FILE]".into());
    };
    let tokens_max: u32 = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let threads: NonZeroUsize = arguments
        .next()
        .map_or(Ok(NonZeroUsize::MIN), |text| text.parse())?;

    let kernels = Arc::new(Kernels::new(Isa::detect()?, Arc::new(Pool::new(threads)))?);
    let begun = Instant::now();
    let model = Model::open(Path::new(&path))?;
    eprintln!(
        "{} {}: opened in {:.2} s, {:.1} MB of weights, {} operations",
        model.name(),
        model.digest(),
        begun.elapsed().as_secs_f64(),
        model.resident_bytes() as f64 / 1e6,
        model.graph().operations.len(),
    );
    let prompt = Prompt::Messages(vec![Message {
        role: Role::User,
        content: question,
    }]);
    let params = Params {
        prefill_chunk: PREFILL_CHUNK,
        tokens_max: Some(tokens_max as usize),
        ..Params::default()
    };
    let mut generation = Generation::start(
        Arc::clone(&model),
        Arc::clone(&kernels),
        &prompt,
        params.clone(),
    )?;
    let begun = Instant::now();
    generation.advance(1, Work::MAX)?;
    let prefill = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    generation.advance(tokens_max, Work::MAX)?;
    let decode = begun.elapsed().as_secs_f64();

    let progress = generation.progress();
    println!("{}", String::from_utf8_lossy(&progress.text));
    eprintln!("tokens: {:?}", progress.tokens);
    eprintln!("chain: {}", progress.chain);
    eprintln!(
        "{} on {threads} threads: prefill {} tokens, {:.1} tokens/s; decode {} tokens, {:.1} tokens/s",
        kernels.isa(),
        generation.prompt_tokens().len(),
        generation.prompt_tokens().len() as f64 / prefill,
        progress.tokens.len() - 1,
        (progress.tokens.len() - 1) as f64 / decode,
    );
    let transcript = Transcript::record(
        Arc::clone(&model),
        Arc::clone(&kernels),
        prompt,
        params.sampling,
        tokens_max,
    )?;
    match transcript.verify(Arc::clone(&model), Arc::clone(&kernels))? {
        Outcome::Equal => eprintln!("transcript verified"),
        differs => eprintln!("transcript differs: {differs:?}"),
    }
    if let Some(path) = arguments.next() {
        let text = fs::read_to_string(path)?;
        let text = model.tokenizer().encode(&text, Control::Spelled);
        let first = text.len() / 2;
        let mean = mean_negative_log_likelihood(&model, kernels, &text, first)?;
        eprintln!(
            "{} tokens, mean negative log-likelihood behind token {first}: {mean:.4}",
            text.len()
        );
    }
    Ok(())
}
