//! Caches of keys and values against the reference.
//!
//! ```text
//! kv_store, kv_pack   every word of a cache bit for bit, appended at once, by one token, and by several; words that nothing belongs in are still zero
//! kv_attention        within the bound of attention (`encoder.rs`), of keys and values as the reference decodes them: those are exact
//! ```
//!
//! On a GPU both forms of attention run, into poison between guard words. A fault is planted in what the reference is given.

use super::encoder::{SLACK, Suite, TINY, U};
use crate::engine::kv::{Roundings, Way};
use crate::kv::{GROUP, KvSettings, Side};
use crate::{KvCache, Result, reference};

#[cfg(feature = "gpu")]
use crate::{DType, kernels::kv::Form};

/// Which of them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    Store,
    Pack,
    Attention,
}

/// Pairs of sides that meet each other.
const SIDES: [[Side; 2]; 5] = [
    [Side::Int8, Side::Int8],
    [Side::Int4, Side::Int4],
    [Side::F16, Side::F16],
    [Side::Int4, Side::Int8],
    [Side::Int8, Side::F16],
];

impl Suite<'_> {
    /// Everything of an operation.
    pub async fn cache(&mut self, operation: Operation) -> Result<()> {
        match operation {
            Operation::Store => self.stored(&[(1, 32, 3, 1), (3, 64, 40, 31), (2, 96, 20, 2)]).await,
            Operation::Pack => {
                let sizes = [
                    (1, 32, 40, 32),
                    (3, 64, 100, 99),
                    (2, 96, 5000, 200),
                    (1, 256, 64, 64),
                    (5, 128, 70, 65),
                ];
                self.stored(&sizes).await
            }
            Operation::Attention => self.attended_caches().await,
        }
    }

    /// Heads, columns of a head, room, tokens.
    async fn stored(&mut self, sizes: &[(usize, usize, usize, usize)]) -> Result<()> {
        for (i, &(heads, head_size, capacity, tokens)) in sizes.iter().enumerate() {
            for [key, value] in SIDES {
                let settings = KvSettings { heads, head_size, key, value };
                let mut k = self.tokens(&settings, tokens);
                let v = self.tokens(&settings, tokens);
                let want = reference::kv::cache(&settings, capacity, &k, &v);
                let steps = [tokens, 1, 7];
                for step in if i == 0 { &steps[..] } else { &steps[2 * (i % 2)..][..1] } {
                    let case = format!("{settings}, {tokens} tokens by {step}, room for {capacity}");
                    let cache = self.filled(&settings, capacity, [&k, &v], *step)?;
                    let got = cache.words().await?;
                    self.report.equal(self.kernel, &case, &got, &want);
                    let width = settings.width();
                    // Another extreme of a group all of which is finite: codes or the window's number change.
                    let group = |at: usize| {
                        let block = at / width / GROUP * GROUP;
                        (block..(block + GROUP).min(tokens)).map(move |t| t * width + at % width)
                    };
                    let finite = |at: usize| group(at).all(|i| k[i].is_finite());
                    let found = (0..1000).map(|_| self.rng.below(k.len())).find(|&at| finite(at));
                    let at = found.unwrap_or_default();
                    let before = std::mem::replace(&mut k[at], 0.0);
                    k[at] = if before > 0.0 { -30000.0 } else { 30000.0 };
                    let wrong = reference::kv::cache(&settings, capacity, &k, &v);
                    self.report.teeth(self.kernel, &case, got != wrong);
                    k[at] = before;
                }
            }
        }
        Ok(())
    }

    /// A cache after appends of `step` tokens.
    fn filled(
        &mut self,
        settings: &KvSettings,
        capacity: usize,
        [k, v]: [&[f32]; 2],
        step: usize,
    ) -> Result<KvCache> {
        let width = settings.width();
        let mut cache = self.engine.kv_cache(settings, capacity)?;
        for (k, v) in k.chunks(step * width).zip(v.chunks(step * width)) {
            let shape = [k.len() / width, width];
            cache.append(&self.upload(&shape, k)?, &self.upload(&shape, v)?)?;
        }
        Ok(cache)
    }

    /// Normal numbers; in some blocks a channel or a token that is zero, constant, far from 0, tiny, large, halfway between codes, or not finite.
    fn tokens(&mut self, settings: &KvSettings, tokens: usize) -> Vec<f32> {
        let width = settings.width();
        let mut x: Vec<f32> = (0..tokens * width).map(|_| self.rng.normal()).collect();
        for block in x.chunks_mut(GROUP * width) {
            let rows = block.len() / width;
            for _ in 0..8 {
                let (t, c) = (self.rng.below(rows), self.rng.below(width));
                let kind = self.rng.below(11);
                let by = 4.0 * self.rng.normal();
                let change = |v: &mut f32, i: usize| {
                    *v = match kind {
                        0 => 0.0,
                        1 => by,
                        2 => *v + 100.0,
                        3 => *v - 3000.0,
                        4 => *v * 1e-6,
                        5 => *v * 1e4,
                        6 => -0.0,
                        // Multiples of a half: of codes in 4 bits with a scale of 1, halves of codes in 8 with one of 1/2.
                        7 => (i % 31) as f32 * 0.5 - 4.0,
                        8 => (i % 32) as f32 * 4.125,
                        9 => (*v * 3.0).round(),
                        _ => 1e-8 * *v,
                    };
                };
                if self.rng.below(2) == 0 {
                    block.iter_mut().skip(c).step_by(width).enumerate().for_each(|(i, v)| change(v, i));
                } else {
                    block[t * width..][..width].iter_mut().enumerate().for_each(|(i, v)| change(v, i));
                }
            }
            let at = self.rng.below(block.len());
            match self.rng.below(6) {
                0 => block[at] = f32::NAN,
                1 => block[at] = f32::INFINITY,
                2 => block[at] = -1e6,
                _ => {}
            }
        }
        x
    }

    async fn attended_caches(&mut self) -> Result<()> {
        // Heads, columns of a head, heads of q for each, tokens, queries.
        let sizes = [
            (1, 32, 1, 1, 1),
            (2, 64, 1, 31, 2),
            (3, 32, 2, 32, 1),
            (2, 96, 3, 33, 33),
            (2, 128, 4, 100, 5),
            (1, 256, 1, 70, 3),
            (1, 160, 1, 65, 1),
            (2, 64, 2, 300, 7),
        ];
        for (i, (heads, head_size, shared, tokens, queries)) in sizes.into_iter().enumerate() {
            // A text for each size, pair and form: all pairs of one size with --full, else two, and each pair with some sizes.
            let pairs =
                (0..SIDES.len()).filter(|j| self.options.full || [0, 3].contains(&((i + j) % SIDES.len())));
            for j in pairs.collect::<Vec<_>>() {
                let [key, value] = SIDES[j];
                // Scores up to some hundreds in one of them.
                let far = (i + j) % 4 == 3;
                let settings = KvSettings { heads, head_size, key, value };
                let mut numbers = |n: usize| -> Vec<f32> { (0..n).map(|_| self.rng.normal()).collect() };
                let (mut k, v) = (numbers(tokens * settings.width()), numbers(tokens * settings.width()));
                let mut q = numbers(queries * shared * settings.width());
                // A channel of its own size.
                k.iter_mut().skip(3).step_by(head_size).for_each(|k| *k = *k * 8.0 + 5.0);
                if far {
                    q.iter_mut().for_each(|q| *q *= 16.0);
                }
                let cache = self.filled(&settings, tokens + 40, [&k, &v], tokens)?;
                let shape = [queries, shared * settings.width()];
                let on = self.upload(&shape, &q)?;
                let [keys, mut values] = reference::kv::decoded(&settings, &k, &v);
                for way in ways(self.engine) {
                    let case = format!(
                        "{settings}, {shared} of q each, {tokens} tokens, {queries} queries, {way:?}"
                    );
                    let Some(got) = self.attended_cache(&case, &cache, &on, way).await? else { continue };
                    let roundings = cache.roundings(way, tokens);
                    let bounded = |values: &[f32]| bounds(&settings, [&q, &keys, values], queries, roundings);
                    let right = bounded(&values);
                    // A number of v that the last query sees as well as it sees others.
                    let at = self.best(&settings, [&q, &keys], queries) * settings.width();
                    let before = values[at];
                    values[at] += 2.0;
                    let wrong = bounded(&values);
                    values[at] = before;
                    self.judge(&case, &got, &right, &wrong);
                }
            }
        }
        self.wild().await
    }

    /// The token that the last query's first head sees best.
    fn best(&self, settings: &KvSettings, [q, k]: [&[f32]; 2], queries: usize) -> usize {
        let last = &q[q.len() / queries * (queries - 1)..][..settings.head_size];
        let score = |k: &[f32]| last.iter().zip(k).map(|(q, k)| q * k).sum::<f32>();
        let scores: Vec<f32> = k.chunks(settings.width()).map(score).collect();
        (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0)
    }

    /// NaN where a query sees a block with one, and nowhere else.
    async fn wild(&mut self) -> Result<()> {
        for side in Side::ALL {
            let settings = KvSettings::new(2, 32, side);
            let width = settings.width();
            let mut numbers = |n: usize| -> Vec<f32> { (0..n).map(|_| self.rng.normal()).collect() };
            let (mut k, mut v, q) = (numbers(70 * width), numbers(70 * width), numbers(40 * width));
            // In the second block: a key of the first head, a value of the second.
            k[40 * width + 5] = f32::NAN;
            v[60 * width + 37] = f32::INFINITY;
            let cache = self.filled(&settings, 70, [&k, &v], 70)?;
            let on = self.upload(&[40, width], &q)?;
            let [keys, values] = reference::kv::decoded(&settings, &k, &v);
            let want = reference::kv::attention(&settings, &q, 40, &keys, &values);
            let finite = |v: &[f64]| v.iter().map(|v| v.is_finite()).collect::<Vec<_>>();
            for way in ways(self.engine) {
                let case = format!("{settings}, not finite, {way:?}");
                let Some(got) = self.attended_cache(&case, &cache, &on, way).await? else { continue };
                let got: Vec<f64> = got.iter().map(|v| f64::from(*v)).collect();
                self.report.equal(self.kernel, &case, &finite(&got), &finite(&want));
            }
        }
        Ok(())
    }

    /// y, on a GPU written into poison between guard words. What is wrong with these is a failure.
    async fn attended_cache(
        &mut self,
        case: &str,
        cache: &KvCache,
        q: &crate::Array,
        way: Way,
    ) -> Result<Option<Vec<f32>>> {
        #[cfg(feature = "gpu")]
        if let (Some(gpu), Way::Device(form)) = (self.engine.gpu(), way) {
            let guarded = super::Guarded::new(gpu, self.engine, q.shape(), DType::F32)?;
            cache.attention_into(q, &guarded.array, form)?;
            let got = guarded.read(gpu).await?;
            return Ok(got.map_err(|why| self.report.fail(format!("{} {case}: {why}", self.kernel))).ok());
        }
        let _ = (case, way);
        Ok(Some(cache.attention(q)?.read().await?.to_f32().into_owned()))
    }
}

