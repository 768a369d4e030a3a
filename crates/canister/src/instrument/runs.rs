//! Bodies cut into straight runs, each of which is charged as a whole when it starts.
use crate::weights;
use wasmparser::Operator;

/// A straight run of code: where it starts, what it costs, whether it may be reached again and
/// again and therefore checks what is left.
pub(super) struct Run {
    pub(super) start: usize,
    pub(super) cost: u64,
    pub(super) checks: bool,
}

/// Cuts a body into runs. A function call itself costs 1, so that no call is free.
pub(super) fn runs(operators: &[Operator<'_>], memory64: bool) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut run = Run {
        start: 0,
        cost: 1,
        checks: true,
    };
    for (index, operator) in operators.iter().enumerate() {
        run.cost += weights::weight(operator, memory64);
        if ends_run(operator) {
            let next = Run {
                start: index + 1,
                cost: 0,
                checks: matches!(operator, Operator::Loop { .. }),
            };
            runs.push(std::mem::replace(&mut run, next));
        }
    }
    runs.push(run);
    runs.retain(|run| run.cost > 0 || run.checks);
    runs
}

/// Whether control may leave after this instruction or arrive from elsewhere.
fn ends_run(operator: &Operator<'_>) -> bool {
    use Operator as O;
    matches!(
        operator,
        O::Loop { .. }
            | O::If { .. }
            | O::Else
            | O::End
            | O::Br { .. }
            | O::BrIf { .. }
            | O::BrTable { .. }
            | O::Return
            | O::ReturnCall { .. }
            | O::ReturnCallIndirect { .. }
            | O::Unreachable
    )
}
