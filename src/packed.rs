//! A quantized tensor in host memory: scheme, shape and planes.
//!
//! ```text
//! PackedTensor { scheme, shape [.., N, K], layout, data }      data = the planes of `scheme::layout`, one buffer
//! ```
//!
//! Every length is checked once, on construction; whoever holds a `PackedTensor` may index its planes without asking
//! again. A permutation of columns is checked to be one, too, and cannot be changed afterwards: kernels index with it. This file does not
//! encode or decode: engines and the reference do.

use crate::scheme::{Layout, PlaneKind, Scheme, Value, layout};
use crate::{Error, Result, threads};
use std::ops::Range;

/// A cache line. Rows of codes begin on 16 bytes; a vector load that crosses a line costs twice, so the buffer begins on one.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// So many bytes of zeros; layouts are multiples of 256.
fn lines(bytes: usize) -> Vec<Line> {
    bytemuck::zeroed_vec(bytes.div_ceil(size_of::<Line>()))
}

/// A tensor in a low-bit scheme. Leading dimensions (experts) count as rows: the planes are those of a matrix `[rows, k]`.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedTensor {
    scheme: Scheme,
    shape: Vec<usize>,
    layout: Layout,
    data: Vec<Line>,
}

/// Consecutive rows of a tensor that is being filled: an iterator over each row's parts of the planes, in the order of [`PlaneKind::ALL`]. Empty where
/// the scheme has no such plane or all rows share it.
#[derive(Debug)]
pub struct RowsMut<'a> {
    rows: Range<usize>,
    strides: [usize; PlaneKind::ALL.len()],
    planes: [&'a mut [u8]; PlaneKind::ALL.len()],
}

impl RowsMut<'_> {
    /// The rows that are left.
    pub fn range(&self) -> Range<usize> {
        self.rows.clone()
    }
}

impl<'a> Iterator for RowsMut<'a> {
    type Item = [&'a mut [u8]; PlaneKind::ALL.len()];

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        self.rows.next()?;
        let strides = self.strides;
        let mut at = 0;
        Some(self.planes.each_mut().map(|plane| {
            let (row, rest) = std::mem::take(plane).split_at_mut(strides[at]);
            (*plane, at) = (rest, at + 1);
            row
        }))
    }
}

impl PackedTensor {
    /// A tensor of `shape` with all planes zero but a fixed codebook, and columns where they are: what an encoder fills.
    ///
    /// # Errors
    /// As [`Scheme::check_shape`].
    pub fn zeroed(scheme: Scheme, shape: impl Into<Vec<usize>>) -> Result<Self> {
        let shape = shape.into();
        let (rows, k) = scheme.check_shape(&shape)?;
        let layout = Layout::new(&scheme, rows, k);
        let mut packed = Self { data: lines(layout.len()), scheme, shape, layout };
        for (j, column) in
            packed.any_plane_mut(PlaneKind::Permutation).as_chunks_mut().0.iter_mut().enumerate()
        {
            // K fits 32 bits: `check_shape`.
            *column = (j as u32).to_le_bytes();
        }
        if let Some(entries) = scheme.codebook() {
            packed.set_codebook(entries);
        }
        Ok(packed)
    }

    /// A tensor from its planes. A fixed codebook may be left out.
    ///
    /// # Errors
    /// As [`Scheme::check_shape`]; [`Error::Plane`] if a plane is missing, doubled, not of the scheme, or of another length than the
    /// layout's; [`Error::Permutation`] if a column is missing from the permutation.
    pub fn from_planes(
        scheme: Scheme,
        shape: impl Into<Vec<usize>>,
        planes: &[(PlaneKind, &[u8])],
    ) -> Result<Self> {
        let shape = shape.into();
        let (rows, k) = scheme.check_shape(&shape)?;
        let layout = Layout::new(&scheme, rows, k);
        // All lengths before anything is allocated: a shape that lies in a file is an error and no out-of-memory.
        for kind in PlaneKind::ALL {
            let mut given = planes.iter().filter(|(k, _)| *k == kind).map(|(_, bytes)| bytes.len());
            let expected = layout.plane(kind).map_or(0, |p| p.len);
            let fixed_table = kind == PlaneKind::Codebook && scheme.codebook().is_some();
            match (given.next(), given.next()) {
                (None, _) if expected == 0 || fixed_table => {}
                (Some(got), None) if got == expected => {}
                (first, second) => {
                    return Err(Error::Plane {
                        scheme: scheme.to_string(),
                        plane: kind.name(),
                        expected,
                        got: first.unwrap_or(0) + second.unwrap_or(0),
                    });
                }
            }
        }
        let mut packed = Self::zeroed(scheme, shape)?;
        for (kind, bytes) in planes {
            packed.any_plane_mut(*kind).copy_from_slice(bytes);
        }
        packed.check_permutation()?;
        Ok(packed)
    }

