//! Codes of a row one after the other, the error of each carried to the columns that come later.
//!
//! ```text
//! H = T D T^T (cpu::factor, columns in the order of the sweep)        w [N, K] in that order
//! block of columns, row by row:  u_j = w_j + sum over i < j of (w_i - q_i) T[i, j]    q_j = the stored value nearest to u_j
//!                                a group that begins here: scale and zero by the scheme's encoder, of u as it stands
//! columns behind the block:      u += (w - q) [rows, block] * T [block, rest], by the panel kernel of f32 products
//! ```
//!
//! Rows know nothing of each other: a task takes some of them from the first column to the last. Which columns come when, and what H is, is not known here.

use super::Ready;
use super::group::{Chosen, GroupEncoder, last_byte};
use super::search::{Iq4Table, rint};
use super::two_level::quotient;
use crate::cpu::decode::{Groups, Weights};
use crate::cpu::dot;
use crate::cpu::factor::Factor;
use crate::cpu::level::{Level, Work, vectorized};
use crate::cpu::rows::DenseRows;
use crate::packed::RowsMut;
use crate::scheme::{Encoder, Group, Method, Order, PlaneKind, Scheme, Value, Zero, codes};
use crate::threads;
use crate::{Error, PackedTensor, Result, Tensor};
use std::ops::Range;

/// Columns whose errors are added to later ones together, at most.
const BLOCK: usize = 128;
/// Rows of a task: they stay in a core's cache, and T is read once for all of them.
const ROWS: usize = 96;
/// Planes that an encoder fills besides the codes.
const NUMBERS: [PlaneKind; 5] =
    [PlaneKind::Scales, PlaneKind::Zeros, PlaneKind::SuperScales, PlaneKind::SuperMins, PlaneKind::Tables];

/// Encodes `tensor` `[.., N, K]` column by column: `order` names them as the sweep takes them, `factor` is that of H with rows and columns in this order. A
/// permuted scheme stores the columns in this order, others leave them where they are.
///
/// Scales are found before the first column. With `underway` that of a group (a super-group of two levels) is found when the sweep gets there, of the weights as they are by
/// then, unless its columns do not come one behind the other. Where T is the identity the result is that of [`super::quantize_by`], but for GGUF's own types, whose rounding divides
/// by a scale that is not the stored one.
///
/// # Errors
/// As [`super::quantize_by`]; [`Error::Shape`] for an order or a factor of another K; [`Error::Unsupported`] for plain floats.
pub fn quantize_sweeping(
    tensor: &Tensor,
    name: &str,
    scheme: &Scheme,
    method: Method,
    order: &[u32],
    underway: bool,
    factor: &Factor,
) -> Result<PackedTensor> {
    let (rows, k) = scheme.check_shape(tensor.shape())?;
    let form = method.form(scheme)?;
    if scheme.is_float() {
        return Err(Error::unsupported(format!("carrying errors to later columns in {scheme}"), ""));
    }
    if (order.len(), factor.k) != (k, k) {
        let got = format!("an order of {}, a factor of K = {}", order.len(), factor.k);
        return Err(Error::shape("order and factor", k, got));
    }
    let mut columns = order.to_vec();
    columns.sort_unstable();
    if let Some(at) = (0..k).find(|&i| columns[i] as usize != i) {
        return Err(Error::shape(
            format!("order of {k} columns"),
            "each of them once",
            format!("column {at} not once"),
        ));
    }
    let (ready, mut packed) = Ready::new(tensor, name, scheme, &form, None)?;
    let plan = Plan::new(scheme, order, underway, k);
    if scheme.is_permuted() {
        packed.set_permutation(order)?;
    }
    let mut found = None;
    if plan.scattered() {
        match scheme.order {
            Order::Natural => ready.rows(&ready.x, None, &mut packed),
            // Groups are of the columns in their order.
            Order::Permuted => ready.rows(&DenseRows::new(&in_order(&ready.x, order)?), None, &mut packed),
        }
        found = Some((levels(&packed), packed.group_tables()));
    }
    let rule = Rule::new(&ready, &packed);
    // What units share with the tensor: its tables.
    let blank = PackedTensor::zeroed(Scheme { order: Order::Natural, ..*scheme }, [1, plan.unit.min(k)])?;
    let shared = [PlaneKind::Codebook, PlaneKind::ScaleTable].map(|kind| packed.plane(kind).to_vec());
    let (ready, rule, plan, shared, blank) = (&ready, &rule, &plan, &shared, &blank);
    threads::for_each(packed.rows_mut(ROWS), rows.saturating_mul(k).saturating_mul(k), |part| {
        let range = part.range().start * plan.groups..part.range().end * plan.groups;
        let found = found.as_ref().map(|(levels, tables): &(Vec<Levels>, Vec<f32>)| {
            (&levels[range.clone()], &tables[range.start * plan.entries..range.end * plan.entries])
        });
        vectorized(SweepRows { ready, rule, plan, factor, found, shared, blank, part });
    });
    Ok(packed)
}

