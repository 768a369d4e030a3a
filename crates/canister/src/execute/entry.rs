//! Where a message enters a canister's code.
use super::named;
use crate::{
    engine::{Closure, EntryPoint, ExecutionError},
    host::{Contexts, code, context},
    module::Module,
    state::{CanisterState, Installed},
};

/// Where a call enters a module.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) context: Contexts,
    pub(super) way: Way,
    pub(super) begins: Begins,
}

#[derive(Debug)]
pub(super) enum Way {
    /// An export that the module may lack, and does.
    None,
    Export(String),
    Closure(Closure),
}

/// What the instance starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begins {
    /// What earlier messages left.
    Goes,
    /// The module's segments.
    Anew,
    /// The heap of the module before it, and nothing else.
    Keeps,
}

/// The code of a canister, and where a message enters it.
pub(crate) fn enter<'a>(
    state: &'a CanisterState,
    entry: &EntryPoint,
) -> Result<(&'a Installed, Entry), ExecutionError> {
    let Some(installed) = &state.installed else {
        let text = "Attempted to execute a message, but the canister contains no Wasm module";
        return Err(named(&state.id, (code::NO_MODULE, text.into())));
    };
    let module = &installed.module;
    if let EntryPoint::Update(name) | EntryPoint::ReplicatedQuery(name) = entry
        && module.has_composite_query(name)
    {
        return Err(ExecutionError {
            code: code::COMPOSITE_QUERY_REPLICATED,
            message: "Composite query cannot be called in replicated mode".into(),
        });
    }
    match find(module, entry) {
        Ok(entry) => Ok((installed, entry)),
        Err(text) => Err(named(&state.id, (code::METHOD_NOT_FOUND, text))),
    }
}

fn find(module: &Module, entry: &EntryPoint) -> Result<Entry, String> {
    let optional = |context, export: &str, begins| Entry {
        context,
        way: if module.has_entry(export) {
            Way::Export(export.to_owned())
        } else {
            Way::None
        },
        begins,
    };
    let task = |context, export| optional(context, export, Begins::Goes);
    let required = |context, kind: &str, name: &str| {
        let export = format!("canister_{kind} {name}");
        if module.has_entry(&export) {
            Ok(Entry {
                context,
                way: Way::Export(export),
                begins: Begins::Goes,
            })
        } else {
            Err(format!("Canister has no {kind} method '{name}'."))
        }
    };
    Ok(match entry {
        EntryPoint::Init => optional(context::INIT, "canister_init", Begins::Anew),
        EntryPoint::PostUpgrade { keep_heap } => {
            let begins = if *keep_heap {
                Begins::Keeps
            } else {
                Begins::Anew
            };
            optional(context::INIT, "canister_post_upgrade", begins)
        }
        EntryPoint::PreUpgrade => task(context::PRE_UPGRADE, "canister_pre_upgrade"),
        EntryPoint::Inspect(_) => task(context::INSPECT, "canister_inspect_message"),
        EntryPoint::GlobalTimer => task(context::GLOBAL_TIMER, "canister_global_timer"),
        EntryPoint::Heartbeat => task(context::HEARTBEAT, "canister_heartbeat"),
        EntryPoint::LowWasmMemory => task(context::LOW_WASM_MEMORY, "canister_on_low_wasm_memory"),
        EntryPoint::Reply(closure) => Entry::callback(context::REPLY, *closure),
        EntryPoint::Reject(closure, _) => Entry::callback(context::REJECT, *closure),
        EntryPoint::Cleanup(closure, _) => Entry::callback(context::CLEANUP, *closure),
        EntryPoint::Update(name) => required(context::UPDATE, "update", name)?,
        EntryPoint::ReplicatedQuery(name) => required(context::REPLICATED_QUERY, "query", name)?,
        EntryPoint::Query(name) if module.has_composite_query(name) => {
            required(context::COMPOSITE_QUERY, "composite_query", name)?
        }
        EntryPoint::Query(name) => required(context::QUERY, "query", name)?,
    })
}

impl Entry {
    pub(crate) fn callback(context: Contexts, closure: Closure) -> Self {
        Self {
            context,
            way: Way::Closure(closure),
            begins: Begins::Goes,
        }
    }
}
