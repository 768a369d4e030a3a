//! Which functions were running when code trapped, by name.
//!
//! # Design
//! Frames are functions of the module, innermost first, at most [`FRAMES_MAX`] of one instance, behind which
//! come those of the message that forked. Names are those of the name section, Rust's demangled; the
//! text is the replica's. A module without names gets no backtrace.
//!
//! # Determinism
//! Frames are calls that the module itself makes. Which are innermost does not depend on the machine.
use std::{collections::BTreeMap, fmt::Write};
use wasmparser::{KnownCustom, Name, Parser, Payload};
use wasmtime::WasmBacktrace;

/// Most frames of one instance.
pub(crate) const FRAMES_MAX: usize = 20;
/// Most frames of a message and of the tasks within tasks that led to its trap.
const FRAMES_OF_ALL_MAX: usize = 4 * FRAMES_MAX;
/// Most bytes of a name; what is behind is left out.
const NAME_BYTES_MAX: usize = 512;

/// Index of a function of the module.
pub(crate) type FunctionIndex = u32;

/// Functions' names as the module has them.
#[derive(Debug, Default)]
pub(crate) struct FunctionNames(BTreeMap<FunctionIndex, Box<str>>);

impl FunctionNames {
    /// The names of a valid module's functions. Its name section may be anything: what cannot be read is
    /// left out.
    pub(crate) fn of(wasm: &[u8], functions: u32) -> Self {
        let mut names = BTreeMap::new();
        for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
            let Payload::CustomSection(section) = payload else {
                continue;
            };
            let KnownCustom::Name(section) = section.as_known() else {
                continue;
            };
            for subsection in section.into_iter().map_while(Result::ok) {
                if let Name::Function(map) = subsection {
                    let named = map.into_iter().map_while(Result::ok);
                    let named = named.filter(|naming| naming.index < functions);
                    names.extend(named.map(|naming| (naming.index, naming.name.into())));
                }
            }
        }
        Self(names)
    }

    fn name(&self, function: FunctionIndex) -> Option<String> {
        let name = self.0.get(&function)?;
        let mut short = Short(String::new());
        // Cut where it is long enough: a short symbol may stand for a very long name.
        let _ = match rustc_demangle::try_demangle(name) {
            Ok(demangled) => write!(short, "{demangled:#}"),
            Err(_) => short.write_str(name),
        };
        Some(short.0)
    }
}

/// Takes [`NAME_BYTES_MAX`] bytes and then fails.
struct Short(String);

impl Write for Short {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = NAME_BYTES_MAX - self.0.len();
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        if text.len() > room {
            Err(std::fmt::Error)
        } else {
            Ok(())
        }
    }
}

/// The functions of the module, whose number is given, that were running when an error came up.
pub(crate) fn frames(error: &wasmtime::Error, functions: u32) -> Vec<FunctionIndex> {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else {
        return Vec::new();
    };
    let frames = backtrace.frames().iter().map(|frame| frame.func_index());
    // Instrumentation's own functions come behind those of the module.
    frames.filter(|function| *function < functions).collect()
}

/// What to add to the text of an error; nothing when no function has a name.
pub(crate) fn text(frames: &[FunctionIndex], names: &FunctionNames) -> String {
    let frames = &frames[..frames.len().min(FRAMES_OF_ALL_MAX)];
    if frames
        .iter()
        .all(|function| !names.0.contains_key(function))
    {
        return String::new();
    }
    let mut text = String::from("\nCanister Backtrace:");
    for function in frames {
        match names.name(*function) {
            Some(name) => write!(text, "\n{name}"),
            None => write!(text, "\nunknown function at index {function}"),
        }
        .expect("strings take what is written");
    }
    text
}
