//! The files that hold keys: JSON with hexadecimal values.
use super::GenesisError;
use commonware_codec::DecodeExt as _;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

pub(super) fn node_path(directory: &Path, index: usize) -> PathBuf {
    directory.join(format!("node-{index}.json"))
}

pub(super) fn malformed(path: &Path, reason: impl fmt::Display) -> GenesisError {
    GenesisError::Malformed {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// Refuses a file of another version, before anything else of it is looked at.
pub(super) fn check_version(
    path: &Path,
    document: &serde_json::Value,
    expected: u32,
) -> Result<(), GenesisError> {
    match document.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(expected) => Ok(()),
        Some(version) if version < u64::from(expected) => Err(malformed(
            path,
            format_args!(
                "an earlier lockstep wrote it (version {version}, this one reads {expected}): \
                 its subnet cannot be continued, make a new one in another directory"
            ),
        )),
        Some(version) => Err(malformed(
            path,
            format_args!("a later lockstep wrote it: version {version}, this one reads {expected}"),
        )),
        None => Err(malformed(path, "it has no version")),
    }
}

/// Refuses a secret that everybody on the machine can read. A group may: that is how service
/// managers hand secrets over.
///
/// # Errors
/// [`GenesisError::Exposed`], or [`GenesisError::File`] if there is none.
#[cfg(unix)]
pub fn check_private(path: &Path) -> Result<(), GenesisError> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = fs::metadata(path).map_err(|source| GenesisError::File {
        path: path.to_owned(),
        source,
    })?;
    if metadata.permissions().mode() & 0o007 != 0 {
        return Err(GenesisError::Exposed {
            path: path.to_owned(),
        });
    }
    Ok(())
}

/// Who may read a file is not known here.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn check_private(_: &Path) -> Result<(), GenesisError> {
    Ok(())
}

pub(super) fn decode_hex<T: commonware_codec::Read<Cfg = ()>>(
    path: &Path,
    text: &str,
) -> Result<T, GenesisError> {
    let bytes = hex::decode(text).map_err(|error| malformed(path, error))?;
    T::decode(bytes::Bytes::from(bytes)).map_err(|error| malformed(path, error))
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, GenesisError> {
    let text = fs::read_to_string(path).map_err(|source| GenesisError::File {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|error| malformed(path, error))
}

pub(super) fn write_json(
    path: &Path,
    value: &impl Serialize,
    mode: u32,
) -> Result<(), GenesisError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| malformed(path, error))?;
    write_file(path, text.as_bytes(), mode).map_err(|source| GenesisError::File {
        path: path.to_owned(),
        source,
    })
}

/// Replaces `path` in one step, so that a crash leaves the old file or the new one.
fn write_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let staged = path.with_extension("json.new");
    match fs::remove_file(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = options.open(&staged)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&staged, path)
}
