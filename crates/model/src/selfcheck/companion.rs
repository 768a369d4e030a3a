//! Other texts in the passes of a check.
use crate::execute::{Batch, BatchError, Member, Sequence};

/// How many passes at most a companion is ahead of the text checked.
const PASSES_AHEAD: usize = 4;

/// A text that reads the prompt round and round, from a place of its own.
pub(super) struct Companion {
    sequence: Sequence,
    shift: usize,
}

/// What a companion puts into the next pass.
pub(super) struct Next {
    tokens: Vec<u32>,
    logits: bool,
}

impl Companion {
    pub(super) fn new(sequence: Sequence, shift: usize) -> Self {
        Self { sequence, shift }
    }

    /// A chunk while the text is shorter than the prompt, then a token at a time, with logits now and
    /// then. A text without room is begun again.
    pub(super) fn next(&mut self, prompt: &[u32], chunk: usize) -> Next {
        if self.sequence.position() == self.sequence.capacity() {
            self.sequence.clear();
        }
        let position = self.sequence.position();
        let prefilling = prompt.len().saturating_sub(position);
        let count = prefilling.min(chunk).max(1);
        let token = |index| prompt[(index + self.shift) % prompt.len()];
        Next {
            tokens: (position..position + count).map(token).collect(),
            logits: !(position + self.shift).is_multiple_of(3),
        }
    }

    #[cfg(test)]
    pub(super) fn position(&self) -> usize {
        self.sequence.position()
    }

    pub(super) fn member<'a>(&'a mut self, next: &'a Next) -> Member<'a> {
        Member {
            sequence: &mut self.sequence,
            tokens: &next.tokens,
            logits: next.logits,
        }
    }
}

/// Brings companions to different positions before the check begins.
pub(super) fn warm_up(
    batch: &mut Batch,
    companions: &mut [Companion],
    prompt: &[u32],
    chunk: usize,
) -> Result<(), BatchError> {
    for pass in 0..PASSES_AHEAD {
        let mut ahead: Vec<_> = companions
            .iter_mut()
            .filter(|companion| companion.shift % PASSES_AHEAD > pass)
            .map(|companion| (companion.next(prompt, chunk), companion))
            .collect();
        let mut members: Vec<_> = ahead
            .iter_mut()
            .map(|(next, companion)| companion.member(next))
            .collect();
        batch.run(&mut members)?;
    }
    Ok(())
}
