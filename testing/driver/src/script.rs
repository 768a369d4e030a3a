//! Scripts of calls: how suites of canisters are run.
//!
//! A line is empty, a comment (`#`), or one of
//!
//! | line | what |
//! |---|---|
//! | `install CANISTER FILE ARGUMENT` | creates the canister if there is none, installs the module |
//! | `reinstall CANISTER FILE ARGUMENT` | installs it in the place of another, memories cleared |
//! | `upgrade CANISTER FILE ARGUMENT` | upgrades; the heap is kept if the module can |
//! | `ingress CANISTER METHOD ARGUMENT` | an update call by the anonymous user |
//! | `query CANISTER METHOD ARGUMENT` | a query by the anonymous user |
//!
//! `CANISTER` is a principal in text, or `$n` for the n-th canister of the subnet in the order of
//! creation, counted from 1. `FILE` is a module, raw or gzip. `ARGUMENT` is a quoted string, in which `\xx`
//! stands for a byte in hexadecimal, `\\` and `\"` for themselves, or bytes in hexadecimal after `0x`.
//!
//! After each line blocks of one second are executed until nothing is under way. The results are one
//! line each: `debug.print: TEXT` for what canisters printed, then `ingress Completed: Reply: 0x…` or
//! `ingress Err: IC0nnn: …` (also for installations), or `Ok: Reply: 0x…` or `Err: IC0nnn: …` for queries.
use crate::{Reject, Subnet};
use ic_management_canister_types::{
    ProvisionalCreateCanisterWithCyclesArgs, UpgradeFlags, WasmMemoryPersistence,
};
use ic_principal::Principal;
use std::{fs, io, path::Path, path::PathBuf, str::Chars, time::Duration};

/// Bytes of an argument that a call can carry beside its module.
const ARGUMENT_BYTES_MAX: usize = 100_000;
/// The same for calls without a module.
const CALL_BYTES_MAX: usize = 2_000_000;
/// What an empty reply in Candid looks like.
const NOTHING: &[u8] = b"DIDL\0\0";

/// Why a script cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// A line that is none.
    #[error("line {line}: {reason}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A module's file cannot be read.
    #[error("line {line}: module {} cannot be read", path.display())]
    Module {
        /// Counted from 1.
        line: usize,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The results cannot be written.
    #[error("results cannot be written")]
    Output(#[from] io::Error),
}

/// Runs a script on a subnet and writes its results. Files are looked for from `folder`.
///
/// # Errors
/// [`ScriptError`] names the first line that cannot be run; those before it were.
pub fn run(
    subnet: &mut Subnet,
    script: &str,
    folder: &Path,
    output: &mut impl io::Write,
) -> Result<(), ScriptError> {
    let mut runner = Runner {
        subnet,
        created: Vec::new(),
        folder,
    };
    runner.subnet.set_block_time(Duration::from_secs(1));
    for (index, text) in script.lines().enumerate() {
        let line = index + 1;
        let command = parse(text).map_err(|reason| ScriptError::Line { line, reason })?;
        let Some(command) = command else { continue };
        let result = runner.execute(line, &command)?;
        runner.subnet.settle();
        for printed in runner.subnet.take_printed() {
            writeln!(output, "debug.print: {}", printed.text)?;
        }
        let is_query = command.verb == Verb::Query;
        match (result, is_query) {
            (Ok(reply), false) => {
                writeln!(output, "ingress Completed: Reply: 0x{}", Hex(&reply))?;
            }
            (Err(reject), false) => writeln!(output, "ingress Err: {reject}")?,
            (Ok(reply), true) => writeln!(output, "Ok: Reply: 0x{}", Hex(&reply))?,
            (Err(reject), true) => writeln!(output, "Err: {reject}")?,
        }
    }
    Ok(())
}

struct Hex<'a>(&'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Install,
    Reinstall,
    Upgrade,
    Ingress,
    Query,
}

#[derive(Debug, PartialEq, Eq)]
enum Name {
    Id(Principal),
    /// From 1.
    Nth(usize),
}

#[derive(Debug, PartialEq, Eq)]
struct Command {
    verb: Verb,
    canister: Name,
    /// The file or the method.
    object: String,
    argument: Vec<u8>,
}

