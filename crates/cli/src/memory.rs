//! Whether a model fits into this machine's memory, asked before any is taken.

use crate::error::Failure;
use anyhow::Result;
use lockstep_model::file;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Overrides what the system says it has, in bytes: for limits that it does not know of.
pub(crate) const MEMORY_VARIABLE: &str = "LOCKSTEP_MEMORY";

/// Bytes this process can take without swapping; none where the system does not say.
pub(crate) fn available() -> Result<Option<u64>> {
    if let Some(value) = std::env::var_os(MEMORY_VARIABLE) {
        let text = value.to_string_lossy();
        return text.parse().map(Some).map_err(|_| {
            Failure::user(format!("{MEMORY_VARIABLE} takes a number of bytes: {text}")).into()
        });
    }
    let Ok(report) = fs::read_to_string("/proc/meminfo") else {
        return Ok(None);
    };
    Ok(report
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map(|kilobytes| kilobytes * 1024))
}

/// Bytes of a model's files; of a checkpoint twice those, since it is turned into a file in memory first.
pub(crate) fn file_bytes(path: &Path) -> u64 {
    let (files, times) = match path.is_dir() {
        true => (file::checkpoint_files(path).unwrap_or_default(), 2),
        false => (file::parts(path), 1),
    };
    let bytes = |path: &PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
    times * files.iter().map(bytes).sum::<u64>()
}

/// Refuses what needs more than there is. `what` needs `needed` bytes.
pub(crate) fn check(what: &str, needed: u64) -> Result<()> {
    let Some(available) = available()? else {
        return Ok(());
    };
    if needed <= available {
        return Ok(());
    }
    Err(Failure::environment(format!(
        "not enough memory for {what}: it needs {}, the system has {}",
        size(needed),
        size(available)
    ))
    .hint("end other programs, or take a smaller model or a shorter context")
    .into())
}

/// A number of bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    let steps = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    match steps.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(size(999), "999 B");
        assert_eq!(size(98_362_432), "98.4 MB");
        assert_eq!(size(8_000_000_000), "8.0 GB");
    }
}
