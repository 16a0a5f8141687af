//! `lowbit eval`: what quantization costs a sentence-embedding model.
//!
//! ```text
//! texts, pairs -> REFERENCE (f32 activations) -> [texts, D] ─┐
//!              -> each MODEL, one at a time   -> [texts, D] ─┴-> report::agreement -> table | JSON, SVG
//! ```
//!
//! One model is in memory at a time. Nothing is measured on weights: that is `lowbit compare`.

use super::activations::kinds;
use super::output::{Output, write_text};
use super::print::{self, Align, Table};
use super::texts::{self, Run, Text};
use super::{inspect, open_engine};
use crate::bench::sample::quantile;
use crate::engine::Engine;
use crate::model::{Embedder, Passages, Settings, Source};
use crate::product::Activation;
use crate::report::agreement::{Cosines, Scores, kendall_tau, overlap, separation};
use crate::report::size_plot::{self, Point};
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What is embedded where no file is named.
const SENTENCES: &str = include_str!("../../examples/texts/sentences.txt");
const PAIRS: &str = include_str!("../../examples/texts/pairs.tsv");
/// Neighbours and pairs are those of so many texts at most, the first: work and memory grow with the square.
const AMONG: usize = 2000;
/// How many neighbours are compared beside the nearest.
const NEIGHBOURS: usize = 10;

/// Measure sentence-embedding models against a reference: cosine, neighbours, size, speed
///
/// REFERENCE is the model as it was, as a rule the folder with the f32 weights; the MODELs are quantized ones, each with a line of the table. Any of them may be
/// a folder, a packed file that carries config and tokenizer, or a GGUF file.
///
/// cosine: of each text's vector with the reference's, their mean and the lowest. top-1, top-10: how many of a text's nearest texts are the same. tau: Kendall's, of the
/// cosines of all pairs of texts, which says how far their order is kept (neighbours and tau are those of the first 2000 texts). near/far: how often a pair of one meaning has a
/// higher cosine than a pair of two. Size and bits per weight are those of the tensors that run, norms and biases included. tokens/s: the median of --runs runs, after one that is not
/// counted. activations: what linear layers took, as --activation or the file says, and how many layers where that differs. load: from opening the file to having the weights where they are used.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
lowbit eval minilm-q8_0.safetensors all-MiniLM-L6-v2/\n  \
lowbit eval minilm-q8_0.safetensors minilm-q4_0.safetensors minilm.gguf all-MiniLM-L6-v2/ --svg cost.svg\n  \
lowbit eval minilm-int8.safetensors all-MiniLM-L6-v2/ --activation int8 --text mine.txt --json\n\n\
JSON: {\"texts\", \"tokens\", \"among\", \"device\", \"activation\", \"reference\": {..}, \"models\": [{\"model\", \"bytes\", \"bits_per_weight\", \"activations\": {..}, \"cosine\": {\"mean\", \"min\",\n\
\"worst\": {\"line\", \"text\"}}, \"top1\", \"top10\", \"kendall_tau\", \"near_far\", \"tokens_per_second\", \"load_ms\"}]}; null is what cannot be told or is not finite.")]
pub struct Args {
    /// The models to measure
    #[arg(value_name = "MODEL", required = true)]
    models: Vec<PathBuf>,
    /// The model that they are measured against
    #[arg(value_name = "REFERENCE")]
    reference: PathBuf,
    /// A file whose lines to embed, instead of the 356 sentences that lowbit has; `-` is standard input
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Pairs of texts, instead of the 62 that lowbit has: lines of `near` or `far` and two texts, with tabs between them
    #[arg(long, value_name = "FILE")]
    pairs: Option<PathBuf>,
    /// How many runs to time; 0 leaves the speed out
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(..=1000))]
    runs: u16,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Plot the error (1 - mean cosine) against the size
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Overwrite the plot if it exists
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    run: Run,
}

/// Pairs of texts that mean the same, or do not.
#[derive(Debug, Default)]
struct Pairs {
    /// The two of a pair one after the other.
    texts: Vec<String>,
    near: Vec<bool>,
}

