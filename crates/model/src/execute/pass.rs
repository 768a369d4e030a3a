//! A pass: the rows of one text or several, their activations, and the walk over the op graph.
//!
//! # Design
//! The rows of all texts lie one after another in every buffer. Operations on single rows and products
//! see one batch; those that know positions or a cache see the text's segment of rows.
//!
//! # Determinism
//! Every kernel gives a row the bits it has alone, so a row's neighbours cannot appear in it.
use super::{
    experts::Scratch,
    observe::{ExpertInputs, Observer, Output},
    text::{Convolved, Text},
};
use crate::{
    graph::{Action, BufferId, Graph, TensorId, Work},
    model::Model,
};
use lockstep_numeric::{
    ActivationFormat, AdaptedRows, AttentionSegment, Kernels, QuantizedRows, Rotations,
};
use std::{fmt, mem, ops::Range};

/// The rows of one text.
#[derive(Debug)]
struct Segment {
    rows: Range<usize>,
    first_position: usize,
    logits: bool,
}

/// A pass, under way or over. Its memory is used again by the next.
#[derive(Default)]
pub(super) struct Pass {
    next: usize,
    end: usize,
    segments: Vec<Segment>,
    /// Per row.
    tokens: Vec<u32>,
    /// Per row.
    positions: Vec<usize>,
    /// The rows that go on behind the head: the last of each segment that wants logits.
    last_rows: Vec<usize>,
    /// In the order of the graph's rotary embeddings; empty until one of the pass needs them.
    rotations: Vec<Rotations>,
    /// In the order of the graph's buffers; longer than a pass needs after a larger one.
    buffers: Vec<Vec<f32>>,
    /// In blocks of 32 and of 256.
    quantized: [QuantizedRows; 2],
    experts: Scratch,
}

impl fmt::Debug for Pass {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Pass")
            .field("next", &self.next)
            .field("end", &self.end)
            .field("segments", &self.segments)
            .finish_non_exhaustive()
    }
}

impl Pass {
    /// Starts a pass over segments of (tokens, first position, whether logits are wanted), dropping
    /// the one under way. Without segments it is over at once.
    pub(super) fn begin<'a>(
        &mut self,
        graph: &Graph,
        segments: impl Iterator<Item = (&'a [u32], usize, bool)>,
    ) {
        self.segments.clear();
        self.tokens.clear();
        self.positions.clear();
        self.last_rows.clear();
        for (tokens, first_position, logits) in segments {
            let first_row = self.tokens.len();
            self.tokens.extend_from_slice(tokens);
            self.positions
                .extend(first_position..first_position + tokens.len());
            if logits {
                self.last_rows.push(self.tokens.len() - 1);
            }
            self.segments.push(Segment {
                rows: first_row..self.tokens.len(),
                first_position,
                logits,
            });
        }
        self.buffers.resize_with(graph.buffers.len(), Vec::new);
        self.rotations
            .resize_with(graph.ropes.len(), Rotations::default);
        self.rotations.iter_mut().for_each(Rotations::clear);
        self.next = 0;
        self.end = match self.segments.is_empty() {
            true => 0,
            false => graph.pass_length(!self.last_rows.is_empty()),
        };
    }

    /// Drops the pass under way.
    pub(super) fn abandon(&mut self) {
        self.next = 0;
        self.end = 0;
    }

    pub(super) fn under_way(&self) -> bool {
        self.next < self.end
    }

    /// Number of the next operation of the pass under way.
    pub(super) fn next(&self) -> Option<usize> {
        self.under_way().then_some(self.next)
    }

