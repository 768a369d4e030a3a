//! What belongs to a text: stored keys and values, position, room.
use super::SequenceError;
use crate::{adapter::Adapter, graph::Action, model::Model};
use lockstep_numeric::{KvLayer, KvPool};
use std::{mem, sync::Arc};

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
    /// Of how many positions, the next among them, a layer reads at most; in the order of the cache.
    windows: Vec<Option<usize>>,
    /// In the order of the graph's convolutions.
    pub(super) convolved: Vec<Convolved>,
    /// What its products have added.
    pub(super) adapter: Option<Arc<Adapter>>,
    pub(super) position: usize,
    pub(super) capacity: usize,
}

impl Text {
    /// An empty text with room for `capacity` positions, at least 1 and at most the model's context.
    ///
    /// # Panics
    /// When the pool is not made for the model's heads.
    pub(super) fn new(model: &Model, pool: &Arc<KvPool>, capacity: usize) -> Self {
        let capacity = capacity.clamp(1, model.context_length());
        let shape = model.graph().attention;
        assert_eq!(
            (pool.kv_heads(), pool.head_dim()),
            (shape.kv_heads, shape.head_dim),
            "the heads of the model's texts"
        );
        let mut windows = vec![None; shape.layers];
        for operation in &model.graph().operations {
            if let Action::Attention { layer, window, .. } = operation.action {
                windows[layer] = window.map(Into::into);
            }
        }
        let convolutions = model.graph().convolutions.iter().map(|id| {
            let history = vec![0.0; model.convolution(*id).history_len()];
            Convolved {
                next: history.clone(),
                history,
            }
        });
        Self {
            cache: (0..shape.layers).map(|_| KvLayer::in_pool(pool)).collect(),
            windows,
            convolved: convolutions.collect(),
            adapter: None,
            position: 0,
            capacity,
        }
    }

    /// Makes room for a pass over so many tokens.
    pub(super) fn reserve(&mut self, tokens: usize) -> Result<(), SequenceError> {
        let positions = self.position..self.position + tokens;
        Ok(KvLayer::reserve(&mut self.cache, positions)?)
    }

    /// Gives back what was reserved for a pass that does not run.
    pub(super) fn release(&mut self) {
        for layer in &mut self.cache {
            layer.truncate(self.position);
        }
    }

    /// Goes on by a whole pass of so many tokens.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.position += tokens;
        for (layer, window) in self.cache.iter_mut().zip(&self.windows) {
            if let Some(window) = window {
                layer.drop_before((self.position + 1).saturating_sub(*window));
            }
        }
        for convolved in &mut self.convolved {
            mem::swap(&mut convolved.history, &mut convolved.next);
        }
    }

    /// Another text with the same positions.
    pub(super) fn fork(&self) -> Result<Self, SequenceError> {
        let layers = self.cache.iter().map(|layer| layer.share(self.position));
        let convolved = self.convolved.iter().map(|kept| Convolved {
            history: kept.history.clone(),
            next: kept.next.clone(),
        });
        Ok(Self {
            cache: layers.collect::<Result<_, _>>()?,
            windows: self.windows.clone(),
            convolved: convolved.collect(),
            adapter: self.adapter.clone(),
            position: self.position,
            capacity: self.capacity,
        })
    }

    /// Goes back to the first `position` positions, or to none where what follows them cannot be computed from what is
    /// kept.
    pub(super) fn rewind(&mut self, position: usize) {
        if position >= self.position {
            return;
        }
        let is_kept = |(layer, window): (&KvLayer, &Option<usize>)| {
            let window = window.unwrap_or(usize::MAX);
            (position + 1).saturating_sub(window) >= layer.first_position()
        };
        if self.convolved.is_empty() && self.cache.iter().zip(&self.windows).all(is_kept) {
            self.position = position;
            self.release();
        } else {
            self.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        self.position = 0;
        self.cache.iter_mut().for_each(KvLayer::clear);
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
