//! `quantize` and `perplexity`: what they print, what they write, and what is left when they fail.

mod support;

use insta::assert_snapshot;
use lockstep_model::{
    Digest, arch,
    fixture::{self, Weights},
    gguf::Gguf,
};
use std::{fs, path::Path, process::Command};
use support::{json, lockstep, report};

const TEXT: &str = "The keeper's life was lonely and strict. Lamps had to be trimmed every few hours, lenses \
polished, clockwork wound, and the log written up with care, whatever the weather. Nobody minded as long as the \
hands stood where the rule put them, and the light could be seen from a distance of nearly fifty kilometres.\n";

/// A model of F32 weights, one that is quantised already and a text, in `data`.
fn prepare(data: &Path) {
    let float = fixture::tiny(&arch::TINY[0], 1, Weights::Float);
    fs::write(data.join("float.gguf"), float.build()).unwrap();
    let mixed = fixture::tiny_llama(1);
    fs::write(data.join("mixed.gguf"), mixed.build()).unwrap();
    fs::write(data.join("text.txt"), TEXT.repeat(2)).unwrap();
}

fn command(data: &Path, arguments: &str) -> Command {
    let mut command = lockstep(data);
    command.current_dir(data).args(arguments.split_whitespace());
    command
}

/// The names in `data` that the test did not put there.
fn left(data: &Path) -> Vec<String> {
    let names = fs::read_dir(data).unwrap().map(|entry| {
        let name = entry.unwrap().file_name();
        name.into_string().unwrap()
    });
    let mut names: Vec<_> = names
        .filter(|name| !["float.gguf", "mixed.gguf", "text.txt", "folder"].contains(&name.as_str()))
        .collect();
    names.sort();
    names
}

