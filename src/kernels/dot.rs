//! What the products of int8 activations have in common: their specialization and parameters. See `shaders/lib/dot_*.wgsl`.
//!
//! ```text
//! y = x scale * sum_k w (q - zero of x)        w = scale * unit * (byte - (zero - fold)) + bias
//! ```
//!
//! Sums of products of bytes are exact; so are zero-points of weights, by sums of x, and of x, by sums of the weights' rows.

use super::int8::{self, DeviceInt8};
use super::product::{self, ProductSpec};
use super::{Scheme, Tier, context};
use crate::gpu::Access;
use crate::product::{Activation, Int8Group, Summation};
use crate::scheme::{Group, Value, Zero};
use bytemuck::{Pod, Zeroable};
use serde::{Serialize, Serializer};

/// Longest K whose products are summed in 32-bit integers throughout: 255 * 255 * K is below 2^31.
const MAX_WHOLE: usize = 1 << 15;

/// What the kernels for int8 activations are specialized by, beyond a product's choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DotSpec {
    pub product: ProductSpec,
    /// Values of x per scale, 0 for a row or a static one.
    pub x_group: u32,
    /// Whether x comes with scales, else its scale is a parameter.
    pub x_scales: bool,
    /// Whether x has a zero-point.
    pub x_zero: bool,
    /// Integers over all of K.
    pub whole: bool,
    /// The sums as they are: no scale of x, and none of w where they are integers.
    pub raw: bool,
}

/// Whether one scale holds for a row of weights, one for a row of x, and integers are all that is summed.
pub(super) fn is_whole(scheme: &Scheme, activation: Activation, k: usize) -> bool {
    has_row_scales(scheme) && !matches!(activation, Activation::Int8(Int8Group::Cols(_))) && k <= MAX_WHOLE
}

/// Whether one scale holds for a row of weights, its zero an integer.
pub(super) fn has_row_scales(scheme: &Scheme) -> bool {
    !matches!(scheme.group, Group::Cols(_)) && matches!(scheme.zero, Zero::None | Zero::Point)
}

impl DotSpec {
    /// Of a product of x, K long, as `activation` says.
    pub fn new(product: ProductSpec, activation: Activation, k: usize) -> Self {
        let x_group = if let Activation::Int8(Int8Group::Cols(g)) = activation { g } else { 0 };
        Self {
            product,
            x_group,
            x_scales: matches!(activation, Activation::Int8(_)),
            x_zero: int8::fixed(activation).1 != 0,
            whole: is_whole(&product.scheme, activation, k),
            raw: false,
        }
    }

    /// The same product for the sums of the weights' rows: x is 1 throughout, and nothing follows the sum.
    pub fn of_row_sums(self) -> Self {
        let product = ProductSpec {
            y_f16: false,
            y_int8: false,
            f16: false,
            function: product::Curve::Straight,
            bias: false,
            residual: false,
            ..self.product
        };
        Self { product, x_group: 0, x_scales: false, x_zero: false, raw: true, ..self }
    }

    /// Storage bindings: those of products, the sums of rows last.
    pub fn storage(&self) -> Vec<Access> {
        let mut all = self.product.storage();
        all.extend(self.x_zero.then_some(Access::Read));
        all
    }

    /// What the text needs of the device.
    pub fn needs(&self, subgroup: u32) -> Tier {
        Tier { f16: self.product.f16, subgroup, coop: 0 }
    }

    /// Specializations of a scheme on a tier that between them, over all schemes, have every pair of choices.
    pub fn samples(scheme: &Scheme, tier: Tier) -> Vec<Self> {
        use crate::product::{Accumulate, Int8Scale};
        let fixed = |zero| Int8Scale::new(1.0, zero).map(Activation::Int8Static);
        let activations = [
            Some(Activation::Int8(Int8Group::Row)),
            fixed(0).ok(),
            Some(Activation::Int8(Int8Group::Cols(32))),
            fixed(1).ok(),
            Some(Activation::Int8(Int8Group::Cols(128))),
        ];
        let mut specs = ProductSpec::samples(scheme, tier);
        specs.retain(|spec| !spec.x_f16 && spec.accumulate == Accumulate::F32);
        let mut all = Vec::new();
        for (i, spec) in specs.iter().enumerate() {
            for (j, activation) in activations.into_iter().flatten().enumerate() {
                let y_int8 = (i + j / 2) % 2 == 1;
                let y_f16 = spec.y_f16 && !y_int8;
                let product = ProductSpec { y_int8, y_f16, f16: y_f16, ..*spec };
                // Half of the pairs here, the others in the schemes beside.
                if (i + j + usize::from(scheme.bits)) % 2 == 0 {
                    continue;
                }
                all.push(Self::new(product, activation, 256));
                // Beyond what 32 bits hold.
                let long = Self::new(product, activation, MAX_WHOLE + 1);
                all.extend(Some(long).filter(|long| !all.contains(long)));
            }
        }
        all.extend(all.first().map(|spec| spec.of_row_sums()));
        all
    }
}

