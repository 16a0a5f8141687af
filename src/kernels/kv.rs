//! Caches of keys and values on the device. See [`crate::kv`] for what lies where, and `shaders/kernel/kv_*.wgsl`.
//!
//! ```text
//! k, v f32 --kv_store--> window (f16) --kv_pack, for keys and for values--> codes and groups of the blocks that are complete
//! q f32, the cache --kv_attention--> y f32
//! ```
//!
//! All of a cache is one buffer of words, bound once.

use super::teams::{Rows, of_rows};
use super::{Scheme, Shader, Specialization, Tier};
use crate::gpu::{Access, Binding, Buffer, Gpu, Target, fold_workgroups};
use crate::kv::{GROUP, KvSettings, Layout, NOT_FINITE, Piece, RECORD, SCALE_BASE, Side};
use crate::product::Summation;
use crate::{Error, Result};
use bytemuck::{Pod, Zeroable};
use serde::Serialize;

const WORKGROUP: u32 = 64;

/// How threads share an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// A thread has a query's head, and no workgroup memory: for software adapters, which pay for barriers.
    Thread,
    /// A workgroup has it; its threads share the tokens for the scores, and the columns for what is summed.
    Team,
}

impl Form {
    /// The form for a device.
    pub fn of(gpu: &Gpu) -> Self {
        if gpu.info().software { Self::Thread } else { Self::Team }
    }
}

/// What templates know of a cache's numbers.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Numbers {
    group: u32,
    record: u32,
    /// Words of a record in 4 bits.
    int4_words: u32,
    not_finite: u32,
    scale_base: u32,
    unit_base: u32,
}

impl Numbers {
    fn new() -> Self {
        Self {
            group: GROUP as u32,
            record: RECORD as u32,
            int4_words: Side::Int4.record_words() as u32,
            not_finite: NOT_FINITE,
            scale_base: SCALE_BASE,
            // An eighth.
            unit_base: SCALE_BASE - (3 << 23),
        }
    }
}

/// Specialization of `kv_store`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Store {
    workgroup: u32,
}

/// The uniform of `kv_store`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct StoreParams {
    /// Of k and v: the first token, and how many.
    pub start: u32,
    pub tokens: u32,
    /// Words of a token.
    pub row: u32,
    /// Slot of the first token.
    pub slot: u32,
    pub window: u32,
    pub window_keys: u32,
    pub window_values: u32,
}

impl Specialization for Store {
    const KERNEL: &'static str = "kv_store";
    type Params = StoreParams;

    fn storage(&self) -> Vec<Access> {
        vec![Access::Read, Access::Read, Access::ReadWrite]
    }
}

/// Specialization of `kv_pack`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Pack {
    /// Groups are channels, else tokens.
    keys: bool,
    bits: u32,
    head: u32,
    workgroup: u32,
    n: Numbers,
}

impl Pack {
    fn new(keys: bool, side: Side, head: usize) -> Self {
        let (bits, head) = (side.bits() as u32, head as u32);
        Self { keys, bits, head, workgroup: WORKGROUP, n: Numbers::new() }
    }
}

/// The uniform of `kv_pack`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct PackParams {
    pub heads: u32,
    /// Blocks to pack: the first, and how many.
    pub first: u32,
    pub count: u32,
    /// Blocks there is room for.
    pub blocks: u32,
    pub window: u32,
    pub window_at: u32,
    pub codes_at: u32,
    pub groups_at: u32,
    /// C(n) of the codes.
    pub inverse: f32,
}

impl Specialization for Pack {
    const KERNEL: &'static str = "kv_pack";
    type Params = PackParams;

    fn storage(&self) -> Vec<Access> {
        vec![Access::ReadWrite]
    }
}

/// Specialization of `kv_attention`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Attention {
    form: Form,
    key_bits: u32,
    value_bits: u32,
    head: u32,
    workgroup: u32,
    n: Numbers,
}

impl Attention {
    fn new(form: Form, settings: &KvSettings) -> Self {
        let KvSettings { head_size, key, value, .. } = *settings;
        let [key_bits, value_bits] = [key, value].map(|side| side.bits() as u32);
        Self { form, key_bits, value_bits, head: head_size as u32, workgroup: WORKGROUP, n: Numbers::new() }
    }

