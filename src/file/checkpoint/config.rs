//! What the JSON files of a checkpoint say of its quantization.
//!
//! ```text
//! config.json            {"quantization_config" | "quantization" | "compression_config": {settings}}     the first there is
//! quantize_config.json   {settings}
//! quant_config.json      {settings}
//! ```
//!
//! Settings are looked up by key, first in those of a module, then in those of the model; a value of the wrong type is an error that names
//! file and key. What keys mean is the matter of the formats.

use crate::{Error, Result};
use regex::Regex;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Keys of `config.json` under which settings are, the first that is there.
pub const KEYS: [&str; 3] = ["quantization_config", "quantization", "compression_config"];
/// Files of settings, after `config.json`.
pub const FILES: [&str; 2] = ["quantize_config.json", "quant_config.json"];

/// The settings of a checkpoint.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file they are in.
    pub path: PathBuf,
    /// The key or file name they were found under.
    pub found: &'static str,
    pub settings: Map<String, Value>,
    /// All of `config.json`; empty if there is none.
    pub root: Map<String, Value>,
}

/// A JSON object.
pub fn object(path: &Path, bytes: &[u8]) -> Result<Map<String, Value>> {
    let bad = |what: String| Error::Format { path: path.to_path_buf(), what };
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(bad("expected a JSON object".into())),
        Err(e) => Err(bad(e.to_string())),
    }
}

impl Config {
    /// From the bytes of `(path, content)` of those files that are there, or nothing if none has settings.
    ///
    /// # Errors
    /// [`Error::Format`] for what is no JSON object.
    pub fn parse(files: &[(PathBuf, Vec<u8>)]) -> Result<Option<Self>> {
        let named = |name: &str| files.iter().find(|(path, _)| path.file_name().is_some_and(|n| n == name));
        let mut root = Map::new();
        if let Some((path, bytes)) = named("config.json") {
            root = object(path, bytes)?;
            for found in KEYS {
                match root.get(found) {
                    None | Some(Value::Null) => {}
                    Some(Value::Object(settings)) => {
                        let settings = settings.clone();
                        return Ok(Some(Self { path: path.clone(), found, settings, root }));
                    }
                    Some(other) => {
                        let what = format!("{found}: expected an object, got {other}");
                        return Err(Error::Format { path: path.clone(), what });
                    }
                }
            }
        }
        for found in FILES {
            if let Some((path, bytes)) = named(found) {
                return Ok(Some(Self { path: path.clone(), found, settings: object(path, bytes)?, root }));
            }
        }
        Ok(None)
    }

    /// An error about this file.
    pub fn bad(&self, what: impl Into<String>) -> Error {
        Error::Format { path: self.path.clone(), what: what.into() }
    }

    /// The settings of the model alone.
    pub fn of_model(&self) -> Settings<'_> {
        Settings { config: self, maps: vec![&self.settings] }
    }

    /// The settings of a module: `own` where they say something, then those of the model.
    pub fn of_module<'a>(&'a self, own: &'a Map<String, Value>) -> Settings<'a> {
        Settings { config: self, maps: vec![own, &self.settings] }
    }

    /// The settings of an object alone.
    pub fn only<'a>(&'a self, own: &'a Map<String, Value>) -> Settings<'a> {
        Settings { config: self, maps: vec![own] }
    }

    /// The method, in lower case; empty where it is not said.
    pub fn method(&self) -> String {
        self.settings.get("quant_method").and_then(Value::as_str).unwrap_or("").to_ascii_lowercase()
    }

    /// Whether `pattern`, a regular expression in Python's sense of `re.match`, begins to match at the begin of `name`.
    ///
    /// # Errors
    /// [`Error::Format`] for expressions that are none, or look around.
    pub fn matches(&self, pattern: &str, name: &str) -> Result<bool> {
        let regex = Regex::new(&format!("^(?:{pattern})"));
        let regex = regex.map_err(|_| {
            self.bad(format!("'{pattern}' is no regular expression without look-around and back-references"))
        })?;
        Ok(regex.is_match(name))
    }

    /// That a list of modules left alone does not name `module`, which is quantized in the files, or one that it is in.
    ///
    /// # Errors
    /// [`Error::Format`] if it does, or if the value is not a list of strings.
    pub fn check_not_listed(&self, key: &str, module: &str) -> Result<()> {
        let listed = |name: &str| {
            module.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        match self.of_model().strings(key)?.iter().any(|name| listed(name)) {
            true => Err(self.bad(format!("{key} lists '{module}', which is quantized in the files"))),
            false => Ok(()),
        }
    }
}

/// Settings by key.
#[derive(Clone, Debug)]
pub struct Settings<'a> {
    config: &'a Config,
    maps: Vec<&'a Map<String, Value>>,
}

impl<'a> Settings<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.maps.iter().find_map(|map| map.get(key)).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let bad = || self.config.bad(format!("{key}: expected {expected}, got {value}"));
        read(value).ok_or_else(bad).map(Some)
    }

    /// A string, in lower case.
    pub fn text(&self, key: &str) -> Result<Option<String>> {
        self.typed(key, "a string", |v| v.as_str().map(str::to_ascii_lowercase))
    }

    /// True or false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// An integer.
    pub fn integer(&self, key: &str) -> Result<Option<i64>> {
        self.typed(key, "an integer", Value::as_i64)
    }

    /// An integer from 1 on that has to be there.
    pub fn count(&self, key: &str) -> Result<usize> {
        let n = self.integer(key)?.ok_or_else(|| self.config.bad(format!("no '{key}'")))?;
        let positive = usize::try_from(n).ok().filter(|&n| n > 0);
        positive.ok_or_else(|| self.config.bad(format!("{key}: expected a number from 1 on, got {n}")))
    }

    /// `bits`, which must be one of `known`.
    pub fn bits(&self, key: &str, known: &[u32]) -> Result<u32> {
        let bits = self.count(key)?;
        let found = known.iter().copied().find(|&b| b as usize == bits);
        found.ok_or_else(|| {
            let known: Vec<String> = known.iter().map(u32::to_string).collect();
            self.config.bad(format!("{key}: expected one of {}, got {bits}", known.join(", ")))
        })
    }

    /// `group_size`: none for -1, one group to a row.
    pub fn group_size(&self) -> Result<Option<usize>> {
        if self.integer("group_size")? == Some(-1) { Ok(None) } else { self.count("group_size").map(Some) }
    }

    /// A list of strings, empty if absent.
    pub fn strings(&self, key: &str) -> Result<Vec<&'a str>> {
        let strings = self.typed(key, "a list of strings", |v| {
            v.as_array()?.iter().map(Value::as_str).collect::<Option<Vec<_>>>()
        })?;
        Ok(strings.unwrap_or_default())
    }

    /// A list of numbers from 1 on, empty if absent.
    pub fn counts(&self, key: &str) -> Result<Vec<usize>> {
        let counts = self.typed(key, "a list of numbers from 1 on", |v| {
            let count = |v: &Value| usize::try_from(v.as_u64()?).ok().filter(|&n| n > 0);
            v.as_array()?.iter().map(count).collect::<Option<Vec<_>>>()
        })?;
        Ok(counts.unwrap_or_default())
    }

    /// An object.
    pub fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>> {
        self.typed(key, "an object", Value::as_object)
    }
}