/// The columns of all rows in this order.
fn in_order(x: &DenseRows, order: &[u32]) -> Result<Tensor> {
    let mut all = vec![0f32; x.rows * x.k];
    let rows: Vec<_> = all.chunks_mut(x.k).enumerate().collect();
    threads::for_each_with(rows, x.rows * x.k, Vec::new, |scratch, (i, row)| {
        let x = x.row(i, scratch);
        row.iter_mut().zip(order).for_each(|(to, &column)| *to = x[column as usize]);
    });
    Tensor::from_f32([x.rows, x.k], all)
}

/// What the values of a group are made of: `scale * (value(code) - zero) + bias`.
#[derive(Clone, Copy, Default)]
struct Levels {
    scale: f32,
    zero: f32,
    bias: f32,
}

/// The levels of all groups, row by row.
fn levels(packed: &PackedTensor) -> Vec<Levels> {
    let weights = Weights::new(packed);
    let mut groups = Groups::default();
    let mut all = Vec::new();
    for row in 0..packed.matrix().0 {
        weights.groups(row, &mut groups);
        all.extend((0..weights.groups_per_row).map(|g| Levels {
            scale: groups.scale[g],
            zero: match groups.float_zero.get(g) {
                Some(zero) => *zero,
                None => (weights.offset() + groups.zero.get(g).copied().unwrap_or(0)) as f32,
            },
            bias: groups.bias.get(g).copied().unwrap_or(0.0),
        }));
    }
    all
}

/// How a code is chosen for a number, and what codes stand for.
struct Rule<'a> {
    encoder: GroupEncoder<'a>,
    nearest: Nearest,
    /// What `bias` is to the encoder: what it calls zero.
    biased: bool,
    /// `value(code)`.
    values: [f32; 256],
}

/// Who chooses.
enum Nearest {
    /// The scheme's own encoder, which compares with the stored scale.
    Encoder,
    /// Whole steps from the first code to this one.
    Steps(f32),
    Table(&'static Iq4Table),
    /// The group's own table.
    OwnTable,
}

impl<'a> Rule<'a> {
    fn new(ready: &'a Ready, packed: &PackedTensor) -> Self {
        let scheme = ready.form.scheme;
        let last = ((1u32 << scheme.bits) - 1) as f32;
        let mut values = [0.0; 256];
        match scheme.value {
            Value::Linear { step, .. } => {
                values.iter_mut().enumerate().for_each(|(code, v)| *v = (step * code as i32) as f32);
            }
            _ => values.iter_mut().zip(packed.codebook()).for_each(|(v, entry)| *v = entry),
        }
        let nearest = match scheme.encoder {
            Encoder::GgmlIq4 => Nearest::Table(Iq4Table::shared()),
            Encoder::Clusters => Nearest::OwnTable,
            Encoder::GgmlTernary => Nearest::Steps(2.0),
            Encoder::GgmlExtreme
            | Encoder::GgmlMinMax
            | Encoder::GgmlAbsmax
            | Encoder::GgmlAffine
            | Encoder::GgmlDescent
            | Encoder::GgmlSymmetric => Nearest::Steps(last),
            _ => Nearest::Encoder,
        };
        Self { encoder: ready.encoder(), nearest, biased: scheme.zero == Zero::Bias, values }
    }