    /// Teams: how many threads share a vector of four columns, each with some of the tokens.
    fn stripes(head: usize) -> usize {
        WORKGROUP as usize / (head / 4)
    }
}

/// The uniform of `kv_attention`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct AttentionParams {
    pub tokens: u32,
    pub q_heads: u32,
    /// Heads of k and v.
    pub heads: u32,
    /// Heads of q for one of them.
    pub q_per_head: u32,
    /// Tokens of the cache, and of its complete blocks.
    pub length: u32,
    pub packed: u32,
    /// Slot of the first token behind those.
    pub slot: u32,
    pub blocks: u32,
    pub window_keys: u32,
    pub window_values: u32,
    pub keys: u32,
    pub key_groups: u32,
    pub values: u32,
    pub value_groups: u32,
    pub scale: f32,
    pub quads: u32,
}

impl Specialization for Attention {
    const KERNEL: &'static str = "kv_attention";
    type Params = AttentionParams;

    fn storage(&self) -> Vec<Access> {
        vec![Access::Read, Access::Read, Access::ReadWrite]
    }
}

/// How a score of a head of `head` columns is summed: the scaling of q, of a vector of four a product and three additions, and one to what was there.
pub fn score_summation(head: usize) -> Summation {
    Summation { chain: head / 4 + 5, depth: 0, folded: false }
}

/// How the weights and the weighted rows of `length` tokens are summed.
pub fn weighted_summation(form: Form, head: usize, length: usize) -> Summation {
    let chain = match form {
        // Of each token: the scaling down, a product and an addition.
        Form::Thread => 3 * length,
        // Of each step: the scaling down and the tokens of a stripe; stripes, and sums of threads, in a row.
        Form::Team => {
            let team = WORKGROUP as usize;
            length.div_ceil(team) * (team.div_ceil(Attention::stripes(head)) + 2) + team
        }
    };
    Summation { chain: chain + 1, depth: 0, folded: false }
}

/// Exponentials that a weight is a product of at most: its own, and what each step behind it scales down by.
pub fn powers(form: Form, length: usize) -> usize {
    match form {
        Form::Thread => length,
        Form::Team => length.div_ceil(WORKGROUP as usize),
    }
}

/// A cache's buffer.
///
/// # Errors
/// [`Error::TooLarge`] if it is larger than a binding; those of the device.
pub fn alloc(gpu: &Gpu, layout: &Layout) -> Result<Buffer> {
    let (need, limit) = (layout.words as u64 * 4, super::weights::binding_limit(gpu) as u64);
    if need > limit {
        return Err(Error::TooLarge { what: "bytes of a cache of keys and values".into(), need, limit });
    }
    gpu.alloc_persistent(need, "keys and values")
}

