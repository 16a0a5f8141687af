//! Integer codes with a free step: what fake quantization rounds to while a network is trained.
//!
//! ```text
//! y = s(g) * q        q = steps(|x|, s, limit) with the sign of x        limit = zero(g) - first below 0, last - zero(g) above
//! ```
//!
//! `steps` is [`super::Encoder`]'s rounding, so that a trained tensor has the same codes when it is packed. x is inside the clip range where `|x| < limit * s`, a
//! single product; zero-points are integers from `first` to `last`, 0 where there are none. This file computes on no tensors.

use super::{Group, Scheme, Value, Zero};
use crate::{Error, Result};

/// The codes of a fake quantizer, and which numbers share a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// At most 0.
    pub first: i32,
    /// At least 0, above `first`.
    pub last: i32,
    pub group: Group,
}

/// How groups lie in a tensor: each is consecutive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spans {
    /// Rows of `k` numbers, cut into groups of `group`; the last of a row may be short.
    pub rows: usize,
    pub k: usize,
    pub group: usize,
    /// Groups of a row.
    pub per_row: usize,
}

impl Grid {
    /// The most codes there may be on either side of 0: integers beyond are not exact beside a half.
    pub const MOST: i32 = 1 << 16;

    /// Codes without a zero-point that reach as far up as down, or from 0 on.
    ///
    /// # Errors
    /// [`Error::Shape`] if `first` is above 0, `last` below, both are 0 or one is beyond [`Self::MOST`]; if a group is empty.
    pub fn new(first: i32, last: i32, group: Group) -> Result<Self> {
        if !(-Self::MOST..=0).contains(&first) || !(0..=Self::MOST).contains(&last) || first == last {
            let expected = format!("from -{0}..=0 to 0..={0}, two at least", Self::MOST);
            return Err(Error::shape("codes of a grid", expected, format!("{first} to {last}")));
        }
        if group == Group::Cols(0) {
            return Err(Error::shape("a group", "a column at least", 0));
        }
        Ok(Self { first, last, group })
    }

    /// The codes of a scheme: integers with a step, with a zero-point or without.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for the others.
    pub fn of(scheme: &Scheme) -> Result<Self> {
        let top = (1i32 << scheme.bits.min(16)) - 1;
        match (scheme.value, scheme.zero) {
            (Value::Linear { step: 1, offset }, Zero::None) => Self::new(-offset, top - offset, scheme.group),
            (Value::Linear { step: 1, .. }, Zero::Point) => Self::new(0, top, scheme.group),
            _ => Err(Error::unsupported(
                format!("training for {scheme}"),
                "integer codes of two bits and more are, as int2-row or int4-g32-asym",
            )),
        }
    }

    /// The groups of a tensor `[rows, k]`.
    pub fn spans(&self, rows: usize, k: usize) -> Spans {
        match self.group {
            Group::Tensor => Spans { rows: 1, k: rows * k, group: rows * k, per_row: 1 },
            Group::Row => Spans { rows, k, group: k, per_row: 1 },
            Group::Cols(g) => Spans { rows, k, group: g as usize, per_row: k.div_ceil(g as usize) },
        }
    }
}

impl Spans {
    /// Groups in all.
    pub fn count(&self) -> usize {
        self.rows * self.per_row
    }

    /// The numbers of group `i`.
    pub fn of(&self, i: usize) -> std::ops::Range<usize> {
        let (row, at) = (i / self.per_row, i % self.per_row * self.group);
        row * self.k + at..row * self.k + (at + self.group).min(self.k)
    }

    /// Numbers of the longest group.
    pub fn longest(&self) -> usize {
        self.group.min(self.k)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_of_schemes() {
        let of = |name: &str| Grid::of(&name.parse().unwrap()).map(|g| (g.first, g.last, g.group));
        assert_eq!(of("int2-row").unwrap(), (-2, 1, Group::Row));
        assert_eq!(of("int8-tensor").unwrap(), (-128, 127, Group::Tensor));
        assert_eq!(of("int4-g32-asym").unwrap(), (0, 15, Group::Cols(32)));
        for name in ["int1-g32", "nf4-g64", "f32", "int4-row-fzero"] {
            assert!(matches!(of(name), Err(Error::Unsupported { .. })), "{name}");
        }
        for (first, last) in [(1, 2), (0, 0), (-3, -1), (0, 1 << 17)] {
            assert!(matches!(Grid::new(first, last, Group::Row), Err(Error::Shape { .. })), "{first} {last}");
        }
        assert!(Grid::new(0, 1, Group::Cols(0)).is_err());
    }

    #[test]
    fn groups_cover_every_number_once() {
        for group in [Group::Tensor, Group::Row, Group::Cols(4), Group::Cols(32)] {
            let spans = Grid::new(-2, 1, group).unwrap().spans(3, 10);
            let all: Vec<usize> = (0..spans.count()).flat_map(|i| spans.of(i)).collect();
            assert_eq!(all, (0..30).collect::<Vec<_>>(), "{group:?}");
            assert!((0..spans.count()).all(|i| spans.of(i).len() <= spans.longest()), "{group:?}");
        }
    }
}
