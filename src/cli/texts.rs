//! What the subcommands that run a model on texts share: the model, texts from files and standard input, progress.
//!
//! ```text
//! MODEL, --activation -> Embedder          file | stdin -> lines | paragraphs, numbered -> Embedder::tokenize -> embed, a bar -> [texts, D]
//! ```

use super::print;
use crate::engine::Engine;
use crate::file::write::FORMATS;
use crate::file::{Dtype, Metadata, Plan, Writer};
use crate::model::{Embedder, Long, Passages, Settings};
use crate::{Error, Result, Tensor};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// How a model is run.
#[derive(clap::Args)]
pub struct Run {
    /// What goes into the products of linear layers: f32, f16, int8 (a scale per token), int8-g32, int8-g128; default: what the file says of each (quantize --config), f32 if nothing
    #[arg(long, value_name = "TYPE")]
    activation: Option<String>,
    /// Take texts of more tokens than the model does in chunks, whose mean counts, instead of cutting them
    #[arg(long)]
    chunk: bool,
}

impl Run {
    pub fn settings(&self) -> Result<Settings> {
        Ok(Settings { activation: self.activation.as_ref().map(|text| text.parse()).transpose()? })
    }

    pub fn long(&self) -> Long {
        if self.chunk { Long::Chunk } else { Long::Cut }
    }

    /// Opens a model on an engine.
    pub fn open(&self, engine: &Engine, model: &Path) -> Result<Embedder> {
        pollster::block_on(Embedder::open(engine, model, self.settings()?))
    }
}

/// A text, and where it is from.
#[derive(Debug, PartialEq)]
pub struct Text {
    pub text: String,
    /// The first line of it, from 1.
    pub line: usize,
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// What some editors begin a file of UTF-8 with; no part of the text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// A path in errors.
fn label(path: &Path) -> PathBuf {
    if path == Path::new("-") { "standard input".into() } else { path.into() }
}

/// The content of a file or of standard input (`-`), which has to be UTF-8.
pub fn read(path: &Path) -> Result<String> {
    let (mut bytes, stdin, label) = (Vec::new(), path == Path::new("-"), label(path));
    let got = if stdin {
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| ())
    } else {
        std::fs::read(path).map(|b| bytes = b)
    };
    got.map_err(|source| Error::Io { path: label.clone(), source })?;
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    String::from_utf8(bytes).map_err(|e| {
        let valid = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes().iter().take(valid).filter(|b| **b == b'\n').count();
        Error::Format { path: label, what: format!("line {line}, byte {valid}: no UTF-8") }
    })
}

/// The texts of a file or of standard input (`-`), which [`lines`] or [`paragraphs`] parts; one at least.
pub fn of_file(path: &Path, part: fn(&str) -> Vec<Text>) -> Result<Vec<Text>> {
    match part(&read(path)?) {
        none if none.is_empty() => {
            Err(Error::Nothing { path: label(path), what: "no text in it, only blank lines".into() })
        }
        texts => Ok(texts),
    }
}

/// The lines of a content that are not blank.
pub fn lines(content: &str) -> Vec<Text> {
    let numbered = content.lines().zip(1..);
    numbered
        .filter(|(text, _)| !text.trim().is_empty())
        .map(|(text, line)| Text { text: text.trim().into(), line })
        .collect()
}

/// The paragraphs of a content: lines with no blank one between them, joined by spaces.
pub fn paragraphs(content: &str) -> Vec<Text> {
    let mut all: Vec<Text> = Vec::new();
    let mut open = false;
    for (text, line) in content.lines().zip(1..) {
        let text = text.trim();
        match all.last_mut().filter(|_| open) {
            _ if text.is_empty() => {}
            Some(last) => last.text = format!("{} {text}", last.text),
            None => all.push(Text { text: text.into(), line }),
        }
        open = !text.is_empty();
    }
    all
}

/// Tokenizes texts, and tells which are cut.
pub fn tokenize<T: AsRef<str>>(
    embedder: &Embedder,
    texts: &[T],
    long: Long,
    label: impl Fn(usize) -> String,
) -> Result<Passages> {
    const TOLD: usize = 5;
    let passages = embedder.tokenize(texts, long)?;
    let most = embedder.encoder.sizes().positions;
    for &(at, tokens) in passages.cut.iter().take(TOLD) {
        print::note(&format!(
            "lowbit: {} has {tokens} tokens; the first {most} count (--chunk takes all)",
            label(at)
        ));
    }
    if let Some(more) = passages.cut.len().checked_sub(TOLD).filter(|&n| n > 0) {
        print::note(&format!("lowbit: and {more} more texts are cut"));
    }
    Ok(passages)
}

/// The embeddings of texts, with a bar.
pub fn embed(embedder: &Embedder, passages: &Passages) -> Result<Tensor> {
    let bar = print::progress(passages.tokens() as u64, "tokens");
    let embeddings = pollster::block_on(embedder.embed(passages, |tokens| bar.inc(tokens as u64)));
    bar.finish_and_clear();
    let embeddings = embeddings?;
    let width = embedder.width();
    match embeddings.to_f32().chunks(width).position(|row| row.iter().any(|v| !v.is_finite())) {
        None => Ok(embeddings),
        Some(at) => {
            let what = format!(
                "the embedding of text {} is not finite: weights too large for this precision",
                at + 1
            );
            Err(Error::Check { what })
        }
    }
}

/// The tensor that holds embeddings in a file.
pub const EMBEDDINGS: &str = "embeddings";

/// Writes embeddings `[texts, D]` as safetensors. `label` stands for the path in errors.
pub fn write_safetensors(
    embeddings: &Tensor,
    metadata: Metadata,
    to: &mut impl Write,
    label: &Path,
) -> Result<()> {
    let mut plan = Plan::new(metadata);
    plan.dense(EMBEDDINGS, Dtype::F32, embeddings.shape().to_vec())?;
    let mut writer = Writer::new(to, label, FORMATS[0], plan)?;
    writer.dense(embeddings.bytes())?;
    writer.finish().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_paragraphs_have_numbers() {
        let content = "\n one\ntwo \r\n\n\n  three\n";
        let found = |texts: Vec<Text>| texts.into_iter().map(|t| (t.line, t.text)).collect::<Vec<_>>();
        let own = |list: &[(usize, &str)]| list.iter().map(|(n, t)| (*n, t.to_string())).collect::<Vec<_>>();
        assert_eq!(found(lines(content)), own(&[(2, "one"), (3, "two"), (6, "three")]));
        assert_eq!(found(paragraphs(content)), own(&[(2, "one two"), (6, "three")]));
        assert!(lines(" \n\t\n").is_empty() && paragraphs("").is_empty());
    }
}
