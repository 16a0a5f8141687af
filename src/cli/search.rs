//! `lowbit search`: the lines or paragraphs of a text file that are nearest in meaning to a query.
//!
//! ```text
//! FILE -> lines | paragraphs -> Embedder (or the index of an earlier run) -> [texts, D] ─┐
//! query (an argument | lines of stdin, one after the other) -> Embedder -> [D] ──────────┴-> cosines -> the best ones
//! ```
//!
//! An index is a safetensors file with the embeddings; its metadata say what it was made of, and other texts, another model or other
//! settings have it made again.

use super::output::Output;
use super::texts::{self, EMBEDDINGS, Run, Text};
use super::{open_engine, print, stream};
use crate::file::hf::{CONFIG, TOKENIZER};
use crate::file::{Metadata, Model, Value};
use crate::model::{Embedder, Source};
use crate::{Error, Result, Tensor};
use serde_json::json;
use std::io::{BufRead, IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// Find the lines or paragraphs of a text file that are nearest in meaning to a query
///
/// MODEL is what `lowbit embed` takes: the folder of a sentence-embedding model, a packed file made of it, or a GGUF file. Matches have the cosine of query and
/// text and the number of their (first) line, the best one first. Lines are shortened where they are wider than the terminal, and whole in pipes and JSON.
///
/// Without QUERY each line of standard input is one: the file is embedded once. On a terminal that is a prompt.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
lowbit search minilm-q8_0.safetensors notes.txt \"how do plants drink?\"\n  \
lowbit search all-MiniLM-L6-v2/ book.txt --paragraphs --index book.safetensors\n  \
lowbit search minilm.gguf notes.txt --top 3 --json < queries.txt\n\n\
JSON, a line for each query: {\"query\", \"matches\": [{\"score\", \"line\", \"text\"}]}")]
pub struct Args {
    /// A folder, a packed safetensors file or a GGUF file
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The text to search; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What to look for
    #[arg(value_name = "QUERY")]
    query: Option<String>,
    /// Search paragraphs (lines with no blank one between them) instead of lines
    #[arg(long)]
    paragraphs: bool,
    /// How many matches to show
    #[arg(long, value_name = "N", default_value = "10")]
    top: NonZeroUsize,
    /// Keep the embeddings of the text in this file and take them from there next time, as long as text, model and settings are the same
    #[arg(long, value_name = "FILE.safetensors")]
    index: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: Run,
}

/// What is searched.
struct Searched {
    texts: Vec<Text>,
    /// `[texts, D]`, of L2 norm 1.
    embeddings: Tensor,
}

impl Searched {
    /// The `top` best texts for an embedding, with their cosines.
    fn best(&self, query: &[f32], top: usize) -> Vec<(f64, &Text)> {
        let values = self.embeddings.to_f32();
        let dot =
            |row: &[f32]| row.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        // Norms are 1 but for rounding.
        let cosine = |row: &[f32]| dot(row).clamp(-1.0, 1.0);
        let mut all: Vec<(f64, &Text)> = values.chunks(query.len()).map(cosine).zip(&self.texts).collect();
        // Stable: of equal ones the first in the file.
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        all.truncate(top);
        all
    }
}

/// Runs the subcommand.
pub fn run(args: &Args, device: Option<&str>) -> Result<()> {
    if args.query.as_deref().is_some_and(|query| query.trim().is_empty()) {
        return Err(Error::Usage("the query is empty".into()));
    }
    if args.query.is_none() && args.file == Path::new("-") {
        let why = "standard input is the text to search (-); give the query as an argument";
        return Err(Error::Usage(why.into()));
    }
    let texts = texts::of_file(&args.file, if args.paragraphs { texts::paragraphs } else { texts::lines })?;
    let index = args.index.as_deref().map(Index::open).transpose()?;
    let engine = pollster::block_on(open_engine(device))?;
    let source = Source::open(&args.model)?;
    let embedder = pollster::block_on(Embedder::load(&engine, &source, args.run.settings()?))?;
    let made = || {
        let passages =
            texts::tokenize(&embedder, &texts, args.run.long(), |at| format!("line {}", texts[at].line))?;
        texts::embed(&embedder, &passages)
    };
    let embeddings = match index {
        Some(index) => {
            index.get_or_make(&of_what(args, &source, &texts)?, &embedder, texts.len(), args, made)?
        }
        None => made()?,
    };
    let searched = Searched { texts, embeddings };
    match &args.query {
        Some(query) => answer(args, &embedder, &searched, query, false),
        None => each_line(|query| answer(args, &embedder, &searched, query, !args.json)),
    }
}

/// Prints the best matches of a query, below itself where there are several.
fn answer(args: &Args, embedder: &Embedder, searched: &Searched, query: &str, titled: bool) -> Result<()> {
    let passages = texts::tokenize(embedder, &[query], args.run.long(), |_| "the query".into())?;
    let embedded = pollster::block_on(embedder.embed(&passages, |_| ()))?;
    let best = searched.best(&embedded.to_f32(), args.top.get());
    if args.json {
        let found =
            best.iter().map(|(score, text)| json!({"score": score, "line": text.line, "text": text.text}));
        let line = json!({"query": query, "matches": found.collect::<Vec<_>>()}).to_string() + "\n";
        return print::data(line.as_bytes());
    }
    let digits = best.iter().map(|(_, text)| text.line.to_string().len()).max().unwrap_or(0);
    let mut shown = if titled { format!("{query}\n") } else { String::new() };
    for (score, text) in best {
        let start = format!("{score:7.4}  {:>digits$}  ", text.line);
        shown += &(print::fitting(&(start + &text.text)) + "\n");
    }
    print::stdout(&(shown + if titled { "\n" } else { "" }))
}