impl Pairs {
    fn parse(content: &str, path: &Path) -> Result<Self> {
        let mut pairs = Self::default();
        for (line, n) in content.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty()) {
            let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
            let &[kind @ ("near" | "far"), a, b] = fields.as_slice() else {
                let what =
                    format!("line {n}: expected near or far, a text and another, with tabs between them");
                return Err(Error::Format { path: path.into(), what });
            };
            if a.is_empty() || b.is_empty() {
                return Err(Error::Format { path: path.into(), what: format!("line {n}: a text is empty") });
            }
            pairs.texts.extend([a.to_string(), b.to_string()]);
            pairs.near.push(kind == "near");
        }
        Ok(pairs)
    }

    /// How often a near pair has a higher cosine than a far one, by the embeddings of the texts.
    fn separation(&self, embeddings: &[f32], width: usize) -> Option<f64> {
        let cosines = embeddings.chunks(2 * width).map(|pair| Scores::of(pair, width).all()[0]);
        let (mut near, mut far) = (Vec::new(), Vec::new());
        for (cosine, is_near) in cosines.zip(&self.near) {
            if *is_near { &mut near } else { &mut far }.push(cosine);
        }
        separation(&near, &far)
    }
}

/// What was measured of one model.
struct Measured {
    name: String,
    bytes: u64,
    bits: Option<f64>,
    load_ms: f64,
    per_second: Option<f64>,
    near_far: Option<f64>,
    /// What linear layers took, and how many layers.
    activations: Vec<(String, usize)>,
    passages: Passages,
    width: usize,
    /// `[texts, width]`
    embeddings: Vec<f32>,
}

/// What a model's embeddings have in common with those of the reference.
struct Agreement {
    cosines: Cosines,
    top1: Option<f64>,
    top10: Option<f64>,
    tau: Option<f64>,
}

/// What is asked of every model.
struct Task<'a> {
    engine: Engine,
    texts: &'a [Text],
    pairs: &'a Pairs,
    args: &'a Args,
}

impl Task<'_> {
    /// Embeds everything with one model, `tell` being whether texts that are cut are told of.
    fn measure(&self, path: &Path, settings: Settings, tell: bool) -> Result<Measured> {
        let start = Instant::now();
        let source = Source::open(path)?;
        let embedder = pollster::block_on(Embedder::load(&self.engine, &source, settings))?;
        let load_ms = start.elapsed().as_secs_f64() * 1e3;
        let long = self.args.run.long();
        let passages = match tell {
            true => {
                texts::tokenize(&embedder, self.texts, long, |at| format!("line {}", self.texts[at].line))?
            }
            false => embedder.tokenize(self.texts, long)?,
        };
        let pairs = embedder.tokenize(&self.pairs.texts, long)?;
        let runs = usize::from(self.args.runs);
        let bar = print::progress(((1 + runs) * passages.tokens() + pairs.tokens()) as u64, "tokens");
        print::at(&bar, &path.display().to_string());
        let embed = |passages| pollster::block_on(embedder.embed(passages, |tokens| bar.inc(tokens as u64)));
        let embeddings = embed(&passages)?.to_f32().into_owned();
        let width = embedder.width();
        let near_far = self.pairs.separation(&embed(&pairs)?.to_f32(), width);
        let mut seconds = Vec::with_capacity(runs);
        for _ in 0..runs {
            let start = Instant::now();
            embed(&passages)?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        bar.finish_and_clear();
        seconds.sort_by(f64::total_cmp);
        Ok(Measured {
            name: path.display().to_string(),
            bytes: source.model.bytes(),
            bits: inspect::average_bits(source.model.entries()),
            load_ms,
            per_second: (runs > 0).then(|| passages.tokens() as f64 / quantile(&seconds, 0.5)),
            near_far,
            activations: kinds(embedder.encoder.activations().into_iter()),
            passages,
            width,
            embeddings,
        })
    }
}

