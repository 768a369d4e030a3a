//! Hearing what a pass computes, for diagnosis.

/// Hears the output of every operation of the passes it is given to.
///
/// # Design
/// Called once per operation and text, in the order of operations and then of texts. Behind the head
/// a text has one row, or none when it wants no logits. Of a quantisation it hears the integers of a
/// block of 32 and then its scale, of stored keys and values what a reader of the cache gets.
pub trait Observer {
    /// Some consecutive positions of one text went through an operation.
    fn observe(&mut self, output: Output<'_>);
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
