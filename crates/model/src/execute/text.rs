//! What belongs to a text: stored keys and values, position, room.
use super::SequenceError;
use crate::model::Model;
use lockstep_numeric::KvLayer;
use std::mem;

/// What a convolution reads of earlier positions.
pub(super) struct Convolved {
    /// Before the next position.
    pub(super) history: Vec<f32>,
    /// The same after the pass under way, which may be dropped.
    pub(super) next: Vec<f32>,
}

/// The state of a text between passes.
pub(super) struct Text {
    pub(super) cache: Vec<KvLayer>,
    /// In the order of the graph's convolutions.
    pub(super) convolved: Vec<Convolved>,
    pub(super) position: usize,
    pub(super) capacity: usize,
}

impl Text {
    /// An empty text with room for `capacity` positions, at least 1 and at most the model's context.
    pub(super) fn new(model: &Model, capacity: usize) -> Self {
        let capacity = capacity.clamp(1, model.context_length());
        let shape = model.graph().attention;
        let convolutions = model.graph().convolutions.iter().map(|id| {
            let history = vec![0.0; model.convolution(*id).history_len()];
            Convolved {
                next: history.clone(),
                history,
            }
        });
        Self {
            cache: (0..shape.layers)
                .map(|_| KvLayer::new(shape.kv_heads, shape.head_dim, capacity))
                .collect(),
            convolved: convolutions.collect(),
            position: 0,
            capacity,
        }
    }

    /// Goes on by a whole pass of so many tokens.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.position += tokens;
        for convolved in &mut self.convolved {
            mem::swap(&mut convolved.history, &mut convolved.next);
        }
    }

    pub(super) fn clear(&mut self) {
        self.position = 0;
        for convolved in &mut self.convolved {
            convolved.history.fill(0.0);
        }
    }

    /// Bytes of what is kept of earlier positions.
    pub(super) fn bytes(&self) -> usize {
        let convolved = self.convolved.iter();
        let convolved = convolved.map(|kept| 2 * size_of_val(kept.history.as_slice()));
        self.cache.iter().map(KvLayer::bytes).sum::<usize>() + convolved.sum::<usize>()
    }

    /// Checks that `tokens` can follow.
    ///
    /// # Panics
    /// When `tokens` is empty.
    pub(super) fn check(&self, tokens: &[u32], vocabulary: usize) -> Result<(), SequenceError> {
        assert!(!tokens.is_empty(), "a pass has at least one token");
        let needed = self.position + tokens.len();
        if needed > self.capacity {
            return Err(SequenceError::Full {
                needed,
                capacity: self.capacity,
            });
        }
        match tokens.iter().find(|&&token| token as usize >= vocabulary) {
            Some(&token) => Err(SequenceError::UnknownToken { token, vocabulary }),
            None => Ok(()),
        }
    }
}
