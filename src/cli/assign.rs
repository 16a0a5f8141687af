//! Which tensor of a model gets which scheme: `--scheme`, `--config`, `--include`, `--exclude`, mixes, `--imatrix`.
//!
//! ```text
//! entry -> selected by name? -> wanted: a scheme, a mix, a copy -> of a type and shape that can be quantized? -> Chosen | Left, with the reason
//! importance matrix -> the entry's weights, by its name or the name it has in GGUF -> as many as it has columns
//! ```

use super::Compiled;
use crate::configuration::{Activations, Configuration, Weights as Wanted};
use crate::file::imatrix::Imatrix;
use crate::file::{Content, Entry, Model, Value};
use crate::quantize::{Recipe, TransformRecipe};
use crate::scheme::mix::{Choice, Given, Mix, Stated, Weight};
use crate::scheme::names::Named;
use crate::{DType, Error, Result, Scheme};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Who chooses schemes.
pub enum Chooser {
    One(Choice, Recipe),
    /// A preset's name or a file's, and what it says.
    Config(PathBuf, Configuration),
}

impl std::fmt::Display for Chooser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(choice, _) => choice.fmt(f),
            Self::Config(path, _) => path.display().fmt(f),
        }
    }
}

impl Chooser {
    /// The mix that most tensors go by, if one does.
    pub fn mix(&self) -> Option<&'static Mix> {
        let most = match self {
            Self::One(choice, recipe) => Wanted::To(*choice, *recipe),
            Self::Config(_, configuration) => configuration.usual().weights,
        };
        match most {
            Wanted::To(Choice::Mix(mix), _) => Some(mix),
            _ => None,
        }
    }
}

/// A tensor to be quantized.
#[derive(Clone)]
pub struct Chosen<'a> {
    pub entry: &'a Entry,
    /// The type its weights have.
    pub source: DType,
    pub scheme: Scheme,
    pub recipe: Recipe,
    /// What it would have, were it like the others, and why it is not.
    pub instead_of: Option<(Scheme, Instead)>,
}

/// Why a tensor gets another scheme.
#[derive(Clone, Copy, PartialEq)]
pub enum Instead {
    /// The blocks do not divide K.
    Blocks,
    /// Of the first layers, with importance: see `scheme::mix`.
    FirstLayers,
}

/// Why a tensor stays as it is.
pub enum Reason {
    NotSelected(NotSelected),
    /// Asked for, but the scheme cannot hold it.
    Unfit(Error),
}

/// A tensor that was not asked for, the reason that tells a user most last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotSelected {
    Name,
    File,
    Type,
    Rank,
    Fixed,
    Mix,
    Packed,
    Listed,
}

impl std::fmt::Display for NotSelected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Name => "not selected by --include and --exclude",
            Self::File => "to be copied, as --config says",
            Self::Type => "not f32, f16 or bf16",
            Self::Rank => "fewer than two dimensions",
            Self::Fixed => "f32 in every GGUF model (positions, token types)",
            Self::Mix => "a norm, router, position or the like, which the mix keeps",
            Self::Packed => "already packed",
            Self::Listed => "of a type that is not decoded",
        })
    }
}

/// The schemes of a model's tensors.
pub struct Assignment<'a> {
    chooser: &'a Chooser,
    filter: &'a Compiled,
    /// What mixes give, by their names and the model's entries.
    mixes: HashMap<&'static str, Vec<Option<Given>>>,
}

impl<'a> Assignment<'a> {
    /// Lets every mix that is wanted look at the model.
    pub fn new(chooser: &'a Chooser, filter: &'a Compiled, model: &Model, weighted: bool) -> Self {
        let weights: Vec<Weight> =
            model.entries().iter().map(|e| Weight { name: &e.name, shape: &e.shape }).collect();
        let stated = stated(model);
        let mut mixes = HashMap::new();
        for entry in model.entries() {
            let mix = match wanted(chooser, &entry.name) {
                Wanted::To(Choice::Mix(mix), _) => Some(mix),
                Wanted::To(Choice::Scheme(scheme), _) => guard(chooser, &scheme).filter(|_| weighted),
                Wanted::Copy => None,
            };
            if let Some(mix) = mix {
                mixes.entry(mix.name).or_insert_with(|| mix.assign(&weights, &stated, weighted));
            }
        }
        Self { chooser, filter, mixes }
    }

