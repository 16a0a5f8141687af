//! HQQ with groups along the inputs (axis 1), 1 to 8 bits. Read only.
//!
//! ```text
//! X.W_q          codes of the weight seen as [out * in / group_size, group_size], packed along dimension 0: the first part of the rows
//!                in the highest bits. U8 (8, 4, 2, 1 bits) or I32 (ten of 3 bits, rows filled up)
//! X.scale, X.zero                       [out * in / group_size, 1]
//! X.nbits, X.group_size, X.axis, X.shape, X.packing (text)
//!
//! w = (code - zero) * scale             zero is no integer
//! ```
//!
//! A group that crosses rows is cut into groups that do not. Quantized scales and zeros, and groups along the outputs (axis 0), which no row can have by
//! itself, are refused.
//!
//! Source: hqq `core/quantize.py`, `core/bitpack.py`, `core/utils.py`.

use super::super::{Dtype, Model};
use super::config::Config;
use super::parts::{
    FLOATS, View, common_group, fill, group_of, modules, of_codes, scheme, source_of, two_dimensions,
};
use super::{Format, Layer};
use crate::scheme::{PlaneKind, Scheme};
use crate::{Error, PackedTensor, Result};

pub static FORMAT: Format =
    Format { name: "hqq", claims: |config| config.method() == "hqq", layers, packed, companions: &[".W_q"] };

/// Name, type, bits of a code, codes per element.
const PACKINGS: [(&str, Dtype, u32, usize); 5] = [
    ("8bit_u8", Dtype::U8, 8, 1),
    ("4bit_u8", Dtype::U8, 4, 2),
    ("3bit_32", Dtype::I32, 3, 10),
    ("2bit_u8", Dtype::U8, 2, 4),
    ("1bit_u8", Dtype::U8, 1, 8),
];

/// What a layer has besides codes, scales and zeros.
const SETTINGS: [&str; 17] = [
    ".nbits",
    ".group_size",
    ".axis",
    ".shape",
    ".packing",
    ".view_as_float",
    ".unpack_view_dtype",
    ".compute_dtype",
    ".quant_zero",
    ".quant_scale",
    ".channel_wise",
    ".optimize",
    ".round_zero",
    ".stores_quant_config",
    ".encoded_state_dict",
    ".offload_meta",
    ".initialized",
];

struct Linear<'a> {
    bits: u32,
    width: u32,
    per_element: usize,
    shape: [usize; 2],
    file_group: usize,
    group: usize,
    codes: View<'a>,
    scale: View<'a>,
    zero: View<'a>,
    scheme: Scheme,
}

impl<'a> Linear<'a> {
    fn new(config: &Config, model: &'a Model, module: &str) -> Result<Self> {
        config.check_not_listed("skip_modules", module)?;
        let number = |suffix: &str| {
            let view = View::of(model, module, suffix)?;
            Ok((view, view.number()?))
        };
        let (axis_view, axis) = number(".axis")?;
        match axis {
            1 => {}
            0 => {
                let what = format!("tensor '{}': groups along axis 0", axis_view.name);
                return Err(Error::unsupported(what, "a scale of lowbit belongs to columns of one row"));
            }
            other => return Err(axis_view.wrong("0 or 1", other)),
        }
        for suffix in [".quant_scale", ".quant_zero", ".view_as_float"] {
            if let Some(view) = View::get(model, &format!("{module}{suffix}"))
                && view.number()? != 0
            {
                return Err(view.wrong("0", view.number()?));
            }
        }
        let (bits_view, bits) = number(".nbits")?;
        let bits = u32::try_from(bits).ok().filter(|b| (1..=8).contains(b));
        let bits = bits.ok_or_else(|| bits_view.wrong("1 to 8", "others"))?;
        let packing = View::of(model, module, ".packing")?;
        let name = String::from_utf8_lossy(packing.data);
        let found = PACKINGS.iter().find(|p| p.0 == name && p.2 >= bits);
        let &(_, dtype, width, per_element) =
            found.ok_or_else(|| packing.wrong(format!("a packing of {bits} bits"), format!("{name:?}")))?;

        let shape_view = View::of(model, module, ".shape")?;
        let shape = two_dimensions(shape_view, &shape_view.integers()?)?;
        let [out, k] = shape;
        let (group_view, file_group) = number(".group_size")?;
        let n = out.checked_mul(k);
        let file_group = usize::try_from(file_group).ok().filter(|&g| g > 0);
        let file_group = file_group
            .filter(|&g| n.and_then(|n| n.checked_rem(g)) == Some(0))
            .ok_or_else(|| group_view.wrong(format!("a divisor of the size of {shape:?}"), "another"))?;
        let rows = n.and_then(|n| n.checked_div(file_group)).unwrap_or(0);
        // 3 bits are filled up; the others divide.
        if width != 3 && rows.checked_rem(per_element) != Some(0) {
            return Err(packing.wrong(format!("a packing for {rows} groups"), name));
        }
        let codes = View::of(model, module, ".W_q")?;
        let codes = codes.expect(&[dtype], &[rows.div_ceil(per_element), file_group])?;
        let scale = View::of(model, module, ".scale")?.expect(&FLOATS, &[rows, 1])?;
        let zero = View::of(model, module, ".zero")?.expect(&[scale.dtype], &[rows, 1])?;

        let group = common_group(k, file_group);
        if !group.is_multiple_of(4) {
            let what = format!("tensor '{}', groups of {file_group} in rows of {k}", codes.name);
            return Err(Error::unsupported(what, "groups of lowbit begin on multiples of 4"));
        }
        let family = format!("int{bits}");
        let scheme = scheme(&family, group_of(Some(group)), "-fzero", scale.scale_type()?, false);
        let scheme = scheme.map_err(|e| e.in_tensor(codes.name))?;
        Ok(Self { bits, width, per_element, shape, file_group, group, codes, scale, zero, scheme })
    }

