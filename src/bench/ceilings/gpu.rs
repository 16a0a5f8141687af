//! Ceilings of a GPU: kernels from the templates beside this file.

use super::{Probe, words};
use crate::bench::file::Limit;
use crate::gpu::{Access, Binding, Buffer, Gpu, Pipeline, PipelineSpec, Target, template};
use crate::kernels::Tier;
use crate::kernels::weights::binding_limit;
use crate::selftest::data::Random;
use crate::{Error, Result};
use bytemuck::{Pod, Zeroable};
use half::f16;
use serde_json::{Value, json};
use std::sync::Arc;

const READ: &str = include_str!("read.wgsl");
const COPY: &str = include_str!("copy.wgsl");
const FMA: &str = include_str!("fma.wgsl");
const DOT: &str = include_str!("dot.wgsl");
const COOP: &str = include_str!("coop.wgsl");

const WORKGROUP: u32 = 256;
/// Vectors between the loads of a thread where all threads side by side are more than the walk is long.
const SHORT_STEP: u32 = 1024;
/// Chains of a thread, and operations of each in one round of the loop.
const CHAINS: u32 = 8;
const UNROLL: u32 = 8;
/// Rounds: the sum of a chain of f16 stays below 2048, up to where integers are exact.
const ROUNDS: u32 = 125;
/// Places for results that subgroups share.
const PLACES: u32 = 64;
/// Invocations of a workgroup that multiplies matrices.
const COOP_WORKGROUP: u32 = 128;

/// The uniform of all of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Params {
    count: u32,
    mask: u32,
    stride: u32,
    step: u32,
    one: u32,
}

/// Workgroups of walks, of chains, of matrices, and the rounds of these.
struct Amount {
    walk: u32,
    chains: u32,
    coop: u32,
    coop_rounds: u32,
}

impl Amount {
    fn of(gpu: &Gpu) -> Self {
        match gpu.info().software {
            true => Self { walk: 256, chains: 16, coop: 4, coop_rounds: 100 },
            false => Self { walk: 4096, chains: 2048, coop: 1024, coop_rounds: 2000 },
        }
    }
}

/// A kernel with its operands.
struct Dispatch<'a> {
    gpu: &'a Gpu,
    pipeline: Arc<Pipeline>,
    /// Of each dispatch of a run.
    bindings: Vec<Vec<Buffer>>,
    params: Params,
    workgroups: u32,
}

impl<'a> Dispatch<'a> {
    fn new(
        gpu: &'a Gpu,
        (name, text, context): (&str, &str, Value),
        accesses: &[Access],
        bindings: Vec<Vec<Buffer>>,
        params: Params,
        workgroups: u32,
    ) -> Result<Self> {
        let spec = PipelineSpec {
            name: format!("ceiling {name}"),
            key: context.to_string(),
            accesses: accesses.to_vec(),
            checked: false,
        };
        let pipeline = gpu.pipeline(&spec, || template::render_text(name, text, &context))?;
        Ok(Self { gpu, pipeline, bindings, params, workgroups })
    }

    fn run(&self) -> Result<()> {
        self.bindings.iter().try_for_each(|buffers| {
            let bindings: Vec<Binding> = buffers.iter().map(Binding::whole).collect();
            let params = bytemuck::bytes_of(&self.params);
            self.gpu.dispatch(
                &mut Target::Recorder,
                &self.pipeline,
                &bindings,
                params,
                [self.workgroups, 1, 1],
            )
        })
    }

    /// The last buffer of each dispatch.
    async fn results<T: Pod>(&self) -> Result<Vec<Vec<T>>> {
        let mut all = Vec::with_capacity(self.bindings.len());
        for buffers in &self.bindings {
            let buffer = buffers.last().ok_or_else(|| Error::Check { what: "no operands".into() })?;
            all.push(bytemuck::pod_collect_to_vec(&self.gpu.read(buffer).await?));
        }
        Ok(all)
    }

    /// `wrong` says what is wrong with the results, if anything is.
    fn probe<T: Pod>(
        self,
        limit: Limit,
        name: &'static str,
        amount: f64,
        wrong: impl Fn(Vec<Vec<T>>) -> Option<String> + 'a,
    ) -> Probe<'a> {
        let (dispatch, wrong) = (Arc::new(self), Arc::new(wrong));
        let run = dispatch.clone();
        Probe {
            limit,
            name,
            amount,
            run: Box::new(move || run.run()),
            check: Box::new(move || {
                let (dispatch, wrong) = (dispatch.clone(), wrong.clone());
                Box::pin(async move { Ok(wrong(dispatch.results().await?)) })
            }),
        }
    }
}

