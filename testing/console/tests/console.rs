//! The console's types and units. The whole, in a browser, is a test of `bin/lockstep`, which has the binary.

use lockstep_console_testing::Workspace;
use std::path::Path;

fn prepare() -> Option<Workspace> {
    Workspace::prepare(Path::new(env!("CARGO_TARGET_TMPDIR")))
}

#[test]
fn types_are_sound() {
    let Some(workspace) = prepare() else { return };
    workspace.node(&["node_modules/typescript/bin/tsc"]);
}

#[test]
fn units_work() {
    let Some(workspace) = prepare() else { return };
    let tests = workspace.unit_tests();
    let mut arguments = vec!["--test", "--test-reporter=tap"];
    arguments.extend(tests.iter().map(String::as_str));
    let report = workspace.node(&arguments);
    assert!(report.contains("# fail 0"), "{report}");
    assert!(report.contains("# skipped 0"), "{report}");
}
