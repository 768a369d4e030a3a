//! The rules for what a module exports: entry points, methods, and custom sections that others can read.
use super::{Facts, RESERVED_PREFIX, refuse};
use crate::module::ModuleError;
use std::collections::BTreeSet;
use wasmparser::{ExternalKind, types::Types};

const METHODS_MAX: usize = 1_000;
const METHOD_NAMES_BYTES_MAX: usize = 20_000;
const METADATA_SECTIONS_MAX: usize = 16;
const METADATA_BYTES_MAX: usize = 1024 * 1024;
/// Export names that the replica keeps for itself.
const RESERVED_NAMES: [&str; 6] = [
    "canister counter_instructions",
    "canister counter_dirty_pages",
    "canister counter_accessed_pages",
    "canister_start",
    "stable_memory",
    "stable_memory_bytemap",
];
const ENTRY_POINTS: [&str; 7] = [
    "canister_init",
    "canister_inspect_message",
    "canister_pre_upgrade",
    "canister_post_upgrade",
    "canister_heartbeat",
    "canister_global_timer",
    "canister_on_low_wasm_memory",
];
const METHOD_KINDS: [&str; 3] = [
    "canister_update ",
    "canister_query ",
    "canister_composite_query ",
];

impl Facts {
    pub(super) fn check_export(
        &mut self,
        name: &str,
        kind: ExternalKind,
        index: u32,
    ) -> Result<(), ModuleError> {
        if name.starts_with(RESERVED_PREFIX) || RESERVED_NAMES.contains(&name) {
            return refuse(format!(
                "Wasm module has an invalid export section. Exporting reserved symbol '{name}' is not allowed."
            ));
        }
        let entry = ENTRY_POINTS.contains(&name)
            || METHOD_KINDS.iter().any(|prefix| name.starts_with(prefix));
        if !entry {
            if name.starts_with("canister_") {
                return refuse(format!(
                    "Wasm module has an invalid export section. Exporting reserved function '{name}' with \"canister_\" prefix"
                ));
            }
            return Ok(());
        }
        if kind != ExternalKind::Func {
            return refuse(format!(
                "Wasm module has an invalid export section. Export '{name}' is not a function."
            ));
        }
        self.entries.insert(name.to_owned(), index);
        Ok(())
    }

    pub(super) fn add_metadata(
        &mut self,
        section: &str,
        content: &[u8],
    ) -> Result<(), ModuleError> {
        let (public, name) = match (
            section.strip_prefix("icp:public "),
            section.strip_prefix("icp:private "),
        ) {
            (Some(name), _) => (true, name),
            (_, Some(name)) => (false, name),
            _ if section.starts_with("icp:") => {
                return refuse(format!(
                    "Wasm module has an invalid custom section. Section '{section}' is neither public nor private."
                ));
            }
            _ => return Ok(()),
        };
        if self
            .metadata
            .insert(name.to_owned(), (public, content.to_vec()))
            .is_some()
        {
            return refuse(format!(
                "Wasm module has an invalid custom section. Duplicate custom section: '{name}'."
            ));
        }
        let bytes: usize = self
            .metadata
            .iter()
            .map(|(name, (_, content))| name.len() + content.len())
            .sum();
        if bytes > METADATA_BYTES_MAX {
            return refuse(format!(
                "Wasm module has an invalid custom section. Invalid custom sections: total size of the custom sections exceeds the maximum allowed: size {bytes} bytes, allowed {METADATA_BYTES_MAX} bytes"
            ));
        }
        let sections = self.metadata.len();
        if sections > METADATA_SECTIONS_MAX {
            return refuse(format!(
                "Wasm module defined {sections} custom sections which exceeds the maximum number allowed {METADATA_SECTIONS_MAX}."
            ));
        }
        Ok(())
    }

    /// What can only be said of all exports together, and with their types known.
    pub(super) fn check_methods(&self, types: &Types) -> Result<(), ModuleError> {
        for (name, &function) in &self.entries {
            let signature = types[types.as_ref().core_function_at(function)].unwrap_func();
            if !signature.params().is_empty() || !signature.results().is_empty() {
                return refuse(format!(
                    "Wasm module has an invalid function signature. Expected type () -> () for '{name}'."
                ));
            }
        }
        let mut names = BTreeSet::new();
        for entry in self.entries.keys() {
            let Some(name) = METHOD_KINDS
                .iter()
                .find_map(|prefix| entry.strip_prefix(prefix))
            else {
                continue;
            };
            if !names.insert(name) {
                return refuse(format!(
                    "Duplicate function '{name}' exported multiple times with different call types: update, query, or composite_query."
                ));
            }
        }
        let name_bytes: usize = names.iter().map(|name| name.len()).sum();
        const METHODS: &str = "exported functions called `canister_update <name>`, `canister_query <name>`, or `canister_composite_query <name>`";
        if names.len() > METHODS_MAX {
            let count = names.len();
            return refuse(format!(
                "The number of {METHODS} is {count} which exceeds {METHODS_MAX}."
            ));
        }
        if name_bytes > METHOD_NAMES_BYTES_MAX {
            return refuse(format!(
                "The sum of `<name>` lengths in {METHODS} is {name_bytes} which exceeds the allowed limit of {METHOD_NAMES_BYTES_MAX}."
            ));
        }
        Ok(())
    }
}
