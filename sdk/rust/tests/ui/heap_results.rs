use lockstep_cdk::parallel::Plan;

fn main() {
    // What a task allocates is gone when it ends.
    let lines = Plan::new().map(&[1_u8, 2, 3], 1, &(), |(), number| number.to_string());
    drop(lines);
}
