use lockstep_cdk::parallel::Plan;

fn main() {
    let word = String::from("word");
    let mut words = [&word; 4];
    Plan::new().for_each_chunk_mut(&mut words, 2, &(), |_, _, _| ());
}