/// `None` for a line that says nothing.
fn parse(line: &str) -> Result<Option<Command>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (verb, rest) = word(line);
    let verb = match verb {
        "install" => Verb::Install,
        "reinstall" => Verb::Reinstall,
        "upgrade" => Verb::Upgrade,
        "ingress" => Verb::Ingress,
        "query" => Verb::Query,
        other => {
            return Err(format!(
                "'{other}' is none of install, reinstall, upgrade, ingress and query"
            ));
        }
    };
    let (canister, rest) = word(rest);
    let canister = match canister.strip_prefix('$') {
        Some(number) => match number.parse() {
            Ok(number @ 1..) => Name::Nth(number),
            _ => {
                return Err(format!(
                    "'{canister}' does not name a canister: it is $1, $2 …"
                ));
            }
        },
        None => Name::Id(
            Principal::from_text(canister)
                .map_err(|error| format!("'{canister}' is not a principal: {error}"))?,
        ),
    };
    let (object, rest) = word(rest);
    if object.is_empty() {
        return Err("a file or a method is missing after the canister".into());
    }
    Ok(Some(Command {
        verb,
        canister,
        object: object.into(),
        argument: argument(rest)?,
    }))
}

/// The first word and what follows it.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    text.split_once(char::is_whitespace).unwrap_or((text, ""))
}

fn argument(text: &str) -> Result<Vec<u8>, String> {
    let text = text.trim();
    if let Some(digits) = text.strip_prefix("0x") {
        if digits.len() % 2 != 0 {
            return Err("an argument in hexadecimal has an odd number of digits".into());
        }
        let mut chars = digits.chars();
        let mut bytes = Vec::with_capacity(digits.len() / 2);
        while let Some(first) = chars.next() {
            bytes.push(byte(first, &mut chars)?);
        }
        return Ok(bytes);
    }
    let quoted = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let quoted = quoted.filter(|_| text.len() > 1);
    let Some(quoted) = quoted else {
        return Err("an argument is a quoted string or hexadecimal after 0x".into());
    };
    let mut bytes = Vec::new();
    let mut chars = quoted.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | '"')) => bytes.push(escaped as u8),
                Some(first) => bytes.push(byte(first, &mut chars)?),
                None => return Err("a backslash ends the argument".into()),
            },
            '"' => return Err("a quote inside the argument lacks its backslash".into()),
            other => bytes.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Ok(bytes)
}

/// Two hexadecimal digits.
fn byte(first: char, rest: &mut Chars<'_>) -> Result<u8, String> {
    let second = rest.next();
    let digits = (
        first.to_digit(16),
        second.and_then(|second| second.to_digit(16)),
    );
    match digits {
        (Some(high), Some(low)) => Ok((high * 16 + low) as u8),
        _ => Err(format!(
            "'{first}{}' is not a byte in hexadecimal",
            second.map(String::from).unwrap_or_default()
        )),
    }
}

struct Runner<'a> {
    subnet: &'a mut Subnet,
    /// In the order of creation.
    created: Vec<Principal>,
    folder: &'a Path,
}

