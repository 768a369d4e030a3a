//! `lockstep run` with every option, and `lockstep chat` by lines of standard input, on a small model.

mod support;

use insta::assert_snapshot;
use lockstep_model::{Message, Model, Prompt, Role, Sampling, Transcript};
use lockstep_numeric::{Isa, Kernels, Pool};
use std::{
    fs,
    io::Write as _,
    num::NonZeroUsize,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};
use support::{json, lockstep, report, with_model};

fn command(data: &Path, arguments: &[&str]) -> Command {
    let mut command = lockstep(data);
    command.current_dir(data).args(arguments);
    command
}

/// Exit code, stdout and stderr of a conversation.
fn chat(data: &Path, arguments: &[&str], lines: &[u8]) -> (Option<i32>, String, String) {
    let mut child = command(data, &["chat", "tiny.gguf", "--tokens", "6"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that ends early does not read the rest.
    let _ = child.stdin.take().unwrap().write_all(lines);
    let output = child.wait_with_output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn every_option_of_run_stands_in_a_transcript_that_verifies() {
    let data = with_model();
    let data = data.path();
    let schema = r#"{"type":"object","properties":{"n":{"type":"integer","minimum":0,"maximum":9}},"required":["n"],"additionalProperties":false}"#;
    fs::write(data.join("schema.json"), schema).unwrap();
    let cases: [&[&str]; 7] = [
        &["--min-p", "0.2"],
        &["--repetition-penalty", "1.3"],
        &["--frequency-penalty", "-0.5", "--penalty-window", "9"],
        &["--presence-penalty", "0.7"],
        &["--stop", "e", "--stop", "th"],
        &["--bias", "40=-1.5", "--bias", "41=-inf"],
        &["--schema", "schema.json"],
    ];
    for case in cases {
        let mut arguments = vec!["run", "tiny.gguf", "hello", "--json", "--tokens", "30"];
        arguments.extend([
            "--temperature",
            "1.1",
            "--seed",
            "3",
            "--transcript",
            "t.json",
        ]);
        arguments.extend(case);
        let answer = json(&mut command(data, &arguments));
        let again = json(
            command(data, &arguments)
                .args(["--threads", "1"])
                .env("LOCKSTEP_ISA", "portable"),
        );
        assert_eq!(answer["digest"], again["digest"], "{case:?}");
        if case[0] == "--schema" {
            let value: serde_json::Value =
                serde_json::from_str(answer["text"].as_str().unwrap()).unwrap();
            assert!((0..=9).contains(&value["n"].as_i64().unwrap()), "{value}");
            assert_eq!(answer["steered_end"], "complete");
        }
        let verified = json(&mut command(
            data,
            &["verify", "t.json", "--model", "tiny.gguf", "--json"],
        ));
        assert_eq!(verified["equal"], true, "{case:?}");
    }
}

#[test]
fn options_of_run_that_cannot_be() {
    let data = with_model();
    let data = data.path();
    fs::write(data.join("broken.json"), "{").unwrap();
    fs::write(data.join("latin.json"), b"{\"title\": \"\xe9\"}").unwrap();
    fs::write(data.join("unknown.json"), r#"{"type": "thing"}"#).unwrap();
    let run =
        |arguments: &[&str]| report(command(data, &["run", "tiny.gguf", "hello"]).args(arguments));
    assert_snapshot!(run(&["--bias", "x=1"]), @r#"
    exit code: 1
    error: --bias takes TOKEN=VALUE: x=1
    hint: TOKEN is the number of a token, VALUE from -1000 to 1000 or -inf: --bias 42=-1.5
    "#);
    assert_snapshot!(run(&["--bias", "999=1"]), @r#"
    exit code: 1
    error: the bias is for a token that is not in the vocabulary of 268: 999
    "#);
    assert_snapshot!(run(&["--min-p=-1"]), @r"
    exit code: 1
    error: --min-p takes a number from 0 to 1: -1
    ");
    assert_snapshot!(run(&["--repetition-penalty", "0"]), @r#"
    exit code: 1
    error: --repetition-penalty takes a number above 0: 0
    "#);
    assert_snapshot!(run(&["--stop", ""]), @r#"
    exit code: 1
    error: a string that stops the text is empty
    "#);
    assert_snapshot!(run(&["--schema", "missing.json"]), @r#"
    exit code: 1
    error: cannot read missing.json: No such file or directory (os error 2)
    "#);
    assert_snapshot!(run(&["--schema", "broken.json"]), @r#"
    exit code: 1
    error: the schema is not JSON: EOF while parsing an object at line 1 column 1
    "#);
    assert_snapshot!(run(&["--schema", "latin.json"]), @r#"
    exit code: 1
    error: latin.json is not UTF-8 at byte 11
    hint: save it as UTF-8
    "#);
    assert_snapshot!(run(&["--schema", "unknown.json"]), @r#"
    exit code: 1
    error: the schema cannot be used: Invalid type: thing
    "#);
}

#[test]
fn surroundings_that_do_not_suffice() {
    let data = with_model();
    let data = data.path();
    let run = |arguments: &[&str]| report(command(data, &["run", "tiny.gguf"]).args(arguments));
    let long = "why ".repeat(300);
    assert_snapshot!(run(&[&long]), @r#"
    exit code: 1
    error: the prompt has 1216 tokens, but the model's context 192
    hint: ask in fewer words, or a model with a longer context
    "#);
    let transcript = |path: &str| {
        let report = run(&["hello", "--tokens", "2", "--json", "--transcript", path]);
        let errors = report.lines().filter(|line| !line.starts_with('{'));
        errors.collect::<Vec<_>>().join("\n")
    };
    assert_snapshot!(transcript("/dev/full"), @r#"
    exit code: 3
    error: cannot write /dev/full: No space left on device (os error 28)
    hint: make room on the disk; `lockstep models` shows what models take
    "#);
    assert_snapshot!(transcript("missing/t.json"), @r#"
    exit code: 3
    error: cannot write missing/t.json: No such file or directory (os error 2)
    hint: make the folder first
    "#);
    assert_snapshot!(transcript("tiny.gguf/t.json"), @r#"
    exit code: 3
    error: cannot write tiny.gguf/t.json: Not a directory (os error 20)
    "#);
    let small =
        report(command(data, &["run", "tiny.gguf", "hello"]).env("LOCKSTEP_MEMORY", "1000"));
    assert_snapshot!(small, @r#"
    exit code: 3
    error: not enough memory for the model: it needs 85.0 kB, the system has 1.0 kB
    hint: end other programs, or take a smaller model or a shorter context
    "#);
    let enough_for_weights = fs::metadata(data.join("tiny.gguf"))
        .unwrap()
        .len()
        .to_string();
    let small = report(
        command(data, &["run", "tiny.gguf", "hello", "--tokens", "2"])
            .env("LOCKSTEP_MEMORY", enough_for_weights),
    );
    assert!(small.starts_with("exit code: 0\n"), "{small}");
    let left: Vec<_> = fs::read_dir(data)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(left.iter().all(|name| name == "tiny.gguf"), "{left:?}");
}

#[test]
fn answers_of_a_chat_are_those_of_runs_over_the_same_messages() {
    let data = with_model();
    let data = data.path();
    let flags = ["--temperature", "0.9", "--seed", "5"];
    let lines = b"/system short\nwhy?\nand then?\n/save talk.json\n";
    let (code, answers, errors) = chat(data, &flags, lines);
    assert_eq!(code, Some(0), "{errors}");
    let saved: serde_json::Value =
        serde_json::from_slice(&fs::read(data.join("talk.json")).unwrap()).unwrap();
    let messages: Vec<Message> = serde_json::from_value(saved["messages"].clone()).unwrap();
    assert_eq!(messages.len(), 5);
    assert_eq!(messages[0].role, Role::System);
    let model = Model::open(&data.join("tiny.gguf")).unwrap();
    let pool = Arc::new(Pool::new(NonZeroUsize::MIN));
    let kernels = Arc::new(Kernels::new(Isa::Portable, pool).unwrap());
    let sampling = Sampling {
        temperature_milli: 900,
        seed: 5,
        ..Sampling::GREEDY
    };
    let mut expected = String::new();
    for turn in [2, 4] {
        let asked = Prompt::Messages(messages[..turn].to_vec());
        let transcript =
            Transcript::record(Arc::clone(&model), Arc::clone(&kernels), asked, sampling, 6)
                .unwrap();
        assert_eq!(messages[turn].content, transcript.text);
        expected += &transcript.text;
        expected += "\n";
    }
    assert_eq!(answers, expected);

    // The command `run` says the same to the same first message.
    let run = json(
        command(
            data,
            &["run", "tiny.gguf", "why?", "--json", "--tokens", "6"],
        )
        .args(flags),
    );
    let (_, first, _) = chat(data, &flags, b"why?\n");
    assert_eq!(first, format!("{}\n", run["text"].as_str().unwrap()));

    // A conversation that is taken up goes on as the one that was not interrupted.
    let (_, whole, _) = chat(data, &flags, b"/system short\nwhy?\nand then?\nso?\n");
    let (_, rest, _) = chat(data, &flags, b"/load talk.json\nso?\n");
    assert_eq!(whole, answers + &rest);
}

#[test]
fn commands_change_the_answers_that_follow() {
    let data = with_model();
    let data = data.path();
    let answers = |lines: &str| {
        let (code, answers, errors) = chat(data, &[], lines.as_bytes());
        assert_eq!(code, Some(0), "{errors}");
        answers
    };
    let greedy = answers("why?\n");
    assert_eq!(answers("why?\n/clear\nwhy?\n"), greedy.repeat(2));
    assert_eq!(
        answers("/temperature 1.5\n/temperature 0\n\n/adapter none\nwhy?\n/quit\nwhy?\n"),
        greedy
    );
    let warm = answers("/temperature 1.5\n/seed 1\nwhy?\n");
    assert_ne!(warm, greedy);
    assert_ne!(warm, answers("/temperature 1.5\n/seed 2\nwhy?\n"));
    assert_ne!(answers("/system be brief\nwhy?\n"), greedy);
    assert_eq!(answers("/system be brief\n/system\nwhy?\n"), greedy);
    assert_eq!(answers("/help\n"), "");
}

#[test]
fn lines_that_cannot_be_done_end_a_script() {
    let data = with_model();
    let data = data.path();
    fs::write(data.join("talk.json"), "{}").unwrap();
    let say = |lines: &[u8]| {
        let (code, answers, errors) = chat(data, &[], lines);
        format!("exit code: {}\n{answers}{errors}", code.unwrap())
    };
    assert_snapshot!(say(b"/sing\nwhy?\n"), @r#"
    exit code: 1
    error: unknown command: /sing
    hint: /help lists the commands
    "#);
    assert_snapshot!(say(b"/seed x\n"), @r#"
    exit code: 1
    error: /seed takes a whole number: x
    hint: /help lists the commands
    "#);
    assert_snapshot!(say(b"/temperature -1\n"), @r#"
    exit code: 1
    error: /temperature takes a number from 0 to 1000: -1
    "#);
    assert_snapshot!(say(b"/adapter some.gguf\n"), @r#"
    exit code: 1
    error: cannot open the adapter: cannot read adapter file: some.gguf: No such file or directory (os error 2)
    "#);
    assert_snapshot!(say(b"/load missing.json\n"), @r#"
    exit code: 1
    error: cannot read missing.json: No such file or directory (os error 2)
    "#);
    assert_snapshot!(say(b"/load talk.json\n"), @r#"
    exit code: 1
    error: not a saved conversation: talk.json: missing field `format_version` at line 1 column 2
    "#);
    assert_snapshot!(say(b"/save /dev/full\n"), @r#"
    exit code: 3
    error: cannot write /dev/full: No space left on device (os error 28)
    hint: make room on the disk; `lockstep models` shows what models take
    "#);
    assert_snapshot!(say(b"\xff\xfe\n"), @r#"
    exit code: 1
    error: line of standard input is not UTF-8: 1
    "#);
    assert_snapshot!(say(format!("{}\n", "why ".repeat(300)).as_bytes()), @r#"
    exit code: 1
    error: the prompt has 1215 tokens, but the model's context 192
    hint: /clear begins anew
    "#);
}
