//! What the program is made of: every dependency comes from the public registry, under a licence that `deny.toml` allows.
//! Those for this machine are looked at; `cargo deny check` looks at those of all platforms, and for known flaws.
use serde_json::Value;
use std::{collections::BTreeSet, process::Command};

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// What a command prints.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(ROOT)
        .output()
        .expect("it starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// The packages of the workspace, as cargo describes them.
fn packages() -> Vec<Value> {
    let about = output("rustc", &["-vV"]);
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    // Nothing is fetched: what this machine needs is here, since this test was built.
    let metadata = output(
        env!("CARGO"),
        &[
            "metadata",
            "--format-version=1",
            "--locked",
            "--offline",
            "--filter-platform",
            host.expect("it names the host"),
        ],
    );
    let mut metadata: Value = serde_json::from_str(&metadata).expect("JSON");
    let nodes = metadata["resolve"]["nodes"].as_array().expect("a list");
    let used: BTreeSet<String> = nodes
        .iter()
        .map(|node| node["id"].as_str().expect("an id").to_owned())
        .collect();
    let Value::Array(packages) = metadata["packages"].take() else {
        panic!("a list");
    };
    let is_used = |package: &Value| used.contains(package["id"].as_str().expect("an id"));
    packages.into_iter().filter(is_used).collect()
}

/// The licences that `deny.toml` allows.
fn allowed() -> BTreeSet<String> {
    let text = std::fs::read_to_string(format!("{ROOT}/deny.toml")).expect("it is there");
    let (_, list) = text.split_once("\nallow = [").expect("a list of licences");
    let (list, _) = list.split_once(']').expect("its end");
    // Every other piece lies between quotes.
    list.split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// Whether a licence expression can be fulfilled with `allowed`. `/` is an old way to write `OR`.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    let result = any(&mut words, allowed);
    assert_eq!(words, [] as [&str; 0], "not an expression: {expression}");
    result
}

/// The words to come are at the end.
fn any(words: &mut Vec<&str>, allowed: &BTreeSet<String>) -> bool {
    let mut result = all(words, allowed);
    while words.pop_if(|word| *word == "OR").is_some() {
        result |= all(words, allowed);
    }
    result
}

fn all(words: &mut Vec<&str>, allowed: &BTreeSet<String>) -> bool {
    let mut result = one(words, allowed);
    while words.pop_if(|word| *word == "AND").is_some() {
        result &= one(words, allowed);
    }
    result
}

fn one(words: &mut Vec<&str>, allowed: &BTreeSet<String>) -> bool {
    let word = words.pop().expect("a licence");
    if word == "(" {
        let result = any(words, allowed);
        assert_eq!(words.pop(), Some(")"));
        return result;
    }
    match words.pop_if(|word| *word == "WITH") {
        Some(_) => {
            let exception = words.pop().expect("an exception");
            allowed.contains(&format!("{word} WITH {exception}"))
        }
        None => allowed.contains(word),
    }
}

#[test]
fn expressions_are_read_as_they_are_meant() {
    let some = ["A", "B", "C WITH x"].map(str::to_owned).into();
    for (expression, expected) in [
        ("A", true),
        ("D", false),
        ("D OR A", true),
        ("D/A", true),
        ("A AND D", false),
        ("A AND B OR D", true),
        ("D AND (A OR B)", false),
        ("(D OR A) AND B", true),
        ("A AND (B AND (D OR C WITH x))", true),
        ("C", false),
        ("C WITH x AND A", true),
    ] {
        assert_eq!(is_allowed(expression, &some), expected, "{expression}");
    }
}

#[test]
fn every_dependency_is_public_and_may_be_used() {
    let allowed = allowed();
    assert!(allowed.contains("Apache-2.0"));
    let mut count = 0;
    for package in packages() {
        let name = &package["name"];
        let licence = package["license"].as_str();
        let licence = licence.unwrap_or_else(|| panic!("{name} names no licence"));
        assert!(is_allowed(licence, &allowed), "{name}: {licence}");
        match &package["source"] {
            Value::Null => {
                let path = package["manifest_path"].as_str().expect("a path");
                let root = std::fs::canonicalize(ROOT).expect("it is there");
                assert!(
                    std::path::Path::new(path).starts_with(root),
                    "{name}: {path}"
                );
            }
            source => assert_eq!(source, REGISTRY, "{name}"),
        }
        count += 1;
    }
    assert!(count > 100, "too few: {count}");
}
