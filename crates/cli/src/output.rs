//! Files that get their final name only when they are whole.

use crate::error::Failure;
use anyhow::Result;
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

/// Writes a file under another name beside `path`, and gives it that one when all of it is on the disk. A [`Failure`] of
/// `fill` inside of an [`io::Error`] is passed on.
pub(crate) fn write(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>,
) -> Result<()> {
    let cannot = |error: io::Error| match error.downcast::<Failure>() {
        Ok(failure) => failure,
        Err(error) => Failure::environment(format!("cannot write {}: {error}", path.display())),
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".partial-")
        .tempfile_in(folder)
        .map_err(cannot)?;
    let mut out = BufWriter::new(file.as_file_mut());
    fill(&mut out).map_err(cannot)?;
    out.flush().map_err(cannot)?;
    drop(out);
    file.as_file().sync_all().map_err(cannot)?;
    readable(file.as_file()).map_err(cannot)?;
    file.persist(path).map_err(|error| cannot(error.error))?;
    Ok(())
}

/// Temporary files are their owner's alone.
#[cfg(unix)]
fn readable(file: &File) -> io::Result<()> {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};
    file.set_permissions(Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_: &File) -> io::Result<()> {
    Ok(())
}
