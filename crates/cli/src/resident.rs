//! Resident models as replicas reach them: the glue between `model` and the trait that `canister` defines.

use crate::{pull, run::open, store::Store};
use anyhow::Result;
use lockstep_canister::{
    models::{self, GenerationError, ModelHost, Work},
    session::{Ended, GenerationRequest, ModelDigest, Progress},
};
use lockstep_model::{
    Digest, Generation, Message, Model, Params, Prompt, Role, Sampling, generate,
    transcript::Transcript,
};
use lockstep_numeric::Kernels;
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// The models of one replica: weights shared with the process's other replicas, kernels its own.
#[derive(Clone, Debug)]
pub(crate) struct Resident {
    models: Arc<BTreeMap<ModelDigest, Arc<Model>>>,
    kernels: Arc<Kernels>,
}

/// The digest by which replicated state names a model.
pub(crate) fn digest(model: &Model) -> ModelDigest {
    ModelDigest(model.digest().0)
}

/// Opens models given as files, aliases or digests. A file is known to canisters by its stem.
pub(crate) fn open_named(names: &[String]) -> Result<Vec<(String, Arc<Model>)>> {
    let open = |name: &String| {
        if name == pull::SMOLLM2.alias {
            pull::fetch(&Store::open()?, &pull::SMOLLM2, None)?;
        }
        let model = open(name)?;
        let stem = Path::new(name).file_stem();
        let name = stem.map_or_else(|| name.clone(), |stem| stem.to_string_lossy().into_owned());
        Ok((name, model))
    };
    names.iter().map(open).collect()
}

/// What a request means to the model: one user message, and the sampling.
fn meaning(request: &GenerationRequest) -> (Prompt, Sampling) {
    let message = Message {
        role: Role::User,
        content: request.prompt.clone(),
    };
    let sampling = Sampling {
        temperature_milli: request.temperature_milli,
        seed: request.seed,
        ..Sampling::GREEDY
    };
    (Prompt::Messages(vec![message]), sampling)
}

/// Computes the transcript of a request from nothing, to compare with what a subnet certified.
pub(crate) fn transcript(
    model: &Arc<Model>,
    kernels: &Arc<Kernels>,
    request: &GenerationRequest,
    tokens_max: u32,
) -> std::result::Result<Transcript, generate::GenerationError> {
    let (prompt, sampling) = meaning(request);
    Transcript::record(
        Arc::clone(model),
        Arc::clone(kernels),
        prompt,
        sampling,
        tokens_max,
    )
}

impl Resident {
    /// Holds `models` and computes with `kernels`.
    pub(crate) fn new(models: impl IntoIterator<Item = Arc<Model>>, kernels: Arc<Kernels>) -> Self {
        let models = models
            .into_iter()
            .map(|model| (digest(&model), model))
            .collect();
        Self {
            models: Arc::new(models),
            kernels,
        }
    }
}

impl ModelHost for Resident {
    fn start(
        &self,
        model: &ModelDigest,
        request: &GenerationRequest,
        progress: &Progress,
    ) -> std::result::Result<Box<dyn models::Generation>, GenerationError> {
        let model = self.models.get(model).ok_or_else(|| {
            GenerationError::Unavailable(format!("no bytes for {}", Digest(model.0)))
        })?;
        let (prompt, sampling) = meaning(request);
        let params = Params {
            sampling,
            ..Params::default()
        };
        let (model, kernels) = (Arc::clone(model), Arc::clone(&self.kernels));
        let generation = if *progress == Progress::default() {
            Generation::start(model, kernels, &prompt, params)
        } else {
            Generation::resume(model, kernels, &prompt, params, known(progress))
        };
        let generation =
            generation.map_err(|error| GenerationError::Rejected(error.to_string()))?;
        let progress = replicated(generation.progress());
        Ok(Box::new(Running {
            generation,
            progress,
        }))
    }
}

/// A generation beside its progress in the form that is replicated.
struct Running {
    generation: Generation,
    progress: Progress,
}

impl models::Generation for Running {
    fn advance(
        &mut self,
        permitted_tokens: u32,
        budget: Work,
    ) -> std::result::Result<Work, GenerationError> {
        let work = self.generation.advance(permitted_tokens, budget);
        self.progress = replicated(self.generation.progress());
        work.map_err(|error| GenerationError::Rejected(error.to_string()))
    }

    fn progress(&self) -> &Progress {
        &self.progress
    }
}

fn replicated(progress: &generate::Progress) -> Progress {
    Progress {
        prompt_tokens: progress.prompt_tokens,
        tokens: progress.tokens.clone(),
        text: progress.text.clone(),
        chain: progress.chain.0,
        prefilled: progress.prefilled,
        operations_done: progress.operations_done,
        work: progress.work,
        ended: progress.ended.map(|ended| match ended {
            generate::Ended::EndOfText => Ended::EndOfText,
            generate::Ended::ContextFull => Ended::ContextFull,
            // Requests of canisters are not steered.
            generate::Ended::Stopped | generate::Ended::Complete => Ended::EndOfText,
        }),
    }
}

fn known(progress: &Progress) -> generate::Progress {
    generate::Progress {
        prompt_tokens: progress.prompt_tokens,
        tokens: progress.tokens.clone(),
        text: progress.text.clone(),
        chain: Digest(progress.chain),
        prefilled: progress.prefilled,
        operations_done: progress.operations_done,
        work: progress.work,
        // A session that has ended is never taken up again.
        ended: None,
    }
}