    /// Elements of the file.
    fn elements(&self) -> usize {
        self.codes.shape.iter().fold(1, |n, &d| n.saturating_mul(d))
    }

    /// The codes from `first` on, in the order of the weight: those in the highest bits of all elements, then the next.
    fn codes(&self, first: usize, codes: &mut [u8]) {
        let mask = 0xffu32.wrapping_shr(8u32.saturating_sub(self.width));
        let elements = self.elements().max(1);
        let (mut part, mut at, mut left) = (first.div_euclid(elements), first.rem_euclid(elements), codes);
        while !left.is_empty() {
            let here = elements.saturating_sub(at).min(left.len());
            let (codes, rest) = left.split_at_mut(here);
            let shift =
                (self.per_element.saturating_sub(part).saturating_sub(1) as u32).wrapping_mul(self.width);
            if self.codes.dtype == Dtype::I32 {
                for (code, element) in
                    codes.iter_mut().zip(self.codes.data.as_chunks::<4>().0.iter().skip(at))
                {
                    *code = (u32::from_le_bytes(*element).wrapping_shr(shift) & mask) as u8;
                }
            } else {
                for (code, element) in codes.iter_mut().zip(self.codes.data.iter().skip(at)) {
                    *code = (u32::from(*element).wrapping_shr(shift) & mask) as u8;
                }
            }
            (part, at, left) = (part.saturating_add(1), 0, rest);
        }
    }

    /// Refuses codes of more bits than there are, which packings of more have room for.
    fn check_codes(&self) -> Result<()> {
        let [out, k] = self.shape;
        let limit = u8::MAX.wrapping_shr(8u32.saturating_sub(self.bits));
        let mut codes = vec![0; k];
        for row in 0..if self.width > self.bits { out } else { 0 } {
            self.codes(row.saturating_mul(k), &mut codes);
            if let Some(code) = codes.iter().find(|&&code| code > limit) {
                return Err(self.codes.wrong(format!("codes of {} bits", self.bits), code));
            }
        }
        Ok(())
    }

    /// The numbers of groups that may cross rows, for each group that does not.
    fn spread(&self, view: View) -> Vec<u8> {
        let size = view.data.len().checked_div(view.shape.first().copied().unwrap_or(1)).unwrap_or(1);
        let times = self.file_group.checked_div(self.group).unwrap_or(1);
        view.data
            .chunks(size.max(1))
            .flat_map(|number| std::iter::repeat_n(number, times))
            .flatten()
            .copied()
            .collect()
    }

    fn packed(&self) -> Result<PackedTensor> {
        let [_, k] = self.shape;
        self.check_codes()?;
        let mut tensor = of_codes(self.scheme, &self.shape, None, |row, codes| {
            self.codes(row.saturating_mul(k), codes);
        })?;
        fill(&mut tensor, PlaneKind::Scales, &self.spread(self.scale))?;
        fill(&mut tensor, PlaneKind::Zeros, &self.spread(self.zero))?;
        Ok(tensor)
    }
}

fn layers(config: &Config, model: &Model) -> Result<Vec<Layer>> {
    let layer = |module: &str| {
        let linear = Linear::new(config, model, module)?;
        let suffixes: Vec<&str> = [".W_q", ".scale", ".zero"].into_iter().chain(SETTINGS).collect();
        let source = source_of(linear.scale.scale_type()?);
        Ok(Layer::new(module, &linear.shape, linear.scheme, source, &suffixes))
    };
    modules(model, ".W_q").into_iter().map(layer).collect()
}

fn packed(config: &Config, model: &Model, module: &str) -> Result<PackedTensor> {
    Linear::new(config, model, module)?.packed()
}
