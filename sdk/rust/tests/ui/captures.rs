use lockstep_cdk::parallel::Plan;
use std::cell::Cell;

fn main() {
    let count = Cell::new(0);
    Plan::new().for_each_chunk_mut(&mut [0_u8; 4], 2, &(), |(), _, _| count.set(count.get() + 1));
}