/// The forms that an engine has.
fn ways(engine: &crate::Engine) -> Vec<Way> {
    #[cfg(feature = "gpu")]
    if engine.gpu().is_some() {
        return vec![Way::Device(Form::Thread), Way::Device(Form::Team)];
    }
    let _ = engine;
    vec![Way::Host]
}

/// y of an attention to k and v as they are decoded, and how far each number may be off.
pub(crate) fn bounds(
    settings: &KvSettings,
    [q, k, v]: [&[f32]; 3],
    queries: usize,
    of: Roundings,
) -> Vec<[f64; 2]> {
    let y = reference::kv::attention(settings, q, queries, k, v);
    let (size, width, q_width) = (settings.head_size, settings.width(), q.len() / queries);
    let length = k.len() / width;
    let scale = 1.0 / (size as f64).sqrt();
    let score_steps = of.score as f64 + 2.0;
    let (steps, powers) = (of.weighted as f64 * U, of.powers as f64);
    let mut all = Vec::with_capacity(q.len());
    for (t, head) in (0..queries).flat_map(|t| (0..q_width / size).map(move |head| (t, head))) {
        let column = head / (q_width / width) * size;
        let own = &q[t * q_width + head * size..][..size];
        let seen = length - queries + t + 1;
        let score = |j: usize, of: fn(f64) -> f64| -> f64 {
            let k = &k[j * width + column..][..size];
            own.iter().zip(k).map(|(q, k)| of(f64::from(*q) * f64::from(*k))).sum::<f64>() * scale
        };
        let scores: Vec<f64> = (0..seen).map(|j| score(j, |v| v)).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
        // Of each token: its weight, and by what part of it that may be off.
        let weight = |(j, s): (usize, &f64)| {
            let off = score_steps * U * score(j, f64::abs) + U * (5.0 * (top - s) + 6.0 * powers);
            [(s - top).exp() / sum, off.exp_m1()]
        };
        let weights: Vec<[f64; 2]> = scores.iter().enumerate().map(weight).collect();
        let weight_off = weights.iter().map(|[w, c]| w * c).sum::<f64>() + steps;
        for i in 0..size {
            let (mut size_of, mut off) = (0.0, 0.0);
            for (j, [w, c]) in weights.iter().enumerate() {
                let v = f64::from(v[j * width + column + i].abs());
                size_of += w * v;
                off += w * c * v;
            }
            let y = y[t * q_width + head * size + i];
            let sums = off + steps * size_of + y.abs() * weight_off;
            // Where weights are off by half their size, nothing is within.
            let bound = if weight_off < 0.5 { sums / (1.0 - weight_off) } else { f64::NAN };
            all.push([y, SLACK * (bound + 5.0 * U * y.abs()) + TINY * length as f64]);
        }
    }
    all
}
