//! What has to hold for every scheme, size and input: properties over random ones, from a fixed seed.
//!
//! ```text
//! names      parse <-> print                     planes     store <-> load, rows in bulk, slices of rows
//! blocks     bytes <-> planes, any bytes         encoding   error of decode(encode(x)) against the step that was chosen
//! ```

use lowbit::file::ggml;
use lowbit::reference::{dequantize, quantize, quantize_by, quantize_weighted};
use lowbit::scheme::preset::samples;
use lowbit::scheme::{Encoder, Group, Method, PlaneKind, Scale, ScaleType, Value, codes};
use lowbit::{Error, PackedTensor, Scheme, Tensor, cpu};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(0x10b17),
        failure_persistence: None,
        ..Default::default()
    }
}

/// A scheme with codes of at most 8 bits among those that `fits` picks, and a shape that it allows: odd sizes where it has no blocks.
fn scheme_and_shape(fits: fn(&Scheme) -> bool) -> impl Strategy<Value = (Scheme, usize, usize)> {
    let schemes: Vec<Scheme> = samples().into_iter().filter(|s| s.bits <= 8 && fits(s)).collect();
    (select(schemes), 1..6usize, 1..300usize).prop_map(|(s, rows, k)| match s.ggml {
        Some(kind) => (s, rows, k.div_ceil(100) * kind.block()),
        None => (s, rows, k),
    })
}

/// Mostly moderate values, some zeros of both signs, some far out and some near the bottom of f32.
fn weight() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -4.0f32..4.0,
        1 => select(vec![0.0f32, -0.0, 1.0, -1.0, 0.5]),
        1 => -60000.0f32..60000.0,
        1 => -1e-5f32..1e-5,
        1 => -1e-38f32..1e-38,
    ]
}

fn weights(n: usize) -> impl Strategy<Value = Vec<f32>> {
    prop_oneof![
        6 => prop::collection::vec(weight(), n),
        // Groups that f16 scales cannot resolve, and groups without sign changes.
        1 => prop::collection::vec(-1e-7f32..1e-7, n),
        1 => prop::collection::vec(0.5f32..0.75, n),
        1 => prop::collection::vec(-900.0f32..-1.0, n),
    ]
}

fn scheme_and_weights(fits: fn(&Scheme) -> bool) -> impl Strategy<Value = (Scheme, usize, usize, Vec<f32>)> {
    scheme_and_shape(fits).prop_flat_map(|(s, rows, k)| {
        let limit = s.limit();
        weights(rows * k)
            .prop_map(move |x| (s, rows, k, x.into_iter().map(|v| v.clamp(-limit, limit)).collect()))
    })
}

/// The tables given to schemes that learn theirs: not sorted, with a repeated entry; those of groups turn from one to the next.
fn table(scheme: &Scheme, rows: usize, k: usize) -> Option<Vec<f32>> {
    let n = 1usize << scheme.bits.min(8);
    let place = |i: usize| ((i * 7 + 3) % n.max(2)) as f32;
    // Numbers of f16, 0 among them, where there is no scale.
    let entry = |i| match scheme.value {
        Value::Tables => (place(i) - (n / 2) as f32) * 0.75,
        _ => place(i) * 0.75 - n as f32 * 0.3,
    };
    let mut one: Vec<f32> = (0..n).map(entry).collect();
    if n > 4 {
        one[4] = one[1];
    }
    match scheme.value {
        Value::Learned => Some(one),
        Value::Tables => {
            let turned = |g: usize| (0..n).map(move |i| (i + g) % n);
            Some((0..rows * scheme.groups_per_row(k)).flat_map(turned).map(|i| one[i]).collect())
        }
        _ => None,
    }
}

/// The CPU engine's weights.
fn cpu_dequantize(t: &PackedTensor) -> Vec<f32> {
    lowbit::cpu::dequantize(t, lowbit::DType::F32).to_f32().into_owned()
}

/// `quantize` with the table above.
fn encode(x: &[f32], rows: usize, k: usize, scheme: Scheme) -> PackedTensor {
    quantize(x, rows, k, scheme, table(&scheme, rows, k).as_deref()).unwrap()
}

