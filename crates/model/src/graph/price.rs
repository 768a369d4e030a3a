//! Prices of operations.
use super::{Action, BufferId, ExpertsShape, Graph, Shape, TensorId, Work};

/// An exponential and a division, in multiply-accumulates.
const EXPONENTIAL: Work = 16;

impl Graph {
    /// The price of operation `index` for `batch` tokens from position `first` on.
    ///
    /// # Panics
    /// When there is no such operation.
    #[must_use]
    pub fn price(&self, index: usize, batch: usize, first: usize) -> Work {
        let batch = if index >= self.head { 1 } else { batch as Work };
        match self.operations[index].action {
            Action::Embed { output: buffer, .. }
            | Action::Quantize { input: buffer, .. }
            | Action::Add {
                accumulator: buffer,
                ..
            }
            | Action::SelectLast { output: buffer, .. } => batch * self.width(buffer),
            Action::AddVector { values, .. } | Action::Scale { values, .. } => {
                batch * self.width(values)
            }
            Action::GatedConvolution { weight, output, .. } => {
                batch * (self.elements(weight) + 2 * self.width(output))
            }
            Action::Experts(ExpertsShape {
                scores,
                gate,
                used,
                output,
                ..
            }) => {
                let Shape::Experts { rows, columns, .. } = self.tensors[gate.0].shape else {
                    unreachable!("the weights of experts");
                };
                let (rows, columns) = (rows as Work, columns as Work);
                let each = 3 * rows * columns + (EXPONENTIAL + 1) * rows + 2 * self.width(output);
                batch * (EXPONENTIAL * self.width(scores) + used as Work * each)
            }
            Action::RmsNorm { input, .. } => batch * 2 * self.width(input),
            Action::Rope { values, .. } => batch * 2 * self.width(values),
            Action::StoreKv { key, value, .. } => batch * (self.width(key) + self.width(value)),
            Action::SiluMul { gate, .. } | Action::GeluMul { gate, .. } => {
                batch * (EXPONENTIAL + 1) * self.width(gate)
            }
            Action::MatMul { weight, .. } => batch * self.elements(weight),
            Action::Attention { heads, window, .. } => {
                // Positions read: first + 1 by the first token, one more by each following, up to the window.
                let first = first as Work;
                let window = window.map_or(Work::MAX, |window| window.get() as Work);
                let growing = batch.min(window.saturating_sub(first));
                let positions = growing * (first + 1)
                    + growing * growing.saturating_sub(1) / 2
                    + (batch - growing).saturating_mul(window);
                let per_score = 2 * self.attention.head_dim as Work + EXPONENTIAL;
                heads as Work * positions * per_score
            }
        }
    }

    /// The price of a pass of `batch` tokens from position `first` on.
    #[must_use]
    pub fn pass_price(&self, batch: usize, first: usize, logits: bool) -> Work {
        (0..self.pass_length(logits))
            .map(|index| self.price(index, batch, first))
            .sum()
    }

    fn width(&self, buffer: BufferId) -> Work {
        self.buffers[buffer.0].width as Work
    }

    fn elements(&self, tensor: TensorId) -> Work {
        match self.tensors[tensor.0].shape {
            Shape::Vector { length } => length as Work,
            Shape::Matrix { rows, columns } => rows as Work * columns as Work,
            Shape::Experts {
                count,
                rows,
                columns,
            } => count as Work * rows as Work * columns as Work,
            Shape::Convolution { channels, taps } => channels as Work * taps as Work,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        arch,
        fixture::{self, Weights},
        gguf::Gguf,
    };

    #[test]
    fn a_batch_costs_what_its_tokens_cost() {
        for of in arch::TINY {
            let file = fixture::tiny(of, 1, Weights::Mixed).build();
            let graph = arch::graph(&Gguf::parse(&file).unwrap()).unwrap();
            for index in 0..graph.head {
                let alone: u64 = (5..22)
                    .map(|position| graph.price(index, 1, position))
                    .sum();
                let name = &graph.operations[index].name;
                assert_eq!(graph.price(index, 17, 5), alone, "{name}");
            }
            for index in graph.head..graph.operations.len() {
                assert_eq!(graph.price(index, 17, 5), graph.price(index, 1, 21));
            }
        }
    }

    #[test]
    fn prices_are_frozen() {
        let file = fixture::tiny_llama(1).build();
        let graph = arch::graph(&Gguf::parse(&file).unwrap()).unwrap();
        let price = |name: &str| {
            let index = graph
                .operations
                .iter()
                .position(|o| o.name == name)
                .unwrap();
            graph.price(index, 3, 2)
        };
        assert_eq!(price("blk.0.attn_q"), 3 * 64 * 64);
        assert_eq!(price("blk.1.ffn_down"), 3 * 64 * 96);
        assert_eq!(price("blk.0.attn_norm"), 3 * 2 * 64);
        assert_eq!(price("blk.0.attention"), 4 * (3 + 4 + 5) * (2 * 16 + 16));
        assert_eq!(price("output"), 64 * graph.vocabulary as u64);
    }
}
