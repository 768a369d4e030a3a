//! Blocks, branches, and what locals hold where ways meet.
use super::{Analysis, Arity, Frame, value::Holds};
use wasmparser::{BlockType, ModuleArity, Operator};

impl Analysis<'_> {
    /// Instructions that open, end or leave blocks; what is dead besides is not looked at.
    pub(super) fn control(&mut self, index: usize, operator: &Operator<'_>) {
        use Operator as O;
        match operator {
            O::Block { blockty } => self.open(None, *blockty),
            O::Loop { blockty } => self.open(Some(index), *blockty),
            O::If { blockty } => {
                self.take(1);
                self.open(None, *blockty);
                if !self.dead {
                    let locals = self.locals.clone();
                    self.frame(0).other = Some(locals);
                }
            }
            O::Else => self.switch(index),
            O::End => self.close(index),
            _ if self.dead => {}
            O::Br { relative_depth } => {
                self.branch(*relative_depth);
                self.dead = true;
            }
            O::BrIf { relative_depth } => {
                self.take(1);
                self.branch(*relative_depth);
            }
            O::BrTable { targets } => {
                self.take(1);
                for target in targets.targets().chain([Ok(targets.default())]) {
                    self.branch(target.expect("read before, when it was validated"));
                }
                self.dead = true;
            }
            O::Return => {
                self.branch(self.frames.len() as u32 - 1);
                self.dead = true;
            }
            O::Unreachable => self.dead = true,
            O::ReturnCall { .. } | O::ReturnCallIndirect { .. } => {
                self.plain(index, operator);
                self.dead = true;
            }
            _ => self.plain(index, operator),
        }
    }

    fn frame(&mut self, depth: u32) -> &mut Frame {
        let index = self.frames.len() - 1 - depth as usize;
        &mut self.frames[index]
    }

    pub(super) fn take(&mut self, operands: usize) {
        if !self.dead {
            self.stack.truncate(self.stack.len() - operands);
        }
    }

    fn open(&mut self, head: Option<usize>, ty: BlockType) {
        let (parameters, results) = Arity(self.facts)
            .block_type_arity(ty)
            .expect("a type of a function");
        let (parameters, results) = (parameters as usize, results as usize);
        if !self.dead {
            self.see(parameters);
        }
        self.frames.push(Frame {
            head,
            height: self.stack.len().saturating_sub(parameters),
            parameters,
            results,
            end: None,
            other: None,
            dead: self.dead,
        });
        if let (Some(head), false) = (head, self.dead) {
            let locals = std::mem::take(&mut self.locals);
            self.join_head(head, &locals);
            self.locals.clone_from(&self.heads[&head]);
        }
    }

    /// From the first to the second arm of an `if`.
    fn switch(&mut self, index: usize) {
        self.leave();
        let frame = self.frame(0);
        if frame.dead {
            return;
        }
        let (height, parameters) = (frame.height, frame.parameters);
        let other = frame.other.take();
        self.locals = other.expect("saved when it was opened");
        self.dead = false;
        self.stack.truncate(height);
        self.push_results(index, parameters);
    }

    fn close(&mut self, index: usize) {
        self.leave();
        let mut frame = self.frames.pop().expect("validated to be balanced");
        if frame.dead {
            return;
        }
        if let Some(other) = frame.other.take() {
            join_all(&mut frame.end, &other);
        }
        self.stack.truncate(frame.height);
        self.dead = frame.end.is_none();
        if let Some(locals) = frame.end {
            self.locals = locals;
            self.push_results(index, frame.results);
        }
    }

    /// Gets to the end of the innermost block by falling through.
    fn leave(&mut self) {
        if self.dead {
            return;
        }
        let results = self.frame(0).results;
        self.see(results);
        let locals = std::mem::take(&mut self.locals);
        join_all(&mut self.frame(0).end, &locals);
        self.dead = true;
    }

    fn branch(&mut self, depth: u32) {
        let frame = self.frame(depth);
        let head = frame.head;
        let operands = match head {
            Some(_) => frame.parameters,
            None => frame.results,
        };
        self.see(operands);
        let locals = std::mem::take(&mut self.locals);
        match head {
            Some(head) => self.join_head(head, &locals),
            None => join_all(&mut self.frame(depth).end, &locals),
        }
        self.locals = locals;
    }

    fn join_head(&mut self, head: usize, locals: &[Holds]) {
        let held = self.heads.entry(head).or_insert_with(|| {
            self.changed = true;
            locals.to_vec()
        });
        for (held, holds) in held.iter_mut().zip(locals) {
            let joined = held.or(*holds);
            self.changed |= joined != *held;
            *held = joined;
        }
    }
}

fn join_all(end: &mut Option<Vec<Holds>>, locals: &[Holds]) {
    match end {
        None => *end = Some(locals.to_vec()),
        Some(end) => {
            for (held, holds) in end.iter_mut().zip(locals) {
                *held = held.or(*holds);
            }
        }
    }
}