    /// A tensor from a whole buffer laid out as [`Layout`] says: what an engine reads back.
    ///
    /// # Errors
    /// As [`Scheme::check_shape`]; [`Error::Shape`] if the buffer has another length; [`Error::Permutation`].
    pub fn from_data(scheme: Scheme, shape: impl Into<Vec<usize>>, data: &[u8]) -> Result<Self> {
        let shape = shape.into();
        let (rows, k) = scheme.check_shape(&shape)?;
        let layout = Layout::new(&scheme, rows, k);
        if layout.len() != data.len() {
            return Err(Error::shape(
                format!("bytes of a {scheme} tensor {shape:?}"),
                layout.len(),
                data.len(),
            ));
        }
        let mut own = lines(data.len());
        bytemuck::must_cast_slice_mut(&mut own).copy_from_slice(data);
        let packed = Self { scheme, shape, layout, data: own };
        packed.check_permutation()?;
        Ok(packed)
    }

    /// That the permutation, if there is one, names every column once.
    fn check_permutation(&self) -> Result<()> {
        let Some(permutation) = self.permutation() else { return Ok(()) };
        let (_, k) = self.matrix();
        let mut seen = vec![false; k];
        for (position, &column) in permutation.iter().enumerate() {
            let why = match seen.get_mut(column as usize) {
                None => "of which there are fewer",
                Some(true) => "which an earlier position holds",
                Some(seen) => {
                    *seen = true;
                    continue;
                }
            };
            return Err(Error::Permutation { scheme: self.scheme.to_string(), position, column, k, why });
        }
        Ok(())
    }

    /// The scheme.
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// The dimensions, outermost first; the last is K.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// `(rows, k)`: leading dimensions multiplied, and the last.
    pub fn matrix(&self) -> (usize, usize) {
        let k = self.shape.last().copied().unwrap_or(1);
        (self.shape.iter().product::<usize>() / k, k)
    }

    /// Number of weights.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Never: a zero dimension is refused on construction.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the planes lie in [`Self::data`].
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// All planes, as one buffer.
    pub fn data(&self) -> &[u8] {
        bytemuck::must_cast_slice(&self.data)
    }

    fn data_mut(&mut self) -> &mut [u8] {
        bytemuck::must_cast_slice_mut(&mut self.data)
    }

    /// The bytes of one plane; empty if the scheme has none of this kind.
    pub fn plane(&self, kind: PlaneKind) -> &[u8] {
        self.layout.plane(kind).map_or(&[], |p| &self.data()[p.offset..p.offset + p.len])
    }