impl Measured {
    /// The precisions of what linear layers took, for tables.
    fn precisions(&self) -> String {
        match self.activations.as_slice() {
            [(name, _)] => name.clone(),
            more => more.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", "),
        }
    }

    /// The scores of the pairs of the texts that are compared.
    fn scores(&self) -> Scores {
        let rows = self.embeddings.len().min(AMONG * self.width);
        Scores::of(&self.embeddings[..rows], self.width)
    }

    fn agreement(&self, reference: &Self, scores: &Scores) -> Result<Agreement> {
        if self.width != reference.width {
            let what = format!("columns of the embeddings of {}", self.name);
            return Err(Error::shape(
                what,
                format!("{} as in {}", reference.width, reference.name),
                self.width,
            ));
        }
        if self.passages != reference.passages {
            let both = format!("{} and {}", self.name, reference.name);
            print::note(&format!("lowbit: {both} cut the texts into different tokens"));
        }
        let own = self.scores();
        let none = || Error::Check { what: "no text was embedded".into() };
        Ok(Agreement {
            cosines: Cosines::of(&reference.embeddings, &self.embeddings, self.width).ok_or_else(none)?,
            top1: overlap(scores, &own, 1),
            top10: overlap(scores, &own, NEIGHBOURS),
            tau: kendall_tau(scores.all(), own.all()),
        })
    }
}

/// Runs the subcommand.
pub fn run(args: &Args, device: Option<&str>) -> Result<()> {
    let settings = args.run.settings()?;
    let texts = match &args.text {
        Some(path) => texts::of_file(path, texts::lines)?,
        None => texts::lines(SENTENCES),
    };
    let pairs = match &args.pairs {
        Some(path) => Pairs::parse(&texts::read(path)?, path)?,
        None => Pairs::parse(PAIRS, Path::new("pairs.tsv"))?,
    };
    let inputs = args.models.iter().chain([&args.reference]).chain(&args.text).chain(&args.pairs);
    let inputs = inputs.map(PathBuf::as_path);
    let svg = args.svg.as_deref().map(|path| Output::create(path, args.force, inputs)).transpose()?;
    let engine = pollster::block_on(open_engine(device))?;
    let task = Task { engine, texts: &texts, pairs: &pairs, args };
    let reference = task.measure(&args.reference, Settings { activation: Some(Activation::F32) }, true)?;
    let scores = reference.scores();
    let mut models = Vec::with_capacity(args.models.len());
    for path in &args.models {
        let measured = task.measure(path, settings, false)?;
        let agreement = measured.agreement(&reference, &scores)?;
        models.push((measured, agreement));
    }
    let among = texts.len().min(AMONG);
    let tokens = reference.passages.tokens();
    let on = &task.engine.info().name;
    if let Some(output) = svg {
        let title = format!("Error of embeddings against the size of the model ({})", reference.name);
        let mut precisions: Vec<String> = models.iter().map(|(m, _)| m.precisions()).collect();
        precisions.dedup();
        let below = format!("{} texts; activations {}; {on}", texts.len(), precisions.join(", "));
        let picture =
            size_plot::svg(&title, &below, "1 - mean cosine with the reference", &points(&models), &[]);
        write_text(output, &picture.map_err(|what| Error::Check { what: format!("the plot: {what}") })?)?;
    }
    if args.json {
        return print::json(&json!({
            "texts": texts.len(), "tokens": tokens, "among": among, "device": on,
            "activation": settings.activation.map(|a| a.to_string()), "reference": to_json(&reference, None),
            "models": models.iter().map(|(m, a)| to_json(m, Some((a, &texts)))).collect::<Vec<_>>(),
        }));
    }
    let mut table = Table::new(&[
        ("model", Align::Left),
        ("size", Align::Right),
        ("bits/weight", Align::Right),
        ("activations", Align::Left),
        ("cosine mean", Align::Right),
        ("min", Align::Right),
        ("top-1", Align::Right),
        ("top-10", Align::Right),
        ("tau", Align::Right),
        ("near/far", Align::Right),
        ("tokens/s", Align::Right),
        ("load ms", Align::Right),
    ]);
    models.iter().for_each(|(m, a)| table.row(cells(m, Some(a))));
    table.rule();
    table.row(cells(&reference, None));
    let told = format!(
        "{} ({tokens} tokens), top-1, top-10 and tau among {among} of them; {on}\n",
        print::count(texts.len(), "text"),
    );
    print::stdout(&(table.render() + &told))
}

