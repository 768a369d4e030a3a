//! Files of text.

use crate::{error::Failure, output};
use anyhow::Result;
use std::{fs, io::Write as _, path::Path};

/// The text of a file.
pub(crate) fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path)
        .map_err(|error| Failure::user(format!("cannot read {}: {error}", path.display())))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::user(format!("{} is not UTF-8 at byte {at}", path.display()))
            .hint("save it as UTF-8")
            .into()
    })
}

/// Writes a file under its name only when all of it is written and synced. What is no ordinary file, such as a pipe, is
/// written as it is.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() && !metadata.is_dir() => {
            fs::write(path, content).map_err(|error| output::unwritable(path, &error).into())
        }
        _ => output::write(path, true, |out| out.write_all(content)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap(), "two");
        let error = write(&folder.path().join("none/text"), b"x").unwrap_err();
        assert!(error.to_string().contains("cannot write"), "{error}");
        assert!(write(folder.path(), b"x").is_err());
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn bytes_that_are_no_text_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        fs::write(&path, b"ab\xff").unwrap();
        assert!(
            read(&path)
                .unwrap_err()
                .to_string()
                .ends_with("is not UTF-8 at byte 2")
        );
    }
}