    /// The code of `v` and what it stands for. `table` is the group's own, empty for other schemes.
    #[inline(always)]
    fn choose(&self, levels: &Levels, table: &[f32], v: f32) -> (u8, f32) {
        let Levels { scale, zero, bias } = *levels;
        let t = quotient(v - bias, scale);
        let code = match self.nearest {
            Nearest::Encoder => {
                // A scale that a device may take for 0 counts as one.
                let tiny = scale.abs() < f32::MIN_POSITIVE;
                let scale = if tiny { 0.0 } else { scale };
                let zero = if self.biased { bias } else { zero };
                let mut code = [0];
                self.encoder.codes(&Chosen { scale, zero, tiny, ..Chosen::default() }, &[v], &mut code);
                code[0]
            }
            Nearest::Steps(last) => last_byte(rint(t, -zero, last - zero) + zero),
            Nearest::Table(table) => table.nearest(t),
            Nearest::OwnTable => nearest_in_order(table, v),
        };
        let value = match self.nearest {
            Nearest::OwnTable => table[usize::from(code)],
            _ => scale * (self.values[usize::from(code)] - zero) + bias,
        };
        (code, value)
    }
}

/// The code of the entry of an ascending table that is nearest to `v`, as [`super::tables`] chooses it.
#[inline(always)]
fn nearest_in_order(table: &[f32], v: f32) -> u8 {
    let mut code = 0;
    for (i, pair) in table.windows(2).enumerate() {
        let middle = (pair[0] + pair[1]) * 0.5;
        let above = if middle > 0.0 { v > middle } else { v >= middle };
        // Of equal entries the lowest code.
        code = if above && pair[0] < pair[1] { i as u8 + 1 } else { code };
    }
    code
}

/// What of the columns is done when.
struct Plan<'a> {
    /// The column at each position of the sweep.
    order: &'a [u32],
    /// Where its code is stored.
    stored: Vec<usize>,
    group_len: usize,
    /// Groups of a row.
    groups: usize,
    /// Entries of a group's own table, 0 without.
    entries: usize,
    /// Columns whose scales are found together.
    unit: usize,
    blocks: Vec<Vec<Segment>>,
}

/// Consecutive positions of a block.
#[derive(Clone, Debug, PartialEq)]
struct Segment {
    range: Range<usize>,
    /// A unit that begins here: which, and how many columns it has.
    begins: Option<(usize, usize)>,
}

impl<'a> Plan<'a> {
    fn new(scheme: &Scheme, order: &'a [u32], underway: bool, k: usize) -> Self {
        let stored: Vec<usize> = match scheme.order {
            Order::Natural => order.iter().map(|&c| c as usize).collect(),
            Order::Permuted => (0..k).collect(),
        };
        let group_len = scheme.group_len(k);
        let unit = scheme.unit_len(k);
        let groups = scheme.groups_per_row(k);
        let entries = if scheme.has_group_tables() { 1 << scheme.bits } else { 0 };
        let mut plan = Self { order, stored, group_len, groups, entries, unit, blocks: Vec::new() };
        let units = plan.units(k).filter(|_| underway && scheme.group != Group::Tensor);
        match units {
            None => {
                let whole = |range| vec![Segment { range, begins: None }];
                plan.blocks = threads::ranges(k, BLOCK).into_iter().map(whole).collect();
            }
            Some(units) => {
                for (unit, at) in units {
                    plan.push(unit, at);
                }
            }
        }
        plan
    }

    /// Units and their positions in the order of the sweep, if the columns of each come one behind the other.
    fn units(&self, k: usize) -> Option<Vec<(usize, Range<usize>)>> {
        let mut units: Vec<(usize, Range<usize>)> = Vec::new();
        for (at, stored) in self.stored.iter().enumerate() {
            let unit = stored / self.unit;
            match units.last_mut() {
                Some((last, range)) if *last == unit => range.end = at + 1,
                _ => units.push((unit, at..at + 1)),
            }
        }
        (units.len() == k.div_ceil(self.unit)).then_some(units)
    }

    /// Adds a unit: to the last block if there is room for all of it, else to blocks of its own.
    fn push(&mut self, unit: usize, at: Range<usize>) {
        for (i, part) in threads::ranges(at.len(), BLOCK).into_iter().enumerate() {
            let range = at.start + part.start..at.start + part.end;
            let begins = (i == 0).then_some((unit, at.len()));
            let room = self.blocks.last().is_some_and(|block| {
                let taken: usize = block.iter().map(|s| s.range.len()).sum();
                i == 0 && taken + at.len() <= BLOCK
            });
            let segment = Segment { range, begins };
            match self.blocks.last_mut().filter(|_| room) {
                Some(block) => block.push(segment),
                None => self.blocks.push(vec![segment]),
            }
        }
    }