fn f16_at(plane: &[u8], i: usize) -> f64 {
    half::f16::from_le_bytes([plane[2 * i], plane[2 * i + 1]]).to_f64()
}

/// The number of group `i` in a plane of a scheme with f32, f16 or bf16 scales.
fn number_at(t: &PackedTensor, kind: PlaneKind, i: usize) -> f64 {
    let plane = t.plane(kind);
    match t.scheme().scale {
        Scale::Direct(ScaleType::F16) => f16_at(plane, i),
        Scale::Direct(ScaleType::Bf16) => {
            half::bf16::from_le_bytes([plane[2 * i], plane[2 * i + 1]]).to_f64()
        }
        Scale::Direct(ScaleType::F32) => {
            f64::from(f32::from_le_bytes(plane[4 * i..4 * i + 4].try_into().unwrap()))
        }
        other => panic!("{other:?} has no such numbers"),
    }
}

fn scale_at(t: &PackedTensor, i: usize) -> f64 {
    number_at(t, PlaneKind::Scales, i)
}

/// How far a number `v` and the one stored for it may be apart: half a unit of the type, and the f32 operations that led to it.
/// Below 2^-100 it is 0.
fn storing(scheme: &Scheme, v: f64) -> f64 {
    let (relative, least) = match scheme.scale {
        Scale::Direct(ScaleType::F32) => (0.0, 1e-30),
        Scale::Direct(ScaleType::Bf16) => (2f64.powi(-8), 1e-30),
        _ => (2f64.powi(-11), 2f64.powi(-25)),
    };
    v.abs() * (relative + 1e-6) + least
}

/// Ranges of the groups of `[rows, k]` in x.
fn groups(scheme: &Scheme, rows: usize, k: usize) -> Vec<std::ops::Range<usize>> {
    let len = match scheme.group {
        Group::Tensor => return std::iter::once(0..rows * k).collect(),
        Group::Row => k,
        Group::Cols(g) => g as usize,
    };
    (0..rows).flat_map(|r| (0..k).step_by(len).map(move |c| r * k + c..r * k + (c + len).min(k))).collect()
}

fn extremes(x: &[f32]) -> (f64, f64, f64) {
    let (min, max) =
        x.iter().fold((0.0, 1e-30), |(lo, hi), &v| (f64::min(lo, v.into()), f64::max(hi, v.into())));
    (min, max, f64::max(-min, max))
}

/// Rounding of one product and one comparison; far below a step.
const SLACK: f64 = 1.0 + 1e-6;

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn family_names_print_back(
        family in select(vec!["int", "nf", "fp", "codebook"]),
        bits in 0..10u8,
        group in prop_oneof![
            Just("tensor".to_string()),
            Just("row".to_string()),
            (0..70_000u32).prop_map(|g| format!("g{g}")),
            (1..2_000u32).prop_map(|g| format!("g{}", 4 * g)),
        ],
        zero in select(vec!["", "-asym", "-bias", "-fzero"]),
        tables in select(vec!["", "", "", "-tables"]),
        scale in select(vec!["", "-f32", "-f16", "-bf16", "-e8m0"]),
        order in select(vec!["", "-perm"]),
        upper in any::<bool>(),
    ) {
        let default = if group.starts_with('g') || zero == "-bias" { "-f16" } else { "-f32" };
        let name = format!("{family}{bits}-{group}{zero}{tables}{scale}{order}");
        let printed = format!("{family}{bits}-{group}{zero}{tables}{}{order}", if scale == default { "" } else { scale });
        let typed = if upper { name.to_ascii_uppercase() } else { name.clone() };
        match typed.parse::<Scheme>() {
            Ok(s) => {
                prop_assert_eq!(s.to_string(), printed);
                prop_assert_eq!(s.bits, bits);
            }
            Err(e) => {
                let bad = matches!(e, Error::BadScheme { .. } | Error::UnknownScheme { .. });
                prop_assert!(bad, "{e}");
                // What the grammar allows is not refused.
                let g: Option<u32> = group.strip_prefix('g').and_then(|g| g.parse().ok());
                let group_fits = g.is_none_or(|g| g > 0 && g % 4 == 0);
                let fits = match family {
                    "codebook" if !tables.is_empty() => {
                        let saves = |g: u32| g * (16 - u32::from(bits)) > 16 << bits;
                        matches!(bits, 1..=6 | 8)
                            && (group == "row" || g.is_some_and(saves))
                            && zero.is_empty()
                            && scale.is_empty()
                    }
                    _ if !tables.is_empty() => false,
                    "int" => {
                        matches!(bits, 1..=8)
                            && !(bits == 1 && zero == "-asym")
                            && !(zero == "-bias" && scale == "-f32")
                            && scale != "-e8m0"
                    }
                    "codebook" => matches!(bits, 1..=6 | 8) && g.is_some() && zero.is_empty() && scale != "-e8m0",
                    "fp" => bits == 4 && zero.is_empty() && (scale != "-e8m0" || g.is_some()),
                    _ => bits == 4 && zero.is_empty() && scale != "-e8m0",
                };
                prop_assert!(!(fits && group_fits), "{name}: {e}");
            }
        }
    }

    #[test]
    fn any_text_is_a_scheme_or_an_error(text in "\\PC{0,24}") {
        if let Ok(s) = text.parse::<Scheme>() {
            prop_assert_eq!(s.to_string().parse::<Scheme>().unwrap(), s);
        }
    }
}

