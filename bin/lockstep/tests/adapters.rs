//! Adapters on the command line: imported, applied, verified, merged.

mod support;

use lockstep_model::{
    Model,
    fixture::{self, GgufBuilder},
    gguf::TensorType,
};
use std::{fs, path::PathBuf, process::Command};
use support::{json, lockstep, report};
use tempfile::TempDir;

/// A folder with a model, another one, and an adapter of the first that does not say so.
fn files() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, file: &GgufBuilder| {
        let bytes = file.build();
        fs::write(folder.path().join(name), &bytes).unwrap();
        bytes
    };
    let model = write("model.gguf", &fixture::tiny_llama(3));
    write("other.gguf", &fixture::tiny_llama(4));
    let adapter = fixture::adapter(&model, 1, 8, TensorType::F16, None);
    write("foreign.gguf", &adapter);
    folder
}

/// The binary, called with arguments of which those with a dot are files of the folder.
fn call(folder: &TempDir, arguments: &[&str]) -> Command {
    let mut command = lockstep(folder.path());
    command.args(arguments.iter().map(|argument| match argument {
        name if name.contains('.') => folder.path().join(name),
        other => PathBuf::from(other),
    }));
    command
}

const IMPORT: &[&str] = &["adapter", "import", "foreign.gguf", "--base"];

#[test]
fn an_adapter_is_imported_applied_verified_and_merged() {
    let folder = files();
    let call = |arguments: &[&str]| call(&folder, arguments);
    let ran = |arguments: &[&str]| {
        let prompt: &[&str] = &["hello", "--raw", "--tokens", "8", "--json"];
        json(&mut call(&[arguments, prompt].concat()))
    };
    let imported = [IMPORT, &["model.gguf", "bound.gguf", "--json"]].concat();
    let imported = json(&mut call(&imported));
    assert_eq!(imported["rank"], 8);
    assert_eq!(imported["tensors"].as_array().unwrap().len(), 14);
    // What was written is what its digest says.
    let bytes = fs::read(folder.path().join("bound.gguf")).unwrap();
    assert_eq!(imported["adapter"], blake3_of(&bytes));

    let bare = ran(&["run", "model.gguf"]);
    let adapted = [
        "run",
        "model.gguf",
        "--adapter",
        "bound.gguf",
        "--transcript",
        "run.json",
    ];
    let adapted = ran(&adapted);
    assert_ne!(bare["digest"], adapted["digest"]);
    assert_eq!(adapted["adapter"], imported["adapter"]);
    let verify = ["verify", "run.json", "--model", "model.gguf"];
    let with = [&verify[..], &["--adapter", "bound.gguf", "--json"]].concat();
    assert_eq!(json(&mut call(&with))["equal"], true);
    let without = report(&mut call(&verify));
    let wanted = format!(
        "exit code: 1\nerror: transcript is of adapter {}, given was: none\n",
        imported["adapter"].as_str().unwrap()
    );
    assert_eq!(without, wanted);

    let merge = [
        "merge",
        "model.gguf",
        "bound.gguf",
        "merged.gguf",
        "--format",
        "f32",
    ];
    let merged = report(&mut call(&merge));
    assert!(
        merged.starts_with("exit code: 0\nmerged 14 tensors into "),
        "{merged}"
    );
    let merged = Model::open(&folder.path().join("merged.gguf")).unwrap();
    assert_eq!(merged.name(), "tiny");
    assert_ne!(ran(&["run", "merged.gguf"])["digest"], bare["digest"]);
}

/// The digest that a model or an adapter has by its bytes.
fn blake3_of(bytes: &[u8]) -> String {
    lockstep_model::Digest::of(bytes).to_string()
}

#[test]
fn what_does_not_fit_is_one_error_and_leaves_no_file() {
    let folder = files();
    let call = |arguments: &[&str]| call(&folder, arguments);
    let imported = [IMPORT, &["model.gguf", "bound.gguf"]].concat();
    assert!(report(&mut call(&imported)).starts_with("exit code: 0\nadapter "));
    let digest = |name: &str| blake3_of(&fs::read(folder.path().join(name)).unwrap());
    let (named, given) = (digest("model.gguf"), digest("other.gguf"));
    let mismatch = format!(
        "exit code: 1\nerror: cannot open the adapter: adapter is of another base: it names {named}, this is {given}\n"
    );
    let foreign = folder.path().join("foreign.gguf");
    let unbound = format!(
        "exit code: 1\nerror: cannot open the adapter: adapter does not say which base it is of, and none was stated \
         (metadata key lockstep.base.digest)\n\
         hint: state its base: lockstep adapter import {} --base MODEL OUTPUT\n",
        foreign.display()
    );
    let run = ["run", "other.gguf", "hello", "--adapter"];
    for (arguments, wanted) in [
        ([&run[..], &["bound.gguf"]].concat(), &mismatch),
        ([&run[..], &["foreign.gguf"]].concat(), &unbound),
        (
            vec!["merge", "other.gguf", "bound.gguf", "out.gguf"],
            &mismatch,
        ),
        (
            vec![
                "adapter",
                "import",
                "bound.gguf",
                "--base",
                "other.gguf",
                "out.gguf",
            ],
            &mismatch,
        ),
    ] {
        assert_eq!(&report(&mut call(&arguments)), wanted);
    }
    let merge = ["merge", "model.gguf", "bound.gguf", "out.gguf", "--format"];
    let unknown = report(&mut call(&[&merge[..], &["q9"]].concat()));
    assert!(unknown.starts_with("exit code: 1\nerror: unknown type of weights: q9\nhint: "));
    let quantized = report(&mut call(&[&merge[..], &["q8_0"]].concat()));
    let wanted = "exit code: 1\nerror: merged weights cannot be written as Q8_0 (possible: F32, F16, BF16)\n";
    assert_eq!(quantized, wanted);
    let nowhere = report(&mut call(&[
        "merge",
        "model.gguf",
        "bound.gguf",
        "no/out.gguf",
    ]));
    assert!(
        nowhere.starts_with("exit code: 3\nerror: cannot write "),
        "{nowhere}"
    );
    let mut left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(
        left,
        ["bound.gguf", "foreign.gguf", "model.gguf", "other.gguf"]
    );
}