/// How threads share a walk. Devices differ in which they prefer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Order {
    /// All threads side by side, step by step.
    Together,
    /// Every workgroup a stretch of its own.
    Apart,
}

/// Reads or copies `bytes` bytes, a power of two, until `total` bytes have been.
pub(super) fn walk(gpu: &Gpu, limit: Limit, order: Order, bytes: u64, total: u64) -> Result<Probe<'_>> {
    // Walks longer than a binding are several; a copy has half of its bytes on each side.
    let copies = limit == Limit::Copy;
    let most = 1 << binding_limit(gpu).ilog2();
    let buffer_bytes = (if copies { bytes / 2 } else { bytes }).min(most);
    let parts = bytes / if copies { 2 } else { 1 } / buffer_bytes;
    let vectors = (buffer_bytes / 16) as u32;
    let workgroups = Amount::of(gpu).walk;
    let threads = workgroups * WORKGROUP;
    let per_part = total / if copies { 2 } else { 1 } / parts;
    let count = (per_part / 16 / u64::from(threads)).next_multiple_of(4) as u32;
    let (stride, step) = match order {
        Order::Together => (WORKGROUP, if threads < vectors { threads } else { SHORT_STEP }),
        Order::Apart => (WORKGROUP * count, WORKGROUP),
    };
    let params = Params { count, mask: vectors - 1, stride, step, one: 1 };
    // In either order all vectors are visited equally often.
    let visits = (u64::from(threads) * u64::from(count) / u64::from(vectors)) as u32;
    let amount = (u64::from(threads) * u64::from(count) * 16 * parts) as f64;
    let data: Vec<Vec<u64>> = (0..parts).map(|_| words(buffer_bytes as usize / 8)).collect();
    let bindings = data.iter().map(|words| {
        let x = gpu.upload_persistent(bytemuck::cast_slice(words), "a walk")?;
        let y_bytes = if copies { buffer_bytes } else { u64::from(workgroups) * 4 };
        Ok(vec![x, gpu.alloc_persistent(y_bytes, "the end of a walk")?])
    });
    let bindings = bindings.collect::<Result<Vec<_>>>()?;
    let accesses = [Access::Read, Access::ReadWrite];
    let context = json!({ "workgroup": WORKGROUP });
    if copies {
        let dispatch = Dispatch::new(gpu, ("copy", COPY, context), &accesses, bindings, params, workgroups)?;
        let wrong = move |copied: Vec<Vec<u64>>| (copied != data).then(|| "the copy differs".into());
        return Ok(dispatch.probe(limit, "copy", 2.0 * amount, wrong));
    }
    let total_of = |words: &Vec<u64>| {
        let halves: &[u32] = bytemuck::cast_slice(words);
        halves.iter().fold(0u32, |sum, word| sum.wrapping_add(*word)).wrapping_mul(visits)
    };
    let want: Vec<u32> = data.iter().map(total_of).collect();
    let dispatch = Dispatch::new(gpu, ("read", READ, context), &accesses, bindings, params, workgroups)?;
    let wrong = move |sums: Vec<Vec<u32>>| {
        let got: Vec<u32> = sums.iter().map(|s| s.iter().fold(0, |a: u32, b| a.wrapping_add(*b))).collect();
        (got != want).then(|| format!("the sums are {got:?} instead of {want:?}"))
    };
    Ok(dispatch.probe(limit, "read", amount, wrong))
}

/// A rate of arithmetic, or why there is none.
pub(super) fn arithmetic<'a>(
    gpu: &'a Gpu,
    limit: Limit,
    name: &'static str,
) -> Result<Result<Probe<'a>, String>> {
    let caps = gpu.capabilities();
    match limit {
        Limit::F16 if !caps.f16 => Ok(Err("no f16 in shaders".into())),
        Limit::F16 => Ok(Ok(chains(gpu, limit, name, "f16")?)),
        Limit::IntDot if !caps.int_dot => Ok(Err("no packed dot products in shaders".into())),
        Limit::IntDot => Ok(Ok(dots(gpu, limit, name)?)),
        Limit::CoopMatrix => match coop_size(caps) {
            Ok(sizes) => {
                let name = if sizes.0 == 16 { "coop. matrix 16x16x16" } else { "coop. matrix 8x8x8" };
                Ok(Ok(matrices(gpu, limit, name, sizes)?))
            }
            Err(why) => Ok(Err(why)),
        },
        Limit::F32 | Limit::Read | Limit::Copy => Ok(Ok(chains(gpu, limit, name, "f32")?)),
    }
}

