//! What belongs to a text: stored keys and values, position, room.
use super::SequenceError;
use crate::model::Model;
use lockstep_numeric::KvLayer;

/// The state of a text between passes.
pub(super) struct Text {
    pub(super) cache: Vec<KvLayer>,
    pub(super) position: usize,
    pub(super) capacity: usize,
}

impl Text {
    /// An empty text with room for `capacity` positions, at least 1 and at most the model's context.
    pub(super) fn new(model: &Model, capacity: usize) -> Self {
        let capacity = capacity.clamp(1, model.context_length());
        let shape = model.graph().attention;
        Self {
            cache: (0..shape.layers)
                .map(|_| KvLayer::new(shape.kv_heads, shape.head_dim, capacity))
                .collect(),
            position: 0,
            capacity,
        }
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