#[test]
fn quantize_reports_sizes_and_perplexity_before_and_after() {
    let data = tempfile::tempdir().unwrap();
    prepare(data.path());
    let arguments = "quantize float.gguf out.gguf --format Q4_0 --perplexity text.txt --context 64 \
                     --calibrate text.txt --ranges ranges.json --json";
    let outcome = json(&mut command(data.path(), arguments));
    let file = fs::read(data.path().join("out.gguf")).unwrap();
    assert_eq!(outcome["bytes_after"], file.len());
    assert_eq!(outcome["digest"], Digest::of(&file).to_string());
    let gguf = Gguf::parse(&file).unwrap();
    let tensors = outcome["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), gguf.tensors().len());
    for tensor in tensors {
        let info = gguf.tensor(tensor["tensor"].as_str().unwrap()).unwrap();
        assert_eq!(tensor["to"], info.tensor_type.name());
        assert_eq!(tensor["bytes_after"], info.range.len());
    }
    // The perplexities are those that the other command finds.
    for (model, place) in [("float.gguf", "before"), ("out.gguf", "after")] {
        let arguments = format!("perplexity {model} text.txt --context 64 --threads 1 --json");
        let found = json(&mut command(data.path(), &arguments));
        assert_eq!(
            found["perplexity"],
            outcome["perplexity"][place]["perplexity"]
        );
        assert_eq!(
            found["tokens_predicted"],
            outcome["perplexity"]["tokens_predicted"]
        );
    }
    let ranges = fs::read(data.path().join("ranges.json")).unwrap();
    let ranges: serde_json::Value = serde_json::from_slice(&ranges).unwrap();
    let columns = &ranges["tensors"]["blk.0.ffn_up.weight"];
    for list in [
        &columns["mean_squares"],
        &columns["int8"]["scales"],
        &columns["int8"]["zero_points"],
    ] {
        assert_eq!(list.as_array().unwrap().len(), 64);
    }
    // The same bytes again, on another number of threads and another instruction set.
    let arguments = "quantize float.gguf again.gguf --format q4_0 --calibrate text.txt --context 64 --threads 3 --json";
    let again = json(command(data.path(), arguments).env("LOCKSTEP_ISA", "portable"));
    assert_eq!(again["digest"], outcome["digest"]);
    assert_eq!(left(data.path()), ["again.gguf", "out.gguf", "ranges.json"]);
}

#[test]
fn quantize_prints_a_table() {
    let data = tempfile::tempdir().unwrap();
    prepare(data.path());
    fs::write(
        data.path().join("policy.toml"),
        "format = \"Q4_K\"\n[[tensors]]\nnames = \"blk.0.*\"\nformat = \"Q8_0\"\n",
    )
    .unwrap();
    let arguments = "quantize float.gguf out.gguf --policy policy.toml";
    assert_snapshot!(report(&mut command(data.path(), arguments)), @r"
    exit code: 0
    format  tensors  MB before  MB after
    F32           5      0.001     0.001
    Q5_0          6      0.106     0.018
    Q8_0          9      0.208     0.055
    whole file 0.322 MB before, 0.081 MB after (25.2 %), 7.58 bits per weight
    Q5_0 instead of Q4_K, for rows that are not whole blocks: blk.1.attn_q.weight and 5 more
    Q8_0 instead of Q6_K, for rows that are not whole blocks: token_embd.weight and 1 more
    digest 03a1f15dd88328bf8c1f28ef9a1aa947a497e47491cb41af47a419dda9328ef5
    ");
}

#[test]
fn quantize_leaves_nothing_when_it_fails() {
    let data = tempfile::tempdir().unwrap();
    prepare(data.path());
    fs::create_dir(data.path().join("folder")).unwrap();
    let fails = |arguments: &str| {
        let report = report(&mut command(data.path(), arguments));
        assert_eq!(left(data.path()), Vec::<String>::new(), "{report}");
        report
    };
    assert_snapshot!(fails("quantize mixed.gguf out.gguf --format Q4_0"), @r"
    exit code: 1
    error: tensor is quantised already, and quantising it again loses more: blk.0.attn_q.weight is Q4_1
    hint: start from an F16 or F32 file, or allow it: --requantize
    ");
    assert_snapshot!(fails("quantize float.gguf out.gguf --format INT8"), @r"
    exit code: 1
    error: no GGUF file can carry the format, which belongs to the int profile; Q8_0 is the file format nearest to it: INT8
    ");
    assert_snapshot!(fails("quantize float.gguf out.gguf --format Q7"), @r"
    exit code: 1
    error: unknown format (known: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS): Q7
    ");
    assert_snapshot!(fails("quantize nosuch.gguf out.gguf --format Q8_0"), @r"
    exit code: 1
    error: no such model: nosuch.gguf
    hint: give a .gguf file, or fetch one first: lockstep pull smollm2
    ");
    assert_snapshot!(fails("quantize text.txt out.gguf --format Q8_0"), @r#"
    exit code: 1
    error: cannot open the model: not a GGUF file: it starts with bytes [54, 68, 65, 20] instead of "GGUF"
    "#);
    assert_snapshot!(fails("quantize float.gguf nosuch/out.gguf --format Q8_0"), @r"
    exit code: 3
    error: cannot write nosuch/out.gguf: No such file or directory (os error 2)
    hint: make the folder first
    ");
    assert_snapshot!(fails("quantize float.gguf folder --format Q8_0"), @r"
    exit code: 1
    error: output is a directory: folder
    ");
    assert_snapshot!(fails("quantize float.gguf mixed.gguf --format Q8_0"), @r"
    exit code: 1
    error: output exists: mixed.gguf
    hint: choose another name, or replace it: --force
    ");
    assert_snapshot!(fails("quantize float.gguf out.gguf --format Q8_0 --policy text.txt"), @r#"
    exit code: 1
    error: policy is not as it has to be at text.txt:1: key with no value, expected `=`
    hint: format = "Q4_K", then [[tensors]] with names and format
    "#);
    assert_snapshot!(fails("quantize float.gguf out.gguf --format Q8_0 --policy float.gguf"), @r"
    exit code: 1
    error: cannot read float.gguf: stream did not contain valid UTF-8
    ");
    assert_snapshot!(fails("quantize float.gguf out.gguf --format Q8_0 --perplexity float.gguf"), @r"
    exit code: 1
    error: float.gguf is not UTF-8 at byte 170
    hint: save it as UTF-8
    ");
    assert_snapshot!(fails("quantize float.gguf out.gguf --format Q8_0 --calibrate text.txt --context 500"), @r"
    exit code: 1
    error: the model's context has 192 tokens, needed: 500
    hint: lower --context
    ");
}

#[cfg(unix)]
#[test]
fn a_disk_that_takes_no_more_is_reported_and_left_clean() {
    let data = tempfile::tempdir().unwrap();
    prepare(data.path());
    // The system refuses to let files grow beyond this, as a full disk does.
    let mut shell = Command::new("sh");
    shell
        .current_dir(data.path())
        .env("LOCKSTEP_DATA", data.path())
        .env("NO_COLOR", "1")
        .env_remove("LOCKSTEP_ISA")
        .args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_lockstep"))
        .args(["quantize", "float.gguf", "out.gguf", "--format", "F16"]);
    assert_snapshot!(report(&mut shell), @r"
    exit code: 3
    error: cannot write out.gguf: File too large (os error 27)
    ");
    assert_eq!(left(data.path()), Vec::<String>::new());
}

#[test]
fn perplexity_says_what_does_not_fit() {
    let data = tempfile::tempdir().unwrap();
    prepare(data.path());
    let run = |arguments: &str| report(&mut command(data.path(), arguments));
    assert_snapshot!(run("perplexity float.gguf nosuch.txt"), @r"
    exit code: 1
    error: cannot read nosuch.txt: No such file or directory (os error 2)
    ");
    assert_snapshot!(run("perplexity float.gguf text.txt --tokens 40 --context 64"), @r"
    exit code: 1
    error: text is too short for pieces of 64 tokens: 40
    ");
    assert_snapshot!(run("perplexity float.gguf text.txt --context 3"), @r"
    exit code: 1
    error: pieces are not between 4 and the 192 tokens of the model's context: 3
    ");
    fs::write(data.path().join("empty.txt"), "").unwrap();
    assert_snapshot!(run("perplexity float.gguf empty.txt"), @r"
    exit code: 1
    error: text is empty: empty.txt
    ");
    let printed = run("perplexity float.gguf text.txt --context 64");
    assert!(
        printed.starts_with("exit code: 0\nperplexity ") && printed.ends_with(" pieces of 64\n"),
        "{printed}"
    );
}