/// A buffer per thread of the result, and the parameters of chains.
fn chain_operands(gpu: &Gpu, bytes_per_thread: u32) -> Result<(Vec<Vec<Buffer>>, Params, u32)> {
    let workgroups = Amount::of(gpu).chains;
    let bytes = u64::from(workgroups * WORKGROUP * bytes_per_thread);
    let y = gpu.alloc_persistent(bytes, "the ends of chains")?;
    Ok((vec![vec![y]], Params { count: ROUNDS, mask: 0, stride: 0, step: 0, one: 1 }, workgroups))
}

fn chain_context(float: &str) -> Value {
    json!({ "workgroup": WORKGROUP, "chains": CHAINS, "unroll": UNROLL, "float": float })
}

fn chains<'a>(gpu: &'a Gpu, limit: Limit, name: &'static str, float: &str) -> Result<Probe<'a>> {
    let (bindings, params, workgroups) = chain_operands(gpu, 16)?;
    let context = ("fma", FMA, chain_context(float));
    let dispatch = Dispatch::new(gpu, context, &[Access::ReadWrite], bindings, params, workgroups)?;
    let steps = ROUNDS * UNROLL;
    let amount = f64::from(2 * 4 * CHAINS * steps) * f64::from(workgroups * WORKGROUP);
    let wrong = move |ends: Vec<Vec<f32>>| {
        let want = |at: usize| {
            let first = (at / 4 % WORKGROUP as usize + at % 4) as u32;
            (0..CHAINS).map(|c| ((first + c) & 7) + steps).sum::<u32>() as f32
        };
        first_wrong(&ends.concat(), want)
    };
    Ok(dispatch.probe(limit, name, amount, wrong))
}

fn dots<'a>(gpu: &'a Gpu, limit: Limit, name: &'static str) -> Result<Probe<'a>> {
    let (bindings, params, workgroups) = chain_operands(gpu, 4)?;
    // Twice the chains: one has a single number where others have four.
    let mut context = chain_context("");
    context["chains"] = json!(2 * CHAINS);
    let dispatch =
        Dispatch::new(gpu, ("dot", DOT, context), &[Access::ReadWrite], bindings, params, workgroups)?;
    let steps = ROUNDS * UNROLL;
    // Four products and four sums.
    let amount = f64::from(8 * 2 * CHAINS * steps) * f64::from(workgroups * WORKGROUP);
    // The lowest byte counts, its sign comes along, one is added last.
    let end = |start: u32| (0..steps).fold(start as i32, |v, _| i32::from(v as i8) + 1);
    let ends: Vec<i32> = (0..8).map(end).collect();
    let wrong = move |found: Vec<Vec<i32>>| {
        let want = |at: usize| (0..2 * CHAINS as usize).map(|c| ends[(at + c) & 7]).sum::<i32>();
        first_wrong(&found.concat(), want)
    };
    Ok(dispatch.probe(limit, name, amount, wrong))
}

/// Where a result is not what it should be. NaN is wrong too.
fn first_wrong<T: PartialEq + std::fmt::Display + Copy>(
    got: &[T],
    want: impl Fn(usize) -> T,
) -> Option<String> {
    let at = (0..got.len()).find(|&at| got[at] != want(at))?;
    Some(format!("number {at} is {} instead of {}", got[at], want(at)))
}

/// The size of square matrices of f16 with f32 sums that WGSL has and the device lists, and the size of its subgroups.
fn coop_size(caps: &crate::gpu::Capabilities) -> Result<(u32, u32), String> {
    if caps.coop.is_empty() {
        return Err("no cooperative matrices".into());
    }
    use wgpu::CooperativeScalarType::{F16, F32};
    let fits = |size: u32| {
        let is_square = |p: &wgpu::CooperativeMatrixProperties| [p.m_size, p.n_size, p.k_size] == [size; 3];
        caps.coop.iter().any(|p| is_square(p) && p.ab_type == F16 && p.cr_type == F32)
    };
    let Some(size) = [16, 8].into_iter().find(|&size| fits(size)) else {
        return Err(
            "none of the device's shapes is 16x16x16 or 8x8x8 of f16 with f32 sums, which WGSL has".into()
        );
    };
    match Tier::of(caps).subgroup {
        _ if !caps.f16 => Err("no f16 in shaders".into()),
        0 => Err("subgroups of no fixed size".into()),
        subgroup if subgroup > COOP_WORKGROUP => Err(format!("subgroups of {subgroup}")),
        subgroup => Ok((size, subgroup)),
    }
}