    /// Whether all scales are found before the first code.
    fn scattered(&self) -> bool {
        self.blocks.iter().flatten().all(|segment| segment.begins.is_none())
    }
}

struct SweepRows<'a> {
    ready: &'a Ready<'a>,
    rule: &'a Rule<'a>,
    plan: &'a Plan<'a>,
    factor: &'a Factor,
    /// Of these rows, where they are known.
    found: Option<(&'a [Levels], &'a [f32])>,
    shared: &'a [Vec<u8>; 2],
    /// A row of a unit.
    blank: &'a PackedTensor,
    part: RowsMut<'a>,
}

/// The rows of a task.
struct Rows {
    n: usize,
    k: usize,
    /// `[n, k]`, columns as the sweep takes them.
    w: Vec<f32>,
    /// The same with the errors of the columns so far, rows of `stride`.
    u: Vec<f32>,
    stride: usize,
    /// `[n, k]`, where they are stored.
    codes: Vec<u8>,
    /// `[n, groups]`
    levels: Vec<Levels>,
    /// `[n, groups, 2^bits]`, the tables of groups, in order; empty for schemes without.
    tables: Vec<f32>,
    /// w less its stored value, `[n, block]`.
    errors: Vec<f32>,
}

impl Work for SweepRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { ready, rule, plan, factor, found, shared, blank, part } = self;
        let (range, k) = (part.range(), ready.x.k);
        let n = range.len();
        let nr = dot::f32_tile(Level::best()).nr;
        // A panel's columns beyond the last one are zeros that are added to what is there.
        let stride = k + nr;
        let mut rows = Rows {
            n,
            k,
            w: vec![0.0; n * k],
            u: vec![0.0; n * stride],
            stride,
            codes: vec![0; n * k],
            levels: found
                .map_or_else(|| vec![Levels::default(); n * plan.groups], |(levels, _)| levels.to_vec()),
            tables: found
                .map_or_else(|| vec![0.0; n * plan.groups * plan.entries], |(_, tables)| tables.to_vec()),
            errors: vec![0.0; n * BLOCK],
        };
        let mut scratch = Vec::new();
        for (i, row) in range.enumerate() {
            let x = ready.x.row(row, &mut scratch);
            let w = &mut rows.w[i * k..][..k];
            w.iter_mut().zip(plan.order).for_each(|(w, &c)| *w = x[c as usize]);
            rows.u[i * stride..][..k].copy_from_slice(w);
        }
        let mut planes: Vec<_> = part.collect();
        for block in &plan.blocks {
            let of_block = block[0].range.start..block[block.len() - 1].range.end;
            for segment in block {
                if let Some((unit, len)) = segment.begins {
                    let at = segment.range.start..segment.range.start + len;
                    let sub = rows.unit(ready, plan, unit, at, shared, blank);
                    rows.keep(plan, unit, &sub, blank, &mut planes);
                }
                for i in 0..n {
                    rows.sweep(rule, plan, factor, i, segment.range.clone(), of_block.clone());
                }
            }
            rows.carry(factor, of_block);
        }
        for (planes, codes) in planes.iter_mut().zip(rows.codes.chunks(k)) {
            let [low, high, ..] = planes;
            codes::pack(ready.form.scheme.bits, codes, low, high);
        }
    }
}

impl Rows {
    /// Encodes a unit, whose columns are at these positions, as they are by now.
    fn unit(
        &self,
        ready: &Ready,
        plan: &Plan,
        unit: usize,
        at: Range<usize>,
        shared: &[Vec<u8>; 2],
        blank: &PackedTensor,
    ) -> PackedTensor {
        let (n, len) = (self.n, at.len());
        let mut x = vec![0f32; n * len];
        for (x, u) in x.chunks_mut(len).zip(self.u.chunks(self.stride)) {
            at.clone().for_each(|p| x[plan.stored[p] - unit * plan.unit] = u[p]);
        }
        let made = Tensor::from_f32([n, len], x)
            .and_then(|x| Ok((PackedTensor::zeroed(*blank.scheme(), [n, len])?, x)));
        let Ok((mut sub, x)) = made else { unreachable!("a part of a tensor whose shape was checked") };
        for (kind, bytes) in [PlaneKind::Codebook, PlaneKind::ScaleTable].into_iter().zip(shared) {
            sub.plane_mut(kind).copy_from_slice(bytes);
        }
        ready.rows(&DenseRows::new(&x), None, &mut sub);
        sub
    }

