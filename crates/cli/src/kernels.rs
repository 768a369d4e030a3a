//! Kernels as the command line asks for them.

use crate::error::Failure;
use anyhow::Result;
use lockstep_numeric::{Isa, Kernels, Pool, selftest};
use std::{num::NonZeroUsize, sync::Arc, thread};

/// Kernels on `threads` threads (all cores when not given), with the machine's best instruction set
/// or the one `LOCKSTEP_ISA` names, checked against the frozen digests.
pub(crate) fn checked(threads: Option<NonZeroUsize>) -> Result<Arc<Kernels>> {
    let cores = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    with(
        Isa::detect().map_err(Failure::user)?,
        threads.unwrap_or(cores),
    )
}

/// Kernels with a given instruction set, checked against the frozen digests.
pub(crate) fn with(isa: Isa, threads: NonZeroUsize) -> Result<Arc<Kernels>> {
    let kernels = Kernels::new(isa, Arc::new(Pool::new(threads))).map_err(Failure::user)?;
    selftest(&kernels).map_err(|error| {
        Failure::environment(format!(
            "this processor does not compute canonical arithmetic: {error}"
        ))
        .hint("do not run a replica on this machine")
    })?;
    Ok(Arc::new(kernels))
}
