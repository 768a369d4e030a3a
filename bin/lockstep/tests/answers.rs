//! The product on the real model: one answer, whoever computes it.

mod support;

use lockstep_numeric::Isa;
use std::{fs, sync::Once};
use support::{json, lockstep_with_models, report};

/// Fetches the model once for all tests of this file.
fn pull() {
    static PULLED: Once = Once::new();
    PULLED.call_once(|| {
        json(lockstep_with_models().args(["pull", "smollm2", "--json"]));
    });
}

const QUESTION: &str = "Name the capital city of France.";

#[test]
fn run_gives_one_digest_for_every_thread_count_and_instruction_set() {
    pull();
    let run = |isa: Isa, threads: u32| {
        let mut command = lockstep_with_models();
        command
            .env("LOCKSTEP_ISA", isa.name())
            .args(["run", "smollm2", QUESTION, "--json", "--tokens", "24"]);
        json(command.args(["--threads", &threads.to_string()]))
    };
    let expected = run(Isa::Portable, 2);
    assert!(
        expected["text"].as_str().unwrap().contains("Paris"),
        "{expected}"
    );
    for isa in Isa::available() {
        for threads in 1..=4 {
            let answer = run(isa, threads);
            assert_eq!(
                answer["digest"], expected["digest"],
                "{isa}, {threads} threads"
            );
            assert_eq!(answer["text"], expected["text"]);
            assert_eq!(answer["isa"], isa.name());
        }
    }
    for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512] {
        if !Isa::available().contains(&isa) {
            eprintln!("skipped: this processor has no {isa}");
        }
    }
}

#[test]
fn sampling_depends_on_the_seed_alone() {
    pull();
    let run = |seed: &str, threads: &str| {
        let arguments = [
            "run",
            "smollm2",
            "Tell me a story.",
            "--json",
            "--tokens",
            "16",
            "--temperature",
            "0.9",
        ];
        json(lockstep_with_models().args(arguments).args([
            "--top-k",
            "40",
            "--seed",
            seed,
            "--threads",
            threads,
        ]))
    };
    let first = run("7", "1");
    assert_eq!(first["digest"], run("7", "2")["digest"]);
    assert_ne!(first["digest"], run("8", "1")["digest"]);
}

#[test]
fn transcripts_verify_and_tampered_ones_name_the_step() {
    pull();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("transcript.json");
    json(
        lockstep_with_models()
            .args([
                "run",
                "smollm2",
                QUESTION,
                "--json",
                "--tokens",
                "12",
                "--transcript",
            ])
            .arg(&path),
    );
    let outcome = json(lockstep_with_models().args(["verify", "--json"]).arg(&path));
    assert_eq!(outcome["equal"], true);
    let mut transcript: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let step = &mut transcript["steps"][5];
    step["token"] = (step["token"].as_u64().unwrap() + 1).into();
    fs::write(&path, transcript.to_string()).unwrap();
    let report = report(lockstep_with_models().arg("verify").arg(&path));
    assert!(
        report.starts_with("exit code: 1\nerror: the transcript differs at step 5: token is "),
        "{report}"
    );
}

#[test]
fn demo_ends_with_four_equal_digests_and_a_verified_certificate() {
    pull();
    let report = json(lockstep_with_models().args(["demo", QUESTION, "--json", "--tokens", "32"]));
    assert!(
        report["text"].as_str().unwrap().contains("Paris"),
        "{report}"
    );
    let replicas = report["replicas"].as_array().unwrap();
    assert_eq!(replicas.len(), 4);
    for replica in replicas {
        assert_eq!(replica["session_digest"], report["answer_digest"]);
        assert_eq!(replica["state_root"], replicas[0]["state_root"]);
        assert_eq!(replica["height"], replicas[0]["height"]);
        assert_eq!(
            replica["multiply_accumulates"],
            replicas[0]["multiply_accumulates"]
        );
        assert!(
            replica["multiply_accumulates"].as_u64().unwrap() > 1_000_000_000,
            "{replica}"
        );
    }
    // The same answer as on one machine without replicas.
    let run =
        json(lockstep_with_models().args(["run", "smollm2", QUESTION, "--json", "--tokens", "32"]));
    assert_eq!(run["digest"], report["answer_digest"]);
}
