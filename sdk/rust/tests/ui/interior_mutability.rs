use lockstep_cdk::parallel::Plan;
use std::sync::atomic::{AtomicU32, Ordering};

fn main() {
    let count = AtomicU32::new(0);
    Plan::new().for_each_chunk_mut(&mut [0_u8; 4], 2, &count, |count, _, _| {
        count.fetch_add(1, Ordering::Relaxed);
    });
}