    /// Stores the scales of a unit.
    fn keep(
        &mut self,
        plan: &Plan,
        unit: usize,
        sub: &PackedTensor,
        blank: &PackedTensor,
        planes: &mut [[&mut [u8]; PlaneKind::ALL.len()]],
    ) {
        let stride = |of: &PackedTensor, kind| of.layout().plane(kind).map_or(0, |p| p.row_stride);
        for (at, kind) in PlaneKind::ALL.into_iter().enumerate().filter(|(_, kind)| NUMBERS.contains(kind)) {
            let (len, first) = (stride(sub, kind), unit * stride(blank, kind));
            if len > 0 {
                for (planes, from) in planes.iter_mut().zip(sub.plane(kind).chunks(len)) {
                    planes[at][first..first + len].copy_from_slice(from);
                }
            }
        }
        let found = levels(sub);
        let (len, first) = (found.len() / self.n, unit * (plan.unit / plan.group_len));
        for (levels, found) in self.levels.chunks_mut(plan.groups).zip(found.chunks(len)) {
            levels[first..first + len].copy_from_slice(found);
        }
        let (found, entries) = (sub.group_tables(), plan.entries);
        if entries > 0 {
            for (tables, found) in
                self.tables.chunks_mut(plan.groups * entries).zip(found.chunks(len * entries))
            {
                tables[first * entries..][..found.len()].copy_from_slice(found);
            }
        }
    }

    /// Chooses the codes of row `i` at these positions of a block.
    #[inline(always)]
    fn sweep(
        &mut self,
        rule: &Rule,
        plan: &Plan,
        factor: &Factor,
        i: usize,
        positions: Range<usize>,
        block: Range<usize>,
    ) {
        let w = &self.w[i * self.k..][..self.k];
        let u = &mut self.u[i * self.stride..][..block.end];
        let levels = &self.levels[i * plan.groups..][..plan.groups];
        let (groups, entries) = (plan.groups, plan.entries);
        let tables = &self.tables[i * groups * entries..][..groups * entries];
        let codes = &mut self.codes[i * self.k..][..self.k];
        let errors = &mut self.errors[i * BLOCK..][..BLOCK];
        for p in positions {
            let stored = plan.stored[p];
            let group = stored / plan.group_len;
            let (code, value) = rule.choose(&levels[group], &tables[group * entries..][..entries], u[p]);
            codes[stored] = code;
            let error = w[p] - value;
            errors[p - block.start] = error;
            let t = &factor.upper[p * self.k + p + 1..][..block.end - p - 1];
            u[p + 1..].iter_mut().zip(t).for_each(|(u, t)| *u += error * t);
        }
    }

    /// Adds the errors of a block to all that comes behind it.
    fn carry(&mut self, factor: &Factor, block: Range<usize>) {
        let level = Level::best();
        let dot::Tile { nr, mr } = dot::f32_tile(level);
        let len = block.len();
        let tiles = self.errors.chunks(mr * BLOCK).map(|rows| {
            let mr = rows.len() / BLOCK;
            let tile: Vec<f32> = (0..len).flat_map(|p| (0..mr).map(move |i| rows[i * BLOCK + p])).collect();
            (mr, tile)
        });
        let tiles: Vec<_> = tiles.collect();
        let mut panel = vec![0f32; len * nr];
        for first in (block.end..self.k).step_by(nr) {
            let width = nr.min(self.k - first);
            for (to, p) in panel.chunks_mut(nr).zip(block.clone()) {
                to[..width].copy_from_slice(&factor.upper[p * self.k + first..][..width]);
                to[width..].fill(0.0);
            }
            let mut at = first;
            for (mr, tile) in &tiles {
                dot::f32_panel(level, &panel, tile, *mr, &mut self.u[at..], self.stride);
                at += mr * self.stride;
            }
        }
    }
}