/// Does something with each line of standard input that is not blank, as it comes. On a terminal it asks for them.
fn each_line(mut with: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let label = || PathBuf::from("standard input");
    let mut stdin = std::io::stdin().lock();
    let is_asked = stdin.is_terminal();
    let (mut bytes, mut found) = (Vec::new(), is_asked);
    for line in 1.. {
        if is_asked {
            let mut stderr = std::io::stderr();
            // With stderr closed there is nobody to ask.
            let _ = write!(stderr, "query> ").and_then(|()| stderr.flush());
        }
        bytes.clear();
        let n = stdin.read_until(b'\n', &mut bytes).map_err(|source| Error::Io { path: label(), source })?;
        if n == 0 {
            break;
        }
        let text = str::from_utf8(&bytes);
        let text =
            text.map_err(|_| Error::Format { path: label(), what: format!("line {line}: no UTF-8") })?.trim();
        if !text.is_empty() {
            found = true;
            with(text)?;
        }
    }
    if is_asked {
        print::note("");
    }
    if found { Ok(()) } else { Err(Error::Nothing { path: label(), what: "no query in it".into() }) }
}

/// The keys of its metadata, and what stands for them in messages.
const KEYS: [(&str, &str); 3] = [
    ("search.model", "another model"),
    ("search.settings", "other settings"),
    ("search.texts", "another text"),
];

/// What an index is made of, in the order of [`KEYS`].
fn of_what(args: &Args, source: &Source, texts: &[Text]) -> Result<[String; 3]> {
    let mut files: Vec<PathBuf> = source.model.paths().map(Into::into).collect();
    if let Some(folder) = source.files.as_ref().filter(|files| files.is_folder()) {
        files.extend([CONFIG, TOKENIZER].map(|name| folder.path(name)));
    }
    // What a packed file carries has a name in messages that is no path.
    let there = files.iter().filter(|file| file.is_file());
    let stamps = there.map(|file| stream::stamp(file)).collect::<Result<Vec<_>>>()?;
    let activation = args.run.settings()?.activation.map_or("of the file".into(), |a| a.to_string());
    let settings = format!("activation {activation}, {:?}", args.run.long());
    Ok([
        stream::hash(format_args!("{stamps:?}")),
        settings.to_lowercase(),
        stream::hash(format_args!("{texts:?}")),
    ])
}

/// The embeddings of an earlier run.
struct Index<'a> {
    path: &'a Path,
    /// None: there is no such file yet.
    model: Option<Model>,
}

impl<'a> Index<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self { path, model: None });
        }
        let model = Model::open(path)?;
        if KEYS.iter().any(|(key, _)| model.metadata().get(key).is_none()) {
            let what = "no index that lowbit search made; it is not overwritten";
            return Err(Error::Format { path: path.into(), what: what.into() });
        }
        Ok(Self { path, model: Some(model) })
    }

    /// The embeddings `[n, D]` that it has, or if they are of something else, those that `make` makes, which are kept.
    fn get_or_make(
        self,
        of: &[String; 3],
        embedder: &Embedder,
        n: usize,
        args: &Args,
        make: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        if let Some(model) = &self.model {
            let said = |key: &str| model.metadata().get(key).and_then(Value::as_str);
            match KEYS.iter().zip(of).find(|((key, _), of)| said(key) != Some(of.as_str())) {
                None => return self.get(model, &[n, embedder.width()]),
                Some(((_, other), _)) => {
                    print::note(&format!("lowbit: {} is of {other}; made again", self.path.display()));
                }
            }
        }
        let mut output = Output::create(self.path, true, [args.model.as_path(), args.file.as_path()])?;
        let embeddings = make()?;
        let mut metadata = Metadata::default();
        for ((key, _), of) in KEYS.iter().zip(of) {
            metadata.set(key, Value::String(of.clone()));
        }
        texts::write_safetensors(&embeddings, metadata, &mut output, self.path)?;
        output.commit()?;
        Ok(embeddings)
    }

    fn get(&self, model: &Model, shape: &[usize]) -> Result<Tensor> {
        let missing = || Error::Format { path: self.path.into(), what: format!("no tensor '{EMBEDDINGS}'") };
        let entry = model.entry(EMBEDDINGS).ok_or_else(missing)?;
        if entry.shape != shape {
            let (expected, got) = (format!("{shape:?}"), format!("{:?}", entry.shape));
            let wrong = Error::shape("shape", expected, got).in_tensor(EMBEDDINGS);
            return Err(Error::Format { path: self.path.into(), what: wrong.to_string() });
        }
        let embeddings = model.tensor(entry)?;
        let norm = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        let values = embeddings.to_f32();
        // NaN is outside of everything.
        if let Some(at) = values.chunks(shape[1]).position(|row| !(0.99..1.01).contains(&norm(row))) {
            let what = format!("embedding {at} is not of norm 1; remove the file to have it made again");
            return Err(Error::Format { path: self.path.into(), what });
        }
        Ok(embeddings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_and_equals_in_order() {
        let texts = ["a", "b", "c", "d"].iter().zip(1..).map(|(t, line)| Text { text: t.to_string(), line });
        let rows = vec![0.0, 1.0, 1.0, 0.0, 0.6, 0.8, 1.0, 0.0];
        let searched =
            Searched { texts: texts.collect(), embeddings: Tensor::from_f32([4, 2], rows).unwrap() };
        let found = |top| {
            let best = searched.best(&[1.0, 0.0], top);
            best.into_iter().map(|(score, t)| (score as f32, t.line)).collect::<Vec<_>>()
        };
        assert_eq!(found(3), [(1.0, 2), (1.0, 4), (0.6, 3)]);
        assert_eq!(found(9).len(), 4);
    }
}
