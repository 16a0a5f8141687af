//! The output of a model that is one file, and what its format has beside it (ONNX: the model, whose tensors are the file).
//!
//! ```text
//! create: names by format -> Outputs -> write: tensors ... -> commit: what says where they are is written, both get their names, it last
//! ```

use super::output::Output;
use crate::file::{Files, Format, Plan};
use crate::{Error, Result};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A model being written.
pub struct ModelOutput {
    tensors: Output,
    index: Option<(Output, PathBuf, Vec<u8>)>,
}

impl ModelOutput {
    /// Starts the files of a plan at `path`, which must not be one of `inputs`.
    ///
    /// # Errors
    /// As [`Output::create`] and [`Format::files`]; [`Error::Usage`] if there are two and `path` is no regular file.
    pub fn create(path: &Path, force: bool, inputs: &[&Path], format: &Format, plan: &Plan) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Files { tensors, index } = format.files(&name, std::slice::from_ref(plan))?;
        let Some((_, bytes)) = index else {
            return Ok(Self { tensors: Output::create(path, force, inputs.iter().copied())?, index: None });
        };
        if std::fs::metadata(path).is_ok_and(|info| !info.is_file() && !info.is_dir()) {
            let what =
                format!("{} is no regular file; {} writes another beside it", path.display(), format.name);
            return Err(Error::Usage(what));
        }
        let model = Output::create(path, force, inputs.iter().copied())?;
        let beside = path.with_file_name(tensors.first().map_or("", String::as_str));
        let tensors = Output::create(&beside, force, inputs.iter().copied())?;
        Ok(Self { tensors, index: Some((model, path.into(), bytes)) })
    }

    /// Makes the files appear under their names, durably.
    ///
    /// # Errors
    /// As [`Output::commit`].
    pub fn commit(self) -> Result<()> {
        let Some((mut model, path, bytes)) = self.index else { return self.tensors.commit() };
        model.write_all(&bytes).map_err(|source| Error::Io { path, source })?;
        self.tensors.commit()?;
        model.commit()
    }
}

impl Write for ModelOutput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.tensors.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.tensors.flush()
    }
}
