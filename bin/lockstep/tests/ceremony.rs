//! Operators who do not trust each other make keys with files.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use support::{lockstep, report};

const NODES: usize = 4;

fn step(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = lockstep(&directory.join("data"));
    command
        .arg("ceremony")
        .args(arguments)
        .current_dir(directory);
    command
}

fn done(directory: &Path, arguments: &[&str]) -> String {
    let report = report(&mut step(directory, arguments));
    assert!(report.starts_with("exit code: 0\n"), "{report}");
    report
}

/// Carries the files whose names begin so from every operator to all others.
fn carry(operators: &[PathBuf], begin: &str) {
    for from in operators {
        for entry in fs::read_dir(from.join("ceremony")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap();
            if name.to_string_lossy().starts_with(begin) {
                for to in operators {
                    if to != from {
                        fs::copy(&path, to.join("ceremony").join(name)).unwrap();
                    }
                }
            }
        }
    }
}

#[test]
fn four_operators_make_one_subnet() {
    let directory = tempfile::tempdir().unwrap();
    let operators: Vec<PathBuf> = (0..NODES)
        .map(|index| directory.path().join(index.to_string()))
        .collect();
    for (index, operator) in operators.iter().enumerate() {
        fs::create_dir(operator).unwrap();
        let early = report(&mut step(operator, &["deal"]));
        assert!(
            early.contains("hint: begin with `join`, or with `stay`"),
            "{early}"
        );
        done(
            operator,
            &["join", "--address", &format!("10.0.0.{index}:4900")],
        );
    }
    let again = report(&mut step(
        &operators[0],
        &["join", "--address", "10.0.0.1:4900"],
    ));
    assert!(
        again.starts_with("exit code: 1\nerror: this node takes part already: "),
        "{again}"
    );

    carry(&operators, "entry-");
    for operator in &operators {
        done(operator, &["deal"]);
    }
    let early = report(&mut step(&operators[0], &["acknowledge"]));
    assert!(
        early.contains("error: the dealing of every node is needed, once: there is none of node "),
        "{early}"
    );
    carry(&operators, "dealing-");
    for operator in &operators {
        done(operator, &["acknowledge"]);
    }
    carry(&operators, "acknowledgement-");
    for operator in &operators {
        done(operator, &["conclude"]);
    }
    carry(&operators, "log-");
    let said: Vec<String> = operators
        .iter()
        .map(|operator| done(operator, &["finish"]))
        .collect();
    let public =
        |operator: &PathBuf| fs::read_to_string(operator.join("ceremony/subnet.json")).unwrap();
    let genesis = |said: &str| said.lines().take(4).collect::<Vec<_>>().join("\n");
    for (operator, said_there) in operators.iter().zip(&said) {
        assert_eq!(public(operator), public(&operators[0]));
        assert_eq!(genesis(said_there), genesis(&said[0]));
    }
    for index in 0..NODES {
        let keys = format!("ceremony/node-{index}.json");
        assert_eq!(
            operators
                .iter()
                .filter(|operator| operator.join(&keys).exists())
                .count(),
            1
        );
    }
}
