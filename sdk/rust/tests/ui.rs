//! What parallel work must not accept does not compile. The messages compared are those of one compiler;
//! `TRYBUILD=overwrite` writes them anew.
#[rustversion::attr(not(stable(1.95)), ignore = "the messages are those of Rust 1.95")]
#[test]
fn pointers_and_interior_mutability_do_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