    /// Runs the next operation and returns its price; nothing when no pass is under way. `texts`
    /// are those of the segments, in order; the last operation moves them on. `observer` hears what the operation gives.
    pub(super) fn step(
        &mut self,
        model: &Model,
        kernels: &Kernels,
        texts: &mut [&mut Text],
        mut observer: Option<&mut (dyn Observer + '_)>,
    ) -> Option<Work> {
        let operation = self.next()?;
        assert_eq!(texts.len(), self.segments.len(), "a text per segment");
        self.execute(model, kernels, operation, texts, observer.as_deref_mut());
        if let Some(observer) = observer {
            self.report(model.graph(), operation, texts, observer);
        }
        self.next += 1;
        if !self.under_way() {
            for (text, segment) in texts.iter_mut().zip(&self.segments) {
                text.advance(segment.rows.len());
            }
        }
        Some(self.price(model.graph(), operation, texts))
    }

    /// The rows of logits of a pass that is over, in the order of the segments that want them.
    pub(super) fn logits(&self, graph: &Graph) -> impl Iterator<Item = &[f32]> {
        self.read(graph, graph.logits, self.last_rows.len())
            .chunks_exact(graph.vocabulary)
    }

    /// The logits of the last pass that had any; for a pass over one text.
    pub(super) fn last_logits(&self, graph: &Graph) -> &[f32] {
        self.buffers
            .get(graph.logits.0)
            .map_or(&[], |logits| logits.as_slice())
    }

    /// Puts logits from another pass in the place of [`Self::last_logits`].
    pub(super) fn set_last_logits(&mut self, graph: &Graph, logits: &[f32]) {
        self.buffers.resize_with(graph.buffers.len(), Vec::new);
        let buffer = &mut self.buffers[graph.logits.0];
        buffer.clear();
        buffer.extend_from_slice(logits);
    }

    /// Tells `observer` what `operation`, the last that ran, has written.
    fn report(
        &self,
        graph: &Graph,
        operation: usize,
        texts: &[&mut Text],
        observer: &mut dyn Observer,
    ) {
        let rows = self.rows(graph, operation);
        let mut copied = Vec::new();
        let values = match graph.operations[operation].action {
            Action::Quantize { format, .. } => {
                let quantized = &self.quantized[slot(format)];
                (0..rows).for_each(|row| quantized.read_row(row, &mut copied));
                &copied
            }
            Action::StoreKv { layer, .. } => {
                for (segment, text) in self.segments.iter().zip(texts) {
                    for position in &self.positions[segment.rows.clone()] {
                        text.cache[layer].read(*position, &mut copied);
                    }
                }
                &copied
            }
            ref action => match action.output() {
                Some(buffer) => self.read(graph, buffer, rows),
                None => return,
            },
        };
        let width = values.len() / rows;
        let mut last_rows = 0..;
        for (index, segment) in self.segments.iter().enumerate() {
            let (rows, first_position) = match (operation < graph.head, segment.logits) {
                (true, _) => (segment.rows.clone(), segment.first_position),
                (false, true) => {
                    let row = last_rows.next().unwrap_or_default();
                    let position = segment.first_position + segment.rows.len() - 1;
                    (row..row + 1, position)
                }
                (false, false) => continue,
            };
            observer.observe(Output {
                operation,
                segment: index,
                first_position,
                width,
                values: &values[rows.start * width..rows.end * width],
            });
        }
    }

    /// The sum of what the segments cost alone.
    fn price(&self, graph: &Graph, operation: usize, texts: &[&mut Text]) -> Work {
        let weight = match graph.operations[operation].action {
            Action::MatMul { weight, .. } => Some(weight),
            _ => None,
        };
        let price = |(segment, text): (&Segment, &&mut Text)| {
            let rows = match operation < graph.head {
                true => segment.rows.len(),
                false => 1,
            };
            let adapter = text.adapter.as_ref().zip(weight);
            graph.price(operation, segment.rows.len(), segment.first_position)
                + adapter.map_or(0, |(adapter, weight)| adapter.price(weight, rows))
        };
        self.segments
            .iter()
            .zip(texts)
            .filter(|(segment, _)| operation < graph.head || segment.logits)
            .map(price)
            .sum()
    }

    /// The rows of an operation whose products with `weight` have something added.
    fn adapted<'t>(
        &self,
        graph: &Graph,
        operation: usize,
        weight: TensorId,
        texts: &'t [&mut Text],
    ) -> Vec<AdaptedRows<'t>> {
        let mut adapted = Vec::new();
        let mut last_rows = 0..;
        for (segment, text) in self.segments.iter().zip(texts) {
            let rows = match (operation < graph.head, segment.logits) {
                (true, _) => segment.rows.clone(),
                (false, true) => {
                    let row = last_rows.next().unwrap_or_default();
                    row..row + 1
                }
                (false, false) => continue,
            };
            let adapter = text.adapter.as_deref();
            if let Some(factors) = adapter.and_then(|adapter| adapter.factors(weight)) {
                adapted.push(AdaptedRows { rows, factors });
            }
        }
        adapted
    }

    /// How many rows an operation works on.
    fn rows(&self, graph: &Graph, operation: usize) -> usize {
        match operation < graph.head {
            true => self.tokens.len(),
            false => self.last_rows.len(),
        }
    }

    fn execute(
        &mut self,
        model: &Model,
        kernels: &Kernels,
        operation: usize,
        texts: &mut [&mut Text],
        mut observer: Option<&mut (dyn Observer + '_)>,
    ) {
        let graph = model.graph();
        let rows = self.rows(graph, operation);
        match graph.operations[operation].action {
            Action::Embed { table, output } => {
                let table = model.matrix(table);
                self.write(graph, output, rows, |pass, values| {
                    let values = values.chunks_exact_mut(table.columns());
                    for (row, &token) in values.zip(&pass.tokens) {
                        table.read_row(token as usize, row);
                    }
                });
            }
            Action::RmsNorm {
                input,
                weight,
                parts,
                epsilon,
                output,
            } => self.write(graph, output, rows, |pass, values| {
                let input = pass.read(graph, input, rows);
                kernels.rms_norm(input, model.vector(weight), epsilon, rows * parts, values);
            }),
            Action::Quantize { input, format } => {
                let columns = graph.buffers[input.0].width;
                let input = &self.buffers[input.0][..rows * columns];
                let output = &mut self.quantized[slot(format)];
                kernels.quantize(format, input, rows, columns, output);
            }
            Action::MatMul {
                weight,
                input,
                activations,
                output,
            } => self.write(graph, output, rows, |pass, values| {
                let adapted = pass.adapted(graph, operation, weight, texts);
                let weight = model.matrix(weight);
                let input = pass.read(graph, input, rows);
                let quantized = match activations {
                    ActivationFormat::F32 => None,
                    format => Some(&pass.quantized[slot(format)]),
                };
                match quantized {
                    _ if !adapted.is_empty() => {
                        kernels.matmul_adapted(weight, quantized, input, &adapted, values);
                    }
                    None => kernels.matmul_float(weight, input, rows, values),
                    Some(quantized) => kernels.matmul(weight, quantized, values),
                }
            }),
            Action::Scale { values, factor } => self.change(graph, values, rows, |_, values| {
                kernels.scale(values, factor);
            }),
            Action::AddVector { values, vector } => {
                let vector = model.vector(vector);
                self.change(graph, values, rows, |_, values| {
                    for row in values.chunks_exact_mut(vector.len()) {
                        kernels.add(row, vector);
                    }
                });
            }
            Action::Rope {
                values,
                heads,
                pairs,
                rope,
            } => {
                if self.rotations[rope].rows() == 0 {
                    let rotations = &mut self.rotations[rope];
                    kernels.rotations(model.rope(rope), &self.positions, rotations);
                }
                self.change(graph, values, rows, |pass, values| {
                    kernels.rope(&pass.rotations[rope], pairs, values, heads);
                });
            }
            Action::StoreKv { layer, key, value } => {
                let width = graph.buffers[key.0].width;
                let keys = self.read(graph, key, rows);
                let values = self.read(graph, value, rows);
                for (segment, text) in self.segments.iter().zip(texts) {
                    let rows = segment.rows.start * width..segment.rows.end * width;
                    kernels.store_kv(
                        &mut text.cache[layer],
                        segment.first_position,
                        &keys[rows.clone()],
                        &values[rows],
                    );
                }
            }
            Action::Attention {
                layer,
                queries,
                heads,
                window,
                output,
            } => self.write(graph, output, rows, |pass, values| {
                let segments: Vec<_> = pass
                    .segments
                    .iter()
                    .zip(texts)
                    .map(|(segment, text)| AttentionSegment {
                        cache: &text.cache[layer],
                        first_position: segment.first_position,
                        rows: segment.rows.len(),
                        window,
                    })
                    .collect();
                let queries = pass.read(graph, queries, rows);
                kernels.attention(queries, heads, &segments, values);
            }),
            Action::GatedConvolution {
                layer,
                input,
                weight,
                output,
            } => self.write(graph, output, rows, |pass, values| {
                let weight = model.convolution(weight);
                let width = weight.channels();
                let input = pass.read(graph, input, rows);
                for (segment, text) in pass.segments.iter().zip(texts) {
                    let Convolved { history, next } = &mut text.convolved[layer];
                    let (start, end) = (segment.rows.start * width, segment.rows.end * width);
                    let (input, output) = (&input[3 * start..3 * end], &mut values[start..end]);
                    kernels.gated_convolution(weight, input, history, next, output);
                }
            }),
            Action::Experts(shape) => {
                let mut scratch = mem::take(&mut self.experts);
                self.write(graph, shape.output, rows, |pass, values| {
                    let input = pass.read(graph, shape.input, rows);
                    let scores = pass.read(graph, shape.scores, rows);
                    let hear = |expert, input: &[f32], gated: &[f32]| {
                        if let Some(observer) = &mut observer {
                            observer.observe_expert(ExpertInputs {
                                operation,
                                expert,
                                rows: input.len() / graph.buffers[shape.input.0].width,
                                input,
                                gated,
                            });
                        }
                    };
                    scratch.run(model, kernels, &shape, (input, scores), values, hear);
                });
                self.experts = scratch;
            }
            Action::GeluMul { gate, up } => self.change(graph, gate, rows, |pass, values| {
                kernels.gelu_mul(values, pass.read(graph, up, rows));
            }),
            Action::SiluMul { gate, up } => self.change(graph, gate, rows, |pass, values| {
                kernels.silu_mul(values, pass.read(graph, up, rows));
            }),
            Action::Add {
                accumulator,
                addend,
            } => self.change(graph, accumulator, rows, |pass, values| {
                kernels.add(values, pass.read(graph, addend, rows));
            }),
            Action::SelectLast { input, output } => {
                self.write(graph, output, rows, |pass, values| {
                    let width = graph.buffers[output.0].width;
                    let input = pass.read(graph, input, pass.tokens.len());
                    let values = values.chunks_exact_mut(width);
                    for (values, row) in values.zip(&pass.last_rows) {
                        values.copy_from_slice(&input[row * width..(row + 1) * width]);
                    }
                });
            }
        }
    }

    fn read(&self, graph: &Graph, buffer: BufferId, rows: usize) -> &[f32] {
        &self.buffers[buffer.0][..rows * graph.buffers[buffer.0].width]
    }

    /// Lets `fill` write the first rows of `buffer`, lengthened where needed, while it reads others.
    fn write(
        &mut self,
        graph: &Graph,
        buffer: BufferId,
        rows: usize,
        fill: impl FnOnce(&Self, &mut [f32]),
    ) {
        let length = rows * graph.buffers[buffer.0].width;
        if self.buffers[buffer.0].len() < length {
            self.buffers[buffer.0].resize(length, 0.0);
        }
        self.change(graph, buffer, rows, fill);
    }

    /// Lets `change` change the first rows of `buffer` while it reads others.
    fn change(
        &mut self,
        graph: &Graph,
        buffer: BufferId,
        rows: usize,
        change: impl FnOnce(&Self, &mut [f32]),
    ) {
        let mut values = mem::take(&mut self.buffers[buffer.0]);
        change(self, &mut values[..rows * graph.buffers[buffer.0].width]);
        self.buffers[buffer.0] = values;
    }
}

/// Where the quantised activations of a format are.
fn slot(format: ActivationFormat) -> usize {
    usize::from(format == ActivationFormat::Blocks256)
}
