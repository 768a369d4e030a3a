//! `prepare`: a prepared model answers as its file does, and what is of no use is said.

mod support;

use insta::assert_snapshot;
use lockstep_model::{Digest, fixture};
use std::{
    fs,
    path::{Path, PathBuf},
};
use support::{json, lockstep, report};

/// The digest of an answer's logits.
fn answer(data: &Path, model: &str) -> String {
    let mut command = lockstep(data);
    command.current_dir(data);
    let report = json(command.args(["run", model, "the users", "--tokens", "9", "--json"]));
    report["digest"].as_str().unwrap().to_owned()
}

/// A small model in the store under the alias `tiny`; its file and the prepared one's place.
fn stored(data: &Path) -> (PathBuf, PathBuf) {
    let models = data.join("models");
    fs::create_dir_all(models.join("aliases")).unwrap();
    let bytes = fixture::tiny_llama(1).build();
    let digest = Digest::of(&bytes).to_string();
    let file = models.join(format!("{digest}.gguf"));
    fs::write(&file, bytes).unwrap();
    fs::write(models.join("aliases/tiny"), &digest).unwrap();
    (file.clone(), file.with_extension("packed"))
}

#[test]
fn a_prepared_file_stands_for_the_model() {
    let data = tempfile::tempdir().unwrap();
    let (file, packed) = stored(data.path());
    let expected = answer(data.path(), "tiny");
    let prepared = json(lockstep(data.path()).args(["prepare", "tiny", "--json"]));
    assert_eq!(prepared["path"], packed.to_str().unwrap());
    assert_eq!(
        prepared["model"],
        file.file_stem().unwrap().to_str().unwrap()
    );
    assert_eq!(prepared["bytes"], fs::metadata(&packed).unwrap().len());
    assert_eq!(answer(data.path(), "tiny"), expected);
    // It is used: the file is not looked at, and need not be there.
    fs::write(&file, b"GGUF").unwrap();
    assert_eq!(answer(data.path(), "tiny"), expected);
    fs::remove_file(&file).unwrap();
    assert_eq!(answer(data.path(), "tiny"), expected);
    assert_eq!(answer(data.path(), packed.to_str().unwrap()), expected);
    json(lockstep(data.path()).args(["prepare", "tiny", "--check", "--json"]));
    let mut left: Vec<_> = fs::read_dir(data.path().join("models")).unwrap().collect();
    left.retain(|entry| entry.as_ref().unwrap().path() != packed);
    assert_eq!(left.len(), 1, "the aliases: {left:?}");
}

#[test]
fn a_prepared_file_of_no_use_is_said_and_replaced() {
    let data = tempfile::tempdir().unwrap();
    let (_, packed) = stored(data.path());
    let expected = answer(data.path(), "tiny");
    json(lockstep(data.path()).args(["prepare", "tiny", "--json"]));
    let whole = fs::read(&packed).unwrap();
    let mut other_version = whole.clone();
    other_version[8] = 0xff;
    let mut damaged = whole.clone();
    damaged[500] ^= 1;
    for (bytes, said) in [
        (&whole[..whole.len() - 1], "has not the"),
        (&other_version, "prepared by another version"),
        (&damaged, "has not the digest"),
    ] {
        fs::write(&packed, bytes).unwrap();
        let report =
            report(lockstep(data.path()).args(["run", "tiny", "the users", "--tokens", "9"]));
        assert!(report.starts_with("exit code: 0"), "{report}");
        assert!(
            report.contains("warning: cannot open the model: "),
            "{report}"
        );
        assert!(
            report.contains(said) && report.contains(&expected),
            "{report}"
        );
    }
    json(lockstep(data.path()).args(["prepare", "tiny", "--json"]));
    assert_eq!(fs::read(&packed).unwrap(), whole);
    // Weights that have changed are made anew, too, though opening would not see it.
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&packed, damaged).unwrap();
    json(lockstep(data.path()).args(["prepare", "tiny", "--json"]));
    assert_eq!(fs::read(&packed).unwrap(), whole);
    // A model of another digest under its name.
    let other = fixture::tiny_llama(2).build();
    fs::write(data.path().join("other.gguf"), other).unwrap();
    let mut prepare = lockstep(data.path());
    prepare.current_dir(data.path());
    json(prepare.args(["prepare", "other.gguf", "--json"]));
    fs::rename(data.path().join("other.packed"), &packed).unwrap();
    let report = report(lockstep(data.path()).args(["run", "tiny", "the users", "--tokens", "9"]));
    assert!(
        report.contains("warning: not the model that its name says: "),
        "{report}"
    );
    assert!(report.contains(&expected), "{report}");
}

#[test]
fn damage_of_weights_is_found_by_a_check() {
    let data = tempfile::tempdir().unwrap();
    fs::write(data.path().join("a.gguf"), fixture::tiny_llama(1).build()).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = lockstep(data.path());
        report(command.current_dir(data.path()).args(arguments))
    };
    assert_snapshot!(run(&["prepare", "a.gguf", "--check"]), @r"
    exit code: 1
    error: cannot read a.packed: No such file or directory (os error 2)
    hint: prepare the model first: lockstep prepare MODEL
    ");
    assert_snapshot!(run(&["prepare", "a.gguf"]), @r"
    exit code: 0
    a.packed
    ");
    assert_snapshot!(run(&["prepare", "a.packed"]), @r"
    exit code: 1
    error: the model is prepared already: a.packed
    ");
    assert_snapshot!(run(&["prepare", "a.packed", "--check"]), @r"
    exit code: 0
    a.packed
    ");
    assert_eq!(
        answer(data.path(), "a.packed"),
        answer(data.path(), "a.gguf")
    );
    let packed = data.path().join("a.packed");
    let mut bytes = fs::read(&packed).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&packed, bytes).unwrap();
    assert_snapshot!(run(&["prepare", "a.gguf", "--check"]), @r"
    exit code: 1
    error: cannot open the model: tensor of the prepared file has not the digest that its head says: blk.1.ffn_down.weight
    hint: prepare it again
    ");
    fs::write(data.path().join("no.gguf"), b"GGUF").unwrap();
    assert_snapshot!(run(&["prepare", "no.gguf"]), @r"
    exit code: 1
    error: cannot open the model: file is truncated: 4 bytes needed at byte 4, 0 there
    ");
    assert!(!data.path().join("no.packed").exists());
}