fn coop_context((size, subgroup): (u32, u32)) -> Value {
    json!({ "size": size, "subgroup": subgroup, "workgroup": COOP_WORKGROUP })
}

fn matrices<'a>(gpu: &'a Gpu, limit: Limit, name: &'static str, sizes: (u32, u32)) -> Result<Probe<'a>> {
    let (size, subgroup) = sizes;
    let n = size as usize;
    let area = n * n;
    let mut rng = Random::new(7);
    let mut ones =
        |count: usize| -> Vec<i32> { (0..count * area).map(|_| rng.below(2) as i32 * 2 - 1).collect() };
    let (a, b, start) = (ones(2), ones(4), ones(8));
    let halves = |v: &[i32]| v.iter().map(|&v| f16::from_f32(v as f32)).collect::<Vec<_>>();
    let floats: Vec<f32> = start.iter().map(|&v| v as f32).collect();
    let Amount { coop: workgroups, coop_rounds: count, .. } = Amount::of(gpu);
    let bindings = vec![
        gpu.upload_persistent(bytemuck::cast_slice(&halves(&a)), "A")?,
        gpu.upload_persistent(bytemuck::cast_slice(&halves(&b)), "B")?,
        gpu.upload_persistent(bytemuck::cast_slice(&floats), "starts of sums")?,
        gpu.alloc_persistent(u64::from(PLACES) * 8 * area as u64 * 4, "sums")?,
    ];
    let accesses = [Access::Read, Access::Read, Access::Read, Access::ReadWrite];
    let params = Params { count, mask: PLACES - 1, stride: 0, step: 0, one: 1 };
    let context = ("coop", COOP, coop_context(sizes));
    let dispatch = Dispatch::new(gpu, context, &accesses, vec![bindings], params, workgroups)?;
    let subgroups = workgroups * (COOP_WORKGROUP / subgroup);
    let amount = f64::from(subgroups) * f64::from(count) * (8 * 2 * n * n * n) as f64;
    let written = subgroups.min(PLACES) as usize * 8 * area;
    let wrong = move |sums: Vec<Vec<f32>>| {
        let want = |at: usize| {
            let (tile, row, col) = (at / area % 8, at / n % n, at % n);
            let (a, b) = (&a[tile / 4 * area..], &b[tile % 4 * area..]);
            let product: i32 = (0..n).map(|k| a[row * n + k] * b[k * n + col]).sum();
            (start[at % (8 * area)] + count as i32 * product) as f32
        };
        first_wrong(&sums.concat()[..written], want)
    };
    Ok(dispatch.probe(limit, name, amount, wrong))
}

#[cfg(test)]
mod tests {
    use super::*;
    use naga::valid::{Capabilities, ValidationFlags, Validator};

    /// Every text in naga, with the features that it names and no others.
    #[test]
    fn the_templates_are_wgsl() {
        for (name, text, context, capabilities) in [
            ("read", READ, json!({ "workgroup": WORKGROUP }), Capabilities::empty()),
            ("copy", COPY, json!({ "workgroup": WORKGROUP }), Capabilities::empty()),
            ("fma", FMA, chain_context("f32"), Capabilities::empty()),
            ("fma", FMA, chain_context("f16"), Capabilities::SHADER_FLOAT16),
            ("dot", DOT, chain_context(""), Capabilities::empty()),
            (
                "coop",
                COOP,
                coop_context((8, 8)),
                Capabilities::SHADER_FLOAT16 | Capabilities::COOPERATIVE_MATRIX,
            ),
            (
                "coop",
                COOP,
                coop_context((16, 32)),
                Capabilities::SHADER_FLOAT16 | Capabilities::COOPERATIVE_MATRIX,
            ),
        ] {
            let wgsl = template::render_text(name, text, context).unwrap();
            let options = naga::front::wgsl::Options { parse_doc_comments: false, capabilities };
            let parsed = naga::front::wgsl::Frontend::new_with_options(options).parse(&wgsl);
            let module = parsed.unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&wgsl)));
            let valid = Validator::new(ValidationFlags::all(), capabilities).validate(&module);
            valid.unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&wgsl)));
        }
    }

    #[test]
    fn wrong_numbers_are_found() {
        assert_eq!(first_wrong(&[1.0, 2.0], |at| (at + 1) as f32), None);
        assert_eq!(first_wrong(&[1.0, f32::NAN], |_| 1.0).unwrap(), "number 1 is NaN instead of 1");
    }
}
