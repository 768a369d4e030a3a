//! Models, generation sessions, parallel work and kernels for Rust canisters, beside `ic-cdk`.
//!
//! A canister that uses more of this crate than [`parallel`] and `kernels` (a feature) with feature
//! `sequential` imports the module `lockstep` and installs on Lockstep subnets only. A [`Session`] is
//! started and permitted tokens in one message; the subnet generates them over the following blocks;
//! later messages read them.
//!
//! # Errors
//! Calls that no correct program makes trap and end the message: a prompt above
//! [`PROMPT_BYTES_MAX`], more than [`SESSIONS_MAX`] sessions, starting or changing a session in a
//! query.
//!
//! # Examples
//! ```no_run
//! use lockstep_cdk::{Model, Request, Status};
//!
//! # fn main() -> Result<(), lockstep_cdk::Error> {
//! let session = Model::open("smollm2")?.start(&Request::greedy("Why is the sky blue?"));
//! session.advance(64)?;
//! // In a later message:
//! if session.status()? == Status::Waiting {
//!     let answer = String::from_utf8_lossy(&session.text()?).into_owned();
//! }
//! # Ok(())
//! # }
//! ```
#[cfg(feature = "kernels")]
pub mod kernels;
pub mod parallel;
mod sys;

/// Most bytes of a prompt.
pub const PROMPT_BYTES_MAX: usize = 64 * 1024;
/// Most sessions a canister may have open.
pub const SESSIONS_MAX: usize = 64;

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No model of this name is resident.
    #[error("no resident model of this name: {name}")]
    UnknownModel {
        /// The name asked for.
        name: String,
    },
    /// This canister has no such session, or has closed it.
    #[error("unknown session: {id}")]
    UnknownSession {
        /// The id asked for.
        id: u64,
    },
}

/// A resident model. Open it in every message: handles are not to be kept.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    handle: i64,
}

impl Model {
    /// Opens a resident model by name.
    ///
    /// # Errors
    /// [`Error::UnknownModel`].
    pub fn open(name: &str) -> Result<Self, Error> {
        match sys::model_open(name.as_bytes()) {
            handle if handle >= 0 => Ok(Self { handle }),
            _ => Err(Error::UnknownModel {
                name: name.to_owned(),
            }),
        }
    }

    /// Starts a session. Nothing is generated before [`Session::advance`] permits it.
    #[must_use]
    pub fn start(&self, request: &Request<'_>) -> Session {
        let seed = request.seed.cast_signed();
        let temperature = i32::try_from(request.temperature_milli).unwrap_or(i32::MAX);
        let id = sys::session_start(self.handle, request.prompt.as_bytes(), seed, temperature);
        Session {
            id: id.cast_unsigned(),
        }
    }
}

/// What to generate.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The user's message; the model's chat template is put around it.
    pub prompt: &'a str,
    /// Seed of the sampler.
    pub seed: u64,
    /// Temperature in thousandths; 0 takes the likeliest token.
    pub temperature_milli: u32,
}

impl<'a> Request<'a> {
    /// Always the likeliest token.
    #[must_use]
    pub fn greedy(prompt: &'a str) -> Self {
        Self {
            prompt,
            seed: 0,
            temperature_milli: 0,
        }
    }
}

/// How a session stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Tokens are permitted and on their way.
    Running,
    /// All permitted tokens are generated.
    Waiting,
    /// The text has ended; nothing more will come.
    Ended,
    /// It failed, with the reason.
    Failed(String),
}

/// A generation session of this canister. It lives until it is closed, beyond this value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    id: u64,
}

impl Session {
    /// The session of an id that [`Self::id`] gave.
    #[must_use]
    pub fn from_id(id: u64) -> Self {
        Self { id }
    }

    /// Its id, to be kept between messages.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Permits so many tokens more.
    ///
    /// # Errors
    /// [`Error::UnknownSession`].
    pub fn advance(&self, tokens: u32) -> Result<(), Error> {
        self.known(sys::session_advance(
            self.raw(),
            i32::try_from(tokens).unwrap_or(i32::MAX),
        ))
        .map(drop)
    }

    /// How it stands.
    ///
    /// # Errors
    /// [`Error::UnknownSession`].
    pub fn status(&self) -> Result<Status, Error> {
        Ok(match self.known(sys::session_status(self.raw()))? {
            0 => Status::Running,
            1 => Status::Waiting,
            2 => Status::Ended,
            _ => Status::Failed(self.failure()),
        })
    }

    /// Tokens generated so far.
    ///
    /// # Errors
    /// [`Error::UnknownSession`].
    pub fn tokens(&self) -> Result<u32, Error> {
        self.known(sys::session_tokens(self.raw()))
    }

    /// Text generated so far; it may end inside a UTF-8 character.
    ///
    /// # Errors
    /// [`Error::UnknownSession`].
    pub fn text(&self) -> Result<Vec<u8>, Error> {
        let mut text = vec![0; self.known(sys::session_text_size(self.raw()))? as usize];
        sys::session_text_copy(self.raw(), &mut text);
        Ok(text)
    }

    /// Digest of the transcript so far.
    ///
    /// # Errors
    /// [`Error::UnknownSession`].
    pub fn digest(&self) -> Result<[u8; 32], Error> {
        self.known(sys::session_status(self.raw()))?;
        let mut digest = [0; 32];
        sys::session_digest_copy(self.raw(), &mut digest);
        Ok(digest)
    }

    /// Drops it and what it generated.
    ///
    /// # Errors
    /// [`Error::UnknownSession`].
    pub fn close(self) -> Result<(), Error> {
        self.known(sys::session_close(self.raw())).map(drop)
    }

    fn failure(&self) -> String {
        let size = usize::try_from(sys::session_error_size(self.raw())).unwrap_or(0);
        let mut reason = vec![0; size];
        sys::session_error_copy(self.raw(), &mut reason);
        String::from_utf8_lossy(&reason).into_owned()
    }

    fn raw(&self) -> i64 {
        self.id.cast_signed()
    }

    /// The import's answer, unless it says that the session is unknown.
    fn known(&self, answer: i32) -> Result<u32, Error> {
        u32::try_from(answer).map_err(|_| Error::UnknownSession { id: self.id })
    }
}