    /// What goes into the products of the layers that are selected, where something is said of it.
    pub fn activations<'m>(&self, model: &'m Model) -> Vec<(&'m Entry, Activations)> {
        let Chooser::Config(_, configuration) = self.chooser else { return Vec::new() };
        let layers = model
            .entries()
            .iter()
            .filter(|entry| entry.shape.len() == 2 && !entry.fixed && self.filter.selects(&entry.name));
        layers.filter_map(|entry| Some((entry, configuration.layer(&entry.name).activations?))).collect()
    }

    /// How the transform of a layer's inputs is found, by a configuration.
    pub fn transform(&self, entry: &Entry) -> Option<TransformRecipe> {
        let Chooser::Config(_, configuration) = self.chooser else { return None };
        configuration.layer(&entry.name).transform
    }

    /// Whether and as what entry `i` is quantized.
    pub fn choose<'m>(&self, i: usize, entry: &'m Entry) -> Result<Chosen<'m>, Reason> {
        let not = |why| Err(Reason::NotSelected(why));
        if !self.filter.selects(&entry.name) {
            return not(NotSelected::Name);
        }
        let source = match entry.content {
            Content::Packed { .. } => return not(NotSelected::Packed),
            Content::Listed { .. } => return not(NotSelected::Listed),
            Content::Dense(_) => entry.float(),
        };
        let wanted = wanted(self.chooser, &entry.name);
        let Wanted::To(choice, recipe) = wanted else { return not(NotSelected::File) };
        let Some(source) = source else { return not(NotSelected::Type) };
        if entry.shape.len() < 2 {
            return not(NotSelected::Rank);
        }
        if entry.fixed {
            return not(NotSelected::Fixed);
        }
        let of = |mix: &Mix| self.mixes.get(mix.name).and_then(|all| all.get(i).copied().flatten());
        let (scheme, instead_of) = match choice {
            Choice::Mix(mix) => match of(mix) {
                Some(given) => (given.scheme, given.instead_of.map(|s| (s, Instead::Blocks))),
                None => return not(NotSelected::Mix),
            },
            Choice::Scheme(scheme) => {
                let guarded = guard(self.chooser, &scheme).and_then(|mix| {
                    let given = of(mix)?.scheme;
                    (Some(given) == mix.guard()).then_some((given, Some((scheme, Instead::FirstLayers))))
                });
                guarded.unwrap_or((scheme, None))
            }
        };
        scheme.check_shape(&entry.shape).map_err(Reason::Unfit)?;
        Ok(Chosen { entry, source, scheme, recipe, instead_of })
    }
}

fn wanted(chooser: &Chooser, name: &str) -> Wanted {
    match chooser {
        Chooser::One(choice, recipe) => Wanted::To(*choice, *recipe),
        Chooser::Config(_, configuration) => configuration.layer(name).weights,
    }
}

/// The mix whose first layers go for this scheme too, where it is asked for as such: with importance, Q4_0 and Q5_0.
fn guard(chooser: &Chooser, scheme: &Scheme) -> Option<&'static Mix> {
    let Chooser::One(..) = chooser else { return None };
    Mix::of(&format!("{scheme}_mix")).filter(|mix| mix.guard().is_some())
}

/// What the metadata of a GGUF model says for mixes.
fn stated(model: &Model) -> Stated {
    let metadata = model.metadata();
    let Some(of) = metadata.get("general.architecture").and_then(Value::as_str) else {
        return Stated::default();
    };
    let number = |key: &str| {
        let n = metadata.get(&format!("{of}.{key}")).and_then(Value::as_u64)?;
        usize::try_from(n).ok().filter(|n| *n > 0)
    };
    Stated {
        layers: number("block_count"),
        heads: number("attention.head_count").zip(number("attention.head_count_kv")),
        experts: number("expert_count"),
    }
}

/// An importance matrix for a model.
pub struct Weights {
    pub path: PathBuf,
    pub imatrix: Imatrix,
}

impl Weights {
    /// Opens a file.
    ///
    /// # Errors
    /// As [`Imatrix::open`].
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.into(), imatrix: Imatrix::open(path)? })
    }

    /// The importance of an entry's columns, if there is any: by its name, or for names of HuggingFace by that which GGUF has.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the file has another number of them.
    pub fn of(&self, entry: &Entry) -> Result<Option<&[f32]>> {
        let named = Named::of(&entry.name);
        let own = self.imatrix.weights.get(&entry.name);
        let other = || named.gguf.as_ref().and_then(|name| self.imatrix.weights.get(name));
        let Some(found) = own.or_else(other) else { return Ok(None) };
        let k = entry.shape.last().copied().unwrap_or(0);
        let mut values = found.values.as_slice();
        if let (None, Some(expert)) = (own, named.expert)
            && k > 0
            && let Some(part) = values.chunks(k).nth(expert)
        {
            values = part;
        }
        let matrices: usize = entry.shape.iter().rev().skip(2).product();
        if values.len() != k * matrices {
            let what = format!("its importance in {}", self.path.display());
            let (need, got) = (format!("{} values", k * matrices), values.len());
            return Err(Error::shape(what, need, got).in_tensor(&entry.name));
        }
        Ok(Some(values))
    }

    /// The keys that llama.cpp writes into a model that was quantized with it.
    pub fn provenance(&self) -> Vec<(&'static str, Value)> {
        let count = |n: usize| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));
        let mut keys =
            vec![("quantize.imatrix.file", Value::String(self.path.to_string_lossy().into_owned()))];
        if let Some(name) = self.imatrix.datasets.first() {
            keys.push(("quantize.imatrix.dataset", Value::String(name.clone())));
        }
        keys.push(("quantize.imatrix.entries_count", count(self.imatrix.weights.len())));
        if let Some(n) = self.imatrix.chunk_count {
            keys.push(("quantize.imatrix.chunks_count", Value::U32(n)));
        }
        keys
    }
}