proptest! {
    #![proptest_config(config(128))]

    #[test]
    fn codes_come_back_one_by_one_and_by_rows(((scheme, rows, k), seed) in (scheme_and_shape(|_| true), any::<u32>())) {
        let code = |i: usize| {
            let mixed = (i as u32).wrapping_mul(0x9e37_79b9) ^ seed.rotate_left(i as u32 % 31);
            (mixed >> 11) as u8 & ((1u32 << scheme.bits) - 1) as u8
        };
        let mut t = PackedTensor::zeroed(scheme, [rows, k]).unwrap();
        let mut in_rows = t.clone();
        let rows_of_parts = in_rows.rows_mut(2).into_iter().flat_map(|part| part.range().zip(part));
        for (row, [low, high, ..]) in rows_of_parts {
            let of_row: Vec<u8> = (0..k).map(|col| code(row * k + col)).collect();
            for (col, &c) in of_row.iter().enumerate() {
                t.set_code(row, col, c);
            }
            codes::pack(scheme.bits, &of_row, low, high);
        }
        prop_assert_eq!(&in_rows, &t);
        let row_of = |kind, row: usize| {
            let stride = t.layout().plane(kind).map_or(0, |p| p.row_stride);
            &t.plane(kind)[row * stride..(row + 1) * stride]
        };
        let mut back = vec![[0xff; 4]; k.div_ceil(4)];
        for row in 0..rows {
            let (low, high) = (row_of(PlaneKind::CodesLow, row), row_of(PlaneKind::CodesHigh, row));
            codes::unpack(scheme.bits, low, high, &mut back);
            for (col, &read) in back.as_flattened().iter().take(k).enumerate() {
                prop_assert_eq!(t.code(row, col), u32::from(code(row * k + col)));
                prop_assert_eq!(u32::from(read), t.code(row, col));
            }
        }
    }

    #[test]
    fn any_bytes_are_blocks_or_an_error(
        scheme in select(samples()),
        rows in 0..4usize,
        k in prop_oneof![Just(256usize), 0..600usize],
        spare in -3..4i32,
        seed in any::<u64>(),
    ) {
        let len = ggml::tensor_bytes(&scheme, &[rows, k]).map_or(100, |n| n.saturating_add_signed(spare as isize));
        let mut state = seed;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(len)
        .collect();
        match ggml::unpack(scheme, &[rows, k], &bytes) {
            Err(_) => {
                let fits = scheme.ggml.is_some_and(|g| rows > 0 && k > 0 && k % g.block() == 0);
                prop_assert!(!fits || spare != 0);
            }
            Ok(t) => {
                prop_assert_eq!(spare, 0);
                prop_assert_eq!(dequantize(&t).len(), rows * k);
                let again = ggml::pack(&t).unwrap();
                if scheme.to_string() == "tq1_0" {
                    // Bytes that its encoder does not make come back canonical, with the same digits.
                    prop_assert_eq!(&ggml::unpack(scheme, &[rows, k], &again).unwrap(), &t);
                } else {
                    prop_assert_eq!(again, bytes);
                }
            }
        }
    }

    #[test]
    fn encoded_blocks_are_canonical((scheme, rows, k, x) in scheme_and_weights(|_| true)) {
        if scheme.ggml.is_some() {
            let t = encode(&x, rows, k, scheme);
            let bytes = ggml::pack(&t).unwrap();
            prop_assert_eq!(bytes.len(), ggml::tensor_bytes(&scheme, &[rows, k]).unwrap());
            let back = ggml::unpack(scheme, &[rows, k], &bytes).unwrap();
            prop_assert_eq!(&back, &t);
            prop_assert_eq!(ggml::pack(&back).unwrap(), bytes);
        }
    }

    #[test]
    fn a_slice_of_rows_decodes_to_those_rows(
        ((scheme, rows, k, x), from, to) in (scheme_and_weights(|_| true), 0..6usize, 1..7usize)
    ) {
        let range = from.min(rows - 1)..to.min(rows).max(from.min(rows - 1) + 1);
        let t = encode(&x, rows, k, scheme);
        let part = t.slice_rows(range.clone());
        prop_assert_eq!(part.shape(), &[range.len(), k]);
        let (whole, part) = (dequantize(&t), dequantize(&part));
        let same = whole[range.start * k..range.end * k].iter().zip(&part).all(|(a, b)| a.to_bits() == b.to_bits());
        prop_assert!(same && part.len() == range.len() * k, "{scheme} {range:?}");
    }

    /// Half a step, plus what the rounding of the scale to f16 cuts off at the ends.
    #[test]
    fn linear_codes_are_within_half_a_step(
        (scheme, rows, k, x) in scheme_and_weights(|s| matches!(s.encoder, Encoder::Absmax | Encoder::MinMax))
    ) {
        let (symmetric, asymmetric) = (scheme.encoder == Encoder::Absmax, scheme.encoder == Encoder::MinMax);
        let t = encode(&x, rows, k, scheme);
        let w = dequantize(&t);
        let levels = f64::from((1u32 << scheme.bits) - 1);
        let q_max = f64::from((1u32 << (scheme.bits - 1)) - 1);
        for (g, range) in groups(&scheme, rows, k).into_iter().enumerate() {
            let s = scale_at(&t, g);
            let (min, max, amax) = extremes(&x[range.clone()]);
            let wanted = if symmetric { amax / q_max } else { (max - min) / levels };
            // The scale is the one asked for, to its type's rounding: the bound below is not one that anything passes.
            prop_assert!((s - wanted).abs() <= storing(&scheme, wanted), "{scheme} {s} {wanted}");
            for i in range {
                let error = (f64::from(x[i]) - f64::from(w[i])).abs();
                let cut = if symmetric { (amax - q_max * s).max(0.0) } else { (max - min - levels * s).max(0.0) };
                let code = f64::from(t.code(i / k, i % k));
                // An integer zero-point moves the ends of the range by up to half a step more.
                let at_end = asymmetric && (code == 0.0 || code == levels);
                let half = if at_end { s } else { s / 2.0 };
                prop_assert!(error <= (half + cut) * SLACK, "{scheme} x {} w {} s {s}", x[i], w[i]);
                if asymmetric && x[i] == 0.0 {
                    prop_assert_eq!(w[i], 0.0);
                }
            }
        }
    }

    /// Half a step, plus what the rounding of scale and zero cuts off at the ends.
    #[test]
    fn codes_beside_a_bias_or_a_float_zero_are_within_half_a_step(
        (scheme, rows, k, x) in scheme_and_weights(|s| matches!(s.encoder, Encoder::MinMaxBias | Encoder::MinMaxZero))
    ) {
        let t = encode(&x, rows, k, scheme);
        let w = dequantize(&t);
        let levels = f64::from((1u32 << scheme.bits) - 1);
        for (g, range) in groups(&scheme, rows, k).into_iter().enumerate() {
            let (s, zero) = (scale_at(&t, g), number_at(&t, PlaneKind::Zeros, g));
            let (min, max, amax) = extremes(&x[range.clone()]);
            let wanted = (max - min) / levels;
            prop_assert!((s - wanted).abs() <= storing(&scheme, wanted), "{scheme} {s} {wanted}");
            // The number that code 0 stands for, and how near it has to be to the smallest weight: a zero is a multiple of 1/16.
            let low = if scheme.encoder == Encoder::MinMaxBias { zero } else { -zero * s };
            if s > 0.0 {
                let near = match scheme.encoder {
                    Encoder::MinMaxBias => storing(&scheme, min),
                    // The scale may have been rounded down so that the smallest weight is beyond all zeros.
                    _ => s / 32.0 + s * storing(&scheme, -min / s) + (-min - levels * s).max(0.0),
                };
                prop_assert!((low - min).abs() <= near + 1e-6 * amax, "{scheme} low {low} min {min} s {s}");
            }
            let cut = (low - min).max(0.0) + (max - (low + levels * s)).max(0.0);
            for i in range {
                let error = (f64::from(x[i]) - f64::from(w[i])).abs();
                prop_assert!(error <= (s / 2.0 + cut) * SLACK + 1e-6 * amax, "{scheme} x {} w {} s {s}", x[i], w[i]);
            }
        }
    }

    /// Columns in any order: the weights are those of the same planes without the order, moved.
    #[test]
    fn permuted_columns_are_moved_and_nothing_else(
        ((scheme, rows, k), seed) in (scheme_and_shape(|s| s.is_permuted()), any::<u64>())
    ) {
        let mut columns: Vec<u32> = (0..k as u32).collect();
        let mut state = seed;
        for j in (1..k).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            columns.swap(j, (state >> 33) as usize % (j + 1));
        }
        let x: Vec<f32> = (0..rows * k).map(|i| ((i * 37 + 11) % 101) as f32 / 32.0 - 1.5).collect();
        let mut t = encode(&x, rows, k, scheme);
        let natural = dequantize(&t);
        t.set_permutation(&columns).unwrap();
        let (moved, engine) = (dequantize(&t), cpu_dequantize(&t));
        for row in 0..rows {
            for (j, &c) in columns.iter().enumerate() {
                prop_assert_eq!(moved[row * k + c as usize].to_bits(), natural[row * k + j].to_bits());
            }
        }
        prop_assert!(moved.iter().zip(&engine).all(|(a, b)| a.to_bits() == b.to_bits()));
    }

    #[test]
    fn table_codes_are_the_nearest_entry(
        (scheme, rows, k, x) in scheme_and_weights(|s| s.encoder == Encoder::Nearest)
    ) {
        let t = encode(&x, rows, k, scheme);
        let table: Vec<f64> = t.codebook().iter().filter(|v| v.is_finite()).map(|&v| f64::from(v)).collect();
        let largest = table.iter().fold(0.0, |m, v| f64::max(m, v.abs()));
        let w = dequantize(&t);
        for (g, range) in groups(&scheme, rows, k).into_iter().enumerate() {
            let s = scale_at(&t, g);
            let (_, _, amax) = extremes(&x[range.clone()]);
            // A table of small entries asks for scales beyond f16, which stop at its largest.
            let most = if scheme.scale == Scale::Direct(ScaleType::F16) { 65504.0 } else { f64::INFINITY };
            let wanted = (amax / largest).min(most);
            // One scale for a table of the tensor's own is searched for.
            let searched = scheme.value == Value::Learned && scheme.group == Group::Tensor && s <= 1.126 * wanted;
            prop_assert!(searched || (s - wanted).abs() <= storing(&scheme, wanted), "{scheme} {s} {wanted}");
            for i in range {
                let v = f64::from(x[i]);
                let best = table.iter().map(|e| (v - s * e).abs()).fold(f64::INFINITY, f64::min);
                let error = (v - f64::from(w[i])).abs();
                // Where two entries are equally near to rounding, either may be taken.
                prop_assert!(error <= best + 1e-6 * s * largest, "{scheme} x {v} w {} s {s}", w[i]);
            }
        }
    }

    /// Tables that are found: codes are the nearest entries, and moving any one entry to another f16 beside it gains nothing that its rounding did not lose.
    #[test]
    fn tables_of_groups_are_the_means_of_their_codes(
        (scheme, rows, k, x) in scheme_and_weights(|s| s.has_group_tables())
    ) {
        let tensor = Tensor::from_f32([rows, k], x.clone()).unwrap();
        let t = cpu::quantize(&tensor, "x", &scheme, None).unwrap();
        let (w, tables) = (dequantize(&t), t.group_tables());
        for (g, range) in groups(&scheme, rows, k).into_iter().enumerate() {
            let table = &tables[g << scheme.bits..(g + 1) << scheme.bits];
            prop_assert!(table.windows(2).all(|pair| pair[0] <= pair[1]), "{scheme} {table:?}");
            let (mut squares, mut of_means, mut rounding) = (0.0, 0.0, 0.0);
            for (code, &entry) in table.iter().enumerate() {
                let of_code: Vec<f64> =
                    range.clone().filter(|&i| t.code(i / k, i % k) == code as u32).map(|i| x[i].into()).collect();
                let n = of_code.len() as f64;
                let mean = of_code.iter().sum::<f64>() / n.max(1.0);
                squares += of_code.iter().map(|v| (v - f64::from(entry)).powi(2)).sum::<f64>();
                of_means += of_code.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
                // Half a unit of f16, and of its subnormals.
                rounding += n * (f64::from(entry).abs() * 2f64.powi(-10) + 2f64.powi(-24)).powi(2);
            }
            // A value between two clusters may have changed sides with the rounding.
            prop_assert!(squares <= of_means * 1.01 + 4.0 * rounding, "{scheme}: {squares}, {of_means}, {rounding}");
            for i in range {
                let best = table.iter().map(|e| (f64::from(x[i]) - f64::from(*e)).abs()).fold(f64::INFINITY, f64::min);
                let error = (f64::from(x[i]) - f64::from(w[i])).abs();
                prop_assert!(error <= best * SLACK, "{scheme} x {} w {}", x[i], w[i]);
            }
        }
    }

    /// Whatever scales a search has chosen, no other code of the group would be nearer.
    #[test]
    fn codes_of_searched_super_scales_are_the_nearest(
        (scheme, rows, k, x) in scheme_and_weights(|s| s.encoder.searches() && s.encoder != Encoder::GgmlIq4)
    ) {
        let t = encode(&x, rows, k, scheme);
        let w = dequantize(&t);
        let (scales, zeros) = (t.plane(PlaneKind::Scales), t.plane(PlaneKind::Zeros));
        let affine = scheme.encoder == Encoder::GgmlAffine;
        let lowest = if affine { 0 } else { -(1 << (scheme.bits - 1)) };
        for (g, range) in groups(&scheme, rows, k).into_iter().enumerate() {
            let super_index = range.start / 256;
            let d = f16_at(t.plane(PlaneKind::SuperScales), super_index);
            let (step, min) = if affine {
                let (sub, sub_min) = if zeros.is_empty() { (scales[g] & 15, scales[g] >> 4) } else { (scales[g], zeros[g]) };
                (d * f64::from(sub), f16_at(t.plane(PlaneKind::SuperMins), super_index) * f64::from(sub_min))
            } else {
                (d * f64::from(scales[g] as i8), 0.0)
            };
            for i in range {
                let v = f64::from(x[i]);
                let errors = (lowest..lowest + (1 << scheme.bits)).map(|code| (v - (step * f64::from(code) - min)).abs());
                let best = errors.fold(f64::INFINITY, f64::min);
                let error = (v - f64::from(w[i])).abs();
                prop_assert!(error <= best * SLACK + 1e-6 * (v.abs() + min), "{scheme} x {v} w {} step {step} min {min}", w[i]);
            }
        }
    }

    #[test]
    fn importance_that_is_equal_everywhere_has_no_unit(
        (scheme, rows, k, x) in scheme_and_weights(|s| s.encoder.weighs() && !s.has_group_tables()),
        power in -20..20i32,
    ) {
        let weighted = |c: f32| quantize_weighted(&x, rows, k, scheme, &vec![c; k]).unwrap();
        // Powers of two move no rounding.
        prop_assume!(x.iter().all(|v| v.abs() > 1e-4));
        prop_assert_eq!(weighted(2f32.powi(power)), weighted(1.0));
    }

    /// The engine's sixteen groups side by side and the reference's one after the other.
    #[test]
    fn engine_and_reference_weigh_alike(
        (scheme, rows, k, x) in scheme_and_weights(|_| true),
        importance in prop::collection::vec(prop_oneof![4 => 0.0f32..4.0, 1 => Just(0.0f32), 1 => 0.0f32..1e4], 768),
    ) {
        // The reference learns no tables.
        prop_assume!(!matches!(scheme.value, Value::Learned | Value::Tables));
        let importance: Vec<f32> = importance.into_iter().cycle().take(k).collect();
        let tensor = Tensor::from_f32([rows, k], x.clone()).unwrap();
        let got = cpu::quantize_weighted(&tensor, "x", &scheme, &importance).unwrap();
        let want = quantize_weighted(&x, rows, k, scheme, &importance).unwrap();
        prop_assert!(got == want, "{scheme}");
        prop_assert!(dequantize(&got).iter().all(|v| v.is_finite()), "{scheme}");
        prop_assert!(scheme.encoder.weighs() || got == encode(&x, rows, k, scheme), "{scheme} does not weigh");
    }

    /// Candidates side by side and one after the other.
    #[test]
    fn engine_and_reference_find_alike(
        (scheme, rows, k, x) in scheme_and_weights(|s| Method::of(s).next().is_some()),
        choice in any::<prop::sample::Index>(),
    ) {
        let methods: Vec<Method> = Method::of(&scheme).collect();
        let method = methods[choice.index(methods.len())];
        let tensor = Tensor::from_f32([rows, k], x.clone()).unwrap();
        let table = table(&scheme, rows, k);
        let got = cpu::quantize_by(&tensor, "x", &scheme, method, table.as_deref()).unwrap();
        let want = quantize_by(&x, rows, k, scheme, method, table.as_deref()).unwrap();
        prop_assert!(got == want, "{scheme} by {method}");
        prop_assert!(dequantize(&got).iter().all(|v| v.is_finite()), "{scheme} by {method}");
        let zeros = vec![0.0; rows * k];
        let zeros = quantize_by(&zeros, rows, k, scheme, method, table.as_deref()).unwrap();
        prop_assert!(dequantize(&zeros).iter().all(|&v| v == 0.0), "{scheme} by {method}");
    }

    #[test]
    fn decoded_weights_are_finite_and_zeros_stay_zero((scheme, rows, k, x) in scheme_and_weights(|_| true)) {
        let t = encode(&x, rows, k, scheme);
        prop_assert!(dequantize(&t).iter().all(|v| v.is_finite()), "{scheme}");
        let zeros = encode(&vec![0.0; rows * k], rows, k, scheme);
        prop_assert!(dequantize(&zeros).iter().all(|&v| v == 0.0), "{scheme}");
    }

    #[test]
    fn what_cannot_be_held_is_refused_with_its_index(
        (scheme, rows, k, mut x) in scheme_and_weights(|_| true),
        at in any::<prop::sample::Index>(),
        bad in select(vec![f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX]),
    ) {
        let i = at.index(x.len());
        x[i] = bad;
        match quantize(&x, rows, k, scheme, table(&scheme, rows, k).as_deref()) {
            Err(Error::NotRepresentable { index, .. }) => prop_assert_eq!(index, i as u64),
            other => prop_assert!(false, "{scheme}: {other:?}"),
        }
    }
}

#[test]
fn schemes_refuse_what_they_cannot_encode() {
    let scheme = |name: &str| name.parse::<Scheme>().unwrap();
    let x = [0.5; 256];
    assert!(matches!(quantize(&x, 2, 256, scheme("q4_0"), None), Err(Error::Shape { .. })));
    assert!(matches!(quantize(&x, 1, 255, scheme("q4_0"), None), Err(Error::GroupMismatch { .. })));
    let learned = scheme("codebook2-g32");
    for table in [
        None,
        Some(&[1.0; 3][..]),
        Some(&[0.0; 4]),
        Some(&[f32::NAN, f32::INFINITY, 0.0, -0.0]),
        Some(&[1e-38; 4]),
    ] {
        assert!(matches!(quantize(&x, 1, 256, learned, table), Err(Error::Shape { .. })), "{table:?}");
    }
    assert!(quantize(&x, 1, 256, learned, Some(&[f32::NAN, -1.0, 1.0, f32::INFINITY])).is_ok());
}
