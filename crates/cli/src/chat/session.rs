//! A conversation and what has been computed of it.

use crate::{
    adapter,
    error::{Failure, chain},
};
use anyhow::Result;
use lockstep_model::{
    Adapter, Ended, Generation, Message, Model, Params, Prompt, Role, Sampling, Steering,
    generate::GenerationError,
};
use lockstep_numeric::{Kernels, KvFormat};
use std::{path::Path, sync::Arc};

/// Work between two looks at whether the user wants it to go on.
const SLICE: u64 = 200_000_000;

/// A conversation.
pub(super) struct Session {
    model: Arc<Model>,
    kernels: Arc<Kernels>,
    pub(super) sampling: Sampling,
    steering: Steering,
    adapter: Option<Arc<Adapter>>,
    kv: KvFormat,
    /// Tokens of an answer at most.
    pub(super) tokens: u32,
    /// Positions of the cache.
    pub(super) context: usize,
    pub(super) messages: Vec<Message>,
    /// The last answer's, whose cache the next one begins with.
    generation: Option<Generation>,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// By itself.
    Whole,
    /// At the number of tokens that are allowed.
    Cut,
    /// At the end of the cache.
    Full,
    /// By the user.
    Interrupted,
}

impl Session {
    pub(super) fn new(
        model: Arc<Model>,
        kernels: Arc<Kernels>,
        sampling: Sampling,
        steering: Steering,
        kv: KvFormat,
    ) -> Self {
        Self {
            context: model.context_length(),
            model,
            kernels,
            sampling,
            steering,
            adapter: None,
            kv,
            tokens: u32::MAX,
            messages: Vec::new(),
            generation: None,
        }
    }

    pub(super) fn model_name(&self) -> &str {
        self.model.name()
    }

    pub(super) fn model_digest(&self) -> lockstep_model::Digest {
        self.model.digest()
    }

    /// Sets the scene; an empty text takes it away.
    pub(super) fn set_system(&mut self, text: &str) {
        self.messages.retain(|message| message.role != Role::System);
        if !text.is_empty() {
            self.messages.insert(0, message(Role::System, text));
        }
    }

    /// Forgets everything but the scene.
    pub(super) fn clear(&mut self) {
        self.messages.retain(|message| message.role == Role::System);
    }

    /// Answers with the adapter in a file from now on, or with none.
    pub(super) fn set_adapter(&mut self, file: Option<&str>) -> Result<()> {
        self.adapter = match file {
            None => None,
            Some(file) => Some(adapter::open_for(Path::new(file), &self.model, None)?),
        };
        Ok(())
    }

    /// Answers `text`; `hear` gets the bytes of the answer so far. Asks `stopped` again and again whether it is to end.
    /// When it fails, or is stopped before its first token, the conversation is as before.
    pub(super) fn ask(
        &mut self,
        text: &str,
        mut hear: impl FnMut(&[u8]),
        stopped: &dyn Fn() -> bool,
    ) -> Result<Answer> {
        self.messages.push(message(Role::User, text));
        let answered = self.answer(&mut hear, stopped);
        match &answered {
            Ok((answer, text)) if *answer != Answer::Interrupted || !text.is_empty() => {
                self.messages.push(message(Role::Assistant, text));
            }
            _ => {
                self.messages.pop();
            }
        }
        answered.map(|(answer, _)| answer)
    }

    fn answer(
        &mut self,
        hear: &mut dyn FnMut(&[u8]),
        stopped: &dyn Fn() -> bool,
    ) -> Result<(Answer, String)> {
        let mut generation = self.begin().map_err(|error| self.explain(error))?;
        let mut heard = None;
        let answer = loop {
            let tokens = generation.progress().tokens.len() as u32;
            match generation.progress().ended {
                Some(Ended::EndOfText | Ended::Stopped | Ended::Complete) => break Answer::Whole,
                Some(Ended::ContextFull) => break Answer::Full,
                None if tokens >= self.tokens => break Answer::Cut,
                None if stopped() => break Answer::Interrupted,
                None => {}
            }
            // A failure loses the cache: the next answer computes it again.
            let advanced = generation.advance(tokens + 1, SLICE);
            advanced.map_err(|error| self.explain(error))?;
            let tokens = generation.progress().tokens.len();
            if tokens > 0 && heard != Some(tokens) {
                heard = Some(tokens);
                hear(&generation.progress().text[..generation.settled()]);
            }
        };
        let text = &generation.progress().text;
        hear(text);
        let text = String::from_utf8_lossy(text).into_owned();
        self.generation = Some(generation);
        Ok((answer, text))
    }