/// Whether there are kernels for int8 activations with this scheme.
pub fn takes(scheme: &Scheme) -> bool {
    scheme.integer_unit().is_some() && !scheme.is_permuted()
}

/// How the sums of a product are formed, one of them by `lanes` threads.
pub fn summation(scheme: &Scheme, activation: Activation, k: usize, lanes: usize) -> Summation {
    // A sum to f32, times two scales.
    if is_whole(scheme, activation, k) {
        return Summation { chain: 4, depth: 0, folded: true };
    }
    let parts = k.div_ceil(32).div_ceil(lanes) * (32 / context::sub(scheme));
    // A part: to f32, less zero times sum of x, scaled, plus the bias times sum of x, scaled; at the end sums of rows.
    Summation { chain: parts + 10, depth: lanes.ilog2() as usize, folded: true }
}

/// What the templates see as `i`.
#[derive(Serialize)]
struct Context {
    fold: i32,
    unit: f32,
    /// Whether a zero is left beside `fold`.
    zero: bool,
    /// Whether sums of x are needed.
    sums: bool,
    x_group: u32,
    x_scales: bool,
    x_zero: bool,
    whole: bool,
    raw: bool,
}

/// What is subtracted from a value to make a signed byte of it, and whether that leaves a zero.
fn fold(scheme: &Scheme) -> (i32, bool) {
    match (scheme.value, scheme.zero) {
        (Value::Linear { offset, .. }, Zero::None) => (offset, false),
        (Value::Linear { offset, .. }, Zero::Bias) if scheme.bits < 8 => (offset, false),
        (Value::Linear { .. }, _) if scheme.bits == 8 => (128, true),
        (_, zero) => (0, matches!(zero, Zero::Point | Zero::Float)),
    }
}

/// A specialization of a kernel: the choices, its shape, whether chunks of weights are read `wide` (whole) or word by word, and `i`.
pub fn serialize<S: Serializer>(
    spec: &DotSpec,
    shape: &impl Serialize,
    wide: bool,
    to: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct All<'a, T> {
        #[serde(flatten)]
        spec: &'a ProductSpec,
        #[serde(flatten)]
        shape: &'a T,
        wide: bool,
        i: Context,
    }
    let scheme = &spec.product.scheme;
    let (fold, zero) = fold(scheme);
    let biased = super::SchemeContext::from(scheme).biased;
    let &DotSpec { x_group, x_scales, x_zero, whole, raw, .. } = spec;
    let (unit, sums) = (scheme.integer_unit().unwrap_or(1.0), zero || biased);
    let i = Context { fold, unit, zero, sums, x_group, x_scales, x_zero, whole, raw };
    All { spec: &spec.product, shape, wide, i }.serialize(to)
}

/// The uniform of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Params {
    pub product: product::Params,
    pub x_row0: u32,
    pub x_stride: u32,
    pub x_scales: u32,
    pub x_groups: u32,
    pub x_zero: u32,
    pub x_scale: f32,
    pub y_row0: u32,
    pub y_stride: u32,
    pub y_zero: u32,
    pub y_scale: f32,
}

impl Params {
    /// Rows of x from `row0` on.
    pub(super) fn set_x(&mut self, x: &DeviceInt8, row0: usize) {
        let (stride, scales) = x.words();
        (self.x_row0, self.x_stride, self.x_scales) = (row0 as u32, stride / 4, scales);
        self.x_groups = x.groups() as u32;
        (self.x_scale, self.x_zero) = int8::fixed(x.activation);
    }

    /// Rows of y from `row0` on.
    pub(super) fn set_y(&mut self, y: &DeviceInt8, row0: usize) {
        (self.y_row0, self.y_stride) = (row0 as u32, y.words().0);
        (self.y_scale, self.y_zero) = int8::fixed(y.activation);
    }
}
