//! `bench` and `selftest`: what they print, and that what they print adds up.

mod support;

use insta::assert_snapshot;
use lockstep_model::fixture;
use lockstep_numeric::Isa;
use serde_json::Value;
use std::{fs, path::Path, process::Command};
use support::{json, lockstep, report};

/// `lockstep bench` on a tiny model in `data`, with sizes that suit it.
fn bench(data: &Path) -> Command {
    fs::write(data.join("tiny.gguf"), fixture::tiny_llama(1).build()).unwrap();
    let mut command = lockstep(data);
    command
        .current_dir(data)
        .args(["bench", "tiny.gguf", "--prompt-tokens", "40"])
        .args(["--chunk", "16", "--decode-tokens", "6"])
        .args(["--repetitions", "3"]);
    command
}

fn seconds(list: &Value) -> Vec<f64> {
    let list = list.as_array().unwrap();
    list.iter().map(|value| value.as_f64().unwrap()).collect()
}

/// Whether two positive numbers are the same but for what reading JSON may cost: some last places.
fn same(left: &Value, right: f64) -> bool {
    left.as_f64().unwrap().to_bits().abs_diff(right.to_bits()) <= 8
}

#[test]
fn bench_reports_every_repetition_and_its_median() {
    let data = tempfile::tempdir().unwrap();
    let report = json(bench(data.path()).args([
        "--threads",
        "2,1",
        "--context",
        "100",
        "--batch",
        "3",
        "--json",
    ]));
    assert_eq!(report["name"], "tiny");
    assert_eq!(report["start"]["threads"], 2);
    let runs = report["runs"].as_array().unwrap();
    let threads: Vec<_> = runs.iter().map(|run| run["threads"].as_u64()).collect();
    assert_eq!(threads, [Some(2), Some(1)]);
    for run in runs {
        for (part, tokens) in [("prefill", 40.0), ("decode", 6.0)] {
            let part = &run[part];
            let mut times = seconds(&part["seconds"]);
            assert_eq!(times.len(), 3);
            times.sort_by(f64::total_cmp);
            assert_eq!(part["median_seconds"], times[1]);
            assert!(
                same(&part["tokens_per_second"], tokens / times[1]),
                "{part}"
            );
        }
        let per_token = report["weight_bytes_per_token"].as_f64().unwrap();
        let speed = run["decode"]["tokens_per_second"].as_f64().unwrap();
        assert!(
            same(&run["weight_bytes_per_second"], per_token * speed),
            "{run}"
        );
        assert_eq!(run["context"]["tokens"], 100);
        assert_eq!(seconds(&run["context"]["seconds"]).len(), 32);
        assert_eq!(run["batch"]["sequences"], 3);
        let mut times = seconds(&run["batch"]["seconds"]);
        assert_eq!(times.len(), 3);
        times.sort_by(f64::total_cmp);
        assert!(
            same(&run["batch"]["tokens_per_second"], 18.0 / times[1]),
            "{run}"
        );
        assert!(run["memory_bytes_per_second"].as_f64().unwrap() > 0.0);
        for operations in ["prefill_operations", "decode_operations"] {
            let operations = run[operations].as_array().unwrap();
            let shares = operations.iter().map(|one| one["share"].as_f64().unwrap());
            assert!(shares.is_sorted_by(|a, b| a >= b), "{operations:?}");
            assert!(operations.iter().any(|one| one["kind"] == "attention"));
        }
    }
}

#[test]
fn bench_prints_a_table_and_draws_it() {
    let data = tempfile::tempdir().unwrap();
    let svg = data.path().join("bench.svg");
    let report = report(
        bench(data.path())
            .args(["--threads", "1", "--svg"])
            .arg(&svg),
    );
    assert!(report.starts_with("exit code: 0\ntiny on "), "{report}");
    for part in [
        "MB read per token",
        "tokens per second, medians of 3: prompt of 40, then 6 one by one",
        "threads   prefill    decode  weights GB/s  memory GB/s",
        "share of time    prefill 1    decode 1",
        "others",
    ] {
        assert!(report.contains(part), "{part} not in {report}");
    }
    let drawing = fs::read_to_string(svg).unwrap();
    assert!(drawing.starts_with("<svg "), "{drawing}");
    for part in [
        "1 thread\n",
        "prefill of 40 tokens",
        "decode 1\n",
        "others\n",
    ] {
        assert!(drawing.contains(part), "{part:?} not in {drawing}");
    }
}

#[test]
fn bench_without_profile_leaves_its_figures_out() {
    let data = tempfile::tempdir().unwrap();
    let report = json(bench(data.path()).args(["--threads", "1", "--no-profile", "--json"]));
    let run = &report["runs"][0];
    assert_eq!(run["memory_bytes_per_second"], Value::Null);
    assert_eq!(run["context"], Value::Null);
    assert_eq!(run["decode_operations"], Value::Array(Vec::new()));
}

#[test]
fn bench_refuses_more_tokens_than_the_context_has() {
    let data = tempfile::tempdir().unwrap();
    assert_snapshot!(report(bench(data.path()).args(["--context", "161"])), @r"
    exit code: 1
    error: the model's context has 192 tokens, needed: 193
    hint: lower --prompt-tokens, --decode-tokens or --context
    ");
}

#[test]
fn selftest_names_every_instruction_set_of_the_architecture() {
    let data = tempfile::tempdir().unwrap();
    let report = report(lockstep(data.path()).arg("selftest"));
    let mut lines = report.lines();
    assert_eq!(lines.next(), Some("exit code: 0"));
    let lines: Vec<_> = lines.collect();
    for isa in Isa::available() {
        let start = format!("{:<11} passed ", isa.name());
        assert!(
            lines.iter().any(|line| line.starts_with(&start)),
            "{isa}: {report}"
        );
    }
    for line in lines {
        let (name, state) = line.split_once(' ').unwrap();
        let isa: Isa = name.parse().unwrap();
        let expected = match Isa::available().contains(&isa) {
            true => "passed ",
            false => "skipped  instruction set missing on this processor: ",
        };
        assert!(state.trim_start().starts_with(expected), "{line}");
    }
}

#[test]
fn selftest_checks_the_instruction_set_asked_for() {
    let data = tempfile::tempdir().unwrap();
    let mut command = lockstep(data.path());
    command
        .env("LOCKSTEP_ISA", "portable")
        .args(["selftest", "--threads", "3", "--json"]);
    let outcome = json(&mut command);
    assert_eq!(outcome["threads"], 3);
    assert_eq!(outcome["instruction_sets"].as_array().unwrap().len(), 1);
    let portable = &outcome["instruction_sets"][0];
    assert_eq!(portable["isa"], "portable");
    assert_eq!(portable["state"], "passed");
    assert!(portable["kernels"].as_u64().unwrap() > 10, "{portable}");
}

#[test]
fn selftest_refuses_an_unknown_instruction_set() {
    let data = tempfile::tempdir().unwrap();
    let report = report(
        lockstep(data.path())
            .env("LOCKSTEP_ISA", "sse9")
            .arg("selftest"),
    );
    assert!(
        report.starts_with("exit code: 1\nerror: unknown instruction set"),
        "{report}"
    );
}