    /// A generation over the messages, from what the last one has computed.
    fn begin(&mut self) -> Result<Generation, GenerationError> {
        let prompt = Prompt::Messages(self.messages.clone()).tokens(&self.model)?;
        if prompt.len() > self.context {
            return Err(GenerationError::PromptTooLong {
                tokens: prompt.len(),
                context: self.context,
            });
        }
        let params = Params {
            sampling: self.sampling,
            steering: self.steering.clone(),
            adapter: self.adapter.clone(),
            kv: self.kv,
            // The same room whatever the prompt, so that the cache can be kept; the last token needs no position.
            tokens_max: Some(self.context - prompt.len() + 1),
            ..Params::default()
        };
        let prompt = Prompt::Tokens(prompt);
        let kernels = Arc::clone(&self.kernels);
        match self.generation.take() {
            Some(last) => last.next(kernels, &prompt, params),
            None => Generation::start(Arc::clone(&self.model), kernels, &prompt, params),
        }
    }

    fn explain(&self, error: GenerationError) -> Failure {
        let most = self.model.context_length();
        match error {
            GenerationError::PromptTooLong { tokens, context } if context < most => Failure::user(
                format!("the conversation has {tokens} tokens, and room for {context}"),
            )
            .hint(format!(
                "/clear begins anew; --context gives room for up to {most}"
            )),
            GenerationError::PromptTooLong { .. } => {
                Failure::user(chain(error)).hint("/clear begins anew")
            }
            error => Failure::user(chain(error)),
        }
    }

    /// What the last answer took, its prompt included.
    #[cfg(test)]
    fn work(&self) -> u64 {
        self.generation
            .as_ref()
            .map_or(0, |last| last.progress().work)
    }
}

pub(super) fn message(role: Role, content: &str) -> Message {
    Message {
        role,
        content: content.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_model::{fixture, transcript::Transcript};
    use lockstep_numeric::{Isa, Pool};
    use std::{cell::Cell, num::NonZeroUsize};

    const SAMPLING: Sampling = Sampling {
        temperature_milli: 900,
        seed: 4,
        repetition_penalty_milli: 1100,
        ..Sampling::GREEDY
    };

    fn session() -> Session {
        let model = Model::from_bytes(&fixture::tiny_llama(5).build()).unwrap();
        let pool = Arc::new(Pool::new(NonZeroUsize::MIN));
        let kernels = Arc::new(Kernels::new(Isa::Portable, pool).unwrap());
        let mut session =
            Session::new(model, kernels, SAMPLING, Steering::default(), KvFormat::F16);
        session.tokens = 6;
        session
    }

    #[test]
    fn answers_are_those_of_a_run_over_the_same_messages() {
        let mut session = session();
        session.set_system("short");
        let mut work = Vec::new();
        for question in ["why?", "and then?", "so?"] {
            let mut told = Vec::new();
            session
                .ask(question, |text| told = text.to_vec(), &|| false)
                .unwrap();
            let (answer, asked) = session.messages.split_last().unwrap();
            let transcript = Transcript::record(
                Arc::clone(&session.model),
                Arc::clone(&session.kernels),
                Prompt::Messages(asked.to_vec()),
                SAMPLING,
                6,
            )
            .unwrap();
            assert_eq!(answer.content, transcript.text);
            assert_eq!(String::from_utf8_lossy(&told), transcript.text);
            let last = session.generation.as_ref().unwrap().progress();
            assert_eq!(last.chain, transcript.steps.last().unwrap().link);
            work.push(session.work());
        }
        // The last prompt is the longest, and still takes less work than one that is computed whole.
        let mut fresh = super::tests::session();
        fresh.messages = session.messages[..session.messages.len() - 2].to_vec();
        fresh.ask("so?", |_| (), &|| false).unwrap();
        assert!(work[2] < fresh.work(), "{work:?} {}", fresh.work());
    }

    #[test]
    fn an_answer_can_be_stopped_and_the_conversation_goes_on() {
        let mut session = session();
        let looks = Cell::new(0);
        let stopped = || {
            looks.set(looks.get() + 1);
            looks.get() > 3
        };
        let answer = session.ask("why?", |_| (), &stopped).unwrap();
        assert_eq!(answer, Answer::Interrupted);
        assert_eq!(session.messages.len(), 2);
        assert_eq!(
            session.ask("why?", |_| (), &|| true).unwrap(),
            Answer::Interrupted
        );
        assert_eq!(session.messages.len(), 2, "nothing was said");
        session.ask("why?", |_| (), &|| false).unwrap();
        assert_eq!(session.messages.len(), 4);
    }

    #[test]
    fn a_conversation_that_is_too_long_is_refused_and_unchanged() {
        let mut session = session();
        let error = session
            .ask(&"why? ".repeat(100), |_| (), &|| false)
            .unwrap_err();
        assert!(
            error.to_string().contains("but the model's context 192"),
            "{error}"
        );
        assert!(session.messages.is_empty());
        assert!(session.ask("why?", |_| (), &|| false).is_ok());
        session.context = 8;
        let error = session.ask("why?", |_| (), &|| false).unwrap_err();
        assert!(
            error.to_string().ends_with("tokens, and room for 8"),
            "{error}"
        );
    }
}
