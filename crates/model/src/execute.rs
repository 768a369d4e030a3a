//! The executor: takes a sequence of tokens through the op graph.
//!
//! # Design
//! A [`Sequence`] is one text on one model: its key-value cache, its position, and the activations
//! of the pass under way. [`Sequence::begin`] starts a pass over some tokens; [`Sequence::run`]
//! executes whole operations until a budget is used up or the pass is over, so a pass can be left
//! between any two operations and taken up later.
//!
//! # Determinism
//! Keys, values and logits depend on the tokens before them alone: not on how the text was cut into
//! passes, where passes were interrupted, or what the kernels run on.
//!
//! # Units and bounds
//! A cache is made for a fixed number of positions. Its pages are zero until written, so positions
//! never reached take address space but, on systems that give out zero pages lazily, no memory.
use crate::{
    graph::{Action, BufferId, Work},
    model::Model,
};
use lockstep_numeric::{ActivationFormat, AttentionSegment, Kernels, KvLayer, QuantizedRows};
use std::{mem, sync::Arc};

/// Why a pass cannot begin. Both are mistakes of the caller that have to be reported to a user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum SequenceError {
    #[error("sequence is full: {needed} positions needed, {capacity} there")]
    Full { needed: usize, capacity: usize },
    #[error("token is not in the vocabulary of {vocabulary}: {token}")]
    UnknownToken { token: u32, vocabulary: usize },
}

#[derive(Debug)]
struct Pass {
    tokens: Vec<u32>,
    next: usize,
    end: usize,
}

/// One text on one model.
pub struct Sequence {
    model: Arc<Model>,
    kernels: Arc<Kernels>,
    cache: Vec<KvLayer>,
    capacity: usize,
    position: usize,
    buffers: Vec<Vec<f32>>,
    quantized: QuantizedRows,
    pass: Option<Pass>,
}

impl std::fmt::Debug for Sequence {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Sequence")
            .field("model", &self.model.name())
            .field("capacity", &self.capacity)
            .field("position", &self.position)
            .field("pass", &self.pass)
            .finish_non_exhaustive()
    }
}

impl Sequence {
    /// An empty sequence with room for `capacity` positions, at most the model's context.
    #[must_use]
    pub fn new(model: Arc<Model>, kernels: Arc<Kernels>, capacity: usize) -> Self {
        let capacity = capacity.clamp(1, model.context_length());
        let shape = model.graph().attention;
        Self {
            cache: (0..shape.layers)
                .map(|_| KvLayer::new(shape.kv_heads, shape.head_dim, capacity))
                .collect(),
            capacity,
            position: 0,
            buffers: vec![Vec::new(); model.graph().buffers.len()],
            quantized: QuantizedRows::default(),
            pass: None,
            model,
            kernels,
        }
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// What it runs on.
    #[must_use]
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Positions of whole passes; the tokens of a pass under way come after it.
    #[must_use]
    pub fn position(&self) -> usize {
        self.position
    }

    /// Positions there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes of the key-value cache.
    #[must_use]
    pub fn kv_bytes(&self) -> usize {
        self.cache.iter().map(KvLayer::bytes).sum()
    }

    /// Begins a pass over `tokens`, with logits for the last of them if asked for. A pass under way
    /// is dropped.
    ///
    /// # Errors
    /// When a token is unknown or the sequence has no room.
    ///
    /// # Panics
    /// When `tokens` is empty.
    pub fn begin(&mut self, tokens: &[u32], logits: bool) -> Result<(), SequenceError> {
        assert!(!tokens.is_empty(), "a pass has at least one token");
        let needed = self.position + tokens.len();
        if needed > self.capacity {
            return Err(SequenceError::Full {
                needed,
                capacity: self.capacity,
            });
        }
        let vocabulary = self.model.graph().vocabulary;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(SequenceError::UnknownToken { token, vocabulary });
        }
        self.pass = Some(Pass {
            tokens: tokens.to_vec(),
            next: 0,
            end: self.model.graph().pass_length(logits),
        });
        Ok(())
    }

    /// Whether a pass is under way.
    #[must_use]
    pub fn in_pass(&self) -> bool {
        self.pass.is_some()
    }

    /// Operations of the pass under way that are done; 0 when there is none.
    #[must_use]
    pub fn operations_done(&self) -> usize {
        self.pass.as_ref().map_or(0, |pass| pass.next)
    }

    /// Runs operations of the pass under way until `budget` is used up or the pass is over.
    /// Returns the work done, which exceeds `budget` by less than one operation.
    pub fn run(&mut self, budget: Work) -> Work {
        let mut work = 0;
        while work < budget {
            match self.step() {
                Some(price) => work += price,
                None => break,
            }
        }
        work
    }

