//! The files that hold keys: JSON with hexadecimal values.
use super::GenesisError;
use commonware_codec::DecodeExt as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fmt, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

pub(super) const FORMAT_VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
pub(super) struct SubnetFile {
    pub(super) version: u32,
    pub(super) public_key: String,
    pub(super) sharing: String,
    pub(super) nodes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct NodeFile {
    pub(super) version: u32,
    pub(super) identity: String,
    pub(super) query_seed: String,
    pub(super) share: String,
}

pub(super) fn node_path(directory: &Path, index: usize) -> PathBuf {
    directory.join(format!("node-{index}.json"))
}

pub(super) fn malformed(path: &Path, reason: impl fmt::Display) -> GenesisError {
    GenesisError::Malformed {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

pub(super) fn check_version(path: &Path, version: u32) -> Result<(), GenesisError> {
    if version == FORMAT_VERSION {
        return Ok(());
    }
    Err(malformed(path, format_args!("unknown version: {version}")))
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