/// Records the append of a piece of k and v `[tokens, width]`.
///
/// # Errors
/// Those of the device.
pub fn append(
    gpu: &Gpu,
    target: &mut Target<'_>,
    layout: &Layout,
    cache: &Buffer,
    [k, v]: [Rows<'_>; 2],
    tokens: usize,
    piece: &Piece,
) -> Result<()> {
    let KvSettings { heads, head_size, key, value } = layout.settings;
    let width = layout.settings.width();
    let store = Store { workgroup: WORKGROUP };
    let params = StoreParams {
        start: piece.tokens.start as u32,
        tokens: piece.tokens.len() as u32,
        row: (width / 2) as u32,
        slot: (piece.first % layout.window) as u32,
        window: layout.window as u32,
        window_keys: layout.window_keys as u32,
        window_values: layout.window_values as u32,
    };
    let [k, v] = [k, v].map(|rows| of_rows(rows, 0, tokens, width));
    let threads = (piece.tokens.len() * width / 2) as u64;
    let groups = |threads: u64| fold_workgroups(threads.div_ceil(WORKGROUP.into()), gpu.limits());
    let bindings = [k, v, Binding::whole(cache)];
    let pipeline = store.pipeline(gpu)?;
    gpu.dispatch(target, &pipeline, &bindings, bytemuck::bytes_of(&params), groups(threads)?)?;
    if piece.blocks.is_empty() {
        return Ok(());
    }
    for (keys, side, window_at, codes_at, groups_at) in [
        (true, key, layout.window_keys, layout.keys, layout.key_groups),
        (false, value, layout.window_values, layout.values, layout.value_groups),
    ] {
        let params = PackParams {
            heads: heads as u32,
            first: piece.blocks.start as u32,
            count: piece.blocks.len() as u32,
            blocks: layout.blocks as u32,
            window: layout.window as u32,
            window_at: window_at as u32,
            codes_at: codes_at as u32,
            groups_at: groups_at as u32,
            inverse: 1.0 / ((1u32 << side.bits()) - 1) as f32,
        };
        let pipeline = Pack::new(keys, side, head_size).pipeline(gpu)?;
        let threads = (piece.blocks.len() * heads * head_size / RECORD) as u64;
        let bindings = [Binding::whole(cache)];
        gpu.dispatch(target, &pipeline, &bindings, bytemuck::bytes_of(&params), groups(threads)?)?;
    }
    Ok(())
}

/// Records y of q `[tokens, q_heads * head_size]`, the last tokens of a cache of `length`.
///
/// # Errors
/// [`Error::TooLarge`] if q is larger than a binding; those of the device.
pub fn attention(
    gpu: &Gpu,
    target: &mut Target<'_>,
    form: Form,
    (layout, cache, length): (&Layout, &Buffer, usize),
    [tokens, q_heads]: [usize; 2],
    [q, y]: [Rows<'_>; 2],
) -> Result<()> {
    let KvSettings { heads, head_size, .. } = layout.settings;
    let packed = layout.packed(length);
    let params = AttentionParams {
        tokens: tokens as u32,
        q_heads: q_heads as u32,
        heads: heads as u32,
        q_per_head: (q_heads / heads) as u32,
        length: length as u32,
        packed: packed as u32,
        slot: (packed % layout.window) as u32,
        blocks: layout.blocks as u32,
        window_keys: layout.window_keys as u32,
        window_values: layout.window_values as u32,
        keys: layout.keys as u32,
        key_groups: layout.key_groups as u32,
        values: layout.values as u32,
        value_groups: layout.value_groups as u32,
        scale: 1.0 / (head_size as f32).sqrt(),
        quads: (head_size / 4) as u32,
    };
    let pipeline = Attention::new(form, &layout.settings).pipeline(gpu)?;
    let rows = (tokens * q_heads) as u64;
    let teams = if form == Form::Thread { rows.div_ceil(WORKGROUP.into()) } else { rows };
    let [q, y] = [q, y].map(|of| of_rows(of, 0, tokens, q_heads * head_size));
    let groups = fold_workgroups(teams, gpu.limits())?;
    gpu.dispatch(target, &pipeline, &[q, Binding::whole(cache), y], bytemuck::bytes_of(&params), groups)
}

/// Sizes of heads that models have, the smallest and the largest.
const HEADS: [usize; 5] = [32, 64, 96, 128, 256];

/// The one text; the scheme does not matter.
pub fn store_shaders(_: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    Ok(vec![Store { workgroup: WORKGROUP }.shader()?])
}

/// Keys and values in every number of bits; the scheme does not matter.
pub fn pack_shaders(_: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    let all = HEADS.into_iter().flat_map(|head| [true, false].map(|keys| (keys, head)));
    all.flat_map(|(keys, head)| Side::ALL.map(|side| Pack::new(keys, side, head).shader())).collect()
}

/// Every pair of numbers of bits, in both forms; the scheme does not matter.
pub fn attention_shaders(_: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    let mut all = Vec::new();
    for (i, head_size) in HEADS.into_iter().enumerate() {
        for key in Side::ALL {
            for value in Side::ALL.into_iter().filter(|value| i == 0 || *value == key) {
                let settings = KvSettings { heads: 1, head_size, key, value };
                for form in [Form::Thread, Form::Team] {
                    all.push(Attention::new(form, &settings).shader()?);
                }
            }
        }
    }
    Ok(all)
}
