//! The store and what is said of model files: pull, models, inspect, and the hub.

mod support;

use insta::assert_snapshot;
use lockstep_model::{arch::TINY, fixture};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    thread,
};
use support::{json, lockstep, report, with_model};

fn run(data: &Path, arguments: &[&str]) -> String {
    let report = report(lockstep(data).current_dir(data).args(arguments));
    report.replace(data.to_str().unwrap(), "DATA")
}

/// Nothing but models and the folder of aliases is left, if there is a store.
fn assert_no_leftovers(data: &Path) {
    for entry in fs::read_dir(data.join("models")).into_iter().flatten() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == "aliases" || name.ends_with(".gguf"), "{name}");
    }
}

#[test]
fn a_file_is_pulled_listed_run_and_removed() {
    let data = with_model();
    let data = data.path();
    let pulled = json(
        lockstep(data)
            .current_dir(data)
            .args(["pull", "tiny.gguf", "--json"]),
    );
    let digest = pulled["digest"].as_str().unwrap();
    assert_eq!(digest.len(), 64);
    assert_snapshot!(run(data, &["models"]).replace(digest, "DIGEST"), @r#"
    exit code: 0
    tiny  tiny    85.0 kB  DIGEST
    1 model, 85.0 kB
    "#);
    let listed = json(lockstep(data).args(["models", "--json"]));
    assert_eq!(listed["models"][0]["digest"], digest);
    assert_eq!(listed["models"][0]["aliases"][0], "tiny");
    assert_eq!(
        listed["bytes"],
        fs::metadata(data.join("tiny.gguf")).unwrap().len()
    );
    let answer = |model: &str| {
        let arguments = ["run", model, "hello", "--json", "--tokens", "4"];
        json(lockstep(data).current_dir(data).args(arguments))["digest"].clone()
    };
    assert_eq!(answer("tiny"), answer("tiny.gguf"));
    assert_eq!(answer(digest), answer("tiny.gguf"));
    assert_snapshot!(run(data, &["models", "remove", "tiny"]), @r#"
    exit code: 0
    removed tiny, 85.0 kB are free again
    "#);
    assert_snapshot!(run(data, &["models"]), @r#"
    exit code: 0
    0 models, 0 B
    "#);
    assert_snapshot!(run(data, &["models", "remove", "tiny"]), @r#"
    exit code: 1
    error: no such model in the store: tiny
    hint: `lockstep models` lists them
    "#);
    assert_no_leftovers(data);
}

#[test]
fn a_split_model_is_pulled_as_one() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    for (index, part) in (1..).zip(fixture::tiny_llama(5).split(3)) {
        fs::write(data.join(format!("m-{index:05}-of-00003.gguf")), part).unwrap();
    }
    let first = "m-00001-of-00003.gguf";
    json(
        lockstep(data)
            .current_dir(data)
            .args(["pull", first, "--alias", "split", "--json"]),
    );
    let run = |model: &str| {
        let arguments = ["run", model, "hello", "--json", "--tokens", "4"];
        json(lockstep(data).current_dir(data).args(arguments))["digest"].clone()
    };
    assert_eq!(run("split"), run(first));
    assert_eq!(
        json(lockstep(data).args(["inspect", "split", "--json"]))["files"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    fs::remove_file(data.join("m-00002-of-00003.gguf")).unwrap();
    let report = self::run(data, &["pull", first, "--alias", "again"]);
    assert!(
        report.starts_with("exit code: 1\nerror: cannot read m-00002-of-00003.gguf"),
        "{report}"
    );
    assert!(
        report.contains("hint: the model has 3 files, side by side"),
        "{report}"
    );
    assert_no_leftovers(data);
}

#[test]
fn a_checkpoint_is_pulled_as_a_file_prepared_and_removed_whole() {
    let data = with_model();
    let data = data.path();
    fs::create_dir(data.join("trained")).unwrap();
    for (name, bytes) in fixture::TinyCheckpoint::new(&TINY[0], 5).files() {
        fs::write(data.join("trained").join(name), bytes).unwrap();
    }
    let digest = |model: &str| {
        let arguments = ["run", model, "hello", "--json", "--tokens", "4"];
        json(lockstep(data).current_dir(data).args(arguments))["digest"].clone()
    };
    let opened = digest("./trained");
    assert_snapshot!(run(data, &["inspect", "./trained"]), @r#"
    exit code: 1
    error: a directory, not a file: ./trained
    hint: bring it into the store first: lockstep pull ./trained
    "#);
    assert!(run(data, &["pull", "trained", "--alias", "stored"]).starts_with("exit code: 0\n"));
    assert_eq!(digest("stored"), opened);
    let bytes =
        |data: &Path| json(lockstep(data).args(["models", "--json"]))["models"][0]["bytes"].clone();
    let before = bytes(data).as_u64().unwrap();
    assert!(run(data, &["prepare", "stored"]).starts_with("exit code: 0\n"));
    assert!(bytes(data).as_u64().unwrap() > before);
    assert_eq!(digest("stored"), opened);
    assert!(run(data, &["models", "remove", "stored"]).starts_with("exit code: 0\n"));
    assert_no_leftovers(data);
    let left = fs::read_dir(data.join("models")).unwrap().count();
    assert_eq!(left, 1, "the folder of aliases");
}

#[test]
fn what_cannot_be_pulled_leaves_nothing() {
    let data = with_model();
    let data = data.path();
    fs::write(data.join("text.gguf"), "hello, hello").unwrap();
    fs::create_dir(data.join("checkpoint")).unwrap();
    assert_snapshot!(run(data, &["pull", "text.gguf"]), @r#"
    exit code: 1
    error: not a model: text.gguf: not a GGUF file: it starts with bytes [68, 65, 6c, 6c] instead of "GGUF"
    "#);
    assert_snapshot!(run(data, &["pull", "checkpoint"]), @r#"
    exit code: 1
    error: not a model: checkpoint: the checkpoint has no file of this name: config.json
    hint: give a .gguf file, or a directory with config.json, tokenizer.json and *.safetensors
    "#);
    assert_snapshot!(run(data, &["pull", "tiny.gguf", "--alias", "a/b"]), @r#"
    exit code: 1
    error: not an alias: a/b
    hint: letters, digits, '-', '_' and '.', beginning with a letter or digit
    "#);
    assert_snapshot!(run(data, &["pull", "hf:owner"]), @r#"
    exit code: 1
    error: not a file on the hub: hf:owner
    hint: hf:OWNER/REPOSITORY/FILE.gguf
    "#);
    assert_snapshot!(run(data, &["pull", "hf:owner/repo/model.bin"]), @r#"
    exit code: 1
    error: not a .gguf file: model.bin
    hint: of a checkpoint, fetch the whole directory and give it to `lockstep pull`
    "#);
    assert_no_leftovers(data);
}

#[test]
fn a_store_that_cannot_be_made_is_missed_by_what_is_put_into_it_only() {
    let folder = with_model();
    // Below a file there is no folder: what a read-only disk does to everybody, this does to every user.
    let file = folder.path().join("tiny.gguf");
    let data = file.join("data");
    let run = |arguments: &[&str]| {
        let mut command = lockstep(&data);
        let report = report(command.current_dir(folder.path()).args(arguments));
        report.replace(data.to_str().unwrap(), "DATA")
    };
    let inspected = run(&["inspect", "tiny.gguf"]);
    assert!(
        inspected.starts_with("exit code: 0\nname          tiny\n"),
        "{inspected}"
    );
    assert_snapshot!(run(&["models"]), @r"
    exit code: 0
    0 models, 0 B
    ");
    assert_snapshot!(run(&["inspect", "tiny"]), @r"
    exit code: 1
    error: no such model: tiny
    hint: give a .gguf file, or fetch one first: lockstep pull smollm2
    ");
    assert_snapshot!(run(&["pull", "tiny.gguf"]), @r"
    exit code: 3
    error: cannot create DATA/models: Not a directory (os error 20)
    hint: set LOCKSTEP_DATA to a directory that may be written
    ");
    // Nor is one made where it could be.
    let data = folder.path().join("data");
    assert!(report(lockstep(&data).args(["models"])).starts_with("exit code: 0"));
    assert!(!data.exists());
}

#[test]
fn inspect_shows_what_a_file_says() {
    let data = with_model();
    let data = data.path();
    assert_snapshot!(run(data, &["inspect", "tiny.gguf"]), @r#"
    exit code: 0
    name          tiny
    architecture  llama
    files         1
    size          85.0 kB
    parameters    78912
    tensors       20
      format      Q8_0 in 5 tensors, 35.6 kB
      format      Q4_1 in 8 tensors, 25.6 kB
      format      F32 in 7 tensors, 17.7 kB
    tokenizer     gpt2 (smollm), 268 tokens
    chat template yes
    context       192 tokens
    weights       78.9 kB
    cache         256.0 kB per 1,000 tokens
    runs          yes

    metadata
      general.architecture = llama
      general.name = tiny
      llama.attention.head_count = 4
      llama.attention.head_count_kv = 2
      llama.attention.layer_norm_rms_epsilon = 9.999999747378752e-6
      llama.block_count = 2
      llama.context_length = 192
      llama.embedding_length = 64
      llama.feed_forward_length = 96
      llama.rope.dimension_count = 16
      llama.rope.freq_base = 10000.0
      llama.vocab_size = 268
      tokenizer.chat_template = {% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message … and 118 characters
      tokenizer.ggml.add_bos_token = false
      tokenizer.ggml.bos_token_id = 1
      tokenizer.ggml.eos_token_id = 2
      tokenizer.ggml.merges = 9 values
      tokenizer.ggml.model = gpt2
      tokenizer.ggml.pre = smollm
      tokenizer.ggml.token_type = 268 values
      tokenizer.ggml.tokens = 268 values
    "#);
    let report = json(lockstep(data).current_dir(data).args([
        "inspect",
        "tiny.gguf",
        "--json",
        "--tensors",
    ]));
    assert_eq!(report["runs"], true);
    assert_eq!(
        report["tensor_count"],
        report["tensors"].as_array().unwrap().len()
    );
    let bytes = |list: &str| -> u64 {
        let list = report[list].as_array().unwrap().iter();
        list.map(|entry| entry["bytes"].as_u64().unwrap()).sum()
    };
    assert_eq!(bytes("formats"), bytes("tensors"));
}

#[test]
fn inspect_says_why_a_file_cannot_be_run() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let text = |text: &str| lockstep_model::gguf::Value::String(text.to_owned());
    let file = fixture::tiny_llama(5)
        .set("general.architecture", text("mamba"))
        .set("general.name", text("a\u{1b}[31mname"));
    fs::write(data.join("other.gguf"), file.build()).unwrap();
    let shown = run(data, &["inspect", "other.gguf"]);
    assert!(shown.starts_with("exit code: 0\n"), "{shown}");
    assert!(
        shown.contains("runs          no: unsupported architecture"),
        "{shown}"
    );
    assert!(!shown.contains('\u{1b}'), "{shown}");
    fs::write(data.join("none.gguf"), "").unwrap();
    assert_snapshot!(run(data, &["inspect", "none.gguf"]), @r#"
    exit code: 1
    error: cannot read none.gguf: not a GGUF file: it starts with bytes [] instead of "GGUF"
    "#);
    assert_snapshot!(run(data, &["inspect", "nosuch"]), @r"
    exit code: 1
    error: no such model: nosuch
    hint: give a .gguf file, or fetch one first: lockstep pull smollm2
    ");
}

#[test]
fn the_hub_out_of_reach() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    for endpoint in ["http://127.0.0.1:9", "nonsense", "ftp://nowhere"] {
        let report = report(
            lockstep(data)
                .env("HF_ENDPOINT", endpoint)
                .args(["pull", "hf:owner/repo/model.gguf"]),
        );
        assert!(
            report.starts_with("exit code: 3\nerror: cannot fetch hf:owner/repo/model.gguf: "),
            "{report}"
        );
        assert!(
            report.contains("hint: check the name and the network; HF_ENDPOINT"),
            "{report}"
        );
        assert_no_leftovers(data);
    }
}

/// Answers as the hub does for one file, with this SHA-256 as its tag, until the test ends. Other files are not found.
fn hub(content: Vec<u8>, tag: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (content, tag) = (content.clone(), tag.clone());
            thread::spawn(move || while serve(&stream, &content, &tag).is_some() {});
        }
    });
    address
}

/// Answers one request; none when there are no more.
fn serve(mut stream: &TcpStream, content: &[u8], tag: &str) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    let mut line = String::new();
    reader
        .read_line(&mut first)
        .ok()
        .filter(|count| *count > 0)?;
    while line.trim() != "" || line.is_empty() {
        line.clear();
        reader
            .read_line(&mut line)
            .ok()
            .filter(|count| *count > 0)?;
    }
    if !first.contains("/owner/repo/resolve/main/model.gguf ") {
        stream
            .write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            .ok()?;
        return Some(());
    }
    let size = content.len();
    let head = format!("HTTP/1.1 200 OK\r\netag: \"{tag}\"\r\ncontent-length: {size}\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    match first.starts_with("HEAD") {
        true => Some(()),
        false => stream.write_all(content).ok(),
    }
}

#[test]
fn a_file_of_the_hub_is_checked_and_stored() {
    let content = fixture::tiny_llama(5).build();
    let right = hex::encode(Sha256::digest(&content));
    let pull = |data: &Path, tag: &str, file: &str| {
        report(
            lockstep(data)
                .env("HF_ENDPOINT", hub(content.clone(), tag.to_owned()))
                .args(["pull", &format!("hf:owner/repo/{file}")]),
        )
    };
    let data = tempfile::tempdir().unwrap();
    let report = pull(data.path(), &right, "model.gguf");
    assert!(report.starts_with("exit code: 0\n"), "{report}");
    let listed = json(lockstep(data.path()).args(["models", "--json"]));
    assert_eq!(listed["models"][0]["aliases"][0], "model");
    assert_no_leftovers(data.path());

    let data = tempfile::tempdir().unwrap();
    let report = pull(data.path(), &"0".repeat(64), "model.gguf");
    assert!(
        report.starts_with(
            "exit code: 3\nerror: the hub's file is damaged: model.gguf: SHA-256 0000"
        ),
        "{report}"
    );
    let report = pull(data.path(), &right, "other.gguf");
    assert!(
        report.starts_with("exit code: 3\nerror: cannot fetch hf:owner/repo/other.gguf: "),
        "{report}"
    );
    assert!(report.contains("404"), "{report}");
    let listed = json(lockstep(data.path()).args(["models", "--json"]));
    assert_eq!(listed["models"].as_array().unwrap().len(), 0);
    assert_no_leftovers(data.path());
}