/// The models in the plot, each by the last part of its path, without the extension if that tells them apart.
fn points(models: &[(Measured, Agreement)]) -> Vec<Point> {
    let named = |part: fn(&Path) -> Option<&OsStr>| -> Vec<String> {
        let name = |path: &str| part(Path::new(path)).map(|name| name.to_string_lossy().into_owned());
        models.iter().map(|(m, _)| name(&m.name).unwrap_or_else(|| m.name.clone())).collect()
    };
    let short = named(Path::file_stem);
    let names = if short.iter().collect::<HashSet<_>>().len() == short.len() {
        short
    } else {
        named(Path::file_name)
    };
    let point = |(name, (m, a)): (String, &(Measured, Agreement))| Point {
        name,
        bytes: m.bytes,
        error: 1.0 - a.cosines.mean,
    };
    names.into_iter().zip(models).map(point).collect()
}

fn cells(measured: &Measured, agreement: Option<&Agreement>) -> Vec<String> {
    let told = |value: Option<f64>, digits: usize| value.map_or("-".into(), |v| format!("{v:.digits$}"));
    let percent = |value: Option<f64>| value.map_or("-".into(), |v| format!("{:.1} %", 100.0 * v));
    let mut cells = vec![measured.name.clone(), print::bytes(measured.bytes), told(measured.bits, 3)];
    cells.push(measured.precisions());
    cells.extend(match agreement {
        None => [const { String::new() }; 5],
        Some(a) => [
            told(Some(a.cosines.mean), 6),
            told(Some(a.cosines.min), 6),
            percent(a.top1),
            percent(a.top10),
            told(a.tau, 4),
        ],
    });
    cells.extend([told(measured.near_far, 4), told(measured.per_second, 0), told(Some(measured.load_ms), 0)]);
    cells
}

fn to_json(measured: &Measured, agreement: Option<(&Agreement, &[Text])>) -> Value {
    let mut fields = Map::new();
    let mut set = |key: &str, value: Value| fields.insert(key.into(), value);
    set("model", measured.name.as_str().into());
    set("bytes", measured.bytes.into());
    set("bits_per_weight", measured.bits.into());
    set(
        "activations",
        measured.activations.iter().map(|(name, n)| (name.clone(), json!(n))).collect::<Map<_, _>>().into(),
    );
    if let Some((a, texts)) = agreement {
        let Cosines { mean, min, worst } = a.cosines;
        let text = &texts[worst];
        set("cosine", json!({"mean": mean, "min": min, "worst": {"line": text.line, "text": text.text}}));
        set("top1", a.top1.into());
        set("top10", a.top10.into());
        set("kendall_tau", a.tau.into());
    }
    set("near_far", measured.near_far.into());
    set("tokens_per_second", measured.per_second.into());
    set("load_ms", measured.load_ms.into());
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_within_are_whole() {
        let pairs = Pairs::parse(PAIRS, Path::new("pairs")).unwrap();
        let near = pairs.near.iter().filter(|near| **near).count();
        assert_eq!((pairs.texts.len(), pairs.near.len(), near), (124, 62, 32));
        assert_eq!(texts::lines(SENTENCES).len(), 356);
    }

    #[test]
    fn pairs_are_parsed_or_refused_by_line() {
        let parse = |text: &str| Pairs::parse(text, Path::new("p.tsv"));
        let pairs = parse("near\ta b\tc\r\n\nfar\t d\te \n").unwrap();
        assert_eq!(
            (pairs.texts, pairs.near),
            (["a b", "c", "d", "e"].map(String::from).into(), vec![true, false])
        );
        for (text, line) in
            [("near\ta", 1), ("near\ta\tb\nclose\ta\tb", 2), ("near\ta\tb\tc", 1), ("\nfar\t\tb", 2)]
        {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("p.tsv: line {line}: ")), "{error}");
        }
    }

    #[test]
    fn near_pairs_are_told_from_far_ones() {
        let pairs = Pairs { texts: vec![String::new(); 6], near: vec![true, false, false] };
        // Cosines 0.6, 0.8 and 0: one of the two far pairs lies below.
        let rows = [1.0, 0.0, 0.6, 0.8, 1.0, 0.0, 0.8, 0.6, 1.0, 0.0, 0.0, 1.0];
        assert_eq!(pairs.separation(&rows, 2), Some(0.5));
    }
}
