//! Environment variables, in the order of their names.
use super::{import, letters::ANY};
use crate::host::{Host, Imports, Pointer, code, copy_as, enter, read, refused, violated};
use wasmtime::Caller;

/// Most bytes of a variable's name.
pub(crate) const NAME_BYTES_MAX: u64 = 128;

pub(super) fn define<P: Pointer>(imports: &mut Imports) {
    import!(imports, env_var_count in ANY, (caller) -> P {
        Ok(P::narrow(caller.data().given.variables.len() as u64))
    });
    import!(imports, env_var_name_size in ANY, (caller, index: P) -> P {
        Ok(P::narrow(name_at(caller.data(), index)?.len() as u64))
    });
    import!(imports, env_var_name_copy in ANY, bytes(size), (caller, index: P, dst: P, offset: P, size: P) {
        name_at(caller.data(), index)?;
        copy_as(caller, (NAME, "name"), |host| name_at(host, index).unwrap_or_default().as_bytes(), (dst, offset, size))
    });
    import!(imports, env_var_name_exists in ANY, (caller, name_src: P, name_size: P) -> i32 {
        let variable = name(caller, NAME, name_src, name_size)?;
        Ok(i32::from(caller.data().given.variables.contains_key(&variable)))
    });
    import!(imports, env_var_value_size in ANY, (caller, name_src: P, name_size: P) -> P {
        let variable = name(caller, NAME, name_src, name_size)?;
        Ok(P::narrow(value(caller.data(), &variable)?.len() as u64))
    });
    import!(imports, env_var_value_copy in ANY, bytes(size), (caller, name_src: P, name_size: P, dst: P, offset: P, size: P) {
        let variable = name(caller, NAME, name_src, name_size)?;
        value(caller.data(), &variable)?;
        copy_as(caller, (NAME, "value"), |host| value(host, &variable).unwrap_or_default().as_bytes(), (dst, offset, size))
    });
}

fn name_at<P: Pointer>(host: &Host, index: P) -> wasmtime::Result<&str> {
    let variables = &host.given.variables;
    let index = index.widen();
    let name = usize::try_from(index).ok();
    match name.and_then(|index| variables.keys().nth(index)) {
        Some(name) => Ok(name),
        None => refused(
            code::CONTRACT_VIOLATION,
            format!(
                "Environment variable index {index} is out of bounds. The number of environment variables is {}.",
                variables.len()
            ),
        ),
    }
}

fn name<P: Pointer>(
    caller: &mut Caller<'_, Host>,
    import: &str,
    src: P,
    size: P,
) -> wasmtime::Result<String> {
    if size.widen() > NAME_BYTES_MAX {
        return violated(format!("ic0.{import}: Variable name is too large."));
    }
    String::from_utf8(read(caller, import, src, size)?).or_else(|_| {
        violated(format!(
            "ic0.{import}: Variable name is not a valid UTF-8 string."
        ))
    })
}

fn value<'a>(host: &'a Host, name: &str) -> wasmtime::Result<&'a str> {
    match host.given.variables.get(name) {
        Some(value) => Ok(value),
        None => refused(
            code::CONTRACT_VIOLATION,
            format!("Environment variable {name} not found."),
        ),
    }
}