    /// One plane row by row; nothing if the scheme has none of this kind or all rows share it.
    pub fn plane_rows(&self, kind: PlaneKind) -> std::slice::Chunks<'_, u8> {
        match self.layout.plane(kind).filter(|p| p.row_stride > 0) {
            Some(p) => self.plane(kind).chunks(p.row_stride),
            None => [].chunks(1),
        }
    }

    /// The bytes of one plane, to be filled; empty if the scheme has none of this kind. Not for the permutation, which is
    /// [set](Self::set_permutation) as a whole: for it, empty.
    pub fn plane_mut(&mut self, kind: PlaneKind) -> &mut [u8] {
        if kind == PlaneKind::Permutation { &mut [] } else { self.any_plane_mut(kind) }
    }

    fn any_plane_mut(&mut self, kind: PlaneKind) -> &mut [u8] {
        match self.layout.plane(kind).copied() {
            Some(p) => &mut self.data_mut()[p.offset..p.offset + p.len],
            None => &mut [],
        }
    }

    /// Several planes at once, to be filled in parallel; empty where the scheme has none, and for the permutation.
    pub fn planes_mut(&mut self) -> [&mut [u8]; PlaneKind::ALL.len()] {
        let mut rest: &mut [u8] = bytemuck::must_cast_slice_mut(&mut self.data);
        let mut at = 0;
        PlaneKind::ALL.map(|kind| match self.layout.plane(kind) {
            Some(p) => {
                let (_, tail) = std::mem::take(&mut rest).split_at_mut(p.offset - at);
                let (plane, tail) = tail.split_at_mut(p.len);
                rest = tail;
                at = p.offset + p.len;
                if kind == PlaneKind::Permutation { &mut [] } else { plane }
            }
            None => &mut [],
        })
    }

    /// All rows in parts of at most `per_part`, to be filled in parallel.
    pub fn rows_mut(&mut self, per_part: usize) -> Vec<RowsMut<'_>> {
        let (rows, _) = self.matrix();
        let strides = PlaneKind::ALL.map(|kind| self.layout.plane(kind).map_or(0, |p| p.row_stride));
        let mut planes = self.planes_mut();
        let part = |rows: Range<usize>| {
            let mut of_part = planes.iter_mut().zip(strides);
            let planes = PlaneKind::ALL.map(|_| match of_part.next() {
                Some((plane, stride)) => plane.split_off_mut(..rows.len() * stride).unwrap_or_default(),
                None => Default::default(),
            });
            RowsMut { rows, strides, planes }
        };
        threads::ranges(rows, per_part).into_iter().map(part).collect()
    }

    /// The table of a codebook scheme in code order; empty for other schemes.
    pub fn codebook(&self) -> Vec<f32> {
        let (entries, _) = self.plane(PlaneKind::Codebook).as_chunks::<4>();
        entries.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }

    /// The tables of groups, `[rows, groups, 2^bits]` in code order; empty for other schemes.
    pub fn group_tables(&self) -> Vec<f32> {
        let (entries, _) = self.plane(PlaneKind::Tables).as_chunks::<{ layout::TABLE_ENTRY }>();
        entries.iter().map(|&b| half::f16::from_le_bytes(b).to_f32()).collect()
    }

    /// What an encoder chose besides scales and codes, and takes where it is given: the table of a learned scheme, or those of all groups. None for other
    /// schemes.
    pub fn learned_tables(&self) -> Option<Vec<f32>> {
        match self.scheme.value {
            Value::Learned => Some(self.codebook()),
            Value::Tables => Some(self.group_tables()),
            _ => None,
        }
    }

    /// Stores a codebook.
    ///
    /// # Panics
    /// If `entries` does not have `2^bits` entries.
    pub fn set_codebook(&mut self, entries: &[f32]) {
        let plane = self.plane_mut(PlaneKind::Codebook);
        assert_eq!(plane.len(), entries.len() * 4, "a codebook has 2^bits entries");
        for (to, from) in plane.as_chunks_mut::<4>().0.iter_mut().zip(entries) {
            *to = from.to_le_bytes();
        }
    }

    /// The column of the weight that each stored position holds; None where columns are stored as they are.
    pub fn permutation(&self) -> Option<Vec<u32>> {
        let (columns, _) = self.plane(PlaneKind::Permutation).as_chunks::<4>();
        self.scheme.is_permuted().then(|| columns.iter().map(|&b| u32::from_le_bytes(b)).collect())
    }

    /// Stores the permutation of a permuted scheme: the column that each position holds. Codes and scales stay where they are.
    ///
    /// # Errors
    /// [`Error::Plane`] if the scheme has no permutation, or one of another length; [`Error::Permutation`] if a column is missing.
    pub fn set_permutation(&mut self, columns: &[u32]) -> Result<()> {
        let bytes: Vec<u8> = columns.iter().flat_map(|c| c.to_le_bytes()).collect();
        let before = self.plane(PlaneKind::Permutation).to_vec();
        if !self.scheme.is_permuted() || bytes.len() != before.len() {
            return Err(Error::Plane {
                scheme: self.scheme.to_string(),
                plane: PlaneKind::Permutation.name(),
                expected: before.len(),
                got: bytes.len(),
            });
        }
        self.any_plane_mut(PlaneKind::Permutation).copy_from_slice(&bytes);
        let checked = self.check_permutation();
        if checked.is_err() {
            self.any_plane_mut(PlaneKind::Permutation).copy_from_slice(&before);
        }
        checked
    }

    /// What a byte of a table-coded scale stands for, 256 numbers; empty for other schemes.
    pub fn scale_table(&self) -> Vec<f32> {
        let (entries, _) = self.plane(PlaneKind::ScaleTable).as_chunks::<4>();
        entries.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }

    /// Bits per weight by the scheme's own count; see [`Scheme::bits_per_weight`].
    pub fn bits_per_weight(&self) -> f64 {
        let (rows, k) = self.matrix();
        self.scheme.bits_per_weight(rows, k)
    }

    /// The rows `range` as a tensor `[range.len(), K]` of their own, planes together: how a weight larger than one binding is split.
    ///
    /// # Panics
    /// If the range is empty or reaches beyond the rows.
    pub fn slice_rows(&self, range: Range<usize>) -> Self {
        let (rows, k) = self.matrix();
        assert!(!range.is_empty() && range.end <= rows, "rows {range:?} of {rows}");
        let layout = Layout::new(&self.scheme, range.len(), k);
        let mut data = lines(layout.len());
        let bytes: &mut [u8] = bytemuck::must_cast_slice_mut(&mut data);
        for (from, to) in self.layout.planes().iter().zip(layout.planes()) {
            let start = from.offset + range.start * from.row_stride;
            bytes[to.offset..to.offset + to.len].copy_from_slice(&self.data()[start..start + to.len]);
        }
        Self { scheme: self.scheme, shape: vec![range.len(), k], layout, data }
    }

    /// Puts the rows of `part` at `row..`: the inverse of [`Self::slice_rows`]. What rows share (tables, the permutation) becomes the part's.
    ///
    /// # Panics
    /// If `part` has another scheme or K, or reaches beyond the rows.
    pub fn write_rows(&mut self, row: usize, part: &Self) {
        let ((rows, k), (part_rows, part_k)) = (self.matrix(), part.matrix());
        assert!(
            self.scheme == part.scheme && k == part_k && row + part_rows <= rows,
            "rows of another tensor"
        );
        let bytes: &mut [u8] = bytemuck::must_cast_slice_mut(&mut self.data);
        for (to, from) in self.layout.planes().iter().zip(part.layout.planes()) {
            let start = to.offset + row * to.row_stride;
            bytes[start..start + from.len].copy_from_slice(&part.data()[from.offset..from.offset + from.len]);
        }
    }

    /// The tensor whose row `i` is this one's row `order[i]`.
    ///
    /// # Panics
    /// If `order` has not as many entries as there are rows, or one that is no row.
    pub fn reorder_rows(&self, order: &[usize]) -> Self {
        let (rows, _) = self.matrix();
        assert_eq!(rows, order.len(), "an order of the rows");
        let mut made = self.clone();
        let bytes: &mut [u8] = bytemuck::must_cast_slice_mut(&mut made.data);
        for plane in self.layout.planes().iter().filter(|p| p.row_stride > 0) {
            let (from, stride) = (self.plane(plane.kind), plane.row_stride);
            let to = &mut bytes[plane.offset..plane.offset + plane.len];
            for (to, &row) in to.chunks_mut(stride).zip(order) {
                to.copy_from_slice(&from[row * stride..][..stride]);
            }
        }
        made
    }

    /// The code of row `row` at the stored position `col` (the column itself but in permuted schemes). Slow and simple: for transcoders, tests and tools, not for products.
    pub fn code(&self, row: usize, col: usize) -> u32 {
        let (low, high) = layout::code_widths(self.scheme.bits);
        let at = |kind, width| {
            let stride = self.layout.plane(kind).map_or(0, |p| p.row_stride);
            let (byte, bit) = layout::code_position(col, width);
            let bytes = &self.plane(kind)[row * stride + byte..];
            match width {
                32 => u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
                16 => u32::from(u16::from_le_bytes([bytes[0], bytes[1]])),
                _ => (u32::from(bytes[0]) >> bit) & ((1 << width) - 1),
            }
        };
        let value = at(PlaneKind::CodesLow, low);
        if high == 0 { value } else { value | at(PlaneKind::CodesHigh, high) << low }
    }

    /// Stores the code of row `row` at the stored position `col`, at most 8 bits wide, where the bits are still zero. Slow and simple, as [`Self::code`].
    pub fn set_code(&mut self, row: usize, col: usize, code: u8) {
        let (low, high) = layout::code_widths(self.scheme.bits);
        for (kind, width, code) in [
            (PlaneKind::CodesLow, low, u32::from(code)),
            (PlaneKind::CodesHigh, high, u32::from(code) >> low.min(8)),
        ] {
            if width == 0 {
                continue;
            }
            let stride = self.layout.plane(kind).map_or(0, |p| p.row_stride);
            let (byte, bit) = layout::code_position(col, width);
            let mask = ((1u32 << width) - 1) as u8;
            let at = &mut self.plane_mut(kind)[row * stride + byte];
            *at = (*at & !(mask << bit)) | (((code as u8) & mask) << bit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheme::preset::samples;

    fn codes_of(scheme: &Scheme) -> u32 {
        if scheme.bits >= 16 { 0 } else { 1 << scheme.bits }
    }

    #[test]
    fn codes_come_back_and_planes_do_not_overlap() {
        for scheme in samples().into_iter().filter(|s| s.bits <= 8) {
            let k = if scheme.ggml.is_some() { 512 } else { 77 };
            let mut p = PackedTensor::zeroed(scheme, [3, k]).unwrap();
            let code = |r: usize, c: usize| ((r * 131 + c * 37 + c / 7) as u32 % codes_of(&scheme)) as u8;
            for r in 0..3 {
                for c in 0..k {
                    p.set_code(r, c, code(r, c));
                }
            }
            let others = p.plane(PlaneKind::Scales).iter().chain(p.plane(PlaneKind::Zeros)).all(|&b| b == 0);
            assert!(others, "{scheme}");
            for r in 0..3 {
                for c in 0..k {
                    assert_eq!(p.code(r, c), u32::from(code(r, c)), "{scheme} {r} {c}");
                }
            }
        }
    }

    #[test]
    fn planes_are_checked() {
        let s: Scheme = "q4_1".parse().unwrap();
        let p = PackedTensor::zeroed(s, [4, 64]).unwrap();
        let planes: Vec<_> =
            PlaneKind::ALL.iter().map(|&k| (k, p.plane(k))).filter(|(_, b)| !b.is_empty()).collect();
        assert_eq!(planes.len(), 3);
        assert_eq!(PackedTensor::from_planes(s, [4, 64], &planes).unwrap(), p);
        for missing in 0..3 {
            let mut fewer = planes.clone();
            fewer.remove(missing);
            assert!(matches!(PackedTensor::from_planes(s, [4, 64], &fewer), Err(Error::Plane { .. })));
        }
        let mut doubled = planes.clone();
        doubled.push(planes[0]);
        assert!(matches!(PackedTensor::from_planes(s, [4, 64], &doubled), Err(Error::Plane { .. })));
        let mut foreign = planes.clone();
        foreign.push((PlaneKind::SuperMins, &[0; 4]));
        assert!(matches!(PackedTensor::from_planes(s, [4, 64], &foreign), Err(Error::Plane { .. })));
        assert!(matches!(PackedTensor::from_planes(s, [5, 64], &planes), Err(Error::Plane { .. })));
    }

    #[test]
    fn permutations_are_checked() {
        let s: Scheme = "int4-g32-perm".parse().unwrap();
        let mut p = PackedTensor::zeroed(s, [2, 6]).unwrap();
        assert_eq!(p.permutation().unwrap(), [0, 1, 2, 3, 4, 5]);
        p.set_permutation(&[5, 0, 4, 1, 3, 2]).unwrap();
        let planes: Vec<_> =
            PlaneKind::ALL.iter().map(|&k| (k, p.plane(k))).filter(|(_, b)| !b.is_empty()).collect();
        assert_eq!(PackedTensor::from_planes(s, [2, 6], &planes).unwrap(), p);
        assert_eq!(PackedTensor::from_data(s, [2, 6], p.data()).unwrap(), p);
        let without: Vec<_> = planes.iter().copied().filter(|p| p.0 != PlaneKind::Permutation).collect();
        assert!(matches!(PackedTensor::from_planes(s, [2, 6], &without), Err(Error::Plane { .. })));
        // A column twice, one that does not exist, too few.
        for (bad, at) in [([5, 0, 4, 1, 4, 2], 4), ([6, 0, 4, 1, 3, 2], 0), ([0, 1, 2, 3, 4, u32::MAX], 5)] {
            let bytes: Vec<u8> = bad.iter().flat_map(|c: &u32| c.to_le_bytes()).collect();
            let mut given = without.clone();
            given.push((PlaneKind::Permutation, &bytes));
            let mut data = p.data().to_vec();
            let offset = p.layout().plane(PlaneKind::Permutation).unwrap().offset;
            data[offset..offset + 24].copy_from_slice(&bytes);
            for result in [
                PackedTensor::from_planes(s, [2, 6], &given).map(|_| ()),
                PackedTensor::from_data(s, [2, 6], &data).map(|_| ()),
                p.clone().set_permutation(&bad),
            ] {
                assert!(
                    matches!(result, Err(Error::Permutation { position, .. }) if position == at),
                    "{result:?}"
                );
            }
        }
        let mut refused = p.clone();
        assert!(refused.set_permutation(&[0; 6]).is_err() && refused == p);
        assert!(matches!(refused.set_permutation(&[0, 1]), Err(Error::Plane { .. })));
        assert!(refused.plane_mut(PlaneKind::Permutation).is_empty());
        let mut natural = PackedTensor::zeroed("int4-g32".parse().unwrap(), [2, 6]).unwrap();
        assert!(matches!(natural.set_permutation(&[0, 1, 2, 3, 4, 5]), Err(Error::Plane { .. })));
        assert_eq!(natural.permutation(), None);
    }

    #[test]
    fn row_slices_keep_their_planes() {
        for scheme in samples().into_iter().filter(|s| s.bits <= 8) {
            let k = if scheme.ggml.is_some() { 256 } else { 52 };
            let mut p = PackedTensor::zeroed(scheme, [2, 3, k]).unwrap();
            if scheme.is_permuted() {
                p.set_permutation(&(0..k as u32).rev().collect::<Vec<_>>()).unwrap();
            }
            for (i, plane) in p.planes_mut().into_iter().enumerate() {
                plane.iter_mut().enumerate().for_each(|(j, b)| *b = (i * 31 + j * 7) as u8);
            }
            let part = p.slice_rows(2..5);
            let mut again = p.clone();
            again.write_rows(0, &p.slice_rows(3..6));
            again.write_rows(3, &p.slice_rows(3..6));
            again.write_rows(0, &p.slice_rows(0..3));
            assert_eq!(again, p);
            assert_eq!(part.shape(), &[3, k]);
            for r in 0..3 {
                assert_eq!(part.code(r, k - 1), p.code(r + 2, k - 1), "{scheme}");
            }
            assert_eq!(part.codebook().len(), p.codebook().len());
            assert_eq!(part.permutation(), p.permutation());
            assert_eq!(part.scale_table().len(), p.scale_table().len());
            if let Some(plane) = p.layout().plane(PlaneKind::Scales).filter(|p| p.row_stride > 0) {
                let start = 2 * plane.row_stride;
                assert_eq!(
                    part.plane(PlaneKind::Scales),
                    &p.plane(PlaneKind::Scales)[start..start + 3 * plane.row_stride]
                );
            }
        }
    }
}
