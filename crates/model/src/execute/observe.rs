//! Hearing what a pass computes, for diagnosis and for calibration.

/// Hears the output of every operation of the passes it is given to.
///
/// # Design
/// Called once per operation and text, in the order of operations and then of texts. Behind the head
/// a text has one row, or none when it wants no logits. Of a quantisation it hears the integers of a
/// block of 32 and then its scale, of stored keys and values what a reader of the cache gets.
pub trait Observer {
    /// Some consecutive positions of one text went through an operation.
    fn observe(&mut self, output: Output<'_>);

    /// Some rows of a pass, of whichever texts, went through an expert of a mixture. Called for every expert that has
    /// rows, in the order of their numbers, before the mixture's output is heard.
    fn observe_expert(&mut self, _inputs: ExpertInputs<'_>) {}
}

/// What an operation made of some consecutive positions of one text.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    /// Number of the operation.
    pub operation: usize,
    /// Which text of the pass; 0 in a pass over one.
    pub segment: usize,
    /// Position of the first row in its text.
    pub first_position: usize,
    /// Values per row.
    pub width: usize,
    /// The rows, one per position.
    pub values: &'a [f32],
}

impl<'a> Output<'a> {
    /// Each position with its row.
    pub fn rows(&self) -> impl Iterator<Item = (usize, &'a [f32])> + use<'a> {
        (self.first_position..).zip(self.values.chunks_exact(self.width))
    }
}

/// What the products of an expert read.
#[derive(Clone, Copy, Debug)]
pub struct ExpertInputs<'a> {
    /// Number of the operation, a mixture.
    pub operation: usize,
    /// Number of the expert.
    pub expert: usize,
    /// How many rows went through it.
    pub rows: usize,
    /// What gate and up projection read: the rows that went through it, in the order of the pass.
    pub input: &'a [f32],
    /// What the down projection reads, a row for each of the same.
    pub gated: &'a [f32],
}