impl Runner<'_> {
    fn execute(
        &mut self,
        line: usize,
        command: &Command,
    ) -> Result<Result<Vec<u8>, Reject>, ScriptError> {
        let module = || {
            let path = self.folder.join(&command.object);
            fs::read(&path).map_err(|source| ScriptError::Module { line, path, source })
        };
        let (argument, method) = (&command.argument, &command.object);
        let most = match command.verb {
            Verb::Ingress | Verb::Query => CALL_BYTES_MAX,
            _ => ARGUMENT_BYTES_MAX,
        };
        if argument.len() + method.len() > most {
            return Err(ScriptError::Line {
                line,
                reason: format!(
                    "an argument of {} bytes is too long: {most} at most",
                    argument.len()
                ),
            });
        }
        let sender = Principal::anonymous();
        match command.verb {
            Verb::Install => {
                let wasm = module()?;
                let canister = match self.find_or_create(line, &command.canister)? {
                    Ok(canister) => canister,
                    Err(reject) => return Ok(Err(reject)),
                };
                Ok(nothing(self.subnet.install(canister, &wasm, argument)))
            }
            Verb::Reinstall => {
                let wasm = module()?;
                let canister = self.find(line, &command.canister)?;
                Ok(nothing(self.subnet.reinstall(canister, &wasm, argument)))
            }
            Verb::Upgrade => {
                let wasm = module()?;
                let canister = self.find(line, &command.canister)?;
                let flags = self.flags(canister);
                Ok(nothing(
                    self.subnet.upgrade(canister, &wasm, argument, flags),
                ))
            }
            Verb::Ingress => {
                let canister = self.find(line, &command.canister)?;
                let id = self.subnet.submit(canister, sender, method, argument);
                self.subnet.try_wait(id).ok_or_else(|| ScriptError::Line {
                    line,
                    reason: "the call is not answered after 1,000 blocks".into(),
                })
            }
            Verb::Query => {
                let canister = self.find(line, &command.canister)?;
                Ok(self.subnet.query(canister, sender, method, argument))
            }
        }
    }

    /// A canister whose module keeps its heap is upgraded so.
    fn flags(&self, canister: Principal) -> Option<UpgradeFlags> {
        let installed = self.subnet.canister(canister)?.state.installed.as_ref()?;
        installed.module.keeps_heap().then_some(UpgradeFlags {
            skip_pre_upgrade: None,
            wasm_memory_persistence: Some(WasmMemoryPersistence::Keep),
        })
    }

    fn find(&self, line: usize, name: &Name) -> Result<Principal, ScriptError> {
        match name {
            Name::Id(id) => Ok(*id),
            Name::Nth(number) => match self.created.get(number - 1) {
                Some(id) => Ok(*id),
                None => Err(ScriptError::Line {
                    line,
                    reason: format!(
                        "there is no canister ${number}: {} are installed",
                        self.created.len()
                    ),
                }),
            },
        }
    }

    fn find_or_create(
        &mut self,
        line: usize,
        name: &Name,
    ) -> Result<Result<Principal, Reject>, ScriptError> {
        let specified_id = match name {
            Name::Id(id) if self.subnet.canister(*id).is_some() => return Ok(Ok(*id)),
            Name::Id(id) => Some(*id),
            Name::Nth(number) if *number == self.created.len() + 1 => None,
            Name::Nth(_) => return self.find(line, name).map(Ok),
        };
        let arguments = ProvisionalCreateCanisterWithCyclesArgs {
            specified_id,
            ..Default::default()
        };
        let created = self
            .subnet
            .create_canister_with(Principal::anonymous(), &arguments);
        if let Ok(id) = created {
            self.created.push(id);
        }
        Ok(created)
    }
}

fn nothing(result: Result<(), Reject>) -> Result<Vec<u8>, Reject> {
    result.map(|()| NOTHING.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted_or_hexadecimal() {
        assert_eq!(argument(r#""DIDL\00\00""#).unwrap(), b"DIDL\0\0");
        assert_eq!(argument(r#""""#).unwrap(), b"");
        assert_eq!(argument(r#""a\\b\"c ü""#).unwrap(), "a\\b\"c ü".as_bytes());
        assert_eq!(argument(" 0x4449444c0000 ").unwrap(), b"DIDL\0\0");
        assert_eq!(argument("0x").unwrap(), b"");
        for wrong in [
            "", "\"", "abc", "0x1", "0xzz", r#""\g0""#, r#""\1""#, r#""\""#, r#""a"b""#,
        ] {
            assert!(argument(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lines_name_canisters_by_principal_or_number() {
        let command = parse("ingress $2  go 0x").unwrap().unwrap();
        assert_eq!(command.canister, Name::Nth(2));
        assert_eq!(command.object, "go");
        let command = parse(r#"install rwlgt-iiaaa-aaaaa-aaaaa-cai a.wasm """#);
        let id = Principal::from_text("rwlgt-iiaaa-aaaaa-aaaaa-cai").unwrap();
        assert_eq!(command.unwrap().unwrap().canister, Name::Id(id));
        for silent in ["", "  ", "# install"] {
            assert_eq!(parse(silent).unwrap(), None);
        }
        for wrong in [
            "run $1 a \"\"",
            "query $0 a \"\"",
            "query x a \"\"",
            "query $1",
            "query",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
