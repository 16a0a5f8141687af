//! `config.json` and its like: values by key, whose errors name the file, the key and what was found there.
//!
//! ```text
//! file -> serde_json -> Config: count, real, text, ...  -> "FILE: 'KEY': what is wrong"
//! ```

use super::files::Files;
use crate::Result;
use crate::file::bytes::bad;
use serde_json::Value as Json;
use std::path::PathBuf;

/// An object of a JSON file.
pub struct Config {
    path: PathBuf,
    json: Json,
}

impl Config {
    /// Reads a file whose content is an object.
    ///
    /// # Errors
    /// [`crate::Error::Io`]; [`crate::Error::Format`] if it is too large, no JSON or no object.
    pub fn read(files: &Files, name: &str) -> Result<Self> {
        Self::parse(files.path(name), &files.needed(name)?)
    }

    /// As [`Self::read`]; none where there is no such file.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_if_there(files: &Files, name: &str) -> Result<Option<Self>> {
        files.text(name)?.map(|text| Self::parse(files.path(name), &text)).transpose()
    }

    fn parse(path: PathBuf, text: &str) -> Result<Self> {
        let json: Json = serde_json::from_str(text).map_err(|e| bad(&path, e.to_string()))?;
        if !json.is_object() {
            return Err(bad(&path, "not a JSON object"));
        }
        Ok(Self { path, json })
    }

    /// The error of a key.
    pub fn wrong(&self, key: &str, what: impl std::fmt::Display) -> crate::Error {
        bad(&self.path, format!("'{key}': {what}"))
    }

    /// The value at a key, or at keys in each other (`rope_scaling.factor`); null is as good as absent.
    pub fn get(&self, key: &str) -> Option<&Json> {
        let found = key.split('.').try_fold(&self.json, |json, part| json.get(part))?;
        Some(found).filter(|json| !json.is_null())
    }

    fn found<T>(&self, key: &str, what: &str, of: impl Fn(&Json) -> Option<T>) -> Result<Option<T>> {
        let Some(json) = self.get(key) else { return Ok(None) };
        of(json).map(Some).ok_or_else(|| self.wrong(key, format!("expected {what}, got {}", shortened(json))))
    }

    /// The error of a key that has to be there.
    pub fn missing(&self, key: &str) -> crate::Error {
        self.wrong(key, "the key is missing")
    }

    /// A whole number that fits in a u32, not 0.
    ///
    /// # Errors
    /// [`crate::Error::Format`] if there is something else.
    pub fn count(&self, key: &str) -> Result<Option<usize>> {
        self.found(key, "a whole number of 1 to 2^32 - 1", |json| {
            let n = u32::try_from(json.as_u64()?).ok().filter(|n| *n > 0)?;
            usize::try_from(n).ok()
        })
    }

    /// A finite number.
    ///
    /// # Errors
    /// As [`Self::count`].
    pub fn real(&self, key: &str) -> Result<Option<f64>> {
        self.found(key, "a number", |json| json.as_f64().filter(|v| v.is_finite()))
    }

    /// A text.
    ///
    /// # Errors
    /// As [`Self::count`].
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Json::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, format!("expected a text, got {}", shortened(other)))),
        }
    }

    /// True or false.
    ///
    /// # Errors
    /// As [`Self::count`].
    pub fn truth(&self, key: &str) -> Result<Option<bool>> {
        self.found(key, "true or false", Json::as_bool)
    }
}

/// A value as it stands in the file, cut where it is long.
pub fn shortened(json: &Json) -> String {
    const LONG: usize = 80;
    let text = json.to_string();
    match text.char_indices().nth(LONG) {
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or_default()),
        None => text,
    }
}
