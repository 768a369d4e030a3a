//! `lockstep verify --self` on a small model: every way to run it gives the same digest.

mod support;

use lockstep_model::fixture;
use lockstep_numeric::Isa;
use std::{collections::BTreeSet, fs, path::Path, process::Command};
use support::{json, lockstep, report};

/// A command in a folder with the model `tiny.gguf`.
fn verify(data: &Path) -> Command {
    fs::write(data.join("tiny.gguf"), fixture::tiny_llama(5).build()).unwrap();
    let mut command = lockstep(data);
    command.current_dir(data).arg("verify");
    command
}

#[test]
fn all_combinations_are_equal_and_listed_as_json() {
    let data = tempfile::tempdir().unwrap();
    let extent = ["--all", "--prompt-tokens", "40", "--tokens", "5", "--json"];
    let outcome = json(
        verify(data.path())
            .args(["--self", "tiny.gguf"])
            .args(extent),
    );
    assert_eq!(outcome["equal"], true);
    assert_eq!(outcome["first_difference"], serde_json::Value::Null);
    assert_eq!(outcome["skipped"].as_array().unwrap().len(), 0);
    assert_eq!(outcome["left_out"].as_array().unwrap().len(), 0);

    let runs = outcome["runs"].as_array().unwrap();
    let digests: BTreeSet<&str> = runs
        .iter()
        .map(|run| run["digest"].as_str().unwrap())
        .collect();
    assert_eq!(digests.len(), 1);
    let of = |machine: &str| runs.iter().filter(|run| run["machine"] == machine).count();
    for isa in Isa::available() {
        assert_eq!(of(isa.name()), 4 * 4 * 2, "{isa}");
    }
    for machine in ["wasm portable", "wasm simd128"] {
        assert_eq!(of(machine), 4 * 2, "{machine}");
    }
    for run in runs {
        assert_eq!(
            (&run["prompt_tokens"], &run["tokens"]),
            (&40.into(), &5.into())
        );
    }
}

#[test]
fn the_table_has_a_row_per_run_and_says_what_is_left_out() {
    let data = tempfile::tempdir().unwrap();
    let output = verify(data.path())
        .args(["--self", "tiny.gguf"])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("left out: portable kernels run 48 + 8 tokens instead of 129 + 64"));
    let stdout = String::from_utf8(output.stdout).unwrap();
    let mut rows = stdout
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let heading = rows.next().unwrap();
    assert_eq!(
        heading.join(" "),
        "isa threads chunk batch prompt generated digest seconds"
    );

    // From the right: an instruction set may have two words.
    let mut digests = BTreeSet::new();
    let mut portable = 0;
    let mut count = 0;
    for row in rows {
        let [prompt, tokens, digest, _] = row[row.len() - 4..] else {
            unreachable!("four cells");
        };
        assert_eq!(digest.len(), 16);
        digests.insert((prompt.to_owned(), tokens.to_owned(), digest.to_owned()));
        portable += usize::from(row[0] == "portable");
        count += 1;
    }
    assert_eq!(portable, 2);
    assert!(
        stderr.ends_with(&format!("equal: {count} runs\n")),
        "{stderr}"
    );
    // One digest per coverage. A machine without vector units runs the short text alone.
    let coverages = if Isa::available().len() > 1 { 2 } else { 1 };
    assert_eq!(digests.len(), coverages, "{stdout}");
}

#[test]
fn a_transcript_and_a_machine_are_not_checked_together() {
    let data = tempfile::tempdir().unwrap();
    for arguments in [
        &["transcript.json", "--self", "tiny.gguf"][..],
        &["--self", "tiny.gguf", "--threads", "2"],
        &["transcript.json", "--all"],
        &[],
    ] {
        let report = report(verify(data.path()).args(arguments));
        assert!(report.starts_with("exit code: 2\nerror: "), "{report}");
    }
    let report = report(verify(data.path()).args(["--self", "nosuch"]));
    assert!(
        report.starts_with("exit code: 1\nerror: no such model: nosuch\n"),
        "{report}"
    );
}