    /// Runs the rest of the pass under way.
    pub fn finish(&mut self) -> Work {
        self.run(Work::MAX)
    }

    /// Runs the next operation and returns its price; nothing when no pass is under way.
    pub fn step(&mut self) -> Option<Work> {
        let mut pass = self.pass.take()?;
        let model = Arc::clone(&self.model);
        let graph = model.graph();
        let price = graph.price(pass.next, pass.tokens.len(), self.position);
        let batch = match pass.next < graph.head {
            true => pass.tokens.len(),
            false => 1,
        };
        self.execute(
            &model,
            graph.operations[pass.next].action,
            &pass.tokens,
            batch,
        );
        pass.next += 1;
        if pass.next == pass.end {
            self.position += pass.tokens.len();
        } else {
            self.pass = Some(pass);
        }
        Some(price)
    }

    /// The logits of the last whole pass that was begun with them.
    #[must_use]
    pub fn logits(&self) -> &[f32] {
        &self.buffers[self.model.graph().logits.0]
    }

    fn execute(&mut self, model: &Model, action: Action, tokens: &[u32], batch: usize) {
        let kernels = Arc::clone(&self.kernels);
        match action {
            Action::Embed { table, output } => {
                let table = model.matrix(table);
                self.write(output, batch, |_, values| {
                    for (row, &token) in values.chunks_exact_mut(table.columns()).zip(tokens) {
                        table.read_row(token as usize, row);
                    }
                });
            }
            Action::RmsNorm {
                input,
                weight,
                epsilon,
                output,
            } => self.write(output, batch, |sequence, values| {
                let weight = model.vector(weight);
                kernels.rms_norm(sequence.read(input), weight, epsilon, batch, values);
            }),
            Action::Quantize { input } => {
                let columns = model.graph().buffers[input.0].width;
                let input = &self.buffers[input.0];
                kernels.quantize(
                    ActivationFormat::Blocks32,
                    input,
                    batch,
                    columns,
                    &mut self.quantized,
                );
            }
            Action::MatMul {
                weight,
                input,
                quantized,
                output,
            } => self.write(output, batch, |sequence, values| {
                let weight = model.matrix(weight);
                debug_assert_eq!(
                    quantized,
                    weight.format().activations() != ActivationFormat::F32
                );
                if quantized {
                    kernels.matmul(weight, &sequence.quantized, values);
                } else {
                    kernels.matmul_float(weight, sequence.read(input), batch, values);
                }
            }),
            Action::Rope { values, heads } => {
                let values = &mut self.buffers[values.0];
                kernels.rope_interleaved(model.rope(), values, heads, self.position);
            }
            Action::StoreKv { layer, key, value } => {
                let (keys, values) = (&self.buffers[key.0], &self.buffers[value.0]);
                kernels.store_kv(&mut self.cache[layer], self.position, keys, values);
            }
            Action::Attention {
                layer,
                queries,
                heads,
                output,
            } => self.write(output, batch, |sequence, values| {
                let segment = AttentionSegment {
                    cache: &sequence.cache[layer],
                    first_position: sequence.position,
                    rows: batch,
                };
                kernels.attention(sequence.read(queries), heads, &[segment], values);
            }),
            Action::SiluMul { gate, up } => self.write_in_place(gate, |sequence, values| {
                kernels.silu_mul(values, sequence.read(up));
            }),
            Action::Add {
                accumulator,
                addend,
            } => self.write_in_place(accumulator, |sequence, values| {
                kernels.add(values, sequence.read(addend));
            }),
            Action::SelectLast { input, output } => self.write(output, 1, |sequence, values| {
                let input = sequence.read(input);
                values.copy_from_slice(&input[input.len() - values.len()..]);
            }),
        }
    }

    fn read(&self, buffer: BufferId) -> &[f32] {
        &self.buffers[buffer.0]
    }

    /// Lets `fill` write `buffer`, made `batch` rows long, while it reads others.
    fn write(&mut self, buffer: BufferId, batch: usize, fill: impl FnOnce(&Self, &mut [f32])) {
        let width = self.model.graph().buffers[buffer.0].width;
        let mut values = mem::take(&mut self.buffers[buffer.0]);
        values.resize(batch * width, 0.0);
        fill(self, &mut values);
        self.buffers[buffer.0] = values;
    }

    /// Lets `change` change `buffer` while it reads others.
    fn write_in_place(&mut self, buffer: BufferId, change: impl FnOnce(&Self, &mut [f32])) {
        let mut values = mem::take(&mut self.buffers[buffer.0]);
        change(self, &mut values);
        self.buffers[buffer.0] = values;
    }
}
