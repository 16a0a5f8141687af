//! `lowbit embed`: texts to vectors.
//!
//! ```text
//! MODEL, texts (arguments | lines of stdin or a file) -> Embedder -> [texts, D] -> JSON lines | npy | safetensors
//! ```

use super::output::Output;
use super::texts::{self, Run};
use super::{open_engine, print};
use crate::file::Metadata;
use crate::{Error, Result, Tensor};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Make embeddings of texts with a sentence-embedding model, quantized or not
///
/// MODEL is a HuggingFace folder of a BERT encoder, a packed file that `lowbit quantize` made of one (it carries config and tokenizer), or a GGUF file. Vectors
/// are the mean over the tokens at L2 norm 1, so that a dot product of two is their cosine.
///
/// Without texts the lines of standard input are taken, blank ones left out. Texts of more tokens than the model takes (512 as a rule) are cut, which is
/// told on stderr, or with --chunk taken whole.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
lowbit embed all-MiniLM-L6-v2/ \"How do plants drink?\" \"Roots take up water.\"\n  \
lowbit quantize all-MiniLM-L6-v2/ -o minilm-int4.safetensors --scheme int4-g32\n  \
lowbit embed minilm-int4.safetensors < sentences.txt > vectors.jsonl\n  \
lowbit embed minilm.gguf --text sentences.txt -o vectors.npy")]
pub struct Args {
    /// A folder, a packed safetensors file or a GGUF file
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// What to embed
    #[arg(value_name = "TEXT", conflicts_with = "text")]
    texts: Vec<String>,
    /// A file whose lines to embed; `-` is standard input
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Where to write instead of standard output; .npy and .safetensors say the format
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// The format: one JSON object a line (text, embedding), an array of NumPy's [texts, D], or safetensors with a tensor `embeddings`
    #[arg(long, value_enum, value_name = "FORMAT")]
    to: Option<To>,
    /// Overwrite the output if it exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    run: Run,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum To {
    Json,
    Npy,
    Safetensors,
}

impl To {
    fn of(args: &Args) -> Self {
        let extension = args.output.as_deref().and_then(Path::extension);
        args.to.unwrap_or(match extension.and_then(|e| e.to_str()) {
            Some("npy") => Self::Npy,
            Some("safetensors") => Self::Safetensors,
            _ => Self::Json,
        })
    }

    /// Writes the embeddings `[texts, D]`.
    fn write(self, texts: &[String], embeddings: &Tensor, to: &mut impl Write, label: &Path) -> Result<()> {
        let io = |source| Error::Io { path: label.to_path_buf(), source };
        match self {
            Self::Json => {
                let values = embeddings.to_f32();
                let width = embeddings.shape()[1];
                for (text, row) in texts.iter().zip(values.chunks(width)) {
                    writeln!(to, "{}", json!({"text": text, "embedding": row})).map_err(io)?;
                }
                Ok(())
            }
            Self::Npy => {
                to.write_all(&npy_header(embeddings.shape())).map_err(io)?;
                to.write_all(embeddings.bytes()).map_err(io)
            }
            Self::Safetensors => texts::write_safetensors(embeddings, Metadata::default(), to, label),
        }
    }
}

/// The header of NumPy's format, version 1.0, of little-endian f32 in rows.
fn npy_header(shape: &[usize]) -> Vec<u8> {
    const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
    let dims: Vec<String> = shape.iter().map(|d| format!("{d},")).collect();
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", dims.join(" "));
    // Filled up with spaces to a multiple of 64, a line feed last.
    let whole = (MAGIC.len() + 2 + text.len() + 1).next_multiple_of(64);
    let filled = whole - MAGIC.len() - 2;
    let mut header = MAGIC.to_vec();
    // A shape of two numbers is far from 64 KiB.
    header.extend((filled as u16).to_le_bytes());
    header.extend(format!("{text:<width$}\n", width = filled - 1).bytes());
    header
}

/// Runs the subcommand.
pub fn run(args: &Args, device: Option<&str>) -> Result<()> {
    let (texts, labels) = texts_of(args)?;
    let place = args.output.as_deref().unwrap_or(Path::new("standard output"));
    let mut output = match &args.output {
        Some(path) => {
            let inputs = [Some(&args.model), args.text.as_ref()].into_iter().flatten().map(PathBuf::as_path);
            Some(Output::create(path, args.force, inputs)?)
        }
        None => None,
    };
    let engine = pollster::block_on(open_engine(device))?;
    let embedder = args.run.open(&engine, &args.model)?;
    let passages = texts::tokenize(&embedder, &texts, args.run.long(), labels)?;
    let embeddings = texts::embed(&embedder, &passages)?;
    let to = To::of(args);
    match output.as_mut() {
        Some(output) => to.write(&texts, &embeddings, output, place)?,
        None => {
            let mut bytes = Vec::new();
            to.write(&texts, &embeddings, &mut bytes, place)?;
            print::data(&bytes)?;
        }
    }
    output.map_or(Ok(()), Output::commit)
}

/// Texts, and how each is called in warnings.
type Named = (Vec<String>, Box<dyn Fn(usize) -> String>);

/// The texts to embed.
fn texts_of(args: &Args) -> Result<Named> {
    if !args.texts.is_empty() {
        if let Some(at) = args.texts.iter().position(|text| text.trim().is_empty()) {
            return Err(Error::Usage(format!("text {} is empty", at + 1)));
        }
        return Ok((args.texts.clone(), Box::new(|at| format!("text {}", at + 1))));
    }
    let path = args.text.clone().unwrap_or_else(|| "-".into());
    let found = texts::of_file(&path, texts::lines)?;
    let (texts, lines): (Vec<_>, Vec<_>) = found.into_iter().map(|t| (t.text, t.line)).unzip();
    Ok((texts, Box::new(move |at| format!("line {}", lines[at]))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn npy_headers_are_numpys() {
        // numpy.lib.format.header_data_from_array_1_0 of zeros((3, 384), "<f4"), as np.save writes it.
        let header = npy_header(&[3, 384]);
        assert_eq!(header.len(), 128);
        assert_eq!(&header[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert!(
            header[10..].starts_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 384,), }  ")
        );
        assert!(header.ends_with(b" \n"));
    }
}
