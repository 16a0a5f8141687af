//! Texts that are tokenized, and their vectors, a batch at a time.
//!
//! ```text
//! Passages -> batches of some tokens -> Encoder::embed -> one read a batch -> the mean of a text's chunks -> [texts, D]
//! ```

use super::encoder::Encoder;
use crate::{Error, Result, Tensor};

/// Tokens of a batch: what fills a GPU, and memory of which a CPU's caches hold a part.
const BATCH_TOKENS: usize = 4096;
const BATCH_TOKENS_CPU: usize = 1024;

/// Texts that are tokenized.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Passages {
    /// One or more for each text.
    pub(super) chunks: Vec<Vec<u32>>,
    /// How many chunks each text has.
    pub(super) per_text: Vec<usize>,
    /// Texts that were cut, and how many tokens they have.
    pub cut: Vec<(usize, usize)>,
}

impl Passages {
    /// Texts of one or more chunks: the tokens of all chunks one after the other, how many each has, and how many chunks each text has.
    ///
    /// # Errors
    /// [`Error::Shape`] for counts that do not sum to each other, and for a text without a chunk.
    pub fn new(ids: &[u32], lengths: &[usize], per_text: Vec<usize>) -> Result<Self> {
        let mut rest = ids;
        let mut chunks = Vec::with_capacity(lengths.len());
        for &length in lengths {
            let split = rest.split_at_checked(length);
            let (chunk, behind) = split.ok_or_else(|| Error::shape("tokens", length, rest.len()))?;
            chunks.push(chunk.to_vec());
            rest = behind;
        }
        let counted = per_text.iter().fold(0usize, |sum, &n| sum.saturating_add(n));
        if !rest.is_empty() || counted != chunks.len() || per_text.contains(&0) {
            let expected = format!("{} in {} chunks of {} texts", ids.len(), lengths.len(), per_text.len());
            let got = format!("{} in {counted}", ids.len() - rest.len());
            return Err(Error::shape("tokens", expected, got));
        }
        Ok(Self { chunks, per_text, cut: Vec::new() })
    }

    /// The tokens of all chunks one after the other, and how many each has.
    pub fn joined(&self) -> (Vec<u32>, Vec<usize>) {
        joined(&self.chunks)
    }

    /// How many chunks each text has.
    pub fn per_text(&self) -> &[usize] {
        &self.per_text
    }

    /// Tokens of all chunks.
    pub fn tokens(&self) -> usize {
        self.chunks.iter().map(Vec::len).sum()
    }

    /// How many texts there are.
    pub fn len(&self) -> usize {
        self.per_text.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.per_text.is_empty()
    }
}

impl Encoder {
    /// Embeddings `[texts, D]` of L2 norm 1, of a text of several chunks their mean. `done` is told of tokens as they are done.
    ///
    /// # Errors
    /// As [`Self::embed`].
    pub async fn embed_passages(&self, passages: &Passages, mut done: impl FnMut(usize)) -> Result<Tensor> {
        let width = self.sizes().hidden;
        let mut values = Vec::with_capacity(passages.chunks.len() * width);
        for batch in self.batches(passages) {
            let (ids, lengths) = joined(batch);
            values.extend_from_slice(&self.embed(&ids, &lengths)?.read().await?.to_f32());
            done(ids.len());
        }
        if passages.chunks.len() == passages.per_text.len() {
            return Tensor::from_f32([passages.len(), width], values);
        }
        let mut all = Vec::with_capacity(passages.len() * width);
        let (mut chunks, mut rows) = (&passages.chunks[..], &values[..]);
        for &n in &passages.per_text {
            let (own, behind) = chunks.split_at(n);
            let (of_text, rest) = rows.split_at(n * width);
            all.extend(mean(own, of_text, width));
            (chunks, rows) = (behind, rest);
        }
        Tensor::from_f32([passages.len(), width], all)
    }

    /// Chunks in a row, so many that they have about the tokens of a batch.
    pub fn batches<'a>(&self, passages: &'a Passages) -> Vec<&'a [Vec<u32>]> {
        let most = if self.engine().is_cpu() { BATCH_TOKENS_CPU } else { BATCH_TOKENS };
        let mut batches = Vec::new();
        let (mut rest, mut tokens, mut n) = (&passages.chunks[..], 0, 0);
        for chunk in &passages.chunks {
            if n > 0 && tokens + chunk.len() > most {
                let (batch, behind) = rest.split_at(n);
                batches.push(batch);
                (rest, tokens, n) = (behind, 0, 0);
            }
            tokens += chunk.len();
            n += 1;
        }
        if n > 0 {
            batches.push(rest);
        }
        batches
    }
}

/// The tokens of a batch one after the other, and how many each has.
pub fn joined(batch: &[Vec<u32>]) -> (Vec<u32>, Vec<usize>) {
    (batch.concat(), batch.iter().map(Vec::len).collect())
}

/// The mean of chunks' embeddings, weighted by tokens, at L2 norm 1.
fn mean(chunks: &[Vec<u32>], rows: &[f32], width: usize) -> Vec<f32> {
    let mut sum = vec![0f64; width];
    for (chunk, row) in chunks.iter().zip(rows.chunks(width)) {
        sum.iter_mut().zip(row).for_each(|(sum, v)| *sum += chunk.len() as f64 * f64::from(*v));
    }
    let norm = sum.iter().map(|v| v * v).sum::<f64>().sqrt();
    let share = if norm > 0.0 { 1.0 / norm } else { 0.0 };
    sum.into_iter().map(|v| (v * share) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_to_belong_to_each_other() {
        let of = |lengths: &[usize], per_text: &[usize]| {
            Passages::new(&[1, 2, 3, 4, 5], lengths, per_text.to_vec())
        };
        let two = of(&[1, 2, 2], &[1, 2]).unwrap();
        assert_eq!((two.len(), two.tokens(), two.per_text()), (2, 5, &[1, 2][..]));
        assert_eq!(two.joined(), (vec![1, 2, 3, 4, 5], vec![1, 2, 2]));
        assert_eq!(two.chunks, [vec![1], vec![2, 3], vec![4, 5]]);
        for (lengths, per_text) in [
            (&[1, 2][..], &[1, 1][..]),
            (&[1, 2, 3], &[1, 2]),
            (&[1, 2, 2], &[1, 1]),
            (&[1, 2, 2], &[1, 3]),
            (&[1, 2, 2], &[0, 3]),
            (&[1, 2, 2], &[usize::MAX, 4]),
        ] {
            let error = of(lengths, per_text).unwrap_err().to_string();
            assert!(error.contains("tokens"), "{lengths:?} {per_text:?}: {error}");
        }
    }
}
