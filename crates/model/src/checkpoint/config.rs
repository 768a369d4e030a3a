//! Reads the settings of a checkpoint: one object of a JSON file, each value checked as it is asked for.
use super::CheckpointError;
use serde_json::{Map, Value as Json};

/// Settings larger than this are none.
const SIZE_MAX: u64 = 1 << 24;
/// Bytes of a value that a message shows.
const SHOWN: usize = 60;

/// An object of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config<'c> {
    file: &'static str,
    object: &'c Map<String, Json>,
}

impl<'c> Config<'c> {
    /// # Errors
    /// When the file is not an object.
    pub(crate) fn new(file: &'static str, json: &'c Json) -> Result<Self, CheckpointError> {
        match json.as_object() {
            Some(object) => Ok(Self { file, object }),
            None => Err(invalid(file, "the file", "an object", json)),
        }
    }

    /// A value that is there and not `null`.
    pub(crate) fn get(&self, key: &str) -> Option<&'c Json> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn required(&self, key: &str) -> Result<&'c Json, CheckpointError> {
        self.get(key).ok_or_else(|| CheckpointError::MissingValue {
            file: self.file.to_owned(),
            key: key.to_owned(),
        })
    }

    pub(crate) fn invalid(&self, key: &str, wanted: &str, found: &Json) -> CheckpointError {
        invalid(self.file, key, wanted, found)
    }

    /// An object in it.
    pub(crate) fn inner(&self, key: &str) -> Result<Option<Self>, CheckpointError> {
        let of = |value: &'c Json| match value.as_object() {
            Some(object) => Ok(Self {
                file: self.file,
                object,
            }),
            None => Err(self.invalid(key, "an object", value)),
        };
        self.get(key).map(of).transpose()
    }

    /// A size, where there is one.
    pub(crate) fn optional_size(&self, key: &str) -> Result<Option<usize>, CheckpointError> {
        let of = |value: &Json| match value.as_u64() {
            Some(size) if size <= SIZE_MAX => Ok(size as usize),
            _ => Err(self.invalid(key, &format!("a number from 0 to {SIZE_MAX}"), value)),
        };
        self.get(key).map(of).transpose()
    }

    /// A size; without a default it has to be there.
    pub(crate) fn size(&self, key: &str, default: Option<usize>) -> Result<usize, CheckpointError> {
        match (self.optional_size(key)?, default) {
            (Some(size), _) | (None, Some(size)) => Ok(size),
            (None, None) => self.required(key).map(|_| 0),
        }
    }

    /// A number, where there is one.
    pub(crate) fn optional_number(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        let of = |value: &Json| {
            let number = value.as_f64();
            number.ok_or_else(|| self.invalid(key, "a number", value))
        };
        self.get(key).map(of).transpose()
    }

    /// A number; without a default it has to be there.
    pub(crate) fn number(&self, key: &str, default: Option<f64>) -> Result<f64, CheckpointError> {
        match (self.optional_number(key)?, default) {
            (Some(number), _) | (None, Some(number)) => Ok(number),
            (None, None) => self.required(key).map(|_| 0.0),
        }
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool, CheckpointError> {
        let of = |value: &Json| {
            let flag = value.as_bool();
            flag.ok_or_else(|| self.invalid(key, "true or false", value))
        };
        self.get(key).map_or(Ok(default), of)
    }

    pub(crate) fn optional_text(&self, key: &str) -> Result<Option<&'c str>, CheckpointError> {
        let of = |value: &'c Json| {
            let text = value.as_str();
            text.ok_or_else(|| self.invalid(key, "a text", value))
        };
        self.get(key).map(of).transpose()
    }

    pub(crate) fn list(&self, key: &str) -> Result<Option<&'c [Json]>, CheckpointError> {
        let of = |value: &'c Json| {
            let list = value.as_array().map(Vec::as_slice);
            list.ok_or_else(|| self.invalid(key, "a list", value))
        };
        self.get(key).map(of).transpose()
    }

    /// Refuses a checkpoint that says something else than `wanted`, which is also what it means to say nothing.
    pub(crate) fn only(&self, key: &str, wanted: &Json) -> Result<(), CheckpointError> {
        let same = |found: &Json| match (found.as_f64(), wanted.as_f64()) {
            (Some(found), Some(wanted)) => found == wanted,
            _ => found == wanted,
        };
        match self.get(key) {
            Some(found) if !same(found) => Err(unsupported(format!(
                "{key} = {} ({})",
                shown(found),
                self.file
            ))),
            _ => Ok(()),
        }
    }
}

pub(crate) fn unsupported(feature: String) -> CheckpointError {
    CheckpointError::UnsupportedFeature { feature }
}

fn invalid(file: &str, key: &str, wanted: &str, found: &Json) -> CheckpointError {
    CheckpointError::InvalidValue {
        file: file.to_owned(),
        key: key.to_owned(),
        wanted: wanted.to_owned(),
        found: shown(found),
    }
}

/// A value, shortened.
pub(crate) fn shown(value: &Json) -> String {
    let mut text = value.to_string();
    if let Some((end, _)) = text.char_indices().find(|(index, _)| *index >= SHOWN) {
        text.truncate(end);
        text.push('…');
    }
    text
}
